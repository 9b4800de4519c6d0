//! A run of some suites against one endpoint, from first to last line.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use regex::Regex;

use crate::capabilities::Capabilities;
use crate::expansion::Expansion;
use crate::report::{Counts, Outcome, table};
use crate::server::Server;
use crate::suites::{Suite, Target};
use crate::{cache, expected, lanes, suites};

/// Seconds that a test may take unless told otherwise.
pub const TIMEOUT: u64 = 90;

/// Where the jobs go.
#[derive(Args, Clone, Debug)]
pub struct Where {
    /// The job endpoint to test, HOST:PORT
    #[arg(long, required_unless_present = "serve", conflicts_with = "serve")]
    pub endpoint: Option<String>,
    /// Start this `ferrobeam` as the server of all tests, and end it afterwards
    #[arg(long)]
    pub serve: Option<PathBuf>,
    /// An argument for the server that is started (repeatable)
    #[arg(long = "serve-arg", allow_hyphen_values = true, requires = "serve")]
    pub serve_args: Vec<String>,
}

impl Where {
    /// The server of a run.
    pub fn server(&self) -> Result<Server> {
        match (&self.serve, &self.endpoint) {
            (Some(program), _) => {
                let log = cache::folder("log")?.join(format!("server-{}.log", std::process::id()));
                Server::start(program, &self.serve_args, &log)
            }
            (None, Some(endpoint)) => Server::at(endpoint),
            (None, None) => anyhow::bail!("neither --endpoint nor --serve says where the jobs go"),
        }
    }
}

/// What to run, and what to make of it.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Where the jobs go
    #[command(flatten)]
    pub target: Where,
    /// Run this suite only (repeatable); all of them when absent
    #[arg(long, value_enum)]
    pub suite: Vec<Suite>,
    /// Run only the tests whose names match
    #[arg(long)]
    pub filter: Option<Regex>,
    /// How many tests of a suite run at once
    #[arg(long)]
    pub lanes: Option<usize>,
    /// Seconds that a test may take
    #[arg(long, default_value_t = TIMEOUT)]
    pub timeout: u64,
    /// The port of an expansion service, for Java's cross-language tests [default: one that is started for them]
    #[arg(long)]
    pub expansion_port: Option<u16>,
    /// Fail when what passes differs from conformance/expected, either way
    #[arg(long, conflicts_with = "bless")]
    pub check: bool,
    /// Rewrite conformance/expected with what passes
    #[arg(long)]
    pub bless: bool,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Report {
    /// All counts together.
    pub counts: Counts,
    /// A line for each suite: its counts, and whether they are as listed.
    pub sums: Vec<String>,
    /// What makes the run a failure; none when it is as it should be.
    pub complaints: Vec<String>,
}

/// Runs the suites, printing as it goes; the last line is `N passed, N failed`.
pub fn run(options: &Options) -> Result<Report> {
    let capabilities = Capabilities::checked_in()?;
    let suites: BTreeSet<Suite> = match options.suite.as_slice() {
        // Without a program of our own there is nothing to launch.
        [] if options.target.serve.is_none() => Suite::ALL.into_iter().filter(|s| *s != Suite::Launch).collect(),
        [] => Suite::ALL.into(),
        some => some.iter().copied().collect(),
    };
    let logs = cache::run_logs()?;
    println!("logs: {}", logs.display());
    let mut server = options.target.server()?;
    println!("job endpoint: {}", server.endpoint());
    let expansion = match options.expansion_port {
        None if suites.contains(&Suite::Java) => Some(Expansion::start(&logs)?),
        _ => None,
    };
    let target = Target {
        endpoint: server.endpoint().to_owned(),
        program: options.target.serve.clone(),
        expansion_port: options.expansion_port.or(expansion.as_ref().map(Expansion::port)),
        timeout: options.timeout,
    };
    let selected = |name: &str| options.filter.as_ref().is_none_or(|filter| filter.is_match(name));
    let mut report = Report::default();
    let mut all: Vec<Outcome> = Vec::new();
    for suite in Suite::ALL.into_iter().filter(|suite| suites.contains(suite)) {
        let start = Instant::now();
        let width = options.lanes.unwrap_or_else(|| suite.default_lanes()).max(1);
        let (names, driver) = suites::prepare(suite, &target, width, &logs)?;
        let names: Vec<String> = names.into_iter().filter(|name| selected(name)).collect();
        let limit = Duration::from_secs(options.timeout);
        let outcomes = lanes::run(suite, names, &driver, limit, &logs, |outcome| println!("{}", outcome.line()))?;
        let counts = Counts::of(&outcomes);
        let of_suite: Vec<&Outcome> = outcomes.iter().collect();
        let mut sum = format!(
            "{}: {} passed, {} failed ({} hung), {} skipped by the SDK, {} s",
            suite.name(),
            counts.passed,
            counts.failed,
            counts.hung,
            counts.skipped,
            start.elapsed().as_secs()
        );
        if options.check {
            let difference = expected::compare(&expected::listed(suite)?, &of_suite, selected);
            sum.push_str(if difference.is_empty() { "; as listed" } else { "; NOT as listed" });
            for name in &difference.lost {
                report.complaints.push(format!("{}: listed as passing, does not pass: {name}", suite.name()));
            }
            for name in &difference.gained {
                report.complaints.push(format!("{}: passes, not listed: {name}", suite.name()));
            }
        } else if options.bless {
            let listed = expected::bless(suite, &of_suite, selected)?;
            sum.push_str(&format!("; {listed} listed"));
        } else {
            report
                .complaints
                .extend((counts.failed > 0).then(|| format!("{}: {} tests failed", suite.name(), counts.failed)));
        }
        println!("{sum}");
        report.sums.push(sum);
        report.counts.merge(counts);
        all.extend(outcomes);
        if let Err(death) = server.check_alive() {
            report.complaints.push(format!("{death:#} (during or after the {} suite)", suite.name()));
            break;
        }
    }
    ensure!(!all.is_empty(), "no test matches");
    println!("\n{}", table(&all, &capabilities));
    for sum in &report.sums {
        println!("{sum}");
    }
    if let Err(death) = server.stop() {
        let death = format!("{death:#}");
        if !report.complaints.iter().any(|complaint| complaint.contains(&death)) {
            report.complaints.push(death);
        }
    }
    for complaint in &report.complaints {
        println!("WRONG {complaint}");
    }
    println!("{} passed, {} failed", report.counts.passed, report.counts.failed);
    Ok(report)
}
