//! Triggers as state machines: when the content of a window is to be emitted.
//!
//! A [`TriggerMachine`] is made once from a [`Trigger`]; what it remembers of one window is a [`TriggerState`], which
//! the caller keeps, as bytes, with the window. The caller tells it of every element and every merge, asks it after each
//! of these, at the times that it names and when the watermark passes the window's end whether to fire, and tells it
//! that it did. Nothing here reads a clock or a watermark: [`Look`] says how late it is.
//!
//! The meaning is that of the machines of Beam's Java runners (`org.apache.beam.runners.core.triggers`), because
//! pipelines rely on it in every SDK: a trigger that has finished says so by a bit of its own, and where windows merge
//! the bits decide which parts come to life again.

mod fire;
mod state;

#[cfg(test)]
mod tests;

use super::{TimestampTransform, Trigger};
use crate::time::Timestamp;

pub use state::{DamagedState, TriggerState};

/// What a trigger may look at when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The processing time.
    pub now: Timestamp,
    /// The watermark has passed the greatest timestamp of the window.
    pub ended: bool,
}

/// A trigger, taken apart. The same for all windows of a grouping.
#[derive(Clone, Debug)]
pub struct TriggerMachine {
    /// The tree, each trigger before what it is made of.
    nodes: Vec<Node>,
    /// Windows may merge, so a part that has finished may come to life again and must be kept up to date.
    merging: bool,
    /// How long after its arrival an element is in step with what upstream sent beside it, in milliseconds.
    settling: i64,
}

#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    /// The triggers that it is made of.
    parts: Vec<usize>,
    /// The first node after it that is not a part of it, nor of its parts.
    end: usize,
}

#[derive(Clone, Debug)]
enum Kind {
    All,
    Any,
    Each,
    /// Without early and late firings: once.
    EndOfWindow,
    /// The first part fires before the end, the second, if there is one, after it.
    EarlyAndLate,
    /// Once, when the processing time has reached what these make of the time at which the pane's first element came.
    ProcessingTime(Vec<TimestampTransform>),
    Default,
    Count(u32),
    Never,
    Always,
    OrFinally,
    Repeat,
}

impl TriggerMachine {
    /// The machine of `trigger`, for windows that may merge or not.
    pub fn new(trigger: &Trigger, merging: bool) -> TriggerMachine {
        TriggerMachine::settling(trigger, merging, 0)
    }

    /// The same, where synchronized processing time passes an arrival only `settling` milliseconds later.
    pub fn settling(trigger: &Trigger, merging: bool, settling: i64) -> TriggerMachine {
        let mut machine = TriggerMachine { nodes: Vec::new(), merging, settling };
        machine.add(trigger);
        machine
    }

    fn add(&mut self, trigger: &Trigger) -> usize {
        let never = Trigger::Never;
        let (kind, parts): (Kind, Vec<&Trigger>) = match trigger {
            Trigger::AfterAll(parts) => (Kind::All, parts.iter().collect()),
            Trigger::AfterAny(parts) => (Kind::Any, parts.iter().collect()),
            Trigger::AfterEach(parts) => (Kind::Each, parts.iter().collect()),
            Trigger::AfterEndOfWindow { early: None, late: None } => (Kind::EndOfWindow, Vec::new()),
            Trigger::AfterEndOfWindow { early, late } => {
                let early = early.as_deref().unwrap_or(&never);
                (Kind::EarlyAndLate, std::iter::once(early).chain(late.as_deref()).collect())
            }
            Trigger::AfterProcessingTime(steps) => (Kind::ProcessingTime(steps.clone()), Vec::new()),
            // Data travels without delay, so what came upstream by the time of the arrival is here soon after it.
            Trigger::AfterSynchronizedProcessingTime => {
                (Kind::ProcessingTime(vec![TimestampTransform::Delay(self.settling)]), Vec::new())
            }
            Trigger::Default => (Kind::Default, Vec::new()),
            Trigger::ElementCount(count) => (Kind::Count(*count), Vec::new()),
            Trigger::Never => (Kind::Never, Vec::new()),
            Trigger::Always => (Kind::Always, Vec::new()),
            Trigger::OrFinally(main, until) => (Kind::OrFinally, vec![main, until]),
            Trigger::Repeat(part) => (Kind::Repeat, vec![part]),
        };
        let index = self.nodes.len();
        self.nodes.push(Node { kind, parts: Vec::new(), end: 0 });
        let parts = parts.into_iter().map(|part| self.add(part)).collect();
        self.nodes[index].parts = parts;
        self.nodes[index].end = self.nodes.len();
        index
    }

    /// An element has come into the pane.
    pub fn on_element(&self, state: &mut TriggerState, look: Look) {
        self.element(0, state, look);
    }

    /// Whether the window is to fire. Adding elements never makes a trigger that would fire one that would not.
    pub fn should_fire(&self, state: &TriggerState, look: Look) -> bool {
        self.ready(0, state, look)
    }

    /// The window fires, because [`TriggerMachine::should_fire`] said so.
    pub fn on_fire(&self, state: &mut TriggerState, look: Look) {
        self.fire(0, state, look);
    }

    /// The state of the window that those with `states` have become. `look` is at that window.
    pub fn merge(&self, states: &[TriggerState], look: Look) -> TriggerState {
        let mut merged = self.start();
        self.unite(0, &mut merged, states, look);
        merged
    }

    /// Whether the trigger will never fire again, so that the window takes no more elements.
    pub fn is_finished(&self, state: &TriggerState) -> bool {
        state.cells[0].finished
    }

    /// The next processing time after `now` at which to ask again.
    pub fn look_again(&self, state: &TriggerState, now: Timestamp) -> Option<Timestamp> {
        let waits = |(node, cell): (&Node, &state::Cell)| match node.kind {
            Kind::ProcessingTime(_) if !cell.finished => cell.value.map(Timestamp),
            _ => None,
        };
        self.nodes.iter().zip(&state.cells).filter_map(waits).filter(|due| *due > now).min()
    }
}

/// The time that `steps` make of the arrival of an element.
fn reckon(steps: &[TimestampTransform], arrival: Timestamp) -> Timestamp {
    let mut time = arrival.0;
    for step in steps {
        time = match *step {
            TimestampTransform::Delay(delay) => time.saturating_add(delay),
            TimestampTransform::AlignTo { period, offset } if period > 0 => {
                let past = time.saturating_sub(offset).rem_euclid(period);
                if past == 0 { time } else { time.saturating_add(period - past) }
            }
            // Aligned to nothing.
            TimestampTransform::AlignTo { .. } => time,
        };
    }
    Timestamp(time.min(Timestamp::MAX.0))
}
