// SPDX-License-Identifier: GPL-2.0

//! What a touch of a mapping costs and brings: folios, faults, frames.

use crate::Test;
use mmapdev_userspace::child::{self, Child, Outcome, Touch};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::module::Loaded;
use mmapdev_userspace::random::Random;
use mmapdev_userspace::{pagemap, smaps, HUGE_PAGE, KIB, MIB, PAGE};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

const SIZE: usize = 4 * MIB;
const PAGES: usize = SIZE / PAGE;
const HUGE: &str = "huge=1 size_mib=4";
const SMALL: &str = "huge=0 size_mib=4";

pub(crate) const TESTS: &[Test] = &[
    Test::with(
        "mapping_takes_no_fault_and_no_memory",
        HUGE,
        mapping_is_free,
    ),
    Test::with(
        "mapping_takes_no_fault_and_no_memory_in_small_pages",
        SMALL,
        mapping_is_free,
    ),
    Test::with("one_touch_brings_one_huge_page_by_one_fault", HUGE, || {
        let device = Device::open()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        let address = mapping.address(0);
        // A read in the middle of the first, a write in the middle of the second.
        for (count, place) in [(1, 77 * PAGE), (2, HUGE_PAGE + 99 * PAGE)] {
            if count == 1 {
                mapping.load(place);
            } else {
                mapping.store(place, 1);
            }
            let counters = device.counters()?;
            let expected = (count, 0, 0);
            let faults = (counters.huge_faults, counters.faults, counters.map_pages);
            assert_eq!(faults, expected, "huge faults, faults, faults around");
            let bytes = count * HUGE_PAGE as u64;
            assert_eq!(
                (counters.folios_added, counters.bytes_added),
                (count, bytes)
            );
            assert_eq!(device.info()?.resident_bytes, bytes);
            let smaps = smaps::of(address)?;
            assert_eq!((smaps["FilePmdMapped"], smaps["Rss"]), (bytes, bytes));
            assert_eq!(device.frame(place as u64)?.folio_bytes, HUGE_PAGE as u64);
        }
        let before = device.counters()?;
        mapping.touch_write(0, SIZE, 1);
        assert_eq!(device.counters()?, before, "all of it is mapped");
        Ok(())
    }),
    Test::with("the_frames_of_a_huge_page_are_in_one_piece", HUGE, || {
        let device = Device::open()?;
        Mapping::shared(&device, SIZE)?.touch_write(0, SIZE, 1);
        for start in [0, HUGE_PAGE as u64] {
            let first = device.frame(start)?.frame;
            assert_eq!(first % (HUGE_PAGE / PAGE) as u64, 0);
            for page in 0..(HUGE_PAGE / PAGE) as u64 {
                assert_eq!(
                    device.frame(start + page * PAGE as u64)?.frame,
                    first + page
                );
            }
        }
        Ok(())
    }),
    Test::with("resident_huge_pages_are_mapped_by_one_fault", HUGE, || {
        let device = Device::open()?;
        Mapping::shared(&device, SIZE)?.touch_write(0, SIZE, 1);
        for write in [false, true] {
            let before = device.counters()?;
            let mapping = Mapping::shared(&device, SIZE)?;
            if write {
                mapping.touch_write(0, SIZE, 1);
            } else {
                mapping.touch_read(0, SIZE);
            }
            let after = device.counters()?;
            // One for both, as they are neighbours.
            assert_eq!(after.huge_faults - before.huge_faults, 1, "write: {write}");
            assert_eq!(
                (after.faults, after.map_pages),
                (before.faults, before.map_pages)
            );
            assert_eq!(after.folios_added, before.folios_added);
            assert_eq!(smaps::of(mapping.address(0))?["FilePmdMapped"], SIZE as u64);
        }
        Ok(())
    }),
    Test::with("small_touches_bring_one_page_each", SMALL, || {
        let device = Device::open()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        let mut random = Random::new(1);
        let mut pages: Vec<usize> = (0..100).map(|_| random.below(PAGES)).collect();
        pages.sort();
        pages.dedup();
        for (index, page) in pages.iter().enumerate() {
            if index % 2 == 0 {
                mapping.load(page * PAGE + 5);
            } else {
                mapping.store(page * PAGE + 5, 1);
            }
            let counters = device.counters()?;
            let count = index as u64 + 1;
            assert_eq!(counters.folios_added, count);
            assert_eq!(counters.bytes_added, count * PAGE as u64);
            assert_eq!((counters.faults, counters.huge_faults), (count, 0));
            assert_eq!(device.frame((page * PAGE) as u64)?.folio_bytes, PAGE as u64);
        }
        assert_eq!(device.info()?.resident_bytes, (pages.len() * PAGE) as u64);
        Ok(())
    }),
    Test::without_module("memory_is_zero_when_first_seen", || never_stale("huge=1")),
    Test::without_module("memory_is_zero_when_first_seen_in_small_pages", || {
        never_stale("huge=0")
    }),
    Test::with(
        "the_mapped_frames_are_the_devices",
        HUGE,
        frames_are_the_devices,
    ),
    Test::with(
        "the_mapped_frames_are_the_devices_in_small_pages",
        SMALL,
        frames_are_the_devices,
    ),
    Test::with(
        "an_untouched_page_has_no_frame",
        HUGE,
        untouched_has_no_frame,
    ),
    Test::with(
        "an_untouched_page_has_no_frame_in_small_pages",
        SMALL,
        untouched_has_no_frame,
    ),
    Test::with("failed_faults_are_counted", HUGE, failed_faults),
    Test::with(
        "failed_faults_are_counted_in_small_pages",
        SMALL,
        failed_faults,
    ),
    Test::with(
        "failed_faults_are_counted_within_a_huge_page",
        "huge=1 size_mib=3",
        failed_faults,
    ),
    Test::with(
        "mappings_are_placed_for_huge_pages",
        "huge=1 size_mib=8",
        || {
            let device = Device::open()?;
            let mut mappings = Vec::new();
            // Wherever at least one whole huge page of the device is mapped.
            for (offset, len) in [
                (0, HUGE_PAGE),
                (0, HUGE_PAGE + PAGE),
                (0, 3 * MIB),
                (0, 8 * MIB),
                (PAGE, 2 * HUGE_PAGE),
                (MIB, 3 * MIB),
                (HUGE_PAGE - PAGE, HUGE_PAGE + PAGE),
                (HUGE_PAGE, HUGE_PAGE),
                (3 * MIB, 5 * MIB),
            ] {
                for flags in [MapFlags::SHARED, MapFlags::PRIVATE] {
                    let mapping = Mapping::new(&device, len, READ_WRITE, flags, offset as u64)?;
                    let address = mapping.address(0);
                    let (place, wanted) = (address % HUGE_PAGE, offset % HUGE_PAGE);
                    assert_eq!(
                        place, wanted,
                        "{len:#x} at {offset:#x}, mapped at {address:#x}"
                    );
                    // They stay, and none is where it is for want of another place.
                    mappings.push(mapping);
                }
            }
            Ok(())
        },
    ),
    Test::with(
        "an_odd_end_is_in_smaller_folios",
        "huge=1 size_mib=3",
        || {
            let device = Device::open()?;
            let size = device.size()?;
            Mapping::shared(&device, size)?.touch_write(0, size, 1);
            for offset in (0..size).step_by(16 * KIB) {
                let folio = device.frame(offset as u64)?.folio_bytes as usize;
                if offset < HUGE_PAGE {
                    assert_eq!(folio, HUGE_PAGE, "{offset:#x}");
                } else {
                    assert!(
                        folio > PAGE && folio <= 64 * KIB,
                        "{folio} bytes at {offset:#x}"
                    );
                }
            }
            let counters = device.counters()?;
            assert_eq!(counters.bytes_added, size as u64);
            assert_eq!(device.info()?.resident_bytes, size as u64);
            Ok(())
        },
    ),
    Test::with(
        "a_private_write_copies_its_page_only",
        HUGE,
        private_write_copies_one,
    ),
    Test::with(
        "a_private_write_copies_its_page_only_in_small_pages",
        SMALL,
        private_write_copies_one,
    ),
    Test::with("resident_pages_are_mapped_in_batches", SMALL, || {
        /// Pages that one fault maps at most.
        const BATCH: u64 = 64;
        /// Page tables that the mapping can need; the first page of each comes alone.
        const PAGE_TABLES: u64 = (SIZE / HUGE_PAGE) as u64 + 1;
        let device = Device::open()?;
        Mapping::shared(&device, SIZE)?.touch_write(0, SIZE, 1);
        for (flags, write) in [
            (MapFlags::SHARED, false),
            (MapFlags::SHARED, true),
            (MapFlags::PRIVATE, false),
        ] {
            let before = device.counters()?;
            let mapping = Mapping::new(&device, SIZE, READ_WRITE, flags, 0)?;
            if write {
                mapping.touch_write(0, SIZE, 1);
            } else {
                mapping.touch_read(0, SIZE);
            }
            let after = device.counters()?;
            let batches = after.map_pages - before.map_pages;
            let fewest = PAGES as u64 / BATCH;
            // One more at either end, where the window is cut.
            assert!(
                (fewest..=fewest + 2).contains(&batches),
                "{batches} batches of {PAGES} pages"
            );
            assert!(after.faults - before.faults <= PAGE_TABLES);
            assert_eq!(after.folios_added, before.folios_added);
        }
        Ok(())
    }),
    Test::with(
        "a_huge_fault_beside_a_new_page_table_is_answered_by_pages",
        HUGE,
        huge_fault_beside_a_page_table,
    ),
    Test::with(
        "bad_memory_is_an_error_and_its_neighbours_are_not",
        HUGE,
        bad_memory,
    ),
    Test::with(
        "bad_memory_in_a_huge_page_that_is_held_is_an_error_and_its_neighbours_are_not",
        "huge=1 size_mib=2",
        || {
            let device = Device::open()?;
            let bytes = vec![7; HUGE_PAGE];
            Mapping::shared(&device, HUGE_PAGE)?.write(0, &bytes);
            bad_memory_in_what_is_held(&device, &bytes, |bad| {
                device.punch(bad.start as u64, bad.len() as u64)
            })
        },
    ),
    Test::with(
        "bad_memory_is_an_error_and_its_neighbours_are_not_in_small_pages",
        SMALL,
        bad_memory,
    ),
    Test::with("a_batch_leaves_absent_pages_absent", SMALL, || {
        let device = Device::open()?;
        for page in (0..PAGES).step_by(2) {
            Mapping::new(
                &device,
                PAGE,
                READ_WRITE,
                MapFlags::SHARED,
                (page * PAGE) as u64,
            )?
            .store(0, 1);
        }
        let mapping = Mapping::shared(&device, SIZE)?;
        for page in (0..PAGES).step_by(2) {
            assert_eq!(mapping.load(page * PAGE), 1);
        }
        assert_eq!(device.info()?.resident_bytes, SIZE as u64 / 2);
        assert_eq!(smaps::of(mapping.address(0))?["Rss"], SIZE as u64 / 2);
        Ok(())
    }),
    Test::with("rss_is_what_was_touched", SMALL, || {
        let device = Device::open()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        for (index, page) in [0, 1, 17, 300, 511, 512, PAGES - 1].into_iter().enumerate() {
            mapping.store(page * PAGE, 1);
            let smaps = smaps::of(mapping.address(0))?;
            let bytes = (index as u64 + 1) * PAGE as u64;
            assert_eq!((smaps["Size"], smaps["Rss"]), (SIZE as u64, bytes));
            assert_eq!((smaps["Anonymous"], smaps["FilePmdMapped"]), (0, 0));
        }
        Ok(())
    }),
    Test::with(
        "touches_run_under_the_lock_of_their_mapping",
        HUGE,
        under_the_vma_lock,
    ),
    Test::with(
        "touches_run_under_the_lock_of_their_mapping_in_small_pages",
        SMALL,
        under_the_vma_lock,
    ),
];

fn mapping_is_free() -> io::Result<()> {
    let device = Device::open()?;
    let before = device.counters()?;
    let mut mappings = Vec::new();
    for flags in [MapFlags::SHARED, MapFlags::PRIVATE] {
        let mapping = Mapping::new(&device, SIZE, READ_WRITE, flags, 0)?;
        assert_eq!(smaps::of(mapping.address(0))?["Rss"], 0);
        mappings.push(mapping);
    }
    assert_eq!(device.counters()?, before);
    assert_eq!(before.faults + before.huge_faults + before.map_pages, 0);
    assert_eq!(device.info()?.resident_bytes, 0);
    drop(mappings);
    assert_eq!(device.counters()?, before);
    Ok(())
}

fn never_stale(parameters: &str) -> io::Result<()> {
    const BYTES: usize = 32 * MIB;
    let stale = Mapping::anonymous(MIB)?;
    stale.write(0, &[0xAA; PAGE]);
    let pattern = stale.read(0, PAGE);
    for _ in 0..2 {
        let module = Loaded::with(&format!("{parameters} size_mib=32"))?;
        {
            let device = Device::open()?;
            let mapping = Mapping::shared(&device, BYTES)?;
            // Through a read, a write and a private touch, each of a third.
            let third = BYTES / 3 / HUGE_PAGE * HUGE_PAGE;
            mapping.touch_read(0, third);
            for offset in (third..2 * third).step_by(PAGE) {
                mapping.store(offset + PAGE - 1, 0);
            }
            let private = Mapping::new(&device, BYTES, READ_WRITE, MapFlags::PRIVATE, 0)?;
            for offset in (2 * third..BYTES).step_by(PAGE) {
                private.store(offset, 0);
            }
            assert_eq!(
                private.sum(2 * third, BYTES - 2 * third),
                0,
                "stale bytes, copied"
            );
            assert_eq!(mapping.sum(0, BYTES), 0, "stale bytes");
            for offset in (0..BYTES).step_by(PAGE) {
                rustix::io::pwrite(&device, &pattern, offset as u64)?;
            }
            assert_eq!(mapping.load(BYTES - 1), 0xAA);
        }
        module.unload()?;
    }
    Ok(())
}

fn frames_are_the_devices() -> io::Result<()> {
    let device = Device::open()?;
    let shared = Mapping::shared(&device, SIZE)?;
    let private = Mapping::new(&device, SIZE, READ_WRITE, MapFlags::PRIVATE, 0)?;
    let mut random = Random::new(2);
    for _ in 0..100 {
        let offset = random.below(SIZE);
        if random.below(2) == 0 {
            shared.load(offset);
        } else {
            shared.store(offset, 1);
        }
        private.load(offset);
        let frame = Some(device.frame(offset as u64)?.frame);
        assert_eq!(
            pagemap::frame(shared.address(offset))?,
            frame,
            "{offset:#x}"
        );
        assert_eq!(
            pagemap::frame(private.address(offset))?,
            frame,
            "{offset:#x}, private"
        );
    }
    Ok(())
}

fn untouched_has_no_frame() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    let assert_absent = |offset: usize| -> io::Result<()> {
        let error = device
            .frame(offset as u64)
            .expect_err("nothing has touched it");
        assert_eq!(
            error.raw_os_error(),
            Some(Errno::NODATA.raw_os_error()),
            "{error}"
        );
        assert_eq!(pagemap::frame(mapping.address(offset))?, None);
        Ok(())
    };
    for offset in [0, PAGE, HUGE_PAGE - 1, HUGE_PAGE, SIZE - 1] {
        assert_absent(offset)?;
    }
    // To touch one does not bring the other.
    mapping.store(HUGE_PAGE, 1);
    assert!(device.frame(HUGE_PAGE as u64).is_ok());
    for offset in [0, PAGE, HUGE_PAGE - 1] {
        assert_absent(offset)?;
    }
    // Nor does reading by a call, which needs no page for zeros.
    rustix::io::pread(&device, &mut [0; 100], 0)?;
    assert_absent(0)
}

fn failed_faults() -> io::Result<()> {
    let device = Device::open()?;
    let size = device.size()?;
    let mapping = Mapping::shared(&device, size + HUGE_PAGE)?;
    mapping.touch_write(0, size, 1);
    let before = device.counters()?;
    assert_eq!(before.failed_faults, 0);
    for count in 1..=5 {
        let address = mapping.address(size + (count - 1) * PAGE);
        assert_eq!(
            child::touch(address, count % 2 == 0)?,
            Touch::BusError(address)
        );
        let counters = device.counters()?;
        assert_eq!(counters.failed_faults, count as u64);
        assert_eq!(counters.folios_added, before.folios_added);
    }
    Ok(())
}

fn private_write_copies_one() -> io::Result<()> {
    const WRITTEN: usize = 77;
    let device = Device::open()?;
    Mapping::shared(&device, SIZE)?.touch_write(0, SIZE, 1);
    let mapping = Mapping::new(&device, SIZE, READ_WRITE, MapFlags::PRIVATE, 0)?;
    mapping.touch_read(0, SIZE);
    mapping.store(WRITTEN * PAGE, 2);
    // The write may have taken a huge page apart.
    mapping.touch_read(0, SIZE);
    for page in 0..PAGES {
        let frame = Some(device.frame((page * PAGE) as u64)?.frame);
        let mapped = pagemap::frame(mapping.address(page * PAGE))?;
        assert_eq!(
            mapped == frame,
            page != WRITTEN,
            "page {page}: {mapped:?}, {frame:?}"
        );
    }
    let smaps = smaps::of(mapping.address(0))?;
    assert_eq!(
        (smaps["Anonymous"], smaps["Rss"]),
        (PAGE as u64, SIZE as u64)
    );
    Ok(())
}

fn under_the_vma_lock() -> io::Result<()> {
    let device = Device::open()?;
    let absent = Mapping::shared(&device, SIZE)?;
    absent.touch_read(0, SIZE / 2);
    absent.touch_write(SIZE / 2, SIZE / 2, 1);
    let resident = Mapping::shared(&device, SIZE)?;
    resident.touch_read(0, SIZE / 2);
    resident.touch_write(0, SIZE, 1);
    let private = Mapping::new(&device, SIZE, READ_WRITE, MapFlags::PRIVATE, 0)?;
    private.touch_read(0, SIZE / 2);
    private.touch_write(0, SIZE, 1);
    let counters = device.counters()?;
    assert!(counters.faults + counters.huge_faults + counters.map_pages > 0);
    assert_eq!(counters.mmap_lock_faults, 0, "{counters:?}");
    Ok(())
}

/// Writes to huge pages while another thread puts a guard into each, which takes a page table: whoever
/// comes first, the write is done and the guard stands. (What the kernel thinks of it is in its log.)
fn huge_fault_beside_a_page_table() -> io::Result<()> {
    const ROUNDS: u64 = 300;
    const LAST_PAGE: usize = HUGE_PAGE - PAGE;
    let device = Device::open()?;
    let huge_pages = SIZE / HUGE_PAGE;
    Mapping::shared(&device, SIZE)?.touch_write(0, SIZE, 1);
    let mut random = Random::new(1);
    for round in 1..=ROUNDS {
        let mapping = Mapping::shared(&device, SIZE)?;
        // How many huge pages each thread has come to: they start on each at once, but for a moment.
        let (writer, guard) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let delays: Vec<[usize; 2]> = (0..huge_pages)
            .map(|_| [random.below(400), random.below(400)])
            .collect();
        let meet = |mine: &AtomicUsize, other: &AtomicUsize, number: usize, delay: usize| {
            mine.store(number + 1, Ordering::SeqCst);
            while other.load(Ordering::SeqCst) <= number {
                std::hint::spin_loop();
            }
            (0..delay).for_each(|_| std::hint::spin_loop());
        };
        std::thread::scope(|scope| {
            let guards = scope.spawn(|| {
                (0..huge_pages).try_for_each(|number| {
                    meet(&guard, &writer, number, delays[number][0]);
                    mapping.guard(number * HUGE_PAGE + LAST_PAGE, PAGE)
                })
            });
            for (number, delay) in delays.iter().enumerate() {
                meet(&writer, &guard, number, delay[1]);
                mapping.touch_write(number * HUGE_PAGE, 1, round as u8);
            }
            guards.join().expect("the thread that puts guards")
        })?;
        for number in 0..huge_pages {
            assert_eq!(mapping.load(number * HUGE_PAGE), round as u8);
        }
        if round == ROUNDS {
            let address = mapping.address(LAST_PAGE);
            assert_eq!(
                child::touch(address, true)?,
                Touch::SegmentationFault(address)
            );
        }
    }
    Ok(())
}

/// A page that is to go bad.
const BAD: usize = 37 * PAGE;

/// Has it go bad, of a device of `size` bytes, where the folio that it is in can be split for that, or not.
fn poison(device: &Device, size: usize, can_be_split: bool) -> io::Result<()> {
    // In a process of its own: whoever has the page mapped may be told by a signal.
    let poisoner = Child::run(|| {
        let mapping = Mapping::shared(device, size).expect("a mapping");
        mapping.touch_read(BAD, PAGE);
        // The kernel has poisoned the page, and cannot say that nobody will come to it.
        let said = if can_be_split {
            Errno::BUSY
        } else {
            Errno::HWPOISON
        };
        match mapping.advise(BAD, PAGE, Advice::LinuxHwPoison) {
            Ok(()) => Vec::new(),
            Err(error) if error.raw_os_error() == Some(said.raw_os_error()) => Vec::new(),
            Err(error) => error.to_string().into_bytes(),
        }
    })?;
    let outcome = poisoner.wait(None)?;
    let told = [
        Outcome::Returned(Vec::new()),
        Outcome::Killed(rustix::process::Signal::BUS.as_raw()),
    ];
    assert!(told.contains(&outcome), "{outcome:?}");
    Ok(())
}

/// One page goes bad in a device of one huge page, which has these bytes, that somebody holds a part of, so that it stays one: the
/// bad page is not mapped with its neighbours. `give_up` gives up the bad page by itself: that the kernel keeps back, and has
/// no eye for one in a larger piece, which the next test would get.
pub(crate) fn bad_memory_in_what_is_held(
    device: &Device,
    bytes: &[u8],
    give_up: impl FnOnce(Range<usize>) -> io::Result<()>,
) -> io::Result<()> {
    let (reader, writer) = rustix::pipe::pipe()?;
    let none = rustix::pipe::SpliceFlags::empty();
    let held = rustix::pipe::splice(device, Some(&mut 0), &writer, None, PAGE, none);
    assert_eq!(held, Ok(PAGE));
    poison(device, HUGE_PAGE, false)?;
    let folio = device.frame(0)?.folio_bytes;
    assert_eq!(folio, HUGE_PAGE as u64, "it was split");

    for write in [false, true] {
        // Of one page table, and none is there yet.
        let mapping = Mapping::shared_aligned(device, HUGE_PAGE, HUGE_PAGE)?;
        if write {
            mapping.store(0, bytes[0]);
        } else {
            assert_eq!(mapping.load(0), bytes[0]);
        }
        // By this process: a child would begin with nothing mapped.
        let touched = mapping.try_load_word(BAD);
        assert!(touched.is_err(), "{touched:?}, {write}");
        for at in (0..HUGE_PAGE).step_by(PAGE).filter(|&at| at != BAD) {
            assert_eq!(mapping.load(at), bytes[at], "{at:#x}");
            mapping.store(at, bytes[at]);
        }
    }
    drop((reader, writer));
    give_up(BAD..BAD + PAGE)?;
    let folio = device.frame(0)?.folio_bytes;
    assert!(folio < HUGE_PAGE as u64, "not split: {folio} bytes");
    Ok(())
}

/// One page goes bad: touching it is SIGBUS, reading or splicing it EIO, and all the others have what they had.
fn bad_memory() -> io::Result<()> {
    let device = Device::open()?;
    Mapping::shared(&device, SIZE)?.touch_write(0, SIZE, 7);
    poison(&device, SIZE, true)?;

    let mapping = Mapping::shared(&device, SIZE)?;
    // A neighbour first, so that a batch could take the bad page along.
    assert_eq!(mapping.load(BAD - PAGE), 7);
    for write in [false, true] {
        let touch = child::touch(mapping.address(BAD), write)?;
        assert!(matches!(touch, Touch::BusError(_)), "{touch:?}");
    }
    let mut byte = [0];
    for at in (0..SIZE).step_by(PAGE) {
        let read = rustix::io::pread(&device, &mut byte, at as u64);
        if at == BAD {
            assert_eq!(read, Err(Errno::IO));
        } else {
            assert_eq!((read, byte), (Ok(1), [7]), "{at:#x}");
            assert_eq!(mapping.load(at), 7, "{at:#x}");
        }
    }
    // Nor does a read of everything give anything in its place.
    let mut all = vec![0; SIZE];
    assert_eq!(rustix::io::pread(&device, &mut all, 0), Ok(BAD));
    let (reader, writer) = rustix::pipe::pipe()?;
    let lend = |at: usize, len| {
        let none = rustix::pipe::SpliceFlags::empty();
        rustix::pipe::splice(&device, Some(&mut (at as u64)), &writer, None, len, none)
    };
    assert_eq!(lend(BAD, PAGE), Err(Errno::IO));
    for at in [BAD - PAGE, BAD + PAGE] {
        assert_eq!(lend(at, BAD + 2 * PAGE - at), Ok(PAGE), "{at:#x}");
        let mut page = [0; PAGE];
        assert_eq!(rustix::io::read(&reader, &mut page), Ok(PAGE));
        assert_eq!(page[0], 7, "{at:#x}");
    }
    Ok(())
}
