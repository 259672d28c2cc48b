// SPDX-License-Identifier: GPL-2.0

//! What is done to the machine and to devices as a whole, while others are at their pages.

use crate::actors::{ensure, ensure_errno, is_one_of, wrong, FIXED};
use crate::board::Board;
use crate::draws::Draws;
use crate::kinds;
use mmapdev_userspace::cgroup::Cgroup;
use mmapdev_userspace::child::{self, Child, Outcome, Touch};
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::random::Random;
use mmapdev_userspace::slowness;
use mmapdev_userspace::{module, numa};
use mmapdev_userspace::{HUGE_PAGE, MIB, PAGE};
use rustix::fs::OFlags;
use rustix::io::{pread, pwrite, Errno};
use rustix::mm::Advice;
use rustix::process::{getpid, Signal};
use std::fs;
use std::io;
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

/// Each with how often it has to act in a minute at least, on a machine of usual speed.
pub(crate) const ACTORS: [(&str, u64, Act); 8] = [
    ("compactor", 6, |actor| actor.compact()),
    ("cache dropper", 6, |actor| actor.drop_caches()),
    ("reclaimer", 6, |actor| actor.reclaim()),
    (MIGRATOR, 8, |actor| actor.migrate()),
    ("soft offliner", 4, |actor| actor.offline()),
    ("poisoner", 4, |actor| actor.poison()),
    ("destroyer", 8, |actor| actor.destroy()),
    ("unloader", 100, |actor| actor.unload()),
];

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
        let kind = &kinds::of_memory()[acts as usize % kinds::of_memory().len()];
        let bad = self.draws.below(SIZE / PAGE);
        self.draws.note(bad);
        let control = Control::open()?;
        control.create(kind.plan(NAME, SIZE)?)?;
        let device = Device::open_with(control::node(NAME), OFlags::RDWR)?;
        let said = |words: String| format!("a bad page {bad} with {}: {words}", kind.name);
        let content = |page: usize| {
            let word = (page as u64 + 1) * 0x0101_0101_0101;
            word.to_ne_bytes().repeat(PAGE / 8)
        };
        for page in 0..SIZE / PAGE {
            let written = pwrite(&device, &content(page), (page * PAGE) as u64)?;
            ensure(written == PAGE, || said(format!("{written} were written")))?;
        }
        // In a process of its own: whoever has the page mapped may be told by a signal.
        let poisoner = Child::run(|| {
            let poison = || -> io::Result<()> {
                let mapping = Mapping::shared(&device, SIZE)?;
                mapping.touch_read(bad * PAGE, PAGE);
                mapping.advise(bad * PAGE, PAGE, Advice::LinuxHwPoison)
            };
            match poison() {
                Ok(()) => Vec::new(),
                // The kernel has poisoned the page, and cannot say that nobody will come to it.
                Err(error) if is_one_of(&error, &[Errno::BUSY]) => Vec::new(),
                Err(error) => error.to_string().into_bytes(),
            }
        })?;
        let outcome = poisoner.wait(Some(Duration::from_secs(30) * slowness()))?;
        let told = [
            Outcome::Returned(Vec::new()),
            Outcome::Killed(Signal::BUS.as_raw()),
        ];
        ensure(told.contains(&outcome), || said(format!("{outcome:?}")))?;

        let mapping = Mapping::shared(&device, SIZE)?;
        for write in [false, true] {
            let touch = child::touch(mapping.address(bad * PAGE), write)?;
            let is_right = matches!(touch, Touch::BusError(_));
            ensure(is_right, || {
                said(format!("expected SIGBUS, seen {touch:?}"))
            })?;
        }
        let mut bytes = [0; PAGE];
        let read = pread(&device, &mut bytes, (bad * PAGE) as u64).map_err(io::Error::from);
        ensure_errno(read, Errno::IO, said("a read of it".into()))?;
        let check = |mapping: &Mapping, is_zero: &dyn Fn(usize) -> bool| -> io::Result<()> {
            for page in (0..SIZE / PAGE).filter(|&page| page != bad || is_zero(page)) {
                let expected = if is_zero(page) {
                    vec![0; PAGE]
                } else {
                    content(page)
                };
                let mut bytes = [1; PAGE];
                let read = pread(&device, &mut bytes, (page * PAGE) as u64)?;
                let is_right = read == PAGE && bytes[..] == expected;
                ensure(is_right, || {
                    said(format!("page {page} is wrong by pread()"))
                })?;
                let is_right = mapping.read(page * PAGE, PAGE) == expected;
                ensure(is_right, || {
                    said(format!("page {page} is wrong in a mapping"))
                })?;
            }
            Ok(())
        };
        check(&mapping, &|_| false)?;
        // With the whole of what its folio may have been, as a part is overwritten where it is.
        let unit = kind.folio / PAGE;
        let first = bad / unit * unit;
        device.punch((first * PAGE) as u64, kind.folio as u64)?;
        check(&Mapping::shared(&device, SIZE)?, &|page| {
            (first..first + unit).contains(&page)
        })?;
        control.destroy(NAME)?;
        self.board.pause(self.duration / (2 * POISONED as u32));
        Ok(true)
    }

    /// Makes a device, and takes it away while children are at it.
    fn destroy(&mut self) -> io::Result<bool> {
        const NAME: &str = "stress-destroyed";
        let kind = &kinds::of_memory()[self.draws.below(kinds::of_memory().len())];
        let control = Control::open()?;
        control.create(kind.plan(NAME, SIZE)?)?;
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
        let taken = control.create(kind.plan(NAME, SIZE)?);
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
        control.create(kind.plan(NAME, SIZE)?)?;
        control.destroy(NAME)?;
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

const _: () = assert!(SIZE % HUGE_PAGE == 0);
