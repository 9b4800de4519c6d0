//! The checks that need the whole pipeline, and the order of all checks.

use std::collections::{BTreeMap, BTreeSet};

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::urns::{standard_environments, standard_protocols, standard_requirements as requirement};
use prost::Message;

use super::coders::{CoderCheck, is_walkable};
use super::refusal::{Findings, Refusal};
use super::{
    CoderName, EnvironmentName, Kind, PCollectionName, Pipeline, Transform, WindowingName, needs, resolve,
    topological_order, window,
};
use crate::plan::StateKind;

/// Requirements that are met.
const REQUIREMENTS: &[&str] = &[
    requirement::REQUIRES_STATEFUL_PROCESSING,
    requirement::REQUIRES_BUNDLE_FINALIZATION,
    requirement::REQUIRES_STABLE_INPUT,
    requirement::REQUIRES_TIME_SORTED_INPUT,
    requirement::REQUIRES_SPLITTABLE_DOFN,
    requirement::REQUIRES_ON_WINDOW_EXPIRATION,
];

pub(super) fn validate(proto: pb::Pipeline) -> Result<Pipeline, Refusal> {
    let mut findings = Findings::default();
    for requirement in &proto.requirements {
        if !REQUIREMENTS.contains(&requirement.as_str()) {
            findings.pipeline(format!("the pipeline requires {requirement}, which is unknown here"));
        }
    }
    let none = pb::Components::default();
    let components = proto.components.as_ref().unwrap_or(&none);
    let found = resolve::leaves(&proto, components, &mut findings);
    let mut transforms: Vec<Transform> =
        found.leaves.iter().map(|(id, leaf)| needs::leaf(id, leaf, components, &mut findings)).collect();
    let originals = originals(&found.aliases);
    for input in transforms.iter_mut().flat_map(|transform| transform.inputs.values_mut()) {
        if let Some(original) = originals.get(input.0.as_str()) {
            *input = PCollectionName::from(*original);
        }
    }
    references(&transforms, components, &mut findings);
    findings.conclude()?;

    let mut findings = Findings::default();
    edges(&transforms, &mut findings);
    findings.conclude()?;

    let order = topological_order(&transforms).map_err(|stuck| {
        let mut findings = Findings::default();
        for index in stuck {
            findings.transform(&transforms[index].unique_name, "is on a cycle or waits for one: the graph is cyclic");
        }
        findings.conclude().err().unwrap_or_else(|| Refusal::of_pipeline("the graph is cyclic"))
    })?;
    let mut unordered: Vec<Option<Transform>> = transforms.into_iter().map(Some).collect();
    let transforms = order.into_iter().filter_map(|index| unordered[index].take()).collect();

    let components = proto.components.unwrap_or_default();
    Ok(Pipeline {
        transforms,
        pcollections: components.pcollections.into_iter().map(|(id, it)| (PCollectionName(id), it)).collect(),
        coders: components.coders.into_iter().map(|(id, it)| (CoderName(id), it)).collect(),
        windowings: components.windowing_strategies.into_iter().map(|(id, it)| (WindowingName(id), it)).collect(),
        environments: components.environments.into_iter().map(|(id, it)| (EnvironmentName(id), it)).collect(),
    })
}

/// The PCollection that each alias stands for in the end. A loop of aliases leads nowhere and is left for [`edges`] to
/// report as unproduced.
fn originals<'a>(aliases: &BTreeMap<&'a str, &'a str>) -> BTreeMap<&'a str, &'a str> {
    let mut originals = BTreeMap::new();
    for alias in aliases.keys() {
        let (mut path, mut at) = (BTreeSet::new(), *alias);
        // To where an earlier path went through, so that each alias is passed once.
        let original = loop {
            match (originals.get(at), aliases.get(at)) {
                (Some(known), _) => break *known,
                (None, Some(next)) if path.insert(at) => at = next,
                (None, _) => break at,
            }
        };
        originals.extend(path.into_iter().map(|alias| (alias, original)));
    }
    originals
}

/// That everything named is there and sound.
fn references(transforms: &[Transform], components: &pb::Components, findings: &mut Findings) {
    let mut coders = CoderCheck::new(&components.coders);
    let mut pcollections: BTreeSet<&str> = BTreeSet::new();
    let mut windowings: BTreeSet<&str> = BTreeSet::new();
    let mut environments: BTreeSet<&str> = BTreeSet::new();
    for transform in transforms {
        let name = transform.unique_name.as_str();
        if let Some(environment) = &transform.environment
            && environments.insert(&environment.0)
        {
            match components.environments.get(&environment.0) {
                Some(proto) => check_environment(&environment.0, proto, findings),
                None => findings.transform(
                    name,
                    format!("runs in environment \"{environment}\", which the pipeline does not contain"),
                ),
            }
        }
        let payload_coder = match &transform.kind {
            Kind::CombinePerKey { accumulator } => Some(accumulator),
            Kind::Splittable { restriction } => Some(restriction),
            Kind::TestStream { coder, .. } => Some(coder),
            Kind::Impulse
            | Kind::Flatten
            | Kind::GroupByKey
            | Kind::Redistribute { .. }
            | Kind::KafkaRead(_)
            | Kind::KafkaWrite(_)
            | Kind::Sdk => None,
        };
        if let Some(coder) = payload_coder {
            coders.check(&coder.0, &format!("transform \"{name}\""), findings);
        }
        for state in transform.keyed.iter().flat_map(|keyed| &keyed.states) {
            let user = format!("state \"{}\" of transform \"{name}\"", state.name);
            let mut sound = true;
            for coder in &state.coders {
                sound &= coders.check(&coder.0, &user, findings);
            }
            let environment = transform.environment.as_ref().and_then(|id| components.environments.get(&id.0));
            if let Some(value) = state.value.as_ref().filter(|_| sound && state.kind == StateKind::OrderedList)
                && environment.is_some_and(|environment| !puts_lengths(environment))
                && !is_walkable(&components.coders, &value.0)
            {
                findings.transform(
                    name,
                    format!(
                        "keeps the ordered list \"{}\", of whose values nobody can tell where one ends: their coder \
                         \"{value}\" is unknown here, and the environment does not say that it puts lengths before them \
                         ({})",
                        state.name,
                        standard_protocols::ORDERED_LIST_STATE
                    ),
                );
            }
        }
        for id in transform.inputs.values().chain(transform.outputs.values()) {
            let Some(pcollection) = components.pcollections.get(&id.0) else {
                findings.transform(name, format!("names PCollection \"{id}\", which the pipeline does not contain"));
                continue;
            };
            if !pcollections.insert(&id.0) {
                continue;
            }
            coders.check(&pcollection.coder_id, &format!("PCollection \"{id}\""), findings);
            let windowing = pcollection.windowing_strategy_id.as_str();
            if !windowings.insert(windowing) {
                continue;
            }
            let Some(strategy) = components.windowing_strategies.get(windowing) else {
                findings.pipeline(format!(
                    "PCollection \"{id}\" names windowing strategy \"{windowing}\", which the pipeline does not contain"
                ));
                continue;
            };
            window::check(windowing, strategy, findings);
            coders.check(&strategy.window_coder_id, &format!("windowing strategy \"{windowing}\""), findings);
        }
    }
}

/// Whether an SDK puts its length before each value of an ordered list, as the protocol has it. Go's, which does not say
/// that it knows the protocol, writes the value just as its coder does.
pub(crate) fn puts_lengths(environment: &pb::Environment) -> bool {
    environment.capabilities.iter().any(|capability| capability == standard_protocols::ORDERED_LIST_STATE)
}

/// That each collection has one producer, and each input a producer.
fn edges(transforms: &[Transform], findings: &mut Findings) {
    let mut producers: BTreeMap<&PCollectionName, &str> = BTreeMap::new();
    for transform in transforms {
        for output in transform.outputs.values() {
            if let Some(other) = producers.insert(output, &transform.unique_name) {
                findings.transform(
                    &transform.unique_name,
                    format!("gives PCollection \"{output}\", which transform \"{other}\" gives too"),
                );
            }
        }
    }
    for transform in transforms {
        for input in transform.inputs.values().filter(|input| !producers.contains_key(*input)) {
            findings.transform(&transform.unique_name, format!("reads PCollection \"{input}\", which nothing gives"));
        }
    }
}

/// That the environment is of a kind that can be started, and that its payload says how.
fn check_environment(id: &str, environment: &pb::Environment, findings: &mut Findings) {
    if let Err(fault) = startable(environment, true) {
        findings.pipeline(format!("environment \"{id}\" {fault}"));
    }
}

/// As whoever starts it reads it: what only that can see, such as what runs on a machine, is left.
fn startable(environment: &pb::Environment, outermost: bool) -> Result<(), String> {
    use standard_environments as kind;
    let payload = environment.payload.clone();
    let unreadable = |error: prost::DecodeError| format!("has a payload that cannot be read: {error}");
    let need = |there: bool, fault: &str| if there { Ok(()) } else { Err(fault.to_owned()) };
    match environment.urn.as_str() {
        kind::DOCKER => {
            let image = pb::DockerPayload::decode(payload).map_err(unreadable)?.container_image;
            need(!image.is_empty(), "is DOCKER but names no container image")
        }
        kind::PROCESS => {
            let command = pb::ProcessPayload::decode(payload).map_err(unreadable)?.command;
            need(
                !command.is_empty(),
                "is PROCESS but names no command: set --environment_options=process_command=COMMAND",
            )
        }
        kind::EXTERNAL => {
            let endpoint = pb::ExternalPayload::decode(payload).map_err(unreadable)?.endpoint.unwrap_or_default();
            need(
                endpoint.authentication.is_none(),
                "has a worker pool that asks for authentication, which is not supported",
            )?;
            need(
                !endpoint.url.is_empty(),
                "is EXTERNAL but names no worker pool: set --environment_config to its host:port",
            )
        }
        // The default for all may itself offer a choice; a choice offers neither.
        kind::DEFAULT if outermost => Ok(()),
        kind::ANYOF if outermost => {
            let choices = pb::AnyOfEnvironmentPayload::decode(payload).map_err(unreadable)?.environments;
            let mut last = Err("offers no environment to choose from".to_owned());
            for choice in &choices {
                last = startable(choice, false);
                if last.is_ok() {
                    break;
                }
            }
            last
        }
        urn => Err(format!("is of a kind unknown here ({urn})")),
    }
}
