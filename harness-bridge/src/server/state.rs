//! `BeamFnState`: what user code reads besides its input.
//!
//! The requests of a bundle are carried out in the order in which they came, because SDKs do not wait for the response
//! to a `clear` before they send the `append` that goes with it. Bundles do not wait for each other. Most requests take
//! microseconds and are answered right where they arrive; once one took long, the next ones go to threads that may
//! block, one for each bundle, until they are quick again.
//!
//! One kind of request takes a bundle of the same harness to answer: entries of a multimap whose values only that can
//! count. It and what waits behind it take none of the permits that bound the waiting requests of a stream, or those of
//! that other bundle would never be read; the SDK waits for the answer itself before it asks for much more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferrobeam_proto::fn_execution::beam_fn_state_server::BeamFnState;
use ferrobeam_proto::fn_execution::state_key::Type;
use ferrobeam_proto::fn_execution::state_request::Request as Asked;
use ferrobeam_proto::fn_execution::state_response::Response as Answer;
use ferrobeam_proto::fn_execution::{
    StateAppendResponse, StateClearResponse, StateGetResponse, StateKey, StateRequest, StateResponse,
};
use ferrobeam_runner::executor::{Fault, StateError};
use ferrobeam_runner::plan::StageId;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Outbound;
use crate::bundle::{Exchange, Failure, count_entries};
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
    shared: &Arc<Shared>,
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
        let counted_by = counted_by(&exchange, &request);
        // While earlier requests of the bundle wait for a thread, this one waits behind them.
        let quick = !slow.load(Ordering::Relaxed) && counted_by.is_none() && exchange.requests.is_idle();
        if quick || exchange.at_once {
            let answer = timed(&exchange, &slow, request.id, || answer(&exchange, request.state_key, request.request));
            if answers.send(answer).await.is_err() {
                return "it stopped reading its state stream while bundles ran".into();
            }
            continue;
        }
        if counted_by.is_some() {
            exchange.needing_harness.fetch_add(1, Ordering::Relaxed);
        }
        let permit = if exchange.needing_harness.load(Ordering::Relaxed) > 0 {
            None
        } else {
            let Ok(permit) = permits.clone().acquire_owned().await else { return "its state stream was closed".into() };
            Some(permit)
        };
        if exchange.requests.add((request, permit)) {
            let (shared, harness) = (shared.clone(), harness.clone());
            let (answers, slow) = (answers.clone(), slow.clone());
            let tasks = shared.clone();
            tasks.tasks.spawn(async move {
                // A failure to run means a panic, and the bundle then waits for an answer: it must not wait for ever.
                let waiting = exchange.clone();
                let answering = move || answer_all(&shared, &harness, &exchange, &answers, &slow);
                if let Err(error) = spawn_blocking(answering).await {
                    let message = format!("the runner failed to answer a state request: {error}");
                    waiting.fail(Failure { fault: Fault::Runner, message });
                }
            });
        }
    }
}

/// Answers what waits in the bundle's queue until it is empty. Blocks.
fn answer_all(
    shared: &Shared,
    harness: &Arc<Harness>,
    exchange: &Exchange,
    answers: &mpsc::Sender<StateResponse>,
    slow: &AtomicBool,
) {
    while let Some((request, permit)) = exchange.requests.next() {
        let counted_by = counted_by(exchange, &request);
        let StateRequest { id, state_key, request, .. } = request;
        let answer = timed(exchange, slow, id, || match (counted_by, request) {
            (Some(stage), Some(Asked::Get(get))) => {
                let key = state_key::from_proto(state_key)?;
                let page = exchange.state.uncounted(&key, &get.continuation_token)?;
                let Some(stage) = shared.stage(stage) else {
                    return Err(StateError::Unsupported(format!("the plan has no stage {}", stage.0)));
                };
                let page = Handle::current().block_on(count_entries(shared, harness, &stage, page))?;
                Ok(Answer::Get(StateGetResponse { continuation_token: page.continuation, data: page.data }))
            }
            (_, request) => answer(exchange, state_key, request),
        });
        if counted_by.is_some() {
            exchange.needing_harness.fetch_sub(1, Ordering::Relaxed);
        }
        // If nobody reads any more, the stream's end has been or will be noticed.
        let _ = answers.blocking_send(answer);
        drop(permit);
    }
}

/// The stage that has a part in the answer, if the request is for the entries of a multimap that only the harness can
/// count.
fn counted_by(exchange: &Exchange, request: &StateRequest) -> Option<StageId> {
    let (Some(Type::MultimapEntriesUserState(key)), Some(Asked::Get(_))) =
        (request.state_key.as_ref().and_then(|key| key.r#type.as_ref()), &request.request)
    else {
        return None;
    };
    exchange.stage.counted_by(&key.transform_id, &key.user_state_id)
}

fn timed(
    exchange: &Exchange,
    slow: &AtomicBool,
    id: String,
    answer: impl FnOnce() -> Result<Answer, StateError>,
) -> StateResponse {
    let start = Instant::now();
    let answer = match answer() {
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

fn answer(exchange: &Exchange, key: Option<StateKey>, asked: Option<Asked>) -> Result<Answer, StateError> {
    let key = state_key::from_proto(key)?;
    match asked {
        Some(Asked::Get(get)) => {
            let page = exchange.state.get(&key, &get.continuation_token)?;
            if !page.continuation.is_empty() {
                exchange.cache().page_read(&key);
            }
            Ok(Answer::Get(StateGetResponse { continuation_token: page.continuation, data: page.data }))
        }
        Some(Asked::Append(append)) => {
            let data: Bytes = append.data;
            exchange.cache().appended(&key);
            exchange.state.append(&key, data)?;
            Ok(Answer::Append(StateAppendResponse {}))
        }
        Some(Asked::Clear(_)) => {
            let key = state_key::cleared(key);
            exchange.cache().cleared(&key);
            exchange.state.clear(&key)?;
            Ok(Answer::Clear(StateClearResponse {}))
        }
        None => Err(StateError::Unsupported("a state request of a kind that this runner does not know".into())),
    }
}
