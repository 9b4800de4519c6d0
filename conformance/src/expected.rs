//! The checked-in lists of tests that pass, and what differs from them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::report::{Outcome, Verdict};
use crate::suites::Suite;

/// How a run differs from a suite's list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Listed as passing, and did not pass (or no longer exist).
    pub lost: Vec<String>,
    /// Passed, and not listed.
    pub gained: Vec<String>,
}

impl Difference {
    /// Whether the run agrees with the list.
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.gained.is_empty()
    }
}

fn path(suite: Suite) -> PathBuf {
    crate::suites::source_dir().join("expected").join(format!("{}.txt", suite.name()))
}

/// The tests of the suite that are listed as passing; none when there is no list yet.
pub fn listed(suite: Suite) -> Result<BTreeSet<String>> {
    let path = path(suite);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Compares the outcomes of a suite with its list. `selected` says whether a listed test was meant to run at all.
pub fn compare(listed: &BTreeSet<String>, outcomes: &[&Outcome], selected: impl Fn(&str) -> bool) -> Difference {
    let passed: BTreeSet<&str> =
        outcomes.iter().filter(|o| o.verdict == Verdict::Pass).map(|o| o.name.as_str()).collect();
    Difference {
        lost: listed.iter().filter(|name| selected(name) && !passed.contains(name.as_str())).cloned().collect(),
        gained: passed.iter().filter(|name| !listed.contains(**name)).map(|name| (*name).to_owned()).collect(),
    }
}

/// Rewrites the suite's list: of the tests that were selected, those that passed; the others keep their place.
pub fn bless(suite: Suite, outcomes: &[&Outcome], selected: impl Fn(&str) -> bool) -> Result<usize> {
    let mut names = listed(suite)?;
    names.retain(|name| !selected(name));
    names.extend(outcomes.iter().filter(|o| o.verdict == Verdict::Pass).map(|o| o.name.clone()));
    let mut text = names.iter().cloned().collect::<Vec<_>>().join("\n");
    text.push('\n');
    let path = path(suite);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(names.len())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn outcome(name: &str, verdict: Verdict) -> Outcome {
        Outcome { suite: Suite::Python, name: name.into(), verdict, took: Duration::ZERO, why: String::new() }
    }

    #[test]
    fn differences_go_both_ways() {
        let listed = ["a", "b", "gone", "other"].map(str::to_owned).into();
        let outcomes = [
            outcome("a", Verdict::Pass),
            outcome("b", Verdict::Hang),
            outcome("new", Verdict::Pass),
            outcome("bad", Verdict::Fail),
        ];
        let difference = compare(&listed, &outcomes.iter().collect::<Vec<_>>(), |name| name != "other");
        assert_eq!(difference, Difference { lost: vec!["b".into(), "gone".into()], gained: vec!["new".into()] });
    }

    #[test]
    fn a_run_as_listed_has_no_difference() {
        let listed = ["a"].map(str::to_owned).into();
        let outcomes = [outcome("a", Verdict::Pass), outcome("b", Verdict::Fail), outcome("c", Verdict::Skip)];
        assert!(compare(&listed, &outcomes.iter().collect::<Vec<_>>(), |_| true).is_empty());
    }
}
