// SPDX-License-Identifier: GPL-2.0

//! The second page: a file on a disk, of which a page fault brings in one piece.

use crate::{counted, size, Checks};
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::disk::{Disk, Traffic};
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::random::Random;
use mmapdev_userspace::table::Table;
use mmapdev_userspace::{MIB, PAGE};
use rustix::fs::OFlags;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const NAME: &str = "demo-file";
const SIZE: usize = 8 * MIB;
/// The page that is touched alone, and what is stored in it.
const PLACE: usize = 5 * MIB + 3 * PAGE;
const STORED: &[u8] = b"stored through a mapping, found in the file";

/// Makes a file in `folder` and a device of it, shows what touches of that read and write, and removes both.
pub(super) fn show(checks: &mut Checks, folder: &Path) -> io::Result<Vec<String>> {
    let bytes = Random::new(SIZE as u64).bytes(SIZE);
    let file = DemoFile::new(folder, &bytes)?;
    let scene = Scene {
        disk: Disk::of(&file.path)?,
        device: file.device()?,
        bytes,
        file,
    };
    let mut table = Table::new();
    let mapping = scene.pieces(checks, &mut table)?;
    table.space();
    scene.both_ways(checks, &mapping, &mut table)?;
    table.space();
    scene.copies(checks, &mapping, &mut table)?;
    let title = format!(
        "mmapdev: {} of {} as {}, none of it in memory",
        size(SIZE as u64),
        scene.file.path.display(),
        control::node(NAME).display()
    );
    Ok([title, String::new()]
        .into_iter()
        .chain(table.lines())
        .collect())
}

struct Scene {
    disk: Disk,
    bytes: Vec<u8>,
    // Closed before the device is destroyed and the file removed.
    device: Device,
    file: DemoFile,
}

/// What something has cost.
struct Cost {
    faults: u64,
    /// What the disk had been asked for before.
    before: Traffic,
    traffic: Traffic,
    held: u64,
}

impl Scene {
    fn cost<T>(&self, body: impl FnOnce() -> io::Result<T>) -> io::Result<(Cost, T)> {
        let before = self.disk.traffic()?;
        let (counted, value) = counted(&self.device, body)?;
        let cost = Cost {
            faults: counted.faults,
            before,
            traffic: self.disk.traffic()? - before,
            held: self.device.info()?.resident_bytes,
        };
        Ok((cost, value))
    }

    /// mmap() reads nothing; the first touch of a page has that page read, and no other touch does.
    fn pieces(&self, checks: &mut Checks, table: &mut Table) -> io::Result<Mapping> {
        table.heading([
            "A page is read when it is touched",
            "page faults",
            "disk reads",
            "memory held",
        ]);
        let mut row = |what: &str, cost: &Cost, faults: u64, reads: u64, held: usize| {
            let seen = (cost.faults, cost.traffic.reads, cost.traffic.bytes_read);
            let expected = (faults, reads, reads * PAGE as u64);
            let right = seen == expected && cost.held == held as u64;
            let mark = checks.check(what, right, true);
            let (before, more) = (cost.before.reads, cost.traffic.reads);
            let bytes = match cost.traffic.bytes_read {
                0 => String::new(),
                bytes => format!(" ({})", size(bytes)),
            };
            let reads = format!("{before}, then {}{bytes}", before + more);
            let (faults, held) = (cost.faults.to_string(), size(cost.held));
            table.row([what, &faults, &reads, &held, mark]);
        };

        let (cost, mapping) = self.cost(|| {
            let mapping = Mapping::shared(&self.device, SIZE)?;
            // No reading ahead, so that a touch is of one page.
            mapping.advise(0, SIZE, Advice::Random)?;
            Ok(mapping)
        })?;
        row("mmap() of all of it", &cost, 0, 0, 0);
        let (cost, _) = self.cost(|| Ok(mapping.load(PLACE)))?;
        row("a load from one page", &cost, 1, 1, PAGE);
        let (cost, _) = self.cost(|| Ok(mapping.load(PLACE + PAGE / 2)))?;
        row("another from the same page", &cost, 0, 0, PAGE);
        let (cost, _) = self.cost(|| Ok(mapping.load(PLACE + PAGE)))?;
        row("a load from the next page", &cost, 1, 1, 2 * PAGE);
        Ok(mapping)
    }

    /// What the file has is in the mapping, and what is stored there is in the file after msync().
    fn both_ways(
        &self,
        checks: &mut Checks,
        mapping: &Mapping,
        table: &mut Table,
    ) -> io::Result<()> {
        table.heading(["The bytes are the file's", "seen"]);
        let equal = |seen: &[u8], expected: &[u8]| {
            let pairs = seen.iter().zip(expected);
            pairs.filter(|(seen, expected)| seen == expected).count()
        };
        let mut row = |what: &str, seen: usize, expected: usize| {
            let mark = checks.check(what, seen, expected);
            let count = format!("{seen} of {expected}");
            table.row([what, &count, "", "", mark]);
        };
        let page = mapping.read(PLACE, PAGE);
        let seen = equal(&page, &self.bytes[PLACE..PLACE + PAGE]);
        row("those of the file, in the mapping", seen, PAGE);
        mapping.write(PLACE + 100, STORED);
        mapping.sync()?;
        let on_disk = self.file.on_disk(PLACE)?;
        let seen = equal(&on_disk[100..100 + STORED.len()], STORED);
        row("stored, msync(), read by O_DIRECT", seen, STORED.len());
        let mut expected = self.bytes[PLACE..PLACE + PAGE].to_vec();
        expected[100..100 + STORED.len()].copy_from_slice(STORED);
        row("the page around them", equal(&on_disk, &expected), PAGE);
        Ok(())
    }

    /// All of it is in memory once: as pages of the device, and none in the page cache of the file.
    fn copies(&self, checks: &mut Checks, mapping: &Mapping, table: &mut Table) -> io::Result<()> {
        table.heading([
            "In memory there is one copy",
            "the device's",
            "the file's own",
        ]);
        mapping.advise(0, SIZE, Advice::Normal)?;
        mapping.touch_read(0, SIZE);
        let own = Mapping::new(&self.file.file, SIZE, ProtFlags::READ, MapFlags::SHARED, 0)?;
        let resident = own.in_memory(0, SIZE)?;
        let second = (resident.iter().filter(|&&is_there| is_there).count() * PAGE) as u64;
        let held = self.device.info()?.resident_bytes;
        let once = held == SIZE as u64 && second == 0;
        let mark = checks.check("one copy of each page in memory", once, true);
        let cells = [size(held), size(second)];
        table.row([
            "after a load from each page",
            &cells[0],
            &cells[1],
            "",
            mark,
        ]);
        Ok(())
    }
}

/// A file of which nothing is in memory, and a device of it; both go when this is dropped.
struct DemoFile {
    path: PathBuf,
    file: File,
    control: Control,
}

impl DemoFile {
    fn new(folder: &Path, bytes: &[u8]) -> io::Result<Self> {
        let path = folder.join("mmapdev-demo-file");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        let this = Self {
            path,
            file,
            control: Control::open()?,
        };
        this.file.write_all_at(bytes, 0)?;
        this.file.sync_all()?;
        fs::write("/proc/sys/vm/drop_caches", "1")?;
        this.control
            .create(control::file(NAME, &this.file, 0, 0)?)?;
        Ok(this)
    }

    fn device(&self) -> io::Result<Device> {
        Device::open_with(control::node(NAME), OFlags::RDWR)
    }

    /// What the disk has of a page, read past everything that is in memory.
    fn on_disk(&self, place: usize) -> io::Result<Vec<u8>> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(&self.path)?;
        let buffer = Mapping::anonymous(PAGE)?;
        buffer.pread_from(&file, place as u64, 0, PAGE)?;
        Ok(buffer.read(0, PAGE))
    }
}

impl Drop for DemoFile {
    fn drop(&mut self) {
        let _ = self.control.destroy(NAME);
        let _ = fs::remove_file(&self.path);
    }
}
