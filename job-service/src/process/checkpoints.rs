//! A process's part of its job's checkpoints: what its operators have saved is stored, and what the job starts from is
//! fetched.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferrobeam_proto::job::MetricResults;
use ferrobeam_runner::checkpoint as runner;
use prost::Message as _;
use tokio::runtime::Handle;

use super::reports::Reports;
use crate::checkpoint::{Epoch, FileError, FileHashes, FileRef, Files, Known, Manifest, Options, Part, Storage};
use crate::control::v1;
use crate::control::v1::process_report::Report;
use crate::job::JobId;
use crate::metrics::{from_infos, to_infos};

/// The part that has what the bundles of a process have counted, and its file.
pub(crate) const METRICS: &str = "metrics";

/// Takes a process's part in the checkpoints of its job. Cloning shares it.
#[derive(Clone)]
pub(super) struct Taking {
    handle: runner::Checkpoints,
    folder: Arc<Path>,
    storing: Arc<Storing>,
}

/// Stores what was saved.
struct Storing {
    runtime: Handle,
    files: Files,
    reports: Arc<Reports>,
    index: u32,
    processes: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Files of the last checkpoint that is committed: the next shares them.
    known: Known,
    /// Files of those that were stored and not committed yet.
    stored: HashMap<u64, Vec<FileRef>>,
    hashes: HashMap<(String, u32), FileHashes>,
}

/// Why a process does not start with checkpoints.
#[derive(Debug)]
pub(super) struct StartError {
    /// For the job's owner.
    pub(super) message: String,
    /// The checkpoint to start from, if that is to blame.
    pub(super) damaged: Option<Damaged>,
    /// It would be the same another time.
    pub(super) is_final: bool,
}

/// A checkpoint that does not hold what was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Damaged {
    pub(super) epoch: Epoch,
    /// It is the job's own: an older one may do.
    pub(super) own: bool,
}

/// A process among those of its job.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) index: u32,
    pub(super) processes: u32,
    pub(super) workers: usize,
}

impl Taking {
    /// Fetches what the job starts from, if it does from a checkpoint, to `work_dir`, where parts are written, too.
    pub(super) async fn start(
        asked: &v1::Checkpoints,
        place: Place,
        work_dir: &Path,
        reports: &Arc<Reports>,
    ) -> Result<Taking, StartError> {
        let failed = |what: &str, why: &dyn std::fmt::Display| StartError {
            message: format!("checkpoints: {what}: {why}"),
            damaged: None,
            is_final: false,
        };
        let options = Options::of_environment();
        let storage = Storage::open(&asked.storage_url, &options).map_err(|e| failed("the storage", &e))?;
        let job = JobId::named(asked.folder.clone());
        let files = Files::of(&storage, &job).map_err(|e| failed("the job's folder", &e))?;
        let mut known = Known::nothing();
        let mut restore = None;
        if !asked.restore.is_empty() {
            let manifest: Manifest =
                serde_json::from_slice(&asked.restore).map_err(|e| failed("the manifest to start from", &e))?;
            let own = manifest.job == job;
            let source = if own {
                known = Known::of(&manifest);
                files.clone()
            } else {
                let storage = Storage::open_to_read(&asked.restore_storage_url, &options);
                let storage = storage.map_err(|e| failed("the storage to start from", &e))?;
                Files::of(&storage, &manifest.job).map_err(|e| failed("the folder to start from", &e))?
            };
            let into = work_dir.join("restored");
            let damaged =
                |error: StartError| StartError { damaged: Some(Damaged { epoch: manifest.epoch, own }), ..error };
            let what = format!("checkpoint {} cannot be fetched", manifest.epoch);
            let (folders, metrics) = fetch(&source, &manifest, &into).await.map_err(|error| match &error {
                FileError::Storage(storage) if storage.is_damage() => damaged(failed(&what, &error)),
                _ => failed(&what, &error),
            })?;
            let read = runner::Restore::read(manifest.epoch.0, folders);
            let read = read.map_err(|e| damaged(failed("the checkpoint", &e)))?;
            restore = Some(if own {
                read
            } else {
                let renames: runner::Renames = asked.renamed_transforms.clone().into_iter().collect();
                let renamed = read.renamed(&renames);
                let refused = |e| StartError { is_final: true, ..failed("the checkpoint to start from", &e) };
                renamed.map_err(refused)?.for_another_job()
            });
            // Once in the job.
            for counted in metrics.iter().filter(|_| own && place.index == 0) {
                reports.start_from(from_infos(counted));
            }
        }
        let state = State { known, ..State::default() };
        let storing = Arc::new(Storing {
            runtime: Handle::current(),
            files,
            reports: Arc::clone(reports),
            index: place.index,
            processes: place.processes,
            state: Mutex::new(state),
        });
        let observer: Arc<dyn runner::CheckpointObserver> = storing.clone();
        let handle = runner::Checkpoints::new(place.workers, restore, observer)
            .map_err(|e| failed("a thread cannot be started", &e))?;
        Ok(Taking { handle, folder: work_dir.join("checkpoints").into(), storing })
    }

    /// For the dataflow.
    pub(super) fn handle(&self) -> runner::Checkpoints {
        self.handle.clone()
    }

    /// Begins a checkpoint.
    pub(super) fn begin(&self, epoch: u64) {
        let folder = self.folder.join(epoch.to_string());
        match std::fs::create_dir_all(&folder) {
            Ok(()) => self.handle.begin(epoch, folder),
            Err(error) => self.storing.fail(epoch, format!("making the folder {}: {error}", folder.display())),
        }
    }

    /// A checkpoint is durable.
    pub(super) fn committed(&self, epoch: u64) {
        let mut state = self.storing.lock();
        if let Some(files) = state.stored.remove(&epoch) {
            state.known = files.into_iter().collect();
        }
        state.stored.retain(|stored, _| *stored > epoch);
        drop(state);
        self.handle.committed(epoch);
    }

    /// A checkpoint comes to nothing.
    pub(super) fn aborted(&self, epoch: u64) {
        self.storing.lock().stored.remove(&epoch);
        self.handle.aborted(epoch);
    }
}

/// Fetches every part of a checkpoint into a folder of its own; gives those of operators, and the metrics.
async fn fetch(
    files: &Files,
    manifest: &Manifest,
    into: &Path,
) -> Result<(Vec<PathBuf>, Vec<Vec<ferrobeam_proto::pipeline::MonitoringInfo>>), FileError> {
    let (mut folders, mut metrics) = (Vec::new(), Vec::new());
    let fetched = files.download_parts(manifest, into, |_| true).await?;
    for (part, folder) in manifest.operators.iter().zip(fetched) {
        if part.operator != METRICS {
            folders.push(folder);
            continue;
        }
        let path = folder.join(METRICS);
        let bytes = tokio::fs::read(&path).await;
        let bytes = bytes.map_err(|source| FileError::Local { action: "read", path: path.clone(), source })?;
        let results = MetricResults::decode(&bytes[..]).map_err(|error| FileError::Local {
            action: "decode",
            path,
            source: std::io::Error::other(error),
        })?;
        metrics.push(results.committed);
    }
    Ok((folders, metrics))
}

impl Storing {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, epoch: u64, why: String) {
        self.reports.send(Report::SaveFailed(v1::SaveFailed { epoch, why }));
    }

    /// Stores all parts; gives them as the service is told of them.
    async fn store(&self, epoch: u64, parts: Vec<runner::Part>) -> Result<Vec<Part>, FileError> {
        let known = self.lock().known.clone();
        let mut stored = Vec::with_capacity(parts.len() + 1);
        for part in parts {
            let of = (part.operator.clone(), part.shard);
            let mut hashes = self.lock().hashes.remove(&of).unwrap_or_default();
            let uploaded = self.files.upload(&part.folder, Epoch(epoch), &known, &mut hashes).await?;
            self.lock().hashes.insert(of, hashes);
            let runner::Part { operator, shard, shards, records, folder } = part;
            let records = records.unwrap_or(0);
            stored.push(Part { operator, shard, shards, files: uploaded.files, records });
            // It is in the storage. What stays here goes with the process.
            let _ = tokio::fs::remove_dir_all(folder).await;
        }
        Ok(stored)
    }

    /// What was counted before the epoch, as a part.
    async fn store_metrics(&self, epoch: u64, folder: &Path) -> Result<Part, FileError> {
        let local = |source| FileError::Local { action: "write", path: folder.to_owned(), source };
        let committed = to_infos(self.reports.metrics_before(epoch));
        let results = MetricResults { attempted: Vec::new(), committed };
        tokio::fs::create_dir_all(folder).await.map_err(local)?;
        tokio::fs::write(folder.join(METRICS), results.encode_to_vec()).await.map_err(local)?;
        let known = Known::nothing();
        let uploaded = self.files.upload(folder, Epoch(epoch), &known, &mut FileHashes::default()).await?;
        let (shard, shards) = (self.index, self.processes);
        Ok(Part { operator: METRICS.to_owned(), shard, shards, files: uploaded.files, records: 0 })
    }

    async fn save(&self, epoch: u64, parts: Vec<runner::Part>) -> Result<Vec<Part>, FileError> {
        let beside = parts.first().and_then(|part| part.folder.parent()).map(Path::to_owned);
        let folder = beside.unwrap_or_else(std::env::temp_dir);
        let mut stored = self.store(epoch, parts).await?;
        stored.push(self.store_metrics(epoch, &folder.join(METRICS)).await?);
        let _ = tokio::fs::remove_dir_all(folder).await;
        Ok(stored)
    }
}

impl runner::CheckpointObserver for Storing {
    fn saved(&self, epoch: u64, parts: Vec<runner::Part>) {
        match self.runtime.block_on(self.save(epoch, parts)) {
            Ok(parts) => {
                let files = parts.iter().flat_map(|part| part.files.iter().cloned()).collect();
                self.lock().stored.insert(epoch, files);
                let parts = parts.into_iter().map(v1::SavedPart::from).collect();
                self.reports.send(Report::Saved(v1::Saved { epoch, parts }));
            }
            Err(error) => self.fail(epoch, format!("storing what was saved: {error}")),
        }
    }

    fn failed(&self, epoch: u64, why: String) {
        self.fail(epoch, why);
    }
}
