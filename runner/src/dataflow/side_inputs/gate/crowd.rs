//! The crowd: what waits for windows that have no queue of their own.
//!
//! Windows may wait by the hundred thousand, each with little, and become ready in any order. Their batches are records of
//! one ordered store, by window and then in order of arrival: each is written once, and read and removed once, when its
//! window goes on. The store spills to disk, so what is in memory for a window is its name and where its records are.
//!
//! (One queue for all of them was read and written anew whenever some could go on, and so once for every few windows.)

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::super::super::carried::FrozenBatches;
use crate::element::Batch;
use crate::state::{Reader, Store, StoreError, Stores, WriteBatch, put_part};
use crate::time::{Moment, Timestamp};

/// Bytes that are written at once.
const WRITE: usize = 1 << 20;
/// Bytes that are read at once, or one batch.
const READ: usize = 1 << 20;

/// Opens the store when the first window needs it.
pub(super) type Open = Box<dyn Fn() -> Result<Box<dyn Store>, StoreError>>;

/// See the module.
pub(super) struct Crowd {
    open: Open,
    /// Reads what was saved of the store.
    stores: Option<Stores>,
    store: Option<Box<dyn Store>>,
    windows: HashMap<Bytes, Place>,
    /// How many windows are held at which watermark.
    watermarks: BTreeMap<i64, usize>,
    /// Where all of it is held.
    epoch: u64,
    next: u64,
    /// Not yet written.
    writes: WriteBatch,
    written: usize,
}

/// Where a window's records are, and the watermark that they are held at.
#[derive(Clone, Copy)]
struct Place {
    watermark: i64,
    from: u64,
    until: u64,
}

/// What waited for a window that has become ready: to be read bit by bit.
pub(super) struct Released {
    window: Bytes,
    from: u64,
    until: u64,
    /// Where it is held until it has been read.
    pub(super) held: Moment,
}

impl Crowd {
    pub(super) fn new(open: Open, stores: Option<Stores>) -> Crowd {
        Crowd {
            open,
            stores,
            store: None,
            windows: HashMap::new(),
            watermarks: BTreeMap::new(),
            epoch: 0,
            next: 0,
            writes: WriteBatch::default(),
            written: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    pub(super) fn contains(&self, window: &[u8]) -> bool {
        self.windows.contains_key(window)
    }

    /// Where its windows are held, if there are any.
    pub(super) fn held(&self) -> Option<Moment> {
        let (watermark, _) = self.watermarks.first_key_value()?;
        Some(Moment { epoch: self.epoch, watermark: *watermark })
    }

    /// It no longer holds up the epochs before `epoch`.
    pub(super) fn lift(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// Adds a batch of `window`; true if the window was not here.
    pub(super) fn push(&mut self, window: &Bytes, moment: Moment, batch: &Batch) -> io::Result<bool> {
        self.epoch = self.held().map_or(moment, |held| held.of_both(moment)).epoch;
        let sequence = self.next;
        self.next += 1;
        let before = self.windows.get(window).copied();
        let place = match before {
            Some(place) => Place { watermark: place.watermark.min(moment.watermark), until: self.next, ..place },
            None => Place { watermark: moment.watermark, from: sequence, until: self.next },
        };
        if before.is_none_or(|before| before.watermark != place.watermark) {
            *self.watermarks.entry(place.watermark).or_default() += 1;
            if let Some(before) = before {
                self.let_go(before.watermark);
            }
        }
        self.windows.insert(window.clone(), place);
        let record = encode(moment, batch);
        self.written += record.len();
        self.writes.put(key(window, sequence), record);
        if self.written > WRITE {
            self.flush()?;
        }
        Ok(before.is_none())
    }

    /// Writes what was pushed.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.writes.is_empty() {
            return Ok(());
        }
        self.written = 0;
        let writes = std::mem::take(&mut self.writes);
        let store = match &mut self.store {
            Some(store) => store,
            None => self.store.insert((self.open)().map_err(io::Error::other)?),
        };
        store.write(writes).map_err(io::Error::other)
    }

    /// All that waits, and what goes on and was not taken yet.
    pub(super) fn freeze(&mut self) -> io::Result<Option<FrozenBatches>> {
        self.flush()?;
        let (Some(store), Some(stores)) = (&mut self.store, self.stores.clone()) else { return Ok(None) };
        let frozen = store.freeze().map_err(io::Error::other)?;
        Ok(Some(FrozenBatches::new(move |see| {
            stores.read_frozen(frozen, &mut |_, record| decode(record).and_then(|(moment, batch)| see(moment, batch)))
        })))
    }

    /// A window goes on.
    pub(super) fn release(&mut self, window: &[u8]) -> Option<Released> {
        let (window, Place { watermark, from, until }) = self.windows.remove_entry(window)?;
        self.let_go(watermark);
        Some(Released { window, from, until, held: Moment { epoch: self.epoch, watermark } })
    }

    /// Removes what waits for a window.
    pub(super) fn discard(&mut self, window: &[u8]) -> io::Result<()> {
        if let Some(Released { window, from, until, .. }) = self.release(window) {
            self.writes.delete_range(key(&window, from), key(&window, until));
            self.flush()?;
        }
        Ok(())
    }

    /// Takes the next batches of a window that goes on; none when all were taken.
    pub(super) fn take(&mut self, released: &mut Released) -> io::Result<Vec<(Moment, Batch)>> {
        self.flush()?;
        let mut taken = Ok(Vec::new());
        let Some(store) = &self.store else { return taken };
        let (from, until) = (key(&released.window, released.from), key(&released.window, released.until));
        let mut bytes = 0;
        let mut read = Vec::new();
        let scanned = store.scan(&from, Some(&until), &mut |key, record| {
            bytes += record.len();
            read.push(Bytes::copy_from_slice(key));
            match (decode(record), &mut taken) {
                (Ok(next), Ok(taken)) => taken.push(next),
                (Err(error), _) => taken = Err(error),
                (_, Err(_)) => {}
            }
            bytes < READ && taken.is_ok()
        });
        scanned.map_err(io::Error::other)?;
        let taken = taken?;
        if let Some(sequence) = read.last().and_then(|key| key.last_chunk()) {
            released.from = u64::from_be_bytes(*sequence) + 1;
            read.into_iter().for_each(|key| self.writes.delete(key));
            self.flush()?;
        }
        Ok(taken)
    }

    /// One window fewer is held at `watermark`.
    fn let_go(&mut self, watermark: i64) {
        if let Some(count) = self.watermarks.get_mut(&watermark) {
            *count -= 1;
            if *count == 0 {
                self.watermarks.remove(&watermark);
            }
        }
    }
}

/// No window's records are between those of another.
fn key(window: &[u8], sequence: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(window.len() + 10);
    put_part(&mut key, window);
    key.extend_from_slice(&sequence.to_be_bytes());
    key
}

/// A batch with its moment: epoch, watermark, least timestamp, the number of elements, the end of each, the elements.
fn encode(moment: Moment, batch: &Batch) -> Vec<u8> {
    let mut record = Vec::with_capacity(28 + 4 * batch.len() + batch.data().len());
    record.extend_from_slice(&moment.epoch.to_le_bytes());
    record.extend_from_slice(&moment.watermark.to_le_bytes());
    record.extend_from_slice(&batch.min_timestamp().0.to_le_bytes());
    record.extend_from_slice(&(batch.len() as u32).to_le_bytes());
    batch.ends().iter().for_each(|end| record.extend_from_slice(&end.to_le_bytes()));
    record.extend_from_slice(batch.data());
    record
}

fn decode(record: &[u8]) -> io::Result<(Moment, Batch)> {
    let mut reader = Reader(record);
    let mut read = || -> Result<_, StoreError> {
        let moment = Moment {
            epoch: u64::from_le_bytes(reader.take_array()?),
            watermark: i64::from_le_bytes(reader.take_array()?),
        };
        let least = Timestamp(i64::from_le_bytes(reader.take_array()?));
        let count = u32::from_le_bytes(reader.take_array()?);
        let ends =
            (0..count).map(|_| reader.take_array().map(u32::from_le_bytes)).collect::<Result<Arc<[u32]>, _>>()?;
        Ok((moment, least, ends))
    };
    let (moment, least, ends) = read().map_err(io::Error::other)?;
    let data = Bytes::copy_from_slice(reader.0);
    if !ends.is_sorted() || ends.last().map_or(0, |end| *end as usize) != data.len() {
        return Err(io::Error::other("a batch that waited was changed"));
    }
    Ok((moment, Batch::new(data, ends, least)))
}
