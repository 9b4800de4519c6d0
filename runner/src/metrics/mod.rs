//! Metrics as the protocol carries them, merged by type.

use std::collections::BTreeMap;

use bytes::Bytes;

/// One metric value: a `MonitoringInfo` of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// What is measured.
    pub urn: String,
    /// How the payload is encoded and merged.
    pub type_urn: String,
    /// What it is measured of: transform, PCollection, name.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub payload: Bytes,
}
