// SPDX-License-Identifier: GPL-2.0

//! QEMU's monitor, which the rig connects to a serial port of the guest's: what is done to a machine from outside.
//!
//! Reference: <https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html>

use rustix::event::{poll, PollFd, PollFlags};
use rustix::fs::{self, Mode, OFlags};
use rustix::time::Timespec;
use serde_json::{json, Value};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

const PORT: &str = "/dev/ttyS3";

/// How often a command is given, or its end asked for, within the limit.
const TIMES: u32 = 5;

/// What a command gives back, by its answer.
fn returned(command: &str, answer: &Value) -> io::Result<Value> {
    match answer.get("return") {
        Some(value) => Ok(value.clone()),
        None => Err(io::Error::other(format!("{command}: {}", answer["error"]))),
    }
}

/// The monitor.
#[derive(Debug)]
pub struct Monitor {
    port: OwnedFd,
    /// What has come of a line.
    line: Vec<u8>,
    last_id: u64,
    /// Events that came while something else was waited for.
    events: Vec<Value>,
    limit: Duration,
}

impl Monitor {
    /// Opens the monitor; nothing that it is asked may take longer than `limit`. One at a time can.
    pub fn open(limit: Duration) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut monitor = Self {
            port: fs::open(PORT, flags, Mode::empty())?,
            line: Vec::new(),
            last_id: u64::from(std::process::id()) << 32,
            events: Vec::new(),
            limit,
        };
        monitor.begin_anew()?;
        // Fails where somebody has done so before.
        let _ = monitor.call_again("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Gives a command as often as it takes until there is an answer, and says whether it may have been done before: on a
    /// machine that is busy a serial port loses a byte now and then, and with it a line.
    fn call_again(&mut self, command: &str, arguments: Value) -> io::Result<(Value, bool)> {
        let mut attempt = 1;
        loop {
            match self.call(command, arguments.clone(), self.limit / TIMES) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut && attempt < TIMES => {}
                answer => return Ok((answer?, attempt > 1)),
            }
            self.begin_anew()?;
            attempt += 1;
        }
    }

    /// Has QEMU forget what it has of a command: one that has lost a brace on its way would swallow all that come after it.
    /// A byte that no text has does so, see "Forcing the JSON parser into known-good state" in the QMP specification. What
    /// QEMU has to say of that is nobody's answer.
    fn begin_anew(&mut self) -> io::Result<()> {
        self.send(b"\xff\n")
    }

    /// Gives a command, and returns its answer, which may be an error of the command's.
    fn call(&mut self, command: &str, arguments: Value, limit: Duration) -> io::Result<Value> {
        self.last_id += 1;
        let id = self.last_id;
        let request = json!({ "execute": command, "arguments": arguments, "id": id });
        self.send(format!("{request}\n").as_bytes())?;
        let end = Instant::now() + limit;
        loop {
            let message = self.next(end)?;
            if message["id"] == id {
                return Ok(message);
            }
            if message["event"].is_string() {
                self.events.push(message);
            }
        }
    }

    /// Asks something, and returns the answer.
    pub fn ask(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        let (answer, _) = self.call_again(command, arguments)?;
        returned(command, &answer)
    }

    /// Adds something, by a command that says "duplicate" where only the answer to it was lost.
    pub fn add(&mut self, command: &str, arguments: Value) -> io::Result<()> {
        self.act(command, arguments, &["uplicate"])
    }

    /// Removes something.
    pub fn remove(&mut self, command: &str, id: &str) -> io::Result<()> {
        let done = ["not found", "in the process of unplug"];
        self.act(command, json!({ "id": id }), &done)
    }

    /// Gives a command, which says one of these where it has been done before.
    fn act(&mut self, command: &str, arguments: Value, done: &[&str]) -> io::Result<()> {
        let (answer, is_again) = self.call_again(command, arguments)?;
        let words = answer["error"]["desc"].as_str().unwrap_or_default();
        if is_again && done.iter().any(|done| words.contains(done)) {
            return Ok(());
        }
        returned(command, &answer).map(drop)
    }

    /// Gives a command that shows something as a person would type it, and returns the text that they would see.
    pub fn type_in(&mut self, line: &str) -> io::Result<String> {
        let command = "human-monitor-command";
        let text = self.ask(command, json!({ "command-line": line }))?;
        Ok(text.as_str().unwrap_or_default().to_string())
    }

    /// Takes a device out of the machine as a person would at the slot, and waits until it is out: QEMU says so by an event, which
    /// may be lost, and answers who asks.
    pub fn unplug(&mut self, device: &str) -> io::Result<()> {
        // One that came too late the last time.
        self.events
            .retain(|message| message["data"]["device"] != device);
        self.remove("device_del", device)?;
        let end = Instant::now() + self.limit;
        loop {
            match self.wait_for_event("DEVICE_DELETED", device, self.limit / TIMES) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut && Instant::now() < end => {}
                result => return result,
            }
            let all = self.ask("qom-list", json!({ "path": "/machine/peripheral" }))?;
            let mut all = all.as_array().into_iter().flatten();
            if !all.any(|one| one["name"] == device) {
                return Ok(());
            }
        }
    }

    fn wait_for_event(&mut self, event: &str, device: &str, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        let is_it =
            |message: &Value| message["event"] == event && message["data"]["device"] == device;
        loop {
            if let Some(at) = self.events.iter().position(is_it) {
                self.events.remove(at);
                return Ok(());
            }
            let message = self.next(end)?;
            self.events.push(message);
        }
    }

    /// Returns a byte of the machine's memory, at an address as the devices see it.
    pub fn memory(&mut self, address: u64) -> io::Result<u8> {
        let text = self.type_in(&format!("xp /1xb {address:#x}"))?;
        let number = text.split_once(": 0x").map(|(_, digits)| digits.trim());
        number
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .ok_or_else(|| io::Error::other(format!("memory at {address:#x}: {text:?}")))
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(&self.port, rest) {
                Ok(count) => rest = &rest[count..],
                Err(rustix::io::Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&self.port, PollFlags::OUT)], None)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Returns the next message that is one.
    fn next(&mut self, end: Instant) -> io::Result<Value> {
        loop {
            while let Some(at) = self.line.iter().position(|&byte| byte == b'\n') {
                let rest = self.line.split_off(at + 1);
                let line = std::mem::replace(&mut self.line, rest);
                if let Ok(message) = serde_json::from_slice(&line) {
                    return Ok(message);
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [PollFd::new(&self.port, PollFlags::IN)];
            if poll(&mut fds, Some(&timeout))? == 0 {
                let words = "QEMU's monitor says nothing";
                return Err(io::Error::new(io::ErrorKind::TimedOut, words));
            }
            let mut buffer = [0; 512];
            match rustix::io::read(&self.port, &mut buffer) {
                Ok(len) => self.line.extend_from_slice(&buffer[..len]),
                Err(rustix::io::Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
