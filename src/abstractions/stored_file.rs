// SPDX-License-Identifier: GPL-2.0

//! A file that stores the pages of a page cache: checking it, and moving folios between the two.
//!
//! C headers: [`include/linux/fs.h`](srctree/include/linux/fs.h), `struct kiocb` and `kiocb_start_write()`;
//! [`include/linux/uio.h`](srctree/include/linux/uio.h). The loop driver, `drivers/block/loop.c`, does the same
//! for a disk.
//!
//! Folios are moved by direct I/O where the file can do it, so that its own page cache has no second copy of
//! them; where it cannot, by way of that cache. Reading is begun without waiting, and handed to a worker where it
//! would have to wait: a file system may ask for locks that the program whose touch wants the page holds itself,
//! as it does while it writes to the file from a mapping of the page cache. That program then waits for a folio,
//! and can be killed.
//!
//! # Lock order
//!
//! The lock of a folio, or its being written back, then whatever locks the file system of the file takes.

use super::folio::Folio;
use super::work_queue::WorkQueue;
use super::write_back_scope::WriteBackScope;
use super::{helpers, iov};
use core::cell::UnsafeCell;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::container_of;
use kernel::fs::{File, LocalFile};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{Acquire, Atomic, Full, Relaxed, Release};
use kernel::sync::{Arc, UniqueArc};
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::types::Opaque;
use kernel::workqueue::{impl_has_work, new_work, Work, WorkItem};

/// What all files have in common.
struct Queues {
    /// The names that the queues of each file show under.
    reads: &'static CStr,
    writes: &'static CStr,
    changes: WorkQueue,
    /// How many [`QueueUser`]s there are.
    users: Atomic<usize>,
    /// Whether there has been a file.
    was_used: Atomic<bool>,
}

/// What all work for files is done by. Dropping it waits until nobody can ask for any, and no code of the module runs for
/// files any more, so that the module may go: that is for as long as there is a [`QueueUser`], and until who was asked to
/// let somebody in to such a file has answered.
pub(crate) struct FileQueues {
    queues: KBox<Queues>,
}

/// Leave to have work for files done.
///
/// # Invariants
///
/// It points at the queues of a [`FileQueues`], and is counted there: they stay until it is not.
pub(crate) struct QueueUser(NonNull<Queues>);

// SAFETY: The queues may be used from any thread, and the count is atomic.
unsafe impl Send for QueueUser {}
// SAFETY: As above.
unsafe impl Sync for QueueUser {}

impl Clone for QueueUser {
    fn clone(&self) -> Self {
        self.queues().users.fetch_add(1, Relaxed);
        // INVARIANT: Just counted, while this one is.
        Self(self.0)
    }
}

impl QueueUser {
    fn queues(&self) -> &Queues {
        // SAFETY: By the type invariant.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for QueueUser {
    fn drop(&mut self) {
        // With it goes the right to touch them.
        self.queues().users.fetch_sub(1, Release);
    }
}

impl FileQueues {
    /// Makes the queues, which show under these names. May sleep. Fails with `ENOMEM`.
    pub(crate) fn new(
        reads: &'static CStr,
        writes: &'static CStr,
        changes: &'static CStr,
    ) -> Result<Self> {
        let queues = Queues {
            reads,
            writes,
            changes: WorkQueue::new(changes, 0)?,
            users: Atomic::new(0),
            was_used: Atomic::new(false),
        };
        Ok(Self {
            queues: KBox::new(queues, GFP_KERNEL)?,
        })
    }

    /// Returns leave to use them.
    pub(crate) fn user(&self) -> QueueUser {
        self.queues.users.fetch_add(1, Relaxed);
        // INVARIANT: Just counted; `drop` keeps the queues until it is not.
        QueueUser(NonNull::from(&*self.queues))
    }
}

impl Drop for FileQueues {
    fn drop(&mut self) {
        // What is read and written keeps its file, and that one of these.
        while self.queues.users.load(Acquire) != 0 {
            fsleep(Delta::from_millis(1));
        }
        if self.queues.was_used.load(Relaxed) {
            // SAFETY: Both may be called from any context that may sleep.
            unsafe {
                // Who has given back the last may not have returned, which is a matter of moments: a completion, in an
                // interrupt or in a worker of the file system's.
                helpers::abstractions_helper_synchronize_kernel_code();
                helpers::abstractions_helper_wait_for_file_watches();
            }
        }
        // The end of the queues is that of their workers.
    }
}

/// Where one file is read and written by whoever may wait: each by workers of its own, since each may wait for the other,
/// and a queue has so many workers at most; and no file waits for another, whose file system may be frozen, say.
#[pin_data]
struct FileWorkers {
    reads: WorkQueue,
    writes: WorkQueue,
    user: QueueUser,
    #[pin]
    end: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for FileWorkers { self.end }
}

impl WorkItem for FileWorkers {
    type Pointer = Arc<Self>;

    fn run(_this: Arc<Self>) {
        // The last reference, which is dropped here: where that may wait, and by none of the workers.
    }
}

/// A reference to the workers of a file; the last one may be dropped in any context, by one of the workers too.
struct FileWorkersRef(ManuallyDrop<Arc<FileWorkers>>);

impl FileWorkersRef {
    /// How many may be at one file at the same time: as many as a disk has to do at once, and no crowd where all of them
    /// wait for one lock.
    const WORKERS: u32 = 64;

    /// Makes the workers of a file. May sleep. Fails with `ENOMEM`.
    fn new(user: QueueUser) -> Result<Self> {
        let queues = user.queues();
        let (reads, writes) = (
            WorkQueue::new(queues.reads, Self::WORKERS)?,
            WorkQueue::new(queues.writes, Self::WORKERS)?,
        );
        let workers = pin_init!(FileWorkers {
            reads,
            writes,
            user,
            end <- new_work!("stored_file_end"),
        });
        let workers = Arc::pin_init(workers, GFP_KERNEL)?;
        Ok(Self(ManuallyDrop::new(workers)))
    }
}

impl Clone for FileWorkersRef {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Drop for FileWorkersRef {
    fn drop(&mut self) {
        // SAFETY: It is not used again.
        let workers = unsafe { ManuallyDrop::take(&mut self.0) };
        if let Some(last) = Arc::into_unique_or_drop(workers) {
            let last: Arc<FileWorkers> = Arc::from(last);
            // Its own leave to use the queue may be over before the call has returned.
            let user = last.user.clone();
            // It was queued nowhere before.
            let _ = user.queues().changes.enqueue(last);
        }
    }
}

/// Up to where the errors are known of what was written to a file by way of its own page cache.
pub(super) struct KnownErrors(bindings::errseq_t);

/// A file that is written to, as by a shared mapping of it that can be: it is not sealed against that meanwhile (`F_SEAL_WRITE`).
///
/// # Invariants
///
/// The file is open for writing, has `write_iter`, and `mapping`, which its inode keeps, is counted as mapped so.
struct Writable {
    // Not asked for again: a file system may give its files another.
    mapping: NonNull<bindings::address_space>,
    _file: ARef<File>,
}

impl Writable {
    /// Returns nothing where the file cannot be written to, or is sealed already; fails with `EBUSY` where somebody is just about
    /// to seal it, which may come to nothing.
    ///
    /// Mirrors `mapping_map_writable()`.
    fn new(file: &ARef<File>) -> Result<Option<Self>> {
        let raw = file.as_ptr();
        // SAFETY: The file is valid; here and below.
        let may_write = unsafe {
            helpers::abstractions_helper_file_can_write(raw)
                && !helpers::abstractions_helper_file_is_sealed(raw)
        };
        if !may_write {
            return Ok(None);
        }
        // SAFETY: As above; it has an address space.
        let mapping = unsafe { NonNull::new_unchecked((*raw).f_mapping) };
        // SAFETY: The address space is alive, as its file is.
        if unsafe { helpers::abstractions_helper_mapping_map_writable(mapping.as_ptr()) } != 0 {
            return Err(EBUSY);
        }
        // INVARIANT: Just checked, and counted.
        Ok(Some(Self {
            mapping,
            _file: file.clone(),
        }))
    }
}

// SAFETY: What is counted may be given up by any thread.
unsafe impl Send for Writable {}
// SAFETY: There is nothing to be done with a shared one.
unsafe impl Sync for Writable {}

impl Drop for Writable {
    fn drop(&mut self) {
        // SAFETY: The address space is alive, as its file is, and counted by the type invariant. Needs no context of its own.
        unsafe { helpers::abstractions_helper_mapping_unmap_writable(self.mapping.as_ptr()) };
    }
}

/// A regular file or a block device, from an offset on.
///
/// # Invariants
///
/// The file is open for reading, and has `read_iter`; `writable` is of the same.
pub(crate) struct StoredFile {
    writable: Option<Writable>,
    file: ARef<File>,
    // Dropped after both references to the file.
    workers: FileWorkersRef,
    /// Bytes before the first one that is stored: a multiple of the page size.
    offset: u64,
    /// Whether its file system can be asked for what needs no waiting. Cleared for good where its disk turns out not to be able to.
    can_hurry: Atomic<bool>,
    /// Cleared for good where the file turns out not to take direct I/O after all.
    is_direct: Atomic<bool>,
    /// The fewest bytes that it was seen to have by [`Self::note_shorter`], until they are forgotten.
    shortest: Atomic<u64>,
}

impl StoredFile {
    /// Takes the file of a descriptor of the calling task, from `offset` on, of which at most `most` bytes will be read and
    /// written; all that there are, now and later, where that is `None`. What has to wait is done by workers of its own, who are
    /// told on `queues` to end.
    ///
    /// What may be done with it is what the descriptor allows, now and later: a descriptor for reading only makes
    /// a store that is not written to, and so does a memfd that is sealed against it (`F_SEAL_WRITE`, `F_SEAL_FUTURE_WRITE`). One
    /// that is written to cannot be sealed by the former (`EBUSY`) while this is there, as while it is mapped.
    ///
    /// # Errors
    ///
    /// - `EBADF`: there is no such descriptor, or it is not open for reading.
    /// - `EISDIR`, `EINVAL`: it is a directory, or neither a regular file nor a block device; or it is one that
    ///   cannot be read at any place (as in `/proc`); or its writes go to its end.
    /// - `ETXTBSY`: it is swapped to.
    /// - `EINVAL`: the offset is no multiple of the page size, or there are not as many bytes as `most`. (The last page of the
    ///   file need not be whole.)
    /// - `ENXIO`: there is nothing at the offset.
    /// - `EBUSY`: it is a memfd that somebody is just about to seal.
    /// - `ENOMEM`.
    /// - `EPERM`, `EACCES`, or what else is said by who is asked for leave to read and write it: a security module, or a program
    ///   by fanotify, for whose answer this waits, until the task is killed. They are asked here, about all at once, as no read
    ///   or write of pages later can wait for them; but not about what the file grows by, nor again where it is stacked on
    ///   another, whose file system may ask for itself.
    /// - `EOPNOTSUPP`: nobody can tell in this kernel when a completion has returned, for which the module has to stay:
    ///   with `CONFIG_PREEMPT_RT`, or with preemption and no `CONFIG_TASKS_RCU`.
    pub(crate) fn from_descriptor(
        descriptor: u32,
        offset: u64,
        most: Option<u64>,
        queues: QueueUser,
    ) -> Result<Self> {
        // SAFETY: The function may be called from any context.
        if !unsafe { helpers::abstractions_helper_can_wait_for_kernel_code() } {
            return Err(EOPNOTSUPP);
        }
        queues.queues().was_used.store(true, Relaxed);
        let local = LocalFile::fget(descriptor)?;
        // SAFETY: The position of the file, which is all that the difference is about, is never used here.
        let file = unsafe { LocalFile::assume_no_fdget_pos(local) };
        let raw = file.as_ptr();
        // SAFETY: The file is valid for as long as the reference is held, here and below.
        let kind = unsafe { helpers::abstractions_helper_file_kind(raw) };
        if kind < 0 {
            return Err(Error::from_errno(kind));
        }
        // SAFETY: As above.
        let (can_read, can_hurry, is_direct, is_append, is_swap, modes) = unsafe {
            (
                helpers::abstractions_helper_file_can_read(raw),
                helpers::abstractions_helper_file_can_hurry(raw),
                helpers::abstractions_helper_file_can_direct(raw),
                helpers::abstractions_helper_file_is_append(raw),
                helpers::abstractions_helper_file_is_swap(raw),
                file.flags() & kernel::fs::file::flags::O_ACCMODE,
            )
        };
        if modes == kernel::fs::file::flags::O_WRONLY {
            return Err(EBADF);
        }
        if !can_read || is_append || offset % PAGE_SIZE as u64 != 0 {
            return Err(EINVAL);
        }
        if is_swap {
            return Err(ETXTBSY);
        }
        let writable = Writable::new(&file)?;
        let is_writable = writable.is_some();
        // INVARIANT: Just checked.
        let this = Self {
            file,
            workers: FileWorkersRef::new(queues)?,
            offset,
            writable,
            can_hurry: Atomic::new(can_hurry),
            is_direct: Atomic::new(is_direct),
            shortest: Atomic::new(u64::MAX),
        };
        let size = this.size();
        if size == 0 {
            return Err(ENXIO);
        }
        if most.is_some_and(|most| most > size.next_multiple_of(PAGE_SIZE as u64)) {
            return Err(EINVAL);
        }
        let position = offset as bindings::loff_t;
        let len = most.unwrap_or(u64::MAX).min(size) as usize;
        for (direction, is_asked) in [(bindings::READ, true), (bindings::WRITE, is_writable)] {
            if is_asked {
                // SAFETY: The file is valid, and so is the position; no lock is held that who is asked could want.
                kernel::error::to_result(unsafe {
                    bindings::rw_verify_area(direction as c_int, raw, &position, len)
                })?;
            }
        }
        Ok(this)
    }

    /// Returns the raw pointer.
    pub(super) fn as_raw(&self) -> *mut bindings::file {
        self.file.as_ptr()
    }

    /// Returns the file.
    pub(super) fn file(&self) -> ARef<File> {
        self.file.clone()
    }

    fn mapping(&self) -> *mut bindings::address_space {
        // SAFETY: The file is valid, and keeps its address space.
        unsafe { (*self.file.as_ptr()).f_mapping }
    }

    /// Returns the queue for following a file that has changed.
    pub(crate) fn changes(&self) -> &WorkQueue {
        &self.workers.0.user.queues().changes
    }

    /// Returns whether it may be written to.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable.is_some()
    }

    /// Returns whether what is to be written now is: somebody may have made the file immutable (`chattr +i`), or sealed it
    /// (`F_SEAL_FUTURE_WRITE`).
    pub(crate) fn takes_writes(&self) -> bool {
        let raw = self.file.as_ptr();
        // SAFETY: The file is valid.
        unsafe {
            !helpers::abstractions_helper_file_is_immutable(raw)
                && !helpers::abstractions_helper_file_is_sealed(raw)
        }
    }

    /// Returns whether it is read and written without a second copy in memory, as far as is known.
    pub(crate) fn is_direct(&self) -> bool {
        self.is_direct.load(Relaxed)
    }

    /// Returns how many bytes there are from the offset on, at this moment.
    pub(crate) fn size(&self) -> u64 {
        // SAFETY: An address space has its inode.
        let size = unsafe { helpers::abstractions_helper_i_size_read((*self.mapping()).host) };
        (size as u64).saturating_sub(self.offset)
    }

    /// Returns how many of its bytes have been there all the time, as far as [`Self::note_shorter`] was told: what is
    /// beyond has become zeros, if it is there at all.
    pub(crate) fn lasting_size(&self) -> u64 {
        self.size().min(self.shortest.load(Acquire))
    }

    /// Notes that it is shorter now; to be called while it cannot grow again.
    pub(super) fn note_shorter(&self) {
        let now = self.size();
        let mut known = self.shortest.load(Relaxed);
        while now < known {
            match self.shortest.cmpxchg(known, now, Full) {
                Ok(_) => return,
                Err(other) => known = other,
            }
        }
    }

    /// Returns whether it was seen to be shorter, and that was not forgotten.
    pub(crate) fn was_shorter(&self) -> bool {
        self.shortest.load(Acquire) != u64::MAX
    }

    /// Forgets how short it has been, unless that is shorter than `lasting` bytes.
    pub(super) fn forget_shorter(&self, lasting: u64) {
        let known = self.shortest.load(Relaxed);
        if known >= lasting {
            // If it has become shorter just now, that stays known.
            let _ = self.shortest.cmpxchg(known, u64::MAX, Full);
        }
    }

    /// Returns the offset in the file that the first stored byte has.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns whether two are parts of the same file (or block device).
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        self.mapping() == other.mapping()
    }

    /// Returns whether pages have to stay as they are while they are written, for checksums say.
    pub(super) fn needs_stable_pages(&self) -> bool {
        // SAFETY: A file keeps its address space.
        unsafe { helpers::abstractions_helper_mapping_stable_writes(self.mapping()) }
    }

    /// Returns that all errors are known that there have been. Mirrors `filemap_sample_wb_err()`.
    pub(super) fn known_errors(&self) -> KnownErrors {
        // SAFETY: The file is valid, and keeps its address space.
        KnownErrors(unsafe { helpers::abstractions_helper_file_sample_errors(self.file.as_ptr()) })
    }

    /// Fails with the last error that was not known, where there is one; all are then.
    ///
    /// Mirrors `file_check_and_advance_wb_err()`, but for nobody else who has the file open.
    pub(super) fn check_errors(&self, known: &mut KnownErrors) -> Result {
        // SAFETY: As above.
        kernel::error::to_result(unsafe {
            helpers::abstractions_helper_file_check_errors(self.file.as_ptr(), &mut known.0)
        })
    }

    /// Brings what was written from `start` to `last`, inclusive, to where it survives a loss of power.
    ///
    /// What could not be written by way of the file's own page cache is an error here unless that was told to another who
    /// has the file open by the same descriptor: see [`Self::check_errors`]. Mirrors `vfs_fsync_range()`. Sleeps.
    pub(crate) fn sync(&self, start: u64, last: u64, data_only: bool) -> Result {
        let end_of_files = i64::MAX as u64;
        let place = |offset: u64| self.offset.saturating_add(offset).min(end_of_files) as i64;
        // SAFETY: The file is valid.
        kernel::error::to_result(unsafe {
            bindings::vfs_fsync_range(
                self.file.as_ptr(),
                place(start),
                place(last),
                data_only.into(),
            )
        })
    }
}

/// How many folios one request has at most.
const MOST: usize = 32;

/// Which way the bytes of a request go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the file into folios that are locked, which unlocks them.
    Read,
    /// From folios that are being written back into the file, which ends that.
    Write,
}

/// Folios one after the other in a file that are read or written in one go.
///
/// # Invariants
///
/// The first `count` of `folios` are valid, each follows the one before in the file, and this value owns their lock
/// ([`Direction::Read`]) or their being written back ([`Direction::Write`]), either of which keeps them where they
/// are. `bvecs` has their first `len` bytes, of which the first `done` are where they belong.
struct Batch {
    direction: Direction,
    position: u64,
    count: usize,
    len: usize,
    done: usize,
    folios: [*mut bindings::folio; MOST],
    bvecs: [bindings::bio_vec; MOST],
}

impl Batch {
    fn new(direction: Direction) -> Self {
        Self {
            direction,
            position: 0,
            count: 0,
            len: 0,
            done: 0,
            folios: [core::ptr::null_mut(); MOST],
            bvecs: [bindings::bio_vec::default(); MOST],
        }
    }

    /// Takes one more folio, of which `len` bytes are moved; gives it back where it does not follow or there is no
    /// room.
    ///
    /// # Safety
    ///
    /// `folio` must be valid, at `position`, of at least `len` bytes, and its lock or write-back (by the direction)
    /// the caller's, who gives it up.
    unsafe fn add(&mut self, folio: *mut bindings::folio, position: u64, len: usize) -> bool {
        if self.count == 0 {
            self.position = position;
        } else if self.count == MOST || self.position + self.len as u64 != position {
            return false;
        }
        self.folios[self.count] = folio;
        // SAFETY: By the requirements of this function the bytes are within the folio.
        unsafe {
            helpers::abstractions_helper_bvec_set_folio(&mut self.bvecs[self.count], folio, len)
        };
        self.count += 1;
        self.len += len;
        true
    }

    /// Returns what is left to be moved.
    fn rest(&self) -> Rest {
        Rest {
            direction: self.direction,
            position: self.position + self.done as u64,
            bvecs: self.bvecs.as_ptr(),
            count: self.count,
            len: self.len,
            done: self.done,
        }
    }

    /// Ends the batch: all is where it belongs but for what `error` was for. What is beyond the file's end
    /// (`size`, in bytes from the first stored one) reads as zeros. What could not be written for want of memory is dirty
    /// again, where the context allows it.
    ///
    /// Context: that of a process, or as it says any but an NMI.
    fn finish(&mut self, error: Option<Error>, size: u64, context: Context) {
        let reached = self.done;
        let at_end = error.is_none() && self.position + reached as u64 >= size;
        let mut start = 0;
        for index in 0..self.count {
            let folio = self.folios[index];
            let end = start + self.bvecs[index].bv_len as usize;
            match self.direction {
                Direction::Read => {
                    if at_end && end > reached {
                        let from = reached.max(start) - start;
                        // SAFETY: By the type invariants the folio is locked, and has these bytes.
                        unsafe {
                            helpers::abstractions_helper_folio_zero_range(
                                folio,
                                from,
                                end - start - from,
                            )
                        };
                    }
                    // SAFETY: By the type invariants the folio is locked, which this gives up.
                    unsafe { bindings::folio_end_read(folio, at_end || end <= reached) };
                }
                Direction::Write => {
                    if end > reached {
                        let error = error.unwrap_or(EIO);
                        // SAFETY: A folio that is being written back keeps its place in its address space.
                        unsafe {
                            let mapping = (*folio).__bindgen_anon_1.__bindgen_anon_1.mapping;
                            helpers::abstractions_helper_mapping_set_error(
                                mapping,
                                error.to_errno(),
                            );
                            if context == Context::Process && error == ENOMEM {
                                bindings::filemap_dirty_folio(mapping, folio);
                            }
                        }
                    }
                    // SAFETY: By the type invariants the folio is being written back, which this ends.
                    unsafe { bindings::folio_end_writeback(folio) };
                }
            }
            start = end;
        }
        self.count = 0;
    }
}

/// What is left to be moved of a batch, which stays where it is.
#[derive(Clone, Copy)]
struct Rest {
    direction: Direction,
    position: u64,
    bvecs: *const bindings::bio_vec,
    count: usize,
    len: usize,
    done: usize,
}

impl Rest {
    /// Returns how many bytes the next call moves at most, and whether past the file's own page cache.
    ///
    /// A direct write moves whole blocks: the last bytes of a file that ends within one go by way of its own page
    /// cache, so that the file does not grow by that.
    fn next(&self, can_direct: bool) -> (usize, bool) {
        let left = self.len - self.done;
        // (What was cut short by the end may go on within a page, if that has moved.)
        let can_direct = can_direct && self.position % PAGE_SIZE as u64 == 0;
        if !can_direct || self.direction == Direction::Read {
            return (left, can_direct);
        }
        match left - left % PAGE_SIZE {
            0 => (left, false),
            whole => (whole, true),
        }
    }
}

/// Where something is called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    /// A process or a worker.
    Process,
    /// Perhaps an interrupt.
    Any,
}

/// A batch that is on its way.
///
/// Writing is done by workers alone: whoever wants something written, by `fsync()` say, may have a limit on the size of
/// files, or be killed, and what others have stored would be lost by that. Reading is tried by whoever wants the page.
#[pin_data]
struct Request {
    store: Arc<StoredFile>,
    batch: UnsafeCell<Batch>,
    kiocb: Opaque<bindings::kiocb>,
    /// Whether an attempt may wait; set between two of them.
    is_patient: Atomic<bool>,
    /// Whether it goes past the file's own page cache; as above.
    is_direct: Atomic<bool>,
    /// How far an attempt is that is completed later: one of the states below.
    attempt: Atomic<u32>,
    #[pin]
    work: Work<Self>,
}

/// States of an attempt. The file system may look at the kiocb for as long as its call has not returned, although it is completed by
/// then (`file_accessed(iocb->ki_filp)`): another attempt, which sets that up anew, is begun by whichever of the two comes last.
const CALLING: u32 = 0;
const RETURNED: u32 = 1;
const TO_BE_TRIED_AGAIN: u32 = 2;

// SAFETY: The batch and the kiocb are used by whose turn it is: the submitter, the file system, the completion, the
// worker, each of which hands them on to the next.
unsafe impl Send for Request {}
// SAFETY: As above.
unsafe impl Sync for Request {}

impl_has_work! {
    impl HasWork<Self> for Request { self.work }
}

impl WorkItem for Request {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let _scope = WriteBackScope::enter();
        this.is_patient.store(true, Relaxed);
        Self::submit(this);
    }
}

impl Request {
    /// Makes a request with nothing in it. Fails with `ENOMEM`.
    fn new(store: &Arc<StoredFile>, direction: Direction) -> Result<Pin<UniqueArc<Self>>> {
        let request = pin_init!(Self {
            store: store.clone(),
            batch: UnsafeCell::new(Batch::new(direction)),
            kiocb: Opaque::uninit(),
            is_patient: Atomic::new(false),
            is_direct: Atomic::new(false),
            attempt: Atomic::new(CALLING),
            work <- new_work!("stored_file"),
        });
        Ok(UniqueArc::new_uninit(GFP_KERNEL | __GFP_NOWARN)?.pin_init_with(request)?)
    }

    /// Returns the batch of a request that is nobody else's yet.
    fn batch(self: Pin<&mut Self>) -> &mut Batch {
        // SAFETY: Nothing is moved out of, and the batch is not pinned by itself.
        unsafe { self.get_unchecked_mut() }.batch.get_mut()
    }

    /// Begins to move what is left of the batch; it is finished before this returns or later.
    fn submit(this: Arc<Self>) {
        // SAFETY: It is this function's turn: nobody else has the batch, until the call below.
        let mut rest = unsafe { (*this.batch.get()).rest() };
        if rest.direction == Direction::Write {
            // What was cut off since it was to be written does not come back by that.
            let left = this.store.lasting_size().saturating_sub(rest.position);
            rest.len = rest.len.min(rest.done.saturating_add(left as usize));
            if rest.len == rest.done {
                // SAFETY: As above.
                let batch = unsafe { &mut *this.batch.get() };
                batch.done = batch.len;
                return batch.finish(None, 0, Context::Process);
            }
        }
        let (len, is_direct) = rest.next(this.store.is_direct());
        let is_patient = this.is_patient.load(Relaxed);
        this.is_direct.store(is_direct, Relaxed);
        this.attempt.store(CALLING, Relaxed);
        let kiocb = this.kiocb.get();
        // For the completion, which may come before the call returns.
        let raw = Arc::into_raw(this.clone());
        // SAFETY: The kiocb and the batch are in the request, which lives until the completion has come.
        match unsafe { this.store.call(&rest, len, is_direct, kiocb, is_patient) } {
            Some(result) => {
                // SAFETY: There will be no completion: what was meant for it is taken back.
                drop(unsafe { Arc::from_raw(raw) });
                Self::move_on(this, result, Context::Process);
            }
            None => {
                if this.attempt.xchg(RETURNED, Full) == TO_BE_TRIED_AGAIN {
                    Self::hand_to_worker(this, rest.direction);
                }
            }
        }
    }

    /// Has a worker make another attempt; to be called where `move_on` is.
    fn try_again(this: Arc<Self>, direction: Direction, context: Context) {
        // It is in a completion that it may be an interrupt.
        if context == Context::Any && this.attempt.xchg(TO_BE_TRIED_AGAIN, Full) == CALLING {
            return;
        }
        Self::hand_to_worker(this, direction);
    }

    fn hand_to_worker(this: Arc<Self>, direction: Direction) {
        // Of its own: whoever does it may give back the last one of the file.
        let workers = this.store.workers.clone();
        // It is queued nowhere else: whose turn it is has it alone.
        let _ = match direction {
            Direction::Read => workers.0.reads.enqueue(this),
            Direction::Write => workers.0.writes.enqueue(this),
        };
    }

    /// # Safety
    ///
    /// `kiocb` must be that of a request whose `call` has returned `None`, or is about to.
    unsafe extern "C" fn complete(kiocb: *mut bindings::kiocb, result: c_long) {
        let pinned: *mut Opaque<bindings::kiocb> = kiocb.cast();
        // SAFETY: By the requirements of this function.
        let request: *mut Self = unsafe { container_of!(pinned, Self, kiocb) };
        // SAFETY: `submit` has put the reference aside for this.
        let this = unsafe { Arc::from_raw(request.cast_const()) };
        // SAFETY: It is this function's turn. A write that is completed later was begun by `call`, which leaves its end to the
        // completion.
        unsafe {
            if (*this.batch.get()).direction == Direction::Write {
                helpers::abstractions_helper_kiocb_end_write(kiocb);
            }
        }
        Self::move_on(this, result, Context::Any);
    }

    /// Deals with what came of an attempt.
    fn move_on(this: Arc<Self>, result: isize, context: Context) {
        let size = this.store.size();
        let is_patient = this.is_patient.load(Relaxed);
        // SAFETY: It is this function's turn, and nobody else has the batch.
        let batch = unsafe { &mut *this.batch.get() };
        let direction = batch.direction;
        let error = match iov::moved(result) {
            Ok(moved) => {
                batch.done += moved;
                let at_end = batch.position + batch.done as u64 >= size;
                if batch.done == batch.len || direction == Direction::Read && at_end {
                    None
                } else if moved == 0 && is_patient {
                    Some(EIO)
                } else {
                    // The rest, or the reason why it cannot be had.
                    return Self::try_again(this, direction, context);
                }
            }
            // It would have had to wait, or is being killed: now by somebody who may and is not.
            Err(error) if !is_patient && [EAGAIN, EINTR, ERESTARTSYS].contains(&error) => {
                return Self::try_again(this, direction, context);
            }
            // The disk knows no requests that must not wait (`REQ_NOWAIT`), whatever its file system says: one of the device
            // mapper's or md's, say.
            Err(EOPNOTSUPP) if !is_patient => {
                this.store.can_hurry.store(false, Relaxed);
                return Self::try_again(this, direction, context);
            }
            // Its blocks are larger than a page, say. What it keeps itself can be had in any pieces.
            Err(EINVAL) if this.is_direct.load(Relaxed) => {
                this.store.is_direct.store(false, Relaxed);
                return Self::try_again(this, direction, context);
            }
            Err(error) => Some(error),
        };
        batch.finish(error, size, context);
    }
}

/// Collects folios into requests for a file.
///
/// Dropping it begins what is left.
pub(super) struct Transfer<'a> {
    store: &'a Arc<StoredFile>,
    direction: Direction,
    request: Option<Pin<UniqueArc<Request>>>,
}

impl<'a> Transfer<'a> {
    /// Begins a transfer, which waits for no lock of the file's file system.
    pub(super) fn new(store: &'a Arc<StoredFile>, direction: Direction) -> Self {
        Self {
            store,
            direction,
            request: None,
        }
    }

    /// Adds a folio, of which `len` bytes are to be moved from or to `position`.
    ///
    /// Without memory for that fails with `ENOMEM` where it reads, and then has unlocked the folio, which is as it was;
    /// where it writes, waits until there is.
    ///
    /// # Safety
    ///
    /// As for [`Batch::add`].
    pub(super) unsafe fn add(
        &mut self,
        folio: *mut bindings::folio,
        position: u64,
        len: usize,
    ) -> Result {
        if let Some(request) = &mut self.request {
            // SAFETY: By the requirements of this function.
            if unsafe { request.as_mut().batch().add(folio, position, len) } {
                return Ok(());
            }
        }
        self.begin();
        loop {
            match Request::new(self.store, self.direction) {
                Ok(mut request) => {
                    // SAFETY: As above; it is empty, so that there is room.
                    unsafe { request.as_mut().batch().add(folio, position, len) };
                    self.request = Some(request);
                    return Ok(());
                }
                Err(error) if self.direction == Direction::Read => {
                    let mut batch = Batch::new(self.direction);
                    // SAFETY: As above.
                    unsafe { batch.add(folio, position, len) };
                    batch.finish(Some(error), self.store.size(), Context::Process);
                    return Err(error);
                }
                // As `__GFP_NOFAIL` would have it.
                Err(_) => fsleep(Delta::from_millis(1)),
            }
        }
    }

    /// Adds a whole folio; see [`Self::add`].
    ///
    /// # Safety
    ///
    /// As for [`Batch::add`]; what the caller gives up keeps the folio in its page cache.
    pub(super) unsafe fn add_whole(&mut self, folio: *mut bindings::folio) -> Result {
        // SAFETY: By the requirements of this function.
        let place = unsafe { Folio::borrow(folio) };
        // SAFETY: By the requirements of this function.
        unsafe { self.add(folio, place.start(), place.size()) }
    }

    /// Begins to move what was added.
    pub(super) fn begin(&mut self) {
        if let Some(request) = self.request.take() {
            let request: Arc<Request> = request.into();
            if self.direction == Direction::Read && self.store.can_hurry.load(Relaxed) {
                Request::submit(request);
            } else {
                Request::hand_to_worker(request, self.direction);
            }
        }
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        self.begin();
    }
}

impl StoredFile {
    /// Calls the file system to move the next `len` bytes, as whoever has opened the file. Returns what it says; or `None` where
    /// [`Request::complete`] is told that, once, which may have happened by then (`EIOCBQUEUED`).
    ///
    /// # Safety
    ///
    /// `kiocb` must be that of a request, `rest` what is left of its batch, and both stay until that is moved.
    unsafe fn call(
        &self,
        rest: &Rest,
        len: usize,
        is_direct: bool,
        kiocb: *mut bindings::kiocb,
        is_patient: bool,
    ) -> Option<isize> {
        const QUEUED: isize = -(bindings::EIOCBQUEUED as isize);
        let is_write = rest.direction == Direction::Write;
        let direction = if is_write {
            bindings::ITER_SOURCE
        } else {
            bindings::ITER_DEST
        };
        let file = self.file.as_ptr();
        let mut iter = bindings::iov_iter::default();
        // SAFETY: By the requirements of this function; the file is valid and keeps its credentials, by the type invariant it can
        // be read, and written to where that is what is done, and the iterator is over memory of the folios, which the batch
        // keeps. The kiocb is not looked at any more once its completion may be under way, which ends the write then.
        unsafe {
            helpers::abstractions_helper_init_kiocb(
                kiocb,
                file,
                (self.offset + rest.position) as bindings::loff_t,
                is_direct,
                is_write,
                !is_patient,
                Some(Request::complete),
            );
            bindings::iov_iter_bvec(
                &mut iter,
                direction,
                rest.bvecs,
                rest.count as c_ulong,
                rest.len,
            );
            bindings::iov_iter_advance(&mut iter, rest.done);
            let own = helpers::abstractions_helper_override_creds((*file).f_cred);
            let operations = (*file).f_op;
            let result = iov::with_limit(&mut iter, len as u64, |iter| {
                // Not `vfs_iocb_iter_read()` and its like: they ask for leave, for which `from_descriptor` has asked. Who is asked
                // by fanotify may have to write to the file system first; and whose touch this is may be in the middle of a write
                // there, which keeps the file system from being frozen for that; and what was stored is not to be lost, nor who
                // syncs it to be held up, for somebody's later answer. Nobody is asked about a touch of a mapping of the file
                // itself, nor who watches it told of that, nor by the loop driver. (A file system that is stacked on another may
                // ask by itself. It takes no `IOCB_NOWAIT`, so that it is a worker who waits, and the touch for that one.)
                match ((*operations).read_iter, (*operations).write_iter) {
                    (_, Some(write_iter)) if is_write && self.is_writable() => {
                        helpers::abstractions_helper_kiocb_start_write(kiocb);
                        let result = write_iter(kiocb, iter);
                        if result != QUEUED {
                            helpers::abstractions_helper_kiocb_end_write(kiocb);
                        }
                        result
                    }
                    (Some(read_iter), _) if !is_write => read_iter(kiocb, iter),
                    _ => EBADF.to_errno() as isize,
                }
            });
            helpers::abstractions_helper_revert_creds(own);
            (result != QUEUED).then_some(result)
        }
    }
}
