//! The value of a metric, by its type.
//!
//! | type | payload | merged |
//! |---|---|---|
//! | `sum_*` | the number | sum |
//! | `distribution_*` | count, sum, least, greatest; a count of 0 may stand alone | of all |
//! | `latest_*` | milliseconds since the epoch (varint), the number | the later; of two at one instant the greater |
//! | `top_n_*`, `bottom_n_*` | an iterable of numbers | the greatest or least, as many as the longer has |
//! | `set_string` | an iterable of strings | union, until it has [`SET_LIMIT`] bytes |
//! | `bounded_trie` | a `BoundedTrie` proto | union, trimmed to its bound |
//! | `histogram_int64` | a `HistogramValue` proto | bucket by bucket, where the buckets are alike |
//! | `progress`, and any other | | the last |
//!
//! Integers are varints and doubles eight bytes, big endian. The protocol does not say how long a `top_n` may grow, so
//! a merge never makes it longer than what some bundle reported.

use std::collections::BTreeSet;

use bytes::Bytes;
use ferrobeam_proto::pipeline::HistogramValue;
use ferrobeam_proto::urns::monitoring_info_type_urns as types;
use prost::Message;

use super::trie::Trie;
use crate::element::{ElementError, WireCoder, get_varint, put_varint};

/// Bytes of strings that a set may hold: where SDKs stop adding, too.
pub(super) const SET_LIMIT: usize = 1_000_000;

/// A decoded metric.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    SumInt(i64),
    SumDouble(f64),
    DistributionInt(Option<Distribution<i64>>),
    DistributionDouble(Option<Distribution<f64>>),
    LatestInt(i64, i64),
    LatestDouble(i64, f64),
    ExtremeInt(Extreme, Vec<i64>),
    ExtremeDouble(Extreme, Vec<f64>),
    Set(BTreeSet<String>),
    Trie(Trie),
    Histogram(HistogramValue),
    /// Of a type that is not merged, or malformed.
    Last(Bytes),
}

/// Which end of an order a metric keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extreme {
    Top,
    Bottom,
}

/// A summary of at least one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Distribution<T> {
    count: i64,
    sum: T,
    min: T,
    max: T,
}

/// Why two values have no sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mismatch {
    #[error("a payload is malformed")]
    Payload,
    #[error("the histograms have different buckets")]
    Buckets,
    #[error("the set is full")]
    Full,
}

impl Value {
    /// Reads a payload; what does not decode becomes [`Value::Last`].
    pub(super) fn decode(type_urn: &str, payload: Bytes) -> Value {
        Value::try_decode(type_urn, &payload).unwrap_or(Value::Last(payload))
    }

    fn try_decode(type_urn: &str, payload: &[u8]) -> Option<Value> {
        let mut rest = payload;
        let value = match type_urn {
            types::SUM_INT64_TYPE => Value::SumInt(int(&mut rest)?),
            types::SUM_DOUBLE_TYPE => Value::SumDouble(double(&mut rest)?),
            types::DISTRIBUTION_INT64_TYPE => Value::DistributionInt(distribution(&mut rest, int)?),
            types::DISTRIBUTION_DOUBLE_TYPE => Value::DistributionDouble(distribution(&mut rest, double)?),
            types::LATEST_INT64_TYPE => Value::LatestInt(int(&mut rest)?, int(&mut rest)?),
            types::LATEST_DOUBLE_TYPE => Value::LatestDouble(int(&mut rest)?, double(&mut rest)?),
            types::TOP_N_INT64_TYPE => return ints(Extreme::Top, payload),
            types::BOTTOM_N_INT64_TYPE => return ints(Extreme::Bottom, payload),
            types::TOP_N_DOUBLE_TYPE => return doubles(Extreme::Top, payload),
            types::BOTTOM_N_DOUBLE_TYPE => return doubles(Extreme::Bottom, payload),
            types::SET_STRING_TYPE => return set(payload),
            types::BOUNDED_TRIE_TYPE => return Trie::decode(payload).map(Value::Trie),
            types::HISTOGRAM => return HistogramValue::decode(payload).ok().map(Value::Histogram),
            _ => return None,
        };
        rest.is_empty().then_some(value)
    }

    /// Adds a later value of the same metric; where that cannot be, the later one is kept.
    pub(super) fn merge(&mut self, later: Value) -> Result<(), Mismatch> {
        match (&mut *self, later) {
            (Value::SumInt(sum), Value::SumInt(more)) => *sum = sum.wrapping_add(more),
            (Value::SumDouble(sum), Value::SumDouble(more)) => *sum += more,
            (Value::DistributionInt(sum), Value::DistributionInt(more)) => {
                merge_distributions(sum, more, i64::wrapping_add, i64::min, i64::max);
            }
            (Value::DistributionDouble(sum), Value::DistributionDouble(more)) => {
                merge_distributions(sum, more, |left, right| left + right, f64::min, f64::max);
            }
            (Value::LatestInt(time, value), Value::LatestInt(later, other)) => {
                (*time, *value) = (*time, *value).max((later, other));
            }
            (Value::LatestDouble(time, value), Value::LatestDouble(later, other)) => {
                if (later, other.total_cmp(value)) > (*time, std::cmp::Ordering::Equal) {
                    (*time, *value) = (later, other);
                }
            }
            (Value::ExtremeInt(extreme, kept), Value::ExtremeInt(_, more)) => {
                merge_extremes(*extreme, kept, more, i64::cmp);
            }
            (Value::ExtremeDouble(extreme, kept), Value::ExtremeDouble(_, more)) => {
                merge_extremes(*extreme, kept, more, f64::total_cmp);
            }
            (Value::Set(set), Value::Set(more)) => return merge_sets(set, more),
            (Value::Trie(trie), Value::Trie(more)) => trie.merge(more),
            (Value::Histogram(sum), Value::Histogram(more)) => {
                if sum.bucket_options != more.bucket_options {
                    *sum = more;
                    return Err(Mismatch::Buckets);
                }
                merge_histograms(sum, &more);
            }
            (Value::Last(last), Value::Last(later)) => *last = later,
            // One type decodes to one kind of value, unless it is malformed.
            (_, later) => {
                *self = later;
                return Err(Mismatch::Payload);
            }
        }
        Ok(())
    }

    /// The payload.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Value::SumInt(sum) => put_int(&mut out, *sum),
            Value::SumDouble(sum) => put_double(&mut out, *sum),
            Value::DistributionInt(distribution) => {
                put_distribution(&mut out, distribution.as_ref(), [0, i64::MAX, i64::MIN], put_int);
            }
            Value::DistributionDouble(distribution) => {
                let nothing = [0.0, f64::INFINITY, f64::NEG_INFINITY];
                put_distribution(&mut out, distribution.as_ref(), nothing, put_double);
            }
            Value::LatestInt(time, value) => {
                put_int(&mut out, *time);
                put_int(&mut out, *value);
            }
            Value::LatestDouble(time, value) => {
                put_int(&mut out, *time);
                put_double(&mut out, *value);
            }
            Value::ExtremeInt(_, values) => {
                put_count(&mut out, values.len());
                values.iter().for_each(|value| put_int(&mut out, *value));
            }
            Value::ExtremeDouble(_, values) => {
                put_count(&mut out, values.len());
                values.iter().for_each(|value| put_double(&mut out, *value));
            }
            Value::Set(set) => {
                put_count(&mut out, set.len());
                for string in set {
                    put_varint(&mut out, string.len() as u64);
                    out.extend_from_slice(string.as_bytes());
                }
            }
            Value::Trie(trie) => return trie.encode(),
            Value::Histogram(histogram) => return histogram.encode_to_vec().into(),
            Value::Last(payload) => return payload.clone(),
        }
        out.into()
    }
}

fn int(rest: &mut &[u8]) -> Option<i64> {
    let (value, length) = get_varint(rest).ok()?;
    *rest = &rest[length..];
    Some(value as i64)
}

fn double(rest: &mut &[u8]) -> Option<f64> {
    let (value, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(f64::from_be_bytes(*value))
}

/// `Some(None)` for a distribution of nothing.
fn distribution<T>(rest: &mut &[u8], number: impl Fn(&mut &[u8]) -> Option<T>) -> Option<Option<Distribution<T>>> {
    let count = int(rest)?;
    if count == 0 {
        *rest = &[];
        return Some(None);
    }
    Some(Some(Distribution { count, sum: number(rest)?, min: number(rest)?, max: number(rest)? }))
}

fn elements(coder: WireCoder, payload: &[u8]) -> Result<Vec<&[u8]>, ElementError> {
    WireCoder::Iterable(Box::new(coder)).iterate(payload)
}

fn ints(extreme: Extreme, payload: &[u8]) -> Option<Value> {
    let elements = elements(WireCoder::VarInt, payload).ok()?;
    let values = elements.into_iter().map(|mut element| int(&mut element)).collect::<Option<_>>()?;
    Some(Value::ExtremeInt(extreme, values))
}

fn doubles(extreme: Extreme, payload: &[u8]) -> Option<Value> {
    let elements = elements(WireCoder::Double, payload).ok()?;
    let values = elements.into_iter().map(|mut element| double(&mut element)).collect::<Option<_>>()?;
    Some(Value::ExtremeDouble(extreme, values))
}

fn set(payload: &[u8]) -> Option<Value> {
    let mut set = BTreeSet::new();
    for element in elements(WireCoder::Prefixed, payload).ok()? {
        let (_, length) = get_varint(element).ok()?;
        set.insert(str::from_utf8(&element[length..]).ok()?.to_owned());
    }
    Some(Value::Set(set))
}

fn merge_distributions<T: Copy>(
    sum: &mut Option<Distribution<T>>,
    more: Option<Distribution<T>>,
    add: impl Fn(T, T) -> T,
    min: impl Fn(T, T) -> T,
    max: impl Fn(T, T) -> T,
) {
    *sum = match (*sum, more) {
        (Some(left), Some(right)) => Some(Distribution {
            count: left.count.wrapping_add(right.count),
            sum: add(left.sum, right.sum),
            min: min(left.min, right.min),
            max: max(left.max, right.max),
        }),
        (left, right) => left.or(right),
    };
}

fn merge_extremes<T>(
    extreme: Extreme,
    kept: &mut Vec<T>,
    more: Vec<T>,
    compare: impl Fn(&T, &T) -> std::cmp::Ordering,
) {
    let limit = kept.len().max(more.len());
    kept.extend(more);
    kept.sort_unstable_by(|left, right| match extreme {
        Extreme::Top => compare(right, left),
        Extreme::Bottom => compare(left, right),
    });
    kept.truncate(limit);
}

fn merge_sets(set: &mut BTreeSet<String>, more: BTreeSet<String>) -> Result<(), Mismatch> {
    let mut size: usize = set.iter().map(String::len).sum();
    for string in more {
        if set.contains(&string) {
            continue;
        }
        size += string.len();
        if size > SET_LIMIT {
            return Err(Mismatch::Full);
        }
        set.insert(string);
    }
    Ok(())
}

fn merge_histograms(sum: &mut HistogramValue, more: &HistogramValue) {
    sum.count = match (sum.count, more.count) {
        (Some(left), Some(right)) => Some(left.wrapping_add(right)),
        (left, right) => left.or(right),
    };
    if sum.bucket_counts.len() < more.bucket_counts.len() {
        sum.bucket_counts.resize(more.bucket_counts.len(), 0);
    }
    for (count, more) in sum.bucket_counts.iter_mut().zip(&more.bucket_counts) {
        *count = count.wrapping_add(*more);
    }
}

fn put_int(out: &mut Vec<u8>, value: i64) {
    put_varint(out, value as u64);
}

fn put_double(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    // Payloads are far below 2 GiB, and an element takes a byte at least.
    out.extend_from_slice(&(count as u32).to_be_bytes());
}

/// A distribution of nothing has all four numbers too, because not every SDK reads the short form: `nothing` is its
/// sum, least and greatest.
fn put_distribution<T: Copy>(
    out: &mut Vec<u8>,
    distribution: Option<&Distribution<T>>,
    nothing: [T; 3],
    put: impl Fn(&mut Vec<u8>, T),
) {
    let (count, numbers) = distribution.map_or((0, nothing), |it| (it.count, [it.sum, it.min, it.max]));
    put_int(out, count);
    numbers.into_iter().for_each(|number| put(out, number));
}
