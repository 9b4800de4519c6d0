//! Whether a checkpoint fits the plan that is to start from it: known before anything starts.

use std::collections::BTreeMap;

use super::bundles::element_coder;
use super::keyed::StateForm;
use super::side_inputs::form_of_side_input;
use super::{kafka, saved_names, windowed};
use crate::checkpoint::{PartHead, PartKind, Restore, RestoreError};
use crate::plan::{Node, Plan, Stage};

/// What becomes of the parts of a checkpoint that fits a plan: names of operators, and of what in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fit {
    /// Goes on with what was saved.
    pub taken_over: Vec<String>,
    /// Is new, and begins with nothing.
    pub begins_empty: Vec<String>,
    /// Was saved, and is given up because the job allows it.
    pub dropped: Vec<String>,
}

/// What an operator of the plan can take over.
enum Taker {
    /// A stage without keys: what it carried.
    Stage(String),
    Keyed(Box<StateForm>),
    /// A store that is written under a description.
    Store(PartKind, String),
}

/// How the input of a stage is encoded: what it carried was written under this description.
pub(crate) fn form_of_input(plan: &Plan, stage: &Stage) -> String {
    let coder = element_coder(plan, stage.input.collection);
    format!("{}, in {}", coder.value, coder.window)
}

/// Compares a checkpoint with the plan that is to start from it. An error names everything that does not fit, by operator,
/// cell and coder; what nobody would take over is one, too, unless `allow_non_restored_state`.
pub fn compare(plan: &Plan, restore: &Restore, allow_non_restored_state: bool) -> Result<Fit, RestoreError> {
    let mut takers: BTreeMap<String, Taker> = BTreeMap::new();
    for node in &plan.nodes {
        match node {
            Node::GroupByKey { name, input, windowing, .. } => {
                let form = windowed::form(&element_coder(plan, *input), windowing);
                takers.insert(saved_names::of_grouping(name), Taker::Store(PartKind::Grouping, form));
            }
            Node::Stage(id) => {
                let stage = &plan.stages[id.0 as usize];
                let taker = match &stage.keyed {
                    Some(keyed) => Taker::Keyed(Box::new(StateForm::of(plan, *id, keyed, allow_non_restored_state))),
                    None => Taker::Stage(form_of_input(plan, stage)),
                };
                takers.insert(saved_names::of_stage(stage), taker);
                for side_input in &stage.side_inputs {
                    let form = form_of_side_input(plan, side_input.collection, side_input.access);
                    let name = saved_names::of_side_input(stage, side_input);
                    takers.insert(name, Taker::Store(PartKind::SideInput, form));
                }
            }
            Node::KafkaRead { name, .. } => {
                let taker = Taker::Store(PartKind::KafkaRead, kafka::read::FORM.to_owned());
                takers.insert(saved_names::of_kafka_read(name), taker);
            }
            Node::KafkaWrite { name, input, .. } => {
                let form = kafka::write::form(&element_coder(plan, *input));
                takers.insert(saved_names::of_kafka_write(name), Taker::Store(PartKind::KafkaWrite, form));
            }
            Node::Impulse { .. } | Node::Flatten { .. } | Node::Redistribute { .. } | Node::TestStream { .. } => {}
        }
    }
    let (mut fit, mut wrong) = (Fit::default(), Vec::new());
    for operator in restore.operators() {
        let heads = || restore.of(operator).iter().map(|part| &part.head);
        let is_empty = heads().all(PartHead::is_empty);
        match takers.get(operator) {
            _ if is_empty => {}
            None if allow_non_restored_state => fit.dropped.push(operator.to_owned()),
            None => wrong.push(format!(
                "- {operator}: the pipeline has it no more, or it has another name now: transform_name_mapping says which, \
                 allow_non_restored_state drops it"
            )),
            Some(taker) => match heads().find_map(|head| taker.refuses(operator, head)) {
                Some(why) => wrong.push(why),
                None => {
                    fit.taken_over.push(operator.to_owned());
                    if let (Taker::Keyed(form), Some(head)) = (taker, heads().next()) {
                        form.note_changes(head, &mut fit);
                    }
                }
            },
        }
    }
    let new = |(name, taker): (&String, &Taker)| {
        (!matches!(taker, Taker::Stage(_)) && restore.of(name).is_empty()).then(|| name.clone())
    };
    fit.begins_empty.extend(takers.iter().filter_map(new));
    if wrong.is_empty() { Ok(fit) } else { Err(RestoreError::Misfit(wrong)) }
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
        let form = form.filter(|form| head.form != **form && !head.is_empty())?;
        Some(format!("- {operator}: it was saved as {}, and is now {form}", head.form))
    }
}
