//! Responses that the appliance gives itself: whole and minimal.
//!
//! The body is the caller's choice, since the field has error forms of its own; [`OwnResponse::refusal`] is what is said
//! where none applies: the reason's name and nothing about the inside.

use std::borrow::Cow;

use super::bytes::push_decimal;
use super::request::Method;

/// The interim response to `Expect: 100-continue` where the appliance answers it.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A response without an origin.
#[derive(Debug, Clone)]
pub struct OwnResponse<'a> {
    /// 200 to 599. A 405 names [`Method::ALLOW`].
    pub status: u16,
    /// Media type of the body; not written when the body is empty.
    pub content_type: &'a str,
    /// The body.
    pub body: Cow<'a, [u8]>,
    /// Whole field lines, each ending in CRLF.
    pub extra: Cow<'a, [u8]>,
    /// The connection ends after this response.
    pub close: bool,
    /// The request was a HEAD: the body is counted, not written.
    pub head_request: bool,
}

impl OwnResponse<'_> {
    /// The generic refusal: `{"error":"<reason>"}`, and the end of the connection. `reason` is one of the stable names.
    #[must_use]
    pub fn refusal(status: u16, reason: &str) -> Self {
        let body = ["{\"error\":\"", reason, "\"}\n"].concat().into_bytes();
        Self {
            status,
            content_type: "application/json",
            body: Cow::Owned(body),
            extra: Cow::Borrowed(b""),
            close: true,
            head_request: false,
        }
    }

    /// Appends the response to `out`. `date` is an IMF-fixdate, where one is at hand.
    pub fn write(&self, date: Option<&str>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        push_decimal(u64::from(self.status), out);
        out.push(b' ');
        out.extend_from_slice(reason_phrase(self.status).as_bytes());
        out.extend_from_slice(b"\r\n");
        if let Some(date) = date {
            push_line("Date", date, out);
        }
        if self.status == 405 {
            // RFC 9110 15.5.6.
            push_line("Allow", Method::ALLOW, out);
        }
        if !self.body.is_empty() {
            push_line("Content-Type", self.content_type, out);
        }
        // RFC 9110 8.6: a 204 has no Content-Length, and RFC 9112 6.3: no body.
        let bodiless = matches!(self.status, 204 | 304);
        if !bodiless {
            out.extend_from_slice(b"Content-Length: ");
            push_decimal(self.body.len() as u64, out);
            out.extend_from_slice(b"\r\n");
        }
        if self.close {
            push_line("Connection", "close", out);
        }
        out.extend_from_slice(&self.extra);
        out.extend_from_slice(b"\r\n");
        if !self.head_request && !bodiless {
            out.extend_from_slice(&self.body);
        }
    }
}

fn push_line(name: &str, value: &str, out: &mut Vec<u8>) {
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// The phrase of a status that the appliance gives (RFC 9110 15); `Error` for others.
#[must_use]
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}
