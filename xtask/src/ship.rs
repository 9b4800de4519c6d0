//! `cargo xtask ship`: the program as it is handed out, and its symbols apart.
//!
//! The line tables that make a backtrace readable are half of the program. Beside it, in a file that it names
//! (`.gnu_debuglink`), backtraces and debuggers find them; without that file a backtrace has no lines. Cargo's own
//! `split-debuginfo` was rejected: it leaves line tables where they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::machine::{cargo, compilers, packages, show, target_dir};

/// The program without symbols, and its symbols.
#[derive(Debug)]
struct Shipped {
    program: PathBuf,
    symbols: PathBuf,
}

pub(crate) fn run() -> Result<()> {
    compilers()?;
    packages(&[("objcopy", "binutils")])?;
    show(cargo()?.args(["build", "--release", "-p", "ferrobeam-job-service"]))?;
    let built = target_dir()?.join("release/ferrobeam");
    let shipped = split(&built, &target_dir()?.join("ship"))?;
    println!();
    for (what, path) in [("as built", &built), ("the program", &shipped.program), ("its symbols", &shipped.symbols)] {
        println!("{:>6.1} MB  {what}: {}", megabytes(path)?, path.display());
    }
    Ok(())
}

/// Puts the program into a folder, and its symbols beside it.
fn split(built: &Path, folder: &Path) -> Result<Shipped> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let name = built.file_name().with_context(|| format!("{} is no program", built.display()))?;
    let program = folder.join(name);
    let symbols = program.with_extension("debug");
    show(Command::new("objcopy").arg("--only-keep-debug").arg(built).arg(&symbols))?;
    // The link is the file's name and its checksum, so that another build's symbols are not taken for this one's.
    let mut link = Command::new("objcopy");
    link.current_dir(folder).arg("--strip-unneeded").arg("--add-gnu-debuglink");
    show(link.arg(symbols.file_name().context("it has one")?).arg(built).arg(&program))?;
    Ok(Shipped { program, symbols })
}

fn megabytes(file: &Path) -> Result<f64> {
    let size = fs::metadata(file).with_context(|| format!("there is no {}", file.display()))?.len();
    Ok(size as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shipped_runs_is_smaller_and_names_its_symbols() {
        // This test's own program has line tables, as the product has.
        let built = std::env::current_exe().expect("it runs");
        let folder = tempfile::tempdir().expect("a folder");
        let shipped = split(&built, folder.path()).expect("objcopy is here");
        let size = |path: &Path| fs::metadata(path).expect("it is there").len();
        assert!(size(&shipped.program) < size(&built) / 2, "{} of {}", size(&shipped.program), size(&built));
        let bytes = fs::read(&shipped.program).expect("readable");
        let link = shipped.symbols.file_name().expect("it has one").as_encoded_bytes();
        assert!(bytes.windows(link.len()).any(|part| part == link), "it does not name its symbols");
        let listed = Command::new(&shipped.program).arg("--list").output().expect("it runs");
        assert!(String::from_utf8_lossy(&listed.stdout).contains("what_is_shipped_runs"), "{listed:?}");
    }
}
