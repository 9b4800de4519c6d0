//! All that one keyed stage keeps on one worker: [`KeyedState`].

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::memory::Budget;
use crate::plan::{Keyed, TimeDomain};
use crate::time::Timestamp;

use super::bundle::BundleState;
use super::layout::{BUFFER, CELLS, EXPIRIES, Front, NEXT_SEQUENCE, Reader, TIMERS, after, key_group, put_scope};
use super::position::Tokens;
use super::store::{FrozenStore, Store, StoreError, WriteBatch};
use super::timers::{Timer, TimerChange, TimerIndex, first_time};

/// Cells, timers, expiries and time-sorted input of one keyed stage on one worker.
///
/// What a bundle changes is in memory until [`KeyedState::commit`] writes all of it as one batch; a bundle that failed
/// leaves nothing. Bundles of one `KeyedState` never overlap. State requests come from the executor's threads and
/// commits from the operator's, so the store is behind a lock, for which nobody ever waits long.
#[derive(Clone, Debug)]
pub struct KeyedState {
    shared: Arc<Shared>,
    budget: Budget,
}

/// What bundles share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) keyed: Keyed,
    pub(super) tokens: Tokens,
    inner: Mutex<Inner>,
}

pub(super) struct Inner {
    pub(super) store: Box<dyn Store>,
    timers: TimerIndex,
    expiries: Front,
    buffer: Front,
    /// `None` until it was read.
    next_sequence: Option<u64>,
}

/// What a bundle changed besides cells of user state. Done in the order of the fields.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// What becomes of timers, in order: those that fired, then what the SDK set and cleared as it sent them.
    pub timers: Vec<TimerChange>,
    /// When keys and windows expire. Saying so again changes nothing.
    pub expire_at: Vec<Expiry>,
    /// Keys and windows that have expired: their registration, cells and timers are removed, those of this bundle too.
    pub expired: Vec<Expiry>,
    /// Input to keep until its time has come.
    pub buffer: Vec<Unsorted>,
    /// Input whose time has come.
    pub unbuffered: Vec<Buffered>,
}

/// When a key and window expire.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Expiry {
    /// The key, encoded.
    pub key: Bytes,
    /// The window, encoded.
    pub window: Bytes,
    /// The time: the same at every mention of the key and window.
    pub at: Timestamp,
}

/// An input element that has to wait for its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsorted {
    /// Its key, encoded.
    pub key: Bytes,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// One encoded windowed value.
    pub element: Bytes,
}

/// An input element that waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffered {
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// One encoded windowed value.
    pub element: Bytes,
    id: [u8; 10],
}

impl KeyedState {
    /// The state of a stage in a store, which is empty or was written by the same stage.
    pub fn new(store: Box<dyn Store>, keyed: &Keyed, budget: &Budget) -> KeyedState {
        let domains = keyed.timers.iter().map(|family| family.domain).collect();
        let inner = Inner {
            store,
            timers: TimerIndex::new(&[TIMERS], domains),
            expiries: Front::default(),
            buffer: Front::default(),
            next_sequence: None,
        };
        let shared = Shared { keyed: keyed.clone(), tokens: Tokens::default(), inner: Mutex::new(inner) };
        KeyedState { shared: Arc::new(shared), budget: budget.clone() }
    }

    /// What the next bundle sees of the cells.
    pub fn bundle(&self) -> Arc<BundleState> {
        Arc::new(BundleState::new(Arc::clone(&self.shared), &self.budget))
    }

    /// Writes what a bundle did to cells, and `changes`, all or nothing. After an error the state must not be used.
    pub fn commit(&self, bundle: &BundleState, changes: Changes) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        let gone: HashSet<Vec<u8>> = changes.expired.iter().map(|expiry| cells(&expiry.key, &expiry.window)).collect();
        bundle.write(|scope| gone.contains(scope), &mut batch);
        for scope in gone {
            let end = after(&scope);
            batch.delete_range(scope, end);
        }
        let mut inner = self.shared.inner();
        inner.apply(changes, &mut batch)?;
        if batch.is_empty() { Ok(()) } else { inner.store.write(batch) }
    }

    /// When the first timer of a domain fires.
    pub fn earliest(&self, domain: TimeDomain) -> Result<Option<Timestamp>, StoreError> {
        let Inner { store, timers, .. } = &mut *self.shared.inner();
        timers.earliest(&**store, domain)
    }

    /// The least output watermark that a timer holds. No timer in event time holds more than its own firing.
    pub fn least_hold(&self) -> Result<Option<Timestamp>, StoreError> {
        let Inner { store, timers, .. } = &mut *self.shared.inner();
        timers.least_hold(&**store)
    }

    /// As [`TimerIndex::due`].
    pub fn due(&self, domain: TimeDomain, until: Timestamp, limit: usize) -> Result<Vec<Timer>, StoreError> {
        let Inner { store, timers, .. } = &mut *self.shared.inner();
        timers.due(&**store, domain, until, limit)
    }

    /// The timers of a key and window.
    pub fn timers_of(&self, key: &[u8], window: &[u8]) -> Result<Vec<Timer>, StoreError> {
        let Inner { store, timers, .. } = &mut *self.shared.inner();
        timers.of(&**store, key, window)
    }

    /// When the first key and window expire.
    pub fn earliest_expiry(&self) -> Result<Option<Timestamp>, StoreError> {
        let Inner { store, expiries, .. } = &mut *self.shared.inner();
        expiries.get(|from| first_time(&**store, &[EXPIRIES], from))
    }

    /// Keys and windows that expire before `until`, in order of their times, at most `limit`. With `not_waiting`, those that
    /// have a timer in processing time are passed over: it is still to fire in them.
    pub fn expired(&self, until: Timestamp, not_waiting: bool, limit: usize) -> Result<Vec<Expiry>, StoreError> {
        let mut inner = self.shared.inner();
        let Inner { store, timers, expiries, .. } = &mut *inner;
        let mut expired = Vec::new();
        let floor = expiries.floor();
        scan(&**store, EXPIRIES, floor, until, |at, key, _| {
            let (key, window) = Reader(key).take_scope()?;
            if not_waiting && timers.has(&**store, TimeDomain::ProcessingTime, key, window)? {
                return Ok(true);
            }
            let copy = Bytes::copy_from_slice;
            expired.push(Expiry { key: copy(key), window: copy(window), at });
            Ok(expired.len() < limit)
        })?;
        Ok(expired)
    }

    /// The least timestamp of the input that waits.
    pub fn earliest_buffered(&self) -> Result<Option<Timestamp>, StoreError> {
        let Inner { store, buffer, .. } = &mut *self.shared.inner();
        buffer.get(|from| first_time(&**store, &[BUFFER], from))
    }

    /// Input with timestamps before `until`, in order of timestamps and then of arrival: until there are `elements` of
    /// them or of `bytes` bytes; one at least, if there is one.
    pub fn buffered(&self, until: Timestamp, elements: usize, bytes: usize) -> Result<Vec<Buffered>, StoreError> {
        let inner = self.shared.inner();
        let (mut found, mut total) = (Vec::new(), 0);
        scan(&*inner.store, BUFFER, inner.buffer.floor(), until, |timestamp, id, element| {
            total += element.len();
            let id = Reader(id).take_array()?;
            found.push(Buffered { timestamp, element: Bytes::copy_from_slice(element), id });
            Ok(found.len() < elements && total < bytes)
        })?;
        Ok(found)
    }

    /// All of it as it is now ([`Store::freeze`]). No bundle that is not committed is in it.
    pub fn freeze(&self) -> Result<Box<dyn FrozenStore>, StoreError> {
        self.shared.inner().store.freeze()
    }
}

#[cfg(test)]
impl KeyedState {
    pub(super) fn has_processing_timers(&self, key: &[u8], window: &[u8]) -> Result<bool, StoreError> {
        let Inner { store, timers, .. } = &mut *self.shared.inner();
        timers.has(&**store, TimeDomain::ProcessingTime, key, window)
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }
}

impl Shared {
    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn apply(&mut self, changes: Changes, batch: &mut WriteBatch) -> Result<(), StoreError> {
        let forget = changes.expired.iter().map(|Expiry { key, window, .. }| {
            let (key, window) = (key.clone(), window.clone());
            TimerChange::Forget { key, window }
        });
        self.timers.apply(&*self.store, changes.timers.into_iter().chain(forget), batch)?;
        let gone: HashSet<&Expiry> = changes.expired.iter().collect();
        for expiry in changes.expire_at.iter().filter(|expiry| !gone.contains(expiry)) {
            let key = expiry.record();
            if self.store.get(&key)?.is_none() {
                batch.put(key, Bytes::new());
                self.expiries.inserted(expiry.at);
            }
        }
        for expiry in &changes.expired {
            batch.delete(expiry.record());
            self.expiries.removed(expiry.at);
        }
        if !changes.buffer.is_empty() {
            let mut next = self.next_sequence()?;
            for Unsorted { key, timestamp, element } in changes.buffer {
                let id = [&next.to_be_bytes()[..], &key_group(&key)].concat();
                batch.put([&[BUFFER], &timestamp.to_wire()[..], &id].concat(), element);
                self.buffer.inserted(timestamp);
                next += 1;
            }
            batch.put(&[NEXT_SEQUENCE][..], next.to_be_bytes().to_vec());
            self.next_sequence = Some(next);
        }
        for Buffered { timestamp, id, .. } in changes.unbuffered {
            batch.delete([&[BUFFER], &timestamp.to_wire()[..], &id].concat());
            self.buffer.removed(timestamp);
        }
        Ok(())
    }

    fn next_sequence(&mut self) -> Result<u64, StoreError> {
        if let Some(next) = self.next_sequence {
            return Ok(next);
        }
        let stored = self.store.get(&[NEXT_SEQUENCE])?;
        Ok(stored.map(|next| Reader(&next).take_array()).transpose()?.map_or(0, u64::from_be_bytes))
    }
}

/// Visits time, rest of the key, and value of a section's records, until `visit` returns false.
fn scan(
    store: &dyn Store,
    section: u8,
    from: Timestamp,
    until: Timestamp,
    mut visit: impl FnMut(Timestamp, &[u8], &[u8]) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let at = |time: Timestamp| [&[section], &time.to_wire()[..]].concat();
    let mut result = Ok(true);
    store.scan(&at(from), Some(&at(until)), &mut |key, value| {
        let mut key = Reader(&key[1..]);
        result = key.take_time().and_then(|time| visit(time, key.0, value));
        matches!(result, Ok(true))
    })?;
    result.map(|_| ())
}

impl Expiry {
    fn record(&self) -> Vec<u8> {
        let mut record = vec![EXPIRIES];
        record.extend_from_slice(&self.at.to_wire());
        put_scope(&mut record, &self.key, &self.window);
        record
    }
}

/// What the keys of all cells of a key and window start with.
fn cells(key: &[u8], window: &[u8]) -> Vec<u8> {
    let mut scope = vec![CELLS];
    put_scope(&mut scope, key, window);
    scope
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("timers", &self.timers).finish_non_exhaustive()
    }
}
