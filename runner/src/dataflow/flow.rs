//! Back-pressure inside one worker: operators that hold finished output wait while stages that are able to run have
//! enough to do.
//!
//! Only the backlog of stages that can drain counts, so waiting always ends: a stage behind a side-input barrier takes
//! its input to disk instead and holds nobody up.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use timely::scheduling::Activator;

/// Queued input, in bytes, above which finished output waits.
const BACKLOG_LIMIT: usize = 32 << 20;
/// Bytes an operator may send in one visit before downstream operators get their turn.
pub(crate) const VISIT_LIMIT: usize = 4 << 20;

/// The backlog of a worker's stages.
#[derive(Default)]
pub(crate) struct Flow {
    backlog: Cell<usize>,
    waiting: RefCell<Vec<Activator>>,
}

impl Flow {
    /// Replaces one stage's part of the backlog; wakes those who wait when there is room again.
    pub(crate) fn update(&self, before: usize, now: usize) {
        self.backlog.set(self.backlog.get() + now - before);
        if self.has_room() {
            for activator in self.waiting.borrow_mut().drain(..) {
                activator.activate();
            }
        }
    }

    /// Whether finished output may be sent on.
    pub(crate) fn has_room(&self) -> bool {
        self.backlog.get() < BACKLOG_LIMIT
    }

    /// Asks to be activated when there is room.
    pub(crate) fn wait(&self, activator: Activator) {
        self.waiting.borrow_mut().push(activator);
    }
}

/// How long after `attempt` failures a bundle is run again.
pub(crate) fn backoff(delay: Duration, attempt: u32) -> Duration {
    delay.saturating_mul(1 << attempt.min(6)).min(Duration::from_secs(5))
}
