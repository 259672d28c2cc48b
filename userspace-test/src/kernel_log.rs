// SPDX-License-Identifier: GPL-2.0

//! The kernel's messages and taint flags since a moment, and which of them are bad.

use rustix::fs::{self, Mode, OFlags, SeekFrom};
use std::io;
use std::os::fd::OwnedFd;

/// What stands in a message that no run may cause, a line each; the rig looks for the same in the whole log of a guest.
const COMPLAINTS: &str = include_str!("../../qemu/complaints.txt");
/// What comes with some that have no word of their own. No complaint for the rig, as it may also come with the news that a
/// test has brought a cgroup to its limit.
const TRACE: &str = "Call Trace:";

/// Returns whether a message of the kernel is a complaint.
pub fn is_bad(message: &str) -> bool {
    message.contains(TRACE) || COMPLAINTS.lines().any(|words| message.contains(words))
}

/// A place in the kernel's log, and its taint flags there.
#[derive(Debug)]
pub struct Mark {
    log: OwnedFd,
    taint: u64,
}

impl Mark {
    /// Marks the end of the log.
    pub fn now() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let log = fs::open("/dev/kmsg", flags, Mode::empty())?;
        fs::seek(&log, SeekFrom::End(0))?;
        Ok(Self {
            log,
            taint: taint()?,
        })
    }

    /// Returns the messages since the mark, or since the last call.
    pub fn messages(&mut self) -> io::Result<Vec<String>> {
        let mut messages = Vec::new();
        // A record is read whole or not at all, and none is longer.
        let mut record = vec![0; 8192];
        loop {
            match rustix::io::read(&self.log, &mut record) {
                Ok(len) => messages.extend(text_of(&String::from_utf8_lossy(&record[..len]))),
                Err(rustix::io::Errno::AGAIN) => return Ok(messages),
                // Records were lost before they could be read, perhaps bad ones.
                Err(rustix::io::Errno::PIPE) => {
                    return Err(io::Error::other("the kernel's log was flooded"));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Returns what is bad since the mark: complaints, and taint flags other than those of an
    /// out-of-tree, unsigned module with tests in it, and of a virus scanner.
    pub fn complaints(&mut self) -> io::Result<Vec<String>> {
        let mut complaints = bad_among(self.messages()?);
        let new = taint()? & !self.taint & !EXPECTED_TAINT;
        if new != 0 {
            complaints.push(format!("the kernel is tainted anew: {new:#x}"));
        }
        Ok(complaints)
    }
}

/// Returns the messages that are complaints.
///
/// The trace that comes when a cgroup is at its limit is none: there is a limit only where a test has set
/// it. When the machine itself is out of memory, it is one. Nor is the one that comes with an error of
/// `vmalloc()`, which the module does not call: loading it does, and then fails, which is what a test sees.
fn bad_among(messages: Vec<String>) -> Vec<String> {
    let mut bad = Vec::new();
    // Where in `bad` the trace is of which it is not known yet what has run out.
    let mut trace = None;
    let mut is_killer = false;
    let mut is_vmalloc = false;
    for message in messages {
        if message.contains("vmalloc error:") {
            is_vmalloc = true;
        } else if is_vmalloc && message.contains(TRACE) {
            is_vmalloc = false;
        } else if message.contains("invoked oom-killer:") {
            (trace, is_killer) = (None, true);
        } else if message.contains("oom-kill:constraint=") {
            is_killer = false;
            if let (Some(trace), true) = (trace.take(), message.contains("CONSTRAINT_MEMCG")) {
                bad.remove(trace);
            }
        } else if is_bad(&message) {
            if is_killer && trace.is_none() && message.contains(TRACE) {
                trace = Some(bad.len());
            }
            bad.push(message);
        }
    }
    bad
}

/// `TAINT_OOT_MODULE`, `TAINT_UNSIGNED_MODULE`, `TAINT_AUX`, by which Debian's kernel notes that fanotify was asked to
/// keep files from being opened, and `TAINT_TEST`, which KUnit leaves.
const EXPECTED_TAINT: u64 = (1 << 12) | (1 << 13) | (1 << 16) | (1 << 18);

fn taint() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/sys/kernel/tainted")?;
    text.trim().parse().map_err(io::Error::other)
}

/// The message of a record: what is after the first semicolon, up to the end of the line. `None` for one
/// that a program has written: the number before the first comma is the facility times 8, and the
/// kernel's own is 0.
fn text_of(record: &str) -> Option<String> {
    let (prefix, text) = record.split_once(';')?;
    let priority: u32 = prefix.split(',').next()?.parse().ok()?;
    (priority >> 3 == 0).then(|| text.lines().next().unwrap_or_default().to_string())
}

#[cfg(test)]
mod tests {
    use super::{bad_among, is_bad, text_of, COMPLAINTS};

    #[test]
    fn complaints_are_bad() {
        for message in [
            "WARNING: CPU: 1 PID: 77 at mm/memory.c:2215 insert_page+0x1/0x2",
            "WARNING: possible circular locking dependency detected",
            "BUG: Bad page state in process mmapdev-test  pfn:12345",
            "BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "Oops: general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP",
            "BUG: KASAN: slab-use-after-free in folio_unlock+0x10/0x20",
            "INFO: task mmapdev-test:123 blocked for more than 120 seconds.",
            "INFO: task mmapdev-test:123 blocked in I/O wait for more than 120 seconds.",
            "rcu: INFO: rcu_preempt self-detected stall on CPU",
            "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-... } 22 jiffies s: 5 root: 0x2/.",
            "pagealloc: memory corruption",
            "INFO: trying to register non-static key.",
            "turning off the locking correctness validator.",
            "ODEBUG: Out of memory. ODEBUG disabled",
            "irq 11: nobody cared (try booting with the \"irqpoll\" option)",
            "Call Trace:",
            "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [insmod:99]",
            "Kernel panic - not syncing: Fatal exception",
        ] {
            assert!(is_bad(message), "{message}");
        }
    }

    #[test]
    fn there_is_no_line_that_every_message_has() {
        assert!(COMPLAINTS.lines().all(|words| words.len() > 3));
    }

    #[test]
    fn everyday_messages_are_not() {
        for message in [
            "mmapdev: 1 device(s) of 64 MiB",
            "mmapdev: size_mib=0: a device has at least 1 MiB",
            "mmapdev: loading out-of-tree module taints kernel.",
            "mmapdev: module verification failed: signature and/or required key missing - tainting kernel",
            "clocksource: Switched to clocksource tsc",
            "a driver was installed",
        ] {
            assert!(!is_bad(message), "{message}");
        }
    }

    #[test]
    fn the_trace_of_a_cgroup_at_its_limit_alone_is_no_complaint() {
        let killed_by = |constraint: &str| {
            [
                "dd invoked oom-killer: gfp_mask=0xcc0, order=0, oom_score_adj=0".to_string(),
                "Call Trace:".to_string(),
                format!("oom-kill:constraint={constraint},nodemask=(null)"),
                "something else".to_string(),
            ]
        };
        let (limit, machine) = (killed_by("CONSTRAINT_MEMCG"), killed_by("CONSTRAINT_NONE"));
        assert!(bad_among(limit.to_vec()).is_empty());
        assert_eq!(bad_among(machine.to_vec()), ["Call Trace:"]);
        let other = "WARNING: something".to_string();
        let mixed = [&limit[..2], &[other.clone()], &limit[2..]].concat();
        assert_eq!(bad_among(mixed), [other]);
        assert_eq!(bad_among(limit[1..].to_vec()), ["Call Trace:"]);
    }

    #[test]
    fn one_trace_of_vmalloc_is_no_complaint() {
        let error =
            "vmalloc error: size 694400, vm_struct allocation failed, mode:0xcc0(GFP_KERNEL)";
        let messages = ["mmapdev: words", error, "CPU: 1 PID: 9", "Call Trace:"].map(String::from);
        assert!(bad_among(messages.to_vec()).is_empty());
        let twice = [&messages[..], &messages[3..]].concat();
        assert_eq!(bad_among(twice), ["Call Trace:"]);
    }

    #[test]
    fn a_record_is_stripped_to_its_message() {
        let record = "4,1234,5678901,-;WARNING: something; more\n SUBSYSTEM=x\n DEVICE=y\n";
        assert_eq!(text_of(record).unwrap(), "WARNING: something; more");
    }

    #[test]
    fn what_programs_write_to_the_log_is_no_message_of_the_kernels() {
        assert_eq!(text_of("12,1,2,-;BUG: says a program"), None);
    }
}
