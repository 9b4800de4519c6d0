//! How much of its input a bundle takes, and how many bundles run side by side.

use std::time::Duration;

use super::super::Settings;

/// Elements that take longer on the average stand for much work each, or wait for something.
pub(super) const SLOW: Duration = Duration::from_secs(1);
/// Bundles of such elements that a worker keeps open, each with one. They cost little but a thread of the harness;
/// environments that want fewer have a limit of their own.
const SLOW_BUNDLES: usize = 32;

/// What is known of the elements of a stage.
#[derive(Debug, Default)]
pub(super) struct Pace {
    pub(super) splittable: bool,
    /// The elements of the last bundle were slow.
    slow: bool,
}

impl Pace {
    pub(super) fn new(splittable: bool) -> Pace {
        Pace { splittable, slow: false }
    }

    /// A bundle of so many elements took that long.
    pub(super) fn took(&mut self, elements: usize, took: Duration) {
        if !self.splittable {
            self.slow = took / u32::try_from(elements.max(1)).unwrap_or(u32::MAX) >= SLOW;
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
            1
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
