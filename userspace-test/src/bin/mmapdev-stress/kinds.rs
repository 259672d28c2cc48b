// SPDX-License-Identifier: GPL-2.0

//! The kinds of devices that everything is done to.

use mmapdev_userspace::abi;
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::{HUGE_PAGE, KIB, PAGE};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

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
    /// In a file in this folder, from this offset on.
    File(&'static str, usize),
    /// In memory of a PCI device's own.
    Bar,
}

/// All kinds that there are.
pub(crate) const KINDS: [Kind; 6] = [
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
        // At the border of no large folio.
        backing: Backing::File("/mnt/disk", 5 * PAGE),
    },
    Kind {
        // Which has no direct I/O.
        name: "a tmpfs",
        folio: PAGE,
        huge: abi::HUGE_ALWAYS,
        backing: Backing::File("/dev/shm", 0),
    },
    Kind {
        name: "a PCI BAR",
        folio: PAGE,
        huge: abi::HUGE_ALWAYS,
        backing: Backing::Bar,
    },
];

/// The kinds that anybody can make devices of.
pub(crate) fn that_can_be_made() -> &'static [Kind] {
    let is_made = |kind: &&Kind| kind.backing != Backing::Bar;
    &KINDS[..KINDS.iter().take_while(is_made).count()]
}

/// The file of a device that is stored in one.
pub(crate) struct Stored {
    file: File,
    /// Bytes before those of the device.
    before: usize,
}

impl Stored {
    /// Sets how many pages the device has by what there is of the file.
    pub(crate) fn set_len(&self, pages: usize) -> io::Result<()> {
        self.file.set_len((self.before + pages * PAGE) as u64)
    }

    /// What the file has of pages.
    pub(crate) fn read(&self, first: usize, pages: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0xAA; pages * PAGE];
        let place = self.before + first * PAGE;
        self.file.read_exact_at(&mut bytes, place as u64)?;
        Ok(bytes)
    }

    /// Bytes that nobody has to do with.
    fn bytes_before(&self) -> Vec<u8> {
        vec![0x5A; self.before]
    }

    /// Looks whether they are as they were.
    pub(crate) fn check_before(&self) -> io::Result<()> {
        let mut bytes = vec![0; self.before];
        self.file.read_exact_at(&mut bytes, 0)?;
        if bytes == self.bytes_before() {
            return Ok(());
        }
        Err(io::Error::other(
            "what the file has before the bytes of the device has changed",
        ))
    }
}

impl Kind {
    /// The path of the file of a device, where it is stored in one.
    fn path_of(&self, name: &str) -> Option<PathBuf> {
        match self.backing {
            Backing::File(folder, _) => Some(Path::new(folder).join(name)),
            Backing::Memory | Backing::Bar => None,
        }
    }

    /// The file of a device that there is, if it is stored in one.
    pub(crate) fn stored(&self, name: &str) -> io::Result<Option<Stored>> {
        let (Some(path), Backing::File(_, before)) = (self.path_of(name), self.backing) else {
            return Ok(None);
        };
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Some(Stored { file, before }))
    }

    /// How often a device is resized in one act, which holds up all who are at the pages that go: a write-back with each, where
    /// there is a file, makes it long.
    pub(crate) fn resizes(&self) -> usize {
        match self.backing {
            Backing::File(..) => 2,
            Backing::Memory | Backing::Bar => 8,
        }
    }

    /// Makes a device of this kind, all zeros; where it is a BAR, the driver has done so.
    pub(crate) fn create(&self, control: &Control, name: &str, size: usize) -> io::Result<()> {
        if self.backing == Backing::Bar {
            return Ok(());
        }
        if let Some(path) = self.path_of(name) {
            File::create(path)?;
        }
        match self.stored(name)? {
            None => control.create(self.plan(name, size)?)?,
            Some(stored) => {
                stored.file.write_all_at(&stored.bytes_before(), 0)?;
                stored.set_len(size / PAGE)?;
                let before = stored.before as u64;
                control.create(control::file(name, &stored.file, before, 0)?)?
            }
        };
        Ok(())
    }

    /// Ends a device of this kind, and its file.
    pub(crate) fn destroy(&self, control: &Control, name: &str) -> io::Result<()> {
        if self.backing == Backing::Bar {
            return Ok(());
        }
        control.destroy(name)?;
        self.remove_file(name)
    }

    /// Ends the file of a device that is no more, if it was stored in one.
    pub(crate) fn remove_file(&self, name: &str) -> io::Result<()> {
        self.path_of(name).map_or(Ok(()), fs::remove_file)
    }

    /// The plan of a device of this kind, which is one of memory.
    fn plan(&self, name: &str, size: usize) -> io::Result<abi::Create> {
        Ok(abi::Create {
            huge: self.huge,
            largest_folio: self.folio as u32,
            ..control::memory(name, size as u64)?
        })
    }
}
