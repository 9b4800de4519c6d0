//! The store in memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;

use super::store::{FrozenStore, Store, StoreError, Write, WriteBatch};
use crate::memory::Reservation;

/// The one file of a snapshot: [`MAGIC`], the number of entries as eight bytes, then keys and values, each behind its
/// length as four bytes; all little endian. Another layout gets another magic.
const SNAPSHOT: &str = "entries";
const MAGIC: &[u8; 8] = b"ferrome1";

/// What an entry takes besides its bytes, about.
const ENTRY: usize = 96;

/// An ordered map in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    entries: BTreeMap<Bytes, Bytes>,
    size: usize,
    /// `None`: its memory is not counted.
    reservation: Option<Reservation>,
    is_over: bool,
}

impl MemoryStore {
    /// An empty store whose memory is counted, so that others spill sooner.
    pub(super) fn counted(reservation: Reservation) -> MemoryStore {
        MemoryStore { reservation: Some(reservation), ..MemoryStore::default() }
    }

    /// Whether it holds more than its budget has room for.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Takes everything out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (Bytes, Bytes)> {
        self.size = 0;
        self.count();
        std::mem::take(&mut self.entries).into_iter()
    }

    fn count(&mut self) {
        let Some(reservation) = &mut self.reservation else { return };
        let held = reservation.held();
        if self.size <= held {
            reservation.shrink(held - self.size);
            self.is_over = false;
        } else {
            self.is_over = !reservation.try_grow(self.size - held);
            if self.is_over {
                reservation.force_grow(self.size - held);
            }
        }
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        let key_size = key.len() + ENTRY;
        self.size += key_size + value.len();
        if let Some(old) = self.entries.insert(key, value) {
            self.size -= key_size + old.len();
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(old) = self.entries.remove(key) {
            self.size -= key.len() + ENTRY + old.len();
        }
    }
}

/// The entries that a store had. Keys and values are shared with it.
struct FrozenMemory(BTreeMap<Bytes, Bytes>);

impl FrozenMemory {
    fn write_to(&self, into: &Path) -> io::Result<()> {
        fs::create_dir(into)?;
        let mut file = BufWriter::new(File::create_new(into.join(SNAPSHOT))?);
        file.write_all(MAGIC)?;
        file.write_all(&(self.0.len() as u64).to_le_bytes())?;
        for part in self.0.iter().flat_map(|(key, value)| [key, value]) {
            let length = u32::try_from(part.len()).map_err(|_| io::Error::other("a record is too long"))?;
            file.write_all(&length.to_le_bytes())?;
            file.write_all(part)?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }
}

impl FrozenStore for FrozenMemory {
    fn write(self: Box<Self>, into: &Path) -> Result<Option<u64>, StoreError> {
        let written = self.write_to(into);
        written.map_err(|error| StoreError { doing: "write a snapshot", why: error.to_string() })?;
        Ok(Some(self.0.len() as u64))
    }
}

/// Reads what a snapshot of a store in memory holds.
pub(super) fn read_snapshot(
    folder: &Path,
    visit: &mut dyn FnMut(Bytes, Bytes) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let failed = |error: io::Error| StoreError { doing: "read a snapshot", why: error.to_string() };
    let file = File::open(folder.join(SNAPSHOT)).map_err(failed)?;
    let mut left = file.metadata().map_err(failed)?.len();
    let mut file = BufReader::new(file);
    let mut take = |length: usize| {
        left = left.checked_sub(length as u64).ok_or_else(|| failed(io::ErrorKind::UnexpectedEof.into()))?;
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes).map_err(failed)?;
        Ok::<_, StoreError>((Bytes::from(bytes), left))
    };
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    let (magic, _) = take(MAGIC.len())?;
    if *magic != *MAGIC {
        return Err(failed(io::Error::other(format!("{} is none of ours, or of another version", folder.display()))));
    }
    let (count, mut left) = take(8)?;
    let mut part = || {
        let length = number(&take(4)?.0) as usize;
        take(length)
    };
    for _ in 0..number(&count) {
        let (key, _) = part()?;
        let value;
        (value, left) = part()?;
        visit(key, value)?;
    }
    match left {
        0 => Ok(()),
        _ => Err(failed(io::Error::other(format!("{left} bytes stand behind its last entry")))),
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.entries.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, value) in self.entries.range::<[u8], _>((Bound::Included(from), to)) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        for write in batch.writes {
            match write {
                Write::Put(key, value) => self.put(key, value),
                Write::Delete(key) => self.remove(&key),
                Write::DeleteRange(from, to) if from < to => {
                    let doomed: Vec<Bytes> = self.entries.range(from..to).map(|(key, _)| key.clone()).collect();
                    doomed.iter().for_each(|key| self.remove(key));
                }
                Write::DeleteRange(..) => {}
            }
        }
        self.count();
        Ok(())
    }

    fn freeze(&mut self) -> Result<Box<dyn FrozenStore>, StoreError> {
        Ok(Box::new(FrozenMemory(self.entries.clone())))
    }
}
