// SPDX-License-Identifier: GPL-2.0

//! The KUnit suites in the module, which a kernel with KUnit runs when the module is loaded.
//!
//! The rig has it run them, with a filter that lets none through, so that the other tests load a quiet module.

use crate::Test;
use mmapdev_userspace::module::Loaded;
use std::collections::BTreeSet;
use std::fs;

const FILTER: &str = "/sys/module/kunit/parameters/filter_glob";
const RESULTS: &str = "/sys/kernel/debug/kunit";

/// One for each file that has a suite.
const SUITES: [&str; 15] = [
    "abstractions_debugfs",
    "abstractions_file_size",
    "abstractions_folio",
    "abstractions_iov",
    "abstractions_misc_device",
    "abstractions_page_cache",
    "abstractions_per_cpu_counters",
    "abstractions_pseudo_fs",
    "abstractions_published",
    "abstractions_rw_semaphore",
    "abstractions_vm_area_desc",
    "abstractions_vm_fault",
    "abstractions_vm_pfn",
    "abstractions_work_queue",
    "mmapdev_budget",
];

pub(crate) const TESTS: &[Test] = &[Test::without_module("every_suite_passes", || {
    let before = fs::read_to_string(FILTER)?;
    fs::write(FILTER, "*")?;
    let module = Loaded::with("")?;
    fs::write(FILTER, before.trim_end())?;
    let mut run = BTreeSet::new();
    for folder in fs::read_dir(RESULTS)? {
        let folder = folder?;
        let name = folder.file_name().to_string_lossy().into_owned();
        if !["abstractions_", "mmapdev_"]
            .iter()
            .any(|ours| name.starts_with(ours))
        {
            continue;
        }
        let results = fs::read_to_string(folder.path().join("results"))?;
        let last = results.lines().last().unwrap_or_default();
        let passed = last.starts_with("ok ") && last.ends_with(&name);
        let flawed = results.contains("not ok ") || results.contains("# SKIP");
        // A suite that was loaded and not run has passed as well, by what it says of itself.
        let planned = results
            .lines()
            .find_map(|line| line.strip_prefix("    1.."));
        let planned = planned.and_then(|count| count.parse::<usize>().ok());
        let ran = results.lines().filter(|line| line.starts_with("    ok "));
        let all_ran = planned.is_some_and(|count| count > 0 && count == ran.count());
        assert!(passed && !flawed && all_ran, "{name}:\n{results}");
        run.insert(name);
    }
    assert_eq!(run, SUITES.map(str::to_string).into());
    module.unload()
})];
