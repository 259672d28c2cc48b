// SPDX-License-Identifier: GPL-2.0

//! Shows, and checks, that a mapping of an mmapdev device is the device's own memory and no copy.

#![forbid(unsafe_code)]

mod stored;

use clap::Parser;
use mmapdev_userspace::child::Child;
use mmapdev_userspace::device::{self, Device};
use mmapdev_userspace::mapping::{wait_for, Mapping};
use mmapdev_userspace::module::{self, Loaded};
use mmapdev_userspace::table::Table;
use mmapdev_userspace::{abi, pagemap, KIB, MIB, PAGE};
use rustix::fs::OFlags;
use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Shows that a mapping of an mmapdev device is the device's own memory: fills the device both ways,
/// compares page frames, and counts what each way copies and faults. Run it as root.
///
/// With --disk there is a second page: one page fault brings in one piece of a file on that disk.
///
/// Loads the module first if it is not loaded, and unloads it again. The device's content is
/// overwritten. Exits with 0 if every row is as it must be, with 1 if one is not, and with 2 if there is
/// nothing to show it on.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The device to show it on
    #[arg(long, value_name = "NODE", default_value = device::FIRST)]
    device: PathBuf,
    /// How much of the device to use, in MiB; all of it by default
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    size: Option<u32>,
    /// A folder on a disk, where a file is made, shown as a device, and removed again
    #[arg(long, value_name = "FOLDER")]
    disk: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(sentence) => {
            eprintln!("mmapdev-demo: {sentence}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<bool, String> {
    let loaded = if module::is_loaded() {
        None
    } else {
        Some(load()?)
    };
    let device = Device::open_with(&options.device, OFlags::RDWR).map_err(|error| {
        let node = options.device.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                format!("{node} may not be opened: run this as root")
            }
            io::ErrorKind::NotFound => {
                format!("there is no {node}: ls /dev/mmapdev* shows what is")
            }
            _ => format!("{node} cannot be opened: {error}"),
        }
    })?;
    let info = device
        .info()
        .map_err(|error| format!("{} is no mmapdev device: {error}", options.device.display()))?;
    let whole = info.device_size as usize;
    let size = options.size.map_or(whole, |mib| mib as usize * MIB);
    if size > whole {
        return Err(format!(
            "the device has {} MiB: choose a --size up to that",
            whole / MIB
        ));
    }

    let mut demo = Demo {
        device,
        size,
        checks: Checks::default(),
    };
    let shown = demo.show(&options.device.display(), &info);
    let shown = shown.map_err(|error| format!("the device gave an error: {error}"))?;
    for line in shown {
        println!("{line}");
    }
    if let Some(folder) = &options.disk {
        let stored = stored::show(&mut demo.checks, folder);
        let stored = stored.map_err(|error| format!("a file in {}: {error}", folder.display()))?;
        println!();
        for line in stored {
            println!("{line}");
        }
    }
    let passed = demo.checks.verdict(options.disk.is_some());
    drop(demo);
    if let Some(module) = loaded {
        module
            .unload()
            .map_err(|error| format!("the module does not unload: {error}"))?;
    }
    Ok(passed)
}

fn load() -> Result<Loaded, String> {
    Loaded::with("").map_err(|error| {
        let file = module::file();
        let file = file.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "the module is not loaded, and only root can load it: run this as root".to_string()
            }
            io::ErrorKind::NotFound => {
                format!("the module is not loaded, and {file} is missing: insmod mmapdev.ko first")
            }
            _ => format!("the module {file} does not load: {error}; dmesg says why"),
        }
    })
}

struct Demo {
    device: Device,
    size: usize,
    checks: Checks,
}

/// How many rows were checked, and what was not as it should be.
#[derive(Default)]
struct Checks {
    number: usize,
    failures: Vec<String>,
}

/// What the device counted during something.
struct Counted {
    faults: u64,
    bytes_read: u64,
}

impl Demo {
    fn show(&mut self, node: &dyn Display, info: &abi::Info) -> io::Result<Vec<String>> {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy();
        let mut table = Table::new();
        self.laziness(info, &mut table)?;
        table.space();
        self.frames(&mut table)?;
        table.space();
        self.coherence(&mut table)?;
        table.space();
        self.cost(&mut table)?;
        let mib = self.size / MIB;
        let title = format!("mmapdev: {mib} MiB of {node}, mapped and read, on Linux {release}");
        Ok([title, String::new()]
            .into_iter()
            .chain(table.lines())
            .collect())
    }

    fn counted<T>(&self, body: impl FnOnce() -> io::Result<T>) -> io::Result<(Counted, T)> {
        counted(&self.device, body)
    }

    /// mmap() costs nothing; the first touch brings one piece of memory in; filling brings the rest.
    fn laziness(&mut self, info: &abi::Info, table: &mut Table) -> io::Result<()> {
        let held = |demo: &Self| Ok::<u64, io::Error>(demo.device.info()?.resident_bytes);
        table.heading([
            "Nothing is done before it is needed",
            "page faults",
            "memory held",
        ]);
        let mut row = |what: &str, faults: &str, memory: u64, mark: &str| {
            table.row([what, faults, &size(memory), "", mark]);
        };

        let before = held(self)?;
        let (counted, mapping) = self.counted(|| Mapping::shared(&self.device, self.size))?;
        let memory = held(self)?;
        let untouched = counted.faults == 0 && memory == before;
        let mark = self
            .checks
            .check("mmap() faults or takes memory", untouched, true);
        row(
            "mmap() of all of it",
            &counted.faults.to_string(),
            memory,
            mark,
        );

        let (counted, ()) = self.counted(|| {
            mapping.store(self.size / 2, 1);
            Ok(())
        })?;
        let mark = self
            .checks
            .check("faults of the first touch", counted.faults, 1);
        row(
            "one store to one byte",
            &counted.faults.to_string(),
            held(self)?,
            mark,
        );

        let pages = self.size / PAGE;
        let (counted, ()) = self.counted(|| {
            for page in 0..pages / 2 {
                mapping
                    .word(page * PAGE)
                    .store(page as u64, std::sync::atomic::Ordering::Relaxed);
            }
            Ok(())
        })?;
        // One fault for each folio: as many as pages where these are small, far fewer where not.
        let most = if info.huge == abi::HUGE_NEVER {
            pages / 2
        } else {
            pages / 2 / 16
        } as u64;
        let lazily = counted.faults > 0 && counted.faults <= most.max(1);
        let mark = self
            .checks
            .check("faults of touching one half within bounds", lazily, true);
        let faults = format!("{} for {} pages", counted.faults, pages / 2);
        row(
            "a store to each page of one half",
            &faults,
            held(self)?,
            mark,
        );

        let half = self.size / 2;
        let (counted, ()) = self.counted(|| {
            let piece: Vec<u8> = (0..MIB).map(|byte| byte as u8).collect();
            let mut at = half;
            while at < self.size {
                let end = MIB.min(self.size - at);
                at += rustix::io::pwrite(&self.device, &piece[..end], at as u64)?;
            }
            Ok(())
        })?;
        let mark = self.checks.check("faults of write()", counted.faults, 0);
        row(
            "write() of the other half",
            &counted.faults.to_string(),
            held(self)?,
            mark,
        );
        Ok(())
    }

    /// The frame that this process, another one and the device name for an offset is one and the same.
    fn frames(&mut self, table: &mut Table) -> io::Result<()> {
        table.heading([
            "A mapped page is the device's own",
            "this process",
            "another process",
            "the device",
        ]);
        let pages = self.size / PAGE;
        let offsets = [0, pages / 3, pages - 1].map(|page| page * PAGE);
        let mapping = Mapping::shared(&self.device, self.size)?;
        let frames_of = |mapping: &Mapping| -> io::Result<Vec<Option<u64>>> {
            let frame = |&offset: &usize| {
                mapping.load(offset);
                pagemap::frame(mapping.address(offset))
            };
            offsets.iter().map(frame).collect()
        };
        let here = frames_of(&mapping)?;
        let (device, size) = (&self.device, self.size);
        // Another process, with a mapping of its own, while this one's is there.
        let child = Child::run(|| {
            let own = Mapping::shared(device, size).and_then(|mapping| frames_of(&mapping));
            let frames = own.expect("frames in another process");
            frames
                .into_iter()
                .flat_map(|frame| frame.unwrap_or(0).to_ne_bytes())
                .collect()
        })?;
        let there = child.join();
        for (index, offset) in offsets.into_iter().enumerate() {
            let mine = here[index].unwrap_or(0);
            let bytes = &there[index * 8..][..8];
            let theirs = u64::from_ne_bytes(bytes.try_into().map_err(io::Error::other)?);
            let devices = self.device.frame(offset as u64)?.frame;
            let same = mine == theirs && mine == devices && mine != 0;
            let mark = self.checks.check("the page frames are one", same, true);
            let frames = [mine, theirs, devices].map(|frame| format!("{frame:#x}"));
            let offset = format!("frame of the page at {offset:#x}");
            table.row([&offset, &frames[0], &frames[1], &frames[2], mark]);
        }
        Ok(())
    }

    /// What one way writes, the other reads, with nothing between.
    fn coherence(&mut self, table: &mut Table) -> io::Result<()> {
        const ROUNDS: u64 = 1000;
        table.heading(["Both ways are the same bytes, at once", "seen"]);
        let mapping = Mapping::shared(&self.device, self.size)?;
        let offsets: Vec<usize> = (0..64).map(|n| n * (self.size / 64) + 64 * n + n).collect();

        let mut seen = 0;
        for (n, &offset) in offsets.iter().enumerate() {
            mapping.store(offset, n as u8 ^ 0x5A);
            let mut byte = [0];
            rustix::io::pread(&self.device, &mut byte, offset as u64)?;
            seen += usize::from(byte[0] == n as u8 ^ 0x5A);
        }
        let mark = self
            .checks
            .check("stores seen by pread()", seen, offsets.len());
        let count = format!("{seen} of {}", offsets.len());
        table.row(["a store, then pread()", &count, "", "", mark]);

        let mut seen = 0;
        for (n, &offset) in offsets.iter().enumerate() {
            rustix::io::pwrite(&self.device, &[n as u8 ^ 0xA5], offset as u64)?;
            seen += usize::from(mapping.load(offset) == n as u8 ^ 0xA5);
        }
        let mark = self
            .checks
            .check("pwrite() seen through the mapping", seen, offsets.len());
        let count = format!("{seen} of {}", offsets.len());
        table.row(["pwrite(), then a load", &count, "", "", mark]);

        // Each waits for the other's number by loads alone, and answers by a store.
        let (ping, pong) = (mapping.word(0), mapping.word(64));
        let order = std::sync::atomic::Ordering::SeqCst;
        ping.store(0, order);
        pong.store(0, order);
        let deadline = Instant::now() + Duration::from_secs(20);
        let (device, size) = (&self.device, self.size);
        let child = Child::run(|| {
            let own = Mapping::shared(device, size).expect("a mapping in another process");
            for round in 1..=ROUNDS {
                if !wait_for(own.word(0), round, deadline) {
                    break;
                }
                own.word(64).store(round, order);
            }
            Vec::new()
        })?;
        let mut rounds = 0;
        while rounds < ROUNDS {
            ping.store(rounds + 1, order);
            if !wait_for(pong, rounds + 1, deadline) {
                break;
            }
            rounds += 1;
        }
        child.join();
        let mark = self
            .checks
            .check("answers of another process", rounds, ROUNDS);
        let count = format!("{rounds} of {ROUNDS}");
        table.row(["answers of another process's stores", &count, "", "", mark]);
        Ok(())
    }

    /// Adding all words up by read() and through the mapping: copies, faults and time.
    fn cost(&mut self, table: &mut Table) -> io::Result<()> {
        const RUNS: usize = 5;
        let pages = self.size / PAGE;
        // A request that stays in the CPU's caches: read() at its best. An emulated CPU is slow to copy
        // between addresses that differ by a multiple of a large power of two; so each run reads to
        // another place, and the median is without that.
        const REQUEST: usize = 128 * KIB;
        let buffer = Mapping::anonymous(REQUEST + RUNS * PAGE)?;
        buffer.touch_write(0, buffer.len(), 0);

        let by_read = |run: usize| -> io::Result<u64> {
            let place = run * PAGE;
            let mut sum = 0u64;
            let mut at = 0;
            while at < self.size {
                let len = buffer.pread_from(&self.device, at as u64, place, REQUEST)?;
                sum = sum.wrapping_add(buffer.sum(place, len));
                at += len;
            }
            Ok(sum)
        };
        let (reading, (sum, read_time)) = self.counted(|| timed(|| by_read(0)))?;
        let (first, (cold_sum, _)) = self.counted(|| {
            timed(|| Mapping::shared(&self.device, self.size).map(|map| map.sum(0, self.size)))
        })?;
        let mapping = Mapping::shared(&self.device, self.size)?;
        mapping.sum(0, self.size);
        let (again, (warm_sum, _)) = self.counted(|| timed(|| Ok(mapping.sum(0, self.size))))?;

        let mut times = [vec![read_time], vec![], vec![]];
        for run in 1..=RUNS {
            times[0].push(timed(|| by_read(run))?.1);
            let mut cold = None;
            let map = || {
                Mapping::shared(&self.device, self.size)
                    .map(|map| cold.insert(map).sum(0, self.size))
            };
            times[1].push(timed(map)?.1);
            times[2].push(timed(|| Ok(mapping.sum(0, self.size)))?.1);
        }
        let [read, cold, warm] = times.map(median);

        let title = format!("To add up all {} MiB takes", self.size / MIB);
        table.heading([&title, "read()", "fresh mapping", "mapped before"]);
        let sums = sum == cold_sum && sum == warm_sum;
        let copied = [&reading, &first, &again].map(|counted| counted.bytes_read);
        let right = copied == [self.size as u64, 0, 0];
        let mark = self.checks.check(
            "bytes copied: all, 0 and 0, and equal sums",
            right && sums,
            true,
        );
        let bytes = copied.map(|bytes| bytes.to_string());
        table.row([
            "bytes copied by the kernel",
            &bytes[0],
            &bytes[1],
            &bytes[2],
            mark,
        ]);
        let faults = [&reading, &first, &again].map(|counted| counted.faults);
        let right = faults[0] == 0 && (1..=pages as u64).contains(&faults[1]) && faults[2] == 0;
        let mark = self
            .checks
            .check("faults: none, some and none", right, true);
        let faults = faults.map(|faults| faults.to_string());
        let cold_faults = format!("{} for {pages} pages", faults[1]);
        table.row(["page faults", &faults[0], &cold_faults, &faults[2], mark]);
        let time = |time: Duration| {
            let ratio = time.as_secs_f64() / read.as_secs_f64();
            format!("{:.1} ms ({ratio:.2})", time.as_secs_f64() * 1000.0)
        };
        table.row([
            "time (and ratio to read)",
            &time(read),
            &time(cold),
            &time(warm),
            "-",
        ]);
        Ok(())
    }
}

impl Checks {
    /// Checks a row: returns the mark for it.
    fn check<T: PartialEq + Display>(&mut self, what: &str, seen: T, expected: T) -> &'static str {
        self.number += 1;
        if seen == expected {
            return "ok";
        }
        self.failures
            .push(format!("{what}: expected {expected}, saw {seen}"));
        "FAIL"
    }

    fn verdict(&self, with_file: bool) -> bool {
        println!();
        if self.failures.is_empty() {
            let file = if with_file {
                " A page of a file is read when it is touched, once."
            } else {
                ""
            };
            println!(
                "All {} checks passed: the mapping is the device's memory, and nothing was copied.{file}",
                self.number
            );
            return true;
        }
        for failure in &self.failures {
            println!("FAIL {failure}");
        }
        println!("{} of {} checks failed.", self.failures.len(), self.number);
        false
    }
}

fn counted<T>(device: &Device, body: impl FnOnce() -> io::Result<T>) -> io::Result<(Counted, T)> {
    let before = device.counters()?;
    let value = body()?;
    let after = device.counters()?;
    let faults = |c: &abi::Counters| c.faults + c.huge_faults + c.map_pages;
    let counted = Counted {
        faults: faults(&after) - faults(&before),
        bytes_read: after.bytes_read - before.bytes_read,
    };
    Ok((counted, value))
}

fn timed<T>(body: impl FnOnce() -> io::Result<T>) -> io::Result<(T, Duration)> {
    let start = Instant::now();
    let value = body()?;
    Ok((value, start.elapsed()))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn size(bytes: u64) -> String {
    if bytes % MIB as u64 == 0 {
        format!("{} MiB", bytes / MIB as u64)
    } else {
        format!("{} KiB", bytes / 1024)
    }
}
