//! One leaf at a time: reads its payload, and says what it asks for that is not there.

use std::collections::BTreeMap;

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::pipeline::test_stream_payload::event::Event;
use ferrobeam_proto::urns::standard_coders;
use ferrobeam_proto::urns::standard_ptransforms::{
    combine_components, composites, deprecated_primitives, primitives, splittable_par_do_components as splittable,
};
use ferrobeam_proto::urns::{global_windows_payload, standard_side_input_types};
use prost::Message;

use super::refusal::Findings;
use super::resolve::urn;
use super::{CoderName, EnvironmentName, Kind, PCollectionName, Transform, TransformName, keyed};
use crate::kafka::{self, KafkaRead, KafkaWrite};
use crate::model::Access;

/// Turns a leaf into the planner's form. Ids were not looked up yet.
pub(super) fn leaf(
    id: &str,
    proto: &pb::PTransform,
    components: &pb::Components,
    findings: &mut Findings,
) -> Transform {
    let mut transform = Transform {
        id: TransformName::from(id),
        unique_name: proto.unique_name.clone(),
        kind: Kind::Sdk,
        spec: proto.spec.clone().unwrap_or_default(),
        inputs: names(&proto.inputs),
        outputs: names(&proto.outputs),
        environment: (!proto.environment_id.is_empty()).then(|| EnvironmentName::from(proto.environment_id.as_str())),
        side_inputs: BTreeMap::new(),
        heads_stage: false,
        stable_input: false,
        finalizes: false,
        keyed: None,
    };
    let mut reader = Reader { transform: &mut transform, components, findings };
    match urn(proto) {
        primitives::IMPULSE => reader.impulse(),
        primitives::FLATTEN => reader.flatten(),
        primitives::GROUP_BY_KEY => reader.group_by_key(),
        composites::RESHUFFLE => {
            let by_key = reader.groups_by_its_own_key(proto);
            reader.redistribute(by_key);
        }
        composites::REDISTRIBUTE_ARBITRARILY => reader.redistribute(false),
        composites::REDISTRIBUTE_BY_KEY => reader.redistribute(true),
        composites::COMBINE_PER_KEY => reader.combine_per_key(),
        combine_components::COMBINE_PER_KEY_PRECOMBINE
        | combine_components::COMBINE_PER_KEY_MERGE_ACCUMULATORS
        | combine_components::COMBINE_PER_KEY_EXTRACT_OUTPUTS
        | combine_components::COMBINE_PER_KEY_CONVERT_TO_ACCUMULATORS
        | combine_components::COMBINE_GROUPED_VALUES => {
            reader.payload::<pb::CombinePayload>();
            reader.one_main_input();
        }
        primitives::PAR_DO
        | splittable::PAIR_WITH_RESTRICTION
        | splittable::SPLIT_AND_SIZE_RESTRICTIONS
        | splittable::PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS
        | splittable::TRUNCATE_SIZED_RESTRICTION => reader.par_do(urn(proto)),
        primitives::ASSIGN_WINDOWS => {
            if let Some(payload) = reader.payload::<pb::WindowIntoPayload>()
                && payload.window_fn.is_none()
            {
                reader.complain("has no window function");
            }
            reader.one_main_input();
        }
        primitives::TEST_STREAM => reader.test_stream(),
        kafka::READ_URN => reader.kafka_read(),
        kafka::WRITE_URN => reader.kafka_write(),
        deprecated_primitives::READ => reader.complain(
            "is a deprecated read, whose source only its own SDK can open; drop the experiment use_deprecated_read, \
             so that it becomes a splittable DoFn",
        ),
        _ => reader.one_main_input(),
    }
    reader.environment();
    transform
}

fn names(ends: &BTreeMap<String, String>) -> BTreeMap<String, PCollectionName> {
    ends.iter().map(|(local, id)| (local.clone(), PCollectionName::from(id.as_str()))).collect()
}

struct Reader<'a> {
    transform: &'a mut Transform,
    components: &'a pb::Components,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    fn complain(&mut self, what: impl Into<String>) {
        self.findings.transform(&self.transform.unique_name, what);
    }

    fn payload<M: Message + Default>(&mut self) -> Option<M> {
        match M::decode(self.transform.spec.payload.clone()) {
            Ok(payload) => Some(payload),
            Err(error) => {
                self.complain(format!("has a payload that cannot be read: {error}"));
                None
            }
        }
    }

    fn one_main_input(&mut self) {
        let count = self.transform.main_inputs().count();
        if count != 1 {
            self.complain(format!("has {count} main inputs instead of one"));
        }
    }

    fn one_output(&mut self) {
        let count = self.transform.outputs.len();
        if count != 1 {
            self.complain(format!("has {count} outputs instead of one"));
        }
    }

    /// One output, and that of errors, where there is one.
    fn outputs_with(&mut self, errors: Option<&str>) {
        let Some(tag) = errors else { return self.one_output() };
        let count = self.transform.outputs.len();
        if count != 2 || !self.transform.outputs.contains_key(tag) {
            self.complain(format!("has {count} outputs instead of two, of which \"{tag}\" is that of errors"));
        }
    }

    /// The coder of a collection, if all ids resolve; dangling ones are reported elsewhere.
    fn coder(&self, pcollection: Option<&PCollectionName>) -> Option<&pb::Coder> {
        let pcollection = self.components.pcollections.get(pcollection?.0.as_str())?;
        self.components.coders.get(&pcollection.coder_id)
    }

    fn wants_kv(&mut self) {
        let coder = self.coder(self.transform.main_input().map(|(_, input)| input));
        if let Some(urn) = coder.map(|coder| spec_urn(coder).to_owned())
            && urn != standard_coders::KV
        {
            self.complain(format!("needs an input of keys and values, but its coder is {urn}"));
        }
    }

    fn impulse(&mut self) {
        self.transform.kind = Kind::Impulse;
        if !self.transform.inputs.is_empty() {
            self.complain("is an impulse and yet has an input");
        }
        self.one_output();
        let coder = self.coder(self.transform.output()).map(|coder| spec_urn(coder).to_owned());
        if let Some(urn) = coder
            && urn != standard_coders::BYTES
        {
            self.complain(format!("is an impulse, whose element is bytes, but its output has the coder {urn}"));
        }
        if self.gives_other_windows() {
            self.complain("is an impulse, whose element is in the global window, but its output is windowed otherwise");
        }
    }

    fn test_stream(&mut self) {
        let Some(payload) = self.payload::<pb::TestStreamPayload>() else { return };
        self.transform.kind = Kind::TestStream { coder: CoderName::from(payload.coder_id.as_str()), prefix: false };
        if !self.transform.inputs.is_empty() {
            self.complain("is a TestStream and yet has an input");
        }
        if self.gives_other_windows() {
            self.complain(
                "is a TestStream, whose elements are in the global window, but its output is windowed otherwise",
            );
        }
        if payload.endpoint.is_some_and(|endpoint| !endpoint.url.is_empty()) && !payload.events.is_empty() {
            self.complain("is a TestStream that both lists events and names a service for them");
        }
        let outputs = self.transform.outputs.clone();
        // With one output there is no doubt which is meant, whatever its SDK calls it in an event.
        let known = |tag: &str| outputs.len() == 1 || outputs.contains_key(tag);
        for event in &payload.events {
            let tag = match &event.event {
                Some(Event::WatermarkEvent(event)) => &event.tag,
                Some(Event::ElementEvent(event)) => &event.tag,
                Some(Event::ProcessingTimeEvent(_)) => continue,
                None => {
                    self.complain("is a TestStream with an event of a kind unknown here");
                    continue;
                }
            };
            if !known(tag) {
                self.complain(format!("is a TestStream with an event for \"{tag}\", which is none of its outputs"));
            }
        }
    }

    /// The payload of a transform that is Kafka's end, as JSON.
    fn json<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        match serde_json::from_slice(&self.transform.spec.payload) {
            Ok(payload) => Some(payload),
            Err(error) => {
                self.complain(format!("has a payload that cannot be read: {error}"));
                None
            }
        }
    }

    fn kafka_read(&mut self) {
        let Some(read) = self.json::<KafkaRead>() else { return };
        if !self.transform.inputs.is_empty() {
            self.complain("reads from Kafka and yet has an input");
        }
        self.outputs_with(read.errors.as_deref());
        if self.gives_other_windows() {
            self.complain("reads from Kafka into the global window, but its output is windowed otherwise");
        }
        match (&read.topic_pattern, read.topics.is_empty()) {
            (None, true) => self.complain("reads from Kafka and names no topic"),
            (Some(_), false) => self.complain("reads from Kafka and has both topics and a pattern of topics"),
            (Some(pattern), true) => {
                if let Err(error) = regex::Regex::new(pattern) {
                    self.complain(format!("has a pattern of topics that is no regular expression: {error}"));
                }
            }
            (None, false) => {}
        }
        for topic in read.topics.iter().filter(|topic| !is_topic(topic)) {
            self.complain(format!("reads the Kafka topic {topic:?}, which is no name that a topic can have"));
        }
        if read.topics.iter().collect::<std::collections::BTreeSet<_>>().len() < read.topics.len() {
            self.complain("reads a Kafka topic that it names twice");
        }
        if let Err(error) = kafka::check_consumer(&read.consumer_config) {
            self.complain(format!("has a configuration of its consumer that cannot be used: {error}"));
        }
        self.transform.kind = Kind::KafkaRead(Box::new(read));
    }

    fn kafka_write(&mut self) {
        let Some(write) = self.json::<KafkaWrite>() else { return };
        self.one_main_input();
        self.outputs_with(write.errors.as_deref());
        if write.topic.is_empty() {
            self.complain("writes to Kafka and names no topic");
        } else if !is_topic(&write.topic) {
            self.complain(format!(
                "writes to the Kafka topic {:?}, which is no name that a topic can have",
                write.topic
            ));
        }
        if let Err(error) = kafka::check_producer(&write.producer_config) {
            self.complain(format!("has a configuration of its producer that cannot be used: {error}"));
        }
        self.transform.kind = Kind::KafkaWrite(Box::new(write));
    }

    /// Whether an output is in other windows than the global one.
    fn gives_other_windows(&self) -> bool {
        let strategies = self.transform.outputs.values().filter_map(|output| {
            let output = self.components.pcollections.get(output.0.as_str())?;
            self.components.windowing_strategies.get(&output.windowing_strategy_id)
        });
        let mut window_fns = strategies.filter_map(|strategy| strategy.window_fn.as_ref());
        window_fns.any(|window_fn| window_fn.urn != global_windows_payload::PROPERTIES)
    }

    fn flatten(&mut self) {
        self.transform.kind = Kind::Flatten;
        self.one_output();
    }

    fn group_by_key(&mut self) {
        self.transform.kind = Kind::GroupByKey;
        self.one_main_input();
        self.one_output();
        self.wants_kv();
        self.no_retractions();
        let output = self.coder(self.transform.output());
        let grouped = output.is_none_or(|output| {
            let value = output.component_coder_ids.get(1).and_then(|value| self.components.coders.get(value));
            spec_urn(output) == standard_coders::KV
                && value.is_none_or(|value| spec_urn(value) == standard_coders::ITERABLE)
        });
        if !grouped {
            self.complain("groups by key, but its output's coder is not one of keys and iterables");
        }
    }

    fn no_retractions(&mut self) {
        let strategy = self
            .transform
            .main_input()
            .and_then(|(_, input)| self.components.pcollections.get(input.0.as_str()))
            .and_then(|input| self.components.windowing_strategies.get(&input.windowing_strategy_id));
        if strategy.is_some_and(|it| it.accumulation_mode() == pb::accumulation_mode::Enum::Retracting) {
            self.complain("groups with the accumulation mode RETRACTING, which is not supported");
        }
    }

    fn redistribute(&mut self, by_key: bool) {
        self.transform.kind = Kind::Redistribute { by_key };
        self.one_main_input();
        self.one_output();
        if by_key {
            self.wants_kv();
        }
    }

    /// Whether a reshuffle's own expansion groups its input by the key that it has, as Java's does and Python's, which
    /// draws random keys, does not. Elements of a key then stay in order.
    fn groups_by_its_own_key(&self, proto: &pb::PTransform) -> bool {
        let key_of = |id: &PCollectionName| {
            let coder = self.coder(Some(id)).filter(|coder| spec_urn(coder) == standard_coders::KV)?;
            coder.component_coder_ids.first()
        };
        let Some(own) = self.transform.main_input().and_then(|(_, input)| key_of(input)) else { return false };
        proto.subtransforms.iter().filter_map(|id| self.components.transforms.get(id)).any(|part| {
            let mut inputs = part.inputs.values().map(|input| PCollectionName::from(input.as_str()));
            urn(part) == primitives::GROUP_BY_KEY && inputs.any(|input| key_of(&input) == Some(own))
        })
    }

    fn combine_per_key(&mut self) {
        self.one_main_input();
        self.one_output();
        self.wants_kv();
        self.no_retractions();
        if let Some(payload) = self.payload::<pb::CombinePayload>() {
            self.transform.kind =
                Kind::CombinePerKey { accumulator: CoderName::from(payload.accumulator_coder_id.as_str()) };
        }
    }

    fn par_do(&mut self, urn: &str) {
        let Some(payload) = self.payload::<pb::ParDoPayload>() else { return };
        for (local, side_input) in &payload.side_inputs {
            if !self.transform.inputs.contains_key(local) {
                self.complain(format!("declares a side input \"{local}\" that is not among its inputs"));
            }
            match side_input.access_pattern.as_ref().map_or("", |pattern| pattern.urn.as_str()) {
                standard_side_input_types::ITERABLE => {
                    self.transform.side_inputs.insert(local.clone(), Access::Iterable);
                }
                standard_side_input_types::MULTIMAP => {
                    self.transform.side_inputs.insert(local.clone(), Access::Multimap);
                    let coder = self.coder(self.transform.inputs.get(local)).map(|coder| spec_urn(coder).to_owned());
                    if let Some(urn) = coder
                        && urn != standard_coders::KV
                    {
                        self.complain(format!(
                            "reads side input \"{local}\" by key, but that has the coder {urn} instead of keys and values"
                        ));
                    }
                }
                pattern => {
                    self.complain(format!("reads side input \"{local}\" in a way unknown here ({pattern})"));
                    self.transform.side_inputs.insert(local.clone(), Access::Iterable);
                }
            }
        }
        self.one_main_input();
        self.keyed(urn, &payload);
        // What a retry sees again must not depend on user code run again: the input has to come over a border, where it
        // is kept until the bundle is done. And what belongs to a key has to be brought to it.
        self.transform.stable_input = payload.requires_stable_input;
        self.transform.heads_stage = payload.requires_stable_input || self.transform.keyed.is_some();
        self.transform.finalizes = payload.requests_finalization;
        match urn {
            primitives::PAR_DO if !payload.restriction_coder_id.is_empty() => {
                let restriction = CoderName::from(payload.restriction_coder_id.as_str());
                self.transform.kind = Kind::Splittable { restriction };
            }
            // Splits are handed out at the border.
            splittable::PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS => self.transform.heads_stage = true,
            _ => {}
        }
    }

    fn keyed(&mut self, urn: &str, payload: &pb::ParDoPayload) {
        match keyed::read(payload) {
            Ok(None) => return,
            Ok(keyed) => self.transform.keyed = keyed,
            Err(faults) => faults.into_iter().for_each(|fault| self.complain(fault)),
        }
        if urn != primitives::PAR_DO || !payload.restriction_coder_id.is_empty() {
            self.complain("is a splittable DoFn that keeps state or timers by key, which no SDK runs");
        }
        self.wants_kv();
    }

    /// Finds where an SDK transform runs.
    fn environment(&mut self) {
        if !self.transform.is_sdk() || self.transform.environment.is_some() {
            return;
        }
        let mut environments = self.components.environments.keys();
        match (environments.next(), environments.next()) {
            (Some(only), None) => self.transform.environment = Some(EnvironmentName::from(only.as_str())),
            _ => self.complain("names no environment to run in"),
        }
    }
}

/// Whether Kafka has topics of such a name.
fn is_topic(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=249).contains(&name.len()) && name.chars().all(legal) && !matches!(name, "." | "..")
}

pub(super) fn spec_urn(coder: &pb::Coder) -> &str {
    coder.spec.as_ref().map_or("", |spec| spec.urn.as_str())
}
