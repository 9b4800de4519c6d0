//! Sorted runs on disk.
//!
//! A run is a sequence of records, ascending by (hash of the key, key, window), each combination at most once. A record
//! is a header (hash, then varints and timestamps), the key, the window, and the section of values: frames of a length
//! and a count, four bytes each, and that many bytes of whole values.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::FRAME;
use super::table::{Table, Totals};
use crate::element::{get_varint, put_varint};
use crate::memory::{Budget, SpillFile, SpillReader, SpillWriter};
use crate::time::Timestamp;

/// Runs merged at once: bounds the memory for read buffers and the heap.
pub const FAN_IN: usize = 64;

/// Bytes read ahead in each run.
const READ_AHEAD: usize = 64 << 10;

/// Bytes before a frame's values.
pub(super) const FRAME_HEADER: usize = 8;

/// The longest header.
const MAX_HEADER: usize = 8 + 5 * 10 + 8 + 10;

/// A part of a file that holds one run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) file: Arc<SpillFile>,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Where a group's values are.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) file: Arc<SpillFile>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// A record without its values.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) hash: u64,
    pub(crate) key: Bytes,
    pub(crate) window: Bytes,
    pub(crate) totals: Totals,
    /// Length of the section of values.
    pub(crate) section: u64,
}

impl Head {
    fn order(&self) -> (u64, &[u8], &[u8]) {
        (self.hash, &self.key, &self.window)
    }
}

/// Writes runs, one after the other, into one file.
#[derive(Debug)]
pub(super) struct RunWriter {
    writer: SpillWriter,
    start: u64,
    scratch: Vec<u8>,
}

impl RunWriter {
    pub(super) fn create(budget: &Budget) -> io::Result<RunWriter> {
        Ok(RunWriter { writer: SpillWriter::create(budget)?, start: 0, scratch: Vec::new() })
    }

    /// Writes all of a table as one run.
    pub(super) fn write_table(&mut self, table: &Table) -> io::Result<Run> {
        table.in_order(|hash, key, window, group| {
            let totals = table.totals(group);
            // The frames of a small group become one.
            if totals.bytes <= FRAME as u64 && totals.count <= u64::from(u32::MAX) {
                self.header(hash, key, window, totals, totals.bytes + FRAME_HEADER as u64)?;
                self.frame_header(totals.bytes as usize, totals.count)?;
                return table.frames(group, |frame| self.writer.write(table.frame_bytes(&frame)));
            }
            let mut frames = 0;
            table.frames(group, |_| -> io::Result<()> {
                frames += FRAME_HEADER as u64;
                Ok(())
            })?;
            self.header(hash, key, window, totals, totals.bytes + frames)?;
            table.frames(group, |frame| {
                self.frame_header(frame.length, frame.count)?;
                self.writer.write(table.frame_bytes(&frame))
            })
        })?;
        self.end_run()
    }

    /// Merges runs into one. `visit` is told of each record and where it starts.
    pub(super) fn merge(&mut self, runs: &[Run], mut visit: impl FnMut(&Head, u64)) -> io::Result<Run> {
        let mut merge = Merge::new(runs)?;
        while let Some(mut head) = merge.pop()? {
            head.section = merge.taken().iter().map(|(_, length)| length).sum();
            // Small parts become one frame, so that the frames of a merged group do not stay as small as they were.
            let joins = merge.taken().len() > 1
                && head.totals.bytes <= FRAME as u64
                && head.totals.count <= u64::from(u32::MAX);
            if joins {
                head.section = head.totals.bytes + FRAME_HEADER as u64;
            }
            visit(&head, self.writer.position());
            self.header(head.hash, &head.key, &head.window, head.totals, head.section)?;
            if joins {
                self.frame_header(head.totals.bytes as usize, head.totals.count)?;
            }
            merge.sections(|reader, length| {
                if joins {
                    let section = reader.take(length as usize)?;
                    return each_frame(&section, |_, values| self.writer.write(values));
                }
                let mut left = length;
                while left > 0 {
                    let part = left.min(READ_AHEAD as u64);
                    self.writer.write(&reader.take(part as usize)?)?;
                    left -= part;
                }
                Ok(())
            })?;
        }
        self.end_run()
    }

    fn end_run(&mut self) -> io::Result<Run> {
        // Nothing of a run stays in the write buffer, so that it can be read at once.
        self.writer.seal()?;
        let start = std::mem::replace(&mut self.start, self.writer.position());
        Ok(Run { file: Arc::clone(self.writer.file()), start, end: self.start })
    }

    fn header(&mut self, hash: u64, key: &[u8], window: &[u8], totals: Totals, section: u64) -> io::Result<()> {
        let out = &mut self.scratch;
        out.clear();
        out.extend_from_slice(&hash.to_le_bytes());
        for number in [key.len() as u64, window.len() as u64, totals.count, totals.bytes, section] {
            put_varint(out, number);
        }
        out.extend_from_slice(&totals.earliest.0.to_le_bytes());
        put_varint(out, totals.latest.0.wrapping_sub(totals.earliest.0) as u64);
        out.extend_from_slice(key);
        out.extend_from_slice(window);
        self.writer.write(out)
    }

    fn frame_header(&mut self, length: usize, count: u64) -> io::Result<()> {
        self.writer.write(&encode_frame_header(length, count))
    }
}

/// Inverse of [`frame_header`]. A frame is shorter than 4 GiB, and has fewer values than that.
pub(super) fn encode_frame_header(length: usize, count: u64) -> [u8; FRAME_HEADER] {
    let mut header = [0; FRAME_HEADER];
    header[..4].copy_from_slice(&(length as u32).to_le_bytes());
    header[4..].copy_from_slice(&(count as u32).to_le_bytes());
    header
}

/// Length and count of the frame at the start of `bytes`.
pub(super) fn frame_header(bytes: &[u8]) -> io::Result<(usize, u64)> {
    let (length, rest) = bytes.split_first_chunk().ok_or_else(damaged)?;
    let count = rest.first_chunk().ok_or_else(damaged)?;
    Ok((u32::from_le_bytes(*length) as usize, u64::from(u32::from_le_bytes(*count))))
}

/// Calls `visit` with count and values of every frame of a section.
fn each_frame(mut section: &[u8], mut visit: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    while !section.is_empty() {
        let (length, count) = frame_header(section)?;
        let rest = &section[FRAME_HEADER..];
        let (values, rest) = rest.split_at_checked(length).ok_or_else(damaged)?;
        visit(count, values)?;
        section = rest;
    }
    Ok(())
}

pub(super) fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "spilled groups are damaged: was the file changed by someone else?")
}

/// Reads a run from some record on.
#[derive(Debug)]
pub(crate) struct RunReader {
    reader: SpillReader,
    /// Bytes of the last record's section that were not taken.
    rest: u64,
}

impl RunReader {
    /// A reader of all of a run.
    pub(crate) fn new(run: &Run) -> RunReader {
        RunReader::at(run, run.start, READ_AHEAD)
    }

    /// A reader from the record that starts at `position`, which reads `ahead` bytes at once.
    pub(crate) fn at(run: &Run, position: u64, ahead: usize) -> RunReader {
        RunReader { reader: SpillReader::new(Arc::clone(&run.file), position, run.end, ahead), rest: 0 }
    }

    /// The head of the next record; the values of the last one are skipped.
    pub(crate) fn next(&mut self) -> io::Result<Option<Head>> {
        self.reader.skip(std::mem::take(&mut self.rest));
        let bytes = self.reader.peek(MAX_HEADER)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut at = 8;
        let mut number = || {
            let (number, length) = get_varint(bytes.get(at..)?).ok()?;
            at += length;
            Some(number)
        };
        let numbers = [number(), number(), number(), number(), number()];
        let [Some(key), Some(window), Some(count), Some(total), Some(section)] = numbers else { return Err(damaged()) };
        let earliest = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or_else(damaged)?;
        let earliest = i64::from_le_bytes(*earliest);
        let (span, length) = get_varint(&bytes[at + 8..]).map_err(|_| damaged())?;
        at += 8 + length;
        let hash = u64::from_le_bytes(*bytes.first_chunk().ok_or_else(damaged)?);
        let latest = earliest.wrapping_add(span as i64);
        let totals = Totals { count, bytes: total, earliest: Timestamp(earliest), latest: Timestamp(latest) };
        self.reader.skip(at as u64);
        let key = self.reader.take(key as usize)?;
        let window = if window == 0 { Bytes::new() } else { self.reader.take(window as usize)? };
        self.rest = section;
        Ok(Some(Head { hash, key, window, totals, section }))
    }

    /// Where the last record's values are.
    pub(crate) fn section(&self) -> Section {
        Section { file: Arc::clone(self.reader.file()), offset: self.reader.position(), length: self.rest }
    }

    /// Takes the last record's section.
    pub(crate) fn take_section(&mut self) -> io::Result<Bytes> {
        self.reader.take(std::mem::take(&mut self.rest) as usize)
    }

    /// Where the next record starts.
    pub(crate) fn position(&self) -> u64 {
        self.reader.position() + self.rest
    }
}

/// A cursor's head in the heap, which gives the greatest first: so the order is turned round.
#[derive(Debug)]
struct Entry {
    head: Head,
    cursor: usize,
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        other.head.order().cmp(&self.head.order()).then_with(|| other.cursor.cmp(&self.cursor))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

/// Reads several runs as one.
#[derive(Debug)]
pub(super) struct Merge {
    cursors: Vec<RunReader>,
    heap: BinaryHeap<Entry>,
    /// Cursors that stand at the group last popped, with the lengths of their sections.
    taken: Vec<(usize, u64)>,
}

impl Merge {
    pub(super) fn new(runs: &[Run]) -> io::Result<Merge> {
        let cursors: Vec<RunReader> = runs.iter().map(RunReader::new).collect();
        let mut merge = Merge { heap: BinaryHeap::with_capacity(cursors.len()), cursors, taken: Vec::new() };
        for cursor in 0..merge.cursors.len() {
            merge.advance(cursor)?;
        }
        Ok(merge)
    }

    fn advance(&mut self, cursor: usize) -> io::Result<()> {
        if let Some(head) = self.cursors[cursor].next()? {
            self.heap.push(Entry { head, cursor });
        }
        Ok(())
    }

    /// The next key that [`Merge::pop`] will give.
    pub(super) fn peek(&mut self) -> io::Result<Option<(u64, &Bytes)>> {
        self.pass()?;
        Ok(self.heap.peek().map(|entry| (entry.head.hash, &entry.head.key)))
    }

    /// The next group, with the totals of all its parts. [`Merge::sections`] gives the parts.
    pub(super) fn pop(&mut self) -> io::Result<Option<Head>> {
        self.pass()?;
        let Some(Entry { mut head, cursor }) = self.heap.pop() else { return Ok(None) };
        self.taken.push((cursor, head.section));
        while let Some(entry) = self.heap.peek()
            && entry.head.order() == head.order()
        {
            self.taken.push((entry.cursor, entry.head.section));
            let more = entry.head.totals;
            head.totals.count += more.count;
            head.totals.bytes += more.bytes;
            head.totals.earliest = head.totals.earliest.min(more.earliest);
            head.totals.latest = head.totals.latest.max(more.latest);
            self.heap.pop();
        }
        Ok(Some(head))
    }

    /// The cursors at the group last popped, with the lengths of their sections.
    pub(super) fn taken(&self) -> &[(usize, u64)] {
        &self.taken
    }

    /// Calls `visit` with a reader at each section of the group last popped, and its length; what it leaves is skipped.
    pub(super) fn sections(
        &mut self,
        mut visit: impl FnMut(&mut SpillReader, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        for (cursor, length) in &self.taken {
            let cursor = &mut self.cursors[*cursor];
            let end = cursor.position();
            visit(&mut cursor.reader, *length)?;
            cursor.rest = end - cursor.reader.position();
        }
        Ok(())
    }

    /// Moves the cursors of the last group on.
    fn pass(&mut self) -> io::Result<()> {
        for index in 0..self.taken.len() {
            self.advance(self.taken[index].0)?;
        }
        self.taken.clear();
        Ok(())
    }
}
