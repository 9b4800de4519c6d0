//! Windowing in words, for people, for golden tests and for checkpoints: state is read only where it was written under the
//! same description, so a text that changes here makes saved state unreadable.

use std::fmt;

use super::{
    Accumulation, ClosingBehavior, Merging, OnTimeBehavior, TimestampCombiner, TimestampTransform, Trigger,
    WindowCoder, Windowing,
};

impl fmt::Display for WindowCoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WindowCoder::Global => f.write_str("global windows"),
            WindowCoder::Interval => f.write_str("interval windows"),
            WindowCoder::Custom(window) => write!(f, "custom windows of {window}"),
        }
    }
}

/// Without what only a grouping cares about: [`Windowing::firing`].
impl fmt::Display for Windowing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.window_coder.fmt(f)?;
        f.write_str(match self.merging {
            Merging::None => "",
            Merging::Sessions => ", sessions",
            Merging::Custom => ", merging",
        })?;
        f.write_str(match self.timestamp_combiner {
            TimestampCombiner::EndOfWindow => "",
            TimestampCombiner::Latest => ", latest timestamp",
            TimestampCombiner::Earliest => ", earliest timestamp",
        })
    }
}

/// Which panes a windowing fires, as words that follow those of the [`Windowing`]. What is left unsaid is the default.
pub struct Firing<'a>(&'a Windowing);

impl Windowing {
    /// See [`Firing`].
    pub fn firing(&self) -> Firing<'_> {
        Firing(self)
    }
}

impl fmt::Display for Firing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Firing(windowing) = self;
        if windowing.trigger != Trigger::Default {
            write!(f, ", trigger {}", windowing.trigger)?;
        }
        if windowing.accumulation == Accumulation::Accumulating {
            f.write_str(", accumulating")?;
        }
        if windowing.allowed_lateness != 0 {
            write!(f, ", {} ms late", windowing.allowed_lateness)?;
        }
        if windowing.closing == ClosingBehavior::EmitAlways {
            f.write_str(", closing always")?;
        }
        if windowing.on_time == OnTimeBehavior::FireIfNonempty {
            f.write_str(", on time if nonempty")?;
        }
        Ok(())
    }
}

// No deeper than a decoded message nests.
impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |name: &str, triggers: &[Trigger], f: &mut fmt::Formatter<'_>| {
            let triggers: Vec<_> = triggers.iter().map(Trigger::to_string).collect();
            write!(f, "{name}({})", triggers.join(", "))
        };
        match self {
            Trigger::AfterAll(all) => list("all", all, f),
            Trigger::AfterAny(any) => list("any", any, f),
            Trigger::AfterEach(each) => list("each", each, f),
            Trigger::AfterEndOfWindow { early, late } => {
                let part = |when: &str, part: &Option<Box<Trigger>>| part.as_ref().map(|it| format!("{when} {it}"));
                let parts: Vec<_> = [part("early", early), part("late", late)].into_iter().flatten().collect();
                write!(f, "end_of_window({})", parts.join(", "))
            }
            Trigger::AfterProcessingTime(steps) => {
                let step = |step: &TimestampTransform| match step {
                    TimestampTransform::Delay(delay) => format!("{delay} ms"),
                    TimestampTransform::AlignTo { period, offset } => format!("to n * {period} + {offset} ms"),
                };
                write!(f, "processing_time({})", steps.iter().map(step).collect::<Vec<_>>().join(", "))
            }
            Trigger::AfterSynchronizedProcessingTime => f.write_str("synchronized_processing_time"),
            Trigger::Default => f.write_str("default"),
            Trigger::ElementCount(count) => write!(f, "count({count})"),
            Trigger::Never => f.write_str("never"),
            Trigger::Always => f.write_str("always"),
            Trigger::OrFinally(main, finally) => write!(f, "or_finally({main}, {finally})"),
            Trigger::Repeat(repeated) => write!(f, "repeat({repeated})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::WireCoder;

    /// As they stand in checkpoints of version 1.
    #[test]
    fn the_words_that_state_is_saved_under_stay_the_same() {
        let mut windowing = Windowing::plain(WindowCoder::Custom(Box::new(WireCoder::Prefixed)), Merging::Custom);
        assert_eq!(format!("{windowing}{}", windowing.firing()), "custom windows of prefixed, merging");
        let early = Trigger::AfterProcessingTime(vec![
            TimestampTransform::Delay(10),
            TimestampTransform::AlignTo { period: 60, offset: 5 },
        ]);
        let late = Trigger::AfterEach(vec![Trigger::ElementCount(3), Trigger::Always]);
        windowing = Windowing {
            window_coder: WindowCoder::Interval,
            merging: Merging::Sessions,
            timestamp_combiner: TimestampCombiner::Latest,
            trigger: Trigger::AfterEndOfWindow { early: Some(Box::new(early)), late: Some(Box::new(late)) },
            accumulation: Accumulation::Accumulating,
            allowed_lateness: 1500,
            closing: ClosingBehavior::EmitAlways,
            on_time: OnTimeBehavior::FireIfNonempty,
        };
        assert_eq!(
            format!("{windowing}{}", windowing.firing()),
            "interval windows, sessions, latest timestamp, trigger end_of_window(early processing_time(10 ms, to n * 60 \
             + 5 ms), late each(count(3), always)), accumulating, 1500 ms late, closing always, on time if nonempty"
        );
        windowing = Windowing {
            timestamp_combiner: TimestampCombiner::Earliest,
            trigger: Trigger::OrFinally(
                Box::new(Trigger::Repeat(Box::new(Trigger::AfterAll(vec![
                    Trigger::AfterSynchronizedProcessingTime,
                    Trigger::Default,
                ])))),
                Box::new(Trigger::AfterAny(vec![Trigger::Never])),
            ),
            ..Windowing::plain(WindowCoder::Global, Merging::None)
        };
        assert_eq!(
            format!("{windowing}{}", windowing.firing()),
            "global windows, earliest timestamp, trigger or_finally(repeat(all(synchronized_processing_time, default)), \
             any(never))"
        );
    }
}
