//! The one ordered store that all keyed state lives in: [`Store`].

use std::path::Path;

use bytes::Bytes;

/// An ordered map of byte strings, of one stage on one worker.
///
/// Writers go through [`Store::write`], which is atomic. A store knows nothing of what its keys mean.
pub trait Store: Send {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Visits the entries with `from <= key`, and `key < to` if there is a `to`, in order, until `visit` returns false.
    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError>;

    /// Does all of it or nothing.
    fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError>;

    /// All that the store holds now, to be written by another thread while the store goes on. Copies no value.
    fn freeze(&mut self) -> Result<Box<dyn FrozenStore>, StoreError>;
}

/// What a store held at some time.
pub trait FrozenStore: Send {
    /// Writes it into a new folder, which must not be there yet. [`super::Stores::restore`] makes a store of it. Gives the
    /// number of records, where that is known.
    fn write(self: Box<Self>, into: &Path) -> Result<Option<u64>, StoreError>;
}

impl<S: Store + ?Sized> Store for Box<S> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        (**self).get(key)
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        (**self).scan(from, to, visit)
    }

    fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        (**self).write(batch)
    }

    fn freeze(&mut self) -> Result<Box<dyn FrozenStore>, StoreError> {
        (**self).freeze()
    }
}

/// Changes that belong together, in order: later ones win.
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    pub(crate) writes: Vec<Write>,
}

/// One change.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Put(Bytes, Bytes),
    Delete(Bytes),
    /// Everything from the first key on, before the second.
    DeleteRange(Bytes, Bytes),
}

impl WriteBatch {
    /// Sets the value of a key.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.push(Write::Put(key.into(), value.into()));
    }

    /// Removes a key.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.writes.push(Write::Delete(key.into()));
    }

    /// Removes every key from `from` on, before `to`.
    pub fn delete_range(&mut self, from: impl Into<Bytes>, to: impl Into<Bytes>) {
        self.writes.push(Write::DeleteRange(from.into(), to.into()));
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// Fills a store with many entries, a batch at a time.
pub(super) struct Filler<S> {
    store: S,
    batch: WriteBatch,
    size: usize,
}

impl<S: Store> Filler<S> {
    /// Bytes that are written at once.
    const BATCH: usize = 1 << 20;

    pub(super) fn new(store: S) -> Filler<S> {
        Filler { store, batch: WriteBatch::default(), size: 0 }
    }

    pub(super) fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), StoreError> {
        self.size += key.len() + value.len();
        self.batch.put(key, value);
        if self.size < Self::BATCH {
            return Ok(());
        }
        self.size = 0;
        self.store.write(std::mem::take(&mut self.batch))
    }

    pub(super) fn finish(mut self) -> Result<S, StoreError> {
        self.store.write(self.batch)?;
        Ok(self.store)
    }
}

/// The store failed: the machine's fault.
#[derive(Debug, thiserror::Error)]
#[error("the state store failed to {doing}: {why}")]
pub struct StoreError {
    /// What was being done.
    pub doing: &'static str,
    /// The cause.
    pub why: String,
}
