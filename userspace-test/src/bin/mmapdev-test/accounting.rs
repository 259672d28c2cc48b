// SPDX-License-Identifier: GPL-2.0

//! Who is said to use the device's memory, who is charged for it, and what a limit does.

use crate::Test;
use mmapdev_userspace::cgroup::Cgroup;
use mmapdev_userspace::child::{Child, Outcome};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::memory;
use mmapdev_userspace::module::{self, Loaded};
use mmapdev_userspace::{slowness, smaps, HUGE_PAGE, MIB, PAGE};
use rustix::fs::{self, MemfdFlags};
use rustix::io::{pread, pwrite};
use rustix::mm::{MapFlags, MlockFlags};
use rustix::process::Signal;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

const SIZE: usize = 16 * MIB;
const HUGE: &str = "huge=1 size_mib=16";
const SMALL: &str = "huge=0 size_mib=16";
/// What single CPUs may have charged or counted that is not added up yet, and what a process of the
/// test's has for itself.
const SLACK: u64 = MIB as u64;

pub(crate) const TESTS: &[Test] = &[
    Test::with("smaps_shares_out_pages_as_for_a_memfd", HUGE, smaps_shares),
    Test::with(
        "smaps_shares_out_pages_as_for_a_memfd_in_small_pages",
        SMALL,
        smaps_shares,
    ),
    Test::with("a_mapping_is_in_the_files_part_of_rss", HUGE, status),
    Test::with(
        "a_mapping_is_in_the_files_part_of_rss_in_small_pages",
        SMALL,
        status,
    ),
    Test::with("nothing_stays_mapped_when_a_process_ends", HUGE, end),
    Test::with(
        "nothing_stays_mapped_when_a_process_ends_in_small_pages",
        SMALL,
        end,
    ),
    Test::with("who_touches_first_is_charged", HUGE, || charged(touch)),
    Test::with("who_touches_first_is_charged_in_small_pages", SMALL, || {
        charged(touch)
    }),
    Test::with("who_writes_first_is_charged", HUGE, || charged(write)),
    Test::with("who_writes_first_is_charged_in_small_pages", SMALL, || {
        charged(write)
    }),
    Test::without_module("what_is_charged_goes_with_the_module", || {
        let cgroup = Cgroup::new("goes-with-the-module")?;
        for huge in ["huge=1 size_mib=16", "huge=0 size_mib=16"] {
            let module = Loaded::with(huge)?;
            within(&cgroup, || touch(&Device::open()?, 0, SIZE))?;
            assert!(cgroup.charged()? >= SIZE as u64, "{huge}");
            module.unload()?;
            let left = cgroup.charged()?;
            assert!(left < SLACK, "{huge}: {left} bytes are still charged");
        }
        Ok(())
    }),
    Test::with(
        "a_touch_over_the_limit_is_killed",
        HUGE,
        touches_over_the_limit,
    ),
    Test::with(
        "a_touch_over_the_limit_is_killed_in_small_pages",
        SMALL,
        touches_over_the_limit,
    ),
    Test::with("a_write_over_the_limit_is_killed", HUGE, || limited(write)),
    Test::with(
        "a_write_over_the_limit_is_killed_in_small_pages",
        SMALL,
        || limited(write),
    ),
    Test::with("reading_what_is_untouched_needs_no_memory", HUGE, || {
        let device = Device::open()?;
        let cgroup = Cgroup::with_limit("reads-zeros", SIZE as u64 / 4)?;
        within(&cgroup, || {
            let mut bytes = vec![1; MIB];
            for at in (0..SIZE).step_by(MIB) {
                assert_eq!(pread(&device, &mut bytes, at as u64)?, MIB);
                assert!(bytes.iter().all(|&byte| byte == 0));
            }
            Ok(())
        })?;
        assert_eq!(cgroup.events("oom_kill")?, 0);
        assert_eq!(device.info()?.resident_bytes, 0);
        Ok(())
    }),
    Test::without_module("a_write_of_one_byte_shows_no_stale_ones", || {
        stale_around_a_write("huge=1 size_mib=64")
    }),
    Test::without_module(
        "a_write_of_one_byte_shows_no_stale_ones_in_small_pages",
        || stale_around_a_write("huge=0 size_mib=64"),
    ),
];

/// What smaps says of one mapping, of that which the kinds of pages do not change.
fn shares(mapping: &Mapping) -> io::Result<Vec<(&'static str, u64)>> {
    let fields = smaps::of(mapping.address(0))?;
    let names = [
        "Rss",
        "Pss",
        "Pss_Dirty",
        "Shared_Clean",
        "Shared_Dirty",
        "Private_Clean",
        "Private_Dirty",
        "Anonymous",
        "Swap",
    ];
    Ok(names.map(|name| (name, fields[name])).to_vec())
}

/// What smaps says in each of some states of the mappings of a file.
fn states(file: impl AsFd) -> io::Result<Vec<Vec<(&'static str, u64)>>> {
    let mut states = Vec::new();
    let mut one = Mapping::shared(&file, SIZE)?;
    states.push(shares(&one)?);
    one.touch_write(0, SIZE, 1);
    states.push(shares(&one)?);
    {
        let half = Mapping::shared(&file, SIZE / 2)?;
        half.touch_write(0, SIZE / 2, 1);
        states.push(shares(&one)?);
        states.push(shares(&half)?);
        let private = Mapping::new(&file, SIZE / 2, READ_WRITE, MapFlags::PRIVATE, 0)?;
        private.touch_read(0, SIZE / 2);
        states.push(shares(&private)?);
        private.touch_write(0, 100 * PAGE, 2);
        private.touch_read(0, SIZE / 2);
        states.push(shares(&private)?);
        states.push(shares(&one)?);
    }
    states.push(shares(&one)?);
    // A whole huge page: of one that is cut, what is left has to be touched again, as on a tmpfs.
    one.unmap(SIZE - HUGE_PAGE, HUGE_PAGE)?;
    states.push(shares(&one)?);
    Ok(states)
}

fn smaps_shares() -> io::Result<()> {
    let memfd = fs::memfd_create("comparison", MemfdFlags::CLOEXEC)?;
    fs::ftruncate(&memfd, SIZE as u64)?;
    let expected = states(&memfd)?;
    let seen = states(Device::open()?)?;
    // The numbers that are plain, so that not both are wrong.
    let field = |state: &Vec<(&str, u64)>, name: &str| {
        let field = state.iter().find(|(field, _)| *field == name);
        field.map(|&(_, bytes)| bytes as usize)
    };
    assert_eq!(field(&seen[0], "Rss"), Some(0));
    assert_eq!(field(&seen[1], "Private_Dirty"), Some(SIZE));
    assert_eq!(field(&seen[2], "Pss"), Some(SIZE * 3 / 4));
    assert_eq!(field(&seen[3], "Shared_Dirty"), Some(SIZE / 2));
    assert_eq!(field(&seen[5], "Anonymous"), Some(100 * PAGE));
    for (number, (seen, expected)) in seen.iter().zip(&expected).enumerate() {
        assert_eq!(seen, expected, "state {number}, and that of a memfd");
    }
    Ok(())
}

/// A field of `/proc/self/status`, in bytes.
fn status_of(name: &str) -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields
        .find(|(field, _)| *field == name)
        .and_then(|(_, value)| value.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .map(|kib| kib << 10)
        .ok_or_else(|| io::Error::other(format!("no {name} in status")))
}

fn status() -> io::Result<()> {
    /// What else of the program's own file may come to be mapped meanwhile.
    const OTHERS: u64 = MIB as u64;
    let device = Device::open()?;
    let names = ["VmRSS", "RssFile", "RssShmem", "RssAnon"];
    let numbers = || -> io::Result<Vec<u64>> { names.into_iter().map(status_of).collect() };
    let before = numbers()?;
    let assert_more = |expected: [usize; 4]| {
        for (index, more) in expected.into_iter().enumerate() {
            let (now, low) = (numbers()?[index], before[index] + more as u64);
            let range = low.saturating_sub(OTHERS)..low + OTHERS;
            assert!(
                range.contains(&now),
                "{}: {now}, not in {range:?}",
                names[index]
            );
        }
        io::Result::Ok(())
    };
    let mut mapping = Mapping::shared(&device, SIZE)?;
    mapping.touch_write(0, SIZE, 1);
    assert_more([SIZE, SIZE, 0, 0])?;
    let private = Mapping::new(&device, SIZE, READ_WRITE, MapFlags::PRIVATE, 0)?;
    private.touch_write(0, SIZE, 1);
    assert_more([2 * SIZE, SIZE, 0, SIZE])?;
    drop(private);
    mapping.unmap(0, HUGE_PAGE)?;
    let rest = SIZE - HUGE_PAGE;
    assert_more([rest, rest, 0, 0])?;
    drop(mapping);
    assert_more([0; 4])
}

/// Processes end in each way with the device mapped in each way.
fn end() -> io::Result<()> {
    let mapped = || -> io::Result<[u64; 3]> {
        let [file, pmd] = ["nr_mapped", "nr_file_pmdmapped"].map(memory::vmstat);
        Ok([file?, pmd?, memory::vmstat("nr_mlock")?])
    };
    let device = Device::open()?;
    Mapping::shared(&device, SIZE)?.touch_write(0, SIZE, 1);
    let (before, users) = (mapped()?, module::users()?);
    let map_everything = || -> io::Result<Vec<Mapping>> {
        let whole = Mapping::shared(Device::open()?, SIZE)?;
        whole.touch_write(0, SIZE, 1);
        let mut holed = Mapping::shared(&device, SIZE)?;
        holed.touch_read(0, SIZE);
        holed.unmap(3 * PAGE, 5 * PAGE)?;
        let moved = holed.move_leaving(HUGE_PAGE, HUGE_PAGE)?;
        moved.touch_read(0, PAGE);
        let locked = Mapping::new(&device, SIZE, READ_WRITE, MapFlags::SHARED, 0)?;
        locked.lock(0, HUGE_PAGE + PAGE, MlockFlags::empty())?;
        let private = Mapping::new(&device, SIZE, READ_WRITE, MapFlags::PRIVATE, 0)?;
        private.touch_read(0, SIZE);
        private.touch_write(0, SIZE / 2, 2);
        let beyond = Mapping::new(&device, SIZE, READ_WRITE, MapFlags::SHARED, SIZE as u64 / 2)?;
        beyond.touch_write(0, SIZE / 2, 3);
        Ok(vec![whole, holed, moved, locked, private, beyond])
    };
    for is_killed in [false, true] {
        let child = Child::run(|| {
            let mappings = map_everything().expect("to map everything");
            if is_killed {
                let own = rustix::process::getpid();
                let _ = rustix::process::kill_process(own, Signal::KILL);
            }
            // Nothing is unmapped but by the end of the process.
            std::mem::forget(mappings);
            Vec::new()
        })?;
        let expected = match is_killed {
            true => Outcome::Killed(Signal::KILL.as_raw()),
            false => Outcome::Returned(Vec::new()),
        };
        assert_eq!(child.wait(None)?, expected);
        let after = mapped()?;
        for (after, before) in after.into_iter().zip(before) {
            let less_than = SLACK / PAGE as u64;
            assert!(
                after.abs_diff(before) < less_than,
                "{after} pages, {before} before"
            );
        }
        assert_eq!(module::users()?, users);
    }
    Ok(())
}

/// Does something in a process that belongs to a cgroup.
fn within(cgroup: &Cgroup, body: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    match run_within(cgroup, body)? {
        Outcome::Returned(bytes) if bytes.is_empty() => Ok(()),
        other => Err(io::Error::other(format!("within a cgroup: {other:?}"))),
    }
}

fn run_within(cgroup: &Cgroup, body: impl FnOnce() -> io::Result<()>) -> io::Result<Outcome> {
    let child = Child::run(|| match cgroup.enter().and_then(|()| body()) {
        Ok(()) => Vec::new(),
        Err(error) => error.to_string().into_bytes(),
    })?;
    child.wait(Some(slowness() * Duration::from_secs(20)))
}

/// Brings in a part of the device.
type BringIn = fn(&Device, usize, usize) -> io::Result<()>;

fn touch(device: &Device, start: usize, len: usize) -> io::Result<()> {
    let mapping = Mapping::new(device, len, READ_WRITE, MapFlags::SHARED, start as u64)?;
    // By loads and by stores.
    mapping.touch_read(0, len / 2);
    mapping.touch_write(0, len, 7);
    Ok(())
}

fn write(device: &Device, start: usize, len: usize) -> io::Result<()> {
    let bytes = vec![7; 3 * PAGE];
    for at in (start..start + len).step_by(bytes.len()) {
        let len = bytes.len().min(start + len - at);
        let written = pwrite(device, &bytes[..len], at as u64)?;
        if written < len {
            return Err(io::Error::other(format!("only {written} of {len} bytes")));
        }
    }
    Ok(())
}

fn charged(bring_in: BringIn) -> io::Result<()> {
    const HALF: usize = SIZE / 2;
    let device = Device::open()?;
    let (first, second) = (Cgroup::new("first")?, Cgroup::new("second")?);
    within(&first, || bring_in(&device, 0, HALF))?;
    // The first half is the first's, though the second uses it, too.
    within(&second, || bring_in(&device, 0, SIZE))?;
    for cgroup in [&first, &second] {
        let expected = HALF as u64 - SLACK..HALF as u64 + SLACK;
        let (charged, file) = (cgroup.charged()?, cgroup.stat("file")?);
        assert!(expected.contains(&charged), "{charged} bytes are charged");
        assert!(expected.contains(&file), "{file} bytes of files");
    }
    Ok(())
}

/// Brings in more than a cgroup may have: whoever does so is killed, and nothing else goes wrong.
fn limited(bring_in: BringIn) -> io::Result<()> {
    const LIMIT: u64 = SIZE as u64 / 2;
    let device = Device::open()?;
    let cgroup = Cgroup::with_limit("limited", LIMIT)?;
    // Once more: what the first has left behind is charged still.
    for round in 1..=2 {
        let outcome = run_within(&cgroup, || bring_in(&device, 0, SIZE))?;
        assert_eq!(outcome, Outcome::Killed(Signal::KILL.as_raw()));
        assert_eq!(cgroup.events("oom_kill")?, round);
        let charged = cgroup.charged()?;
        assert!(charged <= LIMIT, "{charged} bytes are charged");
        let resident = device.info()?.resident_bytes;
        assert!(
            (LIMIT / 2..=LIMIT).contains(&resident),
            "{resident} bytes are in memory"
        );
    }
    // Who has no limit gets the rest; and what is there, is whole.
    bring_in(&device, 0, SIZE)?;
    let mapping = Mapping::shared(&device, SIZE)?;
    for at in (0..SIZE).step_by(PAGE) {
        assert_eq!(mapping.load(at), 7, "{at:#x}");
    }
    assert_eq!(device.info()?.resident_bytes, SIZE as u64);
    Ok(())
}

/// A touch that was killed is counted as one that memory was too short for; but for those that a page table was.
fn touches_over_the_limit() -> io::Result<()> {
    limited(touch)?;
    let counters = Device::open()?.counters()?;
    assert!(counters.out_of_memory >= 1, "{counters:?}");
    assert_eq!(counters.failed_faults, counters.out_of_memory);
    Ok(())
}

/// Free memory is made to hold something; a write of one byte then must not show what is around it.
fn stale_around_a_write(parameters: &str) -> io::Result<()> {
    const LEN: usize = 64 * MIB;
    const FILL: usize = 500 * MIB;
    {
        let mapping = Mapping::anonymous(FILL)?;
        let words = Mapping::anonymous(PAGE)?;
        words.write(0, &[0xAA; PAGE]);
        let page = words.read(0, PAGE);
        for at in (0..FILL).step_by(MIB) {
            mapping.touch_write(at, MIB, 0xAA);
        }
        // All of each page of some, so that no place within a page is always zero.
        for at in (0..FILL).step_by(8 * PAGE) {
            mapping.write(at, &page);
        }
    }
    let module = Loaded::with(parameters)?;
    {
        let device = Device::open()?;
        for at in (0..LEN).step_by(PAGE) {
            // At the start, in the middle and at the end of pages.
            let at = at + [0, PAGE / 2 + 1, PAGE - 1][at / PAGE % 3];
            assert_eq!(pwrite(&device, &[0xAA], at as u64)?, 1);
            assert_eq!(pwrite(&device, &[0], at as u64)?, 1);
        }
        assert_eq!(device.info()?.resident_bytes, LEN as u64);
        let mut bytes = vec![1; MIB];
        for at in (0..LEN).step_by(MIB) {
            assert_eq!(pread(&device, &mut bytes, at as u64)?, MIB);
            assert!(bytes.iter().all(|&byte| byte == 0), "stale bytes, read");
        }
        assert_eq!(Mapping::shared(&device, LEN)?.sum(0, LEN), 0, "stale bytes");
    }
    module.unload()
}
