//! What no SDK may do.

use std::sync::Arc;

use ferrobeam_proto::fn_execution::Elements;
use ferrobeam_proto::fn_execution::instruction_response::Response as Answer;
use ferrobeam_runner::executor::{BundleError, Fault};

use crate::harness::*;
use crate::support::*;

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
