//! Work that a bundle handed back, on its way to being input of the stage again.
//!
//! Java's harness writes the custom windows of such an element in their own coder, whatever the bundle descriptor says,
//! so that nobody else could tell where they end. But what is handed back keeps the timestamp of the input element that
//! it is a part of, and some of its windows, in their order: so they are found there.

use std::time::Duration;

use bytes::Bytes;
use ferrobeam_proto::fn_execution::DelayedBundleApplication;
use ferrobeam_runner::element::{Batch, ElementCoder};
use ferrobeam_runner::executor::Residual;
use ferrobeam_runner::time::Timestamp;
use ferrobeam_runner::windowing::WindowCoder;

use crate::stage::Stage;

/// Bytes of an element before its windows: a timestamp and their number.
const HEADER: usize = 12;

/// Reads one piece of work. `input` is what the bundle was given. Fails with what the harness did wrong.
pub(super) fn from_proto(root: DelayedBundleApplication, stage: &Stage, input: &[Batch]) -> Result<Residual, String> {
    let application = root.application.ok_or("handed back work without an element")?;
    // Only what the stage takes as its input can come in again.
    if !stage.is_head(&application.transform_id) {
        let transform = application.transform_id;
        return Err(format!("handed back work of transform {transform:?}, which does not take the stage's input"));
    }
    let element = match &stage.input_coder {
        Some(coder) if matches!(coder.window, WindowCoder::Custom(_)) => {
            let found = input.iter().find_map(|batch| with_windows(&application.element, coder, batch));
            found.ok_or("handed back work in windows that its input does not have")?
        }
        _ => application.element,
    };
    let delay = root.requested_time_delay.and_then(|delay| Duration::try_from(delay).ok()).unwrap_or_default();
    let hold = application.output_watermarks.values().map(timestamp_from_proto).min();
    Ok(Residual { element, delay, hold })
}

/// The element with its windows in wire form, if they are windows of an element of the batch.
fn with_windows(element: &Bytes, coder: &ElementCoder, batch: &Batch) -> Option<Bytes> {
    let (timestamp, count) = (element.get(..8)?, element.get(8..HEADER)?);
    let count = u32::from_be_bytes(count.try_into().ok()?) as usize;
    let candidates = batch.elements().filter(|candidate| candidate.get(..8) == Some(timestamp));
    let windows: Vec<Vec<&[u8]>> =
        candidates.filter_map(|candidate| Some(coder.parse(candidate).ok()?.windows.collect())).collect();
    let runs = || windows.iter().flat_map(|windows| windows.windows(count.max(1)));
    let in_wire_form = runs().any(|run| {
        let run = run.concat();
        element[HEADER..].starts_with(&run) && is_whole(element, coder)
    });
    if in_wire_form {
        return Some(element.clone());
    }
    runs().find_map(|run| {
        let bare = run.iter().map(|window| coder.window.bare(window)).collect::<Option<Vec<_>>>()?.concat();
        let rest = element[HEADER..].strip_prefix(&bare[..])?;
        let wired = Bytes::from([&element[..HEADER], &run.concat(), rest].concat());
        is_whole(&wired, coder).then_some(wired)
    })
}

fn is_whole(element: &[u8], coder: &ElementCoder) -> bool {
    coder.skip(element) == Ok(element.len())
}

/// Milliseconds, rounded down, within what a timestamp can be.
fn timestamp_from_proto(wire: &prost_types::Timestamp) -> Timestamp {
    let millis = wire.seconds.saturating_mul(1000).saturating_add(i64::from(wire.nanos).div_euclid(1_000_000));
    Timestamp(millis.clamp(Timestamp::MIN.0, Timestamp::MAX.0))
}

#[cfg(test)]
mod tests {
    use ferrobeam_runner::element::{BatchBuilder, PANE_NO_FIRING, WireCoder, encode_windowed_value};

    use super::*;

    #[test]
    fn timestamps_round_down_and_stay_in_range() {
        let at = |seconds, nanos| timestamp_from_proto(&prost_types::Timestamp { seconds, nanos });
        assert_eq!(at(1, 2_999_999), Timestamp(1002));
        assert_eq!(at(-1, 500_000_000), Timestamp(-500));
        assert_eq!(at(i64::MIN, 0), Timestamp::MIN);
        assert_eq!(at(i64::MAX, 0), Timestamp::MAX);
    }

    fn wire(bare: &[u8]) -> Vec<u8> {
        [&Timestamp(99).to_wire()[..], &[bare.len() as u8], bare].concat()
    }

    fn element(at: i64, windows: &[&[u8]], value: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::new();
        let value = [&[value.len() as u8], value].concat();
        encode_windowed_value(&mut encoded, Timestamp(at), windows, PANE_NO_FIRING, &value);
        encoded
    }

    #[test]
    fn custom_windows_are_those_of_the_input() {
        let coder = ElementCoder::new(WireCoder::Prefixed, WindowCoder::Custom(WireCoder::Prefixed.into()));
        let names: [&[u8]; 4] = [b"w", b"window", b"", b"another"];
        let wires = names.map(wire);
        let in_wire_form: Vec<&[u8]> = wires.iter().map(Vec::as_slice).collect();
        let mut builder = BatchBuilder::new();
        builder.push(&element(1, &in_wire_form[3..], b"first"), Timestamp(1));
        builder.push(&element(7, &in_wire_form[..3], b"whole"), Timestamp(7));
        let batch = builder.finish();
        for run in [0..1, 1..2, 2..3, 0..2, 1..3, 0..3] {
            let expected = element(7, &in_wire_form[run.clone()], b"rest");
            for windows in [&names[run.clone()], &in_wire_form[run.clone()]] {
                let handed_back = element(7, windows, b"rest").into();
                assert_eq!(with_windows(&handed_back, &coder, &batch).unwrap(), expected, "{run:?}");
            }
        }
        for (at, name) in [(7, &b"another"[..]), (1, b"w"), (2, b"w"), (7, b"win")] {
            assert_eq!(with_windows(&element(at, &[name], b"rest").into(), &coder, &batch), None);
        }
        for length in 0..20 {
            let torn = Bytes::from(element(7, &names[1..2], b"rest")).slice(..length);
            assert_eq!(with_windows(&torn, &coder, &batch), None, "{length} bytes");
        }
    }
}
