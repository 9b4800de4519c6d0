//! The temporary folder of a service or an agent, and the ones that others left behind.
//!
//! Each holds a locked file for as long as its process lives, however that ends. Whoever starts removes the folders
//! whose lock is free: those of processes that were killed, whose spilled data would stay for good. A process id in the
//! folder's name was rejected: containers may share the folder and not the ids.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PREFIX: &str = "ferrobeam-";
const LOCK: &str = "lock";
/// A folder this young may be about to be locked.
const YOUNG: Duration = Duration::from_secs(60);

/// Why there is no temporary folder.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a temporary folder in {}: {source}; choose another place with --temp-dir", dir.display())]
pub struct TempError {
    dir: PathBuf,
    #[source]
    source: io::Error,
}

/// A temporary folder, removed when dropped.
#[derive(Debug)]
pub struct TempRoot {
    dir: tempfile::TempDir,
    _lock: File,
}

impl TempRoot {
    /// In `parent`, or where the system says.
    pub fn create(parent: Option<&Path>) -> Result<TempRoot, TempError> {
        let parent = parent.map_or_else(std::env::temp_dir, ToOwned::to_owned);
        remove_abandoned(&parent, YOUNG);
        let make = || {
            let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&parent)?;
            let lock = File::create(dir.path().join(LOCK))?;
            lock.try_lock()?;
            Ok(TempRoot { dir, _lock: lock })
        };
        make().map_err(|source| TempError { dir: parent.clone(), source })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// What cannot be looked at or removed is somebody else's.
fn remove_abandoned(parent: &Path, young: Duration) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(PREFIX)) && is_abandoned(&entry.path(), young) {
            let removed = fs::remove_dir_all(entry.path());
            tracing::info!(folder = %entry.path().display(), ?removed, "removed what a process that was killed left behind");
        }
    }
}

fn is_abandoned(dir: &Path, young: Duration) -> bool {
    // Only a plain file of our own: opening anything else might wait or follow somebody's link.
    let path = dir.join(LOCK);
    let Ok(found) = fs::symlink_metadata(&path) else { return false };
    let old = found.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age >= young));
    found.is_file() && old && File::open(&path).is_ok_and(|lock| lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_dead_left_goes_and_what_the_living_use_stays() {
        let parent = tempfile::tempdir().expect("a folder");
        let living = TempRoot::create(Some(parent.path())).expect("made");
        let dead = parent.path().join("ferrobeam-dead");
        fs::create_dir_all(dead.join("job-1/spilled")).expect("made");
        File::create(dead.join(LOCK)).expect("made");
        for other in ["ferrobeam-without-lock", "other-with-lock"] {
            fs::create_dir(parent.path().join(other)).expect("made");
        }
        File::create(parent.path().join("other-with-lock").join(LOCK)).expect("made");

        remove_abandoned(parent.path(), YOUNG);
        assert!(dead.exists(), "it may be about to be locked");
        remove_abandoned(parent.path(), Duration::ZERO);
        assert!(!dead.exists());
        assert!(living.path().exists());
        assert!(parent.path().join("ferrobeam-without-lock").exists());
        assert!(parent.path().join("other-with-lock").exists());

        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }
}
