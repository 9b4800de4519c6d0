//! From a rewritten and fused pipeline to the plan.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use prost::Message;

use super::copies::Copies;
use super::descriptor::DescriptorBuilder;
use super::draft::Draft;
use super::fuse::{FusedStage, Fusion};
use super::{
    Collection, CollectionId, Environment, EnvironmentId, Node, Plan, PlanOptions, Port, SideInput, Stage, StageId,
    ask_windows, bounds, kafka, keyed, map_entries, side_windows, test_stream, truncate,
};
use crate::element::WireCoder;
use crate::pipeline::{CoderName, EnvironmentName, Kind, PCollectionName, Refusal, Transform, puts_lengths, windowing};
use crate::windowing::{Merging, Windowing};

/// A plan being put together.
pub(super) struct Assembly<'a> {
    pub(super) draft: &'a mut Draft,
    pub(super) options: PlanOptions,
    fusion: Fusion,
    /// Which transform gives each collection, and which read it as main and as side input.
    producers: BTreeMap<PCollectionName, usize>,
    readers: BTreeMap<PCollectionName, Vec<usize>>,
    collection_ids: BTreeMap<PCollectionName, CollectionId>,
    /// The collections that never end of themselves.
    unbounded: BTreeSet<PCollectionName>,
    environment_ids: BTreeMap<EnvironmentName, EnvironmentId>,
    stage_names: BTreeSet<String>,
    copies: Copies,
    /// Of the collections that were asked about.
    wires: HashMap<PCollectionName, Wire>,
    plan: Plan,
}

/// The coders of a collection on the wire.
#[derive(Clone)]
pub(super) struct Wire {
    /// As it is written, and read wherever nothing else is said.
    pub(super) value: CoderName,
    /// As a stage reads it that has it as its main input.
    pub(super) read: CoderName,
    pub(super) window: CoderName,
}

/// A vertex of the graph of operators.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Vertex {
    Runner(usize),
    Stage(usize),
}

pub(super) fn assemble(draft: &mut Draft, fusion: Fusion, options: PlanOptions) -> Result<Plan, Refusal> {
    let mut producers = BTreeMap::new();
    let mut readers: BTreeMap<PCollectionName, Vec<usize>> = BTreeMap::new();
    for (index, transform) in draft.transforms.iter().enumerate() {
        producers.extend(transform.outputs.values().map(|output| (output.clone(), index)));
        for input in transform.inputs.values() {
            readers.entry(input.clone()).or_default().push(index);
        }
    }
    let mut assembly = Assembly {
        options,
        fusion,
        producers,
        readers,
        collection_ids: BTreeMap::new(),
        unbounded: bounds::unbounded(&draft.transforms, &draft.pcollections),
        environment_ids: BTreeMap::new(),
        stage_names: BTreeSet::new(),
        copies: Copies::default(),
        wires: HashMap::new(),
        plan: Plan { collections: Vec::new(), nodes: Vec::new(), stages: Vec::new(), environments: Vec::new() },
        draft,
    };
    for vertex in assembly.order()? {
        match vertex {
            Vertex::Runner(index) => assembly.runner_node(index)?,
            Vertex::Stage(index) => assembly.stage_node(index)?,
        }
    }
    Ok(assembly.plan)
}

impl Assembly<'_> {
    /// The operators, producers before consumers, and otherwise in the order of their first transforms.
    fn order(&self) -> Result<Vec<Vertex>, Refusal> {
        let vertex_of = |index: usize| self.fusion.stage_of[index].map_or(Vertex::Runner(index), Vertex::Stage);
        let first = |vertex: Vertex| match vertex {
            Vertex::Runner(index) => index,
            Vertex::Stage(stage) => self.fusion.stages[stage].members.first().copied().unwrap_or_default(),
        };
        let vertices: BTreeSet<Vertex> = (0..self.draft.transforms.len()).map(vertex_of).collect();
        let mut waits_for: BTreeMap<Vertex, usize> = vertices.iter().map(|vertex| (*vertex, 0)).collect();
        let mut feeds: BTreeMap<Vertex, BTreeSet<Vertex>> = BTreeMap::new();
        for (index, transform) in self.draft.transforms.iter().enumerate() {
            for producer in transform.inputs.values().filter_map(|input| self.producers.get(input)) {
                let (from, to) = (vertex_of(*producer), vertex_of(index));
                if from != to && feeds.entry(from).or_default().insert(to) {
                    *waits_for.entry(to).or_default() += 1;
                }
            }
        }
        let mut ready: BTreeSet<(usize, Vertex)> =
            waits_for.iter().filter(|(_, count)| **count == 0).map(|(vertex, _)| (first(*vertex), *vertex)).collect();
        let mut order = Vec::with_capacity(vertices.len());
        while let Some((_, vertex)) = ready.pop_first() {
            order.push(vertex);
            for fed in feeds.get(&vertex).into_iter().flatten() {
                let waits = waits_for.entry(*fed).or_default();
                *waits -= 1;
                if *waits == 0 {
                    ready.insert((first(*fed), *fed));
                }
            }
        }
        // Fusion keeps the graph free of cycles; were it ever not so, this is better than a job that never ends.
        if order.len() == vertices.len() {
            Ok(order)
        } else {
            Err(Refusal::of_pipeline("its stages wait for each other's side inputs: the planner fused too much"))
        }
    }

    /// Adds the operator of a transform that the runner runs.
    fn runner_node(&mut self, index: usize) -> Result<(), Refusal> {
        let transform = self.draft.transforms[index].clone();
        let name = transform.unique_name.clone();
        let complaint = |what: &str| Refusal::of_transform(&transform.unique_name, what);
        // Validation made sure of both for the kinds that need them.
        let output = || transform.output().ok_or_else(|| complaint("has no output"));
        let input = || transform.main_input().map(|(_, from)| from).ok_or_else(|| complaint("has no input"));
        let node = match transform.kind.clone() {
            Kind::Impulse => Node::Impulse { output: self.collection(output()?) },
            Kind::Flatten => Node::Flatten {
                inputs: transform.inputs.values().map(|input| self.collection(input)).collect(),
                output: self.collection(output()?),
            },
            Kind::TestStream { .. } => {
                let events = test_stream::events(&transform)?;
                let outputs = transform.outputs.iter().map(|(tag, output)| (tag.clone(), self.collection(output)));
                Node::TestStream { name, events, outputs: outputs.collect() }
            }
            Kind::Redistribute { by_key } => {
                let input = self.collection(input()?);
                Node::Redistribute { name, input, output: self.collection(output()?), by_key }
            }
            Kind::GroupByKey => {
                let from = input()?;
                let input = self.collection(from);
                let windowing = self.windowing(from);
                let merge = match windowing.merging {
                    Merging::Custom => Some(ask_windows::merging(self, &transform, from)?),
                    Merging::None | Merging::Sessions => None,
                };
                let bounded = self.is_bounded(from) && windowing.trigger.waits_for_the_end();
                Node::GroupByKey { name, input, output: self.collection(output()?), windowing, merge, bounded }
            }
            Kind::KafkaRead(read) => {
                let KafkaOutputs { main, errors } = kafka_outputs(&transform, read.errors.as_deref());
                let to = main.ok_or_else(|| complaint("has no output"))?;
                let element = kafka::read_element(self, &transform, &read, to)?;
                let errors = errors.map(|errors| kafka::errors(self, &transform, errors, None)).transpose()?;
                Node::KafkaRead { name, read: *read, element, output: self.collection(to), errors }
            }
            Kind::KafkaWrite(write) => {
                let from = input()?;
                let KafkaOutputs { main, errors } = kafka_outputs(&transform, write.errors.as_deref());
                let to = main.ok_or_else(|| complaint("has no output"))?;
                let element = kafka::write_element(self, &transform, &write, from)?;
                let errors = errors.map(|errors| kafka::errors(self, &transform, errors, Some(from))).transpose()?;
                let input = self.collection(from);
                Node::KafkaWrite { name, write: *write, element, input, output: self.collection(to), errors }
            }
            // They are in stages, or taken apart.
            Kind::CombinePerKey { .. } | Kind::Splittable { .. } | Kind::Sdk => {
                return Err(complaint("was planned to run outside of an SDK harness, which is a fault of the planner"));
            }
        };
        self.plan.nodes.push(node);
        Ok(())
    }

    fn stage_node(&mut self, index: usize) -> Result<(), Refusal> {
        let FusedStage { environment, input, members, splittable, .. } = &self.fusion.stages[index];
        let (environment, input, members, splittable) =
            (environment.clone(), input.clone(), members.clone(), *splittable);
        let mut transforms: Vec<_> = members.iter().map(|member| self.draft.transforms[*member].clone()).collect();
        let wire = self.wire(&input);
        let head = transforms.first_mut();
        let lengths = self.draft.environments.get(&environment).is_some_and(puts_lengths);
        let coders = &mut self.draft.coders;
        let mut keyed = head.and_then(|head| keyed::keep(coders, head, &wire.value, &wire.window, lengths));
        if let (Some(keyed), Some(head)) = (&mut keyed, transforms.first()) {
            map_entries::count(self, head, &environment, keyed);
        }
        let mut descriptor =
            DescriptorBuilder::new(format!("stage-{}", self.plan.stages.len()), self.draft, &environment);
        let mut leaving = BTreeSet::new();
        let mut side_inputs = Vec::new();
        for transform in &transforms {
            descriptor.transform(transform);
            for output in transform.outputs.values() {
                descriptor.pcollection(self.draft, output, None);
                let leaves = |reader: &usize| self.fusion.stage_of[*reader] != Some(index);
                if self.readers.get(output).is_some_and(|readers| readers.iter().any(leaves)) {
                    leaving.insert(output.clone());
                }
            }
            for (local_name, access) in &transform.side_inputs {
                let Some(from) = transform.inputs.get(local_name) else { continue };
                let wire = self.wire(from);
                descriptor.pcollection(self.draft, from, Some(&wire.value));
                side_inputs.push(SideInput {
                    transform: transform.id.0.clone(),
                    local_name: local_name.clone(),
                    collection: self.collection(from),
                    access: *access,
                    mapping: side_windows::mapping(self, transform, local_name, from)?,
                });
            }
        }
        descriptor.pcollection(self.draft, &input, Some(&wire.value));
        let source = descriptor.source(self.draft, &input, (&wire.read, &wire.window));
        let fed_by = input;
        let input = Port { transform: source, collection: self.collection(&fed_by) };
        let mut outputs = Vec::new();
        for output in &leaving {
            let wire = self.wire(output);
            let sink = descriptor.sink(self.draft, output, (&wire.value, &wire.window));
            outputs.push(Port { transform: sink, collection: self.collection(output) });
        }
        let head = transforms.first().filter(|_| splittable);
        let truncate = head.and_then(|head| truncate::stage(self, head, &fed_by, &environment, &side_inputs));
        let environment = self.environment_id(&environment);
        let name = self.stage_name(transforms.first().map_or("", |transform| transform.unique_name.as_str()));
        let stage = self.add_stage(Stage {
            name,
            environment,
            descriptor: descriptor.finish(self.draft),
            input,
            outputs,
            side_inputs,
            finalizes: transforms.iter().any(|transform| transform.finalizes),
            stable_input: transforms.first().is_some_and(|transform| transform.stable_input),
            unbounded: transforms.iter().flat_map(|it| it.outputs.values()).any(|it| self.unbounded.contains(it)),
            transforms: transforms.into_iter().map(|transform| (transform.id.0, transform.unique_name)).collect(),
            splittable,
            merges_windows: false,
            keyed,
            truncate,
        });
        self.plan.nodes.push(Node::Stage(stage));
        Ok(())
    }

    /// A stage is named after the first transform in it, which stays when others are added behind.
    fn stage_name(&mut self, first: &str) -> String {
        let taken = |name: &str| self.stage_names.contains(name);
        let name = self.copies.free(first.to_owned(), |first, copy| format!("{first} ({copy})"), taken);
        self.stage_names.insert(name.clone());
        name
    }

    pub(super) fn add_stage(&mut self, stage: Stage) -> StageId {
        self.plan.stages.push(stage);
        StageId(self.plan.stages.len() as u32 - 1)
    }

    pub(super) fn environment_id(&mut self, name: &EnvironmentName) -> EnvironmentId {
        if let Some(id) = self.environment_ids.get(name) {
            return *id;
        }
        let id = EnvironmentId(self.plan.environments.len() as u32);
        let proto = self.draft.environments.get(name).map(|proto| proto.encode_to_vec().into()).unwrap_or_default();
        self.plan.environments.push(Environment { name: name.0.clone(), proto });
        self.environment_ids.insert(name.clone(), id);
        id
    }

    /// The environment of the stage that gives a collection, or of one that does further up.
    pub(super) fn fusion_environment(&self, pcollection: &PCollectionName) -> Option<EnvironmentName> {
        let mut todo = vec![pcollection];
        let mut seen = BTreeSet::new();
        while let Some(id) = todo.pop() {
            let Some(producer) = self.producers.get(id).filter(|producer| seen.insert(**producer)) else { continue };
            match self.fusion.stage_of[*producer] {
                Some(stage) => return Some(self.fusion.stages[stage].environment.clone()),
                None => todo.extend(self.draft.transforms[*producer].inputs.values()),
            }
        }
        None
    }

    /// Whether a collection ends of itself.
    pub(super) fn is_bounded(&self, name: &PCollectionName) -> bool {
        !self.unbounded.contains(name)
    }

    /// The plan's id of a PCollection that crosses a border.
    pub(super) fn collection(&mut self, name: &PCollectionName) -> CollectionId {
        if let Some(id) = self.collection_ids.get(name) {
            return *id;
        }
        let wire = self.wire(name);
        let value = self.draft.coders.structure(&wire.read);
        let windowing = self.windowing(name);
        self.add_collection(name, value, windowing)
    }

    pub(super) fn add_collection(
        &mut self,
        name: &PCollectionName,
        value: WireCoder,
        windowing: Windowing,
    ) -> CollectionId {
        let id = CollectionId(self.plan.collections.len() as u32);
        let bounded = self.is_bounded(name);
        self.plan.collections.push(Collection { name: name.0.clone(), value, windowing, bounded });
        self.collection_ids.insert(name.clone(), id);
        id
    }

    pub(super) fn wire(&mut self, name: &PCollectionName) -> Wire {
        if let Some(wire) = self.wires.get(name) {
            return wire.clone();
        }
        let coder = self.draft.coder_of(name);
        let value = self.draft.coders.wire(&coder);
        let window = CoderName(self.draft.windowing_of(name).1.window_coder_id.clone());
        let window = self.draft.coders.wire_window(&window);
        let by_reference = self.may_be_state_backed(name).then(|| self.draft.coders.state_backed(&value)).flatten();
        let wire = Wire { read: by_reference.unwrap_or_else(|| value.clone()), value, window };
        self.wires.insert(name.clone(), wire.clone());
        wire
    }

    /// Whether values of a group may be sent by reference: only the harness that reads them as its main input knows what
    /// to do with a reference, so nothing else may read the collection.
    fn may_be_state_backed(&self, name: &PCollectionName) -> bool {
        let producer = self.producers.get(name).map(|producer| &self.draft.transforms[*producer].kind);
        let grouped = producer.is_some_and(gives_groups);
        let main_input_of_sdk = |reader: &usize| {
            let transform = &self.draft.transforms[*reader];
            transform.is_sdk()
                && transform
                    .inputs
                    .iter()
                    .all(|(local, input)| input != name || !transform.side_inputs.contains_key(local))
        };
        grouped && self.readers.get(name).is_some_and(|readers| readers.iter().all(main_input_of_sdk))
    }

    pub(super) fn windowing(&mut self, name: &PCollectionName) -> Windowing {
        let (_, strategy) = self.draft.windowing_of(name);
        let strategy = strategy.clone();
        let window = self.draft.coders.wire_window(&CoderName(strategy.window_coder_id.clone()));
        windowing(&strategy, self.draft.coders.window_structure(&window))
    }
}

/// The outputs of Kafka's ends.
struct KafkaOutputs<'a> {
    main: Option<&'a PCollectionName>,
    errors: Option<&'a PCollectionName>,
}

/// `errors`: the tag of that of errors.
fn kafka_outputs<'a>(transform: &'a Transform, errors: Option<&str>) -> KafkaOutputs<'a> {
    let mut outputs = KafkaOutputs { main: None, errors: None };
    for (tag, output) in &transform.outputs {
        let of = if Some(tag.as_str()) == errors { &mut outputs.errors } else { &mut outputs.main };
        *of = Some(output);
    }
    outputs
}

/// Whether a transform of this kind gives groups that the runner made, and can send by reference.
fn gives_groups(kind: &Kind) -> bool {
    match kind {
        Kind::GroupByKey => true,
        Kind::Impulse
        | Kind::Flatten
        | Kind::TestStream { .. }
        | Kind::KafkaRead(_)
        | Kind::KafkaWrite(_)
        | Kind::Redistribute { .. }
        | Kind::CombinePerKey { .. }
        | Kind::Splittable { .. }
        | Kind::Sdk => false,
    }
}
