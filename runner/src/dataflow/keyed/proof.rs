//! Keyed stages under test: user code on threads, with real state, timers, retries, and several workers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use crate::dataflow::proof::counting;
use crate::dataflow::{Drain, Job, JobObserver, Settings, Topology, run};
use crate::element::{Batch, ElementCoder, Outputs, TimerTimes, TimerView, WireCoder, encode_windowed_value};
use crate::executor::{
    Bundle, BundleDone, BundleError, CellPart, Completion, Fault, OpenBundle, StageExecutor, StateKey, StateServer,
    TimerBatch,
};
use crate::memory::Budget;
use crate::metrics::Metric;
use crate::plan::{Collection, CollectionId, EnvironmentId, Keyed, Node, Plan, Port, Stage, StageId};
use crate::time::Timestamp;
use crate::windowing::{IntervalWindow, Merging, WindowCoder, Windowing};

const KEYS: u8 = 20;
const WINDOWS: i64 = 5;
const EACH: usize = 7;
const SIZE: i64 = 10;

type Found = Arc<Mutex<BTreeMap<(u8, i64), Vec<u32>>>>;

struct User {
    /// Every so many bundles one fails, after all it did; 0: none.
    fails: u64,
    opened: AtomicU64,
    found: Found,
}

struct Open {
    stage: StageId,
    fail: bool,
    state: Arc<dyn StateServer>,
    input: Vec<Part>,
    end: Option<(Outputs, Completion)>,
    found: Found,
}

enum Part {
    Elements(Batch),
    Timers(Bytes),
}

impl StageExecutor for Arc<User> {
    fn open(&self, request: OpenBundle) -> Box<dyn Bundle> {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        Box::new(Open {
            stage: request.stage,
            fail: self.fails > 0 && number % self.fails == self.fails - 1,
            state: request.state,
            input: Vec::new(),
            end: Some((request.outputs, request.completion)),
            found: Arc::clone(&self.found),
        })
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
        let (stage, fail, input) = (self.stage, self.fail, std::mem::take(&mut self.input));
        let (state, found) = (Arc::clone(&self.state), Arc::clone(&self.found));
        std::thread::spawn(move || {
            let (mut data, mut timers) = (Vec::new(), Vec::new());
            for part in &input {
                match (stage.0, part) {
                    (0, _) => make(&mut data),
                    (1, Part::Elements(batch)) => count(batch, &*state, &mut timers),
                    (1, Part::Timers(due)) => fire(due, &*state, &mut data),
                    (_, Part::Elements(batch)) => note(batch, &found, fail),
                    (_, Part::Timers(_)) => panic!("timers of a stage that has none"),
                }
            }
            if fail {
                let message = "this bundle was told to fail".to_owned();
                return completion(Err(BundleError { fault: Fault::User, retry: true, message, environment: None }));
            }
            if !data.is_empty() {
                outputs.push(0, data.into()).unwrap();
            }
            outputs.finish().unwrap();
            let timers = vec![TimerBatch { family: 0, timers: timers.into() }];
            let (residuals, metrics) = (vec![], vec![]);
            completion(Ok(BundleDone { outputs, residuals, timers, metrics, requires_finalization: None }));
        });
    }
}

fn window(index: i64) -> Bytes {
    IntervalWindow { start: Timestamp(index * SIZE), end: Timestamp((index + 1) * SIZE) }.encode()
}

fn coder() -> ElementCoder {
    let kv = WireCoder::Kv(Box::new(WireCoder::Prefixed), Box::new(WireCoder::Prefixed));
    ElementCoder::new(kv, WindowCoder::Interval)
}

fn make(data: &mut Vec<u8>) {
    for _ in 0..EACH {
        for (index, key) in (0..WINDOWS).flat_map(|index| (0..KEYS).map(move |key| (index, key))) {
            let at = Timestamp(index * SIZE);
            encode_windowed_value(data, at, &[&window(index)], &[0x0f], &[1, key, 0]);
        }
    }
}

fn cell(key: &[u8], window: &[u8]) -> StateKey {
    StateKey::User {
        transform: "count".into(),
        state: "n".into(),
        window: Bytes::copy_from_slice(window),
        key: Bytes::copy_from_slice(key),
        part: CellPart::Bag,
    }
}

/// Counts elements in state, and sets a timer for the end of the window anew at each.
fn count(batch: &Batch, state: &dyn StateServer, timers: &mut Vec<u8>) {
    let coder = coder();
    for element in batch.elements() {
        let view = coder.parse(element).unwrap();
        let (key, _) = coder.value.key_value(view.value).unwrap();
        let window = view.windows.clone().next().unwrap();
        let cell = cell(key, window);
        let before = state.get(&cell, &[]).unwrap().data;
        let count = before.get(1..5).map_or(0, |count| u32::from_be_bytes(count.try_into().unwrap()));
        state.clear(&cell).unwrap();
        state.append(&cell, [&[4][..], &(count + 1).to_be_bytes()].concat().into()).unwrap();
        let fire = IntervalWindow::decode(window).unwrap().max_timestamp();
        let set = Some(TimerTimes { fire, hold: fire, pane: &[0x0f] });
        TimerView { key, tag: b"", windows: vec![window], set }.encode(timers);
    }
}

fn fire(due: &[u8], state: &dyn StateServer, data: &mut Vec<u8>) {
    let mut at = 0;
    while at < due.len() {
        let (timer, length) = TimerView::parse(&due[at..], &WireCoder::Prefixed, &WindowCoder::Interval).unwrap();
        at += length;
        let cell = cell(timer.key, timer.windows[0]);
        let count = state.get(&cell, &[]).unwrap().data;
        state.clear(&cell).unwrap();
        let value = [timer.key, &count].concat();
        encode_windowed_value(data, timer.set.unwrap().hold, &timer.windows, &[0x0f], &value);
    }
}

fn note(batch: &Batch, found: &Found, fail: bool) {
    let coder = coder();
    for element in batch.elements().filter(|_| !fail) {
        let view = coder.parse(element).unwrap();
        let start = IntervalWindow::decode(view.windows.clone().next().unwrap()).unwrap().start.0;
        let count = u32::from_be_bytes(view.value[3..7].try_into().unwrap());
        found.lock().unwrap().entry((view.value[1], start / SIZE)).or_default().push(count);
    }
}

struct Silent;
impl JobObserver for Silent {
    fn committed(&self, _stage: StageId, _epoch: u64, _metrics: Vec<Metric>) {}
    fn counted(&self, _epoch: u64, metric: Metric) {
        panic!("nothing is late here: {metric:?}");
    }
    fn warning(&self, _message: String) {}
}

fn stage(name: &str, input: u32, outputs: &[u32], keyed: Option<Keyed>) -> Stage {
    let port = |collection: &u32| Port { transform: name.into(), collection: CollectionId(*collection) };
    Stage {
        name: name.into(),
        environment: EnvironmentId(0),
        descriptor: Bytes::new(),
        input: port(&input),
        outputs: outputs.iter().map(port).collect(),
        side_inputs: vec![],
        transforms: vec![],
        splittable: false,
        unbounded: false,
        merges_windows: false,
        keyed,
        truncate: None,
        finalizes: false,
        stable_input: false,
    }
}

/// Impulse, a stage that makes elements, one that counts them by key and window, one that notes the counts.
fn plan() -> Plan {
    let collection = |name: &str, value: WireCoder, window: WindowCoder| Collection {
        name: name.into(),
        value,
        windowing: Windowing::plain(window, Merging::None),
        bounded: true,
    };
    Plan {
        collections: vec![
            collection("impulse", WireCoder::Prefixed, WindowCoder::Global),
            collection("made", coder().value, WindowCoder::Interval),
            collection("counted", coder().value, WindowCoder::Interval),
        ],
        nodes: vec![
            Node::Impulse { output: CollectionId(0) },
            Node::Stage(StageId(0)),
            Node::Stage(StageId(1)),
            Node::Stage(StageId(2)),
        ],
        stages: vec![
            stage("make", 0, &[1], None),
            stage("count", 1, &[2], Some(counting())),
            stage("note", 2, &[], None),
        ],
        environments: vec![],
    }
}

fn run_with(workers: usize, fails: u64) {
    let dir = tempfile::tempdir().unwrap();
    let found = Found::default();
    let user = Arc::new(User { fails, opened: AtomicU64::new(0), found: Arc::clone(&found) });
    let job = Job {
        plan: Arc::new(plan()),
        executor: Arc::new(user),
        budget: Budget::new(64 << 20, dir.path()),
        observer: Arc::new(Silent),
        settings: Settings {
            max_bundle_elements: 50,
            retries: 50,
            retry_delay: Duration::from_millis(1),
            ..Settings::default()
        },
        drain: Drain::default(),
        checkpoints: crate::checkpoint::Checkpoints::none(),
        leaving: Default::default(),
        test_events: Arc::new(crate::dataflow::proof::NoService),
    };
    run(job, Topology::single(workers)).unwrap();
    let keys = (0..KEYS).flat_map(|key| (0..WINDOWS).map(move |window| (key, window)));
    let expected: BTreeMap<_, _> = keys.map(|key| (key, vec![EACH as u32])).collect();
    assert_eq!(*found.lock().unwrap(), expected, "{workers} workers, failing one bundle in {fails}");
}

#[test]
fn state_and_timers_are_exact_on_any_number_of_workers() {
    for workers in [1, 2, 4] {
        run_with(workers, 0);
    }
}

#[test]
fn timer_fires_once_per_commit_though_bundles_fail() {
    for workers in [1, 2] {
        run_with(workers, 3);
    }
}
