//! Properties of windows.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::time::Timestamp;

fn interval(start: i64, length: i64) -> IntervalWindow {
    IntervalWindow { start: Timestamp(start), end: Timestamp(start + length) }
}

/// Merges any two windows that overlap, until there are none.
fn merge_one_by_one(windows: &[IntervalWindow]) -> Vec<(IntervalWindow, Vec<usize>)> {
    let mut merged: Vec<(IntervalWindow, Vec<usize>)> =
        windows.iter().enumerate().map(|(index, window)| (*window, vec![index])).collect();
    loop {
        let overlap = |left: &IntervalWindow, right: &IntervalWindow| {
            left == right || left.start < right.end && right.start < left.end
        };
        let pair = (0..merged.len())
            .flat_map(|left| (left + 1..merged.len()).map(move |right| (left, right)))
            .find(|(left, right)| overlap(&merged[*left].0, &merged[*right].0));
        let Some((left, right)) = pair else { break };
        let (other, members) = merged.remove(right);
        let (window, all) = &mut merged[left];
        *window = IntervalWindow { start: window.start.min(other.start), end: window.end.max(other.end) };
        all.extend(members);
    }
    merged.iter_mut().for_each(|(_, members)| members.sort_unstable());
    merged.sort_unstable();
    merged
}

proptest! {
    #[test]
    fn interval_windows_keep_their_form(start in any::<i64>(), end in any::<i64>()) {
        let window = IntervalWindow { start: Timestamp(start.min(end)), end: Timestamp(start.max(end)) };
        let bytes = window.encode();
        prop_assert_eq!(IntervalWindow::decode(&bytes), Ok(window));
        prop_assert_eq!(WindowCoder::Interval.skip(&bytes), Ok(bytes.len()));
        prop_assert_eq!(WindowCoder::Interval.max_timestamp(&bytes), Ok(window.max_timestamp()));
    }

    #[test]
    fn any_bytes_may_be_asked_for_a_window(bytes in vec(any::<u8>(), 0..30)) {
        let _ = IntervalWindow::decode(&bytes);
        let _ = merge_sessions(vec![Bytes::from(bytes)]);
    }

    #[test]
    fn sessions_merge_as_one_by_one(windows in vec((-50..50i64, 1..12i64), 0..14)) {
        let windows: Vec<IntervalWindow> = windows.into_iter().map(|(start, length)| interval(start, length)).collect();
        let merged = merge_sessions(windows.iter().map(|window| window.encode()).collect()).unwrap();
        let mut merged: Vec<(IntervalWindow, Vec<usize>)> =
            merged.into_iter().map(|(window, members)| (IntervalWindow::decode(&window).unwrap(), members)).collect();
        merged.iter_mut().for_each(|(_, members)| members.sort_unstable());
        merged.sort_unstable();
        prop_assert_eq!(merged, merge_one_by_one(&windows));
    }
}

#[test]
fn sessions_that_touch_stay_apart() {
    let windows = vec![interval(0, 10).encode(), interval(10, 10).encode(), interval(20, 5).encode()];
    assert_eq!(merge_sessions(windows).unwrap().len(), 3);
}

#[test]
fn a_malformed_window_is_no_session() {
    assert!(merge_sessions(vec![interval(0, 10).encode(), Bytes::from_static(&[1, 2])]).is_err());
}

#[test]
fn windows_know_their_last_timestamp() {
    assert_eq!(WindowCoder::Global.max_timestamp(b""), Ok(Timestamp::END_OF_GLOBAL_WINDOW));
    let custom = WindowCoder::Custom(Box::new(WireCoder::Prefixed));
    let window = [&Timestamp(41).to_wire()[..], &[2, 1, 1]].concat();
    assert_eq!(custom.max_timestamp(&window), Ok(Timestamp(41)));
    assert_eq!(custom.skip(&window), Ok(window.len()));
    assert!(custom.max_timestamp(&window[..7]).is_err());
}

#[test]
fn a_pane_takes_the_timestamp_that_is_asked_for() {
    let (window, earliest, latest) = (Timestamp(9), Timestamp(1), Timestamp(5));
    let apply = |combiner: TimestampCombiner| combiner.apply(window, earliest, latest);
    assert_eq!(apply(TimestampCombiner::EndOfWindow), window);
    assert_eq!(apply(TimestampCombiner::Earliest), earliest);
    assert_eq!(apply(TimestampCombiner::Latest), latest);
}

#[test]
fn only_a_custom_window_in_wire_form_has_a_bare_name() {
    let custom = WindowCoder::Custom(WireCoder::Prefixed.into());
    let wire = [&Timestamp(5).to_wire()[..], &[3], b"abc"].concat();
    assert_eq!(custom.bare(&wire), Some(&b"abc"[..]));
    assert_eq!(custom.bare(&wire[..11]), None);
    assert_eq!(custom.bare(&[&wire[..], b"d"].concat()), None);
    assert_eq!(custom.bare(b"abc"), None);
    let known = WindowCoder::Custom(WireCoder::VarInt.into());
    assert_eq!(known.bare(&[&[0; 8][..], &[0x80, 1]].concat()), Some(&[0x80, 1][..]));
    assert_eq!(WindowCoder::Interval.bare(&wire), None);
    assert_eq!(WindowCoder::Global.bare(b""), None);
}
