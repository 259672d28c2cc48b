// SPDX-License-Identifier: GPL-2.0

//! Devices that are resized, punched and destroyed while they are in use.

use crate::{assert_errno, Test};
use mmapdev_userspace::child::{self, Child, Outcome, Touch};
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::module::{self, Loaded};
use mmapdev_userspace::random::Random;
use mmapdev_userspace::withheld::while_locked;
use mmapdev_userspace::{memory, slowness, smaps, HUGE_PAGE, KIB, MIB, PAGE};
use rustix::fs::OFlags;
use rustix::io::{pread, pwrite, Errno};
use rustix::mm::{Advice, MapFlags};
use rustix::thread::{capabilities, set_capabilities, CapabilitySet};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SIZE: usize = 8 * MIB;
const HUGE: &str = "huge=1 size_mib=8";
const SMALL: &str = "huge=0 size_mib=8";
const NONE: &str = "devices=0";
const LIMITED: &str = "devices=0 limit_mib=8";

pub(crate) const TESTS: &[Test] = &[
    Test::with(
        "a_destroyed_device_is_a_bus_error_to_touch",
        HUGE,
        destroyed_touch,
    ),
    Test::with(
        "a_destroyed_device_is_a_bus_error_to_touch_in_small_pages",
        SMALL,
        destroyed_touch,
    ),
    Test::with(
        "a_destroyed_device_answers_each_call_with_enodev",
        HUGE,
        destroyed_calls,
    ),
    Test::with("destroying_gives_the_memory_back_at_once", HUGE, || {
        let device = Device::open()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        mapping.touch_write(0, SIZE, 1);
        let before = memory::vmstat("nr_file_pages")?;
        Control::open()?.destroy("0")?;
        let after = memory::vmstat("nr_file_pages")?;
        assert_eq!(before - after, (SIZE / PAGE) as u64);
        assert_eq!(smaps::of(mapping.address(0))?["Rss"], 0);
        Ok(())
    }),
    Test::with(
        "the_name_is_free_as_soon_as_a_device_is_destroyed",
        HUGE,
        || {
            let control = Control::open()?;
            let old = Device::open()?;
            let id = old.info()?.id;
            pwrite(&old, &[1], 0)?;
            control.destroy("0")?;
            assert!(!Path::new("/dev/mmapdev0").exists());
            let new = control.create_and_open("0", MIB as u64)?;
            let mut byte = [9];
            assert_eq!(pread(&new, &mut byte, 0)?, 1);
            assert_eq!(byte, [0], "nothing of the old one");
            assert_errno(old.size(), Errno::NODEV, "the old one");
            assert_ne!(new.info()?.id, id);
            Ok(())
        },
    ),
    Test::with("destroying_twice_finds_nothing", HUGE, || {
        let control = Control::open()?;
        let device = Device::open()?;
        control.destroy("0")?;
        assert_errno(control.destroy("0"), Errno::NOENT, "by name");
        assert_errno(device.destroy(), Errno::NODEV, "by its node");
        Ok(())
    }),
    Test::with("a_device_can_be_destroyed_by_its_own_node", HUGE, || {
        let (device, other) = (Device::open()?, Device::open()?);
        device.destroy()?;
        assert!(!Path::new("/dev/mmapdev0").exists());
        assert_errno(other.info(), Errno::NODEV, "another file");
        Ok(())
    }),
    Test::with(
        "only_the_administrator_resizes_and_destroys_by_the_own_node",
        HUGE,
        || {
            let device = Device::open()?;
            let mut sets = capabilities(None)?;
            sets.effective.remove(CapabilitySet::SYS_ADMIN);
            set_capabilities(None, sets)?;
            assert_errno(device.destroy(), Errno::PERM, "destroy");
            assert_errno(device.resize(MIB as u64), Errno::PERM, "resize");
            device.punch(0, PAGE as u64)?;
            assert_eq!(device.size()?, SIZE);
            Ok(())
        },
    ),
    Test::with("punching_by_the_own_node_needs_write_access", HUGE, || {
        Device::open()?.write_at(b"kept", 0)?;
        let reader = Device::open_with("/dev/mmapdev0", OFlags::RDONLY)?;
        assert_errno(reader.punch(0, PAGE as u64), Errno::BADF, "a reader");
        assert_eq!(reader.read_at(0, 4)?, b"kept");
        Ok(())
    }),
    Test::without_module(
        "a_module_goes_with_the_last_user_of_a_destroyed_device",
        || {
            let module = Loaded::with(HUGE)?;
            let device = Device::open()?;
            let mapping = Mapping::shared(&device, SIZE)?;
            Control::open()?.destroy("0")?;
            drop(device);
            let error = module::remove().expect_err("a mapping is left");
            assert!(module::is_busy(&error), "{error}");
            drop(mapping);
            module.unload()
        },
    ),
    Test::without_module("an_open_control_node_keeps_the_module", || {
        let module = Loaded::with(NONE)?;
        let control = Control::open()?;
        let error = module::remove().expect_err("the node is open");
        assert!(module::is_busy(&error), "{error}");
        drop(control);
        module.unload()
    }),
    Test::without_module("a_module_with_devices_that_nobody_uses_unloads", || {
        let module = Loaded::with(NONE)?;
        let control = Control::open()?;
        for name in ["a", "b", "7"] {
            control.create(control::memory(name, MIB as u64)?)?;
        }
        drop(control);
        module.unload()?;
        assert!(!Path::new("/dev/mmapdev-a").exists());
        assert!(!Path::new(control::PATH).exists());
        Ok(())
    }),
    Test::with("a_shrunk_device_ends_where_it_was_cut", HUGE, shrink),
    Test::with(
        "a_shrunk_device_ends_where_it_was_cut_in_small_pages",
        SMALL,
        shrink,
    ),
    Test::with("what_a_grown_device_gains_is_zeros", HUGE, grow),
    Test::with(
        "what_a_grown_device_gains_is_zeros_in_small_pages",
        SMALL,
        grow,
    ),
    Test {
        limit: LONG,
        ..Test::with(
            "no_touch_brings_in_what_is_just_being_cut_off",
            HUGE,
            shrink_under_touches,
        )
    },
    Test {
        limit: LONG,
        ..Test::with(
            "no_touch_brings_in_what_is_just_being_cut_off_in_small_pages",
            SMALL,
            shrink_under_touches,
        )
    },
    Test::with(
        "shrinking_drops_private_copies_beyond_the_end",
        HUGE,
        || {
            let device = Device::open()?;
            let private = Mapping::new(&device, SIZE, READ_WRITE, MapFlags::PRIVATE, 0)?;
            private.touch_write(0, SIZE, 5);
            device.resize(4 * MIB as u64)?;
            assert_eq!(private.load(4 * MIB - PAGE), 5);
            let beyond = private.address(4 * MIB);
            assert_eq!(child::touch(beyond, false)?, Touch::BusError(beyond));
            Ok(())
        },
    ),
    Test::with(
        "a_punched_range_reads_as_zeros_and_holds_no_memory",
        HUGE,
        punch,
    ),
    Test::with(
        "a_punched_range_reads_as_zeros_and_holds_no_memory_in_small_pages",
        SMALL,
        punch,
    ),
    Test::with(
        "punching_parts_of_pages_keeps_the_bytes_around",
        HUGE,
        punch_parts,
    ),
    Test::with(
        "punching_parts_of_pages_keeps_the_bytes_around_in_small_pages",
        SMALL,
        punch_parts,
    ),
    Test::with("punching_keeps_private_copies", HUGE, || {
        let device = Device::open()?;
        let private = Mapping::new(&device, SIZE, READ_WRITE, MapFlags::PRIVATE, 0)?;
        let shared = Mapping::shared(&device, SIZE)?;
        shared.store(0, 3);
        private.store(0, 5);
        device.punch(0, SIZE as u64)?;
        assert_eq!((shared.load(0), private.load(0)), (0, 5));
        Ok(())
    }),
    Test::with(
        "a_page_that_is_taken_out_of_use_keeps_its_bytes",
        SMALL,
        || {
            // Written by a call, so that nothing but the device has it.
            let device = Device::open()?;
            device.write_at(b"worth keeping", 5 * PAGE)?;
            let frame = device.frame(5 * PAGE as u64)?.frame;
            let address = format!("{:#x}", frame * PAGE as u64);
            std::fs::write("/sys/devices/system/memory/soft_offline_page", address)?;
            assert_eq!(device.read_at(5 * PAGE, 13)?, b"worth keeping");
            assert_ne!(
                device.frame(5 * PAGE as u64)?.frame,
                frame,
                "in another page"
            );
            Ok(())
        },
    ),
    Test::with("bytes_removed_are_counted", SMALL, || {
        let device = Device::open()?;
        Mapping::shared(&device, SIZE)?.touch_write(0, SIZE, 1);
        device.punch(0, MIB as u64)?;
        device.resize(7 * MIB as u64)?;
        assert_eq!(device.counters()?.bytes_removed, 2 * MIB as u64);
        assert_eq!(device.info()?.resident_bytes, 6 * MIB as u64);
        Ok(())
    }),
    Test {
        limit: LONG,
        ..Test::with(
            "punching_under_fire_shows_old_bytes_or_zeros",
            HUGE,
            punch_under_fire,
        )
    },
    Test {
        limit: LONG,
        ..Test::with(
            "punching_under_fire_shows_old_bytes_or_zeros_in_small_pages",
            SMALL,
            punch_under_fire,
        )
    },
    Test {
        limit: LONG,
        ..Test::with(
            "resizing_under_fire_shows_the_bytes_or_the_end",
            HUGE,
            resize_under_fire,
        )
    },
    Test {
        limit: LONG,
        ..Test::with(
            "resizing_under_fire_shows_the_bytes_or_the_end_in_small_pages",
            SMALL,
            resize_under_fire,
        )
    },
    Test {
        limit: LONG,
        ..Test::with(
            "destroying_under_fire_ends_everything_and_leaks_nothing",
            NONE,
            destroy_under_fire,
        )
    },
    Test::with(
        "destroying_while_it_is_resized_gives_up_all_of_the_size",
        LIMITED,
        destroy_and_resize,
    ),
    Test::with(
        "a_device_that_somebody_keeps_writing_to_is_gone_for_all_others",
        HUGE,
        destroyed_while_written_to,
    ),
    Test::with(
        "a_device_that_somebody_keeps_writing_to_is_gone_for_all_others_in_small_pages",
        SMALL,
        destroyed_while_written_to,
    ),
    Test::with(
        "who_changes_a_device_that_somebody_keeps_writing_to_can_be_killed",
        HUGE,
        changing_is_killed,
    ),
    Test::with(
        "who_had_the_node_of_a_device_that_is_gone_gets_no_other",
        NONE,
        opened_late,
    ),
    Test {
        limit: Some(Duration::from_secs(180)),
        ..Test::without_module("ten_thousand_devices_come_and_go", ten_thousand)
    },
];

const LONG: Option<Duration> = Some(Duration::from_secs(60));

/// Reading and writing at an offset, whole.
trait At {
    fn read_at(&self, offset: usize, len: usize) -> io::Result<Vec<u8>>;
    fn write_at(&self, bytes: &[u8], offset: usize) -> io::Result<()>;
}

impl At for Device {
    fn read_at(&self, offset: usize, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0xEE; len];
        let count = pread(self, &mut bytes, offset as u64)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    fn write_at(&self, bytes: &[u8], offset: usize) -> io::Result<()> {
        assert_eq!(pwrite(self, bytes, offset as u64)?, bytes.len());
        Ok(())
    }
}

fn destroyed_touch() -> io::Result<()> {
    let device = Device::open()?;
    let shared = Mapping::shared(&device, SIZE)?;
    let private = Mapping::new(&device, SIZE, READ_WRITE, MapFlags::PRIVATE, 0)?;
    shared.touch_write(0, SIZE, 1);
    private.store(0, 2);
    Control::open()?.destroy("0")?;
    for mapping in [&shared, &private] {
        for place in [0, PAGE, HUGE_PAGE, SIZE - 1] {
            let address = mapping.address(place);
            for write in [false, true] {
                assert_eq!(child::touch(address, write)?, Touch::BusError(address));
            }
        }
    }
    Ok(())
}

/// Whoever destroys it waits for the writer, and only they.
fn destroyed_while_written_to() -> io::Result<()> {
    let device = Device::open()?;
    let shared = Mapping::shared(&device, SIZE)?;
    let private = Mapping::new(&device, SIZE, READ_WRITE, MapFlags::PRIVATE, 0)?;
    shared.touch_write(0, SIZE, 1);
    private.store(0, 2);
    let control = Control::open()?;
    thread::scope(|scope| {
        let mut destroying = None;
        while_locked(&device, || {
            let destroying = destroying.insert(scope.spawn(|| control.destroy("0")));
            while Path::new("/dev/mmapdev0").exists() || device.read_at(0, 8).is_ok() {
                thread::yield_now();
            }
            // The calls see it first.
            for mapping in [&shared, &private] {
                while smaps::of(mapping.address(0))?["Rss"] != 0 {
                    thread::yield_now();
                }
            }
            for mapping in [&shared, &private] {
                for place in [0, PAGE, HUGE_PAGE, SIZE - 1] {
                    let address = mapping.address(place);
                    assert_eq!(child::touch(address, true)?, Touch::BusError(address));
                }
            }
            assert_errno(device.punch(0, 1).map(drop), Errno::NODEV, "punching");
            assert!(!destroying.is_finished());
            Ok(())
        })?;
        destroying.expect("set").join().expect("no panic")
    })?;
    assert!(control.list()?.is_empty());
    Ok(())
}

fn changing_is_killed() -> io::Result<()> {
    let device = Device::open()?;
    let calls: [&dyn Fn() -> bool; 3] = [
        &|| device.resize(MIB as u64).is_ok(),
        &|| device.punch(0, MIB as u64).is_ok(),
        &|| pwrite(&device, b"words", 0).is_ok(),
    ];
    while_locked(&device, || {
        for call in calls {
            assert_eq!(child::kill_in(call)?, Outcome::TimedOut);
        }
        Ok(())
    })?;
    assert_eq!(device.size()?, SIZE);
    Ok(())
}

/// The number of a node is the next device's as soon as the one is gone, and so is its name.
fn opened_late() -> io::Result<()> {
    let control = Control::open()?;
    let create = || control.create(control::memory("one", MIB as u64)?);
    create()?;
    let number = || std::fs::metadata(control::node("one")).map(|node| node.rdev());
    let before = number()?;
    // As if it were held up between being found to have access and opening it.
    let node = Device::open_with(control::node("one"), OFlags::PATH)?;
    let open = || {
        let path = format!("/proc/self/fd/{}", node.as_fd().as_raw_fd());
        Device::open_with(path, OFlags::RDWR)
    };
    open()?;
    control.destroy("one")?;
    create()?;
    assert_eq!(number()?, before);
    assert_errno(open().map(drop), Errno::NODEV, "opening what is gone");
    Device::open_with(control::node("one"), OFlags::RDWR)?;
    control.destroy("one")
}

fn destroyed_calls() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    Control::open()?.destroy("0")?;
    let mut bytes = [0; 8];
    let gone = |result: io::Result<()>, what| assert_errno(result, Errno::NODEV, what);
    gone(
        pread(&device, &mut bytes, 0).map(drop).map_err(Into::into),
        "read",
    );
    gone(
        pread(&device, &mut bytes, 1 << 40)
            .map(drop)
            .map_err(Into::into),
        "read beyond",
    );
    gone(
        pwrite(&device, &bytes, 0).map(drop).map_err(Into::into),
        "write",
    );
    for (what, empty) in [
        ("read of nothing", pread(&device, &mut bytes[..0], 0)),
        ("write of nothing", pwrite(&device, &[], 0)),
    ] {
        gone(empty.map(drop).map_err(Into::into), what);
    }
    gone(device.size().map(drop), "lseek");
    gone(rustix::fs::fsync(&device).map_err(Into::into), "fsync");
    gone(mapping.sync(), "msync");
    gone(Mapping::shared(&device, SIZE).map(drop), "mmap");
    gone(device.info().map(drop), "info");
    gone(device.counters().map(drop), "counters");
    gone(device.frame(0).map(drop), "frame");
    gone(device.resize(MIB as u64), "resize");
    gone(device.punch(0, 1), "punch");
    gone(device.notify(), "notify");
    gone(device.take_events().map(drop), "events");
    let (reader, writer) = rustix::pipe::pipe()?;
    let none = rustix::pipe::SpliceFlags::empty();
    let spliced = rustix::pipe::splice(&device, Some(&mut 0), &writer, None, 10, none);
    gone(spliced.map(drop).map_err(Into::into), "splice out");
    rustix::io::write(&writer, b"x")?;
    let spliced = rustix::pipe::splice(&reader, None, &device, Some(&mut 0), 1, none);
    gone(spliced.map(drop).map_err(Into::into), "splice in");
    Ok(())
}

fn shrink() -> io::Result<()> {
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    mapping.touch_write(0, SIZE, 7);
    // Within a huge page, at its edge, and within another.
    for size in [5 * MIB + 12 * KIB, 4 * MIB, MIB + PAGE] {
        device.resize(size as u64)?;
        assert_eq!(device.size()?, size);
        assert_eq!(device.info()?.resident_bytes, size as u64);
        assert_eq!(device.read_at(size - PAGE, 2 * PAGE)?.len(), PAGE);
        assert_eq!(mapping.load(size - PAGE), 7);
        let beyond = mapping.address(size);
        for write in [false, true] {
            assert_eq!(child::touch(beyond, write)?, Touch::BusError(beyond));
        }
        assert_errno(
            pwrite(&device, &[1], size as u64).map_err(io::Error::from),
            Errno::NOSPC,
            "write",
        );
    }
    Ok(())
}

/// A touch that has seen the old size must not come after the new one: nobody would ever find its page.
fn shrink_under_touches() -> io::Result<()> {
    const ROUNDS: usize = 100;
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    let done = AtomicBool::new(false);
    let touches: [AtomicU64; 2] = Default::default();
    let touch = |touches: &AtomicU64, seed| {
        let mut random = Random::new(seed);
        let sink =
            rustix::fs::memfd_create("sink", rustix::fs::MemfdFlags::CLOEXEC).expect("a sink");
        while !done.load(Ordering::SeqCst) {
            // By the kernel's own copying, to which what is beyond the end is an error and no signal.
            let at = HUGE_PAGE + random.below(SIZE - HUGE_PAGE);
            let _ = mapping.pwrite_to(&sink, 0, at, 1);
            touches.fetch_add(1, Ordering::SeqCst);
        }
    };
    // Until each touch that is being made is over.
    let settle = || {
        for touches in &touches {
            let end = touches.load(Ordering::SeqCst) + 2;
            while touches.load(Ordering::SeqCst) < end {
                thread::yield_now();
            }
        }
    };
    let held = thread::scope(|scope| {
        scope.spawn(|| touch(&touches[0], 1));
        scope.spawn(|| touch(&touches[1], 2));
        let cut = || -> io::Result<u64> {
            settle();
            // No huge page is divided by this, so that nothing has to stay.
            device.resize(HUGE_PAGE as u64)?;
            settle();
            let held = device.info()?.resident_bytes;
            device.resize(SIZE as u64)?;
            Ok(held)
        };
        let held = (0..ROUNDS).map(|_| cut()).collect::<io::Result<Vec<_>>>();
        done.store(true, Ordering::SeqCst);
        held
    })?;
    assert!(held.iter().all(|&bytes| bytes == 0), "{held:?}");
    let removed = device.counters()?.bytes_removed;
    assert!(removed > 0, "nothing was touched");
    Ok(())
}

fn grow() -> io::Result<()> {
    let device = Device::open()?;
    let control = Control::open()?;
    let mapping = Mapping::shared(&device, 2 * SIZE)?;
    mapping.touch_write(0, SIZE, 7);
    control.resize("0", (3 * MIB + PAGE) as u64)?;
    control.resize("0", 2 * SIZE as u64)?;
    assert_eq!(device.size()?, 2 * SIZE);
    let bytes = device.read_at(0, 2 * SIZE)?;
    for at in (0..2 * SIZE).step_by(PAGE) {
        let expected = if at < 3 * MIB + PAGE { 7 } else { 0 };
        assert_eq!((bytes[at], mapping.load(at)), (expected, expected), "{at}");
    }
    mapping.store(2 * SIZE - 1, 9);
    assert_eq!(device.read_at(2 * SIZE - 1, 10)?, [9]);
    Ok(())
}

fn punch() -> io::Result<()> {
    let device = Device::open()?;
    let control = Control::open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    mapping.touch_write(0, SIZE, 7);
    // Parts of huge pages, and one whole.
    let holes = [(PAGE, 3 * PAGE), (MIB, 2 * MIB), (6 * MIB, 2 * MIB)];
    let mut left = SIZE;
    for (offset, length) in holes {
        control.punch("0", offset as u64, length as u64)?;
        left -= length;
        assert_eq!(device.info()?.resident_bytes, left as u64, "{offset}");
    }
    let in_hole = |at| {
        holes
            .iter()
            .any(|&(start, len)| (start..start + len).contains(&at))
    };
    let bytes = device.read_at(0, SIZE)?;
    for at in (0..SIZE).step_by(PAGE) {
        let expected = if in_hole(at) { 0 } else { 7 };
        assert_eq!(bytes[at], expected, "{at}");
    }
    // Only now does the mapping bring the holes in again.
    assert_eq!(device.info()?.resident_bytes, left as u64);
    for at in (0..SIZE).step_by(PAGE) {
        assert_eq!(mapping.load(at), bytes[at], "{at}");
    }
    // Beyond the end there is nothing to do.
    device.punch(SIZE as u64, PAGE as u64)?;
    device.punch(0, i64::MAX as u64)?;
    assert_eq!(device.info()?.resident_bytes, 0);
    Ok(())
}

fn punch_parts() -> io::Result<()> {
    let device = Device::open()?;
    let mut model: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8 + 1).collect();
    device.write_at(&model, 0)?;
    let mut random = Random::new(11);
    for _ in 0..40 {
        let start = random.below(SIZE);
        let longest = [2 * PAGE, 3 * MIB][random.below(2)];
        let length = 1 + random.below(longest);
        device.punch(start as u64, length as u64)?;
        let end = SIZE.min(start + length);
        model[start..end].fill(0);
        assert!(
            device.read_at(0, SIZE)? == model,
            "{length} bytes at {start}"
        );
    }
    Ok(())
}

/// A page's bytes are all its number, or all zero; whatever is done at once.
fn punch_under_fire() -> io::Result<()> {
    const LEN: usize = 4 * MIB;
    let device = Device::open()?;
    let mapping = Mapping::shared(&device, LEN)?;
    let counts: [AtomicU64; 3] = Default::default();
    let goes_on = under_fire(&counts);
    let number = |at: usize| (at / PAGE % 250) as u64 + 1;
    thread::scope(|scope| {
        scope.spawn(|| {
            // Words, not pages: a store is whole, and a page that is punched between two is half of each.
            let mut random = Random::new(1);
            while goes_on() {
                let at = random.below(LEN / 8) * 8;
                mapping.word(at).store(number(at), Ordering::SeqCst);
                counts[0].fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            let mut random = Random::new(2);
            let mut bytes = vec![0; 64 * KIB];
            while goes_on() {
                let at = random.below(LEN / 8) * 8;
                let word = mapping.word(at).load(Ordering::SeqCst);
                assert!(word == 0 || word == number(at), "{word:#x} at {at:#x}");
                let start = random.below((LEN - bytes.len()) / PAGE) * PAGE;
                let count = pread(&device, &mut bytes, start as u64).expect("read");
                assert_eq!(count, bytes.len());
                for (index, word) in bytes.chunks(8).enumerate() {
                    let word = u64::from_ne_bytes(word.try_into().expect("a word"));
                    let at = start + index * 8;
                    assert!(word == 0 || word == number(at), "{word:#x} at {at:#x}");
                }
                counts[1].fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            let mut random = Random::new(3);
            while goes_on() {
                let start = random.below(LEN);
                let length = 1 + random.below(LEN / 2);
                // Whole words, so that none is half of each.
                let (start, length) = (start / 8 * 8, length.next_multiple_of(8));
                device.punch(start as u64, length as u64).expect("punch");
                counts[2].fetch_add(1, Ordering::Relaxed);
            }
        });
    });
    assert_all_acted(&counts);
    Ok(())
}

/// How often each does what it does under fire, at least.
const ACTS: u64 = 20;

/// Whether who is under fire goes on: for some seconds, and for longer where the machine is so slow that one has done too
/// little by then.
fn under_fire(counts: &[AtomicU64; 3]) -> impl Fn() -> bool + '_ {
    let until = Instant::now() + Duration::from_secs(2);
    let latest = until + slowness() * Duration::from_secs(20);
    let is_done = || {
        counts
            .iter()
            .all(|count| count.load(Ordering::Relaxed) > ACTS)
    };
    move || {
        let now = Instant::now();
        now < until || now < latest && !is_done()
    }
}

fn assert_all_acted(counts: &[AtomicU64; 3]) {
    let counts = counts.each_ref().map(|count| count.load(Ordering::Relaxed));
    assert!(counts.iter().all(|&count| count > ACTS), "{counts:?}");
}

/// A read gives the bytes, zeros where they were cut off since, or ends; never anything else.
fn resize_under_fire() -> io::Result<()> {
    let device = Device::open()?;
    let done = AtomicBool::new(false);
    let counts: [AtomicU64; 3] = Default::default();
    let goes_on = under_fire(&counts);
    // Some in the middle of a huge page.
    let sizes = [SIZE, 2 * MIB, 5 * MIB + PAGE, PAGE, 7 * MIB + 64 * KIB];
    // Touches beyond the end are signals, which only a process of its own survives: it touches what is never
    // cut off, and the kernel's own copying, which gives an error, touches the rest.
    let mapping = Mapping::shared(&device, SIZE)?;
    thread::scope(|scope| {
        scope.spawn(|| {
            for size in sizes.iter().cycle() {
                if !goes_on() {
                    break;
                }
                device.resize(*size as u64).expect("resize");
                counts[0].fetch_add(1, Ordering::Relaxed);
            }
            device.resize(SIZE as u64).expect("resize");
            done.store(true, Ordering::SeqCst);
        });
        scope.spawn(|| {
            let mut random = Random::new(5);
            while !done.load(Ordering::SeqCst) {
                let start = random.below(SIZE / PAGE) * PAGE;
                let bytes = [7; PAGE];
                match pwrite(&device, &bytes, start as u64) {
                    Ok(count) => assert_eq!(count, PAGE),
                    Err(error) => assert_eq!(error, Errno::NOSPC),
                }
                mapping.store(random.below(PAGE), 7);
                counts[1].fetch_add(1, Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            let mut random = Random::new(6);
            let sink =
                rustix::fs::memfd_create("sink", rustix::fs::MemfdFlags::CLOEXEC).expect("a sink");
            let sink = std::fs::File::from(sink);
            while !done.load(Ordering::SeqCst) {
                let start = random.below(SIZE / PAGE) * PAGE;
                let bytes = device.read_at(start, 256 * KIB).expect("read");
                assert!(bytes.iter().all(|&byte| byte == 0 || byte == 7));
                // From the mapping: bytes, or EFAULT where the device has ended.
                let len = PAGE.min(SIZE - start);
                match mapping.pwrite_to(&sink, 0, start, len) {
                    Ok(count) => {
                        let mut bytes = vec![0; count];
                        sink.read_exact_at(&mut bytes, 0).expect("the sink");
                        assert!(bytes.iter().all(|&byte| byte == 0 || byte == 7));
                    }
                    Err(error) => {
                        assert_eq!(error.raw_os_error(), Some(Errno::FAULT.raw_os_error()))
                    }
                }
                counts[2].fetch_add(1, Ordering::Relaxed);
            }
        });
    });
    assert_all_acted(&counts);
    assert_eq!(device.size()?, SIZE);
    Ok(())
}

/// Devices are destroyed while processes touch, read and write them.
fn destroy_under_fire() -> io::Result<()> {
    const ROUNDS: u64 = 60;
    let control = Control::open()?;
    let before = memory::settled_free()?;
    for round in 0..ROUNDS {
        let name = format!("round{round}");
        let device = control.create_and_open(&name, SIZE as u64)?;
        let mapping = Mapping::shared(&device, SIZE)?;
        mapping.word(0).store(0, Ordering::SeqCst);
        let child = Child::run(|| {
            // Until each call says that the device is gone.
            let mut bytes = vec![1; 64 * KIB];
            mapping.word(0).store(1, Ordering::SeqCst);
            for at in (0..SIZE - bytes.len()).step_by(PAGE).cycle() {
                let result = match at / PAGE % 3 {
                    0 => pread(&device, &mut bytes, at as u64),
                    1 => pwrite(&device, &bytes, at as u64),
                    // Faults of the kernel's own copying are errors and no signals.
                    _ => match mapping.pread_from(&device, at as u64, SIZE - 2 * PAGE, PAGE) {
                        Ok(count) => Ok(count),
                        Err(error) => Err(Errno::from_io_error(&error).expect("an errno")),
                    },
                };
                match result {
                    Ok(count) => assert!(count > 0),
                    Err(Errno::NODEV) => break,
                    Err(error) => assert_eq!(error, Errno::FAULT),
                }
            }
            Vec::new()
        })?;
        while mapping.word(0).load(Ordering::SeqCst) == 0 {
            std::hint::spin_loop();
        }
        control.destroy(&name)?;
        child.join();
    }
    assert!(control.list()?.is_empty());
    const ALLOWED: u64 = ROUNDS * SIZE as u64 / 32;
    let lost = memory::lost_since(before, ALLOWED, 8, memory::settled_free)?;
    assert!(lost < ALLOWED, "{lost} bytes are gone");
    Ok(())
}

/// A device that is gone gets no size again, which would be taken from what all devices may have.
fn destroy_and_resize() -> io::Result<()> {
    const ROUNDS: u64 = 200;
    let control = Control::open()?;
    for _ in 0..ROUNDS {
        let device = control.create_and_open("a", MIB as u64)?;
        let resizes = AtomicU64::new(0);
        thread::scope(|scope| -> io::Result<()> {
            scope.spawn(|| {
                for size in (1..=4).cycle() {
                    let resized = device.resize(size * MIB as u64);
                    if resized.is_err() {
                        return assert_errno(resized, Errno::NODEV, "resize");
                    }
                    resizes.fetch_add(1, Ordering::SeqCst);
                }
            });
            while resizes.load(Ordering::SeqCst) == 0 {
                std::hint::spin_loop();
            }
            control.destroy("a")
        })?;
        // It is still open.
        assert_errno(device.info(), Errno::NODEV, "info");
        control.create(control::memory("all", SIZE as u64)?)?;
        control.destroy("all")?;
    }
    Ok(())
}

/// Created and destroyed by some processes at once, opened, written to and touched in between.
fn ten_thousand() -> io::Result<()> {
    const WORKERS: usize = 4;
    // (As long on a kernel that is slow, which finds mistakes in fewer.)
    let each = (2500 / slowness() as usize).max(1);
    let module = Loaded::with(NONE)?;
    let cycle = |worker: usize, count: usize| -> io::Result<()> {
        let control = Control::open()?;
        for number in 0..count {
            // Names that the workers contend for, and names of their own.
            let name = match number % 3 {
                0 => format!("shared{}", number % 2),
                _ => format!("own{worker}.{}", number % 5),
            };
            match control.create(control::memory(&name, MIB as u64)?) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => {
                    assert!(name.starts_with("shared"), "{name}");
                    continue;
                }
                Err(error) => return Err(error),
            }
            // It may be gone by now where others know the name.
            if let Ok(device) = Device::open_with(control::node(&name), OFlags::RDWR) {
                if number % 4 == 0 {
                    let _ = pwrite(&device, &[1], 0);
                }
                if number % 4 == 1 {
                    // By a call that says so where the touch would be SIGBUS.
                    let touched = Mapping::shared(&device, PAGE)
                        .and_then(|mapping| mapping.advise(0, PAGE, Advice::LinuxPopulateWrite));
                    assert!(touched.is_ok() || name.starts_with("shared"), "{name}");
                }
            }
            match control.destroy(&name) {
                Ok(()) => {}
                Err(error) => {
                    assert!(name.starts_with("shared"), "{name}: {error}");
                }
            }
        }
        Ok(())
    };
    // The kernel keeps some of what the first devices take: slabs, a larger table of minors.
    cycle(0, 200)?;
    let free = memory::settled_free()?;
    let cached = memory::vmstat("nr_file_pages")?;
    let workers = (0..WORKERS)
        .map(|worker| {
            Child::run(move || match cycle(worker, each) {
                Ok(()) => Vec::new(),
                Err(error) => error.to_string().into_bytes(),
            })
        })
        .collect::<io::Result<Vec<_>>>()?;
    for worker in workers {
        let error = String::from_utf8_lossy(&worker.join()).into_owned();
        assert_eq!(error, "");
    }
    let control = Control::open()?;
    assert_eq!(control.list()?, [], "all are destroyed");
    for name in ["shared0", "own1.1"] {
        control.create(control::memory(name, MIB as u64)?)?;
        control.destroy(name)?;
    }
    drop(control);
    // A page for each of ten thousand would be 40 MiB, an inode and its like 10.
    const ALLOWED: u64 = 4 * MIB as u64;
    let lost = memory::lost_since(free, ALLOWED, 8, memory::settled_free)?;
    // Caches of others may have shrunk.
    assert!(memory::vmstat("nr_file_pages")? <= cached);
    assert!(lost < ALLOWED, "{lost} bytes are gone");
    module.unload()
}
