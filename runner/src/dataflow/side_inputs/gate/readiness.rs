//! Which windows of the main input may go on: those whose side windows are ready.
//!
//! A window that waits is looked at again when something came to pass that it waits for, and only then: a window of a side
//! input fired, a side input's watermark passed the time by which one fires, the SDK has told the window to read. So the
//! work is in proportion to what happens, and not to how much waits at the time.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::super::map_windows::Mapper;
use super::Fault;
use crate::plan::WindowMapping;
use crate::side_input::{GrowingTable, ReaderId, Shown, map_window};
use crate::time::Timestamp;
use crate::windowing::WindowCoder;

/// Windows whose readiness is remembered.
pub(super) const REMEMBERED: usize = 10_000;

/// What becomes of an element in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Ready,
    Waits,
    /// Its side window was removed: the element is later than anything that is waited for.
    Gone,
}

/// What all tables of a side input have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    /// `None`: nothing more will come.
    pub(super) watermark: Option<Timestamp>,
    pub(super) epoch: Option<u64>,
}

/// See the module.
pub(super) struct Readiness {
    /// Of the main input.
    coder: WindowCoder,
    sides: Vec<Side>,
    /// A table shows something that it has not shown before.
    changed: Arc<AtomicBool>,
    /// What is known of windows, until something changes.
    verdicts: HashMap<Bytes, Verdict>,
    remembered: usize,
}

/// A side input as a stage sees it.
pub(super) struct Side {
    table: Arc<GrowingTable>,
    reader: ReaderId,
    mapping: WindowMapping,
    /// Asks the SDK, where the mapping needs that.
    mapper: Option<Mapper>,
    reached: Reached,
    awaited: Awaited,
}

/// Which windows of the main input wait for which of a side input.
#[derive(Default)]
struct Awaited {
    /// The side window by its name in the table, and the main window.
    firing: BTreeSet<(Bytes, Bytes)>,
    /// By when the side window will have fired, where that is still to come, and the main window.
    passing: BTreeSet<(Timestamp, Bytes)>,
    /// Both of a main window.
    of: HashMap<Bytes, (Bytes, Timestamp)>,
}

impl Readiness {
    /// Of main input in windows of `coder`. Tables tell by `changed` that they show something new.
    pub(super) fn new(coder: WindowCoder, sides: Vec<Side>, changed: Arc<AtomicBool>, remembered: usize) -> Readiness {
        Readiness { coder, sides, changed, verdicts: HashMap::new(), remembered }
    }

    /// Whether there is nothing to wait for.
    pub(super) fn is_trivial(&self) -> bool {
        self.sides.is_empty()
    }

    /// Looks how far the side inputs have come, which have `reached` so far. Gives the windows to look at again.
    pub(super) fn look(&mut self, reached: impl Iterator<Item = Reached>) -> Result<BTreeSet<Bytes>, Fault> {
        let mut again = BTreeSet::new();
        let tables = self.changed.swap(false, Ordering::SeqCst);
        let mut changed = tables;
        for (side, reached) in self.sides.iter_mut().zip(reached) {
            if let Some(mapper) = &mut side.mapper {
                let answered = mapper.work().map_err(|error| error.map_or(Fault::Reported, Fault::Malformed))?;
                changed |= !answered.is_empty();
                again.extend(answered);
            }
            if side.reached != reached {
                changed = true;
                side.reached = reached;
                side.awaited.passed(reached.watermark, &mut again);
            }
            if tables {
                for window in side.table.fired(side.reader) {
                    side.awaited.fired(&window, &mut again);
                }
            }
        }
        if changed {
            self.verdicts.clear();
        }
        Ok(again)
    }

    /// What becomes of what is in a window of the main input.
    pub(super) fn verdict(&mut self, window: &[u8]) -> Result<Verdict, Fault> {
        if let Some(known) = self.verdicts.get(window) {
            return Ok(*known);
        }
        let mut verdict = Verdict::Ready;
        for side in &mut self.sides {
            match side.verdict(&self.coder, window)? {
                Verdict::Ready => {}
                Verdict::Waits => verdict = Verdict::Waits,
                Verdict::Gone => {
                    verdict = Verdict::Gone;
                    break;
                }
            }
        }
        if self.verdicts.len() >= self.remembered {
            self.verdicts.clear();
        }
        self.verdicts.insert(Bytes::copy_from_slice(window), verdict);
        Ok(verdict)
    }

    /// A window waits, or still does.
    pub(super) fn wait(&mut self, window: &Bytes) -> Result<(), Fault> {
        self.sides.iter_mut().try_for_each(|side| side.wait(&self.coder, window))
    }

    /// A window waits no longer.
    pub(super) fn stop(&mut self, window: &[u8]) {
        for side in &mut self.sides {
            side.awaited.remove(window);
            if let Some(mapper) = &mut side.mapper {
                mapper.let_go(window);
            }
        }
    }

    /// Whether the SDK owes an answer about a window.
    pub(super) fn asks(&self) -> bool {
        self.sides.iter().any(|side| side.mapper.as_ref().is_some_and(Mapper::is_busy))
    }

    /// The epochs that the side inputs have reached.
    pub(super) fn epochs(&self) -> impl Iterator<Item = u64> + '_ {
        self.sides.iter().filter_map(|side| side.reached.epoch)
    }

    /// No window of the main input that ends before `from` will be asked for; at its `end`, none at all.
    pub(super) fn passed(&self, from: Timestamp, end: bool) -> io::Result<()> {
        let mut passed = Ok(());
        for side in &self.sides {
            // Every mapping that is known here maps a window to one that does not end before it.
            if side.mapper.is_none() || end {
                passed = passed.and(side.table.needs(side.reader, from));
            }
        }
        passed.map_err(io::Error::other)
    }
}

impl Side {
    pub(super) fn new(table: Arc<GrowingTable>, mapping: WindowMapping, mapper: Option<Mapper>) -> Side {
        let reached = Reached { watermark: Some(Timestamp(i64::MIN)), epoch: Some(0) };
        Side { reader: table.reader(), table, mapping, mapper, reached, awaited: Awaited::default() }
    }

    /// The side window of a main window; `None` until the SDK has told it.
    fn map(&mut self, coder: &WindowCoder, window: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(match &mut self.mapper {
            Some(mapper) => mapper.get(window),
            None => map_window(&self.mapping, coder, window)?,
        })
    }

    fn verdict(&mut self, coder: &WindowCoder, window: &[u8]) -> Result<Verdict, Fault> {
        let Some(mapped) = self.map(coder, window)? else { return Ok(Verdict::Waits) };
        Ok(match self.table.shown(&mapped)? {
            Shown::Fired => Verdict::Ready,
            Shown::Gone => Verdict::Gone,
            Shown::Nothing if self.has_passed(self.table.fires_by(&mapped)?) => Verdict::Ready,
            Shown::Nothing => Verdict::Waits,
        })
    }

    fn has_passed(&self, by: Timestamp) -> bool {
        self.reached.watermark.is_none_or(|watermark| watermark > by)
    }

    fn wait(&mut self, coder: &WindowCoder, window: &Bytes) -> Result<(), Fault> {
        self.awaited.remove(window);
        if let Some(mapper) = &mut self.mapper {
            mapper.keep(window);
        }
        // Else its answer comes first.
        if let Some(mapped) = self.map(coder, window)? {
            let by = self.table.fires_by(&mapped)?;
            // The table may have shown it by now; if so, it will say so.
            self.awaited.insert(window, self.table.name(&mapped), (by, self.has_passed(by)));
        }
        Ok(())
    }
}

impl Awaited {
    fn insert(&mut self, main: &Bytes, side: Bytes, (by, has_passed): (Timestamp, bool)) {
        self.firing.insert((side.clone(), main.clone()));
        if !has_passed {
            self.passing.insert((by, main.clone()));
        }
        self.of.insert(main.clone(), (side, by));
    }

    fn remove(&mut self, main: &[u8]) {
        if let Some((main, (side, by))) = self.of.remove_entry(main) {
            self.firing.remove(&(side, main.clone()));
            self.passing.remove(&(by, main));
        }
    }

    /// Takes the main windows that wait for a side window that has fired.
    fn fired(&mut self, side: &Bytes, again: &mut BTreeSet<Bytes>) {
        let waiting = self.firing.range((side.clone(), Bytes::new())..).take_while(|(found, _)| found == side);
        let waiting: Vec<Bytes> = waiting.map(|(_, main)| main.clone()).collect();
        for main in waiting {
            self.remove(&main);
            again.insert(main);
        }
    }

    /// Takes the main windows that wait for nothing later than `watermark`.
    fn passed(&mut self, watermark: Option<Timestamp>, again: &mut BTreeSet<Bytes>) {
        while let Some((by, main)) = self.passing.first()
            && watermark.is_none_or(|watermark| watermark > *by)
        {
            let main = main.clone();
            self.remove(&main);
            again.insert(main);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::{BatchBuilder, ElementCoder, PANE_NO_FIRING, WireCoder, encode_windowed_value};
    use crate::plan::Access;
    use crate::state::MemoryStore;
    use crate::windowing::{IntervalWindow, Merging, Trigger, Windowing};

    const LENGTH: i64 = 10;
    const WINDOWS: i64 = 2000;

    fn window(n: i64) -> Bytes {
        IntervalWindow { start: Timestamp(n * LENGTH), end: Timestamp((n + 1) * LENGTH) }.encode()
    }

    fn table(trigger: Trigger) -> Arc<GrowingTable> {
        let windowing = Windowing { trigger, ..Windowing::plain(WindowCoder::Interval, Merging::None) };
        let coder = ElementCoder::new(WireCoder::Prefixed, WindowCoder::Interval);
        Arc::new(GrowingTable::new(Box::<MemoryStore>::default(), Access::Iterable, coder, windowing))
    }

    fn early() -> Arc<GrowingTable> {
        table(Trigger::Repeat(Box::new(Trigger::ElementCount(1))))
    }

    fn readiness(tables: &[&Arc<GrowingTable>]) -> Readiness {
        let changed = Arc::new(AtomicBool::new(false));
        let sides = tables.iter().map(|table| {
            let told = Arc::clone(&changed);
            table.watch(move || told.store(true, Ordering::SeqCst));
            Side::new(Arc::clone(table), WindowMapping::Same, None)
        });
        let sides = sides.collect();
        Readiness::new(WindowCoder::Interval, sides, changed, 100)
    }

    /// One element for a window, which fires at once if the table does that.
    fn put(table: &GrowingTable, n: i64) {
        let mut batch = BatchBuilder::default();
        let at = Timestamp(n * LENGTH);
        batch.push_with(at, |out| encode_windowed_value(out, at, &[&window(n)], PANE_NO_FIRING, b"\x00"));
        table.append(&batch.finish(), Timestamp(0)).unwrap();
        table.advance(Some(Timestamp(i64::MIN)), Timestamp(0)).unwrap();
    }

    fn at(watermark: i64) -> Reached {
        Reached { watermark: Some(Timestamp(watermark)), epoch: Some(0) }
    }

    /// What is to be looked at again, once side inputs have reached these watermarks.
    fn look(readiness: &mut Readiness, watermarks: &[i64]) -> Vec<Bytes> {
        let again = readiness.look(watermarks.iter().copied().map(at)).ok().unwrap();
        again.into_iter().collect()
    }

    fn verdict(readiness: &mut Readiness, n: i64) -> Verdict {
        readiness.verdict(&window(n)).ok().unwrap()
    }

    fn wait(readiness: &mut Readiness, n: i64) {
        assert_eq!(verdict(readiness, n), Verdict::Waits);
        readiness.wait(&window(n)).ok().unwrap();
    }

    fn all_wait(readiness: &mut Readiness) {
        (0..WINDOWS).for_each(|n| wait(readiness, n));
    }

    fn is_over(readiness: &Readiness) -> bool {
        readiness.sides.iter().all(|side| {
            let Awaited { firing, passing, of } = &side.awaited;
            firing.is_empty() && passing.is_empty() && of.is_empty()
        })
    }

    #[test]
    fn a_window_is_looked_at_again_when_its_own_side_window_fires() {
        let table = early();
        let mut readiness = readiness(&[&table]);
        all_wait(&mut readiness);
        // What fires for nobody, and what fires twice, makes no work.
        put(&table, WINDOWS);
        for n in (0..WINDOWS).rev() {
            put(&table, n);
            assert_eq!(look(&mut readiness, &[i64::MIN]), [window(n)]);
            assert_eq!(verdict(&mut readiness, n), Verdict::Ready);
            put(&table, n);
            assert!(look(&mut readiness, &[i64::MIN]).is_empty());
        }
        assert!(is_over(&readiness));
    }

    #[test]
    fn a_window_is_looked_at_again_when_the_watermark_passes_it() {
        let table = table(Trigger::Default);
        let mut readiness = readiness(&[&table]);
        all_wait(&mut readiness);
        for n in 0..WINDOWS {
            put(&table, n);
            assert!(look(&mut readiness, &[(n + 1) * LENGTH - 1]).is_empty());
            assert_eq!(look(&mut readiness, &[(n + 1) * LENGTH]), [window(n)]);
            assert_eq!(verdict(&mut readiness, n), Verdict::Ready);
        }
        assert!(is_over(&readiness));
    }

    #[test]
    fn a_window_waits_for_every_side_input() {
        let tables = [early(), table(Trigger::Default)];
        let mut readiness = readiness(&[&tables[0], &tables[1]]);
        wait(&mut readiness, 0);
        wait(&mut readiness, 1);
        put(&tables[0], 0);
        assert_eq!(look(&mut readiness, &[i64::MIN; 2]), [window(0)]);
        wait(&mut readiness, 0);
        assert_eq!(look(&mut readiness, &[i64::MIN, LENGTH]), [window(0)]);
        assert_eq!(verdict(&mut readiness, 0), Verdict::Ready);
        readiness.stop(&window(0));
        assert_eq!(look(&mut readiness, &[i64::MIN, 2 * LENGTH]), [window(1)]);
        wait(&mut readiness, 1);
        // It has not fired: at its end, it is empty.
        assert_eq!(look(&mut readiness, &[2 * LENGTH, 2 * LENGTH]), [window(1)]);
        assert_eq!(verdict(&mut readiness, 1), Verdict::Ready);
        readiness.stop(&window(1));
        assert!(is_over(&readiness));
    }

    #[test]
    fn what_fires_before_it_is_waited_for_is_not_missed() {
        let table = early();
        let mut readiness = readiness(&[&table]);
        assert_eq!(verdict(&mut readiness, 0), Verdict::Waits);
        // By another thread.
        put(&table, 0);
        readiness.wait(&window(0)).ok().unwrap();
        assert_eq!(look(&mut readiness, &[i64::MIN]), [window(0)]);
        assert_eq!(verdict(&mut readiness, 0), Verdict::Ready);
    }
}
