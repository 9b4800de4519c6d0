//! Properties of TestStreams before groupings: all that the watermark or the clock fires is over before the next event.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use super::super::proof::{Logic, collection, job as proof_job, stage};
use super::super::{Topology, run};
use super::*;
use crate::element::{ElementCoder, WireCoder, encode_windowed_value};
use crate::plan::{Node, Plan, StageId, TestEvent, TestEvents};
use crate::time::Timestamp;
use crate::windowing::{IntervalWindow, Merging, OnTimeBehavior, TimestampTransform, Trigger, WindowCoder, Windowing};

fn kv() -> WireCoder {
    WireCoder::Kv(Box::new(WireCoder::Prefixed), Box::new(WireCoder::Prefixed))
}

fn grouped() -> WireCoder {
    WireCoder::Kv(Box::new(WireCoder::Prefixed), Box::new(WireCoder::Iterable(Box::new(WireCoder::Prefixed))))
}

/// `KV<key, "1">`.
fn value(key: u8) -> Bytes {
    Bytes::from(vec![1, key, 1, 1])
}

/// A TestStream, a stage that windows its elements, and two groupings with a slow stage behind each; the first of these
/// gives an element for each pane.
fn plan(events: Vec<TestEvent>, first: Windowing, second: Windowing) -> Plan {
    let collection = |name: &str, value, windowing: &Windowing| {
        let mut collection = collection(name, value);
        (collection.windowing, collection.bounded) = (windowing.clone(), false);
        collection
    };
    let group = |name: &str, input, output, windowing: &Windowing| Node::GroupByKey {
        name: name.into(),
        input: CollectionId(input),
        output: CollectionId(output),
        windowing: windowing.clone(),
        merge: None,
        bounded: false,
    };
    let global = Windowing::plain(WindowCoder::Global, Merging::None);
    Plan {
        collections: vec![
            collection("played", kv(), &global),
            collection("windowed", kv(), &first),
            collection("grouped", grouped(), &first),
            collection("taken apart", kv(), &second),
            collection("grouped again", grouped(), &second),
        ],
        nodes: vec![
            Node::TestStream {
                name: "stream".into(),
                events: TestEvents::Listed(events),
                outputs: vec![("out".into(), CollectionId(0))],
            },
            Node::Stage(StageId(0)),
            group("group", 1, 2, &first),
            Node::Stage(StageId(1)),
            group("group again", 3, 4, &second),
            Node::Stage(StageId(2)),
        ],
        stages: vec![stage("window", 0, &[1]), stage("take apart", 2, &[3]), stage("note", 4, &[])],
        environments: vec![],
    }
}

/// Windows of ten milliseconds; each stage notes what it sees: its number, and key by key how many values there are.
fn logic(happened: &Arc<Mutex<Vec<String>>>) -> Arc<Logic> {
    let happened = Arc::clone(happened);
    let played = ElementCoder::new(kv(), WindowCoder::Global);
    let grouped = ElementCoder::new(grouped(), WindowCoder::Interval);
    Arc::new(move |stage, batch, emit| {
        thread::sleep(Duration::from_millis(3));
        for element in batch.elements() {
            let mut out = Vec::new();
            let note = |key: &[u8], count: u32| {
                happened.lock().unwrap().push(format!("{} {}x{count}", stage.0, char::from(key[1])));
            };
            if stage.0 == 0 {
                let view = played.parse(element).unwrap();
                note(view.value, 1);
                let start = view.timestamp.0.div_euclid(10) * 10;
                let window = IntervalWindow { start: Timestamp(start), end: Timestamp(start + 10) }.encode();
                encode_windowed_value(&mut out, view.timestamp, &[&window], &[0x0f], view.value);
            } else {
                let view = grouped.parse(element).unwrap();
                let (key, values) = grouped.value.key_value(view.value).unwrap();
                let count = u32::from_be_bytes(values[..4].try_into().unwrap());
                note(key, count);
                let window = view.windows.clone().next().unwrap();
                if stage.0 == 1 {
                    encode_windowed_value(&mut out, view.timestamp, &[window], &[0x0f], &[key, &[1, 1]].concat());
                }
            }
            if !out.is_empty() {
                emit(&out);
            }
        }
    })
}

fn elements(keys: &str, at: i64) -> TestEvent {
    let elements = keys.bytes().map(|key| (Timestamp(at), value(key))).collect();
    TestEvent::Elements { tag: "out".into(), elements }
}

fn watermark(to: i64) -> TestEvent {
    TestEvent::Watermark { tag: "out".into(), to: Timestamp(to) }
}

/// Plays events, each of which sets off what stands beside it, in any order; the last entry is the end.
fn check(script: Vec<(TestEvent, Vec<&str>)>, end: Vec<&str>, first: Trigger, second: Trigger) {
    let windowing = |trigger| Windowing {
        trigger,
        on_time: OnTimeBehavior::FireIfNonempty,
        ..Windowing::plain(WindowCoder::Interval, Merging::None)
    };
    let (events, mut expected): (Vec<_>, Vec<_>) = script.into_iter().unzip();
    expected.push(end);
    let plan = plan(events, windowing(first), windowing(second));
    for workers in [1, 2, 4] {
        let dir = tempfile::tempdir().unwrap();
        let happened = Arc::default();
        let job = proof_job(plan.clone(), logic(&happened), 0, 64 << 20, dir.path());
        run(job, Topology::single(workers)).unwrap();
        let mut happened = happened.lock().unwrap().clone().into_iter();
        for (number, expected) in expected.iter().enumerate() {
            let mut expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
            let mut found: Vec<String> = happened.by_ref().take(expected.len()).collect();
            expected.sort();
            found.sort();
            assert_eq!(found, expected, "of event {number} with {workers} workers");
        }
        assert_eq!(happened.collect::<Vec<_>>(), Vec::<String>::new());
    }
}

#[test]
fn what_the_watermark_fires_is_over_before_the_next_event() {
    let script = vec![
        (watermark(0), vec![]),
        (elements("aabc", 1), vec!["0 ax1", "0 ax1", "0 bx1", "0 cx1"]),
        (watermark(9), vec![]),
        (elements("a", 9), vec!["0 ax1"]),
        (watermark(10), vec!["1 ax3", "1 bx1", "1 cx1", "2 ax1", "2 bx1", "2 cx1"]),
        // Too late.
        (elements("a", 5), vec!["0 ax1"]),
        (elements("bd", 15), vec!["0 bx1", "0 dx1"]),
        (watermark(20), vec!["1 bx1", "1 dx1", "2 bx1", "2 dx1"]),
        (elements("d", 39), vec!["0 dx1"]),
        (elements("e", 45), vec!["0 ex1"]),
        (watermark(50), vec!["1 dx1", "1 ex1", "2 dx1", "2 ex1"]),
        (elements("f", 55), vec!["0 fx1"]),
    ];
    check(script, vec!["1 fx1", "2 fx1"], Trigger::Default, Trigger::Default);
}

#[test]
fn what_the_clock_fires_is_over_before_the_next_event() {
    let delayed = Trigger::Repeat(Box::new(Trigger::AfterProcessingTime(vec![TimestampTransform::Delay(5000)])));
    let clock = TestEvent::ProcessingTime;
    let script = vec![
        (elements("aab", 1), vec!["0 ax1", "0 ax1", "0 bx1"]),
        (clock(3000), vec![]),
        (elements("bc", 1), vec!["0 bx1", "0 cx1"]),
        (clock(1999), vec![]),
        (clock(1), vec!["1 ax2", "1 bx2", "2 ax1", "2 bx1"]),
        (elements("a", 1), vec!["0 ax1"]),
        (clock(3000), vec!["1 cx1", "2 cx1"]),
        // The pane of `a` is due later, but the window ends.
        (watermark(10), vec!["1 ax1", "2 ax1"]),
        (clock(9000), vec![]),
    ];
    check(script, vec![], delayed, Trigger::Always);
}
