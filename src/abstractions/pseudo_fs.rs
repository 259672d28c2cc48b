// SPDX-License-Identifier: GPL-2.0

//! Pseudo file systems: a kernel-internal mount whose inodes have no path.
//!
//! A driver that keeps pages in a page cache needs an inode to hang them on, and an inode needs a
//! super block. `dax`, `drm`, `secretmem` and pipes each have such a file system of their own.
//!
//! C headers: [`include/linux/pseudo_fs.h`](srctree/include/linux/pseudo_fs.h),
//! [`include/linux/mount.h`](srctree/include/linux/mount.h)

use super::helpers;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::{from_err_ptr, to_result};
use kernel::fs::File;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{Atomic, Full, Relaxed};
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::types::Opaque;

/// A type of pseudo file system, mirroring `struct file_system_type`.
///
/// It is made for a `static`: lockdep wants the lock classes inside it in static memory, and super
/// blocks point at it for as long as they live.
///
/// It has no owner on purpose. A super block holds a reference to the module that owns its type, so a
/// module that owns the type and keeps it mounted could never be unloaded. [`PseudoMount`] makes up
/// for that: when the last one is dropped, which is before the module's memory goes, it waits until no super block knows
/// the type.
// `repr(C)` and the field order let `init_fs_context` find the whole from the inner type.
#[repr(C)]
pub(crate) struct PseudoFsType {
    inner: Opaque<bindings::file_system_type>,
    magic: c_ulong,
    mounts: Atomic<usize>,
}

// SAFETY: The C side guards the mutable parts of `struct file_system_type` (its list of super blocks)
// with its own locks, and `magic` never changes.
unsafe impl Sync for PseudoFsType {}
// SAFETY: Nothing in it belongs to a thread.
unsafe impl Send for PseudoFsType {}

impl PseudoFsType {
    /// Makes a file system type with the name and the magic number that `statfs()` gives for its files.
    ///
    /// (Files of a device that only borrow an inode's pages from here keep the name and the file system of
    /// their node in `/dev`.)
    pub(crate) const fn new(name: &'static CStr, magic: u32) -> Self {
        let mut inner: bindings::file_system_type = pin_init::zeroed();
        inner.name = kernel::str::as_char_ptr_in_const_context(name);
        inner.init_fs_context = Some(Self::init_fs_context);
        inner.kill_sb = Some(bindings::kill_anon_super);
        Self {
            inner: Opaque::new(inner),
            magic: magic as c_ulong,
            mounts: Atomic::new(0),
        }
    }

    /// Counts a mount less, which is no more. With the last one it waits until nothing in the kernel points at the type.
    ///
    /// Who goes through all super blocks, as `sync()` does, has a hold on the one that it has been at last for as long as it
    /// is at the next, also after that was unmounted: until then it is in the type's list (`put_super()`). It may be at a
    /// disk. Sleeps.
    fn unmounted(&self) {
        if self.mounts.fetch_sub(1, Full) > 1 {
            return;
        }
        // SAFETY: The pointer is valid. C code reads this word, too, without a lock.
        let first = || unsafe { (&raw const (*self.inner.get()).fs_supers.first).read_volatile() };
        while !first().is_null() && self.mounts.load(Relaxed) == 0 {
            fsleep(Delta::from_millis(1));
        }
        // Who took the last one out of the list looks at the type once more then, and does not sleep before it has.
        // SAFETY: Has no requirements but that this may sleep.
        unsafe { helpers::abstractions_helper_synchronize_kernel_code() };
    }

    /// # Safety
    ///
    /// `fc` must be a file system context whose type is the first field of a [`PseudoFsType`].
    unsafe extern "C" fn init_fs_context(fc: *mut bindings::fs_context) -> c_int {
        // SAFETY: The caller provides a valid context.
        let fs_type = unsafe { helpers::abstractions_helper_fs_context_type(fc) };
        // SAFETY: By the requirements of this function the type is the first field of a
        // `PseudoFsType`, which is static.
        let this = unsafe { &*fs_type.cast::<PseudoFsType>() };
        // SAFETY: The caller provides a context that is being initialised, and the table is static.
        unsafe { helpers::abstractions_helper_init_pseudo(fc, this.magic, Self::SUPER_OPERATIONS) }
    }

    const SUPER_OPERATIONS: &'static bindings::super_operations = &bindings::super_operations {
        statfs: Some(bindings::simple_statfs),
        sync_fs: Some(Self::sync_fs),
        ..pin_init::zeroed()
    };

    /// Writes back what was written to the page cache of the file that its pages are stored in: `sync()` has written them
    /// there by now, and may have been at the dirty pages of that file's own file system before. Mirrors `sync_fs`.
    ///
    /// It calls this twice for all file systems, and the second time has that of the file make sure of all that it knows
    /// by then. No error is told here that somebody else is to hear of.
    ///
    /// # Safety
    ///
    /// `block` must be that of a [`PseudoMount`], and its `s_umount` be held.
    unsafe extern "C" fn sync_fs(block: *mut bindings::super_block, _wait: c_int) -> c_int {
        // SAFETY: The super block is valid. What it has here is null or, by the invariant of `PseudoMount`, a file that stays
        // until nobody holds `s_umount` any more, and with it its address space.
        unsafe {
            let file: *mut bindings::file = (&raw const (*block).s_fs_info).read_volatile().cast();
            // Of a file system that promises nothing (FUSE) nobody waits in `sync()` for anything.
            if file.is_null() || helpers::abstractions_helper_file_has_no_integrity(file) {
                return 0;
            }
            let (mapping, end) = ((*file).f_mapping, bindings::loff_t::MAX);
            let written = bindings::filemap_fdatawrite_range(mapping, 0, end);
            match bindings::filemap_fdatawait_range_keep_errors(mapping, 0, end) {
                0 => written,
                error => error,
            }
        }
    }
}

/// A kernel-internal mount of a [`PseudoFsType`]; dropping it unmounts.
///
/// An inode that is made on it does not keep it: whoever owns one keeps the mount, too, as
/// [`super::page_cache::PageCache`] does.
///
/// # Invariants
///
/// - `mount` is a mount of `fs_type` obtained from `kern_mount()` that has not been unmounted, and counted there.
/// - The `s_fs_info` of its super block is null, or `stored`.
pub(crate) struct PseudoMount {
    mount: NonNull<bindings::vfsmount>,
    fs_type: &'static PseudoFsType,
    // Dropped after it is unmounted.
    stored: Option<ARef<File>>,
}

// SAFETY: A mount may be used and unmounted from any thread.
unsafe impl Send for PseudoMount {}
// SAFETY: The methods by shared reference only read the mount's super block, which never changes.
unsafe impl Sync for PseudoMount {}

impl PseudoMount {
    /// Mounts the file system.
    ///
    /// Mirrors `kern_mount()`. May sleep. Fails with `ENOMEM`.
    pub(crate) fn new(fs_type: &'static PseudoFsType) -> Result<Self> {
        fs_type.mounts.fetch_add(1, Relaxed);
        // SAFETY: The type is static and was filled in by `PseudoFsType::new`.
        let mount = from_err_ptr(unsafe { bindings::kern_mount(fs_type.inner.get()) });
        // It may have had a super block before it failed.
        let mount = mount.inspect_err(|_| fs_type.unmounted())?;
        // INVARIANT: `kern_mount()` has just given the mount, which is none and an error where it is not one.
        Ok(Self {
            mount: NonNull::new(mount).ok_or(ENOMEM)?,
            fs_type,
            stored: None,
        })
    }

    /// Mounts the file system with a bdi of its own (`struct backing_dev_info`): the kernel's flusher writes back
    /// dirty pages of its inodes, and throttles who makes more of them than it can write. That is to `stored`, see
    /// [`Self::begin_to_sync`].
    ///
    /// Mirrors `kern_mount()` and `super_setup_bdi()`. May sleep. Fails with `ENOMEM`.
    pub(super) fn with_write_back(
        fs_type: &'static PseudoFsType,
        stored: ARef<File>,
    ) -> Result<Self> {
        let mut mount = Self::new(fs_type)?;
        // SAFETY: By the type invariant the mount is valid, and so is its super block, which has no inodes yet
        // but that of its root.
        to_result(unsafe { bindings::super_setup_bdi(mount.mount.as_ref().mnt_sb) })?;
        let file = stored.as_ptr();
        // SAFETY: As above, and the file is valid. Nothing is dirty yet that this would be about.
        unsafe {
            if helpers::abstractions_helper_file_has_no_integrity(file) {
                // Nor then for what is on its way there.
                (*mount.mount.as_ref().mnt_sb).s_iflags |=
                    bindings::SB_I_NO_DATA_INTEGRITY as c_ulong;
            }
        }
        mount.stored = Some(stored);
        Ok(mount)
    }

    /// From now on `sync()` syncs the file that is written back to after what is written back, and dropping this waits
    /// for a `sync()` that is at it, and so maybe for a disk.
    pub(super) fn begin_to_sync(&self) {
        if let Some(stored) = &self.stored {
            self.set_fs_info(stored.as_ptr().cast());
        }
    }

    fn set_fs_info(&self, info: *mut c_void) {
        // SAFETY: By the type invariant the mount is valid, and so is its super block. Others only read this word.
        unsafe { (&raw mut (*self.mount.as_ref().mnt_sb).s_fs_info).write_volatile(info) };
    }

    fn has_begun_to_sync(&self) -> bool {
        // SAFETY: As above.
        let info = unsafe { (&raw const (*self.mount.as_ref().mnt_sb).s_fs_info).read_volatile() };
        !info.is_null()
    }

    /// Allocates an inode that the flusher knows, see [`Self::with_write_back`]; the caller owns the only
    /// reference to it, and must drop that before the mount.
    ///
    /// Mirrors `new_inode()`. May sleep. Fails with `ENOMEM`.
    pub(super) fn alloc_hashed_inode(&self) -> Result<NonNull<bindings::inode>> {
        // SAFETY: By the type invariant the mount is valid, and so is its super block.
        let inode = unsafe { bindings::new_inode(self.mount.as_ref().mnt_sb) };
        let inode = NonNull::new(inode).ok_or(ENOMEM)?;
        // SAFETY: The inode is new and nobody else has seen it. Who is not hashed is not written back.
        unsafe {
            let raw = inode.as_ptr();
            (*raw).i_ino = bindings::get_next_ino().into();
            (*raw).i_mode = (bindings::S_IFREG | 0o600) as bindings::umode_t;
            bindings::__insert_inode_hash(raw, (*raw).i_ino);
            // Without a name it goes with its last reference, instead of being kept for the next who looks it up.
            bindings::clear_nlink(raw);
        }
        Ok(inode)
    }

    /// Allocates an inode on this mount; the caller owns the only reference to it, and must drop that
    /// before the mount.
    ///
    /// Mirrors `alloc_anon_inode()`. May sleep. Fails with `ENOMEM`.
    pub(super) fn alloc_inode(&self) -> Result<NonNull<bindings::inode>> {
        // SAFETY: By the type invariant the mount is valid, and so is its super block.
        let inode = unsafe { bindings::alloc_anon_inode(self.mount.as_ref().mnt_sb) };
        let inode = from_err_ptr(inode)?;
        NonNull::new(inode).ok_or(ENOMEM)
    }
}

impl Drop for PseudoMount {
    fn drop(&mut self) {
        if self.has_begun_to_sync() {
            // What is to be synced has been, where that was wanted. Unmounting waits for who is at it only where nobody else
            // keeps the super block active, as a thaw by SysRq does.
            // SAFETY: By the type invariant the mount is valid, and so is its super block; this may sleep.
            let lock = unsafe { &raw mut (*self.mount.as_ref().mnt_sb).s_umount };
            // SAFETY: The lock is valid, and not held by this thread.
            unsafe { bindings::down_write(lock) };
            self.set_fs_info(core::ptr::null_mut());
            // SAFETY: Just locked.
            unsafe { bindings::up_write(lock) };
        }
        // SAFETY: By the type invariant this is a mount from `kern_mount()`, and it is not used again.
        unsafe { bindings::kern_unmount(self.mount.as_ptr()) };
        self.fs_type.unmounted();
    }
}

#[kunit_tests(abstractions_pseudo_fs)]
mod tests {
    use super::*;

    static TYPE: PseudoFsType = PseudoFsType::new(c"kunit_pseudo_fs", 0x6b75_6e69);

    #[test]
    fn a_type_can_be_mounted_again_and_beside_itself() -> Result {
        drop(PseudoMount::new(&TYPE)?);
        let (first, second) = (PseudoMount::new(&TYPE)?, PseudoMount::new(&TYPE)?);
        // SAFETY: Both mounts are valid by their invariants.
        let blocks = unsafe { (first.mount.as_ref().mnt_sb, second.mount.as_ref().mnt_sb) };
        assert!(blocks.0 != blocks.1);
        Ok(())
    }

    #[test]
    fn an_inode_is_on_its_mount() -> Result {
        let mount = PseudoMount::new(&TYPE)?;
        let inode = mount.alloc_inode()?;
        // SAFETY: The mount and the inode are valid.
        let (block, magic) = unsafe { (inode.as_ref().i_sb, (*inode.as_ref().i_sb).s_magic) };
        // SAFETY: As above.
        assert!(block == unsafe { mount.mount.as_ref().mnt_sb });
        assert_eq!(magic, TYPE.magic);
        // SAFETY: This is the only reference, and the inode is not used again.
        unsafe { bindings::iput(inode.as_ptr()) };
        Ok(())
    }
}
