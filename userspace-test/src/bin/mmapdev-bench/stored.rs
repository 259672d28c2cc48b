// SPDX-License-Identifier: GPL-2.0

//! A file on a file system: by way of a device of it, and mapped itself.
//!
//! Its disk is in the guest's memory, so that a request costs the instructions of those who make and serve it, and no
//! waiting for the host, which no two runs would have alike.

use crate::bars::{FILE, FILE_COLD, FILE_RANDOM, FILE_WARM, STORED};
use crate::measure::cost;
use crate::results::Results;
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::module::Loaded;
use mmapdev_userspace::random::Random;
use mmapdev_userspace::{memory, KIB, MIB, PAGE};
use rustix::fs::OFlags;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::process::Command;

const SIZE: usize = 64 * MIB;
const PAGES: f64 = (SIZE / PAGE) as f64;
/// How many single pages are touched, of all that there are.
const TOUCHES: usize = 4096;

/// Measures both.
pub(crate) fn measure(results: &mut Results) -> io::Result<()> {
    let disk = Disk::new()?;
    let file = disk.file()?;
    {
        let _module = Loaded::with("devices=0")?;
        let control = Control::open()?;
        control.create(control::file("bench", &file, 0, 0)?)?;
        let device = Device::open_with(control::node("bench"), OFlags::RDWR)?;
        scans(results, STORED, &device)?;
    }
    scans(results, FILE, &file)
}

/// Reads the file through fresh mappings of it or of its device: all bytes in turn, with none in memory and with all;
/// and single pages in no order, with none in memory.
fn scans(results: &mut Results, variant: &str, file: &dyn AsFd) -> io::Result<()> {
    let map = || Mapping::new(file, SIZE, ProtFlags::READ, MapFlags::SHARED, 0);
    let [mut cold, mut warm, mut random] = [(); 3].map(|()| Vec::new());
    // The same pages in the same order for both.
    let mut pages: Vec<usize> = (0..SIZE / PAGE).collect();
    let mut choice = Random::new(1);
    for last in (1..pages.len()).rev() {
        pages.swap(last, choice.below(last + 1));
    }
    for _ in 0..results.runs() {
        drop_caches()?;
        let mapping = map()?;
        let (summed, sum) = read_from_disk(SIZE, || mapping.sum(0, SIZE))?;
        cold.push(summed / PAGES);
        drop(mapping);
        let mapping = map()?;
        let (summed, again) = cost(|| mapping.sum(0, SIZE));
        warm.push(summed / PAGES);
        drop(mapping);
        if again != sum {
            return Err(io::Error::other("the bytes have changed"));
        }
        drop_caches()?;
        let mapping = map()?;
        mapping.advise(0, SIZE, Advice::Random)?;
        let touch = || {
            pages[..TOUCHES]
                .iter()
                .map(|page| mapping.load(page * PAGE))
        };
        let (touched, _) = read_from_disk(TOUCHES * PAGE, || touch().fold(0, u8::wrapping_add))?;
        random.push(touched / TOUCHES as f64);
    }
    for (metric, runs) in [(FILE_COLD, cold), (FILE_WARM, warm), (FILE_RANDOM, random)] {
        let unit = format!("{}/page", results.unit);
        results.add(metric, variant, unit, runs);
    }
    Ok(())
}

/// Takes from memory all that is on the disk as well. What is dirty is not, and what is mapped.
fn drop_caches() -> io::Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "1")
}

/// The cost of something that is to read so much from the disk: all of it, or it was not cold, and little more.
fn read_from_disk<T>(len: usize, body: impl FnOnce() -> T) -> io::Result<(f64, T)> {
    let before = memory::vmstat("pgpgin")?;
    let outcome = cost(body);
    let read = (memory::vmstat("pgpgin")? - before) as usize * KIB;
    if (len..len + len / 16).contains(&read) {
        return Ok(outcome);
    }
    Err(io::Error::other(format!(
        "{read} bytes were read from the disk, not {len}"
    )))
}

/// A disk in memory with a file system on it, which goes when this is dropped.
struct Disk;

impl Disk {
    const FOLDER: &'static str = "/run/mmapdev-bench";
    const NODE: &'static str = "/dev/ram0";

    fn new() -> io::Result<Self> {
        let size = format!("rd_size={}", (SIZE + SIZE / 8) / KIB);
        run("insmod", &["/lib/brd.ko", "rd_nr=1", &size])?;
        let this = Self;
        run("mke2fs", &["-F", "-b", "4096", Self::NODE])?;
        // The program knows no extents, by which a file's place on the disk has been noted for long.
        let node = OpenOptions::new().read(true).write(true).open(Self::NODE)?;
        const FEATURES: u64 = 1024 + 0x60;
        const EXTENTS: u32 = 0x40;
        let mut features = [0; 4];
        node.read_exact_at(&mut features, FEATURES)?;
        let with = u32::from_le_bytes(features) | EXTENTS;
        node.write_all_at(&with.to_le_bytes(), FEATURES)?;
        node.sync_all()?;
        fs::create_dir(Self::FOLDER)?;
        run("mount", &["-t", "ext4", Self::NODE, Self::FOLDER])?;
        Ok(this)
    }

    /// Makes a file of which nothing is zeros.
    fn file(&self) -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(format!("{}/file", Self::FOLDER))?;
        let piece = Random::new(2).bytes(MIB);
        for at in (0..SIZE).step_by(MIB) {
            file.write_all_at(&piece, at as u64)?;
        }
        file.sync_all()?;
        Ok(file)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run("umount", &[Self::FOLDER]);
        let _ = fs::remove_dir(Self::FOLDER);
        let _ = run("rmmod", &["brd"]);
    }
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> io::Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program}: {complaint}")))
}
