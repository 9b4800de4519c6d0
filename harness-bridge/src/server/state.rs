//! `BeamFnState`: what user code reads besides its input.
//!
//! Requests of one stream are answered as they get ready, not in order: SDKs match responses by id. Most are answered
//! from memory in microseconds, right where they arrive; once an answer took long, the next ones go to threads that
//! may block, until they are quick again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferrobeam_proto::fn_execution::beam_fn_state_server::BeamFnState;
use ferrobeam_proto::fn_execution::state_request::Request as Asked;
use ferrobeam_proto::fn_execution::state_response::Response as Answer;
use ferrobeam_proto::fn_execution::{
    StateAppendResponse, StateClearResponse, StateGetResponse, StateRequest, StateResponse,
};
use ferrobeam_runner::executor::StateError;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Outbound;
use crate::bundle::Exchange;
use crate::harness::{Harness, Lookup, StreamKind};
use crate::shared::Shared;
use crate::state_key;

/// An answer that took longer sends the next requests to blocking threads.
const QUICK: Duration = Duration::from_micros(300);
/// Requests of one stream that are answered at once; further ones wait in the stream.
const CONCURRENT: usize = 16;

pub(super) struct State {
    shared: Arc<Shared>,
}

impl State {
    pub(super) fn new(shared: Arc<Shared>) -> State {
        State { shared }
    }
}

#[tonic::async_trait]
impl BeamFnState for State {
    type StateStream = Outbound<StateResponse>;

    async fn state(&self, request: Request<Streaming<StateRequest>>) -> Result<Response<Self::StateStream>, Status> {
        let harness = self.shared.harnesses.caller(request.metadata())?;
        let (answers, outbound) = mpsc::channel(CONCURRENT);
        let inbound = request.into_inner();
        let shared = self.shared.clone();
        self.shared.tasks.spawn(async move {
            harness.stream_opened(StreamKind::Work);
            let why = read(&shared, &harness, inbound, answers).await;
            harness.stream_ended(StreamKind::Work);
            if !harness.open_bundles().is_empty() {
                harness.disconnected(why);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outbound).map(Ok))))
    }
}

async fn read(
    shared: &Shared,
    harness: &Arc<Harness>,
    mut inbound: Streaming<StateRequest>,
    answers: mpsc::Sender<StateResponse>,
) -> String {
    let slow = Arc::new(AtomicBool::new(false));
    let permits = Arc::new(Semaphore::new(CONCURRENT));
    loop {
        let request = match inbound.message().await {
            Ok(Some(request)) => request,
            Ok(None) => return "it ended its state stream while bundles ran".into(),
            Err(status) => return format!("its state stream broke: {}", status.message()),
        };
        let exchange = match harness.lookup(&request.instruction_id) {
            Lookup::Open(exchange) => exchange,
            Lookup::Finished => {
                let error = format!("bundle {} is not open any more", request.instruction_id);
                let answer = StateResponse { id: request.id, error, response: None };
                if answers.send(answer).await.is_err() {
                    return "it stopped reading its state stream while bundles ran".into();
                }
                continue;
            }
            Lookup::Unknown => {
                let why = format!("it asked for state of an instruction {:?} it was not given", request.instruction_id);
                harness.disconnected(why.as_str());
                return why;
            }
        };
        if !slow.load(Ordering::Relaxed) {
            let answer = timed(&exchange, request, &slow);
            if answers.send(answer).await.is_err() {
                return "it stopped reading its state stream while bundles ran".into();
            }
            continue;
        }
        let Ok(permit) = permits.clone().acquire_owned().await else { return "its state stream was closed".into() };
        let (answers, slow) = (answers.clone(), slow.clone());
        let id = request.id.clone();
        shared.tasks.spawn(async move {
            let answered = spawn_blocking(move || timed(&exchange, request, &slow)).await;
            let answer = answered.unwrap_or_else(|error| StateResponse {
                id,
                error: format!("the runner failed to answer: {error}"),
                response: None,
            });
            // If nobody reads any more, the stream's end has been or will be noticed.
            let _ = answers.send(answer).await;
            drop(permit);
        });
    }
}

fn timed(exchange: &Exchange, request: StateRequest, slow: &AtomicBool) -> StateResponse {
    let start = Instant::now();
    let id = request.id.clone();
    let answer = match answer(exchange, request) {
        Ok(answer) => StateResponse { id, error: String::new(), response: Some(answer) },
        Err(error) => {
            let response = StateResponse { id, error: error.to_string(), response: None };
            exchange.state_failed(error);
            response
        }
    };
    slow.store(start.elapsed() > QUICK, Ordering::Relaxed);
    answer
}

fn answer(exchange: &Exchange, request: StateRequest) -> Result<Answer, StateError> {
    let key = state_key::from_proto(request.state_key)?;
    match request.request {
        Some(Asked::Get(get)) => {
            let page = exchange.state.get(&key, &get.continuation_token)?;
            Ok(Answer::Get(StateGetResponse { continuation_token: page.continuation, data: page.data }))
        }
        Some(Asked::Append(append)) => {
            let data: Bytes = append.data;
            exchange.state.append(&key, data)?;
            Ok(Answer::Append(StateAppendResponse {}))
        }
        Some(Asked::Clear(_)) => {
            exchange.state.clear(&key)?;
            Ok(Answer::Clear(StateClearResponse {}))
        }
        None => Err(StateError::Unsupported("a state request of a kind that this runner does not know".into())),
    }
}
