//! A stage with keyed state or timers: one operator per worker, which owns the keys that are routed to it.
//!
//! The operator hands the executor one bundle at a time: either elements, or timers that are due. A bundle reads the
//! state as it was when the bundle began, and what it has itself written since; all that it does (writes, timers it set
//! or cleared, timers that fired in it) is committed in one batch once it has succeeded, and its output is sent on with
//! that. So a bundle that failed, and runs again, finds what it found the first time.
//!
//! Order. The watermark that timers go by is the least of the input's frontier and of the moments of input that still
//! waits, so an element that came before the watermark moved on is processed before the timers of that move. Of each key
//! only the timers with its least time fire in one bundle: what they set may come before what is due next.
//!
//! Epochs. Nothing that is due, by the watermark or by the clock, is left undone when the operator steps from one epoch
//! to the next. What is not due yet, pending timers and buffered elements, moves on with it and holds the watermark.
//!
//! Windows. An element of a window that has expired is dropped. A window's state is kept until the watermark has passed
//! its end and the allowed lateness, and every timer that was due by then has fired; processing-time timers that are
//! still pending are then dropped with it, except at the end of input, where the operator waits for them.

mod admit;
mod changes;
mod form;
mod operator;

#[cfg(test)]
mod proof;

pub(crate) use form::StateForm;
pub(crate) use operator::{Parts, build};
