// SPDX-License-Identifier: GPL-2.0

//! `mmapdevctl stat`: what programs have done to a device, all at once or as they do it.

use crate::failure::{Failure, Target};
use crate::report::print;
use mmapdev_userspace::device::Device;
use mmapdev_userspace::table::Table;
use mmapdev_userspace::{abi, control, size};
use rustix::fs::OFlags;
use serde_json::{Map, Value};
use std::fmt::Write;
use std::time::{Duration, Instant};

pub(crate) const AFTER_HELP: &str = "\
Examples:
  mmapdevctl stat frames                          all counters since the device was made
  mmapdevctl stat frames --interval 1             a line each second, until interrupted
  mmapdevctl stat frames --interval 0.5 --count 10 --json
                                                  ten lines, each of them JSON

The columns of the lines:
  faults  page    faults that were answered by one folio, or not at all
          huge    faults that were answered by one huge entry of the page table
          around  faults that mapped a page with its neighbours in memory
          failed  touches that ended in SIGBUS or in the out-of-memory handling
  folios  4K large 2M
                  folios brought into memory: of one page, between, and of a huge page
  bytes   read    copied out of the device by read()
          written copied into it by write()
          removed given back by punching and resizing
  memory  held    bytes of memory that the device holds at this moment

What programs do through a mapping is no call: its first touch of a page is a fault, and the others are not
seen here, nor by anybody.";

/// How many lines stand under a heading.
const LINES: u64 = 20;

/// The counters in the order in which they are shown, and what each counts.
const COUNTERS: [(&str, &str); 18] = [
    ("faults", "faults answered by one folio, or not at all"),
    ("huge_faults", "faults answered by one huge entry"),
    (
        "map_pages",
        "faults that mapped a page with its neighbours in memory",
    ),
    (
        "mmap_lock_faults",
        "of all these, those under the lock of the whole address space",
    ),
    (
        "huge_fallbacks",
        "huge faults that had to be answered page by page",
    ),
    ("failed_faults", "touches that failed"),
    ("bus_errors", "of these, those that ended in SIGBUS"),
    (
        "out_of_memory",
        "of these, those that ended in the out-of-memory handling",
    ),
    ("page_mkwrites", "first writes to clean pages"),
    ("folios_added", "folios brought into memory"),
    ("small_folios", "of these, those of one page"),
    ("large_folios", "of these, those between"),
    ("huge_folios", "of these, those that one huge entry maps"),
    ("bytes_added", "bytes of memory brought in"),
    ("bytes_removed", "bytes of memory given back"),
    ("bytes_read", "bytes copied out by read()"),
    ("bytes_written", "bytes copied in by write()"),
    ("events", "events raised"),
];

/// The same with their values.
fn counters(from: &abi::Counters) -> [(&'static str, u64, &'static str); 18] {
    let fields = from.fields();
    COUNTERS.map(|(name, meaning)| {
        let field = fields.iter().find(|(field, _)| *field == name);
        (name, field.expect("a counter of that name").1, meaning)
    })
}

/// A reading of a device: what it has done since it was made, or since another reading.
struct Reading {
    counters: abi::Counters,
    resident: u64,
    size: u64,
}

impl Reading {
    fn take(device: &Device) -> std::io::Result<Self> {
        let info = device.info()?;
        Ok(Self {
            counters: device.counters()?,
            resident: info.resident_bytes,
            size: info.device_size,
        })
    }

    fn json(&self, before: Option<&Self>, seconds: f64) -> Value {
        let mut object = Map::new();
        if before.is_some() {
            object.insert("seconds".into(), seconds.into());
        }
        let earlier = before.map(|reading| counters(&reading.counters));
        for (index, (name, value, _)) in counters(&self.counters).into_iter().enumerate() {
            let since = earlier.as_ref().map_or(0, |all| all[index].1);
            object.insert(name.into(), value.saturating_sub(since).into());
        }
        object.insert("resident_bytes".into(), self.resident.into());
        object.insert("size".into(), self.size.into());
        Value::Object(object)
    }

    /// All counters for people, one in a row.
    fn lines(&self, name: &str) -> String {
        let mut table = Table::new();
        table.heading([name, "since it was made"]);
        for (name, value, meaning) in counters(&self.counters) {
            table.row([name, &value.to_string(), meaning]);
        }
        let now = "bytes of memory held now";
        table.row(["resident_bytes", &self.resident.to_string(), now]);
        table.row(["size", &self.size.to_string(), "bytes in the device"]);
        table.lines().join("\n")
    }

    /// One line for people.
    fn line(&self, before: Option<&Self>) -> String {
        let zero = abi::Counters::default();
        let (now, then) = (
            &self.counters,
            before.map_or(&zero, |reading| &reading.counters),
        );
        let since = |get: fn(&abi::Counters) -> u64| get(now).saturating_sub(get(then));
        let bytes = |get| size::format(since(get));
        columns([
            &since(|c| c.faults).to_string(),
            &since(|c| c.huge_faults).to_string(),
            &since(|c| c.map_pages).to_string(),
            &since(|c| c.failed_faults).to_string(),
            &since(|c| c.small_folios).to_string(),
            &since(|c| c.large_folios).to_string(),
            &since(|c| c.huge_folios).to_string(),
            &bytes(|c| c.bytes_read),
            &bytes(|c| c.bytes_written),
            &bytes(|c| c.bytes_removed),
            &size::format(self.resident),
        ])
    }
}

/// Lines that come one after the other, so that their columns are as wide as was set beforehand.
fn columns(cells: [&str; 11]) -> String {
    const WIDTHS: [usize; 11] = [7, 7, 7, 7, 9, 7, 7, 12, 10, 10, 11];
    let cells = cells.iter().zip(WIDTHS);
    let mut line = String::new();
    for (cell, width) in cells {
        let _ = write!(line, "{cell:>width$}");
    }
    line
}

fn heading() -> String {
    let groups = columns([
        "faults", "", "", "", "folios", "", "", "bytes", "", "", "memory",
    ]);
    let names = columns([
        "page", "huge", "around", "failed", "4K", "large", "2M", "read", "written", "removed",
        "held",
    ]);
    format!("{groups}\n{names}")
}

/// Shows what a device has done: once, or `count` times in lines, or until something ends it.
pub(crate) fn run(
    name: &str,
    interval: Option<Duration>,
    count: Option<u64>,
    json: bool,
) -> Result<(), Failure> {
    let target = Target::new(name);
    let device = Device::open_with(control::node(name), OFlags::RDONLY)
        .map_err(|error| target.open_failed(&error))?;
    let take = || Reading::take(&device).map_err(|error| target.failed(&error));

    let mut last = take()?;
    let mut taken = Instant::now();
    let mut due = taken;
    if json {
        print(&last.json(None, 0.0).to_string())?;
    } else if interval.is_none() {
        print(&last.lines(name))?;
    } else {
        print(&format!("{}\n{}", heading(), last.line(None)))?;
    }
    let Some(interval) = interval else {
        return Ok(());
    };
    for line in 1..count.unwrap_or(u64::MAX) {
        // Counted from the line before's due time, so that what printing takes does not add up.
        due += interval;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let next = take()?;
        let now = Instant::now();
        let seconds = (now - taken).as_secs_f64();
        if json {
            print(&next.json(Some(&last), seconds).to_string())?;
        } else {
            if line % LINES == 0 {
                print(&heading())?;
            }
            print(&next.line(Some(&last)))?;
        }
        (last, taken) = (next, now);
    }
    Ok(())
}
