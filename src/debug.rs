// SPDX-License-Identifier: GPL-2.0

//! What a device counts, for people: `/sys/kernel/debug/mmapdev/<name>/counters`.
//!
//! A line for each field of `struct mmapdev_counters`: its name, a space, its value. Debugfs is for root, and
//! nothing that a program should rely on: that is `MMAPDEV_IOC_COUNTERS`.

use crate::counters::Counters;
use crate::name::Name;
use kernel::debugfs::{Dir, File};
use kernel::fmt;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;

/// The folder of all devices.
pub(crate) struct DebugFolder(Dir);

/// The folder of one device, which goes when this is dropped.
pub(crate) struct DebugEntry {
    _counters: Pin<KBox<File<Arc<Counters>>>>,
    _folder: Dir,
}

impl DebugFolder {
    /// Makes the folder. May sleep. Where debugfs cannot be had, there is none.
    pub(crate) fn new() -> Self {
        Self(Dir::new(c"mmapdev"))
    }

    /// Makes the folder of a device. May sleep. Fails with `ENOMEM`.
    pub(crate) fn add(&self, name: &Name, counters: Arc<Counters>) -> Result<DebugEntry> {
        let folder = self
            .0
            .subdir(&CString::try_from_fmt(fmt!("{}", name.as_str()))?);
        let file = folder.read_callback_file(c"counters", counters, &print);
        Ok(DebugEntry {
            _counters: KBox::pin_init(file, GFP_KERNEL)?,
            _folder: folder,
        })
    }
}

#[allow(clippy::borrowed_box)]
fn print(counters: &Arc<Counters>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (name, value) in counters.read().fields() {
        writeln!(f, "{name} {value}")?;
    }
    Ok(())
}
