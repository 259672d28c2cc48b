/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The tracepoints of the module, as the kernel's tracing has them: /sys/kernel/tracing/events/mmapdev.
 *
 * src/trace.rs calls them. All take a device's id, two numbers and a result, so that one declaration there
 * serves all; see src/abstractions/tracepoint.rs.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM mmapdev

#if !defined(_MMAPDEV_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _MMAPDEV_TRACE_H

#include <linux/tracepoint.h>

/* A touch of a mapping: the page of the device, and the order of the folio that answers it. */
DECLARE_EVENT_CLASS(mmapdev_touch,
	TP_PROTO(u64 device, u64 page, u64 order, s64 result),
	TP_ARGS(device, page, order, result),
	TP_STRUCT__entry(
		__field(u64, device)
		__field(u64, page)
		__field(u64, order)
		__field(s64, result)
	),
	TP_fast_assign(
		__entry->device = device;
		__entry->page = page;
		__entry->order = order;
		__entry->result = result;
	),
	TP_printk("device=%llu page=%llu order=%llu result=%lld", __entry->device,
		  __entry->page, __entry->order, __entry->result)
);

DEFINE_EVENT(mmapdev_touch, mmapdev_fault,
	TP_PROTO(u64 device, u64 page, u64 order, s64 result),
	TP_ARGS(device, page, order, result));
DEFINE_EVENT(mmapdev_touch, mmapdev_huge_fault,
	TP_PROTO(u64 device, u64 page, u64 order, s64 result),
	TP_ARGS(device, page, order, result));
DEFINE_EVENT(mmapdev_touch, mmapdev_map_pages,
	TP_PROTO(u64 device, u64 page, u64 order, s64 result),
	TP_ARGS(device, page, order, result));
DEFINE_EVENT(mmapdev_touch, mmapdev_page_mkwrite,
	TP_PROTO(u64 device, u64 page, u64 order, s64 result),
	TP_ARGS(device, page, order, result));

/* Bytes: where, how many were asked for, and how many it were, or an error. */
DECLARE_EVENT_CLASS(mmapdev_bytes,
	TP_PROTO(u64 device, u64 offset, u64 length, s64 result),
	TP_ARGS(device, offset, length, result),
	TP_STRUCT__entry(
		__field(u64, device)
		__field(u64, offset)
		__field(u64, length)
		__field(s64, result)
	),
	TP_fast_assign(
		__entry->device = device;
		__entry->offset = offset;
		__entry->length = length;
		__entry->result = result;
	),
	TP_printk("device=%llu offset=%llu length=%llu result=%lld", __entry->device,
		  __entry->offset, __entry->length, __entry->result)
);

DEFINE_EVENT(mmapdev_bytes, mmapdev_read,
	TP_PROTO(u64 device, u64 offset, u64 length, s64 result),
	TP_ARGS(device, offset, length, result));
DEFINE_EVENT(mmapdev_bytes, mmapdev_write,
	TP_PROTO(u64 device, u64 offset, u64 length, s64 result),
	TP_ARGS(device, offset, length, result));
/* Memory that was given back by punching, resizing or destroying: the result is how much. */
DEFINE_EVENT(mmapdev_bytes, mmapdev_zap,
	TP_PROTO(u64 device, u64 offset, u64 length, s64 result),
	TP_ARGS(device, offset, length, result));

/* A device that comes or goes: its size, and the bytes in its largest folio; one that cannot be made is 0. */
DECLARE_EVENT_CLASS(mmapdev_life,
	TP_PROTO(u64 device, u64 size, u64 folio, s64 result),
	TP_ARGS(device, size, folio, result),
	TP_STRUCT__entry(
		__field(u64, device)
		__field(u64, size)
		__field(u64, folio)
		__field(s64, result)
	),
	TP_fast_assign(
		__entry->device = device;
		__entry->size = size;
		__entry->folio = folio;
		__entry->result = result;
	),
	TP_printk("device=%llu size=%llu folio=%llu result=%lld", __entry->device,
		  __entry->size, __entry->folio, __entry->result)
);

DEFINE_EVENT(mmapdev_life, mmapdev_create,
	TP_PROTO(u64 device, u64 size, u64 folio, s64 result),
	TP_ARGS(device, size, folio, result));
DEFINE_EVENT(mmapdev_life, mmapdev_destroy,
	TP_PROTO(u64 device, u64 size, u64 folio, s64 result),
	TP_ARGS(device, size, folio, result));

#endif /* _MMAPDEV_TRACE_H */

/* This part must be outside protection. */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE mmapdev_trace
#include <trace/define_trace.h>
