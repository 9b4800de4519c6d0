//! Checkpoints: what the operators of a job save as an epoch ends, and start from again.
//!
//! # The protocol, inside a process
//!
//! [`Checkpoints::begin`] names an epoch. The sources step to it at once; every other operator steps when its input has,
//! and all that belongs to the epochs before is done or carried. As it steps it hands over what it keeps
//! ([`Saver::border`]), frozen: the worker thread copies nothing, a thread of this module's writes. When every operator of
//! every worker of the process has stepped and all is written, [`CheckpointObserver::saved`] is told. So checkpoint `n` holds
//! all effects of epochs before `n` and nothing of `n` or later ones, on every operator.
//!
//! Whoever owns the job makes the parts of all processes one checkpoint, and says so by [`Checkpoints::committed`]: only
//! then come the effects that must not be undone, such as bundle finalization. [`Checkpoints::aborted`] gives up; the
//! epoch goes on all the same, and its effects wait for the next checkpoint.
//!
//! # What is saved
//!
//! One [`Part`] an operator and worker, in a folder of its own: see [`part`]. Parts are known by the name of their
//! operator, which comes from the pipeline's own names and from no position in it, and by the key groups of their worker.
//!
//! # Where it is not
//!
//! This module writes to local folders only. Object stores, manifests and whether a checkpoint is complete are its
//! caller's, who also decides when one is begun.

mod handle;
pub(crate) mod names;
pub mod part;
mod restore;

pub use handle::{CheckpointObserver, Checkpoints};
pub(crate) use handle::{Frozen, Saver};
pub use names::Renames;
pub(crate) use part::{CarriedBatch, CarriedWriter};
pub use part::{CellName, HEAD, Part, PartHead, PartKind, SavedSink};
pub(crate) use restore::Restored;
pub use restore::{Restore, RestoreError};
