//! Side inputs that grow, driven event by event by TestStreams, with several workers and processes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;

use super::super::proof::{collection, job as proof_job, stage, topologies};
use super::super::{Job, run};
use crate::element::{Batch, ElementCoder, Outputs, WireCoder, encode_windowed_value};
use crate::executor::{
    Bundle, BundleDone, BundleError, Completion, Fault, OpenBundle, StageExecutor, StateKey, StateServer,
};
use crate::plan::{Access, CollectionId, Node, Plan, SideInput, StageId, TestEvent, TestEvents, WindowMapping};
use crate::time::Timestamp;
use crate::windowing::{IntervalWindow, Merging, TimestampTransform, Trigger, WindowCoder, Windowing};

/// Processes and workers of each.
const SHAPES: [(usize, usize); 4] = [(1, 1), (1, 2), (1, 4), (2, 2)];

/// Length of a window.
const LENGTH: i64 = 10;

/// What a reading stage saw: the element, the start of its window, what the side input held.
type Sight = (u8, i64, Vec<u8>);

/// Windows that the SDK may be asked about: more than the gate remembers answers of.
const ASKED_AT_MOST: usize = 10_500;

#[derive(Clone, Default)]
struct Seen {
    sights: Arc<Mutex<Vec<Sight>>>,
    /// How many windows were mapped, on all workers.
    asked: Arc<AtomicUsize>,
}

/// Runs bundles on threads of their own.
///
/// Stages 0 to 2 put elements into windows by their timestamps; numbers from 50 to 99 are in the next window too. Stages
/// 3 and 4 read their side input for every element, and pass the element on. Stage 5 maps windows to the ones before.
struct Windows {
    seen: Seen,
    /// Bundles of reading stages fail so often before they succeed.
    failures: Mutex<BTreeMap<u8, u32>>,
}

struct Open {
    run: Option<Box<dyn FnOnce(Vec<Batch>) + Send>>,
    input: Vec<Batch>,
}

impl StageExecutor for Windows {
    fn open(&self, request: OpenBundle) -> Box<dyn Bundle> {
        let OpenBundle { stage, state, outputs, completion, .. } = request;
        let seen = self.seen.clone();
        let fails = {
            let mut failures = self.failures.lock().unwrap();
            let left = failures.get_mut(&(stage.0 as u8)).filter(|left| **left > 0);
            left.map(|left| *left -= 1).is_some()
        };
        let run = move |input| work(stage, input, &*state, outputs, completion, &seen, fails);
        Box::new(Open { run: Some(Box::new(run)), input: Vec::new() })
    }

    fn bundles_in_flight(&self, _stage: StageId) -> usize {
        2
    }
}

impl Bundle for Open {
    fn push(&mut self, batch: Batch) {
        self.input.push(batch);
    }

    fn push_timers(&mut self, _family: usize, _timers: Bytes) {}

    fn close(&mut self) {
        let (run, input) = (self.run.take().unwrap(), std::mem::take(&mut self.input));
        thread::spawn(move || run(input));
    }

    fn split(&mut self, _fraction: f64) {}
}

fn window(start: i64) -> Bytes {
    IntervalWindow { start: Timestamp(start), end: Timestamp(start + LENGTH) }.encode()
}

fn work(
    stage: StageId,
    input: Vec<Batch>,
    state: &dyn StateServer,
    mut outputs: Outputs,
    completion: Completion,
    seen: &Seen,
    fails: bool,
) {
    let mut out = Vec::new();
    let mut sights = Vec::new();
    for batch in &input {
        for element in batch.elements() {
            match stage.0 {
                0..=2 => into_windows(element, &mut out),
                5 => {
                    seen.asked.fetch_add(1, Ordering::Relaxed);
                    map_window(element, &mut out);
                }
                _ => {
                    let coder = ElementCoder::new(WireCoder::Prefixed, WindowCoder::Interval);
                    let view = coder.parse(element).unwrap();
                    for window in view.windows {
                        let found = read(state, window, stage);
                        let start = IntervalWindow::decode(window).unwrap().start.0;
                        sights.push((view.value[1], start, found));
                    }
                    out.extend_from_slice(element);
                }
            }
        }
    }
    let too_often = seen.asked.load(Ordering::Relaxed) > ASKED_AT_MOST;
    if fails || too_often {
        let message = if too_often { "asked again and again" } else { "told to" }.to_owned();
        return completion(Err(BundleError { fault: Fault::User, retry: !too_often, message, environment: None }));
    }
    seen.sights.lock().unwrap().extend(sights);
    outputs.push(0, out.into()).unwrap();
    outputs.finish().unwrap();
    let (residuals, timers, metrics) = (vec![], vec![], vec![]);
    completion(Ok(BundleDone { outputs, residuals, timers, metrics, requires_finalization: None }));
}

fn into_windows(element: &[u8], out: &mut Vec<u8>) {
    let coder = ElementCoder::new(WireCoder::Prefixed, WindowCoder::Global);
    let view = coder.parse(element).unwrap();
    let start = view.timestamp.0.div_euclid(LENGTH) * LENGTH;
    let windows = [window(start), window(start + LENGTH)];
    let both: Vec<&[u8]> = windows.iter().map(|window| &window[..]).collect();
    let count = if (50..100).contains(&view.value[1]) { 2 } else { 1 };
    encode_windowed_value(out, view.timestamp, &both[..count], view.pane, view.value);
}

fn map_window(element: &[u8], out: &mut Vec<u8>) {
    // Timestamp, one global window, pane, a nonce of four bytes with its length, the window.
    let (head, main) = element.split_at(18);
    out.extend_from_slice(head);
    out.extend_from_slice(&window(IntervalWindow::decode(main).unwrap().start.0 - LENGTH));
}

fn read(state: &dyn StateServer, main: &[u8], stage: StageId) -> Vec<u8> {
    let start = IntervalWindow::decode(main).unwrap().start.0;
    let side = if stage == StageId(4) { window(start - LENGTH) } else { Bytes::copy_from_slice(main) };
    let key = StateKey::IterableSideInput { transform: "reads".into(), side_input: "side".into(), window: side };
    let page = state.get(&key, b"").unwrap();
    assert!(page.continuation.is_empty());
    let mut found: Vec<u8> = page.data.chunks(2).map(|value| value[1]).collect();
    found.sort_unstable();
    found
}

fn elements(tag: &str, numbers: &[u8], at: i64) -> TestEvent {
    let elements = numbers.iter().map(|number| (Timestamp(at), Bytes::from(vec![1, *number]))).collect();
    TestEvent::Elements { tag: tag.into(), elements }
}

fn watermark(tag: &str, to: i64) -> TestEvent {
    TestEvent::Watermark { tag: tag.into(), to: Timestamp(to) }
}

/// A TestStream with a main input, a side input and another main input. Stage 3 reads the side input for the main one;
/// stage 4 reads, for the other one, what stage 3 gave, in the window before.
fn plan(events: Vec<TestEvent>, trigger: Trigger) -> Plan {
    let windowed = Windowing { trigger, ..Windowing::plain(WindowCoder::Interval, Merging::None) };
    let collections = (0..12).map(|n| {
        let mut collection = collection(&format!("c{n}"), WireCoder::Prefixed);
        collection.bounded = false;
        match n {
            0..=2 => {}
            // What stage 5 is asked and answers.
            9 | 10 => {
                let window = WireCoder::IntervalWindow;
                collection.value = WireCoder::Kv(WireCoder::Prefixed.into(), window.into());
            }
            4 => collection.windowing = windowed.clone(),
            _ => collection.windowing = Windowing::plain(WindowCoder::Interval, Merging::None),
        }
        collection
    });
    let side_input = |collection, mapping| SideInput {
        transform: "reads".into(),
        local_name: "side".into(),
        collection: CollectionId(collection),
        access: Access::Iterable,
        mapping,
    };
    let spread = |name: &str, input, output| Node::Redistribute {
        name: name.into(),
        input: CollectionId(input),
        output: CollectionId(output),
        by_key: false,
    };
    let mut stages = vec![
        stage("main windows", 0, &[3]),
        stage("side windows", 1, &[4]),
        stage("other windows", 2, &[5]),
        stage("reads", 6, &[8]),
        stage("reads what it gave", 7, &[11]),
        stage("maps windows", 9, &[10]),
    ];
    stages[3].side_inputs.push(side_input(4, WindowMapping::Same));
    stages[4].side_inputs.push(side_input(8, WindowMapping::Sdk(StageId(5))));
    let tags = ["main", "side", "other"].into_iter().zip(0..);
    Plan {
        collections: collections.collect(),
        nodes: vec![
            Node::TestStream {
                name: "events".into(),
                events: TestEvents::Listed(events),
                outputs: tags.map(|(tag, id)| (tag.into(), CollectionId(id))).collect(),
            },
            Node::Stage(StageId(0)),
            Node::Stage(StageId(1)),
            Node::Stage(StageId(2)),
            spread("spread main", 3, 6),
            spread("spread other", 5, 7),
            Node::Stage(StageId(3)),
            Node::Stage(StageId(4)),
        ],
        stages,
        environments: vec![],
    }
}

/// Runs the plan; `expected` is what the reading stages see, in groups whose order within does not matter.
fn check(plan: &Plan, failures: u32, expected: &[&[(u8, i64, &[u8])]]) {
    for shape in SHAPES {
        for memory in [64 << 20, 0] {
            let seen = Seen::default();
            let dir = tempfile::tempdir().unwrap();
            let parts: Vec<_> = topologies(shape)
                .into_iter()
                .map(|topology| {
                    let failures = Mutex::new([(3, failures), (5, failures)].into());
                    let executor = Arc::new(Windows { seen: seen.clone(), failures });
                    let job = proof_job(plan.clone(), Arc::new(|_, _, _| {}), 0, memory, dir.path());
                    let job = Job { executor, ..job };
                    thread::spawn(move || run(job, topology))
                })
                .collect();
            for part in parts {
                part.join().unwrap().unwrap();
            }
            let seen = seen.sights.lock().unwrap().clone();
            let mut rest = &seen[..];
            for group in expected {
                let (here, others) = rest.split_at(group.len().min(rest.len()));
                let mut here = here.to_vec();
                here.sort_unstable();
                let mut wanted: Vec<Sight> = group.iter().map(|(n, w, found)| (*n, *w, found.to_vec())).collect();
                wanted.sort_unstable();
                assert_eq!(here, wanted, "with {shape:?}, in all {seen:?}");
                rest = others;
            }
            assert!(rest.is_empty(), "{rest:?} too much, with {shape:?}");
        }
    }
}

#[test]
fn main_input_waits_for_its_window() {
    let events = vec![
        elements("main", &[1], 5),
        elements("main", &[2], 15),
        elements("main", &[50], 5),
        elements("side", &[101, 102], 5),
        elements("side", &[103], 5),
        elements("side", &[104], 15),
        // What came is shown, each element in the window that is ready.
        watermark("side", 10),
        elements("main", &[3], 6),
        elements("side", &[105], 15),
        watermark("side", 20),
        // Late for the side input, and yet there for what comes later.
        elements("side", &[106], 5),
        elements("main", &[4], 7),
        // Never comes: read as empty at the end.
        elements("main", &[5], 25),
    ];
    let first: &[u8] = &[101, 102, 103];
    let expected: &[&[(u8, i64, &[u8])]] = &[
        &[(1, 0, first), (50, 0, first)],
        &[(3, 0, first)],
        &[(2, 10, &[104, 105]), (50, 10, &[104, 105])],
        &[(4, 0, &[101, 102, 103, 106])],
        &[(5, 20, &[])],
    ];
    check(&plan(events, Trigger::Default), 0, expected);
}

#[test]
fn a_triggered_side_input_shows_its_latest_firing() {
    let repeat = |trigger| Trigger::Repeat(Box::new(trigger));
    let events = vec![
        elements("main", &[1, 50], 5),
        elements("side", &[101], 5),
        elements("main", &[2], 5),
        elements("side", &[102], 5),
        elements("main", &[3], 5),
        elements("side", &[103], 15),
        watermark("side", 1000),
        elements("main", &[4], 45),
    ];
    let expected: &[&[(u8, i64, &[u8])]] = &[
        &[(1, 0, &[101]), (50, 0, &[101])],
        &[(2, 0, &[101])],
        &[(3, 0, &[102])],
        &[(50, 10, &[103])],
        &[(4, 40, &[])],
    ];
    check(&plan(events, repeat(Trigger::ElementCount(1))), 1, expected);

    let delay = TimestampTransform::Delay(1000);
    let events = vec![
        elements("main", &[1], 5),
        elements("side", &[101], 5),
        TestEvent::ProcessingTime(999),
        elements("side", &[102], 5),
        elements("main", &[2], 5),
        TestEvent::ProcessingTime(1),
        elements("main", &[3], 5),
    ];
    let both: &[u8] = &[101, 102];
    let expected: &[&[(u8, i64, &[u8])]] = &[&[(1, 0, both), (2, 0, both)], &[(3, 0, both)]];
    check(&plan(events, repeat(Trigger::AfterProcessingTime(vec![delay]))), 0, expected);
}

#[test]
fn what_waits_holds_the_watermark_and_a_side_input_does_not() {
    let events = vec![
        elements("main", &[1], 5),
        watermark("main", 40),
        // Stage 4 waits for the windows before these in what stage 3 gave.
        elements("other", &[11], 15),
        elements("other", &[12], 25),
        elements("other", &[13], 55),
        elements("side", &[101], 5),
        // Stage 3 goes on, and its watermark is that of its main input at once.
        watermark("side", 10),
        elements("main", &[2], 41),
        watermark("side", 50),
        watermark("main", 50),
    ];
    let expected: &[&[(u8, i64, &[u8])]] =
        &[&[(1, 0, &[101])], &[(11, 10, &[1]), (12, 20, &[])], &[(2, 40, &[])], &[(13, 50, &[2])]];
    check(&plan(events, Trigger::Default), 2, expected);
}

#[test]
fn many_windows_wait() {
    // More than have queues of their own.
    let windows = 200;
    let mut events: Vec<_> = (0..windows).rev().map(|n| elements("main", &[n as u8 % 50], n * LENGTH)).collect();
    let mut expected: Vec<Vec<(u8, i64, &[u8])>> = Vec::new();
    for n in (0..windows).step_by(20) {
        events.push(watermark("side", (n + 20) * LENGTH));
        expected.push((n..n + 20).map(|n| (n as u8 % 50, n * LENGTH, &[][..])).collect());
    }
    let expected: Vec<_> = expected.iter().map(|group| &group[..]).collect();
    check(&plan(events, Trigger::Default), 0, &expected);
}

#[test]
fn more_windows_wait_than_answers_are_remembered() {
    // Stage 4 asks stage 5 about each of them, of which one worker has all, or several have some.
    let windows = ASKED_AT_MOST as i64;
    let at = |n: i64| (Timestamp(n * LENGTH + 5), Bytes::from_static(&[1, 7]));
    let many = TestEvent::Elements { tag: "other".into(), elements: (1..=windows).map(at).collect() };
    let expected: Vec<(u8, i64, &[u8])> = (1..=windows).map(|n| (7, n * LENGTH, &[][..])).collect();
    check(&plan(vec![many], Trigger::Default), 0, &[&expected]);
}
