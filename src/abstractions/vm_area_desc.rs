// SPDX-License-Identifier: GPL-2.0

//! A mapping while it is being set up.
//!
//! C header: [`include/linux/mm_types.h`](srctree/include/linux/mm_types.h), `struct vm_area_desc`.
//! Reference: <https://docs.kernel.org/filesystems/mmap_prepare.html>

use super::device_memory::Access;
use super::file_operations::FileOperations;
use super::helpers;
use super::vm_operations::{VmOperations, VmOperationsTable};
use super::vm_pfn::{PfnOperations, PfnOperationsTable};
use core::marker::PhantomData;
use kernel::bindings;
use kernel::page::PAGE_SHIFT;
use kernel::prelude::*;
use kernel::types::Opaque;

/// A mapping of a file with the operations `F`, in the hands of its `mmap_prepare`.
///
/// The hook comes before the mapping exists and may be merged or fail afterwards: it may describe, and
/// must not keep anything. What sets the mapping's operations takes the value: they go with the kind that the mapping is
/// of, and it is of one.
///
/// # Invariants
///
/// The mapping is being prepared, nothing has been set of it, and both its file and the file that the VMA will hold have
/// the operations `F`.
pub(crate) struct VmAreaDesc<'a, F: FileOperations> {
    inner: &'a Opaque<bindings::vm_area_desc>,
    _file: PhantomData<F>,
}

impl<'a, F: FileOperations> VmAreaDesc<'a, F> {
    /// Makes one from the pointer that `mmap_prepare` is called with.
    ///
    /// # Safety
    ///
    /// `desc` must be the argument of an `mmap_prepare` that is running for `'a`, of a file with the
    /// operations `F`, and this be called once for it.
    ///
    /// # Errors
    ///
    /// `EINVAL` where another file than that will stand behind the mapping.
    pub(super) unsafe fn from_raw(desc: *mut bindings::vm_area_desc) -> Result<Self> {
        // SAFETY: The caller passes a valid description.
        if unsafe { (*desc).file != (*desc).vm_file } {
            return Err(EINVAL);
        }
        // INVARIANT: By the requirements of this function, and the check.
        Ok(Self {
            // SAFETY: The type is transparent.
            inner: unsafe { &*desc.cast() },
            _file: PhantomData,
        })
    }

    /// Returns the length of the mapping in bytes.
    pub(crate) fn len(&self) -> usize {
        // SAFETY: The description is valid by the type invariant.
        unsafe { (*self.inner.get()).end - (*self.inner.get()).start }
    }

    /// Returns the index of the first mapped page, in pages from the start of the file.
    pub(crate) fn index(&self) -> usize {
        // SAFETY: The description is valid by the type invariant.
        unsafe { (*self.inner.get()).pgoff }
    }

    /// Makes it a mapping of the file's pages, and sets what it does when it is touched.
    pub(crate) fn set_operations<V: VmOperations<File = F>>(self) {
        // SAFETY: The description is valid by the type invariant, and only this hook writes to it. The
        // table is static, and its handlers are for files with the operations `F` and for mappings that have neither
        // `VM_PFNMAP` nor `VM_MIXEDMAP`, which nobody has set and, as this takes the value, nobody will.
        unsafe { (*self.inner.get()).vm_ops = VmOperationsTable::<V>::table() };
    }

    /// Returns the mapping as one that is shared; `EINVAL` where it is private.
    ///
    /// A page of a private mapping becomes a copy when it is written to, and what has no page cannot be copied: the kernel
    /// has a `BUG_ON()` for device memory in one, which may be written to at any later time.
    pub(crate) fn shared(self) -> Result<SharedVmAreaDesc<'a, F>> {
        // SAFETY: The description is valid by the type invariant.
        if unsafe { helpers::abstractions_helper_vma_desc_is_shared(self.inner.get()) } {
            // INVARIANT: Checked just now.
            Ok(SharedVmAreaDesc(self))
        } else {
            Err(EINVAL)
        }
    }
}

/// A [`VmAreaDesc`] of a mapping that is shared, and so never has a copy of what is mapped.
///
/// # Invariants
///
/// The mapping is not copied on write, and cannot become so.
pub(crate) struct SharedVmAreaDesc<'a, F: FileOperations>(VmAreaDesc<'a, F>);

impl<F: FileOperations> SharedVmAreaDesc<'_, F> {
    /// Makes it a mapping of device memory by page frame, cached as that memory is, and sets what it does when it is
    /// touched.
    ///
    /// It cannot grow (`VM_DONTEXPAND`), and is left out of core dumps. Mirrors what `io_remap_pfn_range()` sets.
    /// Fails with `EINVAL` where there are fewer pages.
    pub(crate) fn map_device_memory<V: PfnOperations<File = F>>(
        self,
        access: &Access<'_>,
    ) -> Result {
        let desc = self.0;
        let end = desc.index().checked_add(desc.len() >> PAGE_SHIFT);
        if end.is_none_or(|end| end > access.pages()) {
            return Err(EINVAL);
        }
        // SAFETY: The description is valid by the type invariant, and only this hook writes to it.
        unsafe {
            helpers::abstractions_helper_vma_desc_set_pfnmap(
                desc.inner.get(),
                access.mode() as c_uint,
            );
        }
        // SAFETY: As above. The table is static, and its handlers are for files with the operations `F` and for mappings
        // that are not copied on write and have `VM_PFNMAP`.
        unsafe { (*desc.inner.get()).vm_ops = PfnOperationsTable::<V>::table() };
        Ok(())
    }
}
