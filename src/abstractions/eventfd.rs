// SPDX-License-Identifier: GPL-2.0

//! Signalling a program by a descriptor of `eventfd()`.
//!
//! C header: [`include/linux/eventfd.h`](srctree/include/linux/eventfd.h). Reference: `eventfd(2)`

use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::prelude::*;

/// What a descriptor of `eventfd()` refers to; it stays when the descriptor is closed.
///
/// # Invariants
///
/// `context` is valid, and this value owns a reference to it.
pub(crate) struct EventFd {
    context: NonNull<bindings::eventfd_ctx>,
}

// SAFETY: It may be signalled and given up from any thread.
unsafe impl Send for EventFd {}
// SAFETY: As above, and by many at once.
unsafe impl Sync for EventFd {}

impl EventFd {
    /// Takes that of a descriptor of the calling task. Mirrors `eventfd_ctx_fdget()`.
    ///
    /// Fails with `EBADF` where there is no such descriptor, and with `EINVAL` where it is of something else.
    pub(crate) fn from_descriptor(descriptor: i32) -> Result<Self> {
        // SAFETY: The function takes any number.
        let context = from_err_ptr(unsafe { bindings::eventfd_ctx_fdget(descriptor) })?;
        // INVARIANT: A returned context comes with a reference.
        Ok(Self {
            context: NonNull::new(context).ok_or(EBADF)?,
        })
    }

    /// Adds one to its number, which wakes whoever waits for it. Mirrors `eventfd_signal()`.
    ///
    /// Context: any but an NMI, and not from what is woken by an eventfd.
    pub(crate) fn signal(&self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::eventfd_signal_mask(self.context.as_ptr(), 0) };
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::eventfd_ctx_put(self.context.as_ptr()) };
    }
}
