//! Programs of ours that serve for as long as a run needs them: each says that it listens, and ends with its standard
//! input.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A program that listens. It ends with this value.
pub(crate) struct Helper(Child);

impl Helper {
    /// Starts it, and waits until it says that it listens. `name` is what it is called in errors; what it writes to its
    /// standard error goes to the file `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Helper> {
        let errors = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).spawn();
        let mut helper = Helper(child.with_context(|| format!("cannot start {name}"))?);
        let mut ready = String::new();
        if let Some(out) = helper.0.stdout.take() {
            BufReader::new(out).read_line(&mut ready).with_context(|| format!("cannot hear from {name}"))?;
        }
        ensure!(ready.trim() == "listening", "{name} did not start: see {}", log.display());
        Ok(helper)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // Nothing is left to do where even this fails: the process is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
