//! `BeamFnLogging`: what harnesses log.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ferrobeam_proto::fn_execution::beam_fn_logging_server::BeamFnLogging;
use ferrobeam_proto::fn_execution::log_entry::List;
use ferrobeam_proto::fn_execution::log_entry::severity::Enum;
use ferrobeam_proto::fn_execution::{LogControl, LogEntry};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Outbound;
use crate::harness::{Harness, StreamKind};
use crate::log::{HarnessLog, Severity};
use crate::shared::Shared;

pub(super) struct Logging {
    shared: Arc<Shared>,
}

impl Logging {
    pub(super) fn new(shared: Arc<Shared>) -> Logging {
        Logging { shared }
    }
}

#[tonic::async_trait]
impl BeamFnLogging for Logging {
    type LoggingStream = Outbound<LogControl>;

    async fn logging(&self, request: Request<Streaming<List>>) -> Result<Response<Self::LoggingStream>, Status> {
        let harness = self.shared.harnesses.caller(request.metadata())?;
        // Nothing is ever sent; the stream ends when the harness's does.
        let (open, control) = mpsc::channel(1);
        let mut lists = request.into_inner();
        let shared = self.shared.clone();
        self.shared.tasks.spawn(async move {
            harness.stream_opened(StreamKind::Logging);
            while let Ok(Some(list)) = lists.message().await {
                for entry in list.log_entries.into_iter().filter(|entry| !is_echo(&entry.message)) {
                    shared.config.logs.log(from_proto(entry, &harness));
                }
            }
            drop(open);
            harness.stream_ended(StreamKind::Logging);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(control).map(Ok))))
    }
}

/// Whether a harness within a client of Go's SDK (LOOPBACK) logs what the client was told as a message of the job. Made
/// another message of the job it would come again, and longer each time, for as long as the job runs.
fn is_echo(message: &str) -> bool {
    let Some((time, rest)) = message.strip_prefix("(time=").and_then(|rest| rest.split_once(")(id=")) else {
        return false;
    };
    let id = rest.split_once(')').map_or("", |(id, _)| id);
    !time.contains(')') && !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())
}

/// The instruction that an SDK says to have failed, with the whole trace. The answer to the instruction says the same, and
/// becomes the reason that its bundle is run again or that the job failed.
fn failed_instruction(message: &str) -> Option<&str> {
    const OPENINGS: [&str; 3] = [
        // Python's, Java's, Go's.
        "Error processing instruction ",
        "Exception while trying to handle InstructionRequest ",
        "process bundle failed for instruction ",
    ];
    let rest = OPENINGS.iter().find_map(|opening| message.strip_prefix(opening))?;
    let id = rest.split_whitespace().next()?;
    Some(id.strip_suffix('.').unwrap_or(id))
}

fn from_proto(entry: LogEntry, harness: &Harness) -> HarnessLog {
    let is_of_bundle = |instruction: &str| harness.stage_of(instruction).is_some();
    let severity = match entry.severity() {
        // Said once is enough: this one is for debugging.
        Enum::Error if failed_instruction(&entry.message).is_some_and(is_of_bundle) => Severity::Debug,
        Enum::Unspecified | Enum::Info => Severity::Info,
        Enum::Trace => Severity::Trace,
        Enum::Debug => Severity::Debug,
        Enum::Notice => Severity::Notice,
        Enum::Warn => Severity::Warn,
        Enum::Error => Severity::Error,
        Enum::Critical => Severity::Critical,
    };
    let time = entry.timestamp.and_then(time_from_proto).unwrap_or_else(SystemTime::now);
    let (mut stage, mut transform_name) = (String::new(), String::new());
    if let Some(known) = harness.stage_of(&entry.instruction_id) {
        stage.clone_from(&known.name);
        transform_name = known.transform_name(&entry.transform_id).unwrap_or_default().to_owned();
    }
    HarnessLog {
        severity,
        time,
        message: entry.message,
        trace: entry.trace,
        transform: entry.transform_id,
        transform_name,
        instruction: entry.instruction_id,
        stage,
        location: entry.log_location,
        thread: entry.thread,
        harness: harness.id.clone(),
        environment: harness.environment_name.clone(),
    }
}

/// `None` for a time that no clock shows.
fn time_from_proto(time: prost_types::Timestamp) -> Option<SystemTime> {
    let since = Duration::new(u64::try_from(time.seconds).ok()?, u32::try_from(time.nanos).ok()?.min(999_999_999));
    SystemTime::UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sdks_say_of_a_failed_instruction_is_known() {
        for (message, expected) in [
            ("Error processing instruction 1:7. Original traceback is\nTraceback", Some("1:7")),
            ("Exception while trying to handle InstructionRequest 1:7", Some("1:7")),
            ("process bundle failed for instruction 1:7 using plan 3 : boom", Some("1:7")),
            ("Error processing instruction ", None),
            ("an error of the user's", None),
        ] {
            assert_eq!(failed_instruction(message), expected, "{message}");
        }
    }

    #[test]
    fn what_a_go_client_says_of_a_message_is_no_message() {
        assert!(is_echo("(time=2026-01-02T03:04:05.678Z)(id=9)[5859e8002417-1] closed"));
        for message in ["", "(time=now)", "(time=1)(id=)x", "(time=1)(id=a)", "said (time=1)(id=2)"] {
            assert!(!is_echo(message), "{message}");
        }
    }
}
