// SPDX-License-Identifier: GPL-2.0

//! What an actor's choices are drawn from: the seed, the actor, and the number of the act, so that its n-th act draws the
//! same numbers in each run, whatever has come of the races in those before.

use crate::actors::{FIXED, PAGES};
use crate::board::Board;
use mmapdev_userspace::random::Random;
use mmapdev_userspace::{HUGE_PAGE, PAGE};
use std::ops::{Deref, DerefMut};

/// The numbers of one actor, which are those of an act at a time.
pub(crate) struct Draws<'a> {
    board: &'a Board,
    seed: u64,
    actor: usize,
    act: u64,
    random: Random,
}

impl<'a> Draws<'a> {
    /// Those of the actor of this number on the board.
    pub(crate) fn new(board: &'a Board, actor: usize, seed: u64) -> Self {
        Self {
            board,
            seed,
            actor,
            act: 0,
            random: Random::one_of(seed, &[actor as u64, 0]),
        }
    }

    /// What the choices of all actors are drawn from.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// The actor's number on the board.
    pub(crate) fn actor(&self) -> usize {
        self.actor
    }

    /// Goes on to the numbers of the next act.
    pub(crate) fn begin_act(&mut self) {
        self.act += 1;
        self.random = Random::one_of(self.seed, &[self.actor as u64, self.act]);
    }

    /// A run of at most so many pages, some of which are at the borders of folios; the board notes its first.
    pub(crate) fn run_of(&mut self, longest: usize) -> (usize, usize) {
        let pages = 1 + self.below(longest);
        let large = HUGE_PAGE / PAGE;
        let first = match self.below(6) {
            0 => self.below(PAGES / large) * large,
            1 => (self.below(PAGES / large) + 1) * large - 1,
            2 => self.below(PAGES / 16) * 16,
            // Much happens to few pages.
            3 => FIXED + self.below(48),
            _ => self.below(PAGES),
        };
        let first = first.min(PAGES - pages);
        self.note(first);
        (first, pages)
    }

    /// Has the board note the page that the actor is at.
    pub(crate) fn note(&self, page: usize) {
        self.board.is_at(self.actor, page);
    }
}

impl Deref for Draws<'_> {
    type Target = Random;

    fn deref(&self) -> &Random {
        &self.random
    }
}

impl DerefMut for Draws<'_> {
    fn deref_mut(&mut self) -> &mut Random {
        &mut self.random
    }
}

#[cfg(test)]
mod tests {
    use super::{Board, Draws};
    use std::time::Duration;

    #[test]
    fn an_act_draws_the_same_whatever_those_before_it_have_drawn() {
        let board = Board::new(vec![0; 2], Duration::ZERO, Duration::ZERO).unwrap();
        let fourth = |actor, seed, in_each_before: usize| {
            let mut draws = Draws::new(&board, actor, seed);
            for _ in 0..3 {
                draws.begin_act();
                for _ in 0..in_each_before {
                    draws.run_of(40);
                }
            }
            draws.begin_act();
            (0..10).map(|_| draws.run_of(600)).collect::<Vec<_>>()
        };
        assert_eq!(fourth(0, 1, 0), fourth(0, 1, 7));
        assert_ne!(fourth(0, 1, 0), fourth(1, 1, 0), "of another actor");
        assert_ne!(fourth(0, 1, 0), fourth(0, 2, 0), "of another seed");
        let mut draws = Draws::new(&board, 0, 1);
        let acts = [0, 1].map(|_| {
            draws.begin_act();
            [0, 1, 2].map(|_| draws.next_u64())
        });
        assert_ne!(acts[0], acts[1]);
    }
}
