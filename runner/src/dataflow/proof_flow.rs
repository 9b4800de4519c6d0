//! What is in flight between a fast source and a slow stage is bounded, and two epochs in flight do not wait for each
//! other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::flow::{BACKLOG_LIMIT, Backlogs, EpochBytes, ROOM, Shape};
use super::*;
use crate::element::{Batch, ElementCoder, Outputs, WireCoder, encode_windowed_value};
use crate::executor::{Bundle, BundleDone, Completion, OpenBundle, Residual};
use crate::plan::{CollectionId, Node, Stage};
use crate::time::Timestamp;
use crate::windowing::WindowCoder;

/// Bytes that a bundle of the source makes.
const STEP: usize = 1 << 20;
const STEPS: usize = 250;

const MAKE: u32 = 0;
const SOURCE: u32 = 1;

#[derive(Default)]
struct Counted {
    made: AtomicUsize,
    done: AtomicUsize,
    most_in_flight: AtomicUsize,
}

struct User(Arc<Counted>);

struct Open {
    stage: u32,
    counted: Arc<Counted>,
    input: Vec<Batch>,
    end: Option<(Outputs, Completion)>,
}

impl StageExecutor for User {
    fn open(&self, request: OpenBundle) -> Box<dyn Bundle> {
        let end = Some((request.outputs, request.completion));
        Box::new(Open { stage: request.stage.0, counted: Arc::clone(&self.0), input: Vec::new(), end })
    }

    fn bundles_in_flight(&self, _stage: StageId) -> usize {
        2
    }
}

fn element(value: &[u8]) -> Vec<u8> {
    let mut element = Vec::new();
    let mut prefixed = Vec::new();
    crate::element::put_varint(&mut prefixed, value.len() as u64);
    prefixed.extend_from_slice(value);
    encode_windowed_value(&mut element, Timestamp::MIN, &[&[]], &[0x0f], &prefixed);
    element
}

impl Bundle for Open {
    fn push(&mut self, batch: Batch) {
        self.input.push(batch);
    }

    fn push_timers(&mut self, _family: usize, _timers: Bytes) {}

    fn split(&mut self, _fraction: f64) {}

    fn close(&mut self) {
        let (mut outputs, completion) = self.end.take().unwrap();
        let (stage, counted, input) = (self.stage, Arc::clone(&self.counted), std::mem::take(&mut self.input));
        std::thread::spawn(move || {
            let mut residuals = vec![];
            match stage {
                MAKE => outputs.push(0, element(b"go").into()).unwrap(),
                SOURCE => {
                    // As fast as it is let: a megabyte a bundle, and the rest comes back at once.
                    for _ in 0..16 {
                        outputs.push(0, element(&vec![7; STEP / 16]).into()).unwrap();
                    }
                    let made = counted.made.fetch_add(STEP, Ordering::SeqCst) + STEP;
                    let in_flight = made - counted.done.load(Ordering::SeqCst).min(made);
                    counted.most_in_flight.fetch_max(in_flight, Ordering::SeqCst);
                    if made < STEPS * STEP {
                        residuals.push(Residual { element: element(b"go").into(), delay: Duration::ZERO, hold: None });
                    }
                }
                _ => {
                    let bytes: usize = input.iter().map(|batch| batch.data().len()).sum();
                    // The slow work under test. Nothing waits by it: what is asserted holds at any speed.
                    std::thread::sleep(Duration::from_micros(bytes as u64 / 256));
                    counted.done.fetch_add(bytes, Ordering::SeqCst);
                }
            }
            outputs.finish().unwrap();
            let (timers, metrics) = (vec![], vec![]);
            completion(Ok(BundleDone { outputs, residuals, timers, metrics, requires_finalization: None }));
        });
    }
}

fn plan() -> Plan {
    let coder = ElementCoder::new(WireCoder::Prefixed, WindowCoder::Global);
    let collection = |name: &str| proof::collection(name, coder.value.clone());
    Plan {
        collections: ["impulse", "go", "made", "spread"].map(collection).to_vec(),
        nodes: vec![
            Node::Impulse { output: CollectionId(0) },
            Node::Stage(StageId(MAKE)),
            Node::Stage(StageId(SOURCE)),
            Node::Redistribute {
                name: "spread".into(),
                input: CollectionId(2),
                output: CollectionId(3),
                by_key: false,
            },
            Node::Stage(StageId(2)),
        ],
        stages: vec![
            proof::stage("make", 0, &[1]),
            Stage { splittable: true, unbounded: true, ..proof::stage("source", 1, &[2]) },
            proof::stage("slow", 3, &[]),
        ],
        environments: vec![],
    }
}

#[test]
fn bytes_in_flight_are_bounded() {
    for workers in [1, 2] {
        for memory in [0, 1 << 30] {
            let dir = tempfile::tempdir().unwrap();
            let counted = Arc::new(Counted::default());
            let nobody: Arc<proof::Logic> = Arc::new(|_, _, _| {});
            let job = Job {
                executor: Arc::new(User(Arc::clone(&counted))),
                settings: Settings { max_bundle_bytes: STEP, ..Settings::default() },
                ..proof::job(plan(), nobody, 0, memory, dir.path())
            };
            run(job, Topology::single(workers)).unwrap();
            assert_eq!(counted.made.load(Ordering::SeqCst), STEPS * STEP);
            assert!(counted.done.load(Ordering::SeqCst) >= STEPS * STEP);
            let most = counted.most_in_flight.load(Ordering::SeqCst);
            // The backlog of each worker, what the source has made and not sent, and a few bundles that are open.
            let bound = workers * BACKLOG_LIMIT + (16 + 12) * STEP;
            assert!(most <= bound, "{most} bytes in flight with {workers} workers, more than {bound}");
        }
    }
}

/// Who sends in an epoch waits for what is queued in it and before, and not for what the receiver cannot touch yet.
#[test]
fn input_of_a_later_epoch_is_no_reason_to_wait_in_an_earlier_one() {
    let shape = Shape { processes: 2, workers: 2 };
    let backlogs = Arc::new(Backlogs::with_limit(&plan(), shape, false, 1000));
    let at = |epochs: &[(u64, usize)]| {
        let at = epochs.iter().map(|(epoch, bytes)| EpochBytes { epoch: *epoch, bytes: *bytes });
        at.collect::<Vec<_>>().into_iter()
    };
    // The slow stage, behind the redistribution, on both workers; and the source, on the first.
    let (mut slow, mut other) = (backlogs.flow(4, [], 0), backlogs.flow(4, [], 1));
    let source = backlogs.flow(2, [CollectionId(2)], 0);
    assert!(source.has_room(0));
    slow.update(at(&[(1, 5000)]));
    assert!(source.has_room(0), "the receiver steps only when all of epoch 0 was sent");
    assert!(!source.has_room(1) && !source.has_room(2));
    other.update(at(&[(0, 1000)]));
    assert!(!source.has_room(0), "what goes to any worker counts");
    other.update(std::iter::empty());
    slow.update(at(&[(1, 999), (2, 5000)]));
    assert!(source.has_room(1) && !source.has_room(2));
    // What a stage has itself is no reason to wait: else it would wait for itself.
    assert!(slow.has_room(2));
    // Another process has enough to do.
    slow.update(at(&[]));
    assert!(source.has_room(7));
    backlogs.all()[4].told(1, 3);
    assert!(source.has_room(2) && !source.has_room(3));
    backlogs.all()[4].told(1, ROOM);
    assert!(source.has_room(7));
}
