//! What a job process tells the service: messages and metrics, from threads that must not wait.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferrobeam_harness_bridge::{Bridge, HarnessLog, LogSink, Severity};
use ferrobeam_runner::dataflow::JobObserver;
use ferrobeam_runner::metrics::{Metric, Metrics};
use ferrobeam_runner::plan::{Plan, StageId};
use tokio::sync::mpsc;

use crate::control::v1;
use crate::control::v1::process_report::Report;
use crate::job::{Importance, Message};
use crate::metrics::to_infos;

/// Reports that wait for the network. Messages beyond it are counted and not kept.
const WAITING: usize = 4096;
/// Of a longer text the rest stays here: harnesses may log whatever they like.
const LONGEST: usize = 256 << 10;

/// See the module. Shared by everything in the process that has something to say.
#[derive(Debug)]
pub(super) struct Reports {
    /// `None` after the last word. The dataflow may hold the reports for longer.
    sender: Mutex<Option<mpsc::Sender<v1::ProcessReport>>>,
    dropped: AtomicU64,
    committed: Mutex<Committed>,
    changed: AtomicBool,
    /// The process was told to stop: what its bundles then fail of says nothing about the job.
    stopping: AtomicBool,
}

/// What bundles that succeeded have counted: by epoch, because a checkpoint has that of the epochs before it and no more.
#[derive(Debug, Default)]
struct Committed {
    /// Of epochs that a checkpoint has, and of what the job started from.
    settled: Metrics,
    open: BTreeMap<u64, Metrics>,
    bundles: BTreeMap<StageId, u64>,
}

impl Committed {
    fn of(&mut self, epoch: u64) -> &Metrics {
        self.open.entry(epoch).or_default()
    }

    fn all(&self) -> Vec<Metric> {
        let all = Metrics::new();
        std::iter::once(&self.settled).chain(self.open.values()).for_each(|metrics| all.merge(&metrics.snapshot()));
        all.snapshot()
    }

    /// Those of the epochs before `epoch`, of which no bundle will succeed any more.
    fn before(&mut self, epoch: u64) -> Vec<Metric> {
        let later = self.open.split_off(&epoch);
        for metrics in std::mem::replace(&mut self.open, later).into_values() {
            self.settled.merge(&metrics.snapshot());
        }
        self.settled.snapshot()
    }
}

impl Reports {
    pub(super) fn new() -> (Arc<Reports>, mpsc::Receiver<v1::ProcessReport>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let reports = Reports {
            sender: Mutex::new(Some(sender)),
            dropped: AtomicU64::new(0),
            committed: Mutex::default(),
            changed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        };
        (Arc::new(reports), receiver)
    }

    /// Sends what must arrive. Fails when the service is gone, which is noticed elsewhere.
    pub(super) async fn send(&self, report: Report) {
        if let Some(sender) = self.sender() {
            let _ = sender.send(v1::ProcessReport { report: Some(report) }).await;
        }
    }

    /// From here on, what the dataflow warns of is of the stop's own making.
    pub(super) fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Nothing more is sent.
    pub(super) fn close(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn sender(&self) -> Option<mpsc::Sender<v1::ProcessReport>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says something, if there is room.
    pub(super) fn say(&self, mut message: Message) {
        if message.text.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|at| message.text.is_char_boundary(*at)).unwrap_or_default();
            message.text.truncate(end);
            message.text.push_str(" [cut off]");
        }
        let report = v1::ProcessReport { report: Some(Report::Message(message.into())) };
        if self.sender().is_some_and(|sender| sender.try_send(report).is_err()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All metrics so far, with those of open bundles if there is a bridge to ask.
    pub(super) fn metrics(&self, plan: &Plan, bridge: Option<&Bridge>) -> Report {
        let running = bridge.map(Bridge::running).unwrap_or_default();
        let committed = self.lock();
        let name = |id: &StageId| plan.stages.get(id.0 as usize).map_or_else(|| id.0.to_string(), |s| s.name.clone());
        Report::Metrics(v1::Metrics {
            committed: to_infos(committed.all()),
            running: running.into_iter().flat_map(|bundle| to_infos(bundle.metrics)).collect(),
            bundles: committed.bundles.iter().map(|(id, count)| (name(id), *count)).collect(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Committed> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the job had counted in the checkpoint that it starts from.
    pub(super) fn start_from(&self, metrics: Vec<Metric>) {
        self.lock().settled.commit(metrics);
    }

    /// What was counted in the epochs before `epoch`, once all of them are over.
    pub(super) fn metrics_before(&self, epoch: u64) -> Vec<Metric> {
        self.lock().before(epoch)
    }

    /// Reports metrics whenever they changed, but no more often than `every`. Never ends.
    pub(super) async fn keep_reporting(&self, plan: &Plan, bridge: &Bridge, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                let text = format!("{dropped} messages came faster than they could be passed on, and are lost");
                self.send(Report::Message(Message::now(Importance::Warning, text).into())).await;
            }
            if self.changed.swap(false, Ordering::Relaxed) || !bridge.running().is_empty() {
                self.send(self.metrics(plan, Some(bridge))).await;
            }
        }
    }
}

impl JobObserver for Reports {
    fn committed(&self, stage: StageId, epoch: u64, metrics: Vec<Metric>) {
        let mut committed = self.lock();
        committed.of(epoch).commit(metrics);
        *committed.bundles.entry(stage).or_default() += 1;
        self.changed.store(true, Ordering::Relaxed);
    }

    fn counted(&self, epoch: u64, metric: Metric) {
        self.lock().of(epoch).commit(vec![metric]);
        self.changed.store(true, Ordering::Relaxed);
    }

    fn warning(&self, message: String) {
        if self.stopping.load(Ordering::Relaxed) {
            return;
        }
        self.say(Message::now(Importance::Warning, message));
    }
}

impl LogSink for Reports {
    /// A harness's errors become warnings that say so. Java's client takes the first error of a job for the reason that
    /// it failed, even of one that succeeded; so a job has one error or none.
    fn log(&self, entry: HarnessLog) {
        let (importance, label) = match entry.severity {
            Severity::Trace | Severity::Debug => (Importance::Debug, ""),
            Severity::Info => (Importance::Detailed, ""),
            Severity::Notice => (Importance::Basic, ""),
            Severity::Warn => (Importance::Warning, ""),
            Severity::Error | Severity::Critical => (Importance::Warning, "ERROR "),
        };
        let place = match (entry.transform_name.as_str(), entry.stage.as_str(), entry.harness.as_str()) {
            ("", "", harness) => harness,
            ("", stage, _) => stage,
            (transform, ..) => transform,
        };
        let mut text = format!("{label}[{place}] {}", entry.message);
        if !entry.trace.is_empty() {
            text.push('\n');
            text.push_str(&entry.trace);
        }
        self.say(Message { importance, time: entry.time, text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn entry(severity: Severity) -> HarnessLog {
        HarnessLog {
            severity,
            time: SystemTime::UNIX_EPOCH,
            message: "it broke".into(),
            trace: "at line 7".into(),
            transform: "ref_3".into(),
            transform_name: "Count".into(),
            instruction: String::new(),
            stage: "Count+Write".into(),
            location: String::new(),
            thread: String::new(),
            harness: "worker-1".into(),
            environment: "env".into(),
        }
    }

    fn said(receiver: &mut mpsc::Receiver<v1::ProcessReport>) -> v1::Message {
        match receiver.try_recv().expect("something was said").report {
            Some(Report::Message(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn no_log_entry_is_the_jobs_error() {
        let (reports, mut receiver) = Reports::new();
        reports.log(entry(Severity::Critical));
        let message = said(&mut receiver);
        assert_eq!(message.importance(), v1::message::Importance::Warning);
        assert_eq!(message.text, "ERROR [Count] it broke\nat line 7");
    }

    #[test]
    fn what_a_stop_breaks_is_no_warning() {
        let (reports, mut receiver) = Reports::new();
        reports.stopping();
        reports.warning("a bundle failed".into());
        assert!(receiver.try_recv().is_err());
        // Harnesses may still say why they take so long.
        reports.log(entry(Severity::Warn));
        assert_eq!(said(&mut receiver).importance(), v1::message::Importance::Warning);
    }

    #[test]
    fn who_says_too_much_does_not_wait() {
        let (reports, mut receiver) = Reports::new();
        for _ in 0..WAITING + 5 {
            reports.warning("x".into());
        }
        assert_eq!(reports.dropped.load(Ordering::Relaxed), 5);
        reports.dropped.store(0, Ordering::Relaxed);
        assert_eq!(said(&mut receiver).text, "x");
        reports.warning("é".repeat(LONGEST));
        assert_eq!(reports.dropped.load(Ordering::Relaxed), 0);
    }
}
