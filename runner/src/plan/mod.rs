//! The executable plan: what the dataflow builder walks. A value, printable and serialisable.
//!
//! [`build`] makes it from a validated pipeline by rewrites, each a function of its own: combines and splittable ParDos
//! are taken apart, TestStreams given ends to their elements, coders made to agree where the runner hands bytes on,
//! chains fused, and every border given coders that the runner can walk.
//!
//! Nodes stand in a topological order that depends on nothing but the pipeline, because every worker must build the
//! same operators in the same order.

// A new kind of anything must not fall into an arm that was written before it.
#![warn(clippy::wildcard_enum_match_arm)]

mod ask_windows;
mod assemble;
mod bounds;
mod coders;
mod combine;
mod copies;
mod descriptor;
mod display;
mod draft;
mod fuse;
mod kafka;
mod keyed;
mod map_entries;
mod side_windows;
mod splittable;
mod test_stream;
mod transcode;
mod truncate;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::element::WireCoder;
use crate::kafka::{ErrorElement, KafkaRead, KafkaWrite, ReadElement, WriteElement};
use crate::pipeline::{Pipeline, Refusal};
use crate::time::Timestamp;
use crate::windowing::{WindowCoder, Windowing};

pub use crate::model::{Access, StateKind, TimeDomain};

/// Index of a stage in [`Plan::stages`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StageId(pub u32);

/// Index of a collection in [`Plan::collections`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CollectionId(pub u32);

/// Index of an environment in [`Plan::environments`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EnvironmentId(pub u32);

/// A pipeline made executable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Every PCollection that crosses an operator border.
    pub collections: Vec<Collection>,
    /// The operators, in topological order.
    pub nodes: Vec<Node>,
    /// The stages that SDK harnesses run; nodes name them by index.
    pub stages: Vec<Stage>,
    /// The environments of those stages.
    pub environments: Vec<Environment>,
}

impl Plan {
    /// Whether a TestStream says how processing time moves.
    pub fn is_test_driven(&self) -> bool {
        self.nodes.iter().any(|node| matches!(node, Node::TestStream { .. }))
    }

    /// Whether some of its collections need not end.
    pub fn is_unbounded(&self) -> bool {
        self.collections.iter().any(|it| !it.bounded) || self.stages.iter().any(|it| it.unbounded)
    }
}

/// A PCollection between two operators, with the form its elements have there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Collection {
    /// The PCollection's id in the pipeline (or one derived from it, for collections the planner adds).
    pub name: String,
    /// How an element's value is encoded (nested context), as far as the runner must understand it.
    pub value: WireCoder,
    /// How its elements were windowed; says the window coder.
    pub windowing: Windowing,
    /// It ends of itself.
    pub bounded: bool,
}

impl Collection {
    /// Whether one who reads it as a side input has to wait for its end, because nothing fires before.
    pub fn is_read_at_its_end(&self) -> bool {
        self.bounded && self.windowing.trigger.waits_for_the_end()
    }
}

/// One operator of the dataflow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Node {
    /// One empty byte string in the global window, at the least timestamp.
    Impulse {
        /// Where it goes.
        output: CollectionId,
    },
    /// The union of its inputs, which all have the output's coder. An input may be named twice and then counts twice.
    Flatten {
        /// The inputs.
        inputs: Vec<CollectionId>,
        /// The union.
        output: CollectionId,
    },
    /// Plays the events of a `beam:transform:teststream:v1`, each when all effects of the one before are over.
    TestStream {
        /// Stable name of the transform.
        name: String,
        /// Where its events come from.
        events: TestEvents,
        /// Its outputs: the tag that events name, and the collection. The global window; values in the collection's
        /// wire coder.
        outputs: Vec<(String, CollectionId)>,
    },
    /// Groups `KV<K, V>` by key and window into `KV<K, Iterable<V>>`.
    GroupByKey {
        /// Stable name of the transform, for messages and metrics.
        name: String,
        /// Elements `KV<K, V>`, already windowed by `windowing`.
        input: CollectionId,
        /// Elements `KV<K, Iterable<V>>`; the iterable may be state-backed.
        output: CollectionId,
        /// The windowing of the input: merging, timestamp combiner, trigger.
        windowing: Windowing,
        /// For custom merging windows, the stage that runs the SDK's merge function (`beam:transform:merge_windows:v1`).
        merge: Option<StageId>,
        /// The input is bounded and its trigger fires at no window before that ends: each fires once, at the end of all.
        bounded: bool,
    },
    /// Moves elements between workers, keeping timestamp, windows and pane.
    Redistribute {
        /// Stable name of the transform.
        name: String,
        /// The elements.
        input: CollectionId,
        /// The same elements.
        output: CollectionId,
        /// Equal keys stay together (`KV` elements); otherwise elements are spread evenly.
        by_key: bool,
    },
    /// Reads from Kafka, in the global window.
    KafkaRead {
        /// Stable name of the transform.
        name: String,
        /// What is read.
        read: KafkaRead,
        /// How its elements are encoded: in the collection's wire coder.
        element: ReadElement,
        /// Where they go.
        output: CollectionId,
        /// Where values go that are none.
        errors: Option<KafkaErrors>,
    },
    /// Writes to Kafka.
    KafkaWrite {
        /// Stable name of the transform.
        name: String,
        /// What is written.
        write: KafkaWrite,
        /// How the elements are encoded: in the input's wire coder.
        element: WriteElement,
        /// The elements.
        input: CollectionId,
        /// Nothing is in it.
        output: CollectionId,
        /// Where elements go that are no records.
        errors: Option<KafkaErrors>,
    },
    /// A fused stage run by an SDK harness.
    Stage(StageId),
}

/// An output of a Kafka source or sink for what cannot be read or written in its format.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KafkaErrors {
    /// The collection.
    pub output: CollectionId,
    /// How its rows are encoded: in the collection's wire coder.
    pub element: ErrorElement,
}

/// A fused chain of transforms that one harness runs as one bundle.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stage {
    /// Stable name, made of the names of its transforms.
    pub name: String,
    /// The environment that runs it.
    pub environment: EnvironmentId,
    /// An encoded `ProcessBundleDescriptor` whose `RemoteGrpcPort`s have coder ids but no endpoints yet.
    pub descriptor: Bytes,
    /// The data source transform of the descriptor, and what feeds it.
    pub input: Port,
    /// The data sink transforms of the descriptor, and what they feed. Outputs that nobody reads are absent here and
    /// in the descriptor.
    pub outputs: Vec<Port>,
    /// The side inputs of its transforms.
    pub side_inputs: Vec<SideInput>,
    /// The unique names of the user's transforms inside, by id in the descriptor: for metrics and messages.
    pub transforms: Vec<(String, String)>,
    /// True when the stage's head processes sized elements and restrictions, so that residuals can come back.
    pub splittable: bool,
    /// True when it is a merge-windows stage, driven by a [`Node::GroupByKey`] and absent from [`Plan::nodes`].
    pub merges_windows: bool,
    /// What makes it a keyed stage: its input is `KV` elements that are brought together by key, and bundles of equal
    /// keys never run side by side.
    pub keyed: Option<Keyed>,
    /// For a splittable stage, the stage that shortens what is left at a drain: it takes and gives sized elements and
    /// restrictions (`beam:transform:sdf_truncate_sized_restrictions:v1`), and is absent from [`Plan::nodes`].
    pub truncate: Option<StageId>,
    /// A transform in it asks to be told when its bundles are durable.
    pub finalizes: bool,
    /// Its first transform must not see an element before that is durable (`requires_stable_input`).
    pub stable_input: bool,
    /// A collection that it makes need not end, be it one of its outputs or read in the stage alone.
    pub unbounded: bool,
}

/// What a keyed stage keeps by key and window.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Keyed {
    /// The cells of its transforms.
    pub states: Vec<StateCell>,
    /// The timers of its transforms.
    pub timers: Vec<TimerFamily>,
    /// Elements of a key reach the stage in order of their timestamps (`requires_time_sorted_input`).
    pub time_sorted: bool,
}

/// A cell of user state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateCell {
    /// Id of the transform in the descriptor.
    pub transform: String,
    /// The name of its specification in the transform's payload.
    pub state: String,
    /// How the SDK addresses it.
    pub kind: StateKind,
    /// How its values are encoded, if the runner can tell where one ends. SDKs encode state with the user's own coder and
    /// heed no other, so there may be none; pages then end where an append did. Values of an ordered list are what
    /// stands behind the sort key.
    pub value: Option<WireCoder>,
    /// A key of the multimap has at most one value (map and set state), so what is appended to an empty one is whole.
    pub single_valued: bool,
    /// For a multimap of several values a key whose `value` is unknown, the stage that counts them when its entries are
    /// read. It takes `KV<nonce, iterable by reference>` and gives `KV<nonce, iterable behind its length>`, and is absent
    /// from [`Plan::nodes`].
    pub entries: Option<StageId>,
}

/// A timer family of a transform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerFamily {
    /// Id of the transform in the descriptor.
    pub transform: String,
    /// The id of the family.
    pub family: String,
    /// Which time it goes by.
    pub domain: TimeDomain,
    /// How keys are encoded in its timers: as in the stage's input.
    pub key: WireCoder,
    /// How windows are encoded in its timers.
    pub window: WindowCoder,
    /// It is fired by the runner when a window of a key expires, and never set by the SDK.
    pub on_window_expiration: bool,
}

/// Where the events of a TestStream come from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum TestEvents {
    /// They came with the pipeline. Elements are encoded in the collection's wire coder.
    Listed(Vec<TestEvent>),
    /// A `TestStreamService` has them; elements it gives are encoded in the coder of the pipeline, to be wrapped in a
    /// length prefix where the collection's wire coder does.
    Service {
        /// The service's address, as the pipeline states it.
        url: String,
        /// Elements need a length prefix put before them.
        prefix: bool,
    },
}

/// One event of a TestStream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TestEvent {
    /// Elements of an output, with their timestamps.
    Elements {
        /// The output's tag.
        tag: String,
        /// The elements.
        elements: Vec<(Timestamp, Bytes)>,
    },
    /// An output's watermark moves on.
    Watermark {
        /// The output's tag.
        tag: String,
        /// Where to.
        to: Timestamp,
    },
    /// The clock moves on by so many milliseconds.
    ProcessingTime(i64),
}

/// A border between a stage and the data plane.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Port {
    /// Id of the data source or sink transform in the descriptor.
    pub transform: String,
    /// The collection that crosses.
    pub collection: CollectionId,
}

/// A side input of a stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SideInput {
    /// Id of the reading transform in the descriptor.
    pub transform: String,
    /// Its local name for the side input.
    pub local_name: String,
    /// What is read. For [`Access::Multimap`], elements are `KV`.
    pub collection: CollectionId,
    /// How it is read.
    pub access: Access,
    /// Which of its windows goes with a window of the main input.
    pub mapping: WindowMapping,
}

/// Finds the window of a side input for a window of the main input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WindowMapping {
    /// There is only the global one.
    Global,
    /// The same window, or, for a bounded side input, one that nobody needs to know.
    Same,
    /// The fixed window in which the main window's greatest timestamp falls.
    Fixed {
        /// Milliseconds.
        size: i64,
        /// Milliseconds.
        offset: i64,
    },
    /// The first sliding window in which the main window's greatest timestamp falls.
    Sliding {
        /// Milliseconds.
        size: i64,
        /// Milliseconds.
        period: i64,
        /// Milliseconds.
        offset: i64,
    },
    /// Only the SDK knows: this stage asks it (`beam:transform:map_windows:v1`), and is absent from [`Plan::nodes`].
    Sdk(StageId),
}

/// An environment of the pipeline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Environment {
    /// Its id in the pipeline.
    pub name: String,
    /// The encoded `Environment` proto.
    pub proto: Bytes,
}

/// Choices that a plan depends on besides its pipeline.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlanOptions {
    /// The job takes checkpoints, so every side input is read while it grows.
    pub durable: bool,
}

/// Plans a validated pipeline. The same pipeline always gives the same plan.
pub fn build(pipeline: &Pipeline, options: &PlanOptions) -> Result<Plan, Refusal> {
    let mut draft = draft::Draft::new(pipeline);
    kafka::check(&draft)?;
    combine::expand(&mut draft)?;
    splittable::expand(&mut draft)?;
    test_stream::expand(&mut draft)?;
    transcode::insert(&mut draft)?;
    let fusion = fuse::fuse(&draft);
    assemble::assemble(&mut draft, fusion, *options)
}
