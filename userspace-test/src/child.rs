// SPDX-License-Identifier: GPL-2.0

//! Child processes that report results, panics and faults faithfully.

use crate::mapping;
use crate::slowness;
use rustix::event::{poll, PollFd, PollFlags};
use rustix::pipe::{pipe_with, PipeFlags};
use rustix::process::{self, Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};
use rustix::thread::UnshareFlags;
use rustix::time::Timespec;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// Where this process, if it is a child, reports to: a signal handler has no other way to know.
static REPORT: AtomicI32 = AtomicI32::new(-1);

/// The words of the last panic in a child, with the place that they come from.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// What became of a child.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The closure returned these bytes.
    Returned(Vec<u8>),
    /// The closure panicked with this message.
    Panicked(String),
    /// A signal ended the process.
    Killed(i32),
    /// It was not done in time, and was killed.
    TimedOut,
}

/// A child process that runs a closure.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    process: OwnedFd,
    report: OwnedFd,
}

impl Child {
    /// Forks a child that runs `body` and ends.
    ///
    /// The child has only the thread that forked: what another thread had locked stays locked in it. So
    /// let no other thread run that shares locks with `body`; those of mappings are seen to.
    pub fn run(body: impl FnOnce() -> Vec<u8>) -> io::Result<Self> {
        let (report, reporter) = pipe_with(PipeFlags::CLOEXEC)?;
        let alone = mapping::keep_others_out();
        // SAFETY: The C library keeps its own state usable in the child. A lock of a thread that the
        // child lacks would be waited for in vain, which is no error of memory.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(alone);
                drop(report);
                REPORT.store(reporter.as_raw_fd(), Ordering::Relaxed);
                panic::set_hook(Box::new(|info| {
                    if let Ok(mut words) = PANIC.lock() {
                        *words = info.to_string();
                    }
                }));
                let (kind, bytes) = match panic::catch_unwind(AssertUnwindSafe(body)) {
                    Ok(bytes) => (0, bytes),
                    Err(_) => (
                        1,
                        PANIC
                            .lock()
                            .map_or_else(|_| Vec::new(), |w| w.clone().into()),
                    ),
                };
                let mut reporter = File::from(reporter);
                let sent = reporter
                    .write_all(&[kind])
                    .and_then(|()| reporter.write_all(&bytes));
                // SAFETY: Ends the process without running what belongs to the parent.
                unsafe { libc::_exit(if sent.is_ok() { 0 } else { 1 }) }
            }
            pid => {
                drop(alone);
                let pid = Pid::from_raw(pid).expect("fork gives a process id");
                let process = process::pidfd_open(pid, PidfdFlags::empty())?;
                Ok(Self {
                    pid,
                    process,
                    report,
                })
            }
        }
    }

    /// Forks a child that is the leader of a process group of its own, so that
    /// [`Self::wait_for_group`] can end whatever it leaves behind.
    pub fn run_group(body: impl FnOnce() -> Vec<u8>) -> io::Result<Self> {
        // What it forks in turn becomes this process's to reap.
        process::set_child_subreaper(Some(process::getpid()))?;
        let child = Self::run(|| {
            process::setpgid(None, None).expect("a process group of its own");
            body()
        })?;
        // Also here, so that it is so whoever comes first; by then the child may be gone.
        let _ = process::setpgid(Some(child.pid), Some(child.pid));
        Ok(child)
    }

    /// Waits for the child to end; kills it when `limit` is over.
    pub fn wait(self, limit: Option<Duration>) -> io::Result<Outcome> {
        self.wait_or(limit, |pid| process::kill_process(pid, Signal::KILL))
    }

    /// Does the same with another way to kill it.
    fn wait_or(
        self,
        limit: Option<Duration>,
        kill: impl Fn(Pid) -> rustix::io::Result<()>,
    ) -> io::Result<Outcome> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut report = Vec::new();
        let mut pipe = File::from(self.report);
        // The end of the pipe is no sign: a child's own children have it, too.
        loop {
            let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
            let timeout = left.map(|left| Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            });
            let mut fds = [
                PollFd::new(&self.process, PollFlags::IN),
                PollFd::new(&pipe, PollFlags::IN),
            ];
            if poll(&mut fds, timeout.as_ref())? == 0 {
                kill(self.pid)?;
                reap(self.pid)?;
                return Ok(Outcome::TimedOut);
            }
            let [ended, written] = fds.map(|fd| !fd.revents().is_empty());
            let mut buffer = [0; 4096];
            match written.then(|| pipe.read(&mut buffer)).transpose()? {
                Some(len) if len > 0 => report.extend_from_slice(&buffer[..len]),
                // Ended, and all it wrote is read.
                _ if ended => break,
                // The child has closed its end, and will end itself.
                _ => {
                    poll(
                        &mut [PollFd::new(&self.process, PollFlags::IN)],
                        timeout.as_ref(),
                    )?;
                }
            }
        }
        let status = reap(self.pid)?;
        if let Some(signal) = status.terminating_signal() {
            return Ok(Outcome::Killed(signal));
        }
        match report.split_first() {
            Some((0, bytes)) => Ok(Outcome::Returned(bytes.to_vec())),
            Some((_, text)) => Ok(Outcome::Panicked(
                String::from_utf8_lossy(text).into_owned(),
            )),
            None => Ok(Outcome::Panicked("the child ended without a word".into())),
        }
    }

    /// Waits until the child sleeps, which it does in the call that it is about to make, or has ended.
    pub fn wait_until_asleep(&self) -> io::Result<()> {
        self.wait_until_in('S')
    }

    /// The same for a sleep that no signal ends, or only one that kills.
    pub fn wait_until_deep_asleep(&self) -> io::Result<()> {
        self.wait_until_in('D')
    }

    fn wait_until_in(&self, wanted: char) -> io::Result<()> {
        let path = format!("/proc/{}/stat", self.pid.as_raw_nonzero());
        loop {
            let text = fs::read_to_string(&path)?;
            // Behind the program's name, which may have anything in it.
            let state = text
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.chars().next());
            if state.is_some_and(|state| [wanted, 'Z'].contains(&state)) {
                return Ok(());
            }
            thread::yield_now();
        }
    }

    /// Waits for a child from [`Self::run_group`] to end, as [`Self::wait`], and then ends its children. When `limit` is
    /// over all are killed at once, as it may wait for one of them.
    pub fn wait_for_group(self, limit: Option<Duration>) -> io::Result<Outcome> {
        let group = self.pid;
        let outcome = self.wait_or(limit, |group| {
            process::kill_process_group(group, Signal::KILL)
        });
        // There may be nobody left.
        let _ = process::kill_process_group(group, Signal::KILL);
        while process::waitpgid(group, WaitOptions::empty()).is_ok_and(|ended| ended.is_some()) {}
        outcome
    }

    /// Waits for the child to end, and panics with its words if it did not end well.
    pub fn join(self) -> Vec<u8> {
        match self.wait(None).expect("waiting for a child") {
            Outcome::Returned(bytes) => bytes,
            other => panic!("in a child process: {other:?}"),
        }
    }
}

/// Puts this process, which has one thread, into a user namespace of its own, where it has all capabilities; in that which
/// it comes from it has none any more.
pub fn enter_user_namespace() -> io::Result<()> {
    // SAFETY: Descriptors stay shared with whom they were shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER)? };
    Ok(())
}

fn reap(pid: Pid) -> io::Result<WaitStatus> {
    let (_, status) = process::waitpid(Some(pid), WaitOptions::empty())?
        .ok_or_else(|| io::Error::other("no child to wait for"))?;
    Ok(status)
}

/// Runs a call in a child process that sleeps in it until it is killed, and kills that: [`Outcome::TimedOut`].
///
/// One that ends by itself is another outcome. One that cannot be killed is waited for.
pub fn kill_in(call: impl FnOnce() -> bool) -> io::Result<Outcome> {
    let caller = Child::run(|| format!("{}", call()).into_bytes())?;
    caller.wait_until_deep_asleep()?;
    caller.wait(Some(slowness() * Duration::from_millis(100)))
}

/// How the touch of an address ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// It was like any other.
    Done,
    /// `SIGBUS`, with the address that the signal names.
    BusError(usize),
    /// `SIGSEGV`, with the address that the signal names.
    SegmentationFault(usize),
}

/// Touches the byte at an address in a child process and says how that ended: loads it, or stores 1.
///
/// The child has this process's mappings. A touch that never ends is killed after ten seconds, or as much more as the
/// machine is slow, and is an error.
pub fn touch(address: usize, write: bool) -> io::Result<Touch> {
    let child = Child::run(|| {
        report_faults();
        let place: *mut u8 = std::ptr::with_exposed_provenance_mut(address);
        // SAFETY: A child of its own, which a signal at this access ends with a report.
        unsafe {
            if write {
                place.write_volatile(1);
            } else {
                place.read_volatile();
            }
        }
        Vec::new()
    })?;
    match child.wait(Some(slowness() * Duration::from_secs(10)))? {
        Outcome::Returned(bytes) if bytes.is_empty() => Ok(Touch::Done),
        Outcome::Returned(bytes) => {
            let (signal, address) = bytes.split_at(4);
            let signal = i32::from_ne_bytes(signal.try_into().map_err(io::Error::other)?);
            let address = usize::from_ne_bytes(address.try_into().map_err(io::Error::other)?);
            match signal {
                libc::SIGBUS => Ok(Touch::BusError(address)),
                _ => Ok(Touch::SegmentationFault(address)),
            }
        }
        other => Err(io::Error::other(format!(
            "the touch of an address: {other:?}"
        ))),
    }
}

fn report_faults() {
    extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
        // SAFETY: The kernel passes a valid description; `write` and `_exit` may be called in a handler.
        unsafe {
            // As the report of a closure that has returned the signal and the address.
            let mut report = [0u8; 13];
            report[1..5].copy_from_slice(&signal.to_ne_bytes());
            report[5..].copy_from_slice(&((*info).si_addr() as usize).to_ne_bytes());
            let fd = REPORT.load(Ordering::Relaxed);
            libc::write(fd, report.as_ptr().cast(), report.len());
            libc::_exit(0);
        }
    }
    // SAFETY: A handler that does only what a handler may do, for two signals of this process.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::{Child, Outcome};
    use std::time::Duration;

    #[test]
    fn a_child_reports_what_its_closure_returns() {
        let child = Child::run(|| b"word".to_vec()).unwrap();
        assert_eq!(
            child.wait(None).unwrap(),
            Outcome::Returned(b"word".to_vec())
        );
    }

    #[test]
    fn a_child_that_is_not_done_in_time_is_killed() {
        let child = Child::run(|| loop {
            std::thread::park();
        })
        .unwrap();
        assert_eq!(
            child.wait(Some(Duration::from_millis(50))).unwrap(),
            Outcome::TimedOut
        );
    }

    #[test]
    fn a_child_that_leaves_children_behind_does_not_keep_its_parent_waiting() {
        let child = Child::run_group(|| {
            let forever = || loop {
                std::thread::park();
            };
            Child::run(forever).expect("a grandchild");
            b"done".to_vec()
        })
        .unwrap();
        assert_eq!(
            child.wait_for_group(None).unwrap(),
            Outcome::Returned(b"done".to_vec())
        );
    }

    #[test]
    fn a_panic_is_reported_with_its_place() {
        let child = Child::run(|| panic!("these words")).unwrap();
        let Outcome::Panicked(words) = child.wait(None).unwrap() else {
            panic!("no panic")
        };
        assert!(
            words.contains("these words") && words.contains("child.rs:"),
            "{words}"
        );
    }

    #[test]
    fn a_signal_is_reported() {
        let child = Child::run(|| std::process::abort()).unwrap();
        assert_eq!(child.wait(None).unwrap(), Outcome::Killed(libc::SIGABRT));
    }
}
