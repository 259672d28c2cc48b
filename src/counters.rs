// SPDX-License-Identifier: GPL-2.0

//! What a device counts.

use crate::abi;
use crate::abstractions::per_cpu_counters::PerCpuCounters;
use crate::abstractions::vm_fault::PMD_ORDER;
use kernel::prelude::*;

/// One kind of event; [`abi::Counters`] says what each means.
#[derive(Clone, Copy)]
pub(crate) enum Event {
    Fault,
    HugeFault,
    MapPages,
    MmapLockFault,
    BusError,
    OutOfMemory,
    HugeFallback,
    PageMkwrite,
    SmallFolio,
    LargeFolio,
    HugeFolio,
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

    /// Counts a folio that was brought in.
    pub(crate) fn add_folio(&self, order: u32, bytes: usize) {
        self.add(
            match order {
                0 => Event::SmallFolio,
                PMD_ORDER => Event::HugeFolio,
                _ => Event::LargeFolio,
            },
            1,
        );
        self.add(Event::BytesAdded, bytes as u64);
    }

    /// Reads all counters, one after the other.
    pub(crate) fn read(&self) -> abi::Counters {
        let sum = |event| self.0.sum(event as usize);
        let [bus_errors, out_of_memory] = [Event::BusError, Event::OutOfMemory].map(sum);
        let [small_folios, large_folios, huge_folios] =
            [Event::SmallFolio, Event::LargeFolio, Event::HugeFolio].map(sum);
        abi::Counters {
            faults: sum(Event::Fault),
            huge_faults: sum(Event::HugeFault),
            map_pages: sum(Event::MapPages),
            mmap_lock_faults: sum(Event::MmapLockFault),
            failed_faults: bus_errors + out_of_memory,
            folios_added: small_folios + large_folios + huge_folios,
            bytes_added: sum(Event::BytesAdded),
            bytes_read: sum(Event::BytesRead),
            bytes_written: sum(Event::BytesWritten),
            bus_errors,
            out_of_memory,
            huge_fallbacks: sum(Event::HugeFallback),
            page_mkwrites: sum(Event::PageMkwrite),
            small_folios,
            large_folios,
            huge_folios,
            bytes_removed: sum(Event::BytesRemoved),
            events: sum(Event::Rung),
            ..Default::default()
        }
    }
}
