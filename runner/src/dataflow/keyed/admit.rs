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
                let mut encoded = Vec::with_capacity(element.len());
                encode_windowed_value(&mut encoded, view.timestamp, &live, view.pane, view.value);
                if !live.is_empty() {
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
