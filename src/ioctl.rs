// SPDX-License-Identifier: GPL-2.0

//! The requests of `include/uapi/mmapdev.h` that are made to a device, by its own node or by the control
//! node's.

use crate::abi;
use crate::abstractions::capability;
use crate::abstractions::eventfd::EventFd;
use crate::abstractions::file_operations::is_open_for_writing;
use crate::abstractions::user_struct::UserStruct;
use crate::backing::Backing;
use crate::device::AnyDevice;
use crate::open_device::OpenDevice;
use kernel::fs::File;
use kernel::prelude::*;
use kernel::uaccess::UserPtr;

/// Handles one request to a device's own node.
///
/// `ENOTTY` for a request that does not exist; the others are in the header.
pub(crate) fn handle<B: Backing>(
    open: &OpenDevice<B>,
    file: &File,
    command: u32,
    argument: usize,
) -> Result<isize> {
    let device = open.device();
    device.check_alive()?;
    let user = UserPtr::from_addr(argument);
    match command {
        abi::IOC_COUNTERS => {
            let mut counters = UserStruct::<abi::Counters>::read(user, abi::COUNTERS_SIZE_VER0)?;
            no_flags(counters.value.flags)?;
            counters.value = device.counters().read();
            counters.reply()?;
        }
        abi::IOC_FRAME => {
            // Where memory is in the machine is a help to whoever attacks it.
            administrator()?;
            let mut frame = UserStruct::<abi::Frame>::read(user, abi::FRAME_SIZE_VER0)?;
            no_flags(frame.value.flags)?;
            (frame.value.frame, frame.value.folio_bytes) = device.frame(frame.value.offset)?;
            frame.reply()?;
        }
        abi::IOC_INFO | abi::IOC_RESIZE | abi::IOC_PUNCH => {
            match command {
                abi::IOC_RESIZE => administrator()?,
                abi::IOC_PUNCH => writer(file)?,
                _ => {}
            }
            let call = Call::read(command, user, abi::INFO_SIZE_VER0)?;
            no_name(call.name())?;
            call.make(device)?;
        }
        abi::IOC_DESTROY => {
            administrator()?;
            let destroy = UserStruct::<abi::Destroy>::read(user, abi::DESTROY_SIZE_VER0)?;
            no_flags(destroy.value.flags)?;
            no_name(&destroy.value.name)?;
            open.registry().destroy_id(device.id())?;
            destroy.reply()?;
        }
        abi::IOC_NOTIFY => {
            writer(file)?;
            if argument != 0 {
                return Err(EINVAL);
            }
            device.raise_event();
        }
        abi::IOC_EVENTS => {
            let mut events = UserStruct::<abi::Events>::read(user, abi::EVENTS_SIZE_VER0)?;
            no_flags(events.value.flags)?;
            let count = device.events().take(open.seen());
            events.value.count = count;
            // What cannot be told did not happen.
            events
                .reply()
                .inspect_err(|_| device.events().give_back(open.seen(), count))?;
        }
        abi::IOC_EVENTFD => {
            let eventfd = UserStruct::<abi::EventFd>::read(user, abi::EVENTFD_SIZE_VER0)?;
            no_flags(eventfd.value.flags | eventfd.value.reserved)?;
            let events = device.events();
            let named = match eventfd.value.eventfd {
                abi::NO_EVENTFD => None,
                fd => Some(EventFd::from_descriptor(fd)?),
            };
            // What cannot be told does not happen.
            eventfd.reply()?;
            match named {
                None => events.signal_nobody(open.seen()),
                Some(eventfd) => {
                    events.signal_with(open.seen(), eventfd)?;
                    // It may have come too late to be told of the end.
                    device
                        .check_alive()
                        .inspect_err(|_| events.signal_nobody(open.seen()))?;
                }
            }
        }
        _ => return Err(ENOTTY),
    }
    Ok(0)
}

/// A request that either node takes: the control node's for the device that it names.
pub(crate) enum Call {
    Info(UserStruct<abi::Info>),
    Resize(UserStruct<abi::Resize>),
    Punch(UserStruct<abi::Punch>),
}

impl Call {
    /// Copies the request in; `info_size` is the least size of [`abi::Info`] that will do.
    ///
    /// Fails as [`UserStruct::read`] does, with `EINVAL` for unknown flags, with `ENOTTY` for other commands.
    pub(crate) fn read(command: u32, user: UserPtr, info_size: usize) -> Result<Self> {
        match command {
            abi::IOC_INFO => {
                let info = UserStruct::<abi::Info>::read(user, info_size)?;
                no_flags(info.value.flags)?;
                Ok(Self::Info(info))
            }
            abi::IOC_RESIZE => {
                let resize = UserStruct::<abi::Resize>::read(user, abi::RESIZE_SIZE_VER0)?;
                no_flags(resize.value.flags)?;
                Ok(Self::Resize(resize))
            }
            abi::IOC_PUNCH => {
                let punch = UserStruct::<abi::Punch>::read(user, abi::PUNCH_SIZE_VER0)?;
                no_flags(punch.value.flags)?;
                Ok(Self::Punch(punch))
            }
            _ => Err(ENOTTY),
        }
    }

    /// Returns the name field.
    pub(crate) fn name(&self) -> &abi::Name {
        match self {
            Self::Info(info) => &info.value.name,
            Self::Resize(resize) => &resize.value.name,
            Self::Punch(punch) => &punch.value.name,
        }
    }

    /// Does what is asked for, and answers.
    pub(crate) fn make(self, device: &dyn AnyDevice) -> Result {
        match self {
            Self::Info(mut info) => {
                info.value = device.info();
                info.reply()
            }
            Self::Resize(resize) => {
                device.resize(resize.value.device_size)?;
                resize.reply()
            }
            Self::Punch(punch) => {
                device.punch(punch.value.offset, punch.value.length)?;
                punch.reply()
            }
        }
    }
}

/// Fails with `EINVAL` where a field that must be zero is not.
pub(crate) fn no_flags(flags: u32) -> Result {
    if flags == 0 {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

/// Fails with `EINVAL` where a device's own node is told a name.
fn no_name(name: &abi::Name) -> Result {
    if *name == abi::Name::default() {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

fn administrator() -> Result {
    if capability::is_system_administrator() {
        Ok(())
    } else {
        Err(EPERM)
    }
}

fn writer(file: &File) -> Result {
    if is_open_for_writing(file) {
        Ok(())
    } else {
        Err(EBADF)
    }
}
