// SPDX-License-Identifier: GPL-2.0

//! The requests of `include/uapi/mmapdev.h`.

use crate::abi;
use crate::abstractions::capability;
use crate::abstractions::user_struct::UserStruct;
use crate::backing::Backing;
use crate::device::Device;
use kernel::prelude::*;
use kernel::uaccess::UserPtr;

/// Handles one request to a device.
///
/// `ENOTTY` for a request that does not exist; the others are in the header.
pub(crate) fn handle<B: Backing>(
    device: &Device<B>,
    command: u32,
    argument: usize,
) -> Result<isize> {
    let user = UserPtr::from_addr(argument);
    match command {
        abi::IOC_INFO => {
            let mut info = UserStruct::<abi::Info>::read(user, abi::INFO_SIZE_VER0)?;
            no_flags(info.value.flags)?;
            info.value = device.info();
            info.reply()?;
        }
        abi::IOC_COUNTERS => {
            let mut counters = UserStruct::<abi::Counters>::read(user, abi::COUNTERS_SIZE_VER0)?;
            no_flags(counters.value.flags)?;
            counters.value = device.counters().read();
            counters.reply()?;
        }
        abi::IOC_FRAME => {
            // Where memory is in the machine is a help to whoever attacks it.
            if !capability::is_system_administrator() {
                return Err(EPERM);
            }
            let mut frame = UserStruct::<abi::Frame>::read(user, abi::FRAME_SIZE_VER0)?;
            no_flags(frame.value.flags)?;
            (frame.value.frame, frame.value.folio_bytes) = device.frame(frame.value.offset)?;
            frame.reply()?;
        }
        _ => return Err(ENOTTY),
    }
    Ok(0)
}

fn no_flags(flags: u32) -> Result {
    if flags == 0 {
        Ok(())
    } else {
        Err(EINVAL)
    }
}
