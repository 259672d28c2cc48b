// SPDX-License-Identifier: GPL-2.0

//! Being a good neighbour in long loops.
//!
//! C headers: [`include/linux/sched.h`](srctree/include/linux/sched.h),
//! [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h)

use super::helpers;

/// Lets other tasks run if it is time, on kernels that do not preempt by themselves.
///
/// Mirrors `cond_resched()`. Context: process, holding no spinlock.
pub(crate) fn cond_resched() {
    // SAFETY: May be called from any context that may sleep, which its documentation asks for. (In
    // atomic context it is a bug that the kernel reports, not one of memory.)
    unsafe { helpers::abstractions_helper_cond_resched() };
}

/// Returns whether the calling task is being killed, so that what it waits for is of no use any more.
///
/// Mirrors `fatal_signal_pending(current)`. Context: process.
pub(crate) fn is_being_killed() -> bool {
    // SAFETY: The function may be called from any process context.
    unsafe { helpers::abstractions_helper_fatal_signal_pending() }
}
