//! One job: what was submitted, and what became of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use ferrobeam_proto::pipeline::{MonitoringInfo, Pipeline};
use prost::Message as _;
use tokio::sync::watch;

use crate::artifacts::Staged;

use super::{Event, EventLog, Generation, Importance, JobId, LogLimits, Message, Page, State, Waiting};

/// What a client handed in.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The job's name.
    pub name: String,
    /// The pipeline options, as they came.
    pub options: prost_types::Struct,
    /// The pipeline, encoded: a tenth of what it takes decoded, and seldom asked for.
    pub pipeline: Bytes,
    /// Whether some of its input need never end.
    pub unbounded: bool,
}

impl Submission {
    /// The pipeline.
    pub fn pipeline(&self) -> Result<Pipeline, prost::DecodeError> {
        Pipeline::decode(self.pipeline.clone())
    }
}

/// The metrics of a job, or of one of its processes.
#[derive(Clone, Debug, Default)]
pub struct JobMetrics {
    /// Of bundles that succeeded.
    pub committed: Vec<MonitoringInfo>,
    /// Of bundles that are open, as far as it is known.
    pub running: Vec<MonitoringInfo>,
    /// How many bundles succeeded, by stage.
    pub bundles: BTreeMap<String, u64>,
}

/// A job that was run. Shared by the calls about it and by its supervisor.
#[derive(Debug)]
pub struct Job {
    id: JobId,
    submission: Submission,
    created: SystemTime,
    size: usize,
    shared: Mutex<Shared>,
    waiting: Mutex<Waiting>,
    changed: watch::Sender<u64>,
    cancel: watch::Sender<bool>,
    drain: watch::Sender<bool>,
    /// The artifacts of its environments, once they are known.
    staged: OnceLock<Staged>,
    /// The number of the first event that is not recorded outside of this service.
    recorded: watch::Sender<u64>,
}

/// A job as it was, for a service that goes on with it.
#[derive(Debug)]
pub struct Restored {
    /// Its id.
    pub id: JobId,
    /// What was submitted.
    pub submission: Submission,
    /// When it was run.
    pub created: SystemTime,
    /// What happened to it, by number.
    pub events: BTreeMap<u64, Event>,
    /// The number of the next event.
    pub next: u64,
    /// Its `MetricResults`, encoded, if it has ended.
    pub metrics: Option<Bytes>,
}

#[derive(Debug)]
struct Shared {
    /// The attempt whose processes are listened to.
    generation: Generation,
    state: State,
    since: SystemTime,
    /// Where it will be in a moment: nobody turns it elsewhere any more.
    closing: Option<State>,
    log: EventLog,
    metrics: Measured,
}

/// The metrics of a job.
#[derive(Clone, Debug)]
pub enum Measured {
    /// Of each process, so far.
    Live(BTreeMap<u32, JobMetrics>),
    /// The whole job's `MetricResults`, encoded: a fraction of what they take decoded.
    Final(Bytes),
}

impl Measured {
    /// The metrics of each process; none once they are final.
    pub fn live(self) -> Vec<JobMetrics> {
        match self {
            Measured::Live(live) => live.into_values().collect(),
            Measured::Final(_) => Vec::new(),
        }
    }
}

impl Job {
    /// A job that is about to start.
    pub fn new(id: JobId, submission: Submission, prepared: SystemTime, limits: LogLimits) -> Job {
        let mut log = EventLog::new(limits);
        log.push(Event::State(State::Stopped, prepared));
        let shared = Shared {
            generation: Generation(0),
            state: State::Stopped,
            since: prepared,
            closing: None,
            log,
            metrics: Measured::Live(BTreeMap::new()),
        };
        Job::with(id, submission, SystemTime::now(), shared)
    }

    /// A job that an earlier service had. It is where it was.
    pub fn restored(job: Restored, limits: LogLimits) -> Job {
        let mut states = job.events.values().rev().filter_map(|event| match event {
            Event::State(state, since) => Some((*state, *since)),
            Event::Message(_) => None,
        });
        let (state, since) = states.next().unwrap_or((State::Stopped, job.created));
        let shared = Shared {
            generation: Generation(0),
            state,
            since,
            closing: None,
            log: EventLog::restored(limits, job.events, job.next),
            metrics: job.metrics.map_or_else(|| Measured::Live(BTreeMap::new()), Measured::Final),
        };
        let restored = Job::with(job.id, job.submission, job.created, shared);
        restored.cancel.send_replace(state == State::Cancelling);
        restored.drain.send_replace(state == State::Draining);
        restored
    }

    fn with(id: JobId, submission: Submission, created: SystemTime, shared: Shared) -> Job {
        let size = submission.pipeline.len() + submission.options.encoded_len();
        Job {
            id,
            submission,
            created,
            size,
            shared: Mutex::new(shared),
            waiting: Mutex::default(),
            changed: watch::Sender::new(0),
            cancel: watch::Sender::new(false),
            drain: watch::Sender::new(false),
            staged: OnceLock::new(),
            recorded: watch::Sender::new(0),
        }
    }

    /// Notes the artifacts of its environments, for good.
    pub fn keep_staged(&self, staged: Staged) {
        // They are always the same.
        let _ = self.staged.set(staged);
    }

    /// The artifacts of its environments.
    pub fn staged(&self) -> Staged {
        self.staged.get().cloned().unwrap_or_default()
    }

    /// Events before number `next` are recorded outside of this service.
    pub fn recorded(&self, next: u64) {
        self.recorded.send_replace(next);
    }

    /// Returns when all that happened to it so far is recorded.
    pub async fn is_recorded(&self) {
        let next = self.lock().log.next();
        // Fails only when the sender, which the job holds, is gone.
        let _ = self.recorded.subscribe().wait_for(|recorded| *recorded >= next).await;
    }

    /// Its id.
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// What was submitted.
    pub fn submission(&self) -> &Submission {
        &self.submission
    }

    /// When it was run.
    pub fn created(&self) -> SystemTime {
        self.created
    }

    /// Its state, and since when.
    pub fn state(&self) -> (State, SystemTime) {
        let shared = self.lock();
        (shared.state, shared.since)
    }

    /// Enters a state, if the table of moves allows it.
    pub fn enter(&self, state: State) -> bool {
        self.enter_with(state, None)
    }

    /// Enters FAILED, with the reason before it: clients read up to the state and no further.
    pub fn fail(&self, reason: impl Into<String>) -> bool {
        self.enter_with(State::Failed, Some(Message::now(Importance::Error, reason)))
    }

    /// Decides where the job ends that would end as `wanted`, for good: one that is being cancelled was cancelled, and one that
    /// is being drained was drained. It is entered once that is on record.
    pub fn close(&self, wanted: State) -> State {
        let mut shared = self.lock();
        let closing = match (shared.state, wanted) {
            (State::Cancelling, _) => State::Cancelled,
            (State::Draining, State::Done) => State::Drained,
            (_, wanted) => wanted,
        };
        *shared.closing.get_or_insert(closing)
    }

    /// Enters the state that the job is on record to have ended in, whatever it seemed to do; with the reason.
    pub fn end_as(&self, state: State, reason: Option<String>) {
        let now = SystemTime::now();
        let mut shared = self.lock();
        if let Some(reason) = reason {
            shared.log.push(Event::Message(Message::now(Importance::Error, reason)));
        }
        shared.state = state;
        shared.since = now;
        shared.log.push(Event::State(state, now));
        drop(shared);
        self.wake();
    }

    fn enter_with(&self, state: State, reason: Option<Message>) -> bool {
        let mut shared = self.lock();
        if !shared.state.may_become(state) || shared.closing.is_some_and(|closing| closing != state) {
            return false;
        }
        if let Some(reason) = reason {
            shared.log.push(Event::Message(reason));
        }
        let now = SystemTime::now();
        shared.state = state;
        shared.since = now;
        shared.log.push(Event::State(state, now));
        drop(shared);
        self.wake();
        true
    }

    /// Says something about the job.
    pub fn say(&self, message: Message) {
        self.lock().log.push(Event::Message(message));
        self.wake();
    }

    /// Begins an attempt to run the job: what processes of another one still say is dropped, and what they measured is
    /// not counted, because this one does all of it again.
    pub fn begin(&self, generation: Generation) {
        let mut shared = self.lock();
        shared.generation = generation;
        if let Measured::Live(live) = &mut shared.metrics {
            live.clear();
        }
    }

    /// Says something for a process of an attempt. Whether it was of the present one, and was taken.
    pub fn say_for(&self, generation: Generation, message: Message) -> bool {
        let mut shared = self.lock();
        if shared.generation != generation {
            return false;
        }
        shared.log.push(Event::Message(message));
        drop(shared);
        self.wake();
        true
    }

    /// Reads events from number `from` on.
    pub fn read(&self, from: u64, limit: usize) -> Page {
        self.lock().log.read(from, limit)
    }

    /// Changes whenever the state does or something is said. What was read after subscribing is followed by a change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Who waits for its end.
    pub fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    /// Asks the supervisor to stop the job.
    pub fn cancel(&self) {
        self.cancel.send_replace(true);
    }

    /// Becomes true when the job is to stop.
    pub fn cancelled(&self) -> watch::Receiver<bool> {
        self.cancel.subscribe()
    }

    /// Asks the supervisor to drain the job.
    pub fn drain(&self) {
        self.drain.send_replace(true);
    }

    /// Becomes true when the job is to drain.
    pub fn drained(&self) -> watch::Receiver<bool> {
        self.drain.subscribe()
    }

    /// Replaces the metrics of one process of an attempt, until they are final. Whether they were taken.
    pub fn set_metrics(&self, generation: Generation, process: u32, metrics: JobMetrics) -> bool {
        let mut shared = self.lock();
        if shared.generation != generation {
            return false;
        }
        let Measured::Live(live) = &mut shared.metrics else { return false };
        live.insert(process, metrics);
        true
    }

    /// Its metrics.
    pub fn metrics(&self) -> Measured {
        self.lock().metrics.clone()
    }

    /// Keeps these metrics for good: the job's `MetricResults`, encoded.
    pub fn seal_metrics(&self, results: Bytes) {
        self.lock().metrics = Measured::Final(results);
    }

    /// Roughly the bytes that the record holds.
    pub fn size(&self) -> usize {
        let shared = self.lock();
        let metrics: usize = match &shared.metrics {
            Measured::Live(live) => {
                live.values().flat_map(|m| m.committed.iter().chain(&m.running)).map(|i| i.encoded_len()).sum()
            }
            Measured::Final(results) => results.len(),
        };
        self.size + shared.log.bytes() + metrics
    }

    /// A panic while the lock is held leaves nothing half done that matters more than an answer.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        let submission = Submission {
            name: "test".into(),
            options: prost_types::Struct::default(),
            pipeline: Bytes::new(),
            unbounded: false,
        };
        Job::new(JobId::named("test-1"), submission, SystemTime::now(), LogLimits::default())
    }

    #[test]
    fn the_reason_stands_before_the_state() {
        let job = job();
        assert!(job.enter(State::Starting));
        assert!(job.fail("because"));
        let events: Vec<String> = job
            .read(0, 100)
            .events
            .into_iter()
            .map(|(_, event)| match event {
                Event::State(state, _) => state.to_string(),
                Event::Message(message) => message.text,
            })
            .collect();
        assert_eq!(events, ["STOPPED", "STARTING", "because", "FAILED"]);
    }

    #[test]
    fn a_job_that_ended_stays_as_it_ended() {
        let job = job();
        assert!(job.enter(State::Starting) && job.enter(State::Running) && job.enter(State::Done));
        let events = job.read(0, 100);
        assert!(!job.fail("too late"));
        assert!(!job.enter(State::Cancelling));
        assert_eq!(job.state().0, State::Done);
        assert_eq!(job.read(0, 100), events);
    }

    #[test]
    fn final_metrics_stay_as_they_are() {
        let job = job();
        job.begin(Generation(1));
        assert!(job.set_metrics(Generation(1), 0, JobMetrics::default()));
        assert_eq!(job.metrics().live().len(), 1);
        let size = job.size();
        job.seal_metrics(Bytes::from_static(b"encoded"));
        assert!(!job.set_metrics(Generation(1), 0, JobMetrics::default()));
        job.begin(Generation(2));
        assert!(matches!(job.metrics(), Measured::Final(sealed) if sealed == "encoded"));
        assert_eq!(job.size(), size + 7);
    }

    #[test]
    fn a_stale_attempt_is_not_listened_to() {
        let job = job();
        let bundles = |job: &Job| -> Vec<u64> {
            job.metrics().live().into_iter().flat_map(|metrics| metrics.bundles.into_values()).collect()
        };
        let measured = |count| JobMetrics { bundles: [("stage".to_owned(), count)].into(), ..JobMetrics::default() };
        let hello = || Message::now(Importance::Basic, "hello");
        job.begin(Generation(1));
        assert!(job.set_metrics(Generation(1), 0, measured(7)) && job.say_for(Generation(1), hello()));
        assert!(!job.set_metrics(Generation(2), 0, measured(8)) && !job.say_for(Generation(2), hello()));
        assert_eq!(bundles(&job), [7]);
        job.begin(Generation(2));
        assert!(bundles(&job).is_empty());
        let said = job.read(0, 100);
        assert!(!job.set_metrics(Generation(1), 0, measured(9)) && !job.say_for(Generation(1), hello()));
        assert!(job.set_metrics(Generation(2), 0, measured(3)));
        assert_eq!((bundles(&job), job.read(0, 100)), (vec![3], said));
    }

    #[test]
    fn a_job_that_drains_is_not_done_but_drained() {
        let job = job();
        assert!(job.enter(State::Starting) && job.enter(State::Draining));
        assert!(!job.enter(State::Running) && !job.enter(State::Done) && !job.enter(State::Draining));
        assert!(job.enter(State::Drained));
    }

    #[test]
    fn a_reader_is_woken_by_what_it_has_not_read() {
        let job = job();
        let mut changes = job.changes();
        assert!(!changes.has_changed().expect("the job lives"));
        job.say(Message::now(Importance::Basic, "hello"));
        assert!(changes.has_changed().expect("the job lives"));
        changes.mark_unchanged();
        assert!(job.enter(State::Starting));
        assert!(changes.has_changed().expect("the job lives"));
    }
}
