//! Harnesses that a job process left behind when it was killed.
//!
//! A job process ends the harnesses that it started, and a harness that has connected ends by itself when the
//! connection does. One that has not is known to nobody once its job process was killed; but it carries the folder of
//! that process in its environment, and so does all that it started. A parent-death signal was rejected: Linux sends it
//! when the *thread* that started the child ends.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ferrobeam_harness_bridge::WORK_DIR_VARIABLE;
use rustix::process::{Pid, Signal, kill_process};

/// Looks beyond which what still appears is left alone: who starts processes faster than this ends them is not caught.
const LOOKS: usize = 5;

/// Kills what the job process of this folder left behind. Where there is no `/proc`, nothing is found. Blocks for as long
/// as it takes to look at every process of the machine.
pub(super) fn end(work_dir: &Path) {
    let mark = [WORK_DIR_VARIABLE.as_bytes(), b"=", work_dir.as_os_str().as_bytes()].concat();
    for _ in 0..LOOKS {
        let left = marked(&mark);
        if left.is_empty() {
            return;
        }
        for pid in left {
            tracing::debug!(?pid, "kills a process that a job process left behind");
            // Fails for one that is gone by now.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The processes with `mark` as one of the variables that they were started with. Those of other users do not show
/// theirs, and a process that has ended has none any more.
fn marked(mark: &[u8]) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| {
        let pid = Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?)?;
        let variables = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).ok()?;
        variables.split(|byte| *byte == 0).any(|variable| variable == mark).then_some(pid)
    });
    pids.collect()
}
