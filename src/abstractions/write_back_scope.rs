// SPDX-License-Identifier: GPL-2.0

//! What a task is while it writes pages back into another file system, or has what that may wait for.
//!
//! C header: [`include/linux/sched/mm.h`](srctree/include/linux/sched/mm.h), `memalloc_noio_save()`; `PF_LOCAL_THROTTLE` in
//! [`include/linux/sched.h`](srctree/include/linux/sched.h)

use super::helpers;
use kernel::prelude::*;
use kernel::types::NotThreadSafe;

/// While this is there, memory that the calling task needs is not waited for by way of any I/O, which may be what it is
/// about to do; and where it makes pages dirty in the other file system, it is throttled by that alone.
pub(super) struct WriteBackScope {
    flags: c_uint,
    _not_send: NotThreadSafe,
}

impl WriteBackScope {
    /// Context: process. Scopes may be nested.
    pub(super) fn enter() -> Self {
        Self {
            // SAFETY: Changes flags of the calling task alone; given back when this value is dropped, by the same task.
            flags: unsafe { helpers::abstractions_helper_enter_write_back() },
            _not_send: NotThreadSafe,
        }
    }
}

impl Drop for WriteBackScope {
    fn drop(&mut self) {
        // SAFETY: They are what was given.
        unsafe { helpers::abstractions_helper_leave_write_back(self.flags) };
    }
}
