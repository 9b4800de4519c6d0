//! Terms of the Beam model that several layers speak: how state is addressed, which time a timer goes by, how a side input
//! is read. Knows none of those layers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a cell is addressed (`StandardUserStateTypes` of the pipeline proto).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateKind {
    /// `beam:user_state:bag:v1`.
    Bag,
    /// `beam:user_state:multimap:v1`.
    Multimap,
    /// `beam:user_state:ordered_list:v1`.
    OrderedList,
}

/// The time that a timer goes by (`TimeDomain` of the pipeline proto).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TimeDomain {
    /// The watermark of the stage's input.
    EventTime,
    /// The clock.
    ProcessingTime,
}

/// How a side input is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Access {
    /// All values of a window (`beam:side_input:iterable:v1`).
    Iterable,
    /// The values of a key, the keys, or all entries of a window (`beam:side_input:multimap:v1`).
    Multimap,
}

// These words stand in checkpoints: state is read only where it was written under the same.

impl fmt::Display for StateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StateKind::Bag => "bag",
            StateKind::Multimap => "multimap",
            StateKind::OrderedList => "ordered list",
        })
    }
}

impl fmt::Display for TimeDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TimeDomain::EventTime => "event time",
            TimeDomain::ProcessingTime => "processing time",
        })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Iterable => "iterable",
            Access::Multimap => "multimap",
        })
    }
}
