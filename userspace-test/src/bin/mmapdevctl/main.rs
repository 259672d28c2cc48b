// SPDX-License-Identifier: GPL-2.0

//! `mmapdevctl`: makes, changes, shows and ends the devices of the mmapdev module.

#![forbid(unsafe_code)]

mod failure;
mod report;
mod stat;

use clap::{Args, Parser, Subcommand, ValueEnum};
use failure::{Failure, Target};
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::{abi, size};
use report::Report;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const AFTER_HELP: &str = "\
Examples:
  insmod mmapdev.ko                      load the module, which makes device 0
  mmapdevctl create frames --size 256M   make /dev/mmapdev-frames; no memory is taken before it is touched
  mmapdevctl list                        what devices there are
  mmapdevctl info frames                 one of them
  mmapdevctl stat frames --interval 1    what programs do to it, second by second
  mmapdevctl resize frames --size 1G     more room, while programs have it mapped
  mmapdevctl punch frames --offset 0 --length 128M
                                         give the memory of its first half back
  mmapdevctl destroy frames              end it, used or not

NAME is 1 to 63 of the characters A-Z a-z 0-9 . _ - or the path of the node: /dev/mmapdev-NAME, or
/dev/mmapdevNAME where the name is a number. The node is for root alone; chmod or a udev rule opens it to
others. A program opens it and maps it: mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0).

SIZE is a number of bytes with K, M, G or T behind it or not, in powers of 1024: 4096, 64K, 2M, 1G.

With --json a command prints what it has to say as JSON, with sizes in bytes.

All need root, but for stat, which needs read access to the node.

Exit status: 0 done, 1 the request failed (a sentence on stderr says why), 2 wrong usage.

mmapdevctl COMMAND --help says more about each command.";

/// Makes, changes, shows and ends devices whose memory programs map instead of copy.
#[derive(Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a device, and print its node
    #[command(after_help = "\
Examples: mmapdevctl create frames --size 256M --largest-folio 64K
          mmapdevctl create scan --file /srv/scan.raw

No memory is taken before it is touched, and what was touched is kept until it is punched, or the device is
resized or destroyed. Large folios cost fewer page faults, and more memory where few bytes of each are used.

With --file the bytes are those of a file or a block device: pages are read when they are touched, written back when
they were changed (for certain by fsync(), msync(), and when nobody uses the device any more), and taken away when
memory is short. Where the file may only be read, so may the device.")]
    Create {
        /// Its name, or the node that it is to have
        #[arg(value_parser = NameParser(control::new_name_of))]
        name: String,
        /// Bytes in the device, a multiple of the page size; for a file all that it has, where nothing is said
        #[arg(long, value_parser = size::parse, required_unless_present = "file")]
        size: Option<u64>,
        /// When memory comes in large folios
        #[arg(long, value_enum, default_value_t = Huge::Always, conflicts_with = "file")]
        huge: Huge,
        /// The largest folio, a power of two from 4K to 2M, which it is where nothing is said
        #[arg(long, value_name = "SIZE", value_parser = largest_folio, conflicts_with = "file")]
        largest_folio: Option<u32>,
        /// The file or block device that has the bytes
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
        /// Where in the file the device begins, a multiple of the page size
        #[arg(long, value_name = "OFFSET", value_parser = size::parse, requires = "file", default_value = "0")]
        file_offset: u64,
        /// Only read the file, even if it could be written
        #[arg(long, requires = "file")]
        read_only: bool,
        #[command(flatten)]
        format: Format,
    },
    /// End devices, used or not
    #[command(after_help = "\
Example: mmapdevctl destroy frames /dev/mmapdev0

Programs that have it mapped get SIGBUS at their next touch, and ENODEV from calls on the open file. `list`
shows which devices are open. One that cannot be ended does not keep the others.")]
    Destroy {
        /// Which: names or nodes
        #[arg(required = true, value_name = "NAME", value_parser = NameParser(control::name_of))]
        names: Vec<String>,
    },
    /// Change the size of a device, used or not
    #[command(after_help = "\
Example: mmapdevctl resize frames --size 1G

A smaller device loses what is beyond its new end, and touches there are SIGBUS. What a larger one gains reads
as zeros; programs that have it mapped see it when they map more.")]
    Resize {
        #[command(flatten)]
        device: Device,
        /// Bytes in the device from now on, a multiple of the page size
        #[arg(long, value_parser = size::parse)]
        size: u64,
    },
    /// Give back the memory of a range of a device, which reads as zeros afterwards
    #[command(after_help = "\
Example: mmapdevctl punch frames --offset 64M --length 2M

Only whole pages, and whole large folios at best, are given back; the rest is overwritten with zeros.")]
    Punch {
        #[command(flatten)]
        device: Device,
        /// The first byte
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        offset: u64,
        /// How many bytes; what is beyond the end does not matter
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        length: u64,
    },
    /// Show all devices
    #[command(after_help = "\
Example: mmapdevctl list --json

\"memory\" is what the device holds at this moment; \"open\" how many open files there are, mappings included.")]
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Show one device
    #[command(after_help = "Example: mmapdevctl info frames")]
    Info {
        #[command(flatten)]
        device: Device,
        #[command(flatten)]
        format: Format,
    },
    /// Show what programs have done to a device, or do
    #[command(after_help = stat::AFTER_HELP)]
    Stat {
        #[command(flatten)]
        device: Device,
        /// Show a line each so many seconds: the first with all since the device was made, the others with
        /// what came since the line before
        #[arg(long, value_name = "SECONDS", value_parser = interval)]
        interval: Option<Duration>,
        /// End after so many lines
        #[arg(long, value_name = "N", requires = "interval", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Args)]
struct Device {
    /// Its name or its node
    #[arg(value_parser = NameParser(control::name_of))]
    name: String,
}

#[derive(Args)]
struct Format {
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Huge {
    /// Wherever size, alignment and free memory allow
    Always,
    /// Pages of the base size only
    Never,
    /// Where a mapping was advised so by madvise(MADV_HUGEPAGE)
    Advise,
}

impl From<Huge> for u32 {
    fn from(huge: Huge) -> Self {
        match huge {
            Huge::Always => abi::HUGE_ALWAYS,
            Huge::Never => abi::HUGE_NEVER,
            Huge::Advise => abi::HUGE_ADVISE,
        }
    }
}

/// Takes a name or a node, whatever its bytes, by a function that knows which.
#[derive(Clone)]
struct NameParser(fn(&OsStr) -> Result<String, String>);

impl clap::builder::TypedValueParser for NameParser {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        (self.0)(value).map_err(|sentence| {
            let error = clap::Error::raw(clap::error::ErrorKind::ValueValidation, sentence + "\n");
            error.with_cmd(command)
        })
    }
}

/// Opens the file of a device, for writing as well where that may be done and is wanted.
fn open_file(path: PathBuf, read_only: bool) -> Result<File, Failure> {
    let writing = OpenOptions::new().read(true).write(!read_only).open(&path);
    let opened = match writing {
        Err(error) if !read_only && may_be_readable(&error) => File::open(&path),
        other => other,
    };
    opened.map_err(|error| Failure::Request(format!("{}: {error}", path.display())))
}

/// Returns whether a file that cannot be opened for writing may be so for reading.
fn may_be_readable(error: &io::Error) -> bool {
    let kinds = [
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::ReadOnlyFilesystem,
        io::ErrorKind::IsADirectory,
    ];
    kinds.contains(&error.kind())
}

fn largest_folio(text: &str) -> Result<u32, String> {
    // A size that the field cannot hold is none that a folio has, as 0 would be but for its meaning there.
    match size::parse(text)?.try_into() {
        Ok(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("a folio has 4K to 2M".into()),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "seconds are a number")?;
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
    match Duration::try_from_secs_f64(seconds) {
        Ok(interval) if !interval.is_zero() && interval <= LONGEST => Ok(interval),
        _ => Err("an interval is longer than 0 seconds, and a day at most".into()),
    }
}

fn main() -> ExitCode {
    match run(Options::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough, as `head` does.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("mmapdevctl: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Create {
            name,
            size,
            huge,
            largest_folio,
            file,
            file_offset,
            read_only,
            format,
        } => {
            let target = Target::new(&name);
            let size = size.unwrap_or(0);
            // Open until the device is made.
            let file = file.map(|path| open_file(path, read_only)).transpose()?;
            let plan = match &file {
                Some(file) => control::file(&name, file, file_offset, size),
                None => control::memory(&name, size).map(|plan| abi::Create {
                    huge: huge.into(),
                    largest_folio: largest_folio.unwrap_or(0),
                    ..plan
                }),
            }
            .map_err(|error| target.failed(&error))?;
            let control = open()?;
            control
                .create(plan)
                .map_err(|error| target.create_failed(&plan, &error))?;
            if !format.json {
                return report::print(&control::node(&name).display().to_string());
            }
            let info = control.info(&name).map_err(|error| target.failed(&error))?;
            report::print(&Report(info).json().to_string())
        }
        Command::Destroy { names } => {
            let control = open()?;
            let mut failed = None;
            for name in names {
                if let Err(error) = control.destroy(&name) {
                    let failure = Target::new(&name).failed(&error);
                    if let Some(earlier) = failed.replace(failure) {
                        eprintln!("mmapdevctl: {earlier}");
                    }
                }
            }
            failed.map_or(Ok(()), Err)
        }
        Command::Resize {
            device: Device { name },
            size,
        } => {
            let resized = open()?.resize(&name, size);
            resized.map_err(|error| Target::new(&name).resize_failed(size, &error))
        }
        Command::Punch {
            device: Device { name },
            offset,
            length,
        } => {
            let punched = open()?.punch(&name, offset, length);
            punched.map_err(|error| Target::new(&name).punch_failed(length, &error))
        }
        Command::List { format } => {
            let list = open()?.list();
            let reports: Vec<Report> = list
                .map_err(|error| failure::control_failed(&error))?
                .into_iter()
                .map(Report)
                .collect();
            report::print(&if format.json {
                serde_json::Value::from_iter(reports.iter().map(Report::json)).to_string()
            } else {
                report::table(&reports)
            })
        }
        Command::Info {
            device: Device { name },
            format,
        } => {
            let info = open()?.info(&name);
            let report = Report(info.map_err(|error| Target::new(&name).failed(&error))?);
            report::print(&if format.json {
                report.json().to_string()
            } else {
                report.lines()
            })
        }
        Command::Stat {
            device: Device { name },
            interval,
            count,
            format,
        } => stat::run(&name, interval, count, format.json),
    }
}

fn open() -> Result<Control, Failure> {
    Control::open().map_err(|error| failure::control_failed(&error))
}
