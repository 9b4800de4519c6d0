//! What a bundle did to timers, and timers on their way to the SDK.

use bytes::Bytes;

use super::super::bundles::Input;
use crate::clock::Clock;
use crate::element::{ElementError, TimerTimes, TimerView};
use crate::executor::TimerBatch;
use crate::plan::{TimeDomain, TimerFamily};
use crate::state::{Timer, TimerChange, TimerId};
use crate::time::Timestamp;

/// Reads what a bundle set and cleared, in its order. While the job drains no new processing-time timer is taken.
pub(super) fn read(
    batches: &[TimerBatch],
    families: &[TimerFamily],
    clock: &dyn Clock,
    draining: bool,
) -> Result<Vec<TimerChange>, ElementError> {
    let mut changes = Vec::new();
    for batch in batches {
        let family = families
            .get(batch.family)
            .ok_or_else(|| ElementError::malformed(format!("timers of a family {} unknown here", batch.family)))?;
        let mut at = 0;
        while at < batch.timers.len() {
            let (view, length) = TimerView::parse(&batch.timers[at..], &family.key, &family.window)?;
            at += length;
            for window in &view.windows {
                let id = TimerId {
                    family: batch.family as u16,
                    key: Bytes::copy_from_slice(view.key),
                    window: Bytes::copy_from_slice(window),
                    tag: Bytes::copy_from_slice(view.tag),
                };
                match view.set {
                    None => changes.push(TimerChange::Clear(id)),
                    Some(_) if draining && family.domain == TimeDomain::ProcessingTime => {}
                    Some(set) => {
                        let fire = match family.domain {
                            TimeDomain::EventTime => set.fire,
                            TimeDomain::ProcessingTime => clock.of_sdk(set.fire),
                        };
                        let TimerId { family, key, window, tag } = id;
                        let (sdk_fire, hold, pane) = (set.fire, set.hold, Bytes::copy_from_slice(set.pane));
                        changes.push(TimerChange::Set(Timer { family, key, window, tag, fire, sdk_fire, hold, pane }));
                    }
                }
            }
        }
    }
    Ok(changes)
}

/// The input of a bundle that fires `timers`, in their order.
pub(super) fn firing(timers: &[Timer]) -> Vec<Input> {
    let mut input: Vec<(usize, Vec<u8>)> = Vec::new();
    for timer in timers {
        let family = usize::from(timer.family);
        if input.last().is_none_or(|(last, _)| *last != family) {
            input.push((family, Vec::new()));
        }
        let Some((_, bytes)) = input.last_mut() else { continue };
        let set = Some(TimerTimes { fire: timer.sdk_fire, hold: timer.hold, pane: &timer.pane });
        TimerView { key: &timer.key, tag: &timer.tag, windows: vec![&timer.window], set }.encode(bytes);
    }
    input.into_iter().map(|(family, timers)| Input::Timers(family, timers.into())).collect()
}

/// The timer that tells the SDK of the end of a window.
pub(super) fn expiration(family: usize, key: &[u8], window: &[u8], end: Timestamp, expiry: Timestamp) -> Timer {
    Timer {
        family: family as u16,
        key: Bytes::copy_from_slice(key),
        window: Bytes::copy_from_slice(window),
        tag: Bytes::new(),
        fire: expiry,
        sdk_fire: expiry,
        hold: end,
        pane: Bytes::from_static(crate::element::PANE_NO_FIRING),
    }
}
