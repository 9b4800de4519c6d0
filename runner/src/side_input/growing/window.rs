//! One window of a growing side input: which content its readers see, and what its trigger waits for.

use bytes::Bytes;

use super::contents::{ContentId, Contents, Doomed};
use crate::time::Timestamp;
use crate::windowing::{Accumulation, Look, TriggerMachine, TriggerState};

/// See the module.
pub(super) struct Window {
    /// Its greatest timestamp.
    pub(super) end: Timestamp,
    /// As [`crate::windowing::Windowing::expiry`] says.
    pub(super) expiry: Timestamp,
    pub(super) shown: Content,
    /// What has come since the last firing, for the next one. While firings accumulate, it is in the content shown.
    pub(super) pending: Option<Content>,
    /// Of the trigger, until it takes no more elements.
    pub(super) trigger: Option<TriggerState>,
    /// It holds something for its readers.
    pub(super) fired: bool,
    /// Bytes of values that were put into it.
    pub(super) bytes: u64,
}

/// A content, and the number after its last element that counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    pub(super) id: ContentId,
    pub(super) end: u64,
}

/// How a window is asked whether to fire.
pub(super) struct Firing<'a> {
    pub(super) machine: &'a TriggerMachine,
    pub(super) accumulation: Accumulation,
    pub(super) watermark: Option<Timestamp>,
    pub(super) now: Timestamp,
}

impl Window {
    pub(super) fn new(
        contents: &mut Contents,
        (end, expiry): (Timestamp, Timestamp),
        machine: Option<&TriggerMachine>,
    ) -> Window {
        let shown = Content { id: contents.create(), end: 0 };
        let trigger = machine.map(TriggerMachine::start);
        Window { end, expiry, shown, pending: None, trigger, fired: false, bytes: 0 }
    }

    /// What readers see.
    pub(super) fn shown(&self) -> Content {
        self.shown
    }

    /// The contents that it holds.
    pub(super) fn contents(&self) -> impl Iterator<Item = ContentId> {
        std::iter::once(self.shown.id).chain(self.pending.map(|pending| pending.id))
    }

    /// Everything it holds.
    pub(super) fn doomed(&self) -> impl Iterator<Item = Doomed> {
        let pending = self.pending.map(|pending| pending.id).filter(|id| *id != self.shown.id);
        self.shown.id.doomed().chain(pending.into_iter().flat_map(ContentId::doomed))
    }

    /// Where elements go that are shown at once; afterwards they are.
    pub(super) fn open(&mut self) -> (ContentId, u64) {
        // What waits in the same content is shown early: firings that accumulate would show it again anyway.
        let at = match &mut self.pending {
            Some(pending) if pending.id == self.shown.id => pending.end,
            _ => self.shown.end,
        };
        self.shown.end = at + 1;
        if let Some(pending) = self.pending.as_mut().filter(|pending| pending.id == self.shown.id) {
            pending.end = at + 1;
        }
        (self.shown.id, at)
    }

    /// Where elements go that wait for the trigger; `None` if it takes no more.
    pub(super) fn wait(
        &mut self,
        contents: &mut Contents,
        firing: &Firing<'_>,
        elements: u64,
    ) -> Option<(ContentId, u64)> {
        let look = self.look(firing);
        let state = self.trigger.as_mut()?;
        for _ in 0..elements {
            firing.machine.on_element(state, look);
        }
        let shown = self.shown;
        let pending = self.pending.get_or_insert_with(|| match firing.accumulation {
            Accumulation::Accumulating => shown,
            Accumulation::Discarding => Content { id: contents.create(), end: 0 },
        });
        let at = pending.end;
        pending.end += 1;
        Some((pending.id, at))
    }

    /// Fires if it is time to; gives the content that was replaced by what is shown now, if one was. `None`: not fired.
    pub(super) fn fire(&mut self, firing: &Firing<'_>) -> Option<Option<ContentId>> {
        let look = self.look(firing);
        let expired = firing.watermark.is_none_or(|watermark| watermark > self.expiry);
        let state = self.trigger.as_mut()?;
        let fires = firing.machine.should_fire(state, look);
        if fires {
            firing.machine.on_fire(state, look);
        }
        if expired || firing.machine.is_finished(state) {
            self.trigger = None;
        }
        // A firing without elements leaves what there is.
        if !fires && !expired {
            return None;
        }
        let pending = self.pending.take()?;
        let before = std::mem::replace(&mut self.shown, pending);
        self.fired = true;
        Some((before.id != pending.id).then_some(before.id))
    }

    /// The times at which to ask again, by the clock and by the watermark.
    pub(super) fn again(&self, firing: &Firing<'_>) -> (Option<Timestamp>, Option<Timestamp>) {
        let Some(state) = &self.trigger else { return (None, None) };
        let passed = |at: Timestamp| firing.watermark.is_none_or(|watermark| watermark > at);
        let next = [self.end, self.expiry].into_iter().find(|at| !passed(*at));
        (firing.machine.look_again(state, firing.now), next)
    }

    fn look(&self, firing: &Firing<'_>) -> Look {
        Look { now: firing.now, ended: firing.watermark.is_none_or(|watermark| watermark > self.end) }
    }
}

/// Windows in the order of a time of theirs.
#[derive(Default)]
pub(super) struct Agenda {
    times: std::collections::BTreeSet<(Timestamp, Bytes)>,
    of: std::collections::HashMap<Bytes, Timestamp>,
}

impl Agenda {
    /// Puts a window at `time`, or nowhere, instead of where it was.
    pub(super) fn set(&mut self, window: &Bytes, time: Option<Timestamp>) {
        let before = match time {
            Some(time) => self.of.insert(window.clone(), time),
            None => self.of.remove(window),
        };
        if before == time {
            return;
        }
        if let Some(before) = before {
            self.times.remove(&(before, window.clone()));
        }
        if let Some(time) = time {
            self.times.insert((time, window.clone()));
        }
    }

    /// The first of all.
    pub(super) fn first(&self) -> Option<(Timestamp, &Bytes)> {
        self.times.first().map(|(time, window)| (*time, window))
    }

    /// Takes the windows whose time `is_due`.
    pub(super) fn take(&mut self, is_due: impl Fn(Timestamp) -> bool) -> Vec<Bytes> {
        let mut due = Vec::new();
        while let Some((_, window)) = self.first().filter(|(time, _)| is_due(*time)) {
            let window = window.clone();
            self.set(&window, None);
            due.push(window);
        }
        due
    }
}
