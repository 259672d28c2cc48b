// SPDX-License-Identifier: GPL-2.0

//! The doorbell of a device: one program rings, all that have the device open can wait for it.
//!
//! An event is a number that goes up. Each open file remembers which it has seen, so that none takes
//! another's event, and events that come faster than they are taken become one wake-up with a count.

use kernel::fs::File;
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Full, Relaxed};
use kernel::sync::poll::{PollCondVarBox, PollTable};

/// The events of one device.
pub(crate) struct Events {
    raised: Atomic<u64>,
    waiters: PollCondVarBox,
}

/// How many of a device's events an open file has taken.
pub(crate) struct Seen(Atomic<u64>);

impl Events {
    /// Makes a doorbell that nobody has rung. Fails with `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            raised: Atomic::new(0),
            waiters: PollCondVarBox::new(c"mmapdev_events", kernel::static_lock_class!())?,
        })
    }

    /// Returns the state of a file that is opened now: it has seen all that was before.
    pub(crate) fn seen_by_now(&self) -> Seen {
        Seen(Atomic::new(self.raised.load(Relaxed)))
    }

    /// Raises an event: what the caller has stored before is seen by whoever takes it. May be called in any context.
    pub(crate) fn raise(&self) {
        self.raised.fetch_add(1, Full);
        self.wake();
    }

    /// Has all who wait look again. May be called in any context.
    pub(crate) fn wake(&self) {
        self.waiters.notify_all();
    }

    /// Has the caller of `poll()` woken at the next event.
    pub(crate) fn register_wait(&self, file: &File, table: &PollTable<'_>) {
        table.register_wait(file, &self.waiters);
    }

    /// Returns how many events there are that were not taken.
    pub(crate) fn pending(&self, seen: &Seen) -> u64 {
        // In this order: what is taken meanwhile would else seem to be more than was raised.
        let seen = seen.0.load(Acquire);
        self.raised.load(Relaxed).wrapping_sub(seen)
    }

    /// Takes the events that were not taken, and returns how many there were.
    pub(crate) fn take(&self, seen: &Seen) -> u64 {
        loop {
            // In this order, so that no fewer were raised than were taken.
            let before = seen.0.load(Acquire);
            let now = self.raised.load(Relaxed);
            // Another thread may be taking them by the same file: each event is taken once.
            if seen.0.cmpxchg(before, now, Full).is_ok() {
                return now.wrapping_sub(before);
            }
        }
    }

    /// Gives back what [`Self::take`] took and nobody could be told of, and has all who wait look again.
    pub(crate) fn give_back(&self, seen: &Seen, count: u64) {
        // Goes round as the numbers do; what others have taken meanwhile stays taken.
        seen.0.fetch_sub(count, Full);
        self.wake();
    }
}
