//! How much of its input a bundle takes, and how many bundles run side by side.

use std::time::Duration;

use super::super::Settings;
use super::super::bundle_times::BundleTimes;

/// Elements that take longer on the average stand for much work each, or wait for something.
pub(super) const SLOW: Duration = Duration::from_secs(1);
/// Bundles of such elements that a worker keeps open, each with one. They cost little but a thread of the harness;
/// environments that want fewer have a limit of their own.
const SLOW_BUNDLES: usize = 32;

/// While elements are slow, one bundle of so many has two: the time of one alone does not say whether it is the element or
/// the bundle that takes it. One that is slow leaves the other to be handed back.
const PROBE: usize = 8;

/// What is known of the elements of a stage.
#[derive(Debug, Default)]
pub(super) struct Pace {
    pub(super) splittable: bool,
    times: BundleTimes,
    /// Elements are slow.
    slow: bool,
    /// Bundles that ended.
    ended: usize,
}

impl Pace {
    pub(super) fn new(splittable: bool) -> Pace {
        Pace { splittable, ..Pace::default() }
    }

    /// A bundle of so many elements took that long.
    pub(super) fn took(&mut self, elements: usize, took: Duration) {
        if !self.splittable && elements > 0 {
            self.ended = self.ended.wrapping_add(1);
            self.times.took(elements, took);
            self.slow = self.times.of_element() >= SLOW;
        }
    }

    /// A bundle handed back what waited behind an element: ordinary ones are only asked for where one takes long.
    pub(super) fn handed_back(&mut self) {
        self.slow |= !self.splittable;
    }

    /// How many bundles may be open, where `limit` keep the harnesses busy.
    pub(super) fn slots(&self, limit: usize) -> usize {
        if self.slow { limit.max(SLOW_BUNDLES) } else { limit }
    }

    /// How many of `queued` elements the next bundle takes when `slots` bundles may run side by side. Splittable elements
    /// stand for much work each and are spread; ordinary elements are shared out only when every slot gets a good number.
    pub(super) fn bundle(&self, queued: usize, slots: usize, settings: &Settings) -> usize {
        const WORTH_SHARING: usize = 1000;
        let elements = if self.slow {
            1 + usize::from(self.ended.is_multiple_of(PROBE))
        } else if self.splittable {
            queued.div_ceil(2 * slots)
        } else if queued >= WORTH_SHARING * slots {
            queued.div_ceil(slots)
        } else {
            queued
        };
        elements.max(1).min(settings.max_bundle_elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the last of so many bundles, each of which takes what `time` says of its elements.
    fn last(bundles: usize, time: impl Fn(usize) -> f64) -> (usize, Pace) {
        let mut pace = Pace::new(false);
        let mut size = 0;
        for _ in 0..bundles {
            size = pace.bundle(50, 4, &Settings::default());
            pace.took(size, Duration::from_secs_f64(time(size)));
        }
        (size, pace)
    }

    #[test]
    fn slow_elements_run_side_by_side() {
        let (size, pace) = last(21, |elements| 3.0 * elements as f64);
        assert_eq!((size, pace.slots(4)), (1, SLOW_BUNDLES));
    }

    #[test]
    fn a_bundle_that_is_slow_to_end_says_nothing_of_its_elements() {
        let (size, pace) = last(40, |elements| 1.5 + 0.001 * elements as f64);
        assert_eq!((size, pace.slots(4)), (50, 4));
        // Also where the first came one at a time.
        let mut pace = Pace::new(false);
        for _ in 0..100 {
            let size = pace.bundle(50, 32, &Settings::default()).min(2);
            pace.took(size, Duration::from_secs_f64(1.5));
        }
        assert!(!pace.slow);
    }
}
