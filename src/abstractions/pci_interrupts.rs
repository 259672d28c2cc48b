// SPDX-License-Identifier: GPL-2.0

//! The interrupts of a PCI device that come as messages (MSI-X), all handled by one handler.
//!
//! C headers: [`include/linux/pci.h`](srctree/include/linux/pci.h),
//! [`include/linux/interrupt.h`](srctree/include/linux/interrupt.h). Reference: <https://docs.kernel.org/PCI/msi-howto.html>
//!
//! The `kernel` crate's `irq::Registration` borrows from its `pci::IrqVectorRegistration`, and that from the device, so
//! that what owns all of them can be no driver's data.

use super::pci_device::as_raw;
use kernel::bindings;
use kernel::device::{Bound, Core};
use kernel::devres;
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

/// The interrupts of a device; dropping it waits for handlers that run and frees them.
///
/// # Invariants
///
/// The MSI-X vectors of `device` are allocated. Those interrupts that are in `requested` were requested with the address of
/// what `handler` refers to as their cookie, and call [`handle`].
struct Interrupts<T: Handler> {
    device: ARef<pci::Device>,
    requested: KVec<c_uint>,
    handler: Arc<T>,
}

/// Has a handler called for each interrupt of a device that is being bound, until its driver is unbound, and the device be
/// master of its bus, which it writes the messages to.
///
/// Returns whether the device has any. Mirrors `pci_alloc_irq_vectors()` and `request_irq()`. May sleep. Fails with `ENOMEM`,
/// and with `ENOSPC` where the machine has no more vectors.
pub(crate) fn handle_until_unbound<T: Handler>(
    device: &pci::Device<Core<'_>>,
    name: &'static CStr,
    handler: Arc<T>,
) -> Result<bool> {
    // SAFETY: The device is valid by its type.
    let count = unsafe { bindings::pci_msix_vec_count(as_raw(device)) };
    let Ok(count) = c_uint::try_from(count) else {
        return Ok(false);
    };
    device.set_master();
    let interrupts = Interrupts::new(device, count, name, handler)?;
    // Whatever becomes of the driver's data, this is dropped before the device is unbound.
    devres::register::<_, Error>(device.as_ref(), Ok(interrupts), GFP_KERNEL)?;
    Ok(true)
}

impl<T: Handler> Interrupts<T> {
    fn new(
        device: &pci::Device<Bound>,
        count: c_uint,
        name: &'static CStr,
        handler: Arc<T>,
    ) -> Result<Self> {
        let requested = KVec::with_capacity(count as usize, GFP_KERNEL)?;
        // SAFETY: The device is valid by its type.
        let allocated = unsafe {
            bindings::pci_alloc_irq_vectors(as_raw(device), count, count, bindings::PCI_IRQ_MSIX)
        };
        if allocated < 0 {
            return Err(Error::from_errno(allocated));
        }
        // INVARIANT: Just allocated, and none is requested yet.
        let mut interrupts = Self {
            device: device.into(),
            requested,
            handler,
        };
        for index in 0..count {
            interrupts.request(index, name)?;
        }
        Ok(interrupts)
    }

    fn request(&mut self, index: c_uint, name: &'static CStr) -> Result {
        // SAFETY: The device is valid by its type.
        let irq = unsafe { bindings::pci_irq_vector(as_raw(&self.device), index) };
        let irq = c_uint::try_from(irq).map_err(|_| Error::from_errno(irq))?;
        let cookie = Arc::as_ptr(&self.handler).cast_mut().cast();
        // SAFETY: The interrupt is the device's. The name is static, and the handler is there until the interrupt is freed,
        // in `drop`, or below.
        to_result(unsafe {
            bindings::request_irq(irq, Some(handle::<T>), 0, name.as_char_ptr(), cookie)
        })?;
        // INVARIANT: Just requested.
        self.requested.push(irq, GFP_KERNEL).map_err(|error| {
            // SAFETY: Just requested, with this cookie.
            unsafe { bindings::free_irq(irq, cookie) };
            error.into()
        })
    }
}

impl<T: Handler> Drop for Interrupts<T> {
    fn drop(&mut self) {
        for &irq in &self.requested {
            let cookie = Arc::as_ptr(&self.handler).cast_mut().cast();
            // SAFETY: By the type invariant it was requested with this cookie.
            unsafe { bindings::free_irq(irq, cookie) };
        }
        // SAFETY: By the type invariant they are allocated; none is requested any more.
        unsafe { bindings::pci_free_irq_vectors(as_raw(&self.device)) };
    }
}

/// # Safety
///
/// Called by the interrupts of an [`Interrupts`], whose cookie it is.
unsafe extern "C" fn handle<T: Handler>(_irq: c_int, cookie: *mut c_void) -> bindings::irqreturn_t {
    // SAFETY: By the type invariant of `Interrupts` this is the address of its handler, which is there until the interrupt is
    // freed.
    let handler: &T = unsafe { &*cookie.cast_const().cast() };
    handler.handle();
    bindings::irqreturn::IRQ_HANDLED
}
