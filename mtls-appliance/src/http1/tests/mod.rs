//! Conformance tables, one row per duty named by its RFC section, and mutation tests with a fixed seed.

mod requests;
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
