//! Whether a job that lost a process is run again: a function of what the job asked for and of how it went so far.
//!
//! It is Flink's fixed-delay strategy, with a pause that grows while the job keeps failing soon: so many restarts in the
//! life of a job, however long it ran in between. A job that does not say how many has none, unless it has checkpoints
//! to go on from; then there is no limit, as in Flink. Only what ended a *process* counts: what user code raised, and
//! what the runner found wrong, would happen again.

use std::time::Duration;

/// The pause before the first restart of a job that does not ask for another.
const DELAY: Duration = Duration::from_secs(1);
/// The pause grows no further than this, unless the job asked for more.
const LONGEST: Duration = Duration::from_secs(60);
/// After an attempt that ran for this long, or completed a checkpoint, the pause is short again.
const STABLE: Duration = Duration::from_secs(600);
/// How many of the latest attempts are told when a job is given up.
const TOLD: usize = 20;
/// Of how an attempt ended, so much is told when the job is given up for a later one.
const LINE: usize = 300;

/// How often, and after which pause, a job is run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RestartPolicy {
    limit: Limit,
    delay: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// The job did not say how often, and has no checkpoints.
    Unasked,
    Times(u32),
    Endless,
}

/// How one attempt to run a job ended: it lost a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// Which process, and how it ended; for people.
    pub(super) how: String,
    /// How long the attempt had run.
    pub(super) ran: Duration,
    /// It had come further than the one before: a checkpoint of it was complete.
    pub(super) progressed: bool,
}

impl Loss {
    /// Whether the attempt went well for a while.
    fn is_late(&self) -> bool {
        self.progressed || self.ran >= STABLE
    }
}

/// The attempts so far, each of which lost a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    attempts: u32,
    /// Those in a row, up to the last, that did not run for long.
    soon: u32,
    /// The first line of how the latest ended.
    latest: Vec<String>,
}

/// What follows a loss. The message is for the job's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Restart { delay: Duration, message: String },
    GiveUp { message: String },
}

impl RestartPolicy {
    /// The policy of a job: `retries` and `delay` as it asked, if it did.
    pub(super) fn new(retries: Option<u32>, delay: Option<Duration>, has_checkpoints: bool) -> RestartPolicy {
        let limit = match retries {
            Some(times) => Limit::Times(times),
            None if has_checkpoints => Limit::Endless,
            None => Limit::Unasked,
        };
        RestartPolicy { limit, delay: delay.unwrap_or(DELAY) }
    }

    /// Decides what follows `loss`, after the attempts of `history`. `from` is where the next attempt begins: its start,
    /// or a checkpoint.
    pub(super) fn decide(&self, history: &History, loss: &Loss, from: &str) -> Verdict {
        let how = &loss.how;
        match self.limit {
            Limit::Unasked => Verdict::GiveUp {
                message: format!(
                    "{how}\n\nA job without checkpoints is run again from its start only if it asks for that: set \
                     --number_of_execution_retries, if its output may be written twice."
                ),
            },
            Limit::Times(0) => Verdict::GiveUp { message: how.clone() },
            Limit::Times(limit) if history.attempts >= limit => Verdict::GiveUp { message: history.give_up(how) },
            Limit::Times(limit) => {
                self.restart(history, loss, from, &format!("restart {} of {limit}", history.attempts + 1))
            }
            Limit::Endless => {
                self.restart(history, loss, from, &format!("restart {}", history.attempts.saturating_add(1)))
            }
        }
    }

    fn restart(&self, history: &History, loss: &Loss, from: &str, which: &str) -> Verdict {
        let doublings = if loss.is_late() { 0 } else { history.soon.min(16) };
        let delay = self.delay.saturating_mul(1 << doublings).min(self.delay.max(LONGEST));
        let message = format!(
            "{}\n\nThe job is run again from {from} in {} s ({which}). What its metrics counted since then does not count.",
            loss.how,
            delay.as_secs_f64()
        );
        Verdict::Restart { delay, message }
    }
}

impl History {
    /// Of a job that an earlier service ran so often.
    pub(super) fn of_earlier(attempts: u64) -> History {
        History { attempts: u32::try_from(attempts).unwrap_or(u32::MAX), ..History::default() }
    }

    /// One more attempt has ended.
    pub(super) fn push(&mut self, loss: &Loss) {
        self.attempts = self.attempts.saturating_add(1);
        self.soon = if loss.is_late() { 0 } else { self.soon.saturating_add(1) };
        if self.latest.len() == TOLD {
            self.latest.remove(0);
        }
        let line = loss.how.lines().next().unwrap_or_default();
        self.latest.push(line.chars().take(LINE).collect());
    }

    fn give_up(&self, how: &str) -> String {
        let last = self.attempts.saturating_add(1);
        let mut message = format!("{how}\n\nThis was attempt {last} of {last}: the job is not run again. Before it:");
        let untold = self.attempts.saturating_sub(u32::try_from(self.latest.len()).unwrap_or(u32::MAX));
        if untold > 0 {
            message.push_str(&format!("\n  attempts 1 to {untold}: lost a process each"));
        }
        for (attempt, line) in (untold + 1..).zip(&self.latest) {
            message.push_str(&format!("\n  attempt {attempt}: {line}"));
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(how: &str, ran: u64) -> Loss {
        Loss { how: how.into(), ran: Duration::from_secs(ran), progressed: false }
    }

    /// A line for each of `losses`: `again after S`, or `over`.
    fn course(policy: RestartPolicy, losses: &[u64]) -> Vec<String> {
        let mut history = History::default();
        let mut course = Vec::new();
        for ran in losses {
            let loss = loss("was killed", *ran);
            match policy.decide(&history, &loss, "its start") {
                Verdict::Restart { delay, .. } => course.push(format!("again after {}", delay.as_secs_f64())),
                Verdict::GiveUp { .. } => course.push("over".into()),
            }
            history.push(&loss);
        }
        course
    }

    #[test]
    fn how_often_and_when_a_job_is_run_again() {
        let seconds = |s| Some(Duration::from_secs(s));
        let policy = RestartPolicy::new;
        let cases: [(&str, RestartPolicy, &[u64], &[&str]); 8] = [
            ("not asked", policy(None, None, false), &[5], &["over"]),
            ("not asked but for a pause", policy(None, seconds(1), false), &[5], &["over"]),
            ("asked for none", policy(Some(0), None, true), &[5], &["over"]),
            ("once", policy(Some(1), None, false), &[5, 5], &["again after 1", "over"]),
            (
                "pauses grow",
                policy(Some(3), Some(Duration::from_millis(250)), false),
                &[0, 0, 0, 0],
                &["again after 0.25", "again after 0.5", "again after 1", "over"],
            ),
            (
                "an attempt that ran for long makes them short, and counts",
                policy(Some(3), seconds(2), false),
                &[0, 0, 600, 0],
                &["again after 2", "again after 4", "again after 2", "over"],
            ),
            (
                "with checkpoints there is no limit",
                policy(None, seconds(20), true),
                &[0; 5],
                &["again after 20", "again after 40", "again after 60", "again after 60", "again after 60"],
            ),
            (
                "who asks for a long pause gets it",
                policy(Some(9), seconds(300), false),
                &[0, 0],
                &["again after 300", "again after 300"],
            ),
        ];
        for (name, policy, losses, expected) in cases {
            assert_eq!(course(policy, losses), expected, "{name}");
        }
    }

    #[test]
    fn an_attempt_that_completed_a_checkpoint_makes_the_pause_short() {
        let policy = RestartPolicy::new(None, None, true);
        let mut history = History::default();
        let mut delays = Vec::new();
        for progressed in [false, false, true, false, false] {
            let loss = Loss { progressed, ..loss("was killed", 1) };
            if let Verdict::Restart { delay, .. } = policy.decide(&history, &loss, "its latest checkpoint") {
                delays.push(delay.as_secs());
            }
            history.push(&loss);
        }
        assert_eq!(delays, [1, 2, 1, 1, 2]);
    }

    #[test]
    fn after_many_attempts_a_decision_is_still_one() {
        let policy = RestartPolicy::new(None, Some(Duration::MAX), true);
        let history = History { attempts: u32::MAX, soon: u32::MAX, latest: vec![] };
        let verdict = policy.decide(&history, &loss("was killed", 1), "its start");
        assert!(matches!(verdict, Verdict::Restart { delay: Duration::MAX, .. }), "{verdict:?}");
    }

    #[test]
    fn a_restart_says_what_happened_and_which_it_is() {
        let policy = RestartPolicy::new(Some(3), None, false);
        let loss = loss("process 1 of the job's 3 was killed (signal 9)", 4);
        let mut history = History::default();
        history.push(&loss);
        let Verdict::Restart { message, .. } = policy.decide(&history, &loss, "its start") else { panic!("again") };
        let expected = "process 1 of the job's 3 was killed (signal 9)\n\nThe job is run again from its start in 2 s (restart \
                        2 of 3). What its metrics counted since then does not count.";
        assert_eq!(message, expected);
    }

    #[test]
    fn who_gives_up_names_all_attempts() {
        let policy = RestartPolicy::new(Some(2), None, false);
        let mut history = History::default();
        history.push(&loss("the job's process aborted (signal 6); the last that it wrote:\nout of luck", 1));
        history.push(&loss("the job's process is lost: its agent on host-7 is gone", 1));
        let last = loss("the job's process was killed (signal 9)\nand said nothing", 1);
        let Verdict::GiveUp { message } = policy.decide(&history, &last, "its start") else { panic!("over") };
        let expected = "the job's process was killed (signal 9)\nand said nothing\n\nThis was attempt 3 of 3: the job is not \
                        run again. Before it:\n  attempt 1: the job's process aborted (signal 6); the last that it \
                        wrote:\n  attempt 2: the job's process is lost: its agent on host-7 is gone";
        assert_eq!(message, expected);

        for _ in 0..30 {
            history.push(&last);
        }
        let Verdict::GiveUp { message } = policy.decide(&history, &last, "its start") else { panic!("over") };
        assert!(message.contains("attempt 33 of 33") && message.contains("attempts 1 to 12: "), "{message}");
        assert!(
            message.contains("\n  attempt 13: ")
                && message.ends_with("attempt 32: the job's process was killed (signal 9)")
        );
        assert!(message.len() < TOLD * (LINE + 20) + 1000, "{message}");
    }

    #[test]
    fn who_did_not_ask_is_told_how_to() {
        let verdict =
            RestartPolicy::new(None, None, false).decide(&History::default(), &loss("was killed", 1), "its start");
        let Verdict::GiveUp { message } = verdict else { panic!("over") };
        assert!(message.starts_with("was killed\n") && message.contains("--number_of_execution_retries"), "{message}");
    }
}
