//! A job that is killed and started again from its last checkpoint, on other numbers of workers, has the results of one
//! that was not: record by record.
//!
//! What the job notes it notes by bundle finalization, so that is proven with it: no effect comes before its epoch is
//! durable, none is lost, and none comes twice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};

use super::proof::{Silent, counting};
use super::*;
use crate::checkpoint::{CheckpointObserver, Part, Renames, Restore};
use crate::element::{Batch, ElementCoder, Outputs, TimerTimes, TimerView, WireCoder, encode_windowed_value};
use crate::executor::{
    Bundle, BundleDone, BundleError, CellPart, Completion, Finalizer, OpenBundle, Residual, StateKey, StateServer,
    TimerBatch,
};
use crate::plan::{
    Access, Collection, CollectionId, Keyed, Node, SideInput, Stage, StateCell, TimerFamily, WindowMapping,
};
use crate::time::Timestamp;
use crate::windowing::{IntervalWindow, Merging, WindowCoder, Windowing};

/// Numbers that the sources count to, and how many sources there are.
const COUNT: u32 = 3000;
const SOURCES: u32 = 4;
const KEYS: u32 = 7;
const SIZE: i64 = 100;

const MAKE: u32 = 0;
const SOURCE: u32 = 1;
const STATE: u32 = 2;
const NOTE_COUNTS: u32 = 3;
const NOTE_GROUPS: u32 = 4;
const GATED: u32 = 5;
const INSERTED: u32 = 6;

/// What was noted: a line for each record, and how often.
pub(super) type Notes = Arc<Mutex<BTreeMap<String, u32>>>;

/// From this number on a number is one that came too late.
const LATE: u32 = 1 << 30;
/// Bytes of a value: too many for a window's values to stay in its record.
const PADDING: usize = 100;

/// User code. After so many bundles every one fails for good, as if the process had died.
struct User {
    left: AtomicU64,
    /// Every so-manieth bundle fails once, after all it did.
    fails: u64,
    notes: Notes,
}

struct Open {
    stage: u32,
    fail: bool,
    die: bool,
    state: Arc<dyn StateServer>,
    input: Vec<Given>,
    end: Option<(Outputs, Completion)>,
    notes: Notes,
}

enum Given {
    Elements(Batch),
    Timers(Bytes),
}

#[derive(Debug)]
pub(super) struct Note {
    pub(super) lines: Vec<String>,
    pub(super) notes: Notes,
}

impl Finalizer for Note {
    fn finalize(&self) {
        let mut notes = self.notes.lock().unwrap();
        self.lines.iter().for_each(|line| *notes.entry(line.clone()).or_default() += 1);
    }
}

impl StageExecutor for User {
    fn open(&self, request: OpenBundle) -> Box<dyn Bundle> {
        let left =
            self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(1))).unwrap();
        Box::new(Open {
            stage: request.stage.0,
            fail: left.is_multiple_of(self.fails),
            die: left == 0,
            state: request.state,
            input: Vec::new(),
            end: Some((request.outputs, request.completion)),
            notes: Arc::clone(&self.notes),
        })
    }

    fn bundles_in_flight(&self, _stage: StageId) -> usize {
        2
    }
}

/// What a bundle gives.
#[derive(Default)]
struct Made {
    data: Vec<u8>,
    timers: Vec<u8>,
    residuals: Vec<Residual>,
    lines: Vec<String>,
}

impl Bundle for Open {
    fn push(&mut self, batch: Batch) {
        self.input.push(Given::Elements(batch));
    }

    fn push_timers(&mut self, _family: usize, timers: Bytes) {
        self.input.push(Given::Timers(timers));
    }

    fn split(&mut self, _fraction: f64) {}

    fn close(&mut self) {
        let (mut outputs, completion) = self.end.take().unwrap();
        let (stage, fail, die, input) = (self.stage, self.fail, self.die, std::mem::take(&mut self.input));
        let (state, notes) = (Arc::clone(&self.state), Arc::clone(&self.notes));
        std::thread::spawn(move || {
            let mut made = Made::default();
            for given in &input {
                match (stage, given) {
                    (MAKE, _) => make(&mut made),
                    (SOURCE, Given::Elements(batch)) => {
                        batch.elements().for_each(|element| read(element, &notes, &mut made))
                    }
                    (STATE, Given::Elements(batch)) => count(batch, &*state, &mut made),
                    (STATE, Given::Timers(due)) => fire(due, &*state, &mut made),
                    (NOTE_COUNTS, Given::Elements(batch)) => note_counts(batch, &mut made),
                    (NOTE_GROUPS, Given::Elements(batch)) => note_groups(batch, &mut made),
                    (GATED, Given::Elements(batch)) => note_gated(batch, &*state, &mut made),
                    (INSERTED, Given::Elements(_)) => {}
                    _ => panic!("timers of stage {stage}, which has none"),
                }
            }
            if fail || die {
                let message = if die { "the process died" } else { "this bundle was told to fail" }.to_owned();
                return completion(Err(BundleError { fault: Fault::User, retry: !die, message, environment: None }));
            }
            let Made { data, timers, residuals, lines } = made;
            if !data.is_empty() {
                outputs.push(0, data.into()).unwrap();
            }
            outputs.finish().unwrap();
            let timers = vec![TimerBatch { family: 0, timers: timers.into() }];
            let finalizer: Arc<dyn Finalizer> = Arc::new(Note { lines, notes });
            let (metrics, requires_finalization) = (vec![], Some(finalizer));
            completion(Ok(BundleDone { outputs, residuals, timers, metrics, requires_finalization }));
        });
    }
}

fn window_of(timestamp: i64) -> Bytes {
    let start = timestamp.div_euclid(SIZE) * SIZE;
    IntervalWindow { start: Timestamp(start), end: Timestamp(start + SIZE) }.encode()
}

fn start_of(window: &[u8]) -> i64 {
    IntervalWindow::decode(window).unwrap().start.0
}

fn number_coder() -> ElementCoder {
    let kv = WireCoder::Kv(Box::new(WireCoder::Prefixed), Box::new(WireCoder::Prefixed));
    ElementCoder::new(kv, WindowCoder::Interval)
}

fn group_coder() -> ElementCoder {
    let values = WireCoder::Iterable(Box::new(WireCoder::Prefixed));
    ElementCoder::new(WireCoder::Kv(Box::new(WireCoder::Prefixed), Box::new(values)), WindowCoder::Interval)
}

fn restriction_coder() -> ElementCoder {
    ElementCoder::new(WireCoder::Prefixed, WindowCoder::Global)
}

/// A source that has come to a number.
fn restriction(next: u32) -> Vec<u8> {
    let mut element = Vec::new();
    encode_windowed_value(&mut element, Timestamp::MIN, &[&[]], &[0x0f], &[&[4][..], &next.to_be_bytes()].concat());
    element
}

fn make(made: &mut Made) {
    (0..SOURCES).for_each(|source| made.data.extend(restriction(source)));
}

/// Whether the first window's results are durable, so that what comes for it is late in this life and the next.
fn first_window_is_over(notes: &Notes) -> bool {
    let notes = notes.lock().unwrap();
    let of_first = |line: &&String| line.contains(" in 0: ");
    notes.keys().filter(of_first).count() == 2 * KEYS as usize
}

fn number(made: &mut Made, number: u32, at: i64) {
    let mut value = vec![1, (number % KEYS) as u8, 4 + PADDING as u8];
    value.extend_from_slice(&number.to_be_bytes());
    value.resize(value.len() + PADDING, 0);
    encode_windowed_value(&mut made.data, Timestamp(at), &[&window_of(at)], &[0x0f], &value);
}

/// Reads some numbers, and leaves the rest for later, sometimes not at once. Some come too late for their window.
fn read(element: &[u8], notes: &Notes, made: &mut Made) {
    let view = restriction_coder().parse(element).unwrap().value.to_vec();
    let mut next = u32::from_be_bytes(view[1..5].try_into().unwrap());
    for _ in 0..15 {
        if next >= COUNT {
            return;
        }
        number(made, next, i64::from(next));
        next += SOURCES;
    }
    if first_window_is_over(notes) {
        number(made, LATE + next, 5);
    }
    let delay = Duration::from_millis(u64::from(next % 3));
    made.residuals.push(Residual { element: restriction(next).into(), delay, hold: Some(Timestamp(i64::from(next))) });
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
fn count(batch: &Batch, state: &dyn StateServer, made: &mut Made) {
    let coder = number_coder();
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
        TimerView { key, tag: b"", windows: vec![window], set }.encode(&mut made.timers);
    }
}

fn fire(due: &[u8], state: &dyn StateServer, made: &mut Made) {
    let mut at = 0;
    while at < due.len() {
        let (timer, length) = TimerView::parse(&due[at..], &WireCoder::Prefixed, &WindowCoder::Interval).unwrap();
        at += length;
        let cell = cell(timer.key, timer.windows[0]);
        let count = state.get(&cell, &[]).unwrap().data;
        state.clear(&cell).unwrap();
        let value = [timer.key, &count].concat();
        encode_windowed_value(&mut made.data, timer.set.unwrap().hold, &timer.windows, &[0x0f], &value);
    }
}

fn note_counts(batch: &Batch, made: &mut Made) {
    let coder = number_coder();
    for element in batch.elements() {
        let view = coder.parse(element).unwrap();
        let start = start_of(view.windows.clone().next().unwrap());
        let count = u32::from_be_bytes(view.value[3..7].try_into().unwrap());
        made.lines.push(format!("count of {} in {start}: {count}", view.value[1]));
    }
}

fn note_groups(batch: &Batch, made: &mut Made) {
    let coder = group_coder();
    for element in batch.elements() {
        let view = coder.parse(element).unwrap();
        let start = start_of(view.windows.clone().next().unwrap());
        let (key, values) = coder.value.key_value(view.value).unwrap();
        let values = WireCoder::Iterable(Box::new(WireCoder::Prefixed)).iterate(values).unwrap().len();
        made.lines.push(format!("group of {} in {start}: {values}", key[1]));
    }
}

fn note_gated(batch: &Batch, state: &dyn StateServer, made: &mut Made) {
    let coder = number_coder();
    for element in batch.elements() {
        let view = coder.parse(element).unwrap();
        let window = Bytes::copy_from_slice(view.windows.clone().next().unwrap());
        let side = StateKey::IterableSideInput { transform: "gated".into(), side_input: "counts".into(), window };
        let counts = state.get(&side, &[]).unwrap().data;
        // A count is a key and a number, one for each key.
        let mut keys: Vec<u8> = counts.chunks(7).map(|count| count[1]).collect();
        keys.sort_unstable();
        if keys.is_empty() || keys.windows(2).any(|pair| pair[0] == pair[1]) {
            made.lines.push(format!("the side window holds {counts:?}"));
        }
        let number = u32::from_be_bytes(view.value[3..7].try_into().unwrap());
        if number < LATE {
            made.lines.push(format!("gated {number}"));
        }
    }
}

fn expected() -> BTreeMap<String, u32> {
    let mut counts: BTreeMap<(u32, i64), u32> = BTreeMap::new();
    let mut lines = BTreeMap::new();
    for number in 0..COUNT {
        let start = i64::from(number).div_euclid(SIZE) * SIZE;
        *counts.entry((number % KEYS, start)).or_default() += 1;
        lines.insert(format!("gated {number}"), 1);
    }
    for ((key, start), count) in counts {
        lines.insert(format!("count of {key} in {start}: {count}"), 1);
        lines.insert(format!("group of {key} in {start}: {count}"), 1);
    }
    lines
}

/// Impulse and a stage make the restrictions; a splittable stage reads numbers in windows. They are counted in state by
/// key, grouped by key, and looked at once the counts of their window are there.
fn plan() -> Plan {
    let stage = |name: &str, input: u32, outputs: &[u32]| Stage {
        transforms: vec![(name.into(), format!("My/{name}"))],
        ..proof::stage(name, input, outputs)
    };
    let collection = |name: &str, coder: &ElementCoder, bounded: bool| Collection {
        name: name.into(),
        value: coder.value.clone(),
        windowing: Windowing::plain(coder.window.clone(), Merging::None),
        bounded,
    };
    let gated = Stage {
        side_inputs: vec![SideInput {
            transform: "gated".into(),
            local_name: "counts".into(),
            collection: CollectionId(3),
            access: Access::Iterable,
            mapping: WindowMapping::Fixed { size: SIZE, offset: 0 },
        }],
        ..stage("gated", 2, &[])
    };
    Plan {
        collections: vec![
            collection("impulse", &restriction_coder(), true),
            collection("restrictions", &restriction_coder(), true),
            collection("numbers", &number_coder(), false),
            collection("counts", &number_coder(), false),
            collection("groups", &group_coder(), false),
        ],
        nodes: vec![
            Node::Impulse { output: CollectionId(0) },
            Node::Stage(StageId(MAKE)),
            Node::Stage(StageId(SOURCE)),
            Node::Stage(StageId(STATE)),
            Node::GroupByKey {
                name: "My/group".into(),
                input: CollectionId(2),
                output: CollectionId(4),
                windowing: Windowing::plain(WindowCoder::Interval, Merging::None),
                merge: None,
                bounded: false,
            },
            Node::Stage(StageId(NOTE_COUNTS)),
            Node::Stage(StageId(NOTE_GROUPS)),
            Node::Stage(StageId(GATED)),
        ],
        stages: vec![
            stage("make", 0, &[1]),
            Stage { splittable: true, unbounded: true, ..stage("source", 1, &[2]) },
            Stage { keyed: Some(counting()), ..stage("count", 2, &[3]) },
            stage("note counts", 3, &[]),
            stage("note groups", 4, &[]),
            gated,
        ],
        environments: vec![],
    }
}

/// What a process says of its checkpoints.
pub(super) struct Told(pub(super) Sender<Result<Saved, String>>);

#[derive(Clone, Debug)]
pub(super) struct Saved {
    pub(super) epoch: u64,
    pub(super) parts: Vec<Part>,
}

impl CheckpointObserver for Told {
    fn saved(&self, epoch: u64, parts: Vec<Part>) {
        let _ = self.0.send(Ok(Saved { epoch, parts }));
    }

    fn failed(&self, epoch: u64, why: String) {
        let _ = self.0.send(Err(format!("checkpoint {epoch}: {why}")));
    }
}

/// One life of the job.
struct Life {
    workers: usize,
    /// How many bundles it has before it dies.
    bundles: u64,
    store: StoreKind,
    memory: usize,
    /// [`Settings::carry_over_after`].
    patience: Duration,
    plan: Plan,
    allow_non_restored_state: bool,
    renames: Renames,
    /// It starts from the checkpoint of another job, and counts its epochs anew.
    anew: bool,
}

impl Default for Life {
    fn default() -> Life {
        Life {
            workers: 2,
            bundles: u64::MAX,
            store: StoreKind::Memory,
            memory: 64 << 20,
            patience: Duration::ZERO,
            plan: plan(),
            allow_non_restored_state: false,
            renames: Renames::default(),
            anew: false,
        }
    }
}

/// Takes one checkpoint after the other until the dataflow has ended; gives the last that was committed.
pub(super) fn take_checkpoints(
    checkpoints: &Checkpoints,
    told: &Receiver<Result<Saved, String>>,
    ended: &Receiver<()>,
    first: u64,
    folder: &Path,
) -> Option<Saved> {
    let (mut last, mut epoch) = (None, first);
    loop {
        epoch += 1;
        let into = folder.join(epoch.to_string());
        std::fs::create_dir(&into).unwrap();
        checkpoints.begin(epoch, into);
        crossbeam_channel::select! {
            recv(told) -> saved => {
                let saved = saved.unwrap().unwrap();
                assert_eq!(saved.epoch, epoch);
                // Every third is not completed elsewhere: what belongs to it waits for the next.
                if epoch.is_multiple_of(3) {
                    checkpoints.aborted(epoch);
                } else {
                    checkpoints.committed(epoch);
                    last = Some(saved);
                }
            }
            recv(ended) -> _ => return last,
        }
    }
}

impl Life {
    /// Lives on from `from`; gives the checkpoint to go on from, or none when the job is done.
    fn live(&self, from: Option<&Saved>, notes: &Notes, dir: &Path) -> Option<Saved> {
        self.try_to_live(from, notes, dir).unwrap()
    }

    /// As [`Life::live`]; the message of a job that fails otherwise than by dying.
    fn try_to_live(&self, from: Option<&Saved>, notes: &Notes, dir: &Path) -> Result<Option<Saved>, String> {
        let first = from.filter(|_| !self.anew).map_or(0, |from| from.epoch);
        let folders = |saved: &Saved| saved.parts.iter().map(|part| part.folder.clone()).collect::<Vec<PathBuf>>();
        let restore = from.map(|from| Restore::read(from.epoch, folders(from)).unwrap());
        let restore = restore.map(|restore| restore.renamed(&self.renames).unwrap());
        let restore = restore.map(|restore| if self.anew { restore.for_another_job() } else { restore });
        let (tell, told) = crossbeam_channel::unbounded();
        let checkpoints = Checkpoints::new(self.workers, restore, Arc::new(Told(tell))).unwrap();
        let user = User { left: AtomicU64::new(self.bundles), fails: 13, notes: Arc::clone(notes) };
        let job = Job {
            plan: Arc::new(self.plan.clone()),
            executor: Arc::new(user),
            budget: Budget::new(self.memory, dir),
            observer: Arc::new(Silent),
            settings: Settings {
                max_bundle_elements: 40,
                retries: 50,
                retry_delay: Duration::from_millis(1),
                store: self.store,
                carry_over_after: self.patience,
                allow_non_restored_state: self.allow_non_restored_state,
                ..Settings::default()
            },
            drain: Drain::default(),
            checkpoints: checkpoints.clone(),
            leaving: Default::default(),
            test_events: Arc::new(proof::NoService),
        };
        let (end, ended) = crossbeam_channel::bounded(1);
        let workers = self.workers;
        let life = std::thread::spawn(move || {
            let outcome = run(job, Topology::single(workers));
            let _ = end.send(());
            outcome
        });
        let folder = tempfile::tempdir_in(dir).unwrap().keep();
        let last = take_checkpoints(&checkpoints, &told, &ended, first, &folder);
        match life.join().unwrap() {
            Ok(()) => Ok(None),
            Err(failure) if failure.message.starts_with("the process died") => {
                Ok(last.or_else(|| from.cloned()).or(Some(Saved { epoch: 0, parts: vec![] })))
            }
            Err(failure) => Err(failure.message),
        }
    }
}

fn lives_on(seed: u64, store: StoreKind, memory: usize) {
    let dir = tempfile::tempdir().unwrap();
    let notes = Notes::default();
    let mut random = seed;
    let mut next = |limit: u64| {
        // A linear congruential generator does: every run prints its seed.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    let mut from: Option<Saved> = None;
    for life in 0.. {
        let workers = [1, 2, 4, 3][next(4) as usize];
        let bundles = if life < 4 { 60 + next(600) } else { u64::MAX };
        // Everything that is open goes over every border, or some of it, or nothing.
        let patience = Duration::from_millis([0, 0, 2, 1000][next(4) as usize]);
        let life = Life { workers, bundles, store, memory, patience, ..Life::default() };
        match life.live(from.as_ref().filter(|from| from.epoch > 0), &notes, dir.path()) {
            Some(saved) => from = Some(saved),
            None => break,
        }
    }
    check(&notes, &format!("seed {seed}"));
}

fn check(notes: &Notes, what: &str) {
    let (found, expected) = (notes.lock().unwrap(), expected());
    let wrong: Vec<_> = expected
        .iter()
        .filter(|(line, count)| found.get(*line) != Some(count))
        .map(|(line, _)| (line, found.get(line)))
        .take(20)
        .collect();
    let more: Vec<_> = found.iter().filter(|(line, _)| !expected.contains_key(*line)).take(20).collect();
    assert!(wrong.is_empty() && more.is_empty(), "{what}: not as expected {wrong:?}, not expected {more:?}");
}

/// Undisturbed, with a checkpoint after the other.
#[test]
fn a_job_with_checkpoints_has_the_results_of_one_without() {
    for workers in [1, 2, 4] {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes::default();
        let life = Life { workers, ..Life::default() };
        assert!(life.live(None, &notes, dir.path()).is_none());
        assert!(*notes.lock().unwrap() == expected(), "{workers} workers");
    }
}

#[test]
fn restore_equals_undisturbed() {
    for seed in 0..6 {
        eprintln!("seed {seed}");
        lives_on(seed, StoreKind::Memory, 64 << 20);
    }
}

/// Everything on disk: RocksDB, and queues that spill.
#[test]
fn restore_equals_undisturbed_on_disk() {
    for seed in 100..103 {
        eprintln!("seed {seed}");
        lives_on(seed, StoreKind::RocksDb, 0);
    }
}

/// A life that ends somewhere in the middle, with a checkpoint. One that ends before its first, or never because its
/// bundles are large, is lived again: how soon a checkpoint is complete, and how much waits for a bundle, depends on the
/// machine.
fn half_a_life(notes: &Notes, dir: &Path) -> Saved {
    let life = Life { bundles: 600, ..Life::default() };
    for _ in 0..100 {
        if let Some(saved) = life.live(None, notes, dir).filter(|saved| saved.epoch > 0) {
            return saved;
        }
        notes.lock().unwrap().clear();
    }
    panic!("no checkpoint was complete in 100 lives");
}

fn keyed(plan: &mut Plan) -> &mut Keyed {
    plan.stages[STATE as usize].keyed.as_mut().unwrap()
}

/// State that is added, also before what was there, and a transform that is inserted, change nothing for the rest; and the
/// job may be another one, on another number of workers.
#[test]
fn a_changed_pipeline_takes_over_what_it_still_has() {
    let dir = tempfile::tempdir().unwrap();
    let notes = Notes::default();
    let saved = half_a_life(&notes, dir.path());
    let mut changed = plan();
    let first = StateCell { state: "a".into(), ..keyed(&mut changed).states[0].clone() };
    keyed(&mut changed).states.insert(0, first);
    let later = TimerFamily { family: "later".into(), ..keyed(&mut changed).timers[0].clone() };
    keyed(&mut changed).timers.push(later);
    // A stage between the source and nothing else: positions of all that come after it move.
    changed.nodes.insert(3, Node::Stage(StageId(INSERTED)));
    changed.stages.push(Stage { transforms: vec![], ..proof::stage("inserted", 2, &[]) });
    let life = Life { workers: 3, plan: changed, anew: true, ..Life::default() };
    assert!(life.live(Some(&saved), &notes, dir.path()).is_none());
    check(&notes, "changed");
}

/// A transform that has another name now, with its state, its timers and its grouping.
#[test]
fn what_was_renamed_is_taken_over_under_its_new_name() {
    let dir = tempfile::tempdir().unwrap();
    let notes = Notes::default();
    let saved = half_a_life(&notes, dir.path());
    let mut renamed = plan();
    renamed.stages[STATE as usize].name = "tally".into();
    renamed.stages[STATE as usize].transforms = vec![("count".into(), "My/tally".into())];
    renamed.stages[SOURCE as usize].name = "read".into();
    for node in &mut renamed.nodes {
        if let Node::GroupByKey { name, .. } = node {
            *name = "Your/group".into();
        }
    }
    let names = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(old, new)| ((*old).to_owned(), (*new).to_owned())).collect::<Renames>()
    };
    let all = [("count", "tally"), ("My/count", "My/tally"), ("source", "read"), ("My/group", "Your/group")];
    let tried = |renames: Renames| {
        let life = Life { plan: renamed.clone(), renames, ..Life::default() };
        life.try_to_live(Some(&saved), &Notes::default(), dir.path()).unwrap_err()
    };
    let message = tried(names(&all[1..]));
    assert!(message.contains("stage count: the pipeline has it no more"), "{message}");
    assert!(!message.contains("source") && !message.contains("group"), "{message}");
    let life = Life { plan: renamed.clone(), renames: names(&all), workers: 3, anew: true, ..Life::default() };
    assert!(life.live(Some(&saved), &notes, dir.path()).is_none());
    check(&notes, "renamed");
}

/// What `compare` says of a changed pipeline, without starting it.
#[test]
fn what_is_new_and_what_is_given_up_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let saved = half_a_life(&Notes::default(), dir.path());
    let restore = Restore::read(saved.epoch, saved.parts.iter().map(|part| part.folder.clone())).unwrap();
    let same = compare(&plan(), &restore, false).unwrap();
    assert!(same.taken_over.contains(&"stage count".to_owned()), "{same:?}");
    assert_eq!((same.begins_empty, same.dropped), (vec![], vec![]));
    let mut changed = plan();
    let cells = &mut keyed(&mut changed).states;
    cells[0].state = "another".into();
    for node in &mut changed.nodes {
        if let Node::GroupByKey { name, .. } = node {
            *name = "another".into();
        }
    }
    assert!(compare(&changed, &restore, false).is_err());
    let changed = compare(&changed, &restore, true).unwrap();
    assert_eq!(changed.begins_empty, ["state \"another\" of \"My/count\"", "group another"]);
    assert_eq!(changed.dropped, ["group My/group", "state \"n\" of \"My/count\""]);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let notes = Notes::default();
    let saved = half_a_life(&notes, dir.path());
    let tried = |change: &dyn Fn(&mut Plan), allow_non_restored_state: bool| {
        let mut plan = plan();
        change(&mut plan);
        let life = Life { plan, allow_non_restored_state, ..Life::default() };
        life.try_to_live(Some(&saved), &Notes::default(), dir.path())
    };
    let recoded = |plan: &mut Plan| keyed(plan).states[0].value = None;
    let renamed = |plan: &mut Plan| plan.stages[SOURCE as usize].name = "another source".into();
    let windowed = |plan: &mut Plan| {
        for node in &mut plan.nodes {
            if let Node::GroupByKey { windowing, .. } = node {
                windowing.allowed_lateness = 5;
            }
        }
    };
    let all = |plan: &mut Plan| [&recoded as &dyn Fn(&mut Plan), &renamed, &windowed].iter().for_each(|it| it(plan));
    let message = tried(&all, false).unwrap_err();
    for part in [
        "the checkpoint does not fit the pipeline",
        "stage count: state \"n\" of \"My/count\" was saved as bag of prefixed, and is now bag of unknown",
        "stage source: the pipeline has it no more, or it has another name now",
        "group My/group: it was saved as",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    // What is gone may be dropped; what is there and does not fit may not.
    assert!(tried(&recoded, true).is_err());
    assert!(tried(&|plan| keyed(plan).timers.clear(), false).unwrap_err().contains("timer family \"end\""));
}
