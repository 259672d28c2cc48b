// SPDX-License-Identifier: GPL-2.0

//! An open device: its size, its counters and page frames.

use crate::{abi, control, mapping};
use rustix::fs::{self, Mode, OFlags, SeekFrom};
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The first device that the module makes.
pub const FIRST: &str = "/dev/mmapdev0";

/// No request writes more: the module no more than its version of the structure.
const LARGEST_ARGUMENT: usize = 256;
const _: () = assert!(size_of::<abi::Counters>() <= LARGEST_ARGUMENT);

/// An open device node.
#[derive(Debug)]
pub struct Device(OwnedFd);

impl Device {
    /// Opens the first device for reading and writing.
    pub fn open() -> io::Result<Self> {
        Self::open_with(FIRST, OFlags::RDWR)
    }

    /// Opens a device node with the given flags.
    pub fn open_with(path: impl AsRef<Path>, flags: OFlags) -> io::Result<Self> {
        Ok(Self(fs::open(
            path.as_ref(),
            flags | OFlags::CLOEXEC,
            Mode::empty(),
        )?))
    }

    /// Returns the size in bytes, without moving the position.
    pub fn size(&self) -> io::Result<usize> {
        let position = fs::seek(&self.0, SeekFrom::Current(0))?;
        let size = fs::seek(&self.0, SeekFrom::End(0))?;
        fs::seek(&self.0, SeekFrom::Start(position))?;
        Ok(size as usize)
    }

    /// Asks for a range to be written back, by the call that is for regular files.
    pub fn sync_file_range(&self, offset: u64, len: u64) -> io::Result<()> {
        let (fd, flags) = (self.0.as_raw_fd(), libc::SYNC_FILE_RANGE_WRITE);
        // SAFETY: The call takes no pointer.
        if unsafe { libc::sync_file_range(fd, offset as i64, len as i64, flags) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Asks what the device is.
    pub fn info(&self) -> io::Result<abi::Info> {
        let mut info = empty_info();
        request(self.as_fd(), abi::IOC_INFO, &mut info)?;
        Ok(info)
    }

    /// Asks what the device has done.
    pub fn counters(&self) -> io::Result<abi::Counters> {
        let size = size_of::<abi::Counters>() as u32;
        let mut counters = abi::Counters {
            size,
            ..Default::default()
        };
        request(self.as_fd(), abi::IOC_COUNTERS, &mut counters)?;
        Ok(counters)
    }

    /// Asks which page frame holds an offset.
    pub fn frame(&self, offset: u64) -> io::Result<abi::Frame> {
        let size = size_of::<abi::Frame>() as u32;
        let mut frame = abi::Frame {
            size,
            offset,
            ..Default::default()
        };
        request(self.as_fd(), abi::IOC_FRAME, &mut frame)?;
        Ok(frame)
    }

    /// Ends the device.
    pub fn destroy(&self) -> io::Result<()> {
        request(self.as_fd(), abi::IOC_DESTROY, &mut control::destroy("")?)
    }

    /// Changes the size of the device.
    pub fn resize(&self, size: u64) -> io::Result<()> {
        request(
            self.as_fd(),
            abi::IOC_RESIZE,
            &mut control::resize("", size)?,
        )
    }

    /// Gives back the memory of a range of the device.
    pub fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut punch = control::punch("", offset, length)?;
        request(self.as_fd(), abi::IOC_PUNCH, &mut punch)
    }

    /// Raises an event for all who have the device open.
    pub fn notify(&self) -> io::Result<()> {
        // SAFETY: The request takes no pointer.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), abi::IOC_NOTIFY.into(), 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Takes the events that this file has not seen, and returns how many there were.
    pub fn take_events(&self) -> io::Result<u64> {
        let mut events = abi::Events {
            size: size_of::<abi::Events>() as u32,
            ..Default::default()
        };
        request(self.as_fd(), abi::IOC_EVENTS, &mut events)?;
        Ok(events.count)
    }

    /// Has an eventfd signalled by events, or none any more.
    pub fn signal(&self, eventfd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let eventfd = eventfd.map_or(abi::NO_EVENTFD, |fd| fd.as_raw_fd());
        let mut eventfd = abi::EventFd {
            size: size_of::<abi::EventFd>() as u32,
            eventfd,
            ..Default::default()
        };
        request(self.as_fd(), abi::IOC_EVENTFD, &mut eventfd)
    }

    /// Makes a request whose argument is any address; see [`raw_request`].
    pub fn raw_request(&self, command: u32, argument: usize) -> io::Result<()> {
        raw_request(self.as_fd(), command, argument)
    }
}

/// Makes a request whose argument is any address and which may be wrong in any way.
///
/// # Panics
///
/// If memory is there that is not part of a [`mapping::Mapping`]: the kernel may write to it.
pub fn raw_request(file: BorrowedFd<'_>, command: u32, argument: usize) -> io::Result<()> {
    assert!(mapping::is_free_for_the_kernel(argument, LARGEST_ARGUMENT)?);
    // SAFETY: What the kernel can write to was checked just now: bytes that are only accessed
    // atomically.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), command.into(), argument) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The structure that asks what a device is.
pub(crate) fn empty_info() -> abi::Info {
    abi::Info {
        size: size_of::<abi::Info>() as u32,
        ..Default::default()
    }
}

impl From<OwnedFd> for Device {
    /// Takes over a descriptor of an open device.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The structures of the interface: plain numbers, each with its size in the first field.
pub(crate) trait Argument {}
impl Argument for abi::Info {}
impl Argument for abi::Counters {}
impl Argument for abi::Frame {}
impl Argument for abi::Create {}
impl Argument for abi::Destroy {}
impl Argument for abi::Resize {}
impl Argument for abi::Punch {}
impl Argument for abi::Events {}
impl Argument for abi::EventFd {}

/// Makes a request whose argument is the structure that belongs to it.
pub(crate) fn request<T: Argument>(
    fd: BorrowedFd<'_>,
    command: u32,
    argument: &mut T,
) -> io::Result<()> {
    let argument: *mut c_void = std::ptr::from_mut(argument).cast();
    // SAFETY: The structure is plain numbers, and the kernel writes no more of it than its own first
    // field says.
    if unsafe { libc::ioctl(fd.as_raw_fd(), command.into(), argument) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
