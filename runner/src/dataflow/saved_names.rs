//! What operators are called in a checkpoint: by the pipeline's own names, and by no position in it.

use crate::plan::{SideInput, Stage};

/// Of a stage, which is called after its first transform.
pub(crate) fn of_stage(stage: &Stage) -> String {
    format!("stage {}", stage.name)
}

/// Of the grouping that a transform is.
pub(crate) fn of_grouping(transform: &str) -> String {
    format!("group {transform}")
}

/// Of the table of a side input, which is called after the first transform that reads it.
pub(crate) fn of_side_input(stage: &Stage, side_input: &SideInput) -> String {
    let transform = stage.transforms.iter().find(|(id, _)| *id == side_input.transform);
    let transform = transform.map_or(&side_input.transform, |(_, name)| name);
    format!("side input {} of {transform}, as {}", side_input.local_name, side_input.access)
}
