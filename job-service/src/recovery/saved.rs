//! What happened to a job and how it ended, in the form in which it is stored.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::v1;
use crate::checkpoint::{Nonce, Sealed, Unsealing};
use crate::job::{Event, Importance, Message, State};

/// A piece of a job's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece {
    /// Whether it is all that is to be known: pieces before it can go.
    pub(super) whole: bool,
    /// The leader that wrote it: none with a lesser number has a say any more.
    #[serde(default)]
    pub(super) leader: u64,
    pub(super) events: Vec<NumberedEvent>,
    /// The number of the next event.
    pub(super) next: u64,
}

impl Piece {
    /// As it is written. Written again, it must be this: who cannot tell its own from another's would take itself for
    /// replaced.
    pub(super) fn sealed(&self) -> Result<Sealed, Unsealing> {
        Sealed::new(Nonce::new(), self)
    }
}

/// An event with its number in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NumberedEvent {
    number: u64,
    millis: i64,
    #[serde(flatten)]
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    /// By its name in Beam's protocol.
    State(String),
    Message {
        importance: String,
        text: String,
    },
}

const IMPORTANCES: [(Importance, &str); 5] = [
    (Importance::Debug, "debug"),
    (Importance::Detailed, "detailed"),
    (Importance::Basic, "basic"),
    (Importance::Warning, "warning"),
    (Importance::Error, "error"),
];

impl NumberedEvent {
    pub(super) fn of(number: u64, event: Event) -> NumberedEvent {
        match event {
            Event::State(state, time) => {
                NumberedEvent { number, millis: millis(time), what: What::State(state.to_string()) }
            }
            Event::Message(Message { importance, time, text }) => {
                let name = IMPORTANCES.iter().find(|(one, _)| *one == importance).map_or("basic", |(_, name)| name);
                let what = What::Message { importance: name.to_owned(), text };
                NumberedEvent { number, millis: millis(time), what }
            }
        }
    }

    /// None if it says something that this build does not know.
    pub(super) fn event(self) -> Option<(u64, Event)> {
        let time = time(self.millis);
        let event = match self.what {
            What::State(name) => {
                let state = State::ALL.into_iter().find(|state| state.to_string() == name)?;
                Event::State(state, time)
            }
            What::Message { importance, text } => {
                let importance = IMPORTANCES.iter().find(|(_, name)| *name == importance)?.0;
                Event::Message(Message { importance, time, text })
            }
        };
        Some((self.number, event))
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Where it is for good.
    pub state: State,
    /// Why, if it failed.
    pub reason: Option<String>,
    /// Its `MetricResults`, encoded.
    pub metrics: Bytes,
}

impl End {
    pub(super) fn to_proto(&self) -> v1::End {
        v1::End {
            state: self.state.to_proto().into(),
            reason: self.reason.clone().unwrap_or_default(),
            metrics: self.metrics.clone(),
            ended_millis: millis(SystemTime::now()),
        }
    }

    /// None if it is no end.
    pub(super) fn of_proto(end: v1::End) -> Option<End> {
        let ended = |state: &State| state.is_terminal() && i32::from(state.to_proto()) == end.state;
        let state = State::ALL.into_iter().find(ended)?;
        Some(End { state, reason: Some(end.reason).filter(|reason| !reason.is_empty()), metrics: end.metrics })
    }
}

/// Milliseconds since the Unix epoch.
pub(super) fn millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

pub(super) fn time(millis: i64) -> SystemTime {
    u64::try_from(millis)
        .ok()
        .and_then(|millis| UNIX_EPOCH.checked_add(Duration::from_millis(millis)))
        .unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_comes_back() {
        let at = time(1_700_000_000_123);
        let states = State::ALL.map(|state| Event::State(state, at));
        let messages = IMPORTANCES.map(|(importance, name)| {
            Event::Message(Message { importance, time: at, text: format!("a {name} text, {{\"with\": 1}}\n") })
        });
        for (number, event) in (5..).zip(states.into_iter().chain(messages)) {
            let text = serde_json::to_string(&NumberedEvent::of(number, event.clone())).expect("JSON");
            let read: NumberedEvent = serde_json::from_str(&text).expect("the same");
            assert_eq!(read.event(), Some((number, event)), "{text}");
        }
    }

    #[test]
    fn the_text_of_an_event_is_this() {
        let text = |event| serde_json::to_string(&NumberedEvent::of(3, event)).expect("JSON");
        assert_eq!(text(Event::State(State::Running, time(7))), r#"{"number":3,"millis":7,"state":"RUNNING"}"#);
        let message = Event::Message(Message { importance: Importance::Warning, time: time(7), text: "ö".into() });
        assert_eq!(text(message), r#"{"number":3,"millis":7,"message":{"importance":"warning","text":"ö"}}"#);
    }

    #[test]
    fn only_ends_are_ends() {
        for state in State::ALL {
            let proto = v1::End { state: state.to_proto().into(), ..v1::End::default() };
            assert_eq!(End::of_proto(proto).map(|end| end.state), state.is_terminal().then_some(state));
        }
    }
}
