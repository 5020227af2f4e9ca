//! Field names: which may be injected or removed, and when two of them are one to a back end.
//!
//! CGI, WSGI and their like turn a field name into a variable name and lose the difference between `-`, `_`, `.` and
//! case on the way, some add `HTTP_` in front. So names are compared folded: letters and digits only, lower case, no
//! leading `http`.

use thiserror::Error;

/// Longest name that may be injected or removed, in bytes.
pub const NAME_LIMIT: usize = 64;

/// Folded names that belong to the message itself or to one connection (RFC 9110 7.6.1, RFC 9112 6): whoever injects
/// or removes them breaks the framing or the routing of the request.
const MESSAGE: [&str; 14] = [
    "connection",
    "contentlength",
    "expect",
    "host",
    "keepalive",
    "maxforwards",
    "proxyauthenticate",
    "proxyauthorization",
    "proxyconnection",
    "te",
    "trailer",
    "transferencoding",
    "upgrade",
    "via",
];

/// Why a field name cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FieldNameError {
    /// RFC 9110 5.1: at least one character.
    #[error("a field name cannot be empty")]
    Empty,
    /// Longer than [`NAME_LIMIT`].
    #[error("a field name of more than {NAME_LIMIT} bytes")]
    TooLong,
    /// RFC 9110 5.6.2: not a token.
    #[error("{0:?} is not allowed in a field name")]
    NotAToken(char),
    /// Nothing is left to compare.
    #[error("a field name without a letter or digit")]
    NothingToCompare,
    /// Framing, routing or hop-by-hop.
    #[error("this name, in any spelling, belongs to the message's framing or to a single connection")]
    Message,
}

impl FieldNameError {
    /// The way out.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Empty | Self::TooLong | Self::NothingToCompare => "give a name such as X-Client-DN",
            Self::NotAToken(_) => "use letters, digits and hyphens, as in X-Client-DN",
            Self::Message => "choose a name of your own, such as X-Client-DN",
        }
    }
}

/// Feeds a name's folded bytes to `out`; stops when `out` is full and says so by `false`.
///
/// Leading `http` is dropped as often as it comes.
pub(super) fn fold_into<'o>(name: &[u8], out: &'o mut [u8]) -> (&'o [u8], bool) {
    let mut length = 0;
    for byte in name.iter().filter(|byte| byte.is_ascii_alphanumeric()) {
        let Some(slot) = out.get_mut(length) else {
            return (out, false);
        };
        *slot = byte.to_ascii_lowercase();
        length += 1;
        if length == 4 && out.starts_with(b"http") {
            length = 0;
        }
    }
    (out.get(..length).unwrap_or_default(), true)
}

/// A name's folded form.
pub(super) fn fold(name: &str) -> Box<[u8]> {
    let mut out = vec![0; name.len()];
    fold_into(name.as_bytes(), &mut out).0.into()
}

/// Whether a back end may take two names for one.
#[must_use]
pub fn same_field(a: &str, b: &str) -> bool {
    fold(a) == fold(b)
}

/// Whether a field of this name may be injected.
///
/// # Errors
/// When it is no token (RFC 9110 5.6.2), too long, or belongs to the message itself.
pub fn check_injected_name(name: &str) -> Result<(), FieldNameError> {
    if name.is_empty() {
        return Err(FieldNameError::Empty);
    }
    if name.len() > NAME_LIMIT {
        return Err(FieldNameError::TooLong);
    }
    if let Some(wrong) = name.chars().find(|character| !is_token(*character)) {
        return Err(FieldNameError::NotAToken(wrong));
    }
    let folded = fold(name);
    if folded.is_empty() {
        return Err(FieldNameError::NothingToCompare);
    }
    if MESSAGE.iter().any(|message| message.as_bytes() == &*folded) {
        return Err(FieldNameError::Message);
    }
    Ok(())
}

/// Whether fields of this name may be removed from requests.
///
/// # Errors
/// As for injected names: removing `Content-Length` or `Host` would break the request.
pub fn check_removed_name(name: &str) -> Result<(), FieldNameError> {
    check_injected_name(name)
}

/// RFC 9110 5.6.2 tchar.
fn is_token(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_that_a_back_end_confuses_fold_to_one() {
        for spelling in
            ["X-Client-DN", "x_client_dn", "X.CLIENT.DN", "XClientDN", "HTTP_X_CLIENT_DN", "Http-Http-X-Client-Dn"]
        {
            assert!(same_field(spelling, "x-client-dn"), "{spelling}");
        }
        assert!(!same_field("X-Client-DN", "X-Client-D"));
    }

    #[test]
    fn message_fields_cannot_be_injected_in_any_spelling() {
        for name in
            ["Content-Length", "content_length", "Host", "TE", "Transfer.Encoding", "HTTP_CONNECTION", "Upgrade"]
        {
            assert_eq!(check_injected_name(name), Err(FieldNameError::Message), "{name}");
            assert_eq!(check_removed_name(name), Err(FieldNameError::Message), "{name}");
        }
    }

    #[test]
    fn only_tokens_are_names() {
        for byte in 0..=255_u8 {
            let character = char::from(byte);
            let ok = check_injected_name(&format!("X{character}Y")).is_ok();
            assert_eq!(ok, byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&byte), "{character:?}");
        }
        assert_eq!(check_injected_name(""), Err(FieldNameError::Empty));
        assert_eq!(check_injected_name("-_-"), Err(FieldNameError::NothingToCompare));
        assert_eq!(check_injected_name(&"x".repeat(65)), Err(FieldNameError::TooLong));
    }

    #[test]
    fn folding_says_when_the_name_does_not_fit() {
        let mut small = [0; 4];
        assert_eq!(fold_into(b"ab-cd", &mut small), (&b"abcd"[..], true));
        assert_eq!(fold_into(b"ab-cd-e", &mut small), (&b"abcd"[..], false));
    }
}
