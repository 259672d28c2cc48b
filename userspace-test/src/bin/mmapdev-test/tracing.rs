// SPDX-License-Identifier: GPL-2.0

//! The tracepoints, as the kernel's tracing shows them to perf, trace-cmd and bpftrace.

use crate::Test;
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::{HUGE_PAGE, MIB, PAGE};
use rustix::fs::OFlags;
use rustix::io::{pread, pwrite, Errno};
use rustix::mm::{MapFlags, MprotectFlags};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;

const FOLDER: &str = "/sys/kernel/tracing";
const HUGE: &str = "huge=1 size_mib=8";
const SMALL: &str = "huge=0 size_mib=8";
const NONE: &str = "devices=0";

const NAMES: [&str; 9] = [
    "create",
    "destroy",
    "fault",
    "huge_fault",
    "map_pages",
    "page_mkwrite",
    "read",
    "write",
    "zap",
];

/// A program that reads, and how its read is printed.
const READS: [&str; 4] = ["dd", "if=/dev/mmapdev0", "bs=7", "count=1"];
const AS_PRINTED: &str = "device=1 offset=0 length=7 result=7";

pub(crate) const TESTS: &[Test] = &[
    Test::with("every_tracepoint_is_listed_with_a_format", NONE, || {
        let listed = fs::read_to_string(format!("{FOLDER}/available_events"))?;
        let listed: BTreeSet<&str> = listed
            .lines()
            .filter_map(|line| line.strip_prefix("mmapdev:mmapdev_"))
            .collect();
        assert_eq!(listed, BTreeSet::from(NAMES));
        for name in NAMES {
            let format = fs::read_to_string(event(name).join("format"))?;
            assert!(format.contains("field:u64 device;"), "{format}");
            assert!(format.contains("print fmt: \"device=%llu "), "{format}");
        }
        Ok(())
    })
    .in_new_module(),
    Test::with("a_huge_touch_is_traced", HUGE, || {
        let device = Device::open()?;
        let mapping = Mapping::shared(&device, 8 * MIB)?;
        let lines = traced(|| {
            mapping.store(HUGE_PAGE + 3 * PAGE, 1);
            Ok(())
        })?;
        assert_eq!(
            lines,
            ["mmapdev_huge_fault: device=1 page=515 order=9 result=0"]
        );
        Ok(())
    })
    .in_new_module(),
    Test::with("small_touches_are_traced", SMALL, || {
        let device = Device::open()?;
        let mapping = Mapping::shared(&device, 8 * MIB)?;
        let fresh = Mapping::shared(&device, 8 * MIB)?;
        let lines = traced(|| {
            mapping.load(7 * PAGE);
            fresh.load(7 * PAGE);
            Ok(())
        })?;
        let expected = [
            "mmapdev_fault: device=1 page=7 order=0 result=0",
            "mmapdev_map_pages: device=1 page=7 order=6 result=0",
        ];
        assert_eq!(lines, expected);
        Ok(())
    })
    .in_new_module(),
    Test::with(
        "a_touch_beyond_the_end_is_traced_with_its_error",
        SMALL,
        || {
            let device = Device::open()?;
            let mapping = Mapping::shared(&device, 9 * MIB)?;
            let sink = rustix::fs::memfd_create("sink", rustix::fs::MemfdFlags::CLOEXEC)?;
            let lines = traced(|| {
                // The kernel's own touch, which is an error and no signal.
                assert!(mapping.pwrite_to(&sink, 0, 8 * MIB, 1).is_err());
                Ok(())
            })?;
            let expected = "mmapdev_fault: device=1 page=2048 order=0 result=-6";
            assert!(lines.iter().all(|line| line == expected), "{lines:?}");
            assert!(!lines.is_empty());
            Ok(())
        },
    )
    .in_new_module(),
    Test::with("reads_and_writes_are_traced", HUGE, || {
        let device = Device::open()?;
        let lines = traced(|| {
            pwrite(&device, &[1; 100], 5)?;
            pread(&device, &mut [0; 10], 8 * MIB as u64 - 4)?;
            Ok(())
        })?;
        let expected = [
            "mmapdev_write: device=1 offset=5 length=100 result=100",
            "mmapdev_read: device=1 offset=8388604 length=10 result=4",
        ];
        assert_eq!(lines, expected);
        Ok(())
    })
    .in_new_module(),
    Test::with(
        "a_life_is_traced_from_its_beginning_to_its_end",
        NONE,
        || {
            let control = Control::open()?;
            let lines = traced(|| {
                control.create(control::memory("x", 8 * MIB as u64)?)?;
                let device = Device::open_with(control::node("x"), OFlags::RDWR)?;
                pwrite(&device, &[1], 0)?;
                control.punch("x", 0, 4 * MIB as u64)?;
                control.resize("x", MIB as u64)?;
                control.destroy("x")?;
                Ok(())
            })?;
            let expected = [
                "mmapdev_create: device=1 size=8388608 folio=2097152 result=0",
                "mmapdev_write: device=1 offset=0 length=1 result=1",
                "mmapdev_zap: device=1 offset=0 length=4194304 result=2097152",
                "mmapdev_zap: device=1 offset=1048576 length=7340032 result=0",
                "mmapdev_zap: device=1 offset=0 length=1048576 result=0",
                "mmapdev_destroy: device=1 size=1048576 folio=2097152 result=0",
            ];
            assert_eq!(lines, expected);
            Ok(())
        },
    )
    .in_new_module(),
    Test::with(
        "a_huge_offer_that_is_refused_is_traced_and_counted",
        HUGE,
        || {
            let device = Device::open()?;
            let map = |flags| Mapping::new(&device, 8 * MIB, READ_WRITE, flags, 0);
            // A private copy is made page by page.
            let private = map(MapFlags::PRIVATE)?;
            let before = device.counters()?;
            let lines = traced(|| {
                private.store(5 * PAGE, 1);
                Ok(())
            })?;
            let expected = [
                "mmapdev_huge_fault: device=1 page=5 order=9 result=-11",
                "mmapdev_fault: device=1 page=5 order=9 result=0",
            ];
            assert_eq!(lines, expected);
            let after = device.counters()?;
            assert_eq!(after.huge_fallbacks, before.huge_fallbacks + 1);
            assert_eq!(after.huge_faults, before.huge_faults);
            Ok(())
        },
    )
    .in_new_module(),
    Test::with(
        "a_huge_offer_of_small_pages_is_traced_and_counted",
        HUGE,
        || {
            let device = Device::open()?;
            // The rest of a huge page is no huge page any more.
            pwrite(&device, &[1], 0)?;
            device.punch(PAGE as u64, PAGE as u64)?;
            let mapping = Mapping::shared(&device, 8 * MIB)?;
            let lines = traced(|| {
                mapping.store(5 * PAGE, 1);
                Ok(())
            })?;
            let expected = [
                "mmapdev_huge_fault: device=1 page=5 order=9 result=-11",
                "mmapdev_map_pages: device=1 page=5 order=6 result=0",
            ];
            assert_eq!(lines, expected);
            assert_eq!(device.counters()?.huge_fallbacks, 1);
            Ok(())
        },
    )
    .in_new_module(),
    Test::with("what_fails_is_traced_with_its_error", HUGE, || {
        let device = Device::open()?;
        let control = Control::open()?;
        let end = 8 * MIB as u64;
        let nowhere = Mapping::anonymous(PAGE)?;
        nowhere.protect(0, PAGE, MprotectFlags::empty())?;
        let lines = traced(|| {
            assert_eq!(pwrite(&device, &[1; 3], end), Err(Errno::NOSPC));
            assert!(nowhere.pread_from(&device, 3, 0, 5).is_err());
            assert!(control.create(control::memory("0", end)?).is_err());
            Ok(())
        })?;
        let expected = [
            "mmapdev_write: device=1 offset=8388608 length=3 result=-28",
            "mmapdev_read: device=1 offset=3 length=5 result=-14",
            "mmapdev_create: device=0 size=8388608 folio=0 result=-17",
        ];
        assert_eq!(lines, expected);
        Ok(())
    })
    .in_new_module(),
    Test::with("one_tracepoint_can_be_on_alone", HUGE, || {
        let device = Device::open()?;
        let switch = event("write").join("enable");
        fs::write(format!("{FOLDER}/trace"), "")?;
        fs::write(&switch, "1")?;
        let written = pwrite(&device, &[1; 2], 0).and_then(|_| pread(&device, &mut [0], 0));
        fs::write(&switch, "0")?;
        written?;
        let expected = ["mmapdev_write: device=1 offset=0 length=2 result=2"];
        assert_eq!(lines()?, expected);
        Ok(())
    })
    .in_new_module(),
    Test::with_debian("trace_cmd_lists_and_prints_them", HUGE, || {
        assert_lists_all(&debian(&["trace-cmd", "list", "-e", "mmapdev"])?);
        let file = "/tmp/trace.dat";
        let record = ["trace-cmd", "record", "-q", "-o", file, "-e", "mmapdev"];
        debian(&[&record[..], &READS].concat())?;
        let report = debian(&["trace-cmd", "report", "-i", file])?;
        assert!(report.contains(AS_PRINTED), "{report}");
        Ok(())
    })
    .in_new_module(),
    Test::with_debian("perf_lists_and_prints_them", HUGE, || {
        assert_lists_all(&debian(&["perf", "list", "mmapdev:*"])?);
        let file = "/tmp/perf.data";
        let record = ["perf", "record", "-o", file, "-e", "mmapdev:*"];
        debian(&[&record[..], &READS].concat())?;
        let script = debian(&["perf", "script", "-i", file])?;
        assert!(script.contains(AS_PRINTED), "{script}");
        Ok(())
    })
    .in_new_module(),
    Test::with_debian("bpftrace_lists_them_and_reads_their_fields", HUGE, || {
        assert_lists_all(&debian(&["bpftrace", "-l", "tracepoint:mmapdev:*"])?);
        let program = r#"tracepoint:mmapdev:mmapdev_read { printf("%d of %d\n", args.result, args.length); }"#;
        let printed = debian(&["bpftrace", "-q", "-e", program, "-c", &READS.join(" ")])?;
        assert!(printed.contains("7 of 7\n"), "{printed}");
        Ok(())
    })
    .in_new_module(),
    Test::with("nothing_is_traced_unless_asked_for", HUGE, || {
        let device = Device::open()?;
        fs::write(format!("{FOLDER}/trace"), "")?;
        pwrite(&device, &[1; 100], 5)?;
        assert_eq!(lines()?, Vec::<String>::new());
        Ok(())
    })
    .in_new_module(),
];

fn event(name: &str) -> PathBuf {
    PathBuf::from(format!("{FOLDER}/events/mmapdev/mmapdev_{name}"))
}

/// What was traced, without the task, the CPU and the time.
fn lines() -> io::Result<Vec<String>> {
    let text = fs::read_to_string(format!("{FOLDER}/trace"))?;
    let lines = text
        .lines()
        .filter_map(|line| Some(&line[line.find("mmapdev_")?..]));
    Ok(lines
        .filter(|line| !line.starts_with("mmapdev_test"))
        .map(str::to_string)
        .collect())
}

/// Traces all while `body` runs.
pub(crate) fn traced(body: impl FnOnce() -> io::Result<()>) -> io::Result<Vec<String>> {
    let switch = format!("{FOLDER}/events/mmapdev/enable");
    fs::write(format!("{FOLDER}/trace"), "")?;
    fs::write(&switch, "1")?;
    let result = body();
    fs::write(&switch, "0")?;
    result?;
    lines()
}

/// Runs a program of the Debian that the rig shares with the guest, and returns what it prints.
fn debian(words: &[&str]) -> io::Result<String> {
    let output = Command::new("chroot").arg("/debian").args(words).output()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let words = words.join(" ");
    Err(io::Error::other(format!("{words}: {printed}{complaint}")))
}

/// Checks that a list of tracepoints has each of them.
fn assert_lists_all(list: &str) {
    let listed: BTreeSet<_> = list.split_whitespace().collect();
    for name in NAMES {
        let is_it = |word: &&str| word.ends_with(&format!("mmapdev:mmapdev_{name}"));
        assert!(listed.iter().any(is_it), "no {name} in {list}");
    }
}
