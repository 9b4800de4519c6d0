//! What a stage's bundles may read through the state API.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::Job;
use super::group::is_state_backed;
use crate::executor::{StateError, StateKey, StatePage, StateServer, UncountedPage};
use crate::grouping::{References, StoredIterables};
use crate::plan::StageId;
use crate::side_input::{GrowingTable, SideInputTable, View};
use crate::state::BundleState;

/// The table of a side input.
#[derive(Clone, Debug)]
pub(crate) enum Table {
    /// Read once it is whole.
    Whole(Arc<SideInputTable>),
    /// Read while it grows.
    Growing(Arc<GrowingTable>),
}

/// A side input as bundles read it.
#[derive(Clone, Debug)]
enum Reader {
    Whole(Arc<SideInputTable>),
    Growing(Arc<View>),
}

/// What is read by a request, besides the window.
enum Wanted<'a> {
    Values,
    ValuesOf(&'a [u8]),
    Keys,
    Entries,
}

/// Serves one stage: makes what serves its bundles.
#[derive(Clone)]
pub(crate) struct StageState {
    /// In the order of the plan.
    tables: Arc<[Table]>,
    /// By transform and local name, as harnesses ask for them.
    names: Arc<HashMap<(String, String), usize>>,
    iterables: Arc<StoredIterables>,
}

/// Serves the side inputs of a stage, the large groups of the process, and perhaps user state, to a bundle.
#[derive(Clone)]
pub(crate) struct StageBundle {
    stage: StageState,
    side_inputs: Vec<Reader>,
    /// What a bundle of a keyed stage sees of its state.
    user: Option<Arc<BundleState>>,
}

impl StageState {
    /// The side inputs by transform and local name, in the order of the plan.
    pub(crate) fn new(
        side_inputs: impl IntoIterator<Item = ((String, String), Table)>,
        iterables: Arc<StoredIterables>,
    ) -> StageState {
        let (names, tables): (Vec<_>, Vec<_>) = side_inputs.into_iter().unzip();
        let names = names.into_iter().zip(0..).collect();
        StageState { tables: tables.into(), names: Arc::new(names), iterables }
    }

    /// The iterables that the input of a stage of `job` may go on in, if it may.
    pub(crate) fn references(&self, job: &Job, stage: StageId) -> Option<References> {
        let input = job.plan.stages[stage.0 as usize].input.collection;
        let may = is_state_backed(&job.plan.collections[input.0 as usize].value);
        may.then(|| References::new(Arc::clone(&self.iterables)))
    }

    /// What serves a bundle that opens now.
    pub(crate) fn bundle(&self, user: Option<Arc<BundleState>>) -> Arc<dyn StateServer> {
        let side_inputs = self.tables.iter().map(|table| match table {
            Table::Whole(table) => Reader::Whole(Arc::clone(table)),
            Table::Growing(table) => Reader::Growing(Arc::new(table.view())),
        });
        Arc::new(StageBundle { stage: self.clone(), side_inputs: side_inputs.collect(), user })
    }
}

impl StageBundle {
    fn user(&self, key: &StateKey) -> Result<&BundleState, StateError> {
        self.user.as_deref().ok_or_else(|| StateError::Unknown(format!("user state {key:?}")))
    }

    fn read(
        &self,
        (transform, side_input): (&str, &str),
        window: &[u8],
        wanted: &Wanted<'_>,
        continuation: &[u8],
    ) -> Result<StatePage, StateError> {
        let index = self.stage.names.get(&(transform.to_string(), side_input.to_string()));
        let reader = index.and_then(|index| self.side_inputs.get(*index));
        match (reader, wanted) {
            (Some(Reader::Whole(table)), Wanted::Values) => table.values(window, continuation),
            (Some(Reader::Whole(table)), Wanted::ValuesOf(key)) => table.values_of(window, key, continuation),
            (Some(Reader::Whole(table)), Wanted::Keys) => table.keys(window, continuation),
            (Some(Reader::Whole(table)), Wanted::Entries) => table.entries(window, continuation),
            (Some(Reader::Growing(view)), Wanted::Values) => view.values(window, continuation),
            (Some(Reader::Growing(view)), Wanted::ValuesOf(key)) => view.values_of(window, key, continuation),
            (Some(Reader::Growing(view)), Wanted::Keys) => view.keys(window, continuation),
            (Some(Reader::Growing(view)), Wanted::Entries) => view.entries(window, continuation),
            (None, _) => Err(StateError::Unknown(format!("side input {side_input:?} of transform {transform:?}"))),
        }
    }
}

impl StateServer for StageBundle {
    fn get(&self, key: &StateKey, continuation: &[u8]) -> Result<StatePage, StateError> {
        match key {
            StateKey::Runner { key } => self.stage.iterables.get(key, continuation),
            StateKey::IterableSideInput { transform, side_input, window } => {
                self.read((transform, side_input), window, &Wanted::Values, continuation)
            }
            StateKey::MultimapSideInput { transform, side_input, window, key } => {
                self.read((transform, side_input), window, &Wanted::ValuesOf(key), continuation)
            }
            StateKey::MultimapKeysSideInput { transform, side_input, window } => {
                self.read((transform, side_input), window, &Wanted::Keys, continuation)
            }
            StateKey::MultimapKeysValuesSideInput { transform, side_input, window } => {
                self.read((transform, side_input), window, &Wanted::Entries, continuation)
            }
            StateKey::User { .. } => self.user(key)?.get(key, continuation),
        }
    }

    fn uncounted(&self, key: &StateKey, continuation: &[u8]) -> Result<UncountedPage, StateError> {
        self.user(key)?.uncounted(key, continuation)
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

    fn side_input_versions(&self) -> Vec<u64> {
        let version = |reader: &Reader| match reader {
            Reader::Whole(_) => 0,
            Reader::Growing(view) => view.version(),
        };
        self.side_inputs.iter().map(version).collect()
    }
}
