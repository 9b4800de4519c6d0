//! Metrics as the protocol carries them, merged by type.
//!
//! A bundle that succeeds commits what it counted; values with the same name, type and labels become one. How is up to
//! the type (see [`value`]). A value whose payload does not decode, or whose type is unknown, is kept as it came last:
//! a metric that cannot be added up must not fail a job.

mod trie;
mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use ferrobeam_proto::urns::monitoring_info_specs::USER_SUM_INT64;

use crate::element::put_varint;
use value::Value;

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

impl Metric {
    /// A counter of the runner's own, which users find beside those of the transform `transform` (its id).
    pub fn counter(transform: &str, namespace: &str, name: &str, count: u64) -> Metric {
        let mut payload = Vec::new();
        put_varint(&mut payload, count);
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Metric {
            urn: USER_SUM_INT64.urn.to_owned(),
            type_urn: USER_SUM_INT64.type_urn.to_owned(),
            labels: BTreeMap::from([
                label("PTRANSFORM", transform),
                label("NAMESPACE", namespace),
                label("NAME", name),
            ]),
            payload: payload.into(),
        }
    }
}

/// What tells metrics apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    urn: String,
    labels: BTreeMap<String, String>,
    type_urn: String,
}

/// The committed metrics of a job, or of a part of it. Shared by all threads of a process.
#[derive(Debug, Default)]
pub struct Metrics {
    values: Mutex<BTreeMap<Key, Value>>,
}

impl Metrics {
    /// No metrics yet.
    pub fn new() -> Metrics {
        Metrics::default()
    }

    /// Adds the metrics of a bundle that succeeded.
    pub fn commit(&self, metrics: Vec<Metric>) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        for Metric { urn, type_urn, labels, payload } in metrics {
            let value = Value::decode(&type_urn, payload);
            match values.entry(Key { urn, labels, type_urn }) {
                Entry::Vacant(entry) => {
                    entry.insert(value);
                }
                Entry::Occupied(mut entry) => {
                    if let Err(mismatch) = entry.get_mut().merge(value) {
                        let Key { urn, type_urn, labels } = entry.key();
                        tracing::debug!(%urn, %type_urn, ?labels, "metric cannot be merged, keeping the last: {mismatch}");
                    }
                }
            }
        }
    }

    /// All metrics, in the order of their names and labels.
    pub fn snapshot(&self) -> Vec<Metric> {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let metric = |(key, value): (&Key, &Value)| Metric {
            urn: key.urn.clone(),
            type_urn: key.type_urn.clone(),
            labels: key.labels.clone(),
            payload: value.encode(),
        };
        values.iter().map(metric).collect()
    }

    /// Adds the metrics of another part of the job, as it reported them ([`Metrics::snapshot`]). A report covers
    /// everything since the start of that part, so the newest of each part is to be merged into a fresh sum.
    pub fn merge(&self, snapshot: &[Metric]) {
        self.commit(snapshot.to_vec());
    }
}
