//! How windows are written in the store.
//!
//! | section | then | value |
//! |---|---|---|
//! | [`WINDOWS`] | scope | [`WindowState`] |
//! | [`VALUES`] | key group, key behind its length, log, number of the chunk | count, then that many values |
//! | [`EVENT_TIME`] | time, scope | nothing: wake the window when the watermark has passed the time |
//! | [`PROCESSING_TIME`] | time, scope | nothing: wake the window when the clock has reached the time |
//! | [`NEXT_LOG`] | | the number after that of the last log |
//!
//! A scope is a key and a window, as [`put_scope`] has them.

use crate::element::put_varint;
use crate::state::{Reader, StoreError, key_group, put_part, put_scope};
use crate::time::Timestamp;
use crate::windowing::{PaneInfo, TriggerMachine, TriggerState};

pub(super) const WINDOWS: u8 = 1;
pub(super) const VALUES: u8 = 2;
pub(super) const EVENT_TIME: u8 = 3;
pub(super) const PROCESSING_TIME: u8 = 4;
pub(super) const NEXT_LOG: u8 = 5;

/// The key group that a record is of; none of [`NEXT_LOG`].
pub(super) fn group_of(key: &[u8]) -> Result<Option<u16>, StoreError> {
    let mut reader = Reader(key);
    let [section] = reader.take_array()?;
    match section {
        WINDOWS | VALUES => {}
        EVENT_TIME | PROCESSING_TIME => {
            reader.take_time()?;
        }
        NEXT_LOG => return Ok(None),
        _ => return Err(damaged()),
    }
    Ok(Some(u16::from_be_bytes(reader.take_array()?)))
}

/// What is kept of one window of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WindowState {
    pub(super) trigger: TriggerState,
    /// The last pane that was emitted.
    pub(super) pane: Option<PaneInfo>,
    /// Elements that came since the last firing.
    pub(super) fresh: u64,
    /// The span of the timestamps of those of them that came on time.
    pub(super) on_time: Option<(Timestamp, Timestamp)>,
    /// The values of the next pane.
    pub(super) values: Held,
    /// When the window is woken.
    pub(super) wakes: Wakes,
}

/// The values that a window holds: those of its logs, and a few that are here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) count: u64,
    pub(super) bytes: u64,
    pub(super) logs: Vec<Log>,
    /// The values that are in no log, concatenated.
    pub(super) tail: Vec<u8>,
    pub(super) tail_count: u64,
}

/// Values in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) number: u64,
    pub(super) chunks: u64,
}

/// When a window is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wakes {
    /// Once the watermark has passed this: the window's end, and then its expiry.
    pub(super) event_time: Timestamp,
    /// At this processing time, for its trigger.
    pub(super) processing_time: Option<Timestamp>,
}

const HAS_PANE: u64 = 1;
const HAS_ON_TIME: u64 = 2;
const HAS_PROCESSING_TIME: u64 = 4;
const HAS_VALUES: u64 = 8;

impl WindowState {
    pub(super) fn encode(&self, machine: &TriggerMachine) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + self.values.tail.len());
        let flag = |flag, on: bool| if on { flag } else { 0 };
        let flags = flag(HAS_PANE, self.pane.is_some())
            | flag(HAS_ON_TIME, self.on_time.is_some())
            | flag(HAS_PROCESSING_TIME, self.wakes.processing_time.is_some())
            | flag(HAS_VALUES, self.values.count > 0);
        put_varint(&mut out, flags);
        out.extend_from_slice(&self.wakes.event_time.to_wire());
        if let Some(time) = self.wakes.processing_time {
            out.extend_from_slice(&time.to_wire());
        }
        put_varint(&mut out, self.fresh);
        if let Some((earliest, latest)) = self.on_time {
            out.extend_from_slice(&earliest.to_wire());
            out.extend_from_slice(&latest.to_wire());
        }
        let mut part = Vec::new();
        if let Some(pane) = &self.pane {
            pane.encode(&mut part);
            put_part(&mut out, &part);
            part.clear();
        }
        machine.encode(&self.trigger, &mut part);
        put_part(&mut out, &part);
        let Held { count, bytes, logs, tail, tail_count } = &self.values;
        if *count > 0 {
            for number in [*count, *bytes, *tail_count, logs.len() as u64] {
                put_varint(&mut out, number);
            }
            for Log { number, chunks } in logs {
                put_varint(&mut out, *number);
                put_varint(&mut out, *chunks);
            }
            out.extend_from_slice(tail);
        }
        out
    }

    pub(super) fn decode(machine: &TriggerMachine, bytes: &[u8]) -> Result<WindowState, StoreError> {
        let mut reader = Reader(bytes);
        let flags = reader.take_varint()?;
        let has = |flag| flags & flag != 0;
        let event_time = reader.take_time()?;
        let processing_time = if has(HAS_PROCESSING_TIME) { Some(reader.take_time()?) } else { None };
        let fresh = reader.take_varint()?;
        let on_time = if has(HAS_ON_TIME) { Some((reader.take_time()?, reader.take_time()?)) } else { None };
        let pane = match has(HAS_PANE) {
            true => Some(PaneInfo::decode(reader.take_part()?).map_err(|_| damaged())?),
            false => None,
        };
        let trigger = machine.decode(reader.take_part()?).map_err(|_| damaged())?;
        let mut values = Held::default();
        if has(HAS_VALUES) {
            (values.count, values.bytes, values.tail_count) =
                (reader.take_varint()?, reader.take_varint()?, reader.take_varint()?);
            for _ in 0..reader.take_varint()? {
                values.logs.push(Log { number: reader.take_varint()?, chunks: reader.take_varint()? });
            }
            values.tail = std::mem::take(&mut reader.0).to_vec();
        }
        if !reader.0.is_empty() {
            return Err(damaged());
        }
        Ok(WindowState { trigger, pane, fresh, on_time, values, wakes: Wakes { event_time, processing_time } })
    }
}

/// Appends what all scopes of a key start with, and those of no other key.
pub(super) fn put_key(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(&key_group(key));
    put_part(out, key);
}

/// Where the window of a key is.
pub(super) fn window_key(key: &[u8], window: &[u8]) -> Vec<u8> {
    let mut out = vec![WINDOWS];
    put_scope(&mut out, key, window);
    out
}

/// Where a window is found by the time at which it is to be woken.
pub(super) fn wake_key(section: u8, time: Timestamp, key: &[u8], window: &[u8]) -> Vec<u8> {
    let mut out = vec![section];
    out.extend_from_slice(&time.to_wire());
    put_scope(&mut out, key, window);
    out
}

/// Where a chunk of a log is.
pub(super) fn chunk_key(key: &[u8], log: u64, chunk: u64) -> Vec<u8> {
    let mut out = vec![VALUES];
    put_key(&mut out, key);
    out.extend_from_slice(&log.to_be_bytes());
    out.extend_from_slice(&chunk.to_be_bytes());
    out
}

pub(super) fn damaged() -> StoreError {
    StoreError { doing: "read a window", why: "its record is damaged".into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::windowing::{Look, Passed, Trigger};

    fn states() -> impl Strategy<Value = (TriggerMachine, WindowState)> {
        let time = || any::<i64>().prop_map(Timestamp);
        let held = (
            proptest::collection::vec((any::<u64>(), any::<u64>()), 0..4),
            proptest::collection::vec(any::<u8>(), 0..50),
        );
        (0..4u32, proptest::option::of((time(), time())), (time(), proptest::option::of(time())), held, any::<bool>())
            .prop_map(|(elements, on_time, (event_time, processing_time), (logs, tail), fired)| {
                let machine = TriggerMachine::new(&Trigger::Repeat(Box::new(Trigger::ElementCount(9))), false);
                let mut trigger = machine.start();
                let look = Look { now: Timestamp(0), ended: false };
                (0..elements).for_each(|_| machine.on_element(&mut trigger, look));
                let pane = fired.then(|| PaneInfo::next(None, false, Passed { input: true, output: false }));
                let logs = logs.into_iter().map(|(number, chunks)| Log { number, chunks }).collect();
                let values = match elements {
                    0 => Held::default(),
                    _ => Held { count: u64::from(elements), bytes: 77, logs, tail, tail_count: 1 },
                };
                let wakes = Wakes { event_time, processing_time };
                (machine, WindowState { trigger, pane, fresh: u64::from(elements), on_time, values, wakes })
            })
    }

    proptest! {
        #[test]
        fn windows_survive_their_encoding((machine, state) in states(), cut in any::<usize>()) {
            let bytes = state.encode(&machine);
            prop_assert_eq!(WindowState::decode(&machine, &bytes).unwrap(), state);
            let _ = WindowState::decode(&machine, &bytes[..cut % bytes.len()]);
        }

        #[test]
        fn scopes_are_taken_apart(key in proptest::collection::vec(any::<u8>(), 0..300), window in proptest::collection::vec(any::<u8>(), 0..20)) {
            let record = wake_key(EVENT_TIME, Timestamp(5), &key, &window);
            let mut reader = Reader(&record[1..]);
            prop_assert_eq!(reader.take_time().unwrap(), Timestamp(5));
            prop_assert_eq!(reader.take_scope().unwrap(), (&key[..], &window[..]));
        }
    }
}
