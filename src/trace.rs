// SPDX-License-Identifier: GPL-2.0

//! The tracepoints of the module; [`mmapdev_trace.h`](../trace/mmapdev_trace.h) has what each prints.
//!
//! Each takes the device's id, two numbers, and a result: 0 or a count, or a negative errno.

use crate::abstractions::tracepoint::tracepoints;

tracepoints! {
    /// A touch was answered by one folio, or not at all.
    pub(crate) fn fault = mmapdev_fault(page, order);
    /// A touch was offered as huge, and answered by one entry, or page by page (`EAGAIN`).
    pub(crate) fn huge_fault = mmapdev_huge_fault(page, order);
    /// A touch was answered together with resident neighbours.
    pub(crate) fn map_pages = mmapdev_map_pages(page, order);
    /// A clean page was written to for the first time, in a backing that is written back.
    pub(crate) fn page_mkwrite = mmapdev_page_mkwrite(page, order);
    /// Bytes were copied out.
    pub(crate) fn read = mmapdev_read(offset, length);
    /// Bytes were copied in.
    pub(crate) fn write = mmapdev_write(offset, length);
    /// Memory was given back.
    pub(crate) fn zap = mmapdev_zap(offset, length);
    /// A device was made.
    pub(crate) fn create = mmapdev_create(size, folio);
    /// A device has ended.
    pub(crate) fn destroy = mmapdev_destroy(size, folio);
}
