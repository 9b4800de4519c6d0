//! From a submitted pipeline to its plan, or to everything that is wrong with it.

use ferrobeam_proto::pipeline as pb;
use ferrobeam_runner::pipeline::{Pipeline, Refusal};
use ferrobeam_runner::plan::{self, Plan, PlanOptions};

/// Validates and plans. `durable`: the job takes checkpoints.
pub fn plan(pipeline: &pb::Pipeline, durable: bool) -> Result<Plan, Refusal> {
    let plan = plan::build(&Pipeline::new(pipeline.clone())?, &PlanOptions { durable })?;
    tracing::debug!("planned:\n{plan}");
    Ok(plan)
}
