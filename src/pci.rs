// SPDX-License-Identifier: GPL-2.0

//! The PCI driver: a device for each BAR that is memory, of QEMU's ivshmem and of whatever else it is told to bind.
//!
//! It binds ivshmem (1af4:1110) by itself, and others by `new_id` and `driver_override` in sysfs, see
//! <https://docs.kernel.org/PCI/sysfs-pci.html>. Either all BARs that are memory become devices, or the driver is not bound.
//!
//! # Lock order
//!
//! Binding and unbinding run under the lock of the PCI device, and take the registry's.

use crate::abi;
use crate::abstractions::device_memory::{CacheMode, DeviceMemory};
use crate::abstractions::pci_device::{
    interrupt_table, is_endpoint, Bar, ClaimedBar, Enabled, MemoryBar, BARS,
};
use crate::abstractions::pci_interrupts::{handle_until_unbound, Handler, Interrupts};
use crate::abstractions::published::Published;
use crate::device::AnyDevice;
use crate::name::Name;
use crate::registry::{Plan, Registry, Source};
use kernel::device::{Bound, Core};
use kernel::pci::{self, DeviceId, Vendor};
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;

/// Where a device that is bound finds the registry.
pub(crate) static REGISTRY: Published<Registry> = Published::new();

/// QEMU's inter-VM shared memory, `docs/specs/ivshmem-spec` in its source.
const IVSHMEM: u16 = 0x1110;

/// Its BAR that is the memory; the others are registers.
const IVSHMEM_MEMORY: u32 = 2;

/// The driver.
pub(crate) struct PciDriver;

// Without information of its own: an entry that has some is the only thing that `new_id` would take for one.
kernel::pci_device_table!(
    TABLE,
    @none,
    [DeviceId::from_id(Vendor::REDHAT_QUMRANET, IVSHMEM as u32)]
);

impl pci::Driver for PciDriver {
    type IdInfo = ();
    type Data<'bound> = Binding;
    const ID_TABLE: pci::IdTable<Self::IdInfo> = &TABLE;

    fn probe<'bound>(
        device: &'bound pci::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Binding, Error> + 'bound {
        Binding::new(device)
    }

    fn unbind<'bound>(_device: &'bound pci::Device<Core<'_>>, binding: Pin<&Binding>) {
        binding.end();
    }
}

/// What the module has of a PCI device that it is bound to.
pub(crate) struct Binding {
    registry: Arc<Registry>,
    /// The devices that its BARs are.
    ids: KVec<u64>,
    interrupts: Option<Interrupts<Doorbell>>,
    enabled: Enabled,
}

impl Binding {
    fn new(device: &pci::Device<Core<'_>>) -> Result<Self> {
        let registry = REGISTRY.get().ok_or(ENODEV)?;
        if !is_endpoint(device) {
            dev_err!(device, "is a bridge, which has no memory of its own\n");
            return Err(ENODEV);
        }
        let enabled = Enabled::new(device).inspect_err(|error| {
            dev_err!(device, "cannot be enabled: {error:?}\n");
        })?;
        // All claims come before the first node: what was opened cannot be taken back unseen.
        let memories = claim_all(device, &registry)?;
        let mut binding = Self {
            ids: KVec::with_capacity(memories.len(), GFP_KERNEL)?,
            registry,
            interrupts: None,
            enabled,
        };
        for (bar, memory) in memories {
            let id = binding
                .make_device(device, &bar, memory)
                .inspect_err(|error| {
                    let index = bar.index();
                    dev_err!(device, "BAR {index} cannot be made a device: {error:?}\n");
                })?;
            binding.ids.push(id, GFP_KERNEL)?;
        }
        if is_ivshmem(device) {
            // The memory is of use without a doorbell, too.
            binding.interrupts = binding.listen(device).unwrap_or_else(|error| {
                dev_warn!(device, "interrupts cannot be had: {error:?}\n");
                None
            });
        }
        binding.enabled.allow_suspend(device);
        Ok(binding)
    }

    /// Has the interrupts that other machines send which share the memory raise events of its device.
    /// `None` where it sends none.
    fn listen(&self, device: &pci::Device<Core<'_>>) -> Result<Option<Interrupts<Doorbell>>> {
        let name = name_of(device, IVSHMEM_MEMORY)?;
        let doorbell = Arc::new(Doorbell(self.registry.get(&name)?), GFP_KERNEL)?;
        let interrupts = handle_until_unbound(device, doorbell)?;
        if let Some(interrupts) = &interrupts {
            let (name, count, wanted) = (name.as_str(), interrupts.count(), interrupts.wanted());
            dev_info!(device, "{count} interrupts are events of mmapdev-{name}\n");
            if count < wanted {
                dev_warn!(device, "of {wanted} interrupts, the rest is not heard\n");
            }
        }
        Ok(interrupts)
    }

    fn make_device(
        &self,
        device: &pci::Device<Bound>,
        bar: &MemoryBar,
        memory: Arc<DeviceMemory>,
    ) -> Result<u64> {
        let mode = cache_mode(device, bar);
        let plan = Plan {
            name: name_of(device, bar.index())?,
            source: Source::Bar { memory, mode },
        };
        let id = self.registry.create(&plan)?;
        let (index, len) = (bar.index(), bar.span().len());
        let mapped = if bar.span().is_whole_pages() {
            ""
        } else {
            ", less than a page: not to be mapped"
        };
        let name = plan.name.as_str();
        dev_info!(
            device,
            "BAR {index}: {len} bytes, {mode:?}, as mmapdev-{name}{mapped}\n"
        );
        Ok(id)
    }

    /// Ends the devices, and gives the PCI device back. Does nothing when it is called again.
    fn end(&self) {
        if let Some(interrupts) = &self.interrupts {
            interrupts.free();
        }
        for &id in &self.ids {
            // Done already, where this is called again.
            let _ = self.registry.remove(id);
        }
        self.enabled.end();
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the interrupts of a device ring.
struct Doorbell(Arc<dyn AnyDevice>);

impl Handler for Doorbell {
    fn handle(&self) {
        self.0.raise_event();
    }
}

/// Returns the name of the device that a BAR is.
fn name_of(device: &pci::Device<Bound>, bar: u32) -> Result<Name> {
    let address = device.as_ref().name();
    let name = CString::try_from_fmt(fmt!("pci-{}-bar{}", address, bar))?;
    let field = abi::Name::new(name.to_bytes()).ok_or(ENAMETOOLONG)?;
    Name::of_any(&field).map_err(|_| EINVAL)
}

/// Claims all BARs of a device that are memory.
///
/// Fails with `ENODEV` where there is none, with `EINVAL` where one has no address, with `EBUSY` where another driver has one,
/// and with `ENOMEM`.
fn claim_all(
    device: &pci::Device<Core<'_>>,
    registry: &Registry,
) -> Result<KVec<(MemoryBar, Arc<DeviceMemory>)>> {
    let mut memories = KVec::new();
    let interrupt_table = match is_ivshmem(device) {
        true => interrupt_table(device)?,
        false => None,
    };
    for index in 0..BARS {
        if interrupt_table == Some(index) {
            // It says where the device writes to, as a master of its bus, when it interrupts: that is the kernel's to say.
            dev_info!(
                device,
                "BAR {index} has the table of interrupts: no device\n"
            );
            continue;
        }
        match Bar::of(device, index)? {
            Bar::Memory => {}
            Bar::None | Bar::Ports => continue,
            Bar::Unassigned => {
                dev_err!(device, "BAR {index} has no address\n");
                return Err(EINVAL);
            }
        }
        let claim =
            ClaimedBar::new(device, index, c"mmapdev").inspect_err(|&error| match error {
                error if error == EBUSY => dev_err!(device, "BAR {index} is another driver's\n"),
                error => dev_err!(device, "BAR {index} cannot be claimed: {error:?}\n"),
            })?;
        let bar = *claim.bar();
        let memory = DeviceMemory::new(device, claim, registry.mount().clone())?;
        memories.push((bar, memory), GFP_KERNEL)?;
    }
    if memories.is_empty() {
        dev_err!(device, "has no BAR that is memory\n");
        return Err(ENODEV);
    }
    Ok(memories)
}

fn is_ivshmem(device: &pci::Device<Bound>) -> bool {
    device.vendor_id() == Vendor::REDHAT_QUMRANET && device.device_id() == IVSHMEM
}

/// Returns how a BAR is cached where nobody asks for it to be uncached.
fn cache_mode(device: &pci::Device<Bound>, bar: &MemoryBar) -> CacheMode {
    if is_ivshmem(device) && bar.index() == IVSHMEM_MEMORY {
        CacheMode::WriteBack
    } else if bar.is_prefetchable() {
        CacheMode::WriteCombining
    } else {
        CacheMode::Uncached
    }
}
