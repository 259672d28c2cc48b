// SPDX-License-Identifier: GPL-2.0

//! A module that misbehaves while it loads, so that the rig's self-test can see it noticed.

use kernel::prelude::*;

module! {
    type: RigTest,
    name: "rig_test",
    authors: ["mmapdev"],
    description: "Misbehaves on purpose",
    license: "GPL",
    params: {
        action: i64 {
            default: 0,
            description: "1: WARN, 2: BUG, 3: loop for ever",
        },
    },
}

struct RigTest;

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
            _ => return Err(EINVAL),
        }
        Ok(RigTest)
    }
}
