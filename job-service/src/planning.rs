//! From a submitted pipeline to its plan, or to everything that is wrong with it.

use ferrobeam_proto::pipeline as pb;
use ferrobeam_runner::pipeline::{Pipeline, Refusal};
use ferrobeam_runner::plan::{self, CollectionId, Node, Plan, PlanOptions};

/// Validates and plans.
pub fn plan(pipeline: &pb::Pipeline) -> Result<Plan, Refusal> {
    let plan = plan::build(&Pipeline::new(pipeline.clone())?, &PlanOptions::default())?;
    tracing::debug!("planned:\n{plan}");
    Refusal::of_transforms(lacking(&plan)).map_or(Ok(plan), Err)
}

/// What of the plan no operator can do yet, with the transform that asks for it.
fn lacking(plan: &Plan) -> Vec<(String, String)> {
    let mut lacking = Vec::new();
    let mut lacks =
        |name: &str, what: &str| lacking.push((name.to_owned(), format!("{what}, which is not supported yet")));
    let unbounded = |id: CollectionId| plan.collections.get(id.0 as usize).is_some_and(|it| !it.bounded);
    for node in &plan.nodes {
        match node {
            Node::GroupByKey { name, bounded: false, .. } => lacks(name, "groups unbounded input"),
            Node::Stage(id) => {
                let Some(stage) = plan.stages.get(id.0 as usize) else { continue };
                if stage.side_inputs.iter().any(|side_input| unbounded(side_input.collection)) {
                    lacks(&stage.name, "reads an unbounded side input");
                }
            }
            _ => {}
        }
    }
    lacking
}
