//! The one notion of time: [`Moment`], the product of a checkpoint epoch and an event-time watermark.
//!
//! A Timely frontier over moments says both how far event time has come and which checkpoint epochs are finished. A
//! message's stamp may hold several moments and a frontier one element per open epoch, so both are read as minima:
//! see [`watermark`] and [`epoch`].

use serde::{Deserialize, Serialize};
use timely::order::PartialOrder;
use timely::progress::frontier::AntichainRef;
use timely::progress::timestamp::{PathSummary, Refines, Timestamp as TimelyTimestamp};

/// An event timestamp or watermark in milliseconds since the Unix epoch, within Beam's bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The least timestamp an element may have (`beam_constant` MIN_TIMESTAMP_MILLIS of the pipeline proto).
    pub const MIN: Timestamp = Timestamp(-9_223_372_036_854_775);
    /// The greatest timestamp (MAX_TIMESTAMP_MILLIS); a watermark here means that no more input will come.
    pub const MAX: Timestamp = Timestamp(9_223_372_036_854_775);
    /// The last timestamp inside the global window (GLOBAL_WINDOW_MAX_TIMESTAMP_MILLIS).
    pub const END_OF_GLOBAL_WINDOW: Timestamp = Timestamp(9_223_371_950_454_775);

    /// Reads the wire form: eight bytes, big endian, shifted so that byte order is time order.
    pub fn from_wire(bytes: [u8; 8]) -> Timestamp {
        Timestamp((u64::from_be_bytes(bytes) ^ (1 << 63)) as i64)
    }

    /// The wire form, inverse of [`Timestamp::from_wire`].
    pub fn to_wire(self) -> [u8; 8] {
        ((self.0 as u64) ^ (1 << 63)).to_be_bytes()
    }
}

/// A point of progress: a checkpoint epoch and an event-time watermark, under the product order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Moment {
    /// The checkpoint epoch that work at this moment belongs to.
    pub epoch: u64,
    /// The watermark, in milliseconds as in [`Timestamp`]; `i64::MIN` before anything is known.
    pub watermark: i64,
}

impl Moment {
    /// The moment of `epoch` and `watermark`.
    pub fn new(epoch: u64, watermark: Timestamp) -> Moment {
        Moment { epoch, watermark: watermark.0 }
    }

    /// The one of two at which both can be held. Moments need not be comparable: an operator may hold (3, 100) and
    /// (5, 50), because what was carried over a border keeps its watermark, and then holds nothing at (3, 50). The one with
    /// the lesser watermark is it, in the lesser epoch if they have the same: what waits may go on in a later epoch, but
    /// never after its watermark.
    pub(crate) fn of_both(self, other: Moment) -> Moment {
        std::cmp::min_by_key(self, other, |moment| (moment.watermark, moment.epoch))
    }
}

impl PartialOrder for Moment {
    fn less_equal(&self, other: &Self) -> bool {
        self.epoch <= other.epoch && self.watermark <= other.watermark
    }
}

// No dataflow of ours has a cycle, so a path never changes a moment: the unit summary says so to Timely.
impl TimelyTimestamp for Moment {
    type Summary = ();
    fn minimum() -> Self {
        Moment { epoch: 0, watermark: i64::MIN }
    }
}

impl PathSummary<Moment> for () {
    fn results_in(&self, moment: &Moment) -> Option<Moment> {
        Some(*moment)
    }
    fn followed_by(&self, _: &()) -> Option<()> {
        Some(())
    }
}

impl Refines<()> for Moment {
    fn to_inner(_: ()) -> Self {
        Self::minimum()
    }
    fn to_outer(self) {}
    fn summarize(_: ()) {}
}

/// The watermark of what only says that time goes on: no element and no work is ever held there. It is greater than
/// [`Timestamp::MAX`], where a source may stand that has come to its end and is still there.
pub const NOTHING_MORE: i64 = i64::MAX;

/// The watermark a frontier stands at; `None` once nothing more can come: the frontier is empty, or only epochs go on.
pub fn watermark(frontier: AntichainRef<Moment>) -> Option<Timestamp> {
    frontier.iter().map(|moment| moment.watermark).min().filter(|least| *least < NOTHING_MORE).map(Timestamp)
}

/// The oldest epoch still open at a frontier; `None` once the frontier is empty.
pub fn epoch(frontier: AntichainRef<Moment>) -> Option<u64> {
    frontier.iter().map(|moment| moment.epoch).min()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use timely::progress::Antichain;

    use super::*;

    fn moment(epoch: u64, watermark: i64) -> Moment {
        Moment { epoch, watermark }
    }

    #[test]
    fn of_two_that_cannot_be_compared_the_one_with_the_lesser_watermark_holds_both() {
        assert_eq!(moment(3, 100).of_both(moment(5, 50)), moment(5, 50));
        assert_eq!(moment(5, 50).of_both(moment(3, 100)), moment(5, 50));
        assert_eq!(moment(3, 100).of_both(moment(5, 100)), moment(3, 100));
        assert_eq!(moment(3, 50).of_both(moment(5, 100)), moment(3, 50));
    }

    proptest! {
        /// Whatever holds each of the two holds what holds both.
        #[test]
        fn what_holds_both_is_held_by_each_frontier_that_holds_either(
            held in proptest::collection::vec((0..6u64, 0..6i64), 1..5),
            more in proptest::collection::vec((0..3u64, 0..3i64), 1..5),
        ) {
            let mut frontier = Antichain::new();
            frontier.extend(held.iter().map(|(epoch, watermark)| moment(*epoch, *watermark)));
            let beyond = more.iter().zip(held.iter().cycle());
            let beyond = beyond.map(|(more, held)| moment(held.0 + more.0, held.1 + more.1));
            let both = beyond.clone().reduce(Moment::of_both).unwrap();
            prop_assert!(frontier.less_equal(&both));
            prop_assert_eq!(Some(both.watermark), beyond.map(|moment| moment.watermark).min());
        }
    }
}
