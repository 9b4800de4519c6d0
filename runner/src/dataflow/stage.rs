//! A fused stage: one operator per worker that hands bundles to the executor and sends on what they produced.
//!
//! Work is taken in order of epoch. What waits, runs, or is not yet sent holds the operator's capabilities at its
//! moment, so the watermark and the epoch of every output are exactly those of what may still come.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::CapabilitySet;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::Antichain;
use timely::progress::frontier::AntichainRef;
use timely::scheduling::Activator;

use super::Job;
use super::bundles::{Bundles, Finished};
use super::edge::{Edge, Output, moment};
use super::flow::{Flow, VISIT_LIMIT};
use super::queue::InputQueue;
use super::run::Reporter;
use crate::element::{Batch, SpillQueue};
use crate::executor::{Residual, StateServer};
use crate::plan::StageId;
use crate::time::{self, Moment, Timestamp};

/// Builds the operator; the results are the stage's outputs, in the plan's order.
pub(crate) fn build<'scope>(
    scope: Scope<'scope, Moment>,
    job: &Job,
    stage: StageId,
    input: Edge<'scope>,
    barriers: Vec<Edge<'scope>>,
    state: Arc<dyn StateServer>,
    (flow, reporter): (Rc<Flow>, Rc<Reporter>),
) -> Vec<Edge<'scope>> {
    let plan = &job.plan.stages[stage.0 as usize];
    let mut builder = OperatorBuilder::new(plan.name.clone(), scope);
    let mut input = builder.new_input(input, Pipeline);
    let mut barriers: Vec<_> = barriers.into_iter().map(|barrier| builder.new_input(barrier, Pipeline)).collect();
    let (outputs, streams): (Vec<_>, Vec<_>) = plan.outputs.iter().map(|_| Output::new(&mut builder)).unzip();
    let address = builder.operator_info().address;
    let mut operator = Operator {
        name: plan.name.clone(),
        bundles: Bundles::new(scope, Rc::clone(&address), job.clone(), stage, state, Rc::clone(&reporter)),
        activator: scope.activator_for(address),
        splittable: plan.splittable,
        job: job.clone(),
        stage,
        outputs,
        capabilities: Vec::new(),
        held: Antichain::from_elem(timely::progress::Timestamp::minimum()),
        queues: BTreeMap::new(),
        later: Vec::new(),
        emissions: VecDeque::new(),
        epoch: 0,
        backlog: 0,
        flow,
        reporter,
        failed: false,
    };
    builder.build_reschedule(move |capabilities| {
        operator.capabilities = capabilities.into_iter().map(CapabilitySet::from_elem).collect();
        move |frontiers| {
            input.for_each(|capability, batch| {
                if let Some(moment) = moment(capability.stamp()) {
                    operator.enqueue(moment, std::mem::take(batch));
                }
            });
            for barrier in &mut barriers {
                barrier.for_each(|_, _| {});
            }
            let open = frontiers[1..].iter().all(|barrier| barrier.is_empty());
            operator.visit(frontiers[0].frontier(), open)
        }
    });
    streams
}

struct Operator {
    name: String,
    job: Job,
    stage: StageId,
    splittable: bool,
    bundles: Bundles,
    outputs: Vec<Output>,
    capabilities: Vec<CapabilitySet<Moment>>,
    /// What `capabilities` stand at.
    held: Antichain<Moment>,
    /// Input that waits, by epoch.
    queues: BTreeMap<u64, InputQueue>,
    /// Residuals that asked for a pause.
    later: Vec<Later>,
    /// Output of finished bundles, oldest first.
    emissions: VecDeque<Emission>,
    /// The epoch whose input may run.
    epoch: u64,
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

struct Emission {
    moment: Moment,
    ports: Vec<SpillQueue>,
}

impl Operator {
    fn enqueue(&mut self, moment: Moment, batch: Batch) {
        if batch.is_empty() {
            return;
        }
        let queue = self.queues.entry(moment.epoch).or_insert_with(|| InputQueue::new(&self.job.budget));
        if let Err(error) = queue.push(moment, batch) {
            self.failed = true;
            self.reporter.storage(&self.name, &error);
        }
    }

    /// One activation. True while the operator is not finished.
    fn visit(&mut self, frontier: AntichainRef<Moment>, open: bool) -> bool {
        while let Some(finished) = self.bundles.poll() {
            self.finish(finished);
        }
        if self.failed || self.bundles.failed() {
            // Capabilities stay where they are: nothing downstream may take silence for the end of input.
            return true;
        }
        self.resume();
        if open {
            self.start(frontier);
        }
        self.account(open);
        self.emit();
        self.hold(frontier);
        self.bundles.busy() || !self.later.is_empty() || !self.emissions.is_empty() || !self.queues.is_empty()
    }

    fn finish(&mut self, finished: Finished) {
        let Finished { moment, done } = finished;
        for residual in done.residuals {
            self.postpone(moment, residual);
        }
        self.job.observer.committed(self.stage, done.metrics);
        // A bounded job has no checkpoints: the bundle's effects are as durable as they get.
        if let Some(finalizer) = done.requires_finalization {
            finalizer.finalize();
        }
        let ports = done.outputs.into_ports();
        if ports.iter().any(|port| !port.is_empty()) {
            self.emissions.push_back(Emission { moment, ports });
        }
    }

    fn postpone(&mut self, moment: Moment, residual: Residual) {
        let end = residual.element.len() as u32;
        let element = Batch::new(residual.element, [end], Timestamp::MIN);
        if residual.delay.is_zero() {
            self.enqueue(moment, element);
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
            self.enqueue(moment, element);
        }
    }

    /// Opens bundles while there is input of the current epoch and a free slot; steps to the next epoch when this one
    /// has nothing left.
    fn start(&mut self, frontier: AntichainRef<Moment>) {
        loop {
            let epoch = self.epoch;
            while self.bundles.free() > 0
                && let Some(queue) = self.queues.get_mut(&epoch)
            {
                let elements = bundle_size(queue.elements(), self.bundles.limit(), self.splittable)
                    .min(self.job.settings.max_bundle_elements);
                match queue.take(elements, self.job.settings.max_bundle_bytes) {
                    Ok(Some(taken)) => self.bundles.start(taken.moment, taken.batches),
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
            let idle = !self.queues.contains_key(&epoch) && !self.bundles.busy() && self.later.is_empty();
            let next = match time::epoch(frontier) {
                Some(next) => next,
                None => self.queues.keys().next().copied().unwrap_or(epoch),
            };
            if idle && next > epoch {
                self.epoch = self.queues.keys().next().copied().unwrap_or(next).min(next);
                if self.epoch > epoch {
                    continue;
                }
            }
            return;
        }
    }

    fn account(&mut self, open: bool) {
        let bytes = if open { self.queues.values().map(InputQueue::bytes).sum() } else { 0 };
        if bytes != self.backlog {
            self.flow.update(self.backlog, bytes);
            self.backlog = bytes;
        }
    }

    fn emit(&mut self) {
        let mut sent = 0;
        while let Some(emission) = self.emissions.front_mut() {
            if !self.flow.has_room() {
                self.flow.wait(self.activator.clone());
                return;
            }
            if sent > VISIT_LIMIT {
                self.activator.activate();
                return;
            }
            let mut empty = true;
            for (port, queue) in emission.ports.iter_mut().enumerate() {
                match queue.pop() {
                    Ok(Some(batch)) => {
                        empty = false;
                        sent += batch.data().len();
                        let capability = self.capabilities[port].delayed(&emission.moment);
                        self.outputs[port].give(&capability, batch);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        self.failed = true;
                        self.reporter.storage(&self.name, &error);
                        return;
                    }
                }
            }
            if empty {
                self.emissions.pop_front();
            }
        }
    }

    /// Moves the capabilities to the least moments at which output may still come.
    fn hold(&mut self, frontier: AntichainRef<Moment>) {
        if self.failed {
            return;
        }
        let mut held = Antichain::new();
        held.extend(frontier.iter().copied());
        held.extend(self.bundles.moments());
        held.extend(self.queues.values().flat_map(InputQueue::moments));
        held.extend(self.later.iter().map(|later| later.moment));
        held.extend(self.emissions.iter().map(|emission| emission.moment));
        if held != self.held {
            for capabilities in &mut self.capabilities {
                capabilities.downgrade(held.iter());
            }
            self.held = held;
        }
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
