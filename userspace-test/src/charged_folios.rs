// SPDX-License-Identifier: GPL-2.0

//! Which pages of files a memory cgroup is charged for, counted one by one.
//!
//! A page that nobody will ever free is charged for ever, also after the file has let go of it; what
//! looks for leaks in the kernel's own memory (kmemleak) does not see it, and the free memory of a whole machine is
//! never the same twice.
//!
//! Reference: <https://docs.kernel.org/admin-guide/mm/pagemap.html>

use crate::cgroup::Cgroup;
use crate::pagemap::POISONED;
use std::fs::{self, File};
use std::io;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

const ENTRY: usize = size_of::<u64>();

/// In `/proc/kpageflags`: it is, or was, in a page cache or anonymous memory.
const LRU: u64 = 1 << 5;
/// It is anonymous memory or that of a tmpfs.
const SWAP_BACKED: u64 = 1 << 14;

/// Returns the frames of pages of files that a cgroup is charged for, each with its flags, but for those of a tmpfs and those
/// that have failed. What is of a disk is written and given back before, for which a file system gets some seconds.
pub fn frames_of_files(cgroup: &Cgroup) -> io::Result<Vec<(u64, u64)>> {
    const ATTEMPTS: u32 = 10;
    let mut frames = Vec::new();
    for _ in 0..ATTEMPTS {
        rustix::fs::sync();
        fs::write("/proc/sys/vm/drop_caches", "1")?;
        frames = look(cgroup)?;
        if frames.is_empty() {
            break;
        }
        thread::sleep(Duration::from_secs(1));
    }
    Ok(frames)
}

fn look(cgroup: &Cgroup) -> io::Result<Vec<(u64, u64)>> {
    let mut owners = Vec::new();
    File::open("/proc/kpagecgroup")?.read_to_end(&mut owners)?;
    let (own, flags) = (cgroup.number()?, File::open("/proc/kpageflags")?);
    let mut frames = Vec::new();
    for frame in frames_owned_by(own, &owners) {
        let mut word = [0; ENTRY];
        flags.read_exact_at(&mut word, frame * ENTRY as u64)?;
        let flags = u64::from_ne_bytes(word);
        if is_of_file(flags) {
            frames.push((frame, flags));
        }
    }
    Ok(frames)
}

fn frames_owned_by(own: u64, owners: &[u8]) -> impl Iterator<Item = u64> + '_ {
    (0..)
        .zip(owners.chunks_exact(ENTRY))
        .filter_map(move |(frame, word)| (word == own.to_ne_bytes()).then_some(frame))
}

fn is_of_file(flags: u64) -> bool {
    flags & (LRU | SWAP_BACKED | POISONED) == LRU
}

#[cfg(test)]
mod tests {
    use super::{frames_owned_by, is_of_file, LRU, POISONED, SWAP_BACKED};

    #[test]
    fn frames_are_those_of_the_own_number() {
        let owners: Vec<u8> = [7_u64, 0, 9, 7]
            .into_iter()
            .flat_map(u64::to_ne_bytes)
            .collect();
        let own: Vec<u64> = frames_owned_by(7, &owners).collect();
        assert_eq!(own, [0, 3]);
    }

    #[test]
    fn anonymous_memory_and_that_of_the_kernel_is_of_no_file() {
        let dirty = 1 << 4;
        assert!(is_of_file(LRU | dirty));
        assert!(!is_of_file(LRU | dirty | POISONED));
        assert!(!is_of_file(LRU | dirty | SWAP_BACKED));
        assert!(!is_of_file(dirty));
        assert!(!is_of_file(0));
    }
}
