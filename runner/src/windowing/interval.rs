//! Interval windows: their encoding, and the merging of sessions.

use bytes::Bytes;

use crate::element::{ElementError, get_varint, put_varint};
use crate::time::Timestamp;

/// The half-open span of time from `start` to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntervalWindow {
    /// The first timestamp inside.
    pub start: Timestamp,
    /// The first timestamp after.
    pub end: Timestamp,
}

impl IntervalWindow {
    /// Reads `bytes`, which are one window and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<IntervalWindow, ElementError> {
        let (end, span) = bytes.split_first_chunk::<8>().ok_or(ElementError::Incomplete)?;
        let (length, size) = get_varint(span)?;
        if size != span.len() {
            return Err(ElementError::Malformed("bytes after an interval window".into()));
        }
        let end = Timestamp::from_wire(*end);
        // Lengths near 2^64 come of windows that reach beyond Beam's bounds; their starts are as early as can be.
        let start = end.0.checked_sub_unsigned(length).unwrap_or(i64::MIN);
        Ok(IntervalWindow { start: Timestamp(start), end })
    }

    /// The wire form, inverse of [`IntervalWindow::decode`].
    pub fn encode(self) -> Bytes {
        let mut out = Vec::with_capacity(18);
        out.extend_from_slice(&self.end.to_wire());
        put_varint(&mut out, self.end.0.abs_diff(self.start.0));
        out.into()
    }

    /// The last timestamp inside.
    pub fn max_timestamp(self) -> Timestamp {
        Timestamp(self.end.0.saturating_sub(1))
    }
}

/// Merges encoded interval windows that overlap, directly or through others; windows that only touch stay apart. Gives
/// each window that is left with the indices of what it was made of, in the order of time.
pub fn merge_sessions(windows: Vec<Bytes>) -> Result<Vec<(Bytes, Vec<usize>)>, ElementError> {
    let mut order = Vec::with_capacity(windows.len());
    for (index, window) in windows.iter().enumerate() {
        order.push((IntervalWindow::decode(window)?, index));
    }
    order.sort_unstable();
    let mut merged: Vec<(IntervalWindow, Vec<usize>)> = Vec::new();
    for (window, index) in order {
        match merged.last_mut() {
            Some((last, members)) if window.start < last.end || window == *last => {
                last.end = last.end.max(window.end);
                members.push(index);
            }
            _ => merged.push((window, vec![index])),
        }
    }
    Ok(merged.into_iter().map(|(window, members)| (window.encode(), members)).collect())
}
