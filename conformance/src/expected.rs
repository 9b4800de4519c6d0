//! The checked-in lists of tests that pass and that do not, and what differs from them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::report::{Complaint, Outcome, Verdict};
use crate::suites::Suite;

fn path(suite: Suite) -> PathBuf {
    crate::suites::source_dir().join("expected").join(format!("{}.txt", suite.name()))
}

/// What precedes the name of a test that does not pass.
const FAILING: &str = "! ";

/// A suite's list; what the SDK itself skips is not in it.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// The tests that pass, and have to.
    pub passing: BTreeSet<String>,
    /// Those that do not: when they do, the list is to say so.
    pub failing: BTreeSet<String>,
}

impl Listed {
    fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let mut listed = Self::default();
        for line in lines {
            match line.strip_prefix(FAILING) {
                Some(name) => listed.failing.insert(name.to_owned()),
                None => listed.passing.insert(line.to_owned()),
            };
        }
        listed
    }

    fn print(&self) -> String {
        let mut names: Vec<(&String, &str)> = self.passing.iter().map(|name| (name, "")).collect();
        names.extend(self.failing.iter().map(|name| (name, FAILING)));
        names.sort();
        names.iter().map(|(name, mark)| format!("{mark}{name}\n")).collect()
    }
}

/// The list of the suite; empty when there is none yet.
pub fn listed(suite: Suite) -> Result<Listed> {
    let path = path(suite);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    Ok(Listed::parse(&text))
}

/// Compares a suite with its list, test by test as they end.
pub struct Watch {
    suite: Suite,
    listed: BTreeSet<String>,
    seen: BTreeSet<String>,
    differences: usize,
}

impl Watch {
    /// Watches for the checked-in list of the suite.
    pub fn new(suite: Suite) -> Result<Self> {
        Ok(Self::for_list(suite, listed(suite)?.passing))
    }

    fn for_list(suite: Suite, listed: BTreeSet<String>) -> Self {
        Self { suite, listed, seen: BTreeSet::new(), differences: 0 }
    }

    /// What is wrong about this outcome; nothing when it is as listed.
    pub fn see(&mut self, outcome: &Outcome) -> Option<Complaint> {
        self.seen.insert(outcome.name.clone());
        let what = match (self.listed.contains(&outcome.name), outcome.verdict) {
            (true, Verdict::Pass) | (false, Verdict::Fail | Verdict::Hang | Verdict::Skip) => return None,
            (true, _) => "is listed as passing and does not pass",
            (false, Verdict::Pass) => "passes and is not listed",
        };
        self.differences += 1;
        Some(Complaint::new(format!("{} {what}", outcome.line_without_reason()), outcome.why.clone()))
    }

    /// Whether all that was seen is as listed.
    pub fn well(&self) -> bool {
        self.differences == 0
    }

    /// The listed tests that were meant to run and are no tests of the suite any more.
    pub fn unseen(&self, selected: impl Fn(&str) -> bool) -> Vec<Complaint> {
        let gone = self.listed.difference(&self.seen).filter(|name| selected(name));
        gone.map(|name| {
            let what = format!("{} {name} is listed as passing and does not exist", self.suite.name());
            Complaint::new(what, "")
        })
        .collect()
    }
}

/// Rewrites the suite's list: what the tests that were selected came to; the others keep their place. Returns how many
/// are listed as passing.
pub fn bless(suite: Suite, outcomes: &[Outcome], selected: impl Fn(&str) -> bool) -> Result<usize> {
    let new = blessed(listed(suite)?, outcomes, selected);
    let path = path(suite);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(&path, new.print()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(new.passing.len())
}

fn blessed(mut listed: Listed, outcomes: &[Outcome], selected: impl Fn(&str) -> bool) -> Listed {
    listed.passing.retain(|name| !selected(name));
    listed.failing.retain(|name| !selected(name));
    for outcome in outcomes {
        match outcome.verdict {
            Verdict::Pass => listed.passing.insert(outcome.name.clone()),
            Verdict::Fail | Verdict::Hang => listed.failing.insert(outcome.name.clone()),
            Verdict::Skip => continue,
        };
    }
    listed
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn outcome(name: &str, verdict: Verdict) -> Outcome {
        Outcome { suite: Suite::Python, name: name.into(), verdict, took: Duration::ZERO, why: "boom".into() }
    }

    fn watch(listed: &[&str]) -> Watch {
        Watch::for_list(Suite::Python, listed.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn differences_go_both_ways_and_tell_the_reason() {
        let mut watch = watch(&["a", "b", "gone", "other"]);
        let seen = [("a", Verdict::Pass), ("b", Verdict::Hang), ("new", Verdict::Pass), ("bad", Verdict::Fail)];
        let complaints: Vec<String> = seen
            .iter()
            .filter_map(|(name, verdict)| watch.see(&outcome(name, *verdict)))
            .map(|c| c.to_string())
            .collect();
        assert_eq!(
            complaints,
            [
                "HANG python b 0.0 s is listed as passing and does not pass: boom",
                "PASS python new 0.0 s passes and is not listed: boom"
            ]
        );
        assert!(!watch.well());
        let gone: Vec<String> = watch.unseen(|name| name != "other").iter().map(Complaint::to_string).collect();
        assert_eq!(gone, ["python gone is listed as passing and does not exist"]);
    }

    #[test]
    fn a_run_as_listed_has_no_difference() {
        let mut watch = watch(&["a"]);
        for (name, verdict) in [("a", Verdict::Pass), ("b", Verdict::Fail), ("c", Verdict::Skip)] {
            assert!(watch.see(&outcome(name, verdict)).is_none());
        }
        assert!(watch.well() && watch.unseen(|_| true).is_empty());
    }

    #[test]
    fn what_was_not_selected_keeps_its_place() {
        let old = Listed::parse("a\n! b\nc\n");
        let outcomes = [("a", Verdict::Hang), ("b", Verdict::Pass), ("d", Verdict::Skip)];
        let outcomes: Vec<Outcome> = outcomes.iter().map(|(name, verdict)| outcome(name, *verdict)).collect();
        assert_eq!(blessed(old, &outcomes, |name| name != "c").print(), "! a\nb\nc\n");
    }
}
