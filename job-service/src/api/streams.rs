//! Streams that replay a job's log from its start and follow it to its end.

use std::sync::Arc;

use ferrobeam_proto::job::{JobMessagesResponse, JobStateEvent};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::convert;
use crate::job::{Event, Job};

/// What a client that reads slowly may have waiting for it; the rest stays in the log.
const AHEAD: usize = 64;

pub(super) type Replies<T> = ReceiverStream<Result<T, Status>>;

/// Every state of the job, and then the end.
pub(super) fn states(job: Arc<Job>) -> Replies<JobStateEvent> {
    follow(job, |_, _, event| match event {
        Event::State(state, time) => vec![convert::state_event(state, time)],
        Event::Message(_) => vec![],
    })
}

/// Every state of and message about the job, and then the end.
pub(super) fn messages(job: Arc<Job>) -> Replies<JobMessagesResponse> {
    follow(job, |expected, number, event| {
        let missing = number - expected;
        let gap = (missing > 0).then(|| convert::gap(expected, missing));
        gap.into_iter().chain([convert::event(number, event)]).collect()
    })
}

/// Ends with the final state: nothing is said about a job after it.
fn follow<T: Send + 'static>(job: Arc<Job>, reply: fn(u64, u64, Event) -> Vec<T>) -> Replies<T> {
    let (replies, stream) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let mut changes = job.changes();
        let mut from = 0;
        loop {
            changes.mark_unchanged();
            let page = job.read(from, AHEAD);
            if page.events.is_empty() {
                tokio::select! {
                    // The job outlives this task, which holds it.
                    _ = changes.changed() => continue,
                    () = replies.closed() => return,
                }
            }
            for (number, event) in page.events {
                let last = matches!(event, Event::State(state, _) if state.is_terminal());
                for reply in reply(from, number, event) {
                    if replies.send(Ok(reply)).await.is_err() {
                        return;
                    }
                }
                if last {
                    return;
                }
                from = number + 1;
            }
        }
    });
    ReceiverStream::new(stream)
}
