// SPDX-License-Identifier: GPL-2.0

//! Arithmetic on memory of a device, without a kernel: tested on the host as well.

/// Where memory of a device is: at least one byte, the last of which has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    start: u64,
    len: u64,
    page_shift: usize,
}

impl Span {
    /// Makes one of `len` bytes from a physical address on, in pages of `2^page_shift` bytes. `None` where there are none, or
    /// they go beyond the last address.
    pub(crate) const fn new(start: u64, len: u64, page_shift: usize) -> Option<Self> {
        match start.checked_add(len) {
            Some(_) if len > 0 => Some(Self {
                start,
                len,
                page_shift,
            }),
            _ => None,
        }
    }

    /// Returns the physical address of the first byte.
    pub(crate) const fn start(&self) -> u64 {
        self.start
    }

    /// Returns how many bytes there are.
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether it is made of whole pages. Else what is beside it in a page may be another device's.
    pub(crate) const fn is_whole_pages(&self) -> bool {
        (self.start | self.len) & ((1 << self.page_shift) - 1) == 0
    }

    /// Returns how many pages can be mapped: none where they are not whole.
    pub(crate) const fn pages(&self) -> usize {
        if self.is_whole_pages() {
            (self.len >> self.page_shift) as usize
        } else {
            0
        }
    }

    /// Returns whether there is a piece of `size` bytes, a power of two, at an address that is a multiple of that.
    pub(crate) const fn has_piece(&self, size: u64) -> bool {
        match self.start.checked_next_multiple_of(size) {
            Some(first) => match first.checked_add(size) {
                Some(end) => end <= self.start + self.len,
                None => false,
            },
            None => false,
        }
    }

    /// Returns the page frame of page `index`, of those that can be mapped.
    pub(crate) const fn frame_of(&self, index: usize) -> Option<usize> {
        if index < self.pages() {
            Some((self.start >> self.page_shift) as usize + index)
        } else {
            None
        }
    }

    /// Returns the first page frame of the `2^order` pages around page `index`, by its place in the file, if all of them
    /// are there and a single entry of a page table can map them.
    pub(crate) const fn frame_in(&self, index: usize, order: u32) -> Option<usize> {
        let Some(size) = 1usize.checked_shl(order) else {
            return None;
        };
        let first = index & !(size - 1);
        match (first.checked_add(size), self.frame_of(first)) {
            (Some(end), Some(frame)) if end <= self.pages() && frame & (size - 1) == 0 => {
                Some(frame)
            }
            _ => None,
        }
    }
}

/// Whether bytes are all that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// They are.
    Whole,
    /// They are a part of more.
    Part,
}

impl Piece {
    /// Returns what `len` bytes are of `asked` ones.
    pub(crate) const fn of(len: usize, asked: usize) -> Self {
        if len == asked {
            Self::Whole
        } else {
            Self::Part
        }
    }
}

/// How many bytes one access of a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// A byte.
    One = 1,
    /// Two.
    Two = 2,
    /// Four.
    Four = 4,
    /// Eight.
    Eight = 8,
}

impl Width {
    /// Returns the width of the one access that these bytes are if they are all that was asked for; `None` where they are
    /// not one.
    pub(crate) const fn of(offset: u64, len: usize) -> Option<Self> {
        let width = match len {
            1 => Self::One,
            2 => Self::Two,
            4 => Self::Four,
            8 => Self::Eight,
            _ => return None,
        };
        if offset % len as u64 == 0 {
            Some(width)
        } else {
            None
        }
    }

    /// Returns the width of the next access of bytes that are no single one, of which `left` begin at `offset`: four where
    /// they fit, and narrower at the ends.
    pub(crate) const fn next(offset: u64, left: usize) -> Self {
        if offset % 2 != 0 || left < 2 {
            Self::One
        } else if offset % 4 != 0 || left < 4 {
            Self::Two
        } else {
            Self::Four
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const HUGE: u32 = 9;

    fn span(start: u64, len: u64) -> Span {
        Span::new(start, len, 12).unwrap()
    }

    #[test]
    fn memory_has_bytes_that_have_addresses() {
        assert_eq!(Span::new(4096, 0, 12), None);
        assert_eq!(Span::new(u64::MAX - 4095, 4097, 12), None);
        assert_eq!(span(4096, 8192).pages(), 2);
    }

    #[test]
    fn pages_that_are_not_whole_are_none() {
        for (start, len) in [(4096, 256), (4352, 4096), (4096, 4097), (1, 1)] {
            assert!(!span(start, len).is_whole_pages());
            assert_eq!(span(start, len).pages(), 0);
            assert_eq!(span(start, len).frame_in(0, 0), None);
        }
    }

    #[test]
    fn a_huge_piece_is_one_at_a_multiple_of_its_size() {
        assert!(span(2 * MIB, 2 * MIB).has_piece(2 * MIB));
        assert!(span(MIB, 3 * MIB).has_piece(2 * MIB));
        assert!(!span(MIB, 3 * MIB - 4096).has_piece(2 * MIB));
        assert!(!span(MIB, 2 * MIB).has_piece(2 * MIB));
        let last = u64::MAX - 4095;
        assert!(!span(last, 4095).has_piece(2 * MIB));
    }

    #[test]
    fn an_entry_maps_what_is_all_there_and_aligned() {
        let bar = span(4 * MIB, 5 * MIB);
        assert_eq!(bar.frame_in(0, 0), Some(1024));
        assert_eq!(bar.frame_in(1279, 0), Some(1024 + 1279));
        assert_eq!(bar.frame_in(1280, 0), None);
        assert_eq!(bar.frame_in(700, HUGE), Some(1024 + 512));
        assert_eq!(bar.frame_in(1100, HUGE), None, "half of it is beyond");
        assert_eq!(bar.frame_in(usize::MAX, HUGE), None);
        assert_eq!(bar.frame_in(usize::MAX, 0), None);
        assert_eq!(bar.frame_in(0, 64), None);
        assert_eq!(span(MIB, 8 * MIB).frame_in(600, HUGE), None, "off by one");
    }

    #[test]
    fn bytes_that_are_one_access_are_aligned() {
        assert_eq!(Width::of(8, 8), Some(Width::Eight));
        assert_eq!(Width::of(4, 8), None);
        assert_eq!(Width::of(4, 4), Some(Width::Four));
        assert_eq!(Width::of(3, 1), Some(Width::One));
        assert_eq!(Width::of(0, 16), None);
        assert_eq!(Width::of(0, 0), None);
    }

    #[test]
    fn many_bytes_are_accesses_of_four_with_narrow_ends() {
        let widths = |mut offset: u64, mut left: usize| {
            let mut all = Vec::new();
            while left > 0 {
                let width = Width::next(offset, left) as usize;
                assert_eq!(offset % width as u64, 0);
                all.push(width);
                (offset, left) = (offset + width as u64, left - width);
            }
            all
        };
        assert_eq!(widths(0, 12), [4, 4, 4]);
        assert_eq!(widths(8, 8), [4, 4], "a part of more is no access of eight");
        assert_eq!(widths(1, 10), [1, 2, 4, 2, 1]);
        assert_eq!(widths(2, 7), [2, 4, 1]);
        assert_eq!(widths(3, 1), [1]);
    }
}
