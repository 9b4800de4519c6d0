//! `conformance`: the SDKs' own suites, and checks of a runner's manners, against a job endpoint.

#![allow(clippy::print_stdout, reason = "printing verdicts is what this program is for")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ferrobeam_conformance::{beside, clients, matrix, memory, run, torture};

#[derive(Parser)]
#[command(about = "Runs the Beam SDKs' own suites, and checks of a runner's manners, against a job endpoint")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the SDKs' suites and print a verdict a test, a table of capabilities, and counts
    Run(run::Options),
    /// Run the SDKs' suites under each variant of the service, and tell which tests differ
    Variants(beside::Variants),
    /// Run the SDKs' suites several times, and tell which tests differ
    Repeat(beside::Repeat),
    /// Print Beam's capability matrix, with what passes here and on other runners
    Capabilities(matrix::Options),
    /// Submit small jobs from several clients at once, and see what the server keeps
    Clients(clients::Options),
    /// Group more than fits the runner's memory, and see how much it takes
    Memory(memory::Options),
    /// Kill and pause the processes of jobs at random, and compare what they come to record by record
    Torture(torture::Options),
}

fn main() -> ExitCode {
    let well = match Arguments::parse().command {
        Command::Run(options) => run::run(&options).map(|report| {
            println!("{}", report.end());
            report.complaints.is_empty()
        }),
        Command::Variants(options) => beside::variants(&options),
        Command::Repeat(options) => beside::repeat(&options),
        Command::Capabilities(options) => matrix::run(&options),
        Command::Clients(options) => clients::run(&options),
        Command::Memory(options) => memory::run(&options),
        Command::Torture(options) => torture::run(&options),
    };
    match well {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}
