//! Running `cargo test` with its output shown, and reading from it what passed and what failed why.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ferrobeam_conformance::report::{Complaint, Counts};

/// Lines of a failed test's output that are kept.
const KEPT: usize = 12;

/// Runs it; gives the sums, and a complaint for each test that failed.
pub(crate) fn run(command: &mut Command) -> Result<(Counts, Vec<Complaint>)> {
    println!("\n== cargo test");
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo without stdout")?;
    let mut reader = Reader::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("cargo's output is not text")?;
        println!("{line}");
        reader.read(&line)?;
    }
    let status = child.wait().context("cannot wait for cargo")?;
    ensure!(reader.counts != Counts::default(), "cargo test ran no test ({status})");
    if !status.success() && reader.complaints.is_empty() {
        reader.complaints.push(Complaint::new(format!("cargo test: {status}"), "no test says so: see its output"));
    }
    Ok((reader.counts, reader.complaints))
}

/// Understands the output of the test harness line by line.
#[derive(Default)]
struct Reader {
    counts: Counts,
    complaints: Vec<Complaint>,
    /// The last complaint's reason is being read, and how many more lines of it are kept.
    keep: usize,
}

impl Reader {
    fn read(&mut self, line: &str) -> Result<()> {
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.complaints.push(Complaint::new(format!("the test {name} fails"), ""));
            self.keep = KEPT;
        } else if line == "failures:" {
            self.keep = 0;
        } else if let Some(sum) = line.strip_prefix("test result: ") {
            self.keep = 0;
            let counts = parse_sum(sum).with_context(|| format!("cannot read the sum `{line}`"))?;
            self.counts.merge(counts);
        } else if self.keep > 0
            && !line.trim().is_empty()
            && let Some(last) = self.complaints.last_mut()
        {
            self.keep -= 1;
            last.why.push_str(line);
            last.why.push('\n');
        }
        Ok(())
    }
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

    #[test]
    fn a_failed_test_is_named_with_its_reason() {
        let output = "test a::b ... FAILED\ntest c ... ok\n\nfailures:\n\n---- a::b stdout ----\n\n\
                      thread 'a::b' panicked at src/a.rs:7:5:\nassertion failed: x\n\n\nfailures:\n    a::b\n\n\
                      test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s";
        let mut reader = Reader::default();
        for line in output.lines() {
            reader.read(line).expect("it can be read");
        }
        assert_eq!(reader.counts, Counts { passed: 1, failed: 1, hung: 0, skipped: 0 });
        let said: Vec<String> = reader.complaints.iter().map(Complaint::to_string).collect();
        assert_eq!(said, ["the test a::b fails: thread 'a::b' panicked at src/a.rs:7:5: assertion failed: x"]);
    }
}
