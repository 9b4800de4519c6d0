//! What clients of librdkafka tell.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{NoCustomPartitioner, ProducerContext};
use rdkafka::topic_partition_list::TopicPartitionList;

/// A fault that goes on is told again after so long.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// How long no broker may answer before a job is told that none will.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(60);

/// How long the end of a reader or a writer may take.
pub(crate) const LEAVING: Duration = Duration::from_secs(2);
/// How long brokers may refuse a client before a job is told so.
const REFUSED: Duration = Duration::from_secs(3);

/// Told of what does not fail a job yet, in words for its owner.
pub(crate) type Warn = Arc<dyn Fn(String) + Send + Sync>;

/// A record that no broker took.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record for topic {topic} could not be written: {why}")]
pub(crate) struct Undelivered {
    pub(crate) topic: String,
    pub(crate) why: String,
    pub(crate) code: Option<RDKafkaErrorCode>,
}

impl Undelivered {
    pub(crate) fn new(topic: &str, error: &KafkaError) -> Undelivered {
        Undelivered { topic: topic.to_owned(), why: error.to_string(), code: error.rdkafka_error_code() }
    }
}

/// How many records were delivered, and what could not be.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    /// The first failure of a delivery, or the first that says why.
    pub(crate) failure: Option<Undelivered>,
    /// It is not only that records were thrown away.
    tells: bool,
    /// Records that were delivered or were not, since the producer was made.
    pub(crate) done: u64,
}

/// The context of all our clients: what librdkafka logs goes to the log of the process, and faults that it tries to mend by
/// itself, such as a broker that cannot be reached, are told to the job's owner, each kind once a minute.
pub(crate) struct Context {
    warn: Warn,
    told: Mutex<Vec<(String, Instant)>>,
    deliveries: Mutex<Deliveries>,
    last_fault: Mutex<Option<Fault>>,
}

/// A fault that librdkafka told.
#[derive(Clone, Debug)]
struct Fault {
    code: Option<RDKafkaErrorCode>,
    reason: String,
}

impl Context {
    /// Tells faults to `warn`.
    pub(crate) fn new(warn: Warn) -> Context {
        Context { warn, told: Mutex::default(), deliveries: Mutex::default(), last_fault: Mutex::default() }
    }

    /// Tells a fault, unless that was told a short while ago.
    pub(crate) fn tell(&self, kind: &str, message: impl FnOnce() -> String) {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|(_, at)| now.duration_since(*at) < TELL_AGAIN);
        if told.iter().all(|(known, _)| known != kind) {
            told.push((kind.to_owned(), now));
            drop(told);
            (self.warn)(message());
        }
    }

    /// The last fault that librdkafka told, as the end of a sentence: it may be the cause of what goes wrong.
    pub(crate) fn last_fault(&self) -> String {
        let last = self.last_fault.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map_or_else(String::new, |last| format!("; the last that librdkafka told: {}", last.reason))
    }

    /// That brokers do not let this client in, where they have said so and `waited`, without success, was long enough for one that
    /// just starts.
    pub(crate) fn refusal(&self, config: &BTreeMap<String, String>, waited: Duration) -> Option<String> {
        let last = self.last_fault.lock().unwrap_or_else(PoisonError::into_inner);
        let refused =
            [RDKafkaErrorCode::Authentication, RDKafkaErrorCode::SSL, RDKafkaErrorCode::SaslAuthenticationFailed];
        // A certificate that the broker does not take is told as a broken connection.
        let is_refusal = |fault: &&Fault| {
            fault.code.is_some_and(|code| refused.contains(&code)) || fault.reason.contains("SSL alert number")
        };
        let fault = last.as_ref().filter(is_refusal)?;
        (waited >= REFUSED)
            .then(|| format!("the Kafka brokers at {} do not let this client in: {}", brokers(config), fault.reason))
    }

    /// That no broker has answered for so long.
    pub(crate) fn no_broker(&self, config: &BTreeMap<String, String>, waited: Duration) -> String {
        format!(
            "no Kafka broker at {} has answered for {} s: look whether the address is right, whether it can be reached from here, and \
             whether security.protocol and what belongs to it are set{}",
            brokers(config),
            waited.as_secs(),
            self.last_fault()
        )
    }

    /// What has become of records.
    pub(crate) fn deliveries(&self) -> std::sync::MutexGuard<'_, Deliveries> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The brokers that a user has configured.
fn brokers(config: &BTreeMap<String, String>) -> &str {
    config.get("bootstrap.servers").or(config.get("metadata.broker.list")).map_or("", String::as_str)
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            // What fails comes to `error`, too.
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error
                if facility != "FAIL" =>
            {
                tracing::warn!(facility, "librdkafka: {message}");
            }
            _ => tracing::debug!(facility, "librdkafka: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // It comes here for each partition whose end is reached, too.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        // That all of them are down says less than why one is.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            let fault = Fault { code: error.rdkafka_error_code(), reason: reason.to_owned() };
            *self.last_fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        }
        let kind = error.rdkafka_error_code().map(|code| code.to_string()).unwrap_or_default();
        self.tell(&kind, || format!("Kafka: {reason} ({error}); it is tried again"));
    }

    fn stats_raw(&self, _statistics: &[u8]) {}
}

impl ConsumerContext for Context {
    fn commit_callback(&self, result: Result<(), KafkaError>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            self.tell("commit", || {
                format!(
                    "offsets could not be committed to the Kafka group, which the job itself does not need: {error}"
                )
            });
        }
    }
}

impl ProducerContext<NoCustomPartitioner> for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut deliveries = self.deliveries();
        deliveries.done += 1;
        if let Err((error, message)) = result {
            let failed = Undelivered::new(message.topic(), error);
            // What was thrown away because of another says nothing.
            let tells = failed
                .code
                .is_none_or(|code| !matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight));
            if deliveries.failure.is_none() || (tells && !deliveries.tells) {
                deliveries.failure = Some(failed);
                deliveries.tells = tells;
            }
        }
    }
}
