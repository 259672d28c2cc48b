// SPDX-License-Identifier: GPL-2.0

//! What the calling task may do.
//!
//! C header: [`include/linux/capability.h`](srctree/include/linux/capability.h). Reference: the manual
//! page capabilities(7)

use super::helpers;
use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;

/// Returns whether the calling task may administer the system, in the initial user namespace.
///
/// Mirrors `capable(CAP_SYS_ADMIN)`. Context: process.
pub(crate) fn is_system_administrator() -> bool {
    // SAFETY: The function may be called from any process context.
    unsafe { bindings::capable(bindings::CAP_SYS_ADMIN as i32) }
}

/// Fails with `EPERM` where the kernel is locked down so that nobody may write to registers of PCI devices, which could have
/// a device write into the kernel.
///
/// Mirrors `security_locked_down(LOCKDOWN_PCI_ACCESS)`, see the manual page kernel_lockdown(7). Context: process.
pub(crate) fn check_pci_is_not_locked_down() -> Result {
    // SAFETY: The function may be called from any process context.
    to_result(unsafe { helpers::abstractions_helper_is_pci_locked_down() })
}
