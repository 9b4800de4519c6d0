//! Windows in the order in which they are to be woken.

use bytes::Bytes;

use super::record::wake_key;
use crate::state::{Front, Store, StoreError, WriteBatch, first_time};
use crate::time::Timestamp;

/// The windows of one section of a store, by time.
pub(super) struct WakeIndex {
    section: u8,
    front: Front,
}

impl WakeIndex {
    pub(super) fn new(section: u8) -> WakeIndex {
        WakeIndex { section, front: Front::default() }
    }

    /// Adds to `changes` that a window is to be woken at another time.
    pub(super) fn moved(
        &mut self,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
        key: &[u8],
        window: &[u8],
        changes: &mut WriteBatch,
    ) {
        if from == to {
            return;
        }
        if let Some(from) = from {
            changes.delete(wake_key(self.section, from, key, window));
            self.front.removed(from);
        }
        if let Some(to) = to {
            changes.put(wake_key(self.section, to, key, window), Bytes::new());
            self.front.inserted(to);
        }
    }

    /// The least time at which a window is to be woken. Everything that moved must have been written.
    pub(super) fn first(&mut self, store: &dyn Store) -> Result<Option<Timestamp>, StoreError> {
        let section = [self.section];
        self.front.get(|from| first_time(store, &section, from))
    }

    /// The scopes of windows that are to be woken before `until`, earliest first, at most `limit`; likewise.
    pub(super) fn before(
        &mut self,
        store: &dyn Store,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<Bytes>, StoreError> {
        let mut scopes = Vec::new();
        let Some(first) = self.first(store)?.filter(|first| *first < until) else { return Ok(scopes) };
        let at = |time: Timestamp| [&[self.section][..], &time.to_wire()].concat();
        let start = at(first).len();
        store.scan(&at(first), Some(&at(until)), &mut |key, _| {
            scopes.push(Bytes::copy_from_slice(&key[start..]));
            scopes.len() < limit
        })?;
        Ok(scopes)
    }
}
