// SPDX-License-Identifier: GPL-2.0

//! The benchmark: what mapping, touching and reading cost, beside the kernel's own kinds of memory.
//!
//! In a guest whose clock counts instructions (`qemu -icount`) a nanosecond is an instruction, so that the
//! figures are the same in every run; in another guest they are time. `measure` runs in the guest,
//! `report` and `check` on the host over what it printed.

#![forbid(unsafe_code)]

mod bars;
mod measure;
mod results;

use clap::{Parser, Subcommand};
use results::Results;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures mmapdev beside memfd, hugetlb and anonymous memory.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, as root in a guest without the module loaded; prints JSON
    Measure {
        /// What a nanosecond of the guest's clock is: "instructions" or "ns"
        #[arg(long, default_value = "ns")]
        unit: String,
        /// Seconds to wait first, until the kernel has finished what it does after booting
        #[arg(long, default_value_t = 0)]
        settle: u64,
    },
    /// Show results as a table
    Report {
        /// What `measure` printed
        file: PathBuf,
    },
    /// Fail if a bar is missed
    Check {
        /// What `measure` printed
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let outcome = match Options::parse().command {
        Command::Measure { unit, settle } => {
            std::thread::sleep(std::time::Duration::from_secs(settle));
            measure::all(&unit).map(|results| {
                println!("{}", results.to_json());
                true
            })
        }
        Command::Report { file } => Results::read(&file).map(|results| {
            results.lines().iter().for_each(|line| println!("{line}"));
            true
        }),
        Command::Check { file } => Results::read(&file).map(|results| bars::check(&results)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mmapdev-bench: {error}");
            ExitCode::from(2)
        }
    }
}
