//! The records of a service's jobs in its storage: [`JobStore`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;

use super::election::Ballot;
use super::error::SaveError;
use super::framed::{frame, unframe};
use super::saved::{End, NumberedEvent, Piece, millis, time};
use super::v1;
use crate::artifacts::{ContentHash, EnvironmentArtifacts, Staged, Store};
use crate::checkpoint::{
    Claim, Epoch, FileHashes, FileKey, FileRef, Files, Key, Known, Sealed, ServiceLayout, Storage, parse_number, unseal,
};
use crate::job::{Event, Generation, Job, JobId, Submission};

/// Bytes of the record of a job: a pipeline is no longer than a message may be.
const MAX_RECORD: u64 = 2 << 30;
/// Bytes of a piece of history.
const MAX_PIECE: u64 = 256 << 20;
/// Artifacts are files of this epoch.
const ARTIFACTS: Epoch = Epoch(0);

/// See the module. Only the service that leads has one.
#[derive(Debug)]
pub struct JobStore {
    storage: Storage,
    artifacts: Store,
    files: Files,
    ballot: Option<Ballot>,
    closed: AtomicBool,
    contents: tokio::sync::Mutex<Contents>,
}

/// What of artifacts is in the storage, and for whom.
#[derive(Debug, Default)]
struct Contents {
    stored: BTreeSet<ContentHash>,
    wanted: HashMap<JobId, BTreeSet<ContentHash>>,
}

/// A job as an earlier service left it.
#[derive(Debug)]
pub struct Loaded {
    /// Its id.
    pub id: JobId,
    /// What was submitted.
    pub submission: Submission,
    /// When it was prepared.
    pub prepared: SystemTime,
    /// When it was run.
    pub created: SystemTime,
    /// The artifacts of its environments.
    pub staged: Staged,
    /// How often its processes were started; none of them may go on.
    pub attempts: u64,
    /// It has completed a checkpoint.
    pub has_checkpoint: bool,
    /// What happened to it.
    pub history: Loading,
    /// How it ended, if it did.
    pub end: Option<End>,
}

/// The history of a job, as far as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loading {
    /// By number.
    pub events: BTreeMap<u64, Event>,
    /// The number of the next event.
    pub next: u64,
    /// The number of the next piece.
    pub(super) piece: u64,
    /// The greatest number of a leader that has written of it.
    leader: u64,
}

impl Loading {
    fn add(&mut self, piece: Piece) {
        if piece.whole {
            self.events.clear();
        }
        self.events.extend(piece.events.into_iter().filter_map(NumberedEvent::event));
        self.next = self.next.max(piece.next);
        self.leader = self.leader.max(piece.leader);
    }
}

impl JobStore {
    /// In `storage`. Artifacts are taken from `artifacts`, and put there. `ballot` says whether the service still leads;
    /// without one it does.
    pub fn new(storage: Storage, artifacts: Store, ballot: Option<Ballot>) -> JobStore {
        let files = Files::at(&storage, ServiceLayout::artifacts());
        let closed = AtomicBool::new(false);
        JobStore { storage, artifacts, files, ballot, closed, contents: tokio::sync::Mutex::default() }
    }

    /// Which leader this one is.
    pub(super) fn leader(&self) -> u64 {
        self.ballot.as_ref().map_or(1, Ballot::leader)
    }

    /// Whether this service still leads.
    pub(super) async fn leads(&self) -> Result<bool, SaveError> {
        match &self.ballot {
            Some(ballot) => ballot.leads().await,
            None => Ok(true),
        }
    }

    /// What was just written counts only if nobody had taken over by now: whoever does later reads it.
    async fn confirm(&self) -> Result<(), SaveError> {
        if self.leads().await? { Ok(()) } else { Err(SaveError::Replaced) }
    }

    /// Writes no more from now on: the jobs are another's.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn open(&self) -> Result<(), SaveError> {
        if self.is_closed() { Err(SaveError::Closed) } else { Ok(()) }
    }

    /// Records a job with what its environments need. It is the service's from then on.
    pub async fn add(&self, job: &Job, prepared: SystemTime, staged: &Staged) -> Result<(), SaveError> {
        self.open()?;
        let id = job.id();
        let contents = self.keep_contents(id, staged).await?;
        let submission = job.submission();
        let staged = staged.environments.iter().map(|set| v1::StagedArtifacts {
            environment: set.environment.clone(),
            alternative: set.alternative.iter().map(|at| *at as u64).collect(),
            artifacts: set.artifacts.clone(),
        });
        let record = v1::Job {
            job_id: id.to_string(),
            name: submission.name.clone(),
            pipeline_options: Some(submission.options.clone()),
            pipeline: submission.pipeline.clone(),
            prepared_millis: millis(prepared),
            created_millis: millis(job.created()),
            staged: staged.collect(),
            contents,
        };
        self.storage.put(&ServiceLayout::job(id)?, frame(&record)).await?;
        self.confirm().await
    }

    /// Stores what is not there yet.
    async fn keep_contents(&self, id: &JobId, staged: &Staged) -> Result<Vec<Bytes>, SaveError> {
        let mut contents = self.contents.lock().await;
        let missing: Vec<_> = staged.contents.difference(&contents.stored).copied().collect();
        if !missing.is_empty() {
            let folder = self.artifacts.links(&missing)?;
            self.files.upload(folder.path(), ARTIFACTS, &Known::nothing(), &mut FileHashes::default()).await?;
            contents.stored.extend(missing);
        }
        contents.wanted.insert(id.clone(), staged.contents.clone());
        let bytes = |hash: &ContentHash| Bytes::copy_from_slice(&<[u8; 32]>::from(*hash));
        Ok(staged.contents.iter().map(bytes).collect())
    }

    /// Records that processes of the job are about to be started.
    pub async fn attempt(&self, job: &JobId, generation: Generation) -> Result<(), SaveError> {
        self.open()?;
        let key = ServiceLayout::numbered(&ServiceLayout::attempts(job)?, generation.0);
        Ok(self.storage.put(&key, Bytes::from_static(b"begun\n")).await?)
    }

    /// Records that a job has completed a checkpoint: it never begins from its start again.
    pub async fn checkpointed(&self, job: &JobId) -> Result<(), SaveError> {
        self.open()?;
        Ok(self.storage.put(&ServiceLayout::has_checkpoint(job)?, Bytes::from_static(b"completed\n")).await?)
    }

    /// Records how a job ended. [`SaveError::Replaced`]: another service has the job, and this says nothing.
    pub async fn end(&self, job: &JobId, end: &End) -> Result<(), SaveError> {
        self.open()?;
        self.storage.put(&ServiceLayout::end(job, self.leader())?, frame(&end.to_proto())).await?;
        self.confirm().await
    }

    /// Records a piece of a job's history. [`SaveError::Replaced`]: another service has recorded that piece.
    pub(super) async fn append(&self, job: &JobId, number: u64, piece: &Sealed) -> Result<(), SaveError> {
        self.open()?;
        let key = ServiceLayout::numbered(&ServiceLayout::history(job)?, number);
        match self.storage.create_once(&key, piece).await {
            Claim::Won => Ok(()),
            Claim::Lost { .. } => Err(SaveError::Replaced),
            Claim::Unknown(error) => Err(error.into()),
        }
    }

    /// Removes pieces of a job's history.
    pub(super) async fn forget_pieces(&self, job: &JobId, numbers: std::ops::Range<u64>) -> Result<(), SaveError> {
        let folder = ServiceLayout::history(job)?;
        let keys: Vec<Key> = numbers.map(|number| ServiceLayout::numbered(&folder, number)).collect();
        Ok(self.storage.delete(&keys).await?)
    }

    /// All jobs that are recorded, in the order in which they were run; and of each that cannot be read, why.
    pub async fn load(&self) -> Result<(Vec<Loaded>, Vec<SaveError>), SaveError> {
        let artifacts = self.storage.list(&ServiceLayout::artifacts().folders()[2]).await?;
        self.contents.lock().await.stored = artifacts
            .iter()
            .filter_map(|it| crate::checkpoint::layout::parse_file(&it.key))
            .map(|it| it.sha256)
            .collect();
        let (mut loaded, mut bad) = (Vec::new(), Vec::new());
        let mut known = BTreeSet::new();
        let ends = self.storage.list(&ServiceLayout::ends()).await?;
        let ends: BTreeMap<JobId, u64> = ends.iter().filter_map(|it| ServiceLayout::parse_end(&it.key)).collect();
        let checkpointed = self.storage.list(&ServiceLayout::checkpointed()).await?;
        let checkpointed: BTreeSet<&str> = checkpointed.iter().map(|it| it.key.name()).collect();
        for object in self.storage.list(&ServiceLayout::jobs()).await? {
            let id = JobId::named(object.key.name());
            known.insert(id.clone());
            match self.load_job(&id, &object.key, ends.get(&id).copied()).await {
                Ok(mut job) => {
                    job.has_checkpoint = checkpointed.contains(id.as_str());
                    let contents = job.staged.contents.clone();
                    self.contents.lock().await.wanted.insert(id, contents);
                    loaded.push(job);
                }
                Err(error) => bad.push(error),
            }
        }
        // What a removal left that was cut off.
        for id in ends.keys().filter(|id| !known.contains(*id)) {
            self.remove(id).await?;
        }
        loaded.sort_by_key(|job| job.created);
        Ok((loaded, bad))
    }

    async fn load_job(&self, id: &JobId, key: &Key, ended: Option<u64>) -> Result<Loaded, SaveError> {
        let content = |what: &str| SaveError::Content { job: id.to_string(), what: what.to_owned() };
        let record: v1::Job = self.read(key, MAX_RECORD).await?;
        if record.job_id != id.as_str() {
            return Err(content("it is that of another job"));
        }
        let mut contents = BTreeSet::new();
        for sha256 in record.contents {
            let hash: [u8; 32] = sha256.as_ref().try_into().map_err(|_| content("a hash is not 32 bytes long"))?;
            contents.insert(ContentHash::from(hash));
        }
        let environments = record.staged.into_iter().map(|set| EnvironmentArtifacts {
            environment: set.environment,
            alternative: set.alternative.into_iter().map(|at| at as usize).collect(),
            artifacts: set.artifacts,
        });
        let staged = Staged { environments: environments.collect(), contents };
        let history = self.history(id).await?;
        // What one says who had been replaced says nothing.
        let end = match ended.filter(|leader| *leader >= history.leader) {
            Some(leader) => {
                let end = self.read(&ServiceLayout::end(id, leader)?, MAX_RECORD).await?;
                Some(End::of_proto(end).ok_or_else(|| content("it ended in a state that is no end"))?)
            }
            None => None,
        };
        let attempts = self.storage.list(&ServiceLayout::attempts(id)?).await?;
        Ok(Loaded {
            id: id.clone(),
            submission: Submission {
                name: record.name,
                options: record.pipeline_options.unwrap_or_default(),
                pipeline: record.pipeline,
                unbounded: false,
            },
            prepared: time(record.prepared_millis),
            created: time(record.created_millis),
            staged,
            attempts: attempts.iter().filter_map(|it| parse_number(&it.key)).max().unwrap_or(0),
            has_checkpoint: false,
            history,
            end,
        })
    }

    async fn read<M: prost::Message + Default>(&self, key: &Key, limit: u64) -> Result<M, SaveError> {
        let bytes = self.storage.get(key, limit).await?;
        unframe(&bytes).map_err(|source| SaveError::Record { key: key.clone(), source })
    }

    async fn history(&self, id: &JobId) -> Result<Loading, SaveError> {
        let listed = self.storage.list(&ServiceLayout::history(id)?).await?;
        let mut numbered: Vec<(u64, Key)> =
            listed.into_iter().filter_map(|it| Some((parse_number(&it.key)?, it.key))).collect();
        numbered.sort();
        let mut pieces = Vec::new();
        // Those before one that is whole are being removed.
        for (_, key) in numbered.iter().rev() {
            let piece: Piece = match unseal(&self.storage.get(key, MAX_PIECE).await?) {
                Ok(piece) => piece.value,
                // Messages are lost with it; the job is not.
                Err(error) => {
                    tracing::warn!(%key, %error, "a piece of the history of a job cannot be read, and is left out");
                    continue;
                }
            };
            let whole = piece.whole;
            pieces.push(piece);
            if whole {
                break;
            }
        }
        let mut history = Loading { piece: numbered.last().map_or(1, |(last, _)| last + 1), ..Loading::default() };
        pieces.into_iter().rev().for_each(|piece| history.add(piece));
        Ok(history)
    }

    /// Takes a job over from the service that had it: from here on, that one records nothing of it any more. Fetches what
    /// its environments need.
    pub async fn take_over(&self, loaded: &mut Loaded) -> Result<(), SaveError> {
        let id = loaded.id.clone();
        let history = &mut loaded.history;
        loop {
            let numbered = history.events.iter().map(|(number, event)| NumberedEvent::of(*number, event.clone()));
            let whole = Piece { whole: true, leader: self.leader(), events: numbered.collect(), next: history.next };
            match self.append(&id, history.piece, &whole.sealed()?).await {
                Ok(()) => break,
                // A last piece that was on its way.
                Err(SaveError::Replaced) => {
                    let key = ServiceLayout::numbered(&ServiceLayout::history(&id)?, history.piece);
                    if let Ok(piece) = unseal(&self.storage.get(&key, MAX_PIECE).await?) {
                        history.add(piece.value);
                    }
                    history.piece += 1;
                }
                Err(error) => return Err(error),
            }
        }
        history.piece += 1;
        self.fetch(&loaded.staged).await
    }

    /// Brings artifacts here that are not.
    pub async fn fetch(&self, staged: &Staged) -> Result<(), SaveError> {
        let mut missing = Vec::new();
        for sha256 in staged.contents.iter().copied().filter(|hash| !self.artifacts.has(*hash)) {
            let key = ServiceLayout::artifacts().file(FileKey { epoch: ARTIFACTS, sha256 });
            let bytes = self.storage.length(&key).await?;
            missing.push(FileRef { name: sha256.to_string(), sha256, bytes, epoch: ARTIFACTS });
        }
        if !missing.is_empty() {
            let folder = self.artifacts.incoming()?;
            self.files.download(&missing, folder.path()).await?;
            for content in missing {
                self.artifacts.adopt(&folder.path().join(&content.name), content.sha256)?;
            }
        }
        Ok(())
    }

    /// Removes all that is recorded of a job.
    pub async fn remove(&self, id: &JobId) -> Result<(), SaveError> {
        self.open()?;
        // Without this one it is no job any more; with the last one, what is left of it is found again.
        self.storage.delete(&[ServiceLayout::job(id)?, ServiceLayout::has_checkpoint(id)?]).await?;
        for folder in [ServiceLayout::history(id)?, ServiceLayout::attempts(id)?] {
            let keys: Vec<Key> = self.storage.list(&folder).await?.into_iter().map(|it| it.key).collect();
            self.storage.delete(&keys).await?;
        }
        let ends = self.storage.list(&ServiceLayout::ends()).await?.into_iter().map(|it| it.key);
        let own = ends.filter(|key| ServiceLayout::parse_end(key).is_some_and(|(of, _)| of == *id));
        self.storage.delete(&own.collect::<Vec<_>>()).await?;
        let mut contents = self.contents.lock().await;
        let Some(wanted) = contents.wanted.remove(id) else { return Ok(()) };
        let others: BTreeSet<ContentHash> = contents.wanted.values().flatten().copied().collect();
        let gone: Vec<ContentHash> = wanted.difference(&others).copied().collect();
        let key = |hash: &ContentHash| ServiceLayout::artifacts().file(FileKey { epoch: ARTIFACTS, sha256: *hash });
        self.storage.delete(&gone.iter().map(key).collect::<Vec<_>>()).await?;
        contents.stored.retain(|hash| !gone.contains(hash));
        Ok(())
    }
}
