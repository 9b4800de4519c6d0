//! Requests as SDKs send them.

use std::collections::BTreeMap;

use ferrobeam_proto::expansion::{ExpansionRequest, ExpansionResponse};
use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::pipeline::field_type::TypeInfo;
use ferrobeam_runner::kafka::{KafkaRead, KafkaWrite, READ_URN, WRITE_URN};
use ferrobeam_runner::row::{RowType, Value, encode_row};
use prost::Message;

use super::recognise::recognise;
use super::service::expand;

fn field(name: &str, ty: TypeInfo, nullable: bool) -> pb::Field {
    let ty = Some(pb::FieldType { nullable, type_info: Some(ty) });
    pb::Field { name: name.to_owned(), r#type: ty, ..Default::default() }
}

fn atomic(ty: pb::AtomicType) -> TypeInfo {
    TypeInfo::AtomicType(ty.into())
}

fn text_type() -> Option<Box<pb::FieldType>> {
    Some(Box::new(pb::FieldType { nullable: false, type_info: Some(atomic(pb::AtomicType::String)) }))
}

fn text(text: &str) -> Value<'_> {
    Value::Text(text.into())
}

fn config<'a>(pairs: &[(&'a str, &'a str)]) -> Value<'a> {
    Value::Map(pairs.iter().map(|(name, value)| (text(name), text(value))).collect())
}

/// The fields that Go sends for a read, in its order and with its names.
fn go_read<'a>(topics: &[&'a str], deserializer: &'a str) -> (pb::Schema, Vec<Value<'a>>) {
    use pb::AtomicType::{Boolean, Int64, String};
    let map = TypeInfo::MapType(Box::new(pb::MapType { key_type: text_type(), value_type: text_type() }));
    let list = TypeInfo::ArrayType(Box::new(pb::ArrayType { element_type: text_type() }));
    let fields = vec![
        field("ConsumerConfig", map, false),
        field("Topics", list, false),
        field("KeyDeserializer", atomic(String), false),
        field("ValueDeserializer", atomic(String), false),
        field("StartReadTime", atomic(Int64), true),
        field("MaxNumRecords", atomic(Int64), true),
        field("MaxReadTime", atomic(Int64), true),
        field("CommitOffsetInFinalize", atomic(Boolean), false),
        field("TimestampPolicy", atomic(String), false),
    ];
    let row = vec![
        config(&[("bootstrap.servers", "localhost:9"), ("group.id", "g")]),
        Value::Array(topics.iter().map(|topic| text(topic)).collect()),
        text(deserializer),
        text("org.apache.kafka.common.serialization.ByteArrayDeserializer"),
        Value::Null,
        Value::Int(7),
        Value::Null,
        Value::Boolean(true),
        text("CreateTime"),
    ];
    (pb::Schema { fields, ..Default::default() }, row)
}

fn request(urn: &str, (schema, row): (pb::Schema, Vec<Value<'_>>), inputs: &[&str]) -> ExpansionRequest {
    let mut payload = Vec::new();
    encode_row(&mut payload, &RowType::of(&schema).unwrap(), &row);
    let payload = pb::ExternalConfigurationPayload { schema: Some(schema), payload: payload.into() };
    let transform = pb::PTransform {
        unique_name: "Kafka".to_owned(),
        spec: Some(pb::FunctionSpec { urn: urn.to_owned(), payload: payload.encode_to_vec().into() }),
        inputs: inputs.iter().map(|input| ("input".to_owned(), (*input).to_owned())).collect(),
        ..Default::default()
    };
    let coder = pb::Coder::default();
    let components = pb::Components { coders: BTreeMap::from([("theirs".to_owned(), coder)]), ..Default::default() };
    let transform = Some(transform);
    ExpansionRequest { components: Some(components), transform, namespace: "ns".to_owned(), ..Default::default() }
}

const READ: &str = "beam:transform:org.apache.beam:kafka_read_without_metadata:v1";
const BYTES: &str = "org.apache.kafka.common.serialization.ByteArrayDeserializer";

fn expanded(request: ExpansionRequest) -> (pb::PTransform, pb::Components) {
    let ExpansionResponse { components, transform, .. } = expand(request).unwrap();
    (transform.unwrap(), components.unwrap())
}

#[test]
fn a_read_is_one_leaf_of_the_runners_own() {
    let (transform, components) = expanded(request(READ, go_read(&["orders"], BYTES), &[]));
    let spec = transform.spec.unwrap();
    assert_eq!((spec.urn.as_str(), transform.environment_id.as_str()), (READ_URN, ""));
    let read: KafkaRead = serde_json::from_slice(&spec.payload).unwrap();
    assert_eq!((read.topics, read.max_records, read.commit), (vec!["orders".to_owned()], Some(7), true));
    // What was sent is still there, and all that was added is in the namespace.
    assert!(components.coders.contains_key("theirs"));
    let ids = components.pcollections.keys().chain(components.windowing_strategies.keys());
    assert!(ids.chain(components.coders.keys().filter(|id| *id != "theirs")).all(|id| id.starts_with("ns")));
    let output = &components.pcollections[&transform.outputs["output"]];
    assert_eq!(output.is_bounded(), pb::is_bounded::Enum::Bounded);
    let coder = |id: &str| components.coders[id].spec.as_ref().unwrap().urn.clone();
    assert_eq!(coder(&output.coder_id), "beam:coder:kv:v1");
    // Go knows no null.
    assert_eq!(coder(&components.coders[&output.coder_id].component_coder_ids[0]), "beam:coder:bytes:v1");
}

#[test]
fn a_write_is_a_composite_without_outputs_around_a_leaf_with_one() {
    let map = TypeInfo::MapType(Box::new(pb::MapType { key_type: text_type(), value_type: text_type() }));
    let names = ["topic", "key_serializer", "value_serializer"];
    let texts = names.map(|name| field(name, atomic(pb::AtomicType::String), false));
    let fields = std::iter::once(field("producer_config", map, false)).chain(texts).collect();
    let row = vec![config(&[("bootstrap.servers", "localhost:9")]), text("orders"), text(""), text("")];
    let schema = pb::Schema { fields, ..Default::default() };
    let urn = "beam:transform:org.apache.beam:kafka_write:v1";
    let (transform, components) = expanded(request(urn, (schema, row), &["theirs"]));
    assert!(transform.outputs.is_empty());
    let leaf = &components.transforms[&transform.subtransforms[0]];
    assert_eq!((leaf.inputs.len(), leaf.outputs.len()), (1, 1));
    let spec = leaf.spec.as_ref().unwrap();
    assert_eq!(spec.urn, WRITE_URN);
    assert_eq!(serde_json::from_slice::<KafkaWrite>(&spec.payload).unwrap().topic, "orders");
}

#[test]
fn a_secret_in_yaml_that_is_wrong_is_not_shown() {
    let fields = ["transform_identifier", "config"].map(|name| field(name, atomic(pb::AtomicType::String), false));
    let schema = pb::Schema { fields: fields.into(), ..Default::default() };
    let mut row = Vec::new();
    let yaml = "topic: t\n  sasl.password: hunter2\n bootstrap";
    let values = [text("beam:schematransform:org.apache.beam:kafka_read:v1"), text(yaml)];
    encode_row(&mut row, &RowType::of(&schema).unwrap(), &values);
    let payload = pb::SchemaTransformPayload {
        identifier: "beam:transform:managed:v1".to_owned(),
        configuration_schema: Some(schema),
        configuration_row: row.into(),
    };
    let mut asked = request("beam:expansion:payload:schematransform:v1", go_read(&["t"], BYTES), &[]);
    if let Some(spec) = asked.transform.as_mut().and_then(|transform| transform.spec.as_mut()) {
        spec.payload = payload.encode_to_vec().into();
    }
    let said = expand(asked).unwrap_err().to_string();
    assert!(said.starts_with("the configuration is no YAML that is understood: see line 2"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_deserializer_may_be_named_without_its_package() {
    let of = |name| expand(request(READ, go_read(&["t"], name), &[])).expect("a deserializer of Kafka's own");
    assert_eq!(of("StringDeserializer"), of("org.apache.kafka.common.serialization.StringDeserializer"));
}

/// Fields that are not there have no bytes: few of those stand for many values.
#[test]
fn a_small_request_for_very_many_values_is_refused() {
    let wide = (0..6000).map(|index| field(&format!("f{index}"), atomic(pb::AtomicType::Int64), true)).collect();
    let row = pb::RowType { schema: Some(pb::Schema { fields: wide, ..Default::default() }) };
    let element = pb::FieldType { nullable: false, type_info: Some(TypeInfo::RowType(row)) };
    let rows = TypeInfo::ArrayType(Box::new(pb::ArrayType { element_type: Some(Box::new(element)) }));
    let schema = pb::Schema { fields: vec![field("Topics", rows, false)], ..Default::default() };
    let mut bytes = vec![1, 0];
    bytes.extend(25_000u32.to_be_bytes());
    bytes.extend(std::iter::repeat_n([0, 0], 25_000).flatten());
    let mut asked = request(READ, go_read(&["t"], BYTES), &[]);
    if let Some(spec) = asked.transform.as_mut().and_then(|transform| transform.spec.as_mut()) {
        let payload = pb::ExternalConfigurationPayload { schema: Some(schema), payload: bytes.into() };
        spec.payload = payload.encode_to_vec().into();
    }
    let said = expand(asked).unwrap_err().to_string();
    assert!(said.contains("more values than are accepted"), "{said}");
}

#[test]
fn what_is_wrong_is_told_by_name() {
    let said = |request| expand(request).unwrap_err().to_string();
    let avro = said(request(READ, go_read(&["orders"], "io.confluent.kafka.serializers.KafkaAvroDeserializer"), &[]));
    assert!(avro.starts_with("io.confluent.kafka.serializers.KafkaAvroDeserializer is a Java class"), "{avro}");
    let letters = said(request(READ, go_read(&["t", "1"], BYTES), &[]));
    assert_eq!(letters, "topics are t, 1: is that one topic, \"t1\"? It is to be in a list");
    let unknown = said(request("beam:transform:org.apache.beam:pubsub_read:v1", go_read(&["t"], BYTES), &[]));
    assert!(unknown.contains("pubsub_read:v1 is not served here"), "{unknown}");
    let mut cut = request(READ, go_read(&["orders"], BYTES), &[]);
    if let Some(spec) = cut.transform.as_mut().and_then(|transform| transform.spec.as_mut()) {
        spec.payload.truncate(spec.payload.len() / 2);
    }
    assert!(said(cut).contains("cannot be read"));
}

/// As Java's expansion service leaves a read: a composite with its configuration beside it, of parts in a container.
fn expanded_by_java(format: &str, outputs: &[(&str, &str)]) -> pb::Pipeline {
    let names = ["bootstrap_servers", "format", "topic"];
    let fields = names.map(|name| field(name, atomic(pb::AtomicType::String), false));
    let schema = pb::Schema { fields: fields.to_vec(), ..Default::default() };
    let mut row = Vec::new();
    encode_row(&mut row, &RowType::of(&schema).unwrap(), &[text("localhost:9"), text(format), text("t")]);
    let annotations = [
        ("schematransform_urn", b"beam:schematransform:org.apache.beam:kafka_read:v1".to_vec()),
        ("config_row_schema", schema.encode_to_vec()),
        ("config_row", row),
    ];
    let part = |name: &str, parts: &[&str]| pb::PTransform {
        unique_name: name.to_owned(),
        subtransforms: parts.iter().map(|part| (*part).to_owned()).collect(),
        environment_id: "java".to_owned(),
        outputs: outputs.iter().map(|(tag, id)| ((*tag).to_owned(), (*id).to_owned())).collect(),
        ..Default::default()
    };
    let composite = pb::PTransform {
        annotations: annotations.map(|(key, value)| (key.to_owned(), value.into())).into(),
        ..part("Read", &["inner"])
    };
    let reader = pb::PTransform { inputs: [("in".to_owned(), "rows".to_owned())].into(), ..part("Use", &[]) };
    let transforms = [
        ("read".to_owned(), composite),
        ("inner".to_owned(), part("Read/Inner", &["leaf"])),
        ("leaf".to_owned(), part("Read/Inner/Leaf", &[])),
        ("use".to_owned(), reader),
    ];
    let components = pb::Components { transforms: transforms.into(), ..Default::default() };
    pb::Pipeline { components: Some(components), ..Default::default() }
}

#[test]
fn what_java_expanded_is_replaced_by_what_was_asked() {
    let found = recognise(&expanded_by_java("RAW", &[("output", "rows")])).expect("it is Kafka's");
    assert_eq!((found.replaced, found.left), (vec!["Read".to_owned()], vec![]));
    let components = found.pipeline.components.unwrap();
    assert_eq!(components.transforms.keys().collect::<Vec<_>>(), ["read", "use"]);
    let read = &components.transforms["read"];
    assert_eq!(read.spec.as_ref().map(|spec| spec.urn.as_str()), Some(READ_URN));
    assert_eq!(read.outputs.get("output").map(String::as_str), Some("rows"));
    assert!(read.environment_id.is_empty() && components.pcollections.is_empty());
}

#[test]
fn what_java_expanded_stays_where_it_asks_for_more() {
    let left = |pipeline: &pb::Pipeline| {
        let found = recognise(pipeline).expect("it is Kafka's");
        assert_eq!(found.pipeline.components.unwrap().transforms.len(), 4);
        found.left.concat()
    };
    assert!(left(&expanded_by_java("ODD", &[("output", "rows")])).starts_with("\"Read\": the format ODD is not known"));
    let more = left(&expanded_by_java("RAW", &[("output", "rows"), ("other", "others")]));
    assert_eq!(more, "\"Read\": it has an output \"other\", which is not known here");
    assert!(recognise(&pb::Pipeline::default()).is_none());
}
