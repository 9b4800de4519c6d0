//! The Fn API side of a job process: the servers that SDK harnesses dial, the environments that run them, and the
//! bundles that they process.
//!
//! A [`Bridge`] serves one plan. It starts the environments of the plan's stages, and gives the dataflow a
//! [`StageExecutor`](ferrobeam_runner::executor::StageExecutor) over their harnesses. Wire types stop here.
//!
//! Who may fail, and what follows: user code fails its bundle, with the SDK's stack trace; a harness that dies, hangs at
//! its start or speaks nonsense fails the bundles it had and is replaced, under a new id, a bounded number of times; an
//! environment that cannot be kept running fails every bundle of it, with what was tried. One call's bad input never
//! reaches another harness.
//!
//! One port serves everything, because a harness behind a firewall then needs one hole, and because nothing is gained by
//! more: the streams do not share flow control beyond the connection, whose window is large. Rejected: blocking the
//! data stream while a bundle's consumer is slow. Bundles share that stream, so one that waits for another would hang
//! both; outputs spill to disk instead.

mod bridge;
mod bundle;
mod config;
mod environment;
mod error;
mod harness;
mod log;
mod monitoring;
mod progress;
mod server;
mod shared;
mod stage;
mod state_key;
mod tasks;
mod test_events;
#[cfg(test)]
mod tests;

pub use bridge::{Bridge, RunningBundle};
pub use config::{ArtifactBytes, ArtifactError, ArtifactSource, BridgeConfig};
pub use environment::WORK_DIR_VARIABLE;
pub use error::{BridgeError, EnvironmentError};
pub use log::{HarnessLog, LogSink, Severity};
pub use test_events::TestStreamServices;
