//! The harness, its pool, and the bridge that they belong to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrobeam_harness_bridge::Bridge;
use ferrobeam_proto::fn_execution::beam_fn_control_client::BeamFnControlClient;
use ferrobeam_proto::fn_execution::beam_fn_data_client::BeamFnDataClient;
use ferrobeam_proto::fn_execution::beam_fn_external_worker_pool_server::{
    BeamFnExternalWorkerPool, BeamFnExternalWorkerPoolServer,
};
use ferrobeam_proto::fn_execution::beam_fn_state_client::BeamFnStateClient;
use ferrobeam_proto::fn_execution::elements::{Data, Timers};
use ferrobeam_proto::fn_execution::instruction_request::Request as Instruction;
use ferrobeam_proto::fn_execution::instruction_response::Response as Answer;
use ferrobeam_proto::fn_execution::{
    Elements, InstructionRequest, InstructionResponse, ProcessBundleDescriptor, ProcessBundleRequest,
    ProcessBundleResponse, RemoteGrpcPort, StartWorkerRequest, StartWorkerResponse, StateKey, StateRequest,
    StateResponse, StopWorkerRequest, StopWorkerResponse, state_request,
};
use ferrobeam_proto::pipeline::{Environment, FunctionSpec, PTransform};
use ferrobeam_proto::urns::fn_api_transforms::{DATA_SINK, DATA_SOURCE};
use ferrobeam_runner::plan::Plan;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::support::*;

/// A worker pool that passes on what it is asked to start.
struct Pool {
    starts: mpsc::Sender<StartWorkerRequest>,
    refusal: String,
}

#[tonic::async_trait]
impl BeamFnExternalWorkerPool for Pool {
    async fn start_worker(
        &self,
        request: Request<StartWorkerRequest>,
    ) -> Result<Response<StartWorkerResponse>, Status> {
        self.starts.send(request.into_inner()).await.unwrap();
        Ok(Response::new(StartWorkerResponse { error: self.refusal.clone() }))
    }

    async fn stop_worker(&self, _: Request<StopWorkerRequest>) -> Result<Response<StopWorkerResponse>, Status> {
        Ok(Response::new(StopWorkerResponse::default()))
    }
}

pub(crate) async fn pool(refusal: &str) -> (String, mpsc::Receiver<StartWorkerRequest>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (starts, started) = mpsc::channel(16);
    let service = BeamFnExternalWorkerPoolServer::new(Pool { starts, refusal: refusal.into() });
    let serving = tokio::spawn(async move {
        Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
    });
    (address, started, serving)
}

/// A harness under the test's control.
pub(crate) struct Fake {
    pub(crate) channel: Channel,
    pub(crate) worker_id: String,
    instructions: Streaming<InstructionRequest>,
    pub(crate) responses: mpsc::Sender<InstructionResponse>,
}

impl Fake {
    pub(crate) async fn start(started: &mut mpsc::Receiver<StartWorkerRequest>) -> Fake {
        let start = started.recv().await.unwrap();
        let channel = connect(&start).await;
        let (responses, stream) = mpsc::channel(16);
        let request = with_id(&start.worker_id, ReceiverStream::new(stream));
        let instructions = BeamFnControlClient::new(channel.clone()).control(request).await.unwrap().into_inner();
        Fake { channel, worker_id: start.worker_id, instructions, responses }
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        with_id(&self.worker_id, message)
    }

    pub(crate) async fn instruction(&mut self) -> (String, Instruction) {
        let instruction = self.instructions.message().await.unwrap().expect("the bridge has more to say");
        (instruction.instruction_id, instruction.request.unwrap())
    }

    pub(crate) async fn bundle(&mut self) -> (String, ProcessBundleRequest) {
        match self.instruction().await {
            (id, Instruction::ProcessBundle(bundle)) => (id, bundle),
            other => panic!("{other:?} instead of a bundle"),
        }
    }

    pub(crate) async fn data(&self) -> (mpsc::Sender<Elements>, Streaming<Elements>) {
        let (outputs, stream) = mpsc::channel(16);
        let request = self.request(ReceiverStream::new(stream));
        let inputs = BeamFnDataClient::new(self.channel.clone()).data(request).await.unwrap().into_inner();
        (outputs, inputs)
    }

    pub(crate) async fn state(&self) -> (mpsc::Sender<StateRequest>, Streaming<StateResponse>) {
        let (requests, stream) = mpsc::channel(16);
        let request = self.request(ReceiverStream::new(stream));
        (requests, BeamFnStateClient::new(self.channel.clone()).state(request).await.unwrap().into_inner())
    }

    pub(crate) async fn answer(&self, id: &str, answer: Answer) {
        let response = InstructionResponse { instruction_id: id.into(), error: String::new(), response: Some(answer) };
        self.responses.send(response).await.unwrap();
    }

    /// Asks for state and waits for the answer.
    pub(crate) async fn ask_state(
        (requests, answers): &mut (mpsc::Sender<StateRequest>, Streaming<StateResponse>),
        instruction: &str,
        key: Option<StateKey>,
        request: state_request::Request,
    ) -> StateResponse {
        let (instruction_id, request) = (instruction.to_owned(), Some(request));
        requests.send(StateRequest { id: "1".into(), instruction_id, state_key: key, request }).await.unwrap();
        answers.message().await.unwrap().unwrap()
    }

    pub(crate) async fn done(&self, id: &str) {
        self.answer(id, Answer::ProcessBundle(ProcessBundleResponse::default())).await;
    }
}

pub(crate) async fn connect(start: &StartWorkerRequest) -> Channel {
    let url = &start.control_endpoint.as_ref().unwrap().url;
    Channel::from_shared(format!("http://{url}")).unwrap().connect().await.unwrap()
}

pub(crate) fn with_id<T>(worker_id: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("worker_id", MetadataValue::try_from(worker_id).unwrap());
    request
}

pub(crate) fn output(id: &str, transform: &str, data: Vec<u8>, is_last: bool) -> Elements {
    let data = Data { instruction_id: id.into(), transform_id: transform.into(), data: Bytes::from(data), is_last };
    Elements { data: vec![data], timers: vec![] }
}

pub(crate) fn timers(id: &str, family: &str, timers: &[u8], is_last: bool) -> Timers {
    Timers {
        instruction_id: id.into(),
        transform_id: "step".into(),
        timer_family_id: family.into(),
        timers: Bytes::copy_from_slice(timers),
        is_last,
    }
}

/// A stage of a source, a step and a sink, which is all that the bridge looks at.
pub(crate) fn stage() -> TestStage {
    let port = |urn: &str| PTransform {
        spec: Some(FunctionSpec {
            urn: urn.into(),
            payload: RemoteGrpcPort { api_service_descriptor: None, coder_id: "c".into() }.encode_to_vec().into(),
        }),
        ..Default::default()
    };
    let ends = |id: &str| BTreeMap::from([("only".to_owned(), id.to_owned())]);
    let source = PTransform { outputs: ends("in"), ..port(DATA_SOURCE) };
    let sink = PTransform { inputs: ends("out"), ..port(DATA_SINK) };
    let step = PTransform { inputs: ends("in"), outputs: ends("out"), ..Default::default() };
    let transforms = [("source".into(), source), ("step".into(), step), ("sink".into(), sink)].into();
    let descriptor = ProcessBundleDescriptor { transforms, ..Default::default() };
    TestStage {
        name: "fake".into(),
        descriptor: descriptor.encode_to_vec(),
        side_inputs: vec!["side".into()],
        timers: vec![],
        elements: vec![],
    }
}

/// A stage whose step has two timer families.
pub(crate) fn stage_with_timers() -> TestStage {
    TestStage { timers: vec!["a".into(), "b".into()], ..stage() }
}

pub(crate) struct Fixture {
    pub(crate) bridge: Bridge,
    pub(crate) started: mpsc::Receiver<StartWorkerRequest>,
    pub(crate) fake: Fake,
    pool: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

/// A bridge and its first harness.
pub(crate) async fn fixture(capabilities: &[&str]) -> Fixture {
    fixture_with(capabilities, stage()).await
}

pub(crate) async fn fixture_with(capabilities: &[&str], stage: TestStage) -> Fixture {
    fixture_of(capabilities, |environment| plan(environment, vec![stage])).await
}

pub(crate) async fn fixture_of(capabilities: &[&str], plan: impl FnOnce(&Environment) -> Plan) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let (address, mut started, pool) = pool("").await;
    let environment =
        Environment { capabilities: capabilities.iter().map(|urn| (*urn).to_owned()).collect(), ..external(&address) };
    let mut config = config(plan(&environment), Arc::default(), folder.path());
    config.stop_timeout = Duration::from_millis(100);
    let starting = tokio::spawn(Bridge::start(config));
    let fake = Fake::start(&mut started).await;
    let bridge = starting.await.unwrap().unwrap();
    Fixture { bridge, started, fake, pool, _folder: folder }
}

impl Fixture {
    pub(crate) async fn end(self) {
        drop(self.fake);
        self.bridge.shutdown().await;
        self.pool.abort();
    }
}
