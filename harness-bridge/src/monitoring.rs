//! Metrics at the door: from monitoring infos, whole or by short id, to [`Metric`]s.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ferrobeam_proto::fn_execution::MonitoringInfosMetadataRequest;
use ferrobeam_proto::fn_execution::instruction_request::Request;
use ferrobeam_proto::fn_execution::instruction_response::Response;
use ferrobeam_proto::pipeline::MonitoringInfo;
use ferrobeam_runner::metrics::Metric;

use crate::harness::Harness;

/// What one harness means by its short ids. A short id means the same as long as the harness lives.
#[derive(Debug, Default)]
pub(crate) struct ShortIds {
    known: Mutex<HashMap<String, Arc<MonitoringInfo>>>,
}

/// The metrics of a response, which carries them whole, or by short id, or (Python) both ways at once.
pub(crate) async fn resolve(
    harness: &Harness,
    infos: Vec<MonitoringInfo>,
    data: BTreeMap<String, Bytes>,
) -> Result<Vec<Metric>, String> {
    if !infos.is_empty() || data.is_empty() {
        return Ok(infos.into_iter().map(from_proto).collect());
    }
    let ids = &harness.short_ids;
    let unknown = ids.unknown(&data);
    if !unknown.is_empty() {
        let request = Request::MonitoringInfos(MonitoringInfosMetadataRequest { monitoring_info_id: unknown });
        let response = harness.ask(request).await?;
        match response.response {
            Some(Response::MonitoringInfos(answer)) => ids.learn(answer.monitoring_info),
            _ => return Err(format!("{harness} did not say what its short metric ids mean: {}", response.error)),
        }
    }
    let known = ids.known.lock().unwrap_or_else(PoisonError::into_inner);
    data.into_iter()
        .map(|(id, payload)| match known.get(&id) {
            Some(info) => Ok(Metric {
                urn: info.urn.clone(),
                type_urn: info.r#type.clone(),
                labels: info.labels.clone(),
                payload,
            }),
            None => Err(format!("{harness} reported a metric under the short id {id:?}, which it cannot explain")),
        })
        .collect()
}

impl ShortIds {
    fn unknown(&self, data: &BTreeMap<String, Bytes>) -> Vec<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        data.keys().filter(|id| !known.contains_key(*id)).cloned().collect()
    }

    fn learn(&self, infos: BTreeMap<String, MonitoringInfo>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(infos.into_iter().map(|(id, info)| (id, Arc::new(info))));
    }
}

fn from_proto(info: MonitoringInfo) -> Metric {
    Metric { urn: info.urn, type_urn: info.r#type, labels: info.labels, payload: info.payload }
}
