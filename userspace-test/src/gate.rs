// SPDX-License-Identifier: GPL-2.0

//! A gate before the files of a mount, as a virus scanner has one: who opens a file, or reads it, waits to be let in.
//!
//! Reference: `fanotify(7)`, and <https://docs.kernel.org/admin-guide/filesystem-monitoring.html>

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The size of `struct fanotify_event_metadata` of `linux/fanotify.h`, where the descriptor is, and its own size.
const EVENT: usize = 24;
const DESCRIPTOR: std::ops::Range<usize> = 16..20;

/// What it takes leave to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// `open()`
    Open,
    /// `read()` and the like, of files that were opened when the gate was there.
    Read,
}

/// A gate. Everybody is let in when it is dropped, and no process has it that was forked meanwhile.
#[derive(Debug)]
pub struct Gate {
    events: File,
}

/// Somebody who waits.
#[derive(Debug)]
pub struct Waiting<'a> {
    gate: &'a Gate,
    // What they want to open or read.
    file: OwnedFd,
}

impl Gate {
    /// Puts a gate before all files of the mount that `path` is on.
    pub fn before_mount_of(path: impl AsRef<Path>, to: To) -> io::Result<Self> {
        let path = CString::new(path.as_ref().as_os_str().as_bytes())?;
        let flags = libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC;
        // SAFETY: The call takes flags alone, and gives a new descriptor.
        let fd = unsafe { libc::fanotify_init(flags, libc::O_RDONLY as u32) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: Nobody else has the descriptor.
        let events = unsafe { File::from_raw_fd(fd) };
        // SAFETY: The path is a string that lives longer than the call.
        let marked = unsafe {
            libc::fanotify_mark(
                events.as_raw_fd(),
                libc::FAN_MARK_ADD | libc::FAN_MARK_MOUNT,
                match to {
                    To::Open => libc::FAN_OPEN_PERM,
                    To::Read => libc::FAN_ACCESS_PERM,
                },
                libc::AT_FDCWD,
                path.as_ptr(),
            )
        };
        if marked < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { events })
    }

    /// Waits until somebody waits to be let in.
    pub fn wait(&self) -> io::Result<Waiting<'_>> {
        // There is room for one event, so that one is read.
        let mut event = [0; EVENT];
        (&self.events).read_exact(&mut event)?;
        let fd = i32::from_ne_bytes(event[DESCRIPTOR].try_into().expect("four bytes"));
        // SAFETY: The kernel has just made the descriptor for who reads the event.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Waiting { gate: self, file })
    }
}

impl Waiting<'_> {
    /// Lets them in.
    pub fn let_in(self) -> io::Result<()> {
        self.answer(libc::FAN_ALLOW)
    }

    /// Sends them away: `EPERM`.
    pub fn refuse(self) -> io::Result<()> {
        self.answer(libc::FAN_DENY)
    }

    fn answer(self, what: u32) -> io::Result<()> {
        // `struct fanotify_response`.
        let mut response = [0; 8];
        response[..4].copy_from_slice(&self.file.as_raw_fd().to_ne_bytes());
        response[4..].copy_from_slice(&what.to_ne_bytes());
        (&self.gate.events).write_all(&response)
    }
}
