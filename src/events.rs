// SPDX-License-Identifier: GPL-2.0

//! The doorbell of a device: one program rings, all that have the device open can wait for it.
//!
//! An event is a number that goes up. Each open file remembers which it has seen, so that none takes
//! another's event, and events that come faster than they are taken become one wake-up with a count. Who waits does
//! so in `poll()` or the like, or has an eventfd signalled, which virtual machines and io_uring know how to wait for.
//!
//! # Lock order
//!
//! `Events::changes`, `Events::targets`, then what an eventfd takes to wake who waits.

use crate::abstractions::eventfd::EventFd;
use kernel::fs::File;
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Full, Relaxed};
use kernel::sync::poll::{PollCondVarBox, PollTable};
use kernel::sync::{new_mutex, new_spinlock_irq, Arc, Mutex, SpinLockIrq};

/// The events of one device.
#[pin_data]
pub(crate) struct Events {
    raised: Atomic<u64>,
    waiters: PollCondVarBox,
    /// How many files there have been.
    last_file: Atomic<u64>,
    /// How often a file has had something signalled that had nothing before.
    last_target: Atomic<u64>,
    /// Whoever changes the targets: the list is made new where that may sleep.
    #[pin]
    changes: Mutex<()>,
    /// What is signalled by each event, in the order of their numbers. An interrupt may be what raises one.
    #[pin]
    targets: SpinLockIrq<KVec<Target>>,
}

/// How many open files of a device may have an eventfd: an interrupt signals all of them.
const MOST_TARGETS: usize = 256;

/// What an open file has signalled.
struct Target {
    file: u64,
    /// The value of `Events::last_target` when it came.
    number: u64,
    eventfd: Arc<EventFd>,
}

/// How many of a device's events an open file has taken, and which file that is.
pub(crate) struct Seen {
    taken: Atomic<u64>,
    file: u64,
}

impl Events {
    /// Makes a doorbell that nobody has rung. Fails with `ENOMEM`.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            raised: Atomic::new(0),
            waiters: PollCondVarBox::new(c"mmapdev_events", kernel::static_lock_class!())?,
            last_file: Atomic::new(0),
            last_target: Atomic::new(0),
            changes <- new_mutex!(()),
            targets <- new_spinlock_irq!(KVec::new()),
        }? Error)
    }

    /// Returns the state of a file that is opened now: it has seen all that was before.
    pub(crate) fn seen_by_now(&self) -> Seen {
        Seen {
            taken: Atomic::new(self.raised.load(Relaxed)),
            file: self.last_file.fetch_add(1, Relaxed),
        }
    }

    /// Raises an event: what the caller has stored before is seen by whoever takes it.
    ///
    /// Context: any but an NMI, and not from what is woken by an eventfd.
    pub(crate) fn raise(&self) {
        self.raised.fetch_add(1, Full);
        self.wake();
    }

    /// Has all who wait look again. Context: as in [`Self::raise`].
    pub(crate) fn wake(&self) {
        self.waiters.notify_all();
        // One at a time: any number of processes may wait for each, and interrupts are to come in between. Those that come
        // meanwhile are left out, or there might be no end to it.
        let last = self.last_target.load(Relaxed);
        let mut done = 0;
        while let Some((number, eventfd)) = self.target_after(done) {
            if number > last {
                break;
            }
            eventfd.signal();
            done = number;
        }
    }

    /// Returns the first of the targets whose numbers are above that one.
    fn target_after(&self, number: u64) -> Option<(u64, Arc<EventFd>)> {
        let targets = self.targets.lock();
        let index = targets.partition_point(|target| target.number <= number);
        let target = targets.get(index)?;
        Some((target.number, target.eventfd.clone()))
    }

    /// Has an eventfd signalled with each event from now on, for an open file, instead of another one. Sleeps.
    ///
    /// Fails with `ENOMEM`, and with `ENOSPC` where too many files have one; then all is as it was.
    pub(crate) fn signal_with(&self, seen: &Seen, eventfd: EventFd) -> Result {
        let eventfd = Arc::new(eventfd, GFP_KERNEL_ACCOUNT)?;
        let _changes = self.changes.lock();
        let mut current = self.targets.lock();
        if let Some(own) = current.iter_mut().find(|target| target.file == seen.file) {
            // An event that is just being signalled is one for what takes its place.
            let replaced = core::mem::replace(&mut own.eventfd, eventfd);
            // What was there goes without the lock.
            drop(current);
            drop(replaced);
            return Ok(());
        }
        let count = current.len();
        drop(current);
        if count >= MOST_TARGETS {
            return Err(ENOSPC);
        }
        let mut targets = KVec::with_capacity(count + 1, GFP_KERNEL_ACCOUNT)?;
        let mut current = self.targets.lock();
        let own = Target {
            file: seen.file,
            number: self.last_target.fetch_add(1, Relaxed) + 1,
            eventfd,
        };
        for target in Iterator::chain(current.drain_all(), [own]) {
            // There is room: nobody else changes them.
            let _ = targets.push_within_capacity(target);
        }
        core::mem::swap(&mut *current, &mut targets);
        // As above.
        drop(current);
        Ok(())
    }

    /// Has no eventfd signalled any more for an open file. Sleeps.
    pub(crate) fn signal_nobody(&self, seen: &Seen) {
        let _changes = self.changes.lock();
        let mut current = self.targets.lock();
        let own = current.iter().position(|target| target.file == seen.file);
        let removed = own.map(|index| current.remove(index));
        // As above.
        drop(current);
        drop(removed);
    }

    /// Has the caller of `poll()` woken at the next event.
    pub(crate) fn register_wait(&self, file: &File, table: &PollTable<'_>) {
        table.register_wait(file, &self.waiters);
    }

    /// Returns how many events there are that were not taken.
    pub(crate) fn pending(&self, seen: &Seen) -> u64 {
        // In this order: what is taken meanwhile would else seem to be more than was raised.
        let taken = seen.taken.load(Acquire);
        self.raised.load(Relaxed).wrapping_sub(taken)
    }

    /// Takes the events that were not taken, and returns how many there were.
    pub(crate) fn take(&self, seen: &Seen) -> u64 {
        loop {
            // In this order, so that no fewer were raised than were taken.
            let before = seen.taken.load(Acquire);
            let now = self.raised.load(Relaxed);
            // Another thread may be taking them by the same file: each event is taken once.
            if seen.taken.cmpxchg(before, now, Full).is_ok() {
                return now.wrapping_sub(before);
            }
        }
    }

    /// Gives back what [`Self::take`] took and nobody could be told of, and has all who wait look again.
    pub(crate) fn give_back(&self, seen: &Seen, count: u64) {
        // Goes round as the numbers do; what others have taken meanwhile stays taken.
        seen.taken.fetch_sub(count, Full);
        self.waiters.notify_all();
    }
}
