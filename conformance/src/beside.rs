//! Several runs of the same suites side by side: the same suites under variants of the service, or again and again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::report::{Complaint, Counts, Outcome, Verdict};
use crate::run::{self, Report, Selection, Where};
use crate::suites::Suite;

/// The checked-in variants.
const VARIANTS: &str = include_str!("../variants.txt");

/// Which variants of the service to run the suites under.
#[derive(Args, Clone, Debug)]
pub struct Variants {
    /// The `ferrobeam` to start, once a variant
    #[arg(long)]
    pub serve: PathBuf,
    /// An argument for the server, whatever the variant (repeatable)
    #[arg(long = "serve-arg", allow_hyphen_values = true)]
    pub serve_args: Vec<String>,
    /// This variant only (repeatable) [default: all of conformance/variants.txt]
    #[arg(long)]
    pub variant: Vec<String>,
    /// Which tests; Python's, Go's and Java's suites when no suite is named
    #[command(flatten)]
    pub selection: Selection,
}

/// How often to run the suites.
#[derive(Args, Clone, Debug)]
pub struct Repeat {
    /// Where the jobs go; a server of our own is started anew each time
    #[command(flatten)]
    pub target: Where,
    /// How often
    #[arg(long, default_value_t = 3)]
    pub times: usize,
    /// Which tests; Python's, Go's and Java's suites when no suite is named
    #[command(flatten)]
    pub selection: Selection,
}

/// Runs the suites under each variant; true when every test came to the same under all of them.
pub fn variants(options: &Variants) -> Result<bool> {
    let known = parse_variants(VARIANTS).context("conformance/variants.txt")?;
    for name in &options.variant {
        let names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
        ensure!(names.contains(&name.as_str()), "there is no variant {name}, only {}", names.join(", "));
    }
    let mut runs = Runs::default();
    for (name, flags) in known.into_iter().filter(|(n, _)| options.variant.is_empty() || options.variant.contains(n)) {
        let serve_args = options.serve_args.iter().cloned().chain(flags).collect();
        let target = Where { endpoint: None, serve: Some(options.serve.clone()), serve_args, kill: None };
        runs.add(name, &target, &options.selection);
    }
    Ok(runs.end())
}

/// Runs the suites some times; true when every test came to the same each time.
pub fn repeat(options: &Repeat) -> Result<bool> {
    let mut runs = Runs::default();
    for number in 1..=options.times {
        runs.add(format!("run-{number}"), &options.target, &options.selection);
    }
    Ok(runs.end())
}

/// Reads `NAME: FLAGS` lines.
fn parse_variants(text: &str) -> Result<Vec<(String, Vec<String>)>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, flags) = line.split_once(':').with_context(|| format!("`{line}` is not `NAME: FLAGS`"))?;
            Ok((name.to_owned(), flags.split_whitespace().map(str::to_owned).collect()))
        })
        .collect()
}

/// Runs and what they came to, each under a label.
#[derive(Default)]
struct Runs {
    labels: Vec<String>,
    outcomes: Vec<Vec<Outcome>>,
    complaints: Vec<Complaint>,
}

impl Runs {
    fn add(&mut self, label: String, target: &Where, selection: &Selection) {
        let flags = target.serve_args.join(" ");
        println!("\n== {label} {flags}");
        let mut selection = selection.clone();
        if selection.suite.is_empty() {
            selection.suite = Suite::SDKS.to_vec();
        }
        let start = Instant::now();
        let options = run::Options { target: target.clone(), selection, check: false, bless: false, out: None };
        let outcomes = match run::run(&options) {
            // That tests fail is told by their verdicts.
            Ok(Report { outcomes, complaints, .. }) => {
                let others = complaints.into_iter().filter(|c| !c.what.ends_with("tests failed"));
                let of_run = |c: Complaint| Complaint::new(format!("{label}: {}", c.what), c.why);
                self.complaints.extend(others.map(of_run));
                outcomes
            }
            Err(error) => {
                self.complaints.push(Complaint::new(format!("{label}: it cannot be run"), format!("{error:#}")));
                Vec::new()
            }
        };
        println!("{label}: {} tests in {} s", outcomes.len(), start.elapsed().as_secs());
        self.labels.push(label);
        self.outcomes.push(outcomes);
    }

    /// Prints the counts side by side and what differs; true when nothing does.
    fn end(&self) -> bool {
        println!("\n{}", self.counts());
        let differences = self.differences();
        for line in &differences {
            println!("DIFFERS {line}");
        }
        for complaint in &self.complaints {
            println!("WRONG {complaint}");
        }
        println!("{} tests differ", differences.len());
        differences.is_empty() && self.complaints.is_empty()
    }

    /// The counts, a line a run.
    fn counts(&self) -> String {
        let mut suites: Vec<Suite> = self.outcomes.iter().flatten().map(|o| o.suite).collect();
        suites.sort();
        suites.dedup();
        let mut text = format!("{:<16}", "passed of run");
        for suite in &suites {
            text.push_str(&format!("{:>18}", suite.name()));
        }
        for (label, outcomes) in self.labels.iter().zip(&self.outcomes) {
            text.push_str(&format!("\n{label:<16}"));
            for suite in &suites {
                let counts = Counts::of(outcomes.iter().filter(|o| o.suite == *suite));
                text.push_str(&format!("{:>18}", format!("{} of {}", counts.passed, counts.passed + counts.failed)));
            }
        }
        text
    }

    /// A line for each test that passed in some runs and not in others, with the first reason that was given.
    fn differences(&self) -> Vec<String> {
        let mut tests: BTreeMap<(Suite, &str), Vec<Option<&Outcome>>> = BTreeMap::new();
        for (run, outcomes) in self.outcomes.iter().enumerate() {
            for outcome in outcomes {
                let of_test = tests.entry((outcome.suite, &outcome.name));
                of_test.or_insert_with(|| vec![None; self.outcomes.len()])[run] = Some(outcome);
            }
        }
        let passed = |outcome: &Option<&Outcome>| outcome.is_some_and(|o| o.verdict == Verdict::Pass);
        let mut lines = Vec::new();
        for ((suite, name), outcomes) in tests {
            if outcomes.iter().all(passed) || !outcomes.iter().any(passed) {
                continue;
            }
            let words = self.labels.iter().zip(&outcomes).map(|(label, outcome)| {
                let word = outcome.map_or("not run", |o| o.verdict.word());
                format!("{label} {word}")
            });
            let what = format!("{} {name} ({})", suite.name(), words.collect::<Vec<_>>().join(", "));
            let why = outcomes.iter().flatten().find(|o| o.verdict != Verdict::Pass).map(|o| o.why.as_str());
            lines.push(Complaint::new(what, why.unwrap_or_default()).to_string());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn outcome(name: &str, verdict: Verdict) -> Outcome {
        Outcome { suite: Suite::Go, name: name.into(), verdict, took: Duration::ZERO, why: "boom".into() }
    }

    #[test]
    fn a_test_that_passes_in_some_runs_only_is_told() {
        let (pass, fail, hang) = (Verdict::Pass, Verdict::Fail, Verdict::Hang);
        let runs = Runs {
            labels: vec!["one".into(), "two".into()],
            outcomes: vec![
                vec![outcome("A", pass), outcome("B", pass), outcome("C", fail), outcome("D", pass)],
                vec![outcome("A", pass), outcome("B", hang), outcome("C", hang)],
            ],
            complaints: Vec::new(),
        };
        assert_eq!(runs.differences(), ["go B (one PASS, two HANG): boom", "go D (one PASS, two not run)"]);
        assert!(!runs.end());
        assert!(runs.counts().ends_with("1 of 3"), "{}", runs.counts());
    }

    #[test]
    fn the_checked_in_variants_can_be_read() {
        let variants = parse_variants(VARIANTS).expect("they parse");
        assert!(variants.iter().any(|(name, flags)| name == "two-processes" && flags.len() == 2));
        assert!(parse_variants("memory").is_err());
    }
}
