// SPDX-License-Identifier: GPL-2.0

//! One device: a backing, what it counts, and what can be asked of both.
//!
//! What a program calls comes in through [`crate::file`] and [`crate::ioctl`], what it touches through
//! [`crate::mapping`].

use crate::abi;
use crate::abstractions::file_watch::Watcher;
use crate::abstractions::folio::Folio;
use crate::abstractions::page_cache::{AddressSpace, Wait, WriteGuard};
use crate::abstractions::stored_file::StoredFile;
use crate::abstractions::{sched, system_memory};
use crate::backing::file::FileBacking;
use crate::backing::Backing;
use crate::counters::{Counters, Event};
use crate::events::Events;
use crate::extent;
use crate::name::Name;
use crate::trace;
use kernel::page::{PAGE_SHIFT, PAGE_SIZE};
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Relaxed, Release};
use kernel::sync::{Arc, ArcBorrow};
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::workqueue::{impl_has_work, new_work, Work, WorkItem};

/// A size that no file has.
const UNSETTLED: u64 = u64::MAX;

/// A device with a backing of kind `B`.
#[pin_data]
pub(crate) struct Device<B: Backing> {
    id: u64,
    name: Name,
    /// Set once, under the inode lock, before the pages go.
    has_ended: Atomic<bool>,
    open_files: Atomic<u32>,
    /// Bytes; changed under the inode lock. The page cache may reach a little further.
    size: Atomic<u64>,
    /// The size that all of the device has: that of `size`, or [`UNSETTLED`] while that is about to change.
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

    /// Ends the device: its pages leave all mappings and the memory, and whoever waits is woken. May sleep.
    pub(crate) fn end(&self) {
        let guard = self.pages().lock_for_writing_always();
        self.has_ended.store(true, Relaxed);
        let size = self.size();
        self.size.store(0, Relaxed);
        self.count_removed(0, size, self.backing.empty(&guard));
        drop(guard);
        trace::destroy(self.id, size, self.backing.largest_folio() as u64, 0);
        self.events.wake();
    }

    /// Changes the size; see `struct mmapdev_resize`. May sleep.
    pub(crate) fn resize(&self, size: u64) -> Result {
        if self.backing.foreign_size().is_some() {
            return Err(EOPNOTSUPP);
        }
        check_size(size)?;
        let guard = self.pages().lock_for_writing_always();
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

    /// Returns whether the size is not what it was, where it is not up to the device.
    fn size_has_changed(&self) -> bool {
        let size = self.backing.foreign_size();
        size.is_some_and(|size| size != self.settled_size.load(Acquire))
            || self.backing.must_follow()
    }

    /// Looks whether the size is still what it was, where it is not up to the device, and follows it. Nothing of what is
    /// beyond the end that it has had when this was called is left afterwards. May sleep.
    ///
    /// Where that takes too long, as pages that have to go are read or written, or pinned, it is left to a worker; until then the size is
    /// what it was, or what the file has if that is less.
    pub(crate) fn follow_size(self: ArcBorrow<'_, Self>) {
        if self.size_has_changed() && !self.is_stuck.load(Relaxed) {
            let guard = self.pages().lock_for_writing_always();
            // Somebody else may have tried meanwhile.
            if !self.is_stuck.load(Relaxed) {
                self.follow_size_under(&guard);
            }
        }
        if self.is_stuck.load(Relaxed) {
            // What was cut off since is seen by nobody all the same.
            let size = self.backing.foreign_size();
            if size.is_some_and(|size| size < self.pages().size()) && !self.has_ended() {
                self.backing
                    .cut_off(&self.pages().lock_for_writing_always());
            }
            Self::follow_size_later(self.into());
        }
    }

    /// Does the same where whoever calls may not wait: has it done by a worker then, and fails with `EAGAIN`.
    pub(crate) fn follow_size_or(self: ArcBorrow<'_, Self>, wait: Wait) -> Result {
        match wait {
            Wait::Allowed => self.follow_size(),
            Wait::Forbidden if self.size_has_changed() && !self.is_stuck.load(Relaxed) => {
                Self::follow_size_later(self.into());
                return Err(EAGAIN);
            }
            Wait::Forbidden => {}
        }
        Ok(())
    }

    fn follow_size_under(&self, guard: &WriteGuard<'_>) {
        // Somebody else may have done it meanwhile.
        if !self.size_has_changed() || self.has_ended() {
            return;
        }
        let before = self.size.load(Relaxed);
        // Whoever comes meanwhile waits for the lock, also where the size is again what it was.
        self.settled_size.store(UNSETTLED, Relaxed);
        // As in `resize`.
        self.size.store(self.size(), Relaxed);
        let mut removed = 0;
        let result = self.backing.follow_size(guard, &mut removed);
        self.is_stuck.store(result.is_err(), Relaxed);
        let size = self.pages().size();
        self.size.store(size, Relaxed);
        // Else it has to be tried again, by the worker.
        if result.is_ok() {
            self.settled_size.store(size, Release);
        }
        self.count_removed(size, before.saturating_sub(size), removed);
    }

    /// Has the size followed by a worker. Where it is waiting already, it has yet to look.
    fn follow_size_later(this: Arc<Self>) {
        let device = this.clone();
        if let Some(queue) = device.backing.queue() {
            let _ = queue.enqueue(this);
        }
    }

    /// Gives back the memory of a range; see `struct mmapdev_punch`. May sleep.
    pub(crate) fn punch(&self, offset: u64, length: u64) -> Result {
        let end = extent::end_of(offset, length).ok_or(EINVAL)?;
        let guard = self.pages().lock_for_writing_always();
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

    /// Returns the size in bytes.
    ///
    /// Where it is not up to the device, what it was heard to be last may be more than there is.
    pub(crate) fn size(&self) -> u64 {
        let size = self.size.load(Relaxed);
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

impl_has_work! {
    impl{B: Backing} HasWork<Self> for Device<B> { self.size_work }
}

impl<B: Backing> WorkItem for Device<B> {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if this.size_has_changed() {
            let guard = this.pages().lock_for_writing_always();
            this.follow_size_under(&guard);
        }
        if this.size_has_changed() && !this.has_ended() {
            // It has changed again; or has to be tried again, and who keeps it from going on, or would have to wait
            // for that, gets time.
            let pause = if this.is_stuck.load(Relaxed) {
                1000
            } else {
                10
            };
            fsleep(Delta::from_millis(pause));
            Self::follow_size_later(this);
        }
    }
}

impl Watcher for Device<FileBacking> {
    fn file_changed(this: ArcBorrow<'_, Self>) {
        this.backing.note_change();
        // Most changes are of bytes, many of them our own. The rest is for somebody who holds no lock of the file.
        if this.size_has_changed() {
            Self::follow_size_later(this.into());
        }
    }
}

/// A device, whatever it is backed by: what the registry asks of it.
pub(crate) trait AnyDevice: Send + Sync {
    /// Returns the number that no other device has or had.
    fn id(&self) -> u64;
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
    fn id(&self) -> u64 {
        self.id
    }

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

/// Returns the index of the page that holds an offset.
pub(crate) fn page_of(offset: u64) -> usize {
    (offset >> PAGE_SHIFT) as usize
}

/// Returns the offset of a page's first byte.
pub(crate) fn start_of(index: usize) -> u64 {
    index as u64 * PAGE_SIZE as u64
}
