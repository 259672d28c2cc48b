// SPDX-License-Identifier: GPL-2.0

//! The measurements.

use crate::bars::{BESIDE, REQUESTS, RETRIED};
use crate::results::Results;
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::module::Loaded;
use mmapdev_userspace::{memory, HUGE_PAGE, MIB, PAGE};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use rustix::mm::{Advice, MapFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// How much memory each measurement is of.
const SIZE: usize = 64 * MIB;
const PAGES: f64 = (SIZE / PAGE) as f64;
const RUNS: usize = 5;

/// Something that can be mapped.
enum Memory {
    /// A device, and the module while it is loaded, which goes last.
    Device(Device, #[allow(dead_code)] Loaded),
    File(OwnedFd),
    Anonymous(Advice),
}

/// A way to have memory, and what it is called.
#[derive(Clone, Copy)]
enum Kind {
    Mmapdev(&'static str),
    Untraced(&'static str),
    Memfd(MemfdFlags),
    Anonymous(Advice),
}

const KINDS: &[(&str, Kind)] = &[
    ("mmapdev 2 MiB", Kind::Mmapdev("huge=1")),
    ("mmapdev 64 KiB", Kind::Mmapdev("huge=1 folio_kib=64")),
    ("mmapdev 4 KiB", Kind::Mmapdev("huge=0")),
    ("4 KiB, no tracepoints", Kind::Untraced("huge=0")),
    ("memfd", Kind::Memfd(MemfdFlags::CLOEXEC)),
    ("hugetlb", Kind::Memfd(MemfdFlags::HUGETLB)),
    ("anonymous 4 KiB", Kind::Anonymous(Advice::LinuxNoHugepage)),
    ("anonymous THP", Kind::Anonymous(Advice::LinuxHugepage)),
];

impl Kind {
    /// Makes it anew, with nothing in memory.
    fn make(self) -> io::Result<Memory> {
        Ok(match self {
            Self::Mmapdev(parameters) => {
                let loaded = Loaded::with(&format!("size_mib={} {parameters}", SIZE / MIB))?;
                Memory::Device(Device::open()?, loaded)
            }
            Self::Untraced(parameters) => {
                let loaded = Loaded::untraced(&format!("size_mib={} {parameters}", SIZE / MIB))?;
                Memory::Device(Device::open()?, loaded)
            }
            Self::Memfd(flags) => {
                let file = memfd_create("bench", flags)?;
                ftruncate(&file, SIZE as u64)?;
                Memory::File(file)
            }
            Self::Anonymous(advice) => Memory::Anonymous(advice),
        })
    }
}

impl Memory {
    fn file(&self) -> Option<&dyn AsFd> {
        match self {
            Self::Device(device, _) => Some(device),
            Self::File(file) => Some(file),
            Self::Anonymous(_) => None,
        }
    }

    fn map(&self) -> io::Result<Mapping> {
        match self {
            Self::Device(device, _) => Mapping::new(device, SIZE, READ_WRITE, MapFlags::SHARED, 0),
            Self::File(file) => Mapping::new(file, SIZE, READ_WRITE, MapFlags::SHARED, 0),
            Self::Anonymous(advice) => {
                let mapping = Mapping::anonymous(SIZE)?;
                mapping.advise(0, SIZE, *advice)?;
                Ok(mapping)
            }
        }
    }
}

/// The guest's clock around something: nanoseconds, or instructions where it counts these.
fn cost<T>(body: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let value = body();
    (start.elapsed().as_nanos() as f64, value)
}

/// Measures everything.
pub(crate) fn all(unit: &str) -> io::Result<Results> {
    let mut results = Results {
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        cpus: std::thread::available_parallelism()?.get(),
        unit: unit.to_string(),
        ..Default::default()
    };
    for (variant, kind) in KINDS {
        absent(&mut results, variant, *kind)?;
        if let Kind::Anonymous(_) = kind {
            continue;
        }
        let memory = kind.make()?;
        memory.map()?.touch_write(0, SIZE, 1);
        resident(&mut results, variant, &memory)?;
        if results.cpus > 1 {
            threads(&mut results, variant, &memory)?;
        }
        if *variant != "hugetlb" {
            copying(&mut results, variant, &memory)?;
        }
        if let Memory::Device(device, _) = &memory {
            let retried = device.counters()?.mmap_lock_faults as f64;
            results.add(RETRIED, variant, "faults".into(), vec![retried]);
        }
        drop(memory);
        if *variant != "hugetlb" {
            beside(&mut results, variant, *kind)?;
        }
    }
    Ok(results)
}

/// First touches of memory that is not there yet.
fn absent(results: &mut Results, variant: &str, kind: Kind) -> io::Result<()> {
    let per_page = format!("{}/page", results.unit);
    let mut writes = Vec::new();
    for _ in 0..RUNS {
        let memory = kind.make()?;
        let mapping = memory.map()?;
        writes.push(cost(|| mapping.touch_write(0, SIZE, 1)).0 / PAGES);
    }
    results.add("first touch, write, absent", variant, per_page, writes);
    Ok(())
}

/// A fresh mapping of memory that is there.
fn resident(results: &mut Results, variant: &str, memory: &Memory) -> io::Result<()> {
    let unit = results.unit.clone();
    let per_page = || format!("{unit}/page");
    let [mut map, mut read, mut write, mut warm, mut unmap, mut sum] = [(); 6].map(|()| Vec::new());
    for _ in 0..RUNS {
        let (mapped, mapping) = cost(|| memory.map());
        let mapping = mapping?;
        map.push(mapped);
        read.push(cost(|| mapping.touch_read(0, SIZE)).0 / PAGES);
        warm.push(cost(|| mapping.touch_read(0, SIZE)).0 / PAGES);
        unmap.push(cost(|| drop(mapping)).0 / PAGES);
        let mapping = memory.map()?;
        write.push(cost(|| mapping.touch_write(0, SIZE, 1)).0 / PAGES);
        drop(mapping);
        let (summed, total) = cost(|| memory.map().map(|mapping| mapping.sum(0, SIZE)));
        total?;
        sum.push(summed / PAGES);
    }
    results.add("mmap", variant, format!("{unit}/call"), map);
    results.add("first touch, read, resident", variant, per_page(), read);
    results.add("first touch, write, resident", variant, per_page(), write);
    results.add("warm touch", variant, per_page(), warm);
    results.add("munmap", variant, per_page(), unmap);
    results.add("sum through a fresh mapping", variant, per_page(), sum);
    Ok(())
}

/// First touches by two threads, each of its own half, against one that touches all.
fn threads(results: &mut Results, variant: &str, memory: &Memory) -> io::Result<()> {
    let [mut one, mut two, mut speed] = [(); 3].map(|()| Vec::new());
    for _ in 0..RUNS {
        let mapping = memory.map()?;
        let alone = cost(|| mapping.touch_read(0, SIZE)).0;
        drop(mapping);
        let mapping = memory.map()?;
        let (together, ()) = cost(|| {
            std::thread::scope(|scope| {
                for half in [0, SIZE / 2] {
                    let mapping = &mapping;
                    scope.spawn(move || mapping.touch_read(half, SIZE / 2));
                }
            });
        });
        one.push(alone / PAGES);
        two.push(together / PAGES);
        speed.push(alone / together);
    }
    let per_page = format!("{}/page", results.unit);
    results.add("first touch by one thread", variant, per_page.clone(), one);
    results.add("first touch by two threads", variant, per_page, two);
    results.add("two threads' speed", variant, "times one's".into(), speed);
    Ok(())
}

/// What else of the machine's memory goes when data comes in by write(), without any mapping.
fn beside(results: &mut Results, variant: &str, kind: Kind) -> io::Result<()> {
    let buffer = Mapping::anonymous(HUGE_PAGE)?;
    buffer.touch_write(0, HUGE_PAGE, 1);
    let mut percent = Vec::new();
    // The first fills the lists of free memory that the kernel keeps for each CPU and kind.
    for run in 0..3 {
        let memory = kind.make()?;
        let Some(file) = memory.file() else {
            return Ok(());
        };
        // Free slots in what holds the tree's nodes would hide the nodes.
        std::fs::write("/sys/kernel/slab/radix_tree_node/shrink", "1")?;
        let before = memory::settled_free()?;
        for at in (0..SIZE).step_by(HUGE_PAGE) {
            buffer.pwrite_to(file, at as u64, 0, HUGE_PAGE)?;
        }
        let gone = before.saturating_sub(memory::settled_free()?);
        if run > 0 {
            percent.push(gone.saturating_sub(SIZE as u64) as f64 / SIZE as f64 * 100.0);
        }
    }
    results.add(BESIDE, variant, "percent".into(), percent);
    Ok(())
}

/// read() and write() of memory that is there.
fn copying(results: &mut Results, variant: &str, memory: &Memory) -> io::Result<()> {
    let per_page = format!("{}/page", results.unit);
    let Some(file) = memory.file() else {
        return Ok(());
    };
    // Not at a multiple of a large power of two, where an emulated CPU is slow to copy.
    const START: usize = 17 * PAGE;
    let buffer = Mapping::anonymous(START + HUGE_PAGE)?;
    buffer.touch_write(0, buffer.len(), 1);
    let mut best = Vec::new();
    for (request, name) in REQUESTS {
        let [mut read, mut write, mut sum] = [(); 3].map(|()| Vec::new());
        let offsets = || (0..SIZE).step_by(*request);
        for _ in 0..3 {
            let (copied, result) = cost(|| {
                offsets().try_for_each(|at| {
                    buffer
                        .pread_from(file, at as u64, START, *request)
                        .map(|_| ())
                })
            });
            result?;
            read.push(copied / PAGES);
            let (copied, result) = cost(|| {
                offsets().try_for_each(|at| {
                    buffer
                        .pwrite_to(file, at as u64, START, *request)
                        .map(|_| ())
                })
            });
            result?;
            write.push(copied / PAGES);
            let (summed, result) = cost(|| {
                offsets().try_fold(0u64, |total, at| {
                    buffer.pread_from(file, at as u64, START, *request)?;
                    Ok::<_, io::Error>(total.wrapping_add(buffer.sum(START, *request)))
                })
            });
            result?;
            sum.push(summed / PAGES);
        }
        results.add(
            &format!("read(), {name} a call"),
            variant,
            per_page.clone(),
            read,
        );
        results.add(
            &format!("write(), {name} a call"),
            variant,
            per_page.clone(),
            write,
        );
        let mean = sum.iter().sum::<f64>();
        if best.is_empty() || mean < best.iter().sum::<f64>() {
            best = sum;
        }
    }
    results.add("sum through read(), best request", variant, per_page, best);
    Ok(())
}
