//! What a stage's bundles may read through the state API.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::executor::{StateError, StateKey, StatePage, StateServer};
use crate::grouping::StoredIterables;
use crate::side_input::SideInputTable;
use crate::state::BundleState;

/// Serves the side inputs of one stage and the large groups of the process.
#[derive(Clone)]
pub(crate) struct StageState {
    /// By transform and local name, as harnesses ask for them.
    side_inputs: Arc<HashMap<(String, String), Arc<SideInputTable>>>,
    iterables: Arc<StoredIterables>,
    /// What one bundle of a keyed stage sees of its state.
    user: Option<Arc<BundleState>>,
}

impl StageState {
    pub(crate) fn new(
        side_inputs: HashMap<(String, String), Arc<SideInputTable>>,
        iterables: Arc<StoredIterables>,
    ) -> StageState {
        StageState { side_inputs: Arc::new(side_inputs), iterables, user: None }
    }

    /// The same, with the user state of one bundle.
    pub(crate) fn with_user_state(&self, user: Arc<BundleState>) -> StageState {
        StageState { user: Some(user), ..self.clone() }
    }

    fn user(&self, key: &StateKey) -> Result<&BundleState, StateError> {
        self.user.as_deref().ok_or_else(|| StateError::Unknown(format!("user state {key:?}")))
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
            StateKey::User { .. } => self.user(key)?.get(key, continuation),
        }
    }

    fn append(&self, key: &StateKey, data: Bytes) -> Result<(), StateError> {
        if let StateKey::User { .. } = key {
            return self.user(key)?.append(key, data);
        }
        Err(StateError::Unsupported(format!("{key:?} cannot be appended to: it is the runner's")))
    }

    fn clear(&self, key: &StateKey) -> Result<(), StateError> {
        if let StateKey::User { .. } = key {
            return self.user(key)?.clear(key);
        }
        Err(StateError::Unsupported(format!("{key:?} cannot be cleared: it is the runner's")))
    }
}
