// SPDX-License-Identifier: GPL-2.0

//! The node that makes, changes and ends devices: `/dev/mmapdev-control`.

use crate::abi;
use crate::abstractions::file_operations::FileOperations;
use crate::abstractions::page_cache::AddressSpace;
use crate::abstractions::stored_file::StoredFile;
use crate::abstractions::user_struct::UserStruct;
use crate::device::check_size;
use crate::ioctl::{no_flags, Call};
use crate::machine;
use crate::name::{Name, Refusal};
use crate::parameters::{folio_order, Huge};
use crate::registry::{Plan, Registry, Source};
use kernel::fs::File;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::uaccess::UserPtr;

/// The control node.
pub(crate) struct Control {
    registry: Arc<Registry>,
}

#[vtable]
impl FileOperations for Control {
    type Module = crate::LocalModule;
    const MAPS_HUGE_PAGES: bool = false;
    type Registration = Arc<Registry>;

    fn open(registry: &Arc<Registry>, _file: &File) -> Result<Arc<Self>> {
        let registry = registry.clone();
        Ok(Arc::new(Self { registry }, GFP_KERNEL)?)
    }

    fn address_space(&self) -> Option<&AddressSpace> {
        None
    }

    fn ioctl(&self, _file: &File, command: u32, argument: usize) -> Result<isize> {
        let user = UserPtr::from_addr(argument);
        match command {
            abi::IOC_CREATE => {
                let mut create = UserStruct::<abi::Create>::read(user, abi::CREATE_SIZE_VER0)?;
                no_flags(create.value.flags | create.value.reserved | create.value.file_flags)?;
                if create.value.backing == abi::BACKING_FILE {
                    // A descriptor of 0 is one.
                    create.has(abi::CREATE_SIZE_VER1)?;
                }
                create.value.id = self
                    .registry
                    .create(&plan(&create.value, &self.registry)?)?;
                let id = create.value.id;
                if let Err(error) = create.reply() {
                    // Nobody knows of it: what cannot be told did not happen.
                    let _ = self.registry.destroy_id(id);
                    return Err(error);
                }
            }
            abi::IOC_DESTROY => {
                let destroy = UserStruct::<abi::Destroy>::read(user, abi::DESTROY_SIZE_VER0)?;
                no_flags(destroy.value.flags)?;
                self.registry.destroy(&find_name(&destroy.value.name)?)?;
                destroy.reply()?;
            }
            abi::IOC_NEXT => {
                let mut info = UserStruct::<abi::Info>::read(user, abi::INFO_SIZE_VER1)?;
                no_flags(info.value.flags)?;
                info.value = self.registry.next_info(info.value.id)?;
                info.reply()?;
            }
            abi::IOC_INFO | abi::IOC_RESIZE | abi::IOC_PUNCH => {
                let call = Call::read(command, user, abi::INFO_SIZE_VER1)?;
                let device = self.registry.get(&find_name(call.name())?)?;
                call.make(&*device)?;
            }
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

/// Checks what a device is to be made from.
fn plan(create: &abi::Create, registry: &Registry) -> Result<Plan> {
    let name = Name::check(&create.name).map_err(|refusal| to_error(refusal, EEXIST))?;
    let huge = Huge::from_abi(create.huge).ok_or(EINVAL)?;
    let source = match create.backing {
        abi::BACKING_MEMORY => memory(create, huge)?,
        abi::BACKING_FILE => file(create, huge, registry)?,
        _ => return Err(EINVAL),
    };
    Ok(Plan { name, source })
}

fn memory(create: &abi::Create, huge: Huge) -> Result<Source> {
    if create.file != 0 || create.file_offset != 0 {
        return Err(EINVAL);
    }
    let machine = machine();
    let max_order = match create.largest_folio {
        0 => machine.largest_order,
        bytes => folio_order(bytes.into(), machine.page, machine.largest_order).ok_or(EINVAL)?,
    };
    check_size(create.device_size)?;
    Ok(Source::Memory {
        size: create.device_size,
        huge,
        max_order,
    })
}

fn file(create: &abi::Create, huge: Huge, registry: &Registry) -> Result<Source> {
    let size = create.device_size;
    if huge != Huge::Always || create.largest_folio != 0 || size % PAGE_SIZE as u64 != 0 {
        return Err(EINVAL);
    }
    if i64::try_from(size).is_err() || i64::try_from(create.file_offset).is_err() {
        return Err(EFBIG);
    }
    let descriptor = u32::try_from(create.file).map_err(|_| EBADF)?;
    let most = (size != 0).then_some(size);
    let queues = registry.queues().clone();
    let file = StoredFile::from_descriptor(descriptor, create.file_offset, most, queues)?;
    let file = Arc::new(file, GFP_KERNEL)?;
    Ok(Source::File {
        file,
        most: most.unwrap_or(u64::MAX),
    })
}

/// Checks the name of a device that there should be.
fn find_name(field: &abi::Name) -> Result<Name> {
    Name::of_any(field).map_err(|refusal| to_error(refusal, ENOENT))
}

fn to_error(refusal: Refusal, taken: Error) -> Error {
    match refusal {
        Refusal::Invalid => EINVAL,
        Refusal::TooLong => ENAMETOOLONG,
        Refusal::Taken => taken,
    }
}
