// SPDX-License-Identifier: GPL-2.0

//! The node that makes and ends devices.

use crate::device::{self, Device};
use crate::{abi, abi::Name, name};
use rustix::fs::{self, Mode, OFlags};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The node.
pub const PATH: &str = "/dev/mmapdev-control";

/// The node, open.
#[derive(Debug)]
pub struct Control(OwnedFd);

/// Returns the node of the device of a name.
pub fn node(name: &str) -> PathBuf {
    let separator = name::separator(name.as_bytes());
    Path::new("/dev").join(format!("mmapdev{separator}{name}"))
}

/// Returns the name of the device that a person means by `word`: its name, or the path of its node.
///
/// Fails with a sentence for that person where no device can have it, and says nothing of whether one has.
pub fn name_of(word: &OsStr) -> Result<String, String> {
    if word.as_bytes().contains(&b'/') {
        // A link to the node, or a path from where the caller is, will do as well.
        let path = std::fs::canonicalize(word).unwrap_or_else(|_| word.into());
        let name = path.file_name().and_then(OsStr::to_str);
        return name
            .and_then(|node| node.strip_prefix("mmapdev"))
            .map(|rest| rest.strip_prefix('-').unwrap_or(rest))
            .filter(|name| node(name) == path && is_name(name.as_bytes()))
            .map(str::to_string)
            .ok_or_else(|| {
                format!("{word:?} is no device of the module: give its name, /dev/mmapdev0 or /dev/mmapdev-NAME")
            });
    }
    match word.to_str() {
        Some(name) if is_name(name.as_bytes()) => Ok(name.to_string()),
        _ => Err(format!(
            "{word:?} is no name: 1 to 63 of the characters A-Z a-z 0-9 . _ - (and : in those of PCI devices) are"
        )),
    }
}

/// Returns the name of a device that is to be made, as [`name_of`]: what the module itself names is nobody's choice.
pub fn new_name_of(word: &OsStr) -> Result<String, String> {
    let name = name_of(word)?;
    let refusal = Name::new(name.as_bytes()).map(|field| name::Name::check(&field).err());
    match refusal {
        Some(Some(name::Refusal::Invalid)) => Err(format!(
            "{word:?} is no name to choose: those with a colon are the PCI devices'; A-Z a-z 0-9 . _ - are what others have"
        )),
        _ => Ok(name),
    }
}

/// Returns whether this is what the module takes for a name, of a device or of the control node.
fn is_name(bytes: &[u8]) -> bool {
    let refusal = Name::new(bytes).map(|field| name::Name::of_any(&field).err());
    matches!(refusal, Some(None | Some(name::Refusal::Taken)))
}

/// Returns a name field, whatever the module says to what is in it.
///
/// Fails with `ENAMETOOLONG` where it does not fit.
pub fn name_field(name: &[u8]) -> io::Result<Name> {
    Name::new(name).ok_or_else(|| io::Error::from_raw_os_error(libc::ENAMETOOLONG))
}

impl Control {
    /// Opens the node.
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        Ok(Self(fs::open(PATH, flags, Mode::empty())?))
    }

    /// Makes a device as the structure says, whose size need not be filled in, and returns its id.
    pub fn create(&self, plan: abi::Create) -> io::Result<u64> {
        let mut create = abi::Create {
            size: size_of::<abi::Create>() as u32,
            ..plan
        };
        device::request(self.as_fd(), abi::IOC_CREATE, &mut create)?;
        Ok(create.id)
    }

    /// Makes a device of memory of this size and opens it.
    pub fn create_and_open(&self, name: &str, size: u64) -> io::Result<Device> {
        self.create(memory(name, size)?)?;
        Device::open_with(node(name), OFlags::RDWR)
    }

    /// Ends a device.
    pub fn destroy(&self, name: &str) -> io::Result<()> {
        device::request(self.as_fd(), abi::IOC_DESTROY, &mut destroy(name)?)
    }

    /// Changes the size of a device.
    pub fn resize(&self, name: &str, size: u64) -> io::Result<()> {
        device::request(self.as_fd(), abi::IOC_RESIZE, &mut resize(name, size)?)
    }

    /// Gives back the memory of a range of a device.
    pub fn punch(&self, name: &str, offset: u64, length: u64) -> io::Result<()> {
        let mut punch = punch(name, offset, length)?;
        device::request(self.as_fd(), abi::IOC_PUNCH, &mut punch)
    }

    /// Asks what a device is.
    pub fn info(&self, name: &str) -> io::Result<abi::Info> {
        let mut info = abi::Info {
            name: name_field(name.as_bytes())?,
            ..device::empty_info()
        };
        device::request(self.as_fd(), abi::IOC_INFO, &mut info)?;
        Ok(info)
    }

    /// Asks what the device with the least id above `id` is; `None` where there is none.
    pub fn next(&self, id: u64) -> io::Result<Option<abi::Info>> {
        let mut info = abi::Info {
            id,
            ..device::empty_info()
        };
        match device::request(self.as_fd(), abi::IOC_NEXT, &mut info) {
            Ok(()) => Ok(Some(info)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for all devices.
    pub fn list(&self) -> io::Result<Vec<abi::Info>> {
        let mut all = Vec::new();
        let mut id = 0;
        while let Some(info) = self.next(id)? {
            id = info.id;
            all.push(info);
        }
        Ok(all)
    }

    /// Makes a request whose argument is any address; see [`device::raw_request`].
    pub fn raw_request(&self, command: u32, argument: usize) -> io::Result<()> {
        device::raw_request(self.as_fd(), command, argument)
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A device of memory that uses folios as large as fit.
pub fn memory(name: &str, size: u64) -> io::Result<abi::Create> {
    Ok(abi::Create {
        size: size_of::<abi::Create>() as u32,
        device_size: size,
        backing: abi::BACKING_MEMORY,
        huge: abi::HUGE_ALWAYS,
        name: name_field(name.as_bytes())?,
        ..Default::default()
    })
}

/// A device of what a file has from `offset` on: `size` bytes, or with 0 all of it.
pub fn file(name: &str, file: impl AsFd, offset: u64, size: u64) -> io::Result<abi::Create> {
    Ok(abi::Create {
        size: size_of::<abi::Create>() as u32,
        device_size: size,
        backing: abi::BACKING_FILE,
        huge: abi::HUGE_ALWAYS,
        name: name_field(name.as_bytes())?,
        file: file.as_fd().as_raw_fd(),
        file_offset: offset,
        ..Default::default()
    })
}

pub(crate) fn destroy(name: &str) -> io::Result<abi::Destroy> {
    Ok(abi::Destroy {
        size: size_of::<abi::Destroy>() as u32,
        name: name_field(name.as_bytes())?,
        ..Default::default()
    })
}

pub(crate) fn resize(name: &str, device_size: u64) -> io::Result<abi::Resize> {
    Ok(abi::Resize {
        size: size_of::<abi::Resize>() as u32,
        device_size,
        name: name_field(name.as_bytes())?,
        ..Default::default()
    })
}

pub(crate) fn punch(name: &str, offset: u64, length: u64) -> io::Result<abi::Punch> {
    Ok(abi::Punch {
        size: size_of::<abi::Punch>() as u32,
        offset,
        length,
        name: name_field(name.as_bytes())?,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::name_of;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_name_and_a_node_are_the_same_device() {
        for (word, name) in [
            ("0", "0"),
            ("frames", "frames"),
            ("a-b.c_9", "a-b.c_9"),
            ("mmapdev0", "mmapdev0"),
            ("control", "control"),
            ("-", "-"),
            ("/dev/mmapdev0", "0"),
            ("/dev/mmapdev17", "17"),
            ("/dev/mmapdev-frames", "frames"),
            ("/dev/mmapdev--x", "-x"),
            ("pci-0000:01:00.0-bar2", "pci-0000:01:00.0-bar2"),
            ("/dev/./mmapdev-frames", "frames"),
        ] {
            assert_eq!(name_of(OsStr::new(word)).as_deref(), Ok(name), "{word}");
        }
    }

    #[test]
    fn what_no_device_can_have_is_refused() {
        for word in [
            &b""[..],
            b"/",
            b"a/b",
            b"a b",
            b"caf\xc3\xa9",
            b"\xff",
            &[b'x'; 64],
            &[b'x'; 256],
            b"/dev/null",
            b"/dev/mmapdev",
            b"/dev/mmapdev-",
            b"/dev/mmapdev-7",
            b"/dev/mmapdevx",
            b"/tmp/mmapdev0",
            b"/dev/mmapdev-\xff",
        ] {
            let word = OsStr::from_bytes(word);
            assert!(name_of(word).is_err(), "{word:?}");
        }
    }
}
