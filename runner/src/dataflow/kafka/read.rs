//! A source: each worker reads the partitions that it owns.
//!
//! Batches come from the reader's thread. One is sent in the epoch that the operator stands at, and the positions move with
//! it; so what is saved as the operator steps over a border is exactly how far the output of the epochs before goes. While
//! those behind have enough to do, batches are left with the reader, which then stops fetching.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::scheduling::Activator;

use super::super::edge::{Edge, Output};
use super::super::flow::{Flow, VISIT_LIMIT};
use super::super::links::Links;
use super::super::run::Reporter;
use super::super::{Job, JobFailure};
use crate::checkpoint::{Frozen, PartHead, PartKind, Saver};
use crate::executor::{Fault, Finalizer};
use crate::kafka::reader::{FromReader, KafkaFailure, Reader, ReaderTask, Reading};
use crate::kafka::{ErrorElement, KafkaRead, PartitionPosition, ReadElement, SavedPositions};
use crate::time::{self, Moment, Timestamp};

/// How often offsets are committed to the group by a job without checkpoints, as Kafka's consumers do by default.
const COMMIT_EVERY: Duration = Duration::from_secs(5);

/// What is saved, in words: what is read from what was written under other words is refused.
pub(crate) const FORM: &str = "offsets of Kafka partitions";

/// The node that is built.
pub(crate) struct Source<'a> {
    pub(crate) name: &'a str,
    pub(crate) read: &'a KafkaRead,
    pub(crate) element: &'a ReadElement,
    /// Of its output of errors, if it has one.
    pub(crate) errors: Option<ErrorElement>,
}

/// The outputs of a source.
pub(crate) struct SourceEdges<'scope> {
    pub(crate) records: Edge<'scope>,
    pub(crate) errors: Option<Edge<'scope>>,
}

/// Builds the source on one worker. `epochs` says which epoch it is, where there are some.
pub(crate) fn build<'scope>(
    scope: Scope<'scope, Moment>,
    job: &Job,
    source: Source<'_>,
    epochs: Option<Edge<'scope>>,
    links: Links,
) -> SourceEdges<'scope> {
    let Links { flow, reporter, saver } = links;
    let mut builder = OperatorBuilder::new(source.name.to_owned(), scope);
    // It carries no data.
    let _epochs = epochs.map(|epochs| builder.new_input(epochs, Pipeline));
    let has_epochs = _epochs.is_some();
    let (output, of_records) = Output::new(&mut builder);
    let errors = source.errors.map(|_| Output::new(&mut builder));
    let (error_output, errors) = errors.unzip();
    let address = builder.operator_info().address;
    let wake = || scope.worker().sync_activator_for(address.to_vec());
    let (waker, on_drain) = (wake(), wake());
    job.drain.on_request(move || {
        // Fails only when the worker is gone.
        let _ = on_drain.activate();
    });
    let saved = job.checkpoints.restore().map(|_| {
        let parts = saver.restored().iter();
        parts.map(|part| part.head.positions.clone().unwrap_or_default()).collect::<Vec<SavedPositions>>()
    });
    let task = ReaderTask {
        read: source.read.clone(),
        element: source.element.clone(),
        errors: source.errors,
        worker: scope.index(),
        workers: scope.peers(),
        // A source that the checkpoint does not have is new.
        saved: saved.filter(|saved| !saved.is_empty()),
    };
    let (records, millis_before) = (task.records_before(), task.millis_before());
    if source.read.commit && !job.checkpoints.are_on() && scope.index() == 0 {
        job.observer.warning(format!(
            "{}: the job takes no checkpoints, so offsets are committed to the Kafka group as records are read: what a failed job \
             had not worked off then is not read again by the next one of that group",
            source.name
        ));
    }
    let observer = Arc::clone(&job.observer);
    let warn = Arc::new(move |message| observer.warning(message));
    let started = Reader::start(task, warn, move || {
        let _ = waker.activate();
    });
    let mut operator = ReadOperator {
        name: source.name.to_owned(),
        job: job.clone(),
        reader: None,
        // The first worker goes on counting for all.
        positions: SavedPositions {
            records: if scope.index() == 0 { records } else { 0 },
            topics: source.read.topics.clone(),
            ..SavedPositions::default()
        },
        begun: Instant::now(),
        millis_before,
        commits: source.read.commit,
        committed: Instant::now(),
        epoch: saver.first_epoch(),
        watermark: i64::MIN,
        capabilities: Vec::new(),
        output,
        error_output,
        flow: flow.waking(wake()),
        activator: scope.activator_for(Rc::clone(&address)),
        saver,
        reporter,
        failed: false,
    };
    match started {
        Ok(reader) => operator.reader = Some(reader),
        Err(error) => operator.fail(Fault::Runner, format!("its thread cannot be started: {error}")),
    }
    builder.build_reschedule(move |capabilities| {
        operator.capabilities = capabilities;
        move |frontiers| {
            let reached = if has_epochs { time::epoch(frontiers[0].frontier()) } else { None };
            reached.into_iter().for_each(|reached| operator.step(reached));
            let had_looked = operator.positions.has_looked;
            operator.visit();
            if !had_looked {
                reached.into_iter().for_each(|reached| operator.step(reached));
            }
            !operator.capabilities.is_empty()
        }
    });
    SourceEdges { records: of_records, errors }
}

struct ReadOperator {
    name: String,
    job: Job,
    reader: Option<(Reader, Receiver<FromReader>)>,
    /// How far the output goes.
    positions: SavedPositions,
    /// When it began, and for how long earlier attempts have read.
    begun: Instant,
    millis_before: u64,
    /// Whether the group is told.
    commits: bool,
    /// When it was told last, in a job without checkpoints.
    committed: Instant,
    epoch: u64,
    watermark: i64,
    /// Of records, and of errors, until nothing more will come.
    capabilities: Vec<Capability<Moment>>,
    output: Output,
    error_output: Option<Output>,
    flow: Flow,
    activator: Activator,
    saver: Saver,
    reporter: Rc<Reporter>,
    failed: bool,
}

impl ReadOperator {
    fn fail(&mut self, fault: Fault, what: String) {
        self.failed = true;
        let message = format!("{}: {what}", self.name);
        self.reporter.fail(JobFailure { fault, message, environment: None });
    }

    /// Steps to the epoch that all sources stand at, and saves how far it has read where that is the border of a checkpoint.
    fn step(&mut self, reached: u64) {
        // Until it is known where partitions begin, there is nothing to save that one could go on from.
        if reached <= self.epoch || self.failed || !self.positions.has_looked {
            return;
        }
        self.positions.millis = self.millis_before.saturating_add(self.begun.elapsed().as_millis() as u64);
        if let Some(border) = self.saver.border(self.epoch, reached) {
            let head = PartHead {
                form: FORM.to_owned(),
                watermark: self.watermark,
                positions: Some(self.positions.clone()),
                ..PartHead::of(PartKind::KafkaRead)
            };
            border.save(head, Frozen::default());
        }
        self.commit_when_durable();
        self.epoch = reached;
        self.hold();
    }

    fn commit_when_durable(&mut self) {
        if let Some((reader, _)) = self.reader.as_ref().filter(|_| self.commits) {
            let commit = CommitOffsets { reader: reader.clone(), positions: self.positions.partitions.clone() };
            self.job.checkpoints.when_durable(self.epoch, Arc::new(commit));
            self.committed = Instant::now();
        }
    }

    fn visit(&mut self) {
        if self.failed || self.capabilities.is_empty() {
            // After a failure it stays where it is: nothing downstream may take silence for the end of input.
            return;
        }
        // Not before it is known where it stood: that is saved with what comes of the drain.
        if self.job.drain.requested() && self.positions.has_looked {
            return self.end();
        }
        let mut sent = 0;
        while self.flow.may_read() && self.flow.has_room(self.epoch) {
            if sent > VISIT_LIMIT {
                self.activator.activate();
                break;
            }
            let Some((_, told)) = &self.reader else { return };
            match told.try_recv() {
                Ok(FromReader::Begun(partitions)) => {
                    self.positions.has_looked = true;
                    self.positions.partitions.extend(partitions);
                }
                Ok(FromReader::MadeAnew { topic, id }) => {
                    let of_topic = self.positions.partitions.iter_mut().filter(|partition| partition.topic == topic);
                    of_topic.for_each(|partition| partition.topic_id = Some(id.clone()));
                }
                Ok(FromReader::Read(reading)) => sent += self.send(reading),
                Ok(FromReader::Ended) => {
                    self.positions.ended = true;
                    return self.end();
                }
                Ok(FromReader::Failed(failure)) => return self.fail(fault(&failure), failure.message),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    return self.fail(
                        Fault::Runner,
                        "the thread that reads from Kafka has ended; its message is in the log".to_owned(),
                    );
                }
            }
        }
        if !self.job.checkpoints.are_on() && self.committed.elapsed() >= COMMIT_EVERY {
            self.commit_when_durable();
        }
        self.hold();
    }

    /// Gives its length.
    fn send(&mut self, reading: Reading) -> usize {
        let Reading { batch, errors, moved, watermark } = reading;
        for moved in moved {
            if let Some(partition) = self.positions.partitions.get_mut(moved.index) {
                partition.offset = moved.offset;
                partition.watermark = moved.watermark;
            }
        }
        self.positions.records += (batch.len() + errors.len()) as u64;
        let length = batch.data().len() + errors.data().len();
        if let Some(capability) = self.capabilities.first() {
            self.output.give(capability, batch);
        }
        if let (Some(capability), Some(output)) = (self.capabilities.get(1), &mut self.error_output) {
            output.give(capability, errors);
        }
        self.watermark = self.watermark.max(watermark.min(Timestamp::MAX.0));
        length
    }

    /// Nothing more will come.
    fn end(&mut self) {
        self.commit_when_durable();
        if let Some((reader, told)) = self.reader.take() {
            // The reader may be waiting to tell something.
            drop(told);
            reader.stop();
        }
        self.capabilities.clear();
    }

    fn hold(&mut self) {
        let moment = Moment { epoch: self.epoch, watermark: self.watermark };
        for capability in self.capabilities.iter_mut().filter(|capability| *capability.time() != moment) {
            capability.downgrade(&moment);
        }
    }
}

/// Whose fault it is that Kafka is not read or written any more.
pub(super) fn fault(failure: &KafkaFailure) -> Fault {
    if failure.may_pass { Fault::Runner } else { Fault::Owner }
}

/// Tells the group what is durable.
#[derive(Debug)]
struct CommitOffsets {
    reader: Reader,
    positions: Vec<PartitionPosition>,
}

impl Finalizer for CommitOffsets {
    fn finalize(&self) {
        self.reader.commit(self.positions.clone());
    }
}
