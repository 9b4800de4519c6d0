//! Keyed state and timers, over one small ordered store.

mod memory;
mod store;

use crate::memory::Budget;

pub use memory::MemoryStore;
pub use store::{Store, StoreError, WriteBatch};

/// Which store a job keeps its state in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreKind {
    /// In memory.
    #[default]
    Memory,
    /// RocksDB, in the job's folder.
    RocksDb,
}

/// Opens the stores of a job process.
#[derive(Clone, Debug)]
pub struct Stores {
    kind: StoreKind,
    _budget: Budget,
}

impl Stores {
    /// Stores of one kind, within the job's budget, in its folder.
    pub fn new(kind: StoreKind, budget: &Budget) -> Stores {
        Stores { kind, _budget: budget.clone() }
    }

    /// A new, empty store; `name` is unique in the process (stage and worker).
    pub fn open(&self, _name: &str) -> Result<Box<dyn Store>, StoreError> {
        match self.kind {
            StoreKind::Memory => Ok(Box::new(MemoryStore::default())),
            StoreKind::RocksDb => Err(StoreError { doing: "open", why: "RocksDB is not there yet".into() }),
        }
    }
}
