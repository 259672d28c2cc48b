// SPDX-License-Identifier: GPL-2.0

//! A robust mutex and a condition variable of the C library's, in a mapping that processes share.

use crate::mapping::Mapping;
use std::io;
use std::mem::MaybeUninit;

/// Bytes that the mutex and the condition variable take in the mapping.
pub const SIZE: usize = 256;
const _: () = assert!(CONDITION + size_of::<libc::pthread_cond_t>() <= SIZE);

/// Where in them the condition variable is.
const CONDITION: usize = 128;
const _: () = assert!(size_of::<libc::pthread_mutex_t>() <= CONDITION);

/// The mutex and the condition variable in a mapping.
pub struct SharedLock<'a> {
    mutex: *mut libc::pthread_mutex_t,
    condition: *mut libc::pthread_cond_t,
    _mapping: &'a Mapping,
}

/// How the mutex was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locked {
    /// As usual.
    Plainly,
    /// From a process that died with it (`EOWNERDEAD`); it was made consistent again.
    AfterDeath,
}

impl<'a> SharedLock<'a> {
    /// Makes both, once, at a multiple of 64.
    pub fn new(mapping: &'a Mapping, offset: usize) -> io::Result<Self> {
        let this = Self::at(mapping, offset);
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: The places are in the mapping, aligned, and nobody uses them yet; attributes are initialised
        // before they are used.
        unsafe {
            check(libc::pthread_mutexattr_init(attributes.as_mut_ptr()))?;
            let attributes = attributes.as_mut_ptr();
            check(libc::pthread_mutexattr_setpshared(
                attributes,
                libc::PTHREAD_PROCESS_SHARED,
            ))?;
            check(libc::pthread_mutexattr_setrobust(
                attributes,
                libc::PTHREAD_MUTEX_ROBUST,
            ))?;
            check(libc::pthread_mutex_init(this.mutex, attributes))?;
        }
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: As above.
        unsafe {
            check(libc::pthread_condattr_init(attributes.as_mut_ptr()))?;
            let attributes = attributes.as_mut_ptr();
            check(libc::pthread_condattr_setpshared(
                attributes,
                libc::PTHREAD_PROCESS_SHARED,
            ))?;
            check(libc::pthread_cond_init(this.condition, attributes))?;
        }
        Ok(this)
    }

    /// Finds those that another mapping of the same bytes has made.
    pub fn at(mapping: &'a Mapping, offset: usize) -> Self {
        assert!(offset % 64 == 0 && offset + SIZE <= mapping.len());
        let start: *mut u8 = std::ptr::with_exposed_provenance_mut(mapping.address(offset));
        Self {
            mutex: start.cast(),
            condition: start.wrapping_add(CONDITION).cast(),
            _mapping: mapping,
        }
    }

    /// Waits for the mutex and takes it.
    pub fn lock(&self) -> io::Result<Locked> {
        // SAFETY: The mutex was made, and the mapping is there.
        self.locked(unsafe { libc::pthread_mutex_lock(self.mutex) })
    }

    /// Gives the mutex back.
    pub fn unlock(&self) -> io::Result<()> {
        // SAFETY: As in `lock`; a mutex that is not this thread's is an error.
        check(unsafe { libc::pthread_mutex_unlock(self.mutex) })
    }

    /// Sleeps until it is signalled, without the mutex meanwhile, which the caller has.
    pub fn wait(&self) -> io::Result<Locked> {
        // SAFETY: Both were made, and the mapping is there.
        self.locked(unsafe { libc::pthread_cond_wait(self.condition, self.mutex) })
    }

    /// Wakes all that wait.
    pub fn signal_all(&self) -> io::Result<()> {
        // SAFETY: As in `wait`.
        check(unsafe { libc::pthread_cond_broadcast(self.condition) })
    }

    fn locked(&self, result: i32) -> io::Result<Locked> {
        if result != libc::EOWNERDEAD {
            return check(result).map(|()| Locked::Plainly);
        }
        // SAFETY: The mutex is this thread's.
        check(unsafe { libc::pthread_mutex_consistent(self.mutex) })?;
        Ok(Locked::AfterDeath)
    }
}

fn check(result: i32) -> io::Result<()> {
    match result {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
