// SPDX-License-Identifier: GPL-2.0

//! What the kernel crate's `IovIterDest` and `IovIterSource` lack, and what calls say that move bytes.
//!
//! C header: [`include/linux/uio.h`](srctree/include/linux/uio.h)

use super::helpers;
use kernel::bindings;
use kernel::iov::IovIterDest;
use kernel::prelude::*;

/// Writes zeros to a destination, and returns how many bytes it took.
///
/// Mirrors `iov_iter_zero()`. May sleep and may fault on user memory.
pub(crate) fn zero(destination: &mut IovIterDest<'_>, len: usize) -> usize {
    // SAFETY: The iterator is valid by its type.
    unsafe { bindings::iov_iter_zero(len, destination.as_raw()) }
}

/// Returns whether the destination is a buffer of the kernel's, which looks at what is in a file (`kernel_read()`); pages
/// of a pipe are none.
///
/// Mirrors `iov_iter_is_kvec()`.
pub(crate) fn is_of_the_kernel(destination: &mut IovIterDest<'_>) -> bool {
    // SAFETY: The iterator is valid by its type, and only read.
    let kind = unsafe { (*destination.as_raw()).iter_type };
    u32::from(kind) == bindings::iter_type_ITER_KVEC
}

/// Calls `call` with an iterator that offers `limit` bytes at most, and has all afterwards that was not consumed.
///
/// Mirrors `iov_iter_truncate()` and `iov_iter_reexpand()`.
///
/// # Safety
///
/// `iter` must be valid and the caller's alone, and `call` may consume of it and do nothing else to it.
pub(super) unsafe fn with_limit<R>(
    iter: *mut bindings::iov_iter,
    limit: u64,
    call: impl FnOnce(*mut bindings::iov_iter) -> R,
) -> R {
    // SAFETY: By the requirements of this function.
    let count = || unsafe { (*iter).__bindgen_anon_1.__bindgen_anon_1.as_ref().count };
    let held_back = (count() as u64).saturating_sub(limit) as usize;
    // SAFETY: As above; only how much of the iterator is offered changes.
    unsafe { helpers::abstractions_helper_iov_iter_truncate(iter, limit) };
    let result = call(iter);
    // SAFETY: As above: the count is what it was, less what was consumed.
    unsafe { helpers::abstractions_helper_iov_iter_reexpand(iter, count() + held_back) };
    result
}

/// Returns how many bytes a function of the VFS has moved, or its error, which it gives as a negative number.
pub(super) fn moved(result: isize) -> Result<usize> {
    usize::try_from(result).map_err(|_| Error::from_errno(result as c_int))
}

#[kunit_tests(abstractions_iov)]
mod tests {
    use super::*;
    use core::mem::MaybeUninit;
    use core::ptr::{null, null_mut};

    /// Calls `call` with an iterator that is to fill memory of the kernel's.
    fn with_iterator<R>(bytes: &mut [u8], call: impl FnOnce(&mut IovIterDest<'_>) -> R) -> R {
        let memory = bindings::kvec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let mut iter = MaybeUninit::uninit();
        // SAFETY: The memory, and what describes it, stay until this returns, and are nobody else's.
        call(unsafe {
            bindings::iov_iter_kvec(
                iter.as_mut_ptr(),
                bindings::ITER_DEST,
                &memory,
                1,
                bytes.len(),
            );
            IovIterDest::from_raw(iter.as_mut_ptr())
        })
    }

    #[test]
    fn zeros_go_as_far_as_they_are_asked_for_and_have_room() {
        let mut bytes = [7; 8];
        let counts = with_iterator(&mut bytes, |iov| [zero(iov, 3), zero(iov, 9), zero(iov, 1)]);
        assert_eq!(counts, [3, 5, 0]);
        let mut bytes = [7; 8];
        with_iterator(&mut bytes, |iov| zero(iov, 3));
        assert_eq!(bytes, [0, 0, 0, 7, 7, 7, 7, 7]);
    }

    #[test]
    fn what_a_limit_holds_back_is_there_afterwards() {
        for (limit, zeroed) in [(0, 0), (5, 5), (8, 8), (1 << 40, 8)] {
            let mut bytes = [7; 8];
            let (count, left) = with_iterator(&mut bytes, |iov| {
                // SAFETY: It is valid, and only consumed of, by the one that this is called with.
                let count = unsafe {
                    with_limit(iov.as_raw(), limit, |iter| {
                        zero(IovIterDest::from_raw(iter), 9)
                    })
                };
                (count, iov.len())
            });
            assert_eq!((count, left), (zeroed, 8 - zeroed));
        }
    }

    #[test]
    fn a_buffer_of_the_kernels_is_told_from_others() {
        let mut bytes = [7];
        with_iterator(&mut bytes, |iov| {
            assert!(is_of_the_kernel(iov));
            // Of a pipe, of a program, and none at all.
            // SAFETY: Nothing is taken of any.
            unsafe { bindings::iov_iter_bvec(iov.as_raw(), bindings::ITER_DEST, null(), 0, 0) };
            assert!(!is_of_the_kernel(iov));
            // SAFETY: As above.
            unsafe {
                bindings::import_ubuf(bindings::ITER_DEST as c_int, null_mut(), 0, iov.as_raw())
            };
            assert!(!is_of_the_kernel(iov));
            // SAFETY: As above.
            unsafe { bindings::iov_iter_discard(iov.as_raw(), bindings::ITER_DEST, 1) };
            assert!(!is_of_the_kernel(iov));
        });
    }
}
