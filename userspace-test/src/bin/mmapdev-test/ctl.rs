// SPDX-License-Identifier: GPL-2.0

//! `mmapdevctl`, run as a person or a script runs it: what it does, prints and says when it fails.

use crate::Test;
use mmapdev_userspace::control::Control;
use mmapdev_userspace::device::Device;
use mmapdev_userspace::{abi, module, MIB};
use rustix::event::{poll, PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::{pread, pwrite};
use rustix::process::{Pid, Uid};
use rustix::thread::set_thread_res_uid;
use rustix::time::Timespec;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const NONE: &str = "devices=0";
const ONE: &str = "size_mib=4 huge=0";

/// What it ends with.
const DONE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;

pub(crate) const TESTS: &[Test] = &[
    Test::with("create_makes_the_device_and_prints_its_node", NONE, || {
        let made = ctl(["create", "frames", "--size", "6M"])?;
        assert_eq!(done(&made), "/dev/mmapdev-frames\n");
        assert_eq!(
            ctl_done(["create", "7", "--size", "4096"])?,
            "/dev/mmapdev7\n"
        );
        let info = Control::open()?.info("frames")?;
        assert_eq!(info.device_size, 6 * MIB as u64);
        assert_eq!(info.huge, abi::HUGE_ALWAYS);
        assert_eq!(info.largest_folio, 2 * MIB as u32);
        assert_eq!(Control::open()?.info("7")?.device_size, 4096);
        Ok(())
    }),
    Test::with("create_hands_every_choice_on", NONE, || {
        for (huge, value) in [
            ("never", abi::HUGE_NEVER),
            ("always", abi::HUGE_ALWAYS),
            ("advise", abi::HUGE_ADVISE),
        ] {
            let size = "65540K";
            ctl_done([
                "create",
                huge,
                "--size",
                size,
                "--huge",
                huge,
                "--largest-folio",
                "64k",
            ])?;
            let info = Control::open()?.info(huge)?;
            assert_eq!(info.device_size, (64 * MIB + 4096) as u64);
            assert_eq!(info.huge, value);
            // What is the largest that a device of single pages uses is the module's to say.
            if huge != "never" {
                assert_eq!(info.largest_folio, 64 << 10);
            }
        }
        Ok(())
    }),
    Test::with("create_as_json_tells_what_was_made", NONE, || {
        let made = json(&ctl_done(["create", "x", "--size", "256M", "--json"])?);
        assert_eq!(made["name"], "x");
        assert_eq!(made["node"], "/dev/mmapdev-x");
        assert_eq!(made["size"], 256u64 << 20);
        assert_eq!(made["id"], Control::open()?.info("x")?.id);
        Ok(())
    }),
    Test::with(
        "destroy_ends_one_and_many_by_name_and_by_node",
        NONE,
        || {
            for name in ["a", "b", "3", "d"] {
                ctl_done(["create", name, "--size", "1M"])?;
            }
            assert_eq!(ctl_done(["destroy", "a"])?, "");
            assert_eq!(
                ctl_done(["destroy", "/dev/mmapdev-b", "/dev/mmapdev3"])?,
                ""
            );
            let left = Control::open()?.list()?;
            assert_eq!(left.len(), 1);
            assert_eq!(left[0].name.bytes(), b"d");
            Ok(())
        },
    ),
    Test::with(
        "one_that_cannot_be_destroyed_does_not_keep_the_others",
        NONE,
        || {
            for name in ["a", "b"] {
                ctl_done(["create", name, "--size", "1M"])?;
            }
            let sentence = fails(["destroy", "ghost", "a", "shade", "b"])?;
            assert!(
                sentence.contains("\"ghost\"") && sentence.contains("\"shade\""),
                "{sentence}"
            );
            assert_eq!(Control::open()?.list()?, []);
            Ok(())
        },
    ),
    Test::with("resize_changes_the_size_both_ways", ONE, || {
        let device = Device::open()?;
        assert_eq!(ctl_done(["resize", "0", "--size", "8M"])?, "");
        assert_eq!(device.size()?, 8 * MIB);
        assert_eq!(ctl_done(["resize", "/dev/mmapdev0", "--size", "4K"])?, "");
        assert_eq!(device.size()?, 4096);
        Ok(())
    }),
    Test::with("punch_gives_back_that_range_alone", ONE, || {
        let device = Device::open()?;
        assert_eq!(pwrite(&device, &[7; 4 * 4096], 0)?, 4 * 4096);
        assert_eq!(
            ctl_done(["punch", "0", "--offset", "4K", "--length", "8K"])?,
            ""
        );
        assert_eq!(device.info()?.resident_bytes, 2 * 4096);
        let mut bytes = [1; 4 * 4096];
        assert_eq!(pread(&device, &mut bytes, 0)?, 4 * 4096);
        let expected = [[7; 4096], [0; 4096], [0; 4096], [7; 4096]].concat();
        assert!(bytes[..] == expected);
        Ok(())
    }),
    Test::with("list_shows_each_device_in_a_line", NONE, || {
        assert!(ctl_done(["list"])?.starts_with("no devices"));
        assert_eq!(json(&ctl_done(["list", "--json"])?), serde_json::json!([]));
        ctl_done(["create", "one", "--size", "64M", "--huge", "never"])?;
        ctl_done(["create", "2", "--size", "3M"])?;
        let open = Device::open_with("/dev/mmapdev-one", OFlags::RDWR)?;
        assert_eq!(pwrite(&open, b"x", 0)?, 1);
        let text = ctl_done(["list"])?;
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let info = Control::open()?.info("one")?;
        let largest = mmapdev_userspace::size::format(info.largest_folio.into());
        assert_eq!(
            rows[0],
            ["name", "node", "size", "memory", "huge", "largest", "open"]
        );
        assert_eq!(
            rows[1],
            [
                "one",
                "/dev/mmapdev-one",
                "64M",
                "4K",
                "never",
                &largest,
                "1"
            ]
        );
        assert_eq!(
            rows[2],
            ["2", "/dev/mmapdev2", "3M", "0", "always", "2M", "0"]
        );
        assert_eq!(rows.len(), 3);
        let all = json(&ctl_done(["list", "--json"])?);
        assert_eq!(all.as_array().map(Vec::len), Some(2));
        assert_eq!(all[0]["name"], "one");
        assert_eq!(all[0]["resident_bytes"], 4096);
        assert_eq!(all[1]["node"], "/dev/mmapdev2");
        Ok(())
    }),
    Test::with("info_as_json_has_every_field", NONE, || {
        ctl_done([
            "create",
            "x",
            "--size",
            "4M",
            "--huge",
            "advise",
            "--largest-folio",
            "64K",
        ])?;
        let device = Device::open_with("/dev/mmapdev-x", OFlags::RDWR)?;
        assert_eq!(pwrite(&device, b"x", 0)?, 1);
        let expected = serde_json::json!({
            "name": "x",
            "node": "/dev/mmapdev-x",
            "id": device.info()?.id,
            "size": 4 * MIB,
            "resident_bytes": device.info()?.resident_bytes,
            "backing": "memory",
            "huge": "advise",
            "largest_folio": 65536,
            "open_files": 1,
        });
        assert_eq!(json(&ctl_done(["info", "x", "--json"])?), expected);
        assert_eq!(
            json(&ctl_done(["info", "/dev/mmapdev-x", "--json"])?),
            expected
        );
        Ok(())
    }),
    Test::with("info_for_people_has_every_value", NONE, || {
        ctl_done(["create", "x", "--size", "4M", "--largest-folio", "64K"])?;
        let text = ctl_done(["info", "x"])?;
        for value in ["x", "/dev/mmapdev-x", "4M", "64K", "always", "memory"] {
            assert!(
                text.split_whitespace().any(|word| word == value),
                "{value}: {text}"
            );
        }
        Ok(())
    }),
    Test::with("a_link_to_a_node_is_the_node", ONE, || {
        let link = Path::new("/tmp/mmapdevctl-link");
        symlink("/dev/mmapdev0", link)?;
        let shown = ctl([OsStr::new("info"), link.as_os_str(), OsStr::new("--json")]);
        std::fs::remove_file(link)?;
        assert_eq!(json(done(&shown?))["name"], "0");
        Ok(())
    }),
    Test::with("stat_has_every_counter_as_the_module_tells_it", ONE, || {
        let device = Device::open()?;
        assert_eq!(pwrite(&device, &[1; 5000], 0)?, 5000);
        assert_eq!(pread(&device, &mut [0; 300], 0)?, 300);
        device.notify()?;
        let stat = json(&ctl_done(["stat", "0", "--json"])?);
        let counters = device.counters()?;
        // By the structure's own words, so that a new field is missed.
        let words = format!("{counters:?}");
        let fields = words.trim_start_matches("Counters {").trim_end_matches('}');
        let mut seen = 0;
        for field in fields.split(", ") {
            let (name, value) = field.trim().split_once(": ").expect("a name and a value");
            if !["size", "flags"].contains(&name) {
                assert_eq!(stat[name].to_string(), value, "{name}");
                seen += 1;
            }
        }
        assert_eq!(seen, 18);
        assert_eq!(stat["bytes_written"], 5000);
        assert_eq!(stat["bytes_read"], 300);
        assert_eq!(stat["events"], 1);
        assert_eq!(stat["resident_bytes"], 8192);
        assert_eq!(stat["size"], 4 * MIB);
        assert!(stat.get("seconds").is_none());
        let text = ctl_done(["stat", "/dev/mmapdev0"])?;
        let row = text
            .lines()
            .find(|line| line.trim_start().starts_with("bytes_written"));
        assert!(row.is_some_and(|row| row.contains(" 5000 ")), "{text}");
        Ok(())
    }),
    Test::with(
        "stat_lines_are_what_came_since_the_line_before",
        ONE,
        || {
            let device = Device::open()?;
            assert_eq!(pwrite(&device, &[1; 5000], 0)?, 5000);
            let mut child = Command::new("mmapdevctl")
                .args(["stat", "0", "--interval", "0.1", "--json"])
                .stdout(Stdio::piped())
                .spawn()?;
            let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
            let mut next = || json(&lines.next().expect("a line").expect("text"));
            let first = next();
            assert_eq!(
                first["bytes_written"], 5000,
                "all since the device was made"
            );
            assert!(first.get("seconds").is_none());
            assert_eq!(pwrite(&device, &[1; 70], 0)?, 70);
            // In one of the lines that follow, however the machine is loaded, and in no other.
            loop {
                let line = next();
                assert!(line["seconds"]
                    .as_f64()
                    .is_some_and(|seconds| seconds > 0.0));
                match line["bytes_written"].as_u64() {
                    Some(0) => {}
                    written => {
                        assert_eq!(written, Some(70));
                        break;
                    }
                }
            }
            assert_eq!(next()["bytes_written"], 0);
            child.kill()?;
            child.wait()?;
            Ok(())
        },
    ),
    Test::with("stat_lines_for_people_stand_under_a_heading", ONE, || {
        let device = Device::open()?;
        assert_eq!(pwrite(&device, &[1; 4096], 0)?, 4096);
        let text = ctl_done(["stat", "0", "--interval", "0.01", "--count", "23"])?;
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let names = [
            "page", "huge", "around", "failed", "4K", "large", "2M", "read", "written", "removed",
            "held",
        ];
        assert_eq!(rows[0], ["faults", "folios", "bytes", "memory"]);
        assert_eq!(rows[1], names);
        assert_eq!(
            rows[2],
            ["0", "0", "0", "0", "1", "0", "0", "0", "4K", "0", "4K"]
        );
        assert_eq!(
            rows[3],
            ["0", "0", "0", "0", "0", "0", "0", "0", "0", "0", "4K"]
        );
        // Again after twenty lines.
        assert_eq!(rows[23], names);
        assert_eq!(rows.len(), 4 + 23);
        Ok(())
    }),
    Test::with("stat_ends_when_the_device_does", ONE, || {
        let mut child = Command::new("mmapdevctl")
            .args(["stat", "0", "--interval", "0.05", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        assert!(lines.next().is_some());
        Control::open()?.destroy("0")?;
        lines.by_ref().for_each(drop);
        let output = child.wait_with_output()?;
        assert_eq!(output.status.code(), Some(FAILED));
        let sentence = text(&output.stderr);
        assert!(sentence.contains("\"0\" has been destroyed"), "{sentence}");
        Ok(())
    }),
    Test::with(
        "stat_is_not_root_s_alone_where_the_node_is_not",
        ONE,
        || {
            std::os::unix::fs::chown(Path::new("/dev/mmapdev0"), Some(65534), None)?;
            become_nobody()?;
            let stat = json(&ctl_done(["stat", "0", "--json"])?);
            assert_eq!(stat["size"], 4 * MIB);
            Ok(())
        },
    ),
    Test::without_module("without_the_module_it_says_how_to_load_it", || {
        assert!(!module::is_loaded());
        for arguments in [
            &["list"][..],
            &["info", "0"],
            &["create", "x", "--size", "1M"],
            &["destroy", "0"],
            &["resize", "0", "--size", "1M"],
            &["punch", "0", "--offset", "0", "--length", "1"],
            &["stat", "0"],
        ] {
            let sentence = fails(arguments)?;
            assert!(
                sentence.contains("the module is not loaded: insmod mmapdev.ko"),
                "{sentence}"
            );
        }
        Ok(())
    }),
    Test::with("a_device_that_is_not_there_is_named", NONE, || {
        for arguments in [
            &["info", "ghost"][..],
            &["destroy", "ghost"],
            &["resize", "ghost", "--size", "1M"],
            &["punch", "ghost", "--offset", "0", "--length", "1"],
            &["stat", "ghost"],
        ] {
            let sentence = fails(arguments)?;
            assert!(
                sentence.contains("no device named \"ghost\": mmapdevctl list"),
                "{sentence}"
            );
        }
        Ok(())
    }),
    Test::with("a_taken_name_is_said_to_be_taken", ONE, || {
        let sentence = fails(["create", "0", "--size", "1M"])?;
        let expected = "a device named \"0\" exists: destroy it first or choose another name";
        assert_eq!(sentence, format!("mmapdevctl: {expected}\n"));
        let sentence = fails(["create", "control", "--size", "1M"])?;
        assert!(sentence.contains("the control node"), "{sentence}");
        Ok(())
    }),
    Test::with("a_size_that_cannot_be_is_said_to_be_why", ONE, || {
        for (size, words) in [
            ("0", "no multiple of the page size above 0"),
            ("4097", "no multiple of the page size"),
            ("64T", "--size 64T is more than the machine's memory"),
            (
                "16777215T",
                "--size 16777215T is more than any file can have",
            ),
        ] {
            let create = fails(["create", "x", "--size", size])?;
            assert!(create.contains(words), "create {size}: {create}");
            let resize = fails(["resize", "0", "--size", size])?;
            assert!(resize.contains(words), "resize {size}: {resize}");
        }
        for size in ["12K", "4M", "1"] {
            let sentence = fails(["create", "x", "--size", "1M", "--largest-folio", size])?;
            assert!(sentence.contains("--largest-folio"), "{size}: {sentence}");
        }
        assert_eq!(Control::open()?.list()?.len(), 1);
        Ok(())
    }),
    Test::with("a_range_that_cannot_be_is_said_to_be_why", ONE, || {
        let sentence = fails(["punch", "0", "--offset", "0", "--length", "0"])?;
        assert!(sentence.contains("--length 0 is no range"), "{sentence}");
        let last = u64::MAX.to_string();
        let sentence = fails(["punch", "0", "--offset", &last, "--length", "4K"])?;
        assert!(
            sentence.contains("more than any file can have"),
            "{sentence}"
        );
        Ok(())
    }),
    Test::with("who_is_not_root_is_told_to_be", ONE, || {
        become_nobody()?;
        for arguments in [
            &["list"][..],
            &["info", "0"],
            &["create", "x", "--size", "1M"],
            &["destroy", "0"],
            &["resize", "0", "--size", "1M"],
            &["punch", "0", "--offset", "0", "--length", "1"],
            &["stat", "0"],
        ] {
            let sentence = fails(arguments)?;
            assert!(sentence.contains("root"), "{arguments:?}: {sentence}");
        }
        Ok(())
    }),
    Test::with("odd_names_are_wrong_usage_and_change_nothing", ONE, || {
        let odd: [&[u8]; 9] = [
            b"",
            b"/",
            b"a/b",
            b"../mmapdev0",
            b"a b",
            &[b'x'; 64],
            &[b'x'; 256],
            b"caf\xc3\xa9",
            b"\xff\xfe",
        ];
        for name in odd {
            let name = OsString::from_vec(name.to_vec());
            for arguments in [
                &["create", "--size", "1M", "--"][..],
                &["destroy", "--"],
                &["resize", "--size", "1M", "--"],
                &["punch", "--offset", "0", "--length", "1M", "--"],
                &["info", "--"],
                &["stat", "--"],
            ] {
                let mut arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
                arguments.push(&name);
                let output = ctl(&arguments)?;
                let words = text(&output.stderr);
                assert_eq!(output.status.code(), Some(USAGE), "{arguments:?}: {words}");
                assert!(words.contains("is no"), "{arguments:?}: {words}");
            }
        }
        // Those of PCI devices are the module's to give: they can be asked for, and not be made.
        let pci = "pci-0000:00:04.0-bar2";
        let output = ctl(["create", "--size", "1M", pci])?;
        let words = text(&output.stderr);
        assert_eq!(output.status.code(), Some(USAGE), "{words}");
        assert!(words.contains("PCI devices"), "{words}");
        assert!(fails(["info", pci])?.contains("no device named"));
        // A device that cannot be does not keep one that can, as usage is looked at first.
        let output = ctl([
            OsStr::new("destroy"),
            OsStr::new("0"),
            OsStr::from_bytes(b"\xff"),
        ])?;
        assert_eq!(output.status.code(), Some(USAGE));
        assert_eq!(Control::open()?.list()?.len(), 1);
        Ok(())
    }),
    Test::with(
        "the_longest_name_and_one_with_a_dash_first_work",
        NONE,
        || {
            let longest = "x".repeat(63);
            for name in [&longest[..], "-", "--size", ".x"] {
                ctl_done(["create", "--size", "1M", "--", name])?;
                let shown = json(&ctl_done(["info", "--json", "--", name])?);
                assert_eq!(shown["name"], name);
                ctl_done(["destroy", "--", &format!("/dev/mmapdev-{name}")])?;
            }
            assert_eq!(Control::open()?.list()?, []);
            Ok(())
        },
    ),
    Test::with("wrong_usage_is_status_2_and_does_nothing", ONE, || {
        for arguments in [
            &[][..],
            &["nonsense"],
            &["create", "x"],
            &["create", "--size", "1M"],
            &["create", "x", "--size", "big"],
            &["create", "x", "--size", "-1"],
            &["create", "x", "--size", "1.5M"],
            &["create", "x", "--size", "16777216T"],
            &["create", "x", "--size", "1M", "--huge", "maybe"],
            &["create", "x", "--size", "1M", "--largest-folio", "0"],
            &["create", "x", "--size", "1M", "--largest-folio", "8G"],
            &["destroy"],
            &["resize", "0"],
            &["punch", "0", "--offset", "0"],
            &["info"],
            &["info", "0", "1"],
            &["stat", "0", "--count", "1"],
            &["stat", "0", "--interval", "0"],
            &["stat", "0", "--interval", "-1"],
            &["stat", "0", "--interval", "nan"],
            &["stat", "0", "--interval", "1e19"],
            &["stat", "0", "--interval", "1", "--count", "0"],
        ] {
            let output = ctl(arguments)?;
            let words = text(&output.stderr);
            assert_eq!(output.status.code(), Some(USAGE), "{arguments:?}: {words}");
            assert!(!words.is_empty(), "{arguments:?}");
            assert_eq!(output.stdout, b"", "{arguments:?}");
        }
        assert_eq!(Control::open()?.list()?.len(), 1);
        Ok(())
    }),
    Test::without_module("help_tells_all_commands_statuses_and_examples", || {
        let help = ctl_done(["--help"])?;
        let commands = [
            "create", "destroy", "resize", "punch", "list", "info", "stat",
        ];
        for command in commands {
            assert!(
                help.contains(&format!("mmapdevctl {command}")),
                "an example of {command}"
            );
            let own = ctl_done([command, "--help"])?;
            assert!(
                own.contains(&format!("mmapdevctl {command} ")),
                "{command}: {own}"
            );
        }
        for words in [
            "Exit status: 0",
            "insmod mmapdev.ko",
            "/dev/mmapdev-NAME",
            "--json",
        ] {
            assert!(help.contains(words), "{words}: {help}");
        }
        Ok(())
    }),
    Test::with("output_that_cannot_be_written_is_a_failure", ONE, || {
        for arguments in [
            &["list"][..],
            &["info", "0"],
            &["stat", "0"],
            &["list", "--json"],
        ] {
            let full = std::fs::File::options().write(true).open("/dev/full")?;
            let output = Command::new("mmapdevctl")
                .args(arguments)
                .stdout(full)
                .output()?;
            assert_eq!(output.status.code(), Some(FAILED), "{arguments:?}");
            assert!(
                text(&output.stderr).contains("cannot write to stdout"),
                "{arguments:?}"
            );
        }
        Ok(())
    }),
    Test::with(
        "a_reader_that_has_seen_enough_ends_it_without_a_word",
        ONE,
        || {
            let mut child = Command::new("mmapdevctl")
                .args(["stat", "0", "--interval", "0.01"])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
            assert!(lines.next().is_some());
            drop(lines);
            let process = rustix::process::pidfd_open(
                Pid::from_child(&child),
                rustix::process::PidfdFlags::empty(),
            )?;
            let limit = Timespec {
                tv_sec: 20,
                tv_nsec: 0,
            };
            assert_eq!(
                poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit))?,
                1
            );
            let output = child.wait_with_output()?;
            assert_eq!(output.status.code(), Some(DONE));
            assert_eq!(text(&output.stderr), "");
            Ok(())
        },
    ),
];

/// Runs it.
fn ctl(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> io::Result<Output> {
    Command::new("mmapdevctl").args(arguments).output()
}

/// Runs it, and returns what it printed; it must have done what it was asked for.
fn ctl_done(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> io::Result<String> {
    Ok(done(&ctl(arguments)?).to_string())
}

/// What it printed; it must have done what it was asked for, and without complaints.
fn done(output: &Output) -> &str {
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(DONE));
    text(&output.stdout)
}

/// Runs it where the request must fail, and returns what it says.
fn fails(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> io::Result<String> {
    let output = ctl(arguments)?;
    let sentence = text(&output.stderr);
    assert_eq!(output.status.code(), Some(FAILED), "{sentence}");
    assert!(
        sentence
            .lines()
            .all(|line| line.starts_with("mmapdevctl: ")),
        "{sentence}"
    );
    assert!(!sentence.is_empty());
    assert_eq!(text(&output.stdout), "");
    Ok(sentence.to_string())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Gives root's rights up for good, for this process and those that it runs.
fn become_nobody() -> io::Result<()> {
    let nobody = Uid::from_raw(65534);
    set_thread_res_uid(nobody, nobody, nobody)?;
    Ok(())
}
