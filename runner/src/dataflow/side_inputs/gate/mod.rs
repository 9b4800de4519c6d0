//! What stands before a stage with side inputs that grow: main input waits here until its side windows are ready.
//!
//! A side window is ready once it has fired, or once the side input's watermark says that a window that has not fired by
//! then is empty ([`GrowingTable::fires_by`]). An element goes on when for each of its windows the mapped window of every
//! side input is ready; one in several windows is taken apart, so that it goes on in those that are. Elements wait in
//! queues of their windows, which spill to disk; a side input that never comes costs space and nothing else. Which windows
//! are ready is said in [`readiness`]; what waits for the others is in [`waiting`], or in the [`crowd`] if they are many.
//!
//! To the stage's operator the waiting elements are input that has not come yet: [`Gate::frontier`] is the input's
//! frontier with their moments in it. They hold the watermark, but not the epoch: they go with the epoch that the input
//! and the side inputs have reached, so a side input that only comes in a later one is not waited for in vain. But no
//! waiting element goes on to an epoch that a side input has not reached: what that brings in an epoch is used in it.
//!
//! Side inputs of bounded collections are tables that are read when they are whole. Until then nothing of the stage runs,
//! and its input waits where all of its input does ([`Gate::closed`]).

mod crowd;
mod frontier;
mod readiness;
mod waiting;

use std::collections::{BTreeMap, VecDeque};
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

use self::frontier::Frontier;
use self::readiness::{REMEMBERED, Reached, Readiness, Side, Verdict};
use self::waiting::{QUEUES, Waiting};
use super::super::Job;
use super::super::bundle_state::StageState;
use super::super::bundles::element_coder;
use super::super::carried::FrozenBatches;
use super::super::edge::Edge;
use super::super::run::Reporter;
use super::map_windows::Mapper;
use crate::element::{Batch, BatchBuilder, ElementCoder, ElementError, encode_windowed_value};
use crate::plan::{StageId, WindowMapping};
use crate::side_input::GrowingTable;
use crate::state::{MemoryStore, Store, Stores};
use crate::time::{self, Moment, Timestamp};

/// Bytes that go on in one visit.
const VISIT: usize = 64 << 20;

/// The side inputs of a stage on one worker.
#[derive(Default)]
pub(crate) struct SideInputs<'scope> {
    /// For what waits; in memory without.
    pub(crate) stores: Option<Stores>,
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
    reporter: Rc<Reporter>,
    activator: Activator,
    /// Barriers that come first among the operator's inputs after the main one.
    whole: usize,
    /// Where the barriers that are not passed, and the main input, have come to; `None`: all are passed.
    closed: Option<u64>,
    readiness: Readiness,
    ready: VecDeque<Passed>,
    waiting: Waiting,
    /// Bytes that have gone on in this visit.
    gone_on: usize,
    frontier: Frontier,
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

impl Gate {
    /// Adds its side inputs to the operator of a stage, which has its main input already, and no other.
    pub(crate) fn new<'scope>(
        scope: Scope<'scope, Moment>,
        builder: &mut OperatorBuilder<'scope, Moment>,
        (job, id): (&Job, StageId),
        side_inputs: SideInputs<'scope>,
        reporter: &Rc<Reporter>,
    ) -> Gate {
        let stage = &job.plan.stages[id.0 as usize];
        let input = &job.plan.collections[stage.input.collection.0 as usize];
        let SideInputs { stores, whole, growing } = side_inputs;
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
            Side::new(side.table, side.mapping, mapper)
        });
        let coder = element_coder(&job.plan, stage.input.collection);
        let readiness = Readiness::new(coder.window.clone(), sides.collect(), changed, REMEMBERED);
        let crowd = format!("gate-{}-worker-{}", id.0, scope.index());
        let read = stores.clone();
        let open = move || match &stores {
            Some(stores) => stores.open(&crowd),
            None => Ok(Box::<MemoryStore>::default() as Box<dyn Store>),
        };
        let waiting = Waiting::new(&job.budget, QUEUES, Box::new(open), read);
        Gate {
            name: stage.name.clone(),
            coder,
            allowed_lateness: input.windowing.allowed_lateness,
            reporter: Rc::clone(reporter),
            activator: scope.activator_for(Rc::clone(&address)),
            whole: count,
            closed: Some(0),
            readiness,
            ready: VecDeque::new(),
            waiting,
            gone_on: 0,
            frontier: Frontier::default(),
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
        if self.readiness.is_trivial() || self.failed {
            return;
        }
        let worked = self.look_again(growing);
        self.check(worked);
        if self.readiness.asks() {
            // An answer may yet show that something was ready in this epoch.
            return;
        }
        // Only now, when what the side inputs brought in the epoch before has been used.
        if let Some(epoch) = self.readiness.epochs().chain(time::epoch(inputs[0].frontier())).min() {
            self.waiting.lift(epoch);
        }
    }

    /// `None` once all tables of bounded collections are whole. Until then nothing of the stage runs, and its input
    /// belongs to the epoch given or a later one: the tables will not be whole before.
    pub(crate) fn closed(&self) -> Option<u64> {
        self.closed
    }

    /// Takes input of the stage.
    pub(crate) fn push(&mut self, moment: Moment, batch: Batch) {
        if self.readiness.is_trivial() {
            self.ready.push_back(Passed { moment, batch, waited: false });
        } else if !self.failed && !batch.is_empty() {
            let admitted = self.admit(moment, batch);
            self.check(admitted);
        }
    }

    /// Input that the stage may process.
    pub(crate) fn next(&mut self) -> Option<Passed> {
        if let Some(ready) = self.ready.pop_front() {
            return Some(ready);
        }
        if self.gone_on > VISIT {
            self.activator.activate();
            return None;
        }
        match self.waiting.take() {
            Ok(taken) => {
                for passed in taken.iter().flatten() {
                    self.gone_on += passed.batch.data().len();
                }
                self.ready.extend(taken.into_iter().flatten());
            }
            Err(error) => self.check(Err(error.into())),
        }
        self.ready.pop_front()
    }

    /// Whether it may hold something back.
    pub(crate) fn is_there(&self) -> bool {
        !self.readiness.is_trivial()
    }

    /// All that waits, with the moments that it came at.
    pub(crate) fn freeze(&mut self) -> io::Result<Vec<FrozenBatches>> {
        self.waiting.freeze()
    }

    /// The frontier of what may still come to the stage, from here or from `input`.
    pub(crate) fn frontier(&mut self, input: AntichainRef<'_, Moment>) -> Antichain<Moment> {
        if self.readiness.is_trivial() {
            input.to_owned()
        } else if self.failed {
            self.frontier.last()
        } else {
            self.frontier.of(input, self.waiting.held())
        }
    }

    /// True while something is not handed on yet.
    pub(crate) fn is_busy(&self) -> bool {
        self.failed || self.readiness.asks() || !self.waiting.is_empty()
    }

    /// The stage has done everything before `watermark` (`None`: everything). Side windows that only earlier main windows
    /// map to may go.
    pub(crate) fn passed(&mut self, watermark: Option<i64>) {
        let from = watermark.map_or(i64::MAX, |watermark| watermark.saturating_sub(self.allowed_lateness));
        if from <= self.passed {
            return;
        }
        self.passed = from;
        let passed = self.readiness.passed(Timestamp(from), watermark.is_none());
        self.check(passed.map_err(Fault::Storage));
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

    /// Looks what has become ready, where something has changed. `barriers` are the frontiers of growing side inputs.
    fn look_again(&mut self, barriers: &[MutableAntichain<Moment>]) -> Result<(), Fault> {
        let reached = barriers.iter().map(MutableAntichain::frontier);
        let reached = reached.map(|it| Reached { watermark: time::watermark(it), epoch: time::epoch(it) });
        for window in self.readiness.look(reached)? {
            if !self.waiting.contains(&window) {
                continue;
            }
            match self.readiness.verdict(&window)? {
                Verdict::Waits => self.readiness.wait(&window)?,
                Verdict::Ready => {
                    self.readiness.stop(&window);
                    self.waiting.release(&window);
                }
                Verdict::Gone => {
                    self.readiness.stop(&window);
                    self.waiting.discard(&window)?;
                    self.dropped();
                }
            }
        }
        Ok(())
    }

    fn admit(&mut self, moment: Moment, batch: Batch) -> Result<(), Fault> {
        let coder = self.coder.clone();
        let mut whole = true;
        for element in batch.elements() {
            for window in coder.parse(element)?.windows {
                whole &= self.readiness.verdict(window)? == Verdict::Ready;
            }
            if !whole {
                break;
            }
        }
        if whole {
            self.ready.push_back(Passed { moment, batch, waited: false });
            return Ok(());
        }
        let mut ready = BatchBuilder::default();
        let mut waiting: BTreeMap<Bytes, BatchBuilder> = BTreeMap::new();
        for element in batch.elements() {
            let view = coder.parse(element)?;
            let mut on: Vec<&[u8]> = Vec::new();
            for window in view.windows.clone() {
                match self.readiness.verdict(window)? {
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
            self.ready.push_back(Passed { moment, batch: ready.finish(), waited: false });
        }
        for (window, mut elements) in waiting {
            if self.waiting.push(&window, moment, elements.finish())? {
                self.readiness.wait(&window)?;
            }
        }
        self.waiting.flush()?;
        Ok(())
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
