//! Draining a splittable stage: what is left of its input is shortened by the SDK before it runs for the last time.
//!
//! The SDK's truncation (`beam:transform:sdf_truncate_sized_restrictions:v1`) keeps bounded restrictions and drops
//! unbounded ones, unless the DoFn says otherwise. Of an SDK that cannot truncate, bounded sources run to their end and
//! unbounded ones stop where they are.

use std::io;

use super::bundles::Bundles;
use super::queue::{EpochInput, InputQueue};
use crate::element::Batch;
use crate::memory::Budget;
use crate::time::Moment;

/// The draining of one stage on one worker.
pub(crate) struct Truncation {
    bundles: Option<Bundles>,
    /// The stage's output is unbounded.
    unbounded: bool,
    /// Input that is still to be shortened.
    whole: InputQueue,
    /// The first bundle of the stage that has only shortened input, once the drain has begun.
    began: Option<u64>,
}

impl Truncation {
    /// `bundles` are those of the stage that truncates, if the SDK can.
    pub(crate) fn new(bundles: Option<Bundles>, unbounded: bool, budget: &Budget) -> Truncation {
        Truncation { bundles, unbounded, whole: InputQueue::new(budget), began: None }
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

    /// Takes input that is to be shortened.
    pub(crate) fn push(&mut self, moment: Moment, batch: Batch) -> io::Result<()> {
        if batch.is_empty() { Ok(()) } else { self.whole.push(moment, batch) }
    }

    /// Takes all of `input`, which is to be shortened.
    pub(crate) fn push_all(&mut self, input: &mut EpochInput) -> io::Result<()> {
        while let Some(taken) = input.take_any(1)? {
            taken.batches.into_iter().try_for_each(|batch| self.push(taken.moment, batch))?;
        }
        Ok(())
    }

    /// Goes on shortening; what is ready to run, which belongs to the epoch `reached`, goes to `input`. False: the job
    /// failed, and that was reported.
    pub(crate) fn work(&mut self, reached: u64, max_bytes: usize, input: &mut EpochInput) -> io::Result<bool> {
        let ready_at = |moment: Moment| Moment { epoch: moment.epoch.max(reached), ..moment };
        let Some(bundles) = &mut self.bundles else {
            while let Some(taken) = self.whole.take(usize::MAX, 1)? {
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
            && let Some(taken) = self.whole.take(usize::MAX, max_bytes)?
        {
            bundles.start(taken.moment, taken.batches);
        }
        Ok(true)
    }

    /// Whether there is something to be shortened.
    pub(crate) fn busy(&self) -> bool {
        !self.whole.is_empty() || self.bundles.as_ref().is_some_and(Bundles::busy)
    }

    /// The moments that what is here must be held at.
    pub(crate) fn moments(&self) -> impl Iterator<Item = Moment> + '_ {
        self.whole.least().into_iter().chain(self.bundles.iter().flat_map(Bundles::moments))
    }
}
