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

/// A pipeline as it is to be run from now on, whoever takes it over.
#[derive(Debug)]
pub struct Accepted {
    /// What was handed in, or with transforms of the runner's own in it.
    pub pipeline: pb::Pipeline,
    /// Of that.
    pub understood: Understood,
}

/// Validates and plans what a client hands in.
pub fn accept(submitted: pb::Pipeline, options: &prost_types::Struct) -> Result<Accepted, NotUnderstood> {
    let by_sdk = options::parse(options)?.0.kafka_by_sdk;
    let Some(recognised) = expansion::recognise(&submitted).filter(|_| !by_sdk) else {
        let understood = understand(&submitted, options)?;
        return Ok(Accepted { pipeline: submitted, understood });
    };
    let Recognised { pipeline, replaced, left } = recognised;
    let mut said: Vec<String> = left
        .into_iter()
        .map(|left| format!("Kafka runs in its SDK's environment, as it was expanded, in {left}"))
        .collect();
    let names = replaced.join(", ");
    let mut accepted = match understand(&pipeline, options) {
        Ok(understood) => {
            if !replaced.is_empty() {
                said.push(format!(
                    "Kafka is read and written by Ferrobeam itself in {names}, which an expansion service of the SDK's made \
                     (ferrobeam_kafka_by_sdk leaves that to it)"
                ));
            }
            Accepted { pipeline, understood }
        }
        Err(refusal) => {
            let understood = understand(&submitted, options)?;
            said.push(format!("Kafka runs in its SDK's environment, as it was expanded, in {names}: {refusal}"));
            Accepted { pipeline: submitted, understood }
        }
    };
    accepted.understood.remarks.extend(said.into_iter().map(|text| Message::now(Importance::Basic, text)));
    Ok(accepted)
}

/// Validates and plans a pipeline that was accepted.
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
