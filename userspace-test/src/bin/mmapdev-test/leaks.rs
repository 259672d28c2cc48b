// SPDX-License-Identifier: GPL-2.0

//! What the kernel finds to be leaked, after everything else.

use crate::Test;
use mmapdev_userspace::cgroup::Cgroup;
use mmapdev_userspace::charged_folios::frames_of_files;
use mmapdev_userspace::{kmemleak, module};
use std::io;
use std::sync::OnceLock;

/// Charged for what the tests use; each test is a process of it.
static CHARGED: OnceLock<Cgroup> = OnceLock::new();

/// Has the kernel keep account of the pages that come from now on. Before the first test.
pub(crate) fn begin() -> io::Result<()> {
    let cgroup = Cgroup::new("mmapdev-test")?;
    cgroup.enter()?;
    CHARGED.set(cgroup).map_err(|_| io::Error::other("twice"))
}

pub(crate) const OF_ALLOCATIONS: Test = Test::without_module(
    "nothing_that_the_tests_have_made_the_kernel_allocate_is_lost",
    || {
        assert!(!module::is_loaded());
        let lost = kmemleak::lost()?;
        assert!(lost.is_empty(), "{lost}");
        Ok(())
    },
);

pub(crate) const OF_PAGES: Test = Test::without_module("no_page_of_a_device_is_lost", || {
    assert!(!module::is_loaded());
    let cgroup = CHARGED.get().expect("begun");
    let lost = frames_of_files(cgroup)?;
    assert!(lost.is_empty(), "page frames {lost:x?}");
    Ok(())
});

pub(crate) const TESTS: &[Test] = &[OF_ALLOCATIONS, OF_PAGES];
