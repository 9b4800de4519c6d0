//! The plan as Timely operators: the only module that knows how work moves.
//!
//! [`run`] builds the same operators on every worker thread of every process of a job and steps them until the dataflow
//! is complete. Operators never block: user code runs behind [`crate::executor::StageExecutor`], which wakes an operator
//! through its activator; what an operator cannot hand on is queued, in memory up to the job's budget and then on disk.
//!
//! Failure model. An operator that cannot go on reports a [`JobFailure`], keeps its capabilities, and does nothing more:
//! no frontier moves past it, so no other worker takes its missing output for the end of input. [`run`] then returns the
//! failure while worker threads are still parked; the job process is expected to end. Stopping workers one by one was
//! rejected: frontiers would advance before peers know, and a partial result would leave the job.

mod alarm;
mod backlog_exchange;
mod border_wait;
mod build;
mod bundle_state;
mod bundle_times;
mod bundles;
mod carried;
mod cluster;
mod drain;
mod edge;
mod emission;
mod epochs;
mod fit;
mod flow;
mod gist;
mod group;
mod impulse;
mod kafka;
mod keyed;
mod links;
mod merge;
mod queue;
mod quiescence;
mod remainder;
mod restore;
mod route;
mod run;
mod saved_names;
mod side_inputs;
mod stable;
mod stage;
mod test_stream;
mod truncate;
mod windowed;

#[cfg(test)]
mod proof;
#[cfg(test)]
mod proof_border;
#[cfg(test)]
mod proof_flow;
#[cfg(test)]
mod proof_restore;
#[cfg(test)]
mod wide;

use std::sync::Arc;
use std::time::Duration;

use crate::checkpoint::Checkpoints;
use crate::executor::{Fault, StageExecutor};
use crate::kafka::KafkaInDoubt;
use crate::leaving::Leaving;
use crate::memory::Budget;
use crate::metrics::Metric;
use crate::plan::{EnvironmentId, Plan, StageId};
use crate::state::StoreKind;

pub use cluster::Topology;
pub use drain::Drain;
pub use fit::{Fit, compare};
pub use run::run;
pub use test_stream::{TestEventService, TestEventSink};

/// A job as one process runs it.
#[derive(Clone)]
pub struct Job {
    /// What to run; the same on every process of the job.
    pub plan: Arc<Plan>,
    /// Runs the plan's stages.
    pub executor: Arc<dyn StageExecutor>,
    /// The memory for user data in this process.
    pub budget: Budget,
    /// Told what happens.
    pub observer: Arc<dyn JobObserver>,
    /// Limits.
    pub settings: Settings,
    /// Asks the job to drain.
    pub drain: Drain,
    /// Asks its sinks to give up what they hold open, since this process is about to end.
    pub leaving: Leaving,
    /// Asks for checkpoints, and has what the job starts from.
    pub checkpoints: Checkpoints,
    /// Reaches the services that have a TestStream's events.
    pub test_events: Arc<dyn TestEventService>,
}

impl Job {
    /// Whether its operators step from epoch to epoch.
    pub(crate) fn has_epochs(&self) -> bool {
        self.plan.is_test_driven() || self.checkpoints.are_on()
    }
}

/// Limits on bundles and retries.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Most elements in a bundle (at least 1).
    pub max_bundle_elements: usize,
    /// Most encoded input bytes in a bundle; one larger element is a bundle of its own.
    pub max_bundle_bytes: usize,
    /// How often a failed bundle is run again before the job fails.
    pub retries: u32,
    /// The wait before the first of those; doubled each time.
    pub retry_delay: Duration,
    /// Where keyed state is kept.
    pub store: StoreKind,
    /// How long a bundle of a splittable stage may hold on to its output before it is asked to hand back the rest.
    pub max_bundle_time: Duration,
    /// How long a checkpoint waits for a stage to work off the input of before its border. After that what has not been
    /// begun goes over the border with it, and is saved; and so does what has, of a stage without keys.
    pub carry_over_after: Duration,
    /// Saved cells of state that no transform has any more are dropped, instead of refused.
    pub allow_non_restored_state: bool,
    /// The job's id, which no other job has: what it leaves in Kafka bears it.
    pub job: String,
    /// Kafka sinks of a job with checkpoints write in transactions.
    pub kafka_exactly_once: bool,
    /// What a Kafka sink does with records of which nobody knows whether they were written.
    pub kafka_in_doubt: KafkaInDoubt,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            max_bundle_elements: 100_000,
            max_bundle_bytes: 8 << 20,
            retries: 3,
            retry_delay: Duration::from_millis(50),
            store: StoreKind::default(),
            max_bundle_time: Duration::from_millis(100),
            carry_over_after: Duration::from_secs(1),
            allow_non_restored_state: false,
            job: "job".to_owned(),
            kafka_exactly_once: true,
            kafka_in_doubt: KafkaInDoubt::default(),
        }
    }
}

/// Told what a running job does. Called from worker threads; must not block.
pub trait JobObserver: Send + Sync {
    /// A bundle of `stage` succeeded in an epoch, with these metrics.
    fn committed(&self, stage: StageId, epoch: u64, metrics: Vec<Metric>);
    /// The runner itself counted something in an epoch, such as elements that came too late.
    fn counted(&self, epoch: u64, metric: Metric);
    /// Something the job's owner should know, though the job goes on.
    fn warning(&self, message: String);
}

/// Why a job failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct JobFailure {
    /// Whose fault it is.
    pub fault: Fault,
    /// For the user; a user's own stack trace comes first.
    pub message: String,
    /// The environment concerned, if one is.
    pub environment: Option<EnvironmentId>,
}

impl JobFailure {
    /// A failure of the runner itself or of the machine, such as a full disk.
    pub(crate) fn runner(message: String) -> JobFailure {
        JobFailure { fault: Fault::Runner, message, environment: None }
    }
}
