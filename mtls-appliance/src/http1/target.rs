//! The request target and the authority (RFC 9112 3.2, RFC 3986). Bytes are judged, nothing is normalised: a path with
//! dot segments reaches the origin as it came, and routing has to treat it accordingly.

use std::net::Ipv6Addr;

use super::bytes;
use super::error::RequestError;
use super::request::Method;

/// The form of a request target that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetForm {
    /// `/path?query`.
    Origin,
    /// `https://host/path?query`; its authority replaces Host (RFC 9112 3.2.2).
    Absolute,
    /// `*`, with OPTIONS only.
    Asterisk,
}

/// A target taken apart; slices of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) form: TargetForm,
    /// Of the absolute form.
    pub(super) authority: Option<&'a [u8]>,
    /// Path and query as they go into the origin form; empty or beginning with `?` where an absolute form had no path.
    pub(super) path_and_query: &'a [u8],
}

impl<'a> Target<'a> {
    pub(super) fn parse(method: Method, target: &'a [u8]) -> Result<Self, RequestError> {
        match target {
            [b'/', ..] => {
                check_path_and_query(target)?;
                Ok(Self { form: TargetForm::Origin, authority: None, path_and_query: target })
            }
            b"*" if method == Method::Options => {
                Ok(Self { form: TargetForm::Asterisk, authority: None, path_and_query: target })
            }
            _ => Self::absolute(target),
        }
    }

    fn absolute(target: &'a [u8]) -> Result<Self, RequestError> {
        let Some(colon) = memchr::memchr(b':', target) else {
            return Err(form_or_characters(target));
        };
        let Some(rest) = target[colon + 1..].strip_prefix(b"//") else {
            return Err(form_or_characters(target));
        };
        let scheme = &target[..colon];
        if !scheme.eq_ignore_ascii_case(b"https") && !scheme.eq_ignore_ascii_case(b"http") {
            return Err(RequestError::TargetScheme);
        }
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        let (authority, path_and_query) = rest.split_at(end);
        check_path_and_query(path_and_query)?;
        Ok(Self { form: TargetForm::Absolute, authority: Some(check_authority(authority)?), path_and_query })
    }
}

/// A target without a form that is served: a hint at characters wins, since it is the narrower reason.
fn form_or_characters(target: &[u8]) -> RequestError {
    if bytes::is_query(target) { RequestError::TargetForm } else { RequestError::TargetCharacter }
}

fn check_path_and_query(target: &[u8]) -> Result<(), RequestError> {
    let mark = memchr::memchr2(b'?', b'#', target).unwrap_or(target.len());
    let (path, query) = target.split_at(mark);
    if bytes::is_path(path) && bytes::is_query(query) {
        return Ok(());
    }
    // The query's table has no `#`, so a fragment lands here.
    Err(if target.contains(&b'#') { RequestError::TargetFragment } else { RequestError::TargetCharacter })
}

/// `uri-host [ ":" port ]`; returned without the colon of an empty port (RFC 3986 6.2.3).
pub(super) fn check_authority(authority: &[u8]) -> Result<&[u8], RequestError> {
    let (host, port) = split_port(authority);
    let valid_host = match host {
        [b'[', address @ .., b']'] => std::str::from_utf8(address).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok()),
        name => bytes::is_host(name),
    };
    if !valid_host {
        return Err(RequestError::InvalidHost);
    }
    match port {
        None => Ok(authority),
        Some([]) => Ok(host),
        Some(digits) if digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) => match bytes::decimal(digits) {
            Some(1..=65535) => Ok(authority),
            _ => Err(RequestError::InvalidHost),
        },
        Some(_) => Err(RequestError::InvalidHost),
    }
}

/// Host and port of an authority; brackets stay on an IPv6 address.
pub(super) fn split_port(authority: &[u8]) -> (&[u8], Option<&[u8]>) {
    let name_end = match authority.first() {
        Some(b'[') => memchr::memchr(b']', authority).map_or(authority.len(), |at| at + 1),
        _ => memchr::memchr(b':', authority).unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at(name_end);
    match rest {
        [] => (host, None),
        [b':', port @ ..] => (host, Some(port)),
        // Anything else after a bracket: no valid host, and the whole is judged as one.
        _ => (authority, None),
    }
}
