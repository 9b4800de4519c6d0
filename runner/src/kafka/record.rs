//! Records as elements, and elements as records.

use std::borrow::Cow;

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::pipeline::field_type::TypeInfo;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::format::{RowCodec, RowFormat, id_of};
use super::spec::FieldType;
use crate::element::{ElementError, get_varint, put_varint};
use crate::row::{RowType, Shape, Value, ValueType, encode_row};

/// How an element of a read is encoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadElement {
    /// `KV` of nullables.
    KeyValue {
        /// The key.
        key: FieldForm,
        /// The value.
        value: FieldForm,
    },
    /// A row of [`metadata_schema`].
    Metadata {
        /// Its length stands before it.
        prefixed: bool,
    },
    /// A row of [`payload_schema`].
    Payload {
        /// The field.
        ty: FieldType,
        /// Its length stands before it.
        prefixed: bool,
    },
    /// A row of what the value has.
    Formatted {
        /// How the value is written.
        format: RowFormat,
        /// Its type.
        ty: RowType,
        /// Its length stands before it.
        prefixed: bool,
    },
}

/// How an element of a write is encoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WriteElement {
    /// `KV`.
    KeyValue {
        /// The key.
        key: FieldForm,
        /// The value.
        value: FieldForm,
    },
    /// A row.
    Row {
        /// Its length stands before it.
        prefixed: bool,
        /// What it is made of, in the order of its encoding.
        fields: Vec<RowField>,
    },
    /// A row that is written in a format.
    Formatted {
        /// How it is written.
        format: RowFormat,
        /// Its length stands before it.
        prefixed: bool,
        /// Its type.
        ty: RowType,
    },
}

/// How the rows of an output of errors are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorElement {
    /// Their length stands before them.
    pub prefixed: bool,
}

/// How a key or a value is encoded in an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldForm {
    /// What it is.
    pub ty: FieldType,
    /// A byte before it says whether it is there.
    pub nullable: bool,
    /// The length of all of it, with that byte, stands before.
    pub prefixed: bool,
    /// The length of what follows that byte stands before that.
    pub inner_prefixed: bool,
}

/// A field of a row that is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowField {
    /// Its name, which says what it is of the record.
    pub name: String,
    /// It may be null.
    pub nullable: bool,
}

/// What a record is read from.
pub(crate) struct ReadRecord<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Milliseconds; -1: it has none.
    pub(crate) timestamp: i64,
    pub(crate) timestamp_type: TimestampType,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: Vec<HeaderView<'a>>,
}

/// A header of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeaderView<'a> {
    pub(crate) key: Cow<'a, str>,
    pub(crate) value: Option<&'a [u8]>,
}

/// `org.apache.kafka.common.record.TimestampType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimestampType {
    None,
    CreateTime,
    LogAppendTime,
}

impl TimestampType {
    fn id(self) -> i64 {
        match self {
            TimestampType::None => -1,
            TimestampType::CreateTime => 0,
            TimestampType::LogAppendTime => 1,
        }
    }

    fn name(self) -> &'static str {
        match self {
            TimestampType::None => "NoTimestampType",
            TimestampType::CreateTime => "CreateTime",
            TimestampType::LogAppendTime => "LogAppendTime",
        }
    }
}

/// What a record is written from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WriteRecord<'a> {
    pub(crate) key: Option<Cow<'a, [u8]>>,
    pub(crate) value: Option<Cow<'a, [u8]>>,
    pub(crate) headers: Option<Vec<HeaderView<'a>>>,
    /// Another topic than the write's.
    pub(crate) topic: Option<Cow<'a, str>>,
    pub(crate) partition: Option<i32>,
    pub(crate) timestamp: Option<i64>,
}

fn atomic(atomic: pb::AtomicType, nullable: bool) -> pb::FieldType {
    pb::FieldType { nullable, type_info: Some(TypeInfo::AtomicType(atomic.into())) }
}

/// A schema of these fields, which are encoded in their order.
pub(super) fn schema<'a>(id: &str, fields: impl IntoIterator<Item = (&'a str, pb::FieldType)>) -> pb::Schema {
    let fields = fields.into_iter().enumerate().map(|(index, (name, ty))| pb::Field {
        name: name.to_owned(),
        r#type: Some(ty),
        id: index as i32,
        encoding_position: index as i32,
        ..Default::default()
    });
    pb::Schema { fields: fields.collect(), id: id.to_owned(), ..Default::default() }
}

fn headers_type() -> pb::FieldType {
    let header = schema(
        // An SDK keeps one type for each id, so ids go with what they are ids of.
        "6c1d3c4a-7a0e-5f0b-9e2e-0d8b7c3f5a10",
        vec![("key", atomic(pb::AtomicType::String, false)), ("value", atomic(pb::AtomicType::Bytes, true))],
    );
    let row =
        pb::FieldType { nullable: false, type_info: Some(TypeInfo::RowType(pb::RowType { schema: Some(header) })) };
    let array = pb::ArrayType { element_type: Some(Box::new(row)) };
    pb::FieldType { nullable: true, type_info: Some(TypeInfo::ArrayType(Box::new(array))) }
}

/// The row that a read with metadata gives, as Beam's own KafkaIO (`KafkaSourceDescriptor`'s `ByteArrayKafkaRecord`).
pub fn metadata_schema() -> pb::Schema {
    use pb::AtomicType::{Bytes, Int32, Int64, String};
    schema(
        "6c1d3c4a-7a0e-5f0b-9e2e-0d8b7c3f5a11",
        vec![
            ("topic", atomic(String, false)),
            ("partition", atomic(Int32, false)),
            ("offset", atomic(Int64, false)),
            ("timestamp", atomic(Int64, false)),
            ("key", atomic(Bytes, true)),
            ("value", atomic(Bytes, true)),
            ("headers", headers_type()),
            ("timestampTypeId", atomic(Int32, false)),
            ("timestampTypeName", atomic(String, false)),
        ],
    )
}

/// The row that a read of values alone gives.
pub fn payload_schema(ty: FieldType) -> pb::Schema {
    let (id, ty) = match ty {
        FieldType::Bytes => ("6c1d3c4a-7a0e-5f0b-9e2e-0d8b7c3f5a12", pb::AtomicType::Bytes),
        FieldType::Text => ("6c1d3c4a-7a0e-5f0b-9e2e-0d8b7c3f5a13", pb::AtomicType::String),
        FieldType::Long => ("6c1d3c4a-7a0e-5f0b-9e2e-0d8b7c3f5a14", pb::AtomicType::Int64),
        FieldType::Integer => ("6c1d3c4a-7a0e-5f0b-9e2e-0d8b7c3f5a15", pb::AtomicType::Int32),
        FieldType::Double => ("6c1d3c4a-7a0e-5f0b-9e2e-0d8b7c3f5a16", pb::AtomicType::Double),
    };
    schema(id, vec![("payload", atomic(ty, false))])
}

/// The row that a write with headers takes; of its fields, those that are nullable may be left out.
pub fn headers_schema() -> pb::Schema {
    use pb::AtomicType::{Bytes, Int32, Int64, String};
    schema(
        "6c1d3c4a-7a0e-5f0b-9e2e-0d8b7c3f5a17",
        vec![
            ("key", atomic(Bytes, true)),
            ("value", atomic(Bytes, true)),
            ("headers", headers_type()),
            ("topic", atomic(String, true)),
            ("partition", atomic(Int32, true)),
            ("timestamp", atomic(Int64, true)),
        ],
    )
}

/// The row that a read gives for a value that is not what it was to be: Beam's `ErrorHandling.errorSchemaBytes`.
pub fn read_error_schema() -> pb::Schema {
    use pb::AtomicType::{Bytes, String};
    schema(
        "6c1d3c4a-7a0e-5f0b-9e2e-0d8b7c3f5a18",
        vec![("failed_row", atomic(Bytes, false)), ("error_message", atomic(String, false))],
    )
}

/// The row that a write gives for a row that cannot be written, which is of the schema `of`: Beam's
/// `ErrorHandling.errorSchema`.
pub fn write_error_schema(of: &pb::Schema) -> pb::Schema {
    let row = pb::RowType { schema: Some(of.clone()) };
    let row = pb::FieldType { nullable: false, type_info: Some(TypeInfo::RowType(row)) };
    let fields = vec![("failed_row", row), ("error_message", atomic(pb::AtomicType::String, false))];
    let mut error = schema("", fields);
    error.id = id_of(&error.encode_to_vec());
    error
}

/// Why a record is no element, in words that follow those of where it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadRecord(pub(crate) String);

/// What makes elements of records.
pub(crate) struct ElementEncoder {
    element: ReadElement,
    /// Of a [`ReadElement::Formatted`].
    codec: Option<RowCodec>,
}

impl ElementEncoder {
    /// An error says what of a format is not understood.
    pub(crate) fn new(element: ReadElement) -> Result<ElementEncoder, String> {
        let codec = match &element {
            ReadElement::Formatted { format, ty, .. } => Some(RowCodec::new(format, ty)?),
            ReadElement::KeyValue { .. } | ReadElement::Metadata { .. } | ReadElement::Payload { .. } => None,
        };
        Ok(ElementEncoder { element, codec })
    }

    /// Whether the headers of a record are needed.
    pub(crate) fn wants_headers(&self) -> bool {
        matches!(self.element, ReadElement::Metadata { .. })
    }

    /// Appends the value of an element.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, record: &ReadRecord<'_>) -> Result<(), BadRecord> {
        match &self.element {
            ReadElement::KeyValue { key, value } => {
                key.encode(out, "key", record.key)?;
                value.encode(out, "value", record.value)
            }
            ReadElement::Metadata { prefixed } => put_row(out, *prefixed, |out| {
                encode_metadata(out, record);
                Ok(())
            }),
            ReadElement::Payload { ty, prefixed } => {
                // A row whose one field is not there; of the types that there are none has another way to say it.
                let Some(value) = record.value else {
                    return Err(BadRecord("its value is null, which this form of reading has no place for".to_owned()));
                };
                put_row(out, *prefixed, |out| {
                    out.extend([1, 0]);
                    ty.encode(out, "value", value)
                })
            }
            ReadElement::Formatted { format, ty, prefixed } => {
                let no_value = || BadRecord(format!("its value is null, which is no {}", format.name()));
                let (value, codec) = record.value.zip(self.codec.as_ref()).ok_or_else(no_value)?;
                let values = codec.read(value)?;
                put_row(out, *prefixed, |out| {
                    encode_row(out, ty, &values);
                    Ok(())
                })
            }
        }
    }
}

/// Appends a row of [`read_error_schema`].
pub(crate) fn encode_read_error(out: &mut Vec<u8>, prefixed: bool, value: Option<&[u8]>, bad: &BadRecord) {
    let mut failed = Vec::new();
    put_bytes(&mut failed, value.unwrap_or_default());
    encode_write_error(out, prefixed, &failed, bad);
}

/// Appends a row of [`write_error_schema`], of the row that could not be written: of what failed, as it is encoded, and of why.
pub(crate) fn encode_write_error(out: &mut Vec<u8>, prefixed: bool, failed: &[u8], bad: &BadRecord) {
    let mut row = vec![2, 0];
    row.extend_from_slice(failed);
    put_bytes(&mut row, bad.0.as_bytes());
    if prefixed {
        put_varint(out, row.len() as u64);
    }
    out.append(&mut row);
}

/// Appends a row, behind its length where that stands before it.
fn put_row(
    out: &mut Vec<u8>,
    prefixed: bool,
    encode: impl FnOnce(&mut Vec<u8>) -> Result<(), BadRecord>,
) -> Result<(), BadRecord> {
    if !prefixed {
        return encode(out);
    }
    let mut row = Vec::new();
    encode(&mut row)?;
    put_bytes(out, &row);
    Ok(())
}

/// A row, behind its length where that stands before it.
fn row_at(value: &[u8], prefixed: bool) -> Result<&[u8], ElementError> {
    if prefixed { Ok(split_prefixed(value)?.0) } else { Ok(value) }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn encode_metadata(out: &mut Vec<u8>, record: &ReadRecord<'_>) {
    let headers_null = record.headers.is_empty();
    let nulls =
        u8::from(record.key.is_none()) << 4 | u8::from(record.value.is_none()) << 5 | u8::from(headers_null) << 6;
    out.push(9);
    if nulls == 0 {
        out.push(0);
    } else {
        out.extend([1, nulls]);
    }
    put_bytes(out, record.topic.as_bytes());
    put_varint(out, i64::from(record.partition) as u64);
    put_varint(out, record.offset as u64);
    put_varint(out, record.timestamp as u64);
    record.key.into_iter().chain(record.value).for_each(|bytes| put_bytes(out, bytes));
    if !headers_null {
        out.extend((record.headers.len() as u32).to_be_bytes());
        for header in &record.headers {
            match header.value {
                Some(_) => out.extend([2, 0]),
                None => out.extend([2, 1, 2]),
            }
            put_bytes(out, header.key.as_bytes());
            header.value.into_iter().for_each(|value| put_bytes(out, value));
        }
    }
    put_varint(out, record.timestamp_type.id() as u64);
    put_bytes(out, record.timestamp_type.name().as_bytes());
}

impl FieldType {
    /// Appends the nested encoding of what stands in a record.
    fn encode(self, out: &mut Vec<u8>, what: &str, bytes: &[u8]) -> Result<(), BadRecord> {
        let bad = |wanted: &str| BadRecord(format!("its {what} of {} bytes is no {wanted}", bytes.len()));
        match self {
            FieldType::Bytes => put_bytes(out, bytes),
            FieldType::Text => {
                // Java puts a replacement character where there is no UTF-8.
                put_bytes(out, String::from_utf8_lossy(bytes).as_bytes());
            }
            FieldType::Long => {
                let number = bytes.try_into().map_err(|_| bad("long of 8 bytes"))?;
                put_varint(out, i64::from_be_bytes(number) as u64);
            }
            FieldType::Integer => {
                let number = bytes.try_into().map_err(|_| bad("integer of 4 bytes"))?;
                put_varint(out, i64::from(i32::from_be_bytes(number)) as u64);
            }
            FieldType::Double => {
                let number: [u8; 8] = bytes.try_into().map_err(|_| bad("double of 8 bytes"))?;
                out.extend_from_slice(&number);
            }
        }
        Ok(())
    }

    /// What stands in a record, from its nested encoding at the start of `bytes`.
    fn decode(self, bytes: &[u8]) -> Result<Decoded<'_>, ElementError> {
        match self {
            FieldType::Bytes | FieldType::Text => {
                let (bytes, rest) = split_prefixed(bytes)?;
                Ok(Decoded { value: Some(bytes.into()), rest })
            }
            FieldType::Long | FieldType::Integer => {
                let (number, length) = get_varint(bytes)?;
                let number = number as i64;
                let written = match self {
                    FieldType::Integer => i32::try_from(number)
                        .map_err(|_| ElementError::malformed(format!("{number} is no integer of 4 bytes")))?
                        .to_be_bytes()
                        .to_vec(),
                    _ => number.to_be_bytes().to_vec(),
                };
                Ok(Decoded { value: Some(written.into()), rest: &bytes[length..] })
            }
            FieldType::Double => match bytes.split_at_checked(8) {
                Some((number, rest)) => Ok(Decoded { value: Some(number.into()), rest }),
                None => Err(ElementError::Incomplete),
            },
        }
    }
}

/// A field that was decoded.
struct Decoded<'a> {
    /// None: it is null.
    value: Option<Cow<'a, [u8]>>,
    /// What follows it.
    rest: &'a [u8],
}

/// What stands behind its length, and what follows.
fn split_prefixed(bytes: &[u8]) -> Result<(&[u8], &[u8]), ElementError> {
    let (length, at) = get_varint(bytes)?;
    let rest = &bytes[at..];
    usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length)).ok_or(ElementError::Incomplete)
}

impl FieldForm {
    fn encode(&self, out: &mut Vec<u8>, what: &str, bytes: Option<&[u8]>) -> Result<(), BadRecord> {
        // The planner lets this pass only where it was asked for: `KafkaRead::null_is_empty`.
        let null_is_empty = !self.nullable && self.ty == FieldType::Bytes;
        let bytes = bytes.or(null_is_empty.then_some(&[]));
        match (self.ty, self.prefixed, self.nullable, bytes) {
            // Nearly all there are.
            (FieldType::Bytes, false, true, Some(bytes)) => {
                out.push(1);
                put_bytes(out, bytes);
            }
            (_, false, true, None) => out.push(0),
            (_, true, true, None) => out.extend([1, 0]),
            (_, _, false, None) => return Err(BadRecord(format!("its {what} is null, which has no place here"))),
            (ty, prefixed, nullable, Some(bytes)) => {
                let mut value = Vec::with_capacity(bytes.len() + 10);
                ty.encode(&mut value, what, bytes)?;
                // Text and bytes have their length before them, in a length prefix too; outermost they have none.
                let text = matches!(ty, FieldType::Bytes | FieldType::Text);
                let own_length = text && (self.inner_prefixed || !prefixed);
                let value = if text && !own_length { &value[value.len() - bytes_of(&value)..] } else { &value[..] };
                let inner_length = self.inner_prefixed && !text;
                let mut inner = Vec::with_capacity(value.len() + 10);
                if inner_length {
                    put_varint(&mut inner, value.len() as u64);
                }
                inner.extend_from_slice(value);
                if prefixed {
                    put_varint(out, (inner.len() + usize::from(nullable)) as u64);
                }
                if nullable {
                    out.push(1);
                }
                out.extend_from_slice(&inner);
            }
        }
        Ok(())
    }

    /// What stands in a record, from this field at the start of `bytes`.
    fn decode<'a>(&self, bytes: &'a [u8]) -> Result<Decoded<'a>, ElementError> {
        if self.prefixed {
            let (inner, rest) = split_prefixed(bytes)?;
            let there = if self.nullable { behind_mark(inner)? } else { Some(inner) };
            let value = there.map(|inner| self.behind_prefix(inner)).transpose()?;
            return Ok(Decoded { value, rest });
        }
        let there = if self.nullable { behind_mark(bytes)? } else { Some(bytes) };
        let Some(at) = there else { return Ok(Decoded { value: None, rest: &bytes[1..] }) };
        if self.inner_prefixed && !matches!(self.ty, FieldType::Bytes | FieldType::Text) {
            let (inner, rest) = split_prefixed(at)?;
            return Ok(Decoded { rest, ..self.ty.decode(inner)? });
        }
        self.ty.decode(at)
    }

    /// What fills a length prefix, and so needs no length of its own.
    fn behind_prefix<'a>(&self, inner: &'a [u8]) -> Result<Cow<'a, [u8]>, ElementError> {
        let is_text = matches!(self.ty, FieldType::Bytes | FieldType::Text);
        match (is_text, self.inner_prefixed) {
            (true, false) => Ok(inner.into()),
            (true, true) => Ok(split_prefixed(inner)?.0.into()),
            (false, inner_prefixed) => {
                let inner = if inner_prefixed { split_prefixed(inner)?.0 } else { inner };
                self.ty.decode(inner)?.value.ok_or(ElementError::Incomplete)
            }
        }
    }
}

/// What stands behind the byte that says whether something does.
fn behind_mark(bytes: &[u8]) -> Result<Option<&[u8]>, ElementError> {
    let (there, behind) = bytes.split_first().ok_or(ElementError::Incomplete)?;
    Ok((*there != 0).then_some(behind))
}

/// How many bytes stand behind the length at the start of `value`, all of which they fill.
fn bytes_of(value: &[u8]) -> usize {
    get_varint(value).map_or(0, |(length, _)| length as usize)
}

/// What makes records of elements.
pub(crate) struct ElementDecoder {
    element: WriteElement,
    rows: Rows,
}

/// The rows that elements are.
enum Rows {
    /// They are none.
    None,
    Plain(RowType),
    Formatted(Box<RowCodec>),
}

/// Why an element is no record.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum NoRecord {
    /// Its bytes do not match its coder.
    #[error(transparent)]
    Malformed(#[from] ElementError),
    /// It cannot be written in its format.
    #[error(transparent)]
    Bad(#[from] BadRecord),
}

impl WriteElement {
    /// Whether there may be elements that match their coder and yet are no records.
    pub(crate) fn may_be_bad(&self) -> bool {
        matches!(self, WriteElement::Formatted { format: RowFormat::Avro(_) | RowFormat::Proto(_), .. })
    }

    /// The type of the plain rows that it takes.
    fn row_type(&self) -> RowType {
        let fields = match self {
            WriteElement::KeyValue { .. } | WriteElement::Formatted { .. } => return RowType::default(),
            WriteElement::Row { fields, .. } => fields,
        };
        let known = RowType::of(&headers_schema()).unwrap_or_default();
        let fields = fields.iter().filter_map(|field| {
            let shape = match field.name.as_str() {
                "payload" => Shape::Bytes,
                // Whole, also where it is no partition.
                "partition" => Shape::Int64,
                name => known.fields[known.position(name)?].ty.shape.clone(),
            };
            Some(crate::row::FieldDef { name: field.name.clone(), ty: ValueType { nullable: field.nullable, shape } })
        });
        RowType { fields: fields.collect() }
    }
}

impl ElementDecoder {
    /// An error says what of a format is not understood.
    pub(crate) fn new(element: WriteElement) -> Result<ElementDecoder, String> {
        let rows = match &element {
            WriteElement::KeyValue { .. } => Rows::None,
            WriteElement::Row { .. } => Rows::Plain(element.row_type()),
            WriteElement::Formatted { format, ty, .. } => Rows::Formatted(Box::new(RowCodec::new(format, ty)?)),
        };
        Ok(ElementDecoder { element, rows })
    }

    /// The row that the value of an element is.
    pub(crate) fn row<'a>(&self, value: &'a [u8]) -> Result<&'a [u8], ElementError> {
        match &self.element {
            WriteElement::KeyValue { .. } => Ok(value),
            WriteElement::Row { prefixed, .. } | WriteElement::Formatted { prefixed, .. } => row_at(value, *prefixed),
        }
    }

    /// Takes the value of an element apart.
    pub(crate) fn decode<'a>(&self, value: &'a [u8]) -> Result<WriteRecord<'a>, NoRecord> {
        match (&self.element, &self.rows) {
            (WriteElement::KeyValue { key, value: of }, _) => {
                let Decoded { value: key, rest } = key.decode(value)?;
                let Decoded { value, .. } = of.decode(rest)?;
                Ok(WriteRecord { key, value, ..WriteRecord::default() })
            }
            (_, Rows::Formatted(codec)) => {
                let (row, _) = codec.row_type().decode(self.row(value)?)?;
                Ok(WriteRecord { value: Some(codec.write(&row)?.into()), ..WriteRecord::default() })
            }
            (_, Rows::Plain(ty)) => {
                let (row, _) = ty.decode(self.row(value)?)?;
                let mut record = WriteRecord::default();
                for (field, value) in ty.fields.iter().zip(row) {
                    match (field.name.as_str(), value) {
                        ("key", Value::Bytes(bytes)) => record.key = Some(bytes),
                        ("value" | "payload", Value::Bytes(bytes)) => record.value = Some(bytes),
                        ("topic", Value::Text(topic)) => record.topic = Some(topic),
                        ("partition", Value::Int(partition)) => {
                            let partition = i32::try_from(partition).ok().filter(|partition| *partition >= 0);
                            let bad = || ElementError::malformed("a partition that is none".to_owned());
                            record.partition = Some(partition.ok_or_else(bad)?);
                        }
                        ("timestamp", Value::Int(timestamp)) => record.timestamp = Some(timestamp),
                        ("headers", Value::Array(headers)) => {
                            record.headers = Some(headers.into_iter().filter_map(header).collect());
                        }
                        _ => {}
                    }
                }
                Ok(record)
            }
            // No element of rows is made without them.
            (_, Rows::None) => Err(ElementError::malformed("a row without a type".to_owned()).into()),
        }
    }
}

fn header(value: Value<'_>) -> Option<HeaderView<'_>> {
    let Value::Row(fields) = value else { return None };
    let mut fields = fields.into_iter();
    match (fields.next(), fields.next()) {
        (Some(Value::Text(key)), Some(Value::Bytes(Cow::Borrowed(value)))) => {
            Some(HeaderView { key, value: Some(value) })
        }
        (Some(Value::Text(key)), Some(Value::Null)) => Some(HeaderView { key, value: None }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> ReadRecord<'a> {
        ReadRecord {
            topic: "t",
            partition: 3,
            offset: 300,
            timestamp: 5,
            timestamp_type: TimestampType::CreateTime,
            key,
            value,
            headers: Vec::new(),
        }
    }

    fn form(ty: FieldType) -> FieldForm {
        FieldForm { ty, nullable: true, prefixed: false, inner_prefixed: false }
    }

    fn encoded(element: &ReadElement, record: &ReadRecord<'_>) -> Result<Vec<u8>, BadRecord> {
        let mut out = Vec::new();
        ElementEncoder::new(element.clone()).unwrap().encode(&mut out, record).map(|()| out)
    }

    #[test]
    fn null_and_empty_stay_apart() {
        let element = ReadElement::KeyValue { key: form(FieldType::Bytes), value: form(FieldType::Text) };
        assert_eq!(encoded(&element, &record(None, Some(b""))).unwrap(), [0, 1, 0]);
        assert_eq!(encoded(&element, &record(Some(b""), None)).unwrap(), [1, 0, 0]);
        assert_eq!(encoded(&element, &record(Some(b"ab"), Some(b"c"))).unwrap(), *b"\x01\x02ab\x01\x01c");
    }

    /// Go's functions take no null, and its harness panics where there is one (2.77.0).
    #[test]
    fn null_is_empty_where_the_coder_has_no_null() {
        let plain = FieldForm { nullable: false, ..form(FieldType::Bytes) };
        let element = ReadElement::KeyValue { key: plain, value: plain };
        assert_eq!(encoded(&element, &record(None, Some(b"a"))).unwrap(), [0, 1, b'a']);
    }

    #[test]
    fn numbers_are_those_of_kafkas_serialisers() {
        let element = ReadElement::KeyValue { key: form(FieldType::Long), value: form(FieldType::Integer) };
        let bytes = encoded(&element, &record(Some(&300i64.to_be_bytes()), Some(&7i32.to_be_bytes()))).unwrap();
        assert_eq!(bytes, [1, 0xac, 2, 1, 7]);
        let said = encoded(&element, &record(Some(b"abc"), None)).unwrap_err();
        assert_eq!(said.to_string(), "its key of 3 bytes is no long of 8 bytes");
    }

    #[test]
    fn a_row_of_metadata_is_that_of_its_schema() {
        let ty = RowType::of(&metadata_schema()).unwrap();
        let with_headers = ReadRecord {
            headers: vec![
                HeaderView { key: "h".into(), value: Some(b"v") },
                HeaderView { key: "h".into(), value: None },
                HeaderView { key: "".into(), value: Some(b"") },
            ],
            ..record(Some(b"k"), None)
        };
        for (record, prefixed) in [(record(None, Some(b"v")), false), (with_headers, true)] {
            let bytes = encoded(&ReadElement::Metadata { prefixed }, &record).unwrap();
            let row = if prefixed { split_prefixed(&bytes).unwrap().0 } else { &bytes[..] };
            let (row, length) = ty.decode(row).unwrap();
            assert_eq!(length, bytes.len() - usize::from(prefixed));
            let bytes_of = |value: Option<&'static [u8]>| value.map_or(Value::Null, |value| Value::Bytes(value.into()));
            assert_eq!(row[..4], [Value::Text("t".into()), Value::Int(3), Value::Int(300), Value::Int(5)]);
            assert_eq!(
                row[4..6],
                if prefixed { [bytes_of(Some(b"k")), Value::Null] } else { [Value::Null, bytes_of(Some(b"v"))] }
            );
            let header = |key: &'static str, value| Value::Row(vec![Value::Text(key.into()), bytes_of(value)]);
            let headers = Value::Array(vec![header("h", Some(b"v")), header("h", None), header("", Some(b""))]);
            assert_eq!(row[6], if prefixed { headers } else { Value::Null });
            assert_eq!(row[7..], [Value::Int(0), Value::Text("CreateTime".into())]);
        }
    }

    #[test]
    fn a_row_that_is_written_has_what_it_has() {
        let field = |name: &str| RowField { name: name.to_owned(), nullable: true };
        let fields = vec![field("value"), field("headers"), field("partition"), field("topic"), field("timestamp")];
        let element = WriteElement::Row { prefixed: true, fields };
        let decoder = ElementDecoder::new(element).unwrap();
        let Rows::Plain(ty) = &decoder.rows else { panic!("rows") };
        let header = Value::Row(vec![Value::Text("h".into()), Value::Bytes(b"x"[..].into())]);
        let row = [
            Value::Bytes(b"v"[..].into()),
            Value::Array(vec![header]),
            Value::Int(2),
            Value::Text("other".into()),
            Value::Null,
        ];
        let mut bytes = Vec::new();
        encode_row(&mut bytes, ty, &row);
        let mut value = Vec::new();
        put_bytes(&mut value, &bytes);
        let record = decoder.decode(&value).unwrap();
        let headers = Some(vec![HeaderView { key: "h".into(), value: Some(b"x") }]);
        let value = Some(b"v"[..].into());
        let expected =
            WriteRecord { value, headers, topic: Some("other".into()), partition: Some(2), ..Default::default() };
        assert_eq!(record, expected);
    }

    fn field(ty: FieldType) -> impl Strategy<Value = Option<Vec<u8>>> {
        let bytes = match ty {
            FieldType::Bytes => any::<Vec<u8>>().boxed(),
            FieldType::Text => ".*".prop_map(String::into_bytes).boxed(),
            FieldType::Long | FieldType::Double => any::<[u8; 8]>().prop_map(Vec::from).boxed(),
            FieldType::Integer => any::<[u8; 4]>().prop_map(Vec::from).boxed(),
        };
        proptest::option::of(bytes)
    }

    fn case() -> impl Strategy<Value = (FieldForm, Option<Vec<u8>>)> {
        use FieldType::{Bytes, Double, Integer, Long, Text};
        let ty = prop_oneof![Just(Bytes), Just(Text), Just(Long), Just(Integer), Just(Double)];
        (ty, any::<bool>(), any::<bool>()).prop_flat_map(|(ty, prefixed, inner_prefixed)| {
            let form = FieldForm { ty, nullable: true, prefixed, inner_prefixed };
            (Just(form), field(ty))
        })
    }

    proptest! {
        /// What is read is written as it was, whichever way coders put lengths.
        #[test]
        fn a_record_that_is_read_and_written_is_the_same((key_form, key) in case(), (value_form, value) in case(), cut: usize) {
            let element = ReadElement::KeyValue { key: key_form, value: value_form };
            let bytes = encoded(&element, &record(key.as_deref(), value.as_deref())).unwrap();
            let element = ElementDecoder::new(WriteElement::KeyValue { key: key_form, value: value_form }).unwrap();
            let written = element.decode(&bytes).unwrap();
            prop_assert_eq!(written.key.as_deref(), key.as_deref());
            prop_assert_eq!(written.value.as_deref(), value.as_deref());
            prop_assert!(element.decode(&bytes[..cut % bytes.len()]).is_err());
        }
    }
}
