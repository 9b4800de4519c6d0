//! The supervisor: owns a job from `Run` to its final state.
//!
//! Each job has one task, which is the only one to move the job's state. It waits for its turn, reserves places with
//! agents, has processes started, sends them the plan when all have attached, and listens. A job of bounded input keeps
//! no checkpoint: whatever ends one of its processes early ends the job, and the other processes with it. What a
//! process reports counts only with the token of the present generation.
//!
//! Stopping is asked first, so that user code is torn down and environments end by themselves, and enforced after a
//! grace. A job is not seen to have ended before its environments were given that chance: a client that lent its own
//! process as environment leaves when it sees the end.

mod agents;
mod attach;
mod attempt;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferrobeam_runner::plan::Plan;
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc, watch};

pub use agents::{AgentId, Agents};
pub use attach::{AttachRefused, Attachment};

use crate::artifacts::{RetrievalGrants, Staged};
use crate::job::{Generation, Importance, Job, JobId, Jobs, Message, Preparation, State, secret};
use crate::metrics;
use crate::options::{JobOptions, StateBackend};
use attempt::{Attempt, Deployable, Outcome};

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
        Supervisor { config, jobs, agents, grants, slots, live: Mutex::default(), running: watch::Sender::new(0) }
    }

    /// The agents that it uses.
    pub fn agents(&self) -> &Arc<Agents> {
        &self.agents
    }

    /// Runs a job to its end.
    pub fn start(self: &Arc<Self>, job: Arc<Job>, preparation: Preparation) {
        for remark in &preparation.remarks {
            job.say(remark.clone());
        }
        job.enter(State::Starting);
        let running = Running::count(Arc::clone(self));
        tokio::spawn(async move {
            let this = Arc::clone(&running.0);
            let reaper = this.run(&job, preparation).await;
            for gone in this.jobs.retire() {
                tracing::debug!(job = %gone, "the record of a job is gone");
            }
            // The job is over for everybody but its processes, which take a moment to end.
            if let Some(attempt) = reaper {
                attempt.reap().await;
            }
            drop(running);
        });
    }

    /// Asks for a job's end. Its state says at once that this is under way.
    pub fn cancel(&self, job: &Job) {
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

    /// Cancels every job and waits for the end of all.
    pub async fn stop(&self) {
        for job in self.jobs.all() {
            self.cancel(&job);
        }
        let mut running = self.running.subscribe();
        // Fails only when the sender, which `self` holds, is gone.
        let _ = running.wait_for(|running| *running == 0).await;
    }

    async fn run(self: &Arc<Self>, job: &Arc<Job>, preparation: Preparation) -> Option<Attempt> {
        let mut cancelled = job.cancelled();
        let count = preparation.options.processes.unwrap_or(self.config.processes).get();
        let admitted = tokio::select! {
            admitted = self.admit(job, count) => admitted,
            // Fails only when the sender, which the job holds, is gone.
            _ = cancelled.wait_for(|cancelled| *cancelled) => {
                finish(job, Outcome::Cancelled);
                return None;
            }
        };
        let (slot, places) = match admitted {
            Ok(admitted) => admitted,
            Err(reason) => {
                finish(job, Outcome::Failed(reason));
                return None;
            }
        };
        let token = secret();
        let staged = preparation.staging.staged().unwrap_or_default();
        let deployable = match self.deployable(job, &preparation.options, preparation.plan, &staged, count, &token) {
            Ok(deployable) => deployable,
            Err(reason) => {
                finish(job, Outcome::Failed(reason));
                return None;
            }
        };
        self.grants.grant(&token, staged.contents);
        let (signals, received) = mpsc::unbounded_channel();
        let generation = Generation(1);
        let live = attach::Live::new(Arc::clone(job), generation, token.clone(), count, signals.clone());
        self.lock_live().insert(job.id().clone(), live);
        let mut attempt = Attempt::new(
            Arc::clone(job),
            generation,
            Arc::clone(&self.agents),
            self.config.clone(),
            received,
            deployable,
            slot,
        );
        attempt.start(places, &token, &signals);
        let outcome = attempt.run().await;
        self.lock_live().remove(job.id());
        self.grants.revoke(&token);
        finish(job, outcome);
        Some(attempt)
    }

    /// Waits for the job's turn, and for places for its processes.
    async fn admit(
        &self,
        job: &Job,
        count: usize,
    ) -> Result<(tokio::sync::OwnedSemaphorePermit, Vec<agents::Place>), String> {
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let slot = slot.map_err(|_| "the service is stopping".to_owned())?;
        let capacity = self.agents.capacity();
        if capacity < count {
            let text = format!(
                "the job waits: it wants {count} processes, and all agents together take {capacity}; start more with \
                 `ferrobeam worker --join`"
            );
            job.say(Message::now(Importance::Warning, text));
        }
        Ok((slot, self.agents.reserve(count).await))
    }

    fn deployable(
        &self,
        job: &Job,
        options: &JobOptions,
        mut plan: Plan,
        staged: &Staged,
        count: usize,
        token: &str,
    ) -> Result<Deployable, String> {
        for environment in &mut plan.environments {
            let id = environment.name.clone();
            let wrong = |e: &dyn std::fmt::Display| format!("environment {id}: {e}");
            let mut proto =
                ferrobeam_proto::pipeline::Environment::decode(environment.proto.clone()).map_err(|e| wrong(&e))?;
            staged.apply(&id, &mut proto).map_err(|e| wrong(&e))?;
            environment.proto = proto.encode_to_vec().into();
        }
        let store = options.state_backend.unwrap_or(self.config.state_backend).store();
        let plan = postcard::to_stdvec(&plan).map_err(|e| format!("the plan cannot be encoded: {e}"))?;
        let workers = match options.parallelism {
            Some(parallelism) => parallelism.get().div_ceil(count),
            None => self.config.workers.get(),
        };
        let memory = options.memory.unwrap_or(self.config.memory);
        Ok(Deployable::new(job, options, plan, workers, memory, store, token))
    }

    fn lock_live(&self) -> MutexGuard<'_, HashMap<JobId, attach::Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job that was being cancelled when it ended otherwise was cancelled, and one that was being drained was drained: the
/// table of moves has no other way.
fn finish(job: &Job, outcome: Outcome) {
    job.seal_metrics(metrics::results(&job.metrics().live()).encode_to_vec().into());
    let ended = match outcome {
        Outcome::Done => job.enter(State::Done) || job.enter(State::Drained),
        Outcome::Cancelled => false,
        Outcome::Failed(reason) => job.fail(reason),
    };
    if !ended {
        job.enter(State::Cancelled);
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
