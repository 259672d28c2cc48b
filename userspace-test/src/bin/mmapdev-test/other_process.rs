// SPDX-License-Identifier: GPL-2.0

//! One process that looks into the mapping of another: `process_vm_readv()`, `process_vm_writev()` and gdb.
//! (`/proc/PID/mem` is in `share.rs`.)

use crate::{assert_errno, Test};
use mmapdev_userspace::child::Child;
use mmapdev_userspace::device::{self, Device};
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::{HUGE_PAGE, MIB, PAGE};
use rustix::fs::OFlags;
use rustix::io::{pread, Errno};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::getpid;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::Command;

const SIZE: usize = 4 * MIB;
const HUGE: &str = "huge=1 size_mib=4";
const SMALL: &str = "huge=0 size_mib=4";

pub(crate) const TESTS: &[Test] = &[
    Test::with("another_process_reads_the_mapping", HUGE, read),
    Test::with(
        "another_process_reads_the_mapping_in_small_pages",
        SMALL,
        read,
    ),
    Test::with("another_process_writes_the_mapping", HUGE, write),
    Test::with(
        "another_process_writes_the_mapping_in_small_pages",
        SMALL,
        write,
    ),
    Test::with("a_mapping_takes_the_memory_of_another_process", HUGE, take),
    Test::with(
        "a_mapping_takes_the_memory_of_another_process_in_small_pages",
        SMALL,
        take,
    ),
    Test::with_debian("gdb_reads_and_writes_the_mapping", HUGE, gdb),
    Test::with_debian(
        "gdb_reads_and_writes_the_mapping_in_small_pages",
        SMALL,
        gdb,
    ),
    Test::with("another_process_cannot_reach_beyond_the_end", HUGE, || {
        let device = Device::open()?;
        let mapping = Mapping::shared(&device, SIZE + PAGE)?;
        let (parent, address) = (getpid(), mapping.address(SIZE));
        let child = Child::run(|| {
            let memory = Mapping::anonymous(PAGE).expect("memory");
            let read = memory.read_from_process(parent, address, 0, 8);
            assert_errno(read, Errno::FAULT, "a read");
            let written = memory.write_to_process(parent, address, 0, 8);
            assert_errno(written, Errno::FAULT, "a write");
            Vec::new()
        })?;
        child.join();
        Ok(())
    }),
    Test::with(
        "what_is_mapped_for_reading_only_is_not_written_from_outside",
        HUGE,
        read_only,
    ),
    Test::with(
        "what_is_mapped_for_reading_only_is_not_written_from_outside_in_small_pages",
        SMALL,
        read_only,
    ),
];

/// By `process_vm_writev()` and by `/proc/PID/mem`, which takes no heed of the protection of memory that is the program's
/// own: whether the descriptor is open for writing or not, and whether the page is there or not.
fn read_only() -> io::Result<()> {
    for flags in [OFlags::RDONLY, OFlags::RDWR] {
        let device = Device::open_with(device::FIRST, flags)?;
        let mapping = Mapping::new(&device, SIZE, ProtFlags::READ, MapFlags::SHARED, 0)?;
        assert_eq!(mapping.load(0), 0);
        for place in [0, HUGE_PAGE] {
            let (parent, address) = (getpid(), mapping.address(place));
            let child = Child::run(|| {
                let memory = Mapping::anonymous(PAGE).expect("memory");
                memory.store(0, 42);
                let written = memory.write_to_process(parent, address, 0, 8);
                assert_errno(written, Errno::FAULT, "a write");
                let path = format!("/proc/{parent}/mem");
                let file = OpenOptions::new()
                    .write(true)
                    .open(path)
                    .expect("its memory");
                let written = file.write_at(&[42], address as u64);
                assert_errno(written, Errno::IO, "a debugger's write");
                Vec::new()
            })?;
            child.join();
            assert_eq!(mapping.load(place), 0);
        }
    }
    Ok(())
}

/// Across two huge pages, the second of which nobody has touched.
const PLACE: usize = HUGE_PAGE - 3 * PAGE - 5;
const LEN: usize = 6 * PAGE;

fn bytes() -> Vec<u8> {
    (0..LEN).map(|at| (at % 249) as u8 + 1).collect()
}

fn read() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    let before_the_edge = HUGE_PAGE - PLACE;
    mapping.write(PLACE, &bytes()[..before_the_edge]);
    let (parent, address) = (getpid(), mapping.address(PLACE));
    let child = Child::run(|| {
        let memory = Mapping::anonymous(2 * LEN).expect("memory");
        let count = memory.read_from_process(parent, address, 1, LEN);
        assert_eq!(count.expect("a read"), LEN);
        memory.read(1, LEN)
    })?;
    let mut expected = bytes();
    expected[before_the_edge..].fill(0);
    assert!(child.join() == expected);
    Ok(())
}

fn write() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    let (parent, address) = (getpid(), mapping.address(PLACE));
    let child = Child::run(|| {
        let memory = Mapping::anonymous(2 * LEN).expect("memory");
        memory.write(1, &bytes());
        let count = memory.write_to_process(parent, address, 1, LEN);
        assert_eq!(count.expect("a write"), LEN);
        Vec::new()
    })?;
    child.join();
    assert!(mapping.read(PLACE, LEN) == bytes());
    let mut seen = vec![0; LEN];
    assert_eq!(pread(&device, &mut seen, PLACE as u64)?, LEN);
    assert!(seen == bytes());
    Ok(())
}

/// gdb, from the Debian that the rig shares with the guest, attaches to this very process.
fn gdb() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    mapping.write(PLACE, b"\x2a\x2b\x2c");
    let (here, untouched) = (mapping.address(PLACE), mapping.address(SIZE - PAGE));
    let output = Command::new("chroot")
        .args(["/debian", "gdb", "-nx", "-batch", "-p"])
        .arg(getpid().as_raw_pid().to_string())
        .args(["-ex", &format!("x/3xb {here:#x}")])
        .args(["-ex", &format!("set {{char}}{here:#x} = 7")])
        .args(["-ex", &format!("set {{char}}{untouched:#x} = 8")])
        .output()?;
    let words = String::from_utf8_lossy(&output.stdout);
    let mut fields = words
        .lines()
        .find(|line| line.starts_with(&format!("{here:#x}")));
    let bytes: Vec<_> = fields
        .take()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .collect();
    assert_eq!(
        bytes,
        ["0x2a", "0x2b", "0x2c"],
        "{words} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!((mapping.load(PLACE), mapping.load(SIZE - PAGE)), (7, 8));
    let mut byte = [0];
    assert_eq!(pread(&device, &mut byte, PLACE as u64)?, 1);
    assert_eq!(byte, [7], "the device has it");
    Ok(())
}

fn take() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    let memory = Mapping::anonymous(2 * LEN)?;
    memory.write(1, &bytes());
    let (parent, address) = (getpid(), memory.address(1));
    let child = Child::run(|| {
        let count = mapping.read_from_process(parent, address, PLACE, LEN);
        assert_eq!(count.expect("a read"), LEN);
        let count = mapping.write_to_process(parent, address + LEN, PLACE, PAGE);
        assert_eq!(count.expect("a write"), PAGE);
        Vec::new()
    })?;
    child.join();
    assert!(mapping.read(PLACE, LEN) == bytes());
    assert!(memory.read(1 + LEN, PAGE) == bytes()[..PAGE]);
    Ok(())
}
