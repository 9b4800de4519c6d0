//! What fires, and when: the grouping without the dataflow around it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Trouble;
use super::panes::Panes;
use super::windows::{Window, Windows};
use crate::dataflow::group::{Grouping, is_state_backed};
use crate::element::{Batch, ElementCoder};
use crate::state::Store;
use crate::time::Timestamp;
use crate::windowing::{Accumulation, Look, Merging, PaneInfo, Passed, TriggerMachine};

/// Windows taken out of an index at once.
const WOKEN: usize = 64;

/// See the module.
pub(super) struct Engine {
    pub(super) input: ElementCoder,
    pub(super) windows: Windows,
    pub(super) panes: Panes,
    /// The trigger counts elements, so it is asked after each that may make it fire. (Beam's Java runners ask after a
    /// bundle, whose borders are chance; its Go runner and its SDKs' tests count exactly.)
    pub(super) counts: bool,
    /// The input watermark, as far as it is worked off.
    pub(super) watermark: Timestamp,
    /// The output watermark.
    pub(super) output: Timestamp,
    /// Windows that elements have come to, of which the triggers were not asked yet. They are not saved.
    pub(super) touched: VecDeque<Window>,
    pub(super) dropped: Dropped,
}

/// Elements that were dropped, once for each window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    /// The window had expired.
    pub(super) late: u64,
    /// The window's trigger had finished.
    pub(super) closed: u64,
}

/// How far some work has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    /// There is more to do, but no room.
    Paused,
}

impl Engine {
    /// `settling`: as [`crate::clock::Clock::settling`] says.
    pub(super) fn new(grouping: &Grouping, store: Box<dyn Store>, settling: i64) -> Engine {
        let windowing = grouping.windowing.clone();
        let machine = TriggerMachine::settling(&windowing.trigger, windowing.merging != Merging::None, settling);
        let iterables = Arc::clone(&grouping.iterables);
        Engine {
            input: grouping.input.clone(),
            counts: windowing.trigger.counts_elements(),
            windows: Windows::new(store, windowing, machine),
            panes: Panes::new(is_state_backed(&grouping.output), iterables, grouping.readers),
            watermark: Timestamp(i64::MIN),
            output: Timestamp(i64::MIN),
            touched: VecDeque::new(),
            dropped: Dropped::default(),
        }
    }

    pub(super) fn look(&self, window: &Window, now: Timestamp) -> Look {
        Look { now, ended: self.watermark > window.end }
    }

    /// Asks the triggers of the windows that elements have come to, while there is room.
    pub(super) fn fire_touched(&mut self, now: Timestamp, room: &mut dyn Room) -> Result<Progress, Trouble> {
        while !self.touched.is_empty() {
            if !room.has_room() {
                self.windows.commit()?;
                return Ok(Progress::Paused);
            }
            if let Some(window) = self.touched.pop_front() {
                self.ask(window, now)?;
            }
            self.give_full(room);
        }
        self.windows.commit()?;
        Ok(Progress::Done)
    }

    /// Wakes the windows whose time the watermark has passed.
    pub(super) fn wake_by_watermark(&mut self, now: Timestamp, room: &mut dyn Room) -> Result<Progress, Trouble> {
        loop {
            let woken = self.windows.passed(self.watermark, WOKEN)?;
            if woken.is_empty() {
                return Ok(Progress::Done);
            }
            for window in woken {
                if !room.has_room() {
                    self.windows.commit()?;
                    return Ok(Progress::Paused);
                }
                if self.watermark > window.expiry {
                    self.expire(window)?
                } else {
                    self.ask(window, now)?
                }
                self.give_full(room);
            }
            self.windows.commit()?;
        }
    }

    /// Wakes the windows whose time the clock has reached.
    pub(super) fn wake_by_clock(&mut self, now: Timestamp, room: &mut dyn Room) -> Result<Progress, Trouble> {
        loop {
            let woken = self.windows.due(now, WOKEN)?;
            if woken.is_empty() {
                return Ok(Progress::Done);
            }
            for window in woken {
                if !room.has_room() {
                    self.windows.commit()?;
                    return Ok(Progress::Paused);
                }
                self.ask(window, now)?;
                self.give_full(room);
            }
            self.windows.commit()?;
        }
    }

    /// The output watermark follows the input watermark, as far as no window holds it.
    pub(super) fn follow(&mut self) {
        let hold = self.windows.least_hold().unwrap_or(self.watermark);
        self.output = self.output.max(self.watermark.min(hold));
    }

    fn give_full(&mut self, room: &mut dyn Room) {
        if self.panes.is_full() {
            room.give(self.panes.finish());
        }
    }

    /// Asks the window's trigger, fires if it says so, and saves the window.
    fn ask(&mut self, mut window: Window, now: Timestamp) -> Result<(), Trouble> {
        let look = self.look(&window, now);
        let mut closed = self.windows.machine.is_finished(&window.state.trigger);
        if !closed && self.windows.machine.should_fire(&window.state.trigger, look) {
            self.windows.machine.on_fire(&mut window.state.trigger, look);
            closed = self.windows.machine.is_finished(&window.state.trigger);
            self.fire(&mut window, closed)?;
        }
        if closed {
            self.windows.machine.close(&mut window.state.trigger);
        }
        let wakes = &mut window.state.wakes;
        wakes.event_time = if look.ended || closed { window.expiry } else { window.end };
        wakes.processing_time = self.windows.machine.look_again(&window.state.trigger, now);
        self.windows.save(&mut window);
        Ok(())
    }

    /// Ends the window: nothing will come for it any more.
    fn expire(&mut self, mut window: Window) -> Result<(), Trouble> {
        if !self.windows.machine.is_finished(&window.state.trigger) {
            self.fire(&mut window, true)?;
        }
        self.windows.remove(window);
        Ok(())
    }

    /// Emits what has come, unless that is nothing and nobody wants to know.
    fn fire(&mut self, window: &mut Window, last: bool) -> Result<(), Trouble> {
        let passed = Passed { input: self.watermark > window.end, output: self.output > window.end };
        let pane = PaneInfo::next(window.state.pane.as_ref(), last, passed);
        let timestamp = self.windows.hold(window).unwrap_or(window.end);
        let empty = window.state.fresh == 0;
        if self.windows.windowing.emits(&pane, empty) {
            self.panes.push(&self.windows, window, &pane, timestamp)?;
            window.state.pane = Some(pane);
        }
        window.state.on_time = None;
        window.state.fresh = 0;
        if last || self.windows.windowing.accumulation == Accumulation::Discarding {
            self.windows.discard(window);
        }
        Ok(())
    }
}

/// Where panes go.
pub(super) trait Room {
    /// Whether more may be given.
    fn has_room(&mut self) -> bool;
    /// Sends a batch on.
    fn give(&mut self, batch: Batch);
}
