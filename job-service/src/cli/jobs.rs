//! `ferrobeam jobs`, `cancel` and `logs`.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use ferrobeam_proto::job::job_message::MessageImportance;
use ferrobeam_proto::job::job_messages_response::Response;
use ferrobeam_proto::job::job_state::Enum as JobState;
use ferrobeam_proto::job::{CancelJobRequest, GetJobStateRequest, JobInfo, JobMessagesRequest};
use serde::Serialize;
use tokio_stream::StreamExt;

use super::args::{CancelArgs, JobsArgs, LogsArgs};
use super::client::{connect, find, is_terminal, jobs, said, state_name};

/// A job as `jobs --json` prints it.
#[derive(Debug, Serialize)]
struct Listed {
    id: String,
    name: String,
    state: &'static str,
}

pub(super) async fn list(args: JobsArgs) -> anyhow::Result<ExitCode> {
    let listed: Vec<Listed> =
        jobs(&mut connect(&args.service.endpoint).await?).await?.into_iter().map(listed).collect();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&listed)?);
    } else {
        let width = listed.iter().map(|job| job.id.len()).max().unwrap_or(0).max("JOB".len());
        println!("{:width$}  {:10}  NAME", "JOB", "STATE");
        for job in listed {
            println!("{:width$}  {:10}  {}", job.id, job.state, job.name);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn listed(job: JobInfo) -> Listed {
    Listed { id: job.job_id, name: job.job_name, state: state_name(job.state) }
}

pub(super) async fn cancel(args: CancelArgs) -> anyhow::Result<ExitCode> {
    let mut client = connect(&args.service.endpoint).await?;
    let job_id = find(&mut client, &args.job).await?;
    let answer = client.cancel(CancelJobRequest { job_id: job_id.clone() }).await.map_err(said)?;
    let mut state = answer.into_inner().state;
    if !args.no_wait && !is_terminal(state) {
        let request = GetJobStateRequest { job_id: job_id.clone() };
        let mut states = client.get_state_stream(request).await.map_err(said)?.into_inner();
        while let Some(event) = states.next().await {
            state = event.map_err(said)?.state;
        }
    }
    println!("{job_id} {}", state_name(state));
    Ok(ExitCode::SUCCESS)
}

/// Ends with success for a job that did.
pub(super) async fn logs(args: LogsArgs) -> anyhow::Result<ExitCode> {
    let mut client = connect(&args.service.endpoint).await?;
    let job_id = find(&mut client, &args.job).await?;
    let mut events = client.get_message_stream(JobMessagesRequest { job_id }).await.map_err(said)?.into_inner();
    let mut code = ExitCode::SUCCESS;
    while let Some(event) = events.next().await {
        match event.map_err(said)?.response {
            Some(Response::MessageResponse(message)) => {
                let label = match message.importance() {
                    MessageImportance::JobMessageDebug if !args.verbose => continue,
                    MessageImportance::JobMessageDetailed if !args.verbose => continue,
                    MessageImportance::JobMessageDebug => "debug ",
                    MessageImportance::JobMessageWarning => "warning ",
                    MessageImportance::JobMessageError => "error ",
                    _ => "",
                };
                println!("{} {label}{}", message.time, message.message_text);
            }
            Some(Response::StateResponse(state)) => {
                println!("{}", state_name(state.state));
                if matches!(state.state(), JobState::Failed | JobState::Cancelled) {
                    code = ExitCode::FAILURE;
                }
            }
            None => {}
        }
    }
    Ok(code)
}
