//! Messages of Protocol Buffers, by the `prost-reflect` crate: the format `PROTO` of Beam's schema transforms.
//!
//! As Beam's `ProtoByteUtils` has it, but for what Java gives types that no other SDK knows: an enum is text, unsigned
//! numbers are INT64, the fields of a `oneof` are fields that may be null, and Google's messages are rows as any others.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ferrobeam_proto::pipeline as pb;
use prost::Message as _;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage,
    Value as Proto,
};

use super::{MAX_DEPTH, MOST_FIELDS, ProtoMessage, absent, has_place, misfit, named_schema};
use crate::kafka::record::BadRecord;
use crate::row::{FieldDef, RowType, Shape, Value, ValueType};

/// The schema of the rows that a message is. An error says what of it is not understood.
pub(super) fn schema(message: &ProtoMessage) -> Result<pb::Schema, String> {
    let row = row_of(&descriptor(message)?)?;
    let text = format!("{} {}", message.name, message.descriptors);
    Ok(named_schema(&row, text.as_bytes()))
}

/// That rows of this type can be written as that message.
pub(super) fn takes(message: &ProtoMessage, ty: &RowType) -> Result<(), String> {
    let descriptor = descriptor(message)?;
    let of = format!("the message {}", descriptor.full_name());
    has_place(ty, &row_of(&descriptor)?, &of)?;
    let required = descriptor.fields().filter(|field| field.cardinality() == Cardinality::Required);
    let missing = required.map(|field| field.name().to_owned()).find(|name| ty.position(name).is_none());
    missing.map_or(Ok(()), |name| Err(format!("{of} requires a field \"{name}\", and the rows have none")))
}

fn descriptor(message: &ProtoMessage) -> Result<MessageDescriptor, String> {
    let bytes = STANDARD.decode(&message.descriptors).map_err(|_| "the descriptors are no base64".to_owned())?;
    let pool = DescriptorPool::decode(&bytes[..]).map_err(|error| format!("they are no descriptors: {error}"))?;
    pool.get_message_by_name(&message.name).ok_or_else(|| {
        let names: Vec<String> = pool.all_messages().map(|message| message.full_name().to_owned()).collect();
        format!("there is no message {}, of those there are {}", message.name, names.join(", "))
    })
}

/// Of the walk through a message and those within.
struct Walk {
    /// The messages that the walk is within.
    within: Vec<String>,
    /// Fields that may still come.
    left: usize,
}

fn row_of(message: &MessageDescriptor) -> Result<RowType, String> {
    row_type(message, &mut Walk { within: Vec::new(), left: MOST_FIELDS })
}

fn row_type(message: &MessageDescriptor, walk: &mut Walk) -> Result<RowType, String> {
    walk.within.push(message.full_name().to_owned());
    let fields = message.fields().map(|field| {
        let many = || format!("{} has more fields than are accepted", message.full_name());
        walk.left = walk.left.checked_sub(1).ok_or_else(many)?;
        let ty = if field.is_map() {
            let entry = field.kind();
            let entry = entry.as_message().ok_or_else(|| format!("the map {} has no entries", field.full_name()))?;
            let key = ValueType { nullable: false, shape: shape(&entry.map_entry_key_field(), walk)? };
            let value = ValueType { nullable: false, shape: shape(&entry.map_entry_value_field(), walk)? };
            ValueType { nullable: false, shape: Shape::Map(Box::new(key), Box::new(value)) }
        } else if field.is_list() {
            let of = ValueType { nullable: false, shape: shape(&field, walk)? };
            ValueType { nullable: false, shape: Shape::Array(Box::new(of)) }
        } else {
            let nullable = field.supports_presence() && field.cardinality() != Cardinality::Required;
            ValueType { nullable, shape: shape(&field, walk)? }
        };
        Ok(FieldDef { name: field.name().to_owned(), ty })
    });
    let fields = fields.collect::<Result<_, String>>()?;
    walk.within.pop();
    Ok(RowType { fields })
}

/// What one value of a field is.
fn shape(field: &FieldDescriptor, walk: &mut Walk) -> Result<Shape, String> {
    Ok(match field.kind() {
        Kind::Double => Shape::Double,
        Kind::Float => Shape::Float,
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Shape::Int32,
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Shape::Int64,
        Kind::Uint32 | Kind::Fixed32 | Kind::Uint64 | Kind::Fixed64 => Shape::Int64,
        Kind::Bool => Shape::Boolean,
        Kind::String | Kind::Enum(_) => Shape::Text,
        Kind::Bytes => Shape::Bytes,
        Kind::Message(message) if walk.within.iter().any(|open| open == message.full_name()) => {
            return Err(format!(
                "field \"{}\" is a {} within itself, which no row is: read the format RAW, and decode it in the pipeline",
                field.full_name(),
                message.full_name()
            ));
        }
        Kind::Message(_) if walk.within.len() >= MAX_DEPTH => {
            return Err(format!("field \"{}\" is nested too deeply", field.full_name()));
        }
        Kind::Message(message) => Shape::Row(row_type(&message, walk)?),
    })
}

/// A message that is ready to be read or written.
pub(super) struct ProtoCodec {
    descriptor: MessageDescriptor,
}

impl ProtoCodec {
    pub(super) fn new(message: &ProtoMessage) -> Result<ProtoCodec, String> {
        Ok(ProtoCodec { descriptor: descriptor(message)? })
    }

    pub(super) fn read(&self, bytes: &[u8], ty: &RowType) -> Result<Vec<Value<'static>>, BadRecord> {
        // Without the library's words: they may show what stands there.
        let no_message = |_| {
            // No message begins so.
            let framed = if bytes.first() == Some(&0) {
                ": it is framed for a schema registry, which is not known here: read the format RAW, and decode it in the pipeline"
            } else {
                ""
            };
            BadRecord(format!("its value is no message {}{framed}", self.descriptor.full_name()))
        };
        let message = DynamicMessage::decode(self.descriptor.clone(), bytes).map_err(no_message)?;
        row(&message, ty)
    }

    pub(super) fn write(&self, row: &[Value<'_>], ty: &RowType) -> Result<Vec<u8>, BadRecord> {
        Ok(message(&self.descriptor, row, ty)?.encode_to_vec())
    }
}

fn row(message: &DynamicMessage, ty: &RowType) -> Result<Vec<Value<'static>>, BadRecord> {
    let descriptor = ReflectMessage::descriptor(message);
    let fields = descriptor.fields().zip(&ty.fields);
    let values = fields.map(|(field, def)| {
        if field.supports_presence() && !message.has_field(&field) {
            return if def.ty.nullable { Ok(Value::Null) } else { Err(absent(&def.name)) };
        }
        value(&message.get_field(&field), &field, &def.ty.shape)
    });
    values.collect()
}

fn value(of: &Proto, field: &FieldDescriptor, shape: &Shape) -> Result<Value<'static>, BadRecord> {
    let misfit = || misfit(field.name());
    Ok(match (of, shape) {
        (Proto::Bool(is), _) => Value::Boolean(*is),
        (Proto::I32(number), _) => Value::Int((*number).into()),
        (Proto::I64(number), _) => Value::Int(*number),
        (Proto::U32(number), _) => Value::Int((*number).into()),
        (Proto::U64(number), _) => Value::Int(i64::try_from(*number).map_err(|_| misfit())?),
        (Proto::F32(number), _) => Value::Double((*number).into()),
        (Proto::F64(number), _) => Value::Double(*number),
        (Proto::String(text), _) => Value::Text(text.clone().into()),
        (Proto::Bytes(bytes), _) => Value::Bytes(bytes.to_vec().into()),
        (Proto::EnumNumber(number), _) => {
            let kind = field.kind();
            let named = kind.as_enum().and_then(|of| of.get_value(*number)).map(|value| value.name().to_owned());
            // Of a later version of the message.
            Value::Text(named.unwrap_or_else(|| number.to_string()).into())
        }
        (Proto::Message(message), Shape::Row(ty)) => Value::Row(row(message, ty)?),
        (Proto::List(values), Shape::Array(element)) => {
            let values = values.iter().map(|one| value(one, field, &element.shape));
            Value::Array(values.collect::<Result<_, _>>()?)
        }
        (Proto::Map(entries), Shape::Map(_, of)) => {
            let kind = field.kind();
            let value_field = kind.as_message().ok_or_else(misfit)?.map_entry_value_field();
            let mut entries: Vec<_> = entries.iter().collect();
            // They come in no order; a record that is read again is the same row.
            entries.sort_by(|a, b| a.0.cmp(b.0));
            let entries = entries.into_iter().map(|(key, one)| {
                let key = match key {
                    MapKey::Bool(is) => Value::Boolean(*is),
                    MapKey::I32(number) => Value::Int((*number).into()),
                    MapKey::I64(number) => Value::Int(*number),
                    MapKey::U32(number) => Value::Int((*number).into()),
                    MapKey::U64(number) => Value::Int(i64::try_from(*number).map_err(|_| misfit())?),
                    MapKey::String(text) => Value::Text(text.clone().into()),
                };
                Ok((key, value(one, &value_field, &of.shape)?))
            });
            Value::Map(entries.collect::<Result<_, BadRecord>>()?)
        }
        _ => return Err(misfit()),
    })
}

fn message(descriptor: &MessageDescriptor, row: &[Value<'_>], ty: &RowType) -> Result<DynamicMessage, BadRecord> {
    let mut message = DynamicMessage::new(descriptor.clone());
    for (def, value) in ty.fields.iter().zip(row) {
        let field = descriptor.get_field_by_name(&def.name).ok_or_else(|| misfit(&def.name))?;
        if *value == Value::Null {
            if field.cardinality() == Cardinality::Required {
                return Err(absent(&def.name));
            }
            continue;
        }
        let value = proto(value, &field, &def.ty.shape, true)?;
        message.try_set_field(&field, value).map_err(|_| misfit(&def.name))?;
    }
    Ok(message)
}

/// A value of a field: all of it, or one of its values.
fn proto(value: &Value<'_>, field: &FieldDescriptor, shape: &Shape, is_all: bool) -> Result<Proto, BadRecord> {
    let misfit = || misfit(field.name());
    Ok(match (value, field.kind(), shape) {
        (Value::Map(entries), Kind::Message(entry), Shape::Map(_, of)) if is_all && field.is_map() => {
            let (key_field, value_field) = (entry.map_entry_key_field(), entry.map_entry_value_field());
            let entries = entries.iter().map(|(key, value)| {
                let key = proto(key, &key_field, &Shape::Text, false)?.into_map_key().ok_or_else(misfit)?;
                Ok((key, proto(value, &value_field, &of.shape, false)?))
            });
            Proto::Map(entries.collect::<Result<_, BadRecord>>()?)
        }
        (Value::Array(values), _, Shape::Array(of)) if is_all && field.is_list() => {
            let values = values.iter().map(|value| proto(value, field, &of.shape, false));
            Proto::List(values.collect::<Result<_, _>>()?)
        }
        (Value::Row(row), Kind::Message(descriptor), Shape::Row(ty)) => Proto::Message(message(&descriptor, row, ty)?),
        (Value::Boolean(is), Kind::Bool, _) => Proto::Bool(*is),
        (Value::Int(number), Kind::Int32 | Kind::Sint32 | Kind::Sfixed32, _) => {
            Proto::I32(i32::try_from(*number).map_err(|_| misfit())?)
        }
        (Value::Int(number), Kind::Int64 | Kind::Sint64 | Kind::Sfixed64, _) => Proto::I64(*number),
        (Value::Int(number), Kind::Uint32 | Kind::Fixed32, _) => {
            Proto::U32(u32::try_from(*number).map_err(|_| misfit())?)
        }
        (Value::Int(number), Kind::Uint64 | Kind::Fixed64, _) => {
            Proto::U64(u64::try_from(*number).map_err(|_| misfit())?)
        }
        (Value::Double(number), Kind::Float, _) => Proto::F32(*number as f32),
        (Value::Double(number), Kind::Double, _) => Proto::F64(*number),
        (Value::Text(text), Kind::String, _) => Proto::String(text.clone().into_owned()),
        (Value::Text(text), Kind::Enum(of), _) => {
            let number = of.get_value_by_name(text).map(|value| value.number());
            // As a number is read of which this version of the message has no name.
            Proto::EnumNumber(number.or_else(|| text.parse().ok()).ok_or_else(misfit)?)
        }
        (Value::Bytes(bytes), Kind::Bytes, _) => Proto::Bytes(bytes.to_vec().into()),
        _ => return Err(misfit()),
    })
}

#[cfg(test)]
mod tests {
    use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
    use prost_reflect::prost_types::{
        DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
        FileDescriptorSet, MessageOptions,
    };

    use super::*;

    fn field(name: &str, number: i32, ty: Type, type_name: &str, label: Label) -> FieldDescriptorProto {
        FieldDescriptorProto {
            name: Some(name.to_owned()),
            number: Some(number),
            r#type: Some(ty.into()),
            type_name: Some(type_name.to_owned()).filter(|name| !name.is_empty()),
            label: Some(label.into()),
            ..Default::default()
        }
    }

    /// `message Order { int64 id = 1; repeated string tags = 2; Kind kind = 3; Part part = 4; map<string, uint32> by = 5;
    /// uint64 most = 6; }`, `message Part { float f = 1; bytes b = 2; }`, `message Itself { Itself of = 1; }` of proto3.
    fn message_named(name: &str) -> ProtoMessage {
        let one = Label::Optional;
        let entry = DescriptorProto {
            name: Some("ByEntry".to_owned()),
            field: vec![field("key", 1, Type::String, "", one), field("value", 2, Type::Uint32, "", one)],
            options: Some(MessageOptions { map_entry: Some(true), ..Default::default() }),
            ..Default::default()
        };
        let order = DescriptorProto {
            name: Some("Order".to_owned()),
            field: vec![
                field("id", 1, Type::Int64, "", one),
                field("tags", 2, Type::String, "", Label::Repeated),
                field("kind", 3, Type::Enum, ".shop.Kind", one),
                field("part", 4, Type::Message, ".shop.Part", one),
                field("by", 5, Type::Message, ".shop.Order.ByEntry", Label::Repeated),
                field("most", 6, Type::Uint64, "", one),
            ],
            nested_type: vec![entry],
            ..Default::default()
        };
        let part = DescriptorProto {
            name: Some("Part".to_owned()),
            field: vec![field("f", 1, Type::Float, "", one), field("b", 2, Type::Bytes, "", one)],
            ..Default::default()
        };
        let itself = DescriptorProto {
            name: Some("Itself".to_owned()),
            field: vec![field("of", 1, Type::Message, ".shop.Itself", one)],
            ..Default::default()
        };
        let names = ["NONE", "BUY"].into_iter().zip(0..).map(|(name, number)| EnumValueDescriptorProto {
            name: Some(name.to_owned()),
            number: Some(number),
            ..Default::default()
        });
        let file = FileDescriptorProto {
            name: Some("order.proto".to_owned()),
            package: Some("shop".to_owned()),
            message_type: vec![order, part, itself],
            enum_type: vec![EnumDescriptorProto {
                name: Some("Kind".to_owned()),
                value: names.collect(),
                ..Default::default()
            }],
            syntax: Some("proto3".to_owned()),
            ..Default::default()
        };
        let set = FileDescriptorSet { file: vec![file] };
        ProtoMessage { descriptors: STANDARD.encode(set.encode_to_vec()), name: name.to_owned() }
    }

    fn ty() -> RowType {
        RowType::of(&schema(&message_named("shop.Order")).unwrap()).unwrap()
    }

    fn a_row(kind: &'static str, most: i64) -> Vec<Value<'static>> {
        vec![
            Value::Int(3),
            Value::Array(vec![Value::Text("a".into()), Value::Text("".into())]),
            Value::Text(kind.into()),
            Value::Row(vec![Value::Double(0.5), Value::Bytes(b"z"[..].into())]),
            Value::Map(vec![(Value::Text("k".into()), Value::Int(7)), (Value::Text("l".into()), Value::Int(0))]),
            Value::Int(most),
        ]
    }

    #[test]
    fn what_is_written_is_the_message_and_read_again() {
        let codec = ProtoCodec::new(&message_named("shop.Order")).unwrap();
        let bytes = codec.write(&a_row("BUY", 1), &ty()).unwrap();
        assert!(bytes.starts_with(b"\x08\x03\x12\x01a\x12\x00\x18\x01\x22\x08\x0d\0\0\0?\x12\x01z"), "{bytes:?}");
        assert_eq!(codec.read(&bytes, &ty()).unwrap(), a_row("BUY", 1));
        // A message of its defaults has no bytes; what may be absent is.
        let empty = vec![
            Value::Int(0),
            Value::Array(vec![]),
            Value::Text("NONE".into()),
            Value::Null,
            Value::Map(vec![]),
            Value::Int(0),
        ];
        assert_eq!(codec.read(b"", &ty()).unwrap(), empty);
        assert_eq!(codec.write(&empty, &ty()).unwrap(), b"");
        // A name that a later version has.
        let later = codec.read(b"\x18\x09", &ty()).unwrap();
        assert_eq!(later[2], Value::Text("9".into()));
        assert_eq!(codec.write(&later, &ty()).unwrap(), b"\x18\x09");
    }

    #[test]
    fn what_does_not_fit_is_named_and_not_shown() {
        let codec = ProtoCodec::new(&message_named("shop.Order")).unwrap();
        for (row, said) in [
            (a_row("secret", 1), "its field \"kind\" is not what the schema says"),
            (a_row("BUY", -1), "its field \"most\" is not what the schema says"),
        ] {
            assert_eq!(codec.write(&row, &ty()).unwrap_err().to_string(), said);
        }
        assert_eq!(codec.read(b"\x08", &ty()).unwrap_err().to_string(), "its value is no message shop.Order");
        // More than INT64 has.
        let greatest = b"\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        let said = codec.read(greatest, &ty()).unwrap_err().to_string();
        assert_eq!(said, "its field \"most\" is not what the schema says");
    }

    #[test]
    fn messages_that_are_no_rows_are_refused() {
        for (message, said) in [
            (message_named("shop.Other"), "there is no message shop.Other, of those there are shop.Order"),
            (message_named("shop.Itself"), "field \"shop.Itself.of\" is a shop.Itself within itself"),
            (ProtoMessage { descriptors: "?".into(), name: "a".into() }, "the descriptors are no base64"),
            (ProtoMessage { descriptors: "AAAA".into(), name: "a".into() }, "they are no descriptors"),
        ] {
            let found = schema(&message).unwrap_err();
            assert!(found.starts_with(said), "{found}");
        }
        let field = FieldDef { name: "id".into(), ty: ValueType { nullable: true, shape: Shape::Text } };
        let found = takes(&message_named("shop.Order"), &RowType { fields: vec![field] }).unwrap_err();
        assert_eq!(found, "field \"id\" is of the type STRING, and in the message shop.Order of the type INT64");
    }
}
