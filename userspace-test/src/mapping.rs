// SPDX-License-Identifier: GPL-2.0

//! A piece of address space that unmaps itself, read and written with atomics.
//!
//! The bytes of a shared mapping change under the program's hands, so that they are never a slice:
//! each access is an atomic one.

use crate::bus_error::{self, BusError};
use crate::{smaps, PAGE};
use rustix::mm::{self, MapFlags, MremapFlags, ProtFlags};
use rustix::net::SendFlags;
use rustix::process::{getpid, Pid};
use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A mapping of a file, or of no file.
#[derive(Debug)]
pub struct Mapping {
    start: *mut u8,
    len: usize,
    /// What [`Self::unmap`] has given back, and others may have been given since: offset and length.
    holes: Vec<(usize, usize)>,
}

// SAFETY: Addresses are the whole process's, and every access is atomic.
unsafe impl Send for Mapping {}
// SAFETY: As above.
unsafe impl Sync for Mapping {}

/// All mappings that there are: address and length.
static ALL: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

/// Keeps other threads from mapping anything until it is dropped: for a fork, whose child could never do so else where one of
/// them was at it.
pub(crate) fn keep_others_out() -> impl Drop {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns whether the kernel may be given an address to write up to `len` bytes to: what is there is part of
/// a [`Mapping`], whose bytes are only accessed atomically, or nothing at all.
pub fn is_free_for_the_kernel(address: usize, len: usize) -> io::Result<bool> {
    let end = address.saturating_add(len);
    let all = ALL.lock().expect("the list of mappings").clone();
    let within =
        |start: usize, end: usize| all.iter().any(|&(at, len)| at <= start && end <= at + len);
    Ok(smaps::ranges()?
        .into_iter()
        .filter(|&(start, stop)| start < end && address < stop)
        .all(|(start, stop)| within(start.max(address), stop.min(end))))
}

/// Reading and writing.
pub const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

impl Mapping {
    /// Maps a file, shared, for reading and writing, from its start.
    pub fn shared(file: impl AsFd, len: usize) -> io::Result<Self> {
        Self::new(file, len, READ_WRITE, MapFlags::SHARED, 0)
    }

    /// Maps a file.
    pub fn new(
        file: impl AsFd,
        len: usize,
        protection: ProtFlags,
        flags: MapFlags,
        offset: u64,
    ) -> io::Result<Self> {
        assert!(
            !flags.intersects(MapFlags::FIXED),
            "would replace what others have mapped"
        );
        // SAFETY: A new mapping where the kernel chooses.
        let start = unsafe { mm::mmap(null_mut(), len, protection, flags, file, offset)? };
        Ok(Self::from_start(start, len))
    }

    /// Maps a file as [`Self::shared`] does, at an address that is a multiple of `alignment`.
    pub fn shared_aligned(file: impl AsFd, len: usize, alignment: usize) -> io::Result<Self> {
        Self::shared_near(&file, len, alignment, 0)
    }

    /// Maps a file as [`Self::shared`] does, from a page behind a multiple of `alignment` on.
    pub fn shared_off_alignment(file: impl AsFd, len: usize, alignment: usize) -> io::Result<Self> {
        Self::shared_near(&file, len, alignment, PAGE)
    }

    /// Maps a file from `beside` bytes behind a multiple of `alignment` on.
    fn shared_near(
        file: impl AsFd,
        len: usize,
        alignment: usize,
        beside: usize,
    ) -> io::Result<Self> {
        // More than is needed: a driver that aligns what has no hint wants to have room for that.
        let room = len + 2 * alignment + beside;
        // SAFETY: A new mapping where the kernel chooses, of which nothing can be touched.
        let place =
            unsafe { mm::mmap_anonymous(null_mut(), room, ProtFlags::empty(), MapFlags::PRIVATE)? };
        // Free again when this is dropped.
        let place = Self::from_start(place, room).start;
        let hint = place.map_addr(|address| address.next_multiple_of(alignment) + beside);
        // SAFETY: A new mapping where the kernel chooses, as the address is a hint.
        let start = unsafe { mm::mmap(hint.cast(), len, READ_WRITE, MapFlags::SHARED, file, 0)? };
        let mapping = Self::from_start(start, len);
        if mapping.address(0) % alignment != beside {
            return Err(io::Error::other("the place was taken by others"));
        }
        Ok(mapping)
    }

    /// Sets memory of the process's own aside.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        // SAFETY: A new mapping where the kernel chooses.
        let start = unsafe { mm::mmap_anonymous(null_mut(), len, READ_WRITE, MapFlags::PRIVATE)? };
        Ok(Self::from_start(start, len))
    }

    fn from_start(start: *mut c_void, len: usize) -> Self {
        let mut all = ALL.lock().expect("the list of mappings");
        all.push((start as usize, len));
        Self {
            start: start.cast(),
            len,
            holes: Vec::new(),
        }
    }

    /// Returns the address of a byte.
    pub fn address(&self, offset: usize) -> usize {
        self.start as usize + offset
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether nothing is mapped, which is never so.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        let end = offset.checked_add(size_of::<T>()).expect("no overflow");
        assert!(
            end <= self.len,
            "offset {offset} is outside of a mapping of {} bytes",
            self.len
        );
        assert!(
            !self.is_in_hole(offset, end),
            "offset {offset} was unmapped"
        );
        let place: *mut T = self.start.wrapping_add(offset).cast();
        assert!(place.is_aligned());
        place
    }

    fn is_in_hole(&self, start: usize, end: usize) -> bool {
        self.holes
            .iter()
            .any(|&(hole, len)| start < hole + len && hole < end)
    }

    /// Returns a byte as an atomic.
    pub fn byte(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: Within the mapping; all accesses are atomic, and where the page cannot be had the
        // program gets a signal.
        unsafe { AtomicU8::from_ptr(self.at(offset)) }
    }

    /// Returns an aligned 64-bit word as an atomic.
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: As in `byte`; the alignment is checked.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }
    }

    /// Returns an aligned 32-bit word as an atomic, as a futex is one.
    pub fn half_word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: As in `byte`; the alignment is checked.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }

    /// Returns aligned 64-bit words as atomics, for more than one of which the bounds are checked once.
    pub fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        let len = count.checked_mul(8).expect("no overflow");
        let first: *const AtomicU64 = self.range(offset, len).cast();
        assert!(first.is_aligned());
        // SAFETY: As in `word`, of each.
        unsafe { std::slice::from_raw_parts(first, count) }
    }

    /// Loads an aligned word of a mapping whose memory may be gone.
    pub fn try_load_word(&self, offset: usize) -> Result<u64, BusError> {
        bus_error::try_load(self.word(offset))
    }

    /// Stores an aligned word to a mapping whose memory may be gone, and returns what was there before.
    pub fn try_swap_word(&self, offset: usize, value: u64) -> Result<u64, BusError> {
        bus_error::try_swap(self.word(offset), value)
    }

    /// Copies whole words out of a mapping whose memory may be gone.
    pub fn try_read(&self, offset: usize, len: usize) -> Result<Vec<u8>, BusError> {
        let mut bytes = Vec::with_capacity(len);
        for word in self.words(offset, len / size_of::<u64>()) {
            bytes.extend_from_slice(&bus_error::try_load(word)?.to_ne_bytes());
        }
        Ok(bytes)
    }

    /// Reads a byte.
    pub fn load(&self, offset: usize) -> u8 {
        self.byte(offset).load(Ordering::SeqCst)
    }

    /// Writes a byte.
    pub fn store(&self, offset: usize, value: u8) {
        self.byte(offset).store(value, Ordering::SeqCst);
    }

    /// Copies bytes out.
    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        for piece in pieces(offset, len) {
            match piece {
                Piece::Byte(at) => bytes.push(self.byte(at).load(Ordering::Relaxed)),
                Piece::Word(at) => {
                    let word = self.word(at).load(Ordering::Relaxed);
                    bytes.extend_from_slice(&word.to_ne_bytes());
                }
            }
        }
        bytes
    }

    /// Copies bytes in.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let mut rest = bytes;
        for piece in pieces(offset, bytes.len()) {
            let size = match piece {
                Piece::Byte(at) => {
                    self.byte(at).store(rest[0], Ordering::Relaxed);
                    1
                }
                Piece::Word(at) => {
                    let word = rest[..8].try_into().expect("eight bytes");
                    self.word(at)
                        .store(u64::from_ne_bytes(word), Ordering::Relaxed);
                    8
                }
            };
            rest = &rest[size..];
        }
    }

    /// Checks that a range of bytes can be accessed, and returns its first.
    fn range(&self, offset: usize, len: usize) -> *const AtomicU8 {
        if let Some(last) = len.checked_sub(1) {
            self.at::<u8>(offset);
            self.at::<u8>(offset + last);
            assert!(
                !self.is_in_hole(offset, offset + len),
                "a part was unmapped"
            );
        }
        self.start.wrapping_add(offset).cast_const().cast()
    }

    /// Reads one byte of each page of a range, which faults it in.
    pub fn touch_read(&self, offset: usize, len: usize) {
        let first = self.range(offset, len);
        for at in (0..len).step_by(PAGE) {
            // SAFETY: Within the range, which was checked to be in the mapping.
            unsafe { (*first.add(at)).load(Ordering::Relaxed) };
        }
    }

    /// Writes `value` to the first byte of each page of a range, with plain stores: where a program's only
    /// CPU is emulated, others load first, and the page is faulted in for reading.
    pub fn touch_write(&self, offset: usize, len: usize, value: u8) {
        let first = self.range(offset, len);
        for at in (0..len).step_by(PAGE) {
            // SAFETY: Within the range, which was checked to be in the mapping.
            unsafe { (*first.add(at)).store(value, Ordering::Relaxed) };
        }
    }

    /// Adds up the aligned 64-bit words of a range, as a program does that works through the data.
    pub fn sum(&self, offset: usize, len: usize) -> u64 {
        assert!(offset + len <= self.len);
        let words: *const u64 = self.at::<u64>(offset);
        let mut sum = 0u64;
        for index in 0..len / 8 {
            // SAFETY: Within the mapping. A volatile read: others may write.
            sum = sum.wrapping_add(unsafe { words.add(index).read_volatile() });
        }
        sum
    }

    /// Unmaps a range of pages within the mapping. What is left is unmapped when this is dropped.
    pub fn unmap(&mut self, offset: usize, len: usize) -> io::Result<()> {
        let start = self.cut_out(offset, len);
        // SAFETY: Part of this mapping, and noted as such no more; nobody holds a reference into it, as access is exclusive.
        unsafe { mm::munmap(start, len)? };
        Ok(())
    }

    /// Moves a range of pages to where `target` is, which is as long and is replaced (`MREMAP_FIXED`). What
    /// is left is unmapped when this is dropped.
    pub fn move_onto(&mut self, offset: usize, len: usize, target: Self) -> io::Result<Self> {
        assert!(target.len == len && target.holes.is_empty());
        let start = self.cut_out(offset, len);
        let place = target.start.cast();
        // SAFETY: The range is noted as part of this mapping no more. Access to it is exclusive and `target` is owned, so
        // that nobody holds a reference into what goes, or into what is replaced.
        let moved = unsafe { mm::mremap_fixed(start, len, len, MremapFlags::MAYMOVE, place) };
        if let Err(error) = moved {
            // What is mapped at either place is not known, and so is left.
            target.forget();
            std::mem::forget(target);
            return Err(error.into());
        }
        Ok(target)
    }

    /// Moves the pages of a range to where the kernel chooses, and leaves the range mapped, to be faulted in
    /// anew (`MREMAP_DONTUNMAP`).
    pub fn move_leaving(&self, offset: usize, len: usize) -> io::Result<Self> {
        // With the address, which rustix leaves out: the kernel looks at it also where it may choose.
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
        let start = self.range(offset, len).cast_mut().cast();
        // SAFETY: Part of this mapping, which stays; what it holds is only accessed atomically.
        let start = unsafe { libc::mremap(start, len, len, flags, null_mut::<c_void>()) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self::from_start(start, len))
    }

    /// Notes that a range of pages is no longer this mapping's, and returns where it is.
    fn cut_out(&mut self, offset: usize, len: usize) -> *mut c_void {
        assert!(offset + len <= self.len && len > 0);
        assert!(offset % PAGE == 0 && len % PAGE == 0);
        assert!(!self.is_in_hole(offset, offset + len), "unmapped twice");
        // Split in the list of all: what is left may be written to, and the hole is others'.
        self.forget_part(offset, len);
        self.holes.push((offset, len));
        self.start.wrapping_add(offset).cast()
    }

    /// Keeps a range of pages in memory and mapped, from now on or from their first touch on.
    pub fn lock(&self, offset: usize, len: usize, flags: mm::MlockFlags) -> io::Result<()> {
        let start = self.range(offset, len).cast_mut().cast();
        // SAFETY: Part of this mapping, no byte of which is changed.
        unsafe { mm::mlock_with(start, len, flags)? };
        Ok(())
    }

    /// Takes back what [`Self::lock`] has asked for.
    pub fn unlock(&self, offset: usize, len: usize) -> io::Result<()> {
        let start = self.range(offset, len).cast_mut().cast();
        // SAFETY: Part of this mapping, no byte of which is changed.
        unsafe { mm::munlock(start, len)? };
        Ok(())
    }

    /// Returns of each page of a range whether it is in memory (`mincore`).
    pub fn in_memory(&self, offset: usize, len: usize) -> io::Result<Vec<bool>> {
        let start = self.range(offset, len).cast_mut().cast();
        let mut pages = vec![0; len.div_ceil(PAGE)];
        // SAFETY: Part of this mapping, no byte of which is changed; the answer has a byte for each page.
        match unsafe { libc::mincore(start, len, pages.as_mut_ptr()) } {
            0 => Ok(pages.into_iter().map(|page: u8| page & 1 != 0).collect()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Changes what may be done with a range of pages.
    pub fn protect(
        &self,
        offset: usize,
        len: usize,
        protection: mm::MprotectFlags,
    ) -> io::Result<()> {
        assert!(offset + len <= self.len);
        // SAFETY: Part of this mapping; an access that is not allowed is a signal.
        unsafe { mm::mprotect(self.start.wrapping_add(offset).cast(), len, protection)? };
        Ok(())
    }

    /// Gives the kernel advice on a range of pages.
    pub fn advise(&self, offset: usize, len: usize, advice: mm::Advice) -> io::Result<()> {
        assert!(offset + len <= self.len);
        // SAFETY: Part of this mapping, whose bytes are only accessed atomically.
        unsafe { mm::madvise(self.start.wrapping_add(offset).cast(), len, advice)? };
        Ok(())
    }

    /// Makes a range of pages one that no access is allowed to, without a mapping of its own
    /// (`MADV_GUARD_INSTALL`).
    pub fn guard(&self, offset: usize, len: usize) -> io::Result<()> {
        const MADV_GUARD_INSTALL: i32 = 102;
        assert!(offset + len <= self.len);
        // SAFETY: Part of this mapping; a later access to it is a signal.
        match unsafe {
            libc::madvise(
                self.start.wrapping_add(offset).cast(),
                len,
                MADV_GUARD_INSTALL,
            )
        } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Has changes brought to where they are safe, and waits for it.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: Changes no memory.
        unsafe { mm::msync(self.start.cast(), self.len, mm::MsyncFlags::SYNC)? };
        Ok(())
    }

    /// Changes the length; the mapping may move.
    pub fn resize(&mut self, len: usize) -> io::Result<()> {
        assert!(self.holes.is_empty(), "moves whole mappings only");
        // SAFETY: Exclusive access: nobody holds a reference into the mapping.
        let start = unsafe { mm::mremap(self.start.cast(), self.len, len, MremapFlags::MAYMOVE)? };
        self.forget();
        let mut all = ALL.lock().expect("the list of mappings");
        all.push((start as usize, len));
        (self.start, self.len) = (start.cast(), len);
        Ok(())
    }

    fn forget_part(&self, offset: usize, len: usize) {
        let (start, end) = (self.address(offset), self.address(offset + len));
        let mut all = ALL.lock().expect("the list of mappings");
        let split = all.iter().flat_map(|&(at, size)| {
            let stop = at + size;
            [(at, stop.min(start.max(at))), (end.max(at).min(stop), stop)]
                .map(|(from, to)| (from, to.saturating_sub(from)))
        });
        *all = split.filter(|&(_, len)| len > 0).collect();
    }

    /// Takes the mapping off the list of all.
    fn forget(&self) {
        let mut all = ALL.lock().expect("the list of mappings");
        let (start, end) = (self.address(0), self.address(self.len));
        all.retain(|&(at, _)| !(start..end).contains(&at));
    }

    /// Reads from a file straight into the mapping, as `pread()` does into any buffer.
    pub fn pread_from(
        &self,
        file: impl AsFd,
        position: u64,
        offset: usize,
        len: usize,
    ) -> io::Result<usize> {
        let (fd, place) = (file.as_fd().as_raw_fd(), self.range(offset, len));
        // SAFETY: The kernel writes to this mapping only, whose bytes are only accessed atomically.
        count(unsafe { libc::pread64(fd, place.cast_mut().cast(), len, position as i64) })
    }

    /// Brings what was stored in a part of the mapping to where it is safe, as `msync(MS_SYNC)` does.
    pub fn sync_range(&self, offset: usize, len: usize) -> io::Result<()> {
        let place = self.range(offset, len);
        // SAFETY: The range lies within the mapping, and nothing becomes of its bytes.
        if unsafe { libc::msync(place.cast_mut().cast(), len, libc::MS_SYNC) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Writes to a file straight from the mapping, as `pwrite()` does from any buffer.
    pub fn pwrite_to(
        &self,
        file: impl AsFd,
        position: u64,
        offset: usize,
        len: usize,
    ) -> io::Result<usize> {
        let (fd, place) = (file.as_fd().as_raw_fd(), self.range(offset, len));
        // SAFETY: The kernel reads from this mapping only.
        count(unsafe { libc::pwrite64(fd, place.cast(), len, position as i64) })
    }
}

/// Writes parts of mappings, one after the other, to a file at a position (`pwritev()`); returns how many bytes.
pub fn pwritev_to(
    file: impl AsFd,
    position: u64,
    parts: &[(&Mapping, Range<usize>)],
) -> io::Result<usize> {
    let vectors: Vec<_> = parts
        .iter()
        .map(|(mapping, part)| mapping.io_vector(part.start, part.len()))
        .collect();
    let (fd, count_of) = (file.as_fd().as_raw_fd(), vectors.len() as i32);
    // SAFETY: The kernel reads from these mappings only.
    count(unsafe { libc::pwritev64(fd, vectors.as_ptr(), count_of, position as i64) })
}

/// Parts of this mapping and of another process's: what `process_vm_readv()` and its relatives move.
impl Mapping {
    /// Copies what is at an address of another process into the mapping.
    pub fn read_from_process(
        &self,
        pid: Pid,
        address: usize,
        offset: usize,
        len: usize,
    ) -> io::Result<usize> {
        let local = self.io_vector(offset, len);
        let remote = vector(address, len);
        // SAFETY: The kernel writes to this mapping only, whose bytes are only accessed atomically.
        count(unsafe {
            libc::process_vm_readv(pid.as_raw_nonzero().get(), &local, 1, &remote, 1, 0)
        })
    }

    /// Copies from the mapping to an address of another process.
    pub fn write_to_process(
        &self,
        pid: Pid,
        address: usize,
        offset: usize,
        len: usize,
    ) -> io::Result<usize> {
        assert_ne!(pid, getpid(), "would write to any memory of this process");
        let local = self.io_vector(offset, len);
        let remote = vector(address, len);
        // SAFETY: The kernel reads from this mapping only; the other process's memory is its own affair, as if
        // by ptrace.
        count(unsafe {
            libc::process_vm_writev(pid.as_raw_nonzero().get(), &local, 1, &remote, 1, 0)
        })
    }

    /// Gives a pipe pages of the mapping, without a copy (`vmsplice()`); with `gift`, for it to keep.
    pub fn splice_to(
        &self,
        pipe: impl AsFd,
        offset: usize,
        len: usize,
        gift: bool,
    ) -> io::Result<usize> {
        let local = self.io_vector(offset, len);
        let flags = if gift { libc::SPLICE_F_GIFT } else { 0 };
        // SAFETY: The pipe refers to pages of this mapping, whose bytes are only accessed atomically.
        count(unsafe { libc::vmsplice(pipe.as_fd().as_raw_fd(), &local, 1, flags) })
    }

    /// Sends bytes from the mapping to a socket.
    pub fn send_to(
        &self,
        socket: impl AsFd,
        offset: usize,
        len: usize,
        flags: SendFlags,
    ) -> io::Result<usize> {
        let (fd, place) = (socket.as_fd().as_raw_fd(), self.range(offset, len));
        // SAFETY: The kernel reads from this mapping only, now or, for a copy that is put off, from its pages.
        count(unsafe { libc::send(fd, place.cast(), len, flags.bits() as i32) })
    }

    /// Receives bytes from a socket into the mapping.
    pub fn receive_from(&self, socket: impl AsFd, offset: usize, len: usize) -> io::Result<usize> {
        let (fd, place) = (socket.as_fd().as_raw_fd(), self.range(offset, len));
        // SAFETY: The kernel writes to this mapping only, whose bytes are only accessed atomically.
        count(unsafe { libc::recv(fd, place.cast_mut().cast(), len, 0) })
    }

    fn io_vector(&self, offset: usize, len: usize) -> libc::iovec {
        libc::iovec {
            iov_base: self.range(offset, len).cast_mut().cast(),
            iov_len: len,
        }
    }
}

/// Allows a TCP socket to send pages without a copy (`SO_ZEROCOPY`).
pub fn allow_zerocopy(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: The option is a number, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ZEROCOPY,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    count(result as isize).map(drop)
}

fn vector(address: usize, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: std::ptr::with_exposed_provenance_mut(address),
        iov_len: len,
    }
}

fn count(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Waits for a word to become `value`, by loads alone: the clock, which may be a call into the kernel, is
/// looked at only now and then. Returns whether the word did so before the deadline.
pub fn wait_for(word: &AtomicU64, value: u64, deadline: Instant) -> bool {
    loop {
        for _ in 0..1 << 14 {
            if word.load(Ordering::SeqCst) == value {
                return true;
            }
            std::hint::spin_loop();
        }
        if Instant::now() >= deadline {
            return false;
        }
    }
}

/// A part of a range: one byte, or eight that are aligned.
enum Piece {
    Byte(usize),
    Word(usize),
}

/// Takes a range apart into aligned words as far as possible.
fn pieces(offset: usize, len: usize) -> impl Iterator<Item = Piece> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        let here = at;
        if here == end {
            None
        } else if here % 8 == 0 && end - here >= 8 {
            at += 8;
            Some(Piece::Word(here))
        } else {
            at += 1;
            Some(Piece::Byte(here))
        }
    })
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.forget();
        let mut holes = std::mem::take(&mut self.holes);
        holes.sort_unstable();
        holes.push((self.len, 0));
        let mut start = 0;
        for (hole, len) in holes {
            if hole > start {
                // SAFETY: A part of this mapping that was never unmapped; nobody has a reference into
                // it any more.
                let _ = unsafe { mm::munmap(self.start.wrapping_add(start).cast(), hole - start) };
            }
            start = hole + len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Mapping, PAGE};

    #[test]
    fn bytes_come_back_from_any_offset() {
        let mapping = Mapping::anonymous(PAGE).unwrap();
        for (offset, len) in [
            (0, 0),
            (3, 1),
            (0, 8),
            (5, 20),
            (7, 9),
            (PAGE, 0),
            (PAGE - 3, 3),
        ] {
            let bytes: Vec<u8> = (1..=len as u8).collect();
            mapping.write(offset, &bytes);
            assert_eq!(mapping.read(offset, len), bytes, "{len} bytes at {offset}");
        }
    }

    #[test]
    fn what_takes_the_place_of_a_hole_is_left_alone() {
        let mut mapping = Mapping::anonymous(3 * PAGE).unwrap();
        mapping.unmap(PAGE, PAGE).unwrap();
        assert!(std::panic::catch_unwind(|| mapping.load(PAGE)).is_err());
        mapping.store(2 * PAGE, 1);
    }
}
