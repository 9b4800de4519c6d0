//! One SDK harness: what was asked of it, what it runs, and how far its connection got.
//!
//! A [`Harness`] is made before the process behind it is started, under an id that is never used again. It goes from
//! `Starting` over `Ready` (its control stream is there) to `Over`, and never back: a process that lost its connection
//! is replaced by another with a new id. Whatever waits on a harness (a bundle, a question) is told when it is over.

mod registry;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferrobeam_proto::fn_execution::instruction_request::Request;
use ferrobeam_proto::fn_execution::{Elements, InstructionRequest, InstructionResponse, WorkerStatusRequest};
use ferrobeam_runner::plan::EnvironmentId;
use tokio::sync::{mpsc, oneshot, watch};

use crate::bundle::Exchange;
use crate::monitoring::ShortIds;
use crate::stage::Stage;

pub(crate) use registry::Harnesses;

/// How many messages to a harness may wait for its data stream to take them; each holds about a mebibyte.
const OUTBOUND_MESSAGES: usize = 4;

/// How many bundles that are over are remembered.
const PAST_BUNDLES: usize = 128;

/// How far a harness got.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// Its control stream is not there yet.
    Starting,
    /// It takes instructions.
    Ready,
    /// Its connection ended, or it said what no harness says; its environment is finding out more.
    Disconnected(Arc<str>),
    /// It is gone, for this reason.
    Over(Arc<str>),
}

/// An SDK harness.
pub(crate) struct Harness {
    pub(crate) id: String,
    pub(crate) environment: EnvironmentId,
    pub(crate) environment_name: String,
    /// It takes small inputs within the control message.
    pub(crate) takes_embedded_elements: bool,
    pub(crate) short_ids: ShortIds,
    /// Bundles that hold a lease of this harness.
    pub(crate) leases: AtomicUsize,
    /// Parts of keyed stages that live here.
    pub(crate) residents: AtomicUsize,
    /// True once a bundle succeeded.
    proven: AtomicBool,
    phase: watch::Sender<Phase>,
    /// Instructions on their way. Unbounded, because each belongs to an open bundle and those are bounded.
    control: Mutex<Option<mpsc::UnboundedSender<InstructionRequest>>>,
    control_outbound: Mutex<Option<mpsc::UnboundedReceiver<InstructionRequest>>>,
    next_instruction: AtomicU64,
    waiting: Mutex<HashMap<String, oneshot::Sender<InstructionResponse>>>,
    bundles: Mutex<HashMap<String, Arc<Exchange>>>,
    /// The stages of the last bundles that are over: what they logged may still be on its way.
    past: Mutex<VecDeque<(String, Arc<Stage>)>>,
    /// The outbound half of its data stream, once there is one.
    data: watch::Sender<Option<mpsc::Sender<Elements>>>,
    status: Mutex<Option<mpsc::Sender<WorkerStatusRequest>>>,
    status_waiting: Mutex<HashMap<String, oneshot::Sender<Result<String, String>>>>,
    streams: watch::Sender<Streams>,
}

/// What is known of the client behind a harness and its streams.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams {
    /// gRPC's user agent on the control stream.
    pub(crate) user_agent: String,
    /// Data and state streams open now.
    pub(crate) work: usize,
    /// Logging streams open now.
    pub(crate) logging: usize,
    /// It had a logging stream at some time.
    pub(crate) logged: bool,
}

/// Which kind of stream opened or ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StreamKind {
    Work,
    Logging,
}

/// What an instruction id in a message refers to.
pub(crate) enum Lookup {
    /// An open bundle.
    Open(Arc<Exchange>),
    /// One that is no longer of interest.
    Finished,
    /// Nothing that this harness was ever asked.
    Unknown,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Harness {
    pub(crate) fn new(
        id: String,
        environment: EnvironmentId,
        environment_name: String,
        takes_embedded_elements: bool,
    ) -> Harness {
        let (control, control_outbound) = mpsc::unbounded_channel();
        Harness {
            id,
            environment,
            environment_name,
            takes_embedded_elements,
            short_ids: ShortIds::default(),
            leases: AtomicUsize::new(0),
            residents: AtomicUsize::new(0),
            proven: AtomicBool::new(false),
            phase: watch::Sender::new(Phase::Starting),
            control: Mutex::new(Some(control)),
            control_outbound: Mutex::new(Some(control_outbound)),
            next_instruction: AtomicU64::new(1),
            waiting: Mutex::default(),
            bundles: Mutex::default(),
            past: Mutex::default(),
            data: watch::Sender::new(None),
            status: Mutex::new(None),
            status_waiting: Mutex::default(),
            streams: watch::Sender::new(Streams::default()),
        }
    }

    // ---- phases ----

    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Waits until the harness is over and says why.
    pub(crate) async fn over(&self) -> Arc<str> {
        let mut phase = self.phase();
        loop {
            if let Phase::Over(reason) = &*phase.borrow_and_update() {
                return reason.clone();
            }
            // The sender lives as long as `self`.
            let _ = phase.changed().await;
        }
    }

    /// Its control stream arrived: the instructions to send on it. `None` if it was taken before or the harness is over.
    pub(crate) fn connect(&self, user_agent: &str) -> Option<mpsc::UnboundedReceiver<InstructionRequest>> {
        let outbound = lock(&self.control_outbound).take()?;
        self.streams.send_modify(|streams| streams.user_agent = user_agent.to_owned());
        let ready = self.phase.send_if_modified(|phase| {
            let starting = matches!(phase, Phase::Starting);
            if starting {
                *phase = Phase::Ready;
            }
            starting
        });
        ready.then_some(outbound)
    }

    /// Its connection broke, or it spoke nonsense: it is not asked anything further.
    pub(crate) fn disconnected(&self, why: impl Into<Arc<str>>) {
        self.phase.send_if_modified(|phase| {
            let alive = matches!(phase, Phase::Starting | Phase::Ready);
            if alive {
                *phase = Phase::Disconnected(why.into());
            }
            alive
        });
    }

    /// It is gone. Everything that waits on it is told.
    pub(crate) fn end(&self, reason: impl Into<Arc<str>>) {
        self.phase.send_if_modified(|phase| {
            let before = !matches!(phase, Phase::Over(_));
            if before {
                *phase = Phase::Over(reason.into());
            }
            before
        });
        self.close();
        lock(&self.control_outbound).take();
        lock(&self.waiting).clear();
        lock(&self.bundles).clear();
        lock(&self.status).take();
        lock(&self.status_waiting).clear();
        self.data.send_replace(None);
    }

    /// Ends the stream of instructions, which asks the harness to shut down in good order.
    pub(crate) fn close(&self) {
        lock(&self.control).take();
    }

    /// A bundle succeeded: the harness works.
    pub(crate) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    // ---- streams ----

    pub(crate) fn streams(&self) -> watch::Receiver<Streams> {
        self.streams.subscribe()
    }

    pub(crate) fn stream_opened(&self, kind: StreamKind) {
        self.streams.send_modify(|streams| match kind {
            StreamKind::Work => streams.work += 1,
            StreamKind::Logging => {
                streams.logging += 1;
                streams.logged = true;
            }
        });
    }

    pub(crate) fn stream_ended(&self, kind: StreamKind) {
        self.streams.send_modify(|streams| match kind {
            StreamKind::Work => streams.work -= 1,
            StreamKind::Logging => streams.logging -= 1,
        });
    }

    /// A data stream arrived: what to send on it. A later stream takes the place of an earlier one, which some SDKs
    /// open anew after an error.
    pub(crate) fn connect_data(&self) -> (mpsc::Sender<Elements>, mpsc::Receiver<Elements>) {
        let (outbound, receiver) = mpsc::channel(OUTBOUND_MESSAGES);
        self.data.send_replace(Some(outbound.clone()));
        (outbound, receiver)
    }

    /// The data stream with this outbound half ended.
    pub(crate) fn data_ended(&self, outbound: &mpsc::Sender<Elements>) {
        self.data.send_if_modified(|data| {
            let current = data.as_ref().is_some_and(|data| data.same_channel(outbound));
            if current {
                *data = None;
            }
            current
        });
    }

    /// The outbound half of the data stream; waits for it. A harness opens the stream when it gets its first bundle.
    pub(crate) async fn data(&self) -> mpsc::Sender<Elements> {
        let mut data = self.data.subscribe();
        loop {
            if let Some(outbound) = &*data.borrow_and_update() {
                return outbound.clone();
            }
            // The sender lives as long as `self`.
            let _ = data.changed().await;
        }
    }

    // ---- instructions ----

    /// Takes an id for an instruction to come.
    pub(crate) fn next_instruction(&self) -> String {
        format!("{}:{}", self.id, self.next_instruction.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends an instruction. The receiver is told when the response is there, or dropped when the harness is over.
    pub(crate) fn instruct(&self, instruction_id: String, request: Request) -> oneshot::Receiver<InstructionResponse> {
        let (tell, response) = oneshot::channel();
        lock(&self.waiting).insert(instruction_id.clone(), tell);
        let sent = match &*lock(&self.control) {
            Some(control) => control
                .send(InstructionRequest { instruction_id: instruction_id.clone(), request: Some(request) })
                .is_ok(),
            None => false,
        };
        if !sent {
            lock(&self.waiting).remove(&instruction_id);
        }
        response
    }

    /// Sends an instruction and waits for its response.
    pub(crate) async fn ask(&self, request: Request) -> Result<InstructionResponse, String> {
        let response = self.instruct(self.next_instruction(), request);
        match response.await {
            Ok(response) => Ok(response),
            Err(_) => Err(self.over().await.to_string()),
        }
    }

    /// A response came. False if nothing was asked under its id.
    pub(crate) fn respond(&self, response: InstructionResponse) -> bool {
        match lock(&self.waiting).remove(&response.instruction_id) {
            Some(tell) => {
                // Whoever asked may have stopped waiting.
                let _ = tell.send(response);
                true
            }
            None => false,
        }
    }

    // ---- bundles ----

    /// Routes data and state requests of `instruction` to `exchange` until [`Harness::forget`].
    pub(crate) fn open(&self, instruction: String, exchange: Arc<Exchange>) {
        lock(&self.bundles).insert(instruction, exchange);
    }

    pub(crate) fn forget(&self, instruction: &str) {
        let Some((instruction, exchange)) = lock(&self.bundles).remove_entry(instruction) else { return };
        let mut past = lock(&self.past);
        if past.len() == PAST_BUNDLES {
            past.pop_front();
        }
        past.push_back((instruction, exchange.stage.clone()));
    }

    /// The stage that an instruction runs or lately ran.
    pub(crate) fn stage_of(&self, instruction: &str) -> Option<Arc<Stage>> {
        if let Some(exchange) = lock(&self.bundles).get(instruction) {
            return Some(exchange.stage.clone());
        }
        let past = lock(&self.past);
        past.iter().rev().find(|(known, _)| known == instruction).map(|(_, stage)| stage.clone())
    }

    pub(crate) fn lookup(&self, instruction: &str) -> Lookup {
        if let Some(exchange) = lock(&self.bundles).get(instruction) {
            return Lookup::Open(exchange.clone());
        }
        let number = instruction.rsplit_once(':').filter(|(harness, _)| *harness == self.id);
        match number.and_then(|(_, number)| number.parse::<u64>().ok()) {
            Some(number) if (1..self.next_instruction.load(Ordering::Relaxed)).contains(&number) => Lookup::Finished,
            _ => Lookup::Unknown,
        }
    }

    /// The open bundles with their instruction ids.
    pub(crate) fn open_bundles(&self) -> Vec<(String, Arc<Exchange>)> {
        lock(&self.bundles).iter().map(|(instruction, exchange)| (instruction.clone(), exchange.clone())).collect()
    }

    // ---- worker status ----

    /// A status stream arrived: what to ask on it.
    pub(crate) fn connect_status(&self) -> mpsc::Receiver<WorkerStatusRequest> {
        let (outbound, receiver) = mpsc::channel(1);
        *lock(&self.status) = Some(outbound);
        receiver
    }

    pub(crate) fn status_ended(&self) {
        lock(&self.status).take();
        lock(&self.status_waiting).clear();
    }

    pub(crate) fn status_came(&self, id: &str, status: Result<String, String>) {
        if let Some(tell) = lock(&self.status_waiting).remove(id) {
            let _ = tell.send(status);
        }
    }

    /// Asks what the harness does now.
    pub(crate) async fn status(&self) -> Result<String, String> {
        let outbound = lock(&self.status).clone();
        let Some(outbound) = outbound else { return Err(format!("{self} has no status stream")) };
        let id = self.next_instruction();
        let (tell, status) = oneshot::channel();
        lock(&self.status_waiting).insert(id.clone(), tell);
        if outbound.send(WorkerStatusRequest { id: id.clone() }).await.is_err() {
            lock(&self.status_waiting).remove(&id);
        }
        status.await.unwrap_or_else(|_| Err(format!("{self} ended its status stream")))
    }
}

impl fmt::Display for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SDK harness {} of environment {}", self.id, self.environment_name)
    }
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Harness({}, {:?})", self.id, self.phase.borrow())
    }
}
