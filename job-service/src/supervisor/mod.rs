//! The supervisor: owns a job from `Run` to its final state.
//!
//! Each job has one task, which is the only one to move the job's state. It waits for its turn, reserves places with
//! agents, has processes started, sends them the plan when all have attached, and listens.
//!
//! A job that loses a process is run again, if it asked for that: all processes of the attempt are stopped, their places
//! given back, and after a pause the next generation starts, with a token of its own and with workers of its own in its
//! environments. What a process reports counts only with the token of the present generation, and of a job's metrics
//! only those of the present generation are left. To clients the job goes on RUNNING, or STARTING: the Job API has no
//! state for it, and a job that leaves RUNNING has ended for some of them. Its messages say what happens.
//!
//! Stopping is asked first, so that user code is torn down and environments end by themselves, and enforced after a
//! grace. A job is not seen to have ended before its environments were given that chance: a client that lent its own
//! process as environment leaves when it sees the end.

mod agents;
mod attach;
mod attempt;
mod checkpoints;
mod coordinator;
mod manifests;
mod recorded;
mod restart;
mod saved_state;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

pub use agents::{AgentId, Agents};
pub use attach::{AttachRefused, Attachment};
pub use checkpoints::{Beginning, CheckpointStorage, Manifest, ManifestError, ManifestStore, Restorable};
pub use coordinator::Purpose;
pub use manifests::JournalManifests;
pub use recorded::Records;
pub use saved_state::RestoreRefused;
pub(crate) use saved_state::set_options;

use crate::artifacts::{RetrievalGrants, Staged};
use crate::job::{Generation, Importance, Job, JobId, Jobs, Message, Preparation, State, secret};
use crate::metrics;
use crate::options::{CheckpointOptions, StateBackend};
use attempt::{Attempt, Deployable, Outcome};
use checkpoints::Checkpoints;
use restart::{History, Loss, RestartPolicy, Verdict};

/// How long one who wants a savepoint waits for a job that is being started.
const STARTING: Duration = Duration::from_secs(60);

/// What the supervisor is told once.
#[derive(Clone, Debug)]
pub struct SupervisorConfig {
    /// Most jobs that run at a time; the others wait in STARTING.
    pub max_running_jobs: usize,
    /// Processes of a job that does not ask.
    pub processes: NonZeroUsize,
    /// Worker threads of each process of a job that does not ask.
    pub workers: NonZeroUsize,
    /// Bytes of user data in the memory of each process of a job that does not ask.
    pub memory: u64,
    /// Where a job that does not ask keeps its state.
    pub state_backend: StateBackend,
    /// How long a process may take to stop when asked to.
    pub grace: Duration,
    /// How long processes may take to attach once they are started.
    pub attach_timeout: Duration,
    /// Where checkpoints are kept; `None`: no job takes any, whatever it asks for.
    pub checkpoints: Option<CheckpointStorage>,
    /// No job is run: each is told whether it could start from the saved state that this names (`savepoint_path`).
    pub check_against: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Supervisor {
    config: SupervisorConfig,
    jobs: Arc<Jobs>,
    agents: Arc<Agents>,
    grants: Arc<RetrievalGrants>,
    slots: Arc<Semaphore>,
    live: Mutex<HashMap<JobId, attach::Live>>,
    /// Where jobs are recorded for the service after this one.
    records: Option<Records>,
    /// The jobs are left for that one.
    suspended: AtomicBool,
    /// How many jobs have a task; watched by who stops the service.
    running: watch::Sender<usize>,
}

impl Supervisor {
    /// Runs `jobs` on `agents`.
    pub fn new(
        config: SupervisorConfig,
        jobs: Arc<Jobs>,
        agents: Arc<Agents>,
        grants: Arc<RetrievalGrants>,
    ) -> Supervisor {
        let slots = Arc::new(Semaphore::new(config.max_running_jobs.clamp(1, Semaphore::MAX_PERMITS)));
        Supervisor {
            config,
            jobs,
            agents,
            grants,
            slots,
            live: Mutex::default(),
            records: None,
            suspended: AtomicBool::new(false),
            running: watch::Sender::new(0),
        }
    }

    /// Pipeline options of every job, whatever its client says.
    pub fn imposed_options(&self) -> impl Iterator<Item = (String, String)> {
        self.config.check_against.iter().map(|path| ("savepoint_path".to_owned(), path.clone()))
    }

    /// The agents that it uses.
    pub fn agents(&self) -> &Arc<Agents> {
        &self.agents
    }

    /// Runs a job to its end.
    pub fn start(self: &Arc<Self>, job: Arc<Job>, preparation: Preparation) {
        self.go_on(job, preparation, Earlier::default());
    }

    /// The same, of a job that an earlier service ran.
    fn go_on(self: &Arc<Self>, job: Arc<Job>, preparation: Preparation, earlier: Earlier) {
        job.keep_staged(preparation.staging.staged().unwrap_or_default());
        for remark in &preparation.remarks {
            job.say(remark.clone());
        }
        job.enter(State::Starting);
        let running = Running::count(Arc::clone(self));
        tokio::spawn(async move {
            let this = Arc::clone(&running.0);
            let leaving = this.run(&job, preparation, earlier).await;
            this.retire().await;
            // The job is over for everybody but its processes, which take a moment to end.
            if let Some(Leaving { attempt, slot }) = leaving {
                attempt.reap().await;
                drop(slot);
            }
            drop(running);
        });
    }

    /// Asks for a job's end. Its state says at once that this is under way.
    pub fn cancel(&self, job: &Job) {
        // Nothing runs, and a comparison is over in a moment.
        if self.config.check_against.is_some() {
            return;
        }
        if job.enter(State::Cancelling) {
            job.say(Message::now(Importance::Basic, "the job is being cancelled"));
            job.cancel();
        }
    }

    /// Asks a job to take no more input and to finish what it has. Whether it does: a job that was asked before goes on
    /// doing so, one that is being cancelled or has ended does not begin.
    pub fn drain(&self, job: &Job) -> bool {
        if job.enter(State::Draining) {
            let text = "the job is being drained: it takes no more input, and ends when it has finished what it has";
            job.say(Message::now(Importance::Basic, text));
            job.drain();
        }
        matches!(job.state().0, State::Draining | State::Drained)
    }

    /// Has a running job save its state now, and, if it is to `stop`, ends it with that: nothing that it does after the
    /// savepoint has an effect that waits for checkpoints, and all that waits for the savepoint is done. Gives the path that
    /// another job starts from, once it is durable.
    pub async fn savepoint(&self, job: &JobId, stop: bool) -> Result<String, String> {
        let answered = self.ask_for_savepoint(job, stop).await?;
        let taken = answered.await.map_err(|_| format!("{job} ended before it had saved its state"))?;
        if let (Ok(_), true, Some(job)) = (&taken, stop, self.jobs.get(job)) {
            // Its end is recorded before it is told. Until then the next service would go on with it, beside whoever starts
            // from the savepoint.
            let mut changes = job.changes();
            while !job.state().0.is_terminal() && changes.changed().await.is_ok() {}
        }
        taken
    }

    /// Passes the wish on to the job's task; one that is just being started is waited for.
    async fn ask_for_savepoint(
        &self,
        job: &JobId,
        stop: bool,
    ) -> Result<oneshot::Receiver<Result<String, String>>, String> {
        let begun = Instant::now();
        loop {
            let (answer, answered) = oneshot::channel();
            if self.lock_live().get(job).is_some_and(|live| live.ask_for_savepoint(answer, stop)) {
                return Ok(answered);
            }
            let state = self.jobs.get(job).map(|job| job.state().0);
            match state {
                Some(State::Starting | State::Running) if begun.elapsed() < STARTING => {}
                Some(State::Starting | State::Running) => {
                    return Err(format!(
                        "{job} is being started for {} s and does not run yet; `ferrobeam logs {job}` tells why. Its earlier \
                         checkpoints, if there are some, are listed by `ferrobeam checkpoints {job}`",
                        STARTING.as_secs()
                    ));
                }
                Some(state) => return Err(format!("{job} does not run: it is {state}")),
                None => return Err(format!("{job} does not run")),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Cancels every job and waits for the end of all.
    pub async fn stop(&self) {
        for job in self.jobs.all() {
            self.cancel(&job);
        }
        let mut running = self.running.subscribe();
        // Fails only when the sender, which `self` holds, is gone.
        let _ = running.wait_for(|running| *running == 0).await;
    }

    /// Returns the last attempt, if processes of it may still be there.
    async fn run(self: &Arc<Self>, job: &Arc<Job>, preparation: Preparation, earlier: Earlier) -> Option<Leaving> {
        if self.config.check_against.is_some() {
            let outcome = self.check(job, preparation).await;
            finish(job, outcome, Bytes::new());
            return None;
        }
        let count = preparation.options.processes.unwrap_or(self.config.processes).get();
        let mut work = self.work(job, preparation, count);
        let (outcome, leaving) = match &mut work {
            Ok(work) => match self.turn(job).await {
                Ok(slot) => {
                    if let Some(checkpoints) = work.checkpoints.as_mut().filter(|_| earlier.has_checkpoint) {
                        checkpoints.had_some();
                    }
                    self.attempts(job, work, earlier.attempts, slot).await
                }
                Err(outcome) => (outcome, None),
            },
            Err(reason) => (Outcome::Failed(std::mem::take(reason)), None),
        };
        let results = metrics::results(&job.metrics().live()).encode_to_vec().into();
        if !self.record_end(job, &outcome, &results).await {
            return leaving;
        }
        let checkpoints = work.ok().and_then(|work| work.checkpoints);
        let end = job.close(outcome.state());
        if let Some(checkpoints) = checkpoints {
            if let Some(left) = checkpoints.left_by(end) {
                job.say(Message::now(Importance::Warning, left));
            }
            if !checkpoints.stay_after(end) {
                checkpoints.forget().await;
            }
        }
        finish(job, outcome, results);
        leaving
    }

    /// Runs a job until it ends or is not run again.
    async fn attempts(
        self: &Arc<Self>,
        job: &Arc<Job>,
        work: &mut Work,
        earlier: u64,
        slot: OwnedSemaphorePermit,
    ) -> (Outcome, Option<Leaving>) {
        let mut generation = Generation(earlier).next();
        let mut history = match begin_again(job, work, earlier) {
            Ok(history) => history,
            Err(outcome) => return (outcome, None),
        };
        loop {
            job.begin(generation);
            let mut begun = Instant::now();
            let before = work.checkpoints.as_ref().and_then(Checkpoints::latest);
            let (outcome, attempt) = match self.beginning(job, generation, work).await {
                Ok(()) => match self.recorded_places(job, generation, work.processes).await {
                    Ok(places) => {
                        begun = Instant::now();
                        self.attempt(job, generation, work, places).await
                    }
                    Err(outcome) => (outcome, None),
                },
                Err(outcome) => (outcome, None),
            };
            let Outcome::Lost(how) = outcome else {
                return (outcome, attempt.map(|attempt| Leaving { attempt, slot }));
            };
            if self.is_suspended() {
                return (Outcome::Lost(how), None);
            }
            if let Some(checkpoints) = &mut work.checkpoints {
                checkpoints.lost_process();
            }
            let mut cancelled = job.cancelled();
            if *cancelled.borrow() {
                return (Outcome::Cancelled, None);
            }
            let after = work.checkpoints.as_ref().and_then(Checkpoints::latest);
            let loss = Loss { how, ran: begun.elapsed(), progressed: after > before };
            let from = if work.checkpoints.is_some() { "its latest checkpoint" } else { "its start" };
            let (delay, message) = match work.restarts.decide(&history, &loss, from) {
                Verdict::Restart { delay, message } => (delay, message),
                Verdict::GiveUp { message } => return (Outcome::Failed(message), None),
            };
            history.push(&loss);
            generation = generation.next();
            job.begin(generation);
            job.say(Message::now(Importance::Warning, message));
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                // Fails only when the sender, which the job holds, is gone.
                _ = cancelled.wait_for(|cancelled| *cancelled) => return (Outcome::Cancelled, None),
            }
        }
    }

    /// Finds what an attempt of a job with checkpoints begins from.
    async fn beginning(&self, job: &Job, generation: Generation, work: &mut Work) -> Result<(), Outcome> {
        let Some(checkpoints) = &mut work.checkpoints else { return Ok(()) };
        let mut cancelled = job.cancelled();
        let from = tokio::select! {
            from = checkpoints.prepare(generation) => from?,
            // Fails only when the sender, which the job holds, is gone.
            _ = cancelled.wait_for(|cancelled| *cancelled) => return Err(Outcome::Cancelled),
        };
        let (from, remarks) = from;
        for remark in remarks {
            job.say(Message::now(Importance::Warning, remark));
        }
        if from != checkpoints::START {
            job.say(Message::now(Importance::Basic, format!("the job goes on from {from}")));
        }
        Ok(())
    }

    /// Runs a job once. Whoever says that it is a process of this generation is let in for as long.
    async fn attempt(
        self: &Arc<Self>,
        job: &Arc<Job>,
        generation: Generation,
        work: &mut Work,
        places: Vec<agents::Place>,
    ) -> (Outcome, Option<Attempt>) {
        let token = secret();
        self.grants.grant(&token, work.staged.contents.clone());
        let (signals, received) = mpsc::unbounded_channel();
        let live = attach::Live::new(Arc::clone(job), generation, token.clone(), places.len(), signals.clone());
        self.lock_live().insert(job.id().clone(), live);
        let mut attempt = Attempt::new(
            Arc::clone(job),
            generation,
            Arc::clone(&self.agents),
            self.config.clone(),
            received,
            work.deployable.deployment(&token, work.checkpoints.as_ref().map(Checkpoints::deployment)),
        );
        attempt.start(places, &token, &signals);
        let outcome = attempt.run(&mut work.checkpoints).await;
        self.lock_live().remove(job.id());
        self.grants.revoke(&token);
        (outcome, Some(attempt))
    }

    /// Waits for the job's turn.
    async fn turn(&self, job: &Job) -> Result<OwnedSemaphorePermit, Outcome> {
        let mut cancelled = job.cancelled();
        tokio::select! {
            biased;
            // Fails only when the sender, which the job holds, is gone.
            _ = cancelled.wait_for(|cancelled| *cancelled) => Err(Outcome::Cancelled),
            slot = Arc::clone(&self.slots).acquire_owned() => {
                slot.map_err(|_| Outcome::Failed("the service is stopping".to_owned()))
            }
        }
    }

    /// Waits for places for the job's processes.
    async fn places(&self, job: &Job, count: usize) -> Result<Vec<agents::Place>, Outcome> {
        let capacity = self.agents.capacity();
        if capacity < count {
            let text = format!(
                "the job waits: it wants {count} processes, and all agents together take {capacity}; start more with \
                 `ferrobeam worker --join`"
            );
            job.say(Message::now(Importance::Warning, text));
        }
        let mut cancelled = job.cancelled();
        tokio::select! {
            places = self.agents.reserve(count) => Ok(places),
            // Fails only when the sender, which the job holds, is gone.
            _ = cancelled.wait_for(|cancelled| *cancelled) => Err(Outcome::Cancelled),
        }
    }

    /// What every attempt to run a job needs.
    fn work(&self, job: &Job, preparation: Preparation, processes: usize) -> Result<Work, String> {
        let Preparation { options, mut plan, staging, .. } = preparation;
        let staged = staging.staged().unwrap_or_default();
        for environment in &mut plan.environments {
            let id = environment.name.clone();
            let wrong = |e: &dyn std::fmt::Display| format!("environment {id}: {e}");
            let mut proto =
                ferrobeam_proto::pipeline::Environment::decode(environment.proto.clone()).map_err(|e| wrong(&e))?;
            staged.apply(&id, &mut proto).map_err(|e| wrong(&e))?;
            environment.proto = proto.encode_to_vec().into();
        }
        let store = options.state_backend.unwrap_or(self.config.state_backend).store();
        let test_driven = plan.is_test_driven();
        let plan = postcard::to_stdvec(&plan).map_err(|e| format!("the plan cannot be encoded: {e}"))?;
        let workers = match options.parallelism {
            Some(parallelism) => parallelism.get().div_ceil(processes),
            None => self.config.workers.get(),
        };
        let memory = options.memory.unwrap_or(self.config.memory);
        let checkpoints = match &options.checkpoints {
            None => None,
            Some(_) if test_driven => {
                let text =
                    "the job takes no checkpoints: a TestStream plays its events to their end, and from no other place";
                job.say(Message::now(Importance::Warning, text));
                None
            }
            Some(asked) => self.checkpoints(job, asked)?,
        };
        Ok(Work {
            processes,
            staged,
            restarts: RestartPolicy::new(options.retries, options.retry_delay, checkpoints.is_some()),
            deployable: Deployable::new(job, &options, plan, workers, memory, store),
            checkpoints,
        })
    }

    /// Those that a job asks for; `None` where there is no storage for them.
    fn checkpoints(&self, job: &Job, asked: &CheckpointOptions) -> Result<Option<Checkpoints>, String> {
        let storage = match &asked.storage {
            Some(url) => {
                let storage = CheckpointStorage::open(url);
                Some(storage.map_err(|error| format!("the storage of the job's checkpoints: {error}"))?)
            }
            None => self.config.checkpoints.clone(),
        };
        let Some(storage) = storage else {
            job.say(Message::now(
                Importance::Warning,
                "the job takes no checkpoints: the service has no storage for them",
            ));
            return Ok(None);
        };
        let (checkpoints, remarks) = Checkpoints::new(job.id().clone(), asked, storage, self.records.clone());
        for remark in remarks {
            job.say(Message::now(Importance::Basic, remark));
        }
        Ok(Some(checkpoints))
    }

    fn lock_live(&self) -> MutexGuard<'_, HashMap<JobId, attach::Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an earlier service did with a job.
#[derive(Clone, Copy, Debug, Default)]
struct Earlier {
    /// How often it ran the job.
    attempts: u64,
    /// A checkpoint of it was complete.
    has_checkpoint: bool,
}

/// What outlives an attempt to run a job.
#[derive(Debug)]
struct Work {
    processes: usize,
    staged: Staged,
    deployable: Deployable,
    restarts: RestartPolicy,
    checkpoints: Option<Checkpoints>,
}

/// The last attempt of a job that has ended. Its processes are on their way out.
struct Leaving {
    attempt: Attempt,
    /// Given back when they are gone.
    slot: OwnedSemaphorePermit,
}

/// Tells where a job ended: see [`Job::close`].
fn finish(job: &Job, outcome: Outcome, results: Bytes) {
    job.seal_metrics(results);
    match (job.close(outcome.state()), outcome) {
        (State::Failed, Outcome::Failed(reason) | Outcome::Lost(reason)) => job.fail(reason),
        (state, _) => job.enter(state),
    };
}

/// Whether a job that an earlier service ran so often runs again.
fn begin_again(job: &Job, work: &Work, earlier: u64) -> Result<History, Outcome> {
    if earlier == 0 || work.checkpoints.is_some() {
        return Ok(History::default());
    }
    let mut history = History::of_earlier(earlier - 1);
    let loss = Loss {
        how: "the service that ran the job is gone, and the job's processes with it".to_owned(),
        ran: Duration::MAX,
        progressed: false,
    };
    match work.restarts.decide(&history, &loss, "its start") {
        Verdict::GiveUp { message } => Err(Outcome::Failed(message)),
        Verdict::Restart { message, .. } => {
            job.say(Message::now(Importance::Warning, message));
            history.push(&loss);
            Ok(history)
        }
    }
}

/// Counts a job's task for as long as it is there, whatever ends it.
struct Running(Arc<Supervisor>);

impl Running {
    fn count(supervisor: Arc<Supervisor>) -> Running {
        supervisor.running.send_modify(|running| *running += 1);
        Running(supervisor)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| *running -= 1);
    }
}
