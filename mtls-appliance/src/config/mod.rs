//! The configuration: what the operator typed becomes values that are valid by type.
//!
//! `keys` is the one table of what may be written, `form` the kinds of value, `document` the file as typed, and `parse`
//! turns it into [`Config`] and reports **every** mistake at once with key, value and remedy. Nothing here opens a
//! socket, reads a key or touches the kernel: certificate files are read by [`crate::tls`], the registry by
//! [`crate::registry`].

pub(crate) mod document;
mod form;
mod keys;
mod mistakes;
mod parse;
mod reference;
mod sites;
#[cfg(test)]
pub(crate) mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use mtls_appliance_common::Reason;

use crate::identity::HeaderTemplate;

pub use mistakes::{Mistake, Mistakes};
pub use reference::reference;

/// Largest configuration file that is read, in bytes.
pub const FILE_LIMIT: u64 = 1 << 20;

/// Reads and checks the configuration file.
///
/// # Errors
/// Every mistake in the file, or the one reason why it cannot be read.
pub fn load(path: &Path) -> Result<Config, Mistakes> {
    let text = document::read_text(path, FILE_LIMIT, "--config")?;
    parse::parse(path, &text)
}

/// A network interface's name, as in `guard.interfaces`.
///
/// # Errors
/// Why it is none.
pub fn interface_name(text: &str) -> Result<String, String> {
    form::INTERFACE.of(text)
}

/// A valid configuration. Paths are absolute (relative ones were resolved against the file's folder).
#[derive(Debug, Clone)]
pub struct Config {
    /// The file this came from.
    pub path: PathBuf,
    /// `[listener]`.
    pub listener: Listener,
    /// `[tls]`: towards the callers.
    pub tls: ServerTls,
    /// `[origin]` and every `[origins.NAME]`; at least one. Sites and routes name them by index.
    pub origins: Vec<Origin>,
    /// Every `[sites.NAME]`; without any, one that takes every name and leads to `[origin]`.
    pub sites: Vec<Site>,
    /// `[resolver]`.
    pub resolver: Resolver,
    /// `[identity]`.
    pub identity: Identity,
    /// `[offload] mode`.
    pub offload: OffloadMode,
    /// `[offload] hand_over_from`: bytes; 0 when sessions are handed over with the handshake.
    pub hand_over_from: u64,
    /// `[offload] splice_from`: bytes; `u64::MAX` when bodies are never spliced.
    pub splice_from: u64,
    /// `[guard]`; `None` when the file has no such table.
    pub guard: Option<Guard>,
    /// `[registry]` files.
    pub registry_files: Vec<PathBuf>,
    /// `[control] socket`.
    pub control_socket: PathBuf,
    /// `[limits]`.
    pub limits: Limits,
    /// `[timeouts]`.
    pub timeouts: Timeouts,
    /// `[log] file`; `None` means standard output.
    pub log_file: Option<PathBuf>,
}

/// Where callers connect.
#[derive(Debug, Clone)]
pub struct Listener {
    /// At least one, no duplicates.
    pub addresses: Vec<SocketAddr>,
    /// Worker threads; default: the number of CPUs the process may use.
    pub workers: usize,
}

/// TLS towards the callers.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// PEM chain, leaf first.
    pub certificate: PathBuf,
    /// PEM private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
    /// PEM bundles; at least one.
    pub client_ca: Vec<PathBuf>,
    /// Oldest TLS version that is accepted.
    pub minimum_version: TlsVersion,
    /// Which extended key usage a client certificate needs.
    pub client_eku: ClientEku,
}

/// A TLS version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

/// The extended key usage demanded of a client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientEku {
    /// `client-auth`: clientAuth, or no extended key usage extension at all (RFC 5280 4.2.1.12).
    ClientAuth,
    /// `server-auth-too`: serverAuth-only certificates are accepted as well.
    ServerAuthToo,
}

/// API servers that are alike, behind the appliance.
#[derive(Debug, Clone)]
pub struct Origin {
    /// NAME of `[origins.NAME]`; [`Origin::DEFAULT`] for `[origin]`.
    pub name: String,
    /// Its table, as reports name it: `origin` or `origins.NAME`.
    pub table: String,
    /// Where they listen; at least one.
    pub servers: Vec<OriginServer>,
    /// Name sent as SNI and, with [`OriginVerify::Ca`], looked for in the certificate. DNS name or IP address.
    pub server_name: String,
    /// The appliance's own client certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// How the origin's certificate is checked.
    pub verify: OriginVerify,
    /// Oldest TLS version that is accepted.
    pub minimum_version: TlsVersion,
    /// Who may use a connection again.
    pub pool: PoolMode,
    /// Idle connections kept per client identity, address and worker.
    pub idle_per_identity: usize,
    /// Connections at once to each address.
    pub connections: usize,
    /// Requests that may wait for a connection to one address.
    pub queue: usize,
    /// How long they wait.
    pub queue_timeout: Duration,
    /// TCP and TLS; the default is [`Timeouts::connect`].
    pub connect_timeout: Duration,
    /// End of the request to the head of the response; the default is [`Timeouts::response`].
    pub response_timeout: Duration,
    /// Failures in a row after which an address gets no requests for a while; 0: never.
    pub eject_after: u32,
    /// How long it gets none.
    pub eject_for: Duration,
    /// Active checks.
    pub health: Option<HealthCheck>,
}

impl Origin {
    /// The name of `[origin]`.
    pub const DEFAULT: &'static str = "default";
}

/// One place where an API server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginServer {
    /// Address or name.
    pub host: OriginHost,
    /// TCP port.
    pub port: u16,
    /// Share of the requests, relative to the others'; from 1.
    pub weight: u32,
}

impl std::fmt::Display for OriginServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            OriginHost::Address(ip) => write!(f, "{}", SocketAddr::new(*ip, self.port)),
            OriginHost::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// What an origin server is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginHost {
    /// Always the same.
    Address(IpAddr),
    /// Looked up again and again.
    Name(String),
}

/// Active checks of an origin's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// Target of the GET, in origin form.
    pub path: String,
    /// Between two checks.
    pub interval: Duration,
    /// Of one check.
    pub timeout: Duration,
    /// Failures in a row that take an address out.
    pub fall: u32,
    /// Successes in a row that bring it back.
    pub rise: u32,
}

/// Who may use a connection to the origin again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// The client identity it was opened for, and nobody else.
    PerIdentity,
    /// Every client.
    Shared,
    /// Nobody: one connection for each request.
    Off,
}

/// Names that are served alike.
#[derive(Debug, Clone)]
pub struct Site {
    /// NAME of `[sites.NAME]`, for the log.
    pub name: String,
    /// Its names; at least one, no two sites have one in common.
    pub hosts: Vec<HostPattern>,
    /// Its own server certificate and key.
    pub credentials: Option<(PathBuf, PathBuf)>,
    /// Index of the origin for what no route takes.
    pub origin: usize,
    /// Paths that go elsewhere, longest prefix first.
    pub routes: Vec<Route>,
    /// Protocols that a client may change to, in lower case.
    pub upgrade: Vec<String>,
}

/// Names in a site's `hosts`; in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// This name or address.
    Exact(String),
    /// One label and then this, which begins with a dot.
    Suffix(String),
    /// Every name that no other pattern takes, and no name at all.
    Any,
}

impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// A path prefix and the origin behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Begins with `/`; compared by whole segments.
    pub prefix: String,
    /// Index of the origin.
    pub origin: usize,
}

/// How names of origins are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolver {
    /// DNS servers; `None`: those of the system.
    pub servers: Option<Vec<SocketAddr>>,
    /// Between two look-ups of a name.
    pub interval: Duration,
    /// How long an answer is waited for.
    pub timeout: Duration,
}

/// How the origin's certificate is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginVerify {
    /// By these CA bundles and by name.
    Ca(Vec<PathBuf>),
    /// The leaf's SHA-256 is one of these; neither name nor validity is looked at.
    Pin(Vec<[u8; 32]>),
    /// Not at all; warned about at every start.
    None,
}

/// How the origin is told who calls.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Fields that are injected, in order: presets expanded first, then free ones.
    pub headers: Vec<HeaderTemplate>,
    /// Additional names that are removed from requests, as typed.
    pub remove: Vec<String>,
    /// Whether `X-Forwarded-For` with the caller's address is set (inbound copies are always removed).
    pub forwarded_for: bool,
}

/// Whether sessions go to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffloadMode {
    /// Where the kernel can.
    Auto,
    /// Refuse to start where the kernel cannot; refuse sessions whose cipher it cannot take.
    Required,
    /// Never.
    Off,
}

/// The XDP guard.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Network interface names; at least one, no duplicates.
    pub interfaces: Vec<String>,
    /// Guarded TCP ports; at least one; default: the listener's ports.
    pub ports: Vec<u16>,
    /// Guarded destination addresses; empty: all.
    pub addresses: Vec<IpAddr>,
    /// Where the machine is managed from: nothing from there is dropped.
    pub management: Vec<IpNet>,
    /// Whether packets are dropped.
    pub mode: GuardMode,
    /// Reasons whose packets are passed although they would be dropped.
    pub pass: Vec<Reason>,
    /// SYNs of one source: an IPv4 address or an IPv6 /64.
    pub source_budget: Option<Budget>,
    /// SYNs of one organisation.
    pub organisation_budget: Option<Budget>,
    /// Nothing is dropped once the daemon has been gone for so long; `None`: drops go on without it.
    pub open_after: Option<Duration>,
    /// How it is attached.
    pub attach: AttachMode,
    /// A folder on a BPF file system.
    pub pin_dir: PathBuf,
    /// Sampled drop events per second that reach the log.
    pub log_per_second: u32,
}

/// What the guard does about what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardMode {
    /// Drops.
    Enforce,
    /// Counts what it would drop.
    Observe,
    /// Nothing.
    Off,
}

/// So many a second on average, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Per second.
    pub rate: u32,
    /// At once.
    pub burst: u32,
}

/// How the XDP program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachMode {
    /// Native, generic if the driver cannot; reported.
    Auto,
    /// Native or an error.
    Native,
    /// Generic.
    Generic,
}

/// Upper bounds.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Client connections at once.
    pub connections: usize,
    /// Client connections at once from one source: an IPv4 address or an IPv6 /64.
    pub connections_per_source: usize,
    /// Client connections at once of one organisation.
    pub connections_per_organisation: usize,
    /// Handshakes at once.
    pub handshakes: usize,
    /// Bytes of a request or response head.
    pub head_bytes: usize,
    /// Fields in a head.
    pub head_fields: usize,
    /// Bytes of a request target.
    pub target_bytes: usize,
    /// Bytes of a request body; `u64::MAX` when not limited.
    pub body_bytes: u64,
    /// Bytes per second that a peer must give or take of a body; 0 when any rate is good enough.
    pub body_rate: u64,
    /// Bytes that the kernel may hold of a socket in each direction; 0 when the system decides.
    pub socket_buffer: u64,
    /// Requests served on one client connection.
    pub requests_per_connection: u64,
    /// Records that the kernel sends under one key.
    pub records_per_key: u64,
}

/// Deadlines.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// TCP accept to the end of the TLS handshake.
    pub handshake: Duration,
    /// First byte of a head to its end.
    pub header: Duration,
    /// Between requests on a client connection.
    pub idle: Duration,
    /// Between two advances of a body or of writing it.
    pub body: Duration,
    /// How far a peer may fall behind [`Limits::body_rate`].
    pub body_grace: Duration,
    /// Without a byte in either direction of a tunnel.
    pub tunnel_idle: Duration,
    /// TCP and TLS towards the origin.
    pub connect: Duration,
    /// End of the request to the head of the origin's response.
    pub response: Duration,
    /// How long an unused origin connection is kept.
    pub origin_idle: Duration,
    /// SIGTERM to the forced end.
    pub drain: Duration,
}
