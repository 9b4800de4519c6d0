//! Waking an operator at a time.

use std::time::{Duration, Instant};

use timely::scheduling::Activator;

/// Activates an operator after a while. Timely keeps an entry for every `activate_after` until it is due, whatever was
/// asked for before, so an operator that asks at each visit would fill its heap: this asks only for what is not coming
/// anyway.
pub(crate) struct Alarm {
    activator: Activator,
    /// When the operator will be activated.
    at: Option<Instant>,
    /// How often Timely was asked.
    #[cfg(test)]
    pub(crate) asked: usize,
}

impl Alarm {
    /// For the operator of `activator`.
    pub(crate) fn new(activator: Activator) -> Alarm {
        Alarm {
            activator,
            at: None,
            #[cfg(test)]
            asked: 0,
        }
    }

    /// Sees to it that the operator is activated `after` that time, a millisecond at the least, or sooner.
    pub(crate) fn set(&mut self, after: Duration) {
        let now = Instant::now();
        let after = after.max(Duration::from_millis(1));
        let at = now.checked_add(after);
        let comes_anyway = match (self.at, at) {
            (Some(set), Some(at)) => set > now && set <= at,
            // Further off than the clock goes: nobody will see that day.
            (_, None) => true,
            (None, _) => false,
        };
        if !comes_anyway {
            self.at = at;
            #[cfg(test)]
            {
                self.asked += 1;
            }
            self.activator.activate_after(after);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use timely::WorkerConfig;
    use timely::communication::Allocator;
    use timely::communication::allocator::Thread;
    use timely::worker::Worker;

    use super::*;

    #[test]
    fn a_later_time_asked_for_again_and_again_is_one_entry() {
        let mut worker =
            Worker::new(WorkerConfig::default(), Allocator::Thread(Thread::default()), Some(Instant::now()));
        let activator = worker.dataflow::<crate::time::Moment, _, _>(|scope| scope.activator_for(Rc::from([0usize])));
        let mut alarm = Alarm::new(activator);
        for _ in 0..10_000 {
            alarm.set(Duration::from_secs(24 * 3600));
        }
        assert_eq!(alarm.asked, 1);
        // What comes sooner is one more, and covers what is later.
        for second in (1..100).rev() {
            alarm.set(Duration::from_secs(3600 + second));
        }
        let sooner = alarm.asked;
        for second in 1..100 {
            alarm.set(Duration::from_secs(3600 + second));
        }
        assert_eq!(alarm.asked, sooner);
        alarm.set(Duration::MAX);
        assert_eq!(alarm.asked, sooner);
    }
}
