// SPDX-License-Identifier: GPL-2.0

//! Files in debugfs that show something.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h). Reference:
//! <https://docs.kernel.org/filesystems/debugfs.html>
//!
//! The `kernel` crate's files have no owner: a module that made one can be unloaded while somebody has it
//! open, and the close then jumps to where the module was. Here a file that is open keeps the module.
//!
//! As debugfs asks of a driver, nothing fails because of it: where a folder or a file cannot be made, or the
//! kernel is without debugfs, there is none.

use core::marker::PhantomData;
use kernel::bindings;
use kernel::module::{this_module, ModuleMetadata};
use kernel::prelude::*;
use kernel::seq_file::SeqFile;
use kernel::str::CStrExt;
use kernel::sync::Arc;

/// What a file shows.
pub(crate) trait Show: Send + Sync + 'static {
    /// The module that has the code: it is not unloaded while the file is open.
    type Module: ModuleMetadata;

    /// Prints the contents.
    ///
    /// Context: may sleep. A lock that is taken here must not be held while the [`DebugFile`] is dropped, which
    /// waits for this.
    fn show(&self, output: &SeqFile);
}

/// A folder at the top of debugfs; dropping it takes it away.
///
/// # Invariants
///
/// `dentry` is what `debugfs_create_dir()` gave, a folder or an error, and was not removed.
pub(crate) struct DebugFolder {
    dentry: *mut bindings::dentry,
}

/// A file in a [`DebugFolder`], for root alone to read; dropping it takes it away, and waits for who is reading.
/// Where it is open after that, a read is `EIO`.
///
/// # Invariants
///
/// `dentry` is what `debugfs_create_file_full()` gave, a file or an error, was not removed, and points at `data`.
pub(crate) struct DebugFile<T: Show> {
    dentry: *mut bindings::dentry,
    // Dropped after the file is gone.
    _data: Arc<T>,
    // Removing a folder would remove the file as well, and its dentry would be no more.
    _folder: Arc<DebugFolder>,
}

// SAFETY: Debugfs guards its dentries with locks of its own, and they belong to no thread.
unsafe impl Send for DebugFolder {}
// SAFETY: As above.
unsafe impl Sync for DebugFolder {}
// SAFETY: As above, and the data is `Send` and `Sync`.
unsafe impl<T: Show> Send for DebugFile<T> {}
// SAFETY: As above.
unsafe impl<T: Show> Sync for DebugFile<T> {}

impl DebugFolder {
    /// Makes a folder. Mirrors `debugfs_create_dir()`. May sleep.
    pub(crate) fn new(name: &CStr) -> Self {
        // INVARIANT: It is what `debugfs_create_dir()` gives.
        Self {
            dentry: create_dir(name),
        }
    }

    /// Makes a file in the folder that shows `data`. Mirrors `debugfs_create_file()`. May sleep.
    pub(crate) fn file<T: Show>(self: &Arc<Self>, name: &CStr, data: Arc<T>) -> DebugFile<T> {
        // INVARIANT: It is what `debugfs_create_file_full()` gives for that data.
        DebugFile {
            dentry: create_file(self, name, &data),
            _data: data,
            _folder: self.clone(),
        }
    }
}

impl Drop for DebugFolder {
    fn drop(&mut self) {
        remove(self.dentry);
    }
}

impl<T: Show> Drop for DebugFile<T> {
    fn drop(&mut self) {
        remove(self.dentry);
    }
}

#[cfg(CONFIG_DEBUG_FS)]
fn create_dir(name: &CStr) -> *mut bindings::dentry {
    // SAFETY: The name is copied, and no parent means the top.
    unsafe { bindings::debugfs_create_dir(name.as_char_ptr(), core::ptr::null_mut()) }
}

#[cfg(CONFIG_DEBUG_FS)]
fn create_file<T: Show>(folder: &DebugFolder, name: &CStr, data: &Arc<T>) -> *mut bindings::dentry {
    let data: *const T = &**data;
    // SAFETY: By its type invariant the folder is a dentry or an error, which is passed on. The name is
    // copied. The operations are static, those of a file whose data is a `T`, and it stays until the file is
    // removed: the caller puts both in a `DebugFile`.
    unsafe {
        bindings::debugfs_create_file_full(
            name.as_char_ptr(),
            0o400,
            folder.dentry,
            data.cast_mut().cast(),
            core::ptr::null(),
            &Operations::<T>::TABLE,
        )
    }
}

#[cfg(CONFIG_DEBUG_FS)]
fn remove(dentry: *mut bindings::dentry) {
    // SAFETY: By the type invariants of both callers; an error is ignored.
    unsafe { bindings::debugfs_remove(dentry) };
}

#[cfg(not(CONFIG_DEBUG_FS))]
fn create_dir(_name: &CStr) -> *mut bindings::dentry {
    core::ptr::null_mut()
}

#[cfg(not(CONFIG_DEBUG_FS))]
fn create_file<T: Show>(
    _folder: &DebugFolder,
    _name: &CStr,
    _data: &Arc<T>,
) -> *mut bindings::dentry {
    core::ptr::null_mut()
}

#[cfg(not(CONFIG_DEBUG_FS))]
fn remove(_dentry: *mut bindings::dentry) {}

/// The C table of operations for files that show a `T`.
#[cfg_attr(not(CONFIG_DEBUG_FS), allow(dead_code))]
struct Operations<T>(PhantomData<T>);

#[cfg_attr(not(CONFIG_DEBUG_FS), allow(dead_code))]
impl<T: Show> Operations<T> {
    /// Behind a proxy of debugfs, which calls none of these, but the release, once the file is removed.
    const TABLE: bindings::file_operations = bindings::file_operations {
        owner: this_module::<T::Module>().as_ptr(),
        open: Some(Self::open),
        read: Some(bindings::seq_read),
        llseek: Some(bindings::seq_lseek),
        release: Some(bindings::single_release),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// `inode` must be that of a [`DebugFile<T>`] which is not removed meanwhile, and `file` one that is
    /// being opened.
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: By the requirements of this function. Reads call `show` with the same data, and only while
        // the file is not removed.
        unsafe { bindings::single_open(file, Some(Self::show), (*inode).i_private) }
    }

    /// # Safety
    ///
    /// `seq` must be a file that [`Self::open`] has opened, in a read while it is not removed.
    unsafe extern "C" fn show(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: By the requirements of this function the private data is the `T` of a `DebugFile`, which
        // keeps it until the removal has waited for this read.
        let data = unsafe { &*(*seq).private.cast::<T>() };
        // SAFETY: It is valid, and locked for this read.
        data.show(unsafe { SeqFile::from_raw(seq) });
        0
    }
}

#[kunit_tests(abstractions_debugfs)]
mod tests {
    use super::*;
    use kernel::error::from_err_ptr;

    struct Nothing;

    impl Show for Nothing {
        type Module = crate::LocalModule;

        fn show(&self, _output: &SeqFile) {}
    }

    #[test]
    fn a_name_is_free_again_once_its_file_is_dropped() -> Result {
        let folder = Arc::new(DebugFolder::new(c"kunit_debugfs"), GFP_KERNEL)?;
        let data = Arc::new(Nothing, GFP_KERNEL)?;
        for _ in 0..2 {
            let file = folder.file(c"file", data.clone());
            assert!(from_err_ptr(file.dentry).is_ok());
            drop(file);
        }
        Ok(())
    }

    #[test]
    fn a_file_outlives_the_last_handle_of_its_folder() -> Result {
        let folder = Arc::new(DebugFolder::new(c"kunit_debugfs"), GFP_KERNEL)?;
        let file = folder.file(c"file", Arc::new(Nothing, GFP_KERNEL)?);
        drop(folder);
        // The folder goes with this one, and its name can be had again.
        drop(file);
        let again = DebugFolder::new(c"kunit_debugfs");
        assert!(from_err_ptr(again.dentry).is_ok());
        Ok(())
    }
}
