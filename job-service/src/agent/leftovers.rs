//! Harnesses that a job process left behind when it was killed.
//!
//! A job process ends the harnesses that it started, and a harness that has connected ends by itself when the
//! connection does. One that has not is known to nobody once its job process was killed; but it carries the folder of
//! that process in its environment, and so does all that it started. A parent-death signal was rejected: Linux sends it
//! when the *thread* that started the child ends.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use ferrobeam_harness_bridge::WORK_DIR_VARIABLE;
use rustix::process::{Pid, Signal, kill_process};

/// How long processes are looked for that keep appearing, or that have been killed and are still there. Who starts
/// processes faster than this ends them is not caught.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a process may show no environment until it is taken for one that has none.
const UNCLEAR: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(1);

/// Kills what the job process of this folder left behind, and returns when it is gone. Where there is no `/proc`, nothing
/// is found. Blocks for as long as it takes to look at every process of the machine, twice if there was something.
pub(super) fn end(work_dir: &Path) {
    let mark = [WORK_DIR_VARIABLE.as_bytes(), b"=", work_dir.as_os_str().as_bytes()].concat();
    let begun = Instant::now();
    let mut killed = HashSet::new();
    while begun.elapsed() < PATIENCE {
        let (left, unclear) = marked(&mark);
        for pid in &left {
            if killed.insert(*pid) {
                tracing::debug!(?pid, "kills a process that a job process left behind");
                // Fails for one that is gone by now.
                let _ = kill_process(*pid, Signal::KILL);
            }
        }
        killed.retain(|pid| runs(*pid));
        if left.is_empty() && killed.is_empty() && !(unclear && begun.elapsed() < UNCLEAR) {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    tracing::warn!(?killed, folder = %work_dir.display(), "processes that a job process left behind do not end");
}

/// The processes with `mark` as one of the variables that they were started with, and whether there are others that
/// may yet turn out to have it. Processes of other users do not show their variables, and one that has ended has none
/// any more; nor has one, for a moment, that becomes another program.
fn marked(mark: &[u8]) -> (Vec<Pid>, bool) {
    let Ok(processes) = std::fs::read_dir("/proc") else { return (Vec::new(), false) };
    let mut unclear = false;
    let pids = processes.filter_map(|entry| {
        let pid = Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?)?;
        let variables = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).ok()?;
        unclear |= variables.is_empty() && has_memory(pid);
        variables.split(|byte| *byte == 0).any(|variable| variable == mark).then_some(pid)
    });
    let pids = pids.collect();
    (pids, unclear)
}

/// Whether a process is there, and more than its exit code.
fn runs(pid: Pid) -> bool {
    let status = status(pid);
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_some_and(|state| !state.trim_start().starts_with(['Z', 'X']))
}

/// Whether a process is no thread of the kernel, and not about to end.
fn has_memory(pid: Pid) -> bool {
    status(pid).lines().any(|line| line.starts_with("VmSize:"))
}

/// What `/proc` says of a process: nothing when there is none.
fn status(pid: Pid) -> String {
    std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;

    /// Looks at once: at processes that have just become another program, or are about to.
    #[cfg(target_os = "linux")]
    #[test]
    fn nothing_is_left_of_what_has_hardly_begun() {
        for round in 0..100 {
            let folder = tempfile::tempdir().expect("a folder");
            // Each has the pipe open for as long as it is there.
            let script = "set -m; sleep 1000 & (sleep 1000; true) & sleep 1000; true";
            let mut command = Command::new("sh");
            command.args(["-c", script]).env(WORK_DIR_VARIABLE, folder.path()).stdout(Stdio::piped());
            let mut harness = command.spawn().expect("it starts");
            let mut pipe = harness.stdout.take().expect("it is piped");
            std::thread::sleep(Duration::from_micros(round * 50));
            end(folder.path());
            rustix::io::ioctl_fionbio(&pipe, true).expect("it is open");
            let left = pipe.read(&mut [0; 16]);
            harness.wait().expect("it was started here");
            assert_eq!(left.map_err(|error| error.kind()), Ok(0), "round {round}");
        }
    }
}
