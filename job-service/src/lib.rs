//! The job service: takes jobs over Beam's Job API and owns each one's whole life.
//!
//! One [`Service`] listens. [`job`] keeps the records, [`api`] and [`artifacts`] answer clients, [`supervisor`] runs jobs
//! on [`agent`]s, and each job runs in [`process`]es of its own, which talk to the service over [`control`]. What a job
//! does with its plan is `ferrobeam-runner`'s business, and how it talks to SDK harnesses `ferrobeam-harness-bridge`'s.
//!
//! Failure model. Nothing that a client sends, a job does or a job process suffers ends the service or another job. A
//! service with a storage keeps its jobs there, and the next one goes on with them ([`recovery`]); of one without, the
//! jobs go with it.

pub mod agent;
pub mod api;
pub mod artifacts;
pub mod checkpoint;
pub mod control;
pub mod expansion;
pub mod job;
mod metrics;
pub mod options;
pub mod planning;
pub mod process;
pub mod recovery;
mod serve;
pub mod supervisor;
mod temporary;

pub use serve::{ServeError, Service, ServiceConfig, default_memory};
pub use temporary::{TempError, TempRoot};
