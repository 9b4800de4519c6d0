//! Side inputs against a map, in memory and on disk, read by many threads.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::element::{BatchBuilder, PANE_NO_FIRING, WireCoder, encode_windowed_value};
use crate::time::Timestamp;
use crate::windowing::{IntervalWindow, WindowCoder};

type Model = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<Vec<u8>>>>;

fn prefixed(bytes: &[u8]) -> Vec<u8> {
    let mut out = varint(bytes.len() as u64);
    out.extend_from_slice(bytes);
    out
}

fn pairs() -> ElementCoder {
    let value = WireCoder::Kv(WireCoder::Prefixed.into(), WireCoder::Prefixed.into());
    ElementCoder::new(value, WindowCoder::Interval)
}

fn window(number: u8) -> Vec<u8> {
    let start = i64::from(number) * 100;
    IntervalWindow { start: Timestamp(start), end: Timestamp(start + 100) }.encode().to_vec()
}

/// All pages of a cell.
fn pages(mut get: impl FnMut(&[u8]) -> Result<StatePage, StateError>) -> Vec<Bytes> {
    let mut pages = Vec::new();
    let mut continuation = Bytes::new();
    loop {
        let page = get(&continuation).unwrap();
        pages.push(page.data);
        continuation = page.continuation;
        if continuation.is_empty() {
            return pages;
        }
    }
}

/// The elements of a cell; every page has whole ones.
fn elements(coder: &WireCoder, get: impl FnMut(&[u8]) -> Result<StatePage, StateError>) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for page in pages(get) {
        let mut rest = &page[..];
        let before = found.len();
        while !rest.is_empty() {
            let (element, after) = rest.split_at(coder.skip(rest).unwrap());
            found.push(element.to_vec());
            rest = after;
        }
        assert!(page.len() <= PAGE || found.len() == before + 1, "{} bytes", page.len());
    }
    found
}

fn sorted(mut elements: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    elements.sort_unstable();
    elements
}

fn check_multimap(table: &SideInputTable, model: &Model) {
    let entry = WireCoder::Kv(WireCoder::Prefixed.into(), Box::new(WireCoder::Iterable(WireCoder::Prefixed.into())));
    for (window, keys) in model {
        let found = elements(&WireCoder::Prefixed, |at| table.keys(window, at));
        assert_eq!(sorted(found), keys.keys().cloned().collect::<Vec<_>>());
        for (key, values) in keys {
            let found = elements(&WireCoder::Prefixed, |at| table.values_of(window, key, at));
            assert_eq!(sorted(found), *values);
        }
        let mut found = BTreeMap::new();
        for element in elements(&entry, |at| table.entries(window, at)) {
            let (key, values) = entry.key_value(&element).unwrap();
            let values = WireCoder::Iterable(WireCoder::Prefixed.into()).iterate(values).unwrap();
            let values = sorted(values.into_iter().map(<[u8]>::to_vec).collect());
            assert!(found.insert(key.to_vec(), values).is_none(), "a key came twice");
        }
        assert_eq!(found, *keys);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn multimaps_are_maps(
        added in vec((vec(0..3u8, 0..3), 0..20u8, prop_oneof![9 => 0..50usize, 1 => 10_000..200_000usize]), 0..150),
        floor in prop_oneof![Just(0usize), Just(30_000), Just(100 << 20)],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let budget = Budget::with_floor(0, floor, folder.path());
        let table = SideInputTable::new(&budget, Access::Multimap, pairs());
        let mut model = Model::new();
        let mut batch = BatchBuilder::new();
        for (index, (windows, key, length)) in added.into_iter().enumerate() {
            let key = prefixed(&vec![key; usize::from(key) % 5]);
            let value = prefixed(&vec![index as u8; length]);
            let windows: Vec<Vec<u8>> = windows.into_iter().map(window).collect();
            for window in &windows {
                let keys = model.entry(window.clone()).or_default();
                keys.entry(key.clone()).or_default().push(value.clone());
            }
            let windows: Vec<&[u8]> = windows.iter().map(Vec::as_slice).collect();
            let value = [key, value].concat();
            batch.push_with(Timestamp(0), |out| {
                encode_windowed_value(out, Timestamp(0), &windows, PANE_NO_FIRING, &value);
            });
            if index % 10 == 0 {
                table.append(&batch.finish()).unwrap();
            }
        }
        table.append(&batch.finish()).unwrap();
        table.freeze().unwrap();
        model.values_mut().flat_map(BTreeMap::values_mut).for_each(|values| values.sort_unstable());
        check_multimap(&table, &model);
        // Nothing where nothing was added.
        for (window, key) in [(window(9), prefixed(b"")), (window(0), prefixed(b"absent")), (Vec::new(), Vec::new())] {
            prop_assert_eq!(table.values_of(&window, &key, b"").unwrap(), StatePage::default());
        }
        prop_assert_eq!(table.keys(&window(9), b"").unwrap(), StatePage::default());
        prop_assert_eq!(table.entries(&window(9), b"").unwrap(), StatePage::default());
    }

    #[test]
    fn iterables_are_lists(
        added in vec((0..3u8, prop_oneof![9 => 0..50usize, 1 => 10_000..400_000usize]), 0..150),
        floor in prop_oneof![Just(0usize), Just(30_000), Just(100 << 20)],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let coder = ElementCoder::new(WireCoder::Prefixed, WindowCoder::Interval);
        let budget = Budget::with_floor(0, floor, folder.path());
        let table = SideInputTable::new(&budget, Access::Iterable, coder);
        let mut model: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
        for (index, (number, length)) in added.into_iter().enumerate() {
            let value = prefixed(&vec![index as u8; length]);
            let window = window(number);
            let mut batch = BatchBuilder::new();
            batch.push_with(Timestamp(0), |out| {
                encode_windowed_value(out, Timestamp(0), &[&window], PANE_NO_FIRING, &value);
            });
            table.append(&batch.finish()).unwrap();
            model.entry(window).or_default().push(value);
        }
        table.freeze().unwrap();
        for (window, values) in model {
            let found = elements(&WireCoder::Prefixed, |at| table.values(&window, at));
            prop_assert_eq!(sorted(found), sorted(values));
        }
        prop_assert_eq!(table.values(&window(9), b"").unwrap(), StatePage::default());
    }
}

fn many_keys(keys: u32, floor: usize) -> (tempfile::TempDir, SideInputTable) {
    let folder = tempfile::tempdir().unwrap();
    let budget = Budget::with_floor(0, floor, folder.path());
    let coder = ElementCoder { window: WindowCoder::Global, ..pairs() };
    let table = SideInputTable::new(&budget, Access::Multimap, coder);
    let mut batch = BatchBuilder::new();
    for index in 0..keys {
        let value = [prefixed(&index.to_be_bytes()), prefixed(&index.to_le_bytes())].concat();
        batch.push_with(Timestamp(0), |out| {
            encode_windowed_value(out, Timestamp(0), &[b""], PANE_NO_FIRING, &value);
        });
    }
    table.append(&batch.finish()).unwrap();
    table.freeze().unwrap();
    (folder, table)
}

#[test]
fn threads_read_many_keys_at_once() {
    let keys = 300_000u32;
    for floor in [1 << 20, usize::MAX] {
        let (_folder, table) = many_keys(keys, floor);
        assert_eq!(matches!(table.frozen.get(), Some(Contents::Disk(_))), floor == 1 << 20);
        let table = Arc::new(table);
        let threads: Vec<_> = (0..4u32)
            .map(|thread| {
                let table = Arc::clone(&table);
                std::thread::spawn(move || {
                    for index in (thread..keys).step_by(997) {
                        let page = table.values_of(b"", &prefixed(&index.to_be_bytes()), b"").unwrap();
                        assert_eq!(page.data, prefixed(&index.to_le_bytes()));
                        assert!(page.continuation.is_empty());
                    }
                    assert_eq!(elements(&WireCoder::Prefixed, |at| table.keys(b"", at)).len(), keys as usize);
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

#[test]
fn continuations_belong_to_their_cell() {
    let (_folder, table) = many_keys(400_000, usize::MAX);
    let page = table.keys(b"", b"").unwrap();
    assert!(!page.continuation.is_empty());
    assert!(table.keys(b"", &page.continuation).is_ok());
    assert!(matches!(table.entries(b"", &page.continuation), Err(StateError::Unknown(_))));
    assert!(matches!(table.keys(b"w", &page.continuation), Err(StateError::Unknown(_))));
    assert!(matches!(table.keys(b"", &[0; 16]), Err(StateError::Unknown(_))));
    assert!(matches!(table.keys(b"", b"?"), Err(StateError::Unknown(_))));
}

#[test]
fn a_key_with_too_many_values_is_refused_as_an_entry_and_read_by_itself() {
    for floor in [0, usize::MAX] {
        let folder = tempfile::tempdir().unwrap();
        let coder = ElementCoder { window: WindowCoder::Global, ..pairs() };
        let budget = Budget::with_floor(0, floor, folder.path());
        let table = SideInputTable::new(&budget, Access::Multimap, coder);
        let value = [prefixed(b"key"), prefixed(&vec![1; 1 << 20])].concat();
        let mut batch = BatchBuilder::new();
        for _ in 0..20 {
            batch.push_with(Timestamp(0), |out| {
                encode_windowed_value(out, Timestamp(0), &[b""], PANE_NO_FIRING, &value);
            });
        }
        table.append(&batch.finish()).unwrap();
        table.freeze().unwrap();
        assert!(matches!(table.entries(b"", b""), Err(StateError::Unsupported(_))));
        assert_eq!(elements(&WireCoder::Prefixed, |at| table.values_of(b"", &prefixed(b"key"), at)).len(), 20);
    }
}

#[test]
fn a_table_is_read_when_it_is_complete_and_as_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let budget = Budget::new(1 << 20, folder.path());
    let table = SideInputTable::new(&budget, Access::Multimap, pairs());
    assert!(matches!(table.keys(b"", b""), Err(StateError::Storage(_))));
    table.freeze().unwrap();
    table.freeze().unwrap();
    assert_eq!(table.keys(b"", b"").unwrap(), StatePage::default());
    assert!(matches!(table.values(b"", b""), Err(StateError::Unsupported(_))));
    assert!(table.append(&Batch::default()).is_err());
    let table = SideInputTable::new(&budget, Access::Iterable, pairs());
    table.freeze().unwrap();
    for page in [table.keys(b"", b""), table.entries(b"", b""), table.values_of(b"", b"", b"")] {
        assert!(matches!(page, Err(StateError::Unsupported(_))));
    }
}

/// Java's harness names a custom window by its own coder, the others in wire form; a bare name may look like a wire one.
#[test]
fn custom_windows_are_found_by_either_name() {
    let folder = tempfile::tempdir().unwrap();
    let coder = ElementCoder::new(WireCoder::Prefixed, WindowCoder::Custom(WireCoder::Prefixed.into()));
    let table = SideInputTable::new(&Budget::new(1 << 20, folder.path()), Access::Iterable, coder);
    let looks_like_wire = [&[7; 8][..], &prefixed(b"x")].concat();
    let mut batch = BatchBuilder::new();
    for bare in [&b"a window"[..], b"", &looks_like_wire] {
        let wire = [&Timestamp(5).to_wire()[..], &prefixed(bare)].concat();
        batch.push_with(Timestamp(0), |out| {
            encode_windowed_value(out, Timestamp(0), &[&wire], PANE_NO_FIRING, &prefixed(bare));
        });
    }
    table.append(&batch.finish()).unwrap();
    table.freeze().unwrap();
    for bare in [&b"a window"[..], b"", &looks_like_wire] {
        let wire = [&Timestamp(5).to_wire()[..], &prefixed(bare)].concat();
        for name in [bare, &wire] {
            assert_eq!(table.values(name, b"").unwrap().data, prefixed(bare));
        }
    }
    assert_eq!(table.values(b"another", b"").unwrap(), StatePage::default());
}
