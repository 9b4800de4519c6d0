//! One attempt to run a job: its processes from their start to their end.
//!
//! An attempt that is not the job's last returns when every process of it has ended: two attempts never run side by side.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ferrobeam_runner::state::StoreKind;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::SupervisorConfig;
use super::agents::{Agents, Place};
use super::checkpoints::{Answer, Checkpoints, Todo};
use super::coordinator::Event;
use crate::agent::{EXITED, ProcessName};
use crate::checkpoint::{Epoch, Part};
use crate::control::v1;
use crate::control::v1::process_order::Order;
use crate::job::{Generation, Importance, Job, Message, State};
use crate::options::JobOptions;

/// What moves a job.
#[derive(Debug)]
pub(super) enum Signal {
    Attached {
        index: u32,
        cluster_address: String,
        orders: mpsc::UnboundedSender<v1::ProcessOrder>,
    },
    Started {
        index: u32,
    },
    Completed {
        index: u32,
    },
    Failed {
        index: u32,
        message: String,
        lost_peer: bool,
        /// Neither the pipeline nor its user code is to blame.
        may_pass: bool,
        /// The checkpoint that the attempt began from, where a file of it is damaged.
        damaged_checkpoint: Option<Epoch>,
        /// The job's owner has to mend it: the checkpoints stay.
        needs_owner: bool,
    },
    Saved {
        index: u32,
        epoch: Epoch,
        parts: Vec<Part>,
    },
    SaveFailed {
        index: u32,
        epoch: Epoch,
        why: String,
    },
    /// Somebody wants a savepoint.
    SavepointAsked {
        answer: Answer,
        /// The job is to stop with it.
        stop: bool,
    },
    /// The process is gone. That its connection is gone says less: one that lost the service ends by itself.
    Ended {
        index: u32,
        how: String,
    },
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    /// The job cannot go on, and would not if it was run again.
    Failed(String),
    /// A process of the job is lost.
    Lost(String),
    Cancelled,
}

impl Outcome {
    /// Where a job ends like this that nobody has asked for anything else.
    pub(super) fn state(&self) -> State {
        match self {
            Outcome::Done => State::Done,
            Outcome::Cancelled => State::Cancelled,
            Outcome::Failed(_) | Outcome::Lost(_) => State::Failed,
        }
    }
}

/// All that the processes are sent but what differs from one attempt to the next.
#[derive(Debug)]
pub(super) struct Deployable(v1::Deployment);

impl Deployable {
    pub(super) fn new(
        job: &Job,
        options: &JobOptions,
        plan: Vec<u8>,
        workers: usize,
        memory: u64,
        store: StoreKind,
    ) -> Deployable {
        let submission = job.submission();
        Deployable(v1::Deployment {
            job_id: job.id().to_string(),
            job_name: submission.name.clone(),
            pipeline_options: Some(submission.options.clone()),
            plan: plan.into(),
            cluster_addresses: Vec::new(),
            workers: u32::try_from(workers).unwrap_or(u32::MAX),
            memory,
            retrieval_token: String::new(),
            limits: Some(v1::Limits {
                max_bundle_elements: options.max_bundle_size.map_or(0, |n| n.get() as u64),
                bundle_attempts: options.retries.map_or(0, |n| n.saturating_add(1)),
                retry_delay_millis: options.retry_delay.map_or(0, millis),
                max_bundle_millis: options.max_bundle_time.map_or(0, millis),
            }),
            environments: Some(v1::Environments {
                sdk_worker_parallelism: options.sdk_worker_parallelism,
                retain_docker_containers: options.retain_docker_containers,
            }),
            store: v1::Store::from(store).into(),
            draining: options.draining,
            checkpoints: None,
        })
    }

    /// For an attempt whose processes know `token`, and that takes these checkpoints.
    pub(super) fn deployment(&self, token: &str, checkpoints: Option<v1::Checkpoints>) -> v1::Deployment {
        v1::Deployment { retrieval_token: token.to_owned(), checkpoints, ..self.0.clone() }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Attempt {
    job: Arc<Job>,
    generation: Generation,
    agents: Arc<Agents>,
    config: SupervisorConfig,
    signals: mpsc::UnboundedReceiver<Signal>,
    deployment: v1::Deployment,
    processes: Vec<Process>,
    started: BTreeSet<u32>,
    completed: BTreeSet<u32>,
    draining: bool,
}

#[derive(Debug, Default)]
struct Process {
    cluster_address: String,
    /// Never full; a process that is gone takes none, and its end is heard of.
    orders: Option<mpsc::UnboundedSender<v1::ProcessOrder>>,
    ended: bool,
}

/// What the attempt waits for.
enum Phase {
    /// That every process attaches.
    Attaching(Instant),
    /// That every process completes.
    Working,
    /// That every process ends by itself, as it was asked to.
    Stopping(Instant, Outcome),
    /// That every process ends, as it was made to.
    Killed(Outcome),
}

impl Attempt {
    pub(super) fn new(
        job: Arc<Job>,
        generation: Generation,
        agents: Arc<Agents>,
        config: SupervisorConfig,
        signals: mpsc::UnboundedReceiver<Signal>,
        deployment: v1::Deployment,
    ) -> Attempt {
        Attempt {
            job,
            generation,
            agents,
            config,
            signals,
            deployment,
            processes: Vec::new(),
            started: BTreeSet::new(),
            completed: BTreeSet::new(),
            draining: false,
        }
    }

    pub(super) fn start(&mut self, places: Vec<Place>, token: &str, signals: &mpsc::UnboundedSender<Signal>) {
        let count = u32::try_from(places.len()).unwrap_or(u32::MAX);
        for (index, place) in (0..).zip(places) {
            self.processes.push(Process::default());
            let signals = signals.clone();
            let on_end = Box::new(move |how| {
                // The attempt is given up only when every process has ended.
                let _ = signals.send(Signal::Ended { index, how });
            });
            place.start(self.name(index), token.to_owned(), count, on_end);
        }
    }

    fn name(&self, index: u32) -> ProcessName {
        ProcessName { job: self.job.id().clone(), generation: self.generation, index }
    }

    /// Runs to the end of the attempt. After [`Outcome::Done`] processes may still be on their way out.
    pub(super) async fn run(&mut self, checkpoints: &mut Option<Checkpoints>) -> Outcome {
        let mut cancelled = self.job.cancelled();
        let mut drained = self.job.drained();
        let mut phase = Phase::Attaching(Instant::now() + self.config.attach_timeout);
        loop {
            let deadline = match &phase {
                Phase::Attaching(deadline) | Phase::Stopping(deadline, _) => Some(*deadline),
                Phase::Working | Phase::Killed(_) => None,
            };
            let runs = matches!(phase, Phase::Attaching(_) | Phase::Working);
            phase = tokio::select! {
                signal = self.signals.recv() => match signal {
                    Some(signal) => self.take(signal, phase, checkpoints),
                    // The job's entry for attaching holds a sender until this returns.
                    None => return Outcome::Lost("the job's processes are gone".to_owned()),
                },
                _ = cancelled.wait_for(|cancelled| *cancelled), if runs => self.stop(Outcome::Cancelled),
                _ = drained.wait_for(|drained| *drained), if runs && !self.draining => {
                    self.draining = true;
                    if let Phase::Working = phase {
                        self.tell_all(&Order::Drain(v1::Drain {}));
                        self.checkpointed(checkpoints, Event::Drain, phase)
                    } else {
                        phase
                    }
                }
                event = event(checkpoints) => self.checkpointed(checkpoints, event, phase),
                () = until(deadline) => match phase {
                    Phase::Attaching(_) => self.kill(Outcome::Lost(self.absent())),
                    Phase::Stopping(_, outcome) => self.kill(outcome),
                    other => other,
                },
            };
            if let Phase::Stopping(_, outcome) | Phase::Killed(outcome) = &phase {
                // Said again, it says nothing.
                let over = if let Outcome::Lost(_) = outcome { Event::ProcessLost } else { Event::Stop };
                self.checkpoint(checkpoints, over);
            }
            phase = match phase {
                Phase::Attaching(_) if self.processes.iter().all(|p| p.orders.is_some()) => {
                    self.deploy();
                    Phase::Working
                }
                Phase::Working if self.completed.len() == self.processes.len() => {
                    self.checkpoint(checkpoints, Event::Stop);
                    return Outcome::Done;
                }
                Phase::Stopping(_, outcome) | Phase::Killed(outcome) if self.all_ended() => return outcome,
                other => other,
            };
        }
    }

    /// Takes an event of the job's checkpoints; says why the attempt cannot go on, if that follows.
    fn checkpoint(&self, checkpoints: &mut Option<Checkpoints>, event: Event<Vec<Part>>) -> Option<String> {
        let mut failed = None;
        for todo in checkpoints.iter_mut().flat_map(|checkpoints| checkpoints.step(self.generation, event.clone())) {
            match todo {
                Todo::Tell(order) => self.tell_all(&order),
                Todo::Warn(text) => self.job.say(Message::now(Importance::Warning, text)),
                Todo::Fail(why) => failed = Some(why),
                Todo::Stop => {
                    if self.job.enter(State::Cancelling) {
                        self.job.say(Message::now(Importance::Basic, "the job stops with its savepoint".to_owned()));
                        self.job.cancel();
                    }
                }
            }
        }
        failed
    }

    /// As [`Attempt::checkpoint`], for an attempt that may be stopped by it.
    fn checkpointed(&self, checkpoints: &mut Option<Checkpoints>, event: Event<Vec<Part>>, phase: Phase) -> Phase {
        match (self.checkpoint(checkpoints, event), phase) {
            // What a checkpoint fails of may not be there the next time, so the job may be run again.
            (Some(why), Phase::Attaching(_) | Phase::Working) => self.stop(Outcome::Lost(why)),
            (_, phase) => phase,
        }
    }

    fn take(&mut self, signal: Signal, phase: Phase, checkpoints: &mut Option<Checkpoints>) -> Phase {
        match signal {
            Signal::Attached { index, cluster_address, orders } => {
                if let Phase::Stopping(..) = phase {
                    send(&orders, Order::Stop(v1::Stop {}));
                }
                if let Some(process) = self.processes.get_mut(index as usize) {
                    process.cluster_address = cluster_address;
                    process.orders = Some(orders);
                }
                phase
            }
            Signal::Started { index } => {
                if !self.started.insert(index) || self.started.len() < self.processes.len() {
                    return phase;
                }
                self.job.enter(State::Running);
                match (checkpoints.as_ref().map(|checkpoints| checkpoints.started(self.processes.len())), phase) {
                    (Some(started), Phase::Working) => self.checkpointed(checkpoints, started, Phase::Working),
                    (_, phase) => phase,
                }
            }
            Signal::Saved { index, epoch, parts } => {
                self.checkpointed(checkpoints, Event::Saved { process: index, epoch, parts }, phase)
            }
            Signal::SaveFailed { index, epoch, why } => {
                self.checkpointed(checkpoints, Event::SaveFailed { process: index, epoch, why }, phase)
            }
            Signal::SavepointAsked { answer, stop } => match checkpoints {
                Some(kept) => {
                    kept.ask_for_savepoint(answer, stop);
                    self.checkpointed(checkpoints, Event::SavepointAsked { stop }, phase)
                }
                None => {
                    let why = "the job takes no checkpoints: give it the option checkpointing_interval".to_owned();
                    let _ = answer.send(Err(why));
                    phase
                }
            },
            Signal::Completed { index } => {
                self.completed.insert(index);
                phase
            }
            Signal::Failed { index, mut message, lost_peer, may_pass, damaged_checkpoint, needs_owner } => {
                if let Some(kept) = checkpoints.as_mut().filter(|_| needs_owner) {
                    message.extend(kept.keep());
                }
                if let (Some(checkpoints), Some(epoch)) = (checkpoints.as_mut(), damaged_checkpoint) {
                    checkpoints.distrust(epoch);
                }
                // One that has never come so far is told at once, so that its owner can mend it.
                let waits = may_pass && checkpoints.as_ref().is_some_and(Checkpoints::has_some);
                let is_lost = lost_peer || waits;
                if let (Phase::Stopping(_, Outcome::Cancelled), Some(kept)) = (&phase, checkpoints.as_mut())
                    && is_lost
                {
                    // It was on its way when the job was cancelled.
                    kept.lost_process();
                }
                let outcome = if is_lost { Outcome::Lost(message) } else { Outcome::Failed(message) };
                match phase {
                    Phase::Attaching(_) | Phase::Working => {
                        tracing::debug!(process = %self.name(index), "reports that its job failed");
                        self.stop(outcome)
                    }
                    // It was on its way when a process was lost. It would fail again.
                    Phase::Stopping(deadline, Outcome::Lost(_)) if !is_lost => Phase::Stopping(deadline, outcome),
                    other => other,
                }
            }
            Signal::Ended { index, how } => {
                let mut attached = false;
                if let Some(process) = self.processes.get_mut(index as usize) {
                    process.ended = true;
                    attached = process.orders.take().is_some();
                }
                let of = match self.processes.len() {
                    1 => "the job's process".to_owned(),
                    count => format!("process {index} of the job's {count}"),
                };
                match phase {
                    Phase::Attaching(_) | Phase::Working if !self.completed.contains(&index) => {
                        self.stop(Outcome::Lost(format!("{of} {how}")))
                    }
                    // Nobody here kills a process that was asked to stop: it was lost, and what another said of it first
                    // may be no more than that it does not answer.
                    Phase::Stopping(deadline, outcome) if attached && !how.starts_with(EXITED) => {
                        let meanwhile = |message| format!("{message}\n\nMeanwhile {of} {how}");
                        if let Some(kept) = checkpoints {
                            kept.lost_process();
                        }
                        let outcome = match outcome {
                            Outcome::Failed(message) => Outcome::Failed(meanwhile(message)),
                            Outcome::Lost(message) => Outcome::Lost(meanwhile(message)),
                            other => other,
                        };
                        Phase::Stopping(deadline, outcome)
                    }
                    other => other,
                }
            }
        }
    }

    fn deploy(&self) {
        let mut deployment = self.deployment.clone();
        deployment.cluster_addresses = self.processes.iter().map(|p| p.cluster_address.clone()).collect();
        deployment.draining |= self.draining;
        self.tell_all(&Order::Deployment(deployment));
    }

    /// Gives every process that is there an order.
    fn tell_all(&self, order: &Order) {
        for orders in self.processes.iter().filter_map(|p| p.orders.as_ref()) {
            send(orders, order.clone());
        }
    }

    /// Asks every process to stop.
    fn stop(&self, outcome: Outcome) -> Phase {
        for (index, process) in (0..).zip(&self.processes).filter(|(_, p)| !p.ended) {
            match &process.orders {
                Some(orders) => send(orders, Order::Stop(v1::Stop {})),
                // It has not attached, so it has nothing to tear down.
                None => self.agents.kill(&self.name(index)),
            }
        }
        Phase::Stopping(Instant::now() + self.config.grace, outcome)
    }

    fn kill(&self, outcome: Outcome) -> Phase {
        for (index, _) in (0..).zip(&self.processes).filter(|(_, p)| !p.ended) {
            tracing::warn!(process = %self.name(index), "does not stop when asked to, and is killed");
            self.agents.kill(&self.name(index));
        }
        Phase::Killed(outcome)
    }

    fn all_ended(&self) -> bool {
        self.processes.iter().all(|process| process.ended)
    }

    fn absent(&self) -> String {
        let absent: Vec<String> = (0..)
            .zip(&self.processes)
            .filter(|(_, p)| p.orders.is_none())
            .map(|(i, _): (u32, _)| i.to_string())
            .collect();
        format!(
            "process {} of the job did not come to the service within {} s of being started; see the logs of its agent",
            absent.join(", "),
            self.config.attach_timeout.as_secs()
        )
    }

    /// Waits for the processes' end, and enforces it.
    pub(super) async fn reap(mut self) {
        let mut grace = Some(Instant::now() + self.config.grace);
        while !self.all_ended() {
            tokio::select! {
                signal = self.signals.recv() => match signal {
                    Some(signal) => { self.take(signal, Phase::Killed(Outcome::Done), &mut None); }
                    None => return,
                },
                () = until(grace) => {
                    self.kill(Outcome::Done);
                    grace = None;
                }
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Fails only for a process that is gone, whose end is heard of.
fn send(orders: &mpsc::UnboundedSender<v1::ProcessOrder>, order: Order) {
    let _ = orders.send(v1::ProcessOrder { order: Some(order) });
}

/// Never, without a deadline.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending::<()>().await,
    }
}

/// Never, without checkpoints.
async fn event(checkpoints: &mut Option<Checkpoints>) -> Event<Vec<Part>> {
    match checkpoints {
        Some(checkpoints) => checkpoints.event().await,
        None => std::future::pending().await,
    }
}
