//! Which window of a side input goes with a window of the main input.
//!
//! SDKs map a window by its greatest timestamp: to the window of the side input's function with that timestamp in it, for
//! sliding windows to the first of them. The runner does the same for the functions that it knows. Java's and Python's
//! mapping function is opaque, but for a standard window function it is always this one. For any other function the SDK
//! is asked; not for side inputs that are complete before anything reads them.

use ferrobeam_proto::pipeline as pb;
use ferrobeam_proto::urns;
use prost::Message;

use super::assemble::Assembly;
use super::{WindowMapping, ask_windows};
use crate::pipeline::{PCollectionName, Refusal, Transform};
use crate::windowing::WindowCoder;

/// The mapping for the side input `local` of `transform`, which reads `side`.
pub(super) fn mapping(
    assembly: &mut Assembly<'_>,
    transform: &Transform,
    local: &str,
    side: &PCollectionName,
) -> Result<WindowMapping, Refusal> {
    let window_fn = assembly.draft.windowing_of(side).1.window_fn.clone().unwrap_or_default();
    let windows = assembly.windowing(side);
    if windows.window_coder == WindowCoder::Global {
        return Ok(WindowMapping::Global);
    }
    if let Some(known) = known(&window_fn).filter(|_| windows.window_coder == WindowCoder::Interval) {
        return Ok(known);
    }
    if assembly.is_bounded(side) && windows.trigger.waits_for_the_end() && !assembly.options.durable {
        return Ok(WindowMapping::Same);
    }
    let function = pb::ParDoPayload::decode(transform.spec.payload.clone())
        .ok()
        .and_then(|payload| payload.side_inputs.get(local)?.window_mapping_fn.clone());
    let main = transform.main_input().map(|(_, main)| main.clone());
    let asked = function
        .zip(main)
        .and_then(|(function, main)| ask_windows::mapping(assembly, (transform, local), &function, (&main, side)));
    asked.map(WindowMapping::Sdk).ok_or_else(|| {
        let what = format!("reads side input \"{local}\" in windows unknown here, and does not say how to find them");
        Refusal::of_transform(&transform.unique_name, what)
    })
}

/// The mapping to the windows of a standard function, if the runner can reckon in whole milliseconds.
fn known(window_fn: &pb::FunctionSpec) -> Option<WindowMapping> {
    let payload = window_fn.payload.clone();
    match window_fn.urn.as_str() {
        urns::fixed_windows_payload::PROPERTIES => {
            let fixed = pb::FixedWindowsPayload::decode(payload).ok()?;
            let size = fixed.size.map(|it| (it.seconds, it.nanos));
            let offset = fixed.offset.map(|it| (it.seconds, it.nanos));
            Some(WindowMapping::Fixed { size: millis(size)?, offset: millis(offset)? })
        }
        urns::sliding_windows_payload::PROPERTIES => {
            let sliding = pb::SlidingWindowsPayload::decode(payload).ok()?;
            let size = sliding.size.map(|it| (it.seconds, it.nanos));
            let period = sliding.period.map(|it| (it.seconds, it.nanos));
            let offset = sliding.offset.map(|it| (it.seconds, it.nanos));
            Some(WindowMapping::Sliding { size: millis(size)?, period: millis(period)?, offset: millis(offset)? })
        }
        _ => None,
    }
}

/// Seconds and nanoseconds as milliseconds.
fn millis(time: Option<(i64, i32)>) -> Option<i64> {
    const NANOS: i32 = 1_000_000;
    let (seconds, nanos) = time.unwrap_or_default();
    (nanos % NANOS == 0).then(|| seconds.checked_mul(1000)?.checked_add(i64::from(nanos / NANOS))).flatten()
}
