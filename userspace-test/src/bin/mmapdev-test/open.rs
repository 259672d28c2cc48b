// SPDX-License-Identifier: GPL-2.0

//! Opening a device: who may, in which ways, and what the open file then allows.

use crate::Test;
use mmapdev_userspace::child::Child;
use mmapdev_userspace::device::{self, Device};
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::{MIB, PAGE};
use rustix::fs::{self, FileType, FlockOperation, Mode, OFlags};
use rustix::io::{pread, pwrite, Errno};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use rustix::process::{set_dumpable_behavior, DumpableBehavior, Uid};
use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

const SMALL: &str = "size_mib=1";

pub(crate) const TESTS: &[Test] = &[
    Test::with("the_node_is_a_char_device_of_root_alone", SMALL, || {
        const MISC_MAJOR: u32 = 10;
        let stat = fs::stat(device::FIRST)?;
        assert_eq!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::CharacterDevice
        );
        assert_eq!(stat.st_mode & 0o7777, 0o600);
        assert_eq!((stat.st_uid, stat.st_gid), (0, 0));
        assert_eq!(fs::major(stat.st_rdev), MISC_MAJOR);
        Ok(())
    }),
    Test::with("an_open_device_is_the_same_char_device", SMALL, || {
        let (open, node) = (fs::fstat(Device::open()?)?, fs::stat(device::FIRST)?);
        assert_eq!(
            FileType::from_raw_mode(open.st_mode),
            FileType::CharacterDevice
        );
        assert_eq!(
            (open.st_dev, open.st_ino, open.st_rdev),
            (node.st_dev, node.st_ino, node.st_rdev)
        );
        Ok(())
    }),
    Test::with("another_user_may_not_open_it", SMALL, || {
        let nobody = Uid::from_raw(65534);
        let opened = Child::run(|| {
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may change");
            for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR] {
                assert_fails(Device::open_with(device::FIRST, flags), Errno::ACCESS);
            }
            Vec::new()
        })?;
        opened.join();
        Ok(())
    }),
    Test::with(
        "a_descriptor_of_the_path_alone_gives_no_access",
        SMALL,
        || {
            let nobody = Uid::from_raw(65534);
            let child = Child::run(|| {
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody)
                    .expect("root may change");
                // So that its own descriptors are its to look at.
                set_dumpable_behavior(DumpableBehavior::Dumpable).expect("a change of its own");
                let path = |path| Device::open_with(path, OFlags::PATH).expect("a path");
                let again = |file: &Device| {
                    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
                    Device::open_with(link, OFlags::RDWR)
                };
                let device = path(device::FIRST);
                assert_fails(pread(&device, &mut [0], 0), Errno::BADF);
                assert_fails(pwrite(&device, &[1], 0), Errno::BADF);
                assert_fails(Mapping::shared(&device, PAGE), Errno::BADF);
                assert_fails(device.info(), Errno::BADF);
                assert_fails(device.notify(), Errno::BADF);
                assert_fails(again(&device), Errno::ACCESS);
                again(&path("/dev/null")).expect("what anybody may open");
                Vec::new()
            })?;
            child.join();
            Ok(())
        },
    ),
    Test::with("reading_only_allows_no_write_call", SMALL, || {
        let device = Device::open_with(device::FIRST, OFlags::RDONLY)?;
        assert_fails(pwrite(&device, &[1], 0), Errno::BADF);
        assert_fails(rustix::io::write(&device, &[1]), Errno::BADF);
        assert_eq!(pread(&device, &mut [1; 8], 0)?, 8);
        Ok(())
    }),
    Test::with(
        "reading_only_allows_no_shared_mapping_to_write",
        SMALL,
        || {
            let device = Device::open_with(device::FIRST, OFlags::RDONLY)?;
            for protection in [ProtFlags::WRITE, READ_WRITE] {
                let mapping = Mapping::new(&device, MIB, protection, MapFlags::SHARED, 0);
                assert_fails(mapping, Errno::ACCESS);
            }
            Ok(())
        },
    ),
    Test::with(
        "reading_only_allows_a_mapping_that_stays_readable_only",
        SMALL,
        || {
            put(0, 7)?;
            let device = Device::open_with(device::FIRST, OFlags::RDONLY)?;
            let mapping = Mapping::new(&device, MIB, ProtFlags::READ, MapFlags::SHARED, 0)?;
            let to_write = MprotectFlags::READ | MprotectFlags::WRITE;
            // Before its pages are there, and after.
            assert_fails(mapping.protect(0, MIB, to_write), Errno::ACCESS);
            assert_eq!(mapping.load(0), 7);
            mapping.touch_read(0, MIB);
            assert_fails(mapping.protect(0, MIB, to_write), Errno::ACCESS);
            assert_fails(
                mapping.protect(0, PAGE, MprotectFlags::WRITE),
                Errno::ACCESS,
            );
            assert_eq!(mapping.load(0), 7);
            Ok(())
        },
    ),
    Test::with(
        "reading_only_allows_a_private_mapping_to_write",
        SMALL,
        || {
            put(0, 7)?;
            let device = Device::open_with(device::FIRST, OFlags::RDONLY)?;
            let mapping = Mapping::new(&device, MIB, READ_WRITE, MapFlags::PRIVATE, 0)?;
            assert_eq!(mapping.load(0), 7);
            mapping.store(0, 8);
            assert_eq!(mapping.load(0), 8);
            assert_eq!(get(0)?, 7);
            // One that was made to read only may come to write as well.
            let mapping = Mapping::new(&device, MIB, ProtFlags::READ, MapFlags::PRIVATE, 0)?;
            mapping.protect(0, MIB, MprotectFlags::READ | MprotectFlags::WRITE)?;
            mapping.store(0, 9);
            assert_eq!(get(0)?, 7);
            Ok(())
        },
    ),
    Test::with("writing_only_allows_no_read_call", SMALL, || {
        let device = Device::open_with(device::FIRST, OFlags::WRONLY)?;
        assert_fails(pread(&device, &mut [0], 0), Errno::BADF);
        assert_fails(rustix::io::read(&device, &mut [0]), Errno::BADF);
        assert_eq!(pwrite(&device, &[5], 0)?, 1);
        assert_eq!(get(0)?, 5);
        Ok(())
    }),
    Test::with("writing_only_allows_no_mapping", SMALL, || {
        let device = Device::open_with(device::FIRST, OFlags::WRONLY)?;
        for protection in [
            ProtFlags::empty(),
            ProtFlags::READ,
            ProtFlags::WRITE,
            READ_WRITE,
        ] {
            for flags in [MapFlags::SHARED, MapFlags::PRIVATE] {
                let mapping = Mapping::new(&device, PAGE, protection, flags, 0);
                assert_fails(mapping, Errno::ACCESS);
            }
        }
        Ok(())
    }),
    Test::with(
        "flags_of_open_are_accepted_and_keep_the_content",
        SMALL,
        || {
            put(PAGE as u64, 3)?;
            for flags in [
                OFlags::TRUNC,
                OFlags::APPEND,
                OFlags::NONBLOCK,
                OFlags::DIRECT,
                OFlags::SYNC,
                OFlags::NOATIME,
                OFlags::CREATE,
                OFlags::TRUNC | OFlags::APPEND | OFlags::NONBLOCK | OFlags::DIRECT,
            ] {
                let device = Device::open_with(device::FIRST, OFlags::RDWR | flags)
                    .unwrap_or_else(|error| panic!("{flags:?}: {error}"));
                assert_eq!(device.size()?, MIB, "{flags:?}");
                assert_eq!(device.info()?.resident_bytes % PAGE as u64, 0);
                let mut byte = [0];
                assert_eq!(pread(&device, &mut byte, PAGE as u64)?, 1, "{flags:?}");
                assert_eq!(byte, [3], "{flags:?}");
                assert_eq!(Mapping::shared(&device, MIB)?.load(PAGE), 3, "{flags:?}");
            }
            Ok(())
        },
    ),
    Test::with("direct_reads_and_writes_move_the_bytes", SMALL, || {
        let device = Device::open_with(device::FIRST, OFlags::RDWR | OFlags::DIRECT)?;
        let buffer = Mapping::anonymous(2 * PAGE)?;
        buffer.store(0, 1);
        buffer.store(PAGE - 1, 2);
        assert_eq!(buffer.pwrite_to(&device, PAGE as u64, 0, PAGE)?, PAGE);
        assert_eq!((get(PAGE as u64)?, get(2 * PAGE as u64 - 1)?), (1, 2));
        assert_eq!(buffer.pread_from(&device, PAGE as u64, PAGE, PAGE)?, PAGE);
        assert_eq!((buffer.load(PAGE), buffer.load(2 * PAGE - 1)), (1, 2));
        Ok(())
    }),
    Test::with("appending_is_writing_at_the_position", SMALL, || {
        let device = Device::open_with(device::FIRST, OFlags::RDWR | OFlags::APPEND)?;
        assert_eq!(rustix::io::write(&device, &[1, 2])?, 2);
        assert_eq!(rustix::io::write(&device, &[3])?, 1);
        assert_eq!(pwrite(&device, &[4], 100)?, 1);
        assert_eq!((get(0)?, get(1)?, get(2)?, get(100)?), (1, 2, 3, 4));
        assert_eq!(device.size()?, MIB);
        Ok(())
    }),
    Test::with("the_size_cannot_be_changed", SMALL, || {
        let device = Device::open()?;
        for size in [0, PAGE, 2 * MIB] {
            assert_fails(fs::ftruncate(&device, size as u64), Errno::INVAL);
        }
        let flags = fs::FallocateFlags::empty();
        assert_fails(
            fs::fallocate(&device, flags, 0, 2 * MIB as u64),
            Errno::NODEV,
        );
        assert_eq!(device.size()?, MIB);
        Ok(())
    }),
    Test::with("locks_of_whole_files_exclude_each_other", SMALL, || {
        let (one, other) = (Device::open()?, Device::open()?);
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        let shared = FlockOperation::NonBlockingLockShared;
        fs::flock(&one, exclusive)?;
        assert_fails(fs::flock(&other, exclusive), Errno::WOULDBLOCK);
        assert_fails(fs::flock(&other, shared), Errno::WOULDBLOCK);
        fs::flock(&one, shared)?;
        fs::flock(&other, shared)?;
        assert_fails(fs::flock(&other, exclusive), Errno::WOULDBLOCK);
        drop(one);
        fs::flock(&other, exclusive)?;
        Ok(())
    }),
    Test::with("no_node_is_made_by_an_open", SMALL, || {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        assert_fails(fs::open(device::FIRST, flags, Mode::RUSR), Errno::EXIST);
        let directory = OFlags::RDWR | OFlags::DIRECTORY;
        assert_fails(Device::open_with(device::FIRST, directory), Errno::NOTDIR);
        Ok(())
    }),
];

fn assert_fails<T: Debug>(result: Result<T, impl Into<io::Error>>, errno: Errno) {
    let error: io::Error = result.expect_err("must not be allowed").into();
    assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()), "{error}");
}

fn put(position: u64, value: u8) -> io::Result<()> {
    assert_eq!(pwrite(Device::open()?, &[value], position)?, 1);
    Ok(())
}

fn get(position: u64) -> io::Result<u8> {
    let mut byte = [0];
    assert_eq!(pread(Device::open()?, &mut byte, position)?, 1);
    Ok(byte[0])
}
