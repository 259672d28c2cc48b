// SPDX-License-Identifier: GPL-2.0

//! Page faults: a touch of a page that is not mapped, and the answers a driver can give.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h), `struct vm_fault` and
//! `enum vm_fault_reason`
//!
//! A C handler answers with bits, some of which promise something: a page with its lock, an installed
//! page-table entry. Here each answer is a value that can only be made by keeping the promise, so that
//! neither a wrong page nor an endless fault can come from safe code.

use super::folio::LockedFolio;
use super::helpers;
use super::write_back_scope::WriteBackScope;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::mm::virt::vm_flags_t;
use kernel::page::{PAGE_SHIFT, PAGE_SIZE};
use kernel::prelude::*;
use kernel::types::Opaque;

/// One page fault in a mapping of a file, mirroring `struct vm_fault`.
///
/// # Invariants
///
/// The fault is being handled: the mmap lock or the lock of its VMA is held for reading, and the VMA
/// maps a file.
#[repr(transparent)]
pub(crate) struct VmFault(Opaque<bindings::vm_fault>);

impl VmFault {
    /// Makes a reference from the pointer that a handler is called with.
    ///
    /// # Safety
    ///
    /// `fault` must be the argument of a handler that is running for `'a`, for a VMA with a file.
    pub(super) unsafe fn from_raw<'a>(fault: *mut bindings::vm_fault) -> &'a Self {
        // SAFETY: The type is transparent, and the caller promises the rest.
        unsafe { &*fault.cast() }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::vm_fault {
        self.0.get()
    }

    pub(super) fn vma(&self) -> *mut bindings::vm_area_struct {
        // SAFETY: The fault is valid by the type invariant.
        unsafe { (*self.as_raw()).__bindgen_anon_1.vma }
    }

    pub(super) fn address(&self) -> usize {
        // SAFETY: The fault is valid by the type invariant.
        unsafe { (*self.as_raw()).__bindgen_anon_1.address }
    }

    fn has_flag(&self, flag: bindings::fault_flag) -> bool {
        // SAFETY: The fault is valid by the type invariant.
        unsafe { (*self.as_raw()).flags & flag != 0 }
    }

    /// Returns the index of the touched page, in pages from the start of the file.
    pub(crate) fn index(&self) -> usize {
        // SAFETY: The fault is valid by the type invariant.
        unsafe { (*self.as_raw()).__bindgen_anon_1.pgoff }
    }

    /// Returns whether the touch is a write.
    pub(crate) fn is_write(&self) -> bool {
        self.has_flag(bindings::fault_flag_FAULT_FLAG_WRITE)
    }

    /// Returns whether the fault runs under the lock of its VMA alone, which other threads of the
    /// program do not contend for, instead of the lock of the whole address space.
    pub(crate) fn is_under_vma_lock(&self) -> bool {
        self.has_flag(bindings::fault_flag_FAULT_FLAG_VMA_LOCK)
    }

    /// Returns what the program has said about huge pages in this mapping.
    ///
    /// Mirrors `vma_thp_disabled()` and `VM_HUGEPAGE`.
    pub(crate) fn huge_page_advice(&self) -> HugePageAdvice {
        // SAFETY: The VMA is valid and locked by the type invariant.
        if unsafe { helpers::abstractions_helper_vma_thp_disabled(self.vma()) } {
            HugePageAdvice::Against
        } else if self.vma_flags() & bindings::VM_HUGEPAGE as vm_flags_t != 0 {
            HugePageAdvice::For
        } else {
            HugePageAdvice::None
        }
    }

    /// Returns whether the fault writes to a private mapping: what is mapped is then a copy.
    fn is_copy_on_write(&self) -> bool {
        self.is_write() && self.vma_flags() & kernel::mm::virt::flags::SHARED == 0
    }

    /// Returns whether a first write to a page has to be noted, see [`FirstWrite`].
    fn has_notice(&self) -> bool {
        // SAFETY: The VMA is valid and has operations, which it was called by.
        unsafe { (*(*self.vma()).vm_ops).page_mkwrite.is_some() }
    }

    fn vma_flags(&self) -> vm_flags_t {
        // SAFETY: The VMA is valid and locked by the type invariant.
        unsafe { (*self.vma()).__bindgen_anon_2.vm_flags }
    }

    /// Returns the address space of the mapped file.
    pub(super) fn mapping(&self) -> *mut bindings::address_space {
        // SAFETY: The VMA is valid and maps a file by the type invariant.
        unsafe { (*(*self.vma()).vm_file).f_mapping }
    }

    /// Returns whether the pages of the mapped file come from somewhere, as those of a [`FileCache`] do.
    ///
    /// [`FileCache`]: super::file_cache::FileCache
    fn is_read_from_somewhere(&self) -> bool {
        // SAFETY: The mapped file's address space is alive while the VMA is, and has operations.
        unsafe { (*(*self.mapping()).a_ops).readahead.is_some() }
    }

    /// Returns how many pages the mapped file has, a last one that is not whole included.
    fn pages_in_file(&self) -> usize {
        // SAFETY: The mapped file's inode is alive while the VMA is.
        let size = unsafe { helpers::abstractions_helper_i_size_read((*self.mapping()).host) };
        (size as usize).div_ceil(PAGE_SIZE)
    }

    pub(super) fn vma_range(&self) -> (usize, usize) {
        // SAFETY: The VMA is valid and locked by the type invariant.
        let range = unsafe { &(*self.vma()).__bindgen_anon_1.__bindgen_anon_1 };
        (range.vm_start, range.vm_end)
    }

    /// Returns whether the aligned `2^order` pages of memory around the touched one lie within the VMA, at an index of the
    /// file that is a multiple of their number: then one entry of a page table may map them.
    pub(super) fn fits(&self, order: u32) -> bool {
        let size = PAGE_SIZE << order;
        let start = self.address() & !(size - 1);
        let (vma_start, vma_end) = self.vma_range();
        let page = (self.address() - start) >> PAGE_SHIFT;
        start >= vma_start && vma_end - start >= size && self.index() & ((1 << order) - 1) == page
    }

    /// Returns the other huge pages in the window of `2^order` huge pages of the file around the touched one: those that
    /// lie within the VMA and its table of entries, and for which no entry is there. None where the touched one itself is
    /// no huge page of both, see [`Self::fits`], or the fault did not get as far as the table.
    pub(super) fn huge_neighbours(&self, order: u32) -> impl Iterator<Item = HugeNeighbour<'_>> {
        let touched = self.index() >> PMD_ORDER;
        let order = order.min(PMD_ORDER);
        let first = touched >> order << order;
        let count = if self.fits(PMD_ORDER) { 1 << order } else { 0 };
        let others = (first..first + count).filter(move |&number| number != touched);
        others.filter_map(move |number| self.huge_neighbour(number as isize - touched as isize))
    }

    /// Returns the huge page that is `distance` huge pages away from the touched one, see [`Self::huge_neighbours`].
    fn huge_neighbour(&self, distance: isize) -> Option<HugeNeighbour<'_>> {
        let touched = self.address() & !(PMD_SIZE - 1);
        let start = touched.wrapping_add_signed(distance * PMD_SIZE as isize);
        let (vma_start, vma_end) = self.vma_range();
        let is_inside = start >= vma_start && start < vma_end && vma_end - start >= PMD_SIZE;
        if !is_inside || start / PMD_TABLE_SIZE != touched / PMD_TABLE_SIZE {
            return None;
        }
        // SAFETY: The fault is valid by the type invariant; it is plain data, copied to be changed.
        let mut fault = unsafe { self.as_raw().read() };
        if fault.pmd.is_null() {
            return None;
        }
        fault.pmd = fault.pmd.wrapping_offset(distance);
        // SAFETY: The entry is in the table that the touched one is in, which stays for as long as the VMA is
        // locked.
        if !unsafe { helpers::abstractions_helper_pmd_none(fault.pmd) } {
            return None;
        }
        fault.__bindgen_anon_1.address = start;
        fault.__bindgen_anon_1.pgoff = (self.index() & !((1 << PMD_ORDER) - 1))
            .wrapping_add_signed(distance << PMD_ORDER as isize);
        // INVARIANT: Checked and set just now.
        Some(HugeNeighbour(fault, PhantomData))
    }

    /// Has the touch looked at anew, as nothing was done about it: by whoever has waited for something, so that it is
    /// not for ever, and is not being killed.
    pub(super) fn come_again(&self) -> Installed<'_> {
        Installed(bindings::vm_fault_reason_VM_FAULT_NOPAGE, PhantomData)
    }
}

/// A huge page beside a touched one, with the fault that a touch of it would be.
///
/// # Invariants
///
/// The huge page lies within the VMA, at an index of the file that is a multiple of its size, and address, index and
/// entry of the fault are its own. Nothing was mapped there a moment ago.
pub(super) struct HugeNeighbour<'a>(bindings::vm_fault, PhantomData<&'a VmFault>);

impl HugeNeighbour<'_> {
    /// Returns the index of its first page, see [`VmFault::index`].
    pub(super) fn index(&self) -> usize {
        self.0.__bindgen_anon_1.pgoff
    }

    pub(super) fn as_raw(&mut self) -> *mut bindings::vm_fault {
        &raw mut self.0
    }
}

/// A page fault in a mapping of the pages of a file.
///
/// # Invariants
///
/// The VMA has neither `VM_PFNMAP` nor `VM_MIXEDMAP`, in which an entry that is for a page, and counted by it, is taken for
/// something else when it goes.
#[repr(transparent)]
pub(crate) struct PageFault(VmFault);

impl Deref for PageFault {
    type Target = VmFault;

    fn deref(&self) -> &VmFault {
        &self.0
    }
}

impl PageFault {
    /// Makes a reference from the pointer that a handler is called with.
    ///
    /// # Safety
    ///
    /// As for [`VmFault::from_raw`], and the VMA must be one as in the type invariant.
    pub(super) unsafe fn from_raw<'a>(fault: *mut bindings::vm_fault) -> &'a Self {
        // SAFETY: The type is transparent, and the caller promises the rest.
        unsafe { &*fault.cast() }
    }

    /// Returns the pages of the window of `2^order` pages around the touched one that lie in the VMA, as a
    /// first address and a number.
    fn window(&self, order: u32) -> (usize, usize) {
        let size = PAGE_SIZE << order;
        let start = self.address() & !(size - 1);
        let (vma_start, vma_end) = self.vma_range();
        let first = start.max(vma_start);
        (
            first,
            (vma_end - first).min(start + size - first) >> PAGE_SHIFT,
        )
    }

    /// Maps the touched page and what is in the page cache of the aligned window of `2^order` pages around
    /// it, for a write to a shared mapping as well. `None` where the touched page is not mapped by that.
    ///
    /// Nor where the window does not fit in one page table, user space tracks single pages by
    /// userfaultfd, or a first write wants to be noted. A write marks the whole window dirty. Bad memory is left out. Mirrors `filemap_map_pages()`. Does not sleep.
    pub(crate) fn map_resident(&self, order: u32) -> Option<Installed<'_>> {
        if order > PMD_ORDER || self.is_tracked() || self.is_copy_on_write() || self.has_notice() {
            return None;
        }
        let (first, pages) = self.window(order);
        let start = self.index() - ((self.address() - first) >> PAGE_SHIFT);
        // SAFETY: The fault is valid, the window lies within its VMA and its page table, no page of the file
        // becomes writable through a private mapping, and there is nobody who would have to be asked before one
        // does.
        let reason =
            unsafe { bindings::filemap_map_pages(self.as_raw(), start, start + pages - 1) };
        let done = reason & bindings::vm_fault_reason_VM_FAULT_NOPAGE != 0;
        done.then_some(Installed(reason, PhantomData))
    }

    /// Whether user space tracks single pages by userfaultfd.
    fn is_tracked(&self) -> bool {
        // SAFETY: The VMA is valid and locked by the type invariant.
        unsafe { helpers::abstractions_helper_uffd_disable_fault_around(self.vma()) }
    }

    /// Maps the touched page alone where another page of its folio is bad, which is so where it went bad while somebody held
    /// the folio, so that it could not be split: `finish_fault()` looks at the touched page only, and then maps all of them.
    /// `None` where it does right.
    ///
    /// Mirrors `vmf_insert_page_mkwrite()`. May sleep.
    fn map_alone(&self, folio: &LockedFolio) -> Option<bindings::vm_fault_t> {
        if !folio.is_poisoned() || folio.is_page_poisoned(self.index()) {
            return None;
        }
        // Of a page that is copied, or of a VMA that is tracked, the C side maps one.
        if self.is_copy_on_write() || self.is_tracked() {
            return None;
        }
        // SAFETY: The fault is valid by the type invariant, and so is its entry.
        if unsafe { helpers::abstractions_helper_pmd_trans_huge((*self.as_raw()).pmd) } {
            // Mapped as a whole meanwhile, before it went bad; so the touch does not come again.
            return Some(bindings::vm_fault_reason_VM_FAULT_NOPAGE);
        }
        // A table for it is allocated under the folio's lock, which is not to wait for write-back of other folios: who does
        // that may wait for this lock.
        let _scope = WriteBackScope::enter();
        // SAFETY: As above, the page is one of a folio of the file that is locked and referenced, and there is no huge page in
        // the place of its table: only of this folio could there be one. Where a first write is to be noted, the protection of
        // the VMA allows none, and it comes again.
        let reason = unsafe {
            bindings::vmf_insert_page_mkwrite(self.as_raw(), folio.page_at(self.index()), false)
        };
        // Somebody may have taken the table away meanwhile, as it was empty, of which that makes the same as of no memory.
        // The touch comes again; and where there is no memory at all, that is told when a table is set aside for it, before it
        // comes here.
        if reason & bindings::vm_fault_reason_VM_FAULT_OOM != 0 {
            return Some(bindings::vm_fault_reason_VM_FAULT_NOPAGE);
        }
        Some(reason)
    }

    /// Puts the answer of a handler into the form that the C side wants. What is to be found or read is: `found` is
    /// called with what came of that, unless the touch comes again.
    pub(super) fn finish(
        &self,
        outcome: FaultOutcome<'_>,
        found: impl FnOnce(Option<Failure>),
    ) -> bindings::vm_fault_t {
        let folio = match outcome {
            FaultOutcome::Present(folio) => folio,
            FaultOutcome::Done(Installed(reason, _)) => return reason,
            FaultOutcome::FindOrRead if !self.is_read_from_somewhere() => {
                kernel::pr_warn_once!("a fault handler wants a page read that is stored nowhere\n");
                return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
            }
            FaultOutcome::FindOrRead => {
                // SAFETY: The fault is valid, and the file it is in maps an `AddressSpace`, which has `read_folio`.
                let mut reason = unsafe { bindings::filemap_fault(self.as_raw()) };
                if reason & bindings::vm_fault_reason_VM_FAULT_LOCKED != 0 {
                    // SAFETY: By this answer the fault has a page, with a reference to it and the lock of its folio.
                    let folio = unsafe {
                        let page = (*self.as_raw()).page;
                        let folio = helpers::abstractions_helper_page_folio(page);
                        LockedFolio::from_raw(NonNull::new_unchecked(folio))
                    };
                    if let Some(mapped) = self.map_alone(&folio) {
                        // SAFETY: The fault is valid. Its reference and its lock go with `folio`.
                        unsafe { (*self.as_raw()).page = core::ptr::null_mut() };
                        reason = mapped | reason & bindings::vm_fault_reason_VM_FAULT_MAJOR;
                    } else {
                        folio.into_raw();
                    }
                }
                // If it is to be repeated, the lock is gone by now, and with it what the fault and the file are in.
                if reason & bindings::vm_fault_reason_VM_FAULT_RETRY == 0 {
                    found(Installed(reason, PhantomData).failure());
                }
                return reason;
            }
            FaultOutcome::OutOfMemory => return bindings::vm_fault_reason_VM_FAULT_OOM,
            FaultOutcome::BusError => return bindings::vm_fault_reason_VM_FAULT_SIGBUS,
        };
        // A folio of another file or another place, or one whose content is not there yet, would give the
        // program memory that is not its own, and the file could never take it back.
        if !folio.holds(self.mapping(), self.index()) || !folio.is_uptodate() {
            kernel::pr_warn_once!("a fault handler gave a folio that is not the page's\n");
            return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
        }
        if let Some(reason) = self.map_alone(&folio) {
            return reason;
        }
        let page = folio.page_at(self.index());
        folio.into_raw();
        // SAFETY: The fault is valid by the type invariant. The C side takes over the reference to the
        // page and its lock, as `VM_FAULT_LOCKED` says.
        unsafe { (*self.as_raw()).page = page };
        bindings::vm_fault_reason_VM_FAULT_LOCKED
    }
}

/// A touch of a page that may be in memory, with the pages around it that the kernel would have mapped as well.
///
/// # Invariants
///
/// The fault is being handled by `map_pages`, under RCU, in a VMA as that of a [`PageFault`], and the pages lie in that
/// and its page table.
pub(crate) struct PageAround<'a> {
    fault: &'a VmFault,
    first: c_ulong,
    last: c_ulong,
}

impl<'a> PageAround<'a> {
    /// # Safety
    ///
    /// The arguments must be those of a `map_pages` handler that is running for `'a`, in a VMA as that of a [`PageFault`].
    pub(super) unsafe fn new(fault: &'a VmFault, first: c_ulong, last: c_ulong) -> Self {
        // INVARIANT: By the requirements of this function.
        Self { fault, first, last }
    }

    // No `Deref`, as in `HugeFault`: most of what a fault can do sleeps.

    /// Returns the index of the touched page, see [`VmFault::index`].
    pub(crate) fn index(&self) -> usize {
        self.fault.index()
    }

    /// Maps what is in the page cache; `None` where the touched page is not. Mirrors `filemap_map_pages()`, as which it
    /// maps for reading only what is not dirty yet.
    pub(crate) fn map(&self) -> Option<Installed<'a>> {
        // SAFETY: By the type invariants.
        let reason =
            unsafe { bindings::filemap_map_pages(self.fault.as_raw(), self.first, self.last) };
        let done = reason & bindings::vm_fault_reason_VM_FAULT_NOPAGE != 0;
        done.then_some(Installed(reason, PhantomData))
    }
}

/// A first write to a page that is mapped for reading only so that it be noted.
///
/// # Invariants
///
/// The fault is being handled by `page_mkwrite`.
pub(crate) struct FirstWrite<'a>(&'a VmFault);

impl<'a> FirstWrite<'a> {
    /// # Safety
    ///
    /// `fault` must be that of a `page_mkwrite` handler that is running for `'a`.
    pub(super) unsafe fn new(fault: &'a VmFault) -> Self {
        // INVARIANT: By the requirements of this function.
        Self(fault)
    }

    /// Returns the index of the page, see [`VmFault::index`].
    pub(crate) fn index(&self) -> usize {
        self.0.index()
    }

    /// Marks the page's folio dirty, so that it is written back, or has the touch looked at anew where it has left the
    /// page cache. Where the folio is locked, or has to stay as it is while it is written, gives the touch back, for
    /// [`Self::wait`].
    ///
    /// Mirrors `filemap_page_mkwrite()`, which waits instead, so that nobody can be killed: the file that is written to
    /// may want a lock that the one who touches holds. Nor is there anything to freeze in the page cache's own file
    /// system, and what its node is on has nothing to do with it: the times of that stay as they are, see
    /// [`FileOperations::open`]. Does not wait.
    ///
    /// [`FileOperations::open`]: super::file_operations::FileOperations::open
    pub(super) fn try_mark_dirty(self) -> Result<Installed<'a>, Self> {
        let (mapping, folio) = (self.0.mapping(), self.folio());
        // SAFETY: The folio is referenced, by the caller of the handler.
        if !unsafe { helpers::abstractions_helper_folio_trylock(folio.as_ptr()) } {
            return Err(self);
        }
        // SAFETY: As above, so that another reference can be had; the lock was just taken.
        let folio = unsafe {
            helpers::abstractions_helper_folio_get(folio.as_ptr());
            LockedFolio::from_raw(folio)
        };
        if !folio.holds(mapping, self.index()) {
            return Ok(self.come_again());
        }
        if self.is_stable() && folio.is_under_write_back() {
            return Err(self);
        }
        folio.mark_dirty();
        // The lock goes to the caller, who has a reference of their own.
        folio.keep_locked();
        Ok(Installed(
            bindings::vm_fault_reason_VM_FAULT_LOCKED,
            PhantomData,
        ))
    }

    /// Waits until the page's folio is neither locked nor, where that matters, being written, and has the touch looked at
    /// anew; refuses it where who touches is killed meanwhile. No lock of the page cache may be held. Sleeps.
    pub(super) fn wait(self) -> Installed<'a> {
        let folio = self.folio().as_ptr();
        // SAFETY: The folio is referenced, by the caller of the handler.
        let error = unsafe {
            match helpers::abstractions_helper_folio_wait_locked_killable(folio) {
                0 if self.is_stable() => bindings::folio_wait_writeback_killable(folio),
                error => error,
            }
        };
        if error == 0 {
            self.come_again()
        } else {
            self.refuse()
        }
    }

    fn folio(&self) -> NonNull<bindings::folio> {
        // SAFETY: By the type invariant there is a page, and a page is in a folio.
        unsafe {
            let folio = helpers::abstractions_helper_page_folio((*self.0.as_raw()).page);
            NonNull::new_unchecked(folio)
        }
    }

    /// Returns whether pages have to stay as they are while they are written.
    fn is_stable(&self) -> bool {
        // SAFETY: The address space is alive while it is mapped.
        unsafe { helpers::abstractions_helper_mapping_stable_writes(self.0.mapping()) }
    }

    /// Has the touch looked at anew.
    pub(super) fn come_again(self) -> Installed<'a> {
        self.0.come_again()
    }

    /// Refuses it: `SIGBUS`.
    pub(super) fn refuse(self) -> Installed<'a> {
        Installed(bindings::vm_fault_reason_VM_FAULT_SIGBUS, PhantomData)
    }
}

/// What a program has said about huge pages in a mapping.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum HugePageAdvice {
    /// Nothing.
    None,
    /// It wants them: `MADV_HUGEPAGE`.
    For,
    /// It wants none: `MADV_NOHUGEPAGE`, or `prctl(PR_SET_THP_DISABLE)` for all of the program.
    Against,
}

/// What a fault handler answers, mirroring `enum vm_fault_reason`.
///
/// There is no "retry": that answer means that the handler has let go of a lock that its caller took,
/// which only the kernel's own functions do.
pub(crate) enum FaultOutcome<'a> {
    /// The page is in memory: map it, and the rest of its folio.
    Present(LockedFolio),
    /// The kernel's own function has answered the fault.
    Done(Installed<'a>),
    /// The page is to be found in the page cache of the file, or read there, ahead of more of the same where a program
    /// reads on. [`VmOperations::found`] is called afterwards.
    ///
    /// A touch that waits for a page can be killed. A page that cannot be read is `SIGBUS`, and so is one beyond the
    /// end. Mirrors `filemap_fault()`, which sleeps.
    ///
    /// In a mapping of a [`PageCache`] it is `SIGBUS`: the kernel looks at the size before it locks the page cache, and so
    /// may read ahead beyond an end that has moved, in folios that must not be there, see [`WriteGuard::set_size`].
    ///
    /// [`VmOperations::found`]: super::vm_operations::VmOperations::found
    /// [`PageCache`]: super::page_cache::PageCache
    /// [`WriteGuard::set_size`]: super::page_cache::WriteGuard::set_size
    FindOrRead,
    /// There is no memory for it; the out-of-memory handling decides.
    OutOfMemory,
    /// There is no such page: `SIGBUS`.
    BusError,
}

/// A fault that could be answered with one huge page-table entry (a PMD, 2 MiB on x86-64).
///
/// # Invariants
///
/// - What a PMD entry at the touched address would cover lies within the VMA, at an index of the file
///   that is a multiple of its size.
/// - It is no write to a private mapping.
/// - The VMA is one as in [`PageFault`].
pub(crate) struct HugeFault<'a>(&'a PageFault);

impl<'a> HugeFault<'a> {
    /// Checks whether the fault can be answered so; `None` means that it has to be taken page by page.
    pub(super) fn new(fault: &'a PageFault, order: u32) -> Option<Self> {
        let can = order == PMD_ORDER && !fault.is_copy_on_write() && fault.fits(order);
        // INVARIANT: Checked here.
        can.then_some(Self(fault))
    }

    // No `Deref`: what answers a fault page by page is no answer to this one.

    /// Returns the index of the touched page, see [`VmFault::index`].
    pub(crate) fn index(&self) -> usize {
        self.0.index()
    }

    /// Returns what the program has said, see [`VmFault::huge_page_advice`].
    pub(crate) fn huge_page_advice(&self) -> HugePageAdvice {
        self.0.huge_page_advice()
    }

    /// Returns how the fault came, see [`VmFault::is_under_vma_lock`].
    pub(crate) fn is_under_vma_lock(&self) -> bool {
        self.0.is_under_vma_lock()
    }

    /// Maps a whole folio with one entry.
    ///
    /// Falls back to single pages where the folio is not of that size, is not the one at this place of
    /// the file, reaches beyond the file's end, or has bad memory in it; and where something is mapped there
    /// by now, be it single pages or the same folio write-protected. Mirrors `vmf_insert_folio_pmd()`.
    pub(crate) fn insert(&self, folio: &LockedFolio) -> HugeFaultOutcome<'a> {
        if !self.can_insert(folio, self.index()) {
            return HugeFaultOutcome::Fallback;
        }
        // What is there already, a page table or this folio write-protected, is for the single page's fault.
        // SAFETY: The fault is valid by the type invariant.
        if !unsafe { helpers::abstractions_helper_pmd_none((*self.0.as_raw()).pmd) } {
            return HugeFaultOutcome::Fallback;
        }
        // Said to be for a read, even if it is for a write. Where it may be, the entry is writable all the
        // same, by the protection of the shared mapping, and the CPU marks it dirty. For a write the C
        // function would take an entry that has come since the check for this folio's, and complain if it
        // is not: a page table, say, which can be installed without the folio's lock.
        const WRITE: bool = false;
        // SAFETY: The fault is valid. The folio is locked, of PMD size, and in the mapped file at the
        // index that belongs to the touched address; by the type invariants the entry stays within the
        // VMA, which is of a kind that can have it.
        let reason =
            unsafe { bindings::vmf_insert_folio_pmd(self.0.as_raw(), folio.as_raw(), WRITE) };
        HugeFaultOutcome::Done(Installed(reason, PhantomData))
    }

    /// Maps what is in memory of the other huge pages in the window of `2^order` huge pages of the file around
    /// the touched one, each with one entry, where that can be done without waiting for anything.
    ///
    /// What [`PageFault::map_resident`] is to small pages: a touch of theirs needs no fault then. Nothing is
    /// mapped where user space tracks single pages by userfaultfd. Does not sleep.
    pub(crate) fn insert_resident_neighbours(&self, order: u32) {
        if self.0.is_tracked() {
            return;
        }
        for mut neighbour in self.0.huge_neighbours(order) {
            self.insert_resident(&mut neighbour);
        }
    }

    /// Maps a huge page beside the touched one, unless its folio is not there, or something is in the way: an entry, or the
    /// folio's lock.
    fn insert_resident(&self, neighbour: &mut HugeNeighbour<'_>) {
        let (mapping, index) = (self.0.mapping(), neighbour.index());
        // SAFETY: The VMA keeps the mapped file, and that its address space.
        let found = unsafe { helpers::abstractions_helper_filemap_trylock_folio(mapping, index) };
        let Some(found) = from_err_ptr(found).ok().and_then(NonNull::new) else {
            return;
        };
        // SAFETY: A returned folio comes with a reference and its lock.
        let folio = unsafe { LockedFolio::from_raw(found) };
        if self.can_insert(&folio, index) {
            // SAFETY: As in `insert`, for the neighbour, by its type invariant. If there is something by now, that stays.
            unsafe { bindings::vmf_insert_folio_pmd(neighbour.as_raw(), folio.as_raw(), false) };
        }
    }

    /// Returns whether a folio is one that a single entry may map for page `index` of the file: the whole of it
    /// is in the file, and good.
    fn can_insert(&self, folio: &LockedFolio, index: usize) -> bool {
        folio.order() == PMD_ORDER
            && folio.holds(self.0.mapping(), index)
            && folio.is_uptodate()
            && !folio.is_poisoned()
            && folio.index() + (1 << PMD_ORDER) <= self.0.pages_in_file()
    }
}

/// What a handler for huge faults answers.
pub(crate) enum HugeFaultOutcome<'a> {
    /// The kernel's own function has answered the fault.
    Done(Installed<'a>),
    /// Take the fault page by page. If something is wrong, that is the place to say so.
    Fallback,
}

impl HugeFaultOutcome<'_> {
    /// Returns whether the fault is answered.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }

    /// Puts the answer into the form that the C side wants.
    pub(super) fn into_reason(self) -> bindings::vm_fault_t {
        match self {
            Self::Done(Installed(reason, _)) => reason,
            Self::Fallback => bindings::vm_fault_reason_VM_FAULT_FALLBACK,
        }
    }
}

/// Proof that a function of the kernel has dealt with the page tables for the fault `'a`, with its answer in
/// it.
///
/// To claim so without it having happened would fault for ever.
pub(crate) struct Installed<'a>(bindings::vm_fault_t, PhantomData<&'a VmFault>);

impl Installed<'_> {
    /// # Safety
    ///
    /// `reason` must be the answer of a function of the kernel's to the fault.
    pub(super) unsafe fn new(reason: bindings::vm_fault_t) -> Self {
        Self(reason, PhantomData)
    }

    /// Returns why there is no page, if so; `None` where there is, or where the touch is to be repeated.
    pub(crate) fn failure(&self) -> Option<Failure> {
        if self.0 & bindings::vm_fault_reason_VM_FAULT_OOM != 0 {
            Some(Failure::OutOfMemory)
        } else if self.0
            & (bindings::vm_fault_reason_VM_FAULT_SIGBUS
                | bindings::vm_fault_reason_VM_FAULT_SIGSEGV
                | bindings::vm_fault_reason_VM_FAULT_HWPOISON)
            != 0
        {
            Some(Failure::BusError)
        } else {
            None
        }
    }

    /// Puts the answer into the form that the C side wants.
    pub(super) fn into_reason(self) -> bindings::vm_fault_t {
        self.0
    }
}

/// Why a page cannot be had.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There is no memory for it.
    OutOfMemory,
    /// There is none, or it cannot be read.
    BusError,
}

#[cfg(not(CONFIG_TRANSPARENT_HUGEPAGE))]
compile_error!("huge faults need CONFIG_TRANSPARENT_HUGEPAGE");

/// The order of a folio that one PMD entry maps: 9 on x86-64, for 2 MiB.
pub(crate) const PMD_ORDER: u32 = bindings::HPAGE_PMD_ORDER;

/// Bytes that one PMD entry maps.
pub(crate) const PMD_SIZE: usize = PAGE_SIZE << PMD_ORDER;

/// Bytes that the entries of one table of PMD entries map.
const PMD_TABLE_SIZE: usize = PMD_SIZE * bindings::PTRS_PER_PMD as usize;

#[kunit_tests(abstractions_vm_fault)]
mod tests {
    use super::super::page_cache::{PageCache, Unwritten};
    use super::super::pseudo_fs::{PseudoFsType, PseudoMount};
    use super::*;
    use core::mem::MaybeUninit;
    use kernel::sync::Arc;

    static FILE_SYSTEM: PseudoFsType = PseudoFsType::new(c"kunit_vm_fault", 0x6b75_6e69);

    /// What a fault looks at, all zeros but for what a test sets.
    struct Scene {
        fault: bindings::vm_fault,
        vma: KBox<MaybeUninit<bindings::vm_area_struct>>,
        file: KBox<MaybeUninit<bindings::file>>,
    }

    impl Scene {
        /// Makes one of a touch of page `index` of a file at an address, in a VMA from `start` to `end`.
        fn new(index: usize, address: usize, start: usize, end: usize) -> Result<Self> {
            let mut scene = Self {
                // SAFETY: All zeros are a valid one.
                fault: unsafe { MaybeUninit::zeroed().assume_init() },
                vma: KBox::new(MaybeUninit::zeroed(), GFP_KERNEL)?,
                file: KBox::new(MaybeUninit::zeroed(), GFP_KERNEL)?,
            };
            let vma = scene.vma.as_mut_ptr();
            // SAFETY: It is there, and nobody else's.
            unsafe {
                (*vma).vm_file = scene.file.as_mut_ptr();
                (*vma).__bindgen_anon_1.__bindgen_anon_1.vm_start = start;
                (*vma).__bindgen_anon_1.__bindgen_anon_1.vm_end = end;
            }
            scene.fault.__bindgen_anon_1.vma = vma;
            scene.fault.__bindgen_anon_1.address = address;
            scene.fault.__bindgen_anon_1.pgoff = index;
            Ok(scene)
        }

        fn fault(&mut self) -> &PageFault {
            // SAFETY: As far as the tests look at it, it is one.
            unsafe { PageFault::from_raw(&raw mut self.fault) }
        }
    }

    #[test]
    fn a_page_that_is_stored_nowhere_is_not_read() -> Result {
        let mount = Arc::new(PseudoMount::new(&FILE_SYSTEM)?, GFP_KERNEL)?;
        let cache = PageCache::new_in_memory(mount, PAGE_SIZE as u64, true, Unwritten);
        let cache = KBox::pin_init(cache, GFP_KERNEL)?;
        let mut scene = Scene::new(0, PMD_SIZE, PMD_SIZE, PMD_SIZE + PAGE_SIZE)?;
        // SAFETY: It is there, and nobody else's.
        unsafe { (*scene.file.as_mut_ptr()).f_mapping = cache.as_raw() };
        let mut was_found = false;
        let find_or_read = FaultOutcome::FindOrRead;
        let reason = scene.fault().finish(find_or_read, |_| was_found = true);
        assert_eq!(reason, bindings::vm_fault_reason_VM_FAULT_SIGBUS);
        assert!(!was_found);
        assert_eq!(cache.resident_bytes(), 0);
        Ok(())
    }

    #[test]
    fn an_entry_fits_where_all_that_it_maps_is_inside_and_aligned() -> Result {
        const PAGES: usize = 1 << PMD_ORDER;
        let (start, end) = (4 * PMD_SIZE, 6 * PMD_SIZE);
        let fits = |index, address, start, end| {
            Ok::<bool, Error>(
                Scene::new(index, address, start, end)?
                    .fault()
                    .fits(PMD_ORDER),
            )
        };
        assert!(fits(0, start, start, end)?);
        assert!(fits(PAGES + 5, start + 5 * PAGE_SIZE, start, end)?);
        assert!(fits(2 * PAGES - 1, end - PAGE_SIZE, start, end)?);
        assert!(!fits(1, start, start, end)?);
        assert!(!fits(5, start + 6 * PAGE_SIZE, start, end)?);
        assert!(!fits(1, start + PAGE_SIZE, start + PAGE_SIZE, end)?);
        assert!(!fits(PAGES, end - PMD_SIZE, start, end - PAGE_SIZE)?);
        Ok(())
    }
}
