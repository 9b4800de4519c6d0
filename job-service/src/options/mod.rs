//! The pipeline options of a submission: what they ask of this runner.
//!
//! Options come as a `Struct` with keys `beam:option:<name>:v1`. Java sends JSON types, Python text for numbers, Go only
//! a few; so values are read leniently. What is not in the [catalogue](CATALOGUE) is the SDK's own business and goes to
//! the harnesses as it came, as all the rest does.
//!
//! Go's SDK takes no option that it does not know itself (2.77.0), so every option of the catalogue may also stand among the
//! experiments, which every SDK sends, as `--experiments=NAME=VALUE`. One that is given as itself counts before that.

mod backend;
mod catalogue;
mod checkpoints;
mod start_from;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

pub use backend::{StateBackend, UnknownBackend};
pub use catalogue::{CATALOGUE, Kind, OptionEntry, Treatment, describe, find};
pub use checkpoints::CheckpointOptions;
use prost_types::value::Kind as Json;
use prost_types::{Struct, Value};
pub use start_from::{StartFrom, StartFromError};

use crate::checkpoint::{Options, Storage};

/// What a submission asks for. `None`: it did not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobOptions {
    /// The job's name.
    pub job_name: Option<String>,
    /// The pipeline is to be treated as unbounded.
    pub streaming: bool,
    /// Worker threads in all.
    pub parallelism: Option<NonZeroUsize>,
    /// Processes.
    pub processes: Option<NonZeroUsize>,
    /// Bytes of user data in the memory of each process.
    pub memory: Option<u64>,
    /// Most elements in a bundle.
    pub max_bundle_size: Option<NonZeroUsize>,
    /// How long a bundle of a splittable stage may run before it is asked to hand back the rest of its work.
    pub max_bundle_time: Option<Duration>,
    /// Where keyed state is kept.
    pub state_backend: Option<StateBackend>,
    /// The job drains from its start.
    pub draining: bool,
    /// Kafka's transforms that the SDK's own expansion service made are left to its environment.
    pub kafka_by_sdk: bool,
    /// How often a failed bundle is run again, and how often a job that lost a process is.
    pub retries: Option<u32>,
    /// The wait before that.
    pub retry_delay: Option<Duration>,
    /// Its checkpoints. None is taken where the service has no storage for them.
    pub checkpoints: Option<CheckpointOptions>,
    /// How many harnesses to start beside each other; 0: one fewer than there are cores.
    pub sdk_worker_parallelism: Option<u32>,
    /// Keep containers after they stopped.
    pub retain_docker_containers: bool,
}

/// What to tell the job's owner about an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// It was given and has no effect.
    Accepted(String),
    /// It was given and will only have an effect in the future.
    Warned(String),
}

/// Options that cannot be honoured, each with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pipeline options refused: {}", .0.join("; "))]
pub struct OptionsRefused(pub Vec<String>);

/// Reads what a submission asks for, and what is to be said about it.
pub fn parse(options: &Struct) -> Result<(JobOptions, Vec<Remark>), OptionsRefused> {
    let mut reader = Reader { options, experiments: of_experiments(options), refused: Vec::new() };
    let parsed = JobOptions {
        job_name: reader.text("job_name"),
        streaming: reader.flag("streaming").unwrap_or(false),
        parallelism: reader.positive("parallelism"),
        processes: reader.positive("ferrobeam_processes"),
        memory: reader.bytes("ferrobeam_memory"),
        max_bundle_size: reader.positive("max_bundle_size"),
        max_bundle_time: reader.positive("max_bundle_time_mills").map(|n| Duration::from_millis(n.get() as u64)),
        state_backend: reader.backend("state_backend"),
        draining: reader.flag("ferrobeam_drain").unwrap_or(false),
        kafka_by_sdk: reader.flag("ferrobeam_kafka_by_sdk").unwrap_or(false),
        retries: reader.integer("number_of_execution_retries").and_then(|n| u32::try_from(n).ok()),
        retry_delay: reader
            .integer("execution_retry_delay")
            .and_then(|n| u64::try_from(n).ok())
            .map(Duration::from_millis),
        checkpoints: CheckpointOptions::read(&mut reader),
        // SDKs send 1 for whoever did not ask.
        sdk_worker_parallelism: reader
            .integer("sdk_worker_parallelism")
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n != 1),
        retain_docker_containers: reader.flag("retain_docker_containers").unwrap_or(false),
    };
    let mut remarks = Vec::new();
    for entry in CATALOGUE {
        if !reader.is_given(entry) {
            continue;
        }
        let name = entry.name;
        match entry.treatment {
            Treatment::Honoured => {}
            Treatment::Accepted(why) => remarks.push(Remark::Accepted(format!("option {name} has no effect: {why}"))),
            Treatment::Warned(why) => remarks.push(Remark::Warned(format!("option {name} is not honoured: {why}"))),
            Treatment::Refused(advice) => reader.refused.push(format!("{name}: {advice}")),
        }
    }
    if reader.refused.is_empty() { Ok((parsed, remarks)) } else { Err(OptionsRefused(reader.refused)) }
}

/// A number of bytes such as `1073741824`, `512MiB`, `1g`.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The options that stand among the experiments.
fn of_experiments(options: &Struct) -> BTreeMap<String, Json> {
    let texts = match options.fields.get("beam:option:experiments:v1").and_then(|value| value.kind.as_ref()) {
        Some(Json::ListValue(list)) => list.values.iter().filter_map(|value| value.kind.as_ref()).collect(),
        Some(text) => vec![text],
        None => Vec::new(),
    };
    let options = texts.into_iter().filter_map(|text| match text {
        Json::StringValue(text) => text.split_once('='),
        _ => None,
    });
    let known = options.filter(|(name, _)| find(name).is_some());
    known.map(|(name, value)| (name.to_owned(), Json::StringValue(value.to_owned()))).collect()
}

struct Reader<'a> {
    options: &'a Struct,
    /// What stands among the experiments, by name.
    experiments: BTreeMap<String, Json>,
    refused: Vec<String>,
}

impl Reader<'_> {
    /// The value of an option; absent and null are one. Without the URN around the name it is known as well, for
    /// clients that are not SDKs.
    fn get(&self, name: &str) -> Option<&Json> {
        let field = self.options.fields.get(&format!("beam:option:{name}:v1"));
        let value: Option<&Value> = field.or_else(|| self.options.fields.get(name));
        let given = value.and_then(|value| value.kind.as_ref()).filter(|kind| !matches!(kind, Json::NullValue(_)));
        let Some(experiment) = self.experiments.get(name) else { return given };
        // SDKs send defaults of their own for whoever did not ask.
        let is_default = |given: &&Json| find(name).is_some_and(|entry| !is_given(entry, given));
        given.filter(|given| !is_default(given)).or(Some(experiment))
    }

    fn refuse(&mut self, name: &str, value: String, wanted: &str) {
        self.refused.push(format!("{name} = {value}: {wanted} is wanted"));
    }

    fn text(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            Json::StringValue(text) if !text.is_empty() => Some(text.clone()),
            _ => None,
        }
    }

    fn integer(&mut self, name: &str) -> Option<i64> {
        let value = self.get(name)?.clone();
        let integer = as_integer(&value);
        if integer.is_none() && !matches!(&value, Json::StringValue(text) if text.trim().is_empty()) {
            self.refuse(name, show(&value), "a whole number");
        }
        integer
    }

    /// Numbers below 1 stand for the default, as they do for Flink.
    fn positive(&mut self, name: &str) -> Option<NonZeroUsize> {
        let integer = self.integer(name)?;
        usize::try_from(integer).ok().and_then(NonZeroUsize::new)
    }

    fn flag(&mut self, name: &str) -> Option<bool> {
        let value = self.get(name)?.clone();
        let flag = as_flag(&value);
        if flag.is_none() {
            self.refuse(name, show(&value), "true or false");
        }
        flag
    }

    fn bytes(&mut self, name: &str) -> Option<u64> {
        let value = self.get(name)?.clone();
        let bytes = match &value {
            Json::StringValue(text) if text.trim().is_empty() => return None,
            Json::StringValue(text) => parse_bytes(text),
            other => as_integer(other).and_then(|n| u64::try_from(n).ok()),
        };
        if bytes.is_none() {
            self.refuse(name, show(&value), "a number of bytes, such as 512MiB,");
        }
        bytes
    }

    /// A text as `parse` reads it; none when it is blank.
    fn parsed<T, E: std::fmt::Display>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let text = self.text(name).filter(|text| !text.trim().is_empty())?;
        parse(&text).map_err(|error| self.refused.push(format!("{name}: {error}"))).ok()
    }

    /// The URL of a storage for checkpoints.
    fn storage(&mut self, name: &str) -> Option<String> {
        self.parsed(name, |url| Storage::open(url, &Options::none()).map(|_| url.to_owned()))
    }

    /// One of these words, whatever its case.
    fn one_of(&mut self, name: &str, words: &[&'static str]) -> Option<&'static str> {
        let given = self.text(name)?;
        let word = words.iter().copied().find(|word| word.eq_ignore_ascii_case(given.trim()));
        if word.is_none() {
            self.refuse(name, given, &words.join(" or "));
        }
        word
    }

    /// The checkpoint of another job.
    fn start_from(&mut self, name: &str) -> Option<StartFrom> {
        self.parsed(name, StartFrom::parse)
    }

    /// Names by names: an object, or its JSON.
    fn names(&mut self, name: &str) -> Option<BTreeMap<String, String>> {
        let value = self.get(name)?.clone();
        let names = match &value {
            Json::StringValue(text) if text.trim().is_empty() => return None,
            Json::StringValue(text) => serde_json::from_str(text).ok(),
            Json::StructValue(fields) => {
                let text = |(old, new): (&String, &Value)| match &new.kind {
                    Some(Json::StringValue(new)) => Some((old.clone(), new.clone())),
                    _ => None,
                };
                fields.fields.iter().map(text).collect()
            }
            Json::NullValue(_) | Json::NumberValue(_) | Json::BoolValue(_) | Json::ListValue(_) => None,
        };
        if names.is_none() {
            self.refuse(name, show(&value), "an object such as {\"old name\": \"new name\"}");
        }
        names
    }

    fn backend(&mut self, name: &str) -> Option<StateBackend> {
        self.parsed(name, str::parse)
    }

    fn is_given(&self, entry: &OptionEntry) -> bool {
        self.get(entry.name).is_some_and(|value| is_given(entry, value))
    }
}

/// Whether a value is another than what SDKs send for whoever did not ask.
fn is_given(entry: &OptionEntry, value: &Json) -> bool {
    match (entry.kind, value) {
        (Kind::Flag(default), value) => as_flag(value) != Some(default),
        // Every number below 1 says "not set" where the default is such a number.
        (Kind::Integer(default), value) => match as_integer(value) {
            Some(given) => given != default && (given > 0 || default > 0),
            None => true,
        },
        (Kind::Text(default), Json::StringValue(text)) => !text.is_empty() && text != default,
        (Kind::List, Json::ListValue(list)) => !list.values.is_empty(),
        (Kind::List, Json::StringValue(text)) => !text.is_empty(),
        (Kind::Text(_) | Kind::List, _) => true,
    }
}

fn as_integer(value: &Json) -> Option<i64> {
    match value {
        // Whole numbers beyond 2^53 are not what anybody means here.
        Json::NumberValue(n) if n.fract() == 0.0 && n.abs() <= 9_007_199_254_740_992.0 => Some(*n as i64),
        Json::StringValue(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn as_flag(value: &Json) -> Option<bool> {
    match value {
        Json::BoolValue(flag) => Some(*flag),
        Json::NumberValue(n) if *n == 0.0 || *n == 1.0 => Some(*n == 1.0),
        Json::StringValue(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" | "" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn show(value: &Json) -> String {
    match value {
        Json::NullValue(_) => "null".to_owned(),
        Json::NumberValue(n) => n.to_string(),
        Json::StringValue(text) => format!("{text:?}"),
        Json::BoolValue(flag) => flag.to_string(),
        Json::StructValue(_) => "an object".to_owned(),
        Json::ListValue(_) => "a list".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(fields: &[(&str, Json)]) -> Struct {
        let fields =
            fields.iter().map(|(name, value)| (format!("beam:option:{name}:v1"), Value { kind: Some(value.clone()) }));
        Struct { fields: fields.collect() }
    }

    fn text(text: &str) -> Json {
        Json::StringValue(text.to_owned())
    }

    #[test]
    fn numbers_and_flags_are_read_however_they_are_sent() {
        for four in [text("4"), text(" 4 "), Json::NumberValue(4.0)] {
            let (parsed, _) = parse(&options(&[("parallelism", four)])).expect("a number");
            assert_eq!(parsed.parallelism.map(NonZeroUsize::get), Some(4));
        }
        for unset in [text("-1"), text("0"), Json::NumberValue(-1.0), Json::NullValue(0), text("")] {
            let (parsed, remarks) = parse(&options(&[("parallelism", unset)])).expect("unset");
            assert_eq!((parsed.parallelism, remarks), (None, vec![]));
        }
        for on in [text("true"), text("True"), text("1"), Json::BoolValue(true)] {
            assert!(parse(&options(&[("streaming", on)])).expect("a flag").0.streaming);
        }
    }

    #[test]
    fn options_stand_among_the_experiments_too() {
        let list = |texts: &[&str]| {
            let values = texts.iter().map(|one| Value { kind: Some(text(one)) }).collect();
            Json::ListValue(prost_types::ListValue { values })
        };
        // As Go 2.77.0 sends them.
        let experiments = list(&["checkpointing_interval=500", "parallelism=2", "beam_fn_api", "state_cache_size=1"]);
        let sent = options(&[("experiments", experiments), ("parallelism", Json::NumberValue(-1.0))]);
        let (parsed, remarks) = parse(&sent).expect("good options");
        assert_eq!(parsed.checkpoints.map(|checkpoints| checkpoints.interval.get()), Some(500));
        assert_eq!((parsed.parallelism.map(NonZeroUsize::get), remarks), (Some(2), vec![]));
        // What is given as itself counts.
        let both = options(&[("experiments", list(&["parallelism=2"])), ("parallelism", text("3"))]);
        assert_eq!(parse(&both).expect("good options").0.parallelism.map(NonZeroUsize::get), Some(3));
        let refused = parse(&options(&[("experiments", list(&["parallelism=many"]))])).expect_err("no number");
        assert!(refused.to_string().contains("parallelism"), "{refused}");
    }

    #[test]
    fn what_python_always_sends_is_not_taken_for_given() {
        let sent: Vec<(&str, Json)> = CATALOGUE
            .iter()
            .filter_map(|e| match e.kind {
                Kind::Flag(default) => Some((e.name, Json::BoolValue(default))),
                _ => None,
            })
            .chain([("flink_master", text("[auto]")), ("max_parallelism", text("-1"))])
            .collect();
        assert_eq!(parse(&options(&sent)), Ok((JobOptions::default(), vec![])));
    }

    #[test]
    fn every_treatment_is_applied_to_every_option_that_is_given() {
        let there = tempfile::tempdir().expect("a folder");
        let folder = format!("file://{}", there.path().display());
        for entry in CATALOGUE {
            let given = match entry.kind {
                Kind::Flag(default) => Json::BoolValue(!default),
                Kind::Text(_) if entry.name == "state_backend" => text("rocksdb"),
                Kind::Text(_) if entry.name == "checkpointing_mode" => text("AT_LEAST_ONCE"),
                Kind::Text(_) if entry.name == "savepoint_path" => text(&format!("{folder}/job-1")),
                Kind::Text(_) if entry.name == "state_backend_storage_path" => text(&folder),
                Kind::Text(_) if entry.name == "ferrobeam_kafka_in_doubt" => text("WRITE"),
                Kind::Text(_) if entry.name == "transform_name_mapping" => text("{\"old\": \"new\"}"),
                Kind::Integer(_) | Kind::Text(_) => text("17"),
                Kind::List => text("a.jar"),
            };
            // What is asked of checkpoints means something where there are some.
            let others = |entry: &OptionEntry| match entry.name {
                "checkpointing_interval" => None,
                _ => Some(("checkpointing_interval", text("1000"))),
            };
            let without: Vec<_> = others(entry).into_iter().collect();
            let without = parse(&options(&without)).expect("good options").0;
            let all: Vec<_> = others(entry).into_iter().chain([(entry.name, given)]).collect();
            match (entry.treatment, parse(&options(&all))) {
                (Treatment::Honoured, Ok((parsed, remarks))) => {
                    assert_ne!(parsed, without, "{} has no effect", entry.name);
                    assert_eq!(remarks, []);
                }
                (Treatment::Accepted(why), Ok((_, remarks))) => {
                    assert_eq!(remarks, [Remark::Accepted(format!("option {} has no effect: {why}", entry.name))]);
                }
                (Treatment::Warned(why), Ok((_, remarks))) => {
                    assert_eq!(remarks, [Remark::Warned(format!("option {} is not honoured: {why}", entry.name))]);
                }
                (Treatment::Refused(advice), Err(OptionsRefused(refused))) => {
                    assert_eq!(refused, [format!("{}: {advice}", entry.name)]);
                }
                (treatment, outcome) => panic!("{}: {treatment:?} gave {outcome:?}", entry.name),
            }
        }
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let wrong = options(&[
            ("parallelism", text("many")),
            ("savepoint_path", text("my-savepoint")),
            ("ferrobeam_memory", text("lots")),
            ("streaming", text("perhaps")),
            ("state_backend", text("a big one")),
        ]);
        let message = parse(&wrong).expect_err("wrong").to_string();
        for part in ["parallelism = \"many\"", "savepoint_path: ", "ferrobeam_memory", "streaming", "a big one"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn options_of_the_sdk_pass() {
        let own = options(&[("my_input", text("gs://x")), ("experiments", Json::ListValue(Default::default()))]);
        assert_eq!(parse(&own), Ok((JobOptions::default(), vec![])));
    }

    #[test]
    fn bytes() {
        let cases = [("17", 17), ("1k", 1024), ("512 MiB", 512 << 20), ("2GB", 2 << 30), ("1t", 1 << 40)];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for bad in ["", "MiB", "1.5g", "-1", "1x", "99999999999t"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }
}
