//! Bodies that both ends can compute: byte `i` follows from `i` alone, so any slice can be produced or checked.

use aws_lc_rs::digest;

/// Fills `buffer` with the body's bytes from `offset` on.
///
/// Neighbouring blocks differ (the offset's higher bytes are mixed in), so lost, repeated or swapped blocks change the
/// digest.
pub fn fill(offset: u64, buffer: &mut [u8]) {
    for (at, byte) in (offset..).zip(buffer.iter_mut()) {
        let [a, b, c, d, ..] = at.to_le_bytes();
        *byte = a ^ b.rotate_left(3) ^ c.rotate_left(5) ^ d;
    }
}

/// The first `length` bytes.
#[must_use]
pub fn bytes(length: usize) -> Vec<u8> {
    let mut body = vec![0; length];
    fill(0, &mut body);
    body
}

/// SHA-256 of the first `length` bytes, in lower-case hex.
#[must_use]
pub fn sha256(length: u64) -> String {
    let mut digest = Sha256::default();
    let mut buffer = vec![0; 64 * 1024];
    let mut offset = 0;
    while offset < length {
        let step = usize::try_from(length - offset).unwrap_or(usize::MAX).min(buffer.len());
        fill(offset, &mut buffer[..step]);
        digest.update(&buffer[..step]);
        offset += step as u64;
    }
    digest.finish()
}

/// A SHA-256 in the making that also counts.
pub struct Sha256 {
    context: digest::Context,
    length: u64,
}

impl Default for Sha256 {
    fn default() -> Self {
        Self { context: digest::Context::new(&digest::SHA256), length: 0 }
    }
}

impl Sha256 {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// How many bytes were added.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The digest in lower-case hex.
    #[must_use]
    pub fn finish(self) -> String {
        hex(self.context.finish().as_ref())
    }
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_join_up_to_the_whole() {
        let whole = bytes(200_000);
        let mut piece = vec![0; 1_000];
        fill(131_000, &mut piece);
        assert_eq!(piece, whole[131_000..132_000]);
        assert_ne!(whole[..65_536], whole[65_536..131_072]);
    }

    #[test]
    fn the_digest_is_that_of_the_bytes() {
        let mut digest = Sha256::default();
        digest.update(&bytes(100_001));
        assert_eq!(digest.length(), 100_001);
        assert_eq!(digest.finish(), sha256(100_001));
    }
}
