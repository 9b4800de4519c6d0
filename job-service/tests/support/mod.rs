//! A real service on free ports, clients of it, and pipelines to submit.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test binary uses its own part")]

pub mod harness;

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use ferrobeam_job_service::{Service, ServiceConfig};
use ferrobeam_proto::job::artifact_staging_service_client::ArtifactStagingServiceClient;
use ferrobeam_proto::job::job_messages_response::Response;
use ferrobeam_proto::job::job_service_client::JobServiceClient;
use ferrobeam_proto::job::job_state::Enum as State;
use ferrobeam_proto::job::{
    DrainJobRequest, GetJobStateRequest, JobMessagesRequest, PrepareJobRequest, PrepareJobResponse, RunJobRequest,
};
use ferrobeam_proto::pipeline as pb;
use prost::Message;
use tokio_stream::StreamExt;
use tonic::Status;
use tonic::transport::Channel;

pub type Jobs = JobServiceClient<Channel>;
pub type Staging = ArtifactStagingServiceClient<Channel>;

/// Long enough for a loaded machine; no test waits for it to pass.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn config() -> ServiceConfig {
    let program = env!("CARGO_BIN_EXE_ferrobeam").into();
    ServiceConfig { program, spares: 0, ..ServiceConfig::default() }
}

pub async fn serve(config: ServiceConfig) -> (Service, Jobs) {
    let service = Service::start(config).await.expect("a service on free ports");
    let client = jobs(&service).await;
    (service, client)
}

pub async fn channel(address: std::net::SocketAddr) -> Channel {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("it listens")
}

pub async fn jobs(service: &Service) -> Jobs {
    JobServiceClient::new(channel(service.job_address()).await)
}

pub async fn staging(service: &Service) -> Staging {
    ArtifactStagingServiceClient::new(channel(service.artifact_address()).await)
}

fn spec(urn: &str, payload: Vec<u8>) -> Option<pb::FunctionSpec> {
    Some(pb::FunctionSpec { urn: urn.to_owned(), payload: payload.into() })
}

fn coder(urn: &str) -> pb::Coder {
    pb::Coder { spec: spec(urn, vec![]), component_coder_ids: vec![] }
}

/// One impulse, which needs no environment.
pub fn impulse() -> pb::Pipeline {
    let mut components = pb::Components::default();
    components.coders.insert("bytes".into(), coder("beam:coder:bytes:v1"));
    components.coders.insert("global".into(), coder("beam:coder:global_window:v1"));
    components.windowing_strategies.insert(
        "globally".into(),
        pb::WindowingStrategy {
            window_fn: spec("beam:window_fn:global_windows:v1", vec![]),
            window_coder_id: "global".into(),
            ..Default::default()
        },
    );
    components.pcollections.insert("start".into(), pcollection("start"));
    components.transforms.insert(
        "impulse".into(),
        pb::PTransform {
            unique_name: "Impulse".into(),
            spec: spec("beam:transform:impulse:v1", vec![]),
            outputs: [("out".to_owned(), "start".to_owned())].into(),
            ..Default::default()
        },
    );
    pb::Pipeline { components: Some(components), root_transform_ids: vec!["impulse".into()], ..Default::default() }
}

fn pcollection(name: &str) -> pb::PCollection {
    pb::PCollection {
        unique_name: name.into(),
        coder_id: "bytes".into(),
        is_bounded: pb::is_bounded::Enum::Bounded.into(),
        windowing_strategy_id: "globally".into(),
        ..Default::default()
    }
}

/// An impulse, and a ParDo in an environment.
pub fn par_do(environment: pb::Environment) -> pb::Pipeline {
    let mut pipeline = impulse();
    let components = pipeline.components.as_mut().expect("made above");
    components.environments.insert("env".into(), environment);
    components.pcollections.insert("made".into(), pcollection("made"));
    let payload = pb::ParDoPayload { do_fn: spec("some:user:code", vec![]), ..Default::default() };
    components.transforms.insert(
        "par_do".into(),
        pb::PTransform {
            unique_name: "ParDo".into(),
            spec: spec("beam:transform:pardo:v1", payload.encode_to_vec()),
            inputs: [("in".to_owned(), "start".to_owned())].into(),
            outputs: [("out".to_owned(), "made".to_owned())].into(),
            environment_id: "env".into(),
            ..Default::default()
        },
    );
    pipeline.root_transform_ids.push("par_do".into());
    pipeline
}

pub fn external(address: &str) -> pb::Environment {
    let endpoint = pb::ApiServiceDescriptor { url: address.to_owned(), ..Default::default() };
    let payload = pb::ExternalPayload { endpoint: Some(endpoint), ..Default::default() };
    pb::Environment {
        urn: "beam:env:external:v1".into(),
        payload: payload.encode_to_vec().into(),
        ..Default::default()
    }
}

/// A command that is to become a harness, and never does.
pub fn process(command: &Path) -> pb::Environment {
    let payload = pb::ProcessPayload { command: command.to_str().expect("text").to_owned(), ..Default::default() };
    pb::Environment { urn: "beam:env:process:v1".into(), payload: payload.encode_to_vec().into(), ..Default::default() }
}

/// Something that accepts connections and says nothing: a job whose environment it is stays in STARTING.
pub struct Silent {
    listener: TcpListener,
}

impl Silent {
    pub fn new() -> Silent {
        Silent { listener: TcpListener::bind("127.0.0.1:0").expect("a free port") }
    }

    pub fn pipeline(&self) -> pb::Pipeline {
        par_do(external(&self.listener.local_addr().expect("it is bound").to_string()))
    }

    /// Waits until somebody tries to start a worker.
    pub fn called(&self) -> TcpStream {
        self.listener.accept().expect("a connection").0
    }
}

pub fn text(name: &str, value: &str) -> prost_types::Struct {
    let value = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(value.into())) };
    prost_types::Struct { fields: [(format!("beam:option:{name}:v1"), value)].into() }
}

pub async fn prepare(client: &mut Jobs, pipeline: pb::Pipeline) -> Result<PrepareJobResponse, Status> {
    prepare_with(client, pipeline, prost_types::Struct::default()).await
}

pub async fn prepare_with(
    client: &mut Jobs,
    pipeline: pb::Pipeline,
    options: prost_types::Struct,
) -> Result<PrepareJobResponse, Status> {
    let request =
        PrepareJobRequest { pipeline: Some(pipeline), pipeline_options: Some(options), job_name: "test".into() };
    client.prepare(request).await.map(tonic::Response::into_inner)
}

pub async fn run(client: &mut Jobs, preparation_id: &str) -> Result<String, Status> {
    let request = RunJobRequest { preparation_id: preparation_id.into(), ..Default::default() };
    client.run(request).await.map(|response| response.into_inner().job_id)
}

pub async fn submit(client: &mut Jobs, pipeline: pb::Pipeline) -> String {
    let prepared = prepare(client, pipeline).await.expect("a good pipeline");
    run(client, &prepared.preparation_id).await.expect("prepared")
}

/// Submits a pipeline whose job may be run again so often, without a pause to speak of.
pub async fn submit_with_retries(client: &mut Jobs, pipeline: pb::Pipeline, retries: u32) -> String {
    let mut options = text("number_of_execution_retries", &retries.to_string());
    options.fields.extend(text("execution_retry_delay", "1").fields);
    let prepared = prepare_with(client, pipeline, options).await.expect("a good pipeline");
    run(client, &prepared.preparation_id).await.expect("prepared")
}

/// Asks a job to drain.
pub async fn drain(client: &mut Jobs, job_id: &str) -> Result<State, tonic::Code> {
    let answer = client.drain(DrainJobRequest { job_id: job_id.into() }).await;
    answer.map(|response| response.into_inner().state()).map_err(|status| status.code())
}

/// Every state up to the final one.
pub async fn states(client: &mut Jobs, job_id: &str) -> Vec<State> {
    let stream = client.get_state_stream(GetJobStateRequest { job_id: job_id.into() }).await.expect("a known job");
    let read = async { stream.into_inner().map(|event| event.expect("an event").state()).collect().await };
    tokio::time::timeout(PATIENCE, read).await.expect("the stream ends")
}

/// Waits until a job is in a state.
pub async fn reaches(client: &mut Jobs, job_id: &str, state: State) {
    let stream = client.get_state_stream(GetJobStateRequest { job_id: job_id.into() }).await.expect("a known job");
    let mut stream = stream.into_inner();
    let read = async {
        while let Some(event) = stream.next().await {
            if event.expect("an event").state() == state {
                return true;
            }
        }
        false
    };
    assert!(tokio::time::timeout(PATIENCE, read).await.expect("the state comes"), "{state:?} is never reached");
}

/// The names of states, and the texts of messages with their importance before them, up to the end.
pub async fn said(client: &mut Jobs, job_id: &str) -> Vec<String> {
    let stream = client.get_message_stream(JobMessagesRequest { job_id: job_id.into() }).await.expect("a known job");
    let line = |event: Result<ferrobeam_proto::job::JobMessagesResponse, Status>| match event
        .expect("an event")
        .response
        .expect("not empty")
    {
        Response::StateResponse(state) => state.state().as_str_name().to_owned(),
        Response::MessageResponse(m) => format!("{}: {}", m.importance().as_str_name(), m.message_text),
    };
    let read = async { stream.into_inner().map(line).collect().await };
    tokio::time::timeout(PATIENCE, read).await.expect("the stream ends")
}

/// The job processes that a service in this test process has started, by what they were told on their command line.
pub fn job_processes(service: &Service) -> Vec<u32> {
    let url = format!("http://{}", service.job_address());
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").expect("it is there").filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        // A job process that starts a harness is there twice for a moment: its child goes by its name until it is another.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let ours = status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|of| of.trim() == own));
        (ours && line.contains("job-process") && line.contains(&url)).then_some(pid)
    });
    processes.collect()
}

pub fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).expect("it is there").next().is_none()
}
