/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The ioctl interface of the mmapdev devices, /dev/mmapdev0 and its siblings, and of the node that makes
 * and ends them, /dev/mmapdev-control.
 *
 * Everything else a device does, it does through the ordinary file calls: open(), mmap(), read(),
 * write(), lseek(), fsync(), splice(), poll().
 *
 * A device has a name, by which the control node knows it: 1 to 63 of the characters A-Z a-z 0-9 . _ -
 * (EINVAL for others and for "." and "..", ENAMETOOLONG where the name field has no zero at its end). Its node is
 * /dev/mmapdev-<name>, or /dev/mmapdev<name> where the name is a number: the devices that the module
 * makes when it is loaded are named 0, 1 and so on. "control" is taken. The BARs of a PCI device that the module
 * is bound to are named pci-<address>-bar<number>, as in pci-0000:01:00.0-bar2: no name of another device has a colon.
 *
 * Requests that are about one device are made to the control node, with the device's name in the name
 * field (ENOENT where there is none of that name), or to the device's own node, with a name of zeros
 * (EINVAL otherwise). A device that has been destroyed while it was open answers each with ENODEV.
 *
 * Rules that every structure here follows:
 *
 * - The first field is the size of the structure as the caller knows it. A newer structure given to
 *   an older module is accepted as long as what the module does not know is zero (E2BIG otherwise);
 *   an older structure given to a newer module is answered up to its own size. When the call has
 *   succeeded, the field says how much of the structure was answered.
 * - `flags` and reserved fields must be zero (EINVAL otherwise), and so must what follows the zero that ends
 *   a name.
 * - All fields have fixed widths and natural alignment: the layout is the same for 32-bit and 64-bit
 *   programs.
 *
 * Unknown requests fail with ENOTTY, a bad pointer with EFAULT, and a size that is too small for the
 * first version of a structure, or larger than a page, with EINVAL or E2BIG.
 *
 * Where it is only the answer that cannot be written (EFAULT), what was asked for has been done; but a device that
 * was to be made is none, and events that were to be taken are still there. Nothing is ever done in part.
 */
#ifndef _UAPI_MMAPDEV_H
#define _UAPI_MMAPDEV_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define MMAPDEV_IOC_TYPE 0xBD

/** Bytes in a name field; the last one that is used is followed by zeros. */
#define MMAPDEV_NAME_SIZE 64

/** What keeps the bytes of a device. */
enum mmapdev_backing {
	/** Kernel memory: zeroed on first touch, kept until the device goes. */
	MMAPDEV_BACKING_MEMORY = 1,
	/** A file: pages are read when they are touched, written back, and taken away when memory is short. */
	MMAPDEV_BACKING_FILE = 2,
	/** A BAR of a PCI device that the module's driver is bound to: not to be made, resized, punched or destroyed. */
	MMAPDEV_BACKING_PCI = 3,
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

/**
 * struct mmapdev_info - what a device is (MMAPDEV_IOC_INFO, MMAPDEV_IOC_NEXT).
 *
 * MMAPDEV_IOC_NEXT is for the control node alone. It tells of the device with the least id above the one
 * that is given, and fails with ENOENT where there is none: begin with 0, go on with what was answered, and
 * devices that come and go meanwhile are no trouble. On the control node the structure must have all fields up
 * to `name` (EINVAL otherwise).
 */
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
	/** In, for MMAPDEV_IOC_NEXT: the id to go on from; else ignored. Out: no two devices ever have the same. */
	__aligned_u64 id;
	/** Out: bytes in the largest folio that the device uses. */
	__u32 largest_folio;
	/** Out: how many open files there are of it; a mapping keeps its file open. */
	__u32 open_files;
	/** In, for MMAPDEV_IOC_INFO to the control node: whose; else zeros. Out: the device's name. */
	char name[MMAPDEV_NAME_SIZE];
};

#define MMAPDEV_INFO_SIZE_VER0 32
#define MMAPDEV_INFO_SIZE_VER1 112

/**
 * struct mmapdev_create - makes a device (MMAPDEV_IOC_CREATE, control node).
 *
 * When the call has returned the node is there, for root alone, and the name is taken until the device is
 * destroyed. EINVAL for a size of 0 or no multiple of the page size, a backing, huge or largest_folio that
 * does not exist; EEXIST where the name is taken; EFBIG for a size that no file can have, ENOMEM for one
 * that is more than the machine's memory or where memory is short now; ENOSPC where there are 4096 devices, or
 * all of memory together would be larger than the module's limit_mib, EBUSY where the machine has no numbers left for nodes.
 *
 * MMAPDEV_BACKING_FILE makes a device of a regular file or a block device, given by a descriptor that is open for
 * reading; where it is not open for writing, neither can the device be opened so (EROFS). The device has device_size
 * bytes from file_offset on, or with a device_size of 0 as many as the file has, now and later; it can be neither
 * resized nor punched (EOPNOTSUPP). Huge has to be MMAPDEV_HUGE_ALWAYS and largest_folio 0: how large folios are is up
 * to the kernel's read-ahead. What others do to the file while pages of it are in the device's memory is not seen by
 * them, but for its size: what is beyond the file's new end is SIGBUS, and the end of what can be read.
 * EINVAL where the structure has no `file`;
 * EBADF for a descriptor that is none or not open for reading; EISDIR for a directory, EINVAL for what is neither a
 * file nor a block device, cannot be read at any place or is only appended to, for an offset that is no multiple of
 * the page size, and for more than the file has; ENXIO for an offset at or after its end; ETXTBSY for a file that is
 * swapped to; EPERM, EACCES or what else is said by who is asked for leave to read and write the file, security modules
 * and programs by fanotify, for whose answer the call waits; EBUSY where another device of this file has some of these
 * bytes, or is being destroyed and may yet write to them, and for a memfd that is just being sealed; EOPNOTSUPP in a
 * kernel with CONFIG_PREEMPT_RT, or with preemption and no CONFIG_TASKS_RCU. (That a disk is the one that a file is on,
 * or part of another, is not seen.)
 */
struct mmapdev_create {
	/** In: the size of this structure in bytes. Out: how many of them were answered. */
	__u32 size;
	/** In: must be 0. */
	__u32 flags;
	/** In: bytes in the device; for a file also 0. No memory is taken before it is touched. */
	__aligned_u64 device_size;
	/** In: one of enum mmapdev_backing. */
	__u32 backing;
	/** In: one of enum mmapdev_huge. */
	__u32 huge;
	/** In: bytes in the largest folio, a power of two from a page to a huge page; 0: a huge page. */
	__u32 largest_folio;
	/** In: must be 0. */
	__u32 reserved;
	/** Out: the device's id. */
	__aligned_u64 id;
	/** In: its name. */
	char name[MMAPDEV_NAME_SIZE];
	/** In, for MMAPDEV_BACKING_FILE: a descriptor of the file, not needed any more afterwards; else 0. */
	__s32 file;
	/** In: must be 0. */
	__u32 file_flags;
	/** In, for MMAPDEV_BACKING_FILE: where in the file the device begins; else 0. */
	__aligned_u64 file_offset;
};

#define MMAPDEV_CREATE_SIZE_VER0 104
#define MMAPDEV_CREATE_SIZE_VER1 120

/**
 * struct mmapdev_destroy - ends a device (MMAPDEV_IOC_DESTROY; CAP_SYS_ADMIN on the device's own node).
 *
 * Works while it is open and mapped: the node and the name go at once, and so does its memory, but for pages
 * that are pinned, which go with the pin. From then on each touch of a mapping is SIGBUS, private copies
 * included, and each call on a file that is still open fails with ENODEV. EOPNOTSUPP for a BAR of a PCI device, which
 * ends so when the driver is unbound or the PCI device goes.
 */
struct mmapdev_destroy {
	/** In: the size of this structure in bytes. Out: how many of them were answered. */
	__u32 size;
	/** In: must be 0. */
	__u32 flags;
	/** In: which one. */
	char name[MMAPDEV_NAME_SIZE];
};

#define MMAPDEV_DESTROY_SIZE_VER0 72

/**
 * struct mmapdev_resize - changes a device's size (MMAPDEV_IOC_RESIZE; CAP_SYS_ADMIN on the device's own
 * node).
 *
 * What ftruncate() does to a file: a smaller device loses what is beyond its new end, and touches there are
 * SIGBUS; what a larger one gains reads as zeros. Where the new end divides a large folio that somebody has
 * pinned, the rest of that folio becomes zeros, which a mapping may show until the folio goes, as on a tmpfs.
 * Errors as in struct mmapdev_create, and EOPNOTSUPP where the size is not the device's own.
 */
struct mmapdev_resize {
	/** In: the size of this structure in bytes. Out: how many of them were answered. */
	__u32 size;
	/** In: must be 0. */
	__u32 flags;
	/** In: bytes in the device from now on. */
	__aligned_u64 device_size;
	/** In: which one. */
	char name[MMAPDEV_NAME_SIZE];
};

#define MMAPDEV_RESIZE_SIZE_VER0 80

/**
 * struct mmapdev_punch - gives back the memory of a range (MMAPDEV_IOC_PUNCH; write access on the device's
 * own node, EBADF otherwise).
 *
 * What fallocate(FALLOC_FL_PUNCH_HOLE) does to a file: the range reads as zeros afterwards, in mappings as
 * well; what of it is not whole pages is overwritten with zeros. Private copies stay. Whoever has pages pinned
 * keeps them, and the device shows fresh ones, but for a part of a large folio, which is zeroed where it is.
 * EINVAL where length is 0, or offset and length make more than a file can have; a range beyond the end is
 * none.
 */
struct mmapdev_punch {
	/** In: the size of this structure in bytes. Out: how many of them were answered. */
	__u32 size;
	/** In: must be 0. */
	__u32 flags;
	/** In: the first byte. */
	__aligned_u64 offset;
	/** In: how many bytes. */
	__aligned_u64 length;
	/** In: which device. */
	char name[MMAPDEV_NAME_SIZE];
};

#define MMAPDEV_PUNCH_SIZE_VER0 88

/**
 * struct mmapdev_events - takes what events there are (MMAPDEV_IOC_EVENTS, on a device's own node).
 *
 * MMAPDEV_IOC_NOTIFY, which takes no argument (it must be 0) and needs write access (EBADF otherwise),
 * raises an event for all who have the device open. Each open file counts for itself: poll() says POLLPRI
 * on it from an event until MMAPDEV_IOC_EVENTS takes the count. A store that was made before the event is
 * seen by whoever has taken it. poll() says POLLERR and POLLHUP on a device that has been destroyed.
 *
 * An interrupt of QEMU's ivshmem, by which another virtual machine rings, raises an event of the device that
 * is its memory (-bar2). To ring another, write 4 bytes at 12 of its registers (-bar0): the other's number,
 * which it reads there at 8, times 65536, and the vector, each of which raises an event.
 */
struct mmapdev_events {
	/** In: the size of this structure in bytes. Out: how many of them were answered. */
	__u32 size;
	/** In: must be 0. */
	__u32 flags;
	/** Out: how many events were raised since this file was opened or last asked. */
	__aligned_u64 count;
};

#define MMAPDEV_EVENTS_SIZE_VER0 16

/**
 * struct mmapdev_eventfd - has an eventfd signalled (MMAPDEV_IOC_EVENTFD, on a device's own node).
 *
 * From now on each event adds one to the number of the eventfd, and so does the end of the device, until the file that
 * this was asked on is closed by all who have it. There is one for each open file: another one takes its place, and
 * -1 leaves none; the one that was there may still be told of an event that is just being raised. Which events were taken
 * by MMAPDEV_IOC_EVENTS makes no difference to it. EBADF where there is no such descriptor, EINVAL where it is of
 * something else, ENOSPC where 256 files have one.
 */
struct mmapdev_eventfd {
	/** In: the size of this structure in bytes. Out: how many of them were answered. */
	__u32 size;
	/** In: must be 0. */
	__u32 flags;
	/** In: a descriptor of eventfd(), or -1. */
	__s32 eventfd;
	/** In: must be 0. */
	__u32 reserved;
};

#define MMAPDEV_EVENTFD_SIZE_VER0 16

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
	/** Out: of the failed touches, those that ended in SIGBUS. */
	__aligned_u64 bus_errors;
	/** Out: of the failed touches, those that ended in the out-of-memory handling. */
	__aligned_u64 out_of_memory;
	/** Out: touches that were offered as huge and had to be answered page by page. */
	__aligned_u64 huge_fallbacks;
	/** Out: first writes to clean pages of backings that are written back. */
	__aligned_u64 page_mkwrites;
	/** Out: of the folios brought in, those of one page. */
	__aligned_u64 small_folios;
	/** Out: of the folios brought in, those between. */
	__aligned_u64 large_folios;
	/** Out: of the folios brought in, those that one huge entry maps (2 MiB on x86-64). */
	__aligned_u64 huge_folios;
	/** Out: bytes of memory given back by punching, resizing and destroying. */
	__aligned_u64 bytes_removed;
	/** Out: events raised. */
	__aligned_u64 events;
};

#define MMAPDEV_COUNTERS_SIZE_VER0 80
#define MMAPDEV_COUNTERS_SIZE_VER1 152

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
#define MMAPDEV_IOC_CREATE   _IO(MMAPDEV_IOC_TYPE, 0x04)
#define MMAPDEV_IOC_DESTROY  _IO(MMAPDEV_IOC_TYPE, 0x05)
#define MMAPDEV_IOC_RESIZE   _IO(MMAPDEV_IOC_TYPE, 0x06)
#define MMAPDEV_IOC_PUNCH    _IO(MMAPDEV_IOC_TYPE, 0x07)
#define MMAPDEV_IOC_NEXT     _IO(MMAPDEV_IOC_TYPE, 0x08)
#define MMAPDEV_IOC_NOTIFY   _IO(MMAPDEV_IOC_TYPE, 0x09)
#define MMAPDEV_IOC_EVENTS   _IO(MMAPDEV_IOC_TYPE, 0x0A)
#define MMAPDEV_IOC_EVENTFD  _IO(MMAPDEV_IOC_TYPE, 0x0B)

#endif /* _UAPI_MMAPDEV_H */
