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
use crate::abstractions::folio::LockedFolio;
use crate::abstractions::page_cache::{
    Added, AddressSpace, AddressSpaceOperations, PageCache, Wait,
};
use crate::abstractions::pseudo_fs::PseudoMount;
use crate::abstractions::vm_fault::PMD_ORDER;
use crate::counters::{Counters, Event};
use crate::extent;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Memory of the kernel's, in the page cache of an inode of its own.
#[pin_data]
pub(crate) struct Memory {
    #[pin]
    cache: PageCache<MemoryOperations>,
}

impl Memory {
    /// Makes a backing of `size` bytes that holds no memory yet.
    ///
    /// With `huge`, memory comes in folios as large as fit. Fails with `ENOMEM` and `EFBIG`.
    pub(crate) fn new(
        mount: Arc<PseudoMount>,
        size: u64,
        huge: bool,
        counters: Arc<Counters>,
    ) -> impl PinInit<Self, Error> {
        let max_order = if huge { PMD_ORDER } else { 0 };
        let operations = MemoryOperations {
            max_order,
            counters,
        };
        try_pin_init!(Self {
            cache <- PageCache::new_in_memory(mount, size, huge, operations),
        }? Error)
    }
}

impl Backing for Memory {
    const KIND: u32 = abi::BACKING_MEMORY;

    fn address_space(&self) -> &AddressSpace {
        &self.cache
    }

    fn has_huge_pages(&self) -> bool {
        self.cache.operations().max_order(&self.cache) == PMD_ORDER
    }

    fn folio(&self, index: usize, wait: Wait) -> Result<LockedFolio> {
        MemoryOperations::folio(&self.cache, index, wait)
    }
}

/// What the page cache of a memory backing knows.
struct MemoryOperations {
    max_order: u32,
    counters: Arc<Counters>,
}

impl MemoryOperations {
    /// Returns the order of the largest folio that this backing asks for and its page cache takes.
    fn max_order(&self, cache: &PageCache<Self>) -> u32 {
        self.max_order.min(cache.max_order())
    }

    fn folio(cache: &PageCache<Self>, index: usize, wait: Wait) -> Result<LockedFolio> {
        loop {
            if let Some(folio) = cache.lock_folio(index, wait)? {
                // It may have been cut off between the look-up and the lock.
                Self::check_within(cache, index)?;
                return Ok(folio);
            }
            if let Some(folio) = Self::bring_in(cache, index, wait)? {
                return Ok(folio);
            }
            // Somebody else has just brought it in.
        }
    }

    /// Adds the largest folio around page `index` that fits, or returns `None` where the page is there
    /// already.
    fn bring_in(cache: &PageCache<Self>, index: usize, wait: Wait) -> Result<Option<LockedFolio>> {
        let this = cache.operations();
        let guard = cache.lock_shared_against_invalidation(wait)?;
        let pages = Self::check_within(cache, index)?;
        for order in extent::orders_around(index, pages, this.max_order(cache)) {
            match guard.add_zeroed_folio(extent::align_down(index, order), order, wait) {
                Ok(Added::Here(folio)) => {
                    // There is nowhere to write it back to: dirty means that it is not dropped.
                    folio.mark_dirty();
                    this.counters.add(Event::FolioAdded, 1);
                    this.counters.add(Event::BytesAdded, folio.size() as u64);
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
        let folio = Self::folio(cache, index, wait)?;
        if folio.is_poisoned() {
            return Err(EIO);
        }
        Ok(folio)
    }
}
