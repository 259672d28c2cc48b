// SPDX-License-Identifier: GPL-2.0

//! Bytes that go between a device, pipes and files without passing through the program.

use crate::Test;
use mmapdev_userspace::device::{self, Device};
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::random::Random;
use mmapdev_userspace::{HUGE_PAGE, KIB, PAGE};
use rustix::fs::{copy_file_range, memfd_create, seek, sendfile, MemfdFlags, OFlags, SeekFrom};
use rustix::io::{pread, pwrite, Errno};
use rustix::pipe::{pipe_with, splice, PipeFlags, SpliceFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

// Whole huge pages, and at the end what is less than one.
const SMALL: &str = "huge=0 size_mib=5";
const LARGE: &str = "huge=1 size_mib=5";

pub(crate) const TESTS: &[Test] = &[
    Test::with(
        "splicing_out_gives_the_right_bytes_in_small_pages",
        SMALL,
        || transfers_out(by_splice),
    ),
    Test::with(
        "splicing_out_gives_the_right_bytes_in_huge_pages",
        LARGE,
        || transfers_out(by_splice),
    ),
    Test::with(
        "sending_out_gives_the_right_bytes_in_small_pages",
        SMALL,
        || transfers_out(by_sendfile),
    ),
    Test::with(
        "sending_out_gives_the_right_bytes_in_huge_pages",
        LARGE,
        || transfers_out(by_sendfile),
    ),
    Test::with("at_and_after_the_end_is_nothing_to_splice", LARGE, || {
        let device = Device::open()?;
        let size = device.size()? as u64;
        let (_reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let memfd = new_memfd()?;
        for state in ["hole", "data"] {
            for start in [size, size + 1, size + 4096, 1 << 40, i64::MAX as u64 - 4096] {
                let mut at = start;
                let got = splice(
                    &device,
                    Some(&mut at),
                    &writer,
                    None,
                    4096,
                    SpliceFlags::empty(),
                );
                assert_eq!((got, at), (Ok(0), start), "{state}");
                let got = sendfile(&memfd, &device, Some(&mut at), 4096);
                assert_eq!((got, at), (Ok(0), start), "{state}");
            }
            pwrite(&device, &[1; PAGE], size - PAGE as u64)?;
        }
        Ok(())
    }),
    Test::with("the_position_moves_with_what_is_spliced", LARGE, || {
        let device = Device::open()?;
        let bytes = Random::new(5).bytes(3 * PAGE);
        pwrite(&device, &bytes, 0)?;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        seek(&device, SeekFrom::Start(100))?;
        let got = splice(&device, None, &writer, None, 50, SpliceFlags::empty());
        assert_eq!(got, Ok(50));
        assert_eq!(seek(&device, SeekFrom::Current(0)), Ok(150));
        assert_eq!(drain(&reader, 50)?, bytes[100..150]);
        let memfd = new_memfd()?;
        assert_eq!(sendfile(&memfd, &device, None, 5000), Ok(5000));
        assert_eq!(seek(&device, SeekFrom::Current(0)), Ok(5150));
        assert_eq!(content(&memfd, 5000)?, bytes[150..5150]);
        Ok(())
    }),
    Test::with("splicing_a_hole_makes_no_page_resident", LARGE, || {
        let device = Device::open()?;
        let size = device.size()?;
        let memfd = new_memfd()?;
        let mut at = 0;
        while (at as usize) < size {
            let left = size - at as usize;
            let count = sendfile(&memfd, &device, Some(&mut at), left)?;
            assert!(count > 0, "stuck at {at}");
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        for mut at in [0, 1, HUGE_PAGE as u64 - 77, size as u64 - 500] {
            let count = splice(
                &device,
                Some(&mut at),
                &writer,
                None,
                6000,
                SpliceFlags::empty(),
            )?;
            assert_eq!(drain(&reader, count)?, vec![0; count]);
        }
        assert!(content(&memfd, size)?.iter().all(|&byte| byte == 0));
        assert_eq!(device.info()?.resident_bytes, 0);
        assert_eq!(device.counters()?.folios_added, 0);
        Ok(())
    }),
    Test::with(
        "splicing_data_copies_nothing_in_small_pages",
        SMALL,
        no_copies,
    ),
    Test::with(
        "splicing_data_copies_nothing_in_huge_pages",
        LARGE,
        no_copies,
    ),
    Test::with("a_full_pipe_ends_a_splice_that_may_not_wait", LARGE, || {
        let device = Device::open()?;
        let size = device.size()?;
        Mapping::shared(&device, size)?.touch_write(0, size, 1);
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let (mut at, mut total) = (0, 0);
        let end = loop {
            let got = splice(
                &device,
                Some(&mut at),
                &writer,
                None,
                size,
                SpliceFlags::NONBLOCK,
            );
            match got {
                Ok(count) if count > 0 => total += count,
                other => break other,
            }
        };
        assert_eq!(end, Err(Errno::AGAIN));
        assert_eq!(at, total as u64);
        assert_eq!(drain(&reader, total)?.len(), total);
        Ok(())
    }),
    Test::with(
        "pages_in_a_pipe_outlive_their_descriptor_and_mapping",
        LARGE,
        || {
            let bytes = Random::new(8).bytes(3 * PAGE);
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            {
                let device = Device::open()?;
                let mapping = Mapping::shared(&device, 3 * PAGE)?;
                mapping.write(0, &bytes);
                let got = splice(
                    &device,
                    Some(&mut 0),
                    &writer,
                    None,
                    bytes.len(),
                    SpliceFlags::empty(),
                );
                assert_eq!(got, Ok(bytes.len()));
            }
            assert_eq!(drain(&reader, bytes.len())?, bytes);
            Ok(())
        },
    ),
    Test::with(
        "splicing_in_puts_the_right_bytes_in_small_pages",
        SMALL,
        || transfers_in(from_pipe),
    ),
    Test::with(
        "splicing_in_puts_the_right_bytes_in_huge_pages",
        LARGE,
        || transfers_in(from_pipe),
    ),
    Test::with(
        "sending_in_puts_the_right_bytes_in_small_pages",
        SMALL,
        || transfers_in(from_file),
    ),
    Test::with(
        "sending_in_puts_the_right_bytes_in_huge_pages",
        LARGE,
        || transfers_in(from_file),
    ),
    Test::with("at_the_end_is_no_space_to_splice_into", LARGE, || {
        let device = Device::open()?;
        let size = device.size()? as u64;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        File::from(writer.try_clone()?).write_all(&[9; 3000])?;
        for start in [size, size + 1, 1 << 40] {
            let mut at = start;
            let got = splice(
                &reader,
                None,
                &device,
                Some(&mut at),
                3000,
                SpliceFlags::empty(),
            );
            assert_eq!((got, at), (Err(Errno::NOSPC), start));
        }
        // What did not go in is in the pipe still.
        assert_eq!(drain(&reader, 3000)?, [9; 3000]);

        let memfd = new_memfd()?;
        pwrite(&memfd, &[9; 3000], 0)?;
        seek(&device, SeekFrom::Start(size))?;
        let mut at = 0;
        let got = sendfile(&device, &memfd, Some(&mut at), 3000);
        assert_eq!((got, at), (Err(Errno::NOSPC), 0));
        assert_eq!(device.info()?.resident_bytes, 0);
        Ok(())
    }),
    Test::with(
        "a_device_is_sent_to_itself_and_to_another",
        "huge=1 size_mib=5 devices=2",
        || {
            let device = Device::open()?;
            let source = Device::open()?;
            let bytes = Random::new(21).bytes(200 * KIB);
            pwrite(&source, &bytes, 300)?;
            let another = Device::open_with("/dev/mmapdev1", OFlags::RDWR)?;
            for (target, to) in [(device, HUGE_PAGE as u64 + 77), (another, 5)] {
                seek(&target, SeekFrom::Start(to))?;
                let (mut at, mut left) = (300, bytes.len());
                while left > 0 {
                    let count = sendfile(&target, &source, Some(&mut at), left)?;
                    assert!(count > 0 && count <= left, "stuck at {at}");
                    left -= count;
                }
                let mut seen = vec![0; bytes.len()];
                assert_eq!(pread(&target, &mut seen, to), Ok(bytes.len()));
                assert!(seen == bytes, "to {to}");
            }
            Ok(())
        },
    ),
    Test::with("splicing_obeys_how_the_device_was_opened", LARGE, || {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        File::from(writer.try_clone()?).write_all(&[9; 100])?;
        let flags = SpliceFlags::empty();
        let device = Device::open_with(device::FIRST, OFlags::RDONLY)?;
        let got = splice(&reader, None, &device, Some(&mut 0), 100, flags);
        assert_eq!(got, Err(Errno::BADF));
        let device = Device::open_with(device::FIRST, OFlags::WRONLY)?;
        let got = splice(&device, Some(&mut 0), &writer, None, 100, flags);
        assert_eq!(got, Err(Errno::BADF));
        assert_eq!(
            sendfile(&writer, &device, Some(&mut 0), 100),
            Err(Errno::BADF)
        );
        Ok(())
    }),
    Test::with(
        "copy_file_range_says_what_it_says_of_any_char_device",
        LARGE,
        || {
            let (device, zero) = (
                Device::open()?,
                Device::open_with("/dev/zero", OFlags::RDWR)?,
            );
            let memfd = new_memfd()?;
            pwrite(&memfd, &[1; 100], 0)?;
            let out_of = |device: &Device| copy_file_range(device, None, &memfd, None, 10);
            let into = |device: &Device| copy_file_range(&memfd, None, device, None, 10);
            assert_eq!(out_of(&device), out_of(&zero));
            assert_eq!(into(&device), into(&zero));
            assert_eq!(out_of(&device), Err(Errno::INVAL));
            assert_eq!(into(&device), Err(Errno::INVAL));
            Ok(())
        },
    ),
    Test::with("a_pipe_takes_pages_of_the_mapping", LARGE, vmsplice),
    Test::with(
        "a_pipe_takes_pages_of_the_mapping_in_small_pages",
        SMALL,
        vmsplice,
    ),
];

fn new_memfd() -> io::Result<OwnedFd> {
    Ok(memfd_create("other end", MemfdFlags::CLOEXEC)?)
}

/// Takes bytes out of a pipe that has them.
fn drain(reader: &OwnedFd, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0xEE; len];
    File::from(reader.try_clone()?).read_exact(&mut bytes)?;
    Ok(bytes)
}

fn content(file: impl AsFd, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0xEE; len];
    assert_eq!(pread(file, &mut bytes, 0), Ok(len));
    Ok(bytes)
}

/// An offset near something where the code has to do something else, not after the end.
fn place(random: &mut Random, size: usize) -> usize {
    let edge = [0, 64 * KIB, HUGE_PAGE, 2 * HUGE_PAGE, size][random.below(5)];
    let near = [2, 64, 3 * PAGE, 70 * KIB][random.below(4)];
    let distance = random.below(near);
    if random.below(3) == 0 {
        (edge + distance).min(size)
    } else {
        edge.saturating_sub(distance)
    }
}

fn length(random: &mut Random) -> usize {
    let limit = [PAGE, 70 * KIB, 200 * KIB][random.below(3)];
    1 + random.below(limit)
}

/// Moves bytes from an offset of the device to the start of a file, once; returns how many.
type Out = fn(&Device, u64, usize, &OwnedFd) -> io::Result<usize>;

/// From the device to a pipe, and from the pipe to the file.
fn by_splice(device: &Device, from: u64, len: usize, file: &OwnedFd) -> io::Result<usize> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut at = from;
    let flags = SpliceFlags::empty();
    let count = splice(device, Some(&mut at), &writer, None, len, flags)?;
    assert_eq!(at, from + count as u64);
    let mut to = 0;
    while (to as usize) < count {
        let left = count - to as usize;
        assert!(splice(&reader, None, file, Some(&mut to), left, flags)? > 0);
    }
    Ok(count)
}

fn by_sendfile(device: &Device, from: u64, len: usize, file: &OwnedFd) -> io::Result<usize> {
    seek(file, SeekFrom::Start(0))?;
    let mut at = from;
    let count = sendfile(file, device, Some(&mut at), len)?;
    assert_eq!(at, from + count as u64);
    Ok(count)
}

fn transfers_out(once: Out) -> io::Result<()> {
    let device = Device::open()?;
    let size = device.size()?;
    let mut model = vec![0; size];
    let mut random = Random::new(17);
    let file = new_memfd()?;
    // All holes at first, then more and more data between them.
    for round in 0..120 {
        if round >= 10 && round % 3 == 0 {
            let at = place(&mut random, size).min(size - 1);
            let len = (1 + random.below(3 * PAGE)).min(size - at);
            let bytes = random.bytes(len);
            assert_eq!(pwrite(&device, &bytes, at as u64), Ok(bytes.len()));
            model[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        let from = place(&mut random, size);
        let len = length(&mut random);
        let inside = len.min(size - from);
        let what = format!("round {round}: {len} bytes from {from}");
        let resident = device.info()?.resident_bytes;
        // Short counts are allowed in between, none are at the end only.
        let mut done = 0;
        while done < inside {
            let count = once(&device, (from + done) as u64, len - done, &file)?;
            assert!(count > 0 && count <= inside - done, "{what}: {count}");
            let start = from + done;
            assert!(
                content(&file, count)? == model[start..start + count],
                "{what}: wrong bytes from {start}"
            );
            done += count;
        }
        let end = (from + done) as u64;
        if done < len {
            assert_eq!(once(&device, end, len - done, &file)?, 0, "{what}");
        }
        assert_eq!(device.info()?.resident_bytes, resident, "{what}");
    }
    Ok(())
}

fn no_copies() -> io::Result<()> {
    let device = Device::open()?;
    let size = device.size()?;
    Mapping::shared(&device, size)?.touch_write(0, size, 1);
    let before = device.counters()?;
    let file = new_memfd()?;
    for once in [by_splice, by_sendfile] {
        for from in [0, 5, PAGE - 1, HUGE_PAGE - 100, size - 3 * PAGE] {
            let mut done = 0;
            while done < 100 * KIB.min(size - from) && from + done < size {
                let count = once(&device, (from + done) as u64, 100 * KIB, &file)?;
                assert!(count > 0);
                done += count;
            }
        }
    }
    let after = device.counters()?;
    assert_eq!(after.bytes_read, before.bytes_read);
    assert_eq!(after.bytes_added, before.bytes_added);
    Ok(())
}

/// Moves bytes to an offset of the device, once; returns how many.
type In = fn(&Device, u64, &[u8]) -> io::Result<usize>;

fn from_pipe(device: &Device, to: u64, bytes: &[u8]) -> io::Result<usize> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // What a pipe holds without being read.
    let bytes = &bytes[..bytes.len().min(60 * KIB)];
    File::from(writer).write_all(bytes)?;
    let mut at = to;
    let count = splice(
        &reader,
        None,
        device,
        Some(&mut at),
        bytes.len(),
        SpliceFlags::empty(),
    )?;
    assert_eq!(at, to + count as u64);
    // The rest is still there.
    assert_eq!(drain(&reader, bytes.len() - count)?, bytes[count..]);
    Ok(count)
}

fn from_file(device: &Device, to: u64, bytes: &[u8]) -> io::Result<usize> {
    let file = new_memfd()?;
    assert_eq!(pwrite(&file, bytes, 0), Ok(bytes.len()));
    seek(device, SeekFrom::Start(to))?;
    let mut at = 0;
    let count = sendfile(device, &file, Some(&mut at), bytes.len())?;
    assert_eq!(at as usize, count);
    assert_eq!(seek(device, SeekFrom::Current(0)), Ok(to + count as u64));
    Ok(count)
}

fn transfers_in(once: In) -> io::Result<()> {
    let device = Device::open()?;
    let size = device.size()?;
    let mut model = vec![0; size];
    let mut random = Random::new(71);
    let mut total = 0;
    for _ in 0..60 {
        let to = place(&mut random, size).min(size - 1);
        let len = length(&mut random);
        let bytes = random.bytes(len);
        let inside = len.min(size - to);
        let mut done = 0;
        while done < inside {
            let count = once(&device, (to + done) as u64, &bytes[done..])?;
            assert!(
                count > 0 && count <= inside - done,
                "{len} bytes to {to}: {count}"
            );
            done += count;
        }
        model[to..to + inside].copy_from_slice(&bytes[..inside]);
        total += inside as u64;
    }
    assert!(content(&device, size)? == model, "wrong bytes");
    assert_eq!(device.counters()?.bytes_written, total);
    Ok(())
}

/// `vmsplice()`: the pipe has the pages themselves, so that a later store shows; given or lent.
fn vmsplice() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, 4 * PAGE)?;
    for gift in [false, true] {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        mapping.write(PAGE, &[1; 2 * PAGE]);
        assert_eq!(mapping.splice_to(&writer, PAGE, 2 * PAGE, gift)?, 2 * PAGE);
        mapping.store(PAGE + 7, 2);
        let bytes = drain(&reader, 2 * PAGE)?;
        assert_eq!(bytes[7], 2, "the page is the mapping's, gift: {gift}");
        assert!(bytes
            .iter()
            .enumerate()
            .all(|(at, &byte)| byte == 1 || at == 7));
        // And from the pipe into a file, without the program.
        let file = new_memfd()?;
        assert_eq!(mapping.splice_to(&writer, PAGE, PAGE, gift)?, PAGE);
        let none = SpliceFlags::empty();
        assert_eq!(splice(&reader, None, &file, None, PAGE, none)?, PAGE);
        assert!(content(&file, PAGE)? == bytes[..PAGE]);
        assert_eq!(mapping.load(PAGE + 7), 2, "the mapping keeps it");
    }
    Ok(())
}
