// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading the module.

use rustix::io::Errno;
use std::env;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const NAME: &CStr = c"mmapdev";

/// The folder that the rig puts the modules in.
pub const FOLDER: &str = "/lib/mmapdev";

/// Returns the file that the module is loaded from: `$MMAPDEV_MODULE`, or where the rig puts it.
pub fn file() -> PathBuf {
    env::var_os("MMAPDEV_MODULE")
        .map_or_else(|| Path::new(FOLDER).join("mmapdev.ko"), PathBuf::from)
}

/// Returns the file of the module without tracepoints, which only the benchmark's guest and the sanitizer
/// kernel's have.
pub fn untraced_file() -> PathBuf {
    Path::new(FOLDER).join("mmapdev-untraced.ko")
}

/// Returns whether the module is loaded.
pub fn is_loaded() -> bool {
    Path::new("/sys/module/mmapdev").exists()
}

/// Loads any module from its file, with its parameters as `insmod` takes them.
pub fn insert(file: &Path, parameters: &str) -> io::Result<()> {
    let file = File::open(file)?;
    rustix::system::finit_module(&file, &CString::new(parameters)?, 0)?;
    Ok(())
}

/// Unloads the module; fails with `EBUSY` (or `EAGAIN`) while it is in use.
pub fn remove() -> io::Result<()> {
    const O_NONBLOCK: i32 = libc::O_NONBLOCK;
    rustix::system::delete_module(NAME, O_NONBLOCK)?;
    Ok(())
}

/// The module while it is loaded; dropping it unloads it.
#[derive(Debug)]
pub struct Loaded(());

impl Loaded {
    /// Loads the module with the given parameters.
    pub fn with(parameters: &str) -> io::Result<Self> {
        insert(&file(), parameters)?;
        Ok(Self(()))
    }

    /// Loads the module from a file that is open already, and does nothing else.
    pub fn from_file(file: &File, parameters: &CStr) -> io::Result<Self> {
        rustix::system::finit_module(file, parameters, 0)?;
        Ok(Self(()))
    }

    /// Loads the module that the rig has built without tracepoints, for the benchmark.
    pub fn untraced(parameters: &str) -> io::Result<Self> {
        insert(&untraced_file(), parameters)?;
        Ok(Self(()))
    }

    /// Unloads the module, and says so when it does not go.
    pub fn unload(self) -> io::Result<()> {
        std::mem::forget(self);
        remove()
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // The way out after something else has failed, which is what gets reported.
        let _ = remove();
    }
}

/// Returns the number of references that keep the module loaded.
pub fn users() -> io::Result<u64> {
    let text = fs::read_to_string("/sys/module/mmapdev/refcnt")?;
    text.trim().parse().map_err(io::Error::other)
}

/// Returns whether an error is that of a module that is in use.
pub fn is_busy(error: &io::Error) -> bool {
    let busy = [Errno::BUSY, Errno::WOULDBLOCK];
    busy.iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
