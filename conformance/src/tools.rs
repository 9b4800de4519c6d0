//! What the suites need on the machine, found or made once in the cache.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::cache;
use crate::suites::source_dir;

/// The version of the Python and Go SDKs whose suites are run.
pub const BEAM: &str = "2.77.0";

/// Runs a command to its end, says what it is, and fails with the command's name when it fails. Its output goes to a
/// log in the cache, whose end is shown on failure.
pub fn say_and_run(what: &str, command: &mut Command) -> Result<()> {
    println!("{what}");
    let log = cache::folder("log")?.join("tools.log");
    let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stderr(out.try_clone().context("cannot share a log")?)
        .stdout(out)
        .status()
        .with_context(|| format!("cannot start `{}`: is it installed?", command.get_program().display()))?;
    if !status.success() {
        let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        let end: Vec<&str> = text.lines().rev().take(20).collect();
        for line in end.iter().rev() {
            eprintln!("    {line}");
        }
        bail!("{what}: {status}; all of its output is in {}", log.display());
    }
    Ok(())
}

/// A Python that has apache-beam: `$PYTHON` or `python3` where that has it, else one of the cache's own, made now.
///
/// With `tests`, the packages that the SDK's own tests import are there too.
pub fn python(tests: bool) -> Result<PathBuf> {
    for candidate in [env::var_os("PYTHON"), Some("python3".into())].into_iter().flatten() {
        if has_beam(Path::new(&candidate), tests) {
            return Ok(candidate.into());
        }
    }
    let venv = cache::folder("venv")?;
    let python = venv.join("bin/python");
    if has_beam(&python, tests) {
        return Ok(python);
    }
    if !python.exists() {
        let what = format!("making a Python environment in {}", venv.display());
        let made = say_and_run(&what, Command::new("python3").args(["-m", "venv"]).arg(&venv));
        made.context("Python 3.10 or newer with its venv module is needed (Debian: apt-get install python3-venv)")?;
    }
    let package = if tests { "apache-beam[gcp,test,yaml,dataframe]" } else { "apache-beam" };
    let package = format!("{package}=={BEAM}");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", &package]);
    say_and_run(&format!("installing {package}; this takes some minutes"), &mut pip)?;
    ensure!(has_beam(&python, tests), "{} still lacks apache-beam {BEAM}", python.display());
    Ok(python)
}

/// A folder of the cache with these packages in it, besides whatever the Python has itself.
pub fn python_packages(python: &Path, packages: &str) -> Result<PathBuf> {
    let folder = cache::folder("python-packages")?;
    let recipe = python.display().to_string();
    cache::once(&folder, packages, &recipe, || {
        let mut pip = Command::new(python);
        pip.args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"]).arg(&folder);
        pip.args(packages.split_whitespace());
        say_and_run(&format!("installing {packages}"), &mut pip)
    })?;
    Ok(folder)
}

fn has_beam(python: &Path, tests: bool) -> bool {
    let modules = if tests { "['hamcrest', 'parameterized', 'pytest', 'tenacity', 'pandas', 'yaml']" } else { "[]" };
    let check = format!(
        "import importlib.metadata as m, importlib.util as u, sys\n\
         sys.exit(m.version('apache-beam') != '{BEAM}' or not all(u.find_spec(x) for x in {modules}))"
    );
    Command::new(python)
        .args(["-c", &check])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The Go SDK's tests, compiled, and our own Go programs.
pub struct GoKit {
    /// The test binary of the SDK's primitives integration tests.
    pub primitives: PathBuf,
    /// The folder in which it runs, where it finds its test data.
    pub folder: PathBuf,
}

impl GoKit {
    /// Compiles what is not compiled yet.
    pub fn ready() -> Result<Self> {
        let module = source_dir().join("go");
        let folder = cache::folder("go")?;
        let primitives = folder.join("primitives.test");
        let package = "github.com/apache/beam/sdks/v2/go/test/integration/primitives";
        cache::once(&folder, "primitives", &read(&module.join("go.mod"))?, || {
            let mut command = Command::new("go");
            command.current_dir(&module).args(["test", "-c", "-o"]).arg(&primitives).arg(package);
            say_and_run("compiling the Go SDK's tests; this takes some minutes the first time", &mut command)
                .context("Go 1.26 or newer is needed")
        })?;
        let list = Command::new("go")
            .current_dir(&module)
            .args(["list", "-f", "{{.Dir}}", package])
            .output()
            .context("cannot start `go`: is it installed?")?;
        ensure!(list.status.success(), "go list {package}: {}", String::from_utf8_lossy(&list.stderr));
        let folder = String::from_utf8(list.stdout).context("go list: not UTF-8")?;
        Ok(Self { primitives, folder: folder.trim().into() })
    }

    /// Compiles one of the SDK's examples, and returns its path.
    pub fn example(name: &str) -> Result<PathBuf> {
        Self::build(name, &format!("github.com/apache/beam/sdks/v2/go/examples/{name}"))
    }

    /// Compiles one of our own programs, `conformance/go/NAME`, and returns its path.
    pub fn program(name: &str) -> Result<PathBuf> {
        Self::build(name, &format!("./{name}"))
    }

    fn build(name: &str, package: &str) -> Result<PathBuf> {
        let binary = cache::folder("go")?.join(name);
        let mut command = Command::new("go");
        // Without symbols: the SDK stages its own binary with every job.
        command.current_dir(source_dir().join("go")).args(["build", "-ldflags=-s -w", "-o"]).arg(&binary).arg(package);
        say_and_run(&format!("compiling the Go program {name}"), &mut command).context("Go 1.26 or newer is needed")?;
        Ok(binary)
    }
}

/// The Java SDK's tests and what runs them.
pub struct JavaKit {
    /// The jar of the SDK's tests.
    pub tests: String,
    /// The Java agent that the SDK's container has.
    agent: String,
    /// Where the driver, our own pipeline, the SDK and what it needs are.
    pub class_path: String,
}

impl JavaKit {
    /// Downloads and compiles what is not there yet.
    pub fn ready() -> Result<Self> {
        let source = source_dir().join("java");
        let folder = cache::folder("java")?;
        let (jars, classes) = (folder.join("lib"), folder.join("classes"));
        cache::once(&folder, "lib", &read(&source.join("pom.xml"))?, || {
            if jars.exists() {
                fs::remove_dir_all(&jars).context("cannot remove the jars of another version")?;
            }
            let mut command = Command::new("mvn");
            command
                .args(["-B", "-q", "-f"])
                .arg(source.join("pom.xml"))
                .arg("dependency:copy-dependencies")
                .arg(format!("-DoutputDirectory={}", jars.display()));
            say_and_run("downloading the Java SDK's tests and harness", &mut command)
                .context("Maven and JDK 17 or newer are needed (Debian: apt-get install maven default-jdk-headless)")
        })?;
        let sources = ["Kafka.java", "Lane.java", "State.java", "Words.java"].map(|name| source.join(name));
        let recipe = sources.iter().map(|path| read(path)).collect::<Result<String>>()?;
        cache::once(&folder, "classes", &recipe, || {
            let mut command = Command::new("javac");
            command.arg("-cp").arg(format!("{}/*", jars.display())).arg("-d").arg(&classes).args(&sources);
            say_and_run("compiling the Java driver", &mut command)
        })?;
        let names: Vec<String> = fs::read_dir(&jars)
            .with_context(|| format!("cannot list {}", jars.display()))?
            .filter_map(|entry| entry.ok()?.path().into_os_string().into_string().ok())
            .collect();
        let jar = |start: &str, end: &str| {
            let found = names.iter().find(|path| path.contains(start) && path.ends_with(end)).cloned();
            found.with_context(|| format!("no {start}*{end} in {}", jars.display()))
        };
        Ok(Self {
            tests: jar("/beam-sdks-java-core-", "-tests.jar")?,
            agent: jar("/jamm-", ".jar")?,
            class_path: format!("{}:{}/*", classes.display(), jars.display()),
        })
    }

    /// The driver, under these system properties. User code runs in it, so it is set up as the SDK's container is.
    pub fn java(&self, properties: &[String]) -> Command {
        let mut command = Command::new("java");
        command
            .arg("-Xmx4g")
            .arg(format!("-javaagent:{}", self.agent))
            .arg(format!("-Djava.security.properties={}", source_dir().join("java/harness.security").display()))
            .args(properties)
            .args(["-cp", &self.class_path, "Lane"]);
        command
    }
}

/// The folder of the jars that a Kafka broker is made of, downloaded if they are not there yet: of the newest, or of the
/// `oldest` that has transactions.
pub fn kafka_jars(oldest: bool) -> Result<PathBuf> {
    let (pom, name) = if oldest { ("kafka/oldest/pom.xml", "kafka-oldest") } else { ("kafka/pom.xml", "kafka") };
    let (pom, folder) = (source_dir().join(pom), cache::folder(name)?);
    let jars = folder.join("lib");
    cache::once(&folder, "lib", &read(&pom)?, || {
        if jars.exists() {
            fs::remove_dir_all(&jars).context("cannot remove the jars of another version")?;
        }
        let mut command = Command::new("mvn");
        command.args(["-B", "-q", "-f"]).arg(&pom).arg("dependency:copy-dependencies");
        command.arg(format!("-DoutputDirectory={}", jars.display()));
        say_and_run("downloading a Kafka broker", &mut command)
            .context("Maven and JDK 17 or newer are needed (Debian: apt-get install maven default-jdk-headless)")
    })?;
    Ok(jars)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
