// SPDX-License-Identifier: GPL-2.0

//! How much memory the machine has free, and what it is used for.

use crate::PAGE;
use std::{fs, io};

/// Returns a field of `/proc/meminfo` in bytes.
pub fn meminfo(field: &str) -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let value = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(name, value)| (name == field).then_some(value.trim()))
        .and_then(|value| value.strip_suffix(" kB")?.parse::<u64>().ok());
    value
        .map(|kib| kib << 10)
        .ok_or_else(|| io::Error::other(format!("no {field} in meminfo")))
}

/// Returns the bytes that are free, those in the lists of single CPUs too, after the kernel's caches have
/// been given back.
pub fn settled_free() -> io::Result<u64> {
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let text = fs::read_to_string("/proc/zoneinfo")?;
    Ok(free_pages(&text) * PAGE as u64)
}

/// Adds up the free pages of `/proc/zoneinfo`: each zone's, and in its `pagesets` each CPU's.
fn free_pages(zoneinfo: &str) -> u64 {
    let number = |line: &str, name: &str| -> Option<u64> {
        let mut words = line.split_whitespace();
        (words.next() == Some(name))
            .then(|| words.next()?.parse().ok())
            .flatten()
    };
    let lines = zoneinfo.lines();
    lines
        .filter_map(|line| number(line, "nr_free_pages").or_else(|| number(line, "count:")))
        .sum()
}

/// Returns a counter of `/proc/vmstat`, with what single CPUs have counted added up first.
pub fn vmstat(counter: &str) -> io::Result<u64> {
    fs::write("/proc/sys/vm/stat_refresh", "1")?;
    let text = fs::read_to_string("/proc/vmstat")?;
    let value = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find_map(|(name, value)| (name == counter).then(|| value.parse().ok()).flatten());
    value.ok_or_else(|| io::Error::other(format!("no {counter} in vmstat")))
}

#[cfg(test)]
mod tests {
    use super::free_pages;

    #[test]
    fn pages_in_the_lists_of_cpus_are_free_too() {
        let text = "\
Node 0, zone      DMA
      nr_free_pages 3840
      nr_free_pages_blocks 3584
  pagesets
    cpu: 0
              count:    1
              high:     28
    cpu: 1
              count:    20
Node 0, zone    DMA32
      nr_free_pages 100
";
        assert_eq!(free_pages(text), 3840 + 21 + 100);
    }
}
