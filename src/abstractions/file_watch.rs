// SPDX-License-Identifier: GPL-2.0

//! Being told when a file changes, whoever changes it.
//!
//! C header: [`include/linux/fsnotify_backend.h`](srctree/include/linux/fsnotify_backend.h). It is what inotify and the
//! NFS server are built on.

use super::helpers;
use super::stored_file::StoredFile;
use core::ptr::NonNull;
use kernel::error::from_err_ptr;
use kernel::prelude::*;
use kernel::sync::{Arc, ArcBorrow};

/// What is to be told of changes.
pub(crate) trait Watcher: Send + Sync + 'static {
    /// The file was written to, or its size was changed.
    ///
    /// Context: that of whoever does it, under locks of the file's file system; may be called by several at once. Must not
    /// wait for anything that may wait for the file.
    fn file_changed(this: ArcBorrow<'_, Self>);
}

/// A watch on a file; dropping it ends it, and waits for calls of [`Watcher::file_changed`] to return.
///
/// What fsnotify has of it may be there for longer, for as long as a virus scanner takes to answer, say. Unloading the
/// module waits for that: see [`super::stored_file::FileQueues`], without which there is no file to be watched.
///
/// # Invariants
///
/// `watch` is a watch that was not ended, and calls [`Self::changed`] with the pointer of `_watcher`.
pub(crate) struct FileWatch<T: Watcher> {
    watch: NonNull<c_void>,
    // Dropped after `drop` has ended the watch.
    _watcher: Arc<T>,
}

// SAFETY: The C side does its own locking, and the watcher is `Send`.
unsafe impl<T: Watcher> Send for FileWatch<T> {}
// SAFETY: There are no methods by shared reference.
unsafe impl<T: Watcher> Sync for FileWatch<T> {}

impl<T: Watcher> FileWatch<T> {
    /// Begins to watch a file.
    ///
    /// May sleep. Fails with `ENOMEM`, and with `EOPNOTSUPP` in a kernel that has no way to (`CONFIG_FSNOTIFY`).
    pub(crate) fn new(file: &StoredFile, watcher: Arc<T>) -> Result<Self> {
        let data = Arc::as_ptr(&watcher);
        // SAFETY: The file is valid, and the watcher is owned by this value until the watch has ended.
        let watch = unsafe {
            helpers::abstractions_helper_watch_file(
                file.as_raw(),
                Self::changed,
                data.cast_mut().cast(),
            )
        };
        let watch = NonNull::new(from_err_ptr(watch)?).ok_or(ENOMEM)?;
        // INVARIANT: It was just begun with these.
        Ok(Self {
            watch,
            _watcher: watcher,
        })
    }

    /// # Safety
    ///
    /// `watcher` must be the pointer of the [`Arc`] of a watch that has not ended.
    unsafe extern "C" fn changed(watcher: *mut c_void) {
        // SAFETY: By the requirements of this function it is that of an `Arc` that is alive.
        T::file_changed(unsafe { ArcBorrow::from_raw(watcher.cast_const().cast()) });
    }
}

impl<T: Watcher> Drop for FileWatch<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the watch has not ended.
        unsafe { helpers::abstractions_helper_unwatch_file(self.watch.as_ptr()) };
    }
}
