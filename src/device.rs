// SPDX-License-Identifier: GPL-2.0

//! One device: a backing, what it counts, and what can be asked of both.
//!
//! What a program calls comes in through [`crate::file`] and [`crate::ioctl`], what it touches through
//! [`crate::mapping`].

use crate::abi;
use crate::abstractions::folio::Folio;
use crate::abstractions::page_cache::AddressSpace;
use crate::abstractions::sched;
use crate::backing::Backing;
use crate::counters::Counters;
use kernel::page::{PAGE_SHIFT, PAGE_SIZE};
use kernel::prelude::*;
use kernel::sync::Arc;

/// A device with a backing of kind `B`.
#[pin_data]
pub(crate) struct Device<B: Backing> {
    #[pin]
    backing: B,
    counters: Arc<Counters>,
}

impl<B: Backing> Device<B> {
    /// Makes a device of a backing that counts into `counters`.
    pub(crate) fn new(
        backing: impl PinInit<B, Error>,
        counters: Arc<Counters>,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                backing <- backing,
                counters,
            }? Error),
            GFP_KERNEL,
        )
    }

    pub(crate) fn backing(&self) -> &B {
        &self.backing
    }

    pub(crate) fn pages(&self) -> &AddressSpace {
        self.backing.address_space()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns the size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.pages().size()
    }

    /// Returns what the device is.
    pub(crate) fn info(&self) -> abi::Info {
        abi::Info {
            device_size: self.size(),
            resident_bytes: self.pages().resident_bytes(),
            backing: B::KIND,
            huge: self.backing.huge().to_abi(),
            ..Default::default()
        }
    }

    /// Returns the number of the page frame that holds a byte, and the size of its folio in bytes.
    ///
    /// Fails with `ENXIO` beyond the end, and with `ENODATA` where nothing is in memory.
    pub(crate) fn frame(&self, offset: u64) -> Result<(u64, u64)> {
        if offset >= self.size() {
            return Err(ENXIO);
        }
        let index = page_of(offset);
        let folio = self.pages().get_folio(index).ok_or(ENODATA)?;
        let frame = folio.frame() + (index - folio.index());
        Ok((frame as u64, folio.size() as u64))
    }

    /// Returns the first byte at or after `offset` that memory is held for.
    ///
    /// Fails with `ENXIO` where there is none, or `offset` is beyond the end.
    pub(crate) fn next_data(&self, offset: u64) -> Result<u64> {
        let size = self.size();
        if offset >= size {
            return Err(ENXIO);
        }
        let index = self
            .pages()
            .next_present(page_of(offset), page_of(size - 1) + 1)
            .ok_or(ENXIO)?;
        Ok(offset.max(start_of(index)))
    }

    /// Returns the first byte at or after `offset` that no memory is held for; the end is one.
    ///
    /// Fails with `ENXIO` where `offset` is beyond the end.
    pub(crate) fn next_hole(&self, offset: u64) -> Result<u64> {
        let size = self.size();
        if offset >= size {
            return Err(ENXIO);
        }
        Ok(self.end_of_data(offset, size, |_| true))
    }

    /// Follows the folios from `offset` on for as long as they are in memory and `wanted`, and returns
    /// where that ends: `end` at the latest.
    pub(crate) fn end_of_data(
        &self,
        offset: u64,
        end: u64,
        wanted: impl Fn(&Folio) -> bool,
    ) -> u64 {
        let mut at = offset;
        while at < end {
            match self.pages().get_folio(page_of(at)) {
                Some(folio) if wanted(&folio) => at = end_of(&folio),
                _ => break,
            }
            sched::cond_resched();
        }
        at.min(end)
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

/// Returns the offset after a folio's last byte.
fn end_of(folio: &Folio) -> u64 {
    start_of(folio.index()) + folio.size() as u64
}
