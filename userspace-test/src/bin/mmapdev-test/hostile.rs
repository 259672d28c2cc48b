// SPDX-License-Identifier: GPL-2.0

//! What a hostile user tries, see `docs/hostile-users.md`: what no other area has a test for.

use crate::{assert_errno, Test};
use mmapdev_userspace::cgroup::Cgroup;
use mmapdev_userspace::child::{Child, Outcome};
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::kernel_log::Mark;
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::module::{self, Loaded};
use mmapdev_userspace::{abi, slowness, HUGE_PAGE, KIB, MIB, PAGE};
use rustix::fs::OFlags;
use rustix::io::{pread, pwrite, Errno};
use rustix::mm::MapFlags;
use rustix::pipe::pipe;
use rustix::process::{setrlimit, Resource, Rlimit, Uid};
use rustix::thread::set_thread_res_uid;
use std::fs;
use std::io;
use std::mem::offset_of;
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
        let info = device.info()?;
        assert_eq!(info.name.bytes(), b"0");
        let answer = page.read(0, PAGE);
        let name = &answer[size - abi::NAME_SIZE..size];
        assert!(name[1..].iter().all(|&byte| byte == 0), "{name:?}");
        assert!(answer[size..].iter().all(|&byte| byte == 0xAA));
        // All that is no zero by its meaning is one of the numbers that the structure has.
        let known: Vec<u8> = [info.device_size, info.resident_bytes, info.id]
            .iter()
            .flat_map(|number| number.to_ne_bytes())
            .collect();
        for number in known.chunks_exact(8) {
            assert!(answer.windows(8).any(|window| window == number));
        }
        Ok(())
    }),
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

/// Another thread changes the name and the size field of a structure while requests are made with it: each is
/// answered for one of the two, and nothing else happens.
fn changing_structure() -> io::Result<()> {
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
        let result = (|| {
            while Instant::now() < end {
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
        outcomes & 0b11,
        0b11,
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
    const MOST: usize = 10_000;
    let setting = "/proc/sys/vm/max_map_count";
    let usual = fs::read_to_string(setting)?;
    fs::write(setting, MOST.to_string())?;
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
        mappings.len() > MOST / 2,
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
