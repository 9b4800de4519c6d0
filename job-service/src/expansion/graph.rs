//! Putting an answer together.

use std::collections::BTreeMap;

use ferrobeam_proto::expansion::ExpansionRequest;
use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::urns::{global_windows_payload, standard_coders as coder};
use prost::Message;
use prost::bytes::Bytes;

/// The output of a read, and of the leaf of a write.
pub(super) const OUTPUT: &str = "output";

/// See [`Graph::rows_of`].
pub(super) struct RowsOf {
    pub(super) schema: pb::Schema,
    pub(super) collection: pb::PCollection,
}

/// The components of an answer: those of the request, and what is added to them under its namespace.
pub(super) struct Graph {
    namespace: String,
    pub(super) components: pb::Components,
    /// The transform that is expanded, as it was sent.
    pub(super) asked: pb::PTransform,
}

impl Graph {
    pub(super) fn of(request: ExpansionRequest) -> Graph {
        Graph {
            namespace: request.namespace,
            components: request.components.unwrap_or_default(),
            asked: request.transform.unwrap_or_default(),
        }
    }

    /// Of a transform of a pipeline.
    pub(super) fn within(namespace: String, components: pb::Components, asked: pb::PTransform) -> Graph {
        Graph { namespace, components, asked }
    }

    /// An id of that name in the namespace.
    pub(super) fn id(&self, name: &str) -> String {
        format!("{}-kafka-{name}", self.namespace)
    }

    /// Adds a coder, and gives its id.
    pub(super) fn coder(&mut self, name: &str, urn: &str, payload: impl Into<Bytes>, components: &[&String]) -> String {
        let id = self.id(name);
        let coder = pb::Coder {
            spec: Some(pb::FunctionSpec { urn: urn.to_owned(), payload: payload.into() }),
            component_coder_ids: components.iter().map(|id| (*id).clone()).collect(),
        };
        self.components.coders.insert(id.clone(), coder);
        id
    }

    /// A coder of rows.
    pub(super) fn row_coder(&mut self, name: &str, schema: &pb::Schema) -> String {
        self.coder(name, coder::ROW, schema.encode_to_vec(), &[])
    }

    /// The windowing strategy of what is in the global window.
    fn global_windows(&mut self) -> String {
        let id = self.id("global-windows");
        let window_coder_id = self.coder("global-window", coder::GLOBAL_WINDOW, Bytes::new(), &[]);
        let strategy = pb::WindowingStrategy {
            window_fn: Some(pb::FunctionSpec {
                urn: global_windows_payload::PROPERTIES.to_owned(),
                payload: Bytes::new(),
            }),
            merge_status: pb::merge_status::Enum::NonMerging.into(),
            window_coder_id,
            trigger: Some(pb::Trigger { trigger: Some(pb::trigger::Trigger::Default(pb::trigger::Default {})) }),
            accumulation_mode: pb::accumulation_mode::Enum::Discarding.into(),
            output_time: pb::output_time::Enum::EndOfWindow.into(),
            closing_behavior: pb::closing_behavior::Enum::EmitIfNonempty.into(),
            on_time_behavior: pb::on_time_behavior::Enum::FireAlways.into(),
            allowed_lateness: 0,
            ..Default::default()
        };
        self.components.windowing_strategies.insert(id.clone(), strategy);
        id
    }

    /// Adds a collection in the global window, and gives its id.
    pub(super) fn collection(&mut self, name: &str, coder_id: String, is_bounded: bool) -> String {
        use pb::is_bounded::Enum::{Bounded, Unbounded};
        let id = self.id(name);
        let collection = pb::PCollection {
            unique_name: id.clone(),
            coder_id,
            is_bounded: if is_bounded { Bounded } else { Unbounded }.into(),
            windowing_strategy_id: self.global_windows(),
            ..Default::default()
        };
        self.components.pcollections.insert(id.clone(), collection);
        id
    }

    /// The rows of a collection of the request, if it has some.
    pub(super) fn rows_of(&self, collection: &str) -> Option<RowsOf> {
        let collection = self.components.pcollections.get(collection)?.clone();
        let spec = self.components.coders.get(&collection.coder_id)?.spec.as_ref()?;
        let schema = match spec.urn.as_str() {
            coder::ROW => pb::Schema::decode(spec.payload.clone()).ok()?,
            coder::SCHEMA => pb::SchemaCoderPayload::decode(spec.payload.clone()).ok()?.schema?,
            _ => return None,
        };
        Some(RowsOf { schema, collection })
    }

    /// Adds a collection in the windows of another, as bounded as that, and gives its id.
    pub(super) fn collection_as(&mut self, name: &str, coder_id: String, like: &pb::PCollection) -> String {
        let id = self.id(name);
        let collection = pb::PCollection { unique_name: id.clone(), coder_id, ..like.clone() };
        self.components.pcollections.insert(id.clone(), collection);
        id
    }

    /// A transform named after a part of the one that is expanded, without an environment.
    pub(super) fn transform(&self, part: &str, urn: &str, payload: impl Into<Bytes>) -> pb::PTransform {
        let of = &self.asked.unique_name;
        pb::PTransform {
            unique_name: if part.is_empty() { of.clone() } else { format!("{of}/{part}") },
            spec: Some(pb::FunctionSpec { urn: urn.to_owned(), payload: payload.into() }),
            ..Default::default()
        }
    }

    /// Adds a part of the transform, and gives its id.
    pub(super) fn part(&mut self, name: &str, transform: pb::PTransform) -> String {
        let id = self.id(name);
        self.components.transforms.insert(id.clone(), transform);
        id
    }
}

/// One end of a transform.
pub(super) fn end(tag: &str, collection: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(tag.to_owned(), collection.to_owned())])
}
