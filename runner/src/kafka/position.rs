//! Where partitions are read, and by which worker.

use serde::{Deserialize, Serialize};

/// How far a partition was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionPosition {
    /// Its topic.
    pub topic: String,
    /// The topic's id, where brokers have one: a topic that was made anew has another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// Its number.
    pub partition: i32,
    /// The offset of the next record.
    pub offset: i64,
    /// What no later record of it is expected to be before, in milliseconds.
    pub watermark: i64,
    /// Of a read that stops there: the first offset that is not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<i64>,
}

/// What a worker saves of the partitions that it reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPositions {
    /// Whether it has looked at all partitions that there were as the job began. One that it does not know is new then, and
    /// is read from its start.
    pub has_looked: bool,
    /// The topics of which it has.
    #[serde(default)]
    pub topics: Vec<String>,
    /// Records that were read so far.
    pub records: u64,
    /// For how many milliseconds it has read.
    #[serde(default)]
    pub millis: u64,
    /// It has read all that it was to read.
    #[serde(default)]
    pub ended: bool,
    /// The partitions.
    pub partitions: Vec<PartitionPosition>,
}

/// Which of `workers` reads a partition: those of a topic go round.
pub(crate) fn owner(topic: &str, partition: i32, workers: usize) -> usize {
    let first = xxhash_rust::xxh3::xxh3_64(topic.as_bytes());
    (first.wrapping_add(partition.unsigned_abs().into()) % workers.max(1) as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_of_a_topic_are_spread_evenly() {
        for workers in 1..5 {
            let mut counts = vec![0; workers];
            (0..12).for_each(|partition| counts[owner("orders", partition, workers)] += 1);
            assert_eq!(counts.iter().max(), counts.iter().min(), "{workers} workers");
        }
        // The rule is part of the format: who had not looked yet is known by it.
        assert_eq!([0, 1, 2].map(|partition| owner("orders", partition, 3)), [0, 1, 2]);
    }
}
