//! The stage that counts the values of a multimap, where the runner cannot tell where one ends.
//!
//! Who reads all entries of a multimap gets each key with an iterable of its values, which begins with their number. But
//! SDKs keep values in the user's own coder, and what they append may be several. So their harness is asked: a stage
//! without any transform reads `KV<nonce, iterable>` with the values by reference, which the harness fetches one after
//! another without a number, and writes the same pair with the iterable as it is to be answered, behind a length.
//!
//! Rejected: taking a number for each append, as Java's harness sends those of a bundle together; and refusing such
//! multimaps, as most are never read by entries.

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::urns::standard_coders as coder;

use super::ask_windows::global_windowing;
use super::assemble::Assembly;
use super::descriptor::DescriptorBuilder;
use super::{Keyed, Port, Stage, StageId, StateKind};
use crate::element::WireCoder;
use crate::pipeline::{CoderName, EnvironmentName, PCollectionName, Transform, WindowingName};
use crate::windowing::{Merging, WindowCoder, Windowing};

/// Adds a stage for each multimap among the cells that `transform` keeps whose values only its SDK can tell apart.
pub(super) fn count(
    assembly: &mut Assembly<'_>,
    transform: &Transform,
    environment: &EnvironmentName,
    keyed: &mut Keyed,
) {
    let specs = transform.keyed.iter().flat_map(|spec| &spec.states);
    for (spec, cell) in specs.zip(&mut keyed.states) {
        let unknown = cell.kind == StateKind::Multimap && !cell.single_valued && cell.value.is_none();
        if let Some(value) = spec.value.as_ref().filter(|_| unknown) {
            cell.entries = Some(stage(assembly, transform, &cell.state, value, environment));
        }
    }
}

fn stage(
    assembly: &mut Assembly<'_>,
    transform: &Transform,
    state: &str,
    value: &CoderName,
    environment: &EnvironmentName,
) -> StageId {
    let like = format!("{}/entries/{state}", transform.id);
    let draft = &mut *assembly.draft;
    let nonce = draft.coders.make(coder::BYTES, b"", &[], &like);
    let global = draft.coders.make(coder::GLOBAL_WINDOW, b"", &[], &like);
    let values = draft.coders.make(coder::ITERABLE, b"", &[value], &like);
    let by_reference = draft.coders.make(coder::STATE_BACKED_ITERABLE, b"1", &[value], &like);
    let counted = draft.coders.make(coder::LENGTH_PREFIX, b"", &[&values], &like);
    let inside = draft.coders.make(coder::KV, b"", &[&nonce, &values], &like);
    let question = draft.coders.make(coder::KV, b"", &[&nonce, &by_reference], &like);
    let answer = draft.coders.make(coder::KV, b"", &[&nonce, &counted], &like);

    let globally = WindowingName(format!("{like}/global"));
    let entries = PCollectionName(format!("{like}/values"));
    let proto = pb::PCollection {
        unique_name: entries.0.clone(),
        coder_id: inside.0.clone(),
        is_bounded: pb::is_bounded::Enum::Bounded.into(),
        windowing_strategy_id: globally.0.clone(),
        display_data: Vec::new(),
    };
    draft.pcollections.insert(entries.clone(), proto);
    let mut descriptor = DescriptorBuilder::new(like, draft, environment);
    descriptor.windowing(&globally, global_windowing(&global.0, environment));
    descriptor.pcollection(draft, &entries, None);
    let source = descriptor.source(draft, &entries, (&question, &global));
    let sink = descriptor.sink(draft, &entries, (&answer, &global));
    let descriptor = descriptor.finish(draft);

    let pair = |value| WireCoder::Kv(Box::new(WireCoder::Prefixed), Box::new(value));
    // Values are by reference, all of them: what they look like in place does not matter.
    let by_reference = pair(WireCoder::StateBackedIterable(Box::new(WireCoder::Prefixed)));
    let windowing = Windowing::plain(WindowCoder::Global, Merging::None);
    let input =
        Port { transform: source, collection: assembly.add_collection(&entries, by_reference, windowing.clone()) };
    let counted = assembly.add_collection(&entries, pair(WireCoder::Prefixed), windowing);
    let environment = assembly.environment_id(environment);
    assembly.add_stage(Stage {
        name: format!("{}/count the values of {state}", transform.unique_name),
        environment,
        descriptor,
        input,
        outputs: vec![Port { transform: sink, collection: counted }],
        side_inputs: Vec::new(),
        transforms: Vec::new(),
        splittable: false,
        unbounded: false,
        merges_windows: false,
        keyed: None,
        truncate: None,
        finalizes: false,
        stable_input: false,
    })
}
