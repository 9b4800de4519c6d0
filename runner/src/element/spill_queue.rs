//! A queue of batches that goes to disk when the budget is spent.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::Batch;
use crate::memory::{Budget, Reservation, SpillReader, SpillWriter};
use crate::time::Timestamp;

/// Bytes after which a second file is begun, so that a queue that is never empty still gives space back. Later files are
/// longer, up to sixteen times, so that a long queue does not use up the file handles.
const SEGMENT: u64 = 64 << 20;

/// Bytes read at once.
const READ_AHEAD: usize = 256 << 10;

/// Bytes that a queued batch costs beside its elements.
const OVERHEAD: usize = 96;

/// Element count, bytes, least timestamp, target.
const HEADER: usize = 24;

/// Batches in the order they came. While its [`Reservation`] grows they stay in memory; from the first refusal on they
/// go to files, until everything there was read back. What is popped is no longer accounted: whoever pops holds it.
#[derive(Debug)]
pub struct SpillQueue {
    reservation: Reservation,
    memory: VecDeque<Batch>,
    /// Older than everything that comes later: read from the first segment, written to the last.
    disk: VecDeque<Segment>,
    elements: usize,
    bytes: usize,
    /// How many batches were popped.
    popped: u64,
}

/// What a [`SpillQueue`] held at some time, to be read by another thread while the queue goes on.
#[derive(Clone, Debug)]
pub struct FrozenQueue {
    memory: Vec<Batch>,
    disk: Vec<SpillReader>,
}

impl FrozenQueue {
    /// True when it held nothing.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.disk.iter().all(|reader| reader.position() == reader.end())
    }

    /// Gives every batch to `see`, oldest first.
    pub fn read(self, mut see: impl FnMut(Batch) -> io::Result<()>) -> io::Result<()> {
        self.memory.into_iter().try_for_each(&mut see)?;
        for mut reader in self.disk {
            while reader.position() < reader.end() {
                see(read_batch(&mut reader)?)?;
            }
        }
        Ok(())
    }
}

impl SpillQueue {
    /// An empty queue.
    pub fn new(budget: &Budget) -> SpillQueue {
        let reservation = budget.reserve();
        SpillQueue { reservation, memory: VecDeque::new(), disk: VecDeque::new(), elements: 0, bytes: 0, popped: 0 }
    }

    /// All that the queue holds now, without taking it. Copies no element: batches in memory are shared, and what is in
    /// files never changes there.
    pub fn freeze(&mut self) -> io::Result<FrozenQueue> {
        let segments = self.disk.iter_mut().map(|segment| {
            segment.writer.flush()?;
            let file = Arc::clone(segment.writer.file());
            Ok(SpillReader::new(file, segment.reader.position(), segment.writer.position(), READ_AHEAD))
        });
        Ok(FrozenQueue { disk: segments.collect::<io::Result<_>>()?, memory: self.memory.iter().cloned().collect() })
    }

    /// How many batches were ever popped.
    pub fn popped(&self) -> u64 {
        self.popped
    }

    /// Appends a batch. After an error the batch is lost, and the queue must not be used for exact results any more.
    pub fn push(&mut self, batch: Batch) -> io::Result<()> {
        let cost = cost(&batch);
        if self.disk.is_empty() && self.reservation.try_grow(cost) {
            self.keep(batch)
        } else {
            self.store(&batch)?
        }
        Ok(())
    }

    /// Appends a batch to the files.
    pub(super) fn push_to_disk(&mut self, batch: &Batch) -> io::Result<()> {
        self.store(batch)
    }

    fn keep(&mut self, batch: Batch) {
        self.count(&batch);
        self.memory.push_back(batch);
    }

    fn count(&mut self, batch: &Batch) {
        self.elements += batch.len();
        self.bytes += batch.data().len();
    }

    fn store(&mut self, batch: &Batch) -> io::Result<()> {
        let limit = SEGMENT << self.disk.len().saturating_sub(1).min(4);
        if self.disk.back().is_none_or(|segment| segment.writer.position() >= limit) {
            if let Some(full) = self.disk.back_mut() {
                full.seal()?;
            }
            self.disk.push_back(Segment::create(self.reservation.budget())?);
        }
        if let Some(segment) = self.disk.back_mut() {
            segment.write(batch)?;
        }
        self.count(batch);
        Ok(())
    }

    /// Takes the oldest batch.
    pub fn pop(&mut self) -> io::Result<Option<Batch>> {
        let batch = match self.memory.pop_front() {
            Some(batch) => {
                self.reservation.shrink(cost(&batch));
                batch
            }
            None => {
                let Some(segment) = self.disk.front_mut() else { return Ok(None) };
                let batch = segment.read()?;
                if segment.is_drained() {
                    self.disk.pop_front();
                }
                batch
            }
        };
        self.elements -= batch.len();
        self.bytes -= batch.data().len();
        self.popped += 1;
        Ok(Some(batch))
    }

    /// True when there is nothing to pop.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.disk.is_empty()
    }

    /// Bytes of elements in the queue, wherever they are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Elements in the queue.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Bytes that the queue holds in memory.
    pub fn bytes_in_memory(&self) -> usize {
        self.reservation.held()
    }

    /// True while part of the queue is on disk.
    pub fn is_spilled(&self) -> bool {
        !self.disk.is_empty()
    }
}

fn cost(batch: &Batch) -> usize {
    batch.data().len() + size_of_val(batch.ends()) + OVERHEAD
}

/// One file of batches: each a header, the ends, the data.
#[derive(Debug)]
struct Segment {
    writer: SpillWriter,
    reader: SpillReader,
}

impl Segment {
    fn create(budget: &Budget) -> io::Result<Segment> {
        let writer = SpillWriter::create(budget)?;
        let reader = SpillReader::new(Arc::clone(writer.file()), 0, 0, READ_AHEAD);
        Ok(Segment { writer, reader })
    }

    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let mut header = [0; HEADER];
        header[0..4].copy_from_slice(&(batch.len() as u32).to_le_bytes());
        header[4..8].copy_from_slice(&(batch.target() as u32).to_le_bytes());
        header[8..16].copy_from_slice(&(batch.data().len() as u64).to_le_bytes());
        header[16..24].copy_from_slice(&batch.min_timestamp().0.to_le_bytes());
        self.writer.write(&header)?;
        let mut ends = [0; 1024];
        for part in batch.ends().chunks(ends.len() / 4) {
            for (slot, end) in ends.chunks_exact_mut(4).zip(part) {
                slot.copy_from_slice(&end.to_le_bytes());
            }
            self.writer.write(&ends[..4 * part.len()])?;
        }
        self.writer.write(batch.data())
    }

    /// Gives up the write buffer of a segment that is full.
    fn seal(&mut self) -> io::Result<()> {
        self.writer.seal()
    }

    fn is_drained(&self) -> bool {
        self.reader.position() == self.writer.position()
    }

    /// Reads the next batch, which exists.
    fn read(&mut self) -> io::Result<Batch> {
        if self.reader.position() == self.reader.end() {
            // Writes are whole batches, so a batch is either in the file or still to be flushed.
            self.writer.flush()?;
            self.reader.extend(self.writer.position());
        }
        read_batch(&mut self.reader)
    }
}

/// Reads the next batch, which exists.
fn read_batch(reader: &mut SpillReader) -> io::Result<Batch> {
    let header = reader.take(HEADER)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let (count, target) = (word(0) as usize, word(4) as usize);
    let (length, min_timestamp) = (long(8) as usize, Timestamp(long(16) as i64));
    let ends: Arc<[u32]> = reader
        .take(4 * count)?
        .chunks_exact(4)
        .map(|end| u32::from_le_bytes([end[0], end[1], end[2], end[3]]))
        .collect();
    let data = reader.take(length)?;
    Ok(Batch::new(data, ends, min_timestamp).to(target))
}
