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
use crate::element::{Batch, BatchBuilder, MAX_ELEMENT, put_varint};
use crate::executor::{StateError, StatePage};
use crate::memory::{Budget, SpillWriter};

const SHARDS: usize = 16;

/// Bytes of a page, unless one value is longer.
const PAGE: usize = 1 << 20;

/// The rests of iterables whose starts went out with a token, for all workers of a process. The harness asks for them
/// with `StateKey::Runner`.
///
/// They may be asked for until every stage that reads the element has processed it ([`References::release`]), which may
/// take long, so their values are on disk: what was in memory is written to a file, of which a new one is begun now and
/// then, so that the space of iterables that were given back is free again.
///
/// A token says which registry made it, so that one from another process is refused and not mistaken.
#[derive(Debug)]
pub struct StoredIterables {
    identity: u64,
    next: AtomicU64,
    shards: [Mutex<HashMap<u64, Stored>>; SHARDS],
    continuations: Continuations,
    budget: Budget,
    writer: Mutex<Option<SpillWriter>>,
    /// Bytes in files of iterables that are stored.
    live: AtomicU64,
    keeping: Mutex<Keeping>,
}

/// An iterable that may be asked for.
#[derive(Debug)]
struct Stored {
    values: Values,
    /// Stages that have not processed its element yet.
    readers: u32,
    /// What it takes of our files.
    bytes: u64,
}

/// Iterables that were given back while somebody saved.
#[derive(Debug, Default)]
struct Keeping {
    savers: usize,
    given_back: Vec<u64>,
}

/// Bytes after which a new file is begun: a part of what is stored, so that there are not too many files.
const FILE: std::ops::RangeInclusive<u64> = (16 << 20)..=(1 << 30);
const FILES: u64 = 64;

/// The length of a token.
const TOKEN: usize = 16;
/// What an iterable that goes on in state ends with before its token: -1 as a varint, and the token's length.
const BEFORE_TOKEN: [u8; 11] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, TOKEN as u8];

impl StoredIterables {
    /// An empty registry that stores in the budget's folder.
    pub fn new(budget: &Budget) -> StoredIterables {
        // The standard library's per-process random keys.
        let identity = RandomState::new().build_hasher().finish();
        let (next, shards, continuations, writer) = Default::default();
        let (live, keeping) = Default::default();
        StoredIterables { identity, next, shards, continuations, budget: budget.clone(), writer, live, keeping }
    }

    /// Keeps `values` from position `start` on. The token names them until `readers` stages have given it back.
    pub fn insert(&self, values: &Values, start: u64, readers: u32) -> io::Result<Bytes> {
        let (values, bytes) = {
            let mut writer = lock(&self.writer);
            let writer = self.writer(&mut writer)?;
            let before = writer.position();
            (values.store(start, writer)?, writer.position() - before)
        };
        Ok(self.name(Stored { values, readers, bytes }))
    }

    /// Makes a token for values that are on disk.
    fn name(&self, stored: Stored) -> Bytes {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.live.fetch_add(stored.bytes, Ordering::Relaxed);
        // Where nobody reads it, nobody gives it back.
        if stored.readers > 0 {
            self.shard(number).insert(number, stored);
        }
        let mut token = Vec::with_capacity(TOKEN);
        token.extend_from_slice(&self.identity.to_be_bytes());
        token.extend_from_slice(&number.to_be_bytes());
        token.into()
    }

    /// Begins to keep values that come some at a time. Until that is finished, it is the only one.
    pub(crate) fn begin(&self, readers: u32) -> io::Result<NewIterable<'_>> {
        let mut writer = lock(&self.writer);
        let offset = self.writer(&mut writer)?.position();
        Ok(NewIterable { iterables: self, writer, offset, readers })
    }

    /// The file to append to.
    fn writer<'a>(&self, writer: &'a mut Option<SpillWriter>) -> io::Result<&'a mut SpillWriter> {
        let limit = (self.live.load(Ordering::Relaxed) / FILES).clamp(*FILE.start(), *FILE.end());
        if writer.as_ref().is_none_or(|writer| writer.position() >= limit) {
            *writer = Some(SpillWriter::create(&self.budget)?);
        }
        writer.as_mut().ok_or_else(gone)
    }

    /// One page of what `token` names; `continuation` comes from the page before, empty for the first.
    pub fn get(&self, token: &[u8], continuation: &[u8]) -> Result<StatePage, StateError> {
        let unknown = || StateError::Unknown(format!("the rest of an iterable, token {}", hex(token)));
        let number = self.number(token).ok_or_else(unknown)?;
        let values = self.shard(number).get(&number).map(|stored| stored.values.clone()).ok_or_else(unknown)?;
        let [position] = self.continuations.open(number, continuation)?.unwrap_or([0]);
        let (data, _, next) = values.page(position, PAGE).map_err(|error| StateError::Storage(error.to_string()))?;
        let continuation = next.map_or_else(Bytes::new, |next| self.continuations.seal(number, [next]));
        Ok(StatePage { data, continuation })
    }

    /// A stage has processed the element of a token. True if it was the last.
    pub fn release(&self, token: &[u8]) -> bool {
        let Some(number) = self.number(token) else { return false };
        let mut keeping = lock(&self.keeping);
        if keeping.savers > 0 {
            keeping.given_back.push(number);
            return false;
        }
        drop(keeping);
        self.give_back(number)
    }

    fn give_back(&self, number: u64) -> bool {
        let mut shard = self.shard(number);
        let Some(stored) = shard.get_mut(&number) else { return false };
        stored.readers -= 1;
        if stored.readers > 0 {
            return false;
        }
        let bytes = stored.bytes;
        shard.remove(&number);
        self.live.fetch_sub(bytes, Ordering::Relaxed);
        true
    }

    /// The token that an element ends with, if it goes on here.
    fn token_of<'a>(&self, element: &'a [u8]) -> Option<&'a [u8]> {
        let (rest, token) = element.split_last_chunk::<TOKEN>()?;
        // That bytes of a user's own look like that, with the number that only this process knows, is out of the question.
        (rest.ends_with(&BEFORE_TOKEN) && self.number(token).is_some()).then_some(token)
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

    fn shard(&self, number: u64) -> MutexGuard<'_, HashMap<u64, Stored>> {
        lock(&self.shards[number as usize % SHARDS])
    }
}

/// An iterable that is being written.
#[derive(Debug)]
pub(crate) struct NewIterable<'a> {
    iterables: &'a StoredIterables,
    writer: MutexGuard<'a, Option<SpillWriter>>,
    offset: u64,
    readers: u32,
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
        let (offset, readers) = (self.offset, self.readers);
        let writer = self.writer.as_mut().ok_or_else(gone)?;
        writer.flush()?;
        let (file, length) = (Arc::clone(writer.file()), writer.position() - offset);
        let values = Values::on_disk(Section { file, offset, length });
        Ok(self.iterables.name(Stored { values, readers, bytes: length }))
    }
}

/// The iterables that the input of a stage may go on in.
#[derive(Clone, Debug)]
pub(crate) struct References(Arc<StoredIterables>);

impl References {
    pub(crate) fn new(iterables: Arc<StoredIterables>) -> References {
        References(iterables)
    }

    /// Whether an element goes on here.
    pub(crate) fn have_rest_of(&self, element: &[u8]) -> bool {
        self.0.token_of(element).is_some()
    }

    /// The stage has processed an element: what it goes on in is given back.
    pub(crate) fn release(&self, element: &[u8]) {
        if let Some(token) = self.0.token_of(element) {
            self.0.release(token);
        }
    }

    /// Keeps all that is stored now, also what is given back meanwhile, for as long as the result lives.
    pub(crate) fn keep(&self) -> Kept {
        lock(&self.0.keeping).savers += 1;
        Kept(Arc::clone(&self.0))
    }
}

/// See [`References::keep`].
#[derive(Debug)]
pub(crate) struct Kept(Arc<StoredIterables>);

impl Kept {
    /// The same elements, whole: none goes on in state.
    pub(crate) fn whole(&self, batch: Batch) -> io::Result<Batch> {
        if !batch.elements().any(|element| self.0.token_of(element).is_some()) {
            return Ok(batch);
        }
        let mut whole = BatchBuilder::default();
        for element in batch.elements() {
            whole.try_push_with(batch.min_timestamp(), |out| self.put_whole(element, out))?;
        }
        Ok(whole.finish())
    }

    fn put_whole(&self, element: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let Some(token) = self.0.token_of(element) else {
            out.extend_from_slice(element);
            return Ok(());
        };
        out.extend_from_slice(&element[..element.len() - TOKEN - BEFORE_TOKEN.len()]);
        let number = self.0.number(token).ok_or_else(gone)?;
        let values = self.0.shard(number).get(&number).map(|stored| stored.values.clone()).ok_or_else(gone)?;
        let mut position = Some(0);
        while let Some(at) = position {
            let (data, count, next) = values.page(at, PAGE)?;
            if out.len() + data.len() > MAX_ELEMENT {
                let what =
                    "an element that waits at a border goes on in state for too long to be saved: more than 2 GiB";
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
            }
            if count > 0 {
                put_varint(out, count);
                out.extend_from_slice(&data);
            }
            position = next;
        }
        put_varint(out, 0);
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let given_back = {
            let mut keeping = lock(&self.0.keeping);
            keeping.savers -= 1;
            if keeping.savers > 0 {
                return;
            }
            std::mem::take(&mut keeping.given_back)
        };
        for number in given_back {
            self.0.give_back(number);
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("an iterable is gone before it was written")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one insertion, removal or append, so what a panicking thread leaves is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect()
}
