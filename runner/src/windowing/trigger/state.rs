//! What a trigger remembers of one window.

use super::{Kind, TriggerMachine};
use crate::element::{get_varint, put_varint};

/// What a trigger remembers of one window: for each part of it whether it has finished, and what it counts or waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TriggerState {
    pub(super) cells: Vec<Cell>,
}

/// What one part of a trigger remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) finished: bool,
    /// The number of elements, or the processing time that is waited for.
    pub(super) value: Option<i64>,
}

/// Bytes that are no state of the trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored state of a trigger is damaged, or that of another trigger")]
pub struct DamagedState;

const FINISHED: u64 = 1;
const VALUE: u64 = 2;

impl TriggerMachine {
    /// The state of a window before its first element.
    pub fn start(&self) -> TriggerState {
        TriggerState { cells: vec![Cell::default(); self.nodes.len()] }
    }

    /// Forgets all of the state but that the trigger has finished.
    pub fn close(&self, state: &mut TriggerState) {
        state.cells.fill(Cell::default());
        state.cells[0].finished = true;
    }

    /// Appends `state`: nothing for one that is as at the start, else for each part a varint of flags, then its value.
    pub fn encode(&self, state: &TriggerState, out: &mut Vec<u8>) {
        if state.cells.iter().all(|cell| *cell == Cell::default()) {
            return;
        }
        for cell in &state.cells {
            let flags = if cell.finished { FINISHED } else { 0 } | if cell.value.is_some() { VALUE } else { 0 };
            put_varint(out, flags);
            if let Some(value) = cell.value {
                put_varint(out, value as u64);
            }
        }
    }

    /// Reads `bytes`, which are one encoded state and nothing else.
    pub fn decode(&self, mut bytes: &[u8]) -> Result<TriggerState, DamagedState> {
        let mut state = self.start();
        if bytes.is_empty() {
            return Ok(state);
        }
        let mut next = || -> Result<u64, DamagedState> {
            let (value, size) = get_varint(bytes).map_err(|_| DamagedState)?;
            bytes = &bytes[size..];
            Ok(value)
        };
        for (node, cell) in self.nodes.iter().zip(&mut state.cells) {
            let flags = next()?;
            cell.finished = flags & FINISHED != 0;
            if flags & VALUE != 0 {
                cell.value = Some(next()? as i64);
            }
            let may_have_value = matches!(node.kind, Kind::Count(_) | Kind::ProcessingTime(_));
            if flags > FINISHED | VALUE || cell.value.is_some() && !may_have_value {
                return Err(DamagedState);
            }
        }
        if bytes.is_empty() { Ok(state) } else { Err(DamagedState) }
    }
}
