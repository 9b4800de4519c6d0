//! A side input that fires before its collection has ended: a table that grows while it is read.
//!
//! One thread of the process fills a [`GrowingTable`] and moves its time; others ask which windows have something to
//! show, and read them through a [`View`], page by page. What a window shows is decided in [`panes`]; windows, and what
//! their triggers wait for, are in memory, their elements on an ordered store.
//!
//! Consistency. A content that was replaced stays for as long as a view is open that was opened before, so whoever has
//! read its first page can read the others. Pages of a content never show elements that came after its first page was
//! read. A bundle that reads a window twice may find newer contents the second time.
//!
//! Memory. A window that no reader will ask for any more, because the main input's watermark has passed it, is removed,
//! though the last [`KEPT`] of them stay for elements that are late. The table remembers how far it has removed windows:
//! what comes for one of those, from either side, comes too late.

mod contents;
mod panes;
mod saved;
mod view;
mod window;

#[cfg(test)]
mod tests;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use self::contents::{Arrival, Changes, Contents, Doomed};
use self::panes::Later;
use self::window::{Agenda, Firing, Window};
use super::names::bare;
use crate::element::{Batch, ElementCoder, ElementError};
use crate::grouping::Continuations;
use crate::plan::Access;
use crate::state::{Store, StoreError};
use crate::time::Timestamp;
use crate::windowing::{PaneInfo, Timing, TriggerMachine, Windowing};

pub use view::View;

/// Windows that stay after they have been passed, unless they hold more than [`KEPT_BYTES`].
const KEPT: usize = 1000;
const KEPT_BYTES: u64 = 64 << 20;
/// A record of the store holds about so many bytes of values.
const RECORD: usize = 64 << 10;

/// Why a table cannot take what it is given.
#[derive(Debug, thiserror::Error)]
pub enum GrowingError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An element is not what its coder says.
    #[error(transparent)]
    Element(#[from] ElementError),
}

/// What a reader finds in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It has fired.
    Fired,
    /// Nothing yet.
    Nothing,
    /// It was removed: nobody was to ask for it any more.
    Gone,
}

/// One who reads a table, and says how far back it still may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderId(usize);

/// The contents of one side input, by window, for as long as it grows.
pub struct GrowingTable {
    access: Access,
    coder: ElementCoder,
    windowing: Windowing,
    later: Later,
    /// The collection's trigger, where it may fire early.
    machine: Option<TriggerMachine>,
    inner: Mutex<Inner>,
    continuations: Continuations,
    watchers: Mutex<Vec<Box<dyn Fn() + Send>>>,
}

struct Inner {
    contents: Contents,
    /// By bare name.
    windows: HashMap<Bytes, Window>,
    watermark: Option<Timestamp>,
    /// Windows to ask whether they fire.
    touched: BTreeSet<Bytes>,
    by_clock: Agenda,
    by_watermark: Agenda,
    /// Windows that readers may still ask for, by their ends.
    needed: Agenda,
    /// Windows that they will not, oldest first.
    passed: VecDeque<Bytes>,
    passed_bytes: u64,
    /// No window that ends later was removed.
    removed: Timestamp,
    readers: Vec<Reader>,
    version: u64,
    /// Something is shown that was not at this version.
    changed: bool,
    /// How many views of which version are open.
    views: BTreeMap<u64, usize>,
    doomed: VecDeque<(u64, Vec<Doomed>)>,
}

struct Reader {
    /// It asks for no window that ends earlier.
    needs: Timestamp,
    /// Windows that have fired since it last asked, by bare name.
    fired: Vec<Bytes>,
}

impl GrowingTable {
    /// An empty table, on an empty store, of `coder`'s elements.
    pub fn new(store: Box<dyn Store>, access: Access, coder: ElementCoder, windowing: Windowing) -> GrowingTable {
        let early = panes::fires_early(&windowing.trigger);
        GrowingTable {
            access,
            later: Later::of(&windowing),
            machine: early.then(|| TriggerMachine::new(&windowing.trigger, false)),
            coder,
            windowing,
            inner: Mutex::new(Inner {
                contents: Contents::new(store),
                windows: HashMap::new(),
                watermark: Some(Timestamp(i64::MIN)),
                touched: BTreeSet::new(),
                by_clock: Agenda::default(),
                by_watermark: Agenda::default(),
                needed: Agenda::default(),
                passed: VecDeque::new(),
                passed_bytes: 0,
                removed: Timestamp(i64::MIN),
                readers: Vec::new(),
                version: 1,
                changed: false,
                views: BTreeMap::new(),
                doomed: VecDeque::new(),
            }),
            continuations: Continuations::default(),
            watchers: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds elements, each to all of its windows. What they change is shown after the next [`GrowingTable::advance`] at
    /// the latest.
    pub fn append(&self, batch: &Batch, now: Timestamp) -> Result<(), GrowingError> {
        let mut parts: Vec<Part> = Vec::new();
        let mut open: HashMap<(Bytes, Bytes, Option<u64>), usize> = HashMap::new();
        for element in batch.elements() {
            let view = self.coder.parse(element)?;
            let (key, value) = match self.access {
                Access::Iterable => (&[][..], view.value),
                Access::Multimap => self.coder.value.key_value(view.value)?,
            };
            let pane = PaneInfo::decode(view.pane)?;
            let pane = (pane.timing != Timing::Unknown).then_some(pane.index);
            for window in view.windows {
                let at = (Bytes::copy_from_slice(window), Bytes::copy_from_slice(key), pane);
                let part = match open.entry(at) {
                    Entry::Occupied(found) if parts[*found.get()].values.len() < RECORD => &mut parts[*found.get()],
                    found => {
                        let (window, key, pane) = found.key().clone();
                        parts.push(Part { window, key, pane, count: 0, values: Vec::new() });
                        found.insert_entry(parts.len() - 1);
                        let last = parts.len() - 1;
                        &mut parts[last]
                    }
                };
                part.count += 1;
                part.values.extend_from_slice(value);
            }
        }
        let mut inner = self.inner();
        let mut changes = Changes::default();
        for part in &parts {
            inner.put(self, part, now, &mut changes)?;
        }
        let doomed = std::mem::take(&mut changes.doomed);
        inner.contents.commit(changes)?;
        inner.doom(doomed)?;
        Ok(())
    }

    /// Moves time on: no element before `watermark` will come any more but late ones (`None`: none at all), and the clock
    /// shows `now`. Fires what is due, and wakes the watchers if something new is shown. Gives the time by the clock at
    /// which to be called again.
    pub fn advance(&self, watermark: Option<Timestamp>, now: Timestamp) -> Result<Option<Timestamp>, GrowingError> {
        let mut inner = self.inner();
        inner.watermark = watermark;
        inner.fire(self, now)?;
        inner.collect()?;
        let again = inner.by_clock.first().map(|(time, _)| time);
        let changed = std::mem::take(&mut inner.changed);
        if changed {
            inner.version += 1;
        }
        drop(inner);
        if changed {
            for wake in self.watchers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                wake();
            }
        }
        Ok(again)
    }

    /// Calls `wake`, from the thread that fills the table, whenever something new is shown.
    pub fn watch(&self, wake: impl Fn() + Send + 'static) {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(wake));
    }

    /// What readers find in a window, named as on the wire.
    pub fn shown(&self, window: &[u8]) -> Result<Shown, ElementError> {
        let end = self.coder.window.max_timestamp(window)?;
        let inner = self.inner();
        Ok(match inner.windows.get(bare(&self.coder.window, window)) {
            Some(window) if window.fired => Shown::Fired,
            None if end <= inner.removed => Shown::Gone,
            _ => Shown::Nothing,
        })
    }

    /// The watermark of the side input that, once passed, says that a window holds what it will hold for now: if it has
    /// not fired by then, its readers take it as empty.
    pub fn fires_by(&self, window: &[u8]) -> Result<Timestamp, ElementError> {
        panes::fires_by(&self.windowing, window)
    }

    /// Adds a reader, who needs everything until it says otherwise.
    pub fn reader(&self) -> ReaderId {
        let mut inner = self.inner();
        inner.readers.push(Reader { needs: Timestamp(i64::MIN), fired: Vec::new() });
        ReaderId(inner.readers.len() - 1)
    }

    /// The windows that have fired for the first time since `reader` last asked, by [`GrowingTable::name`]. Watchers are
    /// woken when there are some.
    pub fn fired(&self, reader: ReaderId) -> Vec<Bytes> {
        self.inner().readers.get_mut(reader.0).map(|reader| std::mem::take(&mut reader.fired)).unwrap_or_default()
    }

    /// What a window, named as on the wire, is called in [`GrowingTable::fired`].
    pub fn name(&self, window: &Bytes) -> Bytes {
        window.slice_ref(bare(&self.coder.window, window))
    }

    /// A reader says that it asks for no window any more whose greatest timestamp is before `from`.
    pub fn needs(&self, reader: ReaderId, from: Timestamp) -> Result<(), StoreError> {
        let mut inner = self.inner();
        match inner.readers.get_mut(reader.0) {
            Some(reader) if reader.needs < from => reader.needs = from,
            _ => return Ok(()),
        }
        inner.collect()
    }

    /// A look at the table as it is now.
    pub fn view(self: &Arc<Self>) -> View {
        let mut inner = self.inner();
        let version = inner.version;
        *inner.views.entry(version).or_default() += 1;
        View::new(Arc::clone(self), version)
    }

    fn close_view(&self, version: u64) {
        let mut inner = self.inner();
        if let Some(count) = inner.views.get_mut(&version) {
            *count -= 1;
            if *count == 0 {
                inner.views.remove(&version);
            }
        }
    }
}

impl std::fmt::Debug for GrowingTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrowingTable").field("access", &self.access).finish_non_exhaustive()
    }
}

/// Elements of one pane for one key of one window.
struct Part {
    /// As on the wire.
    window: Bytes,
    key: Bytes,
    pane: Option<u64>,
    count: u64,
    values: Vec<u8>,
}

impl Inner {
    fn put(
        &mut self,
        table: &GrowingTable,
        part: &Part,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Result<(), GrowingError> {
        let name = bare(&table.coder.window, &part.window);
        let window = match self.windows.get_mut(name) {
            Some(window) => window,
            None => {
                let end = table.coder.window.max_timestamp(&part.window)?;
                if end <= self.removed {
                    return Ok(());
                }
                let times = (end, table.windowing.expiry(&part.window)?);
                let window = Window::new(&mut self.contents, times, table.machine.as_ref());
                let name = part.window.slice_ref(name);
                self.needed.set(&name, Some(end));
                self.windows.entry(name).or_insert(window)
            }
        };
        let waits = table.machine.as_ref().filter(|_| part.pane.is_none());
        let at = match waits {
            None => window.open(),
            Some(machine) => {
                let accumulation = table.windowing.accumulation;
                let firing = Firing { machine, accumulation, watermark: self.watermark, now };
                let Some(at) = window.wait(&mut self.contents, &firing, part.count) else { return Ok(()) };
                self.touched.insert(part.window.slice_ref(name));
                at
            }
        };
        let Part { key, pane, count, values, .. } = part;
        let arrival = Arrival { key, pane: *pane, count: *count, values };
        if self.contents.add(changes, at, table.later, &arrival)? {
            window.bytes += values.len() as u64;
            if waits.is_none() {
                if table.machine.is_some() && !std::mem::replace(&mut window.fired, true) {
                    self.readers.iter_mut().for_each(|reader| reader.fired.push(part.window.slice_ref(name)));
                }
                self.changed = true;
            }
        }
        Ok(())
    }

    /// Fires the windows that are due.
    fn fire(&mut self, table: &GrowingTable, now: Timestamp) -> Result<(), GrowingError> {
        let Some(machine) = &table.machine else { return Ok(()) };
        let watermark = self.watermark;
        let firing = Firing { machine, accumulation: table.windowing.accumulation, watermark, now };
        let mut due = std::mem::take(&mut self.touched);
        due.extend(self.by_clock.take(|time| time <= now));
        due.extend(self.by_watermark.take(|time| watermark.is_none_or(|watermark| watermark > time)));
        let mut doomed = Vec::new();
        for name in due {
            let Some(window) = self.windows.get_mut(&name) else { continue };
            let before = window.fired;
            if let Some(replaced) = window.fire(&firing) {
                self.changed = true;
                if !before {
                    self.readers.iter_mut().for_each(|reader| reader.fired.push(name.clone()));
                }
                doomed.extend(replaced.into_iter().flat_map(contents::ContentId::doomed));
            }
            let (clock, watermark) = window.again(&firing);
            self.by_clock.set(&name, clock);
            self.by_watermark.set(&name, watermark);
        }
        self.doom(doomed)?;
        Ok(())
    }

    /// Removes windows that no reader will ask for.
    fn collect(&mut self) -> Result<(), StoreError> {
        let Some(needed) = self.readers.iter().map(|reader| reader.needs).min() else { return Ok(()) };
        for name in self.needed.take(|end| end < needed) {
            if let Some(window) = self.windows.get(&name) {
                self.passed_bytes += window.bytes;
                self.passed.push_back(name);
            }
        }
        let mut doomed = Vec::new();
        while self.passed.len() > KEPT || self.passed_bytes > KEPT_BYTES {
            let Some(name) = self.passed.pop_front() else { break };
            let Some(window) = self.windows.remove(&name) else { continue };
            // What came for it since it was passed is not in the sum.
            self.passed_bytes = self.passed_bytes.saturating_sub(window.bytes);
            self.removed = self.removed.max(window.end);
            self.by_clock.set(&name, None);
            self.by_watermark.set(&name, None);
            doomed.extend(window.doomed());
        }
        self.doom(doomed)
    }

    /// Removes contents as soon as no view is open that may be reading them.
    fn doom(&mut self, doomed: Vec<Doomed>) -> Result<(), StoreError> {
        if !doomed.is_empty() {
            self.doomed.push_back((self.version, doomed));
        }
        let oldest = self.views.first_key_value().map_or(u64::MAX, |(version, _)| *version);
        let mut free = Vec::new();
        while let Some((_, doomed)) = self.doomed.pop_front_if(|(version, _)| *version < oldest) {
            free.extend(doomed);
        }
        self.contents.remove(free)
    }
}
