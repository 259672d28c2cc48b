// SPDX-License-Identifier: GPL-2.0

//! What a mapping of a file does when it is touched.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h), `struct vm_operations_struct`
//!
//! There is no `open` and `close` here, and no data of the mapping's own: a VMA keeps its file open,
//! and the handlers are called with what the file belongs to. That costs a mapping nothing to split,
//! merge and copy, where a counted pointer of each VMA would forbid merging.

use super::file_operations::{self, FileOperations};
use super::vm_fault::{
    Failure, FaultOutcome, FirstWrite, HugeFault, HugeFaultOutcome, Installed, PageAround,
    PageFault, VmFault,
};
use core::marker::PhantomData;
use kernel::bindings;
use kernel::error::VTABLE_DEFAULT_ERROR;
use kernel::prelude::*;

/// The operations of a mapping of pages, mirroring `struct vm_operations_struct`.
///
/// All are called with what [`FileOperations::open`] gave for the mapped file.
#[vtable]
pub(crate) trait VmOperations {
    /// The file operations of the files that are mapped so.
    type File: FileOperations;

    /// Answers a touch of a page that is not mapped.
    ///
    /// Context: process, with the mmap lock or the VMA's lock held for reading; may sleep.
    fn fault<'a>(file: &Self::File, fault: &'a PageFault) -> FaultOutcome<'a>;

    /// Notes what came of [`FaultOutcome::FindOrRead`], unless the touch comes again.
    ///
    /// Context: as in [`Self::fault`].
    fn found(_file: &Self::File, _fault: &VmFault, _failure: Option<Failure>) {}

    /// Answers a touch where one entry can map a whole huge page.
    ///
    /// Context: as in [`Self::fault`].
    fn huge_fault<'a>(_file: &Self::File, _fault: &HugeFault<'a>) -> HugeFaultOutcome<'a> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Notes a touch that the kernel has offered as a huge one and that no single entry can answer, see
    /// [`HugeFault`], so that [`Self::huge_fault`] is not asked. [`Self::fault`] comes next.
    ///
    /// Context: as in [`Self::fault`].
    fn refused_huge_fault(_file: &Self::File, _fault: &VmFault) {}

    /// Maps a page that is in memory, and others around it, before [`Self::fault`] is asked; `None` where it is not
    /// there. [`PageAround::map`] does it.
    ///
    /// Context: under RCU and the VMA's lock: must not sleep.
    fn map_pages<'a>(_file: &Self::File, _fault: &PageAround<'a>) -> Option<Installed<'a>> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Notes that a page which is mapped for reading is about to be written to, in a mapping of a page cache that is
    /// written back. [`super::file_cache::FileCache::answer_first_write`] does it.
    ///
    /// Context: as in [`Self::fault`].
    fn page_mkwrite<'a>(_file: &Self::File, _write: FirstWrite<'a>) -> Installed<'a> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// The C table of operations for `T`.
pub(super) struct VmOperationsTable<T>(PhantomData<T>);

impl<T: VmOperations> VmOperationsTable<T> {
    const TABLE: bindings::vm_operations_struct = bindings::vm_operations_struct {
        fault: Some(Self::fault),
        huge_fault: if T::HAS_HUGE_FAULT {
            Some(Self::huge_fault)
        } else {
            None
        },
        map_pages: Some(if T::HAS_MAP_PAGES {
            Self::map_pages
        } else {
            map_no_pages
        }),
        page_mkwrite: if T::HAS_PAGE_MKWRITE {
            Some(Self::page_mkwrite)
        } else {
            None
        },
        ..pin_init::zeroed()
    };

    /// Returns the table, which is there as long as the module is.
    pub(super) const fn table() -> &'static bindings::vm_operations_struct {
        &Self::TABLE
    }

    /// # Safety
    ///
    /// `fault` must be a fault in a VMA whose file has the operations `T::File`, and which has neither `VM_PFNMAP` nor
    /// `VM_MIXEDMAP`, as [`super::vm_area_desc::VmAreaDesc`] sees to, and which is alive for `'a`.
    unsafe fn file<'a>(fault: *mut bindings::vm_fault) -> &'a T::File {
        // SAFETY: A VMA keeps its file open, so that its private data is there until the VMA is gone.
        unsafe { file_operations::data((*(*fault).__bindgen_anon_1.vma).vm_file) }
    }

    /// # Safety
    ///
    /// As for [`Self::file`], and `fault` must be the argument of a `fault` handler.
    unsafe extern "C" fn fault(fault: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: By the requirements of this function.
        let touch = unsafe { PageFault::from_raw(fault) };
        // SAFETY: As above.
        let outcome = T::fault(unsafe { Self::file(fault) }, touch);
        touch.finish(outcome, |failure| {
            // SAFETY: As above: where this is called, the lock is held that keeps the file.
            T::found(unsafe { Self::file(fault) }, touch, failure);
        })
    }

    /// # Safety
    ///
    /// As for [`Self::file`], and `fault` must be the argument of a `huge_fault` handler.
    unsafe extern "C" fn huge_fault(
        fault: *mut bindings::vm_fault,
        order: c_uint,
    ) -> bindings::vm_fault_t {
        // SAFETY: By the requirements of this function.
        let (file, fault) = unsafe { (Self::file(fault), PageFault::from_raw(fault)) };
        match HugeFault::new(fault, order) {
            Some(fault) => T::huge_fault(file, &fault),
            None => {
                T::refused_huge_fault(file, fault);
                HugeFaultOutcome::Fallback
            }
        }
        .into_reason()
    }

    /// # Safety
    ///
    /// As for [`Self::file`], and `fault` must be the argument of a `page_mkwrite` handler.
    unsafe extern "C" fn page_mkwrite(fault: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: By the requirements of this function.
        let (file, fault) = unsafe { (Self::file(fault), VmFault::from_raw(fault)) };
        // SAFETY: By the requirements of this function.
        T::page_mkwrite(file, unsafe { FirstWrite::new(fault) }).into_reason()
    }

    /// # Safety
    ///
    /// As for [`Self::file`], and the arguments must be those of a `map_pages` handler.
    unsafe extern "C" fn map_pages(
        fault: *mut bindings::vm_fault,
        first: c_ulong,
        last: c_ulong,
    ) -> bindings::vm_fault_t {
        // SAFETY: By the requirements of this function.
        let (file, fault) = unsafe { (Self::file(fault), VmFault::from_raw(fault)) };
        // SAFETY: By the requirements of this function.
        let around = unsafe { PageAround::new(fault, first, last) };
        T::map_pages(file, &around).map_or(0, Installed::into_reason)
    }
}

/// Maps nothing. It is here because the kernel repeats the fault of a driver that does not have it under
/// the mmap lock, instead of the VMA's own. For what is resident around a page there is
/// [`PageFault::map_resident`], which serves writes as well.
///
/// # Safety
///
/// None beyond what the caller of a `map_pages` handler promises.
pub(super) unsafe extern "C" fn map_no_pages(
    _fault: *mut bindings::vm_fault,
    _start: c_ulong,
    _end: c_ulong,
) -> bindings::vm_fault_t {
    0
}
