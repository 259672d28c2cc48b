// SPDX-License-Identifier: GPL-2.0

//! The C library's process-shared, robust mutex and condition variable in the memory of a device that two
//! processes have opened by two nodes.

use crate::Test;
use mmapdev_userspace::child::Child;
use mmapdev_userspace::device::{self, Device};
use mmapdev_userspace::mapping::Mapping;
use mmapdev_userspace::shared_lock::{Locked, SharedLock};
use mmapdev_userspace::{HUGE_PAGE, MIB};
use rustix::fs::{self, FileType, Mode, OFlags, CWD};
use std::io;
use std::sync::atomic::Ordering::Relaxed;

const SIZE: usize = 4 * MIB;
const HUGE: &str = "huge=1 size_mib=4";
const SMALL: &str = "huge=0 size_mib=4";

/// The lock lies in a huge page of its own; what it guards is before it.
const LOCK: usize = HUGE_PAGE + 64;
const COUNT: usize = 0;
const TURN: usize = 8;

pub(crate) const TESTS: &[Test] = &[
    Test::with("a_mutex_excludes_processes_at_two_nodes", HUGE, exclude),
    Test::with(
        "a_mutex_excludes_processes_at_two_nodes_in_small_pages",
        SMALL,
        exclude,
    ),
    Test::with(
        "a_condition_variable_wakes_a_process_at_another_node",
        HUGE,
        wake,
    ),
    Test::with(
        "a_condition_variable_wakes_a_process_at_another_node_in_small_pages",
        SMALL,
        wake,
    ),
    Test::with(
        "a_mutex_of_a_dead_owner_is_had_and_said_so",
        HUGE,
        owner_dies,
    ),
    Test::with(
        "a_mutex_of_a_dead_owner_is_had_and_said_so_in_small_pages",
        SMALL,
        owner_dies,
    ),
];

/// Runs two processes with a mapping each, the second through a node of its own.
fn two(body: fn(&Mapping, u64)) -> io::Result<Mapping> {
    const NODE: &str = "/tmp/mmapdev-robust";
    let number = fs::stat(device::FIRST)?.st_rdev;
    let _ = fs::unlink(NODE);
    fs::mknodat(
        CWD,
        NODE,
        FileType::CharacterDevice,
        Mode::RUSR | Mode::WUSR,
        number,
    )?;
    let first = Mapping::shared(Device::open()?, SIZE)?;
    SharedLock::new(&first, LOCK)?;
    let children = [(0, device::FIRST), (1, NODE)]
        .into_iter()
        .map(|(me, node)| {
            Child::run(move || {
                let device = Device::open_with(node, OFlags::RDWR).expect("the node");
                body(&Mapping::shared(&device, SIZE).expect("a mapping"), me);
                Vec::new()
            })
        })
        .collect::<io::Result<Vec<_>>>()?;
    for child in children {
        child.join();
    }
    fs::unlink(NODE)?;
    Ok(first)
}

fn exclude() -> io::Result<()> {
    const EACH: u64 = 20_000;
    let mapping = two(|mapping, _| {
        let lock = SharedLock::at(mapping, LOCK);
        for _ in 0..EACH {
            lock.lock().expect("the mutex");
            // Not one step: without the mutex the other's is lost.
            let count = mapping.word(COUNT).load(Relaxed);
            std::hint::spin_loop();
            mapping.word(COUNT).store(count + 1, Relaxed);
            lock.unlock().expect("the mutex");
        }
    })?;
    assert_eq!(mapping.word(COUNT).load(Relaxed), 2 * EACH);
    Ok(())
}

fn wake() -> io::Result<()> {
    const TURNS: u64 = 300;
    let mapping = two(|mapping, me| {
        let lock = SharedLock::at(mapping, LOCK);
        let turn = mapping.word(TURN);
        lock.lock().expect("the mutex");
        for _ in 0..TURNS {
            while turn.load(Relaxed) % 2 != me {
                lock.wait().expect("to be woken");
            }
            turn.fetch_add(1, Relaxed);
            lock.signal_all().expect("to wake");
        }
        lock.unlock().expect("the mutex");
    })?;
    assert_eq!(mapping.word(TURN).load(Relaxed), 2 * TURNS);
    Ok(())
}

fn owner_dies() -> io::Result<()> {
    let mapping = Mapping::shared(Device::open()?, SIZE)?;
    let lock = SharedLock::new(&mapping, LOCK)?;
    let child = Child::run(|| {
        let own = Mapping::shared(Device::open().expect("the device"), SIZE).expect("a mapping");
        SharedLock::at(&own, LOCK).lock().expect("the mutex");
        mapping.word(COUNT).store(1, Relaxed);
        // Ends with the mutex.
        std::mem::forget(own);
        Vec::new()
    })?;
    child.join();
    assert_eq!(mapping.word(COUNT).load(Relaxed), 1);
    assert_eq!(lock.lock()?, Locked::AfterDeath);
    lock.unlock()?;
    assert_eq!(lock.lock()?, Locked::Plainly, "it is consistent again");
    lock.unlock()
}
