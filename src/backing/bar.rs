// SPDX-License-Identifier: GPL-2.0

//! The BAR backing: memory of a PCI device's own, mapped by page frame and copied by accesses of the device.
//!
//! There are no pages of the kernel's here. What is mapped are the device's addresses, for as long as the driver is bound.

use super::Backing;
use crate::abi;
use crate::abstractions::capability::check_pci_is_not_locked_down;
use crate::abstractions::device_memory::{
    flush_writes, CacheMode, Demand, DeviceMemory, OpenMemory,
};
use crate::abstractions::device_span::{Piece, Width};
use crate::abstractions::file_operations::{is_open_for_sync, is_open_for_writing, SyncRange};
use crate::abstractions::iov;
use crate::abstractions::page_cache::{may_wait, AddressSpace, Wait, WriteGuard};
use crate::abstractions::sched;
use crate::abstractions::vm_fault::PMD_SIZE;
use crate::abstractions::vm_pfn::can_map_huge;
use crate::extent::bytes_before;
use crate::parameters::Huge;
use kernel::fs::{File, Kiocb};
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::seq_file::{seq_print, SeqFile};
use kernel::sync::Arc;
use kernel::types::ForeignOwnable;

/// How many bytes are copied in one go: what the device has gets to user memory by way of kernel memory, so that no lock is
/// held while a program's page faults.
const CHUNK: usize = 16 << 10;

/// The memory behind one BAR.
pub(crate) struct BarBacking {
    memory: Arc<DeviceMemory>,
    mode: CacheMode,
}

impl BarBacking {
    /// Makes a backing of a BAR's memory that is cached so where nobody asks for it to be uncached: write-back only what is
    /// memory and nothing else.
    pub(crate) fn new(memory: Arc<DeviceMemory>, mode: CacheMode) -> Self {
        Self { memory, mode }
    }

    pub(crate) fn memory(&self) -> &DeviceMemory {
        &self.memory
    }

    /// Fails with `EPERM` where the kernel is locked down and this may be registers, as sysfs does: any mapping counts as
    /// one to be written through. What the driver knows to be memory and nothing else ends up in no kernel by a store.
    pub(crate) fn check_may_be_changed(&self) -> Result {
        if self.may_be_registers() {
            check_pci_is_not_locked_down()?;
        }
        Ok(())
    }

    fn may_be_registers(&self) -> bool {
        self.mode != CacheMode::WriteBack
    }
}

impl Backing for BarBacking {
    const KIND: u32 = abi::BACKING_PCI;
    const IS_STORED: bool = true;
    const HAS_PAGES: bool = false;
    type Usage = OpenMemory;

    fn address_space(&self) -> &AddressSpace {
        self.memory.address_space()
    }

    fn open(&self, file: &File) -> Result<OpenMemory> {
        if is_open_for_writing(file) {
            self.check_may_be_changed()?;
        }
        self.memory.open(if is_open_for_sync(file) {
            Demand::Exactly(CacheMode::Uncached)
        } else {
            Demand::Any(self.mode)
        })
    }

    fn read<T: ForeignOwnable>(
        &self,
        kiocb: &mut Kiocb<'_, T>,
        iov: &mut IovIterDest<'_>,
        _size: impl Fn() -> u64,
    ) -> Result<usize> {
        // A profiler has the kernel look for a build id in all that is mapped, and reading a register may do something.
        if iov::is_of_the_kernel(iov) && self.may_be_registers() {
            return Err(EINVAL);
        }
        let (memory, wait) = (&self.memory, may_wait(kiocb));
        let start = u64::try_from(kiocb.ki_pos())?;
        let room = bytes_before(start, iov.len(), memory.len());
        let mut buffer = Buffer::new(room, wait)?;
        let copied = in_chunks(start, room, memory.len(), |position, len| {
            let chunk = buffer.first(len);
            let piece = Piece::of(len, room);
            memory.access(wait)?.read(position, chunk, piece)?;
            match iov.copy_to_iter(chunk) {
                0 => Err(EFAULT),
                copied => Ok(copied),
            }
        })?;
        *kiocb.ki_pos_mut() += copied as i64;
        Ok(copied)
    }

    fn write<T: ForeignOwnable>(
        &self,
        kiocb: &mut Kiocb<'_, T>,
        iov: &mut IovIterSource<'_>,
        _size: impl FnOnce() -> Result<u64>,
    ) -> Result<usize> {
        // Each time, as sysfs does: the machine may have been locked down since.
        self.check_may_be_changed()?;
        let (memory, wait) = (&self.memory, may_wait(kiocb));
        let start = u64::try_from(kiocb.ki_pos())?;
        let room = bytes_before(start, iov.len(), memory.len());
        if room == 0 {
            return Err(ENOSPC);
        }
        let mut buffer = Buffer::new(room, wait)?;
        let copied = in_chunks(start, room, memory.len(), |position, len| {
            let chunk = buffer.first(len);
            match iov.copy_from_iter(chunk) {
                0 => Err(EFAULT),
                // One access of the device is made whole or not at all.
                copied if copied < room && Width::of(start, room).is_some() => Err(EFAULT),
                copied => {
                    let piece = Piece::of(copied, room);
                    memory
                        .access(wait)?
                        .write(position, &chunk[..copied], piece)?;
                    Ok(copied)
                }
            }
        })?;
        *kiocb.ki_pos_mut() += copied as i64;
        Ok(copied)
    }

    fn sync(&self, _range: SyncRange) -> Result {
        flush_writes();
        Ok(())
    }

    fn settle(&self) {}

    fn set_size(&self, _guard: &WriteGuard<'_>, _old: u64, _new: u64) -> Result<u64> {
        Err(EOPNOTSUPP)
    }

    fn show(&self, output: &SeqFile) {
        let mode = match self.memory.access(Wait::Allowed) {
            Ok(access) => match access.mode() {
                CacheMode::WriteBack => "write-back",
                CacheMode::WriteCombining => "write-combining",
                CacheMode::Uncached => "uncached",
            },
            Err(_) => "none",
        };
        seq_print!(output, "mmapdev-pci-cache:\t{mode}\n");
    }

    fn foreign_size(&self) -> Option<u64> {
        Some(self.memory.len())
    }

    fn punch(&self, _guard: &WriteGuard<'_>, _start: u64, _end: u64) -> Result<u64> {
        Err(EOPNOTSUPP)
    }

    fn empty(&self, guard: &WriteGuard<'_>) -> u64 {
        self.memory.revoke(guard);
        0
    }

    fn frame(&self, index: usize) -> Option<(u64, u64)> {
        let frame = self.memory.span().frame_of(index)?;
        Some((frame as u64, PAGE_SIZE as u64))
    }

    fn huge(&self) -> Huge {
        Huge::Always
    }

    fn largest_folio(&self) -> usize {
        if can_map_huge() && self.memory.span().has_piece(PMD_SIZE as u64) {
            PMD_SIZE
        } else {
            PAGE_SIZE
        }
    }
}

/// Calls `copy` for piece after piece of `wanted` bytes from `start` on, until they or the memory are at their end, and
/// returns how many it has copied. An error counts if it is the first thing that happens.
fn in_chunks(
    start: u64,
    wanted: usize,
    end: u64,
    mut copy: impl FnMut(u64, usize) -> Result<usize>,
) -> Result<usize> {
    let mut copied = 0;
    loop {
        let position = start.saturating_add(copied as u64);
        let len = bytes_before(position, wanted - copied, end).min(CHUNK);
        if len == 0 {
            return Ok(copied);
        }
        match copy(position, len) {
            Ok(bytes) => copied += bytes,
            Err(error) if copied == 0 => return Err(error),
            Err(_) => return Ok(copied),
        }
        if sched::is_being_killed() {
            return if copied == 0 { Err(EINTR) } else { Ok(copied) };
        }
        sched::cond_resched();
    }
}

/// Kernel memory that bytes go by way of.
struct Buffer(KVVec<u8>);

impl Buffer {
    /// Makes one for `wanted` bytes in chunks. Fails with `ENOMEM`, or `EAGAIN` where it would have to wait.
    fn new(wanted: usize, wait: Wait) -> Result<Self> {
        let len = wanted.min(CHUNK);
        match wait {
            Wait::Allowed => Ok(Self(KVVec::from_elem(0, len, GFP_KERNEL)?)),
            Wait::Forbidden => KVVec::from_elem(0, len, GFP_NOWAIT)
                .map(Self)
                .map_err(|_| EAGAIN),
        }
    }

    fn first(&mut self, len: usize) -> &mut [u8] {
        &mut self.0[..len]
    }
}
