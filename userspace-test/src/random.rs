// SPDX-License-Identifier: GPL-2.0

//! Random numbers that are the same in every run, so that a failure can be had again.

/// Marsaglia's xorshift64: small, quick, and plenty for choosing offsets and bytes.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that gives the same numbers for the same `seed`, and others for each other one.
    pub fn new(seed: u64) -> Self {
        // Zero is the one state that xorshift never leaves.
        Self(mixed(seed).max(1))
    }

    /// One of many generators that a seed decides on: which one say these numbers.
    pub fn one_of(seed: u64, numbers: &[u64]) -> Self {
        let state = numbers
            .iter()
            .fold(seed, |state, number| mixed(state).wrapping_add(*number));
        Self::new(state)
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number from 0 to `end - 1`; the slight bias of the remainder does not matter here.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next_u64() % end as u64) as usize
    }

    /// Whether it comes to that, which it does once in so many times.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// `len` random bytes, none of them zero: a zero that turns up came from somewhere else.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 7);
        while bytes.len() < len {
            bytes.extend_from_slice(&(self.next_u64() | 0x0101_0101_0101_0101).to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// Seeds that are near each other give states that are not: the last steps of SplitMix64, by which no two become one.
fn mixed(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn equal_seeds_give_equal_numbers_and_zero_is_a_seed_too() {
        for seed in [0, 1, 77] {
            let (mut one, mut other) = (Random::new(seed), Random::new(seed));
            let numbers: Vec<u64> = (0..100).map(|_| one.next_u64()).collect();
            assert!(numbers
                .iter()
                .all(|&number| number == other.next_u64() && number != 0));
        }
    }

    #[test]
    fn seeds_that_are_near_each_other_give_numbers_that_are_not() {
        let mut first: Vec<u64> = (0..100)
            .map(|seed| Random::new(seed).next_u64())
            .chain((0..1000).map(|act| Random::one_of(7, &[act / 100, act % 100]).next_u64()))
            .collect();
        // As often as not each bit differs from that of the seed before.
        for pair in first.windows(2) {
            let differ = (pair[0] ^ pair[1]).count_ones();
            assert!((8..56).contains(&differ), "{differ} bits");
        }
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 1100);
    }

    #[test]
    fn bytes_are_as_many_as_asked_and_never_zero() {
        for len in [0, 1, 7, 8, 9, 4097] {
            let bytes = Random::new(5).bytes(len);
            assert_eq!(bytes.len(), len);
            assert!(!bytes.contains(&0));
        }
    }
}
