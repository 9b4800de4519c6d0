//! [`Draft`]: a pipeline while it is being rewritten.

use std::collections::{BTreeMap, BTreeSet};

use ferrobeam_proto::pipeline as pb;

use super::coders::CoderTable;
use super::copies::{Copies, numbered};
use crate::pipeline::{
    CoderName, EnvironmentName, PCollectionName, Pipeline, Refusal, Transform, TransformName, WindowingName,
    topological_order,
};

/// The transforms, in topological order between two rewrites, and what they refer to.
pub(super) struct Draft {
    pub(super) transforms: Vec<Transform>,
    pub(super) pcollections: BTreeMap<PCollectionName, pb::PCollection>,
    pub(super) coders: CoderTable,
    pub(super) windowings: BTreeMap<WindowingName, pb::WindowingStrategy>,
    pub(super) environments: BTreeMap<EnvironmentName, pb::Environment>,
    /// Ids that are taken.
    ids: BTreeSet<TransformName>,
    copies_of_ids: Copies,
    copies_of_pcollections: Copies,
}

impl Draft {
    pub(super) fn new(pipeline: &Pipeline) -> Draft {
        Draft {
            transforms: pipeline.transforms.clone(),
            pcollections: pipeline.pcollections.clone(),
            coders: CoderTable::new(pipeline),
            windowings: pipeline.windowings.clone(),
            environments: pipeline.environments.clone(),
            ids: pipeline.transforms.iter().map(|transform| transform.id.clone()).collect(),
            copies_of_ids: Copies::default(),
            copies_of_pcollections: Copies::default(),
        }
    }

    /// Replaces each transform by what `rewrite` makes of it, and restores the order.
    pub(super) fn rewrite(
        &mut self,
        mut rewrite: impl FnMut(&mut Draft, Transform) -> Result<Vec<Transform>, Refusal>,
    ) -> Result<(), Refusal> {
        let mut rewritten = Vec::with_capacity(self.transforms.len());
        for transform in std::mem::take(&mut self.transforms) {
            rewritten.extend(rewrite(self, transform)?);
        }
        let order = topological_order(&rewritten).map_err(|_| Refusal::of_pipeline("the graph is cyclic"))?;
        let mut unordered: Vec<Option<Transform>> = rewritten.into_iter().map(Some).collect();
        self.transforms = order.into_iter().filter_map(|index| unordered[index].take()).collect();
        Ok(())
    }

    /// An id for a transform that the planner adds to or instead of `transform`.
    pub(super) fn new_id(&mut self, transform: &TransformName, part: &str) -> TransformName {
        let taken = |id: &str| self.ids.contains(id);
        let id = TransformName(self.copies_of_ids.free(format!("{transform}/{part}"), numbered, taken));
        self.ids.insert(id.clone());
        id
    }

    /// A new PCollection like `like`, but with another coder.
    pub(super) fn new_pcollection(&mut self, like: &PCollectionName, part: &str, coder: &CoderName) -> PCollectionName {
        let taken = |id: &str| self.pcollections.contains_key(id);
        let id = PCollectionName(self.copies_of_pcollections.free(format!("{like}/{part}"), numbered, taken));
        let mut proto = self.pcollections.get(like).cloned().unwrap_or_default();
        proto.unique_name = id.0.clone();
        proto.coder_id = coder.0.clone();
        proto.display_data.clear();
        self.pcollections.insert(id.clone(), proto);
        id
    }

    pub(super) fn coder_of(&self, pcollection: &PCollectionName) -> CoderName {
        CoderName(self.pcollections.get(pcollection).map(|proto| proto.coder_id.clone()).unwrap_or_default())
    }

    pub(super) fn windowing_of(&self, pcollection: &PCollectionName) -> (WindowingName, &pb::WindowingStrategy) {
        static NONE: std::sync::OnceLock<pb::WindowingStrategy> = std::sync::OnceLock::new();
        let id = self.pcollections.get(pcollection).map_or("", |proto| proto.windowing_strategy_id.as_str());
        let strategy = self.windowings.get(id).unwrap_or_else(|| NONE.get_or_init(Default::default));
        (WindowingName::from(id), strategy)
    }
}
