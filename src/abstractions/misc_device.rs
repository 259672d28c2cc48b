// SPDX-License-Identifier: GPL-2.0

//! Misc devices that carry data and a name made at run time.
//!
//! C header: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h). Reference:
//! <https://docs.kernel.org/driver-api/misc_devices.html>
//!
//! The `kernel` crate's registration has a static name and no data, so that each device of a driver
//! would need a type of its own.

use super::file_operations::{FileOperations, FileOperationsTable};
use kernel::bindings;
use kernel::container_of;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::str::{CStrExt, CString};
use kernel::types::Opaque;

/// A registered misc device; dropping it takes the device away.
///
/// Files that are open by then stay usable.
///
/// # Invariants
///
/// `misc` is registered from the end of the initialisation to the drop, its operations are those of
/// `F`, and its name is `name`.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<F: FileOperations> {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    data: F::Registration,
    name: CString,
}

// SAFETY: A misc device may be deregistered on another thread than it was registered on, and the data
// is `Send`.
unsafe impl<F: FileOperations> Send for Registration<F> {}
// SAFETY: The methods by shared reference only read the data, which is `Sync`, and the name.
unsafe impl<F: FileOperations> Sync for Registration<F> {}

impl<F: FileOperations> Registration<F> {
    /// Registers a device, which appears as `/dev/<name>`, for root alone.
    ///
    /// It can be opened from this moment on, before the call has returned. Mirrors
    /// `misc_register()`. May sleep.
    ///
    /// Fails with `EEXIST` where a misc device of that name exists, with `EBUSY` where the minor numbers
    /// are used up, and with `ENOMEM`.
    pub(crate) fn new(name: CString, data: F::Registration) -> impl PinInit<Self, Error> {
        try_pin_init!(&this in Self {
            data,
            name,
            // Last: from here on the device is opened, and what it needs has to be there.
            misc <- Opaque::try_ffi_init(move |misc: *mut bindings::miscdevice| {
                // SAFETY: The place is this initialiser's to write, and the name, set above, stays where
                // it is for as long as the device is registered.
                unsafe {
                    misc.write(bindings::miscdevice {
                        minor: bindings::MISC_DYNAMIC_MINOR as c_int,
                        name: (*this.as_ptr()).name.as_char_ptr(),
                        fops: FileOperationsTable::<F>::table(),
                        mode: 0o600,
                        ..pin_init::zeroed()
                    });
                }
                // SAFETY: Just filled in, and pinned until it is deregistered by the drop.
                to_result(unsafe { bindings::misc_register(misc) })
            }),
        })
    }
}

#[pinned_drop]
impl<F: FileOperations> PinnedDrop for Registration<F> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant the device is registered.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}

/// Returns what a device was registered with, for the private data that `misc_open()` sets.
///
/// # Safety
///
/// `misc` must point at the `miscdevice` of a [`Registration<F>`] that stays registered for `'a`.
pub(super) unsafe fn registration_data<'a, F: FileOperations>(
    misc: *mut c_void,
) -> &'a F::Registration {
    let misc = misc.cast::<Opaque<bindings::miscdevice>>();
    // SAFETY: By the requirements of this function.
    unsafe { &(*container_of!(misc, Registration<F>, misc)).data }
}

#[kunit_tests(abstractions_misc_device)]
mod tests {
    use super::super::file_operations::closed::Closed;
    use super::*;
    use kernel::sync::Arc;

    fn register(name: &CStr, data: &Arc<u32>) -> Result<Pin<KBox<Registration<Closed>>>> {
        let name = CString::try_from(name)?;
        KBox::pin_init(Registration::new(name, data.clone()), GFP_KERNEL)
    }

    #[test]
    fn a_name_is_free_again_once_its_device_is_dropped() -> Result {
        let data = Arc::new(1, GFP_KERNEL)?;
        for _ in 0..3 {
            drop(register(c"kunit_misc_device", &data)?);
        }
        // And nobody holds what it was registered with.
        assert!(Arc::into_unique_or_drop(data).is_some());
        Ok(())
    }

    #[test]
    fn devices_have_numbers_and_data_of_their_own() -> Result {
        let one = register(c"kunit_misc_one", &Arc::new(1, GFP_KERNEL)?)?;
        let other = register(c"kunit_misc_other", &Arc::new(2, GFP_KERNEL)?)?;
        // SAFETY: Both are registered, so that the numbers do not change.
        let (first, second) = unsafe { ((*one.misc.get()).minor, (*other.misc.get()).minor) };
        assert!(first != second);
        for (registration, number) in [(&one, 1), (&other, 2)] {
            // SAFETY: It is that of a registration of this type, which stays for as long as this looks at it.
            let data = unsafe { registration_data::<Closed>(registration.misc.get().cast()) };
            assert_eq!(**data, number);
        }
        Ok(())
    }
}
