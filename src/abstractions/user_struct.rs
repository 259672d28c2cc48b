// SPDX-License-Identifier: GPL-2.0

//! Structures of an ioctl that grow from version to version.
//!
//! Mirrors `copy_struct_from_user()` in [`include/linux/uaccess.h`](srctree/include/linux/uaccess.h).
//! The first four bytes of a structure are its size as the caller knows it; see also
//! <https://docs.kernel.org/process/adding-syscalls.html#designing-the-api-planning-for-extension>.

use super::helpers;
use kernel::error::to_result;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::uaccess::{UserPtr, UserSlice};

/// A structure that a program has passed, and where its answer goes.
pub(crate) struct UserStruct<T> {
    /// The structure as the program filled it in; zero where the program's version ends.
    pub(crate) value: T,
    user: UserPtr,
    user_size: usize,
}

impl<T: FromBytes + IntoBytes> UserStruct<T> {
    /// Copies the structure in.
    ///
    /// `minimum` is the size of its first version. May sleep and fault on user memory.
    ///
    /// # Errors
    ///
    /// - `EFAULT`: the memory cannot be read.
    /// - `EINVAL`: the program's structure is smaller than the first version.
    /// - `E2BIG`: it is larger than a page, or has something in a part that this version does not know.
    pub(crate) fn read(user: UserPtr, minimum: usize) -> Result<Self> {
        const { assert!(size_of::<T>() >= 4) };
        let mut size = [0u8; 4];
        UserSlice::new(user, size.len())
            .reader()
            .read_slice(&mut size)?;
        let user_size = u32::from_ne_bytes(size) as usize;
        if user_size < minimum {
            return Err(EINVAL);
        }
        if user_size > PAGE_SIZE {
            return Err(E2BIG);
        }

        let mut value = T::new_zeroed();
        let to = &raw mut value;
        // SAFETY: There are as many bytes as `T` has, any of which make one by `FromBytes`, and the function itself
        // looks whether the other pointer is one of user memory.
        to_result(unsafe {
            helpers::abstractions_helper_copy_struct_from_user(
                to.cast(),
                size_of::<T>(),
                user.as_const_ptr(),
                user_size,
            )
        })?;
        // The program may have written another size meanwhile: what counts is what was checked.
        Ok(Self {
            value,
            user,
            user_size,
        })
    }

    /// Fails with `EINVAL` where the program's structure has fewer than `size` bytes.
    pub(crate) fn has(&self, size: usize) -> Result {
        if self.user_size < size {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Copies the structure out, as far as both versions of it go; how far that is, is what its first
    /// four bytes say then. (More would make a program that reuses its structure claim memory for it that
    /// is not there.)
    ///
    /// May sleep and fault on user memory. Fails with `EFAULT`.
    pub(crate) fn reply(mut self) -> Result {
        let bytes = self.value.as_mut_bytes();
        let known = self.user_size.min(bytes.len());
        bytes[..4].copy_from_slice(&(known as u32).to_ne_bytes());
        UserSlice::new(self.user, known)
            .writer()
            .write_slice(&bytes[..known])
    }
}
