//! Splits of running bundles, and what bundles hand back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrobeam_proto::fn_execution::instruction_request::Request as Instruction;
use ferrobeam_proto::fn_execution::instruction_response::Response as Answer;
use ferrobeam_proto::fn_execution::process_bundle_split_response::ChannelSplit;
use ferrobeam_proto::fn_execution::{
    BundleApplication, DelayedBundleApplication, Elements, InstructionResponse, ProcessBundleResponse,
    ProcessBundleSplitResponse,
};
use ferrobeam_proto::urns::standard_protocols::CONTROL_REQUEST_ELEMENTS_EMBEDDING;
use ferrobeam_runner::executor::{Fault, Residual};

use crate::harness::*;
use crate::support::*;

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
