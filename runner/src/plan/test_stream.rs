//! TestStreams give elements as an SDK encoded them by themselves, without their ends.
//!
//! Java's and Python's elements are in the outer context of their coder: a string is just its characters, and the value
//! of a pair has no end of its own. What stands behind a length prefix is in that context too, with every SDK. So the
//! source gives a collection of the coder in a length prefix, and an SDK-side flatten of one input makes of it what the
//! pipeline says ([`super::transcode`] does the like). It fuses with what reads the collection; and it is left out where
//! the wire has that very coder anyway.
//!
//! Go knows no contexts: its elements are as they would be within others, and those of its own coders bring a length
//! prefix with them. That is just how they look on the wire.

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::pipeline::test_stream_payload::event::Event;
use ferrobeam_proto::urns::standard_coders as coder;
use prost::Message;

use super::draft::Draft;
use super::transcode::{Neighbours, converter};
use super::{TestEvent, TestEvents};
use crate::element::put_varint;
use crate::pipeline::{CoderName, EnvironmentName, Kind, Refusal, Transform};
use crate::time::Timestamp;

/// Go's coder of types that users define. Its encoding begins with its length.
const GO_CUSTOM: &str = "beam:go:coder:custom:v1";

/// How Go's SDK names itself among an environment's capabilities.
const GO: &str = "beam:version:sdk_base:go";

pub(super) fn expand(draft: &mut Draft) -> Result<(), Refusal> {
    let neighbours = Neighbours::of(&draft.transforms);
    draft.rewrite(|draft, mut transform| {
        let Kind::TestStream { coder, .. } = transform.kind.clone() else { return Ok(vec![transform]) };
        let environment = transform.environment.clone().filter(|name| draft.environments.contains_key(name));
        let environment = environment
            .or_else(|| transform.outputs.values().find_map(|output| neighbours.environment_near(output, output)));
        let (carrier, prefix) = carrier(draft, &coder, environment.as_ref());
        let form = draft.coders.form(&carrier);
        let mut result = Vec::new();
        for (local, output) in transform.outputs.clone() {
            let wanted = draft.coder_of(&output);
            let on_the_wire = draft.coders.wire(&wanted);
            if draft.coders.form(&wanted) == form || draft.coders.form(&on_the_wire) == form {
                continue;
            }
            let Some(environment) = &environment else {
                if neighbours.is_read(&output) {
                    let what = "has elements whose ends are unknown, and no environment that could convert them";
                    return Err(Refusal::of_transform(&transform.unique_name, what));
                }
                continue;
            };
            let given = draft.new_pcollection(&output, "given", &carrier);
            result.push(converter(draft, &transform, &local, &given, &output, environment));
            transform.outputs.insert(local, given);
        }
        transform.kind = Kind::TestStream { coder: carrier, prefix };
        result.push(transform);
        Ok(result)
    })
}

/// The coder that elements of `coder` have when the source gives them, and whether it puts a prefix before them.
fn carrier(draft: &mut Draft, coder: &CoderName, environment: Option<&EnvironmentName>) -> (CoderName, bool) {
    let wired = draft.coders.wire(coder);
    let go = environment.and_then(|name| draft.environments.get(name));
    let go = go.is_some_and(|it| it.capabilities.iter().any(|capability| capability.starts_with(GO)));
    if go {
        let brings_its_own = draft.coders.form(&wired) == draft.coders.form(coder) || draft.coders.is(coder, GO_CUSTOM);
        return (wired, !brings_its_own);
    }
    if draft.coders.is(coder, coder::LENGTH_PREFIX) {
        return (coder.clone(), false);
    }
    (draft.coders.make(coder::LENGTH_PREFIX, b"", &[coder], &coder.0), true)
}

/// The events that a TestStream plays, with elements in the coder of its outputs.
pub(super) fn events(transform: &Transform) -> Result<TestEvents, Refusal> {
    let complaint = |what: &str| Refusal::of_transform(&transform.unique_name, what);
    let payload = pb::TestStreamPayload::decode(transform.spec.payload.clone())
        .map_err(|_| complaint("has a payload that cannot be read"))?;
    let Kind::TestStream { prefix, .. } = transform.kind else {
        return Err(complaint("is no TestStream"));
    };
    let url = payload.endpoint.map(|endpoint| endpoint.url).unwrap_or_default();
    if !url.is_empty() {
        return Ok(TestEvents::Service { url, prefix });
    }
    let events = payload.events.into_iter().map(|event| {
        Ok(match event.event.ok_or_else(|| complaint("has an event of a kind unknown here"))? {
            Event::WatermarkEvent(event) => TestEvent::Watermark { tag: event.tag, to: Timestamp(event.new_watermark) },
            Event::ProcessingTimeEvent(event) => TestEvent::ProcessingTime(event.advance_duration),
            Event::ElementEvent(event) => {
                let elements = event.elements.into_iter().map(|element| {
                    let mut value = Vec::with_capacity(element.encoded_element.len() + 5);
                    if prefix {
                        put_varint(&mut value, element.encoded_element.len() as u64);
                    }
                    value.extend_from_slice(&element.encoded_element);
                    (Timestamp(element.timestamp), value.into())
                });
                TestEvent::Elements { tag: event.tag, elements: elements.collect() }
            }
        })
    });
    Ok(TestEvents::Listed(events.collect::<Result<_, Refusal>>()?))
}
