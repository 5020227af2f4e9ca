//! The strictest reading of a head, written for clarity: what the code under test accepts and writes is held against it.

/// A head in parts.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    /// The start line.
    pub(crate) start: &'a [u8],
    /// Names and values, in order.
    pub(crate) fields: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Message<'a> {
    /// Reads a whole head, from the start line to the empty line.
    ///
    /// # Panics
    /// Where it is not strict.
    pub(crate) fn read(head: &'a [u8]) -> Self {
        let mut lines = lines(head);
        assert_eq!(lines.pop(), Some(&b""[..]), "a head ends with an empty line");
        assert!(!lines.is_empty(), "a head begins with a start line");
        let start = lines.remove(0);
        assert!(start.iter().all(|byte| is_value(*byte)), "a start line holds text");
        let fields = lines.into_iter().map(|line| field(line).expect("a field line is strict")).collect();
        Self { start, fields }
    }

    /// The values of the fields of this name.
    pub(crate) fn values(&self, name: &str) -> Vec<&'a [u8]> {
        let named = self.fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()));
        named.map(|(_, value)| *value).collect()
    }

    /// The elements of the Connection fields, in lower case.
    pub(crate) fn connection_options(&self) -> Vec<Vec<u8>> {
        let values = self.values("connection");
        let options = values.iter().flat_map(|value| value.split(|byte| *byte == b','));
        options.map(|option| trim(option).to_ascii_lowercase()).collect()
    }

    /// What Content-Length and Transfer-Encoding say.
    ///
    /// # Panics
    /// Where recipients could differ about it.
    pub(crate) fn framing(&self) -> Framing {
        match (&self.values("content-length")[..], &self.values("transfer-encoding")[..]) {
            ([], []) => Framing::None,
            ([length], []) => {
                assert!(!length.is_empty() && length.iter().all(u8::is_ascii_digit), "a length is digits");
                let digits = std::str::from_utf8(length).expect("digits");
                Framing::Length(digits.parse().expect("a length fits 64 bits"))
            }
            ([], [coding]) => {
                assert!(coding.eq_ignore_ascii_case(b"chunked"), "no coding but chunked");
                Framing::Chunked
            }
            _ => panic!("more than one field about framing"),
        }
    }
}

/// What the fields say about the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// Fields as a person reads them.
pub(crate) fn shown(fields: &[(&[u8], &[u8])]) -> String {
    fields.iter().map(|(name, value)| format!("\n{}: {}", name.escape_ascii(), value.escape_ascii())).collect()
}

/// Lines without their CRLF; none of them holds a CR or LF.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    assert_eq!(lines.pop(), Some(&b""[..]), "the last line ends in LF");
    let mut stripped = Vec::new();
    for line in lines {
        let line = line.strip_suffix(b"\r").expect("every line ends in CRLF");
        assert!(!line.contains(&b'\r'), "no CR within a line");
        stripped.push(line);
    }
    stripped
}

/// A field line in parts; `None` where it is not strict.
pub(crate) fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
    let strict =
        !name.is_empty() && name.iter().all(|byte| is_token(*byte)) && value.iter().all(|byte| is_value(*byte));
    strict.then_some((name, value))
}

/// RFC 9110 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&byte)
}

/// RFC 9110 5.5.
fn is_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Without optional whitespace around it.
pub(crate) fn trim(text: &[u8]) -> &[u8] {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(first) = text.iter().position(|byte| !space(byte)) else { return &[] };
    let last = text.iter().rposition(|byte| !space(byte)).unwrap_or(first);
    &text[first..=last]
}

/// Fields that an intermediary takes for itself or writes anew: none is passed on as it came.
const OWN: [&str; 12] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Whether a field of this name never travels further than to the next hop.
pub(crate) fn is_for_one_hop(name: &[u8]) -> bool {
    OWN.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes()))
}

/// What remains of a field's name in the environment of a CGI program and its like: letters and digits.
pub(crate) fn folded(name: &[u8]) -> String {
    let letters: String =
        name.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(|byte| char::from(*byte)).collect();
    letters.to_ascii_lowercase().trim_start_matches("http").to_owned()
}

/// Whether a back end could take a field of this name for a statement about the caller.
///
/// No more than a sample of the names that are reserved: enough to show a spelling that gets through.
pub(crate) fn could_tell_who_calls(name: &[u8]) -> bool {
    let name = folded(name);
    ["clientcert", "forwarded", "sslclient", "xforwarded", "xmydataclient", "xsslclient"]
        .iter()
        .any(|family| name.starts_with(family))
        || ["xrealip", "remoteuser", "xclientdn"].contains(&&*name)
}
