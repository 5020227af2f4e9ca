//! Parsing a response head of the origin, as strictly as a request, and planning what the client gets.
//!
//! A response that is refused here costs the origin connection: where its body ends cannot be known. Reading, retrying
//! and the deadlines are the shell's.

use super::bytes;
use super::error::{HeadFault, ResponseError};
use super::field::{FieldKind, Fields, Span, values};
use super::head::{BodyFraming, HeadLimits, Survey, Version, diagnose_bytes, diagnose_fields, with_field_slots};
use super::request::Method;
use super::scan::{HeadScanner, ScanFault};
use super::upgrade::was_offered;

/// What a response's framing and the client's connection depend on: taken from the request by
/// [`super::RequestHead::exchange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange<'a> {
    /// The request's method.
    pub method: Method,
    /// The client's version.
    pub client_version: Version,
    /// Whether the client wants the connection to persist.
    pub client_keep_alive: bool,
    /// The value of the Upgrade field that was passed on; empty: none was.
    pub upgrade: &'a [u8],
}

/// A response head that passed every check, as spans into the buffer that it was parsed from.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    head_len: usize,
    status: u16,
    pub(super) reason: Span,
    version: Version,
    framing: BodyFraming,
    /// Content-Length where it is not framing: HEAD and 304.
    pub(super) declared_length: Option<u64>,
    persistent: bool,
    pub(super) upgrade: Option<Span>,
    pub(super) has_date: bool,
    pub(super) fields: Fields,
}

/// Parses the response head at the front of `buf`; `None` when bytes are missing.
///
/// # Errors
/// The reason to answer 502 and to destroy the origin connection.
pub fn parse_response(
    buf: &[u8],
    exchange: &Exchange<'_>,
    limits: &HeadLimits,
) -> Result<Option<ResponseHead>, ResponseError> {
    parse_response_with(&mut HeadScanner::new(), buf, exchange, limits)
}

/// As [`parse_response`], with a scanner that remembers what it saw of the same buffer before.
///
/// # Errors
/// The reason to answer 502 and to destroy the origin connection.
pub fn parse_response_with(
    scanner: &mut HeadScanner,
    buf: &[u8],
    exchange: &Exchange<'_>,
    limits: &HeadLimits,
) -> Result<Option<ResponseHead>, ResponseError> {
    let bounds = match scanner.scan(buf, limits.head_bytes, false) {
        Ok(Some(bounds)) => bounds,
        Ok(None) => return Ok(None),
        Err(ScanFault::StartLineTooLong) => return Err(ResponseError::HeadTooLarge),
        Err(ScanFault::Head(fault)) => return Err(fault.into()),
    };
    let head = &buf[bounds.start..bounds.end];
    let parsed = with_field_slots(limits.fields, |slots| {
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut response, head, slots)? {
            httparse::Status::Partial => Ok(Err(ResponseError::MalformedHead)),
            httparse::Status::Complete(len) if len != head.len() => Ok(Err(ResponseError::MalformedHead)),
            httparse::Status::Complete(_) => Ok(interpret(buf, bounds.end, &response, exchange)),
        }
    });
    match parsed {
        Ok(outcome) => outcome.map(Some),
        Err(httparse::Error::TooManyHeaders) => Err(HeadFault::TooManyFields.into()),
        Err(_) => Err(diagnose(head)),
    }
}

fn interpret(
    buf: &[u8],
    head_len: usize,
    response: &httparse::Response<'_, '_>,
    exchange: &Exchange<'_>,
) -> Result<ResponseHead, ResponseError> {
    let status = response.code.unwrap_or_default();
    if !(100..=599).contains(&status) {
        return Err(ResponseError::Status);
    }
    let version = Version::from_minor(response.version);
    let mut fields = Fields::new();
    let survey = Survey::of(buf, response.headers, &mut fields, version)?;

    let mut upgrades = fields.iter().filter(|field| field.kind == FieldKind::Upgrade);
    let upgrade = upgrades.next().filter(|_| upgrades.next().is_none()).map(|field| field.value_span());
    // RFC 9110 15.2: no HTTP/1.0 recipient or sender knows 1xx.
    let switched = version == Version::Http11
        && survey.upgrade
        && upgrade.is_some_and(|switched| was_offered(switched.bytes(buf), exchange.upgrade));
    if status == 101 && !switched {
        return Err(if exchange.upgrade.is_empty() { ResponseError::Upgrade } else { ResponseError::Protocol });
    }
    // RFC 9112 6.3, items 1 and 8.
    let declared = survey.framing();
    let bodiless = matches!(status, 100..=199 | 204 | 304) || exchange.method == Method::Head;
    let framing = if bodiless { BodyFraming::None } else { declared.unwrap_or(BodyFraming::UntilClose) };
    // RFC 9110 8.6: 1xx and 204 must not carry Content-Length; with HEAD and 304 it tells about the representation.
    let declared_length = match declared {
        Some(BodyFraming::Length(length)) if bodiless && !matches!(status, 100..=199 | 204) => Some(length),
        _ => None,
    };
    // The parser gives an empty phrase, not part of the buffer, for one with obs-text: it means nothing anyway.
    let reason = response
        .reason
        .filter(|phrase| !phrase.is_empty())
        .map_or(Some(Span::default()), |phrase| Span::of(buf, phrase.as_bytes()));
    Ok(ResponseHead {
        head_len,
        status,
        reason: reason.ok_or(ResponseError::HeadTooLarge)?,
        version,
        framing,
        declared_length,
        persistent: survey.persistent(version) && framing != BodyFraming::UntilClose,
        upgrade,
        has_date: fields.iter().any(|field| field.kind == FieldKind::Date),
        fields,
    })
}

/// The precise fault of a head that the parser refused.
fn diagnose(head: &[u8]) -> ResponseError {
    let line_end = memchr::memchr(b'\n', head).unwrap_or(head.len());
    let line = head[..line_end].strip_suffix(b"\r").unwrap_or(&head[..line_end]);
    if let Some(fault) = diagnose_bytes(line) {
        return fault.into();
    }
    match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1', b' ', rest @ ..] => match rest {
            [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9'] => {}
            [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9', b' ', phrase @ ..] if bytes::is_value(phrase) => {}
            _ => return ResponseError::StatusLine,
        },
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9', b' ', ..] => return ResponseError::Version,
        _ => return ResponseError::StatusLine,
    }
    match diagnose_fields(head.get(line_end + 1..).unwrap_or_default()) {
        HeadFault::MalformedHead => ResponseError::MalformedHead,
        fault => fault.into(),
    }
}

/// Accessors take the buffer that the head was parsed from; with another one they return empty values.
impl ResponseHead {
    /// Bytes of the head in the buffer; the body begins after them.
    #[must_use]
    pub fn head_len(&self) -> usize {
        self.head_len
    }

    /// The status code, 100 to 599.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether this is a 1xx other than 101, so that another head follows.
    #[must_use]
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// The version of the origin.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// How the body that the origin sends ends.
    #[must_use]
    pub fn framing(&self) -> BodyFraming {
        self.framing
    }

    /// The values of the field lines with this name, in order, in any case.
    pub fn values<'a>(&'a self, buf: &'a [u8], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        values(&self.fields, buf, name)
    }

    /// What to do with this response. `closing`: the client's connection is to end after it (draining, a limit reached,
    /// a request body that was not read to its end).
    #[must_use]
    pub fn plan(&self, exchange: &Exchange<'_>, closing: bool) -> ResponsePlan {
        let old_client = exchange.client_version == Version::Http10;
        let disposition = match self.status {
            101 => Disposition::Tunnel,
            // RFC 9110 15.2: never to HTTP/1.0.
            100..=199 if old_client => Disposition::Swallow,
            100..=199 => Disposition::Interim,
            _ => Disposition::Final,
        };
        let dechunk = old_client && self.framing == BodyFraming::Chunked;
        let client_framing = if dechunk { BodyFraming::UntilClose } else { self.framing };
        ResponsePlan {
            disposition,
            client_framing,
            dechunk,
            close_client: disposition == Disposition::Final
                && (closing || !exchange.client_keep_alive || client_framing == BodyFraming::UntilClose),
            announce_keep_alive: disposition == Disposition::Final && old_client,
            reuse_origin: self.persistent && disposition == Disposition::Final,
        }
    }
}

/// What becomes of a response head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Pass it on, with its body; it ends the exchange.
    Final,
    /// Pass it on and read the next head.
    Interim,
    /// Drop it and read the next head.
    Swallow,
    /// Pass it on; afterwards both connections carry bytes of another protocol.
    Tunnel,
}

/// What the client gets, and what becomes of the two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponsePlan {
    /// What becomes of the head.
    pub disposition: Disposition,
    /// How the body ends for the client.
    pub client_framing: BodyFraming,
    /// The body comes chunked and is passed on without its framing (HTTP/1.0 client). If it breaks, the client's
    /// connection must be reset: its orderly end would make the body look complete.
    pub dechunk: bool,
    /// The client's connection ends after the body.
    pub close_client: bool,
    /// Write `Connection: keep-alive` unless closing, for HTTP/1.0 clients.
    pub(super) announce_keep_alive: bool,
    /// The origin's connection can serve another request once the body was read to its end and nothing follows it.
    pub reuse_origin: bool,
}
