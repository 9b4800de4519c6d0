//! Values as JSON, of which a JSON schema says what rows they are: the format `JSON` of Beam's schema transforms.
//!
//! As Beam's `JsonUtils` has it: `string`, `integer` (INT64), `number` (DOUBLE), `boolean`, `array` and `object` (a row); a
//! property that is not required is nullable.

use chrono::{DateTime, NaiveDate, SecondsFormat};
use ferrobeam_proto::pipeline as pb;
use num_bigint::BigInt;
use serde_json::Value as Json;

use super::{MAX_DEPTH, absent, misfit, named_schema};
use crate::kafka::record::BadRecord;
use crate::row::{Decimal, FieldDef, RowType, Shape, Value, ValueType};

/// The schema of the rows that a JSON schema describes. An error says what of it is not understood.
pub(super) fn schema(text: &str) -> Result<pb::Schema, String> {
    let json: Json = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
    Ok(named_schema(&object(&json, "the schema", MAX_DEPTH)?, text.as_bytes()))
}

fn object(json: &Json, what: &str, depth: usize) -> Result<RowType, String> {
    let properties = json.get("properties").and_then(Json::as_object);
    let properties = properties.ok_or_else(|| format!("{what} is no object with \"properties\""))?;
    let required: Vec<&str> =
        json.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
    let fields = properties.iter().map(|(name, property)| {
        let mut ty = value_type(property, &format!("property \"{name}\""), depth)?;
        ty.nullable |= !required.contains(&name.as_str());
        Ok(FieldDef { name: name.clone(), ty })
    });
    Ok(RowType { fields: fields.collect::<Result<_, String>>()? })
}

fn value_type(json: &Json, what: &str, depth: usize) -> Result<ValueType, String> {
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
    let shape = match *name {
        "string" => Shape::Text,
        "integer" => Shape::Int64,
        "number" => Shape::Double,
        "boolean" => Shape::Boolean,
        "array" => {
            let items = json.get("items").ok_or_else(|| format!("{what} is an array without \"items\""))?;
            Shape::Array(Box::new(value_type(items, &format!("the items of {what}"), depth)?))
        }
        "object" => Shape::Row(object(json, what, depth)?),
        other => return Err(format!("{what} is of the type \"{other}\", which is not known here")),
    };
    Ok(ValueType { nullable, shape })
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
        None | Some(Json::Null) => return Err(absent(name)),
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
        Shape::Bytes | Shape::Instant | Shape::MicrosInstant | Shape::Date | Shape::Decimal | Shape::Map(..) => None,
    };
    found.ok_or_else(|| misfit(name))
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
        // As Java writes it.
        (Value::Int(millis), Shape::Instant) => match DateTime::from_timestamp_millis(*millis) {
            Some(at) => put_text(out, &at.to_rfc3339_opts(SecondsFormat::Millis, true)),
            None => out.extend_from_slice(millis.to_string().as_bytes()),
        },
        (Value::Int(micros), Shape::MicrosInstant) => match DateTime::from_timestamp_micros(*micros) {
            Some(at) => put_text(out, &at.to_rfc3339_opts(SecondsFormat::Micros, true)),
            None => out.extend_from_slice(micros.to_string().as_bytes()),
        },
        (Value::Int(days), Shape::Date) => match day(*days) {
            Some(day) => put_text(out, &day.to_string()),
            None => out.extend_from_slice(days.to_string().as_bytes()),
        },
        (Value::Decimal(decimal), _) => out.extend_from_slice(number_of(decimal).as_bytes()),
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

/// A day by its number since 1970.
fn day(days: i64) -> Option<NaiveDate> {
    NaiveDate::from_epoch_days(i32::try_from(days).ok()?)
}

/// A decimal as a number of JSON, with an exponent where it would be long without.
fn number_of(decimal: &Decimal<'_>) -> String {
    let number = BigInt::from_signed_bytes_be(&decimal.unscaled);
    let (sign, digits) = (if number < BigInt::ZERO { "-" } else { "" }, number.magnitude().to_string());
    match usize::try_from(decimal.scale) {
        Ok(0) => format!("{sign}{digits}"),
        Ok(scale) if scale <= 32 => {
            let digits = format!("{digits:0>width$}", width = scale + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            format!("{sign}{whole}.{fraction}")
        }
        _ => format!("{sign}{digits}E{}", -i64::from(decimal.scale)),
    }
}

/// Whether rows of this type can be written so: bytes have no form in JSON that everybody agrees on.
pub(super) fn takes(ty: &RowType) -> Result<(), String> {
    fn check(shape: &Shape, name: &str) -> Result<(), String> {
        match shape {
            Shape::Bytes => Err(format!("field \"{name}\" is bytes, for which JSON has no form")),
            Shape::Array(element) => check(&element.shape, name),
            Shape::Map(key, value) => match key.shape {
                Shape::Text | Shape::Int16 | Shape::Int32 | Shape::Int64 => check(&value.shape, name),
                _ => Err(format!("field \"{name}\" is a map whose keys are no text")),
            },
            Shape::Row(ty) => takes(ty),
            Shape::Byte
            | Shape::Int16
            | Shape::Int32
            | Shape::Int64
            | Shape::Float
            | Shape::Double
            | Shape::Text
            | Shape::Instant
            | Shape::MicrosInstant
            | Shape::Date
            | Shape::Decimal
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
        let ty = RowType::of(&schema(SCHEMA).unwrap()).unwrap();
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
    fn instants_and_decimals_are_as_java_writes_them() {
        let field = |name: &str, shape| FieldDef { name: name.to_owned(), ty: ValueType { nullable: false, shape } };
        let times = RowType { fields: vec![field("at", Shape::MicrosInstant), field("day", Shape::Date)] };
        let row = [Value::Int(-1), Value::Int(-1)];
        let text = r#"{"at":"1969-12-31T23:59:59.999999Z","day":"1969-12-31"}"#;
        assert_eq!(String::from_utf8(json_of(&row, &times)).unwrap(), text);
        let ty = RowType { fields: vec![field("at", Shape::Instant), field("of", Shape::Decimal)] };
        let decimal = |unscaled: i64, scale| {
            let unscaled = BigInt::from(unscaled).to_signed_bytes_be();
            Value::Decimal(Decimal { unscaled: unscaled.into(), scale })
        };
        for (millis, of, text) in [
            (0, decimal(-125, 1), r#"{"at":"1970-01-01T00:00:00.000Z","of":-12.5}"#),
            (-1, decimal(5, 3), r#"{"at":"1969-12-31T23:59:59.999Z","of":0.005}"#),
            (1_000, decimal(7, 0), r#"{"at":"1970-01-01T00:00:01.000Z","of":7}"#),
            (1_000, decimal(7, i32::MAX), r#"{"at":"1970-01-01T00:00:01.000Z","of":7E-2147483647}"#),
            (1_000, decimal(-7, i32::MIN), r#"{"at":"1970-01-01T00:00:01.000Z","of":-7E2147483648}"#),
        ] {
            assert_eq!(String::from_utf8(json_of(&[Value::Int(millis), of], &ty)).unwrap(), text);
        }
    }

    #[test]
    fn what_does_not_fit_is_named_and_not_shown() {
        let ty = RowType::of(&schema(SCHEMA).unwrap()).unwrap();
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
        for (text, said) in [
            ("{", "it is no JSON"),
            ("{}", "the schema is no object with \"properties\""),
            (
                r#"{"properties": {"a": {"type": "date"}}}"#,
                "property \"a\" is of the type \"date\", which is not known here",
            ),
            (r#"{"properties": {"a": {"oneOf": []}}}"#, "property \"a\" has no single \"type\""),
        ] {
            assert!(schema(text).unwrap_err().starts_with(said), "{text}");
        }
    }
}
