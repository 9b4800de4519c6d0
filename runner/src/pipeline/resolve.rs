//! From a tree of composites to the leaves that are run.

use std::collections::{BTreeMap, BTreeSet};

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::urns::standard_ptransforms::{
    combine_components, composites, deprecated_primitives, primitives, splittable_par_do_components,
};
use prost::Message;

use super::refusal::Findings;
use super::trigger;
use crate::kafka;
use crate::windowing::Trigger;

/// What Python's SDK makes of a deprecated read before it submits a pipeline; only its own harness runs it.
const PYTHON_READ_FROM_IMPULSE: &str = "beam:transform:read_from_impulse_python:v1";

/// Transforms that are leaves even where an SDK gives them parts.
const LEAVES: &[&str] = &[
    primitives::PAR_DO,
    primitives::FLATTEN,
    primitives::GROUP_BY_KEY,
    primitives::IMPULSE,
    primitives::ASSIGN_WINDOWS,
    primitives::TEST_STREAM,
    primitives::MAP_WINDOWS,
    primitives::TO_STRING,
    deprecated_primitives::CREATE_VIEW,
    combine_components::COMBINE_PER_KEY_PRECOMBINE,
    combine_components::COMBINE_PER_KEY_MERGE_ACCUMULATORS,
    combine_components::COMBINE_PER_KEY_EXTRACT_OUTPUTS,
    combine_components::COMBINE_PER_KEY_CONVERT_TO_ACCUMULATORS,
    splittable_par_do_components::PAIR_WITH_RESTRICTION,
    splittable_par_do_components::SPLIT_AND_SIZE_RESTRICTIONS,
    splittable_par_do_components::PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS,
    splittable_par_do_components::TRUNCATE_SIZED_RESTRICTION,
    PYTHON_READ_FROM_IMPULSE,
    kafka::READ_URN,
    kafka::WRITE_URN,
];

/// What the tree comes down to.
#[derive(Default)]
pub(super) struct Leaves<'a> {
    /// Ids and transforms, in the order of the tree.
    pub(super) leaves: Vec<(&'a str, &'a pb::PTransform)>,
    /// PCollections that are another one under a new id.
    pub(super) aliases: BTreeMap<&'a str, &'a str>,
}

/// Walks the composites from the roots.
pub(super) fn leaves<'a>(
    pipeline: &'a pb::Pipeline,
    components: &'a pb::Components,
    findings: &mut Findings,
) -> Leaves<'a> {
    let mut found = Leaves::default();
    if pipeline.root_transform_ids.is_empty() && !components.transforms.is_empty() {
        findings.pipeline("the pipeline has transforms but names no root among them");
    }
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    // Each with the unique name of the composite that names it.
    let mut todo: Vec<(&'a str, Option<&'a str>)> =
        pipeline.root_transform_ids.iter().rev().map(|id| (id.as_str(), None)).collect();
    while let Some((id, parent)) = todo.pop() {
        let Some((id, transform)) = components.transforms.get_key_value(id) else {
            let what = format!("has a part \"{id}\", which the pipeline does not contain");
            match parent {
                Some(parent) => findings.transform(parent, what),
                None => findings.pipeline(format!("the pipeline {what}")),
            }
            continue;
        };
        if !seen.insert(id) {
            findings.transform(&transform.unique_name, "is a part of more than one composite, or of itself");
            continue;
        }
        let urn = urn(transform);
        if urn == deprecated_primitives::CREATE_VIEW {
            // Only marks that a collection is read as a side input; the readers say so themselves.
            if let (Some(input), Some(output)) = (transform.inputs.values().next(), transform.outputs.values().next())
                && input != output
            {
                found.aliases.insert(output, input);
            }
        } else if is_leaf(transform, urn, components) {
            found.leaves.push((id, transform));
        } else if !transform.subtransforms.is_empty() {
            todo.extend(
                transform.subtransforms.iter().rev().map(|part| (part.as_str(), Some(transform.unique_name.as_str()))),
            );
        } else if transform.outputs.values().all(|output| transform.inputs.values().any(|input| input == output)) {
            // A composite that hands on what it was given, or gives nothing.
        } else if urn.is_empty() {
            findings.transform(&transform.unique_name, "has neither parts nor a URN that says what it does");
        } else if announced(transform, urn, components) {
            found.leaves.push((id, transform));
        } else {
            findings.transform(&transform.unique_name, format!("is of a kind unknown here ({urn})"));
        }
    }
    found
}

pub(super) fn urn(transform: &pb::PTransform) -> &str {
    transform.spec.as_ref().map_or("", |spec| spec.urn.as_str())
}

fn is_leaf(transform: &pb::PTransform, urn: &str, components: &pb::Components) -> bool {
    match urn {
        // Taken whole where that keeps its meaning. Otherwise its parts are run, if it has any.
        composites::COMBINE_PER_KEY => transform.subtransforms.is_empty() || may_lift(transform, components),
        composites::RESHUFFLE | composites::REDISTRIBUTE_BY_KEY | composites::REDISTRIBUTE_ARBITRARILY => {
            transform.subtransforms.is_empty() || keeps_windows(transform, components)
        }
        // Its payload has no place for side inputs, which only the ParDo among its parts reads.
        combine_components::COMBINE_GROUPED_VALUES => transform.subtransforms.is_empty() || transform.inputs.len() == 1,
        // Python keeps this name for a composite whose parts are a splittable DoFn.
        deprecated_primitives::READ => transform.subtransforms.is_empty(),
        urn => LEAVES.contains(&urn),
    }
}

/// An SDK may have primitives of its own: it says so in its environment.
fn announced(transform: &pb::PTransform, urn: &str, components: &pb::Components) -> bool {
    components
        .environments
        .get(&transform.environment_id)
        .is_some_and(|environment| environment.capabilities.iter().any(|capability| capability == urn))
}

fn strategy<'a>(pcollection: &str, components: &'a pb::Components) -> Option<&'a pb::WindowingStrategy> {
    let pcollection = components.pcollections.get(pcollection)?;
    components.windowing_strategies.get(&pcollection.windowing_strategy_id)
}

/// Whether a combine can be taken apart by its payload alone.
fn may_lift(transform: &pb::PTransform, components: &pb::Components) -> bool {
    let (Some(input), 1, 1) = (transform.inputs.values().next(), transform.inputs.len(), transform.outputs.len())
    else {
        return false;
    };
    let payload = transform.spec.as_ref().map(|spec| pb::CombinePayload::decode(spec.payload.clone()));
    matches!(payload, Some(Ok(payload)) if !payload.accumulator_coder_id.is_empty())
        && (!transform.environment_id.is_empty() || components.environments.len() == 1)
        && strategy(input, components).is_some_and(|strategy| {
            let bounded = is_bounded(input, components);
            (keeps_timestamps(strategy) || bounded)
                && trigger(strategy.trigger.as_ref()).is_ok_and(|trigger| {
                    trigger::allows_lifting(&trigger) && !gives_empty_panes(strategy, &trigger, bounded)
                })
        })
}

/// Whether combining elements before they are grouped leaves the timestamp of the pane as it would be. An accumulator
/// of elements that the watermark has passed and others that it has not is late as a whole if it takes the earliest of
/// their timestamps.
fn keeps_timestamps(strategy: &pb::WindowingStrategy) -> bool {
    strategy.output_time() == pb::output_time::Enum::EndOfWindow
}

/// Whether a pane may have nothing in it. The accumulator of no elements is one that no lifted combine would encode, and
/// not every coder can: Java's for the latest element cannot.
fn gives_empty_panes(strategy: &pb::WindowingStrategy, trigger: &Trigger, bounded: bool) -> bool {
    let closing = strategy.closing_behavior() == pb::closing_behavior::Enum::EmitAlways;
    if trigger.waits_for_the_end() {
        // The pane at the end is the first, so not empty; without lateness, it is the last, too.
        return closing && !bounded && strategy.allowed_lateness > 0;
    }
    closing || strategy.on_time_behavior() != pb::on_time_behavior::Enum::FireIfNonempty
}

fn is_bounded(pcollection: &str, components: &pb::Components) -> bool {
    let said = components.pcollections.get(pcollection).map(pb::PCollection::is_bounded);
    said == Some(pb::is_bounded::Enum::Bounded)
}

/// Whether a redistribution changes nothing but where elements are.
fn keeps_windows(transform: &pb::PTransform, components: &pb::Components) -> bool {
    let mut ends = transform.inputs.values().chain(transform.outputs.values()).map(|end| strategy(end, components));
    let (Some(Some(input)), Some(Some(output)), None) = (ends.next(), ends.next(), ends.next()) else { return false };
    input.window_coder_id == output.window_coder_id
        || components.coders.get(&input.window_coder_id) == components.coders.get(&output.window_coder_id)
}
