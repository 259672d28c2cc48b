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

#[kunit_tests(abstractions_published)]
mod tests {
    use super::*;

    #[test]
    fn one_value_at_a_time_is_found() -> Result {
        static PLACE: Published<u32> = Published::new();
        assert!(PLACE.get().is_none());
        let first = PLACE.publish(Arc::new(1, GFP_KERNEL)?)?;
        assert_eq!(PLACE.publish(Arc::new(2, GFP_KERNEL)?).err(), Some(EBUSY));
        assert!(PLACE.get().is_some_and(|value| *value == 1));
        drop(first);
        assert!(PLACE.get().is_none());
        let _second = PLACE.publish(Arc::new(2, GFP_KERNEL)?)?;
        assert!(PLACE.get().is_some_and(|value| *value == 2));
        Ok(())
    }

    #[test]
    fn nobody_has_a_value_that_was_refused_or_taken_out() -> Result {
        static PLACE: Published<u32> = Published::new();
        let (first, second) = (Arc::new(1, GFP_KERNEL)?, Arc::new(2, GFP_KERNEL)?);
        let publication = PLACE.publish(first.clone())?;
        assert_eq!(PLACE.publish(second.clone()).err(), Some(EBUSY));
        drop(publication);
        assert!(Arc::into_unique_or_drop(first).is_some());
        assert!(Arc::into_unique_or_drop(second).is_some());
        Ok(())
    }
}
