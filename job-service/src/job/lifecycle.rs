//! The states of a job and the one table of the moves between them.

use std::fmt;

use ferrobeam_proto::job::job_state;

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Prepared, not asked to run yet.
    Stopped,
    /// Asked to run: waiting for its turn or for its processes.
    Starting,
    /// Its dataflow runs.
    Running,
    /// Asked to stop at once; its environments are being stopped.
    Cancelling,
    /// Asked to take no more input and to finish what it has.
    Draining,
    /// Finished all of its input.
    Done,
    /// Could not go on.
    Failed,
    /// Stopped before its end, as asked.
    Cancelled,
    /// Finished after being asked to drain.
    Drained,
}

impl State {
    /// Every state.
    pub const ALL: [State; 9] = [
        State::Stopped,
        State::Starting,
        State::Running,
        State::Cancelling,
        State::Draining,
        State::Done,
        State::Failed,
        State::Cancelled,
        State::Drained,
    ];

    /// The states that may follow this one.
    pub const fn next(self) -> &'static [State] {
        match self {
            State::Stopped => &[State::Starting],
            // A job may be asked to drain before it runs: its sources then end as soon as they start.
            State::Starting => &[State::Running, State::Failed, State::Cancelling, State::Draining],
            State::Running => &[State::Done, State::Failed, State::Cancelling, State::Draining],
            // A job that fails while it is being cancelled was cancelled: that is what its owner asked for.
            State::Cancelling => &[State::Cancelled],
            State::Draining => &[State::Drained, State::Failed, State::Cancelling],
            State::Done | State::Failed | State::Cancelled | State::Drained => &[],
        }
    }

    /// Whether `to` may follow this state.
    pub fn may_become(self, to: State) -> bool {
        self.next().contains(&to)
    }

    /// Whether nothing follows this state.
    pub const fn is_terminal(self) -> bool {
        self.next().is_empty()
    }

    /// The protocol's name for it.
    pub const fn to_proto(self) -> job_state::Enum {
        match self {
            State::Stopped => job_state::Enum::Stopped,
            State::Starting => job_state::Enum::Starting,
            State::Running => job_state::Enum::Running,
            State::Cancelling => job_state::Enum::Cancelling,
            State::Draining => job_state::Enum::Draining,
            State::Done => job_state::Enum::Done,
            State::Failed => job_state::Enum::Failed,
            State::Cancelled => job_state::Enum::Cancelled,
            State::Drained => job_state::Enum::Drained,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_proto().as_str_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_states_are_those_of_the_protocol() {
        let terminal: Vec<String> = State::ALL.iter().filter(|s| s.is_terminal()).map(State::to_string).collect();
        assert_eq!(terminal, ["DONE", "FAILED", "CANCELLED", "DRAINED"]);
    }

    #[test]
    fn every_state_is_reached_from_stopped_and_reaches_an_end() {
        let mut reached = vec![State::Stopped];
        let mut at = 0;
        while let Some(state) = reached.get(at).copied() {
            for next in state.next() {
                if !reached.contains(next) {
                    reached.push(*next);
                }
            }
            at += 1;
        }
        assert_eq!(reached.len(), State::ALL.len());
        for state in State::ALL {
            let mut frontier = vec![state];
            for _ in 0..State::ALL.len() {
                let next: Vec<State> = frontier.iter().flat_map(|s| s.next()).copied().collect();
                frontier.extend(next);
            }
            assert!(frontier.iter().any(|s| s.is_terminal()), "{state} never ends");
        }
    }

    #[test]
    fn no_state_is_entered_twice() {
        // Streams of states would not end, and a job would run again, if a path led back.
        fn walk(state: State, path: &mut Vec<State>) {
            assert!(!path.contains(&state), "{path:?} leads back to {state}");
            path.push(state);
            for next in state.next() {
                walk(*next, path);
            }
            path.pop();
        }
        walk(State::Stopped, &mut Vec::new());
    }
}
