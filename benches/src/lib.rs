//! Elements for the microbenchmarks, the same on every run.
//!
//! The benchmarks themselves are in `benches/`: `cargo bench -p ferrobeam-benches`. Comparisons with other runners, on
//! whole pipelines, are in `compare/`.

use bytes::Bytes;
use ferrobeam_runner::element::{
    ElementCoder, PANE_NO_FIRING, PANE_ON_TIME_AND_ONLY, WireCoder, encode_windowed_value, put_varint,
};
use ferrobeam_runner::time::Timestamp;
use ferrobeam_runner::windowing::{IntervalWindow, WindowCoder};

/// A kind of element: its coder, and how one is made of a number.
#[derive(Clone, Debug)]
pub struct Shape {
    /// For reports.
    pub name: &'static str,
    /// How it is encoded.
    pub coder: ElementCoder,
    value: fn(u64, &mut Vec<u8>),
}

/// The kinds that pipelines have most.
pub fn shapes() -> Vec<Shape> {
    let pair = |key, value| WireCoder::Kv(Box::new(key), Box::new(value));
    let shape = |name, value, window, make| Shape { name, coder: ElementCoder::new(value, window), value: make };
    vec![
        shape("bytes", WireCoder::Prefixed, WindowCoder::Global, word),
        shape("varint", WireCoder::VarInt, WindowCoder::Global, |number, out| put_varint(out, number)),
        shape("kv_bytes", pair(WireCoder::Prefixed, WireCoder::Prefixed), WindowCoder::Global, |number, out| {
            word(number, out);
            word(number, out);
        }),
        shape("kv_count_in_sessions", pair(WireCoder::Prefixed, WireCoder::VarInt), WindowCoder::Interval, count),
        // Walked by the interpreter: no loop is made for it.
        shape(
            "nested",
            pair(WireCoder::Nullable(Box::new(WireCoder::Prefixed)), WireCoder::Iterable(Box::new(WireCoder::VarInt))),
            WindowCoder::Global,
            |number, out| {
                out.push(1);
                word(number, out);
                out.extend_from_slice(&3u32.to_be_bytes());
                (0..3).for_each(|more| put_varint(out, number + more));
            },
        ),
    ]
}

/// A pair of a word, out of a vocabulary of about `keys`, and a count.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// Distinct words.
    pub keys: u64,
}

impl Words {
    /// The coder of the pairs.
    pub fn coder() -> ElementCoder {
        let pair = WireCoder::Kv(Box::new(WireCoder::Prefixed), Box::new(WireCoder::VarInt));
        ElementCoder::new(pair, WindowCoder::Global)
    }

    /// The word and the count of the pair with this number, both encoded.
    pub fn pair(self, number: u64, key: &mut Vec<u8>, value: &mut Vec<u8>) {
        key.clear();
        value.clear();
        word(scatter(number) % self.keys, key);
        put_varint(value, number % 100);
    }
}

fn word(number: u64, out: &mut Vec<u8>) {
    out.push(8);
    out.extend_from_slice(&scatter(number).to_be_bytes());
}

fn count(number: u64, out: &mut Vec<u8>) {
    word(number, out);
    put_varint(out, number % 1000);
}

/// A number without order.
fn scatter(number: u64) -> u64 {
    let mixed = (number ^ (number >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

impl Shape {
    /// One encoded element.
    pub fn element(&self, number: u64) -> Vec<u8> {
        let mut value = Vec::new();
        (self.value)(number, &mut value);
        let mut out = Vec::new();
        let timestamp = Timestamp(number as i64);
        match self.coder.window {
            WindowCoder::Global => encode_windowed_value(&mut out, timestamp, &[b""], PANE_NO_FIRING, &value),
            _ => {
                let start = timestamp.0 - timestamp.0 % 60_000;
                let window = IntervalWindow { start: Timestamp(start), end: Timestamp(start + 60_000) }.encode();
                encode_windowed_value(&mut out, timestamp, &[&window], PANE_ON_TIME_AND_ONLY, &value);
            }
        }
        out
    }

    /// A chunk of `count` elements, as a harness sends it.
    pub fn chunk(&self, count: u64) -> Bytes {
        (0..count).flat_map(|number| self.element(number)).collect::<Vec<u8>>().into()
    }
}
