//! What stands before a stage with side inputs that grow: main input waits here until its side windows are ready.
//!
//! A side window is ready once it has fired, or once the side input's watermark says that a window that has not fired by
//! then is empty ([`GrowingTable::fires_by`]). An element goes on when for each of its windows the mapped window of every
//! side input is ready; one in several windows is taken apart, so that it goes on in those that are. Elements wait in
//! queues of their windows, which spill to disk; a side input that never comes costs space and nothing else.
//!
//! To the stage's operator the waiting elements are input that has not come yet: [`Gate::frontier`] is the input's
//! frontier with their moments in it. They hold the watermark, but not the epoch: they go with the epoch that the input
//! and the side inputs have reached, so a side input that only comes in a later one is not waited for in vain. But no
//! waiting element goes on to an epoch that a side input has not reached: what that brings in an epoch is used in it.
//!
//! Side inputs of bounded collections are tables that are read when they are whole. Until then nothing of the stage runs,
//! and its input waits where all of its input does ([`Gate::closed`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::Antichain;
use timely::progress::frontier::{AntichainRef, MutableAntichain};
use timely::scheduling::Activator;

use super::super::Job;
use super::super::bundle_state::StageState;
use super::super::bundles::element_coder;
use super::super::edge::Edge;
use super::super::queue::{FrozenInput, InputQueue};
use super::super::run::Reporter;
use super::map_windows::Mapper;
use crate::element::{Batch, BatchBuilder, ElementCoder, ElementError, encode_windowed_value};
use crate::memory::Budget;
use crate::plan::{StageId, WindowMapping};
use crate::side_input::{GrowingTable, ReaderId, Shown, map_window};
use crate::time::{self, Moment, Timestamp};

/// Windows with a queue, and perhaps a file, of their own. Elements of further ones wait together.
const QUEUES: usize = 64;
/// Windows whose readiness is remembered.
const REMEMBERED: usize = 10_000;
/// Bytes that go on in one visit.
const VISIT: usize = 64 << 20;

/// The side inputs of a stage on one worker.
#[derive(Default)]
pub(crate) struct SideInputs<'scope> {
    /// Of bounded collections: a frontier that is empty when the table is whole.
    pub(crate) whole: Vec<Edge<'scope>>,
    /// Of others.
    pub(crate) growing: Vec<Growing<'scope>>,
}

/// A side input that grows.
pub(crate) struct Growing<'scope> {
    /// Its frontier says how far the tables of all processes have come.
    pub(crate) barrier: Edge<'scope>,
    /// This process's table.
    pub(crate) table: Arc<GrowingTable>,
    pub(crate) mapping: WindowMapping,
    /// Serves the bundles that ask the SDK for windows, where the mapping needs that.
    pub(crate) state: Arc<StageState>,
}

/// See the module.
pub(crate) struct Gate {
    name: String,
    /// Of the main input.
    coder: ElementCoder,
    /// How late main input may come and still be on time for its window, in milliseconds.
    allowed_lateness: i64,
    budget: Budget,
    reporter: Rc<Reporter>,
    activator: Activator,
    /// Barriers that come first among the operator's inputs after the main one.
    whole: usize,
    /// Where the barriers that are not passed, and the main input, have come to; `None`: all are passed.
    closed: Option<u64>,
    sides: Vec<Side>,
    /// A table shows something that it has not shown before.
    changed: Arc<AtomicBool>,
    /// What is known of windows, until something changes.
    verdicts: HashMap<Bytes, Verdict>,
    ready: VecDeque<Passed>,
    waiting: BTreeMap<Bytes, Waiting>,
    /// Of windows without a queue of their own, and those windows.
    crowd: Option<(Waiting, BTreeSet<Bytes>)>,
    /// Of windows that have become ready.
    released: VecDeque<Waiting>,
    /// Bytes that have gone on in this visit.
    gone_on: usize,
    frontier: Antichain<Moment>,
    /// What the tables were told.
    passed: i64,
    late: bool,
    failed: bool,
}

/// Input that the stage may process.
pub(crate) struct Passed {
    pub(crate) moment: Moment,
    pub(crate) batch: Batch,
    /// It came in an earlier epoch than that of `moment`, and had to wait.
    pub(crate) waited: bool,
}

struct Side {
    table: Arc<GrowingTable>,
    reader: ReaderId,
    mapping: WindowMapping,
    mapper: Option<Mapper>,
    /// Watermark and epoch that all tables have reached; `None`: nothing more will come.
    reached: (Option<Timestamp>, Option<u64>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ready,
    Waits,
    /// Its side window was removed: the element is later than anything that is waited for.
    Gone,
}

struct Waiting {
    queue: InputQueue,
    /// Where all of it is held.
    held: Moment,
}

impl Gate {
    /// Adds its side inputs to the operator of a stage, which has its main input already, and no other.
    pub(crate) fn new<'scope>(
        scope: Scope<'scope, Moment>,
        builder: &mut OperatorBuilder<'scope, Moment>,
        (job, stage): (&Job, StageId),
        side_inputs: SideInputs<'scope>,
        reporter: &Rc<Reporter>,
    ) -> Gate {
        let stage = &job.plan.stages[stage.0 as usize];
        let input = &job.plan.collections[stage.input.collection.0 as usize];
        let SideInputs { whole, growing } = side_inputs;
        let address = builder.operator_info().address;
        let count = whole.len();
        let barriers = whole.into_iter().chain(growing.iter().map(|side| side.barrier.clone()));
        for barrier in barriers {
            // Nothing ever comes but progress.
            let _ = builder.new_input(barrier, Pipeline);
        }
        let changed = Arc::new(AtomicBool::new(false));
        let sides = growing.into_iter().map(|side| {
            let (wake, changed) = (scope.worker().sync_activator_for(address.to_vec()), Arc::clone(&changed));
            side.table.watch(move || {
                changed.store(true, Ordering::SeqCst);
                // Fails only when the worker is gone.
                let _ = wake.activate();
            });
            let mapper = match side.mapping {
                WindowMapping::Sdk(asked) => {
                    Some(Mapper::new(scope, Rc::clone(&address), (job, asked), &side.state, Rc::clone(reporter)))
                }
                _ => None,
            };
            Side {
                reader: side.table.reader(),
                table: side.table,
                mapper,
                mapping: side.mapping,
                reached: (Some(Timestamp(i64::MIN)), Some(0)),
            }
        });
        let sides = sides.collect();
        Gate {
            sides,
            changed,
            name: stage.name.clone(),
            coder: element_coder(&job.plan, stage.input.collection),
            allowed_lateness: input.windowing.allowed_lateness,
            budget: job.budget.clone(),
            reporter: Rc::clone(reporter),
            activator: scope.activator_for(Rc::clone(&address)),
            whole: count,
            closed: Some(0),
            verdicts: HashMap::new(),
            ready: VecDeque::new(),
            waiting: BTreeMap::new(),
            crowd: None,
            released: VecDeque::new(),
            gone_on: 0,
            frontier: Antichain::from_elem(timely::progress::Timestamp::minimum()),
            passed: i64::MIN,
            late: false,
            failed: false,
        }
    }

    /// Begins a visit: looks how far the side inputs have come. `inputs` are the frontiers of the operator's inputs.
    pub(crate) fn visit(&mut self, inputs: &[MutableAntichain<Moment>]) {
        let (whole, growing) = inputs[1..].split_at(self.whole);
        let shut = whole.iter().map(MutableAntichain::frontier).filter_map(open_epoch).min();
        self.closed = shut.map(|shut| time::epoch(inputs[0].frontier()).map_or(shut, |input| input.min(shut)));
        self.gone_on = 0;
        if self.sides.is_empty() || self.failed {
            return;
        }
        let mut changed = self.changed.swap(false, Ordering::SeqCst);
        for (side, barrier) in self.sides.iter_mut().zip(growing) {
            let reached = (time::watermark(barrier.frontier()), time::epoch(barrier.frontier()));
            changed |= reached != side.reached;
            side.reached = reached;
        }
        let worked = self.look_again(changed);
        self.check(worked);
        if self.asks() {
            // An answer may yet show that something was ready in this epoch.
            return;
        }
        // Only now, when what the side inputs brought in the epoch before has been used.
        let epochs = self.sides.iter().filter_map(|side| side.reached.1);
        if let Some(epoch) = epochs.chain(time::epoch(inputs[0].frontier())).min() {
            for waiting in self.waiting.values_mut().chain(self.crowd.as_mut().map(|(waiting, _)| waiting)) {
                waiting.held.epoch = waiting.held.epoch.max(epoch);
            }
        }
    }

    /// `None` once all tables of bounded collections are whole. Until then nothing of the stage runs, and its input
    /// belongs to the epoch given or a later one: the tables will not be whole before.
    pub(crate) fn closed(&self) -> Option<u64> {
        self.closed
    }

    /// Takes input of the stage.
    pub(crate) fn push(&mut self, moment: Moment, batch: Batch) {
        if self.sides.is_empty() {
            self.ready.push_back(Passed { moment, batch, waited: false });
        } else if !self.failed && !batch.is_empty() {
            let admitted = self.admit(moment, moment, batch);
            self.check(admitted);
        }
    }

    /// Input that the stage may process.
    pub(crate) fn next(&mut self) -> Option<Passed> {
        if let Some(ready) = self.ready.pop_front() {
            return Some(ready);
        }
        while let Some(released) = self.released.front_mut() {
            if self.gone_on > VISIT {
                self.activator.activate();
                return None;
            }
            match released.queue.take(usize::MAX, 1) {
                Ok(Some(taken)) => {
                    let moment = Moment { epoch: taken.moment.epoch.max(released.held.epoch), ..taken.moment };
                    let waited = moment.epoch > taken.moment.epoch;
                    for batch in taken.batches {
                        self.gone_on += batch.data().len();
                        self.ready.push_back(Passed { moment, batch, waited });
                    }
                    return self.ready.pop_front();
                }
                Ok(None) => {
                    self.released.pop_front();
                }
                Err(error) => {
                    self.check(Err(error.into()));
                    return None;
                }
            }
        }
        None
    }

    /// Whether it may hold something back.
    pub(crate) fn is_there(&self) -> bool {
        !self.sides.is_empty()
    }

    /// All that waits, with the moments that it came at.
    pub(crate) fn freeze(&mut self) -> io::Result<Vec<FrozenInput>> {
        let crowd = self.crowd.iter_mut().map(|(waiting, _)| waiting);
        let waiting = self.waiting.values_mut().chain(crowd).chain(&mut self.released);
        waiting.map(|waiting| waiting.queue.freeze()).collect()
    }

    /// The frontier of what may still come to the stage, from here or from `input`.
    pub(crate) fn frontier(&mut self, input: AntichainRef<'_, Moment>) -> Antichain<Moment> {
        if self.sides.is_empty() {
            return input.to_owned();
        }
        if !self.failed {
            let mut frontier = Antichain::new();
            frontier.extend(input.iter().copied());
            let crowd = self.crowd.iter().map(|(waiting, _)| waiting);
            frontier.extend(self.waiting.values().chain(crowd).chain(&self.released).map(|waiting| waiting.held));
            self.frontier = frontier;
        }
        // After a failure, what was not admitted stays held for good.
        self.frontier.clone()
    }

    /// True while something is not handed on yet.
    pub(crate) fn is_busy(&self) -> bool {
        self.failed || self.asks() || !self.waiting.is_empty() || self.crowd.is_some() || !self.released.is_empty()
    }

    /// The stage has done everything before `watermark` (`None`: everything). Side windows that only earlier main windows
    /// map to may go.
    pub(crate) fn passed(&mut self, watermark: Option<i64>) {
        let from = watermark.map_or(i64::MAX, |watermark| watermark.saturating_sub(self.allowed_lateness));
        if from <= self.passed {
            return;
        }
        self.passed = from;
        let mut passed = Ok(());
        for side in &self.sides {
            // Every mapping that is known here maps a window to one that does not end before it.
            if side.mapper.is_none() || watermark.is_none() {
                passed = passed.and(side.table.needs(side.reader, Timestamp(from)));
            }
        }
        self.check(passed.map_err(|error| Fault::Storage(io::Error::other(error))));
    }

    /// Whether the SDK owes an answer about a window.
    fn asks(&self) -> bool {
        self.sides.iter().any(|side| side.mapper.as_ref().is_some_and(Mapper::is_busy))
    }

    fn check(&mut self, done: Result<(), Fault>) {
        let Err(fault) = done else { return };
        self.failed = true;
        match fault {
            Fault::Malformed(error) => self.reporter.malformed(&self.name, &error),
            Fault::Storage(error) => self.reporter.storage(&self.name, &error),
            Fault::Reported => {}
        }
    }

    /// Looks what has become ready, if anything has changed.
    fn look_again(&mut self, mut changed: bool) -> Result<(), Fault> {
        for side in &mut self.sides {
            if let Some(mapper) = &mut side.mapper {
                changed |= mapper.work().map_err(|error| error.map_or(Fault::Reported, Fault::Malformed))?;
            }
        }
        if !changed {
            return Ok(());
        }
        self.verdicts.clear();
        let windows: Vec<Bytes> = self.waiting.keys().cloned().collect();
        for window in windows {
            match self.verdict(&window)? {
                Verdict::Waits => {}
                Verdict::Ready => self.released.extend(self.waiting.remove(&window)),
                Verdict::Gone => {
                    self.waiting.remove(&window);
                    self.dropped();
                }
            }
        }
        let Some((crowd, windows)) = self.crowd.take() else { return Ok(()) };
        let mut room = self.waiting.len() < QUEUES / 2;
        for window in &windows {
            room |= self.verdict(window)? != Verdict::Waits;
        }
        if !room {
            self.crowd = Some((crowd, windows));
            return Ok(());
        }
        let Waiting { mut queue, held } = crowd;
        while let Some(taken) = queue.take(usize::MAX, 1)? {
            let moment = Moment { epoch: taken.moment.epoch.max(held.epoch), ..taken.moment };
            for batch in taken.batches {
                self.admit(moment, taken.moment, batch)?;
            }
        }
        Ok(())
    }

    fn verdict(&mut self, window: &[u8]) -> Result<Verdict, Fault> {
        if let Some(known) = self.verdicts.get(window) {
            return Ok(*known);
        }
        let mut verdict = Verdict::Ready;
        for side in &mut self.sides {
            match side.verdict(&self.coder, window)? {
                Verdict::Ready => {}
                Verdict::Waits => verdict = Verdict::Waits,
                Verdict::Gone => {
                    verdict = Verdict::Gone;
                    break;
                }
            }
        }
        if self.verdicts.len() >= REMEMBERED {
            self.verdicts.clear();
        }
        self.verdicts.insert(Bytes::copy_from_slice(window), verdict);
        Ok(verdict)
    }

    /// Takes input that came at `came`, to be processed at `moment`.
    fn admit(&mut self, moment: Moment, came: Moment, batch: Batch) -> Result<(), Fault> {
        let waited = moment.epoch > came.epoch;
        let coder = self.coder.clone();
        let mut whole = true;
        for element in batch.elements() {
            for window in coder.parse(element)?.windows {
                whole &= self.verdict(window)? == Verdict::Ready;
            }
            if !whole {
                break;
            }
        }
        if whole {
            self.ready.push_back(Passed { moment, batch, waited });
            return Ok(());
        }
        let mut ready = BatchBuilder::default();
        let mut waiting: BTreeMap<Bytes, BatchBuilder> = BTreeMap::new();
        for element in batch.elements() {
            let view = coder.parse(element)?;
            let mut on: Vec<&[u8]> = Vec::new();
            for window in view.windows.clone() {
                match self.verdict(window)? {
                    Verdict::Ready => on.push(window),
                    Verdict::Gone => self.dropped(),
                    Verdict::Waits => {
                        waiting.entry(Bytes::copy_from_slice(window)).or_default().push_with(view.timestamp, |out| {
                            encode_windowed_value(out, view.timestamp, &[window], view.pane, view.value)
                        })
                    }
                }
            }
            if on.len() == view.windows.len() {
                ready.push(element, view.timestamp);
            } else if !on.is_empty() {
                ready.push_with(view.timestamp, |out| {
                    encode_windowed_value(out, view.timestamp, &on, view.pane, view.value);
                });
            }
        }
        if !ready.is_empty() {
            self.ready.push_back(Passed { moment, batch: ready.finish(), waited });
        }
        for (window, mut elements) in waiting {
            self.wait(window, moment, came, elements.finish())?;
        }
        Ok(())
    }

    fn wait(&mut self, window: Bytes, moment: Moment, came: Moment, batch: Batch) -> io::Result<()> {
        let room = self.waiting.len() < QUEUES;
        let new = || Waiting { queue: InputQueue::new(&self.budget), held: moment };
        let waiting = match self.waiting.get_mut(&window) {
            Some(waiting) => waiting,
            None if room => self.waiting.entry(window).or_insert_with(new),
            None => {
                let (waiting, windows) = self.crowd.get_or_insert_with(|| (new(), BTreeSet::new()));
                windows.insert(window);
                waiting
            }
        };
        waiting.held.epoch = waiting.held.epoch.min(moment.epoch);
        waiting.held.watermark = waiting.held.watermark.min(moment.watermark);
        waiting.queue.push(came, batch)
    }

    fn dropped(&mut self) {
        if !std::mem::replace(&mut self.late, true) {
            self.reporter.warning(format!(
                "elements came to {} so late that the windows of their side inputs had been removed: they are dropped",
                self.name
            ));
        }
    }
}

impl Side {
    fn verdict(&mut self, coder: &ElementCoder, window: &[u8]) -> Result<Verdict, Fault> {
        let mapped = match &mut self.mapper {
            Some(mapper) => mapper.get(window),
            None => map_window(&self.mapping, &coder.window, window)?,
        };
        let Some(mapped) = mapped else { return Ok(Verdict::Waits) };
        Ok(match self.table.shown(&mapped)? {
            Shown::Fired => Verdict::Ready,
            Shown::Gone => Verdict::Gone,
            Shown::Nothing => {
                let by = self.table.fires_by(&mapped)?;
                if self.reached.0.is_none_or(|watermark| watermark > by) { Verdict::Ready } else { Verdict::Waits }
            }
        })
    }
}

/// The epoch that a barrier stands at; none once it is passed.
fn open_epoch(barrier: AntichainRef<'_, Moment>) -> Option<u64> {
    time::watermark(barrier).and(time::epoch(barrier))
}

/// Why a gate cannot go on.
enum Fault {
    Malformed(ElementError),
    Storage(io::Error),
    /// Was reported by what failed.
    Reported,
}

impl From<ElementError> for Fault {
    fn from(error: ElementError) -> Fault {
        Fault::Malformed(error)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Storage(error)
    }
}
