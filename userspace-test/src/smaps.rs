// SPDX-License-Identifier: GPL-2.0

//! What the kernel says about one mapping of this process.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

/// `struct procmap_query` of `linux/fs.h`.
#[derive(Default)]
#[repr(C)]
struct Query {
    size: u64,
    flags: u64,
    address: u64,
    // Out: addresses, flags, page size, offset and inode of the mapping, and the device.
    mapping: [u64; 7],
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

const PROCMAP_QUERY: u32 = 0xC068_6611;
const LARGEST_BUILD_ID: usize = 20;

/// The fields of `/proc/self/smaps`, sizes in bytes, of the mapping that holds an address.
pub fn of(address: usize) -> io::Result<HashMap<String, u64>> {
    let text = fs::read_to_string("/proc/self/smaps")?;
    parse(&text, address).ok_or_else(|| io::Error::other("no mapping at that address"))
}

/// Has the kernel look for a build id in what is mapped at an address, and returns what it has found: of a file that is no
/// program nothing.
pub fn build_id(address: usize) -> io::Result<Vec<u8>> {
    let mut found = vec![0; LARGEST_BUILD_ID];
    let mut query = Query {
        size: size_of::<Query>() as u64,
        address: address as u64,
        build_id_size: found.len() as u32,
        build_id: found.as_mut_ptr() as u64,
        ..Query::default()
    };
    let maps = File::open("/proc/self/maps")?;
    // SAFETY: The kernel writes to the structure, and to as many bytes of `found` as that says at most.
    if unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY.into(), &mut query) } < 0 {
        return Err(io::Error::last_os_error());
    }
    found.truncate(query.build_id_size as usize);
    Ok(found)
}

/// The addresses of all mappings of this process.
pub fn ranges() -> io::Result<Vec<(usize, usize)>> {
    Ok(fs::read_to_string("/proc/self/maps")?
        .lines()
        .filter_map(range)
        .collect())
}

fn parse(text: &str, address: usize) -> Option<HashMap<String, u64>> {
    let mut fields = None;
    for line in text.lines() {
        if let Some((start, end)) = range(line) {
            if fields.is_some() {
                break;
            }
            if (start..end).contains(&address) {
                fields = Some(HashMap::new());
            }
        } else if let (Some(fields), Some((name, value))) = (&mut fields, line.split_once(':')) {
            let (number, unit) = match value.trim().strip_suffix(" kB") {
                Some(number) => (number, 1 << 10),
                None => (value.trim(), 1),
            };
            if let Ok(number) = number.parse::<u64>() {
                fields.insert(name.to_string(), number * unit);
            }
        }
    }
    fields
}

/// The addresses of a mapping's first line; the other lines begin with a word and a colon.
fn range(line: &str) -> Option<(usize, usize)> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    Some((
        usize::from_str_radix(start, 16).ok()?,
        usize::from_str_radix(end, 16).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::parse;

    const TEXT: &str = "\
7f0000000000-7f0000002000 rw-s 00000000 00:09 99 /dev/mmapdev0
Size:                  8 kB
Rss:                   4 kB
VmFlags: rd wr sh mr mw me ms
7f0000002000-7f0000003000 r--p 00000000 00:00 0
Rss:                   0 kB
";

    #[test]
    fn finds_the_mapping_and_its_numbers() {
        let fields = parse(TEXT, 0x7f00_0000_1fff).unwrap();
        assert_eq!((fields["Size"], fields["Rss"]), (8192, 4096));
        assert!(!fields.contains_key("VmFlags"));
        assert_eq!(parse(TEXT, 0x7f00_0000_2000).unwrap()["Rss"], 0);
        assert!(parse(TEXT, 0x1000).is_none());
    }
}
