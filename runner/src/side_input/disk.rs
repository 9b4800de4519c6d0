//! A side input that is on disk.

use std::io;

use bytes::Bytes;

use super::storage;
use crate::executor::StateError;
use crate::grouping::{Head, Run, RunReader, Values, hash};

/// Bytes of the run between two entries of the index: about what a lookup reads. An entry of the index takes about a
/// hundred bytes of memory.
const STRIDE: u64 = 16 << 10;

/// Bytes read at once when a window is listed.
const READ_AHEAD: usize = 256 << 10;

/// A section up to this length is taken from the reader's buffer.
const LOAD_LIMIT: u64 = 64 << 10;

/// Where some of the records are, in the order of the run.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    window: Bytes,
    key: Bytes,
    position: u64,
}

/// The order of the run: its keys are our windows, its windows our keys.
fn order<'a>(hash: u64, window: &'a [u8], key: &'a [u8]) -> (u64, &'a [u8], &'a [u8]) {
    (hash, window, key)
}

impl Index {
    /// Told of each record in turn.
    pub(super) fn visit(&mut self, head: &Head, position: u64) {
        if self.entries.last().is_some_and(|last| position - last.position < STRIDE) {
            return;
        }
        // Copied, because the heads share large read buffers.
        let (window, key) = (Bytes::copy_from_slice(&head.key), Bytes::copy_from_slice(&head.window));
        self.entries.push(Entry { hash: head.hash, window, key, position });
    }

    /// The last known record that is not after the one sought.
    fn before(&self, hash: u64, window: &[u8], key: &[u8]) -> Option<u64> {
        let sought = order(hash, window, key);
        let after = self.entries.partition_point(|entry| order(entry.hash, &entry.window, &entry.key) <= sought);
        self.entries.get(after.saturating_sub(1)).map(|entry| entry.position)
    }
}

/// One sorted run; positions are those of records.
#[derive(Debug)]
pub(super) struct Disk {
    run: Run,
    index: Index,
}

impl Disk {
    pub(super) fn new(run: Run, index: Index) -> Disk {
        Disk { run, index }
    }

    pub(super) fn find(&self, window: &[u8], key: &[u8]) -> io::Result<Option<Values>> {
        let hash = hash(window);
        let Some((mut reader, _, head)) = self.seek((hash, window, key), STRIDE as usize)? else { return Ok(None) };
        if order(head.hash, &head.key, &head.window) != order(hash, window, key) {
            return Ok(None);
        }
        Ok(Some(values(&mut reader, &head)?))
    }

    /// As in memory.
    pub(super) fn groups(
        &self,
        window: &[u8],
        position: Option<u64>,
        mut add: impl FnMut(&[u8], u64, &Values) -> Result<bool, StateError>,
    ) -> Result<Option<u64>, StateError> {
        let found = match position {
            Some(position) => {
                let mut reader = RunReader::at(&self.run, position, READ_AHEAD);
                reader.next().map_err(storage)?.map(|head| (reader, position, head))
            }
            None => self.seek((hash(window), window, b""), READ_AHEAD).map_err(storage)?,
        };
        let Some((mut reader, mut position, mut head)) = found else { return Ok(None) };
        while head.key == window {
            let values = values(&mut reader, &head).map_err(storage)?;
            if !add(&head.window, head.totals.count, &values)? {
                return Ok(Some(position));
            }
            position = reader.position();
            match reader.next().map_err(storage)? {
                Some(next) => head = next,
                None => break,
            }
        }
        Ok(None)
    }

    /// The first record that is not before the one sought, where it starts, and a reader that has just read its head.
    fn seek(&self, sought: (u64, &[u8], &[u8]), ahead: usize) -> io::Result<Option<(RunReader, u64, Head)>> {
        let (hash, window, key) = sought;
        let Some(mut position) = self.index.before(hash, window, key) else { return Ok(None) };
        let mut reader = RunReader::at(&self.run, position, ahead);
        while let Some(head) = reader.next()? {
            if order(head.hash, &head.key, &head.window) >= sought {
                return Ok(Some((reader, position, head)));
            }
            position = reader.position();
        }
        Ok(None)
    }
}

/// The values of the record that was just read: small ones from the reader's buffer.
fn values(reader: &mut RunReader, head: &Head) -> io::Result<Values> {
    if head.section <= LOAD_LIMIT {
        return Ok(Values::loaded(reader.take_section()?));
    }
    Ok(Values::on_disk(reader.section()))
}
