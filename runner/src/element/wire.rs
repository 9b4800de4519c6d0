//! Finding the end of an encoded value without decoding it.
//!
//! All walks are bounded: every step consumes input or comes from the coder, a count of values without bytes is skipped
//! at once, and a coder that is nested too deeply is refused before the stack is.

use std::borrow::Cow;

use super::WireCoder;

/// Levels of nesting that a coder may have.
pub const MAX_DEPTH: usize = 128;

/// Why bytes are not an encoded element.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElementError {
    /// The bytes end inside the value.
    #[error("the bytes end inside an element")]
    Incomplete,
    /// No continuation of these bytes is a value of this coder.
    #[error("malformed element: {0}")]
    Malformed(Cow<'static, str>),
}

impl ElementError {
    /// Bytes that cannot be what they should, with the reason.
    pub fn malformed(what: String) -> ElementError {
        ElementError::Malformed(what.into())
    }
}

/// Why a walk stopped short of the end of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The buffer must have at least this length for the walk to come further.
    Needs(usize),
    /// As [`ElementError::Malformed`].
    Malformed(&'static str),
}

impl From<Stop> for ElementError {
    fn from(stop: Stop) -> ElementError {
        match stop {
            Stop::Needs(_) => ElementError::Incomplete,
            Stop::Malformed(what) => ElementError::Malformed(what.into()),
        }
    }
}

impl WireCoder {
    /// The length of the one nested-encoded value at the start of `bytes`.
    pub fn skip(&self, bytes: &[u8]) -> Result<usize, ElementError> {
        Ok(self.walk(bytes, 0, MAX_DEPTH)?)
    }

    /// Key and value of `bytes`, which are one whole encoded pair. The value is what follows the key; its borders are
    /// not looked at.
    pub fn key_value<'a>(&self, bytes: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), ElementError> {
        let WireCoder::Kv(key, _) = self else {
            return Err(ElementError::Malformed("a key was asked of a coder that is no kv coder".into()));
        };
        let end = match **key {
            WireCoder::Prefixed => prefixed(bytes, 0)?,
            _ => key.walk(bytes, 0, MAX_DEPTH)?,
        };
        Ok(bytes.split_at(end))
    }

    /// The elements of `bytes`, which are one whole encoded iterable. A state-backed one that ends with a token is
    /// refused: its elements are not all here.
    pub fn iterate<'a>(&self, bytes: &'a [u8]) -> Result<Vec<&'a [u8]>, ElementError> {
        let (WireCoder::Iterable(element) | WireCoder::StateBackedIterable(element)) = self else {
            return Err(ElementError::Malformed("elements were asked of a coder that is no iterable coder".into()));
        };
        let mut elements = Vec::new();
        let mut take = |count: u64, mut at: usize| -> Result<usize, ElementError> {
            if count.saturating_add(elements.len() as u64) > bytes.len() as u64 {
                // Also bounds how often an element without bytes is repeated.
                return Err(ElementError::Malformed("an iterable with more elements than bytes".into()));
            }
            for _ in 0..count {
                let end = element.walk(bytes, at, MAX_DEPTH)?;
                elements.push(&bytes[at..end]);
                at = end;
            }
            Ok(at)
        };
        let (count, mut at) = word(bytes, 0)?;
        match count {
            0.. => at = take(count as u64, at)?,
            -1 => loop {
                let (count, next) = varint(bytes, at)?;
                at = next;
                match count as i64 {
                    0 => break,
                    1.. => at = take(count, at)?,
                    -1 => return Err(ElementError::Malformed("an iterable that continues in state".into())),
                    _ => return Err(ElementError::Malformed("an iterable's chunk with a negative count".into())),
                }
            },
            _ => return Err(ElementError::Malformed("an iterable with a negative count".into())),
        }
        if at == bytes.len() { Ok(elements) } else { Err(ElementError::Malformed("bytes after an iterable".into())) }
    }

    /// The length of every value, where all have the same.
    pub fn fixed_length(&self) -> Option<usize> {
        self.fixed(MAX_DEPTH)
    }

    fn fixed(&self, depth: usize) -> Option<usize> {
        let depth = depth.checked_sub(1)?;
        match self {
            WireCoder::Bool => Some(1),
            WireCoder::Double => Some(8),
            WireCoder::GlobalWindow => Some(0),
            WireCoder::Kv(key, value) => Some(key.fixed(depth)? + value.fixed(depth)?),
            WireCoder::CustomWindow(window) => Some(8 + window.fixed(depth)?),
            _ => None,
        }
    }

    /// The end of the value that starts at `at`.
    pub(super) fn walk(&self, bytes: &[u8], at: usize, depth: usize) -> Result<usize, Stop> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(Stop::Malformed("its coder is nested too deeply"));
        };
        match self {
            WireCoder::Prefixed => prefixed(bytes, at),
            WireCoder::Bool => match bytes.get(at) {
                Some(0 | 1) => Ok(at + 1),
                Some(_) => Err(Stop::Malformed("a boolean that is neither 0 nor 1")),
                None => Err(Stop::Needs(at + 1)),
            },
            WireCoder::VarInt => varint(bytes, at).map(|(_, end)| end),
            WireCoder::Double => fixed(bytes, at, 8),
            WireCoder::Kv(key, value) => {
                let at = key.walk(bytes, at, depth)?;
                value.walk(bytes, at, depth)
            }
            WireCoder::Iterable(element) => iterable(element, bytes, at, depth, false),
            WireCoder::StateBackedIterable(element) => iterable(element, bytes, at, depth, true),
            WireCoder::Nullable(value) => match bytes.get(at) {
                Some(0) => Ok(at + 1),
                Some(1) => value.walk(bytes, at + 1, depth),
                Some(_) => Err(Stop::Malformed("a nullable value that starts with neither 0 nor 1")),
                None => Err(Stop::Needs(at + 1)),
            },
            WireCoder::ShardedKey(key) => {
                let at = prefixed(bytes, at)?;
                key.walk(bytes, at, depth)
            }
            WireCoder::GlobalWindow => Ok(at),
            WireCoder::IntervalWindow => interval(bytes, at),
            WireCoder::CustomWindow(window) => {
                let at = fixed(bytes, at, 8)?;
                window.walk(bytes, at, depth)
            }
        }
    }
}

fn iterable(element: &WireCoder, bytes: &[u8], at: usize, depth: usize, state_backed: bool) -> Result<usize, Stop> {
    let (count, mut at) = word(bytes, at)?;
    match count {
        0.. => return repeat(element, count as u64, bytes, at, depth),
        -1 => {}
        _ => return Err(Stop::Malformed("an iterable with a negative count")),
    }
    loop {
        let (count, next) = varint(bytes, at)?;
        at = next;
        match count as i64 {
            0 => return Ok(at),
            -1 if state_backed => return prefixed(bytes, at),
            1.. => at = repeat(element, count, bytes, at, depth)?,
            _ => return Err(Stop::Malformed("an iterable's chunk with a negative count")),
        }
    }
}

/// The end of `count` values that start at `at`.
fn repeat(element: &WireCoder, count: u64, bytes: &[u8], at: usize, depth: usize) -> Result<usize, Stop> {
    if let Some(length) = element.fixed(depth) {
        let total = (length as u64).checked_mul(count).and_then(|total| usize::try_from(total).ok());
        return match total {
            Some(total) => fixed(bytes, at, total),
            None => Err(Stop::Malformed("an iterable longer than memory")),
        };
    }
    let mut at = at;
    for _ in 0..count {
        at = element.walk(bytes, at, depth)?;
    }
    Ok(at)
}

#[inline]
pub(super) fn fixed(bytes: &[u8], at: usize, length: usize) -> Result<usize, Stop> {
    let end = at.saturating_add(length);
    if end <= bytes.len() { Ok(end) } else { Err(Stop::Needs(end)) }
}

/// A big-endian 32-bit integer and its end.
#[inline]
pub(super) fn word(bytes: &[u8], at: usize) -> Result<(i32, usize), Stop> {
    match bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(word) => Ok((i32::from_be_bytes(*word), at + 4)),
        None => Err(Stop::Needs(at + 4)),
    }
}

#[inline]
pub(super) fn interval(bytes: &[u8], at: usize) -> Result<usize, Stop> {
    varint(bytes, fixed(bytes, at, 8)?).map(|(_, end)| end)
}

/// The end of a varint length and that many bytes.
#[inline]
pub(super) fn prefixed(bytes: &[u8], at: usize) -> Result<usize, Stop> {
    let (length, at) = varint(bytes, at)?;
    if length > i32::MAX as u64 {
        return Err(Stop::Malformed("a length beyond 2 GiB"));
    }
    fixed(bytes, at, length as usize)
}

/// A varint and its end.
#[inline]
pub(super) fn varint(bytes: &[u8], at: usize) -> Result<(u64, usize), Stop> {
    match bytes.get(at) {
        Some(byte) if *byte < 0x80 => Ok((u64::from(*byte), at + 1)),
        Some(_) => long_varint(bytes, at),
        None => Err(Stop::Needs(at + 1)),
    }
}

fn long_varint(bytes: &[u8], at: usize) -> Result<(u64, usize), Stop> {
    let mut value = 0;
    for (index, byte) in bytes[at..].iter().take(10).enumerate() {
        if index == 9 && *byte > 1 {
            return Err(Stop::Malformed("a varint beyond 64 bits"));
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if *byte < 0x80 {
            return Ok((value, at + index + 1));
        }
    }
    Err(Stop::Needs(bytes.len() + 1))
}

/// Reads the varint at the start of `bytes`: its value and its length.
pub fn get_varint(bytes: &[u8]) -> Result<(u64, usize), ElementError> {
    Ok(varint(bytes, 0)?)
}

/// Appends `value` as a varint.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
