//! From a submitted pipeline and its options to what is to be run, or to everything that is wrong with them.

use ferrobeam_proto::pipeline as pb;
use ferrobeam_runner::pipeline::{Pipeline, Refusal};
use ferrobeam_runner::plan::{self, Plan, PlanOptions};

use crate::expansion::{self, Recognised};
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
    let mut remarks: Vec<Message> = remarks
        .into_iter()
        .map(|remark| match remark {
            Remark::Accepted(text) => Message::now(Importance::Basic, text),
            Remark::Warned(text) => Message::now(Importance::Warning, text),
        })
        .collect();
    let durable = options.checkpoints.is_some();
    let recognised = if options.kafka_by_sdk { None } else { expansion::recognise(pipeline) };
    let plan = match recognised {
        Some(recognised) => native(pipeline, recognised, durable, &mut remarks)?,
        None => plan(pipeline, durable)?,
    };
    Ok(Understood { options, remarks, plan })
}

/// Plans a pipeline with transforms of the runner's own in it, or as it was submitted, if that cannot be. Says which.
fn native(
    submitted: &pb::Pipeline,
    recognised: Recognised,
    durable: bool,
    remarks: &mut Vec<Message>,
) -> Result<Plan, Refusal> {
    let Recognised { pipeline, replaced, left } = recognised;
    let mut say = |text: String| remarks.push(Message::now(Importance::Basic, text));
    for left in left {
        say(format!("Kafka runs in its SDK's environment, as it was expanded, in {left}"));
    }
    if replaced.is_empty() {
        return plan(submitted, durable);
    }
    let names = replaced.join(", ");
    match plan(&pipeline, durable) {
        Ok(plan) => {
            say(format!(
                "Kafka is read and written by Ferrobeam itself in {names}, which an expansion service of the SDK's made \
                 (ferrobeam_kafka_by_sdk leaves that to it)"
            ));
            Ok(plan)
        }
        Err(refusal) => {
            let plan = plan(submitted, durable)?;
            say(format!("Kafka runs in its SDK's environment, as it was expanded, in {names}: {refusal}"));
            Ok(plan)
        }
    }
}

/// Validates and plans a pipeline. `durable`: the job takes checkpoints.
pub fn plan(pipeline: &pb::Pipeline, durable: bool) -> Result<Plan, Refusal> {
    let plan = plan::build(&Pipeline::new(pipeline.clone())?, &PlanOptions { durable })?;
    tracing::debug!("planned:\n{plan}");
    Ok(plan)
}
