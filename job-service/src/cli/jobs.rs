//! `ferrobeam jobs`, `cancel`, `drain` and `logs`.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;

use ferrobeam_proto::job::job_message::MessageImportance;
use ferrobeam_proto::job::job_messages_response::Response;
use ferrobeam_proto::job::job_state::Enum as JobState;
use ferrobeam_proto::job::{CancelJobRequest, DrainJobRequest, JobInfo, JobMessagesRequest};
use serde::Serialize;
use tokio_stream::StreamExt;

use super::args::{EndArgs, JobsArgs, LogsArgs};
use super::client::{JobClient, connect, find, jobs, said, state_name};

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

pub(super) async fn cancel(args: EndArgs) -> anyhow::Result<ExitCode> {
    let mut client = connect(&args.service.endpoint).await?;
    let job_id = find(&mut client, &args.job).await?;
    let answer = client.cancel(CancelJobRequest { job_id: job_id.clone() }).await.map_err(said)?;
    ending(&mut client, &args, job_id, answer.into_inner().state).await?;
    Ok(ExitCode::SUCCESS)
}

/// Ends with success for a job that finished what it had, as far as is known when the command returns.
pub(super) async fn drain(args: EndArgs) -> anyhow::Result<ExitCode> {
    let mut client = connect(&args.service.endpoint).await?;
    let job_id = find(&mut client, &args.job).await?;
    let answer = client.drain(DrainJobRequest { job_id: job_id.clone() }).await.map_err(said)?;
    let state = ending(&mut client, &args, job_id, answer.into_inner().state).await?;
    let finishes = matches!(JobState::try_from(state), Ok(JobState::Draining | JobState::Drained | JobState::Done));
    Ok(if finishes { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits for the end of a job that was asked to end, if that is wanted, and prints its state. What the job says meanwhile goes
/// to standard error: it may not come to its end.
async fn ending(client: &mut JobClient, args: &EndArgs, job_id: String, mut state: i32) -> anyhow::Result<i32> {
    if !args.no_wait {
        // Also where the answer was its end: the job may have said something between the two.
        let request = JobMessagesRequest { job_id: job_id.clone() };
        let mut events = client.get_message_stream(request).await.map_err(said)?.into_inner();
        let mut ends = false;
        while let Some(event) = events.next().await {
            match event.map_err(said)?.response {
                Some(Response::StateResponse(event)) => {
                    state = event.state;
                    ends |= matches!(event.state(), JobState::Cancelling | JobState::Draining);
                }
                Some(Response::MessageResponse(message)) if ends => {
                    if let Some(label) = label(message.importance(), false) {
                        eprintln!("{} {label}{}", message.time, message.message_text);
                    }
                }
                Some(Response::MessageResponse(_)) | None => {}
            }
        }
    }
    println!("{job_id} {}", state_name(state));
    Ok(state)
}

/// What stands before a message of such an importance; `None` where it is not shown.
fn label(importance: MessageImportance, verbose: bool) -> Option<&'static str> {
    match importance {
        MessageImportance::JobMessageDebug | MessageImportance::JobMessageDetailed if !verbose => None,
        MessageImportance::JobMessageDebug => Some("debug "),
        MessageImportance::JobMessageWarning => Some("warning "),
        MessageImportance::JobMessageError => Some("error "),
        _ => Some(""),
    }
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
                if let Some(label) = label(message.importance(), args.verbose) {
                    println!("{} {label}{}", message.time, message.message_text);
                }
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
