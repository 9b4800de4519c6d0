//! What a pipeline asks of Kafka: the payloads of the two transforms that the runner runs itself, as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::format::{ProtoMessage, RowFormat};

/// The URN of the transform that reads. It has no input and one output, in the global window, and perhaps one of errors;
/// its payload is a [`KafkaRead`].
pub const READ_URN: &str = "ferrobeam:transform:kafka_read:v1";

/// The URN of the transform that writes. It has one input and one output, in which nothing is, and perhaps one of errors; its
/// payload is a [`KafkaWrite`].
pub const WRITE_URN: &str = "ferrobeam:transform:kafka_write:v1";

/// The payload of [`READ_URN`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaRead {
    /// Properties of Kafka's Java consumer or of librdkafka, by name. Values may refer to a secret, as Kafka's configuration
    /// providers have it: `${env:NAME}`, `${file:PATH:KEY}`, `${directory:PATH:FILE}`.
    pub consumer_config: BTreeMap<String, String>,
    /// The topics.
    pub topics: Vec<String>,
    /// Instead of `topics`: all topics whose whole name matches this regular expression, also those that come later.
    pub topic_pattern: Option<String>,
    /// What an element is.
    pub form: ReadForm,
    /// The output that gets rows of [`super::read_error_schema`] for values that are not what `form` says, which fail the job
    /// otherwise.
    pub errors: Option<String>,
    /// A null key or value is read as empty bytes: for an SDK whose byte strings are never null.
    pub null_is_empty: bool,
    /// Start at the first record with this timestamp or a later one, in milliseconds. Without: where the group has committed,
    /// else as `auto.offset.reset` says.
    pub start_time: Option<i64>,
    /// Stop before the first record with this timestamp or a later one, as the partition is when the job starts.
    pub stop_time: Option<i64>,
    /// Stop after so many records.
    pub max_records: Option<u64>,
    /// Stop after so many milliseconds.
    pub max_time: Option<u64>,
    /// Commit to the group what has been read, once it is durable.
    pub commit: bool,
    /// Where elements' timestamps and the watermark come from.
    pub timestamps: TimestampPolicy,
    /// Look for new partitions every so many milliseconds; 0: never.
    pub discover_every: u64,
}

impl KafkaRead {
    /// Whether it ends of itself. Such a read is done by one worker.
    pub fn is_bounded(&self) -> bool {
        self.max_records.is_some() || self.max_time.is_some() || self.stop_time.is_some()
    }

    /// Whether one worker has to read everything, because it counts or stops the time.
    pub(crate) fn is_for_one_worker(&self) -> bool {
        self.max_records.is_some() || self.max_time.is_some()
    }
}

/// What an element of a read is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadForm {
    /// `KV` of key and value, each nullable.
    KeyValue {
        /// The key.
        key: FieldType,
        /// The value.
        value: FieldType,
    },
    /// A row of everything that a record is: [`super::metadata_schema`].
    Metadata,
    /// A row of one field, the value: [`super::payload_schema`].
    Payload(FieldType),
    /// A row of what the value has, which is JSON, by this JSON schema.
    Json(String),
    /// A row of what the value has, which is an Avro datum, by this Avro schema.
    Avro(String),
    /// A row of what the value has, which is this message.
    Proto(ProtoMessage),
}

impl ReadForm {
    /// The format of values that are rows of more than one field.
    pub fn row_format(&self) -> Option<RowFormat> {
        match self {
            ReadForm::Json(schema) => Some(RowFormat::Json(Some(schema.clone()))),
            ReadForm::Avro(schema) => Some(RowFormat::Avro(Some(schema.clone()))),
            ReadForm::Proto(message) => Some(RowFormat::Proto(message.clone())),
            ReadForm::KeyValue { .. } | ReadForm::Metadata | ReadForm::Payload(_) => None,
        }
    }
}

impl Default for ReadForm {
    fn default() -> Self {
        ReadForm::KeyValue { key: FieldType::Bytes, value: FieldType::Bytes }
    }
}

/// How a key or a value is written in Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldType {
    /// Bytes (`ByteArrayDeserializer`).
    Bytes,
    /// UTF-8 (`StringDeserializer`).
    Text,
    /// Eight bytes, big endian (`LongDeserializer`).
    Long,
    /// Four bytes, big endian (`IntegerDeserializer`).
    Integer,
    /// Eight bytes of IEEE 754, big endian (`DoubleDeserializer`).
    Double,
}

impl std::fmt::Display for FieldType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FieldType::Bytes => "bytes",
            FieldType::Text => "text",
            FieldType::Long => "long",
            FieldType::Integer => "integer",
            FieldType::Double => "double",
        })
    }
}

/// Where elements' timestamps and the watermark come from, as Beam's KafkaIO has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestampPolicy {
    /// The time at which a record is read.
    #[default]
    ProcessingTime,
    /// The timestamp that its producer gave it. The watermark is the greatest so far, and goes with the clock where a
    /// partition has nothing more.
    CreateTime,
    /// The time at which the broker appended it.
    LogAppendTime,
}

/// What becomes of the records of a checkpoint that a job starts from, where Kafka has forgotten the offset that says whether they were
/// written. Only the job's owner can know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KafkaInDoubt {
    /// The job fails, and says so.
    #[default]
    Fail,
    /// They were.
    Written,
    /// They are written; again, if they were.
    Write,
}

/// The payload of [`WRITE_URN`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaWrite {
    /// Properties of Kafka's Java producer or of librdkafka, by name. Values may refer to secrets: see
    /// [`KafkaRead::consumer_config`].
    pub producer_config: BTreeMap<String, String>,
    /// The topic, of records that name none.
    pub topic: String,
    /// What an element is.
    pub form: WriteForm,
    /// The output that gets rows of [`super::write_error_schema`] for rows that cannot be written as `form` says, which fail
    /// the job otherwise.
    pub errors: Option<String>,
}

/// What an element of a write is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteForm {
    /// `KV` of key and value, nullable or not.
    KeyValue {
        /// The key.
        key: FieldType,
        /// The value.
        value: FieldType,
    },
    /// A row with `key` and `value`, and perhaps `headers`, `topic`, `partition` and `timestamp`: see
    /// [`super::headers_schema`].
    Headers,
    /// A row of one field, the value.
    Payload(FieldType),
    /// A row, which is written as JSON.
    Json,
    /// A row, which is written as an Avro datum: by this Avro schema, or by one that is made of the type of the rows.
    Avro(Option<String>),
    /// A row, which is written as this message.
    Proto(ProtoMessage),
}

impl WriteForm {
    /// The format of rows of more than one field.
    pub fn row_format(&self) -> Option<RowFormat> {
        match self {
            WriteForm::Json => Some(RowFormat::Json(None)),
            WriteForm::Avro(schema) => Some(RowFormat::Avro(schema.clone())),
            WriteForm::Proto(message) => Some(RowFormat::Proto(message.clone())),
            WriteForm::KeyValue { .. } | WriteForm::Headers | WriteForm::Payload(_) => None,
        }
    }
}

impl Default for WriteForm {
    fn default() -> Self {
        WriteForm::KeyValue { key: FieldType::Bytes, value: FieldType::Bytes }
    }
}
