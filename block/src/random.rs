//! Chance as an argument: a small seeded generator. The same seed gives the same sequence, on every machine, for ever:
//! recorded seeds of workloads and of simulations depend on it.

/// SplitMix64: one addition and three mixes a number, full period, no state but 64 bits.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// From a seed; any seed is good.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// 64 random bits.
    #[must_use]
    pub const fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound` (0 for a bound of 0). Its bias is below `bound` / 2^64.
    #[must_use]
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.bits() as u128 * bound as u128) >> 64) as u64
    }

    /// True in `per_million` of a million cases.
    #[must_use]
    pub const fn chance(&mut self, per_million: u32) -> bool {
        self.below(1_000_000) < per_million as u64
    }

    /// Random bytes: [`Self::bits`] in little-endian order, of the last only as many as fit.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        let mut words = bytes.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.bits().to_le_bytes());
        }
        let rest = words.into_remainder();
        if !rest.is_empty() {
            for (byte, random) in rest.iter_mut().zip(self.bits().to_le_bytes()) {
                *byte = random;
            }
        }
    }

    /// A generator of its own, for a part whose number of draws must not disturb the rest.
    #[must_use]
    pub const fn fork(&mut self) -> Self {
        Self::new(self.bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_numbers() {
        for len in [0, 1, 7, 8, 9, 24, 27] {
            let mut bytes = vec![0; len];
            Random::new(7).fill(&mut bytes);
            let mut random = Random::new(7);
            let wanted: Vec<u8> = (0..4).flat_map(|_| random.bits().to_le_bytes()).collect();
            assert_eq!(bytes, wanted[..len]);
        }
    }

    #[test]
    fn a_seed_is_a_promise() {
        let mut random = Random::new(1);
        let first: Vec<u64> = (0..3).map(|_| random.bits()).collect();
        assert_eq!(
            first,
            [
                0x910a_2dec_8902_5cc1,
                0xbeeb_8da1_658e_ec67,
                0xf893_a2ee_fb32_555e
            ]
        );
    }

    #[test]
    fn bounds_and_shares() {
        let mut random = Random::new(7);
        assert_eq!(random.below(0), 0);
        let mut seen = [0u32; 10];
        for _ in 0..10_000 {
            seen[usize::try_from(random.below(10)).unwrap()] += 1;
        }
        assert!(
            seen.iter().all(|count| (850..1150).contains(count)),
            "{seen:?}"
        );
        let hits = (0..100_000).filter(|_| random.chance(10_000)).count();
        assert!((850..1150).contains(&hits), "{hits}");
    }
}
