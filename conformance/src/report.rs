//! What became of each test, and the tables made of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use crate::capabilities::Capabilities;
use crate::suites::Suite;

/// What a test came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// It ran and agreed.
    Pass,
    /// It ran and disagreed, or its process died.
    Fail,
    /// The SDK itself does not run it.
    Skip,
    /// It was still running when its time was up.
    Hang,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 4] = [Self::Pass, Self::Fail, Self::Skip, Self::Hang];

    /// The word printed for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Skip => "SKIP",
            Self::Hang => "HANG",
        }
    }
}

/// One test's result.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The suite it belongs to.
    pub suite: Suite,
    /// Its name within the suite.
    pub name: String,
    /// What it came to.
    pub verdict: Verdict,
    /// How long it ran.
    pub took: Duration,
    /// Its error, as the SDK put it; empty when it passed.
    pub why: String,
}

impl Outcome {
    /// The line printed when the test ends: verdict, suite, name, time and the start of the error.
    pub fn line(&self) -> String {
        let mut line = self.line_without_reason();
        let why = start_of(&self.why, 240);
        if !why.is_empty() {
            line.push_str(": ");
            line.push_str(&why);
        }
        line
    }

    /// The same without the error.
    pub fn line_without_reason(&self) -> String {
        format!("{} {} {} {:.1} s", self.verdict.word(), self.suite.name(), self.name, self.took.as_secs_f64())
    }

    /// The line printed for a test that came to what its list says: known failures are told short, so that what is
    /// wrong stands out.
    pub fn as_listed(&self) -> String {
        match self.verdict {
            Verdict::Pass => self.line_without_reason(),
            Verdict::Skip => self.line(),
            Verdict::Fail | Verdict::Hang => format!("{}, as listed", self.line_without_reason()),
        }
    }
}

/// The text on one line, and no more of it than `limit` characters.
fn start_of(text: &str, limit: usize) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(limit).collect()
}

/// Something that makes a run a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// What is wrong.
    pub what: String,
    /// Why, as far as it is known: an error, as whoever raised it put it.
    pub why: String,
}

impl Complaint {
    /// A complaint; `why` may be empty.
    pub fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into() }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let why = start_of(&self.why, 600);
        if why.is_empty() { Ok(()) } else { write!(f, ": {why}") }
    }
}

/// How many tests came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Passed.
    pub passed: usize,
    /// Failed or hung.
    pub failed: usize,
    /// Of those, hung.
    pub hung: usize,
    /// Skipped by the SDK.
    pub skipped: usize,
}

impl Counts {
    /// Counts one more verdict.
    pub fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Pass => self.passed += 1,
            Verdict::Skip => self.skipped += 1,
            Verdict::Fail => self.failed += 1,
            Verdict::Hang => {
                self.failed += 1;
                self.hung += 1;
            }
        }
    }

    /// Counts all of another's.
    pub fn merge(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.hung += other.hung;
        self.skipped += other.skipped;
    }

    /// The counts of these outcomes.
    pub fn of<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Self {
        let mut counts = Self::default();
        for outcome in outcomes {
            counts.add(outcome.verdict);
        }
        counts
    }
}

/// The table of capabilities by suite: a cell reads passed/run, with `+n skipped` where the SDK skips.
pub fn table(outcomes: &[Outcome], capabilities: &Capabilities) -> String {
    let mut suites: Vec<Suite> = outcomes.iter().map(|o| o.suite).collect();
    suites.sort();
    suites.dedup();
    let mut cells: BTreeMap<usize, BTreeMap<Suite, Counts>> = BTreeMap::new();
    for outcome in outcomes {
        let row = capabilities.index_of(&outcome.name);
        cells.entry(row).or_default().entry(outcome.suite).or_default().add(outcome.verdict);
    }
    let mut text = format!("{:<32}", "capability");
    for suite in &suites {
        text.push_str(&format!("{:>22}", suite.name()));
    }
    text.push('\n');
    for (row, by_suite) in &cells {
        text.push_str(&format!("{:<32}", capabilities.name(*row)));
        for suite in &suites {
            text.push_str(&format!("{:>22}", by_suite.get(suite).map(cell).unwrap_or_default()));
        }
        text.push('\n');
    }
    text
}

fn cell(counts: &Counts) -> String {
    let mut text = format!("{}/{}", counts.passed, counts.passed + counts.failed);
    if counts.skipped > 0 {
        text.push_str(&format!(" +{} skipped", counts.skipped));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &str, verdict: Verdict) -> Outcome {
        Outcome {
            suite: Suite::Go,
            name: name.into(),
            verdict,
            took: Duration::from_millis(1500),
            why: "one\n  two".into(),
        }
    }

    #[test]
    fn a_hang_counts_as_a_failure() {
        let outcomes = [outcome("A", Verdict::Hang), outcome("B", Verdict::Pass), outcome("C", Verdict::Skip)];
        assert_eq!(Counts::of(&outcomes), Counts { passed: 1, failed: 1, hung: 1, skipped: 1 });
    }

    #[test]
    fn the_line_of_a_test_is_one_line() {
        assert_eq!(outcome("A", Verdict::Fail).line(), "FAIL go A 1.5 s: one two");
        assert_eq!(outcome("A", Verdict::Fail).as_listed(), "FAIL go A 1.5 s, as listed");
        assert_eq!(Complaint::new("A is wrong", "one\n  two").to_string(), "A is wrong: one two");
    }

    #[test]
    fn the_table_counts_by_capability() {
        let capabilities = Capabilities::parse("Flatten: ^TestFlatten\n").expect("the mapping parses");
        let outcomes = [
            outcome("TestFlatten", Verdict::Pass),
            outcome("TestFlattenDup", Verdict::Fail),
            outcome("TestX", Verdict::Skip),
        ];
        let table = table(&outcomes, &capabilities);
        let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["Flatten", "1/2"]);
        assert_eq!(rows[2], ["(no", "capability)", "0/0", "+1", "skipped"]);
    }
}
