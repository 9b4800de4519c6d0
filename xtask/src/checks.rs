//! `cargo xtask test`: formatting, lints, the workspace's own tests, the SDKs' suites.

use std::process::Command;

use anyhow::Result;
use clap::Args;
use ferrobeam_conformance::report::Complaint;
use ferrobeam_conformance::run;
use ferrobeam_conformance::suites::Suite;
use ferrobeam_conformance::tools;

use crate::cargo_tests;
use crate::machine::{cargo, compilers, packages, show, target_dir};

/// What to leave out while working.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// No conformance suites
    #[arg(long)]
    quick: bool,
    /// This conformance suite only, and nothing else (repeatable)
    #[arg(long, value_enum, conflicts_with = "quick")]
    suite: Vec<Suite>,
    /// Rewrite the lists of conformance tests that pass, instead of checking them
    #[arg(long, conflicts_with = "quick")]
    bless: bool,
}

/// Runs the checks; true when all are as they should be. The last lines printed are everything that is wrong, a sum of
/// each part, and the total of every test that ran.
pub(crate) fn run(options: &Options) -> Result<bool> {
    compilers()?;
    let mut report = run::Report::default();
    // All of these are worth knowing at once, so one that fails does not stop the next.
    if options.suite.is_empty() {
        lint(&mut report, "format", cargo()?.args(["fmt", "--all", "--check"]));
        let clippy = ["clippy", "--workspace", "--all-targets", "--profile", "ci", "--", "-D", "warnings"];
        lint(&mut report, "lints", cargo()?.args(clippy));
        if let Err(error) = workspace_tests(&mut report) {
            report.complain(Complaint::new("the workspace's tests cannot be run", format!("{error:#}")));
        }
    }
    if !options.quick
        && let Err(error) = suites(options, &mut report)
    {
        report.complain(Complaint::new("the conformance suites cannot be run", format!("{error:#}")));
    }
    println!("\n{}", report.end());
    Ok(report.complaints.is_empty())
}

fn lint(report: &mut run::Report, what: &str, command: &mut Command) {
    let ended = show(command);
    report.counts.passed += usize::from(ended.is_ok());
    report.counts.failed += usize::from(ended.is_err());
    report.sums.push(format!("{what}: {}", if ended.is_ok() { "clean" } else { "NOT CLEAN" }));
    if let Err(error) = ended {
        report.complain(Complaint::new(format!("{what}: not clean"), format!("{error:#}")));
    }
}

fn workspace_tests(report: &mut run::Report) -> Result<()> {
    // The proto tests compare our declarations with those inside the Python SDK.
    let python = tools::python(true)?;
    let mut command = cargo()?;
    command.args(["test", "--workspace", "--profile", "ci", "--no-fail-fast"]).env("PYTHON", python);
    let (counts, complaints) = cargo_tests::run(&mut command)?;
    report
        .sums
        .push(format!("workspace: {} passed, {} failed, {} ignored", counts.passed, counts.failed, counts.skipped));
    report.counts.merge(counts);
    for complaint in complaints {
        report.complain(complaint);
    }
    Ok(())
}

fn suites(options: &Options, report: &mut run::Report) -> Result<()> {
    // With the tests, which were just built: alone, it has dependencies with fewer features, and they are compiled anew.
    show(cargo()?.args(["build", "--profile", "ci", "--workspace", "--bins", "--tests"]))?;
    if options.suite.is_empty() || options.suite.contains(&Suite::Java) {
        packages(&[("javac", "default-jdk-headless"), ("mvn", "maven")])?;
    }
    println!("\n== conformance suites");
    let of_suites = run::run(&run::Options {
        target: run::Where {
            endpoint: None,
            serve: Some(target_dir()?.join("ci/ferrobeam")),
            serve_args: Vec::new(),
            kill: None,
        },
        selection: run::Selection { suite: options.suite.clone(), ..run::Selection::default() },
        check: !options.bless,
        bless: options.bless,
        out: None,
    })?;
    report.sums.extend(of_suites.sums);
    report.counts.merge(of_suites.counts);
    report.complaints.extend(of_suites.complaints);
    Ok(())
}
