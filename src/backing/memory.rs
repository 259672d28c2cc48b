// SPDX-License-Identifier: GPL-2.0

//! The memory backing: pages are zeroed when they are first touched, and kept until the device goes.
//!
//! # Lock order
//!
//! The invalidate lock, then the lock of a folio, as `abstractions/page_cache.rs` has it. A folio that
//! is found is locked without the invalidate lock: where it is in the page cache still, whoever cuts the
//! file short has yet to come to it, and unmaps it then, under its lock.

use super::{copy_in, Backing};
use crate::abi;
use crate::abstractions::file_operations::SyncRange;
use crate::abstractions::folio::LockedFolio;
use crate::abstractions::page_cache::{
    may_wait, page_of, start_of, Added, AddressSpace, AddressSpaceOperations, PageCache, Wait,
    WriteGuard,
};
use crate::abstractions::pseudo_fs::PseudoMount;
use crate::abstractions::vm_fault::HugePageAdvice;
use crate::abstractions::{iov, sched};
use crate::budget::Reservation;
use crate::counters::Counters;
use crate::extent::{self, bytes_before};
use crate::parameters::Huge;
use kernel::fs::{File, Kiocb};
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::barrier::{smp_mb, Read};
use kernel::sync::Arc;
use kernel::types::ForeignOwnable;

/// How many bytes of a hole are read in one go, before others are let run.
const HOLE_STEP: usize = 1 << 20;

/// Memory of the kernel's, in the page cache of an inode of its own.
#[pin_data]
pub(crate) struct Memory {
    reservation: Reservation,
    #[pin]
    cache: PageCache<MemoryOperations>,
}

impl Memory {
    /// Makes a backing of `size` bytes, which are reserved, that holds no memory yet.
    ///
    /// Its folios are as large as fit, up to `2^max_order` pages, when `huge` says so, else single pages.
    /// Fails with `ENOMEM` and `EFBIG`.
    pub(crate) fn new(
        mount: Arc<PseudoMount>,
        reservation: Reservation,
        size: u64,
        huge: Huge,
        max_order: u32,
        counters: Arc<Counters>,
    ) -> impl PinInit<Self, Error> {
        let operations = MemoryOperations {
            huge,
            max_order,
            counters,
        };
        let large_folios = huge != Huge::Never && max_order > 0;
        try_pin_init!(Self {
            reservation,
            cache <- PageCache::new_in_memory(mount, size, large_folios, operations),
        }? Error)
    }
}

impl Memory {
    /// Finds the folio that holds page `index`, or brings one in, of a size that heeds the advice.
    ///
    /// Context: process, with no folio and no invalidate lock held. May sleep unless `wait` forbids it.
    ///
    /// # Errors
    ///
    /// - `ENXIO`: the page is beyond the end.
    /// - `ENOMEM`: there is no memory for it.
    /// - `EAGAIN`: it would have to wait.
    pub(crate) fn folio(
        &self,
        index: usize,
        advice: HugePageAdvice,
        wait: Wait,
    ) -> Result<LockedFolio> {
        MemoryOperations::folio(&self.cache, index, advice, wait)
    }

    /// Copies bytes from `start` on to user memory, until that or the device is at its end, which is at `size`.
    ///
    /// Returns how many bytes were copied, and what stopped it short.
    fn copy_out(
        &self,
        start: u64,
        iov: &mut IovIterDest<'_>,
        wait: Wait,
        size: impl Fn() -> u64,
    ) -> (usize, Result) {
        let mut copied = 0;
        loop {
            let position = start.saturating_add(copied as u64);
            let wanted = bytes_before(position, iov.len(), size());
            if wanted == 0 {
                return (copied, Ok(()));
            }
            match self.copy_some_out(position, wanted, iov, wait, &size) {
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
        size: &impl Fn() -> u64,
    ) -> Result<Option<usize>> {
        let index = page_of(position);
        let Some(folio) = self.cache.get_folio(index) else {
            // What is cut off goes after the end has moved.
            smp_mb(Read);
            let wanted = bytes_before(position, wanted.min(HOLE_STEP), size());
            if wanted == 0 {
                return Ok(None);
            }
            let end = page_of(position + wanted as u64 - 1) + 1;
            let data = self.cache.next_present(index, end).unwrap_or(end);
            // Another task may have put a page here since: then this reads what was before.
            let hole_end = start_of(data.max(index + 1));
            let zeros = iov::zero(iov, bytes_before(position, wanted, hole_end));
            return Ok(Some(zeros));
        };
        if !folio.is_uptodate() {
            // It is being filled by whoever holds its lock.
            drop(self.cache.lock_folio(index, wait)?);
        }
        // Of a folio with bad memory in it, all but the bad pages can be read. (Of one that the kernel found on its way to
        // another place, the page alone may say so.)
        if folio.is_page_poisoned(index) {
            return Err(EIO);
        }
        let wanted = match folio.is_poisoned() {
            true => bytes_before(position, wanted, start_of(index + 1)),
            false => wanted,
        };
        let offset = (position - folio.start()) as usize;
        folio.copy_to_iter(offset, wanted, iov).map(Some)
    }
}

impl Backing for Memory {
    const KIND: u32 = abi::BACKING_MEMORY;
    const IS_STORED: bool = false;
    type Usage = ();

    fn open(&self, _file: &File) -> Result {
        Ok(())
    }

    fn address_space(&self) -> &AddressSpace {
        &self.cache
    }

    fn read<T: ForeignOwnable>(
        &self,
        kiocb: &mut Kiocb<'_, T>,
        iov: &mut IovIterDest<'_>,
        size: impl Fn() -> u64,
    ) -> Result<usize> {
        let start = u64::try_from(kiocb.ki_pos())?;
        let (copied, result) = self.copy_out(start, iov, may_wait(kiocb), size);
        *kiocb.ki_pos_mut() += copied as i64;
        match result {
            Err(error) if copied == 0 => Err(error),
            _ => Ok(copied),
        }
    }

    #[inline]
    fn write<T: ForeignOwnable>(
        &self,
        kiocb: &mut Kiocb<'_, T>,
        iov: &mut IovIterSource<'_>,
        size: impl FnOnce() -> Result<u64>,
    ) -> Result<usize> {
        let wait = may_wait(kiocb);
        copy_in(&self.cache, kiocb, iov, wait, size)
    }

    fn sync(&self, _range: SyncRange) -> Result {
        // Memory is all there is.
        Ok(())
    }

    fn settle(&self) {}

    fn set_size(&self, guard: &WriteGuard<'_>, old: u64, new: u64) -> Result<u64> {
        // What is given up is free for others once it is gone, what is asked for has to be had before.
        if new > old {
            self.reservation.set(new)?;
        }
        let removed = guard.set_size(old, new)?;
        if new < old {
            self.reservation.set(new)?;
        }
        Ok(removed)
    }

    fn punch(&self, guard: &WriteGuard<'_>, start: u64, end: u64) -> Result<u64> {
        guard.punch(start, end)
    }

    fn empty(&self, guard: &WriteGuard<'_>) -> u64 {
        let removed = guard.empty();
        // Less can always be had.
        let _ = self.reservation.set(0);
        removed
    }

    fn huge(&self) -> Huge {
        self.cache.operations().huge
    }

    fn largest_folio(&self) -> usize {
        match self.huge() {
            Huge::Never => PAGE_SIZE,
            Huge::Always | Huge::Advise => PAGE_SIZE << MemoryOperations::max_order(&self.cache),
        }
    }
}

/// What the page cache of a memory backing knows.
struct MemoryOperations {
    huge: Huge,
    max_order: u32,
    counters: Arc<Counters>,
}

impl MemoryOperations {
    /// Returns the order of the largest folio that this backing asks for and its page cache takes.
    fn max_order(cache: &PageCache<Self>) -> u32 {
        cache.operations().max_order.min(cache.max_order())
    }

    /// Returns the order of the largest folio to ask for when a touch comes with this advice.
    fn wanted_order(cache: &PageCache<Self>, advice: HugePageAdvice) -> u32 {
        match (cache.operations().huge, advice) {
            (Huge::Never, _) | (_, HugePageAdvice::Against) => 0,
            (Huge::Advise, HugePageAdvice::None) => 0,
            (Huge::Advise, HugePageAdvice::For) | (Huge::Always, _) => Self::max_order(cache),
        }
    }

    fn folio(
        cache: &PageCache<Self>,
        index: usize,
        advice: HugePageAdvice,
        wait: Wait,
    ) -> Result<LockedFolio> {
        loop {
            if let Some(folio) = cache.lock_folio(index, wait)? {
                // It may have been cut off between the look-up and the lock.
                Self::check_within(cache, index)?;
                return Ok(folio);
            }
            if let Some(folio) =
                Self::bring_in(cache, index, Self::wanted_order(cache, advice), wait)?
            {
                return Ok(folio);
            }
            // Somebody else has just brought it in.
        }
    }

    /// Adds the largest folio around page `index` that fits, of `2^max_order` pages at most, or returns `None`
    /// where the page is there already.
    fn bring_in(
        cache: &PageCache<Self>,
        index: usize,
        max_order: u32,
        wait: Wait,
    ) -> Result<Option<LockedFolio>> {
        let this = cache.operations();
        let guard = cache.lock_shared_against_invalidation(wait)?;
        let pages = Self::check_within(cache, index)?;
        for order in extent::orders_around(index, pages, max_order) {
            match guard.add_zeroed_folio(extent::align_down(index, order), order, wait) {
                Ok(Added::Here(folio)) => {
                    // There is nowhere to have it from again: dirty means that it is not dropped.
                    folio.mark_dirty();
                    this.counters.add_folio(folio.order(), folio.size());
                    return Ok(Some(folio));
                }
                Ok(Added::Occupied) => {
                    if cache.next_present(index, index + 1).is_some() {
                        return Ok(None);
                    }
                    // Only some other page within a folio of this order is there: a smaller one fits.
                }
                // A large piece of memory is a luxury.
                Err(_) if order > 0 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Fails with `ENXIO` where page `index` is beyond the end; else returns how many pages there are.
    fn check_within(cache: &PageCache<Self>, index: usize) -> Result<usize> {
        let pages = usize::try_from(cache.size().div_ceil(PAGE_SIZE as u64))?;
        if index < pages {
            Ok(pages)
        } else {
            Err(ENXIO)
        }
    }
}

impl AddressSpaceOperations for MemoryOperations {
    fn write_begin(
        cache: &PageCache<Self>,
        index: usize,
        _len: usize,
        wait: Wait,
    ) -> Result<LockedFolio> {
        // Nobody has given advice: a write() comes through no mapping.
        let folio = Self::folio(cache, index, HugePageAdvice::None, wait)?;
        if folio.is_poisoned() {
            return Err(EIO);
        }
        Ok(folio)
    }
}
