//! What the operators of a plan are called in a checkpoint.

use crate::checkpoint::names;
use crate::plan::{SideInput, Stage};

/// Of a stage.
pub(crate) fn of_stage(stage: &Stage) -> String {
    names::of_stage(&stage.name)
}

/// Of the grouping that a transform is.
pub(crate) fn of_grouping(transform: &str) -> String {
    names::of_grouping(transform)
}

/// Of the Kafka source that a transform is.
pub(crate) fn of_kafka_read(transform: &str) -> String {
    names::of_kafka_read(transform)
}

/// Of the Kafka sink that a transform is.
pub(crate) fn of_kafka_write(transform: &str) -> String {
    names::of_kafka_write(transform)
}

/// Of the table of a side input.
pub(crate) fn of_side_input(stage: &Stage, side_input: &SideInput) -> String {
    let transform = stage.transforms.iter().find(|(id, _)| *id == side_input.transform);
    let transform = transform.map_or(&side_input.transform, |(_, name)| name);
    names::of_side_input(&side_input.local_name, transform, side_input.access)
}
