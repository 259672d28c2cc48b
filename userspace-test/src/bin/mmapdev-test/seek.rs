// SPDX-License-Identifier: GPL-2.0

//! The position of a descriptor, and where data and holes are.

use crate::Test;
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::random::Random;
use mmapdev_userspace::{HUGE_PAGE, MIB, PAGE};
use rustix::fs::{ftruncate, memfd_create, seek, MemfdFlags, SeekFrom};
use rustix::io::{dup, pwrite, read, Errno};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

const SMALL: &str = "huge=0 size_mib=4";
const LARGE: &str = "huge=1 size_mib=4";

pub(crate) const TESTS: &[Test] = &[
    Test::with("the_position_moves_as_that_of_a_memfd", LARGE, || {
        let device = Device::open()?;
        let size = device.size()?;
        let memfd = memfd_of(size)?;
        let top = i64::MAX;
        let end = size as i64;
        let offsets = [
            0,
            1,
            -1,
            4096,
            end - 1,
            end,
            end + 1,
            -end,
            -end - 1,
            1 << 40,
            -(1 << 40),
            top - end,
            top - end + 1,
            top - 1,
            top,
            i64::MIN,
            i64::MIN + 1,
        ];
        // Each from where the one before has left the position, and again from a place of its own.
        for start in [None, Some(1000)] {
            for offset in offsets {
                let moves = [
                    SeekFrom::Start(offset as u64),
                    SeekFrom::Current(offset),
                    SeekFrom::End(offset),
                ];
                for to in moves {
                    for file in [device.as_fd(), memfd.as_fd()] {
                        if let Some(start) = start {
                            seek(file, SeekFrom::Start(start))?;
                        }
                    }
                    assert_eq!(seek(&device, to), seek(&memfd, to), "{to:?}");
                    assert_eq!(position(&device), position(&memfd), "after {to:?}");
                }
            }
        }
        Ok(())
    }),
    Test::with("the_end_is_where_seek_end_says", LARGE, || {
        let device = Device::open()?;
        let end = 4 * MIB as u64;
        assert_eq!(device.info()?.device_size, end);
        assert_eq!(seek(&device, SeekFrom::End(0)), Ok(end));
        assert_eq!(seek(&device, SeekFrom::End(-3)), Ok(end - 3));
        assert_eq!(seek(&device, SeekFrom::Current(-7)), Ok(end - 10));
        assert_eq!(seek(&device, SeekFrom::End(12)), Ok(end + 12));
        assert_eq!(read(&device, &mut [0; 8]), Ok(0));
        Ok(())
    }),
    Test::with(
        "a_negative_position_is_invalid_and_changes_nothing",
        LARGE,
        || {
            let device = Device::open()?;
            let size = device.size()? as i64;
            seek(&device, SeekFrom::Start(50))?;
            let negative = [
                SeekFrom::Start(u64::MAX),
                SeekFrom::Start(1 << 63),
                SeekFrom::Current(-51),
                SeekFrom::Current(i64::MIN),
                SeekFrom::End(-size - 1),
                SeekFrom::End(i64::MIN),
            ];
            for to in negative {
                assert_eq!(seek(&device, to), Err(Errno::INVAL), "{to:?}");
                assert_eq!(position(&device), Ok(50), "{to:?}");
            }
            Ok(())
        },
    ),
    Test::with("an_untouched_device_is_one_hole", LARGE, || {
        let device = Device::open()?;
        let size = device.size()?;
        for from in [0, 1, PAGE - 1, PAGE, HUGE_PAGE + 5, size - 1] {
            let from = from as u64;
            seek(&device, SeekFrom::Start(3))?;
            assert_eq!(seek(&device, SeekFrom::Data(from)), Err(Errno::NXIO));
            assert_eq!(position(&device), Ok(3));
            assert_eq!(seek(&device, SeekFrom::Hole(from)), Ok(from));
            assert_eq!(position(&device), Ok(from));
        }
        assert_eq!(device.info()?.resident_bytes, 0);
        Ok(())
    }),
    Test::with("a_touched_page_is_data_between_holes", SMALL, || {
        let device = Device::open()?;
        let size = device.size()? as u64;
        let mapping = Mapping::shared(&device, 4 * MIB)?;
        // One by a store, one by a call, two in a row, one across the boundary of huge pages, the last.
        mapping.store(3 * PAGE + 100, 1);
        pwrite(&device, &[1], 7 * PAGE as u64 + 4095)?;
        mapping.touch_write(10 * PAGE, 2 * PAGE, 1);
        mapping.touch_write(HUGE_PAGE - PAGE, 2 * PAGE, 1);
        mapping.store(4 * MIB - 1, 1);
        let page = PAGE as u64;
        let huge = HUGE_PAGE as u64;
        // From, the next data, the next hole.
        let expected = [
            (0, 3 * page, 0),
            (3 * page - 1, 3 * page, 3 * page - 1),
            (3 * page, 3 * page, 4 * page),
            (3 * page + 77, 3 * page + 77, 4 * page),
            (4 * page - 1, 4 * page - 1, 4 * page),
            (4 * page, 7 * page, 4 * page),
            (4 * page + 9, 7 * page, 4 * page + 9),
            (10 * page + 1, 10 * page + 1, 12 * page),
            (11 * page + 1, 11 * page + 1, 12 * page),
            (12 * page, huge - page, 12 * page),
            (huge - 1, huge - 1, huge + page),
            (huge, huge, huge + page),
            (huge + page, size - page, huge + page),
            (size - page, size - page, size),
            (size - 1, size - 1, size),
        ];
        for (from, data, hole) in expected {
            assert_eq!(seek(&device, SeekFrom::Data(from)), Ok(data), "from {from}");
            assert_eq!(position(&device), Ok(data));
            assert_eq!(seek(&device, SeekFrom::Hole(from)), Ok(hole), "from {from}");
            assert_eq!(position(&device), Ok(hole));
        }
        Ok(())
    }),
    Test::with("the_whole_of_a_large_folio_is_data", LARGE, || {
        let device = Device::open()?;
        let size = device.size()? as u64;
        let touched = (HUGE_PAGE + 5 * PAGE) as u64;
        pwrite(&device, &[1], touched)?;
        let folio = device.frame(touched)?.folio_bytes;
        let (start, end) = (touched / folio * folio, (touched / folio + 1) * folio);
        assert_eq!(device.info()?.resident_bytes, folio);
        assert_eq!(seek(&device, SeekFrom::Data(0)), Ok(start));
        assert_eq!(seek(&device, SeekFrom::Hole(0)), Ok(0));
        for from in [start, start + 1, touched, end - 1] {
            assert_eq!(seek(&device, SeekFrom::Data(from)), Ok(from));
            assert_eq!(seek(&device, SeekFrom::Hole(from)), Ok(end));
        }
        if end < size {
            assert_eq!(seek(&device, SeekFrom::Data(end)), Err(Errno::NXIO));
        }
        Ok(())
    }),
    Test::with("a_full_device_is_data_to_its_end", LARGE, || {
        let device = Device::open()?;
        let size = device.size()?;
        Mapping::shared(&device, size)?.touch_write(0, size, 1);
        for from in [0, 1, HUGE_PAGE, size - 1] {
            let from = from as u64;
            assert_eq!(seek(&device, SeekFrom::Data(from)), Ok(from));
            assert_eq!(seek(&device, SeekFrom::Hole(from)), Ok(size as u64));
        }
        Ok(())
    }),
    Test::with(
        "no_data_and_no_hole_is_outside_of_the_device",
        LARGE,
        || {
            let device = Device::open()?;
            let size = device.size()? as u64;
            pwrite(&device, &[1], size - 1)?;
            seek(&device, SeekFrom::Start(9))?;
            for from in [size, size + 1, 1 << 40, i64::MAX as u64, 1 << 63, u64::MAX] {
                let (data, hole) = (SeekFrom::Data(from), SeekFrom::Hole(from));
                assert_eq!(seek(&device, data), Err(Errno::NXIO), "{from}");
                assert_eq!(seek(&device, hole), Err(Errno::NXIO), "{from}");
                assert_eq!(position(&device), Ok(9));
            }
            Ok(())
        },
    ),
    Test::with("data_and_holes_are_where_a_memfd_has_them", SMALL, || {
        let device = Device::open()?;
        let size = device.size()?;
        let memfd = memfd_of(size)?;
        let mut random = Random::new(28);
        for _ in 0..40 {
            let at = random.below(size);
            let len = (1 + random.below(5 * PAGE)).min(size - at);
            let bytes = random.bytes(len);
            assert_eq!(pwrite(&device, &bytes, at as u64), Ok(bytes.len()));
            assert_eq!(pwrite(&memfd, &bytes, at as u64), Ok(bytes.len()));
            for _ in 0..25 {
                let near = at as u64 / 4096 * 4096 + random.below(3) as u64;
                let far = random.below(size + PAGE) as u64;
                for from in [near.saturating_sub(1), far] {
                    for to in [SeekFrom::Data(from), SeekFrom::Hole(from)] {
                        assert_eq!(seek(&device, to), seek(&memfd, to), "{to:?}");
                        assert_eq!(position(&device), position(&memfd), "after {to:?}");
                    }
                }
            }
        }
        Ok(())
    }),
    Test::with("looking_for_data_and_holes_costs_no_memory", SMALL, || {
        let device = Device::open()?;
        pwrite(&device, &[1], HUGE_PAGE as u64)?;
        for page in 0..1024 {
            let from = (page * PAGE) as u64;
            let _ = seek(&device, SeekFrom::Data(from));
            seek(&device, SeekFrom::Hole(from))?;
        }
        assert_eq!(device.info()?.resident_bytes, PAGE as u64);
        Ok(())
    }),
    Test::with("each_open_has_a_position_of_its_own", LARGE, || {
        let (one, other) = (Device::open()?, Device::open()?);
        seek(&one, SeekFrom::Start(10))?;
        assert_eq!(position(&other), Ok(0));
        assert_eq!(read(&one, &mut [0; 6]), Ok(6));
        assert_eq!(position(&one), Ok(16));
        assert_eq!(position(&other), Ok(0));
        Ok(())
    }),
    Test::with("duplicates_share_one_position", LARGE, || {
        let device = Device::open()?;
        let duplicate = dup(&device)?;
        seek(&device, SeekFrom::Start(10))?;
        assert_eq!(position(&duplicate), Ok(10));
        assert_eq!(read(&duplicate, &mut [0; 6]), Ok(6));
        assert_eq!(position(&device), Ok(16));
        pwrite(&device, &[1], 2 * PAGE as u64)?;
        let data = seek(&device, SeekFrom::Data(2 * PAGE as u64 + 1))?;
        assert_eq!(position(&duplicate), Ok(data));
        Ok(())
    }),
];

fn position(file: impl AsFd) -> Result<u64, Errno> {
    seek(file, SeekFrom::Current(0))
}

/// A memfd of the same size, of which the device does as it does.
fn memfd_of(size: usize) -> io::Result<OwnedFd> {
    let memfd = memfd_create("model", MemfdFlags::CLOEXEC)?;
    ftruncate(&memfd, size as u64)?;
    Ok(memfd)
}
