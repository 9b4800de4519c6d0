//! Timers, both ways.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrobeam_proto::fn_execution::beam_fn_control_client::BeamFnControlClient;
use ferrobeam_proto::fn_execution::instruction_response::Response as Answer;
use ferrobeam_proto::fn_execution::{Elements, GetProcessBundleDescriptorRequest, ProcessBundleResponse};
use ferrobeam_proto::urns::standard_protocols::CONTROL_REQUEST_ELEMENTS_EMBEDDING;
use ferrobeam_runner::executor::TimerBatch;

use crate::harness::*;
use crate::support::*;

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
