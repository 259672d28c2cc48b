// SPDX-License-Identifier: GPL-2.0

//! Two virtual machines that share a device's memory. Each runs these tests, in this order, as one side of each.

use crate::ring::{consume, copied, cpu_time, produce, soon, Prompt};
use crate::{assert_errno, wait_for, Test};
use mmapdev_userspace::control;
use mmapdev_userspace::message_ring::{create, Bell, Consumer, Error, Producer};
use mmapdev_userspace::random::Random;
use mmapdev_userspace::two_machines::Machines;
use mmapdev_userspace::{slowness, KIB, MIB, PAGE};
use rustix::io::Errno;
use std::fs;
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// One side of a test, the first or the second machine's; what it does first is to wait for the other.
const fn test(name: &'static str, body: fn() -> io::Result<()>) -> Test {
    Test {
        limit: Some(Duration::from_secs(300)),
        ..Test::with(name, "devices=0", body)
    }
}

pub(crate) const TESTS: &[Test] = &[
    test("a_store_in_one_machine_is_seen_in_the_other", || {
        const ROUNDS: u64 = 1000;
        let machines = meet(1)?;
        let (ping, pong) = (machines.mapping.word(0), machines.mapping.word(128));
        for round in 1..=ROUNDS {
            if machines.side == 0 {
                ping.store(round, Ordering::SeqCst);
                wait_for(pong, round);
            } else {
                wait_for(ping, round);
                pong.store(round, Ordering::SeqCst);
            }
        }
        Ok(())
    }),
    test("every_page_is_the_same_in_both", || {
        let machines = meet(2)?;
        let mark = |offset: usize| Random::new(offset as u64 + 1).next_u64();
        // Of each page another word.
        let word = |page: usize| page * PAGE + page * 8 % PAGE;
        let pages = machines.room().len() / PAGE;
        for turn in 0..2 {
            for page in 0..pages {
                let place = machines.mapping.word(word(page));
                if machines.side == turn {
                    place.store(mark(word(page) + turn), Ordering::Relaxed);
                }
            }
            machines.meet(step(2, 1 + 2 * turn as u64), limit())?;
            for page in 0..pages {
                let seen = machines.mapping.word(word(page)).load(Ordering::Relaxed);
                assert_eq!(seen, mark(word(page) + turn), "page {page}");
            }
            machines.meet(step(2, 2 + 2 * turn as u64), limit())?;
        }
        Ok(())
    }),
    test("a_ring_between_two_machines_keeps_every_byte", || {
        keeps_every_byte(3, |machines| machines.room(), 32 * MIB)
    }),
    test("a_small_ring_between_two_machines_keeps_every_byte", || {
        keeps_every_byte(4, |_| PAGE..3 * PAGE, 2 * MIB)
    }),
    test("two_rings_are_a_dialogue_of_two_machines", || {
        const TURNS: u64 = 500;
        let machines = meet(5)?;
        let rings = [0..16 * KIB, 16 * KIB..32 * KIB];
        make(&machines, 5, &rings)?;
        let [there, back] = rings;
        for turn in 0..TURNS {
            let bytes = turn.to_ne_bytes();
            if machines.side == 0 {
                send(&machines, &there, &bytes)?;
                assert_eq!(receive(&machines, &back)?, bytes);
            } else {
                let question = receive(&machines, &there)?;
                send(&machines, &back, &question)?;
            }
        }
        Ok(())
    }),
    test("each_ring_of_the_other_is_one_event", || {
        const RINGS: u64 = 20;
        let machines = meet(6)?;
        let device = &machines.device;
        let before = device.counters()?.events;
        // The other rings when both know how many there were.
        machines.meet(step(6, 1), limit())?;
        for round in 0..RINGS {
            if machines.side == usize::from(round % 2 == 1) {
                machines.ring()?;
            } else {
                machines.sleep(limit())?;
                // It took the one there was.
                assert_eq!(device.take_events()?, 0);
            }
            machines.meet(step(6, 2 + round), limit())?;
        }
        assert_eq!(device.counters()?.events - before, RINGS / 2);
        Ok(())
    }),
    test("a_machine_that_waits_does_not_compute", || {
        let pause = slowness() * Duration::from_millis(500);
        let machines = meet(7)?;
        let ring = 0..64 * KIB;
        make(&machines, 7, std::slice::from_ref(&ring))?;
        if machines.side == 0 {
            std::thread::sleep(pause);
            return send(&machines, &ring, b"late");
        }
        let (begun, computed) = (Instant::now(), cpu_time());
        assert_eq!(receive(&machines, &ring)?, b"late");
        let (waited, computed) = (begun.elapsed(), cpu_time() - computed);
        assert!(waited < pause + soon(), "{waited:?}");
        // Where it did not sleep, the two are the same.
        assert!(computed < waited / 4, "{computed:?} of {waited:?}");
        Ok(())
    }),
    test("a_machine_that_breaks_the_ring_is_found_out", || {
        const ROUNDS: u64 = 50;
        let machines = meet(8)?;
        let ring = 0..8 * KIB;
        for round in 0..ROUNDS {
            if machines.side == 0 {
                create(&machines.mapping, ring.clone())?;
            }
            machines.meet(step(8, 1 + 2 * round), limit())?;
            if machines.side == 0 {
                let mut producer = Producer::attach(&machines.mapping, ring.clone());
                let mut consumer = Consumer::attach(&machines.mapping, ring.clone());
                // Whether any of it breaks the ring does not lie in this test's hands: the two sides go on, or say so.
                for _ in 0..5000 {
                    if let (Ok(producer), Ok(consumer)) = (&mut producer, &mut consumer) {
                        let (sent, received) = (producer.send(b"true"), consumer.receive());
                        for error in [sent.err(), received.err()].into_iter().flatten() {
                            assert!(matches!(error, Error::Broken(_)), "{error:?}");
                        }
                    }
                }
            } else {
                let mut random = Random::new(round + 1);
                for _ in 0..2000 {
                    let word = machines.mapping.word(8 * random.below(ring.end / 8));
                    word.store(random.next_u64() >> random.below(64), Ordering::Relaxed);
                }
            }
            machines.meet(step(8, 2 + 2 * round), limit())?;
        }
        // How much was written, where the library's text says.
        const WRITTEN: usize = 128;
        let last = 2 * ROUNDS + 1;
        if machines.side == 1 {
            machines.meet(step(8, last), limit())?;
            machines.mapping.word(WRITTEN).store(1, Ordering::SeqCst);
            return machines.meet(step(8, last + 1), limit());
        }
        create(&machines.mapping, ring.clone())?;
        let mut consumer = Consumer::attach(&machines.mapping, ring)?;
        machines.meet(step(8, last), limit())?;
        machines.meet(step(8, last + 1), limit())?;
        assert!(matches!(consumer.receive(), Err(Error::Broken(_))));
        Ok(())
    }),
    test("unbinding_while_the_other_rings_ends_cleanly", || {
        const ROUNDS: usize = 15;
        let machines = meet(9)?;
        let done = 0;
        if machines.side == 0 {
            machines.mapping.word(done).store(0, Ordering::SeqCst);
        }
        machines.meet(step(9, 1), limit())?;
        if machines.side == 1 {
            let end = Instant::now() + limit();
            while machines.mapping.word(done).load(Ordering::SeqCst) == 0 {
                assert!(Instant::now() < end, "the other machine is not done");
                machines.ring()?;
            }
            let again = Machines::find(1)?;
            again.meet(step(9, 2), limit())?;
            return again.ring();
        }
        let found = machines.found.clone();
        for _ in 0..ROUNDS {
            found.unbind()?;
            found.bind()?;
        }
        // Those from before are of a device that is no more.
        assert_errno(machines.sleep(limit()), Errno::NODEV, "a bell that is gone");
        let again = Machines::find(0)?;
        again.mapping.word(done).store(1, Ordering::SeqCst);
        again.meet(step(9, 2), limit())?;
        // Whichever of the last ones it was, and then the one that is rung now.
        again.sleep(limit())?;
        Ok(())
    }),
    test("each_interrupt_of_the_device_is_an_event", || {
        let machines = meet(10)?;
        for interrupt in 0..INTERRUPTS {
            if machines.side == 0 {
                machines.ring_by(interrupt)?;
            } else {
                machines.sleep(limit())?;
                assert_eq!(machines.device.take_events()?, 0);
            }
            machines.meet(step(10, 1 + u64::from(interrupt)), limit())?;
        }
        let requested = fs::read_to_string("/proc/interrupts")?;
        let address = machines.found.address();
        let lines = requested.lines().filter(|line| line.ends_with(address));
        assert_eq!(lines.count(), usize::from(INTERRUPTS), "{requested}");
        Ok(())
    }),
    test("the_table_of_interrupts_is_no_device", || {
        let machines = meet(11)?;
        let table = machines.found.bar(1)?.expect("a BAR");
        assert!(table.is_memory);
        assert!(!control::node(&machines.found.name_of(1)).exists());
        Ok(())
    }),
];

/// How many interrupts the rig gives each machine.
const INTERRUPTS: u16 = 2;

/// As long as a machine may take to come to a test that the other is at: the rig starts one twice where it does not start.
fn limit() -> Duration {
    slowness() * Duration::from_secs(250)
}

fn step(test: u64, part: u64) -> u64 {
    1000 * test + part
}

/// The shared memory, once both machines are at this test.
fn meet(test: u64) -> io::Result<Machines> {
    let side = std::env::var("VMS").map_err(io::Error::other)?;
    let machines = Machines::find(usize::from(side == "1"))?;
    machines.meet(step(test, 0), limit())?;
    Ok(machines)
}

/// Has the first machine make rings, and the second wait for that.
fn make(machines: &Machines, test: u64, rings: &[Range<usize>]) -> io::Result<()> {
    if machines.side == 0 {
        for ring in rings {
            create(&machines.mapping, ring.clone())?;
        }
    }
    machines.meet(step(test, 1), limit())
}

fn keeps_every_byte(
    test: u64,
    ring: fn(&Machines) -> Range<usize>,
    total: usize,
) -> io::Result<()> {
    let machines = meet(test)?;
    let ring = ring(&machines);
    make(&machines, test, std::slice::from_ref(&ring))?;
    let side = [produce, consume][machines.side];
    let before = copied(&machines.device)?;
    side(&machines.mapping, ring, &machines, total)?;
    assert_eq!(copied(&machines.device)?, before, "no kernel copied any");
    Ok(())
}

fn send(machines: &Machines, ring: &Range<usize>, message: &[u8]) -> io::Result<()> {
    let mut producer = Producer::attach(&machines.mapping, ring.clone())?;
    assert!(producer.send(message)?);
    producer.wake(machines)?;
    Ok(())
}

fn receive(machines: &Machines, ring: &Range<usize>) -> io::Result<Vec<u8>> {
    let mut consumer = Consumer::attach(&machines.mapping, ring.clone())?;
    assert!(consumer.wait(&Prompt(machines), Instant::now() + limit())?);
    Ok(consumer.receive()?.expect("a message"))
}
