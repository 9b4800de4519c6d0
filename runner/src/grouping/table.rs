//! The groups that are in memory.

use std::hash::BuildHasher;

use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::FRAME;
use super::arena::{Arena, Fit, SealedArena, Spot, padded};
use crate::memory::Reservation;
use crate::time::Timestamp;

/// Seeds of the hashes: others than the hash that partitions keys between workers, whose low bits are alike for all the
/// keys of a worker.
const KEY_SEED: FixedState = FixedState::with_seed(0x6b65_795f_7365_6564);
const WINDOW_SEED: FixedState = FixedState::with_seed(0x7769_6e5f_7365_6564);

/// Bytes before a frame's values: the next frame, the length, the count.
const FRAME_HEADER: usize = 12;

/// Bytes that an entry takes in a hash table, with the share of the table that is empty.
const SLOT: usize = 8;

/// The end of a list of groups.
const NONE: u32 = u32::MAX;

/// One key and the list of its groups.
#[derive(Debug)]
struct KeyEntry {
    hash: u64,
    spot: Spot,
    length: u32,
    /// The group that came last, the first of the list.
    head: u32,
}

/// The values of one key and window.
#[derive(Debug)]
struct GroupEntry {
    key: u32,
    /// The next group of the key.
    next: u32,
    window: Spot,
    window_length: u32,
    first: Spot,
    /// The frame that is being filled; its header is written when it is full, or when the table is sealed.
    tail: Spot,
    tail_length: u32,
    tail_capacity: u32,
    tail_count: u32,
    count: u64,
    bytes: u64,
    earliest: Timestamp,
    latest: Timestamp,
}

/// What is known of a group beside its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    pub(crate) earliest: Timestamp,
    pub(crate) latest: Timestamp,
}

/// The hash that orders runs.
pub(crate) fn hash(key: &[u8]) -> u64 {
    KEY_SEED.hash_one(key)
}

fn window_hash(key: u64, window: &[u8]) -> u64 {
    WINDOW_SEED.hash_one((key, window))
}

/// Groups that still grow.
#[derive(Debug)]
pub(super) struct GrowingTable {
    keys: Vec<KeyEntry>,
    groups: Vec<GroupEntry>,
    by_key: HashTable<u32>,
    /// Only groups that are not their key's first: a key with one window never needs this table.
    by_window: HashTable<u32>,
    arena: Arena,
    reservation: Reservation,
}

/// Where a value goes.
struct Place {
    key_hash: u64,
    key: Option<u32>,
    group: Option<u32>,
}

impl GrowingTable {
    pub(super) fn new(reservation: Reservation) -> GrowingTable {
        GrowingTable {
            keys: Vec::new(),
            groups: Vec::new(),
            by_key: HashTable::new(),
            by_window: HashTable::new(),
            arena: Arena::default(),
            reservation,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub(super) fn reservation(&self) -> &Reservation {
        &self.reservation
    }

    /// Adds a value. `false`, and nothing changed, when the budget refuses; an empty table is never refused.
    #[inline]
    pub(super) fn add(&mut self, key: &[u8], window: &[u8], timestamp: Timestamp, value: &[u8]) -> bool {
        let place = self.find(key, window);
        let appends = place.group.is_some_and(|group| {
            let group = &self.groups[group as usize];
            group.tail_length as usize + value.len() <= group.tail_capacity as usize && group.tail_count < u32::MAX
        });
        if let (true, Some(group)) = (appends, place.group) {
            self.append(group, timestamp, value);
            return true;
        }
        let capacity = self.frame_capacity(place.group, value.len());
        let mut need = padded(FRAME_HEADER + capacity);
        if place.key.is_none() {
            need += padded(key.len());
        }
        if place.group.is_none() {
            need += padded(window.len());
        }
        if !self.make_room(need) {
            return false;
        }
        let group = place.group.unwrap_or_else(|| self.insert(&place, key, window));
        self.new_frame(group, capacity);
        self.append(group, timestamp, value);
        true
    }

    #[inline]
    fn find(&self, key: &[u8], window: &[u8]) -> Place {
        let key_hash = hash(key);
        let same_key = |index: &u32| {
            let entry = &self.keys[*index as usize];
            entry.hash == key_hash && self.arena.get(entry.spot, 0, entry.length as usize) == key
        };
        let Some(index) = self.by_key.find(key_hash, same_key).copied() else {
            return Place { key_hash, key: None, group: None };
        };
        let head = self.keys[index as usize].head;
        let same_window = match window {
            [] => self.groups[head as usize].window_length == 0,
            _ => self.window(head) == window,
        };
        if same_window {
            return Place { key_hash, key: Some(index), group: Some(head) };
        }
        let window_hash = window_hash(key_hash, window);
        let same_group = |group: &u32| self.groups[*group as usize].key == index && self.window(*group) == window;
        let group = self.by_window.find(window_hash, same_group).copied();
        Place { key_hash, key: Some(index), group }
    }

    #[inline]
    fn window(&self, group: u32) -> &[u8] {
        let group = &self.groups[group as usize];
        self.arena.get(group.window, 0, group.window_length as usize)
    }

    /// How long the next frame of a group should be: as long as all before it, so that small groups stay small and
    /// large ones have few frames.
    fn frame_capacity(&self, group: Option<u32>, value: usize) -> usize {
        let so_far = group.map_or(0, |group| self.groups[group as usize].bytes as usize);
        let capacity = if value > FRAME / 8 { value } else { so_far.clamp(value, FRAME) };
        // The bytes that padding adds are used too, but not to make a frame longer than frames may be.
        (padded(FRAME_HEADER + capacity) - FRAME_HEADER).min(FRAME.max(value))
    }

    /// Sees to it that `need` bytes, a key and a group can be added.
    #[inline]
    fn make_room(&mut self, need: usize) -> bool {
        let fit = self.arena.fit(need);
        let full = self.keys.len() == self.keys.capacity()
            || self.groups.len() == self.groups.capacity()
            || self.by_key.len() == self.by_key.capacity()
            || self.by_window.len() == self.by_window.capacity();
        fit == Fit::Room && !full || self.grow(fit, need)
    }

    #[cold]
    fn grow(&mut self, fit: Fit, need: usize) -> bool {
        let block = match fit {
            Fit::Room => None,
            Fit::Block(bytes) => Some(bytes),
            Fit::Full => return false,
        };
        let more = |length: usize, capacity: usize| if length == capacity { (capacity / 2).max(32) } else { 0 };
        let keys = more(self.keys.len(), self.keys.capacity());
        let groups = more(self.groups.len(), self.groups.capacity());
        // Hash tables double.
        let by_key = more(self.by_key.len(), self.by_key.capacity()) * 2;
        let by_window = more(self.by_window.len(), self.by_window.capacity()) * 2;
        let bytes = block.unwrap_or(0)
            + keys * size_of::<KeyEntry>()
            + groups * size_of::<GroupEntry>()
            + (by_key + by_window) * SLOT;
        if self.keys.len() + keys >= NONE as usize || self.groups.len() + groups >= NONE as usize {
            return false;
        }
        if bytes > 0 && !self.reservation.try_grow(bytes) {
            if !self.is_empty() {
                return false;
            }
            self.reservation.force_grow(bytes);
        }
        self.keys.reserve_exact(keys);
        self.groups.reserve_exact(groups);
        self.by_key.reserve(by_key, |index| self.keys[*index as usize].hash);
        let (keys, groups, arena) = (&self.keys, &self.groups, &self.arena);
        self.by_window.reserve(by_window, |index| {
            let group = &groups[*index as usize];
            let window = arena.get(group.window, 0, group.window_length as usize);
            window_hash(keys[group.key as usize].hash, window)
        });
        if let Some(bytes) = block {
            self.arena.add(bytes);
        }
        debug_assert_eq!(self.arena.fit(need), Fit::Room);
        true
    }

    /// Adds an empty group, and its key if that is new.
    fn insert(&mut self, place: &Place, key: &[u8], window: &[u8]) -> u32 {
        let group = self.groups.len() as u32;
        let index = place.key.unwrap_or_else(|| {
            let spot = self.arena.allocate(key.len());
            self.arena.get_mut(spot, 0, key.len()).copy_from_slice(key);
            let index = self.keys.len() as u32;
            self.keys.push(KeyEntry { hash: place.key_hash, spot, length: key.len() as u32, head: NONE });
            self.by_key.insert_unique(place.key_hash, index, |index| self.keys[*index as usize].hash);
            index
        });
        let spot = self.arena.allocate(window.len());
        self.arena.get_mut(spot, 0, window.len()).copy_from_slice(window);
        let entry = &mut self.keys[index as usize];
        self.groups.push(GroupEntry {
            key: index,
            next: std::mem::replace(&mut entry.head, group),
            window: spot,
            window_length: window.len() as u32,
            first: Spot::NONE,
            tail: Spot::NONE,
            tail_length: 0,
            tail_capacity: 0,
            tail_count: 0,
            count: 0,
            bytes: 0,
            earliest: Timestamp(i64::MAX),
            latest: Timestamp(i64::MIN),
        });
        let previous = self.groups[group as usize].next;
        if previous != NONE {
            // The one that was first until now is found through the other table from now on.
            self.index_window(previous);
        }
        group
    }

    fn index_window(&mut self, group: u32) {
        let (keys, groups, arena) = (&self.keys, &self.groups, &self.arena);
        let hash = |index: &u32| {
            let group = &groups[*index as usize];
            window_hash(keys[group.key as usize].hash, arena.get(group.window, 0, group.window_length as usize))
        };
        self.by_window.insert_unique(hash(&group), group, hash);
    }

    /// Gives a group a new frame to fill.
    fn new_frame(&mut self, group: u32, capacity: usize) {
        let spot = self.arena.allocate(FRAME_HEADER + capacity);
        let entry = &mut self.groups[group as usize];
        if entry.first == Spot::NONE {
            entry.first = spot;
        } else {
            close_frame(&mut self.arena, entry, spot);
        }
        entry.tail = spot;
        entry.tail_length = 0;
        entry.tail_capacity = capacity as u32;
        entry.tail_count = 0;
    }

    #[inline]
    fn append(&mut self, group: u32, timestamp: Timestamp, value: &[u8]) {
        let entry = &mut self.groups[group as usize];
        let at = FRAME_HEADER + entry.tail_length as usize;
        self.arena.get_mut(entry.tail, at, value.len()).copy_from_slice(value);
        entry.tail_length += value.len() as u32;
        if entry.tail_length as usize > FRAME {
            // Even a value without bytes gets another frame: a long value is alone.
            entry.tail_capacity = 0;
        }
        entry.tail_count += 1;
        entry.count += 1;
        entry.bytes += value.len() as u64;
        entry.earliest = entry.earliest.min(timestamp);
        entry.latest = entry.latest.max(timestamp);
    }

    /// Ends the growth.
    pub(super) fn seal(mut self) -> Table {
        for entry in &mut self.groups {
            close_frame(&mut self.arena, entry, Spot::NONE);
        }
        Table {
            keys: self.keys,
            groups: self.groups,
            by_key: self.by_key,
            by_window: self.by_window,
            arena: self.arena.seal(),
            _reservation: self.reservation,
        }
    }
}

/// Writes the header of a group's last frame.
fn close_frame(arena: &mut Arena, entry: &GroupEntry, next: Spot) {
    let header = arena.get_mut(entry.tail, 0, FRAME_HEADER);
    header[0..4].copy_from_slice(&next.0.to_le_bytes());
    header[4..8].copy_from_slice(&entry.tail_length.to_le_bytes());
    header[8..12].copy_from_slice(&entry.tail_count.to_le_bytes());
}

/// Groups that grow no more. Readable from many threads; holds its memory until dropped.
#[derive(Debug)]
pub(crate) struct Table {
    keys: Vec<KeyEntry>,
    groups: Vec<GroupEntry>,
    by_key: HashTable<u32>,
    by_window: HashTable<u32>,
    arena: SealedArena,
    _reservation: Reservation,
}

/// A frame in memory.
pub(super) struct Frame {
    pub(super) spot: Spot,
    pub(super) next: Spot,
    pub(super) length: usize,
    pub(super) count: u64,
}

impl Table {
    /// The number of keys; they have the indices below it.
    pub(crate) fn keys(&self) -> usize {
        self.keys.len()
    }

    /// A key, sharing the table's memory.
    pub(crate) fn key(&self, key: usize) -> Bytes {
        let entry = &self.keys[key];
        self.arena.share(entry.spot, 0, entry.length as usize)
    }

    fn key_bytes(&self, key: &KeyEntry) -> &[u8] {
        self.arena.get(key.spot, 0, key.length as usize)
    }

    /// The index of a key.
    pub(crate) fn find_key(&self, key: &[u8]) -> Option<usize> {
        let hash = hash(key);
        let same = |index: &u32| {
            let entry = &self.keys[*index as usize];
            entry.hash == hash && self.key_bytes(entry) == key
        };
        self.by_key.find(hash, same).map(|index| *index as usize)
    }

    /// The group of a key and a window.
    pub(crate) fn find_group(&self, key: usize, window: &[u8]) -> Option<usize> {
        let entry = &self.keys[key];
        if self.window_bytes(entry.head) == window {
            return Some(entry.head as usize);
        }
        let same =
            |group: &u32| self.groups[*group as usize].key as usize == key && self.window_bytes(*group) == window;
        self.by_window.find(window_hash(entry.hash, window), same).map(|group| *group as usize)
    }

    /// The first in the list of a key's groups.
    pub(crate) fn first_group(&self, key: usize) -> usize {
        self.keys[key].head as usize
    }

    /// The group after `group` in its key's list.
    pub(crate) fn next_group(&self, group: usize) -> Option<usize> {
        let next = self.groups[group].next;
        (next != NONE).then_some(next as usize)
    }

    /// The window of a group, sharing the table's memory.
    pub(crate) fn window(&self, group: usize) -> Bytes {
        let entry = &self.groups[group];
        if entry.window_length == 0 {
            return Bytes::new();
        }
        self.arena.share(entry.window, 0, entry.window_length as usize)
    }

    fn window_bytes(&self, group: u32) -> &[u8] {
        let entry = &self.groups[group as usize];
        self.arena.get(entry.window, 0, entry.window_length as usize)
    }

    /// What is known of a group.
    pub(crate) fn totals(&self, group: usize) -> Totals {
        let GroupEntry { count, bytes, earliest, latest, .. } = self.groups[group];
        Totals { count, bytes, earliest, latest }
    }

    /// The first frame of a group.
    pub(super) fn first_frame(&self, group: usize) -> Spot {
        self.groups[group].first
    }

    /// The frame at a spot.
    pub(super) fn frame(&self, spot: Spot) -> Frame {
        let header = self.arena.get(spot, 0, FRAME_HEADER);
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        Frame { spot, next: Spot(word(0)), length: word(4) as usize, count: u64::from(word(8)) }
    }

    /// The values in a frame.
    pub(super) fn frame_bytes(&self, frame: &Frame) -> &[u8] {
        self.arena.get(frame.spot, FRAME_HEADER, frame.length)
    }

    /// The values in a frame, sharing the table's memory.
    pub(super) fn share_frame(&self, frame: &Frame) -> Bytes {
        self.arena.share(frame.spot, FRAME_HEADER, frame.length)
    }

    /// Calls `visit` with every frame of a group.
    pub(super) fn frames<E>(&self, group: usize, mut visit: impl FnMut(Frame) -> Result<(), E>) -> Result<(), E> {
        let mut spot = self.first_frame(group);
        while spot != Spot::NONE {
            let frame = self.frame(spot);
            spot = frame.next;
            visit(frame)?;
        }
        Ok(())
    }

    /// Every group in the order of runs, with the hash of its key.
    pub(super) fn in_order<E>(
        &self,
        mut visit: impl FnMut(u64, &[u8], &[u8], usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut order: Vec<(u64, u32)> = self.keys.iter().map(|key| key.hash).zip(0..).collect();
        order.sort_unstable_by(|left, right| {
            let bytes = |index: u32| self.key_bytes(&self.keys[index as usize]);
            left.0.cmp(&right.0).then_with(|| bytes(left.1).cmp(bytes(right.1)))
        });
        let mut groups = Vec::new();
        for (_, index) in order {
            let key = &self.keys[index as usize];
            groups.clear();
            let mut group = key.head;
            while group != NONE {
                groups.push(group);
                group = self.groups[group as usize].next;
            }
            groups.sort_unstable_by(|left, right| self.window_bytes(*left).cmp(self.window_bytes(*right)));
            for group in &groups {
                visit(key.hash, self.key_bytes(key), self.window_bytes(*group), *group as usize)?;
            }
        }
        Ok(())
    }
}
