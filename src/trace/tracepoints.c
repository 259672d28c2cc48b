// SPDX-License-Identifier: GPL-2.0
/* Makes the tracepoints of mmapdev_trace.h, with the entries that Rust calls them by. */
#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "mmapdev_trace.h"
