// SPDX-License-Identifier: GPL-2.0

//! Moves data from one virtual machine to another, through a ring in memory that they share and over TCP.
//!
//! `run` is started in both of two guests, as root, and prints what that side saw; on the host `demo` and `bench` put
//! the two together. Where the clock of a guest counts instructions (`qemu -icount`), a nanosecond is one of them.

#![forbid(unsafe_code)]

mod machine;
mod results;
mod show;

use clap::{Args, Parser, Subcommand};
use mmapdev_userspace::{size, KIB};
use results::Side;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Moves data between two virtual machines that share a device's memory.
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Be one of the two machines; prints JSON
    Run(Run),
    /// Show what two machines saw of a transfer; fail if the data did not arrive as it was sent
    Demo {
        /// What `run` printed in each
        #[arg(num_args = 2, required = true)]
        files: Vec<PathBuf>,
    },
    /// Show what a transfer cost two machines whose clocks count instructions; fail if the bar is missed
    Bench {
        /// Where the same goes for programs
        #[arg(long)]
        json: PathBuf,
        /// What `run` printed in each
        #[arg(num_args = 2, required = true)]
        files: Vec<PathBuf>,
    },
}

/// What one machine does.
#[derive(Args)]
pub(crate) struct Run {
    /// Which machine this is: 0 sends, 1 receives
    #[arg(long, value_parser = clap::value_parser!(u8).range(..2))]
    side: u8,
    /// How much to send through the ring
    #[arg(long, value_parser = size::parse, default_value = "512M")]
    ring: u64,
    /// How much to send over TCP
    #[arg(long, value_parser = size::parse, default_value = "32M")]
    tcp: u64,
    /// Count instructions: the machine's one CPU is kept from idling, and the rounds of that are taken off
    #[arg(long)]
    count: bool,
    /// Seconds to wait first, until the kernel has finished what it does after booting
    #[arg(long, default_value_t = 0)]
    settle: u64,
}

/// Bytes in a message, and in a call of the socket's.
pub(crate) const MESSAGE: usize = 64 * KIB;

fn both(files: &[PathBuf]) -> io::Result<[Side; 2]> {
    let mut sides = files.iter().map(|file| Side::read(file));
    let mut next = || {
        sides
            .next()
            .unwrap_or_else(|| Err(io::Error::other("two files")))
    };
    Ok([next()?, next()?])
}

fn main() -> ExitCode {
    let outcome = match Options::parse().command {
        Command::Run(options) => machine::run(&options).map(|side| {
            println!("{}", side.to_json());
            true
        }),
        Command::Demo { files } => both(&files).map(|sides| show::demo(&sides)),
        Command::Bench { json, files } => both(&files).and_then(|sides| show::bench(&sides, &json)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mmapdev-vms: {error}");
            ExitCode::from(2)
        }
    }
}
