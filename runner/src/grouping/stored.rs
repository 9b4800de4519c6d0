//! Large groups that were sent by reference.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use hashbrown::HashMap;

use super::{Continuations, Values};
use crate::executor::{StateError, StatePage};

const SHARDS: usize = 16;

/// Bytes of a page, unless one value is longer.
const PAGE: usize = 1 << 20;

/// The rests of iterables whose starts went out with a token, for all workers of a process. The harness asks for them
/// with `StateKey::Runner`.
///
/// A token says which registry made it, so that one from another process is refused and not mistaken.
#[derive(Debug)]
pub struct StoredIterables {
    identity: u64,
    next: AtomicU64,
    shards: [Mutex<HashMap<u64, Stored>>; SHARDS],
    continuations: Continuations,
}

#[derive(Clone, Debug)]
struct Stored {
    values: Values,
    start: u64,
}

impl Default for StoredIterables {
    fn default() -> Self {
        // The standard library's per-process random keys.
        let identity = RandomState::new().build_hasher().finish();
        let (shards, continuations) = Default::default();
        StoredIterables { identity, next: AtomicU64::new(0), shards, continuations }
    }
}

impl StoredIterables {
    /// An empty registry.
    pub fn new() -> StoredIterables {
        StoredIterables::default()
    }

    /// Keeps `values` from position `start` on. The token names them until [`StoredIterables::remove`].
    pub fn insert(&self, values: Values, start: u64) -> Bytes {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(number).insert(number, Stored { values, start });
        let mut token = Vec::with_capacity(16);
        token.extend_from_slice(&self.identity.to_be_bytes());
        token.extend_from_slice(&number.to_be_bytes());
        token.into()
    }

    /// One page of what `token` names; `continuation` comes from the page before, empty for the first.
    pub fn get(&self, token: &[u8], continuation: &[u8]) -> Result<StatePage, StateError> {
        let unknown = || StateError::Unknown(format!("the rest of an iterable, token {}", hex(token)));
        let number = self.number(token).ok_or_else(unknown)?;
        let stored = self.shard(number).get(&number).cloned().ok_or_else(unknown)?;
        let position = self.continuations.open(number, continuation)?.unwrap_or(stored.start);
        let (data, _, next) =
            stored.values.page(position, PAGE).map_err(|error| StateError::Storage(error.to_string()))?;
        let continuation = next.map_or_else(Bytes::new, |next| self.continuations.seal(number, next));
        Ok(StatePage { data, continuation })
    }

    /// Forgets what `token` names. True if it named something.
    pub fn remove(&self, token: &[u8]) -> bool {
        self.number(token).is_some_and(|number| self.shard(number).remove(&number).is_some())
    }

    /// How many iterables are stored.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// True when none is stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn number(&self, token: &[u8]) -> Option<u64> {
        let (identity, number) = token.split_first_chunk::<8>()?;
        let number = u64::from_be_bytes(number.try_into().ok()?);
        (u64::from_be_bytes(*identity) == self.identity).then_some(number)
    }

    fn shard(&self, number: u64) -> std::sync::MutexGuard<'_, HashMap<u64, Stored>> {
        // Every change is one insertion or removal, so what a panicking thread leaves is whole.
        self.shards[number as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect()
}
