//! HTTP/1.1 heads and framing as both ends of the tests read them: strict, and independent of the appliance's parser.
//!
//! What is malformed here is malformed in RFC 9112 too, so an appliance that lets it through is caught. I/O is done by
//! the origin (asynchronous) and by [`crate::harness::Client`] (blocking).

use std::fmt;

/// The most bytes a head may have.
pub const HEAD_LIMIT: usize = 256 * 1024;

/// A request or response head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Request line or status line.
    pub start: String,
    /// Fields in the order received, names as spelled.
    pub fields: Vec<(String, String)>,
}

/// Why a head or a body's framing is not HTTP/1.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed HTTP: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After this many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

impl Head {
    /// Parses what stands before the empty line, each line ended by CR LF.
    ///
    /// # Errors
    /// On anything RFC 9112 does not allow in a head, obs-fold included.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        if start.is_empty() || start.chars().any(char::is_control) {
            return Err(Malformed(format!("start line {start:?}")));
        }
        let mut fields = Vec::new();
        for line in lines.filter(|line| !line.is_empty()) {
            fields.push(field(line)?);
        }
        Ok(Self { start, fields })
    }

    /// The values of every field of that name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The first value of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether a comma-separated field contains a token.
    #[must_use]
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name).flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
    }

    /// The status code of a response.
    ///
    /// # Errors
    /// When the start line is no HTTP/1.1 status line.
    pub fn status(&self) -> Result<u16, Malformed> {
        let bad = || Malformed(format!("status line {:?}", self.start));
        let rest = self.start.strip_prefix("HTTP/1.1 ").ok_or_else(bad)?;
        match rest.as_bytes() {
            [a, b, c, b' ', ..] if [a, b, c].iter().all(|d| d.is_ascii_digit()) => rest[..3].parse().map_err(|_| bad()),
            _ => Err(bad()),
        }
    }

    /// Method and target of a request.
    ///
    /// # Errors
    /// When the start line is no HTTP/1.1 request line.
    pub fn request(&self) -> Result<(&str, &str), Malformed> {
        let bad = || Malformed(format!("request line {:?}", self.start));
        let mut parts = self.start.split(' ');
        let (Some(method), Some(target), Some("HTTP/1.1"), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        if method.is_empty() || target.is_empty() || !method.bytes().all(is_token) {
            return Err(bad());
        }
        Ok((method, target))
    }

    /// How the body of a request with this head ends (RFC 9112 6.3).
    ///
    /// # Errors
    /// On contradictory or unknown framing.
    pub fn request_framing(&self) -> Result<Framing, Malformed> {
        Ok(self.framing()?.unwrap_or(Framing::None))
    }

    /// How the body of the response to a request of `method` ends (RFC 9112 6.3).
    ///
    /// # Errors
    /// On contradictory or unknown framing.
    pub fn response_framing(&self, method: &str) -> Result<Framing, Malformed> {
        let status = self.status()?;
        if method == "HEAD" || status / 100 == 1 || status == 204 || status == 304 {
            return Ok(Framing::None);
        }
        Ok(self.framing()?.unwrap_or(Framing::UntilClose))
    }

    fn framing(&self) -> Result<Option<Framing>, Malformed> {
        let codings: Vec<_> = self.all("Transfer-Encoding").collect();
        let lengths: Vec<_> = self.all("Content-Length").collect();
        match (codings.as_slice(), lengths.as_slice()) {
            ([], []) => Ok(None),
            ([], [length]) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => {
                let length = length.parse().map_err(|_| Malformed(format!("Content-Length {length:?}")))?;
                Ok(Some(Framing::Length(length)))
            }
            ([coding], []) if coding.eq_ignore_ascii_case("chunked") => Ok(Some(Framing::Chunked)),
            _ => Err(Malformed(format!("Transfer-Encoding {codings:?} with Content-Length {lengths:?}"))),
        }
    }
}

/// Parses a chunk's size line, without its CR LF. Extensions are refused: the appliance drops them.
///
/// # Errors
/// When it is not a plain hexadecimal number.
pub fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let bad = || Malformed(format!("chunk size {:?}", String::from_utf8_lossy(line)));
    if line.is_empty() || !line.iter().all(u8::is_ascii_hexdigit) {
        return Err(bad());
    }
    std::str::from_utf8(line).ok().and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or_else(bad)
}

fn field(line: &str) -> Result<(String, String), Malformed> {
    let bad = || Malformed(format!("field line {line:?}"));
    let (name, value) = line.split_once(':').ok_or_else(bad)?;
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(bad());
    }
    let value = value.trim_matches([' ', '\t']);
    if value.chars().any(|c| c.is_ascii_control() && c != '\t') {
        return Err(bad());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// RFC 9110 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Head, Malformed> {
        Head::parse(text.replace('\n', "\r\n").as_bytes())
    }

    #[test]
    fn reads_a_request() {
        let head = head("POST /x HTTP/1.1\nHost: a\nContent-Length: 12\nConnection: close, X-A").unwrap();
        assert_eq!(head.request().unwrap(), ("POST", "/x"));
        assert_eq!(head.request_framing(), Ok(Framing::Length(12)));
        assert!(head.has_token("connection", "x-a"));
    }

    #[test]
    fn refuses_what_an_intermediary_must_not_send() {
        for bad in [
            "GET / HTTP/1.1\nHost : a",
            "GET / HTTP/1.1\nHost: a\n folded",
            "GET / HTTP/1.1\nA\u{0}: b",
            "GET / HTTP/1.1\nA: b\rc",
        ] {
            assert!(head(bad).is_err(), "{bad:?}");
        }
        assert!(head("GET /  HTTP/1.1").unwrap().request().is_err());
        assert!(head("GET / HTTP/1.0").unwrap().request().is_err());
        let both = head("POST / HTTP/1.1\nTransfer-Encoding: chunked\nContent-Length: 1").unwrap();
        assert!(both.request_framing().is_err());
    }

    #[test]
    fn a_response_without_length_ends_with_the_connection_unless_it_has_no_body() {
        let head = head("HTTP/1.1 200 OK\nServer: x").unwrap();
        assert_eq!(head.response_framing("GET"), Ok(Framing::UntilClose));
        assert_eq!(head.response_framing("HEAD"), Ok(Framing::None));
    }

    #[test]
    fn chunk_sizes_are_plain_hexadecimal() {
        assert_eq!(chunk_size(b"1aF"), Ok(0x1af));
        for bad in ["", "+1", "0x1", "1;a=b", "1 ", "fffffffffffffffff"] {
            assert!(chunk_size(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
