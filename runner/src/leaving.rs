//! The end of a process that does not wait for its work: what must not be left as it is is given up first.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Shared by whoever ends the process, and those who hold something open that others would wait for: a transaction of Kafka holds
/// up who reads what is committed, until `transaction.timeout.ms`.
#[derive(Clone, Default)]
pub struct Leaving(Arc<State>);

#[derive(Default)]
struct State {
    asked: AtomicBool,
    /// How many hold something open.
    open: Mutex<usize>,
    closed: Condvar,
}

impl Leaving {
    /// Asks everybody to give up what is open, and to open nothing more.
    pub fn request(&self) {
        self.0.asked.store(true, Ordering::SeqCst);
    }

    /// Whether that was asked.
    pub(crate) fn requested(&self) -> bool {
        self.0.asked.load(Ordering::SeqCst)
    }

    /// Waits until nothing is open, for so long at most. False: something is, still.
    pub fn wait(&self, patience: Duration) -> bool {
        let open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.closed.wait_timeout_while(open, patience, |open| *open > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }

    /// Holds something open, until what it gives is dropped.
    pub(crate) fn open(&self) -> Open {
        *self.0.open.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Open(self.clone())
    }
}

impl fmt::Debug for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Leaving").field(&self.requested()).finish()
    }
}

/// See [`Leaving::open`].
pub(crate) struct Open(Leaving);

impl Drop for Open {
    fn drop(&mut self) {
        *self.0.0.open.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.0.closed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_waits_for_what_is_open_but_not_for_ever() {
        let leaving = Leaving::default();
        assert!(leaving.wait(Duration::ZERO));
        let (one, two) = (leaving.open(), leaving.open());
        drop(one);
        assert!(!leaving.wait(Duration::from_millis(1)));
        leaving.request();
        let waits = std::thread::spawn({
            let leaving = leaving.clone();
            move || leaving.wait(Duration::from_secs(60))
        });
        assert!(leaving.requested());
        drop(two);
        assert!(waits.join().unwrap());
    }
}
