// SPDX-License-Identifier: GPL-2.0

//! The tests of mmapdev: run as root in the guest, one for each promise.
//!
//! Each runs in a child process with a time limit, with devices that are made for it and ended after it. It fails if
//! the kernel complains meanwhile or something keeps the module, whatever the test says. After the tests of an area the
//! module is unloaded, and what is wrong with that is told by the next.

#![forbid(unsafe_code)]

mod accounting;
mod allocations;
mod control;
mod core_dump;
mod ctl;
mod direct_io;
mod doorbell;
mod examples;
mod fault;
mod file_backing;
mod folios;
mod hostile;
mod huge;
mod ioctl;
mod kept_module;
mod kunit;
mod leaks;
mod lifetime;
mod load;
mod map;
mod open;
mod other_process;
mod pci;
mod pressure;
mod read_write;
mod remap;
mod rig;
mod ring;
mod robust_mutex;
mod seeing;
mod seek;
mod share;
mod sockets;
mod splice;
mod storm;
mod sync;
mod tracing;
mod vms;

use kept_module::KeptModule;
use libtest_mimic::{Arguments, Trial};
use mmapdev_userspace::child::{Child, Outcome};
use mmapdev_userspace::kernel_log::Mark;
use mmapdev_userspace::mapping;
use mmapdev_userspace::{is_sanitizer_kernel, slowness};
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// One promise and how it is put to the test.
#[derive(Clone, Copy)]
struct Test {
    /// The promise in words.
    name: &'static str,
    /// The module's parameters, which say what devices there are; `None`: the test loads it itself.
    parameters: Option<&'static str>,
    /// How long it may take.
    limit: Option<Duration>,
    /// Whether it runs programs of the Debian that the rig shares with the guest.
    needs_debian: bool,
    /// Whether the module is loaded for it, so that the ids of its devices begin with 1.
    needs_new_module: bool,
    body: fn() -> io::Result<()>,
}

/// What hangs is found by it; nothing is measured, and a host may have as many guests as CPUs, and more to do.
const LIMIT: Option<Duration> = Some(Duration::from_secs(60));

impl Test {
    /// A test of the module with the devices that these parameters stand for.
    const fn with(
        name: &'static str,
        parameters: &'static str,
        body: fn() -> io::Result<()>,
    ) -> Self {
        Self {
            name,
            parameters: Some(parameters),
            limit: LIMIT,
            needs_debian: false,
            needs_new_module: false,
            body,
        }
    }

    /// A test of the module that runs programs of the Debian that the rig shares with the guest.
    const fn with_debian(
        name: &'static str,
        parameters: &'static str,
        body: fn() -> io::Result<()>,
    ) -> Self {
        Self {
            needs_debian: true,
            ..Self::with(name, parameters, body)
        }
    }

    /// The same test, for which the module is loaded anew.
    const fn in_new_module(self) -> Self {
        Self {
            needs_new_module: true,
            ..self
        }
    }

    /// A test that starts without the module, and leaves none behind.
    const fn without_module(name: &'static str, body: fn() -> io::Result<()>) -> Self {
        Self {
            parameters: None,
            ..Self::with(name, "", body)
        }
    }

    fn run(self, area: &'static str, module: &mut KeptModule) -> io::Result<()> {
        let result = watched(|| self.run_with(area, module));
        // The next begins with nothing that this has left.
        if result.is_err() {
            return both(result, module.unload());
        }
        result
    }

    fn run_with(self, area: &'static str, module: &mut KeptModule) -> io::Result<()> {
        if self.parameters.is_none() || self.needs_new_module {
            module.unload()?;
        }
        let Some(parameters) = self.parameters else {
            return both(self.run_alone(), KeptModule::check_none_is_left());
        };
        module.begin(area, parameters)?;
        both(self.run_alone(), module.end())
    }

    fn run_alone(self) -> io::Result<()> {
        let body = self.body;
        let child = Child::run_group(move || match body() {
            Ok(()) => Vec::new(),
            Err(error) => format!("{error} ({error:?})").into_bytes(),
        })?;
        let limit = self.limit.map(|limit| limit * slowness());
        let error = match child.wait_for_group(limit)? {
            Outcome::Returned(bytes) if bytes.is_empty() => return Ok(()),
            Outcome::Returned(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Outcome::Panicked(message) => message,
            Outcome::Killed(signal) => format!("killed by signal {signal}"),
            Outcome::TimedOut => format!("not done after {limit:?}"),
        };
        Err(io::Error::other(error))
    }
}

/// Does something, which fails where the kernel complains meanwhile.
fn watched(body: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let mut log = Mark::now()?;
    let result = body();
    let complaints = match log.complaints() {
        Ok(complaints) => complaints,
        Err(error) => return both(result, Err(error)),
    };
    if !complaints.is_empty() {
        let complaints = complaints.join("\n  ");
        return Err(io::Error::other(format!(
            "the kernel complained:\n  {complaints}\n{result:?}"
        )));
    }
    result
}

/// What went wrong, in the test or after it.
fn both(test: io::Result<()>, after: io::Result<()>) -> io::Result<()> {
    match (test, after) {
        (Err(test), Err(after)) => Err(io::Error::other(format!("{after}; {test}"))),
        (test, after) => test.and(after),
    }
}

/// Waits for another process or thread to give a word this value, without a call into the kernel.
fn wait_for(word: &AtomicU64, value: u64) {
    let deadline = Instant::now() + slowness() * Duration::from_secs(10);
    assert!(
        mapping::wait_for(word, value, deadline),
        "the word never became {value}"
    );
}

/// Checks that something fails, and how.
fn assert_errno<T: std::fmt::Debug>(result: io::Result<T>, errno: rustix::io::Errno, what: &str) {
    let error = result.expect_err(what);
    assert_eq!(
        error.raw_os_error(),
        Some(errno.raw_os_error()),
        "{what}: {error}"
    );
}

fn main() {
    let mut arguments = Arguments::from_args();
    // They share the module, the kernel's log and the count of free memory; and each forks, which only a
    // process of one thread may.
    arguments.test_threads = Some(1);

    let areas: &[(&str, &[Test])] = &[
        ("load", load::TESTS),
        ("open", open::TESTS),
        ("map", map::TESTS),
        ("fault", fault::TESTS),
        ("huge", huge::TESTS),
        ("file_backing", file_backing::TESTS),
        ("remap", remap::TESTS),
        ("folios", folios::TESTS),
        ("accounting", accounting::TESTS),
        ("core_dump", core_dump::TESTS),
        ("share", share::TESTS),
        ("robust_mutex", robust_mutex::TESTS),
        ("other_process", other_process::TESTS),
        ("direct_io", direct_io::TESTS),
        ("sockets", sockets::TESTS),
        ("read_write", read_write::TESTS),
        ("seek", seek::TESTS),
        ("sync", sync::TESTS),
        ("splice", splice::TESTS),
        ("ioctl", ioctl::TESTS),
        ("control", control::TESTS),
        ("lifetime", lifetime::TESTS),
        ("doorbell", doorbell::TESTS),
        ("ring", ring::TESTS),
        ("hostile", hostile::TESTS),
        ("storm", storm::TESTS),
        ("ctl", ctl::TESTS),
        ("seeing", seeing::TESTS),
        ("tracing", tracing::TESTS),
        ("examples", examples::TESTS),
    ];
    // Tests that fail, for the rig to see that it notices.
    let rig: &[Test] = if std::env::var_os("RIG_SELF_TEST").is_some() {
        rig::TESTS
    } else {
        &[]
    };
    // On a machine of little memory with a large disk.
    let pressure: &[Test] = if std::env::var_os("PRESSURE").is_some() {
        pressure::TESTS
    } else {
        &[]
    };
    // On a machine with PCI devices, which the module makes devices of when it is loaded.
    let pci: &[Test] = if std::env::var_os("PCI").is_some() {
        pci::TESTS
    } else {
        &[]
    };
    // One of two machines.
    let vms: &[Test] = if std::env::var_os("VMS").is_some() {
        vms::TESTS
    } else {
        &[]
    };
    // On a kernel that looks for mistakes; what was leaked is found last.
    let sanitizer: &[(&str, &[Test])] = if is_sanitizer_kernel() {
        if !arguments.list {
            leaks::begin().expect("a kernel with memory cgroups");
        }
        &[
            ("kunit", kunit::TESTS),
            ("allocations", allocations::TESTS),
            ("allocations_of_workers", allocations::TESTS_OF_WORKERS),
            ("pci::allocations", if_any(pci, allocations::PCI_TESTS)),
            ("leaks", leaks::TESTS),
            ("pci::leaks", if_any(pci, leaks::TESTS)),
            // (The journal of its disk has pages of its own, for which these tests are charged.)
            (
                "pressure::leaks",
                if_any(pressure, &[leaks::OF_ALLOCATIONS]),
            ),
            ("vms::leaks", if_any(vms, leaks::TESTS)),
        ]
    } else {
        &[]
    };
    // The rig runs those that need it in a guest of their own, and allocations that fail, which take as long as all
    // others, at the same time in another; of those that need a machine of their own it wants no others there.
    let only = std::env::var("AREA").unwrap_or_default();
    let debian = std::env::var("DEBIAN");
    let allocations = std::env::var("ALLOCATIONS");
    let module: Arc<Mutex<KeptModule>> = Arc::default();
    let trials = areas
        .iter()
        .copied()
        .chain([
            ("rig", rig),
            ("pressure", pressure),
            ("pci", pci),
            ("vms", vms),
        ])
        .chain(sanitizer.iter().copied())
        .flat_map(|(area, tests)| tests.iter().map(move |test| (area, *test)))
        .filter(|(_, test)| match debian.as_deref() {
            Ok("only") => test.needs_debian,
            Ok("none") => !test.needs_debian,
            _ => true,
        })
        .filter(|(area, _)| area.starts_with(&only))
        .filter(|(area, _)| match allocations.as_deref() {
            Ok("only") => ["allocations", "leaks"].contains(area),
            Ok("none") => *area != "allocations",
            _ => true,
        })
        .map(|(area, test)| {
            let name = format!("{area}::{}", test.name);
            let module = module.clone();
            Trial::test(name.clone(), move || {
                let mut module = module.lock().expect("no panic");
                timed(name, || Ok(test.run(area, &mut module)?))
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    show_slowest();
    if let Err(error) = module.lock().expect("no panic").unload() {
        eprintln!("{error}");
        // As of a test that fails.
        std::process::exit(101);
    }
    let ran = conclusion.num_passed + conclusion.num_failed + conclusion.num_ignored;
    if ran == 0 && !arguments.list {
        eprintln!("There is no such test here.");
        std::process::exit(1);
    }
    conclusion.exit();
}

/// The tests that come after those of an area, if there are any of that.
fn if_any(area: &[Test], tests: &'static [Test]) -> &'static [Test] {
    if area.is_empty() {
        &[]
    } else {
        tests
    }
}

/// How long each test took.
static TIMES: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

fn timed<T>(name: String, body: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = body();
    let took = begun.elapsed();
    TIMES.lock().expect("no panic").push((took, name));
    result
}

/// Says which tests took longest, where there were many.
fn show_slowest() {
    const SHOWN: usize = 10;
    let mut times = TIMES.lock().expect("no panic");
    if times.len() <= SHOWN {
        return;
    }
    times.sort();
    println!("the slowest:");
    for (took, name) in times.iter().rev().take(SHOWN) {
        println!("{:6.1} s  {name}", took.as_secs_f64());
    }
}
