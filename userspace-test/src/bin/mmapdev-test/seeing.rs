// SPDX-License-Identifier: GPL-2.0

//! What a person sees of a device: its counters, and fdinfo.

use crate::{assert_errno, Test};
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::module::{self, Loaded};
use mmapdev_userspace::withheld::while_waiting;
use mmapdev_userspace::{abi, HUGE_PAGE, KIB, PAGE};
use rustix::io::{pwrite, Errno};
use rustix::mm::Advice;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const HUGE: &str = "huge=1 size_mib=4";
const TWO: &str = "huge=1 size_mib=4 devices=2";
const DEBUGFS: &str = "/sys/kernel/debug/mmapdev";

pub(crate) const TESTS: &[Test] = &[
    Test::with("folios_are_counted_by_their_size", HUGE, || {
        let device = Device::open()?;
        let control = Control::open()?;
        // Room for a folio of 64 KiB and a page behind one huge page.
        control.resize("0", (HUGE_PAGE + 64 * KIB + PAGE) as u64)?;
        for place in [0, HUGE_PAGE, HUGE_PAGE + 64 * KIB] {
            pwrite(&device, &[1], place as u64)?;
        }
        let counters = device.counters()?;
        let by_size = (
            counters.huge_folios,
            counters.large_folios,
            counters.small_folios,
        );
        assert_eq!(by_size, (1, 1, 1));
        assert_eq!(counters.folios_added, 3);
        Ok(())
    }),
    Test::with(
        "faults_under_the_lock_of_the_address_space_are_counted",
        HUGE,
        || {
            let device = Device::open()?;
            let mapping = Mapping::shared(&device, 2 * HUGE_PAGE)?;
            let all = |counters: &abi::Counters| {
                counters.faults + counters.huge_faults + counters.map_pages
            };
            mapping.store(0, 1);
            let touched = device.counters()?;
            assert_eq!((all(&touched), touched.mmap_lock_faults), (1, 0));
            // A touch that the kernel makes in a program's stead.
            mapping.advise(HUGE_PAGE, HUGE_PAGE, Advice::LinuxPopulateRead)?;
            let populated = device.counters()?;
            assert_eq!((all(&populated), populated.mmap_lock_faults), (2, 1));
            Ok(())
        },
    ),
    Test::with("debugfs_shows_the_counters_of_each_device", TWO, || {
        let device = Device::open()?;
        pwrite(&device, &[1; 7], 3)?;
        let shown = |node: &str| -> io::Result<HashMap<String, u64>> {
            let text = fs::read_to_string(format!("{DEBUGFS}/{node}"))?;
            let pairs = text.lines().filter_map(|line| line.split_once(' '));
            let number = |value: &str| value.parse().map_err(io::Error::other);
            pairs
                .map(|(name, value)| Ok((name.to_string(), number(value)?)))
                .collect()
        };
        let asked: HashMap<_, _> = device
            .counters()?
            .fields()
            .into_iter()
            .map(|(name, value)| (name.to_string(), value))
            .collect();
        assert_eq!(asked["bytes_written"], 7);
        assert_eq!(shown("mmapdev0")?, asked);
        assert_eq!(shown("mmapdev1")?["bytes_written"], 0);
        let mode = fs::metadata(format!("{DEBUGFS}/mmapdev0"))?.permissions();
        assert_eq!(mode.mode() & 0o777, 0o400);
        Ok(())
    }),
    Test::with("an_open_file_in_debugfs_keeps_the_module", HUGE, || {
        let mut open = File::open(format!("{DEBUGFS}/mmapdev0"))?;
        let error = module::remove().expect_err("unloaded under an open file");
        assert!(module::is_busy(&error), "{error}");
        let mut text = String::new();
        open.read_to_string(&mut text)?;
        assert!(text.contains("faults 0\n"), "{text}");
        Ok(())
    }),
    Test::with("a_device_that_ends_leaves_debugfs", HUGE, || {
        let control = Control::open()?;
        Mapping::shared(Device::open()?, PAGE)?.store(0, 1);
        let mut open = File::open(format!("{DEBUGFS}/mmapdev0"))?;
        control.destroy("0")?;
        let gone = File::open(format!("{DEBUGFS}/mmapdev0"));
        assert_errno(gone, Errno::NOENT, "an open of what is gone");
        // The name is free at once, in debugfs as well.
        control.create(control::memory("0", PAGE as u64)?)?;
        let text = fs::read_to_string(format!("{DEBUGFS}/mmapdev0"))?;
        assert!(text.starts_with("faults 0\n"), "{text}");
        // What was open shows what there was.
        let mut text = String::new();
        open.read_to_string(&mut text)?;
        assert!(text.starts_with("faults 1\n"), "{text}");
        Ok(())
    }),
    Test::with(
        "who_waits_for_counters_in_debugfs_keeps_no_device",
        HUGE,
        || {
            let control = Control::open()?;
            let counters = File::open(format!("{DEBUGFS}/mmapdev0"))?;
            while_waiting(
                |memory| memory.pread_from(&counters, 0, 0, 1),
                || {
                    control.destroy("0")?;
                    control.create(control::memory("0", PAGE as u64)?)?;
                    Ok(())
                },
            )
        },
    ),
    Test::without_module("debugfs_is_left_as_it_was_found", || {
        Loaded::with(TWO)?.unload()?;
        assert!(!Path::new(DEBUGFS).exists());
        Ok(())
    }),
    Test::with("fdinfo_says_what_an_open_file_is", HUGE, || {
        let device = Device::open()?;
        pwrite(&device, &[1], 0)?;
        Device::open()?.notify()?;
        let (seen, id) = (fdinfo(&device)?, device.info()?.id.to_string());
        let field = |name: &str| seen.get(name).map(String::as_str);
        assert_eq!(field("mmapdev-name"), Some("0"));
        assert_eq!(field("mmapdev-id"), Some(id.as_str()));
        assert_eq!(field("mmapdev-size"), Some("4194304"));
        assert_eq!(field("mmapdev-resident"), Some("2097152"));
        assert_eq!(field("mmapdev-events"), Some("1"));
        assert_eq!(field("mmapdev-state"), Some("alive"));
        device.take_events()?;
        device.destroy()?;
        let seen = fdinfo(&device)?;
        assert_eq!(seen["mmapdev-events"], "0");
        assert_eq!(seen["mmapdev-size"], "0");
        assert_eq!(seen["mmapdev-resident"], "0");
        assert_eq!(seen["mmapdev-state"], "destroyed");
        Ok(())
    }),
];

/// The lines of an open file in `/proc/self/fdinfo`.
fn fdinfo(file: impl AsFd) -> io::Result<HashMap<String, String>> {
    let number = file.as_fd().as_raw_fd();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    let lines = text.lines().filter_map(|line| line.split_once(":\t"));
    Ok(lines
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect())
}
