//! Residuals that the SDK asked to resume after a pause.

use std::time::{Duration, Instant};

use crate::element::Batch;
use crate::time::Moment;

/// A residual that waits for its time.
pub(super) struct Paused {
    pub(super) due: Instant,
    /// Where it is held.
    pub(super) moment: Moment,
    pub(super) element: Batch,
}

/// See the module.
#[derive(Default)]
pub(super) struct Pauses(Vec<Paused>);

impl Pauses {
    pub(super) fn add(&mut self, paused: Paused) {
        self.0.push(paused);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes those whose time has come.
    pub(super) fn due(&mut self) -> Vec<Paused> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        self.0.extract_if(.., |paused| paused.due <= now).collect()
    }

    /// Takes all.
    pub(super) fn take(&mut self) -> Vec<Paused> {
        std::mem::take(&mut self.0)
    }

    /// Those that wait go with `epoch`, if they are held at an earlier one.
    pub(super) fn move_on(&mut self, epoch: u64) {
        for paused in &mut self.0 {
            paused.moment.epoch = paused.moment.epoch.max(epoch);
        }
    }

    /// How long until the next is due.
    pub(super) fn next(&self) -> Option<Duration> {
        let due = self.0.iter().map(|paused| paused.due).min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Paused> {
        self.0.iter()
    }

    /// The moments that they must be held at.
    pub(super) fn moments(&self) -> impl Iterator<Item = Moment> + '_ {
        self.0.iter().map(|paused| paused.moment)
    }
}
