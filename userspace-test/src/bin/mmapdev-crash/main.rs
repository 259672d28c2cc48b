// SPDX-License-Identifier: GPL-2.0

//! What is on the disk of a machine that was killed: a program that writes to a device of a file, and syncs it, until
//! it is killed; and, for a machine that is alive, one that looks at the file that was left.
//!
//! What the writer does is made by a seed, and each word that it writes says which step wrote it: so the checker
//! knows of each word what is the least that must be there.

#![forbid(unsafe_code)]

mod check;
mod disk_log;
mod sequence;

use clap::{Parser, Subcommand};
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::module::Loaded;
use rustix::fs::{fdatasync, fsync, OFlags};
use rustix::io::{pread, pwritev2, ReadWriteFlags};
use rustix::mm::Advice;
use sequence::{Sequence, Step, Tags, SIZE, WORD};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Writes to a device of a file until the machine is killed, and checks what that left on the disk.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// What the steps are made by
    #[arg(long)]
    seed: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes the file, half of which are holes
    Make { file: PathBuf },
    /// Loads the module, makes a device of the file, and writes for ever; prints "synced N" when step N, which was to
    /// sync, has returned
    Write { file: PathBuf },
    /// Makes an image that had the bytes from before the writer what a disk with a cache of its own may have when its
    /// power fails: what came before the last flush in QEMU's log, and of what came later any part
    Cut { log: PathBuf, image: PathBuf },
    /// Checks the file against what the writer has said
    Check { said: PathBuf, file: PathBuf },
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed;
    let result = match &options.command {
        Command::Make { file } => make(seed, file),
        Command::Write { file } => write(seed, file),
        Command::Cut { log, image } => disk_log::replay(seed, log, image),
        Command::Check { said, file } => check::check(seed, said, file),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn make(seed: u64, path: &Path) -> io::Result<()> {
    let tags = Tags::new(seed);
    let file = File::create(path)?;
    file.set_len(SIZE as u64)?;
    for piece in sequence::written_at_first() {
        file.write_all_at(&tags.bytes(0, &piece), piece.start as u64)?;
    }
    Ok(())
}

/// A device of the file, and what its bytes must be.
struct Writer {
    device: Device,
    mapping: Mapping,
    tags: Tags,
    /// The step that has written each word last.
    last: Vec<u32>,
}

impl Writer {
    fn act(&mut self, number: u32, step: &Step) -> io::Result<()> {
        if let Some(range) = step.written() {
            self.last[range.start / WORD..range.end / WORD].fill(number);
        }
        match step {
            Step::Store(range) => {
                let bytes = self.tags.bytes(number, range);
                self.mapping.write(range.start, &bytes);
            }
            Step::Write(range) => self.write(number, range, ReadWriteFlags::empty())?,
            Step::WriteThrough(range) => self.write(number, range, ReadWriteFlags::DSYNC)?,
            Step::SyncRange(range) => self.mapping.sync_range(range.start, range.len())?,
            Step::Sync => fsync(&self.device)?,
            Step::SyncData => fdatasync(&self.device)?,
            Step::PageOut(range) => {
                let advice = Advice::LinuxPageOut;
                self.mapping.advise(range.start, range.len(), advice)?;
                self.look(range)?;
            }
        }
        Ok(())
    }

    fn write(&self, number: u32, range: &Range<usize>, flags: ReadWriteFlags) -> io::Result<()> {
        let bytes = self.tags.bytes(number, range);
        let slices = [IoSlice::new(&bytes)];
        match pwritev2(&self.device, &slices, range.start as u64, flags)? {
            written if written == bytes.len() => Ok(()),
            written => Err(io::Error::other(format!(
                "{written} bytes of {} written",
                bytes.len()
            ))),
        }
    }

    /// Whether what was taken out of memory comes again as it was.
    fn look(&self, range: &Range<usize>) -> io::Result<()> {
        let mut read = vec![0; range.len()];
        pread(&self.device, &mut read, range.start as u64)?;
        let loaded = self.mapping.read(range.start, range.len());
        for (what, bytes) in [("pread()", read), ("the mapping", loaded)] {
            for (word, found) in sequence::words(range, &bytes) {
                let expected = self.tags.word(self.last[word], word);
                if found != expected {
                    let offset = word * WORD;
                    return Err(io::Error::other(format!(
                        "{what} at {offset:#x} has {found:#x}, not {expected:#x}"
                    )));
                }
            }
        }
        Ok(())
    }
}

fn write(seed: u64, path: &Path) -> io::Result<()> {
    let _module = Loaded::with("devices=0")?;
    // What is dirty is written meanwhile, too: a sync meets pages that are on their way.
    for name in ["dirty_expire_centisecs", "dirty_writeback_centisecs"] {
        fs::write(format!("/proc/sys/vm/{name}"), "5")?;
    }
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    Control::open()?.create(control::file("crash", &file, 0, 0)?)?;
    drop(file);
    let device = Device::open_with(control::node("crash"), OFlags::RDWR)?;
    let mut writer = Writer {
        mapping: Mapping::shared(&device, SIZE)?,
        device,
        tags: Tags::new(seed),
        last: vec![0; SIZE / WORD],
    };
    let mut stdout = io::stdout().lock();
    for (number, step) in Sequence::new(seed) {
        let failed = |error| io::Error::other(format!("step {number}, {step}: {error}"));
        writer.act(number, &step).map_err(failed)?;
        if step.synced().is_some() {
            // In one piece, so that half a line is never taken for one.
            stdout.write_all(format!("synced {number}\n").as_bytes())?;
            stdout.flush()?;
        }
    }
    Ok(())
}
