// SPDX-License-Identifier: GPL-2.0

//! Which page frame is behind an address of this process, and whether one has failed.
//!
//! Reference: <https://docs.kernel.org/admin-guide/mm/pagemap.html>

use crate::PAGE;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Returns the number of the page frame at an address, if a page is mapped there.
///
/// Needs `CAP_SYS_ADMIN`: others are told frame 0.
pub fn frame(address: usize) -> io::Result<Option<u64>> {
    Ok(frames(address, 1)?[0])
}

/// Returns what [`frame`] does for each of some pages in a row.
pub fn frames(address: usize, pages: usize) -> io::Result<Vec<Option<u64>>> {
    const ENTRY: usize = size_of::<u64>();
    let mut entries = vec![0; pages * ENTRY];
    let offset = (address / PAGE * ENTRY) as u64;
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entries, offset)?;
    let words = entries.chunks_exact(ENTRY);
    Ok(words
        .map(|word| decode(u64::from_ne_bytes(word.try_into().expect("a word"))))
        .collect())
}

/// In `/proc/kpageflags`: it has failed, and stays where it is.
pub(crate) const POISONED: u64 = 1 << 19;

/// Returns whether the memory of a page frame has failed, as the kernel was told.
pub fn is_poisoned(frame: u64) -> io::Result<bool> {
    let mut word = [0; size_of::<u64>()];
    let offset = frame * word.len() as u64;
    File::open("/proc/kpageflags")?.read_exact_at(&mut word, offset)?;
    Ok(u64::from_ne_bytes(word) & POISONED != 0)
}

fn decode(entry: u64) -> Option<u64> {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    (entry & PRESENT != 0).then_some(entry & FRAME)
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn only_a_present_page_has_a_frame() {
        assert_eq!(decode(0), None);
        assert_eq!(decode((1 << 62) | 77), None);
        assert_eq!(decode((1 << 63) | 77), Some(77));
    }

    #[test]
    fn flags_are_no_part_of_the_frame() {
        assert_eq!(decode(!0), Some((1 << 55) - 1));
        assert_eq!(
            decode((1 << 63) | (1 << 56) | (1 << 55) | 0x1234),
            Some(0x1234)
        );
    }
}
