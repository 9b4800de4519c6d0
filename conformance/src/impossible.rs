//! Tests that the SDK makes impossible for any portable runner: run and counted like all others, and told apart.

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::report::Outcome;
use crate::suites::Suite;

/// The checked-in list: of each test a line `SUITE NAME`, and below it, indented, where the SDK forbids it and why.
const LIST: &str = include_str!("../impossible.txt");

/// One such test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// Its suite.
    pub suite: Suite,
    /// Its name.
    pub name: String,
    /// The class and line that forbids it, and the reason.
    pub why: Vec<String>,
}

/// The list of them.
pub struct Impossible(Vec<Test>);

impl Impossible {
    /// The checked-in list.
    pub fn checked_in() -> Result<Self> {
        Self::parse(LIST).context("conformance/impossible.txt")
    }

    /// Reads a list; several tests in a row share the reasons below the last of them.
    pub fn parse(text: &str) -> Result<Self> {
        let mut tests: Vec<Test> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let at = || format!("line {}: `{line}`", number + 1);
            if line.starts_with(' ') {
                tests.last_mut().with_context(at)?.why.push(line.trim().to_owned());
                continue;
            }
            let (suite, name) = line.split_once(' ').with_context(at)?;
            let suite = Suite::from_str(suite, false).map_err(anyhow::Error::msg).with_context(at)?;
            tests.push(Test { suite, name: name.trim().to_owned(), why: Vec::new() });
        }
        let mut reasons: &[String] = &[];
        let mut shared = tests.clone();
        for (test, out) in tests.iter().zip(&mut shared).rev() {
            if !test.why.is_empty() {
                reasons = &test.why;
            }
            ensure!(!reasons.is_empty(), "no reason is given for {}", test.name);
            out.why = reasons.to_vec();
        }
        Ok(Self(shared))
    }

    /// The tests.
    pub fn tests(&self) -> &[Test] {
        &self.0
    }

    /// Whether the list has this test.
    pub fn contains(&self, suite: Suite, name: &str) -> bool {
        self.0.iter().any(|test| test.suite == suite && test.name == name)
    }

    /// The section of a report about those of the outcomes that are listed; nothing when there are none.
    pub fn section(&self, outcomes: &[Outcome]) -> Option<String> {
        let mut text = String::new();
        let mut said: &[String] = &[];
        for test in &self.0 {
            let Some(outcome) = outcomes.iter().find(|o| o.suite == test.suite && o.name == test.name) else {
                continue;
            };
            if test.why != said {
                for line in &test.why {
                    text.push_str(&format!("  {line}\n"));
                }
                said = &test.why;
            }
            text.push_str(&format!("    {}\n", outcome.line_without_reason()));
        }
        let head = "run and counted, though the SDK makes them impossible for any portable runner:";
        (!text.is_empty()).then(|| format!("{head}\n{text}"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::expected;
    use crate::report::Verdict;

    #[test]
    fn nothing_impossible_is_listed_as_passing() {
        for test in Impossible::checked_in().expect("the list parses").tests() {
            let listed = expected::listed(test.suite).expect("the list can be read");
            assert!(listed.failing.contains(&test.name), "{}: is it a test, and impossible?", test.name);
        }
    }

    #[test]
    fn tests_in_a_row_share_their_reasons() {
        let list = Impossible::parse("# note\njava a#1\njava a#2\n  Class.java:7\n  never\n\ngo T\n  other\n");
        let list = list.expect("it parses");
        assert_eq!(list.tests()[0].why, ["Class.java:7", "never"]);
        assert_eq!(list.tests()[2].why, ["other"]);
        let outcome = |name: &str| Outcome {
            suite: Suite::Java,
            name: name.into(),
            verdict: Verdict::Fail,
            took: Duration::ZERO,
            why: "no".into(),
        };
        let section = list.section(&[outcome("a#2"), outcome("b")]).expect("one is listed");
        assert!(section.ends_with("  Class.java:7\n  never\n    FAIL java a#2 0.0 s\n"), "{section}");
        assert!(list.section(&[outcome("b")]).is_none());
    }

    #[test]
    fn a_list_without_reasons_is_refused() {
        assert!(Impossible::parse("java a#1\n").is_err());
        assert!(Impossible::parse("  why\n").is_err());
        assert!(Impossible::parse("cobol a\n  why\n").is_err());
    }
}
