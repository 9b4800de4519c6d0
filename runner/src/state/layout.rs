//! Where things are in a store: the keys.
//!
//! The first byte says which section a record is in. What belongs to a key and window starts with its *scope*: the key
//! group, then key and window behind their lengths, so that no scope is the start of another and each is one range.
//!
//! | section | then | value |
//! |---|---|---|
//! | [`CELLS`] | scope, number of the cell, then see [`super::bag`] | values |
//! | [`TIMERS`] | see [`super::timers`] | |
//! | [`EXPIRIES`] | time, scope | |
//! | [`BUFFER`] | timestamp, sequence number, key group | an element |
//! | [`NEXT_SEQUENCE`] | | the sequence number after the greatest in use |

use crate::element::{get_varint, key_hash, put_varint};
use crate::time::Timestamp;

use super::store::StoreError;

pub(super) const CELLS: u8 = 1;
pub(super) const TIMERS: u8 = 2;
pub(super) const EXPIRIES: u8 = 3;
pub(super) const BUFFER: u8 = 4;
pub(super) const NEXT_SEQUENCE: u8 = 5;

/// Which of the 65,536 groups of keys a key is in.
pub(crate) fn key_group(key: &[u8]) -> [u8; 2] {
    let [first, second, ..] = key_hash(key).to_be_bytes();
    [first, second]
}

/// Appends the scope of a key and window.
pub(crate) fn put_scope(out: &mut Vec<u8>, key: &[u8], window: &[u8]) {
    out.extend_from_slice(&key_group(key));
    put_part(out, key);
    put_part(out, window);
}

/// Appends bytes behind their length.
pub(crate) fn put_part(out: &mut Vec<u8>, part: &[u8]) {
    put_varint(out, part.len() as u64);
    out.extend_from_slice(part);
}

/// The least key that is greater than all that start with `prefix`, which does not consist of 0xff bytes alone (no
/// section does).
pub(crate) fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// Takes a record apart from its front.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], StoreError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn take_array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn take_time(&mut self) -> Result<Timestamp, StoreError> {
        Ok(Timestamp::from_wire(self.take_array()?))
    }

    pub(crate) fn take_varint(&mut self) -> Result<u64, StoreError> {
        let (value, length) = get_varint(self.0).map_err(|_| malformed())?;
        self.take(length)?;
        Ok(value)
    }

    pub(crate) fn take_part(&mut self) -> Result<&'a [u8], StoreError> {
        let length = self.take_varint()?;
        self.take(usize::try_from(length).map_err(|_| malformed())?)
    }

    /// Key and window of a scope.
    pub(crate) fn take_scope(&mut self) -> Result<(&'a [u8], &'a [u8]), StoreError> {
        self.take(2)?;
        Ok((self.take_part()?, self.take_part()?))
    }
}

fn malformed() -> StoreError {
    StoreError { doing: "read a record", why: "it is malformed".into() }
}

/// What is known of the least time in an ordered index, so that asking for it is cheap and a scan for it need not pass
/// over what was removed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Front {
    /// Nothing in the index is earlier.
    floor: Timestamp,
    known: Option<Option<Timestamp>>,
}

impl Default for Front {
    fn default() -> Self {
        Front { floor: Timestamp(i64::MIN), known: None }
    }
}

impl Front {
    pub(crate) fn floor(&self) -> Timestamp {
        self.floor
    }

    pub(crate) fn inserted(&mut self, time: Timestamp) {
        self.floor = self.floor.min(time);
        if let Some(first) = self.known {
            self.known = Some(Some(first.map_or(time, |first| first.min(time))));
        }
    }

    pub(crate) fn removed(&mut self, time: Timestamp) {
        if self.known.is_some_and(|first| first.is_none_or(|first| first >= time)) {
            self.known = None;
        }
    }

    /// The least time; `scan` looks for the first time from a given one on.
    pub(crate) fn get(
        &mut self,
        scan: impl FnOnce(Timestamp) -> Result<Option<Timestamp>, StoreError>,
    ) -> Result<Option<Timestamp>, StoreError> {
        if let Some(first) = self.known {
            return Ok(first);
        }
        let first = scan(self.floor)?;
        self.floor = first.unwrap_or(Timestamp(i64::MAX));
        self.known = Some(first);
        Ok(first)
    }
}
