//! A fused stage without keyed state: one operator per worker that hands bundles to the executor and sends on what they
//! produced.
//!
//! Work is taken in order of epoch. What waits, runs, or is not yet sent holds the operator's capabilities at its
//! moment, so the watermark and the epoch of every output are exactly those of what may still come.
//!
//! Residuals of splittable elements come back to the input, held at the watermark that the SDK said. They belong to the
//! epoch that the input has reached by then: a source that never ends must not keep an epoch open. A bundle that goes on
//! for long is asked to hand back what is left: of an unbounded source everything, so that results flow and others get
//! their turn, of a bounded one a half, where another slot idles, and of ordinary elements all that wait behind a slow
//! one. The last two run beside the bundle that handed them back.
//!
//! The parts: [`operator`] is the stage in a dataflow, [`pace`] says how much a bundle takes, and [`pauses`] keeps
//! residuals that asked for a pause.

mod operator;
mod pace;
mod pauses;

pub(crate) use operator::build;
