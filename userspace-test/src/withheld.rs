// SPDX-License-Identifier: GPL-2.0

//! Memory that nobody gets: who touches it waits, and keeps the locks that it has.
//!
//! Reference: <https://docs.kernel.org/admin-guide/mm/userfaultfd.html>

use crate::mapping::Mapping;
use crate::PAGE;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::thread;

/// `struct uffdio_api` of `linux/userfaultfd.h`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

const API: u64 = 0xAA;
const UFFDIO_API: u32 = 0xC018_AA3F;
const UFFDIO_REGISTER: u32 = 0xC020_AA00;
const UFFDIO_UNREGISTER: u32 = 0x8010_AA01;
const REGISTER_MODE_MISSING: u64 = 1;
/// The size of `struct uffd_msg`.
const MESSAGE: usize = 32;

/// Pages that are withheld.
#[derive(Debug)]
pub struct Withheld {
    // Closed before the mapping goes, which would wait for whoever waits for it.
    faults: File,
    mapping: Mapping,
}

impl Withheld {
    /// Sets `pages` pages aside.
    pub fn new(pages: usize) -> io::Result<Self> {
        let mapping = Mapping::anonymous(pages * PAGE)?;
        // SAFETY: The call takes flags alone, and gives a new descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: Nobody else has the descriptor.
        let faults = unsafe { File::from_raw_fd(fd as i32) };
        let mut api = Api {
            api: API,
            features: 0,
            ioctls: 0,
        };
        // SAFETY: The kernel reads and writes this structure alone.
        ok(unsafe { libc::ioctl(faults.as_raw_fd(), UFFDIO_API.into(), &mut api) })?;
        let mut register = Register {
            start: mapping.address(0) as u64,
            len: (pages * PAGE) as u64,
            mode: REGISTER_MODE_MISSING,
            ioctls: 0,
        };
        // SAFETY: As above; the mapping is of this value alone, and touches of it that wait are no unsafe ones.
        ok(unsafe { libc::ioctl(faults.as_raw_fd(), UFFDIO_REGISTER.into(), &mut register) })?;
        Ok(Self { faults, mapping })
    }

    /// The memory.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Lets whoever waits go on.
    pub fn give(&self) -> io::Result<()> {
        let mut range = Range {
            start: self.mapping.address(0) as u64,
            len: self.mapping.len() as u64,
        };
        // SAFETY: The kernel reads this structure alone.
        ok(unsafe {
            libc::ioctl(
                self.faults.as_raw_fd(),
                UFFDIO_UNREGISTER.into(),
                &mut range,
            )
        })
    }

    /// Waits until somebody has touched it, and waits for it.
    pub fn wait_for_touch(&self) -> io::Result<()> {
        (&self.faults).read_exact(&mut [0; MESSAGE])
    }
}

fn ok(result: i32) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

struct Gives<'a>(&'a Withheld);

impl Drop for Gives<'_> {
    fn drop(&mut self) {
        self.0.give().expect("no error");
    }
}

/// Does something while somebody else holds the lock of a file to write to it.
pub fn while_locked<T>(
    file: &(impl AsFd + Sync),
    body: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    // What is withheld is zeros in the end; the bytes are those of the end of the first page.
    while_waiting(|memory| memory.pwrite_to(file, 0, 0, 1), body)
}

/// Does something while somebody else waits in the middle of a call that touches a page of memory.
pub fn while_waiting<T>(
    call: impl FnOnce(&Mapping) -> io::Result<usize> + Send,
    body: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let withheld = Withheld::new(1)?;
    thread::scope(|scope| {
        let waiting = scope.spawn(|| call(withheld.mapping()));
        // Before the thread is waited for, whatever has failed.
        let gives = Gives(&withheld);
        withheld.wait_for_touch()?;
        let result = body();
        drop(gives);
        waiting.join().expect("no panic")?;
        result
    })
}
