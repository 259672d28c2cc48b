// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note

//! The ioctl interface in Rust, for the module and for programs alike.
//!
//! Mirrors [`include/uapi/mmapdev.h`](../include/uapi/mmapdev.h), which has the rules and the errors;
//! a test compares the two field by field. Needs nothing but `core`.

/// The type byte of all requests.
pub const IOC_TYPE: u32 = 0xBD;

const fn request(number: u32) -> u32 {
    // `_IO(MMAPDEV_IOC_TYPE, number)`: no direction and no size, as the structures can grow.
    (IOC_TYPE << 8) | number
}

/// Asks what a device is; takes [`Info`].
pub const IOC_INFO: u32 = request(0x01);
/// Asks what a device has done; takes [`Counters`].
pub const IOC_COUNTERS: u32 = request(0x02);
/// Asks which page frame holds an offset; takes [`Frame`].
pub const IOC_FRAME: u32 = request(0x03);

/// The bytes are in kernel memory, zeroed on first touch and kept until the device goes.
pub const BACKING_MEMORY: u32 = 1;

/// Pages of the base size only.
pub const HUGE_NEVER: u32 = 0;
/// The largest folio that fits size, alignment and free memory, up to 2 MiB on x86-64.
pub const HUGE_ALWAYS: u32 = 1;
/// As always, where a mapping was advised so by `madvise(MADV_HUGEPAGE)`; else as never.
pub const HUGE_ADVISE: u32 = 2;

/// What a device is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    CONFIG_RUST,
    derive(zerocopy_derive::FromBytes, zerocopy_derive::IntoBytes)
)]
pub struct Info {
    /// In: the size of this structure in bytes. Out: how many of them were answered.
    pub size: u32,
    /// In: must be 0.
    pub flags: u32,
    /// Out: bytes in the device.
    pub device_size: u64,
    /// Out: bytes of memory that the device holds at this moment.
    pub resident_bytes: u64,
    /// Out: one of the `BACKING_` constants.
    pub backing: u32,
    /// Out: one of the `HUGE_` constants.
    pub huge: u32,
}

/// The size of the first version of [`Info`].
pub const INFO_SIZE_VER0: usize = 32;

/// What a device has done since it was made.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    CONFIG_RUST,
    derive(zerocopy_derive::FromBytes, zerocopy_derive::IntoBytes)
)]
pub struct Counters {
    /// In: the size of this structure in bytes. Out: how many of them were answered.
    pub size: u32,
    /// In: must be 0.
    pub flags: u32,
    /// Out: page faults that were answered by one folio, or not at all.
    pub faults: u64,
    /// Out: page faults that the handler for huge ones answered with one entry.
    pub huge_faults: u64,
    /// Out: page faults that mapped a page together with its resident neighbours, page by page.
    pub map_pages: u64,
    /// Out: of all these, faults that ran under the lock of the whole address space.
    pub mmap_lock_faults: u64,
    /// Out: touches that ended in `SIGBUS` or in the out-of-memory handling.
    pub failed_faults: u64,
    /// Out: folios brought into memory, whatever their size.
    pub folios_added: u64,
    /// Out: bytes of memory brought in by them.
    pub bytes_added: u64,
    /// Out: bytes copied out of the device by `read()` and its relatives.
    pub bytes_read: u64,
    /// Out: bytes copied into the device by `write()` and its relatives.
    pub bytes_written: u64,
}

/// The size of the first version of [`Counters`].
pub const COUNTERS_SIZE_VER0: usize = 80;

/// Which page frame holds an offset.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    CONFIG_RUST,
    derive(zerocopy_derive::FromBytes, zerocopy_derive::IntoBytes)
)]
pub struct Frame {
    /// In: the size of this structure in bytes. Out: how many of them were answered.
    pub size: u32,
    /// In: must be 0.
    pub flags: u32,
    /// In: a byte offset into the device.
    pub offset: u64,
    /// Out: the number of the page frame that holds it.
    pub frame: u64,
    /// Out: bytes in the folio that this frame belongs to.
    pub folio_bytes: u64,
}

/// The size of the first version of [`Frame`].
pub const FRAME_SIZE_VER0: usize = 32;

// A structure may grow at its end, and only there; its first version stays what it was.
const _: () = {
    assert!(core::mem::size_of::<Info>() >= INFO_SIZE_VER0);
    assert!(core::mem::size_of::<Counters>() >= COUNTERS_SIZE_VER0);
    assert!(core::mem::size_of::<Frame>() >= FRAME_SIZE_VER0);
    assert!(core::mem::offset_of!(Info, huge) + 4 == INFO_SIZE_VER0);
    assert!(core::mem::offset_of!(Counters, bytes_written) + 8 == COUNTERS_SIZE_VER0);
    assert!(core::mem::offset_of!(Frame, folio_bytes) + 8 == FRAME_SIZE_VER0);
};
