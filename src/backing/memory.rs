// SPDX-License-Identifier: GPL-2.0

//! The memory backing: pages are zeroed when they are first touched, and kept until the device goes.
//!
//! # Lock order
//!
//! The invalidate lock, then the lock of a folio, as `abstractions/page_cache.rs` has it. A folio that
//! is found is locked without the invalidate lock; then the size is looked at again, as whoever cuts
//! the file short sets the size before it takes the folios out one by one, each under its lock.

use super::Backing;
use crate::abi;
use crate::abstractions::file_operations::SyncRange;
use crate::abstractions::folio::LockedFolio;
use crate::abstractions::page_cache::{
    may_wait, Added, AddressSpace, AddressSpaceOperations, PageCache, Wait, WriteGuard,
};
use crate::abstractions::pseudo_fs::PseudoMount;
use crate::abstractions::vm_area_desc::VmAreaDesc;
use crate::abstractions::vm_fault::{HugePageAdvice, PMD_SIZE};
use crate::budget::Reservation;
use crate::counters::Counters;
use crate::device::Device;
use crate::extent;
use crate::file::OpenDevice;
use crate::mapping::{Mapping, SmallMapping};
use crate::parameters::Huge;
use kernel::fs::{File, Kiocb};
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::Arc;

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

    fn prepare_mapping(&self, desc: VmAreaDesc<'_, OpenDevice<Self>>) -> Result {
        if self.largest_folio() < PMD_SIZE {
            desc.set_operations::<SmallMapping>();
        } else {
            desc.set_operations::<Mapping>();
        }
        Ok(())
    }

    fn read(
        device: &Device<Self>,
        kiocb: &mut Kiocb<'_, Arc<OpenDevice<Self>>>,
        iov: &mut IovIterDest<'_>,
    ) -> Result<usize> {
        let start = u64::try_from(kiocb.ki_pos())?;
        let (copied, result) = device.copy_out(start, iov, may_wait(kiocb));
        *kiocb.ki_pos_mut() += copied as i64;
        match result {
            Err(error) if copied == 0 => Err(error),
            _ => Ok(copied),
        }
    }

    #[inline]
    fn write(
        device: &Device<Self>,
        start: u64,
        kiocb: &mut Kiocb<'_, Arc<OpenDevice<Self>>>,
        iov: &mut IovIterSource<'_>,
    ) -> Result<usize> {
        device.copy_in(start, kiocb, iov, may_wait(kiocb))
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
