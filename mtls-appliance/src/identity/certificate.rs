//! The facts of a client's certificate chain.
//!
//! The chain was verified by [`crate::tls`] before it comes here. This module still refuses what two readers could
//! understand in two ways.

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::OID_X509_SERIALNUMBER;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::dn::{self, BadString};

/// Most certificates in a chain.
const CHAIN_LIMIT: usize = 10;
/// Largest certificate, in bytes of DER.
const CERTIFICATE_LIMIT: usize = 16 * 1024;
/// Largest chain, in bytes of DER.
const CHAIN_BYTES_LIMIT: usize = 64 * 1024;

/// Who a client is, by its certificate. Owned: it outlives the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// Subject in RFC 2253 form, UTF-8 kept.
    pub subject_dn: String,
    /// Issuer in RFC 2253 form, UTF-8 kept.
    pub issuer_dn: String,
    /// The first commonName of the subject.
    pub common_name: Option<String>,
    /// The subject's serialNumber (OID 2.5.4.5): what the registry knows. Never the certificate's own number.
    pub serial_number: Option<String>,
    /// The certificate's own serial number, upper-case hexadecimal, as `openssl x509 -serial` prints it.
    pub certificate_serial: String,
    /// SHA-256 of the certificate's DER.
    pub fingerprint: [u8; 32],
    /// Start of validity, Unix seconds.
    pub not_before: i64,
    /// End of validity, Unix seconds.
    pub not_after: i64,
    leaf: Box<[u8]>,
    intermediates: Box<[Box<[u8]>]>,
}

/// Why no identity can be taken from a chain. The caller is to blame, or its CA.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// The chain is empty.
    #[error("no certificate")]
    NoCertificate,
    /// More certificates than are looked at.
    #[error("a chain of {0} certificates; at most {CHAIN_LIMIT} are accepted")]
    ChainTooLong(usize),
    /// More bytes than are looked at.
    #[error("a certificate of {0} bytes; at most {CERTIFICATE_LIMIT} are accepted")]
    CertificateTooLarge(usize),
    /// More bytes than are looked at.
    #[error("a chain of {0} bytes; at most {CHAIN_BYTES_LIMIT} are accepted")]
    ChainTooLarge(usize),
    /// Not X.509.
    #[error("the certificate is not valid X.509: {0}")]
    Malformed(String),
    /// Bytes after the certificate.
    #[error("{0} bytes follow the certificate")]
    TrailingData(usize),
    /// A string in subject or issuer that is not what its type says.
    #[error("{field}, {attribute}: not a valid {kind}")]
    BadString {
        /// `subject` or `issuer`.
        field: &'static str,
        /// Short name or dotted OID.
        attribute: String,
        /// The ASN.1 type.
        kind: &'static str,
    },
    /// Which of them would be the registered one?
    #[error("the subject has {0} serialNumber attributes")]
    AmbiguousSerialNumber(usize),
    /// Not a string.
    #[error("the subject's serialNumber is not a string")]
    SerialNumberNotText,
}

impl IdentityError {
    /// A stable name for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::ChainTooLong(_) | Self::ChainTooLarge(_) | Self::CertificateTooLarge(_) => {
                "certificate_chain_too_large"
            }
            Self::Malformed(_) | Self::TrailingData(_) => "certificate_malformed",
            Self::BadString { .. } => "certificate_name_malformed",
            Self::AmbiguousSerialNumber(_) | Self::SerialNumberNotText => "certificate_serial_number_ambiguous",
        }
    }
}

impl ClientIdentity {
    /// Reads the facts from a chain in TLS order, leaf first.
    ///
    /// # Errors
    /// When the chain is empty or too large, the leaf malformed, a name not decodable, or the subject's serialNumber
    /// given more than once.
    pub fn from_chain(chain: &[CertificateDer<'_>]) -> Result<Self, IdentityError> {
        let (leaf, others) = chain.split_first().ok_or(IdentityError::NoCertificate)?;
        if chain.len() > CHAIN_LIMIT {
            return Err(IdentityError::ChainTooLong(chain.len()));
        }
        if let Some(large) = chain.iter().find(|certificate| certificate.len() > CERTIFICATE_LIMIT) {
            return Err(IdentityError::CertificateTooLarge(large.len()));
        }
        let bytes = chain.iter().map(|certificate| certificate.len()).sum();
        if bytes > CHAIN_BYTES_LIMIT {
            return Err(IdentityError::ChainTooLarge(bytes));
        }
        let (rest, certificate) =
            X509Certificate::from_der(leaf).map_err(|error| IdentityError::Malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(IdentityError::TrailingData(rest.len()));
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest::digest(&digest::SHA256, leaf).as_ref());
        Ok(Self {
            subject_dn: name(certificate.subject(), "subject")?,
            issuer_dn: name(certificate.issuer(), "issuer")?,
            common_name: common_name(certificate.subject())?,
            serial_number: serial_number(certificate.subject())?,
            certificate_serial: serial_hex(certificate.raw_serial()),
            fingerprint,
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            leaf: leaf.as_ref().into(),
            intermediates: others.iter().map(|certificate| certificate.as_ref().into()).collect(),
        })
    }

    /// The fingerprint in lower-case hexadecimal.
    #[must_use]
    pub fn fingerprint_hex(&self) -> String {
        hex(&self.fingerprint, false)
    }

    /// The certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.leaf
    }

    /// The other certificates that the client sent, DER, in TLS order.
    pub fn intermediates(&self) -> impl Iterator<Item = &[u8]> {
        self.intermediates.iter().map(AsRef::as_ref)
    }
}

fn bad_string(field: &'static str) -> impl Fn(BadString) -> IdentityError {
    move |BadString { attribute, kind }| IdentityError::BadString { field, attribute, kind }
}

fn name(name: &X509Name<'_>, field: &'static str) -> Result<String, IdentityError> {
    dn::rfc2253(name).map_err(bad_string(field))
}

fn common_name(subject: &X509Name<'_>) -> Result<Option<String>, IdentityError> {
    match subject.iter_common_name().next() {
        Some(attribute) => dn::text(attribute).map_err(bad_string("subject")),
        None => Ok(None),
    }
}

/// The one serialNumber of the subject. An empty one is none.
fn serial_number(subject: &X509Name<'_>) -> Result<Option<String>, IdentityError> {
    let mut found = subject.iter_by_oid(&OID_X509_SERIALNUMBER);
    let Some(attribute) = found.next() else {
        return Ok(None);
    };
    match found.count() {
        0 => {}
        more => return Err(IdentityError::AmbiguousSerialNumber(1 + more)),
    }
    let text = dn::text(attribute).map_err(bad_string("subject"))?.ok_or(IdentityError::SerialNumberNotText)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// An INTEGER's content as openssl prints it: magnitude in whole bytes, a minus sign in front of a negative one.
fn serial_hex(content: &[u8]) -> String {
    let negative = content.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut magnitude = content.to_vec();
    if negative {
        // Two's complement: invert, add one.
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    let zeros = magnitude.iter().take_while(|byte| **byte == 0).count().min(magnitude.len().saturating_sub(1));
    let digits = hex(magnitude.get(zeros..).unwrap_or_default(), true);
    if negative { format!("-{digits}") } else { digits }
}

/// Two digits a byte.
pub(super) fn hex(bytes: &[u8], upper: bool) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .map(|digit| if upper { digit.to_ascii_uppercase() } else { digit })
        .collect()
}
