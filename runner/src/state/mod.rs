//! Keyed state and timers, over one small ordered store.
//!
//! A [`Store`] is an ordered map of byte strings that knows nothing of its contents. [`KeyedState`] keeps in one of them
//! all that a keyed stage has on one worker: the cells of user state, which a bundle reads and writes through its
//! [`BundleState`], timers, when windows expire, and input that waits to be sorted. Everything that a bundle did is
//! committed as one batch or not at all. [`TimerIndex`] is the timers by themselves, for whoever else needs them.

mod bag;
mod bundle;
mod growing;
mod items;
mod keyed;
mod layout;
mod memory;
mod position;
mod rewrite;
mod rocks;
mod store;
mod timers;

#[cfg(test)]
mod tests;

use std::path::Path;

use bytes::Bytes;

use crate::memory::Budget;

use growing::GrowingStore;
use store::Filler;

pub use bundle::BundleState;
pub use keyed::{Buffered, Changes, Expiry, KeyedState, Unsorted};
pub use memory::MemoryStore;
pub use store::{FrozenStore, Store, StoreError, WriteBatch};
pub use timers::{Timer, TimerChange, TimerId, TimerIndex};

pub(crate) use layout::{Front, Reader, after, key_group, put_part, put_scope, worker_of};
pub(crate) use rewrite::{Numbers, group_of, renumber};
pub(crate) use timers::first_time;

/// Which store a job keeps its state in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreKind {
    /// In memory while the budget has room, then in RocksDB.
    #[default]
    Auto,
    /// In memory, whatever the budget says.
    Memory,
    /// In RocksDB, in the job's folder.
    RocksDb,
}

/// Sees a record of a store: its key and its value.
pub(crate) type VisitRecord<'a> = dyn FnMut(&[u8], &[u8]) -> std::io::Result<()> + 'a;

/// Opens the stores of a job process.
#[derive(Clone, Debug)]
pub struct Stores {
    kind: StoreKind,
    budget: Budget,
    disk: rocks::Shared,
}

impl Stores {
    /// Stores of one kind, within the job's budget, in its folder.
    pub fn new(kind: StoreKind, budget: &Budget) -> Stores {
        Stores { kind, budget: budget.clone(), disk: rocks::Shared::new(budget) }
    }

    /// Stores within the same budget for what is no state, but only waits: they do not stay in memory when that is full,
    /// even where state does.
    pub(crate) fn spilling(&self) -> Stores {
        let kind = match self.kind {
            StoreKind::Auto | StoreKind::Memory => StoreKind::Auto,
            StoreKind::RocksDb => StoreKind::RocksDb,
        };
        Stores { kind, ..self.clone() }
    }

    /// A new, empty store; `name` tells in the job's folder what it is of (stage and worker).
    pub fn open(&self, name: &str) -> Result<Box<dyn Store>, StoreError> {
        let memory = || MemoryStore::counted(self.budget.reserve());
        Ok(match self.kind {
            StoreKind::Auto => {
                Box::new(GrowingStore::Memory { store: memory(), name: name.to_owned(), disk: self.disk.clone() })
            }
            StoreKind::Memory => Box::new(memory()),
            StoreKind::RocksDb => Box::new(self.disk.open(name, None)?),
        })
    }

    /// A new store that holds what a snapshot does. The snapshot may be of a store of another kind, and stays as it is.
    pub fn restore(&self, name: &str, snapshot: &Path) -> Result<Box<dyn Store>, StoreError> {
        if rocks::is_snapshot(snapshot) && self.kind != StoreKind::Memory {
            return Ok(Box::new(self.disk.open(name, Some(snapshot))?));
        }
        let mut filler = Filler::new(self.open(name)?);
        self.read_snapshot(snapshot, &mut |key, value| filler.put(key, value))?;
        filler.finish()
    }

    /// A new store that holds what some snapshots do together: each record as `select` makes it, or not where it gives
    /// none. Of records with one key the last one counts.
    pub(crate) fn merge<T: Copy>(
        &self,
        name: &str,
        snapshots: &[(T, &Path)],
        select: &mut dyn FnMut(T, Bytes, Bytes) -> Result<Option<Record>, StoreError>,
    ) -> Result<Box<dyn Store>, StoreError> {
        let mut filler = Filler::new(self.open(name)?);
        for (of, snapshot) in snapshots {
            self.read_snapshot(snapshot, &mut |key, value| match select(*of, key, value)? {
                Some(Record { key, value }) => filler.put(key, value),
                None => Ok(()),
            })?;
        }
        filler.finish()
    }

    /// Visits every record of what a store held.
    pub(crate) fn read_frozen(&self, frozen: Box<dyn FrozenStore>, visit: &mut VisitRecord<'_>) -> std::io::Result<()> {
        let folder = tempfile::tempdir_in(self.budget.spill_dir())?;
        let snapshot = folder.path().join("frozen");
        frozen.write(&snapshot).map_err(std::io::Error::other)?;
        let mut visited = Ok(());
        let read = self.read_snapshot(&snapshot, &mut |key, value| {
            visited = visit(&key, &value);
            visited
                .as_ref()
                .map(|_| ())
                .map_err(|_| StoreError { doing: "read a snapshot", why: "it was stopped".into() })
        });
        visited?;
        read.map_err(std::io::Error::other)
    }

    /// Visits every record of a snapshot of any kind.
    fn read_snapshot(
        &self,
        snapshot: &Path,
        visit: &mut dyn FnMut(Bytes, Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if !rocks::is_snapshot(snapshot) {
            return memory::read_snapshot(snapshot, visit);
        }
        let stored = self.disk.open("snapshot", Some(snapshot))?;
        let mut visited = Ok(());
        stored.scan(&[], None, &mut |key, value| {
            visited = visit(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            visited.is_ok()
        })?;
        visited
    }
}

/// An entry of a store.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
}
