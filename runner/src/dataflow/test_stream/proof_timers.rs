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

/// A command: a timer of a family at a time, or none.
fn command(key: &str, timer: Option<(u8, i64)>) -> Bytes {
    let mut value = vec![key.len() as u8];
    value.extend_from_slice(key.as_bytes());
    match timer {
        None => value.push(0),
        Some((family, time)) => {
            value.extend_from_slice(&[9, family]);
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
        let Some((family, time)) = command[1..].split_first() else { continue };
        let time = i64::from_be_bytes(time.try_into().unwrap());
        // As SDKs do: the clock's timers are reckoned from the wall clock.
        let (fire, hold) = match family {
            0 => (Timestamp(time), Timestamp(time)),
            _ => (Timestamp(WallClock.now().0 + time), view.timestamp),
        };
        let set = Some(TimerTimes { fire, hold, pane: &[0x0f] });
        TimerView { key, tag: b"", windows: vec![&[]], set }.encode(&mut timers[usize::from(*family)]);
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
        let value = command(name(timer.key), Some((0, hold.0 + 5)));
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
    let elements = |elements: &[(&str, Option<(u8, i64)>)]| TestEvent::Elements {
        tag: "out".into(),
        elements: elements.iter().map(|(key, timer)| (Timestamp(10), command(key, *timer))).collect(),
    };
    let watermark = |to| TestEvent::Watermark { tag: "out".into(), to: Timestamp(to) };
    let clock = TestEvent::ProcessingTime;
    // Each event, and what it sets off.
    let script: Vec<(TestEvent, Vec<&str>)> = vec![
        (watermark(0), vec![]),
        (elements(&[("a", Some((0, 50))), ("b", Some((0, 50)))]), vec!["0 a", "0 b"]),
        (elements(&[("c", Some((1, 5000))), ("d", Some((1, 8000)))]), vec!["0 c", "0 d"]),
        (watermark(49), vec![]),
        (elements(&[("x", None)]), vec!["0 x"]),
        // The timers of the first stage fire; the second sets its own, which fire because the watermark has passed them.
        (clock(6000), vec!["0 c!", "1 c"]),
        (elements(&[("y", None)]), vec!["0 y"]),
        // The second timer of the clock still holds the watermark at the time of its element.
        (watermark(60), vec!["0 a!", "0 b!", "1 a", "1 b"]),
        (elements(&[("z", Some((1, 1000)))]), vec!["0 z"]),
        (clock(3000), vec!["0 d!", "1 d", "1 a!", "1 b!", "1 c!", "1 d!", "0 z!", "1 z", "1 z!"]),
        (elements(&[("p", Some((1, 70_000))), ("q", Some((1, 7_000_000)))]), vec!["0 p", "0 q"]),
        // No more input by the watermark's word; the clock's timers are still to come.
        (watermark(Timestamp::MAX.0), vec![]),
        (clock(80_000), vec!["0 p!", "1 p"]),
        (clock(1), vec![]),
    ];
    let (events, expected): (Vec<_>, Vec<_>) = script.into_iter().unzip();
    // At the end the clock runs out.
    let end = vec!["0 q!", "1 q", "1 q!", "1 p!"];
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
