// SPDX-License-Identifier: GPL-2.0

//! The requests of `include/uapi/mmapdev.h`: their answers, and each wrong way to ask.

use crate::Test;
use mmapdev_userspace::abi;
use mmapdev_userspace::control::Control;
use mmapdev_userspace::device::{self, Device};
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::{HUGE_PAGE, KIB, MIB, PAGE};
use rustix::fs::OFlags;
use rustix::io::{pwrite, Errno};
use rustix::mm::MprotectFlags;
use rustix::process::Uid;
use rustix::thread::{capabilities, set_capabilities, set_thread_res_uid, CapabilitySet};
use std::io;

const SMALL: &str = "huge=0 size_mib=4";
const LARGE: &str = "huge=1 size_mib=4";

pub(crate) const TESTS: &[Test] = &[
    Test::with("info_says_what_the_device_is", "huge=0 size_mib=3", || {
        let device = Device::open()?;
        pwrite(&device, &[1; 2], PAGE as u64 - 1)?;
        let expected = abi::Info {
            size: abi::INFO_SIZE_VER1 as u32,
            flags: 0,
            device_size: 3 * MIB as u64,
            resident_bytes: 2 * PAGE as u64,
            backing: abi::BACKING_MEMORY,
            huge: abi::HUGE_NEVER,
            id: Control::open()?.next(0)?.expect("a device").id,
            largest_folio: PAGE as u32,
            open_files: 1,
            name: abi::Name::new(b"0").expect("a short name"),
        };
        assert_eq!(device.info()?, expected);
        Ok(())
    }),
    Test::with("info_says_which_pages_the_device_uses", LARGE, || {
        assert_eq!(Device::open()?.info()?.huge, abi::HUGE_ALWAYS);
        Ok(())
    }),
    Test::with("counters_start_at_zero_and_never_shrink", LARGE, || {
        let device = Device::open()?;
        let zero = abi::Counters {
            size: abi::COUNTERS_SIZE_VER1 as u32,
            ..Default::default()
        };
        assert_eq!(device.counters()?, zero);
        pwrite(&device, &[1; 100], 0)?;
        let one = device.counters()?;
        assert_eq!((one.bytes_written, one.folios_added), (100, 1));
        assert_eq!(one.bytes_added, device.info()?.resident_bytes);
        Mapping::shared(&device, MIB)?.touch_write(0, MIB, 2);
        let two = device.counters()?;
        assert!(two.faults > 0, "{two:?}");
        assert_eq!(two.bytes_written, 100);
        Ok(())
    }),
    Test::with("a_frame_is_one_page_of_one_folio", LARGE, || {
        let device = Device::open()?;
        let mapping = Mapping::shared(&device, 4 * MIB)?;
        mapping.store(HUGE_PAGE, 1);
        let start = HUGE_PAGE as u64;
        let first = device.frame(start)?;
        assert_eq!(first.size, abi::FRAME_SIZE_VER0 as u32);
        assert_eq!(first.offset, start);
        let folio = first.folio_bytes;
        assert!(folio.is_power_of_two() && folio >= PAGE as u64, "{first:?}");
        for at in [1, 4095, 4096, folio - 1] {
            if at < folio {
                let frame = device.frame(start + at)?;
                assert_eq!(frame.frame, first.frame + at / 4096, "at {at}");
                assert_eq!((frame.offset, frame.folio_bytes), (start + at, folio));
            }
        }
        Ok(())
    }),
    Test::with("a_frame_of_a_small_page_stands_alone", SMALL, || {
        let device = Device::open()?;
        pwrite(&device, &[1], 4096)?;
        let frame = device.frame(4096)?;
        assert!(frame.frame > 0);
        assert_eq!(frame.folio_bytes, PAGE as u64);
        assert_eq!(frame_errno(&device, 4095), Some(Errno::NODATA));
        assert_eq!(frame_errno(&device, 8192), Some(Errno::NODATA));
        Ok(())
    }),
    Test::with("no_frame_is_beyond_the_end_or_untouched", LARGE, || {
        let device = Device::open()?;
        let size = device.size()? as u64;
        pwrite(&device, &[1], size - 1)?;
        for offset in [size, size + 1, 1 << 40, 1 << 63, u64::MAX - 4095, u64::MAX] {
            let errno = frame_errno(&device, offset);
            assert_eq!(errno, Some(Errno::NXIO), "{offset}");
        }
        for offset in [0, 1, 64 * KIB as u64] {
            let errno = frame_errno(&device, offset);
            assert_eq!(errno, Some(Errno::NODATA), "{offset}");
        }
        // Asking has touched nothing.
        let only = device.frame(size - 1)?.folio_bytes;
        assert_eq!(device.info()?.resident_bytes, only);
        Ok(())
    }),
    Test::with(
        "a_refused_frame_leaves_the_structure_as_it_was",
        LARGE,
        || {
            let device = Device::open()?;
            let memory = Mapping::anonymous(PAGE)?;
            for offset in [0, u64::MAX] {
                let mut asked = FRAME.structure(FRAME.version0 as u32, 0);
                asked[8..16].copy_from_slice(&offset.to_ne_bytes());
                asked[16..32].fill(0xA5);
                memory.write(0, &asked);
                assert!(device.raw_request(FRAME.number, memory.address(0)).is_err());
                assert_eq!(memory.read(0, asked.len()), asked);
            }
            Ok(())
        },
    ),
    Test::with("sizes_that_are_too_small_are_invalid", LARGE, || {
        let (device, memory) = (touched()?, Mapping::anonymous(PAGE)?);
        for request in REQUESTS {
            for size in [0, 1, 3, 4, 5, 8, request.version0 as u32 - 1] {
                memory.write(0, &request.structure(size, 0));
                let got = ask(&device, &request, memory.address(0));
                assert_eq!(got, Err(Errno::INVAL), "{}, size {size}", request.name);
                assert_eq!(memory.read(0, 4), size.to_ne_bytes());
            }
        }
        Ok(())
    }),
    Test::with("sizes_larger_than_a_page_are_too_big", LARGE, || {
        let (device, memory) = (touched()?, Mapping::anonymous(4 * PAGE)?);
        for request in REQUESTS {
            for size in [PAGE as u32 + 1, 2 * PAGE as u32, 1 << 31, u32::MAX] {
                memory.write(0, &request.structure(size, 0));
                let got = ask(&device, &request, memory.address(0));
                assert_eq!(got, Err(Errno::TOOBIG), "{}, size {size}", request.name);
            }
        }
        Ok(())
    }),
    Test::with(
        "a_newer_structure_is_answered_if_its_rest_is_zero",
        LARGE,
        || {
            let (device, memory) = (touched()?, Mapping::anonymous(2 * PAGE)?);
            for request in REQUESTS {
                let known = request.known;
                for size in [
                    known + 1,
                    known + 8,
                    known + 63,
                    known + 64,
                    known + 65,
                    PAGE,
                ] {
                    let what = format!("{}, size {size}", request.name);
                    memory.write(0, &[0xA5; 2 * PAGE]);
                    memory.write(0, &vec![0; size]);
                    memory.write(0, &request.structure(size as u32, 0));
                    assert_eq!(ask(&device, &request, memory.address(0)), Ok(()), "{what}");
                    request.check_answer(&memory, 0, size, &what);
                    let rest = memory.read(known, size - known);
                    assert!(rest.iter().all(|&byte| byte == 0), "{what}");
                    let beyond = memory.read(size, 2 * PAGE - size);
                    assert!(beyond.iter().all(|&byte| byte == 0xA5), "{what}");
                }
            }
            Ok(())
        },
    ),
    Test::with(
        "a_newer_structure_is_too_big_if_its_rest_says_anything",
        LARGE,
        || {
            let (device, memory) = (touched()?, Mapping::anonymous(2 * PAGE)?);
            for request in REQUESTS {
                let known = request.known;
                for size in [known + 1, known + 8, known + 64, known + 65, PAGE] {
                    for byte in [known, (known + size) / 2, size - 1] {
                        let what = format!("{}, size {size}, byte {byte}", request.name);
                        memory.write(0, &vec![0; size]);
                        memory.write(0, &request.structure(size as u32, 0));
                        memory.store(byte, 1);
                        let before = memory.read(0, size);
                        let got = ask(&device, &request, memory.address(0));
                        assert_eq!(got, Err(Errno::TOOBIG), "{what}");
                        assert_eq!(memory.read(0, size), before, "{what}");
                    }
                    // The first byte after it is none of the kernel's business.
                    memory.write(0, &vec![0; size]);
                    memory.write(0, &request.structure(size as u32, 0));
                    memory.store(size, 1);
                    assert_eq!(ask(&device, &request, memory.address(0)), Ok(()));
                }
            }
            Ok(())
        },
    ),
    Test::with("the_answer_ends_where_the_structure_does", LARGE, || {
        let (device, memory) = (touched()?, Mapping::anonymous(PAGE)?);
        for request in REQUESTS {
            // The kernel overwrites the size by its own, and touches nothing around the structure.
            memory.write(0, &[0xA5; PAGE]);
            memory.write(64, &request.structure(request.version0 as u32, 0));
            assert_eq!(ask(&device, &request, memory.address(64)), Ok(()));
            request.check_answer(&memory, 64, request.version0, request.name);
            let behind = 64 + request.version0;
            let around = [memory.read(0, 64), memory.read(behind, PAGE - behind)].concat();
            assert!(around.iter().all(|&byte| byte == 0xA5), "{}", request.name);
        }
        Ok(())
    }),
    Test::with("flags_are_invalid", LARGE, || {
        let (device, memory) = (touched()?, Mapping::anonymous(PAGE)?);
        for request in REQUESTS {
            for flags in [1, 2, 1 << 31, u32::MAX] {
                let asked = request.structure(request.version0 as u32, flags);
                memory.write(0, &asked);
                let got = ask(&device, &request, memory.address(0));
                assert_eq!(got, Err(Errno::INVAL), "{}, flags {flags}", request.name);
                assert_eq!(memory.read(0, asked.len()), asked);
            }
        }
        Ok(())
    }),
    Test::with("bad_pointers_are_efault", LARGE, || {
        let device = touched()?;
        let mut memory = Mapping::anonymous(3 * PAGE)?;
        memory.unmap(PAGE, PAGE)?;
        let gap = memory.address(PAGE);
        for request in REQUESTS {
            let known = request.known;
            let asked = request.structure(known as u32, 0);
            let nowhere = [
                0,
                1,
                gap,
                gap + PAGE - 1,
                1 << 47,
                // What is not canonical, the kernel's half, and the very end.
                1 << 62,
                0xFFFF_8000_0000_0000,
                0xFFFF_FFFF_8100_0000,
                usize::MAX - 3,
                usize::MAX,
            ];
            for address in nowhere {
                let got = ask(&device, &request, address);
                assert_eq!(got, Err(Errno::FAULT), "{}, {address:#x}", request.name);
            }
            // The structure ends in the gap: after half of the size, after it, after all but a byte.
            for there in [2, 4, 8, known - 1] {
                let start = PAGE - there;
                memory.write(start, &asked[..there]);
                let got = ask(&device, &request, memory.address(start));
                assert_eq!(got, Err(Errno::FAULT), "{}, {there}", request.name);
                assert_eq!(memory.read(start, there), asked[..there]);
            }
            // The same for what is newer than the kernel: all that it knows is there.
            let start = PAGE - known - 8;
            memory.write(start, &[0; 8].repeat(known / 8 + 1));
            memory.write(start, &request.structure(known as u32 + 16, 0));
            let got = ask(&device, &request, memory.address(start));
            assert_eq!(got, Err(Errno::FAULT), "{}, newer", request.name);
            // And what ends at the gap's very edge is whole.
            memory.write(PAGE - known, &asked);
            let address = memory.address(PAGE - known);
            assert_eq!(ask(&device, &request, address), Ok(()), "{}", request.name);
            request.check_answer(&memory, PAGE - known, known, request.name);
        }
        Ok(())
    }),
    Test::with(
        "memory_that_cannot_take_the_answer_is_efault",
        LARGE,
        || {
            let device = touched()?;
            for request in REQUESTS {
                let asked = request.structure(request.version0 as u32, 0);
                for protection in [MprotectFlags::READ, MprotectFlags::empty()] {
                    let memory = Mapping::anonymous(PAGE)?;
                    memory.write(0, &asked);
                    memory.protect(0, PAGE, protection)?;
                    let got = ask(&device, &request, memory.address(0));
                    assert_eq!(got, Err(Errno::FAULT), "{}, {protection:?}", request.name);
                    memory.protect(0, PAGE, MprotectFlags::READ)?;
                    assert_eq!(memory.read(0, asked.len()), asked, "{}", request.name);
                }
            }
            Ok(())
        },
    ),
    Test::with("a_structure_may_lie_anywhere_in_memory", LARGE, || {
        let device = touched()?;
        let memory = Mapping::anonymous(2 * PAGE)?;
        for request in REQUESTS {
            let known = request.known;
            let across = (PAGE - known + 1..PAGE).step_by(3);
            for start in [0, 1, 2, 3, 7].into_iter().chain(across) {
                let what = format!("{} at {start}", request.name);
                memory.write(start, &request.structure(known as u32, 0));
                assert_eq!(
                    ask(&device, &request, memory.address(start)),
                    Ok(()),
                    "{what}"
                );
                request.check_answer(&memory, start, known, &what);
            }
        }
        Ok(())
    }),
    Test::with("a_structure_may_lie_in_the_device_itself", LARGE, || {
        let device = touched()?;
        let mapping = Mapping::shared(&device, 4 * MIB)?;
        for request in REQUESTS {
            // In a page that the request itself brings in, and across two of them.
            for start in [HUGE_PAGE + 8, HUGE_PAGE + PAGE - 8] {
                mapping.write(start, &request.structure(request.version0 as u32, 0));
                assert_eq!(ask(&device, &request, mapping.address(start)), Ok(()));
                request.check_answer(&mapping, start, request.version0, request.name);
            }
        }
        Ok(())
    }),
    Test::with("unknown_requests_are_enotty", LARGE, || {
        let device = touched()?;
        let memory = Mapping::anonymous(PAGE)?;
        // As if they were requests whose structure is right.
        let asked = INFO.structure(INFO.version0 as u32, 0);
        let mut unknown = Vec::new();
        for number in [0, 4, 8, 12, 0x7F, 0x81, 0x82, 0x83, 0xFF] {
            unknown.push((abi::IOC_TYPE << 8) | number);
        }
        for number in [abi::IOC_INFO, abi::IOC_COUNTERS, abi::IOC_FRAME] {
            // Other types; and with a direction, or a size, or both, it is another request.
            unknown.extend([number - 0x100, number + 0x100, number | 0x8000]);
            unknown.extend([1u32, 2, 3].map(|direction| (direction << 30) | number));
            unknown.extend([1u32, 32, 80].map(|size| (size << 16) | number));
            unknown.push((3 << 30) | (32 << 16) | number);
        }
        // What only the control node knows: 4 and 8.
        unknown
            .retain(|number| ![abi::IOC_INFO, abi::IOC_COUNTERS, abi::IOC_FRAME].contains(number));
        for number in unknown {
            memory.write(0, &asked);
            let got = plain(device.raw_request(number, memory.address(0)));
            assert_eq!(got, Err(Errno::NOTTY), "{number:#x}");
            assert_eq!(memory.read(0, asked.len()), asked, "{number:#x}");
            // Nor is the argument looked at.
            let got = plain(device.raw_request(number, 0));
            assert_eq!(got, Err(Errno::NOTTY), "{number:#x}");
        }
        Ok(())
    }),
    Test::with(
        "requests_of_every_file_are_answered_as_for_any_device",
        LARGE,
        || {
            let device = touched()?;
            let zero = Device::open_with("/dev/zero", OFlags::RDWR)?;
            let memory = Mapping::anonymous(PAGE)?;
            let asked = INFO.structure(INFO.version0 as u32, 0);
            let of_the_kernel = [
                0x0001,      // FIBMAP
                0x0002,      // FIGETBSZ
                0x5450,      // FIONCLEX
                0x5451,      // FIOCLEX
                0x541B,      // FIONREAD
                0x5421,      // FIONBIO
                0x5452,      // FIOASYNC
                0x5460,      // FIOQSIZE
                0xC020_660B, // FS_IOC_FIEMAP
                0x8008_6601, // FS_IOC_GETFLAGS
            ];
            for number in of_the_kernel {
                let answers = [&zero, &device].map(|file| {
                    memory.write(0, &asked);
                    let result = plain(file.raw_request(number, memory.address(0)));
                    (result, memory.read(0, 256))
                });
                let [any, ours] = answers;
                assert_eq!(ours, any, "{number:#x}");
            }
            Ok(())
        },
    ),
    Test::with("requests_need_no_read_or_write_access", LARGE, || {
        touched()?;
        let memory = Mapping::anonymous(PAGE)?;
        for flags in [OFlags::RDONLY, OFlags::WRONLY] {
            let device = Device::open_with(device::FIRST, flags)?;
            for request in REQUESTS {
                memory.write(0, &request.structure(request.version0 as u32, 0));
                assert_eq!(ask(&device, &request, memory.address(0)), Ok(()));
                request.check_answer(&memory, 0, request.version0, request.name);
            }
        }
        Ok(())
    }),
    Test::with("a_frame_needs_the_capability_to_administer", LARGE, || {
        let device = touched()?;
        let mut sets = capabilities(None)?;
        assert!(device.frame(0).is_ok());
        // To have all others is no help, nor is it to be able to have this one again.
        sets.effective.remove(CapabilitySet::SYS_ADMIN);
        set_capabilities(None, sets)?;
        assert_eq!(frame_errno(&device, 0), Some(Errno::PERM));
        sets.effective = CapabilitySet::SYS_ADMIN;
        set_capabilities(None, sets)?;
        assert!(device.frame(0).is_ok());
        Ok(())
    }),
    Test::with(
        "without_privileges_all_but_the_frame_is_answered",
        LARGE,
        || {
            let device = touched()?;
            let nobody = Uid::from_raw(65534);
            set_thread_res_uid(nobody, nobody, nobody)?;
            assert_eq!(device.info()?.device_size, 4 * MIB as u64);
            assert_eq!(device.counters()?.bytes_written, 1);
            // The right to ask comes first: an offset without a frame is not told from one with it.
            for offset in [0, 4 * MIB as u64 - 1, u64::MAX] {
                assert_eq!(frame_errno(&device, offset), Some(Errno::PERM));
            }
            let got = plain(device.raw_request(abi::IOC_FRAME, 0));
            assert_eq!(got, Err(Errno::PERM));
            Ok(())
        },
    ),
];

/// A request and the structure that it takes.
struct Request {
    name: &'static str,
    number: u32,
    /// The size of its first version.
    version0: usize,
    /// The size of the version that is known now.
    known: usize,
}

const INFO: Request = Request {
    name: "INFO",
    number: abi::IOC_INFO,
    version0: abi::INFO_SIZE_VER0,
    known: size_of::<abi::Info>(),
};
const COUNTERS: Request = Request {
    name: "COUNTERS",
    number: abi::IOC_COUNTERS,
    version0: abi::COUNTERS_SIZE_VER0,
    known: size_of::<abi::Counters>(),
};
const FRAME: Request = Request {
    name: "FRAME",
    number: abi::IOC_FRAME,
    version0: abi::FRAME_SIZE_VER0,
    known: size_of::<abi::Frame>(),
};
const EVENTS: Request = Request {
    name: "EVENTS",
    number: abi::IOC_EVENTS,
    version0: abi::EVENTS_SIZE_VER0,
    known: size_of::<abi::Events>(),
};
const EVENTFD: Request = Request {
    name: "EVENTFD",
    number: abi::IOC_EVENTFD,
    version0: abi::EVENTFD_SIZE_VER0,
    known: size_of::<abi::EventFd>(),
};
const REQUESTS: [Request; 5] = [INFO, COUNTERS, FRAME, EVENTS, EVENTFD];

impl Request {
    /// The structure as a program fills it in, as far as it is known; a frame is that of offset 0, and the eventfd is
    /// none.
    fn structure(&self, size: u32, flags: u32) -> Vec<u8> {
        let mut bytes = vec![0; self.known.min(size as usize).max(self.version0)];
        bytes[..4].copy_from_slice(&size.to_ne_bytes());
        bytes[4..8].copy_from_slice(&flags.to_ne_bytes());
        if self.number == abi::IOC_EVENTFD {
            bytes[8..12].copy_from_slice(&abi::NO_EVENTFD.to_ne_bytes());
        }
        bytes
    }

    /// Checks the kernel's answer to a structure of `size` bytes for what [`touched`] gives: how much of it is
    /// known, flags of 0, and something in the first field that it fills in.
    fn check_answer(&self, memory: &Mapping, start: usize, size: usize, what: &str) {
        let bytes = memory.read(start, self.version0);
        let answered = self.known.min(size) as u32;
        assert_eq!(bytes[..4], answered.to_ne_bytes(), "{what}");
        assert_eq!(bytes[4..8], [0; 4], "{what}");
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        match self.number {
            abi::IOC_INFO => assert_eq!(word(8), 4 * MIB as u64, "{what}"),
            abi::IOC_COUNTERS => assert_eq!(word(72), 1, "{what}"),
            abi::IOC_EVENTS => assert_eq!(word(8), 0, "{what}"),
            abi::IOC_EVENTFD => assert_eq!(word(8), u64::from(u32::MAX), "{what}"),
            _ => {
                assert_eq!(word(8), 0, "{what}");
                assert!(word(16) != 0 && word(24) >= 4096, "{what}");
            }
        }
    }
}

/// A device of 4 MiB whose first byte has been written, by a call.
fn touched() -> io::Result<Device> {
    let device = Device::open()?;
    assert_eq!(pwrite(&device, &[1], 0), Ok(1));
    Ok(device)
}

fn plain(result: io::Result<()>) -> Result<(), Errno> {
    result.map_err(|error| Errno::from_io_error(&error).expect("an error of the kernel's"))
}

fn ask(device: &Device, request: &Request, address: usize) -> Result<(), Errno> {
    plain(device.raw_request(request.number, address))
}

fn frame_errno(device: &Device, offset: u64) -> Option<Errno> {
    let error = device.frame(offset).err()?;
    Errno::from_io_error(&error)
}
