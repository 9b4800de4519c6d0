//! The bridge's tasks, all in one set, so that none outlives the bridge.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// Spawns tasks onto one runtime and remembers them until they ended. Usable from threads outside the runtime.
#[derive(Debug)]
pub(crate) struct Tasks {
    runtime: Handle,
    /// `None` once shut down.
    set: Mutex<Option<JoinSet<()>>>,
}

impl Tasks {
    pub(crate) fn new(runtime: Handle) -> Tasks {
        Tasks { runtime, set: Mutex::new(Some(JoinSet::new())) }
    }

    /// Runs `task`, or drops it at once when the set is shut down.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(set) = set.as_mut() {
            while set.try_join_next().is_some() {}
            set.spawn_on(task, &self.runtime);
        }
    }

    /// Waits until every task has ended by itself. Tasks that come later are dropped.
    pub(crate) async fn finished(&self) {
        let set = self.set.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut set) = set {
            while set.join_next().await.is_some() {}
        }
    }

    /// Aborts every task and waits until all are gone. Tasks that come later are dropped.
    pub(crate) async fn shutdown(&self) {
        let set = self.set.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut set) = set {
            set.shutdown().await;
        }
    }
}
