// SPDX-License-Identifier: GPL-2.0
/* Makes the tracepoints of mmapdev_trace.h, with the functions that src/trace.rs calls them by. */
#define CREATE_TRACE_POINTS
#include "mmapdev_trace.h"
#include "../abstractions/tracepoint.h"

ABSTRACTIONS_TRACEPOINT(mmapdev_fault)
ABSTRACTIONS_TRACEPOINT(mmapdev_huge_fault)
ABSTRACTIONS_TRACEPOINT(mmapdev_map_pages)
ABSTRACTIONS_TRACEPOINT(mmapdev_page_mkwrite)
ABSTRACTIONS_TRACEPOINT(mmapdev_read)
ABSTRACTIONS_TRACEPOINT(mmapdev_write)
ABSTRACTIONS_TRACEPOINT(mmapdev_zap)
ABSTRACTIONS_TRACEPOINT(mmapdev_create)
ABSTRACTIONS_TRACEPOINT(mmapdev_destroy)
