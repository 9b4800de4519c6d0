//! Pipeline options for every job of a run, whatever SDK submits it: not every SDK can be told an option that it does
//! not know.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::helper::Helper;
use crate::server::free_ports;
use crate::suites::source_dir;
use crate::tools::python;

/// A relay before the job endpoint; it ends with this value, because its standard input does.
pub struct Relay {
    endpoint: String,
    _helper: Helper,
}

impl Relay {
    /// Starts one before `endpoint` that adds `options`, each `NAME=VALUE`.
    pub fn start(endpoint: &str, options: &[String], logs: &Path) -> Result<Self> {
        for option in options {
            ensure!(option.contains('='), "`{option}` is no pipeline option: NAME=VALUE is wanted");
        }
        let [port] = free_ports()?;
        let mut command = Command::new(python(false)?);
        command.arg(source_dir().join("python/relay.py")).args([endpoint, &port.to_string()]).args(options);
        let helper = Helper::start("the relay that adds pipeline options", &mut command, &logs.join("relay.log"))?;
        Ok(Self { endpoint: format!("localhost:{port}"), _helper: helper })
    }

    /// Where jobs are to be sent.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}
