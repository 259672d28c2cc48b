// SPDX-License-Identifier: GPL-2.0

//! A mapping as the buffer of direct I/O: `O_DIRECT`, and the fixed buffers of io_uring, whose pages the
//! kernel pins for long.

use crate::{assert_errno, Test};
use mmapdev_userspace::device::{self, Device};
use mmapdev_userspace::fixed_buffer::FixedBuffer;
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::random::Random;
use mmapdev_userspace::{slowness, HUGE_PAGE, MIB, PAGE};
use rustix::fs::{self, Mode, OFlags};
use rustix::io::{pread, pwrite, Errno};
use rustix::mm::MapFlags;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

const SIZE: usize = 8 * MIB;
const HUGE: &str = "huge=1 size_mib=8";
const MIDDLE: &str = "huge=1 folio_kib=64 size_mib=8";
const SMALL: &str = "huge=0 size_mib=8";

/// A folder of a file system on a disk, and one of a file system in memory.
const DISK: &str = "/mnt/disk";
const TMPFS: &str = "/tmp";

pub(crate) const TESTS: &[Test] = &[
    Test::with("direct_reads_fill_the_mapping_from_ext4", HUGE, || {
        reads(DISK)
    }),
    Test::with(
        "direct_reads_fill_the_mapping_from_ext4_in_small_pages",
        SMALL,
        || reads(DISK),
    ),
    Test::with(
        "direct_reads_fill_the_mapping_from_ext4_in_64_kib_folios",
        MIDDLE,
        || reads(DISK),
    ),
    Test::with("direct_reads_fill_the_mapping_from_tmpfs", HUGE, || {
        reads(TMPFS)
    }),
    Test::with(
        "direct_reads_fill_the_mapping_from_tmpfs_in_small_pages",
        SMALL,
        || reads(TMPFS),
    ),
    Test::with("direct_writes_take_the_mapping_to_ext4", HUGE, || {
        writes(DISK)
    }),
    Test::with(
        "direct_writes_take_the_mapping_to_ext4_in_small_pages",
        SMALL,
        || writes(DISK),
    ),
    Test::with(
        "direct_writes_take_the_mapping_to_ext4_in_64_kib_folios",
        MIDDLE,
        || writes(DISK),
    ),
    Test::with("direct_writes_take_the_mapping_to_tmpfs", HUGE, || {
        writes(TMPFS)
    }),
    Test::with(
        "direct_writes_take_the_mapping_to_tmpfs_in_small_pages",
        SMALL,
        || writes(TMPFS),
    ),
    Test::with(
        "direct_io_beyond_the_end_is_efault_and_short_before_it",
        HUGE,
        || {
            let device = Device::open()?;
            let mapping = Mapping::shared(&device, SIZE + PAGE)?;
            let file = direct_file(DISK)?;
            assert_errno(
                mapping.pwrite_to(&file, 0, SIZE, PAGE),
                Errno::FAULT,
                "beyond the end",
            );
            mapping.touch_write(0, SIZE, 3);
            match mapping.pwrite_to(&file, 0, SIZE - PAGE, 2 * PAGE) {
                Ok(count) => assert_eq!(count, PAGE, "what is before the end"),
                Err(error) => assert_eq!(error.raw_os_error(), Some(Errno::FAULT.raw_os_error())),
            }
            Ok(())
        },
    ),
    Test::with("direct_reads_fill_private_copies_alone", HUGE, || {
        let device = Device::open()?;
        let file = filled_file(DISK, SIZE)?;
        let private = Mapping::new(&device, SIZE, READ_WRITE, MapFlags::PRIVATE, 0)?;
        assert_eq!(private.pread_from(&file, 0, PAGE, MIB)?, MIB);
        assert!(private.read(PAGE, MIB) == pattern(0, MIB));
        let mut bytes = vec![1; MIB];
        assert_eq!(pread(&device, &mut bytes, PAGE as u64)?, MIB);
        assert!(bytes.iter().all(|&byte| byte == 0));
        Ok(())
    }),
    Test::with("fixed_buffers_read_and_write", HUGE, fixed),
    Test::with("fixed_buffers_read_and_write_in_small_pages", SMALL, fixed),
    Test::with("a_fixed_buffer_outlives_its_mapping", HUGE, outlive),
    Test::with(
        "a_fixed_buffer_outlives_its_mapping_in_small_pages",
        SMALL,
        outlive,
    ),
    Test::with("a_read_only_mapping_is_no_fixed_buffer", HUGE, || {
        let device = Device::open_with(device::FIRST, OFlags::RDONLY)?;
        let mapping = Mapping::new(
            &device,
            MIB,
            rustix::mm::ProtFlags::READ,
            MapFlags::SHARED,
            0,
        )?;
        assert_errno(
            FixedBuffer::new(&mapping, 0, MIB).map(drop),
            Errno::FAULT,
            "read-only",
        );
        Ok(())
    }),
    Test::with("punched_pages_of_a_fixed_buffer_stay_with_it", HUGE, || {
        punched(HUGE_PAGE)
    }),
    Test::with(
        "punched_pages_of_a_fixed_buffer_stay_with_it_in_small_pages",
        SMALL,
        || punched(PAGE),
    ),
    Test::with("punching_beside_a_pinned_page_keeps_the_rest", HUGE, beside),
    Test::with(
        "shrinking_within_a_pinned_folio_keeps_what_is_before",
        HUGE,
        shrunk,
    ),
    Test::with("a_fixed_buffer_outlives_its_device", HUGE, || {
        let device = Device::open()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        let mut buffer = FixedBuffer::new(&mapping, 0, MIB)?;
        mapping.write(0, &pattern(0, PAGE));
        device.destroy()?;
        let file = direct_file(DISK)?;
        assert_eq!(buffer.write(&file, 0, 0, PAGE)?, PAGE);
        assert!(
            content(&file, PAGE)? == pattern(0, PAGE),
            "the pages are the fixed buffer's"
        );
        Ok(())
    }),
];

/// The byte of a file's pattern at an offset.
fn pattern(offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len)
        .map(|at| (at / PAGE * 31 + at % 253) as u8)
        .collect()
}

fn new_file(folder: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let path = format!("{folder}/direct-io");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | flags;
    let file = fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
    fs::unlink(&path)?;
    Ok(file)
}

fn direct_file(folder: &str) -> io::Result<OwnedFd> {
    let file = new_file(folder, OFlags::DIRECT)?;
    assert!(fs::fcntl_getfl(&file)?.contains(OFlags::DIRECT));
    Ok(file)
}

/// A file for direct I/O with the pattern in it.
fn filled_file(folder: &str, len: usize) -> io::Result<OwnedFd> {
    let file = direct_file(folder)?;
    let buffer = Mapping::anonymous(MIB)?;
    for start in (0..len).step_by(MIB) {
        buffer.write(0, &pattern(start, MIB));
        assert_eq!(buffer.pwrite_to(&file, start as u64, 0, MIB)?, MIB);
    }
    Ok(file)
}

/// What is in a file for direct I/O.
fn content(file: &OwnedFd, len: usize) -> io::Result<Vec<u8>> {
    // Direct I/O is of whole sectors.
    let whole = len.next_multiple_of(PAGE);
    let buffer = Mapping::anonymous(whole)?;
    let count = buffer.pread_from(file, 0, 0, whole)?;
    Ok(buffer.read(0, count.min(len)))
}

/// Places and lengths that cross folios of all sizes, in sectors.
fn places() -> Vec<(usize, usize)> {
    const SECTOR: usize = 512;
    let mut random = Random::new(77);
    let mut places = vec![
        (0, SIZE),
        (PAGE, PAGE),
        (HUGE_PAGE - PAGE, 2 * PAGE),
        (15 * PAGE + SECTOR, 2 * PAGE),
        (SIZE - SECTOR, SECTOR),
    ];
    for _ in 0..20 {
        let start = random.below(SIZE / SECTOR) * SECTOR;
        let longest = [8 * SECTOR, MIB][random.below(2)];
        let len = (1 + random.below(longest / SECTOR)) * SECTOR;
        places.push((start, len.min(SIZE - start)));
    }
    places
}

fn reads(folder: &str) -> io::Result<()> {
    let device = Device::open()?;
    let file = filled_file(folder, SIZE)?;
    let mapping = Mapping::shared(&device, SIZE)?;
    let mut model = vec![0; SIZE];
    for (start, len) in places() {
        // From another place of the file, so that a page that is put where another belongs shows.
        let from = (SIZE - len) / PAGE * PAGE;
        let count = mapping.pread_from(&file, from as u64, start, len)?;
        assert_eq!(count, len, "{len} bytes at {start}");
        model[start..start + len].copy_from_slice(&pattern(from, len));
        assert!(mapping.read(0, SIZE) == model, "{len} bytes at {start}");
    }
    let mut bytes = vec![0; SIZE];
    assert_eq!(pread(&device, &mut bytes, 0)?, SIZE);
    assert!(bytes == model, "the device has them");
    Ok(())
}

fn writes(folder: &str) -> io::Result<()> {
    let device = Device::open()?;
    let file = direct_file(folder)?;
    let mapping = Mapping::shared(&device, SIZE)?;
    let bytes = pattern(0, SIZE);
    assert_eq!(pwrite(&device, &bytes, 0)?, SIZE);
    // What was never touched is zeros, from memory that the I/O itself brings in.
    device.punch(5 * PAGE as u64, (3 * MIB) as u64)?;
    let mut model = bytes;
    model[5 * PAGE..5 * PAGE + 3 * MIB].fill(0);
    for (start, len) in places() {
        assert_eq!(
            mapping.pwrite_to(&file, 0, start, len)?,
            len,
            "{len} bytes at {start}"
        );
        assert!(
            content(&file, len)? == model[start..start + len],
            "{len} bytes at {start}"
        );
    }
    Ok(())
}

fn fixed() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    let (start, len) = (PAGE, 3 * MIB);
    let mut buffer = FixedBuffer::new(&mapping, start, len)?;
    for folder in [DISK, TMPFS] {
        let file = filled_file(folder, SIZE)?;
        assert_eq!(buffer.read(&file, MIB as u64, 0, len)?, len);
        assert!(
            mapping.read(start, len) == pattern(MIB, len),
            "read from {folder}"
        );
        mapping.write(start, b"a store between");
        assert_eq!(buffer.write(&file, 0, 0, PAGE)?, PAGE);
        assert_eq!(
            &content(&file, 15)?,
            b"a store between",
            "written to {folder}"
        );
    }
    let mut byte = [0];
    assert_eq!(pread(&device, &mut byte, start as u64)?, 1);
    assert_eq!(&byte, b"a");
    Ok(())
}

fn outlive() -> io::Result<()> {
    let device = Device::open()?;
    let file = filled_file(DISK, SIZE)?;
    let mapping = Mapping::shared(&device, SIZE)?;
    let mut buffer = FixedBuffer::new(&mapping, MIB, MIB)?;
    drop(mapping);
    assert_eq!(buffer.read(&file, 0, 0, MIB)?, MIB);
    let mut bytes = vec![0; MIB];
    assert_eq!(pread(&device, &mut bytes, MIB as u64)?, MIB);
    assert!(bytes == pattern(0, MIB), "the device's pages were filled");
    Ok(())
}

/// What is punched reads as zeros, in fresh pages, and I/O goes on with those that are pinned.
fn punched(unit: usize) -> io::Result<()> {
    let device = Device::open()?;
    let file = filled_file(DISK, SIZE)?;
    let mapping = Mapping::shared(&device, SIZE)?;
    mapping.touch_write(0, SIZE, 9);
    let mut buffer = FixedBuffer::new(&mapping, 0, unit)?;
    let frame = device.frame(0)?.frame;
    device.punch(0, unit as u64)?;
    assert_eq!(mapping.load(0), 0, "fresh zeros");
    assert_ne!(device.frame(0)?.frame, frame, "in another page");
    assert_eq!(buffer.write(&file, 0, 0, PAGE)?, PAGE);
    assert_eq!(content(&file, 1)?, [9], "the pinned page is as it was");
    assert_eq!(buffer.read(&file, MIB as u64, 0, PAGE)?, PAGE);
    assert_eq!(
        mapping.load(0),
        0,
        "and what is read into it is not the device's"
    );
    Ok(())
}

/// A huge page that cannot be split, as one of its pages is pinned, keeps all that is not punched.
fn beside() -> io::Result<()> {
    let device = Device::open()?;
    let file = filled_file(DISK, SIZE)?;
    let mapping = Mapping::shared(&device, SIZE)?;
    let mut model = pattern(0, HUGE_PAGE);
    mapping.write(0, &model);
    let mut buffer = FixedBuffer::new(&mapping, 3 * PAGE, PAGE)?;
    for place in [10 * PAGE, 0, HUGE_PAGE - PAGE] {
        device.punch(place as u64, PAGE as u64)?;
        model[place..place + PAGE].fill(0);
        assert!(mapping.read(0, HUGE_PAGE) == model, "punched at {place}");
    }
    assert_eq!(buffer.read(&file, MIB as u64, 0, PAGE)?, PAGE);
    model[3 * PAGE..4 * PAGE].copy_from_slice(&pattern(MIB, PAGE));
    let mut bytes = vec![0; HUGE_PAGE];
    assert_eq!(pread(&device, &mut bytes, 0)?, HUGE_PAGE);
    assert!(bytes == model, "the pinned page is the device's as before");
    // Without the pin it is split, and memory comes back.
    drop(buffer);
    device.punch(10 * PAGE as u64, PAGE as u64)?;
    assert!(mapping.read(0, HUGE_PAGE) == model);
    Ok(())
}

/// The same where the new end divides the huge page.
fn shrunk() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    let bytes = pattern(0, SIZE);
    mapping.write(0, &bytes);
    let buffer = FixedBuffer::new(&mapping, HUGE_PAGE + 2 * PAGE, PAGE)?;
    let end = HUGE_PAGE + 8 * PAGE;
    device.resize(end as u64)?;
    assert_eq!(device.size()?, end);
    let mut seen = vec![1; SIZE];
    assert_eq!(pread(&device, &mut seen, 0)?, end);
    assert!(seen[..end] == bytes[..end], "what is before the end");
    assert_errno(
        pwrite(&device, &[1], end as u64).map_err(io::Error::from),
        Errno::NOSPC,
        "a write",
    );
    // While it cannot be split, memory beyond the end may be stored to; it is gone all the same.
    device.resize(SIZE as u64)?;
    assert_eq!(pread(&device, &mut seen, 0)?, SIZE);
    assert!(seen[..end] == bytes[..end], "what was before the end");
    assert!(seen[end..].iter().all(|&byte| byte == 0), "what has come");
    device.resize(end as u64)?;
    drop(buffer);
    // Once the kernel has let go of it, it is split, which must not take what is beyond the end for something to
    // be written back.
    let deadline = Instant::now() + slowness() * Duration::from_secs(10);
    while device.info()?.resident_bytes >= 2 * HUGE_PAGE as u64 {
        assert!(Instant::now() < deadline, "it is never split");
        device.punch(HUGE_PAGE as u64, PAGE as u64)?;
    }
    device.resize((HUGE_PAGE + 4 * PAGE) as u64)?;
    assert_eq!(
        mapping.read(HUGE_PAGE + PAGE, 3 * PAGE),
        bytes[HUGE_PAGE + PAGE..][..3 * PAGE]
    );
    assert_eq!(device.info()?.resident_bytes, (HUGE_PAGE + 3 * PAGE) as u64);
    Ok(())
}
