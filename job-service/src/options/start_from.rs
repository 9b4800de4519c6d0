//! `savepoint_path`: the checkpoint of an earlier job that a job starts from.

use std::fmt;
use std::path::Path;

use crate::checkpoint::{Epoch, Layout, OpenError, Options, Storage};
use crate::job::JobId;

/// A checkpoint of another job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFrom {
    /// URL of the storage.
    pub storage: String,
    /// Whose it is.
    pub job: JobId,
    /// Which; `None`: the newest that is whole.
    pub epoch: Option<Epoch>,
}

/// Why a path names no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum StartFromError {
    /// It has not the form of one.
    #[error(
        "{0} names no checkpoint: STORAGE/JOB is wanted, for the newest one of a job, or STORAGE/JOB/manifests/NUMBER"
    )]
    Form(String),
    /// It is one of Flink's.
    #[error(
        "{0} is a savepoint of Flink, whose state only Flink can read: drain the job there, and start this one from nothing"
    )]
    Flink(String),
    /// The storage cannot be opened.
    #[error(transparent)]
    Storage(#[from] OpenError),
}

impl StartFrom {
    /// Reads a path such as `file:///checkpoints/job-1` or `s3://bucket/job-1/manifests/00000000000000000007`.
    pub fn parse(path: &str) -> Result<StartFrom, StartFromError> {
        let form = || StartFromError::Form(path.to_owned());
        let trimmed = path.trim().trim_end_matches('/');
        let local = trimmed.strip_prefix("file://").unwrap_or(trimmed);
        // Flink puts this file into the folder of each of its savepoints and checkpoints.
        if Path::new(local).join("_metadata").exists() || trimmed.ends_with("/_metadata") {
            return Err(StartFromError::Flink(path.to_owned()));
        }
        let (of_job, epoch) = match trimmed.rsplit_once("/manifests/") {
            Some((of_job, number)) => (of_job, Some(Epoch(number.parse().map_err(|_| form())?))),
            None => (trimmed, None),
        };
        let (storage, job) = of_job.rsplit_once('/').ok_or_else(form)?;
        let job = JobId::named(job);
        if storage.ends_with('/') && !storage.ends_with("///") || Layout::of(&job).is_err() {
            return Err(form());
        }
        match Storage::open_to_read(storage, &Options::none()) {
            // It may have been there when the job was run, which has checkpoints of its own since.
            Ok(_) | Err(OpenError::Folder { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(StartFrom { storage: storage.to_owned(), job, epoch })
    }

    /// Fails where the storage is a folder that is not there.
    pub fn is_there(&self) -> Result<(), StartFromError> {
        Storage::open_to_read(&self.storage, &Options::none())?;
        Ok(())
    }
}

impl fmt::Display for StartFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.epoch {
            Some(epoch) => write!(f, "checkpoint {epoch} of {}", self.job),
            None => write!(f, "the newest checkpoint of {}", self.job),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read() {
        let of = |path: &str| StartFrom::parse(path).map_err(|error| error.to_string());
        let job = JobId::named("job-1");
        let folder = tempfile::tempdir().expect("a folder");
        let storage = format!("file://{}", folder.path().display());
        let newest = StartFrom { storage: storage.clone(), job: job.clone(), epoch: None };
        assert_eq!(of(&format!("{storage}/job-1")), Ok(newest.clone()));
        assert_eq!(of(&format!("{storage}/job-1/")), Ok(newest.clone()));
        let seventh = StartFrom { epoch: Some(Epoch(7)), ..newest };
        assert_eq!(of(&format!("{storage}/job-1/manifests/00000000000000000007")), Ok(seventh));
        let bucket = of("s3://bucket/job-1").expect("a good path");
        assert_eq!((bucket.storage.as_str(), bucket.job), ("s3://bucket", job));
        for bad in ["job-1", "", "file:///x/job-1/manifests/last", "s3://bucket", "ftp://host/job-1", "file:///x/.."] {
            assert!(of(bad).is_err(), "{bad}");
        }
        let absent = folder.path().join("absent");
        let nowhere = of(&format!("file://{}/job-1", absent.display())).expect("a good path");
        let error = nowhere.is_there().expect_err("no folder").to_string();
        assert!(error.contains("absent") && !absent.exists(), "{error}");
    }

    #[test]
    fn a_savepoint_of_flink_is_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("_metadata"), [0]).expect("a file");
        let path = format!("file://{}", folder.path().display());
        let error = StartFrom::parse(&path).expect_err("not ours").to_string();
        assert!(error.contains("savepoint of Flink"), "{error}");
    }
}
