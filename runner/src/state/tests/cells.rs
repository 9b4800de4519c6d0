//! Single cases of user state.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::executor::{StateError, StateServer, UncountedEntry};
use crate::state::bundle::{PAGE, UNCOUNTED};
use crate::state::{BundleState, Changes, Expiry};
use crate::time::Timestamp;

/// All pages of a cell, none empty and each at most a page or one value long.
pub(super) fn read(bundle: &BundleState, key: &StateKey) -> Result<Vec<u8>, StateError> {
    let (mut all, mut token) = (Vec::new(), Bytes::new());
    loop {
        let page = bundle.get(key, &token)?;
        all.extend_from_slice(&page.data);
        if page.continuation.is_empty() {
            return Ok(all);
        }
        assert!(!page.data.is_empty(), "a page before the last has something on it");
        token = page.continuation;
    }
}

fn bag() -> StateKey {
    user("bag", "key", "window", CellPart::Bag)
}

#[test]
fn a_value_is_rewritten_in_place() {
    for state in states() {
        for round in 0..10_u8 {
            let bundle = state.bundle();
            let expected = if round == 0 { Bytes::new() } else { value(&[round - 1; 100]) };
            assert_eq!(bundle.get(&bag(), b"").unwrap().data, expected);
            bundle.clear(&bag()).unwrap();
            assert!(read(&bundle, &bag()).unwrap().is_empty(), "a bundle sees what it cleared");
            bundle.append(&bag(), value(&[round; 100])).unwrap();
            assert_eq!(read(&bundle, &bag()).unwrap(), value(&[round; 100]));
            state.commit(&bundle, Changes::default()).unwrap();
        }
        let mut records = 0;
        state
            .shared()
            .inner()
            .store
            .scan(b"", None, &mut |_, _| {
                records += 1;
                true
            })
            .unwrap();
        assert_eq!(records, 1, "a small bag is one record");
    }
}

#[test]
fn a_bundle_that_is_dropped_leaves_nothing() {
    for state in states() {
        let budget = state.budget().clone();
        let bundle = state.bundle();
        bundle.append(&bag(), value(&[1; 5000])).unwrap();
        assert!(bundle.bytes() >= 5000 && budget.used() >= 5000, "pending writes are on the budget");
        drop(bundle);
        assert_eq!(budget.used(), 0);
        assert!(read(&state.bundle(), &bag()).unwrap().is_empty());
    }
}

#[test]
fn large_bags_are_paged_by_whole_values() {
    for state in states() {
        let mut expected = Vec::new();
        for round in 0..4_u8 {
            let bundle = state.bundle();
            let mut appended = Vec::new();
            for size in [10, 300_000, 700_000, PAGE + 5, 3] {
                appended.extend_from_slice(&value(&vec![round; size]));
            }
            bundle.append(&bag(), appended.clone().into()).unwrap();
            expected.extend_from_slice(&appended);
            assert_eq!(read(&bundle, &bag()).unwrap(), expected);
            state.commit(&bundle, Changes::default()).unwrap();
        }
        let bundle = state.bundle();
        let mut token = Bytes::new();
        loop {
            let page = bundle.get(&bag(), &token).unwrap();
            let mut values = 0;
            let mut rest = &page.data[..];
            while !rest.is_empty() {
                let length = WireCoder::Prefixed.skip(rest).unwrap();
                rest = &rest[length..];
                values += 1;
            }
            assert!(page.data.len() <= PAGE || values == 1);
            token = page.continuation;
            if token.is_empty() {
                break;
            }
        }
        bundle.clear(&bag()).unwrap();
        assert!(read(&bundle, &bag()).unwrap().is_empty());
        state.commit(&bundle, Changes::default()).unwrap();
        state.shared().inner().store.scan(b"", None, &mut |key, _| panic!("{key:?} is left")).unwrap();
    }
}

#[test]
fn a_token_stays_good_while_the_bag_grows() {
    for state in states() {
        let first = state.bundle();
        let mut expected = Vec::new();
        for round in 0..300_u32 {
            let part = value(&vec![round as u8; 4000]);
            first.append(&bag(), part.clone()).unwrap();
            expected.extend_from_slice(&part);
        }
        let page = first.get(&bag(), b"").unwrap();
        assert!(!page.continuation.is_empty());
        state.commit(&first, Changes::default()).unwrap();
        let second = state.bundle();
        let part = value(b"later");
        second.append(&bag(), part.clone()).unwrap();
        expected.extend_from_slice(&part);
        let check = |bundle: &BundleState| {
            let rest = bundle.get(&bag(), &page.continuation).unwrap();
            assert_eq!([&page.data[..], &rest.data].concat(), expected);
        };
        check(&second);
        state.commit(&second, Changes::default()).unwrap();
        check(&state.bundle());
    }
}

#[test]
fn foreign_tokens_are_refused() {
    for state in states() {
        let bundle = state.bundle();
        let big = value(&vec![0; PAGE]);
        for key in [bag(), user("other", "key", "window", CellPart::Bag)] {
            bundle.append(&key, [&big[..], &big].concat().into()).unwrap();
        }
        let token = bundle.get(&bag(), b"").unwrap().continuation;
        assert!(bundle.get(&user("other", "key", "window", CellPart::Bag), &token).is_err());
        for bit in 0..token.len() * 8 {
            let mut damaged = token.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(bundle.get(&bag(), &damaged).is_err());
        }
        assert!(bundle.get(&bag(), b"short").is_err());
        assert!(bundle.get(&bag(), &token).is_ok());
    }
}

#[test]
fn a_large_map_entry_comes_in_several() {
    for state in states() {
        let bundle = state.bundle();
        let (large, small) = (value(b"large"), value(b"small"));
        let key = |part| user("map", "key", "window", part);
        let one = value(&[7; 400_000]);
        for _ in 0..5 {
            bundle.append(&key(CellPart::MapValues(large.clone())), one.clone()).unwrap();
        }
        bundle.append(&key(CellPart::MapValues(small.clone())), value(b"x")).unwrap();
        state.commit(&bundle, Changes::default()).unwrap();
        let bundle = state.bundle();
        let coder = WireCoder::Iterable(Box::new(WireCoder::Prefixed));
        let all = read(&bundle, &key(CellPart::MapEntries)).unwrap();
        let (mut rest, mut seen) = (&all[..], Vec::new());
        while !rest.is_empty() {
            let end = WireCoder::Prefixed.skip(rest).unwrap();
            let length = coder.skip(&rest[end..]).unwrap();
            let count = coder.iterate(&rest[end..end + length]).unwrap().len();
            seen.push((Bytes::copy_from_slice(&rest[..end]), count));
            rest = &rest[end + length..];
        }
        let count = |key: &Bytes| seen.iter().filter(|(seen, _)| seen == key).map(|(_, count)| count).sum::<usize>();
        assert_eq!((count(&large), count(&small)), (5, 1));
        assert!(seen.len() > 2);
        assert_eq!(read(&bundle, &key(CellPart::MapKeys)).unwrap(), [&large[..], &small].concat());
    }
}

#[test]
fn values_without_bytes_or_borders_are_kept() {
    for state in states() {
        let bundle = state.bundle();
        let at = |state, part| user(state, "key", "window", part);
        let (one, two) = (value(b"one"), value(b"two"));
        // A set is a map whose values have no bytes.
        bundle.append(&at("set", CellPart::MapValues(one.clone())), Bytes::new()).unwrap();
        bundle.append(&at("set", CellPart::MapValues(two.clone())), Bytes::from_static(b"opaque")).unwrap();
        bundle.append(&at("opaque", CellPart::MapValues(one.clone())), vec![255; 2 * PAGE].into()).unwrap();
        state.commit(&bundle, Changes::default()).unwrap();
        let bundle = state.bundle();
        assert_eq!(read(&bundle, &at("set", CellPart::MapKeys)).unwrap(), [&one[..], &two].concat());
        assert_eq!(read(&bundle, &at("set", CellPart::MapValues(one.clone()))).unwrap(), [0]);
        assert!(read(&bundle, &at("set", CellPart::MapValues(value(b"none")))).unwrap().is_empty());
        let entries = [&one[..], &[0, 0, 0, 1], &two, &[0, 0, 0, 1], b"opaque"].concat();
        assert_eq!(read(&bundle, &at("set", CellPart::MapEntries)).unwrap(), entries);
        assert_eq!(read(&bundle, &at("opaque", CellPart::MapValues(one.clone()))).unwrap().len(), 2 * PAGE);
        assert!(matches!(bundle.get(&at("opaque", CellPart::MapEntries), b""), Err(StateError::Unsupported(_))));
        bundle.clear(&at("set", CellPart::MapValues(one.clone()))).unwrap();
        assert_eq!(read(&bundle, &at("set", CellPart::MapKeys)).unwrap(), two);
    }
}

#[test]
fn values_that_only_their_sdk_can_count_come_as_they_were_appended() {
    for state in states() {
        let bundle = state.bundle();
        let at = |part| user("opaque", "key", "window", part);
        let mut expected: BTreeMap<Bytes, Vec<u8>> = BTreeMap::new();
        let mut append = |bundle: &BundleState, key: Bytes, values: Vec<u8>| {
            expected.entry(key.clone()).or_default().extend_from_slice(&values);
            bundle.append(&at(CellPart::MapValues(key)), values.into()).unwrap();
        };
        for n in 0..UNCOUNTED + 7 {
            append(&bundle, value(format!("{n:05}").as_bytes()), vec![n as u8]);
        }
        for n in 0..3 {
            append(&bundle, value(b"large"), vec![n; PAGE / 2 + 1]);
        }
        state.commit(&bundle, Changes::default()).unwrap();
        let bundle = state.bundle();
        append(&bundle, value(b"large"), vec![9; PAGE / 2 + 1]);
        append(&bundle, value(b"new"), vec![1]);

        let (mut got, mut pages, mut continuation) = (BTreeMap::<Bytes, Vec<u8>>::new(), 0, Bytes::new());
        loop {
            let page = bundle.uncounted(&at(CellPart::MapEntries), &continuation).unwrap();
            assert!(page.entries.len() <= UNCOUNTED);
            for UncountedEntry { key, values } in page.entries {
                got.entry(key).or_default().extend_from_slice(&values);
            }
            (pages, continuation) = (pages + 1, page.continuation);
            if continuation.is_empty() {
                break;
            }
        }
        assert!(got == expected, "{} keys instead of {}", got.len(), expected.len());
        assert!(pages >= 4, "{pages} pages");
    }
}

#[test]
fn unknown_cells_and_wrong_kinds_are_refused() {
    for state in states() {
        let bundle = state.bundle();
        let unknown = user("nothing", "key", "window", CellPart::Bag);
        assert!(matches!(bundle.get(&unknown, b""), Err(StateError::Unknown(_))));
        assert!(matches!(bundle.append(&unknown, value(b"x")), Err(StateError::Unknown(_))));
        let runner = StateKey::Runner { key: Bytes::new() };
        assert!(matches!(bundle.clear(&runner), Err(StateError::Unknown(_))));
        for (state, part) in [
            ("bag", CellPart::MapKeys),
            ("map", CellPart::Bag),
            ("list", CellPart::MapValues(Bytes::new())),
            ("map", CellPart::OrderedRange { start: 0, end: 1 }),
        ] {
            let key = user(state, "key", "window", part);
            assert!(matches!(bundle.get(&key, b""), Err(StateError::Unsupported(_))));
            assert!(matches!(bundle.clear(&key), Err(StateError::Unsupported(_))));
        }
        let keys = user("map", "key", "window", CellPart::MapKeys);
        assert!(bundle.append(&keys, value(b"x")).is_err(), "keys alone cannot be added");
        let list = user("list", "key", "window", CellPart::OrderedRange { start: 0, end: 1 });
        assert!(bundle.append(&list, Bytes::from_static(&[1, 9, 0])).is_err(), "an entry that is cut off");
        assert!(bundle.append(&bag(), vec![255; PAGE + 1].into()).is_err(), "values without borders");
    }
}

#[test]
fn expired_windows_leave_nothing() {
    for state in states() {
        let scope = |window: &'static str| (Bytes::from_static(b"key"), Bytes::from_static(window.as_bytes()));
        let expiry = |window, at| {
            let (key, window) = scope(window);
            Expiry { key, window, at: Timestamp(at) }
        };
        let windows = [("a", 10), ("b", 20), ("", 30)];
        let bundle = state.bundle();
        for (window, _) in windows {
            for part in [CellPart::Bag, CellPart::MapValues(value(b"k")), CellPart::OrderedRange { start: 0, end: 0 }] {
                let (name, data) = match part {
                    CellPart::Bag => ("bag", value(&[1; 10_000])),
                    CellPart::MapValues(_) => ("map", value(b"x")),
                    _ => ("list", entry(5, b"x")),
                };
                bundle.append(&user(name, "key", window, part), data).unwrap();
            }
        }
        let expire_at: Vec<Expiry> = windows.iter().map(|(window, at)| expiry(*window, *at)).collect();
        for _ in 0..2 {
            let changes = Changes { expire_at: expire_at.clone(), ..Changes::default() };
            state.commit(&bundle, changes).unwrap();
        }
        assert_eq!(state.earliest_expiry().unwrap(), Some(Timestamp(10)));
        assert_eq!(state.expired(Timestamp(21), false, 10).unwrap(), expire_at[..2]);
        assert_eq!(state.expired(Timestamp(21), false, 1).unwrap(), expire_at[..1]);
        for gone in &expire_at {
            let bundle = state.bundle();
            let window = std::str::from_utf8(&gone.window).unwrap();
            let key = user("bag", "key", window, CellPart::Bag);
            assert!(!read(&bundle, &key).unwrap().is_empty(), "other windows are not touched");
            bundle.append(&key, value(b"at the end")).unwrap();
            let changes = Changes {
                expire_at: vec![gone.clone()],
                expired: vec![gone.clone()],
                timers: vec![timers::set(0, "key", window, "", 50)],
                ..Changes::default()
            };
            state.commit(&bundle, changes).unwrap();
            assert!(read(&state.bundle(), &key).unwrap().is_empty());
        }
        assert_eq!(state.earliest_expiry().unwrap(), None);
        assert_eq!(state.earliest(TimeDomain::EventTime).unwrap(), None);
        state.shared().inner().store.scan(b"", None, &mut |key, _| panic!("{key:?} is left")).unwrap();
    }
}
