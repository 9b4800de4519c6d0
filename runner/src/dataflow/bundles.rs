//! The open bundles of one operator on one worker: opening, retrying, and learning how they ended.
//!
//! The input of a bundle is kept until it succeeds, so a bundle that fails is run again from the same bytes; its partial
//! output is dropped with it. After [`super::Settings::retries`] failures the job fails with the last error. What a
//! bundle hands back while it runs is no part of its input any more ([`super::remainder`]).

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use timely::dataflow::Scope;
use timely::scheduling::activate::SyncActivator;

use super::alarm::Alarm;
use super::flow::backoff;
use super::gist::gist;
use super::remainder::Remainder;
use super::run::Reporter;
use super::{Job, JobFailure};
use crate::element::{Batch, ElementCoder, Outputs};
use crate::executor::{Bundle, BundleDone, BundleError, OpenBundle, Residual, Split, StateServer};
use crate::grouping::References;
use crate::plan::{Plan, Stage, StageId};
use crate::time::Moment;

/// See the module.
pub(crate) struct Bundles {
    job: Job,
    stage: StageId,
    outputs: Vec<ElementCoder>,
    states: Box<dyn Fn() -> Arc<dyn StateServer>>,
    /// Of the keys, for a keyed stage.
    partition: Option<usize>,
    reporter: Rc<Reporter>,
    open: BTreeMap<u64, Open>,
    next: u64,
    told: Receiver<(u64, Told)>,
    tell: Sender<(u64, Told)>,
    /// What bundles hand back is given out at once; otherwise, when they have succeeded.
    at_once: bool,
    handed_back: Vec<HandedBack>,
    /// Where the rest of elements is that go on in state.
    references: Option<References>,
    wake: Arc<SyncActivator>,
    alarm: Alarm,
    failed: bool,
}

/// What is told of a bundle.
enum Told {
    Split(Split),
    Ended(Result<BundleDone, BundleError>),
}

struct Open {
    moment: Moment,
    /// What this try was given.
    input: Vec<Input>,
    /// What of it is left, if it was split.
    remainder: Option<Remainder>,
    /// What it handed back, where that waits for its end.
    handed_back: Vec<Residual>,
    /// When this try began.
    began: Instant,
    /// When it was last asked to split, or began.
    since: Instant,
    failures: u32,
    /// `None` while it waits to be run again.
    bundle: Option<Box<dyn Bundle>>,
    again: Option<Instant>,
}

/// What a bundle is run over.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// Elements of the stage's main input.
    Elements(Batch),
    /// Timers of a family of the stage.
    Timers(usize, Bytes),
}

/// A bundle that succeeded.
pub(crate) struct Finished {
    /// As [`Bundles::start`] gave it.
    pub(crate) id: u64,
    pub(crate) moment: Moment,
    /// How many elements it was given and did not hand back.
    pub(crate) elements: usize,
    /// How long its last try was open.
    pub(crate) took: Duration,
    pub(crate) done: BundleDone,
}

/// Work that a bundle handed back while it goes on.
pub(crate) struct HandedBack {
    /// Of the bundle.
    pub(crate) id: u64,
    pub(crate) moment: Moment,
    pub(crate) residuals: Vec<Residual>,
}

impl Bundles {
    pub(crate) fn new<'scope>(
        scope: Scope<'scope, Moment>,
        address: Rc<[usize]>,
        job: Job,
        stage: StageId,
        state: Arc<dyn StateServer>,
        reporter: Rc<Reporter>,
    ) -> Bundles {
        Bundles::with_states(scope, address, job, stage, Box::new(move || Arc::clone(&state)), None, reporter)
    }

    /// Bundles of which every try has a state server of its own, from `states`. With a `partition`, they are about that
    /// part of the keys, and the owner never has two open at once.
    pub(crate) fn with_states<'scope>(
        scope: Scope<'scope, Moment>,
        address: Rc<[usize]>,
        job: Job,
        stage: StageId,
        states: Box<dyn Fn() -> Arc<dyn StateServer>>,
        partition: Option<usize>,
        reporter: Rc<Reporter>,
    ) -> Bundles {
        let (tell, told) = crossbeam_channel::unbounded();
        let outputs = output_coders(&job.plan, &job.plan.stages[stage.0 as usize]);
        Bundles {
            wake: Arc::new(scope.worker().sync_activator_for(address.to_vec())),
            alarm: Alarm::new(scope.activator_for(address)),
            job,
            stage,
            outputs,
            states,
            partition,
            reporter,
            open: BTreeMap::new(),
            next: 0,
            told,
            tell,
            at_once: false,
            handed_back: Vec::new(),
            references: None,
            failed: false,
        }
    }

    /// The elements may go on in state: what of them is there is given back when they were processed.
    pub(crate) fn reading(self, references: Option<References>) -> Bundles {
        Bundles { references, ..self }
    }

    /// Where the rest of elements is that go on in state, if they may.
    pub(crate) fn references(&self) -> Option<&References> {
        self.references.as_ref()
    }

    /// What bundles hand back while they run is to run beside them: see [`Bundles::handed_back`].
    pub(crate) fn handing_back_at_once(self) -> Bundles {
        Bundles { at_once: true, ..self }
    }

    /// How many more bundles may be opened now, if `slots` may be open at once.
    pub(crate) fn free(&self, slots: usize) -> usize {
        if self.failed { 0 } else { slots.saturating_sub(self.open.len()) }
    }

    /// How many bundles keep the harnesses busy.
    pub(crate) fn limit(&self) -> usize {
        self.job.executor.bundles_in_flight(self.stage).max(1)
    }

    /// True while a bundle is open or waits to be run again, and for ever after a failure.
    pub(crate) fn busy(&self) -> bool {
        self.failed || !self.open.is_empty()
    }

    /// True once the job has failed here; nothing more will run.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// The moments that the open bundles must be held at.
    pub(crate) fn moments(&self) -> impl Iterator<Item = Moment> + '_ {
        self.open.values().map(|open| open.moment)
    }

    /// Runs a bundle over elements; gives its id, which is greater than those before.
    pub(crate) fn start(&mut self, moment: Moment, input: Vec<Batch>) -> u64 {
        self.start_with(moment, input.into_iter().map(Input::Elements).collect())
    }

    /// Runs a bundle over `input`, in that order.
    pub(crate) fn start_with(&mut self, moment: Moment, input: Vec<Input>) -> u64 {
        let id = self.next;
        self.next += 1;
        let bundle = self.run(id, &input);
        let now = Instant::now();
        let open = Open {
            moment,
            input,
            remainder: None,
            handed_back: Vec::new(),
            began: now,
            since: now,
            failures: 0,
            bundle: Some(bundle),
            again: None,
        };
        self.open.insert(id, open);
        id
    }

    /// Whether what is open may go over a border. Not a bundle that keeps what it handed back until its end: it is about to
    /// end, and after a restore the two would run side by side. Nor one with an element that goes on in state: that may be
    /// of any size, and would be saved whole.
    pub(crate) fn can_be_carried(&self) -> bool {
        let goes_on = |open: &Open| {
            let mut any = false;
            if let Some(references) = &self.references {
                open.processed(|element| any |= references.have_rest_of(element));
            }
            any
        };
        self.open.values().all(|open| open.handed_back.is_empty() && !goes_on(open))
    }

    /// Takes what is open over the border to `epoch`: what comes of it belongs to that from now on. Gives the input that it
    /// stands for; what it did so far has had no effect.
    pub(crate) fn carry_over(&mut self, epoch: u64) -> Vec<(Moment, Batch)> {
        self.open.values_mut().flat_map(|open| open.carry_over(epoch)).collect()
    }

    /// The id that the next bundle will have.
    pub(crate) fn next_id(&self) -> u64 {
        self.next
    }

    /// Asks every bundle that has been open for `age` to keep no more than `fraction` of what remains, and to be asked
    /// again after as long. Gives the time until there is one to ask.
    pub(crate) fn split_older(&mut self, age: Duration, fraction: f64) -> Option<Duration> {
        let now = Instant::now();
        let mut next = None;
        for open in self.open.values_mut() {
            let Some(bundle) = &mut open.bundle else { continue };
            if now.duration_since(open.since) >= age {
                bundle.split(fraction);
                open.since = now;
            }
            let left = age.saturating_sub(now.duration_since(open.since));
            next = Some(next.map_or(left, |next: Duration| next.min(left)));
        }
        next
    }

    fn run(&self, id: u64, input: &[Input]) -> Box<dyn Bundle> {
        let teller = || {
            let (tell, wake) = (self.tell.clone(), Arc::clone(&self.wake));
            move |told| {
                // Both fail only when the worker is gone, and then nobody waits.
                let _ = tell.send((id, told));
                let _ = wake.activate();
            }
        };
        let (tell_split, tell_end) = (teller(), teller());
        let mut bundle = self.job.executor.open(OpenBundle {
            stage: self.stage,
            state: (self.states)(),
            partition: self.partition,
            outputs: Outputs::new(self.outputs.clone(), &self.job.budget),
            splits: Box::new(move |split| tell_split(Told::Split(split))),
            completion: Box::new(move |ended| tell_end(Told::Ended(ended))),
        });
        for part in input {
            match part {
                Input::Elements(batch) => bundle.push(batch.clone()),
                Input::Timers(family, timers) => bundle.push_timers(*family, timers.clone()),
            }
        }
        bundle.close();
        bundle
    }

    /// What bundles handed back while they run, as [`Bundles::poll`] learnt of it; nothing unless that was asked for.
    pub(crate) fn handed_back(&mut self) -> Vec<HandedBack> {
        std::mem::take(&mut self.handed_back)
    }

    /// The next bundle that succeeded; runs those again whose time has come.
    pub(crate) fn poll(&mut self) -> Option<Finished> {
        while let Ok((id, told)) = self.told.try_recv() {
            let Some(mut open) = self.open.remove(&id) else { continue };
            let ended = match told {
                Told::Ended(ended) => ended,
                Told::Split(split) => {
                    let handed_back = open.split(split);
                    if self.at_once {
                        let moment = open.moment;
                        self.handed_back.push(HandedBack { id, moment, residuals: handed_back });
                    } else {
                        open.handed_back.extend(handed_back);
                    }
                    self.open.insert(id, open);
                    continue;
                }
            };
            match ended {
                Ok(mut done) => {
                    let (elements, took) = (open.elements(), open.began.elapsed());
                    if let Some(references) = &self.references {
                        open.processed(|element| references.release(element));
                    }
                    done.residuals.append(&mut open.handed_back);
                    return Some(Finished { id, moment: open.moment, elements, took, done });
                }
                Err(error) if error.retry && open.failures < self.job.settings.retries => {
                    open.failures += 1;
                    let wait = backoff(self.job.settings.retry_delay, open.failures - 1);
                    self.reporter.warning(format!(
                        "a bundle of {} failed and is run again (failure {} of {} allowed): {}",
                        self.stage().name,
                        open.failures,
                        self.job.settings.retries,
                        gist(&error.message)
                    ));
                    open.bundle = None;
                    open.again = Some(Instant::now() + wait);
                    self.alarm.set(wait);
                    self.open.insert(id, open);
                }
                Err(error) => {
                    self.failed = true;
                    self.reporter.fail(self.failure(error, open.failures + 1));
                }
            }
        }
        if !self.failed {
            self.run_again();
        }
        None
    }

    fn run_again(&mut self) {
        let now = Instant::now();
        let due: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, open)| open.again.is_some_and(|again| again <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(mut open) = self.open.remove(&id) else { continue };
            if let Some(remainder) = open.remainder.take() {
                open.input = remainder.take(open.input);
            }
            open.bundle = Some(self.run(id, &open.input));
            (open.began, open.since) = (now, now);
            open.again = None;
            self.open.insert(id, open);
        }
    }

    fn stage(&self) -> &Stage {
        &self.job.plan.stages[self.stage.0 as usize]
    }

    fn failure(&self, error: BundleError, attempts: u32) -> JobFailure {
        let times = if attempts == 1 { "once".to_string() } else { format!("{attempts} times") };
        JobFailure {
            fault: error.fault,
            message: format!(
                "{}\n\nThe bundle that failed was tried {times}, in stage {}.",
                error.message,
                self.stage().name
            ),
            environment: error.environment,
        }
    }
}

impl Open {
    fn elements(&self) -> usize {
        self.remainder.as_ref().map_or_else(|| Remainder::of(&self.input).elements(), Remainder::elements)
    }

    /// Visits the elements that it was given and did not hand back.
    fn processed(&self, mut see: impl FnMut(&[u8])) {
        let mut left = self.remainder.as_ref().map_or(usize::MAX, Remainder::whole);
        for input in &self.input {
            if let Input::Elements(batch) = input {
                batch.elements().take(left).for_each(&mut see);
                left = left.saturating_sub(batch.len());
            }
        }
    }

    fn carry_over(&mut self, epoch: u64) -> Vec<(Moment, Batch)> {
        let moment = Moment { epoch: self.moment.epoch.max(epoch), ..self.moment };
        self.moment = moment;
        let input = self.input.clone();
        let left = self.remainder.clone().unwrap_or_else(|| Remainder::of(&input)).take(input);
        let elements = left.into_iter().filter_map(|input| match input {
            Input::Elements(batch) if !batch.is_empty() => Some((moment, batch)),
            Input::Elements(_) | Input::Timers(..) => None,
        });
        elements.collect()
    }

    fn split(&mut self, split: Split) -> Vec<Residual> {
        self.remainder.get_or_insert_with(|| Remainder::of(&self.input)).split(split, &self.input)
    }
}

/// The form of a collection's windowed values.
pub(crate) fn element_coder(plan: &Plan, collection: crate::plan::CollectionId) -> ElementCoder {
    let collection = &plan.collections[collection.0 as usize];
    ElementCoder { value: collection.value.clone(), window: collection.windowing.window_coder.clone() }
}

fn output_coders(plan: &Plan, stage: &Stage) -> Vec<ElementCoder> {
    stage.outputs.iter().map(|port| element_coder(plan, port.collection)).collect()
}
