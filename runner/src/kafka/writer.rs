//! Writes records on a thread of its own: at least once, or in transactions ([`super::transactions`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::client::{Context, LEAVING, Undelivered, Warn};
use super::config;
use super::reader::KafkaFailure;
use super::record::{BadRecord, ElementDecoder, NoRecord, WriteElement, WriteRecord};
use super::spec::{KafkaInDoubt, KafkaWrite};
use super::transactions::{Recovery, Transactions};
use crate::element::{Batch, ElementCoder, ElementError, FrozenQueue};
use crate::leaving::Leaving;

/// Batches that may wait to be written.
const BATCHES_WAITING: usize = 2;
/// How long is waited for librdkafka at once. Its `flush` takes a tenth of a second at the least.
const POLL: Duration = Duration::from_millis(1);
/// How long nothing may be there to be written before callbacks are served all the same.
const IDLE: Duration = Duration::from_millis(100);

/// What a writer is to do.
pub(crate) struct WriterTask {
    /// What is written, and how its elements are encoded.
    pub(crate) form: WrittenForm,
    /// What an earlier attempt may have left: it is settled first.
    pub(crate) recoveries: Vec<Recovery>,
    /// What becomes of it where Kafka does not know it any more.
    pub(crate) in_doubt: KafkaInDoubt,
    /// Exactly once. None: at least once.
    pub(crate) transactions: Option<TransactionTask>,
}

/// Why records are not written.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// What reached the writer is no record.
    #[error("an element that is to be written to Kafka does not match its coder: {0}")]
    Malformed(#[from] ElementError),
    /// It is none in the format in which it is to be written.
    #[error(
        "an element cannot be written to Kafka in the format of its topic: {0}; with error_handling, it would go to an output of errors"
    )]
    Unwritable(BadRecord),
    /// Brokers did not take it.
    #[error(transparent)]
    Undelivered(#[from] Undelivered),
}

impl From<NoRecord> for WriteError {
    fn from(why: NoRecord) -> WriteError {
        match why {
            NoRecord::Malformed(error) => WriteError::Malformed(error),
            NoRecord::Bad(bad) => WriteError::Unwritable(bad),
        }
    }
}

impl WriteError {
    /// Whether records will not be taken however often they are sent.
    pub(super) fn is_final(&self) -> bool {
        use RDKafkaErrorCode as Code;
        match self {
            WriteError::Malformed(_) | WriteError::Unwritable(_) => true,
            // Without a code it did not even come to a broker: the name of a topic is none.
            WriteError::Undelivered(undelivered) => undelivered.code.is_none_or(|code| {
                matches!(
                    code,
                    Code::MessageSizeTooLarge
                        | Code::InvalidMessageSize
                        | Code::InvalidRecord
                        | Code::InvalidTimestamp
                        | Code::TopicAuthorizationFailed
                        | Code::UnknownPartition
                        | Code::UnknownTopic
                        | Code::UnknownTopicOrPartition
                        | Code::InvalidTopic
                        | Code::InvalidArgument
                )
            }),
        }
    }

    fn failure(&self) -> KafkaFailure {
        KafkaFailure { message: self.to_string(), may_pass: !self.is_final() }
    }
}

/// Elements that are records.
#[derive(Clone)]
pub(crate) struct WrittenForm {
    pub(crate) write: KafkaWrite,
    pub(crate) coder: ElementCoder,
    pub(crate) decoder: Arc<ElementDecoder>,
    /// Whether the process is about to end.
    pub(crate) leaving: Leaving,
}

impl WrittenForm {
    /// An error says what of a format is not understood.
    pub(crate) fn new(
        write: KafkaWrite,
        element: WriteElement,
        coder: ElementCoder,
        leaving: Leaving,
    ) -> Result<WrittenForm, String> {
        Ok(WrittenForm { write, coder, decoder: Arc::new(ElementDecoder::new(element)?), leaving })
    }
}

/// See [`WriterTask::transactions`].
pub(crate) struct TransactionTask {
    /// The `transactional.id`.
    pub(crate) id: String,
    /// The epoch that the job starts from.
    pub(crate) first_epoch: u64,
}

/// Orders to a writer.
pub(crate) enum ToWriter {
    /// Write these, at least once.
    Write(Batch),
    /// Write the records of a checkpoint that is durable, in one transaction.
    WriteEpoch { epoch: u64, records: Vec<FrozenQueue> },
}

/// What a writer tells.
#[derive(Debug)]
pub(crate) enum FromWriter {
    /// What an earlier attempt left is settled, and a `transactional.id` is the writer's own.
    Ready,
    /// The records of the checkpoint that was ordered are in Kafka.
    Written,
    /// It cannot go on.
    Failed(KafkaFailure),
}

/// A running writer. It ends when this is dropped, which waits a short while for a transaction that is being written: one that
/// is left open holds readers up.
pub(crate) struct Writer {
    /// None when nothing more is to be ordered.
    orders: Option<Sender<ToWriter>>,
    told: Receiver<FromWriter>,
    done: Arc<AtomicU64>,
    /// Ends with the thread.
    ended: Receiver<()>,
}

impl Writer {
    /// Starts it. `wake` is called whenever something has become of what was ordered.
    pub(crate) fn start(
        task: WriterTask,
        warn: Warn,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> std::io::Result<Writer> {
        let (orders, taken) = crossbeam_channel::bounded(BATCHES_WAITING);
        let (tell, told) = crossbeam_channel::unbounded();
        let done = Arc::new(AtomicU64::new(0));
        let of_thread = Arc::clone(&done);
        let (alive, ended) = crossbeam_channel::bounded(0);
        std::thread::Builder::new().name("kafka-write".into()).spawn(move || {
            let _alive: Sender<()> = alive;
            let tell = |what| {
                // Fails only when nobody waits any more.
                let _ = tell.send(what);
                wake();
            };
            let WriterTask { form, recoveries, in_doubt, transactions } = task;
            let mut own = None;
            let settled = recoveries.into_iter().try_for_each(|left| {
                let settled = Transactions::settle(&form, left, in_doubt, &warn)?;
                if transactions.as_ref().is_some_and(|task| settled.is(&task.id, &form.write.topic)) {
                    own = Some(settled);
                }
                Ok(())
            });
            let ended = settled.and_then(|()| match transactions {
                None => {
                    tell(FromWriter::Ready);
                    at_least_once(&form, &warn, &taken, &of_thread, &wake)
                }
                Some(task) => {
                    let transactions = Transactions::begin(&form, own, task, &warn)?;
                    tell(FromWriter::Ready);
                    in_transactions(transactions, &taken, &tell)
                }
            });
            if let Err(failure) = ended {
                tell(FromWriter::Failed(failure));
            }
        })?;
        Ok(Writer { orders: Some(orders), told, done, ended })
    }

    /// Takes an order, or gives it back while earlier ones are not worked off.
    pub(crate) fn order(&self, order: ToWriter) -> Option<ToWriter> {
        let Some(orders) = &self.orders else { return Some(order) };
        // Where the thread has ended, it has said why.
        orders.try_send(order).err().map(crossbeam_channel::TrySendError::into_inner)
    }

    /// What it has told.
    pub(crate) fn told(&self) -> Option<FromWriter> {
        match self.told.try_recv() {
            Ok(told) => Some(told),
            Err(TryRecvError::Empty) => None,
            // It says why where it can.
            Err(TryRecvError::Disconnected) => Some(FromWriter::Failed(KafkaFailure {
                message: "the thread that writes to Kafka has ended; its message is in the log".to_owned(),
                may_pass: true,
            })),
        }
    }

    /// Records that brokers have acknowledged, of those that are written at least once.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.orders = None;
        // The process may end with whoever drops this.
        let _ = self.ended.recv_timeout(LEAVING);
    }
}

fn at_least_once(
    form: &WrittenForm,
    warn: &Warn,
    orders: &Receiver<ToWriter>,
    done: &AtomicU64,
    wake: &dyn Fn(),
) -> Result<(), KafkaFailure> {
    let configured = config::producer(&form.write.producer_config).map_err(|error| for_owner(&error))?;
    let producer: BaseProducer<Context> = configured
        .create_with_context(Context::new(Arc::clone(warn)))
        .map_err(|error| for_owner(&config::refused(error)))?;
    let mut told = 0;
    // Since when the first record waits.
    let mut first: Option<Instant> = None;
    loop {
        let wait = if producer.in_flight_count() > 0 { POLL } else { IDLE };
        match orders.recv_timeout(wait) {
            Ok(ToWriter::Write(batch)) => {
                write(&producer, form, &batch).map_err(|error| error.failure())?;
                // There is room for another.
                wake();
            }
            Ok(ToWriter::WriteEpoch { .. }) => return Err(for_owner(&"a transaction was asked of a writer without")),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        producer.poll(Duration::ZERO);
        let deliveries = producer.context().deliveries();
        if let Some(failure) = &deliveries.failure {
            let mut failure = WriteError::from(failure.clone()).failure();
            failure.message.push_str(&producer.context().last_fault());
            return Err(failure);
        }
        let now_done = deliveries.done;
        drop(deliveries);
        if now_done == 0 && producer.in_flight_count() > 0 {
            let waited = first.get_or_insert_with(Instant::now).elapsed();
            if let Some(message) = producer.context().refusal(&form.write.producer_config, waited) {
                return Err(KafkaFailure { message: format!("topic {}: {message}", form.write.topic), may_pass: true });
            }
        }
        done.store(now_done, Ordering::Release);
        // What is in flight counts other events, too: they may keep it from being none for a while after the last record.
        if now_done != told && producer.in_flight_count() == 0 {
            told = now_done;
            wake();
        }
    }
}

/// A failure that does not pass.
pub(super) fn for_owner(what: &dyn std::fmt::Display) -> KafkaFailure {
    KafkaFailure { message: what.to_string(), may_pass: false }
}

fn in_transactions(
    mut transactions: Transactions,
    orders: &Receiver<ToWriter>,
    tell: &dyn Fn(FromWriter),
) -> Result<(), KafkaFailure> {
    loop {
        match orders.recv_timeout(IDLE) {
            Ok(ToWriter::WriteEpoch { epoch, records }) => {
                transactions.write(epoch, &records)?;
                tell(FromWriter::Written);
            }
            Ok(ToWriter::Write(_)) => return Err(for_owner(&"a record without a transaction")),
            Err(RecvTimeoutError::Timeout) => transactions.poll(),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Gives the records of a batch to a producer, and waits while it has too many.
pub(super) fn write(producer: &BaseProducer<Context>, form: &WrittenForm, batch: &Batch) -> Result<(), WriteError> {
    for element in batch.elements() {
        let view = form.coder.parse(element)?;
        let record = form.decoder.decode(view.value)?;
        send(producer, record.topic.as_deref().unwrap_or(&form.write.topic), &record)?;
    }
    Ok(())
}

fn send(producer: &BaseProducer<Context>, topic: &str, record: &WriteRecord<'_>) -> Result<(), Undelivered> {
    let mut sent: BaseRecord<'_, [u8], [u8], ()> = BaseRecord::to(topic);
    if let Some(key) = &record.key {
        sent = sent.key(key);
    }
    if let Some(value) = &record.value {
        sent = sent.payload(value);
    }
    if let Some(headers) = &record.headers {
        let all = headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |all, header| {
            all.insert(Header { key: &header.key, value: header.value })
        });
        sent = sent.headers(all);
    }
    if let Some(partition) = record.partition {
        sent = sent.partition(partition);
    }
    if let Some(mut timestamp) = record.timestamp {
        if timestamp == 0 {
            // To librdkafka (2.12.1) it is no timestamp, and it takes the clock's.
            timestamp = 1;
            producer.context().tell("timestamp 0", || {
                format!(
                    "topic {topic}: a record with the timestamp 0 is written with 1, a millisecond later: librdkafka has no way to write 0"
                )
            });
        }
        sent = sent.timestamp(timestamp);
    }
    loop {
        match producer.send(sent) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                sent = back;
                producer.poll(POLL);
                if let Some(failure) = &producer.context().deliveries().failure {
                    return Err(failure.clone());
                }
            }
            Err((error, _)) => return Err(Undelivered::new(topic, &error)),
        }
    }
}

/// Waits until everything is acknowledged that a producer was given, or nobody waits for it any more.
pub(super) fn drain(producer: &BaseProducer<Context>, is_given_up: impl Fn() -> bool) -> Result<(), WriteError> {
    loop {
        if let Some(failure) = &producer.context().deliveries().failure {
            return Err(failure.clone().into());
        }
        if producer.in_flight_count() == 0 || is_given_up() {
            return Ok(());
        }
        producer.poll(POLL);
    }
}
