//! Tests of state, on every kind of store.

mod cells;
mod model;
mod stores;
mod timers;

use bytes::Bytes;

use crate::element::WireCoder;
use crate::executor::{CellPart, StateKey};
use crate::memory::Budget;
use crate::plan::{Keyed, StateCell, StateKind, TimeDomain, TimerFamily};
use crate::windowing::WindowCoder;

use super::{KeyedState, Store, StoreKind, Stores};

/// A new store of every kind, and one that is in memory at first and soon no more.
fn stores() -> Vec<Box<dyn Store>> {
    let tight = Budget::with_floor(500, 500, std::env::temp_dir());
    let kinds = [StoreKind::Auto, StoreKind::Memory, StoreKind::RocksDb];
    let roomy = kinds.into_iter().map(|kind| Stores::new(kind, &budget()));
    roomy.chain([Stores::new(StoreKind::Auto, &tight)]).map(|stores| stores.open("test").unwrap()).collect()
}

fn budget() -> Budget {
    Budget::new(1 << 30, std::env::temp_dir())
}

fn cell(state: &str, kind: StateKind) -> StateCell {
    let (transform, value) = ("pardo".into(), Some(WireCoder::Prefixed));
    StateCell { transform, state: state.into(), kind, value, single_valued: false, entries: None }
}

fn family(domain: TimeDomain) -> TimerFamily {
    TimerFamily {
        transform: "pardo".into(),
        family: format!("{domain:?}"),
        domain,
        key: WireCoder::Prefixed,
        window: WindowCoder::Global,
        on_window_expiration: false,
    }
}

/// A stage with a cell of every kind, and a timer family of each domain: 0 for event time, 1 for processing time.
fn keyed() -> Keyed {
    Keyed {
        states: vec![
            cell("bag", StateKind::Bag),
            cell("other", StateKind::Bag),
            cell("map", StateKind::Multimap),
            cell("list", StateKind::OrderedList),
            StateCell { value: None, single_valued: true, ..cell("set", StateKind::Multimap) },
            StateCell { value: None, ..cell("opaque", StateKind::Multimap) },
        ],
        timers: vec![family(TimeDomain::EventTime), family(TimeDomain::ProcessingTime)],
        time_sorted: true,
    }
}

fn states() -> Vec<KeyedState> {
    stores().into_iter().map(|store| KeyedState::new(store, &keyed(), &budget())).collect()
}

fn user(state: &str, key: &str, window: &str, part: CellPart) -> StateKey {
    StateKey::User {
        transform: "pardo".into(),
        state: state.into(),
        window: Bytes::copy_from_slice(window.as_bytes()),
        key: Bytes::copy_from_slice(key.as_bytes()),
        part,
    }
}

/// A value behind its length.
fn value(bytes: &[u8]) -> Bytes {
    let mut out = Vec::new();
    super::layout::put_part(&mut out, bytes);
    out.into()
}

/// An entry of an ordered list.
fn entry(sort_key: i64, bytes: &[u8]) -> Bytes {
    let mut out = Vec::new();
    crate::element::put_varint(&mut out, sort_key as u64);
    super::layout::put_part(&mut out, bytes);
    out.into()
}
