// SPDX-License-Identifier: GPL-2.0

//! What the writer does, made by a seed, and the words that it writes.

use mmapdev_userspace::random::Random;
use mmapdev_userspace::{KIB, MIB, PAGE};
use std::fmt;
use std::ops::Range;

/// Bytes of the file.
pub const SIZE: usize = 8 * MIB;
/// Bytes in a word, which is written as a whole.
pub const WORD: usize = 8;

/// One thing that the writer does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Stores through the mapping.
    Store(Range<usize>),
    /// `pwrite()`.
    Write(Range<usize>),
    /// A write that is on the disk when it returns (`RWF_DSYNC`).
    WriteThrough(Range<usize>),
    /// `msync()` of whole pages.
    SyncRange(Range<usize>),
    /// `fsync()`.
    Sync,
    /// `fdatasync()`.
    SyncData,
    /// Has whole pages written and taken out of memory, and looks at them.
    PageOut(Range<usize>),
}

impl Step {
    /// The bytes that it changes.
    pub fn written(&self) -> Option<Range<usize>> {
        match self {
            Self::Store(range) | Self::Write(range) | Self::WriteThrough(range) => {
                Some(range.clone())
            }
            _ => None,
        }
    }

    /// The bytes that are on the disk when it has returned.
    pub fn synced(&self) -> Option<Range<usize>> {
        match self {
            Self::WriteThrough(range) | Self::SyncRange(range) => Some(range.clone()),
            Self::Sync | Self::SyncData => Some(0..SIZE),
            _ => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, range) = match self {
            Self::Store(range) => ("stores", range),
            Self::Write(range) => ("pwrite()", range),
            Self::WriteThrough(range) => ("pwrite() through to the disk", range),
            Self::SyncRange(range) => ("msync()", range),
            Self::Sync => return formatter.write_str("fsync()"),
            Self::SyncData => return formatter.write_str("fdatasync()"),
            Self::PageOut(range) => ("MADV_PAGEOUT", range),
        };
        write!(
            formatter,
            "{what} of {:#x} to {:#x}",
            range.start, range.end
        )
    }
}

/// All steps, from number 1 on, without an end.
pub struct Sequence {
    random: Random,
    number: u32,
}

impl Sequence {
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            number: 0,
        }
    }

    /// A few words, or up to 64 KiB, wherever they begin.
    fn words(&mut self) -> Range<usize> {
        let most = [64, PAGE, 64 * KIB][self.random.below(3)] / WORD;
        let len = (1 + self.random.below(most)) * WORD;
        let start = self.random.below((SIZE - len) / WORD + 1) * WORD;
        start..start + len
    }

    fn pages(&mut self, most: usize) -> Range<usize> {
        let len = (1 + self.random.below(most)) * PAGE;
        let start = self.random.below((SIZE - len) / PAGE + 1) * PAGE;
        start..start + len
    }

    /// Bytes to write: whole pages now and then, which need not be read first.
    fn bytes(&mut self) -> Range<usize> {
        if self.random.below(4) == 0 {
            self.pages(8)
        } else {
            self.words()
        }
    }
}

impl Iterator for Sequence {
    type Item = (u32, Step);

    fn next(&mut self) -> Option<Self::Item> {
        self.number += 1;
        let step = match self.random.below(100) {
            0..42 => Step::Store(self.bytes()),
            42..72 => Step::Write(self.bytes()),
            72..78 => Step::WriteThrough(self.bytes()),
            78..88 => Step::SyncRange(self.pages(SIZE / PAGE / 4)),
            88..92 => Step::Sync,
            92..96 => Step::SyncData,
            _ => Step::PageOut(self.pages(64)),
        };
        Some((self.number, step))
    }
}

/// The words that steps write.
pub struct Tags {
    mark: u32,
}

impl Tags {
    pub fn new(seed: u64) -> Self {
        Self {
            mark: (Random::new(seed).next_u64() >> 32) as u32,
        }
    }

    /// What a step writes to a word of the file; step 0 is what the file has at first.
    pub fn word(&self, step: u32, word: usize) -> u64 {
        let is_hole = step == 0 && !written_at_first().any(|piece| piece.contains(&(word * WORD)));
        if is_hole {
            return 0;
        }
        (u64::from(step) << 32) | u64::from(word as u32 ^ self.mark)
    }

    /// The step that may have written a word.
    pub fn step_of(value: u64) -> u32 {
        (value >> 32) as u32
    }

    pub fn bytes(&self, step: u32, range: &Range<usize>) -> Vec<u8> {
        (range.start / WORD..range.end / WORD)
            .flat_map(|word| self.word(step, word).to_le_bytes())
            .collect()
    }
}

/// The words of some bytes that lie at a range of the file.
pub fn words<'a>(range: &Range<usize>, bytes: &'a [u8]) -> impl Iterator<Item = (usize, u64)> + 'a {
    let first = range.start / WORD;
    let words = bytes.chunks_exact(WORD).enumerate();
    words.map(move |(index, bytes)| {
        let value = bytes.try_into().expect("the bytes of a word");
        (first + index, u64::from_le_bytes(value))
    })
}

/// Where the file has bytes from the beginning; in between are holes, for which the file system has to find room,
/// and has to note it, when they are written.
pub fn written_at_first() -> impl Iterator<Item = Range<usize>> {
    const PIECE: usize = 512 * KIB;
    (0..SIZE)
        .step_by(2 * PIECE)
        .map(|start| start..start + PIECE)
}

#[cfg(test)]
mod tests {
    use super::{Sequence, Step, SIZE, WORD};

    #[test]
    fn steps_are_the_same_for_a_seed_and_stay_within_the_file() {
        let steps: Vec<_> = Sequence::new(7).take(5000).collect();
        assert!(Sequence::new(7).take(5000).eq(steps.iter().cloned()));
        assert!(!Sequence::new(8).take(5000).eq(steps.iter().cloned()));
        for (_, step) in &steps {
            for range in [step.written(), step.synced()].into_iter().flatten() {
                assert!(range.start < range.end && range.end <= SIZE);
                assert!(range.start % WORD == 0 && range.end % WORD == 0);
            }
        }
        assert!(steps.iter().any(|(_, step)| *step == Step::Sync));
    }
}
