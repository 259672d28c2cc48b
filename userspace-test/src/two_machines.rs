// SPDX-License-Identifier: GPL-2.0

//! The memory that two virtual machines share (ivshmem), as the module's devices of the PCI device that both have; and how
//! their programs wait for each other.

use crate::device::Device;
use crate::mapping::Mapping;
use crate::message_ring::Bell;
use crate::pci::PciDevice;
use crate::PAGE;
use rustix::fs::OFlags;
use rustix::io::{pread, pwrite};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often a side looks whether the other has come, which it cannot be told before.
const NAP: Duration = Duration::from_micros(200);

const VENDOR: u16 = 0x1AF4;
const SHARED_MEMORY: u16 = 0x1110;

/// Of the registers: the number that the machine has among those that share the memory.
const OWN_NUMBER: u64 = 8;
/// Of the registers: interrupts the machine whose number is in the upper half, by the vector in the lower.
const DOORBELL: u64 = 12;

/// The shared memory, mapped, and which of the two machines this is.
#[derive(Debug)]
pub struct Machines {
    /// Which it is: 0 or 1.
    pub side: usize,
    /// The PCI device.
    pub found: PciDevice,
    /// The memory's node.
    pub path: String,
    /// The memory.
    pub device: Device,
    /// All of the memory.
    pub mapping: Mapping,
    registers: Device,
}

impl Machines {
    /// Finds the memory, and maps it.
    pub fn find(side: usize) -> io::Result<Self> {
        assert!(side < 2, "there are two machines");
        let found = PciDevice::all(VENDOR, SHARED_MEMORY)?.into_iter().next();
        let found = found.ok_or_else(|| {
            let sentence = "no PCI device here has memory that is shared (ivshmem)";
            io::Error::new(io::ErrorKind::NotFound, sentence)
        })?;
        let [registers, path] = [0, 2].map(|bar| format!("/dev/mmapdev-{}", found.name_of(bar)));
        let device = Device::open_with(&path, OFlags::RDWR)?;
        let mapping = Mapping::shared(&device, device.size()?)?;
        let machines = Self {
            side,
            found,
            path,
            device,
            mapping,
            registers: Device::open_with(registers, OFlags::RDWR)?,
        };
        let mut number = [0; 4];
        pread(&machines.registers, &mut number, OWN_NUMBER)?;
        let number = u64::from(u32::from_le_bytes(number));
        machines.word(side, 1).store(number, Ordering::SeqCst);
        Ok(machines)
    }

    /// What of the memory is for any use: all but the last page.
    pub fn room(&self) -> Range<usize> {
        0..self.mapping.len() - PAGE
    }

    /// What a side says of itself: how far it is, and its number.
    fn word(&self, side: usize, index: usize) -> &AtomicU64 {
        self.mapping.word(self.room().end + 128 * side + 8 * index)
    }

    /// Rings the other machine by one of the interrupts that it can be given.
    pub fn ring_by(&self, interrupt: u16) -> io::Result<()> {
        let other = self.word(1 - self.side, 1).load(Ordering::SeqCst);
        // Whatever the other says: a number that nobody has interrupts nobody.
        let doorbell = ((other as u32) << 16) | u32::from(interrupt);
        pwrite(&self.registers, &doorbell.to_le_bytes(), DOORBELL)?;
        Ok(())
    }

    /// Waits until the other machine's program has come as far as this one, which is at `step` now.
    /// What either has stored before is then seen by the other. Steps only go up.
    pub fn meet(&self, step: u64, limit: Duration) -> io::Result<()> {
        let deadline = Instant::now() + limit;
        self.word(self.side, 0).store(step, Ordering::SeqCst);
        while self.word(1 - self.side, 0).load(Ordering::SeqCst) < step {
            if Instant::now() >= deadline {
                return Err(io::Error::other(format!(
                    "the other machine did not come to step {step} within {limit:?}"
                )));
            }
            thread::sleep(NAP);
        }
        Ok(())
    }
}

/// Rings by an interrupt of the other machine, which raises an event of its device, once the two have met.
impl Bell for Machines {
    fn ring(&self) -> io::Result<()> {
        self.ring_by(0)
    }

    fn sleep(&self, limit: Duration) -> io::Result<()> {
        self.device.sleep(limit)
    }
}
