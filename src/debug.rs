// SPDX-License-Identifier: GPL-2.0

//! What a device counts, for people: `/sys/kernel/debug/mmapdev/<node>`.
//!
//! A line for each field of `struct mmapdev_counters`, as it was when the file was opened: its name, a space, its
//! value. Debugfs is for root, and nothing that a program should rely on: that is `MMAPDEV_IOC_COUNTERS`.

use crate::abstractions::debugfs::Show;
use crate::counters::Counters;
use kernel::fmt::{self, Write};

impl Show for Counters {
    type Module = crate::LocalModule;

    fn show(&self, output: &mut dyn Write) -> fmt::Result {
        for (name, value) in self.read().fields() {
            writeln!(output, "{name} {value}")?;
        }
        Ok(())
    }
}
