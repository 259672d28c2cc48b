// SPDX-License-Identifier: GPL-2.0

//! What the kernel finds to be leaked, after everything else.

use crate::Test;
use mmapdev_userspace::kmemleak;
use mmapdev_userspace::module;

pub(crate) const TESTS: &[Test] = &[Test::without_module(
    "nothing_that_the_tests_have_made_the_kernel_allocate_is_lost",
    || {
        assert!(!module::is_loaded());
        let lost = kmemleak::lost()?;
        assert!(lost.is_empty(), "{lost}");
        Ok(())
    },
)];
