//! `ferrobeam savepoint`, `checkpoints`, `restore` and `check-upgrade`: saved state of jobs, for others to start from.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, bail};
use ferrobeam_job_service::checkpoint::{self, Kind, Options, SavedState, Storage};
use ferrobeam_job_service::control::v1::savepoints_client::SavepointsClient;
use ferrobeam_job_service::control::v1::{ListRequest, RestoreRequest, SavepointRequest};
use ferrobeam_job_service::job::{Event, Job, Message, State};
use ferrobeam_job_service::options::StartFrom;
use ferrobeam_job_service::{Service, ServiceConfig};
use serde::Serialize;
use tonic::transport::Channel;

use super::args::{CheckUpgradeArgs, CheckpointsArgs, Endpoint, RestoreArgs, SavepointArgs};
use super::client::{channel, connect, find, said};
use super::expansion::Expansion;
use super::run::{exit_code, start, wait};
use super::sdk;

/// Prints the path that another job starts from.
pub(super) async fn take(args: SavepointArgs) -> anyhow::Result<ExitCode> {
    let (mut client, job_id) = of_job(&args.service, &args.job).await?;
    let taken = client.take(SavepointRequest { job_id, stop: args.stop }).await.map_err(said)?.into_inner();
    println!("{}", taken.path);
    if taken.goes_with_service {
        eprintln!(
            "ferrobeam: it is in a temporary folder of the service, which goes with that: copy it before, or give `ferrobeam serve` or \
             `ferrobeam run` a --checkpoint-storage"
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn of_job(service: &Endpoint, job: &str) -> anyhow::Result<(SavepointsClient<Channel>, String)> {
    let job_id = find(&mut connect(&service.endpoint).await?, job).await?;
    Ok((SavepointsClient::new(channel(&service.endpoint).await?), job_id))
}

/// Saved state as `checkpoints --json` prints it.
#[derive(Debug, Serialize)]
struct Listed {
    number: u64,
    kind: &'static str,
    created: String,
    bytes: u64,
    workers: u32,
    path: String,
}

/// Whether somebody means a place in a storage, and no job of a service.
fn is_path(text: &str) -> bool {
    text.contains('/')
}

pub(super) async fn list(args: CheckpointsArgs) -> anyhow::Result<ExitCode> {
    let listed = listed(&args.service, &args.of).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&listed)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:>10}  {:10}  {:20}  {:>12}  {:>7}  SAVEPOINT_PATH", "NUMBER", "KIND", "CREATED", "BYTES", "WORKERS");
    for Listed { number, kind, created, bytes, workers, path } in listed {
        println!("{number:>10}  {kind:10}  {created:20}  {bytes:>12}  {workers:>7}  {path}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn listed(service: &Endpoint, of: &str) -> anyhow::Result<Vec<Listed>> {
    if is_path(of) {
        let of = StartFrom::parse(of)?;
        of.is_there()?;
        let storage = Storage::open_to_read(&of.storage, &Options::of_environment())?;
        let saved = checkpoint::saved_states(&storage, &of.job).await?;
        return Ok(saved.into_iter().map(Listed::of).collect());
    }
    let (mut client, job_id) = of_job(service, of).await?;
    let saved = client.list(ListRequest { job_id }).await.map_err(said)?.into_inner().saved;
    let listed = saved.into_iter().map(|saved| Listed {
        number: saved.epoch,
        kind: kind(saved.is_savepoint),
        created: time(saved.created_millis),
        bytes: saved.bytes,
        workers: saved.workers,
        path: saved.path,
    });
    Ok(listed.collect())
}

impl Listed {
    fn of(saved: SavedState) -> Listed {
        Listed {
            number: saved.epoch.0,
            kind: kind(saved.kind == Kind::Savepoint),
            created: time(saved.created),
            bytes: saved.bytes,
            workers: saved.workers,
            path: saved.path,
        }
    }
}

fn kind(is_savepoint: bool) -> &'static str {
    if is_savepoint { "savepoint" } else { "checkpoint" }
}

/// In UTC, to the second.
fn time(millis: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(millis);
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Prints the id of the new job.
pub(super) async fn restore(args: RestoreArgs) -> anyhow::Result<ExitCode> {
    let (mut client, job_id) = of_job(&args.service, &args.job).await?;
    let options = args.options.into_iter().chain(args.parallelism.map(|n| ("parallelism".to_owned(), n.to_string())));
    let request = RestoreRequest { job_id, path: args.from.unwrap_or_default(), options: options.collect() };
    println!("{}", client.restore(request).await.map_err(said)?.into_inner().job_id);
    Ok(ExitCode::SUCCESS)
}

/// Runs the command against a service that runs no job, and tells each whether it could start from saved state.
pub(super) async fn check(args: CheckUpgradeArgs) -> anyhow::Result<ExitCode> {
    let sdk = args.sdk.map_or_else(|| sdk::detect(&args.command), Ok)?;
    let path = if is_path(&args.from) {
        StartFrom::parse(&args.from)?.is_there()?;
        args.from.clone()
    } else {
        let newest = listed(&args.service, &args.from).await?.pop();
        let newest = newest.with_context(|| format!("job {} has saved nothing", args.from))?.path;
        // It may make room for a later one meanwhile: the job's newest is meant.
        let StartFrom { storage, job, .. } = StartFrom::parse(&newest)?;
        format!("{storage}/{job}")
    };
    let mut config = ServiceConfig { capacity: 0, spares: 0, ..ServiceConfig::default() };
    config.supervisor.check_against = Some(path.clone());
    let service = Service::start(config).await?;
    let ended = async {
        let amended = sdk::amend(&args.command, sdk, service.endpoint())?;
        let expansion = Expansion::by(service.endpoint())?;
        let mut command = start(&amended, &expansion)?;
        anyhow::Ok(wait(&mut command, || {}).await?.0)
    }
    .await;
    let jobs = service.jobs().all();
    service.stop().await;
    let status = ended?;
    if jobs.is_empty() {
        if status.success() {
            bail!("the command ended without submitting a job; does it pass its arguments to Beam?");
        }
        return Ok(exit_code(status));
    }
    let mut fits = true;
    for job in jobs {
        fits &= tell(&job, &path);
    }
    if fits && !status.success() {
        eprintln!("ferrobeam: the command itself failed");
        return Ok(exit_code(status));
    }
    Ok(if fits { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether it fits.
fn tell(job: &Job, path: &str) -> bool {
    let fits = job.state().0 == State::Done;
    println!("{}: {} from {path}", job.submission().name, if fits { "can start" } else { "cannot start" });
    for (_, event) in job.read(0, usize::MAX).events {
        if let Event::Message(Message { text, .. }) = event {
            println!("{text}");
        }
    }
    fits
}
