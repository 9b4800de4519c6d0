//! The Fn API side of a job process.

mod config;
mod log;

pub use config::{ArtifactBytes, ArtifactError, ArtifactSource, BridgeConfig};
pub use log::{HarnessLog, LogSink, Severity};
