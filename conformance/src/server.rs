//! A `ferrobeam serve` of the run's own, or an endpoint that somebody else runs.

use std::fs::File;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::{self, GLANCE};

/// How long a server may take to answer its port, and to end when asked to.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where tests send their jobs.
pub struct Server {
    endpoint: String,
    own: Option<Own>,
}

struct Own {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// An endpoint that is already served, perhaps by the process `pid`.
    pub fn at(endpoint: &str) -> Result<Self> {
        let mut addresses =
            endpoint.to_socket_addrs().with_context(|| format!("`{endpoint}` is not an address HOST:PORT"))?;
        ensure!(addresses.any(|a| TcpStream::connect(a).is_ok()), "nothing listens on {endpoint}");
        Ok(Self { endpoint: endpoint.to_owned(), own: None })
    }

    /// Starts `program serve` on free ports, with `args` besides, and waits until it answers.
    pub fn start(program: &Path, args: &[String], log: &Path) -> Result<Self> {
        let [job, artifact, expansion] = free_ports()?;
        let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(program);
        command.arg("serve");
        for (flag, port) in [("--job-port", job), ("--artifact-port", artifact), ("--expansion-port", expansion)] {
            command.arg(flag).arg(port.to_string());
        }
        let child = command
            .args(args)
            .stdin(Stdio::null())
            .stderr(out.try_clone().context("cannot share the server's log")?)
            .stdout(out)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut server = Self { endpoint: format!("localhost:{job}"), own: Some(Own { child, log: log.to_owned() }) };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", job)).is_err() {
            server.check_alive()?;
            ensure!(
                Instant::now() < deadline,
                "{} serve does not answer port {job} (its log: {})",
                program.display(),
                log.display()
            );
            thread::sleep(GLANCE);
        }
        Ok(server)
    }

    /// The job endpoint, as `HOST:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The process id, if this run started the server.
    pub fn pid(&self) -> Option<u32> {
        self.own.as_ref().map(|own| own.child.id())
    }

    /// Fails if a server that this run started has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        let Some(own) = &mut self.own else { return Ok(()) };
        if let Some(status) = own.child.try_wait().context("cannot ask after the server")? {
            bail!("the server ended by itself ({status}); its log: {}", own.log.display());
        }
        Ok(())
    }

    /// Checks that the server has lived until now, and ends it.
    pub fn stop(mut self) -> Result<()> {
        self.check_alive()?;
        let Some(own) = &mut self.own else { return Ok(()) };
        let pid = i32::try_from(own.child.id()).ok().and_then(Pid::from_raw).context("the server's id is no id")?;
        kill_process(pid, Signal::TERM).context("cannot ask the server to end")?;
        ensure!(
            process::wait(&mut own.child, PATIENCE)?.is_some(),
            "the server did not end within {} s of being asked to; its log: {}",
            PATIENCE.as_secs(),
            own.log.display()
        );
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(own) = &mut self.own {
            // Nothing is left to do where even this fails: the process is gone already.
            let _ = own.child.kill();
            let _ = own.child.wait();
        }
    }
}

/// Ports that nothing listens on now. All are held until all are known, so that they differ.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let held = (0..N)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<std::io::Result<Vec<_>>>()
        .context("no free port on 127.0.0.1")?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr().context("a listener without address")?.port();
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ends_at_once_is_noticed() {
        let log = std::env::temp_dir().join(format!("conformance-{}.log", std::process::id()));
        let error = Server::start(Path::new("false"), &[], &log).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("ended by itself"), "{error}");
        std::fs::remove_file(log).expect("the log was made");
    }

    #[test]
    fn an_endpoint_without_server_is_refused() {
        let [port] = free_ports().expect("a port is free");
        let error = Server::at(&format!("127.0.0.1:{port}")).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("nothing listens"), "{error}");
    }
}
