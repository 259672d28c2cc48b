// SPDX-License-Identifier: GPL-2.0

//! What a device counts.

use crate::abi;
use crate::abstractions::per_cpu_counters::PerCpuCounters;
use kernel::prelude::*;

/// One kind of event; [`abi::Counters`] says what each means.
#[derive(Clone, Copy)]
pub(crate) enum Event {
    Fault,
    HugeFault,
    MapPages,
    MmapLockFault,
    FailedFault,
    FolioAdded,
    BytesAdded,
    BytesRead,
    BytesWritten,
    BytesRemoved,
    Rung,
}

const EVENTS: usize = Event::Rung as usize + 1;

/// The counters of one device.
pub(crate) struct Counters(PerCpuCounters<EVENTS>);

impl Counters {
    /// Makes the counters, all zero. May sleep. Fails with `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(PerCpuCounters::new()?))
    }

    /// Counts `amount` more of an event. May be called in any context.
    pub(crate) fn add(&self, event: Event, amount: u64) {
        self.0.add(event as usize, amount);
    }

    /// Reads all counters, one after the other.
    pub(crate) fn read(&self) -> abi::Counters {
        let sum = |event| self.0.sum(event as usize);
        abi::Counters {
            faults: sum(Event::Fault),
            huge_faults: sum(Event::HugeFault),
            map_pages: sum(Event::MapPages),
            mmap_lock_faults: sum(Event::MmapLockFault),
            failed_faults: sum(Event::FailedFault),
            folios_added: sum(Event::FolioAdded),
            bytes_added: sum(Event::BytesAdded),
            bytes_read: sum(Event::BytesRead),
            bytes_written: sum(Event::BytesWritten),
            bytes_removed: sum(Event::BytesRemoved),
            events: sum(Event::Rung),
            ..Default::default()
        }
    }
}
