//! The suites: the names of their tests, and how to run them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::tools::{GoKit, JavaKit, kafka_jars, python, python_packages};

/// A set of tests that are run, counted and expected together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Suite {
    /// The Python SDK's `FnApiRunnerTest`, bounded and streaming.
    Python,
    /// Of that, the tests that the SDK itself skips, run all the same.
    PythonUnskipped,
    /// The Go SDK's primitives integration tests.
    Go,
    /// The Java SDK's `ValidatesRunner` category.
    Java,
    /// What the Beam model asks and the SDKs' own suites do not test.
    Model,
    /// Random operations on every kind of state, in Python, Java and Go, with and without the harness's cache.
    State,
    /// Jobs whose processes are killed come to what they come to undisturbed: only where the run knows the program.
    Durable,
    /// Kafka as a source and a sink, on real brokers that are killed: only where the run knows the program.
    Kafka,
    /// What must be refused: malformed submissions, straight to the Job API.
    BadInput,
    /// Beam's examples through `ferrobeam run`: only where the run knows the program.
    Launch,
}

impl Suite {
    /// Every suite, in the order in which they run.
    pub const ALL: [Self; 10] = [
        Self::BadInput,
        Self::Launch,
        Self::Model,
        Self::State,
        Self::Durable,
        Self::Kafka,
        Self::Python,
        Self::PythonUnskipped,
        Self::Go,
        Self::Java,
    ];

    /// The SDKs' own, by which runners are compared.
    pub const SDKS: [Self; 3] = [Self::Python, Self::Go, Self::Java];

    /// Whether its tests start the program themselves.
    pub fn needs_program(self) -> bool {
        matches!(self, Self::Launch | Self::Durable | Self::Kafka)
    }

    /// Its name in reports and file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::PythonUnskipped => "python-unskipped",
            Self::Go => "go",
            Self::Java => "java",
            Self::Model => "model",
            Self::State => "state",
            Self::Durable => "durable",
            Self::Kafka => "kafka",
            Self::BadInput => "bad-input",
            Self::Launch => "launch",
        }
    }

    /// How many of its tests run at once unless told otherwise. Java's mostly wait for their client's next poll; the
    /// others compute.
    pub fn default_lanes(self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        match self {
            Self::Python | Self::PythonUnskipped | Self::Go => cores + 1,
            Self::Java => 4 * cores,
            Self::Model | Self::State | Self::Durable | Self::Kafka | Self::BadInput | Self::Launch => cores,
        }
    }
}

/// What a suite's tests need to know.
#[derive(Clone, Debug)]
pub struct Target {
    /// The job endpoint, `HOST:PORT`.
    pub endpoint: String,
    /// The `ferrobeam` program, when the run knows it.
    pub program: Option<PathBuf>,
    /// The port of an expansion service for cross-language tests, when one runs.
    pub expansion_port: Option<u16>,
    /// Seconds that a test may take.
    pub timeout: u64,
}

/// The driver of a suite, ready to run.
pub enum Driver {
    /// A process that runs many tests, told which by lines on its stdin.
    Resident {
        /// Starts it.
        command: Box<dyn Fn() -> Command + Send + Sync>,
        /// How many tests one process runs at once.
        slots: usize,
        /// How many processes.
        processes: usize,
    },
    /// A process a test.
    Each {
        /// Starts it.
        command: Box<dyn Fn(&str) -> Command + Send + Sync>,
        /// How many at once.
        lanes: usize,
    },
}

/// Where the drivers' sources are.
pub fn source_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Makes what the suite needs, and returns the names of its tests and their driver.
pub fn prepare(suite: Suite, target: &Target, lanes: usize, logs: &Path) -> Result<(Vec<String>, Driver)> {
    match suite {
        Suite::Python => python_lanes(&["beam_suite"], target, lanes, logs, Vec::new()),
        Suite::PythonUnskipped => python_lanes(&["--unskip", "beam_suite"], target, lanes, logs, Vec::new()),
        Suite::Model => python_lanes(&["model"], target, lanes, logs, Vec::new()),
        Suite::State => {
            let class_path = JavaKit::ready()?.class_path.into();
            let env = vec![("GO_STATE", GoKit::program("state")?), ("JAVA_CLASS_PATH", class_path)];
            python_lanes(&["state"], target, lanes, logs, env)
        }
        Suite::BadInput => python_lanes(&["bad_input"], target, lanes, logs, Vec::new()),
        Suite::Durable => {
            python_lanes(&["durable"], target, lanes, logs, vec![("FERROBEAM", program_of(suite, target)?)])
        }
        Suite::Kafka => {
            let packages = python_packages(&python(true)?, "confluent-kafka==2.12.2")?;
            let program = program_of(suite, target)?;
            let env = vec![
                ("FERROBEAM", program),
                ("GO_KAFKA", GoKit::program("kafka")?),
                ("JAVA_CLASS_PATH", JavaKit::ready()?.class_path.into()),
                ("KAFKA_JARS", kafka_jars(false)?),
                ("KAFKA_OLDEST_JARS", kafka_jars(true)?),
                ("PYTHONPATH", packages),
            ];
            python_lanes(
                &[
                    "guards,kafka_io,kafka_formats,kafka_exactly_once,kafka_sink_faults,kafka_source_faults,kafka_java,kafka_oldest,kafka_secured",
                ],
                target,
                lanes,
                logs,
                env,
            )
        }
        Suite::Launch => {
            let program = program_of(suite, target)?;
            let wordcount = GoKit::example("wordcount")?;
            let class_path = JavaKit::ready()?.class_path.into();
            let env = vec![("FERROBEAM", program), ("GO_WORDCOUNT", wordcount), ("JAVA_CLASS_PATH", class_path)];
            python_lanes(&["launch"], target, lanes, logs, env)
        }
        Suite::Go => go(target, lanes, logs),
        Suite::Java => java(target, lanes, logs),
    }
}

/// The program, for suites that start it themselves.
fn program_of(suite: Suite, target: &Target) -> Result<PathBuf> {
    let name = suite.name();
    let program =
        target.program.as_ref().with_context(|| format!("the suite {name} needs --serve: it runs that program"))?;
    program.canonicalize().with_context(|| format!("{} is not there", program.display()))
}

/// Of modules, which commas part, with flags of the lane before them.
fn python_lanes(
    module: &'static [&'static str],
    target: &Target,
    lanes: usize,
    logs: &Path,
    env: Vec<(&'static str, PathBuf)>,
) -> Result<(Vec<String>, Driver)> {
    let python = python(true)?;
    let lane = source_dir().join("python/lane.py");
    let variables = || env.iter().map(|(name, value)| (*name, value.clone()));
    let names = lines(Command::new(&python).arg(&lane).arg("--list").args(module).envs(variables()), logs)?;
    let target = target.clone();
    let command = move || {
        let mut command = Command::new(&python);
        command.arg(&lane).args(module).arg(target.timeout.to_string());
        command.env("JOB_ENDPOINT", &target.endpoint).envs(env.iter().map(|(name, value)| (name, value)));
        command
    };
    Ok((names, Driver::Resident { command: Box::new(command), slots: 1, processes: lanes }))
}

fn go(target: &Target, lanes: usize, logs: &Path) -> Result<(Vec<String>, Driver)> {
    let kit = GoKit::ready()?;
    let names = lines(Command::new(&kit.primitives).args(["-test.list", "^Test"]).current_dir(&kit.folder), logs)?;
    let target = target.clone();
    let python = python(false)?;
    let command = move |name: &str| {
        // Its source has no end, and the test leaves it to whoever runs it to drain its job.
        let mut command = if name == "TestDrain" {
            let mut command = Command::new(&python);
            command.arg(source_dir().join("python/drain.py")).arg(&target.endpoint).arg("go-testdrain-");
            command.arg(&kit.primitives);
            command
        } else {
            Command::new(&kit.primitives)
        };
        command
            .current_dir(&kit.folder)
            .args(["-test.v", "-runner=universal", "-environment_type=LOOPBACK"])
            .arg(format!("-test.run=^{name}$"))
            // Ends the process, with the stacks of all goroutines, even if nobody waits for it any more.
            .arg(format!("-test.timeout={}s", target.timeout))
            .arg(format!("-endpoint={}", target.endpoint));
        command
    };
    let names = names.into_iter().filter(|name| name.starts_with("Test")).collect();
    Ok((names, Driver::Each { command: Box::new(command), lanes }))
}

fn java(target: &Target, lanes: usize, logs: &Path) -> Result<(Vec<String>, Driver)> {
    let kit = JavaKit::ready()?;
    let list = ["--list", &kit.tests, "org.apache.beam.sdk.testing.ValidatesRunner"];
    let names = lines(kit.java(&[]).args(list), logs)?;
    let options = serde_json::json!([
        "--runner=TestUniversalRunner",
        format!("--jobEndpoint={}", target.endpoint),
        "--defaultEnvironmentType=LOOPBACK",
        "--experiments=beam_fn_api",
    ]);
    let mut properties = vec![format!("-DbeamTestPipelineOptions={options}")];
    properties.extend(target.expansion_port.map(|port| format!("-DexpansionPort={port}")));
    let command = move || kit.java(&properties);
    Ok((names, Driver::Resident { command: Box::new(command), slots: lanes, processes: 1 }))
}

/// The lines that a command prints, which must succeed.
fn lines(command: &mut Command, logs: &Path) -> Result<Vec<String>> {
    let log: PathBuf = logs.join("list.log");
    let errors = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let output = command
        .stdin(Stdio::null())
        .stderr(errors)
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    ensure!(output.status.success(), "{command:?} does not list its tests ({}): see {}", output.status, log.display());
    let text = String::from_utf8(output.stdout).context("a test's name is not UTF-8")?;
    let names: Vec<String> = text.lines().map(str::to_owned).collect();
    ensure!(!names.is_empty(), "{command:?} lists no test: see {}", log.display());
    Ok(names)
}
