//! When a job's checkpoints begin and what becomes of each: a state machine without clock or IO.
//!
//! A checkpoint is an epoch. Every process is told to begin it and answers with what it saved; when all have, the
//! manifest is written, and only when that is durable are they told that the epoch is committed: then offsets are
//! committed and what waited for it is released. An epoch that any process cannot save, or that takes too long, is
//! aborted, and its number is never used again: not after a restart either, whatever that starts from.
//!
//! | event | waiting | saving | writing |
//! |---|---|---|---|
//! | it is time, or a savepoint is asked for | begin | later | later |
//! | a process saved | - | the last one: write the manifest | - |
//! | a process could not save | - | abort | - |
//! | the manifest is written | - | - | committed |
//! | the manifest is certainly not written | - | - | abort |
//! | nobody knows whether it is, or the time is over | - | abort | fail the job |
//! | a process is lost, or the job stops | off | abort, off | off, when the manifest's fate is known |
//!
//! Failure model. A manifest that may have been written must not be aborted, because processes then drop what it names;
//! nor may a later epoch begin, because both would claim to be the latest. So the attempt ends, and the next one starts
//! from what the storage says. What is told of an epoch that is not under way is a late answer, and ignored.
//!
//! Several checkpoints under way at a time, which Flink allows, were rejected: they help when one takes longer than the
//! interval because it waits for barriers, and each would hold its own copy of what has changed.

mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::checkpoint::Epoch;

pub(super) use settings::Settings;

/// What is kept of an epoch, and why it was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To go on from after a loss. Collected when enough later ones are there.
    Checkpoint,
    /// Somebody asked for it, and it is theirs.
    Savepoint,
}

/// What happens to a job. `P` is what a process says that it saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event<P> {
    /// The time that was asked for has come, or any other.
    Woken,
    /// So many processes run. Numbers up to `taken` are taken.
    Started { processes: u32, taken: Epoch },
    /// A process saved its part.
    Saved { process: u32, epoch: Epoch, parts: P },
    /// A process could not.
    SaveFailed { process: u32, epoch: Epoch, why: String },
    /// The manifest is durable.
    ManifestWritten { epoch: Epoch },
    /// The manifest was not written; unless `certain`, it may have been.
    ManifestFailed { epoch: Epoch, why: String, certain: bool },
    /// Somebody wants a savepoint, and perhaps that the job stops with it.
    SavepointAsked { stop: bool },
    /// The job takes no more input. Its output still waits for epochs, so the next one is due at once.
    Drain,
    /// The job is about to end.
    Stop,
    /// A process of the job is gone, and this attempt with it.
    ProcessLost,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision<P> {
    /// Tell every process to save.
    Begin { epoch: Epoch, purpose: Purpose },
    /// Write the manifest. The parts are by process.
    Commit { epoch: Epoch, purpose: Purpose, parts: Vec<P> },
    /// Tell every process that the epoch is durable.
    Committed { epoch: Epoch, purpose: Purpose },
    /// Tell every process to drop what it saved.
    Aborted { epoch: Epoch, purpose: Purpose, why: String },
    /// A checkpoint is one more than are kept.
    Discard { epoch: Epoch },
    /// The attempt cannot go on; a new one may.
    FailJob { why: String },
    /// End the job: it was to stop with a savepoint that is complete.
    StopJob,
    /// Say [`Event::Woken`] then: replaces what was asked before. Milliseconds.
    WakeAt { time: u64 },
}

/// See the module. Lives as long as the job, through all attempts to run it.
#[derive(Debug)]
pub(super) struct Coordinator<P> {
    settings: Settings,
    now: u64,
    /// Greater than any epoch that was begun or restored.
    next: Epoch,
    /// Of the present attempt; 0 when none runs.
    processes: u32,
    phase: Phase<P>,
    /// When the next checkpoint may begin.
    due: u64,
    /// The next is due as soon as the one under way has ended.
    soon: bool,
    savepoint_asked: bool,
    /// The job is to stop with it.
    stop_asked: bool,
    /// Checkpoints that failed since the last that did not.
    failures: u32,
    kept: VecDeque<Epoch>,
}

#[derive(Debug)]
enum Phase<P> {
    /// Nothing is under way. While an attempt runs, the next checkpoint is waited for.
    Idle,
    Saving {
        under_way: UnderWay,
        saved: BTreeMap<u32, P>,
    },
    /// The manifest is being written; the attempt that it is of may be over.
    Writing(UnderWay),
    /// The job stops with a savepoint. What waits for that to be durable, such as records for Kafka, is done before operators
    /// step over another border: so one more epoch is begun, of which nothing is kept, and the job is stopped once all
    /// processes have saved for it.
    Settling {
        epoch: Epoch,
        deadline: u64,
        saved: BTreeSet<u32>,
    },
}

/// How long a job that stops with a savepoint is waited for at the most, in milliseconds: what it has not done by then, those
/// do that start from the savepoint.
const SETTLING: u64 = 60_000;

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    epoch: Epoch,
    purpose: Purpose,
    begun: u64,
    deadline: u64,
    /// The job is to stop with it.
    stop: bool,
}

impl<P> Coordinator<P> {
    pub(super) fn new(settings: Settings) -> Coordinator<P> {
        Coordinator {
            settings,
            now: 0,
            next: Epoch(1),
            processes: 0,
            phase: Phase::Idle,
            due: 0,
            soon: false,
            savepoint_asked: false,
            stop_asked: false,
            failures: 0,
            kept: VecDeque::new(),
        }
    }

    /// Takes an event at a time in milliseconds, and returns what is to be done, in this order.
    pub(super) fn step(&mut self, now: u64, event: Event<P>) -> Vec<Decision<P>> {
        self.now = self.now.max(now);
        let mut todo = Vec::new();
        match event {
            Event::Woken => {}
            Event::Started { processes, taken } => self.started(processes, taken, &mut todo),
            Event::Saved { process, epoch, parts } => self.saved(process, epoch, parts, &mut todo),
            Event::SaveFailed { process, epoch, why } => {
                if matches!(&self.phase, Phase::Saving { under_way, .. } if under_way.epoch == epoch) {
                    self.abort(format!("process {process}: {why}"), &mut todo);
                } else if matches!(&self.phase, Phase::Settling { epoch: settling, .. } if *settling == epoch) {
                    self.stop(&mut todo);
                }
            }
            Event::ManifestWritten { epoch } => self.written(epoch, &mut todo),
            Event::ManifestFailed { epoch, why, certain } => {
                if matches!(&self.phase, Phase::Writing(under_way) if under_way.epoch == epoch) {
                    if certain {
                        self.abort(format!("its manifest cannot be written: {why}"), &mut todo);
                    } else {
                        self.lose_sight(&why, &mut todo);
                    }
                }
            }
            Event::SavepointAsked { stop } => {
                self.savepoint_asked = true;
                self.stop_asked |= stop;
            }
            Event::Drain => {
                self.due = self.due.min(self.now);
                self.soon = !matches!(self.phase, Phase::Idle);
            }
            Event::Stop => {
                self.forget_who_asked();
                self.end("the job is stopped", &mut todo);
            }
            Event::ProcessLost => {
                self.forget_who_asked();
                self.end("a process of the job is lost", &mut todo);
            }
        }
        self.keep_time(&mut todo);
        if let Some(time) = self.waits_until() {
            todo.push(Decision::WakeAt { time });
        }
        todo
    }

    fn started(&mut self, processes: u32, taken: Epoch, todo: &mut Vec<Decision<P>>) {
        // What an attempt leaves under way when nobody said that it ended.
        self.end("the job was started again", todo);
        self.processes = processes;
        self.failures = 0;
        self.next = self.next.max(taken.next());
        self.due = self.now.saturating_add(self.settings.interval);
    }

    fn saved(&mut self, process: u32, epoch: Epoch, parts: P, todo: &mut Vec<Decision<P>>) {
        if let Phase::Settling { epoch: settling, saved, .. } = &mut self.phase {
            if *settling == epoch
                && process < self.processes
                && saved.insert(process)
                && saved.len() == self.processes as usize
            {
                self.stop(todo);
            }
            return;
        }
        let Phase::Saving { under_way, saved } = &mut self.phase else { return };
        if under_way.epoch != epoch || process >= self.processes {
            return;
        }
        // Said twice, it says nothing new.
        saved.entry(process).or_insert(parts);
        if saved.len() == self.processes as usize {
            let under_way = *under_way;
            let parts = std::mem::take(saved).into_values().collect();
            self.phase = Phase::Writing(under_way);
            todo.push(Decision::Commit { epoch, purpose: under_way.purpose, parts });
        }
    }

    fn written(&mut self, epoch: Epoch, todo: &mut Vec<Decision<P>>) {
        let Phase::Writing(under_way) = self.phase else { return };
        if under_way.epoch != epoch {
            return;
        }
        self.failures = 0;
        self.finish(under_way);
        todo.push(Decision::Committed { epoch, purpose: under_way.purpose });
        if under_way.stop && self.processes > 0 {
            let epoch = self.next;
            self.next = epoch.next();
            let deadline = self.now.saturating_add(SETTLING.min(self.settings.timeout));
            self.phase = Phase::Settling { epoch, deadline, saved: BTreeSet::new() };
            todo.push(Decision::Begin { epoch, purpose: Purpose::Checkpoint });
        }
        if under_way.purpose == Purpose::Checkpoint {
            self.kept.push_back(epoch);
            while self.kept.len() > self.settings.retained.get() {
                todo.extend(self.kept.pop_front().map(|epoch| Decision::Discard { epoch }));
            }
        }
    }

    /// Ends what is under way without a manifest; the job fails if that happened too often.
    fn abort(&mut self, why: String, todo: &mut Vec<Decision<P>>) {
        let (Phase::Saving { under_way, .. } | Phase::Writing(under_way)) = self.phase else { return };
        self.finish(under_way);
        let UnderWay { epoch, purpose, .. } = under_way;
        // The fate of a savepoint is the business of who asked for it.
        if purpose == Purpose::Checkpoint && self.processes > 0 {
            self.failures = self.failures.saturating_add(1);
        }
        let failed = format!("checkpoint {epoch} failed: {why}");
        todo.push(Decision::Aborted { epoch, purpose, why });
        if self.settings.tolerated.is_some_and(|tolerated| self.failures > tolerated) {
            let why = match self.settings.tolerated {
                Some(tolerated @ 1..) => format!("{failed}\n\nMore than {tolerated} failed one after the other."),
                _ => failed,
            };
            self.fail(why, todo);
        }
    }

    /// The job stops with a savepoint that is complete.
    fn stop(&mut self, todo: &mut Vec<Decision<P>>) {
        self.processes = 0;
        self.phase = Phase::Idle;
        todo.push(Decision::StopJob);
    }

    /// Whether the manifest is there is not known.
    fn lose_sight(&mut self, why: &str, todo: &mut Vec<Decision<P>>) {
        let Phase::Writing(under_way) = self.phase else { return };
        self.finish(under_way);
        if self.processes > 0 {
            let epoch = under_way.epoch;
            self.fail(format!("whether the manifest of checkpoint {epoch} was written is not known: {why}"), todo);
        }
    }

    fn fail(&mut self, why: String, todo: &mut Vec<Decision<P>>) {
        self.processes = 0;
        todo.push(Decision::FailJob { why });
    }

    /// They are told to ask again.
    fn forget_who_asked(&mut self) {
        (self.savepoint_asked, self.stop_asked) = (false, false);
    }

    /// The attempt is over, or about to be.
    fn end(&mut self, why: &str, todo: &mut Vec<Decision<P>>) {
        self.processes = 0;
        match &mut self.phase {
            Phase::Saving { .. } => self.abort(why.to_owned(), todo),
            // Whoever asked has the savepoint, and may have started another job from it.
            Phase::Settling { .. } => self.stop(todo),
            Phase::Writing(under_way) => under_way.stop = false,
            Phase::Idle => {}
        }
    }

    fn finish(&mut self, under_way: UnderWay) {
        self.phase = Phase::Idle;
        let pause = self.now.saturating_add(self.settings.min_pause);
        self.due = pause.max(match under_way.purpose {
            _ if std::mem::take(&mut self.soon) => pause,
            Purpose::Checkpoint => under_way.begun.saturating_add(self.settings.interval),
            Purpose::Savepoint => self.due,
        });
    }

    /// Does what it is time for.
    fn keep_time(&mut self, todo: &mut Vec<Decision<P>>) {
        let timeout = self.settings.timeout;
        match &self.phase {
            Phase::Saving { under_way, saved } if under_way.deadline <= self.now => {
                let absent = (0..self.processes).filter(|process| !saved.contains_key(process));
                let absent: Vec<String> = absent.map(|process| process.to_string()).collect();
                let who = if absent.len() == 1 { "process" } else { "processes" };
                let why = format!("{who} {} did not save within {timeout} ms", absent.join(", "));
                self.abort(why, todo);
            }
            Phase::Writing(under_way) if under_way.deadline <= self.now => {
                self.lose_sight(&format!("the checkpoint's {timeout} ms are over"), todo);
            }
            Phase::Settling { deadline, .. } if *deadline <= self.now => self.stop(todo),
            _ => {}
        }
        let idle = matches!(self.phase, Phase::Idle) && self.processes > 0;
        if idle && (self.savepoint_asked || self.due <= self.now) {
            let purpose = if self.savepoint_asked { Purpose::Savepoint } else { Purpose::Checkpoint };
            let stop = self.savepoint_asked && self.stop_asked;
            (self.savepoint_asked, self.stop_asked) = (false, false);
            let epoch = self.next;
            self.next = epoch.next();
            let deadline = self.now.saturating_add(timeout);
            let under_way = UnderWay { epoch, purpose, begun: self.now, deadline, stop };
            self.phase = Phase::Saving { under_way, saved: BTreeMap::new() };
            todo.push(Decision::Begin { epoch, purpose });
        }
    }

    /// When something has to happen, unless something else happens first.
    fn waits_until(&self) -> Option<u64> {
        match &self.phase {
            Phase::Saving { under_way, .. } | Phase::Writing(under_way) => Some(under_way.deadline),
            Phase::Settling { deadline, .. } => Some(*deadline),
            Phase::Idle => (self.processes > 0).then_some(self.due),
        }
    }

    /// Whether a manifest is being written, so that the latest checkpoint is not known for sure.
    pub(super) fn is_writing(&self) -> bool {
        matches!(self.phase, Phase::Writing(_))
    }
}
