//! Kills job processes of a server at random while suites run: what a test expects must come all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::process;

/// Between two looks at the server's processes.
const LOOK: Duration = Duration::from_millis(10);
/// A process that has work is killed so many milliseconds after that was seen, at most.
const LONGEST: u64 = 600;
/// Of ten processes so many are killed.
const OF_TEN: u64 = 6;
/// The state of a listening socket in `/proc/net/tcp`.
const LISTENS: &str = "0A";

/// Kills until it is stopped.
pub(crate) struct Killer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Killer {
    /// Kills children of the process `server` that have work. Who is killed, and when, follows from `seed`, and from how
    /// quick this machine is.
    pub(crate) fn start(server: u32, seed: u64) -> Killer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || work(server, Random(seed), &stopped));
        Killer { stop, thread: Some(thread) }
    }

    /// How many it has killed.
    pub(crate) fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or(0)
    }
}

impl Drop for Killer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// A linear congruential generator.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn work(server: u32, mut random: Random, stop: &AtomicBool) -> u64 {
    // When each is to be killed; none: it lives.
    let mut seen: BTreeMap<u32, Option<Instant>> = BTreeMap::new();
    let mut killed = 0;
    while !stop.load(Ordering::SeqCst) {
        let children = children(server);
        seen.retain(|pid, _| children.contains(pid));
        for pid in children {
            if !seen.contains_key(&pid) && listens(pid) {
                let at = Instant::now() + Duration::from_millis(random.below(LONGEST));
                seen.insert(pid, (random.below(10) < OF_TEN).then_some(at));
            }
            let due = seen.get_mut(&pid).and_then(|at| at.take_if(|at| Instant::now() >= *at));
            if due.is_some() {
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
                killed += u64::from(pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok()));
            }
        }
        thread::sleep(LOOK);
    }
    killed
}

fn children(parent: u32) -> BTreeSet<u32> {
    process::by_parent().ok().and_then(|mut of| of.remove(&parent)).unwrap_or_default().into_iter().collect()
}

/// Whether a process has a TCP port: one that waits for work has none.
fn listens(pid: u32) -> bool {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let sockets: BTreeSet<String> =
        links.filter_map(|link| fs::read_link(link.path()).ok()?.to_str().map(ToOwned::to_owned)).collect();
    ["tcp", "tcp6"].iter().any(|table| {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        table.lines().skip(1).any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let inode = || fields.get(9).is_some_and(|inode| sockets.contains(&format!("socket:[{inode}]")));
            fields.get(3) == Some(&LISTENS) && inode()
        })
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::Command;

    use super::*;

    #[test]
    fn who_listens_is_known() {
        let own = std::process::id();
        let mut child = Command::new("sleep").arg("1000").spawn().expect("a program of every system");
        assert!(children(own).contains(&child.id()));
        assert!(!listens(child.id()));
        let _port = TcpListener::bind("127.0.0.1:0").expect("a free port");
        assert!(listens(own));
        child.kill().expect("it runs");
        child.wait().expect("it was killed");
    }
}
