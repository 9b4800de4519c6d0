//! The operator of a keyed stage on one worker.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use timely::dataflow::Scope;
use timely::dataflow::operators::CapabilitySet;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::frontier::AntichainRef;

use super::super::Job;
use super::super::alarm::Alarm;
use super::super::border_wait::BorderWait;
use super::super::bundle_state::StageState;
use super::super::bundle_times::BundleTimes;
use super::super::bundles::{Bundles, Finished, Input, element_coder};
use super::super::carried::{self, Carried, Share, TakenOver};
use super::super::edge::{Edge, Output, exchange, moment};
use super::super::emission::Emissions;
use super::super::links::Links;
use super::super::queue::EpochInput;
use super::super::route::{self, Route};
use super::super::run::Reporter;
use super::super::side_inputs::{Gate, Passed, SideInputs};
use super::super::stable::StableInput;
use super::admit::{Admission, Admitted};
use super::changes;
use super::form::StateForm;
use crate::checkpoint::{PartHead, PartKind, Saver};
use crate::clock::Clock;
use crate::element::{BatchBuilder, ElementError};
use crate::metrics::Metric;
use crate::plan::{Keyed, StageId, TimeDomain};
use crate::state::{
    BundleState, Changes, Expiry, KeyedState, MemoryStore, Store, StoreError, Stores, Timer, TimerChange,
};
use crate::time::{self, Moment, NOTHING_MORE, Timestamp};

/// Most timers that fire in one bundle.
const TIMERS: usize = 10_000;
/// The counter of elements whose windows had expired, as Beam's Java runners call it.
const LATE: (&str, &str) = ("StatefulParDo", "DroppedDueToLateness");
/// Most windows removed in one commit.
const WINDOWS: usize = 1000;
/// How long a bundle of elements should take at the most, about, where there are checkpoints: a bundle of a keyed stage cannot
/// be split, and a checkpoint waits for the one that is open.
const BUNDLE_TIME: Duration = Duration::from_secs(1);

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
    links: Links,
) -> Vec<Edge<'scope>> {
    let Links { flow, reporter, saver } = links;
    let plan = &job.plan.stages[id.0 as usize];
    let coder = element_coder(&job.plan, plan.input.collection);
    let windowing = job.plan.collections[plan.input.collection.0 as usize].windowing.clone();
    let routed = route::address(scope, &plan.name, input, Route::ByKey(coder.clone()), Rc::clone(&reporter));
    let mut builder = OperatorBuilder::new(plan.name.clone(), scope);
    let mut input = builder.new_input(routed, exchange());
    let mut gate = Gate::new(scope, &mut builder, (job, id), side_inputs, &reporter);
    // Where somebody waits for everything to be over, a stage without outputs gets one that carries no data.
    let ports = plan.outputs.len().max(usize::from(job.has_epochs()));
    let (outputs, streams): (Vec<_>, Vec<_>) = (0..ports).map(|_| Output::of_first(&mut builder)).unzip();
    let address = builder.operator_info().address;
    let activator = scope.activator_for(Rc::clone(&address));
    let wake = scope.worker().sync_activator_for(address.to_vec());
    job.drain.on_request(move || {
        // Fails only when the worker is gone.
        let _ = wake.activate();
    });
    let form = StateForm::of(&job.plan, id, keyed, job.settings.allow_non_restored_state);
    let opened = form.parts(&saver).and_then(|taken_over| {
        let store = form.open(&parts.stores, &taken_over, saver.shard())?;
        Ok((store, taken_over.least_watermark()))
    });
    // Every worker builds its operators, come what may.
    let (store, watermark, failed) = match opened {
        Ok((store, watermark)) => (store, watermark, false),
        Err(error) => {
            reporter.state(&plan.name, &error);
            (Box::<MemoryStore>::default() as Box<dyn Store>, Timestamp(i64::MIN), true)
        }
    };
    let state = KeyedState::new(store, keyed, &job.budget);
    let wake_address = Rc::clone(&address);
    let flow = flow.waking(scope.worker().sync_activator_for(address.to_vec()));
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
    let stable = StableInput::of(job, plan, scope, &wake_address);
    let mut operator = KeyedOperator {
        stable,
        name: plan.name.clone(),
        keyed: keyed.clone(),
        admission: Admission::new(keyed, coder.clone(), windowing),
        job: job.clone(),
        stage: id,
        clock: parts.clock,
        bundles: bundles.reading(parts.state.references(job, id)),
        state,
        form,
        current,
        running: None,
        input: EpochInput::new(&job.budget),
        emissions: Emissions::new(outputs, flow, activator.clone()),
        epoch: saver.first_epoch(),
        watermark,
        ended: false,
        nothing_expires: false,
        pace: BundleTimes::default(),
        border_wait: BorderWait::default(),
        saver,
        reporter,
        alarm: Alarm::new(activator),
        failed,
    };
    operator.restore(&mut gate);
    builder.build_reschedule(move |capabilities| {
        operator.emissions.begin(capabilities.into_iter().map(CapabilitySet::from_elem).collect());
        move |frontiers| {
            gate.visit(frontiers);
            input.for_each(|capability, batch| {
                if let Some(moment) = moment(capability.stamp()) {
                    gate.push(moment, std::mem::take(batch));
                }
            });
            while let Some(passed) = gate.next() {
                operator.enqueue(passed);
            }
            let closed = gate.closed();
            let frontier = gate.frontier(frontiers[0].frontier());
            let busy = operator.visit(&mut gate, frontier.borrow(), closed);
            gate.passed(operator.emissions.least().map(|held| held.watermark));
            busy || gate.is_busy()
        }
    });
    streams
}

struct KeyedOperator {
    name: String,
    keyed: Keyed,
    admission: Admission,
    job: Job,
    stage: StageId,
    clock: Arc<dyn Clock>,
    /// At most one is open.
    bundles: Bundles,
    state: KeyedState,
    /// What its state is called, and how it is encoded.
    form: StateForm,
    /// The state of the bundle that is open, as its last try sees it.
    current: Rc<RefCell<Option<Arc<BundleState>>>>,
    /// What is to be committed with the bundle that is open, besides what it does itself.
    running: Option<Changes>,
    /// Input that must be durable first.
    stable: Option<StableInput>,
    /// Input that waits, by epoch.
    input: EpochInput,
    emissions: Emissions,
    /// The epoch whose work may run.
    epoch: u64,
    /// What timers go by.
    watermark: Timestamp,
    /// No more input will come.
    ended: bool,
    /// Since the last change of the state no window expires.
    nothing_expires: bool,
    pace: BundleTimes,
    border_wait: BorderWait,
    saver: Saver,
    reporter: Rc<Reporter>,
    alarm: Alarm,
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

impl KeyedOperator {
    /// Takes over what was carried over the border that the job starts from.
    fn restore(&mut self, gate: &mut Gate) {
        let input = &mut self.input;
        let restored = carried::restore(&self.saver, Share::Keys(self.form.input()), |over: TakenOver| {
            let TakenOver { moment, batch, .. } = over;
            if gate.is_there() {
                gate.push(moment, batch);
                Ok(())
            } else {
                input.carry(moment, batch)
            }
        });
        if let Err(error) = restored {
            self.fail(&error.into());
        }
    }

    fn enqueue(&mut self, passed: Passed) {
        let Passed { moment, batch, waited } = passed;
        let taken = match &mut self.stable {
            Some(stable) => stable.push(moment, batch),
            None if waited => self.input.carry(moment, batch),
            None => self.input.push(moment, batch),
        };
        if let Err(error) = taken {
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
    fn visit(&mut self, gate: &mut Gate, frontier: AntichainRef<Moment>, closed: Option<u64>) -> bool {
        match self.work(gate, frontier, closed) {
            Ok(pending) => pending,
            Err(fault) => {
                self.fail(&fault);
                true
            }
        }
    }

    fn work(&mut self, gate: &mut Gate, frontier: AntichainRef<Moment>, closed: Option<u64>) -> Result<bool, Fault> {
        if self.failed {
            // Capabilities stay where they are: nothing downstream may take silence for the end of input.
            return Ok(true);
        }
        while let Some(finished) = self.bundles.poll() {
            self.finish(finished)?;
        }
        if self.bundles.failed() {
            return Ok(true);
        }
        // A TestStream can say that no more input will come, and go on with its clock.
        self.ended = time::watermark(frontier).is_none_or(|watermark| watermark >= Timestamp::MAX);
        if let Some(stable) = &mut self.stable {
            let reached = time::epoch(frontier).unwrap_or(self.epoch).max(self.epoch);
            stable.go_on(self.job.checkpoints.durable(), reached, &mut self.input)?;
        }
        self.approach_border(frontier)?;
        if let Some(epoch) = closed {
            self.input.move_on(epoch)?;
        }
        loop {
            if closed.is_none() {
                self.start(gate, frontier)?;
            }
            let full = self.emissions.is_full();
            self.emissions.send()?;
            if !full || self.emissions.is_full() {
                break;
            }
        }
        // What waits for a side input does not drain, and holds nobody up.
        let waiting = closed.is_none().then(|| self.input.fresh_bytes()).into_iter().flatten();
        self.emissions.input_waits(waiting);
        self.hold(frontier)?;
        let due = self.wake()?;
        Ok(self.bundles.busy()
            || !self.emissions.is_empty()
            || !self.input.is_empty()
            || self.stable.as_ref().is_some_and(|stable| !stable.is_empty())
            || due)
    }

    /// Runs what is due and what has come, until a bundle is open, too much is not sent, or there is nothing to do.
    fn start(&mut self, gate: &mut Gate, frontier: AntichainRef<Moment>) -> Result<(), Fault> {
        while !self.bundles.busy() && !self.emissions.is_full() {
            let stable = self.stable.iter().flat_map(|stable| stable.held(self.epoch)).map(|held| held.watermark);
            let queued = self.input.least_watermark().into_iter().chain(stable).min();
            let least = time::watermark(frontier).map_or(i64::MAX, |watermark| watermark.0);
            // It never goes back: what was saved may be ahead of what the sources have said since.
            self.watermark = self.watermark.max(Timestamp(queued.map_or(least, |queued| queued.min(least))));
            match self.next(self.ended)? {
                Next::Bundle(moment, input, changes) => {
                    self.running = Some(changes);
                    self.bundles.start_with(moment, input);
                }
                Next::Commit(changes) => {
                    self.nothing_expires = false;
                    self.state.commit(&self.state.bundle(), changes)?;
                }
                Next::Nothing => match self.input.next(self.epoch, frontier) {
                    Some(next) => self.step(gate, next)?,
                    None => break,
                },
            }
        }
        Ok(())
    }

    /// Steps to the next epoch: nothing that belongs to this one is left, and no bundle is open.
    fn step(&mut self, gate: &mut Gate, next: u64) -> Result<(), Fault> {
        if let Some(border) = self.saver.border(self.epoch, next) {
            let mut carried = Carried::over(border.epoch(), self.bundles.references());
            carried.add_all(self.input.freeze_carried()?);
            carried.add(gate.freeze()?);
            if let Some(stable) = &mut self.stable {
                carried.add_saved(stable.save(border.epoch())?);
            }
            let head = PartHead { watermark: self.watermark.0, ..self.form.head(PartKind::Keyed) };
            border.save(head, carried.frozen(Some(self.state.freeze()?)));
        }
        self.epoch = next;
        self.border_wait.end();
        Ok(())
    }

    /// Where a checkpoint waits for this stage for too long, what has not been begun goes over the border with it.
    fn approach_border(&mut self, frontier: AntichainRef<Moment>) -> Result<(), Fault> {
        let reached = time::epoch(frontier).unwrap_or(self.epoch);
        if self.border_wait.is_too_long(&self.job, self.epoch, reached, &mut self.alarm) {
            self.input.move_on(reached)?;
        }
        Ok(())
    }

    fn finish(&mut self, finished: Finished) -> Result<(), Fault> {
        let Finished { moment, elements, took, done, .. } = finished;
        if self.job.checkpoints.are_on() {
            self.pace.took(elements, took);
        }
        if !done.residuals.is_empty() {
            let what = "the harness handed back elements of a stage that cannot be split".to_owned();
            return Err(ElementError::malformed(what).into());
        }
        let mut changes = self.running.take().unwrap_or_default();
        let draining = self.job.drain.requested();
        changes.timers.extend(changes::read(&done.timers, &self.keyed.timers, &*self.clock, draining)?);
        self.nothing_expires = false;
        if let Some(bundle) = self.current.borrow_mut().take() {
            self.state.commit(&bundle, changes)?;
        }
        self.job.observer.committed(self.stage, moment.epoch, done.metrics);
        if let Some(finalizer) = done.requires_finalization {
            self.job.checkpoints.when_durable(moment.epoch, finalizer);
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
        let watermark = self.emissions.least_at(self.epoch).map_or(hold.0, |least| hold.0.max(least));
        Moment { epoch: self.epoch, watermark: watermark.min(NOTHING_MORE - 1) }
    }

    /// Where `hold` is held: at the moment at which its output will be sent, and in the epoch that the operator holds at its
    /// least watermark, where that is a later one, so that no watermark passes `hold`.
    fn holds(&self, hold: Timestamp) -> impl Iterator<Item = Moment> + use<> {
        let least = self.emissions.least();
        let later = least
            .filter(|least| least.epoch > self.epoch)
            .map(|least| Moment { epoch: least.epoch, watermark: hold.0.max(least.watermark).min(NOTHING_MORE - 1) });
        std::iter::once(self.held_at(hold)).chain(later)
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
        let elements = self.pace.elements_in(BUNDLE_TIME, self.job.settings.max_bundle_elements);
        while let Some(taken) = self.input.take(self.epoch, elements, self.job.settings.max_bundle_bytes)? {
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
                self.job.observer.counted(self.epoch, Metric::counter(transform, LATE.0, LATE.1, late));
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
        if self.nothing_expires {
            return Ok(Next::Nothing);
        }
        let mut expired = self.state.expired(self.watermark, ended, WINDOWS)?;
        // After the end only a timer that fires changes that, and there may be many that are waited for.
        self.nothing_expires = ended && expired.is_empty();
        let by_other_names: Vec<Expiry> =
            expired.iter().filter_map(|expiry| self.admission.forget(&expiry.key, &expiry.window, expiry.at)).collect();
        expired.extend(by_other_names);
        Ok(if expired.is_empty() { Next::Nothing } else { Next::Commit(Changes { expired, ..Changes::default() }) })
    }

    /// Moves the capabilities to the least moments at which output may still come.
    fn hold(&mut self, frontier: AntichainRef<Moment>) -> Result<(), Fault> {
        let timers = self.state.least_hold()?;
        let buffered = self.state.earliest_buffered()?;
        let kept: Vec<Moment> = timers.into_iter().chain(buffered).flat_map(|hold| self.holds(hold)).collect();
        let stable = self.stable.iter().flat_map(|stable| stable.held(self.epoch));
        let input = frontier.iter().copied().chain(stable);
        self.emissions.hold(input.chain(self.bundles.moments()).chain(self.input.moments()).chain(kept));
        Ok(())
    }

    /// Asks to be woken when the next timer of the clock is due; true if there is one.
    fn wake(&mut self) -> Result<bool, Fault> {
        let Some(due) = self.state.earliest(TimeDomain::ProcessingTime)? else { return Ok(false) };
        if let Some(wait) = self.clock.wait(due) {
            self.alarm.set(wait);
        }
        Ok(true)
    }
}
