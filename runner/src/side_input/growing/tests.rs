//! Growing tables, in the order in which a job would fill, read and shrink them.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::element::{BatchBuilder, PANE_NO_FIRING, WireCoder, encode_windowed_value, put_varint};
use crate::executor::{StateError, StatePage};
use crate::side_input::PAGE;
use crate::state::MemoryStore;
use crate::windowing::{Accumulation, IntervalWindow, Merging, TimestampTransform, Trigger, WindowCoder};

const NEVER: Timestamp = Timestamp(i64::MIN);

fn prefixed(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, bytes.len() as u64);
    out.extend_from_slice(bytes);
    out
}

fn window(number: i64) -> Vec<u8> {
    IntervalWindow { start: Timestamp(number * 100), end: Timestamp(number * 100 + 100) }.encode().to_vec()
}

fn table(access: Access, trigger: Trigger, accumulation: Accumulation) -> Arc<GrowingTable> {
    let value = match access {
        Access::Iterable => WireCoder::Prefixed,
        Access::Multimap => WireCoder::Kv(WireCoder::Prefixed.into(), WireCoder::Prefixed.into()),
    };
    let coder = ElementCoder::new(value, WindowCoder::Interval);
    let plain = Windowing::plain(WindowCoder::Interval, Merging::None);
    let windowing = Windowing { trigger, accumulation, allowed_lateness: 50, ..plain };
    Arc::new(GrowingTable::new(Box::<MemoryStore>::default(), access, coder, windowing))
}

fn repeat(trigger: Trigger) -> Trigger {
    Trigger::Repeat(Box::new(trigger))
}

fn pane(index: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let previous = index.checked_sub(1).map(|index| PaneInfo {
        is_first: index == 0,
        is_last: false,
        timing: Timing::Early,
        index,
        on_time_index: None,
    });
    let passed = crate::windowing::Passed { input: false, output: false };
    PaneInfo::next(previous.as_ref(), false, passed).encode(&mut out);
    out
}

fn batch<'a>(number: i64, pane: &[u8], values: impl IntoIterator<Item = &'a [u8]>) -> Batch {
    let mut builder = BatchBuilder::default();
    for value in values {
        builder.push_with(Timestamp(number * 100), |out| {
            encode_windowed_value(out, Timestamp(number * 100), &[&window(number)], pane, value);
        });
    }
    builder.finish()
}

/// Elements of one pane in a window, shown at once.
fn put(table: &GrowingTable, number: i64, pane: &[u8], values: &[&str]) {
    let values: Vec<_> = values.iter().map(|value| prefixed(value.as_bytes())).collect();
    table.append(&batch(number, pane, values.iter().map(|value| &value[..])), Timestamp(0)).unwrap();
    table.advance(Some(NEVER), Timestamp(0)).unwrap();
}

fn put_pairs(table: &GrowingTable, number: i64, pane: &[u8], pairs: &[(&str, &str)]) {
    let pair = |(key, value): &(&str, &str)| [prefixed(key.as_bytes()), prefixed(value.as_bytes())].concat();
    let pairs: Vec<_> = pairs.iter().map(pair).collect();
    table.append(&batch(number, pane, pairs.iter().map(|pair| &pair[..])), Timestamp(0)).unwrap();
    table.advance(Some(NEVER), Timestamp(0)).unwrap();
}

fn elements(coder: &WireCoder, get: impl FnMut(&[u8]) -> Result<StatePage, StateError>) -> Vec<Vec<u8>> {
    pages(coder, get).concat()
}

fn pages(coder: &WireCoder, mut get: impl FnMut(&[u8]) -> Result<StatePage, StateError>) -> Vec<Vec<Vec<u8>>> {
    let mut pages = Vec::new();
    let mut continuation = Bytes::new();
    loop {
        let page = get(&continuation).unwrap();
        pages.push(split(coder, &page.data));
        continuation = page.continuation;
        if continuation.is_empty() {
            return pages;
        }
    }
}

fn split(coder: &WireCoder, mut rest: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (element, after) = rest.split_at(coder.skip(rest).unwrap());
        found.push(element.to_vec());
        rest = after;
    }
    found
}

fn text(encoded: &[u8]) -> String {
    String::from_utf8(encoded[1..].to_vec()).unwrap()
}

fn values(table: &Arc<GrowingTable>, number: i64) -> Vec<String> {
    let view = table.view();
    elements(&WireCoder::Prefixed, |at| view.values(&window(number), at)).iter().map(|v| text(v)).collect()
}

fn entries(table: &Arc<GrowingTable>, number: i64) -> Vec<(String, Vec<String>)> {
    let (view, window) = (table.view(), window(number));
    let iterable = WireCoder::Iterable(WireCoder::Prefixed.into());
    let coder = WireCoder::Kv(WireCoder::Prefixed.into(), iterable.clone().into());
    let keys = elements(&WireCoder::Prefixed, |at| view.keys(&window, at));
    let found: Vec<_> = elements(&coder, |at| view.entries(&window, at))
        .iter()
        .map(|entry| {
            let (key, values) = coder.key_value(entry).unwrap();
            let values: Vec<_> = iterable.iterate(values).unwrap().into_iter().map(<[u8]>::to_vec).collect();
            assert_eq!(elements(&WireCoder::Prefixed, |at| view.values_of(&window, key, at)), values);
            (key.to_vec(), values)
        })
        .collect();
    assert_eq!(keys, found.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>());
    found.iter().map(|(key, values)| (text(key), values.iter().map(|value| text(value)).collect())).collect()
}

#[test]
fn without_early_firings_elements_add_up() {
    for accumulation in [Accumulation::Discarding, Accumulation::Accumulating] {
        let table = table(Access::Iterable, Trigger::Default, accumulation);
        put(&table, 0, PANE_NO_FIRING, &["a", "b"]);
        put(&table, 0, PANE_NO_FIRING, &["c"]);
        assert_eq!(table.shown(&window(0)).unwrap(), Shown::Nothing, "it is shown by the watermark only");
        assert_eq!(table.fires_by(&window(0)).unwrap(), Timestamp(99));
        assert_eq!(values(&table, 0), ["a", "b", "c"]);
        put(&table, 0, PANE_NO_FIRING, &["late"]);
        assert_eq!(values(&table, 0), ["a", "b", "c", "late"]);
        assert_eq!(values(&table, 1), [""; 0]);

        // One value of a global combine, and its late correction.
        put(&table, 2, &pane(0), &["1"]);
        put(&table, 2, &pane(1), &["2"]);
        assert_eq!(values(&table, 2), ["2"]);
        // Of several, nothing says which one the late pane corrects.
        put(&table, 3, &pane(0), &["x", "y"]);
        put(&table, 3, &pane(1), &["x2"]);
        assert_eq!(values(&table, 3), ["x", "y", "x2"]);
    }
}

#[test]
fn the_latest_pane_is_shown() {
    let synchronized = || repeat(Trigger::AfterSynchronizedProcessingTime);
    let table = table(Access::Iterable, synchronized(), Accumulation::Discarding);
    assert_eq!(table.shown(&window(0)).unwrap(), Shown::Nothing);
    put(&table, 0, &pane(0), &["first"]);
    assert_eq!(table.shown(&window(0)).unwrap(), Shown::Fired);
    assert_eq!(table.shown(&window(1)).unwrap(), Shown::Nothing);
    assert_eq!(values(&table, 0), ["first"]);
    put(&table, 0, &pane(2), &["third", "and more"]);
    assert_eq!(values(&table, 0), ["third", "and more"]);
    put(&table, 0, &pane(1), &["overtaken"]);
    assert_eq!(values(&table, 0), ["third", "and more"]);
    put(&table, 0, &pane(2), &["of the same"]);
    assert_eq!(values(&table, 0), ["third", "and more", "of the same"]);
    // Two panes in one batch.
    let both = [batch(0, &pane(3), [&prefixed(b"x")[..]]), batch(0, &pane(4), [&prefixed(b"y")[..]])];
    both.iter().for_each(|batch| table.append(batch, Timestamp(0)).unwrap());
    assert_eq!(values(&table, 0), ["y"]);
}

#[test]
fn a_multimap_shows_the_latest_pane_of_each_key() {
    let table = table(Access::Multimap, repeat(Trigger::ElementCount(1)), Accumulation::Discarding);
    put_pairs(&table, 0, &pane(0), &[("a", "1"), ("b", "1"), ("b", "2")]);
    put_pairs(&table, 0, &pane(1), &[("b", "3")]);
    put_pairs(&table, 0, &pane(0), &[("c", "1"), ("b", "overtaken")]);
    let found = entries(&table, 0);
    let expected = [("a", vec!["1"]), ("b", vec!["3"]), ("c", vec!["1"])];
    assert_eq!(found, expected.map(|(key, values)| (key.to_owned(), values.iter().map(|v| v.to_string()).collect())));
}

#[test]
fn ungrouped_elements_go_through_the_trigger() {
    let delayed = || repeat(Trigger::AfterProcessingTime(vec![TimestampTransform::Delay(10)]));
    let at = |table: &GrowingTable, now: i64| table.advance(Some(NEVER), Timestamp(now)).unwrap();
    for (accumulation, second) in
        [(Accumulation::Discarding, vec!["c"]), (Accumulation::Accumulating, vec!["a", "b", "c"])]
    {
        let table = table(Access::Iterable, delayed(), accumulation);
        put(&table, 0, PANE_NO_FIRING, &["a"]);
        put(&table, 0, PANE_NO_FIRING, &["b"]);
        assert_eq!(table.shown(&window(0)).unwrap(), Shown::Nothing);
        assert_eq!(values(&table, 0), [""; 0], "nothing is seen of what has not fired");
        assert_eq!(at(&table, 9), Some(Timestamp(10)));
        assert_eq!(table.shown(&window(0)).unwrap(), Shown::Nothing);
        let version = table.view().version();
        assert_eq!(at(&table, 10), None);
        assert!(table.view().version() > version);
        assert_eq!(table.shown(&window(0)).unwrap(), Shown::Fired);
        assert_eq!(values(&table, 0), ["a", "b"]);
        put(&table, 0, PANE_NO_FIRING, &["c"]);
        assert_eq!(values(&table, 0), ["a", "b"]);
        at(&table, 30);
        assert_eq!(values(&table, 0), second);
    }
}

#[test]
fn what_waits_for_a_trigger_is_shown_when_the_window_expires() {
    let table = table(Access::Multimap, repeat(Trigger::ElementCount(3)), Accumulation::Discarding);
    put_pairs(&table, 0, PANE_NO_FIRING, &[("k", "1"), ("k", "2"), ("l", "1")]);
    assert_eq!(entries(&table, 0).len(), 2);
    put_pairs(&table, 0, PANE_NO_FIRING, &[("m", "1")]);
    assert_eq!(entries(&table, 0).len(), 2);
    table.advance(Some(Timestamp(149)), Timestamp(0)).unwrap();
    assert_eq!(entries(&table, 0).len(), 2);
    table.advance(Some(Timestamp(150)), Timestamp(0)).unwrap();
    assert_eq!(entries(&table, 0), [("m".to_owned(), vec!["1".to_owned()])]);
    put_pairs(&table, 0, PANE_NO_FIRING, &[("n", "1"), ("n", "2"), ("n", "3")]);
    assert_eq!(entries(&table, 0).len(), 1, "an expired window takes no more");
    table.advance(None, Timestamp(0)).unwrap();
    assert_eq!(entries(&table, 0), [("m".to_owned(), vec!["1".to_owned()])]);
}

#[test]
fn early_and_on_time_firings_of_ungrouped_elements() {
    let early = Some(Box::new(repeat(Trigger::ElementCount(2))));
    let trigger = Trigger::AfterEndOfWindow { early, late: Some(Box::new(repeat(Trigger::ElementCount(1)))) };
    let table = table(Access::Iterable, trigger, Accumulation::Discarding);
    put(&table, 0, PANE_NO_FIRING, &["a", "b"]);
    assert_eq!(values(&table, 0), ["a", "b"]);
    put(&table, 0, PANE_NO_FIRING, &["c"]);
    assert_eq!(values(&table, 0), ["a", "b"]);
    table.advance(Some(Timestamp(100)), Timestamp(0)).unwrap();
    assert_eq!(values(&table, 0), ["c"]);
    table.append(&batch(0, PANE_NO_FIRING, [&prefixed(b"late")[..]]), Timestamp(0)).unwrap();
    table.advance(Some(Timestamp(120)), Timestamp(0)).unwrap();
    assert_eq!(values(&table, 0), ["late"]);
    table.advance(Some(Timestamp(300)), Timestamp(0)).unwrap();
    assert_eq!(values(&table, 0), ["late"]);
}

#[test]
fn watchers_hear_of_what_is_shown() {
    let table = table(Access::Iterable, repeat(Trigger::ElementCount(2)), Accumulation::Discarding);
    let heard = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&heard);
    table.watch(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    put(&table, 0, PANE_NO_FIRING, &["a"]);
    assert_eq!(heard.load(Ordering::SeqCst), 0);
    put(&table, 0, PANE_NO_FIRING, &["b"]);
    assert_eq!(heard.load(Ordering::SeqCst), 1);
    table.advance(Some(Timestamp(5)), Timestamp(5)).unwrap();
    assert_eq!(heard.load(Ordering::SeqCst), 1);
    put(&table, 0, &pane(0), &["c"]);
    assert_eq!(heard.load(Ordering::SeqCst), 2);
}

fn records(table: &GrowingTable) -> usize {
    table.inner().contents.records()
}

#[test]
fn a_reader_finishes_what_it_has_begun() {
    let table = table(Access::Iterable, repeat(Trigger::ElementCount(1)), Accumulation::Discarding);
    let large = |letter: u8| {
        let values: Vec<_> = (0..30).map(|_| prefixed(&[letter; 100_000])).collect();
        batch(0, &pane(u64::from(letter)), values.iter().map(|value| &value[..]))
    };
    table.append(&large(b'a'), Timestamp(0)).unwrap();
    table.advance(Some(NEVER), Timestamp(0)).unwrap();
    let view = table.view();
    let before = records(&table);
    let mut changes = 0;
    let found = elements(&WireCoder::Prefixed, |at| {
        let page = view.values(&window(0), at)?;
        assert!(page.data.len() <= PAGE);
        // Between any two pages the window's content is replaced.
        changes += 1;
        table.append(&large(b'a' + changes), Timestamp(0)).unwrap();
        table.advance(Some(NEVER), Timestamp(0)).unwrap();
        Ok(page)
    });
    assert!(changes > 2);
    assert_eq!(found, vec![prefixed(&[b'a'; 100_000]); 30]);
    let again = elements(&WireCoder::Prefixed, |at| view.values(&window(0), at));
    assert_eq!(again, vec![prefixed(&[b'a' + changes; 100_000]); 30]);
    assert!(records(&table) > 2 * before);
    drop(view);
    table.append(&large(b'z'), Timestamp(0)).unwrap();
    table.advance(Some(NEVER), Timestamp(0)).unwrap();
    assert_eq!(records(&table), before);
}

#[test]
fn windows_that_were_passed_are_removed() {
    for trigger in [Trigger::Default, repeat(Trigger::ElementCount(1))] {
        let table = table(Access::Iterable, trigger, Accumulation::Discarding);
        let (a, b) = (table.reader(), table.reader());
        let windows = 2 * KEPT as i64;
        for number in 0..windows {
            put(&table, number, PANE_NO_FIRING, &["x"]);
        }
        table.needs(a, Timestamp(i64::MAX)).unwrap();
        assert_eq!(values(&table, 0), ["x"], "another reader may need it");
        table.needs(b, Timestamp(windows * 100)).unwrap();
        let removed = windows - KEPT as i64;
        assert_eq!(table.inner().windows.len(), KEPT);
        assert_eq!(table.shown(&window(removed - 1)).unwrap(), Shown::Gone);
        assert_ne!(table.shown(&window(removed)).unwrap(), Shown::Gone);
        assert_eq!(values(&table, removed - 1), [""; 0]);
        assert_eq!(values(&table, removed), ["x"]);
        put(&table, 0, PANE_NO_FIRING, &["too late"]);
        assert_eq!(values(&table, 0), [""; 0]);
        put(&table, windows + 5, PANE_NO_FIRING, &["y"]);
        assert_eq!(values(&table, windows + 5), ["y"]);
        assert_eq!(records(&table), 3 * (KEPT + 1));
        // Held back no longer, and much at once.
        table.needs(b, Timestamp::MAX).unwrap();
        assert_eq!(table.inner().windows.len(), KEPT);
        assert_eq!(records(&table), 3 * KEPT);
    }
}

#[test]
fn a_token_is_good_for_its_cell_only() {
    let table = table(Access::Multimap, Trigger::Default, Accumulation::Discarding);
    let long = "x".repeat(600_000);
    put_pairs(&table, 0, PANE_NO_FIRING, &[("k", &long), ("k", &long), ("l", "1")]);
    put_pairs(&table, 0, PANE_NO_FIRING, &[("k", &long)]);
    let (view, k, l) = (table.view(), prefixed(b"k"), prefixed(b"l"));
    let token = view.values_of(&window(0), &k, b"").unwrap().continuation;
    assert!(!token.is_empty());
    assert!(view.values_of(&window(0), &k, &token).is_ok());
    assert!(view.values_of(&window(0), &l, &token).is_err());
    assert!(view.values_of(&window(1), &k, &token).is_err());
    assert!(view.keys(&window(0), &token).is_err());
    let mut damaged = token.to_vec();
    damaged[9] ^= 1;
    assert!(view.values_of(&window(0), &k, &damaged).is_err());
    assert!(view.values(&window(0), b"").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes in whatever batches, all of it is found again, in its window and under its key, on pages that are
    /// not too long.
    #[test]
    fn all_elements_are_found(
        added in vec((0..3i64, 0..4u8, prop_oneof![0..40usize, 100_000..400_000usize], any::<bool>()), 0..60)
    ) {
        let table = table(Access::Multimap, Trigger::Default, Accumulation::Discarding);
        let mut model: BTreeMap<i64, BTreeMap<Vec<u8>, Vec<Vec<u8>>>> = BTreeMap::new();
        let mut open = BatchBuilder::default();
        for (number, (window_number, key, length, flush)) in added.into_iter().enumerate() {
            let (key, mut value) = (prefixed(&vec![key; usize::from(key)]), vec![0; length]);
            value.extend_from_slice(&number.to_be_bytes());
            let value = prefixed(&value);
            model.entry(window_number).or_default().entry(key.clone()).or_default().push(value.clone());
            open.push_with(Timestamp(0), |out| {
                let pair = [key, value].concat();
                encode_windowed_value(out, Timestamp(0), &[&window(window_number)], PANE_NO_FIRING, &pair);
            });
            if flush {
                table.append(&open.finish(), Timestamp(0)).unwrap();
            }
        }
        table.append(&open.finish(), Timestamp(0)).unwrap();
        let view = table.view();
        for number in 0..3 {
            let window = window(number);
            let keys = model.remove(&number).unwrap_or_default();
            let mut listed = elements(&WireCoder::Prefixed, |at| view.keys(&window, at));
            listed.sort_unstable();
            prop_assert_eq!(listed, keys.keys().cloned().collect::<Vec<_>>());
            let total: usize = keys.values().flatten().map(Vec::len).sum();
            let iterable = WireCoder::Iterable(WireCoder::Prefixed.into());
            let coder = WireCoder::Kv(WireCoder::Prefixed.into(), iterable.into());
            let entries = pages(&coder, |at| view.entries(&window, at));
            prop_assert_eq!(entries.concat().len(), keys.len());
            prop_assert!(entries.iter().flatten().map(Vec::len).sum::<usize>() >= total);
            for (key, values) in keys {
                let found = pages(&WireCoder::Prefixed, |at| view.values_of(&window, &key, at));
                for page in &found {
                    let length: usize = page.iter().map(Vec::len).sum();
                    prop_assert!(length <= PAGE + RECORD || page.len() == 1, "{} bytes", length);
                }
                prop_assert_eq!(found.concat(), values);
            }
        }
    }
}
