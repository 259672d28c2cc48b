// SPDX-License-Identifier: GPL-2.0

//! A memory cgroup: what its processes are charged for, and its limit.
//!
//! Reference: <https://docs.kernel.org/admin-guide/cgroup-v2.html>

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Where the rig mounts the hierarchy.
const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup of the second version, which goes when this is dropped.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes a cgroup that may use `limit` bytes of memory.
    pub fn with_limit(name: &str, limit: u64) -> io::Result<Self> {
        let cgroup = Self::new(name)?;
        cgroup.write("memory.max", &limit.to_string())?;
        Ok(cgroup)
    }

    /// Makes a cgroup that may use any memory.
    pub fn new(name: &str) -> io::Result<Self> {
        let root = PathBuf::from(ROOT);
        fs::write(root.join("cgroup.subtree_control"), "+memory")?;
        let path = root.join(name);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Puts this process into the cgroup: what it uses from now on is charged there.
    pub fn enter(&self) -> io::Result<()> {
        self.write("cgroup.procs", "0")
    }

    /// Returns the number that the kernel tells cgroups apart by.
    pub fn number(&self) -> io::Result<u64> {
        Ok(fs::metadata(&self.0)?.ino())
    }

    /// Returns the bytes that are charged. Each CPU may have some for 256 KiB charged ahead.
    pub fn charged(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.0.join("memory.current"))?;
        text.trim().parse().map_err(io::Error::other)
    }

    /// Returns a field of `memory.stat`, which may be late by some pages.
    pub fn stat(&self, name: &str) -> io::Result<u64> {
        self.field("memory.stat", name)
    }

    /// Returns how often something has happened, of what `memory.events` counts.
    pub fn events(&self, name: &str) -> io::Result<u64> {
        self.field("memory.events", name)
    }

    /// Has the kernel take memory back from the cgroup, as under pressure. Fails with `EAGAIN` where it finds
    /// less than that.
    pub fn reclaim(&self, bytes: u64) -> io::Result<()> {
        self.write("memory.reclaim", &bytes.to_string())
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.0.join(file), value)
    }

    fn field(&self, file: &str, name: &str) -> io::Result<u64> {
        let text = fs::read_to_string(self.0.join(file))?;
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .find_map(|(field, value)| (field == name).then(|| value.parse().ok()).flatten())
            .ok_or_else(|| io::Error::other(format!("no {name} in {file}")))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Where a process of it is left, a test has failed and has said why.
        let _ = fs::remove_dir(&self.0);
    }
}
