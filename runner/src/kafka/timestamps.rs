//! Timestamps of elements, and the watermark of a partition: Beam's `TimestampPolicyFactory`, its built-in ones.

use crate::kafka::spec::TimestampPolicy;
use crate::time::Timestamp;

/// How much the watermark stays behind the clock while a partition has nothing more, for timestamps that brokers give: as in
/// Beam's `LogAppendTimePolicy`.
const IDLE_DELAY: i64 = 2000;

/// The watermark of one partition.
#[derive(Clone, Debug)]
pub(crate) struct PartitionTime {
    policy: TimestampPolicy,
    /// It never goes back.
    watermark: i64,
    /// The greatest timestamp of a record.
    greatest: i64,
}

impl PartitionTime {
    /// Of a partition whose watermark has come to `watermark`.
    pub(crate) fn new(policy: TimestampPolicy, watermark: i64) -> PartitionTime {
        PartitionTime { policy, watermark, greatest: watermark }
    }

    /// The timestamp of the element of a record with this timestamp, read at `now`. Moves the watermark.
    pub(crate) fn of_record(&mut self, timestamp: Option<i64>, now: i64) -> Timestamp {
        let timestamp = match (self.policy, timestamp) {
            // A clock may be set back, and another machine's may be behind.
            (TimestampPolicy::ProcessingTime, _) | (_, None) => now.max(self.greatest).max(self.watermark),
            (TimestampPolicy::CreateTime | TimestampPolicy::LogAppendTime, Some(timestamp)) => timestamp,
        };
        let timestamp = timestamp.clamp(Timestamp::MIN.0, Timestamp::END_OF_GLOBAL_WINDOW.0);
        self.greatest = self.greatest.max(timestamp);
        // What lies in the future says nothing about what others will have.
        self.raise(self.greatest.min(now));
        Timestamp(timestamp)
    }

    /// Nothing more is there to be read at `now`.
    pub(crate) fn is_idle(&mut self, now: i64) {
        self.raise(match self.policy {
            TimestampPolicy::ProcessingTime | TimestampPolicy::CreateTime => now,
            TimestampPolicy::LogAppendTime => now - IDLE_DELAY,
        });
    }

    fn raise(&mut self, watermark: i64) {
        self.watermark = self.watermark.max(watermark.min(Timestamp::END_OF_GLOBAL_WINDOW.0));
    }

    pub(crate) fn watermark(&self) -> i64 {
        self.watermark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: i64 = i64::MIN;

    #[test]
    fn the_watermark_follows_the_records_and_the_clock_when_idle() {
        let mut time = PartitionTime::new(TimestampPolicy::CreateTime, UNKNOWN);
        assert_eq!(time.of_record(Some(100), 1000), Timestamp(100));
        assert_eq!(time.watermark(), 100);
        // Late: it keeps its timestamp, and the watermark stays.
        assert_eq!(time.of_record(Some(50), 1001), Timestamp(50));
        assert_eq!(time.watermark(), 100);
        time.is_idle(1002);
        assert_eq!(time.watermark(), 1002);
        // In the future: the watermark does not pass the clock.
        assert_eq!(time.of_record(Some(9000), 1003), Timestamp(9000));
        assert_eq!(time.watermark(), 1003);
    }

    #[test]
    fn the_clocks_own_times() {
        let mut time = PartitionTime::new(TimestampPolicy::ProcessingTime, UNKNOWN);
        assert_eq!(time.of_record(Some(5), 1000), Timestamp(1000));
        assert_eq!(time.watermark(), 1000);
        let mut time = PartitionTime::new(TimestampPolicy::LogAppendTime, UNKNOWN);
        assert_eq!(time.of_record(Some(5), 9000), Timestamp(5));
        time.is_idle(9000);
        assert_eq!(time.watermark(), 7000);
        // One without a timestamp has the time at which it is read.
        assert_eq!(time.of_record(None, 9500), Timestamp(9500));
    }

    #[test]
    fn nothing_leaves_the_times_that_beam_has() {
        let mut time = PartitionTime::new(TimestampPolicy::CreateTime, UNKNOWN);
        assert_eq!(time.of_record(Some(i64::MAX), i64::MAX), Timestamp::END_OF_GLOBAL_WINDOW);
        assert_eq!(time.of_record(Some(i64::MIN), 0), Timestamp::MIN);
    }
}
