//! What comes out, step by step, of windows under all kinds of strategies.
//!
//! The first part is the scenarios of the Python SDK's trigger transcripts (`apache_beam/testing/data`), told again.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::engine::{Dropped, Engine, Progress, Room};
use crate::dataflow::group::Grouping;
use crate::dataflow::merge::Merged;
use crate::element::{Batch, BatchBuilder, ElementCoder, ElementView, WireCoder, encode_windowed_value, get_varint};
use crate::grouping::StoredIterables;
use crate::memory::Budget;
use crate::state::MemoryStore;
use crate::time::Timestamp;
use crate::windowing::*;

/// How elements get their windows.
#[derive(Clone, Copy)]
enum Assign {
    Fixed(i64),
    /// Sessions with this gap.
    Sessions(i64),
    Global,
}

/// A grouping of one worker, of elements whose values are their timestamps.
struct Transcript {
    assign: Assign,
    engine: Engine,
    out: Panes,
    now: Timestamp,
    iterables: Arc<StoredIterables>,
    _folder: tempfile::TempDir,
}

#[derive(Default)]
struct Panes {
    batches: Vec<Batch>,
    /// Batches for which there is room; `None`: any number.
    room: Option<usize>,
}

impl Room for Panes {
    fn has_room(&mut self) -> bool {
        self.room.is_none_or(|room| self.batches.len() < room)
    }

    fn give(&mut self, batch: Batch) {
        if !batch.is_empty() {
            self.batches.push(batch);
        }
    }
}

fn strategy(trigger: Trigger) -> Windowing {
    Windowing { trigger, ..Windowing::plain(WindowCoder::Global, Merging::None) }
}

fn accumulating(trigger: Trigger, lateness: i64) -> Windowing {
    Windowing { accumulation: Accumulation::Accumulating, allowed_lateness: lateness, ..strategy(trigger) }
}

fn discarding(trigger: Trigger, lateness: i64) -> Windowing {
    Windowing { allowed_lateness: lateness, ..strategy(trigger) }
}

fn repeat(trigger: Trigger) -> Trigger {
    Trigger::Repeat(Box::new(trigger))
}

fn count(count: u32) -> Trigger {
    Trigger::ElementCount(count)
}

fn end_of_window(early: Option<Trigger>, late: Option<Trigger>) -> Trigger {
    Trigger::AfterEndOfWindow { early: early.map(Box::new), late: late.map(Box::new) }
}

fn delay(by: i64) -> Trigger {
    Trigger::AfterProcessingTime(vec![TimestampTransform::Delay(by)])
}

fn kv(value: WireCoder) -> WireCoder {
    WireCoder::Kv(Box::new(WireCoder::Prefixed), Box::new(value))
}

impl Transcript {
    fn new(assign: Assign, mut windowing: Windowing) -> Transcript {
        (windowing.window_coder, windowing.merging) = match assign {
            Assign::Global => (WindowCoder::Global, Merging::None),
            Assign::Fixed(_) => (WindowCoder::Interval, Merging::None),
            Assign::Sessions(_) => (WindowCoder::Interval, Merging::Sessions),
        };
        let folder = tempfile::tempdir().unwrap();
        let budget = Budget::new(1 << 20, folder.path());
        let iterables = Arc::new(StoredIterables::new(&budget));
        let grouping = Grouping {
            name: "group".into(),
            input: ElementCoder { value: kv(WireCoder::VarInt), window: windowing.window_coder.clone() },
            output: kv(WireCoder::StateBackedIterable(Box::new(WireCoder::VarInt))),
            windowing,
            budget,
            iterables: Arc::clone(&iterables),
        };
        let engine = Engine::new(&grouping, Box::new(MemoryStore::default()));
        Transcript { assign, engine, out: Panes::default(), now: Timestamp(1000), iterables, _folder: folder }
    }

    fn fixed(size: i64, windowing: Windowing) -> Transcript {
        Transcript::new(Assign::Fixed(size), windowing)
    }

    fn window(&self, timestamp: i64) -> Bytes {
        let interval = |start, end| IntervalWindow { start: Timestamp(start), end: Timestamp(end) }.encode();
        match self.assign {
            Assign::Global => Bytes::new(),
            Assign::Fixed(size) => {
                let start = timestamp - timestamp.rem_euclid(size);
                interval(start, start + size)
            }
            Assign::Sessions(gap) => interval(timestamp, timestamp + gap),
        }
    }

    /// Elements of `key` come together.
    fn input_of(&mut self, key: &str, timestamps: &[i64]) -> Vec<String> {
        let mut batch = BatchBuilder::default();
        for timestamp in timestamps {
            let mut value = vec![key.len() as u8];
            value.extend_from_slice(key.as_bytes());
            crate::element::put_varint(&mut value, *timestamp as u64);
            let window = self.window(*timestamp);
            batch.push_with(Timestamp(*timestamp), |out| {
                encode_windowed_value(out, Timestamp(*timestamp), &[&window], &[0x0f], &value);
            });
        }
        self.take(&batch.finish());
        self.engine.fire_touched(self.now, &mut self.out).unwrap();
        self.settle()
    }

    fn take(&mut self, batch: &Batch) {
        let mut answers = Vec::new();
        for question in self.engine.questions(batch).unwrap() {
            let merged = question.sessions().unwrap();
            answers.push((question, merged));
        }
        self.engine.take(batch, answers, self.now).unwrap();
    }

    fn input(&mut self, timestamps: &[i64]) -> Vec<String> {
        self.input_of("k", timestamps)
    }

    fn watermark(&mut self, to: i64) -> Vec<String> {
        self.engine.watermark = Timestamp(to);
        assert_eq!(self.engine.wake_by_watermark(self.now, &mut self.out).unwrap(), Progress::Done);
        self.settle()
    }

    /// The input has ended.
    fn end(&mut self) -> Vec<String> {
        let last = self.watermark(i64::MAX);
        assert_eq!(self.engine.output, Timestamp(i64::MAX), "nothing is left that holds the watermark");
        last
    }

    fn clock(&mut self, by: i64) -> Vec<String> {
        self.now.0 += by;
        assert_eq!(self.engine.wake_by_clock(self.now, &mut self.out).unwrap(), Progress::Done);
        self.settle()
    }

    /// What came out since the last time, in order, and the output watermark follows.
    fn settle(&mut self) -> Vec<String> {
        self.out.give(self.engine.panes.finish());
        self.engine.follow();
        let coder = ElementCoder {
            value: kv(WireCoder::StateBackedIterable(Box::new(WireCoder::VarInt))),
            window: self.engine.input.window.clone(),
        };
        let mut panes = Vec::new();
        for batch in std::mem::take(&mut self.out.batches) {
            panes.extend(batch.elements().map(|element| self.describe(&coder, &coder.parse(element).unwrap())));
        }
        panes
    }

    /// `key:start..end [values] @timestamp timing index/on-time index last`, where only what is of note is said.
    fn describe(&self, coder: &ElementCoder, view: &ElementView) -> String {
        let (key, values) = coder.value.key_value(view.value).unwrap();
        let pane = PaneInfo::decode(view.pane).unwrap();
        let mut text = match &key[1..] {
            b"k" => String::new(),
            other => format!("{}:", String::from_utf8_lossy(other)),
        };
        if !matches!(self.assign, Assign::Global) {
            let window = IntervalWindow::decode(view.windows.bytes()).unwrap();
            text += &format!("{}..{} ", window.start.0, window.end.0);
        }
        text += &format!("{:?} @{} {:?} {}", self.values(values), view.timestamp.0, pane.timing, pane.index);
        if let Some(index) = pane.on_time_index {
            text += &format!("/{index}");
        }
        assert_eq!(pane.is_first, pane.index == 0);
        if pane.is_last { text + " last" } else { text }
    }

    fn values(&self, mut bytes: &[u8]) -> Vec<u64> {
        fn next(bytes: &mut &[u8]) -> u64 {
            let (value, size) = get_varint(bytes).unwrap();
            *bytes = &bytes[size..];
            value
        }
        let mut values = Vec::new();
        let (count, rest) = bytes.split_first_chunk().unwrap();
        bytes = rest;
        match i32::from_be_bytes(*count) {
            -1 => loop {
                match next(&mut bytes) {
                    0 => break,
                    u64::MAX => {
                        let length = next(&mut bytes) as usize;
                        let (token, rest) = bytes.split_at(length);
                        bytes = rest;
                        let mut continuation = Bytes::new();
                        loop {
                            let page = self.iterables.get(token, &continuation).unwrap();
                            let mut data = &page.data[..];
                            while !data.is_empty() {
                                values.push(next(&mut data));
                            }
                            continuation = page.continuation;
                            if continuation.is_empty() {
                                break;
                            }
                        }
                        break;
                    }
                    count => values.extend((0..count).map(|_| next(&mut bytes))),
                }
            },
            count => values.extend((0..count).map(|_| next(&mut bytes))),
        }
        assert!(bytes.is_empty());
        values.sort_unstable();
        values
    }

    fn dropped(&self) -> (u64, u64) {
        let Dropped { late, closed } = self.engine.dropped;
        (late, closed)
    }

    /// The store has nothing of any window.
    fn assert_empty(&self) {
        assert_eq!(self.engine.windows.remaining(), Vec::<Bytes>::new());
    }
}

const NOTHING: [&str; 0] = [];

#[test]
fn fixed_windows_by_default() {
    let mut t = Transcript::fixed(10, accumulating(Trigger::Default, 0));
    assert_eq!(t.input(&[1, 2, 3, 10, 11]), NOTHING);
    assert_eq!(t.watermark(25), ["0..10 [1, 2, 3] @9 OnTime 0/0 last", "10..20 [10, 11] @19 OnTime 0/0 last"]);
    t.assert_empty();
}

#[test]
fn late_data_by_default() {
    let mut t = Transcript::fixed(10, accumulating(Trigger::Default, 100));
    assert_eq!(t.input(&[1, 2, 3, 10, 11, 25]), NOTHING);
    assert_eq!(
        t.watermark(100),
        ["0..10 [1, 2, 3] @9 OnTime 0/0", "10..20 [10, 11] @19 OnTime 0/0", "20..30 [25] @29 OnTime 0/0"]
    );
    assert_eq!(t.input(&[7]), ["0..10 [1, 2, 3, 7] @9 Late 1/1"]);
    assert_eq!(t.input(&[7, 8]), ["0..10 [1, 2, 3, 7, 7, 8] @9 Late 2/2"]);
    assert_eq!(t.end(), NOTHING);
    t.assert_empty();
}

#[test]
fn elements_of_expired_windows_are_dropped() {
    let trigger = end_of_window(Some(count(3)), Some(count(1)));
    let mut t = Transcript::fixed(10, accumulating(trigger, 20));
    assert_eq!(t.input(&[1, 2, 10, 11, 80, 81]), NOTHING);
    assert_eq!(
        t.watermark(100),
        ["0..10 [1, 2] @9 OnTime 0/0 last", "10..20 [10, 11] @19 OnTime 0/0 last", "80..90 [80, 81] @89 OnTime 0/0"]
    );
    assert_eq!(t.input(&[7, 8]), NOTHING);
    assert_eq!(t.input(&[17, 18]), NOTHING);
    assert_eq!(t.dropped(), (4, 0));
    assert_eq!(t.input(&[82]), ["80..90 [80, 81, 82] @89 Late 1/1"]);
}

#[test]
fn timestamps_are_combined() {
    let panes = |combiner| {
        let mut t = Transcript::fixed(10, Windowing { timestamp_combiner: combiner, ..strategy(Trigger::Default) });
        t.input(&[1, 2, 3, 10, 11, 25]);
        t.watermark(100)
    };
    assert_eq!(
        panes(TimestampCombiner::Earliest),
        [
            "0..10 [1, 2, 3] @1 OnTime 0/0 last",
            "10..20 [10, 11] @10 OnTime 0/0 last",
            "20..30 [25] @25 OnTime 0/0 last"
        ]
    );
    assert_eq!(
        panes(TimestampCombiner::Latest),
        [
            "0..10 [1, 2, 3] @3 OnTime 0/0 last",
            "10..20 [10, 11] @11 OnTime 0/0 last",
            "20..30 [25] @25 OnTime 0/0 last"
        ]
    );
}

#[test]
fn sessions_with_early_and_late_firings() {
    let trigger = end_of_window(Some(count(2)), Some(count(3)));
    let mut t = Transcript::new(Assign::Sessions(10), accumulating(trigger, 100));
    assert_eq!(t.input(&[1, 2]), ["1..12 [1, 2] @11 Early 0"]);
    assert_eq!(t.input(&[3]), NOTHING);
    assert_eq!(t.input(&[4]), ["1..14 [1, 2, 3, 4] @13 Early 0"], "a merged window's panes begin anew");
    assert_eq!(t.input(&[5]), NOTHING);
    assert_eq!(t.watermark(100), ["1..15 [1, 2, 3, 4, 5] @14 OnTime 0/0"]);
    assert_eq!(t.input(&[1]), NOTHING);
    assert_eq!(t.input(&[3, 4]), ["1..15 [1, 1, 2, 3, 3, 4, 4, 5] @14 Late 1/1"]);
    assert_eq!(t.end(), NOTHING);
    t.assert_empty();
}

#[test]
fn early_panes_that_discard() {
    let mut t = Transcript::fixed(10, discarding(end_of_window(Some(count(2)), None), 0));
    assert_eq!(t.input(&[1, 2]), ["0..10 [1, 2] @9 Early 0"]);
    assert_eq!(t.input(&[4]), NOTHING);
    assert_eq!(t.input(&[14]), NOTHING);
    assert_eq!(t.input(&[5]), ["0..10 [4, 5] @9 Early 1"]);
    assert_eq!(t.input(&[18]), ["10..20 [14, 18] @19 Early 0"]);
    assert_eq!(t.input(&[6]), NOTHING);
    assert_eq!(t.watermark(100), ["0..10 [6] @9 OnTime 2/0 last", "10..20 [] @19 OnTime 1/0 last"]);
}

#[test]
fn a_finished_trigger_closes_its_window() {
    let mut t = Transcript::fixed(10, discarding(count(2), 10));
    assert_eq!(
        t.input(&[1, 2, 3, 10, 11, 25]),
        ["0..10 [1, 2, 3] @9 Early 0 last", "10..20 [10, 11] @19 Early 0 last"]
    );
    assert_eq!(t.input(&[4, 12, 13]), NOTHING);
    assert_eq!(t.dropped(), (0, 3));
    assert_eq!(t.watermark(19), NOTHING);
    assert_eq!(t.input(&[5]), NOTHING);
    assert_eq!(t.dropped(), (0, 4));
    assert_eq!(t.watermark(20), NOTHING);
    assert_eq!(t.input(&[5]), NOTHING);
    assert_eq!(t.dropped(), (1, 4), "by now it is forgotten");
    assert_eq!(t.watermark(39), NOTHING);
    assert_eq!(t.watermark(40), ["20..30 [25] @29 OnTime 0/0 last"], "what never fired comes out at the expiry");
    t.assert_empty();
}

#[test]
fn elements_behind_the_watermark_do_not_move_the_pane() {
    let earliest = Windowing { timestamp_combiner: TimestampCombiner::Earliest, ..strategy(Trigger::Default) };
    let mut t = Transcript::fixed(10, earliest.clone());
    t.watermark(5);
    t.input(&[2, 3, 7, 8]);
    assert_eq!(t.engine.output, Timestamp(5));
    assert_eq!(t.watermark(11), ["0..10 [2, 3, 7, 8] @7 OnTime 0/0 last"]);
    let mut t = Transcript::fixed(10, earliest);
    t.watermark(8);
    t.input(&[2, 3, 7]);
    assert_eq!(t.watermark(11), ["0..10 [2, 3, 7] @9 OnTime 0/0 last"]);
}

// From here on, scenarios of our own.

#[test]
fn what_waits_holds_the_output_watermark() {
    let held = |combiner| {
        let mut t = Transcript::fixed(10, Windowing { timestamp_combiner: combiner, ..strategy(Trigger::Default) });
        t.input(&[3, 5]);
        t.watermark(8);
        t.engine.output.0
    };
    assert_eq!(held(TimestampCombiner::Earliest), 3);
    assert_eq!(held(TimestampCombiner::Latest), 5);
    assert_eq!(held(TimestampCombiner::EndOfWindow), 8);
    let mut t = Transcript::fixed(10, discarding(Trigger::Never, 50));
    t.input(&[3]);
    t.watermark(40);
    assert_eq!(t.engine.output, Timestamp(9), "until it is emitted");
    assert_eq!(t.watermark(60), ["0..10 [3] @9 OnTime 0/0 last"]);
    assert_eq!(t.engine.output, Timestamp(60));
}

#[test]
fn late_data_holds_nothing() {
    let mut t = Transcript::fixed(10, discarding(repeat(count(2)), 50));
    t.watermark(20);
    assert_eq!(t.input(&[3]), NOTHING);
    assert_eq!(t.watermark(30), NOTHING);
    assert_eq!(t.engine.output, Timestamp(30));
    assert_eq!(t.input(&[4]), ["0..10 [3, 4] @9 Late 0/0"]);
    assert_eq!(t.input(&[5]), NOTHING);
    assert_eq!(t.end(), ["0..10 [5] @9 Late 1/1 last"]);
}

#[test]
fn empty_panes_come_where_they_are_asked_for() {
    let panes = |on_time, closing, lateness| {
        let trigger = end_of_window(Some(count(1)), Some(count(1)));
        let mut t = Transcript::fixed(10, Windowing { on_time, closing, ..discarding(trigger, lateness) });
        t.input(&[3]);
        let mut panes = t.watermark(10);
        panes.extend(t.end());
        panes
    };
    use ClosingBehavior::{EmitAlways, EmitIfNonempty};
    use OnTimeBehavior::{FireAlways, FireIfNonempty};
    assert_eq!(panes(FireIfNonempty, EmitIfNonempty, 5), NOTHING);
    assert_eq!(panes(FireAlways, EmitIfNonempty, 5), ["0..10 [] @9 OnTime 1/0"]);
    assert_eq!(panes(FireIfNonempty, EmitAlways, 5), ["0..10 [] @9 Late 1/0 last"]);
    assert_eq!(panes(FireAlways, EmitAlways, 5), ["0..10 [] @9 OnTime 1/0", "0..10 [] @9 Late 2/1 last"]);
    assert_eq!(panes(FireAlways, EmitIfNonempty, 0), ["0..10 [] @9 OnTime 1/0 last"]);
    assert_eq!(panes(FireIfNonempty, EmitIfNonempty, 0), NOTHING);
}

#[test]
fn processing_time_fires_windows() {
    let mut t = Transcript::fixed(10, accumulating(repeat(delay(100)), 0));
    assert_eq!(t.input(&[1, 2]), NOTHING);
    assert_eq!(t.clock(99), NOTHING);
    assert_eq!(t.input(&[3]), NOTHING);
    assert_eq!(t.clock(1), ["0..10 [1, 2, 3] @9 Early 0"]);
    assert_eq!(t.clock(500), NOTHING, "until another element comes");
    assert_eq!(t.input(&[4]), NOTHING);
    assert_eq!(t.engine.windows.next_due().unwrap(), Some(Timestamp(1700)));
    assert_eq!(t.clock(200), ["0..10 [1, 2, 3, 4] @9 Early 1"]);
    assert_eq!(t.input(&[5]), NOTHING);
    assert_eq!(t.end(), ["0..10 [1, 2, 3, 4, 5] @9 OnTime 2/0 last"]);
    assert_eq!(t.clock(1000), NOTHING);
    t.assert_empty();
}

#[test]
fn the_global_window_fires_by_count_and_at_the_end() {
    let mut t = Transcript::new(Assign::Global, discarding(repeat(count(2)), 0));
    assert_eq!(t.input(&[1]), NOTHING);
    assert_eq!(t.input(&[2]), ["[1, 2] @9223371950454775 Early 0"]);
    assert_eq!(t.watermark(1_000_000), NOTHING);
    assert_eq!(t.input(&[3, 4, 5]), ["[3, 4, 5] @9223371950454775 Early 1"]);
    assert_eq!(t.input_of("other", &[6]), NOTHING);
    assert_eq!(t.end(), ["[] @9223371950454775 OnTime 2/0 last", "other:[6] @9223371950454775 OnTime 0/0 last"]);
}

#[test]
fn sessions_that_merge_bring_everything_along() {
    let windowing = Windowing { timestamp_combiner: TimestampCombiner::Earliest, ..discarding(Trigger::Default, 100) };
    let mut t = Transcript::new(Assign::Sessions(10), windowing);
    t.input(&[1, 15, 40]);
    t.input(&[8]);
    t.watermark(7);
    assert_eq!(t.engine.output, Timestamp(1));
    assert_eq!(t.watermark(30), ["1..25 [1, 8, 15] @1 OnTime 0/0"]);
    assert_eq!(t.input(&[33]), NOTHING, "it makes the second session longer");
    assert_eq!(t.watermark(49), NOTHING);
    assert_eq!(t.input(&[24]), NOTHING, "the two become one, which has not ended");
    assert_eq!(t.watermark(50), ["1..50 [24, 33, 40] @33 OnTime 0/0"]);
    assert_eq!(t.end(), NOTHING);
    t.assert_empty();
}

#[test]
fn elements_follow_their_window_into_the_one_that_it_becomes() {
    let mut t = Transcript::new(Assign::Sessions(10), discarding(Trigger::Default, 0));
    t.input(&[1]);
    t.input(&[1, 5, 1, 15]);
    assert_eq!(t.end(), ["1..15 [1, 1, 1, 5] @14 OnTime 0/0 last", "15..25 [15] @24 OnTime 0/0 last"]);
    t.assert_empty();
}

#[test]
fn a_session_that_is_closed_merges_with_nothing() {
    let mut t = Transcript::new(Assign::Sessions(10), discarding(count(2), 0));
    assert_eq!(t.input(&[1, 3]), ["1..13 [1, 3] @12 Early 0 last"]);
    assert_eq!(t.input(&[5]), NOTHING, "a session of its own");
    assert_eq!(t.input(&[6]), ["5..16 [5, 6] @15 Early 0 last"]);
    assert_eq!(t.dropped(), (0, 0));
    assert_eq!(t.end(), NOTHING);
    t.assert_empty();
}

#[test]
fn large_groups_come_out_whole() {
    let values: Vec<i64> = ((1 << 41)..(1 << 41) + 300_000).collect();
    let mut t = Transcript::new(Assign::Global, accumulating(Trigger::Default, 0));
    for part in values.chunks(10_000) {
        assert_eq!(t.input(part), NOTHING);
    }
    let panes = t.end();
    assert_eq!(panes.len(), 1);
    assert!(panes[0] == format!("{values:?} @9223371950454775 OnTime 0/0 last"), "{:.200}", panes[0]);
    assert_eq!(t.iterables.len(), 1, "by reference");
    t.assert_empty();
}

#[test]
fn values_of_large_sessions_that_merge_are_kept() {
    let mut t = Transcript::new(Assign::Sessions(1000), accumulating(Trigger::Default, 0));
    let (left, right): (Vec<i64>, Vec<i64>) = ((0..2000).collect(), (5000..6999).collect());
    t.input(&left);
    t.input(&right);
    t.input(&(2500..5000).step_by(500).collect::<Vec<i64>>());
    let panes = t.end();
    let mut all = left;
    all.extend((2500..5000).step_by(500));
    all.extend(right);
    assert_eq!(panes.len(), 1);
    assert!(panes[0] == format!("0..7998 {all:?} @7997 OnTime 0/0 last"), "{:.200}", panes[0]);
    t.assert_empty();
}

#[test]
fn without_room_nothing_is_lost() {
    let mut t = Transcript::fixed(10, discarding(repeat(count(1)), 0));
    let mut all = Vec::new();
    let timestamps: Vec<i64> = (0..400).map(|at| at * 10).collect();
    let mut batch = BatchBuilder::default();
    for timestamp in &timestamps {
        let window = t.window(*timestamp);
        let mut value = vec![1, b'k'];
        crate::element::put_varint(&mut value, *timestamp as u64);
        batch.push_with(Timestamp(*timestamp), |out| {
            encode_windowed_value(out, Timestamp(*timestamp), &[&window], &[0x0f], &value);
        });
    }
    t.take(&batch.finish());
    // Room for one batch; every pane is given as a batch, and taken away after a pause.
    t.out.room = Some(0);
    assert_eq!(t.engine.fire_touched(t.now, &mut t.out).unwrap(), Progress::Paused);
    t.out.room = None;
    assert_eq!(t.engine.fire_touched(t.now, &mut t.out).unwrap(), Progress::Done);
    all.extend(t.settle());
    assert_eq!(all.len(), 400);
    t.engine.watermark = Timestamp(i64::MAX);
    t.out.room = Some(0);
    assert_eq!(t.engine.wake_by_watermark(t.now, &mut t.out).unwrap(), Progress::Paused);
    t.out.room = None;
    assert_eq!(t.end().len(), 400);
    t.assert_empty();
}

/// Windows that the SDK merges: here, all of a key.
#[test]
fn the_sdk_merges_custom_windows() {
    let mut t = Transcript::new(Assign::Fixed(10), accumulating(repeat(count(2)), 0));
    t.engine.windows.windowing.merging = Merging::Custom;
    t.engine.windows.machine = TriggerMachine::new(&repeat(count(2)), true);
    let input = |t: &mut Transcript, timestamps: &[i64], expected: &[usize]| {
        let mut batch = BatchBuilder::default();
        for timestamp in timestamps {
            let window = t.window(*timestamp);
            let mut value = vec![1, b'k'];
            crate::element::put_varint(&mut value, *timestamp as u64);
            batch.push_with(Timestamp(*timestamp), |out| {
                encode_windowed_value(out, Timestamp(*timestamp), &[&window], &[0x0f], &value);
            });
        }
        let batch = batch.finish();
        let questions = t.engine.questions(&batch).unwrap();
        let asked: Vec<usize> = questions.iter().map(|question| question.windows().len()).collect();
        assert_eq!(asked, expected);
        let answers = questions.into_iter().map(|question| {
            let windows = question.windows();
            let all: BTreeMap<i64, i64> = windows
                .iter()
                .map(|window| IntervalWindow::decode(window).unwrap())
                .map(|window| (window.start.0, window.end.0))
                .collect();
            let start = *all.keys().next().unwrap();
            let end = *all.values().max().unwrap();
            let merged = IntervalWindow { start: Timestamp(start), end: Timestamp(end) }.encode();
            let merged: Merged = vec![(merged, (0..windows.len()).collect())];
            (question, merged)
        });
        let answers = answers.collect();
        t.engine.take(&batch, answers, t.now).unwrap();
        t.engine.fire_touched(t.now, &mut t.out).unwrap();
        t.settle()
    };
    assert_eq!(input(&mut t, &[3], &[1]), NOTHING);
    assert_eq!(input(&mut t, &[4], &[]), ["0..10 [3, 4] @9 Early 0"], "its window is known: nobody is asked");
    assert_eq!(input(&mut t, &[25], &[2]), NOTHING);
    assert_eq!(input(&mut t, &[15], &[2]), ["0..30 [3, 4, 15, 25] @29 Early 0"]);
    assert_eq!(t.end(), ["0..30 [3, 4, 15, 25] @29 OnTime 1/0 last"]);
    t.assert_empty();
}
