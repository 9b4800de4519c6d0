//! One bundle from its lease to its outcome.

use std::fmt;
use std::sync::Arc;

use ferrobeam_proto::fn_execution::instruction_request::Request;
use ferrobeam_proto::fn_execution::instruction_response::Response;
use ferrobeam_proto::fn_execution::{
    DelayedBundleApplication, Elements, FinalizeBundleRequest, InstructionResponse, ProcessBundleRequest,
    ProcessBundleResponse, ProcessBundleSplitResponse,
};
use ferrobeam_runner::element::Outputs;
use ferrobeam_runner::executor::{
    BundleDone, BundleError, Fault, Finalizer, Residual, SplitSink, StateError, StateServer,
};
use tokio::sync::{mpsc, oneshot};

use super::Told;
use super::exchange::{Exchange, Failure};
use super::input::{Input, Push, Stopped};
use super::residual;
use super::split::{self, Splits};
use crate::environment::{Entered, Lease, Stay};
use crate::harness::Harness;
use crate::log::Severity;
use crate::monitoring;
use crate::shared::Shared;
use crate::stage::Stage;

/// Inputs up to this size travel in the control message, where the harness takes them there.
const EMBEDDED: usize = 64 << 10;

/// A bundle that was opened.
pub(super) struct Opened {
    pub(super) stage: Arc<Stage>,
    pub(super) partition: Option<usize>,
    pub(super) state: Arc<dyn StateServer>,
    pub(super) outputs: Outputs,
    pub(super) pushes: mpsc::UnboundedReceiver<Push>,
    pub(super) splits: Splits,
    pub(super) on_split: SplitSink,
}

/// A bundle that a harness was asked to process.
struct Asked {
    shared: Arc<Shared>,
    stage: Arc<Stage>,
    lease: Lease,
    stay: Option<Stay>,
    instruction: String,
    exchange: Arc<Exchange>,
    input: Input,
    splits: Splits,
    on_split: SplitSink,
    response: oneshot::Receiver<InstructionResponse>,
    /// The harness has the end of the input.
    input_ended: bool,
    /// The harness responded.
    responded: bool,
}

impl Opened {
    pub(super) async fn run(self, shared: Arc<Shared>, told: Told) {
        let outcome = match self.ask(&shared).await {
            Ok(mut asked) => {
                let outcome = asked.finish().await;
                asked.release();
                outcome
            }
            Err(error) => Err(error),
        };
        told.tell(outcome);
    }

    /// Leases a harness and asks it to process the bundle.
    async fn ask(self, shared: &Arc<Shared>) -> Result<Asked, BundleError> {
        let Opened { stage, partition, state, outputs, pushes, mut splits, on_split } = self;
        let Some(pool) = shared.pools.get(&stage.environment) else {
            return Err(failed(&stage, Fault::Runner, false, "its environment is not in the plan".into()));
        };
        let part = partition.filter(|_| stage.keeps_state).map(|partition| (stage.id, partition));
        let home = part.and_then(|part| shared.residences.of(part));
        let lease = pool.lease(home.as_ref()).await.map_err(|error| error.to_bundle_error())?;
        let harness = lease.harness().clone();
        let instruction = harness.next_instruction();
        let mut input = Input::new(instruction.clone(), stage.clone(), pushes);
        let embed = harness.takes_embedded_elements.then_some(EMBEDDED);
        input.begin(embed).await.map_err(|stopped| not_fed(&stage, &stopped))?;
        let elements = embed.and_then(|limit| input.embeddable(limit));
        let input_ended = elements.is_some();

        let entered = part.map(|part| shared.residences.enter(part, &harness));
        let (stay, cache) = entered.map(|Entered { stay, cache }| (stay, cache)).unzip();
        let cache_tokens = stage.cache_tokens(stay.map(|stay| stay.token), &state.side_input_versions());
        let exchange = Arc::new(Exchange::new(stage.clone(), state, outputs, cache.unwrap_or_default()));
        harness.open(instruction.clone(), exchange.clone());
        let request = ProcessBundleRequest {
            process_bundle_descriptor_id: stage.descriptor_id.clone(),
            cache_tokens,
            elements,
            ..Default::default()
        };
        let response = harness.instruct(instruction.clone(), Request::ProcessBundle(request));
        splits.begin();
        Ok(Asked {
            shared: shared.clone(),
            stage,
            lease,
            stay,
            instruction,
            exchange,
            input,
            splits,
            on_split,
            response,
            input_ended,
            responded: false,
        })
    }
}

impl Asked {
    fn harness(&self) -> &Arc<Harness> {
        self.lease.harness()
    }

    async fn finish(&mut self) -> Result<BundleDone, BundleError> {
        let response = self.respond().await?;
        let response = self.accept(response)?;
        let (outputs, timers) = tokio::select! {
            outputs = self.exchange.outputs() => outputs.map_err(|failure| self.unusable(failure))?,
            reason = self.harness().over() => return Err(self.lost(&reason)),
        };
        let metrics = monitoring::resolve(self.harness(), response.monitoring_infos, response.monitoring_data)
            .await
            .map_err(|message| failed(&self.stage, Fault::Environment, true, message))?;
        let residuals = self.residuals(response.residual_roots).await?;
        let requires_finalization = response.requires_finalization.then(|| {
            let (shared, harness) = (self.shared.clone(), self.harness().clone());
            Arc::new(Callback { shared, harness, instruction: self.instruction.clone() }) as Arc<dyn Finalizer>
        });
        self.harness().prove();
        if let Some(stay) = self.stay {
            let cache = std::mem::take(&mut *self.exchange.cache());
            self.shared.residences.leave(stay, cache);
        }
        Ok(BundleDone { outputs, residuals, timers, metrics, requires_finalization })
    }

    /// Feeds the input, and tells of splits, until the harness responded.
    async fn respond(&mut self) -> Result<InstructionResponse, BundleError> {
        let harness = self.lease.harness().clone();
        loop {
            let input = &mut self.input;
            let feed = async {
                let stream = harness.data().await;
                input.feed(&stream).await
            };
            tokio::select! {
                response = &mut self.response => {
                    self.responded = true;
                    return match response {
                        Ok(response) if self.input_ended || !response.error.is_empty() => Ok(response),
                        Ok(_) => Err(self.nonsense("reported success before the end of its input")),
                        Err(_) => Err(self.lost(&harness.over().await)),
                    };
                }
                failure = self.exchange.failed() => return Err(self.unusable(failure)),
                split = self.splits.next(&harness, &self.instruction, &self.stage) => {
                    split.and_then(|split| self.tell_split(split)).map_err(|what| self.nonsense(&what))?;
                }
                fed = feed, if !self.input_ended => match fed {
                    Ok(()) => self.input_ended = true,
                    Err(Stopped::StreamEnded) => {
                        harness.disconnected("its data stream ended while a bundle was being sent");
                        return Err(self.lost(&harness.over().await));
                    }
                    Err(stopped) => return Err(not_fed(&self.stage, &stopped)),
                },
            }
        }
    }

    fn tell_split(&self, split: ProcessBundleSplitResponse) -> Result<(), String> {
        if let Some(split) = split::from_proto(split, &self.stage, self.input.kept())? {
            (self.on_split)(split);
        }
        Ok(())
    }

    /// What the harness says of the bundle.
    fn accept(&self, response: InstructionResponse) -> Result<ProcessBundleResponse, BundleError> {
        if !response.error.is_empty() {
            return Err(self.failed_by_sdk(response.error));
        }
        match response.response {
            Some(Response::ProcessBundle(mut response)) => {
                if let Some(elements) = response.elements.take() {
                    self.exchange.accept_embedded(elements);
                }
                Ok(response)
            }
            _ => Err(self.nonsense("was answered with something else")),
        }
    }

    /// The SDK's error. Ours, if it only passes on that we could not answer a state request.
    fn failed_by_sdk(&self, trace: String) -> BundleError {
        let (fault, retry, cause) = match self.exchange.state_failure() {
            None => (Fault::User, true, String::new()),
            Some(error @ StateError::Storage(_)) => (Fault::Runner, true, format!("\ncaused by: {error}")),
            Some(error) => (Fault::Runner, false, format!("\ncaused by: {error}")),
        };
        let trace = trace.trim_end();
        let message = format!("{trace}\n{cause}\nin stage {}, on {}", self.stage.name, self.harness());
        BundleError { fault, retry, message, environment: Some(self.stage.environment) }
    }

    fn unusable(&self, failure: Failure) -> BundleError {
        let message = format!("{}, in bundle {}: {}", self.harness(), self.instruction, failure.message);
        failed(&self.stage, failure.fault, true, message)
    }

    fn lost(&self, reason: &str) -> BundleError {
        let message = format!("{} was lost while it ran a bundle: {reason}", self.harness());
        failed(&self.stage, Fault::Environment, true, message)
    }

    /// The harness cannot be relied on any more: it is replaced.
    fn nonsense(&self, what: &str) -> BundleError {
        let message = format!("bundle {} {what}", self.instruction);
        self.harness().disconnected(message.as_str());
        self.lost(&message)
    }

    /// What the bundle left by its own will. A split that it was asked for before is told first.
    async fn residuals(&mut self, roots: Vec<DelayedBundleApplication>) -> Result<Vec<Residual>, BundleError> {
        let harness = self.harness().clone();
        let split = tokio::select! {
            answer = self.splits.take_answer(&self.stage) => answer,
            reason = harness.over() => return Err(self.lost(&reason)),
        };
        let told = split.and_then(|split| split.map_or(Ok(()), |split| self.tell_split(split)));
        told.map_err(|what| self.nonsense(&what))?;
        let roots = roots.into_iter().map(|root| {
            residual::from_proto(root, &self.stage, self.input.kept())
                .map_err(|what| failed(&self.stage, Fault::Environment, true, format!("{} {what}", self.harness())))
        });
        roots.collect()
    }

    /// Gives the harness back: at once if it is done with the bundle, otherwise once it is.
    fn release(self) {
        let harness = self.lease.harness().clone();
        if self.responded {
            harness.forget(&self.instruction);
            return;
        }
        let Asked { shared, lease, instruction, input, response, input_ended, .. } = self;
        harness.forget(&instruction);
        shared.tasks.spawn(async move {
            let end: Elements = input.end();
            let finished = async {
                if !input_ended {
                    let stream = harness.data().await;
                    // If the stream ended, so does the harness.
                    let _ = stream.send(end).await;
                }
                let _ = response.await;
            };
            tokio::select! {
                () = finished => {}
                _ = harness.over() => {}
            }
            drop(lease);
        });
    }
}

fn failed(stage: &Stage, fault: Fault, retry: bool, message: String) -> BundleError {
    let message = format!("stage {}: {message}", stage.name);
    BundleError { fault, retry, message, environment: Some(stage.environment) }
}

/// The input ended before its end.
fn not_fed(stage: &Stage, stopped: &Stopped) -> BundleError {
    failed(stage, Fault::Runner, false, stopped.to_string())
}

/// The SDK's callbacks of a bundle that asked to be finalized.
struct Callback {
    shared: Arc<Shared>,
    harness: Arc<Harness>,
    instruction: String,
}

impl Finalizer for Callback {
    fn finalize(&self) {
        let request = Request::FinalizeBundle(FinalizeBundleRequest { instruction_id: self.instruction.clone() });
        let response = self.harness.instruct(self.harness.next_instruction(), request);
        let (shared, harness) = (self.shared.clone(), self.harness.clone());
        self.shared.finalizing.spawn(async move {
            // The bundle has succeeded: what its callbacks do wrong can only be told.
            if let Ok(response) = response.await
                && !response.error.is_empty()
            {
                let message = format!("finalizing a bundle failed: {}", response.error);
                shared.config.note(Severity::Warn, &harness.environment_name, &harness.id, message);
            }
        });
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Callback").field(&self.instruction).finish()
    }
}
