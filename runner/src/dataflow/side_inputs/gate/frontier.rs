//! The frontier of what may still come to the stage: its input's, and the moments of what waits.

use timely::progress::frontier::AntichainRef;
use timely::progress::{Antichain, Timestamp};

use crate::time::Moment;

/// See the module.
pub(super) struct Frontier(Antichain<Moment>);

impl Default for Frontier {
    fn default() -> Frontier {
        Frontier(Antichain::from_elem(Moment::minimum()))
    }
}

impl Frontier {
    /// What it was last: where everything is kept after a failure, so that what was not admitted is held for good.
    pub(super) fn last(&self) -> Antichain<Moment> {
        self.0.clone()
    }

    /// Of `input`, and of what is `held`.
    pub(super) fn of(
        &mut self,
        input: AntichainRef<'_, Moment>,
        held: impl Iterator<Item = Moment>,
    ) -> Antichain<Moment> {
        self.0.clear();
        self.0.extend(input.iter().copied().chain(held));
        self.0.clone()
    }
}
