// SPDX-License-Identifier: GPL-2.0

//! A device's memory through a mapping and through calls: the same bytes, without a copy. Run it as root.

use rustix::fs::{open, seek, Mode, OFlags, SeekFrom};
use rustix::io::{pread, pwrite};
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU8, Ordering};

fn main() -> std::io::Result<()> {
    let device = open(
        "/dev/mmapdev0",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    // stat() says 0 for every device.
    let size = seek(&device, SeekFrom::End(0))? as usize;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: A new mapping, where the kernel chooses. Others may store to it at any time, so that it is only
    // used as atomics.
    let start = unsafe { mmap(null_mut(), size, access, MapFlags::SHARED, &device, 0)? };
    // SAFETY: The mapping has `size` bytes and stays until the end; atomics may change under a reference.
    let bytes = unsafe { std::slice::from_raw_parts(start.cast::<AtomicU8>(), size) };

    bytes[0].store(42, Ordering::Relaxed);
    let mut byte = [0];
    pread(&device, &mut byte, 0)?;
    println!("stored 42, read {}", byte[0]);
    pwrite(&device, &[43], size as u64 - 1)?;
    println!(
        "wrote 43, loaded {}",
        bytes[size - 1].load(Ordering::Relaxed)
    );

    // SAFETY: Nobody uses the mapping any more.
    unsafe { munmap(start, size)? };
    Ok(())
}
