//! What may be written to a journal, decided from what stands there. Pure: the IO is in [`journal`](super::journal).

use super::Epoch;
use crate::job::Generation;

/// The journal's last entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) epoch: Epoch,
    /// `None` if the entry cannot be read any more.
    pub(super) generation: Option<Generation>,
}

/// Why nothing may be written. Nothing was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This attempt was replaced.
    #[error("attempt {ours} of the job was replaced by attempt {newer}, and may not commit any more")]
    Stale {
        /// Which attempt wanted to write.
        ours: Generation,
        /// Which one has begun since.
        newer: Generation,
    },
    /// The claims are not as they were left.
    #[error("attempt {ours} of the job is not among the attempts in the checkpoint storage: was it emptied?")]
    Unclaimed {
        /// Which attempt wanted to write.
        ours: Generation,
    },
    /// An entry in between is missing, or there are more than there were.
    #[error(
        "epoch {epoch} cannot be written behind {}: the checkpoint storage was changed by something else", shown(*last)
    )]
    NotNext {
        /// What was to be written.
        epoch: Epoch,
        /// The last entry.
        last: Option<Epoch>,
    },
    /// Numbers have an end.
    #[error("there is no number left for another attempt or epoch")]
    Exhausted,
}

fn shown(last: Option<Epoch>) -> String {
    last.map_or("an empty journal".to_owned(), |epoch| format!("epoch {epoch}"))
}

/// The number that an attempt claims: greater than all that were claimed, so that claims are ordered as attempts are.
pub(super) fn next_generation(greatest: Option<Generation>, least: Generation) -> Result<Generation, Refusal> {
    let above = match greatest {
        None => least,
        Some(Generation(greatest)) => Generation(greatest.checked_add(1).ok_or(Refusal::Exhausted)?),
    };
    Ok(above.max(least))
}

/// Where an attempt puts its marker: behind everything, unless a later attempt was there first.
pub(super) fn begin_at(last: Option<Last>, ours: Generation) -> Result<Epoch, Refusal> {
    let Some(last) = last else { return Ok(Epoch(0)) };
    entry_is_not_newer(last.generation, ours)?;
    last.epoch.0.checked_add(1).map(Epoch).ok_or(Refusal::Exhausted)
}

/// Whether an attempt may write the entry of `epoch`.
pub(super) fn may_write(
    ours: Generation,
    epoch: Epoch,
    greatest: Option<Generation>,
    last: Option<Epoch>,
) -> Result<(), Refusal> {
    generation_is_the_greatest(ours, greatest)?;
    epoch_is_the_next(epoch, last)
}

/// An attempt that was replaced learns it before it writes, most of the time. For the rest of the time there is
/// [`epoch_is_the_next`]: both look first and write then, but of two that write the same entry one wins.
pub(super) fn generation_is_the_greatest(ours: Generation, greatest: Option<Generation>) -> Result<(), Refusal> {
    match greatest {
        Some(greatest) if greatest > ours => Err(Refusal::Stale { ours, newer: greatest }),
        Some(greatest) if greatest == ours => Ok(()),
        _ => Err(Refusal::Unclaimed { ours }),
    }
}

/// The journal has no gaps. Were one left, an attempt that was replaced could write there, or behind it, after its
/// successor had looked what to restore from.
pub(super) fn epoch_is_the_next(epoch: Epoch, last: Option<Epoch>) -> Result<(), Refusal> {
    if last.and_then(|last| last.0.checked_add(1)) == Some(epoch.0) {
        return Ok(());
    }
    Err(Refusal::NotNext { epoch, last })
}

/// Generations in the journal never fall.
pub(super) fn entry_is_not_newer(entry: Option<Generation>, ours: Generation) -> Result<(), Refusal> {
    match entry {
        Some(newer) if newer > ours => Err(Refusal::Stale { ours, newer }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn g(n: u64) -> Generation {
        Generation(n)
    }

    fn last(epoch: u64, generation: u64) -> Option<Last> {
        Some(Last { epoch: Epoch(epoch), generation: Some(g(generation)) })
    }

    #[test]
    fn a_generation_is_above_all_that_were_claimed() {
        assert_eq!(next_generation(None, g(1)), Ok(g(1)));
        assert_eq!(next_generation(Some(g(4)), g(1)), Ok(g(5)));
        assert_eq!(next_generation(Some(g(4)), g(9)), Ok(g(9)));
        assert_eq!(next_generation(Some(g(u64::MAX)), g(1)), Err(Refusal::Exhausted));
    }

    #[test]
    fn an_attempt_begins_behind_everything() {
        assert_eq!(begin_at(None, g(1)), Ok(Epoch(0)));
        assert_eq!(begin_at(last(7, 1), g(2)), Ok(Epoch(8)));
        assert_eq!(begin_at(Some(Last { epoch: Epoch(7), generation: None }), g(2)), Ok(Epoch(8)));
        assert_eq!(begin_at(last(7, 3), g(2)), Err(Refusal::Stale { ours: g(2), newer: g(3) }));
        assert_eq!(begin_at(last(u64::MAX, 1), g(2)), Err(Refusal::Exhausted));
    }

    #[test]
    fn stale_generation_cannot_commit() {
        let may =
            |ours, epoch, greatest, last: Option<u64>| may_write(g(ours), Epoch(epoch), greatest, last.map(Epoch));
        assert_eq!(may(2, 8, Some(g(2)), Some(7)), Ok(()));
        assert_eq!(may(2, 8, Some(g(3)), Some(7)), Err(Refusal::Stale { ours: g(2), newer: g(3) }));
        assert_eq!(may(2, 8, Some(g(1)), Some(7)), Err(Refusal::Unclaimed { ours: g(2) }));
        assert_eq!(may(2, 8, None, Some(7)), Err(Refusal::Unclaimed { ours: g(2) }));
        for last in [None, Some(0), Some(6), Some(8), Some(9), Some(u64::MAX)] {
            let refused = Refusal::NotNext { epoch: Epoch(8), last: last.map(Epoch) };
            assert_eq!(may(2, 8, Some(g(2)), last), Err(refused));
        }
    }
}
