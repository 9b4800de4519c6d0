//! Reads and writes, from a configuration to a graph.

use std::collections::BTreeMap;

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::urns::{standard_coders as coder, standard_ptransforms::composites};
use ferrobeam_runner::kafka::{
    FieldType, KafkaRead, KafkaWrite, READ_URN, ReadForm, TimestampPolicy, WRITE_URN, WriteForm, check_consumer,
    check_producer, commits_by_itself, metadata_schema, payload_schema, read_error_schema, write_error_schema,
};
use prost::bytes::Bytes;

use super::configuration::{Configuration, ExpansionError};
use super::graph::{Graph, OUTPUT, end};

/// How often new partitions are looked for, in milliseconds, where nothing is said.
pub(super) const DISCOVER_EVERY: u64 = 60_000;

/// How what is read is spread over the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// It stays where its partition is read.
    No,
    /// Evenly.
    Arbitrarily,
}

/// A read, and what follows it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) read: KafkaRead,
    pub(super) spread: Spread,
}

/// Of `kafka_read_with_metadata:v1` and `kafka_read_without_metadata:v1`.
pub(super) fn read(mut from: Configuration, with_metadata: bool) -> Result<Read, ExpansionError> {
    let null_is_empty = from.is_of_go();
    let consumer_config = from.properties("consumer_config")?;
    let topics = from.texts("topics")?;
    let (key, value) = (from.text("key_deserializer")?, from.text("value_deserializer")?);
    let (key, value) = (deserializer(key.as_deref())?, deserializer(value.as_deref())?);
    let form = match (with_metadata, key, value) {
        (false, key, value) => ReadForm::KeyValue { key, value },
        (true, FieldType::Bytes, FieldType::Bytes) => ReadForm::Metadata,
        (true, ..) => {
            return Err(ExpansionError(
                "with_metadata gives keys and values as bytes: leave out the deserializers".to_owned(),
            ));
        }
    };
    from.refuse("consumer_factory_fn_class", "it names a Java class; set what it would as properties of the consumer")?;
    from.refuse("consumer_factory_fn_params", "they are for a Java class")?;
    // Java waits so long in one call of its consumer; librdkafka is asked without waiting.
    from.integer("consumer_polling_timeout")?;
    // Only hints: what is spread here is not repeated, and keys are not needed for it.
    from.integer("redistribute_num_keys")?;
    from.flag("allow_duplicates")?;
    let spread = if from.flag("redistribute")? == Some(true) { Spread::Arbitrarily } else { Spread::No };
    let policy = from.text("timestamp_policy")?;
    let auto_commit = commits_by_itself(&consumer_config).map_err(|error| ExpansionError(error.to_string()))?;
    let read = KafkaRead {
        topics,
        topic_pattern: None,
        null_is_empty: null_is_empty && matches!(form, ReadForm::KeyValue { .. }),
        form,
        errors: None,
        start_time: from.integer("start_read_time")?,
        stop_time: None,
        max_records: from.count("max_num_records")?,
        max_time: from.count("max_read_time")?.map(|seconds| seconds.saturating_mul(1000)),
        commit: from.flag("commit_offset_in_finalize")? == Some(true) || auto_commit,
        timestamps: timestamp_policy(policy.as_deref())?,
        discover_every: match from.count("dynamic_read_poll_interval_seconds")? {
            Some(seconds) => seconds.saturating_mul(1000),
            None => DISCOVER_EVERY,
        },
        consumer_config,
    };
    from.end()?;
    check_read(&read)?;
    Ok(Read { read, spread })
}

pub(super) fn check_read(read: &KafkaRead) -> Result<(), ExpansionError> {
    if read.topics.is_empty() && read.topic_pattern.is_none() {
        return Err(ExpansionError("topics is empty".to_owned()));
    }
    // Python makes five of `topics='words'`, and each a topic of one letter.
    if read.topics.len() > 1 && read.topics.iter().all(|topic| topic.chars().count() == 1) {
        return Err(ExpansionError(format!(
            "topics are {}: is that one topic, {:?}? It is to be in a list",
            read.topics.join(", "),
            read.topics.concat()
        )));
    }
    if read.commit && !read.consumer_config.contains_key("group.id") {
        return Err(ExpansionError("commit_offset_in_finalize needs a group.id in consumer_config".to_owned()));
    }
    check_consumer(&read.consumer_config).map_err(|error| ExpansionError(error.to_string()))
}

/// Of `kafka_write:v1` and `kafka_write_with_headers:v1`.
pub(super) fn write(mut from: Configuration, with_headers: bool) -> Result<KafkaWrite, ExpansionError> {
    let producer_config = from.properties("producer_config")?;
    let topic = from.required("topic")?;
    let (key, value) = (from.text("key_serializer")?, from.text("value_serializer")?);
    let (key, value) = (serializer(key.as_deref())?, serializer(value.as_deref())?);
    let form = match (with_headers, key, value) {
        (false, key, value) => WriteForm::KeyValue { key, value },
        (true, FieldType::Bytes, FieldType::Bytes) => WriteForm::Headers,
        (true, ..) => {
            return Err(ExpansionError(
                "with_headers takes keys and values as bytes: leave out the serializers".to_owned(),
            ));
        }
    };
    from.end()?;
    let write = KafkaWrite { producer_config, topic, form, errors: None };
    check_write(&write)?;
    Ok(write)
}

pub(super) fn check_write(write: &KafkaWrite) -> Result<(), ExpansionError> {
    check_producer(&write.producer_config).map_err(|error| ExpansionError(error.to_string()))
}

pub(super) fn timestamp_policy(name: Option<&str>) -> Result<TimestampPolicy, ExpansionError> {
    Ok(match name {
        None | Some("ProcessingTime") => TimestampPolicy::ProcessingTime,
        Some("CreateTime") => TimestampPolicy::CreateTime,
        Some("LogAppendTime") => TimestampPolicy::LogAppendTime,
        Some(other) => {
            return Err(ExpansionError(format!(
                "timestamp_policy is {other}: of those there are ProcessingTime, CreateTime and LogAppendTime"
            )));
        }
    })
}

fn deserializer(class: Option<&str>) -> Result<FieldType, ExpansionError> {
    field_type(class, "Deserializer")
}

fn serializer(class: Option<&str>) -> Result<FieldType, ExpansionError> {
    field_type(class, "Serializer")
}

/// Kafka's own classes of this kind.
fn field_type(class: Option<&str>, kind: &str) -> Result<FieldType, ExpansionError> {
    let Some(class) = class.filter(|class| !class.is_empty()) else { return Ok(FieldType::Bytes) };
    // By their short names too, which say the same.
    let name = class.strip_prefix("org.apache.kafka.common.serialization.").unwrap_or(class);
    Ok(match name.strip_suffix(kind) {
        Some("ByteArray") => FieldType::Bytes,
        Some("String") => FieldType::Text,
        Some("Long") => FieldType::Long,
        Some("Integer") => FieldType::Integer,
        Some("Double") => FieldType::Double,
        _ => {
            return Err(ExpansionError(format!(
                "{class} is a Java class that is not known here: of Kafka's own there are ByteArray{kind}, String{kind}, \
                 Long{kind}, Integer{kind} and Double{kind}; read or write bytes, and convert them in the pipeline"
            )));
        }
    })
}

/// The graph of a read: one leaf, or a composite of it and what spreads its output.
pub(super) fn expand_read(graph: &mut Graph, read: &Read) -> Result<pb::PTransform, ExpansionError> {
    let Read { read, spread } = read;
    let coder_id = match &read.form {
        ReadForm::KeyValue { key, value } => {
            let (key, value) = if read.null_is_empty {
                (plain(graph, "key", *key), plain(graph, "value", *value))
            } else {
                (nullable(graph, "key", *key), nullable(graph, "value", *value))
            };
            graph.coder("kv", coder::KV, Bytes::new(), &[&key, &value])
        }
        ReadForm::Metadata => graph.row_coder("record", &metadata_schema()),
        ReadForm::Payload(ty) => graph.row_coder("payload", &payload_schema(*ty)),
        ReadForm::Json(_) | ReadForm::Avro(_) | ReadForm::Proto(_) => {
            let format = read.form.row_format().ok_or_else(|| ExpansionError("rows without a format".to_owned()))?;
            let schema = format.schema().map_err(|what| ExpansionError(format!("schema: {what}")))?;
            graph.row_coder("row", &schema)
        }
    };
    let payload = payload(read)?;
    let records = graph.collection("records", coder_id.clone(), read.is_bounded());
    let errors = read.errors.as_ref().map(|tag| {
        let coder_id = graph.row_coder("error", &read_error_schema());
        (tag.clone(), graph.collection("errors", coder_id, read.is_bounded()))
    });
    let with_errors = |main: &str| end(OUTPUT, main).into_iter().chain(errors.clone()).collect();
    match spread {
        Spread::No => Ok(pb::PTransform { outputs: with_errors(&records), ..graph.transform("", READ_URN, payload) }),
        Spread::Arbitrarily => {
            let leaf = pb::PTransform { outputs: with_errors(&records), ..graph.transform("Read", READ_URN, payload) };
            let leaf = graph.part("read", leaf);
            let spread = graph.collection("spread", coder_id, read.is_bounded());
            let redistribute = pb::PTransform {
                inputs: end("input", &records),
                outputs: end(OUTPUT, &spread),
                ..graph.transform("Redistribute", composites::REDISTRIBUTE_ARBITRARILY, Bytes::new())
            };
            let redistribute = graph.part("redistribute", redistribute);
            Ok(pb::PTransform {
                subtransforms: vec![leaf, redistribute],
                outputs: with_errors(&spread),
                ..graph.transform("", "", Bytes::new())
            })
        }
    }
}

fn plain(graph: &mut Graph, name: &str, ty: FieldType) -> String {
    let urn = match ty {
        FieldType::Bytes => coder::BYTES,
        FieldType::Text => coder::STRING_UTF8,
        FieldType::Long | FieldType::Integer => coder::VARINT,
        FieldType::Double => coder::DOUBLE,
    };
    graph.coder(name, urn, Bytes::new(), &[])
}

fn nullable(graph: &mut Graph, name: &str, ty: FieldType) -> String {
    let inner = plain(graph, name, ty);
    graph.coder(&format!("{name}-or-null"), coder::NULLABLE, Bytes::new(), &[&inner])
}

/// The graph of a write: see the module of the service.
pub(super) fn expand_write(graph: &mut Graph, write: &KafkaWrite, urn: &str) -> Result<pb::PTransform, ExpansionError> {
    let inputs = graph.asked.inputs.clone();
    if inputs.len() != 1 {
        return Err(ExpansionError(format!("a write to Kafka has one input, and this one has {}", inputs.len())));
    }
    let errors = match &write.errors {
        None => BTreeMap::new(),
        Some(tag) => {
            let of = inputs.values().next().and_then(|input| graph.rows_of(input));
            let of = of.ok_or_else(|| {
                ExpansionError("error_handling needs rows, such as beam.Row(...) or a NamedTuple".to_owned())
            })?;
            let coder_id = graph.row_coder("error", &write_error_schema(&of.schema));
            BTreeMap::from([(tag.clone(), graph.collection_as("errors", coder_id, &of.collection))])
        }
    };
    let nothing = graph.coder("nothing", coder::BYTES, Bytes::new(), &[]);
    let nothing = graph.collection("written", nothing, true);
    let leaf = pb::PTransform {
        inputs: inputs.clone(),
        outputs: end(OUTPUT, &nothing).into_iter().chain(errors.clone()).collect(),
        ..graph.transform("Write", WRITE_URN, payload(write)?)
    };
    let leaf = graph.part("write", leaf);
    Ok(pb::PTransform { inputs, outputs: errors, subtransforms: vec![leaf], ..graph.transform("", urn, Bytes::new()) })
}

fn payload(of: &impl serde::Serialize) -> Result<Vec<u8>, ExpansionError> {
    serde_json::to_vec(of).map_err(|error| ExpansionError(error.to_string()))
}
