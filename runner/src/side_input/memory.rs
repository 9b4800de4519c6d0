//! A side input that is in memory.

use std::sync::Arc;

use crate::executor::StateError;
use crate::grouping::{Table, Values};

/// Groups by window and key; positions are indices of groups.
#[derive(Debug)]
pub(super) struct Memory {
    table: Arc<Table>,
}

impl Memory {
    pub(super) fn new(table: Arc<Table>) -> Memory {
        Memory { table }
    }

    pub(super) fn find(&self, window: &[u8], key: &[u8]) -> Option<Values> {
        let group = self.table.find_group(self.table.find_key(window)?, key)?;
        Some(Values::in_table(Arc::clone(&self.table), group))
    }

    /// Calls `add` with key, count and values of a window's groups, from `position` on, until it returns false: then
    /// the position of that group.
    pub(super) fn groups(
        &self,
        window: &[u8],
        position: Option<u64>,
        mut add: impl FnMut(&[u8], u64, &Values) -> Result<bool, StateError>,
    ) -> Result<Option<u64>, StateError> {
        let mut next = match position {
            Some(group) => Some(group as usize),
            None => self.table.find_key(window).map(|key| self.table.first_group(key)),
        };
        while let Some(group) = next {
            let values = Values::in_table(Arc::clone(&self.table), group);
            if !add(&self.table.window(group), self.table.totals(group).count, &values)? {
                return Ok(Some(group as u64));
            }
            next = self.table.next_group(group);
        }
        Ok(None)
    }
}
