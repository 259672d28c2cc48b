// SPDX-License-Identifier: GPL-2.0

//! The benchmark: what mapping, touching and reading cost, beside the kernel's own kinds of memory.
//!
//! In a guest whose clock counts instructions (`qemu -icount`) a nanosecond is an instruction, so that the
//! figures are nearly the same in every run; in another guest they are time. `measure` runs in the guest;
//! on the host `collect` puts what it printed together, and `report` and `check` look at that.

#![forbid(unsafe_code)]

mod bars;
mod measure;
mod results;
mod stored;
mod whole;

use clap::{Parser, Subcommand};
use results::{Collection, Results};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures mmapdev beside memfd, hugetlb, device-dax and anonymous memory.
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
    /// Put what several boots measured into one file, with what they ran in; prints JSON
    Collect {
        /// What the emulator says of its version
        #[arg(long)]
        emulator: String,
        /// What `measure` printed, and behind it the file that has the emulator's command line
        #[arg(required = true, num_args = 2..)]
        files: Vec<PathBuf>,
    },
    /// Show what was collected as tables
    Report {
        /// What `collect` printed
        file: PathBuf,
    },
    /// Fail if a bar is missed
    Check {
        /// What `collect` printed
        file: PathBuf,
    },
}

fn collect(emulator: &str, files: &[PathBuf]) -> io::Result<Collection> {
    let boots = files.chunks(2).map(|pair| match pair {
        [results, command] => Ok(Results {
            emulator: emulator.to_string(),
            command: fs::read_to_string(command)?.trim().to_string(),
            ..Results::read(results)?
        }),
        _ => Err(io::Error::other(
            "each file of results needs its command line",
        )),
    });
    Ok(Collection {
        boots: boots.collect::<io::Result<_>>()?,
    })
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
        Command::Collect { emulator, files } => collect(&emulator, &files).map(|collection| {
            println!("{}", collection.to_json());
            true
        }),
        Command::Report { file } => Collection::read(&file).map(|collection| {
            let tables = collection.boots.iter().map(|boot| boot.lines().join("\n"));
            println!("{}", tables.collect::<Vec<_>>().join("\n\n"));
            true
        }),
        Command::Check { file } => Collection::read(&file).and_then(|collection| {
            let counted = collection.in_unit("instructions");
            let counted =
                counted.ok_or_else(|| io::Error::other("no boot counted instructions"))?;
            Ok(bars::check(counted))
        }),
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
