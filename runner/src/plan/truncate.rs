//! The stage that shortens what is left of a splittable stage's input when a job drains.
//!
//! It takes and gives sized elements and restrictions, so that what it gives may be put back where it was taken. Its
//! transform has the id of the one that processes them, because both read the same side inputs by it.

use std::collections::BTreeMap;

use ferrobeam_proto::urns::standard_ptransforms::splittable_par_do_components as urn;

use super::assemble::Assembly;
use super::descriptor::DescriptorBuilder;
use super::{Port, SideInput, Stage, StageId};
use crate::pipeline::{EnvironmentName, PCollectionName, Transform};

/// Adds the stage for `process`, the head of a splittable stage of `input` with these side inputs; none if its
/// environment cannot truncate.
pub(super) fn stage(
    assembly: &mut Assembly<'_>,
    process: &Transform,
    input: &PCollectionName,
    environment: &EnvironmentName,
    side_inputs: &[SideInput],
) -> Option<StageId> {
    let capabilities = &assembly.draft.environments.get(environment)?.capabilities;
    if !capabilities.iter().any(|capability| capability == urn::TRUNCATE_SIZED_RESTRICTION) {
        return None;
    }
    let wire = assembly.wire(input);
    let draft = &mut *assembly.draft;
    let coder = draft.coder_of(input);
    let output = draft.new_pcollection(input, "truncated", &coder);
    let mut transform = process.clone();
    transform.spec.urn = urn::TRUNCATE_SIZED_RESTRICTION.to_owned();
    transform.outputs = BTreeMap::from([("out".to_owned(), output.clone())]);

    let mut descriptor = DescriptorBuilder::new(format!("{}/truncate", process.id), draft, environment);
    descriptor.transform(&transform);
    for from in transform.side_inputs.keys().filter_map(|local| transform.inputs.get(local)) {
        let wire = assembly.wire(from);
        descriptor.pcollection(assembly.draft, from, Some(&wire.value));
    }
    descriptor.pcollection(assembly.draft, input, Some(&wire.value));
    descriptor.pcollection(assembly.draft, &output, None);
    let source = descriptor.source(assembly.draft, input, (&wire.read, &wire.window));
    let sink = descriptor.sink(assembly.draft, &output, (&wire.value, &wire.window));
    let descriptor = descriptor.finish(assembly.draft);
    let input = Port { transform: source, collection: assembly.collection(input) };
    let output = Port { transform: sink, collection: assembly.collection(&output) };
    let environment = assembly.environment_id(environment);
    let side_inputs = side_inputs.iter().filter(|side_input| side_input.transform == process.id.0).cloned().collect();
    Some(assembly.add_stage(Stage {
        name: format!("{}/truncate", process.unique_name),
        environment,
        descriptor,
        input,
        outputs: vec![output],
        side_inputs,
        transforms: vec![(transform.id.0, transform.unique_name)],
        splittable: false,
        unbounded: false,
        merges_windows: false,
        keyed: None,
        truncate: None,
        finalizes: false,
        stable_input: false,
    }))
}
