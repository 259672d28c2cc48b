// SPDX-License-Identifier: GPL-2.0

//! What the kernel crate's `IovIterDest` and `IovIterSource` lack, and what calls say that move bytes.
//!
//! C header: [`include/linux/uio.h`](srctree/include/linux/uio.h)

use super::helpers;
use kernel::bindings;
use kernel::iov::IovIterDest;
use kernel::prelude::*;

/// Writes zeros to a destination, and returns how many bytes it took.
///
/// Mirrors `iov_iter_zero()`. May sleep and may fault on user memory.
pub(crate) fn zero(destination: &mut IovIterDest<'_>, len: usize) -> usize {
    // SAFETY: The iterator is valid by its type.
    unsafe { bindings::iov_iter_zero(len, destination.as_raw()) }
}

/// Returns whether the destination is memory of the kernel's own, which looks at what is in a file.
///
/// Mirrors `iov_iter_is_kvec()`.
pub(crate) fn is_of_the_kernel(destination: &mut IovIterDest<'_>) -> bool {
    // SAFETY: The iterator is valid by its type, and only read.
    let kind = unsafe { (*destination.as_raw()).iter_type };
    u32::from(kind) == bindings::iter_type_ITER_KVEC
}

/// Calls `call` with an iterator that offers `limit` bytes at most, and has all afterwards that was not consumed.
///
/// Mirrors `iov_iter_truncate()` and `iov_iter_reexpand()`.
///
/// # Safety
///
/// `iter` must be valid and the caller's alone, and `call` may consume of it and do nothing else to it.
pub(super) unsafe fn with_limit<R>(
    iter: *mut bindings::iov_iter,
    limit: u64,
    call: impl FnOnce(*mut bindings::iov_iter) -> R,
) -> R {
    // SAFETY: By the requirements of this function.
    let count = || unsafe { (*iter).__bindgen_anon_1.__bindgen_anon_1.as_ref().count };
    let held_back = (count() as u64).saturating_sub(limit) as usize;
    // SAFETY: As above; only how much of the iterator is offered changes.
    unsafe { helpers::abstractions_helper_iov_iter_truncate(iter, limit) };
    let result = call(iter);
    // SAFETY: As above: the count is what it was, less what was consumed.
    unsafe { helpers::abstractions_helper_iov_iter_reexpand(iter, count() + held_back) };
    result
}

/// Returns how many bytes a function of the VFS has moved, or its error, which it gives as a negative number.
pub(super) fn moved(result: isize) -> Result<usize> {
    usize::try_from(result).map_err(|_| Error::from_errno(result as c_int))
}
