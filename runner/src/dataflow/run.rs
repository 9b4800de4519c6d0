//! Starting the workers of a job in one process, and learning how it ended.

use std::io;

use crossbeam_channel::Sender;
use timely::WorkerConfig;
use timely::communication::initialize_from;
use timely::worker::Worker;

use super::build::{Shared, build};
use super::cluster::{self, Topology};
use super::{Job, JobFailure, fit};
use crate::element::ElementError;
use crate::executor::Fault;
use crate::state::StoreError;

/// How one worker thread ended, or that the job cannot go on.
pub(crate) enum Report {
    Finished,
    Failed(JobFailure),
}

/// What operators of a worker tell the job.
pub(crate) struct Reporter {
    reports: Sender<Report>,
    job: Job,
}

impl Reporter {
    pub(crate) fn new(reports: Sender<Report>, job: Job) -> Reporter {
        Reporter { reports, job }
    }

    /// The job cannot go on. The first failure is the job's.
    pub(crate) fn fail(&self, failure: JobFailure) {
        // Fails only when `run` has returned with an earlier failure.
        let _ = self.reports.send(Report::Failed(failure));
    }

    /// Spilled data could not be written or read.
    pub(crate) fn storage(&self, operator: &str, error: &io::Error) {
        let place = self.job.budget.spill_dir().display();
        self.fail(JobFailure::runner(format!("{operator}: data kept on disk under {place} failed: {error}")));
    }

    /// Keyed state could not be written or read.
    pub(crate) fn state(&self, operator: &str, error: &StoreError) {
        self.fail(JobFailure::runner(format!("{operator}: {error}")));
    }

    /// Data from a harness is not what its coder says.
    pub(crate) fn malformed(&self, operator: &str, error: &ElementError) {
        self.fail(JobFailure {
            fault: Fault::Environment,
            message: format!("{operator}: the elements that reached it do not match their coder: {error}"),
            environment: None,
        });
    }

    /// See [`super::JobObserver::warning`].
    pub(crate) fn warning(&self, message: String) {
        self.job.observer.warning(message);
    }
}

/// Runs this process's part of `job` and blocks until the whole job is complete or has failed.
///
/// After a failure the worker threads are left parked: end the process.
pub fn run(job: Job, topology: Topology) -> Result<(), JobFailure> {
    let workers = topology.workers;
    let shape = (topology.processes, workers);
    let (builders, network) = cluster::allocators(topology, &job.budget)
        .map_err(|error| JobFailure::runner(format!("connecting the workers of the job: {error}")))?;
    if let Some(restore) = job.checkpoints.restore() {
        fit::compare(&job.plan, restore, job.settings.allow_non_restored_state).map_err(|error| JobFailure {
            fault: Fault::User,
            message: error.to_string(),
            environment: None,
        })?;
    }
    let shared = Shared::new(&job, shape).map_err(|error| JobFailure::runner(error.to_string()))?;
    let (reports, inbox) = crossbeam_channel::unbounded();
    let checkpoints = job.checkpoints.clone();
    let guards = initialize_from(builders, network, move |allocator| {
        let ending = Ending { reports: reports.clone() };
        let mut worker = Worker::new(WorkerConfig::default(), allocator, Some(std::time::Instant::now()));
        build(&mut worker, &job, &shared, shape, Reporter::new(reports.clone(), job.clone()));
        while worker.has_dataflows() {
            worker.step_or_park(None);
        }
        drop(ending);
    })
    .map_err(|error| JobFailure::runner(format!("starting the workers of the job: {error}")))?;
    let mut left = workers;
    while left > 0 {
        match inbox.recv() {
            Ok(Report::Finished) => left -= 1,
            Ok(Report::Failed(failure)) => {
                // Joining would wait for workers that are parked for good.
                std::mem::forget(guards);
                return Err(failure);
            }
            // Every worker has an `Ending`, so the channel outlives the count.
            Err(_) => break,
        }
    }
    for ended in guards.join() {
        ended.map_err(|panic| JobFailure::runner(format!("a worker thread panicked: {panic}")))?;
    }
    // Not before all workers of all processes have come to the end: their frontiers say so.
    checkpoints.job_is_over();
    Ok(())
}

/// Reports the end of a worker thread, also when it panics.
struct Ending {
    reports: Sender<Report>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let report = if std::thread::panicking() {
            Report::Failed(JobFailure::runner(
                "a worker thread of the runner panicked; its message is in the log".into(),
            ))
        } else {
            Report::Finished
        };
        // Fails only when `run` has returned with a failure.
        let _ = self.reports.send(report);
    }
}
