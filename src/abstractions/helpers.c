// SPDX-License-Identifier: GPL-2.0
/*
 * What Rust cannot call by itself: inline functions and macros of the C headers, one wrapper each.
 *
 * This is to the abstraction layer what rust/helpers/ is to the kernel crate. A wrapper adds nothing
 * to what it wraps, unless it says so. Each has its declaration in helpers.rs; the two files list them in one order.
 */
#include <linux/backing-dev.h>
#include <linux/blkdev.h>
#include <linux/bvec.h>
#include <linux/cred.h>
#include <linux/errseq.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/fsnotify_backend.h>
#include <linux/huge_mm.h>
#include <linux/io.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/pci.h>
#include <linux/percpu.h>
#include <linux/pm_runtime.h>
#include <linux/pseudo_fs.h>
#include <linux/rcupdate.h>
#include <linux/rwsem.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/security.h>
#include <linux/shmem_fs.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <linux/userfaultfd_k.h>
#include <linux/wait.h>

/* As in rust/helpers/: the only callers are in Rust, so no header declares these. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

/* pseudo_fs.rs */

struct file_system_type *abstractions_helper_fs_context_type(const struct fs_context *fc)
{
	return fc->fs_type;
}

int abstractions_helper_init_pseudo(struct fs_context *fc, unsigned long magic,
				    const struct super_operations *operations)
{
	struct pseudo_fs_context *context = init_pseudo(fc, magic);

	if (!context)
		return -ENOMEM;
	context->ops = operations;
	return 0;
}

bool abstractions_helper_file_has_no_integrity(const struct file *file)
{
	return file->f_mapping->host->i_sb->s_iflags & SB_I_NO_DATA_INTEGRITY;
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

int abstractions_helper_inode_lock_killable(struct inode *inode)
{
	return inode_lock_killable(inode);
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

bool abstractions_helper_folio_test_locked(const struct folio *folio)
{
	return folio_test_locked(folio);
}

bool abstractions_helper_folio_test_writeback(const struct folio *folio)
{
	return folio_test_writeback(folio);
}

bool abstractions_helper_folio_trylock(struct folio *folio)
{
	return folio_trylock(folio);
}

bool abstractions_helper_folio_maybe_dma_pinned(struct folio *folio)
{
	return folio_maybe_dma_pinned(folio);
}

struct folio *abstractions_helper_page_folio(struct page *page)
{
	return page_folio(page);
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

/* stored_file.rs */

/* Also says what kind of file it is, of those that can be stored in: 1 a regular file, 2 a block device. */
int abstractions_helper_file_kind(const struct file *file)
{
	umode_t mode = file_inode(file)->i_mode;

	return S_ISREG(mode) ? 1 : S_ISBLK(mode) ? 2 : S_ISDIR(mode) ? -EISDIR : -EINVAL;
}

bool abstractions_helper_file_can_read(const struct file *file)
{
	return (file->f_mode & FMODE_READ) && file->f_op->read_iter;
}

bool abstractions_helper_file_can_write(const struct file *file)
{
	return (file->f_mode & FMODE_WRITE) && file->f_op->write_iter;
}

/* Whether write() is refused, as to a memfd. (F_SEAL_FUTURE_WRITE is for all but stores through what is mapped already.) */
bool abstractions_helper_file_is_sealed(const struct file *file)
{
	return IS_ENABLED(CONFIG_SHMEM) && shmem_mapping(file->f_mapping) &&
	       (READ_ONCE(SHMEM_I(file->f_mapping->host)->seals) & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE));
}

int abstractions_helper_mapping_map_writable(struct address_space *mapping)
{
	return mapping_map_writable(mapping);
}

void abstractions_helper_mapping_unmap_writable(struct address_space *mapping)
{
	mapping_unmap_writable(mapping);
}

/*
 * What a file system says of itself need not be so of its disk; of one that can change its disk while it is mounted (btrfs),
 * that is found out by trying.
 */
bool abstractions_helper_file_can_hurry(const struct file *file)
{
	const struct super_block *sb = file->f_mapping->host->i_sb;
	const struct block_device *disk = sb->s_magic == BTRFS_SUPER_MAGIC ? NULL : sb->s_bdev;

	return (file->f_mode & FMODE_NOWAIT) && (!disk || bdev_nowait((struct block_device *)disk));
}

/* A tmpfs says that it can, and copies to and from its page cache all the same. */
bool abstractions_helper_file_can_direct(const struct file *file)
{
	return (file->f_mode & FMODE_CAN_ODIRECT) && !shmem_mapping(file->f_mapping);
}

bool abstractions_helper_file_is_append(const struct file *file)
{
	return file->f_flags & O_APPEND || IS_APPEND(file_inode(file));
}

bool abstractions_helper_file_is_immutable(const struct file *file)
{
	return IS_IMMUTABLE(file_inode(file));
}

bool abstractions_helper_file_is_swap(const struct file *file)
{
	return IS_SWAPFILE(file->f_mapping->host);
}

bool abstractions_helper_mapping_stable_writes(const struct address_space *mapping)
{
	return mapping_stable_writes(mapping);
}

void abstractions_helper_mapping_set_stable_writes(struct address_space *mapping)
{
	mapping_set_stable_writes(mapping);
}

/* Has as much read ahead for an inode that is alone on its bdi as for a file. */
void abstractions_helper_read_ahead_as(struct inode *inode, const struct file *file)
{
	const struct backing_dev_info *from = inode_to_bdi(file->f_mapping->host);
	struct backing_dev_info *to = inode_to_bdi(inode);

	/* What is in memory anyway has nothing to say here, and the kernel's own default stays. */
	if (from == &noop_backing_dev_info)
		return;
	to->ra_pages = from->ra_pages;
	to->io_pages = from->io_pages;
}

/* What was written to a file by way of its own page cache, and could not be: of that, `*since` is what is known. */
errseq_t abstractions_helper_file_sample_errors(const struct file *file)
{
	return filemap_sample_wb_err(file->f_mapping);
}

int abstractions_helper_file_check_errors(const struct file *file, errseq_t *since)
{
	return errseq_check_and_advance(&file->f_mapping->wb_err, since);
}

void abstractions_helper_mapping_set_error(struct address_space *mapping, int error)
{
	mapping_set_error(mapping, error);
}

/* init_sync_kiocb(), with the flags and the callback that make it something else where they are given. */
void abstractions_helper_init_kiocb(struct kiocb *kiocb, struct file *file, loff_t pos, bool direct,
				    bool write, bool nowait,
				    void (*complete)(struct kiocb *kiocb, long ret))
{
	init_sync_kiocb(kiocb, file);
	kiocb->ki_pos = pos;
	kiocb->ki_complete = complete;
	/* Whoever else has the file open may have had its flags changed, by F_SETFL. */
	kiocb->ki_flags &= ~(IOCB_DIRECT | IOCB_NOWAIT | IOCB_APPEND);
	if (direct)
		kiocb->ki_flags |= IOCB_DIRECT;
	if (write)
		kiocb->ki_flags |= IOCB_WRITE;
	if (nowait)
		kiocb->ki_flags |= IOCB_NOWAIT;
}

void abstractions_helper_kiocb_start_write(struct kiocb *kiocb)
{
	kiocb_start_write(kiocb);
}

void abstractions_helper_kiocb_end_write(struct kiocb *kiocb)
{
	kiocb_end_write(kiocb);
}

const struct cred *abstractions_helper_override_creds(const struct cred *cred)
{
	return override_creds(cred);
}

void abstractions_helper_revert_creds(const struct cred *cred)
{
	revert_creds(cred);
}

/* Waits for all code that runs in an interrupt, or in a task and does not sleep, preempted or not. */
void abstractions_helper_synchronize_kernel_code(void)
{
	synchronize_rcu();
#ifdef CONFIG_TASKS_RCU
	synchronize_rcu_tasks();
#endif
}

/* Whether it does: not where a spinlock is one to sleep for, nor where nothing says when who was preempted has gone on. */
bool abstractions_helper_can_wait_for_kernel_code(void)
{
	return !IS_ENABLED(CONFIG_PREEMPT_RT) &&
	       (IS_ENABLED(CONFIG_TASKS_RCU) || !IS_ENABLED(CONFIG_PREEMPTION));
}

void abstractions_helper_bvec_set_folio(struct bio_vec *bvec, struct folio *folio, size_t len)
{
	bvec_set_folio(bvec, folio, len, 0);
}

struct folio *abstractions_helper_readahead_folio(struct readahead_control *rac)
{
	return readahead_folio(rac);
}

struct folio *abstractions_helper_write_begin_get_folio(const struct kiocb *kiocb,
							struct address_space *mapping, pgoff_t index,
							size_t len)
{
	return write_begin_get_folio(kiocb, mapping, index, len);
}

int abstractions_helper_folio_wait_locked_killable(struct folio *folio)
{
	return folio_wait_locked_killable(folio);
}

/*
 * What a writer of pages is, that works inside another file system: memory that it needs is not waited for by way of
 * any I/O, and dirtying pages there it is throttled by itself alone. Returns what has to be given back.
 */
unsigned int abstractions_helper_enter_write_back(void)
{
	unsigned int flags = memalloc_noio_save() | (current->flags & PF_LOCAL_THROTTLE);

	current->flags |= PF_LOCAL_THROTTLE;
	return flags;
}

void abstractions_helper_leave_write_back(unsigned int flags)
{
	if (!(flags & PF_LOCAL_THROTTLE))
		current->flags &= ~PF_LOCAL_THROTTLE;
	memalloc_noio_restore(flags & ~PF_LOCAL_THROTTLE);
}

ssize_t abstractions_helper_generic_write_sync(struct kiocb *kiocb, ssize_t count)
{
	return generic_write_sync(kiocb, count);
}

/* file_watch.rs */

#ifdef CONFIG_FSNOTIFY
/*
 * The structures of fsnotify are not in the bindings, so that its callback is here.
 *
 * A mark may be there, and called, for long after it was destroyed: whoever asks user space for permission keeps all that
 * they have come across, until there is an answer. So it has nothing of what it tells once the watch has ended, and the
 * module waits for it when it goes.
 */
struct abstractions_file_watch {
	struct fsnotify_mark mark;
	/* Held for reading while `changed` is called; that is NULL once the watch has ended. */
	struct rw_semaphore calling;
	void (*changed)(void *data);
	void *data;
};

/* How many there are in memory, and who waits until there are none. */
static atomic_t abstractions_file_watches = ATOMIC_INIT(0);
static DECLARE_WAIT_QUEUE_HEAD(abstractions_no_file_watches);

static int abstractions_file_changed(struct fsnotify_mark *mark, u32 mask, struct inode *inode,
				     struct inode *dir, const struct qstr *name, u32 cookie)
{
	struct abstractions_file_watch *watch = container_of(mark, struct abstractions_file_watch, mark);

	down_read(&watch->calling);
	if (watch->changed)
		watch->changed(watch->data);
	up_read(&watch->calling);
	return 0;
}

static void abstractions_free_file_watch(struct fsnotify_mark *mark)
{
	kfree(container_of(mark, struct abstractions_file_watch, mark));
	if (atomic_dec_and_test(&abstractions_file_watches))
		wake_up(&abstractions_no_file_watches);
}

static const struct fsnotify_ops abstractions_file_watch_ops = {
	.handle_inode_event = abstractions_file_changed,
	.free_mark = abstractions_free_file_watch,
};

void *abstractions_helper_watch_file(struct file *file, void (*changed)(void *data), void *data)
{
	struct abstractions_file_watch *watch = kzalloc(sizeof(*watch), GFP_KERNEL);
	struct fsnotify_group *group;
	int error;

	if (!watch)
		return ERR_PTR(-ENOMEM);
	group = fsnotify_alloc_group(&abstractions_file_watch_ops, 0);
	if (IS_ERR(group)) {
		kfree(watch);
		return group;
	}
	atomic_inc(&abstractions_file_watches);
	fsnotify_init_mark(&watch->mark, group);
	/* From here on the mark keeps it. */
	fsnotify_put_group(group);
	watch->mark.mask = FS_MODIFY;
	init_rwsem(&watch->calling);
	watch->changed = changed;
	watch->data = data;
	error = fsnotify_add_inode_mark(&watch->mark, file_inode(file), 0);
	if (error) {
		fsnotify_put_mark(&watch->mark);
		return ERR_PTR(error);
	}
	return watch;
}

/* Waits for calls that run, and for nobody else. */
void abstractions_helper_unwatch_file(void *data)
{
	struct abstractions_file_watch *watch = data;

	down_write(&watch->calling);
	watch->changed = NULL;
	up_write(&watch->calling);
	fsnotify_destroy_mark(&watch->mark, watch->mark.group);
	fsnotify_put_mark(&watch->mark);
}

/* Waits until all watches have gone, of which each must have ended, and the code that has freed them has returned. */
void abstractions_helper_wait_for_file_watches(void)
{
	wait_event(abstractions_no_file_watches, !atomic_read(&abstractions_file_watches));
	fsnotify_wait_marks_destroyed();
}
#else
void *abstractions_helper_watch_file(struct file *file, void (*changed)(void *data), void *data)
{
	return ERR_PTR(-EOPNOTSUPP);
}

void abstractions_helper_unwatch_file(void *data)
{
}

void abstractions_helper_wait_for_file_watches(void)
{
}
#endif

/* vm_fault.rs */

bool abstractions_helper_uffd_disable_fault_around(struct vm_area_struct *vma)
{
	return uffd_disable_fault_around(vma);
}

bool abstractions_helper_vma_thp_disabled(struct vm_area_struct *vma)
{
	return vma_thp_disabled(vma, vma->vm_flags, false);
}

bool abstractions_helper_pmd_trans_huge(pmd_t *pmd)
{
	return pmd_trans_huge(pmdp_get_lockless(pmd));
}

bool abstractions_helper_pmd_none(pmd_t *pmd)
{
	return pmd_none(pmdp_get_lockless(pmd));
}

/* capability.rs */

int abstractions_helper_is_pci_locked_down(void)
{
	return security_locked_down(LOCKDOWN_PCI_ACCESS);
}

/* vm_pfn.rs */

/* Whether a PMD entry can map page frames that are no pages. */
bool abstractions_helper_supports_pmd_pfnmap(void)
{
	return IS_ENABLED(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP);
}

/* vm_area_desc.rs */

bool abstractions_helper_vma_desc_is_shared(struct vm_area_desc *desc)
{
	return vma_desc_test(desc, VMA_MAYSHARE_BIT) && !vma_desc_is_cow_mapping(desc);
}

/* As enum CacheMode in device_memory.rs has them. */
enum { ABSTRACTIONS_WRITE_BACK, ABSTRACTIONS_WRITE_COMBINING, ABSTRACTIONS_UNCACHED };

/* Where the kernel keeps a record of it, the record says how an entry in a page table caches; elsewhere this does. */
void abstractions_helper_vma_desc_set_pfnmap(struct vm_area_desc *desc, unsigned int mode)
{
	vma_desc_set_flags(desc, VMA_IO_BIT, VMA_PFNMAP_BIT, VMA_DONTEXPAND_BIT, VMA_DONTDUMP_BIT);
	if (mode == ABSTRACTIONS_WRITE_COMBINING)
		desc->page_prot = pgprot_writecombine(desc->page_prot);
	else if (mode == ABSTRACTIONS_UNCACHED)
		desc->page_prot = pgprot_device(desc->page_prot);
	desc->page_prot = pgprot_decrypted(desc->page_prot);
}

/* device_memory.rs */

#ifndef ioremap_cache
#define ioremap_cache ioremap
#endif

void __iomem *abstractions_helper_ioremap(phys_addr_t start, size_t size, unsigned int mode)
{
	if (mode == ABSTRACTIONS_WRITE_BACK)
		return ioremap_cache(start, size);
	if (mode == ABSTRACTIONS_WRITE_COMBINING)
		return ioremap_wc(start, size);
	return ioremap(start, size);
}

/* How a mapping is cached that was asked for with a mode: where the kernel keeps a record, that has the last word. */
unsigned int abstractions_helper_ioremapped_mode(void __iomem *address, unsigned int mode)
{
#ifdef CONFIG_X86
	unsigned int level;
	pte_t *entry = lookup_address((unsigned long)address, &level);
	pgprotval_t bits;

	if (!entry)
		return ABSTRACTIONS_UNCACHED;
	bits = pte_val(*entry);
	if (level != PG_LEVEL_4K)
		bits = pgprot_val(pgprot_large_2_4k(__pgprot(bits)));
	bits &= _PAGE_CACHE_MASK;
	if (bits == cachemode2protval(_PAGE_CACHE_MODE_WB))
		return ABSTRACTIONS_WRITE_BACK;
	/* A CPU without the means to combine writes has them uncached. */
	if (bits == cachemode2protval(_PAGE_CACHE_MODE_WC) &&
	    bits != cachemode2protval(_PAGE_CACHE_MODE_UC_MINUS))
		return ABSTRACTIONS_WRITE_COMBINING;
	return ABSTRACTIONS_UNCACHED;
#else
	return mode;
#endif
}

bool abstractions_helper_mapping_mapped(struct address_space *mapping)
{
	return mapping_mapped(mapping);
}

void abstractions_helper_wmb(void)
{
	wmb();
}

/* pci_device.rs */

/* Whether the kernel takes the registers of a device for those of BARs. */
bool abstractions_helper_pci_has_bars(const struct pci_dev *pdev)
{
	return !pdev->non_compliant_bars && !pdev->is_virtfn;
}

unsigned long abstractions_helper_pci_resource_flags(struct pci_dev *dev, int bar)
{
	return pci_resource_flags(dev, bar);
}

void abstractions_helper_pci_allow_suspend(struct pci_dev *dev)
{
	pm_runtime_put_noidle(&dev->dev);
}

void abstractions_helper_pci_forbid_suspend(struct pci_dev *dev)
{
	pm_runtime_get_noresume(&dev->dev);
}

int abstractions_helper_pci_resume(struct pci_dev *dev)
{
	return pm_runtime_resume_and_get(&dev->dev);
}

void abstractions_helper_pci_put(struct pci_dev *dev)
{
	pm_runtime_put(&dev->dev);
}

/* published.rs */

static DEFINE_MUTEX(abstractions_published);

void abstractions_helper_published_lock(void)
{
	mutex_lock(&abstractions_published);
}

void abstractions_helper_published_unlock(void)
{
	mutex_unlock(&abstractions_published);
}

/* user_struct.rs */

int abstractions_helper_copy_struct_from_user(void *to, size_t known, const void __user *from,
					      size_t size)
{
	return copy_struct_from_user(to, known, from, size);
}

/* file_operations.rs */

void abstractions_helper_file_set_mapping(struct file *file, struct address_space *mapping)
{
	file->f_mapping = mapping;
	file->f_wb_err = filemap_sample_wb_err(mapping);
	file_ra_state_init(&file->f_ra, mapping);
}

/*
 * Without times, as a store would change those of the node under locks that its file system takes outside of them, and
 * without a look at whether that is frozen: the kernel does so by itself where a mapping has no page_mkwrite.
 */
void abstractions_helper_file_set_modes(struct file *file)
{
	file->f_mode |= FMODE_NOWAIT | FMODE_CAN_ODIRECT | FMODE_ATOMIC_POS | FMODE_NOCMTIME;
	if (mapping_unevictable(file->f_mapping))
		file->f_mode |= FMODE_NOREUSE;
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
	/* Preempted or not: who waits for tasks to come to such a place does not wait for a long loop. */
	cond_resched_tasks_rcu_qs();
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
