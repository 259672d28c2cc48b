// SPDX-License-Identifier: GPL-2.0

//! What a disk is asked for, as the kernel counts it.
//!
//! Reference: <https://docs.kernel.org/block/stat.html>

use std::fs;
use std::io;
use std::ops::Sub;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The disk that a file system is on.
#[derive(Debug)]
pub struct Disk {
    stat: PathBuf,
}

/// What a disk was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Requests to read, those that were made one counted once.
    pub reads: u64,
    /// Bytes that these were about.
    pub bytes_read: u64,
    /// Requests to write.
    pub writes: u64,
    /// Bytes that these were about.
    pub bytes_written: u64,
}

impl Disk {
    /// Finds the disk that a file or folder is on. Fails with `ENOENT` also where that is in memory.
    pub fn of(path: impl AsRef<Path>) -> io::Result<Self> {
        let device = fs::metadata(path)?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let stat = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
        fs::metadata(&stat)?;
        Ok(Self { stat })
    }

    /// Returns what it was asked for since it is there.
    pub fn traffic(&self) -> io::Result<Traffic> {
        let text = fs::read_to_string(&self.stat)?;
        traffic(&text).ok_or_else(|| io::Error::other(format!("no disk's counters: {text}")))
    }

    /// Returns what it was asked for during something, by anybody.
    pub fn during<T>(&self, body: impl FnOnce() -> io::Result<T>) -> io::Result<(Traffic, T)> {
        let before = self.traffic()?;
        let value = body()?;
        Ok((self.traffic()? - before, value))
    }
}

impl Sub for Traffic {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            reads: self.reads - before.reads,
            bytes_read: self.bytes_read - before.bytes_read,
            writes: self.writes - before.writes,
            bytes_written: self.bytes_written - before.bytes_written,
        }
    }
}

fn traffic(text: &str) -> Option<Traffic> {
    let fields: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
    // A sector is 512 bytes here, whatever it is to the disk.
    match fields.ok()?[..] {
        [reads, _, read, _, writes, _, written, ..] => Some(Traffic {
            reads,
            bytes_read: read * 512,
            writes,
            bytes_written: written * 512,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{traffic, Traffic};

    #[test]
    fn the_counters_are_those_of_requests_and_sectors() {
        let text = "    2116   62   17190   626   82   4113   164388   1913   0   892   2548\n";
        let expected = Traffic {
            reads: 2116,
            bytes_read: 17190 * 512,
            writes: 82,
            bytes_written: 164388 * 512,
        };
        assert_eq!(traffic(text), Some(expected));
        assert_eq!(traffic("1 2 3\n"), None);
        assert_eq!(traffic("1 2 3 4 5 6 x\n"), None);
    }
}
