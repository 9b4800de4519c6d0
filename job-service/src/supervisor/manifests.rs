//! Manifests in the journals of an object store: [`JournalManifests`].

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::checkpoints::{Beginning, Manifest, ManifestError, ManifestStore, Restorable};
use super::coordinator::Purpose;
use crate::checkpoint::{self, Collector, CommitError, Epoch, Journal, Kind, Options, Settled, Storage, Writer};
use crate::job::{Generation, JobId};
use crate::options::StartFrom;

/// Into how many groups keys are hashed: a part of the format of saved state.
const KEY_GROUPS: u32 = 1 << 16;
/// How often it is looked what became of a manifest that may have been written, and how long between two looks.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Writes manifests to the journal of each job, and finds them there.
#[derive(Debug)]
pub struct JournalManifests {
    storage: Storage,
    /// Of jobs that run. A job's is used by one call at a time.
    jobs: Mutex<HashMap<JobId, Arc<tokio::sync::Mutex<OfJob>>>>,
}

#[derive(Debug, Default)]
struct OfJob {
    /// Of the present attempt.
    writer: Option<Writer>,
    collector: Collector,
}

impl JournalManifests {
    /// In this storage.
    pub fn new(storage: Storage) -> JournalManifests {
        JournalManifests { storage, jobs: Mutex::default() }
    }

    /// Removes a folder's objects, and what processes that were killed left of such.
    async fn remove(&self, folder: &checkpoint::Key) -> Result<(), checkpoint::StorageError> {
        let keys: Vec<_> = self.storage.list(folder).await?.into_iter().map(|object| object.key).collect();
        self.storage.delete(&keys).await?;
        self.storage.sweep(folder, SystemTime::now()).await.map(drop)
    }

    fn of(&self, job: &JobId) -> Arc<tokio::sync::Mutex<OfJob>> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(jobs.entry(job.clone()).or_default())
    }
}

#[tonic::async_trait]
impl ManifestStore for JournalManifests {
    async fn write(&self, manifest: Manifest) -> Result<(), ManifestError> {
        let of_job = self.of(&manifest.job);
        let mut of_job = of_job.lock().await;
        let Some(writer) = &mut of_job.writer else {
            return Err(ManifestError::NotWritten("no attempt of the job has begun".to_owned()));
        };
        let shards = manifest.parts.iter().map(|part| part.shards).max().unwrap_or(1);
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let manifest = checkpoint::Manifest {
            name: manifest.job.to_string(),
            job: manifest.job,
            generation: writer.generation(),
            epoch: manifest.epoch,
            created: u64::try_from(created).unwrap_or(u64::MAX),
            kind: match manifest.purpose {
                Purpose::Checkpoint => Kind::Checkpoint,
                Purpose::Savepoint => Kind::Savepoint,
            },
            key_groups: KEY_GROUPS,
            shards,
            // The heads of the parts say what fits.
            plan: serde_json::Value::Null,
            operators: manifest.parts,
            metrics: None,
        };
        let committed = match writer.commit(&manifest).await {
            Err(error) if !error.is_definite() => settle(writer, error).await?,
            other => other.map_err(|error| ManifestError::NotWritten(error.to_string()))?,
        };
        match committed.superseded {
            None => Ok(()),
            Some(later) => Err(ManifestError::Unknown(format!("attempt {later} of the job has begun elsewhere"))),
        }
    }

    async fn begin(&self, job: &JobId, generation: Generation, damaged: &BTreeSet<Epoch>) -> Result<Beginning, String> {
        let of_job = self.of(job);
        let mut of_job = of_job.lock().await;
        let journal = Journal::of(&self.storage, job).map_err(|error| error.to_string())?;
        let writer = journal.begin(generation).await.map_err(|error| error.to_string())?;
        let found = journal.newest_besides(damaged).await.map_err(|error| error.to_string())?;
        let restorable = found.manifest.as_ref().map(restorable).transpose()?;
        let skipped = |skipped: checkpoint::Skipped| {
            format!("checkpoint {} of the job cannot be used: {}", skipped.epoch, skipped.why)
        };
        let unusable = found.skipped.into_iter().map(skipped).collect();
        let taken = Epoch(writer.next().0.saturating_sub(1));
        of_job.writer = Some(writer);
        Ok(Beginning { restorable, taken, unusable })
    }

    async fn discard(&self, job: JobId, retained: NonZeroUsize) {
        let of_job = self.of(&job);
        let mut of_job = of_job.lock().await;
        let OfJob { writer, collector } = &mut *of_job;
        let Some(writer) = writer else { return };
        // What is not removed now is removed with the next one.
        if let Err(error) = collector.collect(writer, retained, &BTreeSet::new()).await {
            tracing::warn!(%job, "checkpoints that are not needed any more cannot be removed: {error}");
        }
    }

    async fn forget(&self, job: &JobId) {
        let of_job = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(job);
        let Ok(journal) = Journal::of(&self.storage, job) else { return };
        let layout = journal.layout().clone();
        if let Some(of_job) = of_job {
            // An attempt of another service that has begun since lives on them.
            let of_job = of_job.lock().await;
            if let Some(writer) = &of_job.writer
                && !matches!(writer.superseded().await, Ok(None))
            {
                return;
            }
        }
        match journal.has_savepoint().await {
            Ok(false) => {}
            // Somebody has its path.
            Ok(true) => return,
            Err(error) => {
                tracing::warn!(%job, "the checkpoints of a job that is over stay, as one may be a savepoint: {error}");
                return;
            }
        }
        // Generations last: while they are there, no earlier attempt writes.
        let [generations, manifests, files] = layout.folders();
        for folder in [manifests, files, generations] {
            if let Err(error) = self.remove(&folder).await {
                tracing::warn!(%job, "the checkpoints of a job that is over cannot be removed: {error}");
                return;
            }
        }
    }
}

/// Finds a checkpoint of another job.
pub(super) async fn find(start_from: &StartFrom) -> Result<Restorable, String> {
    let StartFrom { storage, job, epoch } = start_from;
    let options = Options::of_environment();
    let storage = Storage::open_to_read(storage, &options).map_err(|error| error.to_string())?;
    let journal = Journal::of(&storage, job).map_err(|error| error.to_string())?;
    let manifest = match epoch {
        None => {
            let found = journal.newest().await.map_err(|error| error.to_string())?;
            found.manifest.ok_or_else(|| "there is no whole checkpoint of that job".to_owned())?
        }
        Some(epoch) => match journal.read(*epoch).await.map_err(|error| error.to_string())? {
            Ok(checkpoint::Entry::Checkpoint(manifest)) => manifest,
            Ok(checkpoint::Entry::Marker(_)) => return Err("no checkpoint was completed under that number".to_owned()),
            Err(error) => return Err(error.to_string()),
        },
    };
    restorable(&manifest)
}

/// A checkpoint as job processes are told of it.
fn restorable(manifest: &checkpoint::Manifest) -> Result<Restorable, String> {
    let bytes = serde_json::to_vec(manifest).map_err(|error| error.to_string())?;
    Ok(Restorable { epoch: manifest.epoch, manifest: bytes.into() })
}

/// Finds out whether a manifest was written that may have been.
async fn settle(writer: &mut Writer, mut error: CommitError) -> Result<checkpoint::Committed, ManifestError> {
    for _ in 0..LOOKS {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        match writer.settle().await {
            Ok(Some(Settled::Committed(committed))) => return Ok(committed),
            Ok(_) => return Err(ManifestError::NotWritten(error.to_string())),
            Err(later) if later.is_definite() => return Err(ManifestError::NotWritten(later.to_string())),
            Err(later) => error = later,
        }
    }
    Err(ManifestError::Unknown(error.to_string()))
}
