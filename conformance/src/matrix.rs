//! Beam's capability matrix, told by tests: what of each row passes here and on other runners.
//!
//! Our column is of the tests that `expected` lists, which every run of the suites checks; the others' are of files of
//! results in `rivals`, or what Beam publishes where nothing was measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use regex::Regex;

use crate::expected;
use crate::impossible::Impossible;
use crate::report::Verdict;
use crate::results::{self, Results};
use crate::suites::{Suite, source_dir};

/// The rows, and the tests of each.
const ROWS: &str = include_str!("../matrix.txt");
/// Around the table in the README.
const BEGIN: &str = "<!-- printed by `conformance capabilities`, between these lines -->";
const END: &str = "<!-- end of the capabilities -->";

/// The runners compared, in the order of their columns; the first is ours.
const RUNNERS: [&str; 4] = ["ferrobeam", "prism", "flink", "spark"];
/// Their names as readers know them.
const NAMES: [&str; 4] = ["Ferrobeam", "Prism", "Flink", "Spark"];

/// Where to print the table.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Take our column from this file of results [default: what conformance/expected lists]
    #[arg(long)]
    pub results: Option<PathBuf>,
    /// Write it into the README
    #[arg(long, conflicts_with = "results")]
    pub readme: bool,
}

/// Prints the table, or puts it into the README.
pub fn run(options: &Options) -> Result<bool> {
    if options.readme {
        write_readme()?;
        return Ok(true);
    }
    let ours = options.results.as_deref().map(results::read).transpose()?;
    println!("{}", table(ours)?);
    Ok(true)
}

/// Puts the table of what `expected` lists into the README.
pub fn write_readme() -> Result<()> {
    let path = readme_path();
    let text = with_table(&read(&path)?, &table(None)?)?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn readme_path() -> PathBuf {
    source_dir().join("../README.md")
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The README with the table between its marks.
fn with_table(readme: &str, table: &str) -> Result<String> {
    let (before, rest) = readme.split_once(BEGIN).with_context(|| format!("no line `{BEGIN}` in the README"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("no line `{END}` in the README"))?;
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

/// The table in Markdown, with the notes below it. `ours` stands for what `expected` lists where it is given.
fn table(ours: Option<Results>) -> Result<String> {
    let (mut columns, mut notes) = (Columns::new(), String::new());
    for runner in &RUNNERS[1..] {
        let path = source_dir().join("rivals").join(format!("{runner}.txt"));
        if !path.exists() {
            continue;
        }
        let text = read(&path)?;
        let said = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim).collect::<Vec<_>>().join(" ");
        notes.push_str(&format!("\n{said}\n"));
        let results = results::parse(&text).with_context(|| path.display().to_string())?;
        if !results.is_empty() {
            columns.insert(runner, results);
        }
    }
    let ours = match ours {
        Some(ours) => ours,
        None => listed()?,
    };
    columns.insert(RUNNERS[0], ours);
    let matrix = Matrix::parse(ROWS).context("conformance/matrix.txt")?;
    Ok(format!("\n{}{notes}\n", matrix.markdown(&columns, &Impossible::checked_in()?)))
}

type Columns = BTreeMap<&'static str, Results>;

/// Our results, by the checked-in lists.
fn listed() -> Result<Results> {
    let mut ours = Results::new();
    for suite in Suite::ALL {
        let listed = expected::listed(suite)?;
        ours.extend(listed.passing.into_iter().map(|name| ((suite, name), Verdict::Pass)));
        ours.extend(listed.failing.into_iter().map(|name| ((suite, name), Verdict::Fail)));
    }
    Ok(ours)
}

/// The rows of the matrix.
struct Matrix(Vec<Section>);

struct Section {
    name: String,
    rows: Vec<Row>,
}

#[derive(Default)]
struct Row {
    name: String,
    tests: Vec<Regex>,
    /// What is said of a runner, by its name.
    said: BTreeMap<String, String>,
}

impl Matrix {
    fn parse(text: &str) -> Result<Self> {
        let mut sections: Vec<Section> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let at = || format!("line {}: `{line}`", number + 1);
            if let Some(name) = line.strip_prefix("== ") {
                sections.push(Section { name: name.to_owned(), rows: Vec::new() });
            } else if let Some(fact) = line.strip_prefix("  ") {
                let row = sections.last_mut().and_then(|section| section.rows.last_mut()).with_context(at)?;
                match fact.split_once(": ").with_context(at)? {
                    ("test", pattern) => row.tests.push(Regex::new(pattern).with_context(at)?),
                    (runner, word) => {
                        ensure!(RUNNERS.contains(&runner), at());
                        row.said.insert(runner.to_owned(), word.to_owned());
                    }
                }
            } else {
                let row = Row { name: line.trim().to_owned(), ..Row::default() };
                sections.last_mut().with_context(at)?.rows.push(row);
            }
        }
        Ok(Self(sections))
    }

    fn markdown(&self, columns: &Columns, impossible: &Impossible) -> String {
        let mut text = format!("| | {} |\n|---|{}\n", NAMES.join(" | "), "---|".repeat(NAMES.len()));
        for section in &self.0 {
            text.push_str(&format!("| **{}** |{}\n", section.name, " |".repeat(NAMES.len())));
            for row in &section.rows {
                let cells = RUNNERS.iter().map(|runner| row.cell(runner, columns.get(runner), impossible));
                text.push_str(&format!("| {} | {} |\n", row.name, cells.collect::<Vec<_>>().join(" | ")));
            }
        }
        text
    }
}

impl Row {
    /// What the row says of a runner: how many of the tests pass, or else what is published, in italics.
    fn cell(&self, runner: &str, results: Option<&Results>, impossible: &Impossible) -> String {
        let ran =
            results.into_iter().flatten().filter(|(test, verdict)| self.tells(test) && **verdict != Verdict::Skip);
        let (mut run, mut passed, mut cannot) = (0, 0, 0);
        for ((suite, name), verdict) in ran {
            run += 1;
            passed += usize::from(*verdict == Verdict::Pass);
            cannot += usize::from(*verdict != Verdict::Pass && impossible.contains(*suite, name));
        }
        if run > 0 {
            let word = match passed {
                0 => "no",
                _ if passed + cannot == run => "yes",
                _ => "partly",
            };
            let cannot = if cannot > 0 { format!(" ({cannot} impossible)") } else { String::new() };
            return format!("{word}, {passed} of {run}{cannot}");
        }
        match self.said.get(runner).map(String::as_str) {
            None | Some("Unknown") => "?".to_owned(),
            Some(word) => format!("*{}*", word.to_lowercase()),
        }
    }

    fn tells(&self, (suite, name): &(Suite, String)) -> bool {
        let full = format!("{} {name}", suite.name());
        self.tests.iter().any(|pattern| pattern.is_match(&full))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_shown_by_some_test_or_by_hand() {
        let known = listed().expect("the lists can be read");
        for section in Matrix::parse(ROWS).expect("it parses").0 {
            assert!(!section.rows.is_empty(), "{} is empty", section.name);
            for row in section.rows {
                for pattern in &row.tests {
                    let matches =
                        |(suite, name): &(Suite, String)| pattern.is_match(&format!("{} {name}", suite.name()));
                    assert!(known.keys().any(matches), "{}: {pattern} matches no known test", row.name);
                }
                assert!(!row.tests.is_empty() || row.said.contains_key(RUNNERS[0]), "{} says nothing", row.name);
            }
        }
    }

    #[test]
    fn the_readme_has_the_table_of_what_is_listed() {
        let readme = read(&readme_path()).expect("the README can be read");
        let new = with_table(&readme, &table(None).expect("a table")).expect("it has the marks");
        assert!(new == readme, "run `conformance capabilities --readme`");
    }

    #[test]
    fn a_cell_counts_what_ran_or_cites_what_is_published() {
        let matrix = "== A\nState\n  test: ^go TestState\n  flink: Partially\n  spark: Unknown\n";
        let matrix = Matrix::parse(matrix).expect("it parses");
        let results = results::parse("PASS go TestState1\nFAIL go TestState2\nSKIP go TestState3\nPASS go TestX\n");
        let columns = Columns::from([("ferrobeam", results.expect("results"))]);
        let impossible = Impossible::parse("go TestState2\n  why\n").expect("it parses");
        let text = matrix.markdown(&columns, &impossible);
        assert!(text.ends_with("| State | yes, 1 of 2 (1 impossible) | ? | *partially* | ? |\n"), "{text}");
        let text = matrix.markdown(&columns, &Impossible::parse("").expect("it parses"));
        assert!(text.ends_with("| State | partly, 1 of 2 | ? | *partially* | ? |\n"), "{text}");
    }

    #[test]
    fn a_matrix_that_makes_no_sense_is_refused() {
        for bad in ["Row\n", "== A\n  test: x\n", "== A\nRow\n  test: (\n", "== A\nRow\n  storm: Yes\n"] {
            assert!(Matrix::parse(bad).is_err(), "{bad}");
        }
    }
}
