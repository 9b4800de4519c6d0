//! How the elements of Kafka's ends are encoded: between the coders of the pipeline and those of the wire.

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::urns::standard_coders as coder;
use prost::Message;

use super::KafkaErrors;
use super::assemble::Assembly;
use super::draft::Draft;
use crate::kafka::{
    ErrorElement, FieldForm, FieldType, KafkaRead, KafkaWrite, ReadElement, ReadForm, RowField, WriteElement,
    WriteForm, headers_schema, metadata_schema, payload_schema, read_error_schema, write_error_schema,
};
use crate::pipeline::{CoderName, Kind, PCollectionName, Refusal, Transform};
use crate::row::RowType;

/// That nobody waits for Kafka to be over before the next event of a TestStream: it never is.
pub(super) fn check(draft: &Draft) -> Result<(), Refusal> {
    let is_test_driven = draft.transforms.iter().any(|transform| matches!(transform.kind, Kind::TestStream { .. }));
    let of_kafka =
        draft.transforms.iter().filter(|transform| matches!(transform.kind, Kind::KafkaRead(_) | Kind::KafkaWrite(_)));
    let what =
        "reads from or writes to Kafka in a pipeline with a TestStream, whose events wait until all before is over";
    let reasons = of_kafka.filter(|_| is_test_driven).map(|transform| (transform.unique_name.clone(), what.to_owned()));
    Refusal::of_transforms(reasons).map_or(Ok(()), Err)
}

/// Of what a read gives.
pub(super) fn read_element(
    assembly: &mut Assembly<'_>,
    transform: &Transform,
    read: &KafkaRead,
    output: &PCollectionName,
) -> Result<ReadElement, Refusal> {
    let mut coders = Coders::of(assembly, transform, output);
    if let Some(format) = read.form.row_format() {
        let schema = format.schema().map_err(|what| {
            coders.refusal(format!("reads {} from Kafka by a schema that is not understood: {what}", format.name()))
        })?;
        let ty = coders.row_of(&schema)?;
        return Ok(ReadElement::Formatted { format, ty, prefixed: coders.is_prefixed() });
    }
    match &read.form {
        ReadForm::KeyValue { key, value } => {
            let (key, value) = coders.key_value(*key, *value)?;
            for (field, name) in [(&key, "keys"), (&value, "values")] {
                let may_be_empty = read.null_is_empty && field.ty == FieldType::Bytes;
                if !field.nullable && !may_be_empty {
                    return Err(
                        coders.refusal(format!("reads {name} from Kafka that may be null, into a coder without null"))
                    );
                }
            }
            Ok(ReadElement::KeyValue { key, value })
        }
        ReadForm::Metadata => {
            coders.row_of(&metadata_schema())?;
            Ok(ReadElement::Metadata { prefixed: coders.is_prefixed() })
        }
        ReadForm::Payload(ty) => {
            coders.row_of(&payload_schema(*ty))?;
            Ok(ReadElement::Payload { ty: *ty, prefixed: coders.is_prefixed() })
        }
        // They have a format.
        ReadForm::Json(_) | ReadForm::Avro(_) | ReadForm::Proto(_) => {
            Err(coders.refusal("reads rows from Kafka without a format".to_owned()))
        }
    }
}

/// Of what cannot be read, or of what cannot be written of the elements of `input`.
pub(super) fn errors(
    assembly: &mut Assembly<'_>,
    transform: &Transform,
    output: &PCollectionName,
    input: Option<&PCollectionName>,
) -> Result<KafkaErrors, Refusal> {
    let schema = match input {
        None => read_error_schema(),
        Some(input) => {
            let coders = Coders::of(assembly, transform, input);
            let rows = coders.schema();
            write_error_schema(&rows.ok_or_else(|| {
                coders.refusal("gives rows that cannot be written to Kafka, but what it is given is none".to_owned())
            })?)
        }
    };
    let mut coders = Coders::of(assembly, transform, output);
    coders.row_of(&schema)?;
    let element = ErrorElement { prefixed: coders.is_prefixed() };
    Ok(KafkaErrors { output: assembly.collection(output), element })
}

/// Of what a write takes.
pub(super) fn write_element(
    assembly: &mut Assembly<'_>,
    transform: &Transform,
    write: &KafkaWrite,
    input: &PCollectionName,
) -> Result<WriteElement, Refusal> {
    let mut coders = Coders::of(assembly, transform, input);
    if let Some(format) = write.form.row_format() {
        let ty = coders.row()?;
        let refused = |what| coders.refusal(format!("writes rows to Kafka as {}, but {what}", format.name()));
        format.takes(&ty).map_err(refused)?;
        return Ok(WriteElement::Formatted { format, prefixed: coders.is_prefixed(), ty });
    }
    let (known, row) = match &write.form {
        WriteForm::KeyValue { key, value } => {
            let (key, value) = coders.key_value(*key, *value)?;
            return Ok(WriteElement::KeyValue { key, value });
        }
        WriteForm::Headers => (headers_schema(), coders.row()?),
        WriteForm::Payload(ty) => {
            let row = coders.row()?;
            let wanted = payload_schema(*ty);
            let mut only = wanted.clone();
            if let Some(field) = only.fields.first_mut() {
                field.name = row.fields.first().map_or_else(String::new, |field| field.name.clone());
            }
            (only, row)
        }
        // They have a format.
        WriteForm::Json | WriteForm::Avro(_) | WriteForm::Proto(_) => {
            return Err(coders.refusal("writes rows to Kafka without a format".to_owned()));
        }
    };
    let known = RowType::of(&known).map_err(|what| coders.refusal(what))?;
    let mut fields = Vec::new();
    if let (WriteForm::Payload(ty), true) = (&write.form, row.fields.len() != 1) {
        return Err(coders.refusal(format!(
            "writes rows of {} fields to Kafka in a format whose rows have one, of {ty}: name the format JSON, AVRO or PROTO",
            row.fields.len()
        )));
    }
    for field in &row.fields {
        let wanted = known.position(&field.name).map(|at| &known.fields[at].ty.shape);
        let Some(wanted) = wanted else {
            let names: Vec<&str> = known.fields.iter().map(|field| field.name.as_str()).collect();
            let what = format!(
                "writes rows with a field \"{}\" to Kafka: of those there are {}",
                field.name,
                names.join(", ")
            );
            return Err(coders.refusal(what));
        };
        if !coders.fits(&field.ty.shape, wanted) {
            return Err(coders.refusal(format!(
                "writes rows to Kafka whose field \"{}\" is of the type {} instead of {}",
                field.name,
                field.ty.shape.called(),
                wanted.called()
            )));
        }
        let name = if matches!(write.form, WriteForm::Payload(_)) { "payload".to_owned() } else { field.name.clone() };
        fields.push(RowField { name, nullable: field.ty.nullable });
    }
    if !fields.iter().any(|field| matches!(field.name.as_str(), "value" | "payload")) {
        return Err(coders.refusal("writes rows without a field \"value\" to Kafka".to_owned()));
    }
    Ok(WriteElement::Row { prefixed: coders.is_prefixed(), fields })
}

/// The coders of a collection.
struct Coders<'a, 'b> {
    assembly: &'a mut Assembly<'b>,
    transform: &'a Transform,
    /// As the pipeline has it, and on the wire.
    plain: CoderName,
    wired: CoderName,
}

impl<'a, 'b> Coders<'a, 'b> {
    fn of(assembly: &'a mut Assembly<'b>, transform: &'a Transform, collection: &PCollectionName) -> Coders<'a, 'b> {
        let plain = assembly.draft.coder_of(collection);
        let wired = assembly.wire(collection).value;
        Coders { assembly, transform, plain, wired }
    }

    fn refusal(&self, what: String) -> Refusal {
        Refusal::of_transform(&self.transform.unique_name, what)
    }

    fn is(&self, id: &CoderName, urn: &str) -> bool {
        self.assembly.draft.coders.is(id, urn)
    }

    fn is_prefixed(&self) -> bool {
        self.is(&self.wired, coder::LENGTH_PREFIX) && !self.is(&self.plain, coder::LENGTH_PREFIX)
    }

    fn key_value(&mut self, key: FieldType, value: FieldType) -> Result<(FieldForm, FieldForm), Refusal> {
        let part = |index| {
            let coders = &self.assembly.draft.coders;
            let is_kv = coders.is(&self.plain, coder::KV) && coders.is(&self.wired, coder::KV);
            let parts = coders.component(&self.plain, index).zip(coders.component(&self.wired, index));
            parts.filter(|_| is_kv)
        };
        let form = |index, ty| part(index).and_then(|(plain, wired)| self.field(ty, &plain, &wired));
        match (form(0, key), form(1, value)) {
            (Some(key), Some(value)) => Ok((key, value)),
            _ => Err(self.refusal(format!(
                "is an end of Kafka for keys of {key} and values of {value}, but the coder of its elements is another: in \
                 Python, give the step before it a type, such as .with_output_types(tuple[bytes, bytes])"
            ))),
        }
    }

    /// How a field is encoded that has the coder `plain` in the pipeline and `wired` on the wire; none if it is no such field.
    fn field(&self, ty: FieldType, plain: &CoderName, wired: &CoderName) -> Option<FieldForm> {
        let coders = &self.assembly.draft.coders;
        let prefix = |plain: &CoderName, wired: &CoderName| {
            coders.is(wired, coder::LENGTH_PREFIX) && !coders.is(plain, coder::LENGTH_PREFIX)
        };
        let mut form = FieldForm { ty, nullable: false, prefixed: prefix(plain, wired), inner_prefixed: false };
        let (mut plain, mut wired) = (plain.clone(), wired.clone());
        if form.prefixed {
            wired = plain.clone();
        }
        if coders.is(&plain, coder::NULLABLE) {
            form.nullable = true;
            (plain, wired) = (coders.component(&plain, 0)?, coders.component(&wired, 0)?);
            form.inner_prefixed = prefix(&plain, &wired);
        }
        // A length prefix of the pipeline's own, as Go puts before its own types, and bytes have.
        if coders.is(&plain, coder::LENGTH_PREFIX) {
            form.inner_prefixed = true;
            plain = coders.component(&plain, 0)?;
        }
        let urn = match ty {
            FieldType::Bytes => coder::BYTES,
            FieldType::Text => coder::STRING_UTF8,
            FieldType::Long | FieldType::Integer => coder::VARINT,
            FieldType::Double => coder::DOUBLE,
        };
        coders.is(&plain, urn).then_some(form)
    }

    /// The rows that the collection has.
    fn row(&mut self) -> Result<RowType, Refusal> {
        let schema = self.schema().ok_or_else(|| {
            self.refusal(
                "is an end of Kafka for rows, but the coder of its elements is none of rows: in Python, give it beam.Row or a \
                 NamedTuple"
                    .to_owned(),
            )
        })?;
        RowType::of(&schema).map_err(|what| {
            self.refusal(format!(
                "is an end of Kafka whose rows are not understood: {what}; in Python, make it one that is known, such as \
                 beam.Row(payload=str(...)), or give the rows a NamedTuple"
            ))
        })
    }

    fn schema(&self) -> Option<pb::Schema> {
        let coders = &self.assembly.draft.coders;
        let mut id = self.plain.clone();
        if coders.is(&id, coder::LENGTH_PREFIX) {
            id = coders.component(&id, 0)?;
        }
        let payload = coders.payload(&id)?;
        if coders.is(&id, coder::ROW) {
            return pb::Schema::decode(payload).ok();
        }
        // A schema with functions of the SDK's own to and from its rows: encoded, it is a row.
        if coders.is(&id, coder::SCHEMA) {
            return pb::SchemaCoderPayload::decode(payload).ok()?.schema;
        }
        None
    }

    /// That the collection has rows of this schema.
    fn row_of(&mut self, schema: &pb::Schema) -> Result<RowType, Refusal> {
        let wanted = RowType::of(schema).map_err(|what| self.refusal(what))?;
        if self.row()? == wanted {
            return Ok(wanted);
        }
        Err(self.refusal("reads rows from Kafka, but the coder of its output is one of other rows".to_owned()))
    }

    /// Whether what is encoded as `shape` can be taken for `wanted`.
    fn fits(&self, shape: &crate::row::Shape, wanted: &crate::row::Shape) -> bool {
        use crate::row::Shape::{Array, Int32, Int64, Row};
        match (shape, wanted) {
            (Int32 | Int64, Int32 | Int64) => true,
            (Array(of), Array(like)) => !of.nullable && self.fits(&of.shape, &like.shape),
            (Row(of), Row(like)) => {
                of.fields.len() == like.fields.len()
                    && of
                        .fields
                        .iter()
                        .zip(&like.fields)
                        .all(|(of, like)| of.name == like.name && self.fits(&of.ty.shape, &like.ty.shape))
            }
            _ => shape == wanted,
        }
    }
}
