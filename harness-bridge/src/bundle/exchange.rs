//! What an open bundle receives: its outputs off the data stream, and the state server that answers it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferrobeam_proto::fn_execution::elements::Timers;
use ferrobeam_proto::fn_execution::{Elements, StateRequest};
use ferrobeam_runner::element::{OutputError, Outputs};
use ferrobeam_runner::executor::{Fault, StateError, StateServer, TimerBatch};
use ferrobeam_runner::metrics::Metric;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::in_order::InOrder;
use crate::environment::UserStateCache;
use crate::stage::Stage;

/// How long a harness that reported success may be silent before the rest of its outputs counts as lost.
const OUTPUT_SILENCE: Duration = Duration::from_secs(120);

/// The receiving half of an open bundle, shared by the servers that feed it.
pub(crate) struct Exchange {
    pub(crate) stage: Arc<Stage>,
    pub(crate) state: Arc<dyn StateServer>,
    pub(crate) opened: Instant,
    /// State requests that wait for a thread that may block.
    pub(crate) requests: InOrder<(StateRequest, Option<OwnedSemaphorePermit>)>,
    /// Every state request is answered from memory, and where it arrives.
    pub(crate) at_once: bool,
    /// How many of the waiting state requests are answered with the harness's help.
    pub(crate) needing_harness: AtomicUsize,
    /// What its requests mean for a cache of user state.
    cache: Mutex<UserStateCache>,
    inbound: Mutex<Inbound>,
    changed: Notify,
    /// A question about its progress is on its way.
    asked: AtomicBool,
}

struct Inbound {
    /// `None` once taken.
    outputs: Option<Outputs>,
    /// Whether each output still expects data.
    open: Vec<bool>,
    /// Timers in the order in which they came.
    timers: Vec<TimerBatch>,
    /// Whether each timer family still expects timers.
    open_timers: Vec<bool>,
    failure: Option<Failure>,
    /// The first state request that this runner could not answer.
    state_failure: Option<StateError>,
    received: u64,
    attempted: Vec<Metric>,
}

/// Why a bundle's outputs cannot be used.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) fault: Fault,
    pub(crate) message: String,
}

impl Exchange {
    pub(crate) fn new(
        stage: Arc<Stage>,
        state: Arc<dyn StateServer>,
        outputs: Outputs,
        cache: UserStateCache,
    ) -> Exchange {
        let inbound = Inbound {
            outputs: Some(outputs),
            open: vec![true; stage.outputs.len()],
            timers: Vec::new(),
            open_timers: vec![true; stage.timers.len()],
            failure: None,
            state_failure: None,
            received: 0,
            attempted: Vec::new(),
        };
        Exchange {
            stage,
            state,
            opened: Instant::now(),
            requests: InOrder::default(),
            at_once: false,
            needing_harness: AtomicUsize::new(0),
            cache: Mutex::new(cache),
            inbound: Mutex::new(inbound),
            changed: Notify::new(),
            asked: AtomicBool::new(false),
        }
    }

    /// The same for a bundle whose state is in memory, for which another one waits.
    pub(crate) fn at_once(
        stage: Arc<Stage>,
        state: Arc<dyn StateServer>,
        outputs: Outputs,
        cache: UserStateCache,
    ) -> Exchange {
        Exchange { at_once: true, ..Exchange::new(stage, state, outputs, cache) }
    }

    fn inbound(&self) -> MutexGuard<'_, Inbound> {
        self.inbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the bundle's requests mean for a cache of user state.
    pub(crate) fn cache(&self) -> MutexGuard<'_, UserStateCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes data of one output. May write to disk. A failure is kept for the bundle.
    pub(crate) fn accept(&self, transform: &str, data: Bytes, is_last: bool) {
        self.take_in(|inbound| inbound.accept(&self.stage, transform, data, is_last));
    }

    /// Takes timers that were set or cleared. A failure is kept for the bundle.
    pub(crate) fn accept_timers(&self, timers: Timers) {
        self.take_in(|inbound| inbound.accept_timers(&self.stage, timers));
    }

    fn take_in(&self, take: impl FnOnce(&mut Inbound) -> Result<(), Failure>) {
        let mut inbound = self.inbound();
        if inbound.failure.is_some() {
            return;
        }
        inbound.received += 1;
        if let Err(failure) = take(&mut inbound) {
            inbound.failure = Some(failure);
        }
        if inbound.failure.is_some() || inbound.is_complete() {
            self.changed.notify_waiters();
        }
    }

    /// Takes the outputs that came within the control message: when they do, they are all there is.
    pub(crate) fn accept_embedded(&self, elements: Elements) {
        for data in elements.data {
            self.accept(&data.transform_id, data.data, data.is_last);
        }
        for timers in elements.timers {
            self.accept_timers(timers);
        }
        let mut inbound = self.inbound();
        inbound.open.fill(false);
        inbound.open_timers.fill(false);
        self.changed.notify_waiters();
    }

    pub(crate) fn fail(&self, failure: Failure) {
        self.inbound().failure.get_or_insert(failure);
        self.changed.notify_waiters();
    }

    /// Waits until the outputs cannot be used.
    pub(crate) async fn failed(&self) -> Failure {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(failure) = &self.inbound().failure {
                return failure.clone();
            }
            changed.await;
        }
    }

    /// Waits until every output and every timer family has ended, and takes what they brought.
    pub(crate) async fn outputs(&self) -> Result<(Outputs, Vec<TimerBatch>), Failure> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let received = {
                let mut inbound = self.inbound();
                if let Some(failure) = &inbound.failure {
                    return Err(failure.clone());
                }
                if inbound.is_complete() {
                    return inbound.take(&self.stage);
                }
                inbound.received
            };
            let silent = tokio::time::timeout(OUTPUT_SILENCE, changed).await.is_err();
            let mut inbound = self.inbound();
            if silent && inbound.received == received && !inbound.is_complete() && inbound.failure.is_none() {
                inbound.failure = Some(inbound.incomplete(&self.stage));
            }
        }
    }

    /// A state request that could not be answered: it explains the failure that the SDK will report.
    pub(crate) fn state_failed(&self, error: StateError) {
        self.inbound().state_failure.get_or_insert(error);
    }

    pub(crate) fn state_failure(&self) -> Option<StateError> {
        self.inbound().state_failure.clone()
    }

    /// True if no question about its progress is on its way; then one is.
    pub(crate) fn begin_question(&self) -> bool {
        !self.asked.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn end_question(&self) {
        self.asked.store(false, Ordering::Relaxed);
    }

    /// Keeps the latest metrics of a bundle that still runs.
    pub(crate) fn set_attempted(&self, metrics: Vec<Metric>) {
        self.inbound().attempted = metrics;
    }

    pub(crate) fn attempted(&self) -> Vec<Metric> {
        self.inbound().attempted.clone()
    }
}

impl Inbound {
    fn is_complete(&self) -> bool {
        !self.open.contains(&true) && !self.open_timers.contains(&true)
    }

    fn accept(&mut self, stage: &Stage, transform: &str, data: Bytes, is_last: bool) -> Result<(), Failure> {
        let environment = |message| Failure { fault: Fault::Environment, message };
        let Some(port) = stage.output(transform) else {
            return Err(environment(format!(
                "it sent data of a transform {transform:?} that is no output of the stage"
            )));
        };
        // The bundle was given up.
        let Some(outputs) = self.outputs.as_mut() else { return Ok(()) };
        if !data.is_empty() {
            if !self.open[port] {
                return Err(environment(format!("it sent data of output {transform} after the end of it")));
            }
            outputs.push(port, data).map_err(|error| unusable(stage, &error))?;
        }
        if is_last {
            self.open[port] = false;
        }
        Ok(())
    }

    fn accept_timers(&mut self, stage: &Stage, timers: Timers) -> Result<(), Failure> {
        let Timers { transform_id, timer_family_id, timers, is_last, .. } = timers;
        let environment = |message| Failure { fault: Fault::Environment, message };
        let Some(family) = stage.timer(&transform_id, &timer_family_id) else {
            return Err(environment(format!(
                "it sent timers of family {timer_family_id:?} of transform {transform_id:?}, which the stage does not have"
            )));
        };
        if !timers.is_empty() {
            if !self.open_timers[family] {
                return Err(environment(format!("it sent timers {} after the end of them", stage.timers[family])));
            }
            self.timers.push(TimerBatch { family, timers });
        }
        if is_last {
            self.open_timers[family] = false;
        }
        Ok(())
    }

    fn take(&mut self, stage: &Stage) -> Result<(Outputs, Vec<TimerBatch>), Failure> {
        let Some(mut outputs) = self.outputs.take() else {
            return Err(Failure { fault: Fault::Runner, message: "its outputs were taken twice".into() });
        };
        outputs.finish().map_err(|error| unusable(stage, &error))?;
        Ok((outputs, std::mem::take(&mut self.timers)))
    }

    fn incomplete(&self, stage: &Stage) -> Failure {
        let outputs = stage.outputs.iter().zip(&self.open).filter(|(_, open)| **open).map(|(name, _)| name.clone());
        let timers = stage.timers.iter().zip(&self.open_timers).filter(|(_, open)| **open);
        let missing: Vec<String> = outputs.chain(timers.map(|(timer, _)| format!("(timers) {timer}"))).collect();
        Failure {
            fault: Fault::Environment,
            message: format!(
                "it reported success but, {} s later, had not ended its outputs {}",
                OUTPUT_SILENCE.as_secs(),
                missing.join(", ")
            ),
        }
    }
}

/// Storage is ours; what cannot be read as elements is the harness's.
fn unusable(stage: &Stage, error: &OutputError) -> Failure {
    let fault = match error {
        OutputError::Storage(_) => Fault::Runner,
        _ => Fault::Environment,
    };
    Failure { fault, message: format!("the output of stage {} cannot be used: {error}", stage.name) }
}
