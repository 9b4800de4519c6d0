//! Combines are taken apart, so that most combining is done before the shuffle.
//!
//! `KV<K, V>` becomes `KV<K, A>` (A for accumulator) before the grouping, and what comes out of the grouping is merged
//! and made into results. The resolution of composites left a combine whole only where its trigger allows this. Windows
//! may merge: accumulators are made for the windows as they were, and merged with them.

use std::collections::BTreeMap;

use ferrobeam_proto::urns::standard_coders as coder;
use ferrobeam_proto::urns::standard_ptransforms::{combine_components as urn, primitives};

use super::draft::Draft;
use crate::pipeline::{Kind, Refusal};

pub(super) fn expand(draft: &mut Draft) -> Result<(), Refusal> {
    draft.rewrite(|draft, transform| {
        let Kind::CombinePerKey { accumulator } = &transform.kind else { return Ok(vec![transform]) };
        let (Some((_, input)), Some(output)) = (transform.main_input(), transform.output()) else {
            return Ok(vec![transform]);
        };
        let Some(key) = draft.coders.component(&draft.coder_of(input), 0) else { return Ok(vec![transform]) };
        let like = transform.id.0.as_str();
        let keyed = draft.coders.make(coder::KV, b"", &[&key, accumulator], like);
        let several = draft.coders.make(coder::ITERABLE, b"", &[accumulator], like);
        let grouped = draft.coders.make(coder::KV, b"", &[&key, &several], like);

        // What comes after the grouping is windowed like its output: windows may have merged.
        let precombined = draft.new_pcollection(input, &format!("{like}/precombined"), &keyed);
        let grouped = draft.new_pcollection(output, "grouped", &grouped);
        let merged = draft.new_pcollection(output, "merged", &keyed);

        let mut part = |part: &str, urn: &str, inputs: BTreeMap<_, _>, outputs: BTreeMap<_, _>| {
            let mut new = transform.clone();
            new.id = draft.new_id(&transform.id, part);
            new.kind = Kind::Sdk;
            new.spec.urn = urn.to_owned();
            new.inputs = inputs;
            new.outputs = outputs;
            new.heads_stage = false;
            new.stable_input = false;
            new
        };
        let one = |local: &str, id: &_| BTreeMap::from([(local.to_owned(), Clone::clone(id))]);
        let precombine =
            part("precombine", urn::COMBINE_PER_KEY_PRECOMBINE, transform.inputs.clone(), one("out", &precombined));
        let mut group = part("group", primitives::GROUP_BY_KEY, one("in", &precombined), one("out", &grouped));
        group.kind = Kind::GroupByKey;
        group.spec.payload.clear();
        let merge = part("merge", urn::COMBINE_PER_KEY_MERGE_ACCUMULATORS, one("in", &grouped), one("out", &merged));
        let extract =
            part("extract", urn::COMBINE_PER_KEY_EXTRACT_OUTPUTS, one("in", &merged), transform.outputs.clone());
        Ok(vec![precombine, group, merge, extract])
    })
}
