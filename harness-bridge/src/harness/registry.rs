//! The harnesses of a bridge by id: how a server finds who is calling.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;
use tonic::metadata::MetadataMap;

use super::Harness;

/// Harnesses that are over stay findable for their last log lines, this many of them.
const REMEMBERED: usize = 64;

/// All harnesses that may call.
#[derive(Debug, Default)]
pub(crate) struct Harnesses {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_id: HashMap<String, Arc<Harness>>,
    over: VecDeque<String>,
}

impl Harnesses {
    pub(crate) fn add(&self, harness: Arc<Harness>) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).by_id.insert(harness.id.clone(), harness);
    }

    /// `id` is over.
    pub(crate) fn retire(&self, id: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.over.push_back(id.to_owned());
        if inner.over.len() > REMEMBERED
            && let Some(oldest) = inner.over.pop_front()
        {
            inner.by_id.remove(&oldest);
        }
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Harness>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).by_id.get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Harness>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).by_id.values().cloned().collect()
    }

    /// Who calls, by the `worker_id` that every call of a harness carries.
    pub(crate) fn caller(&self, metadata: &MetadataMap) -> Result<Arc<Harness>, Status> {
        let id = metadata
            .get("worker_id")
            .ok_or_else(|| Status::invalid_argument("the call has no worker_id metadata; SDK harnesses send it"))?
            .to_str()
            .map_err(|_| Status::invalid_argument("worker_id is not text"))?;
        self.get(id).ok_or_else(|| Status::not_found(format!("no SDK harness {id} was started for this job")))
    }
}
