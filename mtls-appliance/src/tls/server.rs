//! TLS towards the callers: a client certificate is always demanded, must chain to the client CA list **and** must
//! carry a registered subject serialNumber.
//!
//! The registry is asked inside the verifier, so that an unregistered certificate is refused by a TLS alert
//! (`access_denied`) like every other bad certificate. No sessions are resumed and no early data is taken: every
//! connection shows its certificate in a full handshake (RFC 8446 2.3, 8).

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, ServerConfig, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use crate::config::{ClientEku, TlsVersion};
use crate::identity::ClientIdentity;
use crate::proxy::routing::Routing;
use crate::registry::{Organisation, Registry};

/// Checks a client's chain and its registration.
///
/// Used by the handshake, and again for live connections after a reload: trust that was withdrawn reaches them too.
pub struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    roots: RootCertStore,
    eku: ClientEku,
    registry: Arc<Registry>,
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").field("eku", &self.eku).finish_non_exhaustive()
    }
}

/// Why a client certificate was refused, and whose it was; for the log, never for the peer.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Stable name, used as counter and in the log.
    pub reason: &'static str,
    /// Subject in RFC 2253 form, when the certificate could be read.
    pub subject: Option<String>,
}

thread_local! {
    // rustls drops the peer's certificate when a verifier refuses it. A handshake is driven without a pause on one
    // thread, so the refusal is left here for the driver to pick up right after.
    static LAST_REFUSAL: RefCell<Option<Refusal>> = const { RefCell::new(None) };
}

thread_local! {
    // rustls tells the server name only to the certificate resolver.
    static LAST_SERVER_NAME: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Takes the server name (SNI) of the ClientHello that was processed on this thread just now.
pub(super) fn take_server_name() -> Option<String> {
    LAST_SERVER_NAME.with(|cell| cell.borrow_mut().take())
}

/// Our certificates towards callers: a site's own, or the one of all.
#[derive(Debug)]
pub struct EdgeCertificates {
    /// `tls.certificate`.
    pub common: Arc<CertifiedKey>,
    /// By index of the site.
    pub of_sites: Vec<Option<Arc<CertifiedKey>>>,
    /// Which name belongs to which site.
    pub routing: Arc<Routing>,
}

impl ResolvesServerCert for EdgeCertificates {
    /// Also notes which name the caller asked for. A name of no site is refused (RFC 6066 3): whoever asks for it is
    /// in the wrong place.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        LAST_SERVER_NAME.with(|cell| cell.replace(name.map(str::to_owned)));
        let Some(name) = name else {
            return Some(Arc::clone(&self.common));
        };
        let Some(site) = self.routing.site_of(name) else {
            let refusal = Refusal { reason: "unknown_server_name", subject: None };
            LAST_REFUSAL.with(|cell| cell.replace(Some(refusal)));
            return None;
        };
        Some(Arc::clone(self.of_sites.get(site).and_then(Option::as_ref).unwrap_or(&self.common)))
    }
}

/// Takes the refusal that the verifier left on this thread.
pub fn take_refusal() -> Option<Refusal> {
    LAST_REFUSAL.with(|cell| cell.borrow_mut().take())
}

impl ClientVerifier {
    /// A verifier for `roots` and `registry`.
    ///
    /// # Errors
    /// `roots` is empty or holds a name that cannot be used.
    pub fn new(roots: RootCertStore, eku: ClientEku, registry: Arc<Registry>) -> Result<Self, String> {
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), super::provider())
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { chain, roots, eku, registry })
    }

    /// The registry this verifier asks.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Checks chain, validity, purpose and registration of a certificate; says who it is.
    ///
    /// # Errors
    /// The rustls error (which carries the alert) and the reason for the log.
    pub fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(ClientIdentity, Arc<Organisation>), (Error, Refusal)> {
        let refuse = |error: Error, reason| {
            let subject = ClientIdentity::from_chain(std::slice::from_ref(end_entity)).ok();
            (error, Refusal { reason, subject: subject.map(|id| id.subject_dn) })
        };
        if let Err(error) = self.check_chain(end_entity, intermediates, now) {
            let reason = reason(&error);
            return Err(refuse(error, reason));
        }
        let mut chain = Vec::with_capacity(1 + intermediates.len());
        chain.push(end_entity.clone());
        chain.extend_from_slice(intermediates);
        let denied = || Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let identity = match ClientIdentity::from_chain(&chain) {
            Ok(identity) => identity,
            Err(error) => return Err(refuse(denied(), error.reason())),
        };
        let Some(serial_number) = &identity.serial_number else {
            return Err(refuse(denied(), "no_serial_number"));
        };
        match self.registry.by_serial_number(serial_number) {
            Some(organisation) => {
                let organisation = Arc::clone(organisation);
                Ok((identity, organisation))
            }
            None => Err(refuse(denied(), "unregistered_serial_number")),
        }
    }

    fn check_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        match self.chain.verify_client_cert(end_entity, intermediates, now) {
            Ok(_) => Ok(()),
            Err(Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            )) if self.eku == ClientEku::ServerAuthToo => {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                let algorithms = super::provider().signature_verification_algorithms;
                verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms.all)
            }
            Err(error) => Err(error),
        }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.check(end_entity, intermediates, now) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err((error, refusal)) => {
                LAST_REFUSAL.with(|cell| cell.replace(Some(refusal)));
                Err(error)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// The rustls configuration towards callers.
///
/// # Errors
/// The versions and cipher suites do not go together.
pub fn config(
    certificates: EdgeCertificates,
    verifier: Arc<ClientVerifier>,
    minimum: TlsVersion,
    extract_secrets: bool,
) -> Result<ServerConfig, Error> {
    let provider = super::provider();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(super::versions(minimum))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![super::ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.enable_secret_extraction = extract_secrets;
    Ok(config)
}

/// The stable name of a rustls error.
pub fn reason(error: &Error) -> &'static str {
    use CertificateError as C;
    match error {
        Error::NoCertificatesPresented => "no_certificate",
        Error::InvalidCertificate(certificate) => match certificate {
            C::Expired | C::ExpiredContext { .. } => "certificate_expired",
            C::NotValidYet | C::NotValidYetContext { .. } => "certificate_not_yet_valid",
            C::Revoked => "certificate_revoked",
            C::UnknownIssuer => "certificate_unknown_ca",
            C::InvalidPurpose | C::InvalidPurposeContext { .. } => "certificate_wrong_purpose",
            C::NotValidForName | C::NotValidForNameContext { .. } => "certificate_wrong_name",
            C::BadSignature => "certificate_bad_signature",
            C::ApplicationVerificationFailure => "certificate_not_accepted",
            C::BadEncoding => "certificate_malformed",
            _ => "certificate_invalid",
        },
        Error::InvalidMessage(_) => "not_tls",
        Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled)
        | Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered)
        | Error::PeerIncompatible(rustls::PeerIncompatible::SupportedVersionsExtensionRequired) => {
            "tls_version_not_accepted"
        }
        Error::PeerIncompatible(_) => "no_common_parameters",
        Error::PeerMisbehaved(_) | Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "peer_misbehaved"
        }
        Error::AlertReceived(_) => "alert_received",
        Error::NoApplicationProtocol => "no_application_protocol",
        Error::DecryptError => "decrypt_error",
        Error::PeerSentOversizedRecord => "oversized_record",
        _ => "tls_error",
    }
}
