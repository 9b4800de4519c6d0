//! State requests, and what may be cached of their answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ferrobeam_proto::fn_execution::instruction_response::Response as Answer;
use ferrobeam_proto::fn_execution::{
    InstructionResponse, ProcessBundleResponse, StateAppendRequest, StateGetRequest, StateKey, StateRequest, state_key,
    state_request, state_response,
};
use ferrobeam_runner::executor::{
    self, CellPart, Fault, StateError, StatePage, StateServer, UncountedEntry, UncountedPage,
};
use ferrobeam_runner::plan::{StageId, StateKind};

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

/// Has cells of which every page has another behind it.
struct Endless;

impl StateServer for Endless {
    fn get(&self, _: &executor::StateKey, _: &[u8]) -> Result<StatePage, StateError> {
        Ok(StatePage { data: Bytes::from_static(b"x"), continuation: Bytes::from_static(b"more") })
    }

    fn append(&self, _: &executor::StateKey, _: Bytes) -> Result<(), StateError> {
        Ok(())
    }

    fn clear(&self, _: &executor::StateKey) -> Result<(), StateError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_cache_token_is_over_after_writes_that_caches_do_not_follow() {
    let mut fixture = fixture_with(&[], stage_with_timers()).await;
    let mut state = fixture.fake.state().await;
    let (outputs, _inputs) = fixture.fake.data().await;
    let map = |key: &str| {
        let map_key = Bytes::copy_from_slice(key.as_bytes());
        let values = state_key::MultimapUserState { transform_id: "t".into(), map_key, ..Default::default() };
        Some(StateKey { r#type: Some(state_key::Type::MultimapUserState(values)) })
    };
    let get = || state_request::Request::Get(Default::default());
    let append = || state_request::Request::Append(Default::default());
    let clear = || state_request::Request::Clear(Default::default());
    // What each bundle asks, and whether the next one has its token.
    let bundles = [
        (vec![], true),
        (vec![(bag("a"), append()), (bag("a"), clear()), (bag("a"), append())], true),
        (vec![(bag("a"), get()), (map("x"), get())], true),
        (vec![(bag("b"), append())], true),
        (vec![(bag("a"), append())], false),
        (vec![(bag("a"), append())], true),
        (vec![(map("x"), append())], false),
        (vec![(map("x"), clear())], false),
        (vec![(bag("a"), get()), (bag("a"), clear()), (bag("a"), append())], true),
    ];
    let mut before: Option<(Bytes, bool)> = None;
    for (index, (requests, lasts)) in bundles.into_iter().enumerate() {
        let (mut bundle, outcome) = open_part(&fixture.bridge, 0, Some(0), Arc::new(Endless));
        bundle.close();
        let (id, mut request) = fixture.fake.bundle().await;
        let token = request.cache_tokens.pop().unwrap().token;
        if let Some((before, lasted)) = before {
            assert_eq!(before == token, lasted, "bundle {index}");
        }
        before = Some((token, lasts));
        for (key, request) in requests {
            assert_eq!(Fake::ask_state(&mut state, &id, key, request).await.error, "");
        }
        let mut ends = output(&id, "sink", vec![], true);
        ends.timers = vec![timers(&id, "a", b"", true), timers(&id, "b", b"", true)];
        outputs.send(ends).await.unwrap();
        fixture.fake.done(&id).await;
        outcome.await.unwrap().unwrap();
    }
    fixture.end().await;
}

/// A multimap of two keys, of whose values nobody knows where one ends.
struct Uncounted;

impl StateServer for Uncounted {
    fn get(&self, key: &executor::StateKey, _: &[u8]) -> Result<StatePage, StateError> {
        Err(StateError::Unsupported(format!("{key:?}")))
    }

    fn uncounted(&self, key: &executor::StateKey, continuation: &[u8]) -> Result<UncountedPage, StateError> {
        assert!(matches!(key, executor::StateKey::User { part: CellPart::MapEntries, .. }));
        let entry = |key: &'static str, values: &'static str| UncountedEntry {
            key: Bytes::from_static(key.as_bytes()),
            values: Bytes::from_static(values.as_bytes()),
        };
        Ok(match continuation {
            b"" => UncountedPage { entries: vec![entry("k", "abc"), entry("l", "d")], continuation: "next".into() },
            _ => UncountedPage { entries: vec![entry("l", "e")], continuation: Bytes::new() },
        })
    }

    fn append(&self, _: &executor::StateKey, _: Bytes) -> Result<(), StateError> {
        Ok(())
    }

    fn clear(&self, _: &executor::StateKey) -> Result<(), StateError> {
        Ok(())
    }
}

/// Stage 0 keeps a multimap whose values are counted by stage 1.
async fn counting_fixture(capabilities: &[&str]) -> Fixture {
    fixture_of(capabilities, |environment| {
        let mut plan = plan(environment, vec![stage_with_timers(), stage()]);
        let cell = &mut plan.stages[0].keyed.as_mut().unwrap().states[0];
        (cell.kind, cell.value, cell.entries) = (StateKind::Multimap, None, Some(StageId(1)));
        plan
    })
    .await
}

fn entries() -> Option<StateKey> {
    let key = state_key::MultimapEntriesUserState {
        transform_id: "step".into(),
        user_state_id: "seen".into(),
        ..Default::default()
    };
    Some(StateKey { r#type: Some(state_key::Type::MultimapEntriesUserState(key)) })
}

/// What an SDK makes of values that are a byte each: their number and themselves, behind the length of it all.
fn counted(nonce: &[u8], values: &[u8]) -> Vec<u8> {
    let mut pair = vec![4];
    pair.extend_from_slice(nonce);
    pair.push(4 + values.len() as u8);
    pair.extend_from_slice(&(values.len() as u32).to_be_bytes());
    pair.extend_from_slice(values);
    pair
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_a_multimap_are_counted_by_a_bundle_of_its_harness() {
    const EMBEDS: &str = "beam:protocol:control_request_elements_embedding:v1";
    for capabilities in [&[EMBEDS][..], &[]] {
        let mut fixture = counting_fixture(capabilities).await;
        let mut state = fixture.fake.state().await;
        let (outputs, mut inputs) = fixture.fake.data().await;
        // As many at once as there are permits for slow requests, and more.
        let bundles: Vec<_> =
            (0..40).map(|part| open_part(&fixture.bridge, 0, Some(part), Arc::new(Uncounted))).collect();
        let mut asking = Vec::new();
        let mut outcomes = Vec::new();
        for (mut bundle, outcome) in bundles {
            bundle.close();
            outcomes.push(outcome);
            asking.push(fixture.fake.bundle().await.0);
        }
        for token in ["", "next"] {
            for id in &asking {
                let get = StateGetRequest { continuation_token: token.into() };
                let request = Some(state_request::Request::Get(get));
                let request =
                    StateRequest { id: id.clone(), instruction_id: id.clone(), state_key: entries(), request };
                state.0.send(request).await.unwrap();
            }
            let expected: &[&[u8]] = if token.is_empty() { &[b"abc", b"d"] } else { &[b"e"] };
            let mut counts = Vec::new();
            for _ in &asking {
                let (id, request) = fixture.fake.bundle().await;
                assert_eq!(request.elements.is_some(), !capabilities.is_empty());
                let mut data = Vec::new();
                for (nonce, values) in (0u32..).zip(expected) {
                    let nonce = nonce.to_be_bytes();
                    let runner = state_key::Runner { key: Bytes::copy_from_slice(&nonce) };
                    let key = Some(StateKey { r#type: Some(state_key::Type::Runner(runner)) });
                    let get = state_request::Request::Get(Default::default());
                    let got = Fake::ask_state(&mut state, &id, key, get).await;
                    let Some(state_response::Response::Get(got)) = got.response else { panic!("{got:?}") };
                    assert_eq!(got.data, values);
                    data.extend(encoded(&counted(&nonce, values)));
                }
                counts.push((output(&id, "sink", data, true), id));
            }
            for (elements, id) in counts {
                if capabilities.is_empty() {
                    outputs.send(elements).await.unwrap();
                    fixture.fake.done(&id).await;
                } else {
                    let response = ProcessBundleResponse { elements: Some(elements), ..Default::default() };
                    fixture.fake.answer(&id, Answer::ProcessBundle(response)).await;
                }
            }
            for _ in &asking {
                let answer = state.1.message().await.unwrap().unwrap();
                let Some(state_response::Response::Get(got)) = answer.response else { panic!("{answer:?}") };
                let (data, next) = match token {
                    "" => ([b"k", &[0, 0, 0, 3][..], b"abc", b"l", &[0, 0, 0, 1], b"d"].concat(), "next"),
                    _ => ([b"l", &[0, 0, 0, 1][..], b"e"].concat(), ""),
                };
                assert_eq!((&got.data[..], &got.continuation_token[..]), (&data[..], next.as_bytes()));
            }
        }
        if capabilities.is_empty() {
            assert!(inputs.message().await.unwrap().is_some());
        }
        drop(outcomes);
        fixture.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_cannot_be_counted_fail_the_bundle_that_asked() {
    let mut fixture = counting_fixture(&[]).await;
    let mut state = fixture.fake.state().await;
    let (mut bundle, outcome) = open_part(&fixture.bridge, 0, Some(0), Arc::new(Uncounted));
    bundle.close();
    let (asking, _) = fixture.fake.bundle().await;
    let get = state_request::Request::Get(Default::default());
    let request =
        StateRequest { id: "1".into(), instruction_id: asking.clone(), state_key: entries(), request: Some(get) };
    state.0.send(request).await.unwrap();
    let (counting, _) = fixture.fake.bundle().await;
    let response = InstructionResponse { instruction_id: counting, error: "no such value".into(), response: None };
    fixture.fake.responses.send(response).await.unwrap();
    let answer = state.1.message().await.unwrap().unwrap();
    assert!(answer.error.contains("no such value"), "{}", answer.error);
    let response = InstructionResponse { instruction_id: asking, error: "sdk trace".into(), response: None };
    fixture.fake.responses.send(response).await.unwrap();
    let error = outcome.await.unwrap().unwrap_err();
    assert!(error.message.contains("no such value") && !error.retry, "{error}");
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
