// SPDX-License-Identifier: GPL-2.0

//! What the demo and the tests of mmapdev share: safe access to devices, mappings, child processes,
//! the kernel log and the module itself.
//!
//! All `unsafe` code of user space is in this library, which the programs forbid; but for the examples, which
//! show what a program of one's own has in the library's place. The library's
//! own claims are checked on any host by `cargo test --lib`; everything that needs the module runs in
//! the guest.
//!
//! | file | what it is for |
//! |---|---|
//! | [`abi`] | the ioctl interface, the very file that the module is built from |
//! | [`control`] | the node that makes and ends devices |
//! | [`disk`] | what a disk was asked to read and write |
//! | [`device`] | an open device: its size, counters and page frames, and wrong calls on purpose |
//! | [`mapping`] | a piece of address space that unmaps itself, read and written with atomics |
//! | [`bus_error`] | loads and stores that say so where the memory is gone |
//! | [`pagemap`] | which page frame is behind an address of this process |
//! | [`monitor`] | QEMU's monitor: what is done to the machine from outside |
//! | [`pci`] | PCI devices as sysfs has them |
//! | [`smaps`] | what the kernel says about one mapping of this process |
//! | [`memory`] | how much memory the machine has free, and what it is used for |
//! | [`numa`] | the machine's nodes, and moving a process's pages between them |
//! | [`cgroup`] | what a group of processes is charged for, and its limit |
//! | [`module`] | loading and unloading the module |
//! | [`kernel_log`] | the kernel's messages and taint flags since a moment, and which of them are bad |
//! | [`child`] | child processes that report results, panics and faults faithfully |
//! | [`fail_nth`] | allocations that fail on purpose |
//! | [`fixed_buffer`] | a part of a mapping as the fixed buffer of an io_uring |
//! | [`charged_folios`] | which pages of files a cgroup is charged for |
//! | [`message_ring`] | a ring of messages in a mapping that two programs have |
//! | [`two_machines`] | the memory that two virtual machines share |
//! | [`ivshmem_server`] | the server that gives virtual machines that memory, and each other's doorbells |
//! | [`idle`] | what a CPU does besides waiting |
//! | [`shared_lock`] | a robust mutex and a condition variable in a mapping |
//! | [`size`] | sizes as people write them, such as `64M` |
//! | [`table`] | rows in aligned columns |
//! | [`gate`] | a gate before the files of a mount |
//! | [`withheld`] | memory that whoever touches it waits for |
//! | [`random`] | random numbers that are the same in every run |

pub mod bus_error;
pub mod cgroup;
pub mod charged_folios;
pub mod child;
pub mod control;
pub mod device;
pub mod disk;
pub mod fail_nth;
pub mod fixed_buffer;
pub mod gate;
pub mod idle;
pub mod ivshmem_server;
pub mod kernel_log;
pub mod kmemleak;
pub mod mapping;
pub mod memory;
pub mod message_ring;
pub mod module;
pub mod monitor;
pub mod numa;
pub mod pagemap;
pub mod pci;
pub mod random;
pub mod shared_lock;
pub mod size;
pub mod smaps;
pub mod table;
pub mod two_machines;
pub mod withheld;

#[path = "../../src/abi.rs"]
pub mod abi;

// The module's own word on what a name is, for a sentence that says more than EINVAL.
#[allow(dead_code)]
#[path = "../../src/name.rs"]
mod name;

#[cfg(test)]
mod abi_matches_header;

// What the module computes without a kernel is tested here, on any host.
#[cfg(test)]
#[allow(dead_code)]
#[path = "../../src/abstractions/bar_registers.rs"]
mod bar_registers;
#[cfg(test)]
#[allow(dead_code)]
#[path = "../../src/abstractions/device_span.rs"]
mod device_span;
#[cfg(test)]
#[allow(dead_code)]
#[path = "../../src/extent.rs"]
mod extent;
#[cfg(test)]
#[allow(dead_code)]
#[path = "../../src/parameters.rs"]
mod parameters;
#[cfg(test)]
mod properties;

/// Bytes in a KiB.
pub const KIB: usize = 1 << 10;
/// Bytes in a MiB.
pub const MIB: usize = 1 << 20;
/// Bytes in a base page of the machines that mmapdev is tested on.
pub const PAGE: usize = 4 * KIB;
/// Bytes in the folios that one huge page-table entry maps.
pub const HUGE_PAGE: usize = 2 * MIB;

/// Whether the rig says that the kernel is the one that looks for mistakes: so slow that a test repeats less there what it does for
/// the sake of something rare, or of leaks, which kmemleak finds there.
pub fn is_sanitizer_kernel() -> bool {
    std::env::var_os("SANITIZER").is_some()
}

/// How much longer everything may take, as the rig says: the kernel may be one that looks at all it does.
pub fn slowness() -> u32 {
    let number = std::env::var("SLOWNESS").ok();
    number.and_then(|number| number.parse().ok()).unwrap_or(1)
}
