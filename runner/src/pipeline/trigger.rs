//! Reading triggers, and what planning must know of them.

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::pipeline::timestamp_transform::TimestampTransform as Step;
use ferrobeam_proto::pipeline::trigger::Trigger as Kind;

use crate::windowing::{TimestampTransform, Trigger};

/// Reads a trigger; one that was left out is the default. The error says what is wrong with it.
///
/// Recursion here and below is bounded, because decoding a message bounds how deeply it nests.
pub(crate) fn trigger(proto: Option<&pb::Trigger>) -> Result<Trigger, String> {
    let Some(proto) = proto else { return Ok(Trigger::Default) };
    let Some(kind) = &proto.trigger else { return Err("has a trigger of a kind unknown here".to_owned()) };
    let all = |triggers: &[pb::Trigger]| match triggers {
        [] => Err("has a trigger made of no others".to_owned()),
        some => some.iter().map(|proto| trigger(Some(proto))).collect::<Result<Vec<_>, _>>(),
    };
    let one = |proto: &Option<Box<pb::Trigger>>| match proto {
        Some(proto) => trigger(Some(proto)).map(Box::new),
        None => Err("has a trigger that lacks a part".to_owned()),
    };
    let optional = |proto: &Option<Box<pb::Trigger>>| proto.as_ref().map(|_| one(proto)).transpose();
    Ok(match kind {
        Kind::AfterAll(all_of) => Trigger::AfterAll(all(&all_of.subtriggers)?),
        Kind::AfterAny(any_of) => Trigger::AfterAny(all(&any_of.subtriggers)?),
        Kind::AfterEach(each_of) => Trigger::AfterEach(all(&each_of.subtriggers)?),
        Kind::AfterEndOfWindow(after) => {
            Trigger::AfterEndOfWindow { early: optional(&after.early_firings)?, late: optional(&after.late_firings)? }
        }
        Kind::AfterProcessingTime(after) => {
            Trigger::AfterProcessingTime(after.timestamp_transforms.iter().map(step).collect::<Result<_, _>>()?)
        }
        Kind::AfterSynchronizedProcessingTime(_) => Trigger::AfterSynchronizedProcessingTime,
        Kind::Always(_) => Trigger::Always,
        Kind::Default(_) => Trigger::Default,
        // A pane is looked at when it gets an element: a count below one is met by the first.
        Kind::ElementCount(count) => Trigger::ElementCount(count.element_count.max(1).unsigned_abs()),
        Kind::Never(_) => Trigger::Never,
        Kind::OrFinally(or) => Trigger::OrFinally(one(&or.main)?, one(&or.finally)?),
        Kind::Repeat(repeat) => Trigger::Repeat(one(&repeat.subtrigger)?),
    })
}

fn step(proto: &pb::TimestampTransform) -> Result<TimestampTransform, String> {
    match &proto.timestamp_transform {
        Some(Step::Delay(delay)) => Ok(TimestampTransform::Delay(delay.delay_millis)),
        Some(Step::AlignTo(to)) if to.period > 0 => {
            Ok(TimestampTransform::AlignTo { period: to.period, offset: to.offset })
        }
        Some(Step::AlignTo(_)) => Err("has a trigger aligned to a period that is not positive".to_owned()),
        None => Err("has a trigger that reckons time in a way unknown here".to_owned()),
    }
}

/// Whether elements may be combined before they reach this trigger. One that counts elements must see each of them.
pub(super) fn allows_lifting(trigger: &Trigger) -> bool {
    let optional = |trigger: &Option<Box<Trigger>>| trigger.as_deref().is_none_or(allows_lifting);
    match trigger {
        Trigger::Default
        | Trigger::Never
        | Trigger::AfterProcessingTime(_)
        | Trigger::AfterSynchronizedProcessingTime => true,
        Trigger::AfterEndOfWindow { early, late } => optional(early) && optional(late),
        Trigger::AfterAny(any) => any.iter().all(allows_lifting),
        Trigger::Repeat(repeated) => allows_lifting(repeated),
        Trigger::Always
        | Trigger::ElementCount(_)
        | Trigger::AfterAll(_)
        | Trigger::AfterEach(_)
        | Trigger::OrFinally(..) => false,
    }
}
