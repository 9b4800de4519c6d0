//! Whether a checkpoint fits the plan that is to start from it: known before anything starts.

use std::collections::BTreeMap;

use super::bundles::element_coder;
use super::keyed::StateForm;
use super::side_inputs::form_of_side_input;
use super::{Job, saved_names, windowed};
use crate::checkpoint::{PartHead, PartKind, Restore, RestoreError};
use crate::plan::{Node, Stage};

/// What an operator of the plan can take over.
enum Taker {
    /// A stage without keys: what it carried.
    Stage(String),
    Keyed(Box<StateForm>),
    /// A store that is written under a description.
    Store(PartKind, String),
}

/// How the input of a stage is encoded: what it carried was written under this description.
pub(crate) fn form_of_input(job: &Job, stage: &Stage) -> String {
    let coder = element_coder(&job.plan, stage.input.collection);
    format!("{}, in {}", coder.value, coder.window)
}

/// Everything that does not fit, by operator, cell and coder. What nobody would take over is an error, too, unless the job
/// lets it be dropped.
pub(crate) fn check(job: &Job, restore: &Restore) -> Result<(), RestoreError> {
    let mut takers: BTreeMap<String, Taker> = BTreeMap::new();
    for node in &job.plan.nodes {
        match node {
            Node::GroupByKey { name, input, windowing, .. } => {
                let form = windowed::form(&element_coder(&job.plan, *input), windowing);
                takers.insert(saved_names::of_grouping(name), Taker::Store(PartKind::Grouping, form));
            }
            Node::Stage(id) => {
                let stage = &job.plan.stages[id.0 as usize];
                let taker = match &stage.keyed {
                    Some(keyed) => Taker::Keyed(Box::new(StateForm::of(job, *id, keyed))),
                    None => Taker::Stage(form_of_input(job, stage)),
                };
                takers.insert(saved_names::of_stage(stage), taker);
                for side_input in &stage.side_inputs {
                    let form = form_of_side_input(job, side_input.collection, side_input.access);
                    let name = saved_names::of_side_input(stage, side_input);
                    takers.insert(name, Taker::Store(PartKind::SideInput, form));
                }
            }
            Node::Impulse { .. } | Node::Flatten { .. } | Node::Redistribute { .. } | Node::TestStream { .. } => {}
        }
    }
    let mut wrong = Vec::new();
    for operator in restore.operators() {
        let heads = || restore.of(operator).iter().map(|part| &part.head);
        if heads().all(|head| !head.has_store && head.carried == 0) {
            continue;
        }
        match takers.get(operator) {
            None if job.settings.allow_non_restored_state => {}
            None => wrong.push(format!(
                "- {operator}: the pipeline has it no more, or it has another name now: allow_non_restored_state drops it"
            )),
            Some(taker) => wrong.extend(heads().find_map(|head| taker.refuses(operator, head))),
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(RestoreError::Misfit(wrong)) }
}

impl Taker {
    fn refuses(&self, operator: &str, head: &PartHead) -> Option<String> {
        let (kind, form) = match self {
            Taker::Stage(form) => (PartKind::Stage, Some(form)),
            Taker::Store(kind, form) => (*kind, Some(form)),
            Taker::Keyed(_) => (PartKind::Keyed, None),
        };
        if kind != head.kind {
            let (saved, now) = (head.kind, kind);
            return Some(format!("- {operator}: it was saved as a {saved}, and is now a {now}"));
        }
        if let Taker::Keyed(state) = self {
            return state.refuses(head).map(|why| format!("- {operator}: {why}"));
        }
        // A stage that carried nothing took nothing over.
        let form = form.filter(|form| head.form != **form && (head.has_store || head.carried > 0))?;
        Some(format!("- {operator}: it was saved as {}, and is now {form}", head.form))
    }
}
