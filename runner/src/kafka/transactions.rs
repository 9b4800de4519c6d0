//! Exactly once: the records of a checkpoint are a part of it; once it is durable one transaction writes them, and in it
//! commits the checkpoint's epoch as an offset of a group that nobody else has. Which epochs Kafka has is then known from
//! that offset, whatever died when.
//!
//! What brokers and librdkafka do (measured with Kafka 4.4.0 and librdkafka 2.12.1) is the reason for the order of things:
//!
//! - `init_transactions` comes before the offset is read. It aborts what a producer with this id has left open, or waits
//!   for its commit, and a transaction that is open hides the offset from a client that reads what is committed.
//! - A group that has committed and has no offset any more has lost it (`offsets.retention.minutes`, or somebody deleted
//!   it): whether an epoch is in Kafka cannot be known then, which is an error and never a guess.
//! - After any error the producer is made anew, and the offset read again, before anything else is sent: a request of
//!   the old one may still be on its way.
//! - `commit_transaction` returns before readers see the records.
//! - Offsets must be of a partition that exists, and are committed for a group without members.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::client::{Context, Warn};
use super::config;
use super::reader::KafkaFailure;
use super::writer::{TransactionTask, WriteError, WrittenForm, drain, for_owner, write};
use crate::element::FrozenQueue;

/// How long one call of a producer may take before it is made again.
const CALL: Duration = Duration::from_secs(10);
/// The pause before a producer is made anew.
const PAUSE: Duration = Duration::from_millis(200);
/// How often in a row another producer may take the id.
const FENCED_AT_MOST: u32 = 5;
/// An epoch is committed again after so long, also where nothing was written: brokers forget the offsets of a group
/// without members after seven days, and producers' ids, too.
const COMMIT_AGAIN: Duration = Duration::from_secs(12 * 3600);
/// How long brokers let a transaction be open, unless the configuration says. It is held open only while it is written.
const TRANSACTION_TIMEOUT: &str = "300000";

/// What an attempt may have left: records of a checkpoint that may or may not be in Kafka.
pub(crate) struct Recovery {
    /// The id that they were to be written under.
    pub(crate) id: String,
    /// The topic of which partition 0 has the offset that tells, and that they were for.
    pub(crate) topic: String,
    /// Their epoch.
    pub(crate) epoch: u64,
    pub(crate) records: Vec<FrozenQueue>,
}

/// Why a call did not succeed.
enum Fault {
    /// It may with a new producer.
    Passing(String),
    /// Another producer has the id, or a transaction took longer than brokers let it.
    Fenced(String),
    /// It will not.
    Final(String),
}

/// A producer of transactions.
pub(crate) struct Transactions {
    form: WrittenForm,
    id: String,
    warn: Warn,
    context: Arc<Context>,
    producer: BaseProducer<Context>,
    /// Reads the offset, and is the group that commits it.
    group: BaseConsumer<Context>,
    /// The last epoch that is in Kafka.
    epoch: Option<u64>,
    committed: Instant,
}

impl Transactions {
    /// Settles what an earlier attempt left: what of it Kafka lacks is written. Its id is this producer's now, so that whoever
    /// had it before writes no more.
    pub(super) fn settle(form: &WrittenForm, recovery: Recovery, warn: &Warn) -> Result<Transactions, KafkaFailure> {
        let Recovery { id, topic, epoch, records } = recovery;
        let mut form = form.clone();
        form.write.topic = topic;
        let mut transactions = Transactions::open(&form, id, warn)?;
        match transactions.epoch {
            Some(known) if known > epoch => warn(format!(
                "topic {}: Kafka has what this job wrote up to checkpoint {known}, and the job starts from checkpoint {epoch}: \
                 what it wrote between the two is written again",
                form.write.topic
            )),
            Some(_) => {}
            // There was nothing to be written.
            None if records.iter().all(FrozenQueue::is_empty) => {}
            None => {
                return Err(for_owner(&format!(
                    "whether the records of checkpoint {epoch} are in topic {} cannot be known: the group {}, whose offset \
                     said so, has none any more. Brokers forget it after offsets.retention.minutes (7 days unless set) without \
                     the job, or somebody has deleted it. Compare the end of the topic with what the job wrote last, then \
                     set an offset of that group for partition 0 of the topic: {epoch} if the records are there, 0 if not",
                    form.write.topic, transactions.id
                )));
            }
        }
        transactions.write(epoch, &records)?;
        Ok(transactions)
    }

    /// Whether this is the producer with that id, for that topic.
    pub(super) fn is(&self, id: &str, topic: &str) -> bool {
        self.id == id && self.form.write.topic == topic
    }

    /// Takes an id, for a job that starts from `first_epoch`, unless `own` has it.
    pub(super) fn begin(
        form: &WrittenForm,
        own: Option<Transactions>,
        TransactionTask { id, first_epoch }: TransactionTask,
        warn: &Warn,
    ) -> Result<Transactions, KafkaFailure> {
        let mut transactions = match own {
            Some(own) => own,
            None => Transactions::open(form, id, warn)?,
        };
        if transactions.epoch.is_none() {
            // From now on a group without an offset has lost it.
            transactions.write_all(first_epoch, &[])?;
        }
        Ok(transactions)
    }

    fn open(form: &WrittenForm, id: String, warn: &Warn) -> Result<Transactions, KafkaFailure> {
        let group = {
            let mut configured = config::consumer(&group_config(form)).map_err(|error| for_owner(&error))?;
            // Only such a client waits for what is undecided.
            configured.set("group.id", &id).set("isolation.level", "read_committed");
            configured
                .create_with_context(Context::new(Arc::clone(warn)))
                .map_err(|error| for_owner(&config::refused(error)))?
        };
        let producer = producer(form, &id, warn)?;
        let context = Arc::clone(producer.context());
        let mut transactions = Transactions {
            form: form.clone(),
            id,
            warn: Arc::clone(warn),
            context,
            producer,
            group,
            epoch: None,
            committed: Instant::now(),
        };
        let taken = transactions.take_id();
        transactions.until_it_works(taken, |_| Ok(()))?;
        Ok(transactions)
    }

    /// Writes the records of an epoch, unless Kafka has them.
    pub(super) fn write(&mut self, epoch: u64, records: &[FrozenQueue]) -> Result<(), KafkaFailure> {
        if self.epoch.is_some_and(|known| known >= epoch) {
            return Ok(());
        }
        // Nothing to say, and nothing that brokers would forget.
        if records.iter().all(FrozenQueue::is_empty) && self.committed.elapsed() < COMMIT_AGAIN {
            return Ok(());
        }
        self.write_all(epoch, records)
    }

    fn write_all(&mut self, epoch: u64, records: &[FrozenQueue]) -> Result<(), KafkaFailure> {
        let written = self.transaction(epoch, records);
        self.until_it_works(written, |this| {
            if this.epoch.is_some_and(|known| known >= epoch) { Ok(()) } else { this.transaction(epoch, records) }
        })?;
        self.epoch = Some(epoch);
        self.committed = Instant::now();
        Ok(())
    }

    /// Serves librdkafka's callbacks.
    pub(super) fn poll(&self) {
        self.producer.poll(Duration::ZERO);
        let _ = self.group.poll(Duration::ZERO);
    }

    /// While `outcome` is a fault: makes the producer anew, learns what Kafka has, and tries `again`.
    fn until_it_works(
        &mut self,
        mut outcome: Result<(), Fault>,
        again: impl Fn(&mut Transactions) -> Result<(), Fault>,
    ) -> Result<(), KafkaFailure> {
        let mut fenced = 0;
        loop {
            let why = match outcome {
                Ok(()) => return Ok(()),
                Err(Fault::Final(why)) => return Err(for_owner(&format!("topic {}: {why}", self.form.write.topic))),
                Err(Fault::Fenced(why)) => {
                    fenced += 1;
                    if fenced > FENCED_AT_MOST {
                        let message = format!(
                            "topic {}: the transactional.id {} is taken again and again, by another producer, or because records of a \
                             checkpoint take longer to write than transaction.timeout.ms: {why}",
                            self.form.write.topic, self.id
                        );
                        return Err(KafkaFailure { message, may_pass: true });
                    }
                    why
                }
                Err(Fault::Passing(why)) => why,
            };
            self.context.tell(&why, || {
                format!("topic {}: {why}; the transaction is begun anew with a new producer", self.form.write.topic)
            });
            std::thread::sleep(PAUSE);
            self.producer = producer(&self.form, &self.id, &self.warn)?;
            outcome = self.take_id().and_then(|()| again(self));
        }
    }

    /// Makes the id this producer's, and reads which epoch Kafka has.
    fn take_id(&mut self) -> Result<(), Fault> {
        self.producer.init_transactions(CALL).map_err(|error| fault(&error, "init_transactions"))?;
        let list = self.offset(Offset::Invalid)?;
        let found = self.group.committed_offsets(list, CALL);
        let found = found.map_err(|error| fault(&error, "reading the epoch that was committed"))?;
        let found = found.find_partition(&self.form.write.topic, 0);
        let found =
            found.ok_or_else(|| Fault::Passing("the epoch that was committed is not in the answer".to_owned()))?;
        found.error().map_err(|error| fault(&error, "reading the epoch that was committed"))?;
        self.epoch = match found.offset() {
            Offset::Offset(epoch) => u64::try_from(epoch).ok(),
            _ => None,
        };
        Ok(())
    }

    fn offset(&self, offset: Offset) -> Result<TopicPartitionList, Fault> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.form.write.topic, 0, offset).map_err(|error| fault(&error, "an epoch"))?;
        Ok(list)
    }

    fn transaction(&self, epoch: u64, records: &[FrozenQueue]) -> Result<(), Fault> {
        self.producer.begin_transaction().map_err(|error| fault(&error, "begin_transaction"))?;
        let row = self.form.element.row_type();
        for input in records {
            let mut failed = None;
            let read = input.clone().read(|batch| {
                write(&self.producer, &self.form, &row, &batch).map_err(|why| {
                    failed = Some(why);
                    std::io::Error::other("the producer")
                })
            });
            match (failed, read) {
                (Some(why), _) => return Err(self.unwritten(&why)),
                (None, Err(error)) => return Err(Fault::Final(format!("data kept on disk: {error}"))),
                (None, Ok(())) => {}
            }
        }
        drain(&self.producer).map_err(|why| self.unwritten(&why))?;
        let epoch = i64::try_from(epoch).map_err(|_| Fault::Final(format!("an epoch of {epoch}")))?;
        let offset = self.offset(Offset::Offset(epoch))?;
        let group = self.group.group_metadata().ok_or_else(|| Fault::Final("a group without metadata".to_owned()))?;
        self.producer
            .send_offsets_to_transaction(&offset, &group, CALL)
            .map_err(|error| fault(&error, "send_offsets_to_transaction"))?;
        self.producer.commit_transaction(CALL).map_err(|error| fault(&error, "commit_transaction"))
    }

    /// What it means that records were not written: what the producer says of itself, if it does.
    fn unwritten(&self, error: &WriteError) -> Fault {
        let why = error.to_string();
        match self.producer.client().fatal_error() {
            Some((code, _)) if is_fenced(code) => Fault::Fenced(why),
            _ if error.is_final() => Fault::Final(why),
            _ => Fault::Passing(why),
        }
    }
}

/// The client that reads epochs is of the producer's cluster and has its credentials.
fn group_config(form: &WrittenForm) -> std::collections::BTreeMap<String, String> {
    let of_client = |name: &str| {
        [
            "bootstrap.servers",
            "metadata.broker.list",
            "security.",
            "sasl.",
            "ssl.",
            "client.",
            "socket.",
            "https.",
            "enable.ssl",
            "enable.sasl",
        ]
        .iter()
        .any(|start| name.starts_with(start))
    };
    let config = form.write.producer_config.iter().filter(|(name, _)| of_client(name));
    config.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn producer(form: &WrittenForm, id: &str, warn: &Warn) -> Result<BaseProducer<Context>, KafkaFailure> {
    let mut user = form.write.producer_config.clone();
    // Nothing less is a transaction; and how long a record may take follows from how long a transaction may.
    ["acks", "request.required.acks", "delivery.timeout.ms", "message.timeout.ms"]
        .iter()
        .for_each(|name| drop(user.remove(*name)));
    let mut configured = config::producer(&user).map_err(|error| for_owner(&error))?;
    configured.set("transactional.id", id).set("enable.idempotence", "true");
    if !form.write.producer_config.contains_key("transaction.timeout.ms") {
        configured.set("transaction.timeout.ms", TRANSACTION_TIMEOUT);
    }
    configured.create_with_context(Context::new(Arc::clone(warn))).map_err(|error| for_owner(&config::refused(error)))
}

fn is_fenced(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Fenced
            | RDKafkaErrorCode::ProducerFenced
            | RDKafkaErrorCode::InvalidProducerEpoch
            | RDKafkaErrorCode::InvalidProducerIdMapping
    )
}

fn fault(error: &KafkaError, call: &str) -> Fault {
    use RDKafkaErrorCode as Code;
    let why = format!("{call}: {error}");
    let Some(code) = error.rdkafka_error_code() else { return Fault::Passing(why) };
    if is_fenced(code) {
        return Fault::Fenced(format!(
            "{why}: another producer has this id, or the transaction took longer than transaction.timeout.ms"
        ));
    }
    match code {
        Code::InvalidTransactionTimeout => Fault::Final(format!(
            "{why}: transaction.timeout.ms is more than the broker's transaction.max.timeout.ms; set it to less in the \
             producer's configuration"
        )),
        Code::TransactionalIdAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::UnknownTopic => Fault::Final(why),
        Code::UnknownTopicOrPartition => {
            Fault::Final(format!("{why}: the topic is not there; create it, or correct its name"))
        }
        _ => Fault::Passing(why),
    }
}
