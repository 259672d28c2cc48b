// SPDX-License-Identifier: GPL-2.0

//! What is done to one device: each actor is a thread, and does one thing after the other.

use crate::board::Board;
use crate::draws::Draws;
use crate::kinds::{Kind, Stored};
use crate::model::{Content, Locked, Model, WORDS};
use mmapdev_userspace::child::{self, Child, Outcome, Touch};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::fixed_buffer::FixedBuffer;
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::slowness;
use mmapdev_userspace::{HUGE_PAGE, KIB, MIB, PAGE};
use rustix::fs::{self, MemfdFlags, Mode, OFlags};
use rustix::io::{pread, pwrite, pwritev, Errno};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use std::fmt::Display;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes in a device when it is whole.
pub(crate) const SIZE: usize = 12 * MIB;
/// Pages in it.
pub(crate) const PAGES: usize = SIZE / PAGE;
/// Pages that it always has: no resize goes below.
pub(crate) const FIXED: usize = PAGES / 2;
/// Pages that an actor has room for, in its file on the disk and in its buffer.
const ROOM: usize = 64;
const DISK: &str = "/mnt/disk";

/// What all actors of a device have.
pub(crate) struct Scene<'a> {
    pub(crate) kind: &'static Kind,
    pub(crate) device: Device,
    /// The file that it is stored in, if it is.
    pub(crate) file: Option<Stored>,
    /// A mapping that stays, as all others come and go.
    pub(crate) mapping: Mapping,
    pub(crate) model: Model,
    pub(crate) end: End,
    pub(crate) board: &'a Board,
}

/// How many cuts are remembered.
const CUTS: usize = 64;

/// What those who are not at its last page know of where the device ends.
pub(crate) struct End {
    /// The pages at which it was cut off, each in its turn.
    cuts: [AtomicUsize; CUTS],
    /// How often it was cut off and made whole again: odd from just before the one until just after the other.
    moves: AtomicUsize,
}

impl End {
    /// That of a device that is whole.
    pub(crate) fn new() -> Self {
        Self {
            cuts: [const { AtomicUsize::new(PAGES) }; CUTS],
            moves: 0.into(),
        }
    }

    /// Notes that it is about to be cut off. (One does so at a time.)
    fn is_cut_off(&self, at: usize) {
        self.cuts[self.moves.load(SeqCst) / 2 % CUTS].store(at, SeqCst);
        self.moves.fetch_add(1, SeqCst);
    }

    /// Notes that it is whole again.
    fn is_whole(&self) {
        self.moves.fetch_add(1, SeqCst);
    }

    /// Returns the page at which it was cut off last.
    fn last(&self) -> usize {
        let cuts = self.moves.load(SeqCst).div_ceil(2);
        self.cuts[cuts.saturating_sub(1) % CUTS].load(SeqCst)
    }

    /// Begins something that the end may cut short; what is returned says at which page at the earliest.
    fn watch(&self) -> impl Fn() -> usize + use<'_> {
        let first = self.moves.load(SeqCst) / 2;
        move || {
            let cuts = (first..self.moves.load(SeqCst).div_ceil(2))
                .map(|cut| self.cuts[cut % CUTS].load(SeqCst));
            let lowest = cuts.min().unwrap_or(PAGES);
            // What was read may be of later ones.
            if self.moves.load(SeqCst).div_ceil(2) - first < CUTS {
                lowest
            } else {
                FIXED
            }
        }
    }
}

/// One that acts.
pub(crate) struct Actor<'a> {
    scene: &'a Scene<'a>,
    draws: Draws<'a>,
    /// A file on the disk for direct I/O, which has no name.
    disk: OwnedFd,
    /// A file in memory, to copy to by calls.
    memory: OwnedFd,
    /// Memory of its own.
    buffer: Mapping,
}

/// What an actor does, once.
type Act = fn(&mut Actor<'_>) -> io::Result<()>;

/// Each with how often it has to act in ten minutes at least, on the kernel that looks for mistakes: a quarter of what it does
/// on two emulated CPUs that have other things to do as well.
pub(crate) const ACTORS: [(&str, u64, Act); 11] = [
    ("storer", 4, |actor| actor.store()),
    ("storer through fresh mappings", 8, |actor| {
        actor.store_freshly()
    }),
    ("caller", 15, |actor| actor.call()),
    ("reader", 4, |actor| actor.read()),
    ("racing reader", 10, |actor| actor.race()),
    ("puncher", 5, |actor| actor.punch()),
    ("resizer", 3, |actor| actor.resize()),
    ("remapper", 3, |actor| actor.remap()),
    ("forker", 5, |actor| actor.fork()),
    ("direct I/O", 3, |actor| actor.direct()),
    ("pinner", 3, |actor| actor.pin()),
];

/// An error of these words.
pub(crate) fn wrong(words: impl Display) -> io::Error {
    io::Error::other(words.to_string())
}

/// `Err` with these words unless it is so.
pub(crate) fn ensure(is_so: bool, words: impl FnOnce() -> String) -> io::Result<()> {
    if is_so {
        Ok(())
    } else {
        Err(wrong(words()))
    }
}

/// `Err` unless something has failed, and so.
pub(crate) fn ensure_errno<T>(
    result: io::Result<T>,
    errno: Errno,
    what: impl Display,
) -> io::Result<()> {
    let seen = match result {
        Ok(_) => "success".to_string(),
        Err(error) if error.raw_os_error() == Some(errno.raw_os_error()) => return Ok(()),
        Err(error) => error.to_string(),
    };
    Err(wrong(format!("{what}: expected {errno}, seen {seen}")))
}

/// Whether an error is one of these.
pub(crate) fn is_one_of(error: &io::Error, errnos: &[Errno]) -> bool {
    let mut numbers = errnos.iter().map(|errno| Some(errno.raw_os_error()));
    numbers.any(|number| number == error.raw_os_error())
}

/// Says how a page was looked at, where something is wrong with it.
pub(crate) fn as_seen<T>(result: Result<T, String>, how: &str) -> io::Result<T> {
    result.map_err(|words| wrong(format!("by {how}: {words}")))
}

/// Whether advice is to bring pages in.
fn is_populating(advice: Advice) -> bool {
    matches!(
        advice,
        Advice::LinuxPopulateRead | Advice::LinuxPopulateWrite
    )
}

impl Scene<'_> {
    /// Gives advice on pages from `first` on, which a mapping has at `start`. Pages that are to be brought in may be
    /// beyond the end, if it moves.
    fn advise(
        &self,
        mapping: &Mapping,
        first: usize,
        start: usize,
        pages: usize,
        advice: Advice,
    ) -> io::Result<()> {
        let lowest_end = self.end.watch();
        match mapping.advise(start, pages * PAGE, advice) {
            Err(error)
                if is_populating(advice)
                    && first + pages > lowest_end()
                    && is_one_of(&error, &[Errno::FAULT]) =>
            {
                Ok(())
            }
            result => result.map_err(|error| {
                let name = format!("{advice:?} of {pages} pages at page {first}");
                wrong(format!("{name}: expected success, seen {error}"))
            }),
        }
    }

    /// Brings pages in that others are at, which changes nothing of what is in them.
    fn populate(&self, first: usize, pages: usize, advice: Advice) -> io::Result<()> {
        self.advise(&self.mapping, first, first * PAGE, pages, advice)
    }
}

impl<'a> Actor<'a> {
    /// An actor whose choices come from `seed`.
    pub(crate) fn new(scene: &'a Scene<'a>, number: usize, seed: u64) -> io::Result<Self> {
        let path = format!("{DISK}/stress-{number}");
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::DIRECT;
        let disk = fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
        fs::unlink(&path)?;
        let memory = fs::memfd_create("stress", MemfdFlags::CLOEXEC)?;
        fs::ftruncate(&memory, (ROOM * PAGE) as u64)?;
        let buffer = Mapping::anonymous(ROOM * PAGE)?;
        Ok(Self {
            scene,
            draws: Draws::new(scene.board, number, seed),
            disk,
            memory,
            buffer,
        })
    }

    /// Acts until the end.
    pub(crate) fn run(&mut self, act: Act) -> io::Result<()> {
        let board = self.scene.board;
        while board.goes_on() {
            self.draws.begin_act();
            act(self)?;
            board.acted(self.draws.actor());
        }
        Ok(())
    }

    /// Locks at most so many pages; none where the first is beyond the end.
    fn lock(&mut self, longest: usize) -> Vec<Locked<'a>> {
        let (first, pages) = self.draws.run_of(longest);
        self.scene.model.lock_existing(first, pages)
    }

    fn map(&self, first: usize, pages: usize, flags: MapFlags) -> io::Result<Mapping> {
        let (offset, len) = ((first * PAGE) as u64, pages * PAGE);
        Mapping::new(&self.scene.device, len, READ_WRITE, flags, offset)
    }

    /// Compares pages with what `pread()` gives.
    fn check_by_call(&self, pages: &[Locked<'_>]) -> io::Result<()> {
        check_by_call(&self.scene.device, pages)
    }

    /// Stores the next content to a page through a mapping that begins at page `first`.
    fn store_page(page: &mut Locked<'_>, mapping: &Mapping, first: usize) -> io::Result<()> {
        let next = page.content().stored();
        page.begin(next);
        let start = (page.page() - first) * PAGE;
        for (word, at) in WORDS.into_iter().enumerate() {
            let value = page.word_of(word, next);
            let before = mapping.word(start + at).swap(value, SeqCst);
            as_seen(page.check_word(word, before), "a store")?;
        }
        page.finish(next);
        Ok(())
    }

    fn store(&mut self) -> io::Result<()> {
        for _ in 0..4 {
            // Whether these pages are there or beyond the end.
            let is_looked_at = [self.draws.one_in(4), self.draws.one_in(4)];
            for mut page in self.lock(2) {
                Self::store_page(&mut page, &self.scene.mapping, 0)?;
                if is_looked_at[page.page() % 2] {
                    let seen = self.scene.mapping.read(page.page() * PAGE, PAGE);
                    as_seen(page.check(&seen), "the storer's load")?;
                }
            }
        }
        Ok(())
    }

    fn store_freshly(&mut self) -> io::Result<()> {
        let (first, pages) = self.draws.run_of(128);
        let mapping = self.map(first, pages, MapFlags::SHARED)?;
        for _ in 0..4 {
            let at = first + self.draws.below(pages);
            for mut page in self.scene.model.lock_existing(at, 1) {
                Self::store_page(&mut page, &mapping, first)?;
                let seen = mapping.read((at - first) * PAGE, PAGE);
                as_seen(page.check(&seen), "a load through a fresh mapping")?;
            }
        }
        Ok(())
    }

    /// Writes whole pages, in one piece or several.
    fn call(&mut self) -> io::Result<()> {
        let longest = if self.draws.one_in(8) { 48 } else { 6 };
        let mut pages = self.lock(longest);
        let Some(first) = pages.first().map(Locked::page) else {
            return Ok(());
        };
        let mut bytes = Vec::new();
        for page in &pages {
            let next = page.content().stored();
            page.begin(next);
            bytes.extend(page.bytes_of(next));
        }
        let (device, start) = (&self.scene.device, (first * PAGE) as u64);
        let middle = self.draws.below(bytes.len());
        let (one, other) = bytes.split_at(middle);
        let written = match self.draws.below(3) {
            0 => pwrite(device, &bytes, start)?,
            1 => pwritev(device, &[IoSlice::new(one), IoSlice::new(other)], start)?,
            // In the other order.
            _ => {
                pwrite(device, other, start + middle as u64)?
                    + if one.is_empty() {
                        0
                    } else {
                        pwrite(device, one, start)?
                    }
            }
        };
        ensure(written == bytes.len(), || {
            format!(
                "a write of {} bytes at page {first}: only {written} were written",
                bytes.len()
            )
        })?;
        for page in &mut pages {
            page.finish(page.content().stored());
        }
        if self.draws.one_in(4) {
            self.check_by_call(&pages)?;
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        let pages = self.lock(8);
        let Some(first) = pages.first().map(Locked::page) else {
            return Ok(());
        };
        let fresh = self
            .draws
            .one_in(3)
            .then(|| self.map(first, pages.len(), MapFlags::SHARED))
            .transpose()?;
        if self.draws.one_in(2) {
            self.check_by_call(&pages)?;
        }
        for page in &pages {
            let seen = self.scene.mapping.read(page.page() * PAGE, PAGE);
            as_seen(page.check(&seen), "a load through the mapping that stays")?;
            if let Some(fresh) = &fresh {
                let seen = fresh.read((page.page() - first) * PAGE, PAGE);
                as_seen(page.check(&seen), "a load through a fresh mapping")?;
            }
        }
        self.check_by_call(&pages)
    }

    /// Looks at pages that others are changing, by calls alone: they say where the end is, and no signal does.
    fn race(&mut self) -> io::Result<()> {
        let longest = if self.draws.one_in(4) { ROOM } else { 4 };
        let (mut first, pages) = self.draws.run_of(longest);
        if self.draws.one_in(2) {
            // Around the end, which may be moved at this moment.
            let end = self.scene.end.last();
            first = (end + self.draws.below(2 * ROOM)).saturating_sub(ROOM);
            first = first.min(PAGES - pages);
            self.draws.note(first);
        }
        if self.draws.one_in(2) {
            let advice = self.populating();
            return self.scene.populate(first, pages, advice);
        }
        let (device, start) = (&self.scene.device, (first * PAGE) as u64);
        let looks: Vec<_> = (first..first + pages)
            .map(|page| self.scene.model.look(page))
            .collect();
        let lowest_end = self.scene.end.watch();
        let mut bytes = vec![0; pages * PAGE];
        let (count, how) = match self.draws.below(2) {
            0 => (pread(device, &mut bytes, start)?, "a racing pread()"),
            _ => {
                let copied =
                    self.scene
                        .mapping
                        .pwrite_to(&self.memory, 0, first * PAGE, pages * PAGE);
                let count = match copied {
                    Err(error) if is_one_of(&error, &[Errno::FAULT]) => 0,
                    copied => copied?,
                };
                let read = pread(&self.memory, &mut bytes[..count], 0)?;
                ensure(read == count, || "a file in memory is short".into())?;
                (count, "a racing copy from the mapping")
            }
        };
        let end = first + count / PAGE;
        ensure(count % PAGE == 0, || {
            format!("by {how} at page {first}: it ends within a page, after {count} bytes")
        })?;
        ensure(end == first + pages || end >= lowest_end(), || {
            format!("by {how} of {pages} pages at page {first}: it ends at page {end}, which nobody has cut off")
        })?;
        for (look, seen) in looks.iter().zip(bytes[..count].chunks_exact(PAGE)) {
            as_seen(look.check(seen), how)?;
        }
        Ok(())
    }

    fn populating(&mut self) -> Advice {
        // What is dirty when a file is cut off may be on its way to the disk, and make the file longer again.
        match (self.draws.below(2), &self.scene.file) {
            (1, None) => Advice::LinuxPopulateWrite,
            _ => Advice::LinuxPopulateRead,
        }
    }

    /// The offset of a byte in a page that is neither in a word nor aligned to anything.
    fn any_edge(&mut self) -> usize {
        let after = WORDS[self.draws.below(WORDS.len() - 1)];
        after + 8 + self.draws.below(300)
    }

    fn punch(&mut self) -> io::Result<()> {
        if let Some(file) = &self.scene.file {
            return self.sync(file);
        }
        let longest = [1, 4, 40, 600][self.draws.below(4)];
        let (first, count) = self.draws.run_of(longest);
        let mut pages = self.scene.model.lock_run(first, count);
        let mut start = first * PAGE;
        let mut end = start + count * PAGE;
        if self.draws.one_in(3) {
            start += self.any_edge();
        }
        if self.draws.one_in(3) {
            end -= PAGE - self.any_edge();
        }
        if start < end {
            self.punch_range(&mut pages, start, end)?;
        }
        // Not all, which would take it longer than anything else.
        let last = pages.len() - 1;
        for at in [0, self.draws.below(last + 1), last] {
            let (page, is_loaded) = (&pages[at], self.draws.one_in(2));
            if page.is_beyond() {
                continue;
            }
            if is_loaded {
                let seen = self.scene.mapping.read(page.page() * PAGE, PAGE);
                as_seen(page.check(&seen), "a load after punching")?;
            }
            self.check_by_call(&pages[at..=at])?;
        }
        Ok(())
    }

    /// What stands in for punching where the bytes are in a file: what was written has to be there once it is synced.
    fn sync(&mut self, file: &Stored) -> io::Result<()> {
        let pages = self.lock(16);
        let Some(first) = pages.first().map(Locked::page) else {
            return Ok(());
        };
        match self.draws.below(3) {
            0 => fs::fsync(&self.scene.device)?,
            1 => fs::fdatasync(&self.scene.device)?,
            _ => self
                .scene
                .mapping
                .sync_range(first * PAGE, pages.len() * PAGE)?,
        }
        let bytes = file.read(first, pages.len())?;
        for (page, seen) in pages.iter().zip(bytes.chunks_exact(PAGE)) {
            as_seen(page.check(seen), "a read of the file after syncing")?;
        }
        Ok(())
    }

    fn punch_range(&self, pages: &mut [Locked<'_>], start: usize, end: usize) -> io::Result<()> {
        let next = |page: &Locked<'_>| -> Content {
            let (from, to) = (page.page() * PAGE, (page.page() + 1) * PAGE);
            if start <= from && to <= end {
                page.content().punched()
            } else {
                let within = |at: usize| at.clamp(from, to) - from;
                page.content().cut(within(start), within(end))
            }
        };
        for page in pages.iter() {
            page.begin(next(page));
        }
        self.scene
            .device
            .punch(start as u64, (end - start) as u64)?;
        for page in pages {
            page.finish(next(page));
        }
        Ok(())
    }

    fn set_size(&self, pages: usize) -> io::Result<()> {
        let device = &self.scene.device;
        match &self.scene.file {
            // The device follows.
            Some(file) => file.set_len(pages)?,
            None => device.resize((pages * PAGE) as u64)?,
        }
        let mut seen = device.size()?;
        // That of a file is followed a little later where a page at the end is pinned or written for long.
        let deadline = Instant::now() + slowness() * Duration::from_secs(10);
        while self.scene.file.is_some() && seen != pages * PAGE && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
            seen = device.size()?;
        }
        ensure(seen == pages * PAGE, || {
            format!(
                "a resize to {} bytes: the size is {seen} afterwards",
                pages * PAGE
            )
        })
    }

    /// Makes the device smaller and whole again, some times: and looks beyond the end meanwhile.
    fn resize(&mut self) -> io::Result<()> {
        let longest = [32, 200, 700, PAGES - FIXED][self.draws.below(4)];
        let lowest = PAGES - 1 - self.draws.below(longest);
        self.draws.note(lowest);
        let mut pages = self.scene.model.lock_run(lowest, PAGES - lowest);
        for _ in 0..self.scene.kind.resizes() {
            let end = self.any_end(lowest);
            let cut = &mut pages[end - lowest..];
            let copy = self.shrink(cut, end)?;
            self.look_beyond(end, &copy)?;
            self.grow(cut)?;
        }
        if let Some(file) = &self.scene.file {
            // Shorter for a moment only, so that the device may not have looked.
            let end = self.any_end(lowest);
            let cut = &mut pages[end - lowest..];
            for page in cut.iter() {
                page.begin(page.content().punched());
            }
            fs::fsync(&self.scene.device)?;
            self.scene.end.is_cut_off(end);
            file.set_len(end)?;
            self.set_size(PAGES)?;
            self.scene.end.is_whole();
            for page in cut.iter_mut() {
                page.finish(page.content().punched());
            }
            self.check_by_call(cut)?;
        }
        if self.draws.one_in(2) {
            // Once more, with others who may come to the end.
            let end = self.any_end(lowest);
            drop(pages);
            let mut cut = self.scene.model.lock_run(end, PAGES - end);
            let copy = self.shrink(&mut cut, end)?;
            drop(cut);
            self.look_beyond(end, &copy)?;
            let mut cut = self.scene.model.lock_run(end, PAGES - end);
            self.grow(&mut cut)?;
        }
        Ok(())
    }

    /// A size in pages, at the border of some folio or at none.
    fn any_end(&mut self, lowest: usize) -> usize {
        let unit = [1, 16, HUGE_PAGE / PAGE][self.draws.below(3)];
        let end = lowest + self.draws.below(PAGES - lowest);
        end.next_multiple_of(unit).min(PAGES - 1)
    }

    /// Cuts these pages off, which are all from `end` on, while somebody is about to bring them in. Returns a mapping
    /// of them in which the last was a private copy.
    fn shrink(&mut self, cut: &mut [Locked<'_>], end: usize) -> io::Result<Mapping> {
        let copy = self.map(end, cut.len(), MapFlags::PRIVATE)?;
        copy.touch_write((cut.len() - 1) * PAGE, PAGE, 0xEE);
        if self.scene.file.is_none() && self.draws.one_in(2) {
            // So that there is something to be brought in.
            self.punch_range(cut, end * PAGE, SIZE)?;
        }
        for page in cut.iter() {
            page.begin(page.content().punched());
        }
        if self.scene.file.is_some() {
            fs::fsync(&self.scene.device)?;
        }
        self.scene.end.is_cut_off(end);
        let first = end - self.draws.below(2);
        let longest = [4, 64, 64, 600][self.draws.below(4)];
        let pages = (1 + self.draws.below(longest)).min(PAGES - first);
        let advice = self.populating();
        let delay = Duration::from_micros(self.draws.below(4000) as u64);
        let scene = self.scene;
        let both = Barrier::new(2);
        thread::scope(|scope| -> io::Result<()> {
            let populating = scope.spawn(|| {
                both.wait();
                scene.populate(first, pages, advice)
            });
            both.wait();
            thread::sleep(delay);
            self.set_size(end)?;
            populating
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
        })?;
        for page in cut {
            page.finish(page.content().punched());
            page.set_beyond(true);
        }
        Ok(copy)
    }

    /// Makes the device whole again, which these pages are missing of.
    fn grow(&mut self, cut: &mut [Locked<'_>]) -> io::Result<()> {
        self.set_size(PAGES)?;
        self.scene.end.is_whole();
        for page in cut.iter_mut() {
            page.set_beyond(false);
        }
        let last = cut.len() - 1;
        for at in [0, self.draws.below(last + 1), last] {
            if self.draws.one_in(2) {
                let seen = self.scene.mapping.read(cut[at].page() * PAGE, PAGE);
                as_seen(cut[at].check(&seen), "a load after growing")?;
            }
            self.check_by_call(&cut[at..=at])?;
        }
        Ok(())
    }

    /// Looks beyond the end, which nobody else moves.
    fn look_beyond(&mut self, end: usize, copy: &Mapping) -> io::Result<()> {
        let device = &self.scene.device;
        let page = end + self.draws.below(PAGES - end);
        let mut bytes = [1; PAGE];
        let read = pread(device, &mut bytes, (page * PAGE) as u64)?;
        ensure(read == 0, || {
            format!("a read of page {page} beyond the end, {end}: {read} bytes")
        })?;
        let written = pwrite(device, &bytes, (page * PAGE) as u64).map_err(io::Error::from);
        ensure_errno(
            written,
            Errno::NOSPC,
            format_args!("a write to page {page} beyond the end, {end}"),
        )?;
        // Of a folio that the end divides, and that somebody uses, the rest may be there still, as zeros.
        let divided = (end * PAGE).next_multiple_of(self.scene.kind.folio) / PAGE;
        if self.draws.one_in(3) {
            let (page, address, whose) = if self.draws.one_in(2) {
                (page, self.scene.mapping.address(page * PAGE), "")
            } else {
                let address = copy.address(copy.len() - PAGE);
                (PAGES - 1, address, ", of a private copy,")
            };
            let is_gone = page >= divided;
            let touch = child::touch(address, is_gone && self.draws.one_in(2))?;
            let is_right = match touch {
                Touch::BusError(at) => at == address,
                Touch::Done => !is_gone,
                Touch::SegmentationFault(_) => false,
            };
            ensure(is_right, || {
                format!(
                    "a touch of page {page} beyond the end, {end}{whose}: expected SIGBUS, seen {touch:?}"
                )
            })?;
        }
        let copied = self
            .scene
            .mapping
            .pwrite_to(&self.memory, 0, page * PAGE, PAGE);
        let count = match copied {
            Err(error) if is_one_of(&error, &[Errno::FAULT]) => 0,
            copied => copied?,
        };
        let read = pread(&self.memory, &mut bytes[..count], 0)?;
        let are_zeros = bytes[..count].iter().all(|&byte| byte == 0);
        ensure(
            read == count && (count == 0 || page < divided) && are_zeros,
            || format!("page {page} beyond the end, {end}: a copy has {count} bytes, {bytes:x?}"),
        )?;
        if self.scene.file.is_some() {
            // As of any file, pages may come in just when the end moves: of zeros, and nobody sees them.
            return Ok(());
        }
        // Whoever was about to bring something in has done so by now.
        let (start, len) = (divided * PAGE, (PAGES - divided) * PAGE);
        let there = self.scene.mapping.in_memory(start, len)?;
        match there.iter().position(|&is_there| is_there) {
            None => Ok(()),
            Some(page) => Err(wrong(format!(
                "page {} beyond the end, {end}: expected to be gone, seen in memory",
                divided + page
            ))),
        }
    }

    /// Compares pages with what a mapping that begins at page `first` shows.
    fn check_mapped(
        pages: &[Locked<'_>],
        mapping: &Mapping,
        first: usize,
        how: &str,
    ) -> io::Result<()> {
        for page in pages {
            let seen = mapping.read((page.page() - first) * PAGE, PAGE);
            as_seen(page.check(&seen), how)?;
        }
        Ok(())
    }

    fn remap(&mut self) -> io::Result<()> {
        let (first, count) = self.draws.run_of(600);
        let at = first + self.draws.below(count);
        let mut pages = self
            .scene
            .model
            .lock_existing(at, (first + count - at).min(3));
        let flags = match self.draws.below(4) {
            0 => MapFlags::PRIVATE,
            _ => MapFlags::SHARED,
        };
        let mut mapping = self.map(first, count, flags)?;
        if flags == MapFlags::PRIVATE {
            return self.write_privately(&pages, &mapping, first);
        }
        if self.draws.one_in(2) {
            Self::check_mapped(&pages, &mapping, first, "a load before remapping")?;
        }
        let start = (at - first) * PAGE;
        let len = pages.len() * PAGE;
        match self.draws.below(7) {
            0 => {
                // As far as it goes, and beyond the end of the device.
                mapping.resize((count + self.draws.below(PAGES)) * PAGE)?;
                Self::check_mapped(
                    &pages,
                    &mapping,
                    first,
                    "a load after mremap() has grown it",
                )?;
                let shorter = (at - first + pages.len()).max(1);
                mapping.resize(shorter * PAGE)?;
            }
            1 if len > 0 => {
                let moved = mapping.move_onto(start, len, Mapping::anonymous(len)?)?;
                Self::check_mapped(&pages, &moved, at, "a load after mremap() has moved it")?;
                return Ok(());
            }
            2 => {
                let left = mapping.move_leaving(0, count * PAGE)?;
                Self::check_mapped(&pages, &left, first, "a load where MREMAP_DONTUNMAP went")?;
            }
            3 => {
                mapping.protect(0, count * PAGE, MprotectFlags::empty())?;
                mapping.protect(start, count * PAGE - start, MprotectFlags::READ)?;
                Self::check_mapped(&pages, &mapping, first, "a load after mprotect()")?;
                mapping.protect(0, count * PAGE, MprotectFlags::READ | MprotectFlags::WRITE)?;
            }
            4 if start > 0 => {
                let hole = self.draws.below(at - first) * PAGE;
                mapping.unmap(hole, PAGE)?;
            }
            _ => self.advise(&mapping, first, count)?,
        }
        Self::check_mapped(&pages, &mapping, first, "a load after remapping")?;
        for page in &mut pages {
            Self::store_page(page, &mapping, first)?;
        }
        self.check_by_call(&pages)
    }

    /// Gives advice on a mapping that begins at page `first`, or on the one that stays.
    fn advise(&mut self, mapping: &Mapping, first: usize, count: usize) -> io::Result<()> {
        let all = [
            Advice::LinuxDontNeed,
            Advice::LinuxCold,
            Advice::LinuxPageOut,
            Advice::LinuxNoHugepage,
            Advice::LinuxHugepage,
            Advice::LinuxPopulateRead,
            Advice::LinuxPopulateWrite,
        ];
        let mut advice = all[self.draws.below(all.len())];
        if advice == Advice::LinuxPopulateWrite {
            advice = self.populating();
        }
        // What brings everything in would leave nothing to the others.
        let count = if is_populating(advice) {
            count.min(40)
        } else {
            count
        };
        let scene = self.scene;
        if self.draws.one_in(3) {
            scene.advise(&scene.mapping, first, first * PAGE, count, advice)
        } else {
            scene.advise(mapping, first, 0, count, advice)
        }
    }

    /// Writes what nobody else may ever see.
    fn write_privately(
        &mut self,
        pages: &[Locked<'_>],
        mapping: &Mapping,
        first: usize,
    ) -> io::Result<()> {
        if self.draws.one_in(2) {
            Self::check_mapped(pages, mapping, first, "a private load")?;
        }
        for page in pages {
            let start = (page.page() - first) * PAGE;
            mapping.write(start, &[0xCC; PAGE]);
        }
        if self.scene.file.is_none() && self.draws.one_in(2) {
            if let Some(page) = pages.first() {
                // What is in the device does not change by that, if it is a hole, and the copy stays.
                if page.content() == page.content().punched() {
                    let start = (page.page() * PAGE) as u64;
                    self.scene.device.punch(start, PAGE as u64)?;
                }
            }
        }
        self.check_by_call(pages)?;
        Self::check_mapped(
            pages,
            &self.scene.mapping,
            0,
            "a load beside a private copy",
        )?;
        for page in pages {
            let start = (page.page() - first) * PAGE;
            ensure(mapping.read(start, PAGE) == [0xCC; PAGE], || {
                format!("the private copy of page {} has changed", page.page())
            })?;
            mapping.advise(start, PAGE, Advice::LinuxDontNeed)?;
        }
        Self::check_mapped(pages, mapping, first, "a load after the private copy")
    }

    /// Has a child look at pages and store to them, through mappings that it has inherited.
    fn fork(&mut self) -> io::Result<()> {
        let mut pages = self.lock(4);
        let Some(first) = pages.first().map(Locked::page) else {
            return Ok(());
        };
        let fresh = self
            .draws
            .one_in(2)
            .then(|| self.map(first, pages.len(), MapFlags::SHARED))
            .transpose()?;
        let private = self.map(first, pages.len(), MapFlags::PRIVATE)?;
        private.store(0, 0xEE);
        for page in &pages {
            page.begin(page.content().stored());
        }
        let (mapping, start) = match &fresh {
            Some(fresh) => (fresh, first),
            None => (&self.scene.mapping, 0),
        };
        let child = Child::run(|| {
            let store = |page: &mut Locked<'_>| -> io::Result<()> {
                let seen = mapping.read((page.page() - start) * PAGE, PAGE);
                as_seen(page.check(&seen), "a child's load")?;
                Self::store_page(page, mapping, start)
            };
            let result = pages.iter_mut().try_for_each(store).and_then(|()| {
                let seen = private.load(0);
                private.store(0, 0xDD);
                ensure(seen == 0xEE, || {
                    format!("an inherited private copy: expected 0xee, seen {seen:#x}")
                })
            });
            result.map_or_else(|error| error.to_string().into_bytes(), |()| Vec::new())
        })?;
        let outcome = child.wait(Some(Duration::from_secs(30) * slowness()))?;
        ensure(outcome == Outcome::Returned(Vec::new()), || {
            let words = match &outcome {
                Outcome::Returned(words) => String::from_utf8_lossy(words).into_owned(),
                other => format!("{other:?}"),
            };
            format!("a child at page {first}: {words}")
        })?;
        for page in &mut pages {
            page.finish(page.content().stored());
        }
        let seen = private.load(0);
        ensure(seen == 0xEE, || {
            format!("the private copy of page {first}: expected 0xee, seen {seen:#x}")
        })?;
        self.check_by_call(&pages)
    }

    /// Puts the next content of pages into the buffer and from there on the disk.
    fn next_to_disk(&self, pages: &[Locked<'_>]) -> io::Result<()> {
        for (number, page) in pages.iter().enumerate() {
            let next = page.content().stored();
            self.buffer.write(number * PAGE, &page.bytes_of(next));
        }
        let len = pages.len() * PAGE;
        let written = self.buffer.pwrite_to(&self.disk, 0, 0, len)?;
        ensure(written == len, || "a short write to the disk".into())
    }

    /// Compares pages with what is on the disk.
    fn check_disk(&self, pages: &[Locked<'_>], how: &str) -> io::Result<()> {
        let len = pages.len() * PAGE;
        let read = self.buffer.pread_from(&self.disk, 0, 0, len)?;
        ensure(read == len, || "a short read from the disk".into())?;
        for (number, page) in pages.iter().enumerate() {
            let seen = self.buffer.read(number * PAGE, PAGE);
            as_seen(page.check(&seen), how)?;
        }
        Ok(())
    }

    /// Moves pages between the mapping and the disk, without the kernel's copying them.
    fn direct(&mut self) -> io::Result<()> {
        let longest = if self.draws.one_in(4) { ROOM } else { 8 };
        let mut pages = self.lock(longest);
        let Some(first) = pages.first().map(Locked::page) else {
            return Ok(());
        };
        let len = pages.len() * PAGE;
        let fresh = self
            .draws
            .one_in(2)
            .then(|| self.map(first, pages.len(), MapFlags::SHARED))
            .transpose()?;
        let (mapping, start) = match &fresh {
            Some(fresh) => (fresh, 0),
            None => (&self.scene.mapping, first * PAGE),
        };
        let full = |count: io::Result<usize>, what: &str| {
            let is_full = count.as_ref().is_ok_and(|&count| count == len);
            ensure(is_full, || {
                format!("direct {what} of {len} bytes at page {first}: {count:?}")
            })
        };
        if self.draws.one_in(2) {
            self.next_to_disk(&pages)?;
            for page in &pages {
                page.begin(page.content().stored());
            }
            full(mapping.pread_from(&self.disk, 0, start, len), "reading")?;
            for page in &mut pages {
                page.finish(page.content().stored());
            }
            self.check_by_call(&pages)
        } else {
            full(mapping.pwrite_to(&self.disk, 0, start, len), "writing")?;
            self.check_disk(&pages, "direct writing")
        }
    }

    /// Keeps pages pinned for a while, as io_uring's fixed buffer, with I/O to and from them and things happening to
    /// the rest of their folios.
    fn pin(&mut self) -> io::Result<()> {
        if self.scene.file.is_some() {
            // Pages that are written back cannot be pinned for long.
            return self.direct();
        }
        let mut pages = self.lock(4);
        let Some(first) = pages.first().map(Locked::page) else {
            return Ok(());
        };
        let len = pages.len() * PAGE;
        let mut ring = FixedBuffer::new(&self.scene.mapping, first * PAGE, len)?;
        let full = |count: io::Result<usize>, what: &str| {
            let is_full = count.as_ref().is_ok_and(|&count| count == len);
            ensure(is_full, || {
                format!("{what} of a fixed buffer of {len} bytes at page {first}: {count:?}")
            })
        };
        for _ in 0..2 {
            full(ring.write(&self.disk, 0, 0, len), "writing")?;
            self.check_disk(&pages, "writing of a fixed buffer")?;
            thread::sleep(Duration::from_millis(10));
            self.next_to_disk(&pages)?;
            for page in &pages {
                page.begin(page.content().stored());
            }
            full(ring.read(&self.disk, 0, 0, len), "reading")?;
            for page in &mut pages {
                page.finish(page.content().stored());
            }
            self.check_by_call(&pages)?;
        }
        if self.draws.one_in(2) {
            // The ring keeps its pages, and the device shows zeros.
            let start = first * PAGE;
            self.punch_range(&mut pages, start, start + len)?;
            let how = "a load of what was punched while it was pinned";
            Self::check_mapped(&pages, &self.scene.mapping, 0, how)?;
        }
        drop(ring);
        self.check_by_call(&pages)
    }
}

/// Compares pages, which are a run, with what `pread()` gives.
fn check_by_call(device: &Device, pages: &[Locked<'_>]) -> io::Result<()> {
    let Some(first) = pages.first().map(Locked::page) else {
        return Ok(());
    };
    let mut bytes = vec![0xAA; pages.len() * PAGE];
    let read = pread(device, &mut bytes, (first * PAGE) as u64)?;
    ensure(read == bytes.len(), || {
        format!(
            "a read of {} bytes at page {first}: only {read} were read",
            bytes.len()
        )
    })?;
    for (page, seen) in pages.iter().zip(bytes.chunks_exact(PAGE)) {
        as_seen(page.check(seen), "pread()")?;
    }
    Ok(())
}

/// Looks at all that the actors have left, and then that nothing is left once it is given back.
pub(crate) fn inspect(scene: &Scene<'_>) -> io::Result<()> {
    let device = &scene.device;
    let pages = scene.model.lock_existing(0, PAGES);
    ensure(pages.len() == PAGES, || {
        format!("{} pages are there in the end", pages.len())
    })?;
    let (size, resident) = (device.size()?, device.info()?.resident_bytes);
    ensure(size == SIZE, || format!("the size is {size} in the end"))?;
    ensure(resident <= SIZE as u64, || {
        format!("{resident} bytes of {SIZE} are in memory")
    })?;
    for some in pages.chunks(MIB / PAGE) {
        check_by_call(device, some)?;
    }
    let protection = ProtFlags::READ;
    let fresh = Mapping::new(device, SIZE, protection, MapFlags::SHARED, 0)?;
    Actor::check_mapped(&pages, &fresh, 0, "a load in the end")?;
    if let Some(file) = &scene.file {
        fs::fsync(device)?;
        file.check_before()?;
        let bytes = file.read(0, PAGES)?;
        for (page, seen) in pages.iter().zip(bytes.chunks_exact(PAGE)) {
            as_seen(page.check(seen), "a read of the file in the end")?;
        }
        return Ok(());
    }
    device.punch(0, SIZE as u64)?;
    let resident = device.info()?.resident_bytes;
    ensure(resident == 0, || {
        format!("{resident} bytes are in memory after all was punched")
    })?;
    let seen = fresh.read(SIZE - 64 * KIB, 64 * KIB);
    ensure(seen.iter().all(|&byte| byte == 0), || {
        "what was punched in the end is not zeros".into()
    })
}
