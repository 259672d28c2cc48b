// SPDX-License-Identifier: GPL-2.0

//! What one of the two machines does.

use crate::results::{Side, Transfer};
use crate::{Run, MESSAGE};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::idle::Idle;
use mmapdev_userspace::mapping::{wait_for, Mapping};
use mmapdev_userspace::message_ring::{create, Bell, Consumer, Producer, LINE};
use mmapdev_userspace::module::{self, Loaded};
use mmapdev_userspace::two_machines::Machines;
use std::cell::Cell;
use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The ways, and what `demo` and `bench` call them.
pub(crate) const RING: &str = "ring";
pub(crate) const TCP: &str = "TCP";
pub(crate) const TCP_LARGE: &str = "TCP, large frames";
/// No way: what it takes to make or check the data alone.
pub(crate) const ALONE: &str = "alone";

/// How many messages the other side is told of at once.
const BATCH: u64 = 16;
/// How long the machines wait for each other: the other may still have to boot.
const LIMIT: Duration = Duration::from_secs(300);
const PORT: u16 = 7;
const ROUNDS: u64 = 1000;

/// What the machine has.
struct Machine {
    machines: Machines,
    idle: Option<Idle>,
    step: Cell<u64>,
    /// Says of a message that was received whether it is the one of that number.
    check: fn(&[AtomicU64], u64) -> bool,
}

pub(crate) fn run(options: &Run) -> io::Result<Side> {
    thread::sleep(Duration::from_secs(options.settle));
    let loaded = match module::is_loaded() {
        true => None,
        false => Some(Loaded::with("devices=0")?),
    };
    // Its clock counts from here on what its CPU does, also while it waits for the other.
    let idle = options
        .count
        .then(|| Idle::start(Duration::from_millis(400)))
        .transpose()?;
    let machine = Machine {
        machines: Machines::find(options.side.into())?,
        idle,
        step: Cell::new(0),
        check: if options.count { adds_up } else { is_right },
    };
    let mut side = Side {
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        memory: machine.machines.path.clone(),
        size: machine.machines.mapping.len() as u64,
        ..Side::default()
    };
    side.seen = [machine.see()?, ROUNDS];
    side.transfers.push(machine.alone(options.tcp)?);
    side.transfers.push(machine.by_ring(options.ring)?);
    for (way, largest) in [(TCP, 1500), (TCP_LARGE, 65_535)] {
        side.transfers
            .push(machine.by_tcp(way, largest, options.tcp)?);
    }
    machine.meet()?;
    drop(machine);
    if let Some(module) = loaded {
        module.unload()?;
    }
    Ok(side)
}

impl Machine {
    fn meet(&self) -> io::Result<()> {
        self.step.set(self.step.get() + 1);
        self.machines.meet(self.step.get(), LIMIT)
    }

    fn sends(&self) -> bool {
        self.machines.side == 0
    }

    /// Each waits for the other's number by loads alone, and answers by a store.
    fn see(&self) -> io::Result<u64> {
        let word = |side: usize| self.machines.mapping.word(128 * side);
        word(self.machines.side).store(0, Ordering::SeqCst);
        self.meet()?;
        let deadline = Instant::now() + LIMIT / 2;
        let (mine, other) = (word(self.machines.side), word(1 - self.machines.side));
        let mut seen = 0;
        for round in 1..=ROUNDS {
            if self.sends() {
                mine.store(round, Ordering::SeqCst);
            }
            if !wait_for(other, round, deadline) {
                break;
            }
            if !self.sends() {
                mine.store(round, Ordering::SeqCst);
            }
            seen += 1;
        }
        self.meet()?;
        Ok(seen)
    }

    /// Takes the time and the instructions of something.
    fn transfer(
        &self,
        way: &str,
        bytes: u64,
        body: impl FnOnce(&Counted) -> io::Result<u64>,
    ) -> io::Result<Transfer> {
        let bell = Counted {
            machines: &self.machines,
            sleeps: Cell::new(0),
        };
        self.meet()?;
        let copied = copied(&self.machines.device);
        let begun = Instant::now();
        let moment = self.idle.as_ref().map(Idle::now);
        let wrong = body(&bell)?;
        let busy = self.idle.as_ref().zip(moment);
        let busy = busy.map(|(idle, moment)| idle.busy_since(moment));
        let time = begun.elapsed().as_nanos() as f64;
        Ok(Transfer {
            way: way.to_string(),
            bytes,
            wrong,
            waits: bell.sleeps.get(),
            time,
            busy: busy.unwrap_or(time),
            copied: copied.and_then(|before| Some(self::copied(&self.machines.device)? - before)),
        })
    }

    /// Makes or checks the data in memory of this machine alone.
    fn alone(&self, bytes: u64) -> io::Result<Transfer> {
        let buffer = Mapping::anonymous(MESSAGE)?;
        let words = buffer.words(0, MESSAGE / 8);
        fill(words, 0);
        self.transfer(ALONE, bytes, |_| {
            let mut wrong = 0;
            for number in 0..messages(bytes) {
                if self.sends() {
                    fill(words, number);
                } else {
                    wrong += u64::from(!(self.check)(words, 0));
                }
            }
            Ok(wrong)
        })
    }

    fn by_ring(&self, bytes: u64) -> io::Result<Transfer> {
        let (mapping, range) = (&self.machines.mapping, self.machines.room());
        if self.sends() {
            create(mapping, range.clone())?;
        }
        self.meet()?;
        let deadline = Instant::now() + LIMIT;
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the other side stands still");
        if self.sends() {
            let mut producer = Producer::attach(mapping, range)?;
            self.transfer(RING, bytes, |bell| {
                for number in 0..messages(bytes) {
                    if !producer.wait(MESSAGE, bell, deadline)? {
                        return Err(late());
                    }
                    let slot = producer.reserve(MESSAGE)?.expect("room was waited for");
                    fill(slot.words(), number);
                    slot.commit();
                    if number % BATCH == BATCH - 1 {
                        producer.wake(bell)?;
                    }
                }
                producer.wake(bell)?;
                Ok(0)
            })
        } else {
            let mut consumer = Consumer::attach(mapping, range)?;
            self.transfer(RING, bytes, |bell| {
                let mut wrong = 0;
                for number in 0..messages(bytes) {
                    if !consumer.wait(bell, deadline)? {
                        return Err(late());
                    }
                    let message = consumer.next()?.expect("a message was waited for");
                    let right = message.len() == MESSAGE && (self.check)(message.words(), number);
                    wrong += u64::from(!right);
                    message.release();
                    if number % BATCH == BATCH - 1 {
                        consumer.wake(bell)?;
                    }
                }
                Ok(wrong)
            })
        }
    }

    /// The same data over a socket, in frames of at most so many bytes.
    fn by_tcp(&self, way: &str, largest: u32, bytes: u64) -> io::Result<Transfer> {
        fs::write("/sys/class/net/eth0/mtu", largest.to_string())?;
        let buffer = Mapping::anonymous(MESSAGE)?;
        let words = buffer.words(0, MESSAGE / 8);
        fill(words, 0);
        if self.sends() {
            self.meet()?;
            let socket = TcpStream::connect(("10.0.0.2", PORT))?;
            self.transfer(way, bytes, |_| {
                for number in 0..messages(bytes) {
                    fill(words, number);
                    let mut sent = 0;
                    while sent < MESSAGE {
                        let flags = rustix::net::SendFlags::NOSIGNAL;
                        sent += buffer.send_to(&socket, sent, MESSAGE - sent, flags)?;
                    }
                }
                Ok(0)
            })
        } else {
            let listener = TcpListener::bind(("10.0.0.2", PORT))?;
            self.meet()?;
            let (socket, _) = listener.accept()?;
            self.transfer(way, bytes, |_| {
                let mut wrong = 0;
                for number in 0..messages(bytes) {
                    let mut received = 0;
                    while received < MESSAGE {
                        match buffer.receive_from(&socket, received, MESSAGE - received)? {
                            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                            len => received += len,
                        }
                    }
                    wrong += u64::from(!(self.check)(words, number));
                }
                Ok(wrong)
            })
        }
    }
}

/// How many messages so much data is.
fn messages(bytes: u64) -> u64 {
    bytes / MESSAGE as u64
}

/// What the cache lines of a message go up by, odd: no two of a message, and none at the same place of two messages, are
/// alike. It must be cheap to make and to check, as both are a part of what is measured.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
const WORDS_A_LINE: usize = LINE / 8;

fn first(number: u64) -> u64 {
    (number + 1).wrapping_mul(0xD134_2543_DE82_EF95)
}

/// Makes a message.
fn fill(words: &[AtomicU64], number: u64) {
    let mut value = first(number);
    for line in words.chunks_exact(WORDS_A_LINE) {
        for word in line {
            word.store(value, Ordering::Relaxed);
        }
        value = value.wrapping_add(STEP);
    }
}

/// Checks every word of a message.
fn is_right(words: &[AtomicU64], number: u64) -> bool {
    let mut value = first(number);
    words.chunks_exact(WORDS_A_LINE).all(|line| {
        let right = line
            .iter()
            .all(|word| word.load(Ordering::Relaxed) == value);
        value = value.wrapping_add(STEP);
        right
    })
}

/// Checks what the words of a message add up to, which takes fewer instructions.
fn adds_up(words: &[AtomicU64], number: u64) -> bool {
    let sum = |sum: u64, word: &AtomicU64| sum.wrapping_add(word.load(Ordering::Relaxed));
    let lines = (words.len() / WORDS_A_LINE) as u64;
    let steps = (lines * (lines - 1) / 2).wrapping_mul(STEP);
    let line = first(number).wrapping_mul(lines).wrapping_add(steps);
    words.iter().fold(0, sum) == line.wrapping_mul(WORDS_A_LINE as u64)
}

/// The bytes that the module has copied out of and into a device; `None` where it is not the module's.
fn copied(device: &Device) -> Option<u64> {
    let counters = device.counters().ok()?;
    Some(counters.bytes_read + counters.bytes_written)
}

/// The other machine's bell, and how often it was slept for.
struct Counted<'a> {
    machines: &'a Machines,
    sleeps: Cell<u64>,
}

impl Bell for Counted<'_> {
    fn ring(&self) -> io::Result<()> {
        self.machines.ring()
    }

    fn sleep(&self, limit: Duration) -> io::Result<()> {
        self.sleeps.set(self.sleeps.get() + 1);
        self.machines.sleep(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::{adds_up, fill, is_right, WORDS_A_LINE};
    use std::iter;
    use std::sync::atomic::{AtomicU64, Ordering};

    const WORDS: usize = 16 * WORDS_A_LINE;

    /// A message in memory, as it is made.
    fn message(number: u64) -> Vec<AtomicU64> {
        let words: Vec<AtomicU64> = iter::repeat_with(AtomicU64::default).take(WORDS).collect();
        fill(&words, number);
        words
    }

    #[test]
    fn a_message_is_the_one_that_was_made_and_no_other() {
        for check in [is_right, adds_up] {
            for number in 0..100 {
                let words = message(number);
                assert!(check(&words, number));
                assert!(!check(&words, number + 1));
            }
        }
    }

    #[test]
    fn one_bit_of_any_word_that_changed_is_found() {
        let words = message(7);
        for check in [is_right, adds_up] {
            for (at, word) in words.iter().enumerate() {
                let bit = 1 << (at % 64);
                word.fetch_xor(bit, Ordering::Relaxed);
                assert!(!check(&words, 7), "word {at}");
                word.fetch_xor(bit, Ordering::Relaxed);
            }
            assert!(check(&words, 7));
        }
    }

    #[test]
    fn words_that_changed_places_are_found() {
        let words = message(7);
        let (one, other) = (words[0].load(Ordering::Relaxed), &words[WORDS_A_LINE]);
        words[0].store(other.swap(one, Ordering::Relaxed), Ordering::Relaxed);
        assert!(!is_right(&words, 7));
    }
}
