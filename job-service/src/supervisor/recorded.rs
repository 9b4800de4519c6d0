//! What the supervisor does so that another service can go on with its jobs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ferrobeam_proto::pipeline::Pipeline;
use tokio::sync::watch;

use super::agents::Place;
use super::attempt::Outcome;
use super::{Earlier, Supervisor};
use crate::artifacts::{Staged, Staging};
use crate::job::{Generation, Importance, Job, JobId, Message, Preparation, Restored, State};
use crate::planning::{self, Understood};
use crate::recovery::{End, Historian, JobStore, Loaded, SaveError, again};

/// How often it is tried to record that an attempt begins, before that is given up.
const TRIES: u32 = 8;
/// A client that cancels or drains waits no longer than this for the record of that.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a supervisor records its jobs.
#[derive(Clone, Debug)]
pub struct Records {
    store: Arc<JobStore>,
    /// Told when another service has the jobs.
    replaced: watch::Sender<Option<String>>,
}

impl Records {
    /// In `store`. `replaced` is told when another service has the jobs, and why that is known.
    pub fn new(store: Arc<JobStore>, replaced: watch::Sender<Option<String>>) -> Records {
        Records { store, replaced }
    }

    /// Brings artifacts here that are in the storage.
    pub(super) async fn fetch(&self, staged: &Staged) -> Result<(), SaveError> {
        self.store.fetch(staged).await
    }

    /// Records that a job has completed its first checkpoint, for as long as that takes.
    pub(super) fn checkpointed(&self, job: &JobId) {
        let (store, job) = (Arc::clone(&self.store), job.clone());
        tokio::spawn(async move {
            // It fails only when another service has the job.
            let _ = again(None, || store.checkpointed(&job), |_| {}).await;
        });
    }

    fn follow(&self, historian: Historian) {
        let replaced = self.replaced.clone();
        tokio::spawn(async move {
            if let Err(error) = historian.follow().await {
                note(&replaced, &error);
            }
        });
    }

    /// Tells if that is why something was not recorded.
    fn note(&self, error: &SaveError) {
        note(&self.replaced, error);
    }
}

fn note(replaced: &watch::Sender<Option<String>>, error: &SaveError) {
    if let SaveError::Replaced = error {
        replaced.send_replace(Some(error.to_string()));
    }
}

impl Supervisor {
    /// Records its jobs. To be said before there are any.
    pub fn recording(self, records: Records) -> Supervisor {
        Supervisor { records: Some(records), ..self }
    }

    /// Records a job, and then runs it.
    pub async fn run_recorded(self: &Arc<Self>, job: Arc<Job>, preparation: Preparation) -> Result<(), SaveError> {
        if let Some(records) = &self.records {
            let staged = preparation.staging.staged().unwrap_or_default();
            if let Err(error) = records.store.add(&job, preparation.time, &staged).await {
                records.note(&error);
                job.recorded(u64::MAX);
                job.enter(State::Starting);
                job.fail(format!("the job cannot be recorded, and is not run: {error}"));
                return Err(error);
            }
            records.follow(Historian::of(Arc::clone(&records.store), Arc::clone(&job)));
        }
        self.start(job, preparation);
        Ok(())
    }

    /// Goes on with a job that an earlier service had: runs it, if it has not ended.
    pub async fn resume(self: &Arc<Self>, mut loaded: Loaded) -> Result<(), SaveError> {
        let Some(records) = &self.records else { return Ok(()) };
        if loaded.end.is_none() {
            records.store.take_over(&mut loaded).await?;
        }
        let job = self.jobs.adopt(Restored {
            id: loaded.id.clone(),
            submission: loaded.submission.clone(),
            created: loaded.created,
            events: loaded.history.events.clone(),
            next: loaded.history.next,
            metrics: loaded.end.as_ref().map(|end| end.metrics.clone()),
        });
        job.recorded(loaded.history.next);
        job.keep_staged(loaded.staged.clone());
        if let Some(end) = loaded.end {
            // It was recorded first, and its history may have been cut off before.
            if !job.state().0.is_terminal() {
                job.end_as(end.state, end.reason);
            }
            // Nothing more will be.
            job.recorded(u64::MAX);
            return Ok(());
        }
        records.follow(Historian::going_on(Arc::clone(&records.store), Arc::clone(&job), &loaded));
        let text = "the job service that had the job is gone, and this one goes on with it";
        job.say(Message::now(Importance::Warning, text));
        let (preparing, prepared) = (Arc::clone(&job), loaded.prepared);
        let staged = loaded.staged;
        let prepared = tokio::task::spawn_blocking(move || {
            let submission = preparing.submission().clone();
            let understood =
                submission.pipeline().map_err(|error| error.to_string()).and_then(|pipeline: Pipeline| {
                    planning::understand(&pipeline, &submission.options).map_err(|error| error.to_string())
                })?;
            let Understood { options, plan, .. } = understood;
            let staging = Arc::new(Staging::of_staged(staged));
            Ok(Preparation { submission, options, plan, staging, remarks: Vec::new(), time: prepared })
        });
        match prepared.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(preparation) => {
                let earlier = Earlier { attempts: loaded.attempts, has_checkpoint: loaded.has_checkpoint };
                self.go_on(job, preparation, earlier);
            }
            Err(why) => {
                job.enter(State::Starting);
                let outcome = Outcome::Failed(format!("this service cannot go on with the job: {why}"));
                if self.record_end(&job, &outcome, &Bytes::new()).await {
                    super::finish(&job, outcome, Bytes::new());
                }
            }
        }
        Ok(())
    }

    /// Returns when all that happened to a job so far is on record: true; or when that takes too long.
    pub async fn recorded(&self, job: &Job) -> bool {
        self.records.is_none() || tokio::time::timeout(PATIENCE, job.is_recorded()).await.is_ok()
    }

    /// Leaves its jobs as they are for the next service: whatever ends from now on ends because this one does.
    pub async fn suspend(&self) {
        if self.records.is_none() {
            return;
        }
        let all = async {
            for job in self.jobs.all() {
                job.is_recorded().await;
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            tracing::warn!("the last that happened to some jobs is not on record");
        }
        self.abandon();
    }

    /// The same, when the next service has them already.
    pub fn abandon(&self) {
        self.suspended.store(true, Ordering::SeqCst);
        if let Some(records) = &self.records {
            records.store.close();
        }
    }

    /// Whether jobs are left for the next service.
    pub(super) fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::SeqCst)
    }

    /// Drops the records of jobs that ended long ago.
    pub(super) async fn retire(&self) {
        for gone in self.jobs.retire() {
            tracing::debug!(job = %gone, "the record of a job is gone");
            if let Some(records) = &self.records
                && let Err(error) = records.store.remove(&gone).await
            {
                tracing::warn!(job = %gone, %error, "the record of a job that ended long ago stays in the storage");
            }
        }
    }

    /// Waits for places for an attempt, and records that it begins: from then on user code may run.
    pub(super) async fn recorded_places(
        &self,
        job: &Job,
        generation: Generation,
        processes: usize,
    ) -> Result<Vec<Place>, Outcome> {
        let places = self.places(job, processes).await?;
        if let Some(records) = &self.records {
            let attempt = || records.store.attempt(job.id(), generation);
            let recorded = again(Some(TRIES), attempt, |error| {
                tracing::warn!(job = %job.id(), %error, "an attempt to run a job cannot be recorded, and that is tried again");
            })
            .await;
            recorded
                .map_err(|error| Outcome::Lost(format!("an attempt to run the job cannot be recorded: {error}")))?;
        }
        Ok(places)
    }

    /// Records how a job ends, before anybody is told. False: the job is another service's, and has not ended.
    pub(super) async fn record_end(&self, job: &Job, outcome: &Outcome, metrics: &Bytes) -> bool {
        let Some(records) = &self.records else { return true };
        if self.is_suspended() {
            return false;
        }
        // From here on nobody turns it elsewhere.
        let state = job.close(outcome.state());
        let end = End { state, reason: reason(outcome), metrics: metrics.clone() };
        let mut told = false;
        let recorded = again(
            None,
            || records.store.end(job.id(), &end),
            |error| {
                if !std::mem::replace(&mut told, true) {
                    let text = format!("the job is over, and is told so once that is on record: {error}");
                    job.say(Message::now(Importance::Warning, text));
                }
            },
        );
        let recorded = recorded.await;
        recorded.inspect_err(|error| records.note(error)).is_ok()
    }
}

fn reason(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Failed(reason) | Outcome::Lost(reason) => Some(reason.clone()),
        Outcome::Done | Outcome::Cancelled => None,
    }
}
