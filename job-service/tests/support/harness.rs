//! A worker pool whose workers are harnesses made of a tonic client: they make values, or hold on to them.

use std::collections::BTreeMap;

use ferrobeam_proto::fn_execution::beam_fn_control_client::BeamFnControlClient;
use ferrobeam_proto::fn_execution::beam_fn_external_worker_pool_server::{
    BeamFnExternalWorkerPool, BeamFnExternalWorkerPoolServer,
};
use ferrobeam_proto::fn_execution::elements::Data;
use ferrobeam_proto::fn_execution::instruction_request::Request as Instruction;
use ferrobeam_proto::fn_execution::instruction_response::Response as Answer;
use ferrobeam_proto::fn_execution::{
    Elements, GetProcessBundleDescriptorRequest, InstructionRequest, InstructionResponse,
    MonitoringInfosMetadataResponse, ProcessBundleProgressResponse, ProcessBundleRequest, ProcessBundleResponse,
    ProcessBundleSplitResponse, StartWorkerRequest, StartWorkerResponse, StopWorkerRequest, StopWorkerResponse,
};
use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::urns::fn_api_transforms::DATA_SINK;
use ferrobeam_proto::urns::standard_protocols::CONTROL_REQUEST_ELEMENTS_EMBEDDING;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use super::{coder, external, impulse, pcollection, spec};

/// What a pool tells the test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Started(String),
    Stopped(String),
    /// A worker holds these values.
    Holds(String, Vec<String>),
}

/// See the module.
pub struct Pool {
    pub address: String,
    pub told: mpsc::UnboundedReceiver<Told>,
    /// Lets go of what workers hold.
    pub open: watch::Sender<bool>,
}

#[derive(Clone)]
struct Workers {
    told: mpsc::UnboundedSender<Told>,
    open: watch::Receiver<bool>,
}

impl Pool {
    pub async fn start() -> Pool {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (tell, told) = mpsc::unbounded_channel();
        let (open, opened) = watch::channel(false);
        let service = BeamFnExternalWorkerPoolServer::new(Workers { told: tell, open: opened });
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
        Pool { address, told, open }
    }

    /// What is told next.
    pub async fn next(&mut self) -> Told {
        let told = tokio::time::timeout(super::PATIENCE, self.told.recv()).await;
        told.expect("a pool is asked for something").expect("the pool serves")
    }

    /// An impulse, a transform that makes `count` values of it, and one that holds them, on all workers of the job.
    pub fn pipeline(&self, count: usize) -> pb::Pipeline {
        let mut pipeline = impulse();
        let environment = pb::Environment {
            capabilities: vec![CONTROL_REQUEST_ELEMENTS_EMBEDDING.to_owned()],
            ..external(&self.address)
        };
        let components = pipeline.components.as_mut().expect("made above");
        components.coders.insert("bytes".into(), coder("beam:coder:bytes:v1"));
        components.environments.insert("env".into(), environment);
        let transforms = [
            ("make", "beam:transform:pardo:v1", count.to_string(), "start", "made"),
            ("spread", "beam:transform:redistribute_arbitrarily:v1", String::new(), "made", "spread"),
            ("hold", "beam:transform:pardo:v1", "hold".to_owned(), "spread", "held"),
        ];
        for (name, urn, argument, from, to) in transforms {
            let pardo = urn == "beam:transform:pardo:v1";
            let do_fn = spec("some:user:code", argument.into_bytes());
            let payload = pb::ParDoPayload { do_fn, ..Default::default() };
            components.pcollections.insert(to.into(), pcollection(to));
            let transform = pb::PTransform {
                unique_name: name.into(),
                spec: spec(urn, if pardo { payload.encode_to_vec() } else { vec![] }),
                inputs: [("in".to_owned(), from.to_owned())].into(),
                outputs: [("out".to_owned(), to.to_owned())].into(),
                environment_id: if pardo { "env".into() } else { String::new() },
                ..Default::default()
            };
            components.transforms.insert(name.into(), transform);
            pipeline.root_transform_ids.push(name.into());
        }
        pipeline
    }
}

#[tonic::async_trait]
impl BeamFnExternalWorkerPool for Workers {
    async fn start_worker(
        &self,
        request: Request<StartWorkerRequest>,
    ) -> Result<Response<StartWorkerResponse>, Status> {
        let start = request.into_inner();
        let _ = self.told.send(Told::Started(start.worker_id.clone()));
        let this = self.clone();
        // Its job may end at any time.
        tokio::spawn(async move { this.work(start).await.ok() });
        Ok(Response::new(StartWorkerResponse::default()))
    }

    async fn stop_worker(&self, request: Request<StopWorkerRequest>) -> Result<Response<StopWorkerResponse>, Status> {
        let _ = self.told.send(Told::Stopped(request.into_inner().worker_id));
        Ok(Response::new(StopWorkerResponse::default()))
    }
}

impl Workers {
    async fn work(self, start: StartWorkerRequest) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let url = start.control_endpoint.unwrap_or_default().url;
        let channel = Channel::from_shared(format!("http://{url}"))?.connect().await?;
        let mut control = BeamFnControlClient::new(channel);
        let (answers, outgoing) = mpsc::unbounded_channel();
        let request = with_id(&start.worker_id, UnboundedReceiverStream::new(outgoing));
        let mut instructions = control.control(request).await?.into_inner();
        while let Some(InstructionRequest { instruction_id, request }) = instructions.message().await? {
            let answers = answers.clone();
            let (this, control, worker) = (self.clone(), control.clone(), start.worker_id.clone());
            tokio::spawn(async move {
                let answer = this.answer(control, worker, &instruction_id, request?).await?;
                let response = InstructionResponse { instruction_id, error: String::new(), response: Some(answer) };
                answers.send(response).ok()
            });
        }
        Ok(())
    }

    async fn answer(
        &self,
        control: BeamFnControlClient<Channel>,
        worker: String,
        id: &str,
        instruction: Instruction,
    ) -> Option<Answer> {
        match instruction {
            Instruction::ProcessBundle(bundle) => {
                let done = self.process(control, worker, id, bundle).await?;
                Some(Answer::ProcessBundle(done))
            }
            Instruction::ProcessBundleProgress(_) => {
                Some(Answer::ProcessBundleProgress(ProcessBundleProgressResponse::default()))
            }
            Instruction::ProcessBundleSplit(_) => {
                Some(Answer::ProcessBundleSplit(ProcessBundleSplitResponse::default()))
            }
            Instruction::MonitoringInfos(asked) => {
                let infos = asked.monitoring_info_id.into_iter().map(|id| {
                    let labels = [("PTRANSFORM", "make"), ("NAMESPACE", "test"), ("NAME", id.as_str())];
                    let info = pb::MonitoringInfo {
                        urn: "beam:metric:user:sum_int64:v1".into(),
                        r#type: "beam:metrics:sum_int64:v1".into(),
                        labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
                        ..Default::default()
                    };
                    (id, info)
                });
                Some(Answer::MonitoringInfos(MonitoringInfosMetadataResponse { monitoring_info: infos.collect() }))
            }
            _ => None,
        }
    }

    async fn process(
        &self,
        mut control: BeamFnControlClient<Channel>,
        worker: String,
        id: &str,
        bundle: ProcessBundleRequest,
    ) -> Option<ProcessBundleResponse> {
        let process_bundle_descriptor_id = bundle.process_bundle_descriptor_id;
        let ask = with_id(&worker, GetProcessBundleDescriptorRequest { process_bundle_descriptor_id });
        let transforms = control.get_process_bundle_descriptor(ask).await.ok()?.into_inner().transforms;
        let urn = |transform: &pb::PTransform| transform.spec.clone().unwrap_or_default().urn;
        let pardo = transforms.values().find(|transform| urn(transform) == "beam:transform:pardo:v1")?;
        let payload = pb::ParDoPayload::decode(pardo.spec.clone()?.payload).ok()?;
        let argument = String::from_utf8(payload.do_fn?.payload.to_vec()).ok()?;
        let given: Vec<u8> = bundle.elements?.data.iter().flat_map(|data| data.data.to_vec()).collect();
        let Ok(count) = argument.parse::<u8>() else {
            let _ = self.told.send(Told::Holds(worker, values(&given)));
            // Fails when the test is over.
            self.open.clone().wait_for(|open| *open).await.ok()?;
            return Some(ProcessBundleResponse::default());
        };
        // With the timestamp, window and pane of the impulse.
        let header = given.get(..HEADER)?;
        let value = |n: u8| [header, &[n.to_string().len() as u8], n.to_string().as_bytes()].concat();
        let data: Vec<u8> = (0..count).flat_map(value).collect();
        let sink = transforms.iter().find(|(_, transform)| urn(transform) == DATA_SINK)?.0.clone();
        let data = Data { instruction_id: id.to_owned(), transform_id: sink, data: data.into(), is_last: false };
        Some(ProcessBundleResponse {
            elements: Some(Elements { data: vec![data], timers: vec![] }),
            monitoring_data: BTreeMap::from([("made".to_owned(), vec![count].into())]),
            ..Default::default()
        })
    }
}

/// Timestamp, one window that has no bytes, and a pane of one byte.
const HEADER: usize = 8 + 4 + 1;

/// The values of encoded elements, each shorter than 128 bytes.
fn values(mut encoded: &[u8]) -> Vec<String> {
    let mut values = Vec::new();
    while !encoded.is_empty() {
        let (length, rest) = (usize::from(encoded[HEADER]), &encoded[HEADER + 1..]);
        values.push(String::from_utf8(rest[..length].to_vec()).expect("text"));
        encoded = &rest[length..];
    }
    values
}

fn with_id<T>(worker: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("worker_id", MetadataValue::try_from(worker).expect("an id"));
    request
}
