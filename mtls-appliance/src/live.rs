//! What a reload replaces in one step: the configuration and everything loaded because of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::{ParsedCertificate, ServerConfig};
use rustls::sign::CertifiedKey;
use serde::Serialize;

use mtls_appliance_common::Reason;

use crate::config::{
    Config, Guard, GuardMode, HostPattern, Mistakes, OffloadMode, Origin, OriginVerify, PoolMode, Site,
};
use crate::http1::{ChunkDecoder, ChunkLimits, HeadLimits};
use crate::identity::{ClientIdentity, ReservedNames};
use crate::proxy::routing::Routing;
use crate::proxy::upstream::Upstream;
use crate::registry;
use crate::tls::files::{self, Credentials, Setting};
use crate::tls::origin::Verify;
use crate::tls::server::{ClientVerifier, EdgeCertificates};
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
    /// Which names and paths lead where.
    pub routing: Arc<Routing>,
    /// In the order of [`Config::origins`].
    pub origins: Vec<Arc<Upstream>>,
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
    pub key: String,
    /// The file.
    pub file: PathBuf,
    /// Subject in RFC 2253 form.
    pub subject: String,
    /// End of validity, Unix seconds.
    pub not_after: i64,
}

impl Live {
    /// Loads everything the configuration names; what was learnt about origins is taken over from `before`.
    ///
    /// # Errors
    /// Every mistake in the files.
    pub fn load(config: Config, before: Option<&Self>) -> Result<Self, Mistakes> {
        let mut loader = Loader::new(&config);
        let routing = Arc::new(Routing::new(config.sites.clone()));
        let registry = registry::load(&config.registry_files);
        let registry = loader.keep(registry);
        let certificates = loader.edge(&config, &routing);
        let callers = loader.roots("tls.client_ca", &config.tls.client_ca);
        let verifier = match (callers, registry) {
            (Some(callers), Some(registry)) => {
                let verifier = ClientVerifier::new(callers, config.tls.client_eku, Arc::new(registry));
                loader.keep(verifier.map_err(|problem| unusable("tls.client_ca", &config.path, problem))).map(Arc::new)
            }
            _ => None,
        };
        let server_tls = match (certificates, &verifier) {
            (Some(certificates), Some(verifier)) => {
                let minimum = config.tls.minimum_version;
                let made = server::config(certificates, Arc::clone(verifier), minimum, loader.extract);
                let file = &config.tls.certificate;
                loader.keep(made.map_err(|error| unusable("tls.certificate", file, error.to_string())))
            }
            _ => None,
        };
        loader.warnings.extend(config.guard.as_ref().and_then(guard_warning));
        let known = |name: &str| before.and_then(|live| live.origins.iter().find(|known| known.config.name == name));
        let origins: Vec<Option<Upstream>> =
            config.origins.iter().map(|origin| loader.origin(origin, known(&origin.name).map(Arc::as_ref))).collect();
        let Loader { mistakes, warnings, certificates, .. } = loader;
        match (verifier, server_tls, origins.into_iter().collect::<Option<Vec<_>>>()) {
            (Some(verifier), Some(server_tls), Some(origins)) if mistakes.is_empty() => Ok(Self {
                generation: before.map_or(0, |live| live.generation) + 1,
                server_tls: Arc::new(server_tls),
                verifier,
                routing,
                origins: origins.into_iter().map(Arc::new).collect(),
                reserved: Arc::new(ReservedNames::for_settings(&config.identity)),
                certificates,
                warnings,
                config,
            }),
            _ => Err(mistakes),
        }
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

/// Reads the files that a configuration names, and keeps what was found out on the way.
struct Loader {
    now: SystemTime,
    /// Sessions may go to the kernel.
    extract: bool,
    mistakes: Mistakes,
    warnings: Vec<String>,
    certificates: Vec<CertificateStatus>,
}

impl Loader {
    fn new(config: &Config) -> Self {
        Self {
            now: SystemTime::now(),
            extract: config.offload != OffloadMode::Off,
            mistakes: Mistakes::default(),
            warnings: Vec::new(),
            certificates: Vec::new(),
        }
    }

    fn keep<T>(&mut self, outcome: Result<T, Mistakes>) -> Option<T> {
        outcome.map_err(|found| self.mistakes.append(found)).ok()
    }

    /// The certificate and key of a table.
    fn credentials(&mut self, table: &str, certificate: &Path, key: &Path) -> Option<Credentials> {
        let (certificate_key, key_key) = (format!("{table}.certificate"), format!("{table}.key"));
        let loaded = files::load_credentials(
            Setting { key: &certificate_key, path: certificate },
            Setting { key: &key_key, path: key },
            self.now,
        );
        let credentials = self.keep(loaded)?;
        self.warnings.extend(credentials.notes.iter().map(ToString::to_string));
        if let Ok(facts) = ClientIdentity::from_chain(&credentials.certified_key.cert) {
            self.certificates.push(CertificateStatus {
                key: certificate_key,
                file: certificate.to_owned(),
                subject: facts.subject_dn,
                not_after: facts.not_after,
            });
        }
        Some(credentials)
    }

    fn edge(&mut self, config: &Config, routing: &Arc<Routing>) -> Option<EdgeCertificates> {
        let common = self.credentials("tls", &config.tls.certificate, &config.tls.key);
        let mut of_sites = Vec::new();
        for site in &config.sites {
            let own = site
                .credentials
                .as_ref()
                .and_then(|(certificate, key)| self.credentials(&format!("sites.{}", site.name), certificate, key));
            let own = own.map(|own| own.certified_key);
            if let Some(used) = own.as_ref().or(common.as_ref().map(|common| &common.certified_key)) {
                self.warnings.extend(uncovered(site, used));
            }
            of_sites.push(own);
        }
        Some(EdgeCertificates { common: common?.certified_key, of_sites, routing: Arc::clone(routing) })
    }

    fn roots(&mut self, key: &str, paths: &[PathBuf]) -> Option<RootCertStore> {
        let loaded = files::load_authorities(key, paths, self.now);
        let authorities = self.keep(loaded)?;
        self.warnings.extend(authorities.notes.iter().map(ToString::to_string));
        let mut roots = RootCertStore::empty();
        for certificate in authorities.certificates {
            let added = roots.add(certificate).map_err(|error| {
                let path = paths.first().map_or(Path::new(""), PathBuf::as_path);
                Mistakes::about_file_of(key, path, error.to_string(), "list certificates of authorities only")
            });
            self.keep(added)?;
        }
        Some(roots)
    }

    fn origin(&mut self, origin: &Origin, before: Option<&Upstream>) -> Option<Upstream> {
        let table = &origin.table;
        let own = self.credentials(table, &origin.certificate, &origin.key);
        let verify = match &origin.verify {
            OriginVerify::Ca(paths) => self.roots(&format!("{table}.ca"), paths).map(Verify::Ca),
            OriginVerify::Pin(pins) => Some(Verify::Pin(pins.clone())),
            OriginVerify::None => {
                self.warnings.push(format!(
                    "{table}.verify = \"none\": whoever can answer at the origin's address is taken for the origin; \
                     use \"ca\" or \"pin\""
                ));
                Some(Verify::None)
            }
        };
        if origin.pool == PoolMode::Shared {
            self.warnings.push(format!(
                "{table}.pool = \"shared\": all clients use the same connections, so an API server that misjudges where \
                 a message ends can give one client's answer to another; \"per-identity\" rules that out"
            ));
        }
        let server_name = ServerName::try_from(origin.server_name.clone()).map_err(|error| {
            let key = format!("{table}.server_name");
            let remedy = "give a DNS name or an IP address";
            Mistakes::about_file_of(&key, Path::new(&origin.server_name), error.to_string(), remedy)
        });
        let server_name = self.keep(server_name);
        let tls = origin::config(&own?.certified_key, verify?, origin.minimum_version, self.extract);
        let tls =
            tls.map_err(|error| unusable(&format!("{table}.certificate"), &origin.certificate, error.to_string()));
        let tls = self.keep(tls)?;
        Some(Upstream::new(origin.clone(), Arc::new(tls), server_name?, before))
    }
}

/// A guard that lets in what it is there to keep out.
fn guard_warning(guard: &Guard) -> Option<String> {
    let unguarded = match guard.mode {
        GuardMode::Enforce if guard.pass.contains(&Reason::UnregisteredSource) => {
            "guard.pass has \"unregistered_source\""
        }
        GuardMode::Enforce => return None,
        GuardMode::Observe => "guard.mode = \"observe\"",
        GuardMode::Off => "guard.mode = \"off\"",
    };
    Some(format!("{unguarded}: packets from unregistered sources reach the listener"))
}

fn unusable(key: &str, path: &Path, problem: String) -> Mistakes {
    Mistakes::about_file_of(key, path, problem, "use a certificate and key that rustls supports")
}

/// A warning for each name of the site that its certificate does not have: callers will refuse it.
fn uncovered(site: &Site, used: &CertifiedKey) -> Vec<String> {
    let leaf = used.cert.first().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
    let Some(leaf) = leaf else { return Vec::new() };
    let example = |host: &HostPattern| match host {
        HostPattern::Exact(name) => Some(name.trim_matches(['[', ']']).to_owned()),
        HostPattern::Suffix(suffix) => Some(format!("any{suffix}")),
        HostPattern::Any => None,
    };
    let is_uncovered = |host: &&HostPattern| {
        let name = example(host).and_then(|name| ServerName::try_from(name).ok());
        name.is_some_and(|name| verify_server_name(&leaf, &name).is_err())
    };
    let warning = |host| {
        format!(
            "sites.{}.hosts: {host} is not a name of the certificate that its callers are shown; give the site a \
             certificate that has it",
            site.name
        )
    };
    site.hosts.iter().filter(is_uncovered).map(warning).collect()
}
