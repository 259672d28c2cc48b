// SPDX-License-Identifier: GPL-2.0
/*
 * What Rust cannot call by itself: inline functions and macros of the C headers, one wrapper each.
 *
 * This is to the abstraction layer what rust/helpers/ is to the kernel crate. A wrapper adds nothing
 * to what it wraps, unless it says so. Each has its declaration in helpers.rs; the two files list them in one order.
 */
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/huge_mm.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/percpu.h>
#include <linux/pseudo_fs.h>
#include <linux/sched/signal.h>
#include <linux/uio.h>
#include <linux/userfaultfd_k.h>

/* As in rust/helpers/: the only callers are in Rust, so no header declares these. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

/* pseudo_fs.rs */

struct file_system_type *abstractions_helper_fs_context_type(const struct fs_context *fc)
{
	return fc->fs_type;
}

int abstractions_helper_init_pseudo(struct fs_context *fc, unsigned long magic)
{
	return init_pseudo(fc, magic) ? 0 : -ENOMEM;
}

/* page_cache.rs */

loff_t abstractions_helper_i_size_read(const struct inode *inode)
{
	return i_size_read(inode);
}

void abstractions_helper_i_size_write(struct inode *inode, loff_t size)
{
	i_size_write(inode, size);
}

void abstractions_helper_inode_lock(struct inode *inode)
{
	inode_lock(inode);
}

bool abstractions_helper_inode_trylock(struct inode *inode)
{
	return inode_trylock(inode);
}

void abstractions_helper_inode_unlock(struct inode *inode)
{
	inode_unlock(inode);
}

void abstractions_helper_mapping_set_large_folios(struct address_space *mapping)
{
	mapping_set_large_folios(mapping);
}

void abstractions_helper_mapping_set_unevictable(struct address_space *mapping)
{
	mapping_set_unevictable(mapping);
}

unsigned int abstractions_helper_mapping_max_folio_order(const struct address_space *mapping)
{
	return mapping_max_folio_order(mapping);
}

void abstractions_helper_filemap_invalidate_lock_shared(struct address_space *mapping)
{
	filemap_invalidate_lock_shared(mapping);
}

bool abstractions_helper_filemap_invalidate_trylock_shared(struct address_space *mapping)
{
	return filemap_invalidate_trylock_shared(mapping);
}

void abstractions_helper_filemap_invalidate_unlock_shared(struct address_space *mapping)
{
	filemap_invalidate_unlock_shared(mapping);
}

void abstractions_helper_filemap_invalidate_lock(struct address_space *mapping)
{
	filemap_invalidate_lock(mapping);
}

void abstractions_helper_filemap_invalidate_unlock(struct address_space *mapping)
{
	filemap_invalidate_unlock(mapping);
}

struct folio *abstractions_helper_filemap_get_folio(struct address_space *mapping, pgoff_t index)
{
	return filemap_get_folio(mapping, index);
}

struct folio *abstractions_helper_filemap_lock_folio(struct address_space *mapping, pgoff_t index)
{
	return filemap_lock_folio(mapping, index);
}

struct folio *abstractions_helper_filemap_trylock_folio(struct address_space *mapping, pgoff_t index)
{
	return __filemap_get_folio(mapping, index, FGP_LOCK | FGP_NOWAIT, 0);
}

bool abstractions_helper_xa_is_value(const void *entry)
{
	return xa_is_value(entry);
}

void abstractions_helper_iov_iter_truncate(struct iov_iter *iter, u64 count)
{
	iov_iter_truncate(iter, count);
}

void abstractions_helper_iov_iter_reexpand(struct iov_iter *iter, size_t count)
{
	iov_iter_reexpand(iter, count);
}

bool abstractions_helper_kiocb_is_nowait(const struct kiocb *kiocb)
{
	return kiocb->ki_flags & IOCB_NOWAIT;
}

/* folio.rs */

void abstractions_helper_folio_get(struct folio *folio)
{
	folio_get(folio);
}

void abstractions_helper_folio_put(struct folio *folio)
{
	folio_put(folio);
}

size_t abstractions_helper_folio_size(const struct folio *folio)
{
	return folio_size(folio);
}

unsigned int abstractions_helper_folio_order(const struct folio *folio)
{
	return folio_order(folio);
}

unsigned long abstractions_helper_folio_pfn(const struct folio *folio)
{
	return folio_pfn(folio);
}

bool abstractions_helper_folio_test_uptodate(const struct folio *folio)
{
	return folio_test_uptodate(folio);
}

void abstractions_helper_folio_mark_uptodate(struct folio *folio)
{
	folio_mark_uptodate(folio);
}

bool abstractions_helper_folio_test_dirty(const struct folio *folio)
{
	return folio_test_dirty(folio);
}

bool abstractions_helper_folio_contain_hwpoisoned_page(struct folio *folio)
{
	return folio_contain_hwpoisoned_page(folio);
}

bool abstractions_helper_folio_page_hwpoison(struct folio *folio, pgoff_t index)
{
	return PageHWPoison(folio_file_page(folio, index));
}

struct page *abstractions_helper_folio_file_page(struct folio *folio, pgoff_t index)
{
	return folio_file_page(folio, index);
}

void abstractions_helper_folio_zero_range(struct folio *folio, size_t start, size_t length)
{
	folio_zero_range(folio, start, length);
}

size_t abstractions_helper_copy_folio_to_iter(struct folio *folio, size_t offset, size_t bytes,
					 struct iov_iter *iter)
{
	/*
	 * Where all memory is mapped, a folio is one range of addresses and one call copies from it;
	 * copy_folio_to_iter() goes page by page for the sake of machines where it is not.
	 */
	if (!folio_test_highmem(folio))
		return _copy_to_iter(folio_address(folio) + offset, bytes, iter);
	return copy_folio_to_iter(folio, offset, bytes, iter);
}

/* vm_fault.rs */

bool abstractions_helper_uffd_disable_fault_around(struct vm_area_struct *vma)
{
	return uffd_disable_fault_around(vma);
}

bool abstractions_helper_vma_thp_disabled(struct vm_area_struct *vma)
{
	return vma_thp_disabled(vma, vma->vm_flags, false);
}

bool abstractions_helper_pmd_none(pmd_t *pmd)
{
	return pmd_none(pmdp_get_lockless(pmd));
}

/* file_operations.rs */

void abstractions_helper_file_set_mapping(struct file *file, struct address_space *mapping)
{
	file->f_mapping = mapping;
	file->f_wb_err = filemap_sample_wb_err(mapping);
}

void abstractions_helper_file_set_modes(struct file *file)
{
	file->f_mode |= FMODE_NOWAIT | FMODE_CAN_ODIRECT | FMODE_ATOMIC_POS | FMODE_NOREUSE;
}

/* per_cpu_counters.rs */

void __percpu *abstractions_helper_alloc_percpu(size_t size, size_t align)
{
	return __alloc_percpu(size, align);
}

void abstractions_helper_this_cpu_add_u64(u64 __percpu *counter, u64 amount)
{
	this_cpu_add(*counter, amount);
}

u64 abstractions_helper_per_cpu_sum_u64(u64 __percpu *counter)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(*per_cpu_ptr(counter, cpu));
	return sum;
}

/* sched.rs */

void abstractions_helper_cond_resched(void)
{
	cond_resched();
}

bool abstractions_helper_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

/* system_memory.rs */

unsigned long abstractions_helper_totalram_pages(void)
{
	return totalram_pages();
}
