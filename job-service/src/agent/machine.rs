//! An agent at work.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::leftovers;
use super::spawn::{Assignment, Process};
use super::{Ended, Order, ProcessName};

/// What an agent is told once.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The binary whose hidden subcommand is a job process.
    pub program: PathBuf,
    /// Where job processes find the service, as a URL.
    pub service: String,
    /// Where other machines reach job processes of this one.
    pub host: String,
    /// An existing folder; each process has one of its own in there, removed after its end.
    pub work_root: PathBuf,
    /// How many idle processes to keep for jobs to come.
    pub spares: usize,
    /// How long an agent or a process goes on without a sign of the service.
    pub lease: Duration,
}

/// The lease of who is not told another. Less than it takes the service to notice that an agent is silent, so that a
/// process that cannot be reached has ended before another takes its place.
pub const LEASE: Duration = Duration::from_secs(40);

impl AgentConfig {
    /// The binary that is running, even when its file has been replaced since.
    pub fn this_program() -> PathBuf {
        let link = PathBuf::from("/proc/self/exe");
        if link.exists() { link } else { std::env::current_exe().unwrap_or_else(|_| "ferrobeam".into()) }
    }
}

/// Why a process is killed.
#[derive(Debug)]
enum Why {
    Ordered,
    Leaving,
}

/// Runs orders until there are no more, then ends every process. See the module.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    spares: Vec<Process>,
    running: HashMap<ProcessName, oneshot::Sender<Why>>,
    watched: JoinSet<ProcessName>,
}

impl Agent {
    /// An agent without work.
    pub fn new(config: AgentConfig) -> Agent {
        Agent { config, spares: Vec::new(), running: HashMap::new(), watched: JoinSet::new() }
    }

    /// Takes orders until their sender is gone, and reports the end of each process.
    pub async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>, ended: mpsc::UnboundedSender<Ended>) {
        self.refill();
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    None => break,
                    Some(Order::Start { process, token, processes }) => {
                        self.start(process, token, processes, &ended).await;
                    }
                    Some(Order::Kill(process)) => {
                        if let Some(kill) = self.running.remove(&process) {
                            let _ = kill.send(Why::Ordered);
                        }
                    }
                },
                Some(finished) = self.watched.join_next() => {
                    if let Ok(process) = finished {
                        self.running.remove(&process);
                    }
                }
            }
        }
        for (_, kill) in self.running.drain() {
            let _ = kill.send(Why::Leaving);
        }
        self.spares.clear();
        while self.watched.join_next().await.is_some() {}
    }

    /// A spare that cannot be started is no loss: the next job starts its own, or says why it cannot.
    fn refill(&mut self) {
        self.spares.retain_mut(Process::is_alive);
        while self.spares.len() < self.config.spares {
            match Process::start(&self.config) {
                Ok(process) => self.spares.push(process),
                Err(error) => {
                    tracing::warn!(%error, "cannot start a job process in advance");
                    return;
                }
            }
        }
    }

    async fn start(&mut self, name: ProcessName, token: String, processes: u32, ended: &mpsc::UnboundedSender<Ended>) {
        let folder = format!("{}-{}-{}", name.job, name.generation, name.index);
        let work_dir = self.config.work_root.join(folder);
        let assignment = Assignment {
            job: name.job.to_string(),
            generation: name.generation.0,
            index: name.index,
            processes,
            token,
            work_dir: work_dir.clone(),
            host: self.config.host.clone(),
            lease_millis: u64::try_from(self.config.lease.as_millis()).unwrap_or(u64::MAX),
        };
        let started = self.assign(&assignment).await;
        let mut process = match started {
            Ok(process) => process,
            Err(error) => {
                let _ = std::fs::remove_dir_all(&work_dir);
                let how = format!("cannot be started from {}: {error}", self.config.program.display());
                let _ = ended.send(Ended { process: name, how });
                return;
            }
        };
        let (kill, mut killed) = oneshot::channel();
        self.running.insert(name.clone(), kill);
        let ended = ended.clone();
        self.watched.spawn(async move {
            let (how, by_itself) = tokio::select! {
                ended = process.ended() => ended,
                // A sender that is dropped kills as well: nobody is left who could.
                why = &mut killed => {
                    process.kill();
                    let (how, by_itself) = process.ended().await;
                    match why {
                        Ok(Why::Ordered) => (how, by_itself),
                        Ok(Why::Leaving) | Err(_) => ("was ended by its agent, which is gone".to_owned(), by_itself),
                    }
                }
            };
            if !by_itself {
                let folder = work_dir.clone();
                // Fails only when the runtime ends.
                let _ = tokio::task::spawn_blocking(move || leftovers::end(&folder)).await;
            }
            if let Err(error) = tokio::fs::remove_dir_all(&work_dir).await
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, folder = %work_dir.display(), "cannot remove the folder of a job process");
            }
            let _ = ended.send(Ended { process: name.clone(), how });
            name
        });
        self.refill();
    }

    async fn assign(&mut self, assignment: &Assignment) -> io::Result<Process> {
        std::fs::create_dir_all(&assignment.work_dir)?;
        while let Some(mut spare) = self.spares.pop() {
            if spare.is_alive() && spare.assign(assignment).await.is_ok() {
                return Ok(spare);
            }
        }
        let mut process = Process::start(&self.config)?;
        process.assign(assignment).await?;
        Ok(process)
    }
}
