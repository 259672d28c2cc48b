// SPDX-License-Identifier: GPL-2.0

//! Loads and stores that say so where the memory is gone, instead of ending the program.
//!
//! Each is an instruction at an address that the handler of `SIGBUS` knows, which has the thread go on behind it. A
//! signal at any other instruction ends the program as ever. For x86-64.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::Once;

std::arch::global_asm!(
    ".pushsection .text.mmapdev_try, \"ax\", @progbits",
    // The address is in rdi, and the value in rsi. Of the answer, rax is the value, and rdx whether there was none.
    ".globl mmapdev_try_load, mmapdev_try_load_access",
    "mmapdev_try_load:",
    "    xor edx, edx",
    "mmapdev_try_load_access:",
    "    mov rax, [rdi]",
    "    ret",
    ".globl mmapdev_try_swap, mmapdev_try_swap_access",
    "mmapdev_try_swap:",
    "    xor edx, edx",
    "    mov rax, rsi",
    "mmapdev_try_swap_access:",
    "    xchg [rdi], rax",
    "    ret",
    ".globl mmapdev_try_failed",
    "mmapdev_try_failed:",
    "    mov edx, 1",
    "    ret",
    ".popsection",
);

#[repr(C)]
struct Answer {
    value: u64,
    is_missing: u64,
}

extern "C" {
    fn mmapdev_try_load(place: *mut u64) -> Answer;
    fn mmapdev_try_swap(place: *mut u64, value: u64) -> Answer;
    static mmapdev_try_load_access: u8;
    static mmapdev_try_swap_access: u8;
    static mmapdev_try_failed: u8;
}

/// The memory was gone: an access was answered by `SIGBUS`, and has changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusError;

impl From<BusError> for io::Error {
    /// Returns `EFAULT`, which a call says that makes the access.
    fn from(_: BusError) -> Self {
        Self::from_raw_os_error(libc::EFAULT)
    }
}

impl Answer {
    fn into_result(self) -> Result<u64, BusError> {
        match self.is_missing {
            0 => Ok(self.value),
            _ => Err(BusError),
        }
    }
}

/// Loads a word.
pub(crate) fn try_load(word: &AtomicU64) -> Result<u64, BusError> {
    install();
    // SAFETY: The place is one of an atomic, which an aligned access of all of it is one of, too. Where there is no memory,
    // the handler has the function return.
    unsafe { mmapdev_try_load(word.as_ptr()) }.into_result()
}

/// Stores a word and returns what was there before.
pub(crate) fn try_swap(word: &AtomicU64, value: u64) -> Result<u64, BusError> {
    install();
    // SAFETY: As in `try_load`; the instruction is atomic.
    unsafe { mmapdev_try_swap(word.as_ptr(), value) }.into_result()
}

/// Installs the handler, once in a program.
fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: A handler that does only what a handler may do.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        }
    });
}

extern "C" fn handler(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // Nothing is read at these labels.
    let accesses = [
        &raw const mmapdev_try_load_access,
        &raw const mmapdev_try_swap_access,
    ];
    let failed = &raw const mmapdev_try_failed;
    // SAFETY: The kernel passes a valid context, which the thread goes on with. At either access nothing but a return is
    // left to do, so that to go on at `failed` is to return from the function. Elsewhere the signal gets its usual
    // meaning, which it has as soon as the instruction is run again.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let place = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
        if accesses.iter().any(|access| access.addr() as i64 == *place) {
            *place = failed.addr() as i64;
        } else {
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::BusError;
    use crate::child::{Child, Outcome};
    use crate::mapping::Mapping;
    use crate::PAGE;
    use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
    use rustix::process::Signal;

    /// A mapping of two pages, of which the second is beyond the end of its file.
    fn half() -> Mapping {
        let file = memfd_create("half", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, PAGE as u64).unwrap();
        Mapping::shared(&file, 2 * PAGE).unwrap()
    }

    #[test]
    fn an_access_says_whether_there_is_memory() {
        let mapping = half();
        assert_eq!(mapping.try_swap_word(8, 7), Ok(0));
        assert_eq!(mapping.try_load_word(8), Ok(7));
        assert_eq!(mapping.try_swap_word(8, 9), Ok(7));
        assert_eq!(mapping.try_load_word(PAGE), Err(BusError));
        assert_eq!(mapping.try_swap_word(2 * PAGE - 8, 1), Err(BusError));
        assert_eq!(mapping.try_read(0, 16).unwrap()[8..], 9u64.to_ne_bytes());
        assert_eq!(mapping.try_read(PAGE - 8, 16), Err(BusError));
    }

    #[test]
    fn a_signal_at_any_other_access_ends_the_program() {
        let child = Child::run(|| {
            let mapping = half();
            assert_eq!(mapping.try_load_word(PAGE), Err(BusError));
            mapping.load(PAGE);
            Vec::new()
        })
        .unwrap();
        let killed = Outcome::Killed(Signal::BUS.as_raw());
        assert_eq!(child.wait(None).unwrap(), killed);
    }
}
