//! Which of the calls that ask for a job's state come from a client that waits for the job's end.
//!
//! Java's client waits by asking again and again, and sleeps three seconds after each answer: an end that comes meanwhile
//! is learnt that late. Answered at the job's end, it learns at once. But what it sends for a user who asks once is the
//! same, to the byte and the deadline; only the time tells the two apart:
//!
//! - The first call of `run().waitUntilFinish()` comes right after the answer to `Run`. (Answered at once it would leave
//!   every job of less than three seconds unseen until then.)
//! - Each of its further calls comes three seconds after an answer, and a little, with none before.
//!
//! Any other call is somebody's own. A program that asks every three seconds by itself is held too: it learns of the end,
//! and of nothing before. What follows the answer to `Run` counts only for a job whose input ends: of another
//! one, a program rather asks whether it runs yet.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A program that waits for its job does so at once.
const AFTER_RUN: Duration = Duration::from_millis(500);
/// How long Java's client sleeps, less what two clocks may differ by.
const ASLEEP: Duration = Duration::from_millis(2950);
/// By when it has asked again: a busy machine wakes it late.
const AWAKE: Duration = Duration::from_millis(3500);
/// Most clients whose calls are expected at a time.
const EXPECTED: usize = 16;

/// When the calls of clients that wait for a job are due.
#[derive(Debug, Default)]
pub struct Waiting {
    /// One of each client at most: who asks more often is none that waits.
    expected: VecDeque<Expected>,
}

/// The next call of one client.
#[derive(Debug)]
struct Expected {
    /// Where it calls from: it keeps one connection.
    caller: Option<SocketAddr>,
    from: Instant,
    until: Instant,
}

impl Waiting {
    /// `caller` is told that the job was started.
    pub fn started(&mut self, caller: Option<SocketAddr>, now: Instant) {
        self.expect(Expected { caller, from: now, until: now + AFTER_RUN });
    }

    /// `caller` is told that the job has not ended.
    pub fn answered(&mut self, caller: Option<SocketAddr>, now: Instant) {
        self.expect(Expected { caller, from: now + ASLEEP, until: now + AWAKE });
    }

    /// Whether a call that comes now is of a client that waits. It counts as come.
    pub fn is_due(&mut self, caller: Option<SocketAddr>, now: Instant) -> bool {
        let asked = self.expected.iter().position(|expected| expected.caller == caller);
        let asked = asked.and_then(|at| self.expected.remove(at));
        asked.is_some_and(|expected| expected.from <= now && now <= expected.until)
    }

    fn expect(&mut self, expected: Expected) {
        self.expected.retain(|other| other.caller != expected.caller);
        if self.expected.len() >= EXPECTED {
            self.expected.pop_front();
        }
        self.expected.push_back(expected);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Option<SocketAddr> = Some(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1));
    const OTHER: Option<SocketAddr> = Some(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2));

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn calls_in_the_rhythm_of_one_who_waits_are_due_and_no_others() {
        for (after, due) in [(0, true), (499, true), (501, false), (3000, false)] {
            let (mut waiting, now) = (Waiting::default(), Instant::now());
            waiting.started(ONE, now);
            assert_eq!(waiting.is_due(ONE, now + millis(after)), due, "{after} ms after the start");
        }
        for (after, due) in [(0, false), (1000, false), (2900, false), (3000, true), (3400, true), (3600, false)] {
            let (mut waiting, now) = (Waiting::default(), Instant::now());
            waiting.answered(ONE, now);
            assert_eq!(waiting.is_due(ONE, now + millis(after)), due, "{after} ms after an answer");
        }
    }

    #[test]
    fn a_call_is_due_once_and_for_its_caller() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        waiting.started(ONE, now);
        assert!(!waiting.is_due(OTHER, now));
        assert!(waiting.is_due(ONE, now));
        assert!(!waiting.is_due(ONE, now));
    }

    #[test]
    fn who_asks_more_often_does_not_wait() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        for second in 1..20 {
            let now = now + millis(1000 * second);
            assert!(!waiting.is_due(ONE, now), "{second}");
            waiting.answered(ONE, now);
        }
    }

    #[test]
    fn clients_do_not_disturb_one_another() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        waiting.answered(ONE, now);
        for after in [500, 1000, 1500, 2000] {
            assert!(!waiting.is_due(OTHER, now + millis(after)));
            waiting.answered(OTHER, now + millis(after));
        }
        assert!(waiting.is_due(ONE, now + millis(3000)));
    }

    #[test]
    fn what_is_expected_is_bounded() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        for port in 0..1000 {
            waiting.answered(Some(SocketAddr::from(([127, 0, 0, 1], port))), now);
        }
        assert_eq!(waiting.expected.len(), EXPECTED);
    }
}
