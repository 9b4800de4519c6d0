//! The wish to drain a job: sources stop, windows close, and the job ends.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Shared by whoever may ask for a drain and the operators that obey.
#[derive(Clone, Default)]
pub struct Drain(Arc<Switch>);

#[derive(Default)]
struct Switch {
    on: AtomicBool,
    wakers: Mutex<Vec<Box<dyn Fn() + Send>>>,
}

impl Drain {
    /// Asks for the drain; there is no way back.
    pub fn request(&self) {
        self.0.on.store(true, Ordering::SeqCst);
        for wake in self.0.wakers.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            wake();
        }
    }

    /// Whether it was asked for.
    pub fn requested(&self) -> bool {
        self.0.on.load(Ordering::SeqCst)
    }

    /// Calls `wake` once when the drain is asked for; at once if it was.
    pub(crate) fn on_request(&self, wake: impl Fn() + Send + 'static) {
        let mut wakers = self.0.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        if self.requested() {
            wake();
        } else {
            wakers.push(Box::new(wake));
        }
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Drain").field(&self.requested()).finish()
    }
}
