// SPDX-License-Identifier: GPL-2.0

//! What a mapping of device memory does when it is touched: page frames, which have no `struct page`.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h), `struct vm_operations_struct`
//!
//! Such a mapping has `VM_PFNMAP`: nothing is counted for what it maps, and nobody but its entries knows of it. So each
//! entry is made with [`Access`] to the memory at hand, which whoever takes the memory away waits for, to take the
//! entries away then.

use super::device_memory::Access;
use super::file_operations::{self, FileOperations};
use super::helpers;
use super::vm_fault::{Installed, VmFault, PMD_ORDER};
use super::vm_operations::map_no_pages;
use core::marker::PhantomData;
use kernel::bindings;
use kernel::page::PAGE_SHIFT;
use kernel::prelude::*;

/// The operations of a mapping of device memory.
///
/// All are called with what [`FileOperations::open`] gave for the mapped file.
pub(crate) trait PfnOperations {
    /// The file operations of the files that are mapped so.
    type File: FileOperations;

    /// Answers a touch of what is not mapped, by one page or by as many as one entry can map; `None` where it cannot.
    /// [`PfnFault::insert`] does it. Then a touch of a single page is `SIGBUS`, and others are taken page by page.
    ///
    /// Context: process, with the mmap lock or the VMA's lock held for reading; may sleep.
    fn fault<'a>(file: &Self::File, fault: &PfnFault<'a>) -> Option<Installed<'a>>;

    /// Copies memory for somebody who has no mapping of it, such as a debugger, from an offset into the file on; see
    /// `access` in `struct vm_operations_struct`. Fails where that cannot be.
    ///
    /// Context: process, with the mmap lock of the mapping's owner held for reading; may sleep.
    fn access(file: &Self::File, offset: u64, transfer: Transfer<'_>) -> Result;
}

/// Bytes that somebody wants to have from a mapping, or to put there.
pub(crate) enum Transfer<'a> {
    /// To be filled: zeros by now.
    Read(&'a mut [u8]),
    /// To be stored. The mapping may be written to.
    Write(&'a [u8]),
}

/// A touch in a mapping of device memory.
///
/// # Invariants
///
/// The fault is being handled, by the handler for single pages (order 0) or by that for huge ones ([`PMD_ORDER`]). Its VMA
/// has `VM_PFNMAP`, and is not copied on write.
pub(crate) struct PfnFault<'a> {
    fault: &'a VmFault,
    order: u32,
}

/// Returns whether one PMD entry can map page frames that are no pages: on this architecture, and where whoever takes the
/// memory away can wait for a fork that has such an entry in its hands, see [`super::device_memory`].
pub(crate) fn can_map_huge() -> bool {
    // SAFETY: Have no requirements.
    unsafe {
        helpers::abstractions_helper_supports_pmd_pfnmap()
            && helpers::abstractions_helper_can_wait_for_kernel_code()
    }
}

impl<'a> PfnFault<'a> {
    /// Returns the touch, to be looked at.
    pub(crate) fn touch(&self) -> &'a VmFault {
        self.fault
    }

    /// Returns whether a whole huge page is asked for, instead of a single page.
    pub(crate) fn is_huge(&self) -> bool {
        self.order > 0
    }

    /// Maps the touched page, or the whole huge page around it, to the memory.
    ///
    /// `None` where it is other memory than that of the mapped file or not there, or where what is asked for does not
    /// fit into the mapping, is not aligned to its size in memory, or has single pages mapped in it already. Where it is mapped
    /// for reading alone, it is mapped for writing then. Mirrors `vmf_insert_pfn_prot()` and `vmf_insert_pfn_pmd()`.
    pub(crate) fn insert(&self, access: &Access<'_>) -> Option<Installed<'a>> {
        let frame = access.frame_in(self.fault.mapping(), self.fault.index(), self.order)?;
        // SAFETY: The frame is one of device memory that does not go before `access` does, and whoever takes it away then finds
        // the entry by the address space. By its order it is the first of a huge page where one is asked for.
        let reason = unsafe {
            if self.is_huge() {
                self.insert_huge(frame)?
            } else {
                self.insert_page(frame)
            }
        };
        // SAFETY: It is such an answer.
        Some(unsafe { Installed::new(reason) })
    }

    /// Maps the touched page to a page frame.
    ///
    /// # Safety
    ///
    /// It must be one that the mapping is of, and not go without its entries being taken away.
    unsafe fn insert_page(&self, frame: usize) -> bindings::vm_fault_t {
        let (raw, vma, address) = (self.fault.as_raw(), self.fault.vma(), self.fault.address());
        // SAFETY: By the type invariants the fault is valid, and so is its entry.
        let pmd = unsafe { (*raw).pmd };
        // SAFETY: As above.
        if unsafe { helpers::abstractions_helper_pmd_trans_huge(pmd) } {
            // All around it was mapped meanwhile.
            return bindings::vm_fault_reason_VM_FAULT_NOPAGE;
        }
        // SAFETY: By the type invariants the VMA is one for page frames, not copied on write; the rest is the requirement of
        // this function.
        let reason =
            unsafe { bindings::vmf_insert_pfn_prot(vma, address, frame, (*vma).vm_page_prot) };
        // SAFETY: As for the entry above.
        let is_none = unsafe { helpers::abstractions_helper_pmd_none(pmd) };
        // So it says as well where that comes just now; where there is no memory for a table, there is no entry either.
        if reason == bindings::vm_fault_reason_VM_FAULT_OOM && !is_none {
            return bindings::vm_fault_reason_VM_FAULT_NOPAGE;
        }
        reason
    }

    /// Maps the huge page around the touched one to the page frames from this one on; `None` where it does not fit, or single
    /// pages are mapped there.
    ///
    /// # Safety
    ///
    /// As for [`Self::insert_page`], for all of them, and the first must be aligned to the size of a huge page.
    unsafe fn insert_huge(&self, frame: usize) -> Option<bindings::vm_fault_t> {
        if !self.fault.fits(self.order) {
            return None;
        }
        let raw = self.fault.as_raw();
        // SAFETY: By the type invariants the fault is valid, and so is its entry.
        let (is_none, is_huge) = unsafe {
            let pmd = (*raw).pmd;
            (
                helpers::abstractions_helper_pmd_none(pmd),
                helpers::abstractions_helper_pmd_trans_huge(pmd),
            )
        };
        let for_write = if is_none {
            // Said to be for a read, even if it is for a write: the entry is as writable as the mapping is. For a write the C
            // function would take what has come there meanwhile for the same frame, and complain if it is not.
            false
        } else if is_huge && self.fault.is_write() {
            // One that is mapped for reading, as first stores are noted (soft-dirty). It is of this frame, and stays so or goes
            // as a whole: of those who have the locks of this fault shared only, userfaultfd refuses such a VMA, and madvise()
            // and scans of the page map leave it out; and a fault that is refused access, which then splits it, is refused for
            // good, so that none comes after it that maps single pages.
            true
        } else {
            return None;
        };
        // SAFETY: By the type invariants the VMA is one for page frames, not copied on write, and the entry lies within it; the
        // rest is the requirement of this function, and what is there for a write is of the same frame.
        Some(unsafe { bindings::vmf_insert_pfn_pmd(raw, frame, for_write) })
    }

    /// Maps the other huge pages in the window of `2^order` huge pages around the one that was asked for, each with one
    /// entry, where they fit and nothing is mapped yet: a touch of theirs needs no fault then. Does nothing for a single page.
    pub(crate) fn insert_neighbours(&self, access: &Access<'_>, order: u32) {
        if !self.is_huge() {
            return;
        }
        for mut neighbour in self.fault.huge_neighbours(order) {
            let (mapping, index) = (self.fault.mapping(), neighbour.index());
            if let Some(frame) = access.frame_in(mapping, index, PMD_ORDER) {
                // SAFETY: As in `insert`, for the neighbour, by its type invariant. If there is something by now, that stays.
                unsafe { bindings::vmf_insert_pfn_pmd(neighbour.as_raw(), frame, false) };
            }
        }
    }
}

/// The C table of operations for `T`.
pub(super) struct PfnOperationsTable<T>(PhantomData<T>);

impl<T: PfnOperations> PfnOperationsTable<T> {
    const TABLE: bindings::vm_operations_struct = bindings::vm_operations_struct {
        fault: Some(Self::fault),
        huge_fault: Some(Self::huge_fault),
        map_pages: Some(map_no_pages),
        access: Some(Self::access),
        ..pin_init::zeroed()
    };

    /// Returns the table, which is there as long as the module is.
    pub(super) const fn table() -> &'static bindings::vm_operations_struct {
        &Self::TABLE
    }

    /// # Safety
    ///
    /// `fault` must be a fault in a VMA whose file has the operations `T::File` and which has `VM_PFNMAP` and is not copied
    /// on write, as [`super::vm_area_desc::SharedVmAreaDesc::map_device_memory`] sees to, and which is alive for `'a`.
    unsafe fn answer<'a>(fault: *mut bindings::vm_fault, order: u32) -> Option<Installed<'a>> {
        // SAFETY: A VMA keeps its file open, so that its private data is there until the VMA is gone.
        let file: &'a T::File =
            unsafe { file_operations::data((*(*fault).__bindgen_anon_1.vma).vm_file) };
        // SAFETY: By the requirements of this function.
        let fault = unsafe { VmFault::from_raw(fault) };
        // INVARIANT: By the requirements of this function.
        T::fault(file, &PfnFault { fault, order })
    }

    /// # Safety
    ///
    /// As for [`Self::answer`], and `fault` must be the argument of a `fault` handler.
    unsafe extern "C" fn fault(fault: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: By the requirements of this function.
        unsafe { Self::answer(fault, 0) }.map_or(
            bindings::vm_fault_reason_VM_FAULT_SIGBUS,
            Installed::into_reason,
        )
    }

    /// # Safety
    ///
    /// As for [`Self::answer`], and `fault` must be the argument of a `huge_fault` handler.
    unsafe extern "C" fn huge_fault(
        fault: *mut bindings::vm_fault,
        order: c_uint,
    ) -> bindings::vm_fault_t {
        // No entries of the next larger size, PUDs: Linux 7.3 offers them, and cannot split one where a program splits the
        // mapping (`mm_find_pmd()` takes it for a table, which is an oops), or move one (`pud_none_or_clear_bad()`).
        if order != PMD_ORDER || !can_map_huge() {
            return bindings::vm_fault_reason_VM_FAULT_FALLBACK;
        }
        // SAFETY: By the requirements of this function.
        unsafe { Self::answer(fault, order) }.map_or(
            bindings::vm_fault_reason_VM_FAULT_FALLBACK,
            Installed::into_reason,
        )
    }

    /// # Safety
    ///
    /// `vma` must be one as in [`Self::answer`], locked, with `address` in it, and `buffer` valid for `len` bytes.
    unsafe extern "C" fn access(
        vma: *mut bindings::vm_area_struct,
        address: c_ulong,
        buffer: *mut c_void,
        len: c_int,
        write: c_int,
    ) -> c_int {
        // SAFETY: By the requirements of this function.
        let (file, start, end, first, flags): (&T::File, _, _, _, _) = unsafe {
            let range = &(*vma).__bindgen_anon_1.__bindgen_anon_1;
            (
                file_operations::data((*vma).vm_file),
                range.vm_start,
                range.vm_end,
                (*vma).vm_pgoff,
                (*vma).__bindgen_anon_2.vm_flags,
            )
        };
        // A page at a time, as the caller has room for; it comes again for the rest.
        let page_end = (address | ((1 << PAGE_SHIFT) - 1)) + 1;
        let len = (len.max(0) as usize).min(page_end.min(end) - address);
        let offset = ((first << PAGE_SHIFT) + (address - start)) as u64;
        let may = |flag| flags & flag != 0;
        let transfer = if write == 0 && may(kernel::mm::virt::flags::READ) {
            // What is there is whatever the kernel has left on its stack, say, and whoever reads gets all of it.
            // SAFETY: By the requirements of this function, and it has bytes from now on.
            Transfer::Read(unsafe {
                buffer.cast::<u8>().write_bytes(0, len);
                core::slice::from_raw_parts_mut(buffer.cast(), len)
            })
        } else if write != 0 && may(kernel::mm::virt::flags::WRITE) {
            // SAFETY: By the requirements of this function.
            Transfer::Write(unsafe { core::slice::from_raw_parts(buffer.cast(), len) })
        } else {
            // A debugger writes to what its program may not, by a copy: which there cannot be. And it reads what is protected
            // from its program: here a device would answer to it.
            return EINVAL.to_errno();
        };
        match T::access(file, offset, transfer) {
            Ok(()) => len as c_int,
            Err(error) => error.to_errno(),
        }
    }
}

#[kunit_tests(abstractions_vm_pfn)]
mod tests {
    use super::super::page_cache::AddressSpace;
    use super::*;
    use core::mem::MaybeUninit;
    use kernel::fs::File;
    use kernel::sync::Arc;
    use kernel::types::ForeignOwnable;

    /// A device that says it has copied what it has not.
    struct Idle;

    #[vtable]
    impl FileOperations for Idle {
        type Module = crate::LocalModule;
        const MAPS_HUGE_PAGES: bool = false;
        type Registration = ();

        fn open(_registration: &(), _file: &File) -> Result<Arc<Self>> {
            Err(ENODEV)
        }

        fn address_space(&self) -> Option<&AddressSpace> {
            None
        }
    }

    impl PfnOperations for Idle {
        type File = Self;

        fn fault<'a>(_file: &Self, _fault: &PfnFault<'a>) -> Option<Installed<'a>> {
            None
        }

        fn access(_file: &Self, _offset: u64, _transfer: Transfer<'_>) -> Result {
            Ok(())
        }
    }

    #[test]
    fn what_is_not_filled_is_zeros() -> Result {
        const START: usize = 1 << 20;
        let mut file = KBox::new(MaybeUninit::<bindings::file>::zeroed(), GFP_KERNEL)?;
        let mut vma = KBox::new(
            MaybeUninit::<bindings::vm_area_struct>::zeroed(),
            GFP_KERNEL,
        )?;
        let (file, vma) = (file.as_mut_ptr(), vma.as_mut_ptr());
        let mut left_over = [0x5a_u8; 64];
        let len = left_over.len() as c_int;
        // SAFETY: All of it is there, and as far as is looked at it a VMA of such a file.
        let copied = unsafe {
            (*file).private_data = Arc::new(Idle, GFP_KERNEL)?.into_foreign();
            (*vma).vm_file = file;
            (*vma).__bindgen_anon_1.__bindgen_anon_1.vm_start = START;
            (*vma).__bindgen_anon_1.__bindgen_anon_1.vm_end = START + (1 << PAGE_SHIFT);
            (*vma).__bindgen_anon_2.vm_flags = kernel::mm::virt::flags::READ;
            let buffer = left_over.as_mut_ptr().cast();
            let copied = PfnOperationsTable::<Idle>::access(vma, START, buffer, len, 0);
            drop(<Arc<Idle> as ForeignOwnable>::from_foreign(
                (*file).private_data,
            ));
            copied
        };
        assert_eq!(copied, len);
        assert!(left_over.iter().all(|&byte| byte == 0));
        Ok(())
    }
}
