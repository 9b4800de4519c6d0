//! From a submitted pipeline and its options to what is to be run, or to everything that is wrong with them.

use ferrobeam_proto::pipeline as pb;
use ferrobeam_runner::pipeline::{Pipeline, Refusal};
use ferrobeam_runner::plan::{self, Plan, PlanOptions};

use crate::job::{Importance, Message};
use crate::options::{self, JobOptions, OptionsRefused, Remark};

/// What a client handed in, understood.
#[derive(Debug)]
pub struct Understood {
    /// The options.
    pub options: JobOptions,
    /// What there is to say about them.
    pub remarks: Vec<Message>,
    /// The plan of the pipeline.
    pub plan: Plan,
}

/// Why it cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum NotUnderstood {
    /// The options.
    #[error(transparent)]
    Options(#[from] OptionsRefused),
    /// The pipeline.
    #[error(transparent)]
    Pipeline(#[from] Refusal),
}

/// Validates and plans.
pub fn understand(pipeline: &pb::Pipeline, submitted: &prost_types::Struct) -> Result<Understood, NotUnderstood> {
    let (options, remarks) = options::parse(submitted)?;
    let plan = plan(pipeline, options.checkpoints.is_some())?;
    let remarks = remarks.into_iter().map(|remark| match remark {
        Remark::Accepted(text) => Message::now(Importance::Basic, text),
        Remark::Warned(text) => Message::now(Importance::Warning, text),
    });
    Ok(Understood { options, remarks: remarks.collect(), plan })
}

/// Validates and plans a pipeline. `durable`: the job takes checkpoints.
pub fn plan(pipeline: &pb::Pipeline, durable: bool) -> Result<Plan, Refusal> {
    let plan = plan::build(&Pipeline::new(pipeline.clone())?, &PlanOptions { durable })?;
    tracing::debug!("planned:\n{plan}");
    Ok(plan)
}
