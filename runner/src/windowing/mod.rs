//! Windows as the runner sees them: encoded bytes with a greatest timestamp, and rules for merging and timestamps.
//!
//! Pure functions and values; no IO, no clock.

mod display;
mod interval;
mod pane;
mod trigger;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::element::{ElementError, WireCoder, get_varint};
use crate::time::Timestamp;

pub use display::Firing;
pub use interval::{IntervalWindow, merge_sessions};
pub use pane::{PaneInfo, Passed, Timing};
pub use trigger::{DamagedState, Look, TriggerMachine, TriggerState};

/// The windowing strategy of a PCollection, as far as grouping needs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Windowing {
    /// How windows are encoded in windowed values.
    pub window_coder: WindowCoder,
    /// Whether and how windows merge at a grouping.
    pub merging: Merging,
    /// Which timestamp a pane takes.
    pub timestamp_combiner: TimestampCombiner,
    /// When a window fires.
    pub trigger: Trigger,
    /// What becomes of a pane's content after it fired.
    pub accumulation: Accumulation,
    /// How long after its end a window takes late data, in milliseconds (not negative).
    pub allowed_lateness: i64,
    /// Whether a window that expires fires a last pane even if there is nothing new in it.
    pub closing: ClosingBehavior,
    /// Whether a window fires on time even if there is nothing new in it.
    pub on_time: OnTimeBehavior,
}

/// What becomes of a pane's content after it fired (`AccumulationMode` of the pipeline proto).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accumulation {
    /// The next pane begins empty.
    Discarding,
    /// The next pane has it too.
    Accumulating,
}

/// Whether the last pane of a window is fired even if it is empty (`ClosingBehavior`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClosingBehavior {
    /// Always.
    EmitAlways,
    /// Only if it holds something new.
    EmitIfNonempty,
}

/// Whether the pane at the window's end is fired even if it is empty (`OnTimeBehavior`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnTimeBehavior {
    /// Always.
    FireAlways,
    /// Only if it holds something new.
    FireIfNonempty,
}

/// When a window fires (`Trigger` of the pipeline proto).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trigger {
    /// Once all are ready.
    AfterAll(Vec<Trigger>),
    /// Once one is ready.
    AfterAny(Vec<Trigger>),
    /// One after the other, each from when the one before has finished.
    AfterEach(Vec<Trigger>),
    /// When the watermark passes the window's end; before and after that as the two say.
    AfterEndOfWindow {
        /// Before the end.
        early: Option<Box<Trigger>>,
        /// After it.
        late: Option<Box<Trigger>>,
    },
    /// At a processing time reckoned from the arrival of the pane's first element.
    AfterProcessingTime(Vec<TimestampTransform>),
    /// What the former becomes downstream of a grouping: when everything upstream that came by then is here.
    AfterSynchronizedProcessingTime,
    /// At the end of the window, and then at every late element.
    Default,
    /// Once the pane has so many elements.
    ElementCount(u32),
    /// Not until the window closes.
    Never,
    /// At every element.
    Always,
    /// As the first does, and for the last time when the second fires.
    OrFinally(Box<Trigger>, Box<Trigger>),
    /// Again and again.
    Repeat(Box<Trigger>),
}

impl Trigger {
    /// Whether it may fire between one element and the next, because a part of it counts them.
    pub fn counts_elements(&self) -> bool {
        let part = |part: &Option<Box<Trigger>>| part.as_deref().is_some_and(Trigger::counts_elements);
        match self {
            Trigger::Always | Trigger::ElementCount(_) => true,
            Trigger::AfterAll(parts) | Trigger::AfterAny(parts) | Trigger::AfterEach(parts) => {
                parts.iter().any(Trigger::counts_elements)
            }
            Trigger::AfterEndOfWindow { early, late } => part(early) || part(late),
            Trigger::OrFinally(main, until) => main.counts_elements() || until.counts_elements(),
            Trigger::Repeat(repeated) => repeated.counts_elements(),
            Trigger::AfterProcessingTime(_)
            | Trigger::AfterSynchronizedProcessingTime
            | Trigger::Default
            | Trigger::Never => false,
        }
    }

    /// Whether it never fires before the end of the window.
    pub fn waits_for_the_end(&self) -> bool {
        matches!(self, Trigger::Default | Trigger::Never | Trigger::AfterEndOfWindow { early: None, .. })
    }
}

/// A step in reckoning a time from another (`TimestampTransform` of the pipeline proto), in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimestampTransform {
    /// So much later.
    Delay(i64),
    /// Up to the next offset + n * period.
    AlignTo {
        /// The period.
        period: i64,
        /// The offset.
        offset: i64,
    },
}

/// How a window is encoded on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl Windowing {
    /// Windows of a collection that groups once at each window's end and takes no late data.
    pub fn plain(window_coder: WindowCoder, merging: Merging) -> Windowing {
        Windowing {
            window_coder,
            merging,
            timestamp_combiner: TimestampCombiner::EndOfWindow,
            trigger: Trigger::Default,
            accumulation: Accumulation::Discarding,
            allowed_lateness: 0,
            closing: ClosingBehavior::EmitIfNonempty,
            on_time: OnTimeBehavior::FireAlways,
        }
    }

    /// The greatest timestamp that the watermark may have while an encoded window still takes data: once the watermark
    /// is past it, the window has expired.
    pub fn expiry(&self, window: &[u8]) -> Result<Timestamp, ElementError> {
        let end = self.window_coder.max_timestamp(window)?;
        Ok(Timestamp(end.0.saturating_add(self.allowed_lateness).min(Timestamp::END_OF_GLOBAL_WINDOW.0)))
    }
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

    /// A custom window as its own coder writes it, without the timestamp and the length prefix that its wire form puts
    /// before it; `None` for windows of known coders and for what is no window in wire form. Java's harness names custom
    /// windows this way in state keys and residuals, whatever the bundle descriptor says.
    pub fn bare<'a>(&self, window: &'a [u8]) -> Option<&'a [u8]> {
        let WindowCoder::Custom(inner) = self else { return None };
        let encoded = window.get(8..)?;
        let length = inner.skip(encoded).ok()?;
        if length != encoded.len() {
            return None;
        }
        match **inner {
            WireCoder::Prefixed => get_varint(encoded).ok().map(|(_, prefix)| &encoded[prefix..]),
            _ => Some(encoded),
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
