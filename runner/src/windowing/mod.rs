//! Windows as the runner sees them: encoded bytes with a greatest timestamp, and rules for merging and timestamps.
//!
//! Pure functions and values; no IO, no clock.

mod interval;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::element::{ElementError, WireCoder};
use crate::time::Timestamp;

pub use interval::{IntervalWindow, merge_sessions};

/// The windowing strategy of a PCollection, as far as grouping needs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Windowing {
    /// How windows are encoded in windowed values.
    pub window_coder: WindowCoder,
    /// Whether and how windows merge at a grouping.
    pub merging: Merging,
    /// Which timestamp a pane takes.
    pub timestamp_combiner: TimestampCombiner,
}

/// How a window is encoded on the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WindowCoder {
    /// `beam:coder:global_window:v1`: no bytes.
    Global,
    /// `beam:coder:interval_window:v1`: the exclusive end as a timestamp, then the length in milliseconds as a varint.
    Interval,
    /// `beam:coder:custom_window:v1`: the greatest timestamp inside the window, then the window in this coder.
    Custom(Box<WireCoder>),
}

/// Whether windows of one key merge when they are grouped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Merging {
    /// They do not, or have merged already.
    None,
    /// Interval windows that intersect become one (`beam:window_fn:session_windows:v1`).
    Sessions,
    /// The SDK says which windows merge.
    Custom,
}

/// Which timestamp a pane takes among those of its elements (`OutputTime` of the pipeline proto).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimestampCombiner {
    /// The greatest timestamp inside the window.
    EndOfWindow,
    /// The latest of the elements' timestamps.
    Latest,
    /// The earliest of the elements' timestamps.
    Earliest,
}

impl WindowCoder {
    /// The length of the one encoded window at the start of `bytes`.
    pub fn skip(&self, bytes: &[u8]) -> Result<usize, ElementError> {
        match self {
            WindowCoder::Global => Ok(0),
            WindowCoder::Interval => WireCoder::IntervalWindow.skip(bytes),
            WindowCoder::Custom(window) => {
                let rest = bytes.get(8..).ok_or(ElementError::Incomplete)?;
                Ok(8 + window.skip(rest)?)
            }
        }
    }

    /// The greatest timestamp inside an encoded window.
    pub fn max_timestamp(&self, window: &[u8]) -> Result<Timestamp, ElementError> {
        match self {
            WindowCoder::Global => Ok(Timestamp::END_OF_GLOBAL_WINDOW),
            WindowCoder::Interval => Ok(IntervalWindow::decode(window)?.max_timestamp()),
            WindowCoder::Custom(_) => {
                let timestamp = window.first_chunk().ok_or(ElementError::Incomplete)?;
                Ok(Timestamp::from_wire(*timestamp))
            }
        }
    }

    /// The coder of one window, as an element of its own.
    pub fn element(&self) -> WireCoder {
        match self {
            WindowCoder::Global => WireCoder::GlobalWindow,
            WindowCoder::Interval => WireCoder::IntervalWindow,
            WindowCoder::Custom(window) => WireCoder::CustomWindow(window.clone()),
        }
    }
}

impl TimestampCombiner {
    /// The timestamp of a pane of a window that ends at `window_max`, whose elements lie between `earliest` and
    /// `latest`.
    pub fn apply(self, window_max: Timestamp, earliest: Timestamp, latest: Timestamp) -> Timestamp {
        match self {
            TimestampCombiner::EndOfWindow => window_max,
            TimestampCombiner::Latest => latest,
            TimestampCombiner::Earliest => earliest,
        }
    }
}
