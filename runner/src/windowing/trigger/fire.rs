//! The steps of the machine, part by part.

use super::state::Cell;
use super::{Kind, Look, TriggerMachine, TriggerState, reckon};

impl TriggerMachine {
    fn first_unfinished(&self, node: usize, state: &TriggerState) -> Option<usize> {
        self.nodes[node].parts.iter().copied().find(|part| !state.cells[*part].finished)
    }

    pub(super) fn element(&self, node: usize, state: &mut TriggerState, look: Look) {
        let parts = &self.nodes[node].parts;
        match &self.nodes[node].kind {
            Kind::EndOfWindow | Kind::Default | Kind::Never | Kind::Always => {}
            Kind::Count(_) => {
                let cell = &mut state.cells[node];
                cell.value = Some(cell.value.unwrap_or(0).saturating_add(1));
            }
            Kind::ProcessingTime(steps) => {
                let cell = &mut state.cells[node];
                cell.value = cell.value.or_else(|| Some(reckon(steps, look.now).0));
            }
            // Only one part is at work, unless a merge may bring back another: then all must know what has come.
            Kind::Each | Kind::EarlyAndLate if !self.merging => {
                if let Some(part) = self.first_unfinished(node, state) {
                    self.element(part, state, look);
                }
            }
            Kind::All => {
                for part in parts {
                    if !state.cells[*part].finished {
                        self.element(*part, state, look);
                    }
                }
            }
            Kind::Each | Kind::EarlyAndLate | Kind::Any | Kind::OrFinally | Kind::Repeat => {
                for part in parts {
                    self.element(*part, state, look);
                }
            }
        }
    }

    pub(super) fn ready(&self, node: usize, state: &TriggerState, look: Look) -> bool {
        let parts = &self.nodes[node].parts;
        let cell = &state.cells[node];
        match &self.nodes[node].kind {
            Kind::EndOfWindow | Kind::Default => look.ended,
            Kind::Never => false,
            Kind::Always => true,
            Kind::Count(count) => cell.value.unwrap_or(0) >= i64::from(*count),
            Kind::ProcessingTime(_) => cell.value.is_some_and(|due| due <= look.now.0),
            Kind::All => parts.iter().all(|part| state.cells[*part].finished || self.ready(*part, state, look)),
            Kind::Any => parts.iter().any(|part| state.cells[*part].finished || self.ready(*part, state, look)),
            Kind::Each => self.first_unfinished(node, state).is_some_and(|part| self.ready(part, state, look)),
            Kind::EarlyAndLate => match **parts {
                [early, ..] if !state.cells[early].finished => look.ended || self.ready(early, state, look),
                [_, late] => self.ready(late, state, look),
                _ => false,
            },
            Kind::OrFinally | Kind::Repeat => parts.iter().any(|part| self.ready(*part, state, look)),
        }
    }

    pub(super) fn fire(&self, node: usize, state: &mut TriggerState, look: Look) {
        let parts = &self.nodes[node].parts;
        match &self.nodes[node].kind {
            Kind::Default | Kind::Always => {}
            Kind::EndOfWindow | Kind::Never => state.cells[node].finished = true,
            Kind::Count(_) | Kind::ProcessingTime(_) => state.cells[node] = Cell { finished: true, value: None },
            Kind::All => {
                for part in parts {
                    self.fire(*part, state, look);
                }
                state.cells[node].finished = true;
            }
            Kind::Any => {
                for part in parts {
                    if self.ready(*part, state, look) {
                        self.fire(*part, state, look);
                    } else {
                        // The pane that it was watching is gone all the same.
                        self.clear(*part, state);
                    }
                }
                state.cells[node].finished = true;
            }
            Kind::Each => {
                if let Some(part) = self.first_unfinished(node, state) {
                    self.fire(part, state, look);
                }
                if self.merging {
                    for part in parts {
                        self.clear(*part, state);
                    }
                }
                state.cells[node].finished = self.first_unfinished(node, state).is_none();
            }
            Kind::EarlyAndLate => self.fire_early_or_late(node, state, look),
            Kind::OrFinally => {
                let (main, until) = (parts[0], parts[1]);
                if self.ready(until, state, look) {
                    self.fire(until, state, look);
                    self.clear(main, state);
                } else {
                    // What `until` has seen goes on across firings.
                    self.fire(main, state, look);
                }
                state.cells[node].finished = state.cells[main].finished || state.cells[until].finished;
            }
            Kind::Repeat => {
                self.fire(parts[0], state, look);
                if state.cells[parts[0]].finished {
                    self.reset(parts[0], state);
                }
            }
        }
    }

    /// After a firing of a part that goes on for ever: the next pane begins, with all of its parts if it had finished.
    fn begin_again(&self, node: usize, state: &mut TriggerState) {
        if state.cells[node].finished {
            self.reset(node, state);
        } else {
            self.clear(node, state);
        }
    }

    fn fire_early_or_late(&self, node: usize, state: &mut TriggerState, look: Look) {
        let (early, late) = (self.nodes[node].parts[0], self.nodes[node].parts.get(1).copied());
        if !state.cells[early].finished {
            if !look.ended {
                self.fire(early, state, look);
                self.begin_again(early, state);
                return;
            }
            if self.ready(early, state, look) {
                self.fire(early, state, look);
            }
            self.clear(early, state);
            state.cells[early].finished = true;
            match late {
                // It may have been kept up to date meanwhile: its pane begins now.
                Some(late) => self.clear(late, state),
                None => state.cells[node].finished = true,
            }
        } else if let Some(late) = late {
            self.fire(late, state, look);
            self.begin_again(late, state);
        } else {
            state.cells[node].finished = true;
        }
    }

    /// Sets `merged`, which is as at the start, to what `states` become.
    pub(super) fn unite(&self, node: usize, merged: &mut TriggerState, states: &[TriggerState], look: Look) {
        let parts = &self.nodes[node].parts;
        let finished_in_all = !states.is_empty() && states.iter().all(|state| state.cells[node].finished);
        let finished_in_any = states.iter().any(|state| state.cells[node].finished);
        let values = states.iter().filter_map(|state| state.cells[node].value);
        match &self.nodes[node].kind {
            Kind::Default | Kind::Always => {}
            Kind::Never => merged.cells[node].finished = finished_in_all,
            // Active where it is active in any window: what waits there has had no chance to fire.
            Kind::EndOfWindow => merged.cells[node].finished = finished_in_all && look.ended,
            // Enough came to one of the windows, and what is finished stays so.
            Kind::Count(_) | Kind::ProcessingTime(_) if finished_in_any => merged.cells[node].finished = true,
            Kind::Count(_) => merged.cells[node].value = values.reduce(i64::saturating_add),
            Kind::ProcessingTime(_) => merged.cells[node].value = values.min(),
            Kind::All => {
                parts.iter().for_each(|part| self.unite(*part, merged, states, look));
                merged.cells[node].finished = parts.iter().all(|part| merged.cells[*part].finished);
            }
            Kind::Any | Kind::OrFinally => {
                parts.iter().for_each(|part| self.unite(*part, merged, states, look));
                merged.cells[node].finished = parts.iter().any(|part| merged.cells[*part].finished);
            }
            Kind::Each => {
                // What follows a part that is unfinished has not started.
                for part in parts {
                    self.unite(*part, merged, states, look);
                    if !merged.cells[*part].finished {
                        break;
                    }
                }
                merged.cells[node].finished = self.first_unfinished(node, merged).is_none();
            }
            Kind::EarlyAndLate => {
                let early = parts[0];
                self.unite(early, merged, states, look);
                let early_finished = !states.is_empty() && states.iter().all(|state| state.cells[early].finished);
                merged.cells[early].finished = early_finished && look.ended;
                if merged.cells[early].finished {
                    self.clear(early, merged);
                    match parts.get(1) {
                        Some(late) => self.unite(*late, merged, states, look),
                        None => merged.cells[node].finished = finished_in_all,
                    }
                }
            }
            Kind::Repeat => self.unite(parts[0], merged, states, look),
        }
    }

    /// Forgets what a trigger and its parts know of the pane, but not which of them have finished.
    fn clear(&self, node: usize, state: &mut TriggerState) {
        state.cells[node..self.nodes[node].end].iter_mut().for_each(|cell| cell.value = None);
    }

    /// Sets a trigger and its parts back to the start.
    fn reset(&self, node: usize, state: &mut TriggerState) {
        state.cells[node..self.nodes[node].end].fill(Cell::default());
    }
}
