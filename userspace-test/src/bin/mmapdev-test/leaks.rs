// SPDX-License-Identifier: GPL-2.0

//! What the kernel finds to be leaked, after everything else: allocations that nothing points at any more.
//!
//! C file: `mm/kmemleak.c`. Reference: <https://docs.kernel.org/dev-tools/kmemleak.html>

use crate::Test;
use mmapdev_userspace::module;
use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";

pub(crate) const TESTS: &[Test] = &[Test::without_module(
    "nothing_that_the_tests_have_made_the_kernel_allocate_is_lost",
    || {
        assert!(!module::is_loaded());
        // What is younger than five seconds is not looked at, as its pointer may still be in a register; and
        // what is on its way between two places may be missed by one scan.
        for _ in 0..2 {
            thread::sleep(Duration::from_secs(6));
            fs::write(KMEMLEAK, "scan")?;
        }
        let lost = fs::read_to_string(KMEMLEAK)?;
        assert!(lost.is_empty(), "{lost}");
        Ok(())
    },
)];

/// Forgets what the kernel has lost by itself, while it booted.
pub(crate) fn begin() -> io::Result<()> {
    fs::write(KMEMLEAK, "scan")?;
    fs::write(KMEMLEAK, "clear")
}
