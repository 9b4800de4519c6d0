//! What a ParDo keeps by key: its state cells and timer families, read from its payload.

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::pipeline::state_spec::Spec;
use ferrobeam_proto::urns::standard_user_state_types as protocol;

use super::{CoderName, KeyedParDo, StateSpec, TimerSpec};
use crate::model::{StateKind, TimeDomain};

/// None if it keeps nothing; an error says everything that cannot be kept.
pub(super) fn read(payload: &pb::ParDoPayload) -> Result<Option<KeyedParDo>, Vec<String>> {
    let mut faults = Vec::new();
    let mut keyed = KeyedParDo { time_sorted: payload.requires_time_sorted_input, ..KeyedParDo::default() };
    for (name, spec) in &payload.state_specs {
        match state(name, spec) {
            Ok(state) => keyed.states.push(state),
            Err(fault) => faults.push(fault),
        }
    }
    let expiration = payload.on_window_expiration_timer_family_spec.as_str();
    if !expiration.is_empty() && !payload.timer_family_specs.contains_key(expiration) {
        faults
            .push(format!("names \"{expiration}\" for the expiration of windows, which is none of its timer families"));
    }
    for (family, spec) in &payload.timer_family_specs {
        let domain = match spec.time_domain() {
            pb::time_domain::Enum::EventTime => TimeDomain::EventTime,
            pb::time_domain::Enum::ProcessingTime => TimeDomain::ProcessingTime,
            pb::time_domain::Enum::Unspecified => {
                faults.push(format!("has a timer family \"{family}\" that goes by no time domain known here"));
                continue;
            }
        };
        let on_window_expiration = family == expiration;
        keyed.timers.push(TimerSpec { family: family.clone(), domain, on_window_expiration });
    }
    let keeps = keyed.time_sorted || !keyed.states.is_empty() || !keyed.timers.is_empty();
    if faults.is_empty() { Ok(keeps.then_some(keyed)) } else { Err(faults) }
}

/// The coders that the specification of a cell names: that of map keys, and that of values.
pub(crate) fn coders_of_state(spec: &Spec) -> Vec<&str> {
    match spec {
        Spec::ReadModifyWriteSpec(spec) => vec![&spec.coder_id],
        Spec::BagSpec(spec) => vec![&spec.element_coder_id],
        Spec::CombiningSpec(spec) => vec![&spec.accumulator_coder_id],
        Spec::MapSpec(spec) => vec![&spec.key_coder_id, &spec.value_coder_id],
        Spec::MultimapSpec(spec) => vec![&spec.key_coder_id, &spec.value_coder_id],
        Spec::SetSpec(spec) => vec![&spec.element_coder_id],
        Spec::OrderedListSpec(spec) => vec![&spec.element_coder_id],
    }
}

fn state(name: &str, proto: &pb::StateSpec) -> Result<StateSpec, String> {
    let Some(spec) = &proto.spec else { return Err(format!("keeps state \"{name}\" of a kind unknown here")) };
    let usual = match spec {
        Spec::ReadModifyWriteSpec(_) | Spec::BagSpec(_) | Spec::CombiningSpec(_) => StateKind::Bag,
        Spec::MapSpec(_) | Spec::SetSpec(_) | Spec::MultimapSpec(_) => StateKind::Multimap,
        Spec::OrderedListSpec(_) => StateKind::OrderedList,
    };
    let kind = match proto.protocol.as_ref().map_or("", |protocol| protocol.urn.as_str()) {
        "" => usual,
        protocol::BAG => StateKind::Bag,
        protocol::MULTIMAP => StateKind::Multimap,
        protocol::ORDERED_LIST => StateKind::OrderedList,
        urn => return Err(format!("keeps state \"{name}\" by a protocol unknown here ({urn})")),
    };
    let coders: Vec<CoderName> = coders_of_state(spec).into_iter().map(CoderName::from).collect();
    let value = match (spec, kind) {
        // Its elements are the keys. What an SDK puts for values it does not say: Java nothing, Go a boolean.
        (Spec::SetSpec(_), StateKind::Multimap) => None,
        // Python keeps a set in a bag.
        (Spec::SetSpec(_), StateKind::Bag | StateKind::OrderedList)
        | (
            Spec::ReadModifyWriteSpec(_)
            | Spec::BagSpec(_)
            | Spec::CombiningSpec(_)
            | Spec::MapSpec(_)
            | Spec::MultimapSpec(_)
            | Spec::OrderedListSpec(_),
            StateKind::Bag | StateKind::Multimap | StateKind::OrderedList,
        ) => coders.last().cloned(),
    };
    let single_valued = kind == StateKind::Multimap && !matches!(spec, Spec::MultimapSpec(_));
    Ok(StateSpec { name: name.to_owned(), kind, value, coders, single_valued })
}
