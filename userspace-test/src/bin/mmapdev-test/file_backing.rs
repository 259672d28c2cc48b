// SPDX-License-Identifier: GPL-2.0

//! Devices that are stored in a file: pages come from the disk when they are touched, and go back.

use crate::fault::bad_memory_in_what_is_held;
use crate::tracing::traced;
use crate::{assert_errno, Test};
use mmapdev_userspace::abi;
use mmapdev_userspace::cgroup::Cgroup;
use mmapdev_userspace::child::{self, Child, Outcome, Touch};
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::disk::{Disk, Traffic};
use mmapdev_userspace::gate::{Gate, To, Waiting};
use mmapdev_userspace::mapping::{self, Mapping, READ_WRITE};
use mmapdev_userspace::module::{self, Loaded};
use mmapdev_userspace::random::Random;
use mmapdev_userspace::withheld::{while_locked, Withheld};
use mmapdev_userspace::{memory, slowness, HUGE_PAGE, KIB, MIB, PAGE};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{
    fadvise, fcntl_add_seals, fdatasync, fsync, ftruncate, ioctl_setflags, memfd_create, mknodat,
    sync, utimensat, AtFlags, FileType, IFlags, MemfdFlags, Mode, OFlags, SealFlags, SeekFrom,
    Timespec, Timestamps, CWD,
};
use rustix::io::{pread, preadv2, pwrite, read, write, Errno, ReadWriteFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::pipe::{pipe_with, splice, PipeFlags, SpliceFlags};
use rustix::process;
use rustix::thread::gettid;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{self, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI32};
use std::thread;
use std::time::{Duration, Instant};

const NONE: &str = "devices=0";
const SIZE: usize = 4 * MIB;

pub(crate) const TESTS: &[Test] = &[
    Test::with(
        "a_mapping_and_calls_have_the_bytes_of_the_file",
        NONE,
        || {
            let scene = Scene::new(SIZE)?;
            let device = scene.open()?;
            assert_eq!(device.size()?, SIZE);
            let mapping = Mapping::shared(&device, SIZE)?;
            assert!(mapping.read(0, SIZE) == scene.bytes);
            let mut read = vec![0; SIZE];
            assert_eq!(pread(&device, &mut read, 0)?, SIZE);
            assert!(read == scene.bytes);
            let info = device.info()?;
            assert_eq!(info.backing, abi::BACKING_FILE);
            assert_eq!(info.resident_bytes, SIZE as u64);
            Ok(())
        },
    ),
    Test::with("a_part_of_a_file_is_that_part", NONE, || {
        let file = Scene::file("part", SIZE)?;
        let control = Control::open()?;
        let (offset, size) = (MIB as u64, (MIB + PAGE) as u64);
        control.create(control::file("part", &file.0, offset, size)?)?;
        let device = Device::open_with(control::node("part"), OFlags::RDWR)?;
        assert_eq!(device.size()?, MIB + PAGE);
        let mapping = Mapping::shared(&device, MIB + PAGE)?;
        assert!(mapping.read(0, MIB + PAGE) == file.1[MIB..2 * MIB + PAGE]);
        mapping.write(0, b"begin");
        mapping.write(MIB + PAGE - 3, b"end");
        fsync(&device)?;
        let mut expected = file.1.clone();
        expected[MIB..MIB + 5].copy_from_slice(b"begin");
        expected[2 * MIB + PAGE - 3..2 * MIB + PAGE].copy_from_slice(b"end");
        assert!(fs::read(path("part"))? == expected);
        Ok(())
    }),
    Test::with(
        "a_store_is_in_the_file_after_each_way_to_sync",
        NONE,
        || {
            let scene = Scene::new(SIZE)?;
            let device = scene.open()?;
            let mapping = Mapping::shared(&device, SIZE)?;
            let ways: [(&str, &dyn Fn() -> io::Result<()>); 3] = [
                ("msync", &|| mapping.sync()),
                ("fsync", &|| Ok(fsync(&device)?)),
                ("fdatasync", &|| Ok(fdatasync(&device)?)),
            ];
            for (number, (what, sync)) in ways.into_iter().enumerate() {
                let place = number * MIB + 5000;
                mapping.write(place, what.as_bytes());
                pwrite(&device, what.as_bytes(), (place + 100_000) as u64)?;
                sync()?;
                for place in [place, place + 100_000] {
                    assert_eq!(scene.on_disk(place, what.len())?, what.as_bytes(), "{what}");
                }
            }
            // Which the kernel has for regular files, disks and links alone.
            let refused = device.sync_file_range(0, PAGE as u64);
            assert_errno(refused, Errno::SPIPE, "sync_file_range");
            Ok(())
        },
    ),
    Test::with("closing_the_last_user_writes_what_is_left", NONE, || {
        let scene = Scene::new(SIZE)?;
        let device = scene.open()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        mapping.write(7, b"stored");
        pwrite(&device, b"written", MIB as u64)?;
        drop(device);
        mapping.write(9000, b"after");
        drop(mapping);
        assert_eq!(scene.on_disk(7, 6)?, b"stored");
        assert_eq!(scene.on_disk(9000, 5)?, b"after");
        assert_eq!(scene.on_disk(MIB, 7)?, b"written");
        Ok(())
    }),
    Test::with("destroying_writes_what_is_left", NONE, || {
        let scene = Scene::new(SIZE)?;
        let device = scene.open()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        mapping.write(7, b"stored");
        scene.control.destroy(NAME)?;
        assert_eq!(scene.on_disk(7, 6)?, b"stored");
        let address = mapping.address(0);
        assert_eq!(child::touch(address, false)?, Touch::BusError(address));
        assert_errno(device.size(), Errno::NODEV, "a call");
        Ok(())
    }),
    Test::with("destroying_loses_no_store_that_was_made", NONE, || {
        for round in 0..5 {
            let scene = Scene::new(SIZE)?;
            let device = scene.open()?;
            let mapping = Mapping::shared(&device, SIZE)?;
            // Much to write, so that it takes a while.
            mapping.touch_write(0, SIZE, 1);
            let memory = memfd_create("count", MemfdFlags::CLOEXEC)?;
            ftruncate(&memory, PAGE as u64)?;
            let count = Mapping::shared(&memory, PAGE)?;
            let storer = Child::run(|| {
                for value in 1_u64.. {
                    for page in 0..8 {
                        mapping.word(page * PAGE).store(value, SeqCst);
                    }
                    count.word(0).store(value, SeqCst);
                }
                Vec::new()
            })?;
            while count.word(0).load(SeqCst) < 10 + round {
                thread::yield_now();
            }
            scene.control.destroy(NAME)?;
            assert_eq!(
                storer.wait(Some(Duration::from_secs(60)))?,
                Outcome::Killed(libc::SIGBUS)
            );
            let stored = count.word(0).load(SeqCst);
            for page in 0..8 {
                let bytes = scene.on_disk(page * PAGE, 8)?;
                let found = u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
                assert!(
                    found >= stored,
                    "round {round}, page {page}: {stored} was stored, {found} is in the file"
                );
            }
        }
        Ok(())
    }),
    Test::with(
        "a_new_device_of_the_file_has_what_one_that_ends_has_stored",
        NONE,
        || {
            const SIZE: usize = 16 * MIB;
            let scene = Scene::new(SIZE)?;
            let file = OpenOptions::new().read(true).write(true).open(path(NAME))?;
            // Whoever is to be refused may come too late.
            for value in 1..=20 {
                let device = scene.open()?;
                Mapping::shared(&device, SIZE)?.touch_write(0, SIZE, value);
                let refused = thread::scope(|scope| -> io::Result<usize> {
                    let ending = scope.spawn(|| scene.control.destroy(NAME));
                    let mut refused = 0;
                    while let Err(error) =
                        scene.control.create(control::file("again", &file, 0, 0)?)
                    {
                        // It is one of its bytes until all are written.
                        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
                        refused += 1;
                    }
                    ending.join().expect("no panic")?;
                    Ok(refused)
                })?;
                let device = Device::open_with(control::node("again"), OFlags::RDWR)?;
                let mapping = Mapping::shared(&device, SIZE)?;
                assert!((0..SIZE).step_by(PAGE).all(|at| mapping.load(at) == value));
                scene.control.destroy("again")?;
                if refused > 0 {
                    return Ok(());
                }
                scene.control.create(control::file(NAME, &file, 0, 0)?)?;
            }
            panic!("it must have been destroyed before");
        },
    ),
    Test::with(
        "a_limit_of_who_asks_for_it_keeps_nothing_from_the_file",
        NONE,
        || {
            let scene = Scene::new(SIZE)?;
            let device = scene.open()?;
            let mapping = Mapping::shared(&device, SIZE)?;
            mapping.touch_write(0, SIZE, 77);
            // For reading only, by somebody who may write no files.
            Child::run(|| {
                let none = process::Rlimit {
                    current: Some(0),
                    maximum: Some(0),
                };
                process::setrlimit(process::Resource::Fsize, none).expect("less is allowed");
                let device = Device::open_with(control::node(NAME), OFlags::RDONLY);
                fsync(device.expect("a device")).expect("no error of the file");
                Vec::new()
            })?
            .join();
            for page in [0, 5, SIZE / PAGE - 1] {
                assert_eq!(scene.on_disk(page * PAGE, 1)?, [77]);
            }
            Ok(())
        },
    ),
    Test::with(
        "a_file_system_can_be_frozen_when_all_is_written",
        NONE,
        || {
            let scene = Scene::new(MIB + 100)?;
            let device = scene.open()?;
            let mapping = Mapping::shared(&device, MIB + PAGE)?;
            for round in 0..3 {
                mapping.touch_write(0, MIB, round);
                mapping.write(MIB, &[round; 100]);
                fsync(&device)?;
                // It waits for whatever is being written.
                run("fsfreeze", &["--freeze", FOLDER])?;
                // A page is read all the same.
                fs::write("/proc/sys/vm/drop_caches", "1")?;
                let seen = mapping.load(MIB / 2);
                run("fsfreeze", &["--unfreeze", FOLDER])?;
                assert_eq!(seen, round);
            }
            Ok(())
        },
    ),
    Test::with(
        "a_store_to_a_frozen_file_system_waits_and_is_in_the_file",
        NONE,
        || {
            let scene = Scene::new(MIB)?;
            let device = scene.open()?;
            let mapping = Mapping::shared(&device, MIB)?;
            run("fsfreeze", &["--freeze", FOLDER])?;
            mapping.write(0, b"stored");
            let syncing = Child::run(|| {
                fsync(&device).expect("no error");
                Vec::new()
            })?;
            run("fsfreeze", &["--unfreeze", FOLDER])?;
            syncing.join();
            assert_eq!(scene.on_disk(0, 6)?, b"stored");
            Ok(())
        },
    ),
    Test::with(
        "a_frozen_file_system_keeps_nothing_of_another_from_its_file",
        NONE,
        frozen_beside_another,
    ),
    Test::without_module(
        "a_module_with_devices_of_files_that_nobody_uses_unloads_and_loses_no_byte",
        unloaded_with_devices,
    ),
    Test::without_module(
        "the_module_stays_while_somebody_is_about_to_leave_its_super_block",
        unloaded_during_sync,
    ),
    Test::with(
        "sync_of_all_brings_the_last_page_to_the_disk_as_well",
        NONE,
        || {
            let scene = Scene::new(MIB + 100)?;
            let device = scene.open()?;
            let mapping = Mapping::shared(&device, MIB + PAGE)?;
            mapping.write(MIB + 50, b"stored");
            sync();
            // Nothing is left to be written.
            let file = File::open(path(NAME))?;
            let traffic = traffic_during(|| file.sync_all().expect("no error"))?;
            assert_eq!(traffic.bytes_written, 0);
            assert_eq!(scene.on_disk(MIB + 50, 6)?, b"stored");
            Ok(())
        },
    ),
    Test::with("an_immutable_file_takes_no_store", NONE, || {
        let scene = Scene::new(MIB)?;
        let device = scene.open()?;
        let mapping = Mapping::shared(&device, MIB)?;
        mapping.load(5 * PAGE);
        let file = File::open(path(NAME))?;
        ioctl_setflags(&file, IFlags::IMMUTABLE)?;
        let touch = child::touch(mapping.address(5 * PAGE), true);
        let written = pwrite(&device, b"written", 0);
        let read = mapping.read(0, MIB);
        ioctl_setflags(&file, IFlags::empty())?;
        let address = mapping.address(5 * PAGE);
        assert!(matches!(touch?, Touch::BusError(at) if at == address));
        assert_eq!(written, Err(Errno::PERM));
        assert!(read == scene.bytes);
        mapping.write(5 * PAGE, b"stored");
        fsync(&device)?;
        assert_eq!(scene.on_disk(5 * PAGE, 6)?, b"stored");
        Ok(())
    }),
    Test::with(
        "pipes_that_hold_the_last_page_keep_nobody_from_writing",
        NONE,
        pipes_hold_the_last_page,
    ),
    Test::with(
        "a_store_by_way_of_a_node_on_a_frozen_file_system_leaves_its_times_alone",
        NONE,
        || {
            // To be written back, and in memory only: a first store is another thing to the kernel there.
            let scene = Scene::new(MIB)?;
            let memory = scene.control.create_and_open("node-memory", MIB as u64)?;
            for original in [control::node(NAME), control::node("node-memory")] {
                let number = fs::metadata(&original)?.rdev();
                let node = path("node");
                let mode = Mode::RUSR | Mode::WUSR;
                mknodat(CWD, &node, FileType::CharacterDevice, mode, number)?;
                // Long ago: the file system may count in seconds.
                let long_ago = Timespec {
                    tv_sec: 1000,
                    tv_nsec: 0,
                };
                let times = Timestamps {
                    last_access: long_ago,
                    last_modification: long_ago,
                };
                utimensat(CWD, &node, &times, AtFlags::empty())?;
                let device = Device::open_with(&node, OFlags::RDWR)?;
                let mapping = Mapping::shared(&device, MIB)?;
                run("fsfreeze", &["--freeze", FOLDER])?;
                // By somebody who can be seen to be stuck. That the kernel does not complain is seen by the rig.
                let stored = Child::run(|| {
                    mapping.store(5 * PAGE, 1);
                    pwrite(&device, b"written", 0).expect("a write to memory");
                    Vec::new()
                })?
                .wait(Some(Duration::from_secs(30) * slowness()));
                run("fsfreeze", &["--unfreeze", FOLDER])?;
                assert_eq!(stored?, Outcome::Returned(Vec::new()), "{original:?}");
                assert_eq!(mapping.load(5 * PAGE), 1);
                assert_eq!(fs::metadata(&node)?.mtime(), 1000, "{original:?}");
                fs::remove_file(&node)?;
            }
            drop(memory);
            scene.control.destroy("node-memory")
        },
    ),
    Test::with("what_is_dirty_is_written_in_the_background", NONE, || {
        let scene = Scene::new(SIZE)?;
        let device = scene.open()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        let settings = [
            ("dirty_expire_centisecs", "10"),
            ("dirty_writeback_centisecs", "10"),
        ];
        let mut before = Vec::new();
        for (name, value) in settings {
            let file = format!("/proc/sys/vm/{name}");
            before.push((file.clone(), fs::read_to_string(&file)?));
            fs::write(file, value)?;
        }
        mapping.write(7, b"by itself");
        let deadline = Instant::now() + slowness() * Duration::from_secs(20);
        while scene.on_disk(7, 9)? != b"by itself" {
            assert!(Instant::now() < deadline, "not written");
        }
        for (file, value) in before {
            fs::write(file, value)?;
        }
        Ok(())
    }),
    Test::with("a_first_write_to_a_clean_page_is_noted", NONE, || {
        let scene = Scene::new(SIZE)?;
        let device = scene.open()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        mapping.touch_read(0, SIZE);
        let before = device.counters()?.page_mkwrites;
        let lines = traced(|| {
            mapping.store(0, 1);
            mapping.store(1, 1);
            Ok(())
        })?;
        let id = device.info()?.id;
        let expected = format!("mmapdev_page_mkwrite: device={id} page=0 order=0 result=0");
        assert_eq!(lines, [expected]);
        let once = device.counters()?.page_mkwrites;
        assert_eq!(once, before + 1);
        // Written back it is clean again, and the next write is noted.
        fsync(&device)?;
        mapping.store(2, 1);
        assert_eq!(device.counters()?.page_mkwrites, once + 1);
        Ok(())
    }),
    Test::with(
        "a_descriptor_that_is_made_to_append_later_makes_no_difference",
        NONE,
        || {
            let (file, _) = Scene::file(NAME, SIZE)?;
            let control = Control::open()?;
            control.create(control::file(NAME, &file, 0, 0)?)?;
            let device = Device::open_with(control::node(NAME), OFlags::RDWR)?;
            rustix::fs::fcntl_setfl(&file, OFlags::APPEND)?;
            Mapping::shared(&device, SIZE)?.write(MIB, b"stored");
            fsync(&device)?;
            assert_eq!(file.metadata()?.len(), SIZE as u64);
            let mut stored = [0; 6];
            file.read_exact_at(&mut stored, MIB as u64)?;
            assert_eq!(stored, *b"stored");
            Ok(())
        },
    ),
    Test::with(
        "a_read_only_descriptor_makes_a_read_only_device",
        NONE,
        || {
            let file = Scene::file("ro", SIZE)?;
            let control = Control::open()?;
            let reading = File::open(path("ro"))?;
            control.create(control::file("ro", &reading, 0, 0)?)?;
            let node = control::node("ro");
            assert_errno(
                Device::open_with(&node, OFlags::RDWR),
                Errno::ROFS,
                "for writing",
            );
            let device = Device::open_with(&node, OFlags::RDONLY)?;
            assert!(Mapping::new(&device, SIZE, READ_WRITE, MapFlags::SHARED, 0).is_err());
            let map = Mapping::new(&device, SIZE, ProtFlags::READ, MapFlags::SHARED, 0)?;
            assert!(map.read(0, SIZE) == file.1);
            let private = Mapping::new(&device, SIZE, READ_WRITE, MapFlags::PRIVATE, 0)?;
            private.store(0, !file.1[0]);
            assert_eq!(map.load(0), file.1[0]);
            Ok(())
        },
    ),
    Test::with(
        "a_memfd_is_sealed_or_stored_to_through_a_device",
        NONE,
        || {
            let memfd = || -> io::Result<_> {
                let file = memfd_create("sealed", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
                ftruncate(&file, MIB as u64)?;
                Ok(file)
            };
            let (control, node) = (Control::open()?, control::node(NAME));
            for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE] {
                let file = memfd()?;
                pwrite(&file, &[7], 0)?;
                fcntl_add_seals(&file, seal)?;
                control.create(control::file(NAME, &file, 0, 0)?)?;
                let writing = Device::open_with(&node, OFlags::RDWR);
                assert_errno(writing, Errno::ROFS, "for writing");
                let device = Device::open_with(&node, OFlags::RDONLY)?;
                let mapping = Mapping::new(&device, MIB, ProtFlags::READ, MapFlags::SHARED, 0)?;
                assert_eq!(mapping.load(0), 7);
                control.destroy(NAME)?;
            }
            let file = memfd()?;
            control.create(control::file(NAME, &file, 0, 0)?)?;
            let device = Device::open_with(&node, OFlags::RDWR)?;
            let mapping = Mapping::shared(&device, MIB)?;
            mapping.load(0);
            fcntl_add_seals(&file, SealFlags::FUTURE_WRITE)?;
            let written = pwrite(&device, &[8], 0).map_err(io::Error::from);
            assert_errno(written, Errno::PERM, "a write when it is sealed");
            let touch = child::touch(mapping.address(0), true)?;
            assert_eq!(touch, Touch::BusError(mapping.address(0)));
            drop((mapping, device));
            control.destroy(NAME)?;

            let file = memfd()?;
            control.create(control::file(NAME, &file, 0, 0)?)?;
            assert_eq!(fcntl_add_seals(&file, SealFlags::WRITE), Err(Errno::BUSY));
            Mapping::shared(&Device::open_with(&node, OFlags::RDWR)?, MIB)?.store(0, 8);
            control.destroy(NAME)?;
            let mut byte = [0];
            pread(&file, &mut byte, 0)?;
            assert_eq!(byte[0], 8);
            // The last one of the file may be given back by a worker.
            let deadline = Instant::now() + slowness() * Duration::from_secs(10);
            while fcntl_add_seals(&file, SealFlags::WRITE) == Err(Errno::BUSY) {
                assert!(Instant::now() < deadline, "never to be sealed");
                thread::yield_now();
            }
            assert_errno(
                pwrite(&file, &[9], 0).map_err(io::Error::from),
                Errno::PERM,
                "sealed",
            );
            Ok(())
        },
    ),
    Test::with(
        "pages_go_when_memory_is_wanted_and_come_again",
        NONE,
        || {
            let scene = Scene::new(SIZE)?;
            let device = scene.open()?;
            let mapping = Mapping::shared(&device, SIZE)?;
            assert!(mapping.read(0, SIZE) == scene.bytes);
            mapping.write(100, b"dirty");
            fsync(&device)?;
            drop(mapping);
            fs::write("/proc/sys/vm/drop_caches", "1")?;
            assert_eq!(device.info()?.resident_bytes, 0);
            let mut expected = scene.bytes.clone();
            expected[100..105].copy_from_slice(b"dirty");
            let mapping = Mapping::shared(&device, SIZE)?;
            assert!(mapping.read(0, SIZE) == expected);
            Ok(())
        },
    ),
    Test::with(
        "no_second_copy_is_in_the_file_s_own_page_cache",
        NONE,
        || {
            let scene = Scene::new(SIZE)?;
            let device = scene.open()?;
            let before = memory::vmstat("nr_file_pages")?;
            let mapping = Mapping::shared(&device, SIZE)?;
            mapping.touch_read(0, SIZE);
            mapping.touch_write(0, SIZE, 3);
            fsync(&device)?;
            let pages = memory::vmstat("nr_file_pages")? - before;
            let own = (SIZE / PAGE) as u64;
            // What the file system needs for itself comes on top.
            assert!((own..own + own / 8).contains(&pages), "{pages} pages");
            Ok(())
        },
    ),
    Test::with("a_file_that_grows_and_shrinks_is_followed", NONE, || {
        let scene = Scene::new(SIZE)?;
        let device = scene.open()?;
        let mapping = Mapping::shared(&device, 2 * SIZE)?;
        mapping.touch_read(0, SIZE);
        let file = OpenOptions::new().write(true).open(path(NAME))?;
        let end = MIB + 100;
        file.set_len(end as u64)?;
        assert_eq!(device.size()?, end);
        let mut byte = [0];
        assert_eq!(pread(&device, &mut byte, end as u64)?, 0);
        let address = mapping.address(MIB + PAGE);
        assert_eq!(child::touch(address, false)?, Touch::BusError(address));
        assert_eq!(mapping.read(MIB, 100), scene.bytes[MIB..end]);
        // Longer again: what was cut is zeros now, and what is written there is seen.
        file.set_len(SIZE as u64)?;
        file.write_all_at(b"new", (end + 10) as u64)?;
        assert_eq!(device.size()?, SIZE);
        let mut expected = vec![0; PAGE];
        expected[..100].copy_from_slice(&scene.bytes[MIB..end]);
        expected[110..113].copy_from_slice(b"new");
        assert!(mapping.read(MIB, PAGE) == expected);
        assert_eq!(mapping.load(SIZE - 1), 0);
        Ok(())
    }),
    Test::with(
        "a_file_that_is_cut_off_and_as_long_again_at_once_shows_zeros",
        NONE,
        || {
            let scene = Scene::new(SIZE)?;
            let device = scene.open()?;
            let mapping = Mapping::shared(&device, SIZE)?;
            let file = OpenOptions::new().write(true).open(path(NAME))?;
            // Nobody may look at the device between the two.
            for round in 0..50 {
                let end = SIZE - (round + 1) * 5000;
                mapping.touch_read(0, SIZE);
                mapping.write(SIZE - 100, b"stored");
                file.set_len(end as u64)?;
                file.set_len(SIZE as u64)?;
                assert_eq!(device.size()?, SIZE);
                let mut seen = scene.bytes[..end].to_vec();
                seen.resize(SIZE, 0);
                assert!(mapping.read(0, SIZE) == seen, "round {round}");
            }
            fsync(&device)?;
            assert_eq!(scene.on_disk(SIZE - 100, 6)?, [0; 6]);
            Ok(())
        },
    ),
    Test::with(
        "a_file_that_grows_while_its_last_page_is_stored_to_has_all_bytes",
        NONE,
        || {
            let scene = Scene::new(MIB + 100)?;
            let device = scene.open()?;
            let mapping = Mapping::shared(&device, 2 * MIB)?;
            let file = OpenOptions::new().write(true).open(path(NAME))?;
            let written = |index| (MIB + 100 + index * 30, [index as u8 + 1; 30]);
            const WRITES: usize = 200;
            let is_done = AtomicBool::new(false);
            let count = thread::scope(|scope| {
                let storer = scope.spawn(|| {
                    let mut count = 0_u64;
                    while !is_done.load(Relaxed) {
                        count += 1;
                        mapping.write(MIB, &count.to_ne_bytes());
                    }
                    count
                });
                let grown = (0..WRITES).try_for_each(|index| {
                    let (place, bytes) = written(index);
                    file.write_all_at(&bytes, place as u64)?;
                    let (size, seen) = (device.size()?, mapping.read(place, 30));
                    if size != place + 30 || seen != bytes {
                        let seen = format!("write {index}: {size} bytes, {seen:?}");
                        return Err(io::Error::other(seen));
                    }
                    Ok(())
                });
                is_done.store(true, Relaxed);
                grown.map(|()| storer.join().expect("no store fails"))
            })?;
            assert_eq!(mapping.read(MIB, 8), count.to_ne_bytes());
            fsync(&device)?;
            assert_eq!(scene.on_disk(MIB, 8)?, count.to_ne_bytes());
            for index in 0..WRITES {
                let (place, bytes) = written(index);
                assert_eq!(scene.on_disk(place, 30)?, bytes, "write {index}");
            }
            Ok(())
        },
    ),
    Test::with(
        "a_file_that_grows_while_pages_are_missed_all_the_time_is_followed",
        NONE,
        || {
            const END: usize = MIB + 100;
            let scene = Scene::new(END)?;
            let device = scene.open()?;
            let mapping = Mapping::shared(&device, 2 * MIB)?;
            mapping.advise(0, 2 * MIB, Advice::Random)?;
            let file = OpenOptions::new().write(true).open(path(NAME))?;
            let is_done = AtomicBool::new(false);
            thread::scope(|scope| {
                let mut missers = Vec::new();
                for _ in 0..3 {
                    missers.push(scope.spawn(|| -> io::Result<()> {
                        while !is_done.load(Relaxed) {
                            // All that is clean goes, and is missed.
                            fadvise(&device, 0, None, rustix::fs::Advice::DontNeed)?;
                            mapping.touch_read(0, MIB);
                        }
                        Ok(())
                    }));
                }
                let grown = (0..60_usize).try_for_each(|index| {
                    let place = END + 30 * index;
                    mapping.write(END - 8, &index.to_ne_bytes());
                    file.write_all_at(&[index as u8 + 1; 30], place as u64)?;
                    let (size, seen) = (device.size()?, mapping.read(place, 30));
                    let stored = mapping.read(END - 8, 8);
                    if size == place + 30
                        && seen == [index as u8 + 1; 30]
                        && stored == index.to_ne_bytes()
                    {
                        return Ok(());
                    }
                    let what = format!("write {index}: {size} bytes, {seen:?}, {stored:?}");
                    Err(io::Error::other(what))
                });
                is_done.store(true, Relaxed);
                for misser in missers {
                    misser.join().expect("no panic")?;
                }
                grown
            })
        },
    ),
    Test::with(
        "a_file_whose_last_page_is_not_whole_keeps_its_size",
        NONE,
        || {
            let size = MIB + 1234;
            let scene = Scene::new(size)?;
            let device = scene.open()?;
            assert_eq!(device.size()?, size);
            let mapping = Mapping::shared(&device, MIB + PAGE)?;
            assert!(mapping.read(0, size) == scene.bytes);
            assert!(mapping
                .read(size, PAGE - 1234)
                .iter()
                .all(|&byte| byte == 0));
            mapping.write(size - 4, b"last");
            // Behind the end there is nothing to store to, though the page takes it.
            mapping.write(size, b"beyond");
            fsync(&device)?;
            assert_eq!(fs::metadata(path(NAME))?.len(), size as u64);
            assert_eq!(scene.on_disk(size - 4, 4)?, b"last");
            assert_errno(
                pwrite(&device, &[1], size as u64).map_err(io::Error::from),
                Errno::NOSPC,
                "at the end",
            );
            Ok(())
        },
    ),
    Test::with(
        "a_mapping_of_what_was_cut_off_is_a_bus_error_by_itself",
        NONE,
        || {
            let scene = Scene::new(SIZE)?;
            let device = scene.open()?;
            let mapping = Mapping::shared(&device, SIZE)?;
            mapping.touch_write(0, SIZE, 1);
            let file = OpenOptions::new().write(true).open(path(NAME))?;
            file.set_len(MIB as u64)?;
            // No call is made on the device, and the pages were all mapped.
            let address = mapping.address(2 * MIB);
            let deadline = Instant::now() + slowness() * Duration::from_secs(20);
            while child::touch(address, false)? != Touch::BusError(address) {
                assert!(Instant::now() < deadline, "bytes that are in no file");
            }
            file.set_len(SIZE as u64)?;
            while child::touch(address, false)? == Touch::BusError(address) {
                assert!(Instant::now() < deadline, "the file has grown");
            }
            assert_eq!(mapping.load(2 * MIB), 0, "what the file has there now");
            Ok(())
        },
    ),
    Test::with(
        "reading_on_is_read_ahead_and_random_touches_are_not",
        NONE,
        || {
            let scene = Scene::new(SIZE)?;
            let device = scene.open()?;
            let mapping = Mapping::shared(&device, SIZE)?;
            mapping.advise(0, SIZE, rustix::mm::Advice::Random)?;
            let random = traffic_during(|| mapping.touch_read(2 * MIB + 5 * PAGE, 1))?;
            assert_eq!((random.reads, random.bytes_read), (1, PAGE as u64));
            mapping.advise(0, SIZE, rustix::mm::Advice::Normal)?;
            let sequential = traffic_during(|| mapping.touch_read(0, MIB))?;
            let pages = (MIB / PAGE) as u64;
            assert!(sequential.reads < pages / 8, "{sequential:?}");
            assert!(sequential.bytes_read >= MIB as u64, "{sequential:?}");
            Ok(())
        },
    ),
    Test::with("touches_of_one_page_at_a_time_read_it_once", NONE, || {
        let scene = Scene::new(SIZE)?;
        let device = scene.open()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        mapping.advise(0, SIZE, rustix::mm::Advice::Random)?;
        for page in 0..20 {
            let reads = traffic_during(|| {
                std::thread::scope(|scope| {
                    for _ in 0..4 {
                        scope.spawn(|| mapping.load(page * 16 * PAGE));
                    }
                });
            })?;
            assert_eq!(
                (reads.reads, reads.bytes_read),
                (1, PAGE as u64),
                "page {page}"
            );
        }
        Ok(())
    }),
    Test::with(
        "a_page_that_cannot_be_read_is_an_error_until_it_can",
        NONE,
        || {
            let disk = LoopDisk::new(SIZE)?;
            let device = disk.device()?;
            disk.file.set_len(MIB as u64)?;
            let mapping = Mapping::shared(&device, SIZE)?;
            let address = mapping.address(2 * MIB);
            assert_eq!(child::touch(address, false)?, Touch::BusError(address));
            let read = pread(&device, &mut [0], (2 * MIB) as u64);
            assert_eq!(read, Err(Errno::IO));
            assert_eq!(mapping.load(PAGE), disk.bytes[PAGE], "what can be read");
            assert!(device.counters()?.bus_errors > 0);
            disk.file.write_all_at(&disk.bytes, 0)?;
            assert_eq!(mapping.load(2 * MIB), disk.bytes[2 * MIB]);
            let mut byte = [0];
            pread(&device, &mut byte, (2 * MIB) as u64)?;
            assert_eq!(byte[0], disk.bytes[2 * MIB]);
            Ok(())
        },
    ),
    Test::with(
        "a_write_that_fails_is_told_to_each_open_file_once",
        NONE,
        || {
            let disk = LoopDisk::new(SIZE)?;
            let (one, other) = (disk.device()?, disk.device()?);
            let mapping = Mapping::shared(&one, SIZE)?;
            mapping.touch_read(0, SIZE);
            // Nothing can be written: a tmpfs has as much room as it is given.
            disk.fill_up()?;
            mapping.store(2 * MIB, 1);
            assert_eq!(fsync(&one), Err(Errno::NOSPC), "the first to sync");
            assert_eq!(fsync(&one), Ok(()));
            assert_eq!(fsync(&other), Err(Errno::NOSPC), "the other");
            assert_eq!(fsync(&other), Ok(()));
            // Who opens it later has nothing to do with that.
            fsync(&disk.device()?)?;
            disk.make_room()?;
            mapping.store(2 * MIB, 2);
            fsync(&one)?;
            let mut byte = [0];
            disk.file.read_exact_at(&mut byte, (2 * MIB) as u64)?;
            assert_eq!(byte, [2]);
            Ok(())
        },
    ),
    Test::with(
        "a_write_that_fails_is_told_also_where_who_has_made_the_device_knows",
        NONE,
        || {
            // What follows the last whole page is stored by way of the disk's own page cache.
            let disk = LoopDisk::new(SIZE + 512)?;
            let device = disk.device()?;
            let mapping = Mapping::shared(&device, SIZE + PAGE)?;
            mapping.load(SIZE);
            disk.fill_up()?;
            mapping.store(SIZE + 10, 1);
            // All that is dirty anywhere is written, and nobody hears of what becomes of it.
            rustix::fs::sync();
            assert_eq!(fsync(&disk.block), Err(Errno::IO), "the maker");
            assert_eq!(fsync(&device), Err(Errno::IO), "who has it open");
            assert_eq!(fsync(&device), Ok(()));
            fsync(&disk.device()?)?;
            disk.make_room()?;
            mapping.store(SIZE + 10, 2);
            fsync(&device)?;
            let mut byte = [0];
            disk.file.read_exact_at(&mut byte, (SIZE + 10) as u64)?;
            assert_eq!(byte, [2]);
            Ok(())
        },
    ),
    Test::with(
        "bad_memory_of_a_clean_page_is_replaced_from_the_file",
        NONE,
        || bad_memory(false),
    ),
    Test::with(
        "bad_memory_of_a_dirty_page_is_lost_and_told_once",
        NONE,
        || bad_memory(true),
    ),
    Test::with("it_is_read_ahead_as_far_as_the_file_itself", NONE, || {
        let scene = Scene::new(SIZE)?;
        let _device = scene.open()?;
        let expected = fs::read_to_string("/sys/block/vda/queue/read_ahead_kb")?;
        let mut seen = Vec::new();
        for bdi in fs::read_dir("/sys/class/bdi")? {
            let bdi = bdi?;
            if bdi.file_name().to_string_lossy().starts_with("mmapdev") {
                seen.push(fs::read_to_string(bdi.path().join("read_ahead_kb"))?);
            }
        }
        assert_eq!(seen, [expected]);
        Ok(())
    }),
    Test::with(
        "anonymous_memory_goes_to_the_swap_space_and_a_device_s_to_its_file",
        NONE,
        swap,
    ),
    Test::without_module(
        "a_device_ends_and_the_module_stays_while_a_scanner_has_yet_to_answer",
        scanned,
    ),
    Test::with(
        "a_scanner_is_asked_about_a_device_and_about_no_touch",
        NONE,
        || {
            // Before the file is opened: from then on the kernel knows whether anybody is to be asked about it.
            let gate = Gate::before_mount_of(FOLDER, To::Read)?;
            let (file, bytes) = Scene::file(NAME, SIZE)?;
            let control = Control::open()?;
            let make = |answer: &dyn Fn(Waiting<'_>) -> io::Result<()>| {
                thread::scope(|scope| {
                    let making = scope.spawn(|| control.create(control::file(NAME, &file, 0, 0)?));
                    answer(gate.wait()?)?;
                    making.join().expect("no panic")
                })
            };
            assert_errno(make(&|waiting| waiting.refuse()), Errno::PERM, "refused");
            assert_eq!(control.list()?, [], "nothing is made of it");
            make(&|waiting| waiting.let_in())?;
            let device = Device::open_with(control::node(NAME), OFlags::RDWR)?;
            let ours = Mapping::shared(&device, SIZE)?;
            let toucher = Child::run(|| {
                assert!(ours.read(0, SIZE) == bytes);
                let mut read = vec![0; PAGE];
                assert_eq!(pread(&device, &mut read, 0).expect("the first page"), PAGE);
                Vec::new()
            })?;
            let outcome = toucher.wait(Some(slowness() * Duration::from_secs(10)))?;
            assert_eq!(outcome, Outcome::Returned(Vec::new()));
            Ok(())
        },
    ),
    Test::with(
        "who_watches_the_file_is_told_of_nothing_that_is_mapped",
        NONE,
        || {
            // Half of it is no blocks yet, which may be written another way.
            let (file, bytes) = Scene::file(NAME, SIZE)?;
            file.set_len(2 * SIZE as u64)?;
            Control::open()?.create(control::file(NAME, &file, 0, 0)?)?;
            let device = Device::open_with(control::node(NAME), OFlags::RDWR)?;
            let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let what = WatchFlags::ACCESS | WatchFlags::MODIFY | WatchFlags::ATTRIB;
            inotify::add_watch(&watch, path(NAME), what)?;
            let mut event = [MaybeUninit::uninit(); 512];
            let mut told = || inotify::Reader::new(&watch, &mut event).next().map(drop);

            let mapping = Mapping::shared(&device, 2 * SIZE)?;
            assert!(mapping.read(0, SIZE) == bytes);
            for page in (0..2 * SIZE).step_by(PAGE) {
                mapping.store(page, 7);
            }
            fsync(&device)?;
            assert_eq!(
                told(),
                Err(Errno::AGAIN),
                "of what was mapped and written back"
            );
            let mut read = [0; PAGE];
            file.read_exact_at(&mut read, SIZE as u64)?;
            assert_eq!(read[0], 7);
            assert_eq!(told(), Ok(()), "it is watched");
            Ok(())
        },
    ),
    Test::with("fdinfo_says_how_the_file_is_used", NONE, || {
        let scene = Scene::new(SIZE)?;
        let device = scene.open()?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&device.as_fd());
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
        for line in [
            "mmapdev-file-offset:\t0\n",
            "mmapdev-file-access:\tread-write\n",
            "mmapdev-file-io:\tdirect\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        Ok(())
    }),
    Test::with(
        "a_disk_that_knows_no_requests_that_must_not_wait_is_read",
        NONE,
        || {
            let disk = CompressedDisk::new()?;
            for size in [PAGE, 16 * PAGE] {
                let bytes = Random::new(size as u64).bytes(size);
                let file = disk.file("file")?;
                file.write_all_at(&bytes, 0)?;
                file.sync_all()?;
                let control = Control::open()?;
                control.create(control::file(NAME, &file, 0, 0)?)?;
                let device = Device::open_with(control::node(NAME), OFlags::RDWR)?;
                let mapping = Mapping::shared(&device, size)?;
                // Page by page, which a file system asks its disk for in another way than for many.
                mapping.advise(0, size, Advice::Random)?;
                assert!(mapping.read(0, size) == bytes);
                control.destroy(NAME)?;
            }
            Ok(())
        },
    ),
    Test::with("what_is_no_file_is_refused", NONE, refused),
    Test::with(
        "a_touch_that_waits_for_its_page_can_be_killed",
        NONE,
        || {
            let scene = Scene::new(SIZE)?;
            let file = OpenOptions::new().write(true).open(path(NAME))?;
            let outcome = while_locked(&file, || {
                // A page cannot be read while the file's own lock is held.
                Child::run(|| {
                    let device = scene.open().expect("the device");
                    let mapping = Mapping::shared(&device, SIZE).expect("a mapping");
                    vec![mapping.load(MIB)]
                })?
                .wait(Some(Duration::from_secs(3)))
            })?;
            assert_eq!(outcome, Outcome::TimedOut, "it waits, and is killed");
            // Nothing is stuck.
            let device = scene.open()?;
            let mapping = Mapping::shared(&device, SIZE)?;
            assert!(mapping.read(2 * MIB, MIB) == scene.bytes[2 * MIB..3 * MIB]);
            Ok(())
        },
    ),
    Test::with(
        "who_writes_to_the_file_from_a_mapping_can_be_killed_while_its_end_moves",
        NONE,
        || killed_while_the_end_moves(false),
    ),
    Test::with(
        "a_touch_that_waits_keeps_nobody_from_seeing_the_end_that_moves",
        NONE,
        || killed_while_the_end_moves(true),
    ),
    Test::with(
        "who_keeps_others_from_writing_keeps_nobody_from_opening_and_listing",
        NONE,
        || {
            let scene = Scene::new(SIZE)?;
            let device = scene.open()?;
            let file = OpenOptions::new().write(true).open(path(NAME))?;
            while_locked(&device, || {
                // There is something to be followed.
                file.set_len(MIB as u64)?;
                let listed = Child::run(|| {
                    let device = scene.open().expect("the device");
                    let info = device.info().expect("what it is");
                    let listed = scene.control.list().expect("all devices");
                    assert_eq!(listed.len(), 1);
                    info.device_size.to_ne_bytes().to_vec()
                })?;
                let size = (MIB as u64).to_ne_bytes().to_vec();
                let outcome = listed.wait(Some(slowness() * Duration::from_secs(10)))?;
                assert_eq!(outcome, Outcome::Returned(size));
                Ok(())
            })
        },
    ),
    Test::with(
        "who_reads_while_others_keep_the_end_from_being_followed_can_be_killed",
        NONE,
        || {
            let scene = Scene::new(SIZE)?;
            let device = scene.open()?;
            let file = OpenOptions::new().write(true).open(path(NAME))?;
            let (_reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            let calls: [&dyn Fn() -> bool; 3] = [
                &|| pread(&device, &mut [0; 8], 0).is_ok(),
                &|| rustix::fs::seek(&device, SeekFrom::End(0)).is_ok(),
                &|| {
                    let flags = SpliceFlags::empty();
                    splice(&device, Some(&mut 0), &writer, None, 8, flags).is_ok()
                },
            ];
            while_locked(&device, || {
                file.set_len(2 * SIZE as u64)?;
                for call in calls {
                    assert_eq!(child::kill_in(call)?, Outcome::TimedOut);
                }
                Ok(())
            })?;
            assert_eq!(
                rustix::fs::seek(&device, SeekFrom::End(0))?,
                2 * SIZE as u64
            );
            Ok(())
        },
    ),
    Test::with("what_may_not_wait_does_not_wait_for_a_file", NONE, || {
        let scene = Scene::new(SIZE)?;
        let device = scene.open()?;
        let read = |at: usize| {
            let mut bytes = [0; 100];
            let mut slices = [IoSliceMut::new(&mut bytes)];
            let got = preadv2(&device, &mut slices, at as u64, ReadWriteFlags::NOWAIT);
            got.map(|count| bytes[..count].to_vec())
        };
        let file = OpenOptions::new().write(true).open(path(NAME))?;
        let outcome = while_locked(&file, || Ok(read(MIB)))?;
        assert_eq!(outcome, Err(Errno::AGAIN), "what is not in memory");
        Mapping::shared(&device, SIZE)?.touch_read(MIB, PAGE);
        assert_eq!(read(MIB), Ok(scene.bytes[MIB..MIB + 100].to_vec()));
        let outcome = while_locked(&device, || {
            file.set_len((MIB + 10) as u64)?;
            Ok(read(MIB))
        })?;
        assert_eq!(outcome, Err(Errno::AGAIN), "what has to be followed first");
        assert_eq!(device.size()?, MIB + 10);
        assert_eq!(read(MIB), Ok(scene.bytes[MIB..MIB + 10].to_vec()));
        Ok(())
    }),
    Test::with(
        "folios_that_come_in_are_counted_and_large_where_one_reads_on",
        NONE,
        || {
            let counted = |device: &Device| -> io::Result<abi::Counters> {
                let counters = device.counters()?;
                assert_eq!(counters.bytes_added, SIZE as u64);
                let folios = counters.small_folios + counters.large_folios + counters.huge_folios;
                assert_eq!(counters.folios_added, folios);
                Ok(counters)
            };
            let scene = Scene::new(SIZE)?;
            let device = scene.open()?;
            let mut bytes = vec![0; 64 * KIB];
            for at in (0..SIZE).step_by(bytes.len()) {
                assert_eq!(pread(&device, &mut bytes, at as u64)?, bytes.len());
            }
            let folios = counted(&device)?;
            assert!(folios.large_folios > 0, "{folios:?}");
            assert!(folios.folios_added < (SIZE / PAGE / 4) as u64, "{folios:?}");
            scene.control.destroy(NAME)?;
            // Where it is advised, huge.
            let scene = Scene::new(SIZE)?;
            let device = scene.open()?;
            let mapping = Mapping::shared(&device, SIZE)?;
            mapping.advise(0, SIZE, Advice::LinuxHugepage)?;
            mapping.touch_read(0, SIZE);
            let folios = counted(&device)?;
            assert_eq!(folios.huge_folios, (SIZE / (2 * MIB)) as u64, "{folios:?}");
            Ok(())
        },
    ),
    Test::with(
        "bad_memory_in_a_huge_page_that_is_held_is_an_error_and_its_neighbours_are_not",
        NONE,
        || {
            let scene = Scene::new(HUGE_PAGE)?;
            let device = scene.open()?;
            let mapping = Mapping::shared(&device, HUGE_PAGE)?;
            mapping.advise(0, HUGE_PAGE, Advice::LinuxHugepage)?;
            mapping.touch_read(0, HUGE_PAGE);
            drop(mapping);
            bad_memory_in_what_is_held(&device, &scene.bytes, |bad| {
                let file = OpenOptions::new().write(true).open(path(NAME))?;
                file.set_len(bad.start as u64)?;
                assert_eq!(device.size()?, bad.start);
                Ok(())
            })
        },
    ),
    Test::with("a_file_without_direct_io_is_as_good", NONE, || {
        // tmpfs has none of its own.
        let name = "/tmp/mmapdev-cached";
        let bytes = Random::new(5).bytes(MIB + 100);
        fs::write(name, &bytes)?;
        let file = OpenOptions::new().read(true).write(true).open(name)?;
        let control = Control::open()?;
        control.create(control::file(NAME, &file, 0, 0)?)?;
        let device = Device::open_with(control::node(NAME), OFlags::RDWR)?;
        let mapping = Mapping::shared(&device, MIB + PAGE)?;
        assert!(mapping.read(0, MIB + 100) == bytes);
        mapping.write(MIB - 3, b"stored");
        // Whoever is killed while it is written has it written all the same.
        for _ in 0..20 {
            mapping.touch_write(0, MIB - PAGE, 9);
            let syncing = Child::run(|| {
                fsync(&device).expect("no error");
                Vec::new()
            })?;
            let _ = syncing.wait(Some(Duration::from_millis(1)))?;
            fsync(&device)?;
            let stored = fs::read(name)?;
            assert!((0..MIB - PAGE).step_by(PAGE).all(|at| stored[at] == 9));
            mapping.touch_write(0, MIB - PAGE, 1);
            fsync(&device)?;
        }
        assert_eq!(fs::read(name)?[MIB - 3..MIB + 3], *b"stored");
        fs::remove_file(name)
    }),
];

/// A page goes bad in memory. The file has it, but for what was stored since it was written: that is lost, as after an
/// error of the disk, and a mapping that had it is `SIGBUS` there.
fn bad_memory(is_dirty: bool) -> io::Result<()> {
    const BAD: usize = 37 * PAGE;
    let scene = Scene::new(SIZE)?;
    let (device, other) = (scene.open()?, scene.open()?);
    let mapping = Mapping::shared(&device, SIZE)?;
    assert!(mapping.read(0, SIZE) == scene.bytes);
    let stored = !scene.bytes[BAD];
    if is_dirty {
        mapping.store(BAD, stored);
    }
    // In a process of its own: whoever has the page mapped is told by a signal that it is lost, and comes to it once more.
    let poisoner = Child::run(|| {
        let mapping = Mapping::shared(&device, SIZE).expect("a mapping");
        mapping.touch_read(BAD, PAGE);
        match mapping.advise(BAD, PAGE, Advice::LinuxHwPoison) {
            Ok(()) => vec![mapping.load(BAD)],
            Err(error) => error.to_string().into_bytes(),
        }
    })?;
    let told = if is_dirty {
        Outcome::Killed(libc::SIGBUS)
    } else {
        Outcome::Returned(vec![scene.bytes[BAD]])
    };
    assert_eq!(poisoner.wait(None)?, told);

    // Who had it mapped comes to nothing in its place unawares.
    let loaded = mapping.try_load_word(BAD);
    assert_eq!(loaded.is_err(), is_dirty, "in a mapping that had it");
    let lost = if is_dirty { Err(Errno::IO) } else { Ok(()) };
    for (what, device) in [("one", &device), ("the other", &other)] {
        assert_eq!(fsync(device), lost, "{what}");
        assert_eq!(fsync(device), Ok(()), "{what}, once more");
    }
    let mut bytes = vec![0; SIZE];
    assert_eq!(pread(&device, &mut bytes, 0)?, SIZE);
    assert!(bytes == scene.bytes, "by pread()");
    let fresh = Mapping::shared(&device, SIZE)?;
    assert!(fresh.read(0, SIZE) == scene.bytes, "in another mapping");
    assert!(scene.on_disk(0, SIZE)? == scene.bytes, "in the file");
    // The page that has come in its place is as good as any.
    fresh.store(BAD, stored);
    fsync(&device)?;
    assert_eq!(scene.on_disk(BAD, 1)?, [stored]);
    Ok(())
}

/// A program that holds the file's lock touches what has to be read with that lock, while pages are to be taken out
/// of which one is being written, with that lock; or just before. Nothing of it ends but by a kill, and all of it by
/// that.
fn killed_while_the_end_moves(touches_before: bool) -> io::Result<()> {
    // There is no telling when somebody has come to where they wait; if they have not, this asks for less.
    let some_time = slowness() * Duration::from_millis(200);
    const END: usize = MIB - 50;
    let scene = Scene::new(SIZE)?;
    let device = scene.open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    mapping.advise(0, SIZE, Advice::Random)?;
    mapping.write(END - 6, b"stored over the end");
    let address = mapping.address(MIB);
    mapping.load(MIB);
    let file = OpenOptions::new().read(true).write(true).open(path(NAME))?;
    let (has_lock, lock_taken) = rustix::pipe::pipe()?;
    let (may_touch, go_on) = rustix::pipe::pipe()?;
    thread::scope(|scope| {
        let (mut child, mut syncing) = (None, None);
        // The end is not followed meanwhile.
        while_locked(&device, || {
            file.set_len(END as u64)?;
            child = Some(Child::run(|| {
                let withheld = Withheld::new(1).expect("memory");
                let written = thread::scope(|scope| {
                    let writer = scope.spawn(|| {
                        let parts = [(withheld.mapping(), 0..1), (&mapping, MIB / 2..MIB / 2 + 1)];
                        mapping::pwritev_to(&file, 0, &parts)
                    });
                    withheld.wait_for_touch().expect("a touch");
                    write(&lock_taken, &[1]).expect("a pipe");
                    read(&may_touch, &mut [0]).expect("a pipe");
                    withheld.give().expect("no error");
                    writer.join().expect("no panic")
                });
                format!("{written:?}").into_bytes()
            })?);
            read(&has_lock, &mut [0])?;
            let device = &device;
            syncing = Some(scope.spawn(move || fsync(device)));
            while memory::vmstat("nr_writeback")? == 0 {
                thread::yield_now();
            }
            if touches_before {
                write(&go_on, &[1])?;
                thread::sleep(some_time);
            }
            Ok(())
        })?;
        // Now it is.
        if !touches_before {
            thread::sleep(some_time);
            write(&go_on, &[1])?;
        }
        // Nobody sees what was cut off meanwhile, and others go on.
        let deadline = Instant::now() + slowness() * Duration::from_secs(10);
        while child::touch(address, false)? != Touch::BusError(address) {
            assert!(Instant::now() < deadline, "stale bytes beyond the end");
        }
        for _ in 0..100 {
            assert_eq!(device.size()?, END);
            assert_eq!(pread(&device, &mut [0; 10], 0)?, 10);
        }
        assert!(
            Instant::now() < deadline,
            "who has nothing to do with it waits"
        );
        let outcome = child.expect("a child").wait(Some(Duration::from_secs(3)))?;
        assert_eq!(outcome, Outcome::TimedOut, "it waits, and is killed");
        syncing.expect("a thread").join().expect("no panic")?;
        assert_eq!(device.size()?, END);
        assert_eq!(scene.on_disk(END - 6, 6)?, *b"stored");
        let last = mapping.read(END - 6, 56);
        assert!(last.starts_with(b"stored") && last[6..].iter().all(|byte| *byte == 0));
        Ok(())
    })
}

const NAME: &str = "file";
/// Where the rig mounts its disk.
const FOLDER: &str = "/mnt/disk";

fn path(name: &str) -> PathBuf {
    PathBuf::from(format!("{FOLDER}/mmapdev-{name}"))
}

/// A file on the disk, and a device of it.
struct Scene {
    control: Control,
    bytes: Vec<u8>,
}

impl Scene {
    /// Makes a file of random bytes of which none are in memory.
    fn file(name: &str, size: usize) -> io::Result<(File, Vec<u8>)> {
        let bytes = Random::new(size as u64).bytes(size);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path(name))?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        fs::write("/proc/sys/vm/drop_caches", "1")?;
        Ok((file, bytes))
    }

    fn new(size: usize) -> io::Result<Self> {
        let (file, bytes) = Self::file(NAME, size)?;
        let control = Control::open()?;
        control.create(control::file(NAME, &file, 0, 0)?)?;
        Ok(Self { control, bytes })
    }

    fn open(&self) -> io::Result<Device> {
        Device::open_with(control::node(NAME), OFlags::RDWR)
    }

    /// What the file has, as another program reads it.
    fn on_disk(&self, place: usize, len: usize) -> io::Result<Vec<u8>> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(path(NAME))?;
        let first = place / PAGE * PAGE;
        let pages = (place + len - first).div_ceil(PAGE) * PAGE;
        let buffer = Mapping::anonymous(pages)?;
        buffer.pread_from(&file, first as u64, 0, pages)?;
        Ok(buffer.read(place - first, len))
    }
}

/// What the disk was asked for during something.
fn traffic_during(body: impl FnOnce()) -> io::Result<Traffic> {
    let (traffic, ()) = Disk::of(FOLDER)?.during(|| {
        body();
        Ok(())
    })?;
    Ok(traffic)
}

/// A block device whose bytes are those of a file in memory, on a file system of its own, and a device of ours of that.
pub(crate) struct LoopDisk {
    control: Control,
    file: File,
    block: File,
    bytes: Vec<u8>,
}

impl LoopDisk {
    const FOLDER: &'static str = "/run/mmapdev-loop";

    pub(crate) fn new(size: usize) -> io::Result<Self> {
        fs::create_dir(Self::FOLDER)?;
        // One page more than the bytes, for what a tmpfs needs itself.
        let room = size.next_multiple_of(PAGE) + PAGE;
        let options = format!("size={}k", room / KIB);
        run(
            "mount",
            &["-t", "tmpfs", "-o", &options, "tmpfs", Self::FOLDER],
        )?;
        let bytes = Random::new(size as u64).bytes(size);
        let path = format!("{}/disk", Self::FOLDER);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        file.write_all_at(&bytes, 0)?;
        run("losetup", &["/dev/loop0", &path])?;
        let block = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop0")?;
        let control = Control::open()?;
        control.create(control::file("disk", &block, 0, 0)?)?;
        Ok(Self {
            control,
            file,
            block,
            bytes,
        })
    }

    pub(crate) fn device(&self) -> io::Result<Device> {
        Device::open_with(control::node("disk"), OFlags::RDWR)
    }

    /// What was on the disk at first.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Checks that each page of the disk begins with this byte.
    pub(crate) fn has_in_each_page(&self, value: u8) -> io::Result<()> {
        let mut bytes = vec![0; self.bytes.len()];
        self.file.read_exact_at(&mut bytes, 0)?;
        assert!(bytes.iter().step_by(PAGE).all(|&byte| byte == value));
        Ok(())
    }

    /// Leaves the file system without room, and the file without its bytes.
    pub(crate) fn fill_up(&self) -> io::Result<()> {
        let size = self.bytes.len() as u64;
        self.file.set_len(0)?;
        self.file.set_len(size)?;
        let other = File::create(format!("{}/other", Self::FOLDER))?;
        let filling = vec![1; PAGE];
        let mut at = 0;
        while other.write_all_at(&filling, at).is_ok() {
            at += PAGE as u64;
        }
        Ok(())
    }

    fn make_room(&self) -> io::Result<()> {
        fs::remove_file(format!("{}/other", Self::FOLDER))
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = self.control.destroy("disk");
        let _ = run("losetup", &["-d", "/dev/loop0"]);
        let _ = run("umount", &["-l", Self::FOLDER]);
        let _ = fs::remove_dir(Self::FOLDER);
    }
}

/// A file system on a disk that compresses what it has (zram): of the kind to which a request that must not wait is none that it
/// knows (`BLK_FEAT_NOWAIT`), as to most of the device mapper's and md's.
struct CompressedDisk;

impl CompressedDisk {
    const FOLDER: &'static str = "/run/mmapdev-zram";

    fn new() -> io::Result<Self> {
        for name in ["lz4hc_compress", "zram"] {
            module::insert(&PathBuf::from(format!("/lib/{name}.ko")), "")?;
        }
        let this = Self;
        fs::write("/sys/block/zram0/disksize", "16M")?;
        run("mke2fs", &["-b", "4096", "-F", "/dev/zram0"])?;
        fs::create_dir(Self::FOLDER)?;
        run("mount", &["-t", "ext4", "/dev/zram0", Self::FOLDER])?;
        Ok(this)
    }

    /// Makes a file that has no bytes.
    fn file(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(format!("{}/{name}", Self::FOLDER))
    }
}

impl Drop for CompressedDisk {
    fn drop(&mut self) {
        // The last reference to a file of it may be given back by a worker.
        let deadline = Instant::now() + slowness() * Duration::from_secs(10);
        let try_to = |program, argument| {
            while run(program, &[argument]).is_err() && Instant::now() < deadline {
                thread::yield_now();
            }
        };
        try_to("umount", Self::FOLDER);
        let _ = fs::remove_dir(Self::FOLDER);
        for name in ["zram", "lz4hc_compress"] {
            try_to("rmmod", name);
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> io::Result<()> {
    let output = std::process::Command::new(program)
        .args(arguments)
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{program}: {complaint}")))
}

/// What the kernel has swapped and what it has moved between disks and memory, from one moment to another.
#[derive(Debug)]
struct Moved {
    /// Pages of the swap space, which are among the bytes as well.
    swapped_in: u64,
    swapped_out: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl Moved {
    fn during(body: impl FnOnce() -> io::Result<()>) -> io::Result<Self> {
        const COUNTERS: [&str; 4] = ["pswpin", "pswpout", "pgpgin", "pgpgout"];
        let now = || -> io::Result<Vec<u64>> {
            COUNTERS.iter().map(|name| memory::vmstat(name)).collect()
        };
        let before = now()?;
        body()?;
        let after = now()?;
        let moved: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
        Ok(Self {
            swapped_in: moved[0],
            swapped_out: moved[1],
            // The kernel counts these in KiB, and not in the pages that their names promise.
            bytes_in: moved[2] * KIB as u64,
            bytes_out: moved[3] * KIB as u64,
        })
    }
}

/// A file that is swapped to, until this is dropped.
struct SwapSpace;

impl SwapSpace {
    const SIZE: usize = 4 * SIZE;

    fn new() -> io::Result<Self> {
        let file = File::create(path("swap"))?;
        // It has to be on the disk, all of it.
        file.write_all_at(&vec![0; Self::SIZE], 0)?;
        file.sync_all()?;
        let name = path("swap").display().to_string();
        run("mkswap", &[&name])?;
        run("swapon", &[&name])?;
        Ok(Self)
    }
}

impl Drop for SwapSpace {
    fn drop(&mut self) {
        let name = path("swap").display().to_string();
        let _ = run("swapoff", &[&name]);
        let _ = fs::remove_file(path("swap"));
    }
}

/// Has the kernel take memory back from `cgroup` until this is so.
fn reclaim_until(
    what: &str,
    cgroup: &Cgroup,
    is_done: impl Fn() -> io::Result<bool>,
) -> io::Result<()> {
    let deadline = Instant::now() + crate::slowness() * Duration::from_secs(20);
    while !is_done()? {
        assert!(Instant::now() < deadline, "the memory stays: {what}");
        match cgroup.reclaim(SIZE as u64) {
            // It found less than that: what is used just now gets another turn, and so does what is being written.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::AGAIN) => {}
            other => other?,
        }
    }
    Ok(())
}

/// The same memory pressure on anonymous memory and on the memory of a device, and touches after it: where the pages
/// go and where they come from.
fn swap() -> io::Result<()> {
    const BYTES: u64 = SIZE as u64;
    const PAGES: u64 = BYTES / PAGE as u64;
    // What else there is meanwhile: the file system's notes, the program's own stack and heap.
    const LITTLE: u64 = BYTES / 8;
    const FEW: u64 = PAGES / 8;
    let scene = Scene::new(SIZE)?;
    let _swap = SwapSpace::new()?;
    let cgroup = Cgroup::new("mmapdev-swap")?;
    let child = Child::run(|| {
        let body = || -> io::Result<()> {
            cgroup.enter()?;
            let anonymous = Mapping::anonymous(SIZE)?;
            anonymous.advise(0, SIZE, rustix::mm::Advice::LinuxNoHugepage)?;
            fill(&anonymous);
            let in_memory = |mapping: &Mapping| -> io::Result<usize> {
                let pages = mapping.in_memory(0, SIZE)?;
                Ok(pages.iter().filter(|&&is_there| is_there).count())
            };
            // Nothing but the swap space can keep it, so that taking it away is writing it there. One page or another may
            // stay, which a CPU has in a list of its own.
            let is_gone = || Ok((in_memory(&anonymous)? as u64) < FEW);
            let out = Moved::during(|| reclaim_until("anonymous", &cgroup, is_gone))?;
            assert!(out.swapped_out >= PAGES - FEW, "anonymous, out: {out:?}");
            assert!(out.bytes_out >= BYTES - LITTLE, "anonymous, out: {out:?}");
            let back = Moved::during(|| {
                assert!(is_filled(&anonymous), "anonymous");
                Ok(())
            })?;
            // One or another may not have left memory yet when it is wanted again.
            assert!(
                back.swapped_in >= PAGES - 2 * FEW,
                "anonymous, in: {back:?}"
            );
            drop(anonymous);

            let device = scene.open()?;
            let mapping = Mapping::shared(&device, SIZE)?;
            let gone = || Ok(device.info()?.resident_bytes == 0);
            let is_read_again = |is_right: &dyn Fn() -> bool, what: &str| -> io::Result<()> {
                let back = Moved::during(|| {
                    assert!(is_right(), "{what}");
                    Ok(())
                })?;
                let is_from_file = back.swapped_in < FEW && back.bytes_in >= BYTES;
                assert!(is_from_file, "{what}, in: {back:?}");
                Ok(())
            };
            let pieces = || scene.bytes.chunks(PAGE).enumerate();
            let is_file = || pieces().all(|(page, piece)| mapping.read(page * PAGE, PAGE) == piece);
            is_read_again(&is_file, "first")?;
            // The file has what is clean, so that nothing is written.
            let out = Moved::during(|| reclaim_until("clean", &cgroup, gone))?;
            let is_just_dropped = out.swapped_out < FEW && out.bytes_out < LITTLE;
            assert!(is_just_dropped, "clean, out: {out:?}");
            is_read_again(&is_file, "clean")?;
            // What is dirty is written first, to the file and by nobody's request.
            fill(&mapping);
            let out = Moved::during(|| reclaim_until("dirty", &cgroup, gone))?;
            let is_to_file = out.swapped_out < FEW && out.bytes_out >= BYTES;
            assert!(is_to_file, "dirty, out: {out:?}");
            is_read_again(&|| is_filled(&mapping), "dirty")
        };
        match body() {
            Ok(()) => Vec::new(),
            Err(error) => error.to_string().into_bytes(),
        }
    })?;
    let error = String::from_utf8_lossy(&child.join()).into_owned();
    assert!(error.is_empty(), "{error}");
    let mut words = words();
    let on_disk = scene.on_disk(0, SIZE)?;
    let mut seen = on_disk.chunks_exact(8);
    assert!(seen.all(|word| word == words.next_u64().to_ne_bytes()));
    Ok(())
}

/// Random ones, as a page of one and the same needs no place in the swap space.
fn words() -> Random {
    Random::new(3)
}

/// Fills a mapping, with no memory beside it, which would be anonymous.
fn fill(mapping: &Mapping) {
    let mut words = words();
    for at in (0..SIZE).step_by(8) {
        mapping.word(at).store(words.next_u64(), Ordering::Relaxed);
    }
}

fn is_filled(mapping: &Mapping) -> bool {
    let mut words = words();
    let mut places = (0..SIZE).step_by(8);
    places.all(|at| mapping.word(at).load(Ordering::Relaxed) == words.next_u64())
}

/// Pages are stored that a frozen file system keeps from its disk, more than the kernel has workers for at a time.
fn frozen_beside_another() -> io::Result<()> {
    const REQUESTS: usize = 1100;
    let scene = Scene::new(2 * REQUESTS * PAGE)?;
    let device = scene.open()?;
    let mapping = Mapping::shared(&device, 2 * REQUESTS * PAGE)?;
    // Single pages, none of which follows another.
    mapping.advise(0, 2 * REQUESTS * PAGE, Advice::Random)?;
    for page in (0..2 * REQUESTS).step_by(2) {
        mapping.store(page * PAGE, 1);
    }
    let file = memfd_create("other", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, PAGE as u64)?;
    scene.control.create(control::file("other", &file, 0, 0)?)?;
    let other = Device::open_with(control::node("other"), OFlags::RDWR)?;
    run("fsfreeze", &["--freeze", FOLDER])?;
    let deadline = || Instant::now() + slowness() * Duration::from_secs(20);
    thread::scope(|scope| -> io::Result<()> {
        let stuck = scope.spawn(|| fsync(&device));
        let all_wait = wait_until(deadline(), || {
            Ok(memory::vmstat("nr_writeback")? >= REQUESTS as u64)
        });
        let synced = pwrite(&other, b"written", 0).map(|_| scope.spawn(|| fsync(&other)));
        let is_done = match &synced {
            Ok(synced) => wait_until(deadline(), || Ok(synced.is_finished())),
            Err(_) => Ok(false),
        };
        run("fsfreeze", &["--unfreeze", FOLDER])?;
        synced?.join().expect("no panic")?;
        stuck.join().expect("no panic")?;
        assert!(all_wait?, "not all of it waits");
        assert!(is_done?, "the other waits as well");
        Ok(())
    })?;
    assert_eq!(scene.on_disk(0, 1)?, [1]);
    drop(other);
    scene.control.destroy("other")
}

/// Asks again and again whether something is so, and returns whether it was before the deadline.
fn wait_until(deadline: Instant, mut is_so: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    while Instant::now() < deadline {
        if is_so()? {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(false)
}

/// The module goes with its devices, and what they have of files in memory.
fn unloaded_with_devices() -> io::Result<()> {
    const OTHER: &str = "/tmp/mmapdev-unloaded";
    let files = || -> io::Result<[File; 2]> {
        let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
        Ok([open(&path(NAME))?, open(Path::new(OTHER))?])
    };
    let devices = || -> io::Result<[Device; 2]> {
        let control = Control::open()?;
        let [stored, other] = files()?;
        control.create(control::file("stored", &stored, 0, 0)?)?;
        control.create(control::file("other", &other, 0, 0)?)?;
        let open = |name| Device::open_with(control::node(name), OFlags::RDWR);
        Ok([open("stored")?, open("other")?])
    };
    let bytes = Scene::file(NAME, MIB)?.1;
    fs::write(OTHER, &bytes)?;
    for turn in 0..2 {
        let module = Loaded::with(NONE)?;
        for device in devices()? {
            let mapping = Mapping::shared(device, MIB)?;
            mapping.load(5 * PAGE);
            mapping.store(7 * PAGE + turn, 0xA0 + turn as u8);
        }
        module.unload()?;
        assert!(!control::node("stored").exists() && !control::node("other").exists());
        for file in files()? {
            let mut seen = vec![0; MIB];
            file.read_exact_at(&mut seen, 0)?;
            let mut expected = bytes.clone();
            for turn in 0..=turn {
                expected[7 * PAGE + turn] = 0xA0 + turn as u8;
            }
            assert!(seen == expected, "in turn {turn}");
        }
    }
    fs::remove_file(OTHER)
}

/// Who goes through all file systems, as `sync()` does, has a hold on the one before for as long as the next one takes.
fn unloaded_during_sync() -> io::Result<()> {
    const NESTED: &str = "/run/mmapdev-nested";
    let module = Loaded::with("size_mib=1")?;
    // One that comes after the module's, and whose disk is a file of one that is frozen.
    let disk = path("nested");
    let disk_name = disk.to_str().expect("a name");
    File::create(&disk)?.set_len(8 * MIB as u64)?;
    run("losetup", &["/dev/loop0", disk_name])?;
    run("mke2fs", &["-F", "/dev/loop0"])?;
    fs::create_dir(NESTED)?;
    run("mount", &["-t", "ext4", "/dev/loop0", NESTED])?;
    sync();
    run("fsfreeze", &["--freeze", FOLDER])?;
    let syncing_thread = AtomicI32::new(0);
    let (wrote, unloaded) = thread::scope(|scope| {
        let wrote = fs::write(format!("{NESTED}/file"), vec![1; MIB]);
        let syncing = scope.spawn(|| {
            syncing_thread.store(gettid().as_raw_nonzero().get(), SeqCst);
            sync();
        });
        // It has come there when it stays where it is.
        let mut waits = 0;
        let has_come = wait_until(
            Instant::now() + slowness() * Duration::from_secs(20),
            || {
                let stat = format!("/proc/self/task/{}/stat", syncing_thread.load(SeqCst));
                let is_waiting = fs::read_to_string(stat).is_ok_and(|stat| stat.contains(") D "));
                waits = if is_waiting { waits + 1 } else { 0 };
                Ok(waits == 40 * slowness())
            },
        );
        // If it went before, that would be seen.
        let unloading = scope.spawn(|| module.unload());
        thread::sleep(slowness() * Duration::from_millis(300));
        let has_waited = !unloading.is_finished();
        let thawed = run("fsfreeze", &["--unfreeze", FOLDER]);
        syncing.join().expect("no panic");
        let unloaded = unloading.join().expect("no panic");
        let wrote = wrote.and(thawed).and(has_come);
        (wrote, unloaded.map(|()| has_waited))
    });
    run("umount", &[NESTED])?;
    run("losetup", &["-d", "/dev/loop0"])?;
    fs::remove_dir(NESTED)?;
    fs::remove_file(&disk)?;
    assert!(wrote?, "nobody was at the other file system");
    assert!(unloaded?, "it has not waited");
    assert!(!module::is_loaded());
    Ok(())
}

/// As many references to a page as the kernel takes for a sign that a device may write to it, held by who may only read.
fn pipes_hold_the_last_page() -> io::Result<()> {
    const HELD: usize = 1100;
    let scene = Scene::new(MIB + 100)?;
    let device = scene.open()?;
    let reading = Device::open_with(control::node(NAME), OFlags::RDONLY)?;
    let mapping = Mapping::shared(&device, MIB + PAGE)?;
    mapping.advise(0, MIB + PAGE, Advice::Random)?;
    mapping.load(MIB);
    let (mut pipes, mut held) = (Vec::new(), 0);
    while held < HELD {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let lent = loop {
            let mut place = MIB as u64;
            match splice(
                &reading,
                Some(&mut place),
                &writer,
                None,
                1,
                SpliceFlags::NONBLOCK,
            ) {
                Ok(count) => held += count,
                Err(error) => break error,
            }
        };
        assert_eq!(lent, Errno::AGAIN);
        pipes.push((reader, writer));
    }
    let file = OpenOptions::new().write(true).open(path(NAME))?;
    file.set_len(2 * MIB as u64)?;
    // Which is tried for some seconds, once.
    assert_eq!(device.size()?, MIB + 100);
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(3) {
        let call = Instant::now();
        pwrite(&device, &[1], 0)?;
        longest = longest.max(call.elapsed());
    }
    assert!(
        longest < slowness() * Duration::from_secs(3),
        "a write took {longest:?}"
    );
    drop(pipes);
    let deadline = Instant::now() + slowness() * Duration::from_secs(20);
    assert!(wait_until(deadline, || Ok(device.size()? == 2 * MIB))?);
    Ok(())
}

/// Who waits for a scanner to be let in to a file keeps the device's watch on it from going.
fn scanned() -> io::Result<()> {
    let module = Loaded::with(NONE)?;
    let (file, _) = Scene::file(NAME, MIB)?;
    let control = Control::open()?;
    control.create(control::file(NAME, &file, 0, 0)?)?;
    let gate = Gate::before_mount_of(FOLDER, To::Open)?;
    thread::scope(|scope| {
        // Goes before the threads are waited for, whatever has failed: then they are let in.
        let gate = gate;
        let opening = scope.spawn(|| File::open(path(NAME)));
        let waiting = gate.wait()?;
        control.destroy(NAME)?;
        // Of which the device, which is gone, does not hear.
        for at in 0..100 {
            file.write_all_at(&[1; PAGE], at * PAGE as u64)?;
        }
        drop(control);
        let unloading = scope.spawn(|| module.unload());
        // If it were done before, that would be seen.
        thread::sleep(slowness() * Duration::from_millis(300));
        assert!(module::is_loaded() && !unloading.is_finished());
        waiting.let_in()?;
        opening.join().expect("no panic")?;
        unloading.join().expect("no panic")
    })?;
    assert!(!module::is_loaded());
    Ok(())
}

/// Each kind of file that cannot be one, with its errno; and nothing is made of any.
fn refused() -> io::Result<()> {
    let control = Control::open()?;
    let (file, _) = Scene::file("good", MIB)?;
    let open = |what: &str| File::open(what);
    let try_it = |file: &dyn AsFd, offset: u64, size: u64| -> io::Result<io::Error> {
        let plan = control::file("bad", file.as_fd(), offset, size)?;
        Ok(control.create(plan).expect_err("a device of what is none"))
    };
    let errno_of = |error: io::Error| Errno::from_io_error(&error);
    let (_reader, writer) = rustix::pipe::pipe()?;
    let (socket, _) = std::os::unix::net::UnixStream::pair()?;
    let writing = OpenOptions::new().write(true).open(path("good"))?;
    let appending = OpenOptions::new()
        .read(true)
        .append(true)
        .open(path("good"))?;
    let path_only = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path("good"))?;
    let own = control.create_and_open("own", PAGE as u64)?;
    let empty = File::create_new(path("empty")).and_then(|_| File::open(path("empty")))?;
    fs::remove_file(path("empty"))?;
    let bad: [(&str, &dyn AsFd, u64, u64, Errno); 17] = [
        ("a directory", &open("/")?, 0, 0, Errno::ISDIR),
        ("a pipe", &writer, 0, 0, Errno::INVAL),
        ("a socket", &socket, 0, 0, Errno::INVAL),
        ("a char device", &open("/dev/zero")?, 0, 0, Errno::INVAL),
        ("a device of ours", &own, 0, 0, Errno::INVAL),
        ("the control node", &control, 0, 0, Errno::INVAL),
        ("what is only written", &writing, 0, 0, Errno::BADF),
        ("what is only appended to", &appending, 0, 0, Errno::INVAL),
        ("a path", &path_only, 0, 0, Errno::BADF),
        ("an empty file", &empty, 0, 0, Errno::NXIO),
        (
            "a file of /proc",
            &open("/proc/version")?,
            0,
            0,
            Errno::NXIO,
        ),
        ("an offset within a page", &file, 1, 0, Errno::INVAL),
        ("an offset at the end", &file, MIB as u64, 0, Errno::NXIO),
        ("a size within a page", &file, 0, 1, Errno::INVAL),
        (
            "more than there is",
            &file,
            0,
            (MIB + PAGE) as u64,
            Errno::INVAL,
        ),
        ("an offset that no file has", &file, 1 << 63, 0, Errno::FBIG),
        ("a size that no file has", &file, 0, 1 << 63, Errno::FBIG),
    ];
    for (what, file, offset, size, errno) in bad {
        let error = try_it(file, offset, size)?;
        assert_eq!(errno_of(error), Some(errno), "{what}");
    }
    let good = control::file("bad", &file, 0, 0)?;
    for (what, plan, errno) in [
        (
            "no descriptor",
            abi::Create { file: -1, ..good },
            Errno::BADF,
        ),
        (
            "a closed one",
            abi::Create { file: 9999, ..good },
            Errno::BADF,
        ),
        (
            "flags",
            abi::Create {
                file_flags: 1,
                ..good
            },
            Errno::INVAL,
        ),
        ("small pages", abi::Create { huge: 0, ..good }, Errno::INVAL),
        (
            "a largest folio",
            abi::Create {
                largest_folio: 4096,
                ..good
            },
            Errno::INVAL,
        ),
        (
            "a file for memory",
            abi::Create {
                file: 3,
                ..control::memory("bad", PAGE as u64)?
            },
            Errno::INVAL,
        ),
    ] {
        assert_errno(control.create(plan), errno, what);
    }
    // Nor can there be a device of itself by way of a loop device: that takes regular files and block devices alone.
    assert!(run("losetup", &["/dev/loop1", "/dev/mmapdev-own"]).is_err());
    // Two devices of the same bytes would not know of each other.
    let half = (MIB / 2) as u64;
    control.create(control::file("low", &file, 0, half)?)?;
    for (offset, size) in [
        (0, 0),
        (0, PAGE as u64),
        (half - PAGE as u64, 2 * PAGE as u64),
    ] {
        assert_errno(
            control.create(control::file("bad", &file, offset, size)?),
            Errno::BUSY,
            "bytes of another device",
        );
    }
    control.create(control::file("high", &file, half, 0)?)?;
    assert_errno(
        control.resize("low", half / 2),
        Errno::OPNOTSUPP,
        "a resize",
    );
    assert_errno(
        control.punch("low", 0, half / 2),
        Errno::OPNOTSUPP,
        "a punch",
    );
    let names: Vec<_> = control
        .list()?
        .iter()
        .map(|info| info.name.bytes().to_vec())
        .collect();
    assert_eq!(names, [b"own".to_vec(), b"low".to_vec(), b"high".to_vec()]);
    Ok(())
}
