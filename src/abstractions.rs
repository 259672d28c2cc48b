// SPDX-License-Identifier: GPL-2.0

//! Safe Rust over the parts of the kernel that the `kernel` crate does not cover yet.
//!
//! Each file here is one concept of the kernel, knows nothing of mmapdev, and could move to
//! `rust/kernel/` as it stands. All `unsafe` code of the module is in this folder; what is above it
//! is compiled with `unsafe_code` denied.
//!
//! | file | what it wraps |
//! |---|---|
//! | [`pseudo_fs`] | a pseudo file system with a kernel-internal mount, the home of inodes that have no path |
//! | [`page_cache`] | an inode, its `struct address_space` and the operations on it |
//! | [`file_cache`] | a page cache over a stored file: read on demand, written back, reclaimed |
//! | [`file_size`] | moving the end of such a page cache |
//! | [`stored_file`] | the file that stores those pages, and folios on their way between the two |
//! | [`file_watch`] | being told when a file changes |
//! | [`folio`] | `struct folio`, referenced and locked |
//! | [`vm_area_desc`] | `struct vm_area_desc`, a mapping while `mmap_prepare` sets it up |
//! | [`vm_operations`] | `struct vm_operations_struct`, what a mapping does when it is touched |
//! | [`vm_fault`] | `struct vm_fault`, one touch of a page that is not there, and the answers to it |
//! | [`vm_pfn`] | the same for mappings of device memory, which has no pages |
//! | [`device_memory`] | memory of a device, mapped and copied until it is revoked |
//! | [`device_span`] | arithmetic on such memory |
//! | [`bar_registers`] | what the registers of a PCI device say of such memory |
//! | [`pci_device`] | claims on BARs and the power of a PCI device |
//! | [`pci_interrupts`] | the interrupts of a PCI device, and their handler |
//! | [`file_operations`] | `struct file_operations` with everything that a mappable file needs |
//! | [`misc_device`] | `struct miscdevice` with a name and data of its own |
//! | [`per_cpu_counters`] | counters that cost one instruction to raise |
//! | [`published`] | a value in a `static`, for callbacks that are given nothing |
//! | [`user_struct`] | structures that grow from version to version, copied from and to user space |
//! | [`eventfd`] | signalling a program by a descriptor of `eventfd()` |
//! | [`debugfs`] | files in debugfs that show something, and keep the module while they are open |
//! | [`tracepoint`] | the Rust side of a module's own tracepoints |
//! | [`system_memory`] | how much memory the machine has |
//! | [`work_queue`] | a work queue that the module waits for when it goes |
//! | [`rw_semaphore`] | `struct rw_semaphore` |
//! | [`write_back_scope`] | being one who writes pages back, for as long as that takes |
//! | [`iov`], [`sched`] | one function each that the kernel crate has no wrapper for |
//! | [`capability`] | what the calling task may do |

mod bar_registers;
pub(crate) mod capability;
pub(crate) mod debugfs;
pub(crate) mod device_memory;
pub(crate) mod device_span;
pub(crate) mod eventfd;
pub(crate) mod file_cache;
pub(crate) mod file_operations;
mod file_size;
pub(crate) mod file_watch;
pub(crate) mod folio;
mod helpers;
pub(crate) mod iov;
pub(crate) mod misc_device;
pub(crate) mod page_cache;
pub(crate) mod pci_device;
pub(crate) mod pci_interrupts;
pub(crate) mod per_cpu_counters;
pub(crate) mod pseudo_fs;
pub(crate) mod published;
mod rw_semaphore;
pub(crate) mod sched;
pub(crate) mod stored_file;
pub(crate) mod system_memory;
pub(crate) mod tracepoint;
pub(crate) mod user_struct;
pub(crate) mod vm_area_desc;
pub(crate) mod vm_fault;
pub(crate) mod vm_operations;
pub(crate) mod vm_pfn;
pub(crate) mod work_queue;
mod write_back_scope;
