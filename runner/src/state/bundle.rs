//! What a bundle sees of user state: the store, and its own writes over it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::element::{WireCoder, get_varint};
use crate::executor::{CellPart, StateError, StateKey, StatePage, StateServer, UncountedEntry, UncountedPage};
use crate::memory::{Budget, Reservation};
use crate::plan::{StateCell, StateKind};

use super::bag::{Bag, View, parts};
use super::items::Items;
use super::keyed::Shared;
use super::layout::{CELLS, put_scope};
use super::position::Position;
use super::store::{Store, StoreError, WriteBatch};

/// Bytes of a page, unless one value is longer.
pub(super) const PAGE: usize = 1 << 20;

/// Entries of a page whose values are to be counted: the harness asks for each by itself.
pub(super) const UNCOUNTED: usize = 1000;

/// Answers the state requests of one bundle ([`StateKey::User`]). What it writes is in memory, on the job's budget, until
/// [`super::KeyedState::commit`]; dropped before, it leaves nothing.
#[derive(Debug)]
pub struct BundleState {
    shared: Arc<Shared>,
    pending: Mutex<Pending>,
}

#[derive(Debug)]
struct Pending {
    cells: HashMap<Bytes, Cell>,
    reservation: Reservation,
}

/// A cell as the bundle sees it, with the length of the part of its key that says key and window.
#[derive(Debug)]
struct Cell {
    scope: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// `None` until it is looked at.
    Bag(Option<Bag>),
    Items(Items),
}

/// A cell that a request names.
struct Named<'a> {
    cell: &'a StateCell,
    kind: StateKind,
    key: Bytes,
    scope: usize,
}

impl BundleState {
    pub(super) fn new(shared: Arc<Shared>, budget: &Budget) -> BundleState {
        let pending = Pending { cells: HashMap::new(), reservation: budget.reserve() };
        BundleState { shared, pending: Mutex::new(pending) }
    }

    /// Bytes of state that the bundle holds in memory until it is committed.
    pub fn bytes(&self) -> usize {
        self.pending().reservation.held()
    }

    /// Writes what the bundle changed, except for cells of keys and windows that are `gone`: those by the start of
    /// their keys.
    pub(super) fn write(&self, gone: impl Fn(&[u8]) -> bool, batch: &mut WriteBatch) {
        let mut pending = self.pending();
        for (key, cell) in pending.cells.drain() {
            match &cell.content {
                _ if gone(&key[..cell.scope]) => {}
                Content::Bag(bag) => bag.iter().for_each(|bag| bag.write(&key, b"", batch)),
                Content::Items(items) => items.write(&key, batch),
            }
        }
        let held = pending.reservation.held();
        pending.reservation.shrink(held);
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cell that a request names, if its kind goes with the request.
    fn named<'a>(&'a self, key: &'a StateKey) -> Result<(Named<'a>, &'a CellPart), StateError> {
        let StateKey::User { transform, state, window, key, part } = key else {
            return Err(StateError::Unknown("something that is no user state".into()));
        };
        let states = &self.shared.keyed.states;
        let found = states.iter().position(|cell| cell.transform == *transform && cell.state == *state);
        let Some(index) = found else {
            return Err(StateError::Unknown(format!("the state {state} of {transform}")));
        };
        let cell = &states[index];
        let kind = match part {
            CellPart::Bag => StateKind::Bag,
            CellPart::MapValues(_) | CellPart::MapKeys | CellPart::MapEntries => StateKind::Multimap,
            CellPart::OrderedRange { .. } => StateKind::OrderedList,
        };
        if kind != cell.kind {
            let (kind, is) = (describe(kind), describe(cell.kind));
            return Err(StateError::Unsupported(format!("the state {state} of {transform} is {is}, not {kind}")));
        }
        let mut encoded = Vec::with_capacity(key.len() + window.len() + 16);
        encoded.push(CELLS);
        put_scope(&mut encoded, key, window);
        let scope = encoded.len();
        encoded.extend_from_slice(&(index as u32).to_be_bytes());
        Ok((Named { cell, kind, key: encoded.into(), scope }, part))
    }

    /// Works on one bag of a cell.
    fn bag<T>(
        &self,
        named: &Named,
        item: &Bytes,
        work: impl FnOnce(&dyn Store, &mut Bag) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let mut pending = self.pending();
        let Pending { cells, reservation } = &mut *pending;
        let inner = self.shared.inner();
        let store = &*inner.store;
        let Named { kind, key, .. } = named;
        let cell = cells.entry(key.clone()).or_insert_with(|| Cell::new(named.scope, *kind));
        match &mut cell.content {
            Content::Bag(slot) => {
                let before = slot.as_ref().map_or(0, Bag::bytes);
                let bag = match slot {
                    Some(bag) => bag,
                    None => slot.insert(Bag::load(store, key, item).map_err(storage)?),
                };
                let done = work(store, bag);
                account(reservation, before, bag.bytes());
                done
            }
            Content::Items(items) => {
                let before = items.bytes();
                let done = items.bag(store, key, item, |bag| work(store, bag));
                account(reservation, before, items.bytes());
                done.map_err(storage)?
            }
        }
    }

    /// Works on all of a map or an ordered list.
    fn items<T>(&self, named: &Named, work: impl FnOnce(&dyn Store, &mut Items) -> T) -> T {
        let mut pending = self.pending();
        let Pending { cells, reservation } = &mut *pending;
        let inner = self.shared.inner();
        let cell = cells.entry(named.key.clone()).or_insert_with(|| Cell::new(named.scope, named.kind));
        let mut none = Items::default();
        let items = match &mut cell.content {
            Content::Items(items) => items,
            // The kind goes with the number in the key, so that this is never so.
            Content::Bag(_) => &mut none,
        };
        let before = items.bytes();
        let done = work(&*inner.store, items);
        account(reservation, before, items.bytes());
        done
    }

    fn page_of_bag(
        &self,
        named: &Named,
        part: &CellPart,
        item: &Bytes,
        position: Option<Position>,
    ) -> Result<StatePage, StateError> {
        self.bag(named, item, |store, bag| {
            if let (None, Some(data)) = (&position, bag.whole()) {
                // In a stream of values one without bytes is a byte (Java's sets have such values).
                let data = if data.is_empty() && !bag.is_empty() { Bytes::from_static(&[0]) } else { data };
                return Ok(StatePage { data, continuation: Bytes::new() });
            }
            let mut page = Page::default();
            let from = position.map_or(0, |position| position.offset);
            bag.view()
                .parts(store, (&named.key, item), from, &mut |at, data| page.add(item, at, &[data]))
                .map_err(storage)?;
            Ok(self.finish(page, named, part))
        })
    }

    /// A page of the items from `from` on, before `to`; `add` puts one on it.
    fn page_of_items(
        &self,
        named: &Named,
        part: &CellPart,
        (from, to): (Bytes, Option<Bytes>),
        position: Option<Position>,
        mut add: impl FnMut(&dyn Store, &mut Page, (&[u8], View, u64)) -> Result<bool, StateError>,
    ) -> Result<StatePage, StateError> {
        let start = position.unwrap_or(Position { item: from, offset: 0 });
        let mut page = Page::default();
        let mut failed = None;
        let walked = self.items(named, |store, items| {
            items.walk(store, &named.key, (&start.item, to.as_deref()), |item, view| {
                let offset = if *item == start.item { start.offset } else { 0 };
                Ok(add(store, &mut page, (item, view, offset)).unwrap_or_else(|error| {
                    failed = Some(error);
                    false
                }))
            })
        });
        walked.map_err(storage)?;
        match failed {
            Some(error) => Err(error),
            None => Ok(self.finish(page, named, part)),
        }
    }

    fn finish(&self, page: Page, named: &Named, part: &CellPart) -> StatePage {
        let continuation = page.next.map(|next| self.shared.tokens.seal(&named.key, part, &next));
        StatePage { data: page.data.into(), continuation: continuation.unwrap_or_default() }
    }
}

impl StateServer for BundleState {
    fn get(&self, key: &StateKey, continuation: &[u8]) -> Result<StatePage, StateError> {
        let (named, part) = self.named(key)?;
        let position = self.shared.tokens.open(&named.key, part, continuation)?;
        let all = (Bytes::new(), None);
        match part {
            CellPart::Bag => self.page_of_bag(&named, part, &Bytes::new(), position),
            CellPart::MapValues(map_key) => self.page_of_bag(&named, part, map_key, position),
            CellPart::MapKeys => {
                self.page_of_items(&named, part, all, position, |_, page, (item, _, _)| Ok(page.add(item, 0, &[item])))
            }
            CellPart::MapEntries => {
                self.page_of_items(&named, part, all, position, |store, page, (item, view, from)| {
                    let (mut more, mut failed) = (true, None);
                    // A key whose values are in several parts comes several times, each time with one of them.
                    let scanned = view.parts(store, (&named.key, item), from, &mut |at, values| {
                        match count(named.cell, values) {
                            Ok(count) => more = page.add(item, at, &[item, &count.to_be_bytes(), values]),
                            Err(error) => failed = Some(error),
                        }
                        more && failed.is_none()
                    });
                    scanned.map_err(storage)?;
                    failed.map_or(Ok(more), Err)
                })
            }
            CellPart::OrderedRange { start, end } => {
                let range = (sort_item(*start), Some(sort_item(*end)));
                self.page_of_items(&named, part, range, position, |store, page, (item, view, from)| {
                    let mut more = true;
                    let scanned = view.parts(store, (&named.key, item), from, &mut |at, entries| {
                        more = page.add(item, at, &[entries]);
                        more
                    });
                    scanned.map_err(storage)?;
                    Ok(more)
                })
            }
        }
    }

    fn uncounted(&self, key: &StateKey, continuation: &[u8]) -> Result<UncountedPage, StateError> {
        let (named, part) = self.named(key)?;
        let position = self.shared.tokens.open(&named.key, part, continuation)?;
        let mut entries = Vec::new();
        let all = (Bytes::new(), None);
        let page = self.page_of_items(&named, part, all, position, |store, page, (item, view, from)| {
            let mut more = true;
            let scanned = view.parts(store, (&named.key, item), from, &mut |at, values| {
                more = entries.len() < UNCOUNTED && page.add(item, at, &[item, values]);
                if more {
                    let (key, values) = (Bytes::copy_from_slice(item), Bytes::copy_from_slice(values));
                    entries.push(UncountedEntry { key, values });
                } else if page.next.is_none() {
                    page.turn(item, at);
                }
                more
            });
            scanned.map_err(storage)?;
            Ok(more)
        })?;
        Ok(UncountedPage { entries, continuation: page.continuation })
    }

    fn append(&self, key: &StateKey, data: Bytes) -> Result<(), StateError> {
        let (named, part) = self.named(key)?;
        let item = match part {
            CellPart::Bag => &Bytes::new(),
            CellPart::MapValues(map_key) => map_key,
            CellPart::OrderedRange { .. } => {
                for (sort_key, entry) in
                    entries(&data, named.cell.value.as_ref()).map_err(|why| malformed(named.cell, &why))?
                {
                    self.bag(&named, &sort_item(sort_key), |_, bag| {
                        bag.append(entry);
                        Ok(())
                    })?;
                }
                return Ok(());
            }
            CellPart::MapKeys | CellPart::MapEntries => {
                let what = "appending to a map takes values of one key";
                return Err(StateError::Unsupported(what.into()));
            }
        };
        let parts = parts(named.cell.value.as_ref(), &data, PAGE).map_err(|why| malformed(named.cell, &why))?;
        self.bag(&named, item, |_, bag| {
            parts.into_iter().for_each(|part| bag.append(part));
            Ok(())
        })
    }

    fn clear(&self, key: &StateKey) -> Result<(), StateError> {
        let (named, part) = self.named(key)?;
        let item = match part {
            CellPart::Bag => &Bytes::new(),
            CellPart::MapValues(map_key) => map_key,
            CellPart::MapKeys | CellPart::MapEntries => {
                self.items(&named, |_, items| items.clear());
                return Ok(());
            }
            CellPart::OrderedRange { start, end } => {
                self.items(&named, |_, items| items.clear_range(sort_item(*start), sort_item(*end)));
                return Ok(());
            }
        };
        self.bag(&named, item, |_, bag| {
            bag.clear();
            Ok(())
        })
    }
}

impl Cell {
    fn new(scope: usize, kind: StateKind) -> Cell {
        let content = match kind {
            StateKind::Bag => Content::Bag(None),
            StateKind::Multimap | StateKind::OrderedList => Content::Items(Items::default()),
        };
        Cell { scope, content }
    }
}

/// A page that is being filled.
#[derive(Debug, Default)]
struct Page {
    data: Vec<u8>,
    next: Option<Position>,
}

impl Page {
    /// Adds bytes of an item; or if they are too many, makes them the start of the next page and says false.
    fn add(&mut self, item: &[u8], offset: u64, bytes: &[&[u8]]) -> bool {
        let length: usize = bytes.iter().map(|bytes| bytes.len()).sum();
        if !self.data.is_empty() && self.data.len() + length > PAGE {
            self.turn(item, offset);
            return false;
        }
        bytes.iter().for_each(|bytes| self.data.extend_from_slice(bytes));
        true
    }

    /// The next page starts here.
    fn turn(&mut self, item: &[u8], offset: u64) {
        self.next = Some(Position { item: Bytes::copy_from_slice(item), offset });
    }
}

/// The item of a sort key: in the order of sort keys.
fn sort_item(sort_key: i64) -> Bytes {
    Bytes::copy_from_slice(&((sort_key as u64) ^ (1 << 63)).to_be_bytes())
}

/// The entries of an ordered list: each a varint sort key and a value (`StateAppendRequest.data` of the Fn API), which
/// stands behind its length unless its SDK does otherwise.
fn entries(data: &Bytes, value: Option<&WireCoder>) -> Result<Vec<(i64, Bytes)>, String> {
    let coder = value.unwrap_or(&WireCoder::Prefixed);
    let mut entries = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let (sort_key, varint) = get_varint(&data[at..]).map_err(|error| error.to_string())?;
        let value = coder.skip(&data[at + varint..]).map_err(|error| error.to_string())?;
        let end = at + varint + value;
        entries.push((sort_key as i64, data.slice(at..end)));
        at = end;
    }
    Ok(entries)
}

/// How many values of a map key `bytes` holds.
fn count(cell: &StateCell, bytes: &[u8]) -> Result<i32, StateError> {
    if cell.single_valued {
        return Ok(1);
    }
    let Some(coder) = &cell.value else {
        let StateCell { state, transform, .. } = cell;
        let what =
            format!("the values of {state} of {transform} can only be counted by their SDK: their coder is not known");
        return Err(StateError::Unsupported(what));
    };
    let (mut count, mut at) = (0, 0);
    while at < bytes.len() {
        match coder.skip(&bytes[at..]) {
            Ok(0) => return Err(malformed(cell, "a value without bytes")),
            Ok(length) => at += length,
            Err(error) => return Err(malformed(cell, &error.to_string())),
        }
        count += 1;
    }
    Ok(count)
}

fn account(reservation: &mut Reservation, before: usize, after: usize) {
    if after > before {
        // There is nowhere else to put it: it is committed as one.
        reservation.force_grow(after - before);
    } else {
        reservation.shrink(before - after);
    }
}

fn describe(kind: StateKind) -> &'static str {
    match kind {
        StateKind::Bag => "a bag",
        StateKind::Multimap => "a multimap",
        StateKind::OrderedList => "an ordered list",
    }
}

fn malformed(cell: &StateCell, why: &str) -> StateError {
    StateError::Unsupported(format!("the values of state {} of {} are malformed: {why}", cell.state, cell.transform))
}

fn storage(error: StoreError) -> StateError {
    StateError::Storage(error.to_string())
}
