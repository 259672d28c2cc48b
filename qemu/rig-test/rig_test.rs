// SPDX-License-Identifier: GPL-2.0

//! A module that misbehaves while it loads, so that the rig's self-test can see it noticed; or that has claimed a range
//! of addresses until it is unloaded, as another driver would.

use kernel::bindings;
use kernel::prelude::*;
use kernel::str::CStrExt;

module! {
    type: RigTest,
    name: "rig_test",
    authors: ["mmapdev"],
    description: "Misbehaves on purpose",
    license: "GPL",
    params: {
        action: i64 {
            default: 0,
            description: "1: WARN, 2: BUG, 3: loop for ever, 4: claim addresses",
        },
        start: u64 {
            default: 0,
            description: "The first address to claim",
        },
        len: u64 {
            default: 0,
            description: "How many",
        },
    },
}

/// The module, with what it has claimed.
struct RigTest(Option<(u64, u64)>);

impl kernel::Module for RigTest {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        match module_parameters::action.value() {
            1 => {
                kernel::warn_on!(true);
            }
            2 => panic!("asked to"),
            3 => loop {
                core::hint::spin_loop();
            },
            4 => {
                return Self::claim(
                    module_parameters::start.value(),
                    module_parameters::len.value(),
                )
            }
            _ => return Err(EINVAL),
        }
        Ok(RigTest(None))
    }
}

impl RigTest {
    fn claim(start: u64, len: u64) -> Result<Self> {
        // SAFETY: The tree of all memory is the kernel's own, and the name is static.
        let claimed = unsafe {
            bindings::__request_region(
                &raw mut bindings::iomem_resource,
                start,
                len,
                c"rig_test".as_char_ptr(),
                0,
            )
        };
        if claimed.is_null() {
            return Err(EBUSY);
        }
        Ok(RigTest(Some((start, len))))
    }
}

impl Drop for RigTest {
    fn drop(&mut self) {
        if let Some((start, len)) = self.0 {
            // SAFETY: Just this was claimed.
            unsafe { bindings::__release_region(&raw mut bindings::iomem_resource, start, len) };
        }
    }
}
