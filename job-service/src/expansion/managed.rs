//! Schema transforms: `kafka_read:v1` and `kafka_write:v1` as they are, and by Beam's managed IO, which sends YAML.

use std::collections::BTreeMap;

use ferrobeam_proto::expansion::SchemaTransformConfig;
use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::pipeline::field_type::TypeInfo;
use ferrobeam_proto::urns::managed_transforms::{KAFKA_READ, KAFKA_WRITE};
use ferrobeam_runner::kafka::{FieldType, KafkaRead, KafkaWrite, ProtoMessage, ReadForm, WriteForm, commits_by_itself};

use super::configuration::{Configuration, ExpansionError, Setting};
use super::graph::OUTPUT;
use super::proto;
use super::transforms::{DISCOVER_EVERY, Read, Spread, check_read, check_write};

/// The transform behind `managed.Read` and `managed.Write`, and YAML's Kafka.
pub(super) const MANAGED: &str = "beam:transform:managed:v1";

/// What a schema transform came to.
#[derive(Debug)]
pub(super) enum Managed {
    Read(Read),
    Write(KafkaWrite),
}

/// What is there to be asked for, by identifier.
pub(super) fn discover() -> BTreeMap<String, SchemaTransformConfig> {
    let text = |name| field(name, pb::AtomicType::String, true);
    let config = |config_schema, inputs: &[&str], outputs: &[&str], description: &str| SchemaTransformConfig {
        config_schema: Some(config_schema),
        input_pcollection_names: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output_pcollection_names: outputs.iter().map(|name| (*name).to_owned()).collect(),
        description: description.to_owned(),
    };
    let managed = schema(
        "9d0f4d52-6b7f-5d6c-8a2a-5b6f3f0d2c01",
        vec![field("transform_identifier", pb::AtomicType::String, false), text("config_url"), text("config")],
    );
    let read = schema(
        "9d0f4d52-6b7f-5d6c-8a2a-5b6f3f0d2c02",
        vec![
            field("allow_duplicates", pb::AtomicType::Boolean, true),
            text("auto_offset_reset_config"),
            field("bootstrap_servers", pb::AtomicType::String, false),
            properties("consumer_config_updates"),
            error_handling(),
            text("file_descriptor_path"),
            text("format"),
            field("max_read_time_seconds", pb::AtomicType::Int32, true),
            text("message_name"),
            field("redistribute_num_keys", pb::AtomicType::Int32, true),
            field("redistributed", pb::AtomicType::Boolean, true),
            text("schema"),
            field("topic", pb::AtomicType::String, false),
        ],
    );
    let write = schema(
        "9d0f4d52-6b7f-5d6c-8a2a-5b6f3f0d2c03",
        vec![
            field("bootstrap_servers", pb::AtomicType::String, false),
            error_handling(),
            text("file_descriptor_path"),
            field("format", pb::AtomicType::String, false),
            text("message_name"),
            properties("producer_config_updates"),
            text("schema"),
            field("topic", pb::AtomicType::String, false),
        ],
    );
    BTreeMap::from([
        (MANAGED.to_owned(), config(managed, &["input"], &["output"], "Kafka, by Ferrobeam itself")),
        (
            KAFKA_READ.to_owned(),
            config(read, &[], &["output", "errors"], "Reads values from Kafka, by Ferrobeam itself"),
        ),
        (KAFKA_WRITE.to_owned(), config(write, &["input"], &[], "Writes rows to Kafka, by Ferrobeam itself")),
    ])
}

fn field(name: &str, atomic: pb::AtomicType, nullable: bool) -> pb::Field {
    let ty = pb::FieldType { nullable, type_info: Some(TypeInfo::AtomicType(atomic.into())) };
    pb::Field { name: name.to_owned(), r#type: Some(ty), ..Default::default() }
}

/// Beam's `ErrorHandling`.
fn error_handling() -> pb::Field {
    let of = schema("9d0f4d52-6b7f-5d6c-8a2a-5b6f3f0d2c04", vec![field("output", pb::AtomicType::String, false)]);
    let ty = pb::FieldType { nullable: true, type_info: Some(TypeInfo::RowType(pb::RowType { schema: Some(of) })) };
    pb::Field { name: "error_handling".to_owned(), r#type: Some(ty), ..Default::default() }
}

fn properties(name: &str) -> pb::Field {
    let text = || {
        Some(Box::new(pb::FieldType {
            nullable: false,
            type_info: Some(TypeInfo::AtomicType(pb::AtomicType::String.into())),
        }))
    };
    let map = pb::MapType { key_type: text(), value_type: text() };
    let ty = pb::FieldType { nullable: true, type_info: Some(TypeInfo::MapType(Box::new(map))) };
    pb::Field { name: name.to_owned(), r#type: Some(ty), ..Default::default() }
}

fn schema(id: &str, fields: Vec<pb::Field>) -> pb::Schema {
    let numbered = (0..).zip(fields).map(|(index, field)| pb::Field { id: index, encoding_position: index, ..field });
    pb::Schema { fields: numbered.collect(), id: id.to_owned(), ..Default::default() }
}

/// Reads what a schema transform is to do.
pub(super) fn read(identifier: &str, mut from: Configuration) -> Result<Managed, ExpansionError> {
    match identifier {
        KAFKA_READ => Ok(Managed::Read(kafka_read(from)?)),
        KAFKA_WRITE => Ok(Managed::Write(kafka_write(from)?)),
        MANAGED => {
            let inner = from.required("transform_identifier")?;
            from.refuse("config_url", "give the configuration itself")?;
            let text = from.text("config")?.unwrap_or_default();
            from.end()?;
            if inner == MANAGED {
                return Err(ExpansionError("a managed transform of a managed transform".to_owned()));
            }
            read(&inner, Configuration::of_map(yaml(&text)?))
        }
        other => Err(ExpansionError(format!("{other} is not served here: of schema transforms there are Kafka's"))),
    }
}

fn yaml(text: &str) -> Result<BTreeMap<String, Setting>, ExpansionError> {
    let bad = |what: String| ExpansionError(format!("the configuration is no YAML that is understood: {what}"));
    if text.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    // Without its words: they show what stands there, which may be a secret.
    let at = |error: serde_saphyr::Error| match error.location() {
        Some(at) => format!("see line {}, column {}", at.line(), at.column()),
        None => "its form is wrong".to_owned(),
    };
    let value: serde_json::Value = serde_saphyr::from_str(text).map_err(|error| bad(at(error)))?;
    match setting(value) {
        Setting::Map(values) => Ok(values),
        _ => Err(bad("it is no mapping".to_owned())),
    }
}

fn setting(value: serde_json::Value) -> Setting {
    use serde_json::Value;
    match value {
        Value::Null => Setting::Null,
        Value::Bool(is) => Setting::Boolean(is),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Setting::Int(number),
            None => Setting::Double(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Setting::Text(text),
        Value::Array(values) => Setting::List(values.into_iter().map(setting).collect()),
        Value::Object(values) => Setting::Map(values.into_iter().map(|(name, value)| (name, setting(value))).collect()),
    }
}

fn kafka_read(mut from: Configuration) -> Result<Read, ExpansionError> {
    let mut consumer_config = from.properties("consumer_config_updates")?;
    consumer_config.entry("bootstrap.servers".to_owned()).or_insert(from.required("bootstrap_servers")?);
    if let Some(reset) = from.text("auto_offset_reset_config")? {
        consumer_config.insert("auto.offset.reset".to_owned(), reset);
    }
    let form = match format(&mut from)? {
        Format::Value(ty) => ReadForm::Payload(ty),
        Format::Json(Some(schema)) => ReadForm::Json(schema),
        Format::Avro(Some(schema)) => ReadForm::Avro(schema),
        Format::Proto(message) => ReadForm::Proto(message),
        Format::Json(None) => {
            return Err(ExpansionError("the format JSON needs a schema, which is a JSON schema".to_owned()));
        }
        Format::Avro(None) => {
            return Err(ExpansionError("the format AVRO needs a schema, which is an Avro schema".to_owned()));
        }
    };
    for name in ["confluent_schema_registry_url", "confluent_schema_registry_subject"] {
        from.refuse(
            name,
            "schema registries are not known here yet; read the format RAW and decode it in the pipeline",
        )?;
    }
    let errors = errors(&mut from)?;
    from.refuse("offset_deduplication", "records are read exactly once as it is")?;
    from.flag("allow_duplicates")?;
    from.integer("redistribute_num_keys")?;
    from.refuse("redistribute_by_record_key", "rows have no key; use redistributed")?;
    let spread = if from.flag("redistributed")? == Some(true) { Spread::Arbitrarily } else { Spread::No };
    let read = KafkaRead {
        topics: vec![from.required("topic")?],
        form,
        errors,
        max_time: from.count("max_read_time_seconds")?.map(|seconds| seconds.saturating_mul(1000)),
        discover_every: DISCOVER_EVERY,
        commit: commits_by_itself(&consumer_config).map_err(|error| ExpansionError(error.to_string()))?,
        consumer_config,
        ..KafkaRead::default()
    };
    from.end()?;
    check_read(&read)?;
    Ok(Read { read, spread })
}

fn kafka_write(mut from: Configuration) -> Result<KafkaWrite, ExpansionError> {
    let mut producer_config = from.properties("producer_config_updates")?;
    producer_config.entry("bootstrap.servers".to_owned()).or_insert(from.required("bootstrap_servers")?);
    let form = match format(&mut from)? {
        Format::Value(ty) => WriteForm::Payload(ty),
        // Rows say themselves what they are.
        Format::Json(_) => WriteForm::Json,
        Format::Avro(schema) => WriteForm::Avro(schema),
        Format::Proto(message) => WriteForm::Proto(message),
    };
    let write = KafkaWrite { producer_config, topic: from.required("topic")?, form, errors: errors(&mut from)? };
    from.end()?;
    check_write(&write)?;
    Ok(write)
}

/// The name of the output of what cannot be read or written.
fn errors(from: &mut Configuration) -> Result<Option<String>, ExpansionError> {
    let Some(mut handling) = from.mapping("error_handling")? else { return Ok(None) };
    let output = handling
        .required("output")
        .map_err(|ExpansionError(what)| ExpansionError(format!("error_handling: {what}")))?;
    handling.end()?;
    if output == OUTPUT {
        return Err(ExpansionError(format!(
            "error_handling: call its output otherwise than \"{OUTPUT}\", which is the other"
        )));
    }
    Ok(Some(output))
}

/// The format of values.
enum Format {
    /// RAW is bytes, STRING is text.
    Value(FieldType),
    /// With its schema, where one is given.
    Json(Option<String>),
    /// With its schema, where one is given.
    Avro(Option<String>),
    Proto(ProtoMessage),
}

fn format(from: &mut Configuration) -> Result<Format, ExpansionError> {
    let format = from.text("format")?;
    let is_named = format.is_some();
    let format = format.unwrap_or_else(|| "RAW".to_owned());
    let schema = from.text("schema")?.filter(|schema| !schema.trim().is_empty());
    if format == "PROTO" {
        let path = from.text("file_descriptor_path")?.filter(|path| !path.is_empty());
        let name = from.required("message_name")?;
        return proto::message(path.as_deref(), schema.as_deref(), &name).map(Format::Proto);
    }
    for name in ["file_descriptor_path", "message_name"] {
        from.refuse(name, "it belongs to the format PROTO")?;
    }
    match (format.as_str(), schema) {
        ("JSON", schema) => Ok(Format::Json(schema)),
        ("AVRO", schema) => Ok(Format::Avro(schema)),
        ("RAW", Some(_)) if !is_named => Err(ExpansionError(
            "no format is named, so it is RAW, which has no schema: give JSON, AVRO or PROTO".to_owned(),
        )),
        ("RAW" | "STRING", Some(_)) => Err(ExpansionError(format!("the format {format} has no schema"))),
        ("RAW", None) => Ok(Format::Value(FieldType::Bytes)),
        ("STRING", None) => Ok(Format::Value(FieldType::Text)),
        (other, _) => {
            Err(ExpansionError(format!("the format {other} is not known: there are RAW, STRING, JSON, AVRO and PROTO")))
        }
    }
}
