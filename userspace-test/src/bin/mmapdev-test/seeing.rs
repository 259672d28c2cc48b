// SPDX-License-Identifier: GPL-2.0

//! What a person sees of a device: its counters, and fdinfo.

use crate::Test;
use mmapdev_userspace::control::Control;
use mmapdev_userspace::device::Device;
use mmapdev_userspace::{HUGE_PAGE, KIB, PAGE};
use rustix::io::pwrite;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

const HUGE: &str = "huge=1 size_mib=4";

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
