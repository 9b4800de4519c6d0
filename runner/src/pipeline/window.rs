//! Checks and readings of windowing strategies.

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::urns;
use prost::Message;

use super::refusal::Findings;
use crate::windowing::Merging;

/// What a grouping by this strategy has to do about merging.
pub(crate) fn merging(strategy: &pb::WindowingStrategy) -> Merging {
    if strategy.merge_status() != pb::merge_status::Enum::NeedsMerge {
        return Merging::None;
    }
    match strategy.window_fn.as_ref().map(|window_fn| window_fn.urn.as_str()) {
        Some(urns::session_windows_payload::PROPERTIES) => Merging::Sessions,
        _ => Merging::Custom,
    }
}

/// Checks what can be checked of a window function: the standard ones have payloads with rules.
pub(super) fn check(id: &str, strategy: &pb::WindowingStrategy, findings: &mut Findings) {
    let Some(window_fn) = &strategy.window_fn else {
        findings.pipeline(format!("windowing strategy \"{id}\" has no window function"));
        return;
    };
    let payload = window_fn.payload.clone();
    let fault = match window_fn.urn.as_str() {
        "" => Some("has a window function without a URN".to_owned()),
        urns::fixed_windows_payload::PROPERTIES => match pb::FixedWindowsPayload::decode(payload) {
            Ok(fixed) => positive("size", fixed.size.map(|d| (d.seconds, d.nanos))),
            Err(error) => Some(malformed(&error)),
        },
        urns::sliding_windows_payload::PROPERTIES => match pb::SlidingWindowsPayload::decode(payload) {
            Ok(sliding) => positive("size", sliding.size.map(|d| (d.seconds, d.nanos)))
                .or_else(|| positive("period", sliding.period.map(|d| (d.seconds, d.nanos)))),
            Err(error) => Some(malformed(&error)),
        },
        urns::session_windows_payload::PROPERTIES => match pb::SessionWindowsPayload::decode(payload) {
            Ok(sessions) => positive("gap size", sessions.gap_size.map(|d| (d.seconds, d.nanos))),
            Err(error) => Some(malformed(&error)),
        },
        _ => None,
    };
    if let Some(fault) = fault {
        findings.pipeline(format!("windowing strategy \"{id}\" {fault}"));
    }
}

fn malformed(error: &prost::DecodeError) -> String {
    format!("has a window function whose payload cannot be read: {error}")
}

/// A complaint unless the duration (seconds, nanoseconds) is there and positive.
fn positive(what: &str, duration: Option<(i64, i32)>) -> Option<String> {
    (duration.unwrap_or_default() <= (0, 0)).then(|| format!("has a window function whose {what} is not positive"))
}
