//! What the panes and the trigger of a side input mean for what a window of it holds. Pure.
//!
//! Beam says that a window of a side input holds what its latest firing gave. Runners that follow this to the letter put
//! a grouping of all elements of the window, by the collection's own windowing, before the side input. Here:
//!
//! - A trigger that cannot fire before its window ends ([`fires_early`] is false) shows the window when the watermark has
//!   passed the end, and then with everything that came. So elements only add up; late ones too.
//! - Elements that no grouping has fired (timing unknown) under a trigger that does fire early go through that trigger:
//!   the content of a firing is shown as a whole, and when firings are discarding takes the place of the one before.
//! - Elements of a pane (they come out of a grouping whose trigger has done its work) are shown as they come. When firings
//!   are discarding, those of a later pane take the place of what their slot holds, those of an earlier one that were
//!   overtaken are dropped ([`Later::Replaces`]). A slot is the window, for a multimap a key in it.
//! - Otherwise nothing says which of several elements a later pane stands for, so it joins them; but the only element
//!   of a slot can be no other's than its own, and is replaced ([`Later::ReplacesOne`]): what a global combine gave, read
//!   as a singleton, is its latest value.
//!
//! To the letter, one late element would take the place of a whole window, and a pane of one key that of all others:
//! allowed by the model, and of no use to anybody.

use crate::element::ElementError;
use crate::time::Timestamp;
use crate::windowing::{Accumulation, Trigger, Windowing};

/// What an element of a later pane does to what its slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Later {
    /// Takes its place, whatever it is.
    Replaces,
    /// Takes its place if it is one element.
    ReplacesOne,
}

/// What is known of a slot's elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// The latest pane among them.
    pub(super) newest: Option<u64>,
    pub(super) values: u64,
}

/// What becomes of elements of one pane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Joins,
    Replaces,
    Dropped,
}

impl Later {
    pub(super) fn of(windowing: &Windowing) -> Later {
        match windowing.accumulation {
            Accumulation::Discarding if fires_early(&windowing.trigger) => Later::Replaces,
            _ => Later::ReplacesOne,
        }
    }

    /// What elements of `pane` (`None`: of no pane) do to what a slot holds.
    pub(super) fn effect(self, held: Held, pane: Option<u64>) -> Effect {
        let (Some(pane), Some(newest)) = (pane, held.newest) else { return Effect::Joins };
        match self {
            Later::Replaces if pane > newest => Effect::Replaces,
            Later::Replaces if pane < newest => Effect::Dropped,
            Later::ReplacesOne if pane > newest && held.values == 1 => Effect::Replaces,
            _ => Effect::Joins,
        }
    }
}

/// Whether a trigger can fire before the watermark has passed the end of the window.
pub(super) fn fires_early(trigger: &Trigger) -> bool {
    match trigger {
        Trigger::Default | Trigger::Never => false,
        Trigger::AfterEndOfWindow { early, .. } => early.is_some(),
        Trigger::AfterAll(parts) => parts.iter().all(fires_early),
        Trigger::AfterAny(parts) => parts.iter().any(fires_early),
        Trigger::AfterEach(parts) => parts.first().is_some_and(fires_early),
        Trigger::OrFinally(main, until) => fires_early(main) || fires_early(until),
        Trigger::Repeat(part) => fires_early(part),
        Trigger::AfterProcessingTime(_)
        | Trigger::AfterSynchronizedProcessingTime
        | Trigger::ElementCount(_)
        | Trigger::Always => true,
    }
}

/// The watermark that, once passed, says that a window will have fired if it has anything to give: a window that has not
/// by then is empty as far as its readers are concerned.
pub(super) fn fires_by(windowing: &Windowing, window: &[u8]) -> Result<Timestamp, ElementError> {
    let (end, expiry) = (windowing.window_coder.max_timestamp(window)?, windowing.expiry(window)?);
    Ok(by(&windowing.trigger, end, expiry))
}

fn by(trigger: &Trigger, end: Timestamp, expiry: Timestamp) -> Timestamp {
    let of = |part: &Trigger| by(part, end, expiry);
    match trigger {
        Trigger::Default | Trigger::AfterEndOfWindow { .. } => end,
        Trigger::AfterAll(parts) => parts.iter().map(of).max().unwrap_or(end),
        Trigger::AfterAny(parts) => parts.iter().map(of).min().unwrap_or(end),
        Trigger::AfterEach(parts) => parts.first().map_or(end, of),
        Trigger::OrFinally(main, until) => of(main).min(of(until)),
        Trigger::Repeat(part) => of(part),
        Trigger::Never
        | Trigger::AfterProcessingTime(_)
        | Trigger::AfterSynchronizedProcessingTime
        | Trigger::ElementCount(_)
        | Trigger::Always => expiry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::windowing::{IntervalWindow, Merging, WindowCoder};

    fn early(trigger: Trigger) -> Trigger {
        Trigger::AfterEndOfWindow { early: Some(Box::new(trigger)), late: None }
    }

    #[test]
    fn early_triggers() {
        use Trigger::*;
        let repeat = |trigger: Trigger| Repeat(Box::new(trigger));
        let at_end = || AfterEndOfWindow { early: None, late: Some(Box::new(Always)) };
        let late = [
            Default,
            Never,
            at_end(),
            repeat(at_end()),
            AfterAll(vec![at_end(), ElementCount(1)]),
            AfterEach(vec![at_end(), Always]),
            OrFinally(Box::new(Default), Box::new(Never)),
        ];
        for trigger in late {
            assert!(!fires_early(&trigger), "{trigger:?}");
        }
        let soon = [
            Always,
            ElementCount(7),
            early(Always),
            repeat(AfterSynchronizedProcessingTime),
            AfterProcessingTime(vec![]),
            AfterAny(vec![at_end(), ElementCount(1)]),
            OrFinally(Box::new(Default), Box::new(Always)),
        ];
        for trigger in soon {
            assert!(fires_early(&trigger), "{trigger:?}");
        }
    }

    #[test]
    fn what_later_panes_do() {
        let held = |newest, values| Held { newest, values };
        let cases = [
            (held(None, 0), Some(3), Effect::Joins, Effect::Joins),
            (held(None, 2), Some(0), Effect::Joins, Effect::Joins),
            (held(Some(1), 1), None, Effect::Joins, Effect::Joins),
            (held(Some(1), 1), Some(1), Effect::Joins, Effect::Joins),
            (held(Some(1), 1), Some(2), Effect::Replaces, Effect::Replaces),
            (held(Some(1), 2), Some(2), Effect::Replaces, Effect::Joins),
            (held(Some(2), 1), Some(1), Effect::Dropped, Effect::Joins),
        ];
        for (held, pane, replaces, replaces_one) in cases {
            assert_eq!(Later::Replaces.effect(held, pane), replaces, "{held:?} {pane:?}");
            assert_eq!(Later::ReplacesOne.effect(held, pane), replaces_one, "{held:?} {pane:?}");
        }
    }

    #[test]
    fn when_a_window_is_given_up() {
        let window = IntervalWindow { start: Timestamp(0), end: Timestamp(10) }.encode();
        let at = |trigger| {
            let windowing =
                Windowing { trigger, allowed_lateness: 5, ..Windowing::plain(WindowCoder::Interval, Merging::None) };
            fires_by(&windowing, &window).unwrap()
        };
        let count = || Trigger::ElementCount(1);
        assert_eq!(at(Trigger::Default), Timestamp(9));
        assert_eq!(at(early(count())), Timestamp(9));
        assert_eq!(at(Trigger::Never), Timestamp(14));
        assert_eq!(at(Trigger::Repeat(Box::new(count()))), Timestamp(14));
        assert_eq!(at(Trigger::AfterAny(vec![count(), Trigger::Default])), Timestamp(9));
        assert_eq!(at(Trigger::AfterAll(vec![count(), Trigger::Default])), Timestamp(14));
    }
}
