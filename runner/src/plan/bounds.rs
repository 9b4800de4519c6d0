//! Which collections end of themselves.
//!
//! SDKs say it of each, and a collection made of an unbounded one is unbounded whatever they say: Python's `assert_that`
//! calls what it groups bounded, to be spared a check.

use std::collections::{BTreeMap, BTreeSet};

use ferrobeam_proto::pipeline as pb;

use crate::pipeline::{PCollectionName, Transform};

/// The unbounded collections; `transforms` are in topological order. A side input may be unbounded and its reader's
/// output not: the output ends with the main input.
pub(super) fn unbounded(
    transforms: &[Transform],
    pcollections: &BTreeMap<PCollectionName, pb::PCollection>,
) -> BTreeSet<PCollectionName> {
    let mut unbounded = BTreeSet::new();
    for transform in transforms {
        let from_unbounded = transform.main_inputs().any(|(_, input)| unbounded.contains(input));
        unbounded
            .extend(transform.outputs.values().filter(|output| from_unbounded || says(pcollections, output)).cloned());
    }
    unbounded
}

fn says(pcollections: &BTreeMap<PCollectionName, pb::PCollection>, name: &PCollectionName) -> bool {
    pcollections.get(name).is_some_and(|proto| proto.is_bounded() == pb::is_bounded::Enum::Unbounded)
}
