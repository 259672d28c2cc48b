// SPDX-License-Identifier: GPL-2.0

//! Memory of PCI devices: mapped by page frame, copied by accesses of the device, and taken away while in use.
//!
//! The rig's guest has two of ivshmem, the smaller one behind a port that it can be taken out of, an edu device, whose
//! registers answer, a pci-testdev, which has I/O ports too, and a network card without a driver, whose power can be taken away.

use crate::{assert_errno, Test};
use mmapdev_userspace::child::{self, Child, Touch};
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::fixed_buffer::FixedBuffer;
use mmapdev_userspace::kernel_log::Mark;
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::module::{self, Loaded};
use mmapdev_userspace::monitor::Monitor;
use mmapdev_userspace::pci::{self, PciDevice};
use mmapdev_userspace::{abi, is_sanitizer_kernel, pagemap, slowness, smaps, HUGE_PAGE, MIB, PAGE};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags, Mode, OFlags};
use rustix::io::{pread, pwrite, Errno};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use rustix::process::{getpid, Uid};
use serde_json::json;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

const NONE: &str = "devices=0";
const SIZE: usize = 16 * MIB;

const GIB: usize = 1024 * MIB;

/// Plugging takes the kernel up to six seconds, as a person might change their mind.
const LONG: Option<Duration> = Some(Duration::from_secs(90));

/// Where ivshmem has its memory.
pub(crate) const MEMORY: usize = 2;

/// The smaller ivshmem, which the module's driver binds by itself.
pub(crate) fn shared() -> PciDevice {
    ivshmem(SIZE)
}

/// The larger one.
fn large() -> PciDevice {
    ivshmem(2048 * MIB)
}

fn ivshmem(size: usize) -> PciDevice {
    let all = PciDevice::all(0x1af4, 0x1110).expect("sysfs");
    let is_it = |device: &&PciDevice| {
        let bar = device.bar(MEMORY).expect("sysfs");
        bar.is_some_and(|bar| bar.len == size as u64)
    };
    all.iter().find(is_it).expect("an ivshmem").clone()
}

fn one(vendor: u16, number: u16) -> PciDevice {
    let all = PciDevice::all(vendor, number).expect("sysfs");
    all.first().expect("a device of the rig's").clone()
}

/// Registers, at offset 0 an identification, at 4 what was stored last with all bits turned round. Below 0x80 an access has
/// to have four bytes; else what is read has all bits set.
fn edu() -> PciDevice {
    one(0x1234, 0x11e8)
}

/// A device that no driver is there for: BAR 0 registers, BAR 1 I/O ports, BAR 2 memory that may be read ahead.
fn testdev() -> PciDevice {
    one(0x1b36, 0x0005)
}

const EDU_ID: u32 = 0x0100_00ed;
const EDU_TURNED: usize = 4;

fn monitor() -> io::Result<Monitor> {
    Monitor::open(slowness() * Duration::from_secs(20))
}

/// Where the driver is told to bind a device that it knows.
pub(crate) const BIND: &str = "/sys/bus/pci/drivers/mmapdev/bind";
/// Where it is told to let go of one.
pub(crate) const UNBIND: &str = "/sys/bus/pci/drivers/mmapdev/unbind";

/// Returns how many BARs the driver has claimed.
pub(crate) fn claimed() -> io::Result<usize> {
    Ok(fs::read_to_string("/proc/iomem")?
        .lines()
        .filter(|line| line.ends_with(" : mmapdev"))
        .count())
}

/// Returns the node of the smaller ivshmem's memory.
pub(crate) fn memory_node() -> PathBuf {
    control::node(&shared().name_of(MEMORY))
}

/// Opens the smaller ivshmem's memory.
pub(crate) fn open_memory() -> io::Result<Device> {
    open(&shared(), MEMORY)
}

fn open(device: &PciDevice, bar: usize) -> io::Result<Device> {
    open_with(device, bar, OFlags::RDWR)
}

fn open_with(device: &PciDevice, bar: usize, flags: OFlags) -> io::Result<Device> {
    Device::open_with(control::node(&device.name_of(bar)), flags)
}

/// A device that the driver is told to bind, and lets go of when this is dropped.
struct Bound(PciDevice);

impl Bound {
    fn new(device: PciDevice) -> io::Result<Self> {
        device.bind()?;
        Ok(Self(device))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // Where the test has not done so.
        let _ = self.0.unbind();
    }
}

pub(crate) const TESTS: &[Test] = &[
    Test::with("a_bar_that_is_memory_is_a_device", NONE, || {
        let ivshmem = shared();
        let bar = ivshmem.bar(MEMORY)?.expect("a BAR");
        let device = open(&ivshmem, MEMORY)?;
        assert_eq!(device.size()? as u64, bar.len);
        let info = device.info()?;
        assert_eq!(info.backing, abi::BACKING_PCI);
        assert_eq!((info.device_size, info.resident_bytes), (bar.len, 0));
        assert_eq!(info.largest_folio as usize, HUGE_PAGE);
        assert_eq!(info.open_files, 1);
        let listed = Control::open()?.list()?;
        let names: Vec<_> = listed.iter().map(|info| info.name.bytes()).collect();
        assert!(names.contains(&ivshmem.name_of(MEMORY).as_bytes()));
        let named = Control::open()?.info(&ivshmem.name_of(MEMORY))?;
        assert_eq!(named.id, info.id);
        Ok(())
    }),
    Test::with("the_command_says_how_a_bar_is_ended", NONE, || {
        let name = shared().name_of(MEMORY);
        for request in [
            &["resize", "--size", "1M"][..],
            &["punch", "--offset", "0", "--length", "1"],
            &["destroy"],
        ] {
            let output = Command::new("mmapdevctl")
                .args(request)
                .arg(&name)
                .output()?;
            let words = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{request:?}: {words}");
            assert!(words.contains("unbind the driver"), "{request:?}: {words}");
        }
        Ok(())
    }),
    Test::with("any_device_can_be_bound_by_driver_override", NONE, || {
        let edu = Bound::new(edu())?;
        assert!(edu.0.is_bound());
        assert_eq!(open(&edu.0, 0)?.size()?, MIB);
        edu.0.unbind()?;
        assert!(!control::node(&edu.0.name_of(0)).exists());
        Ok(())
    }),
    Test::with("any_device_can_be_bound_by_new_id", NONE, || {
        let edu = edu();
        fs::write("/sys/bus/pci/drivers/mmapdev/new_id", "1234 11e8")?;
        let device = open(&edu, 0)?;
        assert_eq!(device.size()?, MIB);
        drop(device);
        edu.unbind()?;
        fs::write("/sys/bus/pci/drivers/mmapdev/remove_id", "1234 11e8")?;
        assert!(!control::node(&edu.name_of(0)).exists());
        Ok(())
    }),
    Test::with("io_ports_are_no_device", NONE, || {
        let testdev = Bound::new(testdev())?;
        let ports = testdev.0.bar(1)?.expect("a BAR");
        assert!(!ports.is_memory);
        assert!(!control::node(&testdev.0.name_of(1)).exists());
        assert_eq!(open(&testdev.0, 0)?.size()?, PAGE);
        assert_eq!(open(&testdev.0, 2)?.size()?, 4 * MIB);
        Ok(())
    }),
    Test::with("a_device_without_memory_is_not_bound", NONE, || {
        // The controller of the SMBus has I/O ports alone.
        let ports = PciDevice::at("0000:00:1f.3");
        let mut log = Mark::now()?;
        assert_errno(ports.bind(), Errno::NODEV, "binding");
        assert!(!ports.is_bound());
        assert_says(&mut log, &ports, "has no BAR that is memory")
    }),
    Test::with("a_bridge_is_not_bound", NONE, || {
        let bridge = one(0x1b36, 0x0001);
        let mut log = Mark::now()?;
        assert_errno(bridge.bind(), Errno::NODEV, "binding");
        assert!(!bridge.is_bound());
        assert_says(&mut log, &bridge, "is a bridge")
    }),
    Test::with("the_mapping_is_the_devices_own_memory", NONE, || {
        let ivshmem = shared();
        let bar = ivshmem.bar(MEMORY)?.expect("a BAR");
        let device = open(&ivshmem, MEMORY)?;
        let mapping = Mapping::shared(&device, SIZE)?;
        let mut monitor = monitor()?;
        for offset in [0, 5 * PAGE, HUGE_PAGE + PAGE, SIZE - PAGE] {
            let frame = device.frame(offset as u64)?.frame;
            assert_eq!(frame, (bar.start + offset as u64) / PAGE as u64);
            // What QEMU has at the device's own address. The page map says nothing of what has no page.
            let address = frame * PAGE as u64;
            mapping.store(offset, 0xa5);
            assert_eq!(monitor.memory(address)?, 0xa5, "at {offset}");
            let child = Child::run(|| {
                let device = open_memory().expect("the device");
                let mapping = Mapping::shared(&device, SIZE).expect("a mapping");
                mapping.store(offset, 0x3c);
                Vec::new()
            })?;
            child.join();
            assert_eq!(monitor.memory(address)?, 0x3c, "from another process");
            assert_eq!(pagemap::frame(mapping.address(offset))?, None);
        }
        assert_eq!(
            smaps::of(mapping.address(0))?["Rss"],
            0,
            "no memory is held"
        );
        Ok(())
    }),
    Test::with(
        "a_store_is_seen_by_a_read_and_a_write_by_a_load",
        NONE,
        || {
            let device = open_memory()?;
            let mapping = Mapping::shared(&device, SIZE)?;
            for offset in [0, 4091, HUGE_PAGE - 3, SIZE - 8] {
                let bytes: Vec<u8> = (1..=8).map(|at| (offset as u8).wrapping_add(at)).collect();
                mapping.write(offset, &bytes);
                let mut seen = [0; 8];
                assert_eq!(pread(&device, &mut seen, offset as u64)?, 8);
                assert_eq!(seen, bytes[..]);
                let others: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
                assert_eq!(pwrite(&device, &others, offset as u64)?, 8);
                assert_eq!(mapping.read(offset, 8), others);
            }
            Ok(())
        },
    ),
    Test::with(
        "many_bytes_of_any_length_come_back_as_they_were",
        NONE,
        || {
            let device = open_memory()?;
            let bytes: Vec<u8> = (0..100_003u32).map(|at| (at % 251) as u8).collect();
            for offset in [0, 1, 6, 4093] {
                for len in [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 4096, 16_384, 16_385, 100_003] {
                    assert_eq!(pwrite(&device, &bytes[..len], offset)?, len);
                    let mut seen = vec![0; len];
                    assert_eq!(pread(&device, &mut seen, offset)?, len);
                    assert!(seen == bytes[..len], "{len} at {offset}");
                }
            }
            Ok(())
        },
    ),
    Test::with(
        "many_bytes_of_uncached_memory_come_back_as_they_were",
        NONE,
        || {
            let device = open_with(&shared(), MEMORY, OFlags::RDWR | OFlags::SYNC)?;
            let bytes: Vec<u8> = (0..70_001u32).map(|at| (at % 251) as u8).collect();
            for offset in [0, 1, 2, 3, 5, 6, 4093] {
                for len in [1, 2, 3, 4, 5, 7, 8, 9, 31, 4099, 16_384, 16_392, 70_001] {
                    let around = vec![0xee; len + 16];
                    assert_eq!(pwrite(&device, &around, offset)?, around.len());
                    assert_eq!(pwrite(&device, &bytes[..len], offset + 8)?, len);
                    let mut seen = vec![0; len + 16];
                    assert_eq!(pread(&device, &mut seen, offset)?, seen.len());
                    assert!(seen[8..8 + len] == bytes[..len], "{len} at {offset}");
                    assert_eq!(seen[..8], [0xee; 8], "before {len} at {offset}");
                    assert_eq!(seen[8 + len..], [0xee; 8], "after {len} at {offset}");
                }
            }
            Ok(())
        },
    ),
    Test::with("mapped_access_copies_nothing", NONE, || {
        let device = open_memory()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        let before = device.counters()?;
        mapping.touch_write(0, SIZE, 7);
        mapping.sum(0, SIZE);
        let after = device.counters()?;
        assert_eq!(after.bytes_read, before.bytes_read);
        assert_eq!(after.bytes_written, before.bytes_written);
        let mut bytes = vec![0; 12_345];
        assert_eq!(pread(&device, &mut bytes, 1)?, bytes.len());
        assert_eq!(pwrite(&device, &bytes[..777], 1)?, 777);
        let end = device.counters()?;
        assert_eq!(end.bytes_read - after.bytes_read, 12_345);
        assert_eq!(end.bytes_written - after.bytes_written, 777);
        Ok(())
    }),
    Test::with("one_touch_maps_sixteen_mebibytes", NONE, || {
        let device = open_memory()?;
        for write in [false, true] {
            let before = device.counters()?;
            let mapping = Mapping::shared(&device, SIZE)?;
            match write {
                false => mapping.touch_read(0, SIZE),
                true => mapping.touch_write(0, SIZE, 1),
            }
            let after = device.counters()?;
            assert_eq!(after.huge_faults - before.huge_faults, 1);
            assert_eq!(after.faults, before.faults);
            assert_eq!(after.mmap_lock_faults, before.mmap_lock_faults);
        }
        Ok(())
    }),
    Test::with("stores_that_are_noted_keep_huge_pages", NONE, || {
        const ROUNDS: usize = 50;
        let device = open_memory()?;
        let before = device.counters()?;
        for _ in 0..ROUNDS {
            let mapping = Mapping::shared(&device, SIZE)?;
            // From here on the kernel notes which pages are stored to: the first store to each is one of a page that is mapped
            // for reading.
            fs::write("/proc/self/clear_refs", "4")?;
            // Several at once, of which one is first.
            let ready = Barrier::new(2);
            thread::scope(|scope| {
                for number in 0..2 {
                    let (mapping, ready) = (&mapping, &ready);
                    scope.spawn(move || {
                        for piece in (0..SIZE).step_by(HUGE_PAGE) {
                            ready.wait();
                            mapping.store(piece + number * PAGE, 1);
                        }
                    });
                }
            });
        }
        let after = device.counters()?;
        assert_eq!(after.out_of_memory, before.out_of_memory);
        assert_eq!(after.failed_faults, before.failed_faults);
        assert_eq!(after.faults, before.faults, "page by page");
        let huge = after.huge_faults - before.huge_faults;
        let pieces = SIZE / HUGE_PAGE;
        assert!(huge >= (ROUNDS * pieces) as u64, "no store was noted");
        Ok(())
    }),
    Test::with(
        "a_mapping_off_the_alignment_is_mapped_page_by_page",
        NONE,
        || {
            let device = open_memory()?;
            let mapping =
                Mapping::new(&device, 3 * PAGE, READ_WRITE, MapFlags::SHARED, PAGE as u64)?;
            mapping.touch_write(0, 3 * PAGE, 5);
            let counters = device.counters()?;
            assert_eq!((counters.faults, counters.huge_faults), (3, 0));
            let mut byte = [0];
            assert_eq!(pread(&device, &mut byte, 3 * PAGE as u64)?, 1);
            assert_eq!(byte, [5]);
            Ok(())
        },
    ),
    Test::with("pages_can_be_protected_one_by_one", NONE, || {
        let device = open_memory()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        mapping.touch_write(0, SIZE, 1);
        let at = mapping.address(HUGE_PAGE + PAGE);
        mapping.protect(HUGE_PAGE + PAGE, PAGE, MprotectFlags::READ)?;
        assert_eq!(child::touch(at, true)?, Touch::SegmentationFault(at));
        assert_eq!(child::touch(at + PAGE, true)?, Touch::Done);
        mapping.protect(0, SIZE, MprotectFlags::READ)?;
        mapping.protect(0, SIZE, MprotectFlags::READ | MprotectFlags::WRITE)?;
        mapping.touch_write(0, SIZE, 2);
        assert_eq!(mapping.load(HUGE_PAGE + PAGE), 2);
        Ok(())
    }),
    Test::with("a_private_mapping_is_refused", NONE, || {
        for flags in [OFlags::RDWR, OFlags::RDONLY] {
            let device = open_with(&shared(), MEMORY, flags)?;
            for protection in [ProtFlags::READ, READ_WRITE, ProtFlags::empty()] {
                let mapping = Mapping::new(&device, PAGE, protection, MapFlags::PRIVATE, 0);
                assert_errno(mapping, Errno::INVAL, "a private mapping");
            }
        }
        Ok(())
    }),
    Test::with("reading_only_allows_a_shared_mapping_to_read", NONE, || {
        let device = open_with(&shared(), MEMORY, OFlags::RDONLY)?;
        let mapping = Mapping::new(&device, SIZE, ProtFlags::READ, MapFlags::SHARED, 0)?;
        mapping.touch_read(0, SIZE);
        let writable = mapping.protect(0, PAGE, MprotectFlags::WRITE);
        assert_errno(writable, Errno::ACCESS, "making it writable");
        Ok(())
    }),
    Test::with("a_mapping_ends_with_the_bar", NONE, || {
        let device = open_memory()?;
        let map = |len, offset| Mapping::new(&device, len, READ_WRITE, MapFlags::SHARED, offset);
        let size = SIZE as u64;
        assert_errno(map(SIZE + PAGE, 0), Errno::INVAL, "a page more");
        assert_errno(
            map(2 * PAGE, size - PAGE as u64),
            Errno::INVAL,
            "half inside",
        );
        assert_errno(map(PAGE, size), Errno::INVAL, "at the end");
        assert_errno(map(PAGE, 1 << 62), Errno::INVAL, "far beyond");
        let last = (1u64 << 63) - PAGE as u64;
        assert_errno(
            map(2 * PAGE, last),
            Errno::OVERFLOW,
            "an offset that no file has",
        );
        let last = u64::MAX - PAGE as u64 + 1;
        assert_errno(map(2 * PAGE, last), Errno::OVERFLOW, "one that goes round");
        map(PAGE, size - PAGE as u64)?.store(PAGE - 1, 1);
        Ok(())
    }),
    Test::with("a_mapping_moves_and_does_not_grow", NONE, || {
        let device = open_memory()?;
        let mut mapping = Mapping::shared(&device, SIZE - PAGE)?;
        mapping.touch_write(0, SIZE - PAGE, 3);
        assert_errno(mapping.resize(SIZE), Errno::FAULT, "growing");
        let target = Mapping::anonymous(HUGE_PAGE)?;
        let moved = mapping.move_onto(HUGE_PAGE, HUGE_PAGE, target)?;
        moved.store(PAGE, 9);
        let mut byte = [0];
        assert_eq!(pread(&device, &mut byte, (HUGE_PAGE + PAGE) as u64)?, 1);
        assert_eq!(byte, [9]);
        drop(moved);
        mapping.unmap(5 * PAGE, PAGE)?;
        mapping.store(6 * PAGE, 4);
        assert_eq!(mapping.load(6 * PAGE), 4);
        Ok(())
    }),
    Test::with("a_child_has_its_parents_mapping", NONE, || {
        let device = open_memory()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        let small = Mapping::new(&device, 2 * PAGE, READ_WRITE, MapFlags::SHARED, PAGE as u64)?;
        mapping.store(0, 1);
        small.store(0, 2);
        let child = Child::run(|| {
            assert_eq!((mapping.load(0), small.load(0)), (1, 2));
            mapping.store(7, 3);
            small.store(PAGE, 4);
            Vec::new()
        })?;
        child.join();
        assert_eq!((mapping.load(7), mapping.load(2 * PAGE)), (3, 4));
        Ok(())
    }),
    Test::with("a_debugger_reads_and_writes_the_mapping", NONE, debugger),
    Test::with_debian("gdb_reads_and_writes_a_bar", NONE, gdb),
    Test::with("other_ways_into_the_mapping_are_efault", NONE, || {
        let device = open_memory()?;
        let mapping = Mapping::shared(&device, SIZE)?;
        mapping.store(0, 1);
        let (parent, address) = (getpid(), mapping.address(0));
        let child = Child::run(|| {
            let memory = Mapping::anonymous(PAGE).expect("memory");
            let read = memory.read_from_process(parent, address, 0, 8);
            assert_errno(read, Errno::FAULT, "process_vm_readv()");
            Vec::new()
        })?;
        child.join();
        let file = rustix::fs::open(
            "/mnt/disk/pci-direct",
            OFlags::CREATE | OFlags::RDWR | OFlags::DIRECT,
            Mode::RUSR | Mode::WUSR,
        )?;
        let written = mapping.pwrite_to(&file, 0, 0, PAGE);
        fs::remove_file("/mnt/disk/pci-direct")?;
        assert_errno(written, Errno::FAULT, "direct I/O");
        let fixed = FixedBuffer::new(&mapping, 0, PAGE).map(drop);
        assert_errno(fixed, Errno::FAULT, "a fixed buffer");
        Ok(())
    }),
    Test::with(
        "registers_are_accessed_by_the_width_of_the_call",
        NONE,
        || {
            let edu = Bound::new(edu())?;
            let device = open(&edu.0, 0)?;
            let id = EDU_ID.to_le_bytes();
            let mut four = [0; 4];
            assert_eq!(pread(&device, &mut four, 0)?, 4);
            assert_eq!(four, id, "one access of four bytes");
            let mut twelve = [0; 12];
            assert_eq!(pread(&device, &mut twelve, 0)?, 12);
            assert_eq!(twelve[..4], id, "three accesses of four bytes");
            let mut eight = [0; 8];
            assert_eq!(pread(&device, &mut eight, 0)?, 8);
            assert_eq!(
                eight, [0xff; 8],
                "one access of eight bytes, to which it has no answer"
            );
            let mut two = [0; 2];
            assert_eq!(pread(&device, &mut two, 0)?, 2);
            assert_ne!(two, id[..2], "one access of two bytes, likewise");
            let value = 0x1234_5678u32;
            assert_eq!(pwrite(&device, &value.to_le_bytes(), EDU_TURNED as u64)?, 4);
            assert_eq!(pread(&device, &mut four, EDU_TURNED as u64)?, 4);
            assert_eq!(u32::from_le_bytes(four), !value);
            Ok(())
        },
    ),
    Test::with(
        "a_device_that_is_bound_does_nothing_by_itself",
        NONE,
        || {
            const COMMAND: u64 = 4;
            const MASTER: u16 = 1 << 2;
            const NO_LINE: u16 = 1 << 10;
            let edu = edu();
            let config = File::options()
                .read(true)
                .write(true)
                .open(edu.path("config"))?;
            let command = || {
                let mut bytes = [0; 2];
                config.read_exact_at(&mut bytes, COMMAND)?;
                io::Result::Ok(u16::from_le_bytes(bytes))
            };
            // As whoever had it before may have left it.
            let left = command()? & !NO_LINE | MASTER;
            config.write_all_at(&left.to_le_bytes(), COMMAND)?;
            let edu = Bound::new(edu)?;
            assert_eq!(command()? & (NO_LINE | MASTER), NO_LINE);
            drop(edu);
            Ok(())
        },
    ),
    Test::with("a_register_is_written_whole_or_not_at_all", NONE, || {
        let edu = Bound::new(edu())?;
        let device = open(&edu.0, 0)?;
        let value = 0x1234_5678u32;
        pwrite(&device, &value.to_le_bytes(), EDU_TURNED as u64)?;
        // Memory that ends after two bytes.
        let memory = Mapping::anonymous(2 * PAGE)?;
        memory.touch_write(0, 2 * PAGE, 9);
        memory.protect(PAGE, PAGE, MprotectFlags::empty())?;
        let mut before = [0; 4];
        pread(&device, &mut before, EDU_TURNED as u64)?;
        let written = memory.pwrite_to(&device, EDU_TURNED as u64, PAGE - 2, 4);
        assert_errno(written, Errno::FAULT, "half a register");
        assert_eq!(device.counters()?.bytes_written, 4);
        let mut after = [0; 4];
        pread(&device, &mut after, EDU_TURNED as u64)?;
        assert_eq!(after, before);
        Ok(())
    }),
    Test::with("registers_are_accessed_through_the_mapping", NONE, || {
        let edu = Bound::new(edu())?;
        let device = open(&edu.0, 0)?;
        let mapping = Mapping::shared(&device, MIB)?;
        assert_eq!(mapping.half_word(0).load(Ordering::Relaxed), EDU_ID);
        mapping.half_word(EDU_TURNED).store(77, Ordering::Relaxed);
        assert_eq!(mapping.half_word(EDU_TURNED).load(Ordering::Relaxed), !77);
        Ok(())
    }),
    Test::with("who_looks_for_a_build_id_reads_no_register", NONE, || {
        let edu = Bound::new(edu())?;
        let device = open(&edu.0, 0)?;
        let mapping = Mapping::shared(&device, MIB)?;
        // Of a program there is one to be found.
        assert!(!smaps::build_id(smaps::build_id as *const () as usize)?.is_empty());
        assert!(smaps::build_id(mapping.address(0))?.is_empty());
        assert_eq!(device.counters()?.bytes_read, 0);
        Ok(())
    }),
    Test::with(
        "a_bar_of_less_than_a_page_is_copied_and_not_mapped",
        NONE,
        || {
            // ivshmem's registers.
            let mut log = Mark::now()?;
            shared().unbind()?;
            shared().bind()?;
            assert_says(&mut log, &shared(), "less than a page: not to be mapped")?;
            let device = open(&shared(), 0)?;
            assert_eq!(device.size()?, 256);
            assert_eq!(device.info()?.largest_folio as usize, PAGE);
            let mapping = Mapping::shared(&device, PAGE);
            assert_errno(mapping, Errno::INVAL, "mapping what may be another's too");
            let mut bytes = [1; 300];
            assert_eq!(pread(&device, &mut bytes, 0)?, 256);
            assert_eq!(pread(&device, &mut bytes, 256)?, 0);
            assert_eq!(pread(&device, &mut bytes, 250)?, 6);
            // The mask of interrupts, which nobody has use for here.
            assert_eq!(pwrite(&device, &[0; 4], 0)?, 4);
            assert_errno(
                pwrite(&device, &[0; 4], 256).map_err(io::Error::from),
                Errno::NOSPC,
                "beyond the end",
            );
            assert_errno(
                device.frame(0),
                Errno::NODATA,
                "a frame that is not its own alone",
            );
            Ok(())
        },
    ),
    Test::with("seeking_finds_data_and_no_hole", NONE, || {
        use rustix::fs::{seek, SeekFrom};
        let device = open_memory()?;
        let size = SIZE as u64;
        assert_eq!(seek(&device, SeekFrom::Data(5))?, 5);
        assert_eq!(seek(&device, SeekFrom::Hole(5))?, size);
        assert_eq!(seek(&device, SeekFrom::End(0))?, size);
        assert_eq!(rustix::io::read(&device, &mut [0; 8])?, 0);
        assert_eq!(seek(&device, SeekFrom::Start(size - 3))?, size - 3);
        assert_eq!(rustix::io::write(&device, &[1; 8])?, 3);
        assert_errno(
            rustix::io::write(&device, &[1; 8]).map_err(io::Error::from),
            Errno::NOSPC,
            "at the end",
        );
        Ok(())
    }),
    Test::with("bytes_are_spliced_into_a_pipe", NONE, || {
        use rustix::pipe::{pipe, splice, SpliceFlags};
        let device = open_memory()?;
        pwrite(&device, b"by way of a pipe", 99)?;
        let (output, input) = pipe()?;
        let mut offset = 99;
        let moved = splice(
            &device,
            Some(&mut offset),
            &input,
            None,
            16,
            SpliceFlags::empty(),
        )?;
        let mut bytes = [0; 16];
        assert_eq!(rustix::io::read(&output, &mut bytes)?, moved);
        assert_eq!(&bytes, b"by way of a pipe");
        Ok(())
    }),
    Test::with("another_user_may_not_open_a_bar", NONE, || {
        let nobody = Uid::from_raw(65534);
        let child = Child::run(|| {
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may change");
            for flags in [OFlags::RDONLY, OFlags::RDWR] {
                assert_errno(open_with(&shared(), MEMORY, flags), Errno::ACCESS, "nobody");
            }
            Vec::new()
        })?;
        child.join();
        Ok(())
    }),
    Test::with("mapping_needs_no_more_than_the_open_file", NONE, || {
        let device = open_memory()?;
        let nobody = Uid::from_raw(65534);
        let child = Child::run(|| {
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may change");
            let mapping = Mapping::shared(&device, SIZE).expect("a mapping");
            mapping.store(3, 3);
            Vec::new()
        })?;
        child.join();
        let mut byte = [0];
        assert_eq!(pread(&device, &mut byte, 3)?, 1);
        assert_eq!(byte, [3]);
        Ok(())
    }),
    Test::with("a_bar_is_not_resized_punched_or_destroyed", NONE, || {
        let ivshmem = shared();
        let (device, control) = (open(&ivshmem, MEMORY)?, Control::open()?);
        let name = ivshmem.name_of(MEMORY);
        let page = PAGE as u64;
        assert_errno(device.resize(page), Errno::OPNOTSUPP, "resizing");
        assert_errno(
            control.resize(&name, page),
            Errno::OPNOTSUPP,
            "resizing by name",
        );
        assert_errno(device.punch(0, page), Errno::OPNOTSUPP, "punching");
        assert_errno(
            control.punch(&name, 0, page),
            Errno::OPNOTSUPP,
            "punching by name",
        );
        assert_errno(device.destroy(), Errno::OPNOTSUPP, "destroying");
        assert_errno(
            control.destroy(&name),
            Errno::OPNOTSUPP,
            "destroying by name",
        );
        assert_eq!(device.size()?, SIZE);
        Ok(())
    }),
    Test::with("nobody_can_make_a_device_of_a_bars_name", NONE, || {
        let control = Control::open()?;
        let plan = control::memory(&large().name_of(7), MIB as u64)?;
        assert_errno(control.create(plan), Errno::INVAL, "a name with colons");
        let plan = abi::Create {
            backing: abi::BACKING_PCI,
            ..control::memory("bar", MIB as u64)?
        };
        assert_errno(control.create(plan), Errno::INVAL, "a BAR");
        Ok(())
    }),
    Test::with(
        "memory_is_cached_and_the_kernel_has_it_on_record",
        NONE,
        || {
            let ivshmem = shared();
            let bar = ivshmem.bar(MEMORY)?.expect("a BAR");
            let types = || pci::memory_types(bar.start, bar.len);
            assert_eq!(types()?, [""; 0], "nobody has it open");
            let device = open(&ivshmem, MEMORY)?;
            assert_eq!(cache_mode(&device)?, "write-back");
            let mapping = Mapping::shared(&device, SIZE)?;
            mapping.touch_write(0, SIZE, 1);
            assert_eq!(types()?, ["write-back"]);
            drop(device);
            assert_eq!(types()?, ["write-back"], "it is mapped still");
            drop(mapping);
            assert_eq!(types()?, [""; 0], "it was closed");
            Ok(())
        },
    ),
    Test::with("what_may_be_read_ahead_is_write_combining", NONE, || {
        let testdev = Bound::new(testdev())?;
        for (index, told, expected) in [
            (0, "uncached", "uncached-minus"),
            (2, "write-combining", "write-combining"),
        ] {
            let bar = testdev.0.bar(index)?.expect("a BAR");
            let device = open(&testdev.0, index)?;
            assert_eq!(cache_mode(&device)?, told);
            let mapping = Mapping::shared(&device, bar.len as usize)?;
            mapping.touch_read(0, mapping.len());
            assert_eq!(pci::memory_types(bar.start, bar.len)?, [expected]);
        }
        Ok(())
    }),
    Test::with(
        "what_may_be_read_ahead_is_uncached_with_o_sync",
        NONE,
        || {
            let testdev = Bound::new(testdev())?;
            let bar = testdev.0.bar(2)?.expect("a BAR");
            let device = open_with(&testdev.0, 2, OFlags::RDWR | OFlags::SYNC)?;
            assert_eq!(cache_mode(&device)?, "uncached");
            let mapping = Mapping::shared(&device, bar.len as usize)?;
            mapping.touch_write(0, mapping.len(), 3);
            assert_eq!(pci::memory_types(bar.start, bar.len)?, ["uncached-minus"]);
            Ok(())
        },
    ),
    Test::with(
        "how_it_is_cached_is_what_the_kernel_has_made_of_it",
        NONE,
        || {
            // Somebody has it mapped by sysfs before anybody can claim it.
            let ivshmem = shared();
            let bar = ivshmem.bar(MEMORY)?.expect("a BAR");
            for (attribute, told) in [
                ("resource2", "uncached"),
                ("resource2_wc", "write-combining"),
            ] {
                ivshmem.unbind()?;
                let file = File::options()
                    .read(true)
                    .write(true)
                    .open(ivshmem.path(attribute))?;
                let earlier = Mapping::shared(&file, SIZE)?;
                ivshmem.bind()?;
                let device = open(&ivshmem, MEMORY)?;
                assert_eq!(cache_mode(&device)?, told);
                let mapping = Mapping::shared(&device, SIZE)?;
                mapping.store(PAGE, 7);
                let types = pci::memory_types(bar.start, bar.len)?;
                assert!(!types.contains(&"write-back".to_string()), "{types:?}");
                drop((mapping, device));
                let uncached = open_with(&ivshmem, MEMORY, OFlags::RDWR | OFlags::SYNC);
                match told {
                    "uncached" => drop(uncached?),
                    _ => assert_errno(uncached, Errno::BUSY, "what cannot be had"),
                }
                drop(earlier);
            }
            Ok(())
        },
    ),
    Test::with("who_opens_it_with_o_sync_has_it_uncached", NONE, || {
        let ivshmem = shared();
        let bar = ivshmem.bar(MEMORY)?.expect("a BAR");
        let device = open_with(&ivshmem, MEMORY, OFlags::RDWR | OFlags::SYNC)?;
        assert_eq!(cache_mode(&device)?, "uncached");
        let mapping = Mapping::shared(&device, SIZE)?;
        mapping.store(9, 9);
        let mut byte = [0];
        assert_eq!(pread(&device, &mut byte, 9)?, 1);
        assert_eq!(byte, [9]);
        assert_eq!(pci::memory_types(bar.start, bar.len)?, ["uncached-minus"]);
        // The stricter way is no wrong to whoever did not ask for it.
        let other = open(&ivshmem, MEMORY)?;
        assert_eq!(cache_mode(&other)?, "uncached");
        Mapping::shared(&other, SIZE)?.store(9, 8);
        assert_eq!(mapping.load(9), 8);
        assert_eq!(pci::memory_types(bar.start, bar.len)?, ["uncached-minus"]);
        Ok(())
    }),
    Test::with(
        "one_piece_of_memory_is_not_cached_in_two_ways",
        NONE,
        || {
            let ivshmem = shared();
            let device = open(&ivshmem, MEMORY)?;
            let flags = OFlags::RDWR | OFlags::SYNC;
            assert_errno(
                open_with(&ivshmem, MEMORY, flags),
                Errno::BUSY,
                "uncached beside cached",
            );
            let mapping = Mapping::shared(&device, PAGE)?;
            drop(device);
            assert_errno(
                open_with(&ivshmem, MEMORY, flags),
                Errno::BUSY,
                "it is mapped still",
            );
            drop(mapping);
            open_with(&ivshmem, MEMORY, flags)?;
            Ok(())
        },
    ),
    Test::with("an_unbound_device_is_a_bus_error_to_touch", NONE, || {
        let ivshmem = shared();
        let device = open(&ivshmem, MEMORY)?;
        let mapping = Mapping::shared(&device, SIZE)?;
        let small = Mapping::new(&device, 2 * PAGE, READ_WRITE, MapFlags::SHARED, PAGE as u64)?;
        mapping.touch_write(0, SIZE - PAGE, 1);
        small.touch_write(0, PAGE, 1);
        ivshmem.unbind()?;
        let all = [
            mapping.address(0),
            mapping.address(SIZE - PAGE),
            small.address(0),
            small.address(PAGE),
        ];
        for (address, write) in all.into_iter().flat_map(|at| [(at, false), (at, true)]) {
            assert_eq!(child::touch(address, write)?, Touch::BusError(address));
        }
        ivshmem.bind()
    }),
    Test::with(
        "an_unbound_device_answers_each_call_with_enodev",
        NONE,
        || {
            let ivshmem = shared();
            let bar = ivshmem.bar(MEMORY)?.expect("a BAR");
            let device = open(&ivshmem, MEMORY)?;
            let mapping = Mapping::shared(&device, SIZE)?;
            ivshmem.unbind()?;
            assert!(!control::node(&ivshmem.name_of(MEMORY)).exists());
            assert_errno(device.size(), Errno::NODEV, "lseek()");
            assert_errno(device.info(), Errno::NODEV, "a request");
            assert_errno(
                pread(&device, &mut [0; 8], 0).map_err(io::Error::from),
                Errno::NODEV,
                "read()",
            );
            assert_errno(
                pwrite(&device, &[0; 8], 0).map_err(io::Error::from),
                Errno::NODEV,
                "write()",
            );
            assert_errno(Mapping::shared(&device, PAGE), Errno::NODEV, "mmap()");
            assert_errno(mapping.sync(), Errno::NODEV, "msync()");
            let memory = File::open("/proc/self/mem")?;
            let read = memory.read_at(&mut [0; 8], mapping.address(0) as u64);
            assert_errno(read, Errno::IO, "as a debugger");
            assert_eq!(pci::memory_types(bar.start, bar.len)?, [""; 0]);
            let claimed = fs::read_to_string("/proc/iomem")?.contains("mmapdev\n");
            // The other ivshmem is.
            assert!(claimed);
            large().unbind()?;
            assert!(!fs::read_to_string("/proc/iomem")?.contains("mmapdev\n"));
            large().bind()?;
            ivshmem.bind()
        },
    ),
    Test::with("a_device_that_comes_back_is_another", NONE, || {
        let ivshmem = shared();
        let old = open(&ivshmem, MEMORY)?;
        let mapping = Mapping::shared(&old, SIZE)?;
        mapping.store(5, 42);
        ivshmem.unbind()?;
        ivshmem.bind()?;
        let new = open(&ivshmem, MEMORY)?;
        let fresh = Mapping::shared(&new, SIZE)?;
        assert_eq!(fresh.load(5), 42, "the memory is the device's");
        let address = mapping.address(5);
        assert_eq!(child::touch(address, false)?, Touch::BusError(address));
        assert_errno(old.size(), Errno::NODEV, "the old one");
        assert_eq!(new.counters()?.bytes_read, 0);
        Ok(())
    }),
    Test::with("who_waits_is_woken_when_a_device_is_unbound", NONE, || {
        use rustix::event::{poll, PollFd, PollFlags};
        let ivshmem = shared();
        let device = open(&ivshmem, MEMORY)?;
        let child = Child::run(|| {
            let mut fds = [PollFd::new(&device, PollFlags::PRI)];
            poll(&mut fds, None).expect("a wait");
            assert!(fds[0].revents().contains(PollFlags::HUP));
            Vec::new()
        })?;
        ivshmem.unbind()?;
        child.join();
        ivshmem.bind()
    }),
    Test::without_module("a_module_does_not_go_while_a_bar_is_in_use", || {
        let module = Loaded::with(NONE)?;
        let device = open_memory()?;
        let mapping = Mapping::shared(&device, PAGE)?;
        drop(device);
        let error = module::remove().expect_err("it is mapped");
        assert!(module::is_busy(&error), "{error}");
        shared().unbind()?;
        let error = module::remove().expect_err("it is mapped still");
        assert!(module::is_busy(&error), "{error}");
        drop(mapping);
        module.unload()?;
        assert!(!control::node(&large().name_of(MEMORY)).exists());
        Ok(())
    }),
    Test::with(
        "a_part_of_a_large_bar_can_be_unmapped_protected_and_moved",
        NONE,
        || {
            let device = open(&large(), MEMORY)?;
            let mut mapping = Mapping::shared_aligned(&device, 2 * GIB, GIB)?;
            mapping.store(5, 1);
            mapping.protect(3 * PAGE, PAGE, MprotectFlags::READ)?;
            let at = mapping.address(3 * PAGE);
            assert_eq!(child::touch(at, true)?, Touch::SegmentationFault(at));
            mapping.store(4 * PAGE, 2);
            mapping.unmap(GIB - PAGE, 2 * PAGE)?;
            mapping.store(GIB + PAGE, 3);
            assert_eq!((mapping.load(5), mapping.load(4 * PAGE)), (1, 2));
            let mut whole = Mapping::shared_aligned(&device, 2 * GIB, GIB)?;
            whole.store(7, 4);
            let moved = whole.move_onto(0, GIB, Mapping::shared(&device, GIB)?)?;
            assert_eq!((moved.load(5), moved.load(7)), (1, 4));
            let child = Child::run(|| {
                mapping.store(6, 7);
                Vec::new()
            })?;
            child.join();
            assert_eq!(mapping.load(6), 7);
            large().unbind()?;
            let at = mapping.address(5);
            assert_eq!(child::touch(at, false)?, Touch::BusError(at));
            large().bind()
        },
    ),
    Test::with("a_bar_that_another_driver_has_is_not_bound", NONE, || {
        let testdev = testdev();
        let bar = testdev.bar(2)?.expect("a BAR");
        // In the middle of the last of its BARs.
        let range = format!("action=4 start={} len=4096", bar.start + MIB as u64);
        module::insert(&Path::new(module::FOLDER).join("rig_test.ko"), &range)?;
        let mut log = Mark::now()?;
        let result = testdev.bind();
        let claimed = fs::read_to_string("/proc/iomem")?;
        rustix::system::delete_module(c"rig_test", 0)?;
        assert_errno(result, Errno::BUSY, "binding");
        assert!(!testdev.is_bound());
        assert!(
            !control::node(&testdev.name_of(0)).exists(),
            "nothing is half bound"
        );
        let [first, middle] = [testdev.bar(0)?.expect("a BAR").start, bar.start].map(|start| {
            let line = format!("{start:08x}-");
            claimed.lines().filter(|text| text.contains(&line)).count()
        });
        assert_eq!(
            (first, middle),
            (1, 1),
            "and nothing stays claimed: {claimed}"
        );
        assert_says(&mut log, &testdev, "BAR 2 is another driver's")?;
        drop(Bound::new(testdev)?);
        Ok(())
    }),
    Test {
        limit: LONG,
        ..Test::with("a_bar_without_an_address_is_not_bound", NONE, unassigned)
    },
    Test {
        limit: LONG,
        ..Test::with(
            "a_device_that_is_unplugged_is_a_bus_error_to_touch",
            NONE,
            unplugged,
        )
    },
    Test::with("a_bar_that_is_open_keeps_its_device_awake", NONE, awake),
    Test::with("an_open_that_fails_keeps_no_device_awake", NONE, || {
        let limit = slowness() * Duration::from_secs(10);
        let testdev = Bound::new(testdev())?;
        let status = "power/runtime_status";
        testdev.0.write("power/control", "auto")?;
        testdev.0.wait_for(status, "suspended", limit)?;
        let device = open(&testdev.0, 2)?;
        assert_eq!(testdev.0.read(status)?, "active");
        let uncached = open_with(&testdev.0, 2, OFlags::RDWR | OFlags::SYNC);
        assert_errno(uncached, Errno::BUSY, "uncached beside write-combining");
        drop(device);
        testdev.0.wait_for(status, "suspended", limit)?;
        testdev.0.write("power/control", "on")
    }),
    Test {
        limit: Some(Duration::from_secs(60)),
        ..Test::with(
            "unbinding_under_fire_ends_each_use_cleanly",
            NONE,
            under_fire,
        )
    },
    Test {
        limit: LONG,
        ..Test::with(
            "no_touch_and_no_fork_keeps_what_is_just_being_unbound",
            NONE,
            kept_across_unbinding,
        )
    },
    Test::with(
        "a_device_that_is_removed_is_a_bus_error_to_touch",
        NONE,
        || {
            let ivshmem = shared();
            let device = open(&ivshmem, MEMORY)?;
            let mapping = Mapping::shared(&device, SIZE)?;
            mapping.store(PAGE, 42);
            ivshmem.write("remove", "1")?;
            assert!(!ivshmem.is_there());
            assert!(!control::node(&ivshmem.name_of(MEMORY)).exists());
            let address = mapping.address(PAGE);
            for write in [false, true] {
                assert_eq!(child::touch(address, write)?, Touch::BusError(address));
            }
            assert_errno(device.info(), Errno::NODEV, "a request");
            fs::write("/sys/bus/pci/rescan", "1")?;
            let new = open(&ivshmem, MEMORY)?;
            assert_eq!(Mapping::shared(&new, SIZE)?.load(PAGE), 42);
            assert_eq!(child::touch(address, false)?, Touch::BusError(address));
            Ok(())
        },
    ),
    // The last one, as nobody ends a lockdown.
    Test::with(
        "a_kernel_that_is_locked_down_lets_registers_be_read_alone",
        NONE,
        locked_down,
    ),
];

/// Checks that the kernel's log has a message about a device with these words.
fn assert_says(log: &mut Mark, device: &PciDevice, words: &str) -> io::Result<()> {
    let messages = log.messages()?;
    let says = |text: &String| text.contains(device.address()) && text.contains(words);
    assert!(messages.iter().any(says), "not {words:?}: {messages:?}");
    Ok(())
}

/// Returns what fdinfo says of how a BAR is cached.
fn cache_mode(device: &Device) -> io::Result<String> {
    let number = device.as_fd().as_raw_fd();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    let mut lines = text.lines();
    let mode = lines.find_map(|line| line.strip_prefix("mmapdev-pci-cache:\t"));
    mode.map(str::to_string)
        .ok_or_else(|| io::Error::other(text.clone()))
}

/// Waits for something that the kernel does in its own time.
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> io::Result<T> {
    let end = Instant::now() + slowness() * Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > end {
            let words = "what was waited for did not come";
            return Err(io::Error::new(io::ErrorKind::TimedOut, words));
        }
        thread::yield_now();
    }
}

/// Takes the smaller ivshmem out of the machine.
fn unplug(monitor: &mut Monitor) -> io::Result<()> {
    monitor.unplug("ivshmem")
}

/// Puts it back, with memory of this name.
fn plug(monitor: &mut Monitor, memory: &str) -> io::Result<()> {
    let device =
        json!({ "driver": "ivshmem-plain", "id": "ivshmem", "memdev": memory, "bus": "port1" });
    monitor.add("device_add", device)
}

/// Makes the object that keeps its memory anew, from the same file: QEMU does not take one for a second time.
fn renew_memory(monitor: &mut Monitor) -> io::Result<()> {
    let path = json!({ "path": "/objects/shared", "property": "mem-path" });
    let path = monitor.ask("qom-get", path)?;
    monitor.remove("object-del", "shared")?;
    let memory = json!({
        "qom-type": "memory-backend-file", "id": "shared", "mem-path": path, "size": SIZE, "share": true,
    });
    monitor.add("object-add", memory)
}

/// A device is plugged in that has more memory than there are addresses.
fn unassigned() -> io::Result<()> {
    const SLOT: &str = "0000:01:00.0";
    const TOO_LARGE: u64 = 16 << 30;
    let mut monitor = monitor()?;
    assert_eq!(shared().address(), SLOT);
    unplug(&mut monitor)?;
    let memory = json!({
        "qom-type": "memory-backend-ram", "id": "too-large", "size": TOO_LARGE, "share": true, "reserve": false,
    });
    monitor.add("object-add", memory)?;
    let mut log = Mark::now()?;
    plug(&mut monitor, "too-large")?;
    let device = PciDevice::at(SLOT);
    // The kernel has the driver try as soon as it is there.
    let mut words = String::new();
    wait_for(|| {
        words += &log.messages().ok()?.join("\n");
        words
            .contains("probe with driver mmapdev failed")
            .then_some(())
    })?;
    assert!(words.contains("BAR 2 has no address"), "{words}");
    assert_errno(device.bind(), Errno::INVAL, "binding");
    assert!(!device.is_bound());
    assert!(!control::node(&device.name_of(0)).exists());
    unplug(&mut monitor)?;
    monitor.remove("object-del", "too-large")?;
    renew_memory(&mut monitor)?;
    plug(&mut monitor, "shared")?;
    wait_for(|| device.is_bound().then_some(()))
}

/// A device with processes in it is taken out of the machine, and comes back.
fn unplugged() -> io::Result<()> {
    let ivshmem = shared();
    let device = open(&ivshmem, MEMORY)?;
    let mapping = Mapping::shared(&device, SIZE)?;
    mapping.store(PAGE, 42);
    let mut monitor = monitor()?;
    unplug(&mut monitor)?;
    assert!(!ivshmem.is_there());
    assert!(!control::node(&ivshmem.name_of(MEMORY)).exists());
    let address = mapping.address(PAGE);
    assert_eq!(child::touch(address, false)?, Touch::BusError(address));
    assert_eq!(child::touch(address, true)?, Touch::BusError(address));
    assert_errno(device.info(), Errno::NODEV, "a request");
    let read = pread(&device, &mut [0; 8], 0).map_err(io::Error::from);
    assert_errno(read, Errno::NODEV, "read()");
    renew_memory(&mut monitor)?;
    plug(&mut monitor, "shared")?;
    let node = control::node(&ivshmem.name_of(MEMORY));
    let new = wait_for(|| Device::open_with(&node, OFlags::RDWR).ok())?;
    // Its memory is an object of its own, which has stayed.
    assert_eq!(Mapping::shared(&new, SIZE)?.load(PAGE), 42);
    assert_errno(device.info(), Errno::NODEV, "the old one");
    assert_eq!(child::touch(address, false)?, Touch::BusError(address));
    Ok(())
}

/// The network card has no power while nobody has a BAR of it open, and has it as soon as somebody does.
fn awake() -> io::Result<()> {
    const STATUS: usize = 8;
    let limit = slowness() * Duration::from_secs(10);
    let card = Bound::new(one(0x8086, 0x10d3))?;
    card.0.write("power/control", "auto")?;
    card.0.wait_for("power_state", "D3hot", limit)?;
    assert_eq!(card.0.read("power/runtime_status")?, "suspended");
    let device = open(&card.0, 0)?;
    assert_eq!(card.0.read("power_state")?, "D0");
    let mapping = Mapping::shared(&device, PAGE)?;
    // Without power the answer of all registers is that all bits are set.
    let status = mapping.half_word(STATUS).load(Ordering::Relaxed);
    assert_ne!(status, u32::MAX);
    let mut bytes = [0; 4];
    assert_eq!(pread(&device, &mut bytes, STATUS as u64)?, 4);
    assert_eq!(u32::from_le_bytes(bytes), status);
    drop(device);
    // It is mapped still.
    let other = open(&card.0, 1)?;
    drop(other);
    assert_eq!(card.0.read("power_state")?, "D0");
    assert_eq!(mapping.half_word(STATUS).load(Ordering::Relaxed), status);
    drop(mapping);
    card.0.wait_for("power_state", "D3hot", limit)?;
    let device = open(&card.0, 0)?;
    let mapping = Mapping::shared(&device, PAGE)?;
    mapping.half_word(STATUS).load(Ordering::Relaxed);
    card.0.unbind()?;
    let at = mapping.address(STATUS);
    assert_eq!(child::touch(at, false)?, Touch::BusError(at));
    card.0.write("power/control", "on")?;
    assert_eq!(
        card.0.read("power/runtime_usage").unwrap_or("1".into()),
        "1"
    );
    Ok(())
}

/// As gdb does it: pages that are mapped and pages that nobody has touched.
fn debugger() -> io::Result<()> {
    let device = open_memory()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    mapping.write(HUGE_PAGE - 4, b"mapped!!");
    pwrite(&device, b"not mapped", (3 * HUGE_PAGE) as u64)?;
    let closed = Mapping::shared(&device, PAGE)?;
    closed.store(0, 1);
    closed.protect(0, PAGE, MprotectFlags::empty())?;
    let reader = open_with(&shared(), MEMORY, OFlags::RDONLY)?;
    let readable = Mapping::new(&reader, PAGE, ProtFlags::READ, MapFlags::SHARED, 0)?;
    let parent = getpid().as_raw_pid();
    let child = Child::run(|| {
        let path = format!("/proc/{parent}/mem");
        let memory = File::options()
            .read(true)
            .write(true)
            .open(path)
            .expect("memory");
        let at = |mapping: &Mapping, offset| mapping.address(offset) as u64;
        let mut bytes = [0; 10];
        memory
            .read_exact_at(&mut bytes[..8], at(&mapping, HUGE_PAGE - 4))
            .expect("a read");
        assert_eq!(&bytes[..8], b"mapped!!");
        memory
            .read_exact_at(&mut bytes, at(&mapping, 3 * HUGE_PAGE))
            .expect("a read");
        assert_eq!(&bytes, b"not mapped");
        memory
            .write_all_at(b"from afar", at(&mapping, 5 * HUGE_PAGE - 3))
            .expect("a write");
        let written = memory.write_at(b"no", at(&readable, 0));
        assert_errno(
            written,
            Errno::IO,
            "a write where the program may only read",
        );
        let read = memory.read_at(&mut bytes, at(&closed, 0));
        assert_errno(read, Errno::IO, "a read of what the program has closed");
        Vec::new()
    })?;
    child.join();
    assert_eq!(mapping.read(5 * HUGE_PAGE - 3, 9), b"from afar");
    Ok(())
}

/// gdb, from the Debian that the rig shares with the guest, attaches to this very process.
fn gdb() -> io::Result<()> {
    let device = open_memory()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    mapping.write(PAGE, b"\x2a\x2b\x2c");
    let here = mapping.address(PAGE);
    let output = Command::new("chroot")
        .args(["/debian", "gdb", "-nx", "-batch", "-p"])
        .arg(getpid().as_raw_pid().to_string())
        .args(["-ex", &format!("x/3xb {here:#x}")])
        .args(["-ex", &format!("set {{char}}{here:#x} = 7")])
        .output()?;
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(words.contains("0x2a\t0x2b\t0x2c"), "{words}");
    assert_eq!(mapping.load(PAGE), 7);
    Ok(())
}

/// Threads that touch, read, write, map and open a BAR while its driver is unbound and bound again.
fn under_fire() -> io::Result<()> {
    let ivshmem = shared();
    let stop = AtomicBool::new(false);
    let node = control::node(&ivshmem.name_of(MEMORY));
    thread::scope(|scope| {
        for number in 0..4 {
            let (stop, node) = (&stop, &node);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(device) = Device::open_with(node, OFlags::RDWR) else {
                        continue;
                    };
                    let mut byte = [0; 64];
                    for round in 0..50u64 {
                        let offset = round * 300_007 % (SIZE as u64 - 64);
                        let results = [
                            pread(&device, &mut byte, offset),
                            pwrite(&device, &byte, offset),
                        ];
                        for result in results {
                            match result {
                                Ok(count) => assert_eq!(count, 64),
                                Err(error) => assert_eq!(error, Errno::NODEV),
                            }
                        }
                        if let Ok(mapping) = Mapping::shared(&device, SIZE) {
                            // By a call, so that a page that is gone is an error and no signal.
                            let random = File::open("/dev/urandom").expect("urandom");
                            let len = mapping.pread_from(&random, 0, number * PAGE, PAGE);
                            if let Err(error) = len {
                                assert_eq!(error.raw_os_error(), Some(Errno::FAULT.raw_os_error()));
                            }
                        }
                    }
                }
            });
        }
        let mut result = Ok(());
        for _ in 0..30 {
            result = ivshmem.unbind().and_then(|()| ivshmem.bind());
            if result.is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
        result
    })
}

/// Processes that touch page after page, and processes that fork, while the driver is unbound: what each of them has mapped,
/// and what their children have, is gone when that is over.
fn kept_across_unbinding() -> io::Result<()> {
    const TOUCHERS: usize = 2;
    // (Fewer on the sanitizer kernel, which takes half a minute for one in which there are forkers.)
    let (rounds, each) = if is_sanitizer_kernel() {
        (7, 7)
    } else {
        (12, 4)
    };
    const NAP: Duration = Duration::from_millis(1);
    /// How many children of a forker are there at a time.
    const CHILDREN: u64 = 8;
    for turn in 0..rounds {
        // What forkers have takes its time to be gone through: in most rounds there are none, and touches are cut off at once.
        let forkers = usize::from(turn % each == each - 1);
        // Entries for a whole GiB are what forks have in their hands; where there are none, a BAR that is mapped into the
        // kernel, and what KASAN has of it, in no time.
        let (ivshmem, len) = match forkers {
            0 => (shared(), SIZE),
            _ => (large(), 2 * GIB),
        };
        // What all of them share: whether it is unbound, and then how far each is.
        let board = memfd_create("board", MemfdFlags::CLOEXEC)?;
        ftruncate(&board, PAGE as u64)?;
        let board = Mapping::shared(&board, PAGE)?;
        let unbound = board.word(0);
        let progress = |number: usize| board.word(64 * (1 + number));
        let zeros = File::open("/dev/zero")?;
        // By a call, so that a page that is gone is an error and no signal.
        let touch =
            |mapping: &Mapping, offset: usize| match mapping.pread_from(&zeros, 0, offset, 8) {
                Ok(count) => count == 8,
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(Errno::FAULT.raw_os_error()));
                    false
                }
            };
        let is_over = || unbound.load(Ordering::SeqCst) != 0;
        let mut children = Vec::new();
        for number in 0..TOUCHERS {
            children.push(Child::run(|| {
                let device = open(&ivshmem, MEMORY).expect("the BAR");
                // The last few, a page each: they are gone through in no time, so that a touch that is on its way
                // may well come after.
                let mut kept = VecDeque::new();
                for count in 1.. {
                    let offset = (count * 7919 * PAGE as u64) % len as u64;
                    let new = Mapping::new(&device, PAGE, READ_WRITE, MapFlags::SHARED, offset);
                    let Ok(mapping) = new else {
                        assert_errno(new, Errno::NODEV, "mmap()");
                        break;
                    };
                    let is_there = touch(&mapping, 0);
                    kept.push_back(mapping);
                    if !is_there {
                        break;
                    }
                    if kept.len() > 8 {
                        kept.pop_front();
                    }
                    progress(number).store(count, Ordering::Relaxed);
                }
                while !is_over() {
                    thread::sleep(NAP);
                }
                for mapping in &kept {
                    assert!(!touch(mapping, 0), "a page has stayed");
                }
                Vec::new()
            })?);
        }
        for number in TOUCHERS..TOUCHERS + forkers {
            children.push(Child::run(|| {
                let device = open(&ivshmem, MEMORY).expect("the BAR");
                let mapping = Mapping::shared_aligned(&device, len, GIB).expect("a mapping");
                for offset in (0..len).step_by(HUGE_PAGE) {
                    touch(&mapping, offset);
                }
                let round = progress(number);
                let check = || {
                    for offset in (0..len).step_by(HUGE_PAGE) {
                        assert!(!touch(&mapping, offset), "page {offset:#x} has stayed");
                    }
                    Vec::new()
                };
                let mut forked = VecDeque::new();
                for now in 1.. {
                    if is_over() {
                        break;
                    }
                    let child = Child::run(|| {
                        while !is_over() {
                            if round.load(Ordering::Relaxed) >= now + CHILDREN {
                                return Vec::new();
                            }
                            thread::sleep(NAP);
                        }
                        check()
                    });
                    forked.push_back(child.expect("a fork"));
                    round.store(now, Ordering::Relaxed);
                    if forked.len() as u64 > CHILDREN {
                        forked.pop_front().map(Child::join);
                    }
                }
                forked.into_iter().for_each(|child| drop(child.join()));
                check()
            })?);
        }
        wait_for(|| {
            let all =
                (0..TOUCHERS + forkers).map(|number| progress(number).load(Ordering::Relaxed));
            let enough = |(number, count)| count >= if number < TOUCHERS { 200 } else { 4 };
            all.enumerate().all(enough).then_some(())
        })?;
        ivshmem.unbind()?;
        unbound.store(1, Ordering::SeqCst);
        for child in children {
            child.join();
        }
        ivshmem.bind()?;
    }
    Ok(())
}

/// As the manual page kernel_lockdown(7) has it of sysfs: what may be registers is neither written to nor mapped.
fn locked_down() -> io::Result<()> {
    let edu = Bound::new(edu())?;
    let before = open(&edu.0, 0)?;
    fs::write("/sys/kernel/security/lockdown", "integrity")?;
    for flags in [OFlags::RDWR, OFlags::WRONLY] {
        assert_errno(open_with(&edu.0, 0, flags), Errno::PERM, "opening");
    }
    let device = open_with(&edu.0, 0, OFlags::RDONLY)?;
    let mut id = [0; 4];
    assert_eq!(pread(&device, &mut id, 0)?, 4);
    assert_eq!(id, EDU_ID.to_le_bytes());
    for device in [&device, &before] {
        let mapping = Mapping::new(device, PAGE, ProtFlags::READ, MapFlags::SHARED, 0);
        assert_errno(mapping, Errno::PERM, "mapping");
    }
    // What is memory and nothing else can be used as before.
    let memory = open_memory()?;
    Mapping::shared(&memory, SIZE)?.store(0, 1);
    assert_eq!(pwrite(&memory, &[2], 0)?, 1);
    Ok(())
}
