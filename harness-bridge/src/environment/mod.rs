//! Environments: how the harnesses of each are started, kept, replaced and stopped.
//!
//! An environment says in its URN how to start it; [`launcher`] reads that, [`pool`] keeps as many harnesses as the
//! SDK needs and replaces those that die. A harness is always a fresh start under a fresh id: SDKs (Go) refuse an id
//! that they have seen.

mod external;
mod launcher;
mod output;
mod pool;
mod process;
mod residence;
mod slot;
mod user_state_cache;

pub(crate) use pool::{Lease, Pool};
pub use process::WORK_DIR_VARIABLE;
pub(crate) use residence::{Entered, Residences, Stay};
pub(crate) use user_state_cache::UserStateCache;
