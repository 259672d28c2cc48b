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

/// Makes a device; takes [`Create`].
pub const IOC_CREATE: u32 = request(0x04);
/// Ends a device; takes [`Destroy`].
pub const IOC_DESTROY: u32 = request(0x05);
/// Changes a device's size; takes [`Resize`].
pub const IOC_RESIZE: u32 = request(0x06);
/// Gives back the memory of a range; takes [`Punch`].
pub const IOC_PUNCH: u32 = request(0x07);
/// Asks what the next device is; takes [`Info`].
pub const IOC_NEXT: u32 = request(0x08);
/// Raises an event; takes nothing.
pub const IOC_NOTIFY: u32 = request(0x09);
/// Takes what events there are; takes [`Events`].
pub const IOC_EVENTS: u32 = request(0x0A);
/// Has a descriptor signalled by events; takes [`EventFd`].
pub const IOC_EVENTFD: u32 = request(0x0B);

/// Bytes in a name field; the last one that is used is followed by zeros.
pub const NAME_SIZE: usize = 64;

/// A name field.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(
    CONFIG_RUST,
    derive(zerocopy_derive::FromBytes, zerocopy_derive::IntoBytes)
)]
pub struct Name(pub [u8; NAME_SIZE]);

impl Name {
    /// Makes a name field of bytes that are followed by a zero at least; `None` where they do not fit.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut name = Self::default();
        name.0[..NAME_SIZE - 1]
            .get_mut(..bytes.len())?
            .copy_from_slice(bytes);
        Some(name)
    }

    /// Returns the bytes before the first zero.
    pub fn bytes(&self) -> &[u8] {
        self.0.split(|&byte| byte == 0).next().unwrap_or_default()
    }
}

impl Default for Name {
    fn default() -> Self {
        Self([0; NAME_SIZE])
    }
}

impl core::fmt::Debug for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "\"{}\"", self.bytes().escape_ascii())
    }
}

/// The bytes are in kernel memory, zeroed on first touch and kept until the device goes.
pub const BACKING_MEMORY: u32 = 1;
/// A file: pages are read when they are touched, and written back.
pub const BACKING_FILE: u32 = 2;

/// Memory of a PCI device's own, which its driver's binding has made a device.
pub const BACKING_PCI: u32 = 3;

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
    /// In, for [`IOC_NEXT`]: the id to go on from; else ignored. Out: no two devices ever have the same.
    pub id: u64,
    /// Out: bytes in the largest folio that the device uses.
    pub largest_folio: u32,
    /// Out: how many open files there are of it.
    pub open_files: u32,
    /// In, for [`IOC_INFO`] to the control node: whose; else zeros. Out: the device's name.
    pub name: Name,
}

/// The size of the first version of [`Info`].
pub const INFO_SIZE_VER0: usize = 32;
/// The size of the second version of [`Info`].
pub const INFO_SIZE_VER1: usize = 112;

/// Makes a device.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    CONFIG_RUST,
    derive(zerocopy_derive::FromBytes, zerocopy_derive::IntoBytes)
)]
pub struct Create {
    /// In: the size of this structure in bytes. Out: how many of them were answered.
    pub size: u32,
    /// In: must be 0.
    pub flags: u32,
    /// In: bytes in the device.
    pub device_size: u64,
    /// In: one of the `BACKING_` constants.
    pub backing: u32,
    /// In: one of the `HUGE_` constants.
    pub huge: u32,
    /// In: bytes in the largest folio; 0: a huge page.
    pub largest_folio: u32,
    /// In: must be 0.
    pub reserved: u32,
    /// Out: the device's id.
    pub id: u64,
    /// In: its name.
    pub name: Name,
    /// In, for [`BACKING_FILE`]: a descriptor of the file; else 0.
    pub file: i32,
    /// In: must be 0.
    pub file_flags: u32,
    /// In, for [`BACKING_FILE`]: where in the file the device begins, a multiple of the page size; else 0.
    pub file_offset: u64,
}

/// The size of the first version of [`Create`].
pub const CREATE_SIZE_VER0: usize = 104;
/// The size of the second version of [`Create`].
pub const CREATE_SIZE_VER1: usize = 120;

/// Ends a device.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    CONFIG_RUST,
    derive(zerocopy_derive::FromBytes, zerocopy_derive::IntoBytes)
)]
pub struct Destroy {
    /// In: the size of this structure in bytes. Out: how many of them were answered.
    pub size: u32,
    /// In: must be 0.
    pub flags: u32,
    /// In: which one.
    pub name: Name,
}

/// The size of the first version of [`Destroy`].
pub const DESTROY_SIZE_VER0: usize = 72;

/// Changes a device's size.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    CONFIG_RUST,
    derive(zerocopy_derive::FromBytes, zerocopy_derive::IntoBytes)
)]
pub struct Resize {
    /// In: the size of this structure in bytes. Out: how many of them were answered.
    pub size: u32,
    /// In: must be 0.
    pub flags: u32,
    /// In: bytes in the device from now on.
    pub device_size: u64,
    /// In: which one.
    pub name: Name,
}

/// The size of the first version of [`Resize`].
pub const RESIZE_SIZE_VER0: usize = 80;

/// Gives back the memory of a range.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    CONFIG_RUST,
    derive(zerocopy_derive::FromBytes, zerocopy_derive::IntoBytes)
)]
pub struct Punch {
    /// In: the size of this structure in bytes. Out: how many of them were answered.
    pub size: u32,
    /// In: must be 0.
    pub flags: u32,
    /// In: the first byte.
    pub offset: u64,
    /// In: how many bytes.
    pub length: u64,
    /// In: which device.
    pub name: Name,
}

/// The size of the first version of [`Punch`].
pub const PUNCH_SIZE_VER0: usize = 88;

/// Takes what events there are.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    CONFIG_RUST,
    derive(zerocopy_derive::FromBytes, zerocopy_derive::IntoBytes)
)]
pub struct Events {
    /// In: the size of this structure in bytes. Out: how many of them were answered.
    pub size: u32,
    /// In: must be 0.
    pub flags: u32,
    /// Out: how many events were raised since this file was opened or last asked.
    pub count: u64,
}

/// The size of the first version of [`Events`].
pub const EVENTS_SIZE_VER0: usize = 16;

/// Has a descriptor signalled by events.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    CONFIG_RUST,
    derive(zerocopy_derive::FromBytes, zerocopy_derive::IntoBytes)
)]
pub struct EventFd {
    /// In: the size of this structure in bytes. Out: how many of them were answered.
    pub size: u32,
    /// In: must be 0.
    pub flags: u32,
    /// In: a descriptor of `eventfd()`, or [`NO_EVENTFD`].
    pub eventfd: i32,
    /// In: must be 0.
    pub reserved: u32,
}

/// The size of the first version of [`EventFd`].
pub const EVENTFD_SIZE_VER0: usize = 16;

/// No descriptor is signalled any more.
pub const NO_EVENTFD: i32 = -1;

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
    /// Out: of the failed touches, those that ended in `SIGBUS`.
    pub bus_errors: u64,
    /// Out: of the failed touches, those that ended in the out-of-memory handling.
    pub out_of_memory: u64,
    /// Out: touches that were offered as huge and had to be answered page by page.
    pub huge_fallbacks: u64,
    /// Out: first writes to clean pages of backings that are written back.
    pub page_mkwrites: u64,
    /// Out: of the folios brought in, those of one page.
    pub small_folios: u64,
    /// Out: of the folios brought in, those between.
    pub large_folios: u64,
    /// Out: of the folios brought in, those that one huge entry maps.
    pub huge_folios: u64,
    /// Out: bytes of memory given back by punching, resizing and destroying.
    pub bytes_removed: u64,
    /// Out: events raised.
    pub events: u64,
}

impl Counters {
    /// Returns all counters with their names.
    pub fn fields(&self) -> [(&'static str, u64); 18] {
        [
            ("faults", self.faults),
            ("huge_faults", self.huge_faults),
            ("map_pages", self.map_pages),
            ("mmap_lock_faults", self.mmap_lock_faults),
            ("failed_faults", self.failed_faults),
            ("folios_added", self.folios_added),
            ("bytes_added", self.bytes_added),
            ("bytes_read", self.bytes_read),
            ("bytes_written", self.bytes_written),
            ("bus_errors", self.bus_errors),
            ("out_of_memory", self.out_of_memory),
            ("huge_fallbacks", self.huge_fallbacks),
            ("page_mkwrites", self.page_mkwrites),
            ("small_folios", self.small_folios),
            ("large_folios", self.large_folios),
            ("huge_folios", self.huge_folios),
            ("bytes_removed", self.bytes_removed),
            ("events", self.events),
        ]
    }
}

/// The size of the first version of [`Counters`].
pub const COUNTERS_SIZE_VER0: usize = 80;
/// The size of the second version of [`Counters`].
pub const COUNTERS_SIZE_VER1: usize = 152;

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
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Info>() == INFO_SIZE_VER1);
    assert!(size_of::<Counters>() == COUNTERS_SIZE_VER1);
    assert!(size_of::<Frame>() == FRAME_SIZE_VER0);
    assert!(size_of::<Create>() == CREATE_SIZE_VER1);
    assert!(size_of::<Destroy>() == DESTROY_SIZE_VER0);
    assert!(size_of::<Resize>() == RESIZE_SIZE_VER0);
    assert!(size_of::<Punch>() == PUNCH_SIZE_VER0);
    assert!(size_of::<Events>() == EVENTS_SIZE_VER0);
    assert!(size_of::<EventFd>() == EVENTFD_SIZE_VER0);
    assert!(offset_of!(Info, huge) + 4 == INFO_SIZE_VER0);
    assert!(offset_of!(Counters, bytes_written) + 8 == COUNTERS_SIZE_VER0);
};
