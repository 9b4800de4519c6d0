//! Checkpoints as objects of a store: files, journal, retention. Knows nothing of the dataflow.
//!
//! # Layout
//!
//! ```text
//! <root>/<job>/generations/<generation, 20 digits>          claimed by Create when an attempt begins
//! <root>/<job>/manifests/<epoch, 20 digits>                 the journal: one entry an epoch, each claimed by Create
//! <root>/<job>/files/<epoch, 20 digits>-<SHA-256 in hex>    data: the epoch that uploaded it, and its content
//! <root>/.probe/<random>                                    of `Storage::probe`, removed by it
//! <root>/.service/...                                       jobs, of a service that finds them again: `crate::recovery`
//! ```
//!
//! No key is the folder of another: local stores, for one, cannot hold both. Nothing is ever changed in place, and only
//! `files/` is written without a condition; two writers of one of its keys write the same bytes.
//!
//! # The journal
//!
//! An entry is a [`Manifest`], or a [`Marker`] that takes up its epoch: an attempt began there, or a checkpoint was given
//! up. Entries have no gaps: whoever writes epoch n has seen that n-1 is the last one. That is the whole of fencing. An
//! attempt begins by claiming a number greater than all before it, and then puts its marker behind the last entry. What
//! an older attempt can still write is the one entry that it thinks is next, and that is taken: by its own manifest,
//! which the new attempt then restores from, or by the marker. So between "I looked, nobody is newer" and "I wrote" there
//! is no moment at which a stale attempt could commit behind the back of the one that replaced it, as there would be if
//! generations were only compared before and after the write. Markers of beginnings are never collected, because a key
//! that is free again could be claimed by a writer that slept for a day.
//!
//! A store needs atomic Create for this, and nothing else: the local file system has no conditional update, and the
//! e_tags of S3 are hashes of content, which come again when the content does. [`Storage::probe`] finds stores that
//! say that they have it and have not.
//!
//! # Files
//!
//! A checkpoint of epoch n refers to files that it uploaded, whose keys begin with n, and to files of the checkpoint it
//! builds on, which a retained manifest names. Once the journal has an entry n, files of n that no manifest names can
//! never be named by one. That makes collection a question of values, without clocks ([`retention`]); a key of the hash
//! alone would let a collector remove what an upload has just found to be there already.
//!
//! # Failure model
//!
//! Any process may die at any point, and any request may fail, be late, or be carried out and reported as failed. Then
//! no committed checkpoint is lost, and none that was not committed is restored from. What is lost or damaged within the
//! store itself is found by checksums, and the checkpoint before it is taken ([`Journal::newest`]).

pub mod files;
pub mod journal;
pub mod layout;
pub mod listing;
pub mod manifest;
pub mod options;
mod protocol;
pub mod retention;
mod sealed;
pub mod storage;

#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::unreliable;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use files::{FileError, FileHashes, Files, Known, Transfer, Uploaded};
pub use journal::{BeginError, CommitError, Committed, Found, Journal, JournalError, Settled, Skipped, Writer};
pub(crate) use layout::parse_number;
pub use layout::{FileKey, Key, Layout, LayoutError, ServiceLayout};
pub use listing::{ListError, SavedState, path_of, saved_states};
pub use manifest::{Entry, FileRef, Kind, Manifest, ManifestError, Marker, Part, Reason};
pub use options::{OpenError, Options};
pub use protocol::Refusal;
pub use retention::{Collected, Collector};
pub(crate) use sealed::unseal;
pub use sealed::{Nonce, Sealed, Unsealing};
pub use storage::{Claim, Limits, Listed, Storage, StorageError};

/// Which checkpoint, and which entry of the journal: they rise, and none is used twice in the life of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The one behind it.
    pub fn next(self) -> Epoch {
        Epoch(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The SHA-256 of a file's content, as a key and a manifest name it.
pub use crate::artifacts::ContentHash;
