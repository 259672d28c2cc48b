/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The ioctl interface of the mmapdev devices, /dev/mmapdev0 and its siblings.
 *
 * Everything else a device does, it does through the ordinary file calls: open(), mmap(), read(),
 * write(), lseek(), fsync(), splice().
 *
 * Rules that every structure here follows:
 *
 * - The first field is the size of the structure as the caller knows it. A newer structure given to
 *   an older module is accepted as long as what the module does not know is zero (E2BIG otherwise);
 *   an older structure given to a newer module is answered up to its own size. When the call has
 *   succeeded, the field says how much of the structure was answered.
 * - `flags` and reserved fields must be zero (EINVAL otherwise).
 * - All fields have fixed widths and natural alignment: the layout is the same for 32-bit and 64-bit
 *   programs.
 *
 * Unknown requests fail with ENOTTY, a bad pointer with EFAULT, and a size that is too small for the
 * first version of a structure, or larger than a page, with EINVAL or E2BIG.
 */
#ifndef _UAPI_MMAPDEV_H
#define _UAPI_MMAPDEV_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define MMAPDEV_IOC_TYPE 0xBD

/** What keeps the bytes of a device. */
enum mmapdev_backing {
	/** Kernel memory: zeroed on first touch, kept until the device goes. */
	MMAPDEV_BACKING_MEMORY = 1,
};

/** Which folio sizes a device's memory uses. */
enum mmapdev_huge {
	/** Pages of the base size only (4 KiB on x86-64). */
	MMAPDEV_HUGE_NEVER = 0,
	/** The largest folio that fits size, alignment and free memory, up to 2 MiB on x86-64. */
	MMAPDEV_HUGE_ALWAYS = 1,
	/** As always, where a mapping was advised so by madvise(MADV_HUGEPAGE); else as never. */
	MMAPDEV_HUGE_ADVISE = 2,
};

/** struct mmapdev_info - what a device is (MMAPDEV_IOC_INFO). */
struct mmapdev_info {
	/** In: the size of this structure in bytes. Out: how many of them were answered. */
	__u32 size;
	/** In: must be 0. */
	__u32 flags;
	/** Out: bytes in the device; offsets from 0 to device_size - 1 exist. */
	__aligned_u64 device_size;
	/** Out: bytes of memory that the device holds at this moment. */
	__aligned_u64 resident_bytes;
	/** Out: one of enum mmapdev_backing. */
	__u32 backing;
	/** Out: one of enum mmapdev_huge. */
	__u32 huge;
};

#define MMAPDEV_INFO_SIZE_VER0 32

/**
 * struct mmapdev_counters - what a device has done since it was made (MMAPDEV_IOC_COUNTERS).
 *
 * Counters only grow. They are summed over the CPUs one after the other: a reading is exact once the
 * device is idle, and a moment's estimate while it is in use.
 */
struct mmapdev_counters {
	/** In: the size of this structure in bytes. Out: how many of them were answered. */
	__u32 size;
	/** In: must be 0. */
	__u32 flags;
	/** Out: page faults that were answered by one folio, or not at all. */
	__aligned_u64 faults;
	/** Out: page faults that the handler for huge ones answered with one entry (2 MiB on x86-64). */
	__aligned_u64 huge_faults;
	/** Out: page faults that mapped a page together with its resident neighbours, page by page. */
	__aligned_u64 map_pages;
	/** Out: of all these, faults that ran under the lock of the whole address space. */
	__aligned_u64 mmap_lock_faults;
	/** Out: touches that ended in SIGBUS or in the out-of-memory handling. */
	__aligned_u64 failed_faults;
	/** Out: folios brought into memory, whatever their size. */
	__aligned_u64 folios_added;
	/** Out: bytes of memory brought in by them. */
	__aligned_u64 bytes_added;
	/** Out: bytes copied out of the device by read() and its relatives. */
	__aligned_u64 bytes_read;
	/** Out: bytes copied into the device by write() and its relatives. */
	__aligned_u64 bytes_written;
};

#define MMAPDEV_COUNTERS_SIZE_VER0 80

/**
 * struct mmapdev_frame - which page frame holds an offset (MMAPDEV_IOC_FRAME).
 *
 * Needs CAP_SYS_ADMIN (EPERM otherwise), as /proc/PID/pagemap does. ENXIO where the offset is beyond
 * the end, ENODATA where nothing has touched it yet and no frame exists.
 */
struct mmapdev_frame {
	/** In: the size of this structure in bytes. Out: how many of them were answered. */
	__u32 size;
	/** In: must be 0. */
	__u32 flags;
	/** In: a byte offset into the device. */
	__aligned_u64 offset;
	/** Out: the number of the page frame that holds it. */
	__aligned_u64 frame;
	/** Out: bytes in the folio that this frame belongs to (4096, 65536, 2097152...). */
	__aligned_u64 folio_bytes;
};

#define MMAPDEV_FRAME_SIZE_VER0 32

#define MMAPDEV_IOC_INFO     _IO(MMAPDEV_IOC_TYPE, 0x01)
#define MMAPDEV_IOC_COUNTERS _IO(MMAPDEV_IOC_TYPE, 0x02)
#define MMAPDEV_IOC_FRAME    _IO(MMAPDEV_IOC_TYPE, 0x03)

#endif /* _UAPI_MMAPDEV_H */
