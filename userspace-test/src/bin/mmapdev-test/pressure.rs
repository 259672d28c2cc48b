// SPDX-License-Identifier: GPL-2.0

//! Devices that are stored in a file, where memory is short: what is clean goes, what is dirty is written and goes,
//! and both come again. On a machine of less memory than the largest device has bytes.

use crate::{slowness, Test};
use mmapdev_userspace::cgroup::Cgroup;
use mmapdev_userspace::child::{Child, Outcome};
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::memory;
use mmapdev_userspace::random::Random;
use mmapdev_userspace::{is_sanitizer_kernel, MIB, PAGE};
use rustix::fs::{fallocate, fsync, FallocateFlags, OFlags};
use rustix::io::pread;
use rustix::mm::Advice;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

const NONE: &str = "devices=0";

/// Bytes of a device that are in memory and have to go. (Fewer on the sanitizer kernel, where each page takes its time.)
fn to_be_reclaimed() -> usize {
    if is_sanitizer_kernel() {
        12 * MIB
    } else {
        32 * MIB
    }
}

/// A test in which much is read and written: a minute where nothing else runs, and three where two other guests do.
const fn test(name: &'static str, body: fn() -> io::Result<()>) -> Test {
    Test {
        limit: Some(Duration::from_secs(480)),
        ..Test::with(name, NONE, body)
    }
}

pub(crate) const TESTS: &[Test] = &[
    test("a_device_larger_than_memory_has_all_its_bytes", larger),
    test("what_is_clean_goes_and_is_read_again", || {
        let scene = Scene::filled(to_be_reclaimed())?;
        reclaimed(&scene, false)
    }),
    test("what_is_dirty_is_written_and_goes", || {
        let scene = Scene::filled(to_be_reclaimed())?;
        reclaimed(&scene, true)
    }),
    test("a_limit_below_the_size_kills_nobody", limited),
    test("paging_out_does_what_it_does_to_a_file", || {
        let scene = Scene::filled(8 * MIB)?;
        let other = Scene::file("/mnt/disk/mmapdev-pressure-other", 8 * MIB)?;
        let device = scene.open()?;
        let ours = paged_out(&Mapping::shared(&device, scene.size)?, &|| {
            Ok(fsync(&device)?)
        })?;
        let theirs = paged_out(&Mapping::shared(&other, scene.size)?, &|| {
            Ok(fsync(&other)?)
        })?;
        assert_eq!(ours, theirs, "and the other is a file's");
        let gone = scene.size / PAGE;
        assert_eq!(
            (ours[0].1, ours.last().map(|last| last.1)),
            (gone, Some(gone))
        );
        Ok(())
    }),
];

const NAME: &str = "pressure";
const FILE: &str = "/mnt/disk/mmapdev-pressure";

/// The bytes of a page that was written as often: each word says where it is, and which time it was.
fn page_of(page: usize, version: u32) -> Vec<u8> {
    if version == 0 {
        return vec![0; PAGE];
    }
    let first = (1 << 63) + (u64::from(version) << 40) + page as u64 * PAGE as u64;
    (0..PAGE as u64 / 8)
        .flat_map(|word| (first + word * 8).to_le_bytes())
        .collect()
}

/// A device of a file.
struct Scene {
    control: Control,
    file: File,
    size: usize,
}

impl Scene {
    fn create(path: &str) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
    }

    /// Makes a file that has version 1 of each page, none of which is in memory.
    fn file(path: &str, size: usize) -> io::Result<File> {
        let file = Self::create(path)?;
        for start in (0..size).step_by(MIB) {
            let pages = start / PAGE..(start + MIB) / PAGE;
            let bytes: Vec<u8> = pages.flat_map(|page| page_of(page, 1)).collect();
            file.write_all_at(&bytes, start as u64)?;
        }
        file.sync_all()?;
        fs::write("/proc/sys/vm/drop_caches", "1")?;
        Ok(file)
    }

    fn of(file: File, size: usize) -> io::Result<Self> {
        let control = Control::open()?;
        control.create(control::file(NAME, &file, 0, 0)?)?;
        Ok(Self {
            control,
            file,
            size,
        })
    }

    fn filled(size: usize) -> io::Result<Self> {
        Self::of(Self::file(FILE, size)?, size)
    }

    /// Makes a file of zeros that has its room on the disk.
    fn empty(size: usize) -> io::Result<Self> {
        let file = Self::create(FILE)?;
        fallocate(&file, FallocateFlags::empty(), 0, size as u64)?;
        Self::of(file, size)
    }

    fn open(&self) -> io::Result<Device> {
        Device::open_with(control::node(NAME), OFlags::RDWR)
    }

    fn resident(&self) -> io::Result<usize> {
        Ok(self.control.info(NAME)?.resident_bytes as usize)
    }

    /// Checks what a way to read gives, from `versions` of each page.
    fn check(
        &self,
        what: &str,
        versions: &[u32],
        read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    ) -> io::Result<()> {
        let zeros = page_of(0, 0);
        let mut bytes = vec![0; MIB];
        for (piece, versions) in versions.chunks(MIB / PAGE).enumerate() {
            let start = piece * MIB;
            let len = versions.len() * PAGE;
            assert_eq!(read(&mut bytes[..len], start as u64)?, len);
            for (index, &version) in versions.iter().enumerate() {
                let found = &bytes[index * PAGE..(index + 1) * PAGE];
                let page = start / PAGE + index;
                let is_right = match version {
                    0 => found == zeros,
                    _ => found == page_of(page, version),
                };
                assert!(is_right, "{what}: page {page} is not version {version}");
            }
        }
        Ok(())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // The disk has room for one of the large ones.
        let _ = self.control.destroy(NAME);
        let _ = fs::remove_file(FILE);
    }
}

/// Checks each word through a mapping; of pages that were never written, that they add up to nothing.
fn check_mapping(mapping: &Mapping, versions: &[u32]) {
    for (page, &version) in versions.iter().enumerate() {
        let place = page * PAGE;
        let is_right = match version {
            0 => mapping.sum(place, PAGE) == 0,
            _ => mapping.read(place, PAGE) == page_of(page, version),
        };
        assert!(
            is_right,
            "the mapping: page {page} is not version {version}"
        );
    }
}

/// Bytes that the disk has read and written.
#[derive(Debug, Clone, Copy)]
struct Traffic {
    read: usize,
    written: usize,
}

impl Traffic {
    fn now() -> io::Result<Self> {
        let text = fs::read_to_string("/sys/block/vda/stat")?;
        let fields: Vec<usize> = text
            .split_whitespace()
            .map(|word| word.parse().map_err(io::Error::other))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            read: fields[2] * 512,
            written: fields[6] * 512,
        })
    }

    fn since(before: Self) -> io::Result<Self> {
        let now = Self::now()?;
        Ok(Self {
            read: now.read - before.read,
            written: now.written - before.written,
        })
    }
}

/// A device of twice the machine's memory: written here and there and in one stretch, and then looked at in each way.
fn larger() -> io::Result<()> {
    const SIZE: usize = 1024 * MIB;
    const STRETCH: std::ops::Range<usize> = 320 * MIB / PAGE..448 * MIB / PAGE;
    const PAGES: usize = 6000;

    let memory = memory::meminfo("MemTotal")? as usize;
    assert!(memory < SIZE / 2 + SIZE / 16, "a machine of {memory} bytes");
    let scene = Scene::empty(SIZE)?;
    let device = scene.open()?;
    let mapping = Mapping::shared(&device, SIZE)?;
    let mut versions = vec![0u32; SIZE / PAGE];
    let mut write = |page: usize| {
        versions[page] += 1;
        mapping.write(page * PAGE, &page_of(page, versions[page]));
    };
    let mut random = Random::new(SIZE as u64);
    let start = Traffic::now()?;
    for number in 0..PAGES {
        // Some of them twice, some of those at once.
        let page = random.below(SIZE / PAGE);
        write(page);
        if number % 8 == 0 {
            write(page);
        }
    }
    STRETCH.for_each(&mut write);
    for _ in 0..PAGES / 4 {
        write(random.below(SIZE / PAGE));
    }
    let before = Traffic::since(start)?;
    fsync(&device)?;
    let after = Traffic::since(start)?;
    let written = versions.iter().filter(|&&version| version > 0).count() * PAGE;
    assert!(before.written > 0, "nothing went before the sync");
    assert!(after.written >= written, "{after:?} of {written}");

    // From end to end, so that what comes first has gone when it is looked at again.
    check_mapping(&mapping, &versions);
    assert!(scene.resident()? < memory);
    drop(mapping);
    let start = Traffic::now()?;
    scene.check("pread()", &versions, |bytes, offset| {
        Ok(pread(&device, bytes, offset)?)
    })?;
    let again = Traffic::since(start)?;
    assert!(again.read >= STRETCH.len() * PAGE, "{again:?}");
    assert!(scene.resident()? < memory);
    scene.check("the file", &versions, |bytes, offset| {
        scene.file.read_at(bytes, offset)
    })
}

/// What a cgroup's memory is taken back from goes, and comes again when it is touched.
fn reclaimed(scene: &Scene, is_dirty: bool) -> io::Result<()> {
    let pages = scene.size / PAGE;
    let mut versions = vec![1; pages];
    let cgroup = Cgroup::new("pressure")?;
    let (device, start) = (scene.open()?, Traffic::now()?);
    let child = Child::run(|| {
        cgroup.enter().expect("the cgroup");
        let mapping = Mapping::shared(&device, scene.size).expect("a mapping");
        for page in 0..pages {
            if is_dirty {
                mapping.write(page * PAGE, &page_of(page, 2));
            } else {
                mapping.load(page * PAGE);
            }
        }
        // Mapped all the while: that keeps no page.
        let deadline = Instant::now() + slowness() * Duration::from_secs(30);
        while scene.resident().expect("the device") > scene.size / 16 {
            assert!(Instant::now() < deadline, "the pages do not go");
            // What is dirty takes some time, in which less is found than was asked for.
            let _ = cgroup.reclaim(scene.size as u64);
        }
        Vec::new()
    })?;
    let outcome = child.wait(Some(slowness() * Duration::from_secs(60)))?;
    assert_eq!(outcome, Outcome::Returned(Vec::new()));
    let gone = Traffic::since(start)?;
    if is_dirty {
        versions.fill(2);
        assert!(gone.written >= scene.size * 15 / 16, "{gone:?}");
    } else {
        // But for what the file system notes for itself.
        assert!(gone.written < MIB, "{gone:?}");
    }
    let (start, resident) = (Traffic::now()?, scene.resident()?);
    let mapping = Mapping::shared(&device, scene.size)?;
    check_mapping(&mapping, &versions);
    let again = Traffic::since(start)?;
    assert!(again.read >= scene.size - resident, "{again:?}");
    scene.check("pread()", &versions, |bytes, offset| {
        Ok(pread(&device, bytes, offset)?)
    })
}

/// A program whose cgroup may have less memory than the device has bytes writes all of it, and reads it again.
fn limited() -> io::Result<()> {
    const LIMIT: usize = 24 * MIB;
    let size = if is_sanitizer_kernel() { 2 } else { 4 } * LIMIT;
    let scene = Scene::empty(size)?;
    let versions = vec![1; size / PAGE];
    let cgroup = Cgroup::with_limit("pressure-limit", LIMIT as u64)?;
    let device = scene.open()?;
    let start = Traffic::now()?;
    let child = Child::run(|| {
        cgroup.enter().expect("the cgroup");
        let mapping = Mapping::shared(&device, size).expect("a mapping");
        for page in 0..size / PAGE {
            mapping.write(page * PAGE, &page_of(page, 1));
        }
        check_mapping(&mapping, &versions);
        Vec::new()
    })?;
    let outcome = child.wait(Some(slowness() * Duration::from_secs(90)))?;
    assert_eq!(outcome, Outcome::Returned(Vec::new()));
    assert_eq!(cgroup.events("oom_kill")?, 0);
    assert!(scene.resident()? <= LIMIT);
    let traffic = Traffic::since(start)?;
    let least = size - LIMIT;
    assert!(
        traffic.read >= least && traffic.written >= least,
        "{traffic:?}"
    );
    fsync(&device)?;
    scene.check("the file", &versions, |bytes, offset| {
        scene.file.read_at(bytes, offset)
    })
}

/// What is advised, in turn, and how many pages are not in memory after it; that no byte is lost by it is checked here.
fn paged_out(
    mapping: &Mapping,
    sync: &dyn Fn() -> io::Result<()>,
) -> io::Result<Vec<(&'static str, usize)>> {
    let (len, pages) = (mapping.len(), mapping.len() / PAGE);
    let mut versions = vec![1; pages];
    let mut all = Vec::new();
    let gone = || -> io::Result<usize> {
        let is_there = mapping.in_memory(0, len)?;
        Ok(is_there.into_iter().filter(|is_there| !is_there).count())
    };
    // What a CPU has in a list of its own is not looked at; before caches are dropped, these lists are emptied, and what is
    // mapped is not dropped. A page that somebody else looks at in that moment stays: for the few of those it is advised again.
    let page_out = || -> io::Result<()> {
        for _ in 0..10 {
            std::fs::write("/proc/sys/vm/drop_caches", "1")?;
            mapping.advise(0, len, Advice::LinuxPageOut)?;
            let left = pages - gone()?;
            if left == 0 || left > pages / 64 {
                break;
            }
        }
        Ok(())
    };
    check_mapping(mapping, &versions);
    page_out()?;
    all.push(("what is clean, paged out", gone()?));
    check_mapping(mapping, &versions);
    mapping.advise(0, len, Advice::LinuxCold)?;
    all.push(("what is clean, cold", gone()?));
    versions.fill(2);
    for page in 0..pages {
        mapping.write(page * PAGE, &page_of(page, 2));
    }
    mapping.advise(0, len, Advice::LinuxCold)?;
    all.push(("what is dirty, cold", gone()?));
    page_out()?;
    check_mapping(mapping, &versions);
    sync()?;
    check_mapping(mapping, &versions);
    page_out()?;
    all.push(("what was dirty and is synced, paged out", gone()?));
    check_mapping(mapping, &versions);
    page_out()?;
    all.push(("what came again, paged out", gone()?));
    Ok(all)
}
