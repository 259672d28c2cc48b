// SPDX-License-Identifier: GPL-2.0

//! Declarations of the C wrappers in `helpers.c`, and of exported functions that the bindings lack.
//!
//! The order is that of `helpers.c`.

// Some kernel structures are empty in some configurations, and only pointers to them pass here.
#![allow(improper_ctypes)]

use kernel::bindings;
use kernel::prelude::*;

extern "C" {
    // pseudo_fs.rs
    pub(super) fn abstractions_helper_fs_context_type(
        fc: *const bindings::fs_context,
    ) -> *mut bindings::file_system_type;
    pub(super) fn abstractions_helper_init_pseudo(
        fc: *mut bindings::fs_context,
        magic: c_ulong,
        operations: *const bindings::super_operations,
    ) -> c_int;

    pub(super) fn abstractions_helper_file_has_no_integrity(file: *const bindings::file) -> bool;

    // page_cache.rs
    pub(super) fn abstractions_helper_i_size_read(
        inode: *const bindings::inode,
    ) -> bindings::loff_t;
    pub(super) fn abstractions_helper_i_size_write(
        inode: *mut bindings::inode,
        size: bindings::loff_t,
    );
    pub(super) fn abstractions_helper_inode_lock(inode: *mut bindings::inode);
    pub(super) fn abstractions_helper_inode_lock_killable(inode: *mut bindings::inode) -> c_int;
    pub(super) fn abstractions_helper_inode_trylock(inode: *mut bindings::inode) -> bool;
    pub(super) fn abstractions_helper_inode_unlock(inode: *mut bindings::inode);
    pub(super) fn abstractions_helper_mapping_set_large_folios(
        mapping: *mut bindings::address_space,
    );
    pub(super) fn abstractions_helper_mapping_set_unevictable(
        mapping: *mut bindings::address_space,
    );
    pub(super) fn abstractions_helper_mapping_max_folio_order(
        mapping: *const bindings::address_space,
    ) -> c_uint;
    pub(super) fn abstractions_helper_filemap_invalidate_lock_shared(
        mapping: *mut bindings::address_space,
    );
    pub(super) fn abstractions_helper_filemap_invalidate_trylock_shared(
        mapping: *mut bindings::address_space,
    ) -> bool;
    pub(super) fn abstractions_helper_filemap_invalidate_unlock_shared(
        mapping: *mut bindings::address_space,
    );
    pub(super) fn abstractions_helper_filemap_invalidate_lock(
        mapping: *mut bindings::address_space,
    );
    pub(super) fn abstractions_helper_filemap_invalidate_unlock(
        mapping: *mut bindings::address_space,
    );
    pub(super) fn abstractions_helper_filemap_get_folio(
        mapping: *mut bindings::address_space,
        index: c_ulong,
    ) -> *mut bindings::folio;
    pub(super) fn abstractions_helper_filemap_lock_folio(
        mapping: *mut bindings::address_space,
        index: c_ulong,
    ) -> *mut bindings::folio;
    pub(super) fn abstractions_helper_filemap_trylock_folio(
        mapping: *mut bindings::address_space,
        index: c_ulong,
    ) -> *mut bindings::folio;
    pub(super) fn abstractions_helper_xa_is_value(entry: *const c_void) -> bool;
    pub(super) fn abstractions_helper_iov_iter_truncate(iter: *mut bindings::iov_iter, count: u64);
    pub(super) fn abstractions_helper_iov_iter_reexpand(
        iter: *mut bindings::iov_iter,
        count: usize,
    );
    pub(super) fn abstractions_helper_kiocb_is_nowait(kiocb: *const bindings::kiocb) -> bool;

    // folio.rs
    pub(super) fn abstractions_helper_folio_get(folio: *mut bindings::folio);
    pub(super) fn abstractions_helper_folio_put(folio: *mut bindings::folio);
    pub(super) fn abstractions_helper_folio_size(folio: *const bindings::folio) -> usize;
    pub(super) fn abstractions_helper_folio_order(folio: *const bindings::folio) -> c_uint;
    pub(super) fn abstractions_helper_folio_pfn(folio: *const bindings::folio) -> c_ulong;
    pub(super) fn abstractions_helper_folio_test_uptodate(folio: *const bindings::folio) -> bool;
    pub(super) fn abstractions_helper_folio_mark_uptodate(folio: *mut bindings::folio);
    pub(super) fn abstractions_helper_folio_test_locked(folio: *const bindings::folio) -> bool;
    pub(super) fn abstractions_helper_folio_test_writeback(folio: *const bindings::folio) -> bool;
    pub(super) fn abstractions_helper_folio_trylock(folio: *mut bindings::folio) -> bool;
    pub(super) fn abstractions_helper_folio_maybe_dma_pinned(folio: *mut bindings::folio) -> bool;
    pub(super) fn abstractions_helper_page_folio(page: *mut bindings::page)
        -> *mut bindings::folio;
    pub(super) fn abstractions_helper_folio_test_dirty(folio: *const bindings::folio) -> bool;
    pub(super) fn abstractions_helper_folio_contain_hwpoisoned_page(
        folio: *mut bindings::folio,
    ) -> bool;
    pub(super) fn abstractions_helper_folio_page_hwpoison(
        folio: *mut bindings::folio,
        index: c_ulong,
    ) -> bool;
    pub(super) fn abstractions_helper_folio_file_page(
        folio: *mut bindings::folio,
        index: c_ulong,
    ) -> *mut bindings::page;
    pub(super) fn abstractions_helper_folio_zero_range(
        folio: *mut bindings::folio,
        start: usize,
        length: usize,
    );
    pub(super) fn abstractions_helper_copy_folio_to_iter(
        folio: *mut bindings::folio,
        offset: usize,
        bytes: usize,
        iter: *mut bindings::iov_iter,
    ) -> usize;

    // stored_file.rs
    pub(super) fn abstractions_helper_file_kind(file: *const bindings::file) -> c_int;
    pub(super) fn abstractions_helper_file_can_read(file: *const bindings::file) -> bool;
    pub(super) fn abstractions_helper_file_can_write(file: *const bindings::file) -> bool;
    pub(super) fn abstractions_helper_file_is_sealed(file: *const bindings::file) -> bool;
    pub(super) fn abstractions_helper_mapping_map_writable(
        mapping: *mut bindings::address_space,
    ) -> c_int;
    pub(super) fn abstractions_helper_mapping_unmap_writable(mapping: *mut bindings::address_space);
    pub(super) fn abstractions_helper_file_can_hurry(file: *const bindings::file) -> bool;
    pub(super) fn abstractions_helper_file_can_direct(file: *const bindings::file) -> bool;
    pub(super) fn abstractions_helper_file_is_append(file: *const bindings::file) -> bool;
    pub(super) fn abstractions_helper_file_is_immutable(file: *const bindings::file) -> bool;
    pub(super) fn abstractions_helper_file_is_swap(file: *const bindings::file) -> bool;
    pub(super) fn abstractions_helper_mapping_stable_writes(
        mapping: *const bindings::address_space,
    ) -> bool;
    pub(super) fn abstractions_helper_mapping_set_stable_writes(
        mapping: *mut bindings::address_space,
    );
    pub(super) fn abstractions_helper_read_ahead_as(
        inode: *mut bindings::inode,
        file: *const bindings::file,
    );
    pub(super) fn abstractions_helper_file_sample_errors(
        file: *const bindings::file,
    ) -> bindings::errseq_t;
    pub(super) fn abstractions_helper_file_check_errors(
        file: *const bindings::file,
        since: *mut bindings::errseq_t,
    ) -> c_int;
    pub(super) fn abstractions_helper_mapping_set_error(
        mapping: *mut bindings::address_space,
        error: c_int,
    );
    pub(super) fn abstractions_helper_init_kiocb(
        kiocb: *mut bindings::kiocb,
        file: *mut bindings::file,
        pos: bindings::loff_t,
        direct: bool,
        write: bool,
        nowait: bool,
        complete: Option<unsafe extern "C" fn(*mut bindings::kiocb, c_long)>,
    );
    pub(super) fn abstractions_helper_kiocb_start_write(kiocb: *mut bindings::kiocb);
    pub(super) fn abstractions_helper_kiocb_end_write(kiocb: *mut bindings::kiocb);
    pub(super) fn abstractions_helper_override_creds(
        cred: *const bindings::cred,
    ) -> *const bindings::cred;
    pub(super) fn abstractions_helper_revert_creds(cred: *const bindings::cred);
    pub(super) fn abstractions_helper_synchronize_kernel_code();
    pub(super) fn abstractions_helper_can_wait_for_kernel_code() -> bool;
    pub(super) fn abstractions_helper_bvec_set_folio(
        bvec: *mut bindings::bio_vec,
        folio: *mut bindings::folio,
        len: usize,
    );
    pub(super) fn abstractions_helper_readahead_folio(
        rac: *mut bindings::readahead_control,
    ) -> *mut bindings::folio;
    pub(super) fn abstractions_helper_write_begin_get_folio(
        kiocb: *const bindings::kiocb,
        mapping: *mut bindings::address_space,
        index: c_ulong,
        len: usize,
    ) -> *mut bindings::folio;
    pub(super) fn abstractions_helper_folio_wait_locked_killable(
        folio: *mut bindings::folio,
    ) -> c_int;
    pub(super) fn abstractions_helper_enter_write_back() -> c_uint;
    pub(super) fn abstractions_helper_leave_write_back(flags: c_uint);
    pub(super) fn abstractions_helper_generic_write_sync(
        kiocb: *mut bindings::kiocb,
        count: isize,
    ) -> isize;

    // file_watch.rs
    pub(super) fn abstractions_helper_watch_file(
        file: *mut bindings::file,
        changed: unsafe extern "C" fn(*mut c_void),
        data: *mut c_void,
    ) -> *mut c_void;
    pub(super) fn abstractions_helper_unwatch_file(watch: *mut c_void);
    pub(super) fn abstractions_helper_wait_for_file_watches();

    // vm_fault.rs
    pub(super) fn abstractions_helper_uffd_disable_fault_around(
        vma: *mut bindings::vm_area_struct,
    ) -> bool;
    pub(super) fn abstractions_helper_vma_thp_disabled(vma: *mut bindings::vm_area_struct) -> bool;
    pub(super) fn abstractions_helper_pmd_trans_huge(pmd: *mut bindings::pmd_t) -> bool;
    pub(super) fn abstractions_helper_pmd_none(pmd: *mut bindings::pmd_t) -> bool;

    // capability.rs
    pub(super) fn abstractions_helper_is_pci_locked_down() -> c_int;

    // vm_pfn.rs
    pub(super) fn abstractions_helper_supports_pmd_pfnmap() -> bool;

    // vm_area_desc.rs
    pub(super) fn abstractions_helper_vma_desc_is_shared(desc: *mut bindings::vm_area_desc)
        -> bool;
    pub(super) fn abstractions_helper_vma_desc_set_pfnmap(
        desc: *mut bindings::vm_area_desc,
        mode: c_uint,
    );

    // device_memory.rs
    pub(super) fn abstractions_helper_ioremap(
        start: bindings::phys_addr_t,
        size: usize,
        mode: c_uint,
    ) -> *mut c_void;
    pub(super) fn abstractions_helper_ioremapped_mode(address: *mut c_void, mode: c_uint)
        -> c_uint;
    pub(super) fn abstractions_helper_mapping_mapped(mapping: *mut bindings::address_space)
        -> bool;
    pub(super) fn abstractions_helper_wmb();

    // pci_device.rs
    pub(super) fn abstractions_helper_pci_has_bars(pdev: *const bindings::pci_dev) -> bool;
    pub(super) fn abstractions_helper_pci_resource_flags(
        dev: *mut bindings::pci_dev,
        bar: c_int,
    ) -> c_ulong;
    pub(super) fn abstractions_helper_pci_allow_suspend(dev: *mut bindings::pci_dev);
    pub(super) fn abstractions_helper_pci_forbid_suspend(dev: *mut bindings::pci_dev);
    pub(super) fn abstractions_helper_pci_resume(dev: *mut bindings::pci_dev) -> c_int;
    pub(super) fn abstractions_helper_pci_put(dev: *mut bindings::pci_dev);

    // published.rs
    pub(super) fn abstractions_helper_published_lock();
    pub(super) fn abstractions_helper_published_unlock();

    // user_struct.rs
    pub(super) fn abstractions_helper_copy_struct_from_user(
        to: *mut c_void,
        known: usize,
        from: *const c_void,
        size: usize,
    ) -> c_int;

    // file_operations.rs
    pub(super) fn abstractions_helper_file_set_mapping(
        file: *mut bindings::file,
        mapping: *mut bindings::address_space,
    );
    pub(super) fn abstractions_helper_file_set_modes(file: *mut bindings::file);

    // per_cpu_counters.rs
    pub(super) fn abstractions_helper_alloc_percpu(size: usize, align: usize) -> *mut c_void;
    pub(super) fn abstractions_helper_this_cpu_add_u64(counter: *mut u64, amount: u64);
    pub(super) fn abstractions_helper_per_cpu_sum_u64(counter: *mut u64) -> u64;

    // sched.rs
    pub(super) fn abstractions_helper_cond_resched();
    pub(super) fn abstractions_helper_fatal_signal_pending() -> bool;

    // system_memory.rs
    pub(super) fn abstractions_helper_totalram_pages() -> c_ulong;
}
