//! The project's chores: `cargo xtask demo` shows a pipeline running, `cargo xtask test` tests everything, `cargo xtask
//! ship` makes the program that is handed out.
//!
//! All install what they need and say what they do as they do it. Whatever they download or compile besides the
//! workspace goes to the cache folder (see `ferrobeam_conformance::cache`), so that the second time is quick.

#![allow(clippy::print_stdout, reason = "a chore tells what it does")]

mod cargo_tests;
mod checks;
mod demo;
mod machine;
mod ship;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Shows Ferrobeam at work, and tests it")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what a first run needs, build Ferrobeam, and run Beam's own Python wordcount on it
    Demo,
    /// Build Ferrobeam and put it into target/ship, stripped, with its symbols in a file beside it
    Ship,
    /// Check formatting and lints, run all tests, then the SDKs' conformance suites
    Test(checks::Options),
}

fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Command::Demo => demo::run().map(|()| true),
        Command::Ship => ship::run().map(|()| true),
        Command::Test(options) => checks::run(&options),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
