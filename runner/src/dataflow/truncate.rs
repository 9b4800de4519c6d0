//! Draining a splittable stage: what is left of its input is shortened by the SDK before it runs for the last time.
//!
//! The SDK's truncation (`beam:transform:sdf_truncate_sized_restrictions:v1`) keeps bounded restrictions and drops
//! unbounded ones, unless the DoFn says otherwise. Of an SDK that cannot truncate, bounded sources run to their end and
//! unbounded ones stop where they are.

use std::io;

use super::bundles::Bundles;
use super::queue::{EpochInput, FrozenInput};
use crate::element::Batch;
use crate::memory::Budget;
use crate::time::Moment;

/// The draining of one stage on one worker.
pub(crate) struct Truncation {
    bundles: Option<Bundles>,
    /// The stage's output is unbounded.
    unbounded: bool,
    /// Input that is still to be shortened, by epoch.
    whole: EpochInput,
    /// The first bundle of the stage that has only shortened input, once the drain has begun.
    began: Option<u64>,
}

impl Truncation {
    /// `bundles` are those of the stage that truncates, if the SDK can.
    pub(crate) fn new(bundles: Option<Bundles>, unbounded: bool, budget: &Budget) -> Truncation {
        Truncation { bundles, unbounded, whole: EpochInput::new(budget), began: None }
    }

    /// The drain is on; `next` is the first bundle of the stage that it concerns. True the first time.
    pub(crate) fn begin(&mut self, next: u64) -> bool {
        let first = self.began.is_none();
        self.began.get_or_insert(next);
        first
    }

    /// Whether a bundle of the stage began before the drain, so that what it hands back is still to be shortened.
    pub(crate) fn is_before(&self, bundle: u64) -> bool {
        self.began.is_none_or(|began| bundle < began)
    }

    /// Takes what the input brought in the epoch of `moment`, and is to be shortened.
    pub(crate) fn push(&mut self, moment: Moment, batch: Batch) -> io::Result<()> {
        self.whole.push(moment, batch)
    }

    /// Takes what stems from the stage itself or from an earlier epoch, and is to be shortened in that of `moment`.
    pub(crate) fn carry(&mut self, moment: Moment, batch: Batch) -> io::Result<()> {
        self.whole.carry(moment, batch)
    }

    /// Takes all of `input`, which is to be shortened.
    pub(crate) fn take_over(&mut self, input: &mut EpochInput) -> io::Result<()> {
        std::mem::swap(&mut self.whole, input);
        self.whole.append(input)
    }

    /// Goes on shortening what waits in the epochs up to `epoch`; what is ready to run goes to `input`, in the epoch
    /// `reached` or later. False: the job failed, and that was reported.
    pub(crate) fn work(
        &mut self,
        epoch: u64,
        reached: u64,
        max_bytes: usize,
        input: &mut EpochInput,
    ) -> io::Result<bool> {
        let ready_at = |moment: Moment| Moment { epoch: moment.epoch.max(reached), ..moment };
        let Some(bundles) = &mut self.bundles else {
            while let Some(taken) = self.whole.take_until(epoch, 1)? {
                if !self.unbounded {
                    let moment = ready_at(taken.moment);
                    taken.batches.into_iter().try_for_each(|batch| input.carry(moment, batch))?;
                }
            }
            return Ok(true);
        };
        while let Some(finished) = bundles.poll() {
            let moment = ready_at(finished.moment);
            for mut port in finished.done.outputs.into_ports() {
                while let Some(batch) = port.pop()? {
                    input.carry(moment, batch)?;
                }
            }
        }
        if bundles.failed() {
            return Ok(false);
        }
        while bundles.free(bundles.limit()) > 0
            && let Some(taken) = self.whole.take_until(epoch, max_bytes)?
        {
            bundles.start(taken.moment, taken.batches);
        }
        Ok(true)
    }

    /// The first epoch in which something is to be shortened or is being shortened.
    pub(crate) fn first(&self) -> Option<u64> {
        let open = self.bundles.iter().flat_map(Bundles::moments).map(|moment| moment.epoch);
        self.whole.first().into_iter().chain(open).min()
    }

    /// What has not begun to be shortened is shortened in `epoch` instead of an earlier one.
    pub(crate) fn move_on(&mut self, epoch: u64) -> io::Result<()> {
        self.whole.move_on(epoch)
    }

    /// What a checkpoint before the first epoch that has something to be shortened holds of it.
    pub(crate) fn freeze_carried(&mut self) -> io::Result<Vec<FrozenInput>> {
        self.whole.freeze_carried()
    }

    /// Whether there is something to be shortened.
    pub(crate) fn busy(&self) -> bool {
        !self.whole.is_empty() || self.bundles.as_ref().is_some_and(Bundles::busy)
    }

    /// The moments that what is here must be held at.
    pub(crate) fn moments(&self) -> impl Iterator<Item = Moment> + '_ {
        self.whole.moments().chain(self.bundles.iter().flat_map(Bundles::moments))
    }
}
