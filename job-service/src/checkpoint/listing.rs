//! What saved state a job has: [`saved_states`].

use super::layout::LayoutError;
use super::manifest::{Entry, Kind};
use super::{Epoch, Journal, Storage, StorageError};
use crate::job::JobId;

/// A checkpoint that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedState {
    /// What names it in the option `savepoint_path`.
    pub path: String,
    /// Its number.
    pub epoch: Epoch,
    /// Whether somebody asked for it.
    pub kind: Kind,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created: u64,
    /// Bytes of all its files. Others may share them.
    pub bytes: u64,
    /// How many workers the job had.
    pub workers: u32,
}

/// Why saved state cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The job's id cannot be a name in a storage.
    #[error(transparent)]
    Id(#[from] LayoutError),
    /// The storage.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What names a checkpoint of a job in the option `savepoint_path`.
pub fn path_of(storage_url: &str, job: &JobId, epoch: Epoch) -> String {
    format!("{}/{job}/manifests/{:020}", storage_url.trim_end_matches('/'), epoch.0)
}

/// All checkpoints and savepoints of a job whose manifests can be read, the oldest first.
pub async fn saved_states(storage: &Storage, job: &JobId) -> Result<Vec<SavedState>, ListError> {
    let journal = Journal::of(storage, job)?;
    let mut found = Vec::new();
    for epoch in journal.epochs().await? {
        match journal.read(epoch).await {
            Ok(Ok(Entry::Checkpoint(manifest))) => found.push(SavedState {
                path: path_of(storage.url(), job, epoch),
                epoch,
                kind: manifest.kind,
                created: manifest.created,
                bytes: manifest.files().map(|file| file.bytes).sum(),
                workers: manifest.shards,
            }),
            Ok(Ok(Entry::Marker(_))) => {}
            Ok(Err(error)) => tracing::warn!(%job, %epoch, %error, "a checkpoint cannot be read"),
            // It has made room for a later one.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}
