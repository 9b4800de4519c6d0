//! Cells made of many bags: maps, by map key, and ordered lists, by sort key.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::bag::{Bag, View, chunks_range, heads_range};
use super::store::{Store, StoreError, WriteBatch};

/// Such a cell as a bundle sees it: what it changed, over what the store has.
#[derive(Debug, Default)]
pub(super) struct Items {
    /// Everything in the store is to be removed.
    void: bool,
    /// Ranges of items to be removed from the store, by their starts; they do not touch.
    cleared: BTreeMap<Bytes, Bytes>,
    /// Bags that the bundle looked at or changed; of a removed range, what came after the removal.
    bags: BTreeMap<Bytes, Bag>,
    /// Bytes of `bags` and `cleared`, kept as they change: this is asked at every request.
    bytes: usize,
}

impl Items {
    /// Works on the bag of an item.
    pub(super) fn bag<T>(
        &mut self,
        store: &dyn Store,
        cell: &[u8],
        item: &Bytes,
        work: impl FnOnce(&mut Bag) -> T,
    ) -> Result<T, StoreError> {
        if !self.bags.contains_key(item) {
            let bag = if self.is_cleared(item) { Bag::default() } else { Bag::load(store, cell, item)? };
            self.bytes += size(item, &bag);
            self.bags.insert(item.clone(), bag);
        }
        let bag = self.bags.entry(item.clone()).or_default();
        let before = bag.bytes();
        let done = work(bag);
        self.bytes = self.bytes + bag.bytes() - before;
        Ok(done)
    }

    /// Removes all items.
    pub(super) fn clear(&mut self) {
        *self = Items { void: true, ..Items::default() };
    }

    /// Removes the items from `from` on, before `to`. All items of the cell have the same length.
    pub(super) fn clear_range(&mut self, mut from: Bytes, mut to: Bytes) {
        if from >= to {
            return;
        }
        let inside: Vec<Bytes> = self.bags.range(from.clone()..to.clone()).map(|(item, _)| item.clone()).collect();
        for item in inside {
            self.bytes -= self.bags.remove(&item).map_or(0, |bag| size(&item, &bag));
        }
        while let Some((start, end)) = self.cleared.range(..=to.clone()).next_back() {
            if *end < from {
                break;
            }
            let start = start.clone();
            self.bytes -= start.len() + end.len();
            to = to.max(end.clone());
            self.cleared.remove(&start);
            from = from.min(start);
        }
        self.bytes += from.len() + to.len();
        self.cleared.insert(from, to);
    }

    fn is_cleared(&self, item: &[u8]) -> bool {
        self.void || {
            let before = self.cleared.range::<[u8], _>((Bound::Unbounded, Bound::Included(item))).next_back();
            before.is_some_and(|(_, end)| item < end)
        }
    }

    /// Bytes it holds in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Visits the items that are not empty, from `from` on, before `to`, in order, until `visit` returns false.
    pub(super) fn walk(
        &self,
        store: &dyn Store,
        cell: &[u8],
        (from, to): (&[u8], Option<&[u8]>),
        mut visit: impl FnMut(&[u8], View) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        let end = to.map_or(Bound::Unbounded, Bound::Excluded);
        let mut mine = self.bags.range::<[u8], _>((Bound::Included(from), end)).peekable();
        let mut result = Ok(true);
        if !self.void {
            let (first, end) = heads_range(cell, from, to);
            store.scan(&first, Some(&end), &mut |key, head| {
                let item = &key[cell.len() + 1..];
                while let Some((next, bag)) = mine.next_if(|(next, _)| **next <= *item) {
                    if !bag.is_empty() {
                        result = visit(next, bag.view());
                        if !matches!(result, Ok(true)) {
                            return false;
                        }
                    }
                    if *next == item {
                        return true;
                    }
                }
                if !self.is_cleared(item) {
                    result = View::of_head(head).and_then(|view| visit(item, view));
                }
                matches!(result, Ok(true))
            })?;
        }
        if !result? {
            return Ok(());
        }
        for (item, bag) in mine {
            if !bag.is_empty() && !visit(item, bag.view())? {
                break;
            }
        }
        Ok(())
    }

    /// Writes what changed.
    pub(super) fn write(&self, cell: &[u8], batch: &mut WriteBatch) {
        let mut remove = |(from, to): (Vec<u8>, Vec<u8>)| batch.delete_range(from, to);
        if self.void {
            remove(heads_range(cell, b"", None));
            remove(chunks_range(cell, None));
        }
        for (from, to) in &self.cleared {
            remove(heads_range(cell, from, Some(to)));
            remove(chunks_range(cell, Some((from, to))));
        }
        for (item, bag) in &self.bags {
            bag.write(cell, item, batch);
        }
    }
}

/// Bytes that an item's bag holds in memory.
fn size(item: &[u8], bag: &Bag) -> usize {
    item.len() + bag.bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::MemoryStore;
    use crate::state::bag::measured;

    fn item(number: u16) -> Bytes {
        Bytes::copy_from_slice(&number.to_be_bytes())
    }

    fn recount(items: &Items) -> usize {
        let bags: usize = items.bags.iter().map(|(item, bag)| size(item, bag)).sum();
        bags + items.cleared.iter().map(|(from, to)| from.len() + to.len()).sum::<usize>()
    }

    fn append(items: &mut Items, number: u16, value: &'static [u8]) {
        items.bag(&MemoryStore::default(), b"cell", &item(number), |bag| bag.append(value.into())).unwrap();
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append { number: u16, size: usize },
        ClearOne(u16),
        ClearRange(u16, u16),
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            12 => (0..40_u16, 0..3000_usize).prop_map(|(number, size)| Step::Append { number, size }),
            3 => (0..40_u16).prop_map(Step::ClearOne),
            4 => (0..40_u16, 0..45_u16).prop_map(|(from, to)| Step::ClearRange(from, to)),
            1 => Just(Step::Clear),
        ]
    }

    proptest! {
        #[test]
        fn the_running_sum_is_the_sum(steps in prop::collection::vec(step(), 1..200)) {
            let mut items = Items::default();
            for step in steps {
                match step {
                    Step::Append { number, size } => append(&mut items, number, &[7; 3000][..size]),
                    Step::ClearOne(number) => {
                        items.bag(&MemoryStore::default(), b"cell", &item(number), Bag::clear).unwrap();
                    }
                    Step::ClearRange(from, to) => items.clear_range(item(from), item(to)),
                    Step::Clear => items.clear(),
                }
                prop_assert_eq!(items.bytes(), recount(&items));
            }
        }
    }

    #[test]
    fn a_request_measures_what_it_touches_and_no_more() {
        let mut items = Items::default();
        for number in 0..10_000 {
            append(&mut items, number, b"value");
        }
        let before = measured();
        append(&mut items, 5000, b"more");
        items.clear_range(item(7), item(9));
        assert!(items.bytes() > 0);
        // One bag before and after it grew, and two that are removed.
        assert!(measured() - before <= 4, "{} bags were measured", measured() - before);
    }
}
