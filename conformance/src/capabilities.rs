//! Which capability of the Beam model a test is about, by its name.

use anyhow::{Context, Result};
use regex::Regex;

/// The checked-in mapping: `Capability: REGEX` a line, the first that matches a test's name decides.
const MAPPING: &str = include_str!("../capabilities.txt");

/// An ordered mapping from patterns of test names to capabilities.
pub struct Capabilities {
    names: Vec<String>,
    patterns: Vec<(Regex, usize)>,
}

impl Capabilities {
    /// The checked-in mapping.
    pub fn checked_in() -> Result<Self> {
        Self::parse(MAPPING).context("conformance/capabilities.txt")
    }

    /// Reads a mapping; blank lines and those that begin with `#` say nothing.
    pub fn parse(text: &str) -> Result<Self> {
        let mut names: Vec<String> = Vec::new();
        let mut patterns = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, pattern) = line
                .split_once(": ")
                .with_context(|| format!("line {}: `{line}` is not `Capability: REGEX`", number + 1))?;
            let pattern = Regex::new(pattern.trim()).with_context(|| format!("line {}", number + 1))?;
            let index = names.iter().position(|n| n == name).unwrap_or_else(|| {
                names.push(name.to_owned());
                names.len() - 1
            });
            patterns.push((pattern, index));
        }
        names.push("(no capability)".to_owned());
        Ok(Self { names, patterns })
    }

    /// The row of a test's capability, in the order in which the mapping first names them.
    pub fn index_of(&self, name: &str) -> usize {
        self.patterns
            .iter()
            .find(|(pattern, _)| pattern.is_match(name))
            .map_or(self.names.len() - 1, |(_, index)| *index)
    }

    /// The capability of a row.
    pub fn name(&self, index: usize) -> &str {
        &self.names[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expected;
    use crate::suites::Suite;

    #[test]
    fn every_listed_test_has_a_capability() {
        let capabilities = Capabilities::checked_in().expect("the checked-in mapping parses");
        for suite in Suite::ALL {
            let listed = expected::listed(suite).expect("the list can be read");
            for name in listed.passing.into_iter().chain(listed.failing) {
                assert_ne!(capabilities.name(capabilities.index_of(&name)), "(no capability)", "{name}");
            }
        }
    }

    #[test]
    fn the_first_pattern_that_matches_decides() {
        let capabilities = Capabilities::parse("# note\nB: ^b\nA: a\nB: c\n").expect("the mapping parses");
        let of = |name| capabilities.name(capabilities.index_of(name));
        assert_eq!(["ba", "a", "c", "x"].map(of), ["B", "A", "B", "(no capability)"]);
    }

    #[test]
    fn a_line_that_is_no_mapping_is_refused() {
        let error = Capabilities::parse("Flatten\n").err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("line 1"), "{error}");
        assert!(Capabilities::parse("Flatten: (\n").is_err());
    }
}
