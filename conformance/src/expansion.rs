//! The Python SDK's test transforms, served for expansion: what Java's cross-language tests ask for.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::server::free_ports;
use crate::suites::source_dir;
use crate::tools::{python, python_packages};

/// An expansion service of the run's own; it ends with this value, because its standard input does.
pub struct Expansion {
    port: u16,
    child: Child,
}

impl Expansion {
    /// Starts it on a free port, and waits until it says that it listens.
    pub fn start(logs: &Path) -> Result<Self> {
        let [port] = free_ports()?;
        let log = logs.join("expansion.log");
        let errors = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let python = python(true)?;
        let mut child = Command::new(&python)
            .arg(source_dir().join("python/expansion.py"))
            .arg(port.to_string())
            // What the test PythonDependenciesTest wants to find.
            .arg(python_packages(&python, "beautifulsoup4==4.13.4")?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .context("cannot start the expansion service of the cross-language tests")?;
        let mut ready = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut ready).context("cannot hear from the expansion service")?;
        }
        let expansion = Self { port, child };
        ensure!(ready.trim() == "listening", "the expansion service did not start: see {}", log.display());
        Ok(expansion)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Expansion {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Nothing is left to do where even this fails: the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
