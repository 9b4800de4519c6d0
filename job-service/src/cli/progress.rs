//! What `ferrobeam run` says about jobs while they run: whole lines on standard error, so that the command's own output
//! stays as it is.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ferrobeam_job_service::job::{Job, JobId, Jobs, State};
use ferrobeam_proto::pipeline::MonitoringInfo;

const ELEMENT_COUNT: &str = "beam:metric:element_count:v1";

/// Follows every job of an embedded service.
pub(super) struct Progress {
    jobs: Arc<Jobs>,
    endpoint: String,
    shown: HashMap<JobId, Shown>,
    every: Duration,
}

struct Shown {
    state: State,
    line: String,
    elements: u64,
    at: Instant,
}

impl Progress {
    /// Of the jobs of the service at `endpoint`.
    pub(super) fn new(jobs: Arc<Jobs>, endpoint: String) -> Progress {
        // A person watches; a file should not fill up.
        let every = Duration::from_secs(if std::io::stderr().is_terminal() { 2 } else { 15 });
        Progress { jobs, endpoint, shown: HashMap::new(), every }
    }

    /// Says what is new. Never ends.
    pub(super) async fn follow(&mut self) {
        loop {
            self.look();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Says what is new now.
    pub(super) fn look(&mut self) {
        for job in self.jobs.all() {
            self.look_at(&job);
        }
    }

    fn look_at(&mut self, job: &Job) {
        let (state, since) = job.state();
        let shown = self.shown.get(job.id());
        let changed = shown.is_none_or(|shown| shown.state != state);
        if !changed && shown.is_some_and(|shown| shown.at.elapsed() < self.every) {
            return;
        }
        let (line, elements) =
            if state.is_terminal() { (ended(job, state, since), 0) } else { describe(job, state, shown) };
        if changed || shown.is_some_and(|shown| shown.line != line) {
            eprintln!("ferrobeam: {line}");
        }
        if changed && state == State::Running && job.submission().unbounded {
            eprintln!(
                "ferrobeam: its input need not end: Ctrl-C cancels the job, and `ferrobeam drain --endpoint {} {}` lets \
                 it finish what it has",
                self.endpoint,
                job.id()
            );
        }
        self.shown.insert(job.id().clone(), Shown { state, line, elements, at: Instant::now() });
    }
}

/// A line about a job at work, and how many elements that is.
fn describe(job: &Job, state: State, before: Option<&Shown>) -> (String, u64) {
    let metrics = job.metrics().live();
    let bundles: u64 = metrics.iter().flat_map(|m| m.bundles.values()).sum();
    let mut stages: Vec<&String> = metrics.iter().flat_map(|m| m.bundles.keys()).collect();
    stages.sort();
    stages.dedup();
    let mut line = format!("job {} is {state}", job.id());
    let elements: u64 = metrics.iter().flat_map(|m| m.committed.iter().chain(&m.running)).map(elements).sum();
    if bundles > 0 || elements > 0 {
        line += &format!(": {} elements in {} bundles of {} stages", grouped(elements), grouped(bundles), stages.len());
    }
    // Of a job without an end, how fast it goes says more than how much it did.
    // One whose elements no harness sees has none that are counted.
    if let Some(before) = before.filter(|before| job.submission().unbounded && before.state == state && elements > 0) {
        let rate = elements.saturating_sub(before.elements) as f64 / before.at.elapsed().as_secs_f64().max(0.001);
        line += &format!(", {} a second", grouped(rate.round() as u64));
    }
    (line, elements)
}

fn ended(job: &Job, state: State, at: SystemTime) -> String {
    let took = at.duration_since(job.created()).unwrap_or_default();
    format!("job {} is {state} after {:.1} s", job.id(), took.as_secs_f64())
}

/// The count of an `element_count`, a varint.
fn elements(info: &MonitoringInfo) -> u64 {
    if info.urn != ELEMENT_COUNT {
        return 0;
    }
    let bytes = info.payload.iter().take(9);
    let mut value = 0;
    for (index, byte) in bytes.enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn element_counts_are_read() {
        let info = |payload: Vec<u8>| MonitoringInfo {
            urn: ELEMENT_COUNT.into(),
            payload: payload.into(),
            ..Default::default()
        };
        assert_eq!(elements(&info(vec![5])), 5);
        assert_eq!(elements(&info(vec![0xac, 0x02])), 300);
        assert_eq!(elements(&info(vec![])), 0);
        assert_eq!(elements(&info(vec![0xff; 20])), (1 << 63) - 1);
        assert_eq!(elements(&MonitoringInfo { payload: vec![5].into(), ..Default::default() }), 0);
    }
}
