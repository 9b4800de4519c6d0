//! Harnesses made of tonic clients: what SDKs may do that Python's does not, and what no SDK may do.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;
mod nonsense;
mod splits;
mod state;
#[path = "../support/mod.rs"]
mod support;
mod timers;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrobeam_harness_bridge::Bridge;
use ferrobeam_proto::fn_execution::beam_fn_control_client::BeamFnControlClient;
use ferrobeam_proto::fn_execution::instruction_request::Request as Instruction;
use ferrobeam_proto::fn_execution::instruction_response::Response as Answer;
use ferrobeam_proto::fn_execution::provision_service_client::ProvisionServiceClient;
use ferrobeam_proto::fn_execution::{
    BundleApplication, DelayedBundleApplication, Elements, GetProcessBundleDescriptorRequest, GetProvisionInfoRequest,
    MonitoringInfosMetadataResponse, ProcessBundleResponse, RemoteGrpcPort,
};
use ferrobeam_proto::pipeline::MonitoringInfo;
use ferrobeam_proto::urns::standard_protocols::CONTROL_REQUEST_ELEMENTS_EMBEDDING;
use ferrobeam_runner::time::Timestamp;
use harness::*;
use prost::Message;
use support::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

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

#[tokio::test]
async fn a_pool_that_refuses_is_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let (address, _started, pool) = pool("no room for workers").await;
    let mut config = config(plan(&external(&address), vec![stage()]), Arc::default(), folder.path());
    config.restarts = 0;
    let error = Bridge::start(config).await.unwrap_err().to_string();
    assert!(error.contains("no room for workers") && error.contains(&address), "{error}");
    pool.abort();
}

/// How an environment at `address` does not start within two seconds, and what was said of it before.
async fn not_started(address: &str) -> (String, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let said = Arc::new(Collected::default());
    let mut config = config(plan(&external(address), vec![stage()]), said.clone(), folder.path());
    config.restarts = 0;
    config.start_timeout = Duration::from_secs(2);
    let error = Bridge::start(config).await.unwrap_err().to_string();
    (error, said.entries().into_iter().map(|entry| entry.message).collect())
}

#[tokio::test]
async fn a_worker_that_cannot_be_had_is_told_of_soon_and_with_a_cure() {
    let free = || tokio::net::TcpListener::bind("127.0.0.1:0");
    // Nobody listens.
    let gone = free().await.unwrap().local_addr().unwrap().to_string();
    let (error, said) = not_started(&gone).await;
    for part in [&*format!("EXTERNAL {gone}"), "cannot be reached", "refused", "LOOPBACK", "--environment_type="] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
    assert!(error.starts_with("environment "), "{error}");
    let [told] = &said[..] else { panic!("{said:?}") };
    assert!(told.contains(&gone) && told.contains("cannot be reached") && told.contains("refused"), "{told}");

    // Somebody listens, and says nothing.
    let silent = free().await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let (error, said) = not_started(&address).await;
    assert!(error.contains(&address) && error.contains("did not answer"), "{error}");
    let [told] = &said[..] else { panic!("{said:?}") };
    assert!(told.contains(&address) && told.contains("has not answered"), "{told}");

    // It is no worker pool.
    let listener = free().await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let other = tonic::transport::Server::builder().add_routes(tonic::service::Routes::default());
    let serving = tokio::spawn(other.serve_with_incoming(incoming));
    let (error, _) = not_started(&address).await;
    assert!(error.contains(&address) && error.contains("another program"), "{error}");
    serving.abort();

    // A worker is started, and does not come.
    let (address, _started, pool) = pool("").await;
    let (error, said) = not_started(&address).await;
    assert!(error.contains(&address) && error.contains("did not open its control stream"), "{error}");
    let [told] = &said[..] else { panic!("{said:?}") };
    assert!(told.contains(&address) && told.contains("has not opened its control stream"), "{told}");
    pool.abort();
}
