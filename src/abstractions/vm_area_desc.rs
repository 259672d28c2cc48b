// SPDX-License-Identifier: GPL-2.0

//! A mapping while it is being set up.
//!
//! C header: [`include/linux/mm_types.h`](srctree/include/linux/mm_types.h), `struct vm_area_desc`.
//! Reference: <https://docs.kernel.org/filesystems/mmap_prepare.html>

use super::file_operations::FileOperations;
use super::vm_operations::{VmOperations, VmOperationsTable};
use core::marker::PhantomData;
use kernel::bindings;
use kernel::prelude::*;
use kernel::types::Opaque;

/// A mapping of a file with the operations `F`, in the hands of its `mmap_prepare`.
///
/// The hook comes before the mapping exists and may be merged or fail afterwards: it may describe, and
/// must not keep anything.
///
/// # Invariants
///
/// The mapping is being prepared, and both its file and the file that the VMA will hold have the
/// operations `F`.
#[repr(transparent)]
pub(crate) struct VmAreaDesc<F: FileOperations> {
    inner: Opaque<bindings::vm_area_desc>,
    _file: PhantomData<F>,
}

impl<F: FileOperations> VmAreaDesc<F> {
    /// Makes a reference from the pointer that `mmap_prepare` is called with.
    ///
    /// # Safety
    ///
    /// `desc` must be the argument of an `mmap_prepare` that is running for `'a`, of a file with the
    /// operations `F`.
    ///
    /// # Errors
    ///
    /// `EINVAL` where another file than that will stand behind the mapping.
    pub(super) unsafe fn from_raw<'a>(desc: *mut bindings::vm_area_desc) -> Result<&'a Self> {
        // SAFETY: The caller passes a valid description.
        if unsafe { (*desc).file != (*desc).vm_file } {
            return Err(EINVAL);
        }
        // INVARIANT: By the requirements of this function, and the check.
        // SAFETY: The type is transparent.
        Ok(unsafe { &*desc.cast() })
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

    /// Sets what the mapping does when it is touched.
    pub(crate) fn set_operations<V: VmOperations<File = F>>(&self) {
        // SAFETY: The description is valid by the type invariant, and only this hook writes to it. The
        // table is static, and its handlers are for files with the operations `F`.
        unsafe { (*self.inner.get()).vm_ops = VmOperationsTable::<V>::table() };
    }
}
