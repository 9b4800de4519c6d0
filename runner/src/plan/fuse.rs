//! Greedy fusion: which SDK transforms run in one bundle.
//!
//! A transform joins the stage that gives its main input, if both run in one environment; failing that, a stage that
//! reads the same collection (a sibling), so that the collection crosses to the harness once; failing that, it heads a
//! stage of its own. Some must head one: what has to see stable input, splittable processing, and whatever keeps state
//! by key, so that there is at most one such in a stage and its key is that of the stage's input.
//!
//! The stages and the runner's own steps must form a graph without cycles, or nothing could ever start. Main inputs
//! alone never close one, for a joiner waits for nothing that its stage does not wait for. Side inputs may: a stage may
//! not read what it gives, directly or through others. So whoever has side inputs joins only a stage that none of them
//! depends on, found by a search backwards over the stages as they are at that point.
//!
//! What reads a side input that grows waits, before its stage, for the side windows of the elements' own windows. So it
//! does not join a stage that gives them new windows before it reads them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ferrobeam_proto::urns::global_windows_payload;
use ferrobeam_proto::urns::standard_ptransforms::{primitives, splittable_par_do_components as splittable};

use super::bounds;
use super::draft::Draft;
use crate::pipeline::{EnvironmentName, PCollectionName, Transform, trigger};

/// A stage as a set of transforms.
#[derive(Debug)]
pub(super) struct FusedStage {
    pub(super) environment: EnvironmentName,
    /// The collection that feeds all heads.
    pub(super) input: PCollectionName,
    /// Indices of transforms, ascending, so in topological order.
    pub(super) members: Vec<usize>,
    /// Its head processes sized restrictions. Residuals come back to the stage's input, so nothing else may read there.
    pub(super) splittable: bool,
    /// Its head keeps state or timers. Input waits for its key's turn, so nothing else may read there.
    pub(super) keyed: bool,
    /// Elements get new windows in it.
    rewindows: bool,
}

/// The stages, and the stage of each transform; none for those that the runner runs.
pub(super) struct Fusion {
    pub(super) stages: Vec<FusedStage>,
    pub(super) stage_of: Vec<Option<usize>>,
}

/// Fuses a draft's transforms, which are in topological order.
pub(super) fn fuse(draft: &Draft) -> Fusion {
    let transforms = &draft.transforms;
    let unbounded = bounds::unbounded(transforms, &draft.pcollections);
    let producers: BTreeMap<&PCollectionName, usize> = transforms
        .iter()
        .enumerate()
        .flat_map(|(index, transform)| transform.outputs.values().map(move |output| (output, index)))
        .collect();
    let mut fusion = Fusion { stages: Vec::new(), stage_of: vec![None; transforms.len()] };
    let mut readers: BTreeMap<(&PCollectionName, &EnvironmentName), Vec<usize>> = BTreeMap::new();
    for (index, transform) in transforms.iter().enumerate() {
        let (true, Some(environment), Some((_, input))) =
            (transform.is_sdk(), &transform.environment, transform.main_input())
        else {
            continue;
        };
        let splittable = transform.spec.urn == splittable::PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS;
        let giver = producers
            .get(input)
            .and_then(|producer| fusion.stage_of[*producer])
            .filter(|stage| !transform.heads_stage && fusion.stages[*stage].environment == *environment)
            .filter(|stage| !waits_by_window(draft, &unbounded, transform) || !fusion.stages[*stage].rewindows);
        let siblings = readers.get(&(input, environment)).into_iter().flatten().copied();
        let keyed = transform.keyed.is_some();
        let alone = |stage: &FusedStage| stage.splittable || stage.keyed;
        let siblings = siblings.filter(|stage| !splittable && !keyed && !alone(&fusion.stages[*stage]));
        let joined =
            giver.into_iter().chain(siblings).find(|stage| !fusion.depends(transforms, &producers, transform, *stage));
        let stage = joined.unwrap_or_else(|| {
            fusion.stages.push(FusedStage {
                environment: environment.clone(),
                input: input.clone(),
                members: Vec::new(),
                splittable,
                keyed,
                rewindows: false,
            });
            readers.entry((input, environment)).or_default().push(fusion.stages.len() - 1);
            fusion.stages.len() - 1
        });
        fusion.stages[stage].members.push(index);
        fusion.stages[stage].rewindows |= transform.spec.urn == primitives::ASSIGN_WINDOWS;
        fusion.stage_of[index] = Some(stage);
    }
    fusion
}

/// Whether it reads a side input before that has ended, by the windows of its main input.
fn waits_by_window(draft: &Draft, unbounded: &BTreeSet<PCollectionName>, transform: &Transform) -> bool {
    let mut sides = transform.side_inputs.keys().filter_map(|local| transform.inputs.get(local));
    sides.any(|side| {
        let (_, strategy) = draft.windowing_of(side);
        let trigger = trigger(strategy.trigger.as_ref());
        let whole = !unbounded.contains(side) && trigger.is_ok_and(|trigger| trigger.waits_for_the_end());
        let global = global_windows_payload::PROPERTIES;
        !whole && strategy.window_fn.as_ref().is_none_or(|window_fn| window_fn.urn != global)
    })
}

impl Fusion {
    /// Whether a side input of `transform` depends on `stage`.
    fn depends(
        &self,
        transforms: &[Transform],
        producers: &BTreeMap<&PCollectionName, usize>,
        transform: &Transform,
        stage: usize,
    ) -> bool {
        let side_inputs = transform.side_inputs.keys().filter_map(|local| transform.inputs.get(local));
        let mut todo: Vec<usize> = side_inputs.filter_map(|input| producers.get(input).copied()).collect();
        let (mut seen_stages, mut seen) = (HashSet::new(), HashSet::new());
        while let Some(index) = todo.pop() {
            let members = match self.stage_of[index] {
                Some(found) if found == stage => return true,
                Some(found) if !seen_stages.insert(found) => continue,
                Some(found) => self.stages[found].members.as_slice(),
                None => &[index],
            };
            for member in members {
                if seen.insert(*member) {
                    todo.extend(transforms[*member].inputs.values().filter_map(|input| producers.get(input).copied()));
                }
            }
        }
        false
    }
}
