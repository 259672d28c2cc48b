// SPDX-License-Identifier: GPL-2.0

//! Everything at once: whatever others do to their mappings, each word is what its owner has written last.
//!
//! Each word of the device has one owner, who alone writes it: its place and a number that grows. So any
//! reader can tell a word that belongs elsewhere or was never written, and one that has become older; and in
//! the end all owners together know what each word has to be.

use crate::Test;
use mmapdev_userspace::child::Child;
use mmapdev_userspace::device::Device;
use mmapdev_userspace::is_sanitizer_kernel;
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::module::Loaded;
use mmapdev_userspace::random::Random;
use mmapdev_userspace::{HUGE_PAGE, MIB, PAGE};
use rustix::fs::OFlags;
use rustix::io::{pread, pwrite};
use rustix::mm::{Advice, MapFlags, MprotectFlags};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SIZE: usize = 8 * MIB;
const PAGES: usize = SIZE / PAGE;
/// Devices, each of which is untouched when its turn comes.
const DEVICES: usize = 8;
/// How long the actors are at one device at least: until each has acted so often, too, and who stores many words at a time so
/// often that there are more than [`WORDS_AT_ONE`].
const TIME_AT_ONE: Duration = Duration::from_millis(500);
const ACTS_AT_ONE: usize = 2;
const ACTS_OF_STORER: usize = 8;
const WORDS_AT_ONE: usize = 1000;

pub(crate) const TESTS: &[Test] = &[Test {
    limit: Some(Duration::from_secs(180)),
    ..Test::without_module("in_a_storm_each_word_is_what_its_owner_wrote", || {
        storm("huge=1 size_mib=8 devices=8", 1)?;
        storm("huge=0 size_mib=8 devices=8", 2)
    })
}];

/// Who writes a word, by its place within its cache line: all are on the same lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Owner {
    /// Two that store to either half of the device, and one that stores to all of it.
    LowerHalf,
    UpperHalf,
    Everywhere,
    /// One that writes by calls.
    Caller,
    /// One that writes through mappings that come, move and go.
    Mapper,
    /// Children, which write through the mapping that they have inherited.
    Forker,
}

const WORDS_OF_LINE: usize = 8;
const OWNERS: [Owner; 6] = [
    Owner::LowerHalf,
    Owner::UpperHalf,
    Owner::Everywhere,
    Owner::Caller,
    Owner::Mapper,
    Owner::Forker,
];

impl Owner {
    /// How often it acts at one device at least.
    fn acts(self) -> usize {
        match self {
            Self::LowerHalf | Self::UpperHalf | Self::Everywhere => ACTS_OF_STORER,
            Self::Caller | Self::Mapper | Self::Forker => ACTS_AT_ONE,
        }
    }
}

/// The owner of the word at an offset, if it has one: the others stay zero.
fn owner(offset: usize) -> Option<Owner> {
    OWNERS.get(offset / 8 % WORDS_OF_LINE).copied()
}

/// The upper half of a word at an offset that has been written: no byte of it is zero.
fn tag(offset: usize) -> u64 {
    let place = ((offset / 8) as u32 + 1).wrapping_mul(0x9E37_79B1);
    u64::from(place | 0x0101_0101) << 32
}

const NUMBER: u64 = u32::MAX as u64;

/// The words of one owner, and what each has to be.
struct Words {
    owner: Owner,
    written: HashMap<usize, u64>,
}

impl Words {
    fn of(owner: Owner) -> Self {
        Self {
            owner,
            written: HashMap::new(),
        }
    }

    /// One of the words in a range, and what to write to it.
    fn next(&mut self, random: &mut Random, start: usize, len: usize) -> (usize, u64) {
        const LINE: usize = 8 * WORDS_OF_LINE;
        // Few lines of each page, so that words are written again and again.
        let page = (start + random.below(len)) / PAGE * PAGE;
        let offset = page + random.below(3) * 1024 + self.owner as usize * 8;
        debug_assert!(offset % LINE / 8 == self.owner as usize);
        let number = self.last(offset) & NUMBER;
        (offset, tag(offset) | (number + 1))
    }

    fn last(&self, offset: usize) -> u64 {
        self.written.get(&offset).copied().unwrap_or(0)
    }

    fn store(&mut self, mapping: &Mapping, start: usize, offset: usize, value: u64) {
        let word = mapping.word(offset - start);
        let before = word.swap(value, Ordering::SeqCst);
        assert_eq!(before, self.last(offset), "{:?} at {offset:#x}", self.owner);
        self.written.insert(offset, value);
    }
}

/// What a reader has seen of each word: it may become newer, and never older.
#[derive(Default)]
struct Seen(HashMap<usize, u64>);

impl Seen {
    /// Looks at a word as one access has it.
    fn check(&mut self, offset: usize, value: u64) {
        let owner = owner(offset);
        if owner == Some(Owner::Caller) || owner.is_none() {
            return check_bytes(offset, value);
        }
        let is_right = value == 0 || (value & !NUMBER == tag(offset) && value & NUMBER != 0);
        assert!(is_right, "{value:#x} at {offset:#x} of {owner:?}");
        let seen = self.0.entry(offset).or_default();
        assert!(value >= *seen, "{value:#x} at {offset:#x} after {seen:#x}");
        *seen = value;
    }

    fn load(&mut self, mapping: &Mapping, start: usize, offset: usize) {
        let value = mapping.word(offset - start).load(Ordering::SeqCst);
        self.check(offset, value);
    }
}

/// Looks at a word that was copied by a call, byte by byte perhaps: each byte of its upper half is that of
/// its place or still zero.
fn check_bytes(offset: usize, value: u64) {
    let expected = owner(offset).map_or(0, |_| tag(offset));
    let pairs = value.to_be_bytes().into_iter().zip(expected.to_be_bytes());
    for (byte, expected) in pairs.take(4) {
        let is_right = byte == 0 || byte == expected;
        assert!(is_right, "{value:#x} at {offset:#x}, as copied");
    }
    assert!(
        owner(offset).is_some() || value == 0,
        "{value:#x} at {offset:#x}"
    );
}

/// What all actors have: the device, a mapping that stays, when they may end, and how many of them have not acted often
/// enough yet.
struct Scene<'a> {
    device: &'a Device,
    mapping: Mapping,
    end: Instant,
    missing: AtomicUsize,
}

/// One that has not acted often enough, while this is there.
struct Missing<'a>(&'a AtomicUsize);

impl<'a> Missing<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Missing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An actor: does one thing after the other, and returns what it has written.
struct Actor<'a> {
    scene: &'a Scene<'a>,
    random: Random,
    words: Words,
    seen: Seen,
}

type Act = fn(&mut Actor<'_>) -> io::Result<()>;

/// Each with the owner of the words that it writes; readers write none.
const ACTORS: [(&str, Option<Owner>, Act); 10] = [
    (
        "writer to the lower half",
        Some(Owner::LowerHalf),
        |actor| actor.write_in(0, SIZE / 2),
    ),
    (
        "writer to the upper half",
        Some(Owner::UpperHalf),
        |actor| actor.write_in(SIZE / 2, SIZE / 2),
    ),
    ("writer to everything", Some(Owner::Everywhere), |actor| {
        actor.write_in(0, SIZE)
    }),
    ("writer by calls", Some(Owner::Caller), |actor| {
        actor.write_by_calls()
    }),
    ("mapper", Some(Owner::Mapper), |actor| actor.map_and_unmap()),
    ("forker", Some(Owner::Forker), |actor| actor.fork()),
    ("reader", None, |actor| actor.read()),
    ("reader by calls", None, |actor| actor.read_by_calls()),
    ("adviser", None, |actor| actor.advise()),
    ("private mapper", None, |actor| actor.map_privately()),
];

impl Actor<'_> {
    /// A part of the device: its first page and the number of its pages.
    fn range(&mut self, longest: usize) -> (usize, usize) {
        let pages = 1 + self.random.below(longest);
        // Some are on the borders of huge pages.
        let first = match self.random.below(4) {
            0 => self.random.below(SIZE / HUGE_PAGE) * (HUGE_PAGE / PAGE),
            _ => self.random.below(PAGES),
        };
        (first.min(PAGES - pages), pages)
    }

    fn map(&mut self, first: usize, pages: usize, flags: MapFlags) -> io::Result<Mapping> {
        let (offset, len) = ((first * PAGE) as u64, pages * PAGE);
        Mapping::new(self.scene.device, len, READ_WRITE, flags, offset)
    }

    /// The offset of any word that has an owner, within some pages.
    fn any_word(&mut self, first: usize, pages: usize) -> usize {
        let page = first + self.random.below(pages);
        page * PAGE + self.random.below(3) * 1024 + self.random.below(WORDS_OF_LINE) * 8
    }

    fn write_in(&mut self, start: usize, len: usize) -> io::Result<()> {
        for _ in 0..64 {
            let (offset, value) = self.words.next(&mut self.random, start, len);
            self.words.store(&self.scene.mapping, 0, offset, value);
        }
        Ok(())
    }

    fn write_by_calls(&mut self) -> io::Result<()> {
        let (offset, value) = self.words.next(&mut self.random, 0, SIZE);
        let written = pwrite(self.scene.device, &value.to_ne_bytes(), offset as u64)?;
        assert_eq!(written, 8);
        self.words.written.insert(offset, value);
        let mut bytes = [0; 8];
        assert_eq!(pread(self.scene.device, &mut bytes, offset as u64)?, 8);
        assert_eq!(u64::from_ne_bytes(bytes), value, "by calls at {offset:#x}");
        let seen = self.scene.mapping.word(offset).load(Ordering::SeqCst);
        assert_eq!(seen, value, "by a call at {offset:#x}, mapped");
        Ok(())
    }

    fn map_and_unmap(&mut self) -> io::Result<()> {
        let (first, pages) = self.range(600);
        let mut mapping = self.map(first, pages, MapFlags::SHARED)?;
        let start = first * PAGE;
        self.write_and_read(&mapping, first, pages);
        match self.random.below(5) {
            0 => {
                let to = 1 + self.random.below(PAGES - first);
                mapping.resize(to * PAGE)?;
                self.write_and_read(&mapping, first, to);
            }
            1 => {
                let (at, len) = (self.random.below(pages), pages * PAGE);
                let len = (len - at * PAGE).min(16 * PAGE);
                let target = Mapping::anonymous(len)?;
                let moved = mapping.move_onto(at * PAGE, len, target)?;
                self.write_and_read(&moved, first + at, len / PAGE);
            }
            2 => {
                let left = mapping.move_leaving(0, pages * PAGE)?;
                self.write_and_read(&left, first, pages);
                self.write_and_read(&mapping, first, pages);
            }
            3 => {
                mapping.protect(0, pages * PAGE, MprotectFlags::READ)?;
                for _ in 0..8 {
                    let offset = self.any_word(first, pages);
                    self.seen.load(&mapping, start, offset);
                }
                mapping.protect(0, pages * PAGE, MprotectFlags::READ | MprotectFlags::WRITE)?;
                self.write_and_read(&mapping, first, pages);
            }
            _ => {
                let hole = self.random.below(pages);
                mapping.unmap(hole * PAGE, PAGE)?;
                for (first, pages) in [(first, hole), (first + hole + 1, pages - hole - 1)] {
                    if pages > 0 {
                        let (offset, value) =
                            self.words
                                .next(&mut self.random, first * PAGE, pages * PAGE);
                        self.words.store(&mapping, start, offset, value);
                    }
                }
            }
        }
        Ok(())
    }

    /// Through a mapping that begins at page `first`.
    fn write_and_read(&mut self, mapping: &Mapping, first: usize, pages: usize) {
        let (start, len) = (first * PAGE, pages * PAGE);
        for _ in 0..8 {
            let (offset, value) = self.words.next(&mut self.random, start, len);
            self.words.store(mapping, start, offset, value);
            let offset = self.any_word(first, pages);
            self.seen.load(mapping, start, offset);
        }
    }

    fn fork(&mut self) -> io::Result<()> {
        let (first, pages) = self.range(PAGES);
        let private = self.map(first, pages, MapFlags::PRIVATE)?;
        private.touch_read(0, pages.min(32) * PAGE);
        private.touch_write(0, pages.min(8) * PAGE, 0xEE);
        let mut stores: HashMap<usize, u64> = HashMap::new();
        for _ in 0..16 {
            let (offset, value) = self.words.next(&mut self.random, 0, SIZE);
            stores.insert(offset, value);
        }
        let reads: Vec<usize> = (0..64).map(|_| self.any_word(0, PAGES)).collect();
        let scene = self.scene;
        let mapping = &scene.mapping;
        let child = Child::run(|| {
            for &offset in &reads {
                self.seen.load(mapping, 0, offset);
            }
            for (&offset, &value) in &stores {
                self.words.store(mapping, 0, offset, value);
            }
            for page in 0..pages.min(8) {
                assert_eq!(private.load(page * PAGE), 0xEE, "inherited");
                private.store(page * PAGE, 0xDD);
            }
            Vec::new()
        })?;
        child.join();
        for page in 0..pages.min(8) {
            assert_eq!(private.load(page * PAGE), 0xEE, "what the child wrote to");
        }
        for (&offset, &value) in &stores {
            assert_eq!(
                mapping.word(offset).load(Ordering::SeqCst),
                value,
                "{offset:#x}"
            );
        }
        self.words.written.extend(stores);
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        for _ in 0..64 {
            let offset = self.any_word(0, PAGES);
            self.seen.load(&self.scene.mapping, 0, offset);
        }
        Ok(())
    }

    fn read_by_calls(&mut self) -> io::Result<()> {
        let (first, pages) = self.range(20);
        let start = first * PAGE;
        let mut bytes = vec![0; pages * PAGE];
        assert_eq!(
            pread(self.scene.device, &mut bytes, start as u64)?,
            bytes.len()
        );
        for (index, word) in bytes.chunks_exact(8).enumerate() {
            let value = u64::from_ne_bytes(word.try_into().expect("a word"));
            if value != 0 {
                check_bytes(start + index * 8, value);
            }
        }
        Ok(())
    }

    /// On the mapping that the others are at.
    fn advise(&mut self) -> io::Result<()> {
        let (first, pages) = self.range(700);
        let advice = [
            Advice::LinuxDontNeed,
            Advice::LinuxDontNeed,
            Advice::LinuxPopulateRead,
            Advice::LinuxPopulateWrite,
            Advice::LinuxCold,
            Advice::LinuxPageOut,
            Advice::LinuxNoHugepage,
            Advice::LinuxHugepage,
        ];
        let advice = advice[self.random.below(advice.len())];
        // What brings everything in would leave nothing to the others.
        let pages = match advice {
            Advice::LinuxPopulateRead | Advice::LinuxPopulateWrite => pages.min(8),
            _ => pages,
        };
        self.scene
            .mapping
            .advise(first * PAGE, pages * PAGE, advice)?;
        let offset = self.any_word(first, pages);
        self.seen.load(&self.scene.mapping, 0, offset);
        Ok(())
    }

    /// Writes what nobody else may ever see.
    fn map_privately(&mut self) -> io::Result<()> {
        let (first, pages) = self.range(600);
        let mapping = self.map(first, pages, MapFlags::PRIVATE)?;
        let start = first * PAGE;
        for _ in 0..16 {
            let offset = self.any_word(first, pages);
            self.seen.load(&mapping, start, offset);
        }
        let page = self.random.below(pages);
        let len = (pages - page).min(8) * PAGE;
        mapping.touch_write(page * PAGE, len, 0xCC);
        assert_eq!(mapping.load(page * PAGE), 0xCC);
        mapping.advise(page * PAGE, len, Advice::LinuxDontNeed)?;
        let offset = self.any_word(first + page, len / PAGE);
        self.seen.load(&mapping, start, offset);
        Ok(())
    }

    /// Acts until the round is over, and is missing until it has acted `enough`.
    fn run(&mut self, act: Act, enough: usize, missing: Missing<'_>) -> io::Result<()> {
        let scene = self.scene;
        let mut missing = Some(missing);
        let mut count = 0;
        while Instant::now() < scene.end || scene.missing.load(Ordering::Relaxed) > 0 {
            act(self)?;
            count += 1;
            if count == enough {
                missing = None;
            }
        }
        drop(missing);
        Ok(())
    }
}

fn storm(parameters: &str, seed: u64) -> io::Result<()> {
    let module = Loaded::with(parameters)?;
    // (Fewer on the sanitizer kernel, where `mmapdev-stress` has its two minutes as well.)
    let devices = if is_sanitizer_kernel() { 4 } else { DEVICES };
    for number in 0..devices {
        let device = Device::open_with(format!("/dev/mmapdev{number}"), OFlags::RDWR)?;
        let seed = seed * 1000 + number as u64;
        round(&device, seed).map_err(|error| {
            io::Error::other(format!(
                "{parameters}, device {number}, seed {seed}: {error}"
            ))
        })?;
    }
    module.unload()
}

/// Lets all actors loose on an untouched device, and looks at what they leave.
fn round(device: &Device, seed: u64) -> io::Result<()> {
    let scene = Scene {
        device,
        mapping: Mapping::shared(device, SIZE)?,
        end: Instant::now() + TIME_AT_ONE,
        missing: AtomicUsize::new(0),
    };
    let mut expected: HashMap<usize, u64> = HashMap::new();
    std::thread::scope(|scope| {
        let scene = &scene;
        // All before the first begins. Whoever does not begin, or fails, keeps nobody waiting.
        let missing = ACTORS.map(|_| Missing::new(&scene.missing));
        let actors: Vec<_> = (1..)
            .zip(ACTORS.into_iter().zip(missing))
            .map(|(number, ((name, owner, act), missing))| {
                let actor = scope.spawn(move || -> io::Result<_> {
                    let mut actor = Actor {
                        scene,
                        random: Random::new(seed * 100 + number),
                        // Who owns none writes none.
                        words: Words::of(owner.unwrap_or(Owner::LowerHalf)),
                        seen: Seen::default(),
                    };
                    actor.run(act, owner.map_or(ACTS_AT_ONE, Owner::acts), missing)?;
                    Ok(actor.words.written)
                });
                (name, actor)
            })
            .collect();
        for (name, actor) in actors {
            // What it has said in its panic is what the test says.
            let ended = actor
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let written = ended
                .map_err(|error| io::Error::other(format!("the {name}: {error} ({error:?})")))?;
            expected.extend(written);
        }
        io::Result::Ok(())
    })?;
    assert!(
        expected.len() > WORDS_AT_ONE,
        "only {} words were written",
        expected.len()
    );

    let mut bytes = vec![0; SIZE];
    assert_eq!(pread(device, &mut bytes, 0)?, SIZE);
    let mapping = Mapping::shared(device, SIZE)?;
    for (index, word) in bytes.chunks_exact(8).enumerate() {
        let offset = index * 8;
        let expected = expected.get(&offset).copied().unwrap_or(0);
        let value = u64::from_ne_bytes(word.try_into().expect("a word"));
        assert_eq!(value, expected, "at {offset:#x} in the end, seed {seed}");
        let mapped = mapping.word(offset).load(Ordering::SeqCst);
        assert_eq!(
            mapped, expected,
            "at {offset:#x} in the end, mapped, seed {seed}"
        );
    }
    Ok(())
}
