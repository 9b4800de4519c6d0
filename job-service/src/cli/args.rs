//! Commands and flags.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ferrobeam_job_service::options::{StateBackend, parse_bytes};
use ferrobeam_job_service::{ServiceConfig, default_memory};

/// Runs Apache Beam pipelines.
#[derive(Debug, Parser)]
#[command(name = "ferrobeam", version, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve Beam's Job API, and run jobs on this machine
    Serve(Box<ServeArgs>),
    /// Lend this machine to a job service
    Worker(WorkerArgs),
    /// Run a Beam program, unchanged, on Ferrobeam
    Run(RunArgs),
    /// List jobs
    Jobs(JobsArgs),
    /// Cancel a job
    Cancel(EndArgs),
    /// Let a job take no more input and finish what it has
    Drain(EndArgs),
    /// Have a job save its state now, and print the savepoint_path that another job starts from
    Savepoint(SavepointArgs),
    /// List the checkpoints and savepoints of a job that are there
    Checkpoints(CheckpointsArgs),
    /// Run the pipeline of a job that has ended as a new job, from what it saved, and print that one's id
    Restore(RestoreArgs),
    /// Tell whether a Beam program, changed or not, could start from saved state: the program runs, its pipelines do not
    CheckUpgrade(CheckUpgradeArgs),
    /// Print what is said about a job, from its start, until it ends
    Logs(LogsArgs),
    /// One process of a job; started by agents
    #[command(hide = true)]
    JobProcess(JobProcessArgs),
}

/// Flags of Flink's job server come first, with its defaults.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Host name or address to listen on; 0.0.0.0 for every address
    #[arg(long, default_value = "localhost")]
    pub(super) job_host: String,
    /// Port of the Job API; 0 for any free one
    #[arg(long, default_value_t = 8099)]
    pub(super) job_port: u16,
    /// Port where artifacts are staged; 0 for any free one
    #[arg(long, default_value_t = 8098)]
    pub(super) artifact_port: u16,
    /// Port of the expansion service: Kafka's transforms, for cross-language pipelines; 0 for any free one
    #[arg(long, default_value_t = 8097)]
    pub(super) expansion_port: u16,
    /// Where artifacts are kept, and found again by the next service [default: a temporary folder]
    #[arg(long)]
    pub(super) artifacts_dir: Option<PathBuf>,
    /// Where jobs and their checkpoints are kept: file:///FOLDER, s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH;
    /// credentials as AWS_, GOOGLE_ and AZURE_ variables. The next service on it goes on with the jobs; a second one waits
    /// until the first is gone [default: a temporary folder, which outlives jobs' processes but not the service]
    #[arg(long)]
    pub(super) checkpoint_storage: Option<String>,
    /// Host name or address under which clients and workers reach this machine [default: the job host]
    #[arg(long)]
    pub(super) advertised_host: Option<String>,
    /// What workers on other machines have to show; without it, there can be none
    #[arg(long, env = "FERROBEAM_JOIN_TOKEN", hide_env_values = true)]
    pub(super) join_token: Option<String>,
    #[command(flatten)]
    pub(super) jobs: JobDefaults,
    /// Job processes that this machine takes at a time; 0 leaves all to workers that join
    #[arg(long, default_value_t = 64)]
    pub(super) capacity: usize,
    /// Idle job processes to keep, so that jobs start sooner
    #[arg(long, default_value_t = 1)]
    pub(super) spare_processes: usize,
    /// Jobs that run at a time; others wait
    #[arg(long, default_value_t = 16)]
    pub(super) max_running_jobs: usize,
    /// Ended jobs whose record is kept
    #[arg(long, default_value_t = 1000)]
    pub(super) retain_jobs: usize,
    /// Where temporary files go [default: the system's folder for them]
    #[arg(long)]
    pub(super) temp_dir: Option<PathBuf>,
}

/// What holds for jobs that do not ask for something else in their pipeline options.
#[derive(Clone, Debug, Args)]
pub(super) struct JobDefaults {
    /// Worker threads of each process of a job [default: one a core]
    #[arg(long)]
    pub(super) workers: Option<NonZeroUsize>,
    /// Processes of a job
    #[arg(long, default_value = "1")]
    pub(super) processes: NonZeroUsize,
    /// User data that each process of a job may keep in memory, such as 512MiB [default: a quarter of the machine's,
    /// at most 512MiB]
    #[arg(long, value_parser = bytes)]
    pub(super) memory: Option<u64>,
    /// Where a job keeps its keyed state: memory, rocksdb, or auto: in memory while it fits, then in RocksDB
    #[arg(long, default_value_t = StateBackend::Auto)]
    pub(super) state_backend: StateBackend,
}

#[derive(Debug, Args)]
pub(super) struct WorkerArgs {
    /// The job service, HOST:PORT
    #[arg(long)]
    pub(super) join: String,
    /// Job processes that this machine takes at a time
    #[arg(long, default_value_t = 64)]
    pub(super) capacity: u32,
    /// Host name or address under which other workers reach this machine [default: the address that it reaches the
    /// service from]
    #[arg(long)]
    pub(super) host: Option<String>,
    /// What the service wants to be shown
    #[arg(long, env = "FERROBEAM_JOIN_TOKEN", hide_env_values = true)]
    pub(super) join_token: Option<String>,
    /// Idle job processes to keep, so that jobs start sooner
    #[arg(long, default_value_t = 1)]
    pub(super) spare_processes: usize,
    /// Where temporary files go [default: the system's folder for them]
    #[arg(long)]
    pub(super) temp_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// A job service that runs already, HOST:PORT [default: one that is started, and ends with the command]
    #[arg(long)]
    pub(super) endpoint: Option<String>,
    /// Which SDK the command uses [default: found out]
    #[arg(long)]
    pub(super) sdk: Option<Sdk>,
    #[command(flatten)]
    pub(super) jobs: JobDefaults,
    /// Where checkpoints and savepoints of the service that is started are kept: file:///FOLDER, s3://BUCKET/PATH, gs://BUCKET/PATH
    /// or az://CONTAINER/PATH [default: a temporary folder, which goes with the command]
    #[arg(long, conflicts_with = "endpoint")]
    pub(super) checkpoint_storage: Option<String>,
    /// Leave Kafka's transforms to the SDK's own expansion service, which needs Java
    #[arg(long)]
    pub(super) sdk_expansion: bool,
    /// Say nothing about the job, only what the command says
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// The command, such as `python wordcount.py --output /tmp/counts`
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<OsString>,
}

/// An SDK of Beam's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Sdk {
    /// Python, and YAML through it
    Python,
    /// Go
    Go,
    /// Java, and other languages of the JVM
    Java,
}

/// Which service to talk to.
#[derive(Debug, Args)]
pub(super) struct Endpoint {
    /// The job service, HOST:PORT
    #[arg(long, default_value = "localhost:8099", env = "FERROBEAM_ENDPOINT")]
    pub(super) endpoint: String,
}

#[derive(Debug, Args)]
pub(super) struct JobsArgs {
    #[command(flatten)]
    pub(super) service: Endpoint,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct EndArgs {
    #[command(flatten)]
    pub(super) service: Endpoint,
    /// The job's id, or the beginning of it
    pub(super) job: String,
    /// Return at once instead of when the job has ended
    #[arg(long)]
    pub(super) no_wait: bool,
}

#[derive(Debug, Args)]
pub(super) struct SavepointArgs {
    #[command(flatten)]
    pub(super) service: Endpoint,
    /// Stop the job with it: nothing that it would do afterwards happens, so that who starts from it repeats nothing
    #[arg(long)]
    pub(super) stop: bool,
    /// The job's id, or the beginning of it
    pub(super) job: String,
}

#[derive(Debug, Args)]
pub(super) struct CheckpointsArgs {
    #[command(flatten)]
    pub(super) service: Endpoint,
    /// The job's id, or the beginning of it; or STORAGE/JOB, such as file:///checkpoints/JOB, of any service
    pub(super) of: String,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    pub(super) service: Endpoint,
    /// The job's id, or the beginning of it
    pub(super) job: String,
    /// What to start from, as `ferrobeam checkpoints` names it [default: the newest]
    #[arg(long)]
    pub(super) from: Option<String>,
    /// Worker threads of the new job in all [default: as the job's]
    #[arg(long)]
    pub(super) parallelism: Option<NonZeroUsize>,
    /// A pipeline option of the new job that is other than the job's, NAME=VALUE (repeatable)
    #[arg(long = "option", value_parser = pair)]
    pub(super) options: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(super) struct CheckUpgradeArgs {
    #[command(flatten)]
    pub(super) service: Endpoint,
    /// What is to be started from: a job of the service, for the newest that it saved; or a savepoint_path
    #[arg(long)]
    pub(super) from: String,
    /// Which SDK the command uses [default: found out]
    #[arg(long)]
    pub(super) sdk: Option<Sdk>,
    /// The command, such as `python pipeline.py --streaming`
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    #[command(flatten)]
    pub(super) service: Endpoint,
    /// The job's id, or the beginning of it
    pub(super) job: String,
    /// Print details and debugging messages too
    #[arg(long, short)]
    pub(super) verbose: bool,
}

#[derive(Debug, Args)]
pub(super) struct JobProcessArgs {
    /// The job service's URL
    #[arg(long)]
    pub(super) service: String,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is wanted")?;
    Ok((name.trim_start_matches('-').to_owned(), value.to_owned()))
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).filter(|n| *n > 0).ok_or_else(|| "a number of bytes is wanted, such as 512MiB or 2g".to_owned())
}

impl JobDefaults {
    pub(super) fn apply(&self, config: &mut ServiceConfig) {
        if let Some(workers) = self.workers {
            config.supervisor.workers = workers;
        }
        config.supervisor.processes = self.processes;
        config.supervisor.memory = self.memory.unwrap_or_else(default_memory);
        config.supervisor.state_backend = self.state_backend;
    }
}

impl ServeArgs {
    pub(super) fn config(&self) -> ServiceConfig {
        let mut config = ServiceConfig {
            host: self.job_host.clone(),
            job_port: self.job_port,
            artifact_port: self.artifact_port,
            expansion_port: self.expansion_port,
            advertised_host: self.advertised_host.clone(),
            artifacts_dir: self.artifacts_dir.clone(),
            checkpoint_storage: self.checkpoint_storage.clone(),
            temp_dir: self.temp_dir.clone(),
            join_token: self.join_token.clone().filter(|token| !token.is_empty()),
            capacity: self.capacity,
            spares: self.spare_processes,
            ..ServiceConfig::default()
        };
        self.jobs.apply(&mut config);
        config.supervisor.max_running_jobs = self.max_running_jobs;
        config.retention.jobs = self.retain_jobs;
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Command {
        Cli::try_parse_from(line.split_whitespace()).expect("it parses").command
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_takes_the_flags_of_flinks_job_server() {
        let Command::Serve(args) = parse(
            "ferrobeam serve --job-host 0.0.0.0 --job-port 1 --artifact-port 2 --expansion-port 3 --artifacts-dir /a",
        ) else {
            panic!("serve")
        };
        let config = args.config();
        assert_eq!((config.host.as_str(), config.job_port, config.artifact_port), ("0.0.0.0", 1, 2));
        assert_eq!((args.expansion_port, config.artifacts_dir), (3, Some("/a".into())));
        let Command::Serve(args) = parse("ferrobeam serve") else { panic!("serve") };
        assert_eq!((args.job_port, args.artifact_port, args.expansion_port), (8099, 8098, 8097));
    }

    #[test]
    fn sizes_and_counts_reach_the_configuration() {
        let line = "ferrobeam serve --workers 3 --processes 2 --memory 2g --state-backend rocksdb";
        let Command::Serve(args) = parse(line) else { panic!("serve") };
        let config = args.config().supervisor;
        assert_eq!(config.state_backend, StateBackend::RocksDb);
        assert_eq!((config.workers.get(), config.processes.get(), config.memory), (3, 2, 2 << 30));
        for bad in ["--memory lots", "--memory 0", "--workers 0", "--processes none", "--state-backend paper"] {
            let line = format!("ferrobeam serve {bad}");
            assert!(Cli::try_parse_from(line.split_whitespace()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_to_run_keeps_its_flags() {
        let Command::Run(args) = parse("ferrobeam run --quiet python -m x --endpoint a --help") else { panic!("run") };
        assert_eq!(args.command, ["python", "-m", "x", "--endpoint", "a", "--help"]);
        assert!(args.quiet && args.endpoint.is_none());
        let Command::Run(args) = parse("ferrobeam run --sdk go -- ./prog -x") else { panic!("run") };
        assert_eq!((args.sdk, args.command), (Some(Sdk::Go), vec!["./prog".into(), "-x".into()]));
        assert!(Cli::try_parse_from(["ferrobeam", "run"]).is_err());
    }
}
