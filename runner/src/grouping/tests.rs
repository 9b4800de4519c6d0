//! Grouping against a map, with budgets that force every path.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::element::{WireCoder, put_varint};
use crate::executor::StateError;
use crate::memory::Budget;
use crate::time::Timestamp;

type Model = BTreeMap<(Vec<u8>, Vec<u8>), Expected>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    values: Vec<Vec<u8>>,
    earliest: Timestamp,
    latest: Timestamp,
}

struct Under {
    _folder: tempfile::TempDir,
    budget: Budget,
    buffer: GroupBuffer,
    model: Model,
}

impl Under {
    /// A buffer that may hold `floor` bytes and no more.
    fn floor(floor: usize) -> Under {
        let folder = tempfile::tempdir().unwrap();
        let budget = Budget::with_floor(0, floor, folder.path());
        Under { _folder: folder, buffer: GroupBuffer::new(&budget), budget, model: Model::new() }
    }

    fn add(&mut self, key: &[u8], window: &[u8], timestamp: i64, value: &[u8]) {
        let mut encoded = Vec::new();
        put_varint(&mut encoded, value.len() as u64);
        encoded.extend_from_slice(value);
        let timestamp = Timestamp(timestamp);
        self.buffer.add(key, window, timestamp, &encoded).unwrap();
        let expected = Expected { values: Vec::new(), earliest: timestamp, latest: timestamp };
        let group = self.model.entry((key.to_vec(), window.to_vec())).or_insert(expected);
        group.values.push(encoded);
        group.earliest = group.earliest.min(timestamp);
        group.latest = group.latest.max(timestamp);
    }

    fn check(self, limit: usize) -> Budget {
        self.check_parts(limit, usize::MAX)
    }

    /// Reads pages of `limit` bytes, and at most `windows` windows of a key at once.
    fn check_parts(self, limit: usize, windows: usize) -> Budget {
        let Under { _folder, budget, buffer, mut model } = self;
        model.values_mut().for_each(|group| group.values.sort_unstable());
        let mut groups = buffer.finish().unwrap();
        let mut keys = 0;
        let mut seen = Model::new();
        let mut last = None;
        while let Some(group) = groups.next_part(windows).unwrap() {
            assert!((1..=windows.max(1)).contains(&group.windows.len()));
            if last.as_ref() != Some(&group.key) {
                keys += 1;
                last = Some(group.key.clone());
            }
            for window in group.windows {
                let mut values = read(&window.values, limit);
                assert_eq!(window.count, values.len() as u64);
                assert_eq!(window.bytes, values.iter().map(|value| value.len() as u64).sum::<u64>());
                values.sort_unstable();
                let expected = Expected { values, earliest: window.earliest, latest: window.latest };
                let twice = seen.insert((group.key.to_vec(), window.window.to_vec()), expected);
                assert!(twice.is_none(), "a window came twice");
            }
        }
        assert!(groups.next().unwrap().is_none());
        assert_eq!(seen, model);
        let distinct: std::collections::BTreeSet<_> = model.keys().map(|(key, _)| key).collect();
        assert_eq!(keys, distinct.len(), "every key once");
        drop(groups);
        assert_eq!(std::fs::read_dir(budget.spill_dir()).unwrap().count(), 0);
        budget
    }
}

/// All values, read in pages of `limit`.
fn read(values: &Values, limit: usize) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut position = Some(0);
    while let Some(at) = position {
        let (page, count, next) = values.page(at, limit).unwrap();
        let part = split(&page);
        assert_eq!(part.len() as u64, count, "a page has whole values");
        assert!(
            page.len() <= limit.max(FRAME) || count == 1,
            "{count} values of {} bytes, {limit} allowed",
            page.len()
        );
        assert!(count > 0, "a page has a value");
        found.extend(part);
        position = next;
    }
    let mut cursor = values.cursor();
    let mut again = Vec::new();
    while let Some((page, count)) = cursor.next_page(limit).unwrap() {
        let part = split(&page);
        assert_eq!(part.len() as u64, count);
        again.extend(part);
    }
    assert_eq!(again, found);
    found
}

fn split(page: &[u8]) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    let mut rest = page;
    while !rest.is_empty() {
        let (value, after) = rest.split_at(WireCoder::Prefixed.skip(rest).unwrap());
        values.push(value.to_vec());
        rest = after;
    }
    values
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![20 => 0..30usize, 5 => 100..2000usize, 1 => 5_000..40_000usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn groups_are_those_of_a_map(
        added in vec((0..12u8, 0..4usize, 0..5u8, any::<i64>(), length()), 0..250),
        floor in prop_oneof![Just(0usize), Just(20_000), Just(200_000), Just(100 << 20)],
        limit in prop_oneof![1..2000usize, Just(1 << 20)],
        windows in prop_oneof![Just(usize::MAX), 0..4usize],
    ) {
        let mut under = Under::floor(floor);
        for (index, (key, key_length, window, timestamp, length)) in added.into_iter().enumerate() {
            let value: Vec<u8> = (0..length).map(|at| (index + at) as u8).collect();
            // Keys that are prefixes of each other, and the empty one; as many windows, the empty one among them.
            under.add(&vec![key; key_length], &vec![7; window as usize], timestamp, &value);
        }
        let budget = under.check_parts(limit, windows);
        prop_assert_eq!(budget.used(), 0);
    }
}

#[test]
fn many_runs_merge_in_passes() {
    let mut under = Under::floor(0);
    for index in 0..30_000u32 {
        let key = (index.wrapping_mul(2_654_435_761) % 5000).to_be_bytes();
        let window = [(index % 3) as u8];
        under.add(&key, &window[..(index % 2) as usize], i64::from(index), &index.to_be_bytes());
    }
    assert!(under.buffer.runs() > 3 * FAN_IN, "{} runs", under.buffer.runs());
    under.check(1 << 20);
}

#[test]
fn memory_stays_within_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let limit = 4 << 20;
    let budget = Budget::new(limit, folder.path());
    let mut buffer = GroupBuffer::new(&budget);
    for index in 0..200_000u64 {
        buffer.add(&(index % 70_000).to_be_bytes(), b"", Timestamp(0), &index.to_be_bytes()).unwrap();
        assert!(budget.used() <= limit);
    }
    assert!(buffer.runs() > 1);
    let mut groups = buffer.finish().unwrap();
    assert_eq!(budget.used(), 0, "what was in memory is given back before the groups are taken");
    let mut keys = 0;
    while let Some(group) = groups.next().unwrap() {
        keys += 1;
        assert!((2..4).contains(&group.windows[0].count));
    }
    assert_eq!(keys, 70_000);
}

#[test]
fn a_small_group_costs_little() {
    let folder = tempfile::tempdir().unwrap();
    let budget = Budget::new(usize::MAX, folder.path());
    let mut buffer = GroupBuffer::new(&budget);
    let groups = 1_000_000u64;
    for index in 0..groups {
        buffer.add(&index.to_be_bytes(), b"", Timestamp(0), &index.to_be_bytes()).unwrap();
    }
    let each = buffer.bytes_in_memory() as u64 / groups;
    assert!(each < 200, "{each} bytes for a key of 8 and a value of 8");
}

#[test]
fn one_window_or_many_a_key_are_found_alike() {
    for floor in [0, usize::MAX] {
        let mut under = Under::floor(floor);
        for index in 0..20_000u32 {
            under.add(b"only", &(index % 4000).to_be_bytes(), i64::from(index), b"v");
        }
        under.check(1 << 20);
    }
}

#[test]
fn a_large_group_is_not_loaded() {
    let mut under = Under::floor(1 << 20);
    let value = vec![5; 10_000];
    for index in 0..3000 {
        under.add(if index % 100 == 0 { b"rare" } else { b"hot" }, b"", index, &value);
    }
    let Under { _folder, buffer, .. } = under;
    let mut groups = buffer.finish().unwrap();
    let mut kept = Vec::new();
    while let Some(group) = groups.next().unwrap() {
        assert_eq!(group.windows.len(), 1);
        kept.push((group.key.to_vec(), group.windows[0].values.clone()));
    }
    // Readable when everything else is gone, the folder too.
    drop(groups);
    drop(_folder);
    kept.sort_by_key(|(key, _)| key.clone());
    let counts: Vec<usize> = kept.iter().map(|(_, values)| read(values, 1 << 20).len()).collect();
    assert_eq!(counts, [2970, 30]);
}

#[test]
fn values_longer_than_a_page_come_alone() {
    for floor in [0, usize::MAX] {
        let mut under = Under::floor(floor);
        for length in [0, 10, 3 << 20, 10, 1 << 20, (1 << 20) + 1, 5 << 20, 0, 1] {
            under.add(b"key", b"", 0, &vec![1; length]);
        }
        under.add(&vec![9; 3 << 20], &vec![8; 2 << 20], 0, &vec![7; 4 << 20]);
        under.add(b"after", b"", 0, b"small");
        under.check(1 << 20);
    }
}

#[test]
fn a_long_value_is_alone_in_its_frame() {
    for floor in [0, usize::MAX] {
        for length in [FRAME - 20, FRAME - 5, FRAME, FRAME + 1, FRAME + 6000] {
            let mut under = Under::floor(floor);
            under.add(b"key", b"", 0, &vec![1; length]);
            under.buffer.add(b"key", b"", Timestamp(0), b"").unwrap();
            under.buffer.add(b"key", b"", Timestamp(0), &[0]).unwrap();
            let group = under.buffer.finish().unwrap().next().unwrap().unwrap();
            let (page, count, _) = group.windows[0].values.page(0, 1).unwrap();
            assert!(page.len() <= FRAME || count == 1, "{count} values of {} bytes", page.len());
            assert_eq!(group.windows[0].count, 3);
        }
    }
}

#[test]
fn chained_values_follow_each_other() {
    for floor in [0, usize::MAX] {
        let mut under = Under::floor(floor);
        for index in 0..6000u32 {
            under.add(b"key", &(index % 3).to_be_bytes(), 0, &[index as u8; 50]);
        }
        let Under { _folder, buffer, .. } = under;
        let group = buffer.finish().unwrap().next().unwrap().unwrap();
        let parts: Vec<Values> = group.windows.iter().map(|window| window.values.clone()).collect();
        let separate: Vec<Vec<u8>> = parts.iter().flat_map(|part| read(part, 700)).collect();
        let chained = Values::chain(vec![Values::chain(parts), Values::default()]);
        assert_eq!(read(&chained, 700), separate);
        assert_eq!(separate.len(), 6000);
    }
    assert_eq!(Values::chain(Vec::new()).page(0, 10).unwrap().1, 0);
}

#[test]
fn a_buffer_that_cannot_spill_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let mut buffer = GroupBuffer::new(&Budget::with_floor(0, 0, &missing));
    let failed = (0..10_000u32).find_map(|index| buffer.add(&index.to_be_bytes(), b"", Timestamp(0), b"v").err());
    let message = failed.unwrap().to_string();
    assert!(message.contains(missing.to_str().unwrap()), "{message}");
}

/// One group of 300 values of 20,000 bytes, in memory or on disk.
fn large_group(floor: usize) -> (tempfile::TempDir, Budget, Values) {
    let mut under = Under::floor(floor);
    for index in 0..300u32 {
        under.add(b"key", b"", 0, &vec![index as u8; 20_000]);
    }
    let Under { _folder, budget, buffer, .. } = under;
    let values = buffer.finish().unwrap().next().unwrap().unwrap().windows[0].values.clone();
    (_folder, budget, values)
}

#[test]
fn stored_iterables_are_read_page_by_page() {
    for floor in [0, usize::MAX] {
        let (_folder, budget, values) = large_group(floor);
        let all = read(&values, 1 << 20);
        let (first, _, rest) = values.page(0, 100_000).unwrap();
        let stored = StoredIterables::new(&budget);
        let token = stored.insert(&values, rest.unwrap(), 2).unwrap();
        let other = stored.insert(&values, 0, 1).unwrap();
        drop(values);
        assert_eq!(budget.used(), 0, "what is stored needs no memory");
        let mut found = split(&first);
        let mut continuation = bytes::Bytes::new();
        loop {
            let page = stored.get(&token, &continuation).unwrap();
            assert!(page.data.len() <= 1 << 20);
            found.extend(split(&page.data));
            continuation = page.continuation;
            if continuation.is_empty() {
                break;
            }
            let mut damaged = continuation.to_vec();
            damaged[3] ^= 1;
            assert!(matches!(stored.get(&token, &damaged), Err(StateError::Unknown(_))));
            assert!(matches!(stored.get(&other, &continuation), Err(StateError::Unknown(_))));
            assert!(matches!(stored.get(&token, &continuation[..5]), Err(StateError::Unknown(_))));
        }
        assert_eq!(found, all);
        // Another process's tokens, and forgotten ones, are refused.
        assert!(matches!(StoredIterables::new(&budget).get(&token, b""), Err(StateError::Unknown(_))));
        assert_eq!(stored.len(), 2);
        // It is there until both of its readers have given it back.
        assert!(!stored.release(&token) && stored.get(&token, b"").is_ok());
        assert!(stored.release(&token) && !stored.release(&token));
        assert!(matches!(stored.get(&token, b""), Err(StateError::Unknown(_))));
        assert!(stored.get(b"", b"").is_err());
    }
}
