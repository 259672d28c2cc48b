// SPDX-License-Identifier: GPL-2.0

//! What becomes of a mapping after it is made: moved in part, locked in part, asked about, forbidden.

use crate::Test;
use mmapdev_userspace::child::{self, Touch};
use mmapdev_userspace::device::{self, Device};
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::{smaps, HUGE_PAGE, MIB, PAGE};
use rustix::fs::{self, MemfdFlags, Mode, OFlags};
use rustix::io::pread;
use rustix::mm::{MapFlags, MlockFlags, MprotectFlags, ProtFlags};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;

const SIZE: usize = 4 * MIB;
const PAGES: usize = SIZE / PAGE;
const HUGE: &str = "huge=1 size_mib=4";
const SMALL: &str = "huge=0 size_mib=4";

pub(crate) const TESTS: &[Test] = &[
    Test::with(
        "every_protection_allows_and_forbids_what_it_does_on_a_memfd",
        HUGE,
        every_protection,
    ),
    Test::with(
        "every_protection_allows_and_forbids_what_it_does_on_a_memfd_in_small_pages",
        SMALL,
        every_protection,
    ),
    Test::with("a_part_that_is_moved_keeps_its_bytes", HUGE, move_parts),
    Test::with(
        "a_part_that_is_moved_keeps_its_bytes_in_small_pages",
        SMALL,
        move_parts,
    ),
    Test::with(
        "a_part_that_is_moved_and_left_is_mapped_twice",
        HUGE,
        move_and_leave,
    ),
    Test::with(
        "a_part_that_is_moved_and_left_is_mapped_twice_in_small_pages",
        SMALL,
        move_and_leave,
    ),
    Test::with(
        "private_copies_move_and_leave_the_devices_pages",
        HUGE,
        move_private,
    ),
    Test::with(
        "private_copies_move_and_leave_the_devices_pages_in_small_pages",
        SMALL,
        move_private,
    ),
    Test::with("mincore_tells_which_pages_are_in_memory", SMALL, || {
        let device = Device::open()?;
        let touched = [0, 1, 77, 511, 512, PAGES - 1];
        let toucher = Mapping::shared(&device, SIZE)?;
        for page in touched {
            toucher.store(page * PAGE, 1);
        }
        // Whoever asks need not have touched them.
        for mapping in [&toucher, &Mapping::shared(&device, SIZE)?] {
            for (page, there) in mapping.in_memory(0, SIZE)?.into_iter().enumerate() {
                assert_eq!(there, touched.contains(&page), "page {page}");
            }
        }
        assert_eq!(
            device.info()?.resident_bytes,
            (touched.len() * PAGE) as u64,
            "to ask brings nothing in"
        );
        Ok(())
    }),
    Test::with("mincore_tells_of_the_whole_of_a_huge_page", HUGE, || {
        let device = Device::open()?;
        let toucher = Mapping::shared(&device, SIZE)?;
        toucher.store(HUGE_PAGE + 5 * PAGE, 1);
        for mapping in [&toucher, &Mapping::shared(&device, SIZE)?] {
            for (page, there) in mapping.in_memory(0, SIZE)?.into_iter().enumerate() {
                assert_eq!(there, page >= HUGE_PAGE / PAGE, "page {page}");
            }
        }
        Ok(())
    }),
    Test::with("locking_a_range_brings_in_that_range", SMALL, || {
        lock_range(MlockFlags::empty(), 10)
    }),
    Test::with(
        "locking_a_range_on_fault_brings_in_what_is_touched",
        SMALL,
        || lock_range(MlockFlags::ONFAULT, 1),
    ),
    Test::with("locking_a_part_of_a_huge_page_keeps_the_rest", HUGE, || {
        let device = Device::open()?;
        let mapping = numbered(&device)?;
        mapping.lock(5 * PAGE, 3 * PAGE, MlockFlags::empty())?;
        assert_eq!(locked(&mapping, 5)?, 3 * PAGE as u64);
        assert_eq!(locked(&mapping, 0)?, 0);
        assert_numbers(&mapping, 0, 0..PAGES);
        mapping.unlock(0, SIZE)?;
        assert_eq!(locked(&mapping, 5)?, 0);
        assert_numbers(&mapping, 0, 0..PAGES);
        Ok(())
    }),
];

fn number(page: usize) -> u64 {
    page as u64 + 1
}

/// A shared mapping of a file, each page of which begins with its number, counted from one.
fn numbered(file: impl AsFd) -> io::Result<Mapping> {
    let mapping = Mapping::shared(file, SIZE)?;
    for page in 0..PAGES {
        let word = mapping.word(page * PAGE);
        word.store(number(page), Ordering::SeqCst);
    }
    Ok(mapping)
}

fn word(mapping: &Mapping, page: usize) -> u64 {
    mapping.word(page * PAGE).load(Ordering::SeqCst)
}

/// Asserts that pages of the file are as [`numbered`] has made them, in a mapping that starts at `first`.
fn assert_numbers(mapping: &Mapping, first: usize, pages: Range<usize>) {
    for page in pages {
        assert_eq!(word(mapping, page - first), number(page), "page {page}");
    }
}

fn memfd() -> io::Result<OwnedFd> {
    let memfd = fs::memfd_create("comparison", MemfdFlags::CLOEXEC)?;
    fs::ftruncate(&memfd, SIZE as u64)?;
    Ok(memfd)
}

/// What can be done with a mapping, in words.
fn answers(file: impl AsFd, flags: MapFlags, protection: ProtFlags) -> Vec<String> {
    const PLACE: usize = HUGE_PAGE + 5 * PAGE + 3;
    let mapping = match Mapping::new(file, SIZE, protection, flags, 0) {
        Ok(mapping) => mapping,
        Err(error) => return vec![error.to_string()],
    };
    let mut answers = Vec::new();
    let address = mapping.address(PLACE);
    let touches = |answers: &mut Vec<String>| {
        for write in [false, true] {
            answers.push(match child::touch(address, write) {
                Ok(Touch::Done) => "done".to_string(),
                Ok(Touch::BusError(at)) => format!("bus error {}", at - address),
                Ok(Touch::SegmentationFault(at)) => format!("no access {}", at - address),
                Err(error) => error.to_string(),
            });
        }
    };
    touches(&mut answers);
    for bits in 0..8 {
        let protection = MprotectFlags::from_bits_retain(bits);
        match mapping.protect(0, SIZE, protection) {
            Ok(()) => answers.push(format!("{protection:?} allowed")),
            Err(error) => answers.push(format!("{protection:?}: {error}")),
        }
    }
    // What the last call that was allowed has left.
    touches(&mut answers);
    answers
}

fn every_protection() -> io::Result<()> {
    let model = memfd()?;
    let path = format!("/proc/self/fd/{}", model.as_raw_fd());
    for access in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR] {
        let device = Device::open_with(device::FIRST, access)?;
        let memfd = fs::open(&path, access | OFlags::CLOEXEC, Mode::empty())?;
        for flags in [MapFlags::SHARED, MapFlags::PRIVATE] {
            for bits in 0..8 {
                let protection = ProtFlags::from_bits_retain(bits);
                assert_eq!(
                    answers(&device, flags, protection),
                    answers(&memfd, flags, protection),
                    "{access:?} {flags:?} {protection:?}"
                );
            }
        }
    }
    Ok(())
}

fn move_parts() -> io::Result<()> {
    // Within the first huge page, across the border of the two, and a whole one.
    for part in [40..44, 510..514, 512..1024] {
        let device = Device::open()?;
        let mapping = numbered(&device)?;
        let (offset, len) = (part.start * PAGE, part.len() * PAGE);
        // Onto memory of the process's own, and onto what other bytes of the device are mapped at.
        let targets = [
            Mapping::anonymous(len)?,
            Mapping::new(&device, len, READ_WRITE, MapFlags::SHARED, 0)?,
        ];
        for target in targets {
            let mut mapping = Mapping::shared(&device, SIZE)?;
            mapping.touch_read(0, SIZE);
            target.touch_read(0, len);
            let moved = mapping.move_onto(offset, len, target)?;
            assert_numbers(&moved, part.start, part.clone());
            assert_numbers(&mapping, 0, 0..part.start);
            assert_numbers(&mapping, 0, part.end..PAGES);
            let hole = mapping.address(offset);
            assert_eq!(
                child::touch(hole, false)?,
                Touch::SegmentationFault(hole),
                "{part:?}"
            );
            // What is written there reaches its place in the device.
            let last = part.end - 1;
            let value = number(last) + 1000;
            let place = moved.word((last - part.start) * PAGE);
            place.store(value, Ordering::SeqCst);
            let mut bytes = [0; 8];
            pread(&device, &mut bytes, (last * PAGE) as u64)?;
            assert_eq!(u64::from_ne_bytes(bytes), value);
            place.store(number(last), Ordering::SeqCst);
        }
        assert_numbers(&mapping, 0, 0..PAGES);
    }
    Ok(())
}

fn move_and_leave() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = numbered(&device)?;
    let before = device.info()?.resident_bytes;
    for part in [40..44, 510..514, 512..1024] {
        let (offset, len) = (part.start * PAGE, part.len() * PAGE);
        let moved = mapping.move_leaving(offset, len)?;
        let smaps = smaps::of(mapping.address(offset))?;
        assert!(smaps["Rss"] <= (SIZE - len) as u64, "nothing is left there");
        assert_numbers(&moved, part.start, part.clone());
        assert_numbers(&mapping, 0, 0..PAGES);
        moved.word(0).store(5, Ordering::SeqCst);
        assert_eq!(word(&mapping, part.start), 5);
        let value = number(part.start);
        mapping.word(offset).store(value, Ordering::SeqCst);
        assert_eq!(word(&moved, 0), value);
    }
    assert_eq!(device.info()?.resident_bytes, before);
    Ok(())
}

/// The same on a memfd, so that it is what programs are used to.
fn move_private() -> io::Result<()> {
    let (device, memfd) = (Device::open()?, memfd()?);
    for file in [device.as_fd(), memfd.as_fd()] {
        numbered(file)?;
        let mut mapping = Mapping::new(file, SIZE, READ_WRITE, MapFlags::PRIVATE, 0)?;
        mapping.touch_read(0, SIZE);
        mapping.word(41 * PAGE).store(5, Ordering::SeqCst);
        let moved = mapping.move_leaving(40 * PAGE, 4 * PAGE)?;
        assert_eq!([0, 1, 2].map(|page| word(&moved, page)), [41, 5, 43]);
        assert_numbers(&mapping, 0, 0..PAGES);
        let moved = mapping.move_onto(0, HUGE_PAGE, Mapping::anonymous(HUGE_PAGE)?)?;
        assert_numbers(&moved, 0, 0..HUGE_PAGE / PAGE);
        assert_numbers(&mapping, 0, HUGE_PAGE / PAGE..PAGES);
    }
    Ok(())
}

fn locked(mapping: &Mapping, page: usize) -> io::Result<u64> {
    Ok(smaps::of(mapping.address(page * PAGE))?["Locked"])
}

/// Locks ten pages, of which `expected` are there after one is touched, as is the one that is not locked.
fn lock_range(flags: MlockFlags, expected: u64) -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    mapping.lock(20 * PAGE, 10 * PAGE, flags)?;
    mapping.store(25 * PAGE, 1);
    mapping.store(500 * PAGE, 1);
    let bytes = expected * PAGE as u64;
    assert_eq!(device.info()?.resident_bytes, bytes + PAGE as u64);
    assert_eq!(locked(&mapping, 25)?, bytes);
    assert_eq!(locked(&mapping, 500)?, 0);
    mapping.unlock(20 * PAGE, 10 * PAGE)?;
    assert_eq!(locked(&mapping, 25)?, 0);
    assert_eq!(mapping.load(25 * PAGE), 1);
    Ok(())
}
