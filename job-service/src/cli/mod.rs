//! The command line.

mod args;
mod client;
mod expansion;
mod jobs;
mod progress;
mod run;
mod saved_state;
mod sdk;
mod serve;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};

/// What a command ends with when it fails itself, as distinct from what it ran.
const FAILED: u8 = 1;

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    log(&cli);
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ferrobeam: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// To standard error: standard output belongs to what commands print.
fn log(cli: &Cli) {
    // The user of `run` wants the output of a program; the operator of a service wants to know what it does.
    let default = match cli.command {
        Command::Serve(_) | Command::Worker(_) => "warn,ferrobeam=info,ferrobeam_job_service=info",
        _ => "warn",
    };
    let filter = EnvFilter::try_from_env("FERROBEAM_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).init();
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        // Its runtime is its own, and starts after the process has begun to listen to its agent.
        Command::JobProcess(args) => Ok(ferrobeam_job_service::process::run(&args.service)?),
        other => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            let runtime = runtime.context("cannot start the runtime")?;
            let ended = runtime.block_on(async {
                match other {
                    Command::Serve(args) => serve::serve(*args).await,
                    Command::Worker(args) => serve::worker(args).await,
                    Command::Run(args) => run::run(args).await,
                    Command::Jobs(args) => jobs::list(args).await,
                    Command::Cancel(args) => jobs::cancel(args).await,
                    Command::Drain(args) => jobs::drain(args).await,
                    Command::Savepoint(args) => saved_state::take(args).await,
                    Command::Checkpoints(args) => saved_state::list(args).await,
                    Command::Restore(args) => saved_state::restore(args).await,
                    Command::CheckUpgrade(args) => saved_state::check(args).await,
                    Command::Logs(args) => jobs::logs(args).await,
                    Command::JobProcess(_) => Ok(ExitCode::SUCCESS),
                }
            });
            runtime.shutdown_background();
            ended
        }
    }
}

/// Returns when somebody asks this process to end.
async fn asked_to_end() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
