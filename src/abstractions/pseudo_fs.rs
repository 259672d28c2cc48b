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
use kernel::prelude::*;
use kernel::types::Opaque;

/// A type of pseudo file system, mirroring `struct file_system_type`.
///
/// It is made for a `static`: lockdep wants the lock classes inside it in static memory, and super
/// blocks point at it for as long as they live.
///
/// It has no owner on purpose. A super block holds a reference to the module that owns its type, so a
/// module that owns the type and keeps it mounted could never be unloaded. [`PseudoMount`] makes up
/// for that: it unmounts when it is dropped, which is before the module's memory goes.
// `repr(C)` and the field order let `init_fs_context` find the whole from the inner type.
#[repr(C)]
pub(crate) struct PseudoFsType {
    inner: Opaque<bindings::file_system_type>,
    magic: c_ulong,
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
        }
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
        // SAFETY: The caller provides a context that is being initialised.
        unsafe { helpers::abstractions_helper_init_pseudo(fc, this.magic) }
    }
}

/// A kernel-internal mount of a [`PseudoFsType`]; dropping it unmounts.
///
/// An inode that is made on it does not keep it: whoever owns one keeps the mount, too, as
/// [`super::page_cache::PageCache`] does.
///
/// # Invariants
///
/// `mount` is a mount obtained from `kern_mount()` that has not been unmounted.
pub(crate) struct PseudoMount {
    mount: NonNull<bindings::vfsmount>,
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
        // SAFETY: The type is static and was filled in by `PseudoFsType::new`.
        let mount = from_err_ptr(unsafe { bindings::kern_mount(fs_type.inner.get()) })?;
        // INVARIANT: `kern_mount()` has just given the mount.
        Ok(Self {
            mount: NonNull::new(mount).ok_or(ENOMEM)?,
        })
    }

    /// Mounts the file system with a bdi of its own (`struct backing_dev_info`): the kernel's flusher writes back
    /// dirty pages of its inodes, and throttles who makes more of them than it can write.
    ///
    /// Mirrors `kern_mount()` and `super_setup_bdi()`. May sleep. Fails with `ENOMEM`.
    pub(crate) fn with_write_back(fs_type: &'static PseudoFsType) -> Result<Self> {
        let mount = Self::new(fs_type)?;
        // SAFETY: By the type invariant the mount is valid, and so is its super block, which has no inodes yet
        // but that of its root.
        to_result(unsafe { bindings::super_setup_bdi(mount.mount.as_ref().mnt_sb) })?;
        Ok(mount)
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
        // SAFETY: By the type invariant this is a mount from `kern_mount()`, and it is not used again.
        unsafe { bindings::kern_unmount(self.mount.as_ptr()) };
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
