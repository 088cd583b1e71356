//! The only source of chance in a run: xoshiro256** seeded through splitmix64.

/// A stream of numbers that a seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Rng([u64; 4]);

/// Chances are given in parts per million.
pub(crate) const MILLION: u64 = 1_000_000;

impl Rng {
    /// The stream of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        let mut state = seed;
        Self([(); 4].map(|()| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(state)
        }))
    }

    /// A stream of its own, so that what one part draws does not shift what another draws.
    pub(crate) fn fork(&mut self) -> Self {
        Self::new(self.number())
    }

    /// Any number.
    pub(crate) fn number(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "nothing is below zero");
        let product = u128::from(self.number()) * u128::from(end);
        u64::try_from(product >> 64).expect("the upper half of a product of two u64")
    }

    /// A number from `low` to `high`, both possible.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "{low}..={high} is empty");
        low + self.below(high - low + 1)
    }

    /// A number from `low` to `high` whose logarithm is evenly spread: rates differ by magnitude.
    pub(crate) fn magnitude(&mut self, low: u64, high: u64) -> u64 {
        assert!(0 < low && low <= high, "{low}..={high} has no logarithm");
        let doublings = u64::from((high / low).ilog2());
        let floor = low << self.between(0, doublings);
        self.between(floor, (floor * 2 - 1).min(high))
    }

    /// A position in something that has `length` of them.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("below a usize")
    }

    /// One of `items`.
    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }

    /// True in so many of a [`MILLION`] cases.
    pub(crate) fn chance(&mut self, per_million: u64) -> bool {
        self.below(MILLION) < per_million
    }

    /// Brings `items` into any order.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.index(last + 1);
            items.swap(last, other);
        }
    }
}

/// Spreads the bits of `number` (the finalizer of splitmix64).
pub(crate) fn mix(number: u64) -> u64 {
    let z = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A hash of `bytes` for comparing, not for defending.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let start = 0x9e37_79b9_7f4a_7c15 ^ bytes.len() as u64;
    let words = words.iter().fold(start, |hash, &word| {
        mix(hash.rotate_left(5) ^ u64::from_le_bytes(word))
    });
    rest.iter().fold(words, |hash, &byte| {
        mix(hash.rotate_left(5) ^ u64::from(byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_draw_equal_numbers() {
        let (mut one, mut two, mut other) = (Rng::new(7), Rng::new(7), Rng::new(8));
        let drawn = [(); 8].map(|()| one.number());
        assert_eq!(drawn, [(); 8].map(|()| two.number()));
        assert_ne!(drawn, [(); 8].map(|()| other.number()));
    }

    #[test]
    fn numbers_stay_within_their_bounds() {
        let mut rng = Rng::new(1);
        for _ in 0..1000 {
            assert!(rng.below(3) < 3);
            assert!((5..=9).contains(&rng.between(5, 9)));
            assert!((100..=100_000).contains(&rng.magnitude(100, 100_000)));
        }
    }
}
