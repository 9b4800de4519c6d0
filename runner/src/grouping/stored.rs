//! Large groups that were sent by reference.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hashbrown::HashMap;

use super::run::{Section, encode_frame_header};
use super::{Continuations, Values};
use crate::executor::{StateError, StatePage};
use crate::memory::{Budget, SpillWriter};

const SHARDS: usize = 16;

/// Bytes of a page, unless one value is longer.
const PAGE: usize = 1 << 20;

/// The rests of iterables whose starts went out with a token, for all workers of a process. The harness asks for them
/// with `StateKey::Runner`.
///
/// Nobody knows for how long they will be asked for, so their values are on disk: what was in memory is written to a
/// file, of which a new one is begun now and then, so that the space of iterables that are forgotten comes back.
///
/// A token says which registry made it, so that one from another process is refused and not mistaken.
#[derive(Debug)]
pub struct StoredIterables {
    identity: u64,
    next: AtomicU64,
    shards: [Mutex<HashMap<u64, Values>>; SHARDS],
    continuations: Continuations,
    budget: Budget,
    writer: Mutex<Option<SpillWriter>>,
}

/// Bytes after which a new file is begun.
const FILE: u64 = 1 << 30;

impl StoredIterables {
    /// An empty registry that stores in the budget's folder.
    pub fn new(budget: &Budget) -> StoredIterables {
        // The standard library's per-process random keys.
        let identity = RandomState::new().build_hasher().finish();
        let (next, shards, continuations, writer) = Default::default();
        StoredIterables { identity, next, shards, continuations, budget: budget.clone(), writer }
    }

    /// Keeps `values` from position `start` on. The token names them until [`StoredIterables::remove`].
    pub fn insert(&self, values: &Values, start: u64) -> io::Result<Bytes> {
        let stored = {
            let mut writer = lock(&self.writer);
            let writer = self.writer(&mut writer)?;
            values.store(start, writer)?
        };
        Ok(self.name(stored))
    }

    /// Makes a token for values that are on disk.
    fn name(&self, stored: Values) -> Bytes {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.shard(number).insert(number, stored);
        let mut token = Vec::with_capacity(16);
        token.extend_from_slice(&self.identity.to_be_bytes());
        token.extend_from_slice(&number.to_be_bytes());
        token.into()
    }

    /// Begins to keep values that come some at a time. Until that is finished, it is the only one.
    pub(crate) fn begin(&self) -> io::Result<NewIterable<'_>> {
        let mut writer = lock(&self.writer);
        let offset = self.writer(&mut writer)?.position();
        Ok(NewIterable { iterables: self, writer, offset })
    }

    /// The file to append to.
    fn writer<'a>(&self, writer: &'a mut Option<SpillWriter>) -> io::Result<&'a mut SpillWriter> {
        if writer.as_ref().is_none_or(|writer| writer.position() >= FILE) {
            *writer = Some(SpillWriter::create(&self.budget)?);
        }
        writer.as_mut().ok_or_else(gone)
    }

    /// One page of what `token` names; `continuation` comes from the page before, empty for the first.
    pub fn get(&self, token: &[u8], continuation: &[u8]) -> Result<StatePage, StateError> {
        let unknown = || StateError::Unknown(format!("the rest of an iterable, token {}", hex(token)));
        let number = self.number(token).ok_or_else(unknown)?;
        let stored = self.shard(number).get(&number).cloned().ok_or_else(unknown)?;
        let [position] = self.continuations.open(number, continuation)?.unwrap_or([0]);
        let (data, _, next) = stored.page(position, PAGE).map_err(|error| StateError::Storage(error.to_string()))?;
        let continuation = next.map_or_else(Bytes::new, |next| self.continuations.seal(number, [next]));
        Ok(StatePage { data, continuation })
    }

    /// Forgets what `token` names. True if it named something.
    pub fn remove(&self, token: &[u8]) -> bool {
        self.number(token).is_some_and(|number| self.shard(number).remove(&number).is_some())
    }

    /// How many iterables are stored.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
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

    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Values>> {
        lock(&self.shards[number as usize % SHARDS])
    }
}

/// An iterable that is being written.
#[derive(Debug)]
pub(crate) struct NewIterable<'a> {
    iterables: &'a StoredIterables,
    writer: MutexGuard<'a, Option<SpillWriter>>,
    offset: u64,
}

impl NewIterable<'_> {
    /// Adds `count` whole values.
    pub(crate) fn push(&mut self, values: &[u8], count: u64) -> io::Result<()> {
        let writer = self.writer.as_mut().ok_or_else(gone)?;
        writer.write(&encode_frame_header(values.len(), count))?;
        writer.write(values)
    }

    /// The token of what was added, as that of [`StoredIterables::insert`].
    pub(crate) fn finish(mut self) -> io::Result<Bytes> {
        let offset = self.offset;
        let writer = self.writer.as_mut().ok_or_else(gone)?;
        writer.flush()?;
        let (file, length) = (Arc::clone(writer.file()), writer.position() - offset);
        Ok(self.iterables.name(Values::on_disk(Section { file, offset, length })))
    }
}

fn gone() -> io::Error {
    io::Error::other("the file of an iterable is gone before it was written")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one insertion, removal or append, so what a panicking thread leaves is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect()
}
