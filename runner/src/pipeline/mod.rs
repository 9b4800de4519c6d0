//! A typed, validated view of a submitted pipeline.
//!
//! [`Pipeline::new`] takes the submission apart into its leaves, the transforms that are run, and checks everything that
//! can be known before the first element: that ids resolve, that the graph has no cycle, that every collection has one
//! producer, that coders and window functions make sense, and that nothing is asked for that this runner lacks. What
//! comes out needs no further checks: the planner relies on it.
//!
//! A submission is input from outside. Nothing here recurses over what a client can nest without bound, and coders are
//! limited in depth and in size once written out, because the planner and the data plane do walk those recursively.
//!
//! Refusals are gathered, not returned at the first: a user who has to change a pipeline wants the whole list. Only a
//! fault that makes the following checks meaningless ends the search early.

// A new kind of anything must not fall into an arm that was written before it.
#![warn(clippy::wildcard_enum_match_arm)]

mod check;
mod coders;
mod graph;
mod id;
mod keyed;
mod needs;
mod refusal;
mod resolve;
mod trigger;
mod window;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use ferrobeam_proto::pipeline as pb;

use crate::kafka::{KafkaRead, KafkaWrite};
use crate::model::{Access, StateKind, TimeDomain};

pub(crate) use check::puts_lengths;
pub(crate) use coders::{KNOWN_CODERS, REQUIRED_CODERS};
pub(crate) use graph::topological_order;
pub use id::{CoderName, EnvironmentName, PCollectionName, TransformName, WindowingName};
pub(crate) use keyed::coders_of_state;
pub use refusal::Refusal;
pub(crate) use trigger::trigger;
pub(crate) use window::windowing;

/// A pipeline that this runner can run.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The leaves, producers before consumers.
    pub(crate) transforms: Vec<Transform>,
    pub(crate) pcollections: BTreeMap<PCollectionName, pb::PCollection>,
    pub(crate) coders: BTreeMap<CoderName, pb::Coder>,
    pub(crate) windowings: BTreeMap<WindowingName, pb::WindowingStrategy>,
    pub(crate) environments: BTreeMap<EnvironmentName, pb::Environment>,
}

/// A leaf: something that is run, by the runner or by an SDK harness.
#[derive(Clone, Debug)]
pub(crate) struct Transform {
    /// Its id in the pipeline; in a bundle descriptor too.
    pub(crate) id: TransformName,
    /// The name that users know it by.
    pub(crate) unique_name: String,
    pub(crate) kind: Kind,
    pub(crate) spec: pb::FunctionSpec,
    /// Everything it reads, by local name; side inputs too.
    pub(crate) inputs: BTreeMap<String, PCollectionName>,
    pub(crate) outputs: BTreeMap<String, PCollectionName>,
    /// Where it runs; always known for [`Kind::Sdk`], [`Kind::Splittable`] and [`Kind::CombinePerKey`].
    pub(crate) environment: Option<EnvironmentName>,
    /// How it reads which of its inputs as side inputs.
    pub(crate) side_inputs: BTreeMap<String, Access>,
    /// It must be the head of a stage, because its input has to be stable over retries or is split there.
    pub(crate) heads_stage: bool,
    /// It must not see an element before that is durable.
    pub(crate) stable_input: bool,
    /// It asks to be told when its bundles are durable.
    pub(crate) finalizes: bool,
    /// What it keeps by key, if it does: it heads a stage and nothing else reads there.
    pub(crate) keyed: Option<KeyedParDo>,
}

/// What a ParDo keeps by key and window.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyedParDo {
    pub(crate) states: Vec<StateSpec>,
    pub(crate) timers: Vec<TimerSpec>,
    pub(crate) time_sorted: bool,
}

/// A cell of state as a payload declares it.
#[derive(Clone, Debug)]
pub(crate) struct StateSpec {
    pub(crate) name: String,
    pub(crate) kind: StateKind,
    /// The coder of its values, where the payload names one.
    pub(crate) value: Option<CoderName>,
    /// All coders that the payload names for it.
    pub(crate) coders: Vec<CoderName>,
    /// At most one value for each key of the multimap.
    pub(crate) single_valued: bool,
}

/// A timer family as a payload declares it.
#[derive(Clone, Debug)]
pub(crate) struct TimerSpec {
    pub(crate) family: String,
    pub(crate) domain: TimeDomain,
    pub(crate) on_window_expiration: bool,
}

/// What kind of leaf a transform is, for planning.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Impulse,
    Flatten,
    /// Its elements are in this coder, after the source has put a length prefix before them where they need one.
    TestStream {
        coder: CoderName,
        prefix: bool,
    },
    GroupByKey,
    Redistribute {
        by_key: bool,
    },
    /// Still whole; the planner takes it apart.
    CombinePerKey {
        accumulator: CoderName,
    },
    /// A splittable DoFn, still whole; the planner takes it apart.
    Splittable {
        restriction: CoderName,
    },
    /// A Kafka source of the runner's own.
    KafkaRead(Box<KafkaRead>),
    /// A Kafka sink of the runner's own.
    KafkaWrite(Box<KafkaWrite>),
    /// Anything that an SDK runs by itself, one element after the other.
    Sdk,
}

impl Transform {
    /// The inputs that are not side inputs, by local name.
    pub(crate) fn main_inputs(&self) -> impl Iterator<Item = (&String, &PCollectionName)> {
        self.inputs.iter().filter(|(local, _)| !self.side_inputs.contains_key(*local))
    }

    /// The only main input. Validation made sure of it for all kinds but impulse and flatten.
    pub(crate) fn main_input(&self) -> Option<(&String, &PCollectionName)> {
        self.main_inputs().next()
    }

    /// The output that runner-side transforms have exactly one of.
    pub(crate) fn output(&self) -> Option<&PCollectionName> {
        self.outputs.values().next()
    }

    /// True if an SDK harness runs it.
    pub(crate) fn is_sdk(&self) -> bool {
        match self.kind {
            Kind::Sdk | Kind::Splittable { .. } | Kind::CombinePerKey { .. } => true,
            Kind::Impulse
            | Kind::Flatten
            | Kind::TestStream { .. }
            | Kind::GroupByKey
            | Kind::Redistribute { .. }
            | Kind::KafkaRead(_)
            | Kind::KafkaWrite(_) => false,
        }
    }
}

impl Pipeline {
    /// Validates a submitted pipeline.
    pub fn new(proto: pb::Pipeline) -> Result<Pipeline, Refusal> {
        check::validate(proto)
    }

    /// The unique names of the transforms that will run, producers before consumers.
    pub fn transform_names(&self) -> impl Iterator<Item = &str> {
        self.transforms.iter().map(|transform| transform.unique_name.as_str())
    }

    /// The pipeline's environments.
    pub fn environments(&self) -> &BTreeMap<EnvironmentName, pb::Environment> {
        &self.environments
    }
}
