//! Harnesses made of tonic clients: what SDKs may do that Python's does not, and what no SDK may do.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
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
use ferrobeam_proto::fn_execution::process_bundle_split_response::ChannelSplit;
use ferrobeam_proto::fn_execution::provision_service_client::ProvisionServiceClient;
use ferrobeam_proto::fn_execution::{
    BundleApplication, DelayedBundleApplication, Elements, GetProcessBundleDescriptorRequest, GetProvisionInfoRequest,
    InstructionRequest, InstructionResponse, MonitoringInfosMetadataResponse, ProcessBundleDescriptor,
    ProcessBundleRequest, ProcessBundleResponse, ProcessBundleSplitResponse, RemoteGrpcPort, StartWorkerRequest,
    StartWorkerResponse, StateAppendRequest, StateGetRequest, StateKey, StateRequest, StateResponse, StopWorkerRequest,
    StopWorkerResponse, state_key, state_request,
};
use ferrobeam_proto::pipeline::{Environment, FunctionSpec, MonitoringInfo, PTransform};
use ferrobeam_proto::urns::fn_api_transforms::{DATA_SINK, DATA_SOURCE};
use ferrobeam_proto::urns::standard_protocols::CONTROL_REQUEST_ELEMENTS_EMBEDDING;
use ferrobeam_runner::executor::{self, BundleError, Fault, Residual, StateError, StatePage, StateServer, TimerBatch};
use ferrobeam_runner::time::Timestamp;
use prost::Message;
use support::*;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status, Streaming};

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

async fn pool(refusal: &str) -> (String, mpsc::Receiver<StartWorkerRequest>, JoinHandle<()>) {
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
struct Fake {
    channel: Channel,
    worker_id: String,
    instructions: Streaming<InstructionRequest>,
    responses: mpsc::Sender<InstructionResponse>,
}

impl Fake {
    async fn start(started: &mut mpsc::Receiver<StartWorkerRequest>) -> Fake {
        let start = started.recv().await.unwrap();
        let channel = connect(&start).await;
        let (responses, stream) = mpsc::channel(16);
        let request = with_id(&start.worker_id, ReceiverStream::new(stream));
        let instructions = BeamFnControlClient::new(channel.clone()).control(request).await.unwrap().into_inner();
        Fake { channel, worker_id: start.worker_id, instructions, responses }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        with_id(&self.worker_id, message)
    }

    async fn instruction(&mut self) -> (String, Instruction) {
        let instruction = self.instructions.message().await.unwrap().expect("the bridge has more to say");
        (instruction.instruction_id, instruction.request.unwrap())
    }

    async fn bundle(&mut self) -> (String, ProcessBundleRequest) {
        match self.instruction().await {
            (id, Instruction::ProcessBundle(bundle)) => (id, bundle),
            other => panic!("{other:?} instead of a bundle"),
        }
    }

    async fn data(&self) -> (mpsc::Sender<Elements>, Streaming<Elements>) {
        let (outputs, stream) = mpsc::channel(16);
        let request = self.request(ReceiverStream::new(stream));
        let inputs = BeamFnDataClient::new(self.channel.clone()).data(request).await.unwrap().into_inner();
        (outputs, inputs)
    }

    async fn state(&self) -> (mpsc::Sender<StateRequest>, Streaming<StateResponse>) {
        let (requests, stream) = mpsc::channel(16);
        let request = self.request(ReceiverStream::new(stream));
        (requests, BeamFnStateClient::new(self.channel.clone()).state(request).await.unwrap().into_inner())
    }

    async fn answer(&self, id: &str, answer: Answer) {
        let response = InstructionResponse { instruction_id: id.into(), error: String::new(), response: Some(answer) };
        self.responses.send(response).await.unwrap();
    }

    async fn done(&self, id: &str) {
        self.answer(id, Answer::ProcessBundle(ProcessBundleResponse::default())).await;
    }
}

async fn connect(start: &StartWorkerRequest) -> Channel {
    let url = &start.control_endpoint.as_ref().unwrap().url;
    Channel::from_shared(format!("http://{url}")).unwrap().connect().await.unwrap()
}

fn with_id<T>(worker_id: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("worker_id", MetadataValue::try_from(worker_id).unwrap());
    request
}

fn output(id: &str, transform: &str, data: Vec<u8>, is_last: bool) -> Elements {
    let data = Data { instruction_id: id.into(), transform_id: transform.into(), data: Bytes::from(data), is_last };
    Elements { data: vec![data], timers: vec![] }
}

/// A stage of a source, a step and a sink, which is all that the bridge looks at.
fn stage() -> TestStage {
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
fn stage_with_timers() -> TestStage {
    TestStage { timers: vec!["a".into(), "b".into()], ..stage() }
}

struct Fixture {
    bridge: Bridge,
    started: mpsc::Receiver<StartWorkerRequest>,
    fake: Fake,
    pool: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

/// A bridge and its first harness.
async fn fixture(capabilities: &[&str]) -> Fixture {
    fixture_with(capabilities, stage()).await
}

async fn fixture_with(capabilities: &[&str], stage: TestStage) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let (address, mut started, pool) = pool("").await;
    let environment =
        Environment { capabilities: capabilities.iter().map(|urn| (*urn).to_owned()).collect(), ..external(&address) };
    let mut config = config(plan(&environment, vec![stage]), Arc::default(), folder.path());
    config.stop_timeout = Duration::from_millis(100);
    let starting = tokio::spawn(Bridge::start(config));
    let fake = Fake::start(&mut started).await;
    let bridge = starting.await.unwrap().unwrap();
    Fixture { bridge, started, fake, pool, _folder: folder }
}

impl Fixture {
    async fn end(self) {
        drop(self.fake);
        self.bridge.shutdown().await;
        self.pool.abort();
    }
}

#[tokio::test]
async fn descriptors_carry_the_endpoints_and_provisioning_the_job() {
    let mut fixture = fixture(&[]).await;
    let (mut bundle, outcome) = open(&fixture.bridge, 0, Arc::new(SideInputs::default()));
    push(&mut *bundle, &[b"a"]);
    let (id, request) = fixture.fake.bundle().await;
    let token = &request.cache_tokens[..];
    assert_eq!(token.len(), 1, "{token:?}");

    let mut control = BeamFnControlClient::new(fixture.fake.channel.clone());
    let process_bundle_descriptor_id = request.process_bundle_descriptor_id;
    let ask = GetProcessBundleDescriptorRequest { process_bundle_descriptor_id };
    let descriptor = control.get_process_bundle_descriptor(fixture.fake.request(ask)).await.unwrap().into_inner();
    let endpoint = fixture.bridge.endpoint();
    assert_eq!(descriptor.state_api_service_descriptor.unwrap().url, endpoint);
    for port in ["source", "sink"] {
        let payload = descriptor.transforms[port].spec.as_ref().unwrap().payload.clone();
        let port = RemoteGrpcPort::decode(payload).unwrap();
        assert_eq!((port.coder_id.as_str(), port.api_service_descriptor.unwrap().url.as_str()), ("c", endpoint));
    }
    let unknown = GetProcessBundleDescriptorRequest { process_bundle_descriptor_id: "none".into() };
    let status = control.get_process_bundle_descriptor(fixture.fake.request(unknown)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);

    let mut provision = ProvisionServiceClient::new(fixture.fake.channel.clone());
    let ask = fixture.fake.request(GetProvisionInfoRequest {});
    let info = provision.get_provision_info(ask).await.unwrap().into_inner().info.unwrap();
    assert_eq!(info.control_endpoint.unwrap().url, endpoint);
    assert_eq!(info.metadata["job_id"], "job");
    assert!(info.runner_capabilities.contains(&"beam:protocol:monitoring_info_short_ids:v1".to_owned()));

    // Calls of nobody, of a stranger, and of a harness that has its control stream already.
    let status = provision.get_provision_info(GetProvisionInfoRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = provision.get_provision_info(with_id("stranger", GetProvisionInfoRequest {})).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let (_keep, again) = mpsc::channel(1);
    let status = control.control(fixture.fake.request(ReceiverStream::new(again))).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);

    bundle.close();
    let (outputs, mut inputs) = fixture.fake.data().await;
    let mut ended = false;
    while !ended {
        ended = inputs.message().await.unwrap().unwrap().data.iter().any(|data| data.is_last);
    }
    // The response comes before the outputs do.
    fixture.fake.done(&id).await;
    let mut first = element(b"result");
    let second = first.split_off(5);
    outputs.send(output(&id, "sink", first, false)).await.unwrap();
    outputs.send(output(&id, "sink", second, false)).await.unwrap();
    outputs.send(output(&id, "sink", vec![], true)).await.unwrap();
    assert_eq!(emitted(outcome.await.unwrap().unwrap()), [b"result"]);
    fixture.end().await;
}

#[tokio::test]
async fn small_bundles_travel_within_the_control_messages() {
    let mut fixture = fixture(&[CONTROL_REQUEST_ELEMENTS_EMBEDDING]).await;
    let (mut bundle, outcome) = open(&fixture.bridge, 0, Arc::new(SideInputs::default()));
    push(&mut *bundle, &[b"a", b"b"]);
    bundle.close();
    let (id, request) = fixture.fake.bundle().await;
    let embedded = request.elements.unwrap().data;
    let whole: Vec<u8> = embedded.iter().flat_map(|data| data.data.to_vec()).collect();
    assert_eq!(whole, [element(b"a"), element(b"b")].concat());
    assert!(embedded.last().unwrap().is_last);

    let application = |millis: i64| BundleApplication {
        transform_id: "step".into(),
        element: Bytes::from(element(b"rest")),
        output_watermarks: [
            ("x".to_owned(), prost_types::Timestamp { seconds: 10, nanos: 0 }),
            ("y".to_owned(), prost_types::Timestamp { seconds: millis / 1000, nanos: 0 }),
        ]
        .into(),
        ..Default::default()
    };
    let residual = DelayedBundleApplication {
        application: Some(application(7_000)),
        requested_time_delay: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
    };
    let response = ProcessBundleResponse {
        elements: Some(output(&id, "sink", element(b"out"), false)),
        residual_roots: vec![residual],
        monitoring_data: [("1".to_owned(), Bytes::from_static(&[9]))].into(),
        requires_finalization: true,
        ..Default::default()
    };
    fixture.fake.answer(&id, Answer::ProcessBundle(response)).await;
    let (question, Instruction::MonitoringInfos(metadata)) = fixture.fake.instruction().await else { panic!() };
    assert_eq!(metadata.monitoring_info_id, ["1"]);
    let info = MonitoringInfo { urn: "urn".into(), r#type: "type".into(), ..Default::default() };
    let metadata = MonitoringInfosMetadataResponse { monitoring_info: [("1".to_owned(), info)].into() };
    fixture.fake.answer(&question, Answer::MonitoringInfos(metadata)).await;

    let done = outcome.await.unwrap().unwrap();
    let [metric] = &done.metrics[..] else { panic!("{:?}", done.metrics) };
    assert_eq!((metric.urn.as_str(), metric.type_urn.as_str(), &metric.payload[..]), ("urn", "type", &[9][..]));
    let [residual] = &done.residuals[..] else { panic!("{:?}", done.residuals) };
    assert_eq!(residual.delay.as_millis(), 1500);
    assert_eq!(residual.hold, Some(Timestamp(7_000)));
    done.requires_finalization.as_ref().unwrap().finalize();
    assert_eq!(emitted(done), [b"out"]);
    let (_, Instruction::FinalizeBundle(finalize)) = fixture.fake.instruction().await else { panic!() };
    assert_eq!(finalize.instruction_id, id);

    // What is too large for that goes over the data stream.
    let (mut bundle, outcome) = open(&fixture.bridge, 0, Arc::new(SideInputs::default()));
    push(&mut *bundle, &[&[b'x'; 100_000]]);
    bundle.close();
    let (id, request) = fixture.fake.bundle().await;
    assert!(request.elements.is_none());
    let (_outputs, mut inputs) = fixture.fake.data().await;
    let mut received = 0;
    loop {
        let elements = inputs.message().await.unwrap().unwrap();
        received += elements.data.iter().map(|data| data.data.len()).sum::<usize>();
        if elements.data.iter().any(|data| data.is_last) {
            break;
        }
    }
    assert_eq!(received, element(&[b'x'; 100_000]).len());
    let response = ProcessBundleResponse { elements: Some(Elements::default()), ..Default::default() };
    fixture.fake.answer(&id, Answer::ProcessBundle(response)).await;
    assert!(emitted(outcome.await.unwrap().unwrap()).is_empty());
    fixture.end().await;
}

fn bag(name: &str) -> Option<StateKey> {
    let bag = state_key::BagUserState { transform_id: "t".into(), user_state_id: name.into(), ..Default::default() };
    Some(StateKey { r#type: Some(state_key::Type::BagUserState(bag)) })
}

#[tokio::test]
async fn state_requests_that_cannot_be_answered_say_so() {
    let mut fixture = fixture(&[]).await;
    let (mut bundle, outcome) = open(&fixture.bridge, 0, Arc::new(SideInputs::default()));
    push(&mut *bundle, &[b"a"]);
    bundle.close();
    let (id, _) = fixture.fake.bundle().await;
    let (requests, mut answers) = fixture.fake.state().await;
    let request = StateRequest {
        id: "1".into(),
        instruction_id: id.clone(),
        state_key: bag("seen"),
        request: Some(state_request::Request::Get(Default::default())),
    };
    requests.send(request.clone()).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(answer.id, "1");
    assert!(answer.error.contains("seen"), "{}", answer.error);

    // The SDK reports it as the failure of user code; it is not.
    let response = InstructionResponse { instruction_id: id.clone(), error: "sdk trace".into(), response: None };
    fixture.fake.responses.send(response).await.unwrap();
    let error = outcome.await.unwrap().unwrap_err();
    assert_eq!((error.fault, error.retry), (Fault::Runner, false));
    assert!(error.message.starts_with("sdk trace"), "{error}");
    assert!(error.message.contains("seen"), "{error}");

    // A bundle that is over reads nothing any more.
    requests.send(request).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert!(answer.error.contains("not open any more"), "{}", answer.error);
    fixture.end().await;
}

#[tokio::test]
async fn a_side_input_that_changed_has_another_cache_token() {
    let mut fixture = fixture(&[]).await;
    let mut tokens = Vec::new();
    for version in [0, 7, 7, 8] {
        let (mut bundle, outcome) = open(&fixture.bridge, 0, Arc::new(SideInputs { version, ..SideInputs::default() }));
        push(&mut *bundle, &[b"a"]);
        let (_, mut request) = fixture.fake.bundle().await;
        tokens.push(request.cache_tokens.remove(0).token);
        drop((bundle, outcome));
    }
    assert_eq!(tokens[1], tokens[2]);
    tokens.remove(2);
    assert_eq!(tokens.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{tokens:?}");
    fixture.end().await;
}

/// Keeps what was asked, taking its time.
#[derive(Default)]
struct SlowState(Mutex<Vec<String>>);

impl SlowState {
    fn note(&self, what: String) {
        std::thread::sleep(Duration::from_millis(2));
        self.0.lock().unwrap().push(what);
    }
}

impl StateServer for SlowState {
    fn get(&self, _: &executor::StateKey, continuation: &[u8]) -> Result<StatePage, StateError> {
        self.note(String::from_utf8_lossy(continuation).into());
        Ok(StatePage::default())
    }

    fn append(&self, _: &executor::StateKey, data: Bytes) -> Result<(), StateError> {
        self.note(String::from_utf8_lossy(&data).into());
        Ok(())
    }

    fn clear(&self, _: &executor::StateKey) -> Result<(), StateError> {
        self.note("clear".into());
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_requests_of_a_bundle_are_carried_out_in_order() {
    let mut fixture = fixture(&[]).await;
    let state = Arc::new(SlowState::default());
    let (mut bundle, outcome) = open(&fixture.bridge, 0, state.clone());
    push(&mut *bundle, &[b"a"]);
    bundle.close();
    let (id, _) = fixture.fake.bundle().await;
    let (requests, mut answers) = fixture.fake.state().await;
    // More than are carried out at once, none waited for.
    let all = (0..40).map(|n| match n % 3 {
        0 => (state_request::Request::Clear(Default::default()), "clear".to_owned()),
        1 => (state_request::Request::Append(StateAppendRequest { data: n.to_string().into() }), n.to_string()),
        _ => (state_request::Request::Get(StateGetRequest { continuation_token: n.to_string().into() }), n.to_string()),
    });
    let (all, expected): (Vec<_>, Vec<_>) = all.unzip();
    let answered = tokio::spawn(async move {
        for _ in 0..40 {
            assert_eq!(answers.message().await.unwrap().unwrap().error, "");
        }
    });
    for (n, request) in all.into_iter().enumerate() {
        let request = StateRequest {
            id: n.to_string(),
            instruction_id: id.clone(),
            state_key: bag("seen"),
            request: Some(request),
        };
        requests.send(request).await.unwrap();
    }
    answered.await.unwrap();
    assert_eq!(*state.0.lock().unwrap(), expected);
    let (outputs, _inputs) = fixture.fake.data().await;
    outputs.send(output(&id, "sink", vec![], true)).await.unwrap();
    fixture.fake.done(&id).await;
    outcome.await.unwrap().unwrap();
    fixture.end().await;
}

fn timers(id: &str, family: &str, timers: &[u8], is_last: bool) -> Timers {
    Timers {
        instruction_id: id.into(),
        transform_id: "step".into(),
        timer_family_id: family.into(),
        timers: Bytes::copy_from_slice(timers),
        is_last,
    }
}

#[tokio::test]
async fn timers_travel_both_ways_and_every_family_ends() {
    let mut fixture = fixture_with(&[], stage_with_timers()).await;
    let (mut bundle, mut outcome) = open(&fixture.bridge, 0, Arc::new(SideInputs::default()));
    bundle.push_timers(1, Bytes::from_static(b"fired"));
    bundle.close();
    let (id, request) = fixture.fake.bundle().await;
    let mut control = BeamFnControlClient::new(fixture.fake.channel.clone());
    let process_bundle_descriptor_id = request.process_bundle_descriptor_id;
    let ask = GetProcessBundleDescriptorRequest { process_bundle_descriptor_id };
    let descriptor = control.get_process_bundle_descriptor(fixture.fake.request(ask)).await.unwrap().into_inner();
    assert_eq!(descriptor.timer_api_service_descriptor.unwrap().url, fixture.bridge.endpoint());

    let (outputs, mut inputs) = fixture.fake.data().await;
    let mut input = Elements::default();
    while !input.data.iter().any(|data| data.is_last) {
        let message = inputs.message().await.unwrap().unwrap();
        input.data.extend(message.data);
        input.timers.extend(message.timers);
    }
    let fired = timers(&id, "b", b"fired", false);
    assert_eq!(input.timers, [fired, timers(&id, "a", b"", true), timers(&id, "b", b"", true)]);

    fixture.fake.done(&id).await;
    let sent = vec![timers(&id, "b", b"1", false), timers(&id, "a", b"2", false), timers(&id, "b", b"3", true)];
    outputs.send(Elements { timers: sent, ..output(&id, "sink", vec![], true) }).await.unwrap();
    // One family may still bring timers.
    tokio::time::timeout(Duration::from_millis(50), &mut outcome).await.unwrap_err();
    outputs.send(Elements { data: vec![], timers: vec![timers(&id, "a", b"", true)] }).await.unwrap();
    let done = outcome.await.unwrap().unwrap();
    let came: Vec<(usize, &[u8])> = done.timers.iter().map(|batch| (batch.family, &batch.timers[..])).collect();
    assert_eq!(came, [(1, &b"1"[..]), (0, b"2"), (1, b"3")]);
    fixture.end().await;
}

#[tokio::test]
async fn timers_travel_within_the_control_messages() {
    let mut fixture = fixture_with(&[CONTROL_REQUEST_ELEMENTS_EMBEDDING], stage_with_timers()).await;
    let (mut bundle, outcome) = open(&fixture.bridge, 0, Arc::new(SideInputs::default()));
    bundle.push_timers(0, Bytes::from_static(b"fired"));
    bundle.close();
    let (id, request) = fixture.fake.bundle().await;
    let embedded = request.elements.unwrap();
    assert!(embedded.data[0].is_last);
    let ends = [timers(&id, "a", b"", true), timers(&id, "b", b"", true)];
    assert_eq!(embedded.timers, [&[timers(&id, "a", b"fired", false)], &ends[..]].concat());
    let timers = vec![timers(&id, "b", b"1", false)];
    let elements = Elements { timers, ..output(&id, "sink", element(b"out"), true) };
    let response = ProcessBundleResponse { elements: Some(elements), ..Default::default() };
    fixture.fake.answer(&id, Answer::ProcessBundle(response)).await;
    let done = outcome.await.unwrap().unwrap();
    assert_eq!(done.timers, [TimerBatch { family: 1, timers: Bytes::from_static(b"1") }]);
    assert_eq!(emitted(done), [b"out"]);
    fixture.end().await;
}

/// Runs a bundle on a harness that answers with nonsense; another harness must then take its place and work.
async fn after_nonsense(speak: impl AsyncFnOnce(&Fake, &str)) -> BundleError {
    let mut fixture = fixture(&[]).await;
    let (mut bundle, outcome) = open(&fixture.bridge, 0, Arc::new(SideInputs::default()));
    push(&mut *bundle, &[b"a"]);
    bundle.close();
    let (id, _) = fixture.fake.bundle().await;
    speak(&fixture.fake, &id).await;
    let error = outcome.await.unwrap().unwrap_err();
    assert_eq!((error.fault, error.retry), (Fault::Environment, true), "{error}");

    let mut replacement = Fake::start(&mut fixture.started).await;
    assert_ne!(replacement.worker_id, fixture.fake.worker_id);
    let (mut bundle, outcome) = open(&fixture.bridge, 0, Arc::new(SideInputs::default()));
    push(&mut *bundle, &[b"a"]);
    bundle.close();
    let (id, _) = replacement.bundle().await;
    let (outputs, _inputs) = replacement.data().await;
    outputs.send(output(&id, "sink", element(b"good"), true)).await.unwrap();
    replacement.done(&id).await;
    assert_eq!(emitted(outcome.await.unwrap().unwrap()), [b"good"]);
    drop(replacement);
    fixture.end().await;
    error
}

#[tokio::test]
async fn a_response_to_no_instruction_ends_the_harness() {
    let error = after_nonsense(async |fake, _| fake.done("made-up").await).await;
    assert!(error.message.contains("\"made-up\""), "{error}");
}

#[tokio::test]
async fn a_response_of_the_wrong_kind_ends_the_harness() {
    let error = after_nonsense(async |fake, id| {
        let (_outputs, mut inputs) = fake.data().await;
        while !inputs.message().await.unwrap().unwrap().data.iter().any(|data| data.is_last) {}
        fake.answer(id, Answer::FinalizeBundle(Default::default())).await;
    })
    .await;
    assert!(error.message.contains("answered with something else"), "{error}");
}

#[tokio::test]
async fn success_before_the_end_of_the_input_ends_the_harness() {
    let error = after_nonsense(async |fake, id| fake.done(id).await).await;
    assert!(error.message.contains("before the end of its input"), "{error}");
}

#[tokio::test]
async fn data_of_no_instruction_ends_the_harness() {
    let error = after_nonsense(async |fake, _| {
        let (outputs, mut inputs) = fake.data().await;
        outputs.send(output("made-up", "sink", element(b"x"), false)).await.unwrap();
        while let Ok(Some(_)) = inputs.message().await {}
    })
    .await;
    assert!(error.message.contains("\"made-up\""), "{error}");
}

#[tokio::test]
async fn a_data_stream_that_ends_early_ends_the_harness() {
    let error = after_nonsense(async |fake, _| {
        let (outputs, mut inputs) = fake.data().await;
        inputs.message().await.unwrap();
        drop(outputs);
    })
    .await;
    assert!(error.message.contains("data stream"), "{error}");
}

/// Runs a bundle on a harness that sends outputs nobody can read: its bundle fails, and the harness goes on.
async fn after_bad_output(transform: &str, data: Vec<u8>, is_last: bool) -> BundleError {
    let mut fixture = fixture(&[]).await;
    let (mut bundle, outcome) = open(&fixture.bridge, 0, Arc::new(SideInputs::default()));
    push(&mut *bundle, &[b"a"]);
    bundle.close();
    let (id, _) = fixture.fake.bundle().await;
    let (outputs, _inputs) = fixture.fake.data().await;
    outputs.send(output(&id, transform, data, is_last)).await.unwrap();
    fixture.fake.done(&id).await;
    let error = outcome.await.unwrap().unwrap_err();
    assert_eq!((error.fault, error.retry), (Fault::Environment, true), "{error}");
    assert!(error.message.contains(&id), "{error}");
    fixture.end().await;
    error
}

#[tokio::test]
async fn outputs_that_cannot_be_read_fail_their_bundle() {
    let error = after_bad_output("elsewhere", element(b"x"), false).await;
    assert!(error.message.contains("\"elsewhere\""), "{error}");
    // A count of windows that nothing has.
    let mut malformed = element(b"x");
    malformed[8..12].fill(0xff);
    malformed.extend([0xff; 64]);
    after_bad_output("sink", malformed, true).await;
    // The last element is cut short.
    let mut short = element(b"long enough");
    short.truncate(short.len() - 3);
    after_bad_output("sink", short, true).await;
}

#[tokio::test]
async fn timers_of_no_family_fail_their_bundle() {
    for (family, is_late) in [("c", false), ("a", true)] {
        let mut fixture = fixture_with(&[], stage_with_timers()).await;
        let (mut bundle, outcome) = open(&fixture.bridge, 0, Arc::new(SideInputs::default()));
        push(&mut *bundle, &[b"a"]);
        bundle.close();
        let (id, _) = fixture.fake.bundle().await;
        let (outputs, _inputs) = fixture.fake.data().await;
        let end = is_late.then(|| timers(&id, family, b"", true));
        let sent = end.into_iter().chain([timers(&id, family, b"1", false)]).collect();
        outputs.send(Elements { data: vec![], timers: sent }).await.unwrap();
        let error = outcome.await.unwrap().unwrap_err();
        assert_eq!((error.fault, error.retry), (Fault::Environment, true), "{error}");
        let expected = if is_late { "timers a of step after the end" } else { "family \"c\" of transform \"step\"" };
        assert!(error.message.contains(expected), "{error}");
        fixture.end().await;
    }
}

fn splittable() -> TestStage {
    TestStage { elements: vec![vec![]], ..stage() }
}

fn work(element: &[u8]) -> DelayedBundleApplication {
    let application = BundleApplication {
        transform_id: "step".into(),
        element: Bytes::copy_from_slice(element),
        ..Default::default()
    };
    DelayedBundleApplication { application: Some(application), requested_time_delay: None }
}

/// A split behind `whole` elements, that keeps nothing of those from `rest` on.
fn cut(whole: i64, rest: i64) -> ProcessBundleSplitResponse {
    let channel =
        ChannelSplit { transform_id: String::new(), last_primary_element: whole - 1, first_residual_element: rest };
    ProcessBundleSplitResponse { channel_splits: vec![channel], ..Default::default() }
}

#[tokio::test]
async fn splits_are_told_while_the_bundle_goes_on() {
    let mut fixture = fixture_with(&[], splittable()).await;
    let (mut bundle, mut splits, mut outcome) = open_splittable(&fixture.bridge, 0);
    let (first, second): ([&[u8]; 2], [&[u8]; 3]) = ([b"0", b"1"], [b"2", b"3", b"4"]);
    push(&mut *bundle, &first);
    push(&mut *bundle, &second);
    bundle.close();
    let (id, _) = fixture.fake.bundle().await;
    let (outputs, _inputs) = fixture.fake.data().await;
    // At most one question is on its way, and the last of those that wait replaces the others.
    let mut questions = Vec::new();
    bundle.split(0.5);
    questions.push(fixture.fake.instruction().await);
    bundle.split(0.25);
    bundle.split(-1.0);
    fixture.fake.answer(&questions[0].0, Answer::ProcessBundleSplit(cut(4, 4))).await;
    let split = splits.recv().await.unwrap();
    assert_eq!((split.whole, split.rest), (4, 4));
    assert!(split.parts.is_empty() && split.residuals.is_empty());
    questions.push(fixture.fake.instruction().await);
    for ((_, question), fraction) in questions.iter().zip([0.5, 0.0]) {
        let Instruction::ProcessBundleSplit(split) = question else { panic!("{question:?}") };
        assert_eq!(split.instruction_id, id);
        let desired = &split.desired_splits["source"];
        assert_eq!((desired.fraction_of_remainder, desired.estimated_input_elements), (fraction, 5));
    }
    // The bundle is over before the answer comes that tells what it left out.
    outputs.send(output(&id, "sink", vec![], true)).await.unwrap();
    let response = ProcessBundleResponse { residual_roots: vec![work(b"later")], ..Default::default() };
    fixture.fake.answer(&id, Answer::ProcessBundle(response)).await;
    tokio::time::timeout(Duration::from_millis(50), &mut outcome).await.unwrap_err();
    let split = ProcessBundleSplitResponse {
        primary_roots: vec![work(b"2, first half").application.unwrap()],
        residual_roots: vec![work(b"2, second half")],
        ..cut(2, 3)
    };
    fixture.fake.answer(&questions[1].0, Answer::ProcessBundleSplit(split)).await;
    let done = outcome.await.unwrap().unwrap();
    let elements = |residuals: &[Residual]| -> Vec<Bytes> {
        assert!(residuals.iter().all(|residual| residual.delay.is_zero() && residual.hold.is_none()));
        residuals.iter().map(|residual| residual.element.clone()).collect()
    };
    let split = splits.try_recv().unwrap();
    assert_eq!((split.whole, split.rest), (2, 3));
    assert_eq!(split.parts, [&b"2, first half"[..]]);
    assert_eq!(elements(&split.residuals), [&b"2, second half"[..]]);
    assert_eq!(elements(&done.residuals), [&b"later"[..]]);
    fixture.end().await;
}

#[tokio::test]
async fn a_split_that_cannot_be_is_no_failure() {
    let mut fixture = fixture_with(&[], splittable()).await;
    let (_outputs, mut inputs) = fixture.fake.data().await;
    for refused in [true, false] {
        let (mut bundle, outcome) = open(&fixture.bridge, 0, Arc::new(SideInputs::default()));
        push(&mut *bundle, &[b"0"]);
        bundle.close();
        let (id, _) = fixture.fake.bundle().await;
        bundle.split(0.0);
        let (question, _) = fixture.fake.instruction().await;
        let response = InstructionResponse {
            instruction_id: question,
            error: if refused { "cannot split".into() } else { String::new() },
            response: Some(Answer::ProcessBundleSplit(ProcessBundleSplitResponse::default())),
        };
        fixture.fake.responses.send(response).await.unwrap();
        let response = ProcessBundleResponse { elements: Some(Elements::default()), ..Default::default() };
        while !inputs.message().await.unwrap().unwrap().data.iter().any(|data| data.is_last) {}
        fixture.fake.answer(&id, Answer::ProcessBundle(response)).await;
        assert!(outcome.await.unwrap().unwrap().residuals.is_empty());
        // Asked too late: nobody listens.
        bundle.split(0.0);
    }
    fixture.end().await;
}

#[tokio::test]
async fn a_split_before_the_first_element_ends_the_harness() {
    let mut fixture = fixture_with(&[], splittable()).await;
    let (mut bundle, outcome) = open(&fixture.bridge, 0, Arc::new(SideInputs::default()));
    push(&mut *bundle, &[b"0"]);
    bundle.close();
    fixture.fake.bundle().await;
    bundle.split(0.0);
    let (question, _) = fixture.fake.instruction().await;
    fixture.fake.answer(&question, Answer::ProcessBundleSplit(cut(-1, -1))).await;
    let error = outcome.await.unwrap().unwrap_err();
    assert_eq!((error.fault, error.retry), (Fault::Environment, true), "{error}");
    assert!(error.message.contains("before element -1"), "{error}");
    fixture.end().await;
}

#[tokio::test]
async fn work_of_a_transform_inside_the_stage_cannot_come_back() {
    let mut fixture = fixture_with(&[CONTROL_REQUEST_ELEMENTS_EMBEDDING], splittable()).await;
    let (mut bundle, outcome) = open(&fixture.bridge, 0, Arc::new(SideInputs::default()));
    bundle.close();
    let (id, _) = fixture.fake.bundle().await;
    let mut inside = work(b"x");
    inside.application.as_mut().unwrap().transform_id = "sink".into();
    let elements = Some(Elements::default());
    let response = ProcessBundleResponse { residual_roots: vec![inside], elements, ..Default::default() };
    fixture.fake.answer(&id, Answer::ProcessBundle(response)).await;
    let error = outcome.await.unwrap().unwrap_err();
    assert_eq!((error.fault, error.retry), (Fault::Environment, true), "{error}");
    assert!(error.message.contains("\"sink\""), "{error}");
    fixture.end().await;
}

#[tokio::test]
async fn a_pool_that_refuses_is_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let (address, _started, pool) = pool("no room for workers").await;
    let mut config = config(plan(&external(&address), vec![stage()]), Arc::default(), folder.path());
    config.restarts = 0;
    let error = Bridge::start(config).await.unwrap_err().to_string();
    assert!(error.contains("no room for workers"), "{error}");
    pool.abort();
}
