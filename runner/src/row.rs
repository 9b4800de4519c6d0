//! Rows as bytes: `beam:coder:row:v1`, for the few rows that the runner itself reads or writes: records of Kafka, and the
//! configurations of transforms.
//!
//! A row is the number of its fields, a bitmap of those that are null behind its length in bytes (0 where none is), and
//! the fields that are not null, in the order of their encoding positions. Numbers of 32 and 64 bits are varints, arrays
//! and maps have a count of four bytes, big endian, before them; a null element of an array or value of a map has a byte
//! before it. (`standard_coders.yaml` of Beam has examples.)
//!
//! Bytes come from outside: nothing is allocated by a number that stands in them, and nesting is bounded.

use std::borrow::Cow;

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::pipeline::field_type::TypeInfo;
use serde::{Deserialize, Serialize};

use crate::element::{ElementError, get_varint, put_varint};

/// Levels of types within types.
const MAX_DEPTH: usize = 32;

/// `schema.proto`, `LogicalTypes.Enum.MILLIS_INSTANT`.
pub(crate) const MILLIS_INSTANT: &str = "beam:logical_type:millis_instant:v1";
/// `schema.proto`, `LogicalTypes.Enum.MICROS_INSTANT`: Python's timestamps.
const MICROS_INSTANT: &str = "beam:logical_type:micros_instant:v1";
/// `schema.proto`, `LogicalTypes.Enum.DATE`.
const DATE: &str = "beam:logical_type:date:v1";
/// `schema.proto`, `LogicalTypes.Enum.DECIMAL`.
pub(crate) const DECIMAL: &str = "beam:logical_type:decimal:v1";

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueType {
    /// It may be null.
    pub nullable: bool,
    /// What it is otherwise.
    pub shape: Shape,
}

/// The type of a value that is not null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// One byte, signed.
    Byte,
    /// Two bytes, big endian.
    Int16,
    /// A varint of 32 bits.
    Int32,
    /// A varint of 64 bits.
    Int64,
    /// Four bytes.
    Float,
    /// Eight bytes.
    Double,
    /// UTF-8 behind its length.
    Text,
    /// One byte, 0 or 1.
    Boolean,
    /// Bytes behind their length.
    Bytes,
    /// Milliseconds of Unix time: eight bytes, big endian, with the sign turned over, so that they sort as they are.
    Instant,
    /// Microseconds of Unix time: a row of seconds (INT64) and of microseconds of a second (INT32).
    MicrosInstant,
    /// Days of Unix time: a varint of 64 bits.
    Date,
    /// A decimal number: its scale as a varint, and its unscaled value behind its length, in two's complement, big endian.
    Decimal,
    /// Values of one type; iterables too.
    Array(Box<ValueType>),
    /// Keys and values.
    Map(Box<ValueType>, Box<ValueType>),
    /// A row.
    Row(RowType),
}

/// The fields of a row, in the order in which they are encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowType {
    /// Names and types.
    pub fields: Vec<FieldDef>,
}

/// A field of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldDef {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: ValueType,
}

/// A value. Text and bytes are parts of what was decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// None.
    Null,
    /// A whole number of any size, or milliseconds, microseconds or days.
    Int(i64),
    /// A float or a double.
    Double(f64),
    /// True or false.
    Boolean(bool),
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes.
    Bytes(Cow<'a, [u8]>),
    /// A decimal number.
    Decimal(Decimal<'a>),
    /// Elements of an array.
    Array(Vec<Value<'a>>),
    /// Entries of a map, in their order.
    Map(Vec<(Value<'a>, Value<'a>)>),
    /// Fields of a row, in the order of its type.
    Row(Vec<Value<'a>>),
}

/// A decimal number: `unscaled` times ten to the power of minus `scale`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decimal<'a> {
    /// In two's complement, big endian.
    pub unscaled: Cow<'a, [u8]>,
    /// How many digits stand behind the point.
    pub scale: i32,
}

impl Shape {
    /// Its name, for users.
    pub fn called(&self) -> &'static str {
        match self {
            Shape::Byte => "BYTE",
            Shape::Int16 => "INT16",
            Shape::Int32 => "INT32",
            Shape::Int64 => "INT64",
            Shape::Float => "FLOAT",
            Shape::Double => "DOUBLE",
            Shape::Text => "STRING",
            Shape::Boolean => "BOOLEAN",
            Shape::Bytes => "BYTES",
            Shape::Instant | Shape::MicrosInstant => "TIMESTAMP",
            Shape::Date => "DATE",
            Shape::Decimal => "DECIMAL",
            Shape::Array(_) => "ARRAY",
            Shape::Map(..) => "MAP",
            Shape::Row(_) => "ROW",
        }
    }
}

impl RowType {
    /// Reads a schema. An error names the field whose type is unknown here.
    pub fn of(schema: &pb::Schema) -> Result<RowType, String> {
        row_type(schema, MAX_DEPTH)
    }

    /// The place of a field.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }

    /// Decodes the row at the start of `bytes`; gives its fields, and its length.
    pub fn decode<'a>(&self, bytes: &'a [u8]) -> Result<(Vec<Value<'a>>, usize), ElementError> {
        let mut reader = Reader { bytes, at: 0, values: MOST_VALUES };
        let row = reader.row(self)?;
        Ok((row, reader.at))
    }
}

fn row_type(schema: &pb::Schema, depth: usize) -> Result<RowType, String> {
    let mut fields: Vec<&pb::Field> = schema.fields.iter().collect();
    if schema.encoding_positions_set {
        fields.sort_by_key(|field| field.encoding_position);
    }
    let fields = fields.into_iter().map(|field| {
        let ty = field.r#type.as_ref().and_then(|ty| value_type(ty, depth));
        let ty = ty.ok_or_else(|| format!("field \"{}\" has a type that is unknown here", field.name))?;
        Ok(FieldDef { name: field.name.clone(), ty })
    });
    Ok(RowType { fields: fields.collect::<Result<_, String>>()? })
}

fn value_type(ty: &pb::FieldType, depth: usize) -> Option<ValueType> {
    let depth = depth.checked_sub(1)?;
    let inner = |ty: &Option<Box<pb::FieldType>>| value_type(ty.as_deref()?, depth).map(Box::new);
    let shape = match ty.type_info.as_ref()? {
        TypeInfo::AtomicType(atomic) => match pb::AtomicType::try_from(*atomic).ok()? {
            pb::AtomicType::Unspecified => return None,
            pb::AtomicType::Byte => Shape::Byte,
            pb::AtomicType::Int16 => Shape::Int16,
            pb::AtomicType::Int32 => Shape::Int32,
            pb::AtomicType::Int64 => Shape::Int64,
            pb::AtomicType::Float => Shape::Float,
            pb::AtomicType::Double => Shape::Double,
            pb::AtomicType::String => Shape::Text,
            pb::AtomicType::Boolean => Shape::Boolean,
            pb::AtomicType::Bytes => Shape::Bytes,
        },
        TypeInfo::ArrayType(array) => Shape::Array(inner(&array.element_type)?),
        TypeInfo::IterableType(iterable) => Shape::Array(inner(&iterable.element_type)?),
        TypeInfo::MapType(map) => Shape::Map(inner(&map.key_type)?, inner(&map.value_type)?),
        TypeInfo::RowType(row) => Shape::Row(row_type(row.schema.as_ref()?, depth).ok()?),
        TypeInfo::LogicalType(logical) => match logical.urn.as_str() {
            // What represents these two is encoded otherwise than it says: as Java encodes an instant and a decimal.
            MILLIS_INSTANT => Shape::Instant,
            DECIMAL => Shape::Decimal,
            MICROS_INSTANT => Shape::MicrosInstant,
            DATE => Shape::Date,
            // It is encoded as what represents it.
            _ => {
                let represented = value_type(logical.representation.as_deref()?, depth)?;
                return Some(ValueType { nullable: ty.nullable || represented.nullable, ..represented });
            }
        },
    };
    Some(ValueType { nullable: ty.nullable, shape })
}

/// What a [`Shape::MicrosInstant`] is encoded as.
fn seconds_and_micros() -> RowType {
    let field = |name: &str, shape| FieldDef { name: name.to_owned(), ty: ValueType { nullable: false, shape } };
    RowType { fields: vec![field("seconds", Shape::Int64), field("micros", Shape::Int32)] }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Values that may still be made: fields that are not there have no bytes, so bytes do not bound them.
    values: usize,
}

/// Values in a row, in all.
const MOST_VALUES: usize = 1 << 22;

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], ElementError> {
        let end = self.at.checked_add(length).ok_or(ElementError::Incomplete)?;
        let taken = self.bytes.get(self.at..end).ok_or(ElementError::Incomplete)?;
        self.at = end;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, ElementError> {
        let (value, length) = get_varint(&self.bytes[self.at..])?;
        self.at += length;
        Ok(value)
    }

    fn prefixed(&mut self) -> Result<&'a [u8], ElementError> {
        let length = self.varint()?;
        self.take(usize::try_from(length).map_err(|_| ElementError::Incomplete)?)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ElementError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| ElementError::Incomplete)
    }

    /// A count, of what takes a byte each at the least.
    fn count(&mut self) -> Result<usize, ElementError> {
        let count = u32::from_be_bytes(self.array()?) as usize;
        if count > self.bytes.len() - self.at {
            return Err(ElementError::malformed("an array with more elements than bytes".to_owned()));
        }
        Ok(count)
    }

    fn row(&mut self, ty: &RowType) -> Result<Vec<Value<'a>>, ElementError> {
        let count = self.varint()?;
        if count > ty.fields.len() as u64 {
            return Err(ElementError::malformed("a row with more fields than its schema".to_owned()));
        }
        let too_many = || ElementError::malformed("a row with more values than are accepted".to_owned());
        self.values = self.values.checked_sub(ty.fields.len()).ok_or_else(too_many)?;
        let nulls = self.prefixed()?;
        let is_null = |index: usize| nulls.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1);
        let mut row = Vec::with_capacity(ty.fields.len());
        for (index, field) in ty.fields.iter().enumerate() {
            // Fields that were added at the end are not in rows of an older schema.
            let there = (index as u64) < count && !is_null(index);
            row.push(if there { self.value(&field.ty.shape)? } else { Value::Null });
        }
        Ok(row)
    }

    /// An element of an array, or a value of a map.
    fn element(&mut self, ty: &ValueType) -> Result<Value<'a>, ElementError> {
        if ty.nullable && self.take(1)? == [0] {
            return Ok(Value::Null);
        }
        self.value(&ty.shape)
    }

    fn value(&mut self, shape: &Shape) -> Result<Value<'a>, ElementError> {
        Ok(match shape {
            Shape::Byte => Value::Int(i8::from_be_bytes(self.array()?).into()),
            Shape::Int16 => Value::Int(i16::from_be_bytes(self.array()?).into()),
            // A negative one has five bytes from Java, and ten from others.
            Shape::Int32 => Value::Int((self.varint()? as i32).into()),
            Shape::Int64 | Shape::Date => Value::Int(self.varint()? as i64),
            Shape::MicrosInstant => {
                let parts = self.row(&seconds_and_micros())?;
                let [Value::Int(seconds), Value::Int(micros)] = parts[..] else {
                    return Err(ElementError::malformed("a timestamp without seconds".to_owned()));
                };
                let whole = seconds.checked_mul(1_000_000).and_then(|whole| whole.checked_add(micros));
                Value::Int(whole.ok_or_else(|| ElementError::malformed("a timestamp beyond all time".to_owned()))?)
            }
            Shape::Float => Value::Double(f32::from_be_bytes(self.array()?).into()),
            Shape::Double => Value::Double(f64::from_be_bytes(self.array()?)),
            Shape::Text => {
                let text = std::str::from_utf8(self.prefixed()?);
                let text = text.map_err(|_| ElementError::malformed("a text that is not UTF-8".to_owned()))?;
                Value::Text(text.into())
            }
            Shape::Boolean => Value::Boolean(self.take(1)? != [0]),
            Shape::Bytes => Value::Bytes(self.prefixed()?.into()),
            Shape::Instant => Value::Int(i64::from_be_bytes(self.array()?) ^ i64::MIN),
            Shape::Decimal => {
                let scale = self.varint()? as i32;
                Value::Decimal(Decimal { scale, unscaled: self.prefixed()?.into() })
            }
            Shape::Array(element) => {
                let count = self.count()?;
                let elements = (0..count).map(|_| self.element(element));
                Value::Array(elements.collect::<Result<_, _>>()?)
            }
            Shape::Map(key, value) => {
                let count = self.count()?;
                let entries = (0..count).map(|_| Ok((self.value(&key.shape)?, self.element(value)?)));
                Value::Map(entries.collect::<Result<_, ElementError>>()?)
            }
            Shape::Row(row) => Value::Row(self.row(row)?),
        })
    }
}

/// Appends a row; a field more or less than in its type is a fault of the caller.
pub fn encode_row(out: &mut Vec<u8>, ty: &RowType, row: &[Value<'_>]) {
    debug_assert_eq!(ty.fields.len(), row.len());
    put_varint(out, row.len() as u64);
    let last = row.iter().rposition(|value| *value == Value::Null);
    let length = last.map_or(0, |last| last / 8 + 1);
    put_varint(out, length as u64);
    let start = out.len();
    out.resize(start + length, 0);
    for (index, value) in row.iter().enumerate() {
        if *value == Value::Null {
            out[start + index / 8] |= 1 << (index % 8);
        }
    }
    for (field, value) in ty.fields.iter().zip(row) {
        if *value != Value::Null {
            encode(out, &field.ty.shape, value);
        }
    }
}

fn encode_element(out: &mut Vec<u8>, ty: &ValueType, value: &Value<'_>) {
    if ty.nullable {
        out.push(u8::from(*value != Value::Null));
    }
    if *value != Value::Null {
        encode(out, &ty.shape, value);
    }
}

fn encode(out: &mut Vec<u8>, shape: &Shape, value: &Value<'_>) {
    match (shape, value) {
        (Shape::Byte, Value::Int(value)) => out.push(*value as u8),
        (Shape::Int16, Value::Int(value)) => out.extend((*value as i16).to_be_bytes()),
        (Shape::Int32 | Shape::Int64 | Shape::Date, Value::Int(value)) => put_varint(out, *value as u64),
        (Shape::MicrosInstant, Value::Int(micros)) => {
            let parts = [micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000)].map(Value::Int);
            encode_row(out, &seconds_and_micros(), &parts);
        }
        (Shape::Float, Value::Double(value)) => out.extend((*value as f32).to_be_bytes()),
        (Shape::Double, Value::Double(value)) => out.extend(value.to_be_bytes()),
        (Shape::Boolean, Value::Boolean(value)) => out.push(u8::from(*value)),
        (Shape::Text, Value::Text(text)) => {
            put_varint(out, text.len() as u64);
            out.extend(text.as_bytes());
        }
        (Shape::Bytes, Value::Bytes(bytes)) => {
            put_varint(out, bytes.len() as u64);
            out.extend(bytes.iter());
        }
        (Shape::Instant, Value::Int(millis)) => out.extend((millis ^ i64::MIN).to_be_bytes()),
        (Shape::Decimal, Value::Decimal(decimal)) => {
            put_varint(out, u64::from(decimal.scale as u32));
            put_varint(out, decimal.unscaled.len() as u64);
            out.extend(decimal.unscaled.iter());
        }
        (Shape::Array(element), Value::Array(values)) => {
            out.extend((values.len() as u32).to_be_bytes());
            values.iter().for_each(|value| encode_element(out, element, value));
        }
        (Shape::Map(key, of), Value::Map(entries)) => {
            out.extend((entries.len() as u32).to_be_bytes());
            for (at, value) in entries {
                encode(out, &key.shape, at);
                encode_element(out, of, value);
            }
        }
        (Shape::Row(ty), Value::Row(row)) => encode_row(out, ty, row),
        _ => debug_assert!(false, "{value:?} is no {shape:?}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn not_null(shape: Shape) -> ValueType {
        ValueType { nullable: false, shape }
    }

    fn row_of(types: Vec<ValueType>) -> RowType {
        let fields = types.into_iter().enumerate().map(|(index, ty)| FieldDef { name: format!("f{index}"), ty });
        RowType { fields: fields.collect() }
    }

    /// Those of `standard_coders.yaml` of Beam 2.77: `str: string, i32: int32, f64: float64, arr: array[string]`, and
    /// `f_bool: boolean, f_bytes: nullable[bytes]`.
    #[test]
    fn the_examples_of_the_standard() {
        let ty = row_of(vec![
            not_null(Shape::Text),
            not_null(Shape::Int32),
            not_null(Shape::Double),
            not_null(Shape::Array(Box::new(not_null(Shape::Text)))),
        ]);
        let bytes = b"\x04\x00\x03foo\xa9F?\xb9\x99\x99\x99\x99\x99\x9a\0\0\0\x03\x03foo\x03bar\x03baz";
        let row = vec![
            Value::Text("foo".into()),
            Value::Int(9001),
            Value::Double(0.1),
            Value::Array(["foo", "bar", "baz"].map(|text| Value::Text(text.into())).to_vec()),
        ];
        assert_eq!(ty.decode(bytes).unwrap(), (row.clone(), bytes.len()));
        let mut out = Vec::new();
        encode_row(&mut out, &ty, &row);
        assert_eq!(out, bytes);

        let ty = row_of(vec![not_null(Shape::Boolean), ValueType { nullable: true, shape: Shape::Bytes }]);
        for (bytes, row) in [
            (
                &b"\x02\x00\x01\x06ab\0\xff\xfe\x01"[..],
                [Value::Boolean(true), Value::Bytes(b"ab\0\xff\xfe\x01"[..].into())],
            ),
            (&b"\x02\x01\x02\x00"[..], [Value::Boolean(false), Value::Null]),
        ] {
            assert_eq!(ty.decode(bytes).unwrap(), (row.to_vec(), bytes.len()));
            let mut out = Vec::new();
            encode_row(&mut out, &ty, &row);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn a_schema_is_read_in_the_order_of_its_encoding() {
        let field = |name: &str, atomic: pb::AtomicType, position| pb::Field {
            name: name.to_owned(),
            r#type: Some(pb::FieldType { nullable: true, type_info: Some(TypeInfo::AtomicType(atomic.into())) }),
            encoding_position: position,
            ..Default::default()
        };
        let fields = vec![field("a", pb::AtomicType::String, 1), field("b", pb::AtomicType::Int64, 0)];
        let mut schema = pb::Schema { fields, encoding_positions_set: true, ..Default::default() };
        assert_eq!(RowType::of(&schema).unwrap().position("a"), Some(1));
        schema.encoding_positions_set = false;
        assert_eq!(RowType::of(&schema).unwrap().position("a"), Some(0));
        // A type within itself, more often than anybody means.
        let mut deep = pb::FieldType { nullable: false, type_info: Some(TypeInfo::AtomicType(3)) };
        for _ in 0..1000 {
            let element_type = Some(Box::new(deep));
            deep = pb::FieldType {
                nullable: false,
                type_info: Some(TypeInfo::ArrayType(Box::new(pb::ArrayType { element_type }))),
            };
        }
        schema.fields[0].r#type = Some(deep);
        assert_eq!(RowType::of(&schema).unwrap_err(), "field \"a\" has a type that is unknown here");
    }

    /// As Python's coders of rows write them (2.77), and Java's: `-1 ms` and `-12.5`, and then a number.
    #[test]
    fn instants_and_decimals_are_not_encoded_as_what_represents_them() {
        let logical = |urn: &str, atomic: pb::AtomicType| pb::FieldType {
            nullable: false,
            type_info: Some(TypeInfo::LogicalType(Box::new(pb::LogicalType {
                urn: urn.to_owned(),
                representation: Some(Box::new(pb::FieldType {
                    nullable: false,
                    type_info: Some(TypeInfo::AtomicType(atomic.into())),
                })),
                ..Default::default()
            }))),
        };
        let fields = [
            logical("beam:logical_type:millis_instant:v1", pb::AtomicType::Int64),
            logical("beam:logical_type:decimal:v1", pb::AtomicType::Bytes),
            logical("of:a:user", pb::AtomicType::Int64),
        ];
        let fields = fields.into_iter().map(|ty| pb::Field { r#type: Some(ty), ..Default::default() }).collect();
        let ty = RowType::of(&pb::Schema { fields, ..Default::default() }).unwrap();
        let bytes = b"\x03\x00\x7f\xff\xff\xff\xff\xff\xff\xff\x01\x01\x83\x07";
        let decimal = Decimal { unscaled: b"\x83"[..].into(), scale: 1 };
        let row = vec![Value::Int(-1), Value::Decimal(decimal), Value::Int(7)];
        assert_eq!(ty.decode(bytes).unwrap(), (row.clone(), bytes.len()));
        let mut out = Vec::new();
        encode_row(&mut out, &ty, &row);
        assert_eq!(out, bytes);
    }

    fn typed(depth: u32) -> impl Strategy<Value = (ValueType, Value<'static>)> {
        let leaf = prop_oneof![
            any::<i8>().prop_map(|n| (Shape::Byte, Value::Int(n.into()))),
            any::<i16>().prop_map(|n| (Shape::Int16, Value::Int(n.into()))),
            any::<i32>().prop_map(|n| (Shape::Int32, Value::Int(n.into()))),
            any::<i64>().prop_map(|n| (Shape::Int64, Value::Int(n))),
            (-1e9f64..1e9).prop_map(|n| (Shape::Double, Value::Double(n))),
            ".{0,9}".prop_map(|text| (Shape::Text, Value::Text(text.into()))),
            any::<Vec<u8>>().prop_map(|bytes| (Shape::Bytes, Value::Bytes(bytes.into()))),
            any::<bool>().prop_map(|is| (Shape::Boolean, Value::Boolean(is))),
            any::<i64>().prop_map(|n| (Shape::Instant, Value::Int(n))),
            any::<i64>().prop_map(|n| (Shape::MicrosInstant, Value::Int(n))),
            any::<i64>().prop_map(|n| (Shape::Date, Value::Int(n))),
            (any::<Vec<u8>>(), any::<i32>()).prop_map(|(unscaled, scale)| {
                (Shape::Decimal, Value::Decimal(Decimal { unscaled: unscaled.into(), scale }))
            }),
        ];
        let nullable = |(shape, value): (Shape, Value<'static>), null: bool, nullable: bool| {
            let value = if null && nullable { Value::Null } else { value };
            (ValueType { nullable, shape }, value)
        };
        let leaf = (leaf, any::<bool>(), any::<bool>()).prop_map(move |(leaf, a, b)| nullable(leaf, a, b));
        leaf.prop_recursive(depth, 20, 4, |inner| {
            prop_oneof![
                (inner.clone(), 0..4usize).prop_map(|((ty, value), count)| {
                    let array = Value::Array(vec![value; count]);
                    (not_null(Shape::Array(Box::new(ty))), array)
                }),
                (".{0,3}", inner.clone()).prop_map(|(key, (ty, value))| {
                    let map = Value::Map(vec![(Value::Text(key.into()), value)]);
                    (not_null(Shape::Map(Box::new(not_null(Shape::Text)), Box::new(ty))), map)
                }),
                proptest::collection::vec(inner, 0..11).prop_map(|fields| {
                    let (types, values) = fields.into_iter().unzip();
                    (not_null(Shape::Row(row_of(types))), Value::Row(values))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_row_survives_and_nothing_else_panics(
            fields in proptest::collection::vec(typed(3), 0..12), cut: usize, flip: (usize, u8),
        ) {
            let (types, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
            let ty = row_of(types);
            let mut bytes = Vec::new();
            encode_row(&mut bytes, &ty, &values);
            prop_assert_eq!(ty.decode(&bytes).unwrap(), (values, bytes.len()));
            prop_assert!(ty.decode(&bytes[..cut % bytes.len()]).is_err());
            let at = flip.0 % bytes.len();
            bytes[at] ^= flip.1;
            let _ = ty.decode(&bytes);
        }
    }
}
