//! Other processes: waiting for them under a limit, and what they hold, by `/proc`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often a wait looks again.
pub const GLANCE: Duration = Duration::from_millis(20);

/// Waits until the child has ended or the limit has passed; `None` when it is still running.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child")? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(GLANCE);
    }
}

/// What a family of processes holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Processes.
    pub processes: usize,
    /// Threads of them all.
    pub threads: usize,
    /// Open file descriptors of them all.
    pub files: usize,
    /// Resident memory of them all, in bytes.
    pub resident: u64,
}

/// What process `pid` and its descendants that run the same program hold now.
///
/// Descendants that run another program are SDK harnesses: user code, not the runner's.
pub fn holdings(pid: u32) -> Result<Holdings> {
    let program = fs::read_link(format!("/proc/{pid}/exe"))
        .with_context(|| format!("cannot look at process {pid}: is it running, and yours?"))?;
    let mut total = Holdings::default();
    for member in family(pid)? {
        // A process may end between two looks; what has ended holds nothing.
        if fs::read_link(format!("/proc/{member}/exe")).ok() != Some(program.clone()) {
            continue;
        }
        let count = |what: &str| fs::read_dir(format!("/proc/{member}/{what}")).map(Iterator::count).unwrap_or(0);
        total.processes += 1;
        total.threads += count("task");
        total.files += count("fd");
        total.resident += resident(member).unwrap_or(0);
    }
    Ok(total)
}

fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// The processes of this machine, by their parents.
pub(crate) fn by_parent() -> Result<BTreeMap<u32, Vec<u32>>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("cannot list /proc")? {
        let path: PathBuf = entry.context("cannot list /proc")?.path();
        let Some(id) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
        // The second field is the command in parentheses, which may itself hold spaces; the parent is the second after.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(id);
        }
    }
    Ok(children)
}

fn family(pid: u32) -> Result<BTreeSet<u32>> {
    let mut children = by_parent()?;
    let mut family = BTreeSet::from([pid]);
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            if family.insert(child) {
                open.push(child);
            }
        }
    }
    Ok(family)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn this_process_holds_something() {
        let held = holdings(std::process::id()).expect("this process can be looked at");
        assert!(held.processes >= 1 && held.threads >= 1 && held.files >= 3 && held.resident > 0, "{held:?}");
    }

    #[test]
    fn a_child_of_another_program_is_family_but_not_counted() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let family = family(std::process::id()).expect("/proc can be read");
        let contains = family.contains(&child.id());
        child.kill().expect("the child can be killed");
        child.wait().expect("the child can be waited for");
        assert!(contains);
    }

    #[test]
    fn a_wait_ends_at_its_limit() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep starts");
        assert!(wait(&mut child, Duration::ZERO).expect("the wait works").is_none());
        child.kill().expect("the child can be killed");
        assert!(wait(&mut child, Duration::from_secs(60)).expect("the wait works").is_some());
    }
}
