//! What a job asks of its checkpoints: Flink's options.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};

use ferrobeam_runner::kafka::KafkaInDoubt;

use super::{Reader, StartFrom};

/// Between two checkpoints of a job that starts from one, and says nothing of its own.
const INTERVAL: NonZeroU64 = NonZeroU64::new(10_000).expect("not zero");

const RETAINED: NonZeroUsize = NonZeroUsize::new(2).expect("not zero");

/// What a job that wants checkpoints asks of them. `None`: it did not. Times in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// From the begin of one to the begin of the next.
    pub interval: NonZeroU64,
    /// How long one may take.
    pub timeout: Option<NonZeroU64>,
    /// From the end of one to the begin of the next.
    pub min_pause: Option<u64>,
    /// How many may be under way at a time.
    pub concurrent: Option<NonZeroU64>,
    /// One that fails fails the job's attempt. Beam's Flink runner hands this to Flink's
    /// `setFailOnCheckpointingErrors`, which tolerates no failure or any number.
    pub fail_on_errors: bool,
    /// Where they are kept; `None`: where the service keeps them.
    pub storage: Option<String>,
    /// The checkpoint of another job to start from.
    pub start_from: Option<StartFrom>,
    /// Saved state that the pipeline has no place for any more is dropped.
    pub allow_non_restored_state: bool,
    /// Kafka sinks write records as they come, and some again after a failure: `checkpointing_mode` `AT_LEAST_ONCE`.
    pub at_least_once: bool,
    /// What Kafka sinks do with records of which it is not known whether they were written.
    pub kafka_in_doubt: KafkaInDoubt,
    /// They stay when the job fails, for a later one to start from.
    pub externalized: bool,
    /// They stay when the job is cancelled.
    pub retained_on_cancellation: bool,
    /// New names of transforms, by those that they have in the checkpoint to start from.
    pub renamed: BTreeMap<String, String>,
    /// How many are kept, should the latest be damaged. Flink's `state.checkpoints.num-retained`, whose default is 1.
    pub retained: NonZeroUsize,
}

impl CheckpointOptions {
    /// All defaults but the interval.
    pub fn every(interval: NonZeroU64) -> CheckpointOptions {
        CheckpointOptions {
            interval,
            timeout: None,
            min_pause: None,
            concurrent: None,
            fail_on_errors: true,
            storage: None,
            start_from: None,
            allow_non_restored_state: false,
            at_least_once: false,
            kafka_in_doubt: KafkaInDoubt::Fail,
            externalized: false,
            retained_on_cancellation: false,
            renamed: BTreeMap::new(),
            retained: RETAINED,
        }
    }

    /// `None` without an interval or a checkpoint to start from, whatever else is asked.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<CheckpointOptions> {
        let positive = |reader: &mut Reader<'_>, name| {
            let integer = reader.integer(name)?;
            NonZeroU64::new(u64::try_from(integer).ok()?)
        };
        let interval = positive(reader, "checkpointing_interval");
        let start_from = reader.start_from("savepoint_path");
        let interval = interval.or(start_from.as_ref().map(|_| INTERVAL))?;
        let mut options = CheckpointOptions { start_from, ..CheckpointOptions::every(interval) };
        options.allow_non_restored_state = reader.flag("allow_non_restored_state").unwrap_or(false);
        let mode = reader.one_of("checkpointing_mode", &["EXACTLY_ONCE", "AT_LEAST_ONCE"]);
        options.at_least_once = mode == Some("AT_LEAST_ONCE");
        options.kafka_in_doubt = match reader.one_of("ferrobeam_kafka_in_doubt", &["FAIL", "WRITTEN", "WRITE"]) {
            Some("WRITTEN") => KafkaInDoubt::Written,
            Some("WRITE") => KafkaInDoubt::Write,
            _ => KafkaInDoubt::Fail,
        };
        options.timeout = positive(reader, "checkpoint_timeout_millis");
        options.min_pause = positive(reader, "min_pause_between_checkpoints").map(NonZeroU64::get);
        options.concurrent = positive(reader, "num_concurrent_checkpoints");
        options.storage = reader.storage("state_backend_storage_path");
        options.externalized = reader.flag("externalized_checkpoints_enabled").unwrap_or(false);
        options.retained_on_cancellation =
            reader.flag("retain_externalized_checkpoints_on_cancellation").unwrap_or(false);
        options.renamed = reader.names("transform_name_mapping").unwrap_or_default();
        options.retained = reader.positive("ferrobeam_retained_checkpoints").unwrap_or(RETAINED);
        options.fail_on_errors = reader.flag("fail_on_checkpointing_errors").unwrap_or(true);
        Some(options)
    }
}

#[cfg(test)]
mod tests {
    use prost_types::value::Kind;
    use prost_types::{Struct, Value};

    use super::*;

    fn read(fields: &[(&str, &str)]) -> Option<CheckpointOptions> {
        let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let fields = fields.iter().map(|(name, text)| (format!("beam:option:{name}:v1"), value(text)));
        super::super::parse(&Struct { fields: fields.collect() }).expect("good options").0.checkpoints
    }

    #[test]
    fn without_an_interval_there_are_none() {
        assert_eq!(read(&[("checkpoint_timeout_millis", "17")]), None);
        assert_eq!(read(&[("checkpointing_interval", "-1")]), None);
        let interval = NonZeroU64::new(500).expect("not zero");
        assert_eq!(read(&[("checkpointing_interval", "500")]), Some(CheckpointOptions::every(interval)));
    }

    #[test]
    fn all_that_is_asked_is_read() {
        let all = [
            ("checkpointing_interval", "500"),
            ("checkpoint_timeout_millis", "17"),
            ("min_pause_between_checkpoints", "18"),
            ("num_concurrent_checkpoints", "3"),
            ("fail_on_checkpointing_errors", "false"),
            ("checkpointing_mode", "AT_LEAST_ONCE"),
            ("ferrobeam_kafka_in_doubt", "WRITTEN"),
            ("ferrobeam_retained_checkpoints", "5"),
            ("transform_name_mapping", "{\"a/b\": \"c\"}"),
        ];
        let expected = CheckpointOptions {
            interval: NonZeroU64::new(500).expect("not zero"),
            timeout: NonZeroU64::new(17),
            min_pause: Some(18),
            concurrent: NonZeroU64::new(3),
            fail_on_errors: false,
            storage: None,
            start_from: None,
            allow_non_restored_state: false,
            at_least_once: true,
            kafka_in_doubt: KafkaInDoubt::Written,
            externalized: false,
            retained_on_cancellation: false,
            renamed: [("a/b".to_owned(), "c".to_owned())].into(),
            retained: NonZeroUsize::new(5).expect("not zero"),
        };
        assert_eq!(read(&all), Some(expected));
    }
}
