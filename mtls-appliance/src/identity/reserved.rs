//! The names that no client may send: whatever could be taken for what the appliance says about the client.
//!
//! Compared folded (see `field_name`), so that no spelling that a back end could mistake gets through. What is done
//! about such a field is [`crate::http1`]'s.

use super::field_name::{NAME_LIMIT, fold, fold_into};

/// Folded beginnings of the well-known names: conventions for client certificates, and what proxies say about the
/// caller's address and scheme.
const FAMILIES: [&[u8]; 10] = [
    b"clientcert",     // RFC 9440 and its chain
    b"forwarded",      // RFC 7239, Forwarded-For and the like
    b"ssl",            // Apache, F5
    b"xamznmtls",      // AWS
    b"xarrclientcert", // Azure
    b"xclientcert",    // free habits
    b"xenvoy",         // Envoy's statements to the next hop
    b"xforwarded",     // Envoy's and Traefik's certificates; addresses, host, port, protocol
    b"xmydataclient",  // preset mydata
    b"xssl",           // nginx, HAProxy
];

/// Folded well-known names that stand alone.
const NAMES: [&str; 37] = [
    "cfconnectingip",
    "cfconnectingipv6",
    "clientaddress",
    "clientdn",
    "clientip",
    "clientverify",
    "fastlyclientip",
    "proxyclientip",
    "remoteaddr",
    "remoteuser",
    "tlsclientcert",
    "trueclientip",
    "wlproxyclientcert",
    "wlproxyclientip",
    "xazureclientip",
    "xazuresocketip",
    "xclientaddress",
    "xclientcn",
    "xclientdn",
    "xclientfingerprint",
    "xclientip",
    "xclientissuer",
    "xclientserial",
    "xclientserialnumber",
    "xclientsubject",
    "xclientverify",
    "xclusterclientip",
    "xoriginalforwardedfor",
    "xoriginalhost",
    "xoriginatingip",
    "xproxyuserip",
    "xrealip",
    "xremoteaddr",
    "xremoteip",
    "xremoteuser",
    "xsubjectserial",
    "xtlsclientcert",
];

/// The names that no client may send.
#[derive(Debug, Clone)]
pub struct ReservedNames {
    /// Sorted, folded.
    names: Box<[Box<[u8]>]>,
    /// A bit for each first letter of a reserved name.
    first: u64,
}

impl Default for ReservedNames {
    fn default() -> Self {
        Self::new([])
    }
}

impl ReservedNames {
    /// The well-known names and families, and these.
    pub fn new<'n>(more: impl IntoIterator<Item = &'n str>) -> Self {
        let mut names: Vec<Box<[u8]>> = NAMES
            .into_iter()
            .chain(more)
            .map(fold)
            .filter(|name| !name.is_empty())
            .collect();
        names.sort_unstable();
        names.dedup();
        let first = names
            .iter()
            .map(|name| &**name)
            .chain(FAMILIES)
            .map(first_bit)
            .fold(0, |all, bit| all | bit);
        Self {
            names: names.into(),
            first,
        }
    }

    /// The well-known names and families, what is injected, and what is to be removed besides.
    #[must_use]
    pub fn for_settings(identity: &crate::config::Identity) -> Self {
        Self::new(
            identity
                .headers
                .iter()
                .map(|header| &*header.name)
                .chain(identity.remove.iter().map(|name| &**name)),
        )
    }

    /// Whether a field of this name must not reach the origin from a client.
    #[must_use]
    pub fn contains(&self, name: &[u8]) -> bool {
        let mut buffer = [0; NAME_LIMIT];
        let (folded, whole) = fold_into(name, &mut buffer);
        if first_bit(folded) & self.first == 0 {
            return false;
        }
        FAMILIES.iter().any(|family| folded.starts_with(family))
            || (whole
                && self
                    .names
                    .binary_search_by(|known| (**known).cmp(folded))
                    .is_ok())
    }
}

/// The bit of a folded name's first letter or digit; none for an empty name.
fn first_bit(folded: &[u8]) -> u64 {
    folded.first().map_or(0, |byte| 1 << (byte & 63))
}
