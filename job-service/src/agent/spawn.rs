//! Starting a job process, telling it its work, and hearing its end.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

use super::AgentConfig;

/// Work of a job process, as told over its standard input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The job.
    pub job: String,
    /// Which attempt to run it.
    pub generation: u64,
    /// Which of its processes.
    pub index: u32,
    /// How many there are.
    pub processes: u32,
    /// Proves that the process belongs to this generation.
    pub token: String,
    /// A folder of its own, removed after its end.
    pub work_dir: PathBuf,
    /// Where other machines reach it.
    pub host: String,
    /// How long it goes on without a sign of the service.
    pub lease_millis: u64,
}

/// Where job processes listen for each other when no other machine takes part.
pub const LOOPBACK: &str = "127.0.0.1";

/// More than any assignment takes.
const MAX_ASSIGNMENT: u32 = 1 << 20;
/// What is kept of a process's last words.
const LAST_WORDS: usize = 4096;

/// Reads an assignment; `None` when the agent is gone before it sent one.
pub fn read_assignment(mut from: impl Read) -> io::Result<Option<Assignment>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_le_bytes(length);
    if length > MAX_ASSIGNMENT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an assignment that is too long"));
    }
    let mut encoded = vec![0; length as usize];
    from.read_exact(&mut encoded)?;
    postcard::from_bytes(&encoded).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

fn encode(assignment: &Assignment) -> io::Result<Vec<u8>> {
    let encoded = postcard::to_stdvec(assignment).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let length = u32::try_from(encoded.len()).ok().filter(|length| *length <= MAX_ASSIGNMENT);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an assignment that is too long"))?;
    Ok([length.to_le_bytes().as_slice(), &encoded].concat())
}

/// A started job process, idle or at work.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    stdin: ChildStdin,
    said: Arc<Mutex<Vec<u8>>>,
    listener: JoinHandle<()>,
}

impl Process {
    pub(super) fn start(config: &AgentConfig) -> io::Result<Process> {
        let mut child = Command::new(&config.program)
            // The name in process lists, where the program is started by way of /proc.
            .arg0("ferrobeam")
            .arg("job-process")
            .arg("--service")
            .arg(&config.service)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A terminal's Ctrl-C is for the command that is seen there; it ends its jobs in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let gone = || io::Error::other("a process was started without its pipes");
        let stdin = child.stdin.take().ok_or_else(gone)?;
        let stderr = child.stderr.take().ok_or_else(gone)?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let listener = tokio::spawn(listen(stderr, Arc::clone(&said)));
        Ok(Process { child, stdin, said, listener })
    }

    /// Whether it is still there to be told something.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(super) async fn assign(&mut self, assignment: &Assignment) -> io::Result<()> {
        self.stdin.write_all(&encode(assignment)?).await?;
        self.stdin.flush().await
    }

    pub(super) fn kill(&mut self) {
        // Fails only for a process that is gone.
        let _ = self.child.start_kill();
    }

    /// Waits for its end, with its standard input kept open; says how it ended, and whether it did so by itself.
    pub(super) async fn ended(&mut self) -> (String, bool) {
        let status = self.child.wait().await;
        // The pipe ends with the process, unless a child of its own holds it.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(200), &mut self.listener).await;
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let last_words = String::from_utf8_lossy(&said);
        let by_itself = status.as_ref().is_ok_and(|status| status.code().is_some());
        let how = match status {
            Ok(status) => describe(status),
            Err(error) => format!("cannot be waited for: {error}"),
        };
        match last_words.trim() {
            "" => (how, by_itself),
            words => (format!("{how}; the last that it wrote:\n{words}"), by_itself),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// What is said of a process that ended by itself begins with this.
pub(crate) const EXITED: &str = "ended with exit code";

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("{EXITED} {code}"),
        (_, Some(9)) => "was killed (signal 9): by somebody, or by the system because memory ran out".to_owned(),
        (_, Some(6)) => "aborted (signal 6)".to_owned(),
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        _ => status.to_string(),
    }
}

/// Passes on what a process writes, and keeps the end of it.
async fn listen(mut stderr: tokio::process::ChildStderr, said: Arc<Mutex<Vec<u8>>>) {
    let mut piece = vec![0; 4096];
    while let Ok(length @ 1..) = stderr.read(&mut piece).await {
        // What cannot be passed on is still kept.
        let _ = io::stderr().write_all(&piece[..length]);
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(&piece[..length]);
        let excess = said.len().saturating_sub(LAST_WORDS);
        said.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment() -> Assignment {
        Assignment {
            job: "job-1".into(),
            generation: 3,
            index: 1,
            processes: 2,
            token: "secret".into(),
            work_dir: "/tmp/x".into(),
            host: LOOPBACK.into(),
            lease_millis: 40_000,
        }
    }

    #[test]
    fn an_assignment_is_read_as_it_was_written() {
        let encoded = encode(&assignment()).expect("it is short");
        assert_eq!(read_assignment(encoded.as_slice()).expect("whole"), Some(assignment()));
    }

    #[test]
    fn an_agent_that_is_gone_sends_none() {
        assert_eq!(read_assignment([].as_slice()).expect("an end"), None);
    }

    #[test]
    fn half_an_assignment_is_none() {
        let encoded = encode(&assignment()).expect("it is short");
        for length in 4..encoded.len() {
            assert!(read_assignment(&encoded[..length]).is_err(), "{length}");
        }
        assert!(read_assignment([255, 255, 255, 255, 0].as_slice()).is_err());
    }
}
