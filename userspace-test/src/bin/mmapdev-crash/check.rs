// SPDX-License-Identifier: GPL-2.0

//! Whether a file has what was synced.

use crate::sequence::{self, Sequence, Step, Tags, SIZE, WORD};
use std::fs;
use std::io;
use std::path::Path;

/// How many steps the writer may have come further than the last one that it has told of; more it never does between
/// two of them.
const FURTHER: u32 = 10_000;

/// What each word of the file must be.
struct Truth {
    tags: Tags,
    /// The steps, from number 1 on.
    steps: Vec<Step>,
    /// Of each word the last step that wrote it before it was synced, or 0.
    least: Vec<u32>,
    /// And the step that synced it last, or 0.
    by: Vec<u32>,
}

impl Truth {
    fn new(seed: u64, synced: u32) -> Self {
        let mut last = vec![0; SIZE / WORD];
        let (mut least, mut by) = (last.clone(), last.clone());
        let mut steps = Vec::new();
        for (number, step) in Sequence::new(seed).take((synced + FURTHER) as usize) {
            if number <= synced {
                if let Some(range) = step.written() {
                    last[range.start / WORD..range.end / WORD].fill(number);
                }
                if let Some(range) = step.synced() {
                    let words = range.start / WORD..range.end / WORD;
                    least[words.clone()].copy_from_slice(&last[words.clone()]);
                    by[words].fill(number);
                }
            }
            steps.push(step);
        }
        Self {
            tags: Tags::new(seed),
            steps,
            least,
            by,
        }
    }

    /// Whether the last thing that was synced is there, or what was written to that place later.
    fn is_right(&self, word: usize, found: u64) -> bool {
        // A hole is zeros, and what the file had at first has step 0 in it.
        let step = Tags::step_of(found);
        let wrote = step == 0 || self.step(step).is_some_and(|step| writes(step, word));
        wrote && step >= self.least[word] && found == self.tags.word(step, word)
    }

    fn step(&self, number: u32) -> Option<&Step> {
        self.steps.get(number.checked_sub(1)? as usize)
    }

    fn describe(&self, word: usize, found: u64) -> String {
        let least = self.least[word];
        let wanted = match self.step(least) {
            Some(step) => format!("what step {least} wrote ({step})"),
            None => "what the file had at first".to_string(),
        };
        let synced = match self.step(self.by[word]) {
            Some(step) => format!(", synced by step {} ({step})", self.by[word]),
            None => String::new(),
        };
        let number = Tags::step_of(found);
        let what = match self.step(number) {
            Some(step) if writes(step, word) && found == self.tags.word(number, word) => {
                format!("what step {number} wrote ({step})")
            }
            _ if found == self.tags.word(0, word) => "what the file had at first".to_string(),
            _ => "what was never written there".to_string(),
        };
        let offset = word * WORD;
        format!("{offset:#x}: expected {wanted}{synced}, or later; found {found:#018x}, {what}")
    }
}

fn writes(step: &Step, word: usize) -> bool {
    step.written()
        .is_some_and(|range| range.contains(&(word * WORD)))
}

/// The last step that the writer has said to be synced. Half a line, which the killing has cut off, says nothing.
fn last_synced(said: &str) -> u32 {
    said.split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n')?.trim_end().strip_prefix("synced "))
        .filter_map(|number| number.parse().ok())
        .max()
        .unwrap_or(0)
}

pub fn check(seed: u64, said: &Path, file: &Path) -> io::Result<()> {
    let synced = last_synced(&String::from_utf8_lossy(&fs::read(said)?));
    let bytes = fs::read(file)?;
    if bytes.len() != SIZE {
        let len = bytes.len();
        return Err(io::Error::other(format!("{len} bytes, not {SIZE}")));
    }
    let truth = Truth::new(seed, synced);
    let mut wrong = Vec::new();
    let mut later = 0;
    for (word, found) in sequence::words(&(0..SIZE), &bytes) {
        if !truth.is_right(word, found) {
            wrong.push((word, found));
        } else if Tags::step_of(found) > truth.least[word] {
            later += 1;
        }
    }
    let checked = truth.least.iter().filter(|&&step| step > 0).count();
    println!(
        "synced until step {synced}: {} KiB of synced writes, {} KiB of them or others from later, {} wrong",
        checked * WORD / 1024,
        later * WORD / 1024,
        wrong.len() * WORD
    );
    if wrong.is_empty() {
        return Ok(());
    }
    // The first word of each stretch.
    let mut previous = None;
    let starts = wrong.iter().filter(|&&(word, _)| {
        let goes_on = previous == Some(word.wrapping_sub(1));
        previous = Some(word);
        !goes_on
    });
    for &(word, found) in starts.take(10) {
        println!("{}", truth.describe(word, found));
    }
    Err(io::Error::other("the file has not what was synced"))
}

#[cfg(test)]
mod tests {
    use super::{last_synced, Truth};
    use crate::sequence::{Sequence, Step, Tags, SIZE, WORD};

    #[test]
    fn half_a_line_says_nothing() {
        assert_eq!(last_synced(""), 0);
        assert_eq!(last_synced("synced 1\r\nsynced 12\nsynced 300"), 12);
    }

    #[test]
    fn what_was_synced_or_came_later_is_right_and_nothing_else() {
        let seed = 3;
        let (sync, _) = Sequence::new(seed)
            .find(|(number, step)| *number > 50 && *step == Step::Sync)
            .expect("a sync");
        let truth = Truth::new(seed, sync);
        let tags = Tags::new(seed);
        let mut last = vec![0; SIZE / WORD];
        for (number, step) in Sequence::new(seed).take(sync as usize) {
            let range = step.written().unwrap_or(0..0);
            let first = range.start / WORD;
            for (index, last) in last[first..range.end / WORD].iter_mut().enumerate() {
                let (word, before) = (first + index, std::mem::replace(last, number));
                assert!(!truth.is_right(word, tags.word(before, word)));
            }
        }
        for (word, &step) in last.iter().enumerate() {
            let value = tags.word(step, word);
            assert!(truth.is_right(word, value));
            assert!(!truth.is_right(word, value ^ 1) && !truth.is_right(word, value | (1 << 63)));
        }
        let (number, range) = Sequence::new(seed)
            .skip(sync as usize)
            .find_map(|(number, step)| Some((number, step.written()?)))
            .expect("a write");
        let word = range.start / WORD;
        assert!(truth.is_right(word, tags.word(number, word)));
    }
}
