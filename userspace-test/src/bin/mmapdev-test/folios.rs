// SPDX-License-Identifier: GPL-2.0

//! Which pages a touch maps and brings in besides its own, and what keeps it from doing so.

use crate::Test;
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::memory;
use mmapdev_userspace::random::Random;
use mmapdev_userspace::{pagemap, slowness, smaps, HUGE_PAGE, KIB, MIB, PAGE};
use rustix::fs::OFlags;
use rustix::io::{pread, pwrite, read, write};
use rustix::mm::{Advice, MapFlags, MprotectFlags};
use rustix::pipe::{fcntl_setpipe_size, pipe_with, PipeFlags};
use rustix::process::{setrlimit, Resource, Rlimit};
use rustix::thread::{disable_transparent_huge_pages, sched_setaffinity, CpuSet};
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

const SIZE: usize = 4 * MIB;
const PAGES: usize = SIZE / PAGE;
const HUGE: &str = "huge=1 size_mib=4";
const SMALL: &str = "huge=0 size_mib=4";
/// Pages that one fault maps at most, and whose first is at a multiple of as many.
const WINDOW: usize = 64;
/// How many KiB of memory the kernel keeps for itself.
const KEPT_BACK: &str = "/proc/sys/vm/min_free_kbytes";

pub(crate) const TESTS: &[Test] = &[
    Test::with(
        "a_touch_maps_its_window_and_nothing_beyond_its_mapping",
        SMALL,
        window_in_mapping,
    ),
    Test::with(
        "a_touch_maps_nothing_beyond_its_page_table",
        SMALL,
        window_in_page_table,
    ),
    Test::with(
        "a_touch_maps_nothing_beyond_the_end_of_the_device",
        SMALL,
        window_in_device,
    ),
    Test::with(
        "a_program_that_wants_no_huge_pages_has_none_mapped",
        HUGE,
        || {
            let device = Device::open()?;
            // A huge page that others have brought in, and one that nobody has touched.
            Mapping::shared(&device, HUGE_PAGE)?.touch_write(0, HUGE_PAGE, 3);
            disable_transparent_huge_pages(true)?;
            let before = device.counters()?;
            let mapping = Mapping::shared(&device, SIZE)?;
            for page in 0..PAGES {
                let expected = if page < HUGE_PAGE / PAGE { 3 } else { 0 };
                assert_eq!(mapping.load(page * PAGE), expected, "page {page}");
                mapping.store(page * PAGE + 1, 4);
            }
            let smaps = smaps::of(mapping.address(0))?;
            assert_eq!((smaps["FilePmdMapped"], smaps["Rss"]), (0, SIZE as u64));
            assert_eq!(device.counters()?.huge_faults, before.huge_faults);
            disable_transparent_huge_pages(false)?;
            let mapping = Mapping::shared(&device, HUGE_PAGE)?;
            assert_eq!((mapping.load(0), mapping.load(1)), (3, 4));
            let smaps = smaps::of(mapping.address(0))?;
            assert_eq!(smaps["FilePmdMapped"], HUGE_PAGE as u64);
            Ok(())
        },
    ),
    Test::with(
        "fragmented_memory_gives_smaller_folios",
        "huge=1 size_mib=256 devices=2 limit_mib=600",
        fragmented,
    ),
];

/// A device all of which is in memory.
fn full_device() -> io::Result<Device> {
    let device = Device::open()?;
    Mapping::shared(&device, SIZE)?.touch_write(0, SIZE, 1);
    Ok(device)
}

/// Which pages of a mapping are mapped, by their number from its start.
fn mapped(mapping: &Mapping) -> io::Result<Vec<usize>> {
    let frames = pagemap::frames(mapping.address(0), mapping.len() / PAGE)?;
    let pages = frames.into_iter().enumerate();
    Ok(pages
        .filter_map(|(page, frame)| frame.map(|_| page))
        .collect())
}

fn touch(mapping: &Mapping, page: usize, is_write: bool) {
    if is_write {
        mapping.store(page * PAGE, 2);
    } else {
        mapping.load(page * PAGE);
    }
}

fn window_in_mapping() -> io::Result<()> {
    let device = full_device()?;
    for is_write in [false, true] {
        let mapping = Mapping::shared(&device, SIZE)?;
        // Three mappings in a row, the last two within one window, so that each has others beside it.
        mapping.protect(100 * PAGE, 10 * PAGE, MprotectFlags::READ)?;
        // Where there is no page table yet the first page may come alone.
        touch(&mapping, 0, is_write);
        let mut expected = mapped(&mapping)?;
        assert!(expected.iter().all(|&page| page < WINDOW), "{expected:?}");
        let mut assert_maps = |page: usize, is_write: bool, window: Range<usize>| {
            touch(&mapping, page, is_write);
            expected.extend(window);
            expected.sort();
            expected.dedup();
            assert_eq!(mapped(&mapping)?, expected, "after page {page}, {is_write}");
            io::Result::Ok(())
        };
        assert_maps(105, false, 100..110)?;
        assert_maps(99, is_write, WINDOW..100)?;
        assert_maps(127, is_write, 110..2 * WINDOW)?;
        // Whole, with no other mapping near.
        assert_maps(300, is_write, 4 * WINDOW..5 * WINDOW)?;
    }
    Ok(())
}

fn window_in_page_table() -> io::Result<()> {
    let device = full_device()?;
    for is_write in [false, true] {
        let mapping = Mapping::shared(&device, SIZE)?;
        // Where the next page table begins, as a page of the mapping.
        let border = (HUGE_PAGE - mapping.address(0) % HUGE_PAGE) / PAGE;
        assert!(border < PAGES - 1);
        touch(&mapping, border - 2, is_write);
        touch(&mapping, border - 1, is_write);
        let expected: Vec<usize> = (border.saturating_sub(WINDOW)..border).collect();
        assert_eq!(mapped(&mapping)?, expected, "before the border");
        touch(&mapping, border, is_write);
        touch(&mapping, border + 1, is_write);
        let last = (border + WINDOW).min(PAGES);
        let expected: Vec<usize> = (border.saturating_sub(WINDOW)..last).collect();
        assert_eq!(mapped(&mapping)?, expected, "after the border");
    }
    Ok(())
}

fn window_in_device() -> io::Result<()> {
    /// What is mapped: the device's last pages and the same number after its end.
    const LEN: usize = 2 * 100 * PAGE;
    let device = full_device()?;
    let start = SIZE - LEN / 2;
    for is_write in [false, true] {
        let mut mapping = Mapping::new(&device, LEN, READ_WRITE, MapFlags::SHARED, start as u64)?;
        // At an address where the end of the device is no end of a window.
        let mut others = Vec::new();
        let target = loop {
            let target = Mapping::anonymous(LEN)?;
            let place = (target.address(LEN / 2) / PAGE) % WINDOW;
            if (10..WINDOW - 10).contains(&place) {
                break target;
            }
            others.push((target, Mapping::anonymous(11 * PAGE)?));
        };
        let mapping = mapping.move_onto(0, LEN, target)?;
        let end = LEN / 2 / PAGE;
        // The page table is there, by a page far away or by chance; then a whole window.
        touch(&mapping, 0, is_write);
        touch(&mapping, end - 2, is_write);
        touch(&mapping, end - 1, is_write);
        let mapped = mapped(&mapping)?;
        let window = mapped.iter().filter(|&&page| page >= end - 10).count();
        assert_eq!(window, 10, "{mapped:?}");
        assert_eq!(mapped.last(), Some(&(end - 1)));
    }
    Ok(())
}

/// Pipes that each hold one page, in a piece of memory of its own: what is in a pipe cannot be moved.
struct Fragments {
    _pipes: Vec<(OwnedFd, OwnedFd)>,
    _rest: Mapping,
}

impl Fragments {
    /// Sees to it that no piece as large as a huge page is free, or can be had by moving pages.
    fn new() -> io::Result<Self> {
        let files = Some(100_000);
        let limit = Rlimit {
            current: files,
            maximum: files,
        };
        setrlimit(Resource::Nofile, limit)?;
        // What only caches hold could be had as large pieces later.
        let free = memory::settled_free()?;
        // Of most of it whole pieces are taken, which is done sooner.
        let rest = (free as usize).saturating_sub(300 * MIB).max(HUGE_PAGE) / HUGE_PAGE * HUGE_PAGE;
        let rest = Mapping::anonymous(rest)?;
        rest.advise(0, rest.len(), Advice::LinuxHugepage)?;
        rest.advise(0, rest.len(), Advice::LinuxPopulateWrite)?;
        // The kernel keeps some memory back, all of it in large pieces.
        let kept_back = std::fs::read_to_string(KEPT_BACK)?;
        std::fs::write(KEPT_BACK, "2048")?;
        let pipes = Self::fill_pipes();
        std::fs::write(KEPT_BACK, kept_back)?;
        // CPUs have free pieces of their own, and where there is no pipe pages can be moved, of which a touch that wants a
        // large piece moves some and the next one more: all that can be are moved, and what comes of that goes to
        // another device.
        let device = Device::open_with("/dev/mmapdev1", OFlags::RDWR)?;
        let size = device.size()?;
        let mapping = Mapping::shared(&device, size)?;
        let mut places = (0..size).step_by(HUGE_PAGE);
        loop {
            std::fs::write("/proc/sys/vm/compact_memory", "1")?;
            let mut found = false;
            for cpu in 0..available_parallelism()?.get() {
                let mut here = CpuSet::new();
                here.set(cpu);
                sched_setaffinity(None, &here)?;
                loop {
                    let place = places.next().expect("more huge pages than there should be");
                    mapping.store(place, 1);
                    if device.frame(place as u64)?.folio_bytes < HUGE_PAGE as u64 {
                        break;
                    }
                    found = true;
                }
            }
            if !found && memory::free_pieces(HUGE_PAGE)? == 0 {
                break;
            }
        }
        Ok(Self {
            _pipes: pipes?,
            _rest: rest,
        })
    }

    /// Takes memory until no large piece is free, and gives most of it back.
    fn fill_pipes() -> io::Result<Vec<(OwnedFd, OwnedFd)>> {
        /// What one pipe holds at first; what is kept of it is one page.
        const PIPE: usize = 256 * KIB;
        let bytes = vec![0xAA; PIPE];
        let mut pipes = Vec::new();
        while memory::free_pieces(HUGE_PAGE)? > 0 {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            fcntl_setpipe_size(&writer, PIPE)?;
            assert_eq!(write(&writer, &bytes)?, PIPE);
            pipes.push((reader, writer));
        }
        let mut bytes = vec![0; PIPE - PAGE];
        for (reader, _) in &pipes {
            assert_eq!(read(reader, &mut bytes)?, bytes.len());
        }
        Ok(pipes)
    }
}

fn fragmented() -> io::Result<()> {
    let device = Device::open()?;
    let size = 8 * MIB;
    let fragments = Fragments::new()?;
    assert_eq!(memory::free_pieces(HUGE_PAGE)?, 0, "not fragmented");
    let free = memory::meminfo("MemFree")?;
    assert!(
        free > 100 * MIB as u64,
        "{free} bytes are free, so it is scarce"
    );

    let mapping = Mapping::shared(&device, size)?;
    let mut random = Random::new(7);
    let bytes = random.bytes(size / 2);
    // One half by touches, one by calls.
    for offset in (0..size / 2).step_by(PAGE) {
        assert_eq!(mapping.load(offset + 100), 0, "{offset:#x}");
    }
    mapping.write(0, &bytes);
    assert_eq!(pwrite(&device, &bytes, size as u64 / 2)?, bytes.len());
    let mut seen = vec![0; size];
    assert_eq!(pread(&device, &mut seen, 0)?, size);
    let (first, second) = seen.split_at(size / 2);
    assert!(first == bytes && second == bytes, "the bytes by a call");
    assert!(mapping.read(0, size / 2) == bytes, "the first half, mapped");
    assert!(mapping.read(size / 2, size / 2) == bytes, "the second half");

    let counters = device.counters()?;
    assert_eq!(counters.bytes_added, size as u64);
    assert_eq!(counters.failed_faults, 0);
    // Somebody else in the guest may give a large piece back meanwhile, but not many.
    let mut in_huge_pages = 0;
    for offset in (0..size).step_by(PAGE) {
        if device.frame(offset as u64)?.folio_bytes as usize > 64 * KIB {
            in_huge_pages += PAGE;
        }
    }
    assert!(in_huge_pages <= size / 2, "{in_huge_pages} of {size} bytes");
    // What compaction is moving just then is not counted.
    let deadline = Instant::now() + slowness() * Duration::from_secs(10);
    while smaps::of(mapping.address(0))?["Rss"] != size as u64 {
        assert!(Instant::now() < deadline, "some of it is not mapped");
        mapping.touch_read(0, size);
    }
    drop(fragments);
    Ok(())
}
