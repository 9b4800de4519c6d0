//! What the bundles of a process have counted.

use std::collections::BTreeMap;

use ferrobeam_runner::metrics::{Metric, Metrics};
use ferrobeam_runner::plan::StageId;

/// What bundles that succeeded have counted: by epoch, because a checkpoint has that of the epochs before it and no more.
#[derive(Debug, Default)]
pub(super) struct Committed {
    /// Of epochs that a checkpoint has, and of what the job started from.
    settled: Metrics,
    open: BTreeMap<u64, Metrics>,
    bundles: BTreeMap<StageId, u64>,
}

impl Committed {
    pub(super) fn of(&mut self, epoch: u64) -> &Metrics {
        self.open.entry(epoch).or_default()
    }

    pub(super) fn all(&self) -> Vec<Metric> {
        let all = Metrics::new();
        std::iter::once(&self.settled).chain(self.open.values()).for_each(|metrics| all.merge(&metrics.snapshot()));
        all.snapshot()
    }

    /// Those of the epochs before `epoch`, of which no bundle will succeed any more.
    pub(super) fn before(&mut self, epoch: u64) -> Vec<Metric> {
        let later = self.open.split_off(&epoch);
        for metrics in std::mem::replace(&mut self.open, later).into_values() {
            self.settled.merge(&metrics.snapshot());
        }
        self.settled.snapshot()
    }

    /// Takes what the job had counted in the checkpoint that it starts from.
    pub(super) fn start_from(&mut self, metrics: Vec<Metric>) {
        self.settled.commit(metrics);
    }

    pub(super) fn count_bundle(&mut self, stage: StageId) {
        *self.bundles.entry(stage).or_default() += 1;
    }

    /// How many bundles of each stage have succeeded.
    pub(super) fn bundles(&self) -> impl Iterator<Item = (&StageId, &u64)> {
        self.bundles.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(count: u64) -> Vec<Metric> {
        vec![Metric::counter("transform", "space", "name", count)]
    }

    #[test]
    fn a_checkpoint_has_what_was_counted_before_it() {
        let mut committed = Committed::default();
        committed.start_from(counter(100));
        for (epoch, count) in [(3, 1), (4, 20), (3, 2), (5, 300)] {
            committed.of(epoch).commit(counter(count));
        }
        assert_eq!(committed.before(4), counter(103));
        committed.of(4).commit(counter(4));
        assert_eq!(committed.all(), counter(427), "all of it is reported");
        assert_eq!(committed.before(6), counter(427));
    }
}
