// SPDX-License-Identifier: GPL-2.0

//! Gives emulators the memory that their guests share, and each the doorbells of the others.

#![forbid(unsafe_code)]

use clap::Parser;
use mmapdev_userspace::ivshmem_server::Server;
use mmapdev_userspace::size;
use std::path::PathBuf;
use std::process::ExitCode;

/// Serves the devices "ivshmem-doorbell" of any number of QEMUs: one memory for all, and interrupts from each to each.
///
/// QEMU's side of it: -chardev socket,id=peers,path=SOCKET -device ivshmem-doorbell,chardev=peers,vectors=1
///
/// Runs until it is ended. The memory goes with the last that has it.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Where to listen; must not be there yet
    #[arg(long)]
    socket: PathBuf,
    /// Bytes of memory, a power of two, such as 64M
    #[arg(long, value_parser = memory, default_value = "64M")]
    size: u64,
    /// How many different interrupts each guest can be given
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64), default_value_t = 1)]
    vectors: u16,
}

/// As the memory of a PCI device can be.
fn memory(text: &str) -> Result<u64, String> {
    let size = size::parse(text)?;
    if !size.is_power_of_two() || size < 4096 {
        return Err("the memory of a device is a power of two, and a page at least".into());
    }
    Ok(size)
}

fn main() -> ExitCode {
    let options = Options::parse();
    let server = Server::bind(&options.socket, options.size, options.vectors.into());
    let outcome = server.and_then(|mut server| loop {
        server.step()?;
    });
    // The loop ends with an error only.
    let Err::<(), _>(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    let socket = options.socket.display();
    eprintln!("mmapdev-ivshmem-server: {socket}: {error}");
    ExitCode::FAILURE
}
