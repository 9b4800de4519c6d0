//! Grouping by key and window, in memory and then on disk.
//!
//! A [`GroupBuffer`] keeps, for every key and window, the concatenated encoded values, their number and the span of
//! their timestamps. While the budget allows it everything is in memory: a hash table over entries of fixed size, whose
//! bytes are in an arena, so that a group of one small value costs about a hundred bytes beside it. When the budget
//! refuses to grow, the groups are written as one run sorted by (hash of the key, key, window), and the buffer starts
//! again empty.
//!
//! At the end [`Groups`] gives each key exactly once with all its windows: straight from memory if nothing was spilled,
//! or by merging the runs, at most [`FAN_IN`] at a time. What was in memory at the end is spilled too in that case: it
//! costs one more sequential write, and frees the budget for those who take the groups.
//!
//! A group that is large is never loaded: its [`Values`] name parts of the run files, which are unlinked and stay open
//! as long as someone can read them. Values are stored in *frames* (a length, a count, whole values); a page is made of
//! whole frames, so that it costs no parsing. Frames hold at most [`FRAME`] bytes unless one value alone is longer, which
//! is also how exactly a page meets its limit. The alternative, a length with each value, would cost a byte and a copy
//! loop for every value to make pages exact, which nobody needs.
//!
//! Failures: an error of a file ends the grouping; nothing was given out before, or what was given out stays readable.

mod arena;
mod buffer;
mod continuation;
mod groups;
mod run;
mod stored;
mod table;
mod values;

#[cfg(test)]
mod tests;

pub use buffer::GroupBuffer;
pub use groups::{Groups, KeyGroup, WindowGroup};
pub use run::FAN_IN;
pub use stored::StoredIterables;
pub use values::{Cursor, Values};

pub(crate) use buffer::Frozen;
pub(crate) use continuation::Continuations;
pub(crate) use run::{Head, Run, RunReader};
pub(crate) use stored::{Kept, NewIterable, References};
pub(crate) use table::{Table, hash};

/// Most bytes of values in a frame, unless it holds a single longer value.
pub const FRAME: usize = 32 << 10;
