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
//! - Requests of a transaction that librdkafka sends again by itself, since a connection broke or an answer did not come, have
//!   the same producer epoch: the first of them may come late, and then counts for the transaction that is open by then
//!   (KAFKA-17754, librdkafka#5423). A call that took as long as that is followed by a new producer, whose epoch is greater.
//! - `commit_transaction` returns before readers see the records.
//! - Offsets must be of a partition that exists, and are committed for a group without members.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer, PurgeConfig};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::client::{Context, GIVE_UP, Undelivered, Warn};
use super::config;
use super::reader::KafkaFailure;
use super::spec::KafkaInDoubt;
use super::writer::{TransactionTask, WriteError, WrittenForm, drain, for_owner, write};
use crate::element::FrozenQueue;
use crate::leaving::Leaving;

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

/// How long librdkafka waits before it sends a request again, in milliseconds; and by how much it may fall short of that.
const RETRY_BACKOFF: u64 = 100;
const JITTER: u64 = 20;

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
    /// The process is about to end.
    Leaving,
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
    /// A request of this producer's last transaction may still be on its way.
    is_suspect: bool,
    leaving: Leaving,
}

impl Transactions {
    /// Settles what an earlier attempt left: what of it Kafka lacks is written. Its id is this producer's now, so that whoever
    /// had it before writes no more.
    pub(super) fn settle(
        form: &WrittenForm,
        recovery: Recovery,
        in_doubt: KafkaInDoubt,
        warn: &Warn,
    ) -> Result<Transactions, KafkaFailure> {
        let Recovery { id, topic, epoch, records } = recovery;
        let mut form = form.clone();
        form.write.topic = topic;
        let mut transactions = Transactions::open(&form, id, warn)?;
        match transactions.epoch {
            Some(known) if known > epoch => warn(format!(
                "topic {}: Kafka has what was written up to checkpoint {known}, and the job starts from checkpoint {epoch}: \
                 what was written between the two is written again",
                form.write.topic
            )),
            Some(_) => {}
            // There was nothing to be written.
            None if records.iter().all(FrozenQueue::is_empty) => {}
            None if in_doubt == KafkaInDoubt::Write => {}
            None if in_doubt == KafkaInDoubt::Written => {
                transactions.write_all(epoch, &[], |found| found >= epoch)?;
            }
            None => {
                return Err(for_owner(&format!(
                    "whether the records of checkpoint {epoch} are in topic {} cannot be known: the group {}, whose offset \
                     said so, has none any more. Brokers forget it after offsets.retention.minutes (7 days unless set) without \
                     the job, or somebody has deleted it. Compare the end of the topic with what the job is to have written last, and \
                     start from the checkpoint with the option ferrobeam_kafka_in_doubt: WRITTEN if the records are there, WRITE if \
                     they are not, or if some may be there twice",
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
        // From now on a group without an offset has lost it; and brokers forget it no earlier than that long after this start. One that
        // is beyond where the job starts is of a future that was given up, since somebody has set the storage back: the epochs of
        // that are written by this job, anew.
        let known = transactions.epoch.map_or(first_epoch, |known| known.min(first_epoch));
        transactions.write_all(known, &[], |found| found == known)?;
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
            is_suspect: false,
            leaving: form.leaving.clone(),
        };
        let taken = transactions.take_id();
        transactions.until_it_works(Some(GIVE_UP), taken, |_| Ok(()))?;
        Ok(transactions)
    }

    /// Writes the records of an epoch, unless Kafka has them.
    pub(super) fn write(&mut self, epoch: u64, records: &[FrozenQueue]) -> Result<(), KafkaFailure> {
        if self.epoch.is_some_and(|known| known >= epoch) {
            return Ok(());
        }
        if records.iter().all(FrozenQueue::is_empty) && !is_due(self.committed.elapsed()) {
            return Ok(());
        }
        self.write_all(epoch, records, |found| found >= epoch)
    }

    /// Writes the records of an epoch; `is_there` tells by the epoch that Kafka has whether they were.
    fn write_all(
        &mut self,
        epoch: u64,
        records: &[FrozenQueue],
        is_there: impl Fn(u64) -> bool,
    ) -> Result<(), KafkaFailure> {
        let _open = self.leaving.open();
        let written = self.with_a_clean_producer().and_then(|()| self.transaction(epoch, records));
        // What was known before is no reason not to write: only what is learnt from Kafka after a fault is.
        self.until_it_works(None, written, |this| {
            if this.epoch.is_some_and(&is_there) { Ok(()) } else { this.transaction(epoch, records) }
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

    /// While `outcome` is a fault: makes the producer anew, learns what Kafka has, and tries `again`; no longer than `patience`,
    /// if that is given.
    fn until_it_works(
        &mut self,
        patience: Option<Duration>,
        mut outcome: Result<(), Fault>,
        again: impl Fn(&mut Transactions) -> Result<(), Fault>,
    ) -> Result<(), KafkaFailure> {
        let mut fenced = 0;
        let begun = Instant::now();
        loop {
            let why = match outcome {
                Ok(()) => return Ok(()),
                Err(Fault::Final(why)) => {
                    self.abort();
                    return Err(for_owner(&format!("topic {}: {why}", self.form.write.topic)));
                }
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
                Err(Fault::Passing(why)) if !self.leaving.requested() => why,
                Err(Fault::Passing(_) | Fault::Leaving) => {
                    self.abort();
                    let message = format!("topic {}: the process is about to end", self.form.write.topic);
                    return Err(KafkaFailure { message, may_pass: true });
                }
            };
            // Has it tell what goes wrong.
            self.producer.poll(PAUSE);
            if let Some(patience) = patience {
                let (context, config) = (self.producer.context(), &self.form.write.producer_config);
                let waited = begun.elapsed();
                let nobody = || (waited >= patience).then(|| format!("{} ({why})", context.no_broker(config, waited)));
                if let Some(hopeless) = context.refusal(config, waited).or_else(nobody) {
                    let message = format!("topic {}: {hopeless}", self.form.write.topic);
                    return Err(KafkaFailure { message, may_pass: true });
                }
            }
            self.context.tell(&why, || {
                format!("topic {}: {why}; the transaction is begun anew with a new producer", self.form.write.topic)
            });
            outcome = self.renew().and_then(|()| again(self));
        }
    }

    /// Gives a transaction up: one that is left open holds readers up until transaction.timeout.ms.
    fn abort(&self) {
        self.producer.purge(PurgeConfig::default().queue().inflight());
        let begun = Instant::now();
        // It waits for what has become of records, which only this thread can take.
        while self.producer.in_flight_count() > 0 && begun.elapsed() < CALL {
            self.producer.poll(PAUSE);
        }
        if let Err(error) = self.producer.abort_transaction(CALL) {
            tracing::debug!(%error, id = self.id, "a transaction is left open");
        }
    }

    /// Makes the producer anew, and learns what Kafka has.
    fn renew(&mut self) -> Result<(), Fault> {
        let made = producer(&self.form, &self.id, &self.warn);
        self.producer = made.map_err(|failure| Fault::Final(failure.message))?;
        self.is_suspect = false;
        self.take_id()
    }

    /// Before a transaction: a producer of whose last one nothing can still be on its way.
    fn with_a_clean_producer(&mut self) -> Result<(), Fault> {
        if !self.is_suspect {
            return Ok(());
        }
        let before = self.epoch;
        self.renew()?;
        match (before, self.epoch) {
            (Some(before), Some(now)) if now < before => {
                Err(Fault::Final(format!("Kafka has forgotten epoch {before}, which it had taken: it says {now}")))
            }
            _ => Ok(()),
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

    fn transaction(&mut self, epoch: u64, records: &[FrozenQueue]) -> Result<(), Fault> {
        self.producer.begin_transaction().map_err(|error| fault(&error, "begin_transaction"))?;
        for input in records {
            let mut failed = None;
            let read = input.clone().read(|batch| {
                if self.leaving.requested() {
                    return Err(std::io::Error::other("the process is about to end"));
                }
                write(&self.producer, &self.form, &batch).map_err(|why| {
                    failed = Some(why);
                    std::io::Error::other("the producer")
                })
            });
            match (failed, read) {
                (Some(why), _) => return Err(self.unwritten(&why)),
                (None, Err(_)) if self.leaving.requested() => return Err(Fault::Leaving),
                (None, Err(error)) => return Err(Fault::Final(format!("data kept on disk: {error}"))),
                (None, Ok(())) => {}
            }
        }
        drain(&self.producer, || self.leaving.requested()).map_err(|why| self.unwritten(&why))?;
        if self.leaving.requested() {
            return Err(Fault::Leaving);
        }
        let epoch = i64::try_from(epoch).map_err(|_| Fault::Final(format!("an epoch of {epoch}")))?;
        let offset = self.offset(Offset::Offset(epoch))?;
        let group = self.group.group_metadata().ok_or_else(|| Fault::Final("a group without metadata".to_owned()))?;
        let begun = Instant::now();
        self.producer
            .send_offsets_to_transaction(&offset, &group, CALL)
            .map_err(|error| fault(&error, "send_offsets_to_transaction"))?;
        self.producer.commit_transaction(CALL).map_err(|error| fault(&error, "commit_transaction"))?;
        self.is_suspect = may_have_been_sent_again(begun.elapsed());
        Ok(())
    }

    /// What it means that records were not written: what the producer says of itself, if it does.
    fn unwritten(&self, error: &WriteError) -> Fault {
        match self.producer.client().fatal_error() {
            Some((code, _)) if is_fenced(code) => return Fault::Fenced(error.to_string()),
            _ if error.is_final() => return for_good(error),
            _ => {}
        }
        // After the first record that no broker took the others are thrown away, and no more are taken: what comes of those says no
        // more than that.
        self.producer.poll(PAUSE);
        let first = self.producer.context().deliveries().failure.clone().map(WriteError::from);
        if let Some(first) = first.filter(WriteError::is_final) {
            return for_good(&first);
        }
        let why = error.to_string();
        match self.why_not_committed() {
            Some(told) => match WriteError::from(Undelivered::new(&self.form.write.topic, &told)) {
                told if told.is_final() => for_good(&told),
                _ => fault(&told, &why),
            },
            None => Fault::Passing(why),
        }
    }

    /// Why librdkafka will not commit the transaction: it tells whoever asks for something that only a good one can have.
    fn why_not_committed(&self) -> Option<KafkaError> {
        let (offset, group) = (self.offset(Offset::Offset(0)).ok()?, self.group.group_metadata()?);
        self.producer.send_offsets_to_transaction(&offset, &group, CALL).err()
    }
}

/// Of records that will not be written however often they are sent.
fn for_good(error: &WriteError) -> Fault {
    let code = match error {
        WriteError::Undelivered(undelivered) => undelivered.code,
        WriteError::Malformed(_) | WriteError::Unwritable(_) => None,
    };
    match fault_of(code, error.to_string()) {
        Fault::Passing(why) => Fault::Final(why),
        other => other,
    }
}

/// Whether an epoch is committed again of which nothing is to be written, so that brokers do not forget it.
fn is_due(committed_since: Duration) -> bool {
    committed_since >= COMMIT_AGAIN
}

/// Whether calls that took so long may have sent a request more than once.
fn may_have_been_sent_again(took: Duration) -> bool {
    took >= Duration::from_millis(RETRY_BACKOFF - JITTER)
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
    // And how soon a request may be sent again is what one that was is known by.
    [
        "acks",
        "request.required.acks",
        "delivery.timeout.ms",
        "message.timeout.ms",
        "retry.backoff.ms",
        "retry.backoff.max.ms",
    ]
    .iter()
    .for_each(|name| drop(user.remove(*name)));
    let mut configured = config::producer(&user).map_err(|error| for_owner(&error))?;
    configured.set("transactional.id", id).set("enable.idempotence", "true");
    configured.set("retry.backoff.ms", RETRY_BACKOFF.to_string());
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
    fault_of(error.rdkafka_error_code(), format!("{call}: {error}"))
}

fn fault_of(code: Option<RDKafkaErrorCode>, why: String) -> Fault {
    use RDKafkaErrorCode as Code;
    let Some(code) = code else { return Fault::Passing(why) };
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
        Code::TransactionalIdAuthorizationFailed | Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed => {
            Fault::Final(format!(
                "{why}: to write exactly once a client needs the rights Write, Describe and Read on the topic (Read for the offset \
                 that says which checkpoint was written), Write and Describe on its transactional.id, and Read and Describe on the group \
                 of the same name"
            ))
        }
        Code::ClusterAuthorizationFailed
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

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn an_epoch_is_committed_again_long_before_brokers_forget_it() {
        assert!(!is_due(HOUR * 11));
        assert!(is_due(HOUR * 13));
        // `offsets.retention.minutes` and `transactional.id.expiration.ms` are seven days unless set.
        assert!(COMMIT_AGAIN * 2 < HOUR * 24 * 7);
    }

    #[test]
    fn a_call_that_took_as_long_as_a_retry_is_suspect() {
        assert!(!may_have_been_sent_again(Duration::from_millis(5)));
        // librdkafka 2.12.1 draws the pause from 80 to 120 % of what is set.
        assert!(may_have_been_sent_again(Duration::from_millis(RETRY_BACKOFF * 8 / 10)));
    }
}
