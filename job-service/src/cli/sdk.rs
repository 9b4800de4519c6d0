//! Which SDK a command uses, and the flags that send its pipeline to a job service.
//!
//! The flags go where the SDK looks for them: at the end for Python and Java, right behind the program for Go, whose flag
//! parser stops at the first argument that is none, and inside the argument list of a build tool. What the command says
//! about its runner and its endpoint is replaced; what it says about its environment is kept.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::bail;

use super::args::Sdk;

/// A command with what it needs to reach a job service.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Amended {
    /// The whole command.
    pub(super) command: Vec<OsString>,
    /// The flags that were added.
    pub(super) added: Vec<String>,
    /// What was in the command and is not any more.
    pub(super) removed: Vec<String>,
}

/// Finds out which SDK a command uses.
pub(super) fn detect(command: &[OsString]) -> anyhow::Result<Sdk> {
    let Some(program) = command.first() else { bail!("there is no command") };
    let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
    let second = command.get(1).and_then(|arg| arg.to_str());
    match (name.as_str(), second) {
        ("uv" | "poetry" | "pipenv" | "hatch" | "pdm" | "rye", Some("run")) => return Ok(Sdk::Python),
        ("go", Some("run")) => return Ok(Sdk::Go),
        ("go", _) => {
            bail!("of the go command's verbs only `go run` can be given flags; or build the program and run it")
        }
        ("java" | "mvn" | "mvnw" | "gradle" | "gradlew", _) => return Ok(Sdk::Java),
        _ => {}
    }
    if name.starts_with("python") || name.starts_with("pypy") || name.ends_with(".py") {
        return Ok(Sdk::Python);
    }
    match locate(program).as_deref().map(look_into) {
        Some(Some(sdk)) => Ok(sdk),
        Some(None) => bail!("cannot tell which SDK {name} uses: say it with --sdk python, go or java"),
        None => bail!("there is no program {}", Path::new(program).display()),
    }
}

/// The file behind a program's name.
fn locate(program: &OsStr) -> Option<PathBuf> {
    let path = Path::new(program);
    if path.components().count() > 1 {
        return path.is_file().then(|| path.to_owned());
    }
    let search = std::env::var_os("PATH")?;
    std::env::split_paths(&search).map(|dir| dir.join(path)).find(|file| file.is_file())
}

/// Scripts say who runs them, and binaries built by Go carry a mark.
fn look_into(file: &Path) -> Option<Sdk> {
    const GO: &[u8] = b"\xff Go buildinf:";
    let mut file = File::open(file).ok()?;
    let mut window = Vec::new();
    let mut piece = vec![0; 1 << 16];
    let mut first = true;
    loop {
        let length = file.read(&mut piece).ok().filter(|length| *length > 0)?;
        window.extend_from_slice(&piece[..length]);
        if std::mem::take(&mut first) && window.starts_with(b"#!") {
            let line = window.split(|b| *b == b'\n').next().unwrap_or_default();
            return String::from_utf8_lossy(line).contains("python").then_some(Sdk::Python);
        }
        if window.windows(GO.len()).any(|part| part == GO) {
            return Some(Sdk::Go);
        }
        let kept = window.len().min(GO.len() - 1);
        window.drain(..window.len() - kept);
    }
}

/// Adds to `command` what sends its pipeline to `endpoint`.
pub(super) fn amend(command: &[OsString], sdk: Sdk, endpoint: &str) -> anyhow::Result<Amended> {
    match sdk {
        Sdk::Python => Ok(put(command, command.len(), &flags(sdk, endpoint))),
        Sdk::Go => Ok(put(command, go_flags_at(command)?, &flags(sdk, endpoint))),
        Sdk::Java => Ok(amend_java(command, endpoint)),
    }
}

/// A flag, its value, and whether the command's own is to be kept.
struct Flag {
    name: &'static str,
    value: String,
    keep: bool,
}

fn flags(sdk: Sdk, endpoint: &str) -> [Flag; 3] {
    let (runner, endpoint_name, environment) = match sdk {
        Sdk::Python => ("PortableRunner", "job_endpoint", "environment_type"),
        Sdk::Go => ("universal", "endpoint", "environment_type"),
        Sdk::Java => ("PortableRunner", "jobEndpoint", "defaultEnvironmentType"),
    };
    [
        Flag { name: "runner", value: runner.to_owned(), keep: false },
        Flag { name: endpoint_name, value: endpoint.to_owned(), keep: false },
        Flag { name: environment, value: "LOOPBACK".to_owned(), keep: true },
    ]
}

/// Inserts flags at `at`, and takes out what they replace.
fn put(command: &[OsString], at: usize, flags: &[Flag]) -> Amended {
    let mut kept = [false; 8];
    let mut removed = Vec::new();
    let mut before = Vec::new();
    let mut after = Vec::new();
    let mut skip_value = false;
    for (position, arg) in command.iter().enumerate() {
        let into = if position < at { &mut before } else { &mut after };
        let text = arg.to_string_lossy();
        if std::mem::take(&mut skip_value) {
            removed.push(text.into_owned());
            continue;
        }
        let stripped = text.strip_prefix("--").or_else(|| text.strip_prefix('-'));
        let name = stripped.map(|flag| flag.split('=').next().unwrap_or(flag));
        let found = name.and_then(|name| flags.iter().position(|flag| flag.name == name));
        match found {
            Some(index) if flags[index].keep => {
                kept[index] = true;
                into.push(arg.clone());
            }
            Some(_) => {
                skip_value = !text.contains('=');
                removed.push(text.into_owned());
            }
            None => into.push(arg.clone()),
        }
    }
    let added: Vec<String> = flags
        .iter()
        .zip(kept)
        .filter(|(_, kept)| !kept)
        .map(|(flag, _)| format!("--{}={}", flag.name, flag.value))
        .collect();
    let middle = added.iter().map(OsString::from);
    Amended { command: before.into_iter().chain(middle).chain(after).collect(), added, removed }
}

/// Where Go's program takes its first flag: behind the program, or behind the package of `go run`.
fn go_flags_at(command: &[OsString]) -> anyhow::Result<usize> {
    let is_go = Path::new(&command[0]).file_name() == Some(OsStr::new("go"));
    if !is_go {
        return Ok(1);
    }
    // Flags of `go run` whose value is an argument of its own.
    const VALUED: [&str; 19] = [
        "tags",
        "ldflags",
        "gcflags",
        "asmflags",
        "gccgoflags",
        "mod",
        "modfile",
        "overlay",
        "p",
        "pkgdir",
        "toolexec",
        "exec",
        "buildmode",
        "compiler",
        "installsuffix",
        "pgo",
        "coverpkg",
        "covermode",
        "C",
    ];
    let mut at = 2;
    while let Some(flag) = command.get(at).and_then(|arg| arg.to_str()).and_then(|arg| arg.strip_prefix('-')) {
        at += if VALUED.contains(&flag.trim_start_matches('-')) { 2 } else { 1 };
    }
    let is_file = |arg: &OsString| Path::new(arg).extension() == Some(OsStr::new("go"));
    match command.get(at) {
        None => bail!("`go run` needs a package or files to run"),
        Some(first) if is_file(first) => Ok(at + command[at..].iter().take_while(|arg| is_file(arg)).count()),
        Some(_) => Ok(at + 1),
    }
}

/// Build tools take the program's arguments as one of their own.
fn amend_java(command: &[OsString], endpoint: &str) -> Amended {
    let flags = flags(Sdk::Java, endpoint);
    let name = Path::new(&command[0]).file_name().and_then(OsStr::to_str).unwrap_or_default();
    let holder = match name {
        "mvn" | "mvnw" => "-Dexec.args=",
        "gradle" | "gradlew" => "--args=",
        _ => return put(command, command.len(), &flags),
    };
    let mut whole = command.to_vec();
    let at = whole.iter().position(|arg| arg.to_str().is_some_and(|arg| arg.starts_with(holder)));
    let inner: Vec<OsString> = match at.and_then(|at| whole[at].to_str()) {
        Some(arg) => arg[holder.len()..].split_whitespace().map(OsString::from).collect(),
        None => Vec::new(),
    };
    let amended = put(&inner, inner.len(), &flags);
    let joined: Vec<_> = amended.command.iter().map(|arg| arg.to_string_lossy()).collect();
    let argument = OsString::from(format!("{holder}{}", joined.join(" ")));
    match at {
        Some(at) => whole[at] = argument,
        None => whole.push(argument),
    }
    Amended { command: whole, ..amended }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn amended(line: &str, sdk: Sdk) -> String {
        let amended = amend(&words(line), sdk, "h:1").expect("it can be amended");
        let shown: Vec<String> = amended.command.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
        shown.join(" ")
    }

    #[test]
    fn the_sdk_is_found_out() {
        for line in ["python x.py", "/usr/bin/python3.11 -m a.b", "./x.py", "uv run x.py", "poetry run python x"] {
            assert_eq!(detect(&words(line)).ok(), Some(Sdk::Python), "{line}");
        }
        for line in ["java -jar x.jar", "./mvnw exec:java", "gradle run"] {
            assert_eq!(detect(&words(line)).ok(), Some(Sdk::Java), "{line}");
        }
        assert_eq!(detect(&words("go run .")).ok(), Some(Sdk::Go));
        for line in ["go test ./...", "/bin/sh x", "no-such-program", ""] {
            assert!(detect(&words(line)).is_err(), "{line}");
        }
    }

    #[test]
    fn files_say_what_they_are() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).expect("written");
            path.into_os_string()
        };
        let script = file("script", b"#!/usr/bin/env python3\nprint()\n");
        // The mark may lie across two reads.
        let go = file("go-program", &[vec![0; (1 << 16) - 5], b"\xff Go buildinf:".to_vec(), vec![0; 100]].concat());
        let other = file("other", &vec![1; 200_000]);
        assert_eq!(detect(&[script]).ok(), Some(Sdk::Python));
        assert_eq!(detect(&[go]).ok(), Some(Sdk::Go));
        assert!(detect(&[other]).expect_err("unknown").to_string().contains("--sdk"));
    }

    #[test]
    fn python_takes_flags_at_the_end() {
        let added = "--runner=PortableRunner --job_endpoint=h:1 --environment_type=LOOPBACK";
        assert_eq!(amended("python x.py --output o", Sdk::Python), format!("python x.py --output o {added}"));
        assert_eq!(
            amended("python x.py --runner=DirectRunner --job_endpoint a:2 --o p", Sdk::Python),
            format!("python x.py --o p {added}")
        );
        assert_eq!(
            amended("python x.py --environment_type=DOCKER", Sdk::Python),
            "python x.py --environment_type=DOCKER --runner=PortableRunner --job_endpoint=h:1"
        );
    }

    #[test]
    fn go_takes_flags_behind_the_program() {
        let added = "--runner=universal --endpoint=h:1 --environment_type=LOOPBACK";
        assert_eq!(amended("./prog --output o in", Sdk::Go), format!("./prog {added} --output o in"));
        assert_eq!(amended("./prog -runner prism x", Sdk::Go), format!("./prog {added} x"));
        assert_eq!(amended("go run . --o p", Sdk::Go), format!("go run . {added} --o p"));
        assert_eq!(
            amended("go run -tags a -race x.go y.go in", Sdk::Go),
            format!("go run -tags a -race x.go y.go {added} in")
        );
        assert!(amend(&words("go run -race"), Sdk::Go, "h:1").is_err());
    }

    #[test]
    fn java_takes_flags_at_the_end_or_within_the_build_tools_argument() {
        let added = "--runner=PortableRunner --jobEndpoint=h:1 --defaultEnvironmentType=LOOPBACK";
        assert_eq!(amended("java -jar x.jar --o=p", Sdk::Java), format!("java -jar x.jar --o=p {added}"));
        let maven = ["mvn", "exec:java", "-Dexec.args=--runner=DirectRunner --o=p", "-q"].map(OsString::from);
        let amended_maven = amend(&maven, Sdk::Java, "h:1").expect("it can be amended");
        assert_eq!(amended_maven.command[2], OsString::from(format!("-Dexec.args=--o=p {added}")));
        assert_eq!(amended_maven.removed, ["--runner=DirectRunner"]);
        assert_eq!(amended("gradle run", Sdk::Java), format!("gradle run --args={added}"));
    }
}
