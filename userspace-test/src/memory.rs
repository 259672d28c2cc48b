// SPDX-License-Identifier: GPL-2.0

//! How much memory the machine has free, and what it is used for.

use crate::PAGE;
use std::mem::MaybeUninit;
use std::time::Duration;
use std::{fs, io, thread};

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

/// Returns how much less memory is free than `before`, as `free` says. What the kernel frees in its own time, as after RCU's grace
/// periods, comes back within seconds, and what is lost never does: where that is more than is allowed, it looks again, up to
/// `looks` times in all.
pub fn lost_since(
    before: u64,
    allowed: u64,
    looks: u32,
    free: impl Fn() -> io::Result<u64>,
) -> io::Result<u64> {
    let mut lost = before.saturating_sub(free()?);
    for _ in 1..looks {
        if lost <= allowed {
            break;
        }
        thread::sleep(Duration::from_secs(1));
        lost = lost.min(before.saturating_sub(free()?));
    }
    Ok(lost)
}

/// Has each of the kernel's caches of small objects that has so many bytes give back the pages that hold none; KASAN holds what was
/// freed back for a time, and gives that back as well. There are hundreds of caches, and each takes its time.
pub fn shrink_slabs(least: usize) -> io::Result<()> {
    for cache in slabs(&fs::read_to_string("/proc/slabinfo")?, least) {
        fs::write(format!("/sys/kernel/slab/{cache}/shrink"), "1")?;
    }
    Ok(())
}

/// Returns the caches of `/proc/slabinfo` that have so many bytes, the largest first: what KASAN holds back of all others is gone
/// through for each.
fn slabs(slabinfo: &str, least: usize) -> Vec<&str> {
    let pages = |line: &str| -> Option<u64> {
        let mut words = line.split_whitespace();
        let pages_of_slab = words.nth(5)?.parse::<u64>().ok()?;
        let slabs = words.nth(8)?.parse::<u64>().ok()?;
        Some(pages_of_slab * slabs)
    };
    let mut caches: Vec<_> = slabinfo
        .lines()
        .filter_map(|line| Some((pages(line)?, line.split_whitespace().next()?)))
        .filter(|(pages, _)| *pages >= (least / PAGE) as u64)
        .collect();
    caches.sort();
    caches.into_iter().rev().map(|(_, name)| name).collect()
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
    use super::{free_pages, pieces, slabs};
    use crate::KIB;

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
    fn slabs_of_a_size_come_with_the_largest_first() {
        let text = "\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>
small                60     60    136   30    1 : tunables    0    0    0 : slabdata      2     15      0
middle               60     60    136   30    2 : tunables    0    0    0 : slabdata      2      8      0
large              2280   2280   1024    8    2 : tunables    0    0    0 : slabdata    285    285      0
";
        assert_eq!(slabs(text, 64 * KIB), ["large", "middle"]);
        assert_eq!(slabs(text, 0), ["large", "middle", "small"]);
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
