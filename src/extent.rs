// SPDX-License-Identifier: GPL-2.0

//! Arithmetic on offsets, pages and folios, without a kernel: tested on the host as well.

/// The order that is worth a try between the largest and single pages: 64 KiB on x86-64, 16 page-table
/// entries filled at once, which some CPUs join into one entry of their TLB.
const MIDDLE_ORDER: u32 = 4;

/// Returns the orders to try, largest first, for a folio that holds page `index` of a file of `pages`
/// pages: those up to `max_order` whose aligned folio around `index` ends within the file.
///
/// The last is always 0.
pub(crate) fn orders_around(
    index: usize,
    pages: usize,
    max_order: u32,
) -> impl Iterator<Item = u32> {
    let smaller = [MIDDLE_ORDER, 0]
        .into_iter()
        .filter(move |&order| order < max_order);
    core::iter::once(max_order)
        .chain(smaller)
        .filter(move |&order| {
            let start = align_down(index, order);
            order == 0 || (pages >= 1 << order && start <= pages - (1 << order))
        })
}

/// Rounds a page index down to a multiple of `2^order`.
pub(crate) const fn align_down(index: usize, order: u32) -> usize {
    index >> order << order
}

/// Returns how many of `wanted` bytes from `offset` on lie before `end`.
pub(crate) const fn bytes_before(offset: u64, wanted: usize, end: u64) -> usize {
    let left = end.saturating_sub(offset);
    if left < wanted as u64 {
        left as usize
    } else {
        wanted
    }
}

/// Returns the end of `length` bytes from `offset` on, exclusive; `None` where there are none, or a file cannot
/// have it.
pub(crate) const fn end_of(offset: u64, length: u64) -> Option<u64> {
    match offset.checked_add(length) {
        Some(end) if length > 0 && end <= i64::MAX as u64 => Some(end),
        _ => None,
    }
}

/// Returns whether `len` bytes from page `index` on, of `2^page_shift` bytes each, have offsets that a file
/// can have.
pub(crate) const fn offsets_exist(index: usize, len: usize, page_shift: usize) -> bool {
    const LAST: u64 = i64::MAX as u64;
    len as u64 <= LAST && index as u64 <= (LAST - len as u64) >> page_shift
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(index: usize, pages: usize, max_order: u32) -> Vec<u32> {
        orders_around(index, pages, max_order).collect()
    }

    #[test]
    fn whole_huge_pages_are_tried_first() {
        assert_eq!(orders(0, 1024, 9), [9, 4, 0]);
        assert_eq!(orders(511, 512, 9), [9, 4, 0]);
        assert_eq!(orders(1023, 1024, 9), [9, 4, 0]);
    }

    #[test]
    fn no_folio_goes_beyond_the_end() {
        assert_eq!(orders(512, 1023, 9), [4, 0]);
        assert_eq!(orders(1008, 1023, 9), [0]);
        assert_eq!(orders(0, 15, 9), [0]);
        assert_eq!(orders(0, 1, 9), [0]);
    }

    #[test]
    fn no_folio_is_larger_than_allowed() {
        assert_eq!(orders(0, 1024, 0), [0]);
        assert_eq!(orders(0, 1024, 4), [4, 0]);
        assert_eq!(orders(0, 1024, 8), [8, 4, 0]);
    }

    #[test]
    fn the_last_page_that_can_be_counted_is_no_overflow() {
        assert_eq!(orders(usize::MAX, usize::MAX, 9), [0]);
        assert_eq!(orders(usize::MAX - 1, usize::MAX, 9), [0]);
    }

    #[test]
    fn a_folio_starts_at_a_multiple_of_its_size() {
        assert_eq!(align_down(511, 9), 0);
        assert_eq!(align_down(512, 9), 512);
        assert_eq!(align_down(37, 4), 32);
        assert_eq!(align_down(37, 0), 37);
    }

    #[test]
    fn counts_stop_at_the_end() {
        assert_eq!(bytes_before(0, 10, 100), 10);
        assert_eq!(bytes_before(95, 10, 100), 5);
        assert_eq!(bytes_before(100, 10, 100), 0);
        assert_eq!(bytes_before(u64::MAX, usize::MAX, 100), 0);
        assert_eq!(bytes_before(0, usize::MAX, u64::MAX), usize::MAX);
    }

    #[test]
    fn a_range_ends_within_what_a_file_can_have() {
        const LAST: u64 = i64::MAX as u64;
        assert_eq!(end_of(5, 10), Some(15));
        assert_eq!(end_of(0, LAST), Some(LAST));
        assert_eq!(end_of(LAST - 1, 1), Some(LAST));
        assert_eq!(end_of(7, 0), None);
        assert_eq!(end_of(LAST, 1), None);
        assert_eq!(end_of(u64::MAX, 1), None);
        assert_eq!(end_of(1, u64::MAX), None);
    }

    #[test]
    fn offsets_end_where_the_sign_begins() {
        assert!(offsets_exist(0, 1, 12));
        assert!(offsets_exist((1 << 51) - 2, 4096, 12));
        assert!(!offsets_exist((1 << 51) - 1, 4096, 12));
        assert!(!offsets_exist(1 << 51, 1, 12));
        assert!(!offsets_exist(usize::MAX, usize::MAX, 12));
    }
}
