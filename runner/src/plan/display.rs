//! The textual form of a plan, for people and for golden tests.

use std::fmt;

use ferrobeam_proto::fn_execution::ProcessBundleDescriptor;
use prost::Message;

use super::{Access, CollectionId, Node, Plan, Stage, StageId, TestEvents};
use crate::element::WireCoder;
use crate::windowing::{Merging, TimestampCombiner, WindowCoder, Windowing};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.nodes {
            match node {
                Node::Impulse { output } => writeln!(f, "impulse -> {}", self.name(*output))?,
                Node::Flatten { inputs, output } => {
                    let inputs: Vec<_> = inputs.iter().map(|input| self.name(*input)).collect();
                    writeln!(f, "flatten {} -> {}", inputs.join(" + "), self.name(*output))?;
                }
                Node::GroupByKey { name, input, output, windowing, merge, bounded: _ } => {
                    write!(f, "group \"{name}\" {} -> {} in {windowing}", self.name(*input), self.name(*output))?;
                    match merge {
                        Some(stage) => {
                            writeln!(f, ", merged by")?;
                            self.fmt_stage(*stage, "  ", f)?;
                        }
                        None => writeln!(f)?,
                    }
                }
                Node::TestStream { name, events, outputs } => {
                    let outputs: Vec<_> = outputs.iter().map(|(_, output)| self.name(*output)).collect();
                    let events = match events {
                        TestEvents::Listed(events) => format!("{} events", events.len()),
                        TestEvents::Service { url, .. } => format!("events from {url}"),
                    };
                    writeln!(f, "test stream \"{name}\", {events} -> {}", outputs.join(", "))?;
                }
                Node::Redistribute { name, input, output, by_key } => {
                    let how = if *by_key { " by key" } else { "" };
                    writeln!(f, "redistribute \"{name}\"{how} {} -> {}", self.name(*input), self.name(*output))?;
                }
                Node::Stage(stage) => self.fmt_stage(*stage, "", f)?,
            }
        }
        for collection in &self.collections {
            writeln!(f, "{}: {} in {}", collection.name, collection.value, collection.windowing)?;
        }
        Ok(())
    }
}

impl Plan {
    fn name(&self, id: CollectionId) -> &str {
        self.collections.get(id.0 as usize).map_or("?", |collection| collection.name.as_str())
    }

    fn fmt_stage(&self, id: StageId, indent: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(stage) = self.stages.get(id.0 as usize) else { return writeln!(f, "{indent}stage ?") };
        let environment = self.environments.get(stage.environment.0 as usize).map_or("?", |it| it.name.as_str());
        let splittable = if stage.splittable { ", splittable" } else { "" };
        writeln!(f, "{indent}stage \"{}\" in {environment}{splittable}", stage.name)?;
        writeln!(f, "{indent}  read {}", self.name(stage.input.collection))?;
        for (id, unique_name) in &stage.transforms {
            writeln!(f, "{indent}  {} \"{unique_name}\"", urn(stage, id))?;
            for side_input in stage.side_inputs.iter().filter(|side_input| side_input.transform == *id) {
                let how = match side_input.access {
                    Access::Iterable => "iterable",
                    Access::Multimap => "multimap",
                };
                writeln!(
                    f,
                    "{indent}    with {} as {how} {}",
                    self.name(side_input.collection),
                    side_input.local_name
                )?;
            }
        }
        for output in &stage.outputs {
            writeln!(f, "{indent}  write {}", self.name(output.collection))?;
        }
        Ok(())
    }
}

/// The short URN of a transform in a stage.
fn urn(stage: &Stage, id: &str) -> String {
    let descriptor = ProcessBundleDescriptor::decode(stage.descriptor.clone()).unwrap_or_default();
    let urn = descriptor.transforms.get(id).and_then(|transform| transform.spec.as_ref()).map(|spec| spec.urn.as_str());
    urn.unwrap_or("?").trim_start_matches("beam:transform:").trim_end_matches(":v1").to_owned()
}

impl fmt::Display for WireCoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireCoder::Prefixed => f.write_str("prefixed"),
            WireCoder::Bool => f.write_str("bool"),
            WireCoder::VarInt => f.write_str("varint"),
            WireCoder::Double => f.write_str("double"),
            WireCoder::Kv(key, value) => write!(f, "kv({key}, {value})"),
            WireCoder::Iterable(element) => write!(f, "iterable({element})"),
            WireCoder::StateBackedIterable(element) => write!(f, "state_backed_iterable({element})"),
            WireCoder::Nullable(value) => write!(f, "nullable({value})"),
            WireCoder::ShardedKey(key) => write!(f, "sharded_key({key})"),
            WireCoder::GlobalWindow => f.write_str("global_window"),
            WireCoder::IntervalWindow => f.write_str("interval_window"),
            WireCoder::CustomWindow(window) => write!(f, "custom_window({window})"),
        }
    }
}

impl fmt::Display for Windowing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.window_coder {
            WindowCoder::Global => f.write_str("global windows")?,
            WindowCoder::Interval => f.write_str("interval windows")?,
            WindowCoder::Custom(window) => write!(f, "custom windows of {window}")?,
        }
        f.write_str(match self.merging {
            Merging::None => "",
            Merging::Sessions => ", sessions",
            Merging::Custom => ", merging",
        })?;
        f.write_str(match self.timestamp_combiner {
            TimestampCombiner::EndOfWindow => "",
            TimestampCombiner::Latest => ", latest timestamp",
            TimestampCombiner::Earliest => ", earliest timestamp",
        })
    }
}
