// SPDX-License-Identifier: GPL-2.0

//! A lock that many may hold for reading, or one alone: `struct rw_semaphore`.
//!
//! C header: [`include/linux/rwsem.h`](srctree/include/linux/rwsem.h). Reference:
//! <https://docs.kernel.org/locking/locktypes.html>
//!
//! What is wrapped is what is needed here: to take it for reading, and to try to take it alone. It protects no data.

use kernel::bindings;
use kernel::prelude::*;
use kernel::str::CStrExt;
use kernel::sync::LockClassKey;
use kernel::types::{NotThreadSafe, Opaque};

/// A semaphore of readers and writers.
///
/// # Invariants
///
/// `raw` is initialised and never moves.
#[pin_data]
pub(super) struct RwSemaphore {
    #[pin]
    raw: Opaque<bindings::rw_semaphore>,
}

// SAFETY: It may be used from any thread.
unsafe impl Send for RwSemaphore {}
// SAFETY: As above, and by many at once.
unsafe impl Sync for RwSemaphore {}

impl RwSemaphore {
    /// Makes one that nobody holds. Lockdep knows it by the name and the key.
    pub(super) fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The place is valid and pinned, the name and the key are static.
            raw <- Opaque::ffi_init(|raw| unsafe {
                bindings::__init_rwsem(raw, name.as_char_ptr(), key.as_ptr())
            }),
        })
    }

    /// Takes it for reading, after those who hold it or wait for it alone. Mirrors `down_read()`. Sleeps.
    pub(super) fn read(&self) -> ReadGuard<'_> {
        // SAFETY: It is initialised by the type invariant.
        unsafe { bindings::down_read(self.raw.get()) };
        // INVARIANT: Just taken.
        ReadGuard(self, NotThreadSafe)
    }

    /// Takes it alone if nobody holds it. Mirrors `down_write_trylock()`. Does not sleep.
    pub(super) fn try_write(&self) -> Option<WriteGuard<'_>> {
        // SAFETY: As above.
        let taken = unsafe { bindings::down_write_trylock(self.raw.get()) } != 0;
        // INVARIANT: Just taken.
        taken.then(|| WriteGuard(self, NotThreadSafe))
    }
}

/// Proof that a semaphore is held for reading.
///
/// # Invariants
///
/// It is, and this value owns that.
#[must_use]
pub(super) struct ReadGuard<'a>(&'a RwSemaphore, NotThreadSafe);

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::up_read(self.0.raw.get()) };
    }
}

/// Proof that a semaphore is held by one alone.
///
/// # Invariants
///
/// It is, and this value owns that.
#[must_use]
pub(super) struct WriteGuard<'a>(&'a RwSemaphore, NotThreadSafe);

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::up_write(self.0.raw.get()) };
    }
}

#[kunit_tests(abstractions_rw_semaphore)]
mod tests {
    use super::*;
    use kernel::sync::static_lock_class;

    #[test]
    fn one_alone_has_it_only_while_nobody_reads() -> Result {
        let semaphore = KBox::pin_init(
            RwSemaphore::new(c"kunit_rw_semaphore", static_lock_class!()),
            GFP_KERNEL,
        )?;
        let alone = semaphore.try_write().ok_or(EBUSY)?;
        assert!(semaphore.try_write().is_none());
        drop(alone);
        // (One task reads once at a time: lockdep rightly complains of more.)
        let reader = semaphore.read();
        assert!(semaphore.try_write().is_none());
        drop(reader);
        assert!(semaphore.try_write().is_some());
        Ok(())
    }
}
