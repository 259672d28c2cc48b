// SPDX-License-Identifier: GPL-2.0

//! What the kernel crate's `pci` lacks: claims on BARs that somebody else maps, enabling with an end, and runtime power.
//!
//! C headers: [`include/linux/pci.h`](srctree/include/linux/pci.h),
//! [`include/linux/pm_runtime.h`](srctree/include/linux/pm_runtime.h). Reference:
//! <https://docs.kernel.org/PCI/pci.html>, <https://docs.kernel.org/power/pci.html>
//!
//! The `kernel` crate's `pci::Bar` claims a BAR and maps it for the kernel, uncached, in one.

use super::bar_registers::{self, Kind, Noted};
use super::device_span::Span;
use super::helpers;
use kernel::bindings;
use kernel::device::{Bound, Core};
use kernel::devres;
use kernel::error::to_result;
use kernel::io::Io;
use kernel::page::PAGE_SHIFT;
use kernel::pci;
use kernel::prelude::*;
use kernel::str::CStrExt;
use kernel::sync::aref::ARef;
use kernel::sync::{new_mutex, Arc, Mutex};

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
    /// Memory, to be had by [`ClaimedBar::new`].
    Memory,
    /// Memory that has no address, as there was no room for it.
    Unassigned,
}

/// A BAR that is memory: where it is, and what the device says of it.
#[derive(Clone, Copy)]
pub(crate) struct MemoryBar {
    index: u32,
    span: Span,
    is_prefetchable: bool,
}

/// Returns whether a device has [`BARS`] of its own, and is not a bridge, which has windows and other registers there.
pub(crate) fn is_endpoint(device: &pci::Device) -> bool {
    // SAFETY: The device is valid by its type, and this does not change.
    let kind = unsafe { (*as_raw(device)).hdr_type };
    u32::from(kind) == bindings::PCI_HEADER_TYPE_NORMAL
}

/// Returns which BAR of a device has the table of its message-signalled interrupts (MSI-X), if it has one.
pub(crate) fn interrupt_table(device: &pci::Device<Bound>) -> Result<Option<u32>> {
    // SAFETY: The device is valid by its type, and this does not change.
    let place = unsafe { (*as_raw(device)).msix_cap };
    if place == 0 {
        return Ok(None);
    }
    let register = usize::from(place) + bindings::PCI_MSIX_TABLE as usize;
    let table = device.config_space().try_read32(register)?;
    Ok(Some(table & bindings::PCI_MSIX_TABLE_BIR))
}

impl Bar {
    /// Returns what BAR `index` of a device is that is being bound, and that nobody uses yet.
    ///
    /// Where the kernel has found no address for a BAR it forgets it (`reset_resource()`), so that the device itself is
    /// asked. Fails with `EINVAL` where the device can have no such one.
    pub(crate) fn of(device: &pci::Device<Core<'_>>, index: u32) -> Result<Self> {
        let mut noted = [Noted::Nothing; BARS as usize];
        let mut registers = [0; BARS as usize];
        for at in 0..BARS {
            noted[at as usize] = Noted::by(flags(device, at)?);
            registers[at as usize] = device.config_space().try_read32(register_of(at))?;
        }
        if index >= BARS {
            return Err(EINVAL);
        }
        let kind = match bar_registers::kind(index as usize, &noted, &registers) {
            Kind::Silent => bar_registers::of_register(kept_in(device, index)?),
            kind => kind,
        };
        Ok(match kind {
            Kind::UpperHalf | Kind::Silent => Self::None,
            Kind::Ports => Self::Ports,
            Kind::Forgotten => Self::Unassigned,
            Kind::Memory => match MemoryBar::of(device, index)? {
                Some(_) => Self::Memory,
                None => Self::Unassigned,
            },
        })
    }
}

impl Noted {
    fn by(flags: u32) -> Self {
        if flags & bindings::IORESOURCE_IO != 0 {
            Self::Ports
        } else if flags & bindings::IORESOURCE_MEM != 0 {
            Self::Memory {
                is_wide: flags & bindings::IORESOURCE_MEM_64 != 0,
            }
        } else {
            Self::Nothing
        }
    }
}

/// Returns where the register of a BAR is.
fn register_of(index: u32) -> usize {
    bindings::PCI_BASE_ADDRESS_0 as usize + 4 * index as usize
}

/// Returns what a register that reads 0 keeps of an address: nothing where there is no BAR.
///
/// The device is not kept from answering meanwhile, as the kernel does to learn a size: a BAR that has no address answers at 0,
/// in the machine's RAM, where only other devices could notice, and for a moment does so in another place. Where that place is
/// not RAM, and where the kernel says that the registers are none of BARs, it is not looked, and there is no BAR.
fn kept_in(device: &pci::Device<Core<'_>>, index: u32) -> Result<u32> {
    const ADDRESS: u32 = 1 << 31;
    // SAFETY: The device is valid by its type; the other function takes any page frame.
    let may_look = unsafe {
        helpers::abstractions_helper_pci_has_bars(as_raw(device))
            && bindings::page_is_ram(ADDRESS as c_ulong >> PAGE_SHIFT) != 0
    };
    if !may_look {
        return Ok(0);
    }
    let (space, register) = (device.config_space(), register_of(index));
    space.try_write32(ADDRESS, register)?;
    let kept = space.try_read32(register)?;
    space.try_write32(0, register)?;
    Ok(kept)
}

/// Returns what the kernel has noted of a BAR, `IORESOURCE_MEM` and so on. Fails with `EINVAL` where the device has no such one.
fn flags(device: &pci::Device<Bound>, index: u32) -> Result<u32> {
    if index >= BARS || !is_endpoint(device) {
        return Err(EINVAL);
    }
    // SAFETY: The device is valid by its type, and has a BAR of this index.
    let flags =
        unsafe { helpers::abstractions_helper_pci_resource_flags(as_raw(device), index as c_int) };
    // There are 32 of them.
    Ok(flags as u32)
}

impl MemoryBar {
    /// Returns BAR `index` of a device if it is memory that has an address.
    fn of(device: &pci::Device<Bound>, index: u32) -> Result<Option<Self>> {
        let flags = flags(device, index)?;
        let is_there = bindings::IORESOURCE_MEM | bindings::IORESOURCE_UNSET;
        if flags & is_there != bindings::IORESOURCE_MEM {
            return Ok(None);
        }
        let (start, len) = (device.resource_start(index)?, device.resource_len(index)?);
        Ok(Span::new(start, len, PAGE_SHIFT).map(|span| Self {
            index,
            span,
            is_prefetchable: flags & bindings::IORESOURCE_PREFETCH != 0,
        }))
    }

    /// Returns which of the device's BARs it is.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Returns where it is.
    pub(crate) fn span(&self) -> Span {
        self.span
    }

    /// Returns whether reading has no effect on the device, and writes may be put together.
    pub(crate) fn is_prefetchable(&self) -> bool {
        self.is_prefetchable
    }
}

/// Something that a driver has of a device, until it gives it up, or else until it is unbound.
#[pin_data]
pub(super) struct UntilUnbound<T: Send + Unpin + 'static> {
    #[pin]
    value: Mutex<Option<T>>,
}

impl<T: Send + Unpin + 'static> UntilUnbound<T> {
    /// Has it dropped when the device is unbound, at the latest. Fails with `ENOMEM`, and it is dropped.
    pub(super) fn new(device: &pci::Device<Bound>, value: T) -> Result<Arc<Self>> {
        let value = pin_init!(Self {
            value <- new_mutex!(Some(value)),
        });
        let this = Arc::pin_init(value, GFP_KERNEL)?;
        let at_unbinding = EndAtUnbinding(this.clone());
        devres::register::<_, Error>(device.as_ref(), Ok(at_unbinding), GFP_KERNEL)?;
        Ok(this)
    }

    /// Returns whether it is there still.
    fn is_there(&self) -> bool {
        self.value.lock().is_some()
    }

    /// Drops it, if that was not done; who comes meanwhile waits for it. Sleeps.
    pub(super) fn end(&self) {
        let mut value = self.value.lock();
        *value = None;
    }
}

/// What the kernel's list of things to be done at unbinding has.
struct EndAtUnbinding<T: Send + Unpin + 'static>(Arc<UntilUnbound<T>>);

impl<T: Send + Unpin + 'static> Drop for EndAtUnbinding<T> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A BAR that nobody else may claim, until this is dropped or the driver is unbound.
pub(crate) struct ClaimedBar {
    device: ARef<pci::Device>,
    bar: MemoryBar,
    claim: Arc<UntilUnbound<Claim>>,
}

/// # Invariants
///
/// The BAR was claimed by `pci_request_region()`, and not released.
struct Claim {
    device: ARef<pci::Device>,
    index: u32,
}

impl ClaimedBar {
    /// Claims a BAR of a device that this driver is bound to. Mirrors `pci_request_region()`.
    ///
    /// Fails with `EBUSY` where somebody else has claimed it, or a part of it, with `EINVAL` where it is no memory or has no
    /// address, and with `ENOMEM`.
    pub(crate) fn new(
        device: &pci::Device<Bound>,
        index: u32,
        name: &'static CStr,
    ) -> Result<Self> {
        let bar = MemoryBar::of(device, index)?.ok_or(EINVAL)?;
        // SAFETY: The device is valid by its type, and the name is static.
        to_result(unsafe {
            bindings::pci_request_region(as_raw(device), index as c_int, name.as_char_ptr())
        })?;
        // INVARIANT: Just claimed.
        let claim = Claim {
            device: device.into(),
            index,
        };
        Ok(Self {
            device: device.into(),
            bar,
            // After unbinding another driver may have it.
            claim: UntilUnbound::new(device, claim)?,
        })
    }

    /// Returns what was claimed.
    pub(crate) fn bar(&self) -> &MemoryBar {
        &self.bar
    }

    /// Returns the device that has it.
    pub(super) fn device(&self) -> &ARef<pci::Device> {
        &self.device
    }

    /// Returns whether it is a claim of this device's, whose driver has been bound ever since it was made: until that is
    /// unbound, nobody else has the BAR.
    pub(super) fn is_of(&self, device: &pci::Device<Bound>) -> bool {
        as_raw(device) == as_raw(&self.device) && self.claim.is_there()
    }
}

impl Drop for ClaimedBar {
    fn drop(&mut self) {
        self.claim.end();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is claimed, and the device is valid.
        unsafe { bindings::pci_release_region(as_raw(&self.device), self.index as c_int) };
    }
}

/// A device that is switched on until this is dropped, or [`Self::end`], or its driver is unbound.
pub(crate) struct Enabled(Arc<UntilUnbound<SwitchedOn>>);

/// # Invariants
///
/// The device was enabled by its driver, which is bound, and not disabled.
struct SwitchedOn {
    device: ARef<pci::Device>,
    may_suspend: bool,
}

impl Enabled {
    /// Has a device answer to its memory addresses, and do nothing of its own accord: it interrupts by no line, which enabling it
    /// would let it do, and which others may have, too; and is not master of its bus, as the firmware or its last driver may have
    /// left it. Mirrors `pci_enable_device_mem()`, `pci_intx()` and `pci_clear_master()`.
    ///
    /// May sleep. Fails with `EINVAL` where a BAR has no address, and with `ENOMEM`.
    pub(crate) fn new(device: &pci::Device<Core<'_>>) -> Result<Self> {
        // So that unbinding leaves the line as it is now.
        // SAFETY: The device is valid by its type, and being bound.
        to_result(unsafe { bindings::pcim_intx(as_raw(device), 0) })?;
        device.enable_device_mem()?;
        // SAFETY: The device is valid by its type, and enabled.
        unsafe {
            bindings::pci_intx(as_raw(device), 0);
            bindings::pci_clear_master(as_raw(device));
        }
        // INVARIANT: Just enabled.
        let on = SwitchedOn {
            device: (&**device).into(),
            may_suspend: false,
        };
        // After unbinding another driver may rely on it.
        Ok(Self(UntilUnbound::new(device, on)?))
    }

    /// Has the device suspended while nobody holds an [`Awake`], if the administrator wants that; as
    /// `Documentation/power/pci.rst` asks for of a driver. It is the last thing to be done to bind `device`, which must
    /// be this one, or nothing is done.
    pub(crate) fn allow_suspend(&self, device: &pci::Device<Core<'_>>) {
        let mut on = self.0.value.lock();
        let Some(on) = &mut *on else {
            return;
        };
        if as_raw(device) == as_raw(&on.device) && !on.may_suspend {
            on.may_suspend = true;
            // SAFETY: The device is valid by its type, and is being bound, for which the PCI core holds a reference to
            // its power that is the driver's to give up.
            unsafe { helpers::abstractions_helper_pci_allow_suspend(as_raw(&on.device)) };
        }
    }

    /// Takes back what was done, if that was not done. Sleeps.
    pub(crate) fn end(&self) {
        self.0.end();
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        self.end();
    }
}

impl Drop for SwitchedOn {
    fn drop(&mut self) {
        if self.may_suspend {
            // SAFETY: The device is valid by its type, and this is done once.
            unsafe { helpers::abstractions_helper_pci_forbid_suspend(as_raw(&self.device)) };
        }
        // SAFETY: By the type invariant it is enabled.
        unsafe { bindings::pci_disable_device(as_raw(&self.device)) };
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
