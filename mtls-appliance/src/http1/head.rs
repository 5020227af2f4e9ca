//! What requests and responses have in common: splitting a head into fields, Connection, and the framing of the body.

use std::mem::MaybeUninit;

use super::bytes;
use super::error::HeadFault;
use super::field::{Field, FieldKind, Fields, is_end_to_end};

/// Upper bounds on a head, and on the body that it announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes from the start line to the empty line, inclusive.
    pub head_bytes: usize,
    /// Field lines.
    pub fields: usize,
    /// Bytes of a request target.
    pub target_bytes: usize,
    /// Bytes of the body, where Content-Length tells; chunked bodies are held to [`super::ChunkLimits`].
    pub body_bytes: u64,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { head_bytes: 32 * 1024, fields: 100, target_bytes: 8 * 1024, body_bytes: u64::MAX }
    }
}

impl From<&crate::config::Limits> for HeadLimits {
    fn from(limits: &crate::config::Limits) -> Self {
        Self {
            head_bytes: limits.head_bytes,
            fields: limits.head_fields,
            target_bytes: limits.target_bytes,
            body_bytes: limits.body_bytes,
        }
    }
}

/// A version that is spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

impl Version {
    pub(super) fn from_minor(minor: Option<u8>) -> Self {
        if minor == Some(1) { Self::Http11 } else { Self::Http10 }
    }

    /// As written in Via (RFC 9110 7.6.3).
    pub(super) fn number(self) -> &'static [u8] {
        match self {
            Self::Http10 => b"1.0",
            Self::Http11 => b"1.1",
        }
    }
}

/// How the end of a body is found (RFC 9112 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is no body.
    None,
    /// As many bytes as Content-Length says; zero included.
    Length(u64),
    /// By [`super::ChunkDecoder`].
    Chunked,
    /// Responses only: the body ends with the connection, which must end with close_notify.
    UntilClose,
}

impl BodyFraming {
    /// Whether not a single body byte follows the head.
    #[must_use]
    pub fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }
}

/// Field slots on the stack; heads with more, where the limit allows them, are parsed into a heap allocation.
const STACK_FIELDS: usize = 128;

/// Runs `parse` with room for as many fields as allowed.
pub(super) fn with_field_slots<'b, R>(
    limit: usize,
    mut parse: impl FnMut(&mut [MaybeUninit<httparse::Header<'b>>]) -> Result<R, httparse::Error>,
) -> Result<R, httparse::Error> {
    let mut slots = [const { MaybeUninit::uninit() }; STACK_FIELDS];
    match parse(&mut slots[..limit.min(STACK_FIELDS)]) {
        Err(httparse::Error::TooManyHeaders) if limit > STACK_FIELDS => {
            let mut slots = vec![MaybeUninit::uninit(); limit];
            parse(&mut slots)
        }
        other => other,
    }
}

/// What the fields say about the connection and the body.
#[derive(Debug, Default)]
pub(super) struct Survey {
    lengths: usize,
    length: Option<u64>,
    encodings: usize,
    /// Connection: close.
    pub(super) close: bool,
    /// Connection: keep-alive.
    pub(super) keep_alive: bool,
    /// Connection: upgrade.
    pub(super) upgrade: bool,
}

impl Survey {
    /// Converts the parser's headers, classifies them, and judges Connection and the framing fields.
    pub(super) fn of(
        buf: &[u8],
        headers: &[httparse::Header<'_>],
        fields: &mut Fields,
        version: Version,
    ) -> Result<Self, HeadFault> {
        let mut survey = Self::default();
        let mut connections = false;
        for header in headers {
            let field = Field::new(buf, header.name.as_bytes(), header.value).ok_or(HeadFault::HeadTooLarge)?;
            match field.kind {
                FieldKind::ContentLength => {
                    survey.lengths += 1;
                    survey.length = Some(content_length(header.value)?);
                }
                FieldKind::TransferEncoding => survey.encodings += 1,
                FieldKind::Connection => connections = true,
                FieldKind::FramingAlias => return Err(HeadFault::FramingAlias),
                _ => {}
            }
            fields.push(field);
        }
        if connections {
            survey.obey_connection(buf, fields)?;
        }
        if survey.encodings > 0 {
            if survey.lengths > 0 {
                return Err(HeadFault::LengthAndEncoding);
            }
            if survey.encodings > 1 {
                return Err(HeadFault::RepeatedEncoding);
            }
            if version == Version::Http10 {
                return Err(HeadFault::EncodingInHttp10);
            }
            let encoding = fields.iter().find(|field| field.kind == FieldKind::TransferEncoding);
            transfer_encoding(encoding.map(|field| field.value(buf)).unwrap_or_default())?;
        }
        if survey.lengths > 1 {
            return Err(HeadFault::RepeatedLength);
        }
        Ok(survey)
    }

    /// Reads the Connection fields and marks what they nominate.
    fn obey_connection(&mut self, buf: &[u8], fields: &mut Fields) -> Result<(), HeadFault> {
        let mut nominations = 0;
        for at in 0..fields.len() {
            if fields[at].kind != FieldKind::Connection {
                continue;
            }
            for option in bytes::list(fields[at].value(buf)).filter(|option| !option.is_empty()) {
                if option.eq_ignore_ascii_case(b"close") {
                    // No field has this name (RFC 9112 9.6); one that does is for one hop as with any other option.
                    if !self.close {
                        nominate(buf, fields, option);
                    }
                    self.close = true;
                } else if option.eq_ignore_ascii_case(b"keep-alive") {
                    self.keep_alive = true;
                } else if option.eq_ignore_ascii_case(b"upgrade") {
                    self.upgrade = true;
                } else if !bytes::is_token(option) {
                    return Err(HeadFault::ConnectionOption);
                } else if is_end_to_end(option) {
                    return Err(HeadFault::ConnectionNominates);
                } else {
                    nominations += 1;
                    if nominations > MAX_NOMINATIONS {
                        return Err(HeadFault::ConnectionOption);
                    }
                    nominate(buf, fields, option);
                }
            }
        }
        Ok(())
    }

    /// The framing that the fields declare, if any.
    pub(super) fn framing(&self) -> Option<BodyFraming> {
        match (self.encodings, self.length) {
            (1, _) => Some(BodyFraming::Chunked),
            (_, Some(length)) => Some(BodyFraming::Length(length)),
            _ => None,
        }
    }

    /// Whether the sender wants the connection to persist (RFC 9112 9.3).
    pub(super) fn persistent(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }
}

/// Marks the fields of that name as being for one hop (RFC 9110 7.6.1).
fn nominate(buf: &[u8], fields: &mut Fields, name: &[u8]) {
    for field in fields.iter_mut().filter(|field| field.name(buf).eq_ignore_ascii_case(name)) {
        field.nominated = true;
    }
}

/// Nominated fields in all Connection fields together: bounds the work of finding them.
const MAX_NOMINATIONS: usize = 32;

/// Lengths beyond this are not representable as file or splice offsets.
const MAX_LENGTH: u64 = i64::MAX as u64;

/// RFC 9112 6.3 item 5 lets a list of equal lengths pass; not here, since recipients differ about it.
fn content_length(value: &[u8]) -> Result<u64, HeadFault> {
    if value.contains(&b',') {
        return Err(HeadFault::RepeatedLength);
    }
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(HeadFault::MalformedLength);
    }
    bytes::decimal(value).filter(|&length| length <= MAX_LENGTH).ok_or(HeadFault::LengthOverflow)
}

/// Only `chunked`, once and alone, is a transfer coding that is handled.
fn transfer_encoding(value: &[u8]) -> Result<(), HeadFault> {
    let mut chunked = 0usize;
    let mut others = 0usize;
    let mut last_is_chunked = false;
    for coding in bytes::list(value) {
        let name = bytes::trim(coding.split(|&byte| byte == b';').next().unwrap_or_default());
        if !bytes::is_token(name) {
            return Err(HeadFault::MalformedEncoding);
        }
        last_is_chunked = name.eq_ignore_ascii_case(b"chunked");
        if !last_is_chunked {
            others += 1;
        } else if name.len() == coding.len() {
            chunked += 1;
        } else {
            return Err(HeadFault::MalformedEncoding);
        }
    }
    match (chunked, last_is_chunked, others) {
        (2.., _, _) => Err(HeadFault::RepeatedEncoding),
        (_, false, _) => Err(HeadFault::ChunkedNotFinal),
        (_, true, 0) => Ok(()),
        (_, true, _) => Err(HeadFault::UnknownCoding),
    }
}

/// The precise fault of field lines that the parser refused. `lines` begins after the start line.
pub(super) fn diagnose_fields(lines: &[u8]) -> HeadFault {
    let mut rest = lines;
    while let Some(at) = memchr::memchr(b'\n', rest) {
        let line = rest[..at].strip_suffix(b"\r").unwrap_or(&rest[..at]);
        rest = &rest[at + 1..];
        if line.is_empty() {
            break;
        }
        if let Some(fault) = diagnose_bytes(line) {
            return fault;
        }
        if matches!(line[0], b' ' | b'\t') {
            return HeadFault::ObsFold;
        }
        let Some(colon) = memchr::memchr(b':', line) else {
            return HeadFault::FieldName;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if bytes::trim(name).len() != name.len() {
            return HeadFault::SpaceBeforeColon;
        }
        if !bytes::is_token(name) {
            return HeadFault::FieldName;
        }
        if !bytes::is_value(value) {
            return HeadFault::ControlCharacter;
        }
    }
    HeadFault::MalformedHead
}

/// Bytes that no line of a head may contain.
pub(super) fn diagnose_bytes(line: &[u8]) -> Option<HeadFault> {
    if line.contains(&0) {
        Some(HeadFault::Nul)
    } else if line.contains(&b'\r') {
        Some(HeadFault::BareCr)
    } else {
        None
    }
}
