//! `ferrobeam run -- COMMAND`: runs a Beam program as it is, on a job service that is there or one of its own.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use anyhow::Context;
use ferrobeam_job_service::job::State;
use ferrobeam_job_service::supervisor::CheckpointStorage;
use ferrobeam_job_service::{Service, ServiceConfig};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::args::RunArgs;
use super::client;
use super::expansion::Expansion;
use super::progress::Progress;
use super::sdk::{self, Amended};

pub(super) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let sdk = match args.sdk {
        Some(sdk) => sdk,
        None => sdk::detect(&args.command)?,
    };
    match &args.endpoint {
        Some(endpoint) => {
            // Said here, it is said clearly; SDKs wait a minute and then show a stack trace.
            drop(client::connect(endpoint).await?);
            let amended = sdk::amend(&args.command, sdk, endpoint)?;
            explain(&args, &amended);
            let expansion = expansion(&args, endpoint)?;
            let mut command = start(&amended, &expansion)?;
            let (status, interrupted) = wait(&mut command, || {}).await?;
            if interrupted {
                eprintln!(
                    "ferrobeam: jobs that were submitted run on; `ferrobeam jobs --endpoint {endpoint}` lists them, \
                     `ferrobeam cancel` ends them, `ferrobeam drain` lets them finish what they have"
                );
            }
            Ok(exit_code(status))
        }
        None => {
            let mut config = ServiceConfig::default();
            args.jobs.apply(&mut config);
            // Only what jobs save: the jobs themselves end with the command.
            config.supervisor.checkpoints =
                args.checkpoint_storage.as_deref().map(CheckpointStorage::open).transpose()?;
            let service = Service::start(config).await?;
            let ended = run_embedded(&args, sdk, &service).await;
            service.stop().await;
            ended
        }
    }
}

async fn run_embedded(args: &RunArgs, sdk: super::args::Sdk, service: &Service) -> anyhow::Result<ExitCode> {
    let amended = sdk::amend(&args.command, sdk, service.endpoint())?;
    explain(args, &amended);
    let expansion = expansion(args, service.endpoint())?;
    let mut command = start(&amended, &expansion)?;
    let mut progress = (!args.quiet).then(|| Progress::new(service.jobs().clone(), service.endpoint().to_owned()));
    let cancel = || {
        if !args.quiet {
            eprintln!("ferrobeam: cancelling what runs; asked again, the command is ended at once");
        }
        for job in service.jobs().all() {
            service.supervisor().cancel(&job);
        }
    };
    let ended = {
        let work = async {
            let (status, interrupted) = wait(&mut command, cancel).await?;
            anyhow::Ok((status, interrupted, finish_jobs(service, status.success(), interrupted).await?))
        };
        let follow = async {
            match &mut progress {
                Some(progress) => progress.follow().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = work => ended?,
            () = follow => return Ok(ExitCode::SUCCESS),
        }
    };
    if let Some(progress) = &mut progress {
        progress.look();
    }
    let (status, interrupted, all_done) = ended;
    let drained = service.jobs().all().iter().any(|job| job.state().0 == State::Drained);
    if sdk == super::args::Sdk::Python && status.code() == Some(1) && all_done && drained {
        // Its client raises an error for every end but DONE.
        eprintln!("ferrobeam: the command failed because its job was drained; the job did not fail");
        return Ok(ExitCode::SUCCESS);
    }
    if !status.success() || interrupted || all_done {
        return Ok(exit_code(status));
    }
    // A program that does not look at its job's end has not failed; its job has.
    Ok(ExitCode::FAILURE)
}

/// Waits for jobs that the command left behind. Whether all of them succeeded.
async fn finish_jobs(service: &Service, command_succeeded: bool, interrupted: bool) -> anyhow::Result<bool> {
    let jobs = service.jobs().all();
    // A command that failed has said itself why.
    if jobs.is_empty() && command_succeeded && !interrupted {
        eprintln!("ferrobeam: the command ended without submitting a job; does it pass its arguments to Beam?");
    }
    let mut all_done = true;
    for job in jobs {
        let mut changes = job.changes();
        if !job.state().0.is_terminal() && !interrupted {
            eprintln!("ferrobeam: the command ended; job {} has not: Ctrl-C cancels it", job.id());
        }
        while !job.state().0.is_terminal() {
            tokio::select! {
                _ = changes.changed() => {}
                asked = super::asked_to_end() => {
                    asked?;
                    service.supervisor().cancel(&job);
                }
            }
        }
        all_done &= matches!(job.state().0, State::Done | State::Drained);
    }
    Ok(all_done)
}

fn explain(args: &RunArgs, amended: &Amended) {
    if args.quiet {
        return;
    }
    let replaced = match amended.removed.as_slice() {
        [] => String::new(),
        removed => format!(" in place of {}", removed.join(" ")),
    };
    eprintln!("ferrobeam: running the command with {}{replaced}", amended.added.join(" "));
}

/// Whoever serves the Job API expands Kafka's transforms at the same address.
fn expansion(args: &RunArgs, endpoint: &str) -> anyhow::Result<Expansion> {
    if args.sdk_expansion { Ok(Expansion::none()) } else { Expansion::by(endpoint) }
}

pub(super) fn start(amended: &Amended, expansion: &Expansion) -> anyhow::Result<Child> {
    let [program, args @ ..] = amended.command.as_slice() else { anyhow::bail!("there is no command") };
    let started = Command::new(program).args(args).envs(expansion.variables.iter().cloned()).kill_on_drop(true).spawn();
    started.with_context(|| format!("cannot start {}", program.to_string_lossy()))
}

/// Waits for the command, and passes on to it what is asked of this process. `on_interrupt` runs at the first time. A
/// terminal sends SIGINT to the command as well, so that one is not passed on; asked twice, the command is killed.
pub(super) async fn wait(command: &mut Child, on_interrupt: impl Fn()) -> anyhow::Result<(ExitStatus, bool)> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut interrupted = false;
    loop {
        let pass_on = tokio::select! {
            status = command.wait() => return Ok((status.context("cannot wait for the command")?, interrupted)),
            _ = terminate.recv() => true,
            _ = interrupt.recv() => false,
        };
        if std::mem::replace(&mut interrupted, true) {
            command.start_kill().context("cannot end the command")?;
            continue;
        }
        on_interrupt();
        let pid = command.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| pass_on) {
            // Fails only for a command that has ended, which the next turn sees.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

/// As a shell tells it.
pub(super) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
