//! Files of results: a line a test, `VERDICT SUITE NAME`; blank lines and those that begin with `#` say nothing.
//!
//! A run writes one, and what was measured of other runners is kept in some (`conformance/rivals`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::report::{Outcome, Verdict};
use crate::suites::Suite;

/// Verdicts by suite and test.
pub type Results = BTreeMap<(Suite, String), Verdict>;

/// Writes the verdicts, in the order of suites and names.
pub fn write(path: &Path, outcomes: &[Outcome]) -> Result<()> {
    let mut text = String::new();
    for ((suite, name), verdict) in &of(outcomes) {
        text.push_str(&format!("{} {} {name}\n", verdict.word(), suite.name()));
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The verdicts of a run.
pub fn of(outcomes: &[Outcome]) -> Results {
    outcomes.iter().map(|o| ((o.suite, o.name.clone()), o.verdict)).collect()
}

/// Reads such a file.
pub fn read(path: &Path) -> Result<Results> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

/// Reads the lines of such a file.
pub fn parse(text: &str) -> Result<Results> {
    let mut results = Results::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parsed = parse_line(line).with_context(|| format!("line {}: `{line}`", number + 1))?;
        results.insert(parsed.0, parsed.1);
    }
    Ok(results)
}

fn parse_line(line: &str) -> Option<((Suite, String), Verdict)> {
    let (word, rest) = line.split_once(' ')?;
    let (suite, name) = rest.split_once(' ')?;
    let verdict = Verdict::ALL.into_iter().find(|verdict| verdict.word() == word)?;
    Some(((Suite::from_str(suite, false).ok()?, name.trim().to_owned()), verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let results = parse("# of a run\nPASS python A.b\nHANG bad-input C.d\n\n").expect("it parses");
        assert_eq!(results[&(Suite::Python, "A.b".to_owned())], Verdict::Pass);
        assert_eq!(results[&(Suite::BadInput, "C.d".to_owned())], Verdict::Hang);
    }

    #[test]
    fn a_line_that_is_no_result_is_refused() {
        for bad in ["GOOD python A", "PASS cobol A", "PASS python"] {
            let error = parse(bad).expect_err("it is no result").to_string();
            assert!(error.contains("line 1"), "{error}");
        }
    }
}
