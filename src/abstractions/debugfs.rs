// SPDX-License-Identifier: GPL-2.0

//! Files in debugfs that show something.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h). Reference:
//! <https://docs.kernel.org/filesystems/debugfs.html>
//!
//! The `kernel` crate's files have no owner: a module that made one can be unloaded while somebody has it
//! open, and the close then jumps to where the module was. Here a file that is open keeps the module. (One that is just
//! being opened does not: `__debugfs_file_get()` looks at the operations before it looks whether the file is there.)
//!
//! And a reader who withholds the memory that is read into (by userfaultfd) holds up whoever removes such a file, who has
//! the lock of the folder; here the contents are made when the file is opened, and no removal waits for a read. Who lists
//! the folder into such memory holds up all who make or remove a file in it, as in any folder of debugfs.
//!
//! As debugfs asks of a driver, nothing fails because of it: where a folder or a file cannot be made, or the
//! kernel is without debugfs, there is none.

use core::marker::PhantomData;
use kernel::bindings;
use kernel::fmt::{self, Write};
use kernel::module::{this_module, ModuleMetadata};
use kernel::prelude::*;
use kernel::sync::Arc;

/// What a file shows.
pub(crate) trait Show: Send + Sync + 'static {
    /// The module that has the code: it is not unloaded while the file is open.
    type Module: ModuleMetadata;

    /// Prints the contents, when the file is opened. Fails where the printing does.
    ///
    /// Context: may sleep. A lock that is taken here must not be held while the [`DebugFile`] is dropped, which
    /// waits for this.
    fn show(&self, output: &mut dyn Write) -> fmt::Result;
}

/// A folder at the top of debugfs; dropping it takes it away.
///
/// # Invariants
///
/// `dentry` is what `debugfs_create_dir()` gave, a folder or an error, and was not removed.
pub(crate) struct DebugFolder {
    dentry: *mut bindings::dentry,
}

/// A file in a [`DebugFolder`], for root alone to read; dropping it takes it away, and waits for who is just opening it.
/// Who has opened it reads what there was then, whatever became of it.
///
/// # Invariants
///
/// `dentry` is what `debugfs_create_file_unsafe()` gave, a file or an error, was not removed, and points at `data`.
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

    /// Makes a file in the folder that shows `data`. Mirrors `debugfs_create_file_unsafe()`. May sleep.
    pub(crate) fn file<T: Show>(self: &Arc<Self>, name: &CStr, data: Arc<T>) -> DebugFile<T> {
        // INVARIANT: It is what `debugfs_create_file_unsafe()` gives for that data.
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
    // removed: the caller puts both in a `DebugFile`. Only the opening, which debugfs guards from the removal, uses it.
    unsafe {
        bindings::debugfs_create_file_unsafe(
            name.as_char_ptr(),
            0o400,
            folder.dentry,
            data.cast_mut().cast(),
            Operations::<T>::table(),
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

/// What an open file has to show.
struct Text(KVec<u8>);

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let added = self.0.extend_from_slice(text.as_bytes(), GFP_KERNEL);
        added.map_err(|_| fmt::Error)
    }
}

impl Text {
    /// Has something printed; fails with `ENOMEM`.
    #[cfg_attr(not(CONFIG_DEBUG_FS), allow(dead_code))]
    fn of(data: &impl Show) -> Result<KBox<Self>> {
        let mut text = KBox::new(Self(KVec::new()), GFP_KERNEL)?;
        data.show(&mut *text).map_err(|_| ENOMEM)?;
        Ok(text)
    }
}

/// The C table of operations for files that show a `T`.
#[cfg_attr(not(CONFIG_DEBUG_FS), allow(dead_code))]
struct Operations<T>(PhantomData<T>);

#[cfg_attr(not(CONFIG_DEBUG_FS), allow(dead_code))]
impl<T: Show> Operations<T> {
    /// Debugfs guards the opening; what follows does without the `T`.
    const TABLE: bindings::file_operations = bindings::file_operations {
        owner: this_module::<T::Module>().as_ptr(),
        open: Some(Self::open),
        read: Some(Self::read),
        llseek: Some(bindings::default_llseek),
        release: Some(Self::release),
        ..pin_init::zeroed()
    };

    /// Returns the table, which is there as long as the module is.
    const fn table() -> &'static bindings::file_operations {
        &Self::TABLE
    }

    /// # Safety
    ///
    /// `inode` must be that of a [`DebugFile<T>`] which is not removed meanwhile, and `file` one that is
    /// being opened.
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: By the requirements of this function the private data is the `T` of a `DebugFile`, which keeps it until
        // the removal has waited for this.
        let data = unsafe { &*(*inode).i_private.cast::<T>() };
        match Text::of(data) {
            Ok(text) => {
                // SAFETY: The file is this function's alone, by its requirements.
                unsafe { (*file).private_data = KBox::into_raw(text).cast() };
                0
            }
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `file` must be one that [`Self::open`] has opened, and the rest the arguments of a read of it.
    unsafe extern "C" fn read(
        file: *mut bindings::file,
        to: *mut c_char,
        len: usize,
        position: *mut bindings::loff_t,
    ) -> isize {
        // SAFETY: By the requirements of this function it is what the opening has put there, and nobody changes it.
        let text = unsafe { &*(*file).private_data.cast::<Text>() };
        let (from, available) = (text.0.as_ptr().cast(), text.0.len());
        // SAFETY: As many bytes are readable, and the rest is as it came.
        unsafe { bindings::simple_read_from_buffer(to.cast(), len, position, from, available) }
    }

    /// # Safety
    ///
    /// `file` must be one that [`Self::open`] has opened, and that nobody uses any more.
    unsafe extern "C" fn release(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: By the requirements of this function it is what the opening has put there, and this is its last use.
        drop(unsafe { KBox::from_raw((*file).private_data.cast::<Text>()) });
        0
    }
}

#[kunit_tests(abstractions_debugfs)]
mod tests {
    use super::*;
    use kernel::error::from_err_ptr;

    struct Words;

    impl Show for Words {
        type Module = crate::LocalModule;

        fn show(&self, output: &mut dyn Write) -> fmt::Result {
            output.write_str("one ")?;
            output.write_str("two\n")
        }
    }

    #[test]
    fn what_is_shown_is_all_that_was_printed() -> Result {
        assert!(Text::of(&Words)?.0 == *b"one two\n");
        Ok(())
    }

    #[test]
    fn a_name_is_free_again_once_its_file_is_dropped() -> Result {
        let folder = Arc::new(DebugFolder::new(c"kunit_debugfs"), GFP_KERNEL)?;
        let data = Arc::new(Words, GFP_KERNEL)?;
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
        let file = folder.file(c"file", Arc::new(Words, GFP_KERNEL)?);
        drop(folder);
        // The folder goes with this one, and its name can be had again.
        drop(file);
        let again = DebugFolder::new(c"kunit_debugfs");
        assert!(from_err_ptr(again.dentry).is_ok());
        Ok(())
    }
}
