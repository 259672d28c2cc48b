// SPDX-License-Identifier: GPL-2.0

//! Folios: physically, virtually and logically contiguous memory, the unit of the page cache.
//!
//! A folio is in one of three states here, each a type:
//!
//! - [`NewFolio`]: fresh from the allocator, seen by nobody else. Only here may its content be set up
//!   without a lock.
//! - [`Folio`]: referenced. It stays allocated, but may leave the page cache at any moment.
//! - [`LockedFolio`]: referenced and locked. It stays where it is in the page cache.
//!
//! The bytes of a folio in a page cache belong to user space, which writes them at any time through
//! its mappings. So they are never shown as a Rust slice: they are copied to and from user memory by
//! the kernel's own routines, or overwritten with zeros.
//!
//! C headers: [`include/linux/mm_types.h`](srctree/include/linux/mm_types.h),
//! [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h)

use super::helpers;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::iov::IovIterDest;
use kernel::page::PAGE_SHIFT;
use kernel::prelude::*;
use kernel::sync::aref::{ARef, AlwaysRefCounted};
use kernel::types::Opaque;

/// A referenced folio, mirroring `struct folio`.
///
/// # Invariants
///
/// The folio's reference count is above zero for the lifetime of the reference to it.
#[repr(transparent)]
pub(crate) struct Folio(Opaque<bindings::folio>);

// SAFETY: A folio may be used and freed from any thread.
unsafe impl Send for Folio {}
// SAFETY: The methods by shared reference either read what is fixed while a reference is held, or
// call C functions that may run side by side.
unsafe impl Sync for Folio {}

// SAFETY: `folio_get()` and `folio_put()` count the references of a folio, and it is freed when they
// are gone.
unsafe impl AlwaysRefCounted for Folio {
    fn inc_ref(&self) {
        // SAFETY: The reference shows that the folio is alive.
        unsafe { helpers::abstractions_helper_folio_get(self.as_raw()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up a reference that it owns.
        unsafe { helpers::abstractions_helper_folio_put(obj.cast().as_ptr()) };
    }
}

impl Folio {
    /// Takes over a reference that a C function has returned.
    ///
    /// # Safety
    ///
    /// `folio` must be valid, and the caller must own a reference to it, which it gives up.
    pub(super) unsafe fn from_raw(folio: NonNull<bindings::folio>) -> ARef<Self> {
        // SAFETY: `Folio` is transparent over `struct folio`, and the caller gives its reference.
        unsafe { ARef::from_raw(folio.cast()) }
    }

    /// Makes a reference from a pointer.
    ///
    /// # Safety
    ///
    /// `folio` must be valid, with a reference to it, for `'a`.
    pub(super) unsafe fn borrow<'a>(folio: *mut bindings::folio) -> &'a Self {
        // SAFETY: The type is transparent, and the caller promises the rest.
        unsafe { &*folio.cast() }
    }

    /// Returns the raw pointer.
    pub(super) fn as_raw(&self) -> *mut bindings::folio {
        self.0.get()
    }

    /// Returns the number of bytes in the folio: a power of two, at least one page.
    pub(crate) fn size(&self) -> usize {
        // SAFETY: The folio is alive by the type invariant. Its size is fixed: a folio is split only
        // when there is no reference to it but those of the page cache and the page tables.
        unsafe { helpers::abstractions_helper_folio_size(self.as_raw()) }
    }

    /// Returns the base-two logarithm of the number of pages in the folio.
    pub(crate) fn order(&self) -> u32 {
        // SAFETY: As in `size`.
        unsafe { helpers::abstractions_helper_folio_order(self.as_raw()) }
    }

    /// Returns the number of the first page frame of the folio.
    ///
    /// It tells where in the machine's memory the bytes are: show it to privileged users only.
    pub(crate) fn frame(&self) -> usize {
        // SAFETY: The folio is alive by the type invariant, and a folio never moves.
        unsafe { helpers::abstractions_helper_folio_pfn(self.as_raw()) }
    }

    /// Returns the index, in pages from the start of its file, of the folio's first page.
    ///
    /// Only meaningful while the folio is in a page cache.
    pub(crate) fn index(&self) -> usize {
        // SAFETY: The folio is alive by the type invariant; the field is a plain word that C code
        // reads without a lock as well.
        unsafe {
            let inner = &raw const (*self.as_raw()).__bindgen_anon_1.__bindgen_anon_1;
            (&raw const (*inner).__bindgen_anon_2.index).read_volatile()
        }
    }

    /// Returns the offset in its file of the folio's first byte; see [`Self::index`].
    pub(crate) fn start(&self) -> u64 {
        (self.index() as u64) << PAGE_SHIFT
    }

    /// Returns the offset in its file after the folio's last byte; see [`Self::index`].
    pub(crate) fn end(&self) -> u64 {
        self.start() + self.size() as u64
    }

    /// Returns whether the content is there, which every reader must check first.
    ///
    /// Mirrors `folio_test_uptodate()`: whoever sees `true` also sees the content.
    pub(crate) fn is_uptodate(&self) -> bool {
        // SAFETY: The folio is alive by the type invariant.
        unsafe { helpers::abstractions_helper_folio_test_uptodate(self.as_raw()) }
    }

    /// Returns whether somebody has the folio locked at this moment. Mirrors `folio_test_locked()`.
    pub(super) fn is_locked(&self) -> bool {
        // SAFETY: The folio is alive by the type invariant.
        unsafe { helpers::abstractions_helper_folio_test_locked(self.as_raw()) }
    }

    /// Returns whether it is being written back at this moment. Mirrors `folio_test_writeback()`.
    pub(super) fn is_under_write_back(&self) -> bool {
        // SAFETY: The folio is alive by the type invariant.
        unsafe { helpers::abstractions_helper_folio_test_writeback(self.as_raw()) }
    }

    /// Returns whether somebody may have it pinned, for a device to write to, say. Mirrors `folio_maybe_dma_pinned()`, which
    /// may be wrong about a folio that has many references.
    pub(super) fn may_be_pinned(&self) -> bool {
        // SAFETY: The folio is alive by the type invariant.
        unsafe { helpers::abstractions_helper_folio_maybe_dma_pinned(self.as_raw()) }
    }

    /// Returns whether it was changed since it was last written back. Mirrors `folio_test_dirty()`.
    pub(super) fn is_dirty(&self) -> bool {
        // SAFETY: The folio is alive by the type invariant.
        unsafe { helpers::abstractions_helper_folio_test_dirty(self.as_raw()) }
    }

    /// Returns whether the machine has reported bad memory in the folio.
    ///
    /// Mirrors `folio_contain_hwpoisoned_page()`.
    pub(crate) fn is_poisoned(&self) -> bool {
        // SAFETY: The folio is alive by the type invariant.
        unsafe { helpers::abstractions_helper_folio_contain_hwpoisoned_page(self.as_raw()) }
    }

    /// Returns whether it is the page at `index` of the file whose memory is bad. The folio must hold that
    /// page; for another index the answer is that of some other page of the folio.
    ///
    /// Mirrors `PageHWPoison()`.
    pub(crate) fn is_page_poisoned(&self, index: usize) -> bool {
        // SAFETY: The folio is alive by the type invariant. The function takes the index modulo its size.
        unsafe { helpers::abstractions_helper_folio_page_hwpoison(self.as_raw(), index) }
    }

    /// Copies bytes of the folio out, and returns how many the destination took.
    ///
    /// Starts `offset` bytes into the folio and copies at most `len` bytes, never beyond the folio.
    /// Fewer come where the destination is full or its memory cannot be written to. Fails with `EIO` where the content is
    /// not there, see [`Self::is_uptodate`]: what is in memory then is whatever somebody else has left.
    ///
    /// May sleep and may fault on user memory: hold no lock that a page fault takes.
    pub(crate) fn copy_to_iter(
        &self,
        offset: usize,
        len: usize,
        iter: &mut IovIterDest<'_>,
    ) -> Result<usize> {
        if !self.is_uptodate() {
            return Err(EIO);
        }
        let size = self.size();
        if offset >= size {
            return Ok(0);
        }
        let len = len.min(size - offset);
        // SAFETY: The folio is alive, the range lies within it and was seen to have its content, which no folio loses, and
        // the iterator is valid by its type.
        Ok(unsafe {
            helpers::abstractions_helper_copy_folio_to_iter(
                self.as_raw(),
                offset,
                len,
                iter.as_raw(),
            )
        })
    }
}

/// A folio that nobody else has seen yet, full of zeros.
///
/// # Invariants
///
/// The caller owns the only reference, the folio is in no page cache, and all its bytes are zero.
pub(crate) struct NewFolio(ARef<Folio>);

impl NewFolio {
    /// Allocates a folio of `2^order` pages, zeroed.
    ///
    /// Mirrors `filemap_alloc_folio()`. May sleep if `gfp` allows it. Fails with `ENOMEM`; for an
    /// order above zero that is a thing to expect on a machine whose memory is fragmented.
    pub(super) fn zeroed(order: u32, gfp: bindings::gfp_t) -> Result<Self> {
        let gfp = gfp | bindings::__GFP_ZERO;
        // SAFETY: The function takes any order and flags, and a null memory policy is the task's own.
        let folio =
            unsafe { bindings::filemap_alloc_folio_noprof(gfp, order, core::ptr::null_mut()) };
        let folio = NonNull::new(folio).ok_or(ENOMEM)?;
        // SAFETY: The allocator gives the only reference to the caller.
        let folio = unsafe { Folio::from_raw(folio) };
        // SAFETY: The folio is alive; its content is there: zeros.
        unsafe { helpers::abstractions_helper_folio_mark_uptodate(folio.as_raw()) };
        // INVARIANT: Just allocated with `__GFP_ZERO`, and shown to nobody.
        Ok(Self(folio))
    }

    /// Returns the raw pointer.
    pub(super) fn as_raw(&self) -> *mut bindings::folio {
        self.0.as_raw()
    }

    /// Gives up the state of being new: the page cache has taken the folio and locked it.
    ///
    /// # Safety
    ///
    /// `filemap_add_folio()` must have succeeded for this folio.
    pub(super) unsafe fn into_locked(self) -> LockedFolio {
        // INVARIANT: `filemap_add_folio()` leaves the folio locked for its caller.
        LockedFolio(self.0)
    }
}

/// A folio in a page cache, referenced and locked; dropping it unlocks.
///
/// While it is locked it is not truncated, migrated, split or reclaimed.
///
/// # Invariants
///
/// The folio is locked, and this value owns the lock.
pub(crate) struct LockedFolio(ARef<Folio>);

impl LockedFolio {
    /// Takes over a reference and the lock.
    ///
    /// # Safety
    ///
    /// The caller must own a reference to `folio` and its lock, and give up both.
    pub(super) unsafe fn from_raw(folio: NonNull<bindings::folio>) -> Self {
        // INVARIANT: By the requirements of this function.
        // SAFETY: By the requirements of this function.
        Self(unsafe { Folio::from_raw(folio) })
    }

    /// Gives up the reference, and leaves the lock to whoever else has one.
    ///
    /// Who that is has to unlock it: else it stays locked for ever, which is not unsafe.
    pub(super) fn keep_locked(self) {
        let this = ManuallyDrop::new(self);
        // SAFETY: The value is not used again, so that its reference can be given up.
        drop(unsafe { core::ptr::read(&this.0) });
    }

    /// Gives the reference and the lock to C code.
    pub(super) fn into_raw(self) -> *mut bindings::folio {
        let this = ManuallyDrop::new(self);
        this.0.as_raw()
    }

    /// Returns whether the folio holds the page at `index` of the given page cache.
    ///
    /// The answer stays true for as long as the folio is locked.
    pub(super) fn holds(&self, mapping: *mut bindings::address_space, index: usize) -> bool {
        // SAFETY: The folio is alive and locked, so that its mapping does not change.
        let owner = unsafe { (*self.as_raw()).__bindgen_anon_1.__bindgen_anon_1.mapping };
        let first = self.index();
        owner == mapping && index >= first && index - first < self.size() >> PAGE_SHIFT
    }

    /// Returns the `struct page` for a page index of the file.
    ///
    /// The index must be one that the folio holds; see [`Self::holds`].
    pub(super) fn page_at(&self, index: usize) -> *mut bindings::page {
        // SAFETY: The folio is alive. The function takes the index modulo the folio's size.
        unsafe { helpers::abstractions_helper_folio_file_page(self.as_raw(), index) }
    }

    /// Overwrites the folio with zeros and marks its content as there.
    pub(crate) fn zero_fill(&self) {
        // SAFETY: The folio is alive and locked, so that its size is fixed, and the range is all of
        // it. Its bytes are user data, which Rust code has no references to.
        unsafe {
            helpers::abstractions_helper_folio_zero_range(self.as_raw(), 0, self.size());
            helpers::abstractions_helper_folio_mark_uptodate(self.as_raw());
        }
    }
}

impl LockedFolio {
    /// Marks the folio as changed since it was last written back, or, where there is nothing to write
    /// back to, as worth keeping: what is clean is taken for something that can be had again, and dropped where
    /// that is of use.
    ///
    /// Does nothing where the content is not there, see [`Folio::is_uptodate`]: what is in memory then must get into no
    /// file. Mirrors `folio_mark_dirty()`.
    pub(crate) fn mark_dirty(&self) {
        if !self.is_dirty() && self.is_uptodate() {
            // SAFETY: The folio is alive and locked; nobody marks it clean meanwhile.
            unsafe { bindings::folio_mark_dirty(self.as_raw()) };
        }
    }
}

impl Deref for LockedFolio {
    type Target = Folio;

    fn deref(&self) -> &Folio {
        &self.0
    }
}

impl Drop for LockedFolio {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this value owns the lock.
        unsafe { bindings::folio_unlock(self.as_raw()) };
    }
}

#[kunit_tests(abstractions_folio)]
mod tests {
    use super::*;

    #[test]
    fn a_new_one_has_the_size_that_was_asked_for() -> Result {
        for order in [0, 1, 4, 9] {
            let new = NewFolio::zeroed(order, bindings::GFP_KERNEL)?;
            let folio = &new.0;
            assert_eq!(
                (folio.order(), folio.size()),
                (order, (1 << order) << PAGE_SHIFT)
            );
            // The allocator's pieces lie at multiples of their size.
            assert_eq!(folio.frame() % (1 << order), 0);
            assert!(folio.is_uptodate() && !folio.is_poisoned() && !folio.is_page_poisoned(0));
        }
        Ok(())
    }

    /// A folio that somebody has left bytes in, and nobody has filled since.
    fn unfilled() -> Result<ARef<Folio>> {
        // SAFETY: The function takes any order and flags, and a null memory policy is the task's own.
        let folio = unsafe {
            bindings::filemap_alloc_folio_noprof(bindings::GFP_KERNEL, 0, core::ptr::null_mut())
        };
        // SAFETY: The allocator gives the only reference to the caller.
        Ok(unsafe { Folio::from_raw(NonNull::new(folio).ok_or(ENOMEM)?) })
    }

    #[test]
    fn what_was_not_filled_is_not_copied_out() -> Result {
        let folio = unfilled()?;
        let mut bytes = [0x5a; 16];
        let vector = bindings::kvec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let copy = || {
            let mut iter = bindings::iov_iter::default();
            // SAFETY: The iterator is over the bytes above, which nobody else uses while it is there.
            let iter = unsafe {
                let direction = bindings::ITER_DEST;
                bindings::iov_iter_kvec(&raw mut iter, direction, &vector, 1, vector.iov_len);
                IovIterDest::from_raw(&raw mut iter)
            };
            folio.copy_to_iter(0, 16, iter)
        };
        assert_eq!(copy().err(), Some(EIO));
        assert!(bytes.iter().all(|&byte| byte == 0x5a));
        Ok(())
    }

    #[test]
    fn an_order_that_there_is_not_is_no_memory() -> Result {
        let gfp = bindings::GFP_KERNEL | bindings::__GFP_NOWARN;
        assert_eq!(NewFolio::zeroed(31, gfp).err(), Some(ENOMEM));
        Ok(())
    }

    #[test]
    fn a_folio_stays_until_its_last_reference_goes() -> Result {
        let new = NewFolio::zeroed(2, bindings::GFP_KERNEL)?;
        let (first, second) = (new.0.clone(), new.0.clone());
        let frame = new.0.frame();
        drop(new);
        drop(first);
        assert_eq!((second.frame(), second.order()), (frame, 2));
        Ok(())
    }
}
