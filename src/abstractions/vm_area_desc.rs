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

#[kunit_tests(abstractions_vm_area_desc)]
mod tests {
    use super::super::file_operations::closed::Closed;
    use super::*;
    use core::ptr::{null_mut, NonNull};

    /// Three pages of a file from page 7 on.
    fn described(flags: bindings::vm_flags_t) -> bindings::vm_area_desc {
        let file = NonNull::dangling().as_ptr();
        let mut desc = bindings::vm_area_desc {
            file,
            vm_file: file,
            start: 5 << PAGE_SHIFT,
            end: 8 << PAGE_SHIFT,
            pgoff: 7,
            ..pin_init::zeroed()
        };
        desc.vma_flags.__vma_flags[0] = flags;
        desc
    }

    fn prepare(desc: &mut bindings::vm_area_desc) -> Result<VmAreaDesc<'_, Closed>> {
        // SAFETY: Nobody else has it. That there is a running `mmap_prepare` and a file with those operations is what
        // setting a mapping's operations rests on, which these tests do not.
        unsafe { VmAreaDesc::from_raw(desc) }
    }

    #[test]
    fn a_mapping_has_the_place_and_length_that_it_is_described_with() -> Result {
        let mut desc = described(0);
        let mapping = prepare(&mut desc)?;
        assert_eq!((mapping.len(), mapping.index()), (3 << PAGE_SHIFT, 7));
        Ok(())
    }

    #[test]
    fn a_mapping_that_another_file_will_stand_behind_is_refused() {
        let mut desc = described(0);
        desc.vm_file = null_mut();
        assert!(prepare(&mut desc).is_err_and(|error| error == EINVAL));
    }

    #[test]
    fn a_mapping_that_may_get_copies_is_not_shared() -> Result {
        let (private, shared) = (0, bindings::VM_MAYSHARE | bindings::VM_SHARED);
        for (flags, is_shared) in [
            (private | bindings::VM_MAYWRITE, false),
            (private, false),
            (shared | bindings::VM_MAYWRITE, true),
            // Of a file that is open for reading alone.
            (bindings::VM_MAYSHARE, true),
            (bindings::VM_MAYSHARE | bindings::VM_MAYWRITE, false),
        ] {
            let mut desc = described(flags);
            assert_eq!(prepare(&mut desc)?.shared().is_ok(), is_shared);
        }
        Ok(())
    }
}
