// SPDX-License-Identifier: GPL-2.0

//! What stands behind a device: the few questions in which one kind differs from another.

pub(crate) mod memory;

use crate::abstractions::folio::LockedFolio;
use crate::abstractions::page_cache::{AddressSpace, Wait, WriteGuard};
use crate::abstractions::vm_fault::HugePageAdvice;
use crate::parameters::Huge;
use kernel::prelude::*;

/// What keeps the bytes of a device.
///
/// The page cache is the store in every case: what differs is how a page gets there, and what becomes
/// of it.
pub(crate) trait Backing: Send + Sync + 'static {
    /// The kind, for [`crate::abi::Info::backing`].
    const KIND: u32;

    /// Returns the page cache that has the device's bytes.
    fn address_space(&self) -> &AddressSpace;

    /// Changes the size from `old` to `new` bytes, and returns how many bytes of memory went by that; see
    /// [`WriteGuard::set_size`]. Fails with `ENOSPC` where there is no room for more.
    fn set_size(&self, guard: &WriteGuard<'_>, old: u64, new: u64) -> Result<u64>;

    /// Gives up all bytes for good, and returns how many bytes of memory went by that.
    fn empty(&self, guard: &WriteGuard<'_>) -> u64;

    /// Returns when folios above the base size come.
    fn huge(&self) -> Huge;

    /// Returns the bytes of the largest folio that may come.
    fn largest_folio(&self) -> usize;

    /// Finds the folio that holds page `index`, or brings one in, of a size that heeds the advice.
    ///
    /// Context: process, with no folio and no invalidate lock held. May sleep unless `wait` forbids it.
    ///
    /// # Errors
    ///
    /// - `ENXIO`: the page is beyond the end.
    /// - `ENOMEM`: there is no memory for it.
    /// - `EAGAIN`: it would have to wait.
    fn folio(&self, index: usize, advice: HugePageAdvice, wait: Wait) -> Result<LockedFolio>;
}
