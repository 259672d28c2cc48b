// SPDX-License-Identifier: GPL-2.0

//! Races under an oracle: all that can be done to a device and to the machine under it, at once, while a model
//! says of each page what its bytes have to be.
//!
//! Each kind of device has a process and each actor in it a thread; one more process is at the machine. The n-th act
//! of an actor draws the same numbers in each run with a seed; which of two that race comes first is not drawn.

#![forbid(unsafe_code)]

mod actors;
mod bar;
mod board;
mod draws;
mod kinds;
mod machine;
mod model;

use actors::{ensure, wrong, End, Scene, PAGES, SIZE};
use board::Board;
use clap::Parser;
use draws::Draws;
use kinds::{Backing, Kind, KINDS};
use mmapdev_userspace::cgroup::Cgroup;
use mmapdev_userspace::charged_folios::frames_of_files;
use mmapdev_userspace::child::{Child, Outcome};
use mmapdev_userspace::control::{self, Control};
use mmapdev_userspace::device::Device;
use mmapdev_userspace::kernel_log::Mark;
use mmapdev_userspace::kmemleak;
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::memory;
use mmapdev_userspace::module::Loaded;
use mmapdev_userspace::slowness;
use mmapdev_userspace::table::Table;
use mmapdev_userspace::{MIB, PAGE};
use model::Model;
use rustix::fs::OFlags;
use rustix::process::{getpid, kill_process_group, Signal};
use std::any::Any;
use std::fs;
use std::io;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Does everything to devices of every kind at once, and checks each byte that it sees against a model: mappers,
/// readers, writers, punching, resizing, remapping, forks, direct I/O, pins, reclaim, compaction, migration, bad
/// memory, destroying, unbinding the driver of a PCI device and attempts to unload the module.
///
/// Loads the module itself, which must not be loaded, and needs a machine of its own, as root, with an ivshmem of 16 MiB:
/// it takes some of the memory out of use for good, and overwrites that of the ivshmem. Ends with a table of how often each actor has acted, or with what was wrong and
/// status 1. SLOWNESS=N in the environment says that the machine is so many times slower than usual.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// How long the actors act
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// What their choices are made by, so that a failure can be had again [default: the clock]
    #[arg(long)]
    seed: Option<u64>,
}

/// The name of the device of a kind.
fn name_of(kind: usize) -> String {
    format!("stress{kind}")
}

/// The most actors that a process has.
const MOST: usize = 12;
const _: () = assert!(actors::ACTORS.len() <= MOST);
const _: () = assert!(bar::ACTORS.len() <= MOST);
const _: () = assert!(machine::ACTORS.len() <= MOST);

/// The number on the board of an actor of a kind's process; those of the machine come after all kinds.
fn number_of(process: usize, actor: usize) -> usize {
    process * MOST + actor
}

/// The actors of a kind's process, each with how often it must act in ten minutes.
fn actors_of(kind: &Kind) -> Vec<(&'static str, u64)> {
    match kind.backing {
        Backing::Bar => bar::ACTORS.map(|(name, least, _)| (name, least)).to_vec(),
        Backing::Memory | Backing::File(..) => actors::ACTORS
            .map(|(name, least, _)| (name, least))
            .to_vec(),
    }
}

/// What a process is called, and its actors.
fn processes() -> Vec<(String, Vec<(&'static str, u64)>)> {
    let mut all: Vec<_> = KINDS
        .iter()
        .map(|kind| (format!("the device with {}", kind.name), actors_of(kind)))
        .collect();
    let machine = machine::ACTORS.map(|(name, least, _)| (name, least));
    all.push(("the machine".to_string(), machine.to_vec()));
    all
}

/// The words of a panic.
fn words_of(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
    words.unwrap_or("a panic").to_string()
}

/// What an actor does until the end.
type Body<'a> = Box<dyn FnOnce() -> io::Result<()> + Send + 'a>;

/// Runs actors, each in a thread, until the end or until one fails; says of each that has failed how.
fn run_all(board: &Board, bodies: Vec<(&str, Body<'_>)>) -> Vec<String> {
    thread::scope(|scope| {
        let threads: Vec<_> = bodies
            .into_iter()
            .map(|(name, body)| {
                let run = move || {
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
                    let words = match result {
                        Ok(Ok(())) => return None,
                        Ok(Err(error)) => error.to_string(),
                        Err(panic) => words_of(&*panic),
                    };
                    board.stop();
                    Some(format!("the {name}: {words}"))
                };
                scope.spawn(run)
            })
            .collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().ok().flatten())
            .collect()
    })
}

/// The process of one kind of device: what was wrong, a line each.
fn stress_kind(board: &Board, number: usize, kind: &'static Kind, seed: u64) -> io::Result<()> {
    let device = Device::open_with(control::node(&name_of(number)), OFlags::RDWR)?;
    let scene = Scene {
        kind,
        mapping: Mapping::shared(&device, SIZE)?,
        device,
        file: kind.stored(&name_of(number))?,
        model: Model::new(number, PAGES),
        end: End::new(),
        board,
    };
    let mut bodies: Vec<(&str, Body<'_>)> = Vec::new();
    for (index, (name, _, act)) in actors::ACTORS.into_iter().enumerate() {
        let number = number_of(number, index);
        board.is_of(number, getpid());
        let mut actor = actors::Actor::new(&scene, number, seed)?;
        bodies.push((name, Box::new(move || actor.run(act))));
    }
    let wrongs = run_all(board, bodies);
    ensure(wrongs.is_empty(), || wrongs.join("\n  "))?;
    actors::inspect(&scene).map_err(|error| wrong(format!("in the end: {error}")))
}

/// The process of the memory of a PCI device.
fn stress_bar(board: &Board, number: usize, seed: u64) -> io::Result<()> {
    let scene = bar::Scene::new(board, number)?;
    let mut bodies: Vec<(&str, Body<'_>)> = Vec::new();
    for (index, (name, _, act)) in bar::ACTORS.into_iter().enumerate() {
        let number = number_of(number, index);
        board.is_of(number, getpid());
        let mut actor = bar::Actor::new(&scene, number, seed)?;
        bodies.push((name, Box::new(move || actor.run(act))));
    }
    let wrongs = run_all(board, bodies);
    ensure(wrongs.is_empty(), || wrongs.join("\n  "))?;
    if board.is_stopped() {
        // What others have brought to an end may have been left in the middle.
        return Ok(());
    }
    scene
        .inspect()
        .map_err(|error| wrong(format!("in the end: {error}")))
}

/// The process that is at the machine.
fn stress_machine(board: &Board, cgroup: &Cgroup, seed: u64, duration: Duration) -> io::Result<()> {
    let mut devices = Vec::new();
    for (number, kind) in KINDS.iter().enumerate() {
        if kind.backing == Backing::Bar {
            // It has no pages.
            continue;
        }
        let node = control::node(&name_of(number));
        devices.push(node.to_string_lossy().into_owned());
    }
    let victims: Vec<usize> = (0..KINDS.len()).map(|kind| number_of(kind, 0)).collect();
    let mut bodies: Vec<(&str, Body<'_>)> = Vec::new();
    for (index, (name, _, act)) in machine::ACTORS.into_iter().enumerate() {
        let number = number_of(KINDS.len(), index);
        board.is_of(number, getpid());
        if name == machine::MIGRATOR && !machine::can_migrate()? {
            continue;
        }
        let mut actor = machine::Actor {
            board,
            cgroup,
            draws: Draws::new(board, number, seed),
            duration,
            devices: &devices,
            victims: &victims,
        };
        bodies.push((name, Box::new(move || actor.run(act))));
    }
    let wrongs = run_all(board, bodies);
    ensure(wrongs.is_empty(), || wrongs.join("\n  "))
}

/// What each thread of the processes that are left is at, in the program and in the kernel.
fn where_all_are(board: &Board, all: &[(String, Vec<(&str, u64)>)], left: &[usize]) -> String {
    let mut words = String::new();
    for &process in left {
        words += &format!("\n  {}:", all[process].0);
        for (index, (name, _)) in all[process].1.iter().enumerate() {
            let number = number_of(process, index);
            let (acts, page) = (board.acts(number), board.at(number));
            words += &format!("\n    the {name}: {acts} acts, last at page {page}");
        }
        let pid = board.process(number_of(process, 0));
        let Some(pid) = pid.map(|pid| pid.as_raw_nonzero().get()) else {
            continue;
        };
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten();
        for task in tasks.flatten() {
            let stack = fs::read_to_string(task.path().join("stack")).unwrap_or_default();
            let stack: Vec<&str> = stack.lines().take(12).collect();
            words += &format!("\n    thread {:?}:\n      ", task.file_name());
            words += &stack.join("\n      ");
        }
    }
    words
}

/// Waits for all processes, looks at the kernel's log meanwhile, and says what was wrong.
fn watch(
    board: &Board,
    children: Vec<Child>,
    log: &mut Mark,
    mut deadline: Instant,
) -> io::Result<Vec<String>> {
    /// How long the others may take to stop once something is wrong, which may be why they cannot.
    const STOPPING: Duration = Duration::from_secs(5);
    let all = processes();
    let mut wrongs: Vec<String> = Vec::new();
    let mut is_stopping = false;
    let (sender, ends) = mpsc::channel();
    for (number, child) in children.into_iter().enumerate() {
        let sender = sender.clone();
        thread::spawn(move || sender.send((number, child.wait_for_group(None))));
    }
    let mut left: Vec<usize> = (0..all.len()).collect();
    while !left.is_empty() {
        match ends.recv_timeout(Duration::from_secs(1)) {
            Ok((number, outcome)) => {
                left.retain(|&process| process != number);
                let words = match outcome? {
                    Outcome::Returned(words) if words.is_empty() => continue,
                    Outcome::Returned(words) => String::from_utf8_lossy(&words).into_owned(),
                    Outcome::Panicked(words) => words,
                    Outcome::Killed(signal) => {
                        let places = where_all_are(board, &all, &[number]);
                        format!("it was killed by signal {signal}; its actors:{places}")
                    }
                    Outcome::TimedOut => "it was not done".to_string(),
                };
                board.stop();
                wrongs.push(format!("{}: {words}", all[number].0));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let complaints = log.complaints()?;
        if !complaints.is_empty() {
            board.stop();
            let complaints = complaints.join("\n  ");
            wrongs.push(format!("the kernel complained:\n  {complaints}"));
        }
        if let (Some(first), false) = (wrongs.first(), is_stopping) {
            // Said at once: there may be no end that it could be said at.
            println!("stopping: {first}");
            deadline = deadline.min(Instant::now() + slowness() * STOPPING);
            is_stopping = true;
        }
        if Instant::now() >= deadline {
            let places = where_all_are(board, &all, &left);
            wrongs.push(format!("these processes hang:{places}"));
            for &process in &left {
                if let Some(pid) = board.process(number_of(process, 0)) {
                    // Where it cannot die, this process must not wait for it.
                    let _ = kill_process_group(pid, Signal::KILL);
                }
            }
            break;
        }
    }
    Ok(wrongs)
}

/// How often each must act at least in so many seconds, and once in any case: the numbers of ten minutes are for the kernel that
/// looks for mistakes, of which the rig says that it is this slow, and less is enough only where the machine is slow as well.
fn least_acts(seconds: u64) -> io::Result<Vec<u64>> {
    const USUAL: u64 = 8;
    let slowness = u64::from(slowness()).max(USUAL);
    let mut least = vec![0; number_of(KINDS.len(), machine::ACTORS.len())];
    for (process, (_, actors)) in processes().into_iter().enumerate() {
        for (index, (name, in_ten_minutes)) in actors.into_iter().enumerate() {
            if name != machine::MIGRATOR || machine::can_migrate()? {
                let acts = (in_ten_minutes * seconds * USUAL / 600 / slowness).max(1);
                least[number_of(process, index)] = acts.min(machine::most(name));
            }
        }
    }
    Ok(least)
}

/// The table of how often each actor has acted, and who has done so too seldom.
fn report(board: &Board) -> (Table, Vec<String>) {
    let mut table = Table::new();
    let mut idle = Vec::new();
    let kinds = KINDS.map(|kind| kind.name);
    let heading = std::iter::once("how often each has acted").chain(kinds);
    table.heading_of(heading.map(str::to_string).collect());
    let mut check = |name: &str, place: &str, number: usize| {
        let (acts, least) = (board.acts(number), board.least(number));
        if acts < least {
            idle.push(format!(
                "the {name} of {place} has acted only {acts} times, and {least} are the least"
            ));
        }
        acts.to_string()
    };
    let actors = KINDS.each_ref().map(actors_of);
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in actors.iter().flatten() {
        if !names.contains(name) {
            names.push(name);
        }
    }
    for name in names {
        let mut row = vec![name.to_string()];
        for (kind, actors) in actors.iter().enumerate() {
            let Some(index) = actors.iter().position(|(actor, _)| *actor == name) else {
                row.push("-".to_string());
                continue;
            };
            row.push(check(name, kinds[kind], number_of(kind, index)));
        }
        table.row_of(row);
    }
    for (index, (name, ..)) in machine::ACTORS.into_iter().enumerate() {
        let number = number_of(KINDS.len(), index);
        if board.least(number) == 0 {
            table.row([name, "left out: the kernel has no NUMA_MIGRATION"]);
            continue;
        }
        let acts = check(name, "the machine", number);
        table.row([name, &acts]);
    }
    (table, idle)
}

/// What the machine has, to see later what is lost.
struct Before {
    free: u64,
    unevictable: u64,
    corrupted: u64,
    migrated: u64,
    reclaimed: u64,
}

impl Before {
    fn now() -> io::Result<Self> {
        Ok(Self {
            free: memory::settled_free()?,
            unevictable: memory::vmstat("nr_unevictable")?,
            corrupted: memory::meminfo("HardwareCorrupted")?,
            migrated: memory::vmstat("pgmigrate_success")?,
            reclaimed: memory::vmstat("pgsteal_file")?,
        })
    }

    /// Says what the module has not given back, and what was asked for in so many seconds and never came about.
    fn check(&self, seconds: u64) -> io::Result<()> {
        // Less is luck.
        const ENOUGH: u64 = 60;
        // What the kernel keeps for a while of what was freed, where it looks for mistakes.
        const KEPT: u64 = 192 * MIB as u64;
        let now = Self::now()?;
        let corrupted = now.corrupted.saturating_sub(self.corrupted);
        let left = now.unevictable.saturating_sub(self.unevictable);
        ensure(left <= corrupted / PAGE as u64, || {
            format!("{left} pages are left over in memory after the module has gone")
        })?;
        let is_short = seconds < ENOUGH;
        ensure(is_short || now.migrated > self.migrated, || {
            "no page was migrated".into()
        })?;
        ensure(is_short || now.reclaimed > self.reclaimed, || {
            "no page was reclaimed".into()
        })?;
        let lost = self.free.saturating_sub(now.free);
        ensure(lost <= KEPT + corrupted, || {
            format!("{lost} bytes of memory are gone, {corrupted} of them because they are bad")
        })
    }
}

/// All of it: what was wrong, and the table.
fn run(seconds: u64, seed: u64) -> io::Result<(Vec<String>, Table)> {
    let mut log = Mark::now()?;
    let before = Before::now()?;
    let module = Loaded::with("devices=0")?;
    let cgroup = Cgroup::new("stress")?;
    let control = Control::open()?;
    let mut held = Vec::new();
    for (number, kind) in KINDS.iter().enumerate() {
        let name = name_of(number);
        kind.create(&control, &name, SIZE)?;
        if kind.backing != Backing::Bar {
            held.push(Device::open_with(control::node(&name), OFlags::RDWR)?);
        }
    }
    let duration = Duration::from_secs(seconds);
    // Less than what is left until they are taken to hang.
    let grace = duration.clamp(
        Duration::from_secs(60),
        slowness() * Duration::from_secs(60),
    );
    let board = Board::new(least_acts(seconds)?, duration, grace)?;
    let deadline = Instant::now() + duration + slowness() * Duration::from_secs(120);
    // All before the first thread: a child has only the one that forks.
    let mut children = Vec::new();
    for number in 0..=KINDS.len() {
        let body = || {
            let result = cgroup.enter().and_then(|()| match KINDS.get(number) {
                Some(kind) if kind.backing == Backing::Bar => stress_bar(&board, number, seed),
                Some(kind) => stress_kind(&board, number, kind, seed),
                None => stress_machine(&board, &cgroup, seed, duration),
            });
            result.map_or_else(|error| error.to_string().into_bytes(), |()| Vec::new())
        };
        children.push(Child::run_group(body)?);
    }
    let mut wrongs = watch(&board, children, &mut log, deadline)?;
    let (mut table, idle) = report(&board);
    for (process, (place, actors)) in processes().into_iter().enumerate() {
        for (index, (name, _)) in actors.into_iter().enumerate() {
            if board.was_late(number_of(process, index)) {
                table.row([
                    "longer than asked for, waiting for",
                    &format!("the {name} of {place}"),
                ]);
            }
        }
    }
    if !wrongs.is_empty() {
        // Whoever is left may be at the devices still.
        return Ok((wrongs, table));
    }
    wrongs.extend(idle);
    drop(held);
    for (number, kind) in KINDS.iter().enumerate() {
        kind.destroy(&control, &name_of(number))?;
    }
    let left = control.list()?.into_iter();
    let left = left.filter(|info| !bar::is_bar(info.name.bytes())).count();
    ensure(left == 0, || format!("{left} devices are left over"))?;
    drop(control);
    module
        .unload()
        .map_err(|error| wrong(format!("unloading in the end: {error}")))?;
    before.check(seconds)?;
    let lost = frames_of_files(&cgroup)?;
    ensure(lost.is_empty(), || {
        format!("page frames are lost: {lost:x?}")
    })?;
    drop(cgroup);
    if kmemleak::is_there() {
        let lost = kmemleak::lost()?;
        ensure(lost.is_empty(), || format!("memory is lost:\n{lost}"))?;
    } else {
        table.row(["leaks", "not looked for: the kernel has no DEBUG_KMEMLEAK"]);
    }
    wrongs.extend(log.complaints()?);
    Ok((wrongs, table))
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(1, |now| {
            u64::from(now.subsec_micros()) + now.as_secs() % 1000 * 1_000_000
        })
    });
    let seconds = options.seconds;
    println!("mmapdev-stress --seconds {seconds} --seed {seed}");
    let start = Instant::now();
    let wrongs = match run(seconds, seed) {
        Ok((wrongs, table)) => {
            for line in table.lines() {
                println!("{line}");
            }
            wrongs
        }
        Err(error) => vec![error.to_string()],
    };
    let took = start.elapsed().as_secs();
    if wrongs.is_empty() {
        println!("All that was seen was right, with seed {seed}, in {took} s.");
        return ExitCode::SUCCESS;
    }
    println!("error: with seed {seed}, after {took} s:");
    for wrong in wrongs {
        println!("{wrong}");
    }
    ExitCode::FAILURE
}
