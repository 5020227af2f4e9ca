//! What a header value may be made of: one table of variables, and the facts that they are taken from.

use std::borrow::Cow;
use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::identity::ClientIdentity;
use crate::registry::Organisation;

/// What is known about one client connection beside who opened it.
#[derive(Debug, Clone)]
pub struct Connection {
    client: SocketAddr,
    server: SocketAddr,
    tls_version: &'static str,
    cipher: String,
    server_name: String,
}

impl Connection {
    /// From what the socket and the finished handshake say.
    #[must_use]
    pub fn new(
        client: SocketAddr,
        server: SocketAddr,
        version: rustls::ProtocolVersion,
        suite: rustls::CipherSuite,
        server_name: Option<&str>,
    ) -> Self {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        Self {
            client: canonical(client),
            server: canonical(server),
            tls_version: match version {
                rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2",
                rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3",
                _ => "",
            },
            // IANA's names for TLS 1.3 suites carry no version; rustls' do.
            cipher: suite.as_str().unwrap_or_default().replacen("TLS13_", "TLS_", 1),
            server_name: server_name.unwrap_or_default().to_owned(),
        }
    }

    /// The server name (SNI) that the caller asked for.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        Some(&*self.server_name).filter(|name| !name.is_empty())
    }

    /// The caller's address.
    #[must_use]
    pub fn client(&self) -> SocketAddr {
        self.client
    }
}

/// Everything that a header value can tell.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// From the certificate.
    pub client: &'a ClientIdentity,
    /// From the registry.
    pub organisation: &'a Organisation,
    /// From the socket and the handshake.
    pub connection: &'a Connection,
}

/// A variable of header values, written `${name}`.
pub struct Variable {
    /// What stands between the braces.
    pub name: &'static str,
    /// For the reference.
    pub meaning: &'static str,
    /// Whether its alphabet is fixed and needs no encoding: hexadecimal, Base64, dates, URL-encoding.
    pub(super) plain: bool,
    pub(super) value: fn(Facts<'_>) -> Cow<'_, str>,
}

impl std::fmt::Debug for Variable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "${{{}}}", self.name)
    }
}

const fn text(name: &'static str, meaning: &'static str, value: fn(Facts<'_>) -> Cow<'_, str>) -> Variable {
    Variable { name, meaning, plain: false, value }
}

const fn plain(name: &'static str, meaning: &'static str, value: fn(Facts<'_>) -> Cow<'_, str>) -> Variable {
    Variable { name, meaning, plain: true, value }
}

/// All variables.
pub static VARIABLES: &[Variable] = &[
    text("subject.dn", "the certificate's subject, RFC 2253", |facts| facts.client.subject_dn.as_str().into()),
    text("subject.cn", "the subject's first commonName", |facts| {
        facts.client.common_name.as_deref().unwrap_or_default().into()
    }),
    text("subject.serial_number", "the subject's serialNumber (OID 2.5.4.5), the registered one", |facts| {
        facts.client.serial_number.as_deref().unwrap_or_default().into()
    }),
    text("issuer.dn", "the certificate's issuer, RFC 2253", |facts| facts.client.issuer_dn.as_str().into()),
    plain("certificate.serial", "the certificate's own serial number, upper-case hexadecimal", |facts| {
        facts.client.certificate_serial.as_str().into()
    }),
    plain("certificate.fingerprint", "SHA-256 of the certificate, lower-case hexadecimal", |facts| {
        facts.client.fingerprint_hex().into()
    }),
    plain("certificate.not_before", "start of validity, RFC 3339, UTC", |facts| {
        rfc3339(facts.client.not_before).into()
    }),
    plain("certificate.not_after", "end of validity, RFC 3339, UTC", |facts| rfc3339(facts.client.not_after).into()),
    plain("certificate.der_base64", "the certificate, Base64 of DER", |facts| {
        STANDARD.encode(facts.client.certificate()).into()
    }),
    plain("certificate.pem_urlencoded", "the certificate, URL-encoded PEM", |facts| {
        pem_urlencoded([facts.client.certificate()].into_iter()).into()
    }),
    plain("chain.rfc9440", "the other certificates sent, RFC 9440 list in TLS order; empty if none", |facts| {
        let items: Vec<String> =
            facts.client.intermediates().map(|der| format!(":{}:", STANDARD.encode(der))).collect();
        items.join(", ").into()
    }),
    plain("chain.pem_urlencoded", "all certificates sent, leaf first, URL-encoded PEM", |facts| {
        pem_urlencoded(std::iter::once(facts.client.certificate()).chain(facts.client.intermediates())).into()
    }),
    text("org.code", "the organisation's codes from the registry, joined by `,`", |facts| {
        facts.organisation.codes.join(",").into()
    }),
    text("org.name", "the organisation's name from the registry", |facts| facts.organisation.name.as_str().into()),
    plain("client.address", "the caller's IP address", |facts| facts.connection.client.ip().to_string().into()),
    plain("client.port", "the caller's port", |facts| facts.connection.client.port().to_string().into()),
    plain("server.address", "the IP address that was called", |facts| facts.connection.server.ip().to_string().into()),
    plain("server.port", "the port that was called", |facts| facts.connection.server.port().to_string().into()),
    text("server.name", "the name that the caller asked for (SNI); empty if none", |facts| {
        facts.connection.server_name.as_str().into()
    }),
    plain("tls.version", "`TLSv1.3` or `TLSv1.2`", |facts| facts.connection.tls_version.into()),
    plain("tls.cipher", "IANA name of the cipher suite", |facts| facts.connection.cipher.as_str().into()),
];

/// RFC 3339 in UTC, to the second; empty outside the years 0 to 9999, which X.509 cannot say either.
fn rfc3339(unix_seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(unix_seconds)
        .ok()
        .and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}

/// PEM with everything but RFC 3986 unreserved characters percent-encoded, the habit of nginx and its followers.
fn pem_urlencoded<'a>(certificates: impl Iterator<Item = &'a [u8]>) -> String {
    let mut out = String::new();
    for der in certificates {
        out.push_str("-----BEGIN%20CERTIFICATE-----%0A");
        let body = STANDARD.encode(der);
        for (at, character) in body.chars().enumerate() {
            if at > 0 && at % 64 == 0 {
                out.push_str("%0A");
            }
            match character {
                '+' => out.push_str("%2B"),
                '/' => out.push_str("%2F"),
                '=' => out.push_str("%3D"),
                other => out.push(other),
            }
        }
        out.push_str("%0A-----END%20CERTIFICATE-----%0A");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_rfc_3339_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(253_402_300_799), "9999-12-31T23:59:59Z");
        assert_eq!(rfc3339(i64::MAX), "");
    }

    #[test]
    fn variable_names_are_unique() {
        for (at, variable) in VARIABLES.iter().enumerate() {
            assert!(VARIABLES.iter().skip(at + 1).all(|other| other.name != variable.name), "{}", variable.name);
        }
    }

    #[test]
    fn url_encoded_pem_decodes_to_lines_of_64() {
        let encoded = pem_urlencoded([&[0xfb; 100][..]].into_iter());
        let decoded = encoded
            .replace("%20", " ")
            .replace("%0A", "\n")
            .replace("%2B", "+")
            .replace("%2F", "/")
            .replace("%3D", "=");
        let lines: Vec<&str> = decoded.lines().collect();
        assert_eq!(lines.first(), Some(&"-----BEGIN CERTIFICATE-----"));
        assert_eq!(lines.last(), Some(&"-----END CERTIFICATE-----"));
        let body = &lines[1..lines.len() - 1];
        assert!(body.iter().all(|line| line.len() <= 64));
        assert_eq!(STANDARD.decode(body.concat()).unwrap(), [0xfb; 100]);
    }

    #[test]
    fn an_address_mapped_into_ipv6_is_told_as_ipv4_and_suites_by_their_iana_names() {
        let connection = Connection::new(
            "[::ffff:10.1.2.3]:5000".parse().unwrap(),
            "[::1]:443".parse().unwrap(),
            rustls::ProtocolVersion::TLSv1_3,
            rustls::CipherSuite::TLS13_AES_128_GCM_SHA256,
            None,
        );
        assert_eq!(connection.client().to_string(), "10.1.2.3:5000");
        assert_eq!(connection.cipher, "TLS_AES_128_GCM_SHA256");
    }
}
