//! Work that many bring and one at a time does, in the order in which it came.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A queue with at most one worker.
#[derive(Debug)]
pub(crate) struct InOrder<T> {
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    waiting: VecDeque<T>,
    /// Somebody works on it.
    worked_on: bool,
}

impl<T> Default for InOrder<T> {
    fn default() -> InOrder<T> {
        InOrder { inner: Mutex::new(Inner { waiting: VecDeque::new(), worked_on: false }) }
    }
}

impl<T> InOrder<T> {
    fn inner(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing waits and nobody works.
    pub(crate) fn is_idle(&self) -> bool {
        !self.inner().worked_on
    }

    /// Adds work. True if the caller has to see to it that somebody calls [`InOrder::next`] until it has nothing more.
    pub(crate) fn add(&self, work: T) -> bool {
        let mut inner = self.inner();
        inner.waiting.push_back(work);
        !std::mem::replace(&mut inner.worked_on, true)
    }

    /// The next piece of work. `None` ends the caller's turn.
    pub(crate) fn next(&self) -> Option<T> {
        let mut inner = self.inner();
        let next = inner.waiting.pop_front();
        inner.worked_on = next.is_some();
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_works_at_a_time_and_in_order() {
        let queue = InOrder::default();
        assert!(queue.is_idle());
        assert!(queue.add(1), "the first needs a worker");
        assert!(!queue.add(2), "it has one");
        assert_eq!(queue.next(), Some(1));
        assert!(!queue.add(3));
        assert_eq!((queue.next(), queue.next()), (Some(2), Some(3)));
        assert!(!queue.is_idle(), "the third is being worked on");
        assert_eq!(queue.next(), None);
        assert!(queue.is_idle());
        assert!(queue.add(4), "the worker has gone");
    }
}
