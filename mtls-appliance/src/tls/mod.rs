//! TLS in userspace: rustls configurations for both sides, the checks on certificates, the handshake, and the record
//! layer of sessions that stay out of the kernel.
//!
//! Handing a session to the kernel is [`crate::ktls`]'s job; who the certificate stands for is [`crate::identity`]'s.

pub mod files;
pub mod handshake;
pub mod origin;
pub mod records;
pub mod server;
pub mod session;

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

use crate::config::TlsVersion;

/// The ALPN protocol on both sides.
pub const ALPN: &[u8] = b"http/1.1";

/// The cryptography used everywhere.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

static TLS13_ONLY: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
static TLS12_TOO: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// The rustls versions from `minimum` upwards.
pub fn versions(minimum: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    match minimum {
        TlsVersion::V1_2 => &TLS12_TOO,
        TlsVersion::V1_3 => &TLS13_ONLY,
    }
}
