// SPDX-License-Identifier: GPL-2.0

//! What is done to the machine and to devices as a whole, while others are at their pages.

use crate::actors::{ensure, ensure_errno, is_one_of, wrong, FIXED};
use crate::board::Board;
use crate::draws::Draws;
use crate::kinds::{self, Kind, Stored};
use mmapdev_userspace::cgroup::Cgroup;
use mmapdev_userspace::child::{self, Child, Outcome, Touch};
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::random::Random;
use mmapdev_userspace::slowness;
use mmapdev_userspace::{module, numa, pagemap};
use mmapdev_userspace::{HUGE_PAGE, MIB, PAGE};
use rustix::fs::{fsync, ftruncate, memfd_create, MemfdFlags, OFlags};
use rustix::io::{pread, pwrite, Errno};
use rustix::mm::Advice;
use rustix::process::{getpid, Signal};
use std::fs;
use std::io;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// Pages that are taken out of use for good, in a whole run, and devices in which one goes bad: that memory is lost.
const OFFLINED: u64 = 64;
const POISONED: u64 = 32;
/// Bytes in the devices that come and go.
const SIZE: usize = 4 * MIB;

/// The actor that is left out where the kernel cannot do what it does.
pub(crate) const MIGRATOR: &str = "migrator between nodes";

/// One that acts on the machine.
pub(crate) struct Actor<'a> {
    pub(crate) board: &'a Board,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) draws: Draws<'a>,
    /// How long the run is.
    pub(crate) duration: Duration,
    /// The nodes of the devices that all others are at.
    pub(crate) devices: &'a [String],
    /// The first actors of the processes that are at them.
    pub(crate) victims: &'a [usize],
}

/// What an actor does, once: whether it counts.
type Act = fn(&mut Actor<'_>) -> io::Result<bool>;

/// Each with how often it has to act in ten minutes at least, as in [`crate::actors::ACTORS`].
pub(crate) const ACTORS: [(&str, u64, Act); 8] = [
    ("compactor", 15, |actor| actor.compact()),
    ("cache dropper", 12, |actor| actor.drop_caches()),
    ("reclaimer", 10, |actor| actor.reclaim()),
    (MIGRATOR, 12, |actor| actor.migrate()),
    (OFFLINER, 12, |actor| actor.offline()),
    (POISONER, 2, |actor| actor.poison()),
    ("destroyer", 2, |actor| actor.destroy()),
    ("unloader", 500, |actor| actor.unload()),
];

const OFFLINER: &str = "soft offliner";
const POISONER: &str = "poisoner";

/// How often an actor acts at most.
pub(crate) fn most(name: &str) -> u64 {
    match name {
        OFFLINER => OFFLINED,
        POISONER => POISONED,
        _ => u64::MAX,
    }
}

/// Whether the kernel moves pages between nodes (`CONFIG_NUMA_MIGRATION`), of which there are two.
pub(crate) fn can_migrate() -> io::Result<bool> {
    match numa::migrate(getpid(), 0, 0) {
        Err(error) if is_one_of(&error, &[Errno::NOSYS]) => Ok(false),
        result => result.map(|_| true),
    }
}

impl Actor<'_> {
    /// Acts until the end.
    pub(crate) fn run(&mut self, act: Act) -> io::Result<()> {
        while self.board.goes_on() {
            self.draws.begin_act();
            if act(self)? {
                self.board.acted(self.draws.actor());
            }
        }
        Ok(())
    }

    fn compact(&mut self) -> io::Result<bool> {
        fs::write("/proc/sys/vm/compact_memory", "1")?;
        self.board.pause(Duration::from_millis(200));
        Ok(true)
    }

    fn drop_caches(&mut self) -> io::Result<bool> {
        let what = 1 + self.draws.below(3);
        fs::write("/proc/sys/vm/drop_caches", what.to_string())?;
        self.board.pause(Duration::from_millis(400));
        Ok(true)
    }

    fn reclaim(&mut self) -> io::Result<bool> {
        match self.cgroup.reclaim((1 + self.draws.below(8) as u64) << 20) {
            // There is not as much that can go.
            Err(error) if is_one_of(&error, &[Errno::AGAIN]) => {}
            result => result?,
        }
        self.board.pause(Duration::from_millis(300));
        Ok(true)
    }

    fn migrate(&mut self) -> io::Result<bool> {
        let nodes = numa::nodes()?;
        let [one, other, ..] = nodes[..] else {
            return Err(wrong("there is one node of memory, and two are needed"));
        };
        let (from, to) = [(one, other), (other, one)][self.draws.below(2)];
        let victim = self.victims[self.draws.below(self.victims.len())];
        let Some(process) = self.board.process(victim) else {
            self.board.pause(Duration::from_millis(20));
            return Ok(false);
        };
        // Some are in use at this moment, and stay.
        match numa::migrate(process, from, to) {
            Err(error) if is_one_of(&error, &[Errno::SRCH]) && !self.board.goes_on() => {}
            result => drop(result?),
        }
        self.board.pause(Duration::from_millis(100));
        Ok(true)
    }

    /// Has the kernel take the memory of a page of the others' out of use, which moves what is in it.
    fn offline(&mut self) -> io::Result<bool> {
        if self.board.acts(self.draws.actor()) >= OFFLINED {
            self.board.pause(Duration::from_millis(500));
            return Ok(false);
        }
        let kind = self.draws.below(self.devices.len());
        let page = self.draws.below(FIXED);
        self.draws.note(page);
        let device = Device::open_with(&self.devices[kind], OFlags::RDWR)?;
        let mapping = Mapping::shared(&device, FIXED * PAGE)?;
        let result = mapping.advise(page * PAGE, PAGE, Advice::LinuxSoftOffline);
        // So that the others have as much to act on all of the time.
        self.board.pause(self.duration / (2 * OFFLINED as u32));
        match result {
            Ok(()) => Ok(true),
            // Somebody uses it at this moment.
            Err(error) if is_one_of(&error, &[Errno::BUSY, Errno::IO, Errno::AGAIN]) => Ok(false),
            Err(error) => Err(wrong(format!("soft offline of page {page}: {error}"))),
        }
    }

    /// Has a page of a device of its own go bad: that one is lost, and no other.
    fn poison(&mut self) -> io::Result<bool> {
        const NAME: &str = "stress-poisoned";
        let acts = self.board.acts(self.draws.actor());
        if acts >= POISONED {
            self.board.pause(Duration::from_millis(500));
            return Ok(false);
        }
        let kinds = kinds::that_can_be_made();
        // In turn, not the two of files in a row; in two minutes not all may have one, so that each seed begins with another.
        let turn = acts.wrapping_add(self.draws.seed()) % kinds.len() as u64;
        let kind = &kinds[turn as usize * 3 % kinds.len()];
        let page = self.draws.below(SIZE / PAGE);
        let is_dirty = self.draws.one_in(2);
        self.draws.note(page);
        let control = Control::open()?;
        kind.create(&control, NAME, SIZE)?;
        let bad = Bad {
            device: Device::open_with(control::node(NAME), OFlags::RDWR)?,
            page,
        };
        let result = match kind.stored(NAME)? {
            None => bad.is_lost(kind),
            Some(file) => bad.is_read_again(&file, is_dirty),
        };
        result.map_err(|error| wrong(format!("a bad page {page} with {}: {error}", kind.name)))?;
        kind.destroy(&control, NAME)?;
        self.board.pause(self.duration / (2 * POISONED as u32));
        Ok(true)
    }

    /// Makes a device, and takes it away while children are at it.
    fn destroy(&mut self) -> io::Result<bool> {
        const NAME: &str = "stress-destroyed";
        let kinds = kinds::that_can_be_made();
        let kind = &kinds[self.draws.below(kinds.len())];
        let control = Control::open()?;
        kind.create(&control, NAME, SIZE)?;
        let file = kind.stored(NAME)?;
        let device = Device::open_with(control::node(NAME), OFlags::RDWR)?;
        let mapping = Mapping::shared(&device, SIZE)?;
        let fresh = mapping.load(self.draws.below(SIZE));
        ensure(fresh == 0, || {
            format!("a new device: expected zeros, seen {fresh:#x}")
        })?;
        let mut at = Random::new(self.draws.next_u64());
        let children = (0..2)
            .map(|number| {
                let mut at = Random::new(at.next_u64());
                Child::run(|| loop {
                    let offset = at.below(SIZE);
                    match number {
                        0 => mapping.store(offset, 1),
                        _ => drop(mapping.load(offset)),
                    }
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        self.board
            .pause(Duration::from_millis(self.draws.below(60) as u64));
        let stored = self.draws.below(SIZE);
        mapping.store(stored, 1);
        let taken = control.create(control::memory(NAME, SIZE as u64)?);
        ensure_errno(taken, Errno::EXIST, "making a device of the same name")?;
        if self.draws.below(2) == 0 {
            device.destroy()?;
        } else {
            control.destroy(NAME)?;
        }
        for child in children {
            let outcome = child.wait(Some(Duration::from_secs(30) * slowness()))?;
            let is_right = outcome == Outcome::Killed(Signal::BUS.as_raw());
            ensure(is_right, || {
                format!("a child at a destroyed device: expected SIGBUS, seen {outcome:?}")
            })?;
        }
        let touch = child::touch(mapping.address(self.draws.below(SIZE)), false)?;
        ensure(matches!(touch, Touch::BusError(_)), || {
            format!("a touch of a destroyed device: expected SIGBUS, seen {touch:?}")
        })?;
        let mut byte = [0];
        let read = pread(&device, &mut byte, 0).map_err(io::Error::from);
        ensure_errno(read, Errno::NODEV, "a read of a destroyed device")?;
        let written = pwrite(&device, &byte, 0).map_err(io::Error::from);
        ensure_errno(written, Errno::NODEV, "a write to a destroyed device")?;
        ensure_errno(
            device.punch(0, 1),
            Errno::NODEV,
            "punching a destroyed device",
        )?;
        if let Some(file) = file {
            let bytes = file.read(0, SIZE / PAGE)?;
            let is_right = bytes[stored] == 1 && bytes.iter().all(|&byte| byte <= 1);
            ensure(is_right, || {
                "the file of a destroyed device has not what was stored".into()
            })?;
            file.check_before()?;
        }
        kind.create(&control, NAME, SIZE)?;
        kind.destroy(&control, NAME)?;
        Ok(true)
    }

    /// Tries to unload the module, which is in use.
    fn unload(&mut self) -> io::Result<bool> {
        match module::remove() {
            Err(error) if module::is_busy(&error) => {}
            result => return Err(wrong(format!("unloading: expected busy, seen {result:?}"))),
        }
        self.board.pause(Duration::from_millis(30));
        Ok(true)
    }
}

/// A device of which one page goes bad.
struct Bad {
    device: Device,
    page: usize,
}

/// What the kernel has said to who has a page go bad.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    /// That nobody will come to it any more.
    Done,
    /// That somebody may.
    Busy,
    /// A signal, as what was in it is lost.
    Lost,
}

impl Bad {
    /// What is in a page: other bytes in each round.
    fn content(page: usize, round: u64) -> Vec<u8> {
        Self::word(page, round).to_ne_bytes().repeat(PAGE / 8)
    }

    fn word(page: usize, round: u64) -> u64 {
        (page as u64 + 1) * 0x0101_0101_0101 + round
    }

    fn write(&self, page: usize, round: u64) -> io::Result<()> {
        let place = (page * PAGE) as u64;
        let written = pwrite(&self.device, &Self::content(page, round), place)?;
        ensure(written == PAGE, || format!("{written} bytes were written"))
    }

    fn write_all(&self) -> io::Result<()> {
        (0..SIZE / PAGE).try_for_each(|page| self.write(page, 0))
    }

    fn read(&self, page: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0xAA; PAGE];
        let read = pread(&self.device, &mut bytes, (page * PAGE) as u64)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Looks whether pages have what they must, by a call and in a mapping.
    fn check(
        &self,
        mapping: &Mapping,
        pages: impl Iterator<Item = usize>,
        expected: impl Fn(usize) -> Vec<u8>,
    ) -> io::Result<()> {
        for page in pages {
            let expected = expected(page);
            ensure(self.read(page)? == expected, || {
                format!("page {page} is wrong by pread()")
            })?;
            ensure(mapping.read(page * PAGE, PAGE) == expected, || {
                format!("page {page} is wrong in a mapping")
            })?;
        }
        Ok(())
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<'_> {
        (0..SIZE / PAGE).filter(|&page| page != self.page)
    }

    /// Has the page go bad; returns what the kernel said, and the page frame in which it was.
    fn go(&self) -> io::Result<(Said, u64)> {
        let noted = memfd_create("bad frame", MemfdFlags::CLOEXEC)?;
        ftruncate(&noted, PAGE as u64)?;
        let noted = Mapping::shared(&noted, PAGE)?;
        // In a process of its own: whoever has the page mapped may be told by a signal.
        let poisoner = Child::run(|| {
            let poison = || -> io::Result<()> {
                let mapping = Mapping::shared(&self.device, SIZE)?;
                mapping.touch_read(self.page * PAGE, PAGE);
                let frame = pagemap::frame(mapping.address(self.page * PAGE))?;
                noted.word(0).store(frame.unwrap_or_default(), SeqCst);
                mapping.advise(self.page * PAGE, PAGE, Advice::LinuxHwPoison)
            };
            match poison() {
                Ok(()) => Vec::new(),
                // The kernel has poisoned the page, and cannot say that nobody will come to it: somebody uses it, or the
                // folio, which could not be split for that.
                Err(error) if is_one_of(&error, &[Errno::BUSY, Errno::HWPOISON]) => {
                    b"busy".to_vec()
                }
                Err(error) => error.to_string().into_bytes(),
            }
        })?;
        let said = match poisoner.wait(Some(Duration::from_secs(30) * slowness()))? {
            Outcome::Returned(words) if words.is_empty() => Said::Done,
            Outcome::Returned(words) if words == b"busy" => Said::Busy,
            Outcome::Killed(signal) if signal == Signal::BUS.as_raw() => Said::Lost,
            Outcome::Returned(words) => return Err(wrong(String::from_utf8_lossy(&words))),
            other => return Err(wrong(format!("{other:?}"))),
        };
        Ok((said, noted.word(0).load(SeqCst)))
    }

    /// Has the page go bad while others are at its neighbours by calls, and where the bytes are in memory alone at the page
    /// itself: who reads, and there who writes the same again.
    fn go_beside_others(&self, is_stored: bool) -> io::Result<(Said, u64)> {
        let goes_on = AtomicBool::new(true);
        let read = |page| match self.read(page) {
            _ if is_stored && page == self.page => Ok(()),
            Err(error) if page == self.page && is_one_of(&error, &[Errno::IO]) => Ok(()),
            seen => ensure(seen? == Self::content(page, 0), || {
                format!("page {page} is wrong while page {} goes bad", self.page)
            }),
        };
        // It fails for all pages that have a folio in common with the bad one.
        let write = |page| match self.write(page, 0) {
            Err(error) if is_one_of(&error, &[Errno::IO]) => Ok(()),
            result => result,
        };
        thread::scope(|scope| {
            let reader = scope.spawn(|| self.keep_at(&goes_on, read));
            let writer = (!is_stored).then(|| scope.spawn(|| self.keep_at(&goes_on, write)));
            let said = self.go();
            goes_on.store(false, SeqCst);
            for other in [Some(reader), writer].into_iter().flatten() {
                other.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            }
            said
        })
    }

    /// Does something to the page and its neighbours in turn, until that is to end.
    fn keep_at(
        &self,
        goes_on: &AtomicBool,
        act: impl Fn(usize) -> io::Result<()>,
    ) -> io::Result<()> {
        const NEIGHBOURS: usize = 4;
        let first = self.page.saturating_sub(NEIGHBOURS);
        let last = (self.page + NEIGHBOURS).min(SIZE / PAGE - 1);
        while goes_on.load(SeqCst) {
            (first..=last).try_for_each(&act)?;
        }
        Ok(())
    }

    /// Looks whether the page is gone for all, where its bytes are in memory alone, until it is punched.
    fn is_lost(&self, kind: &Kind) -> io::Result<()> {
        self.write_all()?;
        let (said, bad_frame) = self.go_beside_others(false)?;
        let mapping = Mapping::shared(&self.device, SIZE)?;
        // Where the kernel could not take it out of its folio, or that was on its way to another place, whoever moves pages may
        // have it elsewhere by now, or at any moment: the kernel copies a folio without a look at which of its pages are bad. That
        // place is good, and as no memory is really bad here, so are the bytes.
        let may_move = said != Said::Done;
        let has_moved = |is_touched: bool| -> io::Result<()> {
            let frame_now = || self.device.frame((self.page * PAGE) as u64);
            let (frame, is_bad) = loop {
                let frame = frame_now()?.frame;
                let is_bad = pagemap::is_poisoned(frame)?;
                if frame_now()?.frame == frame {
                    break (frame, is_bad);
                }
            };
            ensure(!is_bad && frame != bad_frame, || {
                format!("page {} is used in bad memory", self.page)
            })?;
            self.check(&mapping, 0..SIZE / PAGE, |page| {
                let mut bytes = Self::content(page, 0);
                if is_touched && page == self.page {
                    bytes[0] = 1;
                }
                bytes
            })
        };
        if may_move && self.read(self.page).is_ok() {
            return has_moved(false);
        }
        for write in [false, true] {
            match child::touch(mapping.address(self.page * PAGE), write)? {
                Touch::BusError(_) => {}
                Touch::Done if may_move => return has_moved(write),
                touch => return Err(wrong(format!("expected SIGBUS, seen {touch:?}"))),
            }
        }
        match self.read(self.page) {
            Ok(_) if may_move => return has_moved(false),
            result => ensure_errno(result, Errno::IO, "a read of it")?,
        }
        self.check(&mapping, self.others(), |page| Self::content(page, 0))?;
        // By itself first, so that its folio is split: the kernel keeps back a bad page that is given up alone, and has no eye
        // for one in a larger piece, which somebody would get. Then with the whole of what its folio may have been, as a part
        // is overwritten where it cannot be split.
        self.device.punch((self.page * PAGE) as u64, PAGE as u64)?;
        let unit = kind.folio / PAGE;
        let first = self.page / unit * unit;
        let start = (first * PAGE) as u64;
        self.device.punch(start, kind.folio as u64)?;
        let mapping = Mapping::shared(&self.device, SIZE)?;
        self.check(&mapping, 0..SIZE / PAGE, |page| {
            if (first..first + unit).contains(&page) {
                vec![0; PAGE]
            } else {
                Self::content(page, 0)
            }
        })
    }

    /// Looks whether the page is read again, where its bytes are in a file as well: those that the file has, with an
    /// error for each open file where these are not those that were written last.
    fn is_read_again(&self, file: &Stored, is_dirty: bool) -> io::Result<()> {
        self.write_all()?;
        fsync(&self.device)?;
        // One in which it stays bad, if it is lost.
        let before = Mapping::shared(&self.device, SIZE)?;
        before.touch_read(self.page * PAGE, PAGE);
        if is_dirty {
            self.write(self.page, 1)?;
        }
        let (said, _) = self.go_beside_others(true)?;
        let synced = fsync(&self.device);
        let is_lost = synced == Err(Errno::IO);
        ensure(synced.is_ok() || is_lost, || format!("fsync(): {synced:?}"))?;
        ensure(is_dirty || !is_lost, || "what was clean is lost".into())?;
        ensure(said != Said::Lost || is_dirty, || {
            "a signal, and it was clean".into()
        })?;
        let again = fsync(&self.device);
        ensure(again.is_ok(), || format!("fsync() once more: {again:?}"))?;
        let round = u64::from(is_dirty && !is_lost);
        let is_there = file.read(self.page, 1)? == Self::content(self.page, round);
        ensure(is_there, || "the file has other bytes".into())?;
        let mapping = Mapping::shared(&self.device, SIZE)?;
        // If the kernel did nothing but mark it, as it was on its way to another place, it is there still.
        let is_gone = said == Said::Done || is_lost;
        if is_gone {
            // Which has it bad only if it had it at that moment: others may have had it taken out.
            let loaded = before.try_load_word(self.page * PAGE);
            let expected = Self::word(self.page, round);
            let is_right = loaded.map_or(is_lost, |word| word == expected);
            ensure(is_right, || {
                format!("in a mapping that had it, lost: {is_lost}: {loaded:?}")
            })?;
            let page = self.page;
            self.check(&mapping, page..page + 1, |page| Self::content(page, round))?;
            // What takes its place is as good as any.
            self.write(page, 2)?;
            fsync(&self.device)?;
            self.check(&mapping, page..page + 1, |page| Self::content(page, 2))?;
            let is_there = file.read(page, 1)? == Self::content(page, 2);
            ensure(is_there, || "the file has not what was written next".into())?;
        }
        self.check(&mapping, self.others(), |page| Self::content(page, 0))?;
        file.check_before()
    }
}

const _: () = assert!(SIZE % HUGE_PAGE == 0);
// Each kind has its turn.
const _: () = assert!((kinds::KINDS.len() - 1) % 3 != 0);
