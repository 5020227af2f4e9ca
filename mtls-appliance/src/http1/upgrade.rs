//! Upgrade (RFC 9110 7.8): which of the protocols that a client asks for go on to the origin, and to which the origin may
//! switch.
//!
//! Which names a site allows is the configuration's choice, what becomes of the bytes of another protocol the shell's.

use super::bytes;
use super::request::RequestHead;

/// Protocols that carry HTTP again: requests inside them would reach the origin unchecked and without the identity block.
const CARRY_HTTP: [&str; 4] = ["h2c", "h2", "http", "tls"];

/// What becomes of a client's Upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// None was asked for, or not in a way that has an effect.
    None,
    /// It ends here, for this reason; the request goes on as an ordinary one.
    Dropped(&'static str),
    /// The value of the Upgrade field for the origin.
    Protocols(Vec<u8>),
}

impl Offer {
    /// The value of the Upgrade field for the origin; empty when it gets none.
    #[must_use]
    pub fn protocols(&self) -> &[u8] {
        match self {
            Self::Protocols(value) => value,
            Self::None | Self::Dropped(_) => &[],
        }
    }
}

impl RequestHead {
    /// What becomes of the Upgrade: of the protocols asked for, those whose names are in `allowed` go on, in their order.
    /// `buf` is the buffer that the head was parsed from.
    ///
    /// With a body none goes on: the origin would have to read it before it may switch, and clients of the protocols that
    /// are meant here send none. Nor with `close`: a connection that ends with the answer carries nothing else.
    #[must_use]
    pub fn offer(&self, buf: &[u8], allowed: &[impl AsRef<str>]) -> Offer {
        let Some(asked) = self.upgrade(buf) else {
            return Offer::None;
        };
        if !self.framing().is_empty() {
            return Offer::Dropped("with_body");
        }
        if !self.keep_alive() {
            return Offer::Dropped("with_close");
        }
        let mut value = Vec::new();
        for protocol in bytes::list(asked).filter(|protocol| is_allowed(protocol, allowed)) {
            if !value.is_empty() {
                value.extend_from_slice(b", ");
            }
            value.extend_from_slice(protocol);
        }
        if value.is_empty() { Offer::Dropped("protocol_not_allowed") } else { Offer::Protocols(value) }
    }
}

/// Why a name cannot be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolNameError {
    /// See RFC 9110 7.8.
    #[error("not the name of a protocol")]
    Syntax,
    /// It carries HTTP.
    #[error("a caller could send requests through it that nobody checks")]
    CarriesHttp,
}

impl ProtocolNameError {
    /// The way out.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Syntax => "give a name without version, as in \"websocket\"",
            Self::CarriesHttp => "take it out of the list; requests are forwarded as HTTP/1.1",
        }
    }
}

/// Whether a name can be allowed at all.
///
/// # Errors
/// Why not.
pub fn check_protocol_name(name: &str) -> Result<(), ProtocolNameError> {
    if !bytes::is_token(name.as_bytes()) {
        Err(ProtocolNameError::Syntax)
    } else if carries_http(name.as_bytes()) {
        Err(ProtocolNameError::CarriesHttp)
    } else {
        Ok(())
    }
}

fn carries_http(name: &[u8]) -> bool {
    CARRY_HTTP.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// `protocol` is a name, or a name and a version.
fn is_allowed(protocol: &[u8], allowed: &[impl AsRef<str>]) -> bool {
    let mut parts = protocol.splitn(2, |&byte| byte == b'/');
    let name = parts.next().unwrap_or_default();
    parts.next().is_none_or(bytes::is_token)
        && bytes::is_token(name)
        && !carries_http(name)
        && allowed.iter().any(|allowed| name.eq_ignore_ascii_case(allowed.as_ref().as_bytes()))
}

/// Whether a 101 switches only to what was offered. Either value is that of an Upgrade field.
pub(super) fn was_offered(switched: &[u8], offered: &[u8]) -> bool {
    bytes::list(switched).all(|protocol| {
        !protocol.is_empty() && bytes::list(offered).any(|offered| protocol.eq_ignore_ascii_case(offered))
    })
}
