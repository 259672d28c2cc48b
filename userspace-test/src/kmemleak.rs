// SPDX-License-Identifier: GPL-2.0

//! What the kernel finds to be leaked: allocations that nothing points at any more. Pages are not among them.
//!
//! C file: `mm/kmemleak.c`. Reference: <https://docs.kernel.org/dev-tools/kmemleak.html>

use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

const FILE: &str = "/sys/kernel/debug/kmemleak";

/// Returns whether the kernel looks for leaks.
pub fn is_there() -> bool {
    Path::new(FILE).exists()
}

/// Returns what has been lost since the kernel booted, in the kernel's words; nothing, if nothing is. Fails if the kernel has
/// switched its search off, as it does when it runs out of memory for it.
///
/// The last few objects of a kind that were allocated pass for referenced: what a CPU has by it of free ones still has their
/// addresses. So this is asked after much else has come and gone.
pub fn lost() -> io::Result<String> {
    // What is younger than five seconds is not looked at, as its pointer may still be in a register; and
    // what has changed since the scan before counts as not lost.
    thread::sleep(Duration::from_secs(6));
    for _ in 0..2 {
        fs::write(FILE, "scan")?;
    }
    fs::read_to_string(FILE)
}
