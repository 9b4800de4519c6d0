//! A fused stage without keyed state: one operator per worker that hands bundles to the executor and sends on what they
//! produced.
//!
//! Work is taken in order of epoch. What waits, runs, or is not yet sent holds the operator's capabilities at its
//! moment, so the watermark and the epoch of every output are exactly those of what may still come.
//!
//! Residuals of splittable elements come back to the queue, held at the watermark that the SDK said. They belong to the
//! epoch that the input has reached by then: a source that never ends must not keep an epoch open. A bundle that goes on
//! for long is asked to hand back what is left: of an unbounded source everything, so that results flow and others get
//! their turn, of a bounded one a half, where another slot idles, and of ordinary elements all that wait behind a slow
//! one. The last two run beside the bundle that handed them back.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::CapabilitySet;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::frontier::AntichainRef;
use timely::scheduling::Activator;

use super::Job;
use super::bundle_state::StageState;
use super::bundles::{Bundles, Finished, HandedBack};
use super::edge::{Edge, Output, moment};
use super::emission::Emissions;
use super::flow::Flow;
use super::queue::{InputQueue, move_on};
use super::run::Reporter;
use super::side_inputs::{Gate, SideInputs};
use super::truncate::Truncation;
use crate::element::Batch;
use crate::executor::Residual;
use crate::plan::StageId;
use crate::time::{self, Moment, Timestamp};

/// Elements that take longer on the average stand for much work each, or wait for something.
const SLOW: Duration = Duration::from_secs(1);
/// Bundles of such elements that a worker keeps open, each with one. They cost little but a thread of the harness;
/// environments that want fewer have a limit of their own.
const SLOW_BUNDLES: usize = 32;
/// How long a bundle of a bounded source may run before it is asked for half of its work, if a slot idles.
const WORTH_SPLITTING: Duration = Duration::from_millis(250);

/// Builds the operator; the results are the stage's outputs, in the plan's order, and at least one where the plan has a
/// TestStream.
pub(crate) fn build<'scope>(
    scope: Scope<'scope, Moment>,
    job: &Job,
    stage: StageId,
    input: Edge<'scope>,
    side_inputs: SideInputs<'scope>,
    state: Arc<StageState>,
    (flow, reporter): (Rc<Flow>, Rc<Reporter>),
) -> Vec<Edge<'scope>> {
    let plan = &job.plan.stages[stage.0 as usize];
    let mut builder = OperatorBuilder::new(plan.name.clone(), scope);
    let mut input = builder.new_input(input, Pipeline);
    let mut gate = Gate::new(scope, &mut builder, (job, stage), side_inputs, &reporter);
    // Where a TestStream waits for everything to be over, a stage without outputs gets one that carries no data.
    let ports = plan.outputs.len().max(usize::from(job.plan.is_test_driven()));
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
    let mut operator = Operator {
        name: plan.name.clone(),
        bundles: if in_turn { bundles(stage) } else { bundles(stage).handing_back_at_once() },
        truncation: plan.splittable.then(|| Truncation::new(plan.truncate.map(bundles), unbounded, &job.budget)),
        splittable: plan.splittable,
        unbounded,
        slow: false,
        job: job.clone(),
        stage,
        queues: BTreeMap::new(),
        later: Vec::new(),
        emissions: Emissions::new(outputs, Rc::clone(&flow), activator.clone()),
        activator,
        epoch: 0,
        reached: 0,
        backlog: 0,
        flow,
        reporter,
        failed: false,
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
    job: Job,
    stage: StageId,
    splittable: bool,
    /// Some output is.
    unbounded: bool,
    /// The elements of the last bundle were.
    slow: bool,
    bundles: Bundles,
    /// Of a splittable stage: shortens its work when the job drains.
    truncation: Option<Truncation>,
    /// Input that waits, by epoch.
    queues: BTreeMap<u64, InputQueue>,
    /// Residuals that asked for a pause.
    later: Vec<Later>,
    emissions: Emissions,
    /// The epoch whose input may run.
    epoch: u64,
    /// The epoch that the input has reached.
    reached: u64,
    /// This stage's part of the worker's backlog.
    backlog: usize,
    flow: Rc<Flow>,
    reporter: Rc<Reporter>,
    activator: Activator,
    failed: bool,
}

struct Later {
    due: Instant,
    moment: Moment,
    element: Batch,
}

impl Operator {
    /// Takes input that no bundle has seen.
    fn enqueue(&mut self, moment: Moment, batch: Batch) {
        match &mut self.truncation {
            Some(truncation) if self.job.drain.requested() => {
                let taken = truncation.push(moment, batch);
                self.check(taken);
            }
            _ => self.admit(moment, batch),
        }
    }

    /// Takes input for the next bundles.
    fn admit(&mut self, moment: Moment, batch: Batch) {
        if batch.is_empty() {
            return;
        }
        let queue = self.queues.entry(moment.epoch).or_insert_with(|| InputQueue::new(&self.job.budget));
        let taken = queue.push(moment, batch);
        self.check(taken);
    }

    fn check(&mut self, stored: std::io::Result<()>) {
        if let Err(error) = stored {
            self.failed = true;
            self.reporter.storage(&self.name, &error);
        }
    }

    /// One activation. True while the operator is not finished.
    fn visit(&mut self, frontier: AntichainRef<Moment>, closed: Option<u64>) -> bool {
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
        match closed {
            None => self.start(frontier),
            Some(epoch) => {
                let moved = move_on(&mut self.queues, epoch);
                self.check(moved);
            }
        }
        self.split();
        self.account(closed.is_none());
        let sent = self.emissions.send();
        self.check(sent);
        self.hold(frontier);
        self.bundles.busy()
            || self.truncation.as_ref().is_some_and(Truncation::busy)
            || !self.later.is_empty()
            || !self.emissions.is_empty()
            || !self.queues.is_empty()
    }

    fn finish(&mut self, finished: Finished) {
        let Finished { id, moment, elements, took, done } = finished;
        if !self.splittable {
            self.slow = took / u32::try_from(elements.max(1)).unwrap_or(u32::MAX) >= SLOW;
        }
        let whole = self.truncation.as_ref().is_some_and(|truncation| truncation.is_before(id));
        for residual in done.residuals {
            self.postpone(moment, residual, whole);
        }
        self.job.observer.committed(self.stage, done.metrics);
        // A job without checkpoints: the bundle's effects are as durable as they get.
        if let Some(finalizer) = done.requires_finalization {
            finalizer.finalize();
        }
        self.emissions.push(moment, done.outputs);
    }

    /// Takes what a bundle handed back that goes on.
    fn take_back(&mut self, handed_back: HandedBack) {
        let HandedBack { id, moment, residuals } = handed_back;
        // Ordinary elements are only asked for where one takes long.
        self.slow |= !self.splittable && !residuals.is_empty();
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
        let draining = self.job.drain.requested();
        if draining && whole {
            self.enqueue(moment, element);
        } else if residual.delay.is_zero() {
            self.admit(moment, element);
        } else {
            self.activator.activate_after(residual.delay);
            self.later.push(Later { due: Instant::now() + residual.delay, moment, element });
        }
    }

    fn resume(&mut self) {
        if self.later.is_empty() {
            return;
        }
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.later).into_iter().partition(|later| later.due <= now);
        self.later = later;
        for Later { moment, element, .. } in due {
            self.admit(moment, element);
        }
    }

    /// When the job drains: everything that is left is truncated before it runs, and what runs is asked to hand back.
    fn drain(&mut self) {
        let Some(mut truncation) = self.truncation.take() else { return };
        if self.job.drain.requested() {
            if truncation.begin(self.bundles.next_id()) {
                let mut whole = Vec::new();
                for mut queue in std::mem::take(&mut self.queues).into_values() {
                    let taken = queue.take_all(&mut whole);
                    self.check(taken);
                }
                whole.extend(std::mem::take(&mut self.later).into_iter().map(|later| (later.moment, later.element)));
                for (moment, batch) in whole {
                    let taken = truncation.push(moment, batch);
                    self.check(taken);
                }
                self.bundles.split_older(Duration::ZERO, 0.0);
            }
            let shortened = truncation.work(self.reached, self.job.settings.max_bundle_bytes);
            match shortened {
                Ok(Some(shortened)) => shortened.into_iter().for_each(|(moment, batch)| self.admit(moment, batch)),
                Ok(None) => self.failed = true,
                Err(error) => self.check(Err(error)),
            }
        }
        self.truncation = Some(truncation);
    }

    /// Opens bundles while there is input of the current epoch and a free slot; steps to the next epoch when this one
    /// has nothing left.
    fn start(&mut self, frontier: AntichainRef<Moment>) {
        loop {
            let epoch = self.epoch;
            let slots = if self.slow { self.bundles.limit().max(SLOW_BUNDLES) } else { self.bundles.limit() };
            while self.bundles.free(slots) > 0
                && let Some(queue) = self.queues.get_mut(&epoch)
            {
                let elements = match self.slow {
                    true => 1,
                    false => bundle_size(queue.elements(), slots, self.splittable),
                };
                let elements = elements.min(self.job.settings.max_bundle_elements);
                match queue.take(elements, self.job.settings.max_bundle_bytes) {
                    Ok(Some(taken)) => {
                        self.bundles.start(taken.moment, taken.batches);
                    }
                    Ok(None) => {
                        self.queues.remove(&epoch);
                    }
                    Err(error) => {
                        self.failed = true;
                        self.reporter.storage(&self.name, &error);
                        return;
                    }
                }
            }
            if self.queues.get(&epoch).is_some_and(InputQueue::is_empty) {
                self.queues.remove(&epoch);
            }
            let idle = !self.queues.contains_key(&epoch) && !self.bundles.busy();
            let next = match time::epoch(frontier) {
                Some(next) => next,
                None => self.queues.keys().next().copied().unwrap_or(epoch),
            };
            if idle && next > epoch {
                self.epoch = self.queues.keys().next().copied().unwrap_or(next).min(next);
                for later in &mut self.later {
                    later.moment.epoch = later.moment.epoch.max(self.epoch);
                }
                if self.epoch > epoch {
                    continue;
                }
            }
            return;
        }
    }

    /// Asks bundles that go on for long to hand back work. Ordinary elements that are slow are to run side by side.
    fn split(&mut self) {
        if !self.bundles.busy() {
            return;
        }
        if !self.splittable {
            if let Some(next) = self.bundles.split_older(2 * SLOW, 0.0) {
                self.activator.activate_after(next.max(Duration::from_millis(1)));
            }
            return;
        }
        let hand_back = self.unbounded || self.reached > self.epoch || self.job.drain.requested();
        let next = if hand_back {
            self.bundles.split_older(self.job.settings.max_bundle_time, 0.0)
        } else if self.bundles.free(self.bundles.limit()) > 0 && self.queues.is_empty() {
            self.bundles.split_older(WORTH_SPLITTING, 0.5)
        } else {
            None
        };
        if let Some(next) = next {
            self.activator.activate_after(next.max(Duration::from_millis(1)));
        }
    }

    fn account(&mut self, open: bool) {
        let bytes = if open { self.queues.values().map(InputQueue::bytes).sum() } else { 0 };
        if bytes != self.backlog {
            self.flow.update(self.backlog, bytes);
            self.backlog = bytes;
        }
    }

    /// Moves the capabilities to the least moments at which output may still come.
    fn hold(&mut self, frontier: AntichainRef<Moment>) {
        if self.failed {
            return;
        }
        let queued = self.queues.values().flat_map(InputQueue::moments);
        let whole = self.truncation.iter().flat_map(Truncation::moments);
        let later = self.later.iter().map(|later| later.moment);
        let input = frontier.iter().copied();
        self.emissions.hold(input.chain(self.bundles.moments()).chain(queued).chain(whole).chain(later));
    }
}

/// How many of `queued` elements the next bundle takes when `slots` bundles may run side by side. Splittable elements
/// stand for much work each and are spread; ordinary elements are shared out only when every slot gets a good number.
fn bundle_size(queued: usize, slots: usize, splittable: bool) -> usize {
    const WORTH_SHARING: usize = 1000;
    if splittable {
        queued.div_ceil(2 * slots)
    } else if queued >= WORTH_SHARING * slots {
        queued.div_ceil(slots)
    } else {
        queued
    }
    .max(1)
}
