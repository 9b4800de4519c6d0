//! The operator of a stage without keys on one worker.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::CapabilitySet;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::frontier::AntichainRef;

use super::super::Job;
use super::super::alarm::Alarm;
use super::super::border_wait::BorderWait;
use super::super::bundle_state::StageState;
use super::super::bundles::{Bundles, Finished, HandedBack};
use super::super::carried::{self, Carried, FrozenBatches, Share, TakenOver};
use super::super::edge::{Edge, Output, moment};
use super::super::emission::Emissions;
use super::super::fit::form_of_input;
use super::super::links::Links;
use super::super::queue::EpochInput;
use super::super::run::Reporter;
use super::super::side_inputs::{Gate, SideInputs};
use super::super::stable::StableInput;
use super::super::truncate::Truncation;
use super::pace::{Pace, SLOW};
use super::pauses::{Paused, Pauses};
use crate::checkpoint::{PartHead, PartKind, Saver};
use crate::element::Batch;
use crate::executor::Residual;
use crate::plan::StageId;
use crate::time::{self, Moment, Timestamp};

/// How long a bundle of a bounded source may run before it is asked for half of its work, if a slot idles.
const WORTH_SPLITTING: Duration = Duration::from_secs(1);

/// Builds the operator; the results are the stage's outputs, in the plan's order, and at least one where the plan has
/// epochs, which end with their effects everywhere.
pub(crate) fn build<'scope>(
    scope: Scope<'scope, Moment>,
    job: &Job,
    stage: StageId,
    input: Edge<'scope>,
    side_inputs: SideInputs<'scope>,
    state: Arc<StageState>,
    links: Links,
) -> Vec<Edge<'scope>> {
    let plan = &job.plan.stages[stage.0 as usize];
    let Links { flow, reporter, saver } = links;
    let mut builder = OperatorBuilder::new(plan.name.clone(), scope);
    let mut input = builder.new_input(input, Pipeline);
    let mut gate = Gate::new(scope, &mut builder, (job, stage), side_inputs, &reporter);
    // Where somebody waits for everything to be over, a stage without outputs gets one that carries no data.
    let ports = plan.outputs.len().max(usize::from(job.has_epochs()));
    let (outputs, streams): (Vec<_>, Vec<_>) = (0..ports).map(|_| Output::of_first(&mut builder)).unzip();
    let address = builder.operator_info().address;
    let activator = scope.activator_for(Rc::clone(&address));
    if plan.splittable {
        let wake = scope.worker().sync_activator_for(address.to_vec());
        // Fails only when the worker is gone.
        job.drain.on_request(move || {
            let _ = wake.activate();
        });
    }
    let bundles = |stage| {
        let (address, state, reporter) = (Rc::clone(&address), Arc::clone(&state), Rc::clone(&reporter));
        let states = Box::new(move || state.bundle(None));
        Bundles::with_states(scope, address, job.clone(), stage, states, None, reporter)
    };
    let unbounded = plan.unbounded;
    // A source without an end goes on where it was asked to stop, but not before all that came before was sent.
    let in_turn = plan.splittable && unbounded;
    let of_stage = bundles(stage).reading(state.references(job, stage));
    let flow = flow.waking(scope.worker().sync_activator_for(address.to_vec()));
    let stable = if plan.splittable { None } else { StableInput::of(job, plan, scope, &address) };
    let mut operator = StageOperator {
        stable,
        name: plan.name.clone(),
        form: form_of_input(&job.plan, plan),
        bundles: if in_turn { of_stage } else { of_stage.handing_back_at_once() },
        truncation: plan.splittable.then(|| Truncation::new(plan.truncate.map(bundles), unbounded, &job.budget)),
        unbounded,
        pace: Pace::new(plan.splittable),
        job: job.clone(),
        stage,
        input: EpochInput::new(&job.budget),
        pauses: Pauses::default(),
        emissions: Emissions::new(outputs, flow, activator.clone()),
        alarm: Alarm::new(activator),
        epoch: saver.first_epoch(),
        reached: saver.first_epoch(),
        border_wait: BorderWait::default(),
        idle: None,
        saver,
        reporter,
        failed: false,
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
                operator.enqueue(passed.moment, passed.batch, passed.waited);
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

struct StageOperator {
    name: String,
    /// How its input is encoded.
    form: String,
    job: Job,
    stage: StageId,
    /// Some output is.
    unbounded: bool,
    pace: Pace,
    bundles: Bundles,
    /// Of a splittable stage: shortens its work when the job drains.
    truncation: Option<Truncation>,
    /// Input that must be durable first.
    stable: Option<StableInput>,
    /// Input that waits, by epoch.
    input: EpochInput,
    /// Residuals that asked for a pause.
    pauses: Pauses,
    emissions: Emissions,
    /// The epoch whose input may run.
    epoch: u64,
    /// The epoch that the input has reached.
    reached: u64,
    border_wait: BorderWait,
    /// Since when a slot idles beside bundles.
    idle: Option<Instant>,
    saver: Saver,
    reporter: Rc<Reporter>,
    alarm: Alarm,
    failed: bool,
}

impl StageOperator {
    /// Takes over what was carried over the border that the job starts from.
    fn restore(&mut self, gate: &mut Gate) {
        let (input, pauses) = (&mut self.input, &mut self.pauses);
        let restored = carried::restore(&self.saver, Share::Elements, |over: TakenOver| {
            let TakenOver { moment, due, batch } = over;
            match due {
                Some(due) => pauses.add(Paused { due, moment, element: batch }),
                None if gate.is_there() => gate.push(moment, batch),
                None => return input.carry(moment, batch),
            }
            Ok(())
        });
        self.check(restored);
    }

    /// Takes input that no bundle has seen. `waited`: it came in an earlier epoch, and had to wait.
    fn enqueue(&mut self, moment: Moment, batch: Batch, waited: bool) {
        let taken = match &mut self.truncation {
            Some(truncation) if self.job.drain.requested() && waited => truncation.carry(moment, batch),
            Some(truncation) if self.job.drain.requested() => truncation.push(moment, batch),
            _ if self.stable.is_some() => self.stable.as_mut().map_or(Ok(()), |stable| stable.push(moment, batch)),
            _ if waited => self.input.carry(moment, batch),
            _ => self.input.push(moment, batch),
        };
        self.check(taken);
    }

    fn check(&mut self, stored: std::io::Result<()>) {
        if let Err(error) = stored {
            self.failed = true;
            self.reporter.storage(&self.name, &error);
        }
    }

    /// One activation. True while the operator is not finished.
    fn visit(&mut self, gate: &mut Gate, frontier: AntichainRef<Moment>, closed: Option<u64>) -> bool {
        self.reached = time::epoch(frontier).unwrap_or(self.reached).max(self.reached);
        while let Some(finished) = self.bundles.poll() {
            self.finish(finished);
        }
        for handed_back in self.bundles.handed_back() {
            self.take_back(handed_back);
        }
        self.drain();
        if self.failed || self.bundles.failed() {
            // Capabilities stay where they are: nothing downstream may take silence for the end of input.
            return true;
        }
        self.resume();
        if let Some(stable) = &mut self.stable {
            let gone_on = stable.go_on(self.job.checkpoints.durable(), self.epoch.max(self.reached), &mut self.input);
            self.check(gone_on);
        }
        self.approach_border();
        if let Some(epoch) = closed {
            let moved = self.input.move_on(epoch);
            self.check(moved);
        }
        loop {
            if closed.is_none() {
                self.start(gate, frontier);
            }
            let full = self.emissions.is_full();
            let sent = self.emissions.send();
            self.check(sent);
            if self.failed || !full || self.emissions.is_full() {
                break;
            }
        }
        self.split();
        // What waits for a side input does not drain, and holds nobody up; what came back is no backlog.
        let waiting = closed.is_none().then(|| self.input.fresh_bytes()).into_iter().flatten();
        self.emissions.input_waits(waiting);
        self.hold(frontier);
        self.bundles.busy()
            || self.truncation.as_ref().is_some_and(Truncation::busy)
            || !self.pauses.is_empty()
            || !self.emissions.is_empty()
            || !self.input.is_empty()
            || self.stable.as_ref().is_some_and(|stable| !stable.is_empty())
    }

    fn finish(&mut self, finished: Finished) {
        let Finished { id, moment, elements, took, done } = finished;
        self.pace.took(elements, took);
        let whole = self.truncation.as_ref().is_some_and(|truncation| truncation.is_before(id));
        for residual in done.residuals {
            self.postpone(moment, residual, whole);
        }
        self.job.observer.committed(self.stage, moment.epoch, done.metrics);
        if let Some(finalizer) = done.requires_finalization {
            self.job.checkpoints.when_durable(moment.epoch, finalizer);
        }
        self.emissions.push(moment, done.outputs);
    }

    /// Takes what a bundle handed back that goes on.
    fn take_back(&mut self, handed_back: HandedBack) {
        let HandedBack { id, moment, residuals } = handed_back;
        if !residuals.is_empty() {
            self.pace.handed_back();
        }
        let whole = self.truncation.as_ref().is_some_and(|truncation| truncation.is_before(id));
        for residual in residuals {
            self.postpone(moment, residual, whole);
        }
    }

    /// Takes back an element, or a part of a splittable one. `whole`: when the job drains, it is still to be truncated.
    fn postpone(&mut self, moment: Moment, residual: Residual, whole: bool) {
        let moment = Moment {
            epoch: moment.epoch.max(self.reached),
            watermark: residual.hold.map_or(moment.watermark, |hold| hold.0.max(moment.watermark)),
        };
        let end = residual.element.len() as u32;
        let element = Batch::new(residual.element, [end], Timestamp::MIN);
        let taken = match (&mut self.truncation, Instant::now().checked_add(residual.delay)) {
            (Some(truncation), _) if whole && self.job.drain.requested() => truncation.carry(moment, element),
            (_, Some(due)) if !residual.delay.is_zero() => {
                self.pauses.add(Paused { due, moment, element });
                Ok(())
            }
            _ => self.input.carry(moment, element),
        };
        self.check(taken);
    }

    fn resume(&mut self) {
        for Paused { moment, element, .. } in self.pauses.due() {
            let taken = self.input.carry(moment, element);
            self.check(taken);
        }
        if let Some(next) = self.pauses.next() {
            self.alarm.set(next);
        }
    }

    /// When the job drains: everything that is left is truncated before it runs, and what runs is asked to hand back.
    fn drain(&mut self) {
        let Some(mut truncation) = self.truncation.take() else { return };
        if self.job.drain.requested() {
            if truncation.begin(self.bundles.next_id()) {
                let moved = truncation.take_over(&mut self.input);
                self.check(moved);
                for Paused { moment, element, .. } in self.pauses.take() {
                    let taken = truncation.carry(moment, element);
                    self.check(taken);
                }
                self.bundles.split_older(Duration::ZERO, 0.0);
            }
            match truncation.work(self.epoch, self.reached, self.job.settings.max_bundle_bytes, &mut self.input) {
                Ok(true) => {}
                Ok(false) => self.failed = true,
                Err(error) => self.check(Err(error)),
            }
        }
        self.truncation = Some(truncation);
    }

    /// Opens bundles while there is input of the current epoch, a free slot, and not too much that is not sent; steps to
    /// the next epoch when this one has nothing left.
    fn start(&mut self, gate: &mut Gate, frontier: AntichainRef<Moment>) {
        loop {
            let epoch = self.epoch;
            let slots = self.pace.slots(self.bundles.limit());
            while self.bundles.free(slots) > 0 && !self.emissions.is_full() {
                let elements = self.pace.bundle(self.input.elements(epoch), slots, &self.job.settings);
                match self.input.take(epoch, elements, self.job.settings.max_bundle_bytes) {
                    Ok(Some(taken)) => {
                        self.bundles.start(taken.moment, taken.batches);
                    }
                    Ok(None) => break,
                    Err(error) => return self.check(Err(error)),
                }
            }
            let to_shorten = self.truncation.as_ref().and_then(Truncation::first);
            let waits = self.input.has(epoch) || to_shorten.is_some_and(|first| first <= epoch);
            // What user code does may take for ever, or wait for what is behind the border: then open bundles come along.
            let along = || self.border_wait.is_over(&self.job) && self.bundles.can_be_carried();
            if waits || (self.bundles.busy() && !along()) {
                return;
            }
            let next = self.input.next(epoch, frontier).into_iter().chain(to_shorten).min();
            let Some(next) = next else { return };
            self.step(gate, next);
            // What is to be shortened in the epoch is, before more of its input runs.
            self.drain();
            if self.failed {
                return;
            }
        }
    }

    /// Steps to the next epoch: nothing that belongs to this one is left but, perhaps, open bundles. They have had no effect
    /// yet, so they come along: a checkpoint holds their input, and what they give belongs to the next epoch.
    fn step(&mut self, gate: &mut Gate, next: u64) {
        let open = self.bundles.carry_over(next);
        if let Some(border) = self.saver.border(self.epoch, next) {
            let mut carried = Carried::over(border.epoch(), self.bundles.references());
            carried.add_saved([FrozenBatches::from(open)]);
            let frozen = self.input.freeze_carried().and_then(|inputs| {
                carried.add_all(inputs);
                carried.add_all(self.truncation.as_mut().map_or(Ok(vec![]), Truncation::freeze_carried)?);
                carried.add(gate.freeze()?);
                carried.add_saved(self.stable.as_mut().map_or(Ok(vec![]), |stable| stable.save(border.epoch()))?);
                Ok(())
            });
            for paused in self.pauses.iter() {
                carried.add_paused(paused.moment.watermark, paused.due, paused.element.clone());
            }
            match frozen {
                Ok(()) => border
                    .save(PartHead { form: self.form.clone(), ..PartHead::of(PartKind::Stage) }, carried.frozen(None)),
                Err(error) => self.check(Err(error)),
            }
        }
        self.epoch = next;
        self.border_wait.end();
        self.pauses.move_on(next);
    }

    /// Where a checkpoint waits for this stage for too long, what has not been begun goes over the border with it; and so
    /// does what has, as the operator steps.
    fn approach_border(&mut self) {
        if self.border_wait.is_too_long(&self.job, self.epoch, self.reached, &mut self.alarm) {
            let moved = self.input.move_on(self.reached);
            self.check(moved);
            let moved = self.truncation.as_mut().map_or(Ok(()), |truncation| truncation.move_on(self.reached));
            self.check(moved);
        }
    }

    /// Asks bundles that go on for long to hand back work. Ordinary elements that are slow are to run side by side.
    fn split(&mut self) {
        let idles = self.bundles.free(self.bundles.limit()) > 0 && !self.input.has(self.epoch);
        self.idle = (idles && self.bundles.busy()).then(|| self.idle.unwrap_or_else(Instant::now));
        if !self.bundles.busy() {
            return;
        }
        let at_border = self.border_wait.is_on();
        let next = if !self.pace.splittable {
            let age = if at_border { self.job.settings.carry_over_after.min(2 * SLOW) } else { 2 * SLOW };
            self.bundles.split_older(age, 0.0)
        } else if self.unbounded || self.job.drain.requested() {
            self.bundles.split_older(self.job.settings.max_bundle_time, 0.0)
        } else if self.reached > self.epoch {
            // Bundles that end at every border do not grow old: it counts how long a slot has idled beside them.
            if self.idle.is_some_and(|since| since.elapsed() >= WORTH_SPLITTING) {
                self.idle = None;
                self.bundles.split_older(Duration::ZERO, 0.5)
            } else {
                self.bundles.split_older(self.job.settings.max_bundle_time, 0.0)
            }
        } else if idles {
            self.bundles.split_older(WORTH_SPLITTING, 0.5)
        } else {
            None
        };
        if let Some(next) = next {
            self.alarm.set(next);
        }
    }

    /// Moves the capabilities to the least moments at which output may still come.
    fn hold(&mut self, frontier: AntichainRef<Moment>) {
        if self.failed {
            return;
        }
        let whole = self.truncation.iter().flat_map(Truncation::moments);
        let stable = self.stable.iter().flat_map(|stable| stable.held(self.epoch));
        let input = frontier.iter().copied().chain(stable);
        self.emissions.hold(
            input.chain(self.bundles.moments()).chain(self.input.moments()).chain(whole).chain(self.pauses.moments()),
        );
    }
}
