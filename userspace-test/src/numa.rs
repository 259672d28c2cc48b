// SPDX-License-Identifier: GPL-2.0

//! The machine's memory in nodes, and moving a process's pages from one to another.

use rustix::process::Pid;
use std::{fs, io};

/// Returns the numbers of the nodes that are there; a kernel that knows none has one.
pub fn nodes() -> io::Result<Vec<u32>> {
    match fs::read_to_string("/sys/devices/system/node/online") {
        Ok(text) => numbers(text.trim()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![0]),
        Err(error) => Err(error),
    }
}

/// Reads a list such as `0-1,4`.
fn numbers(list: &str) -> io::Result<Vec<u32>> {
    let mut all = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let parse = |number: &str| number.parse::<u32>().map_err(io::Error::other);
        all.extend(parse(first)?..=parse(last)?);
    }
    Ok(all)
}

/// Moves the pages that a process has on node `from` to node `to` (`migrate_pages()`), those that others have
/// mapped as well. Returns how many could not be moved.
pub fn migrate(process: Pid, from: u32, to: u32) -> io::Result<usize> {
    const BITS: u32 = u64::BITS;
    assert!(from < BITS && to < BITS);
    let (from, to): (u64, u64) = (1 << from, 1 << to);
    // The kernel takes the number of bits and one more.
    let bits = u64::from(BITS) + 1;
    // SAFETY: Reads two masks of 64 bits, which live through the call; where pages are is nothing that a program
    // sees.
    let left = unsafe {
        libc::syscall(
            libc::SYS_migrate_pages,
            process.as_raw_nonzero().get(),
            bits,
            &raw const from,
            &raw const to,
        )
    };
    usize::try_from(left).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn a_list_has_ranges_and_numbers() {
        assert_eq!(numbers("0").unwrap(), [0]);
        assert_eq!(numbers("0-2,5").unwrap(), [0, 1, 2, 5]);
        assert!(numbers("").is_err());
    }
}
