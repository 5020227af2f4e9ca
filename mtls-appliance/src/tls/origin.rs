//! TLS towards the origin: our own client certificate, and the origin's certificate checked as configured.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::config::TlsVersion;

/// How the origin's certificate is checked; the loaded form of [`crate::config::OriginVerify`].
#[derive(Debug, Clone)]
pub enum Verify {
    /// By CA and name.
    Ca(RootCertStore),
    /// The leaf's SHA-256 is one of these.
    Pin(Vec<[u8; 32]>),
    /// Not at all.
    None,
}

/// The rustls configuration towards the origin.
///
/// Sessions are not resumed: a resumed session would skip the check of the origin's certificate.
///
/// # Errors
/// The versions and cipher suites do not go together.
pub fn config(
    certified_key: &CertifiedKey,
    verify: Verify,
    minimum: TlsVersion,
    extract_secrets: bool,
) -> Result<ClientConfig, Error> {
    let provider = super::provider();
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(super::versions(minimum))?;
    let builder = match verify {
        Verify::Ca(roots) => builder.with_root_certificates(roots),
        Verify::Pin(pins) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(LeafVerifier { pins: Some(pins), algorithms })),
        Verify::None => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(LeafVerifier { pins: None, algorithms }))
        }
    };
    let mut config = builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified_key.clone())));
    config.alpn_protocols = vec![super::ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_secret_extraction = extract_secrets;
    Ok(config)
}

/// Looks at the leaf alone: at its fingerprint when there are pins. That the origin holds the leaf's key is checked
/// in either case.
struct LeafVerifier {
    pins: Option<Vec<[u8; 32]>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for LeafVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeafVerifier").field("pins", &self.pins.as_ref().map(Vec::len)).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for LeafVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(pins) = &self.pins else {
            return Ok(ServerCertVerified::assertion());
        };
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, end_entity);
        if pins.iter().any(|pin| pin.as_slice() == digest.as_ref()) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
