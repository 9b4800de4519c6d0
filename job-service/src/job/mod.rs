//! Jobs as the service keeps them: identity, lifecycle, log of events, metrics.

mod lifecycle;
mod log;
mod record;
mod registry;
mod waiting;

pub use lifecycle::State;
pub use log::{Event, EventLog, Importance, LogLimits, Message, Page};
pub use record::{Job, JobMetrics, Measured, Restored, Submission};
pub use registry::{Jobs, Preparation, Retention, RunError};
pub use waiting::Waiting;

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The id that somebody named. It need not exist.
            pub fn named(text: impl Into<String>) -> $name {
                $name(text.into())
            }

            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

id! {
    /// Names a job that was run.
    JobId
}
id! {
    /// Names a pipeline that was prepared, until it runs. Not a job id: Python's client puts a deadline on streams that
    /// it could open with one, and none on those that it opens with the job's id.
    PreparationId
}

/// One attempt to run a job. What belongs to an earlier one can neither join nor report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// The attempt after this one.
    pub const fn next(self) -> Generation {
        Generation(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Random text that nobody guesses: 244 bits.
pub fn secret() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

/// Whether two secrets are equal, in a time that does not depend on where they differ.
pub fn same_secret(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | std::hint::black_box(a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ_and_compare() {
        let (a, b) = (secret(), secret());
        assert_ne!(a, b);
        assert!(same_secret(a.as_bytes(), a.as_bytes()));
        assert!(!same_secret(a.as_bytes(), b.as_bytes()));
        assert!(!same_secret(a.as_bytes(), &a.as_bytes()[1..]));
        assert!(!same_secret(a.as_bytes(), b""));
    }
}
