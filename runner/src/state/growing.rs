//! The store that begins in memory and goes on in RocksDB once the budget is spent.

use bytes::Bytes;

use super::memory::MemoryStore;
use super::rocks::{self, RocksStore};
use super::store::{Filler, FrozenStore, Store, StoreError, WriteBatch};

/// An ordered map in memory while it fits, then on disk for good.
pub(super) enum GrowingStore {
    /// With the name that it will have on disk.
    Memory {
        store: MemoryStore,
        name: String,
        disk: rocks::Shared,
    },
    Disk(RocksStore),
}

impl GrowingStore {
    fn get_ref(&self) -> &dyn Store {
        match self {
            GrowingStore::Memory { store, .. } => store,
            GrowingStore::Disk(store) => store,
        }
    }

    fn move_to_disk(&mut self) -> Result<(), StoreError> {
        let GrowingStore::Memory { store, name, disk } = self else { return Ok(()) };
        tracing::debug!(name, "state that is more than the budget has room for moves to disk");
        let mut moved = Filler::new(disk.open(name, None)?);
        for (key, value) in store.drain() {
            moved.put(key, value)?;
        }
        *self = GrowingStore::Disk(moved.finish()?);
        Ok(())
    }
}

impl Store for GrowingStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.get_ref().get(key)
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.get_ref().scan(from, to, visit)
    }

    fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        match self {
            GrowingStore::Disk(store) => store.write(batch),
            GrowingStore::Memory { store, .. } => {
                store.write(batch)?;
                if store.is_over() { self.move_to_disk() } else { Ok(()) }
            }
        }
    }

    fn freeze(&mut self) -> Result<Box<dyn FrozenStore>, StoreError> {
        match self {
            GrowingStore::Memory { store, .. } => store.freeze(),
            GrowingStore::Disk(store) => store.freeze(),
        }
    }
}
