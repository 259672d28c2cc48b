// SPDX-License-Identifier: GPL-2.0

//! How much memory the devices may hold all together.
//!
//! Their memory is never reclaimed and outlives who has touched it, so that its sum has to have a bound, as that
//! of a tmpfs has. What counts is how large a device is: then the bound costs a touch nothing.

use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;

/// The bytes that all devices together may have, and how many of them are spoken for.
pub(crate) struct Budget {
    limit: u64,
    reserved: Atomic<u64>,
}

impl Budget {
    /// Makes a budget of `limit` bytes.
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            reserved: Atomic::new(0),
        }
    }

    /// Fails with `ENOSPC` where there are fewer left than `bytes`.
    fn take(&self, bytes: u64) -> Result {
        let mut before = self.reserved.load(Relaxed);
        loop {
            let after = before.checked_add(bytes).ok_or(ENOSPC)?;
            if after > self.limit {
                return Err(ENOSPC);
            }
            match self.reserved.cmpxchg(before, after, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => before = other,
            }
        }
    }

    fn give_back(&self, bytes: u64) {
        // It was taken before.
        self.reserved.fetch_sub(bytes, Relaxed);
    }
}

/// The part of a budget that one device has; dropping it gives it back.
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    bytes: Atomic<u64>,
}

impl Reservation {
    /// Reserves `bytes` of the budget. Fails with `ENOSPC`.
    pub(crate) fn new(budget: Arc<Budget>, bytes: u64) -> Result<Self> {
        budget.take(bytes)?;
        Ok(Self {
            budget,
            bytes: Atomic::new(bytes),
        })
    }

    /// Makes the reservation larger or smaller; fails with `ENOSPC`, and then leaves it as it is.
    ///
    /// To be called by one task at a time, which the caller sees to.
    pub(crate) fn set(&self, bytes: u64) -> Result {
        let before = self.bytes.load(Relaxed);
        if bytes > before {
            self.budget.take(bytes - before)?;
        } else {
            self.budget.give_back(before - bytes);
        }
        self.bytes.store(bytes, Relaxed);
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes.load(Relaxed));
    }
}

#[kunit_tests(mmapdev_budget)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_not_to_be_had_until_it_is_given_back() -> Result {
        let budget = Arc::new(Budget::new(10), GFP_KERNEL)?;
        let six = Reservation::new(budget.clone(), 6)?;
        assert_eq!(Reservation::new(budget.clone(), 5).err(), Some(ENOSPC));
        let four = Reservation::new(budget.clone(), 4)?;
        assert_eq!(six.set(7).err(), Some(ENOSPC));
        four.set(1)?;
        six.set(9)?;
        drop(four);
        six.set(10)?;
        assert_eq!(six.set(u64::MAX).err(), Some(ENOSPC));
        drop(six);
        assert!(Reservation::new(budget, 10).is_ok());
        Ok(())
    }
}
