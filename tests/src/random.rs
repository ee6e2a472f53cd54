//! Choices that a seed repeats.

/// SplitMix64: the same choices for the same seed.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// A number from `low` to below `high`.
    ///
    /// # Panics
    /// Unless `low` is less than `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        low + (z ^ (z >> 31)) % (high - low)
    }

    /// One of these; nothing where there is none.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let count = u64::try_from(of.len()).ok().filter(|count| *count > 0)?;
        of.get(usize::try_from(self.between(0, count)).ok()?).copied()
    }
}
