// SPDX-License-Identifier: GPL-2.0

//! Random numbers that are the same in every run, so that a failure can be had again.

/// Marsaglia's xorshift64: small, quick, and plenty for choosing offsets and bytes.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that gives the same numbers for the same `seed`.
    pub fn new(seed: u64) -> Self {
        // Zero is the one state that xorshift never leaves.
        Self(if seed == 0 {
            0x9E37_79B9_7F4A_7C15
        } else {
            seed
        })
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
    fn bytes_are_as_many_as_asked_and_never_zero() {
        for len in [0, 1, 7, 8, 9, 4097] {
            let bytes = Random::new(5).bytes(len);
            assert_eq!(bytes.len(), len);
            assert!(!bytes.contains(&0));
        }
    }
}
