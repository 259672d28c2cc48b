// SPDX-License-Identifier: GPL-2.0

//! What a core dump has of a mapping: for a program that crashes, and whoever looks for the reason.

use crate::Test;
use mmapdev_userspace::child::{Child, Outcome};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::random::Random;
use mmapdev_userspace::{MIB, PAGE};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::process::{setrlimit, Resource, Rlimit, Signal};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;

const SIZE: usize = 4 * MIB;
const HUGE: &str = "huge=1 size_mib=4";
const SMALL: &str = "huge=0 size_mib=4";

pub(crate) const TESTS: &[Test] = &[
    Test::with("a_core_has_the_bytes_that_its_filter_asks_for", HUGE, dump),
    Test::with(
        "a_core_has_the_bytes_that_its_filter_asks_for_in_small_pages",
        SMALL,
        dump,
    ),
];

const PATTERN: &str = "/proc/sys/kernel/core_pattern";
const CORE: &str = "/tmp/mmapdev-core";
/// A file of a tmpfs, which is dumped in the same cases. (A memfd is not: it has no name, and so counts
/// as memory of the process's own.)
const MODEL: &str = "/dev/shm/mmapdev-model";

/// A file in each way that a core dump makes a difference between.
fn mappings(file: impl AsFd) -> io::Result<Vec<(&'static str, Mapping)>> {
    let map = |len, protection, flags| Mapping::new(&file, len, protection, flags, 0);
    // Past the end there is nothing to dump, and that must not end it.
    let shared = map(SIZE + MIB, READ_WRITE, MapFlags::SHARED)?;
    // A quarter is mapped, a quarter is in memory and not mapped here, and half has never been touched.
    shared.touch_read(0, SIZE / 4);
    let read_only = map(SIZE, ProtFlags::READ, MapFlags::SHARED)?;
    let excluded = map(SIZE, READ_WRITE, MapFlags::SHARED)?;
    excluded.touch_read(0, SIZE);
    excluded.advise(0, SIZE, Advice::LinuxDontDump)?;
    let private = map(SIZE, READ_WRITE, MapFlags::PRIVATE)?;
    private.touch_read(0, SIZE / 2);
    let copied = map(SIZE, READ_WRITE, MapFlags::PRIVATE)?;
    copied.write(5 * PAGE + 100, b"a copy");
    Ok(vec![
        ("shared", shared),
        ("shared and read-only", read_only),
        ("excluded", excluded),
        ("private", private),
        ("private and written to", copied),
    ])
}

/// Ends a child by a signal that dumps its core, and returns the core.
fn crash(filter: u32) -> io::Result<Vec<u8>> {
    let child = Child::run(|| {
        fs::write("/proc/self/coredump_filter", format!("{filter:#x}")).expect("the filter");
        let any = Rlimit {
            current: None,
            maximum: None,
        };
        setrlimit(Resource::Core, any).expect("the limit");
        std::process::abort()
    })?;
    let outcome = child.wait(None)?;
    assert_eq!(outcome, Outcome::Killed(Signal::ABORT.as_raw()));
    let core = fs::read(CORE)?;
    fs::remove_file(CORE)?;
    Ok(core)
}

/// What an ELF core has of the mapping at an address, if it lists it.
fn dumped(core: &[u8], address: usize) -> Option<&[u8]> {
    const LOAD: u64 = 1;
    let number = |at: usize, len: usize| {
        let bytes = core.get(at..at + len)?.iter().rev();
        Some(bytes.fold(0, |number: u64, &byte| (number << 8) | u64::from(byte)))
    };
    // The table of segments: where it is, how large an entry is, and how many there are.
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let entry = (table + index * size) as usize;
        if number(entry, 4)? == LOAD && number(entry + 16, 8)? == address as u64 {
            let (start, len) = (
                number(entry + 8, 8)? as usize,
                number(entry + 32, 8)? as usize,
            );
            return core.get(start..start + len);
        }
    }
    None
}

fn dump() -> io::Result<()> {
    const ANON_PRIVATE: u32 = 1 << 0;
    const ANON_SHARED: u32 = 1 << 1;
    const FILE_PRIVATE: u32 = 1 << 2;
    const FILE_SHARED: u32 = 1 << 3;
    let device = Device::open()?;
    let options = File::options().read(true).write(true).create(true).clone();
    let model = options.open(MODEL)?;
    fs::remove_file(CORE).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    model.set_len(SIZE as u64)?;
    let mut expected = Random::new(11).bytes(SIZE / 2);
    for file in [device.as_fd(), model.as_fd()] {
        assert_eq!(rustix::io::pwrite(file, &expected, 0)?, SIZE / 2);
    }
    expected.resize(SIZE, 0);
    let (of_device, of_model) = (mappings(&device)?, mappings(&model)?);

    let pattern = fs::read_to_string(PATTERN)?;
    fs::write(PATTERN, CORE)?;
    let filters = [
        ANON_PRIVATE,
        ANON_SHARED,
        FILE_PRIVATE,
        FILE_SHARED,
        FILE_PRIVATE | FILE_SHARED,
    ];
    let cores: io::Result<Vec<_>> = filters.into_iter().map(crash).collect();
    fs::write(PATTERN, pattern)?;
    fs::remove_file(MODEL)?;

    for (filter, core) in filters.into_iter().zip(cores?) {
        for ((name, ours), (_, models)) in of_device.iter().zip(&of_model) {
            let [ours, models] = [ours, models].map(|mapping| {
                dumped(&core, mapping.address(0)).expect("a segment for each mapping")
            });
            let what = format!("{name}, filter {filter:#x}");
            let lens = (ours.len(), models.len());
            assert_eq!(lens.0, lens.1, "{what}");
            assert!(ours == models, "{what}: not the bytes of the model");
            let is_wanted = match *name {
                "excluded" => false,
                "private" => filter & FILE_PRIVATE != 0,
                "private and written to" => filter & (FILE_PRIVATE | ANON_PRIVATE) != 0,
                _ => filter & FILE_SHARED != 0,
            };
            assert_eq!(!ours.is_empty(), is_wanted, "{what}");
            if is_wanted && *name != "private and written to" {
                assert!(
                    ours.starts_with(&expected),
                    "{what}: not the device's bytes"
                );
            }
        }
    }
    Ok(())
}
