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
        let mut names: Vec<Box<[u8]>> =
            NAMES.into_iter().chain(more).map(fold).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        names.dedup();
        let first = names.iter().map(|name| &**name).chain(FAMILIES).map(first_bit).fold(0, |all, bit| all | bit);
        Self { names: names.into(), first }
    }

    /// The well-known names and families, what is injected, and what is to be removed besides.
    #[must_use]
    pub fn for_settings(identity: &crate::config::Identity) -> Self {
        Self::new(identity.headers.iter().map(|header| &*header.name).chain(identity.remove.iter().map(|name| &**name)))
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
            || (whole && self.names.binary_search_by(|known| (**known).cmp(folded)).is_ok())
    }
}

/// The bit of a folded name's first letter or digit; none for an empty name.
fn first_bit(folded: &[u8]) -> u64 {
    folded.first().map_or(0, |byte| 1 << (byte & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_convention_is_reserved_in_every_spelling() {
        let reserved = ReservedNames::default();
        for name in [
            "Client-Cert",
            "Client-Cert-Chain",
            "X-Forwarded-Client-Cert",
            "X-SSL-Client-Verify",
            "X-SSL-Client-S-DN",
            "X-SSL-Cert",
            "SSL_CLIENT_S_DN",
            "SSL_CLIENT_VERIFY",
            "Ssl-Client-Cert",
            "X-Forwarded-Tls-Client-Cert",
            "X-Forwarded-Tls-Client-Cert-Info",
            "X-Amzn-Mtls-Clientcert-Serial-Number",
            "X-Amzn-Mtls-Clientcert",
            "X-MyData-Client-DN",
            "X-MyData-Client-Anything",
            "X-Client-Cert",
            "X-Client-Cert-DN",
            "X-Client-DN",
            "X-ARR-ClientCert",
            "Forwarded",
            "X-Forwarded-For",
            "X-Forwarded-Proto",
            "X-Forwarded-Host",
            "X-Forwarded-Port",
            "X-Forwarded-Server",
            "X-Real-IP",
            "True-Client-IP",
            "X-Client-IP",
            "CF-Connecting-IP",
        ] {
            let folded = String::from_utf8(fold(name).into_vec()).unwrap();
            for spelling in [
                name.to_owned(),
                name.to_uppercase(),
                name.to_lowercase(),
                name.replace('-', "_"),
                name.replace('-', "."),
                name.replace(['-', '_'], "~"),
                name.replace('-', "--"),
                format!("HTTP_{name}"),
                format!("http-http-{name}"),
                format!("_{name}_"),
                folded,
            ] {
                assert!(reserved.contains(spelling.as_bytes()), "{spelling}");
            }
        }
    }

    #[test]
    fn the_fields_of_ordinary_requests_are_not_reserved() {
        let reserved = ReservedNames::default();
        for name in [
            "Host",
            "Authorization",
            "Content-Length",
            "Content-Type",
            "Transfer-Encoding",
            "Connection",
            "Accept",
            "Accept-Encoding",
            "User-Agent",
            "Cookie",
            "x-api-tran-id",
            "x-api-type",
            "X-Request-Id",
            "X-Client-Version",
            "traceparent",
            "Client-Version",
            "Expect",
            "TE",
            "Via",
            "HTTP2-Settings",
            "Cache-Control",
            "Sec-Fetch-Mode",
            "",
            "-",
            "http",
        ] {
            assert!(!reserved.contains(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn configured_names_are_reserved_exactly_and_folded() {
        let long = "x".repeat(NAME_LIMIT);
        let reserved = ReservedNames::new(["X-Who", "9Lives", "Ünï", "_", &long]);
        for name in ["x-who", "X_WHO", "x.who", "HTTP_X_WHO", "xwho", "9-lives", &long] {
            assert!(reserved.contains(name.as_bytes()), "{name}");
        }
        for name in ["x-who-else", "x-wh", "8lives", "", "_", &format!("{long}x")] {
            assert!(!reserved.contains(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_name_longer_than_any_reserved_one_is_still_found_by_its_family() {
        let reserved = ReservedNames::default();
        assert!(reserved.contains(format!("X-SSL-{}", "a".repeat(5000)).as_bytes()));
        assert!(reserved.contains(format!("{}X-SSL-Cert", "-".repeat(5000)).as_bytes()));
        assert!(reserved.contains(format!("{}X-SSL-Cert", "http-".repeat(1000)).as_bytes()));
        assert!(!reserved.contains("a".repeat(5000).as_bytes()));
    }

    #[test]
    fn the_filter_by_first_letter_never_hides_a_match() {
        // Against the plain comparison, for all one- and two-letter beginnings of a reserved name.
        let all: Vec<Vec<u8>> = (b'0'..=b'z').filter(u8::is_ascii_alphanumeric).map(|byte| vec![byte, b'q']).collect();
        for name in &all {
            let name = std::str::from_utf8(name).unwrap();
            assert!(ReservedNames::new([name]).contains(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn bytes_that_no_field_name_has_do_no_harm() {
        let reserved = ReservedNames::default();
        assert!(!reserved.contains(&[0xff; 300]));
        assert!(reserved.contains(b"X-\xffSSL-\0Cert"));
    }
}
