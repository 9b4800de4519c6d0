//! Timers and time-sorted input.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::state::{Changes, Timer, TimerChange, Unsorted};
use crate::time::Timestamp;

pub(super) fn timer(family: u16, key: &str, window: &str, tag: &str, fire: i64) -> Timer {
    let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Timer {
        family,
        key: copy(key),
        window: copy(window),
        tag: copy(tag),
        fire: Timestamp(fire),
        hold: Timestamp(fire),
        pane: Bytes::from_static(&[0x0f]),
        sdk_fire: Timestamp(fire + 1),
    }
}

pub(super) fn set(family: u16, key: &str, window: &str, tag: &str, fire: i64) -> TimerChange {
    TimerChange::Set(timer(family, key, window, tag, fire))
}

fn commit(state: &KeyedState, timers: Vec<TimerChange>) {
    state.commit(&state.bundle(), Changes { timers, ..Changes::default() }).unwrap();
}

const EVENT: TimeDomain = TimeDomain::EventTime;
const PROCESSING: TimeDomain = TimeDomain::ProcessingTime;

#[test]
fn a_set_timer_replaces_and_a_clear_removes() {
    for state in states() {
        commit(&state, vec![set(0, "k", "w", "", 10), set(0, "k", "w", "tag", 7), set(1, "k", "w", "", 3)]);
        assert_eq!(state.earliest(EVENT).unwrap(), Some(Timestamp(7)));
        assert_eq!(state.earliest(PROCESSING).unwrap(), Some(Timestamp(3)));
        assert_eq!(state.least_hold().unwrap(), Some(Timestamp(3)));
        assert!(state.has_processing_timers(b"k", b"w").unwrap());
        assert_eq!(state.timers_of(b"k", b"w").unwrap().len(), 3);
        let clear = |timer: &TimerChange| match timer {
            TimerChange::Set(timer) => TimerChange::Clear(timer.id()),
            other => other.clone(),
        };
        let seven = set(0, "k", "w", "tag", 7);
        commit(&state, vec![set(0, "k", "w", "tag", 20), clear(&set(1, "k", "w", "", 0))]);
        assert_eq!(state.earliest(EVENT).unwrap(), Some(Timestamp(10)));
        assert_eq!(state.earliest(PROCESSING).unwrap(), None);
        assert!(!state.has_processing_timers(b"k", b"w").unwrap());
        assert_eq!(state.least_hold().unwrap(), Some(Timestamp(10)));
        commit(&state, vec![clear(&seven), seven.clone(), clear(&set(0, "k", "w", "", 10))]);
        assert_eq!(state.due(EVENT, Timestamp(100), 9).unwrap(), [timer(0, "k", "w", "tag", 7)]);
    }
}

#[test]
fn a_fired_timer_is_removed_unless_it_was_set_anew() {
    for state in states() {
        commit(&state, vec![set(0, "k", "w", "", 10)]);
        assert!(state.due(EVENT, Timestamp(10), 9).unwrap().is_empty(), "it fires once the time is past");
        let fired = state.due(EVENT, Timestamp(11), 9).unwrap();
        assert_eq!(fired, [timer(0, "k", "w", "", 10)]);
        let fired = TimerChange::Fired(fired[0].clone());
        // It sets itself to the same time: a new timer.
        commit(&state, vec![fired.clone(), set(0, "k", "w", "", 10)]);
        assert_eq!(state.earliest(EVENT).unwrap(), Some(Timestamp(10)));
        commit(&state, vec![set(0, "k", "w", "", 12)]);
        commit(&state, vec![fired]);
        assert_eq!(state.earliest(EVENT).unwrap(), Some(Timestamp(12)));
        commit(&state, vec![TimerChange::Fired(timer(0, "k", "w", "", 12))]);
        assert_eq!(state.earliest(EVENT).unwrap(), None);
        state.shared().inner().store.scan(b"", None, &mut |key, _| panic!("{key:?} is left")).unwrap();
    }
}

#[test]
fn of_each_key_only_the_first_time_is_due() {
    for state in states() {
        let changes = vec![
            set(0, "a", "w", "", 5),
            set(0, "a", "v", "", 5),
            set(0, "a", "w", "later", 6),
            set(0, "b", "w", "", 6),
            set(0, "b", "w", "later", 7),
        ];
        commit(&state, changes);
        let due = |limit| -> Vec<(i64, Bytes)> {
            let due = state.due(EVENT, Timestamp(100), limit).unwrap();
            due.into_iter().map(|timer| (timer.fire.0, timer.key)).collect()
        };
        let (a, b) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
        assert_eq!(due(10), [(5, a.clone()), (5, a.clone()), (6, b)]);
        assert_eq!(due(1), [(5, a)]);
    }
}

#[test]
fn a_hold_before_the_firing_is_kept_apart() {
    for state in states() {
        let held = Timer { hold: Timestamp(2), ..timer(0, "k", "w", "", 10) };
        commit(&state, vec![TimerChange::Set(held.clone()), set(0, "l", "w", "", 5)]);
        assert_eq!(state.least_hold().unwrap(), Some(Timestamp(2)));
        commit(&state, vec![TimerChange::Set(Timer { hold: Timestamp(4), ..held.clone() })]);
        assert_eq!(state.least_hold().unwrap(), Some(Timestamp(4)));
        commit(&state, vec![TimerChange::Clear(held.id())]);
        assert_eq!(state.least_hold().unwrap(), Some(Timestamp(5)));
    }
}

#[test]
fn an_unknown_family_is_refused() {
    for state in states() {
        let changes = Changes { timers: vec![set(2, "k", "w", "", 1)], ..Changes::default() };
        assert!(state.commit(&state.bundle(), changes).is_err());
    }
}

#[test]
fn input_is_sorted_by_time_and_then_by_arrival() {
    for state in states() {
        let unsorted = |timestamp, element: &'static [u8]| Unsorted {
            key: Bytes::from_static(b"k"),
            timestamp: Timestamp(timestamp),
            element: Bytes::from_static(element),
        };
        for buffer in [vec![unsorted(5, b"b"), unsorted(-3, b"a")], vec![unsorted(5, b"c"), unsorted(9, b"d")]] {
            state.commit(&state.bundle(), Changes { buffer, ..Changes::default() }).unwrap();
        }
        assert_eq!(state.earliest_buffered().unwrap(), Some(Timestamp(-3)));
        let elements = |count, bytes| -> Vec<u8> {
            let found = state.buffered(Timestamp(9), count, bytes).unwrap();
            found.iter().flat_map(|buffered| buffered.element.to_vec()).collect()
        };
        assert_eq!((elements(9, 9), elements(2, 9), elements(9, 1)), (b"abc".to_vec(), b"ab".to_vec(), b"a".to_vec()));
        let unbuffered = state.buffered(Timestamp(9), 9, 9).unwrap();
        state.commit(&state.bundle(), Changes { unbuffered, ..Changes::default() }).unwrap();
        assert_eq!(state.earliest_buffered().unwrap(), Some(Timestamp(9)));
        assert!(elements(9, 9).is_empty());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set { family: u16, key: u8, window: u8, fire: i64, hold: i64 },
    Clear { family: u16, key: u8, window: u8 },
    Forget { key: u8, window: u8 },
    Commit,
    Fire { domain: TimeDomain, until: i64, limit: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = (0..2_u16, 0..3_u8, 0..2_u8);
    let step = prop_oneof![
        6 => (place.clone(), -9..9_i64, -9..9_i64).prop_map(|((family, key, window), fire, hold)| {
            Step::Set { family, key, window, fire, hold }
        }),
        2 => place.prop_map(|(family, key, window)| Step::Clear { family, key, window }),
        1 => (0..3_u8, 0..2_u8).prop_map(|(key, window)| Step::Forget { key, window }),
        3 => Just(Step::Commit),
        2 => (prop::sample::select(vec![EVENT, PROCESSING]), -9..10_i64, 1..4_usize)
            .prop_map(|(domain, until, limit)| Step::Fire { domain, until, limit }),
    ];
    prop::collection::vec(step, 1..60)
}

fn name(number: u8) -> &'static str {
    ["", "a", "ab"][usize::from(number)]
}

type Model = BTreeMap<(u16, &'static str, &'static str), Timer>;

fn check(state: &KeyedState, model: &Model) {
    for (family, domain) in [(0, EVENT), (1, PROCESSING)] {
        let mine: Vec<&Timer> = model.values().filter(|timer| timer.family == family).collect();
        assert_eq!(state.earliest(domain).unwrap(), mine.iter().map(|timer| timer.fire).min());
        let first = |key: &Bytes| mine.iter().filter(|timer| timer.key == *key).map(|timer| timer.fire).min();
        let mut due: Vec<Timer> = state.due(domain, Timestamp(5), 100).unwrap();
        assert!(due.is_sorted_by_key(|timer| (timer.fire, timer.hold)));
        let mut expected: Vec<Timer> = mine
            .iter()
            .filter(|timer| timer.fire.0 < 5 && Some(timer.fire) == first(&timer.key))
            .map(|timer| (*timer).clone())
            .collect();
        let order = |timer: &Timer| (timer.key.clone(), timer.window.clone());
        due.sort_by_key(order);
        expected.sort_by_key(order);
        assert_eq!(due, expected);
    }
    let event = |timer: &&Timer| timer.family == 0;
    let hold = model.values().map(|timer| if event(&timer) { timer.hold.min(timer.fire) } else { timer.hold }).min();
    assert_eq!(state.least_hold().unwrap(), hold);
    for (key, window) in [("", ""), ("a", ""), ("a", "a"), ("ab", "")] {
        let mut expected: Vec<Timer> = Vec::new();
        expected
            .extend(model.iter().filter(|((_, k, w), _)| (*k, *w) == (key, window)).map(|(_, timer)| timer.clone()));
        assert_eq!(state.timers_of(key.as_bytes(), window.as_bytes()).unwrap(), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn timers_are_as_in_a_naive_model(steps in steps()) {
        for state in states() {
            let (mut model, mut pending, mut changes) = (Model::new(), Model::new(), Vec::new());
            for step in &steps {
                match step {
                    Step::Set { family, key, window, fire, hold } => {
                        let (key, window) = (name(*key), name(*window));
                        let timer = Timer { hold: Timestamp(*hold), ..timer(*family, key, window, "", *fire) };
                        pending.insert((*family, key, window), timer.clone());
                        changes.push(TimerChange::Set(timer));
                    }
                    Step::Clear { family, key, window } => {
                        let (key, window) = (name(*key), name(*window));
                        pending.remove(&(*family, key, window));
                        changes.push(TimerChange::Clear(timer(*family, key, window, "", 0).id()));
                    }
                    Step::Forget { key, window } => {
                        let (key, window) = (name(*key), name(*window));
                        pending.retain(|(_, k, w), _| (*k, *w) != (key, window));
                        let Timer { key, window, .. } = timer(0, key, window, "", 0);
                        changes.push(TimerChange::Forget { key, window });
                    }
                    Step::Commit => {
                        commit(&state, std::mem::take(&mut changes));
                        model = pending.clone();
                    }
                    Step::Fire { domain, until, limit } => {
                        changes.clear();
                        let fired = state.due(*domain, Timestamp(*until), *limit).unwrap();
                        let any = model.values().any(|timer| {
                            keyed().timers[usize::from(timer.family)].domain == *domain && timer.fire.0 < *until
                        });
                        assert_eq!(fired.is_empty(), !any);
                        assert!(fired.len() <= *limit);
                        for timer in &fired {
                            let text = |bytes: &Bytes| ["", "a", "ab"].into_iter().find(|name| name.as_bytes() == bytes);
                            model.remove(&(timer.family, text(&timer.key).unwrap(), text(&timer.window).unwrap()));
                        }
                        commit(&state, fired.into_iter().map(TimerChange::Fired).collect());
                        pending = model.clone();
                    }
                }
                check(&state, &model);
            }
        }
    }
}
