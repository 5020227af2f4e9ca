//! Randomness that a seed brings back.

use anyhow::Context;

/// Numbers that are the same in every run (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        self.number() % below.max(1)
    }

    /// Whether something happens that happens so often in a hundred.
    pub(crate) fn percent(&mut self, often: u64) -> bool {
        self.roll(100) < often
    }

    /// From `least` to `most`.
    pub(crate) fn between(&mut self, least: usize, most: usize) -> usize {
        least + usize::try_from(self.roll((most - least) as u64 + 1)).unwrap_or(0)
    }

    /// Small and large alike: every power of two up to `2^most` is as likely.
    pub(crate) fn length(&mut self, most: u64) -> u64 {
        let power = self.roll(most + 1);
        self.roll(1 << power)
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> anyhow::Result<T> {
        let at = usize::try_from(self.roll(from.len() as u64))?;
        from.get(at).copied().context("nothing to pick from")
    }

    /// One of them; `T` where the list is empty.
    pub(crate) fn one<T: Copy, const N: usize>(&mut self, from: [T; N]) -> T {
        from[usize::try_from(self.roll(N as u64)).unwrap_or(0)]
    }
}
