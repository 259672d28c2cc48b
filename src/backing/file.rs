// SPDX-License-Identifier: GPL-2.0

//! The file backing: pages are read from a file when they are first touched, written back when they were changed, and
//! taken away by the kernel whenever it needs the memory.

use super::{copy_in, Backing};
use crate::abi;
use crate::abstractions::file_cache::{self, Arrivals, Durability, FileCache};
use crate::abstractions::file_operations::{is_open_for_writing, SyncRange};
use crate::abstractions::folio::Folio;
use crate::abstractions::page_cache::{may_wait, AddressSpace, Wait, WriteGuard};
use crate::abstractions::pseudo_fs::PseudoFsType;
use crate::abstractions::stored_file::StoredFile;
use crate::abstractions::vm_fault::{FaultOutcome, FirstWrite, Installed, VmFault};
use crate::abstractions::work_queue::WorkQueue;
use crate::counters::Counters;
use crate::parameters::Huge;
use kernel::fs::{File, Kiocb};
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::seq_file::{seq_print, SeqFile};
use kernel::sync::Arc;
use kernel::types::ForeignOwnable;

/// A file on a disk, or a part of it, or a block device.
pub(crate) struct FileBacking {
    cache: FileCache,
    /// Bytes that the device has at most; fewer where the file ends before.
    most: u64,
}

impl FileBacking {
    /// Makes a backing of the first `most` bytes of `store`, which has `size` by now, of which no page is in memory yet.
    ///
    /// Fails with `ENOMEM` and `EFBIG`.
    pub(crate) fn new(
        file_system: &'static PseudoFsType,
        store: Arc<StoredFile>,
        size: u64,
        most: u64,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        Ok(Self {
            cache: FileCache::new(file_system, store, counters, size)?,
            most,
        })
    }

    /// Returns whether anybody may write to it.
    fn is_writable(&self) -> bool {
        self.cache.store().is_writable()
    }

    /// See [`FileCache::begin_to_sync`].
    pub(crate) fn begin_to_sync(&self) {
        self.cache.begin_to_sync();
    }

    /// Returns how many bytes there are by what the file has now, and has had all the time.
    pub(crate) fn size_of_file(&self) -> u64 {
        self.cache.store().lasting_size().min(self.most)
    }

    /// See [`FileCache::answer_touch`].
    pub(crate) fn answer_touch<'a>(&self, touch: &'a VmFault) -> FaultOutcome<'a> {
        self.cache.answer_touch(touch)
    }

    /// See [`FileCache::answer_first_write`].
    pub(crate) fn answer_first_write<'a>(
        &self,
        write: FirstWrite<'a>,
        is_over: impl Fn() -> bool,
    ) -> Installed<'a> {
        self.cache.answer_first_write(write, is_over)
    }

    /// See [`FileCache::note_change`].
    pub(crate) fn note_change(&self) {
        self.cache.note_change();
    }
}

impl Arrivals for Counters {
    fn note(&self, folio: &Folio) {
        self.add_folio(folio.order(), folio.size());
    }
}

impl Backing for FileBacking {
    const KIND: u32 = abi::BACKING_FILE;
    const IS_STORED: bool = true;
    type Usage = ();

    fn open(&self, file: &File) -> Result {
        if is_open_for_writing(file) && !self.is_writable() {
            return Err(EROFS);
        }
        Ok(())
    }

    fn address_space(&self) -> &AddressSpace {
        &self.cache
    }

    fn overlaps(&self, file: &StoredFile, most: u64) -> bool {
        let store = self.cache.store();
        let (start, other) = (store.offset(), file.offset());
        store.is_same_file(file)
            && start < other.saturating_add(most)
            && other < start.saturating_add(self.most)
    }

    fn read<T: ForeignOwnable>(
        &self,
        kiocb: &mut Kiocb<'_, T>,
        iov: &mut IovIterDest<'_>,
        size: impl Fn() -> u64,
    ) -> Result<usize> {
        self.cache.read(kiocb, iov, size())
    }

    fn write<T: ForeignOwnable>(
        &self,
        kiocb: &mut Kiocb<'_, T>,
        iov: &mut IovIterSource<'_>,
        size: impl FnOnce() -> Result<u64>,
    ) -> Result<usize> {
        if may_wait(kiocb) == Wait::Forbidden {
            // It may have to be read before, or wait until there are fewer dirty pages.
            return Err(EAGAIN);
        }
        if !self.cache.store().takes_writes() {
            return Err(EPERM);
        }
        copy_in(&self.cache, kiocb, iov, Wait::Allowed, size)
    }

    fn finish_write<T: ForeignOwnable>(
        &self,
        kiocb: &mut Kiocb<'_, T>,
        written: usize,
    ) -> Result<usize> {
        file_cache::sync_written(kiocb, written)
    }

    fn sync(&self, range: SyncRange) -> Result {
        let durability = if range.data_only {
            Durability::Data
        } else {
            Durability::Full
        };
        self.cache.write_back(range.start, range.last, durability)
    }

    fn settle(&self) {
        if self.is_writable() {
            // Nothing interrupts that.
            let _ = self.cache.write_back(0, u64::MAX, Durability::Written);
        }
    }

    fn show(&self, output: &SeqFile) {
        let store = self.cache.store();
        seq_print!(output, "mmapdev-file-offset:\t{}\n", store.offset());
        let access = if store.is_writable() {
            "read-write"
        } else {
            "read-only"
        };
        seq_print!(output, "mmapdev-file-access:\t{access}\n");
        // Whether a second copy of what is read is in memory.
        let way = if store.is_direct() {
            "direct"
        } else {
            "cached"
        };
        seq_print!(output, "mmapdev-file-io:\t{way}\n");
    }

    fn queue(&self) -> Option<&WorkQueue> {
        Some(self.cache.store().changes())
    }

    fn foreign_size(&self) -> Option<u64> {
        Some(self.size_of_file())
    }

    fn wait_to_bring_in(&self) -> Result {
        self.cache.wait_while_closed(Wait::Allowed)
    }

    fn cut_off(&self, guard: &WriteGuard<'_>) {
        // (The guard is that of these pages, and a file's size can be counted.)
        let _ = self.cache.cut_off(guard, self.most);
    }

    fn must_follow(&self) -> bool {
        self.cache.store().was_shorter()
    }

    fn follow_size(&self, guard: &WriteGuard<'_>, removed: &mut u64) -> Result {
        self.cache.follow(guard, self.most, removed)
    }

    fn set_size(&self, _guard: &WriteGuard<'_>, _old: u64, _new: u64) -> Result<u64> {
        Err(EOPNOTSUPP)
    }

    fn punch(&self, _guard: &WriteGuard<'_>, _start: u64, _end: u64) -> Result<u64> {
        Err(EOPNOTSUPP)
    }

    fn empty(&self, guard: &WriteGuard<'_>) -> u64 {
        // Whoever stores through a mapping from now on has to ask, and is refused: no store is lost below.
        // (The guard is that of these pages, so that none of it fails.)
        let _ = self.cache.unmap(guard);
        // Who is killed meanwhile leaves it to the file's own time to come to the disk.
        let _ = self.cache.write_back(0, u64::MAX, Durability::Full);
        self.cache.empty(guard).unwrap_or(0)
    }

    fn huge(&self) -> Huge {
        Huge::Always
    }

    fn largest_folio(&self) -> usize {
        PAGE_SIZE << self.cache.max_order()
    }
}
