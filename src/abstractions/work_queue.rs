// SPDX-License-Identifier: GPL-2.0

//! A work queue of the module's own, whose work is over when the module goes.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h). Reference:
//! <https://docs.kernel.org/core-api/workqueue.html>
//!
//! Work on one of the system's queues may still be about to return when everything that it was for is done: nobody
//! can wait for that, and the module's code would go from under it.

use core::ptr::NonNull;
use kernel::bindings;
use kernel::prelude::*;
use kernel::str::CStrExt;
use kernel::workqueue::{Queue, RawWorkItem};

/// An unbound queue; dropping it waits for all work.
///
/// It must not be dropped by work on it.
///
/// # Invariants
///
/// `queue` is a work queue from `alloc_workqueue()` that has not been destroyed.
pub(crate) struct WorkQueue {
    queue: NonNull<bindings::workqueue_struct>,
}

// SAFETY: A work queue may be used and destroyed from any thread.
unsafe impl Send for WorkQueue {}
// SAFETY: The C side does its own locking.
unsafe impl Sync for WorkQueue {}

impl WorkQueue {
    /// Makes a queue of which up to `most` pieces of work are done at the same time, or as many as the kernel takes by
    /// default where that is 0.
    ///
    /// Its workers may call file systems, and so it is none that has one kept for it while memory is short
    /// (`WQ_MEM_RECLAIM`): such a worker may wait for no queue that has none, as XFS and ext4 do where a disk is full. The
    /// loop driver's is none either.
    ///
    /// Mirrors `alloc_workqueue()` with `WQ_UNBOUND`. May sleep. Fails with `ENOMEM`.
    pub(crate) fn new(name: &'static CStr, most: u32) -> Result<Self> {
        // SAFETY: The format takes one string, which is static.
        let queue = unsafe {
            bindings::alloc_workqueue_noprof(
                c"%s".as_char_ptr(),
                bindings::wq_flags_WQ_UNBOUND,
                most as c_int,
                name.as_char_ptr(),
            )
        };
        // INVARIANT: Just allocated.
        Ok(Self {
            queue: NonNull::new(queue).ok_or(ENOMEM)?,
        })
    }

    /// Has work done, see [`Queue::enqueue`]. (Work that comes after a delay is not offered: nobody would wait for its
    /// timer.)
    pub(crate) fn enqueue<W, const ID: u64>(&self, work: W) -> W::EnqueueOutput
    where
        W: RawWorkItem<ID> + Send + 'static,
    {
        // SAFETY: By the type invariant the queue is valid for as long as this value is.
        unsafe { Queue::from_raw(self.queue.as_ptr()) }.enqueue(work)
    }
}

impl Drop for WorkQueue {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, and nobody uses it any more.
        unsafe { bindings::destroy_workqueue(self.queue.as_ptr()) };
    }
}

#[kunit_tests(abstractions_work_queue)]
mod tests {
    use super::*;
    use kernel::sync::atomic::{Atomic, Relaxed};
    use kernel::sync::Arc;
    use kernel::time::delay::fsleep;
    use kernel::time::Delta;
    use kernel::workqueue::{impl_has_work, new_work, Work, WorkItem};

    /// Work that takes a while.
    #[pin_data]
    struct Slow {
        done: Atomic<u32>,
        #[pin]
        work: Work<Slow>,
    }

    impl_has_work! {
        impl HasWork<Self> for Slow { self.work }
    }

    impl WorkItem for Slow {
        type Pointer = Arc<Self>;

        fn run(this: Arc<Self>) {
            // So that whoever does not wait for it comes before.
            fsleep(Delta::from_millis(20));
            this.done.fetch_add(1, Relaxed);
        }
    }

    fn slow() -> Result<Arc<Slow>> {
        Arc::pin_init(
            pin_init!(Slow {
                done: Atomic::new(0),
                work <- new_work!("kunit_work_queue"),
            }),
            GFP_KERNEL,
        )
    }

    #[test]
    fn dropping_waits_for_what_is_queued() -> Result {
        let (queue, slow) = (WorkQueue::new(c"kunit_work_queue", 0)?, slow()?);
        assert!(queue.enqueue(slow.clone()).is_ok());
        drop(queue);
        assert_eq!(slow.done.load(Relaxed), 1);
        assert!(Arc::into_unique_or_drop(slow).is_some());
        Ok(())
    }
}
