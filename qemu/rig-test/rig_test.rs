// SPDX-License-Identifier: GPL-2.0

//! A module that misbehaves while it loads, so that the rig's self-test can see it noticed; or that has claimed a range
//! of addresses until it is unloaded, as another driver would.

use kernel::bindings;
use kernel::prelude::*;
use kernel::str::CStrExt;
use kernel::sync::{new_mutex, new_spinlock};

module! {
    type: RigTest,
    name: "rig_test",
    authors: ["mmapdev"],
    description: "Misbehaves on purpose",
    license: "GPL",
    params: {
        action: i64 {
            default: 0,
            description: "1: WARN, 2: BUG, 3: loop for ever, 4: claim addresses, 5: read beyond, 6: sleep locked, 7: lock both ways, 8: leak",
        },
        start: u64 {
            default: 0,
            description: "The first address to claim",
        },
        len: u64 {
            default: 0,
            description: "How many",
        },
    },
}

/// The module, with what it has claimed.
struct RigTest(Option<(u64, u64)>);

impl kernel::Module for RigTest {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        match module_parameters::action.value() {
            1 => {
                kernel::warn_on!(true);
            }
            2 => panic!("asked to"),
            3 => loop {
                core::hint::spin_loop();
            },
            4 => {
                return Self::claim(
                    module_parameters::start.value(),
                    module_parameters::len.value(),
                )
            }
            5 => read_beyond()?,
            6 => sleep_locked()?,
            7 => lock_both_ways()?,
            8 => leak()?,
            _ => return Err(EINVAL),
        }
        Ok(RigTest(None))
    }
}

/// For KASAN to see.
fn read_beyond() -> Result {
    const LEN: usize = 64;
    let bytes = KBox::new([0_u8; LEN], GFP_KERNEL)?;
    // SAFETY: It is wrong on purpose. Memory is mapped there: the kernel has objects of this size side by side, and
    // each of such a page of memory is followed by another.
    let beyond = unsafe { bytes.as_ptr().add(LEN).read_volatile() };
    pr_info!("there was {beyond}\n");
    Ok(())
}

/// For `might_sleep()` to see.
fn sleep_locked() -> Result {
    let lock = KBox::pin_init(new_spinlock!(0_u8, "rig_spinlock"), GFP_KERNEL)?;
    let locked = lock.lock();
    let allocated = KBox::new(*locked, GFP_KERNEL)?;
    drop(locked);
    drop(allocated);
    Ok(())
}

/// For lockdep to see, which nobody has to wait for.
fn lock_both_ways() -> Result {
    let one = KBox::pin_init(new_mutex!((), "rig_one"), GFP_KERNEL)?;
    let other = KBox::pin_init(new_mutex!((), "rig_other"), GFP_KERNEL)?;
    for (outer, inner) in [(&one, &other), (&other, &one)] {
        let outer = outer.lock();
        drop(inner.lock());
        drop(outer);
    }
    Ok(())
}

/// For kmemleak to see.
///
/// What a CPU has by it of free objects (`struct slab_sheaf`) still has the addresses of those that it gave last, which
/// kmemleak takes for references; so others come and go after them, as in any kernel that goes on.
fn leak() -> Result {
    let object = || KBox::new([0x5A_u8; 64], GFP_KERNEL);
    for _ in 0..8 {
        core::mem::forget(object()?);
    }
    let mut others = KVec::new();
    for _ in 0..4096 {
        others.push(object()?, GFP_KERNEL)?;
    }
    Ok(())
}

impl RigTest {
    fn claim(start: u64, len: u64) -> Result<Self> {
        // SAFETY: The tree of all memory is the kernel's own, and the name is static.
        let claimed = unsafe {
            bindings::__request_region(
                &raw mut bindings::iomem_resource,
                start,
                len,
                c"rig_test".as_char_ptr(),
                0,
            )
        };
        if claimed.is_null() {
            return Err(EBUSY);
        }
        Ok(RigTest(Some((start, len))))
    }
}

impl Drop for RigTest {
    fn drop(&mut self) {
        if let Some((start, len)) = self.0 {
            // SAFETY: Just this was claimed.
            unsafe { bindings::__release_region(&raw mut bindings::iomem_resource, start, len) };
        }
    }
}
