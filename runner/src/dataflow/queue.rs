//! The input that waits at an operator, in order of arrival: [`InputQueue`], and by epoch: [`EpochInput`].

use std::collections::{BTreeMap, VecDeque};
use std::io;

use timely::progress::frontier::AntichainRef;

use super::flow::EpochBytes;
use crate::element::{Batch, FrozenQueue, SpillQueue};
use crate::memory::Budget;
use crate::time::{self, Moment};

/// A queue of batches with the moments they must be held at, on disk past the budget.
///
/// What an operator asks of it at every visit, the least watermark and epoch, costs the same however much waits.
pub(crate) struct InputQueue {
    batches: SpillQueue,
    /// The moments of `batches`, run-length encoded.
    moments: VecDeque<(Moment, usize)>,
    /// The runs that no later run is less than or equal to in its watermark, with their numbers: the first is the least.
    watermarks: VecDeque<(u64, i64)>,
    /// Likewise for epochs.
    epochs: VecDeque<(u64, u64)>,
    /// The number of the first run in `moments`.
    first_run: u64,
    /// The rest of a batch that a bundle took only a part of.
    front: Option<(Moment, Batch)>,
}

/// Input for one bundle.
pub(crate) struct Taken {
    pub(crate) moment: Moment,
    pub(crate) batches: Vec<Batch>,
    pub(crate) elements: usize,
}

impl InputQueue {
    pub(crate) fn new(budget: &Budget) -> InputQueue {
        InputQueue {
            batches: SpillQueue::new(budget),
            moments: VecDeque::new(),
            watermarks: VecDeque::new(),
            epochs: VecDeque::new(),
            first_run: 0,
            front: None,
        }
    }

    pub(crate) fn push(&mut self, moment: Moment, batch: Batch) -> io::Result<()> {
        self.batches.push(batch)?;
        match self.moments.back_mut() {
            Some((last, count)) if *last == moment => *count += 1,
            _ => {
                let run = self.first_run + self.moments.len() as u64;
                self.moments.push_back((moment, 1));
                push_least(&mut self.watermarks, run, moment.watermark);
                push_least(&mut self.epochs, run, moment.epoch);
            }
        }
        Ok(())
    }

    pub(crate) fn pop(&mut self) -> io::Result<Option<(Moment, Batch)>> {
        if let Some(front) = self.front.take() {
            return Ok(Some(front));
        }
        let Some(batch) = self.batches.pop()? else { return Ok(None) };
        let Some((moment, count)) = self.moments.front_mut() else {
            return Err(io::Error::other("a queued batch has no moment"));
        };
        let moment = *moment;
        *count -= 1;
        if *count == 0 {
            self.moments.pop_front();
            self.first_run += 1;
            let first = self.first_run;
            self.watermarks.pop_front_if(|(run, _)| *run < first);
            self.epochs.pop_front_if(|(run, _)| *run < first);
        }
        Ok(Some((moment, batch)))
    }

    /// Takes up to `elements` elements and about `bytes` bytes, at least one element; `None` when empty.
    pub(crate) fn take(&mut self, elements: usize, bytes: usize) -> io::Result<Option<Taken>> {
        let mut taken: Option<Taken> = None;
        let mut size = 0;
        while let Some((moment, mut batch)) = self.pop()? {
            let have = taken.as_ref().map_or(0, |taken| taken.elements);
            let room = elements.max(1) - have;
            if have > 0 && size + batch.data().len() > bytes {
                self.front = Some((moment, batch));
                break;
            }
            if batch.len() > room {
                let rest = batch.split_off(room);
                self.front = Some((moment, rest));
            }
            size += batch.data().len();
            let taken = taken.get_or_insert(Taken { moment, batches: Vec::new(), elements: 0 });
            taken.moment = least(taken.moment, moment);
            taken.elements += batch.len();
            taken.batches.push(batch);
            if taken.elements >= elements || size >= bytes {
                break;
            }
        }
        Ok(taken)
    }

    /// Appends everything of `later`, in its order.
    fn append(&mut self, mut later: InputQueue) -> io::Result<()> {
        if self.is_empty() {
            *self = later;
            return Ok(());
        }
        while let Some((moment, batch)) = later.pop()? {
            self.push(moment, batch)?;
        }
        Ok(())
    }

    /// All that waits, in order, without taking it.
    pub(crate) fn freeze(&mut self) -> io::Result<FrozenInput> {
        let front = self.front.clone();
        Ok(FrozenInput { front, moments: self.moments.iter().copied().collect(), batches: self.batches.freeze()? })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.front.is_none() && self.batches.is_empty()
    }

    pub(crate) fn elements(&self) -> usize {
        self.batches.elements() + self.front.as_ref().map_or(0, |(_, batch)| batch.len())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.batches.bytes() + self.front.as_ref().map_or(0, |(_, batch)| batch.data().len())
    }

    /// A moment that nothing here is before: the least watermark and the least epoch. `None` when empty.
    pub(crate) fn least(&self) -> Option<Moment> {
        let queued = match (self.epochs.front(), self.watermarks.front()) {
            (Some((_, epoch)), Some((_, watermark))) => Some(Moment { epoch: *epoch, watermark: *watermark }),
            _ => None,
        };
        let front = self.front.as_ref().map(|(moment, _)| *moment);
        queued.into_iter().chain(front).reduce(least)
    }
}

/// What an [`InputQueue`] held at some time, to be read by another thread while the queue goes on.
pub(crate) struct FrozenInput {
    front: Option<(Moment, Batch)>,
    moments: Vec<(Moment, usize)>,
    batches: FrozenQueue,
}

impl FrozenInput {
    /// Gives every batch to `see`, in order, with the moment that it came at.
    pub(crate) fn read(self, mut see: impl FnMut(Moment, Batch) -> io::Result<()>) -> io::Result<()> {
        if let Some((moment, batch)) = self.front {
            see(moment, batch)?;
        }
        let mut moments = self.moments.into_iter().flat_map(|(moment, count)| std::iter::repeat_n(moment, count));
        self.batches.read(|batch| match moments.next() {
            Some(moment) => see(moment, batch),
            None => Err(io::Error::other("a queued batch has no moment")),
        })
    }
}

/// Keeps the numbered values that no later one is less than or equal to.
fn push_least<T: PartialOrd>(values: &mut VecDeque<(u64, T)>, run: u64, value: T) {
    while values.pop_back_if(|(_, last)| *last >= value).is_some() {}
    values.push_back((run, value));
}

/// The moment that two moments of one epoch can both be held at.
fn least(a: Moment, b: Moment) -> Moment {
    Moment { epoch: a.epoch.min(b.epoch), watermark: a.watermark.min(b.watermark) }
}

/// The input of an operator by epoch.
///
/// Work of an epoch is done in it. What cannot be done in its own epoch is carried over the border to a later one:
/// residuals, what waits for a side input. An operator's checkpoint holds what it carries and nothing of what its input
/// brought in the later epoch, which will come again; so the two are kept apart, and what was carried runs first.
pub(crate) struct EpochInput {
    budget: Budget,
    epochs: BTreeMap<u64, Waiting>,
}

/// The input of one epoch.
struct Waiting {
    carried: InputQueue,
    fresh: InputQueue,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.carried.is_empty() && self.fresh.is_empty()
    }
}

impl EpochInput {
    pub(crate) fn new(budget: &Budget) -> EpochInput {
        EpochInput { budget: budget.clone(), epochs: BTreeMap::new() }
    }

    fn at(&mut self, epoch: u64) -> &mut Waiting {
        let budget = &self.budget;
        self.epochs
            .entry(epoch)
            .or_insert_with(|| Waiting { carried: InputQueue::new(budget), fresh: InputQueue::new(budget) })
    }

    /// Takes what the input brought in the epoch of `moment`.
    pub(crate) fn push(&mut self, moment: Moment, batch: Batch) -> io::Result<()> {
        if batch.is_empty() { Ok(()) } else { self.at(moment.epoch).fresh.push(moment, batch) }
    }

    /// Takes what stems from an earlier epoch than that of `moment`, or from this operator itself, and is to be done in
    /// that one.
    pub(crate) fn carry(&mut self, moment: Moment, batch: Batch) -> io::Result<()> {
        if batch.is_empty() { Ok(()) } else { self.at(moment.epoch).carried.push(moment, batch) }
    }

    /// Takes some of what waits in an epoch, as [`InputQueue::take`].
    pub(crate) fn take(&mut self, epoch: u64, elements: usize, bytes: usize) -> io::Result<Option<Taken>> {
        let Some(waiting) = self.epochs.get_mut(&epoch) else { return Ok(None) };
        let taken = match waiting.carried.take(elements, bytes)? {
            None => waiting.fresh.take(elements, bytes)?,
            taken => taken,
        };
        if waiting.is_empty() {
            self.epochs.remove(&epoch);
        }
        // What was carried is held at the epoch that it is done in.
        Ok(taken.map(|taken| Taken { moment: Moment { epoch, ..taken.moment }, ..taken }))
    }

    /// Takes what waits in the epochs up to `epoch`, in order, about `bytes` bytes at a time; `None`: nothing does.
    pub(crate) fn take_until(&mut self, epoch: u64, bytes: usize) -> io::Result<Option<Taken>> {
        match self.first().filter(|first| *first <= epoch) {
            Some(first) => self.take(first, usize::MAX, bytes),
            None => Ok(None),
        }
    }

    /// Takes all of `later`, epoch by epoch, behind what is here.
    pub(crate) fn append(&mut self, later: &mut EpochInput) -> io::Result<()> {
        for (epoch, Waiting { carried, fresh }) in std::mem::take(&mut later.epochs) {
            let waiting = self.at(epoch);
            waiting.carried.append(carried)?;
            waiting.fresh.append(fresh)?;
        }
        Ok(())
    }

    /// Carries the input of epochs before `epoch` over to that: it waits for something that has come so far, and must not
    /// keep what comes before that from ending.
    pub(crate) fn move_on(&mut self, epoch: u64) -> io::Result<()> {
        // The latest first, so that each comes behind those before it.
        while let Some(last) = self.epochs.range(..epoch).next_back().map(|(last, _)| *last)
            && let Some(Waiting { carried: mut moved, fresh }) = self.epochs.remove(&last)
        {
            moved.append(fresh)?;
            let waiting = self.at(epoch);
            let later = std::mem::replace(&mut waiting.carried, moved);
            waiting.carried.append(later)?;
        }
        Ok(())
    }

    /// The first epoch that has input.
    pub(crate) fn first(&self) -> Option<u64> {
        self.epochs.keys().next().copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.epochs.is_empty()
    }

    /// Whether an epoch has input.
    pub(crate) fn has(&self, epoch: u64) -> bool {
        self.epochs.contains_key(&epoch)
    }

    /// Elements that wait in an epoch.
    pub(crate) fn elements(&self, epoch: u64) -> usize {
        self.epochs.get(&epoch).map_or(0, |waiting| waiting.carried.elements() + waiting.fresh.elements())
    }

    /// Bytes that the input brought, in the order of the epochs.
    pub(crate) fn fresh_bytes(&self) -> impl Iterator<Item = EpochBytes> + '_ {
        self.epochs.iter().map(|(epoch, waiting)| EpochBytes { epoch: *epoch, bytes: waiting.fresh.bytes() })
    }

    /// Moments that what waits must be held at: one an epoch.
    pub(crate) fn moments(&self) -> impl Iterator<Item = Moment> + '_ {
        self.epochs.iter().flat_map(|(epoch, waiting)| {
            let least = [waiting.carried.least(), waiting.fresh.least()].into_iter().flatten().reduce(least);
            least.map(|least| Moment { epoch: *epoch, ..least })
        })
    }

    /// The least watermark of what waits.
    pub(crate) fn least_watermark(&self) -> Option<i64> {
        self.moments().map(|moment| moment.watermark).min()
    }

    /// All that is carried, in order.
    pub(crate) fn freeze_carried(&mut self) -> io::Result<Vec<FrozenInput>> {
        self.epochs.values_mut().map(|waiting| waiting.carried.freeze()).collect()
    }

    /// The epoch to step to from `epoch`, where nothing is left to do: the next one that has input, or that the input has
    /// reached. `None`: the input has not left `epoch` yet, or nothing comes after it.
    pub(crate) fn next(&self, epoch: u64, frontier: AntichainRef<Moment>) -> Option<u64> {
        let queued = self.first();
        let reached = time::epoch(frontier);
        let next = queued.into_iter().chain(reached).min()?;
        (next > epoch).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::Timestamp;

    fn batch(name: u32) -> Batch {
        Batch::new(name.to_be_bytes().to_vec().into(), [4], Timestamp(0))
    }

    fn name(batch: &Batch) -> u32 {
        u32::from_be_bytes(batch.data()[..].try_into().unwrap())
    }

    fn budget(dir: &tempfile::TempDir, spills: bool) -> Budget {
        Budget::with_floor(if spills { 0 } else { 1 << 20 }, 0, dir.path())
    }

    fn moment(epoch: u64, watermark: i64) -> Moment {
        Moment { epoch, watermark }
    }

    fn drain(input: &mut EpochInput, epoch: u64) -> Vec<u32> {
        let mut names = Vec::new();
        while let Some(taken) = input.take(epoch, 1, 1).unwrap() {
            assert_eq!(taken.moment.epoch, epoch);
            names.extend(taken.batches.iter().map(name));
        }
        names
    }

    proptest! {
        /// The least moment is that of a walk over everything, after any pushes and takes.
        #[test]
        fn the_least_is_that_of_all(
            steps in proptest::collection::vec(proptest::option::of((0..3u64, -5..5i64)), 0..60),
            spills: bool,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut queue = InputQueue::new(&budget(&dir, spills));
            let mut model: VecDeque<(Moment, u32)> = VecDeque::new();
            for (at, step) in (0..).zip(steps) {
                match step {
                    Some((epoch, watermark)) => {
                        queue.push(moment(epoch, watermark), batch(at)).unwrap();
                        model.push_back((moment(epoch, watermark), at));
                    }
                    None => {
                        let taken = queue.take(1, 1).unwrap();
                        let expected = model.pop_front();
                        prop_assert_eq!(taken.map(|taken| (taken.moment, name(&taken.batches[0]))), expected);
                    }
                }
                prop_assert_eq!(queue.least(), model.iter().map(|(moment, _)| *moment).reduce(least));
                let mut seen = Vec::new();
                let frozen = queue.freeze().unwrap();
                frozen.read(|moment, batch| { seen.push((moment, name(&batch))); Ok(()) }).unwrap();
                prop_assert_eq!(seen, model.iter().copied().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn what_is_moved_on_keeps_its_order_and_counts_as_carried() {
        for spills in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let mut input = EpochInput::new(&budget(&dir, spills));
            input.push(moment(1, 10), batch(1)).unwrap();
            input.carry(moment(1, 9), batch(0)).unwrap();
            input.push(moment(2, 20), batch(3)).unwrap();
            input.carry(moment(2, 5), batch(2)).unwrap();
            input.push(moment(3, 30), batch(4)).unwrap();
            input.move_on(3).unwrap();
            let mut carried = Vec::new();
            for frozen in input.freeze_carried().unwrap() {
                let keep = |moment: Moment, batch: Batch| {
                    carried.push((moment.watermark, name(&batch)));
                    Ok(())
                };
                frozen.read(keep).unwrap();
            }
            assert_eq!(carried, [(9, 0), (10, 1), (5, 2), (20, 3)], "older first");
            assert_eq!(input.fresh_bytes().collect::<Vec<_>>(), [EpochBytes { epoch: 3, bytes: 4 }]);
            assert_eq!(input.moments().collect::<Vec<_>>(), [moment(3, 5)]);
            assert_eq!(drain(&mut input, 3), [0, 1, 2, 3, 4]);
            assert!(input.is_empty());
        }
    }

    /// Moving on costs what came since the last time, not what has waited for long: a backlog is not rewritten at every
    /// epoch.
    #[test]
    fn a_backlog_is_moved_on_by_what_came_last() {
        let dir = tempfile::tempdir().unwrap();
        let mut input = EpochInput::new(&budget(&dir, true));
        for name in 0..1000 {
            input.push(moment(0, 0), batch(name)).unwrap();
        }
        input.move_on(1).unwrap();
        let before = input.epochs[&1].carried.batches.popped();
        for epoch in 1..500 {
            input.push(moment(epoch, 0), batch(1000 + epoch as u32)).unwrap();
            input.move_on(epoch + 1).unwrap();
        }
        let carried = &input.epochs[&500].carried;
        assert_eq!(carried.elements(), 1499);
        assert_eq!(carried.batches.popped(), before, "nothing of the backlog was read to move it on");
    }
}
