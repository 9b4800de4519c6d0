//! `cargo xtask demo`: Beam's own wordcount, unchanged, on Ferrobeam.

use std::cmp::Reverse;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ferrobeam_conformance::{cache, tools};

use crate::machine::{cargo, compilers, packages, root, show, target_dir};

/// The text whose words are counted.
const TEXT: &str = "LICENSE";

pub(crate) fn run() -> Result<()> {
    compilers()?;
    packages(&[("python3", "python3-venv")])?;
    let python = tools::python(false)?;
    show(cargo()?.args(["build", "--release", "-p", "ferrobeam-job-service"]))?;
    let out = cache::folder("demo")?;
    for entry in fs::read_dir(&out).context("cannot list the demo's folder")?.flatten() {
        fs::remove_file(entry.path()).context("cannot remove the last demo's output")?;
    }
    let ferrobeam = target_dir()?.join("release/ferrobeam");
    show(
        Command::new(&ferrobeam)
            .current_dir(root()?)
            .args(["run", "--"])
            .arg(&python)
            .args(["-m", "apache_beam.examples.wordcount", "--input", TEXT, "--output"])
            .arg(out.join("counts")),
    )?;
    let mut counts: Vec<(u64, String)> = Vec::new();
    for entry in fs::read_dir(&out).context("cannot list the demo's folder")?.flatten() {
        let text = fs::read_to_string(entry.path()).context("cannot read the demo's output")?;
        for line in text.lines() {
            let (word, count) = line.rsplit_once(": ").with_context(|| format!("`{line}` is not `word: count`"))?;
            counts.push((count.parse().with_context(|| format!("`{line}`"))?, word.to_owned()));
        }
    }
    counts.sort_by_key(|(count, word)| (Reverse(*count), word.clone()));
    ensure!(!counts.is_empty(), "the pipeline ended well and wrote nothing to {}", out.display());
    println!("\nThe commonest of {} words of {TEXT}, counted by Beam's wordcount on Ferrobeam:", counts.len());
    for (count, word) in counts.iter().take(10) {
        println!("{count:>8} {word}");
    }
    println!("\nAll of them: {}*. The same command runs your own pipeline:", out.join("counts").display());
    println!("    {} run -- python your_pipeline.py", ferrobeam.display());
    Ok(())
}
