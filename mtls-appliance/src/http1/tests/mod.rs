//! Conformance tables, one row per duty named by its RFC section, and mutation tests with a fixed seed.

mod chunks;
mod mutations;
mod requests;
mod responses;
mod rewriting;

use super::{HeadLimits, NameFilter, RequestHead, RewriteOptions, parse_request, write_request};

/// Folds as the identity module's filter does; reserves what the tests inject.
pub(super) struct Reserved;

impl NameFilter for Reserved {
    fn contains(&self, name: &[u8]) -> bool {
        let folded: Vec<u8> =
            name.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect();
        matches!(folded.as_slice(), b"clientcert" | b"xsubjectserial" | b"xforwardedfor")
    }
}

/// What the tests inject.
pub(super) const BLOCK: &[u8] = b"Client-Cert: :AAAA:\r\nX-Subject-Serial: 123-45-67890\r\n";

pub(super) fn request(head: &[u8]) -> RequestHead {
    parse_request(head, &HeadLimits::default()).unwrap().unwrap()
}

pub(super) fn rewritten_with(head: &[u8], options: &RewriteOptions<'_>) -> String {
    let parsed = request(head);
    let mut out = Vec::new();
    write_request(&parsed, head, &Reserved, BLOCK, options, &mut out);
    String::from_utf8(out).unwrap()
}

pub(super) fn rewritten(head: &[u8]) -> String {
    rewritten_with(head, &RewriteOptions::default())
}

/// xorshift64*: enough randomness to mutate, the same on every run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
