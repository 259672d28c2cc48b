// SPDX-License-Identifier: GPL-2.0

//! A ring of messages in memory that two programs map: one writes them in place, the other reads them in place.
//!
//! It works over any mapping that both have, be it of one device in one machine or of the memory that two virtual
//! machines share. There is one [`Producer`] and one [`Consumer`]; whoever comes first makes the ring ([`create`]).
//!
//! ```text
//!      0  what this is, and how many bytes are in the data        never changes
//!    128  how many bytes the producer has written, ever           the producer's
//!    256  how many bytes the consumer has read, ever              the consumer's
//!    384  whether the consumer sleeps, whether the producer does  changes seldom
//!    512  the data: records of whole cache lines, each its length in 8 bytes and then the message
//! ```
//!
//! What the one writes often is never in a cache line that the other writes, and each looks at the other's number
//! only when what it last saw is used up. A record does not go over the end: where it would, eight bytes say that
//! the rest is left out.
//!
//! The other program is not trusted. Its numbers are looked at once and checked before they are used, one's own are
//! never read back, and from the first that cannot be on nothing more is taken or given ([`Error::Broken`]). What is
//! in a message may change while it is looked at: who needs it not to copies it first.
//!
//! The bytes are never a plain slice, as the other side may write them at any time: they are atomics, to be read
//! and written relaxed. The numbers order them. One side may use words and the other single bytes of the same message
//! ([`Slot::words`], [`Message::to_vec`]): between two that keep to the rules the numbers are in between, and where one
//! does not, the bytes are any at all.
//!
//! Who is killed leaves the ring as it was before or after its last message. It may have been about to ring, and have
//! taken back already that the other sleeps: therefore each rings once when it is new, whatever the other says.
//!
//! No call here says that the memory has gone. Where a device is destroyed, shrunk or unbound under the ring, the next
//! touch of it is `SIGBUS`, as of any mapping; a sleep at the device's bell ends with `ENODEV`.

use crate::device::Device;
use crate::mapping::Mapping;
use rustix::event::{poll, PollFd, PollFlags};
use rustix::io::Errno;
use rustix::time::Timespec;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{fence, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes in a cache line; what a record is a multiple of.
pub const LINE: usize = 64;

const MAGIC: u64 = u64::from_le_bytes(*b"mmapring");
/// Of a length: no message, and nothing up to the end.
const SKIP: u64 = u64::MAX;

// Where things are. CPUs fetch lines in pairs: two lines each.
const CAPACITY: usize = 8;
const WRITTEN: usize = 2 * LINE;
const READ: usize = 4 * LINE;
const CONSUMER_SLEEPS: usize = 6 * LINE;
const PRODUCER_SLEEPS: usize = CONSUMER_SLEEPS + 8;
const DATA: usize = 8 * LINE;
/// Bytes before a message, which say its length.
const LENGTH: usize = 8;
/// More than any ring moves in its life, so that numbers of bytes never come round: no place in the data would follow,
/// as its size need not be a power of two.
const TOO_MANY: u64 = 1 << 63;

const _: () = {
    // Two that are two lines apart are not in one pair, wherever the ring begins.
    let pair = 2 * LINE;
    assert!(WRITTEN >= CAPACITY.next_multiple_of(pair));
    assert!(READ >= WRITTEN + pair && CONSUMER_SLEEPS >= READ + pair);
    assert!(PRODUCER_SLEEPS / LINE == CONSUMER_SLEEPS / LINE);
    assert!(DATA >= CONSUMER_SLEEPS + pair && DATA % LINE == 0);
    assert!(LENGTH == size_of::<u64>() && LENGTH < LINE);
};

/// Why a ring cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The place is not in the mapping, not at a cache line, or too small.
    Place,
    /// There is no ring at that place, or not yet.
    Missing,
    /// The ring there is of another size.
    OtherSize,
    /// The message is longer than any that the ring can have.
    TooLong,
    /// The other side did what it must not.
    Broken(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place => write!(f, "a ring cannot be at this place"),
            Self::Missing => write!(f, "there is no ring at this place"),
            Self::OtherSize => write!(f, "the ring has another size"),
            Self::TooLong => write!(f, "the message is longer than half of the ring"),
            Self::Broken(what) => write!(f, "the other side of the ring broke it: {what}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

/// Where a ring is.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    mapping: &'a Mapping,
    start: usize,
    /// Bytes of data, whole lines.
    capacity: usize,
}

impl<'a> Place<'a> {
    fn new(mapping: &'a Mapping, range: Range<usize>) -> Result<Self, Error> {
        let len = range.end.checked_sub(range.start).ok_or(Error::Place)?;
        let capacity = len.checked_sub(DATA).ok_or(Error::Place)? / LINE * LINE;
        if range.end > mapping.len() || range.start % LINE != 0 || capacity < 2 * LINE {
            return Err(Error::Place);
        }
        Ok(Self {
            mapping,
            start: range.start,
            capacity,
        })
    }

    /// The place of a ring that is there, and how many bytes its two sides have written and read.
    fn of_ring(mapping: &'a Mapping, range: Range<usize>) -> Result<(Self, u64, u64), Error> {
        let place = Self::new(mapping, range)?;
        // Acquire: with it comes the rest.
        if place.word(0).load(Ordering::Acquire) != MAGIC {
            return Err(Error::Missing);
        }
        if place.word(CAPACITY).load(Ordering::Relaxed) != place.capacity as u64 {
            return Err(Error::OtherSize);
        }
        // In this order, so that no fewer bytes seem to be written than read.
        let read = place.word(READ).load(Ordering::Acquire);
        let written = place.word(WRITTEN).load(Ordering::Acquire);
        place.check(written.wrapping_sub(read))?;
        place.check_position(read)?;
        if written >= TOO_MANY {
            return Err(Error::Broken("more bytes than can have been moved"));
        }
        Ok((place, written, read))
    }

    fn word(&self, at: usize) -> &'a AtomicU64 {
        self.mapping.word(self.start + at)
    }

    /// Checks how many bytes the other side says there are.
    fn check(&self, bytes: u64) -> Result<(), Error> {
        if bytes > self.capacity as u64 {
            return Err(Error::Broken("more bytes than the ring has"));
        }
        self.check_position(bytes)
    }

    fn check_position(&self, position: u64) -> Result<(), Error> {
        if position % LINE as u64 != 0 {
            return Err(Error::Broken("a part of a line"));
        }
        Ok(())
    }

    /// Where in the data a number of bytes is.
    fn at(&self, bytes: u64) -> usize {
        (bytes % self.capacity as u64) as usize
    }

    /// The bytes of a record that has a message of `len` bytes.
    fn record(&self, len: usize) -> Result<usize, Error> {
        if len > longest(self.capacity) {
            return Err(Error::TooLong);
        }
        Ok((LENGTH + len).next_multiple_of(LINE))
    }

    /// The bytes of a message whose record is at `at`, in words.
    fn words(&self, at: usize, len: usize) -> &'a [AtomicU64] {
        let start = self.start + DATA + at + LENGTH;
        self.mapping.words(start, len.div_ceil(8))
    }
}

/// The longest message of so much data: wherever it would begin, it fits once all before it is read, be the rest
/// left out or not.
fn longest(capacity: usize) -> usize {
    capacity / 2 / LINE * LINE - LENGTH
}

/// Makes an empty ring in a range of a mapping, whatever was there.
///
/// Both sides attach to it afterwards. Who makes it anew under somebody's hands breaks it for them.
pub fn create(mapping: &Mapping, range: Range<usize>) -> Result<(), Error> {
    let place = Place::new(mapping, range)?;
    // What is looked at first goes first, and comes last.
    place.word(0).store(0, Ordering::SeqCst);
    for number in [WRITTEN, READ, CONSUMER_SLEEPS, PRODUCER_SLEEPS] {
        place.word(number).store(0, Ordering::SeqCst);
    }
    let capacity = place.capacity as u64;
    place.word(CAPACITY).store(capacity, Ordering::Relaxed);
    place.word(0).store(MAGIC, Ordering::Release);
    Ok(())
}

/// One end of a ring: what the side that writes and the side that reads have alike.
///
/// # Invariants
///
/// `written - read` is a number of whole lines, and no more than the data has; so are both.
#[derive(Debug)]
struct End<'a> {
    place: Place<'a>,
    /// The bytes that were ever written, and ever read. One number is its own; the other is as it was when last looked at.
    written: u64,
    read: u64,
    broken: Option<Error>,
    /// Where it says that it sleeps, and where the other does.
    sleeps: &'a AtomicU64,
    other_sleeps: &'a AtomicU64,
    /// Whether the other may sleep and not say so: this one, or the one before it, took that back and did not come to ring.
    owes_ring: bool,
}

impl<'a> End<'a> {
    /// Goes on where the one before has ended; its flag comes first.
    fn attach(mapping: &'a Mapping, range: Range<usize>, flags: [usize; 2]) -> Result<Self, Error> {
        let (place, written, read) = Place::of_ring(mapping, range)?;
        let [sleeps, other_sleeps] = flags.map(|flag| place.word(flag));
        Ok(Self {
            place,
            written,
            read,
            broken: None,
            sleeps,
            other_sleeps,
            owes_ring: true,
        })
    }

    /// Does something that finds out whether the other broke the ring, if it has not yet.
    fn unless_broken<T>(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        body(self).inspect_err(|error| self.broken = Some(*error))
    }

    /// Rings if the other side has said that it sleeps, or may sleep for all that is known.
    fn wake(&mut self, bell: &impl Bell) -> io::Result<bool> {
        // Between one's own number and the other's flag, as there is one between these on the other side: so at least
        // one of the two sees what the other has stored.
        fence(Ordering::SeqCst);
        if !self.owes_ring && self.other_sleeps.load(Ordering::Relaxed) == 0 {
            return Ok(false);
        }
        self.owes_ring = true;
        self.other_sleeps.store(0, Ordering::Relaxed);
        bell.ring()?;
        self.owes_ring = false;
        Ok(true)
    }

    /// Sleeps from bell to bell until something is so, or the deadline is over: returns which.
    ///
    /// The other side is rung first, so that not both sleep: one that rings for many messages at a time may not have rung
    /// yet.
    fn wait(
        &mut self,
        bell: &impl Bell,
        deadline: Instant,
        mut is_so: impl FnMut(&mut Self) -> Result<bool, Error>,
    ) -> io::Result<bool> {
        if is_so(self)? && !self.owes_ring {
            return Ok(true);
        }
        self.wake(bell)?;
        let found = loop {
            self.sleeps.store(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            // Again, as the other side may have looked at the flag before it was set.
            match is_so(self) {
                Ok(false) => {}
                found => break found.map_err(io::Error::from),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Ok(false);
            }
            if let Err(error) = bell.sleep(left) {
                break Err(error);
            }
        };
        self.sleeps.store(0, Ordering::Relaxed);
        found
    }

    /// Where in the data a message of `len` bytes can be written, and how many bytes before it are left out; `None` where
    /// there is no room yet.
    fn room(&mut self, len: usize) -> Result<Option<(usize, usize)>, Error> {
        let record = self.place.record(len)?;
        let at = self.place.at(self.written);
        let rest = self.place.capacity - at;
        let skipped = if record <= rest { 0 } else { rest };
        let has_room = self.unless_broken(|end| {
            Ok(end.fits(skipped + record) || {
                end.look_at_read()?;
                end.fits(skipped + record)
            })
        })?;
        Ok(has_room.then_some((if skipped > 0 { 0 } else { at }, skipped)))
    }

    fn fits(&self, bytes: usize) -> bool {
        bytes <= self.place.capacity - self.written.wrapping_sub(self.read) as usize
    }

    /// Looks at how much the consumer has read.
    fn look_at_read(&mut self) -> Result<(), Error> {
        // Acquire: the consumer is done with what it has read, and the room may be written to.
        let read = self.place.word(READ).load(Ordering::Acquire);
        let gained = read.wrapping_sub(self.read);
        if gained > self.written.wrapping_sub(self.read) {
            return Err(Error::Broken("more was read than written"));
        }
        self.place.check(gained)?;
        self.read = read;
        Ok(())
    }

    /// Where in the data the next message's record is, and how long the message is; `None` while there is none.
    fn find(&mut self) -> Result<Option<(usize, usize)>, Error> {
        self.unless_broken(Self::find_unbroken)
    }

    fn find_unbroken(&mut self) -> Result<Option<(usize, usize)>, Error> {
        loop {
            if self.read == self.written {
                self.look_at_written()?;
                if self.read == self.written {
                    return Ok(None);
                }
            }
            let at = self.place.at(self.read);
            let rest = self.place.capacity - at;
            let there = self.written.wrapping_sub(self.read) as usize;
            // Once: it may change.
            let length = self.place.word(DATA + at).load(Ordering::Relaxed);
            if length == SKIP {
                // Never all of the ring, so that this is not done twice.
                if rest >= there {
                    return Err(Error::Broken("nothing where a message must be"));
                }
                self.read = self.read.wrapping_add(rest as u64);
                continue;
            }
            let len = usize::try_from(length).ok();
            let len = len.filter(|&len| {
                let record = self.place.record(len);
                record.is_ok_and(|record| record <= rest && record <= there)
            });
            return match len {
                Some(len) => Ok(Some((at, len))),
                None => Err(Error::Broken("a message longer than there are bytes")),
            };
        }
    }

    /// Looks at how much the producer has written.
    fn look_at_written(&mut self) -> Result<(), Error> {
        // Acquire: what was written is seen.
        let written = self.place.word(WRITTEN).load(Ordering::Acquire);
        self.place.check(written.wrapping_sub(self.read))?;
        self.written = written;
        Ok(())
    }
}

/// The side that writes.
#[derive(Debug)]
pub struct Producer<'a>(End<'a>);

impl<'a> Producer<'a> {
    /// Begins to write to a ring, after what was written to it before. There must be no other that does.
    pub fn attach(mapping: &'a Mapping, range: Range<usize>) -> Result<Self, Error> {
        End::attach(mapping, range, [PRODUCER_SLEEPS, CONSUMER_SLEEPS]).map(Self)
    }

    /// The bytes of the longest message that the ring can have.
    pub fn longest(&self) -> usize {
        longest(self.0.place.capacity)
    }

    /// Takes room for a message of `len` bytes; `None` while there is not enough. What is in the room is what an
    /// earlier message has left there.
    pub fn reserve(&mut self, len: usize) -> Result<Option<Slot<'_, 'a>>, Error> {
        let room = self.0.room(len)?;
        Ok(room.map(|(at, skipped)| Slot {
            end: &mut self.0,
            at,
            skipped,
            len,
        }))
    }

    /// Writes a message that is elsewhere; returns whether there was room.
    pub fn send(&mut self, message: &[u8]) -> Result<bool, Error> {
        let slot = self.reserve(message.len())?;
        Ok(slot
            .map(|slot| {
                slot.write(0, message);
                slot.commit();
            })
            .is_some())
    }

    /// Rings if the consumer sleeps, and the first time in any case: to be called after messages are written, once for many
    /// of them. Returns whether it did. Where ringing fails, the next call rings.
    pub fn wake(&mut self, bell: &impl Bell) -> io::Result<bool> {
        self.0.wake(bell)
    }

    /// Sleeps until there is room for a message of `len` bytes, or the deadline is over: returns which. Rings first, as
    /// [`Self::wake`] does.
    pub fn wait(&mut self, len: usize, bell: &impl Bell, deadline: Instant) -> io::Result<bool> {
        let has_room = |end: &mut End<'_>| Ok(end.room(len)?.is_some());
        self.0.wait(bell, deadline, has_room)
    }
}

/// Room for a message. Dropped, it is given back.
#[derive(Debug)]
pub struct Slot<'r, 'a> {
    end: &'r mut End<'a>,
    /// Where in the data the record begins.
    at: usize,
    /// The bytes before it that are left out.
    skipped: usize,
    len: usize,
}

impl Slot<'_, '_> {
    /// The message in words of eight bytes, to be written by relaxed stores. The last may be longer than the message.
    pub fn words(&self) -> &[AtomicU64] {
        self.end.place.words(self.at, self.len)
    }

    /// Copies bytes to a part of the message.
    ///
    /// # Panics
    ///
    /// If the message has no such part.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at <= self.len && bytes.len() <= self.len - at);
        let mapping = self.end.place.mapping;
        mapping.write(self.offset() + at, bytes);
    }

    /// Where in the mapping the message begins, for a call that writes there.
    pub fn offset(&self) -> usize {
        self.end.place.start + DATA + self.at + LENGTH
    }

    /// Gives the message to the consumer.
    pub fn commit(self) {
        let len = self.len;
        self.commit_first(len);
    }

    /// Gives the consumer the first `len` bytes as the message.
    ///
    /// # Panics
    ///
    /// If that is more than there was room taken for.
    pub fn commit_first(self, len: usize) {
        assert!(len <= self.len);
        let end = self.end;
        let place = &end.place;
        if self.skipped > 0 {
            let at = place.at(end.written);
            place.word(DATA + at).store(SKIP, Ordering::Relaxed);
        }
        let length = place.word(DATA + self.at);
        length.store(len as u64, Ordering::Relaxed);
        let record = (LENGTH + len).next_multiple_of(LINE);
        end.written = end.written.wrapping_add((self.skipped + record) as u64);
        // Release: who sees the number sees the message.
        place.word(WRITTEN).store(end.written, Ordering::Release);
    }
}

/// The side that reads.
#[derive(Debug)]
pub struct Consumer<'a>(End<'a>);

impl<'a> Consumer<'a> {
    /// Begins to read from a ring, after what was read from it before. There must be no other that does.
    pub fn attach(mapping: &'a Mapping, range: Range<usize>) -> Result<Self, Error> {
        End::attach(mapping, range, [CONSUMER_SLEEPS, PRODUCER_SLEEPS]).map(Self)
    }

    /// The bytes of the longest message that the ring can have.
    pub fn longest(&self) -> usize {
        longest(self.0.place.capacity)
    }

    /// Looks at the next message; `None` while there is none.
    #[allow(clippy::should_implement_trait)] // an iterator's items do not borrow from it
    pub fn next(&mut self) -> Result<Option<Message<'_, 'a>>, Error> {
        let found = self.0.find()?;
        Ok(found.map(|(at, len)| Message {
            end: &mut self.0,
            at,
            len,
        }))
    }

    /// Copies the next message out.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.next()?.map(|message| {
            let bytes = message.to_vec();
            message.release();
            bytes
        }))
    }

    /// Rings if the producer sleeps, and the first time in any case: to be called after messages are released, once for
    /// many of them. Returns whether it did. Where ringing fails, the next call rings.
    pub fn wake(&mut self, bell: &impl Bell) -> io::Result<bool> {
        self.0.wake(bell)
    }

    /// Sleeps until there is a message, or the deadline is over: returns which. Rings first, as [`Self::wake`] does.
    pub fn wait(&mut self, bell: &impl Bell, deadline: Instant) -> io::Result<bool> {
        let has_message = |end: &mut End<'_>| Ok(end.find()?.is_some());
        self.0.wait(bell, deadline, has_message)
    }
}

/// A message where the producer has written it. Dropped, it is still the next one.
#[derive(Debug)]
pub struct Message<'r, 'a> {
    end: &'r mut End<'a>,
    /// Where in the data the record begins.
    at: usize,
    len: usize,
}

impl Message<'_, '_> {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The message in words of eight bytes, to be read by relaxed loads. The last may be longer than the message.
    pub fn words(&self) -> &[AtomicU64] {
        self.end.place.words(self.at, self.len)
    }

    /// Copies it out.
    pub fn to_vec(&self) -> Vec<u8> {
        self.end.place.mapping.read(self.offset(), self.len)
    }

    /// Where in the mapping it begins, for a call that reads there.
    pub fn offset(&self) -> usize {
        self.end.place.start + DATA + self.at + LENGTH
    }

    /// Gives its room back to the producer.
    pub fn release(self) {
        let end = self.end;
        let record = (LENGTH + self.len).next_multiple_of(LINE);
        end.read = end.read.wrapping_add(record as u64);
        // Release: what was loaded from the message was loaded before its room is written to.
        end.place.word(READ).store(end.read, Ordering::Release);
    }
}

/// How one side has the other woken.
pub trait Bell {
    /// Wakes the other side, now or when it next sleeps.
    fn ring(&self) -> io::Result<()>;

    /// Sleeps until the other side has rung since the last time, or the time is over; or less.
    fn sleep(&self, limit: Duration) -> io::Result<()>;
}

/// The doorbell of a device. Each side needs an open file of its own: by one that both have, they would take each
/// other's events.
impl Bell for Device {
    fn ring(&self) -> io::Result<()> {
        self.notify()
    }

    fn sleep(&self, limit: Duration) -> io::Result<()> {
        let limit = Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(self, PollFlags::PRI)];
        match poll(&mut fds, Some(&limit)) {
            Ok(0) | Err(Errno::INTR) => return Ok(()),
            other => other?,
        };
        if !fds[0].revents().contains(PollFlags::PRI) {
            return Err(Errno::NODEV.into());
        }
        self.take_events()?;
        Ok(())
    }
}

/// No bell: each side looks again after so long.
#[derive(Clone, Copy, Debug)]
pub struct Nap(pub Duration);

impl Bell for Nap {
    fn ring(&self) -> io::Result<()> {
        Ok(())
    }

    fn sleep(&self, limit: Duration) -> io::Result<()> {
        std::thread::sleep(self.0.min(limit));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
