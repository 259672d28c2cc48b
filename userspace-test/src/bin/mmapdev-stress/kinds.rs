// SPDX-License-Identifier: GPL-2.0

//! The kinds of devices that everything is done to.

use mmapdev_userspace::abi;
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::{HUGE_PAGE, KIB, PAGE};
use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;

/// A kind of device.
pub(crate) struct Kind {
    /// What a report calls it.
    pub(crate) name: &'static str,
    /// Bytes in its largest folios.
    pub(crate) folio: usize,
    huge: u32,
    /// Where its bytes are.
    pub(crate) backing: Backing,
}

/// Where the bytes of a device are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    /// In memory alone.
    Memory,
    /// In a file on the disk.
    File,
    /// In memory of a PCI device's own.
    Bar,
}

/// All kinds that there are.
pub(crate) const KINDS: [Kind; 5] = [
    Kind {
        name: "2 MiB folios",
        folio: HUGE_PAGE,
        huge: abi::HUGE_ALWAYS,
        backing: Backing::Memory,
    },
    Kind {
        name: "64 KiB folios",
        folio: 64 * KIB,
        huge: abi::HUGE_ALWAYS,
        backing: Backing::Memory,
    },
    Kind {
        name: "4 KiB pages",
        folio: PAGE,
        huge: abi::HUGE_NEVER,
        backing: Backing::Memory,
    },
    Kind {
        name: "a file",
        folio: PAGE,
        huge: abi::HUGE_ALWAYS,
        backing: Backing::File,
    },
    Kind {
        name: "a PCI BAR",
        folio: PAGE,
        huge: abi::HUGE_ALWAYS,
        backing: Backing::Bar,
    },
];

/// The kinds whose bytes are in memory alone.
pub(crate) fn of_memory() -> &'static [Kind] {
    let is_of_memory = |kind: &&Kind| kind.backing == Backing::Memory;
    &KINDS[..KINDS.iter().take_while(is_of_memory).count()]
}

/// The file of a device that is stored in one.
pub(crate) fn file_of(name: &str) -> PathBuf {
    PathBuf::from(format!("/mnt/disk/{name}"))
}

impl Kind {
    /// Makes a device of this kind, all zeros; where it is a BAR, the driver has done so.
    pub(crate) fn create(&self, control: &Control, name: &str, size: usize) -> io::Result<()> {
        match self.backing {
            Backing::Memory => {
                control.create(self.plan(name, size)?)?;
                return Ok(());
            }
            Backing::Bar => return Ok(()),
            Backing::File => {}
        }
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(true);
        let file = options.open(file_of(name))?;
        file.set_len(size as u64)?;
        control.create(control::file(name, &file, 0, 0)?)?;
        Ok(())
    }

    /// The plan of a device of this kind, which is one of memory.
    pub(crate) fn plan(&self, name: &str, size: usize) -> io::Result<abi::Create> {
        Ok(abi::Create {
            huge: self.huge,
            largest_folio: self.folio as u32,
            ..control::memory(name, size as u64)?
        })
    }
}
