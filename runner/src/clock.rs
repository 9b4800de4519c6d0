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
/// What the SDK calls now is one of two things, and [`Clock::of_sdk`] takes a timer's time by the one to which it is
/// nearer:
///
/// - The wall clock of its own process. Python, Java and Go reckon so when a timer is set by an offset, and Python's
///   transforms when the user gives them no clock. Of such a time counts only how far ahead of the wall it lies.
/// - How far the TestStream has moved processing time, as if that had begun at 0: a test with a clock of its own that
///   stands at 0, or goes with the TestStream's events, sets timers at times of that clock.
///
/// Half-way between the two is 1998 for a TestStream that has not moved time by years, so neither is taken for the other
/// but by a clock that shows some third time. That one's timers are due at once if it shows a past one.
#[derive(Debug)]
pub struct TestClock {
    began: i64,
    now: AtomicI64,
}

impl Default for TestClock {
    fn default() -> Self {
        let now = WallClock.now().0;
        TestClock { began: now, now: AtomicI64::new(now) }
    }
}

impl TestClock {
    /// Moves the clock on by `by` milliseconds, not further than [`Timestamp::MAX`].
    pub fn advance(&self, by: i64) {
        let moved = |now: i64| Some(now.saturating_add(by.max(0)).min(Timestamp::MAX.0));
        // The closure always gives a value, so this never fails.
        let _ = self.now.fetch_update(Ordering::SeqCst, Ordering::SeqCst, moved);
    }

    /// Moves the clock on to `to`, if that is later.
    pub fn advance_to(&self, to: Timestamp) {
        self.now.fetch_max(to.0, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::SeqCst))
    }

    fn wait(&self, due: Timestamp) -> Option<Duration> {
        (due <= self.now()).then_some(Duration::ZERO)
    }

    fn of_sdk(&self, due: Timestamp) -> Timestamp {
        let now = self.now().0;
        let (by_the_wall, by_the_stream) = (WallClock.now().0, now.saturating_sub(self.began));
        let nearer_to_the_stream = due.0.abs_diff(by_the_stream) < due.0.abs_diff(by_the_wall);
        let sdk_now = if nearer_to_the_stream { by_the_stream } else { by_the_wall };
        let ahead = due.0.saturating_sub(sdk_now);
        Timestamp(now.saturating_add(ahead).clamp(Timestamp::MIN.0, Timestamp::MAX.0))
    }

    /// A clock that stands still would never get past an arrival.
    fn settling(&self) -> i64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1000;
    const YEAR: i64 = 365 * 24 * 3600 * SECOND;

    /// How far ahead of `clock` a timer for `due` lies, to the second: the wall goes on meanwhile.
    fn ahead(clock: &TestClock, due: i64) -> i64 {
        let ahead = clock.of_sdk(Timestamp(due)).0 - clock.now().0;
        (ahead as f64 / SECOND as f64).round() as i64
    }

    #[test]
    fn a_timer_by_the_wall_is_as_far_ahead_as_it_is_there() {
        for moved in [0, 100 * SECOND, YEAR, 20 * YEAR] {
            let clock = TestClock::default();
            clock.advance(moved);
            let wall = WallClock.now().0;
            assert_eq!(ahead(&clock, wall + 42 * SECOND), 42, "after {moved} ms");
            assert_eq!(ahead(&clock, wall - 5 * SECOND), -5);
            assert_eq!(ahead(&clock, wall + 10 * YEAR), 10 * YEAR / SECOND);
        }
    }

    #[test]
    fn a_timer_by_a_clock_that_begins_at_zero_is_due_when_the_stream_has_moved_so_far() {
        for moved in [0, 10 * SECOND, 100 * SECOND, YEAR, 20 * YEAR] {
            let clock = TestClock::default();
            clock.advance(moved);
            for due in [0, 42 * SECOND, moved, moved + 42 * SECOND, -SECOND] {
                let ahead = clock.of_sdk(Timestamp(due)).0 - clock.now().0;
                assert_eq!(ahead, due - moved, "due at {due} ms, after {moved} ms");
            }
        }
    }

    #[test]
    fn no_time_is_out_of_range() {
        let clock = TestClock::default();
        assert_eq!(clock.of_sdk(Timestamp(i64::MAX)), Timestamp::MAX);
        assert_eq!(clock.of_sdk(Timestamp(i64::MIN)), Timestamp::MIN);
    }
}
