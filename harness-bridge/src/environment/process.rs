//! Harnesses that the bridge starts on this machine: PROCESS commands, and DOCKER containers through the client command,
//! which is a process like any other.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use super::output::LastLines;
use crate::config::BridgeConfig;
use crate::tasks::Tasks;

/// A variable of every process that the bridge starts, and so of all that those start: the bridge's folder. Whoever finds
/// the bridge's own process killed can tell by it what was left behind.
pub const WORK_DIR_VARIABLE: &str = "FERROBEAM_WORK_DIR";

/// How long the output of a process may stay open after its end: a child of its own may hold it.
const OUTPUT_AFTER_EXIT: Duration = Duration::from_millis(500);

/// A started process, leader of a process group of its own.
#[derive(Debug)]
pub(crate) struct Started {
    child: Child,
    group: Option<Pid>,
    last_lines: LastLines,
    output_read: Vec<oneshot::Receiver<()>>,
    container: Option<Container>,
}

#[derive(Debug)]
struct Container {
    docker: String,
    name: String,
    retain: bool,
}

/// What the process is for.
pub(crate) struct Purpose<'a> {
    pub(crate) config: &'a Arc<BridgeConfig>,
    pub(crate) tasks: &'a Tasks,
    pub(crate) environment: &'a str,
    pub(crate) harness: &'a str,
    /// Where every service is.
    pub(crate) endpoint: &'a str,
}

impl Purpose<'_> {
    /// What every SDK's boot understands.
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![format!("--id={}", self.harness)];
        for service in ["provision", "logging", "artifact", "control"] {
            arguments.push(format!("--{service}_endpoint={}", self.endpoint));
        }
        arguments
    }

    fn start(&self, mut command: Command, container: Option<Container>) -> Result<Started, String> {
        // What this program is told through the environment is not for user code.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FERROBEAM_")) {
            command.env_remove(name);
        }
        command
            .args(self.arguments())
            .env(WORK_DIR_VARIABLE, &self.config.work_dir)
            .current_dir(&self.config.work_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().map_err(|error| format!("{program} cannot be run: {error}"))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let last_lines = LastLines::default();
        let mut output_read = Vec::new();
        let mut follow = |output: Box<dyn tokio::io::AsyncRead + Send + Unpin>| {
            let (read, is_read) = oneshot::channel();
            output_read.push(is_read);
            let following = last_lines.clone().follow(
                output,
                self.config.clone(),
                self.environment.to_owned(),
                self.harness.to_owned(),
            );
            self.tasks.spawn(async move {
                following.await;
                drop(read);
            });
        };
        if let Some(stdout) = child.stdout.take() {
            follow(Box::new(stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            follow(Box::new(stderr));
        }
        Ok(Started { child, group, last_lines, output_read, container })
    }

    /// Runs the command of a PROCESS environment.
    pub(crate) fn process(&self, command: &str, env: &BTreeMap<String, String>) -> Result<Started, String> {
        let mut words = command.split_whitespace();
        let path = Path::new(command);
        let mut process = if path.is_file() {
            // It will run in another folder than the one that a relative path starts from.
            Command::new(path.canonicalize().map_err(|error| format!("{command} cannot be run: {error}"))?)
        } else {
            let mut process = Command::new(words.next().unwrap_or(command));
            process.args(words);
            process
        };
        process.envs(env);
        self.start(process, None)
    }

    /// Runs a container in the foreground.
    pub(crate) fn docker(&self, image: &str) -> Result<Started, String> {
        let config = self.config;
        let name = format!("ferrobeam-{}", self.harness);
        let mut docker = Command::new(&config.docker_command);
        docker.args(["run", "--network=host", "--name", &name]);
        if !config.retain_docker_containers {
            docker.arg("--rm");
        }
        docker.arg(image);
        let retain = config.retain_docker_containers;
        self.start(docker, Some(Container { docker: config.docker_command.clone(), name, retain }))
    }
}

impl Started {
    /// Waits until the process ended by itself, and says how.
    pub(crate) async fn exited(&mut self) -> String {
        let status = self.child.wait().await;
        let read = async {
            for output in self.output_read.drain(..) {
                let _ = output.await;
            }
        };
        let _ = tokio::time::timeout(OUTPUT_AFTER_EXIT, read).await;
        let mut text = match status {
            Ok(status) => format!("its process ended with {status}"),
            Err(error) => format!("its process cannot be waited for: {error}"),
        };
        self.add_last_lines(&mut text);
        text
    }

    /// Adds what the process wrote last.
    pub(crate) fn add_last_lines(&self, text: &mut String) {
        let last = self.last_lines.text();
        if !last.is_empty() {
            text.push_str("; it wrote last:\n");
            text.push_str(&last);
        }
    }

    /// Ends the process and all that it started: asked first, killed after `grace`.
    pub(crate) async fn stop(mut self, grace: Duration) {
        if let Some(container) = &self.container {
            container.stop(grace).await;
        }
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.signal(Signal::TERM);
            let _ = tokio::time::timeout(grace, self.child.wait()).await;
        }
        // Also what it started and left behind.
        self.signal(Signal::KILL);
        self.group = None;
        let _ = self.child.wait().await;
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // Fails when the group is gone, which is what is wanted.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

impl Container {
    async fn stop(&self, grace: Duration) {
        let arguments: &[&str] = if self.retain { &["kill", &self.name] } else { &["rm", "--force", &self.name] };
        let stop = Command::new(&self.docker)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .status();
        // Killing the client does not kill the container, so the container goes first; the daemon may take its time.
        let _ = tokio::time::timeout(grace + Duration::from_secs(10), stop).await;
    }
}
