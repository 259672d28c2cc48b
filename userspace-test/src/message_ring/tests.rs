// SPDX-License-Identifier: GPL-2.0

//! The ring against a queue, against liars, and between two threads.

use super::{create, longest, Bell, Consumer, Error, Nap, Producer};
use super::{
    CAPACITY, CONSUMER_SLEEPS, DATA, LENGTH, LINE, PRODUCER_SLEEPS, READ, SKIP, TOO_MANY, WRITTEN,
};
use crate::mapping::Mapping;
use crate::random::Random;
use crate::PAGE;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A ring with so much data, not at the start of its mapping.
struct Fixture {
    mapping: Mapping,
    data: usize,
}

const START: usize = 3 * LINE;

impl Fixture {
    fn new(data: usize) -> Self {
        let len = (START + DATA + data).next_multiple_of(PAGE);
        let mapping = Mapping::anonymous(len).unwrap();
        let fixture = Self { mapping, data };
        create(&fixture.mapping, fixture.range()).unwrap();
        fixture
    }

    fn range(&self) -> std::ops::Range<usize> {
        START..START + DATA + self.data
    }

    fn producer(&self) -> Producer<'_> {
        Producer::attach(&self.mapping, self.range()).unwrap()
    }

    fn consumer(&self) -> Consumer<'_> {
        Consumer::attach(&self.mapping, self.range()).unwrap()
    }

    fn store(&self, at: usize, value: u64) {
        self.mapping.word(START + at).store(value, SeqCst);
    }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[test]
fn messages_come_in_order_and_empty_ones_count() {
    let fixture = Fixture::new(1024);
    let (mut producer, mut consumer) = (fixture.producer(), fixture.consumer());
    assert_eq!(consumer.receive(), Ok(None));
    for message in [&b"one"[..], b"", b"three"] {
        assert!(producer.send(message).unwrap());
    }
    for message in [&b"one"[..], b"", b"three"] {
        assert_eq!(consumer.receive().unwrap().unwrap(), message);
    }
    assert_eq!(consumer.receive(), Ok(None));
}

#[test]
fn a_message_is_written_and_read_where_it_is() {
    let fixture = Fixture::new(1024);
    let (mut producer, mut consumer) = (fixture.producer(), fixture.consumer());
    let slot = producer.reserve(20).unwrap().unwrap();
    let (place, words) = (slot.offset(), slot.words());
    assert_eq!(words.len(), 3);
    words.iter().for_each(|word| word.store(u64::MAX, Relaxed));
    slot.commit_first(9);
    let message = consumer.next().unwrap().unwrap();
    assert_eq!(
        (message.offset(), message.len(), message.words().len()),
        (place, 9, 2)
    );
    assert_eq!(message.to_vec(), [0xFF; 9]);
}

#[test]
fn what_is_not_committed_is_not_sent_and_what_is_not_released_comes_again() {
    let fixture = Fixture::new(1024);
    let (mut producer, mut consumer) = (fixture.producer(), fixture.consumer());
    let slot = producer.reserve(8).unwrap().unwrap();
    slot.write(0, b"dropped!");
    assert_eq!(consumer.receive(), Ok(None));
    producer.send(b"kept").unwrap();
    for _ in 0..2 {
        assert_eq!(consumer.next().unwrap().unwrap().to_vec(), b"kept");
    }
    consumer.next().unwrap().unwrap().release();
    assert_eq!(consumer.receive(), Ok(None));
}

#[test]
fn the_longest_message_fits_from_every_place_and_no_longer_one() {
    for lines in 2..40 {
        let fixture = Fixture::new(lines * LINE);
        let (mut producer, mut consumer) = (fixture.producer(), fixture.consumer());
        let longest = producer.longest();
        assert_eq!(longest, super::longest(lines * LINE));
        for place in 0..lines {
            for _ in 0..place {
                assert!(producer.send(b"").unwrap());
                consumer.receive().unwrap().unwrap();
            }
            let message = vec![place as u8; longest];
            assert!(producer.send(&message).unwrap(), "{lines} lines, {place}");
            assert_eq!(consumer.receive().unwrap().unwrap(), message);
        }
        assert_eq!(producer.send(&vec![0; longest + 1]), Err(Error::TooLong));
        assert_eq!(producer.reserve(usize::MAX).err(), Some(Error::TooLong));
    }
}

#[test]
fn a_full_ring_takes_nothing_and_loses_nothing() {
    let fixture = Fixture::new(8 * LINE);
    let (mut producer, mut consumer) = (fixture.producer(), fixture.consumer());
    let mut sent = 0u8;
    while producer.send(&[sent]).unwrap() {
        sent += 1;
    }
    assert_eq!(sent, 8);
    for number in 0..sent {
        assert_eq!(consumer.receive().unwrap().unwrap(), [number]);
    }
}

#[test]
fn who_comes_back_goes_on_where_it_was() {
    let fixture = Fixture::new(8 * LINE);
    for round in 0..20u8 {
        assert!(fixture.producer().send(&[round, 1]).unwrap());
        assert!(fixture.producer().send(&[round, 2]).unwrap());
        for part in [1, 2] {
            let message = fixture.consumer().receive().unwrap().unwrap();
            assert_eq!(message, [round, part]);
        }
    }
}

#[test]
fn a_place_must_be_in_the_mapping_aligned_and_large_enough() {
    let mapping = Mapping::anonymous(PAGE).unwrap();
    let least = DATA + 2 * LINE;
    for range in [
        0..least - 1,
        8..8 + least,
        PAGE - LINE..PAGE + least,
        usize::MAX - 63..usize::MAX,
        0..0,
    ] {
        assert_eq!(create(&mapping, range.clone()), Err(Error::Place));
        let attached = Consumer::attach(&mapping, range);
        assert_eq!(attached.err(), Some(Error::Place));
    }
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = create(&mapping, LINE..0);
    assert_eq!(reversed, Err(Error::Place));
    create(&mapping, 0..least).unwrap();
}

#[test]
fn a_ring_that_is_not_there_or_has_another_size_is_refused() {
    let mapping = Mapping::anonymous(PAGE).unwrap();
    let attached = Producer::attach(&mapping, 0..PAGE);
    assert_eq!(attached.err(), Some(Error::Missing));
    create(&mapping, 0..PAGE).unwrap();
    let attached = Consumer::attach(&mapping, 0..PAGE - LINE);
    assert_eq!(attached.err(), Some(Error::OtherSize));
}

/// What a consumer says of a ring in which a liar has stored this.
fn consumer_says(stores: &[(usize, u64)]) -> Result<Option<Vec<u8>>, Error> {
    let fixture = Fixture::new(8 * LINE);
    let mut consumer = fixture.consumer();
    stores
        .iter()
        .for_each(|&(at, value)| fixture.store(at, value));
    let said = consumer.receive();
    if said.is_err() {
        fixture.store(WRITTEN, 0);
        assert_eq!(consumer.receive(), said, "once broken, for ever");
    }
    said
}

#[test]
fn a_consumer_finds_out_a_producer_that_lies() {
    let line = LINE as u64;
    let broken = |said: Result<_, Error>| matches!(said, Err(Error::Broken(_)));
    assert!(broken(consumer_says(&[(WRITTEN, 9 * line)])));
    assert!(broken(consumer_says(&[(WRITTEN, u64::MAX - 63)])));
    assert!(broken(consumer_says(&[(WRITTEN, line + 8)])));
    for length in [57, 4 * line, u64::MAX - 1, 1 << 63, SKIP] {
        let stores = [(DATA, length), (WRITTEN, line)];
        assert!(broken(consumer_says(&stores)), "{length}");
    }
    let stores = [(DATA, 56), (WRITTEN, line)];
    assert_eq!(consumer_says(&stores), Ok(Some(vec![0; 56])));
}

#[test]
fn a_consumer_finds_out_a_rest_with_nothing_behind_it() {
    let fixture = Fixture::new(8 * LINE);
    let (mut producer, mut consumer) = (fixture.producer(), fixture.consumer());
    producer.send(b"").unwrap();
    consumer.receive().unwrap();
    fixture.store(DATA + LINE, SKIP);
    fixture.store(WRITTEN, 8 * LINE as u64);
    assert!(matches!(consumer.receive(), Err(Error::Broken(_))));
}

#[test]
fn a_consumer_finds_out_a_message_that_goes_over_the_end() {
    let fixture = Fixture::new(8 * LINE);
    let (mut producer, mut consumer) = (fixture.producer(), fixture.consumer());
    for _ in 0..7 {
        producer.send(b"").unwrap();
        consumer.receive().unwrap();
    }
    fixture.store(DATA + 7 * LINE, 100);
    fixture.store(WRITTEN, 11 * LINE as u64);
    assert!(matches!(consumer.receive(), Err(Error::Broken(_))));
}

#[test]
fn a_producer_finds_out_a_consumer_that_lies() {
    for read in [9 * LINE as u64, 3 * LINE as u64 + 8, u64::MAX] {
        let fixture = Fixture::new(8 * LINE);
        let mut producer = fixture.producer();
        while producer.send(b"").unwrap() {}
        fixture.store(READ, read);
        let said = producer.send(b"");
        assert!(matches!(said, Err(Error::Broken(_))), "{read}: {said:?}");
        fixture.store(READ, 0);
        assert_eq!(producer.send(b""), said, "once broken, for ever");
    }
}

#[test]
fn a_producer_finds_out_a_consumer_that_has_read_what_is_not_written() {
    let fixture = Fixture::new(8 * LINE);
    let mut producer = fixture.producer();
    for _ in 0..6 {
        producer.send(b"").unwrap();
    }
    fixture.store(READ, 7 * LINE as u64);
    // For what does not fit into the two lines that are free, it has a look.
    let refused = producer.send(&[0; 184]);
    assert!(matches!(refused, Err(Error::Broken(_))), "{refused:?}");
}

#[test]
fn who_attaches_to_nonsense_is_told() {
    let fixture = Fixture::new(8 * LINE);
    for (at, value) in [(READ, 8), (READ, LINE as u64), (WRITTEN, 9 * LINE as u64)] {
        create(&fixture.mapping, fixture.range()).unwrap();
        fixture.store(at, value);
        let attached = Producer::attach(&fixture.mapping, fixture.range());
        assert!(matches!(attached, Err(Error::Broken(_))), "{at} {value}");
    }
    // From so many on a place in the data would not follow the one before.
    for (position, is_there) in [(TOO_MANY, false), (TOO_MANY - LINE as u64, true)] {
        create(&fixture.mapping, fixture.range()).unwrap();
        fixture.store(READ, position);
        fixture.store(WRITTEN, position);
        let attached = Consumer::attach(&fixture.mapping, fixture.range());
        assert_eq!(attached.is_ok(), is_there, "{position}");
    }
    create(&fixture.mapping, fixture.range()).unwrap();
    fixture.store(CAPACITY, u64::MAX);
    let attached = Producer::attach(&fixture.mapping, fixture.range());
    assert_eq!(attached.err(), Some(Error::OtherSize));
}

/// A bell between two threads.
struct Channel(mpsc::Sender<()>, mpsc::Receiver<()>);

impl Bell for Channel {
    fn ring(&self) -> io::Result<()> {
        self.0.send(()).map_err(io::Error::other)
    }

    fn sleep(&self, limit: Duration) -> io::Result<()> {
        let slept = self.1.recv_timeout(limit);
        assert!(
            slept != Err(mpsc::RecvTimeoutError::Timeout),
            "nobody has rung"
        );
        Ok(())
    }
}

/// A bell that fails as long as it is told to, and counts how often it was rung.
#[derive(Default)]
struct Loose {
    fails: Cell<bool>,
    rung: Cell<u32>,
}

impl Bell for Loose {
    fn ring(&self) -> io::Result<()> {
        if self.fails.get() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        self.rung.set(self.rung.get() + 1);
        Ok(())
    }

    fn sleep(&self, _limit: Duration) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[test]
fn who_could_not_ring_rings_the_next_time() {
    let fixture = Fixture::new(8 * LINE);
    let (mut producer, mut consumer) = (fixture.producer(), fixture.consumer());
    let bell = Loose::default();
    assert!(producer.wake(&bell).unwrap() && consumer.wake(&bell).unwrap());
    fixture.store(CONSUMER_SLEEPS, 1);
    fixture.store(PRODUCER_SLEEPS, 1);
    bell.fails.set(true);
    producer.wake(&bell).unwrap_err();
    consumer.wake(&bell).unwrap_err();
    bell.fails.set(false);
    assert!(producer.wake(&bell).unwrap() && consumer.wake(&bell).unwrap());
    assert!(!producer.wake(&bell).unwrap() && !consumer.wake(&bell).unwrap());
    assert_eq!(bell.rung.get(), 4);
}

#[test]
fn a_successor_rings_for_who_was_killed_before_it_rang() {
    let fixture = Fixture::new(8 * LINE);
    let bell = Loose::default();
    let ways: [(&str, &dyn Fn() -> io::Result<bool>); 4] = [
        ("a producer that wakes", &|| fixture.producer().wake(&bell)),
        ("a consumer that wakes", &|| fixture.consumer().wake(&bell)),
        ("a producer that waits", &|| {
            fixture.producer().wait(0, &bell, far())
        }),
        ("a consumer that waits", &|| {
            fixture.consumer().wait(&bell, far())
        }),
    ];
    // So that there is something to be had for who waits.
    fixture.producer().send(b"").unwrap();
    for (what, comes) in ways {
        fixture.store(CONSUMER_SLEEPS, 1);
        fixture.store(PRODUCER_SLEEPS, 1);
        bell.fails.set(true);
        comes().expect_err(what);
        bell.fails.set(false);
        let before = bell.rung.get();
        assert!(comes().unwrap(), "{what}");
        assert_eq!(bell.rung.get(), before + 1, "{what}");
    }
}

#[test]
fn who_cannot_sleep_is_not_rung_for_it() {
    let fixture = Fixture::new(8 * LINE);
    let (mut producer, mut consumer) = (fixture.producer(), fixture.consumer());
    let bell = Loose::default();
    producer.wake(&bell).unwrap();
    consumer.wait(&bell, far()).unwrap_err();
    assert!(!producer.wake(&bell).unwrap());
}

fn channels() -> (Channel, Channel) {
    let ((one, other), (three, four)) = (mpsc::channel(), mpsc::channel());
    (Channel(one, four), Channel(three, other))
}

#[test]
fn threads_that_sleep_in_between_lose_no_message_and_no_wake_up() {
    const MESSAGES: u64 = 100_000;
    // So small that both sides sleep often.
    let fixture = Fixture::new(16 * LINE);
    let (ours, theirs) = channels();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut producer, bell) = (fixture.producer(), ours);
            let mut random = Random::new(1);
            for number in 0..MESSAGES {
                let len = 8 + random.below(200);
                assert!(producer.wait(len, &bell, far()).unwrap());
                let slot = producer.reserve(len).unwrap().unwrap();
                for word in slot.words() {
                    word.store(number, Relaxed);
                }
                slot.commit();
                producer.wake(&bell).unwrap();
            }
            bell
        });
        let mut consumer = fixture.consumer();
        let mut random = Random::new(1);
        for number in 0..MESSAGES {
            assert!(consumer.wait(&theirs, far()).unwrap());
            let message = consumer.next().unwrap().unwrap();
            assert_eq!(message.len(), 8 + random.below(200));
            let words = message.words();
            assert!(words.iter().all(|word| word.load(Relaxed) == number));
            message.release();
            consumer.wake(&theirs).unwrap();
        }
    });
}

/// A bell at which nobody sleeps for long: who waits looks whether it was rung.
struct Spin<'a>(&'a AtomicBool, &'a AtomicBool);

impl Bell for Spin<'_> {
    fn ring(&self) -> io::Result<()> {
        self.0.store(true, SeqCst);
        Ok(())
    }

    fn sleep(&self, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        let mut looks = 0;
        while !self.1.swap(false, SeqCst) {
            std::hint::spin_loop();
            looks += 1;
            // The other may have no CPU.
            if looks % 1000 == 0 {
                thread::yield_now();
                assert!(Instant::now() < end, "nobody has rung");
            }
        }
        Ok(())
    }
}

/// A message that nobody is rung for is followed by no other, so that a wake-up that is lost is not made up for. With
/// neither of the two fences x86 loses one, where two CPUs are free; with one of them it was not seen to.
#[test]
fn a_message_that_comes_as_the_other_falls_asleep_wakes_it() {
    const TURNS: usize = 30_000;
    let (there, back) = (Fixture::new(2 * LINE), Fixture::new(2 * LINE));
    let (ours, theirs) = (AtomicBool::new(false), AtomicBool::new(false));
    let side = |mut producer: Producer<'_>, mut consumer: Consumer<'_>, bell: Spin<'_>, seed| {
        let mut random = Random::new(seed);
        for turn in 0..TURNS {
            // The first has something to answer to, too.
            if seed == 2 || turn > 0 {
                let soon = Instant::now() + Duration::from_secs(20);
                assert!(consumer.wait(&bell, soon).unwrap());
                consumer.next().unwrap().unwrap().release();
            }
            // So that it comes now sooner and now later.
            (0..random.below(128)).for_each(|_| std::hint::spin_loop());
            assert!(producer.send(b"").unwrap());
            producer.wake(&bell).unwrap();
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| side(there.producer(), back.consumer(), Spin(&theirs, &ours), 1));
        side(back.producer(), there.consumer(), Spin(&ours, &theirs), 2);
    });
}

#[test]
fn who_rings_for_many_at_a_time_does_not_wait_for_a_sleeper() {
    let fixture = Fixture::new(8 * LINE);
    let (ours, theirs) = channels();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut producer, bell) = (fixture.producer(), ours);
            for _ in 0..1000 {
                assert!(producer.wait(0, &bell, far()).unwrap());
                assert!(producer.send(b"").unwrap());
            }
            producer.wake(&bell).unwrap();
            bell
        });
        let mut consumer = fixture.consumer();
        for _ in 0..1000 {
            assert!(consumer.wait(&theirs, far()).unwrap());
            assert!(consumer.receive().unwrap().is_some());
        }
    });
}

#[test]
fn waiting_ends_with_the_deadline() {
    let fixture = Fixture::new(2 * LINE);
    let nap = Nap(Duration::from_millis(1));
    let soon = || Instant::now() + Duration::from_millis(5);
    assert!(!fixture.consumer().wait(&nap, soon()).unwrap());
    let mut producer = fixture.producer();
    while producer.send(b"").unwrap() {}
    assert!(!producer.wait(0, &nap, soon()).unwrap());
    // It has rung, being new.
    assert!(
        !producer.wake(&nap).unwrap(),
        "who has given up is not rung"
    );
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 2048,
        rng_seed: RngSeed::Fixed(0x7269_6e67),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// What is done to a ring.
#[derive(Clone, Debug)]
enum Step {
    /// Room taken for so many bytes, and so many of these given.
    Send(usize, usize),
    Receive,
    Comeback,
    /// A word of the ring, or of its data, stored by somebody who must not.
    Lie(usize, u64),
}

fn honest() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..700usize, 0..700usize).prop_map(|(one, other)| Step::Send(one.max(other), one.min(other))),
        5 => Just(Step::Receive),
        1 => Just(Step::Comeback),
    ]
}

fn lie() -> impl Strategy<Value = Step> {
    let value = prop_oneof![
        any::<u64>(),
        (0..40u64).prop_map(|lines| lines * LINE as u64),
        (0..1500u64),
        Just(SKIP),
        (0..3u64).prop_map(|off| u64::MAX - 63 - 64 * off),
    ];
    let at = prop_oneof![
        Just(WRITTEN),
        Just(READ),
        (0..20usize).prop_map(|line| DATA + line * LINE)
    ];
    (at, value).prop_map(|(at, value)| Step::Lie(at, value))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_ring_is_a_queue(lines in 2..24usize, steps in prop::collection::vec(honest(), 0..200)) {
        let fixture = Fixture::new(lines * LINE);
        let (mut producer, mut consumer) = (fixture.producer(), fixture.consumer());
        let mut queue: VecDeque<Vec<u8>> = VecDeque::new();
        let mut random = Random::new(lines as u64);
        for step in steps {
            match step {
                Step::Send(room, len) => match producer.reserve(room) {
                    Ok(Some(slot)) => {
                        let bytes = random.bytes(len);
                        slot.write(0, &bytes);
                        slot.commit_first(len);
                        queue.push_back(bytes);
                    }
                    Ok(None) => prop_assert!(!queue.is_empty(), "no room in an empty ring"),
                    Err(error) => prop_assert!(error == Error::TooLong && room > longest(lines * LINE)),
                },
                Step::Receive => prop_assert_eq!(consumer.receive().unwrap(), queue.pop_front()),
                Step::Comeback => {
                    (producer, consumer) = (fixture.producer(), fixture.consumer());
                }
                Step::Lie(..) => unreachable!(),
            }
        }
    }

    #[test]
    fn no_lie_leads_out_of_the_ring(
        lines in 2..20usize,
        steps in prop::collection::vec(prop_oneof![honest(), lie()], 0..100),
    ) {
        let fixture = Fixture::new(lines * LINE);
        let range = fixture.range();
        // Around the ring nothing may change.
        let outside = [0..START, range.end..fixture.mapping.len()];
        for part in &outside {
            fixture.mapping.write(part.start, &vec![0xA5; part.len()]);
        }
        let (mut producer, mut consumer) = (fixture.producer(), fixture.consumer());
        for step in steps {
            match step {
                Step::Send(room, len) => {
                    if let Ok(Some(slot)) = producer.reserve(room) {
                        let data = START + DATA + LENGTH;
                        prop_assert!(slot.offset() >= data && slot.offset() + room <= range.end);
                        slot.words().iter().for_each(|word| word.store(1, Relaxed));
                        slot.commit_first(len);
                    }
                }
                Step::Receive => {
                    if let Ok(Some(message)) = consumer.next() {
                        prop_assert!(message.len() <= longest(lines * LINE));
                        prop_assert!(message.offset() + message.len() <= range.end);
                        message.to_vec();
                        message.release();
                    }
                }
                Step::Comeback => {
                    if let Ok(back) = Producer::attach(&fixture.mapping, range.clone()) {
                        producer = back;
                    }
                    if let Ok(back) = Consumer::attach(&fixture.mapping, range.clone()) {
                        consumer = back;
                    }
                }
                Step::Lie(at, value) if at < DATA + lines * LINE => fixture.store(at, value),
                Step::Lie(..) => {}
            }
        }
        for part in &outside {
            let bytes = fixture.mapping.read(part.start, part.len());
            prop_assert!(bytes.iter().all(|&byte| byte == 0xA5));
        }
    }
}
