//! `cargo xtask test`: formatting, lints, the workspace's own tests, the SDKs' suites.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use ferrobeam_conformance::report::Counts;
use ferrobeam_conformance::run;
use ferrobeam_conformance::suites::Suite;
use ferrobeam_conformance::tools;

use crate::machine::{cargo, packages, show, target_dir};

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

/// Runs the checks; true when all are as they should be. The last line printed totals every test that ran.
pub(crate) fn run(options: &Options) -> Result<bool> {
    packages(&[("cc", "build-essential")])?;
    let mut sums: Vec<String> = Vec::new();
    let mut counts = Counts::default();
    let mut well = true;
    if options.suite.is_empty() {
        // All of these are worth knowing at once, so one that fails does not stop the next.
        let mut lint = |what: &str, command: &mut Command| {
            let passed = show(command).is_ok();
            counts.passed += usize::from(passed);
            counts.failed += usize::from(!passed);
            sums.push(format!("{what}: {}", if passed { "clean" } else { "NOT CLEAN" }));
            well &= passed;
        };
        lint("format", cargo()?.args(["fmt", "--all", "--check"]));
        let clippy = ["clippy", "--workspace", "--all-targets", "--profile", "ci", "--", "-D", "warnings"];
        lint("lints", cargo()?.args(clippy));
        // The proto tests compare our declarations with those inside the Python SDK.
        let python = tools::python(true)?;
        let mut command = cargo()?;
        command.args(["test", "--workspace", "--profile", "ci", "--no-fail-fast"]).env("PYTHON", python);
        let (tests, passed) = cargo_tests(&mut command)?;
        sums.push(format!("workspace: {} passed, {} failed, {} ignored", tests.passed, tests.failed, tests.skipped));
        counts.merge(tests);
        well &= passed;
    }
    if !options.quick {
        show(cargo()?.args(["build", "--profile", "ci", "-p", "ferrobeam-job-service"]))?;
        if options.suite.is_empty() || options.suite.contains(&Suite::Java) {
            packages(&[("javac", "default-jdk-headless"), ("mvn", "maven")])?;
        }
        println!("\n== conformance suites");
        let report = run::run(&run::Options {
            target: run::Where {
                endpoint: None,
                serve: Some(target_dir()?.join("ci/ferrobeam")),
                serve_args: Vec::new(),
            },
            suite: options.suite.clone(),
            filter: None,
            lanes: None,
            timeout: run::TIMEOUT,
            expansion_port: None,
            check: !options.bless,
            bless: options.bless,
        })?;
        sums.extend(report.sums);
        counts.merge(report.counts);
        well &= report.complaints.is_empty();
    }
    println!();
    for sum in &sums {
        println!("{sum}");
    }
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(well)
}

/// Runs `cargo test` with its output shown, and adds up the sums that it prints.
fn cargo_tests(command: &mut Command) -> Result<(Counts, bool)> {
    println!("\n== cargo test");
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo without stdout")?;
    let mut counts = Counts::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("cargo's output is not text")?;
        println!("{line}");
        if let Some(sum) = line.strip_prefix("test result: ") {
            counts.merge(parse_sum(sum).with_context(|| format!("cannot read the sum `{line}`"))?);
        }
    }
    let passed = child.wait().context("cannot wait for cargo")?.success();
    if counts == Counts::default() {
        bail!("cargo test ran no test");
    }
    Ok((counts, passed))
}

/// Reads `ok. 3 passed; 0 failed; 1 ignored; ...`.
fn parse_sum(sum: &str) -> Option<Counts> {
    let (_, numbers) = sum.split_once(". ")?;
    let mut counts = Counts::default();
    for part in numbers.split("; ") {
        match part.split_once(' ')? {
            (number, "passed") => counts.passed = number.parse().ok()?,
            (number, "failed") => counts.failed = number.parse().ok()?,
            (number, "ignored") => counts.skipped = number.parse().ok()?,
            _ => {}
        }
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_of_cargo_test_is_read() {
        let sum = "FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(parse_sum(sum), Some(Counts { passed: 3, failed: 2, hung: 0, skipped: 1 }));
        assert_eq!(parse_sum("nonsense"), None);
    }
}
