//! Kafka as a source and a sink of the runner's own, on librdkafka.
//!
//! What a transform asks for stands in its payload ([`KafkaRead`], [`KafkaWrite`]), which the expansion service makes of
//! what SDKs send. A [`reader`] or a [`writer`] is a thread beside the worker of an operator, because librdkafka's calls
//! block; the operators are in `dataflow::kafka`.
//!
//! No record is decoded further than a deserialiser asks for: a key is bytes, text or a number, as Kafka's own serialisers
//! write it; a value may be a row in a format ([`RowFormat`]).

mod client;
mod config;
mod format;
mod native;
mod partitions;
mod position;
pub(crate) mod reader;
pub(crate) mod record;
mod spec;
mod timestamps;
pub(crate) mod transactions;
pub(crate) mod writer;

pub(crate) use config::transactional_prefix;
pub use config::{ConfigError, check_consumer, check_producer, commits_by_itself};
pub use format::{ProtoMessage, RowFormat};
pub use position::{PartitionPosition, SavedPositions};
pub use record::{
    ErrorElement, FieldForm, ReadElement, RowField, WriteElement, headers_schema, metadata_schema, payload_schema,
    read_error_schema, write_error_schema,
};
pub use spec::{
    FieldType, KafkaInDoubt, KafkaRead, KafkaWrite, READ_URN, ReadForm, TimestampPolicy, WRITE_URN, WriteForm,
};
