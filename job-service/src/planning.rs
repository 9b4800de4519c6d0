//! From a submitted pipeline to its plan, or to everything that is wrong with it.

use ferrobeam_proto::pipeline as pb;
use ferrobeam_runner::pipeline::{Pipeline, Refusal, Unbounded};
use ferrobeam_runner::plan::{self, Plan, PlanOptions};

/// Validates and plans.
///
/// A pipeline with unbounded input runs as long as nothing in it waits for a watermark; the refusal of any other names
/// where the unbounded input begins.
pub fn plan(pipeline: &pb::Pipeline) -> Result<Plan, Refusal> {
    let validated = Pipeline::validate(pipeline.clone(), Unbounded::RunUntilItEnds)?;
    let waits = validated.waits_for_the_end().next().is_some();
    let validated = if waits { Pipeline::new(pipeline.clone())? } else { validated };
    let plan = plan::build(&validated, &PlanOptions::default())?;
    tracing::debug!("planned:\n{plan}");
    Ok(plan)
}
