//! What a job starts from: the parts of a checkpoint, found by their operators.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use super::names::Renames;
use super::part::{CarriedBatch, PartHead, read_carried};

/// A checkpoint that was brought here, to start from.
#[derive(Clone, Debug, Default)]
pub struct Restore {
    epoch: u64,
    /// Parts by operator, in the order of their shards.
    parts: BTreeMap<String, Vec<Restored>>,
}

/// A part that an operator starts from.
#[derive(Clone, Debug)]
pub(crate) struct Restored {
    pub(crate) folder: PathBuf,
    pub(crate) head: PartHead,
}

/// Why a checkpoint cannot be started from.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The head of a part cannot be read.
    #[error("the part of a checkpoint in {folder} cannot be read: {why}")]
    Head {
        /// Where it is.
        folder: String,
        /// The cause.
        why: io::Error,
    },
    /// Two parts are of the same operator and worker.
    #[error("a checkpoint has two parts of {operator:?}, worker {shard}")]
    Twice {
        /// The operator.
        operator: String,
        /// The worker.
        shard: u32,
    },
    /// A part is of another checkpoint.
    #[error("the part of {operator:?} is of checkpoint {found}, not of {wanted}")]
    Epoch {
        /// The operator.
        operator: String,
        /// The epoch of the part.
        found: u64,
        /// That of the checkpoint.
        wanted: u64,
    },
    /// A new name that makes two operators one.
    #[error("transforms are renamed so that a checkpoint has two of {0:?}")]
    Clash(String),
    /// A new name for what is not there.
    #[error("transforms are renamed that the checkpoint does not have: {}", .0.join(", "))]
    Renamed(Vec<String>),
    /// The operators of the plan and those of the checkpoint are not the same.
    #[error("the checkpoint does not fit the pipeline:\n{}", .0.join("\n"))]
    Misfit(Vec<String>),
}

impl Restore {
    /// Checkpoint `epoch`, of which each part is in one of `folders`.
    pub fn read(epoch: u64, folders: impl IntoIterator<Item = PathBuf>) -> Result<Restore, RestoreError> {
        let mut parts: BTreeMap<String, Vec<Restored>> = BTreeMap::new();
        for folder in folders {
            let head = PartHead::read(&folder)
                .map_err(|why| RestoreError::Head { folder: folder.display().to_string(), why })?;
            if head.epoch != epoch {
                return Err(RestoreError::Epoch { operator: head.operator, found: head.epoch, wanted: epoch });
            }
            let of_operator = parts.entry(head.operator.clone()).or_default();
            if of_operator.iter().any(|other| other.head.shard == head.shard) {
                return Err(RestoreError::Twice { operator: head.operator, shard: head.shard });
            }
            of_operator.push(Restored { folder, head });
        }
        parts.values_mut().for_each(|parts| parts.sort_by_key(|part| part.head.shard));
        Ok(Restore { epoch, parts })
    }

    /// The same for another job, which counts its epochs by itself.
    #[must_use]
    pub fn for_another_job(self) -> Restore {
        Restore { epoch: 0, ..self }
    }

    /// The same for a pipeline that has other names for its transforms.
    pub fn renamed(self, renames: &Renames) -> Result<Restore, RestoreError> {
        let mut used = BTreeSet::new();
        let mut parts: BTreeMap<String, Vec<Restored>> = BTreeMap::new();
        for (operator, mut of_operator) in self.parts {
            let operator = renames.of_operator(&operator, &mut used).unwrap_or(operator);
            for Restored { head, .. } in &mut of_operator {
                head.operator.clone_from(&operator);
                for cell in head.cells.iter_mut().chain(&mut head.timers) {
                    if let Some(new) = renames.of_transform(&cell.transform, &mut used) {
                        cell.transform = new;
                    }
                }
            }
            if parts.insert(operator.clone(), of_operator).is_some() {
                return Err(RestoreError::Clash(operator));
            }
        }
        let unused = renames.unused(&used);
        if !unused.is_empty() {
            return Err(RestoreError::Renamed(unused));
        }
        Ok(Restore { parts, ..self })
    }

    /// The epoch that the job starts in: the checkpoint's, unless it was another job's.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The operators that it has parts of.
    pub fn operators(&self) -> impl Iterator<Item = &str> {
        self.parts.keys().map(String::as_str)
    }

    /// The parts of an operator, in the order of their shards.
    pub(crate) fn of(&self, operator: &str) -> &[Restored] {
        self.parts.get(operator).map_or(&[], Vec::as_slice)
    }
}

impl Restored {
    /// What the operator had carried, in its order.
    pub(crate) fn carried(&self, see: impl FnMut(CarriedBatch) -> io::Result<()>) -> io::Result<()> {
        let place = |error: io::Error| {
            let place = self.folder.display();
            io::Error::new(error.kind(), format!("the carried input in {place}: {error}"))
        };
        read_carried(&self.folder, &self.head, see).map_err(place)
    }
}
