//! Properties of the data plane, on stages that run on threads of their own behind the one seam the design allows a
//! test to fill: [`StageExecutor`].

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::edge::{Output, exchange};
use super::flow::Flow;
use super::links::Links;
use super::route::{self, Route};
use super::run::Reporter;
use super::stage::build as stage_operator;
use super::*;
use crate::checkpoint::Saver;
use crate::element::{Batch, BatchBuilder, ElementCoder, WireCoder};
use crate::executor::{Bundle, BundleDone, BundleError, Completion, OpenBundle};
use crate::plan::{Collection, CollectionId, Keyed, Node, Port, Stage, StateCell, StateKind, TimeDomain, TimerFamily};
use crate::time::{self, Moment, Timestamp};
use crate::windowing::{Merging, WindowCoder, Windowing};

pub(super) type Logic = dyn Fn(StageId, &Batch, &mut dyn FnMut(&[u8])) + Send + Sync;

/// Runs each bundle on a thread of its own; fails one bundle in `fails` (0: none), after it has emitted.
struct OnThreads {
    logic: Arc<Logic>,
    fails: u64,
    opened: std::sync::atomic::AtomicU64,
}

struct Pending {
    logic: Arc<Logic>,
    stage: StageId,
    fail: bool,
    input: Vec<Batch>,
    outputs: Option<(crate::element::Outputs, Completion)>,
}

impl StageExecutor for OnThreads {
    fn open(&self, request: OpenBundle) -> Box<dyn Bundle> {
        let number = self.opened.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Box::new(Pending {
            logic: Arc::clone(&self.logic),
            stage: request.stage,
            fail: self.fails > 0 && number % self.fails == self.fails - 1,
            input: Vec::new(),
            outputs: Some((request.outputs, request.completion)),
        })
    }

    fn bundles_in_flight(&self, _stage: StageId) -> usize {
        2
    }
}

impl Bundle for Pending {
    fn push(&mut self, batch: Batch) {
        self.input.push(batch);
    }

    fn push_timers(&mut self, _family: usize, _timers: Bytes) {}

    fn split(&mut self, _fraction: f64) {}

    fn close(&mut self) {
        let (mut outputs, completion) = self.outputs.take().unwrap();
        let (logic, stage, fail, input) =
            (Arc::clone(&self.logic), self.stage, self.fail, std::mem::take(&mut self.input));
        std::thread::spawn(move || {
            let mut chunk = Vec::new();
            for batch in &input {
                logic(stage, batch, &mut |element| chunk.extend_from_slice(element));
            }
            if !chunk.is_empty() {
                outputs.push(0, Bytes::from(chunk)).unwrap();
            }
            completion(if fail {
                let message = "this bundle was told to fail".to_string();
                Err(BundleError { fault: Fault::User, retry: true, message, environment: None })
            } else {
                outputs.finish().unwrap();
                Ok(BundleDone {
                    outputs,
                    residuals: vec![],
                    timers: vec![],
                    metrics: vec![],
                    requires_finalization: None,
                })
            });
        });
    }
}

/// Hears nothing, late elements among it.
pub(super) struct Silent;
impl JobObserver for Silent {
    fn committed(&self, _stage: StageId, _epoch: u64, _metrics: Vec<Metric>) {}
    fn counted(&self, _epoch: u64, _metric: Metric) {}
    fn warning(&self, _message: String) {}
}

pub(super) fn windowing() -> Windowing {
    Windowing::plain(WindowCoder::Global, Merging::None)
}

fn kv(value: WireCoder) -> WireCoder {
    WireCoder::Kv(Box::new(WireCoder::Prefixed), Box::new(value))
}

/// A stage `count` that keeps a bag `n` for each key and window, and has a timer `end` at the end of the window.
pub(in crate::dataflow) fn counting() -> Keyed {
    Keyed {
        states: vec![StateCell {
            transform: "count".into(),
            state: "n".into(),
            kind: StateKind::Bag,
            value: Some(WireCoder::Prefixed),
            single_valued: false,
            entries: None,
        }],
        timers: vec![TimerFamily {
            transform: "count".into(),
            family: "end".into(),
            domain: TimeDomain::EventTime,
            key: WireCoder::Prefixed,
            window: WindowCoder::Interval,
            on_window_expiration: false,
        }],
        time_sorted: false,
    }
}

/// The topologies of all processes of a cluster in this one: of so many processes, one or two, with so many workers each.
pub(in crate::dataflow) fn topologies((processes, workers): (usize, usize)) -> Vec<Topology> {
    if processes == 1 {
        return vec![Topology::single(workers)];
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    let topology = |process, sockets| Topology { process, processes, workers, sockets };
    vec![topology(0, vec![None, Some(near)]), topology(1, vec![Some(far), None])]
}

pub(super) fn collection(name: &str, value: WireCoder) -> Collection {
    Collection { name: name.into(), value, windowing: windowing(), bounded: true }
}

pub(super) fn stage(name: &str, input: u32, outputs: &[u32]) -> Stage {
    let port =
        |collection: &u32| Port { transform: format!("port{collection}"), collection: CollectionId(*collection) };
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
        keyed: None,
        truncate: None,
        finalizes: false,
        stable_input: false,
    }
}

fn element(timestamp: i64, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut element = Timestamp(timestamp).to_wire().to_vec();
    element.extend_from_slice(&[0, 0, 0, 1, 0x0f, key.len() as u8]);
    element.extend_from_slice(key);
    element.push(value.len() as u8);
    element.extend_from_slice(value);
    element
}

/// Impulse, a stage that makes `KEYS * PER_KEY` elements, a redistribution, a grouping, and a stage that counts.
fn grouping_plan() -> Plan {
    Plan {
        collections: vec![
            collection("impulse", WireCoder::Prefixed),
            collection("made", kv(WireCoder::Prefixed)),
            collection("spread", kv(WireCoder::Prefixed)),
            collection("passed", kv(WireCoder::Prefixed)),
            collection("grouped", kv(WireCoder::StateBackedIterable(Box::new(WireCoder::Prefixed)))),
        ],
        nodes: vec![
            Node::Impulse { output: CollectionId(0) },
            Node::Stage(StageId(0)),
            Node::Redistribute {
                name: "spread".into(),
                input: CollectionId(1),
                output: CollectionId(2),
                by_key: false,
            },
            Node::Stage(StageId(1)),
            Node::GroupByKey {
                name: "group".into(),
                input: CollectionId(3),
                output: CollectionId(4),
                windowing: windowing(),
                merge: None,
                bounded: true,
            },
            Node::Stage(StageId(2)),
        ],
        stages: vec![stage("make", 0, &[1]), stage("pass", 2, &[3]), stage("count", 4, &[])],
        environments: vec![],
    }
}

const KEYS: u32 = 50;
const PER_KEY: u32 = 400;

type Counts = Arc<Mutex<BTreeMap<Vec<u8>, Vec<u32>>>>;

fn grouping_logic(counts: &Counts) -> Arc<Logic> {
    let counts = Arc::clone(counts);
    let grouped = ElementCoder {
        value: kv(WireCoder::StateBackedIterable(Box::new(WireCoder::Prefixed))),
        window: WindowCoder::Global,
    };
    Arc::new(move |stage, batch, emit| match stage.0 {
        0 => {
            for n in 0..KEYS * PER_KEY {
                emit(&element(0, &(n % KEYS).to_be_bytes(), &n.to_be_bytes()));
            }
        }
        1 => batch.elements().for_each(emit),
        _ => {
            for element in batch.elements() {
                let view = grouped.parse(element).unwrap();
                let (key, values) = grouped.value.key_value(view.value).unwrap();
                let count = u32::from_be_bytes(values[..4].try_into().unwrap());
                counts.lock().unwrap().entry(key.to_vec()).or_default().push(count);
            }
        }
    })
}

pub(super) fn job(plan: Plan, logic: Arc<Logic>, fails: u64, memory: usize, dir: &std::path::Path) -> Job {
    Job {
        plan: Arc::new(plan),
        executor: Arc::new(OnThreads { logic, fails, opened: Default::default() }),
        budget: Budget::new(memory, dir),
        observer: Arc::new(Silent),
        settings: Settings {
            max_bundle_elements: 500,
            retries: 50,
            retry_delay: Duration::from_millis(1),
            ..Settings::default()
        },
        drain: Drain::default(),
        checkpoints: Checkpoints::none(),
        leaving: Default::default(),
        test_events: Arc::new(NoService),
    }
}

/// No TestStream asks a service.
pub(crate) struct NoService;

impl TestEventService for NoService {
    fn open(&self, url: &str, _outputs: Vec<String>, sink: TestEventSink) {
        sink.fail(format!("gets no events from {url}"));
    }
}

fn assert_each_key_once(counts: &BTreeMap<Vec<u8>, Vec<u32>>) {
    let expected: BTreeMap<Vec<u8>, Vec<u32>> =
        (0..KEYS).map(|key| ([&[4][..], &key.to_be_bytes()].concat(), vec![PER_KEY])).collect();
    assert_eq!(*counts, expected);
}

#[test]
fn no_loss_no_duplication() {
    for workers in [1, 2, 4] {
        for memory in [64 << 20, 0] {
            let dir = tempfile::tempdir().unwrap();
            let counts = Counts::default();
            let job = job(grouping_plan(), grouping_logic(&counts), 0, memory, dir.path());
            run(job, Topology::single(workers)).unwrap();
            assert_each_key_once(&counts.lock().unwrap());
        }
    }
}

/// Two processes of this test binary, connected over TCP.
#[test]
fn two_processes_over_tcp() {
    const ROLE: &str = "FERROBEAM_PROOF_PEER";
    let connect_and_run = |process: usize, socket: TcpStream, counts: &Counts| {
        let mut sockets = vec![None, None];
        sockets[1 - process] = Some(socket);
        let dir = tempfile::tempdir().unwrap();
        let topology = Topology { process, processes: 2, workers: 2, sockets };
        run(job(grouping_plan(), grouping_logic(counts), 0, 64 << 20, dir.path()), topology).unwrap();
    };
    let counts = Counts::default();
    if let Ok(address) = std::env::var(ROLE) {
        connect_and_run(1, TcpStream::connect(address).unwrap(), &counts);
        let mut out = std::io::stdout().lock();
        for (key, found) in counts.lock().unwrap().iter() {
            for count in found {
                writeln!(out, "COUNT {} {count}", u32::from_be_bytes(key[1..].try_into().unwrap())).unwrap();
            }
        }
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut peer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "dataflow::proof::two_processes_over_tcp", "--nocapture"])
        .env(ROLE, listener.local_addr().unwrap().to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    connect_and_run(0, listener.accept().unwrap().0, &counts);
    let mut all = counts.lock().unwrap().clone();
    let here = all.len();
    for line in BufReader::new(peer.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some((_, found)) = line.split_once("COUNT ") else { continue };
        let (key, count) = found.split_once(' ').unwrap();
        let key = [&[4][..], &key.parse::<u32>().unwrap().to_be_bytes()].concat();
        all.entry(key).or_default().push(count.parse().unwrap());
    }
    assert!(peer.wait().unwrap().success());
    assert!(here > 0 && here < all.len(), "both processes own keys: {here} of {} here", all.len());
    assert_each_key_once(&all);
}

#[test]
fn a_bundle_that_keeps_failing_fails_the_job() {
    let dir = tempfile::tempdir().unwrap();
    let mut job = job(grouping_plan(), grouping_logic(&Counts::default()), 1, 64 << 20, dir.path());
    job.settings.retries = 2;
    let failure = run(job, Topology::single(2)).unwrap_err();
    assert_eq!(failure.fault, Fault::User);
    assert_eq!(
        failure.message,
        "this bundle was told to fail\n\nThe bundle that failed was tried 3 times, in stage make."
    );
}

/// What a sink saw: per epoch the records, in all workers.
type Seen = Arc<Mutex<BTreeMap<u64, Vec<u64>>>>;

const EPOCHS: u64 = 6;
const PER_EPOCH: u64 = 2000;

/// A source that steps epochs and watermarks by itself on every worker, a keyed stage on other threads, and a sink that
/// checks what it may rely on.
#[test]
fn frontier_never_regresses_and_epochs_align() {
    for workers in [1, 2, 4] {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = grouping_plan();
        plan.stages[1].input.collection = CollectionId(1);
        let pass: Arc<Logic> = Arc::new(|_, batch, emit| batch.elements().for_each(emit));
        let job = job(plan, pass, 5, 64 << 20, dir.path());
        let seen = Seen::default();
        let (sink, inside) = (Arc::clone(&seen), job.clone());
        let (reports, inbox) = crossbeam_channel::unbounded();
        let guards = timely::execute(timely::Config::process(workers), move |worker| {
            let reporter = Rc::new(Reporter::new(reports.clone(), inside.clone()));
            worker.dataflow::<Moment, _, _>(|scope| {
                let source = epochs(scope);
                let coder = ElementCoder { value: kv(WireCoder::Prefixed), window: WindowCoder::Global };
                let routed = route::address(scope, "keyed", source, Route::ByKey(coder), Rc::clone(&reporter));
                let routed = pass_on(scope, routed);
                let iterables = Arc::new(crate::grouping::StoredIterables::new(&inside.budget));
                let nothing = Arc::new(bundle_state::StageState::new([], iterables));
                let links = Links { flow: Flow::default(), reporter: Rc::clone(&reporter), saver: Saver::none() };
                let out =
                    stage_operator(scope, &inside, StageId(1), routed, Default::default(), nothing, links).remove(0);
                check(scope, out, Arc::clone(&sink));
            });
        })
        .unwrap();
        for ended in guards.join() {
            ended.unwrap();
        }
        assert!(inbox.try_recv().is_err(), "no operator reported a failure");
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len() as u64, EPOCHS);
        for (epoch, records) in seen.iter() {
            let mut records = records.clone();
            records.sort_unstable();
            let expected: Vec<u64> = (0..workers as u64)
                .flat_map(|worker| (0..PER_EPOCH).map(move |n| (worker << 32) | (epoch * PER_EPOCH + n)))
                .collect();
            assert!(records == expected, "epoch {epoch} with {workers} workers lost or repeated records");
        }
    }
}

fn epochs<'scope>(scope: Scope<'scope, Moment>) -> edge::Edge<'scope> {
    let mut builder = OperatorBuilder::new("Epochs".into(), scope);
    let (mut output, stream) = Output::new(&mut builder);
    let activator = scope.activator_for(builder.operator_info().address);
    let worker = scope.index() as u64;
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop();
        let mut next = 0;
        move |_| {
            let Some(held) = &mut capability else { return };
            for _ in 0..10 {
                let moment = Moment::new(next / PER_EPOCH, Timestamp(next as i64));
                held.downgrade(&moment);
                let mut batch = BatchBuilder::default();
                for _ in 0..20 {
                    let id = (worker << 32) | next;
                    batch.push(
                        &element(next as i64, &(next % 97).to_be_bytes(), &id.to_be_bytes()),
                        Timestamp(next as i64),
                    );
                    next += 1;
                }
                output.give(held, batch.finish());
                if next == EPOCHS * PER_EPOCH {
                    capability = None;
                    return;
                }
            }
            activator.activate();
        }
    });
    stream
}

fn pass_on<'scope>(scope: Scope<'scope, Moment>, input: edge::Edge<'scope>) -> edge::Edge<'scope> {
    let mut builder = OperatorBuilder::new("Receive".into(), scope);
    let mut input = builder.new_input(input, exchange());
    let (mut output, stream) = Output::new(&mut builder);
    builder.build(move |_| {
        move |_| input.for_each(|capability, batch| output.forward(&capability, std::mem::take(batch)))
    });
    stream
}

fn check<'scope>(scope: Scope<'scope, Moment>, input: edge::Edge<'scope>, seen: Seen) {
    let mut builder = OperatorBuilder::new("Check".into(), scope);
    let mut input = builder.new_input(input, Pipeline);
    builder.build(move |_| {
        let mut watermark = Timestamp(i64::MIN);
        let mut epoch = 0;
        move |frontiers| {
            input.for_each(|capability, batch| {
                let moment = edge::moment(capability.stamp()).unwrap();
                assert!(moment.epoch >= epoch, "a batch of epoch {} after the frontier passed it", moment.epoch);
                for element in batch.elements() {
                    let timestamp = Timestamp::from_wire(element[..8].try_into().unwrap());
                    assert!(timestamp >= watermark, "an element behind the watermark that its input had reached");
                    assert!(moment.watermark <= timestamp.0, "a batch ahead of its own elements");
                    let id = u64::from_be_bytes(element[element.len() - 8..].try_into().unwrap());
                    assert_eq!(
                        (id & 0xffff_ffff) / PER_EPOCH,
                        moment.epoch,
                        "a record in another epoch than its source's"
                    );
                    seen.lock().unwrap().entry(moment.epoch).or_default().push(id);
                }
            });
            let frontier = frontiers[0].frontier();
            let now = time::watermark(frontier).unwrap_or(Timestamp::MAX);
            assert!(now >= watermark, "the watermark went back");
            watermark = now;
            let now = time::epoch(frontier).unwrap_or(u64::MAX);
            assert!(now >= epoch, "the epoch went back");
            epoch = now;
        }
    });
}
