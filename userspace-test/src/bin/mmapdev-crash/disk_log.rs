// SPDX-License-Identifier: GPL-2.0

//! What a disk was asked to do, as QEMU's `blklogwrites` notes it in the format of the kernel's dm-log-writes, and
//! what may be left of that when the power fails.
//!
//! Killing QEMU loses nothing that a disk was asked to write, as the host's memory has it. A real disk has a cache, of
//! which only a flush says that all is stored: what came before the last flush is there, and what came later is
//! there or not, in any order.
//!
//! Reference: <https://docs.kernel.org/admin-guide/device-mapper/log-writes.html>

use mmapdev_userspace::random::Random;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1 << 0;
const FORCED: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;

/// One request: where the disk was written to, and with what.
struct Entry<'a> {
    flags: u64,
    offset: u64,
    data: &'a [u8],
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at + 8)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

/// Takes the log apart, up to where QEMU was killed: what was never written of it is zeros, or not there.
fn entries(log: &[u8]) -> io::Result<Vec<Entry<'_>>> {
    let no_log = || io::Error::other("this is no log of QEMU's");
    if number(log, 0) != Some(MAGIC) {
        return Err(no_log());
    }
    let sector = number(log, 24).ok_or_else(no_log)? as u32 as usize;
    let mut entries = Vec::new();
    let mut at = sector;
    while let (Some(first), Some(sectors), Some(flags)) =
        (number(log, at), number(log, at + 8), number(log, at + 16))
    {
        if sectors == 0 && flags == 0 {
            break;
        }
        at += sector;
        let len = match flags & DISCARD {
            0 => sectors as usize * sector,
            _ => 0,
        };
        let Some(data) = log.get(at..at + len) else {
            break;
        };
        entries.push(Entry {
            flags,
            offset: first * sector as u64,
            data,
        });
        at += len;
    }
    Ok(entries)
}

pub fn replay(seed: u64, log: &Path, image: &Path) -> io::Result<()> {
    let log = fs::read(log)?;
    let entries = entries(&log)?;
    let disk = OpenOptions::new().write(true).open(image)?;
    let flushed = entries
        .iter()
        .rposition(|entry| entry.flags & FLUSH != 0)
        .map_or(0, |last| last + 1);
    let mut random = Random::new(seed);
    // None of what came later, or any part.
    let most = [0, 1, 2, 4][random.below(4)];
    let mut lost = 0;
    for (number, entry) in entries.iter().enumerate() {
        let is_kept = number < flushed || entry.flags & FORCED != 0 || random.below(4) < most;
        if is_kept {
            disk.write_all_at(entry.data, entry.offset)?;
        } else {
            lost += 1;
        }
    }
    let flushes = entries.iter().filter(|entry| entry.flags & FLUSH != 0);
    println!(
        "{} requests, {} flushes; {lost} of {} later ones lost",
        entries.len(),
        flushes.count(),
        entries.len() - flushed
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{entries, DISCARD, FLUSH, MAGIC};

    #[test]
    fn a_log_ends_where_it_was_cut_off() {
        let sector = |fields: [u64; 4]| {
            let mut bytes: Vec<u8> = fields.into_iter().flat_map(u64::to_le_bytes).collect();
            bytes.resize(512, 0);
            bytes
        };
        let mut log = sector([MAGIC, 1, 0, 512]);
        log.extend(sector([8, 2, 0, 0]));
        log.extend([7; 1024]);
        log.extend(sector([0, 0, FLUSH, 0]));
        log.extend(sector([64, 100, DISCARD, 0]));
        let whole = log.len();
        log.extend(sector([16, 1, 0, 0]));
        log.extend([9; 511]);
        for end in [whole, log.len()] {
            let entries = entries(&log[..end]).unwrap();
            let all: Vec<_> = entries
                .iter()
                .map(|entry| (entry.flags, entry.offset, entry.data.len()))
                .collect();
            assert_eq!(all, [(0, 4096, 1024), (FLUSH, 0, 0), (DISCARD, 32768, 0)]);
        }
        assert!(super::entries(&[0; 4096]).is_err());
    }
}
