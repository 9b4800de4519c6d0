//! What a keyed stage keeps, and how its SDK is told to write keys and windows.
//!
//! Runner and SDK must agree on the bytes of a key wherever it shows: in the stage's input, in state requests and in
//! timers. SDKs take the key's coder for state requests from the ParDo's main input, which has its wire coder in the
//! descriptor. Timers have a coder of their own in the payload: it is replaced by one of the wire coders of key and
//! window.
//!
//! The coders of state values stay the user's. Java's and Python's harness take them from the DoFn itself and not from
//! the payload, so that nothing else could be asked of them; Go's takes those of the payload.

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::urns::standard_coders as coder;
use prost::Message;

use super::coders::CoderTable;
use super::{Keyed, StateCell, StateKind, TimerFamily};
use crate::element::WireCoder;
use crate::pipeline::{CoderName, Transform};

/// What `transform` keeps, if it does, of input with the wire coders `value` and `window`, in an environment that puts
/// lengths before the values of ordered lists or does not. Its payload is changed accordingly.
pub(super) fn keep(
    coders: &mut CoderTable,
    transform: &mut Transform,
    value: &CoderName,
    window: &CoderName,
    puts_lengths: bool,
) -> Option<Keyed> {
    let spec = transform.keyed.as_ref()?;
    // Validation made sure that the input has keys and that the payload can be read.
    let key = coders.component(value, 0)?;
    let mut payload = pb::ParDoPayload::decode(transform.spec.payload.clone()).ok()?;
    let id = &transform.id.0;
    let states = spec.states.iter().map(|state| StateCell {
        transform: id.clone(),
        state: state.name.clone(),
        kind: state.kind,
        value: match state.kind {
            StateKind::OrderedList if puts_lengths => Some(WireCoder::Prefixed),
            StateKind::Bag | StateKind::Multimap | StateKind::OrderedList => {
                state.value.as_ref().and_then(|value| coders.known_structure(value))
            }
        },
        single_valued: state.single_valued,
        entries: None,
    });
    let states = states.collect();
    let (key_structure, window_structure) = (coders.structure(&key), coders.window_structure(window));
    let timers = spec.timers.iter().map(|timer| TimerFamily {
        transform: id.clone(),
        family: timer.family.clone(),
        domain: timer.domain,
        key: key_structure.clone(),
        window: window_structure.clone(),
        on_window_expiration: timer.on_window_expiration,
    });
    let keyed = Keyed { states, timers: timers.collect(), time_sorted: spec.time_sorted };
    if !keyed.timers.is_empty() {
        let timer = coders.make(coder::TIMER, b"", &[&key, window], id);
        for family in payload.timer_family_specs.values_mut() {
            family.timer_family_coder_id.clone_from(&timer.0);
        }
        transform.spec.payload = payload.encode_to_vec().into();
    }
    Some(keyed)
}
