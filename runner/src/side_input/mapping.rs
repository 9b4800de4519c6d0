//! Which window of a side input goes with a window of the main input.

use bytes::Bytes;

use crate::element::ElementError;
use crate::plan::WindowMapping;
use crate::time::Timestamp;
use crate::windowing::{IntervalWindow, WindowCoder};

/// The side input's window for an encoded `window` of the main input; `None` if only the SDK knows.
pub fn map_window(mapping: &WindowMapping, main: &WindowCoder, window: &[u8]) -> Result<Option<Bytes>, ElementError> {
    let interval = |start: i64, size: i64| {
        let (start, end) = (Timestamp(start), Timestamp(start.saturating_add(size)));
        Some(IntervalWindow { start, end }.encode())
    };
    Ok(match *mapping {
        WindowMapping::Global => Some(Bytes::new()),
        WindowMapping::Same => Some(Bytes::copy_from_slice(window)),
        WindowMapping::Fixed { size, offset } => {
            let last = main.max_timestamp(window)?.0;
            interval(begun_by(last, size, offset), size)
        }
        WindowMapping::Sliding { size, period, offset } => {
            let last = main.max_timestamp(window)?.0;
            interval(begun_by(last.saturating_sub(size), period, offset).saturating_add(period), size)
        }
        WindowMapping::Sdk(_) => None,
    })
}

/// The greatest `offset + n * period` that is not after `time`.
fn begun_by(time: i64, period: i64, offset: i64) -> i64 {
    // The planner takes no window function without a length.
    time.saturating_sub(time.saturating_sub(offset).rem_euclid(period.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: i64, end: i64) -> Bytes {
        IntervalWindow { start: Timestamp(start), end: Timestamp(end) }.encode()
    }

    #[test]
    fn windows_map_by_their_end() {
        let cases = [
            (WindowMapping::Same, (3, 7), (3, 7)),
            (WindowMapping::Fixed { size: 10, offset: 0 }, (0, 10), (0, 10)),
            (WindowMapping::Fixed { size: 10, offset: 0 }, (0, 11), (10, 20)),
            (WindowMapping::Fixed { size: 10, offset: 3 }, (0, 3), (-7, 3)),
            (WindowMapping::Fixed { size: 10, offset: 3 }, (-100, -90), (-97, -87)),
            // Of the windows with the main window's end, the first.
            (WindowMapping::Sliding { size: 10, period: 5, offset: 0 }, (0, 10), (0, 10)),
            (WindowMapping::Sliding { size: 10, period: 5, offset: 0 }, (0, 11), (5, 15)),
            (WindowMapping::Sliding { size: 10, period: 5, offset: 0 }, (0, 1), (-5, 5)),
            (WindowMapping::Sliding { size: 10, period: 10, offset: 2 }, (0, 3), (2, 12)),
        ];
        for (mapping, main, side) in cases {
            let mapped = map_window(&mapping, &WindowCoder::Interval, &window(main.0, main.1)).unwrap();
            assert_eq!(mapped, Some(window(side.0, side.1)), "{mapping:?} {main:?}");
        }
        let mapped = map_window(&WindowMapping::Global, &WindowCoder::Interval, &window(0, 1)).unwrap();
        assert_eq!(mapped, Some(Bytes::new()));
    }
}
