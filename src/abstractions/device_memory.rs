// SPDX-License-Identifier: GPL-2.0

//! Memory that is a PCI device's own: opened, mapped by page frame and copied until it is revoked.
//!
//! C headers: [`include/linux/io.h`](srctree/include/linux/io.h),
//! [`include/linux/pgtable.h`](srctree/include/linux/pgtable.h)
//!
//! # The cache attribute
//!
//! A CPU must not see one piece of memory through two mappings that differ in how they are cached. The kernel keeps a
//! record of it on x86 (`arch/x86/mm/pat/memtype.c`), in which each mapping of the kernel's own makes an entry,
//! and that each entry in a page table of user space is made by. Here the kernel's mapping, [`Window`], is there for as
//! long as somebody has the memory open, and for as long says how all of it is mapped, by everybody.
//!
//! # Lock order
//!
//! As in [`super::page_cache`]. The invalidate lock of an address space that never has a page is held, shared, around
//! each look at whether the memory is there and what is done with it then: an entry in a page table, or a copy from or
//! to kernel memory. It is held exclusively to open, to close and to revoke.

use super::device_span::{Piece, Span, Width};
use super::helpers;
use super::page_cache::{
    AddressSpace, InvalidateGuard, InvalidateSharedGuard, PageCache, Unwritten, Wait, WriteGuard,
};
use super::pci_device::{Awake, ClaimedBar};
use super::pseudo_fs::PseudoMount;
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use kernel::device::Bound;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;
use kernel::{bindings, devres, pci};

/// How the CPU treats memory of a device, mirroring `enum page_cache_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum CacheMode {
    /// As it treats its own: for what is memory.
    WriteBack = 0,
    /// Writes are put together before they go out, and nothing is kept.
    WriteCombining = 1,
    /// Each access is one of the device: for registers.
    Uncached = 2,
}

/// How memory is to be cached when it is opened.
#[derive(Clone, Copy)]
pub(crate) enum Demand {
    /// So, or in the way in which somebody else has it already.
    Any(CacheMode),
    /// So and not otherwise.
    Exactly(CacheMode),
}

impl Demand {
    fn is_met_by(self, found: CacheMode) -> bool {
        match self {
            Self::Any(_) => true,
            Self::Exactly(mode) => mode == found,
        }
    }
}

/// Memory of a device.
///
/// # Invariants
///
/// `state` is only looked at with the invalidate lock of `cache` held, and changed with it held exclusively.
#[pin_data]
pub(crate) struct DeviceMemory {
    device: ARef<pci::Device>,
    span: Span,
    state: UnsafeCell<State>,
    /// It never has a page: it is there for who maps the memory to be found by, and for its lock.
    #[pin]
    cache: PageCache<Unwritten>,
}

// SAFETY: What is in it may be used and dropped on any thread.
unsafe impl Send for DeviceMemory {}
// SAFETY: By the type invariant `state` is locked, and the rest does not change.
unsafe impl Sync for DeviceMemory {}

enum State {
    /// The driver is bound, and `users` have it open.
    Present {
        users: usize,
        /// There while there are users.
        window: Option<Window>,
        // Dropped after the window.
        claim: ClaimedBar,
    },
    /// It is the driver's no more.
    Revoked,
}

/// The kernel's own mapping of all of the memory; dropping it unmaps it.
///
/// # Invariants
///
/// `address` is that of a mapping of `len` bytes, which are the claimed memory of a device that has power.
struct Window {
    address: NonNull<c_void>,
    len: usize,
    /// The one that it has.
    mode: CacheMode,
    // Dropped after the mapping is gone.
    _awake: Awake,
}

impl Window {
    /// Maps claimed memory. Mirrors `ioremap()` and its relatives. Sleeps.
    ///
    /// What it gets may be another mode than what it asks for: where somebody has mapped the memory without a claim
    /// (by sysfs, or `/dev/mem`), or where the firmware has set a stricter one (MTRRs). Fails with `ENOMEM`, also where
    /// somebody has a mode that is none instead of this.
    fn new(claim: &ClaimedBar, mode: CacheMode, awake: Awake) -> Result<Self> {
        let span = claim.bar().span();
        let len = usize::try_from(span.len())?;
        // SAFETY: The memory is claimed, so that there is no other use of it.
        let address =
            unsafe { helpers::abstractions_helper_ioremap(span.start(), len, mode as c_uint) };
        let address = NonNull::new(address).ok_or(ENOMEM)?;
        // SAFETY: It was just mapped so.
        let mode = match unsafe {
            helpers::abstractions_helper_ioremapped_mode(address.as_ptr(), mode as c_uint)
        } {
            mode if mode == CacheMode::WriteBack as c_uint => CacheMode::WriteBack,
            mode if mode == CacheMode::WriteCombining as c_uint => CacheMode::WriteCombining,
            _ => CacheMode::Uncached,
        };
        // INVARIANT: Just mapped.
        Ok(Self {
            address,
            len,
            mode,
            _awake: awake,
        })
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is mapped, and nobody uses it any more.
        unsafe { bindings::iounmap(self.address.as_ptr()) };
    }
}

impl DeviceMemory {
    /// Makes memory of a claimed BAR, which is revoked when the driver is unbound at the latest.
    ///
    /// Its inode is made on `mount`. May sleep. Fails with `EINVAL` where the claim is one of another device's or has ended, with
    /// `ENOMEM`, and with `EFBIG` where no file can have its size.
    pub(crate) fn new(
        device: &pci::Device<Bound>,
        claim: ClaimedBar,
        mount: Arc<PseudoMount>,
    ) -> Result<Arc<Self>> {
        let span = claim.bar().span();
        let owner = claim.device().clone();
        if !claim.is_of(device) {
            return Err(EINVAL);
        }
        let memory = Arc::pin_init(
            try_pin_init!(Self {
                device: owner,
                span,
                state: UnsafeCell::new(State::Present {
                    users: 0,
                    window: None,
                    claim,
                }),
                cache <- PageCache::new_in_memory(mount, span.len(), false, Unwritten),
            }? Error),
            GFP_KERNEL,
        )?;
        // Whatever becomes of the driver's data, this is done before the device is unbound.
        let revoke = RevokeOnUnbind(memory.clone());
        devres::register::<RevokeOnUnbind, Error>(device.as_ref(), Ok(revoke), GFP_KERNEL)?;
        Ok(memory)
    }

    /// Returns the address space that its files map, which has no pages.
    pub(crate) fn address_space(&self) -> &AddressSpace {
        &self.cache
    }

    /// Returns how many bytes there are.
    pub(crate) fn len(&self) -> u64 {
        self.span.len()
    }

    /// Returns where it is.
    pub(crate) fn span(&self) -> Span {
        self.span
    }

    /// Opens the memory: wakes the device, and maps it for the kernel where nobody has it open. Sleeps.
    ///
    /// Fails with `ENODEV` where it was revoked, with `EBUSY` where it cannot be cached in the way that is demanded, as
    /// somebody has it in another already, with `ENOMEM`, and as the device does where it cannot be woken.
    pub(crate) fn open(self: &Arc<Self>, demand: Demand) -> Result<OpenMemory> {
        // Without a lock of ours: this may be long. The first one's stays, see `Window`. Who opens another misc device waits
        // meanwhile (`misc_mtx`), up to a minute for the worst of devices; and would not, if it were the first call that uses
        // the memory that woke the device: of which each would have to know, and a call that may not wait would find it asleep.
        let awake = Awake::new(&self.device)?;
        let guard = self.cache.lock_for_writing_always();
        let lock = guard.lock_against_faults();
        // SAFETY: The lock is held exclusively.
        let State::Present {
            users,
            window,
            claim,
        } = (unsafe { &mut *self.state.get() })
        else {
            return Err(ENODEV);
        };
        let (Demand::Any(mode) | Demand::Exactly(mode)) = demand;
        match (&*window, demand) {
            (None, _) => {
                let new = Window::new(claim, mode, awake)?;
                if demand.is_met_by(new.mode) {
                    *window = Some(new);
                } else {
                    return Err(EBUSY);
                }
            }
            (Some(window), _) if !demand.is_met_by(window.mode) => return Err(EBUSY),
            (Some(_), _) => {}
        }
        *users += 1;
        drop(lock);
        drop(guard);
        Ok(OpenMemory(self.clone()))
    }

    /// Returns access to the memory, which lasts until that is dropped.
    ///
    /// Fails with `ENODEV` where it was revoked or nobody has it open, and with `EAGAIN` where `wait` forbids to wait for
    /// whoever revokes it. Sleeps.
    pub(crate) fn access(&self, wait: Wait) -> Result<Access<'_>> {
        let lock = self.cache.lock_shared_against_invalidation(wait)?;
        // SAFETY: The lock is held, and is in `Access` for as long as the reference is.
        match unsafe { &*self.state.get() } {
            State::Present {
                window: Some(window),
                ..
            } => Ok(Access {
                memory: self,
                window,
                _lock: lock,
            }),
            _ => Err(ENODEV),
        }
    }

    /// Takes the memory out of all mappings, and gives it back; from then on there is no access to it. Sleeps.
    ///
    /// Returns once nobody has access; where somebody maps it that takes up to some seconds. `guard` must be of its own
    /// address space, or nothing is done.
    pub(crate) fn revoke(&self, guard: &WriteGuard<'_>) {
        if !guard.is_of(&self.cache) {
            return;
        }
        let lock = guard.lock_against_faults();
        // SAFETY: The lock is held exclusively.
        let before = core::mem::replace(unsafe { &mut *self.state.get() }, State::Revoked);
        if matches!(before, State::Revoked) {
            return;
        }
        self.take_out_of_mappings(guard, lock);
        // Only now somebody else may have the addresses, or the device sleep.
        drop(before);
    }

    /// Takes the memory out of all mappings, when nobody has access to it and `state` says so by now. Both locks must be of
    /// its own address space; gives the second up. Sleeps.
    fn take_out_of_mappings(&self, guard: &WriteGuard<'_>, lock: InvalidateGuard<'_>) {
        self.cache.unmap();
        drop(lock);
        // A task that forks may have an entry in its hands: `copy_huge_pmd()` reads one of page frames that are no pages
        // without a lock, and puts it into the child's table under that of the table, without a second look. A child whose
        // table was gone through in between has the memory still. There is no sleep in between, so that an entry that
        // was read before is where it is to be found once all tasks that were in the kernel are through, also those that
        // were preempted there. No touch makes an entry any more.
        //
        // (What is left is a child of such a child: forked in the moment in which this goes through its parent's table for the
        // second time, and cut off between the same two steps again.)
        if self.is_mapped() {
            // SAFETY: Has no requirements but that this may sleep.
            unsafe { helpers::abstractions_helper_synchronize_kernel_code() };
            let lock = guard.lock_against_faults();
            self.cache.unmap();
            drop(lock);
        }
    }

    /// Returns whether there is any mapping of a file that has this address space.
    fn is_mapped(&self) -> bool {
        // SAFETY: The address space is alive.
        unsafe { helpers::abstractions_helper_mapping_mapped(self.cache.as_raw()) }
    }

    fn close(&self) {
        let guard = self.cache.lock_for_writing_always();
        let lock = guard.lock_against_faults();
        // SAFETY: The lock is held exclusively.
        let State::Present { users, window, .. } = (unsafe { &mut *self.state.get() }) else {
            return;
        };
        *users -= 1;
        if *users > 0 {
            return;
        }
        // A mapping may be there still, of a file whose owner has closed the memory before.
        let window = window.take();
        self.take_out_of_mappings(&guard, lock);
        // Only now the device may sleep, and under the inode lock: who opens it next may want it cached in another way.
        drop(window);
        drop(guard);
    }
}

/// Memory that somebody has open; dropping it closes it. The last one takes it out of all mappings.
pub(crate) struct OpenMemory(Arc<DeviceMemory>);

impl Drop for OpenMemory {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What the kernel's list of things to be done at unbinding has.
struct RevokeOnUnbind(Arc<DeviceMemory>);

impl Drop for RevokeOnUnbind {
    fn drop(&mut self) {
        self.0.revoke(&self.0.cache.lock_for_writing_always());
    }
}

/// Access to memory of a device, which is not revoked before this is dropped.
pub(crate) struct Access<'a> {
    memory: &'a DeviceMemory,
    window: &'a Window,
    _lock: InvalidateSharedGuard<'a>,
}

impl Access<'_> {
    /// Returns how the memory is cached.
    pub(crate) fn mode(&self) -> CacheMode {
        self.window.mode
    }

    /// Returns how many pages can be mapped, see [`Span::pages`].
    pub(crate) fn pages(&self) -> usize {
        self.memory.span.pages()
    }

    /// Returns the page frame of page `index`, if it is the memory that an address space has, and `2^order` pages around
    /// there are one piece that a single entry of a page table can map.
    pub(super) fn frame_in(
        &self,
        mapping: *mut bindings::address_space,
        index: usize,
        order: u32,
    ) -> Option<usize> {
        let is_own = self.memory.cache.as_raw() == mapping;
        let frame = self.memory.span.frame_in(index, order);
        frame.filter(|_| is_own)
    }

    /// Returns the address of `len` bytes at an offset. Fails with `EINVAL` where they are not inside.
    fn at(&self, offset: u64, len: usize) -> Result<*mut c_void> {
        let offset = usize::try_from(offset)?;
        if offset
            .checked_add(len)
            .is_none_or(|end| end > self.window.len)
        {
            return Err(EINVAL);
        }
        Ok(self.window.address.as_ptr().wrapping_byte_add(offset))
    }

    /// Copies bytes out of the device.
    ///
    /// 1, 2, 4 or 8 at a multiple of their number are one access of the device, of that width, where they are the whole of
    /// what was asked for. More of memory that is uncached are accesses of four bytes, with narrower ones at ends that
    /// are no multiple of four; of other memory they are what the CPU copies fastest. Mirrors `readb()` and its
    /// relatives, and `memcpy_fromio()`.
    ///
    /// Fails with `EINVAL` where there are fewer. Does not sleep, but takes a time that is up to the device.
    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8], piece: Piece) -> Result {
        let from = self.at(offset, bytes.len())?.cast_const();
        let one = one_access(offset, bytes.len(), piece);
        if self.mode() != CacheMode::Uncached && one.is_none() {
            // SAFETY: By the invariant of `Window` there are as many bytes, and its lock is held.
            unsafe { bindings::memcpy_fromio(bytes.as_mut_ptr().cast(), from, bytes.len()) };
            return Ok(());
        }
        let mut done = 0;
        while done < bytes.len() {
            let rest = &mut bytes[done..];
            let width = one.unwrap_or(Width::next(offset + done as u64, rest.len()));
            let from = from.wrapping_byte_add(done);
            let rest = &mut rest[..width as usize];
            // SAFETY: As above, and the address is a multiple of the width.
            unsafe {
                match width {
                    Width::One => rest.copy_from_slice(&bindings::readb(from).to_le_bytes()),
                    Width::Two => rest.copy_from_slice(&bindings::readw(from).to_le_bytes()),
                    Width::Four => rest.copy_from_slice(&bindings::readl(from).to_le_bytes()),
                    Width::Eight => rest.copy_from_slice(&bindings::readq(from).to_le_bytes()),
                }
            }
            done += width as usize;
        }
        Ok(())
    }

    /// Copies bytes into the device, by accesses as those of [`Self::read`].
    ///
    /// Fails with `EINVAL` where there is room for fewer.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8], piece: Piece) -> Result {
        let to = self.at(offset, bytes.len())?;
        let one = one_access(offset, bytes.len(), piece);
        if self.mode() != CacheMode::Uncached && one.is_none() {
            // SAFETY: By the invariant of `Window` there is as much room, and its lock is held.
            unsafe { bindings::memcpy_toio(to, bytes.as_ptr().cast(), bytes.len()) };
            return Ok(());
        }
        let mut done = 0;
        while done < bytes.len() {
            let width = one.unwrap_or(Width::next(offset + done as u64, bytes.len() - done));
            let to = to.wrapping_byte_add(done);
            let mut value = [0; 8];
            value[..width as usize].copy_from_slice(&bytes[done..done + width as usize]);
            let value = u64::from_le_bytes(value);
            // SAFETY: As above, and the address is a multiple of the width.
            unsafe {
                match width {
                    Width::One => bindings::writeb(value as u8, to),
                    Width::Two => bindings::writew(value as u16, to),
                    Width::Four => bindings::writel(value as u32, to),
                    Width::Eight => bindings::writeq(value, to),
                }
            }
            done += width as usize;
        }
        Ok(())
    }
}

/// Returns the width of the one access that these bytes are, if they are one.
fn one_access(offset: u64, len: usize, piece: Piece) -> Option<Width> {
    match piece {
        Piece::Whole => Width::of(offset, len),
        Piece::Part => None,
    }
}

/// Returns once writes that this CPU has put together have gone out. Mirrors `wmb()`.
pub(crate) fn flush_writes() {
    // SAFETY: Has no requirements.
    unsafe { helpers::abstractions_helper_wmb() };
}
