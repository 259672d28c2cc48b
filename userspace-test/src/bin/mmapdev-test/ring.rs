// SPDX-License-Identifier: GPL-2.0

//! The ring of messages over a device: two processes, of which neither trusts the other, and no copy between them.

use crate::{assert_errno, wait_for, Test};
use mmapdev_userspace::child::{Child, Outcome};
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::{self, Device};
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::message_ring::{create, Bell, Consumer, Error, Producer};
use mmapdev_userspace::random::Random;
use mmapdev_userspace::{slowness, KIB, MIB};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process;
use rustix::time::{clock_gettime, ClockId};
use std::fs::File;
use std::io;
use std::iter;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const SMALL: &str = "huge=0 size_mib=1";
const HUGE: &str = "huge=1 size_mib=4";

pub(crate) const TESTS: &[Test] = &[
    Test::with(
        "a_ring_between_two_processes_keeps_every_byte",
        SMALL,
        || keeps_every_byte(device::FIRST, 0..MIB, 8 * MIB),
    ),
    Test::with(
        "a_ring_in_a_huge_page_keeps_every_byte",
        HUGE,
        // Across two of them.
        || keeps_every_byte(device::FIRST, MIB..3 * MIB, 8 * MIB),
    ),
    Test::with(
        "a_ring_in_a_device_of_a_file_keeps_every_byte",
        "devices=0",
        || {
            let mut options = File::options();
            let options = options.read(true).write(true).create(true).truncate(true);
            let file = options.open("/mnt/disk/mmapdev-ring")?;
            file.set_len(MIB as u64)?;
            Control::open()?.create(control::file("ring", &file, 0, 0)?)?;
            keeps_every_byte(control::node("ring"), 0..MIB, 8 * MIB)
        },
    ),
    Test::with("a_ring_of_few_lines_keeps_every_byte", SMALL, || {
        keeps_every_byte(device::FIRST, 0..1024, 256 * KIB)
    }),
    Test::with("two_rings_in_one_device_are_a_dialogue", SMALL, || {
        const TURNS: u64 = 2000;
        let (there, back) = (0..16 * KIB, 16 * KIB..32 * KIB);
        let (bell, mapping) = open(MIB)?;
        create(&mapping, there.clone())?;
        create(&mapping, back.clone())?;
        let child = Child::run(|| {
            let answer = || -> io::Result<()> {
                let (bell, mapping) = open(MIB)?;
                let mut questions = Consumer::attach(&mapping, there.clone())?;
                let mut answers = Producer::attach(&mapping, back.clone())?;
                for _ in 0..TURNS {
                    assert!(questions.wait(&Prompt(&bell), far())?);
                    let question = questions.receive()?.expect("a question");
                    assert!(answers.send(&question)?);
                    answers.wake(&bell)?;
                }
                Ok(())
            };
            answer().expect("answers");
            Vec::new()
        })?;
        let mut questions = Producer::attach(&mapping, there.clone())?;
        let mut answers = Consumer::attach(&mapping, back.clone())?;
        for turn in 0..TURNS {
            assert!(questions.send(&turn.to_ne_bytes())?);
            questions.wake(&bell)?;
            assert!(answers.wait(&Prompt(&bell), far())?);
            assert_eq!(answers.receive()?.as_deref(), Some(&turn.to_ne_bytes()[..]));
        }
        child.join();
        Ok(())
    }),
    Test::with("a_consumer_that_waits_does_not_compute", SMALL, || {
        let pause = slowness() * Duration::from_millis(500);
        let (bell, mapping) = open(MIB)?;
        create(&mapping, 0..MIB)?;
        let mut consumer = Consumer::attach(&mapping, 0..MIB)?;
        assert!(consumer.wake(&bell)?, "being new");
        let before = bell.counters()?.events;
        let child = Child::run(|| {
            let send = || -> io::Result<bool> {
                let (bell, mapping) = open(MIB)?;
                let mut producer = Producer::attach(&mapping, 0..MIB)?;
                std::thread::sleep(pause);
                producer.send(b"late")?;
                producer.wake(&bell)
            };
            vec![u8::from(send().expect("sends"))]
        })?;
        let (begun, computed) = (Instant::now(), cpu_time());
        assert!(consumer.wait(&bell, far())?);
        let (waited, computed) = (begun.elapsed(), cpu_time() - computed);
        assert_eq!(consumer.receive()?.as_deref(), Some(&b"late"[..]));
        assert_eq!(child.join(), [1], "the bell was rung");
        assert_eq!(bell.counters()?.events - before, 1, "once");
        assert!(waited < pause + soon(), "{waited:?}");
        // Where it did not sleep, the two are the same.
        assert!(computed < waited / 4, "{computed:?} of {waited:?}");
        Ok(())
    }),
    Test::with("nobody_rings_while_nobody_sleeps", SMALL, || {
        let (bell, mapping) = open(MIB)?;
        create(&mapping, 0..MIB)?;
        let mut producer = Producer::attach(&mapping, 0..MIB)?;
        let mut consumer = Consumer::attach(&mapping, 0..MIB)?;
        assert!(producer.wake(&bell)? && consumer.wake(&bell)?, "being new");
        let before = bell.counters()?.events;
        for number in 0..10_000u64 {
            assert!(producer.send(&number.to_ne_bytes())?);
            assert!(!producer.wake(&bell)?);
            assert!(consumer.wait(&bell, far())?);
            assert!(consumer.receive()?.is_some());
            assert!(!consumer.wake(&bell)?);
        }
        assert_eq!(bell.counters()?.events, before);
        Ok(())
    }),
    Test::with(
        "who_is_killed_before_it_rings_has_a_successor_that_does",
        SMALL,
        || {
            /// Where the consumer says that it sleeps, by the library's text.
            const CONSUMER_SLEEPS: usize = 384;
            let (bell, mapping) = open(MIB)?;
            create(&mapping, 0..MIB)?;
            let consumer = Child::run(|| {
                let consume = || -> io::Result<()> {
                    let (bell, mapping) = open(MIB)?;
                    let mut consumer = Consumer::attach(&mapping, 0..MIB)?;
                    // So that it is not woken by itself.
                    consumer.wake(&bell)?;
                    bell.take_events()?;
                    assert!(consumer.wait(&Prompt(&bell), far())?);
                    assert_eq!(consumer.receive()?.as_deref(), Some(&b"last words"[..]));
                    Ok(())
                };
                consume().expect("consumes");
                Vec::new()
            })?;
            let sleeps = mapping.word(CONSUMER_SLEEPS);
            wait_for(sleeps, 1);
            let killed = Child::run(|| {
                let mut producer = Producer::attach(&mapping, 0..MIB).expect("the ring");
                producer.send(b"last words").expect("room");
                producer.wake(&Fatal).expect("does not come to that");
                Vec::new()
            })?;
            assert_eq!(killed.wait(None)?, Outcome::Killed(9));
            // The consumer sleeps, and nobody could know.
            assert_eq!(sleeps.load(Ordering::SeqCst), 0);
            let mut successor = Producer::attach(&mapping, 0..MIB)?;
            assert!(successor.wake(&bell)?);
            consumer.join();
            Ok(())
        },
    ),
    Test::with("a_consumer_that_is_killed_has_a_successor", SMALL, || {
        const MESSAGES: u64 = 2000;
        let (bell, mapping) = open(MIB)?;
        create(&mapping, 0..16 * KIB)?;
        let mut producer = Producer::attach(&mapping, 0..16 * KIB)?;
        let consume = |from: u64| -> io::Result<Child> {
            Child::run(move || {
                let consume = || -> io::Result<()> {
                    let (bell, mapping) = open(MIB)?;
                    let mut consumer = Consumer::attach(&mapping, 0..16 * KIB)?;
                    for number in from..MESSAGES {
                        assert!(consumer.wait(&Prompt(&bell), far())?);
                        let message = consumer.next()?.expect("a message");
                        assert_eq!(message.to_vec(), number.to_ne_bytes());
                        if number == MESSAGES / 2 && from == 0 {
                            // Before it is released.
                            process::kill_process(process::getpid(), process::Signal::KILL)?;
                        }
                        message.release();
                        consumer.wake(&bell)?;
                    }
                    Ok(())
                };
                consume().expect("consumes");
                Vec::new()
            })
        };
        let mut child = Some(consume(0)?);
        let mut is_first = true;
        for number in 0..MESSAGES {
            let bytes = number.to_ne_bytes();
            let mut sent = false;
            while !sent {
                sent = producer.send(&bytes)?;
                producer.wake(&bell)?;
                // The successor may not have come to open it yet.
                if !sent && is_first && number > MESSAGES / 2 && bell.info()?.open_files == 1 {
                    // The ring is full, and nobody is there.
                    is_first = false;
                    let killed = child.take().expect("the first").wait(None)?;
                    assert!(matches!(killed, Outcome::Killed(9)), "{killed:?}");
                    child = Some(consume(MESSAGES / 2)?);
                }
                if !sent {
                    let soon = Instant::now() + Duration::from_millis(20);
                    producer.wait(bytes.len(), &bell, soon)?;
                }
            }
        }
        child.expect("the second").join();
        Ok(())
    }),
    Test::with("a_process_that_breaks_the_ring_is_found_out", SMALL, || {
        let (_bell, mapping) = open(MIB)?;
        let range = 0..8 * KIB;
        // How much was written and how much was read, where the library's text says.
        for (number, at) in [("written", 128), ("read", 256)] {
            for value in [1, 8 * KIB as u64, 1 << 63, u64::MAX - 63] {
                create(&mapping, range.clone())?;
                let mut producer = Producer::attach(&mapping, range.clone())?;
                let mut consumer = Consumer::attach(&mapping, range.clone())?;
                let child = Child::run(|| {
                    let (_bell, mapping) = open(MIB).expect("the device");
                    mapping.word(at).store(value, Ordering::Relaxed);
                    Vec::new()
                })?;
                child.join();
                let found = if number == "written" {
                    consumer.receive().map(drop)
                } else {
                    // The producer looks when it has no more room.
                    iter::repeat_with(|| producer.send(b"and on"))
                        .find(|sent| *sent != Ok(true))
                        .expect("it ends")
                        .map(drop)
                };
                let is_broken = matches!(found, Err(Error::Broken(_)));
                assert!(is_broken, "{value} bytes {number}: {found:?}");
            }
        }
        Ok(())
    }),
    Test::with(
        "a_process_that_stores_anywhere_in_the_ring_does_no_more_harm",
        SMALL,
        || {
            // As long on a kernel that is slow.
            let rounds = (300 / u64::from(slowness())).max(1);
            let (_bell, mapping) = open(MIB)?;
            let range = 0..8 * KIB;
            for round in 0..rounds {
                create(&mapping, range.clone())?;
                let mut producer = Producer::attach(&mapping, range.clone())?;
                let mut consumer = Consumer::attach(&mapping, range.clone())?;
                let mut random = Random::new(round + 1);
                let child = Child::run(|| {
                    let (_bell, mapping) = open(MIB).expect("the device");
                    for _ in 0..400 {
                        let word = mapping.word(8 * random.below(range.end / 8));
                        word.store(random.next_u64() >> random.below(64), Ordering::Relaxed);
                    }
                    Vec::new()
                })?;
                // Whether any of it breaks the ring does not lie in this test's hands: the two sides go on, or say so.
                for _ in 0..2000 {
                    let sent = producer.send(&round.to_ne_bytes());
                    let received = consumer.receive();
                    for error in [sent.err(), received.err()].into_iter().flatten() {
                        assert!(matches!(error, Error::Broken(_)), "{error:?}");
                    }
                }
                child.join();
            }
            Ok(())
        },
    ),
    Test::with(
        "destroying_the_device_ends_the_wait_at_its_ring",
        SMALL,
        || {
            let (bell, mapping) = open(MIB)?;
            create(&mapping, 0..MIB)?;
            let child = Child::run(|| {
                // The mapping is a part of the device no more, so that all that can be seen is the call's end.
                let slept = bell.sleep(LONG);
                assert!(slept.is_ok() || errno_of(&slept) == Some(Errno::NODEV.raw_os_error()));
                assert_errno(bell.sleep(LONG), Errno::NODEV, "a bell that is gone");
                Vec::new()
            })?;
            Control::open()?.destroy("0")?;
            child.join();
            Ok(())
        },
    ),
];

/// A bell at which somebody who sleeps is rung: where nobody rings, the sleep must not end well with the time.
pub(crate) struct Prompt<'a, B>(pub(crate) &'a B);

impl<B: Bell> Bell for Prompt<'_, B> {
    fn ring(&self) -> io::Result<()> {
        self.0.ring()
    }

    fn sleep(&self, limit: Duration) -> io::Result<()> {
        let begun = Instant::now();
        self.0.sleep(limit)?;
        assert!(begun.elapsed() < limit, "nobody has rung for {limit:?}");
        Ok(())
    }
}

/// A bell that kills who rings it.
struct Fatal;

impl Bell for Fatal {
    fn ring(&self) -> io::Result<()> {
        Ok(process::kill_process(
            process::getpid(),
            process::Signal::KILL,
        )?)
    }

    fn sleep(&self, _limit: Duration) -> io::Result<()> {
        Err(Errno::NOTSUP.into())
    }
}

/// As long as it may take, at most, until somebody runs who was rung.
pub(crate) fn soon() -> Duration {
    slowness() * Duration::from_secs(5)
}

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(25);

fn far() -> Instant {
    Instant::now() + slowness() * LONG
}

fn errno_of(result: &io::Result<()>) -> Option<i32> {
    result.as_ref().err().and_then(io::Error::raw_os_error)
}

/// An open file of its own, and a mapping.
fn open(len: usize) -> io::Result<(Device, Mapping)> {
    open_node(device::FIRST, len)
}

fn open_node(node: impl AsRef<Path>, len: usize) -> io::Result<(Device, Mapping)> {
    let device = Device::open_with(node, OFlags::RDWR)?;
    let mapping = Mapping::shared(&device, len)?;
    Ok((device, mapping))
}

pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The bytes that calls have copied out of a device, and into it.
pub(crate) fn copied(device: &Device) -> io::Result<u64> {
    let counters = device.counters()?;
    Ok(counters.bytes_read + counters.bytes_written)
}

/// Messages of all lengths, from one process to another, through a ring in this range of a device.
fn keeps_every_byte(node: impl AsRef<Path>, range: Range<usize>, total: usize) -> io::Result<()> {
    let (bell, mapping) = open_node(&node, range.end)?;
    create(&mapping, range.clone())?;
    let before = copied(&bell)?;
    let child = Child::run(|| {
        let (bell, mapping) = open_node(&node, range.end).expect("the device");
        produce(&mapping, range.clone(), &bell, total).expect("produces");
        Vec::new()
    })?;
    consume(&mapping, range, &bell, total)?;
    child.join();
    assert_eq!(copied(&bell)?, before, "no kernel copied any");
    Ok(())
}

/// Writes the messages that [`consume`] expects, of so many bytes together.
pub(crate) fn produce(
    mapping: &Mapping,
    range: Range<usize>,
    bell: &impl Bell,
    total: usize,
) -> io::Result<()> {
    let bell = &Prompt(bell);
    let mut producer = Producer::attach(mapping, range)?;
    for (len, mut content) in messages(producer.longest(), total) {
        assert!(producer.wait(len, bell, far())?);
        let slot = producer.reserve(len)?.expect("room");
        for word in slot.words() {
            word.store(content.next_u64(), Ordering::Relaxed);
        }
        slot.commit();
        producer.wake(bell)?;
    }
    Ok(())
}

/// Reads what [`produce`] writes, and checks every word.
pub(crate) fn consume(
    mapping: &Mapping,
    range: Range<usize>,
    bell: &impl Bell,
    total: usize,
) -> io::Result<()> {
    let bell = &Prompt(bell);
    let mut consumer = Consumer::attach(mapping, range)?;
    for (number, (len, mut content)) in messages(consumer.longest(), total).enumerate() {
        assert!(consumer.wait(bell, far())?, "message {number} never came");
        let message = consumer.next()?.expect("a message");
        assert_eq!(message.len(), len, "message {number}");
        for (at, word) in message.words().iter().enumerate() {
            let word = word.load(Ordering::Relaxed);
            assert_eq!(word, content.next_u64(), "word {at} of message {number}");
        }
        message.release();
        consumer.wake(bell)?;
    }
    assert_eq!(consumer.receive()?, None);
    Ok(())
}

/// The same messages in each process, of so many bytes together: the length of each, and what its words are.
fn messages(longest: usize, total: usize) -> impl Iterator<Item = (usize, Random)> {
    let mut lengths = Random::new(7);
    let mut left = total;
    std::iter::from_fn(move || {
        // Most are short, and some as long as can be.
        let bound = (longest + 1).min(1 << (4 + lengths.below(16)));
        let len = lengths.below(bound);
        let some = left > 0;
        left = left.saturating_sub(len + 8);
        some.then(|| (len, Random::new(lengths.next_u64())))
    })
}
