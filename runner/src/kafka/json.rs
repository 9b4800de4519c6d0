//! Values as JSON, of which a JSON schema says what rows they are: the format `JSON` of Beam's schema transforms.
//!
//! As Beam's `JsonUtils` has it: `string`, `integer` (INT64), `number` (DOUBLE), `boolean`, `array` and `object` (a row); a
//! property that is not required is nullable.

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::pipeline::field_type::TypeInfo;
use serde_json::Value as Json;

use super::record::BadRecord;
use crate::row::{RowType, Shape, Value, ValueType};

/// Levels of schemas within schemas.
const MAX_DEPTH: usize = 24;

/// The schema of the rows that a JSON schema describes. An error says what of it is not understood.
pub fn json_schema(text: &str) -> Result<pb::Schema, String> {
    let json: Json = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
    let mut schema = object_schema(&json, "the schema", MAX_DEPTH)?;
    schema.id = id_of(text);
    Ok(schema)
}

/// An SDK keeps one type for each id, so it is made from what it is the id of.
fn id_of(text: &str) -> String {
    let hash = xxhash_rust::xxh3::xxh3_128(text.as_bytes());
    let hex = format!("{hash:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn object_schema(json: &Json, what: &str, depth: usize) -> Result<pb::Schema, String> {
    let properties = json.get("properties").and_then(Json::as_object);
    let properties = properties.ok_or_else(|| format!("{what} is no object with \"properties\""))?;
    let required: Vec<&str> =
        json.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
    let fields = (0..).zip(properties).map(|(index, (name, property))| {
        let mut ty = field_type(property, &format!("property \"{name}\""), depth)?;
        ty.nullable |= !required.contains(&name.as_str());
        Ok(pb::Field {
            name: name.clone(),
            r#type: Some(ty),
            id: index,
            encoding_position: index,
            ..Default::default()
        })
    });
    Ok(pb::Schema { fields: fields.collect::<Result<_, String>>()?, ..Default::default() })
}

fn field_type(json: &Json, what: &str, depth: usize) -> Result<pb::FieldType, String> {
    let depth = depth.checked_sub(1).ok_or_else(|| format!("{what} is nested too deeply"))?;
    let named = match json.get("type") {
        Some(Json::String(name)) => vec![name.as_str()],
        Some(Json::Array(names)) => names.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    };
    let nullable = named.contains(&"null");
    let mut others = named.iter().filter(|name| **name != "null");
    let (Some(name), None) = (others.next(), others.next()) else {
        return Err(format!("{what} has no single \"type\""));
    };
    let atomic = |atomic: pb::AtomicType| TypeInfo::AtomicType(atomic.into());
    let type_info = match *name {
        "string" => atomic(pb::AtomicType::String),
        "integer" => atomic(pb::AtomicType::Int64),
        "number" => atomic(pb::AtomicType::Double),
        "boolean" => atomic(pb::AtomicType::Boolean),
        "array" => {
            let items = json.get("items").ok_or_else(|| format!("{what} is an array without \"items\""))?;
            let element = field_type(items, &format!("the items of {what}"), depth)?;
            TypeInfo::ArrayType(Box::new(pb::ArrayType { element_type: Some(Box::new(element)) }))
        }
        "object" => TypeInfo::RowType(pb::RowType { schema: Some(object_schema(json, what, depth)?) }),
        other => return Err(format!("{what} is of the type \"{other}\", which is not known here")),
    };
    Ok(pb::FieldType { nullable, type_info: Some(type_info) })
}

/// The row of a record's value.
pub(super) fn row_of(bytes: &[u8], ty: &RowType) -> Result<Vec<Value<'static>>, BadRecord> {
    // Not what stands there: it is a user's data.
    let json: Json = serde_json::from_slice(bytes).map_err(|error| {
        BadRecord(format!("its value is no JSON, at line {}, column {}", error.line(), error.column()))
    })?;
    row(&json, ty, "its value")
}

fn row(json: &Json, ty: &RowType, what: &str) -> Result<Vec<Value<'static>>, BadRecord> {
    let object = json.as_object().ok_or_else(|| BadRecord(format!("{what} is no JSON object")))?;
    ty.fields.iter().map(|field| value(object.get(&field.name), &field.ty, &field.name)).collect()
}

fn value(json: Option<&Json>, ty: &ValueType, name: &str) -> Result<Value<'static>, BadRecord> {
    let json = match json {
        None | Some(Json::Null) if ty.nullable => return Ok(Value::Null),
        None | Some(Json::Null) => return Err(BadRecord(format!("its field \"{name}\" is required and is not there"))),
        Some(json) => json,
    };
    let found = match &ty.shape {
        Shape::Text => json.as_str().map(|text| Value::Text(text.to_owned().into())),
        Shape::Byte | Shape::Int16 | Shape::Int32 | Shape::Int64 => json.as_i64().map(Value::Int),
        Shape::Float | Shape::Double => json.as_f64().map(Value::Double),
        Shape::Boolean => json.as_bool().map(Value::Boolean),
        Shape::Array(element) => match json.as_array() {
            Some(values) => {
                let values = values.iter().map(|json| value(Some(json), element, name));
                Some(Value::Array(values.collect::<Result<_, _>>()?))
            }
            None => None,
        },
        Shape::Row(of) => Some(Value::Row(row(json, of, &format!("its field \"{name}\""))?)),
        // No JSON schema gives them.
        Shape::Bytes | Shape::Map(..) => None,
    };
    found.ok_or_else(|| BadRecord(format!("its field \"{name}\" is not what the schema says")))
}

/// A row as JSON, its fields in their order.
pub(super) fn json_of(row: &[Value<'_>], ty: &RowType) -> Vec<u8> {
    let mut out = Vec::new();
    put_row(&mut out, row, ty);
    out
}

fn put_row(out: &mut Vec<u8>, row: &[Value<'_>], ty: &RowType) {
    out.push(b'{');
    for (index, (field, value)) in ty.fields.iter().zip(row).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put_text(out, &field.name);
        out.push(b':');
        put(out, value, &field.ty.shape);
    }
    out.push(b'}');
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(Json::from(text).to_string().as_bytes());
}

fn put(out: &mut Vec<u8>, value: &Value<'_>, shape: &Shape) {
    match (value, shape) {
        (Value::Int(number), _) => out.extend_from_slice(number.to_string().as_bytes()),
        // What is no number in JSON is null.
        (Value::Double(number), _) => out.extend_from_slice(Json::from(*number).to_string().as_bytes()),
        (Value::Boolean(is), _) => out.extend_from_slice(is.to_string().as_bytes()),
        (Value::Text(text), _) => put_text(out, text),
        (Value::Array(values), Shape::Array(element)) => {
            out.push(b'[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                put(out, value, &element.shape);
            }
            out.push(b']');
        }
        (Value::Map(entries), Shape::Map(_, of)) => {
            out.push(b'{');
            for (index, (key, value)) in entries.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                match key {
                    Value::Text(key) => put_text(out, key),
                    other => {
                        let mut text = Vec::new();
                        put(&mut text, other, &Shape::Int64);
                        put_text(out, &String::from_utf8_lossy(&text));
                    }
                }
                out.push(b':');
                put(out, value, &of.shape);
            }
            out.push(b'}');
        }
        (Value::Row(row), Shape::Row(ty)) => put_row(out, row, ty),
        _ => out.extend_from_slice(b"null"),
    }
}

/// Whether rows of this type can be written so: bytes have no form in JSON that everybody agrees on.
pub(crate) fn has_json(ty: &RowType) -> Result<(), String> {
    fn check(shape: &Shape, name: &str) -> Result<(), String> {
        match shape {
            Shape::Bytes => Err(format!("field \"{name}\" is bytes, for which JSON has no form")),
            Shape::Array(element) => check(&element.shape, name),
            Shape::Map(key, value) => match key.shape {
                Shape::Text | Shape::Int16 | Shape::Int32 | Shape::Int64 => check(&value.shape, name),
                _ => Err(format!("field \"{name}\" is a map whose keys are no text")),
            },
            Shape::Row(ty) => has_json(ty),
            Shape::Byte
            | Shape::Int16
            | Shape::Int32
            | Shape::Int64
            | Shape::Float
            | Shape::Double
            | Shape::Text
            | Shape::Boolean => Ok(()),
        }
    }
    ty.fields.iter().try_for_each(|field| check(&field.ty.shape, &field.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"{"type": "object", "required": ["id", "tags"], "properties": {
        "id": {"type": "integer"}, "name": {"type": "string"}, "price": {"type": ["number", "null"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "of": {"type": "object", "properties": {"good": {"type": "boolean"}}}}}"#;

    #[test]
    fn what_is_read_is_written_again() {
        let ty = RowType::of(&json_schema(SCHEMA).unwrap()).unwrap();
        for text in [
            r#"{"id":1,"name":"a\"b","of":{"good":true},"price":0.5,"tags":["x",""]}"#,
            r#"{"id":-7,"name":null,"of":null,"price":null,"tags":[]}"#,
        ] {
            let row = row_of(text.as_bytes(), &ty).unwrap();
            assert_eq!(String::from_utf8(json_of(&row, &ty)).unwrap(), text);
        }
        // Missing where it may be, and one more than the schema knows.
        let row = row_of(br#"{"id":1,"tags":["t"],"other":3}"#, &ty).unwrap();
        assert_eq!(json_of(&row, &ty), br#"{"id":1,"name":null,"of":null,"price":null,"tags":["t"]}"#);
    }

    #[test]
    fn what_does_not_fit_is_named_and_not_shown() {
        let ty = RowType::of(&json_schema(SCHEMA).unwrap()).unwrap();
        for (text, said) in [
            ("{\"id\": secret}", "its value is no JSON, at line 1, column 8"),
            ("[1]", "its value is no JSON object"),
            (r#"{"tags":[]}"#, "its field \"id\" is required and is not there"),
            (r#"{"id":"secret","tags":[]}"#, "its field \"id\" is not what the schema says"),
            (r#"{"id":1.5,"tags":[]}"#, "its field \"id\" is not what the schema says"),
            (r#"{"id":1,"tags":[null]}"#, "its field \"tags\" is required and is not there"),
        ] {
            assert_eq!(row_of(text.as_bytes(), &ty).unwrap_err().to_string(), said);
        }
        for (schema, said) in [
            ("{", "it is no JSON"),
            ("{}", "the schema is no object with \"properties\""),
            (
                r#"{"properties": {"a": {"type": "date"}}}"#,
                "property \"a\" is of the type \"date\", which is not known here",
            ),
            (r#"{"properties": {"a": {"oneOf": []}}}"#, "property \"a\" has no single \"type\""),
        ] {
            assert!(json_schema(schema).unwrap_err().starts_with(said), "{schema}");
        }
    }
}
