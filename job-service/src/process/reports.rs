//! What a job process tells the service: messages and metrics, from threads that must not wait.
//!
//! One queue keeps everything in order: a client that sees how a job ended has seen what was said before. What decides
//! the job's fate is taken without a limit, because there is little of it: one start, one end, and an answer for each
//! checkpoint that the supervisor asks for. Messages are taken up to a limit and counted beyond it, and metrics, each of
//! which stands for all before it, one at a time. A second queue for what must arrive was rejected: it would overtake.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use ferrobeam_harness_bridge::{Bridge, HarnessLog, LogSink, Severity};
use ferrobeam_runner::dataflow::JobObserver;
use ferrobeam_runner::metrics::Metric;
use ferrobeam_runner::plan::{Plan, StageId};
use tokio::sync::mpsc;
use tokio_stream::Stream;

use super::committed::Committed;
use crate::control::v1;
use crate::control::v1::process_report::Report;
use crate::job::{Importance, Message};
use crate::metrics::to_infos;

/// Messages that wait for the network. Those beyond it are counted and not kept.
const WAITING: usize = 4096;
/// Of a longer text the rest stays here: harnesses may log whatever they like.
const LONGEST: usize = 256 << 10;

/// So many values are reported at the usual pace; twice as many, half as often.
const VALUES: u32 = 5000;
/// However many there are, those who watch a job are to see that it goes on.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// See the module. Shared by everything in the process that has something to say.
#[derive(Debug)]
pub(super) struct Reports {
    /// `None` after the last word. The dataflow may hold the reports for longer.
    sender: Mutex<Option<mpsc::UnboundedSender<Report>>>,
    waiting: Arc<Waiting>,
    dropped: AtomicU64,
    committed: Mutex<Committed>,
    changed: AtomicBool,
    /// The process was told to stop: what its bundles then fail of says nothing about the job.
    stopping: AtomicBool,
}

/// What has a limit and is not yet on its way.
#[derive(Debug, Default)]
struct Waiting {
    messages: AtomicUsize,
    metrics: AtomicUsize,
}

impl Waiting {
    /// The count of reports of a kind that has a limit, and the limit.
    fn limit(&self, report: &Report) -> Option<(&AtomicUsize, usize)> {
        match report {
            Report::Message(_) => Some((&self.messages, WAITING)),
            Report::Metrics(_) => Some((&self.metrics, 1)),
            Report::Hello(_)
            | Report::Started(_)
            | Report::Completed(_)
            | Report::Failed(_)
            | Report::Saved(_)
            | Report::SaveFailed(_) => None,
        }
    }
}

/// The reports, in their order, for the network.
#[derive(Debug)]
pub(super) struct Outgoing {
    receiver: mpsc::UnboundedReceiver<Report>,
    waiting: Arc<Waiting>,
}

impl Stream for Outgoing {
    type Item = v1::ProcessReport;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<v1::ProcessReport>> {
        self.receiver.poll_recv(context).map(|report| {
            let report = report?;
            if let Some((count, _)) = self.waiting.limit(&report) {
                count.fetch_sub(1, Ordering::Relaxed);
            }
            Some(v1::ProcessReport { report: Some(report) })
        })
    }
}

impl Reports {
    pub(super) fn new() -> (Arc<Reports>, Outgoing) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let waiting = Arc::new(Waiting::default());
        let reports = Reports {
            sender: Mutex::new(Some(sender)),
            waiting: Arc::clone(&waiting),
            dropped: AtomicU64::new(0),
            committed: Mutex::default(),
            changed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        };
        (Arc::new(reports), Outgoing { receiver, waiting })
    }

    /// Sends what must arrive; never waits. Lost only when the service is gone, which is noticed elsewhere.
    pub(super) fn send(&self, report: Report) {
        if let Some((count, _)) = self.waiting.limit(&report) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.push(report);
    }

    /// Sends what may be lost, if less than the limit of its kind waits. Whether it did not have to be dropped.
    fn offer(&self, report: Report) -> bool {
        if let Some((count, limit)) = self.waiting.limit(&report)
            && count.fetch_add(1, Ordering::Relaxed) >= limit
        {
            count.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        self.push(report);
        true
    }

    fn push(&self, report: Report) {
        if let Some(sender) = &*self.sender.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = sender.send(report);
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

    /// Says something, if there is room.
    pub(super) fn say(&self, mut message: Message) {
        if message.text.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|at| message.text.is_char_boundary(*at)).unwrap_or_default();
            message.text.truncate(end);
            message.text.push_str(" [cut off]");
        }
        if !self.offer(Report::Message(message.into())) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All metrics so far, with those of open bundles if there is a bridge to ask.
    pub(super) fn metrics(&self, plan: &Plan, bridge: Option<&Bridge>) -> Report {
        Report::Metrics(self.measured(plan, bridge))
    }

    fn measured(&self, plan: &Plan, bridge: Option<&Bridge>) -> v1::Metrics {
        let running = bridge.map(Bridge::running).unwrap_or_default();
        let committed = self.lock();
        let name = |id: &StageId| plan.stages.get(id.0 as usize).map_or_else(|| id.0.to_string(), |s| s.name.clone());
        v1::Metrics {
            committed: to_infos(committed.all()),
            running: running.into_iter().flat_map(|bundle| to_infos(bundle.metrics)).collect(),
            bundles: committed.bundles().map(|(id, count)| (name(id), *count)).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Committed> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the job had counted in the checkpoint that it starts from.
    pub(super) fn start_from(&self, metrics: Vec<Metric>) {
        self.lock().start_from(metrics);
    }

    /// What was counted in the epochs before `epoch`, once all of them are over.
    pub(super) fn metrics_before(&self, epoch: u64) -> Vec<Metric> {
        self.lock().before(epoch)
    }

    /// Reports metrics whenever they changed, but no more often than `every`, and than [`pause`] says. Never ends.
    pub(super) async fn keep_reporting(&self, plan: &Plan, bridge: &Bridge, every: Duration) {
        let mut said = 0;
        loop {
            tokio::time::sleep(pause(every, said)).await;
            self.tell_dropped();
            let changed = self.changed.swap(false, Ordering::Relaxed);
            if changed || !bridge.running().is_empty() {
                let metrics = self.measured(plan, Some(bridge));
                said = metrics.committed.len() + metrics.running.len() + metrics.bundles.len();
                if !self.offer(Report::Metrics(metrics)) {
                    self.changed.fetch_or(changed, Ordering::Relaxed);
                }
            }
        }
    }
}

impl Reports {
    /// Says how many messages were lost, once there is room again.
    fn tell_dropped(&self) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let text = format!("{dropped} messages came faster than they could be passed on, and are lost");
            if !self.offer(Report::Message(Message::now(Importance::Warning, text).into())) {
                self.dropped.fetch_add(dropped, Ordering::Relaxed);
            }
        }
    }
}

/// How long to wait after a report of so many values. A report has all of them, so a job with many stages, which takes
/// as much longer, would spend the square of their number on reports; it is told of less often.
fn pause(every: Duration, values: usize) -> Duration {
    let values = u32::try_from(values).unwrap_or(u32::MAX);
    every.saturating_mul(1 + values / VALUES).min(LONGEST_PAUSE.max(every))
}

impl JobObserver for Reports {
    fn committed(&self, stage: StageId, epoch: u64, metrics: Vec<Metric>) {
        let mut committed = self.lock();
        committed.of(epoch).commit(metrics);
        committed.count_bundle(stage);
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

    /// What is next, if something is.
    fn next(outgoing: &mut Outgoing) -> Option<Report> {
        match Pin::new(outgoing).poll_next(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(report) => Some(report?.report.expect("not empty")),
            Poll::Pending => None,
        }
    }

    fn said(outgoing: &mut Outgoing) -> v1::Message {
        match next(outgoing) {
            Some(Report::Message(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn no_log_entry_is_the_jobs_error() {
        let (reports, mut outgoing) = Reports::new();
        reports.log(entry(Severity::Critical));
        let message = said(&mut outgoing);
        assert_eq!(message.importance(), v1::message::Importance::Warning);
        assert_eq!(message.text, "ERROR [Count] it broke\nat line 7");
    }

    #[test]
    fn what_a_stop_breaks_is_no_warning() {
        let (reports, mut outgoing) = Reports::new();
        reports.stopping();
        reports.warning("a bundle failed".into());
        assert_eq!(next(&mut outgoing), None);
        // Harnesses may still say why they take so long.
        reports.log(entry(Severity::Warn));
        assert_eq!(said(&mut outgoing).importance(), v1::message::Importance::Warning);
    }

    #[test]
    fn many_values_are_reported_less_often() {
        let every = Duration::from_millis(500);
        assert_eq!(pause(every, 0), every);
        assert_eq!(pause(every, 4999), every);
        assert_eq!(pause(every, 50_000), every * 11);
        assert_eq!(pause(every, usize::MAX), LONGEST_PAUSE);
        assert_eq!(pause(LONGEST_PAUSE * 2, 1), LONGEST_PAUSE * 2);
        // However many they are, so many are copied and sent in a second, at most.
        let pace = |values: usize| values as f64 / pause(every, values).as_secs_f64();
        assert!((0..25).map(|doubled| 10 << doubled).filter(|it| *it < 100_000).all(|it| pace(it) < 10_001.0));
    }

    #[test]
    fn who_says_too_much_does_not_wait() {
        let (reports, mut outgoing) = Reports::new();
        for _ in 0..WAITING + 5 {
            reports.warning("x".into());
        }
        assert_eq!(reports.dropped.load(Ordering::Relaxed), 5);
        reports.dropped.store(0, Ordering::Relaxed);
        assert_eq!(said(&mut outgoing).text, "x");
        reports.warning("é".repeat(LONGEST));
        assert_eq!(reports.dropped.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_must_arrive_does_and_in_its_order() {
        let (reports, mut outgoing) = Reports::new();
        for _ in 0..2 * WAITING {
            reports.warning("x".into());
        }
        reports.send(Report::Failed(v1::Failed {
            message: "why".into(),
            lost_peer: false,
            may_pass: false,
            ..v1::Failed::default()
        }));
        let metrics = Report::Metrics(v1::Metrics::default());
        assert!(reports.offer(metrics.clone()) && !reports.offer(metrics.clone()));
        reports.send(metrics);
        reports.send(Report::Completed(v1::Completed {}));
        reports.close();
        reports.send(Report::Completed(v1::Completed {}));
        let mut sent = Vec::new();
        while let Some(report) = next(&mut outgoing) {
            sent.push(report);
        }
        assert_eq!(sent.len(), WAITING + 4);
        assert!(matches!(
            &sent[WAITING..],
            [Report::Failed(_), Report::Metrics(_), Report::Metrics(_), Report::Completed(_)]
        ));
        assert_eq!(reports.dropped.load(Ordering::Relaxed), WAITING as u64);
    }

    #[test]
    fn what_was_lost_is_told_once_there_is_room() {
        let (reports, mut outgoing) = Reports::new();
        for _ in 0..WAITING + 3 {
            reports.warning("x".into());
        }
        reports.tell_dropped();
        assert_eq!(said(&mut outgoing).text, "x");
        reports.tell_dropped();
        while outgoing.receiver.len() > 1 {
            assert_eq!(said(&mut outgoing).text, "x");
        }
        assert!(said(&mut outgoing).text.starts_with("3 messages"));
        reports.tell_dropped();
        assert_eq!(next(&mut outgoing), None);
    }
}
