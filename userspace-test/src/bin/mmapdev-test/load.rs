// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading the module.

use crate::Test;
use mmapdev_userspace::device::{self, Device};
use mmapdev_userspace::kernel_log::Mark;
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::module::{self, Loaded};
use mmapdev_userspace::{abi, is_sanitizer_kernel, memory, slowness, HUGE_PAGE, KIB, MIB, PAGE};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::io;
use std::path::Path;

pub(crate) const TESTS: &[Test] = &[
    Test::without_module(
        "the_defaults_are_one_device_of_64_mib_with_huge_pages",
        || {
            let _module = Loaded::with("")?;
            let info = Device::open()?.info()?;
            assert_eq!(info.device_size, 64 * MIB as u64);
            assert_eq!(info.huge, abi::HUGE_ALWAYS);
            assert_eq!(info.largest_folio as usize, HUGE_PAGE);
            assert!(!Path::new("/dev/mmapdev1").exists());
            Ok(())
        },
    ),
    Test::without_module("size_and_number_of_devices_are_as_asked", || {
        let _module = Loaded::with("size_mib=3 devices=4 huge=0")?;
        for number in 0..4 {
            let device = Device::open_with(format!("/dev/mmapdev{number}"), OFlags::RDWR)?;
            assert_eq!(device.size()?, 3 * MIB);
            assert_eq!(device.info()?.huge, 0);
        }
        assert!(!Path::new("/dev/mmapdev4").exists());
        Ok(())
    }),
    Test::without_module("pages_are_as_large_as_asked", || {
        for (parameters, huge, largest) in [
            ("size_mib=3 huge=2 folio_kib=64", abi::HUGE_ADVISE, 64 * KIB),
            ("size_mib=3 huge=2", abi::HUGE_ADVISE, HUGE_PAGE),
            ("size_mib=3 huge=1 folio_kib=4", abi::HUGE_ALWAYS, PAGE),
            ("size_mib=3 huge=0 folio_kib=64", abi::HUGE_NEVER, PAGE),
        ] {
            let module = Loaded::with(parameters)?;
            let info = Device::open()?.info()?;
            assert_eq!(info.huge, huge, "{parameters}");
            assert_eq!(info.largest_folio as usize, largest, "{parameters}");
            module.unload()?;
        }
        Ok(())
    }),
    Test::without_module("devices_do_not_share_their_bytes", || {
        let _module = Loaded::with("size_mib=1 devices=2")?;
        let one = Mapping::shared(Device::open()?, MIB)?;
        let other = Mapping::shared(Device::open_with("/dev/mmapdev1", OFlags::RDWR)?, MIB)?;
        one.store(0, 1);
        assert_eq!(other.load(0), 0);
        Ok(())
    }),
    Test::without_module("bad_parameters_are_refused_with_a_reason", || {
        let refused = [
            ("size_mib=0", Errno::INVAL, "size_mib=0"),
            ("devices=1025 size_mib=1", Errno::INVAL, "devices=1025"),
            ("devices=4294967295", Errno::INVAL, "devices=4294967295"),
            ("huge=3", Errno::INVAL, "huge=3"),
            ("folio_kib=0", Errno::INVAL, "folio_kib=0"),
            ("folio_kib=96", Errno::INVAL, "folio_kib=96"),
            ("folio_kib=4096", Errno::INVAL, "folio_kib=4096"),
            (
                "folio_kib=18446744073709551615",
                Errno::INVAL,
                "folio_kib=18446744073709551615",
            ),
            ("size_mib=1000000", Errno::NOMEM, "choose less"),
            ("size_mib=17592186044415", Errno::NOMEM, "choose less"),
            ("size_mib=17592186044416", Errno::NOMEM, "choose less"),
            ("size_mib=18446744073709551615", Errno::NOMEM, "choose less"),
            ("size_mib=1000 devices=1000", Errno::NOMEM, "choose less"),
            (
                "size_mib=3 devices=3 limit_mib=8",
                Errno::NOMEM,
                "more than the 8 MiB that all devices may have together",
            ),
            ("limit_mib=1000000", Errno::INVAL, "limit_mib is more"),
            // What is no number of that width at all is refused by the kernel itself.
            (
                "size_mib=18446744073709551616",
                Errno::INVAL,
                "invalid for parameter",
            ),
            ("size_mib=-1", Errno::INVAL, "invalid for parameter"),
            ("size_mib=many", Errno::INVAL, "invalid for parameter"),
            ("devices=4294967296", Errno::INVAL, "invalid for parameter"),
        ];
        for (parameters, errno, reason) in refused {
            let mut log = Mark::now()?;
            let error = Loaded::with(parameters).expect_err(parameters);
            assert_eq!(
                error.raw_os_error(),
                Some(errno.raw_os_error()),
                "{parameters}: {error}"
            );
            assert!(
                !module::is_loaded() && !Path::new(device::FIRST).exists(),
                "{parameters}"
            );
            let messages = log.messages()?.join("\n");
            assert!(messages.contains(reason), "{parameters}: {messages}");
        }
        Ok(())
    }),
    Test::without_module("an_open_device_keeps_the_module", || {
        let module = Loaded::with("size_mib=1")?;
        let device = Device::open()?;
        let error = module::remove().expect_err("the device is open");
        assert!(module::is_busy(&error), "{error}");
        drop(device);
        assert_eq!(module::users()?, 0);
        module.unload()
    }),
    Test::without_module("a_mapping_keeps_the_module_when_the_file_is_closed", || {
        let module = Loaded::with("size_mib=1")?;
        let mapping = Mapping::shared(Device::open()?, MIB)?;
        mapping.store(5, 5);
        let error = module::remove().expect_err("the device is mapped");
        assert!(module::is_busy(&error), "{error}");
        assert_eq!(mapping.load(5), 5);
        drop(mapping);
        module.unload()
    }),
    Test::without_module("all_memory_comes_back", || {
        // (Fewer on the sanitizer kernel.)
        let cycles = if is_sanitizer_kernel() { 4 } else { 8 };
        const HELD: u64 = 32 * MIB as u64;
        let cycle = |parameters: &str| -> io::Result<()> {
            let module = Loaded::with(parameters)?;
            {
                let device = Device::open()?;
                let mapping = Mapping::shared(&device, HELD as usize)?;
                mapping.touch_write(0, HELD as usize, 1);
                assert_eq!(device.info()?.resident_bytes, HELD);
            }
            module.unload()
        };
        for parameters in ["size_mib=32 huge=1", "size_mib=32 huge=0"] {
            // The first load leaves things behind that are the kernel's to keep: slabs, sysfs names.
            cycle(parameters)?;
            let free = memory::settled_free()?;
            let cached = memory::vmstat("nr_file_pages")?;
            for _ in 0..cycles {
                cycle(parameters)?;
            }
            // A thirty-second of what was held and given back in all: what the rest of the guest does in these seconds is
            // less, and one page in thirty-two that leaks is as much.
            let allowed = HELD * cycles / 32;
            let lost = memory::lost_since(free, allowed, 8, memory::settled_free)?;
            let cached_now = memory::vmstat("nr_file_pages")?;
            // Caches of others may have shrunk.
            assert!(
                cached_now <= cached,
                "{parameters}: {cached_now} pages in page caches, {cached} before"
            );
            assert!(
                lost < allowed,
                "{parameters}: {lost} bytes are gone after {cycles} cycles"
            );
        }
        Ok(())
    }),
    Test::without_module("a_hundred_loads_leave_no_device_behind", || {
        // (As long on a kernel that is slow.)
        for _ in 0..(100 / slowness()).max(1) {
            Loaded::with("size_mib=1 devices=3")?.unload()?;
        }
        assert!(!Path::new("/dev/mmapdev0").exists());
        assert!(!Path::new("/sys/class/misc/mmapdev0").exists());
        Ok(())
    }),
];
