//! Parsing a request head: everything an intermediary must refuse is refused here, with a reason of its own.
//!
//! The grammar is httparse's; the line ends are judged by [`HeadScanner`] before, and what httparse lets pass (target
//! forms, Host, framing, expectations) is judged after. Which site, origin or identity a request belongs to is not
//! decided here, and neither is whether an upgrade is allowed.

use super::bytes;
use super::error::{HeadFault, RequestError};
use super::field::{Field, FieldKind, Fields, Span, values};
use super::head::{BodyFraming, HeadLimits, Survey, Version, diagnose_bytes, diagnose_fields, with_field_slots};
use super::response::Exchange;
use super::scan::{HeadScanner, ScanFault};
use super::target::{Target, TargetForm, check_authority, split_port};

/// A request method (RFC 9110 9.3, RFC 5789). CONNECT and TRACE never leave the parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
    /// OPTIONS.
    Options,
    /// PATCH.
    Patch,
    /// Any other token.
    Other,
}

impl Method {
    /// The methods that a 405 names in Allow.
    pub const ALLOW: &'static str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

    fn parse(token: &str) -> Result<Self, RequestError> {
        Ok(match token {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            "PATCH" => Self::Patch,
            "CONNECT" => return Err(RequestError::Connect),
            "TRACE" => return Err(RequestError::Trace),
            _ => Self::Other,
        })
    }

    /// Whether repeating the request has the effect of sending it once (RFC 9110 9.2.2).
    #[must_use]
    pub fn is_idempotent(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options)
    }
}

/// A request head that passed every check, as spans into the buffer that it was parsed from.
#[derive(Debug, Clone)]
pub struct RequestHead {
    head_len: usize,
    method: Method,
    method_span: Span,
    version: Version,
    target: Span,
    target_form: TargetForm,
    pub(super) path_and_query: Span,
    pub(super) host: Span,
    framing: BodyFraming,
    keep_alive: bool,
    expect_continue: bool,
    upgrade: Option<Span>,
    pub(super) te_trailers: bool,
    max_forwards: Option<u64>,
    pub(super) fields: Fields,
}

/// Parses the head at the front of `buf`; `None` when bytes are missing.
///
/// For heads that arrive in pieces use [`parse_request_with`], which does not look at a byte twice.
///
/// # Errors
/// The reason to refuse the request. The connection must be closed after the answer.
pub fn parse_request(buf: &[u8], limits: &HeadLimits) -> Result<Option<RequestHead>, RequestError> {
    parse_request_with(&mut HeadScanner::new(), buf, limits)
}

/// As [`parse_request`], with a scanner that remembers what it saw of the same buffer before.
///
/// # Errors
/// The reason to refuse the request. The connection must be closed after the answer.
pub fn parse_request_with(
    scanner: &mut HeadScanner,
    buf: &[u8],
    limits: &HeadLimits,
) -> Result<Option<RequestHead>, RequestError> {
    let bounds = match scanner.scan(buf, limits.head_bytes, true) {
        Ok(Some(bounds)) => bounds,
        Ok(None) => return Ok(None),
        Err(ScanFault::StartLineTooLong) => return Err(RequestError::TargetTooLong),
        Err(ScanFault::Head(fault)) => return Err(fault.into()),
    };
    let head = &buf[bounds.start..bounds.end];
    let parsed = with_field_slots(limits.fields, |slots| {
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(head, slots)? {
            // The scanner saw the empty line, so a parser that wants more disagrees about where it is.
            httparse::Status::Partial => Ok(Err(RequestError::MalformedHead)),
            httparse::Status::Complete(len) if len != head.len() => Ok(Err(RequestError::MalformedHead)),
            httparse::Status::Complete(_) => Ok(interpret(buf, bounds.end, &request, limits)),
        }
    });
    match parsed {
        Ok(outcome) => outcome.map(Some),
        Err(httparse::Error::TooManyHeaders) => Err(HeadFault::TooManyFields.into()),
        Err(_) => Err(diagnose(head)),
    }
}

/// Judges what the parser accepted.
fn interpret(
    buf: &[u8],
    head_len: usize,
    request: &httparse::Request<'_, '_>,
    limits: &HeadLimits,
) -> Result<RequestHead, RequestError> {
    let span = |part: &[u8]| Span::of(buf, part).ok_or(RequestError::HeadTooLarge);
    let token = request.method.unwrap_or_default();
    let target = request.path.unwrap_or_default().as_bytes();
    let version = Version::from_minor(request.version);
    if target.len() > limits.target_bytes {
        return Err(RequestError::TargetTooLong);
    }
    let method = Method::parse(token)?;
    let parts = Target::parse(method, target)?;

    let mut fields = Fields::new();
    let survey = Survey::of(buf, request.headers, &mut fields, version)?;
    let notes = Notes::of(buf, &fields)?;

    let named = notes.host.map(|field| check_authority(field.value(buf))).transpose()?;
    let host = match (parts.authority, named) {
        (None, None) if version == Version::Http11 => return Err(RequestError::MissingHost),
        // RFC 9112 3.2: also with the absolute form, HTTP/1.1 needs a Host field.
        (Some(_), None) if version == Version::Http11 => return Err(RequestError::MissingHost),
        (Some(authority), _) | (None, Some(authority)) => span(authority)?,
        (None, None) => Span::default(),
    };
    let framing = survey.framing().unwrap_or(BodyFraming::None);
    if matches!(framing, BodyFraming::Length(length) if length > limits.body_bytes) {
        return Err(RequestError::BodyTooLarge);
    }
    let modern = version == Version::Http11;
    Ok(RequestHead {
        head_len,
        method,
        method_span: span(token.as_bytes())?,
        version,
        target: span(target)?,
        target_form: parts.form,
        path_and_query: span(parts.path_and_query)?,
        host,
        framing,
        keep_alive: survey.persistent(version),
        // RFC 9110 10.1.1: ignored from HTTP/1.0, and void without content.
        expect_continue: notes.expect_continue && modern && !framing.is_empty(),
        // RFC 9110 7.8: ignored from HTTP/1.0, and void unless Connection says so.
        upgrade: notes.upgrade.filter(|_| survey.upgrade && modern),
        te_trailers: notes.te_trailers && modern,
        max_forwards: if method == Method::Options { notes.max_forwards(buf)? } else { None },
        fields,
    })
}

/// Fields with a meaning for the request as a whole.
#[derive(Default)]
struct Notes {
    host: Option<Field>,
    expect_continue: bool,
    upgrade: Option<Span>,
    te_trailers: bool,
    forwards: Option<Field>,
    repeated_forwards: bool,
}

impl Notes {
    fn of(buf: &[u8], fields: &Fields) -> Result<Self, RequestError> {
        let mut notes = Self::default();
        let mut upgrades = 0;
        let mut repeated_host = false;
        for &field in fields.iter() {
            match field.kind {
                FieldKind::Host => repeated_host |= notes.host.replace(field).is_some(),
                FieldKind::Expect => {
                    if !bytes::list(field.value(buf)).all(|item| item.eq_ignore_ascii_case(b"100-continue")) {
                        return Err(RequestError::Expectation);
                    }
                    notes.expect_continue = true;
                }
                FieldKind::Upgrade => {
                    upgrades += 1;
                    notes.upgrade = Some(field.value_span()).filter(|_| upgrades == 1);
                }
                FieldKind::Te => {
                    notes.te_trailers |=
                        bytes::list(field.value(buf)).any(|item| item.eq_ignore_ascii_case(b"trailers"));
                }
                FieldKind::MaxForwards => notes.repeated_forwards |= notes.forwards.replace(field).is_some(),
                _ => {}
            }
        }
        if repeated_host { Err(RequestError::RepeatedHost) } else { Ok(notes) }
    }

    /// RFC 9110 7.6.2.
    fn max_forwards(&self, buf: &[u8]) -> Result<Option<u64>, RequestError> {
        let Some(field) = self.forwards else {
            return Ok(None);
        };
        let digits = field.value(buf);
        if self.repeated_forwards || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(RequestError::MaxForwards);
        }
        bytes::decimal(digits).map(Some).ok_or(RequestError::MaxForwards)
    }
}

/// The precise fault of a head that the parser refused.
fn diagnose(head: &[u8]) -> RequestError {
    let line_end = memchr::memchr(b'\n', head).unwrap_or(head.len());
    let line = head[..line_end].strip_suffix(b"\r").unwrap_or(&head[..line_end]);
    if let Some(fault) = diagnose_bytes(line) {
        return fault.into();
    }
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return RequestError::LeadingWhitespace;
    }
    if line == b"PRI * HTTP/2.0" {
        return RequestError::Http2Preface;
    }
    let mut parts = line.split(|&byte| byte == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, parts.next()) else {
        return RequestError::RequestLine;
    };
    if !bytes::is_token(method) || target.is_empty() {
        return RequestError::RequestLine;
    }
    match version {
        b"HTTP/1.1" | b"HTTP/1.0" => {}
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            return RequestError::Version;
        }
        _ => return RequestError::RequestLine,
    }
    if target.iter().any(|byte| !byte.is_ascii_graphic()) {
        return RequestError::TargetCharacter;
    }
    match diagnose_fields(head.get(line_end + 1..).unwrap_or_default()) {
        HeadFault::MalformedHead => RequestError::MalformedHead,
        fault => fault.into(),
    }
}

/// Accessors take the buffer that the head was parsed from; with another one they return empty values.
impl RequestHead {
    /// Bytes of the head in the buffer, a leading empty line included; the body begins after them.
    #[must_use]
    pub fn head_len(&self) -> usize {
        self.head_len
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// The method as sent.
    #[must_use]
    pub fn method_name<'a>(&self, buf: &'a [u8]) -> &'a str {
        self.method_span.text(buf)
    }

    /// The version of the client.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The request target as sent.
    #[must_use]
    pub fn target<'a>(&self, buf: &'a [u8]) -> &'a str {
        self.target.text(buf)
    }

    /// The form of the target.
    #[must_use]
    pub fn target_form(&self) -> TargetForm {
        self.target_form
    }

    /// The path that the origin gets, without the query: `/` where an absolute form had none, `*` for the asterisk form
    /// and for its counterpart, OPTIONS with an absolute form without path and query (RFC 9112 3.2.4).
    #[must_use]
    pub fn path<'a>(&self, buf: &'a [u8]) -> &'a str {
        if self.is_asterisk() {
            return "*";
        }
        match self.path_and_query.text(buf).split('?').next() {
            None | Some("") => "/",
            Some(path) => path,
        }
    }

    /// Whether the target towards the origin is `*`.
    pub(super) fn is_asterisk(&self) -> bool {
        match self.target_form {
            TargetForm::Origin => false,
            TargetForm::Absolute => self.method == Method::Options && self.path_and_query.is_empty(),
            TargetForm::Asterisk => true,
        }
    }

    /// The authority that the request is for, as sent: from the absolute form, else from Host. Empty only where an
    /// HTTP/1.0 request named none.
    #[must_use]
    pub fn authority<'a>(&self, buf: &'a [u8]) -> &'a str {
        self.host.text(buf)
    }

    /// The host of the authority without its port; compare without regard to case.
    #[must_use]
    pub fn host<'a>(&self, buf: &'a [u8]) -> &'a str {
        std::str::from_utf8(split_port(self.host.bytes(buf)).0).unwrap_or_default()
    }

    /// How the body ends; never [`BodyFraming::UntilClose`].
    #[must_use]
    pub fn framing(&self) -> BodyFraming {
        self.framing
    }

    /// Whether the client wants the connection to persist.
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Whether the client waits for a 100 (Continue) before it sends the body.
    #[must_use]
    pub fn expect_continue(&self) -> bool {
        self.expect_continue
    }

    /// The value of a valid Upgrade (one field, nominated, HTTP/1.1). What of it goes on is [`Self::offer`]'s to say.
    #[must_use]
    pub fn upgrade<'a>(&self, buf: &'a [u8]) -> Option<&'a [u8]> {
        self.upgrade.map(|span| span.bytes(buf))
    }

    /// Max-Forwards of an OPTIONS request. Zero: the appliance is the final recipient and answers (RFC 9110 7.6.2).
    #[must_use]
    pub fn max_forwards(&self) -> Option<u64> {
        self.max_forwards
    }

    /// The values of the field lines with this name, in order, in any case.
    pub fn values<'a>(&'a self, buf: &'a [u8], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        values(&self.fields, buf, name)
    }

    /// Number of field lines.
    #[must_use]
    pub fn field_count(&self) -> usize {
        self.fields.len()
    }

    /// What the response's framing depends on. `upgrade`: the value of the Upgrade field that was passed on, empty for none.
    #[must_use]
    pub fn exchange<'a>(&self, upgrade: &'a [u8]) -> Exchange<'a> {
        Exchange { method: self.method, client_version: self.version, client_keep_alive: self.keep_alive, upgrade }
    }
}
