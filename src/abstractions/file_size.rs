// SPDX-License-Identifier: GPL-2.0

//! Following a stored file to the size that it has: the end of its page cache moves, and what is beyond goes.
//!
//! C source: `mm/truncate.c`
//!
//! Pages are taken out under the invalidate lock, which a touch of a page that is not there takes as well; and who
//! touches may hold a lock of the file's own file system, as a program does that writes to the file from a mapping of
//! this page cache. What is on its way between the two may need that very lock. So nobody here waits for a folio
//! that is being read or written while the invalidate lock is held, or queues for the lock, behind a reader and
//! before others: that would be a wait of which nobody can be killed. What a touch waits for instead can be.
//!
//! # Lock order
//!
//! As in [`super::page_cache`], and between the locks there:
//!
//! ```text
//! inode lock
//!   invalidate lock, exclusively      tried only
//!     `FileCache::writing`, alone     tried only
//!       folio lock                    of folios that are neither read nor written
//! ```

use super::file_cache::FileCache;
use super::page_cache::{InvalidateGuard, WriteGuard};
use super::rw_semaphore;
use super::sched;
use kernel::bindings;
use kernel::page::{PAGE_SHIFT, PAGE_SIZE};
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::time::delay::fsleep;
use kernel::time::Delta;

/// What following a size has to remember.
pub(super) struct Changing {
    /// The index from which on nothing becomes dirty through a mapping, while that is about to be taken out.
    clean_from: Atomic<usize>,
    /// Whether whoever wants a page that is not there is to come again, as there have been so many that the lock
    /// was never free.
    is_closed: Atomic<bool>,
    /// Whether there may be pages beyond the end, which has moved.
    has_rest: Atomic<bool>,
}

impl Changing {
    pub(super) fn new() -> Self {
        Self {
            clean_from: Atomic::new(usize::MAX),
            is_closed: Atomic::new(false),
            has_rest: Atomic::new(false),
        }
    }

    /// Returns whether a page may become dirty through a mapping.
    pub(super) fn may_dirty(&self, index: usize) -> bool {
        index < self.clean_from.load(Relaxed)
    }

    /// Returns whether whoever wants a page that is not there is to come again.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Relaxed)
    }
}

/// How long to try what others keep from being done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Some seconds: it can be done later.
    Some,
    /// For as long as it takes: until they have been killed, if need be.
    All,
}

/// Attempts at something, a moment apart, with no lock held that a touch takes.
struct Attempts {
    patience: Patience,
    made: u32,
}

impl Attempts {
    /// How many [`Patience::Some`] makes.
    const MOST: u32 = 1000;
    /// After how many in a row that failed for others who read the page cache, they are kept from it.
    const FAIR: u32 = 100;

    fn new(patience: Patience) -> Self {
        Self { patience, made: 0 }
    }

    /// Waits for the next. Fails with `EBUSY` where there have been enough.
    fn next(&mut self) -> Result {
        self.made = self.made.saturating_add(1);
        if self.patience == Patience::Some && self.made > Self::MOST {
            return Err(EBUSY);
        }
        fsleep(Delta::from_millis(1));
        Ok(())
    }
}

/// A page cache of which nothing from some index on is being read or written, or can begin to be.
struct AtRest<'a> {
    _writing: rw_semaphore::WriteGuard<'a>,
    _invalidate: InvalidateGuard<'a>,
}

/// Which folios are in the way of taking out what is in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InTheWay {
    /// Those that are being read or written.
    Moving,
    /// And those that are yet to be written.
    MovingOrDirty,
}

impl FileCache {
    /// Takes note of what the file is now; to be called by whoever has changed it, before it changes again.
    ///
    /// Context: any that may read the size of a file.
    pub(crate) fn note_change(&self) {
        if self.store().size() < self.size() {
            self.store().note_shorter();
        }
    }

    /// Follows the file, which has changed by itself, to the size that it has, `most` bytes where it has more. Adds to
    /// `removed` how many bytes of memory went by that; what is dirty beyond the end that it has now or had meanwhile is
    /// dropped.
    ///
    /// `guard` must be this page cache's: `EINVAL` where it is not. Sleeps.
    ///
    /// # Errors
    ///
    /// - `EFBIG`: the size is beyond what the VFS can count.
    /// - `EBUSY`: pages that have to go are being read or written all the time, or are stored to again and again, or
    ///   cannot be written back for want of memory, or somebody has pinned them. What is beyond the file's end is seen
    ///   by nobody, and no byte is lost: to be tried again.
    pub(crate) fn follow(&self, guard: &WriteGuard<'_>, most: u64, removed: &mut u64) -> Result {
        if !guard.is_of(self) {
            return Err(EINVAL);
        }
        let lasting = self.store().lasting_size().min(most);
        if lasting < self.size() || self.changing.has_rest.load(Relaxed) {
            let end = lasting.min(self.size());
            self.truncate(guard, end, Patience::Some, removed)?;
        }
        self.store().forget_shorter(lasting);
        let now = self.store().lasting_size().min(most);
        if now > self.size() {
            // From where the folio of the page may begin that the end divides: it is dirty as a whole.
            let pages = (1_usize << self.max_order()) - 1;
            let first = (self.size() >> PAGE_SHIFT) as usize & !pages;
            self.changing.clean_from.store(first, Relaxed);
            let result = self.extend(guard, now, removed);
            self.changing.clean_from.store(usize::MAX, Relaxed);
            result?;
        }
        Ok(())
    }

    /// Takes everything out, and sets the size to 0; what is dirty is dropped. Returns how many bytes of memory went by
    /// that. `guard` must be this page cache's: `EINVAL` where it is not. Sleeps.
    pub(crate) fn empty(&self, guard: &WriteGuard<'_>) -> Result<u64> {
        if !guard.is_of(self) {
            return Err(EINVAL);
        }
        let mut removed = 0;
        self.truncate(guard, 0, Patience::All, &mut removed)?;
        Ok(removed)
    }

    /// Takes the whole file out of all mappings, private copies included, and leaves its pages in memory. `guard` must
    /// be this page cache's: `EINVAL` where it is not.
    ///
    /// Mirrors `unmap_mapping_range()`. Sleeps.
    pub(crate) fn unmap(&self, guard: &WriteGuard<'_>) -> Result {
        if !guard.is_of(self) {
            return Err(EINVAL);
        }
        let _lock = self.lock_soon(guard, &mut Attempts::new(Patience::All))?;
        // SAFETY: The address space is alive. A length of 0 means all.
        unsafe { bindings::unmap_mapping_range(self.as_raw(), 0, 0, 1) };
        Ok(())
    }

    /// Makes the page cache shorter, `new` bytes.
    ///
    /// What is beyond the new end leaves every mapping and the page cache, unwritten; of a page that the end divides, the
    /// rest becomes zeros. Mirrors `truncate_setsize()`. Fails as [`Self::follow`], without [`Patience::All`].
    fn truncate(
        &self,
        guard: &WriteGuard<'_>,
        new: u64,
        patience: Patience,
        removed: &mut u64,
    ) -> Result {
        let page = PAGE_SIZE as u64;
        let end = bindings::loff_t::try_from(new).map_err(|_| EFBIG)?;
        let after = bindings::loff_t::try_from(new.next_multiple_of(page)).map_err(|_| EFBIG)?;
        let mut attempts = Attempts::new(patience);
        {
            // First nobody sees or brings in what is beyond, and what is written there ends at once.
            let lock = self.lock_soon(guard, &mut attempts)?;
            self.changing.has_rest.store(true, Relaxed);
            guard.set_size_under(&lock, end);
            // SAFETY: The address space is alive. A length of 0 means all the rest.
            unsafe { bindings::unmap_mapping_range(self.as_raw(), after, 0, 1) };
        }
        let first = (new >> PAGE_SHIFT) as usize;
        let at_rest = self.lock_at_rest(guard, first, &mut attempts)?;
        let before = self.resident_bytes();
        // SAFETY: The inode is alive, and both locks that pages are taken out under are held.
        unsafe { bindings::truncate_pagecache(self.host(), end) };
        *removed += before.saturating_sub(self.resident_bytes());
        drop(at_rest);
        self.changing.has_rest.store(false, Relaxed);
        Ok(())
    }

    /// Makes the page cache longer, `new` bytes, as the file that stores it has become by itself.
    ///
    /// A page that the old end divided has zeros in memory where there are bytes now, and so have pages that were
    /// brought in beyond the end just when it moved: they leave memory, those that are dirty for the file. Nothing of
    /// that must become dirty through a mapping meanwhile. Fails as [`Self::follow`], with the size as it was.
    fn extend(&self, guard: &WriteGuard<'_>, new: u64, removed: &mut u64) -> Result {
        let new = bindings::loff_t::try_from(new).map_err(|_| EFBIG)?;
        let first = (self.size() >> PAGE_SHIFT) as usize;
        let start = (first << PAGE_SHIFT) as bindings::loff_t;
        let mut attempts = Attempts::new(Patience::Some);
        loop {
            // SAFETY: The address space is alive.
            unsafe { bindings::filemap_flush_range(self.as_raw(), start, bindings::loff_t::MAX) };
            let lock = self.lock_soon(guard, &mut attempts)?;
            if let Some(at_rest) = self.try_rest(lock, first, InTheWay::MovingOrDirty) {
                let before = self.resident_bytes();
                // SAFETY: The address space is alive, and locked against whoever brings in pages.
                let result = unsafe {
                    bindings::invalidate_inode_pages2_range(
                        self.as_raw(),
                        first as c_ulong,
                        c_ulong::MAX,
                    )
                };
                *removed += before.saturating_sub(self.resident_bytes());
                if result == 0 {
                    guard.set_size_under(&at_rest._invalidate, new);
                    return Ok(());
                }
            }
            attempts.next()?;
        }
    }

    /// Locks the page cache against faults, reads and writes that would bring in pages, when nobody is at that, and
    /// without having anybody queue behind. Fails with `EBUSY` where there have been enough attempts.
    fn lock_soon<'a>(
        &'a self,
        guard: &WriteGuard<'a>,
        attempts: &mut Attempts,
    ) -> Result<InvalidateGuard<'a>> {
        let mut failed = 0;
        let result = loop {
            if let Some(lock) = guard.try_lock_against_faults() {
                break Ok(lock);
            }
            failed += 1;
            if failed == Attempts::FAIR {
                self.changing.is_closed.store(true, Relaxed);
            }
            if let Err(error) = attempts.next() {
                break Err(error);
            }
        };
        self.changing.is_closed.store(false, Relaxed);
        result
    }

    /// Does the same when nothing from page `first` on is being read or written.
    fn lock_at_rest<'a>(
        &'a self,
        guard: &WriteGuard<'a>,
        first: usize,
        attempts: &mut Attempts,
    ) -> Result<AtRest<'a>> {
        loop {
            let lock = self.lock_soon(guard, attempts)?;
            if let Some(at_rest) = self.try_rest(lock, first, InTheWay::Moving) {
                return Ok(at_rest);
            }
            attempts.next()?;
        }
    }

    /// Returns the page cache at rest from page `first` on, if it is; else the lock is given up.
    fn try_rest<'a>(
        &'a self,
        lock: InvalidateGuard<'a>,
        first: usize,
        in_the_way: InTheWay,
    ) -> Option<AtRest<'a>> {
        // Reading begins under the invalidate lock or the inode lock, writing with this held for reading.
        let writing = self.writing().try_write()?;
        let mut index = first;
        while let Some(found) = self.next_present(index, usize::MAX) {
            index = found + 1;
            if let Some(folio) = self.get_folio(found) {
                let is_moving = folio.is_locked() || folio.is_under_write_back();
                if is_moving || in_the_way == InTheWay::MovingOrDirty && folio.is_dirty() {
                    return None;
                }
                index = index.max((folio.end() >> PAGE_SHIFT) as usize);
            }
            sched::cond_resched();
        }
        Some(AtRest {
            _writing: writing,
            _invalidate: lock,
        })
    }
}
