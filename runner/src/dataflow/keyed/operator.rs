//! The operator of a keyed stage on one worker.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use timely::dataflow::Scope;
use timely::dataflow::operators::CapabilitySet;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::frontier::AntichainRef;
use timely::scheduling::Activator;

use super::super::Job;
use super::super::bundle_state::StageState;
use super::super::bundles::{Bundles, Finished, Input, element_coder};
use super::super::edge::{Edge, Output, exchange, moment};
use super::super::emission::Emissions;
use super::super::flow::Flow;
use super::super::queue::{InputQueue, move_on};
use super::super::route::{self, Route};
use super::super::run::Reporter;
use super::super::side_inputs::{Gate, SideInputs};
use super::admit::{Admission, Admitted};
use super::changes;
use crate::clock::Clock;
use crate::element::{Batch, BatchBuilder, ElementError};
use crate::metrics::Metric;
use crate::plan::{Keyed, StageId, TimeDomain};
use crate::state::{BundleState, Changes, Expiry, KeyedState, StoreError, Stores, Timer, TimerChange};
use crate::time::{self, Moment, Timestamp};

/// Most timers that fire in one bundle.
const TIMERS: usize = 10_000;
/// The counter of elements whose windows had expired, as Beam's Java runners call it.
const LATE: (&str, &str) = ("StatefulParDo", "DroppedDueToLateness");
/// Most windows removed in one commit.
const WINDOWS: usize = 1000;

/// What a keyed stage shares with the rest of its process.
pub(crate) struct Parts {
    pub(crate) state: Arc<StageState>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stores: Stores,
}

/// Why the operator cannot go on; reported at once.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Element(#[from] ElementError),
    #[error(transparent)]
    Storage(#[from] std::io::Error),
}

/// Builds the operator; the results are the stage's outputs, in the plan's order.
pub(crate) fn build<'scope>(
    scope: Scope<'scope, Moment>,
    job: &Job,
    (id, keyed): (StageId, &Keyed),
    input: Edge<'scope>,
    side_inputs: SideInputs<'scope>,
    parts: Parts,
    (flow, reporter): (Rc<Flow>, Rc<Reporter>),
) -> Vec<Edge<'scope>> {
    let plan = &job.plan.stages[id.0 as usize];
    let coder = element_coder(&job.plan, plan.input.collection);
    let windowing = job.plan.collections[plan.input.collection.0 as usize].windowing.clone();
    let routed = route::address(scope, &plan.name, input, Route::ByKey(coder.clone()), Rc::clone(&reporter));
    let mut builder = OperatorBuilder::new(plan.name.clone(), scope);
    let mut input = builder.new_input(routed, exchange());
    let mut gate = Gate::new(scope, &mut builder, (job, id), side_inputs, &reporter);
    // Where a TestStream waits for everything to be over, a stage without outputs gets one that carries no data.
    let ports = plan.outputs.len().max(usize::from(job.plan.is_test_driven()));
    let (outputs, streams): (Vec<_>, Vec<_>) = (0..ports).map(|_| Output::of_first(&mut builder)).unzip();
    let address = builder.operator_info().address;
    let activator = scope.activator_for(Rc::clone(&address));
    let wake = scope.worker().sync_activator_for(address.to_vec());
    job.drain.on_request(move || {
        // Fails only when the worker is gone.
        let _ = wake.activate();
    });
    let store = parts.stores.open(&format!("stage-{}-worker-{}", id.0, scope.index()));
    let (state, failed) = match store {
        Ok(store) => (KeyedState::new(store, keyed, &job.budget), false),
        Err(error) => {
            reporter.state(&plan.name, &error);
            (KeyedState::new(Box::<crate::state::MemoryStore>::default(), keyed, &job.budget), true)
        }
    };
    let current: Rc<RefCell<Option<Arc<BundleState>>>> = Rc::default();
    let states = {
        let (state, stage, current) = (state.clone(), Arc::clone(&parts.state), Rc::clone(&current));
        move || {
            let bundle = state.bundle();
            *current.borrow_mut() = Some(Arc::clone(&bundle));
            stage.bundle(Some(bundle))
        }
    };
    let bundles = Bundles::with_states(
        scope,
        address,
        job.clone(),
        id,
        Box::new(states),
        Some(scope.index()),
        Rc::clone(&reporter),
    );
    let mut operator = Operator {
        name: plan.name.clone(),
        keyed: keyed.clone(),
        admission: Admission::new(keyed, coder.clone(), windowing),
        job: job.clone(),
        stage: id,
        clock: parts.clock,
        bundles,
        state,
        current,
        running: None,
        queues: BTreeMap::new(),
        emissions: Emissions::new(outputs, Rc::clone(&flow), activator.clone()),
        epoch: 0,
        reached: 0,
        watermark: Timestamp(i64::MIN),
        backlog: 0,
        flow,
        reporter,
        activator,
        failed,
    };
    builder.build_reschedule(move |capabilities| {
        operator.emissions.begin(capabilities.into_iter().map(CapabilitySet::from_elem).collect());
        move |frontiers| {
            gate.visit(frontiers);
            input.for_each(|capability, batch| {
                if let Some(moment) = moment(capability.stamp()) {
                    gate.push(moment, std::mem::take(batch));
                }
            });
            while let Some((moment, batch)) = gate.next() {
                operator.enqueue(moment, batch);
            }
            let closed = gate.closed();
            let busy = operator.visit(gate.frontier(frontiers[0].frontier()), closed);
            gate.passed(operator.emissions.least());
            busy || gate.is_busy()
        }
    });
    streams
}

struct Operator {
    name: String,
    keyed: Keyed,
    admission: Admission,
    job: Job,
    stage: StageId,
    clock: Arc<dyn Clock>,
    /// At most one is open.
    bundles: Bundles,
    state: KeyedState,
    /// The state of the bundle that is open, as its last try sees it.
    current: Rc<RefCell<Option<Arc<BundleState>>>>,
    /// What is to be committed with the bundle that is open, besides what it does itself.
    running: Option<Changes>,
    /// Input that waits, by epoch.
    queues: BTreeMap<u64, InputQueue>,
    emissions: Emissions,
    /// The epoch whose work may run.
    epoch: u64,
    /// The epoch that the input has reached.
    reached: u64,
    /// What timers go by.
    watermark: Timestamp,
    /// This stage's part of the worker's backlog.
    backlog: usize,
    flow: Rc<Flow>,
    reporter: Rc<Reporter>,
    activator: Activator,
    failed: bool,
}

/// What to do next.
enum Next {
    /// Run a bundle, and commit the changes with it.
    Bundle(Moment, Vec<Input>, Changes),
    /// Commit without one.
    Commit(Changes),
    /// Nothing, at this epoch.
    Nothing,
}

impl Operator {
    fn enqueue(&mut self, moment: Moment, batch: Batch) {
        if batch.is_empty() {
            return;
        }
        let queue = self.queues.entry(moment.epoch).or_insert_with(|| InputQueue::new(&self.job.budget));
        if let Err(error) = queue.push(moment, batch) {
            self.fail(&error.into());
        }
    }

    fn fail(&mut self, fault: &Fault) {
        self.failed = true;
        match fault {
            Fault::Store(error) => self.reporter.state(&self.name, error),
            Fault::Element(error) => self.reporter.malformed(&self.name, error),
            Fault::Storage(error) => self.reporter.storage(&self.name, error),
        }
    }

    /// One activation. True while the operator is not finished.
    fn visit(&mut self, frontier: AntichainRef<Moment>, closed: Option<u64>) -> bool {
        match self.work(frontier, closed) {
            Ok(pending) => pending,
            Err(fault) => {
                self.fail(&fault);
                true
            }
        }
    }

    fn work(&mut self, frontier: AntichainRef<Moment>, closed: Option<u64>) -> Result<bool, Fault> {
        if self.failed {
            // Capabilities stay where they are: nothing downstream may take silence for the end of input.
            return Ok(true);
        }
        self.reached = time::epoch(frontier).unwrap_or(self.reached).max(self.reached);
        while let Some(finished) = self.bundles.poll() {
            self.finish(finished)?;
        }
        if self.bundles.failed() {
            return Ok(true);
        }
        // A TestStream can say that no more input will come, and go on with its clock.
        let ended = time::watermark(frontier).is_none_or(|watermark| watermark >= Timestamp::MAX);
        if let Some(epoch) = closed {
            move_on(&mut self.queues, epoch)?;
        }
        while closed.is_none() && !self.bundles.busy() {
            let queued = self.queues.values().flat_map(InputQueue::moments).map(|moment| moment.watermark).min();
            let least = time::watermark(frontier).map_or(i64::MAX, |watermark| watermark.0);
            self.watermark = Timestamp(queued.map_or(least, |queued| queued.min(least)));
            match self.next(ended)? {
                Next::Bundle(moment, input, changes) => {
                    self.running = Some(changes);
                    self.bundles.start_with(moment, input);
                }
                Next::Commit(changes) => self.state.commit(&self.state.bundle(), changes)?,
                Next::Nothing if self.step(frontier) => {}
                Next::Nothing => break,
            }
        }
        self.account(closed.is_none());
        self.emissions.send()?;
        self.hold(frontier)?;
        let due = self.wake()?;
        Ok(self.bundles.busy() || !self.emissions.is_empty() || !self.queues.is_empty() || due)
    }

    fn finish(&mut self, finished: Finished) -> Result<(), Fault> {
        let Finished { moment, done, .. } = finished;
        if !done.residuals.is_empty() {
            let what = "the harness handed back elements of a stage that cannot be split".to_owned();
            return Err(ElementError::malformed(what).into());
        }
        let mut changes = self.running.take().unwrap_or_default();
        let draining = self.job.drain.requested();
        changes.timers.extend(changes::read(&done.timers, &self.keyed.timers, &*self.clock, draining)?);
        if let Some(bundle) = self.current.borrow_mut().take() {
            self.state.commit(&bundle, changes)?;
        }
        self.job.observer.committed(self.stage, done.metrics);
        // A job without checkpoints: the bundle's effects are as durable as they get.
        if let Some(finalizer) = done.requires_finalization {
            finalizer.finalize();
        }
        self.emissions.push(moment, done.outputs);
        Ok(())
    }

    /// Decides what runs now: what is due by the clock, what is due by the watermark in its order, then input.
    fn next(&mut self, ended: bool) -> Result<Next, Fault> {
        let now = if self.job.drain.requested() { Timestamp::MAX } else { self.clock.now() };
        let due = self.state.due(TimeDomain::ProcessingTime, Timestamp(now.0.saturating_add(1)), TIMERS)?;
        if !due.is_empty() {
            return Ok(self.fire(due));
        }
        let timer = self.state.earliest(TimeDomain::EventTime)?.filter(|fire| *fire < self.watermark);
        let element = self.state.earliest_buffered()?.map(|at| self.admission.turn(at));
        match (timer, element.filter(|turn| *turn < self.watermark)) {
            (Some(fire), Some(turn)) if turn <= fire => return self.release(Timestamp(fire.0.saturating_add(1))),
            (None, Some(_)) => return self.release(self.watermark),
            (Some(_), turn) => {
                let until = turn.unwrap_or(self.watermark);
                let due = self.state.due(TimeDomain::EventTime, until, TIMERS)?;
                return Ok(self.fire(due));
            }
            (None, None) => {}
        }
        if let Some(next) = self.take()? {
            return Ok(next);
        }
        self.expire(ended)
    }

    fn fire(&self, due: Vec<Timer>) -> Next {
        let hold = due.iter().map(|timer| timer.hold).min().unwrap_or(self.watermark);
        let input = changes::firing(&due);
        let timers = due.into_iter().map(TimerChange::Fired).collect();
        Next::Bundle(self.held_at(hold), input, Changes { timers, ..Changes::default() })
    }

    /// The moment of what was held at `hold`: not before what the operator still holds, because late data holds nothing.
    fn held_at(&self, hold: Timestamp) -> Moment {
        Moment { epoch: self.epoch, watermark: self.emissions.least().map_or(hold.0, |least| hold.0.max(least)) }
    }

    /// Buffered elements whose turn is before `time`, in order.
    fn release(&mut self, time: Timestamp) -> Result<Next, Fault> {
        let until = self.admission.turns_before(time);
        let unbuffered =
            self.state.buffered(until, self.job.settings.max_bundle_elements, self.job.settings.max_bundle_bytes)?;
        let mut batch = BatchBuilder::default();
        let mut least = until;
        for element in &unbuffered {
            least = least.min(element.timestamp);
            batch.push(&element.element, element.timestamp);
        }
        let changes = Changes { unbuffered, ..Changes::default() };
        Ok(Next::Bundle(self.held_at(least), vec![Input::Elements(batch.finish())], changes))
    }

    /// Input of the current epoch.
    fn take(&mut self) -> Result<Option<Next>, Fault> {
        while let Some(queue) = self.queues.get_mut(&self.epoch) {
            let taken = queue.take(self.job.settings.max_bundle_elements, self.job.settings.max_bundle_bytes)?;
            let Some(taken) = taken else {
                self.queues.remove(&self.epoch);
                break;
            };
            if queue.is_empty() {
                self.queues.remove(&self.epoch);
            }
            let (mut changes, mut late, mut input) = (Changes::default(), 0, Vec::new());
            for batch in taken.batches {
                match self.admission.admit(batch, self.watermark, &mut changes, &mut late)? {
                    Admitted::Elements(batch) if batch.is_empty() => {}
                    Admitted::Elements(batch) => input.push(Input::Elements(batch)),
                    Admitted::Buffered => {}
                }
            }
            if late > 0 {
                let transform = self.keyed.states.first().map(|cell| &cell.transform);
                let transform = transform.or_else(|| self.keyed.timers.first().map(|family| &family.transform));
                let transform = transform.map_or(self.name.as_str(), String::as_str);
                self.job.observer.counted(Metric::counter(transform, LATE.0, LATE.1, late));
            }
            if !input.is_empty() {
                return Ok(Some(Next::Bundle(taken.moment, input, changes)));
            }
            if !changes.buffer.is_empty() || !changes.expire_at.is_empty() || !changes.timers.is_empty() {
                return Ok(Some(Next::Commit(changes)));
            }
        }
        Ok(None)
    }

    /// Removes windows that have expired.
    fn expire(&mut self, ended: bool) -> Result<Next, Fault> {
        let mut expired = self.state.expired(self.watermark, WINDOWS)?;
        if ended {
            // Timers of the clock are still to fire in them.
            let mut waiting = Vec::with_capacity(expired.len());
            for expiry in &expired {
                waiting.push(self.state.has_processing_timers(&expiry.key, &expiry.window)?);
            }
            let mut waiting = waiting.into_iter();
            expired.retain(|_| !waiting.next().unwrap_or(false));
        }
        let by_other_names: Vec<Expiry> =
            expired.iter().filter_map(|expiry| self.admission.forget(&expiry.key, &expiry.window, expiry.at)).collect();
        expired.extend(by_other_names);
        Ok(if expired.is_empty() { Next::Nothing } else { Next::Commit(Changes { expired, ..Changes::default() }) })
    }

    /// Steps to the next epoch, if the input has left this one; nothing that belongs to it is left.
    fn step(&mut self, frontier: AntichainRef<Moment>) -> bool {
        let queued = self.queues.keys().next().copied();
        let next = match time::epoch(frontier) {
            Some(next) => queued.map_or(next, |queued| queued.min(next)),
            None => queued.unwrap_or(self.epoch),
        };
        let steps = next > self.epoch;
        self.epoch = self.epoch.max(next);
        steps
    }

    fn account(&mut self, open: bool) {
        let bytes = if open { self.queues.values().map(InputQueue::bytes).sum() } else { 0 };
        if bytes != self.backlog {
            self.flow.update(self.backlog, bytes);
            self.backlog = bytes;
        }
    }

    /// Moves the capabilities to the least moments at which output may still come.
    fn hold(&mut self, frontier: AntichainRef<Moment>) -> Result<(), Fault> {
        let timers = self.state.least_hold()?;
        let buffered = self.state.earliest_buffered()?;
        let kept: Vec<Moment> = timers.into_iter().chain(buffered).map(|hold| self.held_at(hold)).collect();
        let queued = self.queues.values().flat_map(InputQueue::moments);
        let input = frontier.iter().copied();
        self.emissions.hold(input.chain(self.bundles.moments()).chain(queued).chain(kept));
        Ok(())
    }

    /// Asks to be woken when the next timer of the clock is due; true if there is one.
    fn wake(&self) -> Result<bool, Fault> {
        let Some(due) = self.state.earliest(TimeDomain::ProcessingTime)? else { return Ok(false) };
        if let Some(wait) = self.clock.wait(due) {
            self.activator.activate_after(wait.max(Duration::from_millis(1)));
        }
        Ok(true)
    }
}
