//! Bundles: the [`StageExecutor`] over harnesses.
//!
//! Opening a bundle makes a task that leases a harness, sends the `ProcessBundleRequest`, and feeds input into the data
//! stream as it is pushed. A bundle is done when the response *and* the end of every output came, in whichever order:
//! they travel on different streams. If it was asked to split, the answer must have come, too.
//!
//! What can go wrong: the SDK reports an error (the user's fault); the harness is over before the bundle is (the
//! environment's); it sends what cannot be understood (the environment's); a disk fails (ours). The Fn API cannot call
//! off a bundle, so one that fails or is abandoned before its input ended is still ended at the harness, in the
//! background, and its outcome ignored.

mod count;
mod exchange;
mod in_order;
mod input;
mod residual;
mod run;
mod split;

use std::sync::Arc;

use bytes::Bytes;
use ferrobeam_runner::element::Batch;
use ferrobeam_runner::executor::{Bundle, BundleDone, BundleError, Completion, Fault, OpenBundle, StageExecutor};
use ferrobeam_runner::plan::StageId;
use tokio::sync::mpsc;

pub(crate) use count::entries as count_entries;
pub(crate) use exchange::{Exchange, Failure};

use crate::shared::Shared;
use input::Push;
use split::{Splits, Wish};

/// Runs bundles on the harnesses of a bridge.
pub(crate) struct Executor {
    shared: Arc<Shared>,
}

impl Executor {
    pub(crate) fn new(shared: Arc<Shared>) -> Executor {
        Executor { shared }
    }
}

impl StageExecutor for Executor {
    fn open(&self, request: OpenBundle) -> Box<dyn Bundle> {
        let (pushes, receiver) = mpsc::unbounded_channel();
        let (wishes, wished) = mpsc::unbounded_channel();
        let told = Told(Some(request.completion));
        match self.shared.stage(request.stage) {
            Some(stage) => {
                let splittable = request.partition.is_none();
                let bundle = run::Opened {
                    stage,
                    partition: request.partition,
                    state: request.state,
                    outputs: request.outputs,
                    pushes: receiver,
                    splits: Splits::new(wished),
                    on_split: request.splits,
                };
                self.shared.tasks.spawn(bundle.run(self.shared.clone(), told));
                return Box::new(Open { pushes, wishes: splittable.then_some(wishes), pushed: 0 });
            }
            None => told.tell(Err(BundleError {
                fault: Fault::Runner,
                retry: false,
                message: format!("the plan has no stage {}", request.stage.0),
                environment: None,
            })),
        }
        Box::new(Open { pushes, wishes: None, pushed: 0 })
    }

    fn bundles_in_flight(&self, stage: StageId) -> usize {
        let Some(stage) = self.shared.stage(stage) else { return 1 };
        self.shared.pools.get(&stage.environment).map_or(1, |pool| pool.bundles_in_flight(&self.shared))
    }
}

struct Open {
    pushes: mpsc::UnboundedSender<Push>,
    /// For a bundle that can be split: where there are keys, the order of their elements stays.
    wishes: Option<mpsc::UnboundedSender<Wish>>,
    /// Elements so far.
    pushed: u64,
}

impl Bundle for Open {
    fn push(&mut self, batch: Batch) {
        self.pushed += batch.len() as u64;
        // A bundle that already failed takes no more input, and its completion has said so.
        let _ = self.pushes.send(Push::Batch(batch));
    }

    fn push_timers(&mut self, family: usize, timers: Bytes) {
        let _ = self.pushes.send(Push::Timers(family, timers));
    }

    fn split(&mut self, fraction: f64) {
        if let Some(wishes) = &self.wishes {
            let _ = wishes.send(Wish { fraction, pushed: self.pushed });
        }
    }

    fn close(&mut self) {
        let _ = self.pushes.send(Push::Close);
    }
}

/// A completion that is told exactly once, whatever becomes of the task that holds it.
struct Told(Option<Completion>);

impl Told {
    fn tell(mut self, outcome: Result<BundleDone, BundleError>) {
        if let Some(completion) = self.0.take() {
            completion(outcome);
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(completion) = self.0.take() {
            completion(Err(BundleError {
                fault: Fault::Runner,
                retry: false,
                message: "the bundle was given up because the job is shutting down".into(),
                environment: None,
            }));
        }
    }
}
