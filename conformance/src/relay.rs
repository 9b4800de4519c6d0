//! Pipeline options for every job of a run, whatever SDK submits it: not every SDK can be told an option that it does
//! not know.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::server::free_ports;
use crate::suites::source_dir;
use crate::tools::python;

/// A relay before the job endpoint; it ends with this value, because its standard input does.
pub struct Relay {
    endpoint: String,
    child: Child,
}

impl Relay {
    /// Starts one before `endpoint` that adds `options`, each `NAME=VALUE`.
    pub fn start(endpoint: &str, options: &[String], logs: &Path) -> Result<Self> {
        for option in options {
            ensure!(option.contains('='), "`{option}` is no pipeline option: NAME=VALUE is wanted");
        }
        let [port] = free_ports()?;
        let log = logs.join("relay.log");
        let errors = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut child = Command::new(python(false)?)
            .arg(source_dir().join("python/relay.py"))
            .args([endpoint, &port.to_string()])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .context("cannot start the relay that adds pipeline options")?;
        let mut ready = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut ready).context("cannot hear from the relay")?;
        }
        let relay = Self { endpoint: format!("localhost:{port}"), child };
        ensure!(ready.trim() == "listening", "the relay did not start: see {}", log.display());
        Ok(relay)
    }

    /// Where jobs are to be sent.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Nothing is left to do where even this fails: the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
