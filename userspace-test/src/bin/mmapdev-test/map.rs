// SPDX-License-Identifier: GPL-2.0

//! Mapping a device in every way that a memfd can be mapped.

use crate::{wait_for, Test};
use mmapdev_userspace::abi::HUGE_ALWAYS;
use mmapdev_userspace::child::{self, Child, Touch};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::{smaps, HUGE_PAGE, MIB, PAGE};
use rustix::fs::{self, MemfdFlags};
use rustix::io::{pread, pwrite, Errno};
use rustix::mm::{self, Advice, MapFlags, MlockAllFlags, MprotectFlags, ProtFlags};
use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

const SIZE: usize = 4 * MIB;
const PAGES: usize = SIZE / PAGE;
const HUGE: &str = "huge=1 size_mib=4";
const SMALL: &str = "huge=0 size_mib=4";
/// Of which the last MiB is half of a huge page.
const ODD_HUGE: &str = "huge=1 size_mib=3";
const ODD_SMALL: &str = "huge=0 size_mib=3";

pub(crate) const TESTS: &[Test] = &[
    Test::with("an_offset_shows_its_bytes", HUGE, offsets),
    Test::with("an_offset_shows_its_bytes_in_small_pages", SMALL, offsets),
    Test::with("an_offset_within_a_page_is_invalid", HUGE, || {
        let device = Device::open()?;
        for offset in [1, 512, PAGE as u64 - 1, PAGE as u64 + 1, SIZE as u64 - 1] {
            for flags in [MapFlags::SHARED, MapFlags::PRIVATE] {
                let mapping = Mapping::new(&device, PAGE, READ_WRITE, flags, offset);
                assert_fails(mapping, Errno::INVAL);
            }
        }
        Ok(())
    }),
    Test::with("many_mappings_show_the_same_bytes", HUGE, many_mappings),
    Test::with(
        "many_mappings_show_the_same_bytes_in_small_pages",
        SMALL,
        many_mappings,
    ),
    Test::with("the_last_byte_is_one_like_any_other", ODD_HUGE, last_byte),
    Test::with(
        "the_last_byte_is_one_like_any_other_in_small_pages",
        ODD_SMALL,
        last_byte,
    ),
    Test::with("beyond_the_end_is_a_bus_error", HUGE, beyond_the_end),
    Test::with(
        "beyond_the_end_within_a_huge_page_is_a_bus_error",
        ODD_HUGE,
        beyond_the_end,
    ),
    Test::with(
        "beyond_the_end_is_a_bus_error_in_small_pages",
        ODD_SMALL,
        beyond_the_end,
    ),
    Test::with("a_mapping_may_start_at_or_beyond_the_end", ODD_HUGE, || {
        let device = Device::open()?;
        let size = device.size()?;
        for offset in [size, size + PAGE, 64 * size] {
            let mapping = Mapping::new(&device, PAGE, READ_WRITE, MapFlags::SHARED, offset as u64)?;
            let address = mapping.address(0);
            assert_eq!(child::touch(address, false)?, Touch::BusError(address));
        }
        let last = (size - PAGE) as u64;
        let mapping = Mapping::new(&device, 2 * PAGE, READ_WRITE, MapFlags::SHARED, last)?;
        mapping.store(PAGE - 1, 9);
        let address = mapping.address(PAGE);
        assert_eq!(child::touch(address, true)?, Touch::BusError(address));
        assert_eq!(mapping.load(PAGE - 1), 9);
        Ok(())
    }),
    Test::with(
        "absurd_offsets_and_lengths_fail_as_on_a_memfd",
        HUGE,
        absurd_numbers,
    ),
    Test::with(
        "absurd_offsets_and_lengths_fail_as_on_a_memfd_in_small_pages",
        SMALL,
        absurd_numbers,
    ),
    Test::with("private_writes_are_nobody_elses", HUGE, private_writes),
    Test::with(
        "private_writes_are_nobody_elses_in_small_pages",
        SMALL,
        private_writes,
    ),
    Test::with(
        "private_pages_follow_the_device_until_written",
        HUGE,
        private_pages_follow,
    ),
    Test::with(
        "private_pages_follow_the_device_until_written_in_small_pages",
        SMALL,
        private_pages_follow,
    ),
    Test::with(
        "private_writes_to_untouched_pages_leave_the_device_zero",
        HUGE,
        private_first_writes,
    ),
    Test::with(
        "private_writes_to_untouched_pages_leave_the_device_zero_in_small_pages",
        SMALL,
        private_first_writes,
    ),
    Test::with("unmapping_the_middle_keeps_the_rest", HUGE, unmap_middle),
    Test::with(
        "unmapping_the_middle_keeps_the_rest_in_small_pages",
        SMALL,
        unmap_middle,
    ),
    Test::with("protecting_a_part_keeps_the_rest", HUGE, protect_part),
    Test::with(
        "protecting_a_part_keeps_the_rest_in_small_pages",
        SMALL,
        protect_part,
    ),
    Test::with("a_mapping_grows_moves_and_shrinks", HUGE, resize),
    Test::with(
        "a_mapping_grows_moves_and_shrinks_in_small_pages",
        SMALL,
        resize,
    ),
    Test::with("a_fork_shares_shared_mappings", HUGE, fork_shared),
    Test::with(
        "a_fork_shares_shared_mappings_in_small_pages",
        SMALL,
        fork_shared,
    ),
    Test::with("a_fork_parts_private_mappings", HUGE, fork_private),
    Test::with(
        "a_fork_parts_private_mappings_in_small_pages",
        SMALL,
        fork_private,
    ),
    Test::with("dontneed_keeps_what_is_shared", HUGE, dontneed_shared),
    Test::with(
        "dontneed_keeps_what_is_shared_in_small_pages",
        SMALL,
        dontneed_shared,
    ),
    Test::with("dontneed_drops_private_copies", HUGE, dontneed_private),
    Test::with(
        "dontneed_drops_private_copies_in_small_pages",
        SMALL,
        dontneed_private,
    ),
    Test::with("map_populate_faults_everything_at_once", HUGE, map_populate),
    Test::with(
        "map_populate_faults_everything_at_once_in_small_pages",
        SMALL,
        map_populate,
    ),
    Test::with(
        "map_populate_copies_a_private_mapping",
        HUGE,
        map_populate_private,
    ),
    Test::with(
        "map_populate_copies_a_private_mapping_in_small_pages",
        SMALL,
        map_populate_private,
    ),
    Test::with(
        "populate_advice_faults_the_range_at_once",
        HUGE,
        populate_advice,
    ),
    Test::with(
        "populate_advice_faults_the_range_at_once_in_small_pages",
        SMALL,
        populate_advice,
    ),
    Test::with("populate_advice_fails_beyond_the_end", ODD_HUGE, || {
        let device = Device::open()?;
        let size = device.size()?;
        let mapping = Mapping::shared(&device, size + MIB)?;
        for advice in [Advice::LinuxPopulateRead, Advice::LinuxPopulateWrite] {
            mapping.advise(0, size, advice)?;
            assert_fails(mapping.advise(0, size + MIB, advice), Errno::FAULT);
            assert_fails(mapping.advise(size, PAGE, advice), Errno::FAULT);
        }
        // As for any file, the call that maps does what it can.
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        Mapping::new(&device, size + MIB, READ_WRITE, flags, 0)?.store(size - 1, 1);
        Ok(())
    }),
    Test::with("advice_on_huge_pages_is_accepted", HUGE, || {
        let device = Device::open()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        mapping.advise(0, HUGE_PAGE, Advice::LinuxHugepage)?;
        mapping.advise(HUGE_PAGE, HUGE_PAGE, Advice::LinuxNoHugepage)?;
        mapping.touch_write(0, SIZE, 1);
        let rest = mapping.address(HUGE_PAGE);
        assert_eq!(
            smaps::of(mapping.address(0))?["FilePmdMapped"],
            HUGE_PAGE as u64
        );
        assert_eq!(
            smaps::of(rest)?["FilePmdMapped"],
            0,
            "where huge pages are not wanted"
        );
        assert_eq!(device.counters()?.huge_faults, 1);
        Ok(())
    }),
    Test::with("locking_faults_everything_in", HUGE, lock),
    Test::with("locking_faults_everything_in_in_small_pages", SMALL, lock),
    Test::with("a_mapping_can_be_locked_when_made", HUGE, lock_when_made),
    Test::with(
        "a_mapping_can_be_locked_when_made_in_small_pages",
        SMALL,
        lock_when_made,
    ),
    Test::with("locking_on_fault_brings_in_what_is_touched", SMALL, || {
        let device = Device::open()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT)?;
        assert_eq!(device.info()?.resident_bytes, 0);
        for page in [0, 100, PAGES - 1] {
            mapping.store(page * PAGE, 1);
        }
        assert_eq!(device.info()?.resident_bytes, 3 * PAGE as u64);
        assert_eq!(smaps::of(mapping.address(0))?["Locked"], 3 * PAGE as u64);
        Ok(())
    }),
    Test::with("a_mapping_outlives_its_descriptor", HUGE, outlive),
    Test::with(
        "a_mapping_outlives_its_descriptor_in_small_pages",
        SMALL,
        outlive,
    ),
    Test::with("a_thousand_pieces_can_be_mapped", HUGE, thousand_pieces),
    Test::with(
        "a_thousand_pieces_can_be_mapped_in_small_pages",
        SMALL,
        thousand_pieces,
    ),
    Test::with("mappings_may_be_executable_as_of_a_memfd", HUGE, || {
        let device = Device::open()?;
        let memfd = memfd(SIZE)?;
        let to_run = MprotectFlags::READ | MprotectFlags::EXEC;
        for file in [device.as_fd(), memfd.as_fd()] {
            for flags in [MapFlags::SHARED, MapFlags::PRIVATE] {
                let executable = ProtFlags::READ | ProtFlags::EXEC;
                let mapping = Mapping::new(file, SIZE, executable, flags, 0)?;
                assert_eq!(mapping.load(SIZE - 1), 0);
                let mapping = Mapping::new(file, SIZE, READ_WRITE, flags, 0)?;
                mapping.store(0, 0);
                mapping.protect(0, SIZE, to_run)?;
                assert_eq!(mapping.load(0), 0);
            }
        }
        Ok(())
    }),
    Test::with("without_any_protection_no_touch_is_allowed", HUGE, || {
        let device = Device::open()?;
        for flags in [MapFlags::SHARED, MapFlags::PRIVATE] {
            let before = device.counters()?;
            let mapping = Mapping::new(&device, SIZE, ProtFlags::empty(), flags, 0)?;
            let address = mapping.address(SIZE / 2 + 3);
            assert_eq!(
                child::touch(address, false)?,
                Touch::SegmentationFault(address)
            );
            assert_eq!(device.counters()?, before);
            mapping.protect(0, SIZE, MprotectFlags::READ)?;
            assert_eq!(mapping.load(SIZE / 2 + 3), 0);
        }
        Ok(())
    }),
];

fn assert_fails<T: Debug>(result: io::Result<T>, errno: Errno) {
    let error = result.expect_err("must not be allowed");
    assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()), "{error}");
}

fn memfd(size: usize) -> io::Result<OwnedFd> {
    let memfd = fs::memfd_create("comparison", MemfdFlags::CLOEXEC)?;
    fs::ftruncate(&memfd, size as u64)?;
    Ok(memfd)
}

fn private(device: &Device) -> io::Result<Mapping> {
    Mapping::new(device, SIZE, READ_WRITE, MapFlags::PRIVATE, 0)
}

/// A shared mapping of the device, each page of which begins with its number, counted from one.
fn numbered(device: &Device) -> io::Result<Mapping> {
    let mapping = Mapping::shared(device, SIZE)?;
    for page in 0..PAGES {
        mapping
            .word(page * PAGE)
            .store(number(page), Ordering::SeqCst);
    }
    Ok(mapping)
}

fn number(page: usize) -> u64 {
    page as u64 + 1
}

fn word(mapping: &Mapping, page: usize) -> u64 {
    mapping.word(page * PAGE).load(Ordering::SeqCst)
}

fn pread_word(device: &Device, page: usize) -> io::Result<u64> {
    let mut bytes = [0; 8];
    assert_eq!(pread(device, &mut bytes, (page * PAGE) as u64)?, 8);
    Ok(u64::from_ne_bytes(bytes))
}

fn pwrite_all(device: &Device, offset: usize, bytes: &[u8]) -> io::Result<()> {
    assert_eq!(pwrite(device, bytes, offset as u64)?, bytes.len());
    Ok(())
}

fn offsets() -> io::Result<()> {
    let device = Device::open()?;
    numbered(&device)?;
    let huge = HUGE_PAGE / PAGE;
    for first in [0, 1, 3, 16, huge - 1, huge, huge + 1, PAGES - 2] {
        for flags in [MapFlags::SHARED, MapFlags::PRIVATE] {
            for len in [2 * PAGE, SIZE - first * PAGE] {
                let offset = (first * PAGE) as u64;
                let mapping = Mapping::new(&device, len, READ_WRITE, flags, offset)?;
                for page in [0, 1, len / PAGE - 1] {
                    assert_eq!(
                        word(&mapping, page),
                        number(first + page),
                        "{first} {flags:?}"
                    );
                }
            }
        }
    }
    Ok(())
}

fn many_mappings() -> io::Result<()> {
    let device = Device::open()?;
    let mut mappings = Vec::new();
    for first in [0, 0, 0, 1, 5, 256, 511] {
        let offset = first * PAGE;
        let len = SIZE - offset;
        let mapping = Mapping::new(&device, len, READ_WRITE, MapFlags::SHARED, offset as u64)?;
        mappings.push((offset, mapping));
    }
    let readable = Mapping::new(&device, SIZE, ProtFlags::READ, MapFlags::SHARED, 0)?;
    let place = HUGE_PAGE + 3 * PAGE + 8;
    for round in 0..2 {
        for (index, (offset, mapping)) in mappings.iter().enumerate() {
            let value = (round * 100 + index + 1) as u64;
            mapping.word(place - offset).store(value, Ordering::SeqCst);
            for (other_offset, other) in &mappings {
                let seen = other.word(place - other_offset).load(Ordering::SeqCst);
                assert_eq!(seen, value, "at {offset:#x} and {other_offset:#x}");
            }
            assert_eq!(readable.word(place).load(Ordering::SeqCst), value);
        }
    }
    Ok(())
}

fn last_byte() -> io::Result<()> {
    let device = Device::open()?;
    let last = device.size()? - 1;
    let mapping = Mapping::shared(&device, last + 1)?;
    assert_eq!(mapping.load(last), 0);
    mapping.store(last, 77);
    let mut byte = [0];
    assert_eq!(pread(&device, &mut byte, last as u64)?, 1);
    assert_eq!(byte, [77]);
    let private = Mapping::new(&device, last + 1, READ_WRITE, MapFlags::PRIVATE, 0)?;
    assert_eq!(private.load(last), 77);
    private.store(last, 78);
    assert_eq!((private.load(last), mapping.load(last)), (78, 77));
    Ok(())
}

fn beyond_the_end() -> io::Result<()> {
    let device = Device::open()?;
    let size = device.size()?;
    let beyond = [
        size,
        size + PAGE - 1,
        size + PAGE,
        size + MIB - 1,
        size + HUGE_PAGE,
    ];
    for flags in [MapFlags::SHARED, MapFlags::PRIVATE] {
        let mapping = Mapping::new(&device, size + 2 * HUGE_PAGE, READ_WRITE, flags, 0)?;
        // First with little or nothing mapped before the end, then with all of it.
        for mapped in [PAGE, size] {
            mapping.touch_write(0, mapped, 0);
            for place in beyond {
                let address = mapping.address(place);
                for write in [false, true] {
                    let seen = child::touch(address, write)?;
                    assert_eq!(
                        seen,
                        Touch::BusError(address),
                        "{place:#x} {flags:?} {write}"
                    );
                }
            }
            let address = mapping.address(size - 1);
            assert_eq!(child::touch(address, false)?, Touch::Done);
            assert_eq!(child::touch(address, true)?, Touch::Done);
        }
    }
    assert_eq!(device.info()?.resident_bytes, size as u64);
    Ok(())
}

fn absurd_numbers() -> io::Result<()> {
    const TOP: u64 = 1 << 63;
    const LAST_PAGE: u64 = !(PAGE as u64 - 1);
    let device = Device::open()?;
    let memfd = memfd(SIZE)?;
    let page = PAGE as u64;
    let offsets = [
        0,
        1,
        page,
        SIZE as u64,
        1 << 32,
        1 << 44,
        1 << 52,
        1 << 62,
        TOP - 2 * page,
        TOP - page,
        TOP - 1,
        TOP,
        TOP + 1,
        TOP + page,
        LAST_PAGE - page,
        LAST_PAGE,
        u64::MAX,
    ];
    let lengths = [
        0,
        1,
        PAGE,
        2 * PAGE,
        HUGE_PAGE,
        HUGE_PAGE + 1,
        1 << 40,
        1 << 46,
        1 << 47,
        (1 << 47) - PAGE,
        1 << 62,
        (1 << 63) - PAGE,
        1 << 63,
        (1 << 63) + PAGE,
        usize::MAX - PAGE,
        usize::MAX,
    ];
    let mut differences = Vec::new();
    for flags in [MapFlags::SHARED, MapFlags::PRIVATE] {
        for offset in offsets {
            for len in lengths {
                let [on_device, on_memfd] = [device.as_fd(), memfd.as_fd()].map(|file| {
                    let mapping = Mapping::new(file, len, ProtFlags::READ, flags, offset);
                    mapping.map(drop).map_err(|error| error.to_string())
                });
                if on_device != on_memfd {
                    differences.push(format!(
                        "{flags:?} {len:#x} at {offset:#x}: {on_device:?}, a memfd: {on_memfd:?}"
                    ));
                }
            }
        }
    }
    let (count, first) = (differences.len(), differences.iter().take(12));
    let first = first.map(String::as_str).collect::<Vec<_>>().join("\n");
    assert_eq!(
        count, 0,
        "different answers, of which these are the first:\n{first}"
    );
    Ok(())
}

fn private_writes() -> io::Result<()> {
    let device = Device::open()?;
    let shared = numbered(&device)?;
    let (one, other) = (private(&device)?, private(&device)?);
    // Some are read first, with all that a huge page maps, and some are not.
    assert_eq!(word(&one, 0), number(0));
    for page in [0, 1, 17, 511, 512, PAGES - 1] {
        one.word(page * PAGE).store(1000, Ordering::SeqCst);
        assert_eq!(word(&one, page), 1000);
        assert_eq!(word(&other, page), number(page));
        assert_eq!(word(&shared, page), number(page));
        assert_eq!(pread_word(&device, page)?, number(page));
        // A copy is one's own: what the device becomes does not matter any more.
        shared.word(page * PAGE).store(2000, Ordering::SeqCst);
        assert_eq!(word(&one, page), 1000);
        assert_eq!(word(&other, page), 2000);
        // And the rest of the page has come with it.
        assert_eq!(one.load(page * PAGE + 100), 0);
    }
    assert_eq!(word(&one, 2), number(2));
    Ok(())
}

fn private_pages_follow() -> io::Result<()> {
    let device = Device::open()?;
    let shared = numbered(&device)?;
    let mapping = private(&device)?;
    // Read, so that it is mapped before the device changes.
    for page in 0..PAGES {
        assert_eq!(word(&mapping, page), number(page));
    }
    shared.word(6 * PAGE).store(600, Ordering::SeqCst);
    assert_eq!(word(&mapping, 6), 600);
    // A write elsewhere may take a huge page apart, but copies its own page only.
    mapping.word(5 * PAGE).store(1, Ordering::SeqCst);
    shared.word(6 * PAGE).store(601, Ordering::SeqCst);
    shared.word(4 * PAGE).store(400, Ordering::SeqCst);
    pwrite_all(&device, 7 * PAGE, &700u64.to_ne_bytes())?;
    let seen = [4, 5, 6, 7, 8].map(|page| word(&mapping, page));
    assert_eq!(seen, [400, 1, 601, 700, number(8)]);
    Ok(())
}

fn private_first_writes() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = private(&device)?;
    for page in [0, 3, 511, 512, PAGES - 1] {
        mapping.word(page * PAGE).store(1, Ordering::SeqCst);
        assert_eq!(mapping.load(page * PAGE + PAGE - 1), 0);
    }
    let shared = Mapping::shared(&device, SIZE)?;
    assert_eq!(shared.sum(0, SIZE), 0);
    assert_eq!(pread_word(&device, 3)?, 0);
    Ok(())
}

fn unmap_middle() -> io::Result<()> {
    // Within the first huge page, and across the border of the two.
    let holes = [40..44, 510..514];
    let device = Device::open()?;
    let mut mapping = numbered(&device)?;
    for hole in &holes {
        mapping.unmap(hole.start * PAGE, hole.len() * PAGE)?;
    }
    for page in (0..PAGES).filter(|page| !holes.iter().any(|hole| hole.contains(page))) {
        assert_eq!(word(&mapping, page), number(page));
        mapping
            .word(page * PAGE)
            .store(number(page) + 1, Ordering::SeqCst);
    }
    for hole in &holes {
        for place in [hole.start * PAGE, hole.end * PAGE - 1] {
            let address = mapping.address(place);
            for write in [false, true] {
                let segmentation_fault = Touch::SegmentationFault(address);
                assert_eq!(
                    child::touch(address, write)?,
                    segmentation_fault,
                    "{place:#x}"
                );
            }
        }
        // The device has kept what was there.
        assert_eq!(pread_word(&device, hole.start)?, number(hole.start));
    }
    let again = Mapping::shared(&device, SIZE)?;
    assert_eq!(
        (word(&again, 39), word(&again, 40)),
        (number(39) + 1, number(40))
    );
    Ok(())
}

fn protect_part() -> io::Result<()> {
    let read_only = 30..34;
    let device = Device::open()?;
    for flags in [MapFlags::SHARED, MapFlags::PRIVATE] {
        numbered(&device)?;
        let mapping = Mapping::new(&device, SIZE, READ_WRITE, flags, 0)?;
        // Written before, and hence mapped to write.
        mapping.store(30 * PAGE + 9, 9);
        let (start, len) = (read_only.start * PAGE, read_only.len() * PAGE);
        mapping.protect(start, len, MprotectFlags::READ)?;
        for place in [start, start + len - 1] {
            let address = mapping.address(place);
            assert_eq!(child::touch(address, false)?, Touch::Done);
            assert_eq!(
                child::touch(address, true)?,
                Touch::SegmentationFault(address)
            );
        }
        for page in 0..PAGES {
            assert_eq!(word(&mapping, page), number(page), "{flags:?}");
            if !read_only.contains(&page) {
                mapping.store(page * PAGE + 9, 9);
            }
        }
        mapping.protect(start, len, MprotectFlags::empty())?;
        let address = mapping.address(start);
        assert_eq!(
            child::touch(address, false)?,
            Touch::SegmentationFault(address)
        );
        mapping.protect(start, len, MprotectFlags::READ | MprotectFlags::WRITE)?;
        assert_eq!(mapping.load(30 * PAGE + 9), 9);
        mapping.word(start).store(5, Ordering::SeqCst);
        let expected = if flags == MapFlags::SHARED {
            5
        } else {
            number(30)
        };
        assert_eq!(pread_word(&device, 30)?, expected);
    }
    Ok(())
}

fn resize() -> io::Result<()> {
    // No gap between mappings is as large, so that it has to move.
    const FAR: usize = 1 << 40;
    let device = Device::open()?;
    let whole = numbered(&device)?;
    // The private stores come last, and leave what the shared ones have brought.
    for (flags, values) in [(MapFlags::SHARED, [1, 2]), (MapFlags::PRIVATE, [3, 4])] {
        // A private one of that length would otherwise be refused: there is no memory to copy it to.
        let not_reserved = flags | MapFlags::NORESERVE;
        let mut mapping = Mapping::new(&device, MIB, READ_WRITE, not_reserved, MIB as u64)?;
        let first = MIB / PAGE;
        mapping.store(PAGE + 9, values[0]);
        for len in [HUGE_PAGE, 3 * MIB, FAR] {
            let before = mapping.address(0);
            mapping.resize(len)?;
            if len == FAR {
                assert_ne!(mapping.address(0), before, "it was to move");
                if device.info()?.huge == HUGE_ALWAYS {
                    let place = mapping.address(0) % HUGE_PAGE;
                    assert_eq!(place, MIB, "moved to where huge pages do not fit");
                }
            }
            assert_eq!(mapping.load(PAGE + 9), values[0], "{len:#x}");
            for page in [0, MIB / PAGE - 1, MIB / PAGE, (len.min(3 * MIB)) / PAGE - 1] {
                assert_eq!(word(&mapping, page), number(first + page), "{len:#x}");
            }
        }
        let end = mapping.address(3 * MIB);
        assert_eq!(child::touch(end, true)?, Touch::BusError(end));
        // What is written after the move reaches the same places.
        mapping.store(2 * PAGE + 9, values[1]);
        let seen = [1, 2].map(|page| whole.load((first + page) * PAGE + 9));
        assert_eq!(seen, [1, 2], "{flags:?}");
        mapping.resize(PAGE)?;
        assert_eq!(word(&mapping, 0), number(first));
        let end = mapping.address(PAGE);
        assert_eq!(child::touch(end, false)?, Touch::SegmentationFault(end));
    }
    Ok(())
}

fn fork_shared() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    // One page that is mapped before the fork, and one that neither has touched.
    mapping.store(0, 0);
    let places = [8, HUGE_PAGE + 5 * PAGE];
    let child = Child::run(|| {
        for place in places {
            for round in 0..10 {
                wait_for(mapping.word(place), 2 * round + 1);
                mapping.word(place).store(2 * round + 2, Ordering::SeqCst);
            }
        }
        Vec::new()
    })?;
    for place in places {
        for round in 0..10 {
            mapping.word(place).store(2 * round + 1, Ordering::SeqCst);
            wait_for(mapping.word(place), 2 * round + 2);
        }
    }
    child.join();
    Ok(())
}

fn fork_private() -> io::Result<()> {
    let device = Device::open()?;
    let shared = numbered(&device)?;
    let mapping = private(&device)?;
    mapping.word(0).store(100, Ordering::SeqCst);
    assert_eq!(word(&mapping, 1), number(1));
    let child = Child::run(|| {
        assert_eq!(word(&mapping, 0), 100);
        for page in 0..PAGES {
            mapping.word(page * PAGE).store(200, Ordering::SeqCst);
        }
        Vec::new()
    })?;
    child.join();
    assert_eq!(word(&mapping, 0), 100);
    for page in 1..PAGES {
        assert_eq!(word(&mapping, page), number(page));
        assert_eq!(word(&shared, page), number(page));
    }
    Ok(())
}

fn dontneed_shared() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = numbered(&device)?;
    // A part of a huge page, then everything.
    for (first, pages) in [(3, 5), (0, PAGES)] {
        let resident = device.info()?.resident_bytes;
        mapping.advise(first * PAGE, pages * PAGE, Advice::LinuxDontNeed)?;
        assert_eq!(device.info()?.resident_bytes, resident);
        for page in 0..PAGES {
            assert_eq!(word(&mapping, page), number(page));
        }
    }
    Ok(())
}

fn dontneed_private() -> io::Result<()> {
    let device = Device::open()?;
    numbered(&device)?;
    let mapping = private(&device)?;
    for page in 0..PAGES {
        mapping.word(page * PAGE).store(9, Ordering::SeqCst);
    }
    mapping.advise(3 * PAGE, 5 * PAGE, Advice::LinuxDontNeed)?;
    for page in 0..PAGES {
        let expected = if (3..8).contains(&page) {
            number(page)
        } else {
            9
        };
        assert_eq!(word(&mapping, page), expected);
    }
    Ok(())
}

/// Asserts that everything is in memory and mapped: no touch comes to the module.
fn assert_no_more_faults(device: &Device, mapping: &Mapping) -> io::Result<()> {
    let before = device.counters()?;
    mapping.touch_read(0, mapping.len());
    assert_eq!(device.counters()?, before, "after reading");
    mapping.touch_write(0, mapping.len(), 1);
    assert_eq!(device.counters()?, before, "after writing");
    Ok(())
}

fn map_populate() -> io::Result<()> {
    let device = Device::open()?;
    let flags = MapFlags::SHARED | MapFlags::POPULATE;
    // Of absent pages, then of resident ones.
    for _ in 0..2 {
        let mapping = Mapping::new(&device, SIZE, READ_WRITE, flags, 0)?;
        assert_eq!(device.info()?.resident_bytes, SIZE as u64);
        assert_no_more_faults(&device, &mapping)?;
    }
    Ok(())
}

fn map_populate_private() -> io::Result<()> {
    let device = Device::open()?;
    numbered(&device)?;
    let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
    let mapping = Mapping::new(&device, SIZE, READ_WRITE, flags, 0)?;
    assert_eq!(smaps::of(mapping.address(0))?["Anonymous"], SIZE as u64);
    for page in 0..PAGES {
        assert_eq!(word(&mapping, page), number(page));
    }
    assert_no_more_faults(&device, &mapping)?;
    assert_eq!(pread_word(&device, 1)?, number(1));
    Ok(())
}

fn populate_advice() -> io::Result<()> {
    let device = Device::open()?;
    let half = SIZE / 2;
    let flags = MapFlags::SHARED;
    let mapping = Mapping::new(&device, half, READ_WRITE, flags, half as u64)?;
    mapping.advise(0, half, Advice::LinuxPopulateWrite)?;
    assert_eq!(
        device.info()?.resident_bytes,
        half as u64,
        "the half that was asked for"
    );
    assert_no_more_faults(&device, &mapping)?;

    let mapping = Mapping::shared(&device, half)?;
    mapping.advise(0, half, Advice::LinuxPopulateRead)?;
    assert_eq!(device.info()?.resident_bytes, SIZE as u64);
    let before = device.counters()?;
    mapping.touch_read(0, half);
    assert_eq!(device.counters()?, before);
    Ok(())
}

fn lock() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    mm::mlockall(MlockAllFlags::CURRENT)?;
    assert_eq!(device.info()?.resident_bytes, SIZE as u64);
    assert_eq!(smaps::of(mapping.address(0))?["Locked"], SIZE as u64);
    assert_no_more_faults(&device, &mapping)?;
    mm::munlockall()?;
    assert_eq!(smaps::of(mapping.address(0))?["Locked"], 0);
    assert_eq!(mapping.load(0), 1);
    Ok(())
}

fn lock_when_made() -> io::Result<()> {
    let device = Device::open()?;
    let flags = MapFlags::SHARED | MapFlags::LOCKED;
    let mut mapping = Mapping::new(&device, SIZE, READ_WRITE, flags, 0)?;
    assert_eq!(smaps::of(mapping.address(0))?["Locked"], SIZE as u64);
    assert_no_more_faults(&device, &mapping)?;
    // Taken apart while it is locked.
    mapping.unmap(3 * PAGE, PAGE)?;
    assert_eq!((mapping.load(2 * PAGE), mapping.load(4 * PAGE)), (1, 1));
    Ok(())
}

fn outlive() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    mapping.store(0, 1);
    drop(device);
    // A page that is there, and one that comes only now.
    assert_eq!(mapping.load(0), 1);
    mapping.store(SIZE - 1, 2);
    let device = Device::open()?;
    let mut byte = [0];
    assert_eq!(pread(&device, &mut byte, SIZE as u64 - 1)?, 1);
    assert_eq!(byte, [2]);
    Ok(())
}

fn thousand_pieces() -> io::Result<()> {
    const PIECES: usize = 1000;
    // In no order, so that neighbours in memory are none in the device and stay apart.
    let page_of = |piece: usize| piece * 387 % PAGES;
    let device = Device::open()?;
    let mut pieces = Vec::new();
    for piece in 0..PIECES {
        let offset = (page_of(piece) * PAGE) as u64;
        let mapping = Mapping::new(&device, PAGE, READ_WRITE, MapFlags::SHARED, offset)?;
        mapping.word(0).store(number(piece), Ordering::SeqCst);
        pieces.push(mapping);
    }
    let whole = Mapping::shared(&device, SIZE)?;
    for (piece, mapping) in pieces.iter().enumerate() {
        assert_eq!(word(mapping, 0), number(piece));
        assert_eq!(word(&whole, page_of(piece)), number(piece));
    }
    Ok(())
}
