//! What windows hold, on an ordered store.
//!
//! Elements are numbered in each content as they come. A content is append-only but for slots that are emptied, and the
//! reader says up to which number it may see, so what has not been fired yet can stand behind what has.
//!
//! | first byte | then | value |
//! |---|---|---|
//! | [`SLOTS`] | content, key | the slot: first live number, latest pane, number of values |
//! | [`NAMES`] | content, the number at which the slot was made | key |
//! | [`VALUES`] | content, length of the key, key, number | a varint count, then so many values |
//!
//! | [`WINDOWS`] | name of the window | as [`super::saved`] has it; only in a store that is saved |
//! | [`TABLE`] | | likewise |
//!
//! An iterable has one slot, of the empty key. Numbers and lengths are big endian, so that they sort.

use std::collections::{HashMap, HashSet};

use bytes::{Bytes, BytesMut};

use super::panes::{Effect, Held, Later};
use crate::element::{get_varint, put_varint};
use crate::state::{Store, StoreError, WriteBatch};

const SLOTS: u8 = 1;
const NAMES: u8 = 2;
const VALUES: u8 = 3;
pub(super) const WINDOWS: u8 = 4;
pub(super) const TABLE: u8 = 5;

/// One version of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ContentId(pub(super) u64);

/// The elements of one key of a content.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Numbers below are of elements that were replaced.
    from: u64,
    held: Held,
}

/// Elements of one pane for one slot.
pub(super) struct Arrival<'a> {
    pub(super) key: &'a [u8],
    /// `None`: of no pane.
    pub(super) pane: Option<u64>,
    pub(super) count: u64,
    pub(super) values: &'a [u8],
}

/// Something that readers may still be at.
#[derive(Debug)]
pub(super) struct Doomed(Bytes, Bytes);

pub(super) struct Contents {
    pub(super) store: Box<dyn Store>,
    /// The last content that was created.
    pub(super) next: u64,
}

/// Changes on their way to the store.
#[derive(Default)]
pub(super) struct Changes {
    batch: WriteBatch,
    slots: HashMap<(ContentId, Bytes), Slot>,
    /// What the changes leave behind.
    pub(super) doomed: Vec<Doomed>,
}

impl Contents {
    pub(super) fn new(store: Box<dyn Store>) -> Contents {
        Contents { store, next: 0 }
    }

    /// A new, empty content.
    pub(super) fn create(&mut self) -> ContentId {
        self.next += 1;
        ContentId(self.next)
    }

    fn slot(&self, content: ContentId, key: &[u8]) -> Result<Option<Slot>, StoreError> {
        let Some(record) = self.store.get(&slot_key(content, key))? else { return Ok(None) };
        let mut rest = &record[..];
        let mut next = || -> Result<u64, StoreError> {
            let (number, length) = get_varint(rest).map_err(|_| damaged())?;
            rest = &rest[length..];
            Ok(number)
        };
        let (from, newest, values) = (next()?, next()?, next()?);
        Ok(Some(Slot { from, held: Held { newest: newest.checked_sub(1), values } }))
    }

    /// Adds elements to a content as number `number`. False if they were dropped.
    pub(super) fn add(
        &self,
        changes: &mut Changes,
        (content, number): (ContentId, u64),
        later: Later,
        arrival: &Arrival<'_>,
    ) -> Result<bool, StoreError> {
        let at = (content, Bytes::copy_from_slice(arrival.key));
        let known = match changes.slots.get(&at) {
            Some(slot) => Some(*slot),
            None => self.slot(content, arrival.key)?,
        };
        if known.is_none() {
            changes.batch.put(name_key(content, number), at.1.clone());
        }
        let mut slot = known.unwrap_or_default();
        match later.effect(slot.held, arrival.pane) {
            Effect::Dropped => return Ok(false),
            Effect::Joins => {}
            Effect::Replaces => {
                let from = value_key(content, arrival.key, slot.from);
                changes.doomed.push(Doomed(from, value_key(content, arrival.key, number)));
                slot = Slot { from: number, held: Held::default() };
            }
        }
        slot.held.values += arrival.count;
        slot.held.newest = slot.held.newest.max(arrival.pane);
        let mut record = Vec::with_capacity(10 + arrival.values.len());
        put_varint(&mut record, arrival.count);
        record.extend_from_slice(arrival.values);
        changes.batch.put(value_key(content, arrival.key, number), record);
        changes.slots.insert(at, slot);
        Ok(true)
    }

    /// Does all of the changes.
    pub(super) fn commit(&mut self, mut changes: Changes) -> Result<(), StoreError> {
        for ((content, key), slot) in changes.slots {
            let mut record = Vec::with_capacity(12);
            put_varint(&mut record, slot.from);
            put_varint(&mut record, slot.held.newest.map_or(0, |pane| pane + 1));
            put_varint(&mut record, slot.held.values);
            changes.batch.put(slot_key(content, &key), record);
        }
        self.store.write(changes.batch)
    }

    /// Removes what no reader is at any more.
    pub(super) fn remove(&mut self, doomed: impl IntoIterator<Item = Doomed>) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for Doomed(from, to) in doomed {
            batch.delete_range(from, to);
        }
        if batch.is_empty() { Ok(()) } else { self.store.write(batch) }
    }

    /// The first live number of a slot.
    pub(super) fn start(&self, content: ContentId, key: &[u8]) -> Result<Option<u64>, StoreError> {
        Ok(self.slot(content, key)?.map(|slot| slot.from))
    }

    /// Removes every content that is not among `live`.
    pub(super) fn keep_only(&mut self, live: &HashSet<ContentId>) -> Result<(), StoreError> {
        for section in [SLOTS, NAMES, VALUES] {
            let mut at = 0;
            loop {
                let mut found = None;
                let (from, to) = (prefix(section, at).freeze(), prefix(section + 1, 0).freeze());
                self.store.scan(&from, Some(&to), &mut |key, _| {
                    found = key.get(1..9).and_then(|id| id.first_chunk()).map(|id| u64::from_be_bytes(*id));
                    false
                })?;
                let Some(id) = found else { break };
                if !live.contains(&ContentId(id)) {
                    self.remove(ContentId(id).doomed())?;
                }
                let Some(next) = id.checked_add(1) else { break };
                at = next;
            }
        }
        Ok(())
    }

    /// How many records there are.
    #[cfg(test)]
    pub(super) fn records(&self) -> usize {
        let mut count = 0;
        let all = self.store.scan(&[], None, &mut |_, _| {
            count += 1;
            true
        });
        all.unwrap();
        count
    }

    /// Visits count and values of a slot's elements numbered `from..to`, with the number, until `visit` returns false.
    pub(super) fn values(
        &self,
        content: ContentId,
        key: &[u8],
        (from, to): (u64, u64),
        mut visit: impl FnMut(u64, u64, &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let mut fault = None;
        self.store.scan(
            &value_key(content, key, from),
            Some(&value_key(content, key, to)),
            &mut |key, record| match (number_at_end(key), get_varint(record)) {
                (Some(number), Ok((count, length))) => visit(number, count, &record[length..]),
                _ => {
                    fault = Some(damaged());
                    false
                }
            },
        )?;
        fault.map_or(Ok(()), Err)
    }

    /// Visits the keys of slots made at numbers `from..to`, with that number, until `visit` returns false.
    pub(super) fn keys(
        &self,
        content: ContentId,
        (from, to): (u64, u64),
        mut visit: impl FnMut(u64, &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let mut fault = None;
        self.store.scan(&name_key(content, from), Some(&name_key(content, to)), &mut |name, key| {
            let Some(number) = number_at_end(name) else {
                fault = Some(damaged());
                return false;
            };
            visit(number, key)
        })?;
        fault.map_or(Ok(()), Err)
    }
}

impl ContentId {
    /// All of it.
    pub(super) fn doomed(self) -> impl Iterator<Item = Doomed> {
        [SLOTS, NAMES, VALUES]
            .into_iter()
            .map(move |section| Doomed(prefix(section, self.0).freeze(), prefix(section, self.0 + 1).freeze()))
    }
}

fn prefix(section: u8, content: u64) -> BytesMut {
    let mut key = BytesMut::with_capacity(32);
    key.extend_from_slice(&[section]);
    key.extend_from_slice(&content.to_be_bytes());
    key
}

fn slot_key(content: ContentId, key: &[u8]) -> Bytes {
    let mut out = prefix(SLOTS, content.0);
    out.extend_from_slice(key);
    out.freeze()
}

fn name_key(content: ContentId, number: u64) -> Bytes {
    let mut out = prefix(NAMES, content.0);
    out.extend_from_slice(&number.to_be_bytes());
    out.freeze()
}

fn value_key(content: ContentId, key: &[u8], number: u64) -> Bytes {
    let mut out = prefix(VALUES, content.0);
    // A key is less than 2 GiB, as elements are.
    out.extend_from_slice(&(key.len() as u32).to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(&number.to_be_bytes());
    out.freeze()
}

fn number_at_end(key: &[u8]) -> Option<u64> {
    key.last_chunk().map(|number| u64::from_be_bytes(*number))
}

pub(super) fn damaged() -> StoreError {
    StoreError { doing: "read a side input", why: "a record is damaged".into() }
}
