// SPDX-License-Identifier: GPL-2.0

//! Counting what a CPU does when it has nothing to do, so that the rest is what it did.
//!
//! Where a guest's clock counts instructions, it also goes on while its CPU waits. Here the CPU never does: a thread that
//! runs only when nothing else can go round in a loop, and counts. What the clock has gone on by, less these rounds,
//! is the instructions of all else: programs, calls, interrupts.

use std::hint::black_box;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The thread, of a machine of one CPU.
#[derive(Debug)]
pub struct Idle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Nanoseconds of the clock that a round takes.
    round: f64,
}

#[derive(Debug, Default)]
struct Shared {
    rounds: AtomicU64,
    ends: AtomicBool,
}

/// The clock and the rounds at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    time: Instant,
    rounds: u64,
}

impl Idle {
    /// Starts the thread, and measures a round while this one sleeps so long.
    pub fn start(measured: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let shared = shared.clone();
            move || {
                run_when_idle().expect("a thread may always become less important");
                while !shared.ends.load(Ordering::Relaxed) {
                    // Short, so that little is lost where it is interrupted for good.
                    for step in 0..200 {
                        black_box(step);
                    }
                    shared.rounds.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let mut idle = Self {
            shared,
            thread: Some(thread),
            round: 0.0,
        };
        thread::sleep(measured / 4);
        let before = idle.now();
        thread::sleep(measured);
        let rounds = idle.now().rounds - before.rounds;
        if rounds == 0 {
            return Err(io::Error::other("the CPU is never idle"));
        }
        idle.round = before.time.elapsed().as_nanos() as f64 / rounds as f64;
        Ok(idle)
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        Moment {
            rounds: self.shared.rounds.load(Ordering::Relaxed),
            time: Instant::now(),
        }
    }

    /// Nanoseconds of the clock since a moment in which something else than this thread ran.
    pub fn busy_since(&self, moment: Moment) -> f64 {
        let rounds = self.shared.rounds.load(Ordering::Relaxed) - moment.rounds;
        moment.time.elapsed().as_nanos() as f64 - rounds as f64 * self.round
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic once it has begun.
            let _ = thread.join();
        }
    }
}

/// Has this thread run only when no other can.
fn run_when_idle() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: The parameters live through the call.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
