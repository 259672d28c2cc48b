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
use crate::abstractions::page_cache::{may_wait, AddressSpace};
use crate::abstractions::vm_area_desc::VmAreaDesc;
use crate::counters::Event;
use crate::extent::{bytes_before, offsets_exist};
use crate::mapping::MappedBacking;
use crate::open_device::{Node, OpenDevice};
use crate::trace;
use kernel::fs::{File, Kiocb};
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::page::{PAGE_SHIFT, PAGE_SIZE};
use kernel::prelude::*;
use kernel::seq_file::{seq_print, SeqFile};
use kernel::sync::poll::PollTable;
use kernel::sync::Arc;

#[vtable]
impl<B: MappedBacking> FileOperations for OpenDevice<B> {
    type Module = crate::LocalModule;
    const MAPS_HUGE_PAGES: bool = true;
    type Registration = Node<B>;

    fn open(node: &Node<B>, file: &File) -> Result<Arc<Self>> {
        Self::new(node, file)
    }

    fn address_space(&self) -> Option<&AddressSpace> {
        Some(self.device().pages())
    }

    fn mmap_prepare(&self, desc: VmAreaDesc<'_, Self>) -> Result {
        self.device().check_alive()?;
        // The VFS checks this for regular files only.
        if !offsets_exist(desc.index(), desc.len(), PAGE_SHIFT) {
            return Err(EOVERFLOW);
        }
        // A mapping of pages may reach beyond the end, as that of any file: a touch there is SIGBUS.
        self.device().backing().prepare_mapping(desc)
    }

    fn read_iter(mut kiocb: Kiocb<'_, Arc<Self>>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let open = kiocb.file();
        let device = open.device();
        device.check_alive()?;
        open.follow_size_or(may_wait(&kiocb))?;
        let start = u64::try_from(kiocb.ki_pos())?;
        let wanted = iov.len() as u64;
        // As in `write_iter`.
        let trace = |result| trace::read(device.id(), start, wanted, result);
        let copied = device
            .backing()
            .read(&mut kiocb, iov, || device.size())
            .inspect_err(|error| trace(error.to_errno().into()))?;
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
        open.follow_size_or(may_wait(&kiocb))?;
        // Like a disk, a device has the size that it has: `O_APPEND` means nothing to it.
        let start = u64::try_from(kiocb.ki_pos())?;
        let wanted = iov.len() as u64;
        // One for each outcome: what is traced is then at hand.
        let trace = |result| trace::write(device.id(), start, wanted, result);
        // In this order: the size of what has ended is 0.
        let size = || {
            let size = device.size();
            device.check_alive().map(|()| size)
        };
        let written = device
            .backing()
            .write(&mut kiocb, iov, size)
            .inspect_err(|error| trace(error.to_errno().into()))?;
        trace(written as i64);
        device.counters().add(Event::BytesWritten, written as u64);
        device.backing().finish_write(&mut kiocb, written)
    }

    fn llseek(&self, seek: &Seek<'_>) -> Result<i64> {
        let device = self.device();
        device.check_alive()?;
        self.follow_size()?;
        let offset = |offset: i64| u64::try_from(offset).map_err(|_| ENXIO);
        let position = match seek.whence() {
            Whence::Plain => return seek.move_plainly(device.size()),
            Whence::Data(from) => device.next_data(offset(from)?)?,
            Whence::Hole(from) => device.next_hole(offset(from)?)?,
        };
        seek.move_to(i64::try_from(position)?, device.size())
    }

    fn fsync(&self, range: SyncRange) -> Result {
        self.device().check_alive()?;
        self.device().backing().sync(range)
    }

    fn fadvise(&self, advice: &Advice<'_>) -> Result {
        self.device().check_alive()?;
        self.device().backing().wait_to_bring_in()?;
        advice.take()
    }

    fn splice_read(&self, splice: &mut SpliceRead<'_>) -> Result<usize> {
        let device = self.device();
        device.check_alive()?;
        self.follow_size()?;
        device.backing().wait_to_bring_in()?;
        let start = u64::try_from(splice.position())?;
        let size = device.size();
        // What looks like the end of the file may be that of the device.
        let end_of_file = || device.check_alive().map(|()| 0);
        if bytes_before(start, splice.len(), size) == 0 {
            return end_of_file();
        }
        if !B::HAS_PAGES {
            return splice.copy(bytes_before(start, splice.len(), size));
        }
        if B::IS_STORED {
            return match splice.lend_pages(bytes_before(start, splice.len(), size)) {
                Ok(0) => end_of_file(),
                result => result,
            };
        }
        // What is in memory is lent as it is. A hole stays one: zeros are made for the pipe alone.
        let data = device.next_data(start).unwrap_or(size);
        if data > start {
            return splice.copy(bytes_before(start, splice.len(), data));
        }
        let end = start + bytes_before(start, splice.len(), size) as u64;
        let lendable = device.end_of_data(start, end, |folio| !folio.is_poisoned());
        if lendable > start {
            match splice.lend_pages(bytes_before(start, splice.len(), lendable)) {
                Ok(0) => end_of_file(),
                // It was cut off meanwhile.
                Err(error) if error == ENXIO => end_of_file(),
                result => result,
            }
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
        if device.events().pending(self.seen()) > 0 {
            return Readiness::READ_WRITE | Readiness::PRIORITY;
        }
        Readiness::READ_WRITE
    }

    fn show_fdinfo(&self, output: &SeqFile) {
        let device = self.device();
        let info = device.info();
        seq_print!(output, "mmapdev-name:\t{}\n", device.name().as_str());
        seq_print!(output, "mmapdev-id:\t{}\n", info.id);
        seq_print!(output, "mmapdev-size:\t{}\n", info.device_size);
        seq_print!(output, "mmapdev-resident:\t{}\n", info.resident_bytes);
        let pending = device.events().pending(self.seen());
        seq_print!(output, "mmapdev-events:\t{pending}\n");
        let state = if device.has_ended() {
            "destroyed"
        } else {
            "alive"
        };
        seq_print!(output, "mmapdev-state:\t{state}\n");
        device.backing().show(output);
    }

    fn ioctl(&self, file: &File, command: u32, argument: usize) -> Result<isize> {
        crate::ioctl::handle(self, file, command, argument)
    }
}
