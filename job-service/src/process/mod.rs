//! A job process: one job's part of the data plane, and the servers of its harnesses.
//!
//! It is told its work over standard input, attaches to the service, gets the plan, and runs it. It has nothing that
//! outlives it, so it may end at any time: a panic anywhere in it aborts it, and the supervisor sees a process that is
//! gone. It stops by itself when its agent or the service is gone, or when the service is silent for as long as its lease.
//!
//! The dataflow runs on threads of its own and never on the runtime's, which must stay free to answer harnesses. After
//! a failure or a stop the dataflow's threads are left as they are: the process ends with them.

mod checkpoints;
mod cluster;
mod committed;
mod reports;
mod work;

pub(crate) use checkpoints::METRICS;
pub use cluster::{ClusterError, Member, Verdict};

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tonic::transport::Endpoint;

use crate::agent::{Assignment, read_assignment};
use crate::control::leased;

/// Why a job process did not do its work. Only its agent's log sees this; the job's owner is told over the service.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The runtime does not start.
    #[error("cannot start the process's runtime: {0}")]
    Runtime(#[source] std::io::Error),
    /// The address of the service makes no sense.
    #[error("cannot reach the job service: {0}")]
    Service(#[from] tonic::transport::Error),
    /// The agent sent no proper assignment.
    #[error("the agent sent no proper assignment: {0}")]
    Assignment(#[source] std::io::Error),
    /// The service did not let the process in, or is gone.
    #[error("the job service refused this process, or is gone: {0}")]
    Refused(#[source] Box<tonic::Status>),
    /// The service was there, and gives no sign of life any more.
    #[error("lost the job service, which may have given this process up: {}", .0.message())]
    Lost(Box<tonic::Status>),
}

/// Becomes true when the process's agent is gone.
type Orphaned = watch::Receiver<bool>;

/// Runs a job process: what the hidden subcommand does. `service` is the service's URL.
pub fn run(service: &str) -> Result<ExitCode, ProcessError> {
    abort_on_panic();
    let (assignment, orphaned) = listen_to_agent();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ProcessError::Runtime)?;
    let endpoint = Endpoint::from_shared(service.to_owned())?;
    let ended = runtime.block_on(async {
        // An agent that is gone before it had work for this process leaves nothing to do.
        let Ok(assignment) = assignment.await else { return Ok(ExitCode::SUCCESS) };
        let assignment = assignment.map_err(ProcessError::Assignment)?;
        let channel = leased(endpoint, Duration::from_millis(assignment.lease_millis)).connect_lazy();
        work::work(assignment, channel, orphaned).await
    });
    runtime.shutdown_background();
    ended
}

/// What panicked may have left other threads waiting for good, so nothing goes on.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// The assignment, and word of the agent's end, which is the end of the standard input.
fn listen_to_agent() -> (oneshot::Receiver<std::io::Result<Assignment>>, Orphaned) {
    let (assigned, assignment) = oneshot::channel();
    let (gone, orphaned) = watch::channel(false);
    thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        match read_assignment(&mut stdin) {
            Ok(None) => return,
            Ok(Some(assignment)) => drop(assigned.send(Ok(assignment))),
            Err(error) => drop(assigned.send(Err(error))),
        }
        // Nothing more is said; the copy returns at the end, or at an error, which is an end too.
        let _ = std::io::copy(&mut stdin, &mut std::io::sink());
        gone.send_replace(true);
    });
    (assignment, orphaned)
}
