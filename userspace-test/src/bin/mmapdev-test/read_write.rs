// SPDX-License-Identifier: GPL-2.0

//! Reading and writing with calls: every offset, length and buffer, right, short or refused.

use crate::Test;
use mmapdev_userspace::device::{self, Device};
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::random::Random;
use mmapdev_userspace::{HUGE_PAGE, KIB, PAGE};
use rustix::fs::{seek, OFlags, SeekFrom};
use rustix::io::{
    pread, preadv2, pwrite, pwritev2, read, readv, write, writev, Errno, ReadWriteFlags,
};
use rustix::mm::{Advice, MprotectFlags};
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Barrier;

// Whole huge pages, and at the end what is less than one.
const SMALL: &str = "huge=0 size_mib=5";
const LARGE: &str = "huge=1 size_mib=5";
// Room for each case of copies within the device to have its own untouched part.
const ROOMY_SMALL: &str = "huge=0 size_mib=80";
const ROOMY_LARGE: &str = "huge=1 size_mib=80";

pub(crate) const TESTS: &[Test] = &[
    Test::with(
        "reads_and_writes_anywhere_are_right_in_small_pages",
        SMALL,
        anywhere,
    ),
    Test::with(
        "reads_and_writes_anywhere_are_right_in_huge_pages",
        LARGE,
        anywhere,
    ),
    Test::with("a_thousand_pieces_are_one_transfer", LARGE, pieces),
    Test::with(
        "a_mapping_and_calls_see_the_same_bytes_in_small_pages",
        SMALL,
        mapping_and_calls,
    ),
    Test::with(
        "a_mapping_and_calls_see_the_same_bytes_in_huge_pages",
        LARGE,
        mapping_and_calls,
    ),
    Test::with("reading_at_or_after_the_end_gives_nothing", LARGE, || {
        let device = Device::open()?;
        let size = device.size()? as u64;
        let mut buffer = [0xEE; 100];
        for at in [size, size + 1, size + 4096, 1 << 40, i64::MAX as u64 - 100] {
            assert_eq!(pread(&device, &mut buffer, at), Ok(0), "at {at}");
            seek(&device, SeekFrom::Start(at))?;
            assert_eq!(read(&device, &mut buffer), Ok(0), "at {at}");
            assert_eq!(position(&device)?, at);
        }
        assert_eq!(buffer, [0xEE; 100]);
        Ok(())
    }),
    Test::with("a_read_across_the_end_is_short", LARGE, || {
        let device = Device::open()?;
        let size = device.size()?;
        for (state, filler) in [("hole", 0), ("data", 7)] {
            if filler != 0 {
                pwrite(&device, &[filler; 2 * PAGE], (size - 2 * PAGE) as u64)?;
            }
            for left in [1, 100, PAGE, PAGE + 1] {
                let mut buffer = vec![0xEE; left + 3 * PAGE];
                let got = pread(&device, &mut buffer, (size - left) as u64);
                assert_eq!(got, Ok(left), "{state}");
                assert!(buffer[..left].iter().all(|&byte| byte == filler), "{state}");
                assert!(buffer[left..].iter().all(|&byte| byte == 0xEE), "{state}");
            }
        }
        Ok(())
    }),
    Test::with("a_write_at_or_after_the_end_has_no_space", LARGE, || {
        let device = Device::open()?;
        let size = device.size()? as u64;
        for at in [size, size + 1, size + 4096, 1 << 40, i64::MAX as u64 - 10] {
            for len in [1, 10] {
                let got = pwrite(&device, &vec![1; len], at);
                assert_eq!(got, Err(Errno::NOSPC), "{len} at {at}");
                seek(&device, SeekFrom::Start(at))?;
                assert_eq!(write(&device, &vec![1; len]), Err(Errno::NOSPC));
                assert_eq!(position(&device)?, at);
            }
        }
        assert_eq!(device.counters()?.bytes_written, 0);
        assert_eq!(device.info()?.resident_bytes, 0);
        assert_eq!(device.size()? as u64, size);
        Ok(())
    }),
    Test::with("a_write_across_the_end_is_short", LARGE, || {
        let device = Device::open()?;
        let size = device.size()?;
        for (left, filler) in [(2 * PAGE + 1, 3), (PAGE, 4), (100, 5), (1, 6)] {
            let at = (size - left) as u64;
            let bytes = vec![filler; left + PAGE];
            seek(&device, SeekFrom::Start(at))?;
            assert_eq!(write(&device, &bytes), Ok(left));
            assert_eq!(position(&device)?, size as u64);
            // As a program goes on that has written in part.
            assert_eq!(write(&device, &bytes[left..]), Err(Errno::NOSPC));
            assert_eq!(fetch(&device, at, left)?, vec![filler; left]);
            let (first, second) = bytes.split_at(left / 2);
            let slices = [IoSlice::new(first), IoSlice::new(second)];
            let got = pwritev2(&device, &slices, at, ReadWriteFlags::empty());
            assert_eq!(got, Ok(left));
        }
        assert_eq!(device.size()?, size);
        Ok(())
    }),
    Test::with(
        "nothing_written_or_read_is_no_error_anywhere",
        LARGE,
        || {
            let device = Device::open()?;
            let size = device.size()? as u64;
            for at in [0, 5, size - 1, size, size + 1, 1 << 40, i64::MAX as u64] {
                assert_eq!(pwrite(&device, &[], at), Ok(0), "at {at}");
                assert_eq!(pread(&device, &mut [0; 0][..], at), Ok(0), "at {at}");
                seek(&device, SeekFrom::Start(at))?;
                assert_eq!(write(&device, &[]), Ok(0), "at {at}");
                assert_eq!(writev(&device, &[IoSlice::new(&[])]), Ok(0), "at {at}");
                assert_eq!(read(&device, &mut [0; 0][..]), Ok(0), "at {at}");
                assert_eq!(position(&device)?, at);
            }
            assert_eq!(device.info()?.resident_bytes, 0);
            Ok(())
        },
    ),
    Test::with("offsets_that_are_no_offsets_are_invalid", LARGE, || {
        let device = Device::open()?;
        let top = i64::MAX as u64;
        // The end of what is asked for must be a number, too.
        let invalid = [u64::MAX, u64::MAX - 4095, top + 1, top, top - 8];
        for at in invalid {
            let mut buffer = [0xEE; 10];
            assert_eq!(pread(&device, &mut buffer, at), Err(Errno::INVAL), "{at}");
            assert_eq!(pwrite(&device, &buffer, at), Err(Errno::INVAL), "{at}");
            assert_eq!(buffer, [0xEE; 10]);
        }
        for at in [top, top - 8] {
            seek(&device, SeekFrom::Start(at))?;
            assert_eq!(read(&device, &mut [0; 10]), Err(Errno::INVAL), "{at}");
            assert_eq!(write(&device, &[0; 10]), Err(Errno::INVAL), "{at}");
            assert_eq!(position(&device)?, at);
        }
        Ok(())
    }),
    Test::with(
        "a_bad_buffer_is_efault_and_loses_nothing_in_small_pages",
        SMALL,
        bad_buffers,
    ),
    Test::with(
        "a_bad_buffer_is_efault_and_loses_nothing_in_huge_pages",
        LARGE,
        bad_buffers,
    ),
    Test::with(
        "untouched_ranges_read_as_zeros_and_cost_no_memory_in_small_pages",
        SMALL,
        untouched,
    ),
    Test::with(
        "untouched_ranges_read_as_zeros_and_cost_no_memory_in_huge_pages",
        LARGE,
        untouched,
    ),
    Test::with("every_byte_copied_is_counted_once", LARGE, counted),
    Test::with(
        "writing_from_the_devices_own_mapping_is_right_in_small_pages",
        ROOMY_SMALL,
        || within_the_device(write_from_mapping),
    ),
    Test::with(
        "writing_from_the_devices_own_mapping_is_right_in_huge_pages",
        ROOMY_LARGE,
        || within_the_device(write_from_mapping),
    ),
    Test::with(
        "reading_into_the_devices_own_mapping_is_right_in_small_pages",
        ROOMY_SMALL,
        || within_the_device(read_into_mapping),
    ),
    Test::with(
        "reading_into_the_devices_own_mapping_is_right_in_huge_pages",
        ROOMY_LARGE,
        || within_the_device(read_into_mapping),
    ),
    Test::with(
        "nowait_works_or_says_again_in_small_pages",
        SMALL,
        without_waiting,
    ),
    Test::with(
        "nowait_works_or_says_again_in_huge_pages",
        LARGE,
        without_waiting,
    ),
    Test::with("nowait_beside_another_writer_is_never_wrong", SMALL, || {
        let (device, other) = (Device::open()?, Device::open()?);
        let size = device.size()?;
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || -> io::Result<()> {
                for filler in 1..20 {
                    pwrite(&other, &vec![filler; size / 2], (size / 2) as u64)?;
                }
                Ok(())
            });
            let mut number = 0u32;
            while !writer.is_finished() {
                number += 1;
                let bytes = number.to_le_bytes();
                let slices = [IoSlice::new(&bytes)];
                match pwritev2(&device, &slices, 8, ReadWriteFlags::NOWAIT) {
                    Ok(count) => {
                        assert_eq!(count, 4);
                        assert_eq!(fetch(&device, 8, 4)?, bytes);
                    }
                    Err(error) => assert_eq!(error, Errno::AGAIN),
                }
            }
            writer.join().expect("the writer does not panic")
        })
    }),
    Test::with("append_is_ignored_and_the_position_counts", LARGE, || {
        let device = Device::open_with(device::FIRST, OFlags::RDWR | OFlags::APPEND)?;
        seek(&device, SeekFrom::Start(10))?;
        assert_eq!(write(&device, b"one"), Ok(3));
        assert_eq!(position(&device)?, 13);
        assert_eq!(pwrite(&device, b"two", 20), Ok(3));
        let slices = [IoSlice::new(b"three")];
        let got = pwritev2(Device::open()?, &slices, 30, ReadWriteFlags::APPEND);
        assert_eq!(got, Ok(5));
        let mut expected = [0; 40];
        expected[10..13].copy_from_slice(b"one");
        expected[20..23].copy_from_slice(b"two");
        expected[30..35].copy_from_slice(b"three");
        assert_eq!(fetch(&device, 0, 40)?, expected);
        Ok(())
    }),
    Test::with(
        "threads_that_share_a_descriptor_write_one_after_the_other",
        LARGE,
        || {
            const THREADS: usize = 3;
            const WRITES: usize = 2000;
            const PIECE: usize = 64;
            let device = Device::open()?;
            let start = Barrier::new(THREADS);
            std::thread::scope(|scope| {
                let writers: Vec<_> = (1..=THREADS as u8)
                    .map(|value| {
                        let (device, start) = (&device, &start);
                        scope.spawn(move || {
                            start.wait();
                            (0..WRITES).try_for_each(|_| match write(device, &[value; PIECE]) {
                                Ok(PIECE) => Ok(()),
                                other => Err(io::Error::other(format!("{other:?}"))),
                            })
                        })
                    })
                    .collect();
                let joined = writers
                    .into_iter()
                    .map(|writer| writer.join().expect("a writer"));
                joined.collect::<io::Result<Vec<()>>>()
            })?;
            // None came to a position that another was at: each write is there, and whole.
            let written = THREADS * WRITES * PIECE;
            assert_eq!(position(&device)?, written as u64);
            let bytes = fetch(&device, 0, written)?;
            for value in 1..=THREADS as u8 {
                let whole = bytes
                    .chunks(PIECE)
                    .filter(|piece| **piece == [value; PIECE]);
                assert_eq!(whole.count(), WRITES, "of thread {value}");
            }
            Ok(())
        },
    ),
    Test::with(
        "direct_and_synchronous_descriptors_read_and_write_the_same_bytes",
        LARGE,
        || {
            let plain = Device::open()?;
            let special = [OFlags::DIRECT, OFlags::DSYNC, OFlags::SYNC];
            for (round, flags) in special.into_iter().enumerate() {
                let device = Device::open_with(device::FIRST, OFlags::RDWR | flags)?;
                // Aligned to nothing: there is no disk that could mind.
                let at = 12_345 * (round as u64 + 1);
                let bytes = Random::new(at).bytes(5000);
                assert_eq!(pwrite(&device, &bytes, at), Ok(5000), "{flags:?}");
                assert_eq!(fetch(&device, at, 5000)?, bytes, "{flags:?}");
                assert_eq!(fetch(&plain, at, 5000)?, bytes, "{flags:?}");
            }
            Ok(())
        },
    ),
    Test::with(
        "writers_to_one_page_lose_nothing_of_each_other_in_small_pages",
        SMALL,
        one_page,
    ),
    Test::with(
        "writers_to_one_page_lose_nothing_of_each_other_in_huge_pages",
        LARGE,
        one_page,
    ),
    Test::with(
        "overlapping_writes_come_one_after_the_other",
        SMALL,
        one_after_the_other,
    ),
];

fn position(device: &Device) -> io::Result<u64> {
    Ok(seek(device, SeekFrom::Current(0))?)
}

/// Reads bytes that must all be there.
fn fetch(device: &Device, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0xEE; len];
    let count = pread(device, &mut bytes, at)?;
    assert_eq!(count, len, "a short read at {at}");
    Ok(bytes)
}

/// Compares without printing megabytes.
fn assert_same(seen: &[u8], expected: &[u8], what: &str) {
    assert_eq!(seen.len(), expected.len(), "{what}");
    if seen != expected {
        let first = seen
            .iter()
            .zip(expected)
            .position(|(one, other)| one != other)
            .expect("they differ");
        panic!(
            "{what}: byte {first} of {} is {:#x} and should be {:#x}",
            seen.len(),
            seen[first],
            expected[first]
        );
    }
}

/// The calls that read or write.
#[derive(Clone, Copy, Debug)]
enum Way {
    AtOffset,
    AtPosition,
    PiecesAtOffset,
    PiecesAtPosition,
}

const WAYS: [Way; 4] = [
    Way::AtOffset,
    Way::AtPosition,
    Way::PiecesAtOffset,
    Way::PiecesAtPosition,
];

impl Way {
    fn any(random: &mut Random) -> Self {
        WAYS[random.below(WAYS.len())]
    }

    fn moves_position(self) -> bool {
        matches!(self, Self::AtPosition | Self::PiecesAtPosition)
    }

    fn read(
        self,
        device: &Device,
        at: u64,
        buffer: &mut [u8],
        random: &mut Random,
    ) -> io::Result<Result<usize, Errno>> {
        let (start, len) = self.before(device, at, buffer.len(), random)?;
        let (one, rest) = buffer.split_at_mut(len[0]);
        let (two, three) = rest.split_at_mut(len[1]);
        let mut pieces = [one, two, three].map(IoSliceMut::new);
        let result = match self {
            Self::AtOffset => pread(device, buffer, at),
            Self::AtPosition => read(device, buffer),
            Self::PiecesAtOffset => preadv2(device, &mut pieces, at, ReadWriteFlags::empty()),
            Self::PiecesAtPosition => readv(device, &mut pieces),
        };
        self.after(device, start, result)
    }

    fn write(
        self,
        device: &Device,
        at: u64,
        bytes: &[u8],
        random: &mut Random,
    ) -> io::Result<Result<usize, Errno>> {
        let (start, len) = self.before(device, at, bytes.len(), random)?;
        let (one, rest) = bytes.split_at(len[0]);
        let (two, three) = rest.split_at(len[1]);
        let pieces = [one, two, three].map(IoSlice::new);
        let result = match self {
            Self::AtOffset => pwrite(device, bytes, at),
            Self::AtPosition => write(device, bytes),
            Self::PiecesAtOffset => pwritev2(device, &pieces, at, ReadWriteFlags::empty()),
            Self::PiecesAtPosition => writev(device, &pieces),
        };
        self.after(device, start, result)
    }

    /// Puts the position where it has to be, or anywhere; and chooses two of three pieces, which may be
    /// empty.
    fn before(
        self,
        device: &Device,
        at: u64,
        len: usize,
        random: &mut Random,
    ) -> io::Result<(u64, [usize; 2])> {
        let start = if self.moves_position() {
            at
        } else {
            random.below(1 << 30) as u64
        };
        seek(device, SeekFrom::Start(start))?;
        let one = random.below(len + 1);
        Ok((start, [one, random.below(len - one + 1)]))
    }

    /// Checks that the position has moved by what was transferred, and only where it should.
    fn after(
        self,
        device: &Device,
        start: u64,
        result: Result<usize, Errno>,
    ) -> io::Result<Result<usize, Errno>> {
        let moved = if self.moves_position() {
            result.unwrap_or(0)
        } else {
            0
        };
        assert_eq!(
            position(device)?,
            start + moved as u64,
            "{self:?}: {result:?}"
        );
        Ok(result)
    }
}

/// An offset near something where the code has to do something else, which may be after the end.
fn place(random: &mut Random, size: usize) -> usize {
    let edge = match random.below(6) {
        0 => random.below(size / PAGE) * PAGE,
        1 => random.below(size / (64 * KIB)) * 64 * KIB,
        2 | 3 => random.below(size / HUGE_PAGE + 1) * HUGE_PAGE,
        _ => size,
    };
    let distance = match random.below(4) {
        0 => random.below(3),
        1 => random.below(64),
        2 => random.below(2 * PAGE),
        _ => random.below(80 * KIB),
    };
    if random.below(3) == 0 {
        edge + distance
    } else {
        edge.saturating_sub(distance)
    }
}

fn length(random: &mut Random) -> usize {
    match random.below(40) {
        0 => HUGE_PAGE + random.below(64 * KIB),
        1 => HUGE_PAGE - 1 + random.below(3),
        2..=5 => 64 * KIB - 1 + random.below(3),
        6..=12 => PAGE - 1 + random.below(3),
        13..=18 => random.below(4),
        19..=28 => random.below(PAGE),
        _ => random.below(100 * KIB),
    }
}

fn anywhere() -> io::Result<()> {
    let device = Device::open()?;
    let size = device.size()?;
    let mut model = vec![0; size];
    let mut random = Random::new(2025);
    for round in 0..400 {
        let way = Way::any(&mut random);
        let (at, len) = (place(&mut random, size), length(&mut random));
        let inside = len.min(size.saturating_sub(at));
        let what = format!("round {round}, {way:?}, {len} bytes at {at}");
        if random.below(2) == 0 {
            let mut buffer = vec![0xEE; len];
            let got = way.read(&device, at as u64, &mut buffer, &mut random)?;
            assert_eq!(got, Ok(inside), "read, {what}");
            let (read, rest) = buffer.split_at(inside);
            if inside > 0 {
                assert_same(read, &model[at..at + inside], &what);
            }
            assert!(
                rest.iter().all(|&byte| byte == 0xEE),
                "{what}: written beyond the count"
            );
        } else {
            let bytes = random.bytes(len);
            let got = way.write(&device, at as u64, &bytes, &mut random)?;
            if inside == 0 && len > 0 {
                assert_eq!(got, Err(Errno::NOSPC), "write, {what}");
            } else {
                assert_eq!(got, Ok(inside), "write, {what}");
            }
            if inside > 0 {
                model[at..at + inside].copy_from_slice(&bytes[..inside]);
            }
        }
    }
    assert_same(&fetch(&device, 0, size)?, &model, "all of it");
    Ok(())
}

fn pieces() -> io::Result<()> {
    let device = Device::open()?;
    let at = (HUGE_PAGE - 1500) as u64;
    let bytes = Random::new(1024).bytes(3 * 1024);
    let slices: Vec<_> = bytes.chunks(3).map(IoSlice::new).collect();
    assert_eq!(slices.len(), 1024);
    assert_eq!(
        pwritev2(&device, &slices, at, ReadWriteFlags::empty()),
        Ok(bytes.len())
    );
    let mut read = vec![0xEE; bytes.len()];
    let mut slices: Vec<_> = read.chunks_mut(3).map(IoSliceMut::new).collect();
    assert_eq!(
        preadv2(&device, &mut slices, at, ReadWriteFlags::empty()),
        Ok(bytes.len())
    );
    assert_same(&read, &bytes, "1024 pieces");
    Ok(())
}

fn mapping_and_calls() -> io::Result<()> {
    let device = Device::open()?;
    let size = device.size()?;
    let mapping = Mapping::shared(&device, size)?;
    let mut random = Random::new(6);
    let edges = [1, 64 * KIB, 3 * 64 * KIB, HUGE_PAGE, 2 * HUGE_PAGE, size];
    for edge in edges {
        for (before, len) in [(1, 1), (7, 14), (500, 1000), (PAGE + 9, 2 * PAGE)] {
            let at = edge.saturating_sub(before).min(size - len);
            let what = format!("{len} bytes at {at}");
            let bytes = random.bytes(len);
            mapping.write(at, &bytes);
            assert_same(&fetch(&device, at as u64, len)?, &bytes, &what);
            let bytes = random.bytes(len);
            assert_eq!(pwrite(&device, &bytes, at as u64), Ok(len));
            assert_same(&mapping.read(at, len), &bytes, &what);
        }
    }
    // Where the first touch is that of a call.
    let at = HUGE_PAGE + 20 * 64 * KIB + 100;
    let bytes = random.bytes(PAGE);
    assert_eq!(pwrite(&device, &bytes, at as u64), Ok(PAGE));
    assert_same(&mapping.read(at, PAGE), &bytes, "a call's pages");
    assert_eq!(mapping.load(at - 1), 0);
    assert_eq!(mapping.load(at + PAGE), 0);
    Ok(())
}

/// A call of the library's with the error's number, if that is what it gave.
fn errno(result: io::Result<usize>) -> Result<usize, Errno> {
    result.map_err(|error| Errno::from_io_error(&error).expect("an error of the kernel's"))
}

fn bad_buffers() -> io::Result<()> {
    let device = Device::open()?;
    let size = device.size()?;
    let buffer = Mapping::anonymous(2 * PAGE)?;
    buffer.protect(PAGE, PAGE, MprotectFlags::empty())?;
    seek(&device, SeekFrom::Start(77))?;
    let mut random = Random::new(14);
    let (mut read, mut written) = (0, 0);

    // The offsets have data before them, then around them, too.
    for at in [0, PAGE - 50, 64 * KIB - 1, HUGE_PAGE - 99, size - 3 * PAGE] {
        let at = at as u64;
        for state in ["hole", "data"] {
            let what = format!("{state} at {at}");
            let before = fetch(&device, at, 2 * PAGE)?;
            read += before.len();
            for len in [1, 300, PAGE] {
                let got = errno(buffer.pread_from(&device, at, PAGE, len));
                assert_eq!(got, Err(Errno::FAULT), "{what}");
                let got = errno(buffer.pwrite_to(&device, at, PAGE, len));
                assert_eq!(got, Err(Errno::FAULT), "{what}");
            }
            for good in [1, 100, PAGE] {
                let start = PAGE - good;
                buffer.write(start, &vec![0xEE; good]);
                let got = errno(buffer.pread_from(&device, at, start, good + 300));
                assert_eq!(got, Ok(good), "read, {what}");
                assert_same(&buffer.read(start, good), &before[..good], &what);
                read += good;
            }
            for good in [1, 100, PAGE] {
                let start = PAGE - good;
                let bytes = random.bytes(good);
                buffer.write(start, &bytes);
                let got = errno(buffer.pwrite_to(&device, at, start, good + 300));
                assert_eq!(got, Ok(good), "write, {what}");
                let mut expected = before.clone();
                expected[..good].copy_from_slice(&bytes);
                assert_same(&fetch(&device, at, 2 * PAGE)?, &expected, &what);
                read += 2 * PAGE;
                written += good;
            }
        }
    }
    assert_eq!(position(&device)?, 77);
    let counters = device.counters()?;
    assert_eq!(counters.bytes_read, read as u64);
    assert_eq!(counters.bytes_written, written as u64);
    Ok(())
}

fn untouched() -> io::Result<()> {
    let device = Device::open()?;
    let size = device.size()?;
    let zeros = vec![0; size];
    assert_same(&fetch(&device, 0, size)?, &zeros, "in one call");
    let mut random = Random::new(3);
    for _ in 0..100 {
        let (at, len) = (random.below(size), random.below(20 * KIB));
        let mut buffer = vec![0xEE; len];
        let inside = len.min(size - at);
        assert_eq!(pread(&device, &mut buffer, at as u64), Ok(inside));
        assert_same(&buffer[..inside], &zeros[..inside], "a piece");
    }
    assert_eq!(device.info()?.resident_bytes, 0);
    assert_eq!(device.counters()?.folios_added, 0);

    // What is beside something touched reads the same, and adds nothing to it.
    pwrite(&device, &[1], 2 * PAGE as u64)?;
    let resident = device.info()?.resident_bytes;
    let mut expected = zeros;
    expected[2 * PAGE] = 1;
    assert_same(&fetch(&device, 0, size)?, &expected, "around a byte");
    assert_eq!(device.info()?.resident_bytes, resident);
    Ok(())
}

fn counted() -> io::Result<()> {
    let device = Device::open()?;
    let size = device.size()?;
    let mut random = Random::new(80);
    let (mut read, mut written) = (0, 0);
    for _ in 0..100 {
        let way = Way::any(&mut random);
        let at = place(&mut random, size) as u64;
        let len = random.below(10 * KIB);
        let bytes = random.bytes(len);
        // A write after the end fails, and counts for nothing.
        written += way.write(&device, at, &bytes, &mut random)?.unwrap_or(0);
        let at = place(&mut random, size) as u64;
        let mut buffer = vec![0; random.below(10 * KIB)];
        read += way.read(&device, at, &mut buffer, &mut random)??;
        let counters = device.counters()?;
        assert_eq!(counters.bytes_read, read as u64);
        assert_eq!(counters.bytes_written, written as u64);
    }
    assert!(read > 0 && written > 0);
    Ok(())
}

/// Copies `len` bytes from one offset of the device to another by one call.
type CopyWithin = fn(&Device, &Mapping, usize, usize, usize) -> io::Result<usize>;

fn write_from_mapping(
    device: &Device,
    mapping: &Mapping,
    from: usize,
    to: usize,
    len: usize,
) -> io::Result<usize> {
    mapping.pwrite_to(device, to as u64, from, len)
}

fn read_into_mapping(
    device: &Device,
    mapping: &Mapping,
    from: usize,
    to: usize,
    len: usize,
) -> io::Result<usize> {
    mapping.pread_from(device, from as u64, to, len)
}

/// What a copy within the device finds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    /// Neither has ever been touched.
    Nothing,
    /// Where it comes from is in memory.
    Source,
    /// Where it goes to is in memory.
    Target,
    /// Both are in memory, but this mapping has not touched them.
    Both,
    /// Both are in memory and in the mapping's page table.
    BothMapped,
}

fn within_the_device(copy: CopyWithin) -> io::Result<()> {
    /// What one case has for itself: two huge pages.
    const ROOM: usize = 2 * HUGE_PAGE;
    let cases = [
        // From, to, length: apart, in one huge page.
        (100, 5 * PAGE + 50, 2 * PAGE + 7),
        // Down onto itself, as memmove() does.
        (2 * PAGE + 30, 2 * PAGE + 20, 3 * PAGE),
        // Onto exactly itself.
        (PAGE - 8, PAGE - 8, PAGE + 16),
        // Across the boundary of huge pages, down onto itself.
        (HUGE_PAGE - 9, HUGE_PAGE - PAGE - 20, 2 * PAGE + 100),
    ];
    let states = [
        Found::Nothing,
        Found::Source,
        Found::Target,
        Found::Both,
        Found::BothMapped,
    ];
    let device = Device::open()?;
    let size = device.size()?;
    assert_eq!(size, cases.len() * states.len() * ROOM);
    let mapping = Mapping::shared(&device, size)?;
    let mut random = Random::new(4096);
    let mut room = 0;
    for (from, to, len) in cases {
        for state in states {
            let what = format!("{len} bytes from {from} to {to}, {state:?} in memory");
            // What can change, and some more on both sides.
            let start = from.min(to).saturating_sub(2 * PAGE);
            let end = from.max(to) + len + 2 * PAGE;
            let mut model = vec![0; end - start];
            let mut fill = |range: std::ops::Range<usize>| -> io::Result<()> {
                let bytes = random.bytes(range.len());
                model[range.start - start..range.end - start].copy_from_slice(&bytes);
                assert_eq!(
                    pwrite(&device, &bytes, (room + range.start) as u64),
                    Ok(range.len())
                );
                Ok(())
            };
            if state != Found::Nothing && state != Found::Target {
                fill(from..from + len)?;
            }
            if state != Found::Nothing && state != Found::Source {
                fill(to..to + len)?;
            }
            if state == Found::BothMapped {
                mapping.touch_write(room + end - PAGE, PAGE, 0);
                mapping.touch_read(room + start, end - start);
            }

            let got = copy(&device, &mapping, room + from, room + to, len)?;
            assert_eq!(got, len, "{what}");
            model.copy_within(from - start..from - start + len, to - start);
            let seen = fetch(&device, (room + start) as u64, end - start)?;
            assert_same(&seen, &model, &what);
            assert_same(&mapping.read(room + start, end - start), &model, &what);
            room += ROOM;
        }
    }

    // Up onto itself, a byte at a time or many: what overlaps may come twice, the rest may not change.
    let (from, to, len) = (PAGE - 3, 2 * PAGE + 5, 2 * PAGE);
    let before = random.bytes(6 * PAGE);
    assert_eq!(pwrite(&device, &before, 0), Ok(before.len()));
    assert_eq!(copy(&device, &mapping, from, to, len)?, len);
    let after = fetch(&device, 0, before.len())?;
    let apart = to - from;
    assert_same(&after[..to], &before[..to], "before the target");
    assert_same(
        &after[to..to + apart],
        &before[from..from + apart],
        "what does not overlap",
    );
    assert_same(&after[to + len..], &before[to + len..], "behind the target");
    Ok(())
}

fn without_waiting() -> io::Result<()> {
    let device = Device::open()?;
    let size = device.size()?;
    let read = |at: usize| {
        let mut buffer = [0xEE; 5000];
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let got = preadv2(&device, &mut slices, at as u64, ReadWriteFlags::NOWAIT);
        got.map(|count| buffer[..count].to_vec())
    };
    let write = |at: usize, bytes: &[u8]| {
        let slices = [IoSlice::new(bytes)];
        pwritev2(&device, &slices, at as u64, ReadWriteFlags::NOWAIT)
    };
    let mut random = Random::new(11);
    for at in [0, PAGE - 1, 64 * KIB - 1, HUGE_PAGE - 2500, size - 5000] {
        let what = format!("at {at}");
        // Nobody else is there to be waited for.
        assert_eq!(read(at), Ok(vec![0; 5000]), "{what}");
        let bytes = random.bytes(5000);
        // Where nothing is, memory is needed first, and for that it may have to wait.
        match write(at, &bytes) {
            Ok(count) => {
                assert!(0 < count && count <= 5000, "{what}: {count}");
                assert_same(&fetch(&device, at as u64, count)?, &bytes[..count], &what);
            }
            Err(error) => assert_eq!(error, Errno::AGAIN, "{what}"),
        }
        assert_eq!(pwrite(&device, &bytes, at as u64), Ok(5000), "{what}");
        assert_eq!(read(at), Ok(bytes), "{what}");
        let bytes = random.bytes(5000);
        assert_eq!(write(at, &bytes), Ok(5000), "{what}");
        assert_eq!(read(at), Ok(bytes), "{what}");
        assert_eq!(pwrite(&device, &[0; 5000], at as u64), Ok(5000));
    }
    assert_eq!(read(size), Ok(Vec::new()));
    assert_eq!(write(size, &[1]), Err(Errno::NOSPC));
    Ok(())
}

fn one_page() -> io::Result<()> {
    const QUARTER: usize = PAGE / 4;
    let (one, other) = (Device::open()?, Device::open()?);
    let mapping = Mapping::shared(&one, PAGE)?;
    let by_call = |device: &Device, at: usize| -> io::Result<()> {
        for round in 0..400 {
            let filler = round as u8 | 1;
            assert_eq!(pwrite(device, &[filler; QUARTER], at as u64), Ok(QUARTER));
            assert_eq!(fetch(device, at as u64, QUARTER)?, [filler; QUARTER]);
        }
        Ok(())
    };
    let by_store = |at: usize| {
        for round in 0..100 {
            let filler = [round as u8 | 1; QUARTER];
            mapping.write(at, &filler);
            assert_eq!(mapping.read(at, QUARTER), filler);
        }
    };
    std::thread::scope(|scope| {
        let writers = [
            scope.spawn(|| by_call(&one, 0)),
            scope.spawn(|| by_call(&other, 2 * QUARTER)),
        ];
        scope.spawn(|| by_store(QUARTER));
        scope.spawn(|| by_store(3 * QUARTER));
        for writer in writers {
            writer.join().expect("a writer does not panic")?;
        }
        Ok(())
    })
}

fn one_after_the_other() -> io::Result<()> {
    const LEN: usize = 128 * PAGE;
    let (device, other) = (Device::open()?, Device::open()?);
    // As slow as the kernel can be made to write: each page of the source is a page fault. The other
    // writer would overtake it, if it could.
    for round in 0..20 {
        let cold = Mapping::anonymous(LEN)?;
        cold.advise(0, LEN, Advice::LinuxNoHugepage)?;
        let warm = vec![1; LEN];
        let start = Barrier::new(2);
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| {
                start.wait();
                errno(cold.pwrite_to(&device, 100, 0, LEN))
            });
            start.wait();
            assert_eq!(pwrite(&other, &warm, 100), Ok(LEN));
            assert_eq!(slow.join().expect("the writer does not panic"), Ok(LEN));
        });
        let seen = fetch(&device, 100, LEN)?;
        assert!(
            seen.iter().all(|&byte| byte == seen[0]),
            "round {round}: two writes are mixed"
        );
    }
    Ok(())
}
