// SPDX-License-Identifier: GPL-2.0

//! Allocations that fail on purpose: the n-th of a call, all of one kind, or some of those that workers make; and requests
//! to a disk that do.
//!
//! Reference: <https://docs.kernel.org/fault-injection/fault-injection.html>. The kernel has to have
//! `CONFIG_FAILSLAB`, `CONFIG_FAIL_PAGE_ALLOC`, `CONFIG_FAULT_INJECTION_USERCOPY` and `CONFIG_FAIL_MAKE_REQUEST`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Which failures there are, and that each is quiet: a dump would be taken for a complaint of the kernel's.
const KINDS: &[(&str, &str)] = &[
    ("/sys/kernel/debug/failslab/verbose", "0"),
    ("/sys/kernel/debug/failslab/ignore-gfp-wait", "N"),
    ("/sys/kernel/debug/fail_page_alloc/verbose", "0"),
    ("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N"),
    ("/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem", "N"),
    ("/sys/kernel/debug/fail_page_alloc/min-order", "0"),
    ("/sys/kernel/debug/fail_usercopy/verbose", "0"),
];

/// All allocations from marked caches, of marked threads.
const MARKED: &[(&str, &str)] = &[
    ("/sys/kernel/debug/failslab/cache-filter", "Y"),
    ("/sys/kernel/debug/failslab/task-filter", "Y"),
    ("/sys/kernel/debug/failslab/interval", "1"),
    ("/sys/kernel/debug/failslab/space", "0"),
    ("/sys/kernel/debug/failslab/times", "-1"),
    ("/sys/kernel/debug/failslab/probability", "100"),
];

/// Any allocation of marked threads, with a probability that is set last.
const OF_WORKERS: &[(&str, &str)] = &[
    ("/sys/kernel/debug/failslab/task-filter", "Y"),
    ("/sys/kernel/debug/failslab/times", "-1"),
    ("/sys/kernel/debug/fail_page_alloc/task-filter", "Y"),
    ("/sys/kernel/debug/fail_page_alloc/times", "-1"),
];

/// Requests to marked disks, of anybody's.
const OF_DISKS: &[(&str, &str)] = &[
    ("/sys/kernel/debug/fail_make_request/verbose", "0"),
    ("/sys/kernel/debug/fail_make_request/times", "-1"),
    ("/sys/kernel/debug/fail_make_request/probability", "100"),
];

/// Settings of the kernel's that are what they were when this is dropped.
#[derive(Debug, Default)]
struct Settings(Vec<(PathBuf, String)>);

impl Settings {
    fn set(&mut self, path: impl AsRef<Path>, value: &str) -> io::Result<()> {
        let path = path.as_ref();
        let what = |error| io::Error::other(format!("{}: {error}", path.display()));
        let before = fs::read_to_string(path).map_err(what)?;
        fs::write(path, value).map_err(what)?;
        self.0.push((path.to_path_buf(), before));
        Ok(())
    }

    fn set_all(&mut self, settings: &[(&str, &str)]) -> io::Result<()> {
        settings
            .iter()
            .try_for_each(|(path, value)| self.set(path, value))
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        for (path, before) in self.0.iter().rev() {
            // On the way out after something else has failed, which is what gets reported.
            let _ = fs::write(path, before.trim_end());
        }
    }
}

/// Fails the n-th allocation, or copy from or to a program's memory, of what the calling thread does.
#[derive(Debug)]
pub struct FailNth {
    counter: File,
    _settings: Settings,
}

impl FailNth {
    /// Prepares the kernel. What this returns is for the calling thread.
    pub fn begin() -> io::Result<Self> {
        let mut settings = Settings::default();
        settings.set_all(KINDS)?;
        Ok(Self {
            counter: own_file("fail-nth")?,
            _settings: settings,
        })
    }

    /// Runs `act` with its n-th allocation failing, from 1 on. Returns what it returned, and whether there
    /// was an n-th.
    ///
    /// Allocations of the kernel's count, as do page faults of the program's own memory; so `act` had better
    /// do little beside the call that it is about.
    pub fn run<T>(&self, n: u32, act: impl FnOnce() -> T) -> io::Result<(T, bool)> {
        assert!(n > 0, "0 is no failure");
        let count = n.to_string();
        self.counter.write_all_at(count.as_bytes(), 0)?;
        let result = act();
        // The count goes on in these calls. A read that fails is itself the n-th copy: what it would have said
        // is that there was one to go.
        let mut text = [0; 16];
        let was_reached = match self.counter.read_at(&mut text, 0) {
            Ok(_) => text[0] == b'0',
            Err(error) if is_bad_address(&error) => false,
            Err(error) => return Err(error),
        };
        // So may this one be, which then has ended the count.
        while let Err(error) = self.counter.write_all_at(b"0", 0) {
            if !is_bad_address(&error) {
                return Err(error);
            }
        }
        Ok((result, was_reached))
    }
}

impl FailNth {
    /// Runs `act` with nothing failing. Returns what it returned, and how many failures there can be.
    pub fn count<T>(&self, act: impl FnOnce() -> T) -> io::Result<(T, u32)> {
        const MANY: u32 = 1 << 30;
        self.counter.write_all_at(MANY.to_string().as_bytes(), 0)?;
        let result = act();
        let mut text = [0; 16];
        let len = self.counter.read_at(&mut text, 0)?;
        self.counter.write_all_at(b"0", 0)?;
        let left: u32 = String::from_utf8_lossy(&text[..len])
            .trim()
            .parse()
            .map_err(io::Error::other)?;
        Ok((result, MANY - left))
    }
}

/// Fails all allocations from one of the kernel's caches that are made by what the calling thread does.
#[derive(Debug)]
pub struct FailCache {
    thread: File,
    _settings: Settings,
}

impl FailCache {
    /// Prepares the kernel for the cache of this name, which must not be merged with another. What this returns
    /// is for the calling thread.
    pub fn begin(cache: &str) -> io::Result<Self> {
        let mut settings = Settings::default();
        settings.set_all(KINDS)?;
        let folder = Path::new("/sys/kernel/slab").join(cache);
        settings.set(folder.join("failslab"), "1")?;
        settings.set_all(MARKED)?;
        Ok(Self {
            thread: own_file("make-it-fail")?,
            _settings: settings,
        })
    }

    /// Runs `act` with every allocation from the cache failing.
    pub fn run<T>(&self, act: impl FnOnce() -> T) -> io::Result<T> {
        self.thread.write_all_at(b"1", 0)?;
        let result = act();
        self.thread.write_all_at(b"0", 0)?;
        Ok(result)
    }
}

/// Fails some of the allocations that are made by the kernel's workers.
#[derive(Debug)]
pub struct FailWorkers {
    _settings: Settings,
}

impl FailWorkers {
    /// Prepares the kernel: of the allocations of marked workers, so many in a hundred fail.
    pub fn begin(percent: u32) -> io::Result<Self> {
        let mut settings = Settings::default();
        settings.set_all(KINDS)?;
        settings.set_all(OF_WORKERS)?;
        for kind in ["failslab", "fail_page_alloc"] {
            let path = format!("/sys/kernel/debug/{kind}/probability");
            settings.set(path, &percent.to_string())?;
        }
        Ok(Self {
            _settings: settings,
        })
    }

    /// Marks those that there are now.
    pub fn mark(&self) -> io::Result<()> {
        Self::mark_all("1")
    }

    fn mark_all(mark: &str) -> io::Result<()> {
        for entry in fs::read_dir("/proc")? {
            let folder = entry?.path();
            // Any of them may have ended meanwhile.
            let is_worker = fs::read_to_string(folder.join("comm"))
                .is_ok_and(|name| name.starts_with("kworker/"));
            if is_worker {
                let _ = fs::write(folder.join("make-it-fail"), mark);
            }
        }
        Ok(())
    }
}

impl Drop for FailWorkers {
    fn drop(&mut self) {
        // The settings, which go next, end it in any case.
        let _ = Self::mark_all("0");
    }
}

/// Fails some of the requests to a disk, with `EIO`.
#[derive(Debug)]
pub struct FailDisk {
    _settings: Settings,
}

impl FailDisk {
    /// Has each `nth` of the requests fail from now on that are made to a disk, such as `loop0`.
    pub fn begin(disk: &str, nth: u32) -> io::Result<Self> {
        let mut settings = Settings::default();
        settings.set(
            "/sys/kernel/debug/fail_make_request/interval",
            &nth.to_string(),
        )?;
        settings.set_all(OF_DISKS)?;
        settings.set(format!("/sys/block/{disk}/make-it-fail"), "1")?;
        Ok(Self {
            _settings: settings,
        })
    }
}

/// A disk that answers requests with an error before it has taken them.
///
/// Reference: <https://docs.kernel.org/block/error-injection.html>
#[derive(Debug)]
pub struct RefusingDisk {
    rules: PathBuf,
}

impl RefusingDisk {
    /// Has those requests refused from now on that are made to a disk, such as `loop0`, and that a rule names, such as
    /// `op=READ,status=IOERR`.
    pub fn begin(disk: &str, rule: &str) -> io::Result<Self> {
        let rules = format!("/sys/kernel/debug/block/{disk}/error_injection").into();
        fs::write(&rules, format!("add,{rule}"))?;
        Ok(Self { rules })
    }
}

impl Drop for RefusingDisk {
    fn drop(&mut self) {
        // It cannot fail: the file is there as long as the disk.
        let _ = fs::write(&self.rules, "removeall");
    }
}

fn own_file(name: &str) -> io::Result<File> {
    let path = Path::new("/proc/thread-self").join(name);
    OpenOptions::new().read(true).write(true).open(path)
}

fn is_bad_address(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EFAULT)
}
