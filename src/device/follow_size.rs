// SPDX-License-Identifier: GPL-2.0

//! Following a size that is not up to the device: that of the file that it is stored in.
//!
//! Each call looks whether it has changed, and where the kernel tells when the file does, a worker does, too.
//!
//! # Lock order
//!
//! The inode lock of the page cache, then what is in `abstractions/file_size.rs`.

use super::Device;
use crate::abstractions::file_watch::Watcher;
use crate::abstractions::page_cache::{Wait, WriteGuard};
use crate::backing::file::FileBacking;
use crate::backing::Backing;
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Relaxed, Release};
use kernel::sync::{Arc, ArcBorrow};
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::workqueue::{impl_has_work, WorkItem};

/// A size that no file has.
const UNSETTLED: u64 = u64::MAX;

impl<B: Backing> Device<B> {
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
    ///
    /// # Errors
    ///
    /// - `EINTR`: the task is killed while it waits for who writes, as long as a program may keep that one from going on.
    pub(crate) fn follow_size(self: ArcBorrow<'_, Self>) -> Result {
        if self.size_has_changed() && !self.is_stuck.load(Relaxed) {
            let guard = self.pages().lock_for_writing_unless_killed()?;
            // Somebody else may have tried meanwhile.
            if !self.is_stuck.load(Relaxed) {
                self.follow_size_under(&guard);
            }
        }
        if self.is_stuck.load(Relaxed) {
            // What was cut off since is seen by nobody all the same.
            let size = self.backing.foreign_size();
            let is_shorter = size.is_some_and(|size| size < self.pages().size());
            let mut result = Ok(());
            if is_shorter && !self.has_ended() {
                let guard = self.pages().lock_for_writing_unless_killed();
                result = guard.map(|guard| self.backing.cut_off(&guard));
            }
            // Also where whoever calls is killed: others count on it.
            Self::follow_size_later(self.into());
            return result;
        }
        Ok(())
    }

    /// Does the same, also where whoever calls may not wait: has it done by a worker then, and fails with `EAGAIN`.
    pub(crate) fn follow_size_or(self: ArcBorrow<'_, Self>, wait: Wait) -> Result {
        match wait {
            Wait::Allowed => self.follow_size()?,
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
        // Most changes are of bytes. The rest is for somebody who holds no lock of the file.
        if this.size_has_changed() {
            Self::follow_size_later(this.into());
        }
    }
}
