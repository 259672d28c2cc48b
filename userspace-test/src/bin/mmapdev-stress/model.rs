// SPDX-License-Identifier: GPL-2.0

//! What each page of a device must hold, whatever is done to it and to its neighbours.
//!
//! A page's content is all there is to know of its number and its step. Steps only grow: each store to a page
//! makes the next odd one, in which a few words of the page say which page, which of its words and which step it
//! is, and the rest is zero; each time its memory is given back, the next even one, in which all is zero.
//!
//! Whoever changes a page holds its lock, so that a look at it under the lock has one right answer. A look without
//! the lock has few: of each word, one of the steps from the last that was finished before the look to the last
//! that was begun until after it; zeros are among these only if one of those steps was even.

use crate::kinds::KINDS;
use mmapdev_userspace::PAGE;
use std::sync::atomic::{AtomicU32, AtomicU8, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where in a page its words are: the first and the last that there are, and some on both sides of sectors.
pub(crate) const WORDS: [usize; 8] = [0, 520, 1016, 1656, 2048, 2600, 3512, PAGE - 8];

/// What is in a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    step: u32,
    /// Which of its words have been overwritten with zeros since: the page was punched in part.
    zeroed: u8,
}

impl Content {
    /// What comes of a store to all of the page.
    pub(crate) fn stored(self) -> Self {
        Self {
            step: (self.step + 1) | 1,
            zeroed: 0,
        }
    }

    /// What comes of giving the page back.
    pub(crate) fn punched(self) -> Self {
        Self {
            step: (self.step + 1) & !1,
            zeroed: 0,
        }
    }

    /// What comes of overwriting the bytes from `start` to `end` with zeros. Neither is within a word.
    pub(crate) fn cut(self, start: usize, end: usize) -> Self {
        let cut = (0..WORDS.len()).filter(|&word| (start..end).contains(&WORDS[word]));
        let mask = cut.fold(0, |mask, word| mask | (1 << word));
        Self {
            zeroed: if self.step % 2 == 1 {
                self.zeroed | mask
            } else {
                0
            },
            ..self
        }
    }

    fn has_word(self, word: usize) -> bool {
        self.step % 2 == 1 && (self.zeroed >> word) & 1 == 0
    }
}

/// The upper half of a word, no byte of which is zero: whose it is.
fn tag(kind: usize, page: usize, word: usize) -> u64 {
    let place = ((((kind + 1) << 20) | page) * WORDS.len() + word) as u32;
    // Spread, so that a byte of one is hardly that of another.
    u64::from(place.wrapping_mul(0x9E37_79B1) | 0x0101_0101) << 32
}

/// Says of a word that is not what it has to be whose it is.
fn origin(value: u64, pages: usize) -> String {
    let step = value as u32;
    for (kind, name) in KINDS.iter().map(|kind| kind.name).enumerate() {
        for page in 0..pages {
            for (word, at) in WORDS.iter().enumerate() {
                if tag(kind, page, word) == value & !u64::from(u32::MAX) {
                    return format!(
                        "{value:#x}, which is step {step} at {at} of page {page} of the device with {name}"
                    );
                }
            }
        }
    }
    format!("{value:#x}, which was never written")
}

#[derive(Default)]
struct State {
    content: Content,
    is_beyond: bool,
}

/// A page, with what may be seen of it without its lock.
#[derive(Default)]
struct Page {
    state: Mutex<State>,
    finished: AtomicU32,
    begun: AtomicU32,
    /// The last even step that was begun.
    punching: AtomicU32,
    zeroed: AtomicU8,
}

/// All pages of one device.
pub(crate) struct Model {
    kind: usize,
    pages: Vec<Page>,
}

impl Model {
    /// A device that is fresh: zeros.
    pub(crate) fn new(kind: usize, pages: usize) -> Self {
        Self {
            kind,
            pages: std::iter::repeat_with(Page::default).take(pages).collect(),
        }
    }

    /// Locks a page. Who locks several does so in ascending order.
    pub(crate) fn lock(&self, page: usize) -> Locked<'_> {
        let of = &self.pages[page];
        // Whoever has panicked with it has failed, and says so.
        let state = of.state.lock().unwrap_or_else(PoisonError::into_inner);
        Locked {
            model: self,
            page,
            of,
            state,
        }
    }

    /// Locks a run of pages.
    pub(crate) fn lock_run(&self, first: usize, pages: usize) -> Vec<Locked<'_>> {
        (first..first + pages).map(|page| self.lock(page)).collect()
    }

    /// Locks the pages of a run up to the first that is beyond the end.
    pub(crate) fn lock_existing(&self, first: usize, pages: usize) -> Vec<Locked<'_>> {
        (first..first + pages)
            .map(|page| self.lock(page))
            .take_while(|page| !page.is_beyond())
            .collect()
    }

    /// Begins a look at a page without its lock.
    pub(crate) fn look(&self, page: usize) -> Look<'_> {
        let of = &self.pages[page];
        Look {
            model: self,
            page,
            of,
            finished: of.finished.load(SeqCst),
            zeroed: of.zeroed.load(SeqCst),
        }
    }

    /// The bytes of a page.
    fn bytes(&self, page: usize, content: Content) -> Vec<u8> {
        let mut bytes = vec![0; PAGE];
        for (word, at) in WORDS.into_iter().enumerate() {
            let value = self.word(page, word, content);
            bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }

    fn word(&self, page: usize, word: usize, content: Content) -> u64 {
        if content.has_word(word) {
            tag(self.kind, page, word) | u64::from(content.step)
        } else {
            0
        }
    }
}

/// The lock of a page.
pub(crate) struct Locked<'a> {
    model: &'a Model,
    page: usize,
    of: &'a Page,
    state: MutexGuard<'a, State>,
}

impl Locked<'_> {
    /// The number of the page.
    pub(crate) fn page(&self) -> usize {
        self.page
    }

    /// Whether it is beyond the end of the device.
    pub(crate) fn is_beyond(&self) -> bool {
        self.state.is_beyond
    }

    /// Notes whether it is so.
    pub(crate) fn set_beyond(&mut self, is_beyond: bool) {
        self.state.is_beyond = is_beyond;
    }

    /// What is in it.
    pub(crate) fn content(&self) -> Content {
        self.state.content
    }

    /// Its bytes with this content.
    pub(crate) fn bytes_of(&self, content: Content) -> Vec<u8> {
        self.model.bytes(self.page, content)
    }

    /// One of its words with this content.
    pub(crate) fn word_of(&self, word: usize, content: Content) -> u64 {
        self.model.word(self.page, word, content)
    }

    /// Says what is going to be in it, before the first byte of that can be seen.
    pub(crate) fn begin(&self, next: Content) {
        self.of.zeroed.fetch_or(next.zeroed, SeqCst);
        if next.step % 2 == 0 {
            self.of.punching.store(next.step, SeqCst);
        }
        self.of.begun.store(next.step, SeqCst);
    }

    /// Says that it is in it.
    pub(crate) fn finish(&mut self, next: Content) {
        self.state.content = next;
        self.of.zeroed.store(next.zeroed, SeqCst);
        self.of.finished.store(next.step, SeqCst);
    }

    /// Compares one of its words, as it was taken out; `Err` says what is wrong.
    pub(crate) fn check_word(&self, word: usize, seen: u64) -> Result<(), String> {
        let content = self.content();
        let expected = self.word_of(word, content);
        if seen == expected {
            return Ok(());
        }
        Err(self.sentence(WORDS[word], expected, seen))
    }

    fn sentence(&self, at: usize, expected: u64, seen: u64) -> String {
        format!(
            "page {} at {at}: expected {expected:#x} (step {}), seen {}",
            self.page,
            self.content().step,
            origin(seen, self.model.pages.len())
        )
    }

    /// Compares all bytes of it with what has to be there; `Err` says what is wrong.
    pub(crate) fn check(&self, seen: &[u8]) -> Result<(), String> {
        self.check_part(self.content(), 0, seen)
    }

    /// Does the same where its first `done` bytes are those of `next` already.
    pub(crate) fn check_part(&self, next: Content, done: usize, seen: &[u8]) -> Result<(), String> {
        let mut expected = self.bytes_of(self.content());
        expected[..done].copy_from_slice(&self.bytes_of(next)[..done]);
        let Some(at) = (0..PAGE).find(|&at| seen.get(at) != Some(&expected[at])) else {
            return Ok(());
        };
        let at = at & !7;
        let word = |bytes: &[u8]| {
            let eight = bytes
                .get(at..at + 8)
                .and_then(|eight| eight.try_into().ok());
            eight.map_or(0, u64::from_ne_bytes)
        };
        Err(self.sentence(at, word(&expected), word(seen)))
    }
}

/// A look at a page without its lock.
pub(crate) struct Look<'a> {
    model: &'a Model,
    page: usize,
    of: &'a Page,
    finished: u32,
    zeroed: u8,
}

impl Look<'_> {
    /// Checks what was seen since the look began, as it was copied, byte by byte perhaps; `Err` says what is wrong.
    pub(crate) fn check(&self, seen: &[u8]) -> Result<(), String> {
        // In this order: who takes a bit away has begun a step before.
        let zeroed = self.zeroed | self.of.zeroed.load(SeqCst);
        let (from, to) = (self.finished, self.of.begun.load(SeqCst).max(self.finished));
        // From one store to the next there is an even number, which need not be a step.
        let was_zero = from % 2 == 0 || self.of.punching.load(SeqCst) > from;
        let mut rest = 0;
        for (word, at) in WORDS.into_iter().enumerate() {
            self.check_zeros(seen, rest, at)?;
            rest = at + 8;
            let eight: [u8; 8] = seen[at..rest].try_into().map_err(|_| "a short page")?;
            let may_be_zero = was_zero || (zeroed >> word) & 1 != 0;
            let steps = || (from..=to).filter(|step| step % 2 == 1);
            let value = |step| {
                let content = Content { step, zeroed: 0 };
                self.model.word(self.page, word, content).to_ne_bytes()
            };
            let is_right = (0..8).all(|byte| {
                (may_be_zero && eight[byte] == 0)
                    || steps().any(|step| eight[byte] == value(step)[byte])
            });
            if !is_right {
                return Err(format!(
                    "page {} at {at}: expected steps {from} to {to}{}, seen {}",
                    self.page,
                    if may_be_zero { " or zeros" } else { "" },
                    origin(u64::from_ne_bytes(eight), self.model.pages.len())
                ));
            }
        }
        Ok(())
    }

    fn check_zeros(&self, seen: &[u8], start: usize, end: usize) -> Result<(), String> {
        match seen[start..end].iter().position(|&byte| byte != 0) {
            None => Ok(()),
            Some(at) => Err(format!(
                "page {} at {}: expected zeros, as between all words, seen the byte {:#x}",
                self.page,
                start + at,
                seen[start + at]
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Content, Model, WORDS};
    use mmapdev_userspace::PAGE;

    #[test]
    fn a_locked_page_has_one_content() {
        let model = Model::new(0, 4);
        let mut page = model.lock(2);
        assert!(page.check(&[0; PAGE]).is_ok());
        let next = page.content().stored();
        page.begin(next);
        page.finish(next);
        let bytes = page.bytes_of(next);
        assert!(page.check(&bytes).is_ok());
        assert!(page.check(&[0; PAGE]).is_err());
        assert!(page.check(&bytes[..PAGE - 1]).is_err());
        let neighbours = model.bytes(1, next);
        let words = page.check(&neighbours).unwrap_err();
        assert!(words.contains("which is step 1 at 0 of page 1"), "{words}");
    }

    #[test]
    fn what_has_come_of_a_store_is_told_from_what_has_not() {
        let model = Model::new(0, 1);
        let page = model.lock(0);
        let next = page.content().stored();
        let done = WORDS[2] + 8;
        let mut bytes = page.bytes_of(next);
        bytes[done..].fill(0);
        assert!(page.check_part(next, done, &bytes).is_ok());
        assert!(page.check_part(next, WORDS[2], &bytes).is_err(), "too much");
        assert!(page.check_part(next, WORDS[3] + 8, &bytes).is_err(), "lost");
        assert!(page.check_part(next, 0, &[0; PAGE]).is_ok());
        let all = page.bytes_of(next);
        assert!(page.check_part(next, PAGE, &all).is_ok());
    }

    #[test]
    fn what_is_cut_is_zero_until_the_next_store() {
        let model = Model::new(1, 1);
        let stored = Content::default().stored();
        let cut = stored.cut(WORDS[3] + 8, PAGE);
        let bytes = model.bytes(0, cut);
        assert_ne!(bytes[WORDS[3]..WORDS[3] + 8], [0; 8]);
        assert!(bytes[WORDS[3] + 8..].iter().all(|&byte| byte == 0));
        assert_eq!(cut.punched().stored(), stored.punched().stored());
        assert_eq!(stored.punched().cut(0, PAGE), stored.punched());
    }

    #[test]
    fn a_look_sees_what_was_between_its_ends_and_nothing_else() {
        let model = Model::new(0, 1);
        let mut page = model.lock(0);
        let contents: Vec<_> = std::iter::successors(Some(Content::default().stored()), |last| {
            Some(last.stored())
        })
        .take(4)
        .collect();
        for &content in &contents[..2] {
            page.begin(content);
            page.finish(content);
        }
        let look = model.look(0);
        let bytes = |content| model.bytes(0, content);
        assert!(look.check(&bytes(contents[1])).is_ok());
        assert!(look.check(&bytes(contents[0])).is_err(), "older");
        assert!(look.check(&[0; PAGE]).is_err(), "lost");
        page.begin(contents[2]);
        assert!(look.check(&bytes(contents[2])).is_ok());
        assert!(look.check(&bytes(contents[3])).is_err(), "never written");
        let mut mixed = bytes(contents[1]);
        mixed[..600].copy_from_slice(&bytes(contents[2])[..600]);
        assert!(look.check(&mixed).is_ok(), "half of it");
        mixed[100] = 1;
        assert!(look.check(&mixed).is_err(), "between the words");
        assert!(look.check(&[0; PAGE]).is_err(), "lost during a store");
        page.finish(contents[2]);
        assert!(look.check(&[0; PAGE]).is_err(), "lost by a store");
        let look = model.look(0);
        let (punched, stored) = (contents[2].punched(), contents[2].punched().stored());
        page.begin(punched);
        assert!(look.check(&[0; PAGE]).is_ok(), "punched");
        page.finish(punched);
        page.begin(stored);
        assert!(look.check(&[0; PAGE]).is_ok(), "punched, and stored to");
        assert!(model.look(0).check(&[0; PAGE]).is_ok(), "not stored to yet");
        page.finish(stored);
        assert!(look.check(&[0; PAGE]).is_ok(), "before it was stored to");
        let look = model.look(0);
        assert!(look.check(&[0; PAGE]).is_err(), "lost after that");
        page.begin(stored.stored());
        assert!(look.check(&[0; PAGE]).is_err(), "lost during the next");
        page.finish(stored.stored());
        let cut = stored.stored().cut(0, 100);
        page.begin(cut);
        page.finish(cut);
        assert!(model.look(0).check(&bytes(cut)).is_ok());
        assert!(model.look(0).check(&[0; PAGE]).is_err(), "more than cut");
    }
}
