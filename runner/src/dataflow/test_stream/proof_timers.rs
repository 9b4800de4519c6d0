//! Properties of TestStreams before stages with timers: all that time sets off is over before the next event.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use super::super::proof::{collection, job as proof_job, stage};
use super::super::{Topology, run};
use super::*;
use crate::clock::{Clock, WallClock};
use crate::element::{Batch, ElementCoder, Outputs, TimerTimes, TimerView, WireCoder, encode_windowed_value};
use crate::executor::{Bundle, BundleDone, Completion, OpenBundle, StageExecutor, TimerBatch};
use crate::plan::{Keyed, Plan, StageId, TestEvent, TestEvents, TimeDomain, TimerFamily};
use crate::time::Timestamp;
use crate::windowing::WindowCoder;

/// What happened, in order: the stage, and an element's key; or the key of a timer that fired, with an exclamation mark.
type Happened = Arc<Mutex<Vec<String>>>;

/// Runs user code on threads. Elements are `KV<key, command>`; a stage sets the timer that it is told to, and when that
/// fires, the first stage sends the second a command of its own.
struct User(Happened);

struct Open {
    stage: StageId,
    happened: Happened,
    input: Vec<Part>,
    end: Option<(Outputs, Completion)>,
}

enum Part {
    Elements(Batch),
    Timers(Bytes),
}

impl StageExecutor for User {
    fn open(&self, request: OpenBundle) -> Box<dyn Bundle> {
        let end = Some((request.outputs, request.completion));
        Box::new(Open { stage: request.stage, happened: Arc::clone(&self.0), input: vec![], end })
    }

    fn bundles_in_flight(&self, _stage: StageId) -> usize {
        2
    }
}

impl Bundle for Open {
    fn push(&mut self, batch: Batch) {
        self.input.push(Part::Elements(batch));
    }

    fn push_timers(&mut self, _family: usize, timers: Bytes) {
        self.input.push(Part::Timers(timers));
    }

    fn split(&mut self, _fraction: f64) {}

    fn close(&mut self) {
        let (mut outputs, completion) = self.end.take().unwrap();
        let (stage, input, happened) = (self.stage.0, std::mem::take(&mut self.input), Arc::clone(&self.happened));
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(3));
            let (mut data, mut timers) = (Vec::new(), [Vec::new(), Vec::new()]);
            for part in &input {
                match part {
                    Part::Elements(batch) => obey(stage, batch, &happened, &mut timers),
                    Part::Timers(due) => fire(stage, due, &happened, &mut data),
                }
            }
            if stage == 0 && !data.is_empty() {
                outputs.push(0, data.into()).unwrap();
            }
            outputs.finish().unwrap();
            let timers = (0..).zip(timers).map(|(family, timers)| TimerBatch { family, timers: timers.into() });
            completion(Ok(BundleDone {
                outputs,
                residuals: vec![],
                timers: timers.filter(|batch| !batch.timers.is_empty()).collect(),
                metrics: vec![],
                requires_finalization: None,
            }));
        });
    }
}

fn coder() -> ElementCoder {
    let kv = WireCoder::Kv(Box::new(WireCoder::Prefixed), Box::new(WireCoder::Prefixed));
    ElementCoder::new(kv, WindowCoder::Global)
}

/// The kinds of timers that a command may ask for: by the watermark; so much later by the wall clock, as SDKs reckon; at a
/// time of a clock that goes with the TestStream's and began at 0.
const WATERMARK: u8 = 0;
const WALL: u8 = 1;
const OF_THE_TEST: u8 = 2;

/// A command: a timer of a kind at a time, or none.
fn command(key: &str, timer: Option<(u8, i64)>) -> Bytes {
    let mut value = vec![key.len() as u8];
    value.extend_from_slice(key.as_bytes());
    match timer {
        None => value.push(0),
        Some((kind, time)) => {
            value.extend_from_slice(&[9, kind]);
            value.extend_from_slice(&time.to_be_bytes());
        }
    }
    value.into()
}

fn name(key: &[u8]) -> &str {
    std::str::from_utf8(&key[1..]).unwrap()
}

fn obey(stage: u32, batch: &Batch, happened: &Happened, timers: &mut [Vec<u8>; 2]) {
    let coder = coder();
    for element in batch.elements() {
        let view = coder.parse(element).unwrap();
        let (key, command) = coder.value.key_value(view.value).unwrap();
        happened.lock().unwrap().push(format!("{stage} {}", name(key)));
        let Some((&kind, time)) = command[1..].split_first() else { continue };
        let time = i64::from_be_bytes(time.try_into().unwrap());
        let (family, fire, hold) = match kind {
            WATERMARK => (0, Timestamp(time), Timestamp(time)),
            WALL => (1, Timestamp(WallClock.now().0 + time), view.timestamp),
            _ => (1, Timestamp(time), view.timestamp),
        };
        let set = Some(TimerTimes { fire, hold, pane: &[0x0f] });
        TimerView { key, tag: b"", windows: vec![&[]], set }.encode(&mut timers[family]);
    }
}

fn fire(stage: u32, due: &[u8], happened: &Happened, data: &mut Vec<u8>) {
    let mut at = 0;
    while at < due.len() {
        let (timer, length) = TimerView::parse(&due[at..], &WireCoder::Prefixed, &WindowCoder::Global).unwrap();
        at += length;
        happened.lock().unwrap().push(format!("{stage} {}!", name(timer.key)));
        let hold = timer.set.unwrap().hold;
        // The next stage sets a timer of its own a little later, by the watermark.
        let value = command(name(timer.key), Some((WATERMARK, hold.0 + 5)));
        encode_windowed_value(data, hold, &[&[]], &[0x0f], &value);
    }
}

fn plan(events: Vec<TestEvent>) -> Plan {
    let family = |stage: &str, family: &str, domain| TimerFamily {
        transform: stage.into(),
        family: family.into(),
        domain,
        key: WireCoder::Prefixed,
        window: WindowCoder::Global,
        on_window_expiration: false,
    };
    let keyed = |name: &str, input, outputs: &[u32]| {
        let timers =
            vec![family(name, "watermark", TimeDomain::EventTime), family(name, "clock", TimeDomain::ProcessingTime)];
        let mut stage = stage(name, input, outputs);
        stage.keyed = Some(Keyed { states: vec![], timers, time_sorted: false });
        stage
    };
    let unbounded = |name| {
        let mut collection = collection(name, coder().value);
        collection.bounded = false;
        collection
    };
    Plan {
        collections: vec![unbounded("played"), unbounded("first"), unbounded("second")],
        nodes: vec![
            Node::TestStream {
                name: "stream".into(),
                events: TestEvents::Listed(events),
                outputs: vec![("out".into(), CollectionId(0))],
            },
            Node::Stage(StageId(0)),
            Node::Stage(StageId(1)),
        ],
        stages: vec![keyed("first", 0, &[1]), keyed("second", 1, &[])],
        environments: vec![],
    }
}

#[test]
fn what_time_sets_off_is_over_before_the_next_event() {
    let clock = TestEvent::ProcessingTime;
    // Each event, and what it sets off.
    let script: Vec<(TestEvent, Vec<&str>)> = vec![
        (watermark(0), vec![]),
        (elements(&[("a", Some((WATERMARK, 50))), ("b", Some((WATERMARK, 50)))]), vec!["0 a", "0 b"]),
        (elements(&[("c", Some((WALL, 5000))), ("d", Some((WALL, 8000)))]), vec!["0 c", "0 d"]),
        (watermark(49), vec![]),
        (elements(&[("x", None)]), vec!["0 x"]),
        // The timers of the first stage fire; the second sets its own, which fire because the watermark has passed them.
        (clock(6000), vec!["0 c!", "1 c"]),
        (elements(&[("y", None)]), vec!["0 y"]),
        // The second timer of the clock still holds the watermark at the time of its element.
        (watermark(60), vec!["0 a!", "0 b!", "1 a", "1 b"]),
        (elements(&[("z", Some((WALL, 1000)))]), vec!["0 z"]),
        (clock(3000), vec!["0 d!", "1 d", "1 a!", "1 b!", "1 c!", "1 d!", "0 z!", "1 z", "1 z!"]),
        (elements(&[("p", Some((WALL, 70_000))), ("q", Some((WALL, 7_000_000)))]), vec!["0 p", "0 q"]),
        // No more input by the watermark's word; the clock's timers are still to come.
        (watermark(Timestamp::MAX.0), vec![]),
        (clock(80_000), vec!["0 p!", "1 p"]),
        (clock(1), vec![]),
    ];
    // At the end the clock runs out.
    plays(script, &["0 q!", "1 q", "1 q!", "1 p!"]);
}

#[test]
fn timers_of_a_clock_that_began_at_zero_fire_when_the_stream_has_moved_so_far() {
    let clock = TestEvent::ProcessingTime;
    let script: Vec<(TestEvent, Vec<&str>)> = vec![
        (watermark(0), vec![]),
        (elements(&[("a", Some((OF_THE_TEST, 6000)))]), vec!["0 a"]),
        (clock(5999), vec![]),
        (elements(&[("b", Some((OF_THE_TEST, 8000))), ("c", Some((WALL, 5000)))]), vec!["0 b", "0 c"]),
        (clock(1), vec!["0 a!", "1 a"]),
        (clock(1999), vec![]),
        (elements(&[("x", None)]), vec!["0 x"]),
        (clock(1), vec!["0 b!", "1 b"]),
        // Its time is over.
        (elements(&[("d", Some((OF_THE_TEST, 8000)))]), vec!["0 d", "0 d!", "1 d"]),
        (clock(3000), vec!["0 c!", "1 c"]),
        (watermark(Timestamp::MAX.0), vec!["1 a!", "1 b!", "1 c!", "1 d!"]),
    ];
    plays(script, &[]);
}

fn elements(elements: &[(&str, Option<(u8, i64)>)]) -> TestEvent {
    let elements = elements.iter().map(|(key, timer)| (Timestamp(10), command(key, *timer))).collect();
    TestEvent::Elements { tag: "out".into(), elements }
}

fn watermark(to: i64) -> TestEvent {
    TestEvent::Watermark { tag: "out".into(), to: Timestamp(to) }
}

/// Plays events, each of which sets off what is said beside it; and `end` what is left, with however many workers.
fn plays(script: Vec<(TestEvent, Vec<&str>)>, end: &[&str]) {
    let (events, expected): (Vec<_>, Vec<_>) = script.into_iter().unzip();
    let end = end.to_vec();
    for workers in [1, 2, 4] {
        let dir = tempfile::tempdir().unwrap();
        let happened = Happened::default();
        let logic: Arc<super::super::proof::Logic> = Arc::new(|_, _, _| {});
        let mut job = proof_job(plan(events.clone()), logic, 0, 64 << 20, dir.path());
        job.executor = Arc::new(User(Arc::clone(&happened)));
        run(job, Topology::single(workers)).unwrap();
        let mut happened = happened.lock().unwrap().clone().into_iter();
        for (number, expected) in expected.iter().chain([&end]).enumerate() {
            let mut expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
            let mut found: Vec<String> = happened.by_ref().take(expected.len()).collect();
            // Keys are independent, and so are workers.
            expected.sort();
            found.sort();
            assert_eq!(found, expected, "of event {number} with {workers} workers");
        }
        assert_eq!(happened.collect::<Vec<_>>(), Vec::<String>::new());
    }
}
