//! Kafka's transforms in a pipeline that another expansion service made, where they still say what was asked of them.
//!
//! What the Java SDK's service makes of a schema transform bears its identifier and its configuration as annotations
//! (`external_transforms.proto`; so does that of Java 2.73.0), in whatever it is taken apart. Such a transform is done by
//! the runner itself instead, if all that it asks for can be.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::urns::annotations::{CONFIG_ROW_KEY, CONFIG_ROW_SCHEMA_KEY, SCHEMATRANSFORM_URN_KEY};
use ferrobeam_proto::urns::managed_transforms::{KAFKA_READ, KAFKA_WRITE};
use prost::Message;

use super::configuration::{Configuration, ExpansionError};
use super::graph::{Graph, OUTPUT};
use super::managed::{self, Managed};
use super::transforms;

/// A pipeline of which some transforms were replaced.
#[derive(Debug)]
pub struct Recognised {
    /// With the runner's own transforms in it.
    pub pipeline: pb::Pipeline,
    /// The names of the transforms that were replaced.
    pub replaced: Vec<String>,
    /// What was left as it is, and why.
    pub left: Vec<String>,
}

/// Replaces what can be. None: nothing in the pipeline is known to be Kafka's.
pub fn recognise(pipeline: &pb::Pipeline) -> Option<Recognised> {
    let transforms = &pipeline.components.as_ref()?.transforms;
    let of_kafka = |transform: &pb::PTransform| identifier(transform).is_some();
    let ids: Vec<String> =
        transforms.iter().filter(|(_, transform)| of_kafka(transform)).map(|(id, _)| id.clone()).collect();
    if ids.is_empty() {
        return None;
    }
    let mut recognised = Recognised { pipeline: pipeline.clone(), replaced: Vec::new(), left: Vec::new() };
    for id in ids {
        let components = recognised.pipeline.components.get_or_insert_default();
        // It may have been a part of one that was replaced.
        let Some(asked) = components.transforms.get(&id).cloned() else { continue };
        let name = asked.unique_name.clone();
        match replace(components, &id, asked) {
            Ok(()) => recognised.replaced.push(name),
            Err(ExpansionError(why)) => recognised.left.push(format!("\"{name}\": {why}")),
        }
    }
    Some(recognised)
}

/// Which of Kafka's schema transforms it is.
fn identifier(transform: &pb::PTransform) -> Option<&'static str> {
    let named = transform.annotations.get(SCHEMATRANSFORM_URN_KEY)?;
    [KAFKA_READ, KAFKA_WRITE].into_iter().find(|known| known.as_bytes() == &named[..])
}

fn replace(components: &mut pb::Components, id: &str, asked: pb::PTransform) -> Result<(), ExpansionError> {
    let annotation = |key: &str| {
        let found = asked.annotations.get(key);
        found.ok_or_else(|| ExpansionError(format!("it has no annotation {key}")))
    };
    let schema = pb::Schema::decode(annotation(CONFIG_ROW_SCHEMA_KEY)?.clone())
        .map_err(|error| ExpansionError(format!("the schema of its configuration cannot be read: {error}")))?;
    let from = Configuration::of_row(&schema, annotation(CONFIG_ROW_KEY)?)?;
    let managed = managed::read(identifier(&asked).unwrap_or_default(), from)?;
    let mut graph = Graph::within(id.to_owned(), mem::take(components), asked.clone());
    let made = match managed {
        Managed::Read(read) => transforms::expand_read(&mut graph, &read),
        Managed::Write(write) => transforms::expand_write(&mut graph, &write, ""),
    };
    *components = graph.components;
    let mut made = made?;
    if made.outputs.is_empty() {
        // A write gives nothing. Java's has an output of errors also where they are not handled, and nothing comes of that either.
        let leaf = made.subtransforms.first().and_then(|leaf| components.transforms.get(leaf));
        let nothing = leaf.and_then(|leaf| leaf.outputs.get(OUTPUT));
        if let (Some(nothing), 1) = (nothing, asked.outputs.len()) {
            made.outputs = asked.outputs.keys().map(|tag| (tag.clone(), nothing.clone())).collect();
        }
    }
    let ends = outputs(&asked.outputs, &made.outputs)?;
    for part in parts(components, &asked) {
        components.transforms.remove(&part);
    }
    let new = parts(components, &made);
    components.transforms.insert(id.to_owned(), made);
    for id in new.iter().map(String::as_str).chain([id]) {
        let Some(transform) = components.transforms.get_mut(id) else { continue };
        for end in transform.inputs.values_mut().chain(transform.outputs.values_mut()) {
            if let Some(old) = ends.get(end) {
                end.clone_from(old);
            }
        }
    }
    for (new, old) in &ends {
        let Some(new) = components.pcollections.remove(new) else { continue };
        let Some(coder_id) = components.pcollections.get(old).map(|old| old.coder_id.clone()) else { continue };
        // What stays of it within is encoded as the pipeline has it: whether those are the same rows the planner looks at.
        let stay = components.pcollections.values_mut().filter(|stays| stays.coder_id == new.coder_id);
        stay.for_each(|stays| stays.coder_id.clone_from(&coder_id));
    }
    Ok(())
}

/// The collections that the pipeline has for the outputs, by those that were made anew.
fn outputs(
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ExpansionError> {
    // An SDK may call the only one otherwise.
    if let (1, Some(old), 1, Some(new)) = (old.len(), old.values().next(), new.len(), new.values().next()) {
        return Ok(BTreeMap::from([(new.clone(), old.clone())]));
    }
    if let Some(more) = old.keys().find(|tag| !new.contains_key(*tag)) {
        return Err(ExpansionError(format!("it has an output \"{more}\", which is not known here")));
    }
    Ok(old.iter().map(|(tag, old)| (new[tag].clone(), old.clone())).collect())
}

/// All that a transform is made of, by id.
fn parts(components: &pb::Components, of: &pb::PTransform) -> BTreeSet<String> {
    let (mut found, mut left) = (BTreeSet::new(), of.subtransforms.clone());
    while let Some(id) = left.pop() {
        if let Some(transform) = components.transforms.get(&id)
            && found.insert(id)
        {
            left.extend(transform.subtransforms.iter().cloned());
        }
    }
    found
}
