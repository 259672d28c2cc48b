// SPDX-License-Identifier: GPL-2.0

//! The file operations of a device node: what open, mmap, read, write and their relatives do.
//!
//! Where nothing else is said they do what they do on a memfd.
//!
//! # Lock order
//!
//! A write holds the inode lock of the page cache around everything; the rest is as in
//! `abstractions/page_cache.rs`. User memory is never touched under the lock of a folio or the
//! invalidate lock, so that a program may read into and write from its own mapping of the device.

use crate::abstractions::file_operations::{
    Advice, FileOperations, Readiness, Seek, SpliceRead, SyncRange, Whence,
};
use crate::abstractions::page_cache::{may_wait, AddressSpace, Wait};
use crate::abstractions::vm_area_desc::VmAreaDesc;
use crate::abstractions::{iov, sched};
use crate::backing::Backing;
use crate::counters::Event;
use crate::device::{page_of, start_of, Device};
use crate::events::Seen;
use crate::extent::{bytes_before, offsets_exist};
use crate::registry::Registry;
use crate::trace;
use kernel::fs::{File, Kiocb};
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::page::{PAGE_SHIFT, PAGE_SIZE};
use kernel::prelude::*;
use kernel::seq_file::{seq_print, SeqFile};
use kernel::sync::barrier::{smp_mb, Read};
use kernel::sync::poll::PollTable;
use kernel::sync::Arc;

/// How many bytes of a hole are read in one go, before others are let run.
const HOLE_STEP: usize = 1 << 20;

/// What a device's node is registered with.
pub(crate) struct Node<B: Backing> {
    pub(crate) device: Arc<Device<B>>,
    pub(crate) registry: Arc<Registry>,
}

/// One opening of a device.
pub(crate) struct OpenDevice<B: Backing> {
    device: Arc<Device<B>>,
    registry: Arc<Registry>,
    seen: Seen,
    _usage: B::Usage,
}

impl<B: Backing> OpenDevice<B> {
    pub(crate) fn device(&self) -> &Device<B> {
        &self.device
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Returns which events were taken by this file.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }
}

impl<B: Backing> Drop for OpenDevice<B> {
    fn drop(&mut self) {
        self.device.events().signal_nobody(&self.seen);
        if self.device.released() == 0 {
            self.device.backing().settle();
        }
    }
}

#[vtable]
impl<B: Backing> FileOperations for OpenDevice<B> {
    type Module = crate::LocalModule;
    const MAPS_HUGE_PAGES: bool = true;
    type Registration = Node<B>;

    fn open(node: &Node<B>, file: &File) -> Result<Arc<Self>> {
        let usage = node.device.backing().open(file)?;
        let seen = node.device.events().seen_by_now();
        node.device.opened();
        let open = Self {
            device: node.device.clone(),
            registry: node.registry.clone(),
            seen,
            _usage: usage,
        };
        // What a program can have many of is charged to its memory cgroup, as the file itself is.
        Ok(Arc::new(open, GFP_KERNEL_ACCOUNT)?)
    }

    fn address_space(&self) -> Option<&AddressSpace> {
        Some(self.device.pages())
    }

    fn mmap_prepare(&self, desc: VmAreaDesc<'_, Self>) -> Result {
        self.device.check_alive()?;
        // The VFS checks this for regular files only.
        if !offsets_exist(desc.index(), desc.len(), PAGE_SHIFT) {
            return Err(EOVERFLOW);
        }
        // A mapping of pages may reach beyond the end, as that of any file: a touch there is SIGBUS.
        self.device.backing().prepare_mapping(desc)
    }

    fn read_iter(mut kiocb: Kiocb<'_, Arc<Self>>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let open = kiocb.file();
        let device = open.device();
        device.check_alive()?;
        open.device
            .as_arc_borrow()
            .follow_size_or(may_wait(&kiocb))?;
        let start = u64::try_from(kiocb.ki_pos())?;
        let wanted = iov.len() as u64;
        // As in `write_iter`.
        let trace = |result| trace::read(device.id(), start, wanted, result);
        let copied =
            B::read(device, &mut kiocb, iov).inspect_err(|error| trace(error.to_errno().into()))?;
        trace(copied as i64);
        device.counters().add(Event::BytesRead, copied as u64);
        if copied == 0 {
            // What looks like the end of the file may be that of the device.
            device.check_alive()?;
        }
        Ok(copied)
    }

    fn write_iter(mut kiocb: Kiocb<'_, Arc<Self>>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        let open = kiocb.file();
        let device = open.device();
        device.check_alive()?;
        if iov.is_empty() {
            return Ok(0);
        }
        open.device
            .as_arc_borrow()
            .follow_size_or(may_wait(&kiocb))?;
        // Like a disk, a device has the size that it has: `O_APPEND` means nothing to it.
        let start = u64::try_from(kiocb.ki_pos())?;
        let wanted = iov.len() as u64;
        // One for each outcome: what is traced is then at hand.
        let trace = |result| trace::write(device.id(), start, wanted, result);
        let written = B::write(device, start, &mut kiocb, iov)
            .inspect_err(|error| trace(error.to_errno().into()))?;
        trace(written as i64);
        device.counters().add(Event::BytesWritten, written as u64);
        B::finish_write(&mut kiocb, written)
    }

    fn llseek(&self, seek: &Seek<'_>) -> Result<i64> {
        let device = self.device();
        device.check_alive()?;
        self.device.as_arc_borrow().follow_size();
        let offset = |offset: i64| u64::try_from(offset).map_err(|_| ENXIO);
        let position = match seek.whence() {
            Whence::Plain => return seek.move_plainly(device.size()),
            Whence::Data(from) => device.next_data(offset(from)?)?,
            Whence::Hole(from) => device.next_hole(offset(from)?)?,
        };
        seek.move_to(i64::try_from(position)?, device.size())
    }

    fn fsync(&self, range: SyncRange) -> Result {
        self.device.check_alive()?;
        self.device.backing().sync(range)
    }

    fn fadvise(&self, advice: &Advice<'_>) -> Result {
        self.device.check_alive()?;
        self.device.backing().wait_to_bring_in()?;
        advice.take()
    }

    fn splice_read(&self, splice: &mut SpliceRead<'_>) -> Result<usize> {
        let device = self.device();
        device.check_alive()?;
        self.device.as_arc_borrow().follow_size();
        device.backing().wait_to_bring_in()?;
        let start = u64::try_from(splice.position())?;
        let size = device.size();
        if bytes_before(start, splice.len(), size) == 0 {
            // What looks like the end of the file may be that of the device.
            return device.check_alive().map(|()| 0);
        }
        if !B::HAS_PAGES {
            return splice.copy(bytes_before(start, splice.len(), size));
        }
        if B::IS_STORED {
            return splice.lend_pages(bytes_before(start, splice.len(), size));
        }
        // What is in memory is lent as it is. A hole stays one: zeros are made for the pipe alone.
        let data = device.next_data(start).unwrap_or(size);
        if data > start {
            return splice.copy(bytes_before(start, splice.len(), data));
        }
        let end = start + bytes_before(start, splice.len(), size) as u64;
        let lendable = device.end_of_data(start, end, |folio| !folio.is_poisoned());
        if lendable > start {
            splice.lend_pages(bytes_before(start, splice.len(), lendable))
        } else {
            // Bad memory: what is around it can be had, one page at a time, and it itself is an error.
            splice.copy(PAGE_SIZE - start as usize % PAGE_SIZE)
        }
    }

    fn poll(&self, file: &File, table: &PollTable<'_>) -> Readiness {
        let device = self.device();
        device.events().register_wait(file, table);
        if device.has_ended() {
            return Readiness::READ_WRITE | Readiness::GONE;
        }
        if device.events().pending(&self.seen) > 0 {
            return Readiness::READ_WRITE | Readiness::PRIORITY;
        }
        Readiness::READ_WRITE
    }

    fn show_fdinfo(&self, output: &SeqFile) {
        let info = self.device.info();
        seq_print!(output, "mmapdev-name:\t{}\n", self.device.name().as_str());
        seq_print!(output, "mmapdev-id:\t{}\n", info.id);
        seq_print!(output, "mmapdev-size:\t{}\n", info.device_size);
        seq_print!(output, "mmapdev-resident:\t{}\n", info.resident_bytes);
        let pending = self.device.events().pending(&self.seen);
        seq_print!(output, "mmapdev-events:\t{pending}\n");
        let state = if self.device.has_ended() {
            "destroyed"
        } else {
            "alive"
        };
        seq_print!(output, "mmapdev-state:\t{state}\n");
        self.device.backing().show(output);
    }

    fn ioctl(&self, file: &File, command: u32, argument: usize) -> Result<isize> {
        crate::ioctl::handle(self, file, command, argument)
    }
}

impl<B: Backing> Device<B> {
    /// Copies bytes into the page cache until it or the device is at its end; see [`Backing::write`].
    // What is traced of it is then at hand.
    #[inline(always)]
    pub(crate) fn copy_in(
        &self,
        start: u64,
        kiocb: &mut Kiocb<'_, Arc<OpenDevice<B>>>,
        iov: &mut IovIterSource<'_>,
        wait: Wait,
    ) -> Result<usize> {
        let guard = self.pages().lock_for_writing(wait)?;
        self.check_alive()?;
        match bytes_before(start, iov.len(), self.size()) {
            0 => Err(ENOSPC),
            room => guard.write(kiocb, iov, room),
        }
    }

    /// Copies bytes from `start` on to user memory, until that or the device is at its end.
    ///
    /// Returns how many bytes were copied, and what stopped it short.
    pub(crate) fn copy_out(
        &self,
        start: u64,
        iov: &mut IovIterDest<'_>,
        wait: Wait,
    ) -> (usize, Result) {
        let mut copied = 0;
        loop {
            let position = start.saturating_add(copied as u64);
            let wanted = bytes_before(position, iov.len(), self.size());
            if wanted == 0 {
                return (copied, Ok(()));
            }
            match self.copy_some_out(position, wanted, iov, wait) {
                Ok(Some(0)) => return (copied, Err(EFAULT)),
                Ok(Some(bytes)) => copied += bytes,
                // The end has moved.
                Ok(None) => {}
                Err(error) => return (copied, Err(error)),
            }
            if sched::is_being_killed() {
                return (copied, Err(EINTR));
            }
            sched::cond_resched();
        }
    }

    /// Copies bytes out of the one folio or the one hole at `position`, at least one and at most
    /// `wanted`; 0 means that user memory cannot be written to, `None` that the device ends before.
    fn copy_some_out(
        &self,
        position: u64,
        wanted: usize,
        iov: &mut IovIterDest<'_>,
        wait: Wait,
    ) -> Result<Option<usize>> {
        let index = page_of(position);
        let Some(folio) = self.pages().get_folio(index) else {
            // What is cut off goes after the end has moved.
            smp_mb(Read);
            let wanted = bytes_before(position, wanted.min(HOLE_STEP), self.size());
            if wanted == 0 {
                return Ok(None);
            }
            let end = page_of(position + wanted as u64 - 1) + 1;
            let data = self.pages().next_present(index, end).unwrap_or(end);
            // Another task may have put a page here since: then this reads what was before.
            let hole_end = start_of(data.max(index + 1));
            let zeros = iov::zero(iov, bytes_before(position, wanted, hole_end));
            return Ok(Some(zeros));
        };
        if !folio.is_uptodate() {
            // It is being filled by whoever holds its lock.
            drop(self.pages().lock_folio(index, wait)?);
        }
        // Of a folio with bad memory in it, all but the bad pages can be read.
        let wanted = match folio.is_poisoned() {
            true if folio.is_page_poisoned(index) => return Err(EIO),
            true => bytes_before(position, wanted, start_of(index + 1)),
            false => wanted,
        };
        let offset = (position - folio.start()) as usize;
        folio.copy_to_iter(offset, wanted, iov).map(Some)
    }
}
