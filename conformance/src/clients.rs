//! Many clients at once on one server, and what the server still holds once they have left.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use crate::cache;
use crate::process::{Holdings, holdings};
use crate::run::Where;
use crate::server::Server;
use crate::suites::source_dir;
use crate::tools::python;

/// How long a server may take to let go of what jobs held.
const SETTLING: Duration = Duration::from_secs(90);
/// Resident memory that may stay: allocators keep some of what they had, records of jobs are kept on purpose.
const MEMORY_KEPT: u64 = 64 << 20;

/// How many clients, and what to look at.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Where the jobs go
    #[command(flatten)]
    pub target: Where,
    /// Client processes at once
    #[arg(long, default_value_t = 8)]
    pub clients: usize,
    /// Jobs that each submits, one after the other
    #[arg(long, default_value_t = 25)]
    pub jobs: usize,
    /// The server's process, to see what it holds before and after (known when --serve started it)
    #[arg(long)]
    pub pid: Option<u32>,
}

/// Runs the clients; true when every job was DONE, the server lives, and nothing stays behind.
pub fn run(options: &Options) -> Result<bool> {
    let mut server = options.target.server()?;
    let pid = options.pid.or(server.pid());
    // A first client warms up what is made once, so that it is not taken for a leak.
    let warm = submit(&server, 1, 2)?;
    println!("warm-up: {warm} of 2 jobs DONE");
    let before = pid.map(settled).transpose()?;
    let start = Instant::now();
    let total = options.clients * options.jobs;
    let done = submit(&server, options.clients, options.jobs)?;
    println!(
        "{done} of {total} jobs DONE, from {} clients at once, in {:.1} s",
        options.clients,
        start.elapsed().as_secs_f64()
    );
    server.check_alive()?;
    let mut well = done == total && warm == 2;
    if let (Some(pid), Some(before)) = (pid, before) {
        let after = released(pid, &before)?;
        println!("{:<14}{:>12}{:>12}", "the server's", "before", "after");
        for (what, before, after) in [
            ("processes", before.processes as u64, after.processes as u64),
            ("threads", before.threads as u64, after.threads as u64),
            ("open files", before.files as u64, after.files as u64),
            ("resident MiB", before.resident >> 20, after.resident >> 20),
        ] {
            println!("{what:<14}{before:>12}{after:>12}");
        }
        if !is_released(&before, &after) {
            println!("WRONG: the server holds more than before, {} s after its last job", SETTLING.as_secs());
            well = false;
        }
    }
    server.stop()?;
    Ok(well)
}

/// Runs the clients to their end and counts the jobs that were DONE.
fn submit(server: &Server, clients: usize, jobs: usize) -> Result<usize> {
    let python = python(false)?;
    let log = cache::folder("log")?.join(format!("clients-{}.log", std::process::id()));
    let errors = std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut running = Vec::new();
    for _ in 0..clients {
        let child = Command::new(&python)
            .arg(source_dir().join("python/client.py"))
            .args([server.endpoint(), &jobs.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone().context("cannot share the clients' log")?)
            .spawn()
            .context("cannot start a client")?;
        running.push(child);
    }
    let mut done = 0;
    for (number, mut child) in running.into_iter().enumerate() {
        let output = child.stdout.take().context("a client without stdout")?;
        let lines: Vec<String> = BufReader::new(output).lines().map_while(Result::ok).collect();
        done += lines.iter().filter(|line| *line == "DONE").count();
        for line in lines.iter().filter(|line| *line != "DONE").take(3) {
            println!("client {number}: {line}");
        }
        let status = child.wait().context("cannot wait for a client")?;
        if lines.len() < jobs {
            println!("client {number} gave up after {} jobs ({status}); see {}", lines.len(), log.display());
        }
    }
    Ok(done)
}

fn is_released(before: &Holdings, after: &Holdings) -> bool {
    after.processes <= before.processes
        && after.threads <= before.threads
        && after.files <= before.files
        && after.resident <= before.resident + MEMORY_KEPT
}

/// What the process holds once three looks in a row agree on everything countable.
fn settled(pid: u32) -> Result<Holdings> {
    let deadline = Instant::now() + SETTLING;
    let mut last = holdings(pid)?;
    let mut agreed = 0;
    while agreed < 3 && Instant::now() < deadline {
        thread::sleep(Duration::from_secs(1));
        let now = holdings(pid)?;
        let same = (now.processes, now.threads, now.files) == (last.processes, last.threads, last.files);
        agreed = if same { agreed + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}

/// What the process holds once it is back to `before`, or has had time enough to be.
fn released(pid: u32, before: &Holdings) -> Result<Holdings> {
    let deadline = Instant::now() + SETTLING;
    loop {
        let now = holdings(pid)?;
        if is_released(before, &now) || Instant::now() >= deadline {
            return Ok(now);
        }
        thread::sleep(Duration::from_millis(500));
    }
}
