//! Input that a stage must not see before it is durable (`requires_stable_input` of `ParDoPayload`).
//!
//! What comes in an epoch waits until a checkpoint has it that is complete: it is saved as the operator steps over the
//! border, with all that was carried, and goes on once that checkpoint is committed. So after a failure the stage is given
//! the very elements that it was given before. Meanwhile it holds the watermark, and goes with the epochs.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use timely::dataflow::Scope;

use super::Job;
use super::carried::FrozenBatches;
use super::queue::{EpochInput, InputQueue};
use crate::element::Batch;
use crate::memory::Budget;
use crate::plan::Stage;
use crate::time::Moment;

/// See the module.
pub(crate) struct StableInput {
    budget: Budget,
    /// In no checkpoint yet, by epoch.
    new: BTreeMap<u64, InputQueue>,
    /// In a checkpoint, and those after it, that may not be committed yet.
    saved: BTreeMap<u64, InputQueue>,
}

impl StableInput {
    /// That of a stage's operator at `address`, which is activated when a checkpoint is durable; `None`: the stage asks
    /// for none, or the job takes no checkpoints.
    pub(crate) fn of(job: &Job, stage: &Stage, scope: Scope<'_, Moment>, address: &Rc<[usize]>) -> Option<StableInput> {
        if !stage.stable_input || !job.checkpoints.are_on() {
            return None;
        }
        let wake = scope.worker().sync_activator_for(address.to_vec());
        job.checkpoints.on_change(move || {
            // Fails only when the worker is gone.
            let _ = wake.activate();
        });
        Some(StableInput::new(&job.budget))
    }

    fn new(budget: &Budget) -> StableInput {
        StableInput { budget: budget.clone(), new: BTreeMap::new(), saved: BTreeMap::new() }
    }

    /// Takes what the input brought.
    pub(crate) fn push(&mut self, moment: Moment, batch: Batch) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let budget = &self.budget;
        self.new.entry(moment.epoch).or_insert_with(|| InputQueue::new(budget)).push(moment, batch)
    }

    /// The operator steps over the border of checkpoint `epoch`: gives all that is to be saved of it.
    pub(crate) fn save(&mut self, epoch: u64) -> io::Result<Vec<FrozenBatches>> {
        let later = self.new.split_off(&epoch);
        for mut queue in std::mem::replace(&mut self.new, later).into_values() {
            let budget = &self.budget;
            let saved = self.saved.entry(epoch).or_insert_with(|| InputQueue::new(budget));
            while let Some((moment, batch)) = queue.pop()? {
                saved.push(moment, batch)?;
            }
        }
        self.saved.values_mut().map(|queue| Ok(queue.freeze()?.into())).collect()
    }

    /// Checkpoints up to `durable` are committed: what they have is input of `epoch` now.
    pub(crate) fn go_on(&mut self, durable: u64, epoch: u64, input: &mut EpochInput) -> io::Result<()> {
        while let Some(first) = self.saved.first_entry().filter(|first| *first.key() <= durable) {
            let mut queue = first.remove();
            while let Some((moment, batch)) = queue.pop()? {
                input.carry(Moment { epoch, ..moment }, batch)?;
            }
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.new.is_empty() && self.saved.is_empty()
    }

    /// Where it is held, by an operator that is in `epoch`.
    pub(crate) fn held(&self, epoch: u64) -> impl Iterator<Item = Moment> {
        // What was saved came before the border that the operator has stepped over since.
        let saved = self.saved.values().map(move |queue| (epoch, queue));
        let new = self.new.iter().map(move |(came, queue)| (epoch.max(*came), queue));
        saved.chain(new).filter_map(|(epoch, queue)| Some(Moment { epoch, ..queue.least()? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    fn moment(epoch: u64, watermark: i64) -> Moment {
        Moment { epoch, watermark }
    }

    /// Each epoch's input is held at its own watermark: (3, 100) and (5, 50) hold nothing at (3, 50).
    #[test]
    fn what_came_in_an_epoch_is_held_in_that() {
        let dir = tempfile::tempdir().unwrap();
        let mut stable = StableInput::new(&Budget::new(1 << 20, dir.path()));
        let batch = |number: u32| Batch::new(number.to_be_bytes().to_vec().into(), [4], Timestamp(200));
        for (number, moment) in [moment(3, 100), moment(5, 50), moment(3, 120)].into_iter().enumerate() {
            stable.push(moment, batch(number as u32)).unwrap();
        }
        let held = |stable: &StableInput, epoch| stable.held(epoch).collect::<Vec<_>>();
        assert_eq!(held(&stable, 3), [moment(3, 100), moment(5, 50)]);
        // The operator goes over the border of checkpoint 4, which takes what came in epoch 3.
        stable.save(4).unwrap();
        assert_eq!(held(&stable, 4), [moment(4, 100), moment(5, 50)]);
        assert_eq!(held(&stable, 6), [moment(6, 100), moment(6, 50)]);
        let mut input = EpochInput::new(&Budget::new(1 << 20, dir.path()));
        stable.go_on(4, 6, &mut input).unwrap();
        assert_eq!(held(&stable, 6), [moment(6, 50)]);
        assert_eq!(input.moments().collect::<Vec<_>>(), [moment(6, 100)]);
    }
}
