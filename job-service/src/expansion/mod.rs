//! The expansion service: Kafka's transforms, by the names that SDKs have for them, as transforms that the runner runs itself.
//!
//! What SDKs send, and what an answer must hold to arrive, was measured with Python and Go 2.77.0:
//!
//! - Fields of a configuration have neither ids nor positions: only their order in the schema counts. Python names them in
//!   snake_case, Go in CamelCase.
//! - A read is one leaf without an environment. A write is a composite without outputs around a leaf with one output, in
//!   which nothing is: Python drops a leaf without outputs before it submits the pipeline, and says nothing.
//! - Ids begin with the namespace of the request. A windowing strategy without it is dropped by Python.
//! - Coders must be among those that Python knows, because it decodes and writes them anew.
//! - Rows of equal schema ids have equal fields, for as long as Python's process lives.

mod configuration;
mod graph;
mod managed;
mod proto;
mod recognise;
mod service;
mod transforms;

#[cfg(test)]
mod tests;

pub use recognise::{Recognised, recognise};
pub use service::KafkaExpansion;
