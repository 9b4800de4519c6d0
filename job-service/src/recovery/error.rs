use super::framed::Unframing;
use crate::artifacts::StoreError;
use crate::checkpoint::{FileError, Key, LayoutError, StorageError, Unsealing};

/// Why something about a job was not stored or read.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The storage.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A file of the storage, or the disk here.
    #[error(transparent)]
    File(#[from] FileError),
    /// The artifacts here.
    #[error(transparent)]
    Artifacts(#[from] StoreError),
    /// The job's id cannot be a name in the storage.
    #[error(transparent)]
    Id(#[from] LayoutError),
    /// A record that is none.
    #[error("{key}: {source}")]
    Record {
        /// Of which object.
        key: Key,
        /// What is wrong with it.
        #[source]
        source: Unframing,
    },
    /// A term or a piece of history that is none.
    #[error(transparent)]
    Unsealing(#[from] Unsealing),
    /// What a record says makes no sense here.
    #[error("the record of job {job}: {what}")]
    Content {
        /// Of which job.
        job: String,
        /// What is wrong.
        what: String,
    },
    /// Another service has the job now.
    #[error("another service has taken over the jobs of this one")]
    Replaced,
    /// This service writes no more.
    #[error("the service is ending")]
    Closed,
}
