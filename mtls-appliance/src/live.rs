//! What a reload replaces in one step: the configuration and everything loaded because of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::client::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ServerConfig;
use serde::Serialize;

use crate::config::{Config, Mistakes, OffloadMode, OriginVerify};
use crate::http1::{ChunkDecoder, ChunkLimits, HeadLimits};
use crate::identity::{ClientIdentity, ReservedNames};
use crate::registry;
use crate::tls::files::{self, Setting};
use crate::tls::origin::Verify;
use crate::tls::server::ClientVerifier;
use crate::tls::{origin, server};

/// The configuration in force and what was loaded with it.
pub struct Live {
    /// Rises with every reload that took effect.
    pub generation: u64,
    /// The configuration.
    pub config: Config,
    /// TLS towards callers.
    pub server_tls: Arc<ServerConfig>,
    /// The check of client certificates.
    pub verifier: Arc<ClientVerifier>,
    /// TLS towards the origin.
    pub origin_tls: Arc<ClientConfig>,
    /// The origin's name.
    pub origin_name: ServerName<'static>,
    /// Names that no client may send.
    pub reserved: Arc<ReservedNames>,
    /// Our own certificates.
    pub certificates: Vec<CertificateStatus>,
    /// What an operator should know although it is no mistake.
    pub warnings: Vec<String>,
}

/// One of our own certificates, for `status`.
#[derive(Debug, Clone, Serialize)]
pub struct CertificateStatus {
    /// The configuration key.
    pub key: &'static str,
    /// The file.
    pub file: PathBuf,
    /// Subject in RFC 2253 form.
    pub subject: String,
    /// End of validity, Unix seconds.
    pub not_after: i64,
}

impl Live {
    /// Loads everything the configuration names.
    ///
    /// # Errors
    /// Every mistake in the files.
    pub fn load(config: Config, generation: u64) -> Result<Self, Mistakes> {
        let now = SystemTime::now();
        let mut mistakes = Mistakes::default();
        let mut warnings = Vec::new();
        let mut keep = |found: Mistakes| mistakes.append(found);
        let (tls, origin) = (&config.tls, &config.origin);
        let registry = registry::load(&config.registry_files).map_err(&mut keep).ok();
        let edge = files::load_credentials(
            Setting { key: "tls.certificate", path: &tls.certificate },
            Setting { key: "tls.key", path: &tls.key },
            now,
        );
        let edge = edge.map_err(&mut keep).ok();
        let callers = load_roots("tls.client_ca", &tls.client_ca, now, &mut warnings).map_err(&mut keep).ok();
        let own = files::load_credentials(
            Setting { key: "origin.certificate", path: &origin.certificate },
            Setting { key: "origin.key", path: &origin.key },
            now,
        );
        let own = own.map_err(&mut keep).ok();
        let verify = match &origin.verify {
            OriginVerify::Ca(paths) => load_roots("origin.ca", paths, now, &mut warnings).map(Verify::Ca),
            OriginVerify::Pin(pins) => Ok(Verify::Pin(pins.clone())),
            OriginVerify::None => {
                warnings.push(
                    "origin.verify = \"none\": whoever can answer at the origin's address is taken for the origin; use \
                     \"ca\" or \"pin\""
                        .to_owned(),
                );
                Ok(Verify::None)
            }
        };
        let verify = verify.map_err(&mut keep).ok();
        let origin_name = ServerName::try_from(origin.server_name.clone())
            .map_err(|error| {
                keep(Mistakes::about_file_of(
                    "origin.server_name",
                    Path::new(&origin.server_name),
                    error.to_string(),
                    "give a DNS name or an IP address",
                ));
            })
            .ok();
        let (Some(registry), Some(edge), Some(callers), Some(own), Some(verify), Some(origin_name)) =
            (registry, edge, callers, own, verify, origin_name)
        else {
            return Err(mistakes);
        };

        warnings.extend(edge.notes.iter().chain(&own.notes).map(ToString::to_string));
        let certificates =
            [("tls.certificate", &tls.certificate, &edge), ("origin.certificate", &origin.certificate, &own)]
                .into_iter()
                .filter_map(|(key, file, credentials)| status(key, file, &credentials.certified_key.cert))
                .collect();
        let extract = config.offload != OffloadMode::Off;
        let unusable = |key: &str, path: &Path, problem: String| {
            Mistakes::about_file_of(key, path, problem, "use a certificate and key that rustls supports")
        };
        let verifier = ClientVerifier::new(callers, tls.client_eku, Arc::new(registry))
            .map_err(|problem| unusable("tls.client_ca", &config.path, problem))?;
        let verifier = Arc::new(verifier);
        let server_tls = server::config(edge.certified_key, Arc::clone(&verifier), tls.minimum_version, extract)
            .map_err(|error| unusable("tls.certificate", &tls.certificate, error.to_string()))?;
        let origin_tls = origin::config(&own.certified_key, verify, origin.minimum_version, extract)
            .map_err(|error| unusable("origin.certificate", &origin.certificate, error.to_string()))?;
        Ok(Self {
            generation,
            server_tls: Arc::new(server_tls),
            verifier,
            origin_tls: Arc::new(origin_tls),
            origin_name,
            reserved: Arc::new(ReservedNames::for_settings(&config.identity)),
            certificates,
            warnings,
            config,
        })
    }

    /// Bytes of a connection's read buffer: a whole head, and at least two TLS records.
    pub fn buffer_size(&self) -> usize {
        (self.config.limits.head_bytes + 2).max(32 * 1024)
    }

    /// Limits on request heads.
    pub fn request_limits(&self) -> HeadLimits {
        HeadLimits::from(&self.config.limits)
    }

    /// Limits on the origin's response heads; the length of a response body is the origin's business.
    pub fn response_limits(&self) -> HeadLimits {
        HeadLimits { body_bytes: u64::MAX, ..HeadLimits::from(&self.config.limits) }
    }

    /// A decoder for the chunked body of one request.
    pub fn request_chunks(&self) -> ChunkDecoder {
        ChunkDecoder::new(ChunkLimits { body_bytes: self.config.limits.body_bytes, ..ChunkLimits::default() })
    }

    /// A decoder for the chunked body of one response.
    pub fn response_chunks(&self) -> ChunkDecoder {
        ChunkDecoder::new(ChunkLimits::default())
    }
}

fn load_roots(
    key: &str,
    paths: &[PathBuf],
    now: SystemTime,
    warnings: &mut Vec<String>,
) -> Result<RootCertStore, Mistakes> {
    let authorities = files::load_authorities(key, paths, now)?;
    warnings.extend(authorities.notes.iter().map(ToString::to_string));
    let mut roots = RootCertStore::empty();
    for certificate in authorities.certificates {
        roots.add(certificate).map_err(|error| {
            let path = paths.first().map_or(Path::new(""), PathBuf::as_path);
            Mistakes::about_file_of(key, path, error.to_string(), "list certificates of authorities only")
        })?;
    }
    Ok(roots)
}

fn status(key: &'static str, file: &Path, chain: &[CertificateDer<'static>]) -> Option<CertificateStatus> {
    let facts = ClientIdentity::from_chain(chain).ok()?;
    Some(CertificateStatus { key, file: file.to_owned(), subject: facts.subject_dn, not_after: facts.not_after })
}
