//! Avro data, by the `apache-avro` crate: the format `AVRO` of Beam's schema transforms.
//!
//! As Beam's `AvroUtils` has it, but for enums, which are text here (Java's type for them is known to no other SDK), and for
//! the fixed, which are bytes. A union is known if it is a type or null.

use std::collections::HashMap;
use std::io::{self, Read};

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::{DecimalSchema, InnerDecimalSchema, Name, RecordSchema};
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use apache_avro::{Decimal as AvroDecimal, Schema};
use ferrobeam_proto::pipeline as pb;
use num_bigint::BigInt;
use serde_json::json;

use super::{MAX_DEPTH, MOST_FIELDS, absent, has_place, misfit, named_schema};
use crate::kafka::record::BadRecord;
use crate::row::{Decimal, FieldDef, RowType, Shape, Value, ValueType};

const MILLIS_OF_A_DAY: i64 = 86_400_000;
/// What the library may set aside for one collection because of a number in a datum; a text or bytes of more is refused.
const MOST_BYTES: usize = 128 << 20;
/// Bytes of a fixed.
const MOST_FIXED: usize = 1 << 20;
/// Digits by which a decimal is moved to the scale of a schema.
const MOST_DIGITS: u32 = 1000;

/// The schema of the rows that an Avro schema describes. An error says what of it is not understood.
pub(super) fn schema(text: &str) -> Result<pb::Schema, String> {
    Ok(named_schema(&Types::of(&parsed(text)?)?.row, text.as_bytes()))
}

/// That rows of this type can be written by the schema.
pub(super) fn takes(text: Option<&str>, ty: &RowType) -> Result<(), String> {
    let Some(text) = text else { return AvroCodec::new(None, ty).map(drop) };
    let schema = parsed(text)?;
    let types = Types::written(&schema)?;
    has_place(ty, &types.row, "the Avro schema")?;
    let missing = types.row.fields.iter().find(|field| !field.ty.nullable && ty.position(&field.name).is_none());
    missing
        .map_or(Ok(()), |field| Err(format!("the Avro schema has a field \"{}\", and the rows have none", field.name)))
}

fn parsed(text: &str) -> Result<Schema, String> {
    Schema::parse_str(text).map_err(|error| format!("it is no Avro schema: {error}"))
}

/// What an Avro schema says of rows.
struct Types<'s> {
    row: RowType,
    named: HashMap<Name, &'s Schema>,
    /// Fields that may still come.
    left: usize,
    /// Where times are of microseconds, a time is what is written, and a number what is read, as Java has it.
    is_written: bool,
}

impl<'s> Types<'s> {
    /// As rows are read.
    fn of(schema: &'s Schema) -> Result<Types<'s>, String> {
        Types::walk(schema, false)
    }

    /// As rows are written.
    fn written(schema: &'s Schema) -> Result<Types<'s>, String> {
        Types::walk(schema, true)
    }

    fn walk(schema: &'s Schema, is_written: bool) -> Result<Types<'s>, String> {
        let Schema::Record(record) = schema else { return Err("the Avro schema is no record".to_owned()) };
        let mut types = Types { row: RowType::default(), named: HashMap::new(), left: MOST_FIELDS, is_written };
        types.named.insert(record.name.clone(), schema);
        types.row = types.record(record, MAX_DEPTH)?;
        Ok(types)
    }

    fn record(&mut self, record: &'s RecordSchema, depth: usize) -> Result<RowType, String> {
        let mut fields = Vec::new();
        for field in &record.fields {
            self.left = self.left.checked_sub(1).ok_or("the Avro schema has more fields than are accepted")?;
            let ty = self.value_type(&field.schema, &format!("field \"{}\"", field.name), depth)?;
            fields.push(FieldDef { name: field.name.clone(), ty });
        }
        Ok(RowType { fields })
    }

    fn value_type(&mut self, schema: &'s Schema, what: &str, depth: usize) -> Result<ValueType, String> {
        let too_deep = || format!("{what} is nested too deeply, or within itself");
        let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
        let shape = match schema {
            Schema::Union(union) => {
                let mut others = union.variants().iter().filter(|variant| !matches!(variant, Schema::Null));
                return match (others.next(), others.next()) {
                    (Some(other), None) => {
                        let ty = self.value_type(other, what, depth)?;
                        Ok(ValueType { nullable: ty.nullable || union.is_nullable(), ..ty })
                    }
                    _ => Err(format!(
                        "{what} is a union of several types, which no type of a row is: read the format RAW, and decode it in the \
                         pipeline"
                    )),
                };
            }
            Schema::Null => return Err(format!("{what} is never but null")),
            Schema::Boolean => Shape::Boolean,
            Schema::Int | Schema::TimeMillis => Shape::Int32,
            Schema::TimestampMicros | Schema::TimestampNanos if self.is_written => Shape::MicrosInstant,
            Schema::Long
            | Schema::TimeMicros
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => Shape::Int64,
            Schema::Float => Shape::Float,
            Schema::Double => Shape::Double,
            Schema::String | Schema::Uuid(_) => Shape::Text,
            Schema::Bytes => Shape::Bytes,
            Schema::Date | Schema::TimestampMillis => Shape::Instant,
            Schema::Decimal(DecimalSchema { inner: InnerDecimalSchema::Fixed(fixed), .. })
                if fixed.size > MOST_FIXED =>
            {
                return Err(format!("{what} is a decimal of {} bytes: there are at most {MOST_FIXED}", fixed.size));
            }
            Schema::Decimal(_) => Shape::Decimal,
            Schema::Fixed(fixed) if !(1..=MOST_FIXED).contains(&fixed.size) => {
                return Err(format!("{what} is fixed, of {} bytes: of those there are 1 to {MOST_FIXED}", fixed.size));
            }
            Schema::Fixed(fixed) => {
                self.named.insert(fixed.name.clone(), schema);
                Shape::Bytes
            }
            Schema::Enum(of) => {
                self.named.insert(of.name.clone(), schema);
                Shape::Text
            }
            Schema::Array(array) => {
                Shape::Array(Box::new(self.value_type(&array.items, &format!("the items of {what}"), depth)?))
            }
            Schema::Map(map) => {
                let key = ValueType { nullable: false, shape: Shape::Text };
                let value = self.value_type(&map.types, &format!("the values of {what}"), depth)?;
                Shape::Map(Box::new(key), Box::new(value))
            }
            // Of what takes no bytes a datum may have as many as it likes.
            Schema::Record(record) if record.fields.is_empty() => {
                return Err(format!("{what} is a record without fields"));
            }
            Schema::Record(record) => {
                self.named.insert(record.name.clone(), schema);
                Shape::Row(self.record(record, depth)?)
            }
            Schema::Ref { name } => {
                let named =
                    self.named.get(name).copied().ok_or_else(|| format!("{what} is of a type {name}, unknown"))?;
                return self.value_type(named, what, depth);
            }
            Schema::BigDecimal | Schema::Duration(_) => {
                return Err(format!("{what} has a logical type that no type of a row is"));
            }
        };
        Ok(ValueType { nullable: false, shape })
    }
}

/// The schema by which rows of a type are written, in JSON, as Beam's `AvroUtils.toAvroSchema` makes it. Names of records do
/// not reach the data.
fn derived(ty: &RowType, name: &str) -> Result<serde_json::Value, String> {
    let fields = ty.fields.iter().map(|field| {
        let of = derived_type(&field.ty, &field.name, &format!("{name}_{}", field.name))?;
        Ok(json!({ "name": field.name, "type": of }))
    });
    Ok(json!({ "type": "record", "name": name, "fields": fields.collect::<Result<Vec<_>, String>>()? }))
}

fn derived_type(ty: &ValueType, field: &str, name: &str) -> Result<serde_json::Value, String> {
    let of = match &ty.shape {
        Shape::Byte | Shape::Int16 | Shape::Int32 => json!("int"),
        Shape::Int64 => json!("long"),
        Shape::Float => json!("float"),
        Shape::Double => json!("double"),
        Shape::Text => json!("string"),
        Shape::Boolean => json!("boolean"),
        Shape::Bytes => json!("bytes"),
        Shape::Instant => json!({ "type": "long", "logicalType": "timestamp-millis" }),
        Shape::MicrosInstant => json!({ "type": "long", "logicalType": "timestamp-micros" }),
        Shape::Date => json!({ "type": "int", "logicalType": "date" }),
        Shape::Decimal => {
            return Err(format!(
                "field \"{field}\" is a decimal, of which only a schema says how many digits it has: give one"
            ));
        }
        Shape::Array(of) => json!({ "type": "array", "items": derived_type(of, field, name)? }),
        Shape::Map(key, of) if key.shape == Shape::Text => {
            json!({ "type": "map", "values": derived_type(of, field, name)? })
        }
        Shape::Map(..) => return Err(format!("field \"{field}\" is a map whose keys are no text")),
        Shape::Row(row) => derived(row, name)?,
    };
    Ok(if ty.nullable { json!(["null", of]) } else { of })
}

/// The bytes of a datum. That they end is a fault: the library (0.22) takes it for null, or nothing, in the middle of a datum too.
struct Whole<'a, 'b>(&'a mut &'b [u8]);

impl Read for Whole<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() && !out.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the datum is cut short"));
        }
        self.0.read(out)
    }

    fn read_exact(&mut self, out: &mut [u8]) -> io::Result<()> {
        if self.0.len() < out.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the datum is cut short"));
        }
        self.0.read_exact(out)
    }
}

/// A schema that is ready to be read or written by.
pub(super) struct AvroCodec {
    schema: Schema,
    /// What stands behind the names that it refers to.
    named: HashMap<Name, Schema>,
}

impl AvroCodec {
    pub(super) fn new(text: Option<&str>, ty: &RowType) -> Result<AvroCodec, String> {
        // Holds for the process; the first call counts.
        apache_avro::util::max_allocation_bytes(MOST_BYTES);
        let schema = match text {
            Some(text) => parsed(text)?,
            None => Schema::parse(&derived(ty, "Row")?).map_err(|error| format!("no Avro schema of rows: {error}"))?,
        };
        let named = Types::of(&schema)?.named.into_iter().map(|(name, schema)| (name, schema.clone())).collect();
        Ok(AvroCodec { schema, named })
    }

    pub(super) fn read(&self, mut bytes: &[u8], ty: &RowType) -> Result<Vec<Value<'static>>, BadRecord> {
        // Without the library's words: they may show what stands there.
        let no_datum = || BadRecord("its value is no Avro datum of the schema".to_owned());
        let reader = GenericDatumReader::builder(&self.schema).build().map_err(|_| no_datum())?;
        let datum = reader.read_value(&mut Whole(&mut bytes)).map_err(|_| no_datum())?;
        if !bytes.is_empty() {
            let what = "its value goes on behind the Avro datum of the schema: it is of another schema, or framed for a schema \
                        registry, which is not known here: read the format RAW, and decode it in the pipeline";
            return Err(BadRecord(what.to_owned()));
        }
        match (datum, &self.schema) {
            (Avro::Record(fields), Schema::Record(record)) => self.row(fields, record, ty),
            _ => Err(no_datum()),
        }
    }

    fn row(
        &self,
        fields: Vec<(String, Avro)>,
        record: &RecordSchema,
        ty: &RowType,
    ) -> Result<Vec<Value<'static>>, BadRecord> {
        let fields = fields.into_iter().zip(&record.fields).zip(&ty.fields);
        fields.map(|(((_, value), field), def)| self.nullable_value(value, &field.schema, &def.ty, &def.name)).collect()
    }

    fn resolve<'s>(&'s self, schema: &'s Schema) -> &'s Schema {
        match schema {
            Schema::Ref { name } => self.named.get(name).unwrap_or(schema),
            other => other,
        }
    }

    fn nullable_value(
        &self,
        datum: Avro,
        schema: &Schema,
        ty: &ValueType,
        name: &str,
    ) -> Result<Value<'static>, BadRecord> {
        match (datum, schema) {
            (Avro::Union(at, of), Schema::Union(union)) => {
                let schema = union.variants().get(at as usize).ok_or_else(|| misfit(name))?;
                self.nullable_value(*of, schema, ty, name)
            }
            (Avro::Null, Schema::Null) if ty.nullable => Ok(Value::Null),
            (datum, schema) => self.value(datum, schema, &ty.shape, name),
        }
    }

    fn value(&self, datum: Avro, schema: &Schema, shape: &Shape, name: &str) -> Result<Value<'static>, BadRecord> {
        Ok(match (shape, datum, self.resolve(schema)) {
            (Shape::Boolean, Avro::Boolean(is), _) => Value::Boolean(is),
            (Shape::Int32, Avro::Int(number) | Avro::TimeMillis(number), _) => Value::Int(number.into()),
            (
                Shape::Int64,
                Avro::Long(number)
                | Avro::TimeMicros(number)
                | Avro::TimestampMicros(number)
                | Avro::TimestampNanos(number)
                | Avro::LocalTimestampMillis(number)
                | Avro::LocalTimestampMicros(number)
                | Avro::LocalTimestampNanos(number),
                _,
            ) => Value::Int(number),
            (Shape::Instant, Avro::TimestampMillis(millis), _) => Value::Int(millis),
            (Shape::Instant, Avro::Date(days), _) => Value::Int(i64::from(days) * MILLIS_OF_A_DAY),
            (Shape::Float, Avro::Float(number), _) => Value::Double(number.into()),
            (Shape::Double, Avro::Double(number), _) => Value::Double(number),
            (Shape::Text, Avro::String(text) | Avro::Enum(_, text), _) => Value::Text(text.into()),
            (Shape::Text, Avro::Uuid(uuid), _) => Value::Text(uuid.to_string().into()),
            (Shape::Bytes, Avro::Bytes(bytes) | Avro::Fixed(_, bytes), _) => Value::Bytes(bytes.into()),
            (Shape::Decimal, Avro::Decimal(number), Schema::Decimal(of)) => {
                let unscaled = <Vec<u8>>::try_from(&number).map_err(|_| misfit(name))?;
                let scale = i32::try_from(of.scale).map_err(|_| misfit(name))?;
                Value::Decimal(Decimal { unscaled: unscaled.into(), scale })
            }
            (Shape::Array(of), Avro::Array(items), Schema::Array(array)) => {
                let items = items.into_iter().map(|item| self.nullable_value(item, &array.items, of, name));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            (Shape::Map(_, of), Avro::Map(entries), Schema::Map(map)) => {
                let mut entries: Vec<(String, Avro)> = entries.into_iter().collect();
                // They come in no order; a record that is read again is the same row.
                entries.sort_by(|a, b| a.0.cmp(&b.0));
                let entries = entries.into_iter().map(|(key, value)| {
                    Ok((Value::Text(key.into()), self.nullable_value(value, &map.types, of, name)?))
                });
                Value::Map(entries.collect::<Result<_, BadRecord>>()?)
            }
            (Shape::Row(row), Avro::Record(fields), Schema::Record(record)) => {
                Value::Row(self.row(fields, record, row)?)
            }
            _ => return Err(misfit(name)),
        })
    }

    pub(super) fn write(&self, row: &[Value<'_>], ty: &RowType) -> Result<Vec<u8>, BadRecord> {
        let datum = self.record(row, ty, &self.schema, "")?;
        let no_datum = |_| BadRecord("it cannot be written by the Avro schema".to_owned());
        let writer = GenericDatumWriter::builder(&self.schema).build().map_err(no_datum)?;
        writer.write_value_to_vec(datum).map_err(no_datum)
    }

    fn record(&self, row: &[Value<'_>], ty: &RowType, schema: &Schema, name: &str) -> Result<Avro, BadRecord> {
        let Schema::Record(record) = schema else { return Err(misfit(name)) };
        let fields = record.fields.iter().map(|field| {
            let at = ty.position(&field.name);
            let value = at.and_then(|at| row.get(at)).unwrap_or(&Value::Null);
            let shape = at.map_or(&Shape::Boolean, |at| &ty.fields[at].ty.shape);
            Ok((field.name.clone(), self.datum(value, shape, &field.schema, &field.name)?))
        });
        Ok(Avro::Record(fields.collect::<Result<_, BadRecord>>()?))
    }

    fn datum(&self, value: &Value<'_>, shape: &Shape, schema: &Schema, name: &str) -> Result<Avro, BadRecord> {
        let schema = self.resolve(schema);
        if let Schema::Union(union) = schema {
            let is_null = *value == Value::Null;
            let mut variants = (0..).zip(union.variants());
            let (at, variant) =
                variants.find(|(_, variant)| matches!(variant, Schema::Null) == is_null).ok_or_else(|| absent(name))?;
            return Ok(Avro::Union(at, Box::new(self.datum(value, shape, variant, name)?)));
        }
        Ok(match (schema, value) {
            (Schema::Null, Value::Null) => Avro::Null,
            (_, Value::Null) => return Err(absent(name)),
            (Schema::Boolean, Value::Boolean(is)) => Avro::Boolean(*is),
            (Schema::Int, Value::Int(number)) => Avro::Int(small(*number, name)?),
            (Schema::TimeMillis, Value::Int(number)) => Avro::TimeMillis(small(*number, name)?),
            (Schema::Date, Value::Int(_)) => {
                Avro::Date(small(micros(value, shape, name)?.div_euclid(1000 * MILLIS_OF_A_DAY), name)?)
            }
            (Schema::TimestampMillis, Value::Int(_)) => {
                Avro::TimestampMillis(micros(value, shape, name)?.div_euclid(1000))
            }
            (Schema::TimestampMicros, Value::Int(_)) => Avro::TimestampMicros(micros(value, shape, name)?),
            (Schema::TimestampNanos, Value::Int(_)) if is_time(shape) => {
                let nanos = micros(value, shape, name)?.checked_mul(1000);
                Avro::TimestampNanos(nanos.ok_or_else(|| misfit(name))?)
            }
            // Of what unit they are is not said.
            (_, Value::Int(_)) if is_time(shape) => return Err(misfit(name)),
            (Schema::Long, Value::Int(number)) => Avro::Long(*number),
            (Schema::TimeMicros, Value::Int(number)) => Avro::TimeMicros(*number),
            (Schema::TimestampNanos, Value::Int(number)) => Avro::TimestampNanos(*number),
            (Schema::LocalTimestampMillis, Value::Int(number)) => Avro::LocalTimestampMillis(*number),
            (Schema::LocalTimestampMicros, Value::Int(number)) => Avro::LocalTimestampMicros(*number),
            (Schema::LocalTimestampNanos, Value::Int(number)) => Avro::LocalTimestampNanos(*number),
            (Schema::Float, Value::Double(number)) => Avro::Float(*number as f32),
            (Schema::Double, Value::Double(number)) => Avro::Double(*number),
            (Schema::String, Value::Text(text)) => Avro::String(text.clone().into_owned()),
            (Schema::Uuid(_), Value::Text(text)) => Avro::Uuid(text.parse().map_err(|_| misfit(name))?),
            (Schema::Enum(of), Value::Text(text)) => {
                let mut symbols = (0..).zip(&of.symbols);
                let (at, symbol) = symbols.find(|(_, symbol)| *symbol == text).ok_or_else(|| misfit(name))?;
                Avro::Enum(at, symbol.clone())
            }
            (Schema::Bytes, Value::Bytes(bytes)) => Avro::Bytes(bytes.to_vec()),
            (Schema::Fixed(fixed), Value::Bytes(bytes)) if bytes.len() == fixed.size => {
                Avro::Fixed(fixed.size, bytes.to_vec())
            }
            (Schema::Decimal(of), Value::Decimal(number)) => {
                let unscaled = rescaled(number, of.scale).ok_or_else(|| misfit(name))?;
                Avro::Decimal(AvroDecimal::from(unscaled.to_signed_bytes_be()))
            }
            (Schema::Array(array), Value::Array(items)) => {
                let Shape::Array(of) = shape else { return Err(misfit(name)) };
                let items = items.iter().map(|item| self.datum(item, &of.shape, &array.items, name));
                Avro::Array(items.collect::<Result<_, _>>()?)
            }
            (Schema::Map(map), Value::Map(entries)) => {
                let Shape::Map(_, of) = shape else { return Err(misfit(name)) };
                let entries = entries.iter().map(|(key, value)| match key {
                    Value::Text(key) => Ok((key.clone().into_owned(), self.datum(value, &of.shape, &map.types, name)?)),
                    _ => Err(misfit(name)),
                });
                Avro::Map(entries.collect::<Result<_, _>>()?)
            }
            (Schema::Record(_), Value::Row(row)) => match shape {
                Shape::Row(ty) => self.record(row, ty, schema, name)?,
                _ => return Err(misfit(name)),
            },
            _ => return Err(misfit(name)),
        })
    }
}

/// Whether it is a time by its type.
fn is_time(shape: &Shape) -> bool {
    matches!(shape, Shape::Instant | Shape::MicrosInstant | Shape::Date)
}

/// A time in microseconds: what it is by its type, or what a whole number is taken for.
fn micros(value: &Value<'_>, shape: &Shape, name: &str) -> Result<i64, BadRecord> {
    let micros = match (value, shape) {
        (Value::Int(millis), Shape::Instant) => millis.checked_mul(1000),
        (Value::Int(days), Shape::Date) => days.checked_mul(1000 * MILLIS_OF_A_DAY),
        (Value::Int(micros), _) => Some(*micros),
        _ => None,
    };
    micros.ok_or_else(|| misfit(name))
}

fn small(number: i64, name: &str) -> Result<i32, BadRecord> {
    i32::try_from(number).map_err(|_| misfit(name))
}

/// A decimal as a number of units of ten to the power of minus `scale`, if it is a whole number of them.
fn rescaled(number: &Decimal<'_>, scale: usize) -> Option<BigInt> {
    let unscaled = BigInt::from_signed_bytes_be(&number.unscaled);
    let more = i64::try_from(scale).ok()? - i64::from(number.scale);
    let power = BigInt::from(10).pow(u32::try_from(more.unsigned_abs()).ok().filter(|digits| *digits <= MOST_DIGITS)?);
    if more >= 0 {
        return Some(unscaled * power);
    }
    (&unscaled % &power == BigInt::ZERO).then(|| unscaled / power)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"{"type": "record", "name": "Order", "namespace": "shop", "fields": [
        {"name": "id", "type": "long"},
        {"name": "name", "type": ["null", "string"]},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["BUY", "SELL"]}},
        {"name": "other", "type": ["Kind", "null"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "hash", "type": {"type": "fixed", "name": "Hash", "size": 2}},
        {"name": "of", "type": {"type": "array", "items": {"type": "record", "name": "Part",
            "fields": [{"name": "n", "type": "int"}, {"name": "f", "type": ["null", "float"]}]}}},
        {"name": "by", "type": {"type": "map", "values": ["null", "double"]}}]}"#;

    fn ty() -> RowType {
        RowType::of(&schema(SCHEMA).unwrap()).unwrap()
    }

    fn row(kind: &'static str, unscaled: &'static [u8], scale: i32) -> Vec<Value<'static>> {
        vec![
            Value::Int(-3),
            Value::Text("a".into()),
            Value::Text(kind.into()),
            Value::Null,
            Value::Int(-1),
            Value::Int(2 * MILLIS_OF_A_DAY),
            Value::Decimal(Decimal { unscaled: unscaled.into(), scale }),
            Value::Bytes(b"ab"[..].into()),
            Value::Array(vec![Value::Row(vec![Value::Int(7), Value::Null])]),
            Value::Map(vec![(Value::Text("k".into()), Value::Double(0.5)), (Value::Text("l".into()), Value::Null)]),
        ]
    }

    #[test]
    fn what_is_written_is_the_datum_of_the_specification() {
        let codec = AvroCodec::new(Some(SCHEMA), &ty()).unwrap();
        let mut one = row("SELL", b"\x04\xb0", 2);
        // A map with one entry, because entries have no order.
        one[9] = Value::Map(vec![(Value::Text("k".into()), Value::Double(0.5))]);
        let bytes = codec.write(&one, &ty()).unwrap();
        let expected = [
            &b"\x05\x02\x02a\x02\x02\x01\x04\x04\x04\xb0ab"[..],
            &b"\x02\x0e\x00\x00\x02\x02k\x02\0\0\0\0\0\0\xe0?\x00"[..],
        ];
        assert_eq!(bytes, expected.concat());
        assert_eq!(codec.read(&bytes, &ty()).unwrap(), one);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let codec = AvroCodec::new(Some(SCHEMA), &ty()).unwrap();
        let all = row("BUY", b"\x04\xb0", 2);
        assert_eq!(codec.read(&codec.write(&all, &ty()).unwrap(), &ty()).unwrap(), all);
        // 12.0 is 12.00.
        let coarse = row("BUY", b"\x78", 1);
        assert_eq!(codec.read(&codec.write(&coarse, &ty()).unwrap(), &ty()).unwrap(), all);
    }

    #[test]
    fn what_does_not_fit_is_named_and_not_shown() {
        let codec = AvroCodec::new(Some(SCHEMA), &ty()).unwrap();
        for (row, said) in [
            (row("secret", b"\x01", 2), "its field \"kind\" is not what the schema says"),
            (row("BUY", b"\x01", 3), "its field \"price\" is not what the schema says"),
            (row("BUY", b"\x01", i32::MAX), "its field \"price\" is not what the schema says"),
        ] {
            assert_eq!(codec.write(&row, &ty()).unwrap_err().to_string(), said);
        }
        let whole = codec.write(&row("BUY", b"\x01", 2), &ty()).unwrap();
        for cut in 0..whole.len() {
            assert!(codec.read(&whole[..cut], &ty()).is_err());
        }
        // Where what ends might be null, or a text that is not whole.
        let last = r#"{"type": "record", "name": "A", "fields": [
            {"name": "id", "type": "long"}, {"name": "name", "type": ["null", "string"]},
            {"name": "of", "type": {"type": "array", "items": ["null", "boolean"]}}]}"#;
        let ty_of_last = RowType::of(&schema(last).unwrap()).unwrap();
        let codec_of_last = AvroCodec::new(Some(last), &ty_of_last).unwrap();
        for cut in [&b""[..], b"\x02", b"\x02\x02\x14a", b"\x02\x00", b"\x02\x00\xfe\xff\x7f", b"\x02\x00\x04\x02"] {
            assert!(codec_of_last.read(cut, &ty_of_last).is_err(), "{cut:?}");
        }
        let longer = [&whole[..], b"x"].concat();
        assert!(codec.read(&longer, &ty()).unwrap_err().to_string().contains("goes on behind"));
        // Lengths that are not there.
        assert!(codec.read(b"\x05\x02\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", &ty()).is_err());
    }

    #[test]
    fn schemas_that_are_no_rows_are_refused() {
        for (text, said) in [
            ("{", "it is no Avro schema"),
            (r#""string""#, "the Avro schema is no record"),
            (
                r#"{"type": "record", "name": "A", "fields": [{"name": "a", "type": ["int", "string"]}]}"#,
                "field \"a\" is a union of several types",
            ),
            (
                r#"{"type": "record", "name": "A", "fields": [{"name": "a", "type": ["null", "A"]}]}"#,
                "field \"a\" is nested too deeply, or within itself",
            ),
            (r#"{"type": "record", "name": "A", "fields": [{"name": "a", "type": "null"}]}"#, "field \"a\" is never"),
            (
                r#"{"type": "record", "name": "A", "fields": [{"name": "a", "type": {"type": "array", "items":
                    {"type": "record", "name": "B", "fields": []}}}]}"#,
                "the items of field \"a\" is a record without fields",
            ),
        ] {
            let found = schema(text).unwrap_err();
            assert!(found.starts_with(said), "{text}: {found}");
        }
    }

    #[test]
    fn rows_have_a_place_in_the_schema_or_are_refused() {
        let field = |name: &str, shape| FieldDef { name: name.to_owned(), ty: ValueType { nullable: true, shape } };
        let few = r#"{"type": "record", "name": "A", "fields": [
            {"name": "a", "type": "int"}, {"name": "b", "type": ["null", "string"]}]}"#;
        let rows = |fields: Vec<FieldDef>| takes(Some(few), &RowType { fields });
        assert_eq!(rows(vec![field("a", Shape::Int64)]), Ok(()));
        assert_eq!(rows(vec![field("b", Shape::Text), field("a", Shape::Byte)]), Ok(()));
        for (fields, said) in [
            (vec![field("b", Shape::Text)], "the Avro schema has a field \"a\", and the rows have none"),
            (
                vec![field("a", Shape::Text)],
                "field \"a\" is of the type STRING, and in the Avro schema of the type INT32",
            ),
            (
                vec![field("a", Shape::Int64), field("c", Shape::Text)],
                "the Avro schema has no field \"c\", of those there are a, b",
            ),
        ] {
            assert_eq!(rows(fields).unwrap_err(), said);
        }
        let codec = AvroCodec::new(Some(few), &RowType::default()).unwrap();
        let ty = RowType { fields: vec![field("b", Shape::Text), field("a", Shape::Int64)] };
        assert_eq!(codec.write(&[Value::Text("x".into()), Value::Int(1)], &ty).unwrap(), b"\x02\x02\x02x");
        let said = codec.write(&[Value::Null, Value::Int(1 << 40)], &ty).unwrap_err().to_string();
        assert_eq!(said, "its field \"a\" is not what the schema says");
        let said = codec.write(&[Value::Null, Value::Null], &ty).unwrap_err().to_string();
        assert_eq!(said, "its field \"a\" is required and is not there");
    }

    /// As Java has them: `{"type": "long", "logicalType": "timestamp-micros"}` and `{"type": "int", "logicalType": "date"}`.
    #[test]
    fn times_of_the_sdks_are_those_of_avro() {
        let of = |name: &str, shape| FieldDef { name: name.to_owned(), ty: ValueType { nullable: false, shape } };
        let ty = RowType { fields: vec![of("at", Shape::MicrosInstant), of("day", Shape::Date)] };
        let row = [Value::Int(1_700_000_000_123_456), Value::Int(-1)];
        let derived = AvroCodec::new(None, &ty).unwrap();
        assert_eq!(derived.write(&row, &ty).unwrap(), b"\x80\x89\x81\x82\x83\x89\x85\x06\x01");
        let number = r#"{"type": "record", "name": "A", "fields": [{"name": "at", "type": "long"}]}"#;
        let at = RowType { fields: vec![of("at", Shape::MicrosInstant)] };
        let said = takes(Some(number), &at).unwrap_err();
        assert_eq!(said, "field \"at\" is of the type TIMESTAMP, and in the Avro schema of the type INT64");
        let coarse = r#"{"type": "record", "name": "A", "fields": [
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "day", "type": {"type": "int", "logicalType": "date"}}]}"#;
        assert_eq!(takes(Some(coarse), &ty), Ok(()));
        let codec = AvroCodec::new(Some(coarse), &ty).unwrap();
        let read = RowType::of(&schema(coarse).unwrap()).unwrap();
        let found = codec.read(&codec.write(&row, &ty).unwrap(), &read).unwrap();
        assert_eq!(found, [Value::Int(1_700_000_000_123), Value::Int(-MILLIS_OF_A_DAY)]);
    }

    /// Null first, as Java has it.
    #[test]
    fn a_schema_is_made_of_rows() {
        let of = |nullable, shape| ValueType { nullable, shape };
        let inner = RowType { fields: vec![FieldDef { name: "x".into(), ty: of(true, Shape::Bytes) }] };
        let ty = RowType {
            fields: vec![
                FieldDef { name: "a".into(), ty: of(true, Shape::Int16) },
                FieldDef { name: "b".into(), ty: of(false, Shape::Row(inner.clone())) },
                FieldDef { name: "c".into(), ty: of(false, Shape::Row(inner)) },
                FieldDef { name: "d".into(), ty: of(false, Shape::Instant) },
            ],
        };
        let codec = AvroCodec::new(None, &ty).unwrap();
        let row = [
            Value::Int(3),
            Value::Row(vec![Value::Null]),
            Value::Row(vec![Value::Bytes(b"z"[..].into())]),
            Value::Int(2),
        ];
        let bytes = codec.write(&row, &ty).unwrap();
        assert_eq!(bytes, b"\x02\x06\x00\x02\x02z\x04");
        let odd = RowType { fields: vec![FieldDef { name: "no-name".into(), ty: of(false, Shape::Text) }] };
        assert!(takes(None, &odd).is_err());
        let decimal = RowType { fields: vec![FieldDef { name: "a".into(), ty: of(false, Shape::Decimal) }] };
        assert!(takes(None, &decimal).unwrap_err().starts_with("field \"a\" is a decimal"));
    }
}
