//! How an input arrives: cut at places that depend on nothing but the input, so that a finding can be repeated.

/// xorshift64*, seeded by the input.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// FNV-1a of the input as the seed.
    pub(crate) fn of(input: &[u8]) -> Self {
        let hash = input
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        Self(hash | 1)
    }

    /// A number below `bound`, which must not be zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    /// Growing lengths of an input of `len` bytes, the last one `len`: what has come after each read.
    pub(crate) fn arrivals(&mut self, len: usize) -> Vec<usize> {
        let most = 1 + [0, 6, len / 2, len][self.below(4)];
        let mut arrivals = vec![self.below(2).min(len)];
        while let Some(&end) = arrivals.last()
            && end < len
        {
            arrivals.push((end + 1 + self.below(most)).min(len));
        }
        arrivals
    }
}
