//! [`Batch`]: encoded windowed values with their borders, the one container on every edge of the dataflow.

use std::sync::Arc;

use bytes::Bytes;
use timely::Accountable;
use timely::dataflow::channels::ContainerBytes;

use crate::time::Timestamp;

/// A run of encoded windowed values (`param`-less windowed value coder: timestamp, windows, pane, value), with the
/// end of each and the least timestamp among them. Cloning shares the bytes.
///
/// A batch holds less than 4 GiB; builders start a new one before that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    data: Bytes,
    ends: Arc<[u32]>,
    min_timestamp: i64,
    target: u32,
}

impl Batch {
    /// A batch of elements that end at `ends` (ascending; the last is the length of `data`).
    pub fn new(data: Bytes, ends: impl Into<Arc<[u32]>>, min_timestamp: Timestamp) -> Batch {
        let ends = ends.into();
        debug_assert_eq!(ends.last().copied().unwrap_or(0) as usize, data.len());
        debug_assert!(ends.is_sorted());
        Batch { data, ends, min_timestamp: min_timestamp.0, target: 0 }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All elements, concatenated as they go over the data channel.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The end of each element in [`Batch::data`].
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The least event timestamp among the elements; meaningless when empty.
    pub fn min_timestamp(&self) -> Timestamp {
        Timestamp(self.min_timestamp)
    }

    /// Each element's bytes.
    pub fn elements(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.elements_from(0)
    }

    /// Each element's bytes, from element `at` on.
    pub fn elements_from(&self, at: usize) -> impl ExactSizeIterator<Item = &[u8]> {
        let at = at.min(self.len());
        let mut start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        self.ends[at..].iter().map(move |end| {
            let element = &self.data[start..*end as usize];
            start = *end as usize;
            element
        })
    }

    /// Splits off everything from element `at` on, sharing the bytes.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Batch {
        let at = at.min(self.len());
        let border = if at == 0 { 0 } else { self.ends[at - 1] };
        let tail: Vec<u32> = self.ends[at..].iter().map(|end| end - border).collect();
        let data = self.data.split_off(border as usize);
        self.ends = self.ends[..at].into();
        // A lower bound stays a lower bound for both parts.
        Batch { data, ends: tail.into(), min_timestamp: self.min_timestamp, target: self.target }
    }

    /// The worker that an exchange delivers this batch to.
    pub fn target(&self) -> usize {
        self.target as usize
    }

    /// The same batch addressed to a worker.
    #[must_use]
    pub fn to(mut self, target: usize) -> Batch {
        self.target = target as u32;
        self
    }
}

impl Accountable for Batch {
    fn record_count(&self) -> i64 {
        self.ends.len() as i64
    }
}

const WORD: usize = 8;
const HEADER: usize = 4 * WORD;

fn padded(length: usize) -> usize {
    length.next_multiple_of(WORD)
}

/// Across processes: element count, data length, least timestamp, target (8 bytes each, little endian), the ends, the
/// data, each part padded to eight bytes.
impl ContainerBytes for Batch {
    fn from_bytes(bytes: timely::bytes::arc::Bytes) -> Batch {
        // Both ends of the wire are this build of this job (the handshake sees to that), so a short message is a bug
        // or a broken machine, and indexing out of bounds here ends the job process as any lost connection does.
        let word = |at: usize| {
            let mut word = [0; WORD];
            word.copy_from_slice(&bytes[at * WORD..(at + 1) * WORD]);
            u64::from_le_bytes(word)
        };
        let (count, length) = (word(0) as usize, word(1) as usize);
        let ends: Arc<[u32]> = bytes[HEADER..HEADER + 4 * count]
            .chunks_exact(4)
            .map(|end| u32::from_le_bytes([end[0], end[1], end[2], end[3]]))
            .collect();
        let start = HEADER + padded(4 * count);
        let (min_timestamp, target) = (word(2) as i64, word(3) as u32);
        let data = Bytes::from_owner(Received(bytes)).slice(start..start + length);
        Batch { data, ends, min_timestamp, target }
    }

    fn length_in_bytes(&self) -> usize {
        HEADER + padded(4 * self.ends.len()) + padded(self.data.len())
    }

    fn into_bytes<W: std::io::Write>(&self, writer: &mut W) {
        let mut write = |bytes: &[u8]| writer.write_all(bytes).expect("timely sized the buffer by length_in_bytes");
        for word in [self.ends.len() as u64, self.data.len() as u64, self.min_timestamp as u64, u64::from(self.target)]
        {
            write(&word.to_le_bytes());
        }
        for end in self.ends.iter() {
            write(&end.to_le_bytes());
        }
        write(&[0; WORD][..padded(4 * self.ends.len()) - 4 * self.ends.len()]);
        write(&self.data);
        write(&[0; WORD][..padded(self.data.len()) - self.data.len()]);
    }
}

/// Lets a batch keep the network buffer it arrived in.
struct Received(timely::bytes::arc::Bytes);

impl AsRef<[u8]> for Received {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
