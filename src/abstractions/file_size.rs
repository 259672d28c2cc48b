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
use super::page_cache::{page_of, InvalidateGuard, Wait, WriteGuard};
use super::rw_semaphore;
use super::sched;
use kernel::bindings;
use kernel::page::{PAGE_SHIFT, PAGE_SIZE};
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Full, Relaxed, Release};
use kernel::time::delay::fsleep;
use kernel::time::{Delta, Instant, Monotonic};

/// What following a size has to remember.
pub(super) struct Changing {
    /// The index from which on nothing becomes dirty through a mapping, while that is about to be taken out.
    clean_from: Atomic<usize>,
    /// Whether whoever wants a page that is not there, or has pages written, is to wait: there have been so many that
    /// the locks were never free.
    is_closed: Atomic<bool>,
    /// Whether there may be pages beyond the end, which has moved.
    has_rest: Atomic<bool>,
    /// The size that the page cache is about to have, while that is more than it has.
    next_size: Atomic<u64>,
    /// Whether it was given up the last time because of a pin.
    is_pinned: Atomic<bool>,
}

impl Changing {
    pub(super) fn new() -> Self {
        Self {
            clean_from: Atomic::new(usize::MAX),
            is_closed: Atomic::new(false),
            has_rest: Atomic::new(false),
            next_size: Atomic::new(0),
            is_pinned: Atomic::new(false),
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

    /// Waits until pages may be brought in. Fails with `EAGAIN` where `wait` forbids that, and with `EINTR` where the
    /// calling task is being killed. Sleeps otherwise.
    pub(super) fn wait_while_closed(&self, wait: Wait) -> Result {
        while self.is_closed() {
            if wait == Wait::Forbidden {
                return Err(EAGAIN);
            }
            if sched::is_being_killed() {
                return Err(EINTR);
            }
            wait_a_moment();
        }
        Ok(())
    }

    /// Does the same for whoever writes pages, who is not kept from it by being killed.
    pub(super) fn wait_to_write(&self) {
        while self.is_closed() {
            wait_a_moment();
        }
    }
}

/// Waits between two attempts. Sleeps.
pub(super) fn wait_a_moment() {
    fsleep(Delta::from_millis(1));
}

/// How long to try what others keep from being done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Some seconds, as long as a call may take for it: long enough for a slow disk to write a folio, which is stored to
    /// again as soon as this is given up.
    Some,
    /// For as long as it takes: until they have been killed, if need be.
    All,
}

/// Attempts at something, a moment apart, with no lock held that a touch takes.
struct Attempts {
    begun: Instant<Monotonic>,
    limit: Option<Delta>,
    /// How long a pin is waited for: not long where it has been in the way the last time, as who has it may keep it for
    /// ever, and writers of the device wait meanwhile.
    limit_of_pins: Option<Delta>,
}

impl Attempts {
    /// While locks are held by others: when, in milliseconds of each round, these are kept from taking them again.
    const CLOSED_MS: core::ops::Range<i64> = 50..350;
    const ROUND_MS: i64 = 1350;

    fn new(patience: Patience, changing: &Changing) -> Self {
        let limit = match patience {
            Patience::Some => Some(Delta::from_secs(5)),
            Patience::All => None,
        };
        Self {
            begun: Instant::now(),
            limit,
            limit_of_pins: match limit {
                Some(_) if changing.is_pinned.load(Relaxed) => Some(Delta::from_millis(50)),
                _ => limit,
            },
        }
    }

    /// Waits for the next. Fails with `EBUSY` where there was time enough.
    fn next(&mut self) -> Result {
        self.next_within(self.limit)
    }

    /// Does the same with another limit.
    fn next_within(&mut self, limit: Option<Delta>) -> Result {
        if limit.is_some_and(|limit| self.begun.elapsed() > limit) {
            return Err(EBUSY);
        }
        wait_a_moment();
        Ok(())
    }
}

/// A page cache of which nothing from some index on is being read or written, or can begin to be.
struct AtRest<'a> {
    _writing: rw_semaphore::WriteGuard<'a>,
    _invalidate: InvalidateGuard<'a>,
}

/// Why a page cache is not at rest.
enum Restless {
    /// Somebody holds a lock.
    Locked,
    /// A folio is in the way that has this page, until it is written, say.
    InTheWay(usize),
    /// One is that a device may be about to write to.
    Pinned(usize),
}

/// What is about to be done, which says which folios are in the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// To make the page cache shorter, so many bytes: those that are being read or written, and one that the new end
    /// divides and that a device may be about to write to.
    Truncate(u64),
    /// To make it longer: also those that are yet to be written, and all that a device may be about to write to.
    Extend,
}

impl FileCache {
    /// Takes note of what the file is now; to be called by whoever has changed it, before it changes again.
    ///
    /// Context: any that may read the size of a file.
    pub(crate) fn note_change(&self) {
        // In this order: if that is over, the size is seen that has come of it.
        let next = self.changing().next_size.load(Acquire);
        if self.store().size() < self.size().max(next) {
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
    /// - `EBUSY`: for some seconds pages that have to go are being read or written, or are stored to again and
    ///   again, or cannot be written back for want of memory, or pages that stay are pinned that would go with them; or
    ///   these are pinned, as they have been the last time.
    ///   No byte is lost, the page cache is no longer than the file, and pages beyond its end are not mapped any more; a
    ///   touch that was under way may have mapped one there once more, and the page that the end divides is as it was. To
    ///   be tried again.
    pub(crate) fn follow(&self, guard: &WriteGuard<'_>, most: u64, removed: &mut u64) -> Result {
        if !guard.is_of(self) {
            return Err(EINVAL);
        }
        let lasting = self.store().lasting_size().min(most);
        if lasting < self.size() || self.changing().has_rest.load(Relaxed) {
            let end = lasting.min(self.size());
            self.truncate(guard, end, Patience::Some, removed)?;
        }
        self.store().forget_shorter(lasting);
        let now = || self.store().lasting_size().min(most);
        let mut next = now();
        if next > self.size() {
            // From where the folio of the page may begin that the end divides: it is dirty as a whole.
            let pages = (1_usize << self.max_order()) - 1;
            let first = page_of(self.size()) & !pages;
            self.changing().clean_from.store(first, Relaxed);
            // Whoever makes the file shorter than that from now on takes note of it.
            loop {
                self.changing().next_size.xchg(next, Full);
                let again = now();
                if again >= next {
                    break;
                }
                next = again;
            }
            let result = if next > self.size() {
                self.extend(guard, next, removed)
            } else {
                Ok(())
            };
            self.changing().next_size.store(0, Release);
            self.changing().clean_from.store(usize::MAX, Relaxed);
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
        let _lock = self.lock_soon(guard, &mut Attempts::new(Patience::All, self.changing()))?;
        // SAFETY: The address space is alive. A length of 0 means all.
        unsafe { bindings::unmap_mapping_range(self.as_raw(), 0, 0, 1) };
        Ok(())
    }

    /// Makes the page cache shorter, `new` bytes.
    ///
    /// What is beyond the new end leaves every mapping and the page cache, unwritten; of a page that the end divides, the
    /// rest becomes zeros. Mirrors `truncate_setsize()`. Fails as [`Self::follow`].
    fn truncate(
        &self,
        guard: &WriteGuard<'_>,
        new: u64,
        patience: Patience,
        removed: &mut u64,
    ) -> Result {
        let end = self.hide(guard, new)?;
        let first = page_of(new);
        if new % PAGE_SIZE as u64 != 0 {
            // Who maps the page that the end divides has it from here again. Many mappings of a page look like a pin.
            let start = (first << PAGE_SHIFT) as bindings::loff_t;
            // SAFETY: The address space is alive.
            unsafe { bindings::unmap_mapping_range(self.as_raw(), start, PAGE_SIZE as i64, 0) };
        }
        let mut attempts = Attempts::new(patience, self.changing());
        let at_rest = self.lock_at_rest(guard, first, Change::Truncate(new), &mut attempts)?;
        let before = self.resident_bytes();
        // SAFETY: The inode is alive, and both locks that pages are taken out under are held.
        unsafe { bindings::truncate_pagecache(self.host(), end) };
        *removed += before.saturating_sub(self.resident_bytes());
        drop(at_rest);
        self.changing().has_rest.store(false, Relaxed);
        Ok(())
    }

    /// Has nobody see or bring in pages beyond byte `new`, which is returned as the VFS counts it; what is written there
    /// ends at once. Fails with `EFBIG` where it cannot be counted.
    ///
    /// The kernel's own functions look at the size again with the folio locked. (One that has looked already may map the
    /// page yet, until they are taken out.)
    fn hide(&self, guard: &WriteGuard<'_>, new: u64) -> Result<bindings::loff_t> {
        let count = |offset: u64| bindings::loff_t::try_from(offset).map_err(|_| EFBIG);
        let (end, after) = (count(new)?, count(new.next_multiple_of(PAGE_SIZE as u64))?);
        self.changing().has_rest.store(true, Relaxed);
        guard.set_size_alone(end);
        // SAFETY: The address space is alive. A length of 0 means all the rest.
        unsafe { bindings::unmap_mapping_range(self.as_raw(), after, 0, 1) };
        Ok(end)
    }

    /// Does of [`Self::follow`] what waits for nothing: nobody sees pages any more that are beyond the file's end. `guard`
    /// must be this page cache's: `EINVAL` where it is not.
    pub(crate) fn cut_off(&self, guard: &WriteGuard<'_>, most: u64) -> Result {
        if !guard.is_of(self) {
            return Err(EINVAL);
        }
        let lasting = self.store().lasting_size().min(most);
        if lasting < self.size() {
            self.hide(guard, lasting)?;
        }
        Ok(())
    }

    /// Makes the page cache longer, `new` bytes, as the file that stores it has become by itself.
    ///
    /// A page that the old end divided has zeros in memory where there are bytes now, and so have pages that were
    /// brought in beyond the end just when it moved: they leave memory, those that are dirty for the file. Nothing of
    /// that must become dirty through a mapping meanwhile. Fails as [`Self::follow`], with the size as it was.
    fn extend(&self, guard: &WriteGuard<'_>, new: u64, removed: &mut u64) -> Result {
        let new = bindings::loff_t::try_from(new).map_err(|_| EFBIG)?;
        let first = page_of(self.size());
        let mut attempts = Attempts::new(Patience::Some, self.changing());
        loop {
            self.begin_to_settle(first);
            let at_rest = self.lock_at_rest(guard, first, Change::Extend, &mut attempts)?;
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
                // While the page cache is at rest.
                guard.set_size_alone(new);
                return Ok(());
            }
            drop(at_rest);
            attempts.next()?;
        }
    }

    /// Locks the page cache against faults, reads and writes that would bring in pages, when nobody is at that, and
    /// without having anybody queue behind. Fails with `EBUSY` where there was time enough.
    fn lock_soon<'a>(
        &'a self,
        guard: &'a WriteGuard<'_>,
        attempts: &mut Attempts,
    ) -> Result<InvalidateGuard<'a>> {
        self.lock_fairly(
            attempts,
            |_| guard.try_lock_against_faults().ok_or(Restless::Locked),
            || {},
        )
    }

    /// Does the same when nothing from page `first` on is being read or written.
    fn lock_at_rest<'a>(
        &'a self,
        guard: &'a WriteGuard<'_>,
        first: usize,
        change: Change,
        attempts: &mut Attempts,
    ) -> Result<AtRest<'a>> {
        let mut last_seen = None;
        // (Nothing of it is closed then: that would wait for whoever closes it.)
        let settle = || {
            if change == Change::Extend {
                self.begin_to_settle(first);
            }
        };
        let attempt = |this: &'a Self| {
            // What was in the way the last time is so mostly still: it is looked at without a lock.
            if let Some(index) = last_seen {
                this.look(index, index + 1, change)?;
            }
            let result = (|| {
                let invalidate = guard.try_lock_against_faults().ok_or(Restless::Locked)?;
                // Reading begins under the invalidate lock or the inode lock, writing with this held for reading.
                let writing = this.writing().try_write().ok_or(Restless::Locked)?;
                this.look(first, usize::MAX, change)?;
                Ok(AtRest {
                    _writing: writing,
                    _invalidate: invalidate,
                })
            })();
            if let Err(Restless::InTheWay(index) | Restless::Pinned(index)) = &result {
                last_seen = Some(*index);
            }
            result
        };
        self.lock_fairly(attempts, attempt, settle)
    }

    /// Makes what is in the way of an extension leave: what is dirty from page `first` on is begun to be written, and
    /// mappings let go of it. Waits for nobody but whoever keeps pages from being written, see [`Changing`].
    fn begin_to_settle(&self, first: usize) {
        let start = (first << PAGE_SHIFT) as bindings::loff_t;
        // SAFETY: The address space is alive. A length of 0 means all the rest.
        unsafe {
            bindings::unmap_mapping_range(self.as_raw(), start, 0, 0);
            bindings::filemap_flush_range(self.as_raw(), start, bindings::loff_t::MAX);
        }
    }

    /// Tries something until it succeeds. Where others have the locks all the time, they are kept from taking them for a
    /// while, and not for longer: one of them may be what those that have them wait for. Where folios are in the way,
    /// `settle` is called between two attempts.
    fn lock_fairly<'a, T>(
        &'a self,
        attempts: &mut Attempts,
        mut attempt: impl FnMut(&'a Self) -> Result<T, Restless>,
        mut settle: impl FnMut(),
    ) -> Result<T> {
        let mut locked_since: Option<Instant<Monotonic>> = None;
        let mut is_pinned;
        let result = loop {
            let reason = match attempt(self) {
                Ok(value) => {
                    is_pinned = false;
                    break Ok(value);
                }
                Err(reason) => reason,
            };
            is_pinned = matches!(reason, Restless::Pinned(_));
            match reason {
                Restless::Locked => {
                    let since = *locked_since.get_or_insert_with(Instant::now);
                    let phase = since.elapsed().as_millis_ceil() % Attempts::ROUND_MS;
                    let is_closed = Attempts::CLOSED_MS.contains(&phase);
                    self.changing().is_closed.store(is_closed, Relaxed);
                }
                // That may need what others wait for.
                Restless::InTheWay(_) | Restless::Pinned(_) => {
                    locked_since = None;
                    self.changing().is_closed.store(false, Relaxed);
                    settle();
                }
            }
            let limit = if is_pinned {
                attempts.limit_of_pins
            } else {
                attempts.limit
            };
            if let Err(error) = attempts.next_within(limit) {
                break Err(error);
            }
        };
        self.changing().is_closed.store(false, Relaxed);
        self.changing().is_pinned.store(is_pinned, Relaxed);
        result
    }

    /// Looks whether a folio that has one of the pages from `start` to `end`, exclusive, is in the way of a change.
    /// Does not wait for any.
    fn look(&self, start: usize, end: usize, change: Change) -> Result<(), Restless> {
        let mut index = start;
        while let Some(found) = self.next_present(index, end) {
            index = found + 1;
            if let Some(folio) = self.get_folio(found) {
                let (heeds_pin, heeds_dirt) = match change {
                    Change::Truncate(new) => (folio.start() < new, false),
                    Change::Extend => (true, true),
                };
                if heeds_pin && folio.may_be_pinned() {
                    return Err(Restless::Pinned(found));
                }
                let is_moving = folio.is_locked() || folio.is_under_write_back();
                if is_moving || heeds_dirt && folio.is_dirty() {
                    return Err(Restless::InTheWay(found));
                }
                index = index.max(page_of(folio.end()));
            }
            sched::cond_resched();
        }
        Ok(())
    }
}

#[kunit_tests(abstractions_file_size)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_from_anybody_at_first() -> Result {
        let changing = Changing::new();
        assert!(changing.may_dirty(usize::MAX - 1));
        assert!(!changing.is_closed());
        changing.wait_to_write();
        changing.wait_while_closed(Wait::Forbidden)
    }

    #[test]
    fn only_pages_before_those_that_are_to_stay_clean_become_dirty() {
        let changing = Changing::new();
        changing.clean_from.store(5, Relaxed);
        assert!(changing.may_dirty(4));
        assert!(!changing.may_dirty(5));
        assert!(!changing.may_dirty(usize::MAX));
    }

    #[test]
    fn who_must_not_wait_is_sent_away() {
        let changing = Changing::new();
        changing.is_closed.store(true, Relaxed);
        assert_eq!(changing.wait_while_closed(Wait::Forbidden), Err(EAGAIN));
    }
}
