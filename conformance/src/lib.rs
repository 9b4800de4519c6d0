//! Runs the Beam SDKs' own test suites, unchanged, against a job endpoint, and tells what passes.
//!
//! Nothing here knows Ferrobeam: an endpoint is an address, so that the same command measures any portable runner. A
//! suite is a list of test names and a way to run one ([`suites`]); names map to capabilities ([`capabilities`]) and to
//! the lists of what is expected to pass ([`expected`]). No test is left out: what the SDK itself skips is a skip, all
//! the rest has a verdict.
//!
//! **Failure model.** User code runs in the driver's process (LOOPBACK), so a test can crash, hang or poison its driver.
//! A driver that dies costs the tests that it had in hand; one that hangs in a test is replaced; the next test starts
//! in a fresh one. The server is started once for all tests and must be alive at the end: its death is a failure of
//! its own, whatever the tests said.
//!
//! **Set aside.** pytest with a process pool: it cannot end a test that blocks inside gRPC without losing its report,
//! and says nothing until a file is done. A process for every Python test: importing the SDK takes longer than most
//! tests.

#![allow(clippy::print_stdout, reason = "printing verdicts is what this crate is for")]

pub mod beside;
pub mod cache;
pub mod capabilities;
pub mod clients;
pub mod expansion;
pub mod expected;
mod helper;
pub mod impossible;
mod kills;
mod lanes;
pub mod matrix;
pub mod memory;
pub mod process;
pub mod relay;
pub mod report;
pub mod results;
pub mod run;
pub mod server;
pub mod suites;
pub mod tools;
pub mod torture;
