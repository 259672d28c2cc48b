// SPDX-License-Identifier: GPL-2.0

//! The memory that two virtual machines share, as the memory of a PCI device that both have; and how their programs
//! wait for each other there.

use crate::device::Device;
use crate::mapping::Mapping;
use crate::message_ring::Nap;
use crate::PAGE;
use rustix::fs::OFlags;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// How often a side looks again that waits for the other without a bell.
pub const NAP: Nap = Nap(Duration::from_micros(200));

/// The shared memory, mapped, and which of the two machines this is.
#[derive(Debug)]
pub struct Machines {
    /// Which it is: 0 or 1.
    pub side: usize,
    /// Where the memory was found.
    pub path: PathBuf,
    /// The memory's device.
    pub device: Device,
    /// All of the memory.
    pub mapping: Mapping,
}

impl Machines {
    /// Finds the memory, and maps it.
    pub fn find(side: usize) -> io::Result<Self> {
        assert!(side < 2, "there are two machines");
        let path = find()?;
        let device = Device::open_with(&path, OFlags::RDWR)?;
        let mapping = Mapping::shared(&device, device.size()?)?;
        Ok(Self {
            side,
            path,
            device,
            mapping,
        })
    }

    /// What of the memory is for any use: all but the last page.
    pub fn room(&self) -> Range<usize> {
        0..self.mapping.len() - PAGE
    }

    /// Waits until the other machine's program has come as far as this one, which is at `step` now.
    /// What either has stored before is then seen by the other. Steps only go up.
    pub fn meet(&self, step: u64, limit: Duration) -> io::Result<()> {
        let word = |side: usize| self.mapping.word(self.room().end + 128 * side);
        let deadline = Instant::now() + limit;
        word(self.side).store(step, Ordering::SeqCst);
        while word(1 - self.side).load(Ordering::SeqCst) < step {
            if Instant::now() >= deadline {
                return Err(io::Error::other(format!(
                    "the other machine did not come to step {step} within {limit:?}"
                )));
            }
            thread::sleep(NAP.0);
        }
        Ok(())
    }
}

/// The node of the module's device for the shared memory.
fn find() -> io::Result<PathBuf> {
    let nodes = fs::read_dir("/dev")?.filter_map(|entry| {
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?;
        let is_one = name.starts_with("mmapdev-pci-") && name.ends_with("-bar2");
        is_one.then_some(path)
    });
    let mut nodes: Vec<PathBuf> = nodes.collect();
    nodes.sort();
    if let Some(first) = nodes.into_iter().next() {
        return Ok(first);
    }
    // Without a driver.
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let folder = entry?.path();
        if is_shared_memory(&folder) {
            return Ok(folder.join("resource2_wc"));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        "no PCI device here has memory that is shared (ivshmem)",
    ))
}

fn is_shared_memory(folder: &Path) -> bool {
    let has = |file: &str, id: &str| {
        fs::read_to_string(folder.join(file)).is_ok_and(|text| text.trim() == id)
    };
    has("vendor", "0x1af4") && has("device", "0x1110")
}
