//! What a keyed stage's state is called and how it is encoded: what has to fit where it is taken over.

use super::super::bundles::element_coder;
use super::super::fit::{Fit, form_of_input};
use super::super::restore::Parts;
use crate::checkpoint::{CellName, PartHead, PartKind, Saver};
use crate::element::ElementCoder;
use crate::plan::{Keyed, Plan, Stage, StageId, StateCell, TimerFamily};
use crate::state::{Numbers, Record, Store, StoreError, Stores, group_of, renumber};

/// See the module.
pub(crate) struct StateForm {
    input: ElementCoder,
    form: String,
    cells: Vec<CellName>,
    timers: Vec<CellName>,
    /// Saved cells that are gone are dropped instead of refused.
    drop_unknown: bool,
}

fn unique_name(stage: &Stage, id: &str) -> String {
    let known = stage.transforms.iter().find(|(transform, _)| transform == id);
    known.map_or_else(|| id.to_owned(), |(_, name)| name.clone())
}

fn cell_name(stage: &Stage, cell: &StateCell) -> CellName {
    let value = cell.value.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string);
    let single = if cell.single_valued { ", one value a key" } else { "" };
    CellName {
        transform: unique_name(stage, &cell.transform),
        cell: cell.state.clone(),
        form: format!("{} of {value}{single}", cell.kind),
    }
}

fn timer_name(stage: &Stage, family: &TimerFamily) -> CellName {
    CellName {
        transform: unique_name(stage, &family.transform),
        cell: family.family.clone(),
        form: format!("timers in {}, keyed by {}, in {}", family.domain, family.key, family.window),
    }
}

impl StateForm {
    /// Of the stage `id` of a plan. Saved cells that are gone are dropped if `drop_unknown`, and refused otherwise.
    pub(crate) fn of(plan: &Plan, id: StageId, keyed: &Keyed, drop_unknown: bool) -> StateForm {
        let stage = &plan.stages[id.0 as usize];
        StateForm {
            input: element_coder(plan, stage.input.collection),
            form: form_of_input(plan, stage),
            cells: keyed.states.iter().map(|cell| cell_name(stage, cell)).collect(),
            timers: keyed.timers.iter().map(|family| timer_name(stage, family)).collect(),
            drop_unknown,
        }
    }

    /// Why a part cannot be taken over, if it cannot.
    pub(crate) fn refuses(&self, head: &PartHead) -> Option<String> {
        if head.form != self.form {
            return Some(format!("its input was saved as {}, and is now {}", head.form, self.form));
        }
        self.numbers(head).err().map(|error| error.why)
    }

    /// Notes what cells and timer families are new, and which are given up.
    pub(crate) fn note_changes(&self, head: &PartHead, fit: &mut Fit) {
        let both = [("state", &head.cells, &self.cells), ("timer family", &head.timers, &self.timers)];
        for (what, saved, now) in both {
            let is = |cell: &CellName, other: &CellName| cell.transform == other.transform && cell.cell == other.cell;
            let besides = |some: &[CellName], others: &[CellName]| -> Vec<String> {
                let alone = some.iter().filter(|cell| !others.iter().any(|other| is(cell, other)));
                alone.map(|cell| format!("{what} {:?} of {:?}", cell.cell, cell.transform)).collect()
            };
            fit.begins_empty.extend(besides(now, saved));
            fit.dropped.extend(besides(saved, now));
        }
    }

    /// How the stage's input is encoded.
    pub(super) fn input(&self) -> &ElementCoder {
        &self.input
    }

    /// What every part says of it.
    pub(super) fn head(&self, kind: PartKind) -> PartHead {
        let (cells, timers) = (self.cells.clone(), self.timers.clone());
        PartHead { form: self.form.clone(), cells, timers, ..PartHead::of(kind) }
    }

    /// The parts that the operator takes over.
    pub(super) fn parts<'a>(&self, saver: &'a Saver) -> Result<Parts<'a>, StoreError> {
        Parts::of(saver, &self.head(PartKind::Keyed))
    }

    /// The store that the stage starts with.
    pub(super) fn open(&self, stores: &Stores, parts: &Parts<'_>, shard: usize) -> Result<Box<dyn Store>, StoreError> {
        let name = format!("state-{shard}");
        let mut same = true;
        for head in parts.heads() {
            same &= self.numbers(head)?.are_the_same();
        }
        if same {
            return parts.open(stores, &name, group_of, None);
        }
        parts.open(
            stores,
            &name,
            group_of,
            Some(&|head, key, value| {
                let key = renumber(key, &self.numbers(head)?)?;
                Ok(key.map(|key| Record { key, value }))
            }),
        )
    }

    /// What the numbers in a part's keys are now.
    fn numbers(&self, saved: &PartHead) -> Result<Numbers, StoreError> {
        let cells = self.now(&saved.cells, &self.cells, "state")?;
        let timers = self.now(&saved.timers, &self.timers, "timer family")?;
        Ok(Numbers {
            cells: cells.into_iter().map(|at| at.map(|at| at as u32)).collect(),
            timers: timers.into_iter().map(|at| at.map(|at| at as u16)).collect(),
        })
    }

    fn now(&self, saved: &[CellName], now: &[CellName], what: &str) -> Result<Vec<Option<usize>>, StoreError> {
        let refused = |why: String| StoreError { doing: "take over saved state", why };
        let find = |saved: &CellName| {
            let same =
                |cell: &&(usize, &CellName)| (&cell.1.transform, &cell.1.cell) == (&saved.transform, &saved.cell);
            let numbered: Vec<(usize, &CellName)> = now.iter().enumerate().collect();
            let CellName { transform, cell, form } = saved;
            match numbered.iter().find(same) {
                Some((at, found)) if found.form == *form => Ok(Some(*at)),
                Some((_, found)) => Err(refused(format!(
                    "{what} {cell:?} of {transform:?} was saved as {form}, and is now {}: leave it as it was, or give it another \
                     name",
                    found.form
                ))),
                None if self.drop_unknown => Ok(None),
                None => Err(refused(format!(
                    "{what} {cell:?} of {transform:?} was saved, and the pipeline has it no more: allow_non_restored_state drops \
                     it"
                ))),
            }
        };
        saved.iter().map(find).collect()
    }
}
