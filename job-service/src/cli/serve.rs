//! `ferrobeam serve` and `ferrobeam worker`.

use std::process::ExitCode;

use anyhow::Context;
use ferrobeam_job_service::agent::{AgentConfig, LEASE};
use ferrobeam_job_service::control;
use ferrobeam_job_service::{Service, TempRoot};
use tokio::net::TcpStream;

use super::args::{ServeArgs, WorkerArgs};
use super::asked_to_end;

pub(super) async fn serve(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let config = args.config();
    let keeps_jobs = config.checkpoint_storage.is_some();
    let service = Service::start(config).await?;
    announce(&format!(
        "ferrobeam {}: listening on {} (artifacts on {}, expansion service on {})",
        env!("CARGO_PKG_VERSION"),
        service.job_address(),
        service.artifact_address(),
        service.expansion_endpoint()
    ));
    tokio::select! {
        asked = asked_to_end() => asked?,
        why = service.replaced() => {
            service.stop().await;
            anyhow::bail!("the service has ended, and its jobs go on elsewhere: {why}");
        }
    }
    tracing::info!("stopping: {}", if keeps_jobs { "jobs stay, for the next service" } else { "jobs are cancelled" });
    tokio::select! {
        () = service.stop() => Ok(ExitCode::SUCCESS),
        // Asked twice, it does not wait for jobs.
        again = asked_to_end() => again.map(|()| ExitCode::FAILURE),
    }
}

pub(super) async fn worker(args: WorkerArgs) -> anyhow::Result<ExitCode> {
    let host = match args.host {
        Some(host) => host,
        None => {
            let probe = TcpStream::connect(&args.join).await;
            let probe = probe.with_context(|| format!("cannot reach the job service at {}", args.join))?;
            probe.local_addr().context("cannot tell this machine's address")?.ip().to_string()
        }
    };
    let work_root = TempRoot::create(args.temp_dir.as_deref())?;
    let config = AgentConfig {
        program: AgentConfig::this_program(),
        service: format!("http://{}", args.join),
        host: host.clone(),
        work_root: work_root.path().to_owned(),
        spares: args.spare_processes,
        lease: LEASE,
    };
    let joined = || announce(&format!("ferrobeam worker: joined {} as {host}", args.join));
    tokio::select! {
        ended = control::join(config, args.capacity, args.join_token.unwrap_or_default(), joined) => {
            ended?;
            Ok(ExitCode::SUCCESS)
        }
        asked = asked_to_end() => asked.map(|()| ExitCode::SUCCESS),
    }
}

/// One line on standard output, for whoever waits for it.
#[allow(clippy::print_stdout)]
fn announce(line: &str) {
    println!("{line}");
}
