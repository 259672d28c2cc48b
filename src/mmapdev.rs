// SPDX-License-Identifier: GPL-2.0

//! mmapdev: character devices whose memory a program maps instead of copies.
//!
//! Data flows one way:
//!
//! ```text
//! file, mapping, ioctl ─▶ device ─▶ backing ─▶ abstractions ─▶ kernel crate, bindings, C
//! ```
//!
//! All `unsafe` code is in [`abstractions`].

#![deny(unsafe_code)]

// Programs use this file as well, where its items are public.
#[allow(unreachable_pub)]
mod abi;
#[allow(unsafe_code)]
mod abstractions;
mod backing;
mod counters;
mod device;
mod extent;
mod file;
mod ioctl;
mod mapping;
mod parameters;

use abstractions::misc_device::Registration;
use abstractions::pseudo_fs::{PseudoFsType, PseudoMount};
use abstractions::system_memory;
use abstractions::vm_fault::PMD_ORDER;
use backing::memory::Memory;
use counters::Counters;
use device::Device;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use parameters::{Machine, Parameters, Refusal, Values};

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
            description: "How many devices to make: /dev/mmapdev0 and so on (default 1)",
        },
        huge: u32 {
            default: 1,
            description: "Large folios: 0 never, 1 where they fit (default), 2 where madvise() asks for them",
        },
        folio_kib: u64 {
            default: 2048,
            description: "The largest folio in KiB, a power of two (default 2048)",
        },
    },
}

/// The file system that the devices' inodes live in. Its magic number is `mmap` in ASCII.
static FILE_SYSTEM: PseudoFsType = PseudoFsType::new(c"mmapdev", 0x6d6d_6170);

/// The module while it is loaded. It is not unloaded while a device is open or mapped.
struct Mmapdev {
    _devices: KVec<Pin<KBox<Registration<Device<Memory>>>>>,
}

impl kernel::Module for Mmapdev {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let values = Values {
            size_mib: module_parameters::size_mib.value(),
            devices: module_parameters::devices.value(),
            huge: module_parameters::huge.value(),
            folio_kib: module_parameters::folio_kib.value(),
        };
        let machine = Machine {
            memory: system_memory::total_bytes(),
            page: PAGE_SIZE as u64,
            largest_order: PMD_ORDER,
        };
        let parameters = Parameters::check(&values, &machine).map_err(|refusal| {
            pr_err!("{refusal}\n");
            match refusal {
                Refusal::TooLarge { .. } => ENOMEM,
                Refusal::NoSize | Refusal::Devices(_) | Refusal::Huge(_) | Refusal::Folio(_) => {
                    EINVAL
                }
            }
        })?;

        let mount = Arc::new(PseudoMount::new(&FILE_SYSTEM)?, GFP_KERNEL)?;
        let mut made = KVec::with_capacity(parameters.devices as usize, GFP_KERNEL)?;
        for _ in 0..parameters.devices {
            made.push(make_device(&mount, &parameters)?, GFP_KERNEL)?;
        }
        let mut devices = KVec::with_capacity(made.len(), GFP_KERNEL)?;
        for (number, device) in made.into_iter().enumerate() {
            match register(number, device) {
                Ok(registration) => devices.push(registration, GFP_KERNEL)?,
                // A device that is registered may be open by now: from here on the module must not fail to
                // load, which would take it away from under whoever has opened it.
                Err(error) if number > 0 => {
                    pr_err!("mmapdev{number} cannot be made: {error:?}\n");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        pr_info!(
            "{} device(s) of {} MiB\n",
            devices.len(),
            parameters.size >> 20
        );
        Ok(Self { _devices: devices })
    }
}

fn make_device(mount: &Arc<PseudoMount>, parameters: &Parameters) -> Result<Arc<Device<Memory>>> {
    let counters = Arc::new(Counters::new()?, GFP_KERNEL)?;
    let memory = Memory::new(
        mount.clone(),
        parameters.size,
        parameters.huge,
        parameters.max_order,
        counters.clone(),
    );
    Device::new(memory, counters)
}

fn register(
    number: usize,
    device: Arc<Device<Memory>>,
) -> Result<Pin<KBox<Registration<Device<Memory>>>>> {
    let name = CString::try_from_fmt(fmt!("mmapdev{number}"))?;
    KBox::pin_init(Registration::new(name, device), GFP_KERNEL)
}

// The kernel crate's formatting has a trait of its own; `parameters.rs` has no kernel to know it from.
impl kernel::fmt::Display for Refusal {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}
