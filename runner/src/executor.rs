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
    /// Collects what the bundle emits, in the order of the stage's outputs; returned in [`BundleDone`].
    pub outputs: Outputs,
    /// Called exactly once, from any thread, when the bundle is over.
    pub completion: Completion,
}

/// Told once how a bundle ended.
pub type Completion = Box<dyn FnOnce(Result<BundleDone, BundleError>) + Send>;

/// An open bundle. Dropping it before [`Bundle::close`] abandons it: the completion still runs, with an error.
pub trait Bundle: Send {
    /// Hands over input elements of the stage's main input. Never blocks; the caller bounds what it pushes.
    fn push(&mut self, batch: Batch);
    /// No more input will come; the bundle may complete.
    fn close(&mut self);
}

/// A bundle that succeeded.
#[derive(Debug)]
pub struct BundleDone {
    /// Everything it emitted, per output of the stage.
    pub outputs: Outputs,
    /// Work that the SDK handed back: to be run later, as new input of the same stage.
    pub residuals: Vec<Residual>,
    /// The bundle's metrics, committed by its success.
    pub metrics: Vec<Metric>,
    /// The SDK waits to be told that the bundle's effects are durable.
    pub requires_finalization: Option<Arc<dyn Finalizer>>,
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
    /// Ferrobeam or the machine below it (a full disk).
    Runner,
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
    /// Appends encoded values to a cell.
    fn append(&self, key: &StateKey, data: Bytes) -> Result<(), StateError>;
    /// Empties a cell.
    fn clear(&self, key: &StateKey) -> Result<(), StateError>;
}

/// Part of a cell's contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatePage {
    /// Whole encoded values, concatenated.
    pub data: Bytes,
    /// Where the next page starts; empty at the end.
    pub continuation: Bytes,
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
