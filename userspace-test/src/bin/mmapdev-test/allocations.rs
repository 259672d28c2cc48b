// SPDX-License-Identifier: GPL-2.0

//! Each call and each touch with its n-th allocation failing, n = 1, 2, 3... until it passes.
//!
//! What the kernel's user cannot get, it says with an error that is expected there, or does without; nothing is
//! lost, and the device works afterwards. Copies from and to a program's memory fail in the same way, as if that
//! were gone. How many there were is in the kernel's log.
//!
//! C file: `lib/fault-inject.c`.

use crate::file_backing::LoopDisk;
use crate::{pci, Test};
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::{self, Device};
use mmapdev_userspace::fail_nth::{FailCache, FailDisk, FailNth, FailWorkers, RefusingDisk};
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::module::{self, Loaded};
use mmapdev_userspace::pci::PciDevice;
use mmapdev_userspace::{abi, memory, HUGE_PAGE, KIB, MIB, PAGE};
use rustix::event::{epoll, eventfd, poll, EventfdFlags, PollFd, PollFlags};
use rustix::fs::{fadvise, fsync, memfd_create, seek, sendfile, MemfdFlags, OFlags, SeekFrom};
use rustix::io::{pread, pwrite, Errno};
use rustix::mm::{Advice, MapFlags, MprotectFlags};
use rustix::pipe::{pipe_with, splice, PipeFlags, SpliceFlags};
use rustix::time::Timespec;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

const SIZE: usize = 8 * MIB;
const HUGE: &str = "huge=1 size_mib=8";
const MIDDLE: &str = "huge=1 size_mib=8 folio_kib=64";
const SMALL: &str = "huge=0 size_mib=8";
const NONE: &str = "devices=0";
/// As large as one device of [`SIZE`]: what fails to be made leaves all of it to the next.
const LIMITED: &str = "devices=0 limit_mib=8";

const fn test(name: &'static str, parameters: &'static str, body: fn() -> io::Result<()>) -> Test {
    Test {
        limit: LIMIT,
        ..Test::with(name, parameters, body)
    }
}

const LIMIT: Option<Duration> = Some(Duration::from_secs(60));

/// Those in which it is the workers of a file that fail, beside who waits for them: not which allocation is failing is drawn
/// there, but how often, and they have more than one CPU.
pub(crate) const TESTS_OF_WORKERS: &[Test] = &[
    test(
        "syncing_to_a_file_by_workers_that_fail",
        NONE,
        failing_workers,
    ),
    test("syncing_to_a_disk_that_fails", NONE, failing_disk),
    test(
        "what_a_disk_refuses_to_write_at_once_is_written_in_another_way",
        NONE,
        refused_writes,
    ),
    test(
        "what_a_disk_refuses_to_read_at_once_is_asked_for_again",
        NONE,
        refused_reads,
    ),
];

pub(crate) const TESTS: &[Test] = &[
    test("opening", HUGE, opening),
    test("mapping", HUGE, mapping),
    test("changing_a_part_of_a_mapping", HUGE, protecting),
    test("first_read_in_huge_pages", HUGE, first_read),
    test("first_read_in_64_kib", MIDDLE, first_read),
    test("first_read_in_small_pages", SMALL, first_read),
    test("first_write_in_huge_pages", HUGE, first_write),
    test("first_write_in_64_kib", MIDDLE, first_write),
    test("first_write_in_small_pages", SMALL, first_write),
    test("touch_of_what_is_there_in_huge_pages", HUGE, present_touch),
    test("touch_of_what_is_there_in_64_kib", MIDDLE, present_touch),
    test(
        "touch_of_what_is_there_in_small_pages",
        SMALL,
        present_touch,
    ),
    test("private_copy_in_huge_pages", HUGE, private_copy),
    test("private_copy_in_small_pages", SMALL, private_copy),
    test("populating_in_huge_pages", HUGE, populating),
    test("populating_in_64_kib", MIDDLE, populating),
    test("populating_in_small_pages", SMALL, populating),
    test("reading_what_is_absent", HUGE, reading_absent),
    test("reading_what_is_there_in_huge_pages", HUGE, reading),
    test("reading_what_is_there_in_small_pages", SMALL, reading),
    // There is always a smaller folio to do with; memory of the program's that cannot be read is asked for again.
    test("writing_in_huge_pages", HUGE, || writing(&[])),
    test("writing_in_64_kib", MIDDLE, || writing(&[])),
    test("writing_in_small_pages", SMALL, || writing(&[Errno::NOMEM])),
    test("splicing_out_what_is_there", SMALL, splicing_data),
    test("splicing_out_what_is_absent", HUGE, splicing_hole),
    test("splicing_in_in_huge_pages", HUGE, || splicing_in(false)),
    test("splicing_in_in_64_kib", MIDDLE, || splicing_in(false)),
    test("splicing_in_in_small_pages", SMALL, || splicing_in(false)),
    test("splicing_in_what_is_lent", HUGE, || splicing_in(true)),
    test("lending_pages_to_a_pipe", HUGE, lending),
    test("sending_out", HUGE, sending),
    test("fsync_and_msync", HUGE, syncing),
    test("growing", HUGE, growing),
    test("shrinking_through_a_huge_page", HUGE, shrinking),
    test("shrinking_in_small_pages", SMALL, shrinking),
    test("punching_within_a_huge_page", HUGE, punching),
    test("punching_in_small_pages", SMALL, punching),
    test("creating", LIMITED, creating),
    test("creating_of_a_file", NONE, creating_of_file),
    test("first_read_of_a_file", NONE, first_read_of_file),
    test("reading_a_file", NONE, reading_stored),
    test("first_write_of_a_file", NONE, first_write_of_file),
    test("writing_to_a_file", NONE, writing_to_file),
    test("syncing_to_a_file", NONE, syncing_to_file),
    test("splicing_in_to_a_file", NONE, splicing_in_to_file),
    test("sending_from_a_file", NONE, sending_from_file),
    test("a_file_that_was_cut_off", NONE, || {
        following_file(STORED_SIZE / 2 - 5)
    }),
    test("a_file_that_has_grown", NONE, || {
        following_file(STORED_SIZE * 2 - 5)
    }),
    test("opening_and_mapping_of_a_file", NONE, mapping_of_file),
    test("closing_of_a_file", NONE, closing_of_file),
    test("destroying_of_a_file", NONE, destroying_of_file),
    test("destroying_by_name", NONE, || {
        destroying(|control, _| control.destroy(NAME))
    }),
    test("destroying_by_the_own_node", NONE, || {
        destroying(|_, device| device.destroy())
    }),
    test("asking", HUGE, asking),
    test("taking_events", SMALL, taking_events),
    test("setting_an_eventfd", SMALL, setting_eventfd),
    test("listing", "devices=3 size_mib=1", listing),
    test("polling", SMALL, polling),
    test("epolling", SMALL, epolling),
    test("seeking", HUGE, seeking),
    test("reading_fdinfo", HUGE, reading_fdinfo),
    test("reading_counters_in_debugfs", HUGE, reading_debugfs),
    Test {
        limit: LOADING,
        ..Test::without_module("loading", loading)
    },
    Test {
        limit: LIMIT,
        ..Test::without_module("unloading", unloading)
    },
    test("no_node_of_the_page_cache_in_huge_pages", HUGE, no_nodes),
    test("no_node_of_the_page_cache_in_64_kib", MIDDLE, no_nodes),
    test("no_node_of_the_page_cache_in_small_pages", SMALL, no_nodes),
];

/// On a machine with PCI devices.
pub(crate) const PCI_TESTS: &[Test] = &[
    test("opening", NONE, opening_bar),
    test("mapping", NONE, mapping_bar),
    test("touching_in_huge_pages", NONE, || {
        touching_bar(0, 4 * HUGE_PAGE)
    }),
    test("touching_in_small_pages", NONE, || {
        touching_bar(PAGE as u64, 2 * PAGE)
    }),
    test("reading", NONE, reading_bar),
    test("writing", NONE, writing_bar),
    test("fsync", NONE, syncing_bar),
    Test {
        limit: BINDING,
        ..Test::with("binding", NONE, binding_bar)
    },
    Test {
        limit: BINDING,
        ..Test::with("unbinding", NONE, unbinding_bar)
    },
];

/// As each failure is followed by binding it with success.
const BINDING: Option<Duration> = Some(Duration::from_secs(120));

/// There are several hundred failures, and many are followed by loading it with success.
const LOADING: Option<Duration> = Some(Duration::from_secs(120));

/// More than any of these calls allocates: a call that gets there never ends to fail.
const GUARD: u32 = 5000;

/// Of what the next failure shows as well, one in so many is looked at by itself; see also [`each_from`].
const SPARSE: u32 = 16;

/// How much less memory may be free after all failures of a call than before them: what the rest of the guest does
/// meanwhile, and the tables of the tools that look for mistakes, which grow. The least that would be lost by a call
/// that loses a huge page once is more.
const TOLERANCE: u64 = MIB as u64;

/// What becomes of a call while memory is short.
enum Fails {
    /// It allocates nothing, and copies nothing that may fail.
    Never,
    /// It fails with each of these for some n, and with no other error; or it does without.
    With(&'static [Errno]),
    /// It fails with some of these or does without, and fails with no other error.
    Among(&'static [Errno]),
}

/// Says of which n a failed assertion is.
struct Place(u32);

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("with the allocation {} failing", self.0);
        }
    }
}

/// Runs `act` with its first allocation failing, then with its second, until there are no more.
///
/// Each time on what `prepare` has made, and then `check` looks at what was made of it: it is given the answer, and
/// whether that may be a part of what was asked for, as something has failed.
fn each<S, T>(
    name: &str,
    fails: &Fails,
    prepare: impl FnMut() -> io::Result<S>,
    act: impl FnMut(&mut S) -> io::Result<T>,
    check: impl FnMut(S, io::Result<T>, bool) -> io::Result<()>,
) -> io::Result<()> {
    each_keeping(0, name, fails, prepare, act, check)
}

/// As [`each`], where the kernel itself keeps up to `kept` bytes for each time.
fn each_keeping<S, T>(
    kept: u64,
    name: &str,
    fails: &Fails,
    prepare: impl FnMut() -> io::Result<S>,
    act: impl FnMut(&mut S) -> io::Result<T>,
    check: impl FnMut(S, io::Result<T>, bool) -> io::Result<()>,
) -> io::Result<()> {
    each_from(0, kept, name, fails, prepare, act, check)
}

/// As [`each_keeping`], where up to the n that is `first` nothing of the module's runs: of those before, one in [`SPARSE`] fails.
fn each_from<S, T>(
    first: u32,
    kept: u64,
    name: &str,
    fails: &Fails,
    mut prepare: impl FnMut() -> io::Result<S>,
    mut act: impl FnMut(&mut S) -> io::Result<T>,
    mut check: impl FnMut(S, io::Result<T>, bool) -> io::Result<()>,
) -> io::Result<()> {
    // The first time leaves things behind that are the kernel's to keep; and the program's own allocator keeps
    // what it is asked for again.
    for _ in 0..2 {
        let mut state = prepare()?;
        let result = Ok(act(&mut state)?);
        check(state, result, false)?;
    }

    let failing = FailNth::begin()?;
    let mut errors = BTreeSet::new();
    let expected: BTreeSet<_> = match fails {
        Fails::Never => BTreeSet::new(),
        Fails::With(errors) | Fails::Among(errors) => errors
            .iter()
            .map(|error| Some(error.raw_os_error()))
            .collect(),
    };
    // Memory that something else has taken meanwhile is taken once; what is lost is lost each time. What the kernel's small
    // caches have grown by, and what it frees in its own time, is waited for only if it is much. And what is the n-th may be the
    // one after it at the next n, as the kernel's caches are filled or not, so that it does not fail.
    let (mut lost, mut failed) = (0, 0_u32);
    for (least, looks) in [(64 * KIB, 1), (0, 8)] {
        let before = settled_free(least)?;
        failed = 0;
        let mut n = 1;
        while fail(
            name,
            n,
            &failing,
            &mut errors,
            &mut prepare,
            &mut act,
            &mut check,
        )? {
            failed += 1;
            n += if n + SPARSE < first { SPARSE } else { 1 };
        }
        let allowed = TOLERANCE + kept * u64::from(failed + 1);
        lost = memory::lost_since(before, allowed, looks, || settled_free(least))?;
        let is_seen = matches!(fails, Fails::Among(_)) || errors == expected;
        if is_seen && lost <= allowed {
            break;
        }
    }
    drop(failing);
    let numbers = errors
        .iter()
        .map(|error| error.unwrap_or_default().to_string());
    let numbers = numbers.collect::<Vec<_>>().join(" ");
    fs::write(
        "/dev/kmsg",
        format!("mmapdev-test: {name}: {failed} failures, errors [{numbers}], {lost} bytes less\n"),
    )?;
    let is_expected = match fails {
        Fails::Among(_) => errors.is_subset(&expected),
        Fails::Never | Fails::With(_) => errors == expected,
    };
    assert!(
        is_expected,
        "{name}: {errors:?} of {failed} failures, and not {expected:?}"
    );
    assert_eq!(
        failed == 0,
        matches!(fails, Fails::Never),
        "{name}: {failed} failures"
    );
    assert!(
        lost <= TOLERANCE + kept * u64::from(failed + 1),
        "{name}: {lost} bytes lost by {failed} failures, twice"
    );
    Ok(())
}

/// Runs `act` once with its n-th allocation failing, and returns whether there was one.
fn fail<S, T>(
    name: &str,
    n: u32,
    failing: &FailNth,
    errors: &mut BTreeSet<Option<i32>>,
    prepare: &mut impl FnMut() -> io::Result<S>,
    act: &mut impl FnMut(&mut S) -> io::Result<T>,
    check: &mut impl FnMut(S, io::Result<T>, bool) -> io::Result<()>,
) -> io::Result<bool> {
    assert!(n < GUARD, "{name} never passes");
    let _place = Place(n);
    let mut state = prepare()?;
    let (result, was_reached) = failing.run(n, || act(&mut state))?;
    if let Err(error) = &result {
        assert!(was_reached, "{name} fails for itself: {error}");
        errors.insert(error.raw_os_error());
    }
    check(state, result, was_reached)?;
    Ok(was_reached)
}

/// Free memory, with what the kernel's caches of so many bytes can give back.
fn settled_free(least: usize) -> io::Result<u64> {
    memory::shrink_slabs(least)?;
    memory::settled_free()
}

/// Bytes at the end of the device that no act is about.
const KEPT: &[u8] = b"kept, whatever fails";
const KEPT_AT: usize = SIZE - PAGE;

/// Where pages are that are brought in: in one piece of 64 KiB, in another, and in another huge page.
const PLACES: [usize; 4] = [0, PAGE, 64 * KIB, HUGE_PAGE];

/// The length of a mapping that is so large that its start has page tables of all levels of its own.
const WIDE: usize = 2 << 30;

/// Takes all memory out of the device but for [`KEPT`].
fn renew(device: &Device) -> io::Result<()> {
    device.punch(0, SIZE as u64)?;
    assert_eq!(pwrite(device, KEPT, KEPT_AT as u64)?, KEPT.len());
    Ok(())
}

/// An open device with nothing in it but [`KEPT`], and a fresh mapping.
fn renewed(device: &Device) -> io::Result<Mapping> {
    renew(device)?;
    Mapping::shared(device, WIDE)
}

/// Reads bytes by a call.
fn bytes(device: &Device, at: usize, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0xEE; len];
    assert_eq!(pread(device, &mut bytes, at as u64)?, len);
    Ok(bytes)
}

/// Checks that a device works, by both ways, at places of all kinds.
fn works(device: &Device) -> io::Result<()> {
    let size = device.size()?;
    let mapping = Mapping::shared(device, size)?;
    for at in [0, 3 * PAGE + 1, 80 * KIB, HUGE_PAGE + 5, 5 * MIB, size - 1] {
        if at >= size {
            continue;
        }
        let value = mapping.load(at) ^ 0x5A;
        mapping.store(at, value);
        assert_eq!(bytes(device, at, 1)?, [value], "stored at {at}");
        assert_eq!(pwrite(device, &[value.wrapping_add(1)], at as u64)?, 1);
        assert_eq!(mapping.load(at), value.wrapping_add(1), "written at {at}");
        assert_eq!(pwrite(device, &[value ^ 0x5A], at as u64)?, 1);
    }
    Ok(())
}

/// Checks that the bytes that no act is about are there, and that the device works.
fn is_unharmed(device: &Device) -> io::Result<()> {
    assert_eq!(bytes(device, KEPT_AT, KEPT.len())?, KEPT);
    assert_eq!(device.size()?, SIZE);
    works(device)?;
    assert_eq!(bytes(device, KEPT_AT, KEPT.len())?, KEPT);
    Ok(())
}

/// Bytes none of which is 0.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8 + 1).collect()
}

fn opening() -> io::Result<()> {
    let other = Device::open()?;
    renew(&other)?;
    each(
        "opening",
        &Fails::With(&[Errno::NOMEM, Errno::FAULT]),
        || Ok(()),
        |()| Device::open(),
        |(), result, _| {
            let open = 1 + u32::from(result.is_ok());
            assert_eq!(other.info()?.open_files, open);
            drop(result);
            assert_eq!(other.info()?.open_files, 1);
            is_unharmed(&Device::open()?)
        },
    )
}

fn mapping() -> io::Result<()> {
    let device = Device::open()?;
    renew(&device)?;
    each(
        "mapping",
        &Fails::With(&[Errno::NOMEM]),
        || Ok(()),
        |()| Mapping::shared(&device, SIZE),
        |(), result, _| {
            if let Ok(mapping) = result {
                assert_eq!(mapping.read(KEPT_AT, KEPT.len()), KEPT);
            }
            is_unharmed(&device)
        },
    )
}

/// A mapping becomes three, or stays one.
fn protecting() -> io::Result<()> {
    let device = Device::open()?;
    each(
        "changing a part of a mapping",
        &Fails::With(&[Errno::NOMEM]),
        || {
            let mapping = renewed(&device)?;
            mapping.touch_write(0, 2 * HUGE_PAGE, 1);
            Ok(mapping)
        },
        |mapping| mapping.protect(PAGE, HUGE_PAGE, MprotectFlags::READ),
        |mapping, _, _| {
            for page in (0..2 * HUGE_PAGE).step_by(PAGE) {
                assert_eq!(mapping.load(page), 1);
            }
            mapping.protect(0, SIZE, MprotectFlags::READ | MprotectFlags::WRITE)?;
            mapping.touch_write(0, 2 * HUGE_PAGE, 2);
            is_unharmed(&device)
        },
    )
}

/// A touch is made again until it can be answered: no error is left.
fn first_read() -> io::Result<()> {
    let device = Device::open()?;
    each(
        "first read",
        &Fails::With(&[]),
        || renewed(&device),
        |mapping| Ok(PLACES.map(|at| mapping.load(at))),
        |mapping, result, _| {
            assert_eq!(result?, PLACES.map(|_| 0));
            for at in PLACES {
                assert_eq!(bytes(&device, at, PAGE)?, [0; PAGE]);
                mapping.store(at, 9);
                assert_eq!(bytes(&device, at, 1)?, [9]);
            }
            is_unharmed(&device)
        },
    )
}

fn first_write() -> io::Result<()> {
    let device = Device::open()?;
    each(
        "first write",
        &Fails::With(&[]),
        || renewed(&device),
        |mapping| {
            PLACES.map(|at| mapping.store(at, 7));
            Ok(())
        },
        |mapping, result, _| {
            result?;
            for at in PLACES {
                let mut page = [0; PAGE];
                page[0] = 7;
                assert_eq!(bytes(&device, at, PAGE)?, page);
                assert_eq!(mapping.read(at, PAGE), page);
            }
            is_unharmed(&device)
        },
    )
}

fn present_touch() -> io::Result<()> {
    let device = Device::open()?;
    each(
        "touch of what is there",
        &Fails::With(&[]),
        || {
            let mapping = renewed(&device)?;
            for at in PLACES {
                pwrite(&device, &[3], at as u64)?;
            }
            Ok(mapping)
        },
        |mapping| Ok(PLACES.map(|at| mapping.load(at))),
        |mapping, result, _| {
            assert_eq!(result?, PLACES.map(|_| 3));
            mapping.store(0, 4);
            assert_eq!(bytes(&device, 0, 1)?, [4]);
            is_unharmed(&device)
        },
    )
}

fn private_copy() -> io::Result<()> {
    let device = Device::open()?;
    each(
        "private copy",
        &Fails::With(&[]),
        || {
            renew(&device)?;
            for at in PLACES {
                pwrite(&device, &[3], at as u64)?;
            }
            // As large as that, it is more than the kernel would set memory aside for.
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            Mapping::new(&device, WIDE, READ_WRITE, flags, 0)
        },
        |mapping| {
            PLACES.map(|at| mapping.store(at, 5));
            Ok(())
        },
        |mapping, result, _| {
            result?;
            for at in PLACES {
                assert_eq!((mapping.load(at), bytes(&device, at, 1)?[0]), (5, 3));
            }
            is_unharmed(&device)
        },
    )
}

fn populating() -> io::Result<()> {
    const START: usize = HUGE_PAGE - 128 * KIB;
    const LEN: usize = 256 * KIB;
    let device = Device::open()?;
    each(
        "populating",
        &Fails::With(&[Errno::NOMEM]),
        || renewed(&device),
        |mapping| mapping.advise(START, LEN, Advice::LinuxPopulateWrite),
        |mapping, _, _| {
            assert_eq!(bytes(&device, START, LEN)?, [0; LEN]);
            mapping.advise(START, LEN, Advice::LinuxPopulateWrite)?;
            assert!(device.info()?.resident_bytes >= LEN as u64);
            is_unharmed(&device)
        },
    )
}

/// Where calls read and write: on both sides of the edge of a huge page, and not whole pages.
const AT: usize = HUGE_PAGE - PAGE - 5;
const LEN: usize = 3 * PAGE + 77;

fn reading_absent() -> io::Result<()> {
    let device = Device::open()?;
    each(
        "reading what is absent",
        &Fails::Never,
        || {
            renew(&device)?;
            Ok(vec![0xEE; LEN])
        },
        |buffer| Ok(pread(&device, buffer, AT as u64)?),
        |buffer, result, _| {
            assert_eq!((result?, buffer), (LEN, vec![0; LEN]));
            is_unharmed(&device)
        },
    )
}

fn reading() -> io::Result<()> {
    let device = Device::open()?;
    let written = pattern(LEN);
    each(
        "reading what is there",
        &Fails::With(&[Errno::FAULT]),
        || {
            renew(&device)?;
            assert_eq!(pwrite(&device, &written, AT as u64)?, LEN);
            Ok(vec![0xEE; LEN])
        },
        |buffer| Ok(pread(&device, buffer, AT as u64)?),
        |buffer, result, may_be_short| {
            let count = result.unwrap_or(0);
            assert!(count == LEN || may_be_short);
            assert_eq!(buffer[..count], written[..count]);
            assert_eq!(buffer[count..], vec![0xEE; LEN - count]);
            assert_eq!(bytes(&device, AT, LEN)?, written);
            is_unharmed(&device)
        },
    )
}

fn writing(errors: &'static [Errno]) -> io::Result<()> {
    let device = Device::open()?;
    let written = pattern(LEN);
    each(
        "writing",
        &Fails::With(errors),
        || renew(&device),
        |()| Ok(pwrite(&device, &written, AT as u64)?),
        |(), result, may_be_short| {
            let count = result.unwrap_or(0);
            assert!(count == LEN || may_be_short);
            has_only(&device, &written[..count])?;
            is_unharmed(&device)
        },
    )
}

/// Checks that the first two huge pages have these bytes where calls write, and zeros all around: also in what was brought
/// in for them.
fn has_only(device: &Device, written: &[u8]) -> io::Result<()> {
    let mut expected = vec![0; 2 * HUGE_PAGE];
    expected[AT..AT + written.len()].copy_from_slice(written);
    assert!(bytes(device, 0, expected.len())? == expected);
    Ok(())
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

/// Takes bytes out of a pipe that has them.
fn drain(reader: &OwnedFd, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0xEE; len];
    File::from(reader.try_clone()?).read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The offset is copied back after the pages have gone over; then the answer is an error, and the pipe has them.
fn splicing_data() -> io::Result<()> {
    let device = Device::open()?;
    let written = pattern(LEN);
    splicing_out(
        "splicing out what is there",
        &Fails::With(&[Errno::FAULT]),
        &device,
        &written,
    )
}

fn splicing_hole() -> io::Result<()> {
    let fails = Fails::With(&[Errno::NOMEM, Errno::FAULT]);
    splicing_out(
        "splicing out what is absent",
        &fails,
        &Device::open()?,
        &[0; LEN],
    )
}

fn splicing_out(name: &str, fails: &Fails, device: &Device, expected: &[u8]) -> io::Result<()> {
    each(
        name,
        fails,
        || {
            renew(device)?;
            if expected[0] != 0 {
                assert_eq!(pwrite(device, expected, AT as u64)?, LEN);
            }
            pipe()
        },
        |(_, writer)| {
            let flags = SpliceFlags::empty();
            Ok(splice(
                device,
                Some(&mut (AT as u64)),
                &*writer,
                None,
                LEN,
                flags,
            )?)
        },
        |(reader, _writer), result, may_be_short| {
            if let Ok(count) = result {
                assert!(count == LEN || may_be_short && count > 0);
                assert_eq!(drain(&reader, count)?, expected[..count]);
            }
            assert_eq!(bytes(device, AT, LEN)?, expected);
            is_unharmed(device)
        },
    )
}

/// From a pipe that has copies of the bytes, or with `lent`, the pages of a program's memory that has them.
fn splicing_in(lent: bool) -> io::Result<()> {
    let device = Device::open()?;
    let written = pattern(LEN);
    let memory = Mapping::anonymous(2 * LEN)?;
    memory.write(1, &written);
    each(
        "splicing in",
        &Fails::With(&[Errno::NOMEM, Errno::FAULT]),
        || {
            renew(&device)?;
            let (reader, writer) = pipe()?;
            if lent {
                assert_eq!(memory.splice_to(&writer, 1, LEN, false)?, LEN);
            } else {
                File::from(writer.try_clone()?).write_all(&written)?;
            }
            Ok((reader, writer))
        },
        |(reader, _)| {
            let flags = SpliceFlags::empty();
            Ok(splice(
                &*reader,
                None,
                &device,
                Some(&mut (AT as u64)),
                LEN,
                flags,
            )?)
        },
        |_pipe, result, may_be_short| {
            let seen = bytes(&device, AT, LEN)?;
            let count = seen.iter().position(|&byte| byte == 0).unwrap_or(LEN);
            has_only(&device, &written[..count])?;
            if let Ok(answer) = result {
                assert_eq!(answer, count);
                assert!(count == LEN || may_be_short);
            }
            is_unharmed(&device)
        },
    )
}

/// A pipe is lent the device's own pages, by way of a mapping.
fn lending() -> io::Result<()> {
    let device = Device::open()?;
    let written = pattern(LEN);
    each(
        "lending pages to a pipe",
        &Fails::With(&[Errno::NOMEM]),
        || {
            let mapping = renewed(&device)?;
            assert_eq!(pwrite(&device, &written, AT as u64)?, LEN);
            Ok((mapping, pipe()?))
        },
        |(mapping, (_, writer))| mapping.splice_to(&*writer, AT, LEN, false),
        |(_mapping, (reader, _writer)), result, may_be_short| {
            if let Ok(count) = result {
                assert!(count == LEN || may_be_short && count > 0);
                assert_eq!(drain(&reader, count)?, written[..count]);
            }
            assert_eq!(bytes(&device, AT, LEN)?, written);
            is_unharmed(&device)
        },
    )
}

fn sending() -> io::Result<()> {
    let device = Device::open()?;
    let written = pattern(LEN);
    each(
        "sending out",
        &Fails::With(&[Errno::NOMEM, Errno::FAULT]),
        || {
            renew(&device)?;
            assert_eq!(pwrite(&device, &written, AT as u64)?, LEN);
            Ok(memfd_create("other end", MemfdFlags::CLOEXEC)?)
        },
        |memfd| Ok(sendfile(&*memfd, &device, Some(&mut (AT as u64)), LEN)?),
        |memfd, result, may_be_short| {
            if let Ok(count) = result {
                assert!(count == LEN || may_be_short && count > 0);
                let mut seen = vec![0; count];
                assert_eq!(pread(&memfd, &mut seen, 0)?, count);
                assert_eq!(seen, written[..count]);
            }
            assert_eq!(bytes(&device, AT, LEN)?, written);
            is_unharmed(&device)
        },
    )
}

fn syncing() -> io::Result<()> {
    let device = Device::open()?;
    each(
        "fsync and msync",
        &Fails::Never,
        || {
            let mapping = renewed(&device)?;
            mapping.store(0, 6);
            Ok(mapping)
        },
        |mapping| {
            fsync(&device)?;
            mapping.sync()
        },
        |mapping, result, _| {
            result?;
            assert_eq!((mapping.load(0), bytes(&device, 0, 1)?[0]), (6, 6));
            is_unharmed(&device)
        },
    )
}

/// The size is the old one or the new one. It is the new one also where only the answer could not be told.
fn growing() -> io::Result<()> {
    let old = 3 * MIB;
    let device = Device::open()?;
    let written = pattern(LEN);
    each(
        "growing",
        &Fails::With(&[Errno::FAULT]),
        || {
            device.resize(old as u64)?;
            device.punch(0, old as u64)?;
            assert_eq!(pwrite(&device, &written, AT as u64)?, LEN);
            Ok(())
        },
        |()| device.resize(SIZE as u64),
        |(), result, _| {
            let size = device.size()?;
            assert!(size == SIZE || size == old && result.is_err(), "{size}");
            assert_eq!(bytes(&device, AT, LEN)?, written);
            works(&device)?;
            device.resize(SIZE as u64)?;
            assert_eq!(bytes(&device, AT, LEN)?, written);
            assert!(bytes(&device, old, SIZE - old)?
                .iter()
                .all(|&byte| byte == 0));
            Ok(())
        },
    )
}

/// Fills the first two huge pages, by a mapping that stays.
fn filled(device: &Device, bytes: &[u8]) -> io::Result<Mapping> {
    device.resize(SIZE as u64)?;
    let mapping = renewed(device)?;
    mapping.write(0, bytes);
    Ok(mapping)
}

/// As in [`growing`]. Where a huge page cannot be split, what is beyond the end is still gone.
fn shrinking() -> io::Result<()> {
    let new = HUGE_PAGE + 5 * PAGE;
    let device = Device::open()?;
    let written = pattern(2 * HUGE_PAGE);
    each(
        "shrinking",
        &Fails::With(&[Errno::FAULT]),
        || filled(&device, &written),
        |_| device.resize(new as u64),
        |mapping, result, _| {
            let size = device.size()?;
            assert!(size == new || size == SIZE && result.is_err(), "{size}");
            if size == SIZE {
                assert!(mapping.read(0, written.len()) == written);
                assert_eq!(mapping.read(KEPT_AT, KEPT.len()), KEPT);
            }
            works(&device)?;
            device.resize(new as u64)?;
            assert!(mapping.read(0, new) == written[..new]);
            device.resize(SIZE as u64)?;
            assert!(mapping.read(0, new) == written[..new]);
            assert!(mapping.read(new, SIZE - new).iter().all(|&byte| byte == 0));
            assert!(bytes(&device, 0, new)? == written[..new]);
            works(&device)
        },
    )
}

/// The range is what it was or zeros, as a whole, and the bytes around it are there. As in [`growing`], it is zeros
/// also where only the answer could not be told.
fn punching() -> io::Result<()> {
    let (start, len) = (HUGE_PAGE + 3 * PAGE + 5, 20 * PAGE);
    let device = Device::open()?;
    let written = pattern(2 * HUGE_PAGE);
    let mut punched = written.clone();
    punched[start..start + len].fill(0);
    each(
        "punching",
        &Fails::With(&[Errno::FAULT]),
        || filled(&device, &written),
        |_| device.punch(start as u64, len as u64),
        |mapping, result, _| {
            let seen = mapping.read(0, written.len());
            assert!(seen == punched || seen == written && result.is_err());
            assert!(bytes(&device, 0, written.len())? == seen);
            device.punch(start as u64, len as u64)?;
            assert!(mapping.read(0, written.len()) == punched);
            is_unharmed(&device)
        },
    )
}

const NAME: &str = "short-of-memory";

/// A device that could not be made is not there, and its name is free; also where only its id could not be told.
fn creating() -> io::Result<()> {
    let control = Control::open()?;
    let node = control::node(NAME);
    let mut failures = 0;
    each(
        "creating",
        &Fails::With(&[Errno::NOMEM, Errno::FAULT]),
        || control::memory(NAME, SIZE as u64),
        |plan| control.create(*plan),
        |plan, result, _| {
            if result.is_err() {
                assert!(!node.exists());
                assert_eq!(control.list()?, []);
                // That its name and its size are free the next failure shows, which is no other error.
                failures += 1;
                if failures % SPARSE != 0 {
                    return Ok(());
                }
                control.create(plan)?;
            }
            assert_eq!(control.list()?.len(), 1);
            let device = Device::open_with(&node, OFlags::RDWR)?;
            works(&device)?;
            control.destroy(NAME)
        },
    )
}

/// The device is there and can be destroyed, or it is gone, which it is also where only that could not be told.
fn destroying(destroy: fn(&Control, &Device) -> io::Result<()>) -> io::Result<()> {
    let control = Control::open()?;
    let node = control::node(NAME);
    each(
        "destroying",
        &Fails::With(&[Errno::FAULT]),
        || {
            let device = control.create_and_open(NAME, SIZE as u64)?;
            let mapping = renewed(&device)?;
            mapping.store(0, 1);
            Ok((device, mapping))
        },
        |(device, _)| destroy(&control, device),
        |(device, mapping), result, _| {
            if node.exists() {
                assert!(result.is_err());
                assert_eq!(mapping.load(0), 1);
                is_unharmed(&device)?;
                control.destroy(NAME)?;
            }
            crate::assert_errno(control.destroy(NAME), Errno::NOENT, "gone");
            crate::assert_errno(device.info(), Errno::NODEV, "gone");
            assert_eq!(control.list()?, []);
            let next = control.create_and_open(NAME, SIZE as u64)?;
            works(&next)?;
            control.destroy(NAME)
        },
    )
}

/// A request of a device, by one of its nodes.
type Request = fn(&Device, &Control) -> io::Result<()>;

fn asking() -> io::Result<()> {
    let (device, control) = (Device::open()?, Control::open()?);
    renew(&device)?;
    let requests: [(&str, Request); 4] = [
        ("asking what a device is", |device, _| {
            device.info().map(drop)
        }),
        ("asking by the control node", |_, control| {
            control.info("0").map(drop)
        }),
        ("asking for the counters", |device, _| {
            device.counters().map(drop)
        }),
        ("asking for a page frame", |device, _| {
            device.frame(KEPT_AT as u64).map(drop)
        }),
    ];
    for (name, request) in requests {
        each(
            name,
            &Fails::With(&[Errno::FAULT]),
            || Ok(()),
            |()| request(&device, &control),
            |(), _, _| {
                request(&device, &control)?;
                is_unharmed(&device)
            },
        )?;
    }
    Ok(())
}

/// Events that could not be told were not taken.
fn taking_events() -> io::Result<()> {
    let (device, ringer) = (Device::open()?, Device::open()?);
    renew(&device)?;
    each(
        "taking events",
        &Fails::With(&[Errno::FAULT]),
        || {
            for _ in 0..3 {
                ringer.notify()?;
            }
            Ok(())
        },
        |()| device.take_events(),
        |(), result, _| {
            let taken = match result {
                Ok(count) => count,
                Err(_) => {
                    assert!(look(&device)?.contains(PollFlags::PRI));
                    device.take_events()?
                }
            };
            assert_eq!(taken, 3);
            assert!(!look(&device)?.contains(PollFlags::PRI));
            is_unharmed(&device)
        },
    )
}

/// The eventfd that could not be set is not signalled, and the one before it still is.
fn setting_eventfd() -> io::Result<()> {
    let (device, other) = (Device::open()?, Device::open()?);
    renew(&device)?;
    let [before, others] = [number()?, number()?];
    other.signal(Some(others.as_fd()))?;
    each(
        "setting an eventfd",
        &Fails::With(&[Errno::NOMEM, Errno::FAULT]),
        || {
            device.signal(Some(before.as_fd()))?;
            number()
        },
        |next| device.signal(Some(next.as_fd())),
        |next, result, _| {
            for _ in 0..2 {
                device.notify()?;
            }
            let signalled = [&before, &next, &others].map(times);
            let expected = match result {
                Ok(()) => [0, 2, 2],
                Err(_) => [2, 0, 2],
            };
            assert_eq!(signalled, expected);
            is_unharmed(&device)
        },
    )
}

fn number() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)
}

/// How often an eventfd was signalled since this was last asked.
fn times(number: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(number, &mut count) {
        Ok(_) => u64::from_ne_bytes(count),
        Err(error) => {
            assert_eq!(error, Errno::AGAIN);
            0
        }
    }
}

fn listing() -> io::Result<()> {
    let control = Control::open()?;
    works(&Device::open()?)?;
    let all = control.list()?;
    assert_eq!(all.len(), 3);
    each(
        "listing",
        &Fails::With(&[Errno::FAULT]),
        || Ok([abi::Info::default(); 3]),
        |infos| {
            let mut id = 0;
            for info in infos {
                *info = control.next(id)?.unwrap_or_default();
                id = info.id;
            }
            Ok(())
        },
        |infos, result, _| {
            if result.is_ok() {
                assert_eq!(infos[..], all[..]);
            }
            assert_eq!(control.list()?, all);
            works(&Device::open()?)
        },
    )
}

const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

fn look(device: &Device) -> io::Result<PollFlags> {
    let mut fds = [PollFd::new(device, PollFlags::all())];
    poll(&mut fds, Some(&AT_ONCE))?;
    Ok(fds[0].revents())
}

fn polling() -> io::Result<()> {
    let device = Device::open()?;
    renew(&device)?;
    device.notify()?;
    each(
        "polling",
        &Fails::With(&[Errno::FAULT]),
        || Ok(()),
        |()| look(&device),
        |(), result, _| {
            let expected = PollFlags::IN | PollFlags::OUT | PollFlags::PRI;
            if let Ok(events) = result {
                assert!(events.contains(expected), "{events:?}");
            }
            assert!(look(&device)?.contains(expected));
            is_unharmed(&device)
        },
    )
}

fn epolling() -> io::Result<()> {
    let device = Device::open()?;
    renew(&device)?;
    device.notify()?;
    let watch = |device: &Device| -> io::Result<usize> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(7);
        epoll::add(&set, device, data, epoll::EventFlags::PRI)?;
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data,
        }];
        Ok(epoll::wait(&set, &mut events[..], Some(&AT_ONCE))?)
    };
    each(
        "epolling",
        &Fails::With(&[Errno::NOMEM, Errno::FAULT]),
        || Ok(()),
        |()| watch(&device),
        |(), result, _| {
            if let Ok(count) = result {
                assert_eq!(count, 1);
            }
            assert_eq!(watch(&device)?, 1);
            is_unharmed(&device)
        },
    )
}

fn seeking() -> io::Result<()> {
    let device = Device::open()?;
    each(
        "seeking",
        &Fails::Never,
        || {
            renew(&device)?;
            pwrite(&device, &[1], HUGE_PAGE as u64)?;
            Ok(())
        },
        |()| {
            let places = [SeekFrom::Data(0), SeekFrom::Hole(0), SeekFrom::End(-5)];
            let mut answers = [0; 3];
            for (answer, place) in answers.iter_mut().zip(places) {
                *answer = seek(&device, place)?;
            }
            Ok(answers)
        },
        |(), result, _| {
            assert_eq!(result?, [HUGE_PAGE as u64, 0, SIZE as u64 - 5]);
            is_unharmed(&device)
        },
    )
}

/// Opens a file and reads its start, without more memory than there is.
fn read_start(path: &Path) -> io::Result<([u8; 4096], usize)> {
    let mut text = [0; 4096];
    let count = File::open(path)?.read_at(&mut text, 0)?;
    Ok((text, count))
}

fn reading_fdinfo() -> io::Result<()> {
    let device = Device::open()?;
    renew(&device)?;
    let path = format!("/proc/self/fdinfo/{}", device.as_fd().as_raw_fd());
    reading_file(
        "reading fdinfo",
        &Fails::With(&[Errno::NOMEM, Errno::FAULT]),
        Path::new(&path),
        "mmapdev-state:\talive",
    )?;
    is_unharmed(&device)
}

fn reading_debugfs() -> io::Result<()> {
    let device = Device::open()?;
    renew(&device)?;
    reading_file(
        "reading the counters in debugfs",
        &Fails::With(&[Errno::NOMEM, Errno::FAULT]),
        Path::new("/sys/kernel/debug/mmapdev/mmapdev0"),
        "bytes_written",
    )?;
    is_unharmed(&device)
}

fn reading_file(name: &str, fails: &Fails, path: &Path, expected: &str) -> io::Result<()> {
    let has_all = |(text, count): ([u8; 4096], usize)| {
        let text = String::from_utf8_lossy(&text[..count]).into_owned();
        assert!(text.contains(expected), "{text}");
    };
    each(
        name,
        fails,
        || Ok(()),
        |()| read_start(path),
        |(), result, _| {
            result.map(has_all).unwrap_or_default();
            has_all(read_start(path)?);
            Ok(())
        },
    )
}

/// The module is loaded or it is not, and then it can be. Where it is, a device of load time may be missing, which
/// the kernel's log says, and others can be made.
///
/// Without tracepoints, as the kernel itself warns where it has no memory for those of a module
/// (`WARN_ON_ONCE()` in `event_define_fields()`).
fn loading() -> io::Result<()> {
    // What the kernel maps for a module is given back lazily, the shadow of it that KASAN keeps included. What is
    // lost for good is kmemleak's to find.
    const KEPT_BY_KERNEL: u64 = 32 * KIB as u64;
    // What comes after the module's own code, where it refuses at once: a few at most.
    const AFTER: u32 = 30;
    let file = File::open(module::untraced_file())?;
    let failing = FailNth::begin()?;
    let refused = || failing.count(|| Loaded::from_file(&file, c"size_mib=0"));
    // The first time, there is more to do.
    let _ = refused()?;
    let (result, before) = refused()?;
    crate::assert_errno(result, Errno::INVAL, "a size of 0");
    let first = before.saturating_sub(AFTER);
    fs::write(
        "/dev/kmsg",
        format!("mmapdev-test: loading: the module's own begins at {first}\n"),
    )?;
    drop(failing);
    let mut failures = 0;
    each_from(
        first,
        KEPT_BY_KERNEL,
        "loading",
        &Fails::Among(&[Errno::NOMEM, Errno::FAULT]),
        || Ok(()),
        |()| Loaded::from_file(&file, c"huge=1 size_mib=8"),
        |(), result, was_short| {
            let module = match result {
                Ok(module) => module,
                Err(_) => {
                    assert!(!module::is_loaded());
                    assert!(!Path::new(control::PATH).exists());
                    assert!(!Path::new(device::FIRST).exists());
                    // The next n is a load that gets further, and the last one goes through; some do at once.
                    failures += 1;
                    if failures % SPARSE != 0 {
                        return Ok(());
                    }
                    Loaded::from_file(&file, c"huge=1 size_mib=8")?
                }
            };
            {
                let control = Control::open()?;
                if was_short && control.list()?.is_empty() {
                    control.create(control::memory("0", SIZE as u64)?)?;
                }
                works(&Device::open()?)?;
            }
            module.unload()
        },
    )
}

fn opening_bar() -> io::Result<()> {
    // What KASAN has of the kernel's own mapping of the BAR, 2 MiB, is given back lazily, some of them at a time.
    const KEPT_BY_KERNEL: u64 = 256 * KIB as u64;
    each_keeping(
        KEPT_BY_KERNEL,
        "opening a BAR",
        &Fails::With(&[Errno::NOMEM, Errno::FAULT]),
        || Ok(pci::memory_node()),
        |node| Device::open_with(node, OFlags::RDWR),
        |node, result, _| {
            drop(result);
            let device = Device::open_with(node, OFlags::RDWR)?;
            assert_eq!(device.info()?.open_files, 1);
            bar_works(&device)
        },
    )
}

fn mapping_bar() -> io::Result<()> {
    let device = pci::open_memory()?;
    each(
        "mapping a BAR",
        &Fails::With(&[Errno::NOMEM]),
        || Ok(()),
        |()| Mapping::shared(&device, SIZE),
        |(), result, _| {
            drop(result);
            bar_works(&device)
        },
    )
}

fn touching_bar(offset: u64, len: usize) -> io::Result<()> {
    let device = pci::open_memory()?;
    let file = memfd_create("bytes", MemfdFlags::CLOEXEC)?;
    assert_eq!(pwrite(&file, &pattern(8), 0)?, 8);
    each(
        "touching a BAR",
        // By a call, so that a page that cannot be had is an error.
        &Fails::Among(&[Errno::FAULT, Errno::NOMEM]),
        || Mapping::new(&device, len, READ_WRITE, MapFlags::SHARED, offset),
        |mapping| mapping.pread_from(&file, 0, len - 8, 8),
        |mapping, _, _| {
            mapping.store(len - 1, 77);
            assert_eq!(bytes(&device, offset as usize + len - 1, 1)?, [77]);
            bar_works(&device)
        },
    )
}

fn reading_bar() -> io::Result<()> {
    let device = pci::open_memory()?;
    let data = pattern(40 * KIB);
    assert_eq!(pwrite(&device, &data, 5)?, data.len());
    each(
        "reading a BAR",
        // The buffer in between can be had in single pages, too.
        &Fails::With(&[Errno::FAULT]),
        || Ok(vec![0xEE; data.len()]),
        |buffer| Ok(pread(&device, &mut buffer[..], 5)?),
        |buffer, result, was_short| {
            let count = result.unwrap_or(0);
            assert!(was_short || count == data.len());
            assert!(buffer[..count] == data[..count]);
            assert!(buffer[count..].iter().all(|&byte| byte == 0xEE));
            bar_works(&device)
        },
    )
}

fn writing_bar() -> io::Result<()> {
    let device = pci::open_memory()?;
    let data = pattern(40 * KIB);
    each(
        "writing to a BAR",
        // The buffer in between can be had in single pages, too.
        &Fails::With(&[Errno::FAULT]),
        || {
            let zeros = vec![0; data.len()];
            assert_eq!(pwrite(&device, &zeros, 5)?, zeros.len());
            Ok(())
        },
        |()| Ok(pwrite(&device, &data, 5)?),
        |(), result, was_short| {
            let count = result.unwrap_or(0);
            assert!(was_short || count == data.len());
            assert!(bytes(&device, 5, count)? == data[..count]);
            assert!(bytes(&device, 5 + count, data.len() - count)?
                .iter()
                .all(|&byte| byte == 0));
            bar_works(&device)
        },
    )
}

fn syncing_bar() -> io::Result<()> {
    let device = pci::open_memory()?;
    each(
        "fsync of a BAR",
        &Fails::Never,
        || Ok(()),
        |()| Ok(fsync(&device)?),
        |(), result, _| {
            result?;
            bar_works(&device)
        },
    )
}

/// A device that could not be bound has no node and claims nothing, and the next attempt binds it.
fn binding_bar() -> io::Result<()> {
    let rebound = Rebound::new(pci::BIND)?;
    each_keeping(
        Rebound::KEPT_BY_KERNEL,
        "binding",
        // `pci_request_region()` has one word for all that goes wrong.
        &Fails::Among(&[Errno::NOMEM, Errno::BUSY, Errno::FAULT]),
        || Ok(()),
        |()| rebound.ask(),
        |(), result, _| {
            if result.is_err() {
                rebound.check_unbound()?;
                rebound.device.bind()?;
            }
            rebound.check_bound()?;
            rebound.device.unbind()
        },
    )?;
    rebound.end()
}

/// A device that could not be unbound works, and can be; one that is has no node and claims nothing.
fn unbinding_bar() -> io::Result<()> {
    let rebound = Rebound::new(pci::UNBIND)?;
    rebound.device.bind()?;
    each_keeping(
        Rebound::KEPT_BY_KERNEL,
        "unbinding",
        &Fails::Among(&[Errno::NOMEM, Errno::FAULT]),
        || Ok(()),
        |()| rebound.ask(),
        |(), result, _| {
            if result.is_err() {
                rebound.check_bound()?;
                rebound.device.unbind()?;
            }
            rebound.check_unbound()?;
            rebound.device.bind()?;
            rebound.check_bound()
        },
    )?;
    rebound.device.unbind()?;
    rebound.end()
}

/// A PCI device that is bound and unbound again and again, and is not bound yet.
///
/// It is enabled all the time, so that ACPI routes no interrupt when it is bound: what that allocates is not what this is
/// about.
struct Rebound {
    device: PciDevice,
    nodes: [PathBuf; 2],
    /// The file of sysfs to ask for the one or the other.
    request: File,
    /// How many pieces of memory are claimed while it is bound, and while it is not.
    claimed: (usize, usize),
}

impl Rebound {
    /// As for opening, which is a part of looking whether it works.
    const KEPT_BY_KERNEL: u64 = 256 * KIB as u64;

    fn new(request: &str) -> io::Result<Self> {
        let device = pci::shared();
        let bound = pci::claimed()?;
        device.unbind()?;
        let unbound = pci::claimed()?;
        device.write("enable", "1")?;
        Ok(Self {
            nodes: [0, pci::MEMORY].map(|bar| control::node(&device.name_of(bar))),
            request: File::options().write(true).open(request)?,
            claimed: (bound, unbound),
            device,
        })
    }

    fn ask(&self) -> io::Result<usize> {
        let address = self.device.address().as_bytes();
        Ok(rustix::io::write(&self.request, address)?)
    }

    fn check_bound(&self) -> io::Result<()> {
        assert!(self.device.is_bound());
        assert_eq!(pci::claimed()?, self.claimed.0);
        bar_works(&pci::open_memory()?)
    }

    fn check_unbound(&self) -> io::Result<()> {
        assert!(!self.device.is_bound());
        assert!(self.nodes.iter().all(|node| !node.exists()));
        assert_eq!(pci::claimed()?, self.claimed.1);
        Ok(())
    }

    /// Leaves the device, which is not bound, as all others find it.
    fn end(self) -> io::Result<()> {
        self.device.write("enable", "0")?;
        self.device.bind()
    }
}

/// Checks that a BAR works by both ways.
fn bar_works(device: &Device) -> io::Result<()> {
    let mapping = Mapping::shared(device, SIZE)?;
    for at in [0, HUGE_PAGE + 5, SIZE - 1] {
        mapping.store(at, 0x5a);
        assert_eq!(bytes(device, at, 1)?, [0x5a]);
    }
    Ok(())
}

fn unloading() -> io::Result<()> {
    let file = File::open(module::file())?;
    each(
        "unloading",
        &Fails::With(&[Errno::FAULT]),
        || {
            // Its end is the act's, or the check's.
            std::mem::forget(Loaded::from_file(&file, c"huge=1 size_mib=8")?);
            works(&Device::open()?)
        },
        |()| module::remove(),
        |(), result, _| {
            if result.is_err() {
                works(&Device::open()?)?;
                module::remove()?;
            }
            assert!(!module::is_loaded());
            Ok(())
        },
    )
}

/// A folio that cannot be put into the page cache, because that gets no node for it, is given back.
///
/// A single failure does not do it: the page cache asks once more.
fn no_nodes() -> io::Result<()> {
    // With so many, one page each is more than may be missing.
    const ROUNDS: u64 = 1 + TOLERANCE / PAGE as u64;
    let device = Device::open()?;
    let failing = FailCache::begin("radix_tree_node")?;
    let try_all = || -> io::Result<()> {
        let mapping = Mapping::shared(&device, SIZE)?;
        // Not the first page, which a page cache holds without a node.
        let (touched, written) = failing.run(|| {
            let touched = mapping.advise(PAGE, PAGE, Advice::LinuxPopulateWrite);
            (touched, pwrite(&device, &[1], HUGE_PAGE as u64))
        })?;
        crate::assert_errno(touched, Errno::NOMEM, "touching");
        assert_eq!(written, Err(Errno::NOMEM));
        Ok(())
    };
    try_all()?;
    let before = settled_free(0)?;
    let free = memory::meminfo("MemFree")?;
    for _ in 0..ROUNDS {
        try_all()?;
        // Before the machine has no more to lose.
        assert!(memory::meminfo("MemFree")? + 128 * MIB as u64 > free);
    }
    assert_eq!(device.info()?.resident_bytes, 0);
    let lost = memory::lost_since(before, TOLERANCE, 8, || settled_free(0))?;
    fs::write(
        "/dev/kmsg",
        format!("mmapdev-test: no nodes: {lost} bytes less\n"),
    )?;
    assert!(lost <= TOLERANCE, "{lost} bytes lost");
    drop(failing);
    renew(&device)?;
    is_unharmed(&device)
}

/// A file on the disk with bytes that tell where they are, none of which are in memory.
fn stored() -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(STORED)?;
    file.write_all_at(&stored_bytes(), 0)?;
    file.sync_all()?;
    fs::write("/proc/sys/vm/drop_caches", "1")?;
    Ok(file)
}

const STORED: &str = "/mnt/disk/mmapdev-allocations";
const STORED_SIZE: usize = 64 * KIB;

fn stored_bytes() -> Vec<u8> {
    let words = (0..STORED_SIZE as u64 / 8).map(|word| word.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    words.flat_map(u64::to_ne_bytes).collect()
}

/// A device of that file, and a mapping of it.
fn stored_device(control: &Control) -> io::Result<(File, Device, Mapping)> {
    let file = stored()?;
    control.create(control::file(NAME, &file, 0, 0)?)?;
    let device = Device::open_with(control::node(NAME), OFlags::RDWR)?;
    let mapping = Mapping::shared(&device, STORED_SIZE)?;
    Ok((file, device, mapping))
}

/// Checks that the device works, with these bytes at its start, and that the file has them after a sync.
fn has_stored(device: &Device, start: &[u8]) -> io::Result<()> {
    let mapping = Mapping::shared(device, STORED_SIZE)?;
    let mut expected = stored_bytes();
    expected[..start.len()].copy_from_slice(start);
    assert!(mapping.read(0, STORED_SIZE) == expected, "a mapping");
    assert!(bytes(device, 0, STORED_SIZE)? == expected, "a call");
    mapping.store(STORED_SIZE - 1, 0xEE);
    expected[STORED_SIZE - 1] = 0xEE;
    // What went wrong before may be told once.
    let _ = fsync(device);
    fsync(device)?;
    assert!(fs::read(STORED)? == expected, "the file");
    Ok(())
}

fn creating_of_file() -> io::Result<()> {
    let control = Control::open()?;
    let file = stored()?;
    let mut failures = 0;
    each(
        "creating of a file",
        &Fails::Among(&[Errno::NOMEM, Errno::FAULT]),
        || Ok(()),
        |()| control.create(control::file(NAME, &file, 0, 0)?),
        |(), result, _| {
            if result.is_err() {
                assert_eq!(control.list()?, []);
                // As in `creating`; and so are the bytes of the file.
                failures += 1;
                if failures % SPARSE != 0 {
                    return Ok(());
                }
                control.create(control::file(NAME, &file, 0, 0)?)?;
            }
            let device = Device::open_with(control::node(NAME), OFlags::RDWR)?;
            has_stored(&device, &[])?;
            control.destroy(NAME)?;
            file.write_all_at(&stored_bytes(), 0)
        },
    )
}

/// Does something to a device of a file of which no page is in memory, again and again; `check` says with what bytes
/// the device begins then.
fn with_stored<T>(
    name: &str,
    fails: &Fails,
    prepare: impl Fn(&Mapping),
    act: impl Fn(&Device, &Mapping) -> io::Result<T>,
    check: impl Fn(&Mapping, io::Result<T>, bool) -> &'static [u8],
) -> io::Result<()> {
    let control = Control::open()?;
    let (_file, device, _mapping) = stored_device(&control)?;
    each(
        name,
        fails,
        || {
            pwrite(&device, &stored_bytes(), 0)?;
            fsync(&device)?;
            fs::write("/proc/sys/vm/drop_caches", "1")?;
            let mapping = Mapping::shared(&device, STORED_SIZE)?;
            prepare(&mapping);
            Ok(mapping)
        },
        |mapping| act(&device, mapping),
        |mapping, result, was_short| has_stored(&device, check(&mapping, result, was_short)),
    )?;
    control.destroy(NAME)
}

/// A page that cannot be read for want of memory is asked for again.
fn first_read_of_file() -> io::Result<()> {
    with_stored(
        "first read of a file",
        &Fails::Among(&[Errno::NOMEM, Errno::IO]),
        |_| {},
        // By a call that says so where the touch would be SIGBUS.
        |_, mapping| mapping.advise(0, STORED_SIZE, Advice::LinuxPopulateRead),
        |_, _, _| &[],
    )
}

fn reading_stored() -> io::Result<()> {
    let expected = stored_bytes();
    with_stored(
        "reading a file",
        &Fails::Among(&[Errno::NOMEM, Errno::FAULT, Errno::IO]),
        |_| {},
        |device, _| {
            let mut bytes = vec![0; STORED_SIZE];
            let count = pread(device, &mut bytes, 0)?;
            bytes.truncate(count);
            Ok(bytes)
        },
        |_, result, was_short| {
            if let Ok(bytes) = result {
                assert!(bytes.len() == STORED_SIZE || was_short);
                assert!(bytes == expected[..bytes.len()]);
            }
            &[]
        },
    )
}

fn first_write_of_file() -> io::Result<()> {
    with_stored(
        "first write of a file",
        &Fails::Among(&[Errno::NOMEM, Errno::IO]),
        |_| {},
        |_, mapping| mapping.advise(0, 16 * KIB, Advice::LinuxPopulateWrite),
        |mapping, _, _| {
            mapping.write(0, b"stored");
            b"stored"
        },
    )
}

fn writing_to_file() -> io::Result<()> {
    with_stored(
        "writing to a file",
        &Fails::Among(&[Errno::NOMEM, Errno::IO]),
        |_| {},
        |device, _| Ok(pwrite(device, b"written", 0)?),
        |_, result, _| match result {
            Ok(count) => &b"written"[..count],
            Err(_) => &[],
        },
    )
}

/// Nothing that was stored is lost by a sync that fails, or has to do without memory.
fn syncing_to_file() -> io::Result<()> {
    with_stored(
        "syncing to a file",
        &Fails::Among(&[Errno::NOMEM, Errno::IO]),
        |mapping| mapping.write(0, b"stored"),
        |device, _| Ok(fsync(device)?),
        |_, result, _| {
            if result.is_ok() {
                let mut expected = stored_bytes();
                expected[..6].copy_from_slice(b"stored");
                let file = fs::read(STORED).expect("the file");
                assert!(file == expected, "said to be stored");
            }
            b"stored"
        },
    )
}

fn splicing_in_to_file() -> io::Result<()> {
    const WRITTEN: &[u8] = b"spliced";
    let pipe_now = RefCell::new(pipe()?);
    with_stored(
        "splicing in to a file",
        &Fails::Among(&[Errno::NOMEM, Errno::FAULT, Errno::IO]),
        |_| {
            let filled = pipe().expect("a pipe");
            assert_eq!(rustix::io::write(&filled.1, WRITTEN), Ok(WRITTEN.len()));
            pipe_now.replace(filled);
        },
        |device, _| {
            let (reader, flags) = (&pipe_now.borrow().0, SpliceFlags::empty());
            let len = WRITTEN.len();
            Ok(splice(reader, None, device, Some(&mut 0), len, flags)?)
        },
        |mapping, result, _| {
            let is_there = mapping.read(0, WRITTEN.len()) == WRITTEN;
            if let Ok(count) = result {
                assert!(is_there && count == WRITTEN.len());
            }
            // Where only the offset could not be told, all are there.
            if is_there {
                WRITTEN
            } else {
                &[]
            }
        },
    )
}

/// A call to a device that moves bytes.
type Call = fn(&Device) -> io::Result<usize>;

/// The device has the size that the file has now, and its bytes, whatever fails in the call that meets that first.
fn following_file(size: usize) -> io::Result<()> {
    let calls: [(&str, Call); 2] = [
        ("reading where the end has moved", |device| {
            Ok(pread(device, &mut [0; 3 * PAGE], 0)?)
        }),
        ("writing where the end has moved", |device| {
            // What was there already.
            Ok(pwrite(device, &stored_bytes()[..3 * PAGE], 0)?)
        }),
    ];
    let mut expected = stored_bytes();
    expected.resize(size, 0);
    let control = Control::open()?;
    let (file, device, mapping) = stored_device(&control)?;
    for (name, call) in calls {
        each(
            name,
            &Fails::Among(&[Errno::NOMEM, Errno::FAULT, Errno::IO]),
            || {
                file.set_len(STORED_SIZE as u64)?;
                assert_eq!(device.size()?, STORED_SIZE);
                assert_eq!(pwrite(&device, &stored_bytes(), 0)?, STORED_SIZE);
                fsync(&device)?;
                file.set_len(size as u64)
            },
            |()| call(&device),
            |(), result, was_short| {
                if let Ok(count) = result {
                    assert!(was_short || count == 3 * PAGE);
                }
                assert_eq!(device.size()?, size);
                assert!(bytes(&device, 0, size)? == expected, "a call");
                let both = size.min(STORED_SIZE);
                assert!(mapping.read(0, both) == expected[..both], "a mapping");
                // What went wrong before may be told once.
                let _ = fsync(&device);
                fsync(&device)?;
                assert!(fs::read(STORED)? == expected, "the file");
                Ok(())
            },
        )?;
    }
    control.destroy(NAME)
}

/// What a sync says to be stored is, and what it says not to be is by a later one: it is workers that write.
fn failing_workers() -> io::Result<()> {
    // Which fail is chance: no sync of all these may have, and then there are more.
    const ROUNDS: u64 = 40;
    const MOST: u64 = 400;
    let control = Control::open()?;
    let (_file, device, mapping) = stored_device(&control)?;
    let mut expected = stored_bytes();
    let (mut stored, mut failed) = (0, 0);
    let failing = FailWorkers::begin(10)?;
    let mut round = 0;
    while round < ROUNDS || failed == 0 && round < MOST {
        round += 1;
        for page in (0..STORED_SIZE).step_by(PAGE) {
            let value = (round << 32) | page as u64;
            mapping.word(page).store(value, Ordering::Relaxed);
            expected[page..page + 8].copy_from_slice(&value.to_ne_bytes());
        }
        // There may be new ones.
        failing.mark()?;
        match fsync(&device) {
            Ok(()) => {
                stored += 1;
                assert!(fs::read(STORED)? == expected, "said to be stored");
            }
            Err(error) => {
                failed += 1;
                assert_eq!(error, Errno::NOMEM);
            }
        }
    }
    drop(failing);
    fs::write(
        "/dev/kmsg",
        format!("mmapdev-test: workers that fail: {failed} of {round} syncs failed\n"),
    )?;
    assert!(stored > 0 && failed > 0, "{stored} stored, {failed} failed");
    let _ = fsync(&device);
    fsync(&device)?;
    assert!(fs::read(STORED)? == expected, "afterwards");
    assert!(mapping.read(0, STORED_SIZE) == expected);
    control.destroy(NAME)
}

/// As above; what it says not to be stored is lost, and can be stored again.
fn failing_disk() -> io::Result<()> {
    // A sync makes a few requests where memory is in one piece, and one for each page where it is in many.
    const MOST: u32 = 1000;
    const ENOUGH: usize = 10;
    let disk = LoopDisk::new(MIB)?;
    let device = disk.device()?;
    let mapping = Mapping::shared(&device, MIB)?;
    mapping.touch_read(0, MIB);
    let (mut stored, mut failed, mut value) = (0, 0, 0u8);
    let mut nth = 1;
    while nth <= MOST && stored < ENOUGH {
        value = value.wrapping_add(1);
        mapping.touch_write(0, MIB, value);
        let failing = FailDisk::begin("loop0", nth)?;
        let result = fsync(&device);
        drop(failing);
        match result {
            Ok(()) => {
                stored += 1;
                disk.has_in_each_page(value)?;
            }
            Err(error) => {
                failed += 1;
                assert_eq!(error, Errno::IO);
            }
        }
        nth += 1 + nth / 8;
    }
    fs::write(
        "/dev/kmsg",
        format!("mmapdev-test: a disk that fails: {failed} syncs failed before {stored} did not\n"),
    )?;
    assert!(
        stored == ENOUGH && failed > 0,
        "{stored} stored, {failed} failed"
    );
    let _ = fsync(&device);
    value = value.wrapping_add(1);
    mapping.touch_write(0, MIB, value);
    fsync(&device)?;
    disk.has_in_each_page(value)
}

/// The answer comes before the call that asks has returned.
fn refused_writes() -> io::Result<()> {
    let disk = LoopDisk::new(MIB)?;
    for value in [1, 2] {
        let device = disk.device()?;
        let mapping = Mapping::shared(&device, MIB)?;
        mapping.touch_write(0, MIB, value);
        drop(mapping);
        let refusing = RefusingDisk::begin("loop0", "op=WRITE,status=INVAL")?;
        // The last who closes it has all written, to the page cache of the disk then, and not synced.
        drop(device);
        drop(refusing);
        fsync(disk.device()?)?;
        disk.has_in_each_page(value)?;
    }
    Ok(())
}

/// As above. Who asks in vain twice is told so, and may ask once more.
fn refused_reads() -> io::Result<()> {
    const MOST: usize = 100;
    let disk = LoopDisk::new(MIB)?;
    for status in ["AGAIN", "NOTSUPP", "INVAL"] {
        let device = disk.device()?;
        fadvise(&device, 0, None, rustix::fs::Advice::DontNeed)?;
        let rule = format!("op=READ,status={status},chance=2");
        let refusing = RefusingDisk::begin("loop0", &rule)?;
        for at in (0..MIB).step_by(PAGE) {
            let mut bytes = [0; PAGE];
            let mut tries = 0;
            while pread(&device, &mut bytes, at as u64) != Ok(PAGE) {
                tries += 1;
                assert!(tries < MOST, "{status}");
            }
            assert!(disk.bytes()[at..at + PAGE] == bytes, "{status}");
        }
        drop(refusing);
    }
    Ok(())
}

fn sending_from_file() -> io::Result<()> {
    let expected = stored_bytes();
    let other_end = memfd_create("other end", MemfdFlags::CLOEXEC)?;
    with_stored(
        "sending from a file",
        &Fails::Among(&[Errno::NOMEM, Errno::FAULT, Errno::IO]),
        |_| {},
        |device, _| {
            seek(&other_end, SeekFrom::Start(0))?;
            Ok(sendfile(&other_end, device, Some(&mut 0), STORED_SIZE)?)
        },
        |_, result, was_short| {
            if let Ok(count) = result {
                assert!(count == STORED_SIZE || was_short && count > 0);
                let mut seen = vec![0; count];
                assert_eq!(pread(&other_end, &mut seen, 0), Ok(count));
                assert!(seen == expected[..count]);
            }
            &[]
        },
    )
}

fn mapping_of_file() -> io::Result<()> {
    with_stored(
        "opening and mapping of a file",
        &Fails::Among(&[Errno::NOMEM, Errno::FAULT]),
        |_| {},
        |_, _| {
            let device = Device::open_with(control::node(NAME), OFlags::RDWR)?;
            Mapping::shared(device, STORED_SIZE)
        },
        |_, result, _| {
            if let Ok(mapping) = result {
                assert!(mapping.read(0, STORED_SIZE) == stored_bytes());
            }
            &[]
        },
    )
}

/// The last to close it writes what is left, whatever fails.
fn closing_of_file() -> io::Result<()> {
    let control = Control::open()?;
    let file = stored()?;
    control.create(control::file(NAME, &file, 0, 0)?)?;
    let mut value = 0;
    each(
        "closing of a file",
        &Fails::Among(&[]),
        || {
            let device = Device::open_with(control::node(NAME), OFlags::RDWR)?;
            let mapping = Mapping::shared(&device, STORED_SIZE)?;
            value += 1;
            mapping.touch_write(0, STORED_SIZE, value);
            Ok((Some((device, mapping)), value))
        },
        |(users, _)| {
            *users = None;
            Ok(())
        },
        |(_, value), _, _| {
            let file = fs::read(STORED)?;
            assert!((0..STORED_SIZE).step_by(PAGE).all(|at| file[at] == value));
            Ok(())
        },
    )?;
    control.destroy(NAME)
}

fn destroying_of_file() -> io::Result<()> {
    const CHANGED: &[u8] = b"changed, and not synced";
    // In two pages.
    const PLACE: usize = STORED_SIZE / 2 - 5;
    let control = Control::open()?;
    each(
        "destroying of a file",
        &Fails::Among(&[Errno::FAULT]),
        || {
            let (file, device, mapping) = stored_device(&control)?;
            mapping.read(0, STORED_SIZE);
            // Which destroying brings to the file.
            mapping.write(PLACE, CHANGED);
            Ok((file, device, mapping))
        },
        |_| control.destroy(NAME),
        |(_, device, mapping), result, _| {
            if result.is_err() {
                let _ = control.destroy(NAME);
            }
            crate::assert_errno(device.info(), Errno::NODEV, "gone");
            drop((device, mapping));
            assert_eq!(control.list()?, []);
            let mut expected = stored_bytes();
            expected[PLACE..][..CHANGED.len()].copy_from_slice(CHANGED);
            assert!(fs::read(STORED)? == expected, "the file");
            Ok(())
        },
    )
}
