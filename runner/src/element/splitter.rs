//! From the chunks of a data channel to batches.

use bytes::{Bytes, BytesMut};

use super::windowed::{self, HEADER};
use super::wire::{self, ElementError, MAX_DEPTH, Stop};
use super::{Batch, ElementCoder, WireCoder};
use crate::time::Timestamp;
use crate::windowing::WindowCoder;

/// The greatest length of one encoded element: what SDKs can hold in one array.
pub const MAX_ELEMENT: usize = i32::MAX as usize;

/// Finds the borders of elements in a stream of chunks. Batches share the chunks' bytes; only an element that spans
/// chunks is copied, together with the chunk that ends it.
///
/// An element that takes many chunks is walked again only when the buffer has all the bytes that the last walk knew to
/// be missing and has grown by a quarter, so that the work stays linear in the length.
#[derive(Debug)]
pub struct Splitter {
    coder: ElementCoder,
    /// The start of an element whose end was not found.
    tail: BytesMut,
    /// Length of `tail` from which another walk is worth it.
    retry_at: usize,
    /// Ends of the last batch, kept to reuse the allocation.
    ends: Vec<u32>,
}

impl Splitter {
    /// A splitter at the start of a stream of `coder`'s elements.
    pub fn new(coder: ElementCoder) -> Splitter {
        Splitter { coder, tail: BytesMut::new(), retry_at: 0, ends: Vec::new() }
    }

    /// Takes the next chunk, and gives the elements that are whole with it. After an error the stream is lost.
    pub fn push(&mut self, chunk: Bytes) -> Result<Option<Batch>, ElementError> {
        if self.tail.is_empty() {
            return self.split(chunk);
        }
        self.tail.extend_from_slice(&chunk);
        if self.tail.len() < self.retry_at {
            return Ok(None);
        }
        let joined = std::mem::take(&mut self.tail).freeze();
        self.split(joined)
    }

    /// Ends the stream: gives what is left, or [`ElementError::Incomplete`] when an element lacks its end.
    pub fn finish(&mut self) -> Result<Option<Batch>, ElementError> {
        let rest = std::mem::take(&mut self.tail).freeze();
        let batch = self.split(rest)?;
        if self.tail.is_empty() { Ok(batch) } else { Err(ElementError::Incomplete) }
    }

    /// Bytes held of an element whose end has not come.
    pub fn pending(&self) -> usize {
        self.tail.len()
    }

    fn split(&mut self, mut bytes: Bytes) -> Result<Option<Batch>, ElementError> {
        self.ends.clear();
        let scan = scan(&self.coder, &bytes, &mut self.ends);
        match scan.stop {
            Some(Stop::Malformed(what)) => return Err(ElementError::Malformed(what.into())),
            Some(Stop::Needs(length)) => {
                let rest = bytes.split_off(scan.end);
                let needs = length.saturating_sub(scan.end);
                if needs > MAX_ELEMENT {
                    return Err(ElementError::Malformed("an element longer than 2 GiB".into()));
                }
                self.retry_at = needs.max(rest.len() + rest.len() / 4);
                self.tail = BytesMut::from(rest);
            }
            None => {}
        }
        if self.ends.is_empty() {
            return Ok(None);
        }
        Ok(Some(Batch::new(bytes, self.ends.as_slice(), Timestamp(scan.min_timestamp))))
    }
}

/// What one pass over a buffer found.
struct Scan {
    /// The end of the last whole element.
    end: usize,
    min_timestamp: i64,
    /// Why it did not come to the end of the buffer.
    stop: Option<Stop>,
}

/// Chooses, once for a buffer, a walk made for the coder at hand; the general one interprets the coder.
fn scan(coder: &ElementCoder, bytes: &[u8], ends: &mut Vec<u32>) -> Scan {
    match &coder.window {
        WindowCoder::Global => scan_values(coder, bytes, ends, |_, at, count| windowed::global_windows(count, at)),
        window => scan_values(coder, bytes, ends, |bytes, at, count| windowed::many_windows(window, count, bytes, at)),
    }
}

fn scan_values(
    coder: &ElementCoder,
    bytes: &[u8],
    ends: &mut Vec<u32>,
    windows: impl Fn(&[u8], usize, u32) -> Result<usize, Stop>,
) -> Scan {
    match &coder.value {
        WireCoder::Prefixed => walk(bytes, ends, windows, wire::prefixed),
        WireCoder::VarInt => walk(bytes, ends, windows, |bytes, at| wire::varint(bytes, at).map(|(_, end)| end)),
        WireCoder::Kv(key, value) => match (&**key, &**value) {
            (WireCoder::Prefixed, WireCoder::Prefixed) => {
                walk(bytes, ends, windows, |bytes, at| wire::prefixed(bytes, wire::prefixed(bytes, at)?))
            }
            (WireCoder::Prefixed, WireCoder::VarInt) => walk(bytes, ends, windows, |bytes, at| {
                wire::varint(bytes, wire::prefixed(bytes, at)?).map(|(_, end)| end)
            }),
            _ => walk(bytes, ends, windows, |bytes, at| coder.value.walk(bytes, at, MAX_DEPTH)),
        },
        value => walk(bytes, ends, windows, |bytes, at| value.walk(bytes, at, MAX_DEPTH)),
    }
}

#[inline]
fn walk(
    bytes: &[u8],
    ends: &mut Vec<u32>,
    windows: impl Fn(&[u8], usize, u32) -> Result<usize, Stop>,
    value: impl Fn(&[u8], usize) -> Result<usize, Stop>,
) -> Scan {
    let mut scan = Scan { end: 0, min_timestamp: i64::MAX, stop: None };
    let step = |at: usize| -> Result<(usize, i64), Stop> {
        let (timestamp, count) = windowed::header(bytes, at)?;
        let at = windows(bytes, at + HEADER, count)?;
        let at = windowed::pane(bytes, at)?;
        Ok((value(bytes, at)?, Timestamp::from_wire(timestamp).0))
    };
    while scan.end < bytes.len() {
        match step(scan.end) {
            Ok((end, timestamp)) => {
                let Ok(border) = u32::try_from(end) else {
                    scan.stop = Some(Stop::Malformed("a chunk longer than 4 GiB"));
                    break;
                };
                ends.push(border);
                scan.end = end;
                scan.min_timestamp = scan.min_timestamp.min(timestamp);
            }
            Err(stop) => {
                scan.stop = Some(stop);
                break;
            }
        }
    }
    scan
}
