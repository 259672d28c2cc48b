// SPDX-License-Identifier: GPL-2.0

//! PCI devices as sysfs has them: what they are, and what driver they have.
//!
//! Reference: <https://docs.kernel.org/PCI/sysfs-pci.html>

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const DEVICES: &str = "/sys/bus/pci/devices";
const DRIVER: &str = "/sys/bus/pci/drivers/mmapdev";

/// A PCI device, by its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciDevice(String);

/// A BAR: where it is, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// The address of its first byte.
    pub start: u64,
    /// How many bytes it has.
    pub len: u64,
    /// Whether it is memory; else it is I/O ports.
    pub is_memory: bool,
}

impl PciDevice {
    /// Returns the device at an address of the bus, such as `0000:00:1f.2`, whether it is there or not.
    pub fn at(address: &str) -> Self {
        Self(address.to_string())
    }

    /// Returns all devices of a vendor and a number, in the order of their addresses.
    pub fn all(vendor: u16, number: u16) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(DEVICES)? {
            let device = Self(entry?.file_name().to_string_lossy().into_owned());
            if device.number("vendor")? == u64::from(vendor)
                && device.number("device")? == u64::from(number)
            {
                found.push(device);
            }
        }
        found.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(found)
    }

    /// Returns its address.
    pub fn address(&self) -> &str {
        &self.0
    }

    /// Returns the file of one of its attributes.
    pub fn path(&self, attribute: &str) -> PathBuf {
        Path::new(DEVICES).join(&self.0).join(attribute)
    }

    /// Reads an attribute.
    pub fn read(&self, attribute: &str) -> io::Result<String> {
        Ok(fs::read_to_string(self.path(attribute))?.trim().to_string())
    }

    /// Writes an attribute.
    pub fn write(&self, attribute: &str, value: &str) -> io::Result<()> {
        fs::write(self.path(attribute), value)
    }

    fn number(&self, attribute: &str) -> io::Result<u64> {
        parse(&self.read(attribute)?)
    }

    /// Returns whether it is on the bus.
    pub fn is_there(&self) -> bool {
        self.path("").exists()
    }

    /// Returns what a BAR is; `None` where there is none.
    pub fn bar(&self, index: usize) -> io::Result<Option<Bar>> {
        const IORESOURCE_MEM: u64 = 0x200;
        let text = self.read("resource")?;
        let line = text.lines().nth(index).unwrap_or_default();
        let numbers: Vec<u64> = line.split(' ').map(parse).collect::<io::Result<_>>()?;
        match numbers[..] {
            [start, end, flags] if flags != 0 => Ok(Some(Bar {
                start,
                len: end - start + 1,
                is_memory: flags & IORESOURCE_MEM != 0,
            })),
            [_, _, _] => Ok(None),
            _ => Err(io::Error::other(format!("a resource is {line:?}"))),
        }
    }

    /// Returns the name that the module gives a BAR.
    pub fn name_of(&self, bar: usize) -> String {
        format!("pci-{}-bar{bar}", self.0)
    }

    /// Has the module's driver bind it, whatever it is (`driver_override`). Fails as the driver does.
    pub fn bind(&self) -> io::Result<()> {
        self.write("driver_override", "mmapdev")?;
        let result = fs::write(Path::new(DRIVER).join("bind"), &self.0);
        self.write("driver_override", "\n")?;
        result
    }

    /// Has the module's driver let go of it.
    pub fn unbind(&self) -> io::Result<()> {
        fs::write(Path::new(DRIVER).join("unbind"), &self.0)
    }

    /// Returns whether it is the module's driver that it has.
    pub fn is_bound(&self) -> bool {
        Path::new(DRIVER).join(&self.0).exists()
    }

    /// Waits until an attribute has a value, as the kernel does some things in its own time.
    pub fn wait_for(&self, attribute: &str, value: &str, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        loop {
            let now = self.read(attribute)?;
            if now == value {
                return Ok(());
            }
            if Instant::now() > end {
                let words = format!("{attribute} of {} is {now}, not {value}", self.0);
                return Err(io::Error::new(io::ErrorKind::TimedOut, words));
            }
            std::thread::yield_now();
        }
    }
}

fn parse(text: &str) -> io::Result<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(io::Error::other)
}

/// Returns how the kernel's record has an address range mapped: each entry's words, such as `write-back`, in the order of
/// `pat_memtype_list`.
pub fn memory_types(start: u64, len: u64) -> io::Result<Vec<String>> {
    let text = fs::read_to_string("/sys/kernel/debug/x86/pat_memtype_list")?;
    Ok(types_in(&text, start, start + len))
}

fn types_in(text: &str, start: u64, end: u64) -> Vec<String> {
    let entries = text.lines().filter_map(|line| {
        let (range, words) = line.strip_prefix("PAT: [mem ")?.split_once("] ")?;
        let (first, last) = range.split_once('-')?;
        Some((parse(first).ok()?, parse(last).ok()?, words.to_string()))
    });
    entries
        .filter(|&(first, last, _)| first < end && start < last)
        .map(|(_, _, words)| words)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::types_in;

    #[test]
    fn a_range_has_the_types_of_what_overlaps_it() {
        let text = "\
PAT memtype list:
PAT: [mem 0x0000000000001000-0x0000000000003000] write-back
PAT: [mem 0x0000000000003000-0x0000000000004000] uncached-minus
";
        assert_eq!(types_in(text, 0x2fff, 0x3000), ["write-back"]);
        assert_eq!(types_in(text, 0, 0x1000), [""; 0]);
        assert_eq!(
            types_in(text, 0x2000, 0x9000),
            ["write-back", "uncached-minus"]
        );
    }
}
