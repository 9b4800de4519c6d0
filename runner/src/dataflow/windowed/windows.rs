//! The windows of all keys of one worker, in a store: reading and writing them, and finding those that are to be woken.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Trouble;
use super::record::{
    EVENT_TIME, Held, Log, NEXT_LOG, PROCESSING_TIME, WINDOWS, Wakes, WindowState, chunk_key, damaged, put_key,
    window_key,
};
use super::wakes::WakeIndex;
use crate::element::{get_varint, put_varint};
use crate::grouping::FRAME;
use crate::state::{FrozenStore, Reader, Store, StoreError, WriteBatch, after};
use crate::time::Timestamp;
use crate::windowing::{TriggerMachine, Windowing};

/// Values up to this many bytes stay in the record of their window.
const TAIL: usize = 1 << 10;

/// See the module.
pub(super) struct Windows {
    store: Box<dyn Store>,
    pub(super) windowing: Windowing,
    pub(super) machine: TriggerMachine,
    event_time: WakeIndex,
    processing_time: WakeIndex,
    /// How many windows hold back the output watermark at each time.
    holds: BTreeMap<Timestamp, u64>,
    next_log: u64,
    /// Changes that the store does not have yet.
    changes: WriteBatch,
}

/// A window of a key.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) key: Bytes,
    pub(super) window: Bytes,
    /// The greatest timestamp inside.
    pub(super) end: Timestamp,
    /// Once the watermark is past this, it is gone.
    pub(super) expiry: Timestamp,
    pub(super) state: WindowState,
    /// What of it is in the store's indices.
    stored: Option<Stored>,
}

#[derive(Clone, Copy, Debug)]
struct Stored {
    wakes: Wakes,
    hold: Option<Timestamp>,
}

impl Windows {
    /// On a store that is empty; after [`Windows::take_over`], on one that was written by the same grouping.
    pub(super) fn new(store: Box<dyn Store>, windowing: Windowing, machine: TriggerMachine) -> Windows {
        Windows {
            store,
            windowing,
            machine,
            event_time: WakeIndex::new(EVENT_TIME),
            processing_time: WakeIndex::new(PROCESSING_TIME),
            holds: BTreeMap::new(),
            next_log: 0,
            changes: WriteBatch::default(),
        }
    }

    /// Learns what is kept in memory of the windows that the store has.
    pub(super) fn take_over(&mut self) -> Result<(), Trouble> {
        if let Some(next) = self.store.get(&[NEXT_LOG])? {
            self.next_log = u64::from_be_bytes(Reader(&next).take_array()?);
        }
        let mut holds: BTreeMap<Timestamp, u64> = BTreeMap::new();
        let mut result = Ok(());
        self.store.scan(&[WINDOWS], Some(&after(&[WINDOWS])), &mut |at, record| {
            let read = Reader(&at[1..]).take_scope().map_err(Trouble::from);
            let read = read.and_then(|(key, window)| {
                self.read(Bytes::copy_from_slice(key), Bytes::copy_from_slice(window), record)
            });
            match read {
                Ok(window) => {
                    if let Some(hold) = window.stored.and_then(|stored| stored.hold) {
                        *holds.entry(hold).or_default() += 1;
                    }
                }
                Err(trouble) => result = Err(trouble),
            }
            result.is_ok()
        })?;
        self.holds = holds;
        result
    }

    /// All of it as it is now. Nothing may be uncommitted.
    pub(super) fn freeze(&mut self) -> Result<Box<dyn FrozenStore>, Trouble> {
        debug_assert!(self.changes.is_empty());
        Ok(self.store.freeze()?)
    }

    /// A window that nothing is known of.
    pub(super) fn begin(&self, key: Bytes, window: Bytes) -> Result<Window, Trouble> {
        let end = self.windowing.window_coder.max_timestamp(&window)?;
        let expiry = self.windowing.expiry(&window)?;
        let state = WindowState {
            trigger: self.machine.start(),
            pane: None,
            fresh: 0,
            on_time: None,
            values: Held::default(),
            wakes: Wakes { event_time: end, processing_time: None },
        };
        Ok(Window { key, window, end, expiry, state, stored: None })
    }

    /// The window, if something is known of it.
    pub(super) fn find(&self, key: &[u8], window: &[u8]) -> Result<Option<Window>, Trouble> {
        let Some(record) = self.store.get(&window_key(key, window))? else { return Ok(None) };
        self.read(Bytes::copy_from_slice(key), Bytes::copy_from_slice(window), &record).map(Some)
    }

    fn read(&self, key: Bytes, window: Bytes, record: &[u8]) -> Result<Window, Trouble> {
        let mut read = self.begin(key, window)?;
        read.state = WindowState::decode(&self.machine, record)?;
        read.stored = Some(Stored { wakes: read.state.wakes, hold: self.hold(&read) });
        Ok(read)
    }

    /// All windows of a key, in the order of their encoding.
    pub(super) fn of_key(&self, key: &Bytes) -> Result<Vec<Window>, Trouble> {
        let mut prefix = vec![WINDOWS];
        put_key(&mut prefix, key);
        let mut windows = Vec::new();
        let mut result = Ok(());
        self.store.scan(&prefix, Some(&after(&prefix)), &mut |at, record| {
            let window = Reader(&at[prefix.len()..]).take_part().map(Bytes::copy_from_slice);
            match window.map_err(Trouble::from).and_then(|window| self.read(key.clone(), window, record)) {
                Ok(window) => windows.push(window),
                Err(trouble) => result = Err(trouble),
            }
            result.is_ok()
        })?;
        result.map(|()| windows)
    }

    /// The timestamp that the window's next pane would have because of what came on time, which is also where it holds
    /// the output watermark back.
    pub(super) fn hold(&self, window: &Window) -> Option<Timestamp> {
        let (earliest, latest) = window.state.on_time?;
        Some(self.windowing.timestamp_combiner.apply(window.end, earliest, latest).min(window.end))
    }

    /// The least time at which a window that is in the store holds the output watermark back.
    pub(super) fn least_hold(&self) -> Option<Timestamp> {
        self.holds.first_key_value().map(|(hold, _)| *hold)
    }

    /// Adds a value to the window's next pane.
    pub(super) fn add(&mut self, window: &mut Window, value: &[u8]) {
        let tail = window.state.values.tail.len();
        if tail > 0 && tail + value.len() > FRAME {
            self.flush(window);
        }
        let values = &mut window.state.values;
        values.tail.extend_from_slice(value);
        values.tail_count += 1;
        values.count += 1;
        values.bytes += value.len() as u64;
    }

    /// Moves the tail into a log.
    fn flush(&mut self, window: &mut Window) {
        let values = &mut window.state.values;
        if values.logs.is_empty() {
            values.logs.push(Log { number: self.next_log, chunks: 0 });
            self.next_log += 1;
            self.changes.put(vec![NEXT_LOG], self.next_log.to_be_bytes().to_vec());
        }
        // There is one: it was added above at the latest.
        let Some(log) = values.logs.last_mut() else { return };
        let mut chunk = Vec::with_capacity(values.tail.len() + 5);
        put_varint(&mut chunk, values.tail_count);
        chunk.append(&mut values.tail);
        self.changes.put(chunk_key(&window.key, log.number, log.chunks), chunk);
        log.chunks += 1;
        values.tail_count = 0;
    }

    /// Moves values that are too many for the record to a log. They can be read after [`Windows::commit`].
    pub(super) fn settle(&mut self, window: &mut Window) {
        if window.state.values.tail.len() > TAIL {
            self.flush(window);
        }
    }

    /// Visits the values of the window's next pane, some at a time, with their number, until `visit` fails.
    pub(super) fn values<E: From<StoreError>>(
        &self,
        window: &Window,
        mut visit: impl FnMut(&[u8], u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut found = 0;
        for log in &window.state.values.logs {
            let (from, to) = (chunk_key(&window.key, log.number, 0), chunk_key(&window.key, log.number, log.chunks));
            let mut result = Ok(());
            self.store.scan(&from, Some(&to), &mut |_, chunk| {
                result = match get_varint(chunk) {
                    Ok((count, size)) => {
                        found += count;
                        visit(&chunk[size..], count)
                    }
                    Err(_) => Err(damaged().into()),
                };
                result.is_ok()
            })?;
            result?;
        }
        let values = &window.state.values;
        if found + values.tail_count != values.count {
            return Err(damaged().into());
        }
        if values.tail_count > 0 { visit(&values.tail, values.tail_count) } else { Ok(()) }
    }

    /// Drops the values of the window.
    pub(super) fn discard(&mut self, window: &mut Window) {
        for log in std::mem::take(&mut window.state.values).logs {
            let (from, to) = (chunk_key(&window.key, log.number, 0), chunk_key(&window.key, log.number, log.chunks));
            self.changes.delete_range(from, to);
        }
    }

    /// Makes `into` of windows that have merged; they are gone. `into` was begun for this, or is one of the key's
    /// windows that is to be replaced.
    pub(super) fn unite(&mut self, into: &mut Window, parts: Vec<Window>) {
        let mut values = Held::default();
        let state = &mut into.state;
        for mut part in parts {
            state.fresh += part.state.fresh;
            state.on_time = match (state.on_time, part.state.on_time) {
                (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
                (some, other) => some.or(other),
            };
            let more = std::mem::take(&mut part.state.values);
            values.count += more.count;
            values.bytes += more.bytes;
            values.logs.extend(more.logs);
            values.tail.extend_from_slice(&more.tail);
            values.tail_count += more.tail_count;
            if part.window == into.window {
                into.stored = part.stored;
            } else {
                self.remove(part);
            }
        }
        state.values = values;
    }

    /// Writes what has become of the window.
    pub(super) fn save(&mut self, window: &mut Window) {
        let now = Stored { wakes: window.state.wakes, hold: self.hold(window) };
        let before = window.stored.replace(now);
        let (key, name) = (&window.key, &window.window);
        let was = before.map(|before| before.wakes.event_time);
        self.event_time.moved(was, Some(now.wakes.event_time), key, name, &mut self.changes);
        let was = before.and_then(|before| before.wakes.processing_time);
        self.processing_time.moved(was, now.wakes.processing_time, key, name, &mut self.changes);
        self.move_hold(before.and_then(|before| before.hold), now.hold);
        self.changes.put(window_key(key, name), window.state.encode(&self.machine));
    }

    /// Forgets the window.
    pub(super) fn remove(&mut self, mut window: Window) {
        self.discard(&mut window);
        let Some(Stored { wakes, hold }) = window.stored else { return };
        let (key, name) = (&window.key, &window.window);
        self.event_time.moved(Some(wakes.event_time), None, key, name, &mut self.changes);
        self.processing_time.moved(wakes.processing_time, None, key, name, &mut self.changes);
        self.move_hold(hold, None);
        self.changes.delete(window_key(key, name));
    }

    fn move_hold(&mut self, before: Option<Timestamp>, now: Option<Timestamp>) {
        if before == now {
            return;
        }
        if let Some(now) = now {
            *self.holds.entry(now).or_default() += 1;
        }
        if let Some(before) = before
            && let Some(count) = self.holds.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.holds.remove(&before);
            }
        }
    }

    /// Gives the store all changes since the last time.
    pub(super) fn commit(&mut self) -> Result<(), Trouble> {
        if !self.changes.is_empty() {
            self.store.write(std::mem::take(&mut self.changes))?;
        }
        Ok(())
    }

    /// Windows to be woken because the watermark has passed their time, earliest first, at most `limit`. Nothing may be
    /// uncommitted.
    pub(super) fn passed(&mut self, watermark: Timestamp, limit: usize) -> Result<Vec<Window>, Trouble> {
        let due = self.event_time.before(&*self.store, watermark, limit)?;
        self.woken(due)
    }

    /// Windows to be woken because the clock has reached their time, likewise.
    pub(super) fn due(&mut self, now: Timestamp, limit: usize) -> Result<Vec<Window>, Trouble> {
        let due = self.processing_time.before(&*self.store, Timestamp(now.0.saturating_add(1)), limit)?;
        self.woken(due)
    }

    fn woken(&self, due: Vec<Bytes>) -> Result<Vec<Window>, Trouble> {
        let mut woken = Vec::with_capacity(due.len());
        for scope in due {
            let (key, window) = Reader(&scope).take_scope()?;
            woken.push(self.find(key, window)?.ok_or_else(damaged)?);
        }
        Ok(woken)
    }

    /// When the next window is to be woken by the clock. Nothing may be uncommitted.
    pub(super) fn next_due(&mut self) -> Result<Option<Timestamp>, Trouble> {
        Ok(self.processing_time.first(&*self.store)?)
    }
}

#[cfg(test)]
impl Windows {
    /// The keys of all records that are about windows.
    pub(super) fn remaining(&self) -> Vec<Bytes> {
        assert!(self.changes.is_empty() && self.holds.is_empty());
        let mut keys = Vec::new();
        let visit = &mut |key: &[u8], _: &[u8]| {
            if key[0] != NEXT_LOG {
                keys.push(Bytes::copy_from_slice(key));
            }
            true
        };
        self.store.scan(&[], None, visit).unwrap();
        keys
    }
}
