//! What a stage's bundles may read through the state API.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::executor::{StateError, StateKey, StatePage, StateServer};
use crate::grouping::StoredIterables;
use crate::side_input::SideInputTable;

/// Serves the side inputs of one stage and the large groups of the process.
pub(crate) struct StageState {
    /// By transform and local name, as harnesses ask for them.
    side_inputs: HashMap<(String, String), Arc<SideInputTable>>,
    iterables: Arc<StoredIterables>,
}

impl StageState {
    pub(crate) fn new(
        side_inputs: HashMap<(String, String), Arc<SideInputTable>>,
        iterables: Arc<StoredIterables>,
    ) -> StageState {
        StageState { side_inputs, iterables }
    }

    fn table(&self, transform: &str, side_input: &str) -> Result<&SideInputTable, StateError> {
        self.side_inputs
            .get(&(transform.to_string(), side_input.to_string()))
            .map(Arc::as_ref)
            .ok_or_else(|| StateError::Unknown(format!("side input {side_input:?} of transform {transform:?}")))
    }
}

impl StateServer for StageState {
    fn get(&self, key: &StateKey, continuation: &[u8]) -> Result<StatePage, StateError> {
        match key {
            StateKey::Runner { key } => self.iterables.get(key, continuation),
            StateKey::IterableSideInput { transform, side_input, window } => {
                self.table(transform, side_input)?.values(window, continuation)
            }
            StateKey::MultimapSideInput { transform, side_input, window, key } => {
                self.table(transform, side_input)?.values_of(window, key, continuation)
            }
            StateKey::MultimapKeysSideInput { transform, side_input, window } => {
                self.table(transform, side_input)?.keys(window, continuation)
            }
            StateKey::MultimapKeysValuesSideInput { transform, side_input, window } => {
                self.table(transform, side_input)?.entries(window, continuation)
            }
            StateKey::User { .. } => Err(StateError::Unknown(format!("user state {key:?}"))),
        }
    }

    fn append(&self, key: &StateKey, _data: Bytes) -> Result<(), StateError> {
        Err(StateError::Unsupported(format!("{key:?} cannot be appended to: it is the runner's")))
    }

    fn clear(&self, key: &StateKey) -> Result<(), StateError> {
        Err(StateError::Unsupported(format!("{key:?} cannot be cleared: it is the runner's")))
    }
}
