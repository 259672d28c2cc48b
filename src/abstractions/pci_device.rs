// SPDX-License-Identifier: GPL-2.0

//! What the kernel crate's `pci` lacks: claims on BARs that somebody else maps, enabling with an end, and runtime power.
//!
//! C headers: [`include/linux/pci.h`](srctree/include/linux/pci.h),
//! [`include/linux/pm_runtime.h`](srctree/include/linux/pm_runtime.h). Reference:
//! <https://docs.kernel.org/PCI/pci.html>, <https://docs.kernel.org/power/pci.html>
//!
//! The `kernel` crate's `pci::Bar` claims a BAR and maps it for the kernel, uncached, in one.

use super::helpers;
use kernel::bindings;
use kernel::device::{Bound, Core};
use kernel::error::to_result;
use kernel::page::PAGE_SIZE;
use kernel::pci;
use kernel::prelude::*;
use kernel::str::CStrExt;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{Atomic, Relaxed};

/// How many BARs a device may have.
pub(crate) const BARS: u32 = bindings::PCI_STD_NUM_BARS;

fn as_raw(device: &pci::Device) -> *mut bindings::pci_dev {
    // The type is transparent.
    core::ptr::from_ref(device).cast_mut().cast()
}

/// A BAR that is memory: where it is, and what the device says of it.
#[derive(Clone, Copy)]
pub(crate) struct MemoryBar {
    index: u32,
    start: u64,
    len: u64,
    is_prefetchable: bool,
}

impl MemoryBar {
    /// Returns what BAR `index` is; `None` where there is none, where it has no address, and where it is one of I/O ports.
    pub(crate) fn of(device: &pci::Device<Bound>, index: u32) -> Option<Self> {
        if index >= BARS {
            return None;
        }
        // SAFETY: The device is valid by its type, and has a BAR of this index.
        let flags = unsafe {
            helpers::abstractions_helper_pci_resource_flags(as_raw(device), index as c_int)
        };
        let len = device.resource_len(index).ok()?;
        let is_set = flags & bindings::IORESOURCE_UNSET as c_ulong == 0;
        if flags & bindings::IORESOURCE_MEM as c_ulong == 0 || !is_set || len == 0 {
            return None;
        }
        Some(Self {
            index,
            start: device.resource_start(index).ok()?,
            len,
            is_prefetchable: flags & bindings::IORESOURCE_PREFETCH as c_ulong != 0,
        })
    }

    /// Returns which of the device's BARs it is.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Returns the physical address of the first byte.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Returns how many bytes it has.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether reading has no effect on the device, and writes may be put together.
    pub(crate) fn is_prefetchable(&self) -> bool {
        self.is_prefetchable
    }

    /// Returns whether it is made of whole pages. Else what is beside it in a page may be another device's.
    pub(crate) fn is_whole_pages(&self) -> bool {
        let page = PAGE_SIZE as u64;
        self.start % page == 0 && self.len % page == 0
    }
}

/// A BAR that nobody else may claim; dropping it gives it back.
///
/// # Invariants
///
/// The BAR was claimed by `pci_request_region()`, and not released.
pub(crate) struct ClaimedBar {
    device: ARef<pci::Device>,
    bar: MemoryBar,
}

impl ClaimedBar {
    /// Claims a BAR of a device that this driver is bound to. Mirrors `pci_request_region()`.
    ///
    /// Fails with `EBUSY` where somebody else has claimed it, or a part of it.
    pub(crate) fn new(
        device: &pci::Device<Bound>,
        bar: MemoryBar,
        name: &'static CStr,
    ) -> Result<Self> {
        // SAFETY: The device is valid by its type, and the name is static.
        to_result(unsafe {
            bindings::pci_request_region(as_raw(device), bar.index as c_int, name.as_char_ptr())
        })?;
        // INVARIANT: Just claimed.
        Ok(Self {
            device: device.into(),
            bar,
        })
    }

    /// Returns what was claimed.
    pub(crate) fn bar(&self) -> &MemoryBar {
        &self.bar
    }
}

impl Drop for ClaimedBar {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is claimed, and the device is valid.
        unsafe { bindings::pci_release_region(as_raw(&self.device), self.bar.index as c_int) };
    }
}

/// A device that is switched on and may be suspended while nobody holds an [`Awake`], until [`Self::end`].
pub(crate) struct Enabled {
    device: ARef<pci::Device>,
    has_ended: Atomic<bool>,
}

impl Enabled {
    /// Has a device answer to its memory addresses. Mirrors `pci_enable_device_mem()`, and what
    /// `Documentation/power/pci.rst` asks of a driver that allows runtime power management.
    ///
    /// May sleep. Fails with `EINVAL` where a BAR has no address.
    pub(crate) fn new(device: &pci::Device<Core<'_>>) -> Result<Self> {
        device.enable_device_mem()?;
        let device: ARef<pci::Device> = (&**device).into();
        // SAFETY: The device is valid by its type, and is being bound, for which the PCI core holds a reference to
        // its power that is the driver's to give up.
        unsafe { helpers::abstractions_helper_pci_allow_suspend(as_raw(&device)) };
        Ok(Self {
            device,
            has_ended: Atomic::new(false),
        })
    }

    /// Takes back what [`Self::new`] has done. To be called while the driver is still bound.
    pub(crate) fn end(&self) {
        if !self.has_ended.xchg(true, Relaxed) {
            // SAFETY: The device is valid by its type, and this is done once.
            unsafe {
                helpers::abstractions_helper_pci_forbid_suspend(as_raw(&self.device));
                bindings::pci_disable_device(as_raw(&self.device));
            }
        }
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        self.end();
    }
}

/// A device that has power as long as this is there.
///
/// # Invariants
///
/// A reference to the device's power is held.
pub(crate) struct Awake(ARef<pci::Device>);

impl Awake {
    /// Wakes a device. Mirrors `pm_runtime_resume_and_get()`. Sleeps. Fails where the device does not wake.
    pub(crate) fn new(device: &ARef<pci::Device>) -> Result<Self> {
        // SAFETY: The device is valid by its type.
        to_result(unsafe { helpers::abstractions_helper_pci_resume(as_raw(device)) })?;
        // INVARIANT: Just taken.
        Ok(Self(device.clone()))
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { helpers::abstractions_helper_pci_put(as_raw(&self.0)) };
    }
}
