//! The fields of a head as spans into its buffer, each classified once when the head is parsed.

use std::ops::{Deref, DerefMut};

/// A range of the buffer that a head was parsed from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// The range of `part`, which must be a slice of `whole`. `None` beyond 4 GiB.
    pub(super) fn of(whole: &[u8], part: &[u8]) -> Option<Self> {
        let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
        Some(Self { start: u32::try_from(start).ok()?, len: u32::try_from(part.len()).ok()? })
    }

    /// The bytes; empty if `buf` is not the buffer of the head.
    pub(super) fn bytes(self, buf: &[u8]) -> &[u8] {
        let start = self.start as usize;
        buf.get(start..start + self.len as usize).unwrap_or_default()
    }

    /// As text: for parts that were found to be ASCII.
    pub(super) fn text(self, buf: &[u8]) -> &str {
        std::str::from_utf8(self.bytes(buf)).unwrap_or_default()
    }

    pub(super) fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// What an intermediary has to know about a field's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldKind {
    /// Passed on unless reserved or nominated.
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    /// Never passed on, whether nominated or not.
    Hop,
    Te,
    Upgrade,
    Expect,
    MaxForwards,
    Date,
    /// Announces trailers; of no meaning where their body is passed on without any.
    Trailer,
    /// Not a framing field, but one that a back end which folds punctuation takes for one.
    FramingAlias,
}

/// A field line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    name_start: u32,
    value_start: u32,
    value_len: u32,
    name_len: u16,
    pub(super) kind: FieldKind,
    /// Named in Connection, so for this hop only.
    pub(super) nominated: bool,
}

impl Field {
    const NONE: Self =
        Self { name_start: 0, value_start: 0, value_len: 0, name_len: 0, kind: FieldKind::Other, nominated: false };

    /// `None` if the name is longer than 64 KiB or the head than 4 GiB.
    pub(super) fn new(whole: &[u8], name: &[u8], value: &[u8]) -> Option<Self> {
        let value_span = Span::of(whole, value)?;
        Some(Self {
            name_start: Span::of(whole, name)?.start,
            value_start: value_span.start,
            value_len: value_span.len,
            name_len: u16::try_from(name.len()).ok()?,
            kind: classify(name),
            nominated: false,
        })
    }

    pub(super) fn name(self, buf: &[u8]) -> &[u8] {
        Span { start: self.name_start, len: u32::from(self.name_len) }.bytes(buf)
    }

    pub(super) fn value_span(self) -> Span {
        Span { start: self.value_start, len: self.value_len }
    }

    pub(super) fn value(self, buf: &[u8]) -> &[u8] {
        self.value_span().bytes(buf)
    }

    /// Appends the line in canonical spacing.
    pub(super) fn write(self, buf: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(self.name(buf));
        out.extend_from_slice(b": ");
        out.extend_from_slice(self.value(buf));
        out.extend_from_slice(b"\r\n");
    }
}

/// Fields kept without an allocation: more than a usual request has.
const INLINE_FIELDS: usize = 32;

/// The fields of a head, in order.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    inline: [Field; INLINE_FIELDS],
    inline_len: usize,
    /// All of them, once they are too many for `inline`.
    spilled: Vec<Field>,
}

impl Fields {
    pub(super) fn new() -> Self {
        Self { inline: [Field::NONE; INLINE_FIELDS], inline_len: 0, spilled: Vec::new() }
    }

    pub(super) fn push(&mut self, field: Field) {
        match self.inline.get_mut(self.inline_len) {
            Some(slot) if self.spilled.is_empty() => {
                *slot = field;
                self.inline_len += 1;
            }
            _ => {
                if self.spilled.is_empty() {
                    self.spilled.extend_from_slice(&self.inline);
                }
                self.spilled.push(field);
            }
        }
    }
}

impl Deref for Fields {
    type Target = [Field];

    fn deref(&self) -> &[Field] {
        if self.spilled.is_empty() { &self.inline[..self.inline_len] } else { &self.spilled }
    }
}

impl DerefMut for Fields {
    fn deref_mut(&mut self) -> &mut [Field] {
        if self.spilled.is_empty() { &mut self.inline[..self.inline_len] } else { &mut self.spilled }
    }
}

/// Values of the fields called `name`, in order.
pub(super) fn values<'a>(fields: &'a [Field], buf: &'a [u8], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(move |field| field.name(buf).eq_ignore_ascii_case(name.as_bytes()))
        .map(move |field| field.value(buf))
}

/// Whether `name` is `wanted` when everything but letters and digits is dropped from it.
fn folds_to(name: &[u8], wanted: &[u8]) -> bool {
    name.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).eq(wanted.iter().copied())
}

/// Looks a name up. By length and first letter first: most names are decided by these alone.
fn classify(name: &[u8]) -> FieldKind {
    let first = name.first().map_or(0, u8::to_ascii_lowercase);
    let (wanted, kind): (&str, _) = match (name.len(), first) {
        (2, b't') => ("te", FieldKind::Te),
        (4, b'h') => ("host", FieldKind::Host),
        (4, b'd') => ("date", FieldKind::Date),
        // Never a request field of its own, but an environment variable that CGI programs obey ("httpoxy").
        (5, b'p') => ("proxy", FieldKind::Hop),
        (6, b'e') => ("expect", FieldKind::Expect),
        (7, b't') => ("trailer", FieldKind::Trailer),
        (7, b'u') => ("upgrade", FieldKind::Upgrade),
        (10, b'c') => ("connection", FieldKind::Connection),
        (10, b'k') => ("keep-alive", FieldKind::Hop),
        (12, b'm') => ("max-forwards", FieldKind::MaxForwards),
        (14, b'c') => ("content-length", FieldKind::ContentLength),
        (14, b'h') => ("http2-settings", FieldKind::Hop),
        (16, b'p') => ("proxy-connection", FieldKind::Hop),
        (17, b't') => ("transfer-encoding", FieldKind::TransferEncoding),
        (18, b'p') => ("proxy-authenticate", FieldKind::Hop),
        (19, b'p') => ("proxy-authorization", FieldKind::Hop),
        (25, b'p') => ("proxy-authentication-info", FieldKind::Hop),
        _ => return if is_framing_alias(name) { FieldKind::FramingAlias } else { FieldKind::Other },
    };
    if name.eq_ignore_ascii_case(wanted.as_bytes()) {
        kind
    } else if is_framing_alias(name) {
        FieldKind::FramingAlias
    } else {
        FieldKind::Other
    }
}

fn is_framing_alias(name: &[u8]) -> bool {
    name.len() >= 13
        && match name.iter().find(|byte| byte.is_ascii_alphanumeric()) {
            Some(b'c' | b'C') => folds_to(name, b"contentlength"),
            Some(b't' | b'T') => folds_to(name, b"transferencoding"),
            _ => false,
        }
}

/// Fields that mean something to the final recipient alone. A sender must not nominate such a field (RFC 9110 7.6.1:
/// "intended for all recipients of the content"); obeying would change what the request means after it was checked.
const END_TO_END: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "content-language",
    "content-location",
    "content-range",
    "authorization",
    "cookie",
    "set-cookie",
    "cache-control",
    "expect",
    "range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "if-range",
    "max-forwards",
    "via",
    "date",
    "location",
    "vary",
    "www-authenticate",
    "x-api-tran-id",
    "x-api-type",
];

/// Whether nominating this field in Connection is refused.
pub(super) fn is_end_to_end(name: &[u8]) -> bool {
    END_TO_END.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// Fields that must not come in a trailer section (RFC 9110 6.5.1): framing, routing, request modifiers,
/// authentication, response control, and what describes how to process the content.
const NOT_IN_TRAILERS: &[&str] = &[
    "pragma",
    "accept",
    "accept-encoding",
    "age",
    "expires",
    "retry-after",
    "warning",
    "forwarded",
    "origin",
    "referer",
    "proxy-status",
    "authentication-info",
];

/// Whether a field is dropped from a trailer section.
pub(super) fn is_forbidden_trailer(name: &[u8]) -> bool {
    classify(name) != FieldKind::Other
        || NOT_IN_TRAILERS.iter().chain(END_TO_END).any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}
