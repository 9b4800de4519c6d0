//! Elements on their way into a bundle: those of expired windows are dropped, and the windows of the others noted, so
//! that their state is removed one day.

use bytes::Bytes;
use hashbrown::HashSet;

use super::changes::expiration;
use crate::element::{Batch, BatchBuilder, ElementCoder, ElementError, encode_windowed_value};
use crate::plan::Keyed;
use crate::state::{Changes, Expiry, TimerChange, Unsorted};
use crate::time::Timestamp;
use crate::windowing::{WindowCoder, Windowing};

/// Windows remembered as noted; past this many they are forgotten and noted again, which does no harm.
const REMEMBERED: usize = 1 << 16;

/// See the module.
pub(super) struct Admission {
    coder: ElementCoder,
    windowing: Windowing,
    /// The timer families to be fired when a window of a key expires.
    expirations: Vec<usize>,
    time_sorted: bool,
    noted: HashSet<Bytes>,
}

/// What is left of a batch.
pub(super) enum Admitted {
    /// To be processed now.
    Elements(Batch),
    /// Now among the changes, to be processed in the order of time.
    Buffered,
}

impl Admission {
    pub(super) fn new(keyed: &Keyed, coder: ElementCoder, windowing: Windowing) -> Admission {
        let expirations = keyed.timers.iter().enumerate();
        let expirations = expirations.filter(|(_, family)| family.on_window_expiration).map(|(index, _)| index);
        Admission {
            coder,
            windowing,
            expirations: expirations.collect(),
            time_sorted: keyed.time_sorted,
            noted: HashSet::new(),
        }
    }

    /// Whether nothing has to be known of single elements: in the global window nothing expires before the end.
    fn is_plain(&self) -> bool {
        !self.time_sorted && self.expirations.is_empty() && self.windowing.window_coder == WindowCoder::Global
    }

    /// What the watermark has to pass before the turn of an element that waits to be sorted: what is late, but not too
    /// late, may still go before it.
    pub(super) fn turn(&self, timestamp: Timestamp) -> Timestamp {
        let turn = timestamp.0.saturating_add(self.windowing.allowed_lateness);
        Timestamp(turn.min(Timestamp::END_OF_GLOBAL_WINDOW.0))
    }

    /// Elements with timestamps before this one have their turn before `time`.
    pub(super) fn turns_before(&self, time: Timestamp) -> Timestamp {
        if time > Timestamp::END_OF_GLOBAL_WINDOW {
            return time;
        }
        Timestamp(time.0.saturating_sub(self.windowing.allowed_lateness))
    }

    /// Looks at a batch while the watermark stands at `watermark`. Notes windows in `changes`; counts in `late` the
    /// elements that were dropped.
    pub(super) fn admit(
        &mut self,
        batch: Batch,
        watermark: Timestamp,
        changes: &mut Changes,
        late: &mut u64,
    ) -> Result<Admitted, ElementError> {
        if self.is_plain() {
            return Ok(Admitted::Elements(batch));
        }
        let mut kept = BatchBuilder::default();
        let mut dropped = false;
        for (index, element) in batch.elements().enumerate() {
            let view = self.coder.parse(element)?;
            let (key, _) = self.coder.value.key_value(view.value)?;
            if self.time_sorted && self.turn(view.timestamp) < watermark {
                // Later ones have been processed.
                *late += view.windows.len() as u64;
                continue;
            }
            let mut live = Vec::with_capacity(view.windows.len());
            for window in view.windows.clone() {
                let expiry = self.windowing.expiry(window)?;
                if expiry < watermark {
                    *late += 1;
                    continue;
                }
                live.push(window);
                note(&mut self.noted, &self.windowing, &self.expirations, (key, window, expiry), changes)?;
            }
            let whole = live.len() == view.windows.len();
            if self.time_sorted {
                if !live.is_empty() {
                    let mut encoded = Vec::with_capacity(element.len());
                    encode_windowed_value(&mut encoded, view.timestamp, &live, view.pane, view.value);
                    let (key, element) = (Bytes::copy_from_slice(key), encoded.into());
                    changes.buffer.push(Unsorted { key, timestamp: view.timestamp, element });
                }
                continue;
            }
            if !whole && !dropped {
                // From here on the batch has to be made anew.
                dropped = true;
                for element in batch.elements().take(index) {
                    kept.push(element, self.coder.parse(element)?.timestamp);
                }
            }
            if dropped && !live.is_empty() {
                kept.push_with(view.timestamp, |out| {
                    encode_windowed_value(out, view.timestamp, &live, view.pane, view.value);
                });
            }
        }
        if self.time_sorted {
            return Ok(Admitted::Buffered);
        }
        Ok(Admitted::Elements(if dropped { kept.finish() } else { batch }))
    }

    /// Forgets a window that has expired. Java's harness keeps the cells of a custom window under a name of its own,
    /// which is given back: it has expired, too.
    pub(super) fn forget(&mut self, key: &[u8], window: &[u8], at: Timestamp) -> Option<Expiry> {
        self.noted.remove(&name(key, window));
        let bare = self.windowing.window_coder.bare(window)?;
        Some(Expiry { key: Bytes::copy_from_slice(key), window: Bytes::copy_from_slice(bare), at })
    }
}

/// One name for a window of a key. Keys are self-delimiting, so no two pairs have one name.
fn name(key: &[u8], window: &[u8]) -> Bytes {
    [key, window].concat().into()
}

fn note(
    noted: &mut HashSet<Bytes>,
    windowing: &Windowing,
    expirations: &[usize],
    (key, window, expiry): (&[u8], &[u8], Timestamp),
    changes: &mut Changes,
) -> Result<(), ElementError> {
    let name = name(key, window);
    if noted.contains(&name) {
        return Ok(());
    }
    if noted.len() >= REMEMBERED {
        noted.clear();
    }
    noted.insert(name);
    let copy = Bytes::copy_from_slice;
    changes.expire_at.push(Expiry { key: copy(key), window: copy(window), at: expiry });
    for family in expirations {
        let end = windowing.window_coder.max_timestamp(window)?;
        changes.timers.push(TimerChange::Set(expiration(*family, key, window, end, expiry)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::WireCoder;
    use crate::windowing::{IntervalWindow, Merging};

    /// The timestamps that wait to be sorted, and how many elements were dropped.
    fn sorted(allowed_lateness: i64, watermark: i64, timestamps: &[i64]) -> (Vec<i64>, u64) {
        let coder = WireCoder::Kv(Box::new(WireCoder::Prefixed), Box::new(WireCoder::Prefixed));
        let windowing = Windowing { allowed_lateness, ..Windowing::plain(WindowCoder::Interval, Merging::None) };
        let keyed = Keyed { states: vec![], timers: vec![], time_sorted: true };
        let mut admission = Admission::new(&keyed, ElementCoder::new(coder, WindowCoder::Interval), windowing);
        let window = IntervalWindow { start: Timestamp(0), end: Timestamp(100) }.encode();
        let mut batch = BatchBuilder::default();
        for at in timestamps {
            let mut element = Vec::new();
            encode_windowed_value(&mut element, Timestamp(*at), &[&window[..]], &[0x0f], &[0, 0]);
            batch.push(&element, Timestamp(*at));
        }
        let (mut changes, mut late) = (Changes::default(), 0);
        let admitted = admission.admit(batch.finish(), Timestamp(watermark), &mut changes, &mut late).unwrap();
        assert!(matches!(admitted, Admitted::Buffered));
        (changes.buffer.iter().map(|waits| waits.timestamp.0).collect(), late)
    }

    #[test]
    fn what_waits_to_be_sorted_may_be_as_late_as_is_allowed() {
        assert_eq!(sorted(0, 20, &[30, 20, 19]), (vec![30, 20], 1));
        assert_eq!(sorted(5, 20, &[30, 15, 14]), (vec![30, 15], 1));
        assert_eq!(sorted(i64::MAX, 99, &[0]), (vec![0], 0));
    }

    #[test]
    fn the_turn_of_an_element_comes_before_its_window_expires() {
        let end = Timestamp::END_OF_GLOBAL_WINDOW;
        let windowing =
            |allowed_lateness| Windowing { allowed_lateness, ..Windowing::plain(WindowCoder::Global, Merging::None) };
        let keyed = Keyed { states: vec![], timers: vec![], time_sorted: true };
        for lateness in [0, 5, i64::MAX] {
            let coder = ElementCoder::new(WireCoder::Prefixed, WindowCoder::Global);
            let admission = Admission::new(&keyed, coder, windowing(lateness));
            for at in [Timestamp::MIN, Timestamp(7), end] {
                let turn = admission.turn(at);
                assert!(turn >= at && turn <= end);
                assert!(admission.turns_before(Timestamp(turn.0 + 1)) > at, "{at:?} with {lateness}");
            }
        }
    }
}
