// SPDX-License-Identifier: GPL-2.0

//! Sleeping until another program rings: poll, epoll, and the requests that raise and take events.

use crate::{assert_errno, Test};
use mmapdev_userspace::child::Child;
use mmapdev_userspace::control::Control;
use mmapdev_userspace::device::{self, Device};
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::{abi, slowness, MIB, PAGE};
use rustix::event::{epoll, eventfd, poll, EventfdFlags, PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::{read, Errno};
use rustix::mm::MprotectFlags;
use rustix::time::Timespec;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

const SMALL: &str = "huge=0 size_mib=1";

/// Longer than any wake-up takes.
const LONG: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

const READY: PollFlags = PollFlags::IN.union(PollFlags::OUT);

pub(crate) const TESTS: &[Test] = &[
    Test::with("an_idle_device_can_be_read_and_written", SMALL, || {
        let device = Device::open()?;
        assert_eq!(look(&device)?, READY);
        assert_eq!(device.take_events()?, 0);
        Ok(())
    }),
    Test::with(
        "an_event_is_there_for_all_until_each_has_taken_it",
        SMALL,
        || {
            let (ringer, one, other) = (Device::open()?, Device::open()?, Device::open()?);
            for _ in 0..3 {
                ringer.notify()?;
            }
            for file in [&one, &other, &ringer] {
                assert_eq!(look(file)?, READY | PollFlags::PRI);
                assert_eq!(look(file)?, READY | PollFlags::PRI, "looking takes nothing");
                assert_eq!(file.take_events()?, 3);
                assert_eq!(look(file)?, READY);
                assert_eq!(file.take_events()?, 0);
            }
            assert_eq!(ringer.counters()?.events, 3);
            Ok(())
        },
    ),
    Test::with(
        "a_file_sees_no_event_from_before_it_was_opened",
        SMALL,
        || {
            let ringer = Device::open()?;
            ringer.notify()?;
            let late = Device::open()?;
            assert_eq!(look(&late)?, READY);
            assert_eq!(late.take_events()?, 0);
            Ok(())
        },
    ),
    Test::with("ringing_needs_write_access", SMALL, || {
        let reader = Device::open_with(device::FIRST, OFlags::RDONLY)?;
        assert_errno(reader.notify(), Errno::BADF, "notify");
        assert_eq!(reader.take_events()?, 0);
        Device::open_with(device::FIRST, OFlags::WRONLY)?.notify()?;
        assert_eq!(reader.take_events()?, 1, "and waiting does not");
        Ok(())
    }),
    Test::with("ringing_takes_no_argument", SMALL, || {
        let device = Device::open()?;
        let refused = device.raw_request(abi::IOC_NOTIFY, 1);
        assert_errno(refused, Errno::INVAL, "an argument");
        assert_eq!(device.take_events()?, 0);
        Ok(())
    }),
    Test::with("two_processes_take_turns_by_sleeping", SMALL, || {
        const TURNS: u64 = 500;
        // Each has a file of its own; the data is in the mapping, the doorbell says when to look.
        let ours = Device::open()?;
        let mapping = Mapping::shared(&ours, MIB)?;
        let theirs = Device::open()?;
        let child = Child::run(|| {
            for turn in 0..TURNS {
                sleep_until(&theirs, || mapping.word(0).load(SEQ) == 2 * turn + 1);
                mapping.word(0).store(2 * turn + 2, SEQ);
                theirs.notify().expect("the child rings");
            }
            Vec::new()
        })?;
        for turn in 0..TURNS {
            mapping.word(0).store(2 * turn + 1, SEQ);
            ours.notify()?;
            sleep_until(&ours, || mapping.word(0).load(SEQ) == 2 * turn + 2);
        }
        child.join();
        assert_eq!(ours.counters()?.events, 2 * TURNS);
        Ok(())
    }),
    Test::with("epoll_is_woken_once_an_event_edge_triggered", SMALL, || {
        let (waiter, ringer) = (Device::open()?, Device::open()?);
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::PRI | epoll::EventFlags::ET;
        epoll::add(&set, &waiter, epoll::EventData::new_u64(7), flags)?;
        let wait = |timeout: &Timespec| -> io::Result<usize> {
            let mut events = Vec::with_capacity(4);
            let spare = rustix::buffer::spare_capacity(&mut events);
            Ok(epoll::wait(&set, spare, Some(timeout))?)
        };
        assert_eq!(wait(&AT_ONCE)?, 0);
        for _ in 0..3 {
            ringer.notify()?;
            assert_eq!(wait(&LONG)?, 1);
            assert_eq!(wait(&AT_ONCE)?, 0, "an edge is told once");
        }
        assert_eq!(waiter.take_events()?, 3);
        Ok(())
    }),
    Test::with(
        "threads_that_share_a_file_take_each_event_once",
        SMALL,
        || {
            const EVENTS: u64 = 1000;
            let (shared, ringer) = (Device::open()?, Device::open()?);
            let taken = AtomicU64::new(0);
            let done = AtomicBool::new(false);
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        while !done.load(SEQ) {
                            taken.fetch_add(shared.take_events().expect("events"), SEQ);
                        }
                    });
                }
                for event in 0..EVENTS {
                    ringer.notify().expect("ring");
                    // Both are after each.
                    while taken.load(SEQ) <= event {
                        thread::yield_now();
                    }
                }
                done.store(true, SEQ);
            });
            assert_eq!(taken.into_inner(), EVENTS);
            assert_eq!(shared.take_events()?, 0);
            Ok(())
        },
    ),
    Test::with(
        "an_event_that_could_not_be_told_wakes_who_waits",
        SMALL,
        || {
            const TIMES: u64 = 1000;
            let device = Device::open()?;
            // What can be read and not written to: each time the event is taken and given back.
            let page = Mapping::anonymous(PAGE)?;
            page.word(0).store(size_of::<abi::Events>() as u64, SEQ);
            page.protect(0, PAGE, MprotectFlags::READ)?;
            device.notify()?;
            let times = AtomicU64::new(0);
            let done = AtomicBool::new(false);
            let seen = thread::scope(|scope| {
                scope.spawn(|| {
                    while !done.load(SEQ) {
                        let told = device.raw_request(abi::IOC_EVENTS, page.address(0));
                        assert_errno(told, Errno::FAULT, "to read-only memory");
                        times.fetch_add(1, SEQ);
                    }
                });
                // It has to be seen at once, or to wake whoever looked while it was taken.
                let mut seen = PollFlags::PRI;
                while seen == PollFlags::PRI && times.load(SEQ) < TIMES {
                    seen = wait_for_any(&device).expect("poll");
                }
                done.store(true, SEQ);
                seen
            });
            assert_eq!(seen, PollFlags::PRI);
            assert_eq!(device.take_events()?, 1);
            Ok(())
        },
    ),
    Test::with(
        "descriptors_that_are_copied_and_inherited_take_each_event_once",
        SMALL,
        || {
            let (device, ringer) = (Device::open()?, Device::open()?);
            let copy = Device::from(rustix::io::dup(&device)?);
            ringer.notify()?;
            assert_eq!(look(&copy)?, READY | PollFlags::PRI);
            assert_eq!(copy.take_events()?, 1);
            assert_eq!(look(&device)?, READY, "taken by its copy");
            let take = || Child::run(|| vec![device.take_events().expect("events") as u8]);
            ringer.notify()?;
            ringer.notify()?;
            assert_eq!(take()?.join(), [2]);
            assert_eq!(device.take_events()?, 0, "taken by the child");
            assert_eq!(ringer.take_events()?, 3, "another file has its own");
            Ok(())
        },
    ),
    Test::with("an_event_signals_the_eventfd_of_each_file", SMALL, || {
        let (ringer, one, other) = (Device::open()?, Device::open()?, Device::open()?);
        let numbers = [number()?, number()?];
        one.signal(Some(numbers[0].as_fd()))?;
        other.signal(Some(numbers[1].as_fd()))?;
        ringer.notify()?;
        ringer.notify()?;
        assert_eq!(taken(&numbers[0]), Ok(2));
        // Events are there to be taken all the same.
        assert_eq!(one.take_events()?, 2);
        ringer.notify()?;
        assert_eq!(numbers.each_ref().map(taken), [Ok(1), Ok(3)]);
        Ok(())
    }),
    Test::with(
        "an_eventfd_is_signalled_until_another_or_none_is_named_or_the_file_closed",
        SMALL,
        || {
            let (ringer, device) = (Device::open()?, Device::open()?);
            let numbers = [number()?, number()?];
            device.signal(Some(numbers[0].as_fd()))?;
            device.signal(Some(numbers[1].as_fd()))?;
            ringer.notify()?;
            assert_eq!(numbers.each_ref().map(taken), [Err(Errno::AGAIN), Ok(1)]);
            device.signal(None)?;
            device.signal(None)?;
            ringer.notify()?;
            device.signal(Some(numbers[0].as_fd()))?;
            drop(device);
            ringer.notify()?;
            assert_eq!(numbers.each_ref().map(taken), [Err(Errno::AGAIN); 2]);
            // It is the eventfd that is signalled, not its descriptor.
            let copy = rustix::io::dup(&numbers[0])?;
            let [closed, _] = numbers;
            ringer.signal(Some(closed.as_fd()))?;
            drop(closed);
            ringer.notify()?;
            assert_eq!(taken(&copy), Ok(1));
            Ok(())
        },
    ),
    Test::with("what_is_no_eventfd_is_not_signalled", SMALL, || {
        let device = Device::open()?;
        let number = number()?;
        device.signal(Some(number.as_fd()))?;
        let copy = rustix::io::dup(&number)?;
        let closed = copy.as_raw_fd();
        let request = |eventfd: i32, reserved: u64| {
            let page = Mapping::anonymous(PAGE)?;
            page.word(0).store(size_of::<abi::EventFd>() as u64, SEQ);
            page.word(8)
                .store(u64::from(eventfd as u32) | (reserved << 32), SEQ);
            device.raw_request(abi::IOC_EVENTFD, page.address(0))
        };
        request(closed, 0)?;
        drop(copy);
        assert_errno(
            request(closed, 0),
            Errno::BADF,
            "a descriptor that is closed",
        );
        assert_errno(request(-2, 0), Errno::BADF, "no descriptor");
        assert_errno(
            device.signal(Some(device.as_fd())),
            Errno::INVAL,
            "a device",
        );
        assert_errno(request(-1, 1), Errno::INVAL, "what is reserved");
        device.notify()?;
        assert_eq!(taken(&number), Ok(1), "none of it was heeded");
        Ok(())
    }),
    Test::with(
        "who_waits_for_an_eventfd_sleeps_until_an_event",
        SMALL,
        || {
            let (ringer, device) = (Device::open()?, Device::open()?);
            let number = number()?;
            device.signal(Some(number.as_fd()))?;
            let child = Child::run(|| {
                let mut fds = [PollFd::new(&number, PollFlags::IN)];
                poll(&mut fds, None).expect("poll");
                Vec::new()
            })?;
            child.wait_until_asleep()?;
            ringer.notify()?;
            child.join();
            assert_eq!(taken(&number), Ok(1));
            // The end of the device is told as well.
            Control::open()?.destroy("0")?;
            assert_eq!(taken(&number), Ok(1));
            assert_errno(device.signal(None), Errno::NODEV, "a device that is gone");
            Ok(())
        },
    ),
    Test::with(
        "eventfds_come_and_go_while_events_are_raised",
        SMALL,
        || {
            let ringer = Device::open()?;
            let done = AtomicBool::new(false);
            let told = AtomicU64::new(0);
            let latest = Instant::now() + slowness() * Duration::from_secs(30);
            let result = thread::scope(|scope| -> io::Result<()> {
                for _ in 0..2 {
                    scope.spawn(|| {
                        while !done.load(SEQ) {
                            ringer.notify().expect("an event");
                        }
                    });
                }
                let changers = [(); 2].map(|()| {
                    scope.spawn(|| -> io::Result<()> {
                        for round in 0.. {
                            // Both ringers may miss each of these short times where a CPU stands still.
                            let is_over = told.load(SEQ) > 0 || Instant::now() > latest;
                            if round >= 500 && is_over {
                                break;
                            }
                            let device = Device::open()?;
                            let numbers = [number()?, number()?];
                            device.signal(Some(numbers[0].as_fd()))?;
                            device.signal(Some(numbers[1].as_fd()))?;
                            told.fetch_add(taken(&numbers[1]).unwrap_or(0), SEQ);
                        }
                        Ok(())
                    })
                });
                let ends = changers.map(|changer| changer.join().expect("no panic"));
                done.store(true, SEQ);
                ends.into_iter().collect()
            });
            assert!(told.load(SEQ) > 0, "none met an event");
            result
        },
    ),
    Test::with("only_so_many_files_have_an_eventfd", SMALL, || {
        const MOST: usize = 256;
        let number = number()?;
        let mut files = Vec::new();
        for _ in 0..MOST {
            let device = Device::open()?;
            device.signal(Some(number.as_fd()))?;
            files.push(device);
        }
        let late = Device::open()?;
        assert_errno(late.signal(Some(number.as_fd())), Errno::NOSPC, "one more");
        late.notify()?;
        assert_eq!(taken(&number), Ok(MOST as u64));
        files.pop();
        late.signal(Some(number.as_fd()))
    }),
    Test::with("destroying_wakes_who_waits", SMALL, || {
        let device = Device::open()?;
        let gone = PollFlags::HUP | PollFlags::ERR;
        let child = Child::run(|| {
            let seen = wait_for_any(&device).expect("poll");
            vec![u8::from(seen.contains(gone))]
        })?;
        child.wait_until_asleep()?;
        Control::open()?.destroy("0")?;
        assert_eq!(child.join(), [1]);
        let seen = look(&device)?;
        assert!(seen.contains(gone), "{seen:?}");
        Ok(())
    }),
];

const SEQ: std::sync::atomic::Ordering = std::sync::atomic::Ordering::SeqCst;

/// An eventfd that nobody has signalled.
fn number() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::NONBLOCK)?)
}

/// How often an eventfd was signalled since this was last asked; `EAGAIN` where it was not.
fn taken(number: &OwnedFd) -> Result<u64, Errno> {
    let mut count = [0; 8];
    read(number, &mut count)?;
    Ok(u64::from_ne_bytes(count))
}

/// What a file is ready for at this moment.
fn look(device: &Device) -> io::Result<PollFlags> {
    let mut fds = [PollFd::new(device, READY | PollFlags::PRI)];
    poll(&mut fds, Some(&AT_ONCE))?;
    Ok(fds[0].revents())
}

/// Waits for an event, or for the end of the device; for ever, as a `poll()` whose time is over looks once more, and
/// so finds what nobody has woken it for.
fn wait_for_any(device: &Device) -> io::Result<PollFlags> {
    let mut fds = [PollFd::new(device, PollFlags::PRI)];
    poll(&mut fds, None)?;
    Ok(fds[0].revents())
}

/// Sleeps from event to event until something is so.
fn sleep_until(device: &Device, is_so: impl Fn() -> bool) {
    while !is_so() {
        let seen = wait_for_any(device).expect("poll");
        assert!(seen.contains(PollFlags::PRI), "woken by {seen:?}");
        device.take_events().expect("events");
    }
}
