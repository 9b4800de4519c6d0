//! What a harness is told of a stage: a `ProcessBundleDescriptor` with what the stage needs and nothing else.
//!
//! Collections that come over a border, main and side inputs, have their wire coder here too, not only in the port:
//! harnesses encode residuals, keys of side inputs and window keys with the coders of the collection and its windowing
//! strategy. Collections that leave the stage keep the user's coder, and the port alone says how they travel.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ferrobeam_proto::fn_execution::{ProcessBundleDescriptor, RemoteGrpcPort};
use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::urns::standard_ptransforms::{
    combine_components, primitives, splittable_par_do_components as splittable,
};
use ferrobeam_proto::urns::{fn_api_transforms, standard_coders};
use prost::Message;

use super::draft::Draft;
use crate::pipeline::{CoderName, EnvironmentName, PCollectionName, Transform, WindowingName, coders_of_state};

/// A descriptor being put together.
pub(super) struct DescriptorBuilder {
    descriptor: ProcessBundleDescriptor,
    coders: BTreeSet<CoderName>,
}

impl DescriptorBuilder {
    pub(super) fn new(id: String, draft: &Draft, environment: &EnvironmentName) -> DescriptorBuilder {
        let mut descriptor = ProcessBundleDescriptor { id, ..Default::default() };
        if let Some(proto) = draft.environments.get(environment) {
            // A harness that runs has its files already, and they may be large.
            let proto = pb::Environment { dependencies: Vec::new(), display_data: Vec::new(), ..proto.clone() };
            descriptor.environments.insert(environment.0.clone(), proto);
        }
        DescriptorBuilder { descriptor, coders: BTreeSet::new() }
    }

    /// Adds a transform that the harness is to run.
    pub(super) fn transform(&mut self, transform: &Transform) {
        self.coders.extend(coders_of_payload(&transform.spec));
        let local_names = |ends: &BTreeMap<String, PCollectionName>| {
            ends.iter().map(|(local, id)| (local.clone(), id.0.clone())).collect()
        };
        self.descriptor.transforms.insert(
            transform.id.0.clone(),
            pb::PTransform {
                unique_name: transform.unique_name.clone(),
                spec: Some(transform.spec.clone()),
                inputs: local_names(&transform.inputs),
                outputs: local_names(&transform.outputs),
                environment_id: transform.environment.as_ref().map(|id| id.0.clone()).unwrap_or_default(),
                ..Default::default()
            },
        );
    }

    /// Adds a collection, in its own coder or in the one given.
    pub(super) fn pcollection(&mut self, draft: &mut Draft, id: &PCollectionName, coder: Option<&CoderName>) {
        let Some(mut proto) = draft.pcollections.get(id).cloned() else { return };
        proto.display_data.clear();
        proto.coder_id = match coder {
            Some(coder) => coder.0.clone(),
            None => draft.coders.inside(&CoderName(proto.coder_id)).0,
        };
        self.coders.insert(CoderName(proto.coder_id.clone()));
        let windowing = WindowingName(proto.windowing_strategy_id.clone());
        if let Some(strategy) = draft.windowings.get(&windowing)
            && !self.descriptor.windowing_strategies.contains_key(&windowing.0)
        {
            let mut strategy = strategy.clone();
            let window = draft.coders.wire_window(&CoderName(strategy.window_coder_id));
            strategy.window_coder_id = window.0.clone();
            self.coders.insert(window);
            self.descriptor.windowing_strategies.insert(windowing.0, strategy);
        }
        self.descriptor.pcollections.insert(id.0.clone(), proto);
    }

    /// Adds a windowing strategy that no pipeline has, as it is.
    pub(super) fn windowing(&mut self, id: &WindowingName, strategy: pb::WindowingStrategy) {
        self.coders.insert(CoderName(strategy.window_coder_id.clone()));
        self.descriptor.windowing_strategies.insert(id.0.clone(), strategy);
    }

    /// Adds the transform that reads `pcollection` from the data channel; returns its id.
    pub(super) fn source(
        &mut self,
        draft: &mut Draft,
        pcollection: &PCollectionName,
        coders: (&CoderName, &CoderName),
    ) -> String {
        self.port(draft, fn_api_transforms::DATA_SOURCE, "source", pcollection, coders)
    }

    /// Adds the transform that writes `pcollection` to the data channel; returns its id.
    pub(super) fn sink(
        &mut self,
        draft: &mut Draft,
        pcollection: &PCollectionName,
        coders: (&CoderName, &CoderName),
    ) -> String {
        self.port(draft, fn_api_transforms::DATA_SINK, "sink", pcollection, coders)
    }

    fn port(
        &mut self,
        draft: &mut Draft,
        urn: &str,
        what: &str,
        pcollection: &PCollectionName,
        (value, window): (&CoderName, &CoderName),
    ) -> String {
        let coder = draft.coders.make(standard_coders::WINDOWED_VALUE, b"", &[value, window], &value.0);
        let port = RemoteGrpcPort { coder_id: coder.0.clone(), ..Default::default() };
        self.coders.insert(coder);
        let mut id = format!("{what}:{pcollection}");
        while self.descriptor.transforms.contains_key(&id) {
            id.push('\'');
        }
        let end = BTreeMap::from([("i0".to_owned(), pcollection.0.clone())]);
        let (inputs, outputs) =
            if urn == fn_api_transforms::DATA_SOURCE { (BTreeMap::new(), end) } else { (end, BTreeMap::new()) };
        self.descriptor.transforms.insert(
            id.clone(),
            pb::PTransform {
                unique_name: id.clone(),
                spec: Some(pb::FunctionSpec { urn: urn.to_owned(), payload: port.encode_to_vec().into() }),
                inputs,
                outputs,
                ..Default::default()
            },
        );
        id
    }

    pub(super) fn finish(mut self, draft: &Draft) -> Bytes {
        self.descriptor.coders = draft.coders.closure(&self.coders);
        self.descriptor.encode_to_vec().into()
    }
}

/// The coders that a payload names.
fn coders_of_payload(spec: &pb::FunctionSpec) -> Vec<CoderName> {
    let named = match spec.urn.as_str() {
        primitives::PAR_DO
        | splittable::PAIR_WITH_RESTRICTION
        | splittable::SPLIT_AND_SIZE_RESTRICTIONS
        | splittable::PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS
        | splittable::TRUNCATE_SIZED_RESTRICTION => {
            pb::ParDoPayload::decode(spec.payload.clone()).map(coders_of_par_do).unwrap_or_default()
        }
        combine_components::COMBINE_PER_KEY_PRECOMBINE
        | combine_components::COMBINE_PER_KEY_MERGE_ACCUMULATORS
        | combine_components::COMBINE_PER_KEY_EXTRACT_OUTPUTS
        | combine_components::COMBINE_PER_KEY_CONVERT_TO_ACCUMULATORS
        | combine_components::COMBINE_GROUPED_VALUES => pb::CombinePayload::decode(spec.payload.clone())
            .map(|payload| vec![payload.accumulator_coder_id])
            .unwrap_or_default(),
        _ => Vec::new(),
    };
    named.into_iter().filter(|id| !id.is_empty()).map(CoderName).collect()
}

fn coders_of_par_do(payload: pb::ParDoPayload) -> Vec<String> {
    let states = payload.state_specs.values().filter_map(|state| state.spec.as_ref()).flat_map(coders_of_state);
    let mut named: Vec<String> = states.map(str::to_owned).collect();
    named.extend(payload.timer_family_specs.into_values().map(|family| family.timer_family_coder_id));
    named.push(payload.restriction_coder_id);
    named
}
