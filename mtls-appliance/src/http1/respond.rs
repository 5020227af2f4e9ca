//! Writing the response that goes to the client: hop-by-hop fields removed, framing written anew.

use super::bytes::push_decimal;
use super::field::FieldKind;
use super::head::BodyFraming;
use super::response::{Disposition, ResponseHead, ResponsePlan};

/// Choices of the configuration and of the moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResponseOptions<'a> {
    /// The `received-by` of our Via entry, a host or pseudonym; `None` writes no entry.
    pub via: Option<&'a str>,
    /// An IMF-fixdate, written where the origin sent no Date (RFC 9110 6.6.1).
    pub date: Option<&'a str>,
    /// Whole field lines, each ending in CRLF, written last.
    pub extra: &'a [u8],
}

/// Appends the response head for the client to `out`. For [`Disposition::Swallow`] it appends nothing.
///
/// `buf` is the buffer that `head` was parsed from.
pub fn write_response(
    head: &ResponseHead,
    buf: &[u8],
    plan: &ResponsePlan,
    options: &ResponseOptions<'_>,
    out: &mut Vec<u8>,
) {
    if plan.disposition == Disposition::Swallow {
        return;
    }
    out.reserve(head.head_len() + options.extra.len() + 128);
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(u64::from(head.status()), out);
    out.push(b' ');
    out.extend_from_slice(head.reason.bytes(buf));
    out.extend_from_slice(b"\r\n");
    for field in head.fields.iter() {
        let keep = match field.kind {
            FieldKind::Other | FieldKind::Date | FieldKind::Expect | FieldKind::MaxForwards | FieldKind::Host => true,
            // Without chunks there is no trailer section that it could announce (RFC 9110 6.6.2).
            FieldKind::Trailer => !plan.dechunk,
            _ => false,
        };
        if keep && !field.nominated {
            field.write(buf, out);
        }
    }
    let length = match plan.client_framing {
        BodyFraming::Length(length) => Some(length),
        BodyFraming::None => head.declared_length,
        BodyFraming::Chunked | BodyFraming::UntilClose => None,
    };
    if let Some(length) = length {
        out.extend_from_slice(b"Content-Length: ");
        push_decimal(length, out);
        out.extend_from_slice(b"\r\n");
    }
    if plan.client_framing == BodyFraming::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if let Some(via) = options.via {
        write_line(b"Via: ", &[head.version().number(), b" ", via.as_bytes()].concat(), out);
    }
    if let Some(date) = options.date.filter(|_| !head.has_date && plan.disposition == Disposition::Final) {
        write_line(b"Date: ", date.as_bytes(), out);
    }
    let switching = plan.disposition == Disposition::Tunnel;
    // Of the next hop's offers to upgrade only that without which a 426 has no sense (RFC 9110 15.5.22).
    let upgrade = head.upgrade.filter(|_| switching || head.status() == 426);
    if let Some(protocols) = upgrade {
        write_line(b"Upgrade: ", protocols.bytes(buf), out);
    }
    let persistence: &[u8] = match (plan.close_client, plan.announce_keep_alive) {
        _ if switching => b"",
        (true, _) => b"close",
        (false, true) => b"keep-alive",
        (false, false) => b"",
    };
    match (upgrade, persistence) {
        (None, b"") => {}
        (None, option) => write_line(b"Connection: ", option, out),
        (Some(_), b"") => write_line(b"Connection: ", b"Upgrade", out),
        (Some(_), option) => write_line(b"Connection: Upgrade, ", option, out),
    }
    out.extend_from_slice(options.extra);
    out.extend_from_slice(b"\r\n");
}

fn write_line(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
