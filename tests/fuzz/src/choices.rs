//! An input as a row of decisions, for targets that build something valid from it.

/// Bytes still to be decided by.
#[derive(Debug)]
pub(crate) struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// All decisions still open.
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// A number below `bound`; `None` when the input is used up.
    pub(crate) fn below(&mut self, bound: u8) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first % bound)
    }

    /// So many bytes, or what is left.
    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
