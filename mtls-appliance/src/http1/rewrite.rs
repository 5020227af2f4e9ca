//! Writing the request that goes to the origin.
//!
//! The order is the safety: what Connection nominates was marked when the head was parsed, reserved names are removed,
//! and only then the identity block is written, so nothing a client sends can name or remove a field of ours
//! (RFC 9110 7.6.1). Framing, Host and the request line are written anew, never copied.

use super::NameFilter;
use super::bytes::push_decimal;
use super::field::FieldKind;
use super::head::BodyFraming;
use super::request::RequestHead;

/// Choices of the configuration and of the moment.
#[derive(Debug, Clone, Copy)]
pub struct RewriteOptions<'a> {
    /// The `received-by` of our Via entry, a host or pseudonym; `None` writes no entry.
    pub via: Option<&'a str>,
    /// The value of Upgrade, as by [`super::Offer::protocols`]; empty: none goes on.
    pub upgrade: &'a [u8],
    /// Pass `Expect: 100-continue` on; otherwise the shell answers it.
    pub expect: bool,
    /// Host for a request that names none, which only HTTP/1.0 may.
    pub default_host: &'a str,
    /// Tell the origin that this is the connection's last request.
    pub close: bool,
}

impl Default for RewriteOptions<'_> {
    fn default() -> Self {
        Self { via: None, upgrade: b"", expect: true, default_host: "", close: false }
    }
}

/// Appends the request head for the origin to `out`.
///
/// `buf` is the buffer that `head` was parsed from. `identity_block` consists of whole field lines, each ending in CRLF;
/// its names should all be in `reserved`.
pub fn write_request(
    head: &RequestHead,
    buf: &[u8],
    reserved: &impl NameFilter,
    identity_block: &[u8],
    options: &RewriteOptions<'_>,
    out: &mut Vec<u8>,
) {
    debug_assert!(identity_block.is_empty() || identity_block.ends_with(b"\r\n"));
    out.reserve(head.head_len() + identity_block.len() + 128);
    write_request_line(head, buf, out);
    out.extend_from_slice(b"Host: ");
    out.extend_from_slice(if head.host.is_empty() { options.default_host.as_bytes() } else { head.host.bytes(buf) });
    out.extend_from_slice(b"\r\n");
    for field in head.fields.iter() {
        let keep = match field.kind {
            FieldKind::Other | FieldKind::Date | FieldKind::Trailer => true,
            // With OPTIONS it is written anew.
            FieldKind::MaxForwards => head.max_forwards().is_none(),
            _ => false,
        };
        if keep && !field.nominated && !reserved.contains(field.name(buf)) {
            field.write(buf, out);
        }
    }
    write_own_fields(head, options, out);
    out.extend_from_slice(identity_block);
    out.extend_from_slice(b"\r\n");
}

fn write_request_line(head: &RequestHead, buf: &[u8], out: &mut Vec<u8>) {
    let target = head.path_and_query.bytes(buf);
    out.extend_from_slice(head.method_name(buf).as_bytes());
    out.push(b' ');
    if head.is_asterisk() {
        out.push(b'*');
    } else {
        // RFC 9112 3.2.1: an absolute form without path has the path `/`.
        if target.first() != Some(&b'/') {
            out.push(b'/');
        }
        out.extend_from_slice(target);
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

fn write_own_fields(head: &RequestHead, options: &RewriteOptions<'_>, out: &mut Vec<u8>) {
    match head.framing() {
        BodyFraming::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            push_decimal(length, out);
            out.extend_from_slice(b"\r\n");
        }
        BodyFraming::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        BodyFraming::None | BodyFraming::UntilClose => {}
    }
    if head.expect_continue() && options.expect {
        out.extend_from_slice(b"Expect: 100-continue\r\n");
    }
    if let Some(hops) = head.max_forwards() {
        out.extend_from_slice(b"Max-Forwards: ");
        push_decimal(hops.saturating_sub(1), out);
        out.extend_from_slice(b"\r\n");
    }
    if let Some(via) = options.via {
        out.extend_from_slice(b"Via: ");
        out.extend_from_slice(head.version().number());
        out.push(b' ');
        out.extend_from_slice(via.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !options.upgrade.is_empty() {
        out.extend_from_slice(b"Upgrade: ");
        out.extend_from_slice(options.upgrade);
        out.extend_from_slice(b"\r\n");
    }
    if head.te_trailers {
        out.extend_from_slice(b"TE: trailers\r\n");
    }
    // Upgrade and TE are for the next hop alone and so must be nominated (RFC 9110 7.8, 10.1.4).
    let connection: &[u8] = match (options.close, !options.upgrade.is_empty(), head.te_trailers) {
        (false, false, false) => return,
        (true, false, false) => b"Connection: close\r\n",
        (true, true, false) => b"Connection: close, Upgrade\r\n",
        (true, false, true) => b"Connection: close, TE\r\n",
        (true, true, true) => b"Connection: close, Upgrade, TE\r\n",
        (false, true, false) => b"Connection: Upgrade\r\n",
        (false, false, true) => b"Connection: TE\r\n",
        (false, true, true) => b"Connection: Upgrade, TE\r\n",
    };
    out.extend_from_slice(connection);
}
