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

/// How many groups of keys there are. It is a part of the format of saved state, as is the hash that picks one.
pub(crate) const KEY_GROUPS: usize = 1 << 16;

/// Which of the [`KEY_GROUPS`] a key is in: the upper 16 bits of the 64-bit XXH3 hash, with seed 0, of the key as it is
/// encoded in the element (see `element::key_hash`), big endian.
pub(crate) fn key_group(key: &[u8]) -> [u8; 2] {
    let [first, second, ..] = key_hash(key).to_be_bytes();
    [first, second]
}

/// Which of `workers` owns a key group: each has one contiguous range of them, so that its records are one range, too.
pub(crate) fn worker_of(group: [u8; 2], workers: usize) -> usize {
    usize::from(u16::from_be_bytes(group)) * workers / KEY_GROUPS
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Saved state depends on these, for ever.
    #[test]
    fn key_groups_are_those_of_the_format() {
        let groups: Vec<u16> = [&b""[..], b"\0", b"a", b"\x03abc", b"\x05hello", &[7; 300]]
            .into_iter()
            .map(|key| u16::from_be_bytes(key_group(key)))
            .collect();
        assert_eq!(groups, [0x2d06, 0xc44b, 0xe6c6, 0x8e8f, 0xcdba, 0x8aec]);
    }

    #[test]
    fn every_worker_owns_one_contiguous_range() {
        for workers in 1..20 {
            let owners: Vec<usize> = (0..=u16::MAX).map(|group| worker_of(group.to_be_bytes(), workers)).collect();
            assert!(owners.is_sorted());
            let sizes = (0..workers).map(|worker| owners.iter().filter(|owner| **owner == worker).count());
            let sizes: Vec<usize> = sizes.collect();
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
        }
    }
}
