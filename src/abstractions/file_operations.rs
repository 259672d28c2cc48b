// SPDX-License-Identifier: GPL-2.0

//! File operations, all that a file with pages behind it needs.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h), `struct file_operations`. Reference:
//! <https://docs.kernel.org/filesystems/vfs.html>
//!
//! The `kernel` crate's `MiscDevice` has open, release, mmap, read, write and ioctl. This adds the
//! address space that the file maps, `mmap_prepare`, seeking, syncing, splicing and the choice of
//! addresses for huge pages.

use super::page_cache::AddressSpace;
use super::vm_area_desc::VmAreaDesc;
use super::{helpers, iov, misc_device};
use core::marker::PhantomData;
use kernel::bindings;
use kernel::error::{to_result, VTABLE_DEFAULT_ERROR};
use kernel::fs::{File, Kiocb, LocalFile};
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::module::{this_module, ModuleMetadata};
use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::sync::poll::PollTable;
use kernel::sync::Arc;
use kernel::types::ForeignOwnable;

/// The operations of an open file, mirroring `struct file_operations`.
///
/// The implementing type is what an open file belongs to: [`Self::open`] gives a counted reference to
/// it, which the file keeps until its last descriptor and its last mapping are gone.
#[vtable]
pub(crate) trait FileOperations: Sized + Send + Sync + 'static {
    /// The module that has the code: it is not unloaded while a file is open or mapped.
    type Module: ModuleMetadata;

    /// Whether files may be mapped by huge pages. Then the kernel chooses addresses, where it can, at which
    /// huge pages of the file are huge pages of the mapping, see `thp_get_unmapped_area()`.
    const MAPS_HUGE_PAGES: bool;

    /// What the device was registered with.
    type Registration: Send + Sync + 'static;

    /// Opens the device.
    ///
    /// As for a regular file, threads that share a descriptor get its position one after the other.
    /// `RWF_NOWAIT` and `O_DIRECT` are allowed; the latter means nothing where pages are all there is. What is written and
    /// stored leaves the times of the node alone: it is on a file system of somebody else's, which may be frozen.
    ///
    /// Context: process; may sleep; runs under the lock of all misc devices, so it must not register
    /// or deregister one.
    fn open(registration: &Self::Registration, file: &File) -> Result<Arc<Self>>;

    /// Returns the pages that the file reads, writes and maps; `None` for a file that only takes requests.
    ///
    /// All files for which it is the same one share their pages: a device's pages do not depend on the
    /// node in `/dev` that it was opened by.
    fn address_space(&self) -> Option<&AddressSpace>;

    /// Sets up a mapping of the file.
    ///
    /// Context: process, with the mmap lock held for writing.
    fn mmap_prepare(&self, _desc: VmAreaDesc<'_, Self>) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Reads into user memory and moves the position on.
    ///
    /// Context: process; may sleep. Must honour `RWF_NOWAIT`, see [`super::page_cache::may_wait`].
    fn read_iter(_kiocb: Kiocb<'_, Arc<Self>>, _iov: &mut IovIterDest<'_>) -> Result<usize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Writes from user memory and moves the position on.
    ///
    /// Context: as in [`Self::read_iter`].
    fn write_iter(_kiocb: Kiocb<'_, Arc<Self>>, _iov: &mut IovIterSource<'_>) -> Result<usize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Moves the position of the file, and returns where it is then.
    ///
    /// Context: process; may sleep.
    fn llseek(&self, _seek: &Seek<'_>) -> Result<i64> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Brings what was written to where it is safe; also `msync(MS_SYNC)`.
    ///
    /// An error that the kernel has noted for the address space, such as memory that went bad, is reported
    /// besides, once to each open file.
    ///
    /// Context: process; may sleep.
    fn fsync(&self, _range: SyncRange) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Hears what a program says of how it will use a part of the file (`posix_fadvise()`, and `madvise()` where that is
    /// for files), and passes it on by [`Advice::take`]. A file without this has it taken.
    ///
    /// Context: process; may sleep.
    fn fadvise(&self, _advice: &Advice<'_>) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Moves bytes from the file into a pipe.
    ///
    /// Context: process, with the pipe locked; may sleep.
    fn splice_read(&self, _splice: &mut SpliceRead<'_>) -> Result<usize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Returns what a file is ready for, and has the caller of `poll()` woken when that may have changed.
    ///
    /// For the latter, first [`PollTable::register_wait`], then look. A file without this is always ready to
    /// be read and written.
    ///
    /// Context: process; may sleep.
    fn poll(&self, _file: &File, _table: &PollTable<'_>) -> Readiness {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Prints what there is to say of an open file, for `/proc/PID/fdinfo`: lines of a key, a colon, a tab and a
    /// value, each key beginning with the driver's name.
    ///
    /// Context: process; may sleep.
    fn show_fdinfo(&self, _output: &SeqFile) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Handles a request of the driver's own.
    ///
    /// Called for 32-bit programs as well: structures must have one layout for both, and `argument` is
    /// already widened as a pointer.
    ///
    /// Context: process; may sleep.
    fn ioctl(&self, _file: &File, _command: u32, _argument: usize) -> Result<isize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// What `fsync()` and its relatives ask for.
#[derive(Clone, Copy)]
pub(crate) struct SyncRange {
    /// The first byte.
    pub(crate) start: u64,
    /// The last byte.
    pub(crate) last: u64,
    /// Whether metadata that is not needed to read the data again may be left out, as `fdatasync()` allows.
    pub(crate) data_only: bool,
}

/// What a program says of how it will use a part of a file.
///
/// # Invariants
///
/// The fields are those that `fadvise` was called with.
pub(crate) struct Advice<'a> {
    file: &'a File,
    start: bindings::loff_t,
    len: bindings::loff_t,
    advice: c_int,
}

impl Advice<'_> {
    /// Does what the kernel does about it for any file, such as to read ahead. Mirrors `generic_fadvise()`. May sleep.
    ///
    /// Fails with `EINVAL` where there is no such advice.
    pub(crate) fn take(&self) -> Result {
        // SAFETY: The file is valid by its type.
        to_result(unsafe {
            bindings::generic_fadvise(self.file.as_ptr(), self.start, self.len, self.advice)
        })
    }
}

/// Returns what [`FileOperations::open`] gave for a file.
///
/// # Safety
///
/// `file` must have been opened with the operations `F` and must not be released during `'a`.
pub(super) unsafe fn data<'a, F: FileOperations>(file: *mut bindings::file) -> &'a F {
    // SAFETY: `open` has put an `Arc<F>` there, and `release` takes it out again.
    let borrowed = unsafe { <Arc<F> as ForeignOwnable>::borrow((*file).private_data) };
    let data: *const F = &*borrowed;
    // SAFETY: The `Arc` in the file keeps the value alive until the file is released.
    unsafe { &*data }
}

/// What a file is ready for, mirroring `EPOLLIN` and so on.
#[derive(Clone, Copy)]
pub(crate) struct Readiness(u32);

impl Readiness {
    /// Reading and writing will not wait.
    pub(crate) const READ_WRITE: Self =
        Self(bindings::POLLIN | bindings::POLLRDNORM | bindings::POLLOUT | bindings::POLLWRNORM);
    /// Something out of the ordinary has happened, which the driver's documentation names.
    pub(crate) const PRIORITY: Self = Self(bindings::POLLPRI);
    /// What the file stands for is gone.
    pub(crate) const GONE: Self = Self(bindings::POLLERR | bindings::POLLHUP);
}

impl core::ops::BitOr for Readiness {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Returns whether a file was opened for writing.
///
/// Mirrors the test of `FMODE_WRITE` in the VFS.
pub(crate) fn is_open_for_writing(file: &File) -> bool {
    let access = file.flags() & kernel::fs::file::flags::O_ACCMODE;
    access == kernel::fs::file::flags::O_WRONLY || access == kernel::fs::file::flags::O_RDWR
}

/// Returns whether a file was opened so that each write is to be safe when it returns (`O_DSYNC`, and with it `O_SYNC`).
pub(crate) fn is_open_for_sync(file: &File) -> bool {
    file.flags() & kernel::fs::file::flags::O_DSYNC != 0
}

/// A request to move the position of a file.
pub(crate) struct Seek<'a> {
    file: &'a LocalFile,
    offset: bindings::loff_t,
    whence: c_int,
}

/// How the offset of a [`Seek`] is meant.
pub(crate) enum Whence {
    /// From the start, the current position or the end: what needs no knowledge of the content.
    Plain,
    /// The first data at or after the offset, which may be negative and then is an error.
    Data(i64),
    /// The first hole at or after the offset, which may be negative and then is an error.
    Hole(i64),
}

impl Seek<'_> {
    /// Returns how the offset is meant.
    pub(crate) fn whence(&self) -> Whence {
        match self.whence as u32 {
            bindings::SEEK_DATA => Whence::Data(self.offset),
            bindings::SEEK_HOLE => Whence::Hole(self.offset),
            _ => Whence::Plain,
        }
    }

    /// Moves the position by the plain rules, with the file's end at `end`. Positions beyond the end
    /// are allowed.
    ///
    /// Mirrors `generic_file_llseek_size()`. `EINVAL` for an unknown whence or a negative result.
    pub(crate) fn move_plainly(&self, end: u64) -> Result<i64> {
        let end = i64::try_from(end).map_err(|_| EOVERFLOW)?;
        // SAFETY: The file is valid by its type.
        let position = unsafe {
            bindings::generic_file_llseek_size(
                self.file.as_ptr(),
                self.offset,
                self.whence,
                i64::MAX,
                end,
            )
        };
        if position < 0 {
            Err(Error::from_errno(position as c_int))
        } else {
            Ok(position)
        }
    }

    /// Moves the position to a place between 0 and `end`.
    ///
    /// Mirrors `vfs_setpos()`.
    pub(crate) fn move_to(&self, position: i64, end: u64) -> Result<i64> {
        let end = i64::try_from(end).map_err(|_| EOVERFLOW)?;
        // SAFETY: The file is valid by its type.
        let position = unsafe { bindings::vfs_setpos(self.file.as_ptr(), position, end) };
        if position < 0 {
            Err(Error::from_errno(position as c_int))
        } else {
            Ok(position)
        }
    }
}

/// A request to move bytes from a file into a pipe.
///
/// # Invariants
///
/// The fields are those that `splice_read` was called with, and the caller has locked the pipe. The file
/// has `read_iter`, and its `f_mapping` is an [`AddressSpace`].
pub(crate) struct SpliceRead<'a> {
    file: &'a File,
    position: &'a mut bindings::loff_t,
    pipe: *mut bindings::pipe_inode_info,
    len: usize,
    flags: c_uint,
}

impl SpliceRead<'_> {
    /// Returns where in the file the bytes start.
    pub(crate) fn position(&self) -> i64 {
        *self.position
    }

    /// Returns how many bytes are wanted at most.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Gives the pipe references to pages of the page cache, without a copy; at most `limit` bytes.
    ///
    /// Moves the position on. Mirrors `filemap_splice_read()`, which adds a page where none is.
    pub(crate) fn lend_pages(&mut self, limit: usize) -> Result<usize> {
        // SAFETY: By the type invariants; each `AddressSpace` has `read_folio`.
        iov::moved(unsafe {
            bindings::filemap_splice_read(
                self.file.as_ptr(),
                self.position,
                self.pipe,
                self.len.min(limit),
                self.flags,
            )
        })
    }

    /// Gives the pipe pages of its own, filled by [`FileOperations::read_iter`]; at most `limit` bytes.
    ///
    /// Moves the position on. Mirrors `copy_splice_read()`.
    pub(crate) fn copy(&mut self, limit: usize) -> Result<usize> {
        // SAFETY: By the type invariants.
        iov::moved(unsafe {
            bindings::copy_splice_read(
                self.file.as_ptr(),
                self.position,
                self.pipe,
                self.len.min(limit),
                self.flags,
            )
        })
    }
}

/// The C table of operations for `F`.
pub(super) struct FileOperationsTable<F>(PhantomData<F>);

impl<F: FileOperations> FileOperationsTable<F> {
    const TABLE: bindings::file_operations = bindings::file_operations {
        owner: this_module::<F::Module>().as_ptr(),
        open: Some(Self::open),
        release: Some(Self::release),
        mmap_prepare: if F::HAS_MMAP_PREPARE {
            Some(Self::mmap_prepare)
        } else {
            None
        },
        // This very function, with nothing around it: by it mremap() knows that it may move several
        // mappings at once.
        get_unmapped_area: if F::MAPS_HUGE_PAGES {
            Some(bindings::thp_get_unmapped_area)
        } else {
            None
        },
        read_iter: if F::HAS_READ_ITER {
            Some(Self::read_iter)
        } else {
            None
        },
        write_iter: if F::HAS_WRITE_ITER {
            Some(Self::write_iter)
        } else {
            None
        },
        llseek: if F::HAS_LLSEEK {
            Some(Self::llseek)
        } else {
            None
        },
        fsync: if F::HAS_FSYNC {
            Some(Self::fsync)
        } else {
            None
        },
        fadvise: if F::HAS_FADVISE {
            Some(Self::fadvise)
        } else {
            None
        },
        // The kernel's splicing calls `read_iter`, and asks nobody whether it is there.
        splice_read: if F::HAS_SPLICE_READ && F::HAS_READ_ITER {
            Some(Self::splice_read)
        } else {
            None
        },
        splice_write: if F::HAS_WRITE_ITER {
            Some(bindings::iter_file_splice_write)
        } else {
            None
        },
        show_fdinfo: if F::HAS_SHOW_FDINFO {
            Some(Self::show_fdinfo)
        } else {
            None
        },
        poll: if F::HAS_POLL { Some(Self::poll) } else { None },
        unlocked_ioctl: if F::HAS_IOCTL {
            Some(Self::ioctl)
        } else {
            None
        },
        #[cfg(CONFIG_COMPAT)]
        compat_ioctl: if F::HAS_IOCTL {
            bindings::compat_ptr_ioctl
        } else {
            None
        },
        ..pin_init::zeroed()
    };

    /// Returns the table, which is there as long as the module is.
    pub(super) const fn table() -> &'static bindings::file_operations {
        &Self::TABLE
    }

    /// # Safety
    ///
    /// `file` must be one that is being opened, of a [`misc_device::Registration<F>`].
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // A node is removed before its number is another device's. Who was found to have access to the one may not be meant to
        // have it to the other.
        // SAFETY: The inode is that of the file, and so valid.
        if unsafe { (*inode).__bindgen_anon_1.i_nlink } == 0 {
            return ENODEV.to_errno();
        }
        // SAFETY: `misc_open()` has put the device into the private data, and keeps it registered for
        // the duration of this call.
        let registration = unsafe { misc_device::registration_data::<F>((*file).private_data) };
        // SAFETY: The file is valid for the duration of the call, and nobody uses its position yet.
        let opened = F::open(registration, unsafe { File::from_raw_file(file) });
        let data = match opened {
            Ok(data) => data,
            Err(error) => return error.to_errno(),
        };
        let mapping = data.address_space().map(AddressSpace::as_raw);
        // SAFETY: The file is being opened, so that its fields are this function's to set. The address
        // space is borrowed from the data, which the file keeps until it is released, and nothing uses
        // `f_mapping` after that.
        unsafe {
            (*file).private_data = data.into_foreign();
            let Some(mapping) = mapping else {
                return 0;
            };
            helpers::abstractions_helper_file_set_mapping(file, mapping);
            // What the trait promises of every file, see `FileOperations::open`. And "no reuse" where pages are never
            // reclaimed, by which unmapping does not spend time on how recently they were used.
            helpers::abstractions_helper_file_set_modes(file);
        }
        0
    }

    /// # Safety
    ///
    /// `file` must have been opened by [`Self::open`] and is being released.
    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: `open` has put the reference there, and there are no other users any more.
        drop(unsafe { <Arc<F> as ForeignOwnable>::from_foreign((*file).private_data) });
        0
    }

    /// # Safety
    ///
    /// `desc` must be the argument of `mmap_prepare` for a file opened by [`Self::open`].
    unsafe extern "C" fn mmap_prepare(desc: *mut bindings::vm_area_desc) -> c_int {
        // SAFETY: By the requirements of this function.
        let (data, desc) = unsafe { (data::<F>((*desc).file), VmAreaDesc::from_raw(desc)) };
        // What answers faults relies on the address space.
        if data.address_space().is_none() {
            return ENODEV.to_errno();
        }
        match desc.and_then(|desc| data.mmap_prepare(desc)) {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `kiocb` must be of a file opened by [`Self::open`], `iter` a valid destination.
    unsafe extern "C" fn read_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: By the requirements of this function.
        let (kiocb, iter) = unsafe { (Kiocb::from_raw(kiocb), IovIterDest::from_raw(iter)) };
        match F::read_iter(kiocb, iter) {
            Ok(bytes) => bytes as isize,
            Err(error) => error.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// `kiocb` must be of a file opened by [`Self::open`], `iter` a valid source.
    unsafe extern "C" fn write_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: By the requirements of this function.
        let (kiocb, iter) = unsafe { (Kiocb::from_raw(kiocb), IovIterSource::from_raw(iter)) };
        match F::write_iter(kiocb, iter) {
            Ok(bytes) => bytes as isize,
            Err(error) => error.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// `file` must have been opened by [`Self::open`].
    unsafe extern "C" fn llseek(
        file: *mut bindings::file,
        offset: bindings::loff_t,
        whence: c_int,
    ) -> bindings::loff_t {
        // SAFETY: By the requirements of this function. If the position is not locked, it is this thread's own
        // call that uses it.
        let (data, file) = unsafe { (data::<F>(file), LocalFile::from_raw_file(file)) };
        let seek = Seek {
            file,
            offset,
            whence,
        };
        match data.llseek(&seek) {
            Ok(position) => position,
            Err(error) => error.to_errno().into(),
        }
    }

    /// # Safety
    ///
    /// `file` must have been opened by [`Self::open`].
    unsafe extern "C" fn fadvise(
        file: *mut bindings::file,
        start: bindings::loff_t,
        len: bindings::loff_t,
        advice: c_int,
    ) -> c_int {
        // SAFETY: By the requirements of this function; nobody changes the position by it.
        let (data, file) = unsafe { (data::<F>(file), File::from_raw_file(file)) };
        // INVARIANT: These are the arguments.
        match data.fadvise(&Advice {
            file,
            start,
            len,
            advice,
        }) {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `file` must be open with these operations.
    unsafe extern "C" fn fsync(
        file: *mut bindings::file,
        start: bindings::loff_t,
        end: bindings::loff_t,
        datasync: c_int,
    ) -> c_int {
        // The VFS passes no negative offsets.
        let range = SyncRange {
            start: start as u64,
            last: end as u64,
            data_only: datasync != 0,
        };
        // SAFETY: By the requirements of this function.
        let result = unsafe { data::<F>(file) }.fsync(range);
        // What is noted is told once: not to who is told something else.
        // SAFETY: The file is valid, and its `f_mapping` is the one that `open` has set.
        let noted = || to_result(unsafe { bindings::file_check_and_advance_wb_err(file) });
        match result.and_then(|()| noted()) {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// The arguments must be those of `splice_read` for a file opened by [`Self::open`].
    unsafe extern "C" fn splice_read(
        file: *mut bindings::file,
        position: *mut bindings::loff_t,
        pipe: *mut bindings::pipe_inode_info,
        len: usize,
        flags: c_uint,
    ) -> isize {
        // SAFETY: By the requirements of this function; the position belongs to the caller, who waits.
        let (data, file, position) =
            unsafe { (data::<F>(file), File::from_raw_file(file), &mut *position) };
        if data.address_space().is_none() {
            return EINVAL.to_errno() as isize;
        }
        // INVARIANT: These are the arguments, and `open` has set `f_mapping`.
        let mut splice = SpliceRead {
            file,
            position,
            pipe,
            len,
            flags,
        };
        match data.splice_read(&mut splice) {
            Ok(bytes) => bytes as isize,
            Err(error) => error.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// `file` must have been opened by [`Self::open`], and `output` be valid and the caller's alone.
    unsafe extern "C" fn show_fdinfo(output: *mut bindings::seq_file, file: *mut bindings::file) {
        // SAFETY: By the requirements of this function.
        let (data, output) = unsafe { (data::<F>(file), SeqFile::from_raw(output)) };
        data.show_fdinfo(output);
    }

    /// # Safety
    ///
    /// `file` must have been opened by [`Self::open`], and `table` be null or valid.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) -> bindings::__poll_t {
        // SAFETY: By the requirements of this function; nobody uses the file's position here.
        let (data, file) = unsafe { (data::<F>(file), File::from_raw_file(file)) };
        // SAFETY: By the requirements of this function.
        let table = unsafe { PollTable::from_raw(table) };
        data.poll(file, &table).0
    }

    /// # Safety
    ///
    /// `file` must have been opened by [`Self::open`].
    unsafe extern "C" fn ioctl(
        file: *mut bindings::file,
        command: c_uint,
        argument: c_ulong,
    ) -> c_long {
        // SAFETY: By the requirements of this function; nobody uses the file's position here.
        let (data, file) = unsafe { (data::<F>(file), File::from_raw_file(file)) };
        match data.ioctl(file, command, argument) {
            Ok(value) => value as c_long,
            Err(error) => error.to_errno() as c_long,
        }
    }
}

/// What the KUnit suites take for a file.
#[cfg(CONFIG_KUNIT = "y")]
pub(super) mod closed {
    use super::*;

    /// A file that nobody can open.
    pub(in super::super) struct Closed;

    #[vtable]
    impl FileOperations for Closed {
        type Module = crate::LocalModule;
        const MAPS_HUGE_PAGES: bool = false;
        type Registration = Arc<u32>;

        fn open(_registration: &Arc<u32>, _file: &File) -> Result<Arc<Self>> {
            Err(ENODEV)
        }

        fn address_space(&self) -> Option<&AddressSpace> {
            None
        }
    }
}
