//! What a job asked of its checkpoints, with Flink's meaning and defaults.

use std::num::{NonZeroU64, NonZeroUsize};

use crate::options::CheckpointOptions;

/// Flink's `execution.checkpointing.timeout`.
const TIMEOUT: u64 = 10 * 60 * 1000;
/// Less than this is taken for this: so does Flink (`MINIMAL_CHECKPOINT_TIME`).
const LEAST: u64 = 10;

/// How often checkpoints are taken, and how much may go wrong. Times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervisor) struct Settings {
    /// From the begin of one checkpoint to the begin of the next.
    pub(in crate::supervisor) interval: u64,
    /// How long one may take, its manifest included.
    pub(super) timeout: u64,
    /// From the end of one to the begin of the next.
    pub(super) min_pause: u64,
    /// How many may fail one after the other before the job does; `None`: any number.
    pub(super) tolerated: Option<u32>,
    /// How many are kept.
    pub(super) retained: NonZeroUsize,
}

impl Settings {
    /// The settings of a job that wants checkpoints; with what is to be said about them.
    pub(in crate::supervisor) fn new(asked: &CheckpointOptions) -> (Settings, Vec<String>) {
        let mut remarks = Vec::new();
        if asked.concurrent.is_some_and(|concurrent| concurrent.get() > 1) {
            remarks.push(
                "num_concurrent_checkpoints means 1: a checkpoint begins when the one before it has ended".to_owned(),
            );
        }
        let interval = asked.interval.get().max(LEAST);
        if interval != asked.interval.get() {
            remarks.push(format!("checkpointing_interval means {LEAST}: the least interval in milliseconds"));
        }
        let settings = Settings {
            interval,
            timeout: asked.timeout.map_or(TIMEOUT, NonZeroU64::get).max(LEAST),
            min_pause: asked.min_pause.unwrap_or(0),
            tolerated: asked.fail_on_errors.then_some(0),
            retained: asked.retained,
        };
        (settings, remarks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(interval: u64) -> CheckpointOptions {
        CheckpointOptions::every(NonZeroU64::new(interval).expect("not zero"))
    }

    #[test]
    fn what_is_not_asked_is_as_in_flink_but_that_two_are_kept() {
        let (settings, remarks) = Settings::new(&asked(5000));
        let expected = Settings {
            interval: 5000,
            timeout: 600_000,
            min_pause: 0,
            tolerated: Some(0),
            retained: NonZeroUsize::new(2).expect("not zero"),
        };
        assert_eq!((settings, remarks), (expected, vec![]));
    }

    #[test]
    fn what_is_asked_is_done_or_told() {
        let options = CheckpointOptions {
            timeout: NonZeroU64::new(7000),
            min_pause: Some(300),
            concurrent: NonZeroU64::new(4),
            fail_on_errors: false,
            retained: NonZeroUsize::new(3).expect("not zero"),
            ..asked(1)
        };
        let (settings, remarks) = Settings::new(&options);
        let expected =
            Settings { interval: 10, timeout: 7000, min_pause: 300, tolerated: None, retained: options.retained };
        assert_eq!(settings, expected);
        assert_eq!(remarks.len(), 2, "{remarks:?}");
        assert!(remarks[0].contains("num_concurrent_checkpoints") && remarks[1].contains("checkpointing_interval"));
    }
}
