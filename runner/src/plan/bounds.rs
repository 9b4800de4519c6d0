//! Which collections end of themselves.
//!
//! SDKs say it of each, and a collection made of an unbounded one is unbounded whatever they say: Python's `assert_that`
//! calls what it groups bounded, to be spared a check. A TestStream's are unbounded, too: they end only when all effects
//! of its events are over, and what waits for the end of its input is one.

use std::collections::{BTreeMap, BTreeSet};

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::pipeline::is_bounded::Enum as Said;

use crate::pipeline::{Kind, PCollectionName, Transform};

/// The unbounded collections; `transforms` are in topological order. A side input may be unbounded and its reader's
/// output not: the output ends with the main input.
pub(super) fn unbounded(
    transforms: &[Transform],
    pcollections: &BTreeMap<PCollectionName, pb::PCollection>,
) -> BTreeSet<PCollectionName> {
    let mut unbounded = BTreeSet::new();
    for transform in transforms {
        let from_unbounded = transform.main_inputs().any(|(_, input)| unbounded.contains(input));
        for output in transform.outputs.values() {
            let said = pcollections.get(output).map(pb::PCollection::is_bounded);
            if from_unbounded || never_ends(&transform.kind) || said == Some(Said::Unbounded) {
                unbounded.insert(output.clone());
            }
        }
    }
    unbounded
}

/// Whether what a transform of this kind gives is unbounded whatever is said of it.
fn never_ends(kind: &Kind) -> bool {
    match kind {
        Kind::TestStream { .. } => true,
        Kind::KafkaRead(read) => !read.is_bounded(),
        Kind::Impulse
        | Kind::KafkaWrite(_)
        | Kind::Flatten
        | Kind::GroupByKey
        | Kind::Redistribute { .. }
        | Kind::CombinePerKey { .. }
        | Kind::Splittable { .. }
        | Kind::Sdk => false,
    }
}
