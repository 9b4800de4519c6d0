//! `ferrobeam savepoint`: a running job saves its state, for another to start from.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use ferrobeam_job_service::control::v1::SavepointRequest;
use ferrobeam_job_service::control::v1::savepoints_client::SavepointsClient;

use super::args::SavepointArgs;
use super::client::{channel, connect, find, said};

/// Prints the path that another job starts from.
pub(super) async fn take(args: SavepointArgs) -> anyhow::Result<ExitCode> {
    let job_id = find(&mut connect(&args.service.endpoint).await?, &args.job).await?;
    let mut client = SavepointsClient::new(channel(&args.service.endpoint).await?);
    let taken = client.take(SavepointRequest { job_id }).await.map_err(said)?.into_inner();
    println!("{}", taken.path);
    Ok(ExitCode::SUCCESS)
}
