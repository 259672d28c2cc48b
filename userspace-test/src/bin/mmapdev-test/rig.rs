// SPDX-License-Identifier: GPL-2.0

//! Tests that end badly on purpose: each must turn the run red.

use crate::Test;
use mmapdev_userspace::module;
use std::fs;
use std::io;
use std::path::Path;

pub(crate) const TESTS: &[Test] = &[
    Test::without_module("fails", || panic!("this test fails on purpose")),
    Test::without_module("warns", || misbehave(1)),
    Test::without_module("panics", || {
        fs::write("/proc/sys/kernel/panic_on_oops", "1")?;
        misbehave(2)
    }),
    Test {
        limit: None,
        ..Test::without_module("hangs", || misbehave(3))
    },
];

fn misbehave(action: u32) -> io::Result<()> {
    let file = Path::new(module::FOLDER).join("rig_test.ko");
    module::insert(&file, &format!("action={action}"))
}
