//! Windowed values on the wire: timestamp, windows, pane, value.

use serde::{Deserialize, Serialize};

use super::WireCoder;
use super::wire::{self, ElementError, MAX_DEPTH, Stop};
use crate::time::Timestamp;
use crate::windowing::WindowCoder;

/// The pane of an element that no trigger has touched.
pub const PANE_NO_FIRING: &[u8] = &[0x0f];

/// The pane of a window's one and only firing, on time.
pub const PANE_ON_TIME_AND_ONLY: &[u8] = &[0x07];

/// The bit of a pane's flags that says that metadata (`Elements.ElementMetadata` of the Fn API) follow the pane, with
/// their length before them (`beam:protocol:element_metadata:v1`).
pub(crate) const PANE_METADATA: u8 = 0x80;

/// Bytes before the windows: the timestamp and the number of windows.
pub(super) const HEADER: usize = 12;

/// How the elements of one PCollection are encoded (`beam:coder:windowed_value:v1` around `value`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ElementCoder {
    /// The value.
    pub value: WireCoder,
    /// Each of its windows.
    pub window: WindowCoder,
}

/// One windowed value, taken apart.
#[derive(Clone, Debug)]
pub struct ElementView<'a> {
    /// The event timestamp.
    pub timestamp: Timestamp,
    /// The windows it is in.
    pub windows: Windows<'a>,
    /// The encoded pane info.
    pub pane: &'a [u8],
    /// The encoded value.
    pub value: &'a [u8],
}

impl ElementCoder {
    /// The coder of `value`s in `window`s.
    pub fn new(value: WireCoder, window: WindowCoder) -> ElementCoder {
        ElementCoder { value, window }
    }

    /// The length of the one windowed value at the start of `bytes`.
    pub fn skip(&self, bytes: &[u8]) -> Result<usize, ElementError> {
        let at = pane(bytes, self.windows(bytes)?)?;
        Ok(self.value.walk(bytes, at, MAX_DEPTH)?)
    }

    /// Takes apart `bytes`, which are one whole windowed value. The end of the value is not looked for: it is the end
    /// of `bytes`.
    pub fn parse<'a>(&'a self, bytes: &'a [u8]) -> Result<ElementView<'a>, ElementError> {
        let windows = self.windows(bytes)?;
        let value = pane(bytes, windows)?;
        let (timestamp, count) = header(bytes, 0)?;
        Ok(ElementView {
            timestamp: Timestamp::from_wire(timestamp),
            windows: Windows { coder: &self.window, bytes: &bytes[HEADER..windows], left: count },
            pane: &bytes[windows..value],
            value: &bytes[value..],
        })
    }

    /// The end of the windows of the element at the start of `bytes`.
    fn windows(&self, bytes: &[u8]) -> Result<usize, Stop> {
        let (_, count) = header(bytes, 0)?;
        many_windows(&self.window, count, bytes, HEADER)
    }
}

/// The timestamp and the number of windows of the element at `at`.
#[inline]
pub(super) fn header(bytes: &[u8], at: usize) -> Result<([u8; 8], u32), Stop> {
    match bytes.get(at..).and_then(|rest| rest.split_first_chunk::<8>()) {
        Some((timestamp, rest)) if rest.len() >= 4 => {
            let count = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]);
            Ok((*timestamp, count))
        }
        _ => Err(Stop::Needs(at + HEADER)),
    }
}

/// The end of `count` windows that start at `at`.
#[inline]
pub(super) fn many_windows(coder: &WindowCoder, count: u32, bytes: &[u8], at: usize) -> Result<usize, Stop> {
    match coder {
        WindowCoder::Global => global_windows(count, at),
        WindowCoder::Interval => {
            let mut at = at;
            for _ in 0..count {
                at = wire::interval(bytes, at)?;
            }
            Ok(at)
        }
        WindowCoder::Custom(window) => {
            let mut at = at;
            for _ in 0..count {
                at = window.walk(bytes, wire::fixed(bytes, at, 8)?, MAX_DEPTH)?;
            }
            Ok(at)
        }
    }
}

/// Global windows have no bytes, so their number must be checked: it is all that bounds a walk over them.
#[inline]
pub(super) fn global_windows(count: u32, at: usize) -> Result<usize, Stop> {
    if count <= 1 { Ok(at) } else { Err(Stop::Malformed("an element that is in the global window more than once")) }
}

/// The end of the pane info at `at`: flags, of which the high half says how many varints follow, and by its highest bit
/// that metadata of the element come after them.
#[inline]
pub(super) fn pane(bytes: &[u8], at: usize) -> Result<usize, Stop> {
    let flags = *bytes.get(at).ok_or(Stop::Needs(at + 1))?;
    let end = match flags & !PANE_METADATA {
        0..=0x0f => at + 1,
        0x10..=0x1f => wire::varint(bytes, at + 1)?.1,
        0x20..=0x2f => {
            let (_, at) = wire::varint(bytes, at + 1)?;
            wire::varint(bytes, at)?.1
        }
        _ => return Err(Stop::Malformed("a pane info of an unknown encoding")),
    };
    if flags & PANE_METADATA == 0 { Ok(end) } else { wire::prefixed(bytes, end) }
}

/// The encoded windows of an element.
#[derive(Clone, Debug)]
pub struct Windows<'a> {
    coder: &'a WindowCoder,
    bytes: &'a [u8],
    left: u32,
}

impl<'a> Windows<'a> {
    /// All of them, concatenated.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a> Iterator for Windows<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        // The parser has walked these bytes already, so the end is always found.
        let end = many_windows(self.coder, 1, self.bytes, 0).unwrap_or(self.bytes.len());
        let (window, rest) = self.bytes.split_at(end);
        self.bytes = rest;
        Some(window)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Windows<'_> {}

/// Appends one windowed value to `out`.
pub fn encode_windowed_value(out: &mut Vec<u8>, timestamp: Timestamp, windows: &[&[u8]], pane: &[u8], value: &[u8]) {
    encode_windowed_header(out, timestamp, windows, pane);
    out.extend_from_slice(value);
}

/// Appends a windowed value up to its value, which the caller appends.
pub fn encode_windowed_header(out: &mut Vec<u8>, timestamp: Timestamp, windows: &[&[u8]], pane: &[u8]) {
    out.extend_from_slice(&timestamp.to_wire());
    out.extend_from_slice(&(windows.len() as u32).to_be_bytes());
    for window in windows {
        out.extend_from_slice(window);
    }
    out.extend_from_slice(pane);
}
