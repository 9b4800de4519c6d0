//! [`GroupBuffer`]: takes values one by one, spills when the budget says so.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::groups::Groups;
use super::run::{FAN_IN, Head, Merge, Run, RunWriter};
use super::table::{GrowingTable, Table};
use crate::memory::Budget;
use crate::time::Timestamp;

/// Gathers values by key and window. See the module.
#[derive(Debug)]
pub struct GroupBuffer {
    budget: Budget,
    table: GrowingTable,
    spilled: Option<Spilled>,
}

/// Runs, all in one file.
#[derive(Debug)]
struct Spilled {
    writer: RunWriter,
    runs: Vec<Run>,
}

/// What a buffer became: for tables that are looked up.
#[derive(Debug)]
pub(crate) enum Frozen {
    /// Everything is in memory.
    Memory(Arc<Table>),
    /// Everything is in one sorted run.
    Disk(Run),
}

impl GroupBuffer {
    /// An empty buffer.
    pub fn new(budget: &Budget) -> GroupBuffer {
        GroupBuffer { budget: budget.clone(), table: GrowingTable::new(budget.reserve()), spilled: None }
    }

    /// Adds an encoded value to a group.
    #[inline]
    pub fn add(&mut self, key: &[u8], window: &[u8], timestamp: Timestamp, value: &[u8]) -> io::Result<()> {
        while !self.table.add(key, window, timestamp, value) {
            self.spill()?;
        }
        Ok(())
    }

    /// Bytes reserved of the budget.
    pub fn bytes_in_memory(&self) -> usize {
        self.table.reservation().held()
    }

    /// The number of runs written so far.
    pub fn runs(&self) -> usize {
        self.spilled.as_ref().map_or(0, |spilled| spilled.runs.len())
    }

    #[cold]
    fn spill(&mut self) -> io::Result<()> {
        let empty = GrowingTable::new(self.budget.reserve());
        let table = std::mem::replace(&mut self.table, empty).seal();
        let spilled = match &mut self.spilled {
            Some(spilled) => spilled,
            none => none.insert(Spilled { writer: RunWriter::create(&self.budget)?, runs: Vec::new() }),
        };
        let run = spilled.writer.write_table(&table)?;
        spilled.runs.push(run);
        Ok(())
    }

    /// Ends the input and gives the groups.
    pub fn finish(mut self) -> io::Result<Groups> {
        if self.spilled.is_none() {
            return Ok(Groups::memory(self.table.seal()));
        }
        let runs = self.merge_runs(FAN_IN)?;
        Ok(Groups::merge(Merge::new(&runs)?))
    }

    /// Ends the input for lookups. When it was spilled, `visit` is told of each record of the one run that is left, and
    /// where it starts.
    pub(crate) fn freeze(mut self, visit: impl FnMut(&Head, u64)) -> io::Result<Frozen> {
        if self.spilled.is_none() {
            return Ok(Frozen::Memory(Arc::new(self.table.seal())));
        }
        let budget = self.budget.clone();
        let runs = self.merge_runs(FAN_IN)?;
        Ok(Frozen::Disk(RunWriter::create(&budget)?.merge(&runs, visit)?))
    }

    /// Spills what is left, and merges until there are at most `limit` runs: only as many as it takes, the oldest
    /// first. A file is gone when all its runs are merged.
    fn merge_runs(&mut self, limit: usize) -> io::Result<Vec<Run>> {
        if !self.table.is_empty() {
            self.spill()?;
        }
        let mut runs: VecDeque<Run> = self.spilled.take().map_or_else(Vec::new, |spilled| spilled.runs).into();
        while runs.len() > limit {
            let count = limit.min(runs.len() - limit + 1);
            let oldest: Vec<Run> = runs.drain(..count).collect();
            runs.push_back(RunWriter::create(&self.budget)?.merge(&oldest, |_, _| {})?);
        }
        Ok(runs.into())
    }
}
