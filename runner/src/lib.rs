//! From a submitted Beam pipeline to a running Timely dataflow.
//!
//! The crate turns a pipeline (a value) into a [`plan`] (a value) and runs that plan as a [`dataflow`]. User code is
//! reached through one trait, [`executor::StageExecutor`]; nothing here knows gRPC, sockets that serve clients, or jobs.
//!
//! What is absent, on purpose: only [`dataflow`] and [`time`] import timely; [`windowing`], [`metrics`] and [`plan`] do
//! no IO; no user element is ever decoded further than its key and windows.

pub mod checkpoint;
pub mod clock;
pub mod dataflow;
pub mod element;
pub mod executor;
pub mod grouping;
pub mod kafka;
pub mod leaving;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod pipeline;
pub mod plan;
pub mod row;
pub mod side_input;
pub mod state;
pub mod time;
pub mod windowing;
