// SPDX-License-Identifier: GPL-2.0

//! mmapdev: character devices whose memory a program maps instead of copies.
//!
//! Data flows one way:
//!
//! ```text
//! control, pci ─▶ registry ─▶ file, ioctl, mapping ─▶ open_device ─▶ device ─▶ backing ─▶ abstractions ─▶ kernel crate, bindings, C
//! ```
//!
//! An open device knows the registry as well, as it can be asked to destroy its device.
//!
//! All `unsafe` code is in [`abstractions`].

#![deny(unsafe_code)]

// Programs use this file as well, where its items are public.
#[allow(dead_code, unreachable_pub)]
mod abi;
#[allow(unsafe_code)]
mod abstractions;
mod backing;
mod budget;
mod control;
mod counters;
mod debug;
mod device;
mod events;
mod extent;
mod file;
mod ioctl;
mod mapping;
mod name;
mod open_device;
mod parameters;
#[cfg(CONFIG_PCI)]
mod pci;
mod registry;
mod trace;

use abstractions::debugfs::DebugFolder;
use abstractions::misc_device::Registration;
use abstractions::pseudo_fs::{PseudoFsType, PseudoMount};
#[cfg(CONFIG_PCI)]
use abstractions::published::Publication;
use abstractions::stored_file::FileQueues;
use abstractions::system_memory;
use abstractions::vm_fault::PMD_ORDER;
use budget::Budget;
use control::Control;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use name::Name;
use parameters::{Machine, Parameters, Refusal, Values};
use registry::{Plan, Registry, Source};

module! {
    type: Mmapdev,
    name: "mmapdev",
    authors: ["The mmapdev developers"],
    description: "Character devices whose memory a program maps instead of copies",
    license: "GPL v2",
    params: {
        size_mib: u64 {
            default: 64,
            description: "Size of each device in MiB (default 64)",
        },
        devices: u32 {
            default: 1,
            description: "How many devices to make: /dev/mmapdev0 and so on (default 1; 0: none)",
        },
        huge: u32 {
            default: 1,
            description: "Large folios: 0 never, 1 where they fit (default), 2 where madvise() asks for them",
        },
        limit_mib: u64 {
            default: 0,
            description: "All devices of memory together in MiB (default 0: half of the machine's memory)",
        },
        folio_kib: u64 {
            default: 2048,
            description: "The largest folio in KiB, a power of two (default 2048)",
        },
    },
}

/// The file system that the devices' inodes live in. Its magic number is `mmap` in ASCII.
static FILE_SYSTEM: PseudoFsType = PseudoFsType::new(c"mmapdev", 0x6d6d_6170);

/// The module while it is loaded. It is not unloaded while a device or the control node is open or mapped.
struct Mmapdev {
    #[cfg(CONFIG_PCI)]
    pci: Option<PciRegistration>,
    _control: Pin<KBox<Registration<Control>>>,
    registry: Arc<Registry>,
    // Dropped last of all: it waits for those who have leave to use it.
    _queues: FileQueues,
}

/// The PCI driver while it is registered; dropping it unbinds it from all devices.
#[cfg(CONFIG_PCI)]
struct PciRegistration {
    _driver: Pin<KBox<kernel::driver::Registration<kernel::pci::Adapter<pci::PciDriver>>>>,
    // Dropped after the driver.
    _registry: Publication<Registry>,
}

#[cfg(CONFIG_PCI)]
impl PciRegistration {
    fn new(registry: &Arc<Registry>, module: &'static ThisModule) -> Result<Self> {
        let registry = pci::REGISTRY.publish(registry.clone())?;
        let driver = kernel::driver::Registration::new(c"mmapdev", module);
        Ok(Self {
            _driver: KBox::pin_init(driver, GFP_KERNEL)?,
            _registry: registry,
        })
    }
}

impl kernel::Module for Mmapdev {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let values = Values {
            size_mib: module_parameters::size_mib.value(),
            devices: module_parameters::devices.value(),
            huge: module_parameters::huge.value(),
            folio_kib: module_parameters::folio_kib.value(),
            limit_mib: module_parameters::limit_mib.value(),
        };
        let parameters = Parameters::check(&values, &machine()).map_err(|refusal| {
            pr_err!("{refusal}\n");
            match refusal {
                Refusal::TooLarge { .. } => ENOMEM,
                Refusal::NoSize
                | Refusal::Limit { .. }
                | Refusal::Devices(_)
                | Refusal::Huge(_)
                | Refusal::Folio(_) => EINVAL,
            }
        })?;

        let mount = Arc::new(PseudoMount::new(&FILE_SYSTEM)?, GFP_KERNEL)?;
        let debug_folder = Arc::new(DebugFolder::new(c"mmapdev"), GFP_KERNEL)?;
        let budget = Arc::new(Budget::new(parameters.limit), GFP_KERNEL)?;
        let queues = FileQueues::new(c"mmapdev_read", c"mmapdev_write", c"mmapdev_change")?;
        let registry = Registry::new(mount, debug_folder, budget, queues.user());
        let registry = Arc::pin_init(registry, GFP_KERNEL)?;
        let node = CString::try_from_fmt(fmt!("mmapdev-control"))?;
        let control = KBox::pin_init(Registration::new(node, registry.clone()), GFP_KERNEL)?;
        // The control node may be open by now: from here on the module must not fail to load, which would
        // take it away from under whoever has opened it.
        let mut made = 0;
        for number in 0..parameters.devices {
            if let Err(error) = make_device(&registry, number, &parameters) {
                pr_err!("mmapdev{number} cannot be made: {error:?}\n");
                break;
            }
            made += 1;
        }
        pr_info!("{made} device(s) of {} MiB\n", parameters.size >> 20);
        #[cfg(not(CONFIG_PCI))]
        let _ = module;
        Ok(Self {
            #[cfg(CONFIG_PCI)]
            pci: PciRegistration::new(&registry, module)
                .inspect_err(|error| pr_err!("no PCI driver: {error:?}\n"))
                .ok(),
            _control: control,
            registry,
            _queues: queues,
        })
    }
}

impl Drop for Mmapdev {
    fn drop(&mut self) {
        #[cfg(CONFIG_PCI)]
        drop(self.pci.take());
        self.registry.clear();
    }
}

/// Makes a device that has its number for a name.
fn make_device(registry: &Arc<Registry>, number: u32, parameters: &Parameters) -> Result {
    let digits = CString::try_from_fmt(fmt!("{number}"))?;
    let field = abi::Name::new(digits.to_bytes()).ok_or(EINVAL)?;
    registry.create(&Plan {
        name: Name::check(&field).map_err(|_| EINVAL)?,
        source: Source::Memory {
            size: parameters.size,
            huge: parameters.huge,
            max_order: parameters.max_order,
        },
    })?;
    Ok(())
}

/// Returns what this machine can give.
fn machine() -> Machine {
    Machine {
        memory: system_memory::total_bytes(),
        page: PAGE_SIZE as u64,
        largest_order: PMD_ORDER,
    }
}

// The kernel crate's formatting has a trait of its own; `parameters.rs` has no kernel to know it from.
impl kernel::fmt::Display for Refusal {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}
