// SPDX-License-Identifier: GPL-2.0

//! What the kernel crate's `IovIterDest` lacks.
//!
//! C header: [`include/linux/uio.h`](srctree/include/linux/uio.h)

use kernel::bindings;
use kernel::iov::IovIterDest;

/// Writes zeros to a destination, and returns how many bytes it took.
///
/// Mirrors `iov_iter_zero()`. May sleep and may fault on user memory.
pub(crate) fn zero(destination: &mut IovIterDest<'_>, len: usize) -> usize {
    // SAFETY: The iterator is valid by its type.
    unsafe { bindings::iov_iter_zero(len, destination.as_raw()) }
}
