//! Splittable ParDos are taken apart: pair each element with its restriction, split and size that, spread the parts over
//! the workers, process them.
//!
//! The restriction's coder of the payload is one of `KV<restriction, watermark estimator state>` already. All parts have
//! the whole payload and read all side inputs, because an SDK may call user code that reads them at each.

use std::collections::BTreeMap;

use ferrobeam_proto::urns::standard_coders as coder;
use ferrobeam_proto::urns::standard_ptransforms::{composites, splittable_par_do_components as urn};

use super::draft::Draft;
use crate::pipeline::{Kind, PCollectionName, Refusal};

pub(super) fn expand(draft: &mut Draft) -> Result<(), Refusal> {
    draft.rewrite(|draft, transform| {
        let Kind::Splittable { restriction } = &transform.kind else { return Ok(vec![transform]) };
        let Some((local, input)) = transform.main_input() else { return Ok(vec![transform]) };
        let like = transform.id.0.as_str();
        let element = draft.coder_of(input);
        let paired = draft.coders.make(coder::KV, b"", &[&element, restriction], like);
        let size = draft.coders.make(coder::DOUBLE, b"", &[], like);
        let sized = draft.coders.make(coder::KV, b"", &[&paired, &size], like);

        let paired = draft.new_pcollection(input, &format!("{like}/paired"), &paired);
        let split = draft.new_pcollection(input, &format!("{like}/sized"), &sized);
        let spread = draft.new_pcollection(input, &format!("{like}/spread"), &sized);

        let mut part = |part: &str, urn: &str, main: &PCollectionName, output: Option<&PCollectionName>| {
            let mut new = transform.clone();
            new.id = draft.new_id(&transform.id, part);
            new.kind = Kind::Sdk;
            new.spec.urn = urn.to_owned();
            new.inputs.insert(local.clone(), main.clone());
            if let Some(output) = output {
                new.outputs = BTreeMap::from([("out".to_owned(), output.clone())]);
            }
            new.heads_stage = false;
            new.stable_input = false;
            new.finalizes = false;
            new
        };
        let mut pair = part("pair", urn::PAIR_WITH_RESTRICTION, input, Some(&paired));
        pair.heads_stage = transform.heads_stage;
        pair.stable_input = transform.stable_input;
        let split_and_size = part("split", urn::SPLIT_AND_SIZE_RESTRICTIONS, &paired, Some(&split));
        let mut redistribute = part("spread", composites::REDISTRIBUTE_ARBITRARILY, &split, Some(&spread));
        redistribute.kind = Kind::Redistribute { by_key: false };
        redistribute.spec.payload.clear();
        redistribute.inputs.retain(|name, _| name == local);
        redistribute.side_inputs.clear();
        // The user's own id stays with the part that runs the user's code, for its metrics and messages.
        let mut process = part("process", urn::PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS, &spread, None);
        process.id = transform.id.clone();
        process.heads_stage = true;
        process.finalizes = transform.finalizes;
        Ok(vec![pair, split_and_size, redistribute, process])
    })
}
