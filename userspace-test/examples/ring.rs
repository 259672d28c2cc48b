// SPDX-License-Identifier: GPL-2.0

//! Two processes and a ring of messages in the memory of a device, each of which is read where it was written. Run it as
//! root; the other process is this program again.

#![forbid(unsafe_code)]

use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::message_ring::{self, Consumer, Producer};
use mmapdev_userspace::MIB;
use rustix::fs::OFlags;
use std::io;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const NAME: &str = "ring-example";
const MESSAGES: u64 = 10_000;
const LEN: usize = 8000;

fn main() -> io::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("consume") {
        return consume();
    }
    let control = Control::open()?;
    let device = control.create_and_open(NAME, MIB as u64)?;
    // An empty ring, before anybody comes to it.
    message_ring::create(&Mapping::shared(&device, MIB)?, 0..MIB)?;
    let mut consumer = Command::new(std::env::current_exe()?)
        .arg("consume")
        .spawn()?;
    let produced = produce();
    let consumed = consumer.wait()?;
    control.destroy(NAME)?;
    produced?;
    match consumed.success() {
        true => Ok(()),
        false => Err(io::Error::other("the consumer failed")),
    }
}

/// The device, and a mapping of it. Each process opens it for itself: the bell is a part of the open file.
fn open() -> io::Result<(Device, Mapping)> {
    let device = Device::open_with(control::node(NAME), OFlags::RDWR)?;
    let mapping = Mapping::shared(&device, MIB)?;
    Ok((device, mapping))
}

fn produce() -> io::Result<()> {
    let (bell, mapping) = open()?;
    let mut producer = Producer::attach(&mapping, 0..MIB)?;
    for number in 0..MESSAGES {
        // Sleeps while the ring is full.
        in_time(producer.wait(LEN, &bell, deadline())?)?;
        let slot = producer.reserve(LEN)?.expect("room was waited for");
        for word in slot.words() {
            word.store(number, Ordering::Relaxed);
        }
        // Now it is the consumer's, which is rung if it sleeps.
        slot.commit();
        producer.wake(&bell)?;
    }
    Ok(())
}

fn consume() -> io::Result<()> {
    let (bell, mapping) = open()?;
    let mut consumer = Consumer::attach(&mapping, 0..MIB)?;
    let mut right = 0;
    for number in 0..MESSAGES {
        // Sleeps while the ring is empty.
        in_time(consumer.wait(&bell, deadline())?)?;
        let message = consumer.next()?.expect("a message was waited for");
        let mut words = message.words().iter();
        right += u64::from(words.all(|word| word.load(Ordering::Relaxed) == number));
        // Now its room is the producer's, which is rung if it sleeps.
        message.release();
        consumer.wake(&bell)?;
    }
    let counters = bell.counters()?;
    let copied = counters.bytes_read + counters.bytes_written;
    println!("{right} of {MESSAGES} messages as they were sent, {copied} bytes copied");
    Ok(())
}

/// The other process may be killed; another that takes its place goes on where it was.
fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn in_time(is_so: bool) -> io::Result<()> {
    match is_so {
        true => Ok(()),
        false => Err(io::ErrorKind::TimedOut.into()),
    }
}
