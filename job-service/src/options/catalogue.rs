//! Every option that this runner knows, in one table: its type, its default, and what becomes of it.
//!
//! `DescribePipelineOptions` sends the table to SDKs, which build flags from it: a flag that the SDK does not know and
//! the table does not name is dropped by Python without a word. Types and defaults are those of Flink's runner for its
//! options, so that a command line means the same here. Python sends a boolean option whether it was given or not, so
//! only a value other than the default counts as given.

use ferrobeam_proto::job::{PipelineOptionDescriptor, pipeline_option_type};

/// The type of an option, with its default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// On or off.
    Flag(bool),
    /// A whole number.
    Integer(i64),
    /// Text, empty by default.
    Text(&'static str),
    /// Text that may be given several times.
    List,
}

/// What becomes of an option that is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It has its meaning.
    Honoured,
    /// It means nothing here and does no harm; the log says so once, with this reason.
    Accepted(&'static str),
    /// It will have a meaning; until then the job runs without it, and a warning says what that means.
    Warned(&'static str),
    /// To run without it would not do what was asked for; this says what to do instead.
    Refused(&'static str),
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct OptionEntry {
    /// In snake_case.
    pub name: &'static str,
    /// Its type and default.
    pub kind: Kind,
    /// What becomes of it.
    pub treatment: Treatment,
    /// For `--help`.
    pub description: &'static str,
}

use Kind::{Flag, Integer, List, Text};
use Treatment::{Accepted, Honoured, Refused, Warned};

const fn entry(name: &'static str, kind: Kind, treatment: Treatment, description: &'static str) -> OptionEntry {
    OptionEntry { name, kind, treatment, description }
}

const NO_STATE_YET: &str = "it means nothing here";
const FLINK_CLUSTER: &str = "it configures Flink's cluster, and there is none";
const FLINK_INSIDE: &str = "it tunes the inside of Flink's operators";

/// Flink's options, and ours, whose names start with `ferrobeam_` so that they meet no option of a user's own.
pub const CATALOGUE: &[OptionEntry] = &[
    entry("parallelism", Integer(-1), Honoured, "Worker threads of the job in all; -1: what the service is set to"),
    entry("max_bundle_size", Integer(-1), Honoured, "Most elements in a bundle"),
    entry(
        "number_of_execution_retries",
        Integer(-1),
        Honoured,
        "How often a failed bundle is run again, and how often a job that lost a process is",
    ),
    entry(
        "execution_retry_delay",
        Integer(-1),
        Honoured,
        "Milliseconds before a failed bundle, or a job that lost a process, is run again",
    ),
    entry("ferrobeam_processes", Integer(-1), Honoured, "Processes that the job's worker threads are spread over"),
    entry(
        "ferrobeam_drain",
        Flag(false),
        Honoured,
        "Drain the job from its start: every source is truncated before it runs; shows how a pipeline drains",
    ),
    entry(
        "ferrobeam_kafka_by_sdk",
        Flag(false),
        Honoured,
        "Kafka's transforms that the Java SDK's expansion service made run in its environment, as it made them",
    ),
    entry("ferrobeam_memory", Text(""), Honoured, "User data that each process may keep in memory, such as 512MiB"),
    entry(
        "max_parallelism",
        Integer(-1),
        Accepted("there are always 65,536 key groups"),
        "Number of key groups of keyed state",
    ),
    entry(
        "max_bundle_time_mills",
        Integer(-1),
        Honoured,
        "Milliseconds after which a splittable DoFn that still runs is asked to hand back the rest of its work",
    ),
    entry(
        "state_backend",
        Text(""),
        Honoured,
        "Where keyed state is kept: memory (as are hashmap and filesystem), rocksdb or auto; empty: what the service is \
         set to",
    ),
    entry("checkpointing_interval", Integer(-1), Honoured, "Milliseconds between checkpoints"),
    entry(
        "checkpointing_mode",
        Text("EXACTLY_ONCE"),
        Honoured,
        "AT_LEAST_ONCE: Kafka sinks write as records come, and some again after a failure; EXACTLY_ONCE: in transactions, one a \
         checkpoint. State is exactly once with both",
    ),
    entry(
        "ferrobeam_kafka_in_doubt",
        Text("FAIL"),
        Honoured,
        "Records of the checkpoint that the job starts from, where Kafka has forgotten whether they were written: FAIL, \
         WRITTEN (they were) or WRITE (again, if they were)",
    ),
    entry("checkpoint_timeout_millis", Integer(-1), Honoured, "Milliseconds a checkpoint may take"),
    entry("min_pause_between_checkpoints", Integer(-1), Honoured, "Milliseconds between checkpoints"),
    entry("num_concurrent_checkpoints", Integer(1), Honoured, "Checkpoints under way at a time"),
    entry("fail_on_checkpointing_errors", Flag(true), Honoured, "Fail the job with a checkpoint"),
    entry(
        "finish_bundle_before_checkpointing",
        Flag(false),
        Accepted("a bundle that is open at a checkpoint is always finished or split"),
        "Finish bundles first",
    ),
    entry(
        "unaligned_checkpoint_enabled",
        Flag(false),
        Accepted("what a slow stage has not begun after a second always goes over with the checkpoint"),
        "Let checkpoints overtake data",
    ),
    entry(
        "force_unaligned_checkpoint_enabled",
        Flag(false),
        Accepted("what a slow stage has not begun after a second always goes over with the checkpoint"),
        "Always let them",
    ),
    entry("externalized_checkpoints_enabled", Flag(false), Honoured, "Keep checkpoints for a later job to start from"),
    entry(
        "retain_externalized_checkpoints_on_cancellation",
        Flag(false),
        Honoured,
        "Keep them also when the job is cancelled",
    ),
    entry(
        "savepoint_path",
        Text(""),
        Honoured,
        "Saved state to start from: STORAGE/JOB, or STORAGE/JOB/manifests/NUMBER",
    ),
    entry("allow_non_restored_state", Flag(false), Honoured, "Ignore saved state of no transform"),
    entry(
        "transform_name_mapping",
        Text(""),
        Honoured,
        "Of the saved state to start from, transforms that have other names now, as JSON: {\"old name\": \"new name\"}; what is \
         within them is renamed with them; named as on Dataflow",
    ),
    entry(
        "ferrobeam_retained_checkpoints",
        Integer(-1),
        Honoured,
        "How many checkpoints are kept, should the latest be damaged; -1: 2. Flink's state.checkpoints.num-retained",
    ),
    entry(
        "state_backend_storage_path",
        Text(""),
        Honoured,
        "URL of the storage for checkpoints (file, s3, gs, az); empty: that of the service",
    ),
    entry(
        "state_backend_factory",
        Text(""),
        Refused("it names a Java class of Flink's; leave it out, and use state_backend to choose a store"),
        "A Java class that makes Flink's state backend",
    ),
    entry(
        "flink_submit_uber_jar",
        Flag(false),
        Refused("it sends the job to Flink's REST API and past this service; leave it out"),
        "Submit a jar to Flink directly",
    ),
    entry("report_checkpoint_duration", Text(""), Accepted(NO_STATE_YET), "A namespace for checkpoint metrics"),
    entry("enable_stable_input_drain", Flag(false), Accepted(NO_STATE_YET), "Drain jobs that need stable input"),
    entry(
        "shutdown_sources_after_idle_ms",
        Integer(-1),
        Accepted("sources end when their input does"),
        "Milliseconds after which an idle source ends",
    ),
    entry("disable_metrics", Flag(false), Accepted("metrics cost next to nothing here"), "Report no metrics"),
    entry("auto_watermark_interval", Integer(-1), Accepted("watermarks move when they can"), "Milliseconds"),
    entry("latency_tracking_interval", Integer(0), Accepted(FLINK_INSIDE), "Milliseconds between latency marks"),
    entry("flink_master", Text("[auto]"), Accepted(FLINK_CLUSTER), "Flink's master"),
    entry("flink_conf_dir", Text(""), Accepted(FLINK_CLUSTER), "Flink's configuration"),
    entry("files_to_stage", List, Accepted("the SDK's artifacts are staged instead"), "Jars to stage"),
    entry("attached_mode", Flag(true), Accepted("a client may leave and come back at any time"), "Wait for the job"),
    entry("job_check_interval_in_secs", Integer(5), Accepted(FLINK_CLUSTER), "Seconds between looks at the job"),
    entry("execution_mode_for_batch", Text("PIPELINED"), Accepted(FLINK_INSIDE), "Flink's exchange mode"),
    entry("object_reuse", Flag(false), Accepted(FLINK_INSIDE), "Hand objects on without copying"),
    entry("faster_copy", Flag(false), Accepted(FLINK_INSIDE), "Hand objects on without copying"),
    entry("operator_chaining", Flag(true), Accepted(FLINK_INSIDE), "Join operators"),
    entry(
        "re_iterable_group_by_key_result",
        Flag(false),
        Accepted("grouped values can always be iterated again"),
        "Let grouped values be iterated more than once",
    ),
    entry("auto_balance_write_files_sharding_enabled", Flag(false), Accepted(FLINK_INSIDE), "Spread file shards"),
    entry("file_input_split_max_size_m_b", Integer(0), Accepted(FLINK_INSIDE), "Size of input splits"),
];

/// The entry of an option.
pub fn find(name: &str) -> Option<&'static OptionEntry> {
    CATALOGUE.iter().find(|entry| entry.name == name)
}

/// The answer of `DescribePipelineOptions`.
pub fn describe() -> Vec<PipelineOptionDescriptor> {
    CATALOGUE.iter().copied().map(OptionEntry::to_proto).collect()
}

impl OptionEntry {
    fn to_proto(self) -> PipelineOptionDescriptor {
        use pipeline_option_type::Enum;
        let (kind, default) = match self.kind {
            Flag(default) => (Enum::Boolean, default.to_string()),
            Integer(default) => (Enum::Integer, default.to_string()),
            Text(default) => (Enum::String, default.to_owned()),
            List => (Enum::Array, String::new()),
        };
        let note = match self.treatment {
            Honoured => String::new(),
            Accepted(why) => format!(" (no effect: {why})"),
            Warned(why) => format!(" (not yet: {why})"),
            Refused(advice) => format!(" (refused: {advice})"),
        };
        PipelineOptionDescriptor {
            name: self.name.to_owned(),
            r#type: kind.into(),
            description: format!("{}{note}", self.description),
            default_value: default,
            group: if self.name.starts_with("ferrobeam_") { "Ferrobeam" } else { "Flink" }.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_in_snake_case() {
        for (i, entry) in CATALOGUE.iter().enumerate() {
            assert!(CATALOGUE[..i].iter().all(|e| e.name != entry.name), "{} is there twice", entry.name);
            let snake = entry.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(snake, "{}", entry.name);
        }
    }

    #[test]
    fn every_option_is_described_with_its_type() {
        let described = describe();
        assert_eq!(described.len(), CATALOGUE.len());
        let of = |name: &str| described.iter().find(|d| d.name == name).expect("it is in the table");
        assert_eq!(of("parallelism").r#type(), pipeline_option_type::Enum::Integer);
        assert_eq!(of("fail_on_checkpointing_errors").default_value, "true");
        assert_eq!(of("files_to_stage").r#type(), pipeline_option_type::Enum::Array);
        assert!(of("state_backend_factory").description.contains("refused"));
    }
}
