//! What may be removed.
//!
//! Kept are the newest checkpoints, as many as the job's user says; every savepoint; the checkpoints that somebody builds
//! on or reads right now; and what their manifests name. Of the rest goes what can never be named again: files whose
//! epoch has its entry in the journal. Files of epochs that are still open belong to uploads.
//!
//! Manifests go first: one without its files would be found damaged, files without a manifest are merely found again.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

use super::Epoch;
use super::journal::{JournalError, Writer};
use super::layout::FileKey;
use super::manifest::{Entry, Kind, ManifestError, Reason};
use super::sealed::Unsealing;
use super::storage::StorageError;

/// What an entry of the journal means to a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A checkpoint or savepoint, and the files that it names.
    Checkpoint {
        /// Which of them.
        kind: Kind,
        /// What it needs.
        files: BTreeSet<FileKey>,
    },
    /// An attempt began.
    Begun,
    /// A checkpoint was given up.
    Abandoned,
    /// It cannot be read, and cannot be restored from.
    Damaged,
}

/// What may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collectable {
    /// Entries of the journal.
    pub entries: Vec<Epoch>,
    /// Files.
    pub files: Vec<FileKey>,
}

/// What may go of a journal and of `stored` files. Epochs from `open` on have no entry yet.
pub fn collectable(
    journal: &BTreeMap<Epoch, Standing>,
    stored: &BTreeSet<FileKey>,
    retained: NonZeroUsize,
    pinned: &BTreeSet<Epoch>,
    open: Epoch,
) -> Collectable {
    let is_checkpoint = |standing: &Standing| matches!(standing, Standing::Checkpoint { kind: Kind::Checkpoint, .. });
    let newest = journal.iter().rev().filter(|(_, standing)| is_checkpoint(standing)).map(|(epoch, _)| *epoch);
    // Without a checkpoint there is nothing behind which anything would be old.
    let oldest = newest.take(retained.get()).last().unwrap_or(Epoch(0));
    let goes = |epoch: &Epoch, standing: &Standing| match standing {
        Standing::Begun | Standing::Checkpoint { kind: Kind::Savepoint, .. } => false,
        Standing::Checkpoint { .. } | Standing::Abandoned | Standing::Damaged => {
            *epoch < oldest && !pinned.contains(epoch)
        }
    };
    let (gone, kept): (Vec<_>, Vec<_>) = journal.iter().partition(|(epoch, standing)| goes(epoch, standing));
    let needed: BTreeSet<_> = kept
        .iter()
        .filter_map(|(_, standing)| match standing {
            Standing::Checkpoint { files, .. } => Some(files),
            Standing::Begun | Standing::Abandoned | Standing::Damaged => None,
        })
        .flatten()
        .collect();
    Collectable {
        entries: gone.into_iter().map(|(epoch, _)| *epoch).collect(),
        files: stored.iter().filter(|file| file.epoch < open && !needed.contains(file)).copied().collect(),
    }
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Entries of the journal.
    pub entries: usize,
    /// Files.
    pub files: usize,
}

/// Removes what may go. Remembers what it read: entries do not change.
#[derive(Debug, Default)]
pub struct Collector {
    journal: BTreeMap<Epoch, Standing>,
}

impl Collector {
    /// One that has read nothing.
    pub fn new() -> Collector {
        Collector::default()
    }

    /// Removes what may go, if the attempt of `writer` is still the one that may write. `pinned` are the checkpoints that
    /// an upload builds on or that are being restored from.
    pub async fn collect(
        &mut self,
        writer: &Writer,
        retained: NonZeroUsize,
        pinned: &BTreeSet<Epoch>,
    ) -> Result<Collected, JournalError> {
        let journal = writer.journal();
        let (storage, layout) = (journal.storage(), journal.layout());
        let listed = journal.epochs().await?;
        self.journal.retain(|epoch, _| listed.binary_search(epoch).is_ok());
        for epoch in listed {
            if let std::collections::btree_map::Entry::Vacant(unread) = self.journal.entry(epoch) {
                let standing = match journal.read(epoch).await {
                    Ok(Ok(entry)) => standing(&entry),
                    // What a later version keeps is not ours to judge.
                    Ok(Err(source @ ManifestError::Bytes(Unsealing::Format { .. }))) => {
                        return Err(JournalError::Format { key: layout.manifest(epoch), source });
                    }
                    Ok(Err(_)) => Standing::Damaged,
                    Err(StorageError::TooLong { .. }) => Standing::Damaged,
                    Err(error) => return Err(error.into()),
                };
                unread.insert(standing);
            }
        }
        let stored = journal.files().await?.into_keys().collect();
        let may_go = collectable(&self.journal, &stored, retained, pinned, writer.next());
        // A later attempt may have restored from what this one, for what it has seen, takes to be old.
        if writer.superseded().await?.is_some() {
            return Ok(Collected::default());
        }
        let entries: Vec<_> = may_go.entries.iter().map(|epoch| layout.manifest(*epoch)).collect();
        let files: Vec<_> = may_go.files.iter().map(|file| layout.file(*file)).collect();
        storage.delete(&entries).await?;
        storage.delete(&files).await?;
        may_go.entries.iter().for_each(|epoch| drop(self.journal.remove(epoch)));
        Ok(Collected { entries: entries.len(), files: files.len() })
    }
}

fn standing(entry: &Entry) -> Standing {
    match entry {
        Entry::Checkpoint(manifest) => {
            Standing::Checkpoint { kind: manifest.kind, files: manifest.files().map(|file| file.key()).collect() }
        }
        Entry::Marker(marker) => match marker.reason {
            Reason::Begun => Standing::Begun,
            Reason::Abandoned => Standing::Abandoned,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::ContentHash;

    /// `5a`: content a, uploaded by epoch 5.
    fn file(text: &str) -> FileKey {
        let (epoch, content) = text.split_at(text.len() - 1);
        FileKey { epoch: Epoch(epoch.parse().expect("an epoch")), sha256: ContentHash::of(content.as_bytes()) }
    }

    /// `7 cp 5a 7b`, `8 sp 5a`, `9 begun`, `10 abandoned`, `11 damaged`; lines, or separated by commas.
    fn journal(script: &str) -> BTreeMap<Epoch, Standing> {
        let entries = script.split(',').map(str::trim).filter(|line| !line.is_empty());
        entries
            .map(|line| {
                let mut words = line.split_whitespace();
                let epoch = Epoch(words.next().expect("an epoch").parse().expect("a number"));
                let kind = words.next().expect("a kind");
                let files = words.map(file).collect();
                let standing = match kind {
                    "cp" => Standing::Checkpoint { kind: Kind::Checkpoint, files },
                    "sp" => Standing::Checkpoint { kind: Kind::Savepoint, files },
                    "begun" => Standing::Begun,
                    "abandoned" => Standing::Abandoned,
                    "damaged" => Standing::Damaged,
                    other => panic!("{other}"),
                };
                (epoch, standing)
            })
            .collect()
    }

    #[test]
    fn what_goes_is_this() {
        struct Case {
            what: &'static str,
            journal: &'static str,
            stored: &'static str,
            retained: usize,
            pinned: &'static [u64],
            open: u64,
            entries: &'static [u64],
            files: &'static str,
        }
        let cases = [
            Case {
                what: "nothing is there",
                journal: "",
                stored: "",
                retained: 1,
                pinned: &[],
                open: 0,
                entries: &[],
                files: "",
            },
            Case {
                what: "the newest stays, and what it shares with the one that goes",
                journal: "0 begun, 1 cp 1a 1b, 2 cp 1a 2b",
                stored: "1a 1b 2b",
                retained: 1,
                pinned: &[],
                open: 3,
                entries: &[1],
                files: "1b",
            },
            Case {
                what: "as many stay as are to stay",
                journal: "0 begun, 1 cp 1a, 2 cp 2a, 3 cp 3a",
                stored: "1a 2a 3a",
                retained: 2,
                pinned: &[],
                open: 4,
                entries: &[1],
                files: "1a",
            },
            Case {
                what: "a savepoint stays, does not count, and keeps what it shares",
                journal: "0 begun, 1 cp 1a, 2 sp 1a 2b, 3 cp 3a, 4 sp 4a",
                stored: "1a 2b 3a 4a",
                retained: 1,
                pinned: &[],
                open: 5,
                entries: &[1],
                files: "",
            },
            Case {
                what: "files of a running upload stay, those of one that was given up go",
                journal: "0 begun, 1 cp 1a, 2 abandoned",
                stored: "1a 2x 3x 9x",
                retained: 1,
                pinned: &[],
                open: 3,
                entries: &[],
                files: "2x",
            },
            Case {
                what: "what a running upload builds on stays",
                journal: "0 begun, 1 cp 1a, 2 cp 2a, 3 cp 3a",
                stored: "1a 2a 3a 4x",
                retained: 1,
                pinned: &[1],
                open: 4,
                entries: &[2],
                files: "2a",
            },
            Case {
                what: "beginnings stay, what was given up goes when it is old",
                journal: "0 begun, 1 abandoned, 2 cp 2a, 3 begun, 4 abandoned, 5 cp 5a, 6 abandoned",
                stored: "2a 5a",
                retained: 1,
                pinned: &[],
                open: 7,
                entries: &[1, 2, 4],
                files: "2a",
            },
            Case {
                what: "a damaged one does not count, keeps nothing, and goes when it is old",
                journal: "0 begun, 1 damaged, 2 cp 2a, 3 damaged",
                stored: "1a 2a 3a",
                retained: 1,
                pinned: &[],
                open: 4,
                entries: &[1],
                files: "1a 3a",
            },
            Case {
                what: "without a checkpoint no entry is old",
                journal: "0 begun, 1 abandoned, 2 sp 2a",
                stored: "1x 2a",
                retained: 1,
                pinned: &[],
                open: 3,
                entries: &[],
                files: "1x",
            },
            Case {
                what: "the same content of another epoch is another file",
                journal: "0 begun, 1 cp 1a, 2 cp 2a",
                stored: "1a 2a",
                retained: 1,
                pinned: &[],
                open: 3,
                entries: &[1],
                files: "1a",
            },
        ];
        for case in cases {
            let stored = case.stored.split_whitespace().map(file).collect();
            let retained = NonZeroUsize::new(case.retained).expect("at least one");
            let pinned = case.pinned.iter().copied().map(Epoch).collect();
            let goes = collectable(&journal(case.journal), &stored, retained, &pinned, Epoch(case.open));
            let expected: BTreeSet<_> = case.files.split_whitespace().map(file).collect();
            assert_eq!(goes.entries, case.entries.iter().copied().map(Epoch).collect::<Vec<_>>(), "{}", case.what);
            assert_eq!(goes.files.into_iter().collect::<BTreeSet<_>>(), expected, "{}", case.what);
        }
    }
}
