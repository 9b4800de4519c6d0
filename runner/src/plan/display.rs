//! The textual form of a plan, for people and for golden tests.

use std::collections::BTreeMap;
use std::fmt;

use ferrobeam_proto::fn_execution::ProcessBundleDescriptor;
use prost::Message;

use super::{
    Access, CollectionId, Node, Plan, SideInput, StageId, StateCell, StateKind, TestEvents, TimerFamily, WindowMapping,
};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.nodes {
            match node {
                Node::Impulse { output } => writeln!(f, "impulse -> {}", self.name(*output))?,
                Node::Flatten { inputs, output } => {
                    let inputs: Vec<_> = inputs.iter().map(|input| self.name(*input)).collect();
                    writeln!(f, "flatten {} -> {}", inputs.join(" + "), self.name(*output))?;
                }
                Node::GroupByKey { name, input, output, windowing, merge, bounded } => {
                    let how = if *bounded { "" } else { " as it comes" };
                    write!(f, "group \"{name}\"{how} {} -> {}", self.name(*input), self.name(*output))?;
                    write!(f, " in {windowing}")?;
                    windowing.firing().fmt(f)?;
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
                Node::KafkaRead { name, read, output, .. } => {
                    let from = read.topic_pattern.as_deref().map_or_else(|| read.topics.join(", "), str::to_owned);
                    writeln!(f, "kafka read \"{name}\" from {from} -> {}", self.name(*output))?;
                }
                Node::KafkaWrite { name, write, input, .. } => {
                    writeln!(f, "kafka write \"{name}\" {} to {}", self.name(*input), write.topic)?;
                }
                Node::Stage(stage) => self.fmt_stage(*stage, "", f)?,
            }
        }
        for collection in &self.collections {
            let bounded = if collection.bounded { "" } else { ", unbounded" };
            writeln!(f, "{}: {} in {}{bounded}", collection.name, collection.value, collection.windowing)?;
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
        let keyed = match &stage.keyed {
            Some(keyed) if keyed.time_sorted => ", keyed, sorted by time",
            Some(_) => ", keyed",
            None => "",
        };
        let finalizes = if stage.finalizes { ", finalizes" } else { "" };
        let unbounded = if stage.unbounded { ", unbounded" } else { "" };
        writeln!(f, "{indent}stage \"{}\" in {environment}{splittable}{keyed}{finalizes}{unbounded}", stage.name)?;
        writeln!(f, "{indent}  read {}", self.name(stage.input.collection))?;
        let descriptor = ProcessBundleDescriptor::decode(stage.descriptor.clone()).unwrap_or_default();
        let mut side_inputs: BTreeMap<&str, Vec<&SideInput>> = BTreeMap::new();
        for side_input in &stage.side_inputs {
            side_inputs.entry(&side_input.transform).or_default().push(side_input);
        }
        for (id, unique_name) in &stage.transforms {
            writeln!(f, "{indent}  {} \"{unique_name}\"", urn(&descriptor, id))?;
            for side_input in side_inputs.get(id.as_str()).into_iter().flatten() {
                let how = match side_input.access {
                    Access::Iterable => "iterable",
                    Access::Multimap => "multimap",
                };
                let name = self.name(side_input.collection);
                write!(f, "{indent}    with {name} as {how} {}", side_input.local_name)?;
                match &side_input.mapping {
                    WindowMapping::Global | WindowMapping::Same => writeln!(f)?,
                    WindowMapping::Fixed { size, offset } => writeln!(f, " in windows of {size} ms, from {offset}")?,
                    WindowMapping::Sliding { size, period, offset } => {
                        writeln!(f, " in windows of {size} ms every {period} ms, from {offset}")?;
                    }
                    WindowMapping::Sdk(stage) => {
                        writeln!(f, " in windows found by")?;
                        self.fmt_stage(*stage, &format!("{indent}      "), f)?;
                    }
                }
            }
        }
        if let Some(keyed) = &stage.keyed {
            for state in &keyed.states {
                write!(f, "{indent}  keep {state}")?;
                match state.entries {
                    Some(stage) => {
                        writeln!(f, ", its values counted by")?;
                        self.fmt_stage(stage, &format!("{indent}    "), f)?;
                    }
                    None => writeln!(f)?,
                }
            }
            for timer in &keyed.timers {
                writeln!(f, "{indent}  set {timer}")?;
            }
        }
        if let Some(truncate) = stage.truncate {
            writeln!(f, "{indent}  truncated by")?;
            self.fmt_stage(truncate, &format!("{indent}    "), f)?;
        }
        for output in &stage.outputs {
            writeln!(f, "{indent}  write {}", self.name(output.collection))?;
        }
        Ok(())
    }
}

impl fmt::Display for StateCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == StateKind::Multimap && self.single_valued {
            f.write_str("map")?;
        } else {
            self.kind.fmt(f)?;
        }
        write!(f, " \"{}\"", self.state)?;
        self.value.as_ref().map_or(Ok(()), |value| write!(f, " of {value}"))
    }
}

impl fmt::Display for TimerFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expiration = if self.on_window_expiration { ", when windows expire" } else { "" };
        write!(f, "timer \"{}\" in {} of {}{expiration}", self.family, self.domain, self.key)
    }
}

/// The short URN of a transform in a stage.
fn urn(descriptor: &ProcessBundleDescriptor, id: &str) -> String {
    let urn = descriptor.transforms.get(id).and_then(|transform| transform.spec.as_ref()).map(|spec| spec.urn.as_str());
    urn.unwrap_or("?").trim_start_matches("beam:transform:").trim_end_matches(":v1").to_owned()
}
