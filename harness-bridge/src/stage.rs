//! A stage of the plan made ready for harnesses: its descriptor with our endpoints in it, its ports by name.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use bytes::Bytes;
use ferrobeam_proto::fn_execution::process_bundle_request::{CacheToken, cache_token};
use ferrobeam_proto::fn_execution::{ProcessBundleDescriptor, RemoteGrpcPort};
use ferrobeam_proto::pipeline::ApiServiceDescriptor;
use ferrobeam_proto::urns::fn_api_transforms::{DATA_SINK, DATA_SOURCE};
use ferrobeam_runner::element::ElementCoder;
use ferrobeam_runner::plan::{self, Collection, EnvironmentId, StageId};
use prost::Message;

use crate::error::BridgeError;

/// A stage that harnesses can be asked to run.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) id: StageId,
    pub(crate) name: String,
    pub(crate) environment: EnvironmentId,
    /// Names the descriptor to harnesses. Unique to this bridge, because a harness process may outlive a job and some
    /// keep descriptors by id.
    pub(crate) descriptor_id: String,
    pub(crate) descriptor: ProcessBundleDescriptor,
    /// The data source transform.
    pub(crate) input: String,
    /// How its elements are encoded, if the plan has the collection.
    pub(crate) input_coder: Option<ElementCoder>,
    /// The data sink transforms, in the order of the stage's outputs.
    pub(crate) outputs: Vec<String>,
    output_ports: HashMap<String, usize>,
    /// The timer families, in the order of the plan's stage.
    pub(crate) timers: Vec<TimerPort>,
    /// A token for each side input, with its index in the plan's stage: for as long as it does not change.
    side_input_tokens: Vec<(usize, CacheToken)>,
    /// Its transforms keep state by key, which a harness may cache.
    pub(crate) keeps_state: bool,
    /// For multimaps whose values only the SDK can count, by transform and name, the stage that does.
    counted_by: HashMap<(String, String), StageId>,
    /// The transforms that take the stage's input: the ones whose work can be handed back.
    heads: BTreeSet<String>,
    transform_names: HashMap<String, String>,
}

/// A stream of timers, each way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TimerPort {
    /// The transform that has the family.
    pub(crate) transform: String,
    /// The family's id.
    pub(crate) family: String,
}

impl fmt::Display for TimerPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.family, self.transform)
    }
}

impl Stage {
    /// Reads a stage of the plan. `generation` makes the ids and tokens of this bridge unlike those of any other.
    pub(crate) fn prepare(
        id: StageId,
        stage: &plan::Stage,
        collections: &[Collection],
        generation: &str,
        endpoint: &ApiServiceDescriptor,
    ) -> Result<Stage, BridgeError> {
        let error = |message: String| BridgeError::Stage { stage: stage.name.clone(), message };
        let mut descriptor = ProcessBundleDescriptor::decode(stage.descriptor.clone())
            .map_err(|problem| error(format!("its bundle descriptor cannot be read: {problem}")))?;
        let descriptor_id = format!("{generation}-{}", id.0);
        descriptor.id = descriptor_id.clone();
        descriptor.state_api_service_descriptor = Some(endpoint.clone());
        for (transform_id, transform) in &mut descriptor.transforms {
            let Some(spec) = transform.spec.as_mut() else { continue };
            if spec.urn != DATA_SOURCE && spec.urn != DATA_SINK {
                continue;
            }
            let mut port = RemoteGrpcPort::decode(spec.payload.clone())
                .map_err(|problem| error(format!("the port {transform_id} cannot be read: {problem}")))?;
            port.api_service_descriptor = Some(endpoint.clone());
            spec.payload = Bytes::from(port.encode_to_vec());
        }
        for port in std::iter::once(&stage.input).chain(&stage.outputs) {
            if !descriptor.transforms.contains_key(&port.transform) {
                return Err(error(format!("its bundle descriptor has no transform {} for a port", port.transform)));
            }
        }
        let timers: Vec<TimerPort> = (stage.keyed.iter().flat_map(|keyed| &keyed.timers))
            .map(|timer| TimerPort { transform: timer.transform.clone(), family: timer.family.clone() })
            .collect();
        if let Some(timer) = timers.iter().find(|timer| !descriptor.transforms.contains_key(&timer.transform)) {
            return Err(error(format!("its bundle descriptor has no transform for the timers {timer}")));
        }
        // The very service of the data ports: harnesses put timers and data of one service on one stream, in order.
        descriptor.timer_api_service_descriptor = (!timers.is_empty()).then(|| endpoint.clone());
        let outputs: Vec<String> = stage.outputs.iter().map(|port| port.transform.clone()).collect();
        let source = descriptor.transforms.get(&stage.input.transform);
        let input: BTreeSet<&String> = source.iter().flat_map(|source| source.outputs.values()).collect();
        let heads = (descriptor.transforms.iter())
            .filter(|(_, transform)| transform.inputs.values().any(|collection| input.contains(collection)))
            .map(|(id, _)| id.clone())
            .collect();
        Ok(Stage {
            id,
            name: stage.name.clone(),
            environment: stage.environment,
            descriptor,
            input: stage.input.transform.clone(),
            input_coder: collections.get(stage.input.collection.0 as usize).map(|collection| {
                ElementCoder::new(collection.value.clone(), collection.windowing.window_coder.clone())
            }),
            output_ports: outputs.iter().cloned().zip(0..).collect(),
            outputs,
            timers,
            keeps_state: stage.keyed.as_ref().is_some_and(|keyed| !keyed.states.is_empty()),
            counted_by: (stage.keyed.iter().flat_map(|keyed| &keyed.states))
                .filter_map(|cell| Some(((cell.transform.clone(), cell.state.clone()), cell.entries?)))
                .collect(),
            heads,
            side_input_tokens: side_input_tokens(stage, &descriptor_id),
            transform_names: stage.transforms.iter().cloned().collect(),
            descriptor_id,
        })
    }

    /// The position among the stage's outputs of a data sink.
    pub(crate) fn output(&self, transform: &str) -> Option<usize> {
        self.output_ports.get(transform).copied()
    }

    /// The position of a timer family among the stage's.
    pub(crate) fn timer(&self, transform: &str, family: &str) -> Option<usize> {
        self.timers.iter().position(|timer| timer.transform == transform && timer.family == family)
    }

    /// True of a transform that takes the stage's input.
    pub(crate) fn is_head(&self, transform: &str) -> bool {
        self.heads.contains(transform)
    }

    /// The stage that counts the values of a multimap, if that is not for the runner to do.
    pub(crate) fn counted_by(&self, transform: &str, state: &str) -> Option<StageId> {
        if self.counted_by.is_empty() {
            return None;
        }
        self.counted_by.get(&(transform.to_owned(), state.to_owned())).copied()
    }

    /// The cache tokens of a bundle whose user state may be cached under `state`, and which reads these `versions` of its
    /// side inputs ([`ferrobeam_runner::executor::StateServer::side_input_versions`]).
    pub(crate) fn cache_tokens(&self, state: Option<u64>, versions: &[u64]) -> Vec<CacheToken> {
        let side_inputs = self.side_input_tokens.iter().map(|(index, token)| {
            let mut token = token.clone();
            if let Some(version) = versions.get(*index).filter(|version| **version > 0) {
                token.token = format!("{}-{version}", self.descriptor_id).into();
            }
            token
        });
        let state = state.map(|token| CacheToken {
            token: format!("{}-state-{token}", self.descriptor_id).into(),
            r#type: Some(cache_token::Type::UserState(cache_token::UserState {})),
        });
        side_inputs.chain(state).collect()
    }

    /// The user's name for a transform of the descriptor.
    pub(crate) fn transform_name(&self, transform: &str) -> Option<&str> {
        self.transform_names.get(transform).map(String::as_str)
    }
}

fn side_input_tokens(stage: &plan::Stage, token: &str) -> Vec<(usize, CacheToken)> {
    let mut named = BTreeSet::new();
    let side_inputs = stage.side_inputs.iter().enumerate();
    side_inputs
        .filter(|(_, side)| named.insert((side.transform.as_str(), side.local_name.as_str())))
        .map(|(index, side)| {
            let side_input =
                cache_token::SideInput { transform_id: side.transform.clone(), side_input_id: side.local_name.clone() };
            let token = Bytes::copy_from_slice(token.as_bytes());
            (index, CacheToken { token, r#type: Some(cache_token::Type::SideInput(side_input)) })
        })
        .collect()
}
