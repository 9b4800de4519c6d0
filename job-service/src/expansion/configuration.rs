//! What a client configures, by name.

use std::collections::{BTreeMap, BTreeSet};

use ferrobeam_proto::pipeline as pb;
use ferrobeam_runner::row::{RowType, Value};

/// Why a transform is not expanded, in words for who writes the pipeline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct ExpansionError(pub(super) String);

/// A row of a client, or a mapping in YAML: a value is taken by its name, and what nobody takes is an error.
pub(super) struct Configuration {
    values: BTreeMap<String, Setting>,
    /// What was looked for.
    known: BTreeSet<String>,
    /// Its names begin with capitals.
    of_go: bool,
}

/// A value of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Setting {
    Null,
    Boolean(bool),
    Int(i64),
    Double(f64),
    Text(String),
    List(Vec<Setting>),
    Map(BTreeMap<String, Setting>),
}

impl Setting {
    /// As a property of Kafka's clients, which are all text.
    fn as_property(&self) -> Option<String> {
        match self {
            Setting::Boolean(is) => Some(is.to_string()),
            Setting::Int(number) => Some(number.to_string()),
            Setting::Double(number) => Some(number.to_string()),
            Setting::Text(text) => Some(text.clone()),
            Setting::Null | Setting::List(_) | Setting::Map(_) => None,
        }
    }

    fn of(value: Value<'_>, shape: &ferrobeam_runner::row::Shape) -> Setting {
        use ferrobeam_runner::row::Shape;
        match (value, shape) {
            (Value::Null | Value::Bytes(_) | Value::Decimal(_), _) => Setting::Null,
            (Value::Boolean(is), _) => Setting::Boolean(is),
            (Value::Int(number), _) => Setting::Int(number),
            (Value::Double(number), _) => Setting::Double(number),
            (Value::Text(text), _) => Setting::Text(text.into_owned()),
            (Value::Array(values), Shape::Array(of)) => {
                Setting::List(values.into_iter().map(|value| Setting::of(value, &of.shape)).collect())
            }
            (Value::Map(entries), Shape::Map(_, of)) => {
                let entries = entries.into_iter().filter_map(|(key, value)| match key {
                    Value::Text(key) => Some((key.into_owned(), Setting::of(value, &of.shape))),
                    _ => None,
                });
                Setting::Map(entries.collect())
            }
            (Value::Row(values), Shape::Row(ty)) => {
                let fields = ty.fields.iter().zip(values);
                Setting::Map(
                    fields.map(|(field, value)| (field.name.clone(), Setting::of(value, &field.ty.shape))).collect(),
                )
            }
            (Value::Array(_) | Value::Map(_) | Value::Row(_), _) => Setting::Null,
        }
    }
}

impl Configuration {
    /// Of a row.
    pub(super) fn of_row(schema: &pb::Schema, bytes: &[u8]) -> Result<Configuration, ExpansionError> {
        let bad = |what: String| ExpansionError(format!("the configuration of the transform cannot be read: {what}"));
        let ty = RowType::of(schema).map_err(bad)?;
        let (row, length) = ty.decode(bytes).map_err(|error| bad(error.to_string()))?;
        if length != bytes.len() {
            return Err(bad(format!("{} bytes stand behind it", bytes.len() - length)));
        }
        let fields = ty.fields.iter().zip(row);
        let values = fields.map(|(field, value)| (snake(&field.name), Setting::of(value, &field.ty.shape)));
        let of_go = ty.fields.first().is_some_and(|field| field.name.starts_with(|c: char| c.is_ascii_uppercase()));
        Ok(Configuration { values: values.collect(), known: BTreeSet::new(), of_go })
    }

    /// Of a mapping.
    pub(super) fn of_map(values: BTreeMap<String, Setting>) -> Configuration {
        let values = values.into_iter().map(|(name, value)| (snake(&name), value)).collect();
        Configuration { values, known: BTreeSet::new(), of_go: false }
    }

    /// Whether Go's SDK has sent it, which names fields as it names those of its structs.
    pub(super) fn is_of_go(&self) -> bool {
        self.of_go
    }

    fn take(&mut self, name: &str) -> Option<Setting> {
        self.known.insert(name.to_owned());
        self.values.remove(name).filter(|value| *value != Setting::Null)
    }

    fn wrong(name: &str, wanted: &str) -> ExpansionError {
        ExpansionError(format!("{name} is to be {wanted}"))
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ExpansionError> {
        match self.take(name) {
            None => Ok(None),
            Some(Setting::Text(text)) => Ok(Some(text)),
            Some(_) => Err(Self::wrong(name, "text")),
        }
    }

    pub(super) fn required(&mut self, name: &str) -> Result<String, ExpansionError> {
        let text = self.text(name)?.filter(|text| !text.is_empty());
        text.ok_or_else(|| ExpansionError(format!("{name} is missing")))
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, ExpansionError> {
        match self.take(name) {
            None => Ok(None),
            Some(Setting::Boolean(is)) => Ok(Some(is)),
            Some(_) => Err(Self::wrong(name, "true or false")),
        }
    }

    pub(super) fn integer(&mut self, name: &str) -> Result<Option<i64>, ExpansionError> {
        match self.take(name) {
            None => Ok(None),
            Some(Setting::Int(number)) => Ok(Some(number)),
            Some(_) => Err(Self::wrong(name, "a whole number")),
        }
    }

    /// A number that is not negative.
    pub(super) fn count(&mut self, name: &str) -> Result<Option<u64>, ExpansionError> {
        let count = self.integer(name)?.map(u64::try_from).transpose();
        count.map_err(|_| Self::wrong(name, "no negative number"))
    }

    pub(super) fn texts(&mut self, name: &str) -> Result<Vec<String>, ExpansionError> {
        let text = |value| match value {
            Setting::Text(text) => Ok(text),
            _ => Err(Self::wrong(name, "a list of texts")),
        };
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Setting::List(values)) => values.into_iter().map(text).collect(),
            Some(_) => Err(Self::wrong(name, "a list of texts")),
        }
    }

    /// Properties of a Kafka client.
    pub(super) fn properties(&mut self, name: &str) -> Result<BTreeMap<String, String>, ExpansionError> {
        match self.take(name) {
            None => Ok(BTreeMap::new()),
            Some(Setting::Map(values)) => {
                let property = |(key, value): (String, Setting)| {
                    let text = value.as_property();
                    let text = text.ok_or_else(|| Self::wrong(&format!("{key} in {name}"), "one value"))?;
                    Ok((key, text))
                };
                values.into_iter().map(property).collect()
            }
            Some(_) => Err(Self::wrong(name, "a mapping of properties")),
        }
    }

    /// A mapping of its own, in which names are as they are here.
    pub(super) fn mapping(&mut self, name: &str) -> Result<Option<Configuration>, ExpansionError> {
        match self.take(name) {
            None => Ok(None),
            Some(Setting::Map(values)) => Ok(Some(Configuration::of_map(values))),
            Some(_) => Err(Self::wrong(name, "a mapping")),
        }
    }

    /// What is not supported: refused where it is given.
    pub(super) fn refuse(&mut self, name: &str, why: &str) -> Result<(), ExpansionError> {
        match self.take(name) {
            None => Ok(()),
            Some(Setting::Map(values)) if values.is_empty() => Ok(()),
            Some(Setting::Boolean(false)) => Ok(()),
            Some(_) => Err(ExpansionError(format!("{name} is not supported: {why}"))),
        }
    }

    /// That everything was taken.
    pub(super) fn end(self) -> Result<(), ExpansionError> {
        let mut left = self.values.into_iter().filter(|(_, value)| *value != Setting::Null).map(|(name, _)| name);
        match left.next() {
            None => Ok(()),
            Some(name) => {
                let known: Vec<&str> = self.known.iter().map(String::as_str).collect();
                Err(ExpansionError(format!("{name} is a setting that is unknown here: there are {}", known.join(", "))))
            }
        }
    }
}

/// `ConsumerConfig`, `consumerConfig` and `consumer_config` are one name.
fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for (at, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && at > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
