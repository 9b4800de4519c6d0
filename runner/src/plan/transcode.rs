//! Where the runner hands bytes from one collection to another, both must have one coder.
//!
//! SDKs promise only that the elements fit, not that the coders do: a Flatten may join a collection of pickled values
//! with one of varints. Where coders differ, an SDK-side flatten of one input is put before: it decodes with the one
//! coder and encodes with the other, and fuses with whatever gives the elements.

use std::collections::{BTreeMap, BTreeSet};

use ferrobeam_proto::urns::standard_coders as coder;
use ferrobeam_proto::urns::standard_ptransforms::primitives;

use super::draft::Draft;
use crate::pipeline::{CoderName, EnvironmentName, Kind, PCollectionName, Refusal, Transform};

pub(super) fn insert(draft: &mut Draft) -> Result<(), Refusal> {
    let neighbours = Neighbours::of(&draft.transforms);
    draft.rewrite(|draft, mut transform| {
        let Some(output) = transform.output().cloned() else { return Ok(vec![transform]) };
        let (wanted, keeps_windows) = match transform.kind {
            Kind::Flatten | Kind::Redistribute { .. } => (draft.coder_of(&output), true),
            Kind::GroupByKey => match ungrouped(draft, &transform, &output) {
                Some(wanted) => (wanted, false),
                None => return Ok(vec![transform]),
            },
            // They take nothing, or an SDK decodes what they take.
            Kind::Impulse
            | Kind::TestStream { .. }
            | Kind::KafkaRead(_)
            | Kind::KafkaWrite(_)
            | Kind::CombinePerKey { .. }
            | Kind::Splittable { .. }
            | Kind::Sdk => return Ok(vec![transform]),
        };
        let form = draft.coders.form(&wanted);
        let mut result = Vec::new();
        let mut done: BTreeMap<PCollectionName, PCollectionName> = BTreeMap::new();
        for (local, input) in transform.inputs.clone() {
            if keeps_windows {
                same_windows(draft, &transform, &input, &output)?;
            }
            let coder = draft.coder_of(&input);
            if draft.coders.form(&coder) == form {
                continue;
            }
            // An input named twice is converted once, and still counts twice.
            if let Some(converted) = done.get(&input) {
                transform.inputs.insert(local, converted.clone());
                continue;
            }
            let environment = transform
                .environment
                .clone()
                .filter(|name| draft.environments.contains_key(name))
                .or_else(|| neighbours.environment_near(&input, &output))
                .ok_or_else(|| {
                    Refusal::of_transform(
                        &transform.unique_name,
                        "has inputs and outputs of different coders, and no environment that could convert them",
                    )
                })?;
            let converted = draft.new_pcollection(&input, &format!("{}/{local}", transform.id), &wanted);
            result.push(converter(draft, &transform, &local, &input, &converted, &environment));
            done.insert(input, converted.clone());
            transform.inputs.insert(local, converted);
        }
        result.push(transform);
        Ok(result)
    })
}

/// An SDK-side flatten of `from` to `to`, for an end `local` of a transform that the runner runs.
pub(super) fn converter(
    draft: &mut Draft,
    transform: &Transform,
    local: &str,
    from: &PCollectionName,
    to: &PCollectionName,
    environment: &EnvironmentName,
) -> Transform {
    let mut convert = transform.clone();
    convert.id = draft.new_id(&transform.id, &format!("convert/{local}"));
    convert.kind = Kind::Sdk;
    convert.spec.urn = primitives::FLATTEN.to_owned();
    convert.spec.payload.clear();
    convert.inputs = BTreeMap::from([("i0".to_owned(), from.clone())]);
    convert.outputs = BTreeMap::from([("i0".to_owned(), to.clone())]);
    convert.environment = Some(environment.clone());
    convert
}

/// What a grouping's input would have to be encoded with for its output's coder to read it, if the two do not agree on
/// where keys and values end. Otherwise each side keeps its own coder, which it knows to fit: SDKs derive the two
/// separately, and a key's coder may be a deterministic one on the one side only.
fn ungrouped(draft: &mut Draft, transform: &Transform, output: &PCollectionName) -> Option<CoderName> {
    let (_, input) = transform.main_input()?;
    let (input, output) = (draft.coder_of(input), draft.coder_of(output));
    let key = draft.coders.component(&output, 0)?;
    let value = draft.coders.component(&draft.coders.component(&output, 1)?, 0)?;
    let wanted = draft.coders.make(coder::KV, b"", &[&key, &value], &output.0);
    let (is, should) = (draft.coders.wire(&input), draft.coders.wire(&wanted));
    (draft.coders.structure(&is) != draft.coders.structure(&should)).then_some(wanted)
}

/// The runner hands on windows as bytes too, and nothing could convert those.
fn same_windows(
    draft: &mut Draft,
    transform: &Transform,
    input: &PCollectionName,
    output: &PCollectionName,
) -> Result<(), Refusal> {
    let window = |pcollection| CoderName(draft.windowing_of(pcollection).1.window_coder_id.clone());
    let (input, output) = (window(input), window(output));
    if draft.coders.form(&input) == draft.coders.form(&output) {
        return Ok(());
    }
    Err(Refusal::of_transform(
        &transform.unique_name,
        format!("joins collections of different windows: one has the window coder \"{input}\", the other \"{output}\""),
    ))
}

/// Who gives and who reads each collection, before anything was inserted.
pub(super) struct Neighbours {
    /// For each PCollection its giver's environment, or if the runner gives it, what that reads.
    upstream: BTreeMap<PCollectionName, Result<EnvironmentName, Vec<PCollectionName>>>,
    downstream: BTreeMap<PCollectionName, Vec<Result<EnvironmentName, Vec<PCollectionName>>>>,
}

impl Neighbours {
    pub(super) fn of(transforms: &[Transform]) -> Neighbours {
        let mut neighbours = Neighbours { upstream: BTreeMap::new(), downstream: BTreeMap::new() };
        for transform in transforms {
            let sdk = transform.environment.clone().filter(|_| transform.is_sdk());
            for output in transform.outputs.values() {
                let from = sdk.clone().ok_or_else(|| transform.inputs.values().cloned().collect());
                neighbours.upstream.insert(output.clone(), from);
            }
            for input in transform.inputs.values() {
                let to = sdk.clone().ok_or_else(|| transform.outputs.values().cloned().collect());
                neighbours.downstream.entry(input.clone()).or_default().push(to);
            }
        }
        neighbours
    }

    pub(super) fn is_read(&self, pcollection: &PCollectionName) -> bool {
        self.downstream.contains_key(pcollection)
    }

    /// The environment of the SDK transform nearest upstream of `input`, or else downstream of `output`.
    pub(super) fn environment_near(
        &self,
        input: &PCollectionName,
        output: &PCollectionName,
    ) -> Option<EnvironmentName> {
        nearest(input, |id| self.upstream.get(id).into_iter())
            .or_else(|| nearest(output, |id| self.downstream.get(id).into_iter().flatten()))
    }
}

fn nearest<'a, I>(start: &'a PCollectionName, next: impl Fn(&'a PCollectionName) -> I) -> Option<EnvironmentName>
where
    I: Iterator<Item = &'a Result<EnvironmentName, Vec<PCollectionName>>>,
{
    let mut seen = BTreeSet::from([start]);
    let mut todo = std::collections::VecDeque::from([start]);
    while let Some(id) = todo.pop_front() {
        for step in next(id) {
            match step {
                Ok(environment) => return Some(environment.clone()),
                Err(further) => todo.extend(further.iter().filter(|id| seen.insert(id))),
            }
        }
    }
    None
}
