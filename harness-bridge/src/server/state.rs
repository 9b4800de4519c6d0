//! `BeamFnState`: what user code reads besides its input.
//!
//! The requests of a bundle are carried out in the order in which they came, because SDKs do not wait for the response
//! to a `clear` before they send the `append` that goes with it. Bundles do not wait for each other. Most requests take
//! microseconds and are answered right where they arrive; once one took long, the next ones go to threads that may
//! block, one for each bundle, until they are quick again.

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
use ferrobeam_runner::executor::{Fault, StateError};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Outbound;
use crate::bundle::{Exchange, Failure};
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
        // While earlier requests of the bundle wait for a thread, this one waits behind them.
        if !slow.load(Ordering::Relaxed) && exchange.requests.is_idle() {
            let answer = timed(&exchange, request, &slow);
            if answers.send(answer).await.is_err() {
                return "it stopped reading its state stream while bundles ran".into();
            }
            continue;
        }
        let Ok(permit) = permits.clone().acquire_owned().await else { return "its state stream was closed".into() };
        if exchange.requests.add((request, permit)) {
            let (answers, slow) = (answers.clone(), slow.clone());
            shared.tasks.spawn(async move {
                // A failure to run means a panic, and the bundle then waits for an answer: it must not wait for ever.
                let waiting = exchange.clone();
                if let Err(error) = spawn_blocking(move || answer_all(&exchange, &answers, &slow)).await {
                    let message = format!("the runner failed to answer a state request: {error}");
                    waiting.fail(Failure { fault: Fault::Runner, message });
                }
            });
        }
    }
}

/// Answers what waits in the bundle's queue until it is empty. Blocks.
fn answer_all(exchange: &Exchange, answers: &mpsc::Sender<StateResponse>, slow: &AtomicBool) {
    while let Some((request, permit)) = exchange.requests.next() {
        let answer = timed(exchange, request, slow);
        // If nobody reads any more, the stream's end has been or will be noticed.
        let _ = answers.blocking_send(answer);
        drop(permit);
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
            exchange.state.clear(&state_key::cleared(key))?;
            Ok(Answer::Clear(StateClearResponse {}))
        }
        None => Err(StateError::Unsupported("a state request of a kind that this runner does not know".into())),
    }
}
