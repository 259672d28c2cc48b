// SPDX-License-Identifier: GPL-2.0

//! The interrupts of a PCI device that come as messages (MSI-X), all handled by one handler.
//!
//! C headers: [`include/linux/pci.h`](srctree/include/linux/pci.h),
//! [`include/linux/interrupt.h`](srctree/include/linux/interrupt.h). Reference: <https://docs.kernel.org/PCI/msi-howto.html>
//!
//! The `kernel` crate's `irq::Registration` borrows from its `pci::IrqVectorRegistration`, and that from the device, so
//! that what owns all of them can be no driver's data.

use super::pci_device::{as_raw, UntilUnbound};
use kernel::bindings;
use kernel::device::{Bound, Core};
use kernel::error::{to_result, Error};
use kernel::pci;
use kernel::prelude::*;
use kernel::str::CStrExt;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;

/// What is done when a device interrupts.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Called in hard interrupt context, on several CPUs at once if the device has several interrupts: must not sleep.
    fn handle(&self);
}

/// The interrupts of a device that is bound.
pub(crate) struct Interrupts<T: Handler> {
    vectors: Arc<UntilUnbound<Vectors<T>>>,
    count: usize,
    wanted: usize,
}

/// The interrupts of a device; dropping it waits for handlers that run and frees them.
///
/// # Invariants
///
/// The MSI-X vectors of `device` are allocated. Those interrupts that are in `requested` were requested with the address of
/// what `handler` refers to as their cookie, and call [`handle`].
struct Vectors<T: Handler> {
    device: ARef<pci::Device>,
    requested: KVec<c_uint>,
    handler: Arc<T>,
}

/// Has a handler called for each interrupt of a device that is being bound, until they are freed or its driver is unbound, and
/// the device be master of its bus, which it writes the messages to.
///
/// `None` where the device has none. Mirrors `pci_alloc_irq_vectors()` and `request_irq()`. May sleep. Fails with `ENOMEM`,
/// and with `ENOSPC` where the machine has no vector left.
pub(crate) fn handle_until_unbound<T: Handler>(
    device: &pci::Device<Core<'_>>,
    handler: Arc<T>,
) -> Result<Option<Interrupts<T>>> {
    // SAFETY: The device is valid by its type.
    let wanted = unsafe { bindings::pci_msix_vec_count(as_raw(device)) };
    let Ok(wanted) = c_uint::try_from(wanted) else {
        return Ok(None);
    };
    let vectors = Vectors::new(device, wanted, handler)?;
    // Such an interrupt is a write of the device's to memory.
    device.set_master();
    Ok(Some(Interrupts {
        count: vectors.requested.len(),
        wanted: wanted as usize,
        // Whatever becomes of the driver's data, they are freed before the device is unbound.
        vectors: UntilUnbound::new(device, vectors)?,
    }))
}

impl<T: Handler> Interrupts<T> {
    /// Returns how many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Returns how many the device can send, of which the machine may have no room for all.
    pub(crate) fn wanted(&self) -> usize {
        self.wanted
    }

    /// Waits for handlers that run, and frees the interrupts. Does nothing where that was done. Sleeps.
    pub(crate) fn free(&self) {
        self.vectors.end();
    }
}

impl<T: Handler> Vectors<T> {
    /// Takes up to `wanted` interrupts, and one at least.
    fn new(device: &pci::Device<Bound>, wanted: c_uint, handler: Arc<T>) -> Result<Self> {
        let requested = KVec::with_capacity(wanted as usize, GFP_KERNEL)?;
        // SAFETY: The device is valid by its type.
        let allocated = unsafe {
            bindings::pci_alloc_irq_vectors(as_raw(device), 1, wanted, bindings::PCI_IRQ_MSIX)
        };
        let count = c_uint::try_from(allocated).map_err(|_| Error::from_errno(allocated))?;
        // INVARIANT: Just allocated, and none is requested yet.
        let mut vectors = Self {
            device: device.into(),
            requested,
            handler,
        };
        for index in 0..count {
            vectors.request(index)?;
        }
        Ok(vectors)
    }

    fn request(&mut self, index: c_uint) -> Result {
        // SAFETY: The device is valid by its type.
        let irq = unsafe { bindings::pci_irq_vector(as_raw(&self.device), index) };
        let irq = c_uint::try_from(irq).map_err(|_| Error::from_errno(irq))?;
        let cookie = Arc::as_ptr(&self.handler).cast_mut().cast();
        let name = self.device.as_ref().name().as_char_ptr();
        // SAFETY: The interrupt is the device's. The name is there as long as the device, and the handler is until the
        // interrupt is freed, in `drop`, or below.
        to_result(unsafe { bindings::request_irq(irq, Some(handle::<T>), 0, name, cookie) })?;
        // INVARIANT: Just requested.
        self.requested.push(irq, GFP_KERNEL).map_err(|error| {
            // SAFETY: Just requested, with this cookie.
            unsafe { bindings::free_irq(irq, cookie) };
            error.into()
        })
    }
}

impl<T: Handler> Drop for Vectors<T> {
    fn drop(&mut self) {
        for &irq in &self.requested {
            let cookie = Arc::as_ptr(&self.handler).cast_mut().cast();
            // SAFETY: By the type invariant it was requested with this cookie.
            unsafe { bindings::free_irq(irq, cookie) };
        }
        // SAFETY: By the type invariant they are allocated; none is requested any more. That has the device interrupt by a line
        // instead, which nobody handles.
        unsafe {
            bindings::pci_free_irq_vectors(as_raw(&self.device));
            bindings::pci_intx(as_raw(&self.device), 0);
            bindings::pci_clear_master(as_raw(&self.device));
        }
    }
}

/// # Safety
///
/// Called by the interrupts of a [`Vectors`], whose cookie it is.
unsafe extern "C" fn handle<T: Handler>(_irq: c_int, cookie: *mut c_void) -> bindings::irqreturn_t {
    // SAFETY: By the type invariant of `Vectors` this is the address of its handler, which is there until the interrupt is
    // freed.
    let handler: &T = unsafe { &*cookie.cast_const().cast() };
    handler.handle();
    bindings::irqreturn::IRQ_HANDLED
}
