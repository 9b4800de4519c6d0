//! Processing time: the wall clock in production, TestStream's in tests.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::time::Timestamp;

/// Tells processing time, in milliseconds since the Unix epoch.
pub trait Clock: Send + Sync {
    /// What time it is.
    fn now(&self) -> Timestamp;

    /// How long to wait, by the wall, until this clock shows `due`: zero if it does already, `None` if it moves only
    /// when told to.
    fn wait(&self, due: Timestamp) -> Option<Duration>;

    /// When a timer that an SDK set for `due`, by its own clock, is due by this one.
    fn of_sdk(&self, due: Timestamp) -> Timestamp;

    /// How many milliseconds after an element came everything is here that was sent with it, the watermark too:
    /// synchronized processing time lags behind this clock by so much.
    fn settling(&self) -> i64;
}

/// The watermark that an upstream operator moves when it has sent a pane takes a few rounds of the workers to get here,
/// each well below a millisecond. A pipeline that waits for processing time does not notice.
const SETTLING: i64 = 10;

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        // A clock before 1970 is a machine's fault that nothing here could mend.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX).min(Timestamp::MAX.0))
    }

    fn wait(&self, due: Timestamp) -> Option<Duration> {
        Some(Duration::from_millis(due.0.saturating_sub(self.now().0).max(0).unsigned_abs()))
    }

    fn of_sdk(&self, due: Timestamp) -> Timestamp {
        due
    }

    fn settling(&self) -> i64 {
        SETTLING
    }
}

/// A clock that stands still until it is moved: that of a pipeline with a TestStream.
///
/// SDKs reckon timers from the wall clock of their own process, so [`Clock::of_sdk`] keeps of such a time only how far
/// ahead of the wall it lies.
#[derive(Debug)]
pub struct TestClock(AtomicI64);

impl Default for TestClock {
    fn default() -> Self {
        TestClock(AtomicI64::new(WallClock.now().0))
    }
}

impl TestClock {
    /// Moves the clock on by `by` milliseconds, not further than [`Timestamp::MAX`].
    pub fn advance(&self, by: i64) {
        let moved = |now: i64| Some(now.saturating_add(by.max(0)).min(Timestamp::MAX.0));
        // The closure always gives a value, so this never fails.
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, moved);
    }

    /// Moves the clock on to `to`, if that is later.
    pub fn advance_to(&self, to: Timestamp) {
        self.0.fetch_max(to.0, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    fn wait(&self, due: Timestamp) -> Option<Duration> {
        (due <= self.now()).then_some(Duration::ZERO)
    }

    fn of_sdk(&self, due: Timestamp) -> Timestamp {
        let ahead = due.0.saturating_sub(WallClock.now().0);
        Timestamp(self.now().0.saturating_add(ahead).min(Timestamp::MAX.0))
    }

    /// A clock that stands still would never get past an arrival.
    fn settling(&self) -> i64 {
        0
    }
}
