// SPDX-License-Identifier: GPL-2.0

//! The node that makes and ends devices: its answers, and each wrong way to ask.

use crate::{assert_errno, Test};
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::module::Loaded;
use mmapdev_userspace::{abi, memory, MIB, PAGE};
use rustix::fs::OFlags;
use rustix::io::{pread, pwrite, Errno};
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const NONE: &str = "devices=0";
const LIMITED: &str = "devices=0 limit_mib=8";
const TWO: &str = "devices=2 size_mib=3 huge=0";

pub(crate) const TESTS: &[Test] = &[
    Test::with(
        "without_devices_there_is_the_control_node_alone",
        NONE,
        || {
            assert!(Path::new(control::PATH).exists());
            assert!(!Path::new("/dev/mmapdev0").exists());
            assert_eq!(Control::open()?.list()?, []);
            Ok(())
        },
    ),
    Test::with("the_control_node_is_for_root_alone", NONE, || {
        assert_eq!(std::fs::metadata(control::PATH)?.mode() & 0o777, 0o600);
        let nobody = Uid::from_raw(65534);
        set_thread_res_uid(nobody, nobody, nobody)?;
        assert_errno(Control::open(), Errno::ACCESS, "nobody");
        Ok(())
    }),
    Test::with("a_created_device_is_what_was_asked_for", NONE, || {
        let control = Control::open()?;
        let plan = abi::Create {
            huge: abi::HUGE_ADVISE,
            largest_folio: 64 << 10,
            ..control::memory("frames", 5 * MIB as u64 + PAGE as u64)?
        };
        let id = control.create(plan)?;
        let node = "/dev/mmapdev-frames";
        assert_eq!(std::fs::metadata(node)?.mode() & 0o777, 0o600);
        let device = Device::open_with(node, OFlags::RDWR)?;
        let expected = abi::Info {
            size: size_of::<abi::Info>() as u32,
            device_size: 5 * MIB as u64 + PAGE as u64,
            backing: abi::BACKING_MEMORY,
            huge: abi::HUGE_ADVISE,
            id,
            largest_folio: 64 << 10,
            open_files: 1,
            name: control::name_field(b"frames")?,
            ..Default::default()
        };
        assert_eq!(device.info()?, expected);
        assert_eq!(control.info("frames")?, expected);
        assert_eq!(pwrite(&device, b"x", 5 * MIB as u64)?, 1);
        assert_eq!(control.info("frames")?.resident_bytes, PAGE as u64);
        Ok(())
    }),
    Test::with("a_number_for_a_name_is_a_node_without_a_dash", NONE, || {
        let control = Control::open()?;
        control.create_and_open("7", MIB as u64)?;
        assert!(Path::new("/dev/mmapdev7").exists());
        Ok(())
    }),
    Test::without_module("the_devices_of_load_time_are_devices_like_any", || {
        let module = Loaded::with(TWO)?;
        let control = Control::open()?;
        let names: Vec<_> = control.list()?.iter().map(|info| info.name).collect();
        assert_eq!(
            names,
            [control::name_field(b"0")?, control::name_field(b"1")?]
        );
        control.destroy("0")?;
        assert_eq!(control.list()?.len(), 1);
        assert!(Device::open().is_err());
        drop(control);
        module.unload()
    }),
    Test::with("a_list_goes_on_where_devices_come_and_go", NONE, || {
        let control = Control::open()?;
        for name in ["a", "b", "c", "d"] {
            control.create(control::memory(name, MIB as u64)?)?;
        }
        let first = control.next(0)?.expect("a first");
        control.destroy("a")?;
        control.destroy("b")?;
        control.create(control::memory("a", MIB as u64)?)?;
        let mut names = Vec::new();
        let mut id = first.id;
        while let Some(info) = control.next(id)? {
            assert!(info.id > id);
            id = info.id;
            names.push(String::from_utf8_lossy(info.name.bytes()).into_owned());
        }
        assert_eq!(names, ["c", "d", "a"]);
        assert_eq!(control.next(u64::MAX)?, None);
        Ok(())
    }),
    Test::with("open_files_are_counted", TWO, || {
        let control = Control::open()?;
        assert_eq!(control.info("0")?.open_files, 0);
        let device = Device::open()?;
        let mapping = Mapping::shared(&device, MIB)?;
        let other = Device::open()?;
        assert_eq!(control.info("0")?.open_files, 2);
        drop((device, other));
        assert_eq!(control.info("0")?.open_files, 1, "a mapping keeps its file");
        drop(mapping);
        assert_eq!(control.info("0")?.open_files, 0);
        Ok(())
    }),
    Test::with("names_that_are_none_are_refused", NONE, || {
        let control = Control::open()?;
        let invalid: [&[u8]; 13] = [
            b"",
            b"/",
            b"a/b",
            b"../x",
            b" ",
            b"a b",
            b"a\n",
            b"!",
            b"a!b",
            b"\x80",
            b"caf\xc3\xa9",
            b"\xff\xfe",
            b"a%sb",
        ];
        for name in invalid {
            let what = name.escape_ascii().to_string();
            let refused = control.create(named(control::name_field(name)?)?);
            assert_errno(refused, Errno::INVAL, &what);
        }
        // Something behind the end, and no end.
        let mut field = control::name_field(b"name")?;
        field.0[63] = b'x';
        assert_errno(
            control.create(named(field)?),
            Errno::INVAL,
            "behind the end",
        );
        let endless = abi::Name([b'x'; abi::NAME_SIZE]);
        assert_errno(
            control.create(named(endless)?),
            Errno::NAMETOOLONG,
            "no end",
        );
        assert_errno(
            control.create(control::memory("control", MIB as u64)?),
            Errno::EXIST,
            "control",
        );
        assert_eq!(control.list()?, []);
        // The longest there is.
        let longest = "x".repeat(63);
        control.create_and_open(&longest, MIB as u64)?;
        assert_eq!(control.info(&longest)?.name.bytes(), longest.as_bytes());
        Ok(())
    }),
    Test::with(
        "a_taken_name_is_refused_and_free_after_a_failed_create",
        NONE,
        || {
            let control = Control::open()?;
            let device = control.create_and_open("one", MIB as u64)?;
            assert_eq!(pwrite(&device, b"kept", 0)?, 4);
            let again = control.create(control::memory("one", 2 * MIB as u64)?);
            assert_errno(again, Errno::EXIST, "taken");
            let mut bytes = [0; 4];
            assert_eq!(pread(&device, &mut bytes, 0)?, 4);
            assert_eq!(&bytes, b"kept");
            // What fails takes no name.
            assert_errno(
                control.create(control::memory("two", 0)?),
                Errno::INVAL,
                "no size",
            );
            control.create(control::memory("two", MIB as u64)?)?;
            Ok(())
        },
    ),
    Test::with(
        "an_answer_that_cannot_be_told_makes_no_device",
        NONE,
        || {
            let control = Control::open()?;
            let page = Mapping::anonymous(PAGE)?;
            page.write(0, &bytes_of(&control::memory("ghost", MIB as u64)?));
            page.protect(0, PAGE, rustix::mm::MprotectFlags::READ)?;
            let refused = control.raw_request(abi::IOC_CREATE, page.address(0));
            assert_errno(refused, Errno::FAULT, "an answer to read-only memory");
            assert_eq!(control.list()?, []);
            assert!(!Path::new("/dev/mmapdev-ghost").exists());
            control.create(control::memory("ghost", MIB as u64)?)?;
            Ok(())
        },
    ),
    Test::with("sizes_that_no_device_has_are_refused", TWO, || {
        let control = Control::open()?;
        let device = Device::open()?;
        let total = memory::meminfo("MemTotal")?;
        let bad = [
            (0, Errno::INVAL),
            (1, Errno::INVAL),
            (PAGE as u64 - 1, Errno::INVAL),
            (PAGE as u64 + 1, Errno::INVAL),
            (MIB as u64 + 512, Errno::INVAL),
            (u64::MAX, Errno::INVAL),
            (
                total.next_multiple_of(MIB as u64) + (64 << 30),
                Errno::NOMEM,
            ),
            (1 << 62, Errno::NOMEM),
            ((1 << 63) - PAGE as u64, Errno::NOMEM),
            (1 << 63, Errno::FBIG),
            (u64::MAX - (PAGE as u64 - 1), Errno::FBIG),
        ];
        for (size, errno) in bad {
            let what = format!("{size}");
            assert_errno(control.create(control::memory("x", size)?), errno, &what);
            assert_errno(control.resize("0", size), errno, &what);
            assert_errno(device.resize(size), errno, &what);
        }
        assert_eq!(device.size()?, 3 * MIB);
        assert_eq!(control.list()?.len(), 2);
        Ok(())
    }),
    Test::with("all_devices_together_have_a_limit", LIMITED, || {
        let control = Control::open()?;
        let create = |name, size| control.create(control::memory(name, size)?);
        let (page, half) = (PAGE as u64, 4 * MIB as u64);
        create("a", half)?;
        let b = control.create_and_open("b", half)?;
        pwrite(&b, &[7; PAGE], 0)?;
        let no_room = |result, what: &str| assert_errno(result, Errno::NOSPC, what);
        no_room(create("c", page).map(drop), "a page more");
        no_room(control.resize("b", half + page), "a larger device");
        assert_eq!(b.size()?, 4 * MIB);
        let mut bytes = [0; PAGE];
        pread(&b, &mut bytes, 0)?;
        assert_eq!(bytes, [7; PAGE]);
        // What is given up is there for others.
        control.resize("a", half - page)?;
        create("c", page)?;
        no_room(create("d", page).map(drop), "a page more again");
        // What is destroyed is so at once, used or not; a failed creation takes nothing.
        let _mapping = Mapping::shared(&b, MIB)?;
        control.destroy("b")?;
        assert!(create("c", page).is_err());
        create("d", half)?;
        no_room(create("e", page).map(drop), "a page too many");
        Ok(())
    }),
    Test::with("choices_that_do_not_exist_are_refused", NONE, || {
        let control = Control::open()?;
        let good = control::memory("x", MIB as u64)?;
        let with = |change: fn(&mut abi::Create)| {
            let mut plan = good;
            change(&mut plan);
            plan
        };
        let bad = [
            ("backing 0", with(|plan| plan.backing = 0)),
            ("backing 2", with(|plan| plan.backing = 2)),
            ("huge 3", with(|plan| plan.huge = 3)),
            ("huge -1", with(|plan| plan.huge = u32::MAX)),
            ("folio 1", with(|plan| plan.largest_folio = 1)),
            ("folio 4095", with(|plan| plan.largest_folio = 4095)),
            ("folio 4 MiB", with(|plan| plan.largest_folio = 4 << 20)),
            ("folio 2 GiB", with(|plan| plan.largest_folio = 1 << 31)),
            ("flags", with(|plan| plan.flags = 1)),
            ("reserved", with(|plan| plan.reserved = 1)),
            ("a file", with(|plan| plan.file = 1)),
            ("no file", with(|plan| plan.file = -1)),
            ("flags of a file", with(|plan| plan.file_flags = 1)),
            (
                "an offset in a file",
                with(|plan| plan.file_offset = PAGE as u64),
            ),
        ];
        for (what, plan) in bad {
            assert_errno(control.create(plan), Errno::INVAL, what);
        }
        assert_eq!(control.list()?, []);
        control.create(good)?;
        Ok(())
    }),
    Test::with("ranges_that_no_file_has_are_refused", TWO, || {
        let (control, device) = (Control::open()?, Device::open()?);
        assert_eq!(pwrite(&device, b"kept", 0)?, 4);
        let bad = [
            (0, 0),
            (PAGE as u64, 0),
            (1, i64::MAX as u64),
            (1 << 63, 1),
            (u64::MAX, 1),
            (1, u64::MAX),
        ];
        for (offset, length) in bad {
            let what = format!("{length} at {offset}");
            assert_errno(control.punch("0", offset, length), Errno::INVAL, &what);
            assert_errno(device.punch(offset, length), Errno::INVAL, &what);
        }
        let mut bytes = [0; 4];
        assert_eq!(pread(&device, &mut bytes, 0)?, 4);
        assert_eq!(&bytes, b"kept");
        Ok(())
    }),
    Test::with("requests_about_no_device_find_none", TWO, || {
        let control = Control::open()?;
        for name in ["2", "x", "00", "mmapdev0", "control"] {
            assert_errno(control.destroy(name), Errno::NOENT, name);
            assert_errno(control.resize(name, MIB as u64), Errno::NOENT, name);
            assert_errno(control.punch(name, 0, 1), Errno::NOENT, name);
            assert_errno(control.info(name), Errno::NOENT, name);
        }
        assert_errno(control.info(""), Errno::INVAL, "no name");
        assert_errno(control.destroy("a/b"), Errno::INVAL, "a slash");
        Ok(())
    }),
    Test::with("a_devices_own_node_takes_no_name", TWO, || {
        let device = Device::open()?;
        let page = Mapping::anonymous(PAGE)?;
        for request in REQUESTS {
            if [abi::IOC_CREATE, abi::IOC_NEXT].contains(&request.number) {
                continue;
            }
            let mut bytes = request.good("0")?;
            let own = bytes.len() - abi::NAME_SIZE;
            page.write(0, &bytes);
            let refused = device.raw_request(request.number, page.address(0));
            assert_errno(refused, Errno::INVAL, request.name);
            // A name behind the end is one, too.
            bytes[own..].fill(0);
            bytes[own + abi::NAME_SIZE - 1] = 1;
            page.write(0, &bytes);
            let refused = device.raw_request(request.number, page.address(0));
            assert_errno(refused, Errno::INVAL, request.name);
        }
        assert_eq!(device.size()?, 3 * MIB);
        Ok(())
    }),
    Test::with(
        "a_devices_own_node_is_as_strict_about_structures",
        TWO,
        || {
            let device = Device::open()?;
            let page = Mapping::anonymous(PAGE)?;
            for request in REQUESTS {
                if [abi::IOC_CREATE, abi::IOC_NEXT].contains(&request.number) {
                    continue;
                }
                let mut good = request.good("0")?;
                let end = good.len();
                good[end - abi::NAME_SIZE..].fill(0);
                let first = match request.number {
                    abi::IOC_INFO => abi::INFO_SIZE_VER0,
                    _ => end,
                };
                let sizes = [
                    (0, Errno::INVAL),
                    (8, Errno::INVAL),
                    (first as u32 - 1, Errno::INVAL),
                    (PAGE as u32 + 1, Errno::TOOBIG),
                ];
                for (size, errno) in sizes {
                    page.write(0, &good);
                    page.write(0, &size.to_ne_bytes());
                    let refused = device.raw_request(request.number, page.address(0));
                    assert_errno(refused, errno, &format!("{} of {size}", request.name));
                }
                page.write(0, &good);
                page.store(4, 1);
                let refused = device.raw_request(request.number, page.address(0));
                assert_errno(
                    refused,
                    Errno::INVAL,
                    &format!("{} with flags", request.name),
                );
            }
            assert_eq!(device.size()?, 3 * MIB, "nothing was done");
            Ok(())
        },
    ),
    Test::with("structures_of_every_wrong_size_are_refused", TWO, || {
        let control = Control::open()?;
        let memory = Mapping::anonymous(2 * PAGE)?;
        for request in REQUESTS {
            let good = request.good("0")?;
            let (minimum, size) = (request.minimum(good.len()), good.len() as u32);
            let sizes = [
                (0, Errno::INVAL),
                (4, Errno::INVAL),
                (8, Errno::INVAL),
                (minimum - 1, Errno::INVAL),
                (PAGE as u32 + 1, Errno::TOOBIG),
                (u32::MAX, Errno::TOOBIG),
            ];
            for (size, errno) in sizes {
                memory.write(0, &good);
                memory.write(0, &size.to_ne_bytes());
                let refused = control.raw_request(request.number, memory.address(0));
                assert_errno(refused, errno, &format!("{}, size {size}", request.name));
            }
            // Newer: zeros are fine, anything else is not known here.
            memory.write(0, &vec![0; 2 * PAGE]);
            memory.write(0, &good);
            memory.write(0, &(size + 8).to_ne_bytes());
            memory.store(size as usize + 3, 1);
            let refused = control.raw_request(request.number, memory.address(0));
            assert_errno(refused, Errno::TOOBIG, request.name);
            // Flags.
            memory.write(0, &good);
            memory.store(4, 1);
            let refused = control.raw_request(request.number, memory.address(0));
            assert_errno(refused, Errno::INVAL, request.name);
        }
        assert_eq!(control.list()?.len(), 2, "nothing was done");
        Ok(())
    }),
    Test::with("pointers_to_nowhere_are_efault", TWO, || {
        let control = Control::open()?;
        let mut memory = Mapping::anonymous(2 * PAGE)?;
        memory.unmap(PAGE, PAGE)?;
        for request in REQUESTS {
            for address in [
                0,
                1,
                memory.address(PAGE),
                1 << 47,
                0xFFFF_8000_0000_0000,
                usize::MAX,
            ] {
                let refused = control.raw_request(request.number, address);
                assert_errno(
                    refused,
                    Errno::FAULT,
                    &format!("{} {address:#x}", request.name),
                );
            }
            let good = request.good("0")?;
            let there = good.len() - 1;
            memory.write(PAGE - there, &good[..there]);
            let refused = control.raw_request(request.number, memory.address(PAGE - there));
            assert_errno(refused, Errno::FAULT, request.name);
        }
        assert_eq!(control.list()?.len(), 2, "nothing was done");
        Ok(())
    }),
    Test::with("the_first_version_of_create_makes_memory", NONE, || {
        let control = Control::open()?;
        let page = Mapping::anonymous(PAGE)?;
        let plan = control::memory("old", MIB as u64)?;
        page.write(0, &vec![0xAA; PAGE]);
        page.write(0, &bytes_of(&plan)[..abi::CREATE_SIZE_VER0]);
        page.write(0, &(abi::CREATE_SIZE_VER0 as u32).to_ne_bytes());
        control.raw_request(abi::IOC_CREATE, page.address(0))?;
        assert_eq!(control.info("old")?.backing, abi::BACKING_MEMORY);
        let behind = page.read(abi::CREATE_SIZE_VER0, PAGE - abi::CREATE_SIZE_VER0);
        assert!(behind.iter().all(|&byte| byte == 0xAA));
        Ok(())
    }),
    Test::with("a_newer_structure_is_served", TWO, || {
        let control = Control::open()?;
        let memory = Mapping::anonymous(PAGE)?;
        for request in REQUESTS {
            // Destroying goes last in the list.
            let name = if request.number == abi::IOC_CREATE {
                "new"
            } else {
                "0"
            };
            let good = request.good(name)?;
            let size = good.len() as u32;
            memory.write(0, &[0; PAGE]);
            memory.write(0, &good);
            memory.write(0, &(size + 64).to_ne_bytes());
            control.raw_request(request.number, memory.address(0))?;
            assert_eq!(
                memory.read(0, 4),
                size.to_ne_bytes(),
                "{}: what is known",
                request.name
            );
        }
        Ok(())
    }),
    Test::with(
        "requests_for_devices_are_unknown_to_the_control_node",
        NONE,
        || {
            let control = Control::open()?;
            let of_devices = [
                abi::IOC_COUNTERS,
                abi::IOC_FRAME,
                abi::IOC_NOTIFY,
                abi::IOC_EVENTS,
                abi::IOC_EVENTFD,
            ];
            for number in of_devices.into_iter().chain([
                abi::IOC_TYPE << 8,
                (abi::IOC_TYPE << 8) | 0xFF,
                0x5401,
            ]) {
                assert_errno(
                    control.raw_request(number, 0),
                    Errno::NOTTY,
                    &format!("{number:#x}"),
                );
            }
            Ok(())
        },
    ),
    Test::with("the_control_node_has_no_bytes", NONE, || {
        let control = Control::open()?;
        assert_errno(
            pread(&control, &mut [0; 4], 0).map_err(io::Error::from),
            Errno::INVAL,
            "read",
        );
        assert_errno(
            pwrite(&control, &[0; 4], 0).map_err(io::Error::from),
            Errno::INVAL,
            "write",
        );
        assert_errno(
            Mapping::shared(&control, PAGE).map(drop),
            Errno::NODEV,
            "mmap",
        );
        Ok(())
    }),
    Test::with(
        "descriptors_that_are_copied_and_inherited_work",
        NONE,
        || {
            let control = Control::open()?;
            let copy = rustix::io::dup(&control)?;
            let child = mmapdev_userspace::child::Child::run(|| {
                control
                    .create(control::memory("child", MIB as u64).expect("a name"))
                    .expect("create");
                Vec::new()
            })?;
            child.join();
            drop(copy);
            assert_eq!(control.list()?.len(), 1);
            Ok(())
        },
    ),
    Test::with("there_are_as_many_devices_as_are_documented", NONE, || {
        let control = Control::open()?;
        for number in 0..4096 {
            control.create(control::memory(&format!("{number}"), PAGE as u64)?)?;
        }
        let refused = control.create(control::memory("more", PAGE as u64)?);
        assert_errno(refused, Errno::NOSPC, "one more");
        control.destroy("17")?;
        control.create(control::memory("more", PAGE as u64)?)?;
        assert_eq!(control.list()?.len(), 4096);
        Ok(())
    }),
];

/// A request of the control node's, and its structure.
struct Request {
    name: &'static str,
    number: u32,
}

/// All of them; those that change something last.
const REQUESTS: [Request; 6] = [
    Request {
        name: "INFO",
        number: abi::IOC_INFO,
    },
    Request {
        name: "NEXT",
        number: abi::IOC_NEXT,
    },
    Request {
        name: "RESIZE",
        number: abi::IOC_RESIZE,
    },
    Request {
        name: "PUNCH",
        number: abi::IOC_PUNCH,
    },
    Request {
        name: "CREATE",
        number: abi::IOC_CREATE,
    },
    Request {
        name: "DESTROY",
        number: abi::IOC_DESTROY,
    },
];

impl Request {
    /// The size of the first version of the structure, which is now of `size` bytes.
    fn minimum(&self, size: usize) -> u32 {
        match self.number {
            abi::IOC_CREATE => abi::CREATE_SIZE_VER0 as u32,
            _ => size as u32,
        }
    }

    /// The structure that succeeds for a device of this name, byte by byte.
    fn good(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = match self.number {
            abi::IOC_CREATE => return Ok(bytes_of(&control::memory(name, MIB as u64)?)),
            abi::IOC_DESTROY => vec![0; size_of::<abi::Destroy>()],
            abi::IOC_RESIZE => vec![0; size_of::<abi::Resize>()],
            abi::IOC_PUNCH => vec![0; size_of::<abi::Punch>()],
            _ => vec![0; size_of::<abi::Info>()],
        };
        let size = bytes.len();
        bytes[..4].copy_from_slice(&(size as u32).to_ne_bytes());
        match self.number {
            abi::IOC_RESIZE => bytes[8..16].copy_from_slice(&(MIB as u64).to_ne_bytes()),
            abi::IOC_PUNCH => bytes[16..24].copy_from_slice(&(PAGE as u64).to_ne_bytes()),
            _ => {}
        }
        bytes[size - abi::NAME_SIZE..].copy_from_slice(&control::name_field(name.as_bytes())?.0);
        Ok(bytes)
    }
}

fn named(name: abi::Name) -> io::Result<abi::Create> {
    Ok(abi::Create {
        name,
        ..control::memory("", MIB as u64)?
    })
}

/// The structure as it lies in memory.
fn bytes_of(create: &abi::Create) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend([create.size, create.flags].map(u32::to_ne_bytes).concat());
    bytes.extend(create.device_size.to_ne_bytes());
    let words = [
        create.backing,
        create.huge,
        create.largest_folio,
        create.reserved,
    ];
    bytes.extend(words.map(u32::to_ne_bytes).concat());
    bytes.extend(create.id.to_ne_bytes());
    bytes.extend(create.name.0);
    bytes.extend(create.file.to_ne_bytes());
    bytes.extend(create.file_flags.to_ne_bytes());
    bytes.extend(create.file_offset.to_ne_bytes());
    assert_eq!(bytes.len(), size_of::<abi::Create>());
    bytes
}
