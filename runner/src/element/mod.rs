//! Elements stay bytes: batches of encoded windowed values, and just enough of their coders to find borders.

mod batch;
mod builder;
mod outputs;
mod spill_queue;
mod splitter;
mod timer;
mod windowed;
mod wire;

#[cfg(test)]
pub(crate) mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use batch::Batch;
pub use builder::BatchBuilder;
pub use outputs::{MEMORY_LIMIT, OutputError, Outputs};
pub use spill_queue::{FrozenQueue, SpillQueue};
pub use splitter::{MAX_ELEMENT, Splitter};
pub use timer::{TimerTimes, TimerView};
pub(crate) use windowed::PANE_METADATA;
pub use windowed::{
    ElementCoder, ElementView, PANE_NO_FIRING, PANE_ON_TIME_AND_ONLY, Windows, encode_windowed_header,
    encode_windowed_value,
};
pub use wire::{ElementError, MAX_DEPTH, get_varint, put_varint};

/// The structure of an encoded value (nested context) as far as the runner must walk it. Whatever it does not know was
/// wrapped in a length prefix by the planner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WireCoder {
    /// A varint length, then that many bytes: `bytes`, `string_utf8` and `length_prefix` coders alike.
    Prefixed,
    /// `bool`: one byte.
    Bool,
    /// `varint`.
    VarInt,
    /// `double`: eight bytes.
    Double,
    /// `kv`: key, then value.
    Kv(Box<WireCoder>, Box<WireCoder>),
    /// `iterable`: a four-byte count then elements; or -1, then chunks of varint count and elements, ended by 0.
    Iterable(Box<WireCoder>),
    /// `state_backed_iterable`: as [`WireCoder::Iterable`], but chunks may end with -1, a varint length and a token.
    StateBackedIterable(Box<WireCoder>),
    /// `nullable`: a byte 0, or a byte 1 and the value.
    Nullable(Box<WireCoder>),
    /// `sharded_key`: a prefixed shard id, then the key.
    ShardedKey(Box<WireCoder>),
    /// `global_window`: no bytes.
    GlobalWindow,
    /// `interval_window`: eight bytes, then a varint.
    IntervalWindow,
    /// `custom_window`: eight bytes, then the window.
    CustomWindow(Box<WireCoder>),
}

/// In words, also those that saved state is described with: state is read only where it was written under the same.
impl fmt::Display for WireCoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireCoder::Prefixed => f.write_str("prefixed"),
            WireCoder::Bool => f.write_str("bool"),
            WireCoder::VarInt => f.write_str("varint"),
            WireCoder::Double => f.write_str("double"),
            WireCoder::Kv(key, value) => write!(f, "kv({key}, {value})"),
            WireCoder::Iterable(element) => write!(f, "iterable({element})"),
            WireCoder::StateBackedIterable(element) => write!(f, "state_backed_iterable({element})"),
            WireCoder::Nullable(value) => write!(f, "nullable({value})"),
            WireCoder::ShardedKey(key) => write!(f, "sharded_key({key})"),
            WireCoder::GlobalWindow => f.write_str("global_window"),
            WireCoder::IntervalWindow => f.write_str("interval_window"),
            WireCoder::CustomWindow(window) => write!(f, "custom_window({window})"),
        }
    }
}

/// The hash that partitions keys between workers: XXH3, 64 bits, seed 0, of the encoded key. Saved state depends on it, so
/// it is one with a published definition that no release of a library changes.
#[inline]
pub fn key_hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}
