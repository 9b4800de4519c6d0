//! Values that are rows, as Beam's schema transforms have them: the formats JSON, AVRO and PROTO.
//!
//! What rows they are is said by a schema of the format's own. Reading, it gives the type of the rows; writing, rows have a
//! type already, and a schema has to have a place for each of their fields.

mod avro;
mod json;
mod proto;

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::pipeline::field_type::TypeInfo;
use serde::{Deserialize, Serialize};

use super::record::{BadRecord, schema};
use crate::row::{DECIMAL, MILLIS_INSTANT, RowType, Shape, Value, ValueType};

/// Levels of schemas within schemas.
const MAX_DEPTH: usize = 24;
/// Fields of a schema, with those within: one that refers to others again and again has more than anybody means.
const MOST_FIELDS: usize = 20_000;

/// How a value is written that is a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowFormat {
    /// A JSON object. Reading, by a JSON schema; writing needs none.
    Json(Option<String>),
    /// An Avro datum: the binary encoding alone, without a header. By an Avro schema, in JSON; writing without one, by that
    /// which Beam's Java SDK makes of a row's type.
    Avro(Option<String>),
    /// A message of Protocol Buffers.
    Proto(ProtoMessage),
}

/// A type of message, with all that it is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProtoMessage {
    /// A `FileDescriptorSet`, in base64.
    pub descriptors: String,
    /// The full name of the message, without a dot before it.
    pub name: String,
}

impl RowFormat {
    /// The schema of the rows that are read. An error says what of the format's own is not understood.
    pub fn schema(&self) -> Result<pb::Schema, String> {
        match self {
            RowFormat::Json(Some(text)) => json::schema(text),
            RowFormat::Avro(Some(text)) => avro::schema(text),
            RowFormat::Proto(message) => proto::schema(message),
            RowFormat::Json(None) => Err("the format JSON needs a JSON schema".to_owned()),
            RowFormat::Avro(None) => Err("the format AVRO needs an Avro schema".to_owned()),
        }
    }

    /// That rows of this type can be written so.
    pub(crate) fn takes(&self, ty: &RowType) -> Result<(), String> {
        match self {
            RowFormat::Json(_) => json::takes(ty),
            RowFormat::Avro(text) => avro::takes(text.as_deref(), ty),
            RowFormat::Proto(message) => proto::takes(message, ty),
        }
    }

    /// Its name, as Beam's schema transforms have it.
    pub fn name(&self) -> &'static str {
        match self {
            RowFormat::Json(_) => "JSON",
            RowFormat::Avro(_) => "AVRO",
            RowFormat::Proto(_) => "PROTO",
        }
    }
}

/// A format that is ready to be read or written, for rows of one type.
pub(crate) struct RowCodec {
    ty: RowType,
    of: Codec,
}

enum Codec {
    Json,
    Avro(avro::AvroCodec),
    Proto(proto::ProtoCodec),
}

impl RowCodec {
    /// For rows of `ty`, which the planner has found to go with the format.
    pub(crate) fn new(format: &RowFormat, ty: &RowType) -> Result<RowCodec, String> {
        let of = match format {
            RowFormat::Json(_) => Codec::Json,
            RowFormat::Avro(text) => Codec::Avro(avro::AvroCodec::new(text.as_deref(), ty)?),
            RowFormat::Proto(message) => Codec::Proto(proto::ProtoCodec::new(message)?),
        };
        Ok(RowCodec { ty: ty.clone(), of })
    }

    /// The type of its rows.
    pub(crate) fn row_type(&self) -> &RowType {
        &self.ty
    }

    /// The row of a record's value.
    pub(crate) fn read(&self, bytes: &[u8]) -> Result<Vec<Value<'static>>, BadRecord> {
        match &self.of {
            Codec::Json => json::row_of(bytes, &self.ty),
            Codec::Avro(codec) => codec.read(bytes, &self.ty),
            Codec::Proto(codec) => codec.read(bytes, &self.ty),
        }
    }

    /// A record's value of a row.
    pub(crate) fn write(&self, row: &[Value<'_>]) -> Result<Vec<u8>, BadRecord> {
        match &self.of {
            Codec::Json => Ok(json::json_of(row, &self.ty)),
            Codec::Avro(codec) => codec.write(row, &self.ty),
            Codec::Proto(codec) => codec.write(row, &self.ty),
        }
    }
}

/// An id for a schema that is made of `text`. An SDK keeps one type for each id, so it is made from what it is the id of.
pub(super) fn id_of(text: &[u8]) -> String {
    let hash = xxhash_rust::xxh3::xxh3_128(text);
    let hex = format!("{hash:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A type as the pipeline has it.
fn field_type(ty: &ValueType) -> pb::FieldType {
    let atomic = |atomic: pb::AtomicType| TypeInfo::AtomicType(atomic.into());
    let logical = |urn: &str, represented: pb::AtomicType| {
        let representation = pb::FieldType { nullable: false, type_info: Some(atomic(represented)) };
        TypeInfo::LogicalType(Box::new(pb::LogicalType {
            urn: urn.to_owned(),
            representation: Some(Box::new(representation)),
            ..Default::default()
        }))
    };
    let type_info = match &ty.shape {
        Shape::Byte => atomic(pb::AtomicType::Byte),
        Shape::Int16 => atomic(pb::AtomicType::Int16),
        Shape::Int32 => atomic(pb::AtomicType::Int32),
        Shape::Int64 => atomic(pb::AtomicType::Int64),
        Shape::Float => atomic(pb::AtomicType::Float),
        Shape::Double => atomic(pb::AtomicType::Double),
        Shape::Text => atomic(pb::AtomicType::String),
        Shape::Boolean => atomic(pb::AtomicType::Boolean),
        Shape::Bytes => atomic(pb::AtomicType::Bytes),
        Shape::Instant => logical(MILLIS_INSTANT, pb::AtomicType::Int64),
        // No format is read as these.
        Shape::MicrosInstant | Shape::Date => atomic(pb::AtomicType::Int64),
        Shape::Decimal => logical(DECIMAL, pb::AtomicType::Bytes),
        Shape::Array(of) => {
            TypeInfo::ArrayType(Box::new(pb::ArrayType { element_type: Some(Box::new(field_type(of))) }))
        }
        Shape::Map(key, value) => TypeInfo::MapType(Box::new(pb::MapType {
            key_type: Some(Box::new(field_type(key))),
            value_type: Some(Box::new(field_type(value))),
        })),
        Shape::Row(row) => {
            let schema = named_schema(row, format!("{row:?}").as_bytes());
            TypeInfo::RowType(pb::RowType { schema: Some(schema) })
        }
    };
    pb::FieldType { nullable: ty.nullable, type_info: Some(type_info) }
}

/// The schema of rows of a type, for which `text` stands.
fn named_schema(row: &RowType, text: &[u8]) -> pb::Schema {
    schema(&id_of(text), row.fields.iter().map(|field| (field.name.as_str(), field_type(&field.ty))))
}

/// That rows of the type `ty` have a place in rows of the type `place`: by name, whatever the order. A null where there is
/// no place for it is found when it is there.
fn has_place(ty: &RowType, place: &RowType, of: &str) -> Result<(), String> {
    for field in &ty.fields {
        let name = &field.name;
        let Some(at) = place.position(name) else {
            let names: Vec<&str> = place.fields.iter().map(|field| field.name.as_str()).collect();
            return Err(format!("{of} has no field \"{name}\", of those there are {}", names.join(", ")));
        };
        let (shape, place) = (&field.ty.shape, &place.fields[at].ty.shape);
        shape_has_place(shape, place, of).map_err(|why| {
            why.unwrap_or_else(|| {
                format!(
                    "field \"{name}\" is of the type {}, and in {of} of the type {}",
                    shape.called(),
                    place.called()
                )
            })
        })?;
    }
    Ok(())
}

/// As [`has_place`]. Without words: what it is about is the type itself.
fn shape_has_place(shape: &Shape, place: &Shape, of: &str) -> Result<(), Option<String>> {
    use Shape::{Array, Byte, Date, Double, Float, Instant, Int16, Int32, Int64, Map, MicrosInstant, Row};
    match (shape, place) {
        (Byte | Int16 | Int32 | Int64, Byte | Int16 | Int32 | Int64) | (Float | Double, Float | Double) => Ok(()),
        // Times of any unit.
        (Instant | MicrosInstant | Date, Instant | MicrosInstant) | (Int64, MicrosInstant) => Ok(()),
        (Array(shape), Array(place)) => shape_has_place(&shape.shape, &place.shape, of),
        (Map(key, value), Map(place_of_key, place_of_value)) => {
            shape_has_place(&key.shape, &place_of_key.shape, of)?;
            shape_has_place(&value.shape, &place_of_value.shape, of)
        }
        (Row(ty), Row(place)) => has_place(ty, place, of).map_err(Some),
        _ if shape == place => Ok(()),
        _ => Err(None),
    }
}

/// A value is not what it should be; the words go on behind those of the record.
fn misfit(name: &str) -> BadRecord {
    BadRecord(format!("its field \"{name}\" is not what the schema says"))
}

fn absent(name: &str) -> BadRecord {
    BadRecord(format!("its field \"{name}\" is required and is not there"))
}
