// SPDX-License-Identifier: GPL-2.0

//! What is done to the memory of a PCI device, whose driver is unbound and bound again while everybody is at it.
//!
//! From one binding to the unbinding is a life of the device. What is in its memory stays for the next one, so that the
//! model goes on. Whatever is cut off by the end of a life says how much it has done, and exactly that has to be there in
//! the next one, in which it is brought to its end.

use crate::actors::{as_seen, ensure, is_one_of, wrong, PAGES, SIZE as MODEL_SIZE};
use crate::board::Board;
use crate::draws::Draws;
use crate::model::{Content, Locked, Model, WORDS};
use mmapdev_userspace::child::{Child, Outcome};
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::fixed_buffer::FixedBuffer;
use mmapdev_userspace::mapping::{Mapping, READ_WRITE};
use mmapdev_userspace::pci::{self, PciDevice};
use mmapdev_userspace::random::Random;
use mmapdev_userspace::{slowness, HUGE_PAGE, MIB, PAGE};
use rustix::fs::{self, MemfdFlags, Mode, OFlags};
use rustix::io::{pread, pwrite, pwritev, Errno};
use rustix::mm::{Advice, MapFlags, MprotectFlags};
use rustix::process::{getpid, Signal};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Bytes in the BAR: behind those of the model are some that anything may be stored to.
const SIZE: usize = 16 * MIB;
/// Where ivshmem has its memory.
const MEMORY: usize = 2;
/// Pages that an actor has room for in memory of its own.
const ROOM: usize = 64;

/// How a call says that the driver was unbound.
const GONE: &[Errno] = &[Errno::NODEV];
/// How a call says so that touches the mapping; and so does a touch, see [`mmapdev_userspace::bus_error::BusError`].
const UNTOUCHABLE: &[Errno] = &[Errno::FAULT];
/// How a debugger is told so.
const UNREADABLE: &[Errno] = &[Errno::IO];
/// How opening says so.
const UNOPENABLE: &[Errno] = &[Errno::NODEV, Errno::NXIO, Errno::NOENT];

/// What all actors have.
pub(crate) struct Scene<'a> {
    pci: PciDevice,
    /// The life of this moment.
    life: Mutex<Arc<Life>>,
    has_begun: Condvar,
    model: Model,
    board: &'a Board,
}

/// The device from a binding to the unbinding, open and mapped.
struct Life {
    device: Device,
    mapping: Mapping,
    is_uncached: bool,
    /// Set before the driver is unbound: from then on whatever is tried may fail.
    is_ending: AtomicBool,
    /// Set when it is unbound: from then on everything does.
    has_ended: AtomicBool,
}

/// A mapping of some life.
struct View {
    life: Arc<Life>,
    /// Another one than that of the whole device, and the page that it begins at.
    own: Option<(Mapping, usize)>,
}

/// One that acts.
pub(crate) struct Actor<'a> {
    scene: &'a Scene<'a>,
    draws: Draws<'a>,
    /// This process's memory, as a debugger has it.
    process: File,
    /// A file in memory, to copy to by calls.
    memory: OwnedFd,
    /// Memory of its own.
    buffer: Mapping,
}

/// What an actor does, once.
type Act = fn(&mut Actor<'_>) -> io::Result<()>;

/// Each with how often it has to act in ten minutes at least, as in [`crate::actors::ACTORS`].
pub(crate) const ACTORS: [(&str, u64, Act); 10] = [
    ("storer", 50, |actor| actor.store()),
    ("storer through fresh mappings", 10, |actor| {
        actor.store_freshly()
    }),
    ("caller", 10, |actor| actor.call()),
    ("reader", 8, |actor| actor.read()),
    ("racing reader", 8, |actor| actor.race()),
    ("remapper", 4, |actor| actor.remap()),
    ("forker", 4, |actor| actor.fork()),
    ("asker for what cannot be", 20, |actor| actor.ask()),
    ("opener", 6, |actor| actor.open()),
    ("unbinder", 3, |actor| actor.unbind()),
];

/// The device of the rig's whose BAR this is about.
pub(crate) fn device() -> io::Result<PciDevice> {
    for device in PciDevice::all(0x1af4, 0x1110)? {
        let bar = device.bar(MEMORY)?;
        if bar.is_some_and(|bar| bar.len == SIZE as u64) {
            return Ok(device);
        }
    }
    Err(wrong("there is no ivshmem with 16 MiB of memory"))
}

/// Whether a device is one that the driver has made.
pub(crate) fn is_bar(name: &[u8]) -> bool {
    name.starts_with(b"pci-")
}

impl Life {
    /// Opens and maps the device, which is bound.
    fn begin(pci: &PciDevice, wants_uncached: bool) -> io::Result<Self> {
        let node = control::node(&pci.name_of(MEMORY));
        let device = match wants_uncached {
            true => match Device::open_with(&node, OFlags::RDWR | OFlags::SYNC) {
                // Somebody was here before, and has it cached.
                Err(error) if is_one_of(&error, &[Errno::BUSY]) => {
                    Device::open_with(&node, OFlags::RDWR)
                }
                result => result,
            },
            false => Device::open_with(&node, OFlags::RDWR),
        };
        let device = device.map_err(|error| wrong(format!("opening what was bound: {error}")))?;
        Ok(Self {
            mapping: Mapping::shared(&device, SIZE)?,
            device,
            is_uncached: is_uncached(pci)?,
            is_ending: false.into(),
            has_ended: false.into(),
        })
    }

    /// Tries something: `None` where the driver was unbound before it was done, as one of these errors says.
    fn attempt<T>(
        &self,
        what: impl Display,
        gone: &[Errno],
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<Option<T>> {
        let had_ended = self.has_ended.load(SeqCst);
        match act() {
            Ok(_) if had_ended => Err(wrong(format!(
                "{what}: expected to fail without a driver, seen success"
            ))),
            Ok(value) => Ok(Some(value)),
            Err(error) if is_one_of(&error, gone) => {
                self.may_be_gone(format_args!("{what}: {error}"))?;
                Ok(None)
            }
            Err(error) => Err(wrong(format!("{what}: {error}"))),
        }
    }

    /// Fails unless the driver is being unbound, as only then something may not be done.
    fn may_be_gone(&self, what: impl Display) -> io::Result<()> {
        ensure(self.is_ending.load(SeqCst), || {
            format!("{what}, and the driver is bound")
        })
    }

    /// Asks for what cannot be, which fails so, or because the driver was unbound.
    fn refuses<T>(
        &self,
        what: impl Display,
        errno: Errno,
        gone: &[Errno],
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<()> {
        let seen = match act() {
            Err(error) if is_one_of(&error, &[errno]) => return Ok(()),
            Err(error) if is_one_of(&error, gone) && self.is_ending.load(SeqCst) => return Ok(()),
            Err(error) => error.to_string(),
            Ok(_) => "success".to_string(),
        };
        Err(wrong(format!("{what}: expected {errno}, seen {seen}")))
    }

    /// Looks whether nothing can be done any more: the driver was unbound, and perhaps bound again since.
    fn is_over(&self, random: &mut Random, process: &File) -> io::Result<()> {
        let fails = |what: &str, gone: &[Errno], result: io::Result<()>| {
            self.attempt(what, gone, || result).map(drop)
        };
        let (device, mapping) = (&self.device, &self.mapping);
        for _ in 0..4 {
            let at = random.below(SIZE / 8) * 8;
            fails(
                "a load",
                UNTOUCHABLE,
                mapping.try_load_word(at).map(drop).map_err(Into::into),
            )?;
            // Where it would do no harm.
            let at = MODEL_SIZE + random.below((SIZE - MODEL_SIZE) / 8) * 8;
            fails(
                "a store",
                UNTOUCHABLE,
                mapping.try_swap_word(at, 1).map(drop).map_err(Into::into),
            )?;
        }
        let offset = (MODEL_SIZE + random.below(MIB)) as u64;
        let mut bytes = [0; 64];
        let read = pread(device, &mut bytes, offset);
        fails("read()", GONE, read.map(drop).map_err(Into::into))?;
        let written = pwrite(device, &bytes, offset);
        fails("write()", GONE, written.map(drop).map_err(Into::into))?;
        fails("lseek()", GONE, device.size().map(drop))?;
        fails("a request", GONE, device.info().map(drop))?;
        fails("mmap()", GONE, Mapping::shared(device, PAGE).map(drop))?;
        fails("msync()", GONE, mapping.sync_range(0, PAGE))?;
        let address = mapping.address(offset as usize) as u64;
        let read = process.read_at(&mut bytes, address);
        fails("a debugger's read", UNREADABLE, read.map(drop))
    }
}

/// Whether the BAR, which somebody has open, is uncached, as the kernel's record says.
fn is_uncached(pci: &PciDevice) -> io::Result<bool> {
    let bar = pci.bar(MEMORY)?.ok_or_else(|| wrong("the BAR is gone"))?;
    let types = pci::memory_types(bar.start, bar.len)?;
    match types.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write-back"] => Ok(false),
        ["uncached-minus"] => Ok(true),
        _ => Err(wrong(format!("the record of how it is cached: {types:?}"))),
    }
}

impl View {
    fn of(life: Arc<Life>) -> Self {
        Self { life, own: None }
    }

    fn mapping(&self) -> &Mapping {
        self.own
            .as_ref()
            .map_or(&self.life.mapping, |(mapping, _)| mapping)
    }

    /// Where a page is in the mapping.
    fn offset_of(&self, page: usize) -> usize {
        let first = self.own.as_ref().map_or(0, |(_, first)| *first);
        (page - first) * PAGE
    }
}

impl<'a> Scene<'a> {
    /// A scene with zeros in all of the memory.
    pub(crate) fn new(board: &'a Board, kind: usize) -> io::Result<Self> {
        let pci = device()?;
        let life = Life::begin(&pci, false)?;
        let zeros = vec![0; MIB];
        for at in (0..SIZE).step_by(MIB) {
            let written = pwrite(&life.device, &zeros, at as u64)?;
            ensure(written == MIB, || format!("{written} bytes were written"))?;
        }
        Ok(Self {
            pci,
            life: Mutex::new(Arc::new(life)),
            has_begun: Condvar::new(),
            model: Model::new(kind, PAGES),
            board,
        })
    }

    /// The life of this moment; it may be at its end.
    fn life(&self) -> Arc<Life> {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        life.clone()
    }

    /// Waits for the life after one that ends.
    fn after(&self, life: &Arc<Life>) -> io::Result<View> {
        let mut now = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        while Arc::ptr_eq(&now, life) {
            if self.board.is_stopped() {
                // Somebody else has failed, and says so.
                return Err(io::ErrorKind::Interrupted.into());
            }
            let waited = self.has_begun.wait_timeout(now, Duration::from_millis(100));
            now = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(View::of(now.clone()))
    }

    /// Does what may be done again in the life after this one where it is cut off, with what `view` then is.
    fn persist<T>(
        &self,
        view: &mut View,
        what: &str,
        gone: &[Errno],
        mut act: impl FnMut(&View) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match view.life.attempt(what, gone, || act(view))? {
                Some(value) => return Ok(value),
                None => *view = self.after(&view.life)?,
            }
        }
    }

    /// The bytes of pages, which are a run, as `pread()` gives them.
    fn bytes_by_call(&self, view: &mut View, pages: &[Locked<'_>]) -> io::Result<Vec<u8>> {
        let first = pages.first().map_or(0, Locked::page);
        let mut bytes = vec![0xAA; pages.len() * PAGE];
        let mut done = 0;
        while done < bytes.len() {
            let start = first * PAGE + done;
            done += self.persist(view, "pread()", GONE, |view| {
                let read = pread(&view.life.device, &mut bytes[done..], start as u64)?;
                if done + read < bytes.len() {
                    let what = format!("pread() of {read} bytes at {start}");
                    view.life.may_be_gone(what)?;
                }
                Ok(read)
            })?;
        }
        Ok(bytes)
    }

    fn check_by_call(&self, view: &mut View, pages: &[Locked<'_>]) -> io::Result<()> {
        let bytes = self.bytes_by_call(view, pages)?;
        for (page, seen) in pages.iter().zip(bytes.chunks_exact(PAGE)) {
            as_seen(page.check(seen), "pread()")?;
        }
        Ok(())
    }

    fn check_mapped(&self, view: &mut View, pages: &[Locked<'_>], how: &str) -> io::Result<()> {
        for page in pages {
            let seen = self.persist(view, how, UNTOUCHABLE, |view| {
                let offset = view.offset_of(page.page());
                Ok(view.mapping().try_read(offset, PAGE)?)
            })?;
            as_seen(page.check(&seen), how)?;
        }
        Ok(())
    }

    /// Looks at pages, which are a run, of whose next content `done` bytes were written when the life before this one ended.
    fn check_cut(&self, view: &mut View, pages: &[Locked<'_>], done: usize) -> io::Result<()> {
        let bytes = self.bytes_by_call(view, pages)?;
        for (number, (page, seen)) in pages.iter().zip(bytes.chunks_exact(PAGE)).enumerate() {
            let next = page.content().stored();
            let done = done.saturating_sub(number * PAGE).min(PAGE);
            let how = "pread() of what was cut off";
            as_seen(page.check_part(next, done, seen), how)?;
        }
        Ok(())
    }

    /// Stores the next content to a page, of whose words `done` are stored, and the rest in another life if need be.
    fn store_rest(
        &self,
        view: &mut View,
        page: &mut Locked<'_>,
        mut done: usize,
    ) -> io::Result<()> {
        let next = page.content().stored();
        while done < WORDS.len() {
            match view.life.attempt("a store", UNTOUCHABLE, || {
                store_word(view, page, next, done)
            })? {
                Some(before) => as_seen(page.check_word(done, before), "a store")?,
                None => {
                    *view = self.after(&view.life)?;
                    let bytes = done.checked_sub(1).map_or(0, |last| WORDS[last] + 8);
                    self.check_cut(view, std::slice::from_ref(page), bytes)?;
                    continue;
                }
            }
            done += 1;
        }
        page.finish(next);
        Ok(())
    }

    fn store_page(&self, view: &mut View, page: &mut Locked<'_>) -> io::Result<()> {
        page.begin(page.content().stored());
        self.store_rest(view, page, 0)
    }

    /// Looks at all that the actors have left.
    pub(crate) fn inspect(&self) -> io::Result<()> {
        let mut view = View::of(self.life());
        let pages = self.model.lock_run(0, PAGES);
        for some in pages.chunks(MIB / PAGE) {
            self.check_by_call(&mut view, some)?;
        }
        view.own = Some((Mapping::shared(&view.life.device, SIZE)?, 0));
        self.check_mapped(&mut view, &pages, "a load in the end")?;
        let size = view.life.device.size()?;
        ensure(size == SIZE, || format!("the size is {size} in the end"))
    }
}

/// Stores one word, and returns what was there.
fn store_word(view: &View, page: &Locked<'_>, next: Content, word: usize) -> io::Result<u64> {
    let at = view.offset_of(page.page()) + WORDS[word];
    Ok(view.mapping().try_swap_word(at, page.word_of(word, next))?)
}

impl<'a> Actor<'a> {
    /// An actor whose choices come from `seed`.
    pub(crate) fn new(scene: &'a Scene<'a>, number: usize, seed: u64) -> io::Result<Self> {
        let memory = fs::memfd_create("stress", MemfdFlags::CLOEXEC)?;
        fs::ftruncate(&memory, (ROOM * PAGE) as u64)?;
        Ok(Self {
            scene,
            draws: Draws::new(scene.board, number, seed),
            process: File::options()
                .read(true)
                .write(true)
                .open("/proc/self/mem")?,
            memory,
            buffer: Mapping::anonymous(ROOM * PAGE)?,
        })
    }

    /// Acts until the end.
    pub(crate) fn run(&mut self, act: Act) -> io::Result<()> {
        let board = self.scene.board;
        while board.goes_on() {
            self.draws.begin_act();
            match act(self) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted && board.is_stopped() => {
                    return Ok(())
                }
                result => result?,
            }
            board.acted(self.draws.actor());
        }
        Ok(())
    }

    fn lock(&mut self, longest: usize) -> Vec<Locked<'a>> {
        let (first, pages) = self.draws.run_of(longest);
        self.scene.model.lock_run(first, pages)
    }

    fn view(&self) -> View {
        View::of(self.scene.life())
    }

    /// A mapping of its own, of this run of pages; of the whole device where a life has ended meanwhile.
    fn map(&self, first: usize, pages: usize) -> io::Result<View> {
        let mut view = self.view();
        let mapping = view.life.attempt("mmap()", GONE, || {
            let (offset, len) = ((first * PAGE) as u64, pages * PAGE);
            Mapping::new(&view.life.device, len, READ_WRITE, MapFlags::SHARED, offset)
        })?;
        match mapping {
            Some(mapping) => view.own = Some((mapping, first)),
            None => view = self.scene.after(&view.life)?,
        }
        Ok(view)
    }

    fn store(&mut self) -> io::Result<()> {
        for _ in 0..4 {
            let mut view = self.view();
            for mut page in self.lock(2) {
                self.scene.store_page(&mut view, &mut page)?;
                if self.draws.one_in(4) {
                    let pages = std::slice::from_ref(&page);
                    self.scene
                        .check_mapped(&mut view, pages, "the storer's load")?;
                }
            }
        }
        Ok(())
    }

    fn store_freshly(&mut self) -> io::Result<()> {
        let longest = if self.draws.one_in(2) { 16 } else { PAGES };
        let (first, pages) = self.draws.run_of(longest);
        let mut view = self.map(first, pages)?;
        for _ in 0..4 {
            let at = first + self.draws.below(pages);
            let mut page = self.scene.model.lock(at);
            self.scene.store_page(&mut view, &mut page)?;
            let pages = std::slice::from_ref(&page);
            let how = "a load through a fresh mapping";
            self.scene.check_mapped(&mut view, pages, how)?;
        }
        Ok(())
    }

    /// Writes whole pages, in one piece or several, by the device or as a debugger does.
    fn call(&mut self) -> io::Result<()> {
        let longest = if self.draws.one_in(3) { 48 } else { 6 };
        let mut pages = self.lock(longest);
        let mut bytes = Vec::new();
        for page in &pages {
            let next = page.content().stored();
            page.begin(next);
            bytes.extend(page.bytes_of(next));
        }
        let start = pages[0].page() * PAGE;
        let mut view = self.view();
        let way = self.draws.below(3);
        let middle = self.draws.below(bytes.len());
        let (what, gone) = match way {
            0 => ("pwrite()", GONE),
            1 => ("pwritev()", GONE),
            _ => ("a debugger's write", UNREADABLE),
        };
        let mut done = 0;
        while done < bytes.len() {
            let (rest, at) = (&bytes[done..], start + done);
            let written = view.life.attempt(what, gone, || match way {
                0 => Ok(pwrite(&view.life.device, rest, at as u64)?),
                1 => {
                    let (one, other) = rest.split_at(middle.min(rest.len()));
                    let both = [IoSlice::new(one), IoSlice::new(other)];
                    Ok(pwritev(&view.life.device, &both, at as u64)?)
                }
                _ => {
                    let address = view.life.mapping.address(at);
                    self.process.write_at(rest, address as u64)
                }
            })?;
            match written {
                Some(written) => {
                    done += written;
                    if done < bytes.len() {
                        let words = format!("{what} of {written} bytes at {at}");
                        view.life.may_be_gone(words)?;
                    }
                }
                None => {
                    view = self.scene.after(&view.life)?;
                    self.scene.check_cut(&mut view, &pages, done)?;
                }
            }
        }
        for page in &mut pages {
            page.finish(page.content().stored());
        }
        if self.draws.one_in(4) {
            self.scene.persist(&mut view, "fsync()", GONE, |view| {
                Ok(fs::fsync(&view.life.device)?)
            })?;
        }
        if self.draws.one_in(4) {
            self.scene.check_by_call(&mut view, &pages)?;
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        let pages = self.lock(8);
        let mut view = self.view();
        if self.draws.one_in(2) {
            self.scene.check_by_call(&mut view, &pages)?;
        }
        self.scene
            .check_mapped(&mut view, &pages, "a load through the mapping that stays")?;
        if self.draws.one_in(3) {
            let mut fresh = self.map(pages[0].page(), pages.len())?;
            let how = "a load through a fresh mapping";
            self.scene.check_mapped(&mut fresh, &pages, how)?;
        }
        if self.draws.one_in(3) {
            for page in &pages {
                let how = "a debugger's read";
                let seen = self.scene.persist(&mut view, how, UNREADABLE, |view| {
                    let address = view.life.mapping.address(page.page() * PAGE);
                    let mut seen = [0xAA; PAGE];
                    self.process
                        .read_at(&mut seen, address as u64)
                        .map(|_| seen)
                })?;
                as_seen(page.check(&seen), how)?;
            }
        }
        self.scene.check_by_call(&mut view, &pages)
    }

    /// Looks at pages that others are changing, by calls that are cut off by the end of the life and say where.
    fn race(&mut self) -> io::Result<()> {
        let longest = if self.draws.one_in(4) { ROOM } else { 4 };
        let (first, pages) = self.draws.run_of(longest);
        let (life, start) = (self.scene.life(), first * PAGE);
        let model = &self.scene.model;
        let looks: Vec<_> = (first..first + pages)
            .map(|page| model.look(page))
            .collect();
        let mut bytes = vec![0; pages * PAGE];
        let (how, count) = match self.draws.below(2) {
            0 => {
                let how = "a racing pread()";
                let read = life.attempt(how, GONE, || {
                    Ok(pread(&life.device, &mut bytes, start as u64)?)
                });
                (how, read?)
            }
            _ => {
                let how = "a racing copy from the mapping";
                let copied = life.attempt(how, UNTOUCHABLE, || {
                    let mapping = &life.mapping;
                    mapping.pwrite_to(&self.memory, 0, start, pages * PAGE)
                })?;
                let count = copied.unwrap_or(0);
                let read = pread(&self.memory, &mut bytes[..count], 0)?;
                ensure(read == count, || "a file in memory is short".into())?;
                (how, copied)
            }
        };
        let count = count.unwrap_or(0);
        if count < bytes.len() {
            life.may_be_gone(format_args!("by {how} at page {first}: {count} bytes"))?;
        }
        for (look, seen) in looks.iter().zip(bytes[..count].chunks_exact(PAGE)) {
            as_seen(look.check(seen), how)?;
        }
        Ok(())
    }

    fn remap(&mut self) -> io::Result<()> {
        let (first, count) = self.draws.run_of(1200);
        let at = first + self.draws.below(count);
        let run = (first + count - at).min(3);
        let mut pages = self.scene.model.lock_run(at, run);
        let mut view = self.map(first, count)?;
        if self.draws.one_in(2) {
            let how = "a load before remapping";
            self.scene.check_mapped(&mut view, &pages, how)?;
        }
        if let Some((mut mapping, first)) = view.own.take() {
            let start = (at - first) * PAGE;
            let len = run * PAGE;
            match self.draws.below(6) {
                0 => {
                    view.life
                        .refuses("growing by mremap()", Errno::FAULT, &[], || {
                            mapping.resize((count + 1) * PAGE)
                        })?;
                    mapping.resize((at - first + run) * PAGE)?;
                    view.own = Some((mapping, first));
                }
                1 => {
                    let target = Mapping::anonymous(len)?;
                    let moved = mapping.move_onto(start, len, target)?;
                    view.own = Some((moved, at));
                }
                2 => {
                    view.life
                        .refuses("MREMAP_DONTUNMAP", Errno::INVAL, &[], || {
                            mapping.move_leaving(0, count * PAGE)
                        })?;
                    view.own = Some((mapping, first));
                }
                3 => {
                    mapping.protect(0, count * PAGE, MprotectFlags::empty())?;
                    mapping.protect(start, count * PAGE - start, MprotectFlags::READ)?;
                    view.own = Some((mapping, first));
                    let how = "a load after mprotect()";
                    self.scene.check_mapped(&mut view, &pages, how)?;
                    if let Some((mapping, _)) = &view.own {
                        let both = MprotectFlags::READ | MprotectFlags::WRITE;
                        mapping.protect(0, count * PAGE, both)?;
                    }
                }
                4 if start > 0 => {
                    mapping.unmap(self.draws.below(at - first) * PAGE, PAGE)?;
                    view.own = Some((mapping, first));
                }
                _ => {
                    self.advise(&view.life, &mapping)?;
                    view.own = Some((mapping, first));
                }
            }
        }
        let how = "a load after remapping";
        self.scene.check_mapped(&mut view, &pages, how)?;
        for page in &mut pages {
            self.scene.store_page(&mut view, page)?;
        }
        self.scene.check_by_call(&mut view, &pages)
    }

    /// Gives advice, most of which is about pages that there are not.
    fn advise(&mut self, life: &Life, mapping: &Mapping) -> io::Result<()> {
        let all = [
            (Advice::Normal, None),
            (Advice::Random, None),
            (Advice::LinuxHugepage, None),
            (Advice::LinuxNoHugepage, None),
            (Advice::LinuxDontNeed, Some(Errno::INVAL)),
            (Advice::LinuxFree, Some(Errno::INVAL)),
            (Advice::LinuxCold, Some(Errno::INVAL)),
            (Advice::LinuxPageOut, Some(Errno::INVAL)),
            (Advice::LinuxPopulateRead, Some(Errno::INVAL)),
            (Advice::LinuxPopulateWrite, Some(Errno::INVAL)),
            (Advice::LinuxSoftOffline, Some(Errno::FAULT)),
            (Advice::LinuxHwPoison, Some(Errno::FAULT)),
        ];
        let (advice, errno) = all[self.draws.below(all.len())];
        let advise = || mapping.advise(0, mapping.len(), advice);
        match errno {
            None => advise().map_err(|error| wrong(format!("{advice:?}: {error}"))),
            Some(errno) => life.refuses(format_args!("{advice:?}"), errno, &[], advise),
        }
    }

    /// Has a child store to pages, through mappings that it has inherited.
    fn fork(&mut self) -> io::Result<()> {
        let mut pages = self.lock(4);
        let mut view = match self.draws.one_in(2) {
            true => self.map(pages[0].page(), pages.len())?,
            false => self.view(),
        };
        for page in &pages {
            page.begin(page.content().stored());
        }
        // What it returns is how many words it has stored, and behind it what was wrong.
        let child = Child::run(|| {
            let mut done = 0u64;
            let words = 'all: {
                for page in &pages {
                    let next = page.content().stored();
                    for word in 0..WORDS.len() {
                        let Ok(before) = store_word(&view, page, next, word) else {
                            break 'all String::new();
                        };
                        if let Err(words) = page.check_word(word, before) {
                            break 'all words;
                        }
                        done += 1;
                    }
                }
                String::new()
            };
            [&done.to_ne_bytes()[..], words.as_bytes()].concat()
        })?;
        let outcome = child.wait(Some(Duration::from_secs(30) * slowness()))?;
        let done = match &outcome {
            Outcome::Returned(bytes) if bytes.len() == 8 => {
                u64::from_ne_bytes(bytes[..].try_into().map_err(io::Error::other)?) as usize
            }
            Outcome::Returned(bytes) => {
                let words = String::from_utf8_lossy(&bytes[8.min(bytes.len())..]);
                return Err(wrong(format!("by a child's store: {words}")));
            }
            other => return Err(wrong(format!("a child that stores: {other:?}"))),
        };
        if done < pages.len() * WORDS.len() {
            view.life.may_be_gone("a child's store: SIGBUS")?;
            view = self.scene.after(&view.life)?;
        }
        for (number, page) in pages.iter_mut().enumerate() {
            let done = done.saturating_sub(number * WORDS.len()).min(WORDS.len());
            let bytes = done.checked_sub(1).map_or(0, |last| WORDS[last] + 8);
            self.scene
                .check_cut(&mut view, std::slice::from_ref(page), bytes)?;
            self.scene.store_rest(&mut view, page, done)?;
        }
        self.scene.check_by_call(&mut view, &pages)
    }

    /// Asks for what a BAR cannot do.
    fn ask(&mut self) -> io::Result<()> {
        let life = self.scene.life();
        let (device, name) = (&life.device, self.scene.pci.name_of(MEMORY));
        let at = self.draws.below(SIZE / PAGE) * PAGE;
        let page = PAGE as u64;
        self.draws.note(at / PAGE);
        // A request by name finds no device then.
        const UNNAMED: &[Errno] = &[Errno::NODEV, Errno::NOENT];
        let refuses = Errno::OPNOTSUPP;
        match self.draws.below(12) {
            0 => life.refuses("punching", refuses, GONE, || device.punch(at as u64, page)),
            1 => life.refuses("punching by name", refuses, UNNAMED, || {
                Control::open()?.punch(&name, at as u64, page)
            }),
            2 => life.refuses("resizing", refuses, GONE, || device.resize(at as u64)),
            3 => life.refuses("resizing by name", refuses, UNNAMED, || {
                Control::open()?.resize(&name, at as u64)
            }),
            4 => life.refuses("destroying", refuses, GONE, || device.destroy()),
            5 => life.refuses("destroying by name", refuses, UNNAMED, || {
                Control::open()?.destroy(&name)
            }),
            6 => life.refuses("making one of its name", Errno::INVAL, &[], || {
                Control::open()?.create(control::memory(&name, page)?)
            }),
            7 => life.refuses("a private mapping", Errno::INVAL, GONE, || {
                Mapping::new(device, PAGE, READ_WRITE, MapFlags::PRIVATE, at as u64)
            }),
            8 => life.refuses("a mapping beyond the end", Errno::INVAL, GONE, || {
                Mapping::new(
                    device,
                    SIZE - at + PAGE,
                    READ_WRITE,
                    MapFlags::SHARED,
                    at as u64,
                )
            }),
            9 => {
                let address = life.mapping.address(at);
                life.refuses("process_vm_readv()", Errno::FAULT, &[], || {
                    self.buffer.read_from_process(getpid(), address, 0, PAGE)
                })
            }
            10 => life.refuses("a fixed buffer", Errno::FAULT, &[], || {
                FixedBuffer::new(&life.mapping, at, PAGE)
            }),
            _ => {
                let path = format!("/mnt/disk/stress-{}", self.draws.actor());
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::DIRECT;
                let disk = fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
                fs::unlink(&path)?;
                life.refuses("direct I/O", Errno::FAULT, &[], || {
                    life.mapping.pwrite_to(&disk, 0, at, PAGE)
                })
            }
        }
    }

    /// Opens the device for itself, at times to have it uncached, and looks at a page.
    fn open(&mut self) -> io::Result<()> {
        let pages = self.lock(4);
        let life = self.scene.life();
        let is_sync = self.draws.one_in(2);
        let flags = if is_sync {
            OFlags::SYNC
        } else {
            OFlags::empty()
        };
        let node = control::node(&self.scene.pci.name_of(MEMORY));
        let device = match Device::open_with(node, OFlags::RDWR | flags) {
            Ok(device) => device,
            Err(error) if is_sync && is_one_of(&error, &[Errno::BUSY]) => {
                if life.is_uncached {
                    life.may_be_gone("opening with O_SYNC beside uncached: busy")?;
                }
                return Ok(());
            }
            Err(error) if is_one_of(&error, UNOPENABLE) => {
                return life.may_be_gone(format_args!("opening: {error}"));
            }
            Err(error) => return Err(wrong(format!("opening: {error}"))),
        };
        if is_sync && !life.is_uncached {
            life.may_be_gone("opening with O_SYNC beside cached")?;
        }
        // What was opened may be of the next life, which is at its end in turn before a look at it.
        let mut bytes = vec![0xAA; pages.len() * PAGE];
        let read = pread(&device, &mut bytes, (pages[0].page() * PAGE) as u64);
        match read {
            Ok(count) if count == bytes.len() => {
                for (page, seen) in pages.iter().zip(bytes.chunks_exact(PAGE)) {
                    as_seen(page.check(seen), "a read of what was just opened")?;
                }
            }
            Ok(count) => life.may_be_gone(format_args!("a read of {count} bytes"))?,
            Err(Errno::NODEV) => life.may_be_gone("a read of what was just opened")?,
            Err(error) => return Err(wrong(format!("a read of what was just opened: {error}"))),
        }
        let now = is_uncached(&self.scene.pci);
        if !life.is_ending.load(SeqCst) {
            ensure(now? == life.is_uncached, || {
                "how it is cached has changed while it was open".into()
            })?;
        }
        Ok(())
    }

    /// Has the driver let go of the device while everybody is at it, and binds it again.
    fn unbind(&mut self) -> io::Result<()> {
        let (scene, life) = (self.scene, self.scene.life());
        // Not each time: to fork takes longer than all else here.
        let children = if self.draws.one_in(3) { 2 } else { 0 };
        let children = (0..children)
            .map(|number| {
                let mut at = Random::new(self.draws.next_u64());
                let life = &life;
                Child::run(move || loop {
                    for _ in 0..16 {
                        let offset = MODEL_SIZE + at.below(SIZE - MODEL_SIZE);
                        match number {
                            0 => life.mapping.store(offset, 1),
                            _ => drop(life.mapping.load(offset)),
                        }
                    }
                    std::thread::sleep(Duration::from_millis(1));
                })
            })
            .collect::<io::Result<Vec<_>>>()?;
        let longest = [30, 300, 1500][self.draws.below(3)];
        let pause = Duration::from_millis(self.draws.below(longest) as u64);
        scene.board.pause(pause);
        life.is_ending.store(true, SeqCst);
        let result = scene.pci.unbind();
        result.map_err(|error| wrong(format!("unbinding: {error}")))?;
        life.has_ended.store(true, SeqCst);
        for child in children {
            let outcome = child.wait(Some(Duration::from_secs(30) * slowness()))?;
            let is_right = outcome == Outcome::Killed(Signal::BUS.as_raw());
            ensure(is_right, || {
                format!("a child at what was unbound: expected SIGBUS, seen {outcome:?}")
            })?;
        }
        life.is_over(&mut self.draws, &self.process)?;
        let name = scene.pci.name_of(MEMORY);
        ensure(!control::node(&name).exists(), || {
            "the node is there without a driver".into()
        })?;
        let bar = scene.pci.bar(MEMORY)?;
        let bar = bar.ok_or_else(|| wrong("the BAR is gone"))?;
        let types = pci::memory_types(bar.start, bar.len)?;
        ensure(types.is_empty(), || {
            format!("without a driver it is mapped still: {types:?}")
        })?;
        if self.draws.one_in(3) {
            let pause = Duration::from_millis(self.draws.below(100) as u64);
            scene.board.pause(pause);
        }
        let result = scene.pci.bind();
        result.map_err(|error| wrong(format!("binding: {error}")))?;
        let next = Life::begin(&scene.pci, self.draws.one_in(3))?;
        life.is_over(&mut self.draws, &self.process)?;
        let mut now = scene.life.lock().unwrap_or_else(PoisonError::into_inner);
        *now = Arc::new(next);
        drop(now);
        scene.has_begun.notify_all();
        Ok(())
    }
}

const _: () = assert!(MODEL_SIZE < SIZE && MODEL_SIZE % HUGE_PAGE == 0);
