// SPDX-License-Identifier: GPL-2.0

//! Event counters that CPUs do not contend for.
//!
//! C header: [`include/linux/percpu.h`](srctree/include/linux/percpu.h). Reference:
//! <https://docs.kernel.org/core-api/this_cpu_ops.html>

use super::helpers;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::prelude::*;

/// `N` counters, each kept once per CPU.
///
/// Raising one costs an instruction and shares no cache line; reading one visits every CPU.
///
/// # Invariants
///
/// `counters` is a per-CPU allocation of `[u64; N]`.
pub(crate) struct PerCpuCounters<const N: usize> {
    counters: NonNull<[u64; N]>,
}

// SAFETY: Per-CPU memory belongs to no thread.
unsafe impl<const N: usize> Send for PerCpuCounters<N> {}
// SAFETY: The C side raises a counter on the CPU's own copy only, and reads it as a volatile.
unsafe impl<const N: usize> Sync for PerCpuCounters<N> {}

impl<const N: usize> PerCpuCounters<N> {
    /// Allocates the counters, all zero.
    ///
    /// Mirrors `alloc_percpu()`. May sleep. Fails with `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: The function has no requirements.
        let counters = unsafe {
            helpers::abstractions_helper_alloc_percpu(size_of::<[u64; N]>(), align_of::<[u64; N]>())
        };
        // INVARIANT: Allocated with that size; per-CPU memory is handed out zeroed.
        Ok(Self {
            counters: NonNull::new(counters.cast()).ok_or(ENOMEM)?,
        })
    }

    /// Returns the per-CPU address of a counter. It is no address that Rust code may read.
    fn counter(&self, index: usize) -> *mut u64 {
        assert!(index < N);
        self.counters.as_ptr().cast::<u64>().wrapping_add(index)
    }

    /// Raises counter `index`. Does not sleep; may be called in any context.
    pub(crate) fn add(&self, index: usize, amount: u64) {
        // SAFETY: By the type invariant, and the bounds check in `counter`.
        unsafe { helpers::abstractions_helper_this_cpu_add_u64(self.counter(index), amount) };
    }

    /// Returns the sum of counter `index` over all CPUs, one after the other: exact once nobody raises
    /// it any more, an estimate until then.
    pub(crate) fn sum(&self, index: usize) -> u64 {
        // SAFETY: By the type invariant, and the bounds check in `counter`.
        unsafe { helpers::abstractions_helper_per_cpu_sum_u64(self.counter(index)) }
    }
}

impl<const N: usize> Drop for PerCpuCounters<N> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this is a per-CPU allocation, and nobody uses it any more.
        unsafe { bindings::free_percpu(self.counters.as_ptr().cast()) };
    }
}

#[kunit_tests(abstractions_per_cpu_counters)]
mod tests {
    use super::*;

    #[test]
    fn they_begin_at_zero_and_add_up() -> Result {
        let counters = PerCpuCounters::<3>::new()?;
        assert_eq!([0, 1, 2].map(|index| counters.sum(index)), [0; 3]);
        counters.add(0, 5);
        counters.add(2, 1 << 40);
        counters.add(2, 7);
        let sums = [0, 1, 2].map(|index| counters.sum(index));
        assert_eq!(sums, [5, 0, (1 << 40) + 7]);
        Ok(())
    }

    #[test]
    fn a_sum_goes_round_rather_than_panic() -> Result {
        let counters = PerCpuCounters::<1>::new()?;
        counters.add(0, u64::MAX);
        counters.add(0, 3);
        assert_eq!(counters.sum(0), 2);
        Ok(())
    }
}
