// SPDX-License-Identifier: GPL-2.0

//! What a person sees of a device: the counters in debugfs and in the interface, and fdinfo.

use crate::Test;
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::{HUGE_PAGE, KIB, MIB, PAGE};
use rustix::io::{pread, pwrite};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

const HUGE: &str = "huge=1 size_mib=4";
const FOLDER: &str = "/sys/kernel/debug/mmapdev";

pub(crate) const TESTS: &[Test] = &[
    Test::with(
        "debugfs_has_every_counter_as_the_interface_tells_it",
        HUGE,
        || {
            let device = Device::open()?;
            let mapping = Mapping::shared(&device, 4 * MIB)?;
            mapping.touch_write(0, HUGE_PAGE, 1);
            pwrite(&device, &[1; 100], HUGE_PAGE as u64)?;
            pread(&device, &mut [0; 50], 0)?;
            device.notify()?;
            device.punch(0, HUGE_PAGE as u64)?;
            let told = device.counters()?;
            let seen = fs::read_to_string(format!("{FOLDER}/0/counters"))?;
            let lines = told.fields().map(|(name, value)| format!("{name} {value}"));
            assert_eq!(seen.lines().collect::<Vec<_>>(), lines);
            assert!(
                told.huge_faults > 0 && told.bytes_read == 50 && told.events == 1,
                "{told:?}"
            );
            Ok(())
        },
    ),
    Test::with(
        "a_devices_folder_in_debugfs_comes_and_goes_with_it",
        "devices=0",
        || {
            let control = Control::open()?;
            let device = control.create_and_open("seen", MIB as u64)?;
            let path = format!("{FOLDER}/seen/counters");
            let open = fs::File::open(&path)?;
            control.destroy("seen")?;
            assert!(!Path::new(&path).exists());
            // Who has it open reads an error, and no memory of what was.
            assert!(io::read_to_string(open).is_err());
            drop(device);
            control.create(control::memory("seen", MIB as u64)?)?;
            assert!(fs::read_to_string(&path)?.contains("faults 0\n"));
            Ok(())
        },
    ),
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
    Test::with("fdinfo_says_what_an_open_file_is", HUGE, || {
        let device = Device::open()?;
        pwrite(&device, &[1], 0)?;
        Device::open()?.notify()?;
        let seen = fdinfo(&device)?;
        let field = |name: &str| seen.get(name).map(String::as_str);
        assert_eq!(field("mmapdev-name"), Some("0"));
        assert_eq!(field("mmapdev-id"), Some("1"));
        assert_eq!(field("mmapdev-size"), Some("4194304"));
        assert_eq!(field("mmapdev-resident"), Some("2097152"));
        assert_eq!(field("mmapdev-events"), Some("1"));
        assert_eq!(field("mmapdev-state"), Some("alive"));
        device.take_events()?;
        device.destroy()?;
        let seen = fdinfo(&device)?;
        assert_eq!(seen["mmapdev-events"], "0");
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
