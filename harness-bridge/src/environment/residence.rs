//! Which harness each part of a keyed stage lives on, and the token under which that harness may cache its state.
//!
//! A harness may keep what it read and wrote of user state for the next bundle that shows the same token. That is right
//! as long as nobody else changed the state, every change it made was kept, and its cache follows its own writes: so a
//! token lasts while one successful bundle of the part follows another on the same harness, and a new one is made when
//! the harness differs, when a bundle failed, and after writes that SDKs' caches do not follow
//! ([`super::UserStateCache`]).

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use ferrobeam_runner::plan::StageId;

use super::UserStateCache;
use crate::harness::Harness;

/// A part of the keys of a stage.
pub(crate) type Part = (StageId, usize);

/// The residences of all parts.
#[derive(Debug, Default)]
pub(crate) struct Residences {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_part: HashMap<Part, Residence>,
    tokens: u64,
}

#[derive(Debug)]
struct Residence {
    harness: Arc<Harness>,
    token: u64,
    /// What the bundles that had the token did, unless one runs now or did not succeed.
    cache: Option<UserStateCache>,
}

/// One bundle's stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stay {
    part: Part,
    /// Equal for bundles that may share a cache, and unlike any other.
    pub(crate) token: u64,
}

/// A stay that begins, and what bundles with its token did before.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) stay: Stay,
    pub(crate) cache: UserStateCache,
}

impl Residences {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the part was last.
    pub(crate) fn of(&self, part: Part) -> Option<Arc<Harness>> {
        self.inner().by_part.get(&part).map(|residence| residence.harness.clone())
    }

    /// A bundle of the part begins on a harness. Unless [`Residences::leave`] is called, it failed.
    pub(crate) fn enter(&self, part: Part, harness: &Arc<Harness>) -> Entered {
        let mut inner = self.inner();
        if let Some(residence) = inner.by_part.get_mut(&part)
            && Arc::ptr_eq(&residence.harness, harness)
            && let Some(cache) = residence.cache.take()
        {
            return Entered { stay: Stay { part, token: residence.token }, cache };
        }
        inner.tokens += 1;
        let token = inner.tokens;
        harness.residents.fetch_add(1, Ordering::Relaxed);
        let residence = Residence { harness: harness.clone(), token, cache: None };
        if let Some(before) = inner.by_part.insert(part, residence) {
            before.harness.residents.fetch_sub(1, Ordering::Relaxed);
        }
        Entered { stay: Stay { part, token }, cache: UserStateCache::default() }
    }

    /// The bundle succeeded, and did so much more.
    pub(crate) fn leave(&self, stay: Stay, cache: UserStateCache) {
        let mut inner = self.inner();
        if let Some(residence) = inner.by_part.get_mut(&stay.part)
            && residence.token == stay.token
            && !cache.is_stale()
        {
            residence.cache = Some(cache);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ferrobeam_runner::executor::{CellPart, StateKey};
    use ferrobeam_runner::plan::EnvironmentId;

    use super::*;

    fn harness(id: &str) -> Arc<Harness> {
        Arc::new(Harness::new(id.into(), EnvironmentId(0), "environment".into(), false))
    }

    #[test]
    fn a_token_lasts_while_bundles_succeed_on_one_harness() {
        let residences = Residences::default();
        let (here, there) = (harness("1"), harness("2"));
        let (part, other) = ((StageId(0), 3), (StageId(1), 3));
        assert!(residences.of(part).is_none());
        let run = |part, harness, succeeds| {
            let Entered { stay, cache } = residences.enter(part, harness);
            if succeeds {
                residences.leave(stay, cache);
            }
            stay.token
        };
        let first = run(part, &here, true);
        assert_eq!(residences.of(part).unwrap().id, "1");
        let unrelated = run(other, &here, true);
        assert_ne!(unrelated, first);
        assert_eq!(run(part, &here, true), first);
        assert_eq!(run(part, &here, false), first);
        let second = run(part, &here, true);
        assert_ne!(second, first, "a bundle failed");
        let third = run(part, &there, true);
        assert!(third != first && third != second, "it moved");
        assert_eq!(residences.of(part).unwrap().id, "2");
        let fourth = run(part, &here, true);
        assert!(![first, second, third].contains(&fourth), "it moved back");
        assert_eq!(run(other, &here, true), unrelated);
        assert_eq!(here.residents.load(Ordering::Relaxed), 2);
        assert_eq!(there.residents.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_bundle_that_was_given_up_leaves_no_token_behind() {
        let residences = Residences::default();
        let (here, part) = (harness("1"), (StageId(0), 0));
        let given_up = residences.enter(part, &here);
        let retry = residences.enter(part, &here);
        residences.leave(given_up.stay, given_up.cache);
        let next = residences.enter(part, &here);
        assert_ne!(next.stay.token, retry.stay.token);
        assert_ne!(next.stay.token, given_up.stay.token);
    }

    #[test]
    fn what_was_read_under_a_token_counts_until_the_token_is_over() {
        let residences = Residences::default();
        let (here, part) = (harness("1"), (StageId(0), 0));
        let bag = StateKey::User {
            transform: "t".into(),
            state: "s".into(),
            window: Bytes::new(),
            key: Bytes::new(),
            part: CellPart::Bag,
        };
        let run = |work: &dyn Fn(&mut UserStateCache)| {
            let Entered { stay, mut cache } = residences.enter(part, &here);
            work(&mut cache);
            residences.leave(stay, cache);
            stay.token
        };
        let first = run(&|cache| cache.appended(&bag));
        assert_eq!(run(&|cache| cache.page_read(&bag)), first);
        assert_eq!(run(&|_| ()), first);
        assert_eq!(run(&|cache| cache.appended(&bag)), first);
        let second = run(&|cache| cache.appended(&bag));
        assert_ne!(second, first, "of a bag of which it may have some pages only");
        assert_eq!(run(&|_| ()), second, "the pages were read under another token");
    }
}
