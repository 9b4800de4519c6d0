//! How long a checkpoint has waited for an operator.

use std::time::Instant;

use super::Job;
use super::alarm::Alarm;

/// Of an operator whose input has left the epoch that it works on, in a job that takes checkpoints.
#[derive(Debug, Default)]
pub(crate) struct BorderWait {
    since: Option<Instant>,
}

impl BorderWait {
    /// The operator works on `epoch`, and its input has come to `reached`. True once what it has not begun is to go over
    /// the border ([`super::Settings::carry_over_after`]); until then `alarm` is set to that time.
    pub(crate) fn is_too_long(&mut self, job: &Job, epoch: u64, reached: u64, alarm: &mut Alarm) -> bool {
        if !job.checkpoints.are_on() || reached <= epoch {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let left = job.settings.carry_over_after.saturating_sub(since.elapsed());
        if !left.is_zero() {
            alarm.set(left);
        }
        left.is_zero()
    }

    /// Whether what has begun and not ended is to go over the border, too.
    pub(crate) fn is_over(&self, job: &Job) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= job.settings.carry_over_after)
    }

    /// Whether a checkpoint waits.
    pub(crate) fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// The operator has stepped over the border.
    pub(crate) fn end(&mut self) {
        self.since = None;
    }
}
