// SPDX-License-Identifier: GPL-2.0

//! What a hostile user tries, see `docs/hostile-users.md`: what no other area has a test for.

use crate::file_backing::LoopDisk;
use crate::{assert_errno, Test};
use mmapdev_userspace::cgroup::Cgroup;
use mmapdev_userspace::child::{self, Child, Outcome};
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::fixed_buffer::FixedBuffer;
use mmapdev_userspace::kernel_log::Mark;
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::module::{self, Loaded};
use mmapdev_userspace::{
    abi, is_sanitizer_kernel, memory, pagemap, slowness, smaps, HUGE_PAGE, KIB, MIB, PAGE,
};
use rustix::event::{eventfd, EventfdFlags};
use rustix::fs::{fsync, OFlags};
use rustix::io::{pread, pwrite, Errno};
use rustix::mm::{Advice, MapFlags, MlockFlags, MprotectFlags};
use rustix::pipe::pipe;
use rustix::process::{setrlimit, Resource, Rlimit, Uid};
use rustix::thread::{capabilities, set_capabilities, set_thread_res_uid, CapabilitySet};
use std::fs;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const HUGE: &str = "huge=1 size_mib=4";
const NONE: &str = "devices=0";

pub(crate) const TESTS: &[Test] = &[
    Test::with(
        "a_structure_that_changes_meanwhile_is_what_was_checked",
        NONE,
        changing_structure,
    ),
    Test::with(
        "a_structure_whose_size_changes_meanwhile_is_answered_up_to_the_size_that_was_checked",
        HUGE,
        changing_size,
    ),
    Test::with("an_answer_has_no_byte_of_the_kernels_stack", HUGE, || {
        let device = Device::open()?;
        let page = Mapping::anonymous(PAGE)?;
        let size = size_of::<abi::Info>();
        page.write(0, &vec![0xAA; PAGE]);
        page.write(0, &(size as u32).to_ne_bytes());
        page.write(4, &[0; 4]);
        page.write(size - abi::NAME_SIZE, &[0; abi::NAME_SIZE]);
        device.raw_request(abi::IOC_INFO, page.address(0))?;
        let answer = page.read(0, PAGE);
        let huge = HUGE_PAGE as u32;
        let fields = [
            halves(size as u32, 0),
            4 * MIB as u64,
            0,
            halves(abi::BACKING_MEMORY, abi::HUGE_ALWAYS),
            device.info()?.id,
            halves(huge, 1),
        ];
        let mut expected: Vec<u8> = fields.into_iter().flat_map(u64::to_ne_bytes).collect();
        expected.push(b'0');
        expected.resize(size, 0);
        assert_eq!(answer[..size], expected);
        assert!(answer[size..].iter().all(|&byte| byte == 0xAA));
        Ok(())
    }),
    Test::with("no_answer_has_a_kernel_address", HUGE, addresses),
    Test::with("a_user_namespace_gives_no_right", HUGE, || {
        let device = Device::open()?;
        assert_eq!(pwrite(&device, &[1], 0)?, 1);
        let child = Child::run(|| {
            let nobody = Uid::from_raw(65534);
            set_thread_res_uid(nobody, nobody, nobody).expect("root may change");
            child::enter_user_namespace().expect("a user namespace");
            let sets = capabilities(None).expect("what it may do there");
            assert!(sets.effective.contains(CapabilitySet::SYS_ADMIN));
            assert_errno(device.frame(0), Errno::PERM, "a frame");
            assert_errno(device.resize(PAGE as u64), Errno::PERM, "a resize");
            assert_errno(device.destroy(), Errno::PERM, "an end");
            let opened = Control::open();
            assert_errno(opened, Errno::ACCESS, "the control node");
            device.info().expect("what anybody may ask");
            Vec::new()
        })?;
        child.join();
        assert_eq!(device.info()?.device_size, 4 * MIB as u64);
        Ok(())
    }),
    Test::with(
        "a_frame_is_in_pagemap_for_the_administrator_alone",
        HUGE,
        || {
            let device = Device::open()?;
            let mapping = Mapping::shared(&device, 4 * MIB)?;
            mapping.store(HUGE_PAGE, 1);
            let address = mapping.address(HUGE_PAGE);
            let frame = device.frame(HUGE_PAGE as u64)?.frame;
            assert_eq!(pagemap::frame(address)?, Some(frame));
            let mut sets = capabilities(None)?;
            sets.effective.remove(CapabilitySet::SYS_ADMIN);
            set_capabilities(None, sets)?;
            assert_eq!(pagemap::frame(address)?, Some(0));
            Ok(())
        },
    ),
    Test::with(
        "locked_and_pinned_pages_are_bounded_by_the_limit",
        HUGE,
        || {
            const LIMIT: usize = 64 * KIB;
            let device = Device::open()?;
            let mapping = Mapping::shared(&device, 4 * MIB)?;
            let limit = Some(LIMIT as u64);
            let (current, maximum) = (limit, limit);
            setrlimit(Resource::Memlock, Rlimit { current, maximum })?;
            let nobody = Uid::from_raw(65534);
            set_thread_res_uid(nobody, nobody, nobody)?;
            let lock = |len| mapping.lock(0, len, MlockFlags::ONFAULT);
            assert_errno(lock(LIMIT + PAGE), Errno::NOMEM, "locking");
            lock(LIMIT)?;
            mapping.unlock(0, LIMIT)?;
            let pin = |len| FixedBuffer::new(&mapping, 0, len).map(drop);
            assert_errno(pin(LIMIT + PAGE), Errno::NOMEM, "pinning");
            Ok(())
        },
    ),
    Test::with(
        "who_is_killed_in_a_long_call_ends_in_the_middle_of_it",
        "huge=0 size_mib=64 devices=2",
        killed_in_a_call,
    ),
    Test::with(
        "forking_again_and_again_gives_all_back",
        "huge=1 size_mib=8",
        || {
            gives_all_back(|device, size| {
                let mapping = Mapping::shared(device, size)?;
                mapping.touch_write(0, size, 1);
                for _ in 0..20 {
                    let child = Child::run(|| {
                        mapping.touch_read(0, size);
                        // With an entry for each page.
                        mapping
                            .protect(0, PAGE, MprotectFlags::READ)
                            .expect("a part of it");
                        mapping.touch_write(PAGE, 16 * PAGE, 2);
                        Child::run(Vec::new).expect("a grandchild").join();
                        Vec::new()
                    })?;
                    child.join();
                }
                Ok(())
            })
        },
    ),
    Test::with(
        "huge_pages_that_many_map_in_small_pages_are_given_back",
        "huge=1 size_mib=16",
        || gives_all_back(in_small_pages),
    ),
    Test::with(
        "one_page_is_mapped_as_often_as_the_kernel_lets_a_process",
        HUGE,
        map_again_and_again,
    ),
    Test::with(
        "opening_again_and_again_is_charged_to_the_cgroup",
        HUGE,
        || {
            const OPENINGS: u64 = 4000;
            let group = Cgroup::new("openings")?;
            let limit = Rlimit {
                current: Some(OPENINGS + 100),
                maximum: Some(OPENINGS + 100),
            };
            setrlimit(Resource::Nofile, limit)?;
            group.enter()?;
            let before = group.stat("slab")?;
            let open: Vec<Device> = (0..OPENINGS)
                .map(|_| Device::open())
                .collect::<Result<_, _>>()?;
            let charged = group.stat("slab")? - before;
            // More than a struct file alone, which is 192 bytes at most on this machine.
            assert!(charged >= OPENINGS * (192 + 32), "{charged} bytes");
            drop(open);
            Ok(())
        },
    ),
    Test::with("no_user_can_flood_the_log", HUGE, flood),
    Test::with(
        "no_user_can_flood_the_log_by_a_full_disk_or_a_doorbell",
        HUGE,
        flood_of_others,
    ),
    Test::without_module("killing_who_holds_the_module_lets_it_go", || {
        let module = Loaded::with(HUGE)?;
        let (reader, writer) = pipe()?;
        let child = Child::run(|| {
            let device = Device::open().expect("a device");
            let mapping = Mapping::shared(&device, 4 * MIB).expect("a mapping");
            mapping.store(0, 1);
            rustix::io::write(&writer, &[1]).expect("a word that it is mapped");
            loop {
                thread::park();
            }
        })?;
        rustix::io::read(&reader, &mut [0; 1])?;
        // The device can be ended; the module cannot go while its code may be called.
        Control::open()?.destroy("0")?;
        let error = module::remove().expect_err("unloaded under a mapping");
        assert!(module::is_busy(&error), "{error}");
        // Over at once, so that it is killed.
        assert_eq!(child.wait(Some(Duration::ZERO))?, Outcome::TimedOut);
        module.unload()
    }),
    Test::with(
        "memory_of_devices_is_bounded_for_all",
        "size_mib=1 limit_mib=8",
        || {
            let control = Control::open()?;
            let made = (0..100)
                .map(|number| control.create(control::memory(&format!("n{number}"), MIB as u64)?))
                .take_while(Result::is_ok)
                .count();
            assert_eq!(made, 7);
            Ok(())
        },
    ),
];

const fn halves(low: u32, high: u32) -> u64 {
    low as u64 | ((high as u64) << 32)
}

/// Where the half of all addresses begins that is the kernel's, with page tables of five levels.
const KERNEL: u64 = 0xff00_0000_0000_0000;

/// What each request answers, and what is read of a device elsewhere.
fn addresses() -> io::Result<()> {
    let (device, control) = (Device::open()?, Control::open()?);
    let mapping = Mapping::shared(&device, 4 * MIB)?;
    mapping.store(0, 1);
    device.notify()?;
    let number = eventfd(0, EventfdFlags::NONBLOCK)?;
    let page = Mapping::anonymous(PAGE)?;
    let answer = |control: Option<&Control>, command, size: usize, fields: &[(usize, &[u8])]| {
        page.write(0, &[0; PAGE]);
        page.write(0, &(size as u32).to_ne_bytes());
        for (place, bytes) in fields {
            page.write(*place, bytes);
        }
        match control {
            Some(control) => control.raw_request(command, page.address(0))?,
            None => device.raw_request(command, page.address(0))?,
        }
        let bytes = page.read(0, PAGE);
        assert_eq!(bytes[..4], (size as u32).to_ne_bytes(), "{command:#x}");
        let mut words = bytes.windows(8).map(|word| word.try_into().expect("8"));
        let found = words.find(|word| u64::from_ne_bytes(*word) >= KERNEL);
        assert_eq!(found, None, "in the answer to {command:#x}: {bytes:?}");
        io::Result::Ok(())
    };
    let eventfd = number.as_raw_fd().to_ne_bytes();
    answer(None, abi::IOC_INFO, size_of::<abi::Info>(), &[])?;
    answer(None, abi::IOC_COUNTERS, size_of::<abi::Counters>(), &[])?;
    answer(None, abi::IOC_FRAME, size_of::<abi::Frame>(), &[])?;
    answer(None, abi::IOC_EVENTS, size_of::<abi::Events>(), &[])?;
    answer(
        None,
        abi::IOC_EVENTFD,
        size_of::<abi::EventFd>(),
        &[(8, &eventfd)],
    )?;
    let (named, small) = (b"a-name", (PAGE as u64).to_ne_bytes());
    let (kind, less) = (
        abi::BACKING_MEMORY.to_ne_bytes(),
        (64 * PAGE as u64).to_ne_bytes(),
    );
    let create: &[(usize, &[u8])] = &[
        (offset_of!(abi::Create, device_size), &less),
        (offset_of!(abi::Create, backing), &kind),
        (offset_of!(abi::Create, name), named),
    ];
    let resize: &[(usize, &[u8])] = &[
        (offset_of!(abi::Resize, device_size), &small),
        (offset_of!(abi::Resize, name), named),
    ];
    let punch: &[(usize, &[u8])] = &[
        (offset_of!(abi::Punch, length), &small),
        (offset_of!(abi::Punch, name), named),
    ];
    let destroy: &[(usize, &[u8])] = &[(offset_of!(abi::Destroy, name), named)];
    let info: &[(usize, &[u8])] = &[(offset_of!(abi::Info, name), named)];
    let control = Some(&control);
    answer(control, abi::IOC_CREATE, size_of::<abi::Create>(), create)?;
    answer(control, abi::IOC_INFO, size_of::<abi::Info>(), info)?;
    answer(control, abi::IOC_NEXT, size_of::<abi::Info>(), &[])?;
    answer(control, abi::IOC_RESIZE, size_of::<abi::Resize>(), resize)?;
    answer(control, abi::IOC_PUNCH, size_of::<abi::Punch>(), punch)?;
    answer(
        control,
        abi::IOC_DESTROY,
        size_of::<abi::Destroy>(),
        destroy,
    )?;

    let mut files = vec![
        PathBuf::from(format!("/proc/self/fdinfo/{}", device.as_fd().as_raw_fd())),
        PathBuf::from("/proc/self/smaps"),
    ];
    for folder in ["/sys/kernel/debug/mmapdev", "/sys/class/misc/mmapdev0"] {
        let before = files.len();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if fs::metadata(&path)?.is_file() {
                files.push(path);
            }
        }
        assert!(files.len() > before, "nothing in {folder}");
    }
    for path in files {
        let text = fs::read_to_string(&path)?;
        assert_eq!(address_in(&text), None, "in {}", path.display());
    }
    Ok(())
}

/// Finds a number in a text that is an address of the kernel's, in hexadecimal or decimal digits. What every process has
/// mapped there is none.
fn address_in(text: &str) -> Option<&str> {
    let lines = text.lines().filter(|line| !line.contains("[vsyscall]"));
    let mut words = lines.flat_map(|line| line.split(|digit: char| !digit.is_ascii_hexdigit()));
    let is_address = |number: Option<u64>| number.is_some_and(|number| number >= KERNEL);
    words.find(|word| {
        is_address(u64::from_str_radix(word, 16).ok()) || is_address(word.parse().ok())
    })
}

/// A call that goes through all of a device, or of a mapping of it.
type Call<'a> = &'a dyn Fn(&Mapping) -> io::Result<()>;

/// A child that reads, writes, or populates 64 MiB, page by page, and is killed as soon as some of them are there.
fn killed_in_a_call() -> io::Result<()> {
    const SIZE: usize = 64 * MIB;
    const TRIES: usize = 10;
    let (empty, device) = (
        Device::open()?,
        Device::open_with(control::node("1"), OFlags::RDWR)?,
    );
    let source = Mapping::shared(&empty, SIZE)?;
    let calls: [(&str, Call<'_>); 3] = [
        ("a read", &|mapping| {
            mapping.pread_from(&empty, 0, 0, SIZE).map(drop)
        }),
        ("a write", &|_| {
            source.pwrite_to(&device, 0, 0, SIZE).map(drop)
        }),
        ("populating", &|mapping| {
            mapping.advise(0, SIZE, Advice::LinuxPopulateWrite)
        }),
    ];
    for (name, call) in calls {
        // Whoever is to kill it may come too late.
        let was_cut = (0..TRIES).any(|_| {
            device.punch(0, SIZE as u64).expect("an empty device");
            let mapping = Mapping::shared(&device, SIZE).expect("a mapping");
            let child = Child::run(|| {
                call(&mapping).expect("the call");
                loop {
                    thread::park();
                }
            });
            let resident = || device.info().expect("the device").resident_bytes;
            while resident() == 0 {
                thread::yield_now();
            }
            // Over at once, so that it is killed.
            let outcome = child.expect("a child").wait(Some(Duration::ZERO));
            assert_eq!(outcome.expect("its end"), Outcome::TimedOut);
            resident() < SIZE as u64 / 2
        });
        assert!(was_cut, "{name} goes on to its end");
    }
    Ok(())
}

/// Checks that a device has no memory after it was used and punched, and that as much of the machine's is free as before.
fn gives_all_back(uses: impl FnOnce(&Device, usize) -> io::Result<()>) -> io::Result<()> {
    let device = Device::open()?;
    let size = device.size()?;
    let free = || {
        memory::shrink_slabs(0)?;
        memory::settled_free()
    };
    let users = module::users()?;
    // What the kernel sets aside the first time.
    drop(Child::run(Vec::new)?.join());
    let before = free()?;
    uses(&device, size)?;
    assert_eq!(module::users()?, users);
    device.punch(0, size as u64)?;
    assert_eq!(device.info()?.resident_bytes, 0);
    // A folio that anybody has a reference to is not free.
    const ALLOWED: u64 = HUGE_PAGE as u64 / 2;
    let lost = memory::lost_since(before, ALLOWED, 8, free)?;
    assert!(lost < ALLOWED, "{lost} bytes lost");
    Ok(())
}

/// Processes that each map all huge pages of a device several times, by an entry for each page of them: each entry is a
/// reference to the folio.
fn in_small_pages(device: &Device, size: usize) -> io::Result<()> {
    const PROCESSES: usize = 4;
    const TIMES: usize = 4;
    Mapping::shared(device, size)?.touch_write(0, size, 1);
    let (reader, writer) = pipe()?;
    let (go, gone) = pipe()?;
    let children: io::Result<Vec<Child>> = (0..PROCESSES)
        .map(|_| {
            Child::run(|| {
                let mappings: Vec<Mapping> = (0..TIMES)
                    .map(|_| {
                        let mapping = Mapping::shared_off_alignment(device, size, HUGE_PAGE);
                        let mapping = mapping.expect("a mapping");
                        mapping.touch_read(0, size);
                        let fields = smaps::of(mapping.address(0)).expect("what is mapped");
                        assert_eq!(fields["Rss"], size as u64);
                        assert_eq!(fields["FilePmdMapped"] + fields["ShmemPmdMapped"], 0);
                        mapping
                    })
                    .collect();
                rustix::io::write(&writer, &[1]).expect("a word that all is mapped");
                // Until all have it.
                rustix::io::read(&go, &mut [0]).expect("a word to go on");
                drop(mappings);
                Vec::new()
            })
        })
        .collect();
    for _ in 0..PROCESSES {
        rustix::io::read(&reader, &mut [0])?;
    }
    assert_eq!(device.info()?.resident_bytes, size as u64);
    rustix::io::write(&gone, &[1; PROCESSES])?;
    children?.into_iter().for_each(|child| drop(child.join()));
    Ok(())
}

/// Another thread changes the name and the size field of a structure while requests are made with it: each is
/// answered for one of the two, and nothing else happens.
fn changing_structure() -> io::Result<()> {
    /// Made, and refused for what is no name or no size.
    const BOTH: u64 = 0b11;
    let control = Control::open()?;
    let page = Mapping::anonymous(PAGE)?;
    let create = abi::Create {
        name: control::name_field(b"a")?,
        ..control::memory("a", PAGE as u64)?
    };
    let words = [
        u64::from(create.size),
        // Flags that there are none of, and a size that is larger than a page.
        u64::from(create.size) | (1 << 32),
        1 << 20,
        8,
    ];
    let done = AtomicBool::new(false);
    let outcomes = AtomicU64::new(0);
    thread::scope(|scope| -> io::Result<()> {
        let (page, done) = (&page, &done);
        scope.spawn(move || {
            for round in 0usize.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                page.word(0).store(words[round / 3 % 4], Ordering::Relaxed);
                page.store(offset_of!(abi::Create, name), b"ab/\0"[round % 4]);
            }
        });
        let end = Instant::now() + Duration::from_secs(2);
        // Longer where the machine has kept one of the two from running.
        let latest = end + slowness() * Duration::from_secs(20);
        let is_decided = || outcomes.load(Ordering::Relaxed) & BOTH == BOTH;
        let result = (|| {
            while Instant::now() < if is_decided() { end } else { latest } {
                page.word(8).store(PAGE as u64, Ordering::Relaxed);
                let kind = u64::from(create.backing) | (u64::from(create.huge) << 32);
                for (place, word) in [(16, kind), (24, 0), (32, 0)] {
                    page.word(place).store(word, Ordering::Relaxed);
                }
                let errno = match control.raw_request(abi::IOC_CREATE, page.address(0)) {
                    Ok(()) => 0,
                    Err(error) => error.raw_os_error().unwrap_or(-1),
                };
                let expected = [
                    0,
                    Errno::INVAL.raw_os_error(),
                    Errno::TOOBIG.raw_os_error(),
                    Errno::EXIST.raw_os_error(),
                ];
                let place = expected.iter().position(|&one| one == errno);
                let place = place.ok_or_else(|| io::Error::from_raw_os_error(errno))?;
                outcomes.fetch_or(1 << place, Ordering::Relaxed);
                for info in control.list()? {
                    let name = info.name.bytes();
                    assert!(name == b"a" || name == b"b", "{name:?}");
                    assert_eq!(info.device_size, PAGE as u64);
                    control.destroy(&String::from_utf8_lossy(name))?;
                }
            }
            Ok(())
        })();
        done.store(true, Ordering::Relaxed);
        result
    })?;
    let outcomes = outcomes.into_inner();
    assert_eq!(
        outcomes & BOTH,
        BOTH,
        "not both made and refused: {outcomes:#b}"
    );
    Ok(())
}

/// Another thread changes the size field to and fro: what is answered ends where the structure that was checked did.
fn changing_size() -> io::Result<()> {
    const TIMES: u64 = 1000;
    const OLD: usize = abi::INFO_SIZE_VER0;
    let device = Device::open()?;
    let page = Mapping::anonymous(PAGE)?;
    // The older structure is answered. The newer one has a name, which a device's own node does not take.
    page.write(0, &[0; OLD]);
    page.write(OLD, &[0xAA; PAGE - OLD]);
    let sizes = [OLD, size_of::<abi::Info>()].map(|size| size as u64);
    let done = AtomicBool::new(false);
    let (mut answered, mut refused) = (0, 0);
    thread::scope(|scope| {
        let (page, done) = (&page, &done);
        scope.spawn(move || {
            for size in sizes.iter().cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                page.word(0).store(*size, Ordering::Relaxed);
            }
        });
        // A panic in here would wait for the thread for ever.
        let end = Instant::now() + slowness() * Duration::from_secs(20);
        let result = (|| {
            while (answered < TIMES || refused < TIMES) && Instant::now() < end {
                match device.raw_request(abi::IOC_INFO, page.address(0)) {
                    Ok(()) => answered += 1,
                    Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                        refused += 1;
                    }
                    Err(error) => return Err(error),
                }
                if page.read(OLD, PAGE - OLD) != [0xAA; PAGE - OLD] {
                    return Err(io::Error::other("an answer goes beyond its structure"));
                }
            }
            Ok(())
        })();
        done.store(true, Ordering::Relaxed);
        result
    })?;
    assert!(
        answered >= TIMES && refused >= TIMES,
        "{answered} answered, {refused} refused"
    );
    Ok(())
}

/// Each mapping of a page counts a reference to it.
fn map_again_and_again() -> io::Result<()> {
    let device = Device::open()?;
    pwrite(&device, &[42], (HUGE_PAGE + PAGE) as u64)?;
    // (Fewer on the sanitizer kernel: each is as the one before.)
    let most = if is_sanitizer_kernel() { 2_000 } else { 10_000 };
    let setting = "/proc/sys/vm/max_map_count";
    let usual = fs::read_to_string(setting)?;
    fs::write(setting, most.to_string())?;
    let before = module::users()?;
    let mut mappings = Vec::new();
    let refused = loop {
        // Every other page stays unmapped, so that no two mappings become one.
        let offset = (HUGE_PAGE + PAGE) as u64;
        match Mapping::new(&device, PAGE, READ_WRITE, MapFlags::SHARED, offset) {
            Ok(mapping) => {
                assert_eq!(mapping.load(0), 42);
                mappings.push(mapping);
            }
            Err(error) => break error,
        }
    };
    assert_eq!(refused.raw_os_error(), Some(Errno::NOMEM.raw_os_error()));
    assert!(
        mappings.len() > most / 2,
        "only {} mappings",
        mappings.len()
    );
    fs::write(setting, usual)?;
    mappings[0].store(0, 43);
    assert_eq!(mappings[mappings.len() - 1].load(0), 43);
    drop(mappings);
    assert_eq!(module::users()?, before);
    // Nobody has the page any more but the device.
    device.punch(0, 4 * MIB as u64)?;
    assert_eq!(device.info()?.resident_bytes, 0);
    Ok(())
}

/// Whatever is refused, and whoever asks, the log has not a line of it.
fn flood() -> io::Result<()> {
    let device = Device::open()?;
    let control = Control::open()?;
    let mut log = Mark::now()?;
    let once = || -> io::Result<()> {
        let bad = [
            control.create(control::memory("0", PAGE as u64)?).is_ok(),
            control.create(control::memory("x", 1)?).is_ok(),
            control.create(control::memory("x", 1 << 62)?).is_ok(),
            control.destroy("none").is_ok(),
            control.raw_request(abi::IOC_CREATE, 0).is_ok(),
            control.raw_request(0x1234, 0).is_ok(),
            device.raw_request(0x1234, 0).is_ok(),
            device.punch(0, 0).is_ok(),
            device.frame(u64::MAX).is_ok(),
            pwrite(&device, &[1], 4 * MIB as u64).is_ok(),
            Device::open_with("/dev/mmapdev-none", OFlags::RDWR).is_ok(),
            Mapping::new(&device, PAGE, READ_WRITE, MapFlags::SHARED, 1).is_ok(),
        ];
        assert!(bad.iter().all(|&done| !done), "{bad:?}");
        let beyond = Mapping::shared(&device, 4 * MIB + 64 * KIB)?;
        // A copy from where a touch is SIGBUS, which a call answers by EFAULT.
        let got = beyond.pwrite_to(&device, 0, 4 * MIB, 8);
        assert_errno(got, Errno::FAULT, "from beyond the end");
        Ok(())
    };
    for _ in 0..200 {
        once()?;
    }
    let nobody = Uid::from_raw(65534);
    set_thread_res_uid(nobody, nobody, nobody)?;
    for _ in 0..200 {
        assert!(Device::open().is_err());
        assert!(device.frame(0).is_err());
        assert!(device.resize(PAGE as u64).is_err());
        assert!(device.destroy().is_err());
        pread(&device, &mut [0], 0)?;
    }
    let lines = log.messages()?;
    assert_eq!(lines, Vec::<String>::new());
    Ok(())
}

/// A disk that is full or cannot be read is the kernel's to talk of; the module says nothing. Nor does it of a doorbell.
fn flood_of_others() -> io::Result<()> {
    let disk = LoopDisk::new(MIB)?;
    let (stored, device) = (disk.device()?, Device::open()?);
    let mapping = Mapping::shared(&stored, MIB)?;
    mapping.touch_read(0, MIB / 2);
    disk.fill_up()?;
    let number = eventfd(0, EventfdFlags::NONBLOCK)?;
    let mut log = Mark::now()?;
    let rounds = || -> io::Result<()> {
        let nobody = Uid::from_raw(65534);
        set_thread_res_uid(nobody, nobody, nobody)?;
        for round in 0..30 {
            mapping.touch_write(0, 16 * PAGE, round);
            assert_eq!(fsync(&stored), Err(Errno::NOSPC));
            device.signal(Some(number.as_fd()))?;
            assert!(device.signal(Some(device.as_fd())).is_err());
            assert!(device.raw_request(abi::IOC_EVENTFD, 0).is_err());
            assert!(device.raw_request(abi::IOC_NOTIFY, 1).is_err());
            device.notify()?;
            assert_eq!(device.take_events()?, 1);
            device.signal(None)?;
        }
        Ok(())
    };
    // In a process of its own: the disk is root's to take away.
    let child = Child::run(|| {
        rounds().expect("no error");
        Vec::new()
    })?;
    child.join();
    let mut lines = log.messages()?;
    // The program's own name has the module's in it.
    lines.retain(|line| line.replace("mmapdev-test", "").contains("mmapdev"));
    assert_eq!(lines, Vec::<String>::new());
    Ok(())
}
