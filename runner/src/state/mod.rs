//! Keyed state and timers, over one small ordered store.
//!
//! A [`Store`] is an ordered map of byte strings that knows nothing of its contents. [`KeyedState`] keeps in one of them
//! all that a keyed stage has on one worker: the cells of user state, which a bundle reads and writes through its
//! [`BundleState`], timers, when windows expire, and input that waits to be sorted. Everything that a bundle did is
//! committed as one batch or not at all. [`TimerIndex`] is the timers by themselves, for whoever else needs them.

mod bag;
mod bundle;
mod items;
mod keyed;
mod layout;
mod memory;
mod position;
mod store;
mod timers;

#[cfg(test)]
mod tests;

use crate::memory::Budget;

pub use bundle::BundleState;
pub use keyed::{Buffered, Changes, Expiry, KeyedState, Unsorted};
pub use memory::MemoryStore;
pub use store::{Store, StoreError, WriteBatch};
pub use timers::{Timer, TimerChange, TimerId, TimerIndex};

pub(crate) use layout::{Front, Reader, after, key_group, put_part, put_scope};
pub(crate) use timers::first_time;

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
