//! Bags of encoded values: what every cell is made of.
//!
//! A bag is a head and chunks. The head has the last part of the values (the *tail*), which is all of a small bag, and
//! says how many bytes come before it, in chunks that are keyed by their first byte's position. A chunk never changes:
//! appending adds to the tail, or makes it a chunk and starts the next one. So a single value is read by one get and
//! rewritten by one put, a bag that grows by little rewrites little, and the position where a chunk starts stays
//! good as long as the bag is only appended to. SDKs that cache the start of a bag rely on that.
//!
//! Parts are whole values, none longer than a page unless a single value is, or nobody but the SDK can tell where a value
//! ends.
//!
//! Under the key of its cell, the head is at `0, item` and chunks are at `1, length of item, item, position`, where
//! the item is what tells the bags of one cell apart: a map key, a sort key, or nothing. So one range has all heads of
//! a cell, in the order of their items.

use bytes::{Bytes, BytesMut};

use crate::element::{WireCoder, put_varint};

use super::layout::{Reader, put_part};
use super::store::{Store, StoreError, WriteBatch};

/// From how many bytes on a tail is made a chunk when more comes.
const CHUNK: usize = 4 << 10;

const HEADS: u8 = 0;
const CHUNKS: u8 = 1;

/// The key of a bag's head.
pub(super) fn head_key(cell: &[u8], item: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(cell.len() + 1 + item.len());
    key.extend_from_slice(cell);
    key.push(HEADS);
    key.extend_from_slice(item);
    key
}

/// What the keys of a bag's chunks start with.
fn chunks_key(cell: &[u8], item: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(cell.len() + 12 + item.len());
    key.extend_from_slice(cell);
    key.push(CHUNKS);
    put_part(&mut key, item);
    key
}

/// Where the heads of all items from `from` on, before `to`, are.
pub(super) fn heads_range(cell: &[u8], from: &[u8], to: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
    let end = match to {
        Some(to) => head_key(cell, to),
        None => [cell, &[CHUNKS]].concat(),
    };
    (head_key(cell, from), end)
}

/// Where the chunks of all items from `from` on, before `to`, are: of items of one length, or of all.
pub(super) fn chunks_range(cell: &[u8], bounds: Option<(&[u8], &[u8])>) -> (Vec<u8>, Vec<u8>) {
    match bounds {
        Some((from, to)) => (chunks_key(cell, from), chunks_key(cell, to)),
        None => ([cell, &[CHUNKS]].concat(), [cell, &[CHUNKS + 1]].concat()),
    }
}

fn at(chunks: &[u8], position: u64) -> Vec<u8> {
    [chunks, &position.to_be_bytes()].concat()
}

/// Cuts whole values into parts of at most `limit` bytes, unless one value is longer or nobody can tell where one ends.
pub(super) fn parts(coder: Option<&WireCoder>, data: &Bytes, limit: usize) -> Result<Vec<Bytes>, String> {
    let Some(coder) = coder.filter(|_| data.len() > limit) else {
        return Ok(vec![data.clone()]);
    };
    let (mut parts, mut start, mut end) = (Vec::new(), 0, 0);
    while end < data.len() {
        let length = coder.skip(&data[end..]).map_err(|error| error.to_string())?;
        if length == 0 {
            return Err("a value without bytes".into());
        }
        if end > start && end + length - start > limit {
            parts.push(data.slice(start..end));
            start = end;
        }
        end += length;
    }
    parts.push(data.slice(start..end));
    Ok(parts)
}

#[cfg(test)]
thread_local! {
    static MEASURED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How often this thread has asked a bag for its bytes.
#[cfg(test)]
pub(super) fn measured() -> usize {
    MEASURED.get()
}

/// A bag as a bundle sees it: what the store has, and what the bundle changed.
#[derive(Debug, Default)]
pub(super) struct Bag {
    /// Where the chunks in the store end; 0 if it has none.
    stored_end: u64,
    /// The chunks in the store are to be removed.
    void: bool,
    /// Chunks that the store has not yet.
    closed: Vec<(u64, Bytes)>,
    closed_bytes: usize,
    tail_at: u64,
    tail: Bytes,
    /// Something was added, if only values without bytes: a set is a map of such.
    present: bool,
    changed: bool,
}

impl Bag {
    /// The bag as the store has it.
    pub(super) fn load(store: &dyn Store, cell: &[u8], item: &[u8]) -> Result<Bag, StoreError> {
        let Some(head) = store.get(&head_key(cell, item))? else { return Ok(Bag::default()) };
        let mut reader = Reader(&head);
        let tail_at = reader.take_varint()?;
        let tail = head.slice(head.len() - reader.0.len()..);
        Ok(Bag { stored_end: tail_at, tail_at, tail, present: true, ..Bag::default() })
    }

    /// Adds whole values, at most a page or one value.
    pub(super) fn append(&mut self, part: Bytes) {
        if self.present && part.is_empty() {
            return;
        }
        (self.present, self.changed) = (true, true);
        if self.tail.is_empty() {
            self.tail = part;
            return;
        }
        let tail = std::mem::take(&mut self.tail);
        if tail.len() >= CHUNK || tail.len() + part.len() > super::bundle::PAGE {
            let end = self.tail_at + tail.len() as u64;
            self.closed_bytes += tail.len();
            self.closed.push((self.tail_at, tail));
            self.tail_at = end;
            self.tail = part;
        } else {
            let mut tail = tail.try_into_mut().unwrap_or_else(|tail| {
                let mut copy = BytesMut::with_capacity(tail.len() + part.len());
                copy.extend_from_slice(&tail);
                copy
            });
            tail.extend_from_slice(&part);
            self.tail = tail.freeze();
        }
    }

    /// Removes all values.
    pub(super) fn clear(&mut self) {
        *self = Bag { stored_end: self.stored_end, void: true, changed: true, ..Bag::default() };
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.present
    }

    /// Bytes it holds in memory.
    pub(super) fn bytes(&self) -> usize {
        #[cfg(test)]
        MEASURED.set(MEASURED.get() + 1);
        size_of::<Bag>() + self.tail.len() + self.closed_bytes
    }

    /// All values, if they are in memory and in one piece.
    pub(super) fn whole(&self) -> Option<Bytes> {
        (self.tail_at == 0).then(|| self.tail.clone())
    }

    pub(super) fn view(&self) -> View<'_> {
        let stored_end = if self.void { 0 } else { self.stored_end };
        View { stored_end, closed: &self.closed, tail_at: self.tail_at, tail: &self.tail }
    }

    /// Writes what changed.
    pub(super) fn write(&self, cell: &[u8], item: &[u8], batch: &mut WriteBatch) {
        if !self.changed {
            return;
        }
        let chunks = chunks_key(cell, item);
        if self.void && self.stored_end > 0 {
            batch.delete_range(at(&chunks, 0), at(&chunks, self.stored_end));
        }
        for (position, chunk) in &self.closed {
            batch.put(at(&chunks, *position), chunk.clone());
        }
        if !self.present {
            batch.delete(head_key(cell, item));
        } else {
            let mut head = Vec::with_capacity(10 + self.tail.len());
            put_varint(&mut head, self.tail_at);
            head.extend_from_slice(&self.tail);
            batch.put(head_key(cell, item), head);
        }
    }
}

/// The contents of a bag.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    stored_end: u64,
    closed: &'a [(u64, Bytes)],
    tail_at: u64,
    tail: &'a [u8],
}

impl<'a> View<'a> {
    /// Of a bag as the store has it, by its head.
    pub(super) fn of_head(head: &'a [u8]) -> Result<View<'a>, StoreError> {
        let mut reader = Reader(head);
        let tail_at = reader.take_varint()?;
        Ok(View { stored_end: tail_at, closed: &[], tail_at, tail: reader.0 })
    }

    /// Visits the parts that start at `from` or later, with their positions, until `visit` returns false.
    pub(super) fn parts(
        &self,
        store: &dyn Store,
        (cell, item): (&[u8], &[u8]),
        from: u64,
        visit: &mut dyn FnMut(u64, &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        if from < self.stored_end {
            let chunks = chunks_key(cell, item);
            let (mut more, mut position) = (true, Ok(0));
            store.scan(&at(&chunks, from), Some(&at(&chunks, self.stored_end)), &mut |key, chunk| {
                position = Reader(&key[chunks.len()..]).take_array().map(u64::from_be_bytes);
                more = position.as_ref().is_ok_and(|position| visit(*position, chunk));
                more
            })?;
            position?;
            if !more {
                return Ok(());
            }
        }
        for (position, chunk) in self.closed {
            if *position >= from && !visit(*position, chunk) {
                return Ok(());
            }
        }
        if self.tail_at >= from {
            visit(self.tail_at, self.tail);
        }
        Ok(())
    }
}
