//! Properties of the grouping in a dataflow, over random streams and with 1, 2 and 4 workers.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proptest::prelude::*;
use timely::dataflow::channels::pact::Pipeline;

use super::*;
use crate::clock::{Clock, TestClock};
use crate::dataflow::bundle_state::StageState;
use crate::dataflow::bundles::Bundles;
use crate::dataflow::flow::Flow;
use crate::dataflow::run::Reporter;
use crate::dataflow::{Job, proof};
use crate::element::{Batch, BatchBuilder, ElementCoder, WireCoder, encode_windowed_value};
use crate::grouping::StoredIterables;
use crate::metrics::Metric;
use crate::plan::{Collection, Plan, StageId};
use crate::state::StoreKind;
use crate::time::{self, Timestamp};
use crate::windowing::*;

/// What one worker's source does.
#[derive(Clone, Debug)]
enum Step {
    /// Elements, each of a key, so much after the watermark, or before it.
    Elements(Vec<(u8, i64)>),
    /// The watermark moves on.
    Watermark(i64),
    /// The epoch ends.
    Epoch,
    /// The clock moves on, as far as it concerns everybody.
    Clock(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => proptest::collection::vec((0..5u8, -30..40i64), 1..6).prop_map(Step::Elements),
        3 => (1..25i64).prop_map(Step::Watermark),
        1 => Just(Step::Epoch),
        1 => (1..20i64).prop_map(Step::Clock),
    ];
    proptest::collection::vec(step, 0..150)
}

fn triggers() -> impl Strategy<Value = Trigger> {
    let boxed = |trigger| Some(Box::new(trigger));
    let early_and_late = Trigger::AfterEndOfWindow {
        early: boxed(Trigger::AfterProcessingTime(vec![TimestampTransform::Delay(10)])),
        late: boxed(Trigger::ElementCount(2)),
    };
    prop_oneof![
        Just(Trigger::Default),
        Just(Trigger::Never),
        Just(Trigger::Always),
        (1..4u32).prop_map(|count| Trigger::Repeat(Box::new(Trigger::ElementCount(count)))),
        (1..9u32).prop_map(Trigger::ElementCount),
        Just(Trigger::Repeat(Box::new(Trigger::AfterProcessingTime(vec![TimestampTransform::Delay(7)])))),
        Just(early_and_late),
    ]
}

fn windowings() -> impl Strategy<Value = (Windowing, Mode)> {
    let combiner = prop_oneof![
        Just(TimestampCombiner::Earliest),
        Just(TimestampCombiner::Latest),
        Just(TimestampCombiner::EndOfWindow)
    ];
    let mode = prop_oneof![Just(Mode::Fixed), Just(Mode::Sessions), Just(Mode::Custom)];
    (triggers(), combiner, 0..30i64, mode, any::<bool>()).prop_map(|(trigger, combiner, lateness, mode, always)| {
        let merging = match mode {
            Mode::Fixed => Merging::None,
            Mode::Sessions => Merging::Sessions,
            Mode::Custom => Merging::Custom,
        };
        let windowing = Windowing {
            timestamp_combiner: combiner,
            trigger,
            allowed_lateness: lateness,
            closing: if always { ClosingBehavior::EmitAlways } else { ClosingBehavior::EmitIfNonempty },
            ..Windowing::plain(WindowCoder::Interval, merging)
        };
        (windowing, mode)
    })
}

/// How windows merge.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    /// Not at all: windows are fixed.
    Fixed,
    /// As sessions.
    Sessions,
    /// As sessions, but it is the SDK that says so.
    Custom,
}

/// An element as its source sent it: its number, and whether it was on time for certain.
#[derive(Clone, Copy, Debug)]
struct Sent {
    key: u8,
    timestamp: i64,
    on_time: bool,
}

/// A pane as the sink received it.
#[derive(Clone, Debug)]
struct Pane {
    key: Vec<u8>,
    window: IntervalWindow,
    info: PaneInfo,
    values: Vec<u64>,
    timestamp: Timestamp,
    /// The watermark that the sink's input had reached before.
    watermark: Timestamp,
}

#[derive(Default)]
struct Records {
    sent: BTreeMap<u64, Sent>,
    panes: Vec<Pane>,
    dropped: u64,
    /// The epochs that the sink's input has reached.
    epochs: Vec<u64>,
    failures: Vec<String>,
}

type Shared = Arc<Mutex<Records>>;

struct Counting(Shared);

impl JobObserver for Counting {
    fn committed(&self, _stage: StageId, _epoch: u64, _metrics: Vec<Metric>) {}
    fn counted(&self, _epoch: u64, metric: Metric) {
        let (count, _) = crate::element::get_varint(&metric.payload).unwrap();
        self.0.lock().unwrap().dropped += count;
    }
    fn warning(&self, _message: String) {}
}

fn kv(value: WireCoder) -> WireCoder {
    WireCoder::Kv(Box::new(WireCoder::Prefixed), Box::new(value))
}

/// The coder of questions about windows, and that of the answers.
fn merge_coders() -> [ElementCoder; 2] {
    let windows = || WireCoder::Iterable(Box::new(WireCoder::IntervalWindow));
    let merged = WireCoder::Kv(Box::new(WireCoder::IntervalWindow), Box::new(windows()));
    let answer = WireCoder::Kv(Box::new(windows()), Box::new(WireCoder::Iterable(Box::new(merged))));
    [windows(), answer].map(|value| ElementCoder { value: kv(value), window: WindowCoder::Global })
}

/// What an SDK does that merges windows as sessions.
fn merge_as_sessions(batch: &Batch, emit: &mut dyn FnMut(&[u8])) {
    let [question, _] = merge_coders();
    let WireCoder::Kv(_, windows) = &question.value else { unreachable!() };
    for element in batch.elements() {
        let view = question.parse(element).unwrap();
        let (nonce, asked) = question.value.key_value(view.value).unwrap();
        let asked: Vec<Bytes> = windows.iterate(asked).unwrap().into_iter().map(Bytes::copy_from_slice).collect();
        let (merged, alone): (Vec<_>, Vec<_>) =
            merge_sessions(asked.clone()).unwrap().into_iter().partition(|(_, members)| members.len() > 1);
        let mut value = nonce.to_vec();
        value.extend_from_slice(&(alone.len() as u32).to_be_bytes());
        alone.iter().for_each(|(window, _)| value.extend_from_slice(window));
        value.extend_from_slice(&(merged.len() as u32).to_be_bytes());
        for (window, members) in &merged {
            value.extend_from_slice(window);
            value.extend_from_slice(&(members.len() as u32).to_be_bytes());
            members.iter().for_each(|member| value.extend_from_slice(&asked[*member]));
        }
        let mut out = Vec::new();
        encode_windowed_value(&mut out, Timestamp::MIN, &[b""], &[0x0f], &value);
        emit(&out);
    }
}

/// A plan of nothing but the stage that merges windows.
fn merging_plan() -> Plan {
    let mut stage = proof::stage("merge", 0, &[1]);
    stage.merges_windows = true;
    let windowing = || Windowing::plain(WindowCoder::Global, Merging::None);
    let collections = merge_coders().map(|coder| Collection {
        name: "windows".into(),
        value: coder.value,
        windowing: windowing(),
        bounded: false,
    });
    Plan { collections: collections.into(), nodes: vec![], stages: vec![stage], environments: vec![] }
}

fn input_coder() -> ElementCoder {
    ElementCoder { value: kv(WireCoder::VarInt), window: WindowCoder::Interval }
}

fn output_coder() -> ElementCoder {
    ElementCoder { value: kv(WireCoder::Iterable(Box::new(WireCoder::VarInt))), window: WindowCoder::Interval }
}

/// Plays the steps of each worker, and gives what was seen.
fn run(workers: usize, scripts: &[Vec<Step>], windowing: &Windowing, mode: Mode) -> Records {
    let records = Shared::default();
    let folder = tempfile::tempdir().unwrap();
    let merge: Arc<proof::Logic> = Arc::new(|_, batch, emit| merge_as_sessions(batch, emit));
    let observer = Arc::new(Counting(Arc::clone(&records)));
    // Every seventh bundle fails, and is run again.
    let job = Job { observer, ..proof::job(merging_plan(), merge, 7, 1 << 20, folder.path()) };
    let clock = Arc::new(TestClock::default());
    let (reports, inbox) = crossbeam_channel::unbounded();
    let (shared, scripts, windowing) = (Arc::clone(&records), scripts.to_vec(), windowing.clone());
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let reporter = Rc::new(Reporter::new(reports.clone(), job.clone()));
        let script = scripts[worker.index()].clone();
        worker.dataflow::<Moment, _, _>(|scope| {
            let input = source(scope, script, mode, Arc::clone(&clock), Arc::clone(&shared));
            let grouping = Grouping {
                name: "group".into(),
                input: input_coder(),
                output: output_coder().value,
                windowing: windowing.clone(),
                budget: job.budget.clone(),
                iterables: Arc::new(StoredIterables::new(&job.budget)),
                readers: 1,
            };
            let means = Means {
                stores: Stores::new(StoreKind::Memory, &job.budget),
                clock: Arc::clone(&clock) as Arc<dyn Clock>,
                observer: Arc::clone(&job.observer),
            };
            let links = Links { flow: Flow::default(), reporter: Rc::clone(&reporter), saver: Saver::none() };
            let merges = |address| {
                let nothing = StageState::new([], Arc::new(StoredIterables::new(&job.budget))).bundle(None);
                let bundles = Bundles::new(scope, address, job.clone(), StageId(0), nothing, reporter);
                let [_, answer] = merge_coders();
                (mode == Mode::Custom).then(|| WindowMerges::new(bundles, answer))
            };
            let output = build(scope, grouping, means, input, merges, links);
            sink(scope, output, Arc::clone(&shared));
        });
    })
    .unwrap();
    for ended in guards.join() {
        ended.unwrap();
    }
    assert!(inbox.try_recv().is_err(), "no operator reported a failure");
    let mut records = records.lock().unwrap();
    std::mem::take(&mut *records)
}

fn source<'scope>(
    scope: Scope<'scope, Moment>,
    script: Vec<Step>,
    mode: Mode,
    clock: Arc<TestClock>,
    records: Shared,
) -> Edge<'scope> {
    let mut builder = OperatorBuilder::new("Source".into(), scope);
    let (mut output, stream) = Output::new(&mut builder);
    let activator = scope.activator_for(builder.operator_info().address);
    let mut number = (scope.index() as u64) << 32;
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop();
        let (mut epoch, mut watermark) = (0, 0);
        if let Some(capability) = &mut capability {
            capability.downgrade(&Moment::new(epoch, Timestamp(watermark)));
        }
        let mut script = script.into_iter();
        move |_| {
            let Some(held) = &mut capability else { return };
            match script.next() {
                Some(Step::Elements(elements)) => {
                    let mut batch = BatchBuilder::default();
                    for (key, by) in elements {
                        let sent = Sent { key, timestamp: watermark + by, on_time: by >= 0 };
                        records.lock().unwrap().sent.insert(number, sent);
                        push(&mut batch, key, sent.timestamp, number, mode);
                        number += 1;
                    }
                    output.give(held, batch.finish());
                }
                Some(Step::Watermark(by)) => watermark += by,
                Some(Step::Epoch) => epoch += 1,
                Some(Step::Clock(by)) => clock.advance(by),
                None => {
                    capability = None;
                    return;
                }
            }
            held.downgrade(&Moment::new(epoch, Timestamp(watermark)));
            activator.activate();
        }
    });
    stream
}

fn window_of(timestamp: i64, mode: Mode) -> IntervalWindow {
    let start = if mode != Mode::Fixed { timestamp } else { timestamp - timestamp.rem_euclid(20) };
    IntervalWindow { start: Timestamp(start), end: Timestamp(start + if mode != Mode::Fixed { 8 } else { 20 }) }
}

fn push(batch: &mut BatchBuilder, key: u8, timestamp: i64, number: u64, mode: Mode) {
    let mut value = vec![1, key];
    crate::element::put_varint(&mut value, number);
    let window = window_of(timestamp, mode).encode();
    batch.push_with(Timestamp(timestamp), |out| {
        encode_windowed_value(out, Timestamp(timestamp), &[&window], &[0x0f], &value);
    });
}

fn sink<'scope>(scope: Scope<'scope, Moment>, input: Edge<'scope>, records: Shared) {
    let mut builder = OperatorBuilder::new("Sink".into(), scope);
    let mut input = builder.new_input(input, Pipeline);
    builder.build(move |_| {
        let (mut watermark, mut epoch) = (Timestamp(i64::MIN), 0);
        move |frontiers| {
            input.for_each(|capability, batch| {
                let moment = moment(capability.stamp()).unwrap();
                let mut records = records.lock().unwrap();
                if moment.epoch < epoch || Timestamp(moment.watermark) < watermark {
                    records.failures.push(format!("a batch at {moment:?} behind {epoch}, {watermark:?}"));
                }
                records.panes.extend(panes(batch, watermark));
            });
            let frontier = frontiers[0].frontier();
            watermark = time::watermark(frontier).unwrap_or(Timestamp::MAX);
            epoch = time::epoch(frontier).unwrap_or(u64::MAX);
            records.lock().unwrap().epochs.push(epoch);
        }
    });
}

fn panes(batch: &Batch, watermark: Timestamp) -> Vec<Pane> {
    let coder = output_coder();
    let WireCoder::Kv(_, iterable) = &coder.value else { unreachable!() };
    let read = |element: &[u8]| {
        let view = coder.parse(element).unwrap();
        let (key, values) = coder.value.key_value(view.value).unwrap();
        let values = iterable.iterate(values).unwrap();
        Pane {
            key: key.to_vec(),
            window: IntervalWindow::decode(view.windows.bytes()).unwrap(),
            info: PaneInfo::decode(view.pane).unwrap(),
            values: values.into_iter().map(|value| crate::element::get_varint(value).unwrap().0).collect(),
            timestamp: view.timestamp,
            watermark,
        }
    };
    batch.elements().map(read).collect()
}

fn check(records: &Records, windowing: &Windowing, mode: Mode) -> Result<(), TestCaseError> {
    prop_assert!(records.failures.is_empty(), "{:?}", records.failures);
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    for pane in &records.panes {
        for value in &pane.values {
            *seen.entry(*value).or_default() += 1;
            let sent = records.sent[value];
            prop_assert_eq!(&pane.key[1..], &[sent.key], "it came out under its key");
            let own = window_of(sent.timestamp, mode);
            prop_assert!(pane.window.start <= own.start && own.end <= pane.window.end, "in its window, or a wider one");
        }
    }
    // no_loss_no_duplication
    for (number, sent) in &records.sent {
        let times = seen.get(number).copied().unwrap_or_default();
        prop_assert!(times <= 1, "{sent:?} came out {times} times");
        let kept = !matches!(windowing.trigger, Trigger::ElementCount(_));
        prop_assert!(times == 1 || !(sent.on_time && kept), "{sent:?} is lost");
    }
    prop_assert_eq!(records.sent.len() as u64, seen.len() as u64 + records.dropped, "what is dropped is counted");
    // pane_indices_are_consecutive
    let mut by_window: BTreeMap<(&[u8], IntervalWindow), Vec<&Pane>> = BTreeMap::new();
    for pane in &records.panes {
        by_window.entry((&pane.key, pane.window)).or_default().push(pane);
    }
    for panes in by_window.values() {
        // A session that was merged away may come again, and begins anew.
        let runs: Vec<&[&Pane]> = panes.chunk_by(|_, next| !next.info.is_first).collect();
        prop_assert!(mode != Mode::Fixed || runs.len() == 1, "{panes:?}");
        for run in runs {
            let mut on_time = 0;
            for (index, pane) in run.iter().enumerate() {
                prop_assert_eq!(pane.info.index, index as u64, "{:?}", panes);
                prop_assert_eq!(pane.info.is_first, index == 0);
                prop_assert!(!pane.info.is_last || index + 1 == run.len(), "nothing comes after the last");
                if let Some(index) = pane.info.on_time_index {
                    prop_assert_eq!(index, on_time);
                    on_time += 1;
                }
            }
        }
    }
    // watermark_never_passes_a_hold
    for pane in &records.panes {
        prop_assert!(pane.timestamp <= pane.window.max_timestamp());
        if matches!(pane.info.timing, Timing::Early | Timing::OnTime) {
            prop_assert!(pane.timestamp >= pane.watermark, "{pane:?} is late");
        }
        let expiry = pane.window.max_timestamp().0 + windowing.allowed_lateness;
        prop_assert!(expiry >= pane.watermark.0, "{pane:?} would be dropped downstream");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn no_loss_no_duplication((windowing, mode) in windowings(), scripts in proptest::collection::vec(steps(), 4)) {
        for workers in [1, 2, 4] {
            let records = run(workers, &scripts, &windowing, mode);
            check(&records, &windowing, mode)?;
        }
    }
}

#[test]
fn epochs_end_while_windows_are_open() {
    let script =
        vec![Step::Elements(vec![(1, 5)]), Step::Epoch, Step::Elements(vec![(1, 6)]), Step::Epoch, Step::Epoch];
    let windowing = Windowing { trigger: Trigger::Never, ..Windowing::plain(WindowCoder::Interval, Merging::None) };
    let records = run(1, &[script], &windowing, Mode::Fixed);
    assert_eq!(records.panes.len(), 1);
    assert_eq!(records.panes[0].values, [0, 1]);
    assert!(records.epochs.contains(&3), "{:?}", records.epochs);
}

#[test]
fn a_window_that_has_ended_fires_on_time_though_the_clock_has_moved_too() {
    // The watermark takes a round to reach the grouping, and the clock does not: it sees both at once.
    let script = vec![Step::Elements(vec![(1, 5)]), Step::Watermark(25), Step::Clock(7)];
    let trigger = Trigger::Repeat(Box::new(Trigger::AfterProcessingTime(vec![TimestampTransform::Delay(7)])));
    let windowing = Windowing { trigger, ..Windowing::plain(WindowCoder::Interval, Merging::None) };
    let records = run(1, &[script], &windowing, Mode::Fixed);
    let panes: Vec<_> = records.panes.iter().map(|pane| (pane.info.timing, &pane.values[..])).collect();
    assert_eq!(panes, [(Timing::OnTime, &[0][..])]);
}
