//! The control protocol between the service, its agents and its job processes: `ferrobeam.control.v1`.

mod convert;
mod joined;
mod lease;
mod savepoints;
mod service;

pub(crate) use convert::part;
pub use joined::{JoinError, join};
pub(crate) use lease::leased;
pub use savepoints::SavepointService;
pub use service::ControlService;

/// Generated messages and services.
#[allow(missing_docs, unused_qualifications, unreachable_pub, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("ferrobeam.control.v1");
}
