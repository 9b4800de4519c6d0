//! The folder that keeps what is made once: SDKs, test binaries, jars, logs.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

/// `$FERROBEAM_CACHE`, or `ferrobeam` in the user's cache folder.
pub fn root() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("FERROBEAM_CACHE") {
        return Ok(folder.into());
    }
    if let Some(folder) = env::var_os("XDG_CACHE_HOME") {
        return Ok(Path::new(&folder).join("ferrobeam"));
    }
    let home = env::var_os("HOME").context("neither FERROBEAM_CACHE, XDG_CACHE_HOME nor HOME says where to cache")?;
    Ok(Path::new(&home).join(".cache/ferrobeam"))
}

/// A folder of the cache, made if need be.
pub fn folder(name: &str) -> Result<PathBuf> {
    let path = root()?.join(name);
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

/// How many runs' logs are kept.
const RUNS_KEPT: usize = 20;

/// A new folder for the logs of this run, so that runs at the same time do not share one; the oldest are removed.
pub fn run_logs() -> Result<PathBuf> {
    let all = folder("log/runs")?;
    let mut runs: Vec<(SystemTime, PathBuf)> = fs::read_dir(&all)
        .with_context(|| format!("cannot list {}", all.display()))?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
        })
        .filter(|(_, path)| path.is_dir())
        .collect();
    runs.sort();
    for (_, old) in runs.iter().rev().skip(RUNS_KEPT) {
        // Another run may be removing it too.
        let _ = fs::remove_dir_all(old);
    }
    let new = all.join(std::process::id().to_string());
    let _ = fs::remove_dir_all(&new); // of a process of the same number, long ago
    fs::create_dir_all(&new).with_context(|| format!("cannot make {}", new.display()))?;
    Ok(new)
}

/// Runs `make` unless it has run to its end in `folder` for the same `recipe` before.
///
/// The recipe is kept in a file beside what was made, so that a change of versions makes it anew.
pub fn once(folder: &Path, name: &str, recipe: &str, make: impl FnOnce() -> Result<()>) -> Result<()> {
    let stamp = folder.join(format!(".{name}.made-from"));
    if fs::read_to_string(&stamp).is_ok_and(|made_from| made_from == recipe) {
        return Ok(());
    }
    make()?;
    fs::write(&stamp, recipe).with_context(|| format!("cannot write {}", stamp.display()))
}
