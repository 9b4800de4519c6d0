//! What comes out, step by step, of windows under all kinds of strategies.

mod beam;
mod more;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::engine::{Dropped, Engine, Progress, Room};
use super::intake::Intake;
use crate::dataflow::group::Grouping;
use crate::dataflow::merge::Merged;
use crate::element::{Batch, BatchBuilder, ElementCoder, ElementView, WireCoder, encode_windowed_value, get_varint};
use crate::grouping::StoredIterables;
use crate::memory::Budget;
use crate::state::{MemoryStore, StoreKind, Stores};
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
    folder: tempfile::TempDir,
    grouping: Grouping,
    settling: i64,
    restarts: usize,
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
    fn new(assign: Assign, windowing: Windowing) -> Transcript {
        Transcript::settling(assign, windowing, 0)
    }

    /// Synchronized processing time lags behind by so much.
    fn settling(assign: Assign, mut windowing: Windowing, settling: i64) -> Transcript {
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
            readers: 1,
        };
        let engine = Engine::new(&grouping, Box::new(MemoryStore::default()), settling);
        let out = Panes::default();
        Transcript { assign, grouping, settling, engine, out, now: Timestamp(1000), iterables, folder, restarts: 0 }
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

    /// Elements of `key`.
    fn batch(&self, key: &str, timestamps: &[i64]) -> Intake {
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
        Intake::new(batch.finish())
    }

    /// Elements of `key` come together.
    fn input_of(&mut self, key: &str, timestamps: &[i64]) -> Vec<String> {
        let mut intake = self.batch(key, timestamps);
        while !intake.is_over() {
            self.take(&mut intake);
            self.engine.fire_touched(self.now, &mut self.out).unwrap();
        }
        self.settle()
    }

    fn take(&mut self, intake: &mut Intake) {
        let mut answers = Vec::new();
        for question in self.engine.questions(intake).unwrap() {
            let merged = question.sessions().unwrap();
            answers.push((question, merged));
        }
        self.engine.take(intake, answers, self.now).unwrap();
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

    /// The engine is made anew from what is saved of it: nobody may notice. At a border every trigger has been asked.
    fn restart(&mut self) {
        if !self.engine.touched.is_empty() {
            return;
        }
        let saved = self.folder.path().join(format!("saved-{}", self.restarts));
        self.restarts += 1;
        self.engine.windows.freeze().unwrap().write(&saved).unwrap();
        let store = Stores::new(StoreKind::Memory, &self.grouping.budget).restore("restored", &saved).unwrap();
        let mut engine = Engine::new(&self.grouping, store, self.settling);
        engine.windows.take_over().unwrap();
        (engine.watermark, engine.output) = (self.engine.watermark, self.engine.output);
        engine.dropped = self.engine.dropped;
        self.engine = engine;
    }

    /// What came out since the last time, in order, and the output watermark follows.
    fn settle(&mut self) -> Vec<String> {
        self.out.give(self.engine.panes.finish());
        self.engine.follow();
        self.restart();
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
