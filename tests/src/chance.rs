//! Chance that follows from a seed: the same seed, the same history.

/// A generator (splitmix64).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub const fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.any() % end
    }

    /// True once in `n` times.
    pub const fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of several; none of none.
    pub fn pick<T: Clone>(&mut self, from: impl IntoIterator<Item = T>) -> Option<T> {
        let all: Vec<T> = from.into_iter().collect();
        let count = u64::try_from(all.len()).ok().filter(|count| *count > 0)?;
        let index = usize::try_from(self.below(count)).unwrap_or(0);
        all.get(index).cloned()
    }
}

/// Whether something is tested that takes its turn with others: always, but where CI is set only by one commit in `n`.
#[must_use]
pub fn is_its_turn(name: &str, n: u64) -> bool {
    let commit = std::env::var("COMMIT").unwrap_or_default();
    std::env::var_os("CI").is_none() || falls_to(&commit, name, n)
}

fn falls_to(commit: &str, name: &str, n: u64) -> bool {
    let digits = commit.get(..12).unwrap_or_default();
    let commit = u64::from_str_radix(digits, 16).unwrap_or(0);
    let name = name.bytes().fold(0, |sum: u64, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    commit.wrapping_add(name) % n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_commit_has_its_share_and_all_have_all() {
        let names: Vec<String> = (0..40).map(|index| format!("story {index}")).collect();
        let mut told = 0;
        for commit in [
            "000000000004",
            "000000000005",
            "000000000006",
            "000000000007",
        ] {
            told += names
                .iter()
                .filter(|name| falls_to(commit, name, 4))
                .count();
        }
        assert_eq!(told, names.len());
    }
}
