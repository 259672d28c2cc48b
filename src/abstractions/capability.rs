// SPDX-License-Identifier: GPL-2.0

//! What the calling task may do.
//!
//! C header: [`include/linux/capability.h`](srctree/include/linux/capability.h). Reference: the manual
//! page capabilities(7)

use kernel::bindings;

/// Returns whether the calling task may administer the system, in the initial user namespace.
///
/// Mirrors `capable(CAP_SYS_ADMIN)`. Context: process.
pub(crate) fn is_system_administrator() -> bool {
    // SAFETY: The function may be called from any process context.
    unsafe { bindings::capable(bindings::CAP_SYS_ADMIN as i32) }
}
