//! State requests, and what may be cached of their answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ferrobeam_proto::fn_execution::{
    InstructionResponse, StateAppendRequest, StateGetRequest, StateKey, StateRequest, state_key, state_request,
};
use ferrobeam_runner::executor::{self, Fault, StateError, StatePage, StateServer};

use crate::harness::*;
use crate::support::*;

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
