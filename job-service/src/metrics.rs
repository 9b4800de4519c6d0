//! The metrics of a job, made of those of its processes; and between Beam's `MonitoringInfo` and the runner's `Metric`.

use ferrobeam_proto::job::MetricResults;
use ferrobeam_proto::pipeline::MonitoringInfo;
use ferrobeam_runner::metrics::{Metric, Metrics};

use prost::Message as _;

use crate::job::{Job, JobMetrics, Measured};

/// The metrics of a job: as sealed, or as far as they are known.
pub(crate) fn of(job: &Job) -> Result<MetricResults, prost::DecodeError> {
    match job.metrics() {
        Measured::Final(sealed) => MetricResults::decode(sealed),
        live @ Measured::Live(_) => Ok(results(&live.live())),
    }
}

/// All processes' metrics as one.
pub(crate) fn results(processes: &[JobMetrics]) -> MetricResults {
    let sum = Metrics::new();
    for process in processes {
        sum.merge(&from_infos(&process.committed));
    }
    let committed = to_infos(sum.snapshot());
    for process in processes {
        sum.merge(&from_infos(&process.running));
    }
    MetricResults { attempted: to_infos(sum.snapshot()), committed }
}

pub(crate) fn to_infos(metrics: Vec<Metric>) -> Vec<MonitoringInfo> {
    let info = |Metric { urn, type_urn, labels, payload }| MonitoringInfo {
        urn,
        r#type: type_urn,
        payload,
        labels,
        start_time: None,
    };
    metrics.into_iter().map(info).collect()
}

pub(crate) fn from_infos(infos: &[MonitoringInfo]) -> Vec<Metric> {
    let metric = |info: &MonitoringInfo| Metric {
        urn: info.urn.clone(),
        type_urn: info.r#type.clone(),
        labels: info.labels.clone(),
        payload: info.payload.clone(),
    };
    infos.iter().map(metric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(name: &str, value: u8) -> MonitoringInfo {
        MonitoringInfo {
            urn: "beam:metric:user:sum_int64:v1".into(),
            r#type: "beam:metrics:sum_int64:v1".into(),
            payload: vec![value].into(),
            labels: [("NAME".to_owned(), name.to_owned())].into(),
            start_time: None,
        }
    }

    #[test]
    fn processes_are_added_up_and_open_bundles_count_as_attempted() {
        let one = JobMetrics { committed: vec![counter("a", 1), counter("b", 5)], ..Default::default() };
        let two = JobMetrics { committed: vec![counter("a", 2)], running: vec![counter("a", 4)], ..Default::default() };
        let results = results(&[one, two]);
        assert_eq!(results.committed, [counter("a", 3), counter("b", 5)]);
        assert_eq!(results.attempted, [counter("a", 7), counter("b", 5)]);
    }
}
