// SPDX-License-Identifier: GPL-2.0

//! Gives emulators the memory that their guests share, and each the doorbells of the others.

#![forbid(unsafe_code)]

use clap::Parser;
use mmapdev_userspace::ivshmem_server::Server;
use mmapdev_userspace::size;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Serves the devices "ivshmem-doorbell" of any number of QEMUs: one memory for all, and interrupts from each to each.
///
/// QEMU's side of it: -chardev socket,id=peers,path=SOCKET -device ivshmem-doorbell,chardev=peers,vectors=1
///
/// Runs until it is ended, or with --once until nobody is connected any more. The memory goes with the last that has it.
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
    /// End when the last of those that came has gone
    #[arg(long)]
    once: bool,
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
    match serve(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let socket = options.socket.display();
            eprintln!("mmapdev-ivshmem-server: {socket}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &Options) -> io::Result<()> {
    let mut server = Server::bind(&options.socket, options.size, options.vectors.into())?;
    let mut had_some = false;
    loop {
        let has_some = server.step()? > 0;
        if let Some(error) = server.take_refusal() {
            eprintln!("mmapdev-ivshmem-server: a client was refused: {error}");
        }
        if options.once && had_some && !has_some {
            return Ok(());
        }
        had_some |= has_some;
    }
}
