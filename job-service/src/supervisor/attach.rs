//! How job processes come to the supervisor, and which are let in.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::Supervisor;
use super::attempt::Signal;
use super::checkpoints::Answer;
use crate::agent::ProcessName;
use crate::checkpoint::{Epoch, Part};
use crate::control::{part, v1};
use crate::job::{Generation, Job, JobMetrics, Message, same_secret};

/// A job whose processes may attach.
#[derive(Debug)]
pub(super) struct Live {
    job: Arc<Job>,
    generation: Generation,
    token: String,
    processes: usize,
    signals: mpsc::UnboundedSender<Signal>,
}

impl Live {
    pub(super) fn new(
        job: Arc<Job>,
        generation: Generation,
        token: String,
        processes: usize,
        signals: mpsc::UnboundedSender<Signal>,
    ) -> Live {
        Live { job, generation, token, processes, signals }
    }

    /// Passes the wish on to the job's task; false if that is gone.
    pub(super) fn ask_for_savepoint(&self, answer: Answer, stop: bool) -> bool {
        self.signals.send(Signal::SavepointAsked { answer, stop }).is_ok()
    }
}

/// Why a process is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachRefused {
    /// The job is over or never was, or the token is not its token.
    #[error("{0} is not expected: its job is over, or its token is wrong")]
    Unexpected(ProcessName),
    /// It belongs to an attempt that was given up.
    #[error("{process} is stale: the job is at generation {present}")]
    Stale {
        /// The process.
        process: ProcessName,
        /// The present generation.
        present: Generation,
    },
    /// The job has not that many processes.
    #[error("{0} is one more than the job has")]
    Index(ProcessName),
}

/// A process that was let in. What it reports about itself goes to the job, which listens to the present generation only;
/// what moves the job goes to the task of its attempt, and to nobody when that is over.
#[derive(Debug)]
pub struct Attachment {
    generation: Generation,
    index: u32,
    job: Arc<Job>,
    signals: mpsc::UnboundedSender<Signal>,
}

impl Supervisor {
    /// Lets a process in, and returns the orders for it.
    pub fn attach(
        &self,
        process: ProcessName,
        token: &str,
        cluster_address: String,
    ) -> Result<(Attachment, mpsc::UnboundedReceiver<v1::ProcessOrder>), AttachRefused> {
        let live = self.lock_live();
        let Some(live) = live.get(&process.job) else { return Err(AttachRefused::Unexpected(process)) };
        if process.generation < live.generation {
            return Err(AttachRefused::Stale { process, present: live.generation });
        }
        let known = same_secret(live.token.as_bytes(), token.as_bytes());
        if process.generation != live.generation || !known {
            return Err(AttachRefused::Unexpected(process));
        }
        if process.index as usize >= live.processes {
            return Err(AttachRefused::Index(process));
        }
        // Bounded by what there is to say: a deployment, a drain, a stop, and two orders for the one checkpoint under way.
        let (orders, taken) = mpsc::unbounded_channel();
        let attachment = Attachment {
            generation: live.generation,
            index: process.index,
            job: Arc::clone(&live.job),
            signals: live.signals.clone(),
        };
        attachment.signal(Signal::Attached { index: process.index, cluster_address, orders });
        Ok((attachment, taken))
    }
}

impl Attachment {
    /// Takes a report.
    pub fn report(&self, report: v1::process_report::Report) {
        use v1::process_report::Report;
        let index = self.index;
        match report {
            // Said twice, it says nothing.
            Report::Hello(_) => {}
            Report::Started(_) => self.signal(Signal::Started { index }),
            Report::Message(message) => {
                self.job.say_for(self.generation, Message::from(message));
            }
            Report::Metrics(metrics) => {
                let v1::Metrics { committed, running, bundles } = metrics;
                self.job.set_metrics(self.generation, index, JobMetrics { committed, running, bundles });
            }
            Report::Completed(_) => self.signal(Signal::Completed { index }),
            Report::Saved(v1::Saved { epoch, parts }) => {
                let epoch = Epoch(epoch);
                let parts: Result<Vec<Part>, _> = parts.into_iter().map(part).collect();
                self.signal(match parts {
                    Ok(parts) => Signal::Saved { index, epoch, parts },
                    Err(why) => Signal::SaveFailed { index, epoch, why: why.to_string() },
                });
            }
            Report::SaveFailed(v1::SaveFailed { epoch, why }) => {
                self.signal(Signal::SaveFailed { index, epoch: Epoch(epoch), why });
            }
            Report::Failed(v1::Failed { message, lost_peer, may_pass, damaged_checkpoint, needs_owner }) => {
                let damaged_checkpoint = (damaged_checkpoint > 0).then_some(Epoch(damaged_checkpoint));
                self.signal(Signal::Failed { index, message, lost_peer, may_pass, damaged_checkpoint, needs_owner })
            }
        }
    }

    /// The attempt's task is gone when it is over, and nobody cares any more.
    fn signal(&self, signal: Signal) {
        let _ = self.signals.send(signal);
    }
}
