//! Input that a stage must not see before it is durable (`requires_stable_input` of `ParDoPayload`).
//!
//! What comes in an epoch waits until a checkpoint has it that is complete: it is saved as the operator steps over the
//! border, with all that was carried, and goes on once that checkpoint is committed. So after a failure the stage is given
//! the very elements that it was given before. Meanwhile it holds the watermark, and goes with the epochs.

use std::collections::BTreeMap;
use std::io;

use super::carried::FrozenBatches;
use super::queue::{EpochInput, InputQueue};
use crate::element::Batch;
use crate::memory::Budget;
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
    pub(crate) fn new(budget: &Budget) -> StableInput {
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
    pub(crate) fn held(&self, epoch: u64) -> Option<Moment> {
        let queues = self.new.values().chain(self.saved.values());
        let watermark = queues.filter_map(|queue| queue.least()).map(|least| least.watermark).min()?;
        Some(Moment { epoch, watermark })
    }
}
