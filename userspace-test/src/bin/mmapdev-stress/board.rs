// SPDX-License-Identifier: GPL-2.0

//! What all processes of a run share: how often each actor has acted, what it is at, and whether to stop.

use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::PAGE;
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use rustix::process::Pid;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Bytes of an actor's part of the board.
const PART: usize = 64;
/// Where its words are: how often it has acted, the page that it is at, of which process it is, and whether the others had to
/// go on because of it.
const ACTS: usize = 0;
const AT: usize = 8;
const PROCESS: usize = 16;
const LATE: usize = 24;
const STOP: usize = 0;

/// The board: the first part of it says whether to stop, and each other is an actor's.
pub(crate) struct Board {
    mapping: Mapping,
    /// How often each actor has to act at least.
    least: Vec<u64>,
    end: Instant,
    /// When it ends in any case.
    latest: Instant,
}

impl Board {
    /// A board for actors that have to act so often at least, and act for this long; or longer, up to `grace`, as long as one
    /// has not come to that, which is where the machine is slow.
    pub(crate) fn new(least: Vec<u64>, duration: Duration, grace: Duration) -> io::Result<Self> {
        let len = ((least.len() + 1) * PART).next_multiple_of(PAGE);
        let memory = memfd_create("board", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, len as u64)?;
        Ok(Self {
            mapping: Mapping::shared(&memory, len)?,
            least,
            end: Instant::now() + duration,
            latest: Instant::now() + duration + grace,
        })
    }

    /// Has all actors stop: something has failed.
    pub(crate) fn stop(&self) {
        self.mapping.word(STOP).store(1, SeqCst);
    }

    /// Whether something has failed.
    pub(crate) fn is_stopped(&self) -> bool {
        self.mapping.word(STOP).load(SeqCst) != 0
    }

    /// Whether the actors go on.
    pub(crate) fn goes_on(&self) -> bool {
        let now = Instant::now();
        if self.is_stopped() {
            return false;
        }
        if now < self.end {
            return true;
        }
        if now >= self.latest {
            return false;
        }
        let mut goes_on = false;
        for actor in 0..self.least.len() {
            if self.acts(actor) < self.least[actor] {
                self.word(actor, LATE).store(1, SeqCst);
                goes_on = true;
            }
        }
        goes_on
    }

    /// Whether the others have gone on for longer than they were to, as this one had not acted often enough by then.
    pub(crate) fn was_late(&self, actor: usize) -> bool {
        self.word(actor, LATE).load(SeqCst) != 0
    }

    /// How often an actor has to act at least.
    pub(crate) fn least(&self, actor: usize) -> u64 {
        self.least[actor]
    }

    /// Sleeps, though not beyond the end.
    pub(crate) fn pause(&self, duration: Duration) {
        let until = Instant::now() + duration;
        while self.goes_on() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20).min(duration));
        }
    }

    fn word(&self, actor: usize, word: usize) -> &AtomicU64 {
        self.mapping.word((actor + 1) * PART + word)
    }

    /// Notes that an actor has acted.
    pub(crate) fn acted(&self, actor: usize) {
        self.word(actor, ACTS).fetch_add(1, SeqCst);
    }

    /// Notes which page an actor is at.
    pub(crate) fn is_at(&self, actor: usize, page: usize) {
        self.word(actor, AT).store(page as u64, SeqCst);
    }

    /// Notes of which process an actor is.
    pub(crate) fn is_of(&self, actor: usize, process: Pid) {
        let number = process.as_raw_nonzero().get();
        self.word(actor, PROCESS).store(number as u64, SeqCst);
    }

    /// How often an actor has acted.
    pub(crate) fn acts(&self, actor: usize) -> u64 {
        self.word(actor, ACTS).load(SeqCst)
    }

    /// The page that an actor was at last.
    pub(crate) fn at(&self, actor: usize) -> u64 {
        self.word(actor, AT).load(SeqCst)
    }

    /// The process that an actor is of, once that has begun.
    pub(crate) fn process(&self, actor: usize) -> Option<Pid> {
        let number = i32::try_from(self.word(actor, PROCESS).load(SeqCst)).ok()?;
        Pid::from_raw(number)
    }
}
