//! Order among transforms.

use std::collections::{BTreeMap, BTreeSet};

use super::{PCollectionName, Transform};

/// The transforms' indices with producers before consumers; among those that are ready, the order given is kept. An error
/// holds the indices that stand on or behind a cycle.
pub(crate) fn topological_order(transforms: &[Transform]) -> Result<Vec<usize>, Vec<usize>> {
    let mut consumers: BTreeMap<&PCollectionName, Vec<usize>> = BTreeMap::new();
    let produced: BTreeSet<&PCollectionName> = transforms.iter().flat_map(|t| t.outputs.values()).collect();
    let mut waits_for = vec![0usize; transforms.len()];
    for (index, transform) in transforms.iter().enumerate() {
        for input in transform.inputs.values().filter(|input| produced.contains(*input)) {
            consumers.entry(input).or_default().push(index);
            waits_for[index] += 1;
        }
    }
    let mut ready: BTreeSet<usize> = (0..transforms.len()).filter(|index| waits_for[*index] == 0).collect();
    let mut order = Vec::with_capacity(transforms.len());
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for output in transforms[index].outputs.values() {
            for consumer in consumers.get(output).into_iter().flatten() {
                waits_for[*consumer] -= 1;
                if waits_for[*consumer] == 0 {
                    ready.insert(*consumer);
                }
            }
        }
    }
    if order.len() == transforms.len() {
        Ok(order)
    } else {
        Err((0..transforms.len()).filter(|index| waits_for[*index] > 0).collect())
    }
}
