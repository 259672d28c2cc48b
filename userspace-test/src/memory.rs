// SPDX-License-Identifier: GPL-2.0

//! How much memory the machine has free, and what it is used for.

use crate::PAGE;
use std::mem::MaybeUninit;
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

/// Has each of the kernel's caches of small objects give back the pages that hold none; KASAN holds what was
/// freed back for a time, and gives that back as well.
pub fn shrink_slabs() -> io::Result<()> {
    for cache in fs::read_dir("/sys/kernel/slab")? {
        let cache = cache?;
        // Several names may be one cache.
        if cache.file_type()?.is_dir() {
            fs::write(cache.path().join("shrink"), "1")?;
        }
    }
    Ok(())
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

/// Returns how many pieces of free memory are as large as `size` or larger, but for the first 16 MiB, which
/// the kernel keeps for devices.
pub fn free_pieces(size: usize) -> io::Result<u64> {
    let text = fs::read_to_string("/proc/buddyinfo")?;
    Ok(pieces(&text, (size / PAGE).ilog2() as usize))
}

/// Adds up the columns of `/proc/buddyinfo` from that of an order on.
fn pieces(buddyinfo: &str, order: usize) -> u64 {
    buddyinfo
        .lines()
        .map(|line| line.split_whitespace().skip(3))
        .filter_map(|mut words| (words.next()? != "DMA").then_some(words))
        .flat_map(|orders| orders.skip(order))
        .filter_map(|number| number.parse::<u64>().ok())
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

/// Returns how many page faults this thread has had that waited for no disk.
pub fn faults_of_this_thread() -> io::Result<u64> {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: Points to a structure of that type, for the kernel to fill.
    if unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: The call has succeeded, so that all of it is filled in.
    let usage = unsafe { usage.assume_init() };
    u64::try_from(usage.ru_minflt).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::{free_pages, pieces};

    #[test]
    fn pieces_are_those_of_an_order_and_above() {
        let text = "\
Node 0, zone      DMA      0      0      9      9
Node 0, zone    DMA32      1      2      3      4
Node 1, zone   Normal     10     20     30     40
";
        assert_eq!(pieces(text, 2), 3 + 4 + 30 + 40);
    }

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
