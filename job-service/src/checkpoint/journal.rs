//! A job's journal: who may write, what was committed, what to restore from. See [the module](super) for why it is so.

use std::collections::{BTreeMap, BTreeSet};

use super::Epoch;
use super::layout::{FileKey, Key, Layout, LayoutError, parse_file, parse_number};
use super::manifest::{Entry, FileRef, Kind, MAX_ENTRY, Manifest, ManifestError, Marker, Reason};
use super::protocol::{self, Last, Refusal};
use super::sealed::{Nonce, Sealed, Unsealing};
use super::storage::{Claim, Storage, StorageError};
use crate::job::{Generation, JobId};

/// How often an attempt that is outrun by others tries again to begin.
const BEGINNINGS: usize = 32;
/// How many epochs without a checkpoint may lie between two: each takes a write.
const MAX_GAP: u64 = 1000;

/// A job's journal, to read and to begin writing.
#[derive(Clone, Debug)]
pub struct Journal {
    storage: Storage,
    layout: Layout,
    job: JobId,
}

/// Why the journal was not read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Written by a later version: to take an older checkpoint would silently undo what happened since.
    #[error("the checkpoint {key} cannot be read: {source}")]
    Format {
        /// Which.
        key: Key,
        /// Why.
        #[source]
        source: ManifestError,
    },
}

/// Why an attempt did not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// It may not.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store. The attempt may have begun, which does no harm: try again with another.
    #[error("the attempt cannot be entered in the job's journal: {0}")]
    Storage(#[from] StorageError),
    /// Others begin all the time.
    #[error("other attempts of this job begin all the time: is it run by two services?")]
    Contended,
    /// One of our mistakes.
    #[error("the entry of the attempt cannot be written: {0}")]
    Entry(#[from] ManifestError),
}

/// Why a checkpoint was not committed. Only [`CommitError::Unknown`] leaves it open whether it was.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// It may not be. The attempt is over.
    #[error("checkpoint {epoch} was not committed: {source}")]
    Refused {
        /// Which.
        epoch: Epoch,
        /// Why.
        #[source]
        source: Refusal,
    },
    /// Nothing was written. Trying again may help.
    #[error("checkpoint {epoch} was not committed: {source}")]
    NotCommitted {
        /// Which.
        epoch: Epoch,
        /// Why.
        #[source]
        source: StorageError,
    },
    /// Perhaps it is committed: nothing may be done that needs to know. Commit it again, or [`Writer::settle`] it.
    #[error("it is not known whether checkpoint {epoch} was committed: {source}")]
    Unknown {
        /// Which.
        epoch: Epoch,
        /// Why.
        #[source]
        source: StorageError,
    },
    /// An earlier one is not known to be committed or not.
    #[error("checkpoint {epoch} was not committed: it is not yet known whether checkpoint {unsettled} was")]
    Unsettled {
        /// Which.
        epoch: Epoch,
        /// Which earlier one.
        unsettled: Epoch,
    },
    /// Somebody who is no attempt of the job wrote there.
    #[error("checkpoint {epoch} was not committed: its entry in the journal was written by something else")]
    Taken {
        /// Which.
        epoch: Epoch,
    },
    /// One of our mistakes: the manifest is none, or comes out of turn.
    #[error("checkpoint {epoch} was not committed, because its manifest is refused: {source}")]
    Manifest {
        /// Which.
        epoch: Epoch,
        /// Why.
        #[source]
        source: ManifestError,
    },
}

impl CommitError {
    /// Whether it is certain that the checkpoint is not committed and never will be by this call.
    pub fn is_definite(&self) -> bool {
        !matches!(self, CommitError::Unknown { .. })
    }
}

/// A checkpoint that is committed: it stands in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Which.
    pub epoch: Epoch,
    /// A later attempt has begun meanwhile. The checkpoint is what it restores from; this attempt is over.
    pub superseded: Option<Generation>,
}

/// What became of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Its checkpoint stands in the journal.
    Committed(Committed),
    /// It has none and will have none.
    Abandoned(Epoch),
}

/// What to restore from.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The newest checkpoint that is whole.
    pub manifest: Option<Manifest>,
    /// Newer ones that are not.
    pub skipped: Vec<Skipped>,
}

/// A checkpoint that is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Which.
    pub epoch: Epoch,
    /// What is wrong with it.
    pub why: String,
}

impl Journal {
    /// The journal of `job`.
    pub fn of(storage: &Storage, job: &JobId) -> Result<Journal, LayoutError> {
        Ok(Journal { storage: storage.clone(), layout: Layout::of(job)?, job: job.clone() })
    }

    /// Where its objects are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where they are.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Begins an attempt, with a number of at least `least`. From then on no earlier one commits, and what
    /// [`Journal::newest`] says does not change until the new one does.
    pub async fn begin(&self, least: Generation) -> Result<Writer, BeginError> {
        let generation = self.claim(least).await?;
        for _ in 0..BEGINNINGS {
            let epoch = protocol::begin_at(self.last().await?, generation)?;
            match self.put_marker(epoch, generation, Reason::Begun).await? {
                Claim::Won => {
                    let journal = self.clone();
                    return Ok(Writer { journal, generation, next: epoch.next(), unknown: None, committed: None });
                }
                // By what an earlier attempt wrote at the last moment, or by a later attempt: the next round says.
                Claim::Lost { .. } => {}
                Claim::Unknown(error) => return Err(error.into()),
            }
        }
        Err(BeginError::Contended)
    }

    async fn claim(&self, least: Generation) -> Result<Generation, BeginError> {
        for _ in 0..BEGINNINGS {
            let generation = protocol::next_generation(self.greatest().await?, least)?;
            let body = Sealed::new(Nonce::new(), &generation.0).map_err(ManifestError::from)?;
            match self.storage.create_once(&self.layout.generation(generation), &body).await {
                Claim::Won => return Ok(generation),
                Claim::Lost { .. } => {}
                Claim::Unknown(error) => return Err(error.into()),
            }
        }
        Err(BeginError::Contended)
    }

    async fn put_marker(&self, epoch: Epoch, generation: Generation, reason: Reason) -> Result<Claim, ManifestError> {
        let marker = Entry::Marker(Marker { job: self.job.clone(), generation, epoch, reason });
        Ok(self.storage.create_once(&self.layout.manifest(epoch), &marker.seal(Nonce::new())?).await)
    }

    async fn greatest(&self) -> Result<Option<Generation>, StorageError> {
        let listed = self.storage.list(&self.layout.generations()).await?;
        Ok(listed.iter().rev().find_map(|object| parse_number(&object.key)).map(Generation))
    }

    /// The epochs that have an entry, in their order.
    pub async fn epochs(&self) -> Result<Vec<Epoch>, StorageError> {
        let listed = self.storage.list(&self.layout.manifests()).await?;
        Ok(listed.iter().filter_map(|object| parse_number(&object.key)).map(Epoch).collect())
    }

    /// Whether a savepoint was taken. One that cannot be read may be.
    pub async fn has_savepoint(&self) -> Result<bool, StorageError> {
        for epoch in self.epochs().await? {
            match self.read(epoch).await {
                Ok(Ok(Entry::Marker(_))) => {}
                Ok(Ok(Entry::Checkpoint(manifest))) if manifest.kind == Kind::Checkpoint => {}
                Ok(Ok(Entry::Checkpoint(_)) | Err(_)) => return Ok(true),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    async fn last(&self) -> Result<Option<Last>, StorageError> {
        let Some(epoch) = self.epochs().await?.pop() else { return Ok(None) };
        let generation = match self.read(epoch).await {
            Ok(entry) => entry.ok().map(|entry| entry.generation()),
            Err(error) if error.is_damage() => None,
            Err(error) => return Err(error),
        };
        Ok(Some(Last { epoch, generation }))
    }

    /// The entry of an epoch: within the result of reading it, what is wrong with it.
    pub async fn read(&self, epoch: Epoch) -> Result<Result<Entry, ManifestError>, StorageError> {
        let bytes = self.storage.get(&self.layout.manifest(epoch), MAX_ENTRY).await?;
        Ok(Entry::read(&bytes, &self.job, epoch).map(|(entry, _)| entry))
    }

    /// The newest checkpoint whose manifest is undamaged and whose files are all there, with their lengths. What the
    /// files hold is checked when they are read.
    pub async fn newest(&self) -> Result<Found, JournalError> {
        self.newest_besides(&BTreeSet::new()).await
    }

    /// The same, where reading the files of the checkpoints of `damaged` has shown that they do not hold what they did.
    pub async fn newest_besides(&self, damaged: &BTreeSet<Epoch>) -> Result<Found, JournalError> {
        let epochs = self.epochs().await?;
        let mut files = None;
        let mut skipped = Vec::new();
        for epoch in epochs.into_iter().rev() {
            let key = self.layout.manifest(epoch);
            let why = match self.read(epoch).await {
                Ok(Ok(Entry::Marker(_))) => continue,
                Ok(Ok(Entry::Checkpoint(_))) if damaged.contains(&epoch) => "its files are damaged".to_owned(),
                Ok(Ok(Entry::Checkpoint(manifest))) => {
                    let listed = match &files {
                        Some(listed) => listed,
                        None => files.insert(self.files().await?),
                    };
                    let missing = manifest.files().find_map(|file| self.missing(file, listed));
                    match missing {
                        None => return Ok(Found { manifest: Some(manifest), skipped }),
                        Some(why) => why,
                    }
                }
                Ok(Err(source @ ManifestError::Bytes(Unsealing::Format { .. }))) => {
                    return Err(JournalError::Format { key, source });
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) if error.is_damage() => error.to_string(),
                Err(error) => return Err(error.into()),
            };
            tracing::warn!(job = %self.job, %key, why, "a checkpoint is not whole, and an older one is looked for");
            skipped.push(Skipped { epoch, why });
        }
        Ok(Found { manifest: None, skipped })
    }

    pub(super) async fn files(&self) -> Result<BTreeMap<FileKey, u64>, StorageError> {
        let listed = self.storage.list(&self.layout.files()).await?;
        Ok(listed.iter().filter_map(|object| Some((parse_file(&object.key)?, object.bytes))).collect())
    }

    fn missing(&self, file: &FileRef, listed: &BTreeMap<FileKey, u64>) -> Option<String> {
        let key = || self.layout.file(file.key());
        match listed.get(&file.key()) {
            None => Some(format!("the file {} ({}) is missing", key(), file.name)),
            Some(length) if *length != file.bytes => {
                Some(format!("the file {} ({}) has {length} bytes instead of {}", key(), file.name, file.bytes))
            }
            Some(_) => None,
        }
    }
}

/// The one attempt that may write. Takes one checkpoint after the other.
#[derive(Debug)]
pub struct Writer {
    journal: Journal,
    generation: Generation,
    next: Epoch,
    /// What may have been written at `next`.
    unknown: Option<Pending>,
    /// What was written last.
    committed: Option<Manifest>,
}

#[derive(Debug)]
struct Pending {
    manifest: Manifest,
    sealed: Sealed,
}

impl Writer {
    /// Which attempt.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The least epoch that a checkpoint may have. The first one of an attempt is greater than all of earlier ones.
    pub fn next(&self) -> Epoch {
        self.next
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Makes a checkpoint count: its files must be stored. Once this returns `Ok`, whatever waits for the checkpoint
    /// may happen. Committing again what is committed changes nothing.
    pub async fn commit(&mut self, manifest: &Manifest) -> Result<Committed, CommitError> {
        let epoch = manifest.epoch;
        if self.committed.as_ref() == Some(manifest) {
            return Ok(self.committed(epoch).await);
        }
        let refused =
            |what, value: String| CommitError::Manifest { epoch, source: ManifestError::Value { what, value } };
        if manifest.job != self.journal.job || manifest.generation != self.generation {
            let whose = format!("attempt {} of {}", manifest.generation, manifest.job);
            return Err(refused("that it is of another attempt", whose));
        }
        if epoch < self.next {
            return Err(refused("an epoch that is over", epoch.to_string()));
        }
        if epoch.0 - self.next.0 > MAX_GAP {
            return Err(refused("an epoch that is too far ahead", format!("{epoch} behind {}", self.next)));
        }
        let sealed = match &self.unknown {
            Some(pending) if pending.manifest == *manifest => pending.sealed.clone(),
            Some(_) => return Err(CommitError::Unsettled { epoch, unsettled: self.next }),
            None => Entry::Checkpoint(manifest.clone())
                .seal(Nonce::new())
                .map_err(|source| CommitError::Manifest { epoch, source })?,
        };
        if self.unknown.is_none() {
            self.close_until(epoch).await?;
            self.check(epoch).await?;
        }
        match self.journal.storage.create_once(&self.journal.layout.manifest(epoch), &sealed).await {
            Claim::Won => {
                self.settled(Some(manifest.clone()));
                Ok(self.committed(epoch).await)
            }
            Claim::Lost { held } => {
                self.unknown = None;
                Err(self.lost(epoch, held.as_deref()))
            }
            Claim::Unknown(source) => {
                self.unknown = Some(Pending { manifest: manifest.clone(), sealed });
                Err(CommitError::Unknown { epoch, source })
            }
        }
    }

    /// Finds out what became of a checkpoint that was [`CommitError::Unknown`], and gives it up if it is not there.
    /// `None`: nothing is open.
    pub async fn settle(&mut self) -> Result<Option<Settled>, CommitError> {
        let Some(pending) = &self.unknown else { return Ok(None) };
        let (epoch, bytes) = (self.next, pending.sealed.bytes().clone());
        match self.put_abandoned(epoch).await? {
            Claim::Won => {
                self.settled(None);
                Ok(Some(Settled::Abandoned(epoch)))
            }
            Claim::Lost { held: Some(held) } if held == bytes => {
                let manifest = self.unknown.take().map(|pending| pending.manifest);
                self.settled(manifest);
                Ok(Some(Settled::Committed(self.committed(epoch).await)))
            }
            Claim::Lost { held } if self.is_own_marker(epoch, held.as_deref()) => {
                self.settled(None);
                Ok(Some(Settled::Abandoned(epoch)))
            }
            Claim::Lost { held } => {
                self.unknown = None;
                Err(self.lost(epoch, held.as_deref()))
            }
            Claim::Unknown(source) => Err(CommitError::Unknown { epoch, source }),
        }
    }

    /// Whether a later attempt has begun.
    pub async fn superseded(&self) -> Result<Option<Generation>, StorageError> {
        Ok(self.journal.greatest().await?.filter(|greatest| *greatest > self.generation))
    }

    #[cfg(test)]
    pub(super) fn use_storage(&mut self, storage: &Storage) {
        self.journal.storage = storage.clone();
    }

    fn settled(&mut self, committed: Option<Manifest>) {
        self.unknown = None;
        self.next = self.next.next();
        self.committed = committed.or(self.committed.take());
    }

    async fn committed(&self, epoch: Epoch) -> Committed {
        // The checkpoint stands either way: this is for the caller to learn early that its attempt is over.
        Committed { epoch, superseded: self.superseded().await.unwrap_or_default() }
    }

    /// Takes up the epochs before `epoch` that have no checkpoint.
    async fn close_until(&mut self, epoch: Epoch) -> Result<(), CommitError> {
        while self.next < epoch {
            self.check(self.next).await.or_else(|refused| match refused {
                // By a marker of ours whose answer was lost: writing it again says so.
                CommitError::Refused { source: Refusal::NotNext { last, .. }, .. } if last == Some(self.next) => Ok(()),
                refused => Err(refused),
            })?;
            match self.put_abandoned(self.next).await? {
                Claim::Won => {}
                Claim::Lost { held } if self.is_own_marker(self.next, held.as_deref()) => {}
                Claim::Lost { held } => return Err(self.lost(self.next, held.as_deref())),
                Claim::Unknown(source) => return Err(CommitError::NotCommitted { epoch, source }),
            }
            self.settled(None);
        }
        Ok(())
    }

    async fn check(&self, epoch: Epoch) -> Result<(), CommitError> {
        let failed = |source| CommitError::NotCommitted { epoch, source };
        let greatest = self.journal.greatest().await.map_err(failed)?;
        let last = self.journal.epochs().await.map_err(failed)?.pop();
        protocol::may_write(self.generation, epoch, greatest, last)
            .map_err(|source| CommitError::Refused { epoch, source })
    }

    async fn put_abandoned(&self, epoch: Epoch) -> Result<Claim, CommitError> {
        let put = self.journal.put_marker(epoch, self.generation, Reason::Abandoned).await;
        put.map_err(|source| CommitError::Manifest { epoch, source })
    }

    fn entry(&self, epoch: Epoch, held: Option<&[u8]>) -> Option<Entry> {
        Entry::read(held?, &self.journal.job, epoch).ok().map(|(entry, _)| entry)
    }

    fn is_own_marker(&self, epoch: Epoch, held: Option<&[u8]>) -> bool {
        self.entry(epoch, held)
            .is_some_and(|entry| matches!(entry, Entry::Marker(marker) if marker.generation == self.generation))
    }

    fn lost(&self, epoch: Epoch, held: Option<&[u8]>) -> CommitError {
        let generation = self.entry(epoch, held).map(|entry| entry.generation());
        match protocol::entry_is_not_newer(generation, self.generation) {
            Err(source) => CommitError::Refused { epoch, source },
            Ok(()) => CommitError::Taken { epoch },
        }
    }
}
