//! What waits, by window: in queues of its own for as many windows as have one, in the crowd for all others.
//!
//! A window that has become ready is released: what waited for it is then taken bit by bit, in order of arrival, and holds
//! the watermark until it was.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use bytes::Bytes;

use super::super::super::carried::FrozenBatches;
use super::super::super::queue::InputQueue;
use super::Passed;
use super::crowd::{Crowd, Open, Released};
use crate::element::Batch;
use crate::memory::Budget;
use crate::state::Stores;
use crate::time::Moment;

/// Windows with a queue, and perhaps a file, of their own.
pub(super) const QUEUES: usize = 64;

/// See the module.
pub(super) struct Waiting {
    budget: Budget,
    limit: usize,
    queues: BTreeMap<Bytes, Queue>,
    crowd: Crowd,
    released: VecDeque<Part>,
}

struct Queue {
    queue: InputQueue,
    /// Where all of it is held.
    held: Moment,
}

/// What goes on.
enum Part {
    Queue(Box<Queue>),
    Crowd(Released),
}

impl Waiting {
    /// At most `limit` windows have queues; the others share what `open` opens, of which `stores` reads snapshots.
    pub(super) fn new(budget: &Budget, limit: usize, open: Open, stores: Option<Stores>) -> Waiting {
        Waiting {
            budget: budget.clone(),
            limit,
            queues: BTreeMap::new(),
            crowd: Crowd::new(open, stores),
            released: VecDeque::new(),
        }
    }

    /// Whether nothing is left here, waiting or released.
    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.crowd.is_empty() && self.released.is_empty()
    }

    /// Whether something waits for this window.
    pub(super) fn contains(&self, window: &[u8]) -> bool {
        self.queues.contains_key(window) || self.crowd.contains(window)
    }

    /// Adds a batch of `window`; true if nothing waited for that before.
    pub(super) fn push(&mut self, window: &Bytes, moment: Moment, batch: Batch) -> io::Result<bool> {
        if let Some(Queue { queue, held }) = self.queues.get_mut(window) {
            *held = held.of_both(moment);
            queue.push(moment, batch)?;
            return Ok(false);
        }
        if self.queues.len() >= self.limit || self.crowd.contains(window) {
            return self.crowd.push(window, moment, &batch);
        }
        let mut queue = InputQueue::new(&self.budget);
        queue.push(moment, batch)?;
        self.queues.insert(window.clone(), Queue { queue, held: moment });
        Ok(true)
    }

    /// To be called when a batch has been pushed, with all its windows.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.crowd.flush()
    }

    /// A window is ready.
    pub(super) fn release(&mut self, window: &[u8]) {
        let queue = self.queues.remove(window).map(|queue| Part::Queue(Box::new(queue)));
        self.released.extend(queue.or_else(|| self.crowd.release(window).map(Part::Crowd)));
    }

    /// Drops what waits for a window.
    pub(super) fn discard(&mut self, window: &[u8]) -> io::Result<()> {
        if self.queues.remove(window).is_some() { Ok(()) } else { self.crowd.discard(window) }
    }

    /// All that waits or was released, with the moments that it came at.
    pub(super) fn freeze(&mut self) -> io::Result<Vec<FrozenBatches>> {
        let released = self.released.iter_mut().filter_map(|part| match part {
            Part::Queue(queue) => Some(&mut **queue),
            Part::Crowd(_) => None,
        });
        let queues = self.queues.values_mut().chain(released);
        let mut frozen: Vec<FrozenBatches> =
            queues.map(|queue| Ok(queue.queue.freeze()?.into())).collect::<io::Result<_>>()?;
        frozen.extend(self.crowd.freeze()?);
        Ok(frozen)
    }

    /// Takes some of what was released, and says of each batch the moment that it goes on at, and whether that is in a
    /// later epoch than it came in; `None` when there is nothing.
    pub(super) fn take(&mut self) -> io::Result<Option<Vec<Passed>>> {
        while let Some(part) = self.released.front_mut() {
            let (held, taken) = match part {
                Part::Queue(waiting) => {
                    let Queue { queue, held } = &mut **waiting;
                    let taken = queue.take(usize::MAX, 1)?;
                    let batches = taken.map(|taken| taken.batches.into_iter().map(move |batch| (taken.moment, batch)));
                    (*held, batches.into_iter().flatten().collect())
                }
                Part::Crowd(released) => (released.held, self.crowd.take(released)?),
            };
            if !taken.is_empty() {
                let passed = |(came, batch): (Moment, Batch)| Passed {
                    moment: Moment { epoch: came.epoch.max(held.epoch), ..came },
                    waited: held.epoch > came.epoch,
                    batch,
                };
                return Ok(Some(taken.into_iter().map(passed).collect()));
            }
            self.released.pop_front();
        }
        Ok(None)
    }

    /// What waits no longer holds up the epochs before `epoch`.
    pub(super) fn lift(&mut self, epoch: u64) {
        for Queue { held, .. } in self.queues.values_mut() {
            held.epoch = held.epoch.max(epoch);
        }
        self.crowd.lift(epoch);
    }

    /// The moments that all of it is held at.
    pub(super) fn held(&self) -> impl Iterator<Item = Moment> + '_ {
        let released = self.released.iter().map(|part| match part {
            Part::Queue(queue) => queue.held,
            Part::Crowd(released) => released.held,
        });
        self.queues.values().map(|queue| queue.held).chain(self.crowd.held()).chain(released)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use timely::progress::Antichain;

    use super::*;
    use crate::element::BatchBuilder;
    use crate::state::{FrozenStore, MemoryStore, Store, StoreError, StoreKind, WriteBatch};
    use crate::time::Timestamp;

    /// A store that counts the records that are read.
    struct Counting {
        store: MemoryStore,
        read: Arc<AtomicUsize>,
    }

    impl Store for Counting {
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
            self.store.get(key)
        }

        fn scan(
            &self,
            from: &[u8],
            to: Option<&[u8]>,
            visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
        ) -> Result<(), StoreError> {
            self.store.scan(from, to, &mut |key, value| {
                self.read.fetch_add(1, Ordering::Relaxed);
                visit(key, value)
            })
        }

        fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
            self.store.write(batch)
        }

        fn freeze(&mut self) -> Result<Box<dyn FrozenStore>, StoreError> {
            self.store.freeze()
        }
    }

    const WINDOWS: u32 = 3000;
    const EACH: u32 = 3;

    fn name(window: u32) -> Bytes {
        Bytes::copy_from_slice(&window.to_be_bytes())
    }

    fn element(window: u32, number: u32) -> Vec<u8> {
        [window.to_be_bytes(), number.to_be_bytes()].concat()
    }

    fn moment(watermark: u32) -> Moment {
        Moment { epoch: 7, watermark: watermark.into() }
    }

    /// Several batches for each of many windows, one window after the other.
    fn fill(waiting: &mut Waiting) {
        for number in 0..EACH {
            for window in 0..WINDOWS {
                let mut batch = BatchBuilder::default();
                batch.push(&element(window, number), Timestamp(window.into()));
                let new = waiting.push(&name(window), moment(window + number), batch.finish()).unwrap();
                assert_eq!(new, number == 0);
            }
            waiting.flush().unwrap();
        }
    }

    /// What was released, taken whole; nothing but elements of `window`, in order.
    fn take(waiting: &mut Waiting, window: u32) {
        let mut numbers = 0..EACH;
        while let Some(taken) = waiting.take().unwrap() {
            for Passed { moment, batch, waited } in taken {
                assert!(moment.epoch == 9 && waited, "it goes on in the epoch that it was lifted to");
                assert_eq!(batch.min_timestamp(), Timestamp(window.into()));
                for found in batch.elements() {
                    assert_eq!(found, element(window, numbers.next().unwrap()));
                }
            }
        }
        assert_eq!(numbers.len(), 0);
    }

    fn run(order: impl Iterator<Item = u32>, open: Open) {
        let dir = tempfile::tempdir().unwrap();
        let mut waiting = Waiting::new(&Budget::new(0, dir.path()), 4, open, None);
        fill(&mut waiting);
        waiting.lift(9);
        for window in order {
            assert!(waiting.contains(&name(window)));
            let least = waiting.held().map(|moment| moment.watermark).min().unwrap();
            assert!(least <= window.into(), "a window is held until it has gone on");
            waiting.release(&name(window));
            take(&mut waiting, window);
            assert!(!waiting.contains(&name(window)));
        }
        assert!(waiting.is_empty());
        assert_eq!(waiting.held().count(), 0);
    }

    /// In an order that has nothing to do with that of the windows.
    fn scattered() -> impl Iterator<Item = u32> {
        (0..WINDOWS).map(|n| n * 1009 % WINDOWS)
    }

    #[test]
    fn what_waits_is_read_once_however_many_windows_there_are() {
        for backwards in [false, true] {
            let read = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&read);
            let open = move || -> Result<Box<dyn Store>, StoreError> {
                Ok(Box::new(Counting { store: MemoryStore::default(), read: Arc::clone(&counted) }))
            };
            let mut order: Vec<u32> = scattered().collect();
            if backwards {
                order = (0..WINDOWS).rev().collect();
            }
            run(order.into_iter(), Box::new(open));
            let (read, kept) = (read.load(Ordering::Relaxed), (WINDOWS - 4) * EACH);
            assert_eq!(read, kept as usize, "records read, of so many that were written");
        }
    }

    #[test]
    fn it_waits_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let budget = Budget::with_floor(0, 0, dir.path());
        let stores = Stores::new(StoreKind::Auto, &budget);
        run(scattered(), Box::new(move || stores.open("crowd")));
    }

    #[test]
    fn what_came_too_late_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let budget = Budget::new(0, dir.path());
        let mut waiting = Waiting::new(&budget, 4, Box::new(|| Ok(Box::<MemoryStore>::default())), None);
        fill(&mut waiting);
        waiting.lift(9);
        for window in (0..WINDOWS).filter(|window| window % 2 == 0) {
            waiting.discard(&name(window)).unwrap();
        }
        for window in (0..WINDOWS).filter(|window| window % 2 == 1) {
            waiting.release(&name(window));
            take(&mut waiting, window);
        }
        assert!(waiting.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push { window: u32, epoch: u64, watermark: i64 },
        Release(u32),
        Discard(u32),
        Lift(u64),
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6u32, 0..6u64, 0..6i64)
                .prop_map(|(window, epoch, watermark)| Step::Push { window, epoch, watermark }),
            2 => (0..6u32).prop_map(Step::Release),
            1 => (0..6u32).prop_map(Step::Discard),
            1 => (0..8u64).prop_map(Step::Lift),
            2 => Just(Step::Take),
        ]
    }

    proptest! {
        /// What goes on goes on at a moment that the operator holds, and no watermark passes what waits: also where
        /// moments cannot be compared, in queues and in the crowd.
        #[test]
        fn what_waits_is_held(steps in proptest::collection::vec(step(), 0..60)) {
            let dir = tempfile::tempdir().unwrap();
            let open = Box::new(|| Ok(Box::<MemoryStore>::default() as Box<dyn Store>));
            let mut waiting = Waiting::new(&Budget::new(0, dir.path()), 2, open, None);
            // What the operator's capabilities stand at: what was held, and what comes while it comes.
            let mut held = Antichain::new();
            for (number, step) in (0..).zip(steps) {
                match step {
                    Step::Push { window, epoch, watermark } => {
                        let mut batch = BatchBuilder::default();
                        batch.push(&element(window, number), Timestamp(watermark));
                        let came = Moment { epoch, watermark };
                        held.extend([came]);
                        waiting.push(&name(window), came, batch.finish()).unwrap();
                        waiting.flush().unwrap();
                    }
                    Step::Release(window) => waiting.release(&name(window)),
                    Step::Discard(window) => waiting.discard(&name(window)).unwrap(),
                    Step::Lift(epoch) => waiting.lift(epoch),
                    Step::Take => {
                        for Passed { moment, batch, .. } in waiting.take().unwrap().into_iter().flatten() {
                            prop_assert!(held.less_equal(&moment), "{moment:?} is sent, {held:?} is held");
                            prop_assert!(held.iter().any(|held| Timestamp(held.watermark) <= batch.min_timestamp()));
                        }
                    }
                }
                let mut holds = Antichain::new();
                for moment in waiting.held() {
                    prop_assert!(held.less_equal(&moment), "{moment:?} is to be held, {held:?} is");
                    holds.extend([moment]);
                }
                held = holds;
            }
        }
    }
}
