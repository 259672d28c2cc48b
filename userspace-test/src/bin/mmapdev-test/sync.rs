// SPDX-License-Identifier: GPL-2.0

//! Bringing data to where it is safe, which it is from the start: in memory, until the device goes.

use crate::Test;
use mmapdev_userspace::device::{self, Device};
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::random::Random;
use mmapdev_userspace::{HUGE_PAGE, KIB, MIB, PAGE};
use rustix::fs::{
    fadvise, fdatasync, fsync, ftruncate, memfd_create, syncfs, Advice, MemfdFlags, OFlags,
};
use rustix::io::{pread, pwrite, Errno};
use rustix::mm::{self, MapFlags, ProtFlags};
use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd};

const SMALL: &str = "huge=0 size_mib=4";
const LARGE: &str = "huge=1 size_mib=4";

pub(crate) const TESTS: &[Test] = &[
    Test::with(
        "fsync_and_fdatasync_work_on_every_descriptor",
        LARGE,
        || {
            pwrite(Device::open()?, b"something", 5)?;
            for flags in [OFlags::RDWR, OFlags::RDONLY, OFlags::WRONLY] {
                let device = Device::open_with(device::FIRST, flags)?;
                assert_eq!(fsync(&device), Ok(()), "{flags:?}");
                assert_eq!(fdatasync(&device), Ok(()), "{flags:?}");
                assert_eq!(syncfs(&device), Ok(()), "{flags:?}");
            }
            Ok(())
        },
    ),
    Test::with("msync_works_on_every_mapping", LARGE, || {
        let device = Device::open()?;
        let memfd = memfd_create("model", MemfdFlags::CLOEXEC)?;
        ftruncate(&memfd, 4 * MIB as u64)?;
        let read_write = ProtFlags::READ | ProtFlags::WRITE;
        let kinds = [
            (read_write, MapFlags::SHARED),
            (ProtFlags::READ, MapFlags::SHARED),
            (read_write, MapFlags::PRIVATE),
        ];
        for (protection, flags) in kinds {
            let sync = |file: BorrowedFd<'_>, touch: bool| -> io::Result<()> {
                let mapping = Mapping::new(file, 4 * MIB, protection, flags, 0)?;
                if touch {
                    mapping.touch_read(0, MIB);
                    if protection == read_write {
                        mapping.touch_write(HUGE_PAGE, MIB, 1);
                    }
                }
                mapping.sync()
            };
            for touch in [false, true] {
                for file in [device.as_fd(), memfd.as_fd()] {
                    let result = sync(file, touch);
                    assert!(result.is_ok(), "{protection:?}, {flags:?}: {result:?}");
                }
            }
        }
        Ok(())
    }),
    Test::with("msync_of_a_range_with_a_gap_is_enomem", LARGE, || {
        let device = Device::open()?;
        let memfd = memfd_create("model", MemfdFlags::CLOEXEC)?;
        ftruncate(&memfd, 4 * MIB as u64)?;
        for file in [device.as_fd(), memfd.as_fd()] {
            let mut mapping = Mapping::shared(file, MIB)?;
            mapping.touch_write(0, MIB, 1);
            mapping.unmap(64 * KIB, PAGE)?;
            let error = mapping.sync().expect_err("a gap");
            assert_eq!(Errno::from_io_error(&error), Some(Errno::NOMEM));
        }
        Ok(())
    }),
    Test::with(
        "nothing_is_lost_by_what_drops_caches_in_small_pages",
        SMALL,
        drop_caches,
    ),
    Test::with(
        "nothing_is_lost_by_what_drops_caches_in_huge_pages",
        LARGE,
        drop_caches,
    ),
    Test::with("advice_is_taken_as_by_a_memfd", LARGE, || {
        let device = Device::open()?;
        let memfd = memfd_create("model", MemfdFlags::CLOEXEC)?;
        ftruncate(&memfd, 4 * MIB as u64)?;
        for advice in ADVICE {
            for (at, len) in [
                (0, 0),
                (5, 10),
                (HUGE_PAGE as u64, MIB as u64),
                (1 << 30, 4),
            ] {
                let len = NonZeroU64::new(len);
                assert_eq!(
                    fadvise(&device, at, len, advice),
                    fadvise(&memfd, at, len, advice),
                    "{advice:?} from {at}"
                );
            }
        }
        Ok(())
    }),
    Test::with("advice_on_a_hole_makes_nothing_resident", LARGE, || {
        let device = Device::open()?;
        for advice in ADVICE {
            fadvise(&device, 0, None, advice)?;
            let resident = device.info()?.resident_bytes;
            assert_eq!(resident, 0, "{advice:?}");
        }
        Ok(())
    }),
];

const ADVICE: [Advice; 6] = [
    Advice::Normal,
    Advice::Sequential,
    Advice::Random,
    Advice::NoReuse,
    Advice::WillNeed,
    Advice::DontNeed,
];

fn drop_caches() -> io::Result<()> {
    let device = Device::open()?;
    let size = device.size()?;
    let mut model = vec![0; size];
    let mut random = Random::new(99);
    let mapping = Mapping::shared(&device, size)?;
    // Half by calls, half by stores, which leave no dirty bit but that of the page table.
    for round in 0..20 {
        let at = random.below(size - 8 * KIB);
        let bytes = random.bytes(8 * KIB);
        if round % 2 == 0 {
            assert_eq!(pwrite(&device, &bytes, at as u64), Ok(bytes.len()));
        } else {
            mapping.write(at, &bytes);
        }
        model[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    // Everything is in memory and in the page table then.
    mapping.touch_read(0, size);
    let resident = device.info()?.resident_bytes;
    let same = |after: &str| -> io::Result<()> {
        let mut seen = vec![0xEE; size];
        assert_eq!(pread(&device, &mut seen, 0), Ok(size), "after {after}");
        assert!(seen == model, "data is lost by {after}");
        assert_eq!(device.info()?.resident_bytes, resident, "after {after}");
        Ok(())
    };

    fsync(&device)?;
    same("fsync")?;
    mapping.sync()?;
    same("msync")?;
    // Reclaims the pages that it can, at once.
    mapping.advise(0, size, mm::Advice::LinuxPageOut)?;
    same("paging out")?;
    drop(mapping);
    fadvise(&device, 0, None, Advice::DontNeed)?;
    same("the advice that nothing is needed")?;
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    same("dropping all caches")?;
    // Moves pages to other frames.
    fs::write("/proc/sys/vm/compact_memory", "1")?;
    same("compacting memory")
}
