//! What every kind of store does, beside a plain ordered map.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::stores;
use crate::memory::Budget;
use crate::state::{Store, StoreError, StoreKind, Stores, WriteBatch};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Few bytes, so that keys meet, and prefixes of three, of which a store may keep filters.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0u8..3, 0..6)
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    DeleteRange(Vec<u8>, Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (key(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(key, value)| Step::Put(key, value)),
        1 => key().prop_map(Step::Delete),
        1 => (key(), key()).prop_map(|(from, to)| Step::DeleteRange(from, to)),
    ]
}

fn apply(steps: &[Step], model: &mut Model) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for step in steps {
        match step.clone() {
            Step::Put(key, value) => {
                batch.put(key.clone(), value.clone());
                model.insert(key, value);
            }
            Step::Delete(key) => {
                model.remove(&key);
                batch.delete(key);
            }
            Step::DeleteRange(from, to) => {
                model.retain(|key, _| *key < from || *key >= to);
                batch.delete_range(from, to);
            }
        }
    }
    batch
}

fn scan(store: &dyn Store, from: &[u8], to: Option<&[u8]>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    store
        .scan(from, to, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            true
        })
        .unwrap();
    found
}

fn expected(model: &Model, from: &[u8], to: Option<&[u8]>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let within = |key: &[u8]| key >= from && to.is_none_or(|to| key < to);
    model.iter().filter(|(key, _)| within(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_store_is_an_ordered_map(
        batches in prop::collection::vec(prop::collection::vec(step(), 0..12), 1..8),
        reads in prop::collection::vec((key(), prop::option::of(key())), 1..12),
    ) {
        for mut store in stores() {
            let mut model = Model::new();
            for batch in &batches {
                store.write(apply(batch, &mut model)).unwrap();
            }
            for (from, to) in &reads {
                prop_assert_eq!(store.get(from).unwrap().map(Vec::from), model.get(from).cloned());
                prop_assert_eq!(scan(&*store, from, to.as_deref()), expected(&model, from, to.as_deref()));
            }
        }
    }
}

#[test]
fn a_scan_ends_when_it_is_told_to() {
    for mut store in stores() {
        let mut batch = WriteBatch::default();
        (0..10u8).for_each(|key| batch.put(vec![1, key], vec![]));
        store.write(batch).unwrap();
        let mut seen = 0;
        store
            .scan(&[1, 3], None, &mut |_, _| {
                seen += 1;
                seen < 4
            })
            .unwrap();
        assert_eq!(seen, 4);
    }
}

#[test]
fn long_ranges_are_removed_too() {
    for mut store in stores() {
        let mut batch = WriteBatch::default();
        (0..5000u32).for_each(|key| batch.put(key.to_be_bytes().to_vec(), vec![7; 20]));
        store.write(batch).unwrap();
        let mut batch = WriteBatch::default();
        batch.delete_range(10u32.to_be_bytes().to_vec(), 4990u32.to_be_bytes().to_vec());
        batch.put(100u32.to_be_bytes().to_vec(), vec![]);
        store.write(batch).unwrap();
        assert_eq!(scan(&*store, &[], None).len(), 21);
    }
}

#[test]
fn a_snapshot_is_of_its_moment_and_opens_as_any_kind() {
    let folder = tempfile::tempdir().unwrap();
    let budget = Budget::new(1 << 30, folder.path());
    let kinds = [StoreKind::Auto, StoreKind::Memory, StoreKind::RocksDb];
    for kind in kinds {
        let mut store = Stores::new(kind, &budget).open("before").unwrap();
        let mut model = Model::new();
        let steps: Vec<Step> = (0..2000u32).map(|key| Step::Put(key.to_be_bytes().into(), vec![1; 100])).collect();
        store.write(apply(&steps, &mut model)).unwrap();
        let snapshot = folder.path().join(format!("{kind:?}"));
        let frozen = store.freeze().unwrap();
        let mut batch = WriteBatch::default();
        batch.delete_range(vec![], vec![255]);
        batch.put(vec![9], vec![9]);
        store.write(batch).unwrap();
        // Written later, it is what it was.
        frozen.write(&snapshot).unwrap();
        assert!(store.freeze().unwrap().write(&snapshot).is_err(), "a snapshot is never written over");
        // Twice of each, for a restored store leaves the snapshot as it was.
        for into in kinds.into_iter().chain(kinds) {
            let mut restored = Stores::new(into, &budget).restore("after", &snapshot).unwrap();
            assert_eq!(scan(&*restored, &[], None), expected(&model, &[], None), "{kind:?} into {into:?}");
            let mut batch = WriteBatch::default();
            batch.delete_range(vec![], vec![255]);
            restored.write(batch).unwrap();
        }
        assert_eq!(scan(&*store, &[], None), [(vec![9], vec![9])]);
    }
}

#[test]
fn a_damaged_snapshot_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let budget = Budget::new(1 << 30, folder.path());
    let stores = Stores::new(StoreKind::Memory, &budget);
    let mut store = stores.open("before").unwrap();
    let mut batch = WriteBatch::default();
    (1..=3).for_each(|key| batch.put(vec![key, 2, 3], vec![4; 50]));
    store.write(batch).unwrap();
    let snapshot = folder.path().join("snapshot");
    assert_eq!(store.freeze().unwrap().write(&snapshot).unwrap(), Some(3));
    let whole = std::fs::read(snapshot.join("entries")).unwrap();
    // Also where it ends with an entry.
    for length in 0..whole.len() {
        std::fs::write(snapshot.join("entries"), &whole[..length]).unwrap();
        let opened: Result<_, StoreError> = stores.restore("after", &snapshot);
        assert!(opened.is_err(), "{length}");
    }
    std::fs::write(snapshot.join("entries"), [&whole[..], &[255; 8]].concat()).unwrap();
    assert!(stores.restore("after", &snapshot).is_err(), "a length beyond the file");
    assert!(stores.restore("after", &folder.path().join("nowhere")).is_err());
}

#[test]
fn memory_that_a_store_takes_is_counted_and_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let budget = Budget::with_floor(1 << 20, 0, folder.path());
    let mut store = Stores::new(StoreKind::Auto, &budget).open("test").unwrap();
    let fill = |store: &mut Box<dyn Store>, keys: std::ops::Range<u32>| {
        let mut batch = WriteBatch::default();
        keys.for_each(|key| batch.put(key.to_be_bytes().to_vec(), vec![1; 1000]));
        store.write(batch).unwrap();
    };
    fill(&mut store, 0..100);
    assert!((100_000..200_000).contains(&budget.used()), "{}", budget.used());
    let mut batch = WriteBatch::default();
    batch.delete_range(vec![0], vec![1]);
    store.write(batch).unwrap();
    assert_eq!(budget.used(), 0);
    // What the budget has no room for is on disk, and only RocksDB's cache is counted.
    fill(&mut store, 0..5000);
    let on_disk = budget.used();
    assert!(std::fs::read_dir(folder.path()).unwrap().count() == 1);
    fill(&mut store, 5000..10_000);
    assert_eq!(budget.used(), on_disk);
    assert_eq!(store.get(&9999u32.to_be_bytes()).unwrap(), Some(Bytes::from(vec![1; 1000])));
    drop(store);
    assert_eq!(budget.used(), 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
