// SPDX-License-Identifier: GPL-2.0

//! The measurements.

use crate::bars::{BAR, BESIDE, REQUESTS, RETRIED};
use crate::results::{Results, PER_SECOND, RATIO};
use crate::{stored, whole};
use mmapdev_userspace::control;
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::module::Loaded;
use mmapdev_userspace::pci::PciDevice;
use mmapdev_userspace::{memory, HUGE_PAGE, MIB, PAGE};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags, OFlags};
use rustix::mm::{Advice, MapFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How much memory each measurement is of.
const SIZE: usize = 64 * MIB;
const PAGES: f64 = (SIZE / PAGE) as f64;
/// How much data comes in to see what else of the memory goes: so much that a few pages of it, which come and
/// go meanwhile, are nothing.
const DATA: usize = 128 * MIB;

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
    /// The memory of a PCI device, which is there always.
    Bar,
    Memfd(MemfdFlags),
    Anonymous(Advice),
}

const KINDS: &[(&str, Kind)] = &[
    ("mmapdev 2 MiB", Kind::Mmapdev("huge=1")),
    ("mmapdev 64 KiB", Kind::Mmapdev("huge=1 folio_kib=64")),
    ("mmapdev 4 KiB", Kind::Mmapdev("huge=0")),
    ("4 KiB, no tracepoints", Kind::Untraced("huge=0")),
    (BAR, Kind::Bar),
    ("memfd", Kind::Memfd(MemfdFlags::CLOEXEC)),
    ("hugetlb", Kind::Memfd(MemfdFlags::HUGETLB)),
    ("anonymous 4 KiB", Kind::Anonymous(Advice::LinuxNoHugepage)),
    ("anonymous THP", Kind::Anonymous(Advice::LinuxHugepage)),
];

impl Kind {
    /// Makes `size` bytes of it anew, with nothing in memory.
    fn make(self, size: usize) -> io::Result<Memory> {
        Ok(match self {
            Self::Mmapdev(parameters) => {
                let loaded = Loaded::with(&format!("size_mib={} {parameters}", size / MIB))?;
                Memory::Device(Device::open()?, loaded)
            }
            Self::Untraced(parameters) => {
                let loaded = Loaded::untraced(&format!("size_mib={} {parameters}", size / MIB))?;
                Memory::Device(Device::open()?, loaded)
            }
            Self::Bar => {
                let loaded = Loaded::with("devices=0")?;
                let node = control::node(&ivshmem(size)?.name_of(MEMORY));
                Memory::Device(Device::open_with(node, OFlags::RDWR)?, loaded)
            }
            Self::Memfd(flags) => {
                let file = memfd_create("bench", flags)?;
                ftruncate(&file, size as u64)?;
                Memory::File(file)
            }
            Self::Anonymous(advice) => Memory::Anonymous(advice),
        })
    }
}

/// Where ivshmem has its memory.
pub(crate) const MEMORY: usize = 2;

/// Returns the smallest ivshmem with at least `size` bytes of memory.
pub(crate) fn ivshmem(size: usize) -> io::Result<PciDevice> {
    let mut fitting = Vec::new();
    for device in PciDevice::all(0x1af4, 0x1110)? {
        match device.bar(MEMORY)? {
            Some(bar) if bar.len >= size as u64 => fitting.push((bar.len, device)),
            _ => {}
        }
    }
    let smallest = fitting.into_iter().min_by_key(|(len, _)| *len);
    let smallest = smallest.map(|(_, device)| device);
    smallest.ok_or_else(|| io::Error::other("there is no ivshmem as large: boot with --bar"))
}

impl Memory {
    fn file(&self) -> Option<&dyn AsFd> {
        match self {
            Self::Device(device, _) => Some(device),
            Self::File(file) => Some(file),
            Self::Anonymous(_) => None,
        }
    }

    /// How many faults so far had to be repeated under the lock of the whole address space.
    fn retried(&self) -> io::Result<u64> {
        match self {
            Self::Device(device, _) => Ok(device.counters()?.mmap_lock_faults),
            _ => Ok(0),
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
pub(crate) fn cost<T>(body: impl FnOnce() -> T) -> (f64, T) {
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
        cpus: thread::available_parallelism()?.get(),
        unit: unit.to_string(),
        ..Default::default()
    };
    for (variant, kind) in KINDS {
        let mut retried = match kind {
            Kind::Bar => 0,
            _ => absent(&mut results, variant, *kind)?,
        };
        if let Kind::Anonymous(_) = kind {
            continue;
        }
        let memory = kind.make(SIZE)?;
        memory.map()?.touch_write(0, SIZE, 1);
        resident(&mut results, variant, &memory)?;
        if results.cpus > 1 {
            threads(&mut results, variant, &memory)?;
        }
        if *variant != "hugetlb" {
            copying(&mut results, variant, &memory)?;
        }
        retried += memory.retried()?;
        if let Memory::Device(..) = memory {
            results.add(RETRIED, variant, "faults".into(), vec![retried as f64]);
        }
        drop(memory);
        if *variant != "hugetlb" && *variant != BAR {
            beside(&mut results, variant, *kind)?;
        }
    }
    stored::measure(&mut results)?;
    whole::measure(&mut results)?;
    Ok(results)
}

/// First touches of memory that is not there yet. Returns how many of the faults were repeated.
fn absent(results: &mut Results, variant: &str, kind: Kind) -> io::Result<u64> {
    let per_page = || format!("{}/page", results.unit);
    let [mut reads, mut writes] = [(); 2].map(|()| Vec::new());
    let mut retried = 0;
    for _ in 0..results.runs() {
        let memory = kind.make(SIZE)?;
        let mapping = memory.map()?;
        reads.push(cost(|| mapping.touch_read(0, SIZE)).0 / PAGES);
        retried += memory.retried()?;
        drop((mapping, memory));
        let memory = kind.make(SIZE)?;
        let mapping = memory.map()?;
        writes.push(cost(|| mapping.touch_write(0, SIZE, 1)).0 / PAGES);
        retried += memory.retried()?;
    }
    let (read_unit, write_unit) = (per_page(), per_page());
    results.add("first touch, read, absent", variant, read_unit, reads);
    results.add("first touch, write, absent", variant, write_unit, writes);
    Ok(retried)
}

/// A fresh mapping of memory that is there.
fn resident(results: &mut Results, variant: &str, memory: &Memory) -> io::Result<()> {
    let unit = results.unit.clone();
    let per_page = || format!("{unit}/page");
    let [mut map, mut read, mut write, mut warm, mut unmap, mut sum] = [(); 6].map(|()| Vec::new());
    for _ in 0..results.runs() {
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

/// First touches by one thread and by two, each of its own half of the same mapping.
///
/// One touches no more than its half when it is alone, so that a thread has the same to do in both.
fn threads(results: &mut Results, variant: &str, memory: &Memory) -> io::Result<()> {
    const COUNTS: [(usize, &str); 2] = [(1, "one thread"), (2, "two threads")];
    // Time on a shared machine, and little of it: more runs than of anything else.
    const RUNS: usize = 15;
    let mut rates = [(); 2].map(|()| Vec::new());
    let mut costs = [(); 2].map(|()| Vec::new());
    for _ in 0..RUNS {
        for (index, (count, _)) in COUNTS.into_iter().enumerate() {
            let mapping = memory.map()?;
            let (time, faults) = touch_together(&mapping, count, SIZE / 2)?;
            rates[index].push(faults as f64 / time.as_secs_f64());
            costs[index].push(time.as_nanos() as f64 / (PAGES / 2.0 * count as f64));
        }
    }
    let pairs = rates[0].iter().zip(&rates[1]);
    let speed = pairs.map(|(one, two)| two / one).collect();
    for ((_, who), (rates, costs)) in COUNTS.into_iter().zip(rates.into_iter().zip(costs)) {
        let metric = format!("first touch, {who}");
        results.add(&metric, variant, format!("{}/page", results.unit), costs);
        results.add(
            &format!("page faults, {who}"),
            variant,
            PER_SECOND.into(),
            rates,
        );
    }
    results.add(
        "page faults, two threads to one",
        variant,
        RATIO.into(),
        speed,
    );
    Ok(())
}

/// Has `count` threads start at once and read one byte of each page of `len` bytes each, one behind the
/// other. Returns the time from the first's start to the last's end, and how many page faults that took.
fn touch_together(mapping: &Mapping, count: usize, len: usize) -> io::Result<(Duration, u64)> {
    let ready = AtomicUsize::new(0);
    let touch = |offset| {
        ready.fetch_add(1, Ordering::SeqCst);
        // No sleep: to be woken takes longer than what is measured.
        while ready.load(Ordering::SeqCst) < count {
            std::hint::spin_loop();
        }
        let (faults, start) = (memory::faults_of_this_thread()?, Instant::now());
        mapping.touch_read(offset, len);
        let end = Instant::now();
        Ok((start, end, memory::faults_of_this_thread()? - faults))
    };
    thread::scope(|scope| {
        let touch = &touch;
        let threads: Vec<_> = (0..count)
            .map(|index| scope.spawn(move || touch(index * len)))
            .collect();
        let ended = threads.into_iter().map(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|_| Err(io::Error::other("a thread that touches has panicked")))
        });
        let ended = ended.collect::<io::Result<Vec<(Instant, Instant, u64)>>>()?;
        let first = ended.iter().map(|(start, ..)| *start).min();
        let last = ended.iter().map(|(_, end, _)| *end).max();
        let faults = ended.iter().map(|(.., faults)| faults).sum();
        let time = last.zip(first).map(|(last, first)| last - first);
        Ok((time.unwrap_or_default(), faults))
    })
}

/// What else of the machine's memory goes when data comes in by write(), without any mapping.
fn beside(results: &mut Results, variant: &str, kind: Kind) -> io::Result<()> {
    let buffer = Mapping::anonymous(HUGE_PAGE)?;
    buffer.touch_write(0, HUGE_PAGE, 1);
    let mut percent = Vec::new();
    // The first fills the lists of free memory that the kernel keeps for each CPU and kind.
    for run in 0..3 {
        let memory = kind.make(DATA)?;
        let Some(file) = memory.file() else {
            return Ok(());
        };
        // Free slots in what holds the tree's nodes would hide the nodes.
        std::fs::write("/sys/kernel/slab/radix_tree_node/shrink", "1")?;
        let before = memory::settled_free()?;
        for at in (0..DATA).step_by(HUGE_PAGE) {
            buffer.pwrite_to(file, at as u64, 0, HUGE_PAGE)?;
        }
        let gone = before.saturating_sub(memory::settled_free()?);
        if run > 0 {
            percent.push(gone.saturating_sub(DATA as u64) as f64 / DATA as f64 * 100.0);
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
    // A device's memory is copied a few bytes at a time, so that less of it is enough.
    let size = if variant == BAR { SIZE / 8 } else { SIZE };
    let pages = (size / PAGE) as f64;
    let mut best = Vec::new();
    for (request, name) in REQUESTS {
        let [mut read, mut write, mut sum] = [(); 3].map(|()| Vec::new());
        let offsets = || (0..size).step_by(*request);
        for _ in 0..3 {
            let (copied, result) = cost(|| {
                offsets().try_for_each(|at| {
                    buffer
                        .pread_from(file, at as u64, START, *request)
                        .map(|_| ())
                })
            });
            result?;
            read.push(copied / pages);
            let (copied, result) = cost(|| {
                offsets().try_for_each(|at| {
                    buffer
                        .pwrite_to(file, at as u64, START, *request)
                        .map(|_| ())
                })
            });
            result?;
            write.push(copied / pages);
            let (summed, result) = cost(|| {
                offsets().try_fold(0u64, |total, at| {
                    buffer.pread_from(file, at as u64, START, *request)?;
                    Ok::<_, io::Error>(total.wrapping_add(buffer.sum(START, *request)))
                })
            });
            result?;
            sum.push(summed / pages);
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
        let least = |runs: &[f64]| runs.iter().copied().fold(f64::INFINITY, f64::min);
        if least(&sum) < least(&best) {
            best = sum;
        }
    }
    results.add("sum through read(), best request", variant, per_page, best);
    Ok(())
}
