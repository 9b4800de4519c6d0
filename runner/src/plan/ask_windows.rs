//! Stages that ask an SDK about windows, for functions that only it knows.
//!
//! Which windows of a key merge (`beam:transform:merge_windows:v1`): the input is `KV<nonce, Iterable<window>>` with bytes
//! for a nonce, the output `KV<nonce, KV<Iterable<window>, Iterable<KV<window, Iterable<window>>>>>`: the windows that stay
//! as they are, and the merged ones each with what went into it.
//!
//! Which window of a side input goes with one of the main input (`beam:transform:map_windows:v1`): the input is
//! `KV<nonce, window>` with the main input's window, the output the same with the side input's.
//!
//! All of it is in the global window; the windows within are encoded as they are elsewhere on the wire.

use std::collections::BTreeMap;

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::urns::global_windows_payload;
use ferrobeam_proto::urns::standard_coders as coder;
use ferrobeam_proto::urns::standard_ptransforms::primitives;
use prost::Message;

use super::assemble::Assembly;
use super::descriptor::DescriptorBuilder;
use super::{Port, Stage, StageId};
use crate::pipeline::{
    CoderName, EnvironmentName, Kind, PCollectionName, Refusal, Transform, TransformName, WindowingName,
};
use crate::windowing::{Merging, WindowCoder, Windowing};

/// Adds the stage that merges windows for the grouping `transform` of `input`.
pub(super) fn merging(
    assembly: &mut Assembly<'_>,
    transform: &Transform,
    input: &PCollectionName,
) -> Result<StageId, Refusal> {
    let draft = &mut *assembly.draft;
    let (_, strategy) = draft.windowing_of(input);
    let strategy = strategy.clone();
    let environment = Some(EnvironmentName(strategy.environment_id.clone()))
        .filter(|name| draft.environments.contains_key(name))
        .or_else(|| assembly.fusion_environment(input))
        .ok_or_else(|| {
            Refusal::of_transform(
                &transform.unique_name,
                "merges windows by a function of its own, but its windowing strategy names no environment to run that in",
            )
        })?;
    let coders = &mut assembly.draft.coders;
    let like = format!("{}/merge_windows", transform.id);
    let window = coders.wire_window(&strategy.window_coder_id.as_str().into());
    let windows = coders.make(coder::ITERABLE, b"", &[&window], &like);
    let merged = coders.make(coder::KV, b"", &[&window, &windows], &like);
    let merged = coders.make(coder::ITERABLE, b"", &[&merged], &like);
    let outcome = coders.make(coder::KV, b"", &[&windows, &merged], &like);
    let function = pb::FunctionSpec {
        urn: primitives::MERGE_WINDOWS.to_owned(),
        payload: strategy.window_fn.unwrap_or_default().encode_to_vec().into(),
    };
    let name = format!("{}/merge windows", transform.unique_name);
    Ok(ask(assembly, transform, (name, &like), function, environment, (windows, outcome)))
}

/// Adds the stage that maps windows of `main` to those of `side`, the side input `local` of `transform`, by its mapping
/// `function`.
pub(super) fn mapping(
    assembly: &mut Assembly<'_>,
    (transform, local): (&Transform, &str),
    function: &pb::FunctionSpec,
    (main, side): (&PCollectionName, &PCollectionName),
) -> Option<StageId> {
    let environment = transform.environment.clone()?;
    let draft = &mut *assembly.draft;
    let mut window = |pcollection| {
        let window = CoderName(draft.windowing_of(pcollection).1.window_coder_id.clone());
        draft.coders.wire_window(&window)
    };
    let windows = (window(main), window(side));
    let like = format!("{}/map_windows/{local}", transform.id);
    let function =
        pb::FunctionSpec { urn: primitives::MAP_WINDOWS.to_owned(), payload: function.encode_to_vec().into() };
    let name = format!("{}/map windows of {local}", transform.unique_name);
    Some(ask(assembly, transform, (name, &like), function, environment, windows))
}

/// Adds a stage on behalf of `transform` that answers `KV<nonce, question>` with `KV<nonce, answer>`. Its ids begin with
/// `like`.
fn ask(
    assembly: &mut Assembly<'_>,
    transform: &Transform,
    (name, like): (String, &str),
    function: pb::FunctionSpec,
    environment: EnvironmentName,
    (question, answer): (CoderName, CoderName),
) -> StageId {
    let draft = &mut *assembly.draft;
    let nonce = draft.coders.make(coder::BYTES, b"", &[], like);
    let global = draft.coders.make(coder::GLOBAL_WINDOW, b"", &[], like);
    let question = draft.coders.make(coder::KV, b"", &[&nonce, &question], like);
    let answer = draft.coders.make(coder::KV, b"", &[&nonce, &answer], like);

    let globally = WindowingName(format!("{like}/global"));
    let mut pcollection = |name: &str, coder_id: &str| {
        let id = PCollectionName(format!("{like}/{name}"));
        let proto = pb::PCollection {
            unique_name: id.0.clone(),
            coder_id: coder_id.to_owned(),
            is_bounded: pb::is_bounded::Enum::Bounded.into(),
            windowing_strategy_id: globally.0.clone(),
            display_data: Vec::new(),
        };
        draft.pcollections.insert(id.clone(), proto);
        id
    };
    let (asked, answered) = (pcollection("asked", &question.0), pcollection("answered", &answer.0));
    let merges_windows = function.urn == primitives::MERGE_WINDOWS;
    let transform = Transform {
        id: TransformName(like.to_owned()),
        unique_name: transform.unique_name.clone(),
        kind: Kind::Sdk,
        spec: function,
        inputs: BTreeMap::from([("i0".to_owned(), asked.clone())]),
        outputs: BTreeMap::from([("i0".to_owned(), answered.clone())]),
        environment: Some(environment.clone()),
        side_inputs: BTreeMap::new(),
        heads_stage: true,
        finalizes: false,
        stable_input: false,
        keyed: None,
    };

    let mut descriptor = DescriptorBuilder::new(like.to_owned(), draft, &environment);
    descriptor.transform(&transform);
    descriptor.windowing(&globally, global_windowing(&global.0, &environment));
    descriptor.pcollection(draft, &asked, None);
    descriptor.pcollection(draft, &answered, None);
    let source = descriptor.source(draft, &asked, (&question, &global));
    let sink = descriptor.sink(draft, &answered, (&answer, &global));
    let descriptor = descriptor.finish(draft);

    let windowing = Windowing::plain(WindowCoder::Global, Merging::None);
    let (question, answer) = (draft.coders.structure(&question), draft.coders.structure(&answer));
    let input = Port { transform: source, collection: assembly.add_collection(&asked, question, windowing.clone()) };
    let output = Port { transform: sink, collection: assembly.add_collection(&answered, answer, windowing) };
    let environment = assembly.environment_id(&environment);
    assembly.add_stage(Stage {
        name,
        environment,
        descriptor,
        input,
        outputs: vec![output],
        side_inputs: Vec::new(),
        transforms: vec![(transform.id.0, transform.unique_name)],
        splittable: false,
        unbounded: false,
        merges_windows,
        keyed: None,
        truncate: None,
        finalizes: false,
        stable_input: false,
    })
}

/// The global windows with all their defaults, as an SDK would write them.
pub(super) fn global_windowing(window_coder: &str, environment: &EnvironmentName) -> pb::WindowingStrategy {
    pb::WindowingStrategy {
        window_fn: Some(pb::FunctionSpec {
            urn: global_windows_payload::PROPERTIES.to_owned(),
            payload: Default::default(),
        }),
        merge_status: pb::merge_status::Enum::NonMerging.into(),
        window_coder_id: window_coder.to_owned(),
        trigger: Some(pb::Trigger { trigger: Some(pb::trigger::Trigger::Default(pb::trigger::Default {})) }),
        accumulation_mode: pb::accumulation_mode::Enum::Discarding.into(),
        output_time: pb::output_time::Enum::EndOfWindow.into(),
        closing_behavior: pb::closing_behavior::Enum::EmitIfNonempty.into(),
        allowed_lateness: 0,
        on_time_behavior: pb::on_time_behavior::Enum::FireIfNonempty.into(),
        assigns_to_one_window: true,
        environment_id: environment.0.clone(),
    }
}
