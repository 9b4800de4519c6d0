//! Properties of TestStreams, with 1, 2 and 4 workers and with two processes.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use timely::WorkerConfig;
use timely::communication::initialize_from;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::CapabilitySet;
use timely::worker::Worker;

use super::super::cluster::{self, Topology};
use super::super::edge::moment;
use super::super::proof::{Logic, collection, job as proof_job, stage, topologies};
use super::super::{JobFailure, quiescence, run};
use super::*;
use crate::clock::Clock;
use crate::element::WireCoder;
use crate::plan::{Plan, StageId, TestEvent, TestEvents};
use crate::time::{self, Timestamp};

/// Processes and workers of each.
const SHAPES: [(usize, usize); 4] = [(1, 1), (1, 2), (1, 4), (2, 2)];

/// A value in the wire coder of the plan.
fn value(number: u8) -> Bytes {
    Bytes::from(vec![1, number])
}

fn elements(tag: &str, numbers: &[u8], at: i64) -> TestEvent {
    let elements = numbers.iter().map(|number| (Timestamp(at), value(*number))).collect();
    TestEvent::Elements { tag: tag.into(), elements }
}

fn watermark(tag: &str, to: i64) -> TestEvent {
    TestEvent::Watermark { tag: tag.into(), to: Timestamp(to) }
}

fn number(element: &[u8]) -> u8 {
    element[element.len() - 1]
}

fn play(plan: &Plan, logic: &Arc<Logic>, shape: (usize, usize)) -> Result<(), JobFailure> {
    let dir = tempfile::tempdir().unwrap();
    let parts: Vec<_> = topologies(shape)
        .into_iter()
        .map(|topology| {
            let job = proof_job(plan.clone(), Arc::clone(logic), 0, 64 << 20, dir.path());
            thread::spawn(move || run(job, topology))
        })
        .collect();
    parts.into_iter().try_for_each(|part| part.join().unwrap())
}

/// Two TestStreams into stages that take their time, a redistribution between them, and a last stage without outputs.
/// An Impulse does the same beside them.
fn slow_plan(first: TestEvents, second: TestEvents) -> Plan {
    let spread = |name: &str, input, output| Node::Redistribute {
        name: name.into(),
        input: CollectionId(input),
        output: CollectionId(output),
        by_key: false,
    };
    Plan {
        collections: (0..8).map(|n| collection(&format!("c{n}"), WireCoder::Prefixed)).collect(),
        nodes: vec![
            Node::Impulse { output: CollectionId(0) },
            Node::TestStream {
                name: "first".into(),
                events: first,
                outputs: vec![("a".into(), CollectionId(1)), ("b".into(), CollectionId(2))],
            },
            Node::TestStream { name: "second".into(), events: second, outputs: vec![("c".into(), CollectionId(3))] },
            Node::Flatten { inputs: (0..4).map(CollectionId).collect(), output: CollectionId(4) },
            Node::Stage(StageId(0)),
            spread("spread", 5, 6),
            Node::Stage(StageId(1)),
            Node::Stage(StageId(2)),
        ],
        stages: vec![stage("multiply", 4, &[5]), stage("pass", 6, &[7]), stage("end", 7, &[])],
        environments: vec![],
    }
}

/// Multiplies elements in stage 0, passes them in stage 1, and notes their numbers in stage 2; all slowly.
fn slow_logic(seen: &Arc<Mutex<Vec<u8>>>) -> Arc<Logic> {
    let seen = Arc::clone(seen);
    let visits = AtomicU64::new(0);
    Arc::new(move |stage, batch, emit| {
        // Uneven, so that a bundle often ends long after those that began with it.
        let visit = visits.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(visit * 7 % 12));
        for element in batch.elements() {
            match stage.0 {
                0 => (0..25).for_each(|_| emit(element)),
                1 => emit(element),
                _ => seen.lock().unwrap().push(number(element)),
            }
        }
    })
}

#[test]
fn an_event_is_played_when_the_one_before_is_over() {
    let first = vec![
        elements("a", &[1, 1], 0),
        elements("b", &[2], 0),
        TestEvent::ProcessingTime(10),
        elements("a", &[4], -5),
        watermark("a", 100),
        elements("a", &[6, 6, 6], 50),
    ];
    let second = vec![
        watermark("c", 5),
        elements("c", &[2, 2], 5),
        watermark("c", 6),
        // The only output need not be named.
        elements("", &[4], 5),
    ];
    for shape in SHAPES {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let plan = slow_plan(TestEvents::Listed(first.clone()), TestEvents::Listed(second.clone()));
        play(&plan, &slow_logic(&seen), shape).unwrap();
        // The Impulse's element ends with its length, 0.
        let expected: Vec<u8> =
            [(0, 25), (1, 50), (2, 75), (4, 50), (6, 75)].iter().flat_map(|(n, count)| vec![*n; *count]).collect();
        assert_eq!(*seen.lock().unwrap(), expected, "with {shape:?}");
    }
}

#[test]
fn a_bad_event_fails_the_job() {
    let cases = [
        (elements("d", &[1], 0), "the TestStream \"first\" has an event for output \"d\", which it does not have"),
        (watermark("a", -1), "the TestStream \"first\" moves the watermark of output \"a\" back from 7 to -1 ms"),
        (TestEvent::ProcessingTime(-3), "the TestStream \"first\" moves the clock by -3 ms, that is back"),
        (
            elements("a", &[1], i64::MAX),
            "the TestStream \"first\" has an element at 9223372036854775807 ms, which is no timestamp of Beam's",
        ),
    ];
    for (event, message) in cases {
        let first = TestEvents::Listed(vec![watermark("a", 7), event]);
        let plan = slow_plan(first, TestEvents::Listed(vec![]));
        let failure = play(&plan, &slow_logic(&Arc::default()), (1, 1)).unwrap_err();
        assert_eq!(failure.message, message);
    }
}

/// What an operator behind an output saw of one element: its number, the watermark it came at, and how far the clock
/// of its process had moved.
type Sight = (u8, i64, i64);

/// An operator that behaves as a stage does, and checks what it may rely on.
fn check<'scope>(
    scope: Scope<'scope, Moment>,
    input: Edge<'scope>,
    clock: Arc<TestClock>,
    start: Timestamp,
    seen: Arc<Mutex<Vec<Sight>>>,
) -> Edge<'scope> {
    let mut builder = OperatorBuilder::new("Check".into(), scope);
    let mut input = builder.new_input(input, Pipeline);
    let (_output, edge) = Output::new(&mut builder);
    builder.build(move |mut capabilities| {
        let mut held = CapabilitySet::from_elem(capabilities.remove(0));
        let mut before = (Timestamp(i64::MIN), 0);
        let mut last_clock = None;
        move |frontiers| {
            input.for_each(|capability, batch| {
                let moment = moment(capability.stamp()).unwrap();
                for element in batch.elements() {
                    let sight = (number(element), moment.watermark, clock.now().0 - start.0);
                    seen.lock().unwrap().push(sight);
                }
            });
            let frontier = frontiers[0].frontier();
            let now =
                (time::watermark(frontier).unwrap_or(Timestamp(i64::MAX)), time::epoch(frontier).unwrap_or(u64::MAX));
            assert!(now.0 >= before.0 && now.1 >= before.1, "the frontier went back from {before:?} to {now:?}");
            if before.0 < Timestamp::MAX && now.0 >= Timestamp::MAX {
                assert!(clock.now() < Timestamp::MAX, "the clock ended before the watermark did");
            }
            if now.1 == u64::MAX && last_clock.is_none() {
                last_clock = Some(clock.now());
                assert_eq!(last_clock, Some(Timestamp::MAX), "the outputs closed before the clock had ended");
            }
            before = now;
            held.downgrade(frontier.iter());
        }
    });
    edge
}

#[test]
fn the_clock_of_every_process_moves_and_watermarks_never_regress() {
    let events = vec![
        elements("a", &[1], 0),
        TestEvent::ProcessingTime(5000),
        elements("a", &[2], 0),
        watermark("a", 100),
        elements("b", &[3], 0),
        elements("a", &[4], 100),
        TestEvent::ProcessingTime(7000),
        TestEvent::ProcessingTime(1),
        elements("a", &[5], 3),
        watermark("b", Timestamp::MAX.0),
        elements("b", &[6], 3),
    ];
    let never = Timestamp::MIN.0;
    let expected: Vec<Sight> = vec![
        (1, never, 0),
        (2, never, 5000),
        (3, never, 5000),
        (4, 100, 5000),
        (5, 100, 12_001),
        (6, Timestamp::MAX.0, 12_001),
    ];
    let plan = slow_plan(TestEvents::Listed(events), TestEvents::Listed(vec![]));
    for shape in SHAPES {
        let dir = tempfile::tempdir().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut parts = Vec::new();
        for topology in topologies(shape) {
            let job = proof_job(plan.clone(), slow_logic(&Arc::default()), 0, 64 << 20, dir.path());
            let (seen, process) = (Arc::clone(&seen), topology.process);
            parts.push(thread::spawn(move || {
                let clock = Arc::new(TestClock::default());
                let start = clock.now();
                let (builders, network) = cluster::allocators(topology, &job.budget).unwrap();
                let (reports, inbox) = crossbeam_channel::unbounded();
                let inside = Arc::clone(&clock);
                let guards = initialize_from(builders, network, move |allocator| {
                    let mut worker = Worker::new(WorkerConfig::default(), allocator, Some(std::time::Instant::now()));
                    let reporter = Rc::new(Reporter::new(reports.clone(), job.clone()));
                    worker.dataflow::<Moment, _, _>(|scope| {
                        let (clock, reporter) = (Arc::clone(&inside), Rc::clone(&reporter));
                        let sources = build(scope, &job, Arc::clone(&clock), shape, Rc::clone(&reporter));
                        let mut edges = vec![sources.clocks, sources.epochs];
                        for (_, edge) in sources.outputs {
                            // To the last process, whose clock is not next to the source.
                            let route = Route::ToEveryProcess { processes: shape.0, workers: shape.1 };
                            let edge = route::redistribute(scope, "spread", edge, route, Rc::clone(&reporter));
                            let here = if process + 1 == shape.0 { Arc::clone(&seen) } else { Arc::default() };
                            edges.push(check(scope, edge, Arc::clone(&clock), start, here));
                        }
                        quiescence::watch(scope, edges, vec![Box::new(sources.quiescence)]);
                    });
                    while worker.has_dataflows() {
                        worker.step_or_park(None);
                    }
                })
                .unwrap();
                for ended in guards.join() {
                    ended.unwrap();
                }
                assert!(inbox.try_recv().is_err(), "no operator reported a failure");
                assert_eq!(clock.now(), Timestamp::MAX);
            }));
        }
        for part in parts {
            part.join().unwrap();
        }
        assert_eq!(*seen.lock().unwrap(), expected, "with {shape:?}");
    }
}

/// Services by address: what they give before they end, or why they cannot.
struct Services(BTreeMap<&'static str, Result<Vec<TestEvent>, &'static str>>);

impl TestEventService for Services {
    fn open(&self, url: &str, outputs: Vec<String>, sink: TestEventSink) {
        assert_eq!(outputs, ["c"]);
        let answer = self.0[url].clone();
        thread::spawn(move || match answer {
            Ok(events) => events.into_iter().all(|event| {
                thread::sleep(Duration::from_millis(5));
                sink.give(event)
            }),
            Err(why) => {
                sink.fail(why.into());
                false
            }
        });
    }
}

#[test]
fn events_may_come_from_a_service() {
    let plain = |number: u8| (Timestamp(0), Bytes::from(vec![number]));
    let give = |number: u8| TestEvent::Elements { tag: "c".into(), elements: vec![plain(number)] };
    // More than may wait: the service is held up, and nothing is lost.
    let long: Vec<TestEvent> = (0..100).map(give).collect();
    let services = || {
        let services = [("there", Ok(long.clone())), ("away", Err("gets no events from \"away\": nobody listens"))];
        Arc::new(Services(services.into()))
    };
    let run_with = |url: &str, seen: &Arc<Mutex<Vec<u8>>>| {
        let dir = tempfile::tempdir().unwrap();
        let service = TestEvents::Service { url: url.into(), prefix: true };
        let mut plan = slow_plan(TestEvents::Listed(vec![]), service);
        // Straight from the second TestStream into the last stage, without the Impulse.
        plan.stages[2].input.collection = CollectionId(3);
        let mut job = proof_job(plan, slow_logic(seen), 0, 64 << 20, dir.path());
        job.test_events = services();
        run(job, Topology::single(2))
    };
    let seen = Arc::new(Mutex::new(Vec::new()));
    run_with("there", &seen).unwrap();
    assert_eq!(*seen.lock().unwrap(), (0..100).collect::<Vec<u8>>());
    let failure = run_with("away", &Arc::default()).unwrap_err();
    assert_eq!(failure.message, "the TestStream \"second\" gets no events from \"away\": nobody listens");
}

#[test]
fn a_drain_ends_the_events() {
    let dir = tempfile::tempdir().unwrap();
    struct Silent;
    impl TestEventService for Silent {
        fn open(&self, _url: &str, _outputs: Vec<String>, sink: TestEventSink) {
            // Never gives an event, and never ends.
            std::mem::forget(sink);
        }
    }
    let service = TestEvents::Service { url: "there".into(), prefix: true };
    let mut job = proof_job(
        slow_plan(TestEvents::Listed(vec![elements("a", &[1], 0)]), service),
        slow_logic(&Arc::default()),
        0,
        64 << 20,
        dir.path(),
    );
    job.test_events = Arc::new(Silent);
    let drain = job.drain.clone();
    let running = thread::spawn(move || run(job, Topology::single(2)));
    drain.request();
    running.join().unwrap().unwrap();
}
