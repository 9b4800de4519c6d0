//! The Python SDK's test transforms, served for expansion: what Java's cross-language tests ask for.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::helper::Helper;
use crate::server::free_ports;
use crate::suites::source_dir;
use crate::tools::{python, python_packages};

/// An expansion service of the run's own; it ends with this value, because its standard input does.
pub struct Expansion {
    port: u16,
    _helper: Helper,
}

impl Expansion {
    /// Starts it on a free port, and waits until it says that it listens.
    pub fn start(logs: &Path) -> Result<Self> {
        let [port] = free_ports()?;
        let python = python(true)?;
        let mut command = Command::new(&python);
        command
            .arg(source_dir().join("python/expansion.py"))
            .arg(port.to_string())
            // What the test PythonDependenciesTest wants to find.
            .arg(python_packages(&python, "beautifulsoup4==4.13.4")?);
        let name = "the expansion service of the cross-language tests";
        Ok(Self { port, _helper: Helper::start(name, &mut command, &logs.join("expansion.log"))? })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}
