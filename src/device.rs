// SPDX-License-Identifier: GPL-2.0

//! One device: a backing, what it counts, and what can be asked of both.
//!
//! What a program calls comes in through [`crate::file`] and [`crate::ioctl`], what it touches through
//! [`crate::mapping`].

mod follow_size;

use crate::abi;
use crate::abstractions::folio::Folio;
use crate::abstractions::page_cache::{page_of, start_of, AddressSpace};
use crate::abstractions::stored_file::StoredFile;
use crate::abstractions::{sched, system_memory};
use crate::backing::Backing;
use crate::counters::{Counters, Event};
use crate::events::Events;
use crate::extent;
use crate::name::Name;
use crate::trace;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use kernel::workqueue::{new_work, Work};

/// A device with a backing of kind `B`.
#[pin_data]
pub(crate) struct Device<B: Backing> {
    id: u64,
    name: Name,
    /// Set once, before the pages go.
    has_ended: Atomic<bool>,
    open_files: Atomic<u32>,
    /// Bytes; changed under the inode lock, but for the end. The page cache may reach a little further.
    size: Atomic<u64>,
    /// The size that all of the device has: that of `size`, or `follow_size::UNSETTLED` while that is about to change.
    settled_size: Atomic<u64>,
    /// Whether following the size has taken too long: then it is left to the worker.
    is_stuck: Atomic<bool>,
    #[pin]
    events: Events,
    counters: Arc<Counters>,
    #[pin]
    size_work: Work<Self>,
    #[pin]
    backing: B,
}

impl<B: Backing> Device<B> {
    /// Makes a device of a backing of `size` bytes that counts into `counters`. Fails with `ENOMEM`.
    pub(crate) fn new(
        id: u64,
        name: Name,
        size: u64,
        backing: impl PinInit<B, Error>,
        counters: Arc<Counters>,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                id,
                name,
                has_ended: Atomic::new(false),
                open_files: Atomic::new(0),
                settled_size: Atomic::new(size),
                is_stuck: Atomic::new(false),
                size: Atomic::new(size),
                events <- Events::new(),
                counters,
                size_work <- new_work!("mmapdev_size"),
                backing <- backing,
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Returns the number that no other device has or had.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// Counts an open file more.
    pub(crate) fn opened(&self) {
        self.open_files.fetch_add(1, Relaxed);
    }

    /// Counts an open file less, and returns how many are left.
    pub(crate) fn released(&self) -> u32 {
        self.open_files.fetch_sub(1, Relaxed) - 1
    }

    /// Returns whether the device has been destroyed.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Relaxed)
    }

    /// Fails with `ENODEV` where the device has been destroyed.
    pub(crate) fn check_alive(&self) -> Result {
        if self.has_ended() {
            Err(ENODEV)
        } else {
            Ok(())
        }
    }

    /// Raises an event for all who have the device open. May be called in any context.
    pub(crate) fn raise_event(&self) {
        self.counters.add(Event::Rung, 1);
        self.events.raise();
    }

    /// Ends the device: its pages leave all mappings, whoever waits is woken, and then the pages leave the memory, written to the
    /// file if they are of one. May sleep.
    pub(crate) fn end(&self) {
        self.has_ended.store(true, Relaxed);
        let size = self.size.xchg(0, Relaxed);
        // For all others it has ended by now, for however long somebody who writes keeps the lock.
        self.pages().unmap();
        self.events.wake();
        let guard = self.pages().lock_for_writing_always();
        // Who has just resized it did not see that.
        let size = self.size.xchg(0, Relaxed).max(size);
        self.count_removed(0, size, self.backing.empty(&guard));
        drop(guard);
        trace::destroy(self.id, size, self.backing.largest_folio() as u64, 0);
    }

    /// Changes the size; see `struct mmapdev_resize`. May sleep. Fails with `EINTR` where the caller is killed meanwhile.
    pub(crate) fn resize(&self, size: u64) -> Result {
        if self.backing.foreign_size().is_some() {
            return Err(EOPNOTSUPP);
        }
        check_size(size)?;
        let guard = self.pages().lock_for_writing_unless_killed()?;
        self.check_alive()?;
        let before = self.size();
        // Readers see the end before the bytes go, and new bytes before the end moves.
        self.size.store(size.min(before), Relaxed);
        let removed = self
            .backing
            .set_size(&guard, before, size)
            .inspect_err(|_| {
                self.size.store(before, Relaxed);
            })?;
        self.size.store(size, Relaxed);
        self.count_removed(size, before.saturating_sub(size), removed);
        Ok(())
    }

    /// Gives back the memory of a range; see `struct mmapdev_punch`. May sleep. Fails as [`Self::resize`] does.
    pub(crate) fn punch(&self, offset: u64, length: u64) -> Result {
        let end = extent::end_of(offset, length).ok_or(EINVAL)?;
        let guard = self.pages().lock_for_writing_unless_killed()?;
        self.check_alive()?;
        let removed = self.backing.punch(&guard, offset, end.min(self.size()))?;
        self.count_removed(offset, length, removed);
        Ok(())
    }

    /// Counts the bytes of memory that a range has given back.
    fn count_removed(&self, offset: u64, length: u64, removed: u64) {
        self.counters.add(Event::BytesRemoved, removed);
        trace::zap(self.id, offset, length, removed as i64);
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

    /// Returns the size in bytes: 0 where it has ended.
    ///
    /// Where it is not up to the device, what it was heard to be last may be more than there is.
    pub(crate) fn size(&self) -> u64 {
        // Who has just resized it may have stored a size since.
        let size = if self.has_ended() {
            0
        } else {
            self.size.load(Relaxed)
        };
        match self.backing.foreign_size() {
            Some(foreign) => foreign.min(size),
            None => size,
        }
    }

    /// Returns what the device is. Waits for nobody who uses it: where the size is not up to the device it is the one
    /// that whoever uses it next will find.
    pub(crate) fn info(&self) -> abi::Info {
        let foreign_size = self.backing.foreign_size();
        let foreign_size = foreign_size.filter(|_| !self.has_ended());
        abi::Info {
            device_size: foreign_size.unwrap_or_else(|| self.size()),
            resident_bytes: self.pages().resident_bytes(),
            backing: B::KIND,
            huge: self.backing.huge().to_abi(),
            id: self.id,
            largest_folio: AnyDevice::largest_folio(self),
            open_files: self.open_files.load(Relaxed),
            name: *self.name.field(),
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
        self.backing.frame(page_of(offset)).ok_or(ENODATA)
    }

    /// Returns the first byte at or after `offset` that memory is held for.
    ///
    /// Fails with `ENXIO` where there is none, or `offset` is beyond the end.
    pub(crate) fn next_data(&self, offset: u64) -> Result<u64> {
        let size = self.size();
        if offset >= size {
            return Err(ENXIO);
        }
        if B::IS_STORED {
            // What a file has is data: where its own holes are is not looked at.
            return Ok(offset);
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
        if B::IS_STORED {
            return Ok(size);
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
                Some(folio) if wanted(&folio) => at = folio.end(),
                _ => break,
            }
            sched::cond_resched();
        }
        at.min(end)
    }
}

/// A device, whatever it is backed by: what the registry asks of it.
pub(crate) trait AnyDevice: Send + Sync {
    fn name(&self) -> &Name;
    /// See [`Device::info`].
    fn info(&self) -> abi::Info;
    /// Returns the bytes of the largest folio that may come.
    fn largest_folio(&self) -> u32;
    /// See [`Device::resize`].
    fn resize(&self, size: u64) -> Result;
    /// See [`Device::punch`].
    fn punch(&self, offset: u64, length: u64) -> Result;
    /// See [`Device::raise_event`].
    fn raise_event(&self);
    /// See [`Device::end`].
    fn end(&self);
    /// Returns whether bytes from `offset` on in a file, `most` at most, are bytes of this device.
    fn overlaps(&self, file: &StoredFile, most: u64) -> bool;
}

impl<B: Backing> AnyDevice for Device<B> {
    fn name(&self) -> &Name {
        &self.name
    }

    fn info(&self) -> abi::Info {
        self.info()
    }

    fn largest_folio(&self) -> u32 {
        self.backing.largest_folio() as u32
    }

    fn resize(&self, size: u64) -> Result {
        self.resize(size)
    }

    fn punch(&self, offset: u64, length: u64) -> Result {
        self.punch(offset, length)
    }

    fn raise_event(&self) {
        self.raise_event();
    }

    fn end(&self) {
        self.end();
    }

    fn overlaps(&self, file: &StoredFile, most: u64) -> bool {
        self.backing.overlaps(file, most)
    }
}

/// Checks a size that a device is to have.
///
/// Fails with `EINVAL` where it is 0 or not whole pages, `EFBIG` where no file can have it, and `ENOMEM` where it
/// is more than the machine's memory.
pub(crate) fn check_size(size: u64) -> Result {
    if size == 0 || size % PAGE_SIZE as u64 != 0 {
        Err(EINVAL)
    } else if i64::try_from(size).is_err() {
        Err(EFBIG)
    } else if size > system_memory::total_bytes() {
        Err(ENOMEM)
    } else {
        Ok(())
    }
}
