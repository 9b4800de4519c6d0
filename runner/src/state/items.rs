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
}

impl Items {
    /// The bag of an item.
    pub(super) fn bag(&mut self, store: &dyn Store, cell: &[u8], item: &Bytes) -> Result<&mut Bag, StoreError> {
        if !self.bags.contains_key(item) {
            let bag = if self.is_cleared(item) { Bag::default() } else { Bag::load(store, cell, item)? };
            self.bags.insert(item.clone(), bag);
        }
        Ok(self.bags.entry(item.clone()).or_default())
    }

    /// The bag of an item, if the bundle looked at it before.
    pub(super) fn known(&self, item: &Bytes) -> Option<&Bag> {
        self.bags.get(item)
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
            self.bags.remove(&item);
        }
        while let Some((start, end)) = self.cleared.range(..=to.clone()).next_back() {
            if *end < from {
                break;
            }
            let start = start.clone();
            to = to.max(end.clone());
            self.cleared.remove(&start);
            from = from.min(start);
        }
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
        self.bags.iter().map(|(item, bag)| item.len() + bag.bytes()).sum()
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
