// SPDX-License-Identifier: GPL-2.0

//! A page cache over a stored file: pages come from the file when they are touched, go back when they were
//! written to, and may be taken away by the kernel at any time in between.
//!
//! C header: [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h). Reference:
//! <https://docs.kernel.org/filesystems/vfs.html>, "The Address Space Object"
//!
//! Read-ahead, reclaim, dirty throttling, background write-back and errors that are reported once to each open file are
//! the kernel's own, by way of an inode of a pseudo file system with a bdi of its own.
//!
//! # Lock order
//!
//! As in [`super::page_cache`] and [`super::file_size`], where who has pages written holds `Source::writing` outside
//! of the folios' locks; and after a folio's lock or write-back what [`super::stored_file`] says.

use super::file_size::{self, Changing};
use super::folio::Folio;
use super::page_cache::{may_wait, page_of, AddressSpace, Wait};
use super::pseudo_fs::{PseudoFsType, PseudoMount};
use super::rw_semaphore::RwSemaphore;
use super::stored_file::{Direction, KnownErrors, StoredFile, Transfer};
use super::vm_fault::{FaultOutcome, FirstWrite, Installed, VmFault};
use super::write_back_scope::WriteBackScope;
use super::{helpers, iov, sched};
use core::ops::Deref;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::fs::Kiocb;
use kernel::iov::IovIterDest;
use kernel::prelude::*;
use kernel::sync::{new_mutex, static_lock_class, Arc, ArcBorrow, Mutex};
use kernel::types::ForeignOwnable;

/// The pages of a stored file.
///
/// It is the one owner of the inode. When it is dropped, what is dirty is dropped as well: call [`Self::write_back`]
/// first.
///
/// # Invariants
///
/// - `inode` is valid, its `a_ops` are [`Self::OPERATIONS`], and its `i_private` is the pointer of `source`.
/// - Besides this value's own reference to it there are those of who goes through all inodes of a super block, as `sync()`
///   and who drops caches do. They hold `s_umount` meanwhile, so that none is left when `mount` is gone.
/// - The inode was made on `mount`, which it does not keep by itself.
pub(crate) struct FileCache {
    inode: NonNull<bindings::inode>,
    // Both are dropped after `drop` has let go of the inode, and in this order: the file when nobody can write to it, or be
    // about to evict the inode, any more.
    mount: PseudoMount,
    source: Arc<Source>,
}

/// Where pages come from.
#[pin_data]
struct Source {
    store: Arc<StoredFile>,
    arrivals: Arc<dyn Arrivals>,
    changing: Changing,
    /// Held for reading by whoever has pages written.
    #[pin]
    writing: RwSemaphore,
    /// Errors of the store's that are noted in the address space. Held while one is.
    #[pin]
    noted: Mutex<KnownErrors>,
}

/// What is to be told of folios that come into memory.
pub(crate) trait Arrivals: Send + Sync {
    /// A folio is about to be filled. Context: process; the folio is locked.
    fn note(&self, folio: &Folio);
}

// SAFETY: The inode may be used and released from any thread.
unsafe impl Send for FileCache {}
// SAFETY: The shared methods are those of `AddressSpace` and of the store, both `Sync`.
unsafe impl Sync for FileCache {}

impl FileCache {
    const OPERATIONS: bindings::address_space_operations = bindings::address_space_operations {
        read_folio: Some(Self::read_folio),
        readahead: Some(Self::readahead),
        writepages: Some(Self::writepages),
        write_begin: Some(Self::write_begin),
        write_end: Some(Self::write_end),
        dirty_folio: Some(bindings::filemap_dirty_folio),
        migrate_folio: Some(bindings::filemap_migrate_folio),
        error_remove_folio: Some(bindings::generic_error_remove_folio),
        ..pin_init::zeroed()
    };

    /// Makes a page cache of the first `size` bytes of `store`, with nothing in it, on a mount of its own.
    ///
    /// `arrivals` is told of what comes in. May sleep. Fails with `ENOMEM`, and with `EFBIG` for a size beyond what the
    /// VFS can count.
    pub(crate) fn new(
        fs_type: &'static PseudoFsType,
        store: Arc<StoredFile>,
        arrivals: Arc<dyn Arrivals>,
        size: u64,
    ) -> Result<Self> {
        let known = store.known_errors();
        let source = Arc::pin_init(
            pin_init!(Source {
                store,
                arrivals,
                changing: Changing::new(),
                writing <- RwSemaphore::new(c"FileCache::writing", static_lock_class!()),
                noted <- new_mutex!(known, "FileCache::noted"),
            }),
            GFP_KERNEL,
        )?;
        let size = bindings::loff_t::try_from(size).map_err(|_| EFBIG)?;
        let mount = PseudoMount::with_write_back(fs_type, source.store.file())?;
        let inode = mount.alloc_hashed_inode()?;
        let store = &source.store;
        // SAFETY: The inode is new and nobody else uses it yet. The source is owned by this value.
        unsafe {
            let raw = inode.as_ptr();
            let mapping = (*raw).i_mapping;
            (*raw).i_private = Arc::as_ptr(&source).cast_mut().cast();
            (*mapping).a_ops = &Self::OPERATIONS;
            helpers::abstractions_helper_i_size_write(raw, size);
            helpers::abstractions_helper_mapping_set_large_folios(mapping);
            if store.needs_stable_pages() {
                helpers::abstractions_helper_mapping_set_stable_writes(mapping);
            }
            // The default is made for a slow disk: of a fast one a program gets half as much by it.
            helpers::abstractions_helper_read_ahead_as(raw, store.as_raw());
        }
        // INVARIANT: Set just now; the reference from the allocation is the only one.
        Ok(Self {
            inode,
            mount,
            source,
        })
    }

    /// From now on `sync()` writes back what is dirty here, and syncs the file after that; dropping this waits for one that
    /// is at it, and so maybe for a disk.
    pub(crate) fn begin_to_sync(&self) {
        self.mount.begin_to_sync();
    }

    /// Returns the file that stores the pages.
    pub(crate) fn store(&self) -> &StoredFile {
        &self.source.store
    }

    pub(super) fn changing(&self) -> &Changing {
        &self.source.changing
    }

    /// Waits until pages may be brought in, which they may but for moments. Fails with `EAGAIN` where `wait` forbids
    /// that, and with `EINTR` where the calling task is being killed. Sleeps otherwise.
    pub(crate) fn wait_while_closed(&self, wait: Wait) -> Result {
        self.changing().wait_while_closed(wait)
    }

    /// Returns whether a page is in memory, with its content.
    fn has(&self, index: usize) -> bool {
        let folio = self.get_folio(index);
        folio.is_some_and(|folio| folio.is_uptodate())
    }

    /// Returns what is held for reading by whoever has pages written.
    pub(super) fn writing(&self) -> &RwSemaphore {
        &self.source.writing
    }

    /// Writes what is dirty from byte `start` to `last`, inclusive, to the file, and waits for that,
    /// and for what else `durability` asks.
    ///
    /// What fails is noted in the address space, from where each open file has it once, and nothing is said of it
    /// here. Mirrors `file_write_and_wait_range()` and `vfs_fsync_range()`. Sleeps.
    ///
    /// Fails with `EINTR` or `ERESTARTSYS` where the calling task was interrupted, which is nobody else's concern: the
    /// file has it all, and who syncs it next brings it to the disk.
    pub(crate) fn write_back(&self, start: u64, last: u64, durability: Durability) -> Result {
        let end_of_files = i64::MAX as u64;
        let place = |offset: u64| offset.min(end_of_files) as bindings::loff_t;
        let mapping = self.as_raw();
        // SAFETY: The address space is alive.
        unsafe {
            bindings::filemap_fdatawrite_range(mapping, place(start), place(last));
            bindings::filemap_fdatawait_range_keep_errors(mapping, place(start), place(last));
        }
        let data_only = match durability {
            Durability::Written => return Ok(()),
            Durability::Data => true,
            Durability::Full => false,
        };
        let synced = self.store().sync(start, last, data_only);
        // Whoever has the store open as well, or syncs at the same time, may have been told of what failed in this one's
        // place. All of it is noted before anybody who comes through here looks at what is.
        let mut known = self.source.noted.lock();
        let news = self.store().check_errors(&mut known);
        let is_interrupted = synced.is_err_and(|error| [EINTR, ERESTARTSYS].contains(&error));
        let (told, noted) = if is_interrupted {
            (synced, news)
        } else {
            (Ok(()), synced.and(news))
        };
        if let Err(error) = noted {
            // SAFETY: The address space is alive.
            unsafe { helpers::abstractions_helper_mapping_set_error(mapping, error.to_errno()) };
        }
        told
    }

    /// Answers a touch: the page is to be found or read, unless others have waited too long for those who do so.
    pub(crate) fn answer_touch<'a>(&self, touch: &'a VmFault) -> FaultOutcome<'a> {
        if self.changing().is_closed() && !self.has(touch.index()) {
            // A wait that can be killed.
            if sched::is_being_killed() {
                return FaultOutcome::BusError;
            }
            file_size::wait_a_moment();
            return FaultOutcome::Done(touch.come_again());
        }
        FaultOutcome::FindOrRead
    }

    /// Answers a first write to a page that a mapping has for reading only: marks its folio dirty, so that it is written
    /// back. Where `is_over` says so it is refused: nothing is written any more.
    ///
    /// What takes pages out comes before or after this as a whole. Sleeps.
    pub(crate) fn answer_first_write<'a>(
        &self,
        write: FirstWrite<'a>,
        is_over: impl Fn() -> bool,
    ) -> Installed<'a> {
        while self.changing().is_closed() && !is_over() && !sched::is_being_killed() {
            file_size::wait_a_moment();
        }
        let Ok(guard) = self.lock_shared_against_invalidation(Wait::Allowed) else {
            return write.refuse();
        };
        // Who is being killed does not come again: what is being written may need locks that they hold.
        if is_over() || sched::is_being_killed() || !self.store().takes_writes() {
            return write.refuse();
        }
        if !self.changing().may_dirty(write.index()) {
            drop(guard);
            file_size::wait_a_moment();
            return write.come_again();
        }
        match write.try_mark_dirty() {
            Ok(answer) => answer,
            Err(write) => {
                drop(guard);
                write.wait()
            }
        }
    }

    /// Copies bytes before `end` out and moves the position on, reading ahead as a program reads on.
    ///
    /// Fails with `EINVAL` where the file's pages are others, with what reading from the store fails with, with
    /// `EFAULT`, `EAGAIN` (`RWF_NOWAIT`) and `EINTR`. Mirrors `filemap_read()`. Sleeps.
    pub(crate) fn read<T: ForeignOwnable>(
        &self,
        kiocb: &mut Kiocb<'_, T>,
        destination: &mut IovIterDest<'_>,
        end: u64,
    ) -> Result<usize> {
        // SAFETY: A kiocb and its file are valid for the lifetime of the reference to it.
        if unsafe { (*(*kiocb.as_raw()).ki_filp).f_mapping } != self.as_raw() {
            return Err(EINVAL);
        }
        self.wait_while_closed(may_wait(kiocb))?;
        let left = end.saturating_sub(u64::try_from(kiocb.ki_pos())?);
        // SAFETY: The kiocb and the iterator are valid by their types, and the file maps this page cache.
        let read = unsafe {
            iov::with_limit(destination.as_raw(), left, |iter| {
                bindings::filemap_read(kiocb.as_raw(), iter, 0)
            })
        };
        iov::moved(read)
    }

    /// # Safety
    ///
    /// `mapping` must be the address space of a [`FileCache`].
    unsafe fn source_of(mapping: *mut bindings::address_space) -> Arc<Source> {
        // SAFETY: By the invariants of the type, `i_private` is the pointer of an `Arc` that is alive.
        unsafe {
            let source: *const Source = (*(*mapping).host).i_private.cast();
            ArcBorrow::from_raw(source).into()
        }
    }

    /// # Safety
    ///
    /// `folio` must be locked and in the address space of a [`FileCache`]; the lock is given up.
    unsafe extern "C" fn read_folio(
        _file: *mut bindings::file,
        folio: *mut bindings::folio,
    ) -> c_int {
        // SAFETY: By the requirements of this function: what is locked keeps its mapping.
        let source = unsafe { Self::source_of((*folio).__bindgen_anon_1.__bindgen_anon_1.mapping) };
        // SAFETY: By the requirements of this function.
        source.arrivals.note(unsafe { Folio::borrow(folio) });
        let mut transfer = Transfer::new(&source.store, Direction::Read);
        // SAFETY: By the requirements of this function.
        match unsafe { transfer.add_whole(folio) } {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `control` must be that of a read-ahead in the address space of a [`FileCache`].
    unsafe extern "C" fn readahead(control: *mut bindings::readahead_control) {
        // SAFETY: By the requirements of this function.
        let source = unsafe { Self::source_of((*control).mapping) };
        let mut transfer = Transfer::new(&source.store, Direction::Read);
        loop {
            // SAFETY: By the requirements of this function.
            let folio = unsafe { helpers::abstractions_helper_readahead_folio(control) };
            if folio.is_null() {
                return;
            }
            // SAFETY: The folio is locked.
            source.arrivals.note(unsafe { Folio::borrow(folio) });
            // Where there is no memory for that, whoever wants the page reads it.
            // SAFETY: The folio's lock was given to this function, and keeps it in the page cache.
            let _ = unsafe { transfer.add_whole(folio) };
        }
    }

    /// # Safety
    ///
    /// `mapping` must be the address space of a [`FileCache`], `control` valid.
    unsafe extern "C" fn writepages(
        mapping: *mut bindings::address_space,
        control: *mut bindings::writeback_control,
    ) -> c_int {
        // SAFETY: By the requirements of this function.
        let source = unsafe { Self::source_of(mapping) };
        let store = &source.store;
        let mut writing = None;
        let _scope = WriteBackScope::enter();
        let mut transfer = Transfer::new(store, Direction::Write);
        let mut folio = core::ptr::null_mut();
        let mut error = 0;
        loop {
            if writing.is_none() || source.changing.is_closed() {
                // What was collected is on its way while others have their turn.
                transfer.begin();
                drop(writing.take());
                source.changing.wait_to_write();
                writing = Some(source.writing.read());
            }
            // SAFETY: By the requirements of this function; the folio is the one that the last call gave.
            folio = unsafe { bindings::writeback_iter(mapping, control, folio, &mut error) };
            if folio.is_null() {
                break;
            }
            // SAFETY: The folio is locked, clean since just now, and in the address space.
            unsafe { Self::write_folio(mapping, store, &mut transfer, folio) };
        }
        error
    }

    /// Has one folio written back, which is unlocked by that.
    ///
    /// # Safety
    ///
    /// `folio` must be one that `writeback_iter()` gave for `mapping`, that of a [`FileCache`] over `store`.
    unsafe fn write_folio(
        mapping: *mut bindings::address_space,
        store: &StoredFile,
        transfer: &mut Transfer<'_>,
        folio: *mut bindings::folio,
    ) {
        // SAFETY: By the requirements of this function.
        unsafe {
            let (position, len) = (Folio::borrow(folio).start(), Folio::borrow(folio).size());
            // A file that is shorter by now does not grow again by what was stored before. (It does by what is on
            // its way when it is cut off.)
            let end = (helpers::abstractions_helper_i_size_read((*mapping).host) as u64)
                .min(store.lasting_size());
            let within = end.saturating_sub(position).min(len as u64) as usize;
            if within < len {
                // What a program has stored behind the end is in no file.
                helpers::abstractions_helper_folio_zero_range(folio, within, len - within);
            }
            bindings::__folio_start_writeback(folio, false);
            bindings::folio_unlock(folio);
            if within == 0 {
                bindings::folio_end_writeback(folio);
            } else {
                // Never fails where it writes.
                let _ = transfer.add(folio, position, within);
            }
        }
    }

    /// # Safety
    ///
    /// Must be called by `generic_perform_write()` on the address space of a [`FileCache`].
    unsafe extern "C" fn write_begin(
        kiocb: *const bindings::kiocb,
        mapping: *mut bindings::address_space,
        pos: bindings::loff_t,
        len: c_uint,
        result: *mut *mut bindings::folio,
        _fsdata: *mut *mut c_void,
    ) -> c_int {
        let index = page_of(pos as u64);
        loop {
            // SAFETY: By the requirements of this function.
            let folio = unsafe {
                helpers::abstractions_helper_write_begin_get_folio(
                    kiocb,
                    mapping,
                    index,
                    len as usize,
                )
            };
            let folio = match from_err_ptr(folio) {
                Ok(folio) => folio,
                Err(error) => return error.to_errno(),
            };
            // SAFETY: The folio is locked and referenced.
            unsafe {
                let found = Folio::borrow(folio);
                let is_whole = pos as u64 == found.start() && len as usize >= found.size();
                if found.is_uptodate() || is_whole {
                    if !found.is_uptodate() {
                        Self::source_of(mapping).arrivals.note(found);
                    }
                    *result = folio;
                    return 0;
                }
                // The rest of it has to be there first. Reading unlocks it; then all is looked at anew.
                let error = Self::read_folio(core::ptr::null_mut(), folio);
                let outcome = if error == 0 {
                    Self::wait_for_folio(folio)
                } else {
                    error
                };
                helpers::abstractions_helper_folio_put(folio);
                if outcome != 0 {
                    return outcome;
                }
            }
        }
    }

    /// Waits until a folio that is being read is there.
    ///
    /// # Safety
    ///
    /// `folio` must be referenced.
    unsafe fn wait_for_folio(folio: *mut bindings::folio) -> c_int {
        // SAFETY: By the requirements of this function.
        unsafe {
            let error = helpers::abstractions_helper_folio_wait_locked_killable(folio);
            if error != 0 {
                return EINTR.to_errno();
            }
            if helpers::abstractions_helper_folio_test_uptodate(folio) {
                0
            } else {
                EIO.to_errno()
            }
        }
    }

    /// # Safety
    ///
    /// `folio` must come from [`Self::write_begin`].
    unsafe extern "C" fn write_end(
        _kiocb: *const bindings::kiocb,
        _mapping: *mut bindings::address_space,
        _pos: bindings::loff_t,
        len: c_uint,
        copied: c_uint,
        folio: *mut bindings::folio,
        _fsdata: *mut c_void,
    ) -> c_int {
        // SAFETY: `write_begin` gave the reference and the lock to the caller, who gives them back.
        unsafe {
            let mut copied = copied;
            if !helpers::abstractions_helper_folio_test_uptodate(folio) {
                if copied < len {
                    // A part of a folio that was not read is worth nothing: the caller tries again.
                    copied = 0;
                } else {
                    helpers::abstractions_helper_folio_mark_uptodate(folio);
                }
            }
            if copied > 0 {
                bindings::folio_mark_dirty(folio);
            }
            bindings::folio_unlock(folio);
            helpers::abstractions_helper_folio_put(folio);
            copied as c_int
        }
    }
}

/// Brings what a `write()` has just written to the file and the disk, where the program wants every write to be so
/// (`O_SYNC`, `O_DSYNC`, `RWF_SYNC`...), and returns what the call answers.
///
/// Mirrors `generic_write_sync()`. Sleeps; the inode lock must not be held.
pub(crate) fn sync_written<T: ForeignOwnable>(
    kiocb: &mut Kiocb<'_, T>,
    written: usize,
) -> Result<usize> {
    // SAFETY: The kiocb is valid by its type; its file has `fsync` if it is to be called.
    let result = unsafe {
        helpers::abstractions_helper_generic_write_sync(kiocb.as_raw(), written as isize)
    };
    iov::moved(result)
}

/// How far [`FileCache::write_back`] goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The file has it.
    Written,
    /// And what of the file's metadata is needed to read it again is stored, as `fdatasync()` asks.
    Data,
    /// And all of the file's metadata, as `fsync()` asks.
    Full,
}

impl Deref for FileCache {
    type Target = AddressSpace;

    fn deref(&self) -> &AddressSpace {
        // SAFETY: By the type invariant the inode is valid for as long as this value is.
        unsafe { AddressSpace::from_raw((*self.inode.as_ptr()).i_mapping) }
    }
}

impl Drop for FileCache {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this is a reference. Whoever has the last one evicts the inode, and with it every
        // folio, after waiting for those that are being read or written back; which is before `mount` is gone.
        unsafe { bindings::iput(self.inode.as_ptr()) };
    }
}
