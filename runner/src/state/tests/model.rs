//! User state against a naive model of it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::cells::read;
use super::*;
use crate::executor::StateServer;
use crate::state::Changes;

#[derive(Clone, Debug)]
enum Step {
    Append { place: usize, size: usize, many: usize },
    Put { place: usize, map_key: u8, size: usize },
    Add { place: usize, sort_keys: Vec<i64>, size: usize },
    ClearBag { place: usize },
    ClearKey { place: usize, map_key: u8 },
    ClearMap { place: usize },
    ClearRange { place: usize, start: i64, end: i64 },
    Commit,
    Abort,
}

const PLACES: [(&str, &str); 4] = [("", ""), ("a", ""), ("", "a"), ("ab", "b")];
const SORT_KEYS: [i64; 8] = [i64::MIN, -300, -1, 0, 1, 127, 128, i64::MAX - 1];

/// What a cell has: maps and lists by map key and sort key.
#[derive(Clone, Debug, Default)]
struct Model {
    bags: BTreeMap<usize, Vec<u8>>,
    maps: BTreeMap<(usize, Bytes), Vec<Bytes>>,
    lists: BTreeMap<(usize, i64), Vec<u8>>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = 0..PLACES.len();
    let size = || prop_oneof![6 => 0..50_usize, 2 => 1000..5000_usize, 1 => 200_000..700_000_usize];
    let sort_key = || prop::sample::select(SORT_KEYS.to_vec());
    let step = prop_oneof![
        4 => (place.clone(), size(), 1..4_usize).prop_map(|(place, size, many)| Step::Append { place, size, many }),
        4 => (place.clone(), 0..4_u8, size()).prop_map(|(place, map_key, size)| Step::Put { place, map_key, size }),
        4 => (place.clone(), prop::collection::vec(sort_key(), 1..5), size())
            .prop_map(|(place, sort_keys, size)| Step::Add { place, sort_keys, size }),
        2 => place.clone().prop_map(|place| Step::ClearBag { place }),
        2 => (place.clone(), 0..4_u8).prop_map(|(place, map_key)| Step::ClearKey { place, map_key }),
        1 => place.clone().prop_map(|place| Step::ClearMap { place }),
        2 => (place, sort_key(), sort_key()).prop_map(|(place, start, end)| Step::ClearRange { place, start, end }),
        3 => Just(Step::Commit),
        1 => Just(Step::Abort),
    ];
    prop::collection::vec(step, 1..40)
}

fn at(state: &str, place: usize, part: CellPart) -> StateKey {
    let (key, window) = PLACES[place];
    user(state, key, window, part)
}

fn map_key(number: u8) -> Bytes {
    value(&vec![b'k'; usize::from(number)])
}

/// Does a step, to the bundle and to the model.
fn take(step: &Step, fill: u8, bundle: &crate::state::BundleState, model: &mut Model) {
    match step {
        Step::Append { place, size, many } => {
            let data = value(&vec![fill; *size]).repeat(*many);
            bundle.append(&at("bag", *place, CellPart::Bag), data.clone().into()).unwrap();
            model.bags.entry(*place).or_default().extend(data);
        }
        Step::Put { place, map_key: number, size } => {
            let (map_key, data) = (map_key(*number), value(&vec![fill; *size]));
            bundle.append(&at("map", *place, CellPart::MapValues(map_key.clone())), data.clone()).unwrap();
            model.maps.entry((*place, map_key)).or_default().push(data);
        }
        Step::Add { place, sort_keys, size } => {
            let mut data = Vec::new();
            for sort_key in sort_keys {
                let entry = entry(*sort_key, &vec![fill; *size]);
                data.extend_from_slice(&entry);
                model.lists.entry((*place, *sort_key)).or_default().extend(entry);
            }
            bundle.append(&at("list", *place, CellPart::OrderedRange { start: 0, end: 0 }), data.into()).unwrap();
        }
        Step::ClearBag { place } => {
            bundle.clear(&at("bag", *place, CellPart::Bag)).unwrap();
            model.bags.remove(place);
        }
        Step::ClearKey { place, map_key: number } => {
            bundle.clear(&at("map", *place, CellPart::MapValues(map_key(*number)))).unwrap();
            model.maps.remove(&(*place, map_key(*number)));
        }
        Step::ClearMap { place } => {
            bundle.clear(&at("map", *place, CellPart::MapKeys)).unwrap();
            model.maps.retain(|(at, _), _| at != place);
        }
        Step::ClearRange { place, start, end } => {
            bundle.clear(&at("list", *place, CellPart::OrderedRange { start: *start, end: *end })).unwrap();
            model.lists.retain(|(at, sort_key), _| at != place || sort_key < start || sort_key >= end);
        }
        Step::Commit | Step::Abort => {}
    }
}

/// Values by key, from the pages of a map's entries.
fn parse_entries(mut bytes: &[u8]) -> BTreeMap<Bytes, Vec<Bytes>> {
    let coder = WireCoder::Iterable(Box::new(WireCoder::Prefixed));
    let mut entries: BTreeMap<Bytes, Vec<Bytes>> = BTreeMap::new();
    while !bytes.is_empty() {
        let (key, rest) = bytes.split_at(WireCoder::Prefixed.skip(bytes).unwrap());
        let (values, rest) = rest.split_at(coder.skip(rest).unwrap());
        let values = coder.iterate(values).unwrap().into_iter().map(Bytes::copy_from_slice);
        entries.entry(Bytes::copy_from_slice(key)).or_default().extend(values);
        bytes = rest;
    }
    entries
}

fn check(bundle: &crate::state::BundleState, model: &Model) {
    for place in 0..PLACES.len() {
        let bag = read(bundle, &at("bag", place, CellPart::Bag)).unwrap();
        assert!(bag == model.bags.get(&place).cloned().unwrap_or_default(), "the bag differs");
        let map: BTreeMap<Bytes, Vec<Bytes>> = model
            .maps
            .iter()
            .filter(|((at, _), _)| *at == place)
            .map(|((_, key), v)| (key.clone(), v.clone()))
            .collect();
        let keys = read(bundle, &at("map", place, CellPart::MapKeys)).unwrap();
        assert_eq!(keys, map.keys().flatten().copied().collect::<Vec<u8>>());
        assert!(
            parse_entries(&read(bundle, &at("map", place, CellPart::MapEntries)).unwrap()) == map,
            "entries differ"
        );
        for number in 0..4 {
            let values = read(bundle, &at("map", place, CellPart::MapValues(map_key(number)))).unwrap();
            let expected = map.get(&map_key(number)).map(|values| values.concat()).unwrap_or_default();
            assert!(values == expected, "the values of a map key differ");
        }
        for (start, end) in [(i64::MIN, i64::MAX), (-1, 128), (0, 0), (5, -5), (i64::MIN, i64::MIN + 1)] {
            let list = read(bundle, &at("list", place, CellPart::OrderedRange { start, end })).unwrap();
            let inside = model.lists.iter().filter(|((at, key), _)| *at == place && *key >= start && *key < end);
            assert!(list == inside.flat_map(|(_, entries)| entries.clone()).collect::<Vec<u8>>(), "a list differs");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn cells_are_as_in_a_naive_model(steps in steps()) {
        for state in states() {
            let mut committed = Model::default();
            let mut model = Model::default();
            let mut bundle = state.bundle();
            for (number, step) in steps.iter().enumerate() {
                take(step, number as u8, &bundle, &mut model);
                match step {
                    Step::Commit => {
                        state.commit(&bundle, Changes::default()).unwrap();
                        committed = model.clone();
                        bundle = state.bundle();
                    }
                    Step::Abort => {
                        model = committed.clone();
                        bundle = state.bundle();
                    }
                    _ if number % 4 != 0 => continue,
                    _ => {}
                }
                check(&bundle, &model);
            }
            check(&bundle, &model);
            drop(bundle);
            assert_eq!(state.budget().used(), 0);
            check(&state.bundle(), &committed);
        }
    }
}
