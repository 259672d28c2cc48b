// SPDX-License-Identifier: GPL-2.0

//! How much memory the machine has.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use super::helpers;
use kernel::page::PAGE_SIZE;

/// Returns the bytes of memory that the kernel manages, used and free.
///
/// Mirrors `totalram_pages()`. May be called in any context.
pub(crate) fn total_bytes() -> u64 {
    // SAFETY: The function has no requirements.
    let pages = unsafe { helpers::abstractions_helper_totalram_pages() };
    pages as u64 * PAGE_SIZE as u64
}
