// SPDX-License-Identifier: GPL-2.0

//! One device in several processes, through several nodes and through both kinds of access.

use crate::{wait_for, Test};
use mmapdev_userspace::child::Child;
use mmapdev_userspace::device::{self, Device};
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::random::Random;
use mmapdev_userspace::{pagemap, slowness, HUGE_PAGE, MIB, PAGE};
use rustix::fs::{self, FileType, MemfdFlags, Mode, OFlags, CWD};
use rustix::io::{pread, pwrite};
use rustix::thread::{futex, sched_yield};
use rustix::time::Timespec;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const SIZE: usize = 4 * MIB;
const PAGES: usize = SIZE / PAGE;
const HUGE: &str = "huge=1 size_mib=4";
const SMALL: &str = "huge=0 size_mib=4";

pub(crate) const TESTS: &[Test] = &[
    Test::with("two_processes_have_the_same_frames", HUGE, same_frames),
    Test::with(
        "two_processes_have_the_same_frames_in_small_pages",
        SMALL,
        same_frames,
    ),
    Test::with("two_nodes_are_one_device", HUGE, two_nodes),
    Test::with("two_nodes_are_one_device_in_small_pages", SMALL, two_nodes),
    Test::with(
        "a_store_is_seen_by_another_process_without_a_call",
        HUGE,
        ping_pong,
    ),
    Test::with(
        "a_store_is_seen_by_another_process_without_a_call_in_small_pages",
        SMALL,
        ping_pong,
    ),
    Test::with("a_store_is_seen_by_pread", HUGE, store_then_pread),
    Test::with(
        "a_store_is_seen_by_pread_in_small_pages",
        SMALL,
        store_then_pread,
    ),
    Test::with("a_pwrite_is_seen_by_the_mapping", HUGE, pwrite_then_load),
    Test::with(
        "a_pwrite_is_seen_by_the_mapping_in_small_pages",
        SMALL,
        pwrite_then_load,
    ),
    Test::with(
        "a_debugger_reads_and_writes_the_mapping",
        HUGE,
        another_processs_memory,
    ),
    Test::with(
        "a_debugger_reads_and_writes_the_mapping_in_small_pages",
        SMALL,
        another_processs_memory,
    ),
    Test::with("a_pwrite_is_seen_by_another_process", HUGE, || {
        let device = Device::open()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        let child = Child::run(|| {
            let device = Device::open().expect("the device");
            for round in 1..=50u64 {
                wait_for(mapping.word(0), round);
                let answer = round.to_ne_bytes();
                pwrite(&device, &answer, HUGE_PAGE as u64).expect("to write");
            }
            Vec::new()
        })?;
        for round in 1..=50u64 {
            mapping.word(0).store(round, Ordering::SeqCst);
            wait_for(mapping.word(HUGE_PAGE), round);
        }
        child.join();
        Ok(())
    }),
    Test::with(
        "a_futex_wakes_a_process_at_another_node",
        HUGE,
        shared_futex,
    ),
    Test::with(
        "a_futex_wakes_a_process_at_another_node_in_small_pages",
        SMALL,
        shared_futex,
    ),
    Test::with("increments_of_four_processes_add_up", HUGE, increments),
    Test::with(
        "increments_of_four_processes_add_up_in_small_pages",
        SMALL,
        increments,
    ),
    Test::with(
        "a_race_for_absent_pages_brings_each_once",
        "huge=1 size_mib=4 devices=4",
        race,
    ),
    Test::with(
        "a_race_for_absent_pages_brings_each_once_in_small_pages",
        "huge=0 size_mib=4 devices=4",
        race,
    ),
];

/// The device, opened anew and mapped as a process does that knows of no other.
fn map_anew(path: &str) -> Mapping {
    let device = Device::open_with(path, OFlags::RDWR).expect("the device");
    Mapping::shared(&device, SIZE).expect("to map it")
}

/// The frames behind the pages of a mapping, all of which are touched, as bytes.
fn frames(mapping: &Mapping) -> Vec<u8> {
    mapping.touch_read(0, SIZE);
    let frame = |page| pagemap::frame(mapping.address(page * PAGE)).expect("the page map");
    (0..PAGES)
        .flat_map(|page| frame(page).expect("a page that was touched").to_ne_bytes())
        .collect()
}

/// Asserts that these are the frames that the device itself reports, no two of them the same.
fn assert_frames(device: &Device, bytes: &[u8]) -> io::Result<()> {
    let mut frames = Vec::new();
    for (page, bytes) in bytes.chunks(8).enumerate() {
        let frame = device.frame((page * PAGE) as u64)?.frame;
        assert_eq!(bytes, frame.to_ne_bytes(), "page {page}");
        frames.push(frame);
    }
    frames.sort();
    frames.dedup();
    assert_eq!(frames.len(), PAGES);
    Ok(())
}

/// Another node of the first device, which goes when this is dropped.
struct Node(String);

impl Node {
    fn new(path: &str) -> io::Result<Self> {
        let number = fs::stat(device::FIRST)?.st_rdev;
        let mode = Mode::RUSR | Mode::WUSR;
        let _ = fs::unlink(path);
        fs::mknodat(CWD, path, FileType::CharacterDevice, mode, number)?;
        Ok(Self(path.to_string()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::unlink(&self.0);
    }
}

fn same_frames() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    mapping.touch_write(0, SIZE / 2, 1);
    // The second half is brought in by the child; both have it mapped at once.
    let theirs = Child::run(|| frames(&map_anew(device::FIRST)))?.join();
    assert_eq!(frames(&mapping), theirs);
    assert_frames(&device, &theirs)
}

fn two_nodes() -> io::Result<()> {
    let node = Node::new("/tmp/mmapdev-other-node")?;
    let device = Device::open()?;
    let (one, other) = (map_anew(device::FIRST), map_anew(&node.0));
    for offset in [0, PAGE, HUGE_PAGE, SIZE - 1] {
        one.store(offset, 1);
        assert_eq!(other.load(offset), 1);
        other.store(offset, 2);
        assert_eq!(one.load(offset), 2);
        let mut byte = [0];
        pread(
            Device::open_with(&node.0, OFlags::RDONLY)?,
            &mut byte,
            offset as u64,
        )?;
        assert_eq!(byte, [2]);
    }
    assert_eq!(frames(&one), frames(&other));
    assert_frames(&device, &frames(&other))?;
    let through_other = Device::open_with(&node.0, OFlags::RDWR)?;
    assert_eq!(through_other.frame(0)?.frame, device.frame(0)?.frame);
    assert_eq!(through_other.counters()?, device.counters()?);
    Ok(())
}

fn ping_pong() -> io::Result<()> {
    const ROUNDS: u64 = 1000;
    let mapping = map_anew(device::FIRST);
    // Each has a page that it writes to and the other reads.
    let (ping, pong) = (8, HUGE_PAGE + 3 * PAGE);
    let child = Child::run(|| {
        let mapping = map_anew(device::FIRST);
        for round in 1..=ROUNDS {
            wait_for(mapping.word(ping), round);
            mapping.word(pong).store(round, Ordering::SeqCst);
        }
        Vec::new()
    })?;
    for round in 1..=ROUNDS {
        mapping.word(ping).store(round, Ordering::SeqCst);
        wait_for(mapping.word(pong), round);
    }
    child.join();
    Ok(())
}

/// Pieces of the device of many sizes, some of which cross borders of pages and of huge pages.
fn pieces() -> impl Iterator<Item = (usize, Vec<u8>)> {
    let mut random = Random::new(3);
    let fixed = [
        (0, 1),
        (PAGE - 1, 2),
        (HUGE_PAGE - 3000, 6000),
        (SIZE - 1, 1),
    ];
    let mut ranges = fixed.to_vec();
    for _ in 0..60 {
        let len = 1 + random.below(3 * PAGE);
        ranges.push((random.below(SIZE - len), len));
    }
    ranges
        .into_iter()
        .map(move |(offset, len)| (offset, random.bytes(len)))
}

fn store_then_pread() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    for (offset, bytes) in pieces() {
        mapping.write(offset, &bytes);
        let mut read = vec![0; bytes.len()];
        assert_eq!(pread(&device, &mut read, offset as u64)?, bytes.len());
        assert!(read == bytes, "{} bytes at {offset:#x}", bytes.len());
    }
    Ok(())
}

fn pwrite_then_load() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    for (index, (offset, bytes)) in pieces().enumerate() {
        if index % 2 == 0 {
            // Mapped before it is written, else after.
            mapping.load(offset);
        }
        assert_eq!(pwrite(&device, &bytes, offset as u64)?, bytes.len());
        let seen = mapping.read(offset, bytes.len());
        assert!(seen == bytes, "{} bytes at {offset:#x}", bytes.len());
    }
    Ok(())
}

fn shared_futex() -> io::Result<()> {
    let limit = Timespec {
        tv_sec: i64::from(slowness()) * 5,
        tv_nsec: 0,
    };
    let node = Node::new("/tmp/mmapdev-futex-node")?;
    let mapping = map_anew(device::FIRST);
    for place in [4, HUGE_PAGE + 5 * PAGE] {
        // The word stays as it is, so that nothing but the wake ends the wait.
        let child = Child::run(|| {
            let mapping = map_anew(&node.0);
            let word = mapping.half_word(place);
            futex::wait(word, futex::Flags::empty(), 0, Some(&limit)).expect("to be woken");
            Vec::new()
        })?;
        let deadline = Instant::now() + slowness() * Duration::from_secs(5);
        // The kernel says how many it has woken: none until the child waits.
        while futex::wake(mapping.half_word(place), futex::Flags::empty(), 1)? == 0 {
            assert!(Instant::now() < deadline, "no one waits for this word");
            sched_yield();
        }
        child.join();
    }
    Ok(())
}

fn increments() -> io::Result<()> {
    const PROCESSES: usize = 4;
    const EACH: u64 = 20_000;
    let words = [16, PAGE, HUGE_PAGE + PAGE];
    let count = |mapping: &Mapping| {
        for _ in 0..EACH {
            for word in words {
                mapping.word(word).fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let mapping = map_anew(device::FIRST);
    let mut children = Vec::new();
    for _ in 1..PROCESSES {
        children.push(Child::run(|| {
            count(&map_anew(device::FIRST));
            Vec::new()
        })?);
    }
    count(&mapping);
    for child in children {
        child.join();
    }
    for word in words {
        assert_eq!(
            mapping.word(word).load(Ordering::SeqCst),
            PROCESSES as u64 * EACH
        );
    }
    Ok(())
}

fn race() -> io::Result<()> {
    // Where they wait for each other must not be a page that they race for.
    let memfd = fs::memfd_create("gate", MemfdFlags::CLOEXEC)?;
    fs::ftruncate(&memfd, PAGE as u64)?;
    let gate = Mapping::shared(&memfd, PAGE)?;
    for number in 0..4 {
        let path = format!("/dev/mmapdev{number}");
        let touch_all = |id: u8| {
            let mapping = map_anew(&path);
            let gate = gate.word(8 * number);
            gate.fetch_add(1, Ordering::SeqCst);
            wait_for(gate, 2);
            for page in 0..PAGES {
                mapping.store(page * PAGE + usize::from(id), id);
            }
            frames(&mapping)
        };
        let child = Child::run(|| touch_all(2))?;
        let mine = touch_all(1);
        let theirs = child.join();
        assert_eq!(mine, theirs);
        let device = Device::open_with(&path, OFlags::RDWR)?;
        assert_frames(&device, &mine)?;
        let mapping = Mapping::shared(&device, SIZE)?;
        for page in 0..PAGES {
            let stores = (mapping.load(page * PAGE + 1), mapping.load(page * PAGE + 2));
            assert_eq!(stores, (1, 2), "page {page}");
        }
        assert_eq!(device.info()?.resident_bytes, SIZE as u64);
        let counters = device.counters()?;
        let folio_bytes = device.frame(0)?.folio_bytes;
        assert_eq!(counters.bytes_added, SIZE as u64);
        assert_eq!(counters.folios_added, SIZE as u64 / folio_bytes);
    }
    Ok(())
}

/// Through `/proc/PID/mem`, as gdb does it: pages that are mapped, and pages that nobody has touched.
fn another_processs_memory() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    let touched = PAGE + 5;
    let untouched = SIZE - PAGE + 7;
    mapping.write(touched, b"from here");
    let process = rustix::process::getpid().as_raw_pid();
    let addresses = [touched, untouched].map(|offset| mapping.address(offset) as u64);
    let seen = Child::run(|| {
        let path = format!("/proc/{process}/mem");
        let memory = File::options()
            .read(true)
            .write(true)
            .open(path)
            .expect("its memory");
        let mut seen = [0; 18];
        for (bytes, address) in seen.chunks_mut(9).zip(addresses) {
            memory.read_exact_at(bytes, address).expect("a read");
            memory.write_all_at(b"from away", address).expect("a write");
        }
        seen.to_vec()
    })?;
    assert_eq!(seen.join(), [&b"from here"[..], &[0; 9]].concat());
    for offset in [touched, untouched] {
        let mut bytes = [0; 9];
        assert_eq!(pread(&device, &mut bytes, offset as u64), Ok(9));
        assert_eq!(&bytes, b"from away");
        assert_eq!(mapping.read(offset, 9), b"from away");
    }
    Ok(())
}
