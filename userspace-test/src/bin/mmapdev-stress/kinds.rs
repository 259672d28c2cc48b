// SPDX-License-Identifier: GPL-2.0

//! The kinds of devices that everything is done to. A further backing is one more row.

use mmapdev_userspace::abi;
use mmapdev_userspace::control;
use mmapdev_userspace::{HUGE_PAGE, KIB, PAGE};
use std::io;

/// A kind of device.
pub(crate) struct Kind {
    /// What a report calls it.
    pub(crate) name: &'static str,
    /// Bytes in its largest folios.
    pub(crate) folio: usize,
    huge: u32,
}

/// All kinds that there are.
pub(crate) const KINDS: [Kind; 3] = [
    Kind {
        name: "2 MiB folios",
        folio: HUGE_PAGE,
        huge: abi::HUGE_ALWAYS,
    },
    Kind {
        name: "64 KiB folios",
        folio: 64 * KIB,
        huge: abi::HUGE_ALWAYS,
    },
    Kind {
        name: "4 KiB pages",
        folio: PAGE,
        huge: abi::HUGE_NEVER,
    },
];

impl Kind {
    /// The plan of a device of this kind.
    pub(crate) fn plan(&self, name: &str, size: usize) -> io::Result<abi::Create> {
        Ok(abi::Create {
            huge: self.huge,
            largest_folio: self.folio as u32,
            ..control::memory(name, size as u64)?
        })
    }
}
