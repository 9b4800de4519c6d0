//! A sink, on each worker: at least once, or exactly once in a job with checkpoints.
//!
//! *At least once*: input goes to the writer's thread as it comes, and the operator leaves an epoch when brokers have
//! acknowledged all of it. While much waits to be written, it counts as a backlog.
//!
//! *Exactly once*: the input of the epochs before a checkpoint is saved with it, and written in one transaction when it is
//! durable ([`crate::kafka`]'s `transactions`). What comes meanwhile goes to disk; while much of that waits behind a checkpoint
//! that is not durable, or is not written, it counts as a backlog. The operator steps over no later border before that transaction is
//! committed. So a checkpoint holds the records of one transaction at most, and after a failure at most one is in doubt:
//! its id and its epoch are saved with it, and whoever starts from the checkpoint, be it another job on another number
//! of workers, first asks Kafka about it.
//!
//! The operator's output carries nothing. It says where the sink stands, so that a job is not over before everything is
//! written.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use timely::dataflow::Scope;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::CapabilitySet;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::Antichain;
use timely::progress::frontier::AntichainRef;

use super::super::carried::{Carried, FrozenBatches};
use super::super::edge::{Edge, Output, moment};
use super::super::flow::{EpochBytes, Flow};
use super::super::links::Links;
use super::super::run::Reporter;
use super::super::{Job, JobFailure};
use super::read::fault;
use crate::checkpoint::{Frozen, PartHead, PartKind, SavedSink, Saver};
use crate::element::{Batch, BatchBuilder, ElementCoder, ElementError, SpillQueue};
use crate::executor::Fault;
use crate::kafka::record::{NoRecord, encode_write_error};
use crate::kafka::transactions::Recovery;
use crate::kafka::writer::{FromWriter, ToWriter, TransactionTask, Writer, WriterTask, WrittenForm};
use crate::kafka::{ErrorElement, KafkaWrite, WriteElement, transactional_prefix};
use crate::memory::Budget;
use crate::time::{self, Moment};

/// Exactly once, so many times the job's budget of memory may come on disk behind a checkpoint that is not written, of which
/// nothing counts as a backlog; and so many may be of checkpoints that failed, before sources wait.
const AHEAD: usize = 4;

/// The node that is built.
pub(crate) struct Sink<'a> {
    pub(crate) name: &'a str,
    pub(crate) write: &'a KafkaWrite,
    pub(crate) element: &'a WriteElement,
    /// Of its output of errors, if it has one.
    pub(crate) errors: Option<ErrorElement>,
    pub(crate) coder: ElementCoder,
}

/// The outputs of a sink.
pub(crate) struct SinkEdges<'scope> {
    /// Carries nothing.
    pub(crate) written: Edge<'scope>,
    pub(crate) errors: Option<Edge<'scope>>,
}

/// What was saved is read by who writes this form.
pub(crate) fn form(coder: &ElementCoder) -> String {
    format!("{}, in {}", coder.value, coder.window)
}

/// Builds the sink on one worker.
pub(crate) fn build<'scope>(
    scope: Scope<'scope, Moment>,
    job: &Job,
    sink: Sink<'_>,
    input: Edge<'scope>,
    links: Links,
) -> SinkEdges<'scope> {
    let Links { flow, reporter, saver } = links;
    let mut builder = OperatorBuilder::new(sink.name.to_owned(), scope);
    let mut input = builder.new_input(input, Pipeline);
    let (_output, written) = Output::new(&mut builder);
    let (mut error_output, errors) = sink.errors.map(|_| Output::new(&mut builder)).unzip();
    let address = builder.operator_info().address;
    let wake = || scope.worker().sync_activator_for(address.to_vec());
    let (on_told, on_change) = (wake(), wake());
    job.checkpoints.on_change(move || {
        // Fails only when the worker is gone.
        let _ = on_change.activate();
    });
    let exactly_once = job.checkpoints.are_on() && job.settings.kafka_exactly_once;
    let id = transactional_id(job, &sink, scope.index());
    let mut operator = WriteOperator {
        name: sink.name.to_owned(),
        topic: sink.write.topic.clone(),
        form: form(&sink.coder),
        job: job.clone(),
        input: BTreeMap::new(),
        given_back: None,
        guarantee: if exactly_once {
            Guarantee::ExactlyOnce(InTransactions { id: id.clone(), saved: None, writing: false })
        } else {
            Guarantee::AtLeastOnce { sent: 0, watermark: i64::MAX }
        },
        writer: None,
        is_ready: false,
        epoch: saver.first_epoch(),
        capabilities: CapabilitySet::new(),
        flow: flow.waking(wake()),
        saver,
        reporter,
        failed: false,
    };
    // Where nothing can be bad, nothing is looked through.
    let errors_of = sink.errors.filter(|_| sink.element.may_be_bad());
    let form = WrittenForm::new(sink.write.clone(), sink.element.clone(), sink.coder, job.leaving.clone());
    let mut checks = None;
    match form.map(|form| (form, operator.recoveries())) {
        Err(what) => operator.fail(Fault::Owner, format!("its format is not understood: {what}")),
        Ok((form, Ok(recoveries))) => {
            checks = errors_of.map(|errors| BadElements { errors, form: form.clone() });
            let (first_epoch, in_doubt) = (operator.epoch, job.settings.kafka_in_doubt);
            let transactions = exactly_once.then_some(TransactionTask { id, first_epoch });
            let observer = Arc::clone(&job.observer);
            let warn = Arc::new(move |message| observer.warning(message));
            let started = Writer::start(WriterTask { form, recoveries, in_doubt, transactions }, warn, move || {
                let _ = on_told.activate();
            });
            match started {
                Ok(writer) => operator.writer = Some(writer),
                Err(error) => operator.fail(Fault::Runner, format!("its thread cannot be started: {error}")),
            }
        }
        Ok((_, Err(error))) => operator.check(Err::<(), _>(error)),
    }
    builder.build_reschedule(move |capabilities| {
        // What goes to the output of errors goes as it comes, so that nothing but the input holds that back.
        operator.capabilities = capabilities.into_iter().take(1).collect();
        move |frontiers| {
            input.for_each(|capability, batch| {
                let mut batch = std::mem::take(batch);
                if let (Some(checks), Some(output)) = (&checks, &mut error_output) {
                    match checks.take_out(batch) {
                        Ok(Checked { good, errors }) => {
                            output.forward(&capability, errors);
                            batch = good;
                        }
                        Err(error) => {
                            operator.fail(Fault::Owner, format!("an element does not match its coder: {error}"));
                            return;
                        }
                    }
                }
                if let Some(moment) = moment(capability.stamp()) {
                    operator.enqueue(moment, batch);
                }
            });
            operator.visit(frontiers[0].frontier())
        }
    });
    SinkEdges { written, errors }
}

/// The id of the transactions of a sink on one worker. It is that of no other job: the epochs of two have nothing to do with
/// each other.
fn transactional_id(job: &Job, sink: &Sink<'_>, worker: usize) -> String {
    let prefix = transactional_prefix(&sink.write.producer_config);
    let prefix = prefix.as_deref().unwrap_or("ferrobeam");
    let transform = xxhash_rust::xxh3::xxh3_64(sink.name.as_bytes());
    format!("{prefix}-{}-{transform:016x}-{worker}", job.settings.job)
}

/// Finds the elements that cannot be written in their format, before they are saved: what is saved can be written.
struct BadElements {
    errors: ErrorElement,
    form: WrittenForm,
}

/// A batch, taken apart.
struct Checked {
    good: Batch,
    /// Rows of [`crate::kafka::write_error_schema`].
    errors: Batch,
}

impl BadElements {
    fn take_out(&self, batch: Batch) -> Result<Checked, ElementError> {
        let (coder, decoder) = (&self.form.coder, &self.form.decoder);
        let (mut good, mut errors) = (BatchBuilder::new(), BatchBuilder::new());
        for (at, element) in batch.elements().enumerate() {
            let view = coder.parse(element)?;
            match decoder.decode(view.value) {
                Err(NoRecord::Malformed(error)) => return Err(error),
                Ok(_) if errors.is_empty() => {}
                Ok(_) => good.push(element, view.timestamp),
                Err(NoRecord::Bad(bad)) => {
                    if errors.is_empty() {
                        // Those before it, which nobody has copied.
                        for element in batch.elements().take(at) {
                            good.push(element, coder.parse(element)?.timestamp);
                        }
                    }
                    let row = decoder.row(view.value)?;
                    errors.push_with(view.timestamp, |out| {
                        out.extend_from_slice(&element[..element.len() - view.value.len()]);
                        encode_write_error(out, self.errors.prefixed, row, &bad);
                    });
                }
            }
        }
        if errors.is_empty() {
            return Ok(Checked { good: batch, errors: Batch::default() });
        }
        Ok(Checked { good: good.finish(), errors: errors.finish() })
    }
}

struct WriteOperator {
    name: String,
    topic: String,
    /// How its input is encoded.
    form: String,
    job: Job,
    /// What came, by epoch.
    input: BTreeMap<u64, Waiting>,
    /// What the writer did not take yet.
    given_back: Option<Batch>,
    guarantee: Guarantee,
    writer: Option<Writer>,
    /// What an earlier attempt left is settled.
    is_ready: bool,
    /// The epoch whose input is written.
    epoch: u64,
    capabilities: CapabilitySet<Moment>,
    flow: Flow,
    saver: Saver,
    reporter: Rc<Reporter>,
    failed: bool,
}

/// The input of an epoch.
struct Waiting {
    batches: SpillQueue,
    /// The least watermark that it came at.
    watermark: i64,
}

enum Guarantee {
    AtLeastOnce {
        /// Records that the writer was given.
        sent: u64,
        /// The least watermark of those that are not acknowledged.
        watermark: i64,
    },
    ExactlyOnce(InTransactions),
}

struct InTransactions {
    id: String,
    /// The records of a checkpoint that is not written.
    saved: Option<SavedEpoch>,
    /// The writer has them.
    writing: bool,
}

struct SavedEpoch {
    epoch: u64,
    waiting: Waiting,
    /// Bytes of it that were saved before, for checkpoints that were given up.
    given_up: usize,
}

impl Waiting {
    fn new(budget: &Budget) -> Waiting {
        Waiting { batches: SpillQueue::new(budget), watermark: i64::MAX }
    }

    fn append(&mut self, mut later: Waiting) -> io::Result<()> {
        if self.batches.is_empty() {
            *self = later;
            return Ok(());
        }
        self.watermark = self.watermark.min(later.watermark);
        while let Some(batch) = later.batches.pop()? {
            self.batches.push(batch)?;
        }
        Ok(())
    }
}

impl WriteOperator {
    fn fail(&mut self, fault: Fault, what: String) {
        self.failed = true;
        let message = format!("{}: {what}", self.name);
        self.reporter.fail(JobFailure { fault, message, environment: None });
    }

    fn check<T>(&mut self, stored: io::Result<T>) {
        if let Err(error) = stored {
            self.failed = true;
            self.reporter.storage(&self.name, &error);
        }
    }

    /// What the workers that this one takes over may have left: every part is settled by one worker.
    fn recoveries(&self) -> io::Result<Vec<Recovery>> {
        let (shard, shards) = (self.saver.shard(), self.saver.shards());
        let mut recoveries = Vec::new();
        for part in self.saver.restored().iter().filter(|part| part.head.shard as usize % shards == shard) {
            let Some(sink) = &part.head.sink else { continue };
            let mut records = SpillQueue::new(&self.job.budget);
            part.carried(|carried| records.push(carried.batch))?;
            let records = vec![records.freeze()?];
            let SavedSink { transactional_id, topic } = sink.clone();
            recoveries.push(Recovery { id: transactional_id, topic, epoch: part.head.epoch, records });
        }
        Ok(recoveries)
    }

    fn enqueue(&mut self, moment: Moment, batch: Batch) {
        if batch.is_empty() {
            return;
        }
        let budget = &self.job.budget;
        let waiting = self.input.entry(moment.epoch).or_insert_with(|| Waiting::new(budget));
        waiting.watermark = waiting.watermark.min(moment.watermark);
        let stored = waiting.batches.push(batch);
        self.check(stored);
    }

    /// One activation. True while the operator is not finished.
    fn visit(&mut self, frontier: AntichainRef<'_, Moment>) -> bool {
        self.listen();
        if self.failed {
            // Capabilities stay where they are: nothing may take silence for the end.
            return true;
        }
        loop {
            match &self.guarantee {
                Guarantee::AtLeastOnce { .. } => self.write(),
                Guarantee::ExactlyOnce(_) => self.write_durable(),
            }
            let reached = time::epoch(frontier).filter(|reached| *reached > self.epoch);
            match reached {
                Some(reached) if !self.failed && self.may_step() => self.step(reached),
                _ => break,
            }
        }
        if self.failed {
            return true;
        }
        let is_busy = self.hold(frontier);
        let given_up = match &self.guarantee {
            Guarantee::ExactlyOnce(InTransactions { saved: Some(saved), .. }) => saved.given_up,
            _ => 0,
        };
        let ahead = AHEAD.saturating_mul(self.job.budget.limit());
        self.flow.hold_sources(given_up > ahead);
        // All of an epoch must come before any of it is written, so that alone holds nobody up.
        let mut allowed = match &self.guarantee {
            Guarantee::AtLeastOnce { .. } => 0,
            Guarantee::ExactlyOnce(InTransactions { saved: Some(_), .. }) => ahead,
            Guarantee::ExactlyOnce(_) => usize::MAX,
        };
        // What comes before a checkpoint that is under way has to come, or that one would wait for ever.
        let open = if allowed > 0 { self.job.checkpoints.epoch() } else { 0 };
        self.flow.update(self.input.iter().map(|(epoch, at)| {
            let bytes = at.batches.bytes();
            let of_it = if *epoch < open { bytes } else { bytes.min(allowed) };
            allowed = allowed.saturating_sub(of_it);
            EpochBytes { epoch: *epoch, bytes: bytes - of_it }
        }));
        is_busy
    }

    fn listen(&mut self) {
        while let Some(told) = self.writer.as_ref().and_then(Writer::told) {
            match told {
                FromWriter::Ready => self.is_ready = true,
                FromWriter::Written => {
                    if let Guarantee::ExactlyOnce(transactions) = &mut self.guarantee {
                        transactions.writing = false;
                        transactions.saved = None;
                    }
                }
                FromWriter::Failed(failure) => {
                    self.fail(fault(&failure), failure.message);
                    return;
                }
            }
        }
    }

    /// At least once: gives the writer what it takes.
    fn write(&mut self) {
        let (Some(writer), true) = (&self.writer, self.is_ready) else { return };
        let Guarantee::AtLeastOnce { sent, watermark } = &mut self.guarantee else { return };
        loop {
            let batch = match self.given_back.take() {
                Some(batch) => batch,
                None => {
                    let Some(mut first) = self.input.first_entry().filter(|first| *first.key() <= self.epoch) else {
                        return;
                    };
                    match first.get_mut().batches.pop() {
                        Ok(Some(batch)) => {
                            *watermark = (*watermark).min(first.get().watermark);
                            batch
                        }
                        Ok(None) => {
                            first.remove();
                            continue;
                        }
                        Err(error) => return self.check(Err::<(), _>(error)),
                    }
                }
            };
            let records = batch.len() as u64;
            match writer.order(ToWriter::Write(batch)) {
                None => *sent += records,
                Some(ToWriter::Write(batch)) => {
                    self.given_back = Some(batch);
                    return;
                }
                Some(ToWriter::WriteEpoch { .. }) => return,
            }
        }
    }

    /// Exactly once: has the writer write what is durable.
    fn write_durable(&mut self) {
        let durable = self.job.checkpoints.durable();
        let (Some(writer), true) = (&self.writer, self.is_ready) else { return };
        let Guarantee::ExactlyOnce(transactions) = &mut self.guarantee else { return };
        let InTransactions { saved: Some(saved), writing: writing @ false, .. } = transactions else { return };
        if durable < saved.epoch {
            return;
        }
        match saved.waiting.batches.freeze() {
            // It has taken all that it was given before, so it takes this.
            Ok(records) => {
                *writing = writer.order(ToWriter::WriteEpoch { epoch: saved.epoch, records: vec![records] }).is_none()
            }
            Err(error) => self.check(Err::<(), _>(error)),
        }
    }

    /// Whether nothing of this epoch is left that has to be done in it.
    fn may_step(&self) -> bool {
        match &self.guarantee {
            Guarantee::AtLeastOnce { sent, .. } => {
                let all_given =
                    self.given_back.is_none() && self.input.keys().next().is_none_or(|first| *first > self.epoch);
                self.is_ready && all_given && self.writer.as_ref().is_some_and(|writer| writer.done() == *sent)
            }
            // What is durable is written first. What was saved for a checkpoint that was given up goes with the next.
            Guarantee::ExactlyOnce(transactions) => {
                let durable = self.job.checkpoints.durable();
                let unwritten = transactions.saved.as_ref().is_some_and(|saved| saved.epoch <= durable);
                self.is_ready && !transactions.writing && !unwritten
            }
        }
    }

    fn step(&mut self, reached: u64) {
        if let Some(border) = self.saver.border(self.epoch, reached) {
            let mut head = PartHead { form: self.form.clone(), ..PartHead::of(PartKind::KafkaWrite) };
            let frozen = match &mut self.guarantee {
                Guarantee::AtLeastOnce { .. } => Ok(Frozen::default()),
                Guarantee::ExactlyOnce(transactions) => {
                    let (transactional_id, topic) = (transactions.id.clone(), self.topic.clone());
                    head.sink = Some(SavedSink { transactional_id, topic });
                    let later = self.input.split_off(&border.epoch());
                    let came = std::mem::replace(&mut self.input, later);
                    transactions.save(border.epoch(), came, &self.job.budget)
                }
            };
            match frozen {
                Ok(frozen) => border.save(head, frozen),
                Err(error) => return self.check(Err::<(), _>(error)),
            }
        }
        self.epoch = reached;
    }

    /// Stands where something may still be to be written. True while something is.
    fn hold(&mut self, frontier: AntichainRef<'_, Moment>) -> bool {
        let mut moments = Antichain::new();
        moments.extend(self.input.iter().map(|(epoch, at)| Moment { epoch: *epoch, watermark: at.watermark }));
        let begun = match &mut self.guarantee {
            Guarantee::AtLeastOnce { sent, watermark } => {
                if self.given_back.is_none() && self.writer.as_ref().is_some_and(|writer| writer.done() == *sent) {
                    *watermark = i64::MAX;
                }
                *watermark
            }
            Guarantee::ExactlyOnce(transactions) => {
                transactions.saved.as_ref().map_or(i64::MAX, |saved| saved.waiting.watermark)
            }
        };
        let begun = if self.is_ready { begun } else { i64::MIN };
        if begun < i64::MAX {
            moments.insert(Moment { epoch: self.epoch, watermark: begun });
        }
        let is_busy = !moments.is_empty();
        moments.extend(frontier.iter().copied());
        self.capabilities.downgrade(moments.iter());
        is_busy
    }
}

impl InTransactions {
    /// Saves what came before the border of checkpoint `epoch`, behind what was saved for one that was given up.
    fn save(&mut self, epoch: u64, came: BTreeMap<u64, Waiting>, budget: &Budget) -> io::Result<Frozen> {
        let mut all = self.saved.take().map_or_else(|| Waiting::new(budget), |saved| saved.waiting);
        let given_up = all.batches.bytes();
        came.into_values().try_for_each(|waiting| all.append(waiting))?;
        let frozen = all.batches.freeze()?;
        let moment = Moment { epoch: 0, watermark: all.watermark };
        self.saved = Some(SavedEpoch { epoch, waiting: all, given_up });
        let mut carried = Carried::over(epoch, None);
        carried.add_saved([FrozenBatches::new(move |see| frozen.read(|batch| see(moment, batch)))]);
        Ok(carried.frozen(None))
    }
}
