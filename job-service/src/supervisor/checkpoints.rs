//! The checkpoints of one job: the coordinator with a clock, and with somebody to write manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrobeam_runner::kafka::KafkaInDoubt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::attempt::Outcome;
use super::coordinator::{Coordinator, Decision, Event, Purpose, Settings};
use super::manifests::{self, JournalManifests};
use super::recorded::Records;
use crate::checkpoint::{Epoch, OpenError, Options, Part, Storage, path_of};
use crate::control::v1;
use crate::control::v1::process_order::Order;
use crate::job::{Generation, JobId, State};
use crate::options::{CheckpointOptions, StartFrom};

/// A job whose attempt has run for so long goes on: who cannot have its harnesses is told so before.
const RECOVERED: Duration = Duration::from_secs(120);

/// Names all that makes up a checkpoint. It is one when this is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The job.
    pub job: JobId,
    /// The attempt that saved the parts.
    pub generation: Generation,
    /// The number of the checkpoint.
    pub epoch: Epoch,
    /// Whether somebody asked for it.
    pub purpose: Purpose,
    /// What every process saved.
    pub parts: Vec<Part>,
}

/// Why a manifest is not known to be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It certainly is not.
    #[error("{0}")]
    NotWritten(String),
    /// It may be.
    #[error("{0}")]
    Unknown(String),
}

/// A checkpoint that a job can go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restorable {
    /// Its number.
    pub epoch: Epoch,
    /// Its manifest, as a job process reads it.
    pub manifest: Bytes,
}

/// What an attempt begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beginning {
    /// The latest checkpoint that is durable; `None`: the attempt begins from the job's start.
    pub restorable: Option<Restorable>,
    /// The greatest number that is taken: checkpoints of this attempt have greater ones.
    pub taken: Epoch,
    /// A line for each later one that is not whole.
    pub unusable: Vec<String>,
}

/// Writes and finds manifests.
#[tonic::async_trait]
pub trait ManifestStore: fmt::Debug + Send + Sync {
    /// Returns when the manifest is durable. Refuses one of an attempt that another has replaced.
    async fn write(&self, manifest: Manifest) -> Result<(), ManifestError>;

    /// Begins an attempt: from here on, no earlier one may write. It is not to begin from a checkpoint of `damaged`.
    async fn begin(&self, job: &JobId, generation: Generation, damaged: &BTreeSet<Epoch>) -> Result<Beginning, String>;

    /// There are more checkpoints than the job keeps: so many.
    async fn discard(&self, job: JobId, retained: NonZeroUsize);

    /// The job is over, and nobody will want its checkpoints.
    async fn forget(&self, job: &JobId);
}

/// Where a service keeps checkpoints.
#[derive(Clone, Debug)]
pub struct CheckpointStorage {
    /// The URL of the storage, for job processes.
    pub url: String,
    /// Writes the manifests there.
    pub manifests: Arc<dyn ManifestStore>,
}

impl CheckpointStorage {
    /// That of a URL, with what the environment says of credentials and the like.
    pub fn open(url: &str) -> Result<CheckpointStorage, OpenError> {
        let storage = Storage::open(url, &Options::of_environment())?;
        Ok(CheckpointStorage { url: url.to_owned(), manifests: Arc::new(JournalManifests::new(storage)) })
    }
}

/// See the module. Lives as long as the job.
#[derive(Debug)]
pub(super) struct Checkpoints {
    job: JobId,
    storage: CheckpointStorage,
    records: Option<Records>,
    interval: u64,
    retained: NonZeroUsize,
    start_from: Option<StartFrom>,
    allow_non_restored_state: bool,
    kafka_at_least_once: bool,
    kafka_in_doubt: v1::KafkaInDoubt,
    renamed: BTreeMap<String, String>,
    /// As the options say.
    externalized: bool,
    retained_on_cancellation: bool,
    coordinator: Coordinator<Vec<Part>>,
    /// The coordinator's time is reckoned from here.
    zero: Instant,
    wake: Option<Instant>,
    written: mpsc::UnboundedReceiver<Written>,
    tell: mpsc::UnboundedSender<Written>,
    /// What the present attempt began from.
    beginning: Beginning,
    /// Checkpoints whose files do not hold what they did.
    damaged: BTreeSet<Epoch>,
    /// The latest that was taken while this service ran the job.
    latest: Option<Epoch>,
    /// Who waits for the next savepoint, and for the one that is being taken.
    asked: Vec<Asked>,
    awaited: Vec<Asked>,
    /// Savepoints that were taken. They stay.
    savepoints: u64,
    /// They stay when the job fails.
    kept: bool,
    /// It has lost a process, and it is not known yet that it can go on.
    disturbed: bool,
    /// When the present attempt began.
    begun: Instant,
    /// Where the files are that it begins with, if they are another job's.
    restore_url: String,
}

/// Somebody who waits for a savepoint.
#[derive(Debug)]
struct Asked {
    answer: Answer,
    /// The job is to stop with it.
    stop: bool,
}

/// Takes the path of a savepoint, or why there is none.
pub(super) type Answer = oneshot::Sender<Result<String, String>>;

/// How a manifest was written.
#[derive(Debug)]
struct Written {
    epoch: Epoch,
    result: Result<(), ManifestError>,
}

/// What processes and the attempt are to do.
#[derive(Debug)]
pub(super) enum Todo {
    /// Every process.
    Tell(Box<Order>),
    /// For the job's owner.
    Warn(String),
    /// The attempt cannot go on.
    Fail(String),
    /// The job ends with its savepoint.
    Stop,
}

impl Checkpoints {
    /// Those of a job that asks for them; with what is to be said about that.
    /// That one is complete is recorded in `records`.
    pub(super) fn new(
        job: JobId,
        asked: &CheckpointOptions,
        storage: CheckpointStorage,
        records: Option<Records>,
    ) -> (Checkpoints, Vec<String>) {
        let (settings, remarks) = Settings::new(asked);
        let (tell, written) = mpsc::unbounded_channel();
        let checkpoints = Checkpoints {
            job,
            storage,
            records,
            interval: settings.interval,
            retained: asked.retained,
            start_from: asked.start_from.clone(),
            allow_non_restored_state: asked.allow_non_restored_state,
            kafka_at_least_once: asked.at_least_once,
            kafka_in_doubt: match asked.kafka_in_doubt {
                KafkaInDoubt::Fail => v1::KafkaInDoubt::Unspecified,
                KafkaInDoubt::Written => v1::KafkaInDoubt::Written,
                KafkaInDoubt::Write => v1::KafkaInDoubt::Write,
            },
            renamed: asked.renamed.clone(),
            externalized: asked.externalized,
            retained_on_cancellation: asked.retained_on_cancellation,
            coordinator: Coordinator::new(settings),
            zero: Instant::now(),
            wake: None,
            written,
            tell,
            beginning: Beginning::default(),
            damaged: BTreeSet::new(),
            latest: None,
            restore_url: String::new(),
            asked: Vec::new(),
            awaited: Vec::new(),
            savepoints: 0,
            kept: false,
            disturbed: false,
            begun: Instant::now(),
        };
        (checkpoints, remarks)
    }

    /// For processes that are about to start.
    pub(super) fn deployment(&self) -> v1::Checkpoints {
        v1::Checkpoints {
            storage_url: self.storage.url.clone(),
            folder: self.job.to_string(),
            interval_millis: self.interval,
            restore: self.beginning.restorable.as_ref().map(|restored| restored.manifest.clone()).unwrap_or_default(),
            restore_storage_url: self.restore_url.clone(),
            allow_non_restored_state: self.allow_non_restored_state,
            kafka_at_least_once: self.kafka_at_least_once,
            kafka_in_doubt: self.kafka_in_doubt.into(),
            renamed_transforms: self.renamed.clone(),
        }
    }

    /// The processes of an attempt run.
    pub(super) fn started(&self, processes: usize) -> Event<Vec<Part>> {
        let processes = u32::try_from(processes).unwrap_or(u32::MAX);
        Event::Started { processes, taken: self.beginning.taken }
    }

    /// The next event that no process is the cause of.
    pub(super) async fn event(&mut self) -> Event<Vec<Part>> {
        tokio::select! {
            // `self` holds a sender.
            Some(Written { epoch, result }) = self.written.recv() => match result {
                Ok(()) => Event::ManifestWritten { epoch },
                Err(error) => {
                    let certain = matches!(error, ManifestError::NotWritten(_));
                    Event::ManifestFailed { epoch, why: error.to_string(), certain }
                }
            },
            () = super::attempt::until(self.wake) => Event::Woken,
        }
    }

    /// Takes an event of an attempt, and returns what it is to do about it.
    pub(super) fn step(&mut self, generation: Generation, event: Event<Vec<Part>>) -> Vec<Todo> {
        let now = u64::try_from(self.zero.elapsed().as_millis()).unwrap_or(u64::MAX);
        let starts = matches!(event, Event::Started { .. });
        let over = starts || matches!(event, Event::Stop | Event::ProcessLost);
        if over {
            let mut why = "the job ended, or lost a process, before it had saved its state: ask again".to_owned();
            if let Event::ProcessLost = event
                && let Some(from) = self.start_from_them()
            {
                why.push_str(&format!(
                    ". Where it cannot run any more, cancel it: its last checkpoint stays then, and another job goes on from it with \
                     {from}"
                ));
            }
            if !starts {
                self.awaited.append(&mut self.asked);
            }
            self.answer(&Err(why));
        }
        self.wake = None;
        let mut decisions = self.coordinator.step(now, event);
        // Asked for while the attempt was being started: it is there to save now.
        if starts && !self.asked.is_empty() {
            let stop = self.asked.iter().any(|asked| asked.stop);
            decisions.extend(self.coordinator.step(now, Event::SavepointAsked { stop }));
        }
        // Of what fails the attempt the attempt speaks.
        let told = !over && !decisions.iter().any(|decision| matches!(decision, Decision::FailJob { .. }));
        let mut todo = Vec::new();
        for decision in decisions {
            self.carry_out(generation, decision, told, &mut todo);
        }
        todo
    }

    fn carry_out(&mut self, generation: Generation, decision: Decision<Vec<Part>>, told: bool, todo: &mut Vec<Todo>) {
        match decision {
            Decision::Begin { epoch, purpose } => {
                if purpose == Purpose::Savepoint {
                    self.awaited.append(&mut self.asked);
                }
                todo.push(Todo::Tell(Box::new(Order::Checkpoint(v1::Checkpoint { epoch: epoch.0 }))));
            }
            Decision::Commit { epoch, purpose, parts } => {
                let parts = parts.into_iter().flatten().collect();
                let manifest = Manifest { job: self.job.clone(), generation, epoch, purpose, parts };
                let (manifests, tell) = (Arc::clone(&self.storage.manifests), self.tell.clone());
                tokio::spawn(async move {
                    let result = manifests.write(manifest).await;
                    // The job is over when nobody listens.
                    let _ = tell.send(Written { epoch, result });
                });
            }
            Decision::Committed { epoch, purpose } => {
                // A checkpoint is complete also while harnesses are away, if there is nothing that they would have to do for it.
                self.disturbed &= self.begun.elapsed() < RECOVERED;
                if self.latest.replace(epoch).is_none()
                    && let Some(records) = &self.records
                {
                    records.checkpointed(&self.job);
                }
                if purpose == Purpose::Savepoint {
                    self.savepoints += 1;
                    self.answer(&Ok(path_of(&self.storage.url, &self.job, epoch)));
                }
                todo.push(Todo::Tell(Box::new(Order::CheckpointCommitted(v1::CheckpointCommitted { epoch: epoch.0 }))));
            }
            Decision::Aborted { epoch, purpose, why } => {
                if purpose == Purpose::Savepoint {
                    self.answer(&Err(why.clone()));
                }
                todo.push(Todo::Tell(Box::new(Order::CheckpointAborted(v1::CheckpointAborted { epoch: epoch.0 }))));
                if told {
                    todo.push(Todo::Warn(format!("checkpoint {epoch} failed: {why}")));
                }
            }
            Decision::Discard { .. } => {
                let (manifests, job, retained) = (Arc::clone(&self.storage.manifests), self.job.clone(), self.retained);
                tokio::spawn(async move { manifests.discard(job, retained).await });
            }
            Decision::FailJob { why } => todo.push(Todo::Fail(why)),
            Decision::StopJob => todo.push(Todo::Stop),
            // Beyond what a clock can show, it is never.
            Decision::WakeAt { time } => self.wake = self.zero.checked_add(Duration::from_millis(time)),
        }
    }

    /// Finds what the next attempt begins from, once it is known what became of a manifest that the last one left behind.
    /// Returns that in words, and what else is to be said.
    pub(super) async fn prepare(&mut self, generation: Generation) -> Result<(String, Vec<String>), Outcome> {
        while self.coordinator.is_writing() {
            let event = self.event().await;
            // There is no process to tell.
            self.step(generation, event);
        }
        self.begun = Instant::now();
        let beginning = self.storage.manifests.begin(&self.job, generation, &self.damaged).await;
        self.beginning =
            beginning.map_err(|why| Outcome::Lost(format!("the job's latest checkpoint cannot be found: {why}")))?;
        let unusable = std::mem::take(&mut self.beginning.unusable);
        let own = self.beginning.restorable.as_ref();
        if own.is_none() && (!unusable.is_empty() || self.latest.is_some()) {
            return Err(Outcome::Failed(self.none_is_usable(&unusable)));
        }
        let mut from = own.map_or_else(|| START.to_owned(), |latest| format!("checkpoint {}", latest.epoch));
        self.restore_url.clear();
        if let (None, Some(start_from)) = (own, &self.start_from) {
            let found = manifests::find(start_from).await;
            let found = found.map_err(|why| Outcome::Failed(format!("{start_from} cannot be started from: {why}")))?;
            from = format!("checkpoint {} of {}", found.epoch, start_from.job);
            self.beginning.restorable = Some(found);
            self.restore_url.clone_from(&start_from.storage);
        }
        Ok((from, unusable))
    }

    /// The job had checkpoints. To begin again without one would repeat what it has done, unasked.
    fn none_is_usable(&self, unusable: &[String]) -> String {
        let folder = format!("{}/{}", self.storage.url.trim_end_matches('/'), self.job);
        let mut message = format!("the job cannot go on: none of its checkpoints in {folder} can be used");
        if unusable.is_empty() {
            message.push_str("; they are gone");
        }
        for line in unusable {
            message.push_str(&format!("\n  {line}"));
        }
        message.push_str("\n\nSubmit it again to begin from its start, or from a savepoint by --savepoint_path.");
        message
    }

    /// Whether the job has one of its own.
    pub(super) fn has_some(&self) -> bool {
        self.latest.is_some() || (self.beginning.restorable.is_some() && self.restore_url.is_empty())
    }

    /// One was complete before this service had the job: without any, it does not begin from its start.
    pub(super) fn had_some(&mut self) {
        self.latest.get_or_insert(Epoch(0));
        self.disturbed = true;
    }

    /// The job has lost a process. Until an attempt has run for a while, who cancels it may do so because it cannot go on.
    pub(super) fn lost_process(&mut self) {
        self.disturbed = true;
    }

    /// The latest that was completed here.
    pub(super) fn latest(&self) -> Option<Epoch> {
        self.latest
    }

    /// A process has found a file of the checkpoint that the attempt began from to be damaged.
    pub(super) fn distrust(&mut self, epoch: Epoch) {
        self.damaged.insert(epoch);
    }

    /// Answers once there is a savepoint.
    pub(super) fn ask_for_savepoint(&mut self, answer: Answer, stop: bool) {
        self.asked.push(Asked { answer, stop });
    }

    fn answer(&mut self, answer: &Result<String, String>) {
        for waiting in self.awaited.drain(..) {
            // Who asked may have gone.
            let _ = waiting.answer.send(answer.clone());
        }
    }

    /// They stay when the job fails. Gives what its owner is to know of that, if there are some.
    pub(super) fn keep(&mut self) -> Option<String> {
        self.kept = true;
        Some(format!("\n\nThe job's checkpoints stay: another goes on from them with {}", self.start_from_them()?))
    }

    /// The option by which another job goes on from them, if there are some.
    fn start_from_them(&self) -> Option<String> {
        let (url, job) = (self.storage.url.trim_end_matches('/'), &self.job);
        self.has_some().then(|| format!("--savepoint_path={url}/{job}"))
    }

    /// What the owner of a job that ended like this is to know of its checkpoints: those of one that was disturbed stay, where
    /// others would be gone.
    pub(super) fn left_by(&self, end: State) -> Option<String> {
        let unasked = self.disturbed && end == State::Cancelled && self.savepoints == 0;
        let from = self.start_from_them().filter(|_| unasked)?;
        Some(format!(
            "the job had lost a process and was not seen to go on since, so its last checkpoint stays: another goes on from it with \
             {from}"
        ))
    }

    /// Whether a job that ended like this leaves its last checkpoint behind.
    pub(super) fn stay_after(&self, end: State) -> bool {
        match end {
            _ if self.savepoints > 0 => true,
            State::Failed if self.kept => true,
            State::Failed => self.externalized,
            State::Cancelled => self.disturbed || (self.externalized && self.retained_on_cancellation),
            State::Done | State::Drained => false,
            State::Stopped | State::Starting | State::Running | State::Cancelling | State::Draining => true,
        }
    }

    /// The job is over, and goes on from none of them.
    pub(super) async fn forget(&self) {
        self.storage.manifests.forget(&self.job).await;
    }
}

/// Where an attempt begins that has no checkpoint to begin from.
pub(super) const START: &str = "its start";
