// SPDX-License-Identifier: GPL-2.0

//! What a mapping of a device does when it is made and when it is touched.
//!
//! The call `mmap()` has only set addresses aside. The first touch of a page comes here: the page is
//! found in the page cache or brought in there, and the kernel puts it into the page table, so that the
//! next touch is nobody's business but the CPU's.

use crate::abstractions::device_span::Piece;
use crate::abstractions::page_cache::Wait;
use crate::abstractions::vm_area_desc::VmAreaDesc;
use crate::abstractions::vm_fault::{
    Failure, FaultOutcome, FirstWrite, HugeFault, HugeFaultOutcome, Installed, PageAround,
    PageFault, VmFault, PMD_ORDER, PMD_SIZE,
};
use crate::abstractions::vm_operations::VmOperations;
use crate::abstractions::vm_pfn::{PfnFault, PfnOperations, Transfer};
use crate::backing::bar::BarBacking;
use crate::backing::file::FileBacking;
use crate::backing::memory::Memory;
use crate::backing::Backing;
use crate::counters::Event;
use crate::device::Device;
use crate::open_device::OpenDevice;
use crate::trace;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

/// How many neighbours of a small page are mapped with it, as an order: 64 pages, 256 KiB. More cost
/// little more, and take little time; a page table has eight such windows. (A write marks them all dirty,
/// which for those who track pages by soft-dirty bits is as with a large folio.)
const NEIGHBOURS_ORDER: u32 = 6;

/// How many neighbours of a huge page are mapped with it, as an order: 8 huge pages, 16 MiB of the file. Each
/// costs a third of what a fault of its own does.
const HUGE_NEIGHBOURS_ORDER: u32 = 3;

/// A backing of devices that can be mapped.
pub(crate) trait MappedBacking: Backing {
    /// Sets what a mapping does when it is touched. Fails where it cannot be as it is asked for.
    fn prepare_mapping(&self, desc: VmAreaDesc<'_, OpenDevice<Self>>) -> Result;
}

impl MappedBacking for Memory {
    fn prepare_mapping(&self, desc: VmAreaDesc<'_, OpenDevice<Self>>) -> Result {
        if self.largest_folio() < PMD_SIZE {
            desc.set_operations::<SmallMapping>();
        } else {
            desc.set_operations::<Mapping>();
        }
        Ok(())
    }
}

impl MappedBacking for FileBacking {
    fn prepare_mapping(&self, desc: VmAreaDesc<'_, OpenDevice<Self>>) -> Result {
        desc.set_operations::<StoredMapping>();
        Ok(())
    }
}

impl MappedBacking for BarBacking {
    fn prepare_mapping(&self, desc: VmAreaDesc<'_, OpenDevice<Self>>) -> Result {
        self.check_may_be_changed()?;
        let desc = desc.shared()?;
        let access = self.memory().access(Wait::Allowed)?;
        desc.map_device_memory::<BarMapping>(&access)
    }
}

/// The operations of a mapping of a device of memory that may have whole huge pages.
pub(crate) struct Mapping;

#[vtable]
impl VmOperations for Mapping {
    type File = OpenDevice<Memory>;

    fn fault<'a>(open: &OpenDevice<Memory>, fault: &'a PageFault) -> FaultOutcome<'a> {
        let device = open.device();
        let page = fault.index() as u64;
        if page >= device.size().div_ceil(PAGE_SIZE as u64) {
            note_failure(device, fault, Failure::BusError, ENXIO);
            return FaultOutcome::BusError;
        }
        if let Some(done) = map_neighbours(device, fault) {
            count(device, Event::MapPages, fault.is_under_vma_lock());
            trace::map_pages(device.id(), page, NEIGHBOURS_ORDER.into(), 0);
            return FaultOutcome::Done(done);
        }
        let advice = fault.huge_page_advice();
        match device.backing().folio(fault.index(), advice, Wait::Allowed) {
            Ok(folio) => {
                count(device, Event::Fault, fault.is_under_vma_lock());
                trace::fault(device.id(), page, folio.order().into(), 0);
                FaultOutcome::Present(folio)
            }
            Err(error) if error == ENOMEM => {
                note_failure(device, fault, Failure::OutOfMemory, error);
                FaultOutcome::OutOfMemory
            }
            Err(error) => {
                note_failure(device, fault, Failure::BusError, error);
                FaultOutcome::BusError
            }
        }
    }

    fn huge_fault<'a>(open: &OpenDevice<Memory>, fault: &HugeFault<'a>) -> HugeFaultOutcome<'a> {
        let device = open.device();
        let advice = fault.huge_page_advice();
        let folio = || {
            device.check_alive()?;
            device.backing().folio(fault.index(), advice, Wait::Allowed)
        };
        // Whatever is wrong, the fault of the single page that follows will say so, and count it.
        let outcome = match folio() {
            Ok(folio) => fault.insert(&folio),
            Err(_) => HugeFaultOutcome::Fallback,
        };
        if outcome.is_done() {
            trace::huge_fault(device.id(), fault.index() as u64, PMD_ORDER.into(), 0);
            fault.insert_resident_neighbours(HUGE_NEIGHBOURS_ORDER);
            count(device, Event::HugeFault, fault.is_under_vma_lock());
        } else {
            count_fallback(device, fault.index());
        }
        outcome
    }

    fn refused_huge_fault(open: &OpenDevice<Memory>, fault: &VmFault) {
        count_fallback(open.device(), fault.index());
    }
}

/// Maps a page that is in memory together with its neighbours, if its folio is one of many in a window. `None`
/// leaves the fault to be answered as any other.
fn map_neighbours<'a>(device: &Device<Memory>, fault: &'a PageFault) -> Option<Installed<'a>> {
    // A folio as large as the window is mapped as a whole, for less; unless there is bad memory in it, which is
    // then left out.
    let folio = device.pages().get_folio(fault.index())?;
    if folio.order() >= NEIGHBOURS_ORDER && !folio.is_poisoned() {
        return None;
    }
    fault.map_resident(NEIGHBOURS_ORDER)
}

/// The operations of a mapping of a device of memory that never has a whole huge page: as that of any file that
/// has none, it is not eligible for huge pages, and its faults are not offered as huge ones first.
pub(crate) struct SmallMapping;

#[vtable]
impl VmOperations for SmallMapping {
    type File = OpenDevice<Memory>;

    fn fault<'a>(open: &OpenDevice<Memory>, fault: &'a PageFault) -> FaultOutcome<'a> {
        Mapping::fault(open, fault)
    }
}

/// The operations of a mapping of a device that is stored in a file.
pub(crate) struct StoredMapping;

#[vtable]
impl VmOperations for StoredMapping {
    type File = OpenDevice<FileBacking>;

    fn fault<'a>(open: &OpenDevice<FileBacking>, fault: &'a PageFault) -> FaultOutcome<'a> {
        let device = open.device();
        let page = fault.index() as u64;
        // The file may have become shorter since the device has last heard of it, or the device may have ended.
        if page >= device.size().div_ceil(PAGE_SIZE as u64) {
            note_failure(device, fault, Failure::BusError, ENXIO);
            return FaultOutcome::BusError;
        }
        device.backing().answer_touch(fault)
    }

    fn found(open: &OpenDevice<FileBacking>, fault: &VmFault, failure: Option<Failure>) {
        let device = open.device();
        match failure {
            Some(failure @ Failure::OutOfMemory) => note_failure(device, fault, failure, ENOMEM),
            Some(failure @ Failure::BusError) => note_failure(device, fault, failure, EIO),
            None => {
                count(device, Event::Fault, fault.is_under_vma_lock());
                trace::fault(device.id(), fault.index() as u64, 0, 0);
            }
        }
    }

    fn map_pages<'a>(
        open: &OpenDevice<FileBacking>,
        around: &PageAround<'a>,
    ) -> Option<Installed<'a>> {
        let device = open.device();
        device.check_alive().ok()?;
        let done = around.map()?;
        device.counters().add(Event::MapPages, 1);
        trace::map_pages(device.id(), around.index() as u64, 0, 0);
        Some(done)
    }

    fn page_mkwrite<'a>(open: &OpenDevice<FileBacking>, write: FirstWrite<'a>) -> Installed<'a> {
        let device = open.device();
        let page = write.index() as u64;
        let answer = device
            .backing()
            .answer_first_write(write, || device.has_ended());
        let error = match answer.failure() {
            Some(_) => EIO.to_errno(),
            None => 0,
        };
        device.counters().add(Event::PageMkwrite, 1);
        trace::page_mkwrite(device.id(), page, 0, error.into());
        answer
    }
}

/// The operations of a mapping of a BAR.
pub(crate) struct BarMapping;

impl PfnOperations for BarMapping {
    type File = OpenDevice<BarBacking>;

    fn fault<'a>(open: &OpenDevice<BarBacking>, fault: &PfnFault<'a>) -> Option<Installed<'a>> {
        let device = open.device();
        let touch = fault.touch();
        let page = touch.index() as u64;
        // Until the entry is there, so that whoever takes the memory away finds it.
        let access = device.backing().memory().access(Wait::Allowed);
        let answer = access.ok().and_then(|access| {
            let answer = fault.insert(&access)?;
            fault.insert_neighbours(&access, HUGE_NEIGHBOURS_ORDER);
            Some(answer)
        });
        match &answer {
            None if !fault.is_huge() => note_failure(device, touch, Failure::BusError, ENXIO),
            None => count_fallback(device, touch.index()),
            Some(answer) => match answer.failure() {
                Some(failure) => note_failure(device, touch, failure, EIO),
                None if fault.is_huge() => {
                    count(device, Event::HugeFault, touch.is_under_vma_lock());
                    trace::huge_fault(device.id(), page, PMD_ORDER.into(), 0);
                }
                None => {
                    count(device, Event::Fault, touch.is_under_vma_lock());
                    trace::fault(device.id(), page, 0, 0);
                }
            },
        }
        answer
    }

    fn access(open: &OpenDevice<BarBacking>, offset: u64, transfer: Transfer<'_>) -> Result {
        let access = open.device().backing().memory().access(Wait::Allowed)?;
        match transfer {
            Transfer::Read(bytes) => access.read(offset, bytes, Piece::Whole),
            Transfer::Write(bytes) => {
                open.device().backing().check_may_be_changed()?;
                access.write(offset, bytes, Piece::Whole)
            }
        }
    }
}

fn count<B: Backing>(device: &Device<B>, event: Event, under_vma_lock: bool) {
    device.counters().add(event, 1);
    if !under_vma_lock {
        device.counters().add(Event::MmapLockFault, 1);
    }
}

/// Counts a touch that gets no page, and traces why.
fn note_failure<B: Backing>(device: &Device<B>, fault: &VmFault, failure: Failure, error: Error) {
    count(device, Event::Fault, fault.is_under_vma_lock());
    let event = match failure {
        Failure::OutOfMemory => Event::OutOfMemory,
        Failure::BusError => Event::BusError,
    };
    device.counters().add(event, 1);
    let errno = error.to_errno().into();
    trace::fault(device.id(), fault.index() as u64, 0, errno);
}

/// Counts a touch that was offered as huge, and that [`VmOperations::fault`] answers.
fn count_fallback<B: Backing>(device: &Device<B>, page: usize) {
    let again = EAGAIN.to_errno().into();
    trace::huge_fault(device.id(), page as u64, PMD_ORDER.into(), again);
    device.counters().add(Event::HugeFallback, 1);
}
