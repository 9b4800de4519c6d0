//! What happened to a job, in order: its states and the messages about it.
//!
//! The log is what clients' streams are read from, so that one that attaches late sees the same as one that was there.
//! It is bounded in memory. When it is full the oldest messages go and their number is told in their place; states and
//! the error that a job ended with are few and are always kept. Dropping the newest instead was rejected: the end of a
//! log says why the job ended.

use std::collections::VecDeque;
use std::time::SystemTime;

use super::State;

/// How much a message matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Importance {
    /// For debugging.
    Debug,
    /// For who wants to know exactly.
    Detailed,
    /// For everybody.
    Basic,
    /// Perhaps a fault.
    Warning,
    /// Why the job failed. One a job: clients take the first or the last for the reason.
    Error,
}

/// A line for the user about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// How much it matters.
    pub importance: Importance,
    /// When it was made.
    pub time: SystemTime,
    /// The text.
    pub text: String,
}

impl Message {
    /// A message made now.
    pub fn now(importance: Importance, text: impl Into<String>) -> Message {
        Message { importance, time: SystemTime::now(), text: text.into() }
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The job entered a state.
    State(State, SystemTime),
    /// Something was said about it.
    Message(Message),
}

/// How much a log keeps.
#[derive(Clone, Copy, Debug)]
pub struct LogLimits {
    /// Most messages.
    pub messages: usize,
    /// Most bytes of their texts.
    pub bytes: usize,
    /// Most bytes of one text; the middle of a longer one is left out.
    pub text: usize,
}

impl Default for LogLimits {
    fn default() -> Self {
        LogLimits { messages: 10_000, bytes: 4 << 20, text: 256 << 10 }
    }
}

/// A bounded log of events.
#[derive(Debug)]
pub struct EventLog {
    limits: LogLimits,
    /// Events by their number, which never changes; there are gaps where messages were dropped.
    events: VecDeque<(u64, Event)>,
    next: u64,
    messages: usize,
    bytes: usize,
}

/// One read from a log.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// The events, with the number of each.
    pub events: Vec<(u64, Event)>,
    /// Where the next read starts.
    pub next: u64,
}

impl EventLog {
    /// An empty log.
    pub fn new(limits: LogLimits) -> EventLog {
        EventLog { limits, events: VecDeque::new(), next: 0, messages: 0, bytes: 0 }
    }

    /// The log that another was, with the numbers that it had.
    pub fn restored(limits: LogLimits, events: impl IntoIterator<Item = (u64, Event)>, next: u64) -> EventLog {
        let mut log = EventLog::new(limits);
        for (number, event) in events {
            log.next = log.next.max(number);
            log.push(event);
        }
        log.next = log.next.max(next);
        log
    }

    /// The number of the next event.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Appends an event, and drops the oldest messages beyond the limits.
    pub fn push(&mut self, mut event: Event) {
        if let Event::Message(message) = &mut event {
            shorten(&mut message.text, self.limits.text);
            self.messages += 1;
            self.bytes += message.text.len();
        }
        self.events.push_back((self.next, event));
        self.next += 1;
        while (self.messages > self.limits.messages || self.bytes > self.limits.bytes) && self.messages > 1 {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let droppable =
            |e: &(u64, Event)| matches!(&e.1, Event::Message(message) if message.importance < Importance::Error);
        // The kept ones in front of it are a handful of states, so this does not walk the log.
        let Some(at) = self.events.iter().position(droppable) else {
            self.messages = 0;
            return;
        };
        if let Some((_, Event::Message(message))) = self.events.remove(at) {
            self.messages -= 1;
            self.bytes -= message.text.len();
        }
    }

    /// At most `limit` events from number `from` on.
    pub fn read(&self, from: u64, limit: usize) -> Page {
        let start = self.events.partition_point(|(number, _)| *number < from);
        let events: Vec<_> = self.events.range(start..).take(limit).cloned().collect();
        let next = events.last().map_or(self.next.max(from), |(number, _)| number + 1);
        Page { events, next }
    }

    /// Bytes of message text that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Leaves out the middle of a text that is too long: a stack trace says what happened at its ends.
fn shorten(text: &mut String, limit: usize) {
    if text.len() <= limit {
        return;
    }
    let mut head = limit / 2;
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    let mut tail = text.len() - limit / 2;
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    let note = format!("\n[{} bytes are left out here]\n", tail - head);
    text.replace_range(head..tail, &note);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Event {
        Event::Message(Message { importance: Importance::Basic, time: SystemTime::UNIX_EPOCH, text: text.to_owned() })
    }

    fn texts(page: &Page) -> Vec<(u64, String)> {
        page.events
            .iter()
            .map(|(n, e)| match e {
                Event::Message(m) => (*n, m.text.clone()),
                Event::State(s, _) => (*n, s.to_string()),
            })
            .collect()
    }

    #[test]
    fn a_late_reader_sees_everything_in_order() {
        let mut log = EventLog::new(LogLimits::default());
        log.push(Event::State(State::Stopped, SystemTime::UNIX_EPOCH));
        log.push(message("a"));
        log.push(message("b"));
        let first = log.read(0, 2);
        assert_eq!(texts(&first), [(0, "STOPPED".into()), (1, "a".into())]);
        let second = log.read(first.next, 2);
        assert_eq!(texts(&second), [(2, "b".into())]);
        assert_eq!(log.read(second.next, 2), Page { events: vec![], next: 3 });
    }

    #[test]
    fn a_full_log_keeps_states_the_error_and_the_newest() {
        let mut log = EventLog::new(LogLimits { messages: 3, bytes: 1000, text: 100 });
        log.push(Event::State(State::Stopped, SystemTime::UNIX_EPOCH));
        log.push(Event::Message(Message::now(Importance::Error, "why")));
        for i in 0..10 {
            log.push(message(&i.to_string()));
        }
        let kept = texts(&log.read(0, 100));
        assert_eq!(kept, [(0, "STOPPED".into()), (1, "why".into()), (10, "8".into()), (11, "9".into())]);
    }

    #[test]
    fn a_restored_log_goes_on_with_its_numbers() {
        let limits = LogLimits { messages: 3, bytes: 1000, text: 100 };
        let mut log = EventLog::new(limits);
        log.push(Event::State(State::Stopped, SystemTime::UNIX_EPOCH));
        (0..10).for_each(|i| log.push(message(&i.to_string())));
        let before = log.read(0, 100);
        let mut restored = EventLog::restored(limits, before.events.clone(), before.next);
        assert_eq!(restored.read(0, 100), before);
        log.push(message("more"));
        restored.push(message("more"));
        assert_eq!(restored.read(0, 100), log.read(0, 100));
        assert_eq!(restored.bytes(), log.bytes());
    }

    #[test]
    fn bytes_are_bounded_whatever_is_said() {
        let mut log = EventLog::new(LogLimits { messages: 1000, bytes: 1000, text: 400 });
        for i in 0..500 {
            log.push(message(&"é".repeat(i)));
            assert!(log.bytes() <= 1000 + 400, "{} bytes after {i}", log.bytes());
        }
    }

    #[test]
    fn a_long_text_keeps_its_ends() {
        let mut text = format!("begin{}end", "é".repeat(1000));
        shorten(&mut text, 100);
        assert!(text.starts_with("begin") && text.ends_with("end"), "{text}");
        assert!(text.contains("bytes are left out"), "{text}");
        assert!(text.len() < 160);
    }
}
