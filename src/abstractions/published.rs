// SPDX-License-Identifier: GPL-2.0

//! A value in a `static`, for callbacks that the kernel gives nothing of the module's own to.
//!
//! A driver's `probe` is such a one: what it needs has to be found by name.

use super::helpers;
use core::cell::UnsafeCell;
use kernel::prelude::*;
use kernel::sync::Arc;

/// A place for a value that is there for as long as a [`Publication`] of it is.
pub(crate) struct Published<T: Send + Sync + 'static> {
    value: UnsafeCell<Option<Arc<T>>>,
}

// SAFETY: The value is only looked at and changed under a lock, and is itself `Send` and `Sync`.
unsafe impl<T: Send + Sync + 'static> Sync for Published<T> {}

/// Has a value found in its [`Published`]; dropping it takes it out.
pub(crate) struct Publication<T: Send + Sync + 'static>(&'static Published<T>);

impl<T: Send + Sync + 'static> Published<T> {
    /// Makes an empty place.
    pub(crate) const fn new() -> Self {
        Self {
            value: UnsafeCell::new(None),
        }
    }

    /// Puts a value there. Sleeps. Fails with `EBUSY` where there is one.
    pub(crate) fn publish(&'static self, value: Arc<T>) -> Result<Publication<T>> {
        // Where it finds no place it is dropped without the lock.
        let refused = self.with(|place| match place {
            Some(_) => Some(value),
            None => {
                *place = Some(value);
                None
            }
        });
        match refused {
            Some(_) => Err(EBUSY),
            None => Ok(Publication(self)),
        }
    }

    /// Returns the value, if there is one. Sleeps.
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        self.with(|place| place.clone())
    }

    fn with<R>(&self, call: impl FnOnce(&mut Option<Arc<T>>) -> R) -> R {
        // SAFETY: Takes a lock that is static. It is let go of below.
        unsafe { helpers::abstractions_helper_published_lock() };
        // SAFETY: The lock is held, and what is called knows no way to here.
        let result = call(unsafe { &mut *self.value.get() });
        // SAFETY: It is held.
        unsafe { helpers::abstractions_helper_published_unlock() };
        result
    }
}

impl<T: Send + Sync + 'static> Drop for Publication<T> {
    fn drop(&mut self) {
        // Dropped without the lock.
        let _value = self.0.with(Option::take);
    }
}
