// SPDX-License-Identifier: GPL-2.0

//! When a device uses large folios: its policy, a program's advice, and what is mapped by one fault.

use crate::Test;
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::{smaps, HUGE_PAGE, KIB, MIB, PAGE};
use rustix::io::pwrite;
use rustix::mm::{Advice, MapFlags};
use std::io;

const SIZE: usize = 32 * MIB;
const ALWAYS: &str = "huge=1 size_mib=32";
const ADVISE: &str = "huge=2 size_mib=32";
const NEVER: &str = "huge=0 size_mib=32";
const MIDDLE: &str = "huge=1 folio_kib=64 size_mib=32";

/// How many huge pages one fault maps at most.
const WINDOW: usize = 8;

pub(crate) const TESTS: &[Test] = &[
    Test::with("without_advice_advise_brings_single_pages", ADVISE, || {
        let device = Device::open()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        mapping.store(0, 1);
        assert_eq!(folio_at(&device, 0)?, PAGE);
        assert_eq!(device.info()?.resident_bytes, PAGE as u64);
        Ok(())
    }),
    Test::with("with_advice_advise_brings_huge_pages", ADVISE, || {
        let device = Device::open()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        mapping.advise(0, SIZE, Advice::LinuxHugepage)?;
        mapping.store(0, 1);
        assert_eq!(folio_at(&device, 0)?, HUGE_PAGE);
        assert_eq!(
            smaps::of(mapping.address(0))?["FilePmdMapped"],
            HUGE_PAGE as u64
        );
        Ok(())
    }),
    Test::with("advise_maps_what_is_huge_for_all", ADVISE, || {
        let device = Device::open()?;
        let advised = Mapping::shared(&device, SIZE)?;
        advised.advise(0, SIZE, Advice::LinuxHugepage)?;
        advised.store(0, 1);
        let other = Mapping::shared(&device, SIZE)?;
        assert_eq!(other.load(0), 1);
        let before = device.counters()?;
        other.touch_read(0, HUGE_PAGE);
        assert_eq!(device.counters()?, before, "one fault has mapped all of it");
        Ok(())
    }),
    Test::with("a_write_call_is_no_advice", ADVISE, || {
        let device = Device::open()?;
        assert_eq!(pwrite(&device, &[1], 0)?, 1);
        assert_eq!(folio_at(&device, 0)?, PAGE);
        Ok(())
    }),
    Test::with("a_write_call_brings_huge_pages_always", ALWAYS, || {
        let device = Device::open()?;
        assert_eq!(pwrite(&device, &[1], 0)?, 1);
        assert_eq!(folio_at(&device, 0)?, HUGE_PAGE);
        Ok(())
    }),
    Test::with("advice_against_brings_single_pages", ALWAYS, || {
        let device = Device::open()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        mapping.advise(0, SIZE, Advice::LinuxNoHugepage)?;
        mapping.store(0, 1);
        assert_eq!(folio_at(&device, 0)?, PAGE);
        Ok(())
    }),
    Test::with(
        "never_brings_single_pages_whatever_is_advised",
        NEVER,
        || {
            let device = Device::open()?;
            let mapping = Mapping::shared(&device, SIZE)?;
            // As for any file that never has huge pages, the advice is heard and means nothing.
            mapping.advise(0, SIZE, Advice::LinuxHugepage)?;
            mapping.store(0, 1);
            assert_eq!(folio_at(&device, 0)?, PAGE);
            Ok(())
        },
    ),
    Test::with("smaps_says_who_can_have_huge_pages", ALWAYS, || {
        assert_eq!(eligible(&Device::open()?)?, 1);
        Ok(())
    }),
    Test::with("smaps_says_who_can_never_have_huge_pages", NEVER, || {
        assert_eq!(eligible(&Device::open()?)?, 0);
        Ok(())
    }),
    Test::with("folios_are_as_large_as_was_asked_for", MIDDLE, || {
        let device = Device::open()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        mapping.store(100 * KIB, 1);
        assert_eq!(folio_at(&device, 100 * KIB)?, 64 * KIB);
        assert_eq!(device.info()?.resident_bytes, 64 * KIB as u64);
        // One fault has mapped all of it, and nothing else.
        let before = device.counters()?;
        mapping.touch_write(64 * KIB, 64 * KIB, 1);
        assert_eq!(device.counters()?, before);
        mapping.store(0, 1);
        assert_eq!(device.counters()?.faults, before.faults + 1);
        Ok(())
    }),
    Test::with("one_fault_maps_resident_huge_neighbours", ALWAYS, || {
        let device = filled()?;
        let mapping = map_within_one_table(&device, SIZE, 0)?;
        let before = device.counters()?;
        // The second window, touched in its middle.
        let place = WINDOW * HUGE_PAGE;
        mapping.load(place + 5 * HUGE_PAGE + 3 * PAGE);
        let after = device.counters()?;
        assert_eq!(after.huge_faults, before.huge_faults + 1);
        let mapped = smaps::of(mapping.address(0))?;
        let expected = (WINDOW * HUGE_PAGE) as u64;
        assert_eq!(
            (mapped["FilePmdMapped"], mapped["Rss"]),
            (expected, expected)
        );
        mapping.touch_write(place, WINDOW * HUGE_PAGE, 9);
        assert_eq!(device.counters()?, after, "no other fault in the window");
        Ok(())
    }),
    Test::with("huge_neighbours_that_are_absent_stay_so", ALWAYS, || {
        let device = Device::open()?;
        assert_eq!(pwrite(&device, &[1], (3 * HUGE_PAGE) as u64)?, 1);
        let mapping = map_within_one_table(&device, SIZE, 0)?;
        mapping.load(0);
        assert_eq!(device.info()?.resident_bytes, 2 * HUGE_PAGE as u64);
        let mapped = smaps::of(mapping.address(0))?;
        assert_eq!(mapped["FilePmdMapped"], 2 * HUGE_PAGE as u64);
        assert_eq!(mapping.load(3 * HUGE_PAGE), 1);
        Ok(())
    }),
    Test::with("huge_neighbours_end_with_the_mapping", ALWAYS, || {
        let device = filled()?;
        // Three huge pages and a half, in the middle of the file; whole ones are mapped from it.
        let len = 3 * HUGE_PAGE + HUGE_PAGE / 2;
        let offset = 2 * HUGE_PAGE as u64;
        let mapping = map_within_one_table(&device, len, offset)?;
        mapping.load(0);
        let mapped = smaps::of(mapping.address(0))?;
        assert_eq!(mapped["FilePmdMapped"], 3 * HUGE_PAGE as u64);
        assert_eq!(mapped["Rss"], 3 * HUGE_PAGE as u64);
        for at in (0..len).step_by(HUGE_PAGE / 2) {
            assert_eq!(mapping.load(at), number_of(offset as usize + at), "{at}");
        }
        Ok(())
    }),
    Test::with("huge_neighbours_are_the_right_ones", ALWAYS, || {
        let device = filled()?;
        for start in [0, 5 * HUGE_PAGE, 15 * HUGE_PAGE] {
            for private in [MapFlags::SHARED, MapFlags::PRIVATE] {
                let mapping = Mapping::new(&device, SIZE, READ_WRITE, private, 0)?;
                mapping.load(start);
                for at in (0..SIZE).step_by(PAGE) {
                    assert_eq!(mapping.load(at), number_of(at), "{at} from {start}");
                }
            }
        }
        Ok(())
    }),
    Test::with("private_copies_part_from_huge_neighbours", ALWAYS, || {
        let device = filled()?;
        let mapping = Mapping::new(&device, SIZE, READ_WRITE, MapFlags::PRIVATE, 0)?;
        mapping.load(0);
        mapping.store(HUGE_PAGE, 200);
        assert_eq!(mapping.load(HUGE_PAGE), 200);
        let shared = Mapping::shared(&device, SIZE)?;
        assert_eq!(shared.load(HUGE_PAGE), number_of(HUGE_PAGE));
        Ok(())
    }),
];

/// The bytes of the folio that holds an offset.
fn folio_at(device: &Device, offset: usize) -> io::Result<usize> {
    Ok(device.frame(offset as u64)?.folio_bytes as usize)
}

/// Whether a mapping of the device may have huge pages, as the kernel says.
fn eligible(device: &Device) -> io::Result<u64> {
    let mapping = Mapping::shared(device, SIZE)?;
    Ok(smaps::of(mapping.address(0))?["THPeligible"])
}

/// Maps a part of the device at addresses whose huge entries are in one page table: one fault goes no further.
fn map_within_one_table(device: &Device, len: usize, offset: u64) -> io::Result<Mapping> {
    const TABLE: usize = 512 * HUGE_PAGE;
    let map = || Mapping::new(device, len, READ_WRITE, MapFlags::SHARED, offset);
    let first = map()?;
    if first.address(0) / TABLE == first.address(len - 1) / TABLE {
        return Ok(first);
    }
    // While the first is there, the second is beside it.
    map()
}

/// The number that `filled` has put into the page at an offset.
fn number_of(offset: usize) -> u8 {
    (offset / PAGE % 199) as u8
}

/// A device with a number of its own at the start of each page.
fn filled() -> io::Result<Device> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    for at in (0..SIZE).step_by(PAGE) {
        mapping.store(at, number_of(at));
    }
    Ok(device)
}
