//! Groupings larger than memory, and how much of it the runner takes.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use crate::process::{holdings, wait};
use crate::run::Where;
use crate::tools::GoKit;

/// How often the memory is looked at.
const SAMPLE: Duration = Duration::from_millis(100);

/// What to group.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Where the jobs go
    #[command(flatten)]
    pub target: Where,
    /// The server's process (known when --serve started it)
    #[arg(long, required_unless_present = "serve")]
    pub pid: Option<u32>,
    /// MiB of input to group over many keys; 0 leaves this case out
    #[arg(long, default_value_t = 4096)]
    pub many_keys: u64,
    /// MiB of values of a single key; 0 leaves this case out
    #[arg(long, default_value_t = 1024)]
    pub one_key: u64,
    /// Fail when the runner's processes take more MiB than this at any time
    #[arg(long, default_value_t = 1024)]
    pub limit: u64,
}

/// Runs both groupings; true when both were right and the runner stayed within its limit.
pub fn run(options: &Options) -> Result<bool> {
    let program = GoKit::program("group")?;
    let mut server = options.target.server()?;
    let pid = options.pid.or(server.pid()).context("whose memory? --pid is missing")?;
    let mut well = true;
    for (what, mebibytes, keys) in [("many keys", options.many_keys, 100_000_u64), ("one key", options.one_key, 1)] {
        if mebibytes == 0 {
            continue;
        }
        let before = holdings(pid)?.resident;
        let start = Instant::now();
        let mut client = Command::new(&program)
            .args(["--runner=universal", "--environment_type=LOOPBACK", "--endpoint", server.endpoint()])
            .args(["--mebibytes", &mebibytes.to_string(), "--keys", &keys.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start the client")?;
        let mut peak = before;
        let status = loop {
            if let Some(status) = wait(&mut client, Duration::ZERO)? {
                break status;
            }
            peak = peak.max(holdings(pid)?.resident);
            thread::sleep(SAMPLE);
        };
        server.check_alive()?;
        let within = peak >> 20 <= options.limit;
        println!(
            "{what}: {mebibytes} MiB grouped, {} in {:.0} s; the runner's memory: {} MiB before, {} MiB at its peak{}",
            if status.success() { "rightly" } else { "WRONG: the job failed" },
            start.elapsed().as_secs_f64(),
            before >> 20,
            peak >> 20,
            if within { String::new() } else { format!(", WRONG: more than {} MiB", options.limit) }
        );
        well &= within && status.success();
    }
    server.stop()?;
    Ok(well)
}
