//! Checks and readings of windowing strategies.

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::urns;
use prost::Message;

use super::refusal::Findings;
use super::trigger::trigger;
use crate::windowing::{
    Accumulation, ClosingBehavior, Merging, OnTimeBehavior, TimestampCombiner, Trigger, WindowCoder, Windowing,
};

/// Reads a strategy whose windows are encoded by `window_coder`. What an SDK left unsaid is what Beam's SDKs have for
/// their default.
pub(crate) fn windowing(strategy: &pb::WindowingStrategy, window_coder: WindowCoder) -> Windowing {
    let merging = match merging(strategy) {
        // Sessions of an SDK that encodes its windows in its own way: it merges them too.
        Merging::Sessions if window_coder != WindowCoder::Interval => Merging::Custom,
        merging @ (Merging::None | Merging::Sessions | Merging::Custom) => merging,
    };
    Windowing {
        window_coder,
        merging,
        timestamp_combiner: match strategy.output_time() {
            pb::output_time::Enum::LatestInPane => TimestampCombiner::Latest,
            pb::output_time::Enum::EarliestInPane => TimestampCombiner::Earliest,
            pb::output_time::Enum::EndOfWindow | pb::output_time::Enum::Unspecified => TimestampCombiner::EndOfWindow,
        },
        // Validation refused what cannot be read.
        trigger: trigger(strategy.trigger.as_ref()).unwrap_or(Trigger::Default),
        accumulation: match strategy.accumulation_mode() {
            pb::accumulation_mode::Enum::Accumulating => Accumulation::Accumulating,
            // Groupings that retract were refused.
            pb::accumulation_mode::Enum::Discarding
            | pb::accumulation_mode::Enum::Retracting
            | pb::accumulation_mode::Enum::Unspecified => Accumulation::Discarding,
        },
        allowed_lateness: strategy.allowed_lateness,
        closing: match strategy.closing_behavior() {
            pb::closing_behavior::Enum::EmitAlways => ClosingBehavior::EmitAlways,
            pb::closing_behavior::Enum::EmitIfNonempty | pb::closing_behavior::Enum::Unspecified => {
                ClosingBehavior::EmitIfNonempty
            }
        },
        on_time: match strategy.on_time_behavior() {
            pb::on_time_behavior::Enum::FireIfNonempty => OnTimeBehavior::FireIfNonempty,
            pb::on_time_behavior::Enum::FireAlways | pb::on_time_behavior::Enum::Unspecified => {
                OnTimeBehavior::FireAlways
            }
        },
    }
}

/// What a grouping by this strategy has to do about merging.
fn merging(strategy: &pb::WindowingStrategy) -> Merging {
    if strategy.merge_status() != pb::merge_status::Enum::NeedsMerge {
        return Merging::None;
    }
    match strategy.window_fn.as_ref().map(|window_fn| window_fn.urn.as_str()) {
        Some(urns::session_windows_payload::PROPERTIES) => Merging::Sessions,
        _ => Merging::Custom,
    }
}

/// Checks what can be checked: the trigger, and of the window function, if it is a standard one, its payload's rules.
pub(super) fn check(id: &str, strategy: &pb::WindowingStrategy, findings: &mut Findings) {
    if let Err(fault) = trigger(strategy.trigger.as_ref()) {
        findings.pipeline(format!("windowing strategy \"{id}\" {fault}"));
    }
    if strategy.allowed_lateness < 0 {
        findings.pipeline(format!("windowing strategy \"{id}\" allows a negative lateness"));
    }
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
