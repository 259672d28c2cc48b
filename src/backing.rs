// SPDX-License-Identifier: GPL-2.0

//! What stands behind a device: the few questions in which one kind differs from another.

pub(crate) mod bar;
pub(crate) mod file;
pub(crate) mod memory;

use crate::abstractions::file_operations::SyncRange;
use crate::abstractions::page_cache::{AddressSpace, Wait, WriteGuard};
use crate::abstractions::stored_file::StoredFile;
use crate::abstractions::work_queue::WorkQueue;
use crate::extent::bytes_before;
use crate::parameters::Huge;
use kernel::fs::{File, Kiocb};
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::types::ForeignOwnable;

/// What keeps the bytes of a device. What a mapping of them does is in [`crate::mapping`].
///
/// The page cache is the store where there are pages: what differs is how a page gets there, and what becomes
/// of it. Memory of a device has none, and has an address space for who maps it to be found by.
pub(crate) trait Backing: Send + Sync + Sized + 'static {
    /// The kind, for [`crate::abi::Info::backing`].
    const KIND: u32;

    /// Whether pages come from somewhere and go back there, so that they need not be in memory to have bytes.
    const IS_STORED: bool;

    /// Whether the bytes are in pages of the address space at all.
    const HAS_PAGES: bool = true;

    /// What an open file has, and gives back by being dropped.
    type Usage: Send + Sync;

    /// Prepares for an open file. May sleep. Fails with `EROFS` where it is open for writing and nobody may write, and as the
    /// kind of backing has it.
    fn open(&self, file: &File) -> Result<Self::Usage>;

    /// Returns the page cache that has the device's bytes.
    fn address_space(&self) -> &AddressSpace;

    /// Returns whether the pages are stored in that file, at any of `most` bytes from where it begins.
    fn overlaps(&self, _file: &StoredFile, _most: u64) -> bool {
        false
    }

    /// Copies bytes out from the position on, which moves; fewer than asked for where the device ends, or where something
    /// has come in between after the first. `size` is what the device has at that moment.
    ///
    /// Fails with `EINVAL` where it is the kernel itself that reads, and this may be registers.
    fn read<T: ForeignOwnable>(
        &self,
        kiocb: &mut Kiocb<'_, T>,
        iov: &mut IovIterDest<'_>,
        size: impl Fn() -> u64,
    ) -> Result<usize>;

    /// Copies bytes in from the position on, which moves; at least one, and fewer than there are where the device ends or
    /// where something has come in between after the first. There is at least one to be written. `size` is what the
    /// device has once it is locked for writing, and fails where it has ended.
    ///
    /// Fails with `ENOSPC` at the end.
    fn write<T: ForeignOwnable>(
        &self,
        kiocb: &mut Kiocb<'_, T>,
        iov: &mut IovIterSource<'_>,
        size: impl FnOnce() -> Result<u64>,
    ) -> Result<usize>;

    /// Makes sure of what was written, where the file or the call asks for it (`O_SYNC`, `RWF_DSYNC`), and returns how many
    /// bytes were.
    fn finish_write<T: ForeignOwnable>(
        &self,
        _kiocb: &mut Kiocb<'_, T>,
        written: usize,
    ) -> Result<usize> {
        Ok(written)
    }

    /// Brings what was written to where it is safe. What fails is noted in the address space; but for what the calling
    /// task alone is to hear of, which is that it was interrupted.
    fn sync(&self, range: SyncRange) -> Result;

    /// Brings what was written to where it is kept when the device is no longer used.
    fn settle(&self);

    /// Changes the size from `old` to `new` bytes as somebody asks for, and returns how many bytes of memory went by that;
    /// see [`WriteGuard::set_size`]. Fails with `ENOSPC` where there is no room for more, and with `EOPNOTSUPP` where the
    /// size is not the device's own.
    fn set_size(&self, guard: &WriteGuard<'_>, old: u64, new: u64) -> Result<u64>;

    /// Prints what else there is to say in fdinfo.
    fn show(&self, _output: &SeqFile) {}

    /// Returns the queue for what has to wait, if anything has.
    fn queue(&self) -> Option<&WorkQueue> {
        None
    }

    /// Waits while no page may be brought in, for a moment. Fails with `EINTR` where the calling task is being killed.
    fn wait_to_bring_in(&self) -> Result {
        Ok(())
    }

    /// Has nobody see pages any more that are beyond [`Self::foreign_size`]. Waits for nothing.
    fn cut_off(&self, _guard: &WriteGuard<'_>) {}

    /// Returns whether [`Self::foreign_size`] may be what it was and has to be followed all the same.
    fn must_follow(&self) -> bool {
        false
    }

    /// Returns how many bytes there are where that is not up to the device; `None` where it is.
    fn foreign_size(&self) -> Option<u64> {
        None
    }

    /// Makes the page cache as large as [`Self::foreign_size`] says, and adds to `_removed` how many bytes of memory went
    /// by that. Fails with `EBUSY` where it takes longer than some seconds.
    fn follow_size(&self, _guard: &WriteGuard<'_>, _removed: &mut u64) -> Result {
        Ok(())
    }

    /// Gives back the memory of a range, which reads as zeros then, and returns how many bytes that were; see
    /// [`WriteGuard::punch`]. Fails with `EOPNOTSUPP` where the bytes are not in memory alone.
    fn punch(&self, guard: &WriteGuard<'_>, start: u64, end: u64) -> Result<u64>;

    /// Returns the number of the page frame that has page `index`, and how many bytes its folio has; `None` where none is
    /// in memory.
    fn frame(&self, index: usize) -> Option<(u64, u64)> {
        let folio = self.address_space().get_folio(index)?;
        let frame = folio.frame() + (index - folio.index());
        Some((frame as u64, folio.size() as u64))
    }

    /// Gives up all bytes for good, and returns how many bytes of memory went by that. What is kept somewhere is brought
    /// there before.
    fn empty(&self, guard: &WriteGuard<'_>) -> u64;

    /// Returns when folios above the base size come.
    fn huge(&self) -> Huge;

    /// Returns the bytes of the largest folio that may come.
    fn largest_folio(&self) -> usize;
}

/// Copies bytes into a page cache until they or the device are at their end; see [`Backing::write`].
// What is traced of it is then at hand.
#[inline(always)]
fn copy_in<T: ForeignOwnable>(
    pages: &AddressSpace,
    kiocb: &mut Kiocb<'_, T>,
    iov: &mut IovIterSource<'_>,
    wait: Wait,
    size: impl FnOnce() -> Result<u64>,
) -> Result<usize> {
    let start = u64::try_from(kiocb.ki_pos())?;
    let guard = pages.lock_for_writing(wait)?;
    match bytes_before(start, iov.len(), size()?) {
        0 => Err(ENOSPC),
        room => guard.write(kiocb, iov, room),
    }
}
