//! After which bundles a harness may go on with what it has cached of user state.
//!
//! A harness caches under a token, so that another token is how it is told to forget. What an SDK's cache makes of its
//! own writes, read in the sources of 2.77 and shown by the conformance suite `state` (Java's harness there is 2.73):
//!
//! | state | Java | Python | Go |
//! |---|---|---|---|
//! | bag; single values and accumulators, which are bags of one; Python's sets | follows clears, and appends if it has the bag to its end; if it has only the first pages, it takes those and what was appended for the whole bag | follows both; keeps the first page and where the next one starts, and reads on from there | nothing cached |
//! | multimap: maps, multimaps, Java's sets | keys, values of a key, and entries are cached apart; a write reaches only what the bundle had looked at, entries never, and a key that is written twice is there twice | has none | nothing cached |
//! | ordered list | nothing cached | nothing cached | nothing cached |
//!
//! So a token is over after a bundle that wrote to a multimap, and after one that appended to a bag of which the harness
//! may have some pages and not all. SDKs do not say what they cache, and none is treated unlike another.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use ferrobeam_runner::executor::{CellPart, StateKey};

/// How many bags in pages are told apart; with more of them any may be one.
const PAGED: usize = 1024;

/// What the requests under one token mean for it.
#[derive(Debug, Default)]
pub(crate) struct UserStateCache {
    /// Hashes of the bags that were read in pages: two bags of one hash cost a token at most.
    paged: HashSet<u64>,
    /// There were more.
    paged_any: bool,
    hasher: RandomState,
    stale: bool,
}

impl UserStateCache {
    /// The harness got a page of a cell which is not its last.
    pub(crate) fn page_read(&mut self, key: &StateKey) {
        if part(key) != Some(&CellPart::Bag) {
            return;
        }
        if self.paged.len() < PAGED {
            self.paged.insert(self.hasher.hash_one(key));
        } else {
            self.paged_any = true;
        }
    }

    /// The harness appended to a cell.
    pub(crate) fn appended(&mut self, key: &StateKey) {
        self.stale |= match part(key) {
            Some(CellPart::Bag) => {
                // Most bags are never read in pages: no key is hashed for nothing.
                self.paged_any || (!self.paged.is_empty() && self.paged.contains(&self.hasher.hash_one(key)))
            }
            Some(CellPart::MapValues(_) | CellPart::MapKeys | CellPart::MapEntries) => true,
            Some(CellPart::OrderedRange { .. }) | None => false,
        };
    }

    /// The harness emptied a cell. Of a bag it knows the whole from then on.
    pub(crate) fn cleared(&mut self, key: &StateKey) {
        match part(key) {
            Some(CellPart::Bag) if !self.paged.is_empty() => {
                self.paged.remove(&self.hasher.hash_one(key));
            }
            Some(CellPart::Bag) => {}
            Some(CellPart::MapValues(_) | CellPart::MapKeys | CellPart::MapEntries) => self.stale = true,
            Some(CellPart::OrderedRange { .. }) | None => {}
        }
    }

    /// What is cached may be wrong for later bundles.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale
    }
}

fn part(key: &StateKey) -> Option<&CellPart> {
    match key {
        StateKey::User { part, .. } => Some(part),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn cell(key: &str, part: CellPart) -> StateKey {
        let key = Bytes::copy_from_slice(key.as_bytes());
        StateKey::User { transform: "t".into(), state: "s".into(), window: Bytes::new(), key, part }
    }

    fn bag(key: &str) -> StateKey {
        cell(key, CellPart::Bag)
    }

    fn stale(requests: impl FnOnce(&mut UserStateCache)) -> bool {
        let mut cache = UserStateCache::default();
        requests(&mut cache);
        cache.is_stale()
    }

    #[test]
    fn any_write_to_a_multimap_makes_it_stale() {
        for part in [CellPart::MapKeys, CellPart::MapEntries, CellPart::MapValues(Bytes::new())] {
            let key = cell("k", part);
            assert!(!stale(|cache| cache.page_read(&key)), "{key:?}");
            assert!(stale(|cache| cache.appended(&key)), "{key:?}");
            assert!(stale(|cache| cache.cleared(&key)), "{key:?}");
        }
    }

    #[test]
    fn what_is_appended_to_a_bag_makes_it_stale_only_after_a_page_of_that_bag() {
        assert!(!stale(|cache| cache.appended(&bag("k"))));
        assert!(!stale(|cache| {
            cache.page_read(&bag("other"));
            cache.appended(&bag("k"));
            cache.cleared(&bag("k"));
        }));
        assert!(stale(|cache| {
            cache.page_read(&bag("k"));
            cache.appended(&bag("k"));
        }));
        assert!(!stale(|cache| {
            cache.page_read(&bag("k"));
            cache.cleared(&bag("k"));
            cache.appended(&bag("k"));
        }));
        assert!(stale(|cache| {
            cache.page_read(&bag("k"));
            cache.appended(&bag("k"));
            cache.cleared(&bag("k"));
        }));
    }

    #[test]
    fn of_many_bags_in_pages_any_may_be_one() {
        let mut cache = UserStateCache::default();
        for n in 0..=PAGED {
            cache.page_read(&bag(&n.to_string()));
        }
        assert!(!cache.is_stale());
        cache.appended(&bag("never read"));
        assert!(cache.is_stale());
    }

    #[test]
    fn lists_and_side_inputs_do_not_matter() {
        let list = cell("k", CellPart::OrderedRange { start: 0, end: 1 });
        let other = StateKey::Runner { key: Bytes::new() };
        assert!(!stale(|cache| {
            for key in [&list, &other] {
                cache.page_read(key);
                cache.appended(key);
                cache.cleared(key);
            }
        }));
    }
}
