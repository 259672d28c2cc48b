/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The C side of tracepoint.rs: what Rust calls a tracepoint by.
 *
 * The file that defines the tracepoints names each once. The name of the function is made here alone, so that there is
 * none of such a name that takes anything else; and the compiler looks whether the tracepoint takes these numbers.
 */
#ifndef _ABSTRACTIONS_TRACEPOINT_H
#define _ABSTRACTIONS_TRACEPOINT_H

#include <linux/tracepoint.h>
#include <linux/types.h>

#define ABSTRACTIONS_TRACEPOINT(name)                                                              \
	void abstractions_trace_##name(u64 subject, u64 first, u64 second, s64 result);            \
	notrace void abstractions_trace_##name(u64 subject, u64 first, u64 second, s64 result)     \
	{                                                                                          \
		trace_##name(subject, first, second, result);                                      \
	}

#endif
