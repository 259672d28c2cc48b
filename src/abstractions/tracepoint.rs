// SPDX-License-Identifier: GPL-2.0

//! Tracepoints of a module of its own.
//!
//! C header: [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h). Reference:
//! <https://docs.kernel.org/trace/tracepoints.html>
//!
//! The `kernel` crate's `declare_trace!` looks for a tracepoint in the bindings, which a module outside the
//! tree has no part in. [`tracepoints`] declares what the module's own C file defines.

/// Makes a safe function for each tracepoint that a C file of the module defines.
///
/// The C side is `TRACE_EVENT()` or `DEFINE_EVENT()` with `TP_PROTO(u64, u64, u64, s64)`, and
/// `ABSTRACTIONS_TRACEPOINT()` of `tracepoint.h`, in a file that defines `CREATE_TRACE_POINTS`. With the tracepoint off a
/// call is a jump that is not taken, as in C. A name that no such file has does not link, whatever tracepoint of the
/// kernel's it may be, and one that takes anything else does not compile there. In a kernel without tracepoints a call
/// is nothing.
macro_rules! tracepoints {
    ($($(#[$attribute:meta])* $visibility:vis fn $name:ident = $tracepoint:ident($first:ident, $second:ident);)*) => {$(
        $(#[$attribute])*
        #[inline(always)]
        #[allow(unsafe_code, unexpected_cfgs, unused_variables)]
        $visibility fn $name(device: u64, $first: u64, $second: u64, result: i64) {
            // So that the benchmark can show what it costs to have them.
            #[cfg(all(CONFIG_TRACEPOINTS, not(tracepoints_left_out)))]
            ::kernel::macros::paste! {
                // It has zero-sized parts in some configurations, and is only pointed at.
                #[allow(improper_ctypes)]
                extern "C" {
                    static [<__tracepoint_ $tracepoint>]: ::kernel::bindings::tracepoint;
                    fn [<abstractions_trace_ $tracepoint>](device: u64, first: u64, second: u64, result: i64);
                }
                // SAFETY: Only the kernel's macros make statics of such a name, all of that type; its key is only looked at.
                let is_on = unsafe {
                    ::kernel::jump_label::static_branch_unlikely!(
                        [<__tracepoint_ $tracepoint>],
                        ::kernel::bindings::tracepoint,
                        key
                    )
                };
                if is_on {
                    // SAFETY: Only `ABSTRACTIONS_TRACEPOINT()` makes functions of such a name, each of which takes these
                    // four numbers, which may have any value.
                    unsafe { [<abstractions_trace_ $tracepoint>](device, $first, $second, result) };
                }
            }
        }
    )*};
}
pub(crate) use tracepoints;
