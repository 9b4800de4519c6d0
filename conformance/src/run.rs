//! A run of some suites against one endpoint, from first to last line.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use regex::Regex;

use crate::capabilities::Capabilities;
use crate::expansion::Expansion;
use crate::expected::Watch;
use crate::impossible::Impossible;
use crate::kills::Killer;
use crate::relay::Relay;
use crate::report::{Complaint, Counts, Outcome, table};
use crate::server::Server;
use crate::suites::{Suite, Target};
use crate::{cache, expected, lanes, matrix, results, suites};

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
    /// Kill job processes of that server at random, from this seed: for jobs that go on, so with --option
    /// checkpointing_interval=100
    #[arg(long, value_name = "SEED", requires = "serve")]
    pub kill: Option<u64>,
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

/// Which tests to run, and how.
#[derive(Args, Clone, Debug)]
pub struct Selection {
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
    /// A pipeline option for every job that is sent to the endpoint, NAME=VALUE (repeatable)
    #[arg(long = "option", value_name = "NAME=VALUE")]
    pub options: Vec<String>,
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            suite: Vec::new(),
            filter: None,
            lanes: None,
            timeout: TIMEOUT,
            expansion_port: None,
            options: Vec::new(),
        }
    }
}

/// What to run, and what to make of it.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Where the jobs go
    #[command(flatten)]
    pub target: Where,
    /// Which tests
    #[command(flatten)]
    pub selection: Selection,
    /// Fail when what passes differs from conformance/expected, either way
    #[arg(long, conflicts_with = "bless")]
    pub check: bool,
    /// Rewrite conformance/expected with what passes
    #[arg(long)]
    pub bless: bool,
    /// Write a line a test to this file: verdict, suite, name
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Report {
    /// All counts together.
    pub counts: Counts,
    /// A line for each suite: its counts, and whether they are as listed.
    pub sums: Vec<String>,
    /// What makes the run a failure; none when it is as it should be.
    pub complaints: Vec<Complaint>,
    /// What became of each test.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// Notes a complaint, and prints it at once: whoever reads only a part of the output may find it there.
    pub fn complain(&mut self, complaint: Complaint) {
        println!("WRONG {complaint}");
        self.complaints.push(complaint);
    }

    /// The last lines of a run: every complaint again, the suites' sums, and `N passed, N failed`.
    pub fn end(&self) -> String {
        let mut text = String::new();
        for complaint in &self.complaints {
            text.push_str(&format!("WRONG {complaint}\n"));
        }
        for sum in &self.sums {
            text.push_str(&format!("{sum}\n"));
        }
        text.push_str(&format!("{} passed, {} failed", self.counts.passed, self.counts.failed));
        text
    }
}

/// Runs the suites, printing as it goes. How it ended is for the caller to print ([`Report::end`]).
pub fn run(options: &Options) -> Result<Report> {
    let (selection, capabilities) = (&options.selection, Capabilities::checked_in()?);
    let impossible = Impossible::checked_in()?;
    let suites: BTreeSet<Suite> = match selection.suite.as_slice() {
        // Without a program of our own there is nothing to launch or to kill.
        [] if options.target.serve.is_none() => Suite::ALL.into_iter().filter(|s| !s.needs_program()).collect(),
        [] => Suite::ALL.into(),
        some => some.iter().copied().collect(),
    };
    let logs = cache::run_logs()?;
    println!("logs: {}", logs.display());
    let mut server = options.target.server()?;
    println!("job endpoint: {}", server.endpoint());
    let killer = options.target.kill.zip(server.pid()).map(|(seed, server)| Killer::start(server, seed));
    let expansion = match selection.expansion_port {
        None if suites.contains(&Suite::Java) => Some(Expansion::start(&logs)?),
        _ => None,
    };
    let relay = match selection.options.as_slice() {
        [] => None,
        options => Some(Relay::start(server.endpoint(), options, &logs)?),
    };
    let target = Target {
        endpoint: relay.as_ref().map_or(server.endpoint(), Relay::endpoint).to_owned(),
        program: options.target.serve.clone(),
        expansion_port: selection.expansion_port.or(expansion.as_ref().map(Expansion::port)),
        timeout: selection.timeout,
    };
    let mut report = Report::default();
    for suite in Suite::ALL.into_iter().filter(|suite| suites.contains(suite)) {
        if let Err(error) = of_suite(suite, options, &target, &logs, &mut report) {
            // The other suites are worth knowing all the same.
            report.complain(Complaint::new(format!("the {} suite cannot be run", suite.name()), format!("{error:#}")));
        }
        if let Err(death) = server.check_alive() {
            let when = format!("the server died during or after the {} suite", suite.name());
            report.complain(Complaint::new(when, format!("{death:#}")));
            break;
        }
    }
    drop(relay);
    if let Some(killer) = killer {
        println!("{} job processes were killed", killer.stop());
    }
    let died = server.check_alive().is_err();
    if let Err(error) = server.stop()
        && !died
    {
        report.complain(Complaint::new("the server does not stop", format!("{error:#}")));
    }
    ensure!(!report.outcomes.is_empty() || !report.complaints.is_empty(), "no test matches");
    println!("\n{}", table(&report.outcomes, &capabilities));
    if let Some(section) = impossible.section(&report.outcomes) {
        println!("{section}");
    }
    if options.bless {
        matrix::write_readme()?;
    }
    for path in [Some(logs.join("results.txt")), options.out.clone()].into_iter().flatten() {
        results::write(&path, &report.outcomes)?;
    }
    Ok(report)
}

/// Runs one suite, and adds what it came to to the report.
fn of_suite(suite: Suite, options: &Options, target: &Target, logs: &Path, report: &mut Report) -> Result<()> {
    let selection = &options.selection;
    let start = Instant::now();
    let width = selection.lanes.unwrap_or_else(|| suite.default_lanes()).max(1);
    let selected = |name: &str| selection.filter.as_ref().is_none_or(|filter| filter.is_match(name));
    let (names, driver) = suites::prepare(suite, target, width, logs)?;
    let names: Vec<String> = names.into_iter().filter(|name| selected(name)).collect();
    let mut watch = options.check.then(|| Watch::new(suite)).transpose()?;
    let limit = Duration::from_secs(selection.timeout);
    let outcomes = lanes::run(suite, names, &driver, limit, logs, |outcome| match &mut watch {
        None => println!("{}", outcome.line()),
        Some(watch) => match watch.see(outcome) {
            Some(complaint) => report.complain(complaint),
            None => println!("{}", outcome.as_listed()),
        },
    })?;
    let counts = Counts::of(&outcomes);
    let mut sum = format!(
        "{}: {} passed, {} failed ({} hung), {} skipped by the SDK, {} s",
        suite.name(),
        counts.passed,
        counts.failed,
        counts.hung,
        counts.skipped,
        start.elapsed().as_secs()
    );
    if let Some(watch) = watch {
        let well = watch.well();
        let gone = watch.unseen(selected);
        sum.push_str(if well && gone.is_empty() { "; as listed" } else { "; NOT as listed" });
        for complaint in gone {
            report.complain(complaint);
        }
    } else if options.bless {
        let listed = expected::bless(suite, &outcomes, selected)?;
        sum.push_str(&format!("; {listed} listed"));
    } else if counts.failed > 0 {
        report.complaints.push(Complaint::new(format!("{}: {} tests failed", suite.name(), counts.failed), ""));
    }
    println!("{sum}");
    report.sums.push(sum);
    report.counts.merge(counts);
    report.outcomes.extend(outcomes);
    Ok(())
}
