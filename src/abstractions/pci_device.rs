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
use kernel::io::Io;
use kernel::page::PAGE_SIZE;
use kernel::pci;
use kernel::prelude::*;
use kernel::str::CStrExt;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{Atomic, Relaxed};

/// How many BARs a device may have.
pub(crate) const BARS: u32 = bindings::PCI_STD_NUM_BARS;

pub(super) fn as_raw(device: &pci::Device) -> *mut bindings::pci_dev {
    // The type is transparent.
    core::ptr::from_ref(device).cast_mut().cast()
}

/// What one of a device's BARs is.
pub(crate) enum Bar {
    /// There is none, or it is the upper half of the one before.
    None,
    /// I/O ports.
    Ports,
    /// Memory.
    Memory(MemoryBar),
    /// Memory that has no address, as there was no room for it.
    Unassigned,
}

/// A BAR that is memory: where it is, and what the device says of it.
#[derive(Clone, Copy)]
pub(crate) struct MemoryBar {
    index: u32,
    start: u64,
    len: u64,
    is_prefetchable: bool,
}

impl Bar {
    /// Returns what BAR `index` is.
    ///
    /// Where the kernel has found no address for a BAR it may have forgotten it, so that the device itself is asked. (One that
    /// is not prefetchable, 32 bits wide, and never had an address looks like none.)
    pub(crate) fn of(device: &pci::Device<Bound>, index: u32) -> Result<Self> {
        let flags = flags(device, index)?;
        if flags & bindings::IORESOURCE_IO != 0 {
            return Ok(Self::Ports);
        }
        if flags & bindings::IORESOURCE_MEM == 0 {
            let is_upper_half =
                index > 0 && self::flags(device, index - 1)? & bindings::IORESOURCE_MEM_64 != 0;
            let register = bindings::PCI_BASE_ADDRESS_0 as usize + 4 * index as usize;
            let value = device.config_space().try_read32(register)?;
            return Ok(match value {
                _ if is_upper_half => Self::None,
                0 => Self::None,
                _ if value & bindings::PCI_BASE_ADDRESS_SPACE_IO != 0 => Self::Ports,
                _ => Self::Unassigned,
            });
        }
        let len = device.resource_len(index)?;
        if flags & bindings::IORESOURCE_UNSET != 0 || len == 0 {
            return Ok(Self::Unassigned);
        }
        Ok(Self::Memory(MemoryBar {
            index,
            start: device.resource_start(index)?,
            len,
            is_prefetchable: flags & bindings::IORESOURCE_PREFETCH != 0,
        }))
    }
}

/// Returns what the kernel has noted of a BAR, `IORESOURCE_MEM` and so on. Fails with `EINVAL` where no device has such a one.
fn flags(device: &pci::Device<Bound>, index: u32) -> Result<u32> {
    if index >= BARS {
        return Err(EINVAL);
    }
    // SAFETY: The device is valid by its type, and has a BAR of this index.
    let flags =
        unsafe { helpers::abstractions_helper_pci_resource_flags(as_raw(device), index as c_int) };
    // There are 32 of them.
    Ok(flags as u32)
}

impl MemoryBar {
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
