//! The seam between the data plane and user code: [`StageExecutor`].
//!
//! A stage operator opens a bundle, pushes encoded elements, closes it, and is told once, through the bundle's
//! completion, how it went. A bundle is atomic: nothing it produced is seen before [`BundleDone`] arrives, and a bundle
//! that failed left nothing behind, so the operator may run the same input again. The executor never calls back on the
//! operator's thread and none of its calls block.
//!
//! The harness bridge implements this over the Fn API; tests implement it in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::element::{Batch, Outputs};
use crate::metrics::Metric;
use crate::plan::{EnvironmentId, StageId};
use crate::time::Timestamp;

/// Runs bundles of the plan's stages. One for each job process, shared by its worker threads.
pub trait StageExecutor: Send + Sync + 'static {
    /// Opens a bundle. Returns at once; a stage that cannot run reports it through `request.completion`.
    fn open(&self, request: OpenBundle) -> Box<dyn Bundle>;

    /// How many bundles of `stage` one worker thread should keep open at once (at least 1).
    fn bundles_in_flight(&self, stage: StageId) -> usize;
}

/// What a bundle needs to start.
pub struct OpenBundle {
    /// The stage of the plan to run.
    pub stage: StageId,
    /// Answers the state requests of the harness for as long as the bundle is open.
    pub state: Arc<dyn StateServer>,
    /// Set for a keyed stage: which part of the keys this bundle is about. Bundles of one part never run side by side,
    /// so an executor that sends them to one harness may let that harness cache user state between them.
    pub partition: Option<usize>,
    /// Collects what the bundle emits, in the order of the stage's outputs; returned in [`BundleDone`].
    pub outputs: Outputs,
    /// Called, from any thread and before `completion`, whenever the bundle handed back work and goes on with the rest.
    pub splits: SplitSink,
    /// Called exactly once, from any thread, when the bundle is over.
    pub completion: Completion,
}

/// Told of every split of a bundle, in their order.
pub type SplitSink = Box<dyn Fn(Split) + Send + Sync>;

/// Told once how a bundle ended.
pub type Completion = Box<dyn FnOnce(Result<BundleDone, BundleError>) + Send>;

/// An open bundle. Dropping it before [`Bundle::close`] abandons it: the completion still runs, with an error.
pub trait Bundle: Send {
    /// Hands over input elements of the stage's main input. Never blocks; the caller bounds what it pushes.
    fn push(&mut self, batch: Batch);
    /// Fires timers of one of the stage's families ([`crate::plan::Stage::timer_families`], by index): whole encoded
    /// timers, in the order in which they fire. Never blocks.
    fn push_timers(&mut self, family: usize, timers: Bytes);
    /// No more input will come; the bundle may complete.
    fn close(&mut self);
    /// Asks the SDK to keep no more than `fraction` of the work that remains and to hand back the rest, which
    /// [`OpenBundle::splits`] is then told: 0 ends the bundle as soon as the SDK can. Best effort, for stages without
    /// keys, after [`Bundle::close`]; never blocks. Elements that were not begun come back whole; those of splittable
    /// stages also in parts.
    fn split(&mut self, fraction: f64);
}

/// How a bundle was split: from now on it stands for less input, also if it fails and is run again. Elements are those
/// that were pushed in this run, counted from 0.
#[derive(Clone, Debug)]
pub struct Split {
    /// How many elements, from the first on, it still does whole.
    pub whole: usize,
    /// What it keeps of the element after them: encoded windowed values of the stage's input, to be given to it in place
    /// of that element. Those of an earlier split no longer count.
    pub parts: Vec<Bytes>,
    /// What it handed back of that element.
    pub residuals: Vec<Residual>,
    /// The first element that it does nothing of, nor of any behind it.
    pub rest: usize,
}

/// A bundle that succeeded.
#[derive(Debug)]
pub struct BundleDone {
    /// Everything it emitted, per output of the stage.
    pub outputs: Outputs,
    /// Work that the SDK left by its own will: to be run later, as new input of the same stage.
    pub residuals: Vec<Residual>,
    /// Timers that it set or cleared, in the order in which they came.
    pub timers: Vec<TimerBatch>,
    /// The bundle's metrics, committed by its success.
    pub metrics: Vec<Metric>,
    /// The SDK waits to be told that the bundle's effects are durable.
    pub requires_finalization: Option<Arc<dyn Finalizer>>,
}

/// Timers that a bundle set or cleared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerBatch {
    /// Index in [`crate::plan::Stage::timer_families`].
    pub family: usize,
    /// Whole encoded timers, concatenated.
    pub timers: Bytes,
}

/// Tells the SDK that the effects of a bundle are durable (`FinalizeBundleRequest`).
pub trait Finalizer: Send + Sync + std::fmt::Debug {
    /// Best effort; never blocks.
    fn finalize(&self);
}

/// A part of a splittable element that was not processed.
#[derive(Clone, Debug)]
pub struct Residual {
    /// One encoded windowed value of the stage's input.
    pub element: Bytes,
    /// How long the SDK asks to wait before it is resumed.
    pub delay: Duration,
    /// The output watermark that the residual holds back, if the SDK said.
    pub hold: Option<Timestamp>,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The pipeline's own code.
    User,
    /// The environment that runs it: a harness that died, never came, or spoke nonsense.
    Environment,
    /// Ferrobeam or the machine below it (a full disk), or what it talks to (a broker that does not answer): it may pass.
    Runner,
    /// What the job reads or writes is not as it must be, and only its owner can say what is to be done (records that are gone).
    Owner,
}

/// Why a bundle failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct BundleError {
    /// Whose fault it is.
    pub fault: Fault,
    /// Whether running the same input again may succeed.
    pub retry: bool,
    /// For the user: for [`Fault::User`] the SDK's own stack trace comes first.
    pub message: String,
    /// The environment concerned, if one is.
    pub environment: Option<EnvironmentId>,
}

/// Answers the state requests of a bundle. Called from the executor's threads; may read from disk.
pub trait StateServer: Send + Sync {
    /// One page of a cell, from `continuation` on (empty: from the start).
    fn get(&self, key: &StateKey, continuation: &[u8]) -> Result<StatePage, StateError>;
    /// One page of the entries of a multimap, from `continuation` on, as they are kept: for one whose values only their SDK
    /// can count ([`crate::plan::StateCell::entries`]).
    fn uncounted(&self, key: &StateKey, _continuation: &[u8]) -> Result<UncountedPage, StateError> {
        Err(StateError::Unsupported(format!("{key:?} is no multimap")))
    }
    /// Appends encoded values to a cell.
    fn append(&self, key: &StateKey, data: Bytes) -> Result<(), StateError>;
    /// Empties a cell.
    fn clear(&self, key: &StateKey) -> Result<(), StateError>;
    /// For each side input of the stage, in the plan's order, a number that is another one whenever the bundle may find
    /// something else there than bundles before it did. Empty: nothing ever changes.
    fn side_input_versions(&self) -> Vec<u64> {
        Vec::new()
    }
}

/// Part of a cell's contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatePage {
    /// Whole encoded values, concatenated.
    pub data: Bytes,
    /// Where the next page starts; empty at the end.
    pub continuation: Bytes,
}

/// Part of the entries of a multimap, the values of a key not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UncountedPage {
    /// The entries. A key may be there several times, each time with some of its values.
    pub entries: Vec<UncountedEntry>,
    /// Where the next page starts; empty at the end.
    pub continuation: Bytes,
}

/// Values of one key of a multimap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UncountedEntry {
    /// The key, encoded.
    pub key: Bytes,
    /// Whole encoded values, concatenated.
    pub values: Bytes,
}

/// What a state request names (`StateKey` of the Fn API). Keys and windows are in their nested encoding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StateKey {
    /// A value that the runner sent by reference: the rest of an iterable.
    Runner {
        /// The token that the runner made.
        key: Bytes,
    },
    /// All values of a side input in a window.
    IterableSideInput {
        /// The transform that reads it, as named in the bundle descriptor.
        transform: String,
        /// The side input's local name.
        side_input: String,
        /// The side input's window.
        window: Bytes,
    },
    /// The values of one key of a side input in a window.
    MultimapSideInput {
        /// The transform that reads it.
        transform: String,
        /// The side input's local name.
        side_input: String,
        /// The side input's window.
        window: Bytes,
        /// The key.
        key: Bytes,
    },
    /// The keys of a side input in a window.
    MultimapKeysSideInput {
        /// The transform that reads it.
        transform: String,
        /// The side input's local name.
        side_input: String,
        /// The side input's window.
        window: Bytes,
    },
    /// All entries of a side input in a window: each key once, followed by an iterable of its values.
    MultimapKeysValuesSideInput {
        /// The transform that reads it.
        transform: String,
        /// The side input's local name.
        side_input: String,
        /// The side input's window.
        window: Bytes,
    },
    /// A cell of a DoFn's state, or a part of one.
    User {
        /// The transform whose state it is, as named in the bundle descriptor.
        transform: String,
        /// The name of the cell's specification.
        state: String,
        /// The window.
        window: Bytes,
        /// The key of the element.
        key: Bytes,
        /// What of the cell is meant.
        part: CellPart,
    },
}

/// What of a cell of user state a request is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CellPart {
    /// All of a bag; single values and accumulators are bags of one (`bag_user_state`).
    Bag,
    /// The values of one key of a multimap; `clear` and `append` too (`multimap_user_state`).
    MapValues(Bytes),
    /// The keys of a multimap; `clear` empties the whole cell (`multimap_keys_user_state`).
    MapKeys,
    /// All entries of a multimap: each key, then an iterable of its values (`multimap_entries_user_state`).
    MapEntries,
    /// The entries of an ordered list whose sort keys are in `start..end`; `clear` removes them, `append` takes entries
    /// of any sort key (`ordered_list_user_state`).
    OrderedRange {
        /// The first sort key.
        start: i64,
        /// The first sort key that is not meant.
        end: i64,
    },
}

/// Why a state request was not answered; becomes `StateResponse.error`.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StateError {
    /// The request names nothing that the bundle may read.
    #[error("state request for {0}, which this stage does not have")]
    Unknown(String),
    /// The kind of access is not supported for this cell.
    #[error("{0}")]
    Unsupported(String),
    /// Reading spilled data failed.
    #[error("reading spilled data: {0}")]
    Storage(String),
}
