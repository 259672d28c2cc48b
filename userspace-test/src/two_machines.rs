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
use std::cell::Cell;
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
    meeting: Meeting,
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
        let registers = Device::open_with(registers, OFlags::RDWR)?;
        let mut number = [0; 4];
        pread(&registers, &mut number, OWN_NUMBER)?;
        let number = u64::from(u32::from_le_bytes(number));
        let last_page = mapping.len() - PAGE;
        word(&mapping, last_page, side, NUMBER).store(number, Ordering::SeqCst);
        Ok(Self {
            side,
            found,
            path,
            device,
            meeting: Meeting::new(&mapping, last_page, side),
            mapping,
            registers,
        })
    }

    /// What of the memory is for any use: all but the last page.
    pub fn room(&self) -> Range<usize> {
        0..self.mapping.len() - PAGE
    }

    /// Rings the other machine by one of the interrupts that it can be given.
    pub fn ring_by(&self, interrupt: u16) -> io::Result<()> {
        let number = word(&self.mapping, self.room().end, 1 - self.side, NUMBER);
        let other = number.load(Ordering::SeqCst);
        // Whatever the other says: a number that nobody has interrupts nobody.
        let doorbell = ((other as u32) << 16) | u32::from(interrupt);
        pwrite(&self.registers, &doorbell.to_le_bytes(), DOORBELL)?;
        Ok(())
    }

    /// Waits until the other machine's program has come as far as this one, which is at `step` now.
    /// What either has stored before is then seen by the other. Steps only go up.
    ///
    /// The first time it waits for a program that is there now, whatever an earlier one has left in the memory. Where that
    /// one has made room for another since, it had come to this step, or was killed: then the next meeting says so.
    pub fn meet(&self, step: u64, limit: Duration) -> io::Result<()> {
        self.meeting.at(&self.mapping, step, limit)
    }
}

/// Which number of a side's: how far it is; by which its machine is rung; how many programs have been this side, ever;
/// which of the other side's it has seen; and which of these has seen it, too.
const STEP: usize = 0;
const NUMBER: usize = 1;
const PROGRAM: usize = 2;
const SEEN: usize = 3;
const MET: usize = 4;

/// A number that a side says of itself, in a place of the memory that is for that.
fn word(mapping: &Mapping, place: usize, side: usize, which: usize) -> &AtomicU64 {
    mapping.word(place + 128 * side + 8 * which)
}

/// Where two programs wait for each other.
#[derive(Debug)]
struct Meeting {
    place: usize,
    side: usize,
    /// Which program of its side this is: that it has been met can only be said by one that is there now.
    program: u64,
    /// Which of the other's it has met; 0: none.
    met: Cell<u64>,
}

impl Meeting {
    fn new(mapping: &Mapping, place: usize, side: usize) -> Self {
        let word = |which| word(mapping, place, side, which);
        let program = word(PROGRAM).load(Ordering::SeqCst).wrapping_add(1).max(1);
        for said in [STEP, SEEN, MET] {
            word(said).store(0, Ordering::SeqCst);
        }
        // Last: who sees it sees what is said by this program, and not by the one before.
        word(PROGRAM).store(program, Ordering::SeqCst);
        Self {
            place,
            side,
            program,
            met: Cell::new(0),
        }
    }

    fn at(&self, mapping: &Mapping, step: u64, limit: Duration) -> io::Result<()> {
        let deadline = Instant::now() + limit;
        let word = |side, which| word(mapping, self.place, side, which);
        let others = |which| word(1 - self.side, which).load(Ordering::SeqCst);
        word(self.side, STEP).store(step, Ordering::SeqCst);
        loop {
            let program = others(PROGRAM);
            if self.met.get() == 0 && program != 0 {
                word(self.side, SEEN).store(program, Ordering::SeqCst);
                if others(SEEN) == self.program {
                    word(self.side, MET).store(program, Ordering::SeqCst);
                    self.met.set(program);
                }
            }
            // It does not go on before the other knows, too: that it has made room for another is then no secret.
            let is_here = others(STEP) >= step && others(MET) == self.program;
            if self.met.get() != 0 && (is_here || program != self.met.get()) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(io::Error::other(format!(
                    "the other machine did not come to step {step} within {limit:?}"
                )));
            }
            thread::sleep(NAP);
        }
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

#[cfg(test)]
mod tests {
    use super::{Mapping, Meeting};
    use crate::PAGE;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(60);
    const STEPS: u64 = 20;

    /// Two programs that meet, each of which counts how far it is.
    fn run(mapping: &Mapping, delays: [u64; 2]) {
        let come = [AtomicU64::new(0), AtomicU64::new(0)];
        let side = |side: usize| {
            thread::sleep(Duration::from_millis(delays[side]));
            let meeting = Meeting::new(mapping, 0, side);
            for step in 1..=STEPS {
                come[side].store(step, Ordering::SeqCst);
                meeting.at(mapping, step, LONG).unwrap();
                let other = come[1 - side].load(Ordering::SeqCst);
                assert!(other >= step, "side {side} at {step}, the other at {other}");
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| side(0));
            side(1);
        });
    }

    #[test]
    fn programs_wait_for_each_other_each_time_they_run() {
        let mapping = Mapping::anonymous(PAGE).unwrap();
        for delays in [[0, 0], [0, 20], [20, 0], [0, 0], [5, 0]] {
            run(&mapping, delays);
        }
    }

    #[test]
    fn a_program_that_was_there_before_is_not_met() {
        let mapping = Mapping::anonymous(PAGE).unwrap();
        run(&mapping, [0, 0]);
        let again = Meeting::new(&mapping, 0, 0);
        let short = Duration::from_millis(5);
        again.at(&mapping, 1, short).unwrap_err();
        // Nor one that has met nobody.
        let other = Meeting::new(&mapping, 0, 1);
        other.at(&mapping, 1, short).unwrap_err();
    }

    #[test]
    fn who_is_still_at_the_last_step_when_the_other_runs_again_comes_to_its_end() {
        let mapping = Mapping::anonymous(PAGE).unwrap();
        thread::scope(|scope| {
            let meeting = Meeting::new(&mapping, 0, 0);
            scope.spawn(|| {
                let late = Meeting::new(&mapping, 0, 1);
                late.at(&mapping, 1, LONG).unwrap();
                // The other was there and has gone, unseen.
                while super::word(&mapping, 0, 0, super::PROGRAM).load(Ordering::SeqCst) == 1 {
                    thread::yield_now();
                }
                late.at(&mapping, 2, LONG).unwrap();
            });
            meeting.at(&mapping, 1, LONG).unwrap();
            let _again = Meeting::new(&mapping, 0, 0);
        });
    }
}
