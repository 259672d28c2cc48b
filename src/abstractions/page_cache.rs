// SPDX-License-Identifier: GPL-2.0

//! The page cache: an inode without a path, its `struct address_space`, and the operations on it.
//!
//! C headers: [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h),
//! [`include/linux/fs.h`](srctree/include/linux/fs.h). Reference:
//! <https://docs.kernel.org/filesystems/locking.html>
//!
//! # Lock order
//!
//! Outer to inner, as at the top of `mm/filemap.c` and `mm/rmap.c`:
//!
//! ```text
//! inode lock (i_rwsem)                [`AddressSpace::lock_for_writing`]
//!   mmap_lock or per-VMA lock         taken by the kernel before a fault handler runs
//!     invalidate lock                 [`AddressSpace::lock_shared_against_invalidation`], and exclusively
//!                                     [`WriteGuard::set_size`], [`WriteGuard::punch`], and what is in
//!                                     [`super::file_size`]
//!       folio lock                    [`super::folio::LockedFolio`]
//! ```
//!
//! User memory may be touched, and so a page fault taken, under the inode lock; never under the
//! invalidate lock or a folio lock.

use super::folio::{Folio, LockedFolio, NewFolio};
use super::pseudo_fs::PseudoMount;
use super::{helpers, iov};
use core::marker::{PhantomData, PhantomPinned};
use core::ops::Deref;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::{from_err_ptr, to_result};
use kernel::fs::Kiocb;
use kernel::iov::IovIterSource;
use kernel::page::{PAGE_SHIFT, PAGE_SIZE};
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;
use kernel::types::{ForeignOwnable, NotThreadSafe, Opaque};

/// The pages of one file in memory, mirroring `struct address_space`.
///
/// # Invariants
///
/// It is that of a [`PageCache`] or of a [`super::file_cache::FileCache`], which is alive: embedded in its inode
/// (`host`), with operations that read a folio and begin and end a write, and with a `gfp_mask` that never changes.
#[repr(transparent)]
pub(crate) struct AddressSpace(Opaque<bindings::address_space>);

// SAFETY: An address space is made for use from many threads; the C side does its own locking.
unsafe impl Sync for AddressSpace {}

/// Whether a call may wait for memory and locks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Sleep until it can be had.
    Allowed,
    /// Fail with `EAGAIN` rather than sleep, as `RWF_NOWAIT` asks.
    Forbidden,
}

/// What came of offering a new folio to a page cache.
pub(crate) enum Added {
    /// The page cache has taken it, and it is locked for the caller.
    Here(LockedFolio),
    /// Something is in its place already, perhaps since a moment ago: look again.
    Occupied,
}

impl AddressSpace {
    /// Makes a reference from a pointer.
    ///
    /// # Safety
    ///
    /// `mapping` must be the address space of a [`PageCache`] or a [`super::file_cache::FileCache`] that is alive for
    /// `'a`.
    pub(super) unsafe fn from_raw<'a>(mapping: *mut bindings::address_space) -> &'a Self {
        // SAFETY: The type is transparent, and the caller promises the rest.
        unsafe { &*mapping.cast() }
    }

    /// Returns the raw pointer.
    pub(super) fn as_raw(&self) -> *mut bindings::address_space {
        self.0.get()
    }

    /// Returns the inode that it is embedded in.
    pub(super) fn host(&self) -> *mut bindings::inode {
        // SAFETY: By the type invariant the pointers are valid, and `host` never changes.
        unsafe { (*self.as_raw()).host }
    }

    /// Returns the size of the file in bytes, or where a folio ends that the end of the file divides, see
    /// [`WriteGuard::set_size`].
    ///
    /// Mirrors `i_size_read()`. Unless the inode lock or the invalidate lock is held, it may have
    /// changed by the time the caller looks at it.
    pub(crate) fn size(&self) -> u64 {
        // SAFETY: The inode is alive by the type invariant.
        let size = unsafe { helpers::abstractions_helper_i_size_read(self.host()) };
        // The VFS keeps sizes from 0 to `s_maxbytes`.
        size as u64
    }

    /// Returns how many bytes of memory the page cache holds at this moment.
    pub(crate) fn resident_bytes(&self) -> u64 {
        // SAFETY: The pointer is valid by the type invariant. C code reads this word, too, without a
        // lock.
        let pages = unsafe { (&raw const (*self.as_raw()).nrpages).read_volatile() };
        (pages as u64) << PAGE_SHIFT
    }

    /// Returns the largest folio order that the page cache takes.
    pub(crate) fn max_order(&self) -> u32 {
        // SAFETY: The pointer is valid by the type invariant.
        unsafe { helpers::abstractions_helper_mapping_max_folio_order(self.as_raw()) }
    }

    /// Returns the folio that holds page `index`, if there is one.
    ///
    /// Mirrors `filemap_get_folio()`. Does not sleep and takes no lock: the folio may leave the page
    /// cache at any moment, its memory stays.
    pub(crate) fn get_folio(&self, index: usize) -> Option<ARef<Folio>> {
        // SAFETY: The pointer is valid by the type invariant.
        let folio = unsafe { helpers::abstractions_helper_filemap_get_folio(self.as_raw(), index) };
        let folio = NonNull::new(from_err_ptr(folio).ok()?)?;
        // SAFETY: A returned folio comes with a reference.
        Some(unsafe { Folio::from_raw(folio) })
    }

    /// Returns the folio that holds page `index`, locked, if there is one.
    ///
    /// Mirrors `filemap_lock_folio()`. Sleeps until the lock is had; with [`Wait::Forbidden`] fails
    /// with `EAGAIN` instead.
    pub(crate) fn lock_folio(&self, index: usize, wait: Wait) -> Result<Option<LockedFolio>> {
        let mapping = self.as_raw();
        let found = match wait {
            // SAFETY: The pointer is valid by the type invariant.
            Wait::Allowed => unsafe {
                helpers::abstractions_helper_filemap_lock_folio(mapping, index)
            },
            // SAFETY: The pointer is valid by the type invariant.
            Wait::Forbidden => unsafe {
                helpers::abstractions_helper_filemap_trylock_folio(mapping, index)
            },
        };
        match from_err_ptr(found) {
            Ok(folio) => Ok(NonNull::new(folio).map(|folio| {
                // SAFETY: A returned folio comes with a reference and its lock.
                unsafe { LockedFolio::from_raw(folio) }
            })),
            Err(error) if error == ENOENT => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the page index of the first folio at or after `index` and before `end`.
    ///
    /// An index inside a folio is its own answer. Does not sleep.
    pub(crate) fn next_present(&self, index: usize, end: usize) -> Option<usize> {
        let mut index = index;
        while index < end {
            // SAFETY: The xarray is valid for as long as the address space is. The returned entry is
            // looked at as a number only, so that it does not matter that it may be gone.
            let entry = unsafe {
                bindings::xa_find(
                    &raw mut (*self.as_raw()).i_pages,
                    &mut index,
                    end - 1,
                    bindings::XA_PRESENT,
                )
            };
            if entry.is_null() {
                return None;
            }
            // SAFETY: The function looks at the bits of the pointer only.
            if !unsafe { helpers::abstractions_helper_xa_is_value(entry) } {
                return Some(index);
            }
            // A shadow of a page that was reclaimed: nothing is there.
            index += 1;
        }
        None
    }

    /// Locks the page cache, shared, against truncation and hole punching.
    ///
    /// Mirrors `filemap_invalidate_lock_shared()`. Whoever looks a page up and brings it in where it
    /// is absent holds this around both. Sleeps; with [`Wait::Forbidden`] fails with `EAGAIN` instead.
    pub(crate) fn lock_shared_against_invalidation(
        &self,
        wait: Wait,
    ) -> Result<InvalidateSharedGuard<'_>> {
        let mapping = self.as_raw();
        match wait {
            // SAFETY: The pointer is valid by the type invariant.
            Wait::Allowed => unsafe {
                helpers::abstractions_helper_filemap_invalidate_lock_shared(mapping)
            },
            Wait::Forbidden => {
                // SAFETY: The pointer is valid by the type invariant.
                if !unsafe {
                    helpers::abstractions_helper_filemap_invalidate_trylock_shared(mapping)
                } {
                    return Err(EAGAIN);
                }
            }
        }
        // INVARIANT: The lock was just taken.
        Ok(InvalidateSharedGuard {
            space: self,
            _not_send: NotThreadSafe,
        })
    }

    /// Locks the inode for writing, as `write()` does: one writer at a time, and no change of size.
    ///
    /// Mirrors `inode_lock_killable()`. Sleeps; fails with `EINTR` where whoever calls is killed meanwhile, and with
    /// [`Wait::Forbidden`] with `EAGAIN` instead of sleeping.
    pub(crate) fn lock_for_writing(&self, wait: Wait) -> Result<WriteGuard<'_>> {
        match wait {
            Wait::Allowed => self.lock_for_writing_unless_killed(),
            Wait::Forbidden => {
                // SAFETY: The inode is alive by the type invariant.
                if !unsafe { helpers::abstractions_helper_inode_trylock(self.host()) } {
                    return Err(EAGAIN);
                }
                // INVARIANT: The lock was just taken.
                Ok(WriteGuard {
                    space: self,
                    _not_send: NotThreadSafe,
                })
            }
        }
    }

    /// Locks the inode for writing unless whoever calls is killed meanwhile: `EINTR`. Mirrors `inode_lock_killable()`. Sleeps.
    pub(crate) fn lock_for_writing_unless_killed(&self) -> Result<WriteGuard<'_>> {
        // SAFETY: The inode is alive by the type invariant.
        to_result(unsafe { helpers::abstractions_helper_inode_lock_killable(self.host()) })?;
        // INVARIANT: The lock was just taken.
        Ok(WriteGuard {
            space: self,
            _not_send: NotThreadSafe,
        })
    }

    /// Locks the inode for writing, however long that takes. Mirrors `inode_lock()`. Sleeps.
    pub(crate) fn lock_for_writing_always(&self) -> WriteGuard<'_> {
        // SAFETY: The inode is alive by the type invariant.
        unsafe { helpers::abstractions_helper_inode_lock(self.host()) };
        // INVARIANT: The lock was just taken.
        WriteGuard {
            space: self,
            _not_send: NotThreadSafe,
        }
    }

    /// Takes all pages, and private copies of them, out of all mappings, into which the next touch may bring them again.
    ///
    /// Mirrors `unmap_mapping_range()`. Sleeps.
    pub(crate) fn unmap(&self) {
        // SAFETY: The address space is alive. A length of 0 means all the rest.
        unsafe { bindings::unmap_mapping_range(self.as_raw(), 0, 0, 1) };
    }

    fn gfp(&self, order: u32, wait: Wait) -> bindings::gfp_t {
        // SAFETY: The pointer is valid, and the mask fixed, by the type invariant.
        let mut gfp = unsafe { (*self.as_raw()).gfp_mask };
        if wait == Wait::Forbidden {
            gfp = (gfp & !bindings::GFP_KERNEL) | bindings::GFP_NOWAIT;
        }
        if order > 0 {
            // A smaller folio does as well: neither try hard nor complain.
            gfp |= (1 << bindings::___GFP_NORETRY_BIT) | bindings::__GFP_NOWARN;
        }
        gfp
    }
}

/// Proof that the page cache is locked, shared, against truncation and hole punching.
///
/// # Invariants
///
/// The invalidate lock of `space` is held, shared, and this value owns it.
pub(crate) struct InvalidateSharedGuard<'a> {
    space: &'a AddressSpace,
    _not_send: NotThreadSafe,
}

impl InvalidateSharedGuard<'_> {
    /// Allocates a zeroed folio of `2^order` pages and puts it into the page cache at `index`.
    ///
    /// The memory is charged to the calling task's memory cgroup. Mirrors `filemap_add_folio()`.
    /// Sleeps unless `wait` forbids it.
    ///
    /// # Errors
    ///
    /// - `ENOMEM`: no memory, or none in pieces of this order, or the cgroup has reached its limit.
    /// - `EAGAIN`: the same where `wait` forbids sleeping.
    /// - `EINVAL`: `index` is no multiple of the folio's size, or the page cache takes no folio of
    ///   this order, or the folio would reach beyond the last page of the file, see [`WriteGuard::set_size`].
    pub(crate) fn add_zeroed_folio(&self, index: usize, order: u32, wait: Wait) -> Result<Added> {
        if order > self.space.max_order() || index & ((1 << order) - 1) != 0 {
            return Err(EINVAL);
        }
        // The size does not become less while the lock is held. (That of a page cache that is written back may, which the
        // kernel can account for there.)
        let pages = self.space.size().div_ceil(PAGE_SIZE as u64);
        let end = (index as u64).checked_add(1 << order);
        if end.is_none_or(|end| end > pages) {
            return Err(EINVAL);
        }
        let gfp = self.space.gfp(order, wait);
        let no_memory = |error| match wait {
            Wait::Forbidden if error == ENOMEM => EAGAIN,
            _ => error,
        };
        let folio = NewFolio::zeroed(order, gfp).map_err(no_memory)?;
        // SAFETY: The address space is valid, the folio is new, its order is one that the address
        // space takes, and its index is aligned to it.
        let result = to_result(unsafe {
            bindings::filemap_add_folio(self.space.as_raw(), folio.as_raw(), index, gfp)
        });
        match result {
            // SAFETY: `filemap_add_folio()` succeeded.
            Ok(()) => Ok(Added::Here(unsafe { folio.into_locked() })),
            Err(error) if error == EEXIST => Ok(Added::Occupied),
            Err(error) => Err(no_memory(error)),
        }
    }
}

impl Drop for InvalidateSharedGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the lock is held.
        unsafe {
            helpers::abstractions_helper_filemap_invalidate_unlock_shared(self.space.as_raw())
        };
    }
}

/// The page cache while it is locked against whoever brings in pages; see [`WriteGuard::lock_against_faults`].
///
/// # Invariants
///
/// The invalidate lock of `space` is held exclusively, and this value owns it; the inode lock is held, too.
pub(super) struct InvalidateGuard<'a> {
    space: &'a AddressSpace,
    _not_send: NotThreadSafe,
}

impl Drop for InvalidateGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the lock is held.
        unsafe { helpers::abstractions_helper_filemap_invalidate_unlock(self.space.as_raw()) };
    }
}

/// Proof that the inode is locked for writing.
///
/// # Invariants
///
/// The inode lock of `space` is held exclusively, and this value owns it.
pub(crate) struct WriteGuard<'a> {
    space: &'a AddressSpace,
    _not_send: NotThreadSafe,
}

impl<'a> WriteGuard<'a> {
    /// Returns whether it is the lock of that address space.
    pub(super) fn is_of(&self, space: &AddressSpace) -> bool {
        self.space.as_raw() == space.as_raw()
    }

    /// Locks the page cache against faults, reads and writes that would bring in pages.
    pub(super) fn lock_against_faults(&self) -> InvalidateGuard<'_> {
        // SAFETY: The pointer is valid by the type invariant of `AddressSpace`.
        unsafe { helpers::abstractions_helper_filemap_invalidate_lock(self.space.as_raw()) };
        // INVARIANT: The lock was just taken; the inode lock is held by the type invariant.
        InvalidateGuard {
            space: self.space,
            _not_send: NotThreadSafe,
        }
    }

    /// Does the same if nobody holds the lock; `None` where somebody does.
    pub(super) fn try_lock_against_faults(&self) -> Option<InvalidateGuard<'_>> {
        // SAFETY: The pointer is valid by the type invariant of `AddressSpace`.
        let lock = unsafe { &raw mut (*self.space.as_raw()).invalidate_lock };
        // SAFETY: The lock is there for as long as the address space is.
        let taken = unsafe { bindings::down_write_trylock(lock) } != 0;
        // INVARIANT: The lock was just taken; the inode lock is held by the type invariant.
        taken.then(|| InvalidateGuard {
            space: self.space,
            _not_send: NotThreadSafe,
        })
    }

    /// Sets the size to `new` bytes, and leaves to the caller what is beyond it. For a page cache in memory there is
    /// [`Self::set_size`].
    pub(super) fn set_size_alone(&self, new: bindings::loff_t) {
        // SAFETY: The inode is alive, and the inode lock, which sizes are changed under, is held.
        unsafe { helpers::abstractions_helper_i_size_write(self.space.host(), new) };
    }

    /// Changes the size of the file from `old` to `new` bytes, and returns how many bytes of memory went by that.
    ///
    /// What is beyond the new end leaves every mapping, private copies of it as well, and the page cache; a
    /// page that somebody has pinned stays theirs. Of a page or a large folio that the new end divides and that
    /// cannot be split now, because somebody uses it, the rest is overwritten with zeros and stays; then
    /// [`AddressSpace::size`] is where it ends, and `new` is the caller's to heed, as it does with a tmpfs, whose
    /// huge pages can be touched beyond the end of a file.
    ///
    /// So each folio lies within [`AddressSpace::size`] at all times. It has to: what splits a large folio drops
    /// dirty parts that are beyond it, and accounts for that in the write-back of the inode, which has none.
    ///
    /// Mirrors `truncate_setsize()` under the invalidate lock. Sleeps. Fails with `EFBIG` for a size beyond
    /// what the VFS can count.
    pub(crate) fn set_size(&self, old: u64, new: u64) -> Result<u64> {
        bindings::loff_t::try_from(new).map_err(|_| EFBIG)?;
        Ok(self.change_size(old, new))
    }

    /// Takes everything out of the file and sets its size to 0, see [`Self::set_size`].
    pub(crate) fn empty(&self) -> u64 {
        self.change_size(0, 0)
    }

    fn change_size(&self, old: u64, new: u64) -> u64 {
        let _guard = self.lock_against_faults();
        let before = self.space.resident_bytes();
        let (start, end) = (old.min(new), self.space.size());
        // Both ends are ones that a file has or can have.
        if start < end {
            self.unmap_whole_pages(start, end);
            // No folio reaches beyond this end.
            self.take_out_at_once(start, end);
        }
        let end_of_left = self.folio_end(new);
        self.set_size_alone(new.max(end_of_left) as bindings::loff_t);
        if new < end {
            let first = new.next_multiple_of(PAGE_SIZE as u64) as bindings::loff_t;
            // SAFETY: The address space is alive. A length of 0 means all the rest; private copies go, too.
            unsafe { bindings::unmap_mapping_range(self.space.as_raw(), first, 0, 1) };
        }
        before.saturating_sub(self.space.resident_bytes())
    }

    /// Takes the bytes from `start` to `end`, exclusive, out of the file, so that they read as zeros, and
    /// returns how many bytes of memory went by that.
    ///
    /// Whole pages leave every mapping, private copies stay, and the page cache; a page that somebody has
    /// pinned stays theirs. What is not whole pages, and a part of a large folio that cannot be split, is
    /// overwritten with zeros. Mirrors `truncate_pagecache_range()` under the invalidate lock. Sleeps.
    ///
    /// Fails with `EFBIG` for an end beyond what the VFS can count. An empty range is none.
    pub(crate) fn punch(&self, start: u64, end: u64) -> Result<u64> {
        if start >= end {
            return Ok(0);
        }
        bindings::loff_t::try_from(end).map_err(|_| EFBIG)?;
        let _guard = self.lock_against_faults();
        let before = self.space.resident_bytes();
        self.take_out(start, end);
        Ok(before.saturating_sub(self.space.resident_bytes()))
    }

    /// Takes out the bytes from `start` to `end`, which is above it and no more than a file can have. The
    /// invalidate lock must be held.
    ///
    /// What is asked of `truncate_inode_pages_range()` never ends within a large folio but by one whole page or less:
    /// it splits such a folio twice, and where somebody else has a reference to the latter half just then, it
    /// takes that out as a whole, beyond the end as well. (A page alone is on its own once the folio was split
    /// for it, and if it was not, no folio is taken out.)
    fn take_out(&self, start: u64, end: u64) {
        const PAGE: u64 = PAGE_SIZE as u64;
        let whole = end - end % PAGE;
        // All at once: there may be very many mappings, and each page would be looked for in all of them.
        self.unmap_whole_pages(start, end);
        if whole < end {
            self.take_out_at_once(start.max(whole), end);
        }
        let mut end = whole;
        if start < end && self.folio_end(end - PAGE) > end {
            let last = end - PAGE;
            self.take_out_at_once(start.max(last), end);
            end = last;
            let folio = self.space.get_folio(page_of(last));
            let folio_start = folio.map_or(last, |folio| folio.start());
            // It could not be split: each page of it is tried on its own.
            while start < end && folio_start < end {
                self.take_out_at_once(start.max(end - PAGE), end);
                end -= PAGE;
            }
        }
        if start < end {
            self.take_out_at_once(start, end);
        }
    }

    /// Returns where the folio that has a byte ends, or 0 where there is none.
    fn folio_end(&self, offset: u64) -> u64 {
        let folio = self.space.get_folio(page_of(offset));
        folio.map_or(0, |folio| folio.end())
    }

    /// Takes the whole pages between two offsets out of all mappings; private copies stay. What a touch finds in the page cache
    /// and brings in again leaves them page by page when it is taken out of that.
    fn unmap_whole_pages(&self, start: u64, end: u64) {
        const PAGE: u64 = PAGE_SIZE as u64;
        let (first, last) = (start.next_multiple_of(PAGE), end - end % PAGE);
        if first < last {
            let (first, len) = (
                first as bindings::loff_t,
                (last - first) as bindings::loff_t,
            );
            // SAFETY: The address space is alive.
            unsafe { bindings::unmap_mapping_range(self.space.as_raw(), first, len, 0) };
        }
    }

    /// Calls `truncate_inode_pages_range()`, see [`Self::take_out`].
    fn take_out_at_once(&self, start: u64, end: u64) {
        // SAFETY: The address space is alive, and both locks that pages are taken out under are held.
        unsafe {
            bindings::truncate_inode_pages_range(
                self.space.as_raw(),
                start as bindings::loff_t,
                end - 1,
            )
        };
    }

    /// Copies from user memory into the page cache, at most `limit` bytes, and moves the position on.
    ///
    /// Mirrors `generic_perform_write()`, which calls [`AddressSpaceOperations::write_begin`] for each
    /// folio. Touches user memory under no lock but the inode's. The file does not grow: `limit` is
    /// the caller's to choose so that the write ends within it.
    ///
    /// Returns how many bytes were written; fewer where user memory ended or an error came after the
    /// first ones. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the file's page cache is another one than is locked, `EFAULT` if no byte could be
    /// read from user memory, `EINTR` if the task is being killed, and what `write_begin` gives.
    pub(crate) fn write<T: ForeignOwnable>(
        &self,
        kiocb: &mut Kiocb<'_, T>,
        source: &mut IovIterSource<'_>,
        limit: usize,
    ) -> Result<usize> {
        // SAFETY: A kiocb and its file are valid for the lifetime of the reference to it.
        let mapping = unsafe { (*(*kiocb.as_raw()).ki_filp).f_mapping };
        if mapping != self.space.as_raw() {
            return Err(EINVAL);
        }
        // SAFETY: The kiocb and the iterator are valid by their types, the inode is locked, and by the
        // invariant of `AddressSpace` it has `write_begin` and `write_end`.
        let written = unsafe {
            iov::with_limit(source.as_raw(), limit as u64, |iter| {
                bindings::generic_perform_write(kiocb.as_raw(), iter)
            })
        };
        // `generic_perform_write()` has moved `ki_pos` on by what it wrote.
        iov::moved(written)
    }
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the lock is held.
        unsafe { helpers::abstractions_helper_inode_unlock(self.space.host()) };
    }
}

/// What an address space does when the kernel wants a page of it, mirroring
/// `struct address_space_operations`.
///
/// For a page cache whose only store is memory. (Operations for one that is filled from and written
/// back to somewhere else belong here too, once something needs them.)
pub(crate) trait AddressSpaceOperations: Sized + Send + Sync + 'static {
    /// Finds or brings in the folio that holds page `index`, locked, so that up to `len` bytes from
    /// there on can be copied into it.
    ///
    /// A folio that holds fewer will be asked to be followed by the next. Its content must be there
    /// ([`Folio::is_uptodate`]).
    ///
    /// Context: process, under the inode lock; may sleep unless `wait` forbids it. Mirrors
    /// `write_begin`.
    fn write_begin(
        cache: &PageCache<Self>,
        index: usize,
        len: usize,
        wait: Wait,
    ) -> Result<LockedFolio>;
}

/// What an address space does that no call writes to: the one who has it brings in all pages, or there are none.
pub(super) struct Unwritten;

impl AddressSpaceOperations for Unwritten {
    fn write_begin(
        _cache: &PageCache<Self>,
        _index: usize,
        _len: usize,
        _wait: Wait,
    ) -> Result<LockedFolio> {
        Err(EIO)
    }
}

/// An inode without a path that keeps pages in memory for a device.
///
/// It is the one owner of the inode: the pages go when it is dropped. Nobody else keeps a reference to
/// the inode, only to the address space, and only for as long as this is borrowed.
///
/// # Invariants
///
/// - `inode` is valid, its `i_private` points at this value, and its `a_ops` are those of `A`.
/// - This value owns the only reference to it.
/// - The inode was made on `_mount`, which it does not keep by itself.
#[pin_data(PinnedDrop)]
pub(crate) struct PageCache<A: AddressSpaceOperations> {
    inode: NonNull<bindings::inode>,
    operations: A,
    // Dropped after `PinnedDrop::drop` has let go of the inode, as all fields are.
    _mount: Arc<PseudoMount>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: The inode may be used and released from any thread, and the operations are `Send`.
unsafe impl<A: AddressSpaceOperations> Send for PageCache<A> {}
// SAFETY: The shared methods are those of `AddressSpace` and of the operations, both `Sync`.
unsafe impl<A: AddressSpaceOperations> Sync for PageCache<A> {}

impl<A: AddressSpaceOperations> PageCache<A> {
    /// Makes a page cache of `size` bytes, with nothing in it, that keeps its pages until it is
    /// dropped: they are neither reclaimed nor written anywhere.
    ///
    /// With `large_folios` it takes folios of any order that the kernel supports, else single pages.
    ///
    /// Fails with `ENOMEM`, and with `EFBIG` for a size beyond what the VFS can count. May sleep.
    pub(crate) fn new_in_memory(
        mount: Arc<PseudoMount>,
        size: u64,
        large_folios: bool,
        operations: A,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(&this in Self {
            inode: {
                let size = bindings::loff_t::try_from(size).map_err(|_| EFBIG)?;
                let inode = mount.alloc_inode()?;
                // SAFETY: The inode is new and nobody else has seen it.
                unsafe {
                    let raw = inode.as_ptr();
                    let mapping = (*raw).i_mapping;
                    (*raw).i_private = this.as_ptr().cast();
                    (*mapping).a_ops = Operations::<A>::table();
                    helpers::abstractions_helper_i_size_write(raw, size);
                    helpers::abstractions_helper_mapping_set_unevictable(mapping);
                    if large_folios {
                        helpers::abstractions_helper_mapping_set_large_folios(mapping);
                    }
                }
                // INVARIANT: Set just now; the reference from the allocation is the only one.
                inode
            },
            operations,
            _mount: mount,
            _pin: PhantomPinned,
        })
    }

    /// Returns the operations, with whatever the driver keeps in them.
    pub(crate) fn operations(&self) -> &A {
        &self.operations
    }
}

impl<A: AddressSpaceOperations> Deref for PageCache<A> {
    type Target = AddressSpace;

    fn deref(&self) -> &AddressSpace {
        // SAFETY: By the type invariant the inode is valid for as long as this value is.
        unsafe { AddressSpace::from_raw((*self.inode.as_ptr()).i_mapping) }
    }
}

#[pinned_drop]
impl<A: AddressSpaceOperations> PinnedDrop for PageCache<A> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant this is the only reference. Its end evicts the inode, and
        // with it every folio: no operation is called after this.
        unsafe { bindings::iput(self.inode.as_ptr()) };
    }
}

/// The C table of operations for `A`.
struct Operations<A>(PhantomData<A>);

impl<A: AddressSpaceOperations> Operations<A> {
    const TABLE: bindings::address_space_operations = bindings::address_space_operations {
        read_folio: Some(Self::read_folio),
        write_begin: Some(Self::write_begin),
        write_end: Some(Self::write_end),
        dirty_folio: Some(bindings::noop_dirty_folio),
        migrate_folio: Some(bindings::filemap_migrate_folio),
        error_remove_folio: Some(Self::keep_on_error),
        ..pin_init::zeroed()
    };

    /// Returns the table, which is there as long as the module is.
    const fn table() -> &'static bindings::address_space_operations {
        &Self::TABLE
    }

    /// # Safety
    ///
    /// `mapping` must be the address space of a [`PageCache<A>`].
    unsafe fn cache<'a>(mapping: *mut bindings::address_space) -> &'a PageCache<A> {
        // SAFETY: By the invariants of `PageCache`.
        unsafe { &*(*(*mapping).host).i_private.cast::<PageCache<A>>() }
    }

    /// Fills a folio that the kernel itself has added, which happens where one is looked up for
    /// splicing and punched out in between: it reads as zeros, as what is absent does. Where it was cut off, it does not stay,
    /// and this fails with `ENXIO`.
    ///
    /// # Safety
    ///
    /// `folio` must be locked and in the address space of a [`PageCache<A>`]; the lock is given up.
    unsafe extern "C" fn read_folio(
        _file: *mut bindings::file,
        folio: *mut bindings::folio,
    ) -> c_int {
        let Some(folio) = NonNull::new(folio) else {
            return EIO.to_errno();
        };
        // SAFETY: The caller holds the folio alive.
        unsafe { helpers::abstractions_helper_folio_get(folio.as_ptr()) };
        // SAFETY: The reference was just taken, and the caller gives up the lock.
        let folio = unsafe { LockedFolio::from_raw(folio) };
        // SAFETY: A folio that is locked and in an address space stays there.
        let mapping = unsafe { (*folio.as_raw()).__bindgen_anon_1.__bindgen_anon_1.mapping };
        // SAFETY: By the requirements of this function.
        let space = unsafe { Self::cache(mapping) };
        // Who looked it up holds the invalidate lock, so that the size stays.
        let (start, size) = (folio.start(), folio.size() as u64);
        if start >= space.size() {
            // Which takes that lock.
            drop(folio);
            // SAFETY: The address space is alive; nobody has stored to that folio, which is as new as it was.
            unsafe {
                bindings::truncate_inode_pages_range(
                    mapping,
                    start as bindings::loff_t,
                    start + size - 1,
                )
            };
            return ENXIO.to_errno();
        }
        folio.zero_fill();
        folio.mark_dirty();
        0
    }

    /// # Safety
    ///
    /// Must be called by `generic_perform_write()` on the address space of a [`PageCache<A>`].
    unsafe extern "C" fn write_begin(
        kiocb: *const bindings::kiocb,
        mapping: *mut bindings::address_space,
        pos: bindings::loff_t,
        len: c_uint,
        folio: *mut *mut bindings::folio,
        _fsdata: *mut *mut c_void,
    ) -> c_int {
        // SAFETY: By the requirements of this function.
        let cache = unsafe { Self::cache(mapping) };
        // SAFETY: The caller passes a valid kiocb.
        let wait = unsafe { may_wait_raw(kiocb) };
        // The VFS passes no negative position.
        let index = page_of(pos as u64);
        match A::write_begin(cache, index, len as usize, wait) {
            Ok(found) if found.holds(mapping, index) && found.is_uptodate() => {
                // SAFETY: The caller passes a place for the pointer; it takes over the reference and
                // the lock, and gives them to `write_end`.
                unsafe { *folio = found.into_raw() };
                0
            }
            Ok(_) => {
                kernel::pr_warn_once!("write_begin gave a folio that does not hold the page\n");
                EIO.to_errno()
            }
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `folio` must come from [`Self::write_begin`].
    unsafe extern "C" fn write_end(
        _kiocb: *const bindings::kiocb,
        _mapping: *mut bindings::address_space,
        _pos: bindings::loff_t,
        _len: c_uint,
        copied: c_uint,
        folio: *mut bindings::folio,
        _fsdata: *mut c_void,
    ) -> c_int {
        if let Some(folio) = NonNull::new(folio) {
            // SAFETY: `write_begin` gave the reference and the lock to the caller, who gives them
            // back.
            let folio = unsafe { LockedFolio::from_raw(folio) };
            folio.mark_dirty();
        }
        // The folio was whole before, so that any part of it may be new.
        copied as c_int
    }

    /// Memory that has failed: keep the folio, so that its loss is an error and not a page of zeros.
    ///
    /// # Safety
    ///
    /// None beyond what the caller of an address space operation promises.
    unsafe extern "C" fn keep_on_error(
        _mapping: *mut bindings::address_space,
        _folio: *mut bindings::folio,
    ) -> c_int {
        0
    }
}

/// Returns the index of the page that holds an offset.
pub(crate) fn page_of(offset: u64) -> usize {
    (offset >> PAGE_SHIFT) as usize
}

/// Returns the offset of a page's first byte.
pub(crate) fn start_of(index: usize) -> u64 {
    index as u64 * PAGE_SIZE as u64
}

/// Returns whether a read or write may wait, by its flags (`RWF_NOWAIT`).
pub(crate) fn may_wait<T: ForeignOwnable>(kiocb: &Kiocb<'_, T>) -> Wait {
    // SAFETY: A kiocb is valid for the lifetime of the reference to it.
    unsafe { may_wait_raw(kiocb.as_raw()) }
}

/// # Safety
///
/// `kiocb` must be valid.
unsafe fn may_wait_raw(kiocb: *const bindings::kiocb) -> Wait {
    // SAFETY: By the requirements of this function.
    if unsafe { helpers::abstractions_helper_kiocb_is_nowait(kiocb) } {
        Wait::Forbidden
    } else {
        Wait::Allowed
    }
}

#[kunit_tests(abstractions_page_cache)]
mod tests {
    use super::super::pseudo_fs::PseudoFsType;
    use super::*;

    static FILE_SYSTEM: PseudoFsType = PseudoFsType::new(c"kunit_page_cache", 0x6b75_6e69);

    const PAGES: usize = 64;

    /// A page cache of [`PAGES`] pages.
    fn cache(large_folios: bool) -> Result<Pin<KBox<PageCache<Unwritten>>>> {
        let mount = Arc::new(PseudoMount::new(&FILE_SYSTEM)?, GFP_KERNEL)?;
        let size = (PAGES * PAGE_SIZE) as u64;
        let cache = PageCache::new_in_memory(mount, size, large_folios, Unwritten);
        KBox::pin_init(cache, GFP_KERNEL)
    }

    /// Brings in a folio, which is unlocked then.
    fn add(space: &AddressSpace, index: usize, order: u32) -> Result<ARef<Folio>> {
        let guard = space.lock_shared_against_invalidation(Wait::Allowed)?;
        match guard.add_zeroed_folio(index, order, Wait::Allowed)? {
            Added::Here(folio) => {
                folio.mark_dirty();
                Ok(ARef::from(&*folio))
            }
            Added::Occupied => Err(EEXIST),
        }
    }

    fn resident_pages(space: &AddressSpace) -> u64 {
        space.resident_bytes() >> PAGE_SHIFT
    }

    #[test]
    fn a_new_one_has_its_size_and_nothing_in_it() -> Result {
        let cache = cache(true)?;
        assert_eq!(cache.size(), (PAGES * PAGE_SIZE) as u64);
        assert_eq!(cache.resident_bytes(), 0);
        assert!(cache.get_folio(0).is_none());
        assert!(cache.next_present(0, usize::MAX).is_none());
        Ok(())
    }

    #[test]
    fn a_size_that_no_file_has_is_refused() -> Result {
        let mount = Arc::new(PseudoMount::new(&FILE_SYSTEM)?, GFP_KERNEL)?;
        let cache = PageCache::new_in_memory(mount, 1 << 63, true, Unwritten);
        assert_eq!(KBox::pin_init(cache, GFP_KERNEL).err(), Some(EFBIG));
        Ok(())
    }

    #[test]
    fn a_folio_is_found_at_each_of_its_pages_and_nowhere_else() -> Result {
        let cache = cache(true)?;
        let added = add(&cache, 8, 2)?;
        for index in 8..12 {
            let found = cache.get_folio(index).ok_or(ENOENT)?;
            assert_eq!(found.frame(), added.frame());
            assert_eq!((found.index(), found.order()), (8, 2));
            assert_eq!(found.size(), 4 * PAGE_SIZE);
            assert!(found.is_uptodate() && !found.is_poisoned());
        }
        assert!(cache.get_folio(7).is_none() && cache.get_folio(12).is_none());
        assert_eq!(resident_pages(&cache), 4);
        Ok(())
    }

    #[test]
    fn a_place_that_is_taken_is_not_taken_again() -> Result {
        let cache = cache(true)?;
        add(&cache, 5, 0)?;
        assert_eq!(add(&cache, 5, 0).err(), Some(EEXIST));
        assert_eq!(add(&cache, 4, 2).err(), Some(EEXIST));
        assert_eq!(resident_pages(&cache), 1);
        Ok(())
    }

    #[test]
    fn a_folio_is_refused_off_its_alignment_and_above_the_largest_order() -> Result {
        let large = cache(true)?;
        assert_eq!(add(&large, 6, 2).err(), Some(EINVAL));
        assert_eq!(add(&large, 0, large.max_order() + 1).err(), Some(EINVAL));
        let small = cache(false)?;
        assert_eq!(small.max_order(), 0);
        assert_eq!(add(&small, 0, 1).err(), Some(EINVAL));
        Ok(())
    }

    #[test]
    fn a_folio_that_reaches_beyond_the_end_is_refused() -> Result {
        let mount = Arc::new(PseudoMount::new(&FILE_SYSTEM)?, GFP_KERNEL)?;
        let size = (5 * PAGE_SIZE + 1) as u64;
        let cache = PageCache::new_in_memory(mount, size, true, Unwritten);
        let cache = KBox::pin_init(cache, GFP_KERNEL)?;
        assert_eq!(add(&cache, 4, 2).err(), Some(EINVAL));
        assert_eq!(add(&cache, 6, 0).err(), Some(EINVAL));
        assert_eq!(add(&cache, usize::MAX, 0).err(), Some(EINVAL));
        add(&cache, 0, 2)?;
        add(&cache, 4, 1)?;
        assert_eq!(resident_pages(&cache), 6);
        Ok(())
    }

    #[test]
    fn what_was_not_filled_does_not_become_dirty() -> Result {
        let cache = cache(true)?;
        // SAFETY: The function takes any order and flags, and a null memory policy is the task's own.
        let folio = unsafe {
            bindings::filemap_alloc_folio_noprof(bindings::GFP_KERNEL, 0, core::ptr::null_mut())
        };
        // SAFETY: The allocator gives the only reference, and the folio is new. It is locked when it was added.
        let folio = unsafe {
            let folio = Folio::from_raw(NonNull::new(folio).ok_or(ENOMEM)?);
            let (space, gfp) = (cache.as_raw(), bindings::GFP_KERNEL);
            to_result(bindings::filemap_add_folio(space, folio.as_raw(), 0, gfp))?;
            LockedFolio::from_raw(ARef::into_raw(folio).cast())
        };
        folio.mark_dirty();
        assert!(!folio.is_dirty());
        folio.zero_fill();
        folio.mark_dirty();
        assert!(folio.is_dirty());
        Ok(())
    }

    #[test]
    fn the_next_page_that_is_there_is_found() -> Result {
        let cache = cache(true)?;
        add(&cache, 3, 0)?;
        add(&cache, 32, 4)?;
        assert_eq!(cache.next_present(0, PAGES), Some(3));
        assert_eq!(cache.next_present(3, PAGES), Some(3));
        assert_eq!(cache.next_present(4, PAGES), Some(32));
        assert_eq!(cache.next_present(40, PAGES), Some(40));
        assert_eq!(cache.next_present(48, PAGES), None);
        assert_eq!(cache.next_present(4, 32), None);
        assert_eq!(cache.next_present(4, 4), None);
        Ok(())
    }

    #[test]
    fn a_lock_that_is_held_is_not_waited_for_where_that_is_forbidden() -> Result {
        let cache = cache(true)?;
        add(&cache, 0, 0)?;
        let folio = cache.lock_folio(0, Wait::Allowed)?.ok_or(ENOENT)?;
        assert_eq!(cache.lock_folio(0, Wait::Forbidden).err(), Some(EAGAIN));
        drop(folio);
        assert!(cache.lock_folio(0, Wait::Forbidden)?.is_some());
        assert!(cache.lock_folio(1, Wait::Forbidden)?.is_none());

        let writer = cache.lock_for_writing(Wait::Allowed)?;
        assert_eq!(cache.lock_for_writing(Wait::Forbidden).err(), Some(EAGAIN));
        let invalidation = writer.lock_against_faults();
        let shared = cache.lock_shared_against_invalidation(Wait::Forbidden);
        assert_eq!(shared.err(), Some(EAGAIN));
        drop(invalidation);
        assert!(cache
            .lock_shared_against_invalidation(Wait::Forbidden)
            .is_ok());
        drop(writer);
        assert!(cache.lock_for_writing(Wait::Forbidden).is_ok());
        Ok(())
    }

    #[test]
    fn a_locked_folio_knows_which_pages_it_holds() -> Result {
        let (cache, other) = (cache(true)?, cache(true)?);
        add(&cache, 8, 2)?;
        let folio = cache.lock_folio(9, Wait::Allowed)?.ok_or(ENOENT)?;
        for (index, holds) in [(7, false), (8, true), (11, true), (12, false)] {
            assert_eq!(folio.holds(cache.as_raw(), index), holds);
        }
        assert!(!folio.holds(other.as_raw(), 8));
        Ok(())
    }

    #[test]
    fn a_punch_takes_whole_pages_and_says_how_many_bytes() -> Result {
        let cache = cache(false)?;
        for index in 0..8 {
            add(&cache, index, 0)?;
        }
        let guard = cache.lock_for_writing(Wait::Allowed)?;
        let page = PAGE_SIZE as u64;
        assert_eq!(guard.punch(page, 3 * page)?, 2 * page);
        assert_eq!(guard.punch(page, 3 * page)?, 0);
        // A part of a page is overwritten, and the page stays.
        assert_eq!(guard.punch(4 * page + 1, 6 * page - 1)?, 0);
        assert_eq!(guard.punch(7 * page, 7 * page)?, 0);
        assert_eq!(guard.punch(0, 1 << 63 | 1).err(), Some(EFBIG));
        assert_eq!(resident_pages(&cache), 6);
        assert_eq!(cache.size(), (PAGES * PAGE_SIZE) as u64);
        Ok(())
    }

    #[test]
    fn a_punch_within_a_large_folio_takes_its_pages_alone() -> Result {
        let page = PAGE_SIZE as u64;
        for (first, last) in [(0, 0), (0, 7), (3, 3), (3, 8), (5, 14), (14, 15), (0, 15)] {
            let cache = cache(true)?;
            add(&cache, 16, 4)?;
            let guard = cache.lock_for_writing(Wait::Allowed)?;
            let removed = guard.punch((16 + first) * page, (17 + last) * page)?;
            assert_eq!(removed, (last + 1 - first) * page);
            for index in 0..16 {
                let is_there = cache.get_folio(16 + index as usize).is_some();
                assert_eq!(is_there, index < first || index > last);
            }
        }
        Ok(())
    }

    #[test]
    fn a_punch_within_a_large_folio_that_somebody_holds_takes_nothing() -> Result {
        let cache = cache(true)?;
        let held = add(&cache, 16, 4)?;
        let guard = cache.lock_for_writing(Wait::Allowed)?;
        let page = PAGE_SIZE as u64;
        assert_eq!(guard.punch(18 * page + 1, 29 * page)?, 0);
        assert_eq!(guard.punch(10 * page, 29 * page + 1)?, 0);
        assert_eq!((held.order(), resident_pages(&cache)), (4, 16));
        Ok(())
    }

    #[test]
    fn a_folio_that_is_taken_out_stays_with_who_holds_it() -> Result {
        let cache = cache(true)?;
        let held = add(&cache, 0, 2)?;
        let frame = held.frame();
        let removed = cache.lock_for_writing(Wait::Allowed)?.empty();
        assert_eq!(removed, 4 * PAGE_SIZE as u64);
        assert!(cache.get_folio(0).is_none());
        assert_eq!((held.frame(), held.size()), (frame, 4 * PAGE_SIZE));
        Ok(())
    }

    #[test]
    fn what_is_beyond_a_new_end_goes() -> Result {
        let cache = cache(false)?;
        for index in 0..8 {
            add(&cache, index, 0)?;
        }
        let page = PAGE_SIZE as u64;
        let guard = cache.lock_for_writing(Wait::Allowed)?;
        let old = cache.size();
        assert_eq!(guard.set_size(old, 5 * page)?, 3 * page);
        assert_eq!((cache.size(), resident_pages(&cache)), (5 * page, 5));
        assert_eq!(guard.set_size(5 * page, 100 * page)?, 0);
        assert_eq!((cache.size(), resident_pages(&cache)), (100 * page, 5));
        assert_eq!(guard.set_size(100 * page, 1 << 63).err(), Some(EFBIG));
        assert_eq!(guard.empty(), 5 * page);
        assert_eq!((cache.size(), resident_pages(&cache)), (0, 0));
        Ok(())
    }

    #[test]
    fn a_folio_that_the_end_divides_and_somebody_holds_ends_within_the_file() -> Result {
        let cache = cache(true)?;
        let held = add(&cache, 0, 2)?;
        let page = PAGE_SIZE as u64;
        let guard = cache.lock_for_writing(Wait::Allowed)?;
        assert_eq!(guard.set_size(cache.size(), page)?, 0);
        assert_eq!(cache.size(), 4 * page);
        drop(held);
        // Nobody holds it now, so that it can be split.
        assert_eq!(guard.set_size(page, 2 * page)?, 3 * page);
        assert_eq!((cache.size(), resident_pages(&cache)), (2 * page, 1));
        Ok(())
    }
}
