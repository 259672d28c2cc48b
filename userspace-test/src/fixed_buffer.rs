// SPDX-License-Identifier: GPL-2.0

//! A part of a mapping as the fixed buffer of an io_uring: pages that the kernel has pinned for as long as
//! the ring is there.

use crate::mapping::Mapping;
use io_uring::{opcode, squeue, types, IoUring};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The buffer, with a ring of its own that does one thing at a time.
pub struct FixedBuffer {
    ring: IoUring,
    /// Where the buffer was when it was registered. It may have been unmapped since: the kernel has the pages.
    address: usize,
    len: usize,
}

impl FixedBuffer {
    /// Makes one of `len` bytes of a mapping from `offset` on.
    pub fn new(mapping: &Mapping, offset: usize, len: usize) -> io::Result<Self> {
        assert!(offset + len <= mapping.len());
        let ring = IoUring::new(4)?;
        let address = mapping.address(offset);
        let buffer = libc::iovec {
            iov_base: std::ptr::with_exposed_provenance_mut(address),
            iov_len: len,
        };
        // SAFETY: The kernel pins the pages of a mapping, whose bytes are only accessed atomically, and uses the
        // pages from then on, whatever becomes of the addresses.
        unsafe { ring.submitter().register_buffers(&[buffer])? };
        Ok(Self { ring, address, len })
    }

    /// Reads from a file into the buffer (`IORING_OP_READ_FIXED`).
    pub fn read(
        &mut self,
        file: impl AsFd,
        position: u64,
        offset: usize,
        len: usize,
    ) -> io::Result<usize> {
        assert!(offset + len <= self.len);
        let file = types::Fd(file.as_fd().as_raw_fd());
        let place = std::ptr::with_exposed_provenance_mut(self.address + offset);
        let entry = opcode::ReadFixed::new(file, place, len as u32, 0);
        self.run(&entry.offset(position).build())
    }

    /// Writes to a file from the buffer (`IORING_OP_WRITE_FIXED`).
    pub fn write(
        &mut self,
        file: impl AsFd,
        position: u64,
        offset: usize,
        len: usize,
    ) -> io::Result<usize> {
        assert!(offset + len <= self.len);
        let file = types::Fd(file.as_fd().as_raw_fd());
        let place = std::ptr::with_exposed_provenance(self.address + offset);
        let entry = opcode::WriteFixed::new(file, place, len as u32, 0);
        self.run(&entry.offset(position).build())
    }

    fn run(&mut self, entry: &squeue::Entry) -> io::Result<usize> {
        // SAFETY: The request is about the registered pages only, and is waited for.
        unsafe {
            self.ring
                .submission()
                .push(entry)
                .map_err(io::Error::other)?
        };
        self.ring.submit_and_wait(1)?;
        let done = self.ring.completion().next();
        let result = done
            .ok_or_else(|| io::Error::other("no completion"))?
            .result();
        usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
    }
}
