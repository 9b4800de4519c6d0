//! The machine we run on: the workspace, cargo, and the few system packages that a build needs.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use ferrobeam_conformance::tools::say_and_run;

/// The workspace's root.
pub(crate) fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is not inside the workspace")
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> Result<PathBuf> {
    Ok(match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root()?.join(folder),
        None => root()?.join("target"),
    })
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()?);
    Ok(command)
}

/// Says what is done, then does it with its output shown.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| Path::new(word).file_name().filter(|_| word.len() > 60).unwrap_or(word).display().to_string())
        .collect();
    println!("\n== {}", words.join(" "));
    let status = command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    ensure!(status.success(), "{} failed ({status})", words.join(" "));
    Ok(())
}

/// Installs what compiling Ferrobeam takes: RocksDB is C++, its bindings are made by libclang, and librdkafka by cmake (only
/// so does it find the libcurl that its tokens of identity providers take).
pub(crate) fn compilers() -> Result<()> {
    packages(&[("c++", "build-essential"), ("cmake", "cmake")])?;
    if has_libclang() { Ok(()) } else { install(&["libclang-dev"]) }
}

/// Whether libclang is where the bindings' generator looks for it, with the headers that come with its link. LLVM may be
/// there without it.
fn has_libclang() -> bool {
    const LIBRARY: [&str; 2] = ["libclang.so", "libclang.dylib"];
    if env::var_os("LIBCLANG_PATH").is_some() {
        return true;
    }
    let of_llvm = Command::new("llvm-config").arg("--libdir").stderr(Stdio::null()).output().ok();
    let of_llvm = of_llvm.and_then(|output| String::from_utf8(output.stdout).ok()).map(|folder| folder.trim().into());
    let versions = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let llvm = versions.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("llvm")));
    let folders = llvm
        .map(|path| path.join("lib"))
        .chain(["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from))
        .chain(of_llvm);
    folders.flat_map(|folder| LIBRARY.map(|library| folder.join(library))).any(|file| file.exists())
}

/// Installs the Debian packages whose commands are missing, when we may; else says which they are.
pub(crate) fn packages(needed: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = needed.iter().filter(|(command, _)| !exists(command)).map(|(_, p)| *p).collect();
    install(&missing)
}

fn install(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !exists("apt-get") || !is_root() {
        bail!("these packages are missing (by their Debian names): {names}. Install them and try again");
    }
    say_and_run("refreshing the list of packages", Command::new("apt-get").args(["update", "-q"]))?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-q", "--no-install-recommends"]).args(missing);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    say_and_run(&format!("installing {names}"), &mut install)
}

fn exists(command: &str) -> bool {
    let Some(path) = env::var_os("PATH") else { return false };
    env::split_paths(&path).any(|folder| folder.join(command).is_file())
}

fn is_root() -> bool {
    Command::new("id").arg("-u").stderr(Stdio::null()).output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
