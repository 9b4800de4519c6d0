//! Agents: a machine's share in running jobs. An agent starts job processes when the supervisor says so, and tells when
//! they end. It knows nothing of pipelines.
//!
//! A job process is this same binary with a hidden subcommand. Its work, and the token that proves it, come over its
//! standard input and never over its command line, which other users of the machine can read. The pipe stays open:
//! when the agent is gone, however it went, the process reads the end of it and stops. A parent-death signal was
//! rejected: Linux sends it when the *thread* that started the child ends.
//!
//! That is not enough when the machine is cut off: the service then takes the agent and its processes for lost, while
//! user code there goes on. So each of them holds a lease: it asks the service for a sign of life on its connection, and
//! ends when there is none for that long, though TCP may take many minutes to say so.
//!
//! A started process is idle until it is told its work, so an agent may keep one in reserve: a job then does not wait
//! for a process to start.

mod leftovers;
mod machine;
mod spawn;

pub use machine::{Agent, AgentConfig, LEASE};
pub(crate) use spawn::EXITED;
pub use spawn::{Assignment, LOOPBACK, read_assignment};

use std::fmt;

use crate::job::{Generation, JobId};

/// Names a process of a job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProcessName {
    /// The job.
    pub job: JobId,
    /// Which attempt to run it.
    pub generation: Generation,
    /// Which of its processes.
    pub index: u32,
}

impl fmt::Display for ProcessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of job {}, generation {}", self.index, self.job, self.generation)
    }
}

/// What the supervisor says to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Start a process.
    Start {
        /// Its name.
        process: ProcessName,
        /// What proves that it belongs to its generation.
        token: String,
        /// How many processes the job has.
        processes: u32,
    },
    /// End a process at once, without asking it.
    Kill(ProcessName),
}

/// What an agent says to the supervisor: a process is gone. Exactly once for each that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub process: ProcessName,
    /// Exit status or signal, and the last that it wrote, for people.
    pub how: String,
}
